//! Hosts with open gates, and hosts that hold them shut for a while: primary, removing, mute, rechecking, yielding.
//!
//! Laws: output is alone only by a record that says so and that no put of this host's own can still undo; whatever
//! shakes the pair holds the output first and asks after; what was held flows again by the backup's own word that it
//! still follows, given after the hold, or by the arbiter's.

mod release;

use super::action::{Action, Failure, Farewell, Lease, Output, Report, Stranded, Unprotected};
use super::book::Heard;
use super::config::{ArbiterKind, DivergencePolicy};
use super::event::{Blame, Command, Event, LinkEnd, ServiceNet, Timer};
use super::message::{Drop, Hello, Kept, Message, Role, Stance, Yield};
use super::record::{HostId, Members, Phase, Record, Ruling};
use super::refusal::Refusal;
use super::rights::{Alone, Live};
use super::state::{After, Context, Kind, Link, State, Step};
use ft_log::ids::Term;

/// Times that a host without a working guest asks its backup to take over.
const YIELD_ROUNDS_MAX: u8 = 5;

#[derive(Debug)]
pub struct Serving {
    live: Live,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// Without a backup; output goes by this right.
    Alone(Alone),
    /// The backup was told that output waits for it, and has not said yet that it holds everything. Nothing was put
    /// yet, so the right to go alone still stands.
    Inviting { alone: Alone, nonce: u64 },
    /// Output waits for the backup; the arbiter is being told.
    Adding,
    /// Output waits for the backup, and it may take over.
    Paired,
    /// The same, while the arbiter is told to end that; why.
    Releasing(Unprotected),
}

/// What is known of the other host's state by a host that holds its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// It holds everything; its word that it follows lets output flow again.
    MayResume,
    /// It holds everything, but is not wanted as a backup as it is.
    Complete,
    /// It lacks something.
    Gone,
}

/// What a holding host does about a claim of the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    /// This host serves well: it wins back.
    AtOnce,
    /// This host was the one in trouble: the other one gets its time.
    Patient,
    /// This host has lost sight of its clients too: the other one may claim first, and is not waited for otherwise.
    Deferring,
}

/// Output waits for the peer from here on, in silence bounded by the configuration.
fn wait_for_peer(cx: &mut Context, live: &Live) {
    cx.act(Action::Output(Output::WhenPeerHas(live.gate_key())));
    cx.act(Action::Lease(Lease::ByPeer));
    cx.start(Timer::Silence, cx.config.timing.silence_ms);
}

fn hold(cx: &mut Context) {
    cx.act(Action::Output(Output::Held));
    cx.act(Action::Lease(Lease::Expire));
}

/// `waits`: this host has done nothing that the peer may lack since that last followed.
fn primary(cx: &Context, waits: bool) -> Role {
    Role::Primary(match (waits, cx.paused) {
        (true, _) => Stance::Waits,
        (false, false) => Stance::Alone,
        (false, true) => Stance::Paused,
    })
}

/// The record has no place for this host any more.
fn deposed(cx: &mut Context, owner: HostId, term: Term) -> State {
    cx.report(Report::Deposed { owner, term });
    cx.demote(After::Join, Farewell::Silent)
}

/// The peer says that it serves, in a later term than `mine`.
fn overtaken(mine: Term, event: Event) -> Option<Hello> {
    match event {
        Event::Peer(Message::Hello(hello @ Hello { role: Role::Primary(_), term })) if term > mine => Some(hello),
        _ => None,
    }
}

/// Whose the record is, as a host that serves or holds sees it.
enum Standing {
    Mine,
    /// The other host began to take over; this one may still win.
    Claimed,
    Lost,
}

fn standing(cx: &Context, r: &Ruling) -> Standing {
    if r.owner == cx.config.me {
        Standing::Mine
    } else if r.phase == Phase::Claim && r.in_sync.contains(cx.config.me) {
        Standing::Claimed
    } else {
        Standing::Lost
    }
}

/// What makes this host live with `in_sync`, from what stands: in its own term, or in a new one above a claim.
fn put_live(cx: &mut Context, stands: &Record, in_sync: Members) {
    let me = cx.config.me;
    let term = if stands.ruling.owner == me { stands.ruling.term } else { stands.ruling.term.next() };
    cx.book.put(stands.version, Ruling { term, owner: me, in_sync, phase: Phase::Live }, &mut cx.out);
}

impl Serving {
    /// The last step of a takeover or a start.
    pub(super) fn open(cx: &mut Context, live: Live, alone: Alone) -> State {
        cx.act(Action::Output(Output::Alone(alone)));
        cx.act(Action::Lease(Lease::Own));
        cx.act(Action::OpenGate(live.gate_key()));
        cx.act(Action::Announce);
        cx.report(Report::Live { term: live.term() });
        State::Primary(Self { live, mode: Mode::Alone(alone) })
    }

    fn alone(cx: &mut Context, live: Live, alone: Alone, why: Unprotected) -> State {
        let why = if cx.paused { Unprotected::Paused } else { why };
        cx.act(Action::Output(Output::Alone(alone)));
        cx.act(Action::Lease(Lease::Own));
        cx.report(Report::Unprotected { term: live.term(), why });
        State::Primary(Self { live, mode: Mode::Alone(alone) })
    }

    /// The backup still follows and holds everything: output waits for it again, and the record is made to say so,
    /// whatever puts of ours are still on their way.
    fn rejoined(cx: &mut Context, live: Live) -> State {
        wait_for_peer(cx, &live);
        cx.report(Report::Resumed { term: live.term() });
        // It was about to be let go, and something came in between.
        if std::mem::take(&mut cx.paused) {
            cx.report(Report::Refused(Refusal::Keeps(Kept::Busy)));
        }
        Self { live, mode: Mode::Adding }.drive_in(cx)
    }

    pub(super) fn kind(&self) -> Kind {
        match self.mode {
            Mode::Alone(_) => Kind::PrimaryAlone,
            Mode::Inviting { .. } | Mode::Adding => Kind::PrimaryAdding,
            Mode::Paired => Kind::PrimaryPaired,
            Mode::Releasing(_) => Kind::PrimaryReleasing,
        }
    }

    /// The backup is lost: hold first. Where the arbiter was not told of it yet, there is nothing to undo.
    fn lose(self, cx: &mut Context, why: Unprotected, peer: Peer) -> State {
        match self.mode {
            Mode::Alone(_) => State::Primary(self),
            Mode::Inviting { alone, .. } => {
                cx.cancel(Timer::Silence);
                Self::alone(cx, self.live, alone, why)
            }
            Mode::Adding | Mode::Paired | Mode::Releasing(_) => {
                let in_doubt = matches!(cx.service, ServiceNet::Doubtful | ServiceNet::Lost);
                let defers = peer == Peer::MayResume && in_doubt;
                let manners = if defers { Manners::Deferring } else { Manners::AtOnce };
                Holding::begin(cx, self.live, why, peer, manners)
            }
        }
    }

    /// Puts the backup into the set.
    fn drive_in(self, cx: &mut Context) -> State {
        if !cx.votes() {
            return self.paired(cx);
        }
        match cx.book.known().copied() {
            Some(r) => put_live(cx, &r, Members::both(cx.config.me, cx.config.peer)),
            None => cx.read(),
        }
        State::Primary(self)
    }

    fn paired(self, cx: &mut Context) -> State {
        let term = self.live.term();
        cx.send(Message::InSync { term, in_sync: Members::both(cx.config.me, cx.config.peer) });
        cx.report(Report::Protected { term });
        State::Primary(Self { mode: Mode::Paired, ..self })
    }

    fn hand_over(self, cx: &mut Context, why: Yield, then: After) -> State {
        match self.mode {
            Mode::Adding | Mode::Paired | Mode::Releasing(_) => Yielding::begin(cx, self.live, why, then),
            Mode::Alone(_) | Mode::Inviting { .. } => end_alone(cx, why, then),
        }
    }

    fn thawed(self, cx: &mut Context) -> State {
        match self.mode {
            Mode::Alone(alone) | Mode::Inviting { alone, .. } => Rechecking::begin(cx, self.live, Was::Alone(alone)),
            Mode::Adding | Mode::Paired | Mode::Releasing(_) => Rechecking::begin(cx, self.live, Was::Pair),
        }
    }

    /// What keeps a host that has lost its clients from handing over to the backup.
    fn stranded(&self, cx: &Context) -> Option<Stranded> {
        if cx.paused {
            Some(Stranded::Paused)
        } else if !matches!(self.mode, Mode::Paired) {
            Some(Stranded::NoBackup)
        } else if !cx.votes() {
            Some(Stranded::NoArbiter)
        } else if !cx.book.is_reachable() {
            Some(Stranded::ArbiterSilent)
        } else if !matches!(cx.link, Link::Up { peer_service_ok: true, .. }) {
            Some(Stranded::BackupToo)
        } else {
            None
        }
    }
}

/// Nobody can go on with the service. Its clients are told by a reset.
fn end_alone(cx: &mut Context, why: Yield, then: After) -> State {
    let why = match (why, then) {
        (_, After::Fail(why)) => why,
        (Yield::Diverged, _) => Failure::Diverged,
        _ => Failure::GuestDied,
    };
    cx.demote(After::Fail(why), Farewell::Resets)
}

/// Whether nobody goes on after a divergence.
fn halts(cx: &Context) -> bool {
    cx.config.divergence == DivergencePolicy::Halt
}

fn halt(cx: &mut Context) -> State {
    cx.demote(After::Fail(Failure::Diverged), Farewell::Resets)
}

fn dropped(why: Drop) -> Unprotected {
    match why {
        Drop::Diverged => Unprotected::Diverged,
        Drop::GuestDied | Drop::Shutdown | Drop::Detached => Unprotected::BackupDropped,
    }
}

fn link_loss(end: LinkEnd) -> Unprotected {
    match end {
        LinkEnd::Closed => Unprotected::LinkClosed,
        LinkEnd::Lost => Unprotected::LinkLost,
    }
}

impl Step for Serving {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        if let Some(hello) = overtaken(self.live.term(), event) {
            return deposed(cx, cx.config.peer, hello.term);
        }
        match event {
            Event::HeartbeatSeen { .. } | Event::ServiceNet(ServiceNet::Lost) => {
                if self.kind() != Kind::PrimaryAlone && matches!(event, Event::HeartbeatSeen { .. }) {
                    cx.start(Timer::Silence, cx.config.timing.silence_ms);
                }
                if cx.service == ServiceNet::Lost {
                    match self.stranded(cx) {
                        None => return self.hand_over(cx, Yield::ServiceNetLost, After::Join),
                        // Told once; the heartbeats to come may change it.
                        Some(why) if matches!(event, Event::ServiceNet(_)) => cx.report(Report::Stranded(why)),
                        Some(_) => {}
                    }
                }
            }
            Event::PeerCaughtUp => {
                if let (Mode::Alone(alone), Some(Role::Joining), false) = (&self.mode, cx.link.role(), cx.paused) {
                    let alone = *alone;
                    // Output waits first; everything after this message needs the peer's acknowledgement.
                    wait_for_peer(cx, &self.live);
                    let nonce = cx.nonce();
                    cx.send(Message::Adding { term: self.live.term(), nonce });
                    self.mode = Mode::Inviting { alone, nonce };
                }
            }
            Event::Peer(Message::Ready { nonce }) => {
                if matches!(self.mode, Mode::Inviting { nonce: asked, .. } if asked == nonce) {
                    self.mode = Mode::Adding;
                    return self.drive_in(cx);
                }
            }
            Event::Peer(Message::Hello(hello)) => match (hello.role, &self.mode) {
                // It is told to join by being told who serves, and has not done so yet.
                (_, Mode::Alone(_)) | (Role::Joining, Mode::Inviting { .. }) => {}
                (role, _) if role.is_stateless() => return self.lose(cx, Unprotected::BackupDropped, Peer::Gone),
                _ => {}
            },
            Event::Peer(Message::DropOut { why: Drop::Diverged }) if halts(cx) => return halt(cx),
            Event::Peer(Message::DropOut { why }) => return self.lose(cx, dropped(why), Peer::Gone),
            Event::Timer(Timer::Silence) => return self.lose(cx, Unprotected::Silence, Peer::MayResume),
            Event::LinkDown(end) => return self.lose(cx, link_loss(end), Peer::MayResume),
            Event::PeerLags => return self.lose(cx, Unprotected::Lag, Peer::Complete),
            Event::Thawed => return self.thawed(cx),
            Event::GuestDied => return self.hand_over(cx, Yield::GuestDied, After::Join),
            Event::Diverged(blame) => return self.diverged(cx, blame),
            Event::Operator(Command::Shutdown) => {
                return self.hand_over(cx, Yield::Shutdown, After::Fail(Failure::Shutdown));
            }
            Event::Operator(Command::Force) => cx.report(Report::Refused(Refusal::ForceServes)),
            Event::Operator(Command::Switchover) => match self.stranded(cx) {
                None => return self.hand_over(cx, Yield::Switchover, After::Join),
                Some(why) => cx.report(Report::Refused(Refusal::Switchover(why))),
            },
            Event::DiskFailed if self.stranded(cx).is_none() => {
                return self.hand_over(cx, Yield::DiskFailed, After::Join);
            }
            Event::Operator(Command::Pause) => return self.pause(cx),
            Event::Operator(Command::Resume) => return self.resume(cx),
            Event::Operator(Command::Detach) => return self.detach(cx, true),
            Event::Peer(Message::Detach) => return self.detach(cx, false),
            _ => {}
        }
        State::Primary(self)
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        let me = cx.config.me;
        let both = Members::both(me, cx.config.peer);
        let Some(&record) = heard.record() else {
            cx.report(Report::ArbiterEmpty);
            return State::Primary(self);
        };
        let Self { live, mode } = self;
        let live = live.raised(me, heard);
        match (standing(cx, &record.ruling), &mode) {
            (Standing::Lost, _) => return deposed(cx, record.ruling.owner, record.ruling.term),
            (Standing::Mine, Mode::Adding) if record.ruling.in_sync == both && heard.is_settled() => {
                return Self { live, mode }.paired(cx);
            }
            (_, Mode::Adding) => put_live(cx, &record, both),
            (Standing::Mine, Mode::Paired) if record.ruling.in_sync == both => {}
            // A removal that was given up has taken effect after all.
            (Standing::Mine, Mode::Paired) => return Self { live, mode: Mode::Adding }.drive_in(cx),
            (Standing::Mine, Mode::Releasing(why)) => {
                return match live.alone(me, heard) {
                    Ok((live, alone)) => Self::released(cx, live, alone, *why),
                    Err(live) => Self { live, mode }.drive_out(cx),
                };
            }
            // The backup may be taking over, or an old claim of its has come late: its own word decides.
            (Standing::Claimed, Mode::Paired | Mode::Releasing(_)) => {
                return Holding::begin(cx, live, Unprotected::ClaimBeaten, Peer::MayResume, Manners::Patient);
            }
            // Alone by a person's word: the record follows.
            (_, Mode::Alone(_) | Mode::Inviting { .. }) if record.ruling.in_sync != Members::only(me) => {
                put_live(cx, &record, Members::only(me));
            }
            (_, Mode::Alone(_) | Mode::Inviting { .. }) => {}
        }
        State::Primary(Self { live, mode })
    }

    fn unheard(self, cx: &mut Context) -> State {
        match self.mode {
            Mode::Adding => cx.retry(),
            Mode::Releasing(why) => return self.keep(cx, why),
            _ => {}
        }
        State::Primary(self)
    }

    fn role(&self, cx: &Context) -> Role {
        primary(cx, !matches!(self.mode, Mode::Alone(_)))
    }

    fn term(&self, _: &Context) -> Term {
        self.live.term()
    }
}

impl Serving {
    fn diverged(self, cx: &mut Context, blame: Blame) -> State {
        if let Mode::Alone(_) = self.mode {
            return State::Primary(self);
        }
        match (blame, cx.config.divergence) {
            (Blame::Backup, _) | (Blame::Unknown, DivergencePolicy::Reseed) => {
                cx.send(Message::Dismissed { why: Drop::Diverged });
                self.lose(cx, Unprotected::Diverged, Peer::Gone)
            }
            (Blame::Primary, _) | (Blame::Unknown, DivergencePolicy::Takeover) => {
                self.hand_over(cx, Yield::Diverged, After::Join)
            }
            (Blame::Unknown, DivergencePolicy::Halt) => {
                cx.send(Message::Dismissed { why: Drop::Diverged });
                halt(cx)
            }
        }
    }
}

/// Live, and holding all output: see [`State::Removing`] and [`State::Mute`].
#[derive(Debug)]
pub struct Holding {
    live: Live,
    why: Unprotected,
    peer: Peer,
    manners: Manners,
    /// The question to the peer whose answer counts.
    asked: Option<u64>,
    /// The same for a peer that was given all state anew meanwhile. Only where nothing takes over by itself: elsewhere
    /// the peer may have served, and lost it again, without this host knowing; only the arbiter tells.
    invited: Option<u64>,
}

impl Holding {
    fn begin(cx: &mut Context, live: Live, why: Unprotected, peer: Peer, manners: Manners) -> State {
        hold(cx);
        let asked = if peer == Peer::MayResume { cx.ping() } else { None };
        let holding = Self { live, why, peer, manners, asked, invited: None };
        match cx.config.arbiter {
            ArbiterKind::None { alone_allowed: true } => {
                let alone = holding.live.alone_unarbitrated();
                return Serving::alone(cx, holding.live, alone, why);
            }
            ArbiterKind::None { alone_allowed: false } => {
                cx.report(Report::Mute);
                return State::Mute(holding);
            }
            ArbiterKind::Votes => {}
        }
        let t = cx.config.timing;
        match manners {
            Manners::AtOnce => {}
            Manners::Patient => cx.start(Timer::Patience, t.patience_ms),
            // The other one claims when it has missed as much as this host, and its head start is over.
            Manners::Deferring => cx.start(Timer::HeadStart, t.silence_ms + 2 * t.head_start_ms),
        }
        match cx.book.known().copied() {
            Some(r) => holding.drive_out(cx, &r),
            None => {
                cx.read();
                State::Removing(holding)
            }
        }
    }

    /// Takes the backup out of the set, or finds that this host may not.
    fn drive_out(self, cx: &mut Context, r: &Record) -> State {
        match (standing(cx, &r.ruling), self.manners) {
            (Standing::Lost, _) => return deposed(cx, r.ruling.owner, r.ruling.term),
            (Standing::Claimed, Manners::Patient) | (_, Manners::Deferring) => cx.retry(),
            (Standing::Mine, _) | (Standing::Claimed, Manners::AtOnce) => {
                put_live(cx, r, Members::only(cx.config.me));
            }
        }
        State::Removing(self)
    }

    fn ask(&mut self, cx: &mut Context) {
        if self.peer == Peer::MayResume {
            self.asked = cx.ping();
        }
    }
}

impl Step for Holding {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        if let Some(hello) = overtaken(self.live.term(), event) {
            return deposed(cx, cx.config.peer, hello.term);
        }
        match event {
            Event::Peer(Message::Pong { nonce }) if self.asked == Some(nonce) && self.peer == Peer::MayResume => {
                return Serving::rejoined(cx, self.live);
            }
            Event::Peer(Message::Hello(hello)) => match hello.role {
                // It says so again only after it has failed in between.
                Role::Joining if self.invited.is_some() => {}
                role if role.is_stateless() => {
                    self.peer = Peer::Gone;
                    (self.asked, self.invited) = (None, None);
                }
                Role::Backup => self.ask(cx),
                _ => {}
            },
            Event::Peer(Message::DropOut { .. } | Message::CannotTakeOver { .. }) => {
                self.peer = Peer::Gone;
                (self.asked, self.invited) = (None, None);
                if self.manners != Manners::AtOnce {
                    self.manners = Manners::AtOnce;
                    cx.read();
                }
            }
            Event::LinkDown(_) => (self.asked, self.invited) = (None, None),
            Event::PeerCaughtUp if !cx.votes() && cx.link.role() == Some(Role::Joining) && self.invited.is_none() => {
                let nonce = cx.nonce();
                cx.send(Message::Adding { term: self.live.term(), nonce });
                self.invited = Some(nonce);
            }
            Event::Peer(Message::Ready { nonce }) if self.invited == Some(nonce) => {
                return Serving::rejoined(cx, self.live);
            }
            Event::Timer(Timer::HeadStart) => {
                self.manners = Manners::Patient;
                cx.start(Timer::Patience, cx.config.timing.patience_ms);
                cx.read();
            }
            Event::Timer(Timer::Patience) => {
                self.manners = Manners::AtOnce;
                cx.read();
            }
            Event::Thawed => {
                cx.act(Action::DropQueue);
                cx.report(Report::Frozen);
                self.ask(cx);
            }
            Event::GuestDied => return self.hand_over(cx, Yield::GuestDied, After::Join),
            Event::Diverged(Blame::Primary) => return self.hand_over(cx, Yield::Diverged, After::Join),
            Event::Diverged(_) => {
                self.peer = Peer::Gone;
                (self.asked, self.invited) = (None, None);
            }
            Event::Operator(Command::Shutdown) => {
                return self.hand_over(cx, Yield::Shutdown, After::Fail(Failure::Shutdown));
            }
            Event::Operator(Command::Force) => {
                let alone = self.live.alone_unarbitrated();
                return Serving::alone(cx, self.live, alone, Unprotected::Operator);
            }
            _ => {}
        }
        State::Removing(self)
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        let Some(&record) = heard.record() else {
            cx.report(Report::ArbiterEmpty);
            cx.retry();
            return State::Removing(self);
        };
        match self.live.alone(cx.config.me, heard) {
            Ok((live, alone)) => Serving::alone(cx, live, alone, self.why),
            Err(live) => Self { live: live.raised(cx.config.me, heard), ..self }.drive_out(cx, &record),
        }
    }

    fn unheard(self, cx: &mut Context) -> State {
        cx.report(Report::Mute);
        cx.retry();
        State::Mute(self)
    }

    fn role(&self, cx: &Context) -> Role {
        primary(cx, self.peer != Peer::Gone || self.invited.is_some())
    }

    fn term(&self, _: &Context) -> Term {
        self.live.term()
    }
}

impl Holding {
    fn hand_over(self, cx: &mut Context, why: Yield, then: After) -> State {
        match self.peer {
            Peer::Gone => end_alone(cx, why, then),
            _ => Yielding::begin(cx, self.live, why, then),
        }
    }
}

/// Live before a freeze; see [`State::Rechecking`].
#[derive(Debug)]
pub struct Rechecking {
    live: Live,
    was: Was,
    asked: Option<u64>,
}

#[derive(Debug)]
enum Was {
    Alone(Alone),
    Pair,
}

impl Rechecking {
    fn begin(cx: &mut Context, live: Live, was: Was) -> State {
        hold(cx);
        cx.act(Action::DropQueue);
        cx.report(Report::Frozen);
        match was {
            Was::Alone(alone) if !cx.votes() => {
                // There is nobody to ask; and nobody else takes over but by a person.
                Serving::resume_alone(cx, live, alone)
            }
            Was::Alone(_) => {
                cx.book.read(&mut cx.out);
                State::Rechecking(Self { live, was, asked: None })
            }
            Was::Pair => {
                let asked = cx.ping();
                cx.start(Timer::Silence, cx.config.timing.silence_ms);
                if cx.votes() {
                    cx.book.read(&mut cx.out);
                }
                State::Rechecking(Self { live, was, asked })
            }
        }
    }

    fn lose(self, cx: &mut Context, why: Unprotected, peer: Peer) -> State {
        let peer = if let Was::Alone(_) = self.was { Peer::Gone } else { peer };
        Holding::begin(cx, self.live, why, peer, Manners::Patient)
    }

    fn hand_over(self, cx: &mut Context, why: Yield, then: After) -> State {
        match self.was {
            Was::Pair => Yielding::begin(cx, self.live, why, then),
            Was::Alone(_) => end_alone(cx, why, then),
        }
    }
}

impl Serving {
    fn resume_alone(cx: &mut Context, live: Live, alone: Alone) -> State {
        cx.act(Action::Output(Output::Alone(alone)));
        cx.act(Action::Lease(Lease::Own));
        cx.report(Report::Resumed { term: live.term() });
        State::Primary(Self { live, mode: Mode::Alone(alone) })
    }
}

impl Step for Rechecking {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        if let Some(hello) = overtaken(self.live.term(), event) {
            return deposed(cx, cx.config.peer, hello.term);
        }
        let alone = matches!(self.was, Was::Alone(_));
        match event {
            Event::Peer(Message::Pong { nonce }) if self.asked == Some(nonce) => {
                return Serving::rejoined(cx, self.live);
            }
            Event::Thawed => return Self::begin(cx, self.live, self.was),
            Event::Timer(Timer::Silence) if !alone => return self.lose(cx, Unprotected::NoAnswer, Peer::MayResume),
            Event::LinkDown(end) if !alone => return self.lose(cx, link_loss(end), Peer::MayResume),
            Event::Peer(Message::DropOut { why: Drop::Diverged }) if !alone && halts(cx) => return halt(cx),
            Event::Peer(Message::DropOut { why }) if !alone => return self.lose(cx, dropped(why), Peer::Gone),
            Event::Peer(Message::Hello(hello)) if !alone => match hello.role {
                role if role.is_stateless() => return self.lose(cx, Unprotected::BackupDropped, Peer::Gone),
                Role::Backup => self.asked = cx.ping(),
                _ => {}
            },
            Event::GuestDied => return self.hand_over(cx, Yield::GuestDied, After::Join),
            Event::Operator(Command::Shutdown) => {
                return self.hand_over(cx, Yield::Shutdown, After::Fail(Failure::Shutdown));
            }
            Event::Operator(Command::Force) => {
                let right = self.live.alone_unarbitrated();
                return Serving::alone(cx, self.live, right, Unprotected::Operator);
            }
            _ => {}
        }
        State::Rechecking(self)
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        let me = cx.config.me;
        let Some(&record) = heard.record() else {
            cx.report(Report::ArbiterEmpty);
            cx.retry();
            return State::Rechecking(self);
        };
        match (standing(cx, &record.ruling), self.was) {
            (Standing::Lost, _) => deposed(cx, record.ruling.owner, record.ruling.term),
            (Standing::Claimed, was) => Self { was, ..self }.lose(cx, Unprotected::ClaimBeaten, Peer::MayResume),
            (Standing::Mine, Was::Alone(before)) => match self.live.alone(me, heard) {
                Ok((live, alone)) => Serving::resume_alone(cx, live, alone),
                Err(live) => {
                    put_live(cx, &record, Members::only(me));
                    State::Rechecking(Self { live, was: Was::Alone(before), asked: None })
                }
            },
            (Standing::Mine, was) => State::Rechecking(Self { was, ..self }),
        }
    }

    fn unheard(self, cx: &mut Context) -> State {
        match self.was {
            Was::Pair => {
                cx.retry();
                State::Rechecking(self)
            }
            Was::Alone(_) => {
                cx.report(Report::Mute);
                cx.retry();
                State::Mute(Holding {
                    live: self.live,
                    why: Unprotected::NoAnswer,
                    peer: Peer::Gone,
                    manners: Manners::AtOnce,
                    asked: None,
                    invited: None,
                })
            }
        }
    }

    fn role(&self, cx: &Context) -> Role {
        primary(cx, matches!(self.was, Was::Pair))
    }

    fn term(&self, _: &Context) -> Term {
        self.live.term()
    }
}

/// Live by the record, with the gate shut; see [`State::Yielding`].
#[derive(Debug)]
pub struct Yielding {
    live: Live,
    why: Yield,
    then: After,
    rounds: u8,
}

impl Yielding {
    fn begin(cx: &mut Context, live: Live, why: Yield, then: After) -> State {
        hold(cx);
        cx.act(Action::DropQueue);
        cx.paused = false;
        cx.report(Report::Yielding { term: live.term(), why });
        cx.read();
        Self { live, why, then, rounds: 0 }.ask(cx)
    }

    fn ask(mut self, cx: &mut Context) -> State {
        self.rounds += 1;
        cx.send(Message::TakeOver { term: self.live.term(), why: self.why });
        cx.start(Timer::Patience, cx.config.timing.patience_ms);
        State::Yielding(self)
    }

    /// This host's guest is well: it can go on if the other one can't.
    fn may_go_on(&self) -> bool {
        matches!(self.why, Yield::ServiceNetLost | Yield::Switchover)
    }

    fn give_up(self, cx: &mut Context, peer: Peer) -> State {
        if self.may_go_on() {
            Holding::begin(cx, self.live, Unprotected::YieldFailed, peer, Manners::AtOnce)
        } else {
            end_alone(cx, self.why, self.then)
        }
    }
}

impl Step for Yielding {
    fn on(mut self, cx: &mut Context, event: Event) -> State {
        match event {
            Event::Peer(Message::Hello(hello)) => match hello.role {
                Role::Primary(_) => {
                    cx.report(Report::Deposed { owner: cx.config.peer, term: hello.term });
                    return cx.demote(self.then, Farewell::Silent);
                }
                role if role.is_stateless() => return self.give_up(cx, Peer::Gone),
                _ => {}
            },
            Event::Peer(Message::CannotTakeOver { .. } | Message::DropOut { .. }) => {
                return self.give_up(cx, Peer::Gone);
            }
            Event::Timer(Timer::Patience) => {
                if self.may_go_on() || self.rounds >= YIELD_ROUNDS_MAX {
                    return self.give_up(cx, Peer::MayResume);
                }
                return self.ask(cx);
            }
            Event::GuestDied => self.why = Yield::GuestDied,
            Event::Operator(Command::Shutdown) => {
                self.why = Yield::Shutdown;
                self.then = After::Fail(Failure::Shutdown);
            }
            Event::Operator(Command::Force) => cx.report(Report::Refused(Refusal::Busy)),
            _ => {}
        }
        State::Yielding(self)
    }

    fn hear(self, cx: &mut Context, heard: &Heard) -> State {
        if let Some(&record) = heard.record() {
            match standing(cx, &record.ruling) {
                Standing::Lost => {
                    cx.report(Report::Deposed { owner: record.ruling.owner, term: record.ruling.term });
                    return cx.demote(self.then, Farewell::Silent);
                }
                // A removal that was under way when this host gave up. Nothing left without the backup since.
                Standing::Mine if !record.ruling.in_sync.contains(cx.config.peer) => {
                    put_live(cx, &record, Members::both(cx.config.me, cx.config.peer));
                }
                Standing::Mine | Standing::Claimed => {}
            }
        }
        State::Yielding(self)
    }

    fn unheard(self, cx: &mut Context) -> State {
        cx.retry();
        State::Yielding(self)
    }

    fn role(&self, _: &Context) -> Role {
        Role::Yielding
    }

    fn term(&self, _: &Context) -> Term {
        self.live.term()
    }
}
