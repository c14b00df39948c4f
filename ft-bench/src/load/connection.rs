//! One connection: requests go out, answers are matched to them in order.

use super::replies::Replies;
use super::requests::{Kind, Requests};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A request without its last reply.
struct Waiting {
    intended_ns: u64,
    kind: Kind,
    replies_missing: u8,
    failed: bool,
}

/// The last reply to a request.
pub struct Answer {
    pub intended_ns: u64,
    pub ok: bool,
}

pub struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    /// Of `out`, the kernel has it.
    sent: usize,
    /// All that the kernel has been given.
    pub sent_bytes: u64,
    waiting: VecDeque<Waiting>,
    replies: Replies,
    /// The kernel took no more and will say when it does.
    pub blocked: bool,
    /// What the server said that no request of ours may cause.
    pub first_error: Option<String>,
}

impl Connection {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            out: Vec::new(),
            sent: 0,
            sent_bytes: 0,
            waiting: VecDeque::new(),
            replies: Replies::default(),
            blocked: false,
            first_error: None,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Adds a request; `flush` sends it.
    pub fn ask(&mut self, requests: &mut Requests, intended_ns: u64) {
        let kind = requests.write(&mut self.out);
        self.waiting.push_back(Waiting { intended_ns, kind, replies_missing: kind.replies(), failed: false });
    }

    /// Gives the kernel what it takes; whether some is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    self.sent_bytes += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(false)
    }

    /// Takes what the kernel has, once; `buffer` is only room.
    pub fn receive(&mut self, buffer: &mut [u8], replicas: u32, mut answer: impl FnMut(Answer)) -> io::Result<()> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.replies.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(e) => return Err(e),
        }
        while let Some(reply) = self.replies.take()? {
            let unasked = || io::Error::new(ErrorKind::InvalidData, format!("{reply:?} without a request"));
            let w = self.waiting.front_mut().ok_or_else(unasked)?;
            if !w.kind.accepts(&reply, w.replies_missing, replicas) {
                w.failed = true;
                self.first_error.get_or_insert_with(|| format!("{reply:?} to {:?}", w.kind));
            }
            w.replies_missing -= 1;
            if w.replies_missing == 0 {
                answer(Answer { intended_ns: w.intended_ns, ok: !w.failed });
                self.waiting.pop_front();
            }
        }
        Ok(())
    }

    /// When those requests were meant that have no answer.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|w| w.intended_ns)
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}
