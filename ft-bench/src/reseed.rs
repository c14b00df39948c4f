//! `ft-bench reseed`: how long a pair takes to be whole again after it has lost its backup, and to change its roles, and what
//! clients notice of that.
//!
//! Law: what clients wait is set beside what they waited just before, on the same pair, for as long.

use crate::figures::{self, Figures};
use crate::lines::{Demand, Line};
use crate::load::{Outage, Report, Span};
use crate::rig::child::{Child, Words};
use crate::rig::{self, BACKUP, Ft, IN_MEMORY, PRIMARY, Rig, redis};
use crate::{Format, check_root};
use clap::Args;
use ft_runtime::pair::status::{Event, Milestone};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const RATE: u32 = 10_000;
const CONNECTIONS: u32 = 50;
/// Of a value with which the server is filled.
const VALUE_BYTES: u64 = 1000;
/// A key, its entry in the table, and what the allocator adds.
const KEY_BYTES: u64 = 1150;
const WARM_UP: Duration = Duration::from_millis(500);
/// For one transfer, at the most; and so long clients are watched before it.
const SMALL_MAX: Duration = Duration::from_secs(5);
const LARGE_MAX: Duration = Duration::from_secs(30);
const LARGE_MIB: u64 = 500;
const POLL: Duration = Duration::from_millis(20);
const SETTLED: Duration = Duration::from_secs(2);
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// What is said of a wait that was not noted: it was shorter than a millisecond.
const NOTED_MS: f64 = 1.0;

#[derive(Args)]
pub struct ReseedArgs {
    /// Fail if a figure falls short of what is demanded.
    #[arg(long)]
    check: bool,
    /// What the server holds, in MB, comma-separated.
    #[arg(long, value_delimiter = ',', value_name = "MB", default_value = "100,1000")]
    sizes: Vec<u64>,
    /// How often the backup of each is lost.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=100))]
    rounds: u32,
    /// How often the service is moved to the other host.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1000))]
    switchovers: u32,
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

/// One transfer.
struct Reseeded {
    /// From its first byte until the other host is the backup.
    seconds: f64,
    /// Longest wait of a client meanwhile, and in as much time before.
    wait_ms: f64,
    before_ms: f64,
}

pub fn run(a: &ReseedArgs) -> ExitCode {
    figures::run(a.ft.as_deref(), a.output, NOTES, |ft| a.measure(ft))
}

const NOTES: &str = "\
The server is filled, asked for 10,000 SET per second by 50 connections, and its backup's process is killed. Seed: from the
first byte of the state for the other host until that is the backup; the killed one's way back (a quarter of a second) is not in
it. Wait added: the longest wait of a client in that time, less the longest in as much time before the kill. Switchover: the
longest wait of a client from the order until a second after.";

impl ReseedArgs {
    fn measure(&self, ft: &Ft) -> io::Result<Figures> {
        check_root()?;
        rig::remove_orphans(ft)?;
        let started = Instant::now();
        let say = |what: &str| eprintln!("{:5.0} s  {what}", started.elapsed().as_secs_f64());
        let (mut lines, mut failures) = (Vec::new(), Vec::new());
        for mb in &self.sizes {
            let mut seen = Vec::new();
            let rig = up(ft, "")?;
            fill(&rig, *mb, ft)?;
            for round in 0..self.rounds {
                let what = format!("{mb} MB, round {} of {}", round + 1, self.rounds);
                match reseed(&rig, *mb, ft) {
                    Ok(r) => {
                        say(&format!("{what}: {:.2} s, wait {:.1} ms, before {:.1} ms", r.seconds, r.wait_ms, r.before_ms));
                        seen.push(r);
                    }
                    Err(e) => {
                        ft.stop.check()?;
                        say(&format!("{what}: FAILED: {e}"));
                        failures.push(format!("{what}: {e}"));
                    }
                }
            }
            let large = *mb >= LARGE_MIB;
            let (seconds, ms) = if large { (12.0, 30.0) } else { (2.0, 10.0) };
            let of = |f: fn(&Reseeded) -> f64| seen.iter().map(f).collect::<Vec<_>>();
            lines.push(Line::median(format!("{mb} MB: seed"), "s", Demand::at_most(seconds), &of(|r| r.seconds)));
            let added = of(|r| r.wait_ms - r.before_ms);
            lines.push(Line::median(format!("{mb} MB: wait added"), "ms", Demand::at_most(ms), &added));
        }
        if self.switchovers > 0 {
            let waits = switchovers(self.switchovers, ft, &say, &mut failures)?;
            lines.push(Line::median("switchover: longest wait, p50", "ms", Demand::at_most(20.0), &waits));
            lines.push(Line::quantile("switchover: longest wait, max", "ms", Demand::at_most(100.0), 1.0, &waits));
        }
        Ok(Figures::new(self.check, started.elapsed(), lines, failures))
    }
}

pub fn up(ft: &Ft, config: &str) -> io::Result<Rig> {
    let options = [&IN_MEMORY[..], &["--enable-debug-command", "yes"]].concat();
    Rig::up(ft, &[], config, &redis(&options), Words::Kept)
}

pub fn fill(rig: &Rig, mb: u64, ft: &Ft) -> io::Result<()> {
    let (ip, keys) = (rig.service().ip().to_string(), (mb * 1_000_000 / KEY_BYTES).to_string());
    let size = VALUE_BYTES.to_string();
    let command = ["redis-cli", "-h", &ip, "DEBUG", "POPULATE", &keys, "key", &size].map(str::to_owned);
    let said = rig.start("client", "redis-cli", &command, Words::Kept)?.finish(WHOLE_MAX)?;
    if said != ["OK"] {
        return Err(io::Error::other(format!("the server could not be filled: {}", said.join(" "))));
    }
    // A machine that stood still over it may have moved the service, and that must be over.
    ft.stop.sleep(SETTLED)?;
    whole(rig, ft).map(|_| ())
}

/// Who serves, once the other host is its backup.
pub fn whole(rig: &Rig, ft: &Ft) -> io::Result<&'static str> {
    let end = Instant::now() + WHOLE_MAX;
    loop {
        let hosts = rig.hosts()?;
        let protected = hosts.iter().filter(|h| h.state.as_deref() == Some("protected")).count() == 2;
        for name in [PRIMARY, BACKUP] {
            if protected && hosts.iter().any(|h| h.host == name && h.is_primary()) {
                return Ok(name);
            }
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("the pair is not whole after {} s; {}", WHOLE_MAX.as_secs(), rig.last_events())));
        }
        ft.stop.sleep(POLL)?;
    }
}

fn load(rig: &Rig, time: Duration) -> io::Result<Child> {
    let arguments = [
        "load".to_owned(),
        rig.service().to_string(),
        format!("--connections={CONNECTIONS}"),
        format!("--rate={RATE}"),
        "--sets=100".into(),
        format!("--warm-up={}", WARM_UP.as_secs_f64()),
        format!("--seconds={}", time.as_secs_f64()),
        "--outage".into(),
    ];
    rig.start_client(&arguments, Words::Kept)
}

/// What clients saw.
fn finish(load: Child, time: Duration) -> io::Result<Outage> {
    let said = load.finish(WARM_UP + time + WHOLE_MAX)?;
    let report: Report = serde_json::from_str(said.last().map_or("", String::as_str)).map_err(io::Error::other)?;
    if report.errors > 0 || report.lost_connections > 0 || report.unanswered > 0 {
        return Err(io::Error::other(format!(
            "{} errors, {} connections lost, {} requests without an answer",
            report.errors, report.lost_connections, report.unanswered
        )));
    }
    report.outage.ok_or_else(|| io::Error::other("the load notes no waits"))
}

/// Of requests that were meant to be sent in that time.
fn longest_ms(waits: &[Span], time: std::ops::Range<u64>) -> f64 {
    let within = waits.iter().filter(|s| time.contains(&s.begin));
    within.map(|s| s.length() as f64 / 1e3).fold(NOTED_MS, f64::max)
}

fn reseed(rig: &Rig, mb: u64, ft: &Ft) -> io::Result<Reseeded> {
    let serves = whole(rig, ft)?;
    let loses = if serves == PRIMARY { BACKUP } else { PRIMARY };
    let most = if mb >= LARGE_MIB { LARGE_MAX } else { SMALL_MAX };
    let before = most / 3;
    let clients = load(rig, before + most)?;
    ft.stop.sleep(WARM_UP + before)?;
    let fault_us = rig.fault(loses, "kill-guest")?.at_us();
    let seen = finish(clients, before + most)?;
    let events = rig.events(serves);
    let first = |m: Milestone, since: u64| {
        events.iter().filter(|e: &&Event| e.at_us >= since && e.milestone == Some(m)).map(|e| e.at_us).next()
    };
    let begin = first(Milestone::Seeding, fault_us);
    let (Some(begin), Some(end)) = (begin, begin.and_then(|at| first(Milestone::Protected, at))) else {
        return Err(io::Error::other(format!("not protected again within {} s; {}", most.as_secs(), rig.last_events())));
    };
    let time = end - begin;
    Ok(Reseeded {
        seconds: time as f64 / 1e6,
        wait_ms: longest_ms(&seen.waits, begin..end),
        before_ms: longest_ms(&seen.waits, fault_us.saturating_sub(time)..fault_us),
    })
}

/// From the order until so long after it; then the pair may be whole again.
const SWITCHOVER_WINDOW: Duration = Duration::from_secs(1);
/// Clients of so many are the same.
const PER_LOAD: u32 = 10;
const LOAD_MAX: Duration = Duration::from_secs(40);

fn switchovers(count: u32, ft: &Ft, say: &dyn Fn(&str), failures: &mut Vec<String>) -> io::Result<Vec<f64>> {
    let rig = up(ft, "")?;
    let mut waits = Vec::new();
    let mut done = 0;
    while done < count {
        whole(&rig, ft)?;
        let clients = load(&rig, LOAD_MAX)?;
        let end = Instant::now() + LOAD_MAX;
        ft.stop.sleep(2 * WARM_UP)?;
        let mut orders = Vec::new();
        while done < count && orders.len() < PER_LOAD as usize && Instant::now() + 4 * SWITCHOVER_WINDOW < end {
            let serves = whole(&rig, ft)?;
            orders.push(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64);
            done += 1;
            if let Err(e) = rig.order(serves, "switchover") {
                failures.push(format!("switchover {done}: {e}"));
            }
            ft.stop.sleep(SWITCHOVER_WINDOW)?;
        }
        match finish(clients, LOAD_MAX) {
            Ok(seen) => {
                let window = SWITCHOVER_WINDOW.as_micros() as u64;
                waits.extend(orders.iter().map(|at| longest_ms(&seen.waits, *at..at + window)));
                say(&format!("{done} of {count} switchovers, waits up to {:.1} ms", waits.iter().copied().fold(0.0, f64::max)));
            }
            Err(e) => {
                ft.stop.check()?;
                failures.push(format!("{} switchovers up to {done}: {e}", orders.len()));
            }
        }
    }
    Ok(waits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_where_it_began() {
        let waits = [Span { begin: 10, end: 5_010 }, Span { begin: 100, end: 9_100 }, Span { begin: 200, end: 90_200 }];
        assert_eq!(longest_ms(&waits, 0..200), 9.0);
        assert_eq!(longest_ms(&waits, 0..5), NOTED_MS);
    }
}
