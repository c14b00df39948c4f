//! The failover machine with what it lives on: events in their order, timers on the boot clock, the arbiter.
//!
//! Whoever owns it tells what happens, takes the actions of one event at a time and does them in their order before
//! asking for more.

use crate::failover::action::Failure;
use crate::failover::arbiter::{Arbiter, Ask};
use crate::failover::config::ConfigError;
use crate::failover::event::Timer;
use crate::failover::state::State;
use crate::failover::{Action, Config, Event, Kind, Machine};
use crate::gate::boot_time::BootTime;
use ft_log::ids::Term;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

pub struct Decider {
    /// `None` only while it steps.
    machine: Option<Machine>,
    arbiter: Option<Arbiter>,
    /// The arbiter may have answered.
    answered: bool,
    timers: Vec<(Timer, BootTime)>,
    events: VecDeque<Event>,
}

impl Decider {
    /// `arbiter`: where `config` says that there is one.
    pub fn new(config: Config, arbiter: Option<Arbiter>) -> Result<Self, ConfigError> {
        let machine = Some(Machine::new(config)?);
        Ok(Self { machine, arbiter, answered: false, timers: Vec::new(), events: VecDeque::from([Event::Start]) })
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("a machine but while it steps")
    }

    pub fn kind(&self) -> Kind {
        self.machine().kind()
    }

    pub fn term(&self) -> Term {
        self.machine().term()
    }

    pub fn would_serve(&self) -> bool {
        self.machine().would_serve()
    }

    pub fn has_record(&self) -> Option<bool> {
        self.machine().has_record()
    }

    pub fn is_paused(&self) -> bool {
        self.machine().is_paused()
    }

    /// Why this host does nothing any more.
    pub fn failure(&self) -> Option<Failure> {
        match self.machine().state() {
            State::Failed(f) => Some(f.why()),
            _ => None,
        }
    }

    pub fn tell(&mut self, e: Event) {
        self.events.push_back(e);
    }

    /// Of what must be known before anything else that happened.
    pub fn tell_first(&mut self, e: Event) {
        self.events.push_front(e);
    }

    /// [`Self::fd`] is readable, or may be.
    pub fn on_answer(&mut self) {
        self.answered = true;
    }

    /// What the next event asks for; `None`: nothing has happened. What was told comes before timers: a sign of life
    /// that came in time is no silence. So does an answer, of which nobody may have told yet.
    pub fn next(&mut self) -> Option<Vec<Action>> {
        if self.events.is_empty()
            && (self.answered || self.deadline().is_some_and(|at| at <= Instant::now()))
            && let Some(a) = &mut self.arbiter
        {
            self.answered = false;
            let answers = a.answers(Instant::now());
            self.events.extend(answers.into_iter().map(|(request, answer)| Event::Arbiter { request, answer }));
        }
        let event = self.events.pop_front().or_else(|| self.due())?;
        let (machine, actions) = self.machine.take().expect("a machine but while it steps").step(event);
        self.machine = Some(machine);
        Some(actions)
    }

    /// The timer that was to fire first, if it is time.
    fn due(&mut self) -> Option<Event> {
        let now = BootTime::now();
        let (k, _) = self.timers.iter().enumerate().filter(|(_, (_, at))| *at <= now).min_by_key(|(_, (_, at))| *at)?;
        Some(Event::Timer(self.timers.swap_remove(k).0))
    }

    /// Does what is done here; the rest is the owner's.
    pub fn act(&mut self, action: Action) -> Option<Action> {
        let ask = |arbiter: &mut Option<Arbiter>, request, ask| {
            arbiter.as_mut().expect("only who has an arbiter asks it").ask(request, ask, Instant::now());
        };
        match action {
            Action::StartTimer { timer, after_ms } => {
                self.timers.retain(|(t, _)| *t != timer);
                self.timers.push((timer, BootTime::now().after(Duration::from_millis(after_ms))));
            }
            Action::CancelTimer(timer) => self.timers.retain(|(t, _)| *t != timer),
            Action::ArbiterRead { request } => ask(&mut self.arbiter, request, Ask::Read),
            Action::ArbiterPut { request, expect, ruling } => {
                ask(&mut self.arbiter, request, Ask::Put { expect, ruling });
            }
            other => return Some(other),
        }
        None
    }

    /// Readable: the arbiter has answered.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.arbiter.as_ref().map(Arbiter::fd)
    }

    pub fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        if !self.events.is_empty() {
            return Some(now);
        }
        let timer = self.timers.iter().map(|(_, at)| *at).min().map(|at| now + at.since(BootTime::now()));
        let arbiter = self.arbiter.as_ref().and_then(Arbiter::next_deadline);
        timer.into_iter().chain(arbiter).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::action::{Lease, Output};
    use crate::failover::config::{ArbiterKind, DivergencePolicy, Timing};
    use crate::failover::message::{Hello, Message, Preferred, Role};
    use crate::failover::record::HostId;

    fn all(d: &mut Decider) -> Vec<Action> {
        let mut out = Vec::new();
        while let Some(actions) = d.next() {
            out.extend(actions.into_iter().filter_map(|a| d.act(a)));
        }
        out
    }

    #[test]
    fn a_pair_without_an_arbiter_starts_by_its_peers_word() {
        let config = Config {
            me: HostId(1),
            peer: HostId(2),
            prefers: Preferred::Primary,
            arbiter: ArbiterKind::None { alone_allowed: false },
            divergence: DivergencePolicy::Reseed,
            timing: Timing { peer_wait_ms: 1, ..Timing::default() },
        };
        let mut d = Decider::new(config, None).unwrap();
        assert_eq!(all(&mut d)[..2], [Action::Output(Output::Held), Action::Lease(Lease::Expire)]);
        assert!(d.deadline().unwrap() <= Instant::now() + Duration::from_millis(2), "the wait for the peer is a timer");
        std::thread::sleep(Duration::from_millis(3));
        assert!(matches!(all(&mut d)[..], [Action::Report(_)]), "it is told that nobody came");
        d.tell(Event::LinkUp);
        d.tell(Event::Peer(Message::Hello(Hello { role: Role::Empty { prefers: Preferred::Backup }, term: Term(0) })));
        assert!(all(&mut d).contains(&Action::StartGuest));
        assert_eq!(d.kind(), Kind::Replaying);
    }
}
