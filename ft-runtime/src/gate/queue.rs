//! The kernel's packet queues (NFQUEUE), read and answered in batches. No decisions here.
//!
//! Laws: a packet that nobody answers for stays in the kernel; when this socket is closed all of them are dropped
//! there, and so is every later one. A queue that is full drops too.

use super::error::GateError;
use super::judge::{PacketId, Verdict};
use super::lease::MARK;
use super::netlink::{self, Request, Socket};
use nix::sys::socket::{SockProtocol, setsockopt, sockopt};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Number of the queue of packets that want to leave.
pub const EGRESS: u16 = 0;
/// Number of the queue of SYNs that want to come in.
pub const INGRESS: u16 = 1;
/// Packets that wait in one queue; the kernel's own 1024 drops replies held for 20 ms at 75 000/s.
const QUEUE_PACKETS_MAX: u32 = 65_536;
/// Bytes copied of a packet: IP and TCP header at their longest.
const COPY_BYTES: u32 = 128;
/// Both queues' messages at their fullest, about 1 kB each with the kernel's own data.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;
/// Messages taken by one call to the kernel.
const BATCH: usize = 64;
/// Calls to the kernel before others have their turn.
const BATCHES_PER_TURN: usize = 16;
/// A message: 128 bytes of packet and at most a dozen small attributes.
const MESSAGE_BYTES: usize = 1024;

/// Linux's numbers (`linux/netfilter/nfnetlink_queue.h`).
mod nf {
    pub const SUBSYSTEM: u16 = 3 << 8;
    pub const PACKET: u16 = SUBSYSTEM;
    pub const VERDICT: u16 = SUBSYSTEM | 1;
    pub const CONFIG: u16 = SUBSYSTEM | 2;
    pub const CFG_CMD: u16 = 1;
    pub const CFG_PARAMS: u16 = 2;
    pub const CFG_QUEUE_MAXLEN: u16 = 3;
    pub const CFG_MASK: u16 = 4;
    pub const CFG_FLAGS: u16 = 5;
    pub const BIND: u8 = 1;
    pub const UNBIND: u8 = 2;
    pub const COPY_PACKET: u8 = 2;
    pub const F_GSO: u32 = 4;
    pub const PACKET_HDR: u16 = 1;
    pub const VERDICT_HDR: u16 = 2;
    pub const MARK: u16 = 3;
    pub const PAYLOAD: u16 = 10;
    pub const CAP_LEN: u16 = 13;
    pub const DROP: u32 = 0;
    pub const ACCEPT: u32 = 1;
}

/// A queued packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued<'a> {
    /// [`EGRESS`] or [`INGRESS`].
    pub queue: u16,
    pub id: PacketId,
    /// From the IP header on; cut.
    pub bytes: &'a [u8],
    /// Bytes of the whole packet.
    pub length: u32,
}

impl<'a> Queued<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let (general, rest) = message.split_first_chunk::<4>()?;
        let (mut id, mut bytes, mut length) = (None, &[][..], None);
        for (kind, value) in netlink::attributes(rest) {
            match kind {
                nf::PACKET_HDR => id = value.first_chunk().map(|v| PacketId(u32::from_be_bytes(*v))),
                nf::PAYLOAD => bytes = value,
                nf::CAP_LEN => length = value.first_chunk().map(|v| u32::from_be_bytes(*v)),
                _ => {}
            }
        }
        let queue = u16::from_be_bytes([general[2], general[3]]);
        Some(Self { queue, id: id?, bytes, length: length.unwrap_or(bytes.len() as u32) })
    }
}

/// Packets that a queue lost; each is an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The queue was full.
    pub queue_full: u64,
    /// The socket's buffer was full.
    pub buffer_full: u64,
}

/// Who decides about queued packets.
pub trait Decide {
    /// A SYN that wants to come in.
    fn incoming(&mut self, packet: &Queued) -> Verdict;
    /// A packet that wants to leave; its verdict may come later.
    fn outgoing(&mut self, packet: &Queued);
    /// Moves what was decided about packets that want to leave to the end of `into`.
    fn verdicts(&mut self, into: &mut Vec<(PacketId, Verdict)>);
}

/// Both queues of a service, on one socket: a SYN is seen before its answer.
pub struct Queue {
    socket: Socket,
    buffers: Box<[[u8; MESSAGE_BYTES]]>,
    verdicts: Request,
}

impl Queue {
    /// To be called in the service's namespace.
    pub fn open() -> Result<Self, GateError> {
        let missing = |_| GateError::Missing {
            feature: "NFQUEUE",
            todo: "Load the kernel's module `nfnetlink_queue` (CONFIG_NETFILTER_NETLINK_QUEUE)",
        };
        let socket = Socket::open(SockProtocol::NetlinkNetFilter).map_err(missing)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
            .map_err(|e| GateError::system("enlarging the packet queue's buffer")(e.into()))?;
        // What is lost shows in `losses`; here it would only hide the packets behind.
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one int from `on`.
        let r = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_NO_ENOBUFS,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if r < 0 {
            return Err(GateError::system("setting up the packet queue's socket")(io::Error::last_os_error()));
        }
        let mut queue =
            Self { socket, buffers: vec![[0; MESSAGE_BYTES]; BATCH].into_boxed_slice(), verdicts: Request::new() };
        queue.bind().map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => missing(e),
            _ => GateError::System { what: "binding the packet queue", source: e },
        })?;
        Ok(queue)
    }

    /// Drops everything that is queued, in one act of the kernel; what is read later was queued later.
    pub fn flush(&mut self) -> io::Result<()> {
        // The answers need room in the buffer.
        while self.receive()?.iter().any(|n| *n > 0) {}
        for queue in [EGRESS, INGRESS] {
            self.configure(queue, nf::CFG_CMD, &[nf::UNBIND, 0, 0, 0])?;
        }
        while self.receive()?.iter().any(|n| *n > 0) {}
        self.bind()
    }

    /// Hands over what is queued. True: there may be more.
    pub fn read(&mut self, decide: &mut impl Decide) -> io::Result<bool> {
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        for _ in 0..BATCHES_PER_TURN {
            let lengths = self.receive()?;
            for (buffer, length) in self.buffers.iter().zip(lengths) {
                for (kind, message) in netlink::messages(&buffer[..length]) {
                    // An error answers a verdict for a packet that the kernel has dropped itself.
                    if kind != nf::PACKET {
                        continue;
                    }
                    match Queued::parse(message) {
                        Some(packet) if packet.queue == INGRESS => incoming.push((packet.id, decide.incoming(&packet))),
                        Some(packet) => decide.outgoing(&packet),
                        None => {}
                    }
                }
            }
            decide.verdicts(&mut outgoing);
            self.answer(INGRESS, &incoming)?;
            self.answer(EGRESS, &outgoing)?;
            incoming.clear();
            outgoing.clear();
            if lengths[BATCH - 1] == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn answer(&mut self, queue: u16, verdicts: &[(PacketId, Verdict)]) -> io::Result<()> {
        for batch in verdicts.chunks(BATCH) {
            self.verdicts.clear();
            for (id, verdict) in batch {
                let code = match verdict {
                    Verdict::Accept => nf::ACCEPT,
                    Verdict::Drop => nf::DROP,
                };
                let mut header = [0; 8];
                header[..4].copy_from_slice(&code.to_be_bytes());
                header[4..].copy_from_slice(&id.0.to_be_bytes());
                self.verdicts.message(nf::VERDICT, 0, &general(queue));
                self.verdicts.attribute(nf::VERDICT_HDR, &header);
                if queue == EGRESS {
                    self.verdicts.attribute(nf::MARK, &MARK.to_be_bytes());
                }
            }
            self.socket.send(self.verdicts.bytes())?;
        }
        Ok(())
    }

    /// What the kernel lost, both queues together. To be called in the service's namespace.
    pub fn losses() -> io::Result<Losses> {
        let text = fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue")?;
        let mut losses = Losses::default();
        for line in text.lines() {
            let mut fields = line.split_whitespace().skip(5).map(|f| f.parse().unwrap_or(0));
            losses.queue_full += fields.next().unwrap_or(0);
            losses.buffer_full += fields.next().unwrap_or(0);
        }
        Ok(losses)
    }

    fn bind(&mut self) -> io::Result<()> {
        for queue in [EGRESS, INGRESS] {
            self.configure(queue, nf::CFG_CMD, &[nf::BIND, 0, 0, 0])?;
            self.configure(queue, nf::CFG_QUEUE_MAXLEN, &QUEUE_PACKETS_MAX.to_be_bytes())?;
            let mut r = Request::new();
            r.message(nf::CONFIG, 0, &general(queue));
            r.attribute(nf::CFG_FLAGS, &nf::F_GSO.to_be_bytes());
            r.attribute(nf::CFG_MASK, &nf::F_GSO.to_be_bytes());
            self.ask(r)?;
            let mut params = COPY_BYTES.to_be_bytes().to_vec();
            params.push(nf::COPY_PACKET);
            self.configure(queue, nf::CFG_PARAMS, &params)?;
        }
        Ok(())
    }

    fn configure(&mut self, queue: u16, what: u16, value: &[u8]) -> io::Result<()> {
        let mut r = Request::new();
        r.message(nf::CONFIG, 0, &general(queue));
        r.attribute(what, value);
        self.ask(r)
    }

    /// Packets that come in between are dropped: they belong to a queue that is not set up yet, or no more.
    fn ask(&mut self, mut request: Request) -> io::Result<()> {
        let mut early: Vec<(u16, PacketId)> = Vec::new();
        let result = self.socket.ask(&mut request, |kind, message| {
            if kind == nf::PACKET && let Some(packet) = Queued::parse(message) {
                early.push((packet.queue, packet.id));
            }
        });
        for (queue, id) in early {
            self.answer(queue, &[(id, Verdict::Drop)])?;
        }
        result
    }

    /// Lengths of the messages now in the buffers; 0 where there is none.
    fn receive(&mut self) -> io::Result<[usize; BATCH]> {
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|k| libc::iovec {
            iov_base: self.buffers[k].as_mut_ptr().cast(),
            iov_len: MESSAGE_BYTES,
        });
        let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|k| {
            // SAFETY: all zeros is a header without address, vectors and control data.
            let mut h: libc::mmsghdr = unsafe { std::mem::zeroed() };
            h.msg_hdr.msg_iov = &mut vectors[k];
            h.msg_hdr.msg_iovlen = 1;
            h
        });
        // SAFETY: BATCH headers, each with one vector, each of those over a buffer of our own that lives on.
        let n = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::recvmmsg(self.socket.as_fd().as_raw_fd(), headers.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
        };
        let mut lengths = [0; BATCH];
        if n < 0 {
            let e = io::Error::last_os_error();
            // A call that doesn't wait isn't interrupted.
            return if e.kind() == io::ErrorKind::WouldBlock { Ok(lengths) } else { Err(e) };
        }
        for (length, header) in lengths.iter_mut().zip(&headers[..n as usize]) {
            *length = (header.msg_len as usize).min(MESSAGE_BYTES);
        }
        Ok(lengths)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `struct nfgenmsg`.
fn general(queue: u16) -> [u8; 4] {
    let [high, low] = queue.to_be_bytes();
    [libc::AF_UNSPEC as u8, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_read() {
        let mut r = Request::new();
        r.message(nf::PACKET, 0, &[2, 0, 0, 1]);
        r.attribute(nf::PACKET_HDR, &[0, 0, 1, 2, 8, 0, 3]);
        r.attribute(nf::CAP_LEN, &[0, 1, 0, 0]);
        r.attribute(nf::PAYLOAD, b"packet");
        let (_, message) = netlink::messages(r.bytes()).next().unwrap();
        let expected = Queued { queue: INGRESS, id: PacketId(0x102), bytes: b"packet", length: 65_536 };
        assert_eq!(Queued::parse(message), Some(expected));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Queued::parse(&bytes);
        }
    }
}
