//! One real TCP connection of the service. Mechanism only: what to tell the guest and when to ask again is the
//! front's.
//!
//! The output line (see `ft_log::output_rule`): byte n is position n, FIN the position after the last byte, close
//! the one after that. Nothing passes a position that the output rule holds.

use super::send_queue::{KEEP_BYTES, SendQueue};
use super::state::GuestState;
use crate::engine::sys;
use ft_log::entry::{RX_WINDOW_BYTES, TX_WINDOW_BYTES};
use ft_log::ids::LogIndex;
use ft_log::output_rule::Held;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, sendmsg};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// Different barriers a connection tells apart; more are merged to the latest.
const HELD_MARKS: usize = 8;

/// The guest did what its windows or its own end forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond;

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes in the buffer.
    Data(usize),
    /// Nothing more now.
    Blocked,
    /// The guest must read first.
    Full,
    /// The peer closed its side.
    Fin,
    /// It broke.
    Reset(u16),
}

/// The guest's side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    Open,
    /// Will send no more; its FIN is at that position.
    Shut,
    /// Holds it no longer.
    Closed { position: u64, reset: bool },
}

/// After the guest's close: until the peer has everything.
struct Linger {
    until: Instant,
    step: Duration,
    /// The peer sent what nobody will read.
    unread: bool,
}

/// Until all is acknowledged after a close.
const LINGER_MAX: Duration = Duration::from_secs(60);
/// The same when the peer goes on sending: then the kernel's reset is due.
const LINGER_UNREAD_MAX: Duration = Duration::from_secs(2);
const LINGER_STEP_MIN: Duration = Duration::from_millis(1);
const LINGER_STEP_MAX: Duration = Duration::from_millis(250);
/// Steps between two looks at what the peer acknowledged.
const ACK_STEP_MIN: Duration = Duration::from_millis(1);
const ACK_STEP_MAX: Duration = Duration::from_millis(64);

/// More that isn't known to be acknowledged, and the guest hears of acknowledgements: until then both hosts keep it.
pub const ACK_INTEREST_BYTES: u64 = TX_WINDOW_BYTES / 16;
/// Less progress than this is not told between two polls.
const ACK_PROGRESS_BYTES: u64 = TX_WINDOW_BYTES / 8;
/// The guest may soon block: look at once.
const ACK_URGENT_BYTES: u64 = TX_WINDOW_BYTES / 2;

/// The kernel's half of a connection.
enum Kernel {
    Real(TcpStream),
    /// We follow: another host has the socket. Output is kept until the log says that the peer has it.
    Elsewhere,
    /// We followed: the other host's kernel had done with it. Nobody is to be told of its end here.
    GoneElsewhere,
    /// It broke: the guest still holds the connection, the kernel doesn't.
    Broken,
}

impl Kernel {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Real(s) => Some(s),
            Self::Elsewhere | Self::GoneElsewhere | Self::Broken => None,
        }
    }
}

/// As for setsockopt(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    pub level: i32,
    pub name: i32,
    pub value: i32,
}

pub struct Connection {
    kernel: Kernel,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Bytes given to the guest, of them taken out of the kernel, and of them read by the guest. What is given and
    /// not taken is only peeked at: it is safe in the log, and the peer's window closes as if nobody had read it.
    pub(super) received: u64,
    pub(super) taken: u64,
    pub(super) consumed: u64,
    /// The kernel may have something that wasn't taken.
    readable: bool,
    /// A FIN or an error is pending: a short read doesn't mean the end of what there is.
    hangup: bool,
    /// Why it broke; told to the guest after the bytes that came before.
    broken: Option<u16>,
    /// FIN was told to the guest.
    pub(super) input_ended: bool,

    pub(super) output: SendQueue,
    held: Held<HELD_MARKS>,
    allowed: u64,
    writable: bool,
    guest: Guest,
    fin_sent: bool,
    /// The last acknowledgement the guest was told.
    pub(super) acked_told: u64,
    ack_at: Instant,
    ack_step: Duration,
    /// It says nothing more for now, and keeps more than it should.
    is_quiet: bool,
    /// Where its output ended at the last sweep.
    swept_end: u64,
    linger: Option<Linger>,
    /// What the guest set, each option once.
    pub(super) options: Vec<SocketOption>,

    /// In the front's lists.
    pub in_ready: bool,
    pub in_dirty: bool,
    pub in_watch: bool,
    pub in_held: bool,
    pub in_lingering: bool,
}

/// A connection that another host had, as its socket must be made here.
pub struct Inherited<'a> {
    pub received: u64,
    pub fin_received: bool,
    /// Known acknowledged by the peer; `output` goes on from there.
    pub acked: u64,
    pub output: (&'a [u8], &'a [u8]),
    /// The guest sends no more.
    pub fin_sent: bool,
    /// The guest closed by reset.
    pub reset: bool,
}

/// What became of a connection by writing.
#[derive(Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing left to do now.
    Settled,
    /// The output rule holds the rest.
    Held,
    /// The guest closed and all is written: wait for the peer, asking at that time.
    Lingers(Instant),
    /// Done for good: forget it.
    Over,
}

impl Connection {
    pub fn new(socket: TcpStream, peer: SocketAddr, local: SocketAddr, now: Instant) -> Self {
        Self::with(Kernel::Real(socket), peer, local, now)
    }

    /// One that another host has.
    pub fn elsewhere(peer: SocketAddr, local: SocketAddr, now: Instant) -> Self {
        Self::with(Kernel::Elsewhere, peer, local, now)
    }

    fn with(kernel: Kernel, peer: SocketAddr, local: SocketAddr, now: Instant) -> Self {
        Self {
            kernel,
            peer,
            local,
            received: 0,
            taken: 0,
            consumed: 0,
            readable: true,
            hangup: false,
            broken: None,
            input_ended: false,
            output: SendQueue::default(),
            held: Held::new(),
            allowed: 0,
            writable: true,
            guest: Guest::Open,
            fin_sent: false,
            acked_told: 0,
            ack_at: now,
            ack_step: ACK_STEP_MIN,
            is_quiet: false,
            swept_end: 0,
            linger: None,
            options: Vec::new(),
            in_ready: false,
            in_dirty: false,
            in_watch: false,
            in_held: false,
            in_lingering: false,
        }
    }

    pub fn socket(&self) -> Option<&TcpStream> {
        self.kernel.socket()
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn output(&self) -> &SendQueue {
        &self.output
    }

    pub fn is_held_by_guest(&self) -> bool {
        !matches!(self.guest, Guest::Closed { .. })
    }

    /// The kernel said something about the socket.
    pub fn on_epoll(&mut self, events: i32) {
        if events & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            self.readable = true;
        }
        if events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            self.hangup = true;
        }
        if events & libc::EPOLLOUT != 0 && !self.writable {
            self.writable = true;
            self.ack_at = self.ack_at.min(Instant::now());
        }
        if events & libc::EPOLLERR != 0 {
            self.take_error();
        }
    }

    fn take_error(&mut self) {
        if let Some(s) = self.kernel.socket()
            && let Ok(Some(e)) = s.take_error()
        {
            self.broken.get_or_insert(e.raw_os_error().unwrap_or(libc::ECONNRESET) as u16);
        }
    }

    /// Something may be read, and the guest wants it.
    pub fn wants_read(&self) -> bool {
        if !self.readable || self.socket().is_none() {
            return false;
        }
        if self.is_held_by_guest() {
            return !self.input_ended || self.broken.is_some();
        }
        // Only the peer's FIN: our kernel acknowledges it with all that it still has to deliver, and none of that leaves
        // before the log has the FIN.
        self.hangup && !self.input_ended && self.broken.is_none()
    }

    /// Reads once. `buffer` bounds it.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Filled {
        let Some(socket) = self.kernel.socket() else { return Filled::Blocked };
        if self.input_ended {
            self.readable = false;
            return self.broken.map_or(Filled::Blocked, Filled::Reset);
        }
        if !self.is_held_by_guest() {
            self.readable = false;
            // With everything delivered the connection is over, and its end needs no word.
            let is_waiting = sys::unacknowledged(socket.as_fd()).is_ok_and(|n| n > 0);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
            let ended = is_waiting && recv(socket.as_raw_fd(), &mut [0], flags) == Ok(0);
            return if ended { Filled::Fin } else { Filled::Blocked };
        }
        // Commit on arrival: what the kernel has acknowledged must get into the log, whether the guest reads or not.
        let room = RX_WINDOW_BYTES.saturating_sub(self.received - self.consumed);
        let peeking = self.received > self.taken || room == 0;
        if peeking && self.received == self.taken && sys::set_peek_offset(socket.as_fd(), 0).is_err() {
            return self.broken.map_or(Filled::Full, Filled::Reset);
        }
        let want = if peeking { buffer.len() } else { buffer.len().min(room as usize) };
        let flags = if peeking { MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK } else { MsgFlags::MSG_DONTWAIT };
        match recv(socket.as_raw_fd(), &mut buffer[..want], flags) {
            Ok(0) => self.broken.map_or(Filled::Fin, Filled::Reset),
            Ok(n) => {
                self.received += n as u64;
                if !peeking {
                    self.taken = self.received;
                }
                // A stream gave less than asked: it is empty, and the next arrival raises a new edge.
                self.readable = n == want || self.hangup;
                Filled::Data(n)
            }
            Err(Errno::EAGAIN) => {
                self.readable = false;
                self.broken.map_or(Filled::Blocked, Filled::Reset)
            }
            Err(Errno::EINTR) => Filled::Data(0),
            Err(e) => Filled::Reset(e as i32 as u16),
        }
    }

    /// FIN was told.
    pub fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// The break was told: the kernel's half goes.
    pub fn drop_socket(&mut self) {
        self.kernel = if self.is_elsewhere() { Kernel::GoneElsewhere } else { Kernel::Broken };
        self.input_ended = true;
        self.output.abandon();
    }

    /// The guest has read up to `upto`. `Err`: it can't have. `Ok(true)`: worth reading on.
    pub fn consume(&mut self, upto: u64) -> Result<bool, Beyond> {
        if upto > self.received {
            return Err(Beyond);
        }
        self.consumed = self.consumed.max(upto);
        self.take_peeked();
        Ok(self.wants_read())
    }

    /// Takes out of the kernel what was peeked at and fits the guest's window now: the peer's window opens.
    fn take_peeked(&mut self) {
        let Some(socket) = self.kernel.socket() else { return };
        let upto = self.received.min(self.consumed + RX_WINDOW_BYTES);
        while self.taken < upto {
            match sys::discard(socket.as_fd(), (upto - self.taken) as usize) {
                Ok(n) if n > 0 => self.taken += n as u64,
                _ => return,
            }
        }
        if self.taken == self.received {
            // Failing, the next reads are peeks that begin at offset 0 again, which is right too.
            let _ = sys::set_peek_offset(socket.as_fd(), -1);
        }
    }

    /// Output of the guest, which may leave once the log is committed up to `barrier`.
    /// `Err`: more than the guest may have unacknowledged, or after its own FIN.
    pub fn send(&mut self, bytes: &[u8], barrier: LogIndex) -> Result<(), Beyond> {
        if self.guest != Guest::Open || (self.output.end() + bytes.len() as u64).saturating_sub(self.acked_told) > TX_WINDOW_BYTES {
            return Err(Beyond);
        }
        self.output.push(bytes);
        self.held.hold(self.output.end(), barrier);
        match self.kernel {
            Kernel::Real(_) => {}
            Kernel::Elsewhere => self.prune_elsewhere(),
            Kernel::GoneElsewhere | Kernel::Broken => self.output.abandon(),
        }
        Ok(())
    }

    pub fn shutdown(&mut self, barrier: LogIndex) {
        if self.guest == Guest::Open {
            self.guest = Guest::Shut;
            self.held.hold(self.output.end() + 1, barrier);
        }
    }

    pub fn close(&mut self, reset: bool, barrier: LogIndex) {
        if self.is_held_by_guest() {
            let position = self.output.end() + 2;
            self.guest = Guest::Closed { position, reset };
            self.held.hold(position, barrier);
        }
    }

    /// Gives the kernel whatever it takes and the output rule allows.
    pub fn pump(&mut self, committed: LogIndex, now: Instant) -> Pumped {
        self.allowed = self.held.release(committed);
        self.write();
        if let Guest::Closed { position, reset } = self.guest
            && self.allowed >= position
            && (reset || self.socket().is_none() || self.broken.is_some())
        {
            if reset && let Some(s) = self.kernel.socket() {
                // Failing, it closes orderly instead; the peer learns of the end either way.
                let _ = SockRef::from(s).set_linger(Some(Duration::ZERO));
            }
            return Pumped::Over;
        }
        if self.socket().is_none() {
            return if self.held.is_holding() { Pumped::Held } else { Pumped::Settled };
        }
        let all_written = self.output.written() == self.output.end();
        if all_written && self.guest != Guest::Open && self.allowed > self.output.end() && !self.fin_sent {
            self.fin_sent = true;
            if let Some(s) = self.kernel.socket() {
                // ENOTCONN: the peer's reset was faster; reading tells.
                let _ = s.shutdown(std::net::Shutdown::Write);
            }
        }
        if let Guest::Closed { position, .. } = self.guest
            && self.allowed >= position
            && all_written
        {
            return self.linger(now);
        }
        if self.held.is_holding() { Pumped::Held } else { Pumped::Settled }
    }

    fn write(&mut self) {
        let Some(socket) = self.kernel.socket() else { return };
        while self.writable {
            let (a, b) = self.output.unwritten(self.allowed);
            if a.is_empty() {
                return;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = if b.is_empty() {
                nix::sys::socket::send(socket.as_raw_fd(), a, flags)
            } else {
                sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(a), IoSlice::new(b)], &[], flags, None)
            };
            match sent {
                Ok(n) => self.output.wrote(n),
                Err(Errno::EAGAIN) => self.writable = false,
                Err(Errno::EINTR) => {}
                Err(e) => {
                    // A peer that reset after its FIN leaves EPIPE; the guest learns what it would have learnt.
                    let errno = if e == Errno::EPIPE { libc::EPIPE } else { e as i32 };
                    self.broken.get_or_insert(errno as u16);
                    self.readable = true;
                    self.hangup = true;
                    self.writable = false;
                    self.output.abandon();
                }
            }
        }
    }

    /// After the close: over when the peer has everything, or when it has had long enough.
    fn linger(&mut self, now: Instant) -> Pumped {
        let unacknowledged = self.socket().and_then(|s| sys::unacknowledged(s.as_fd()).ok()).unwrap_or(0);
        if unacknowledged == 0 {
            return Pumped::Over;
        }
        let first = self.linger.is_none();
        let l = self.linger.get_or_insert(Linger { until: now + LINGER_MAX, step: LINGER_STEP_MIN, unread: false });
        if now >= l.until {
            return Pumped::Over;
        }
        if !l.unread
            && let Some(s) = self.kernel.socket()
            && matches!(recv(s.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT), Ok(1))
        {
            l.unread = true;
            l.until = l.until.min(now + LINGER_UNREAD_MAX);
        }
        if !first {
            l.step = (l.step * 2).min(LINGER_STEP_MAX);
        }
        Pumped::Lingers(now + l.step)
    }

    // While another host has the socket.

    /// The log says that bytes arrived there.
    pub fn received_elsewhere(&mut self, n: usize) {
        self.received += n as u64;
        self.taken = self.received;
    }

    /// The log says what the peer has acknowledged. Our own guest may not have got there yet.
    pub fn acked_elsewhere(&mut self, upto: u64) {
        self.acked_told = self.acked_told.max(upto);
        self.prune_elsewhere();
    }

    fn prune_elsewhere(&mut self) {
        let upto = self.acked_told.min(self.output.end());
        self.output.wrote_elsewhere(upto);
        if upto > self.output.acked() {
            self.output.prune(upto);
        }
    }

    /// Another host's kernel was done with it, and so is the guest.
    pub fn is_over_elsewhere(&self) -> bool {
        !self.is_held_by_guest() && matches!(self.kernel, Kernel::GoneElsewhere)
    }

    /// The other host's kernel is done with it.
    pub fn gone_elsewhere(&mut self) {
        self.kernel = Kernel::GoneElsewhere;
        self.output.abandon();
    }

    pub fn is_elsewhere(&self) -> bool {
        matches!(self.kernel, Kernel::Elsewhere)
    }

    /// For a socket that is made later, here or elsewhere.
    pub fn keep_option(&mut self, o: SocketOption) {
        self.options.retain(|p| (p.level, p.name) != (o.level, o.name));
        self.options.push(o);
    }

    pub fn options(&self) -> &[SocketOption] {
        &self.options
    }

    pub(super) fn guest_state(&self) -> GuestState {
        match self.guest {
            Guest::Open => GuestState::Open,
            Guest::Shut => GuestState::Shut,
            Guest::Closed { reset, .. } => GuestState::Closed { reset },
        }
    }

    pub fn inherited(&self) -> Inherited<'_> {
        Inherited {
            received: self.received,
            fin_received: self.input_ended,
            acked: self.output.acked(),
            output: self.output.all(),
            fin_sent: self.guest != Guest::Open,
            reset: matches!(self.guest, Guest::Closed { reset: true, .. }),
        }
    }

    /// Its socket is here now, with everything up to `written` given to the kernel.
    pub fn came_here(&mut self, socket: TcpStream, written: u64, fin_sent: bool, now: Instant) {
        self.kernel = Kernel::Real(socket);
        self.output.wrote_elsewhere(written);
        self.fin_sent = fin_sent;
        self.ack_at = now;
        self.readable = true;
        self.writable = true;
    }

    pub fn fin_is_sent(&self) -> bool {
        self.fin_sent
    }

    /// Closing the socket will make the kernel send an RST.
    pub fn ends_by_reset(&self) -> bool {
        matches!(self.guest, Guest::Closed { reset: true, .. }) || self.received > self.taken || self.linger.as_ref().is_some_and(|l| l.unread)
    }

    /// Something of the guest's is not with the kernel yet.
    pub fn is_unwritten(&self) -> bool {
        self.socket().is_some()
            && self.broken.is_none()
            && (self.output.written() < self.output.end() || (self.guest != Guest::Open && !self.fin_sent))
    }

    /// Acknowledgements matter to the guest now.
    pub fn wants_acks(&self) -> bool {
        let few = if self.is_quiet { 0 } else { ACK_INTEREST_BYTES };
        self.is_held_by_guest() && self.socket().is_some() && self.output.end() - self.acked_told > few
    }

    /// Once in a while: a connection that has fallen idle lets go of what its peer has.
    pub fn sweep(&mut self) {
        let end = self.output.end();
        self.is_quiet = std::mem::replace(&mut self.swept_end, end) == end && end - self.acked_told > KEEP_BYTES as u64;
    }

    /// When to look at them next.
    pub fn ack_at(&self) -> Instant {
        self.ack_at
    }

    /// Looks, if it is time or pressing; the position the guest is to be told.
    pub fn sample(&mut self, now: Instant) -> Option<u64> {
        let due = now >= self.ack_at;
        if !due && self.output.end() - self.acked_told <= ACK_URGENT_BYTES {
            return None;
        }
        let socket = self.kernel.socket()?;
        let outstanding = sys::unacknowledged(socket.as_fd()).ok()?;
        let given = self.output.written() + u64::from(self.fin_sent);
        let acked = given.saturating_sub(outstanding).clamp(self.output.acked(), self.output.written());
        self.output.prune(acked);
        let progress = acked - self.acked_told;
        if due {
            self.ack_step = if progress > 0 { ACK_STEP_MIN } else { (self.ack_step * 2).min(ACK_STEP_MAX) };
            self.ack_at = now + self.ack_step;
        }
        if progress == 0 || (!due && progress < ACK_PROGRESS_BYTES) {
            return None;
        }
        self.acked_told = acked;
        Some(acked)
    }
}
