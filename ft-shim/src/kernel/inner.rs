//! Connections between two sockets of the domain: TCP over loopback to a listener of the guest's own, and Unix sockets
//! with names. Nothing of them leaves the domain: they are two byte queues, like a socket pair.
//!
//! The file of a Unix socket is real, on both hosts, so that programs can look at it and remove it. Nobody outside the
//! domain can connect to it.

use super::fds::{DescId, Object};
use super::mute::{self, AF_UNIX};
use super::pipe::{Pair, PairKind};
use super::socket::{Socket, State, Waiting, encode_address, shown};
use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, done, epoll};
use crate::raw::*;
use crate::user;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// What an end of such a connection is called.
#[derive(Clone)]
pub enum Name {
    Ip(SocketAddr),
    /// What follows the family in a Unix address; empty: none.
    Unix(Vec<u8>),
}

/// One end of a connection.
#[derive(Clone)]
pub struct Connection {
    pub pair: Pair,
    pub local: Name,
    pub peer: Name,
}

/// Where a bound Unix socket is found. Numbers of the host's file system serve to find it, and are never shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    File(u64, u64),
    Abstract(Vec<u8>),
}

/// Bound Unix sockets.
#[derive(Default)]
pub struct Names {
    by_key: BTreeMap<Key, DescId>,
}

impl Names {
    pub fn forget(&mut self, d: DescId) {
        self.by_key.retain(|_, x| *x != d);
    }
}

impl Name {
    /// As a socket of `family` shows it.
    pub fn encode(&self, family: u16) -> Vec<u8> {
        match self {
            Self::Ip(a) => encode_address(shown(*a, family)),
            Self::Unix(path) => [&AF_UNIX.to_le_bytes()[..], path].concat(),
        }
    }
}

/// A Unix address: what follows the family.
pub fn unix_name(address: u64, len: u64) -> Result<Vec<u8>, i64> {
    const PATH_BYTES_MAX: u64 = 108;
    let len = len as u32 as u64;
    if !(3..=2 + PATH_BYTES_MAX).contains(&len) {
        return Err(EINVAL);
    }
    if user::read::<u16>(address)? != AF_UNIX {
        return Err(EINVAL);
    }
    let mut name = alloc::vec![0u8; len as usize - 2];
    user::copy_in(&mut name, address + 2)?;
    if name[0] != 0 {
        // A path ends at its first 0, and is shown with one.
        let end = name.iter().position(|&c| c == 0).unwrap_or(name.len());
        name.truncate(end);
        name.push(0);
    }
    Ok(name)
}

/// The file of that name; an errno if there is none or it is no socket.
fn file_key(name: &[u8]) -> Result<Key, i64> {
    const AT_FDCWD: i32 = -100;
    const S_IFMT: u32 = 0o170_000;
    const S_IFSOCK: u32 = 0o140_000;
    let mut stat = [0u64; 18];
    // SAFETY: reads a path that ends in 0, fills one stat structure of 144 bytes.
    let r = unsafe { raw!(nr::NEWFSTATAT, AT_FDCWD, name.as_ptr() as u64, stat.as_mut_ptr() as u64, 0) };
    if r < 0 {
        return Err(-r);
    }
    if stat[3] as u32 & S_IFMT != S_IFSOCK {
        return Err(ECONNREFUSED);
    }
    Ok(Key::File(stat[0], stat[1]))
}

pub fn bind_unix(k: &mut Kernel, d: DescId, a: &Args) -> Reply {
    let name = unix_name(a[1], a[2])?;
    let key = if name[0] == 0 {
        let key = Key::Abstract(name.clone());
        if k.net.names.by_key.contains_key(&key) {
            return Err(EADDRINUSE);
        }
        key
    } else {
        const MKNOD: u32 = 133;
        const S_IFSOCK_777: u32 = 0o140_777;
        const EEXIST: i64 = 17;
        // SAFETY: reads a path that ends in 0.
        match unsafe { raw!(MKNOD, name.as_ptr() as u64, S_IFSOCK_777, 0) } {
            0 => file_key(&name)?,
            e if e == -EEXIST => return Err(EADDRINUSE),
            e => return Err(-e),
        }
    };
    k.net.names.by_key.insert(key, d);
    if let Object::Socket(s) = &mut k.fds.at_mut(d).object {
        s.name = name;
    }
    done(0)
}

/// The guest's own listener at a TCP address: on loopback, or on just that address.
fn tcp_listener(k: &Kernel, to: SocketAddr) -> Option<DescId> {
    let matches = |s: &Socket, exact: bool| {
        let State::Listening(_) = s.state else { return false };
        let Some(b) = s.bound.map(|b| b.ip().to_canonical()) else { return false };
        if exact {
            return b == to.ip();
        }
        let family = b.is_ipv4() == to.is_ipv4() || (!s.v6only() && to.is_ipv4());
        b.is_unspecified() && to.ip().is_loopback() && family
    };
    let found = |exact: bool| {
        k.net.holders(to.port()).find(|&d| matches!(&k.fds.at(d).object, Object::Socket(s) if matches(s, exact)))
    };
    found(true).or_else(|| found(false))
}

/// Connects a fresh TCP socket within the domain. `None`: the address is not the domain's.
pub fn connect_tcp(k: &mut Kernel, d: DescId, to: SocketAddr) -> Option<Reply> {
    let mut to = SocketAddr::new(to.ip().to_canonical(), to.port());
    if to.ip().is_unspecified() {
        // As in the kernel: to oneself.
        to.set_ip(if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let listener = tcp_listener(k, to)?;
    Some(connect_tcp_to(k, d, to, listener))
}

fn connect_tcp_to(k: &mut Kernel, d: DescId, to: SocketAddr, listener: DescId) -> Reply {
    let Object::Socket(s) = &k.fds.at(d).object else { return Err(ENOTSOCK) };
    let local = match s.bound {
        Some(b) if !b.ip().is_unspecified() => b,
        Some(b) => SocketAddr::new(to.ip(), b.port()),
        None => {
            let port = k.net.free_port()?;
            k.net.hold_port(port, d);
            SocketAddr::new(to.ip(), port)
        }
    };
    k.join(d, listener, PairKind::Stream, Name::Ip(local), Name::Ip(to));
    if let Object::Socket(s) = &mut k.fds.at_mut(d).object {
        s.bound = Some(local);
    }
    // It is there at once, but a kernel never says so to one who doesn't wait.
    if k.fds.nonblocking(d) { Err(EINPROGRESS) } else { done(0) }
}

/// Connects a Unix socket within the domain.
pub fn connect_unix(k: &mut Kernel, d: DescId, kind: mute::Kind, a: &Args) -> Reply {
    let name = unix_name(a[1], a[2])?;
    let key = if name[0] == 0 { Ok(Key::Abstract(name.clone())) } else { file_key(&name) };
    let listener = key.ok().and_then(|key| k.net.names.by_key.get(&key).copied());
    let Some(listener) = listener else { return Err(mute::reach_path(k, &name)) };
    let Object::Socket(Socket { state: State::Listening(l), kind: listens_for, .. }) = &k.fds.at(listener).object else {
        return Err(ECONNREFUSED);
    };
    if *listens_for != kind.kind {
        return Err(EPROTOTYPE);
    }
    if l.is_full() {
        return if k.fds.nonblocking(d) { Err(EAGAIN) } else { Ok(Outcome::Block(Block::Object)) };
    }
    let Object::Socket(s) = &k.fds.at(d).object else { return Err(ENOTSOCK) };
    let own = Name::Unix(s.name.clone());
    let Some(kind) = kind.pair_kind() else { return Err(mute::reach_path(k, &name)) };
    k.join(d, listener, kind, own, Name::Unix(name));
    done(0)
}

impl Kernel {
    /// Makes socket `d` one end of a new connection, and queues the other end at the listener.
    fn join(&mut self, d: DescId, listener: DescId, kind: PairKind, local: Name, peer: Name) {
        let (near, far) = self.pipes.create_pair(kind);
        self.pipes.attach_pair(near, d);
        if let Object::Socket(Socket { state: State::Listening(l), .. }) = &mut self.fds.at_mut(listener).object {
            l.queue.push_back(Waiting::Inner(Connection { pair: far, local: peer.clone(), peer: local.clone() }));
        }
        if let Object::Socket(s) = &mut self.fds.at_mut(d).object {
            s.state = State::Inner(Connection { pair: near, local, peer });
        }
        self.notify(d, epoll::OUT);
        self.notify(listener, epoll::IN);
    }

    /// The two queues behind a socket pair's end or a connection within the domain.
    pub fn pair_of(&self, d: DescId) -> Option<Pair> {
        match &self.fds.at(d).object {
            Object::Pair(p) => Some(*p),
            Object::Socket(Socket { state: State::Inner(c), .. }) => Some(c.pair),
            _ => None,
        }
    }

    pub fn pair_mut(&mut self, d: DescId) -> Option<&mut Pair> {
        match &mut self.fds.at_mut(d).object {
            Object::Pair(p) => Some(p),
            Object::Socket(Socket { state: State::Inner(c), .. }) => Some(&mut c.pair),
            _ => None,
        }
    }
}

/// SO_PEERCRED: the peer is the guest itself.
pub fn own_credentials(k: &Kernel) -> Vec<u8> {
    const GETEUID: u32 = 107;
    const GETEGID: u32 = 108;
    // SAFETY: reads two ids.
    let (uid, gid) = unsafe { (raw!(GETEUID) as u32, raw!(GETEGID) as u32) };
    [k.process.pid as u32, uid, gid].iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// SO_PEERCRED of a socket without a peer.
pub fn no_credentials() -> Vec<u8> {
    [0u32, u32::MAX, u32::MAX].iter().flat_map(|v| v.to_le_bytes()).collect()
}

