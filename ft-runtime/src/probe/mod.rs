//! Whether clients can be reached from this host: the carrier of the service network's interface, answers of
//! neighbours, and what clients say.
//!
//! All sockets lie in the namespace of the thread that opens the probe: the host's own, where the interface is. What
//! is found is judged in [`judge`]; who serves is decided elsewhere.

mod arp;
mod gateways;
mod in_use;
pub mod judge;
mod ndp;

pub use in_use::in_use;

use crate::failover::event::ServiceNet;
use crate::takeover::address::{Mac, bind_to_link};
use arp::Arp;
use judge::{Judge, Seen};
use ndp::Ndp;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Answers read at one look.
const ANSWERS_MAX: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot probe the service network on {interface}: {step} failed: {source}")]
    Interface { interface: String, step: &'static str, source: io::Error },
}

struct TargetState {
    address: IpAddr,
    /// Since it was asked last.
    answered: bool,
    mac: Option<Mac>,
}

pub struct Probe {
    interface: String,
    /// For questions about the interface.
    control: Socket,
    arp: Option<Arp>,
    ndp: Option<Ndp>,
    targets: Vec<TargetState>,
    clients: bool,
    carrier: bool,
    judge: Judge,
    pace: Duration,
    look_at: Instant,
}

impl Probe {
    /// `targets`: neighbours of which one at least answers as long as clients can be reached; none: the gateways.
    /// `loss`: after so long without evidence the network counts as lost.
    pub fn open(interface: &str, targets: &[IpAddr], loss: Duration) -> Result<Self, ProbeError> {
        let failed = |step| move |source| ProbeError::Interface { interface: interface.into(), step, source };
        let addresses = if targets.is_empty() { gateways::gateways(interface) } else { targets.to_vec() };
        let control = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(failed("a socket"))?;
        let index =
            nix::net::if_::if_nametoindex(interface).map_err(|e| failed("looking it up")(io::Error::from(e)))?;
        let arp = if addresses.iter().any(IpAddr::is_ipv4) {
            Some(Arp::open(interface, index).map_err(failed("a packet socket for ARP"))?)
        } else {
            None
        };
        let ndp = if addresses.iter().any(IpAddr::is_ipv6) {
            let mac = hardware_address(index).map_err(failed("reading its hardware address"))?;
            Some(Ndp::open(interface, index, mac).map_err(failed("a socket for neighbour discovery"))?)
        } else {
            None
        };
        let targets: Vec<TargetState> =
            addresses.into_iter().map(|address| TargetState { address, answered: false, mac: None }).collect();
        Ok(Self {
            interface: interface.into(),
            control,
            arp,
            ndp,
            judge: Judge::new(!targets.is_empty()),
            targets,
            clients: false,
            carrier: true,
            pace: Judge::pace(loss),
            look_at: Instant::now(),
        })
    }

    /// A client said something new.
    pub fn heard_client(&mut self) {
        self.clients = true;
    }

    pub fn deadline(&self) -> Instant {
        self.look_at
    }

    pub fn says(&self) -> ServiceNet {
        self.judge.says()
    }

    /// Looks, if it is time to; what the host goes by from now on, if that is something else than before.
    pub fn look(&mut self, now: Instant) -> Option<ServiceNet> {
        if now < self.look_at {
            return None;
        }
        self.look_at = now + self.pace;
        if let Some(a) = &mut self.arp {
            a.hear(&mut self.targets, ANSWERS_MAX);
        }
        if let Some(n) = &mut self.ndp {
            n.hear(&mut self.targets, ANSWERS_MAX);
        }
        // Not by netlink: its news can be lost, and its answers wait for whoever configures a network this moment.
        self.carrier = has_carrier(&self.control, &self.interface);
        let answer = self.targets.iter().any(|t| t.answered);
        let seen = Seen { carrier: self.carrier, answer, clients: std::mem::take(&mut self.clients) };
        let said = self.judge.look(now, seen);
        self.ask();
        said
    }

    /// A question that can't be sent is one that is not answered.
    fn ask(&mut self) {
        for t in &mut self.targets {
            let known = if t.answered { t.mac } else { None };
            t.answered = false;
            let _ = match (t.address, &self.arp, &self.ndp) {
                (IpAddr::V4(ip), Some(arp), _) => arp.ask(ip, known),
                (IpAddr::V6(ip), _, Some(ndp)) => ndp.ask(ip),
                _ => Ok(()),
            };
        }
    }

    /// What is watched, for people.
    pub fn watches(&self) -> String {
        match self.names() {
            names if names.is_empty() => format!(
                "service network: only the carrier of {} is watched, as it has no gateway; service.probe_targets names \
                 neighbours that answer as long as clients can be reached",
                self.interface
            ),
            names => format!("service network: {} and its neighbours {names} are watched", self.interface),
        }
    }

    /// What is missing, for people.
    pub fn missing(&self) -> String {
        if self.carrier {
            format!("service network: no client is heard on {} and none of {} answers", self.interface, self.names())
        } else {
            format!("service network: {} has no carrier", self.interface)
        }
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.targets.iter().map(|t| t.address.to_string()).collect();
        names.join(", ")
    }
}

/// An interface that is gone has none.
fn has_carrier(socket: &Socket, interface: &str) -> bool {
    // SAFETY: all-zero is a valid ifreq: plain integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: it takes an ifreq with a terminated name, and leaves the flags in its union.
    unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) == 0
            && request.ifr_ifru.ifru_flags & libc::IFF_RUNNING as libc::c_short != 0
    }
}

fn hardware_address(index: u32) -> io::Result<Mac> {
    let link = Socket::new(Domain::PACKET, Type::RAW, Some(socket2::Protocol::from(0)))?;
    bind_to_link(&link, index, 0)
}
