//! Hosts that hold everything a client was told and don't serve: the backup, and the backup that asks to take over.
//!
//! Laws: only such a host asks to take over a running service; from its first question to the arbiter it acknowledges
//! nothing, unless it comes back to following before it was granted.

use super::action::{Acks, Action, ClaimCause, Failure, Farewell, Report};
use super::book::Heard;
use super::config::DivergencePolicy;
use super::event::{Blame, Command, Event, LinkEnd, Timer};
use super::message::{Drop, Message, Role, Stance};
use super::record::{Members, Phase, Record, Ruling, Version};
use super::refusal::Refusal;
use super::rights::TermGranted;
use super::start::Starting;
use super::state::{After, Context, State, Step};
use super::take::Replaying;
use ft_log::ids::Term;

/// Whether the host before may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLease {
    /// Until the timer says so.
    Running,
    /// It ran out, or its holder has shut its gate or is gone.
    Out,
}

/// What a host goes live with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The state it has followed to.
    Log,
    /// A guest started from nothing.
    Nothing,
}

#[derive(Debug)]
pub struct Following {
    term: Term,
}

impl Following {
    /// All that this host lacked has come.
    pub(super) fn begin(cx: &mut Context, term: Term, nonce: u64) -> State {
        cx.send(Message::Ready { nonce });
        cx.report(Report::Following { term });
        Self::resume(cx, term)
    }

    /// Back to following, with nothing missed.
    fn resume(cx: &mut Context, term: Term) -> State {
        cx.act(Action::Acks(Acks::On));
        listen(cx);
        State::Backup(Self { term })
    }

    fn claim(self, cx: &mut Context, why: ClaimCause, lease: PeerLease) -> State {
        if !cx.votes() && why != ClaimCause::Operator {
            cx.report(Report::NoTakeoverWithoutArbiter { why });
            return State::Backup(self);
        }
        cx.act(Action::Acks(Acks::Off));
        if lease == PeerLease::Running {
            cx.start(Timer::PeerLease, cx.config.timing.peer_lease_ms());
        }
        cx.report(Report::Claiming { term: self.term.next(), why });
        Claiming { term: self.term, why, source: Source::Log, lease }.ask(cx)
    }

    fn drop_out(cx: &mut Context, why: Drop, then: After) -> State {
        cx.send(Message::DropOut { why });
        cx.report(Report::DroppedOut { why });
        cx.demote(then, Farewell::Silent)
    }
}

/// Starts the wait for a sign of life. The primary has its head start on top.
fn listen(cx: &mut Context) {
    let t = cx.config.timing;
    cx.start(Timer::Silence, t.silence_ms + t.head_start_ms);
}

impl Step for Following {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        match event {
            Event::HeartbeatSeen { .. } | Event::Thawed => listen(cx),
            Event::LinkUp => {
                cx.cancel(Timer::HeadStart);
                listen(cx);
            }
            Event::PeerDead => return self.claim(cx, ClaimCause::EngineDied, PeerLease::Out),
            Event::LinkDown(LinkEnd::Closed) => return self.claim(cx, ClaimCause::LinkClosed, PeerLease::Running),
            Event::LinkDown(LinkEnd::Lost) => cx.start(Timer::HeadStart, cx.config.timing.head_start_ms),
            Event::Timer(Timer::HeadStart) => return self.claim(cx, ClaimCause::LinkLost, PeerLease::Running),
            // Silence outlasts the lease: see Timing::check.
            Event::Timer(Timer::Silence) => return self.claim(cx, ClaimCause::Silence, PeerLease::Out),
            Event::Peer(Message::TakeOver { why, .. }) => {
                return self.claim(cx, ClaimCause::Yielded(Some(why)), PeerLease::Out);
            }
            Event::Peer(Message::Hello(hello)) => match hello.role {
                Role::Primary(Stance::Waits) => {
                    self.term = self.term.max(hello.term);
                    listen(cx);
                }
                // It has gone on without this host.
                Role::Primary(Stance::Alone | Stance::Paused) => return cx.demote(After::Join, Farewell::Silent),
                Role::Yielding => return self.claim(cx, ClaimCause::Yielded(None), PeerLease::Out),
                role if role.is_stateless() => return self.claim(cx, ClaimCause::PeerRestarted, PeerLease::Out),
                _ => {}
            },
            Event::Peer(Message::Ping { nonce }) => {
                cx.send(Message::Pong { nonce });
                listen(cx);
            }
            Event::Peer(Message::InSync { term, in_sync }) if in_sync.contains(cx.config.me) => {
                self.term = self.term.max(term);
                cx.report(Report::Following { term: self.term });
                // So that a takeover's first put knows what stands.
                cx.read();
            }
            Event::Peer(Message::Dismissed { why: Drop::Detached }) => {
                return cx.demote(After::Fail(Failure::Detached), Farewell::Silent);
            }
            Event::Peer(Message::Dismissed { why }) => {
                cx.report(Report::Dismissed { why });
                return cx.demote(After::Join, Farewell::Silent);
            }
            Event::GuestDied | Event::ReplayFailed => return Self::drop_out(cx, Drop::GuestDied, After::Join),
            Event::Diverged(blame) => match (blame, cx.config.divergence) {
                (Blame::Backup, _) | (Blame::Unknown, DivergencePolicy::Reseed) => {
                    return Self::drop_out(cx, Drop::Diverged, After::Join);
                }
                (Blame::Unknown, DivergencePolicy::Halt) => {
                    return Self::drop_out(cx, Drop::Diverged, After::Fail(Failure::Diverged));
                }
                // The primary hands over.
                (Blame::Primary, _) | (Blame::Unknown, DivergencePolicy::Takeover) => {}
            },
            Event::Operator(Command::Shutdown) => {
                return Self::drop_out(cx, Drop::Shutdown, After::Fail(Failure::Shutdown));
            }
            Event::Operator(Command::Force) => return self.claim(cx, ClaimCause::Operator, PeerLease::Out),
            Event::Operator(Command::Detach) if !cx.link.is_up() => cx.report(Report::Refused(Refusal::NoLink)),
            // The primary has itself put into the record alone first, and dismisses this host then.
            Event::Operator(Command::Detach) => cx.send(Message::Detach),
            Event::Peer(Message::Kept { why }) => cx.report(Report::Refused(Refusal::Keeps(why))),
            _ => {}
        }
        State::Backup(self)
    }

    fn hear(self, _: &mut Context, _: &Heard) -> State {
        State::Backup(self)
    }

    fn unheard(self, _: &mut Context) -> State {
        State::Backup(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Backup
    }

    fn term(&self, _: &Context) -> Term {
        self.term
    }
}

#[derive(Debug)]
pub struct Claiming {
    /// The term this host followed in.
    term: Term,
    why: ClaimCause,
    source: Source,
    lease: PeerLease,
}

impl Claiming {
    /// Asks for the service of which nobody holds a running state.
    pub(super) fn cold(cx: &mut Context, forced: bool) -> State {
        let why = if forced { ClaimCause::Operator } else { ClaimCause::Cold };
        let term = cx.known_term();
        cx.act(Action::Acks(Acks::Off));
        cx.report(Report::ColdStart);
        Self { term, why, source: Source::Nothing, lease: PeerLease::Out }.ask(cx)
    }

    fn ask(self, cx: &mut Context) -> State {
        if !cx.votes() {
            let term = self.term.max(cx.known_term()).next();
            return Replaying::begin(cx, TermGranted::unarbitrated(term), self.source, self.lease);
        }
        // What is known may be old: good enough to try, not to give up.
        match (cx.book.known().copied(), self.source) {
            (Some(record), _) if self.is_open(cx, &record.ruling) => self.seek(cx, Some(record)),
            (stands, Source::Nothing) => self.seek(cx, stands),
            _ => {
                cx.read();
                State::Claiming(self)
            }
        }
    }

    /// Whether this host may claim over what stands.
    fn is_open(&self, cx: &Context, r: &Ruling) -> bool {
        match self.why {
            ClaimCause::Operator | ClaimCause::Cold => true,
            _ => r.in_sync.contains(cx.config.me) && (r.owner == cx.config.peer || r.phase == Phase::Claim),
        }
    }

    /// Puts the claim that fits what stands, or gives up.
    fn seek(self, cx: &mut Context, stands: Option<Record>) -> State {
        let me = cx.config.me;
        let expect = stands.map_or(Version::ABSENT, |r| r.version);
        let term = stands.map_or(self.term, |r| r.ruling.term.max(self.term)).next();
        let ruling = match (self.why, stands.map(|r| r.ruling)) {
            (ClaimCause::Operator | ClaimCause::Cold, _) => Ruling::alone(term, me, Phase::Claim),
            (_, Some(r)) if self.is_open(cx, &r) => {
                Ruling { term, owner: me, in_sync: r.in_sync, phase: Phase::Claim }
            }
            (_, Some(r)) => {
                cx.report(Report::NotGranted);
                cx.report(Report::Deposed { owner: r.owner, term: r.term });
                return cx.demote(After::Join, Farewell::Silent);
            }
            (_, None) => {
                cx.report(Report::ArbiterEmpty);
                cx.retry();
                return State::Claiming(self);
            }
        };
        cx.book.put(expect, ruling, &mut cx.out);
        State::Claiming(self)
    }

    /// The primary is back on the link and has done nothing without this host.
    fn retreat(self, cx: &mut Context, term: Term) -> State {
        cx.report(Report::Retreated { term });
        Following::resume(cx, term.max(self.term))
    }

    fn may_retreat(&self) -> bool {
        matches!(self.why, ClaimCause::LinkClosed | ClaimCause::LinkLost | ClaimCause::Silence)
    }

    fn is_mine(&self, cx: &Context, r: &Ruling) -> bool {
        let fits = match self.why {
            ClaimCause::Operator | ClaimCause::Cold => r.in_sync == Members::only(cx.config.me),
            _ => true,
        };
        r.owner == cx.config.me && r.phase == Phase::Claim && fits
    }
}

impl Step for Claiming {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        match event {
            Event::Timer(Timer::PeerLease) => self.lease = PeerLease::Out,
            Event::PeerDead => {
                self.lease = PeerLease::Out;
                self.why = if self.may_retreat() { ClaimCause::EngineDied } else { self.why };
            }
            Event::Peer(Message::Ping { nonce }) if self.may_retreat() => {
                let term = self.term;
                let next = self.retreat(cx, term);
                cx.send(Message::Pong { nonce });
                return next;
            }
            Event::Peer(Message::Hello(hello)) => match hello.role {
                Role::Primary(Stance::Waits) if self.may_retreat() => return self.retreat(cx, hello.term),
                // It has gone on without this host.
                Role::Primary(Stance::Alone | Stance::Paused) if self.may_retreat() => {
                    return cx.demote(After::Join, Farewell::Silent);
                }
                Role::Primary(_) if self.why == ClaimCause::Cold => return Starting::again(cx),
                Role::Yielding => self.lease = PeerLease::Out,
                role if role.is_stateless() => self.lease = PeerLease::Out,
                _ => {}
            },
            Event::Peer(Message::TakeOver { why, .. }) => {
                self.lease = PeerLease::Out;
                self.why = if self.may_retreat() { ClaimCause::Yielded(Some(why)) } else { self.why };
            }
            Event::GuestDied | Event::ReplayFailed | Event::Diverged(_) if self.source == Source::Log => {
                cx.send(Message::CannotTakeOver { term: self.term });
                return cx.demote(After::Join, Farewell::Silent);
            }
            Event::Operator(Command::Force) => {
                self.why = ClaimCause::Operator;
                self.lease = PeerLease::Out;
                cx.read();
            }
            Event::Operator(Command::Shutdown) => {
                cx.send(Message::CannotTakeOver { term: self.term });
                return cx.demote(After::Fail(Failure::Shutdown), Farewell::Silent);
            }
            _ => {}
        }
        State::Claiming(self)
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        let record = heard.record().copied();
        let mine = record.filter(|r| self.is_mine(cx, &r.ruling));
        if let Some(granted) = mine.and_then(|_| TermGranted::by_arbiter(cx.config.me, heard)) {
            return Replaying::begin(cx, granted, self.source, self.lease);
        }
        if self.why == ClaimCause::Cold {
            // Somebody else was faster, or is there after all.
            return Starting::with(cx, heard);
        }
        self.seek(cx, record)
    }

    fn unheard(self, cx: &mut Context) -> State {
        cx.retry();
        State::Claiming(self)
    }

    fn role(&self, cx: &Context) -> Role {
        match self.source {
            Source::Log => Role::Taking,
            Source::Nothing => Role::Empty { prefers: cx.config.prefers },
        }
    }

    fn term(&self, _: &Context) -> Term {
        self.term
    }
}
