//! Two hosts, an arbiter, clients, and the networks between them, in simulated time. One seed, one history.
//!
//! The hosts run the real state machine; `host` is its driver with a toy guest. The service is a counter log: each
//! request gets the next position and a random stamp that only the primary of the moment can know. Channels: the link
//! (like TCP: in order, delays by retransmission, an end that the two sides see at different times or not at all), the
//! arbiter's (loses, delays beyond the timeout and still delivers), the service network (loses, reorders).

use super::checker::{Checker, Violation};
use super::host::Host;
use super::rng::Rng;
use ft_runtime::failover::arbiter::stored;
use ft_runtime::failover::book::{Answer, RequestId};
use ft_runtime::failover::config::ArbiterKind;
use ft_runtime::failover::event::{Command, Event, LinkEnd, Timer};
use ft_runtime::failover::record::{HostId, Phase, Record, Ruling, Version, compare_and_put};
use ft_runtime::failover::state::Kind;
use ft_runtime::failover::config;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

pub const HOSTS: usize = 2;
const CLIENTS: usize = 2;
pub const MS: Micros = 1000;
/// Faults happen up to here ...
const FAULTS_UNTIL: Micros = 5_000 * MS;
/// ... and this long after the last repair the service must be back, at the latest.
const QUIET: Micros = 5_000 * MS;
const PROBE_EVERY: Micros = 300 * MS;

pub type Micros = u64;

pub fn timing() -> config::Timing {
    config::Timing {
        heartbeat_ms: 25,
        lease_ms: 80,
        silence_ms: 200,
        head_start_ms: 40,
        patience_ms: 600,
        peer_wait_ms: 500,
        arbiter_retry_ms: 60,
        arbiter_check_ms: 400,
    }
}
/// How long a host waits for the arbiter's answer.
pub const ARBITER_TIMEOUT_MS: u64 = 100;
/// A link without a sign of life for this long is closed by the driver.
pub const LINK_IDLE_MS: u64 = 500;
/// How long a service network must have worked to be relied on.
pub const SOUND_AFTER_MS: u64 = 100;
/// How long one that is in doubt must be missed to be lost.
pub const LOST_AFTER_MS: u64 = 80;
/// Takeovers after the last repair, for whatever was under way. More is flapping.
const TAKEOVERS_AFTER_MAX: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub request: u64,
    pub stamp: u64,
    /// A guest that does this dies of it.
    pub poison: bool,
}

/// What goes over the link.
#[derive(Clone, Debug)]
pub enum Wire {
    Stream {
        lineage: u64,
        have: usize,
    },
    /// As the engine puts it on the link.
    Say(Vec<u8>),
    Seed {
        lineage: u64,
        seed: u64,
        log: Vec<Entry>,
    },
    Entry {
        index: usize,
        entry: Entry,
    },
    /// The only thing whose time is echoed: leases are renewed by what the silence timer is restarted by.
    Beat {
        sent_local: u64,
        service_ok: bool,
    },
    /// An acknowledgement names who gives it, and the life of the service that it is about.
    Ack {
        by: HostId,
        lineage: u64,
        seed: u64,
        upto: usize,
        echo: Option<u64>,
    },
}

#[derive(Clone, Debug)]
pub enum Op {
    Read,
    Put { expect: Version, ruling: Ruling, cold: bool },
}

#[derive(Clone, Debug)]
pub enum Input {
    LinkUp {
        epoch: u64,
    },
    LinkDown {
        epoch: u64,
        end: LinkEnd,
    },
    Wire {
        epoch: u64,
        wire: Wire,
    },
    /// The guard of the peer's process of that life has spoken.
    PeerDead {
        life: u64,
    },
    Arbiter {
        request: RequestId,
        answer: Answer,
    },
    /// The host itself has waited long enough for this answer.
    ArbiterDeadline {
        request: RequestId,
    },
    Timer {
        timer: Timer,
        generation: u64,
    },
    Tick,
    Io(Event, u64),
    Announce {
        open: u64,
    },
    WhoHas,
    Request {
        client: usize,
        request: u64,
        poison: bool,
    },
    GuestKilled,
    Diverged,
    DiskFailed,
    Operator(Command),
    Lags,
    ProbeService,
}

#[derive(Clone, Debug)]
enum Happening {
    /// To a host, in the life of its process that it was meant for.
    Host {
        host: usize,
        life: u64,
        input: Input,
    },
    ArbiterGets {
        host: usize,
        life: u64,
        request: RequestId,
        op: Op,
    },
    LinkTry,
    Thaw {
        host: usize,
    },
    Restart {
        host: usize,
    },
    LinkHeals {
        from: usize,
    },
    ServiceHeals {
        host: usize,
    },
    ArbiterBack,
    ClientTurn {
        client: usize,
    },
    ClientGets {
        client: usize,
        request: u64,
        at: usize,
        entry: Entry,
        lineage: u64,
    },
    Fault,
    AllHeals,
    Probe,
}

struct Item {
    at: Micros,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A rule that is taken away, to see that its absence shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// A primary that loses its backup goes on sending.
    Hold,
    /// A backup takes over without waiting for the primary's lease.
    PeerLease,
    /// The gate doesn't look at its lease.
    GateLease,
    /// A backup that takes over goes on acknowledging.
    AcksOff,
    /// The arbiter does not compare.
    Compare,
    /// A put that timed out counts as done.
    TimeoutsAreUnknown,
    /// A host outside the set believes that it is in it.
    Membership,
    /// Output doesn't wait while the backup is being added.
    WaitBeforeAdding,
    /// A backup counts as complete before it was given the state.
    Completeness,
    /// The gate opens at the claim.
    LiveStep,
    /// A host that is live can be claimed from.
    LiveIsFinal,
    /// A re-read record counts as settled.
    Settled,
    /// Any word that the backup is ready counts, also one to an older invitation.
    InviteNumbers,
    /// An acknowledgement counts, whatever log it is about.
    AcksNameTheirLog,
    /// A starting host takes the service although the other one has the state.
    ColdStartAsks,
    /// Nothing is asked again.
    Retry,
    /// Silence is not noticed.
    Silence,
    /// A host that hands over goes on sending.
    YieldShuts,
    /// A host does not notice that its service network is lost.
    Probes,
    /// A guard takes an engine that stands still for dead.
    GuardWaits,
    /// A primary that lets its backup go by a person's word doesn't wait for the record.
    RecordFirst,
}

impl Without {
    /// What its absence must show as.
    pub fn shows(self, violation: &Violation) -> bool {
        match self {
            Self::Retry | Self::Silence | Self::Probes => matches!(violation, Violation::Liveness(_)),
            _ => matches!(violation, Violation::Safety(_)),
        }
    }

    pub const ALL: [Self; 21] = [
        Self::Hold,
        Self::PeerLease,
        Self::GateLease,
        Self::AcksOff,
        Self::Compare,
        Self::TimeoutsAreUnknown,
        Self::Membership,
        Self::WaitBeforeAdding,
        Self::Completeness,
        Self::LiveStep,
        Self::LiveIsFinal,
        Self::Settled,
        Self::InviteNumbers,
        Self::AcksNameTheirLog,
        Self::ColdStartAsks,
        Self::Retry,
        Self::Silence,
        Self::YieldShuts,
        Self::Probes,
        Self::GuardWaits,
        Self::RecordFirst,
    ];
}

struct Arbiter {
    record: Option<Record>,
    down: bool,
}

struct LinkState {
    epoch: u64,
    /// `from` -> the other host: nothing gets through.
    cut: [bool; HOSTS],
    /// `from` -> the other host: everything comes late, up to this time.
    slow_until: [Micros; HOSTS],
    /// When the last byte of each direction arrives.
    last_arrival: [Micros; HOSTS],
    stalled: [VecDeque<Input>; HOSTS],
}

struct Client {
    request: u64,
    since: Micros,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub answers: u64,
    pub takeovers: u64,
    pub cold_starts: u64,
    pub stale_sends: u64,
    pub releases: u64,
    pub steps: u64,
    pub expected_service: bool,
}

pub struct World {
    pub now: Micros,
    pub rng: Rng,
    pub without: Option<Without>,
    queue: BinaryHeap<Reverse<Item>>,
    sequence: u64,
    pub hosts: [Host; HOSTS],
    kind: ArbiterKind,
    arbiter: Arbiter,
    link: LinkState,
    service_cut: [bool; HOSTS],
    /// This host's service network does not come back: the other one has to serve.
    cut_for_good: Option<usize>,
    takeovers_before: u64,
    /// Where the network sends what is for the address.
    address_at: Option<usize>,
    clients: Vec<Client>,
    next_request: u64,
    pub checker: Checker,
    steps: u64,
    trace: Option<Vec<String>>,
    quiet_since: Option<Micros>,
    /// Which kinds of faults this history has, and how often.
    faults: Vec<Fault>,
    fault_gap: Micros,
    lineages: u64,
    seeds: u64,
    dead: [bool; HOSTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillEngine,
    KillHost,
    KillGuest,
    /// A guest that follows does something else.
    Diverge,
    /// Of a guest that waits in the call until it is decided who goes on.
    FailDisk,
    Freeze,
    FreezeUncounted,
    LinkCut,
    LinkHalfCut,
    LinkReset,
    LinkLost,
    LinkSlow,
    ServiceCut,
    /// Link and service network of one host at once.
    BothCut,
    ArbiterDown,
    Lag,
    Poison,
    /// The operator wants the other host to serve, or to be none, wherever that is asked.
    Switchover,
    Pause,
    Resume,
    Detach,
    /// The operator of a host whose peer is off lets it serve. Only without an arbiter.
    Force,
}

const FAULTS: [Fault; 21] = [
    Fault::KillEngine,
    Fault::KillHost,
    Fault::KillGuest,
    Fault::Diverge,
    Fault::FailDisk,
    Fault::Freeze,
    Fault::FreezeUncounted,
    Fault::LinkCut,
    Fault::LinkHalfCut,
    Fault::LinkReset,
    Fault::LinkLost,
    Fault::LinkSlow,
    Fault::ServiceCut,
    Fault::BothCut,
    Fault::ArbiterDown,
    Fault::Lag,
    Fault::Poison,
    Fault::Switchover,
    Fault::Pause,
    Fault::Resume,
    Fault::Detach,
];

/// The faults under which a rule matters most, where it would take long to meet them by chance.
fn focus(rule: Without) -> &'static [Fault] {
    match rule {
        Without::InviteNumbers => &[Fault::LinkSlow, Fault::LinkSlow, Fault::LinkHalfCut],
        Without::AcksNameTheirLog => &[Fault::KillGuest, Fault::KillEngine, Fault::LinkSlow],
        Without::Settled => &[Fault::ArbiterDown, Fault::LinkLost, Fault::LinkSlow],
        Without::YieldShuts | Without::Probes => &[Fault::ServiceCut, Fault::KillGuest],
        Without::GuardWaits => &[Fault::Freeze],
        Without::RecordFirst => &[Fault::Pause, Fault::Resume, Fault::Detach, Fault::ArbiterDown, Fault::LinkSlow],
        Without::PeerLease => &[Fault::LinkLost, Fault::LinkReset, Fault::LinkSlow, Fault::LinkHalfCut],
        _ => &[],
    }
}

impl World {
    pub fn new(seed: u64, without: Option<Without>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let hosts = [Host::new(0, &mut rng), Host::new(1, &mut rng)];
        // A few kinds of faults per history, so that rare combinations meet often enough.
        let kinds = rng.range(1, 5);
        let faults: Vec<Fault> = (0..kinds).map(|_| FAULTS[rng.range(0, FAULTS.len() as u64) as usize]).collect();
        let focus = without.map_or(&[][..], focus);
        let faults = if focus.is_empty() { faults } else { focus.to_vec() };
        let arbiter = match rng.range(0, 10) {
            0 if focus.is_empty() => ArbiterKind::None { alone_allowed: rng.one_in(2) },
            _ => ArbiterKind::Votes,
        };
        let mut faults = faults;
        if arbiter != ArbiterKind::Votes {
            faults.extend([Fault::Force, Fault::KillHost]);
        }
        let fault_gap = [150, 400, 1200][rng.range(0, 3) as usize] * MS;
        let mut world = Self {
            now: 0,
            rng,
            without,
            queue: BinaryHeap::new(),
            sequence: 0,
            hosts,
            kind: arbiter,
            arbiter: Arbiter { record: None, down: false },
            link: LinkState {
                epoch: 0,
                cut: [false; HOSTS],
                slow_until: [0; HOSTS],
                last_arrival: [0; HOSTS],
                stalled: [VecDeque::new(), VecDeque::new()],
            },
            service_cut: [false; HOSTS],
            cut_for_good: None,
            takeovers_before: 0,
            address_at: None,
            clients: Vec::new(),
            next_request: 0,
            checker: Checker::default(),
            steps: 0,
            trace: traced.then(Vec::new),
            quiet_since: None,
            faults,
            fault_gap,
            lineages: 0,
            seeds: 0,
            dead: [false; HOSTS],
        };
        for host in 0..HOSTS {
            let at = world.rng.range(0, 50 * MS);
            world.push(at, Happening::Restart { host });
        }
        for client in 0..CLIENTS {
            world.next_request += 1;
            world.clients.push(Client { request: world.next_request, since: 0 });
            world.push((client as u64 + 1) * 7 * MS, Happening::ClientTurn { client });
        }
        world.push(MS, Happening::LinkTry);
        let first = world.rng.range(300, 1500) * MS;
        world.push(first, Happening::Fault);
        world.push(FAULTS_UNTIL, Happening::AllHeals);
        world
    }

    pub fn without(&self, rule: Without) -> bool {
        self.without == Some(rule)
    }

    pub fn fresh_lineage(&mut self) -> u64 {
        self.lineages += 1;
        self.lineages
    }

    pub fn fresh_seed(&mut self) -> u64 {
        self.seeds += 1;
        self.seeds
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} {}", self.now as f64 / 1000.0, line()));
        }
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    fn push(&mut self, at: Micros, what: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Item { at, sequence: self.sequence, what }));
    }

    /// Something for a host's process as it is now, at a real time.
    pub fn later(&mut self, host: usize, after: Micros, input: Input) {
        let life = self.hosts[host].life;
        self.push(self.now + after, Happening::Host { host, life, input });
    }

    /// The whole history.
    pub fn run(&mut self) -> Result<Summary, Violation> {
        while let Some(Reverse(item)) = self.queue.pop() {
            assert!(item.at >= self.now, "time goes on");
            self.now = item.at;
            self.steps += 1;
            if let Some(summary) = self.happen(item.what)? {
                return Ok(summary);
            }
        }
        unreachable!("a history ends with its probe");
    }

    fn happen(&mut self, what: Happening) -> Result<Option<Summary>, Violation> {
        match what {
            Happening::Host { host, life, input } => self.deliver(host, life, input)?,
            Happening::ArbiterGets { host, life, request, op } => self.arbiter_gets(host, life, request, op)?,
            Happening::LinkTry => self.link_try(),
            Happening::Thaw { host } => self.thaw(host)?,
            Happening::Restart { host } => self.restart(host)?,
            Happening::LinkHeals { from } => self.heal_link(from),
            Happening::ServiceHeals { host } => self.heal_service(host),
            Happening::ArbiterBack => self.arbiter.down = false,
            Happening::ClientTurn { client } => self.client_turn(client),
            Happening::ClientGets { client, request, at, entry, lineage } => {
                self.checker.on_answer(request, at, &entry, lineage)?;
                let c = &mut self.clients[client];
                if c.request == request {
                    self.next_request += 1;
                    c.request = self.next_request;
                    c.since = self.now;
                }
            }
            Happening::Fault => self.fault()?,
            Happening::AllHeals => self.all_heals()?,
            Happening::Probe => return self.probe(),
        }
        Ok(None)
    }

    fn deliver(&mut self, host: usize, life: u64, input: Input) -> Result<(), Violation> {
        let h = &mut self.hosts[host];
        if h.life != life || h.machine.is_none() {
            return Ok(());
        }
        if h.frozen.is_some() {
            h.inbox.push_back(input);
            return Ok(());
        }
        self.host_input(host, input)
    }

    pub fn note_log(&mut self, host: usize) {
        let truth = self.hosts[host].truth();
        self.checker.on_log(host, &truth);
    }

    pub fn is_cut_off(&self, host: usize) -> bool {
        self.service_cut[host]
    }

    pub fn check_send(&mut self, host: usize, upto: Option<usize>) -> Result<(), Violation> {
        let blind = self.hosts[host].is_blind(self.now);
        let truths = [self.hosts[0].truth(), self.hosts[1].truth()];
        let id = self.hosts[host].id().0;
        // Without an arbiter there is no record to hold a host that goes alone to.
        let upto = if self.kind == ArbiterKind::Votes { upto } else { None };
        self.checker.on_send(host, upto, blind, self.arbiter.record, &truths, id)
    }

    pub fn check_open(&mut self, host: usize, cold: bool) -> Result<(), Violation> {
        let truth = self.hosts[host].truth();
        // A person may let a host serve that lacks what was told while the other one was alone.
        let fresh = cold || self.kind == ArbiterKind::None { alone_allowed: true };
        self.checker.on_open(host, fresh, &truth)
    }

    // The arbiter and its network.

    pub fn ask_arbiter(&mut self, host: usize, request: RequestId, op: Op) {
        let life = self.hosts[host].life;
        let local = self.hosts[host].deadline(ARBITER_TIMEOUT_MS);
        self.later(host, local, Input::ArbiterDeadline { request });
        let Some(delay) = self.arbiter_delay() else { return };
        self.push(self.now + delay, Happening::ArbiterGets { host, life, request, op });
    }

    fn arbiter_gets(&mut self, host: usize, life: u64, request: RequestId, op: Op) -> Result<(), Violation> {
        if self.arbiter.down {
            return Ok(());
        }
        let stands = self.arbiter.record;
        let answer = match op {
            Op::Read => Answer::Current(stands),
            Op::Put { expect, ruling, cold } => {
                let expect = match stands {
                    Some(r) if self.without(Without::Compare) => r.version,
                    None if self.without(Without::Compare) => Version::ABSENT,
                    _ => expect,
                };
                match compare_and_put(stands, expect, ruling) {
                    Ok(record) => {
                        // As it comes back from where arbiters keep it.
                        let kept = stored::decode(&stored::encode(&record)).expect("a sound record");
                        self.arbiter.record = Some(kept);
                        self.note(|| format!("arbiter keeps {}", show(&record)));
                        let truths = [self.hosts[0].truth(), self.hosts[1].truth()];
                        // What a process that has died meanwhile asked for grants nobody anything.
                        if self.hosts[host].life == life {
                            self.checker.on_put(stands, record, cold, &truths, |id| id as usize - 1)?;
                        }
                        Answer::Granted(record)
                    }
                    Err(stands) => Answer::Lost(stands),
                }
            }
        };
        if let Some(delay) = self.arbiter_delay() {
            self.push(self.now + delay, Happening::Host { host, life, input: Input::Arbiter { request, answer } });
        }
        Ok(())
    }

    /// `None`: it is lost on the way. It may also come after nobody waits for it any more.
    fn arbiter_delay(&mut self) -> Option<Micros> {
        let rough = self.quiet_since.is_none();
        match self.rng.next() % 100 {
            0..2 if rough => None,
            2..6 if rough => Some(self.rng.range(30, 400) * MS),
            _ => Some(self.rng.range(200, 3000)),
        }
    }

    // The link.

    fn link_try(&mut self) {
        let again = self.rng.range(30, 80) * MS;
        self.push(self.now + again, Happening::LinkTry);
        let ready = (0..HOSTS).all(|h| self.hosts[h].machine.is_some() && self.hosts[h].frozen.is_none());
        let wanted = (0..HOSTS).any(|h| self.hosts[h].link.is_none());
        if !ready || !wanted || self.link.cut.contains(&true) {
            return;
        }
        self.link.epoch += 1;
        let epoch = self.link.epoch;
        self.note(|| format!("link {epoch} opens"));
        self.link.stalled = [VecDeque::new(), VecDeque::new()];
        for host in 0..HOSTS {
            let after = self.rng.range(100, 10 * MS);
            // Nothing sent on the new link may arrive before its start.
            self.link.last_arrival[1 - host] = self.now + after;
            if let Some(old) = self.hosts[host].link {
                self.later(host, after - 1, Input::LinkDown { epoch: old, end: LinkEnd::Closed });
            }
            self.later(host, after, Input::LinkUp { epoch });
        }
    }

    pub fn send(&mut self, from: usize, epoch: u64, wire: Wire) {
        self.link_input(from, epoch, Input::Wire { epoch, wire });
    }

    fn link_input(&mut self, from: usize, epoch: u64, input: Input) {
        if epoch != self.link.epoch {
            return;
        }
        if self.link.cut[from] {
            self.link.stalled[from].push_back(input);
            return;
        }
        let slow = self.now < self.link.slow_until[from];
        let delay = match self.rng.next() % 200 {
            0..50 if slow => self.rng.range(5, 400) * MS,
            0 if self.quiet_since.is_none() => self.rng.range(20, 250) * MS,
            1..5 => self.rng.range(2, 20) * MS,
            _ => self.rng.range(80, 800),
        };
        let at = (self.now + delay).max(self.link.last_arrival[from] + 1);
        self.link.last_arrival[from] = at;
        self.later(1 - from, at - self.now, input);
    }

    /// `host` closes its end; the other one hears of it after what was sent before.
    pub fn close_link(&mut self, host: usize) {
        if let Some(epoch) = self.hosts[host].link.take() {
            self.note(|| format!("{host} closes link {epoch}"));
            self.link_input(host, epoch, Input::LinkDown { epoch, end: LinkEnd::Closed });
        }
    }

    fn heal_link(&mut self, from: usize) {
        self.link.cut[from] = false;
        self.note(|| format!("link from {from} heals"));
        let epoch = self.link.epoch;
        // What was held up arrives with the next retransmission.
        let after = self.rng.range(1, 200) * MS;
        self.link.last_arrival[from] = self.link.last_arrival[from].max(self.now + after);
        for input in std::mem::take(&mut self.link.stalled[from]) {
            self.link_input(from, epoch, input);
        }
    }

    fn heal_service(&mut self, host: usize) {
        if self.cut_for_good == Some(host) {
            return;
        }
        self.service_cut[host] = false;
        self.note(|| format!("service network of {host} heals"));
        let after = self.rng.range(5, 80) * MS;
        self.later(host, after, Input::ProbeService);
    }

    // Clients.

    fn client_turn(&mut self, client: usize) {
        let pause = self.rng.range(15, 60) * MS;
        self.push(self.now + pause, Happening::ClientTurn { client });
        if self.rng.one_in(20) {
            // The client's neighbour entry has aged: it asks again, and whoever has the address answers.
            for host in 0..HOSTS {
                let delay = self.rng.range(50, 5000);
                self.later(host, delay, Input::WhoHas);
            }
        }
        if let Some(host) = self.address_at {
            if !self.service_cut[host] && !self.rng.one_in(50) {
                let request = self.clients[client].request;
                let poison = self.faults.contains(&Fault::Poison) && self.rng.one_in(100);
                let delay = self.rng.range(50, 5000);
                self.later(host, delay, Input::Request { client, request, poison });
            }
        }
    }

    pub fn answer(&mut self, host: usize, client: usize, request: u64, at: usize, entry: Entry, lineage: u64) {
        if self.service_cut[host] || self.rng.one_in(50) {
            return;
        }
        let delay = self.rng.range(50, 5000);
        self.push(self.now + delay, Happening::ClientGets { client, request, at, entry, lineage });
    }

    pub fn announce(&mut self, host: usize) {
        if !self.service_cut[host] && !self.rng.one_in(10) {
            self.address_at = Some(host);
        }
    }

    // Faults.

    fn fault(&mut self) -> Result<(), Violation> {
        if self.quiet_since.is_some() {
            return Ok(());
        }
        let gap = self.rng.range(self.fault_gap / 10, self.fault_gap * 2);
        self.push(self.now + gap, Happening::Fault);
        let kind = self.faults[self.rng.range(0, self.faults.len() as u64) as usize];
        let host = self.rng.range(0, HOSTS as u64) as usize;
        let long = if self.rng.one_in(3) { self.rng.range(300, 2000) } else { self.rng.range(5, 400) } * MS;
        self.note(|| format!("FAULT {kind:?} host {host} {} ms", long / MS));
        match kind {
            Fault::KillEngine | Fault::KillHost => self.kill(host, kind == Fault::KillEngine),
            Fault::KillGuest => self.later(host, 0, Input::GuestKilled),
            Fault::Freeze | Fault::FreezeUncounted => {
                let h = &mut self.hosts[host];
                if h.machine.is_some() && h.frozen.is_none() {
                    h.freeze(self.now, kind == Fault::Freeze);
                    if self.without(Without::GuardWaits) {
                        self.guard_speaks(host);
                    }
                    self.push(self.now + long, Happening::Thaw { host });
                }
            }
            Fault::LinkCut | Fault::LinkHalfCut => self.cut_link(kind == Fault::LinkCut, host, long),
            Fault::LinkReset => {
                let epoch = self.link.epoch;
                for h in 0..HOSTS {
                    // What hasn't arrived yet may be lost with it.
                    let after = self.rng.range(10, 40 * MS);
                    self.later(h, after, Input::LinkDown { epoch, end: LinkEnd::Closed });
                }
            }
            Fault::LinkLost => self.lose_link(host),
            Fault::LinkSlow => self.link.slow_until[host] = self.now + long,
            Fault::ServiceCut => self.cut_service(host, long),
            Fault::BothCut => {
                self.cut_link(true, host, long);
                self.cut_service(host, long);
            }
            Fault::ArbiterDown => {
                if !self.arbiter.down {
                    self.arbiter.down = true;
                    self.push(self.now + long, Happening::ArbiterBack);
                }
            }
            Fault::Diverge => self.later(host, 0, Input::Diverged),
            Fault::FailDisk => self.later(host, 0, Input::DiskFailed),
            Fault::Lag => self.later(host, 0, Input::Lags),
            Fault::Poison => {}
            Fault::Switchover => self.later(host, 0, Input::Operator(Command::Switchover)),
            Fault::Pause => self.later(host, 0, Input::Operator(Command::Pause)),
            Fault::Resume => self.later(host, 0, Input::Operator(Command::Resume)),
            Fault::Detach => self.later(host, 0, Input::Operator(Command::Detach)),
            Fault::Force => {
                if self.hosts[1 - host].machine.is_none() {
                    self.later(host, 0, Input::Operator(Command::Force));
                }
            }
        }
        Ok(())
    }

    /// `both`: both ways, else only what `host` says is lost.
    fn cut_link(&mut self, both: bool, host: usize, long: Micros) {
        for from in 0..HOSTS {
            if !self.link.cut[from] && (both || from == host) {
                self.link.cut[from] = true;
                self.push(self.now + long, Happening::LinkHeals { from });
            }
            if both && self.rng.one_in(3) {
                self.lose_link(from);
            }
        }
    }

    fn cut_service(&mut self, host: usize, long: Micros) {
        if self.service_cut[host] {
            return;
        }
        self.service_cut[host] = true;
        let after = self.rng.range(20, 150) * MS;
        self.later(host, after, Input::ProbeService);
        self.push(self.now + long, Happening::ServiceHeals { host });
    }

    fn lose_link(&mut self, host: usize) {
        if let Some(epoch) = self.hosts[host].link {
            let after = self.rng.range(10, 10 * MS);
            self.later(host, after, Input::LinkDown { epoch, end: LinkEnd::Lost });
        }
    }

    /// `kernel_lives`: the peer hears that the link is closed.
    fn kill(&mut self, host: usize, kernel_lives: bool) {
        if self.hosts[host].machine.is_none() {
            return;
        }
        let epoch = self.hosts[host].link;
        if kernel_lives {
            self.guard_speaks(host);
        }
        self.hosts[host].die();
        if let (Some(epoch), true) = (epoch, kernel_lives) {
            self.link_input(host, epoch, Input::LinkDown { epoch, end: LinkEnd::Closed });
        }
        if self.rng.one_in(4) {
            self.dead[host] = true;
            if self.dead == [true; HOSTS] {
                self.dead[host] = false;
            }
        }
        if !self.dead[host] {
            let after = self.rng.range(20, 1500) * MS;
            self.push(self.now + after, Happening::Restart { host });
        }
    }

    /// To the other host: that this one's process is dead, and its gate shut.
    fn guard_speaks(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let delay = match self.rng.range(0, 10) {
            0..2 => return,
            2 => self.rng.range(5, 400) * MS,
            _ => self.rng.range(50, 3000),
        };
        self.later(1 - host, delay, Input::PeerDead { life });
    }

    /// A process that failed for good is started again by its supervisor.
    pub fn supervise(&mut self, host: usize) {
        let after = self.rng.range(100, 500) * MS;
        self.close_link(host);
        self.hosts[host].die();
        self.push(self.now + after, Happening::Restart { host });
    }

    fn restart(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].machine.is_some() {
            return Ok(());
        }
        self.hosts[host].boot(self.kind);
        self.note(|| format!("{host} starts"));
        self.host_event(host, Event::Start)?;
        self.later(host, 0, Input::Tick);
        self.later(host, MS, Input::ProbeService);
        Ok(())
    }

    fn thaw(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].frozen.is_none() {
            return Ok(());
        }
        let paused_ms = self.hosts[host].unfreeze(self.now);
        self.note(|| format!("{host} thaws, {paused_ms} ms by its clock"));
        let life = self.hosts[host].life;
        if paused_ms > timing().lease_ms {
            self.host_event(host, Event::Thawed)?;
        }
        // Timers are looked at before or after what came in; the order of what came in stays.
        let inbox = std::mem::take(&mut self.hosts[host].inbox);
        let timers_first = self.rng.one_in(2);
        let (timers, rest): (Vec<_>, Vec<_>) =
            inbox.into_iter().partition(|i| matches!(i, Input::Timer { .. } | Input::ArbiterDeadline { .. }));
        let (first, second) = if timers_first { (timers, rest) } else { (rest, timers) };
        for input in first.into_iter().chain(second) {
            self.deliver(host, life, input)?;
        }
        Ok(())
    }

    fn all_heals(&mut self) -> Result<(), Violation> {
        self.note(|| "everything heals".to_owned());
        self.quiet_since = Some(self.now);
        self.takeovers_before = self.checker.takeovers;
        if self.faults.contains(&Fault::ServiceCut) && self.rng.one_in(2) {
            let host = self.rng.range(0, HOSTS as u64) as usize;
            self.note(|| format!("the service network of {host} is cut for good"));
            self.cut_for_good = Some(host);
            self.service_cut[host] = true;
            self.later(host, 50 * MS, Input::ProbeService);
        }
        self.faults.clear();
        self.arbiter.down = false;
        self.link.slow_until = [0; HOSTS];
        for host in 0..HOSTS {
            if self.link.cut[host] {
                self.heal_link(host);
            }
            if self.service_cut[host] {
                self.heal_service(host);
            }
            self.thaw(host)?;
            self.later(host, 0, Input::Operator(Command::Resume));
        }
        self.push(self.now + PROBE_EVERY, Happening::Probe);
        Ok(())
    }

    fn probe(&mut self) -> Result<Option<Summary>, Violation> {
        let quiet = self.quiet_since.unwrap_or(self.now);
        let kinds = [0, 1].map(|h| self.hosts[h].kind());
        let alive = [0, 1].map(|h| self.hosts[h].machine.is_some());
        let record = self.arbiter.record;
        // Who could serve: both hosts, or one that the arbiter counts on and that has the state, or owns what was lost.
        let could = |h: usize| {
            record.is_some_and(|r| {
                let id = HostId(h as u64 + 1);
                r.ruling.in_sync.contains(id)
                    && (self.hosts[h].truth().holds_state
                        || r.ruling.owner == id && !r.ruling.in_sync.contains(HostId(2 - h as u64)))
            })
        };
        let votes = self.kind == ArbiterKind::Votes;
        let reaches = |h: usize| self.cut_for_good != Some(h);
        let expected = votes && (alive == [true, true] || (0..HOSTS).any(|h| alive[h] && could(h) && reaches(h)));
        let served = self.clients.iter().all(|c| c.since > quiet + PROBE_EVERY);
        let protected = kinds.contains(&Some(Kind::PrimaryPaired)) && kinds.contains(&Some(Kind::Backup));
        let view = |record: Option<Record>| record.map_or("none".to_owned(), |r| show(&r));
        let wrong = expected && !served || votes && alive == [true, true] && !protected;
        if wrong && self.now < quiet + QUIET {
            self.push(self.now + PROBE_EVERY, Happening::Probe);
            return Ok(None);
        }
        if expected && !served {
            return Err(Violation::Liveness(format!("nobody serves: {kinds:?}, record {}", view(record))));
        }
        let after = self.checker.takeovers - self.takeovers_before;
        if after > TAKEOVERS_AFTER_MAX {
            return Err(Violation::Liveness(format!("{after} takeovers after everything had healed")));
        }
        if votes && alive == [true, true] && !protected {
            return Err(Violation::Liveness(format!("not protected: {kinds:?}, record {}", view(record))));
        }
        Ok(Some(Summary {
            answers: self.checker.answers,
            takeovers: self.checker.takeovers,
            cold_starts: self.checker.cold_starts,
            stale_sends: self.checker.stale_sends,
            releases: self.checker.releases,
            steps: self.steps,
            expected_service: expected,
        }))
    }
}

pub fn show(r: &Record) -> String {
    let phase = match r.ruling.phase {
        Phase::Claim => "claim",
        Phase::Live => "live",
    };
    let set: Vec<String> = r.ruling.in_sync.iter().map(|m| (m.0 - 1).to_string()).collect();
    format!(
        "v{} term {} owner {} {} {{{}}}",
        r.version.0,
        r.ruling.term.0,
        r.ruling.owner.0 - 1,
        phase,
        set.join(",")
    )
}
