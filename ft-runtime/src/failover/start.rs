//! Hosts without state: starting, joining, taking down what they had, failed.
//!
//! Law: a service is started cold only if no host may hold a running state of it, and then by the owner of the last
//! record: its disk has all that clients were told.

use super::action::{Acks, Action, Failure, Farewell, Lease, Output, Report};
use super::book::Heard;
use super::config::ArbiterKind;
use super::event::{Command, Event, Timer};
use super::follow::{Claiming, Following, Source};
use super::message::{Drop, Message, Preferred, Role};
use super::record::{Members, Record};
use super::refusal::Refusal;
use super::state::{After, Context, State, Step};
use ft_log::ids::Term;

#[derive(Debug, Default)]
pub struct Starting {
    waited: bool,
    record: Seen,
}

#[derive(Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    Absent,
    Record(Record),
}

/// What a starting host makes of what it knows.
enum Verdict {
    Wait,
    Join,
    StartCold,
}

impl Starting {
    /// A host that has just lost all it had looks around anew.
    pub(super) fn again(cx: &mut Context) -> State {
        Self::default().begin(cx)
    }

    /// After a cold start was not granted.
    pub(super) fn with(cx: &mut Context, heard: &Heard) -> State {
        let mut s = Self { waited: true, record: Seen::Nothing };
        s.learn(heard);
        // Whoever serves instead will give it state, and waits for its word that it has come.
        cx.act(Action::Acks(Acks::On));
        s.decide(cx)
    }

    fn begin(self, cx: &mut Context) -> State {
        cx.act(Action::Output(Output::Held));
        cx.act(Action::Lease(Lease::Expire));
        cx.act(Action::Acks(Acks::On));
        let wait_ms = cx.config.timing.peer_wait_ms;
        cx.start(Timer::PeerWait, wait_ms);
        cx.read();
        self.decide(cx)
    }

    /// Whether the arbiter has a record of the service; `None`: it has not said so yet.
    pub(super) fn has_record(&self) -> Option<bool> {
        match self.record {
            Seen::Nothing => None,
            Seen::Absent => Some(false),
            Seen::Record(_) => Some(true),
        }
    }

    fn learn(&mut self, heard: &Heard) {
        self.record = heard.record().map_or(Seen::Absent, |r| Seen::Record(*r));
    }

    fn decide(self, cx: &mut Context) -> State {
        match self.verdict(cx) {
            Verdict::Wait => State::Starting(self),
            Verdict::Join => State::Joining(Joining),
            Verdict::StartCold => Claiming::cold(cx, false),
        }
    }

    fn verdict(&self, cx: &Context) -> Verdict {
        let me = cx.config.me;
        let peer = cx.link.role();
        if let Some(Role::Primary(_)) = peer {
            return Verdict::Join;
        }
        let peer_stateless = peer.is_some_and(Role::is_stateless);
        if peer.is_some() && !peer_stateless {
            // It takes over, or gives up; either way it says so.
            return Verdict::Wait;
        }
        let start_if = |yes: bool| if yes { Verdict::StartCold } else { Verdict::Wait };
        // Without a record: who should, else the lower id.
        let first = match (cx.config.prefers, peer) {
            (Preferred::Primary, Some(Role::Empty { prefers: Preferred::Backup })) => true,
            (Preferred::Backup, Some(Role::Empty { prefers: Preferred::Primary })) => false,
            (_, Some(Role::Empty { .. })) => me < cx.config.peer,
            _ => true,
        };
        match (cx.config.arbiter, &self.record) {
            // Nothing but the other host's own word says that it has no state, and nothing but the same reckoning on
            // both that one of them starts.
            (ArbiterKind::None { .. }, _) => start_if(matches!(peer, Some(Role::Empty { .. })) && first),
            (ArbiterKind::Votes, Seen::Nothing) => Verdict::Wait,
            // A new service; or an arbiter that lost its state, or a share that isn't mounted. The other host knows.
            (ArbiterKind::Votes, Seen::Absent) => start_if(peer_stateless && first),
            (ArbiterKind::Votes, Seen::Record(r)) => {
                let may_hold_state = |h| h != me && !(h == cx.config.peer && peer_stateless);
                let nobody_else = !r.ruling.in_sync.iter().any(may_hold_state);
                start_if(r.ruling.owner == me && nobody_else && (peer_stateless || self.waited))
            }
        }
    }
}

impl Step for Starting {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        match event {
            Event::Start => self.begin(cx),
            Event::Peer(Message::Hello(_)) => self.decide(cx),
            Event::Timer(Timer::PeerWait) => {
                self.waited = true;
                let next = self.decide(cx);
                if matches!(next, State::Starting(_)) {
                    cx.report(Report::WaitingForPeer);
                }
                next
            }
            Event::Operator(Command::Force) => Claiming::cold(cx, true),
            Event::Operator(Command::Shutdown) => Failed::enter(cx, Failure::Shutdown),
            _ => State::Starting(self),
        }
    }

    fn hear(mut self, cx: &mut Context, heard: &Heard) -> State {
        self.learn(heard);
        self.decide(cx)
    }

    fn unheard(self, cx: &mut Context) -> State {
        cx.retry();
        State::Starting(self)
    }

    fn role(&self, cx: &Context) -> Role {
        Role::Empty { prefers: cx.config.prefers }
    }

    fn term(&self, _: &Context) -> Term {
        Term(0)
    }
}

#[derive(Debug)]
pub struct Joining;

impl Step for Joining {
    fn on(self, cx: &mut Context, event: Event) -> State {
        match event {
            // Everything this host lacks came before this message, and from here on output waits for it.
            Event::Peer(Message::Adding { term, nonce }) => Following::begin(cx, term, nonce),
            // What it has been given so far is of no use.
            Event::GuestDied | Event::ReplayFailed | Event::Diverged(_) => {
                cx.report(Report::DroppedOut { why: Drop::GuestDied });
                cx.demote(After::Join, Farewell::Silent)
            }
            // Nobody serves that could give this host state.
            Event::Peer(Message::Hello(hello)) if hello.role.is_stateless() => Starting::again(cx),
            Event::Operator(Command::Force) => Claiming::cold(cx, true),
            Event::Operator(Command::Shutdown) => cx.demote(After::Fail(Failure::Shutdown), Farewell::Silent),
            _ => State::Joining(self),
        }
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        match heard.record() {
            // The state was here and nowhere else, and is gone.
            Some(r) if r.ruling.in_sync == Members::only(cx.config.me) => Starting::again(cx),
            _ => State::Joining(self),
        }
    }

    fn unheard(self, _: &mut Context) -> State {
        State::Joining(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Joining
    }

    fn term(&self, _: &Context) -> Term {
        Term(0)
    }
}

#[derive(Debug)]
pub struct Demoting {
    pub(super) then: After,
}

impl Step for Demoting {
    fn on(self, cx: &mut Context, event: Event) -> State {
        match (event, self.then) {
            (Event::Demoted, After::Join) => {
                cx.act(Action::Acks(Acks::On));
                match cx.link.role() {
                    Some(role) if role.is_stateless() => Starting::again(cx),
                    _ => State::Joining(Joining),
                }
            }
            (Event::Demoted, After::Fail(why)) => Failed::enter(cx, why),
            (Event::Operator(Command::Shutdown), _) => State::Demoting(Self { then: After::Fail(Failure::Shutdown) }),
            (Event::Operator(Command::Force), _) => {
                cx.report(Report::Refused(Refusal::Busy));
                State::Demoting(self)
            }
            _ => State::Demoting(self),
        }
    }

    fn hear(self, _: &mut Context, _: &Heard) -> State {
        State::Demoting(self)
    }

    fn unheard(self, _: &mut Context) -> State {
        State::Demoting(self)
    }

    fn role(&self, _: &Context) -> Role {
        // The receiver can rely on it: this host sends and claims nothing any more.
        Role::Failed
    }

    fn term(&self, _: &Context) -> Term {
        Term(0)
    }
}

#[derive(Debug)]
pub struct Failed {
    why: Failure,
}

impl Failed {
    pub(super) fn enter(cx: &mut Context, why: Failure) -> State {
        cx.act(Action::Output(Output::Held));
        cx.act(Action::Lease(Lease::Expire));
        cx.act(Action::Acks(Acks::Off));
        cx.report(Report::Failed(why));
        State::Failed(Self { why })
    }

    pub fn why(&self) -> Failure {
        self.why
    }
}

impl Step for Failed {
    fn on(self, _: &mut Context, _: Event) -> State {
        State::Failed(self)
    }

    fn hear(self, _: &mut Context, _: &Heard) -> State {
        State::Failed(self)
    }

    fn unheard(self, _: &mut Context) -> State {
        State::Failed(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Failed
    }

    fn term(&self, _: &Context) -> Term {
        Term(0)
    }
}

/// A cold start has nothing to replay; everything else has.
pub(super) fn is_cold(source: Source) -> bool {
    source == Source::Nothing
}
