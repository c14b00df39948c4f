//! What one host's front tells another's, which goes on from there as if it had followed all along.

use super::connection::{Connection, SocketOption};
use super::{Front, ListenSpec};
use ft_log::ids::{ConnId, ListenerId, LogIndex};
use nix::sys::epoll::Epoll;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontState {
    pub last_conn: u32,
    pub listeners: Vec<(u32, ListenSpec)>,
    pub connections: Vec<ConnectionState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionState {
    pub id: u32,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Logged, and of that read by the guest.
    pub received: u64,
    pub consumed: u64,
    pub input_ended: bool,
    /// The peer has everything before, `output` begins there.
    pub acked: u64,
    /// What the log says of that.
    pub acked_told: u64,
    pub guest: GuestState,
    /// The kernel is done with it.
    pub is_gone: bool,
    pub options: Vec<SocketOption>,
    /// Kept apart from the rest.
    #[serde(skip)]
    pub output: Vec<u8>,
}

/// The guest's side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    Open,
    Shut,
    Closed { reset: bool },
}

impl Front {
    pub fn state(&self) -> FrontState {
        let here = self.listeners.iter().map(|(id, l)| (id.0, l.spec));
        let elsewhere = self.elsewhere.iter().map(|(id, spec)| (id.0, *spec));
        FrontState {
            last_conn: self.last_conn.0,
            listeners: here.chain(elsewhere).collect(),
            connections: self.connections.iter().map(|(id, c)| c.state(*id)).collect(),
        }
    }

    /// One whose sockets are elsewhere.
    pub fn of_state(epoll: Rc<Epoll>, state: FrontState, now: Instant) -> Self {
        let mut front = Self::new(epoll);
        front.last_conn = ConnId(state.last_conn);
        front.elsewhere = state.listeners.into_iter().map(|(id, spec)| (ListenerId(id), spec)).collect();
        front.connections = state.connections.into_iter().map(|s| (ConnId(s.id), Connection::of_state(s, now))).collect();
        front
    }
}

impl Connection {
    fn state(&self, id: ConnId) -> ConnectionState {
        let (a, b) = self.output.all();
        ConnectionState {
            id: id.0,
            peer: self.peer,
            local: self.local,
            received: self.received,
            consumed: self.consumed,
            input_ended: self.input_ended,
            acked: self.output.acked(),
            acked_told: self.acked_told,
            guest: self.guest_state(),
            is_gone: self.socket().is_none() && !self.is_elsewhere(),
            options: self.options.clone(),
            output: [a, b].concat(),
        }
    }

    fn of_state(s: ConnectionState, now: Instant) -> Self {
        let mut c = Self::elsewhere(s.peer, s.local, now);
        (c.received, c.taken, c.consumed) = (s.received, s.received, s.consumed);
        c.output.begin_at(s.acked);
        c.output.push(&s.output);
        c.acked_told = s.acked_told;
        // What the guest does next to the world waits for nothing: whoever serves then has no other log.
        let barrier = LogIndex(0);
        match s.guest {
            GuestState::Open => {}
            GuestState::Shut => c.shutdown(barrier),
            GuestState::Closed { reset } => c.close(reset, barrier),
        }
        if s.input_ended {
            c.end_input();
        }
        if s.is_gone {
            c.gone_elsewhere();
        }
        c.options = s.options;
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::entry::Event;
    use nix::sys::epoll::EpollCreateFlags;

    fn epoll() -> Rc<Epoll> {
        Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap())
    }

    fn sorted(mut s: FrontState) -> FrontState {
        s.connections.sort_by_key(|c| c.id);
        s
    }

    /// One that followed from the start and one that was told in the middle are the same at the end.
    #[test]
    fn who_is_told_knows_what_who_followed_knows() {
        let now = Instant::now();
        let (peer, local) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let mut front = Front::new(epoll());
        let spec = ListenSpec { address: local, backlog: 7, v6only: false };
        front.listen_elsewhere(ListenerId(3), spec);
        for n in 1..=7 {
            let conn = ConnId(n);
            front.follow(&Event::Accept { listener: ListenerId(3), conn, peer, local }, now);
            front.follow(&Event::Data { conn, bytes: b"question" }, now);
            front.output(conn, &[n as u8; 100], LogIndex(0)).unwrap();
        }
        let c = ConnId;
        front.consumed(c(1), 5).unwrap();
        front.option(c(1), libc::SOL_SOCKET as u16, libc::SO_KEEPALIVE as u16, 1);
        front.follow(&Event::Acked { conn: c(2), upto: 60 }, now);
        front.follow(&Event::Fin { conn: c(3) }, now);
        front.shutdown(c(4), LogIndex(0)).unwrap();
        front.close(c(5), true, LogIndex(0)).unwrap();
        front.follow(&Event::Reset { conn: c(6), errno: 104 }, now);
        front.follow(&Event::Acked { conn: c(7), upto: 100 }, now);

        let told = sorted(front.state());
        assert_eq!(told.listeners, [(3, spec)]);
        assert_eq!((told.connections[0].consumed, told.connections[0].received), (5, 8));
        assert_eq!((told.connections[1].acked, told.connections[1].output.len()), (60, 40));
        assert!(told.connections[5].is_gone && told.connections[5].output.is_empty());
        let mut other = Front::of_state(epoll(), told.clone(), now);
        assert_eq!(sorted(other.state()), told);
        for f in [&mut front, &mut other] {
            f.follow(&Event::Acked { conn: c(1), upto: 10 }, now);
            f.output(c(2), b"more", LogIndex(0)).unwrap();
            f.output(c(6), b"lost", LogIndex(0)).unwrap();
            f.close(c(6), false, LogIndex(0)).unwrap();
            f.gone_elsewhere(c(5));
            assert!(f.output(c(4), b"after its end", LogIndex(0)).is_err());
            f.follow(&Event::Accept { listener: ListenerId(3), conn: c(8), peer, local }, now);
        }
        assert_eq!(sorted(other.state()), sorted(front.state()));
        assert_eq!(other.connections(), 6);
    }
}
