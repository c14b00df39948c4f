//! The whole transition table of the failover machine: each kind of state, each kind of event, what it becomes and what
//! it wants done. A change of it is a change of the protocol, and is looked at.

use ft_log::ids::{LogIndex, Term};
use ft_runtime::failover::action::{Action, Failure, Output, Report};
use ft_runtime::failover::book::{Answer, RequestId};
use ft_runtime::failover::config::{ArbiterKind, Config, DivergencePolicy, Timing};
use ft_runtime::failover::event::{Blame, Command, Event, LinkEnd, ServiceNet, Timer};
use ft_runtime::failover::message::{Drop, Hello, Kept, Message, Preferred, Role, Stance, Yield};
use ft_runtime::failover::record::{HostId, Members, Phase, Record, Ruling, Version};
use ft_runtime::failover::state::{Kind, Machine};
use std::fmt::Write;

const ME: HostId = HostId(1);
const PEER: HostId = HostId(2);

/// A machine with a record of what it asked for.
struct Rig {
    machine: Option<Machine>,
    request: Option<RequestId>,
    /// What the last put would make of the record.
    put: Option<Ruling>,
    nonce: Option<u64>,
    version: u64,
    /// The record heard of last.
    last: Option<Record>,
    actions: Vec<Action>,
}

impl Rig {
    fn new(arbiter: ArbiterKind, prefers: Preferred) -> Self {
        let config = Config {
            me: ME,
            peer: PEER,
            prefers,
            arbiter,
            divergence: DivergencePolicy::Reseed,
            timing: Timing::default(),
        };
        let machine = Some(Machine::new(config).expect("the defaults are sound"));
        Self { machine, request: None, put: None, nonce: None, version: 0, last: None, actions: Vec::new() }
    }

    fn kind(&self) -> Kind {
        self.machine.as_ref().expect("a machine").kind()
    }

    fn feed(&mut self, event: Event) -> &mut Self {
        let (machine, actions) = self.machine.take().expect("a machine").step(event);
        for action in &actions {
            match *action {
                Action::ArbiterRead { request } => self.request = Some(request),
                Action::ArbiterPut { request, ruling, .. } => {
                    (self.request, self.put) = (Some(request), Some(ruling));
                }
                Action::Send(Message::Ping { nonce } | Message::Adding { nonce, .. }) => self.nonce = Some(nonce),
                _ => {}
            }
        }
        self.machine = Some(machine);
        self.actions = actions;
        self
    }

    fn feed_all(mut self, events: &[Event]) -> Self {
        for event in events {
            self.feed(*event);
        }
        self
    }

    /// What the arbiter keeps, from now on or already.
    fn hear(&mut self, ruling: Option<Ruling>) -> &mut Self {
        let event = self.heard(ruling);
        self.feed(event)
    }

    fn heard(&mut self, ruling: Option<Ruling>) -> Event {
        self.version += 10;
        let record = ruling.map(|ruling| Record { version: Version(self.version), ruling });
        self.last = record;
        self.answer(Answer::Current(record))
    }

    fn answer(&mut self, answer: Answer) -> Event {
        if self.request.is_none() {
            self.feed(Event::Timer(Timer::ArbiterCheck));
        }
        Event::Arbiter { request: self.request.take().unwrap_or_default(), answer }
    }

    /// The last put takes effect.
    fn granted(&mut self) -> &mut Self {
        let put = self.put;
        self.hear(put)
    }
}

fn hello(role: Role, term: u64) -> Event {
    Event::Peer(Message::Hello(Hello { role, term: Term(term) }))
}

fn live(owner: HostId, term: u64, in_sync: Members) -> Ruling {
    Ruling { term: Term(term), owner, in_sync, phase: Phase::Live }
}

const VOTES: ArbiterKind = ArbiterKind::Votes;

fn both() -> Members {
    Members::both(ME, PEER)
}

fn starting(arbiter: ArbiterKind) -> Rig {
    Rig::new(arbiter, Preferred::Primary).feed_all(&[Event::Start, Event::LinkUp])
}

fn backup(arbiter: ArbiterKind) -> Rig {
    let mut rig = starting(arbiter);
    if arbiter == VOTES {
        rig.hear(Some(live(PEER, 1, Members::only(PEER))));
    }
    rig.feed(hello(Role::Primary(Stance::Alone), 1));
    rig.feed(Event::Peer(Message::Adding { term: Term(1), nonce: 1 }));
    rig.feed(hello(Role::Primary(Stance::Waits), 1));
    rig.feed(Event::Peer(Message::InSync { term: Term(1), in_sync: both() }));
    if arbiter == VOTES {
        rig.hear(Some(live(PEER, 1, both())));
    }
    rig
}

fn claiming() -> Rig {
    backup(VOTES).feed_all(&[Event::LinkDown(LinkEnd::Closed), Event::LinkUp])
}

fn replaying() -> Rig {
    let mut rig = claiming();
    rig.granted();
    rig
}

fn restoring() -> Rig {
    replaying().feed_all(&[Event::ReplayDone { upto: LogIndex(7) }])
}

fn going_live() -> Rig {
    restoring().feed_all(&[Event::Timer(Timer::PeerLease), Event::SocketsRestored])
}

fn alone(arbiter: ArbiterKind) -> Rig {
    let mut rig = starting(arbiter);
    if arbiter == VOTES {
        rig.hear(None);
    }
    rig.feed(hello(Role::Empty { prefers: Preferred::Backup }, 0));
    if arbiter == VOTES {
        rig.granted();
    }
    rig.feed(Event::GuestStarted).feed(Event::SocketsRestored);
    if arbiter == VOTES {
        rig.granted();
    }
    rig.feed(hello(Role::Joining, 0));
    rig
}

fn inviting(arbiter: ArbiterKind) -> Rig {
    alone(arbiter).feed_all(&[Event::PeerCaughtUp])
}

fn adding(arbiter: ArbiterKind) -> Rig {
    let mut rig = inviting(arbiter);
    let nonce = rig.nonce.expect("an invitation has a number");
    rig.feed(Event::Peer(Message::Ready { nonce })).feed(hello(Role::Backup, 1));
    rig
}

fn paired(arbiter: ArbiterKind) -> Rig {
    let mut rig = adding(arbiter);
    if arbiter == VOTES {
        rig.granted();
    }
    rig.feed(Event::HeartbeatSeen { service_ok: true });
    rig
}

fn releasing(command: Command) -> Rig {
    paired(VOTES).feed_all(&[Event::Operator(command)])
}

fn paused() -> Rig {
    let mut rig = releasing(Command::Pause);
    rig.granted();
    rig.feed(hello(Role::Joining, 0));
    rig
}

fn removing() -> Rig {
    paired(VOTES).feed_all(&[Event::Timer(Timer::Silence)])
}

fn mute() -> Rig {
    let mut rig = removing();
    let event = rig.answer(Answer::TimedOut);
    rig.feed(event);
    rig
}

fn rechecking(of: Rig) -> Rig {
    of.feed_all(&[Event::Thawed])
}

fn yielding(why: Event) -> Rig {
    paired(VOTES).feed_all(&[why])
}

type Make = Box<dyn Fn() -> Rig>;

fn states() -> Vec<(&'static str, Kind, Make)> {
    fn of(name: &'static str, kind: Kind, make: impl Fn() -> Rig + 'static) -> (&'static str, Kind, Make) {
        (name, kind, Box::new(make))
    }
    let none = ArbiterKind::None { alone_allowed: false };
    vec![
        of("Starting", Kind::Starting, || starting(VOTES)),
        of("Joining", Kind::Joining, || {
            let mut rig = starting(VOTES);
            rig.feed(hello(Role::Primary(Stance::Alone), 1));
            rig
        }),
        of("Backup", Kind::Backup, || backup(VOTES)),
        of("Backup, link lost", Kind::Backup, || backup(VOTES).feed_all(&[Event::LinkDown(LinkEnd::Lost)])),
        of("Backup, no arbiter", Kind::Backup, move || backup(none)),
        of("Claiming, link closed", Kind::Claiming, claiming),
        of("Claiming, asked to", Kind::Claiming, || {
            backup(VOTES).feed_all(&[Event::Peer(Message::TakeOver { term: Term(1), why: Yield::GuestDied })])
        }),
        of("Claiming, cold", Kind::Claiming, || {
            let mut rig = starting(VOTES);
            rig.hear(None).feed(hello(Role::Empty { prefers: Preferred::Backup }, 0));
            rig
        }),
        of("Replaying", Kind::Replaying, replaying),
        of("Restoring, lease running", Kind::Restoring, || restoring().feed_all(&[Event::SocketsRestored])),
        of("Restoring, lease out", Kind::Restoring, || restoring().feed_all(&[Event::Timer(Timer::PeerLease)])),
        of("GoingLive", Kind::GoingLive, going_live),
        of("PrimaryAlone", Kind::PrimaryAlone, || alone(VOTES)),
        of("PrimaryAdding, invited", Kind::PrimaryAdding, || inviting(VOTES)),
        of("PrimaryAdding, put", Kind::PrimaryAdding, || adding(VOTES)),
        of("PrimaryPaired", Kind::PrimaryPaired, || paired(VOTES)),
        of("PrimaryAlone, paused", Kind::PrimaryAlone, paused),
        of("PrimaryReleasing, pause", Kind::PrimaryReleasing, || releasing(Command::Pause)),
        of("PrimaryReleasing, detach", Kind::PrimaryReleasing, || releasing(Command::Detach)),
        of("PrimaryPaired, the arbiter lost", Kind::PrimaryPaired, || {
            let mut rig = paired(VOTES);
            let event = rig.answer(Answer::TimedOut);
            rig.feed(event);
            rig
        }),
        of("PrimaryPaired, no arbiter", Kind::PrimaryPaired, move || paired(none)),
        of("PrimaryPaired, no arbiter, alone allowed", Kind::PrimaryPaired, || {
            paired(ArbiterKind::None { alone_allowed: true })
        }),
        of("PrimaryPaired, no service network on either host", Kind::PrimaryPaired, || {
            paired(VOTES)
                .feed_all(&[Event::HeartbeatSeen { service_ok: false }, Event::ServiceNet(ServiceNet::Lost)])
        }),
        of("Removing", Kind::Removing, removing),
        of("Removing, backup gone", Kind::Removing, || {
            paired(VOTES).feed_all(&[Event::Peer(Message::DropOut { why: Drop::GuestDied })])
        }),
        of("Removing, its service network in doubt too", Kind::Removing, || {
            paired(VOTES).feed_all(&[
                Event::ServiceNet(ServiceNet::Doubtful),
                Event::LinkDown(LinkEnd::Lost),
            ])
        }),
        of("Mute", Kind::Mute, mute),
        of("Mute, no arbiter", Kind::Mute, move || paired(none).feed_all(&[Event::Timer(Timer::Silence)])),
        of("Rechecking, was alone", Kind::Rechecking, || rechecking(alone(VOTES))),
        of("Rechecking, was paused", Kind::Rechecking, || rechecking(paused())),
        of("Rechecking, was letting its backup go for a pause", Kind::Rechecking, || {
            rechecking(releasing(Command::Pause))
        }),
        of("Rechecking, was paired", Kind::Rechecking, || rechecking(paired(VOTES))),
        of("Yielding, guest died", Kind::Yielding, || yielding(Event::GuestDied)),
        of("Yielding, service network lost", Kind::Yielding, || yielding(Event::ServiceNet(ServiceNet::Lost))),
        of("Demoting", Kind::Demoting, || {
            let mut rig = paired(VOTES);
            rig.hear(Some(live(PEER, 2, Members::only(PEER))));
            rig
        }),
        of("Failed", Kind::Failed, || alone(VOTES).feed_all(&[Event::GuestDied, Event::Demoted])),
    ]
}

type Happen = Box<dyn Fn(&mut Rig) -> Event>;

fn events() -> Vec<(&'static str, Happen)> {
    fn at(name: &'static str, event: Event) -> (&'static str, Happen) {
        (name, Box::new(move |_| event))
    }
    fn say(name: &'static str, message: Message) -> (&'static str, Happen) {
        at(name, Event::Peer(message))
    }
    fn record(name: &'static str, ruling: Option<Ruling>) -> (&'static str, Happen) {
        (name, Box::new(move |rig| rig.heard(ruling)))
    }
    let claim = |owner, in_sync| Ruling { term: Term(2), owner, in_sync, phase: Phase::Claim };
    vec![
        at("Start", Event::Start),
        at("LinkUp", Event::LinkUp),
        at("LinkDown Closed", Event::LinkDown(LinkEnd::Closed)),
        at("LinkDown Lost", Event::LinkDown(LinkEnd::Lost)),
        at("PeerDead", Event::PeerDead),
        at("HeartbeatSeen", Event::HeartbeatSeen { service_ok: true }),
        at("HeartbeatSeen, would not serve", Event::HeartbeatSeen { service_ok: false }),
        at("Hello Empty", hello(Role::Empty { prefers: Preferred::Backup }, 0)),
        at("Hello Joining", hello(Role::Joining, 0)),
        at("Hello Backup", hello(Role::Backup, 1)),
        at("Hello Taking", hello(Role::Taking, 2)),
        at("Hello Primary, waits", hello(Role::Primary(Stance::Waits), 1)),
        at("Hello Primary, alone", hello(Role::Primary(Stance::Alone), 1)),
        at("Hello Primary, paused", hello(Role::Primary(Stance::Paused), 1)),
        at("Hello Primary, later term", hello(Role::Primary(Stance::Alone), 2)),
        at("Hello Yielding", hello(Role::Yielding, 1)),
        at("Hello Failed", hello(Role::Failed, 0)),
        say("Ping", Message::Ping { nonce: 9 }),
        ("Pong", Box::new(|rig| Event::Peer(Message::Pong { nonce: rig.nonce.unwrap_or(9) }))),
        say("Pong, older", Message::Pong { nonce: 0 }),
        say("Adding", Message::Adding { term: Term(1), nonce: 9 }),
        ("Ready", Box::new(|rig| Event::Peer(Message::Ready { nonce: rig.nonce.unwrap_or(9) }))),
        say("Ready, older", Message::Ready { nonce: 0 }),
        say("InSync", Message::InSync { term: Term(1), in_sync: both() }),
        say("TakeOver", Message::TakeOver { term: Term(1), why: Yield::GuestDied }),
        say("CannotTakeOver", Message::CannotTakeOver { term: Term(2) }),
        say("DropOut", Message::DropOut { why: Drop::GuestDied }),
        say("DropOut, diverged", Message::DropOut { why: Drop::Diverged }),
        say("Dismissed", Message::Dismissed { why: Drop::Diverged }),
        say("Dismissed, detached", Message::Dismissed { why: Drop::Detached }),
        say("Detach", Message::Detach),
        say("Kept", Message::Kept { why: Kept::ArbiterSilent }),
        at("PeerLags", Event::PeerLags),
        at("PeerCaughtUp", Event::PeerCaughtUp),
        at("GuestStarted", Event::GuestStarted),
        at("GuestDied", Event::GuestDied),
        at("ReplayDone", Event::ReplayDone { upto: LogIndex(7) }),
        at("ReplayFailed", Event::ReplayFailed),
        at("SocketsRestored", Event::SocketsRestored),
        at("RestoreFailed", Event::RestoreFailed),
        at("Demoted", Event::Demoted),
        (
            "Arbiter: what was put",
            Box::new(|rig| {
                let put = rig.put;
                rig.heard(put)
            }),
        ),
        (
            "Arbiter: as it was",
            Box::new(|rig| {
                let last = rig.last;
                rig.answer(Answer::Current(last))
            }),
        ),
        (
            "Arbiter: an older record",
            Box::new(|rig| {
                rig.answer(Answer::Lost(Some(Record { version: Version(1), ruling: live(ME, 1, both()) })))
            }),
        ),
        record("Arbiter: no record", None),
        record("Arbiter: mine, live, alone", Some(live(ME, 1, Members::only(ME)))),
        record("Arbiter: mine, live, both", Some(live(ME, 1, both()))),
        record("Arbiter: mine, claim", Some(claim(ME, both()))),
        record("Arbiter: peer's, live, both", Some(live(PEER, 1, both()))),
        record("Arbiter: peer's, live, alone", Some(live(PEER, 2, Members::only(PEER)))),
        record("Arbiter: peer's, claim, both", Some(claim(PEER, both()))),
        ("Arbiter: timed out", Box::new(|rig| rig.answer(Answer::TimedOut))),
        ("Arbiter: unreachable", Box::new(|rig| rig.answer(Answer::Unreachable))),
        at("Arbiter: an older request", Event::Arbiter { request: RequestId(0), answer: Answer::TimedOut }),
        at("ServiceNet Lost", Event::ServiceNet(ServiceNet::Lost)),
        at("ServiceNet Unsure", Event::ServiceNet(ServiceNet::Unsure)),
        at("ServiceNet Doubtful", Event::ServiceNet(ServiceNet::Doubtful)),
        at("ServiceNet Sound", Event::ServiceNet(ServiceNet::Sound)),
        at("Thawed", Event::Thawed),
        at("DiskFailed", Event::DiskFailed),
        at("Diverged, primary's fault", Event::Diverged(Blame::Primary)),
        at("Diverged, backup's fault", Event::Diverged(Blame::Backup)),
        at("Diverged", Event::Diverged(Blame::Unknown)),
        at("Operator: shutdown", Event::Operator(Command::Shutdown)),
        at("Operator: switchover", Event::Operator(Command::Switchover)),
        at("Operator: force", Event::Operator(Command::Force)),
        at("Operator: pause", Event::Operator(Command::Pause)),
        at("Operator: resume", Event::Operator(Command::Resume)),
        at("Operator: detach", Event::Operator(Command::Detach)),
        at("Timer PeerWait", Event::Timer(Timer::PeerWait)),
        at("Timer Silence", Event::Timer(Timer::Silence)),
        at("Timer HeadStart", Event::Timer(Timer::HeadStart)),
        at("Timer PeerLease", Event::Timer(Timer::PeerLease)),
        at("Timer Retry", Event::Timer(Timer::Retry)),
        at("Timer ArbiterCheck", Event::Timer(Timer::ArbiterCheck)),
        at("Timer Patience", Event::Timer(Timer::Patience)),
    ]
}

fn show(action: &Action) -> String {
    let members = |m: &Members| {
        let names: Vec<_> = m.iter().map(|h| if h == ME { "me" } else { "peer" }).collect();
        names.join("+")
    };
    match action {
        Action::StartTimer { timer, .. } => format!("start {timer:?}"),
        Action::CancelTimer(timer) => format!("cancel {timer:?}"),
        Action::ArbiterRead { .. } => "read".into(),
        Action::ArbiterPut { ruling: r, .. } => {
            format!("put term {} {:?} {}", r.term, r.phase, members(&r.in_sync)).to_lowercase()
        }
        Action::Send(Message::Hello(h)) => format!("say {:?} of {}", h.role, h.term),
        Action::Send(message) => {
            let name = format!("{message:?}");
            format!("say {}", name.split([' ', '{']).next().unwrap_or_default())
        }
        Action::Output(Output::Held) => "HOLD".into(),
        Action::Output(Output::WhenPeerHas(_)) => "OUTPUT when peer has".into(),
        Action::Output(Output::Alone(_)) => "OUTPUT alone".into(),
        Action::OpenGate(_) => "OPEN GATE".into(),
        Action::Lease(lease) => format!("lease {lease:?}"),
        Action::Acks(acks) => format!("acks {acks:?}"),
        Action::Demote(farewell) => format!("demote {farewell:?}"),
        Action::Report(report) => {
            let name = format!("{report:?}");
            format!("report {}", name.split([' ', '{']).next().unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn each_state_meets_each_event() {
    let mut table = String::new();
    let (states, events) = (states(), events());
    for (name, kind, make) in &states {
        writeln!(table, "\n{name}").expect("strings take all");
        let mut ignored = Vec::new();
        for (what, happen) in &events {
            let mut rig = make();
            assert_eq!(rig.kind(), *kind, "{name} is what it says");
            let event = happen(&mut rig);
            rig.feed(event);
            let next = rig.kind();
            if next == *kind && rig.actions.is_empty() {
                ignored.push(*what);
                continue;
            }
            let actions: Vec<_> = rig.actions.iter().map(show).collect();
            let next = if next == *kind { "=".to_owned() } else { format!("{next:?}") };
            writeln!(table, "  {what:<42} -> {next:<14} {}", actions.join("; ")).expect("strings take all");
        }
        writeln!(table, "  (nothing: {})", ignored.join(", ")).expect("strings take all");
    }
    insta::assert_snapshot!(table);
}

#[test]
fn every_kind_of_state_is_in_the_table() {
    let kinds: std::collections::BTreeSet<_> = states().iter().map(|s| s.1).collect();
    // Starting is the first kind and Failed the last: all between them are counted.
    assert_eq!(kinds.len(), Kind::Failed as usize + 1);
}

#[test]
fn no_state_panics_on_any_two_events() {
    let (states, events) = (states(), events());
    for (_, _, make) in &states {
        for (_, first) in &events {
            for (_, second) in &events {
                let mut rig = make();
                let event = first(&mut rig);
                rig.feed(event);
                let event = second(&mut rig);
                rig.feed(event);
            }
        }
    }
}

/// How a backup is let go: what the primary does from the order on, and what it is then.
fn let_go(command: Command, answer: impl FnOnce(&mut Rig) -> Event) -> (Vec<Action>, Kind) {
    let mut rig = releasing(command);
    let mut did = rig.actions.clone();
    let event = answer(&mut rig);
    did.extend(rig.feed(event).actions.clone());
    (did, rig.kind())
}

#[test]
fn output_waits_for_a_backup_that_is_let_go_until_the_record_has_the_primary_alone() {
    for command in [Command::Pause, Command::Detach] {
        let mut rig = releasing(command);
        assert_eq!(rig.put, Some(live(ME, 1, Members::only(ME))));
        assert!(!rig.actions.iter().any(|a| matches!(a, Action::Output(_) | Action::Lease(_))), "{:?}", rig.actions);
        rig.granted();
        assert!(rig.actions.iter().any(|a| matches!(a, Action::Output(Output::Alone(_)))), "{:?}", rig.actions);
        assert_eq!(rig.kind(), Kind::PrimaryAlone);
    }
}

#[test]
fn a_backup_stays_that_the_arbiter_does_not_take_out() {
    for command in [Command::Pause, Command::Detach] {
        let (did, kind) = let_go(command, |rig| rig.answer(Answer::TimedOut));
        assert!(!did.iter().any(|a| matches!(a, Action::Output(_))), "{did:?}");
        assert_eq!(kind, Kind::PrimaryAdding, "it is put back, whatever became of the put");
        assert_eq!(did.contains(&Action::Send(Message::Kept { why: Kept::ArbiterSilent })), command == Command::Detach);
        let lost = || {
            let mut rig = paired(VOTES);
            let event = rig.answer(Answer::TimedOut);
            rig.feed(event);
            rig
        };
        for mut rig in [lost(), paired(ArbiterKind::None { alone_allowed: false })] {
            rig.put = None;
            rig.feed(Event::Operator(command));
            assert_eq!((rig.kind(), rig.put), (Kind::PrimaryPaired, None));
            assert!(rig.actions.iter().any(|a| matches!(a, Action::Report(Report::Refused(_)))), "{:?}", rig.actions);
        }
    }
}

#[test]
fn a_backup_asks_to_be_let_go_and_is_done_when_it_is_dismissed() {
    let mut rig = backup(VOTES);
    rig.feed(Event::Operator(Command::Detach));
    assert_eq!((rig.kind(), &rig.actions[..]), (Kind::Backup, &[Action::Send(Message::Detach)][..]));
    let (did, _) = let_go(Command::Detach, |rig| {
        let put = rig.put;
        rig.heard(put)
    });
    assert!(did.contains(&Action::Send(Message::Dismissed { why: Drop::Detached })), "{did:?}");
    rig.feed(Event::Peer(Message::Dismissed { why: Drop::Detached })).feed(Event::Demoted);
    assert!(rig.actions.contains(&Action::Report(Report::Failed(Failure::Detached))), "{:?}", rig.actions);
    assert_eq!(rig.kind(), Kind::Failed);
}

#[test]
fn a_paused_primary_invites_nobody_until_it_is_told_to() {
    let invites = |rig: &mut Rig| {
        rig.feed(Event::PeerCaughtUp);
        rig.actions.iter().any(|a| matches!(a, Action::Send(Message::Adding { .. })))
    };
    let mut rig = paused();
    assert!(!invites(&mut rig));
    let last = rig.last.map(|r| r.ruling);
    rig.feed(Event::Thawed).hear(last);
    assert_eq!(rig.kind(), Kind::PrimaryAlone);
    assert!(!invites(&mut rig), "a pause outlasts a freeze");
    rig.feed(Event::Operator(Command::Resume));
    assert!(invites(&mut rig));
}

/// Two hosts are wired, but the record's set may have more: what is asked of "nobody else" is asked of all of them.
const THIRD: HostId = HostId(3);

fn three() -> Members {
    Members::from_sorted(&[ME, PEER, THIRD]).expect("three hosts in order")
}

#[test]
fn a_cold_start_needs_the_word_of_every_other_member() {
    let started = |in_sync: Members, peer_is_there: bool| {
        let mut rig = starting(VOTES);
        rig.hear(Some(live(ME, 1, in_sync)));
        if peer_is_there {
            rig.feed(hello(Role::Empty { prefers: Preferred::Backup }, 0));
        }
        rig.feed(Event::Timer(Timer::PeerWait));
        rig.kind() != Kind::Starting
    };
    assert!(started(Members::only(ME), false) && started(both(), true));
    assert!(!started(both(), false), "the peer may hold what runs");
    assert!(!started(three(), true) && !started(Members::both(ME, THIRD), false), "so may the third host");
}

#[test]
fn a_claim_keeps_the_set_and_going_live_leaves_nobody_else_in_it() {
    let mut rig = backup(VOTES);
    rig.feed(Event::Peer(Message::InSync { term: Term(1), in_sync: three() }));
    rig.hear(Some(live(PEER, 1, three())));
    rig.feed(Event::LinkDown(LinkEnd::Closed));
    assert_eq!(rig.put.map(|r| (r.owner, r.in_sync, r.phase)), Some((ME, three(), Phase::Claim)));
    rig.granted();
    for event in [Event::ReplayDone { upto: LogIndex(1) }, Event::PeerDead, Event::SocketsRestored] {
        rig.feed(event);
    }
    assert_eq!(rig.put, Some(live(ME, 2, Members::only(ME))));
    assert_eq!(rig.granted().kind(), Kind::PrimaryAlone);
}

#[test]
fn a_set_without_the_backup_tells_it_nothing() {
    let mut rig = backup(VOTES);
    rig.feed(Event::Peer(Message::InSync { term: Term(1), in_sync: Members::both(PEER, THIRD) }));
    assert_eq!((rig.kind(), &rig.actions[..]), (Kind::Backup, &[][..]), "its place is the arbiter's to say");
}
