//! Netlink (RFC 3549), as much of it as a gate needs: requests with an answer, attributes, nothing cached.
//!
//! What comes back is the kernel's and is still checked: a message cut short is skipped, never read beyond.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// `NLMSG_ERROR`: an answer that carries an errno, or 0.
pub const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Messages read before an answer must have come.
const ANSWER_MESSAGES_MAX: usize = 1 << 20;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Requests, one behind the other, as one datagram.
#[derive(Default)]
pub struct Request {
    bytes: Vec<u8>,
    start: usize,
}

impl Request {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message. `fixed`: what follows the header in every message of this kind.
    pub fn message(&mut self, kind: u16, flags: u16, fixed: &[u8]) {
        self.start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.append(fixed);
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.append(value);
    }

    /// Attributes inside an attribute.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.attribute(kind, &[]);
        inside(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Pads to four bytes, and keeps the message's length.
    fn append(&mut self, value: &[u8]) {
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The messages of a datagram: kind and what follows the header.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 8] = bytes.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let message = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([header[4], header[5]]), message))
    })
}

/// The attributes of a message, without flags of their kind.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([header[2], header[3]]) & KIND, value))
    })
}

/// What the kernel answered to a request: `Ok`, or the errno.
pub fn answer(error_message: &[u8]) -> io::Result<()> {
    let code: &[u8; 4] = error_message.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// Number of the request that is answered: behind the errno comes the request's header.
fn answers(error_message: &[u8]) -> Option<u32> {
    let sequence: &[u8; 4] = error_message.get(12..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*sequence))
}

/// A netlink socket of the network namespace in which it was opened. Never blocks.
pub struct Socket {
    fd: OwnedFd,
    /// Number of the last request that an answer was waited for. Others have number 0.
    asked: Cell<u32>,
}

impl Socket {
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(Self { fd: socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?, asked: Cell::new(0) })
    }

    /// Without a destination a netlink datagram goes to the kernel, which works on it before this returns.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let n = send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        if n == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Sends one message and returns when the kernel has answered. Messages of other kinds go to `other`; errors that
    /// answer what was sent before go nowhere.
    pub fn ask(&self, request: &mut Request, mut other: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let sequence = self.asked.get().wrapping_add(1).max(1);
        self.asked.set(sequence);
        let header = &mut request.bytes[request.start..];
        header[6] |= ACK as u8;
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.send(&request.bytes)?;
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        for _ in 0..ANSWER_MESSAGES_MAX {
            let n = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, message) in messages(&buffer[..n]) {
                match kind {
                    ERROR if answers(message) == Some(sequence) => return answer(message),
                    ERROR => {}
                    _ => other(kind, message),
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut r = Request::new();
        r.message(7, 0, &[1, 2, 3, 4]);
        r.attribute(3, b"abcde");
        r.nested(9, |r| r.attribute(1, &[8]));
        r.message(8, 0, &[]);
        let all: Vec<_> = messages(r.bytes()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].0, all[1]), (7, (8, &[][..])));
        let attributes_of_first: Vec<_> = attributes(&all[0].1[4..]).collect();
        assert_eq!(attributes_of_first[0], (3, &b"abcde"[..]));
        let inner: Vec<_> = attributes(attributes_of_first[1].1).collect();
        assert_eq!((attributes_of_first[1].0, inner.as_slice()), (9, &[(1, &[8][..])][..]));
    }

    /// As where the kernel has dropped a packet by itself, and tells so of the verdict when something else is asked.
    #[test]
    fn an_error_is_of_the_request_that_it_answers() {
        const RTM_GETLINK: u16 = 18;
        let link = |index: i32| {
            let mut fixed = [0; 16];
            fixed[4..8].copy_from_slice(&index.to_ne_bytes());
            let mut r = Request::new();
            r.message(RTM_GETLINK, 0, &fixed);
            r
        };
        let socket = Socket::open(SockProtocol::NetlinkRoute).unwrap();
        let (missing, loopback) = (i32::MAX, 1);
        socket.send(link(missing).bytes()).unwrap();
        let mut heard = 0;
        socket.ask(&mut link(loopback), |_, _| heard += 1).unwrap();
        assert_eq!(heard, 1);
        let e = socket.ask(&mut link(missing), |_, _| {}).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENODEV));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, message) in messages(&bytes) {
                let _ = answer(message);
                let _ = attributes(message).count();
            }
            let _ = attributes(&bytes).count();
        }
    }
}
