//! The engine: one thread, one epoll, between the service's guest and the world.
//!
//! Laws: the engine alone orders the log; a domain's entries are appended in the order of its ring, an event is
//! appended and pushed in one step; nothing here waits but `sleep`; every ring of every live domain is looked at
//! between announcing a sleep and sleeping. The guest is foreign: what it says is checked, and a guest that
//! breaks the contract is ended with a message that says how.

pub mod backup;
pub mod domain;
pub mod feed;
pub mod halt;
pub mod log;
pub mod primary;
pub mod process;
pub mod sys;
pub mod trace;
pub mod unlogged;

use crate::front::{Front, Token};
use crate::logfile::LogFileError;
use crate::monitor::scene::Scene;
use crate::snapshot::EngineState;
use crate::snapshot::changes::Told;
use crate::snapshot::stream::Outlet;
use crate::snapshot::taker::Taker;
use crate::snapshot::tree::{Place, Replaced};
use backup::Backup;
use domain::Domain;
use feed::{Feed, FeedError, Source};
use halt::Halt;
use ft_log::codec::DecodeError;
use ft_log::entry::{Act, Disagreement};
use ft_log::history::History;
use ft_log::ids::{DomainId, PipeId};
use ft_log::ring::{Corrupt, announce_wait};
use ft_log::shared::{DOMAINS_MAX, Segment};
use log::Log;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use primary::Primary;
use process::{Grandchild, Process};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use trace::Trace;

/// Messages taken from one domain before the others have their turn.
const DRAIN_FRAMES_MAX: usize = 4096;
/// Different refusals that are told; a guest can make up any number.
const REFUSALS_MAX: usize = 64;
const EPOLL_EVENTS: usize = 256;
/// A ring to the guest is full: look again this often. (A guest that follows doesn't announce that it made room.)
const BACKLOG_POLL: Duration = Duration::from_millis(1);
/// The longest sleep: bounds what a lost wake-up could cost.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Why the engine gave up. The guest is ended with it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the guest broke its contract with the engine: {0}")]
    Guest(String),
    #[error("cannot listen on {address}: {source}; {}", listen_advice(source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{what} failed: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("the other host broke its contract: {0}")]
    Peer(String),
    #[error(transparent)]
    Log(#[from] LogFileError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Gate(#[from] crate::gate::error::GateError),
}

impl EngineError {
    pub fn system(what: &'static str, e: impl Into<io::Error>) -> Self {
        Self::System { what, source: e.into() }
    }

    fn corrupt(domain: DomainId) -> impl FnOnce(Corrupt) -> Self {
        move |e| Self::Guest(format!("domain {domain}: {e}"))
    }

    fn decode(domain: DomainId, e: DecodeError) -> Self {
        Self::Guest(format!("domain {domain} sent what can't be read: {e}"))
    }
}

fn listen_advice(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => "another program listens there (see `ss -ltnp`): stop it or change the service's port",
        io::ErrorKind::AddrNotAvailable => "this host has no such address (see `ip address`)",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root",
        _ => "see the service's configuration",
    }
}

/// What the engine is given: a guest that was launched and not heard of yet.
pub struct Setup {
    pub segment: Segment,
    /// The engine's end of the doorbell eventfd.
    pub doorbell: OwnedFd,
    pub process: Box<dyn Process>,
    /// Signals that `ft` got, one byte each.
    pub signals: Option<OwnedFd>,
    pub trace: Option<Trace>,
    /// Of a guest that makes its log.
    pub snapshots: Option<Taker>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The service ended; its wait status. `logged`: it said so itself, else it was killed or crashed.
    Exited { status: i32, logged: bool },
    /// The log has no more, and the guest waits for more.
    LogEnd,
    /// Guest and log disagree; how.
    Diverged(Box<Scene>),
    /// No domain gets on; why.
    Stuck(String),
    /// It stands at the input point at which it was to stop.
    Held(u64),
    /// Somebody has looked at it with a debugger, and is done; the input point by then.
    Debugged(u64),
    /// `ft` got this signal while following.
    Interrupted(u8),
    /// This host has no part in the service any more; why.
    Left(String),
    /// No part any more, as a person wanted it.
    Detached(String),
    /// No part any more, but it may be given the service's state anew.
    Rejoins(String),
}

/// Totals of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub entries: u64,
    /// The highest input point of the service's own domain.
    pub points: u64,
    pub connections: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
    pub memory_checks: u64,
    /// The service and all its fork children.
    pub domains: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ended: Ended,
    pub stats: Stats,
    /// What the guest asked for and was refused because it can't be done in lockstep; each once.
    pub refused: Vec<String>,
}

/// What both roles share.
pub(crate) struct Core {
    segment: Segment,
    epoll: Rc<Epoll>,
    doorbell: OwnedFd,
    signals: Option<OwnedFd>,
    domains: [Option<Domain>; DOMAINS_MAX],
    trace: Option<Trace>,
    snapshots: Option<Taker>,
    domains_seen: u64,
    refused: Vec<String>,
}

/// Rare acts that touch other domains than their own.
enum Across {
    Fork { child: DomainId, host_pid: u32, guest_pid: u32 },
    PipeOutput { pipe: PipeId, bytes: Vec<u8> },
    PipeEnd { pipe: PipeId },
    PipeReader { pipe: PipeId },
    Kill { domain: DomainId, signo: u8 },
    Copied { point: u64, host_pid: u32 },
    OfFiles(Told),
    Diverged(Disagreement, String),
    DiskFailed { number: u64, text: String },
}

/// A host's disk has failed one of its guest's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskFailure {
    pub domain: DomainId,
    /// Of the call, in the domain: the same on both hosts.
    pub number: u64,
    pub text: String,
}

impl Core {
    fn new(setup: Setup) -> Result<Self, EngineError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| EngineError::system("epoll_create", e))?;
        // Edge-triggered: each ring is a new edge, and the counter is never read.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll
            .add(&setup.doorbell, EpollEvent::new(edge, Token::Doorbell.encode()))
            .map_err(|e| EngineError::system("watching the doorbell", e))?;
        if let Some(fd) = &setup.signals {
            epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, Token::Signals.encode()))
                .map_err(|e| EngineError::system("watching signals", e))?;
        }
        // SAFETY: a Setup is the only engine end of its segment, and slot 0 is taken once.
        let domain = unsafe { Domain::new(&setup.segment, DomainId(0), None, setup.process) };
        let mut core = Self {
            segment: setup.segment,
            epoll: Rc::new(epoll),
            doorbell: setup.doorbell,
            signals: setup.signals,
            domains: Default::default(),
            trace: setup.trace,
            snapshots: setup.snapshots,
            domains_seen: 0,
            refused: Vec::new(),
        };
        core.adopt(domain)?;
        Ok(core)
    }

    fn adopt(&mut self, mut domain: Domain) -> Result<(), EngineError> {
        let id = domain.id;
        match domain.process.gone_fd() {
            Some(fd) => {
                let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Process(id.0).encode());
                self.epoll.add(fd, event).map_err(|e| EngineError::system("watching a process of the guest", e))?;
            }
            None => domain.gone = true,
        }
        self.domains_seen += 1;
        self.domains[usize::from(id.0)] = Some(domain);
        Ok(())
    }

    fn ids() -> impl Iterator<Item = DomainId> {
        (0..DOMAINS_MAX as u16).map(DomainId)
    }

    fn get(&self, d: DomainId) -> Option<&Domain> {
        self.domains.get(usize::from(d.0))?.as_ref()
    }

    fn get_mut(&mut self, d: DomainId) -> Option<&mut Domain> {
        self.domains.get_mut(usize::from(d.0))?.as_mut()
    }

    fn live(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter().flatten()
    }

    /// `Act::Fork`: the slot comes alive.
    fn fork(&mut self, parent: DomainId, child: DomainId, host_pid: u32) -> Result<(), EngineError> {
        if child.0 == 0 || usize::from(child.0) >= DOMAINS_MAX {
            return Err(EngineError::Guest(format!("domain {parent} forked into domain {child}, which can't be")));
        }
        if self.get(child).is_some() {
            return Err(EngineError::Guest(format!("domain {parent} forked into domain {child}, which is in use")));
        }
        let process = Grandchild::open(host_pid).map_err(|e| EngineError::system("pidfd_open of a fork child", e))?;
        // SAFETY: the slot is free: its former occupant's ends went with its Domain.
        let mut domain = unsafe { Domain::new(&self.segment, child, Some(parent), Box::new(process)) };
        // What the child does follows from what its parent did.
        domain.barrier = self.get(parent).map(|p| p.barrier).unwrap_or_default();
        self.adopt(domain)
    }

    /// The domain at the other end of `from`'s pipes; `None`: it is gone.
    fn pipe_peer(&self, from: DomainId) -> Result<Option<DomainId>, EngineError> {
        if from.0 != 0 {
            return Ok(self.get(from).and_then(|d| d.parent).filter(|p| self.get(*p).is_some()));
        }
        let mut children = self.live().filter(|d| d.parent == Some(from)).map(|d| d.id);
        match (children.next(), children.next()) {
            (child, None) => Ok(child),
            (_, Some(_)) => Err(EngineError::Guest(
                "it wrote to a pipe that more than one fork child may read; which one can't be known. \
                 Services whose children share a pipe are not supported"
                    .into(),
            )),
        }
    }

    /// All domains that may share pipes with `of`.
    fn pipe_sharers(&self, of: DomainId) -> Vec<DomainId> {
        let parent = self.get(of).and_then(|d| d.parent);
        self.live().filter(|d| d.parent == Some(of) || parent == Some(d.id)).map(|d| d.id).collect()
    }

    /// Takes a domain whose process is gone and whose ring is empty out of the service; its slot is as new.
    fn retire(&mut self, d: DomainId) -> Option<Domain> {
        let domain = self.domains[usize::from(d.0)].take()?;
        domain::reset_slot(self.segment.domain(d.0));
        for other in self.domains.iter_mut().flatten() {
            if other.parent == Some(d) {
                other.parent = None;
            }
        }
        Some(domain)
    }

    pub(crate) fn kill_all(&self) {
        for d in self.live() {
            d.process.kill();
        }
    }

    fn flush(&mut self) -> Result<bool, EngineError> {
        let mut backlog = false;
        for d in self.domains.iter_mut().flatten() {
            d.flush().map_err(EngineError::corrupt(d.id))?;
            backlog |= d.backlog_bytes() > 0;
        }
        Ok(backlog)
    }

    /// By edges or not, as `event` says; gone with the descriptor.
    pub(crate) fn watch(&self, fd: BorrowedFd, event: EpollEvent, what: &'static str) -> Result<(), EngineError> {
        self.epoll.add(fd, event).map_err(|e| EngineError::system(what, e))
    }

    /// Asks the service for a copy of itself, as soon as all events that it has not applied are kept; they are given with
    /// it. False: not yet.
    pub(crate) fn want_copy(&mut self, to: impl FnOnce() -> io::Result<Outlet>) -> io::Result<bool> {
        let (Some(service), Some(taker)) = (self.domains[0].as_mut(), &mut self.snapshots) else { return Ok(false) };
        if service.retain_events() { taker.want(&self.segment, to) } else { Ok(false) }
    }

    /// Acts that are the same in both roles. `Ok(false)`: not one of them.
    fn common_act(trace: &mut Option<Trace>, refused: &mut Vec<String>, d: DomainId, act: &Act) -> Result<bool, EngineError> {
        match act {
            Act::Trace { .. } => {
                if let Some(t) = trace {
                    t.line(d, act).map_err(|e| EngineError::system("writing the trace", e))?;
                }
            }
            Act::Note { text } => tracing::info!(domain = %d, "guest: {}", String::from_utf8_lossy(text)),
            Act::Refused { text } => {
                let text = String::from_utf8_lossy(text).into_owned();
                if refused.len() < REFUSALS_MAX && !refused.contains(&text) {
                    tracing::warn!(domain = %d, "refused: {text}");
                    refused.push(text);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// To an act of a domain's that waits for it.
    pub(crate) fn answer(&self, d: DomainId, value: i64) {
        if let Some(domain) = self.get(d) {
            domain.answer(value);
        }
    }

    /// How a domain said that it ends, if it did.
    pub(crate) fn exit_of(&self, d: DomainId) -> Option<domain::Exit> {
        self.get(d)?.exit
    }

    /// Process of a domain, on this host.
    pub(crate) fn pid_of(&self, d: DomainId) -> Option<i32> {
        self.get(d)?.process.pid()
    }

    /// The last calls of a domain that lives.
    pub(crate) fn history_of(&self, d: DomainId) -> Option<&'static History> {
        self.get(d).map(|d| &d.control().history)
    }

    /// Wait status of a domain's process, once it is gone.
    pub(crate) fn status_of(&mut self, d: DomainId) -> Option<i32> {
        self.get_mut(d)?.process.status()
    }

    pub(crate) fn points(&self) -> u64 {
        self.segment.domain(0).status.point.load(Ordering::Relaxed)
    }
}

/// An act of which this role takes no notice here, or one that concerns other domains.
fn across(act: Act) -> Option<Across> {
    Some(match act {
        Act::Fork { child, host_pid, guest_pid } => Across::Fork { child, host_pid, guest_pid },
        Act::PipeOutput { pipe, bytes } => Across::PipeOutput { pipe, bytes: bytes.to_vec() },
        Act::PipeEnd { pipe } => Across::PipeEnd { pipe },
        Act::PipeReader { pipe } => Across::PipeReader { pipe },
        Act::Kill { domain, signo } => Across::Kill { domain, signo },
        Act::Copied { point, host_pid } => Across::Copied { point: point.0, host_pid },
        Act::Replaced { device, inode, size, offset, bytes } => {
            let on = Place(device, inode);
            Across::OfFiles(Told::Replaced(Replaced { on, size, offset, bytes: bytes.to_vec() }))
        }
        Act::Untold { text } => Across::OfFiles(Told::Untold(String::from_utf8_lossy(text).into_owned())),
        Act::DiskFailed { number, text } => Across::DiskFailed { number, text: String::from_utf8_lossy(text).into_owned() },
        Act::Diverged { scene, text } => Across::Diverged(scene, String::from_utf8_lossy(text).into_owned()),
        _ => return None,
    })
}

/// What a role does in its part of a turn.
pub(crate) trait Part {
    /// One frame batch of one domain. True: the domain may have more.
    fn drain(&mut self, core: &mut Core, d: DomainId) -> Result<bool, EngineError>;
    /// The domain's process is gone and its ring empty.
    fn settle(&mut self, core: &mut Core, d: DomainId) -> Result<(), EngineError>;
    fn on_signal(&mut self, core: &mut Core, signo: u8, now: Instant) -> Result<(), EngineError>;
    fn on_front(&mut self, token: Token, events: i32);
    /// The guest has done everything the log says so far.
    fn is_at_log_end(&mut self, core: &Core) -> Result<bool, EngineError>;
    /// The log has ended for good: from here the guest makes its own. Only where [`Backup::is_at_log_end`].
    fn go_live(
        self: Box<Self>,
        core: &mut Core,
        log: Box<dyn Log>,
        monotonic_ns: u64,
    ) -> Result<Primary, EngineError>;
    /// After draining and settling. True: there is more to do at once.
    fn turn(&mut self, core: &mut Core, now: Instant) -> Result<bool, EngineError>;
    fn deadline(&self) -> Option<Instant>;
    fn ended(&mut self, core: &Core, now: Instant) -> Result<Option<Ended>, EngineError>;
    fn add_stats(&self, stats: &mut Stats);
    /// The run ends by this error: save what can be saved.
    fn abort(&mut self, error: &EngineError);
}

/// A guest with its engine, ready to run.
pub struct Engine {
    core: Core,
    part: Box<dyn Part>,
    /// The guest goes live at the end of the log it follows, with this one for what it does then.
    then: Option<Box<dyn Log>>,
}

impl Engine {
    /// The guest makes the log.
    pub fn primary(setup: Setup, log: Box<dyn Log>) -> Result<Self, EngineError> {
        let core = Core::new(setup)?;
        let part = Box::new(Primary::new(core.epoll.clone(), log));
        Ok(Self { core, part, then: None })
    }

    /// The guest follows a log.
    pub fn backup<S: Source + 'static>(setup: Setup, feed: Feed<S>) -> Result<Self, EngineError> {
        let core = Core::new(setup)?;
        Ok(Self { core, part: Box::new(Backup::new(feed)), then: None })
    }

    /// The guest follows a log and is to stand still somewhere.
    pub fn backup_that_halts<S: Source + 'static>(setup: Setup, feed: Feed<S>, halt: Halt) -> Result<Self, EngineError> {
        let core = Core::new(setup)?;
        Ok(Self { core, part: Box::new(Backup::that_halts(feed, halt)), then: None })
    }

    /// The guest follows a log to its end and then makes one itself. Connections of the log's time are broken.
    /// `begins`: what was known where it begins.
    pub fn backup_then_primary<S: Source + 'static>(
        setup: Setup,
        feed: Feed<S>,
        log: Box<dyn Log>,
        begins: EngineState,
    ) -> Result<Self, EngineError> {
        let core = Core::new(setup)?;
        let EngineState { front, unapplied } = begins;
        let front = Front::of_state(core.epoll.clone(), front, Instant::now());
        let part = Box::new(Backup::of_recording_that_may_go_live(feed, front, unapplied));
        Ok(Self { core, part, then: Some(log) })
    }

    /// The guest of one host of a pair; `part` decides what it does.
    pub(crate) fn of_pair<P: Part + 'static>(
        setup: Setup,
        part: impl FnOnce(&Rc<Epoll>) -> Result<P, EngineError>,
    ) -> Result<Self, EngineError> {
        let core = Core::new(setup)?;
        let part = Box::new(part(&core.epoll)?);
        Ok(Self { core, part, then: None })
    }

    /// Runs until the service or the log ends. Whatever the result, no process of the guest is left.
    pub fn run(mut self) -> Result<Outcome, EngineError> {
        let result = self.run_to_end();
        self.core.kill_all();
        if let Err(e) = &result {
            self.part.abort(e);
        }
        if let Some(t) = &mut self.core.trace {
            let flushed = t.flush().map_err(|e| EngineError::system("writing the trace", e));
            if result.is_ok() {
                flushed?;
            }
        }
        let ended = result?;
        let mut stats = Stats { domains: self.core.domains_seen, points: self.core.points(), ..Stats::default() };
        self.part.add_stats(&mut stats);
        Ok(Outcome { ended, stats, refused: std::mem::take(&mut self.core.refused) })
    }

    fn run_to_end(&mut self) -> Result<Ended, EngineError> {
        loop {
            let now = Instant::now();
            let undrained = self.drain()?;
            let mut more = undrained;
            more |= self.part.turn(&mut self.core, now)?;
            if self.then.is_some() && self.part.is_at_log_end(&self.core)? {
                more = true;
                self.go_live()?;
            }
            let Core { snapshots, domains, segment, .. } = &mut self.core;
            if let Some(s) = snapshots {
                s.turn(segment, now, !undrained, || domains[0].as_mut().is_some_and(Domain::retain_events));
            }
            let backlog = self.core.flush()?;
            if let Some(ended) = self.part.ended(&self.core, now)? {
                return Ok(ended);
            }
            self.sleep(more, backlog)?;
        }
    }

    fn go_live(&mut self) -> Result<(), EngineError> {
        let Some(log) = self.then.take() else { return Ok(()) };
        let nobody = Box::new(Primary::new(self.core.epoll.clone(), Box::new(log::NoLog::default())));
        let mut primary = std::mem::replace(&mut self.part, nobody).go_live(&mut self.core, log, 0)?;
        primary.break_connections(&mut self.core)?;
        self.part = Box::new(primary);
        Ok(())
    }

    fn drain(&mut self) -> Result<bool, EngineError> {
        let mut more = false;
        for d in Core::ids() {
            let Some(domain) = self.core.get(d) else { continue };
            // Read before draining: what a process said before it ended is in its ring when we look.
            let gone = domain.gone;
            let had_more = self.part.drain(&mut self.core, d)?;
            if let Some(domain) = self.core.get(d) {
                domain.wake_producer();
            }
            if gone && !had_more {
                self.part.settle(&mut self.core, d)?;
            }
            more |= had_more;
        }
        Ok(more)
    }

    fn sleep(&mut self, more: bool, backlog: bool) -> Result<(), EngineError> {
        let waits = &self.core.segment.header().engine_waits.0;
        let mut timeout = Duration::ZERO;
        if !more {
            announce_wait(waits);
            let mut empty = true;
            for d in self.core.domains.iter().flatten() {
                empty &= d.from_guest.is_empty().map_err(EngineError::corrupt(d.id))?;
            }
            if empty {
                timeout = if backlog { BACKLOG_POLL } else { SLEEP_MAX };
                let snapshot = self.core.snapshots.as_ref().and_then(|s| s.deadline(Instant::now()));
                if let Some(at) = [self.part.deadline(), snapshot].into_iter().flatten().min() {
                    timeout = timeout.min(at.saturating_duration_since(Instant::now()));
                }
            }
        }
        // Rounded up: a deadline slept to must be past.
        let ms = timeout.as_micros().div_ceil(1000) as u16;
        let mut events = [EpollEvent::empty(); EPOLL_EVENTS];
        let n = match self.core.epoll.wait(&mut events, EpollTimeout::from(ms)) {
            Ok(n) => n,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(EngineError::system("epoll_wait", e)),
        };
        waits.store(0, Ordering::Relaxed);
        for e in &events[..n] {
            match Token::decode(e.data()) {
                Token::Doorbell => {}
                Token::Signals => self.signals()?,
                Token::Process(d) => {
                    // An event of the slot's former occupant can't be: its descriptor was closed before.
                    if let Some(domain) = self.core.get_mut(DomainId(d)) {
                        domain.gone |= process::is_gone(&*domain.process);
                    }
                }
                token => self.part.on_front(token, e.events().bits()),
            }
        }
        Ok(())
    }

    fn signals(&mut self) -> Result<(), EngineError> {
        const SIGNALS_PER_TURN: usize = 64;
        let Some(fd) = &self.core.signals else { return Ok(()) };
        let mut b = [0; SIGNALS_PER_TURN];
        let n = match nix::unistd::read(fd, &mut b) {
            Ok(n) => n,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(EngineError::system("reading signals", e)),
        };
        for signo in &b[..n] {
            self.part.on_signal(&mut self.core, *signo, Instant::now())?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.kill_all();
        tracing::debug!(doorbell = self.core.doorbell.as_raw_fd(), "engine ends");
    }
}
