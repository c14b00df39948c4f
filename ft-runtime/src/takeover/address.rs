//! Telling the network that the service's addresses live here now: ARP, both forms, for IPv4 and unsolicited neighbour
//! advertisements (RFC 4861, 7.2.6) for IPv6, again and again, since one lost announcement is a minute of silence.
//!
//! Frames are built whole and leave by a packet socket: no address needs to be configured, no duplicate address
//! detection is waited for. Must not be fired before the right to send is there.

use crate::gate::lease::MARK;
use super::checksum;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// When to announce, counted from the right to send.
pub const fn schedule() -> [Duration; 6] {
    [
        Duration::ZERO,
        Duration::from_millis(10),
        Duration::from_millis(50),
        Duration::from_millis(200),
        Duration::from_secs(1),
        Duration::from_secs(3),
    ]
}

pub type Mac = [u8; 6];

#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    #[error("cannot announce on interface {interface}: {step} failed: {source}")]
    Interface { interface: String, step: &'static str, source: io::Error },
}

/// The announcements of one takeover.
#[derive(Debug)]
pub struct Announcer {
    /// `None` only while it is dropped.
    link: Option<Socket>,
    frames: Vec<Vec<u8>>,
    /// Since then the schedule runs; `None` before the first.
    start: Option<Instant>,
    done: usize,
}

impl Announcer {
    /// For an interface of this thread's network namespace. `mac` is its own unless another is given.
    pub fn new(interface: &str, addresses: &[IpAddr], mac: Option<Mac>) -> Result<Self, AnnounceError> {
        let interface_name = || interface.to_owned();
        let failed = |step| move |source| AnnounceError::Interface { interface: interface_name(), step, source };
        let index = nix::net::if_::if_nametoindex(interface).map_err(|e| failed("looking it up")(e.into()))?;
        // Protocol 0: it receives nothing.
        let link = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))
            .and_then(|s| s.set_mark(MARK).map(|()| s))
            .map_err(failed("a packet socket"))?;
        let own = bind_to_link(&link, index, 0).map_err(failed("binding to it"))?;
        let mac = mac.unwrap_or(own);
        Ok(Self { link: Some(link), frames: addresses.iter().flat_map(|a| frames(*a, mac)).collect(), start: None, done: 0 })
    }

    /// When to fire next: at once at first, never when all is said.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        schedule().get(self.done).map(|after| self.start.unwrap_or(now) + *after)
    }

    /// Announces everything once. An error leaves the rest of the schedule as it is: a later time may do better.
    pub fn fire(&mut self, now: Instant) -> io::Result<()> {
        let start = *self.start.get_or_insert(now);
        // Times missed are not made up for: the network is told once.
        let passed = schedule().iter().take_while(|after| start + **after <= now).count();
        self.done = passed.max(self.done + 1);
        let mut result = Ok(());
        for frame in &self.frames {
            if let Some(Err(e)) = self.link.as_ref().map(|link| link.send(frame)) {
                result = Err(e);
            }
        }
        result
    }
}

impl Drop for Announcer {
    /// Closing a packet socket waits for every processor to pass a quiescent state, 10 ms and more: not on the engine's
    /// thread.
    fn drop(&mut self) {
        let link = self.link.take();
        // Without a thread it is closed here.
        let _ = std::thread::Builder::new().name("close-packet".into()).spawn(move || drop(link));
    }
}

/// Binds a packet socket; the interface's own address. `ethertype` 0: it receives nothing.
pub fn bind_to_link(link: &Socket, index: u32, ethertype: u16) -> io::Result<Mac> {
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    address.sll_protocol = ethertype.to_be();
    let fd = link.as_raw_fd();
    // SAFETY: the pointer and length are those of `address`, which outlives both calls; the second writes at most
    // `length` bytes to it.
    let r = unsafe {
        match libc::bind(fd, (&raw const address).cast(), length) {
            0 => libc::getsockname(fd, (&raw mut address).cast(), &mut length),
            e => e,
        }
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    if address.sll_halen as usize != size_of::<Mac>() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it isn't an Ethernet interface"));
    }
    Ok(std::array::from_fn(|k| address.sll_addr[k]))
}

/// All that announces one address.
fn frames(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(a) => vec![arp(a, mac, ARP_REQUEST), arp(a, mac, ARP_REPLY)],
        IpAddr::V6(a) => vec![neighbour_advertisement(a, mac)],
    }
}

const BROADCAST: Mac = [0xff; 6];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;

/// Gratuitous: from and about the address. Some listen to one form only, so both are sent.
fn arp(address: Ipv4Addr, mac: Mac, operation: u8) -> Vec<u8> {
    let target = if operation == ARP_REQUEST { [0; 6] } else { BROADCAST };
    let ip = address.octets();
    [
        &BROADCAST[..],
        &mac,
        &[0x08, 0x06],
        &[0, 1, 0x08, 0, 6, 4, 0, operation],
        &mac,
        &ip,
        &target,
        &ip,
    ]
    .concat()
}

/// To all nodes, overriding what they know.
fn neighbour_advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let mut message = [
        &[ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0][..],
        &address.octets(),
        &[TARGET_LINK_ADDRESS, 1],
        &mac,
    ]
    .concat();
    let protocol = libc::IPPROTO_ICMPV6 as u8;
    let sum = checksum::of_segment(address.into(), ALL_NODES.into(), protocol, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = message.len() as u8;
    [
        &[0x33, 0x33, 0, 0, 0, 1][..],
        &mac,
        &[0x86, 0xdd],
        // Hop limit 255: receivers drop what a router could have passed on.
        &[0x60, 0, 0, 0, 0, length, protocol, 255],
        &address.octets(),
        &ALL_NODES.octets(),
        &message,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    fn announcer() -> Announcer {
        let link = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
        Announcer { link: Some(link), frames: Vec::new(), start: None, done: 0 }
    }

    #[test]
    fn the_schedule_is_kept() {
        let start = Instant::now();
        let mut a = announcer();
        let mut at = Vec::new();
        let mut now = start;
        while let Some(next) = a.next(now) {
            now = next;
            at.push((now - start).as_millis());
            a.fire(now).unwrap();
        }
        assert_eq!(at, [0, 10, 50, 200, 1000, 3000]);
    }

    #[test]
    fn a_late_engine_announces_once_for_all_it_missed() {
        let start = Instant::now();
        let mut a = announcer();
        a.fire(start).unwrap();
        a.fire(start + Duration::from_millis(700)).unwrap();
        assert_eq!(a.next(start), Some(start + Duration::from_secs(1)));
        a.fire(start + Duration::from_secs(60)).unwrap();
        assert_eq!(a.next(start), None);
    }

    #[test]
    fn frames_are_what_the_standards_say() {
        let f = frames("10.1.2.3".parse().unwrap(), MAC);
        assert_eq!(f.len(), 2);
        let request = "ffffffffffff 020000000007 0806 0001 0800 06 04 0001 020000000007 0a010203 000000000000 0a010203";
        let reply = "ffffffffffff 020000000007 0806 0001 0800 06 04 0002 020000000007 0a010203 ffffffffffff 0a010203";
        assert_eq!(hex(&f[0]), request.replace(' ', ""));
        assert_eq!(hex(&f[1]), reply.replace(' ', ""));

        let f = frames("fd00::64".parse().unwrap(), MAC);
        let [na] = &f[..] else { panic!("one frame") };
        assert_eq!(na.len(), 14 + 40 + 32);
        let body = &na[54..];
        let from = "fd00::64".parse().unwrap();
        assert_eq!(checksum::of_segment(from, "ff02::1".parse().unwrap(), 58, body), 0);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
