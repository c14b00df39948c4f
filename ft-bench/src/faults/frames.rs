//! Who sends from the service's address, seen where it can't be denied: at the switch, by the port a frame comes in at.

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket,
};
use nix::sys::time::TimeSpec;
use socket2::{SockFilter, SockRef};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// So much of a frame is looked at: Ethernet, and the network's header.
const FRAME_BYTES: usize = 96;
/// For a burst while this program does not run.
const BUFFER_BYTES: usize = 32 << 20;
const POLL_MS: u8 = 50;
/// The switch's ports are called after their hosts.
const PORT_PREFIX: &str = "s-";

const ETHER_IPV4: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;
const ETHER_HEADER: usize = 14;

/// A frame from the service's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Since 1970, when the switch had it.
    pub at_ns: u64,
    pub by: &'static str,
    /// Its beginning: to tell what it is.
    pub head: [u8; HEAD_BYTES],
}

/// Headers up to TCP's flags.
const HEAD_BYTES: usize = 54;

fn head(frame: &[u8]) -> [u8; HEAD_BYTES] {
    std::array::from_fn(|k| frame.get(k).copied().unwrap_or_default())
}

/// Listens until it is asked what it has heard.
pub struct Capture {
    thread: JoinHandle<io::Result<Vec<Sent>>>,
    done: Arc<AtomicBool>,
}

impl Capture {
    /// At the ports of these hosts of the switch in that network namespace. Returns once it listens.
    pub fn start(namespace: &str, hosts: [&'static str; 2], addresses: Vec<IpAddr>) -> io::Result<Self> {
        let inside = File::open(Path::new("/run/netns").join(namespace))?;
        let done = Arc::new(AtomicBool::new(false));
        let (ready, opened) = channel();
        let flag = done.clone();
        let thread = std::thread::Builder::new().name("capture".into()).spawn(move || {
            let socket = open(&inside, hosts);
            match socket {
                Ok((socket, ports)) => {
                    let _ = ready.send(Ok(()));
                    listen(&socket, ports, &addresses, &flag)
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                    Ok(Vec::new())
                }
            }
        })?;
        opened.recv().map_err(io::Error::other)??;
        Ok(Self { thread, done })
    }

    /// All frames in the order of their times.
    pub fn finish(self) -> io::Result<Vec<Sent>> {
        self.done.store(true, Ordering::Relaxed);
        let mut all = self.thread.join().map_err(|_| io::Error::other("the capture panicked"))??;
        all.sort_by_key(|s| s.at_ns);
        Ok(all)
    }
}

type Ports = [(usize, &'static str); 2];

/// Only this thread enters the namespace, and it ends with the capture.
fn open(namespace: &File, hosts: [&'static str; 2]) -> io::Result<(OwnedFd, Ports)> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut ports = [(0, ""); 2];
    for (port, host) in ports.iter_mut().zip(hosts) {
        *port = (if_nametoindex(format!("{PORT_PREFIX}{host}").as_str())? as usize, host);
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let s = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&s, RcvBufForce, &BUFFER_BYTES)?;
    setsockopt(&s, ReceiveTimestampns, &true)?;
    SockRef::from(&s).attach_filter(&only_incoming())?;
    // What came before that was not filtered: an announcement that the switch sent to the other host looks like that host's.
    while receive(&s)?.is_some() {}
    Ok((s, ports))
}

/// What the switch sends is seen again, at the other port.
fn only_incoming() -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let packet_type = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, packet_type),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, libc::PACKET_OUTGOING.into()),
        SockFilter::new(RETURN, 0, 0, FRAME_BYTES as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn listen(socket: &OwnedFd, ports: Ports, addresses: &[IpAddr], done: &AtomicBool) -> io::Result<Vec<Sent>> {
    let mut all = Vec::new();
    loop {
        // Asked first: what was there before is still taken.
        let last = done.load(Ordering::Relaxed);
        while let Some((frame, at_ns, interface)) = receive(socket)? {
            let by = ports.iter().find(|p| p.0 == interface);
            if let Some((_, by)) = by
                && source(&frame).is_some_and(|s| addresses.contains(&s))
            {
                all.push(Sent { at_ns, by, head: head(&frame) });
            }
        }
        if last {
            break;
        }
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(POLL_MS)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match dropped(socket)? {
        0 => Ok(all),
        n => Err(io::Error::other(format!("{n} frames came faster than they were looked at"))),
    }
}

/// A frame's beginning, when it came, and the interface it came in at; `None`: there is none now.
fn receive(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, u64, usize)>> {
    let mut buffer = [0; FRAME_BYTES];
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let got = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
        Ok(got) => got,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        // An interface of the namespace went down; frames of others come on.
        Err(nix::errno::Errno::ENETDOWN | nix::errno::Errno::EINTR) => return Ok(Some((Vec::new(), 0, 0))),
        Err(e) => return Err(e.into()),
    };
    let at = got.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::ScmTimestampns(t) => Some(t),
        _ => None,
    });
    let at = at.ok_or_else(|| io::Error::other("a frame without a time"))?;
    let interface = got.address.map_or(0, |a| a.ifindex());
    let bytes = got.bytes;
    let at_ns = at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64;
    Ok(Some((buffer[..bytes].to_vec(), at_ns, interface)))
}

fn dropped(socket: &OwnedFd) -> io::Result<u32> {
    // SAFETY: two integers: zeros are a value.
    let mut s: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&s) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, into `s`.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut s).cast(),
            &raw mut size,
        )
    };
    if r == 0 { Ok(s.tp_drops) } else { Err(io::Error::last_os_error()) }
}

/// Whom a frame says it is from; for address resolution, whom it speaks for.
fn source(frame: &[u8]) -> Option<IpAddr> {
    const ARP_SENDER: usize = ETHER_HEADER + 14;
    const IPV4_SOURCE: usize = ETHER_HEADER + 12;
    const IPV6_SOURCE: usize = ETHER_HEADER + 8;
    const IPV6_PROTOCOL: usize = ETHER_HEADER + 6;
    const ICMPV6: u8 = 58;
    const ICMPV6_HEADER: usize = ETHER_HEADER + 40;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        ETHER_ARP => v4(ARP_SENDER),
        ETHER_IPV4 => v4(IPV4_SOURCE),
        ETHER_IPV6 => {
            let kind = (*frame.get(IPV6_PROTOCOL)? == ICMPV6).then(|| frame.get(ICMPV6_HEADER)).flatten();
            // Its target is the address that it speaks for, whatever its source.
            if kind == Some(&NEIGHBOUR_ADVERTISEMENT) { v6(ICMPV6_HEADER + 8) } else { v6(IPV6_SOURCE) }
        }
        _ => None,
    }
}

/// An unbroken row of frames of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub by: &'static str,
    pub first_ns: u64,
    pub last_ns: u64,
    pub frames: u64,
    pub head: [u8; HEAD_BYTES],
}

/// Frames in the order of their times.
pub fn turns(sent: &[Sent]) -> Vec<Turn> {
    let mut all: Vec<Turn> = Vec::new();
    for s in sent {
        match all.last_mut().filter(|t| t.by == s.by) {
            Some(t) => {
                t.last_ns = s.at_ns;
                t.frames += 1;
            }
            None => all.push(Turn { by: s.by, first_ns: s.at_ns, last_ns: s.at_ns, frames: 1, head: s.head }),
        }
    }
    all
}

/// Nobody speaks again after another one has spoken; why that does not hold.
pub fn two_senders(turns: &[Turn]) -> Option<String> {
    let (k, again) = turns.iter().enumerate().find(|(k, t)| turns[..*k].iter().any(|e| e.by == t.by))?;
    let between = &turns[k - 1];
    let hex = |t: &Turn| t.head.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Some(format!(
        "{} sent {} frames from the service's address, the first {:.3} ms after {} had begun ({}, after {})",
        again.by,
        again.frames,
        (again.first_ns - between.first_ns) as f64 / 1e6,
        between.by,
        hex(again),
        hex(between)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(all: &[(u64, &'static str)]) -> Vec<Turn> {
        turns(&all.iter().map(|(at_ns, by)| Sent { at_ns: *at_ns, by, head: head(&[]) }).collect::<Vec<_>>())
    }

    #[test]
    fn one_after_the_other_is_no_two_senders() {
        let t = sent(&[(1, "alpha"), (2, "alpha"), (9, "beta"), (10, "beta"), (11, "beta")]);
        assert_eq!(t[1], Turn { by: "beta", first_ns: 9, last_ns: 11, frames: 3, head: head(&[]) });
        assert_eq!((t.len(), two_senders(&t)), (2, None));
        assert_eq!(two_senders(&sent(&[])), None);
    }

    #[test]
    fn who_speaks_again_is_told() {
        let t = sent(&[(1_000_000, "alpha"), (2_000_000, "beta"), (4_500_000, "alpha"), (5_000_000, "alpha")]);
        let said = two_senders(&t).unwrap();
        assert!(said.starts_with("alpha sent 2 frames") && said.contains("2.500 ms after beta"), "{said}");
        assert!(two_senders(&sent(&[(1, "alpha"), (2, "beta"), (3, "alpha"), (4, "beta")])).is_some());
    }

    /// Ethernet of that type, then zeros.
    fn frame(ether_type: u16) -> Vec<u8> {
        let mut f = vec![0; 80];
        f[12..14].copy_from_slice(&ether_type.to_be_bytes());
        f
    }

    #[test]
    fn a_frame_says_whom_it_is_from() {
        let v4: IpAddr = "10.77.0.100".parse().unwrap();
        let v6: IpAddr = "fd00:77::100".parse().unwrap();
        let IpAddr::V6(six) = v6 else { unreachable!("it has colons") };
        let mut ip = frame(ETHER_IPV4);
        ip[26..30].copy_from_slice(&[10, 77, 0, 100]);
        assert_eq!(source(&ip), Some(v4));
        let mut arp = frame(ETHER_ARP);
        arp[28..32].copy_from_slice(&[10, 77, 0, 100]);
        assert_eq!(source(&arp), Some(v4));
        let mut ip6 = frame(ETHER_IPV6);
        ip6[20] = 6;
        ip6[22..38].copy_from_slice(&six.octets());
        assert_eq!(source(&ip6), Some(v6));
        let mut advertisement = frame(ETHER_IPV6);
        (advertisement[20], advertisement[54]) = (58, 136);
        advertisement[62..78].copy_from_slice(&six.octets());
        assert_eq!(source(&advertisement), Some(v6));
        assert_eq!(source(&frame(0x88cc)), None);
        assert_eq!(source(&ip[..20]), None);
    }
}
