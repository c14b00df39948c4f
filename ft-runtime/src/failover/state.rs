//! One host of a pair, as a pure state machine: `step` takes an event and says what is to be done about it.
//!
//! Laws, each with the part of the machine that keeps it:
//!
//! 1. Output needs the peer's acknowledgement, or a record that has nobody but this host in its set (`serve`).
//! 2. A member leaves the set before output goes without it, and enters it only when output already waits for it
//!    (`serve`).
//! 3. Only a host that holds everything a client was told, and that the record has in its set, is granted (`follow`).
//! 4. A host that takes over is granted first and live later; between the two the other one may still win, after
//!    the second never (`take`). It goes live only when the other one's lease has run out or its gate is shut.
//! 5. A backup that has begun to take over acknowledges nothing (`follow`).
//! 6. What a put did is learned by reading, never assumed (`book`).
//! 7. A host that did not run for longer than its lease drops what waits to be sent, and sends nothing until it knows
//!    that it still may (`serve`).
//!
//! What must never happen here: reading a clock, drawing a number, touching a socket.

use super::action::{Acks, Action, Failure, Farewell, Lease, Output, Report};
use super::book::{Book, Heard, News};
use super::config::{ArbiterKind, Config};
use super::event::{Command, Event, ServiceNet, Timer};
use super::follow::{Claiming, Following};
use super::message::{Hello, Kept, Message, Role, Stance};
use super::refusal::Refusal;
use super::serve::{Holding, Rechecking, Serving, Yielding};
use super::start::{Demoting, Failed, Joining, Starting};
use super::take::{GoingLive, Replaying, Restoring};
use ft_log::ids::Term;

/// What a host is to the service. Each state holds exactly what it needs, rights included.
#[derive(Debug)]
pub enum State {
    /// Started without state; finds out whether to start the service, or to be given its state.
    Starting(Starting),
    /// Without state, waiting to be given it.
    Joining(Joining),
    /// Holds everything a client was told, and follows.
    Backup(Following),
    /// Asks the arbiter.
    Claiming(Claiming),
    /// Granted; the guest does what the log still has.
    Replaying(Replaying),
    /// Sockets are being built, or wait for the other host's lease to run out.
    Restoring(Restoring),
    /// The put that nobody else can undo is on its way.
    GoingLive(GoingLive),
    /// Serves.
    Primary(Serving),
    /// Holds all output until the arbiter has taken the backup out of the set, or the backup answers.
    Removing(Holding),
    /// The same, and the arbiter doesn't answer either.
    Mute(Holding),
    /// Was frozen: holds all output until it knows what it is.
    Rechecking(Rechecking),
    /// Has shut its gate for good, or until the other host turns out not to take over.
    Yielding(Yielding),
    /// Takes down what it had of the service.
    Demoting(Demoting),
    /// Does nothing until the process is restarted.
    Failed(Failed),
}

/// The names of the states, for status, tables and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Starting,
    Joining,
    Backup,
    Claiming,
    Replaying,
    Restoring,
    GoingLive,
    PrimaryAlone,
    PrimaryAdding,
    PrimaryPaired,
    PrimaryReleasing,
    Removing,
    Mute,
    Rechecking,
    Yielding,
    Demoting,
    Failed,
}

/// What a host's states share: the configuration, the arbiter, the link as it is now, the timers that run.
#[derive(Debug)]
pub(super) struct Context {
    pub config: Config,
    pub book: Book,
    pub link: Link,
    pub service: ServiceNet,
    /// A person wants nobody to be a backup, as long as this host serves.
    pub paused: bool,
    nonce: u64,
    said: Option<Hello>,
    timers: Vec<Timer>,
    pub out: Vec<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down,
    Up {
        /// What the peer said last on this link.
        peer: Option<Hello>,
        peer_service_ok: bool,
    },
}

impl Link {
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Up { peer: Some(hello), .. } => Some(hello.role),
            _ => None,
        }
    }
}

impl Context {
    pub fn act(&mut self, action: Action) {
        self.out.push(action);
    }

    pub fn report(&mut self, report: Report) {
        self.out.push(Action::Report(report));
    }

    pub fn send(&mut self, message: Message) {
        if self.link.is_up() {
            self.out.push(Action::Send(message));
        }
    }

    pub fn start(&mut self, timer: Timer, after_ms: u64) {
        if !self.timers.contains(&timer) {
            self.timers.push(timer);
        }
        self.out.push(Action::StartTimer { timer, after_ms });
    }

    pub fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.timers.iter().position(|t| *t == timer) {
            self.timers.swap_remove(at);
            self.out.push(Action::CancelTimer(timer));
        }
    }

    pub fn votes(&self) -> bool {
        self.config.arbiter == ArbiterKind::Votes
    }

    /// Reads the record unless an answer is waited for already.
    pub fn read(&mut self) {
        if self.votes() && !self.book.is_waiting() {
            self.book.read(&mut self.out);
        }
    }

    /// Asks the arbiter again, soon.
    pub fn retry(&mut self) {
        let after_ms = self.config.timing.arbiter_retry_ms;
        self.start(Timer::Retry, after_ms);
    }

    /// Asks the peer whether it still follows; its answer to this very question counts.
    pub fn ping(&mut self) -> Option<u64> {
        if !self.link.is_up() {
            return None;
        }
        let nonce = self.nonce();
        self.send(Message::Ping { nonce });
        Some(nonce)
    }

    /// A number for a question whose answer must be told from the answers to all others.
    pub fn nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    /// The highest term heard of from the arbiter.
    pub fn known_term(&self) -> Term {
        self.book.known().map_or(Term(0), |r| r.ruling.term)
    }

    /// A backup is wanted again.
    pub fn unpause(&mut self) {
        self.paused = false;
        self.report(Report::Unpaused);
    }

    /// Takes down what this host has of the service.
    pub fn demote(&mut self, then: After, farewell: Farewell) -> State {
        self.act(Action::Output(Output::Held));
        self.act(Action::Lease(Lease::Expire));
        self.act(Action::Acks(Acks::Off));
        self.act(Action::Demote(farewell));
        self.paused = false;
        State::Demoting(Demoting { then })
    }
}

/// What comes after a demotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Join,
    Fail(Failure),
}

/// A host: what it is, and what it knows.
#[derive(Debug)]
pub struct Machine {
    cx: Context,
    state: State,
}

impl Machine {
    /// A host that has done nothing yet. [`Event::Start`] comes first.
    pub fn new(config: Config) -> Result<Self, super::config::ConfigError> {
        config.check()?;
        let cx = Context {
            config,
            book: Book::default(),
            link: Link::Down,
            service: ServiceNet::Unsure,
            paused: false,
            nonce: 0,
            said: None,
            timers: Vec::new(),
            out: Vec::new(),
        };
        Ok(Self { cx, state: State::Starting(Starting::default()) })
    }

    pub fn kind(&self) -> Kind {
        self.state.kind()
    }

    /// The term the host serves or follows in, or tries for.
    pub fn term(&self) -> Term {
        self.state.term(&self.cx)
    }

    /// Clients and the arbiter would be reached from here: said to the peer with each heartbeat.
    pub fn would_serve(&self) -> bool {
        self.cx.service == ServiceNet::Sound && (!self.cx.votes() || self.cx.book.is_reachable())
    }

    /// Whether the arbiter knows whose files are the service's; `None`: it has not answered this host, which starts. Without
    /// an arbiter nobody does.
    pub fn has_record(&self) -> Option<bool> {
        match &self.state {
            _ if !self.cx.votes() => Some(false),
            State::Starting(s) => s.has_record(),
            _ => Some(true),
        }
    }

    /// Output waits for the peer, and the arbiter has the peer in the set.
    pub fn is_protected(&self) -> bool {
        self.kind() == Kind::PrimaryPaired
    }

    /// A person wants nobody to be a backup: of this host, or, as that says, of the one that serves.
    pub fn is_paused(&self) -> bool {
        self.cx.paused || self.cx.link.role() == Some(Role::Primary(Stance::Paused))
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// What `event` makes of the host, and what is to be done about it, in order.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Vec<Action>) {
        let Self { mut cx, state } = self;
        let before = state.kind();
        let state = prelude(state, &mut cx, event);
        if state.kind() != before {
            cancel_unwanted(&state, &mut cx);
        }
        introduce(&state, &mut cx);
        let out = std::mem::take(&mut cx.out);
        (Self { cx, state }, out)
    }
}

/// What every state does alike; then the state's own part.
fn prelude(state: State, cx: &mut Context, event: Event) -> State {
    match event {
        Event::Start if cx.votes() => cx.start(Timer::ArbiterCheck, cx.config.timing.arbiter_check_ms),
        Event::LinkUp => {
            cx.link = Link::Up { peer: None, peer_service_ok: false };
            cx.said = None;
        }
        Event::LinkDown(_) => cx.link = Link::Down,
        Event::Peer(Message::Hello(hello)) => {
            let paused = Some(Role::Primary(Stance::Paused));
            let before = cx.link.role();
            if let Link::Up { peer, .. } = &mut cx.link {
                *peer = Some(hello);
            }
            match cx.link.role() {
                now if now == before => {}
                now if now == paused => cx.report(Report::PeerPaused),
                Some(Role::Primary(_)) if before == paused => cx.report(Report::PeerUnpaused),
                _ => {}
            }
        }
        Event::Peer(Message::Detach) if !matches!(state, State::Primary(_)) => {
            cx.send(Message::Kept { why: Kept::Busy });
            return state;
        }
        Event::HeartbeatSeen { service_ok } => {
            if let Link::Up { peer_service_ok, .. } = &mut cx.link {
                *peer_service_ok = service_ok;
            }
        }
        Event::ServiceNet(net) => {
            let before = std::mem::replace(&mut cx.service, net);
            match (before, net) {
                (ServiceNet::Lost, ServiceNet::Lost) => {}
                (_, ServiceNet::Lost) => cx.report(Report::ServiceNetLost),
                (ServiceNet::Lost, _) => cx.report(Report::ServiceNetBack),
                _ => {}
            }
        }
        Event::Timer(timer) => {
            let Some(at) = cx.timers.iter().position(|t| *t == timer) else {
                // Cancelled while it was on its way here.
                return state;
            };
            cx.timers.swap_remove(at);
            match timer {
                Timer::ArbiterCheck => {
                    cx.start(Timer::ArbiterCheck, cx.config.timing.arbiter_check_ms);
                    cx.read();
                    return state;
                }
                Timer::Retry => {
                    cx.read();
                    return state;
                }
                _ => {}
            }
        }
        Event::Arbiter { request, answer } => {
            let mut out = std::mem::take(&mut cx.out);
            let news = cx.book.hear(request, answer, &mut out);
            cx.out = out;
            return match news {
                Some(News::Heard(heard)) => state.hear(cx, &heard),
                Some(News::Silence) => state.unheard(cx),
                None => state,
            };
        }
        // It holds its output for a moment; what it is wanted to be afterwards can be said all the same.
        Event::Operator(Command::Resume) if cx.paused && !matches!(state, State::Primary(_)) => {
            cx.unpause();
            return state;
        }
        Event::Operator(command) => {
            if let Some(why) = Refusal::beforehand(state.kind(), command) {
                cx.report(Report::Refused(why));
                return state;
            }
        }
        _ => {}
    }
    state.on(cx, event)
}

/// A timer that the state doesn't wait for has no business to fire in it.
fn cancel_unwanted(state: &State, cx: &mut Context) {
    for timer in Timer::ALL {
        if !state.waits_for(timer) {
            cx.cancel(timer);
        }
    }
}

/// Tells the peer who this host is, when the link is new or that has changed.
fn introduce(state: &State, cx: &mut Context) {
    let hello = Hello { role: state.role(cx), term: state.term(cx) };
    if cx.link.is_up() && cx.said != Some(hello) {
        cx.said = Some(hello);
        cx.send(Message::Hello(hello));
    }
}

macro_rules! each {
    ($state:expr, $inner:ident => $call:expr) => {
        match $state {
            State::Starting($inner) => $call,
            State::Joining($inner) => $call,
            State::Backup($inner) => $call,
            State::Claiming($inner) => $call,
            State::Replaying($inner) => $call,
            State::Restoring($inner) => $call,
            State::GoingLive($inner) => $call,
            State::Primary($inner) => $call,
            State::Removing($inner) | State::Mute($inner) => $call,
            State::Rechecking($inner) => $call,
            State::Yielding($inner) => $call,
            State::Demoting($inner) => $call,
            State::Failed($inner) => $call,
        }
    };
}

/// What each state has to answer.
pub(super) trait Step: Sized {
    /// Anything but what the arbiter says.
    fn on(self, cx: &mut Context, event: Event) -> State;
    /// The arbiter's record.
    fn hear(self, cx: &mut Context, heard: &Heard) -> State;
    /// The arbiter did not answer.
    fn unheard(self, cx: &mut Context) -> State;
    fn role(&self, cx: &Context) -> Role;
    fn term(&self, cx: &Context) -> Term;
}

impl State {
    fn on(self, cx: &mut Context, event: Event) -> Self {
        // Being mute is holding and nothing else; what ends it goes through the arbiter's answer.
        match self {
            Self::Mute(s) => match s.on(cx, event) {
                Self::Removing(s) => Self::Mute(s),
                other => other,
            },
            other => each!(other, s => s.on(cx, event)),
        }
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> Self {
        each!(self, s => s.hear(cx, heard))
    }

    fn unheard(self, cx: &mut Context) -> Self {
        match self {
            Self::Mute(s) => {
                cx.retry();
                Self::Mute(s)
            }
            other => each!(other, s => s.unheard(cx)),
        }
    }

    fn role(&self, cx: &Context) -> Role {
        each!(self, s => s.role(cx))
    }

    fn term(&self, cx: &Context) -> Term {
        each!(self, s => s.term(cx))
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Starting(_) => Kind::Starting,
            Self::Joining(_) => Kind::Joining,
            Self::Backup(_) => Kind::Backup,
            Self::Claiming(_) => Kind::Claiming,
            Self::Replaying(_) => Kind::Replaying,
            Self::Restoring(_) => Kind::Restoring,
            Self::GoingLive(_) => Kind::GoingLive,
            Self::Primary(s) => s.kind(),
            Self::Removing(_) => Kind::Removing,
            Self::Mute(_) => Kind::Mute,
            Self::Rechecking(_) => Kind::Rechecking,
            Self::Yielding(_) => Kind::Yielding,
            Self::Demoting(_) => Kind::Demoting,
            Self::Failed(_) => Kind::Failed,
        }
    }

    fn waits_for(&self, timer: Timer) -> bool {
        match timer {
            Timer::ArbiterCheck => true,
            Timer::Retry => !matches!(
                self.kind(),
                Kind::Joining
                    | Kind::Backup
                    | Kind::PrimaryAlone
                    | Kind::PrimaryPaired
                    | Kind::Demoting
                    | Kind::Failed
            ),
            Timer::PeerWait => matches!(self, Self::Starting(_)),
            Timer::HeadStart => matches!(self, Self::Backup(_) | Self::Removing(_) | Self::Mute(_)),
            Timer::Silence => matches!(
                self.kind(),
                Kind::Backup | Kind::PrimaryAdding | Kind::PrimaryPaired | Kind::PrimaryReleasing | Kind::Rechecking
            ),
            Timer::PeerLease => matches!(self, Self::Claiming(_) | Self::Replaying(_) | Self::Restoring(_)),
            Timer::Patience => matches!(self, Self::Removing(_) | Self::Mute(_) | Self::Yielding(_)),
        }
    }
}
