//! The service's real sockets: listeners, connections, and how they become events for the guest.
//!
//! Laws: an event goes to the log and to the guest's ring in one step ([`Inbox`]) and in the order of arrival; no
//! more than `RX_WINDOW_BYTES` of a connection are ahead of the guest; nothing of the guest leaves before the output
//! rule lets it. Everything here is bounded: connections by CONNECTIONS_MAX, input by the windows and by the inbox's
//! room, output by `TX_WINDOW_BYTES`.

pub mod connection;
pub mod listener;
pub mod send_queue;
pub mod state;

use crate::engine::EngineError;
use connection::{Beyond, Connection, Filled, Pumped, SocketOption};
use ft_log::entry::{Event, PAYLOAD_BYTES_MAX};
use ft_log::ids::{ConnId, ListenerId, LogIndex};
pub use listener::ListenSpec;
use listener::{Accepted, Bound, Listener};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Real connections at a time; more wait in the kernel's accept queue.
pub const CONNECTIONS_MAX: usize = 60_000;
const LISTENERS_MAX: usize = 1024;
const ACCEPTS_PER_TURN: usize = 256;
/// Reads of one connection before the next has its turn.
const READS_PER_TURN: usize = 4;
/// Between two looks for connections that have fallen idle.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Until a listener that found no descriptor tries again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Where events go: the log first, then the guest's ring.
pub trait Inbox {
    fn event(&mut self, event: &Event) -> Result<(), EngineError>;
    /// Reading more makes sense.
    fn has_room(&self) -> bool;
}

/// Whose descriptor an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Doorbell,
    Signals,
    Process(u16),
    Listener(ListenerId),
    Connection(ConnId),
    /// The pair's own: link, gate, arbiter.
    Pair(u32),
}

impl Token {
    pub fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Doorbell => (0, 0),
            Self::Signals => (1, 0),
            Self::Process(d) => (2, d.into()),
            Self::Listener(l) => (3, l.0),
            Self::Connection(c) => (4, c.0),
            Self::Pair(n) => (5, n),
        };
        kind << 32 | u64::from(id)
    }

    /// Only for what `encode` made.
    pub fn decode(v: u64) -> Self {
        let id = v as u32;
        match v >> 32 {
            0 => Self::Doorbell,
            1 => Self::Signals,
            2 => Self::Process(id as u16),
            3 => Self::Listener(ListenerId(id)),
            4 => Self::Connection(ConnId(id)),
            5 => Self::Pair(id),
            _ => unreachable!("epoll returned data that was never given to it"),
        }
    }
}

/// Connection numbers are our own and consecutive: one multiplication spreads them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are u32")
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontStats {
    pub accepted: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
}

/// What the front did with a connection's real socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Accepted(ConnId),
    /// Its FIN was given to the kernel.
    Fin(ConnId),
    /// Its socket was closed; `reset`: by RST.
    Over { conn: ConnId, reset: bool, peer: SocketAddr, local: SocketAddr },
}

pub struct Front {
    epoll: Rc<Epoll>,
    listeners: HashMap<ListenerId, Listener>,
    /// They have an address, and don't listen.
    bound: HashMap<ListenerId, Bound>,
    /// Listeners of the guest whose sockets another host has.
    elsewhere: HashMap<ListenerId, ListenSpec>,
    /// What the owner of the gate must know, since it last looked.
    pub deeds: Vec<Deed>,
    /// Somebody looks.
    pub watched: bool,
    connections: HashMap<ConnId, Connection, BuildHasherDefault<IdHasher>>,
    last_conn: ConnId,
    /// To read; each at most once.
    ready: VecDeque<ConnId>,
    /// To write; each at most once.
    dirty: Vec<ConnId>,
    /// Held by the output rule.
    held: Vec<ConnId>,
    committed: LogIndex,
    /// Acknowledgements are looked at.
    watch: Vec<ConnId>,
    sweep_at: Option<Instant>,
    lingering: BinaryHeap<Reverse<(Instant, ConnId)>>,
    accept_again: Option<Instant>,
    buffer: Box<[u8]>,
    pub stats: FrontStats,
}

impl Front {
    pub fn new(epoll: Rc<Epoll>) -> Self {
        Self {
            epoll,
            listeners: HashMap::new(),
            bound: HashMap::new(),
            elsewhere: HashMap::new(),
            deeds: Vec::new(),
            watched: false,
            connections: HashMap::default(),
            last_conn: ConnId(0),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            held: Vec::new(),
            committed: LogIndex(0),
            watch: Vec::new(),
            sweep_at: None,
            lingering: BinaryHeap::new(),
            accept_again: None,
            buffer: vec![0; PAYLOAD_BYTES_MAX].into(),
            stats: FrontStats::default(),
        }
    }

    // What the guest asks.

    /// Its port.
    pub fn bind(&mut self, id: ListenerId, address: SocketAddr, v6only: bool, freebind: bool) -> io::Result<u16> {
        if self.listeners.len() + self.bound.len() >= LISTENERS_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let bound = Bound::bind(address, v6only, freebind)?;
        let port = bound.port()?;
        self.bound.insert(id, bound);
        Ok(port)
    }

    /// One that has no address yet, because it got it at another host, gets it here.
    pub fn listen(&mut self, id: ListenerId, spec: ListenSpec) -> io::Result<()> {
        let ListenSpec { address, v6only, .. } = spec;
        if self.listeners.len() + self.bound.len() >= LISTENERS_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let bound = match self.bound.remove(&id) {
            Some(b) => b,
            None => Bound::bind(address, v6only, false)?,
        };
        let listener = bound.listen(spec)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.epoll.add(listener.socket(), EpollEvent::new(flags, Token::Listener(id).encode()))?;
        tracing::debug!(%address, listener = %id, "listening");
        self.listeners.insert(id, listener);
        Ok(())
    }

    pub fn unlisten(&mut self, id: ListenerId) {
        self.listeners.remove(&id);
        self.bound.remove(&id);
        self.elsewhere.remove(&id);
    }

    /// Where a listener really listens.
    pub fn listen_address(&self, id: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(&id)?.socket().local_addr().ok()
    }

    pub fn output(&mut self, id: ConnId, bytes: &[u8], barrier: LogIndex) -> Result<(), EngineError> {
        self.stats.output_bytes += bytes.len() as u64;
        // It may be over already on our side, never on the guest's: ids are not reused.
        let Some(c) = self.connections.get_mut(&id) else { return self.known(id) };
        c.send(bytes, barrier).map_err(|Beyond| {
            EngineError::Guest(format!(
                "it sent {} bytes on connection {id} beyond its window or after its end (end {}, acknowledged {})",
                bytes.len(),
                c.output().end(),
                c.output().acked()
            ))
        })?;
        self.touch(id);
        Ok(())
    }

    pub fn shutdown(&mut self, id: ConnId, barrier: LogIndex) -> Result<(), EngineError> {
        let Some(c) = self.connections.get_mut(&id) else { return self.known(id) };
        c.shutdown(barrier);
        self.touch(id);
        Ok(())
    }

    pub fn close(&mut self, id: ConnId, reset: bool, barrier: LogIndex) -> Result<(), EngineError> {
        let Some(c) = self.connections.get_mut(&id) else { return self.known(id) };
        c.close(reset, barrier);
        if c.is_over_elsewhere() {
            self.connections.remove(&id);
        } else {
            self.touch(id);
        }
        Ok(())
    }

    pub fn consumed(&mut self, id: ConnId, upto: u64) -> Result<(), EngineError> {
        let Some(c) = self.connections.get_mut(&id) else { return self.known(id) };
        let resume = c.consume(upto).map_err(|Beyond| {
            EngineError::Guest(format!("it read {upto} bytes of connection {id}, which had {}", c.received()))
        })?;
        if resume {
            Self::queue(&mut self.ready, c, id);
        }
        Ok(())
    }

    pub fn option(&mut self, id: ConnId, level: u16, name: u16, value: i32) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        let option = SocketOption { level: i32::from(level), name: i32::from(name), value };
        if !is_passed_on(option.level, option.name) {
            tracing::debug!(conn = %id, ?option, "socket option not passed on");
        } else {
            if let Some(socket) = c.socket() {
                option.set(id, socket.as_fd());
            }
            // For a host that has no socket of it yet.
            c.keep_option(option);
        }
    }

    /// The guest ended: what it held is closed as the kernel would.
    pub fn close_all(&mut self, barrier: LogIndex) {
        self.listeners.clear();
        self.bound.clear();
        let ids: Vec<ConnId> = self.connections.keys().copied().collect();
        for id in ids {
            if let Some(c) = self.connections.get_mut(&id) {
                c.close(false, barrier);
            }
            self.touch(id);
        }
    }

    /// What the kernel could not send, it tries again when a timer says so: after three seconds where it knows no round trip
    /// yet. Has it try now, since all can leave again.
    pub fn push(&self) {
        for (id, c) in &self.connections {
            let is_waiting = c.output().acked() < c.output().written();
            if let Some(socket) = c.socket().filter(|_| is_waiting)
                && let Err(e) = socket.set_nodelay(true)
            {
                tracing::debug!(conn = %id, "sending at once: {e}");
            }
        }
    }

    /// The kernel has all of the guest's output.
    pub fn is_flushed(&self) -> bool {
        !self.connections.values().any(Connection::is_unwritten)
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn known(&self, id: ConnId) -> Result<(), EngineError> {
        if id.0 == 0 || id > self.last_conn {
            return Err(EngineError::Guest(format!("it uses connection {id}, which never was")));
        }
        Ok(())
    }

    fn touch(&mut self, id: ConnId) {
        // One that another host has is touched when it comes here.
        if let Some(c) = self.connections.get_mut(&id)
            && !c.is_elsewhere()
            && !std::mem::replace(&mut c.in_dirty, true)
        {
            self.dirty.push(id);
        }
    }

    fn queue(ready: &mut VecDeque<ConnId>, c: &mut Connection, id: ConnId) {
        if c.wants_read() && !std::mem::replace(&mut c.in_ready, true) {
            ready.push_back(id);
        }
    }

    // While another host has the sockets.

    /// An event of the log that came from another host's front.
    pub fn follow(&mut self, e: &Event, now: Instant) {
        match *e {
            Event::Accept { conn, peer, local, .. } => {
                self.last_conn = self.last_conn.max(conn);
                self.stats.accepted += 1;
                self.connections.insert(conn, Connection::elsewhere(peer, local, now));
            }
            Event::Data { conn, bytes } => {
                self.stats.input_bytes += bytes.len() as u64;
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.received_elsewhere(bytes.len());
                }
            }
            Event::Fin { conn } => {
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.end_input();
                }
            }
            Event::Reset { conn, .. } => {
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.drop_socket();
                    if c.is_over_elsewhere() {
                        self.connections.remove(&conn);
                    }
                }
            }
            Event::Acked { conn, upto } => {
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.acked_elsewhere(upto);
                }
            }
            _ => {}
        }
    }

    /// The primary's kernel is done with a connection that its guest let go. Ours may not have got there yet.
    pub fn gone_elsewhere(&mut self, id: ConnId) {
        if let Some(c) = self.connections.get_mut(&id) {
            c.gone_elsewhere();
            if c.is_over_elsewhere() {
                self.connections.remove(&id);
            }
        }
    }

    /// What the guest has let go before is over wherever its sockets are.
    pub fn leave_to_kernels(&mut self) {
        self.connections.retain(|_, c| c.is_held_by_guest());
    }

    /// A listener of the guest while another host has its socket.
    pub fn listen_elsewhere(&mut self, id: ListenerId, spec: ListenSpec) {
        self.elsewhere.insert(id, spec);
    }

    /// Connections that another host had, for their sockets to be made here.
    pub fn elsewhere(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.connections.iter().filter(|(_, c)| c.is_elsewhere()).map(|(id, c)| (*id, c))
    }

    /// The listening sockets are made here.
    pub fn listen_here(&mut self) -> Result<(), EngineError> {
        for (id, s) in std::mem::take(&mut self.elsewhere) {
            self.listen(id, s).map_err(|source| EngineError::Listen { address: s.address, source })?;
        }
        Ok(())
    }

    /// The listener that a connection to `local` belongs to.
    pub fn listener_for(&self, local: SocketAddr) -> Option<ListenerId> {
        let fits = |l: &SocketAddr| {
            l.port() == local.port()
                && (l.ip() == local.ip() || l.ip().is_unspecified() && (l.is_ipv6() || local.is_ipv4()))
        };
        let bound = self.elsewhere.iter().filter(|(_, s)| fits(&s.address));
        // The most specific one, as the kernel chooses.
        bound.min_by_key(|(_, s)| (s.address.ip().is_unspecified(), s.address.is_ipv6() != local.is_ipv6())).map(|(id, _)| *id)
    }

    /// A connection whose socket was made here.
    pub fn came_here(
        &mut self,
        id: ConnId,
        socket: std::net::TcpStream,
        written: u64,
        fin_sent: bool,
        now: Instant,
    ) -> Result<(), EngineError> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll
            .add(&socket, EpollEvent::new(flags, Token::Connection(id).encode()))
            .map_err(|e| EngineError::system("watching a connection", e))?;
        if let Some(c) = self.connections.get_mut(&id) {
            for o in c.options() {
                o.set(id, socket.as_fd());
            }
            c.came_here(socket, written, fin_sent, now);
            Self::queue(&mut self.ready, c, id);
            if c.wants_acks() && !std::mem::replace(&mut c.in_watch, true) {
                self.watch.push(id);
            }
        }
        self.touch(id);
        Ok(())
    }

    /// A connection that came with the other host's last packets: new to the guest.
    pub fn next_conn(&mut self) -> ConnId {
        self.last_conn = self.last_conn.next();
        self.last_conn
    }

    /// A connection that another host's kernel had and its guest had not heard of.
    pub fn adopt_elsewhere(&mut self, peer: SocketAddr, local: SocketAddr, now: Instant) -> ConnId {
        let id = self.next_conn();
        self.connections.insert(id, Connection::elsewhere(peer, local, now));
        id
    }

    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    // What the kernel says.

    pub fn on_listener(&mut self, id: ListenerId) {
        if let Some(l) = self.listeners.get_mut(&id) {
            l.ready = true;
        }
    }

    pub fn on_connection(&mut self, id: ConnId, events: i32) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        c.on_epoll(events);
        Self::queue(&mut self.ready, c, id);
        let ended = events & (libc::EPOLLHUP | libc::EPOLLERR) != 0 && !c.is_held_by_guest();
        if ended || (events & libc::EPOLLOUT != 0 && c.is_unwritten()) {
            self.touch(id);
        }
    }

    /// One round: accepts, reads, writes, acknowledgements. True: there is more to do at once.
    pub fn turn(&mut self, inbox: &mut dyn Inbox, committed: LogIndex, now: Instant) -> Result<bool, EngineError> {
        let mut more = self.accept(inbox, now)?;
        more |= self.read(inbox)?;
        self.write(committed, now);
        self.acknowledge(inbox, now)?;
        Ok(more)
    }

    fn accept(&mut self, inbox: &mut dyn Inbox, now: Instant) -> Result<bool, EngineError> {
        if self.accept_again.is_some_and(|at| now < at) {
            return Ok(false);
        }
        self.accept_again = None;
        let mut left = ACCEPTS_PER_TURN;
        for (lid, l) in &mut self.listeners {
            while l.ready && left > 0 && inbox.has_room() {
                left -= 1;
                if self.connections.len() >= CONNECTIONS_MAX {
                    self.accept_again = Some(now + EXHAUSTED_PAUSE);
                    return Ok(false);
                }
                match l.accept() {
                    Accepted::Empty => l.ready = false,
                    Accepted::Lost => {}
                    Accepted::Exhausted(e) => {
                        tracing::warn!("cannot accept: {e}; {} connections are open, raise the descriptor limit", self.connections.len());
                        self.accept_again = Some(now + EXHAUSTED_PAUSE);
                        return Ok(false);
                    }
                    Accepted::Connection { socket, peer, local } => {
                        let id = self.last_conn.next();
                        let flags =
                            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                        if let Err(e) = self.epoll.add(&socket, EpollEvent::new(flags, Token::Connection(id).encode())) {
                            tracing::warn!("cannot watch a new connection: {e}");
                            continue;
                        }
                        self.last_conn = id;
                        inbox.event(&Event::Accept { listener: *lid, conn: id, peer, local })?;
                        self.stats.accepted += 1;
                        if self.watched {
                            self.deeds.push(Deed::Accepted(id));
                        }
                        let mut c = Connection::new(socket, peer, local, now);
                        // Data often came with the handshake's end: look without waiting for an edge.
                        Self::queue(&mut self.ready, &mut c, id);
                        self.connections.insert(id, c);
                    }
                }
            }
        }
        Ok(left == 0)
    }

    fn read(&mut self, inbox: &mut dyn Inbox) -> Result<bool, EngineError> {
        for _ in 0..self.ready.len() {
            if !inbox.has_room() {
                // The guest must take some first; its answer or the timer of a full ring starts us again.
                return Ok(false);
            }
            let Some(id) = self.ready.pop_front() else { break };
            let Some(c) = self.connections.get_mut(&id) else { continue };
            c.in_ready = false;
            let mut again = true;
            for _ in 0..READS_PER_TURN {
                if !c.wants_read() {
                    again = false;
                    break;
                }
                match c.fill(&mut self.buffer) {
                    Filled::Data(0) => {}
                    Filled::Data(n) => {
                        self.stats.input_bytes += n as u64;
                        inbox.event(&Event::Data { conn: id, bytes: &self.buffer[..n] })?;
                    }
                    Filled::Blocked | Filled::Full => {
                        again = false;
                        break;
                    }
                    Filled::Fin => {
                        inbox.event(&Event::Fin { conn: id })?;
                        c.end_input();
                    }
                    Filled::Reset(errno) => {
                        inbox.event(&Event::Reset { conn: id, errno })?;
                        c.drop_socket();
                    }
                }
            }
            if again {
                Self::queue(&mut self.ready, c, id);
            }
        }
        Ok(!self.ready.is_empty())
    }

    fn write(&mut self, committed: LogIndex, now: Instant) {
        if committed != self.committed {
            self.committed = committed;
            for id in std::mem::take(&mut self.held) {
                if let Some(c) = self.connections.get_mut(&id) {
                    c.in_held = false;
                }
                self.touch(id);
            }
        }
        while let Some(Reverse((at, id))) = self.lingering.peek().copied() {
            if at > now {
                break;
            }
            self.lingering.pop();
            if let Some(c) = self.connections.get_mut(&id) {
                c.in_lingering = false;
            }
            self.touch(id);
        }
        for id in std::mem::take(&mut self.dirty) {
            let Some(c) = self.connections.get_mut(&id) else { continue };
            c.in_dirty = false;
            let fin_before = c.fin_is_sent();
            let pumped = c.pump(committed, now);
            if self.watched && !fin_before && c.fin_is_sent() {
                self.deeds.push(Deed::Fin(id));
            }
            match pumped {
                Pumped::Settled => {}
                Pumped::Held => {
                    if !std::mem::replace(&mut c.in_held, true) {
                        self.held.push(id);
                    }
                }
                Pumped::Lingers(at) => {
                    if !std::mem::replace(&mut c.in_lingering, true) {
                        self.lingering.push(Reverse((at, id)));
                    }
                }
                Pumped::Over => {
                    let reset = c.ends_by_reset();
                    let tuple = (c.peer, c.local);
                    // Told first, so that the packet its closing makes finds its permission.
                    if self.watched {
                        self.deeds.push(Deed::Over { conn: id, reset, peer: tuple.0, local: tuple.1 });
                    }
                    self.connections.remove(&id);
                    continue;
                }
            }
            // A failed write shows as something to read.
            Self::queue(&mut self.ready, c, id);
            if c.wants_acks() && !std::mem::replace(&mut c.in_watch, true) {
                self.watch.push(id);
            }
        }
    }

    fn acknowledge(&mut self, inbox: &mut dyn Inbox, now: Instant) -> Result<(), EngineError> {
        if self.sweep_at.is_none_or(|at| now >= at) {
            self.sweep_at = Some(now + SWEEP_EVERY);
            for (id, c) in &mut self.connections {
                c.sweep();
                if c.wants_acks() && !std::mem::replace(&mut c.in_watch, true) {
                    self.watch.push(*id);
                }
            }
        }
        let mut k = 0;
        while let Some(id) = self.watch.get(k).copied() {
            let keep = match self.connections.get_mut(&id) {
                None => false,
                Some(c) => {
                    if c.wants_acks()
                        && let Some(upto) = c.sample(now)
                    {
                        inbox.event(&Event::Acked { conn: id, upto })?;
                    }
                    c.in_watch = c.wants_acks();
                    c.in_watch
                }
            };
            if keep {
                k += 1;
            } else {
                self.watch.swap_remove(k);
            }
        }
        Ok(())
    }

    /// When `turn` is due again without anything happening.
    pub fn deadline(&self) -> Option<Instant> {
        let watch = self.watch.iter().filter_map(|id| self.connections.get(id)).map(Connection::ack_at).min();
        let linger = self.lingering.peek().map(|Reverse((at, _))| *at);
        [watch, linger, self.accept_again].into_iter().flatten().min()
    }
}

impl SocketOption {
    fn set(self, id: ConnId, socket: BorrowedFd) {
        if let Err(e) = crate::engine::sys::set_option(socket, self.level, self.name, self.value) {
            tracing::debug!(conn = %id, option = ?self, "socket option refused by the kernel: {e}");
        }
    }
}

/// Options whose effect is on the wire or on what the kernel tells us; all others live in the guest.
fn is_passed_on(level: i32, name: i32) -> bool {
    matches!(
        (level, name),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE | libc::SO_PRIORITY)
            | (
                libc::IPPROTO_TCP,
                libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT | libc::TCP_USER_TIMEOUT
            )
            | (libc::IPPROTO_IP, libc::IP_TOS)
            | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::EpollCreateFlags;

    /// Connections that came and went while another host had them left something behind for ever.
    #[test]
    fn what_is_over_elsewhere_leaves_nothing() {
        let mut front = Front::new(Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap()));
        let (peer, local) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let now = Instant::now();
        for n in 1..=6 {
            let conn = ConnId(n);
            front.follow(&Event::Accept { listener: ListenerId(1), conn, peer, local }, now);
            front.output(conn, &[7; 100], LogIndex(0)).unwrap();
            if n % 3 == 0 {
                front.follow(&Event::Reset { conn, errno: libc::ECONNRESET as u16 }, now);
            }
            // The other host is done with it before our guest is, or after.
            if n % 2 == 0 {
                front.gone_elsewhere(conn);
                front.close(conn, false, LogIndex(0)).unwrap();
            } else {
                front.close(conn, false, LogIndex(0)).unwrap();
                front.gone_elsewhere(conn);
            }
        }
        assert_eq!((front.connections(), front.dirty.len()), (0, 0));
    }
}
