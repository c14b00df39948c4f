//! TCP sockets whose real connections the engine owns: bytes come as inputs, go as acts. Sockets of other kinds have
//! the same options, and lead within the domain ([`super::inner`]) or nowhere ([`super::mute`]).

use super::epoll;
use super::fds::{DescId, O_CLOEXEC, O_NONBLOCK, Object};
use super::threads::Block;
use super::inner::{self, Connection, Name};
use super::mute::{self, AF_UNIX, STREAM};
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::*;
use crate::user;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use ft_log::entry::{Act, Event, PAYLOAD_BYTES_MAX};
use ft_log::ids::{ConnId, ListenerId};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Output of a connection that its client has not acknowledged yet; beyond it the guest waits.
pub const UNACKED_BYTES_MAX: u64 = 1 << 20;
/// Reads are reported to the engine in steps of this, so that it goes on receiving.
const CONSUMED_STEP_BYTES: u64 = 64 * 1024;
/// Room for input that a connection keeps when all is read; more goes back, for others.
const RX_KEEP_BYTES: usize = 4 << 10;
/// Ports for the near ends of connections within the domain.
const ANY_PORT_FIRST: u16 = 32_768;
/// Longest accept queue.
const BACKLOG_MAX: i32 = 4096;

pub enum State {
    Fresh,
    Listening(Listening),
    Connected(ConnId),
    /// Connected within the domain.
    Inner(Connection),
    /// Of another kind than TCP, and not connected.
    Mute,
}

pub struct Listening {
    pub queue: VecDeque<Waiting>,
    backlog: usize,
}

/// A connection that nobody has accepted yet.
pub enum Waiting {
    Outer(ConnId),
    Inner(Connection),
}

impl Listening {
    /// As in the kernel: one more than was asked for.
    pub fn is_full(&self) -> bool {
        self.queue.len() > self.backlog
    }
}

pub struct Socket {
    pub family: u16,
    /// SO_TYPE.
    pub kind: u32,
    pub state: State,
    pub bound: Option<SocketAddr>,
    /// The engine's socket with that address.
    reserved: Option<ListenerId>,
    /// Of a bound Unix socket, as in its address.
    pub name: Vec<u8>,
    options: BTreeMap<(u32, u32), Vec<u8>>,
    /// Inherited by a fork child: the parent owns the connection; here it can only be closed.
    foreign: bool,
}

pub struct Conn {
    desc: Option<DescId>,
    peer: SocketAddr,
    local: SocketAddr,
    rx: VecDeque<u8>,
    consumed: u64,
    consumed_told: u64,
    fin: bool,
    reset: Option<u16>,
    /// The reset was told to the guest.
    reset_told: bool,
    written: u64,
    acked: u64,
    tx_shut: bool,
    rx_shut: bool,
}

#[derive(Default)]
pub struct Net {
    conns: BTreeMap<ConnId, Conn>,
    listeners: BTreeMap<ListenerId, DescId>,
    next_listener: ListenerId,
    next_port: u16,
    /// Who holds a port, connections left out.
    ports: BTreeMap<u16, Vec<DescId>>,
    pub names: inner::Names,
    /// Connections that came for a listener that is gone: to be closed once the log says so.
    unwanted: Vec<ConnId>,
}

impl Conn {
    fn space(&self) -> u64 {
        UNACKED_BYTES_MAX - (self.written - self.acked).min(UNACKED_BYTES_MAX)
    }
}

/// Options a freshly read socket has, where they aren't 0.
fn default_option(level: u32, name: u32) -> i32 {
    match (level, name) {
        (1, 7) => 2_626_560, // SO_SNDBUF
        (1, 8) => 131_072,   // SO_RCVBUF
        (6, 2) => 1448,      // TCP_MAXSEG
        (6, 4) => 7200,      // TCP_KEEPIDLE
        (6, 5) => 75,        // TCP_KEEPINTVL
        (6, 6) => 9,         // TCP_KEEPCNT
        (41, 26) => 0,       // IPV6_V6ONLY
        _ => 0,
    }
}

impl Socket {
    fn option(&self, level: u32, name: u32) -> i32 {
        match self.options.get(&(level, name)) {
            Some(v) if v.len() >= 4 => i32::from_le_bytes([v[0], v[1], v[2], v[3]]),
            _ => default_option(level, name),
        }
    }

    fn timeout(&self, name: u32) -> Option<u64> {
        timeout_ns(self.options.get(&(1, name))?).ok().filter(|&ns| ns > 0)
    }

    fn lingers_zero(&self) -> bool {
        // SO_LINGER {on, 0 seconds}
        self.options.get(&(1, 13)).is_some_and(|v| v.len() >= 8 && v[..4] != [0; 4] && v[4..8] == [0; 4])
    }

    /// What it is, if it is not TCP.
    fn other_kind(&self) -> Option<mute::Kind> {
        (self.family == AF_UNIX || self.kind != STREAM).then_some(mute::Kind { family: self.family, kind: self.kind })
    }

    /// What it is, if it is neither TCP nor connected.
    pub fn mute_kind(&self) -> Option<mute::Kind> {
        self.other_kind().filter(|_| matches!(self.state, State::Mute))
    }

    fn protocol(&self) -> i32 {
        match self.other_kind() {
            None => 6,
            Some(k) if k.is_unix() => 0,
            Some(_) => 17,
        }
    }

    pub fn v6only(&self) -> bool {
        self.option(41, 26) != 0
    }

    fn unspecified(&self) -> SocketAddr {
        let ip = if self.family == AF_INET { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        SocketAddr::new(ip, 0)
    }
}

/// The timeval of SO_RCVTIMEO and SO_SNDTIMEO; 0: none.
fn timeout_ns(v: &[u8]) -> Result<u64, i64> {
    let word = |i: usize| v.get(i..i + 8).map(|w| i64::from_le_bytes(w.try_into().expect("8 bytes"))).ok_or(EINVAL);
    let (s, us) = (word(0)?, word(8)?);
    if !(0..1_000_000).contains(&us) {
        return Err(EDOM);
    }
    // As the kernel: a time that is over is the shortest there is.
    Ok(if s < 0 { 1 } else { (s as u64).saturating_mul(NS).saturating_add(us as u64 * 1000) })
}

fn timeval(ns: u64) -> Vec<u8> {
    let mut v = (ns / NS).to_le_bytes().to_vec();
    v.extend_from_slice(&(ns % NS / 1000).to_le_bytes());
    v
}

/// An address as a socket of `family` shows it.
pub fn shown(a: SocketAddr, family: u16) -> SocketAddr {
    match (a.ip(), family) {
        (IpAddr::V4(ip), AF_INET6) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), a.port()),
        _ => a,
    }
}

pub fn encode_address(a: SocketAddr) -> Vec<u8> {
    let mut b = Vec::with_capacity(28);
    match a {
        SocketAddr::V4(v) => {
            b.extend_from_slice(&AF_INET.to_le_bytes());
            b.extend_from_slice(&v.port().to_be_bytes());
            b.extend_from_slice(&v.ip().octets());
            b.resize(16, 0);
        }
        SocketAddr::V6(v) => {
            b.extend_from_slice(&AF_INET6.to_le_bytes());
            b.extend_from_slice(&v.port().to_be_bytes());
            b.extend_from_slice(&[0; 4]);
            b.extend_from_slice(&v.ip().octets());
            b.extend_from_slice(&[0; 4]);
        }
    }
    b
}

fn decode_address(at: u64, len: u64, family: u16) -> Result<SocketAddr, i64> {
    let need = if family == AF_INET { 16 } else { 24 };
    if (len as u32) < need {
        return Err(EINVAL);
    }
    let mut b = [0u8; 28];
    user::copy_in(&mut b[..(len as usize).min(28)], at)?;
    if u16::from_le_bytes([b[0], b[1]]) != family {
        return Err(EAFNOSUPPORT);
    }
    let port = u16::from_be_bytes([b[2], b[3]]);
    let ip = if family == AF_INET {
        IpAddr::V4(Ipv4Addr::new(b[4], b[5], b[6], b[7]))
    } else {
        let octets: [u8; 16] = b[8..24].try_into().expect("16 bytes");
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Ok(SocketAddr::new(ip, port))
}

/// Writes a socket address the way accept and getsockname do: as much as fits, and the full length.
pub fn write_address(bytes: &[u8], at: u64, len_at: u64) -> Result<(), i64> {
    if at == 0 {
        return Ok(());
    }
    let room = user::read::<i32>(len_at)?;
    if room < 0 {
        return Err(EINVAL);
    }
    user::copy_out(at, &bytes[..bytes.len().min(room as usize)])?;
    user::write(len_at, &(bytes.len() as u32))
}

impl Kernel {
    fn socket_of(&self, fd: u64) -> Result<(DescId, &Socket), i64> {
        let d = self.fds.desc_of(fd)?;
        match &self.fds.at(d).object {
            Object::Socket(s) => Ok((d, s)),
            _ => Err(ENOTSOCK),
        }
    }

    fn own_socket(&mut self, fd: u64) -> Result<(DescId, &mut Socket), i64> {
        let d = self.fds.desc_of(fd)?;
        if matches!(&self.fds.at(d).object, Object::Socket(s) if s.foreign) {
            self.refuse("use of a socket in a fork child", "the parent owns its connections; a child can only close them");
            return Err(EBADF);
        }
        match &mut self.fds.at_mut(d).object {
            Object::Socket(s) => Ok((d, s)),
            _ => Err(ENOTSOCK),
        }
    }

    fn conn(&self, id: ConnId) -> &Conn {
        self.net.conns.get(&id).expect("connection exists")
    }

    fn conn_mut(&mut self, id: ConnId) -> &mut Conn {
        self.net.conns.get_mut(&id).expect("connection exists")
    }

    /// An input event of the network.
    pub fn net_input(&mut self, e: &Event) {
        match *e {
            Event::Accept { listener, conn, peer, local } => {
                let desc = self.net.listeners.get(&listener).copied();
                let Some(d) = desc else {
                    self.net.unwanted.push(conn);
                    return;
                };
                let c = Conn {
                    desc: None,
                    peer,
                    local,
                    rx: VecDeque::new(),
                    consumed: 0,
                    consumed_told: 0,
                    fin: false,
                    reset: None,
                    reset_told: false,
                    written: 0,
                    acked: 0,
                    tx_shut: false,
                    rx_shut: false,
                };
                self.net.conns.insert(conn, c);
                if let Object::Socket(Socket { state: State::Listening(l), .. }) = &mut self.fds.at_mut(d).object {
                    l.queue.push_back(Waiting::Outer(conn));
                }
                self.notify(d, epoll::IN);
            }
            Event::Data { conn, bytes } => {
                let Some(c) = self.net.conns.get_mut(&conn) else { return };
                if c.rx_shut {
                    c.consumed += bytes.len() as u64;
                    return;
                }
                c.rx.extend(bytes);
                self.notify_conn(conn, epoll::IN);
            }
            Event::Fin { conn } => {
                let Some(c) = self.net.conns.get_mut(&conn) else { return };
                c.fin = true;
                self.notify_conn(conn, epoll::IN | epoll::RDHUP | epoll::HUP);
            }
            Event::Reset { conn, errno } => {
                let Some(c) = self.net.conns.get_mut(&conn) else { return };
                c.reset = Some(errno);
                self.notify_conn(conn, epoll::IN | epoll::OUT | epoll::RDHUP | epoll::ERR | epoll::HUP);
            }
            Event::Acked { conn, upto } => {
                let Some(c) = self.net.conns.get_mut(&conn) else { return };
                assert!(upto >= c.acked && upto <= c.written, "acknowledgement out of range");
                c.acked = upto;
                self.notify_conn(conn, epoll::OUT);
            }
            _ => unreachable!("not an event of the network"),
        }
    }

    fn notify_conn(&mut self, id: ConnId, mask: u32) {
        self.changed = true;
        if let Some(d) = self.conn(id).desc {
            self.notify(d, mask);
        }
    }

    /// Acts that an input asked for; after the log has the input's application.
    pub fn flush_unwanted(&mut self) {
        for conn in core::mem::take(&mut self.net.unwanted) {
            self.act(&Act::Close { conn, reset: true });
        }
    }

    pub fn socket_mask(&self, s: &Socket) -> u32 {
        match &s.state {
            State::Fresh => epoll::OUT | epoll::HUP,
            State::Mute => s.mute_kind().map_or(0, mute::Kind::mask),
            State::Inner(c) => self.pair_mask(c.pair),
            State::Listening(l) => {
                if l.queue.is_empty() {
                    0
                } else {
                    epoll::IN
                }
            }
            State::Connected(id) if s.foreign => {
                let _ = id;
                0
            }
            State::Connected(id) => {
                let c = self.conn(*id);
                let mut m = 0;
                if !c.rx.is_empty() || c.fin || c.rx_shut || c.reset.is_some() {
                    m |= epoll::IN;
                }
                if c.fin || c.rx_shut || c.reset.is_some() {
                    m |= epoll::RDHUP;
                }
                if c.space() * 3 >= UNACKED_BYTES_MAX || c.tx_shut || c.reset.is_some() {
                    m |= epoll::OUT;
                }
                if c.reset.is_some() || ((c.fin || c.rx_shut) && c.tx_shut) {
                    m |= epoll::HUP;
                }
                if c.reset.is_some() && !c.reset_told {
                    m |= epoll::ERR;
                }
                m
            }
        }
    }

    /// `None`: nothing now. Empty: the end.
    pub fn socket_read(&mut self, d: DescId, max: usize, peek: bool) -> Result<Option<Vec<u8>>, i64> {
        let Object::Socket(s) = &self.fds.at(d).object else { return Err(ENOTSOCK) };
        if let Some(m) = s.mute_kind() {
            return m.read().map(|()| None);
        }
        let State::Connected(id) = s.state else { return Err(ENOTCONN) };
        if s.foreign {
            self.refuse("read from a socket in a fork child", "the parent owns its connections; a child can only close them");
            return Err(EBADF);
        }
        let c = self.conn_mut(id);
        let n = c.rx.len().min(max);
        if n == 0 {
            // As in the kernel: what came before the reset is read first, and after a FIN there is nothing but the end.
            if let Some(e) = c.reset.filter(|_| !c.reset_told && !c.fin && max > 0) {
                c.reset_told = true;
                return Err(e.into());
            }
            let end = c.fin || c.rx_shut || c.reset.is_some() || max == 0;
            return Ok(end.then(Vec::new));
        }
        let (a, b) = c.rx.as_slices();
        let mut out = Vec::with_capacity(n);
        out.extend_from_slice(&a[..n.min(a.len())]);
        out.extend_from_slice(&b[..n - out.len()]);
        if !peek {
            c.rx.drain(..n);
            if c.rx.is_empty() && c.rx.capacity() > RX_KEEP_BYTES {
                c.rx = VecDeque::new();
            }
            c.consumed += n as u64;
            if c.consumed - c.consumed_told >= CONSUMED_STEP_BYTES {
                c.consumed_told = c.consumed;
                let upto = c.consumed;
                self.act(&Act::Consumed { conn: id, upto });
            }
        }
        Ok(Some(out))
    }

    /// How much of `bytes` was taken; `None`: no space now.
    pub fn socket_write(&mut self, d: DescId, bytes: &[u8]) -> Result<Option<usize>, i64> {
        let Object::Socket(s) = &self.fds.at(d).object else { return Err(ENOTSOCK) };
        if let Some(m) = s.mute_kind() {
            return Err(mute::send(self, m, 0, 0));
        }
        let State::Connected(id) = s.state else { return Err(EPIPE) };
        if s.foreign {
            self.refuse("write to a socket in a fork child", "the parent owns its connections; a child can only close them");
            return Err(EBADF);
        }
        let c = self.conn_mut(id);
        if let Some(e) = c.reset.filter(|_| !c.reset_told) {
            c.reset_told = true;
            return Err(e.into());
        }
        if c.tx_shut || c.reset.is_some() {
            return Err(EPIPE);
        }
        let n = (c.space() as usize).min(bytes.len());
        if n == 0 && !bytes.is_empty() {
            return Ok(None);
        }
        c.written += n as u64;
        for part in bytes[..n].chunks(PAYLOAD_BYTES_MAX) {
            self.act(&Act::Output { conn: id, bytes: part });
        }
        self.digest.bytes(&bytes[..n]);
        Ok(Some(n))
    }

    pub fn socket_timeout(&self, d: DescId, write: bool) -> Option<u64> {
        match &self.fds.at(d).object {
            Object::Socket(s) => s.timeout(if write { 21 } else { 20 }),
            Object::Pair(p) => Some(if write { p.write_timeout_ns } else { p.read_timeout_ns }).filter(|&ns| ns > 0),
            _ => None,
        }
    }

    pub fn close_socket(&mut self, d: DescId, s: Socket) {
        if let Some(b) = s.bound.filter(|_| !matches!(s.state, State::Connected(_))) {
            self.net.release_port(b.port(), d);
        }
        if !s.name.is_empty() && matches!(s.state, State::Mute | State::Listening(_)) {
            self.net.names.forget(d);
        }
        if s.foreign {
            return;
        }
        if let Some(listener) = s.reserved {
            self.net.listeners.remove(&listener);
            self.act(&Act::Unlisten { listener });
        }
        match s.state {
            State::Fresh | State::Mute => {}
            State::Inner(c) => self.close_pair(c.pair),
            State::Listening(l) => {
                self.changed = true; // who waits to connect will not
                for waiting in l.queue {
                    match waiting {
                        Waiting::Inner(c) => self.close_pair(c.pair),
                        Waiting::Outer(conn) => {
                            self.net.conns.remove(&conn);
                            self.act(&Act::Close { conn, reset: true });
                        }
                    }
                }
            }
            State::Connected(conn) => {
                let reset = s.lingers_zero();
                let c = self.net.conns.remove(&conn).expect("connection exists");
                // As in the kernel: unread input makes the close a reset.
                let reset = reset || !c.rx.is_empty();
                self.act(&Act::Close { conn, reset });
            }
        }
    }

    pub fn socket_readable_bytes(&self, s: &Socket) -> Result<usize, i64> {
        match &s.state {
            State::Connected(id) => Ok(self.conn(*id).rx.len()),
            State::Inner(c) => Ok(self.pipes.at(c.pair.rx).len()),
            State::Fresh | State::Mute => Ok(0),
            State::Listening(_) => Err(EINVAL),
        }
    }

    fn has_address(&mut self, d: DescId, (listener, at): (ListenerId, SocketAddr)) {
        self.net.hold_port(at.port(), d);
        if let Object::Socket(s) = &mut self.fds.at_mut(d).object {
            (s.bound, s.reserved) = (Some(at), Some(listener));
        }
    }

    /// In a fork child: connections and listeners stay with the parent.
    pub fn disown_sockets(&mut self) {
        let fds: Vec<DescId> = self.open_fds().map(|(_, d)| d).collect();
        for d in fds {
            if let Object::Socket(s) = &mut self.fds.at_mut(d).object {
                s.foreign = !matches!(s.state, State::Inner(_) | State::Mute);
            }
        }
        for c in self.net.conns.values_mut() {
            c.rx = VecDeque::new();
        }
    }
}

impl Net {
    /// Sockets that are bound to a port.
    pub fn holders(&self, port: u16) -> impl Iterator<Item = DescId> + '_ {
        self.ports.get(&port).into_iter().flatten().copied()
    }

    pub fn hold_port(&mut self, port: u16, d: DescId) {
        self.ports.entry(port).or_default().push(d);
    }

    fn release_port(&mut self, port: u16, d: DescId) {
        if let Some(holders) = self.ports.get_mut(&port) {
            holders.retain(|h| *h != d);
            if holders.is_empty() {
                self.ports.remove(&port);
            }
        }
    }

    /// A port that no other socket of the guest holds, for the near end of a connection within the domain.
    pub fn free_port(&mut self) -> Result<u16, i64> {
        for _ in ANY_PORT_FIRST..=u16::MAX {
            let port = self.next_port.max(ANY_PORT_FIRST);
            self.next_port = port.checked_add(1).unwrap_or(ANY_PORT_FIRST);
            if !self.ports.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(EADDRINUSE)
    }
}

pub fn socket(k: &mut Kernel, a: &Args) -> Reply {
    let family = a[0] as u32;
    let flags = a[1] as u32 & (O_CLOEXEC | O_NONBLOCK);
    let kind = a[1] as u32 & !flags;
    if ![AF_UNIX, AF_INET, AF_INET6].map(u32::from).contains(&family) {
        k.refuse_number("socket family", family.into());
        return Err(EAFNOSUPPORT);
    }
    let family = family as u16;
    const IPPROTO_TCP: u64 = 6;
    let (kind, state) = if family != AF_UNIX && kind == STREAM && (a[2] == 0 || a[2] == IPPROTO_TCP) {
        (STREAM, State::Fresh)
    } else {
        let made = mute::Kind::new(family, kind, a[2]);
        if made.is_err() {
            k.refuse_number("socket type and protocol", u64::from(kind) << 32 | a[2] & 0xffff_ffff);
        }
        (made?.kind, State::Mute)
    };
    let options = BTreeMap::new();
    let s = Socket { family, kind, state, bound: None, reserved: None, name: Vec::new(), options, foreign: false };
    k.install(Object::Socket(s), flags | 2)
}

pub fn bind(k: &mut Kernel, a: &Args) -> Reply {
    let (d, s) = k.own_socket(a[0])?;
    if let Some(m) = s.other_kind() {
        if !s.name.is_empty() || !matches!(s.state, State::Mute) {
            return Err(EINVAL);
        }
        return if m.is_unix() && m.connects() { inner::bind_unix(k, d, a) } else { Err(mute::bind(k, m)) };
    }
    if s.bound.is_some() || !matches!(s.state, State::Fresh) {
        return Err(EINVAL);
    }
    let family = s.family;
    let at = decode_address(a[1], a[2], family)?;
    const FREEBIND: (u32, u32) = (0, 15);
    let (v6only, freebind) = (s.v6only(), s.option(FREEBIND.0, FREEBIND.1) != 0);
    if at.port() != 0 && conflicts(k, d, at) {
        return Err(EADDRINUSE);
    }
    let reserved = reserve(k, at, v6only, freebind)?;
    k.has_address(d, reserved);
    done(0)
}

/// Whether an address is the service's, and which of its ports are free, is known to the host alone: the engine binds a
/// socket for the guest's, in the service's network, and the port that it has, or why it has none, is recorded.
fn reserve(k: &mut Kernel, mut at: SocketAddr, v6only: bool, freebind: bool) -> Result<(ListenerId, SocketAddr), i64> {
    const BIND: u16 = 49;
    const TRIES: u32 = 16;
    for _ in 0..TRIES {
        k.net.next_listener = k.net.next_listener.next();
        let listener = k.net.next_listener;
        let (r, _) = k.recorded_call(BIND, |k| {
            (k.ask(&Act::Bind { listener, address: at, v6only, freebind }), Vec::new())
        });
        if r < 0 {
            return Err(-r);
        }
        // Any port: not one that another socket of the guest has which didn't come so far at this host.
        if at.port() != 0 || k.net.holders(r as u16).next().is_none() {
            at.set_port(r as u16);
            return Ok((listener, at));
        }
        k.act(&Act::Unlisten { listener });
    }
    Err(EADDRINUSE)
}

/// Two sockets of the guest on one port, as the kernel judges it for listeners.
fn conflicts(k: &Kernel, d: DescId, at: SocketAddr) -> bool {
    const SO_REUSEADDR: u32 = 2;
    let reuses = |s: &Socket| s.option(1, SO_REUSEADDR) != 0;
    let reuse = matches!(&k.fds.at(d).object, Object::Socket(s) if reuses(s));
    k.net.holders(at.port()).any(|other| {
        let Object::Socket(s) = &k.fds.at(other).object else { return false };
        let Some(b) = s.bound else { return false };
        let overlap = b.is_ipv4() == at.is_ipv4()
            && (b.ip() == at.ip() || b.ip().is_unspecified() || at.ip().is_unspecified());
        overlap && !(reuse && reuses(s) && !matches!(s.state, State::Listening(_)))
    })
}

pub fn listen(k: &mut Kernel, a: &Args) -> Reply {
    let (d, s) = k.own_socket(a[0])?;
    let backlog = (a[1] as i32).clamp(1, BACKLOG_MAX) as u32;
    match &mut s.state {
        State::Fresh => {}
        State::Listening(l) => {
            l.backlog = backlog as usize;
            return done(0);
        }
        State::Connected(_) | State::Inner(_) => return Err(EINVAL),
        State::Mute => {
            if s.name.is_empty() {
                return Err(s.mute_kind().map_or(EINVAL, mute::Kind::listen));
            }
            s.state = State::Listening(Listening { queue: VecDeque::new(), backlog: backlog as usize });
            return done(0);
        }
    }
    let v6only = s.v6only();
    let (id, address) = match (s.reserved, s.bound) {
        (Some(id), Some(address)) => (id, address),
        _ => {
            let any = s.unspecified();
            let reserved = reserve(k, any, v6only, false)?;
            k.has_address(d, reserved);
            reserved
        }
    };
    let listens = Act::Listen { listener: id, address, backlog, v6only };
    let follows = !k.inputs.is_primary();
    const LISTEN: u16 = 50;
    let (r, _) = k.recorded_call(LISTEN, |k| (k.ask(&listens), Vec::new()));
    if r < 0 {
        return Err(-r);
    }
    if follows && !k.inputs.is_primary() {
        k.act(&listens); // for the time after a takeover
    }
    k.net.listeners.insert(id, d);
    if let Object::Socket(s) = &mut k.fds.at_mut(d).object {
        s.state = State::Listening(Listening { queue: VecDeque::new(), backlog: backlog as usize });
    }
    done(0)
}

pub fn connect(k: &mut Kernel, a: &Args) -> Reply {
    let (d, s) = k.own_socket(a[0])?;
    let family = s.family;
    match &s.state {
        State::Fresh | State::Mute => {}
        State::Listening(_) if family == AF_UNIX => return Err(EINVAL),
        State::Listening(_) | State::Connected(_) | State::Inner(_) => return Err(EISCONN),
    }
    if let Some(m) = s.mute_kind() {
        if m.is_unix() {
            return inner::connect_unix(k, d, m, a);
        }
        mute::connect(k, a[1], a[2])?;
        return done(0);
    }
    let to = decode_address(a[1], a[2], family)?;
    if let Some(reply) = inner::connect_tcp(k, d, to) {
        return reply;
    }
    k.refuse("connect", "outbound connections are not yet replicated");
    Err(ECONNREFUSED)
}

pub fn accept(k: &mut Kernel, a: &Args) -> Reply {
    accept4(k, &[a[0], a[1], a[2], 0, 0, 0])
}

pub fn accept4(k: &mut Kernel, a: &Args) -> Reply {
    let flags = a[3] as u32;
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    let (d, s) = k.own_socket(a[0])?;
    let family = s.family;
    let listener_address = s.bound;
    let options = s.options.clone();
    let mute = s.mute_kind();
    let (kind, name) = (s.kind, s.name.clone());
    let State::Listening(l) = &mut s.state else { return Err(mute.map_or(EINVAL, mute::Kind::listen)) };
    let Some(waiting) = l.queue.pop_front() else {
        if k.fds.nonblocking(d) {
            return Err(k.nothing_now());
        }
        if let Some(t) = k.socket_timeout(d, false) {
            let deadline = k.relative_deadline(t);
            if deadline <= k.clock.now() {
                return Err(EAGAIN);
            }
        }
        return Ok(Outcome::Block(Block::Object));
    };
    let fd = match super::fds::placeholder(flags & O_CLOEXEC != 0) {
        Ok(fd) => fd,
        Err(e) => {
            // It stays the first in the queue.
            let (_, s) = k.own_socket(a[0])?;
            if let State::Listening(l) = &mut s.state {
                l.queue.push_front(waiting);
            }
            return Err(e);
        }
    };
    let (state, peer) = match waiting {
        Waiting::Outer(conn) => (State::Connected(conn), Name::Ip(k.conn(conn).peer)),
        Waiting::Inner(c) => {
            k.changed = true; // there is room for one more
            let peer = c.peer.clone();
            (State::Inner(c), peer)
        }
    };
    let s = Socket { family, kind, state, bound: listener_address, reserved: None, name, options, foreign: false };
    let nd = k.adopt(fd, Object::Socket(s), flags | 2);
    match k.pair_of(nd) {
        Some(pair) => k.pipes.attach_pair(pair, nd),
        None => {
            if let Object::Socket(Socket { state: State::Connected(conn), .. }) = k.fds.at(nd).object {
                k.conn_mut(conn).desc = Some(nd);
            }
        }
    }
    let peer = peer.encode(family);
    if let Err(e) = write_address(&peer, a[1], a[2]) {
        k.close_fd(fd)?; // the connection is lost, as in the kernel
        return Err(e);
    }
    done(fd.into())
}

pub fn getsockname(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if matches!(&k.fds.at(d).object, Object::Pair(_)) {
        write_address(&AF_UNIX.to_le_bytes(), a[1], a[2])?;
        return done(0);
    }
    let (_, s) = k.socket_of(a[0])?;
    let at = match &s.state {
        State::Connected(id) => Name::Ip(k.conn(*id).local),
        State::Inner(c) => c.local.clone(),
        _ if s.family == AF_UNIX => Name::Unix(s.name.clone()),
        _ => Name::Ip(s.bound.unwrap_or(s.unspecified())),
    };
    write_address(&at.encode(s.family), a[1], a[2])?;
    done(0)
}

pub fn getpeername(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if matches!(k.fds.at(d).object, Object::Pair(_)) {
        write_address(&AF_UNIX.to_le_bytes(), a[1], a[2])?;
        return done(0);
    }
    let (_, s) = k.socket_of(a[0])?;
    let at = match &s.state {
        State::Connected(id) => Name::Ip(k.conn(*id).peer),
        State::Inner(c) => c.peer.clone(),
        _ => return Err(ENOTCONN),
    };
    write_address(&at.encode(s.family), a[1], a[2])?;
    done(0)
}

pub fn shutdown(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if k.pair_of(d).is_some() {
        return k.shutdown_pair(d, a[1]);
    }
    let (_, s) = k.own_socket(a[0])?;
    let State::Connected(id) = s.state else { return Err(ENOTCONN) };
    let (read, write) = match a[1] {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return Err(EINVAL),
    };
    let c = k.conn_mut(id);
    if c.reset.is_some() {
        return Err(ENOTCONN);
    }
    let fin = write && !c.tx_shut;
    c.rx_shut |= read;
    c.tx_shut |= write;
    if fin {
        k.act(&Act::Shutdown { conn: id });
    }
    k.notify(d, epoll::IN | epoll::OUT | epoll::RDHUP | epoll::HUP);
    done(0)
}

pub fn setsockopt(k: &mut Kernel, a: &Args) -> Reply {
    let (level, name) = (a[1] as u32, a[2] as u32);
    let len = a[4] as i32;
    if !(0..=4096).contains(&len) {
        return Err(EINVAL);
    }
    let mut v = alloc::vec![0u8; len as usize];
    let d = k.fds.desc_of(a[0])?;
    user::copy_in(&mut v, a[3])?;
    const SOL_SOCKET: u32 = 1;
    if let Object::Pair(p) = &mut k.fds.at_mut(d).object {
        return match (level, name) {
            (SOL_SOCKET, 20) => timeout_ns(&v).map(|ns| p.read_timeout_ns = ns),
            (SOL_SOCKET, 21) => timeout_ns(&v).map(|ns| p.write_timeout_ns = ns),
            _ => Ok(()),
        }
        .and(done(0));
    }
    let (_, s) = k.own_socket(a[0])?;
    let known = match (level, name) {
        // DEBUG REUSEADDR DONTROUTE BROADCAST SNDBUF RCVBUF KEEPALIVE OOBINLINE PRIORITY LINGER REUSEPORT RCVTIMEO
        // SNDTIMEO RCVLOWAT, busy poll, incoming cpu
        (SOL_SOCKET, 1 | 2 | 5..=10 | 12 | 13 | 15 | 18 | 20 | 21 | 46 | 49) => true,
        // NODELAY MAXSEG CORK KEEPIDLE KEEPINTVL KEEPCNT SYNCNT LINGER2 DEFER_ACCEPT WINDOW_CLAMP QUICKACK CONGESTION
        // USER_TIMEOUT FASTOPEN NOTSENT_LOWAT
        (6, 1..=10 | 12 | 13 | 18 | 23 | 25) => true,
        (0, 1..=3) => true,        // IP_TOS IP_TTL
        (0, 10 | 15 | 24) => true, // MTU_DISCOVER, FREEBIND, BIND_ADDRESS_NO_PORT
        (41, 16 | 23 | 26 | 67) => true, // UNICAST_HOPS, MTU_DISCOVER, V6ONLY, TCLASS
        // What packets bring and where they may go: of no consequence to a socket that gets none. SO_PASSCRED.
        (0 | 41, _) | (SOL_SOCKET, 16) => s.other_kind().is_some(),
        _ => false,
    };
    if !known {
        k.refuse_number("socket option", u64::from(level) << 32 | u64::from(name));
        return Err(ENOPROTOOPT);
    }
    if v.len() < 4 && (level, name) != (6, 13) {
        return Err(EINVAL);
    }
    if level == SOL_SOCKET && matches!(name, 20 | 21) {
        timeout_ns(&v)?;
    }
    if level == SOL_SOCKET && matches!(name, 7 | 8) {
        // As the kernel: twice what was asked for, within bounds.
        let asked = i32::from_le_bytes([v[0], v[1], v[2], v[3]]).clamp(2304, 4 << 20);
        v = (asked * 2).to_le_bytes().to_vec();
    }
    if matches!((level, name), (41, 26)) && s.bound.is_some() {
        return Err(EINVAL);
    }
    let conn = match s.state {
        State::Connected(id) => Some(id),
        _ => None,
    };
    let value = if v.len() >= 4 { i32::from_le_bytes([v[0], v[1], v[2], v[3]]) } else { 0 };
    s.options.insert((level, name), v);
    if let Some(conn) = conn {
        k.act(&Act::Option { conn, level: level as u16, name: name as u16, value });
    }
    done(0)
}

pub fn getsockopt(k: &mut Kernel, a: &Args) -> Reply {
    let (level, name) = (a[1] as u32, a[2] as u32);
    let room = user::read::<i32>(a[4])?;
    if room < 0 {
        return Err(EINVAL);
    }
    let d = k.fds.desc_of(a[0])?;
    let value: Vec<u8> = match &k.fds.at(d).object {
        Object::Pair(p) => match (level, name) {
            (1, 3) => p.type_number().to_le_bytes().to_vec(),
            (1, 20) => timeval(p.read_timeout_ns),
            (1, 21) => timeval(p.write_timeout_ns),
            (1, 17) => inner::own_credentials(k),
            (1, 39) => 1i32.to_le_bytes().to_vec(),
            (1, 4 | 30 | 38) => 0i32.to_le_bytes().to_vec(),
            (1, 7 | 8) => 212_992i32.to_le_bytes().to_vec(),
            _ => return Err(ENOPROTOOPT),
        },
        Object::Socket(s) => match (level, name) {
            (1, 4) => {
                let State::Connected(id) = s.state else { return write_option(&0i32.to_le_bytes(), a, room) };
                let c = k.conn_mut(id);
                let e = c.reset.filter(|_| !c.reset_told).unwrap_or(0);
                c.reset_told |= e != 0;
                i32::from(e).to_le_bytes().to_vec()
            }
            (6, _) if s.other_kind().is_some() => return Err(EOPNOTSUPP),
            (1, 3) => s.kind.to_le_bytes().to_vec(), // SO_TYPE
            (1, 30) => i32::from(matches!(s.state, State::Listening(_))).to_le_bytes().to_vec(), // SO_ACCEPTCONN
            (1, 38) => s.protocol().to_le_bytes().to_vec(), // SO_PROTOCOL
            (1, 17) if matches!(s.state, State::Inner(_)) && s.family == AF_UNIX => inner::own_credentials(k), // SO_PEERCRED
            (1, 17) => inner::no_credentials(),
            (1, 39) => i32::from(s.family).to_le_bytes().to_vec(),        // SO_DOMAIN
            (1, 13) => s.options.get(&(1, 13)).cloned().unwrap_or_else(|| alloc::vec![0; 8]),
            (1, 20 | 21) => s.options.get(&(1, name)).cloned().unwrap_or_else(|| alloc::vec![0; 16]),
            (6, 11) => tcp_info(k, s),
            (6, 13) => s.options.get(&(6, 13)).cloned().unwrap_or_else(|| b"cubic\0".to_vec()),
            (1 | 6 | 0 | 41, _) => s.option(level, name).to_le_bytes().to_vec(),
            _ => return Err(ENOPROTOOPT),
        },
        _ => return Err(ENOTSOCK),
    };
    write_option(&value, a, room)
}

fn write_option(value: &[u8], a: &Args, room: i32) -> Reply {
    let n = value.len().min(room as usize);
    user::copy_out(a[3], &value[..n])?;
    user::write(a[4], &(n as u32))?;
    done(0)
}

/// State, and counters that follow from the log; what only the host knows (round-trip times ...) is 0.
fn tcp_info(k: &Kernel, s: &Socket) -> Vec<u8> {
    const ESTABLISHED: u8 = 1;
    const CLOSE: u8 = 7;
    const CLOSE_WAIT: u8 = 8;
    const LISTEN: u8 = 10;
    let mut b = alloc::vec![0u8; 232];
    b[0] = match s.state {
        State::Fresh | State::Mute => CLOSE,
        State::Inner(_) => ESTABLISHED,
        State::Listening(_) => LISTEN,
        State::Connected(id) => match k.conn(id) {
            c if c.reset.is_some() => CLOSE,
            c if c.fin => CLOSE_WAIT,
            _ => ESTABLISHED,
        },
    };
    b[16..20].copy_from_slice(&1448u32.to_le_bytes()); // snd_mss
    b[20..24].copy_from_slice(&1448u32.to_le_bytes()); // rcv_mss
    b
}
