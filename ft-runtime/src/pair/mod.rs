//! One host of a pair: its guest leads or follows, the link carries the log, and who may speak is decided here.
//!
//! There is no arbiter yet. So that two hosts never speak at once without one, only the backup may go on alone: a primary
//! that loses its backup falls silent (its lease runs out before the backup may open its own gate) and says so.
//!
//! Laws: nothing of the guest leaves before the backup's engine holds what caused it, or before this host is alone by
//! right; what came over the link is acknowledged on receipt; a host that has taken over never follows again.

pub mod log;
pub mod message;
pub mod run;
pub mod status;
pub mod world;

use crate::engine::backup::Backup;
use crate::engine::feed::Feed;
use crate::engine::primary::Primary;
use crate::engine::{Core, Ended, EngineError, Part, Stats};
use crate::front::{Deed, Front, Token};
use crate::gate::boot_time::BootTime;
use crate::link::Link;
use ft_log::codec::Writer;
use ft_log::entry::{ClockSample, Entry, Event};
use ft_log::ids::{ConnId, DomainId, LogIndex, Term};
use log::{LinkSource, Outgoing, PairLog, Rule};
use message::{HEAD_BYTES, Heartbeat, kind};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use status::{Shown, StatusBoard, Traffic};
use world::{BIRTH_BYTES_MAX, World};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Tokens of the pair's descriptors.
const TOKEN_LINK: u32 = 0;
const TOKEN_GATE: u32 = 1;
/// Heartbeats per longest silence: one lost or late is no silence.
const HEARTBEATS_PER_SILENCE: u32 = 4;

/// What the guest does.
enum Role {
    Leading(Box<Primary>),
    Following(Box<Backup<LinkSource>>),
}

impl Role {
    fn part(&mut self) -> &mut dyn Part {
        match self {
            Self::Leading(p) => &mut **p,
            Self::Following(b) => &mut **b,
        }
    }
}

/// How this host stands to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Both have the log; output waits for the backup.
    Protected,
    /// The other host is gone and the guest here has not caught up with the log yet.
    TakingOver,
    /// This host has taken over; there is no other any more.
    Alone,
    /// This host led and can't reach the other, which may have taken over: it says nothing more.
    Mute,
}

pub struct Settings {
    pub silence: Duration,
    pub lag_bytes_max: usize,
    pub lag_max: Duration,
}

/// What the last entries said of the domain's clock, and when they came.
#[derive(Clone, Copy)]
struct HeardClock {
    sample: ClockSample,
    at: Instant,
}

pub(crate) struct Pair {
    role: Option<Role>,
    stand: Stand,
    term: Term,
    settings: Settings,
    out: Rc<RefCell<Outgoing>>,
    source: LinkSource,
    /// Log received while following.
    received: LogIndex,
    acknowledged: LogIndex,
    clock: Option<HeardClock>,
    link_ready: bool,
    heard_at: Instant,
    heartbeat_at: Instant,
    board: StatusBoard,
    peer_point: u64,
    world: Option<World>,
    /// Own heartbeats sent, and when; the last heard of the other.
    heartbeats: VecDeque<(u64, BootTime)>,
    last_seq: u64,
    heard_seq: u64,
    ended: Option<Ended>,
}

impl Pair {
    fn new(
        epoll: &Rc<Epoll>,
        link: Link,
        leads: bool,
        term: Term,
        settings: Settings,
        board: StatusBoard,
        mut world: Option<World>,
    ) -> Result<Self, EngineError> {
        if let Some(w) = &mut world {
            epoll
                .add(w.fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Pair(TOKEN_GATE).encode()))
                .map_err(|e| EngineError::system("watching the gate", e))?;
            if leads {
                w.begin_to_lead()?;
            }
        }
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        epoll
            .add(link.fd(), EpollEvent::new(flags, Token::Pair(TOKEN_LINK).encode()))
            .map_err(|e| EngineError::system("watching the link", e))?;
        let out = Rc::new(RefCell::new(Outgoing::new(Some(link), Rule::Backup, LogIndex(0))));
        let source = LinkSource::default();
        let role = if leads {
            let mut primary = Primary::new(epoll.clone(), Box::new(PairLog(out.clone())));
            primary.front().watched = true;
            Role::Leading(Box::new(primary))
        } else {
            let feed = Feed::new(source.clone());
            Role::Following(Box::new(Backup::that_may_go_live(feed, Front::new(epoll.clone()))))
        };
        let now = Instant::now();
        let mut pair = Self {
            role: Some(role),
            stand: Stand::Protected,
            term,
            settings,
            out,
            source,
            received: LogIndex(0),
            acknowledged: LogIndex(0),
            clock: None,
            link_ready: true,
            heard_at: now,
            heartbeat_at: now,
            board,
            peer_point: 0,
            world,
            heartbeats: VecDeque::new(),
            last_seq: 0,
            heard_seq: 0,
            ended: None,
        };
        pair.show();
        Ok(pair)
    }

    fn role(&mut self) -> &mut Role {
        self.role.as_mut().expect("a role but while it changes")
    }

    fn leads(&self) -> bool {
        matches!(self.role, Some(Role::Leading(_)))
    }

    fn show(&mut self) {
        let (role, state) = match (self.leads(), self.stand) {
            (true, Stand::Protected) => ("primary", "protected"),
            (true, Stand::Mute) => ("mute", "mute: the backup can't be reached"),
            (true, _) => ("primary", "alone"),
            (false, Stand::Protected) => ("backup", "protected"),
            (false, _) => ("claiming", "taking over"),
        };
        self.board.set(Shown { role, state, term: self.term.0 });
    }

    fn count(&self) {
        let out = self.out.borrow();
        let (link_sent_bytes, link_received_bytes) = out.link.as_ref().map_or((0, 0), Link::wire_bytes);
        let log_entries = if self.leads() { out.progress.appended() } else { self.received }.0;
        self.board.count(Traffic { log_entries, log_bytes: out.bytes, link_sent_bytes, link_received_bytes });
    }

    // The link.

    fn receive(&mut self, now: Instant) -> Result<(), EngineError> {
        if !std::mem::take(&mut self.link_ready) {
            return Ok(());
        }
        let Some(mut link) = self.out.borrow_mut().link.take() else { return Ok(()) };
        let mut wrong = None;
        let result = link.on_ready().and_then(|()| {
            link.recv(&mut |kind, body| {
                self.heard_at = now;
                match self.message(kind, body, now) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => {
                        wrong = Some(e);
                        ControlFlow::Break(())
                    }
                }
            })
        });
        let more = link.pending();
        self.link_ready = more;
        self.out.borrow_mut().link = Some(link);
        if let Some(e) = wrong {
            return Err(e);
        }
        if let Err(e) = result {
            self.lose_peer(&e.to_string());
        }
        Ok(())
    }

    fn message(&mut self, kind: u8, body: &[u8], now: Instant) -> Result<(), EngineError> {
        let foreign = |e: ft_log::codec::DecodeError| EngineError::Peer(format!("message {kind}: {e}"));
        match kind {
            kind::ENTRY => {
                let (d, entry) = message::decode_entry(body).map_err(foreign)?;
                self.received = self.received.next();
                self.follow(d, entry, now)
            }
            kind::ACK => {
                let index = message::decode_index(body).map_err(foreign)?;
                if !self.out.borrow_mut().progress.commit(index) {
                    return Err(EngineError::Peer(format!("it acknowledges entry {index}, which was never sent")));
                }
                Ok(())
            }
            kind::GONE => {
                let conn = message::decode_conn(body).map_err(foreign)?;
                let Some(Role::Following(b)) = &mut self.role else { return Ok(()) };
                let Some(front) = b.front() else { return Ok(()) };
                if let (Some(w), Some(c)) = (&mut self.world, front.get(conn)) {
                    w.forget(c.peer, c.local);
                }
                front.gone_elsewhere(conn);
                Ok(())
            }
            kind::BIRTH => {
                self.received = self.received.next();
                let birth = world::decode_birth(body).map_err(foreign)?;
                if let Some(w) = &mut self.world {
                    w.heard(birth, now);
                }
                Ok(())
            }
            kind::HEARTBEAT => {
                let h = Heartbeat::decode(body).map_err(foreign)?;
                self.peer_point = h.point;
                self.heard_seq = h.seq;
                self.renew_lease(h.echo)
            }
            kind::BYE => {
                self.lose_peer(&format!("it says goodbye: {}", String::from_utf8_lossy(body)));
                Ok(())
            }
            k => Err(EngineError::Peer(format!("message of unknown kind {k}"))),
        }
    }

    /// One entry of the primary's log.
    fn follow(&mut self, d: DomainId, entry: &[u8], now: Instant) -> Result<(), EngineError> {
        let wrong = |why: String| EngineError::Peer(format!("entry for domain {d}: {why}"));
        let decoded = Entry::decode(entry).map_err(|e| wrong(e.to_string()))?;
        if let Entry::Applied(a) = &decoded
            && d.0 == 0
        {
            self.clock = Some(HeardClock { sample: a.clock, at: now });
        }
        if let (Entry::Event(e), true) = (&decoded, d.0 == 0)
            && let Role::Following(b) = self.role()
            && let Some(front) = b.front()
        {
            front.follow(e, now);
        }
        if !self.source.0.borrow_mut().push(d, entry) {
            return Err(wrong("there is no such domain".into()));
        }
        Ok(())
    }

    /// A slow backup slows the primary first, before anything grows without bound.
    fn is_backup_behind(&mut self, now: Instant) -> bool {
        let mut out = self.out.borrow_mut();
        let queued = out.link.as_ref().map_or(0, Link::queued_bytes);
        let late = out.rule == Rule::Backup
            && out.lag_since().is_some_and(|at| now.saturating_duration_since(at) > self.settings.lag_max);
        queued > self.settings.lag_bytes_max || late
    }

    fn send_acks(&mut self) {
        if self.acknowledged == self.received {
            return;
        }
        self.acknowledged = self.received;
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        w.uint(self.received.0);
        let n = w.len();
        self.out.borrow_mut().send(kind::ACK, &head[..n], &[]);
    }

    fn send_heartbeat(&mut self, core: &Core, now: Instant) {
        if now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = now + self.settings.silence / HEARTBEATS_PER_SILENCE;
        let index = if self.leads() { self.out.borrow().progress.appended() } else { self.received };
        self.last_seq += 1;
        self.heartbeats.push_back((self.last_seq, BootTime::now()));
        let h = Heartbeat { term: self.term, index, point: core.points(), seq: self.last_seq, echo: self.heard_seq };
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        h.encode(&mut w);
        let n = w.len();
        self.out.borrow_mut().send(kind::HEARTBEAT, &head[..n], &[]);
    }

    /// The other side has heard our heartbeat `echo`: it can't take over before a silence after that has passed.
    fn renew_lease(&mut self, echo: u64) -> Result<(), EngineError> {
        let mut sent = None;
        while self.heartbeats.front().is_some_and(|(seq, _)| *seq <= echo) {
            sent = self.heartbeats.pop_front();
        }
        let (Some((_, at)), Some(w), true) = (sent, &mut self.world, self.stand == Stand::Protected) else { return Ok(()) };
        if matches!(self.role, Some(Role::Leading(_))) { w.renew(at) } else { Ok(()) }
    }

    fn flush(&mut self) {
        let failed = match self.out.borrow_mut().link.as_mut().map(Link::flush) {
            Some(Err(e)) => Some(e),
            _ => None,
        };
        if let Some(e) = failed {
            self.lose_peer(&e.to_string());
        }
    }

    fn watch_silence(&mut self, now: Instant) -> Result<(), EngineError> {
        let silent = |p: &Self| {
            p.stand == Stand::Protected && now.saturating_duration_since(p.heard_at) > p.settings.silence
        };
        if silent(self) {
            // Perhaps it was this engine that stood still, and the other's words wait to be read.
            self.link_ready = true;
            self.receive(now)?;
        }
        if silent(self) {
            let ms = now.saturating_duration_since(self.heard_at).as_millis();
            self.lose_peer(&format!("silent for {ms} ms"));
        }
        Ok(())
    }

    // Who speaks.

    fn lose_peer(&mut self, why: &str) {
        if self.stand != Stand::Protected {
            return;
        }
        self.out.borrow_mut().link = None;
        if self.leads() {
            tracing::error!("the backup is gone ({why}): this host may not speak alone and falls silent");
            self.board.event(&format!("backup lost: {why}; mute"));
            self.stand = Stand::Mute;
        } else {
            tracing::warn!("the primary is gone ({why}): taking over");
            self.board.event(&format!("primary lost: {why}; taking over"));
            self.stand = Stand::TakingOver;
            self.term = self.term.next();
        }
        self.show();
    }

    /// The guest has caught up with the log, and the log has ended.
    fn take_over(&mut self, core: &mut Core, now: Instant) -> Result<(), EngineError> {
        let clock = self.clock.map_or(0, |c| {
            c.sample.monotonic_ns + now.saturating_duration_since(c.at).as_nanos() as u64
        });
        let out = Rc::new(RefCell::new(Outgoing::new(None, Rule::Alone, self.received)));
        let Some(Role::Following(backup)) = self.role.take() else { unreachable!("only a backup takes over") };
        let mut primary = backup.go_live(core, Box::new(PairLog(out.clone())), clock)?;
        self.out = out;
        self.board.event("replayed");
        if let Some(w) = &mut self.world {
            self.board.event("claimed");
            let mut young = Vec::new();
            let adopt = |front: &mut Front, b: &crate::takeover::tcp_repair::Birth| {
                let listener = front.listener_for(b.local)?;
                let conn = front.adopt_elsewhere(b.client, b.local, now);
                young.push(Event::Accept { listener, conn, peer: b.client, local: b.local });
                Some(conn)
            };
            for (conn, c) in primary.front().elsewhere() {
                self.out.borrow_mut().begin_input(conn, c.inherited().received);
            }
            let r = w.take_over(primary.front(), adopt, now)?;
            for e in young {
                primary.unlogged_event(core, DomainId(0), &e)?;
            }
            self.board.event(&format!("sockets restored: {} ({} half open, {} lost); address up", r.connections, r.half_open, r.lost));
        }
        primary.break_connections(core)?;
        primary.front().watched = true;
        self.role = Some(Role::Leading(Box::new(primary)));
        self.stand = Stand::Alone;
        self.board.event("live");
        self.show();
        Ok(())
    }

    /// The guest here died without a word of its own: this host has nothing more to say, and the other goes on.
    fn give_up(&mut self, core: &mut Core) -> Result<(), EngineError> {
        let status = core.status_of(DomainId(0)).unwrap_or(libc::SIGKILL);
        tracing::error!("the guest died ({}): leaving it to the other host", crate::engine::backup::describe_status(status));
        if let Some(w) = &mut self.world {
            // Nothing that the closing sockets say may leave.
            w.fall_silent();
        }
        self.out.borrow_mut().send(kind::BYE, &[], b"its guest died");
        self.flush();
        self.ended = Some(Ended::Exited { status, logged: false });
        Ok(())
    }

    /// The world's part of a turn of a host that leads.
    fn lead(&mut self, now: Instant) -> Result<bool, EngineError> {
        let Some(Role::Leading(p)) = &mut self.role else { return Ok(false) };
        let mut over = Vec::new();
        for deed in std::mem::take(&mut p.front().deeds) {
            match (deed, &mut self.world) {
                (Deed::Accepted(conn), Some(w)) => {
                    if let Some(c) = p.front().get(conn)
                        && let Some(socket) = c.socket()
                    {
                        w.accepted(conn, socket, c.peer, c.local);
                    }
                }
                (Deed::Fin(conn), Some(w)) => w.permit_fin(conn),
                (Deed::Over { conn, reset, .. }, w) => {
                    if let Some(w) = w {
                        if reset {
                            w.permit_rst(conn);
                        }
                        w.closed(conn);
                    }
                    over.push(conn);
                }
                (Deed::Accepted(_) | Deed::Fin(_), None) => {}
            }
        }
        for conn in over {
            self.gone(conn);
        }
        let Some(w) = &mut self.world else { return Ok(false) };
        let mut out = self.out.borrow_mut();
        if self.stand == Stand::Alone {
            w.renew(BootTime::now())?;
        }
        let more = w.turn(now, |b| {
            let mut bytes = [0; BIRTH_BYTES_MAX];
            let mut writer = Writer::new(&mut bytes);
            world::encode_birth(b, &mut writer);
            let n = writer.len();
            out.append_birth(&bytes[..n])
        })?;
        w.committed(out.committed());
        while let Some(m) = out.next_safe_input() {
            w.input(m);
        }
        drop(out);
        w.flush()?;
        Ok(more)
    }
}

impl Part for Pair {
    fn drain(&mut self, core: &mut Core, d: DomainId) -> Result<bool, EngineError> {
        self.role().part().drain(core, d)
    }

    fn settle(&mut self, core: &mut Core, d: DomainId) -> Result<(), EngineError> {
        let killed = d.0 == 0 && core.exit_of(d).is_none();
        if killed && self.stand == Stand::Protected && self.ended.is_none() {
            return self.give_up(core);
        }
        self.role().part().settle(core, d)
    }

    fn on_signal(&mut self, core: &mut Core, signo: u8, now: Instant) -> Result<(), EngineError> {
        if !self.leads() {
            self.ended = Some(Ended::Interrupted(signo));
            return Ok(());
        }
        self.role().part().on_signal(core, signo, now)
    }

    fn on_front(&mut self, token: Token, events: i32) {
        match token {
            Token::Pair(TOKEN_LINK) => self.link_ready = true,
            Token::Pair(TOKEN_GATE) => {
                if let Some(w) = &mut self.world {
                    w.readable = true;
                }
            }
            t => self.role().part().on_front(t, events),
        }
    }

    fn is_at_log_end(&mut self, core: &Core) -> Result<bool, EngineError> {
        self.role().part().is_at_log_end(core)
    }

    fn go_live(
        self: Box<Self>,
        _: &mut Core,
        _: Box<dyn crate::engine::log::Log>,
        _: u64,
    ) -> Result<Primary, EngineError> {
        unreachable!("a pair decides itself when its guest goes live")
    }

    fn turn(&mut self, core: &mut Core, now: Instant) -> Result<bool, EngineError> {
        self.receive(now)?;
        if !self.leads() {
            self.send_acks();
        }
        let behind = self.is_backup_behind(now);
        if let Role::Leading(p) = self.role() {
            p.paused = behind;
        }
        let mut more = self.role().part().turn(core, now)?;
        more |= self.lead(now)?;
        if self.stand == Stand::Protected {
            self.send_heartbeat(core, now);
        }
        self.flush();
        self.count();
        self.watch_silence(now)?;
        if self.stand == Stand::TakingOver {
            // A primary that only lost the link has fallen silent by then: its lease is shorter than the silence.
            let may = now.saturating_duration_since(self.heard_at) > self.settings.silence;
            if may && self.role().part().is_at_log_end(core)? {
                self.take_over(core, now)?;
            }
            more = true;
        }
        Ok(more || self.link_ready)
    }

    fn deadline(&self) -> Option<Instant> {
        let role = match self.role.as_ref()? {
            Role::Leading(p) => p.deadline(),
            Role::Following(b) => b.deadline(),
        };
        let pair = (self.stand == Stand::Protected).then(|| self.heartbeat_at.min(self.heard_at + self.settings.silence));
        let world = self.world.as_ref().filter(|_| self.leads()).and_then(|w| w.deadline(Instant::now()));
        // Alone, the lease is renewed by looking at it.
        let alone = (self.stand == Stand::Alone).then(|| Instant::now() + self.settings.silence / HEARTBEATS_PER_SILENCE);
        [role, pair, world, alone].into_iter().flatten().min()
    }

    fn ended(&mut self, core: &Core, now: Instant) -> Result<Option<Ended>, EngineError> {
        if self.ended.is_some() {
            return Ok(self.ended.clone());
        }
        match self.role() {
            Role::Leading(p) => p.ended(core, now),
            // The log's end is the link's end, and that is decided here.
            Role::Following(b) => Ok(b.ended(core, now)?.filter(|e| !matches!(e, Ended::LogEnd | Ended::Stuck(_)))),
        }
    }

    fn add_stats(&self, s: &mut Stats) {
        match &self.role {
            Some(Role::Leading(p)) => p.add_stats(s),
            Some(Role::Following(b)) => b.add_stats(s),
            None => {}
        }
    }

    fn abort(&mut self, error: &EngineError) {
        let mut out = self.out.borrow_mut();
        out.send(kind::BYE, &[], error.to_string().as_bytes());
        if let Some(l) = &mut out.link {
            // The peer notices the closed link anyway.
            let _ = l.flush();
        }
    }
}

impl Pair {
    /// The kernel is done with a connection.
    fn gone(&mut self, conn: ConnId) {
        let mut out = self.out.borrow_mut();
        out.forget(conn);
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        w.uint(conn.0.into());
        let n = w.len();
        out.send(kind::GONE, &head[..n], &[]);
    }
}
