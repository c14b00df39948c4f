//! The engine's part where the guest makes the log and talks to the world.

use super::domain::{Domain, Exit};
use super::log::Log;
use super::{Across, Core, DiskFailure, DRAIN_FRAMES_MAX, Ended, EngineError, Part, Stats, across};
use crate::front::{Front, Inbox, ListenSpec, Token};
use crate::logfile::End;
use crate::snapshot::EngineState;
use ft_log::codec::Writer;
use ft_log::entry::{Act, Applied, DIGEST_FORCED, Entry, Event, FromGuest, HEADER_BYTES_MAX};
use ft_log::ids::{DomainId, InputPoint, LogIndex};
use ft_log::ring::Corrupt;
use ft_log::shared::copy;
use nix::sys::epoll::Epoll;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// More waits for room in the guest's ring and nothing is read from connections.
const BACKLOG_BYTES_MAX: usize = 1 << 20;
/// After the service's end: for clients to get what it had said.
const FLUSH_MAX: Duration = Duration::from_secs(60);
/// The same once the kernel has it all and only acknowledgements are missing.
const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(2);
/// A second interrupt within this time kills.
const INTERRUPT_TWICE: Duration = Duration::from_secs(1);
/// After the service's end: for its fork children to be gone.
const CHILDREN_MAX: Duration = Duration::from_secs(10);
/// How often a service that waits is sent to where it is copied: it may not be able to yet.
const WAKE_EVERY: Duration = Duration::from_millis(20);
const SERVICE: DomainId = DomainId(0);

struct Ending {
    status: i32,
    logged: bool,
    since: Instant,
    finished: bool,
}

pub(crate) struct Primary {
    front: Front,
    log: Box<dyn Log>,
    entries: u64,
    memory_checks: u64,
    interrupted_at: Option<Instant>,
    ending: Option<Ending>,
    log_deadline: Option<Instant>,
    /// The backup is too far behind: nothing more is read from clients.
    pub paused: bool,
    /// The service was sent on to be copied then.
    woken_for_copy: Option<Instant>,
    /// Another host's guest goes on where this one's dies: what clients say after that is logged too.
    pub heir: bool,
    /// The guest's clock, and when it was that.
    pub clock: Option<(u64, Instant)>,
    /// A copy of the guest was made a moment ago, and nothing was done since: the events that it has not applied, as they
    /// were logged. Only where they were kept.
    copied: Option<Vec<Box<[u8]>>>,
    /// Where another host's guest may go on: calls that wait to be answered.
    pub disk_failures: Vec<DiskFailure>,
}

fn append(log: &mut dyn Log, entries: &mut u64, d: DomainId, entry: &Entry) -> Result<LogIndex, EngineError> {
    let mut head = [0; HEADER_BYTES_MAX];
    let mut w = Writer::new(&mut head);
    let payload = entry.encode(&mut w);
    let n = w.len();
    *entries += 1;
    Ok(log.append(d, &head[..n], payload)?)
}

/// Appends and pushes in one step.
/// `heir`: another host's guest goes on where this one's dies, and is to have what comes then too.
fn event(
    log: &mut dyn Log,
    core: &mut Core,
    entries: &mut u64,
    to: DomainId,
    event: &Event,
    heir: bool,
) -> Result<(), EngineError> {
    let Some(domain) = core.get_mut(to).filter(|d| d.exit.is_none() && (!d.gone || heir)) else { return Ok(()) };
    let mut head = [0; HEADER_BYTES_MAX];
    let mut w = Writer::new(&mut head);
    let entry = Entry::Event(event.clone());
    let payload = entry.encode(&mut w);
    let n = w.len();
    log.append(to, &head[..n], payload)?;
    *entries += 1;
    if domain.gone {
        return Ok(());
    }
    domain.push_event(&head[..n], payload).map_err(EngineError::corrupt(to))
}

/// As a call returns it.
fn errno(e: &std::io::Error) -> i64 {
    -i64::from(e.raw_os_error().unwrap_or(libc::EADDRNOTAVAIL))
}

/// What a message may change of the domain that says it.
struct Speaker<'a> {
    barrier: &'a mut LogIndex,
    exit: &'a mut Option<Exit>,
    unapplied: &'a mut u32,
    /// To an act that has an answer.
    answer: Option<i64>,
}

struct ServiceInbox<'a> {
    log: &'a mut dyn Log,
    core: &'a mut Core,
    entries: &'a mut u64,
    paused: bool,
    heir: bool,
}

impl Inbox for ServiceInbox<'_> {
    fn event(&mut self, e: &Event) -> Result<(), EngineError> {
        event(self.log, self.core, self.entries, SERVICE, e, self.heir)
    }

    fn has_room(&self) -> bool {
        let takes = |d: &Domain| d.exit.is_none() && if d.gone { self.heir } else { d.backlog_bytes() < BACKLOG_BYTES_MAX };
        !self.paused && self.core.get(SERVICE).is_some_and(takes)
    }
}

impl Primary {
    pub fn new(epoll: Rc<Epoll>, log: Box<dyn Log>) -> Self {
        Self::with_front(Front::new(epoll), log)
    }

    /// Goes on with what another host's front had.
    pub fn with_front(front: Front, log: Box<dyn Log>) -> Self {
        Self {
            front,
            log,
            entries: 0,
            memory_checks: 0,
            interrupted_at: None,
            ending: None,
            log_deadline: None,
            paused: false,
            woken_for_copy: None,
            heir: false,
            clock: None,
            copied: None,
            disk_failures: Vec::new(),
        }
    }

    /// An event of the former primary's log that its guest never applied: the same for ours.
    pub fn logged_event(&mut self, core: &mut Core, d: DomainId, frame: &[u8]) -> Result<(), EngineError> {
        let e = Entry::decode(frame).map_err(|e| EngineError::decode(d, e))?;
        match e {
            Entry::Event(e) => self.event(core, d, &e),
            e => Err(EngineError::Guest(format!("the log left an entry that is no event: {e:?}"))),
        }
    }

    /// What a domain did to another one here, before this host was primary.
    pub fn unlogged_event(&mut self, core: &mut Core, d: DomainId, e: &Event) -> Result<(), EngineError> {
        self.event(core, d, e)
    }

    /// Connections whose sockets went with another host and can't be had: the guest learns that they broke. What it
    /// listens on is opened here.
    pub fn break_connections(&mut self, core: &mut Core) -> Result<(), EngineError> {
        let lost: Vec<_> = self.front.elsewhere().map(|(id, _)| id).collect();
        for conn in lost {
            let e = Event::Reset { conn, errno: libc::ECONNRESET as u16 };
            self.front.follow(&e, Instant::now());
            self.event(core, SERVICE, &e)?;
        }
        self.front.listen_here()
    }

    pub fn front(&mut self) -> &mut Front {
        &mut self.front
    }

    pub fn take_copied(&mut self) -> Option<Vec<Box<[u8]>>> {
        self.copied.take()
    }

    fn event(&mut self, core: &mut Core, to: DomainId, e: &Event) -> Result<(), EngineError> {
        event(&mut *self.log, core, &mut self.entries, to, e, self.heir)
    }

    /// Has domains compared that have become quiet.
    pub fn compare_quiet(&mut self, core: &mut Core, now: Instant) -> Result<(), EngineError> {
        self.claim_by(core, |d| d.claim_quiet(now))
    }

    /// A service that waits for clients is copied, and reaps its copy, at the next point: it is sent there.
    fn wake_for_copy(&mut self, core: &mut Core, now: Instant) -> Result<(), EngineError> {
        let has_to = matches!(core.segment.header().copy.load(Ordering::Relaxed), copy::WANTED | copy::READ);
        if has_to && self.woken_for_copy.is_none_or(|at| now.saturating_duration_since(at) >= WAKE_EVERY) {
            self.woken_for_copy = Some(now);
            self.claim_by(core, |d| if d.id == SERVICE { d.claim_nothing() } else { Ok(None) })?;
        }
        Ok(())
    }

    /// Says for domains that wait what they apply, before they wake.
    fn claim(&mut self, core: &mut Core) -> Result<(), EngineError> {
        self.claim_by(core, Domain::claim)
    }

    fn claim_by(
        &mut self,
        core: &mut Core,
        mut claim: impl FnMut(&mut Domain) -> Result<Option<Applied>, Corrupt>,
    ) -> Result<(), EngineError> {
        for domain in core.domains.iter_mut().flatten() {
            if let Some(a) = claim(domain).map_err(EngineError::corrupt(domain.id))? {
                if domain.id == SERVICE {
                    self.clock = Some((a.clock.monotonic_ns, Instant::now()));
                }
                domain.barrier = append(&mut *self.log, &mut self.entries, domain.id, &Entry::Applied(a))?;
            }
        }
        Ok(())
    }

    /// One message of a domain. `frame` is its encoding.
    fn message(
        &mut self,
        d: DomainId,
        of: &mut Speaker,
        frame: &[u8],
        message: FromGuest,
    ) -> Result<Option<Across>, EngineError> {
        let act = match message {
            FromGuest::Entry(e) => {
                match e {
                    Entry::Applied(a) => {
                        let had = *of.unapplied;
                        *of.unapplied = had.checked_sub(a.events).ok_or_else(|| {
                            EngineError::Guest(format!("domain {d} applied {} events and was given {had}", a.events))
                        })?;
                        if d == SERVICE {
                            self.clock = Some((a.clock.monotonic_ns, Instant::now()));
                        }
                    }
                    Entry::Passed { .. } | Entry::Recorded { .. } => {}
                    Entry::Memory { .. } => self.memory_checks += 1,
                    Entry::Exit { status, digest } => *of.exit = Some(Exit { status, digest, logged: true }),
                    Entry::Event(_) | Entry::GoLive { .. } => {
                        return Err(EngineError::Guest(format!("domain {d} made an entry that only the engine makes: {e:?}")));
                    }
                }
                *of.barrier = self.log.append(d, frame, &[])?;
                self.entries += 1;
                return Ok(None);
            }
            FromGuest::Act(act) => act,
        };
        let barrier = *of.barrier;
        match act {
            // Inherited connections are the service's; in a child they can only be closed, which changes nothing.
            Act::Close { .. } | Act::Unlisten { .. } | Act::Consumed { .. } if d != SERVICE => {}
            Act::Output { conn, .. } | Act::Shutdown { conn } if d != SERVICE => {
                return Err(EngineError::Guest(format!("domain {d}, a fork child, used connection {conn} of the service")));
            }
            // Clients of a child's would be lost with it.
            Act::Bind { .. } | Act::Listen { .. } if d != SERVICE => of.answer = Some(-i64::from(libc::EADDRNOTAVAIL)),
            Act::Output { conn, bytes } => self.front.output(conn, bytes, barrier)?,
            Act::Consumed { conn, upto } => self.front.consumed(conn, upto)?,
            Act::Shutdown { conn } => self.front.shutdown(conn, barrier)?,
            Act::Close { conn, reset } => self.front.close(conn, reset, barrier)?,
            Act::Bind { listener, address, v6only, freebind } => {
                let port = self.front.bind(listener, address, v6only, freebind);
                of.answer = Some(port.map_or_else(|e| errno(&e), i64::from));
            }
            Act::Listen { listener, address, backlog, v6only } => {
                let done = self.front.listen(listener, ListenSpec { address, backlog, v6only });
                of.answer = Some(done.map_or_else(|e| errno(&e), |()| 0));
            }
            Act::Unlisten { listener } => self.front.unlisten(listener),
            Act::Option { conn, level, name, value } => self.front.option(conn, level, name, value),
            Act::Live { point } => tracing::info!(domain = %d, %point, "live"),
            other => return Ok(across(other)),
        }
        Ok(None)
    }

    fn on_across(&mut self, core: &mut Core, d: DomainId, a: Across) -> Result<(), EngineError> {
        match a {
            Across::Fork { child, host_pid, guest_pid } => {
                tracing::debug!(parent = %d, %child, host_pid, guest_pid, "fork");
                core.fork(d, child, host_pid)
            }
            Across::PipeOutput { pipe, bytes } => {
                if let Some(domain) = core.get_mut(d)
                    && !domain.pipes_open.contains(&pipe)
                {
                    domain.pipes_open.push(pipe);
                }
                match core.pipe_peer(d)? {
                    Some(peer) => self.event(core, peer, &Event::PipeData { pipe, bytes: &bytes }),
                    None => Ok(()),
                }
            }
            Across::PipeEnd { pipe } => {
                if let Some(domain) = core.get_mut(d) {
                    domain.pipes_open.retain(|p| *p != pipe);
                }
                match core.pipe_peer(d)? {
                    Some(peer) => self.event(core, peer, &Event::PipeClosed { pipe }),
                    None => Ok(()),
                }
            }
            Across::PipeReader { pipe } => {
                let mut sharers = core.pipe_sharers(d).into_iter();
                sharers.try_for_each(|to| self.event(core, to, &Event::PipeReader { pipe }))
            }
            Across::Kill { domain, signo } => self.event(core, domain, &Event::Signal { signo }),
            Across::Copied { point, host_pid } => match &mut core.snapshots {
                Some(s) if d == SERVICE => {
                    let domain = core.domains[usize::from(d.0)].as_mut();
                    let (unapplied, events) = domain.map_or((0, None), |d| (d.unapplied, d.take_retained()));
                    // It is none if the copy could not be made.
                    self.copied = if host_pid == 0 { events } else { self.log.copied(InputPoint(point), events) };
                    s.made(core.segment, point, host_pid, EngineState { front: self.front.state(), unapplied });
                    Ok(())
                }
                _ => Err(EngineError::Guest(format!("domain {d} was copied, and nobody wanted that"))),
            },
            Across::OfFiles(told) => match &core.snapshots {
                Some(s) => {
                    s.told(told);
                    Ok(())
                }
                None => Err(EngineError::Guest(format!("domain {d} tells of its files, and nobody copies them"))),
            },
            Across::DiskFailed { number, text } => {
                tracing::warn!(domain = %d, "the disk fails: {text}");
                if self.heir {
                    self.disk_failures.push(DiskFailure { domain: d, number, text });
                } else {
                    core.answer(d, 0);
                }
                Ok(())
            }
            Across::Diverged(_, text) => Err(EngineError::Guest(format!("domain {d} compares itself with a log it makes itself: {text}"))),
        }
    }

    /// The exit of a domain whose process is gone: its own entry, or one made for it.
    fn exit_of(&mut self, core: &mut Core, d: DomainId) -> Result<Exit, EngineError> {
        let Some(domain) = core.get_mut(d) else {
            return Err(EngineError::Guest(format!("domain {d} is gone twice")));
        };
        if let Some(exit) = domain.exit {
            return Ok(exit);
        }
        let status = domain.process.status().unwrap_or_else(|| {
            tracing::warn!(domain = %d, "nobody knows how it ended; taken as killed");
            libc::SIGKILL
        });
        let exit = Exit { status, digest: DIGEST_FORCED, logged: false };
        domain.exit = Some(exit);
        self.log.note(&format!("domain {d} died without saying so (forced exit), wait status {status:#x}"))?;
        Ok(exit)
    }

    fn settle_service(&mut self, core: &mut Core) -> Result<(), EngineError> {
        if self.ending.is_some() {
            return Ok(());
        }
        let exit = self.exit_of(core, SERVICE)?;
        let domain = core.get_mut(SERVICE).expect("settled only while in the table");
        // The process's word where it has one: the guest may say "exit 0" and be killed on its way out.
        let status = domain.process.status().unwrap_or(exit.status);
        let barrier = domain.barrier;
        self.front.close_all(barrier);
        for d in core.live().filter(|d| d.id != SERVICE) {
            d.process.kill();
        }
        self.ending = Some(Ending { status, logged: exit.logged, since: Instant::now(), finished: false });
        Ok(())
    }
}

impl Part for Primary {
    fn drain(&mut self, core: &mut Core, d: DomainId) -> Result<bool, EngineError> {
        for _ in 0..DRAIN_FRAMES_MAX {
            let Core { domains, trace, refused, .. } = core;
            let Some(domain) = domains[usize::from(d.0)].as_mut() else { return Ok(false) };
            let Domain { barrier, exit, unapplied, .. } = domain;
            let mut of = Speaker { barrier, exit, unapplied, answer: None };
            let handled = domain
                .from_guest
                .with_next(|frame| {
                    let result = match FromGuest::decode(frame) {
                        Err(e) => Err(EngineError::decode(d, e)),
                        Ok(FromGuest::Act(a)) => match Core::common_act(trace, refused, d, &a) {
                            Ok(true) => Ok(None),
                            Ok(false) => self.message(d, &mut of, frame, FromGuest::Act(a)),
                            Err(e) => Err(e),
                        },
                        Ok(m) => self.message(d, &mut of, frame, m),
                    };
                    (true, result)
                })
                .map_err(EngineError::corrupt(d))?;
            if let Some(value) = of.answer {
                domain.answer(value);
            }
            match handled {
                None => return Ok(false),
                Some(Ok(None)) => {}
                Some(Ok(Some(a))) => {
                    self.on_across(core, d, a)?;
                    if self.copied.is_some() {
                        // Whoever is given the copy is given what comes next, from here on.
                        return Ok(true);
                    }
                }
                Some(Err(e)) => return Err(e),
            }
        }
        Ok(true)
    }

    fn settle(&mut self, core: &mut Core, d: DomainId) -> Result<(), EngineError> {
        if d == SERVICE {
            return self.settle_service(core);
        }
        let exit = self.exit_of(core, d)?;
        if !exit.logged {
            let entry = Entry::Exit { status: exit.status, digest: exit.digest };
            append(&mut *self.log, &mut self.entries, d, &entry)?;
        }
        let Some(domain) = core.retire(d) else { return Ok(()) };
        if let Some(parent) = domain.parent {
            // A child that was killed can't say that its pipes are closed.
            for pipe in &domain.pipes_open {
                self.event(core, parent, &Event::PipeClosed { pipe: *pipe })?;
            }
            self.event(core, parent, &Event::ChildExit { child: d, status: exit.status })?;
        }
        Ok(())
    }

    fn on_signal(&mut self, core: &mut Core, signo: u8, now: Instant) -> Result<(), EngineError> {
        if i32::from(signo) == libc::SIGINT {
            if self.interrupted_at.is_some_and(|at| now - at < INTERRUPT_TWICE) {
                tracing::warn!("interrupted twice: killing the guest");
                core.kill_all();
            }
            self.interrupted_at = Some(now);
        }
        self.event(core, SERVICE, &Event::Signal { signo })
    }

    fn is_at_log_end(&mut self, _: &Core) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn go_live(self: Box<Self>, _: &mut Core, _: Box<dyn Log>, _: u64) -> Result<Primary, EngineError> {
        Ok(*self)
    }

    fn on_front(&mut self, token: Token, events: i32) {
        match token {
            Token::Listener(l) => self.front.on_listener(l),
            Token::Connection(c) => self.front.on_connection(c, events),
            Token::Doorbell | Token::Signals | Token::Process(_) | Token::Pair(_) => {}
        }
    }

    fn turn(&mut self, core: &mut Core, now: Instant) -> Result<bool, EngineError> {
        let committed = self.log.committed();
        let mut inbox = ServiceInbox { log: &mut *self.log, core, entries: &mut self.entries, paused: self.paused, heir: self.heir };
        let more = self.front.turn(&mut inbox, committed, now)?;
        self.claim(core)?;
        self.wake_for_copy(core, now)?;
        self.log_deadline = self.log.turn(now)?;
        Ok(more)
    }

    fn deadline(&self) -> Option<Instant> {
        let ending = self.ending.as_ref().map(|_| Instant::now() + Duration::from_millis(5));
        [self.front.deadline(), self.log_deadline, ending].into_iter().flatten().min()
    }

    fn ended(&mut self, core: &Core, now: Instant) -> Result<Option<Ended>, EngineError> {
        let Some(e) = &mut self.ending else { return Ok(None) };
        let waited = now.saturating_duration_since(e.since);
        let children_gone = core.live().all(|d| d.id == SERVICE) || waited > CHILDREN_MAX;
        let flushed = self.front.connections() == 0
            || waited > FLUSH_MAX
            || (self.front.is_flushed() && waited > ACKNOWLEDGE_MAX);
        if !children_gone || !flushed {
            return Ok(None);
        }
        let (status, logged) = (e.status, e.logged);
        if !std::mem::replace(&mut e.finished, true) {
            self.log.finish(End::Exited { status, logged })?;
        }
        Ok(Some(Ended::Exited { status, logged }))
    }

    fn add_stats(&self, s: &mut Stats) {
        s.entries = self.entries;
        s.memory_checks = self.memory_checks;
        s.connections = self.front.stats.accepted;
        s.input_bytes = self.front.stats.input_bytes;
        s.output_bytes = self.front.stats.output_bytes;
    }
    fn abort(&mut self, error: &EngineError) {
        // The log itself may be what failed; the run's error says it all.
        let saved = self.log.note(&format!("the recorder gave up: {error}")).and_then(|()| self.log.finish(End::Stopped));
        if let Err(e) = saved {
            tracing::warn!("the log could not be finished: {e}");
        }
    }
}
