//! The networks of a rig: service, link and management; cut and healed.
//!
//! All ports of the service and management bridges lie in a namespace of their own, so that a network is taken from
//! a host as a pulled cable does it: nothing changes in the host but the carrier. The link is a bare cable between
//! alpha and beta, as two machines would have it.

use super::netns::{self, batch, batch_forced, within_named};
use super::state::Places;
use super::{Host, Result, io_error};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

pub(super) const SERVICE: &str = "eth0";
pub(super) const LINK: &str = "link0";
pub(super) const MANAGEMENT: &str = "mgmt0";
/// The service's own address, whoever serves.
pub(super) const ADDRESS: &str = "10.77.0.100";
pub(super) const ADDRESS6: &str = "fd00:77::100";
pub(super) const PREFIX: u8 = 24;
pub(super) const PREFIX6: u8 = 64;

/// For both ends of a cable that was plugged in to notice.
const CARRIER_MAX: Duration = Duration::from_secs(2);
const CARRIER_POLL: Duration = Duration::from_millis(1);

/// A network that a host is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Service,
    Link,
    Management,
}

/// The last part of a host's addresses on service and management network.
fn number(host: Host) -> u8 {
    match host {
        Host::Client => 1,
        Host::Witness => 9,
        Host::Alpha => 11,
        Host::Beta => 12,
    }
}

pub(super) fn service_address(host: Host) -> String {
    format!("10.77.0.{}", number(host))
}

pub(super) fn management_address(host: Host) -> String {
    match host {
        Host::Alpha => "192.168.78.1".into(),
        Host::Beta => "192.168.78.2".into(),
        h => format!("192.168.78.{}", number(h)),
    }
}

/// Only the pair has one.
pub(super) fn link_address(host: Host) -> &'static str {
    if host == Host::Beta { "192.168.77.2" } else { "192.168.77.1" }
}

/// Does a host have a cable to it?
pub(super) fn is_on(host: Host, network: Network) -> bool {
    match network {
        Network::Service => true,
        Network::Management => host != Host::Client,
        Network::Link => host.peer().is_some(),
    }
}

/// The bridge's end of a host's cable.
fn port(host: Host, network: Network) -> String {
    let prefix = if network == Network::Management { 'm' } else { 's' };
    format!("{prefix}-{host}")
}

/// The bridges' ends of all of a host's cables; those to clients first.
fn ports(host: Host) -> Vec<String> {
    let mut all = vec![port(host, Network::Service)];
    if is_on(host, Network::Management) {
        all.push(port(host, Network::Management));
    }
    all
}

pub(super) fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}

/// Makes all namespaces and networks.
pub(super) fn create(places: &Places) -> Result<()> {
    netns::create(places)?;
    let switch = places.netns_switch();
    let v6 = has_ipv6();
    for name in places.netns_all() {
        let quiet = name == switch;
        within_named(&name, move || if v6 { settings6(quiet) } else { Ok(()) })?;
    }
    let bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
    let mut lines: Vec<String> =
        ["service", "manage"].iter().map(|b| format!("link add {b} {bridge}\nlink set {b} up")).collect();
    lines.extend(Host::ALL.into_iter().flat_map(|h| cables(places, h)));
    batch(&switch, &lines)?;
    let beta = places.netns(Host::Beta);
    batch(&places.netns(Host::Alpha), &[format!("link add {LINK} type veth peer name {LINK} netns {beta}")])?;
    for host in Host::ALL {
        batch(&places.netns(host), &addresses(host, v6))?;
    }
    Host::ALL.into_iter().try_for_each(|h| await_carriers(places, h))
}

/// The network of a dead host, as `create` made it: nothing that was in it is left.
pub(super) fn renew(places: &Places, host: Host) -> Result<()> {
    let (ns, switch, v6) = (places.netns(host), places.netns_switch(), has_ipv6());
    // With its interface goes what a dead engine made on it, in a namespace that the kernel may still keep. An earlier
    // try may have come so far already.
    batch_forced(&switch, &ports(host).iter().map(|p| format!("link del {p}")).collect::<Vec<_>>());
    let mut lines = cables(places, host);
    if is_on(host, Network::Link) {
        // The other host's end is in use.
        batch_forced(&ns, &[format!("link set {LINK} netns {switch}")]);
        lines.push(format!("link set {LINK} netns {ns}"));
    }
    netns::renew(&ns)?;
    within_named(&ns, move || if v6 { settings6(false) } else { Ok(()) })?;
    batch(&switch, &lines)?;
    batch(&ns, &addresses(host, v6))?;
    await_carriers(places, host)
}

/// A host's cables to the bridges. Its cards are the same each time: neighbours know them.
fn cables(places: &Places, host: Host) -> Vec<String> {
    let (ns, number) = (places.netns(host), number(host));
    let mut lines = Vec::new();
    for (network, interface, bridge) in [(Network::Service, SERVICE, "service"), (Network::Management, MANAGEMENT, "manage")] {
        if is_on(host, network) {
            let (p, card) = (port(host, network), network as u8);
            let address = format!("06:77:00:00:{card:02x}:{number:02x}");
            lines.push(format!("link add {p} type veth peer name {interface} address {address} netns {ns}"));
            lines.push(format!("link set {p} master {bridge} up"));
        }
    }
    lines
}

fn addresses(host: Host, v6: bool) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    lines.push(format!("addr add {}/{PREFIX} broadcast + dev {SERVICE}", service_address(host)));
    if v6 {
        lines.push(format!("addr add fd00:77::{}/{PREFIX6} dev {SERVICE} nodad", number(host)));
    }
    lines.push(format!("link set {SERVICE} up"));
    if is_on(host, Network::Management) {
        lines.push(format!("addr add {}/24 broadcast + dev {MANAGEMENT}", management_address(host)));
        lines.push(format!("link set {MANAGEMENT} up"));
    }
    if is_on(host, Network::Link) {
        lines.push(format!("addr add {}/30 dev {LINK}", link_address(host)));
        lines.push(format!("link set {LINK} up"));
    }
    lines
}

/// No waiting for duplicates nobody has, no routers; the switch itself says nothing at all.
fn settings6(quiet: bool) -> io::Result<()> {
    for (name, value) in [
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("dad_transmits", "0"),
        ("disable_ipv6", if quiet { "1" } else { "0" }),
    ] {
        for which in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{which}/{name}"), value)?;
        }
    }
    Ok(())
}

/// The service's address on a host's own interface: for a service that nothing protects.
pub(super) fn give_service_address(places: &Places, host: Host) -> Result<()> {
    let mut lines = vec![format!("addr add {ADDRESS}/{PREFIX} broadcast + dev {SERVICE}")];
    if has_ipv6() {
        lines.push(format!("addr add {ADDRESS6}/{PREFIX6} dev {SERVICE} nodad"));
    }
    batch(&places.netns(host), &lines)
}

/// Takes a network from a host, or gives it back. Done at once: no program is started for it.
pub(super) fn set(places: &Places, host: Host, network: Network, up: bool) -> Result<()> {
    let (netns, interface) = match network {
        Network::Link => (places.netns(host), LINK.to_owned()),
        n => (places.netns_switch(), port(host, n)),
    };
    within_named(&netns, move || set_interface(&interface, up))?;
    if !up {
        return Ok(());
    }
    await_carrier(places, host, network)?;
    if network == Network::Service { unblock_service(places, host) } else { Ok(()) }
}

/// The switch passes nothing of the host's service network any more; the cable's carrier stays.
pub(super) fn block_service(places: &Places, host: Host) -> Result<()> {
    batch(&places.netns_switch(), &[format!("link set {} nomaster", port(host, Network::Service))])
}

fn unblock_service(places: &Places, host: Host) -> Result<()> {
    batch(&places.netns_switch(), &[format!("link set {} master service", port(host, Network::Service))])
}

/// Returns once both ends of a host's cable pass packets: the kernel lets the second end know by a worker of its own.
fn await_carrier(places: &Places, host: Host, network: Network) -> Result<()> {
    let switch = || places.netns_switch();
    let ends = match network {
        Network::Service => [(places.netns(host), SERVICE.to_owned()), (switch(), port(host, network))],
        Network::Management => [(places.netns(host), MANAGEMENT.to_owned()), (switch(), port(host, network))],
        Network::Link => Host::PAIR.map(|h| (places.netns(h), LINK.to_owned())),
    };
    for (netns, interface) in ends {
        within_named(&netns, move || {
            let end = Instant::now() + CARRIER_MAX;
            // An end that was taken down stays silent for good: the other cut is still to be healed.
            while is(&interface, libc::IFF_UP)? && !is(&interface, libc::IFF_RUNNING)? && Instant::now() < end {
                std::thread::sleep(CARRIER_POLL);
            }
            // Waits for the kernel's lock: what the worker does besides is done then, too.
            let up = is(&interface, libc::IFF_UP)?;
            set_interface(&interface, up)
        })?;
    }
    Ok(())
}

fn await_carriers(places: &Places, host: Host) -> Result<()> {
    let all = [Network::Service, Network::Management, Network::Link];
    all.into_iter().filter(|n| is_on(host, *n)).try_for_each(|n| await_carrier(places, host, n))
}

/// All networks, as when the machine is gone.
pub(super) fn unplug(places: &Places, host: Host) -> Result<()> {
    let ports = ports(host);
    within_named(&places.netns_switch(), move || ports.iter().try_for_each(|p| set_interface(p, false)))?;
    if is_on(host, Network::Link) {
        set(places, host, Network::Link, false)?;
    }
    Ok(())
}

fn set_interface(name: &str, up: bool) -> io::Result<()> {
    let (socket, mut request) = interface_flags(name)?;
    // SAFETY: the flags are what SIOCGIFFLAGS left in the union; SIOCSIFFLAGS reads an ifreq with a terminated name.
    unsafe {
        let bit = libc::IFF_UP as libc::c_short;
        if up {
            request.ifr_ifru.ifru_flags |= bit;
        } else {
            request.ifr_ifru.ifru_flags &= !bit;
        }
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn is(name: &str, flag: libc::c_int) -> io::Result<bool> {
    let (_, request) = interface_flags(name)?;
    // SAFETY: the flags are what SIOCGIFFLAGS left in the union.
    Ok(unsafe { request.ifr_ifru.ifru_flags } & flag as libc::c_short != 0)
}

fn interface_flags(name: &str) -> io::Result<(socket2::Socket, libc::ifreq)> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: all-zero is a valid ifreq: plain integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "interface names of a rig are short");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: it takes an ifreq with a terminated name; the kernel writes the flags into it.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((socket, request))
}

/// Before the end of a rig: connections whose process is gone are given up within a second, and with them the
/// namespaces that they would keep for minutes.
pub(super) fn forget_orphans(netns: &File) {
    let _ = netns::within(netns, || {
        fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1")?;
        fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "1")
    });
}

/// Deletes the bridges and with them every cable but the link.
pub(super) fn destroy(places: &Places) {
    let ports: Vec<String> = Host::ALL.into_iter().flat_map(ports).chain(super::slow::ports()).collect();
    let present = |ns: &str| netns::path(ns).exists();
    let switch = places.netns_switch();
    if present(&switch) {
        // Some may not be there: it may have been made in part.
        batch_forced(&switch, &ports.iter().map(|p| format!("link del {p}")).collect::<Vec<_>>());
    }
    let alpha = places.netns(Host::Alpha);
    if present(&alpha) {
        let _ = netns::ip(&["-n", &alpha, "link", "del", LINK], "");
    }
}

/// Is anything listening there? Asked from the client's place.
pub(super) fn accepts(places: &Places, address: std::net::SocketAddr) -> Result<bool> {
    let file = File::open(netns::path(&places.netns(Host::Client))).map_err(io_error("the client's network"))?;
    let tried = netns::within(&file, || {
        Ok(std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(500)).is_ok())
    });
    tried.map_err(io_error("connecting to the service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit() {
        for h in Host::ALL {
            for n in [Network::Service, Network::Management] {
                assert!(port(h, n).len() < libc::IFNAMSIZ);
            }
        }
    }
}
