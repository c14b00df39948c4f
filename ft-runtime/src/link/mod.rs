//! The link: one ordered, mutually authenticated, encrypted stream of frames between the two hosts of a service.
//!
//! No thread, no wait: the engine's epoll drives it. Watch [`Link::fd`] for reading and writing, edge-triggered or by
//! [`Link::interest`]; at each event call [`Link::on_ready`], then [`Link::recv`]; at each turn [`Link::flush`]. Who watches by
//! edges calls [`Link::read_to_end`] before it when the kernel says that the stream ended or broke.
//!
//! Laws:
//! - **Every whole frame that arrived is handed out before the link's end is told.** What a dying primary sent last is
//!   the end of the log; an error that overtook it would lose it.
//! - Nobody without the configured key gets a frame in or out.
//! - What the peer can make us hold is bounded; what the caller queues is the caller's to bound ([`Link::queued_bytes`]).
//! - An error names who is to blame and what to do.
//!
//! Not here: heartbeats, acknowledgements, reconnecting. Those are the engine's.

mod buffer;
mod error;
pub mod frame;
pub mod hello;
pub mod keys;
mod session;
pub mod text;
mod tls;

#[cfg(test)]
mod tests;

pub use error::{LinkError, Stage};
pub use keys::{KeyError, Keys, PrivateKey, PublicKey};

use crate::engine::sys::set_option;
use session::{Session, SessionError, Side};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use tls::TlsError;

/// Grows with every change of what is said on the link. A peer of another version is refused.
pub const PROTOCOL_VERSION: u32 = 7;
/// From the start until both know that they speak the same.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// The kernel gives up when for so long nothing that we sent was acknowledged, or the peer's window stayed closed.
/// A last resort: the engine's heartbeats notice earlier.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Of the kernel, per direction: more than a 10 Gbit/s link with 0.5 ms round trip has under way.
const SOCKET_BYTES: i32 = 1 << 20;
/// Taken from the kernel in one go before others have their turn; [`Link::pending`] says that there is more.
const READ_TURN_BYTES: usize = 4 << 20;
const BACKLOG: i32 = 16;

/// What a link waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

/// A connection to the peer, established or on its way.
pub struct Link {
    socket: TcpStream,
    peer: SocketAddr,
    keys: Keys,
    session: Session,
    stage: Stage,
    deadline: Instant,
    /// The kernel may have more for us and will not say so again.
    unread: bool,
    /// A short read is not the last: the stream's end may lie behind it.
    to_end: bool,
    /// The kernel took no more and will say when it does.
    blocked: bool,
    /// Writing failed with this; what there is to read may say more.
    mute: Option<io::Error>,
    ended: Option<LinkError>,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Link {
    /// Starts to connect.
    pub fn connect(addr: SocketAddr, keys: &Keys) -> Result<Self, LinkError> {
        Self::connect_as(addr, keys, PROTOCOL_VERSION)
    }

    fn connect_as(peer: SocketAddr, keys: &Keys, version: u32) -> Result<Self, LinkError> {
        let failed = |what: &str| LinkError::system(format!("{what} for the link to {peer}"));
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(failed("making a socket"))?;
        tune(&socket).map_err(failed("setting options of a socket"))?;
        match socket.connect(&peer.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => {
                return Err(LinkError::Unreachable { peer, source: e.into() });
            }
            _ => {}
        }
        Ok(Self::new(socket.into(), peer, keys, Side::Connecting, version))
    }

    /// Of a stream that came from elsewhere than [`Listener`].
    pub fn accept(stream: TcpStream, keys: &Keys) -> Result<Self, LinkError> {
        Self::accept_as(stream, keys, PROTOCOL_VERSION)
    }

    fn accept_as(stream: TcpStream, keys: &Keys, version: u32) -> Result<Self, LinkError> {
        let peer = stream.peer_addr().map_err(LinkError::system("the address of a new link's peer"))?;
        let socket = Socket::from(stream);
        let options = socket.set_nonblocking(true).and_then(|()| tune(&socket));
        options.map_err(LinkError::system(format!("setting options of a socket for the link to {peer}")))?;
        Ok(Self::new(socket.into(), peer, keys, Side::Accepting, version))
    }

    fn new(socket: TcpStream, peer: SocketAddr, keys: &Keys, side: Side, version: u32) -> Self {
        let stage = match side {
            Side::Connecting => Stage::Connect,
            Side::Accepting => Stage::Handshake,
        };
        Self {
            socket,
            peer,
            keys: keys.clone(),
            session: Session::new(side, keys, version),
            stage,
            deadline: Instant::now() + HANDSHAKE_MAX,
            unread: false,
            to_end: false,
            blocked: false,
            mute: None,
            ended: None,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    /// The same from beginning to end.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// For those who watch level-triggered.
    pub fn interest(&self) -> Interest {
        Interest {
            read: self.ended.is_none() && self.stage != Stage::Connect && self.session.wants_more(),
            write: self.ended.is_none() && (self.stage == Stage::Connect || self.blocked),
        }
    }

    /// Keys are proven and versions agreed.
    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up && self.ended.is_none()
    }

    /// Until the link is up: when to call [`Link::on_deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        (self.stage != Stage::Up && self.ended.is_none()).then_some(self.deadline)
    }

    /// Gives up a handshake that takes too long.
    pub fn on_deadline(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.deadline().is_some_and(|at| at <= now) {
            let seconds = HANDSHAKE_MAX.as_secs();
            self.end(LinkError::HandshakeTimeout { peer: self.peer, stage: self.stage, seconds });
        }
        self.settled()
    }

    /// The next reading goes on until the kernel has no more, and so finds an end behind the last bytes. Without it a read that
    /// got less than it could ends the reading: what comes later raises a new edge.
    pub fn read_to_end(&mut self) {
        self.to_end = true;
    }

    /// Goes on as far as the socket allows. Call [`Link::recv`] after it, also where nothing seems to have come.
    pub fn on_ready(&mut self) -> Result<(), LinkError> {
        if self.stage == Stage::Connect && self.ended.is_none() && !self.connected() {
            return self.settled();
        }
        self.read();
        self.flush()
    }

    /// Did the kernel connect? Then the handshake starts.
    fn connected(&mut self) -> bool {
        let error = match self.socket.take_error() {
            Ok(None) => match self.socket.peer_addr() {
                Ok(_) => None,
                Err(e) if e.kind() == io::ErrorKind::NotConnected => return false,
                Err(e) => Some(e),
            },
            Ok(Some(e)) | Err(e) => Some(e),
        };
        if let Some(e) = error {
            self.end(LinkError::Unreachable { peer: self.peer, source: e.into() });
            return false;
        }
        self.stage = Stage::Handshake;
        let started = self.session.received(0);
        self.check(started);
        true
    }

    /// Queues one frame; kind 0 is taken. `flush` sends it, once the link is up.
    pub fn send(&mut self, kind: u8, head: &[u8], payload: &[u8]) {
        if self.ended.is_none() {
            self.session.send(kind, head, payload);
        }
    }

    /// Says good-bye after what is queued; flush until [`Link::queued_bytes`] is 0, then drop it.
    pub fn close(&mut self) -> Result<(), LinkError> {
        self.session.close();
        self.flush()
    }

    /// Seals what is queued and writes as much as the kernel takes.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        // Ends: each turn takes from the queue, or is the last.
        while self.ended.is_none() && self.mute.is_none() && self.stage != Stage::Connect {
            let sealed = self.session.seal();
            self.check(sealed.map_err(SessionError::from));
            if self.session.unsent().is_empty() {
                self.blocked = false;
                if self.session.said_goodbye() {
                    let _ = self.socket.shutdown(Shutdown::Write);
                }
                break;
            }
            match self.socket.write(self.session.unsent()) {
                Ok(n) => {
                    self.sent_bytes += n as u64;
                    self.session.sent(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.mute = Some(e);
                    self.read();
                }
            }
        }
        self.settled()
    }

    /// Hands out frames in order, until there is none, `f` breaks, or others should have their turn: see [`Link::pending`].
    pub fn recv(&mut self, f: &mut dyn FnMut(u8, &[u8]) -> ControlFlow<()>) -> Result<(), LinkError> {
        let limit = self.received_bytes + READ_TURN_BYTES as u64;
        loop {
            match self.session.frame() {
                Ok(Some((kind, body))) => {
                    let (flow, length) = (f(kind, body), body.len());
                    self.session.take_frame(length);
                    if flow.is_break() {
                        return Ok(());
                    }
                }
                Ok(None) if self.unread && self.received_bytes < limit => self.read(),
                Ok(None) => return self.settled(),
                Err(e) => {
                    self.check(Err(e));
                    return self.settled();
                }
            }
        }
    }

    /// There is something to `recv` of which no event will tell.
    pub fn pending(&self) -> bool {
        self.unread || self.ended.is_some() || !matches!(self.session.frame(), Ok(None))
    }

    /// Bytes that were sent and the kernel does not have.
    pub fn queued_bytes(&self) -> usize {
        self.session.queued_bytes()
    }

    /// Bytes given to and taken from the kernel, all told.
    pub fn wire_bytes(&self) -> (u64, u64) {
        (self.sent_bytes, self.received_bytes)
    }

    /// Takes what the kernel has, within the bounds.
    fn read(&mut self) {
        let limit = self.received_bytes + READ_TURN_BYTES as u64;
        self.unread = false;
        while self.ended.is_none() {
            if !self.session.wants_more() || self.received_bytes >= limit {
                self.unread = true;
                return;
            }
            let (got, asked) = match self.session.room() {
                Ok(room) => (self.socket.read(room), room.len()),
                Err(e) => return self.check(Err(e)),
            };
            match got {
                Ok(0) => return self.end_of_stream(),
                Ok(n) => {
                    self.received_bytes += n as u64;
                    let done = self.session.received(n);
                    self.check(done);
                    if self.session.peer_closed() {
                        return self.end_of_stream();
                    }
                    // Why writing failed is to be read to the end.
                    if n < asked && !self.to_end && self.mute.is_none() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.to_end = false;
                    if let Some(e) = self.mute.take() {
                        self.broken(e);
                    }
                    return;
                }
                Err(e) => return self.broken(e),
            }
        }
    }

    fn end_of_stream(&mut self) {
        self.end(LinkError::Closed { peer: self.peer, stage: self.stage, orderly: self.session.peer_closed() });
    }

    fn broken(&mut self, source: io::Error) {
        let peer = self.peer;
        self.end(match source.kind() {
            io::ErrorKind::TimedOut => LinkError::Silent { peer, seconds: SILENCE_MAX.as_secs() },
            _ => LinkError::Broken { peer, stage: self.stage, source: source.into() },
        });
    }

    fn check(&mut self, done: Result<(), SessionError>) {
        match done {
            Ok(()) => {
                if self.session.is_up() {
                    self.stage = Stage::Up;
                }
            }
            Err(e) => self.end(self.blame(e)),
        }
    }

    fn blame(&self, e: SessionError) -> LinkError {
        let peer = self.peer;
        match e {
            SessionError::Tls(TlsError::WrongKey(theirs)) => {
                LinkError::WrongKey { peer, theirs, configured: self.keys.peer }
            }
            SessionError::Tls(TlsError::KeyRefused) => LinkError::KeyRefused { peer, ours: self.keys.own },
            SessionError::Version { theirs, their_ft } => {
                LinkError::Version { peer, theirs, their_ft, ours: self.session.version() }
            }
            SessionError::Tls(TlsError::Other(what)) if self.stage == Stage::Up => LinkError::Protocol { peer, what },
            SessionError::Tls(TlsError::Other(what)) | SessionError::Preamble(what) => LinkError::NotFt { peer, what },
            SessionError::Frame(e) => LinkError::Protocol { peer, what: e.to_string() },
            SessionError::Stuffed => LinkError::NotFt { peer, what: "it sends no end of what is no TLS record".into() },
        }
    }

    /// The link is over; its frames are still handed out. The peer is told why, if anything is left to say.
    fn end(&mut self, e: LinkError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(e);
        self.unread = false;
        self.blocked = false;
        // Small, and mostly the only thing in the buffer. If the kernel doesn't take it, the peer sees a mere end.
        if self.mute.is_none() && self.stage != Stage::Connect {
            let _ = self.socket.write(self.session.unsent());
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Tells the end, but not before the last frame.
    fn settled(&self) -> Result<(), LinkError> {
        match &self.ended {
            Some(e) if !matches!(self.session.frame(), Ok(Some(_))) => Err(e.clone()),
            _ => Ok(()),
        }
    }
}

fn tune(socket: &Socket) -> io::Result<()> {
    // Frames are gathered here, not in the kernel.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(false)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    size_buffers(socket)
}

/// Beyond what the system allows ordinary programs where we may, else as far as it allows.
fn size_buffers(socket: &Socket) -> io::Result<()> {
    let pairs = [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)];
    for (force, plain) in pairs {
        if set_option(socket.as_fd(), libc::SOL_SOCKET, force, SOCKET_BYTES).is_err() {
            set_option(socket.as_fd(), libc::SOL_SOCKET, plain, SOCKET_BYTES)?;
        }
    }
    Ok(())
}

/// Where the peer connects to.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub fn bind(address: SocketAddr) -> Result<Self, LinkError> {
        let listen = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            // Before listening: the window's scale is settled with the SYN-ACK.
            size_buffers(&socket)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let socket = TcpListener::from(socket);
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        listen().map_err(LinkError::system(format!(
            "cannot listen for the peer on {address} (is it an address of this host, is the port free? `ip address`, `ss -ltnp`)"
        )))
    }

    /// With the port that the kernel chose, if it was to choose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Readable when somebody connects.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whoever connected; who it is, the handshake shows. Call until it gives `None`.
    pub fn accept(&self, keys: &Keys) -> Result<Option<Link>, LinkError> {
        // Of those who left the queue again before we came, there are no more than it holds.
        for _ in 0..=BACKLOG {
            match self.socket.accept() {
                Ok((stream, _)) => return Link::accept(stream, keys).map(Some),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(LinkError::system(format!("accepting a link on {}", self.address))(e)),
            }
        }
        Ok(None)
    }
}
