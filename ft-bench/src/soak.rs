//! `ft-bench soak`: a pair under mixed load for long. Nothing may happen: no divergence, no takeover, no leak, no event.
//!
//! Law: what is compared is the end with the time after the warm-up, both as medians of many samples, so that neither a
//! burst nor a slow start looks like a leak, and a leak that is small but steady does if the run is long.

use crate::Format;
use crate::memory;
use crate::mix;
use crate::rig::child::{Child, Stop, Words};
use crate::rig::{self, BACKUP, Ft, ON_DISK, PRIMARY, Rig, redis};
use crate::tables::{short, table};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between samples: so many in a run, and not more often.
const SAMPLES: u32 = 240;
const SAMPLE_EVERY_MIN: Duration = Duration::from_millis(250);
const PROGRESS_EVERY: Duration = Duration::from_secs(60);
/// After the load's end, for clients in the middle of something.
const CLIENTS_END_MAX: Duration = Duration::from_secs(90);
/// Quarters of the run that are compared: the second and the last.
const QUARTERS: usize = 4;
const MIB: f64 = 1024.0 * 1024.0;
const REDIS: [&str; 4] = ["--enable-debug-command", "yes", "--maxclients", "1000"];

#[derive(Args)]
pub struct SoakArgs {
    /// How long to load the pair.
    #[arg(long, conflicts_with = "seconds", required_unless_present = "seconds")]
    minutes: Option<f64>,
    /// How long to load the pair.
    #[arg(long)]
    seconds: Option<f64>,
    /// Decides what each client does (0 to draw one); it is printed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `limits.silence_ms_max` of the pair, if not the default: for machines that are busy with other things.
    #[arg(long, value_name = "MS")]
    silence_ms: Option<u32>,
    /// `json`: one object with every sample; the table goes to stderr.
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

/// The mixed load alone, on a server that runs: what `soak` runs in the clients' network.
#[derive(Args)]
pub struct MixArgs {
    server: SocketAddr,
    #[arg(long)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the clients say last.
#[derive(Debug, Serialize, Deserialize)]
struct Mixed {
    requests: u64,
    faults: Vec<String>,
}

/// Of one host at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Sample {
    engine_bytes: u64,
    engine_fds: u64,
    shim_bytes: u64,
    guest_bytes: u64,
    guest_fds: u64,
}

/// What may grow by how much, between the quarters.
struct Grows {
    name: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> f64,
    most: f64,
}

/// The server's memory is mostly its data, which comes and goes; all else is ours. The engine's buffers grow to what the
/// largest burst so far has needed, and stay.
const GROWTH: [Grows; 5] = [
    Grows { name: "engine memory", unit: "MiB", of: |s| s.engine_bytes as f64 / MIB, most: 16.0 },
    Grows { name: "engine descriptors", unit: "", of: |s| s.engine_fds as f64, most: 60.0 },
    Grows { name: "shim and rings", unit: "MiB", of: |s| s.shim_bytes as f64 / MIB, most: 8.0 },
    Grows { name: "server memory", unit: "MiB", of: |s| s.guest_bytes as f64 / MIB, most: 64.0 },
    Grows { name: "server descriptors", unit: "", of: |s| s.guest_fds as f64, most: 60.0 },
];

#[derive(Debug, Serialize)]
struct Growth {
    host: &'static str,
    what: &'static str,
    unit: &'static str,
    before: f64,
    after: f64,
    most: f64,
}

#[derive(Serialize)]
struct Results {
    ok: bool,
    seed: u64,
    seconds: f64,
    requests: u64,
    growth: Vec<Growth>,
    failures: Vec<String>,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

/// `ft-bench soak`.
pub fn run(a: &SoakArgs) -> ExitCode {
    let seconds = a.minutes.map(|m| m * 60.0).or(a.seconds).unwrap_or_default();
    let prepared = || {
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|t| *t >= SAMPLE_EVERY_MIN * 16);
        let time = time.ok_or_else(|| format!("a time of {seconds} s makes no sense: 4 s at least"))?;
        let program = crate::ft_program(a.ft.as_deref()).map_err(|e| e.to_string())?;
        let stop = Stop::on_signals().map_err(|e| format!("catching signals: {e}"))?;
        Ok::<_, String>((time, Ft { program, stop }))
    };
    let (time, ft) = match prepared() {
        Ok(p) => p,
        Err(e) => return crate::usage(&e),
    };
    match a.soak(&ft, time) {
        Ok(r) => crate::print(a.output, &text(&r), &r, r.ok),
        Err(e) => crate::stopped(&e),
    }
}

/// `ft-bench mix`.
pub fn mix(a: &MixArgs) -> ExitCode {
    let Ok(time) = Duration::try_from_secs_f64(a.seconds) else {
        return crate::usage(&format!("a time of {} s makes no sense", a.seconds));
    };
    let load = match mix::Load::start(a.server, a.seed, time, &[]) {
        Ok(l) => l,
        Err(e) => return crate::usage(&e),
    };
    let end = Instant::now() + time + CLIENTS_END_MAX;
    while !load.is_finished() && !load.failed() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut faults = Vec::new();
    if !load.is_finished() && !load.failed() {
        faults.push(format!("clients still wait {} s after the end", CLIENTS_END_MAX.as_secs()));
    }
    let tally = load.join();
    faults.extend(tally.faults);
    println!("{}", serde_json::to_string(&Mixed { requests: tally.requests, faults }).expect("plain numbers and text"));
    ExitCode::SUCCESS
}

impl SoakArgs {
    fn soak(&self, ft: &Ft, time: Duration) -> io::Result<Results> {
        crate::check_root()?;
        rig::remove_orphans(ft)?;
        let seed = if self.seed == 0 { fastrand::u64(1..) } else { self.seed };
        let config = self.silence_ms.map_or_else(String::new, |ms| format!("[limits]\nsilence_ms_max = {ms}\n"));
        let rig = Rig::up(ft, &[], &config, &redis(&[&ON_DISK[..], &REDIS].concat()), Words::Kept)?;
        let before = Standing::of(&rig)?;
        let arguments = [
            "mix".into(),
            rig.service().to_string(),
            format!("--seconds={}", time.as_secs_f64()),
            format!("--seed={seed}"),
        ];
        eprintln!("seed {seed}, {:.0} s of mixed load", time.as_secs_f64());
        let mut clients = rig.start_client(&arguments, Words::Kept)?;
        let mut failures = Vec::new();
        let samples = watch(&rig, ft, time, &mut clients).unwrap_or_else(|e| {
            failures.push(format!("a host can't be looked at any more: {e}"));
            BTreeMap::new()
        });
        ft.stop.check()?;
        let mixed = finish(clients)?;
        failures.extend(mixed.faults);
        failures.extend(Standing::of(&rig)?.moved_since(&before));
        failures.extend(news(&rig, &before));
        let growth: Vec<Growth> = samples.iter().flat_map(|(host, all)| growth(host, all)).collect();
        failures.extend(growth.iter().filter(|g| g.after - g.before > g.most).map(|g| {
            format!("{} of {} grew from {} to {} {}", g.what, g.host, short(g.before), short(g.after), g.unit)
        }));
        if growth.is_empty() {
            failures.push("too little was seen of the hosts to tell whether anything grows".into());
        }
        let seconds = time.as_secs_f64();
        Ok(Results { ok: failures.is_empty(), seed, seconds, requests: mixed.requests, growth, failures, samples })
    }
}

fn finish(clients: Child) -> io::Result<Mixed> {
    let said = clients.finish(2 * CLIENTS_END_MAX)?.concat();
    serde_json::from_str(&said).map_err(|e| io::Error::other(format!("what the clients said: {e}: {said}")))
}

/// Until the time is over, or the load has ended before.
fn watch(rig: &Rig, ft: &Ft, time: Duration, clients: &mut Child) -> io::Result<BTreeMap<&'static str, Vec<Sample>>> {
    let every = (time / SAMPLES).max(SAMPLE_EVERY_MIN);
    let begin = Instant::now();
    let mut next_word = begin + PROGRESS_EVERY;
    let mut all: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
    let mut next = begin;
    while begin.elapsed() < time && clients.is_at_work() {
        for host in [PRIMARY, BACKUP] {
            all.entry(host).or_default().push(sample(rig, host)?);
        }
        if Instant::now() >= next_word {
            next_word += PROGRESS_EVERY;
            eprintln!("{:5.0} s  nothing has happened", begin.elapsed().as_secs_f64());
        }
        next += every;
        ft.stop.sleep_until(next)?;
    }
    Ok(all)
}

fn sample(rig: &Rig, host: &str) -> io::Result<Sample> {
    let p = rig.pids(host)?;
    let (guest, engine) = p.guest.zip(p.engine).ok_or_else(|| io::Error::other(format!("{host} has no pair of processes")))?;
    let m = memory::of(guest, engine)?;
    let fds = |pid: i32| Ok::<_, io::Error>(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64);
    Ok(Sample {
        engine_bytes: m.engine,
        engine_fds: fds(engine)?,
        shim_bytes: m.shim,
        guest_bytes: m.guest,
        guest_fds: fds(guest)?,
    })
}

/// How the pair stands.
struct Standing {
    term: Option<u64>,
    shown: String,
    is_pair: bool,
    /// The last event of each host.
    seq: BTreeMap<&'static str, u64>,
}

impl Standing {
    fn of(rig: &Rig) -> io::Result<Self> {
        let (p, b) = (rig.host(PRIMARY)?, rig.host(BACKUP)?);
        let is = |s: &Option<String>, what: &str| s.as_deref() == Some(what);
        let last = |host: &'static str| (host, rig.events(host).last().map_or(0, |e| e.seq));
        Ok(Self {
            term: p.term,
            shown: format!("{p:?}, {b:?}"),
            is_pair: is(&p.role, "primary") && is(&p.state, "protected") && is(&b.role, "backup"),
            seq: [PRIMARY, BACKUP].map(last).into(),
        })
    }

    fn moved_since(&self, before: &Self) -> Option<String> {
        let same = self.is_pair && self.term == before.term;
        (!same).then(|| format!("the pair is not what it was: {}; was {}", self.shown, before.shown))
    }
}

/// What the hosts noted since; a pair that only serves has nothing to tell.
fn news(rig: &Rig, before: &Standing) -> Vec<String> {
    let of_host = |host: &'static str| {
        let since = before.seq.get(host).copied().unwrap_or_default();
        let fresh = rig.events(host).into_iter().filter(move |e| e.seq > since);
        fresh.map(move |e| format!("{host} noted: {}", e.event))
    };
    [PRIMARY, BACKUP].into_iter().flat_map(of_host).collect()
}

fn growth(host: &'static str, all: &[Sample]) -> Vec<Growth> {
    let quarter = all.len() / QUARTERS;
    if quarter == 0 {
        return Vec::new();
    }
    let (early, late) = (&all[quarter..2 * quarter], &all[all.len() - quarter..]);
    let of = |g: &Grows| Growth {
        host,
        what: g.name,
        unit: g.unit,
        before: median(early.iter().map(g.of)),
        after: median(late.iter().map(g.of)),
        most: g.most,
    };
    GROWTH.iter().map(of).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn text(r: &Results) -> String {
    let mut t = table(&["host", "what", "unit", "2nd quarter", "last quarter", "may grow by"], 3);
    for g in &r.growth {
        t.add_row([g.host, g.what, g.unit, &short(g.before), &short(g.after), &short(g.most)]);
    }
    let mut parts = vec![t.to_string()];
    let ran = format!("{} requests in {:.0} s, seed {}", r.requests, r.seconds, r.seed);
    parts.push(if r.ok { format!("{ran}: nothing happened.") } else { ran });
    parts.extend(r.failures.iter().map(|f| format!("FAILED: {f}")));
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(engine_bytes: u64) -> Sample {
        Sample { engine_bytes, engine_fds: 60, shim_bytes: 0, guest_bytes: 0, guest_fds: 30 }
    }

    #[test]
    fn growth_is_from_the_second_quarter_to_the_last() {
        // The first quarter's start, and one burst, count for nothing.
        let mut all: Vec<Sample> = (0..40).map(|k| sample((10 + k / 4) << 20)).collect();
        all[0] = sample(900 << 20);
        all[38] = sample(900 << 20);
        let g = &growth("alpha", &all)[0];
        assert_eq!((g.before, g.after, g.what), (13.0, 18.0, "engine memory"));
        assert!(growth("alpha", &all[..3]).is_empty());
    }
}
