//! Asking IPv4 neighbours by ARP (RFC 826) who they are: the one question that everything on an Ethernet answers.
//!
//! A target whose hardware address is known is asked alone, as RFC 1122 (2.3.2.1) has it for keeping an entry fresh, so
//! that the rest of the network hears nothing of it; one that does not answer is asked by broadcast.

use super::TargetState;
use crate::takeover::address::{Mac, bind_to_link};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE: u16 = 0x0806;
const HEADER: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Ethernet header and ARP packet.
const FRAME_BYTES: usize = 42;

pub struct Arp {
    link: Socket,
    mac: Mac,
    /// The host's own addresses there, with the lengths of their prefixes.
    own: Vec<(Ipv4Addr, u8)>,
}

impl Arp {
    pub fn open(interface: &str, index: u32) -> io::Result<Self> {
        let link = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        link.attach_filter(&replies_only())?;
        let mac = bind_to_link(&link, index, ETHERTYPE)?;
        Ok(Self { link, mac, own: own_addresses(interface)? })
    }

    pub fn ask(&self, target: Ipv4Addr, known: Option<Mac>) -> io::Result<()> {
        self.link.send(&request(self.mac, self.sender(target), known, target)).map(|_| ())
    }

    /// Marks who has answered.
    pub fn hear(&mut self, targets: &mut [TargetState], frames_max: usize) {
        let mut frame = [0; FRAME_BYTES];
        for _ in 0..frames_max {
            let Ok(n) = (&self.link).read(&mut frame) else { return };
            if let Some((ip, mac)) = reply(&frame[..n])
                && let Some(t) = targets.iter_mut().find(|t| t.address == IpAddr::V4(ip))
            {
                (t.answered, t.mac) = (true, Some(mac));
            }
        }
    }

    /// Our own address in the target's network; else none, as a host that has none yet asks (RFC 5227, 2.1.1).
    fn sender(&self, target: Ipv4Addr) -> Ipv4Addr {
        let same = |(ip, prefix): &(Ipv4Addr, u8)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
            ip.to_bits() & mask == target.to_bits() & mask
        };
        self.own.iter().find(|a| same(a)).map_or(Ipv4Addr::UNSPECIFIED, |(ip, _)| *ip)
    }
}

/// On a busy network everybody's questions would fill the socket.
fn replies_only() -> [SockFilter; 4] {
    const OPERATION_AT: u32 = 20;
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    [
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, OPERATION_AT),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(REPLY)),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

fn own_addresses(interface: &str) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let all = nix::ifaddrs::getifaddrs()?.filter(|a| a.interface_name == interface);
    Ok(all
        .filter_map(|a| {
            let ip = a.address?.as_sockaddr_in()?.ip();
            let mask = a.netmask?.as_sockaddr_in()?.ip();
            Some((ip, mask.to_bits().count_ones() as u8))
        })
        .collect())
}

fn request(from: Mac, sender: Ipv4Addr, known: Option<Mac>, target: Ipv4Addr) -> Vec<u8> {
    [
        &known.unwrap_or(BROADCAST)[..],
        &from,
        &ETHERTYPE.to_be_bytes(),
        &HEADER,
        &[0, REQUEST],
        &from,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    ]
    .concat()
}

/// Who answers, and from where.
fn reply(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let arp: &[u8; 28] = frame.get(14..FRAME_BYTES)?.try_into().ok()?;
    if arp[..6] != HEADER || arp[6..8] != [0, REPLY] {
        return None;
    }
    Some((Ipv4Addr::new(arp[14], arp[15], arp[16], arp[17]), arp[8..14].try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 7];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 9];

    fn ip(s: &str) -> Ipv4Addr {
        s.parse().unwrap()
    }

    #[test]
    fn a_question_is_what_the_standard_says() {
        let hex: String = request(OURS, ip("10.1.2.3"), None, ip("10.1.2.9")).iter().map(|b| format!("{b:02x}")).collect();
        let want = "ffffffffffff 020000000007 0806 0001 0800 06 04 0001 020000000007 0a010203 000000000000 0a010209";
        assert_eq!(hex, want.replace(' ', ""));
        assert_eq!(request(OURS, ip("10.1.2.3"), Some(THEIRS), ip("10.1.2.9"))[..6], THEIRS);
    }

    #[test]
    fn only_answers_are_answers() {
        let mut frame = request(THEIRS, ip("10.1.2.9"), Some(OURS), ip("10.1.2.3"));
        assert_eq!(reply(&frame), None);
        frame[21] = REPLY;
        assert_eq!(reply(&frame), Some((ip("10.1.2.9"), THEIRS)));
        assert_eq!(reply(&frame[..41]), None);
        frame[15] = 6;
        assert_eq!(reply(&frame), None);
    }
}
