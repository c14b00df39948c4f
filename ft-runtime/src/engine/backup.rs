//! The engine's part where the guest follows a log: feed each domain, keep the order between domains, compare ends.
//!
//! What the guest says to the world here is not said: it is kept, because this host may have to say it. When the log
//! ends for good the guest goes live and everything kept becomes the primary's.

use super::domain::{Domain, Exit};
use super::feed::{Feed, Group, Need, Source};
use super::halt::{Halt, Seen};
use super::log::Log;
use super::primary::Primary;
use super::unlogged::Unlogged;
use super::{Across, Core, DiskFailure, DRAIN_FRAMES_MAX, Ended, EngineError, Part, Stats, across};
use crate::front::{Front, ListenSpec, Token};
use crate::monitor::scene::Scene;
use ft_log::entry::{Act, Entry, FromGuest};
use ft_log::ids::{DomainId, LogIndex, PipeId};
use ft_log::shared::DOMAINS_MAX;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Groups given to one domain before the others have their turn.
const GROUPS_PER_TURN: usize = 1024;
/// A domain neither waits for input nor makes a call, takes a message or reaches a point for so long.
const STALL_MAX: Duration = Duration::from_secs(120);
/// All domains wait and the log has more, which needs what none of them did.
const DEADLOCK_MAX: Duration = Duration::from_secs(10);
/// A domain that the log says was killed is left to run that long, unless it waits before.
const FORCED_MAX: Duration = Duration::from_secs(5);
/// How often a guest at the log's end is looked at; it must be found waiting twice.
const END_POLL: Duration = Duration::from_millis(2);
/// Log entries in a report, before and after what was noticed.
const FRAMES_BEFORE: usize = 24;
const FRAMES_AFTER: usize = 8;
const SERVICE: DomainId = DomainId(0);

/// How the log says that a domain ends, once that was given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Exit { status: i32, digest: u64 },
    Forced { status: i32, since: Instant, killed: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Observed {
    progress: [Option<[u64; 3]>; DOMAINS_MAX],
    given: u64,
}

pub(crate) struct Backup<S> {
    feed: Feed<S>,
    given: [Option<Given>; DOMAINS_MAX],
    /// `[parent][child]`: how often the child's slot became free.
    children_gone: [[u64; DOMAINS_MAX]; DOMAINS_MAX],
    groups: u64,
    /// The last frames that domains were given, for reports.
    given_last: VecDeque<Vec<u8>>,
    output_bytes: u64,
    /// What this host would have to say for the guest; `None`: nobody will ever ask for it.
    front: Option<Front>,
    /// There is no other host: the front learns of connections here, and no kernel has what the guest lets go.
    from_recording: bool,
    /// So many of the next events the front knows already.
    known: u32,
    /// What domains did to each other here and the log has not said yet.
    unlogged: Unlogged,
    /// The last one that nobody has asked for.
    pub disk_failure: Option<DiskFailure>,
    ended: Option<Ended>,
    /// Since when nothing changed.
    still: Option<(Observed, Instant)>,
    end_seen: bool,
    poll: bool,
    halt: Option<Halt>,
}

impl<S: Source> Backup<S> {
    pub fn new(feed: Feed<S>) -> Self {
        Self {
            feed,
            given: [None; DOMAINS_MAX],
            children_gone: [[0; DOMAINS_MAX]; DOMAINS_MAX],
            groups: 0,
            given_last: VecDeque::with_capacity(FRAMES_BEFORE),
            output_bytes: 0,
            front: None,
            from_recording: false,
            known: 0,
            unlogged: Unlogged::default(),
            disk_failure: None,
            ended: None,
            still: None,
            end_seen: false,
            poll: false,
            halt: None,
        }
    }

    /// One that is to stand still somewhere.
    pub fn that_halts(feed: Feed<S>, halt: Halt) -> Self {
        Self { halt: Some(halt), ..Self::new(feed) }
    }

    /// One that may go live: what the guest says is kept in `front`.
    pub fn that_may_go_live(feed: Feed<S>, front: Front) -> Self {
        Self { front: Some(front), ..Self::new(feed) }
    }

    /// The same where the log is a recording. `known`: of the next events the front knows so many already.
    pub fn of_recording_that_may_go_live(feed: Feed<S>, mut front: Front, known: u32) -> Self {
        front.leave_to_kernels();
        Self { from_recording: true, known, ..Self::that_may_go_live(feed, front) }
    }

    pub fn front(&mut self) -> Option<&mut Front> {
        self.front.as_mut()
    }

    /// An event of a recording: what another host's engine would have told ours.
    fn follow(&mut self, d: DomainId, frame: &[u8]) -> Result<(), EngineError> {
        let Some(front) = self.front.as_mut().filter(|_| self.from_recording && d == SERVICE) else { return Ok(()) };
        if let Entry::Event(e) = Entry::decode(frame).map_err(|e| EngineError::decode(d, e))? {
            if self.known > 0 {
                self.known -= 1;
            } else {
                front.follow(&e, Instant::now());
            }
        }
        Ok(())
    }

    /// What the guest asks of the world, kept.
    fn keep(&mut self, d: DomainId, act: &Act) -> Result<(), EngineError> {
        let Some(front) = self.front.as_mut().filter(|_| d == SERVICE) else { return Ok(()) };
        // Nothing leaves before this host is primary; then there is no other log to wait for.
        let barrier = LogIndex(0);
        match *act {
            Act::Output { conn, bytes } => front.output(conn, bytes, barrier),
            Act::Shutdown { conn } => front.shutdown(conn, barrier),
            Act::Close { conn, reset } => {
                front.close(conn, reset, barrier)?;
                if self.from_recording {
                    front.gone_elsewhere(conn);
                }
                Ok(())
            }
            Act::Consumed { conn, upto } => front.consumed(conn, upto),
            Act::Listen { listener, address, backlog, v6only } => {
                front.listen_elsewhere(listener, ListenSpec { address, backlog, v6only });
                Ok(())
            }
            Act::Unlisten { listener } => {
                front.unlisten(listener);
                Ok(())
            }
            Act::Option { conn, level, name, value } => {
                front.option(conn, level, name, value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_debugged(&self) -> bool {
        self.halt.as_ref().is_some_and(Halt::is_debug)
    }

    fn end(&mut self, e: Ended) {
        self.ended.get_or_insert(e);
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
                // The log has the bytes that are read; here only their number counts.
                if let Some(peer) = core.pipe_peer(d)?.and_then(|p| core.get_mut(p)) {
                    *peer.pipe_bytes.entry(pipe).or_default() += bytes.len() as u64;
                    self.unlogged.pipe_output(peer.id, pipe, &bytes);
                }
                Ok(())
            }
            Across::PipeEnd { pipe } => {
                if let Some(domain) = core.get_mut(d) {
                    domain.pipes_open.retain(|p| *p != pipe);
                }
                if let Some(peer) = core.pipe_peer(d)?.and_then(|p| core.get_mut(p)) {
                    close_pipe(peer, pipe);
                    self.unlogged.pipe_end(peer.id, pipe);
                }
                Ok(())
            }
            Across::PipeReader { pipe } => {
                for to in core.pipe_sharers(d) {
                    self.unlogged.pipe_reader(to, pipe);
                }
                Ok(())
            }
            Across::Kill { domain, signo } => {
                self.unlogged.kill(domain, signo);
                Ok(())
            }
            Across::Copied { .. } | Across::OfFiles(_) => {
                Err(EngineError::Guest(format!("domain {d} was copied while it follows a log")))
            }
            Across::DiskFailed { number, text } => {
                self.disk_failure = Some(DiskFailure { domain: d, number, text });
                Ok(())
            }
            Across::Diverged(disagreement, text) => {
                if let Some(domain) = core.get(d) {
                    let log = self.log_around(d)?;
                    let history = &domain.control().history;
                    let scene = Scene::take(d.0, &disagreement, &text, history, domain.process.pid(), &log);
                    self.end(Ended::Diverged(Box::new(scene)));
                }
                Ok(())
            }
        }
    }

    /// What was last given to domains, and what comes next for this one.
    fn log_around(&mut self, d: DomainId) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut log: Vec<Vec<u8>> = self.given_last.iter().cloned().collect();
        if let Some(Group::Entries { frames, .. }) = self.feed.peek(d)? {
            log.extend(frames.iter().take(FRAMES_AFTER).cloned());
        }
        Ok(log)
    }

    /// Gives a domain all that the log has for it and that may be given now. True: stopped by the budget.
    fn give(&mut self, core: &mut Core, d: DomainId, now: Instant) -> Result<bool, EngineError> {
        for _ in 0..GROUPS_PER_TURN {
            let Some(domain) = core.domains[usize::from(d.0)].as_mut() else { return Ok(false) };
            let k = usize::from(d.0);
            if domain.gone || domain.backlog_bytes() > 0 || self.given[k].is_some() {
                return Ok(false);
            }
            let Some(group) = self.feed.peek(d)? else { return Ok(false) };
            if let Group::Entries { needs, .. } = group
                && !needs.iter().all(|n| is_met(n, domain, &self.children_gone[k]))
            {
                return Ok(false);
            }
            self.groups += 1;
            match self.feed.take(d) {
                None => return Ok(false),
                Some(Group::Entries { frames, .. }) => {
                    for f in frames {
                        self.unlogged.logged(d, &f);
                        self.follow(d, &f)?;
                        domain.push(&f, &[]).map_err(EngineError::corrupt(d))?;
                        if self.given_last.len() == FRAMES_BEFORE {
                            self.given_last.pop_front();
                        }
                        self.given_last.push_back(f);
                    }
                }
                Some(Group::Exit { frame, status, digest }) => {
                    domain.push(&frame, &[]).map_err(EngineError::corrupt(d))?;
                    self.given[k] = Some(Given::Exit { status, digest });
                }
                // Whoever looks at it ends it.
                Some(Group::ForcedExit { .. }) if d == SERVICE && self.is_debugged() => {}
                Some(Group::ForcedExit { status }) => {
                    self.given[k] = Some(Given::Forced { status, since: now, killed: false });
                }
            }
        }
        Ok(true)
    }

    /// Kills what the log says was killed, once it has come as far as it can.
    fn force(&mut self, core: &mut Core, now: Instant) {
        for d in core.live() {
            if let Some(Given::Forced { since, killed, .. }) = &mut self.given[usize::from(d.id.0)]
                && !*killed
            {
                self.poll = true;
                if d.waits_for_input() || now.saturating_duration_since(*since) > FORCED_MAX {
                    *killed = true;
                    d.process.kill();
                }
            }
        }
    }

    /// The guest's own end against the log's.
    fn compare(&mut self, d: DomainId, own: Option<Exit>, status: Option<i32>) -> Result<Option<String>, EngineError> {
        let k = usize::from(d.0);
        let expected = match self.given[k].take() {
            Some(Given::Forced { .. }) => return Ok(None),
            Some(Given::Exit { status, digest }) => Some((status, digest)),
            // It may have ended without waiting to be told that it would.
            None => match self.feed.peek(d)? {
                None => None,
                Some(Group::Exit { status, digest, .. }) => {
                    let e = (*status, *digest);
                    self.feed.take(d);
                    Some(e)
                }
                Some(Group::ForcedExit { .. }) => {
                    self.feed.take(d);
                    return Ok(None);
                }
                Some(Group::Entries { .. }) => {
                    let how = own.map(|e| e.status).or(status).map_or("for an unknown reason".to_owned(), describe_status);
                    return Ok(Some(format!("it ended here ({how}), and in the log it went on")));
                }
            },
        };
        Ok(match (expected, own) {
            // Beyond the log's end nothing can be compared.
            (None, _) => None,
            (Some((want, digest)), Some(own)) if own.status != want || own.digest != digest => Some(format!(
                "it ended with {} and digest {:016x}, in the log with {} and {digest:016x}",
                describe_status(own.status),
                own.digest,
                describe_status(want)
            )),
            (Some((want, _)), None) if status.is_some_and(|s| s != want) => Some(format!(
                "it died here ({}), in the log it ended with {}",
                status.map_or("?".to_owned(), describe_status),
                describe_status(want)
            )),
            _ => None,
        })
    }

    fn observe(&self, core: &Core) -> Observed {
        let mut progress = [None; DOMAINS_MAX];
        for d in core.live() {
            progress[usize::from(d.id.0)] = Some(d.progress());
        }
        Observed { progress, given: self.groups }
    }

    /// Without anybody who stops it.
    fn ended_by_itself(&mut self, core: &Core, now: Instant) -> Result<Option<Ended>, EngineError> {
        if self.ended.is_some() {
            return Ok(self.ended.clone());
        }
        let observed = self.observe(core);
        let still = match &self.still {
            Some((o, since)) if *o == observed => now.saturating_duration_since(*since),
            _ => {
                self.still = Some((observed, now));
                Duration::ZERO
            }
        };
        // The log's end for all that live: then only ends that were given are waited for.
        let mut at_end = true;
        for d in core.live() {
            at_end &= self.given[usize::from(d.id.0)].is_some() || self.feed.peek(d.id)?.is_none();
        }
        self.end_seen = at_end;
        if at_end
            && still >= END_POLL
            && core.live().all(|d| d.waits_for_input() && !d.gone && self.given[usize::from(d.id.0)].is_none())
        {
            return Ok(Some(Ended::LogEnd));
        }
        Ok(self.stuck(core, still)?.map(Ended::Stuck))
    }

    /// Names a wait that will not end.
    fn stuck(&mut self, core: &Core, still: Duration) -> Result<Option<String>, EngineError> {
        if still > STALL_MAX {
            let list: Vec<String> = core
                .live()
                .filter(|d| !d.waits_for_input())
                .map(|d| format!("domain {} at point {}", d.id, d.progress()[1]))
                .collect();
            return Ok(Some(format!("nothing moved for {} s: {}", still.as_secs(), list.join(", "))));
        }
        if still > DEADLOCK_MAX && core.live().all(Domain::waits_for_input) {
            for d in core.live() {
                if let Some(Group::Entries { needs, .. }) = self.feed.peek(d.id)? {
                    return Ok(Some(format!(
                        "domain {} waits for what the log has next, and that needs what no other domain did: {needs:?}",
                        d.id
                    )));
                }
            }
        }
        Ok(None)
    }
}

fn close_pipe(d: &mut Domain, pipe: PipeId) {
    *d.pipe_closings.entry(pipe).or_default() += 1;
}

fn count(counts: &HashMap<PipeId, u64>, pipe: &PipeId) -> u64 {
    counts.get(pipe).copied().unwrap_or(0)
}

fn is_met(need: &Need, domain: &Domain, children_gone: &[u64; DOMAINS_MAX]) -> bool {
    match need {
        Need::ChildGone { child, nth } => children_gone.get(usize::from(child.0)).is_some_and(|n| n >= nth),
        Need::PipeBytes { pipe, upto, closings } => {
            count(&domain.pipe_bytes, pipe) >= *upto || count(&domain.pipe_closings, pipe) > *closings
        }
        Need::PipeClosed { pipe, nth } => count(&domain.pipe_closings, pipe) >= *nth,
    }
}

/// A wait status in words.
pub fn describe_status(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit status {}", libc::WEXITSTATUS(status))
    }
}

impl<S: Source> Part for Backup<S> {
    fn drain(&mut self, core: &mut Core, d: DomainId) -> Result<bool, EngineError> {
        for _ in 0..DRAIN_FRAMES_MAX {
            let Core { domains, trace, refused, .. } = core;
            let Some(domain) = domains[usize::from(d.0)].as_mut() else { return Ok(false) };
            let exit = &mut domain.exit;
            let mut kept = Ok(());
            let handled = domain
                .from_guest
                .with_next(|frame| {
                    let result = match FromGuest::decode(frame) {
                        Err(e) => Err(EngineError::decode(d, e)),
                        Ok(FromGuest::Entry(Entry::Exit { status, digest })) => {
                            *exit = Some(Exit { status, digest, logged: true });
                            Ok(None)
                        }
                        Ok(FromGuest::Entry(e)) => {
                            Err(EngineError::Guest(format!("domain {d} follows a log and made an entry: {e:?}")))
                        }
                        Ok(FromGuest::Act(a)) => Core::common_act(trace, refused, d, &a).map(|done| {
                            if let Act::Output { bytes, .. } = a {
                                self.output_bytes += bytes.len() as u64;
                            }
                            kept = self.keep(d, &a);
                            if done { None } else { across(a) }
                        }),
                    };
                    (true, result)
                })
                .map_err(EngineError::corrupt(d))?;
            kept?;
            match handled {
                None => return Ok(false),
                Some(Ok(None)) => {}
                Some(Ok(Some(a))) => self.on_across(core, d, a)?,
                Some(Err(e)) => return Err(e),
            }
        }
        Ok(true)
    }

    fn settle(&mut self, core: &mut Core, d: DomainId) -> Result<(), EngineError> {
        if self.ended.is_some() {
            return Ok(());
        }
        let Some(domain) = core.get_mut(d) else { return Ok(()) };
        let own = domain.exit;
        let status = domain.process.status();
        if let Some(difference) = self.compare(d, own, status)? {
            self.end(Ended::Diverged(Box::new(Scene::bare(d.0, difference))));
            return Ok(());
        }
        if d == SERVICE {
            let status = status.or(own.map(|e| e.status)).unwrap_or(libc::SIGKILL);
            self.end(Ended::Exited { status, logged: own.is_some() });
            return Ok(());
        }
        self.children_gone[usize::from(d.0)] = [0; DOMAINS_MAX];
        let Some(domain) = core.retire(d) else { return Ok(()) };
        if let Some(p) = domain.parent {
            self.children_gone[usize::from(p.0)][usize::from(d.0)] += 1;
            let status = status.or(own.map(|e| e.status)).unwrap_or(libc::SIGKILL);
            self.unlogged.child_gone(p, d, status);
            if let Some(parent) = core.get_mut(p) {
                for pipe in domain.pipes_open {
                    close_pipe(parent, pipe);
                    self.unlogged.pipe_end(p, pipe);
                }
            }
        }
        Ok(())
    }

    fn on_signal(&mut self, _: &mut Core, signo: u8, _: Instant) -> Result<(), EngineError> {
        // On a terminal it is meant for the debugger.
        if self.is_debugged() && i32::from(signo) == libc::SIGINT {
            return Ok(());
        }
        self.end(Ended::Interrupted(signo));
        Ok(())
    }

    fn on_front(&mut self, _: Token, _: i32) {}

    fn is_at_log_end(&mut self, core: &Core) -> Result<bool, EngineError> {
        for d in core.live() {
            let ends = self.given[usize::from(d.id.0)].is_some();
            // A fork child too must have come to where it asks the log: its parent may have been told of what it has not
            // done here yet.
            if ends || d.gone || self.feed.peek(d.id)?.is_some() || !d.waits_for_input() {
                return Ok(false);
            }
            // What it said before it waited was said to a follower's engine: taken for live it would count twice.
            if !d.from_guest.is_empty().map_err(EngineError::corrupt(d.id))? {
                return Ok(false);
            }
        }
        // None at all: it has ended, and said so.
        Ok(core.get(SERVICE).is_some())
    }

    fn go_live(
        mut self: Box<Self>,
        core: &mut Core,
        log: Box<dyn Log>,
        monotonic_ns: u64,
    ) -> Result<Primary, EngineError> {
        let pending: Vec<_> =
            Core::ids().flat_map(|d| self.feed.take_pending(d).into_iter().map(move |f| (d, f))).collect();
        for (d, frame) in &pending {
            self.follow(*d, frame)?;
        }
        let Some(front) = self.front.take() else {
            return Err(EngineError::Guest("it was not started to go live".into()));
        };
        let mut primary = Primary::with_front(front, log);
        primary.clock = Some((monotonic_ns, Instant::now()));
        for d in Core::ids() {
            if let Some(Given::Forced { .. }) = self.given[usize::from(d.0)]
                && let Some(domain) = core.get(d)
            {
                domain.process.kill();
            }
            let Some(domain) = core.get_mut(d) else { continue };
            domain.push_entry(&Entry::GoLive { monotonic_ns }).map_err(EngineError::corrupt(d))?;
        }
        // First what the log has and nobody applied, in its order; then what it hasn't.
        for (d, frame) in pending {
            self.unlogged.logged(d, &frame);
            primary.logged_event(core, d, &frame)?;
        }
        self.unlogged.for_each(|d, e| primary.unlogged_event(core, d, e))?;
        Ok(primary)
    }

    fn turn(&mut self, core: &mut Core, now: Instant) -> Result<bool, EngineError> {
        let mut more = false;
        self.poll = false;
        for d in Core::ids() {
            more |= self.give(core, d, now)?;
        }
        self.force(core, now);
        Ok(more)
    }

    fn deadline(&self) -> Option<Instant> {
        let soon = (self.poll || self.end_seen).then(|| Instant::now() + END_POLL);
        soon.or_else(|| self.halt.as_ref().map(Halt::deadline))
    }

    fn ended(&mut self, core: &Core, now: Instant) -> Result<Option<Ended>, EngineError> {
        let Some(mut halt) = self.halt.take() else { return self.ended_by_itself(core, now) };
        // Before its ring is looked at: what it says, it says before it stands.
        let stands = core.segment.header().hold.stands.load(Ordering::Acquire) == 1;
        let service = core.get(SERVICE);
        let all_heard = service.map_or(Ok(true), |d| d.from_guest.is_empty()).map_err(EngineError::corrupt(SERVICE))?;
        let gone = service.is_none_or(|d| d.gone);
        let ended = self.ended_by_itself(core, now)?;
        let done = match ended {
            Some(Ended::Interrupted(_)) => Ok(ended),
            // Time is no matter to whoever looks at it.
            Some(Ended::Stuck(_)) if halt.is_debug() => halt.turn(&core.segment, Seen { stands: false, gone, ended: None }),
            ended => halt.turn(&core.segment, Seen { stands: stands && all_heard, gone, ended }),
        };
        self.halt = Some(halt);
        done
    }

    fn add_stats(&self, s: &mut Stats) {
        s.entries = self.feed.stats.entries;
        s.input_bytes = self.feed.stats.input_bytes;
        s.memory_checks = self.feed.stats.memory_checks;
        s.output_bytes = self.output_bytes;
        s.connections = self.feed.stats.connections;
    }
    fn abort(&mut self, _: &EngineError) {}
}
