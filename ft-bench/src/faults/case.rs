//! One case: a fresh pair, a load, the fault, and what came of it.

use super::frames::{Capture, Sent, Turn, turns, two_senders};
use super::plan::{Case, Outcome, Victim};
use crate::clients::Clients;
use crate::outage;
use crate::rig::child::Words;
use crate::rig::{BACKUP, Fault, Ft, HostStatus, ON_DISK, PRIMARY, Rig, TAPPED, redis};
use crate::verify::Tally;
use ft_runtime::pair::status::{Event, Milestone};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

const WITNESS: &str = "witness";
/// A pair that must last, on a busy machine and over a link that loses frames. With it a host that is silent for the
/// default bound is not given up.
const PATIENT: &str = "[limits]\nsilence_ms_max = 1000\n";
/// Room of a disk that can be filled.
const DISK_MIB: &str = "64";
/// For the hosts to have become what they must be.
const SETTLED_MAX: Duration = Duration::from_secs(30);
const SETTLED_POLL: Duration = Duration::from_millis(50);
/// A host that was given up says nothing for so long after it has come back.
const SILENT_FOR: Duration = Duration::from_millis(500);

/// What came of a case.
#[derive(Debug, Serialize)]
pub struct Ended {
    pub number: u32,
    pub kind: &'static str,
    pub ok: bool,
    pub acknowledged: u64,
    /// From the fault to the survivor's `detected`.
    pub detected_ms: Option<f64>,
    /// From the survivor's `detected` to its `live`.
    pub takeover_ms: Option<f64>,
    /// The longest time in which no client was answered, of those that the fault began.
    pub silence_ms: Option<f64>,
    /// From the first byte of the service's state for the other host until that is the backup.
    pub reseed_ms: Option<f64>,
    pub lost: u64,
    pub doubled: u64,
    /// Connections that broke or on which no reply came any more.
    pub reset: u32,
    pub two_senders: bool,
    pub failures: Vec<String>,
}

/// What was seen.
struct Seen {
    fault: Option<Fault>,
    tally: Tally,
    turns: Vec<Turn>,
    hosts: Vec<HostStatus>,
    survivor_events: Vec<Event>,
    /// Before the fault.
    term: Option<u64>,
}

/// Runs a case; what a failed one left to look at lies in `evidence` then.
pub fn run(ft: &Ft, case: &Case, evidence: &Path) -> io::Result<Ended> {
    let options: &[&str] = if case.kind.small_disks { &["--disk", DISK_MIB] } else { &[] };
    let rig = Rig::up(ft, options, &config(case), &redis(&ON_DISK), Words::Kept)?;
    let seen = watch(&rig, case);
    ft.stop.check()?;
    let ended = match seen {
        Ok(seen) => judge(case, &seen),
        Err(e) => Ended::failed(case, vec![format!("{e}; {}", rig.last_events())]),
    };
    if !ended.ok {
        keep(&rig, case, &ended, evidence)?;
    }
    Ok(ended)
}

impl Ended {
    fn failed(case: &Case, failures: Vec<String>) -> Self {
        Self {
            number: case.number,
            kind: case.kind.name,
            ok: false,
            acknowledged: 0,
            detected_ms: None,
            takeover_ms: None,
            silence_ms: None,
            reseed_ms: None,
            lost: 0,
            doubled: 0,
            reset: 0,
            two_senders: false,
            failures,
        }
    }
}

/// Where nothing may move, a busy machine must not move it either.
fn config(case: &Case) -> String {
    let patient = if case.kind.outcome == Outcome::Unmoved { PATIENT } else { "" };
    let tapped = if case.kind.tap { TAPPED } else { "" };
    [patient, tapped].concat()
}

fn watch(rig: &Rig, case: &Case) -> io::Result<Seen> {
    let switch = rig.up.namespaces.get("switch").ok_or_else(|| io::Error::other("ft rig up names no switch"))?;
    let capture = Capture::start(switch, [PRIMARY, BACKUP], rig.addresses())?;
    let mut clients = Clients::start(rig, &case.load)?;
    let began = clients.began();
    clients.work_until(began + case.fault_at, |_| {})?;
    let term = pair(rig)?;
    let host = name(case.kind.victim);
    let fault = case.kind.fault.map(|f| rig.happen(host, f)).transpose()?;
    if let Some((victim, also)) = case.kind.also {
        rig.happen(name(victim), also)?;
    }
    if let Some(at) = case.heal_at {
        clients.work_until(began + at, |_| {})?;
        for (victim, heal) in case.kind.heal {
            rig.happen(name(*victim), heal)?;
        }
    }
    let tally = clients.finish(|_| {})?;
    let hosts = settle(rig, case)?;
    let survivor_events = rig.events(serves(case));
    let sent: Vec<Sent> = capture.finish()?;
    Ok(Seen { fault, tally, turns: turns(&sent), hosts, survivor_events, term })
}

fn name(v: Victim) -> &'static str {
    match v {
        Victim::Primary => PRIMARY,
        Victim::Backup => BACKUP,
        Victim::Witness => WITNESS,
    }
}

/// The term of the pair. A fault shows nothing where one host serves alone already.
fn pair(rig: &Rig) -> io::Result<Option<u64>> {
    let hosts = rig.hosts()?;
    let is = |name: &str, role: &str| hosts.iter().any(|h| h.host == name && h.role.as_deref() == Some(role));
    if is(PRIMARY, "primary") && is(BACKUP, "backup") {
        return Ok(hosts.iter().find(|h| h.is_primary()).and_then(|h| h.term));
    }
    Err(io::Error::other("the hosts are no pair any more, before any fault: one was not heard for too long"))
}

/// Who must serve in the end.
fn serves(case: &Case) -> &'static str {
    if case.kind.outcome == Outcome::TakenOver { BACKUP } else { PRIMARY }
}

/// The hosts as they are once they are what they must be; or in the end, when they have not become it.
fn settle(rig: &Rig, case: &Case) -> io::Result<Vec<HostStatus>> {
    let end = Instant::now() + SETTLED_MAX;
    loop {
        let hosts = rig.hosts()?;
        if wrong_roles(case, &hosts).is_none() {
            // Who was given up must stay silent, not only be so.
            std::thread::sleep(SILENT_FOR);
            return rig.hosts();
        }
        if Instant::now() > end {
            return Ok(hosts);
        }
        std::thread::sleep(SETTLED_POLL);
    }
}

/// Exactly one host serves, the right one, as it must; why not.
fn wrong_roles(case: &Case, hosts: &[HostStatus]) -> Option<String> {
    let shown = || {
        let each = hosts.iter().map(|h| {
            let text = |s: &Option<String>| s.clone().unwrap_or_else(|| "-".into());
            format!("{}: {} {}", h.host, text(&h.role), text(&h.state))
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let primaries: Vec<&HostStatus> = hosts.iter().filter(|h| h.is_primary()).collect();
    let [one] = primaries[..] else {
        return Some(format!("{} hosts are primary: {}", primaries.len(), shown()));
    };
    if one.host != serves(case) {
        return Some(format!("{} serves, and {} should: {}", one.host, serves(case), shown()));
    }
    let follows = hosts.iter().any(|h| h.role.as_deref() == Some("backup"));
    if one.state.as_deref() != Some("protected") || !follows {
        return Some(format!("the service should be protected: {}", shown()));
    }
    None
}

fn judge(case: &Case, seen: &Seen) -> Ended {
    let (t, v) = (&seen.tally, seen.tally.verdict);
    let mut failures = t.errors.clone();
    let mut fail = |is: bool, what: String| {
        if is {
            failures.push(what);
        }
    };
    let reset = t.reset + t.stalled + t.idle_lost;
    fail(v.lost > 0, format!("{} acknowledged writes are lost", v.lost));
    fail(v.doubled > 0, format!("{} writes were done twice", v.doubled));
    fail(v.wrong > 0, format!("{} replies or items are wrong", v.wrong));
    fail(v.unverified > 0, format!("{} acknowledged writes could not be read back", v.unverified));
    fail(
        reset > 0,
        format!("connections: {} reset, {} without a reply, {} idle ones dead", t.reset, t.stalled, t.idle_lost),
    );
    fail(t.server[0] != t.server[1], format!("another server answers: {}, was {}", t.server[1], t.server[0]));
    fail(t.acknowledged == 0, "nothing was acknowledged".into());
    let two = two_senders(&seen.turns);
    failures.extend(two.clone());
    failures.extend(wrong_roles(case, &seen.hosts));
    failures.extend(wrong_sender(case, &seen.turns));
    let term = seen.hosts.iter().find(|h| h.is_primary()).and_then(|h| h.term);
    let reseeded = seen.survivor_events.iter().any(|e| e.milestone == Some(Milestone::Seeding));
    if case.kind.outcome != Outcome::TakenOver && term != seen.term {
        failures.push(format!("the term was {:?} and is {term:?}: something has moved", seen.term));
    }
    if reseeded == (case.kind.outcome == Outcome::Unmoved) {
        failures.push(format!("the other host was given the service's state: {reseeded}"));
    }
    let fault_us = seen.fault.as_ref().map(Fault::at_us);
    let mark = |m: Milestone| {
        let since = seen.survivor_events.iter().filter(|e| fault_us.is_some_and(|f| e.at_us >= f));
        since.filter(|e| e.milestone == Some(m)).map(|e| e.at_us).next()
    };
    let ms = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?) as f64 / 1e3);
    let (detected, live) = (mark(Milestone::Detected), mark(Milestone::Live));
    // Of the attempt that came to its end.
    let last = |m| seen.survivor_events.iter().filter(|e| e.milestone == Some(m)).map(|e| e.at_us).next_back();
    let whole = last(Milestone::Protected).filter(|_| reseeded);
    if case.kind.outcome == Outcome::TakenOver && (detected.is_none() || live.is_none()) {
        failures.push(format!("{BACKUP} did not note how it took over"));
    }
    let first = fault_us.and_then(|f| outage::first_byte(f, outage::restored_us(f, &seen.survivor_events), &t.samples));
    let silence = first.map(|f| f.silence_us as f64 / 1e3);
    Ended {
        number: case.number,
        kind: case.kind.name,
        ok: failures.is_empty(),
        acknowledged: t.acknowledged,
        detected_ms: ms(fault_us, detected),
        takeover_ms: ms(detected, live),
        silence_ms: silence,
        reseed_ms: ms(last(Milestone::Seeding), whole),
        lost: v.lost,
        doubled: v.doubled,
        reset,
        two_senders: two.is_some(),
        failures,
    }
}

/// Who spoke last is who serves, and nobody else spoke but who served before.
fn wrong_sender(case: &Case, turns: &[Turn]) -> Option<String> {
    let spoke: Vec<&str> = turns.iter().map(|t| t.by).collect();
    let must: &[&str] = if case.kind.outcome == Outcome::TakenOver { &[PRIMARY, BACKUP] } else { &[PRIMARY] };
    (spoke != must).then(|| format!("who sent from the service's address, in turn: {spoke:?}, and not {must:?}"))
}

/// What the hosts logged and noted, and what was found.
fn keep(rig: &Rig, case: &Case, ended: &Ended, evidence: &Path) -> io::Result<()> {
    fs::create_dir_all(evidence)?;
    for (host, log) in &rig.up.logs {
        fs::copy(log, evidence.join(format!("{host}.log")))?;
    }
    for host in [PRIMARY, BACKUP] {
        let lines = rig.events(host).iter().map(|e| format!("{} {}\n", e.at_us, e.event)).collect::<String>();
        fs::write(evidence.join(format!("{host}.events")), lines)?;
    }
    fs::write(evidence.join("case.txt"), format!("{case:#?}\n{ended:#?}\n"))
}
