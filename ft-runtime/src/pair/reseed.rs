//! How a pair becomes whole again: a host that serves alone finds another one and gives it the service's state; a host
//! that was given it says when its guest has caught up.

use super::message::kind;
use super::seed::{Seed, SeedMessage};
use super::status::{Milestone, SeedProgress};
use super::{Kind, Pair, Role, SEED_PAUSE_MAX, SEED_PAUSE_MIN, TOKEN_LINK, TOKEN_SEED};
use crate::engine::{Core, EngineError};
use crate::failover::event::LinkEnd;
use crate::failover::{self, Action};
use crate::front::Token;
use crate::link::Link;
use crate::snapshot::{PAGE, stream};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::time::Instant;

/// Entries that a guest may lack which is said to have caught up: what comes in a moment.
const BEHIND_MAX: usize = 256;

impl Pair {
    /// Looks for another host where there is none.
    pub(super) fn admit(&mut self, core: &mut Core, now: Instant) -> Result<(), EngineError> {
        let is_alone = self.leads() && self.decider.kind() == Kind::PrimaryAlone && !self.guest_gone && !self.is_leaving;
        if !is_alone || self.has_link() {
            return Ok(());
        }
        self.admission.want();
        let Some(link) = self.admission.take() else { return Ok(()) };
        self.greet(core, link, now)
    }

    /// A link with another host, which has no state yet.
    fn greet(&mut self, core: &Core, link: Link, now: Instant) -> Result<(), EngineError> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        core.watch(link.fd(), EpollEvent::new(flags, Token::Pair(TOKEN_LINK).encode()), "watching the link")?;
        self.out.borrow_mut().link = Some(link);
        self.link_ready = true;
        self.peer_joins = false;
        self.heard_at = now;
        self.heartbeats.clear();
        (self.heard_seq, self.echoed_seq) = (0, 0);
        self.introduce_guard();
        self.decider.tell(failover::Event::LinkUp);
        Ok(())
    }

    /// Whatever was under way with the peer is over.
    pub(super) fn link_is_gone(&mut self) {
        self.peer_joins = false;
        self.peer_has_all = false;
        if self.end_seed().is_some() {
            self.seed_again = Instant::now() + self.seed_pause;
            self.seed_pause = (2 * self.seed_pause).min(SEED_PAUSE_MAX);
        }
        if self.leads() {
            self.out.borrow_mut().end_following();
        }
    }

    /// One step of giving, or of being given, the service's state.
    pub(super) fn reseed(&mut self, core: &mut Core, now: Instant) -> Result<bool, EngineError> {
        if !self.leads() {
            self.say_when_caught_up();
            return Ok(false);
        }
        if self.decider.kind() == Kind::PrimaryPaired
            && let Some(s) = self.end_seed()
        {
            self.seed_pause = SEED_PAUSE_MIN;
            let ms = now.saturating_duration_since(s.since).as_millis();
            self.board.event(&format!("{} was given the service's state: {} bytes, in sync after {ms} ms", self.settings.peer, s.sent));
        }
        if self.decider.kind() == Kind::PrimaryAlone && self.decider.is_paused() && self.end_seed().is_some() {
            self.break_off_seed();
        }
        if self.seed.is_none() && self.may_begin_seed(now) {
            self.board.mark(Milestone::Seeding, &format!("{} is given the service's state", self.settings.peer));
            self.seed = Some(Seed::begin(now));
        }
        if self.seed.as_ref().is_some_and(Seed::is_begun) {
            self.ask_for_copy(core)?;
        }
        let Some(seed) = &mut self.seed else { return Ok(false) };
        let mut out = self.out.borrow_mut();
        let Some(link) = &mut out.link else { return Ok(false) };
        let sent = seed.turn(link);
        drop(out);
        match sent {
            Ok(more) => Ok(more),
            Err(why) => {
                self.give_up_seed(&why);
                Ok(false)
            }
        }
    }

    fn end_seed(&mut self) -> Option<Seed> {
        let seed = self.seed.take()?;
        self.board.set_seed(None);
        Some(seed)
    }

    pub(super) fn show_seed(&self, now: Instant) {
        if let Some(s) = &self.seed {
            self.board.set_seed(Some(SeedProgress::new(s.taken, s.total, now.saturating_duration_since(s.since))));
        }
    }

    fn may_begin_seed(&self, now: Instant) -> bool {
        let is_followed = self.out.borrow().is_followed();
        self.peer_joins && !is_followed && self.decider.kind() == Kind::PrimaryAlone && !self.decider.is_paused() && now >= self.seed_again && !self.guest_gone
    }

    /// As soon as all that the guest has not applied is kept.
    fn ask_for_copy(&mut self, core: &mut Core) -> Result<(), EngineError> {
        let mut made = None;
        let asked = core.want_copy(|| {
            let (outlet, chunks) = stream::outgoing()?;
            made = Some(chunks);
            Ok(outlet)
        });
        asked.map_err(|e| EngineError::system("an eventfd", e))?;
        if let (Some(chunks), Some(seed)) = (made, &mut self.seed) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Pair(TOKEN_SEED).encode());
            core.watch(chunks.fd(), event, "watching a snapshot")?;
            seed.asked(chunks);
        }
        Ok(())
    }

    /// The guest has copied itself. `events`: those that it has not applied.
    pub(super) fn seed_copied(&mut self, events: &[Box<[u8]>]) {
        let now = Instant::now();
        let Some(Role::Leading(p)) = &self.role else { return };
        let births = self.world.as_ref().map_or(Vec::new(), |w| w.told(now));
        let mut out = self.out.borrow_mut();
        let message = SeedMessage {
            start: self.start.clone(),
            index: out.appended().0,
            clock_ns: p.clock.map(|(ns, at)| ns + now.saturating_duration_since(at).as_nanos() as u64),
            bytes: resident_bytes(self.guest_pid),
            events: events.len() as u32,
            births: births.len() as u32,
        };
        let (Some(seed), Some(link)) = (&mut self.seed, &mut out.link) else { return };
        if seed.copied(link, message, events, &births) {
            out.begin_following();
        }
    }

    /// The peer's guest is made, and has nearly all of the log.
    pub(super) fn peer_is_ready(&mut self, now: Instant) {
        let Some(s) = &self.seed else { return };
        let ms = now.saturating_duration_since(s.since).as_millis();
        self.peer_has_all = true;
        self.board.event(&format!("{} has caught up after {ms} ms", self.settings.peer));
    }

    fn give_up_seed(&mut self, why: &str) {
        let text = format!("{} can't be given the service's state: {why}; trying again", self.settings.peer);
        tracing::error!("{text}");
        self.board.event(&text);
        self.part(why, "its transfer of state was given up");
    }

    /// A person wants no backup.
    fn break_off_seed(&mut self) {
        self.board.event(&format!("{} is given no more of the service's state: protection is paused", self.settings.peer));
        self.seed_again = Instant::now();
        self.seed_pause = SEED_PAUSE_MIN;
        self.part("protection is paused", "its transfer of state was broken off");
    }

    /// The other host must begin anew, and does when its link is gone. `why`: it is told; `said`: so is who asks here.
    fn part(&mut self, why: &str, said: &str) {
        self.out.borrow_mut().send(kind::BYE, &[], why.as_bytes());
        self.flush();
        self.lose_link(LinkEnd::Closed, said);
    }

    fn say_when_caught_up(&mut self) {
        if self.joins_since.is_some() && self.source.0.borrow().len() <= BEHIND_MAX {
            self.joins_since = None;
            self.out.borrow_mut().send(kind::READY, &[], &[]);
        }
    }

    /// Whether this host, which has no part in the service any more, may be given its state anew.
    pub(super) fn may_rejoin(&mut self) -> bool {
        self.decider.tell(failover::Event::Demoted);
        while self.decider.kind() == Kind::Demoting
            && let Some(actions) = self.decider.next()
        {
            // The rest is for whoever begins anew, and is found out anew.
            for action in actions {
                if let Action::Report(r) = action {
                    self.report(&r);
                }
            }
        }
        self.decider.kind() != Kind::Failed
    }
}


/// Of a process.
fn resident_bytes(pid: i32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * PAGE)
}
