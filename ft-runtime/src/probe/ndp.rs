//! Asking IPv6 neighbours by neighbour solicitation (RFC 4861, 4.3). The kernel builds the packet around it.

use super::TargetState;
use crate::takeover::address::Mac;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
/// Receivers drop what a router could have passed on.
const HOPS: u32 = 255;
/// `ICMPV6_FILTER` (linux/icmpv6.h): a bit for each type that is not wanted.
const FILTER: libc::c_int = 1;

pub struct Ndp {
    socket: Socket,
    index: u32,
    mac: Mac,
}

impl Ndp {
    pub fn open(interface: &str, index: u32, mac: Mac) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
        let mut filter = [u32::MAX; 8];
        filter[usize::from(ADVERTISEMENT) / 32] &= !(1 << (ADVERTISEMENT % 32));
        // SAFETY: pointer and length are those of `filter`, which the kernel copies.
        let r = unsafe {
            let length = size_of_val(&filter) as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_ICMPV6, FILTER, filter.as_ptr().cast(), length)
        };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_multicast_loop_v6(false)?;
        Ok(Self { socket, index, mac })
    }

    pub fn ask(&self, target: Ipv6Addr) -> io::Result<()> {
        let to = SocketAddrV6::new(solicited_node(target), 0, 0, self.index);
        self.socket.send_to(&solicitation(target, self.mac), &to.into()).map(|_| ())
    }

    /// Marks who has answered.
    pub fn hear(&mut self, targets: &mut [TargetState], packets_max: usize) {
        let mut packet = [0; 128];
        for _ in 0..packets_max {
            let Ok(n) = (&self.socket).read(&mut packet) else { return };
            if let Some(ip) = advertised(&packet[..n])
                && let Some(t) = targets.iter_mut().find(|t| t.address == IpAddr::V6(ip))
            {
                t.answered = true;
            }
        }
    }
}

/// RFC 4291, 2.7.1.
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The kernel fills in the checksum.
fn solicitation(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[SOURCE_LINK_ADDRESS, 1], &mac].concat()
}

fn advertised(message: &[u8]) -> Option<Ipv6Addr> {
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    (message[0] == ADVERTISEMENT).then(|| target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_goes_where_its_target_listens() {
        let target = "fd00:77::12:3456".parse().unwrap();
        assert_eq!(solicited_node(target), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        let mut m = solicitation(target, [2, 0, 0, 0, 0, 7]);
        assert_eq!((m.len(), advertised(&m)), (32, None));
        m[0] = ADVERTISEMENT;
        assert_eq!(advertised(&m), Some(target));
        assert_eq!(advertised(&m[..23]), None);
    }
}
