//! A host that was granted: replay, sockets, live. Each state holds the right that the one before has made.
//!
//! Law: the put that makes it live leaves only after the other host's lease has run out or its gate is known shut;
//! from then on nothing but its outcome decides.

use super::action::{Action, Failure, Farewell, Report};
use super::book::Heard;
use super::event::{Command, Event, Timer};
use super::follow::{PeerLease, Source};
use super::message::{Message, Role};
use super::record::{Phase, Ruling, Version};
use super::refusal::Refusal;
use super::rights::{ReplayDone, SocketsRestored, TermGranted};
use super::serve::Serving;
use super::start::is_cold;
use super::state::{After, Context, State, Step};
use ft_log::ids::{LogIndex, Term};

#[derive(Debug)]
pub struct Replaying {
    granted: TermGranted,
    source: Source,
    lease: PeerLease,
}

impl Replaying {
    pub(super) fn begin(cx: &mut Context, granted: TermGranted, source: Source, lease: PeerLease) -> State {
        cx.act(if is_cold(source) { Action::StartGuest } else { Action::ReplayToEnd });
        State::Replaying(Self { granted, source, lease })
    }

    fn replayed(self, cx: &mut Context, upto: LogIndex) -> State {
        cx.act(Action::RestoreSockets);
        State::Restoring(Restoring { sockets: Sockets::Building(self.granted.replayed(upto)), lease: self.lease })
    }
}

/// Tells the peer, which may still have what it takes.
fn give_up(cx: &mut Context, term: Term, why: Failure, then: After) -> State {
    cx.send(Message::CannotTakeOver { term });
    cx.report(Report::Failed(why));
    cx.demote(then, Farewell::Silent)
}

/// Something that shows that the host before sends nothing any more.
fn shows_silence(event: Event) -> bool {
    match event {
        Event::Timer(Timer::PeerLease) | Event::PeerDead | Event::Peer(Message::TakeOver { .. }) => true,
        Event::Peer(Message::Hello(h)) => h.role.is_stateless() || h.role == Role::Yielding,
        _ => false,
    }
}

impl Step for Replaying {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        match event {
            Event::ReplayDone { upto } if !is_cold(self.source) => return self.replayed(cx, upto),
            Event::GuestStarted if is_cold(self.source) => return self.replayed(cx, LogIndex(0)),
            Event::ReplayFailed | Event::Diverged(_) | Event::GuestDied => {
                let (why, then) = match self.source {
                    Source::Log => (Failure::Replay, After::Join),
                    Source::Nothing => (Failure::GuestDied, After::Fail(Failure::GuestDied)),
                };
                return give_up(cx, self.granted.term(), why, then);
            }
            Event::Operator(Command::Shutdown) => {
                return give_up(cx, self.granted.term(), Failure::Shutdown, After::Fail(Failure::Shutdown));
            }
            Event::Operator(Command::Force) => cx.report(Report::Refused(Refusal::Busy)),
            event if shows_silence(event) => self.lease = PeerLease::Out,
            _ => {}
        }
        State::Replaying(self)
    }

    fn hear(self, _: &mut Context, _: &Heard) -> State {
        State::Replaying(self)
    }

    fn unheard(self, _: &mut Context) -> State {
        State::Replaying(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Taking
    }

    fn term(&self, _: &Context) -> Term {
        self.granted.term()
    }
}

#[derive(Debug)]
pub struct Restoring {
    sockets: Sockets,
    lease: PeerLease,
}

#[derive(Debug)]
enum Sockets {
    Building(ReplayDone),
    /// They wait for the other host's lease to run out.
    Stand(SocketsRestored),
}

impl Restoring {
    fn proceed(self, cx: &mut Context) -> State {
        match (self.sockets, self.lease) {
            (Sockets::Stand(restored), PeerLease::Out) => GoingLive::begin(cx, restored),
            (sockets, lease) => State::Restoring(Self { sockets, lease }),
        }
    }
}

impl Step for Restoring {
    fn on(self, cx: &mut Context, event: Event) -> State {
        match (event, self.sockets) {
            (Event::SocketsRestored, Sockets::Building(replayed)) => {
                Self { sockets: Sockets::Stand(replayed.sockets_restored()), lease: self.lease }.proceed(cx)
            }
            (Event::RestoreFailed | Event::GuestDied, sockets) => {
                let why = if event == Event::GuestDied { Failure::Replay } else { Failure::Restore };
                give_up(cx, sockets.term(), why, After::Join)
            }
            (Event::Operator(Command::Shutdown), sockets) => {
                give_up(cx, sockets.term(), Failure::Shutdown, After::Fail(Failure::Shutdown))
            }
            (Event::Operator(Command::Force), sockets) => {
                cx.report(Report::Refused(Refusal::Busy));
                State::Restoring(Self { sockets, lease: self.lease })
            }
            (event, sockets) if shows_silence(event) => Self { sockets, lease: PeerLease::Out }.proceed(cx),
            (_, sockets) => State::Restoring(Self { sockets, lease: self.lease }),
        }
    }

    fn hear(self, _: &mut Context, _: &Heard) -> State {
        State::Restoring(self)
    }

    fn unheard(self, _: &mut Context) -> State {
        State::Restoring(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Taking
    }

    fn term(&self, _: &Context) -> Term {
        self.sockets.term()
    }
}

impl Sockets {
    fn term(&self) -> Term {
        match self {
            Self::Building(r) => r.term(),
            Self::Stand(r) => r.term(),
        }
    }
}

#[derive(Debug)]
pub struct GoingLive {
    restored: SocketsRestored,
    /// The version of this host's claim: the put is void unless it still stands.
    claim: Version,
}

impl GoingLive {
    fn begin(cx: &mut Context, restored: SocketsRestored) -> State {
        match (restored.claim(), restored.live_unarbitrated()) {
            (_, Ok((live, alone))) => Serving::open(cx, live, alone),
            (Some(claim), Err(restored)) => Self { restored, claim }.put(cx),
            (None, Err(_)) => unreachable!("a term without a claim is an unarbitrated one"),
        }
    }

    fn put(self, cx: &mut Context) -> State {
        let ruling = Ruling::alone(self.restored.term(), cx.config.me, Phase::Live);
        cx.book.put(self.claim, ruling, &mut cx.out);
        State::GoingLive(self)
    }
}

impl Step for GoingLive {
    fn on(self, cx: &mut Context, event: Event) -> State {
        match event {
            Event::GuestDied => {
                cx.report(Report::Failed(Failure::GuestDied));
                cx.demote(After::Fail(Failure::GuestDied), Farewell::Resets)
            }
            Event::Operator(Command::Shutdown) => cx.demote(After::Fail(Failure::Shutdown), Farewell::Resets),
            Event::Operator(Command::Force) => {
                cx.report(Report::Refused(Refusal::Busy));
                State::GoingLive(self)
            }
            _ => State::GoingLive(self),
        }
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        let me = cx.config.me;
        match self.restored.live(me, heard) {
            Ok((live, alone)) => Serving::open(cx, live, alone),
            Err(restored) => match heard.record() {
                // The claim still stands: the put was lost on its way, or still is on it.
                Some(r) if r.version == self.claim => Self { restored, claim: self.claim }.put(cx),
                record => {
                    cx.report(Report::NotGranted);
                    if let Some(r) = record {
                        cx.report(Report::Deposed { owner: r.ruling.owner, term: r.ruling.term });
                    }
                    cx.demote(After::Join, Farewell::Silent)
                }
            },
        }
    }

    fn unheard(self, cx: &mut Context) -> State {
        cx.retry();
        State::GoingLive(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Taking
    }

    fn term(&self, _: &Context) -> Term {
        self.restored.term()
    }
}
