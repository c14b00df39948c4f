//! One host as the state machine's driver sees it: clock, timers, link, log, gate with lease, and a toy guest.

use super::checker::{Truth, Violation};
use super::rng::Rng;
use super::world::{Entry, Input, LINK_IDLE_MS, LOST_AFTER_MS, MS, Micros, Op, SOUND_AFTER_MS, Wire, Without, World, show, timing};
use ft_log::codec::Writer;
use ft_log::ids::LogIndex;
use ft_runtime::failover::Message;
use ft_runtime::failover::action::{Acks, Action, Lease, Output, Report, Unprotected};
use ft_runtime::failover::backups::Backups;
use ft_runtime::failover::book::{Answer, RequestId};
use ft_runtime::failover::config::{ArbiterKind, Config, DivergencePolicy};
use ft_runtime::failover::event::{Blame, Command, Event, LinkEnd, ServiceNet, Timer};
use ft_runtime::failover::message::{Preferred, Role};
use ft_runtime::failover::record::{HostId, Members, Phase, Record, Version};
use ft_runtime::failover::state::{Kind, Machine};
use ft_runtime::pair::message::{HEAD_BYTES, decode_role, encode_role};
use std::collections::{BTreeMap, VecDeque};

/// When an address is announced after the gate has opened.
const ANNOUNCE_MS: [u64; 6] = [0, 10, 50, 200, 1000, 3000];

pub struct Freeze {
    since: Micros,
    counted: bool,
}

struct Waiting {
    client: usize,
    request: u64,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Out {
    Held,
    WhenPeerHas,
    Alone,
}

pub struct Host {
    index: usize,
    pub machine: Option<Machine>,
    /// Counts the lives of the process.
    pub life: u64,
    rate_ppm: i64,
    offset: u64,
    /// Real time that the clock has not counted.
    lost: Micros,
    pub frozen: Option<Freeze>,
    /// Until when, by its own clock, a lease from before an uncounted freeze may still run.
    blind_until: u64,
    pub inbox: VecDeque<Input>,
    pub link: Option<u64>,
    /// The peer's life whose guard is known.
    guarded: Option<u64>,
    link_heard: u64,
    peer_stream: Option<(u64, usize)>,
    peer_role: Option<Role>,
    /// The peer has been given the state, or holds it, and gets each entry.
    streams: bool,
    log: Vec<Entry>,
    lineage: u64,
    /// Which gift of the state its guest is made of, or its peer's was; 0: none.
    seed: u64,
    takes_entries: bool,
    guest: bool,
    gate: Option<u64>,
    gates: u64,
    cold: bool,
    output: Out,
    lease: Lease,
    lease_until: u64,
    acks: bool,
    echo: Option<u64>,
    /// Who follows this host's log, and how far each says that it has it.
    backups: Backups,
    pending: Vec<Waiting>,
    /// With its generation and the time by the host's clock.
    timers: BTreeMap<Timer, (u64, u64)>,
    generations: u64,
    io: u64,
    asked: BTreeMap<RequestId, Op>,
    /// The number of the last invitation sent.
    invited: u64,
    /// For [`Without::Settled`]: how far the versions told to the machine run ahead.
    ahead: u64,
}

impl Host {
    pub fn new(index: usize, rng: &mut Rng) -> Self {
        Self {
            index,
            machine: None,
            life: 0,
            rate_ppm: rng.range(0, 10_000) as i64 - 5_000,
            offset: rng.range(1_000, 1_000_000) * MS,
            lost: 0,
            frozen: None,
            blind_until: 0,
            inbox: VecDeque::new(),
            link: None,
            guarded: None,
            link_heard: 0,
            peer_stream: None,
            peer_role: None,
            streams: false,
            log: Vec::new(),
            lineage: 0,
            seed: 0,
            takes_entries: true,
            guest: false,
            gate: None,
            gates: 0,
            cold: false,
            output: Out::Held,
            lease: Lease::Expire,
            lease_until: 0,
            acks: true,
            echo: None,
            backups: Backups::default(),
            pending: Vec::new(),
            timers: BTreeMap::new(),
            generations: 0,
            io: 0,
            asked: BTreeMap::new(),
            invited: 0,
            ahead: 0,
        }
    }

    pub fn id(&self) -> HostId {
        HostId(self.index as u64 + 1)
    }

    fn peer(&self) -> HostId {
        HostId(2 - self.index as u64)
    }

    /// What the peer says that it has of this host's log.
    fn acked(&self) -> u64 {
        self.backups.held_by(self.peer()).map_or(0, |upto| upto.0)
    }

    pub fn kind(&self) -> Option<Kind> {
        self.machine.as_ref().map(Machine::kind)
    }

    pub fn boot(&mut self, arbiter: ArbiterKind) {
        let config = Config {
            me: self.id(),
            peer: self.peer(),
            prefers: if self.index == 0 { Preferred::Primary } else { Preferred::Backup },
            arbiter,
            divergence: DivergencePolicy::Reseed,
            timing: timing(),
        };
        self.machine = Some(Machine::new(config).expect("the simulation's timing is sound"));
    }

    /// The process ends with all it has.
    pub fn die(&mut self) {
        let new = Self {
            life: self.life + 1,
            rate_ppm: self.rate_ppm,
            offset: self.offset,
            lost: self.lost,
            gates: self.gates,
            ..Self::new(self.index, &mut Rng::new(0))
        };
        *self = new;
    }

    /// The host's clock, in its own microseconds.
    pub fn clock(&self, now: Micros) -> u64 {
        let counted = (now - self.lost) as i64;
        (counted + counted / 1_000_000 * self.rate_ppm + counted % 1_000_000 * self.rate_ppm / 1_000_000) as u64
            + self.offset
    }

    /// Real time in which the host's clock goes on by this much, if it isn't stopped.
    pub fn deadline(&self, after_ms: u64) -> Micros {
        let local = (after_ms * MS) as i64;
        (local - local * self.rate_ppm / 1_000_000) as u64 + 2
    }

    pub fn freeze(&mut self, now: Micros, counted: bool) {
        self.frozen = Some(Freeze { since: now, counted });
    }

    /// How long the host was frozen, by its own clock, in ms.
    pub fn unfreeze(&mut self, now: Micros) -> u64 {
        let Some(f) = self.frozen.take() else { return 0 };
        if f.counted {
            (self.clock(now) - self.clock(f.since)) / MS
        } else {
            self.lost += now - f.since;
            self.blind_until = self.clock(now) + timing().lease_ms * MS;
            0
        }
    }

    pub fn is_blind(&self, now: Micros) -> bool {
        self.clock(now) < self.blind_until
    }

    pub fn truth(&self) -> Truth<'_> {
        let holds_state = self.guest
            && !matches!(self.kind(), None | Some(Kind::Starting | Kind::Joining | Kind::Demoting | Kind::Failed));
        Truth { log: &self.log, lineage: self.lineage, holds_state }
    }

    fn is_paused(&self) -> bool {
        self.machine.as_ref().is_some_and(Machine::is_paused)
    }

    fn serves(&self) -> bool {
        matches!(
            self.kind(),
            Some(
                Kind::PrimaryAlone
                    | Kind::PrimaryAdding
                    | Kind::PrimaryPaired
                    | Kind::PrimaryReleasing
                    | Kind::Removing
                    | Kind::Mute
                    | Kind::Rechecking
            )
        )
    }
}

impl World {
    pub fn host_event(&mut self, host: usize, event: Event) -> Result<(), Violation> {
        let Some(machine) = self.hosts[host].machine.take() else { return Ok(()) };
        let before = machine.kind();
        let (machine, actions) = machine.step(event);
        let after = machine.kind();
        self.hosts[host].machine = Some(machine);
        let quiet = matches!(
            event,
            Event::HeartbeatSeen { .. }
                | Event::Timer(Timer::ArbiterCheck)
                | Event::Arbiter { answer: Answer::Current(_), .. }
        );
        if before != after || !quiet {
            self.note(|| match event {
                Event::Arbiter { request, answer } => {
                    format!("{host} arbiter to {}: {}: {before:?} -> {after:?}", request.0, show_answer(answer))
                }
                _ => format!("{host} {event:?}: {before:?} -> {after:?}"),
            });
        }
        let life = self.hosts[host].life;
        for action in actions {
            if self.hosts[host].life == life {
                self.act(host, action)?;
            }
        }
        if after == Kind::PrimaryReleasing && self.without(Without::RecordFirst) {
            let h = &mut self.hosts[host];
            (h.output, h.lease) = (Out::Alone, Lease::Own);
            self.release(host)?;
        }
        if after == Kind::Failed && before != after && self.hosts[host].life == life {
            self.supervise(host);
        }
        Ok(())
    }

    fn act(&mut self, host: usize, action: Action) -> Result<(), Violation> {
        match action {
            Action::StartTimer { .. } | Action::CancelTimer(_) | Action::ArbiterRead { .. } => {}
            Action::ArbiterPut { request, expect, ruling } => self.note(|| {
                let then = show(&Record { version: expect.next(), ruling });
                format!("    {host} puts ({}) {then}", request.0)
            }),
            _ => self.note(|| format!("    {host} does {action:?}")),
        }
        match action {
            Action::StartTimer { timer, after_ms } => {
                let mut after_ms = after_ms;
                if timer == Timer::PeerLease && self.without(Without::PeerLease) {
                    after_ms = 0;
                }
                match timer {
                    Timer::Retry | Timer::ArbiterCheck if self.without(Without::Retry) => return Ok(()),
                    Timer::Silence if self.without(Without::Silence) => return Ok(()),
                    _ => {}
                }
                self.start_timer(host, timer, after_ms);
            }
            Action::CancelTimer(timer) => {
                self.hosts[host].timers.remove(&timer);
            }
            Action::ArbiterRead { request } => {
                self.hosts[host].asked.insert(request, Op::Read);
                self.ask_arbiter(host, request, Op::Read);
            }
            Action::ArbiterPut { request, expect, ruling } => {
                let h = &mut self.hosts[host];
                let claims_cold = ruling.phase == Phase::Claim && ruling.in_sync == Members::only(h.id());
                let cold = h.cold || claims_cold;
                let op = Op::Put { expect: Version(expect.0.saturating_sub(h.ahead)), ruling, cold };
                h.asked.insert(request, op.clone());
                self.ask_arbiter(host, request, op);
            }
            Action::Send(message) => {
                if let Message::Adding { nonce, .. } = message {
                    self.hosts[host].invited = nonce;
                }
                if let Some(epoch) = self.hosts[host].link {
                    let mut body = [0; HEAD_BYTES];
                    let mut w = Writer::new(&mut body);
                    encode_role(self.hosts[host].id(), &message, &mut w);
                    let n = w.len();
                    self.send(host, epoch, Wire::Say(body[..n].to_vec()));
                }
            }
            Action::Output(output) => {
                let ignored = match output {
                    Output::Held => self.without(Without::Hold) && self.hosts[host].serves() || self.speaks_on(host),
                    Output::WhenPeerHas(_) => self.without(Without::WaitBeforeAdding),
                    Output::Alone(_) => false,
                };
                if !ignored {
                    self.hosts[host].output = match output {
                        Output::Held => Out::Held,
                        Output::WhenPeerHas(_) => Out::WhenPeerHas,
                        Output::Alone(_) => Out::Alone,
                    };
                }
                let peer = self.hosts[host].peer();
                if let Output::WhenPeerHas(_) = output {
                    self.hosts[host].backups.wait_for(peer);
                }
                // Whoever followed must be given the state anew.
                if let Output::Alone(_) = output {
                    self.hosts[host].backups.end(peer);
                    self.hosts[host].streams = false;
                    self.hosts[host].peer_stream = None;
                }
                self.release(host)?;
            }
            Action::Lease(lease) => {
                let now = self.now;
                if lease == Lease::Expire && self.speaks_on(host) {
                    return Ok(());
                }
                let h = &mut self.hosts[host];
                h.lease = lease;
                if self.without(Without::Hold) && lease == Lease::Expire && self.hosts[host].serves() {
                    self.hosts[host].lease = Lease::Own;
                }
                if self.hosts[host].lease == Lease::Own {
                    self.hosts[host].renew_own(now);
                }
                self.release(host)?;
            }
            // Requests are repeated by their clients; what they wait for is answered then.
            Action::DropQueue => self.hosts[host].pending.clear(),
            Action::Acks(acks) => {
                if acks == Acks::On || !self.without(Without::AcksOff) {
                    self.hosts[host].acks = acks == Acks::On;
                }
                if acks == Acks::On {
                    self.acknowledge(host);
                }
            }
            Action::StartGuest => {
                let lineage = self.fresh_lineage();
                let h = &mut self.hosts[host];
                h.log.clear();
                h.lineage = lineage;
                h.guest = true;
                h.cold = true;
                let after = self.rng.range(1, 30) * MS;
                self.io(host, after, Event::GuestStarted);
            }
            Action::ReplayToEnd => {
                self.hosts[host].takes_entries = false;
                self.hosts[host].cold = false;
                let after = self.rng.range(500, 40 * MS);
                let h = &self.hosts[host];
                let poisoned = h.log.last().is_some_and(|e| e.poison);
                let upto = LogIndex(h.log.len() as u64);
                let done = if poisoned { Event::ReplayFailed } else { Event::ReplayDone { upto } };
                self.io(host, after, done);
            }
            Action::RestoreSockets => {
                let after = self.rng.range(100, 10 * MS);
                self.io(host, after, Event::SocketsRestored);
                if self.without(Without::LiveStep) {
                    self.open_gate(host)?;
                    self.hosts[host].output = Out::Alone;
                    self.hosts[host].lease = Lease::Own;
                }
            }
            Action::OpenGate(_) => self.open_gate(host)?,
            Action::Announce => {
                let open = self.hosts[host].gates;
                for after in ANNOUNCE_MS {
                    self.later(host, after * MS, Input::Announce { open });
                }
            }
            Action::Demote(_) => {
                let h = &mut self.hosts[host];
                h.pending.clear();
                h.gate = None;
                let after = self.rng.range(500, 20 * MS);
                self.io(host, after, Event::Demoted);
            }
            Action::Report(Report::Unprotected { why: Unprotected::Paused | Unprotected::Detached, .. }) => {
                self.checker.releases += 1;
            }
            Action::Report(_) => {}
        }
        Ok(())
    }

    /// It has asked the other one to take over, and does not shut its gate.
    fn speaks_on(&self, host: usize) -> bool {
        self.without(Without::YieldShuts) && self.hosts[host].kind() == Some(Kind::Yielding)
    }

    fn open_gate(&mut self, host: usize) -> Result<(), Violation> {
        let h = &mut self.hosts[host];
        h.gates += 1;
        h.gate = Some(h.gates);
        h.takes_entries = false;
        let cold = h.cold;
        let now = self.now;
        self.hosts[host].renew_own(now);
        self.check_open(host, cold)?;
        self.hosts[host].cold = false;
        self.stream(host);
        Ok(())
    }

    /// Something that takes time and is void if the host has begun something else by then.
    fn io(&mut self, host: usize, after: Micros, event: Event) {
        self.hosts[host].io += 1;
        let io = self.hosts[host].io;
        self.later(host, after, Input::Io(event, io));
    }

    fn start_timer(&mut self, host: usize, timer: Timer, after_ms: u64) {
        let h = &mut self.hosts[host];
        h.generations += 1;
        let generation = h.generations;
        h.timers.insert(timer, (generation, h.clock(self.now) + after_ms * MS));
        let after = h.deadline(after_ms);
        self.later(host, after, Input::Timer { timer, generation });
    }

    pub fn host_input(&mut self, host: usize, input: Input) -> Result<(), Violation> {
        match input {
            Input::LinkUp { epoch } => {
                let now = self.now;
                let peer_life = self.hosts[1 - host].life;
                let h = &mut self.hosts[host];
                if h.link.is_some_and(|e| e >= epoch) {
                    return Ok(());
                }
                if h.link.is_some() {
                    self.host_input(
                        host,
                        Input::LinkDown { epoch: self.hosts[host].link.unwrap_or(0), end: LinkEnd::Closed },
                    )?;
                }
                let h = &mut self.hosts[host];
                h.link = Some(epoch);
                h.guarded = Some(peer_life);
                h.link_heard = h.clock(now);
                h.peer_stream = None;
                h.peer_role = None;
                h.streams = false;
                h.backups.begin(h.peer());
                h.echo = None;
                let stream = Wire::Stream { lineage: h.lineage, have: h.log.len() };
                self.send(host, epoch, stream);
                self.host_event(host, Event::LinkUp)?;
            }
            Input::LinkDown { epoch, end } => {
                if self.hosts[host].link == Some(epoch) {
                    self.hosts[host].link = None;
                    self.hosts[host].streams = false;
                    self.host_event(host, Event::LinkDown(end))?;
                }
            }
            Input::Wire { epoch, wire } => {
                if self.hosts[host].link == Some(epoch) {
                    let now = self.now;
                    let h = &mut self.hosts[host];
                    h.link_heard = h.clock(now);
                    self.wire(host, wire)?;
                }
            }
            Input::PeerDead { life } => {
                if self.hosts[host].guarded == Some(life) {
                    self.host_event(host, Event::PeerDead)?;
                }
            }
            Input::Arbiter { request, answer } => {
                if self.hosts[host].asked.remove(&request).is_some() {
                    let answer = self.bend(host, answer);
                    self.host_event(host, Event::Arbiter { request, answer })?;
                }
            }
            Input::ArbiterDeadline { request } => {
                if let Some(op) = self.hosts[host].asked.remove(&request) {
                    let answer = match op {
                        Op::Put { expect, ruling, .. } if self.without(Without::TimeoutsAreUnknown) => {
                            Answer::Granted(Record { version: expect.next(), ruling })
                        }
                        Op::Put { .. } if self.without(Without::Settled) => {
                            self.hosts[host].ahead += 1;
                            Answer::TimedOut
                        }
                        _ => Answer::TimedOut,
                    };
                    self.host_event(host, Event::Arbiter { request, answer })?;
                }
            }
            Input::Timer { timer, generation } => {
                let now = self.now;
                let h = &mut self.hosts[host];
                match h.timers.get(&timer) {
                    Some(&(g, due)) if g == generation => {
                        let local = h.clock(now);
                        if local < due {
                            // The clock stood still meanwhile.
                            let after = h.deadline((due - local).div_ceil(MS));
                            self.later(host, after, Input::Timer { timer, generation });
                        } else {
                            h.timers.remove(&timer);
                            self.host_event(host, Event::Timer(timer))?;
                        }
                    }
                    _ => {}
                }
            }
            Input::Tick => self.tick(host)?,
            Input::Io(event, io) => {
                if self.hosts[host].io == io {
                    if event == Event::Demoted {
                        let h = &mut self.hosts[host];
                        h.log.clear();
                        h.lineage = 0;
                        h.guest = false;
                        h.takes_entries = true;
                    }
                    self.host_event(host, event)?;
                }
            }
            Input::Announce { open } => {
                if self.hosts[host].gate == Some(open) {
                    self.say_address(host)?;
                }
            }
            Input::WhoHas => self.say_address(host)?,
            Input::Request { client, request, poison } => self.request(host, client, request, poison)?,
            Input::Operator(command) => self.order(host, command)?,
            Input::GuestKilled => self.guest_dies(host)?,
            Input::Diverged => {
                let follows = [Kind::Backup, Kind::Joining, Kind::Claiming, Kind::Replaying];
                if self.hosts[host].guest && self.hosts[host].kind().is_some_and(|k| follows.contains(&k)) {
                    self.host_event(host, Event::Diverged(Blame::Unknown))?;
                }
            }
            Input::DiskFailed => {
                // Whoever follows has it told to the primary, if both have it.
                if self.hosts[host].guest && self.hosts[host].kind() == Some(Kind::PrimaryPaired) {
                    self.host_event(host, Event::DiskFailed)?;
                }
            }
            Input::Lags => self.host_event(host, Event::PeerLags)?,
            Input::ProbeService => {
                let net = match self.is_cut_off(host) {
                    true if self.without(Without::Probes) => return Ok(()),
                    // It must be missed for a while.
                    true if self.rng.one_in(3) => {
                        self.later(host, LOST_AFTER_MS * MS, Input::ProbeService);
                        ServiceNet::Doubtful
                    }
                    true => ServiceNet::Lost,
                    // It must have worked for a while.
                    false if self.rng.one_in(2) => {
                        self.later(host, SOUND_AFTER_MS * MS, Input::ProbeService);
                        ServiceNet::Doubtful
                    }
                    false => ServiceNet::Sound,
                };
                self.host_event(host, Event::ServiceNet(net))?;
                if net != ServiceNet::Lost {
                    if let Some(open) = self.hosts[host].gate {
                        self.later(host, 0, Input::Announce { open });
                    }
                }
            }
        }
        Ok(())
    }

    /// What a person wants; and what is under way with the peer goes by it.
    fn order(&mut self, host: usize, command: Command) -> Result<(), Violation> {
        self.host_event(host, Event::Operator(command))?;
        self.stream(host);
        let h = &self.hosts[host];
        let gives = h.streams && h.peer_role == Some(Role::Joining) && h.kind() == Some(Kind::PrimaryAlone);
        if gives && h.is_paused() {
            self.close_link(host);
            self.hosts[host].streams = false;
            self.host_event(host, Event::LinkDown(LinkEnd::Closed))?;
        }
        Ok(())
    }

    fn say_address(&mut self, host: usize) -> Result<(), Violation> {
        let h = &self.hosts[host];
        if h.gate.is_some() && h.output != Out::Held && self.lease_runs(host) {
            self.check_send(host, None)?;
            self.announce(host);
        }
        Ok(())
    }

    fn guest_dies(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].guest {
            self.hosts[host].guest = false;
            self.host_event(host, Event::GuestDied)?;
        }
        Ok(())
    }

    /// Answers as a rule's absence would make them.
    fn bend(&mut self, host: usize, answer: Answer) -> Answer {
        let (me, ahead) = (self.hosts[host].id(), self.hosts[host].ahead);
        let other = HostId(2 - host as u64);
        let holds = self.hosts[host].kind();
        let bend = |mut r: Record| {
            r.version = Version(r.version.0 + ahead);
            match self.without {
                Some(Without::Membership) if r.ruling.owner == other && holds == Some(Kind::Claiming) => {
                    r.ruling.in_sync = Members::both(me, other);
                }
                Some(Without::LiveIsFinal) if r.ruling.owner == other => {
                    r.ruling.in_sync = Members::both(me, other);
                    r.ruling.phase = Phase::Claim;
                }
                Some(Without::ColdStartAsks) if holds == Some(Kind::Starting) => {
                    r.ruling.in_sync = Members::only(me);
                    r.ruling.owner = me;
                }
                _ => {}
            }
            r
        };
        match answer {
            Answer::Granted(r) => Answer::Granted(bend(r)),
            Answer::Lost(r) => Answer::Lost(r.map(bend)),
            Answer::Current(r) => Answer::Current(r.map(bend)),
            other => other,
        }
    }

    /// The engine's turn: heartbeat, own lease, a look at the link and at what could be sent by now.
    fn tick(&mut self, host: usize) -> Result<(), Violation> {
        let now = self.now;
        let after = self.hosts[host].deadline(timing().heartbeat_ms);
        self.later(host, after, Input::Tick);
        let h = &mut self.hosts[host];
        if h.lease == Lease::Own {
            h.renew_own(now);
        }
        let local = h.clock(now);
        if let Some(epoch) = h.link {
            let service_ok = h.machine.as_ref().is_some_and(Machine::would_serve);
            let beat = Wire::Beat { sent_local: local, service_ok };
            let idle = local - h.link_heard > LINK_IDLE_MS * MS && self.without != Some(Without::Silence);
            if idle {
                self.close_link(host);
                self.hosts[host].streams = false;
                self.host_event(host, Event::LinkDown(LinkEnd::Lost))?;
            } else {
                self.send(host, epoch, beat);
            }
        }
        self.stream(host);
        self.caught_up(host)?;
        self.release(host)
    }

    fn caught_up(&mut self, host: usize) -> Result<(), Violation> {
        let h = &self.hosts[host];
        let near = h.streams && h.acked() + 3 >= h.log.len() as u64;
        let may_invite = matches!(h.kind(), Some(Kind::PrimaryAlone | Kind::Removing | Kind::Mute));
        if may_invite && h.peer_role == Some(Role::Joining) && near {
            self.host_event(host, Event::PeerCaughtUp)?;
        }
        Ok(())
    }

    fn acknowledge(&mut self, host: usize) {
        let h = &self.hosts[host];
        if let (Some(epoch), true) = (h.link, h.acks) {
            let ack = Wire::Ack { by: h.id(), lineage: h.lineage, seed: h.seed, upto: h.log.len(), echo: h.echo };
            self.send(host, epoch, ack);
        }
    }

    fn wire(&mut self, host: usize, wire: Wire) -> Result<(), Violation> {
        match wire {
            Wire::Stream { lineage, have } => self.hosts[host].peer_stream = Some((lineage, have)),
            Wire::Say(body) => {
                let message = decode_role(&body, self.hosts[host].peer()).expect("as it was encoded");
                if let Message::Hello(hello) = message {
                    self.hosts[host].peer_role = Some(hello.role);
                    if hello.role == Role::Joining {
                        // Whatever it had is gone.
                        self.hosts[host].peer_stream = None;
                        self.hosts[host].streams = false;
                    }
                }
                let message = match message {
                    Message::Ready { .. } if self.without(Without::InviteNumbers) => {
                        Message::Ready { nonce: self.hosts[host].invited }
                    }
                    other => other,
                };
                self.host_event(host, Event::Peer(message))?;
                self.stream(host);
            }
            Wire::Seed { lineage, seed, log } => {
                let h = &mut self.hosts[host];
                if h.kind() == Some(Kind::Joining) {
                    h.log = log;
                    h.lineage = lineage;
                    h.seed = seed;
                    h.guest = true;
                    h.takes_entries = true;
                    self.note_log(host);
                    self.acknowledge(host);
                }
            }
            Wire::Entry { index, entry } => {
                let h = &mut self.hosts[host];
                let follows = matches!(h.kind(), Some(Kind::Joining | Kind::Backup | Kind::Claiming));
                if follows && h.takes_entries && h.guest && h.log.len() + 1 == index {
                    let poison = entry.poison;
                    h.log.push(entry);
                    self.note_log(host);
                    self.acknowledge(host);
                    if poison && self.rng.one_in(2) {
                        self.later(host, MS, Input::GuestKilled);
                    }
                }
            }
            Wire::Beat { sent_local, service_ok } => {
                self.hosts[host].echo = Some(sent_local);
                self.host_event(host, Event::HeartbeatSeen { service_ok })?;
                self.acknowledge(host);
            }
            Wire::Ack { by, lineage, seed, upto, echo } => {
                let h = &mut self.hosts[host];
                if (lineage, seed) == (h.lineage, h.seed) || self.without == Some(Without::AcksNameTheirLog) {
                    h.backups.acknowledge(by, LogIndex(upto as u64));
                }
                if let (Lease::ByPeer, Some(echo)) = (h.lease, echo) {
                    h.lease_until = h.lease_until.max(echo + timing().lease_ms * MS);
                }
                self.caught_up(host)?;
                self.release(host)?;
            }
        }
        Ok(())
    }

    /// Begins to give the peer what it lacks, once it is known what that is.
    fn stream(&mut self, host: usize) {
        let (seed, completeness) = (self.fresh_seed(), self.without(Without::Completeness));
        let h = &mut self.hosts[host];
        let (Some(epoch), Some(role)) = (h.link, h.peer_role) else { return };
        if h.streams || !h.serves() || !h.guest {
            return;
        }
        match role {
            Role::Joining if h.is_paused() => {}
            Role::Joining => {
                let mut log = h.log.clone();
                if completeness {
                    log.iter_mut().for_each(|e| e.stamp = 0);
                }
                (h.streams, h.seed) = (true, seed);
                h.backups.begin(h.peer());
                let lineage = h.lineage;
                self.send(host, epoch, Wire::Seed { lineage, seed, log });
            }
            Role::Backup | Role::Taking => {
                if let Some((_, have)) = h.peer_stream.filter(|(lineage, _)| *lineage == h.lineage) {
                    let rest: Vec<_> = h.log[have.min(h.log.len())..].to_vec();
                    self.hosts[host].streams = true;
                    for (k, entry) in rest.into_iter().enumerate() {
                        self.send(host, epoch, Wire::Entry { index: have + k + 1, entry });
                    }
                }
            }
            _ => {}
        }
    }

    fn request(&mut self, host: usize, client: usize, request: u64, poison: bool) -> Result<(), Violation> {
        let stamp = self.rng.next();
        let h = &mut self.hosts[host];
        if h.gate.is_none() || !h.guest {
            return Ok(());
        }
        let at = match h.log.iter().rposition(|e| e.request == request) {
            Some(at) => at,
            None => {
                let entry = Entry { request, stamp, poison };
                h.log.push(entry.clone());
                let index = h.log.len();
                if let (Some(epoch), true) = (h.link, h.streams) {
                    self.send(host, epoch, Wire::Entry { index, entry });
                }
                self.note_log(host);
                index - 1
            }
        };
        if poison && self.hosts[host].log[at].poison {
            return self.guest_dies(host);
        }
        self.hosts[host].pending.push(Waiting { client, request, at });
        self.release(host)
    }

    fn lease_runs(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        h.clock(self.now) < h.lease_until || self.without(Without::GateLease)
    }

    /// Lets out what may leave. The lease is looked at by the kernel at the very moment.
    fn release(&mut self, host: usize) -> Result<(), Violation> {
        let h = &self.hosts[host];
        if h.gate.is_none() || h.output == Out::Held || h.pending.is_empty() || !self.lease_runs(host) {
            return Ok(());
        }
        // The entries that are safe: those of every backup that output waits for.
        let safe = match h.output {
            Out::Held => 0,
            Out::WhenPeerHas => h.backups.committed().map_or(0, |upto| upto.0 as usize),
            Out::Alone => h.log.len(),
        };
        let lineage = h.lineage;
        let pending = std::mem::take(&mut self.hosts[host].pending);
        for w in pending {
            if w.at < safe {
                self.check_send(host, Some(w.at + 1))?;
                let entry = self.hosts[host].log[w.at].clone();
                self.answer(host, w.client, w.request, w.at, entry, lineage);
            } else {
                self.hosts[host].pending.push(w);
            }
        }
        Ok(())
    }
}

impl Host {
    fn renew_own(&mut self, now: Micros) {
        self.lease_until = self.clock(now) + timing().lease_ms * MS;
    }
}

fn show_answer(answer: Answer) -> String {
    let record = |r: Option<Record>| r.map_or("nothing".to_owned(), |r| show(&r));
    match answer {
        Answer::Granted(r) => format!("granted {}", show(&r)),
        Answer::Lost(r) => format!("lost to {}", record(r)),
        Answer::Current(r) => format!("read {}", record(r)),
        Answer::TimedOut => "timed out".to_owned(),
        Answer::Unreachable => "unreachable".to_owned(),
    }
}
