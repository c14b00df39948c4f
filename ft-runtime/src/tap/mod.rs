//! The tap: what clients say while nobody listens, kept by the backup and given to the sockets that it takes over.
//!
//! Without it a client that spoke during the outage is heard when its own TCP repeats that, 200 ms after it spoke and
//! later. With it both hosts have one hardware address for the service that no frame ever comes from, so that switches
//! send what is for it to all ports, and the backup hears what the primary hears. Whether the network does that is tried
//! before the service starts ([`flood`]).
//!
//! Laws: the tap never says what was received; that is the log's ([`crate::gate`]). It gives frames back to this host's
//! own kernel, whose TCP takes what is new and drops what isn't. What it can't keep costs time and nothing else.

mod device;
pub mod flood;

use crate::engine::sys;
use crate::gate::namespace::ServiceNet;
use crate::takeover::address::{Mac, bind_to_link};
use device::Device;
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// What is kept is thrown away by generations of this length, when the primary was heard since.
const GENERATION: Duration = Duration::from_millis(50);
/// What was kept so long before the primary was heard last may still not be in the log.
const MARGIN: Duration = Duration::from_millis(20);
/// Kernel memory of each of the two generations.
const MEMORY_BYTES: usize = 32 << 20;
/// One packet that was handed over in a piece, and the headers before it.
const FRAME_BYTES_MAX: usize = 70_000;

#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("service.tap: {step} failed: {source}{}", advice(.source))]
    System { step: &'static str, source: io::Error },
    #[error(
        "service.tap: {listener} hears nothing of what {speaker} sends to {mac}: the network between them does not flood frames for an \
         address that no port has learned, or filters them. Have it flood (on a Linux bridge: `bridge link set dev PORT flood on`), or \
         set service.tap = false on both hosts"
    )]
    Deaf { speaker: String, listener: String, mac: String },
}

fn advice(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => " (the kernel needs CONFIG_TUN, and /dev/net/tun must be there)",
        Some(libc::EPERM | libc::EACCES) => " (it takes root: CAP_NET_ADMIN and CAP_NET_RAW)",
        _ => "",
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> TapError {
    move |source| TapError::System { step, source }
}

/// The hardware address that both hosts' service has: locally administered, made of the service's name.
pub fn shared_mac(service: &str) -> Mac {
    let digest = Sha256::digest(format!("ft tap {service}"));
    [0x02, digest[0], digest[1], digest[2], digest[3], digest[4]]
}

/// Of a host that follows.
pub struct Tap {
    /// What comes is kept by the first; the second has what came before.
    ears: [Ear; 2],
    since: Instant,
    device: Device,
}

/// What a takeover had from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    pub packets: usize,
    pub refused: usize,
}

impl Tap {
    /// Hears what comes to the service's interface, also while its ingress is shut.
    pub fn open(net: &ServiceNet) -> Result<Self, TapError> {
        let entering = failed("entering the service's network namespace");
        let (ears, device) = net
            .within(|| {
                let open = || Ear::open(net.interface()).map_err(failed("a packet socket"));
                let mut ears = [open()?, open()?];
                ears[1].set_open(false).map_err(failed("a filter"))?;
                Ok((ears, Device::create(net.mac()).map_err(failed("making a TAP device"))?))
            })
            .map_err(entering)??;
        Ok(Self { ears, since: Instant::now(), device })
    }

    /// To be called often. `heard_at`: when the primary was heard last.
    pub fn keep(&mut self, now: Instant, heard_at: Instant) -> io::Result<()> {
        let old = now.saturating_duration_since(self.since) >= GENERATION || self.ears[0].is_half_full();
        if !old || heard_at < self.since + MARGIN {
            return Ok(());
        }
        self.ears[1].throw_away()?;
        self.ears[1].set_open(true)?;
        self.ears[0].set_open(false)?;
        self.ears.swap(0, 1);
        self.since = now;
        Ok(())
    }

    /// Everything that was kept, in the order in which it came, to this host's own kernel. The sockets must be live.
    pub fn give_back(self) -> GivenBack {
        let mut done = GivenBack::default();
        let mut frame = vec![0; FRAME_BYTES_MAX];
        for ear in self.ears.iter().rev() {
            while let Some(n) = ear.next(&mut frame) {
                if !is_tcp(&frame[..n]) {
                    continue;
                }
                match self.device.write(&frame[..n]) {
                    Ok(()) => done.packets += 1,
                    Err(_) => done.refused += 1,
                }
            }
        }
        // Closing a packet socket waits for every processor, 10 ms and more: not on the engine's thread.
        let _ = std::thread::Builder::new().name("close-tap".into()).spawn(move || drop(self));
        done
    }
}

/// `struct virtio_net_hdr`: how a packet is still to be cut, and what of its checksum is missing.
const VNET_HEADER_BYTES: usize = 10;
/// `<linux/if_packet.h>`; libc lacks it.
const PACKET_IGNORE_OUTGOING: i32 = 23;
const PACKET_VNET_HDR: i32 = 15;
const ETHERNET_HEADER_BYTES: usize = 14;
/// One after the other; then something else is wrong.
const UNREADABLE_MAX: usize = 1024;
const DISCARDED_AT_ONCE: usize = 64;

/// A packet socket that keeps what comes in the kernel until it is asked for.
struct Ear {
    socket: Socket,
}

impl Ear {
    fn open(interface: u32) -> io::Result<Self> {
        // Protocol 0 until it is bound: it hears no other interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // The kernel doubles it.
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, MEMORY_BYTES as i32 / 2)?;
        bind_to_link(&socket, interface, libc::ETH_P_ALL as u16)?;
        Ok(Self { socket })
    }

    /// Shut, it keeps what it has and hears nothing more.
    fn set_open(&mut self, open: bool) -> io::Result<()> {
        const RETURN: u16 = 6;
        let k = if open { u32::MAX } else { 0 };
        let mut code = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k }];
        let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
        // SAFETY: the kernel copies the program, whose pointer and length are those of `code`.
        let r = unsafe {
            let p = (&raw const program).cast();
            let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, p, size)
        };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn is_half_full(&self) -> bool {
        const SO_MEMINFO: i32 = 55;
        let mut words = [0u32; 9];
        let mut size = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes into `words`.
        let r = unsafe {
            let p = words.as_mut_ptr().cast();
            libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, p, &mut size)
        };
        r == 0 && words[0] as usize > MEMORY_BYTES / 2
    }

    fn throw_away(&self) -> io::Result<()> {
        let mut unreadable = 0;
        let mut byte = [0u8; VNET_HEADER_BYTES];
        let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
        loop {
            // SAFETY: all zeroes is a valid mmsghdr.
            let mut messages: [libc::mmsghdr; DISCARDED_AT_ONCE] = unsafe { std::mem::zeroed() };
            for m in &mut messages {
                m.msg_hdr.msg_iov = &raw mut iov;
                m.msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: all messages share one buffer of which nothing is read; it and the array outlive the call.
            let n = unsafe {
                let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
                let none = std::ptr::null_mut();
                libc::recvmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), DISCARDED_AT_ONCE as u32, flags, none)
            };
            if n < 0 {
                let e = io::Error::last_os_error();
                // Anything else is about one packet, which is gone with it.
                if e.kind() == io::ErrorKind::WouldBlock {
                    return Ok(());
                }
                unreadable += 1;
                if unreadable > UNREADABLE_MAX {
                    return Err(e);
                }
            }
        }
    }

    /// The next packet with its virtio header; none: there is no more.
    fn next(&self, frame: &mut [u8]) -> Option<usize> {
        for _ in 0..UNREADABLE_MAX {
            // SAFETY: initialised bytes are valid as maybe uninitialised ones, and recv writes nothing else into them.
            let room = unsafe { &mut *(std::ptr::from_mut(frame) as *mut [MaybeUninit<u8>]) };
            match self.socket.recv(room) {
                Ok(n) => return Some(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                // About one packet, which is gone with it: its virtio header can't be told.
                Err(e) => tracing::debug!("the tap: a packet can't be read: {e}"),
            }
        }
        None
    }
}

/// A frame behind its virtio header.
fn is_tcp(frame: &[u8]) -> bool {
    const TCP: u8 = libc::IPPROTO_TCP as u8;
    let Some(ethernet) = frame.get(VNET_HEADER_BYTES..) else { return false };
    let Some((header, packet)) = ethernet.split_at_checked(ETHERNET_HEADER_BYTES) else { return false };
    match i32::from(u16::from_be_bytes([header[12], header[13]])) {
        libc::ETH_P_IP => packet.get(9) == Some(&TCP),
        libc::ETH_P_IPV6 => packet.get(6) == Some(&TCP),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_address_is_local_unicast_and_the_services_own() {
        let a = shared_mac("redis");
        assert_eq!(a, shared_mac("redis"));
        assert_ne!(a, shared_mac("redis-2"));
        assert_eq!(a[0] & 3, 2, "locally administered, not a group");
    }

    #[test]
    fn only_tcp_is_given_back() {
        const PACKET: usize = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES;
        let frame = |ethertype: u16, at: usize, protocol| {
            let mut f = vec![0; PACKET + 40];
            f[PACKET - 2..PACKET].copy_from_slice(&ethertype.to_be_bytes());
            f[PACKET + at] = protocol;
            f
        };
        assert!(is_tcp(&frame(0x0800, 9, 6)) && is_tcp(&frame(0x86dd, 6, 6)));
        for other in [frame(0x0800, 9, 17), frame(0x86dd, 6, 58), frame(0x0806, 9, 6), vec![], vec![0; PACKET - 1]] {
            assert!(!is_tcp(&other));
        }
    }
}
