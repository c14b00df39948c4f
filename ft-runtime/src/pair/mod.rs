//! One host of a pair: its guest leads or follows, the link carries the log, and the failover machine decides who speaks.
//!
//! [`run`] brings it up, [`decider`] asks the machine, [`acts`] does what it says, [`reseed`] gives another host the
//! service's state; the rest of what happens is here.
//!
//! Laws: nothing of the guest leaves before the backup's engine holds what caused it, or before this host is alone by
//! right; what came over the link is acknowledged on receipt, unless this host has begun to take over; what the machine
//! wants done is done in its order, before the next event.

mod acts;
pub mod admission;
mod candidate;
pub mod decider;
mod disk;
mod divergence;
pub mod guard;
pub mod join;
pub mod log;
mod meeting;
pub mod message;
mod news;
mod reseed;
pub mod run;
pub mod seed;
mod start_message;
pub mod status;
pub mod world;

use crate::engine::backup::{Backup, describe_status};
use crate::engine::feed::Feed;
use crate::engine::primary::Primary;
use crate::engine::{Core, Ended, EngineError, Part, Stats};
use crate::failover::action::{Acks, Failure, Lease};
use crate::failover::config::Timing;
use crate::failover::event::{Command, LinkEnd, ServiceNet};
use crate::failover::{self, HostId, Kind, Message};
use crate::front::{Deed, Front, Token};
use crate::gate::boot_time::BootTime;
use crate::link::{Link, LinkError};
use crate::monitor::scene::Scene;
use crate::probe::Probe;
use admission::Admission;
use decider::Decider;
use disk::Disks;
use divergence::{Reporter, Told};
use guard::Notice;
use ft_log::codec::Writer;
use ft_log::entry::{Entry, Event};
use ft_log::ids::{ConnId, DomainId, LogIndex};
use join::Joined;
use log::{LinkSource, Outgoing, PairLog, Rule};
use message::{HEAD_BYTES, Heartbeat, MessageError, kind};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use seed::Seed;
use start_message::StartMessage;
use status::{Progress, Shown, StatusBoard};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use world::{BIRTH_BYTES_MAX, Stillborn, World};

/// Tokens of the pair's descriptors.
const TOKEN_LINK: u32 = 0;
const TOKEN_GATE: u32 = 1;
const TOKEN_ARBITER: u32 = 2;
const TOKEN_NOTICE: u32 = 3;
const TOKEN_ADMISSION: u32 = 4;
const TOKEN_SEED: u32 = 5;
/// A link without a sign of life for so many silences is given up; by then the failover machine has decided.
const SILENCES_MAX: u32 = 5;
/// Own heartbeats that are remembered until they come back.
const HEARTBEATS_MAX: usize = 1024;
const SERVICE: DomainId = DomainId(0);
/// Connections that the backup isn't told the end of before their resets are surely out.
const RESETS_MAX: usize = 1024;
/// Between a transfer that came to nothing and the next; longer each time.
const SEED_PAUSE_MIN: Duration = Duration::from_millis(250);
const SEED_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often the engine looks whether the guest can be copied.
const SEED_LOOK: Duration = Duration::from_millis(2);
/// A backup that lags slows the primary; one that lags this many times longer than that is given up.
const LAG_TIMES_MAX: u32 = 10;

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

pub struct Settings {
    pub timing: Timing,
    pub lag_bytes_max: usize,
    pub lag_max: Duration,
    /// By then a reset has reached its client, or this host has handed over.
    pub reset_memory: Duration,
    pub me: HostId,
    pub peer_id: HostId,
    pub peer: String,
    pub service: String,
    pub host: String,
    /// The guest's, for names in reports; where those are written.
    pub program: PathBuf,
    pub reports: PathBuf,
}

impl Settings {
    fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.timing.heartbeat_ms)
    }

    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.timing.lease_ms)
    }
}

/// What a pair's engine begins with.
pub(crate) struct Beginning {
    /// With the peer; `None`: this host starts the service without it.
    pub link: Option<Link>,
    /// The guest leads; else it follows the peer's.
    pub leads: bool,
    pub decider: Decider,
    pub settings: Settings,
    pub board: StatusBoard,
    /// `None`: the service has no virtual address.
    pub world: Option<World>,
    /// Of the service network; there where `world` is.
    pub probe: Option<Probe>,
    /// Of the peer's guard, while it leads.
    pub notice: Option<Notice>,
    /// What the guest was started with, here or elsewhere.
    pub start: StartMessage,
    /// Finds another host when there is none.
    pub admission: Admission,
    pub guest_pid: i32,
    /// What goes with a guest that was made of another host's.
    pub joined: Option<Joined>,
}

/// What the last entries said of the domain's clock, and when they came.
#[derive(Clone, Copy)]
struct HeardClock {
    monotonic_ns: u64,
    at: Instant,
}

impl HeardClock {
    fn now_ns(self, now: Instant) -> u64 {
        self.monotonic_ns + now.saturating_duration_since(self.at).as_nanos() as u64
    }
}

pub(crate) struct Pair {
    /// `None` only while it changes.
    role: Option<Role>,
    decider: Decider,
    settings: Settings,
    board: StatusBoard,
    shown: Option<Shown>,
    out: Rc<RefCell<Outgoing>>,
    link_ready: bool,
    notice_ready: bool,
    /// Leading: the peer's guest was started with ours, or made of it, and has had all of the log.
    peer_has_all: bool,
    start: StartMessage,
    guest_pid: i32,
    admission: Admission,
    /// Leading: the peer is without state and wants it; it is being given it; and when that is tried again.
    peer_joins: bool,
    seed: Option<Seed>,
    seed_again: Instant,
    seed_pause: Duration,
    /// Following, made of the primary's guest: since when. The primary is told when the guest has caught up.
    joins_since: Option<Instant>,

    // Following.
    source: LinkSource,
    received: LogIndex,
    acknowledged: LogIndex,
    clock: Option<HeardClock>,
    acks: Acks,
    /// What still comes of the peer's log doesn't count.
    log_is_over: bool,
    /// The guest does what the log still has; then this host is ready to take over.
    is_replaying: bool,
    /// Connections that the guest hears of when it goes live.
    young: Vec<Event<'static>>,
    /// Leading: connections that ended by a reset. It is never repeated: if it is lost with this host or its network, the
    /// backup must know the connection still.
    resets: VecDeque<(Instant, ConnId)>,

    // Speaking.
    world: Option<World>,
    probe: Option<Probe>,
    notice: Option<Notice>,
    lease: Lease,
    is_open: bool,
    heard_at: Instant,
    /// Own heartbeats sent, and when; the last heard of the other, and the last it was told of.
    heartbeats: VecDeque<(u64, BootTime)>,
    heartbeat_at: Instant,
    last_seq: u64,
    heard_seq: u64,
    echoed_seq: u64,
    turned_at: BootTime,

    // Ending.
    guest_gone: bool,
    /// Nobody goes on with the service; its clients are told by the closing of their connections.
    is_leaving: bool,
    diverged: Option<Box<Scene>>,
    /// Leading: what the peer says of its own.
    told: Told,
    disks: Disks,
    /// Write what is known of divergences.
    reporters: Vec<Reporter>,
    interrupted: Option<u8>,
    /// The machine's last word.
    reason: String,
    /// The service ended by itself, here as in the log.
    over: Option<Ended>,
    ended: Option<Ended>,
}

impl Pair {
    fn new(epoll: &Rc<Epoll>, b: Beginning) -> Result<Self, EngineError> {
        let watch = |fd, flags, token| epoll.add(fd, EpollEvent::new(flags, Token::Pair(token).encode()));
        if let Some(w) = &b.world {
            // By edges: a backup leaves in the queue what its kernel would send, and must not be woken for it for ever.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            watch(w.fd(), flags, TOKEN_GATE).map_err(|e| EngineError::system("watching the gate", e))?;
        }
        if let Some(fd) = b.decider.fd() {
            watch(fd, EpollFlags::EPOLLIN, TOKEN_ARBITER).map_err(|e| EngineError::system("watching the arbiter", e))?;
        }
        if let Some(l) = &b.link {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            watch(l.fd(), flags, TOKEN_LINK).map_err(|e| EngineError::system("watching the link", e))?;
        }
        if let Some(n) = &b.notice {
            watch(n.fd(), EpollFlags::EPOLLIN, TOKEN_NOTICE).map_err(|e| EngineError::system("watching for the peer's guard", e))?;
        }
        let fd = b.admission.fd();
        epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Pair(TOKEN_ADMISSION).encode()))
            .map_err(|e| EngineError::system("watching for another host", e))?;
        let now = Instant::now();
        let peer_has_all = b.leads && b.link.is_some();
        let start = LogIndex(b.joined.as_ref().map_or(0, |j| j.message.index));
        let mut out = Outgoing::new(b.link, b.settings.peer_id, start);
        if peer_has_all {
            out.begin_following();
        }
        let out = Rc::new(RefCell::new(out));
        let source = LinkSource::default();
        let mut decider = b.decider;
        let mut world = b.world;
        let mut clock = None;
        let mut kept = Vec::new();
        let mut joins_since = None;
        let role = if let Some(j) = b.joined {
            clock = j.message.clock_ns.map(|monotonic_ns| HeardClock { monotonic_ns, at: j.since });
            joins_since = Some(j.since);
            kept = j.kept;
            for e in &j.events {
                source.0.borrow_mut().push(SERVICE, e);
            }
            if let Some(w) = &mut world {
                j.births.into_iter().for_each(|told| w.was_told(told, j.since));
            }
            let front = Front::of_state(epoll.clone(), j.engine.front, now);
            Role::Following(Box::new(Backup::that_may_go_live(Feed::new(source.clone()), front)))
        } else if b.leads {
            let mut primary = Primary::new(epoll.clone(), Box::new(PairLog(out.clone())));
            primary.front().watched = true;
            decider.tell(failover::Event::GuestStarted);
            Role::Leading(Box::new(primary))
        } else {
            let feed = Feed::new(source.clone());
            Role::Following(Box::new(Backup::that_may_go_live(feed, Front::new(epoll.clone()))))
        };
        if let Some(w) = &world {
            b.board.set_lease(w.lease());
        }
        let mut pair = Self {
            role: Some(role),
            decider,
            settings: b.settings,
            board: b.board,
            shown: None,
            out,
            link_ready: true,
            notice_ready: true,
            peer_has_all,
            start: b.start,
            guest_pid: b.guest_pid,
            admission: b.admission,
            peer_joins: false,
            seed: None,
            seed_again: now,
            seed_pause: SEED_PAUSE_MIN,
            joins_since,
            source,
            received: start,
            acknowledged: start,
            clock,
            acks: Acks::On,
            log_is_over: false,
            is_replaying: false,
            young: Vec::new(),
            resets: VecDeque::new(),
            world,
            probe: b.probe,
            notice: b.notice,
            lease: Lease::Expire,
            is_open: false,
            heard_at: Instant::now(),
            heartbeats: VecDeque::new(),
            heartbeat_at: Instant::now(),
            last_seq: 0,
            heard_seq: 0,
            echoed_seq: 0,
            turned_at: BootTime::now(),
            guest_gone: false,
            is_leaving: false,
            diverged: None,
            told: Told::default(),
            disks: Disks::default(),
            reporters: Vec::new(),
            interrupted: None,
            reason: String::new(),
            over: None,
            ended: None,
        };
        pair.introduce_guard();
        for (kind, body) in kept {
            pair.message(kind, &body, now)?;
        }
        Ok(pair)
    }

    /// The peer is told by what it knows this host's guard.
    fn introduce_guard(&mut self) {
        if let Some(f) = self.world.as_ref().and_then(World::guard_fingerprint) {
            self.out.borrow_mut().send(kind::GUARD, &[], &f);
        }
    }

    fn role(&mut self) -> &mut Role {
        self.role.as_mut().expect("a role but while it changes")
    }

    fn leads(&self) -> bool {
        matches!(self.role, Some(Role::Leading(_)))
    }

    fn has_link(&self) -> bool {
        self.out.borrow().link.is_some()
    }

    fn show(&mut self) {
        let now = Shown::of(self.decider.kind(), self.decider.is_paused(), self.decider.term().0);
        if self.shown.replace(now) != Some(now) {
            self.board.set(now);
        }
    }

    fn show_progress(&mut self, now: Instant) {
        let mut out = self.out.borrow_mut();
        let lag = out.lag_since().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let (appended, acknowledged) = match self.role {
            Some(Role::Leading(_)) => (out.appended(), out.acknowledged()),
            _ => (self.received, self.acknowledged),
        };
        let (link_sent_bytes, link_received_bytes) = out.link.as_ref().map_or((0, 0), Link::wire_bytes);
        self.board.set_progress(Progress {
            appended: appended.0,
            acknowledged: acknowledged.0,
            lag_ms: lag.as_millis() as u64,
            log_bytes: out.bytes,
            queued_bytes: out.link.as_ref().map_or(0, Link::queued_bytes) as u64,
            link_sent_bytes,
            link_received_bytes,
        });
    }

    // The link.

    fn read_link_to_end(&self) {
        if let Some(l) = &mut self.out.borrow_mut().link {
            l.read_to_end();
        }
    }

    fn receive(&mut self, now: Instant) -> Result<(), EngineError> {
        if !std::mem::take(&mut self.link_ready) {
            return Ok(());
        }
        let Some(mut link) = self.out.borrow_mut().link.take() else { return Ok(()) };
        let mut wrong = None;
        let mut goodbye = None;
        let result = link.on_ready().and_then(|()| {
            link.recv(&mut |kind, body| match self.message(kind, body, now) {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(text)) => {
                    goodbye = Some(text);
                    ControlFlow::Break(())
                }
                Err(e) => {
                    wrong = Some(e);
                    ControlFlow::Break(())
                }
            })
        });
        self.link_ready = link.pending();
        self.out.borrow_mut().link = Some(link);
        if let Some(e) = wrong {
            return Err(e);
        }
        match (goodbye, result) {
            (Some(text), _) => self.lose_link(LinkEnd::Closed, &format!("it says goodbye: {text}")),
            (None, Err(e)) => self.lose_link(end_of(&e), &e.to_string()),
            (None, Ok(())) => {}
        }
        Ok(())
    }

    /// `Some`: the peer leaves, and why.
    fn message(&mut self, kind: u8, body: &[u8], now: Instant) -> Result<Option<String>, EngineError> {
        let foreign = |e: ft_log::codec::DecodeError| EngineError::Peer(format!("message {kind}: {e}"));
        let unfit = |e: MessageError| EngineError::Peer(format!("message {kind}: {e}"));
        let peer = self.settings.peer_id;
        // A former primary may go on with its log for a moment; so may a former backup with its acknowledgements.
        let follows = !self.leads() && !self.log_is_over;
        match kind {
            kind::ENTRY if follows => {
                let (d, entry) = message::decode_entry(body).map_err(foreign)?;
                self.received = self.received.next();
                self.follow(d, entry, now)?;
            }
            kind::BIRTH if follows => {
                self.received = self.received.next();
                let birth = world::decode_birth(body).map_err(foreign)?;
                if let Some(w) = &mut self.world {
                    w.heard(birth, now);
                }
            }
            kind::GONE if follows => {
                let conn = message::decode_conn(body).map_err(foreign)?;
                if let Some(w) = &mut self.world {
                    w.forget(conn);
                }
                if let Some(Role::Following(b)) = &mut self.role
                    && let Some(front) = b.front()
                {
                    front.gone_elsewhere(conn);
                }
            }
            kind::ACK if self.leads() => {
                let index = message::decode_ack(body, peer).map_err(unfit)?;
                if !self.out.borrow_mut().acknowledge(peer, index) {
                    return Err(EngineError::Peer(format!("it acknowledges entry {index}, which was never sent")));
                }
            }
            kind::STILLBORN if follows => {
                let s = Stillborn::decode(body).map_err(foreign)?;
                if let Some(w) = &mut self.world {
                    w.forget_stillborn(s);
                }
            }
            kind::ENTRY | kind::BIRTH | kind::GONE | kind::STILLBORN | kind::ACK => {}
            kind::TAKEN if self.leads() => {
                let bytes = message::decode_number(body).map_err(foreign)?;
                if let Some(s) = &mut self.seed {
                    s.taken = bytes;
                }
            }
            kind::READY if self.leads() => self.peer_is_ready(now),
            kind::TAKEN | kind::READY => {}
            kind::DISK_FAILED if self.leads() => self.hear_disk_failed(body).map_err(foreign)?,
            kind::DISK_FAILED => {}
            kind::DIVERGED if self.leads() => self.told.part(body).map_err(EngineError::Peer)?,
            kind::DIVERGED => {}
            kind::HEARTBEAT => {
                let h = Heartbeat::decode(body, peer).map_err(unfit)?;
                self.heard_seq = h.seq;
                self.heard_at = now;
                self.decider.tell(failover::Event::HeartbeatSeen { service_ok: h.would_serve });
                if self.leads() && self.peer_has_all && self.decider.kind() == Kind::PrimaryAlone {
                    self.decider.tell(failover::Event::PeerCaughtUp);
                }
                self.renew_lease(h.echo)?;
            }
            kind::ROLE => {
                let m = message::decode_role(body, peer).map_err(unfit)?;
                if let Message::Hello(h) = m {
                    self.peer_joins = h.role == failover::message::Role::Joining;
                }
                self.decider.tell(failover::Event::Peer(m));
            }
            kind::GUARD => {
                let f = body.try_into().map_err(|_| EngineError::Peer(format!("a guard's fingerprint of {} bytes", body.len())))?;
                if let Some(n) = &mut self.notice {
                    n.expect(f);
                }
            }
            kind::BYE => return Ok(Some(String::from_utf8_lossy(body).into_owned())),
            k => return Err(EngineError::Peer(format!("message of unknown kind {k}"))),
        }
        Ok(None)
    }

    /// One entry of the primary's log.
    fn follow(&mut self, d: DomainId, entry: &[u8], now: Instant) -> Result<(), EngineError> {
        let wrong = |why: String| EngineError::Peer(format!("entry for domain {d}: {why}"));
        let decoded = Entry::decode(entry).map_err(|e| wrong(e.to_string()))?;
        if let Entry::Applied(a) = &decoded
            && d == SERVICE
        {
            self.clock = Some(HeardClock { monotonic_ns: a.clock.monotonic_ns, at: now });
        }
        if let (Entry::Event(e), true) = (&decoded, d == SERVICE)
            && let Role::Following(b) = self.role()
            && let Some(front) = b.front()
        {
            front.follow(e, now);
            if let (Event::Accept { conn, peer, local, .. }, Some(w)) = (e, &mut self.world) {
                w.accepted_elsewhere(*conn, *peer, *local);
            }
        }
        if !self.source.0.borrow_mut().push(d, entry) {
            return Err(wrong("there is no such domain".into()));
        }
        Ok(())
    }

    fn lose_link(&mut self, end: LinkEnd, why: &str) {
        if self.out.borrow_mut().link.take().is_none() {
            return;
        }
        tracing::warn!("the link to {} is gone: {why}", self.settings.peer);
        self.board.event(&format!("link lost: {why}"));
        if !self.leads() && matches!(self.decider.kind(), Kind::Starting | Kind::Joining) {
            let left = format!("{} went before this host had all of the service's state: {why}", self.settings.peer);
            self.ended.get_or_insert(Ended::Rejoins(left));
        }
        self.link_is_gone();
        if self.over.is_some() {
            // There is nothing left to take over; whose the service was stays as it is.
            return;
        }
        self.decider.tell(failover::Event::LinkDown(end));
    }

    fn flush(&mut self) {
        let failed = match self.out.borrow_mut().link.as_mut().map(Link::flush) {
            Some(Err(e)) => Some(e),
            _ => None,
        };
        if let Some(e) = failed {
            self.lose_link(end_of(&e), &e.to_string());
        }
    }

    fn send_acks(&mut self) {
        if self.leads() || self.acks == Acks::Off || self.acknowledged == self.received {
            return;
        }
        self.acknowledged = self.received;
        let (me, upto) = (self.settings.me, self.received);
        self.send_head(kind::ACK, |w| message::encode_ack(me, upto, w));
    }

    fn send_head(&mut self, kind: u8, encode: impl FnOnce(&mut Writer)) {
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        encode(&mut w);
        let n = w.len();
        self.out.borrow_mut().send(kind, &head[..n], &[]);
    }

    fn send_heartbeat(&mut self, now: Instant) {
        if now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = now + self.settings.heartbeat();
        if !self.leads()
            && !self.log_is_over
            && let Some(w) = &mut self.world
        {
            w.keep_heard(now, self.heard_at);
        }
        self.show_progress(now);
        self.show_seed(now);
        if let Some(order) = self.board.take_order() {
            self.decider.tell(failover::Event::Operator(order.command()));
        }
        if !self.has_link() {
            return;
        }
        if self.acks == Acks::On {
            self.echoed_seq = self.heard_seq;
        }
        self.last_seq += 1;
        if self.heartbeats.len() == HEARTBEATS_MAX {
            self.heartbeats.pop_front();
        }
        self.heartbeats.push_back((self.last_seq, BootTime::now()));
        let h = Heartbeat {
            seq: self.last_seq,
            echo: self.echoed_seq,
            would_serve: self.decider.would_serve(),
        };
        let me = self.settings.me;
        self.send_head(kind::HEARTBEAT, |w| h.encode(me, w));
    }

    /// The other side has heard our heartbeat `echo`: it can't take over before a silence after that has passed.
    fn renew_lease(&mut self, echo: u64) -> Result<(), EngineError> {
        let mut sent = None;
        while self.heartbeats.front().is_some_and(|(seq, _)| *seq <= echo) {
            sent = self.heartbeats.pop_front();
        }
        let (Some((_, at)), true, Lease::ByPeer) = (sent, self.is_open, self.lease) else { return Ok(()) };
        self.world.as_mut().map_or(Ok(()), |w| w.renew(at))
    }

    /// A slow backup slows the primary first, before anything grows without bound.
    fn is_backup_behind(&mut self, now: Instant) -> bool {
        let mut out = self.out.borrow_mut();
        let queued = out.link.as_ref().map_or(0, Link::queued_bytes);
        let lag = match out.rule() {
            Rule::Backups => out.lag_since().map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            Rule::Alone | Rule::Held => Duration::ZERO,
        };
        drop(out);
        if lag > self.settings.lag_max * LAG_TIMES_MAX {
            self.decider.tell(failover::Event::PeerLags);
        }
        queued > self.settings.lag_bytes_max || lag > self.settings.lag_max
    }

    // Who speaks.

    /// Whether clients can be reached from here.
    fn look_at_service(&mut self, now: Instant) {
        let Some(p) = &mut self.probe else { return };
        let before = p.says();
        let Some(net) = p.look(now) else { return };
        if net == ServiceNet::Lost {
            self.board.event(&p.missing());
        }
        if before == ServiceNet::Lost
            && let (true, Some(w)) = (self.is_open, &mut self.world)
        {
            // Nobody has heard of the address from here meanwhile.
            w.announce();
        }
        self.decider.tell(failover::Event::ServiceNet(net));
    }

    /// Asks the machine about all that happened.
    fn decide(&mut self, core: &mut Core, now: Instant) -> Result<(), EngineError> {
        while self.ended.is_none()
            && !self.is_leaving
            && let Some(actions) = self.decider.next()
        {
            for action in actions {
                if let Some(action) = self.decider.act(action) {
                    self.act(core, action, now)?;
                }
            }
            if self.decider.kind() == Kind::Failed {
                self.end(core);
            }
        }
        self.show();
        Ok(())
    }

    /// This host's part is over.
    fn end(&mut self, core: &mut Core) {
        if self.may_rejoin() {
            let why = match self.diverged.take() {
                Some(how) => farewell(&Ended::Diverged(how)),
                None => self.reason.clone(),
            };
            self.ended.get_or_insert(Ended::Rejoins(why));
            return;
        }
        let e = match (self.diverged.take(), self.interrupted) {
            (Some(text), _) => Ended::Diverged(text),
            (None, Some(signo)) => Ended::Interrupted(signo),
            (None, None) if self.decider.failure() == Some(Failure::Detached) => Ended::Detached(self.reason.clone()),
            (None, None) if self.guest_gone => {
                Ended::Exited { status: core.status_of(SERVICE).unwrap_or(libc::SIGKILL), logged: false }
            }
            (None, None) => Ended::Left(self.reason.clone()),
        };
        self.ended.get_or_insert(e);
    }

    /// The world's part of a turn of a host that leads.
    fn lead(&mut self, now: Instant) -> Result<bool, EngineError> {
        let Some(Role::Leading(p)) = &mut self.role else { return Ok(false) };
        let mut over = Vec::new();
        while let Some(&(sent, conn)) = self.resets.front()
            && (now >= sent + self.settings.reset_memory || self.resets.len() > RESETS_MAX)
        {
            self.resets.pop_front();
            over.push(conn);
        }
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
                    if reset {
                        self.resets.push_back((now, conn));
                    } else {
                        over.push(conn);
                    }
                }
                (Deed::Accepted(_) | Deed::Fin(_), None) => {}
            }
        }
        for conn in over {
            self.gone(conn);
        }
        let Some(w) = &mut self.world else { return Ok(false) };
        let mut out = self.out.borrow_mut();
        if self.lease == Lease::Own && self.is_open {
            w.renew(BootTime::now())?;
        }
        let more = w.turn(now, |b| {
            let mut bytes = [0; BIRTH_BYTES_MAX];
            let mut writer = Writer::new(&mut bytes);
            world::encode_birth(b, &mut writer);
            let n = writer.len();
            out.append_birth(&bytes[..n])
        })?;
        for s in w.take_stillborn() {
            let mut head = [0; HEAD_BYTES];
            let mut writer = Writer::new(&mut head);
            s.encode(&mut writer);
            let n = writer.len();
            if out.is_followed() {
                out.send(kind::STILLBORN, &head[..n], &[]);
            }
        }
        drop(out);
        self.let_out()?;
        Ok(more)
    }

    /// What became safe may be acknowledged.
    fn let_out(&mut self) -> Result<(), EngineError> {
        let Some(w) = &mut self.world else { return Ok(()) };
        let mut out = self.out.borrow_mut();
        w.committed(out.committed());
        while let Some(m) = out.next_safe_input() {
            w.input(m);
            if let Some(p) = &mut self.probe {
                p.heard_client();
            }
        }
        w.flush()
    }

    /// The kernel is done with a connection.
    fn gone(&mut self, conn: ConnId) {
        self.out.borrow_mut().forget(conn);
        if self.out.borrow().is_followed() {
            self.send_head(kind::GONE, |w| w.uint(conn.0.into()));
        }
    }
}

/// Why this host leaves, as its peer is told.
fn farewell(e: &Ended) -> String {
    match e {
        Ended::Exited { status, .. } => format!("its server ended ({})", describe_status(*status)),
        Ended::Diverged(scene) => format!("its server did something else: {}", scene.what),
        Ended::Interrupted(signo) => format!("stopped by signal {signo}"),
        Ended::Left(why) | Ended::Detached(why) | Ended::Rejoins(why) | Ended::Stuck(why) => why.clone(),
        Ended::LogEnd | Ended::Held(_) | Ended::Debugged(_) => "its log has ended".into(),
    }
}

/// Whether the link's end shows that the other engine is gone.
fn end_of(e: &LinkError) -> LinkEnd {
    match e {
        LinkError::Closed { .. } => LinkEnd::Closed,
        LinkError::Broken { source, .. }
            if matches!(source.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
        {
            LinkEnd::Closed
        }
        _ => LinkEnd::Lost,
    }
}

impl Part for Pair {
    fn drain(&mut self, core: &mut Core, d: DomainId) -> Result<bool, EngineError> {
        let more = self.role().part().drain(core, d)?;
        if let Some(Role::Leading(p)) = &mut self.role
            && let Some(events) = p.take_copied()
        {
            self.seed_copied(&events);
        }
        Ok(more)
    }

    fn settle(&mut self, core: &mut Core, d: DomainId) -> Result<(), EngineError> {
        let died = d == SERVICE && core.exit_of(d).is_none();
        if died && !std::mem::replace(&mut self.guest_gone, true) {
            // A guest that does something else than the log says so, and ends: that it says comes first.
            if let Role::Following(b) = self.role() {
                let ended = b.ended(core, Instant::now())?;
                self.follower_ended(ended);
            }
            let status = core.status_of(d).unwrap_or(libc::SIGKILL);
            tracing::error!("the guest died ({})", describe_status(status));
            self.decider.tell(failover::Event::GuestDied);
        }
        if died && !self.is_leaving {
            return Ok(());
        }
        self.role().part().settle(core, d)
    }

    fn on_signal(&mut self, core: &mut Core, signo: u8, now: Instant) -> Result<(), EngineError> {
        if self.leads() {
            return self.role().part().on_signal(core, signo, now);
        }
        self.interrupted = Some(signo);
        self.decider.tell(failover::Event::Operator(Command::Shutdown));
        Ok(())
    }

    fn on_front(&mut self, token: Token, events: i32) {
        match token {
            Token::Pair(TOKEN_LINK) => {
                self.link_ready = true;
                if events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                    self.read_link_to_end();
                }
            }
            Token::Pair(TOKEN_GATE) => {
                if let Some(w) = &mut self.world {
                    w.readable = true;
                }
            }
            Token::Pair(TOKEN_ARBITER) => self.decider.on_answer(),
            Token::Pair(TOKEN_NOTICE) => self.notice_ready = true,
            // Looked at in every turn.
            Token::Pair(TOKEN_ADMISSION | TOKEN_SEED) => {}
            Token::Pair(_) => {}
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
        let turned_at = BootTime::now();
        if turned_at.since(std::mem::replace(&mut self.turned_at, turned_at)) > self.settings.lease() {
            self.decider.tell_first(failover::Event::Thawed);
        }
        if self.decider.deadline().is_some_and(|at| at <= now) {
            // A timer is due. Perhaps it was this engine that stood still, and what the other said waits to be read.
            self.link_ready = true;
            self.notice_ready = true;
            self.read_link_to_end();
        }
        self.receive(now)?;
        self.hear_divergence(core);
        self.admit(core, now)?;
        if std::mem::take(&mut self.notice_ready)
            && self.notice.as_mut().is_some_and(Notice::is_heard)
            && self.over.is_none()
        {
            self.decider.tell(failover::Event::PeerDead);
        }
        let quiet = now.saturating_duration_since(self.heard_at);
        if self.has_link() && quiet > Duration::from_millis(self.settings.timing.silence_ms) * SILENCES_MAX {
            self.lose_link(LinkEnd::Lost, &format!("silent for {} ms", quiet.as_millis()));
        }
        self.look_at_service(now);
        if let Some(w) = &mut self.world
            && let Some(said) = w.look_at_rules(now)?
        {
            tracing::error!("{said}");
            self.board.event(said);
        }
        self.decide(core, now)?;
        let mut more = self.look_at_disks(core, now);
        self.send_acks();
        let behind = self.is_backup_behind(now);
        let heir = self.peer_has_all;
        let resumed = self.world.as_mut().is_some_and(World::take_resumed);
        if let Role::Leading(p) = self.role() {
            p.paused = behind;
            p.heir = heir;
            if resumed {
                p.front().push();
            }
            // Before the answers are sent: then they need not wait for leave to acknowledge their questions.
            self.let_out()?;
        }
        more |= self.role().part().turn(core, now)?;
        if let (true, Some(Role::Leading(p))) = (self.peer_has_all, &mut self.role) {
            p.compare_quiet(core, now)?;
        }
        more |= self.lead(now)?;
        more |= self.reseed(core, now)?;
        self.send_heartbeat(now);
        self.flush();
        if self.is_replaying {
            more = true;
            if self.role().part().is_at_log_end(core)? {
                self.is_replaying = false;
                self.decider.tell(failover::Event::ReplayDone { upto: self.received });
            }
        }
        Ok(more || self.link_ready)
    }

    fn deadline(&self) -> Option<Instant> {
        let role = match self.role.as_ref()? {
            Role::Leading(p) => p.deadline(),
            Role::Following(b) => b.deadline(),
        };
        let world = self.world.as_ref().filter(|_| self.leads()).and_then(|w| w.deadline(Instant::now()));
        let heartbeat = Some(self.heartbeat_at);
        let probe = self.probe.as_ref().map(Probe::deadline);
        let decider = if self.is_leaving { None } else { self.decider.deadline() };
        // Only where the engine has to look for itself: whether the guest has applied enough, and has made its copy.
        let now = Instant::now();
        let seed = self.seed.as_ref().and_then(|s| if s.is_begun() { Some(now + SEED_LOOK) } else { s.deadline(now) });
        let disks = self.disks.deadline();
        [role, world, heartbeat, probe, decider, seed, disks].into_iter().flatten().min()
    }

    fn ended(&mut self, core: &Core, now: Instant) -> Result<Option<Ended>, EngineError> {
        if self.ended.is_none() {
            self.ended = match self.role() {
                Role::Leading(p) => p.ended(core, now)?,
                Role::Following(b) => {
                    let ended = b.ended(core, now)?;
                    self.follower_ended(ended)
                }
            };
        }
        if let Some(e) = &self.ended {
            let mut out = self.out.borrow_mut();
            out.send(kind::BYE, &[], farewell(e).as_bytes());
            if let Some(l) = &mut out.link {
                // The peer notices the closed link anyway.
                let _ = l.flush();
            }
        }
        Ok(self.ended.clone())
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
            let _ = l.flush();
        }
    }
}

impl Pair {
    /// The log's end is the link's end, and that is decided elsewhere; here is what the guest did.
    fn follower_ended(&mut self, ended: Option<Ended>) -> Option<Ended> {
        match ended {
            Some(Ended::Diverged(scene)) => {
                self.diverged(scene);
                None
            }
            // The service has ended, on both hosts; the primary tells its clients, and leaves when they know.
            Some(e @ Ended::Exited { .. }) => {
                self.over = Some(e);
                if self.has_link() && !self.log_is_over { None } else { self.over.clone() }
            }
            _ => None,
        }
    }
}
