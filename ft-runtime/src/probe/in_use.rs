//! Whether somebody has the service's address already, asked before this host takes it (as RFC 5227, 2.1, and RFC 4862, 5.4,
//! want it). Two owners of an address mean clients that talk to either.

use super::arp::Arp;
use super::ndp::Ndp;
use super::{ANSWERS_MAX, ProbeError, TargetState, hardware_address};
use crate::takeover::address::Mac;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

/// Lost once, a question or its answer is lost three times rarely.
const QUESTIONS: u32 = 3;
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// Why the service's addresses can't be taken, if somebody on the network of `interface`, or this host, has one. Takes 0.3 s
/// if nobody has. To be called in the host's own network.
pub fn in_use(interface: &str, addresses: &[IpAddr]) -> Result<Option<String>, ProbeError> {
    let failed = |step| move |source| ProbeError::Interface { interface: interface.into(), step, source };
    let own = nix::ifaddrs::getifaddrs().map_err(|e| failed("reading this host's addresses")(e.into()))?;
    for a in own {
        let ip = a.address.and_then(|s| {
            let v4 = s.as_sockaddr_in().map(|s| IpAddr::V4(s.ip()));
            v4.or_else(|| s.as_sockaddr_in6().map(|s| IpAddr::V6(s.ip())))
        });
        if let Some(ip) = ip.filter(|ip| addresses.contains(ip)) {
            return Ok(Some(format!(
                "the service's address {ip} is this host's own, on {0}; it must be nobody's: `ip address del {ip} dev {0}`, and \
                 take it out of the host's network configuration",
                a.interface_name
            )));
        }
    }
    let index =
        nix::net::if_::if_nametoindex(interface).map_err(|e| failed("looking it up")(io::Error::from(e)))?;
    let has = |v4| addresses.iter().any(|a| a.is_ipv4() == v4);
    let mut arp =
        has(true).then(|| Arp::open(interface, index)).transpose().map_err(failed("a packet socket for ARP"))?;
    let mac = hardware_address(index).map_err(failed("reading its hardware address"))?;
    let mut ndp = has(false)
        .then(|| Ndp::open(interface, index, mac))
        .transpose()
        .map_err(failed("a socket for neighbour discovery"))?;
    let mut targets: Vec<TargetState> =
        addresses.iter().map(|a| TargetState { address: *a, answered: false, mac: None }).collect();
    for _ in 0..QUESTIONS {
        for t in &targets {
            // What can't be asked is asked again.
            let _ = match (t.address, &arp, &ndp) {
                (IpAddr::V4(ip), Some(arp), _) => arp.ask(ip, None),
                (IpAddr::V6(ip), _, Some(ndp)) => ndp.ask(ip),
                _ => Ok(()),
            };
        }
        thread::sleep(ANSWER_MAX);
        if let Some(a) = &mut arp {
            a.hear(&mut targets, ANSWERS_MAX);
        }
        if let Some(n) = &mut ndp {
            n.hear(&mut targets, ANSWERS_MAX);
        }
        if let Some(t) = targets.iter().find(|t| t.answered) {
            return Ok(Some(format!(
                "the service's address {} is in use: {} answers for it on {interface}. Take it from there, or choose another; \
                 does a primary of this service still run?",
                t.address,
                t.mac.map_or("somebody".into(), shown),
            )));
        }
    }
    Ok(None)
}

fn shown(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
