//! `ft-bench e2e --check`: each figure that is demanded of a pair, measured beside the bare server, and which fall short.
//!
//! Laws: a ratio or a difference is of two samples of one round; what could not be measured meets nothing.

use super::plan::{Asks, MIXED, Point, System};
use super::results::{Machine, Spread};
use super::system::{ENGINE, Running, SERVER};
use super::{is_bad, trouble};
use crate::clients::{Clients, Load};
use crate::faults;
use crate::lines::{self, Demand, Line};
use crate::load::{Report, Span};
use crate::memory::{self, Memory};
use crate::outage;
use crate::rig::child::{Child, Words};
use crate::rig::{self, BACKUP, Ft, IN_MEMORY, PRIMARY, Rig, TAPPED, redis};
use ft_runtime::config::Limits;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

pub struct Check {
    pub window: Duration,
    pub warm_up: Duration,
    pub rounds: u32,
    pub fault_rounds: u32,
    /// Faults of all kinds.
    pub campaign: u32,
    /// Only these losses of the primary and nothing else; empty: all there is.
    pub only: Vec<String>,
}

#[derive(Serialize)]
pub struct Results {
    pub ok: bool,
    pub seconds: f64,
    pub machine: Machine,
    pub lines: Vec<Line>,
    /// What went wrong, beside lines that fall short.
    pub failures: Vec<String>,
    samples: Vec<Sample>,
}

/// One load on one system in one round.
#[derive(Serialize)]
struct Sample {
    round: u32,
    load: &'static str,
    system: &'static str,
    report: Report,
}

const CLOSED_1: Point = Point { name: "closed-1", connections: 1, rate: None, asks: MIXED };
const CLOSED_50: Point = Point { name: "closed-50", connections: 50, rate: None, asks: MIXED };
const SET_20000: Point = Point { name: "set-20000", connections: 50, rate: Some(20_000), asks: Asks::Sets(100) };
const SET_80000: Point = Point { name: "set-80000", connections: 50, rate: Some(80_000), asks: Asks::Sets(100) };
/// Of a rate, before its figures are those of another one.
const REACHED: f64 = 0.98;

/// When the host dies the server has a request of each of these and has not answered it; nobody asks anew before the answer
/// has come. What falls due during the outage is answered when the backup leads.
const WAITING: Point = Point { name: "held-50", connections: 50, rate: None, asks: Asks::Held(40) };
/// The server looks for what is due so often per second.
const HZ: [&str; 2] = ["--hz", "500"];
/// Clients that go on speaking.
const SPEAKING: Point = Point { name: "open-500", connections: 20, rate: Some(500), asks: MIXED };
const FAULT_WARM_UP: Duration = Duration::from_millis(200);
const FAULT_AFTER: Duration = Duration::from_millis(300);
/// Long enough for the second repetition of a client's TCP.
const FAULT_WINDOW: Duration = Duration::from_millis(1700);
/// What becomes of the primary.
#[derive(Clone, Copy)]
struct Loss {
    name: &'static str,
    fault: &'static str,
    tapped: bool,
}

const fn loss(fault: &'static str) -> Loss {
    Loss { name: fault, fault, tapped: false }
}

/// After which its kernel can still tell the backup, and after which nobody can; and with the tap.
const KILLED: [Loss; 2] = [loss("kill-guest"), loss("kill-engine")];
const SILENT: [Loss; 2] = [loss("kill-host"), loss("freeze-host")];
const TAPPED_LOSSES: [Loss; 2] = [
    Loss { name: "tap:kill-guest", tapped: true, ..loss("kill-guest") },
    Loss { name: "tap:kill-host", tapped: true, ..loss("kill-host") },
];

fn losses() -> impl Iterator<Item = Loss> {
    KILLED.into_iter().chain(SILENT).chain(TAPPED_LOSSES)
}

/// What clients saw of one; milliseconds.
struct TakenOver {
    /// From the fault to the first byte of the backup.
    first: f64,
    /// How long those waited who spoke meanwhile.
    spoke: Vec<f64>,
}

/// Beside this program.
const PATCHED_CALL: &str = "ft-patched-call";
const PATCHED_ROUNDS: &str = "7";
const PATCHED_MAX: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: u32 = 1000;
/// For what connections touch to be touched.
const MEMORY_AFTER: Duration = Duration::from_millis(2500);
const CAMPAIGN_SEED: u64 = 1;

struct Run<'a> {
    ft: &'a Ft,
    asked: &'a Check,
    started: Instant,
    samples: Vec<Sample>,
    taken_over: BTreeMap<&'static str, Vec<TakenOver>>,
    failures: Vec<String>,
}

impl Check {
    /// Whether all that is asked for is there.
    pub fn known(&self) -> Result<(), String> {
        let is_known = |name: &String| losses().any(|l| l.name == name);
        match self.only.iter().find(|name| !is_known(name)) {
            None => Ok(()),
            Some(name) => {
                let all: Vec<&str> = losses().map(|l| l.name).collect();
                Err(format!("--check --only {name}: there are {}", all.join(", ")))
            }
        }
    }

    pub fn run(&self, ft: &Ft) -> io::Result<Results> {
        crate::check_root()?;
        rig::remove_orphans(ft)?;
        let mut run = Run {
            ft,
            asked: self,
            started: Instant::now(),
            samples: Vec::new(),
            taken_over: BTreeMap::new(),
            failures: Vec::new(),
        };
        let (mut patched, mut memory) = (Vec::new(), None);
        if self.only.is_empty() {
            for round in 0..self.rounds {
                run.round(round)?;
            }
            patched = self::patched(ft)?;
            let measured = run.memory();
            ft.stop.check()?;
            memory = measured.map_err(|e| run.fail("memory", &e.to_string())).ok();
        }
        for round in 0..self.fault_rounds {
            for loss in losses().filter(|l| self.only.is_empty() || self.only.iter().any(|o| o == l.name)) {
                run.fault(round, loss)?;
            }
        }
        let campaign = match self.campaign {
            0 => Vec::new(),
            n => faults::campaign(ft, CAMPAIGN_SEED, n)?,
        };
        let mut lines = run.cost_lines();
        lines.extend(run.fault_lines());
        lines.push(campaign_line(&campaign));
        lines.push(Line::median(
            "patched call over a direct one",
            "ns",
            Demand::AtMost { bar: 40.0, goal: Some(20.0) },
            &patched,
        ));
        lines.extend(memory_lines(memory));
        let short = lines.iter().any(|l| l.was_measured() && !l.bar_met);
        Ok(Results {
            ok: !short && run.failures.is_empty(),
            seconds: run.started.elapsed().as_secs_f64(),
            machine: Machine::here(),
            lines,
            failures: run.failures,
            samples: run.samples,
        })
    }
}

/// For people.
pub fn text(r: &Results) -> String {
    let m = &r.machine;
    let mut parts = vec![lines::text(&r.lines), NOTES.to_owned()];
    parts.push(format!("{:.0} s. Machine: {} processors, {}, Linux {}.", r.seconds, m.processors, m.model, m.kernel));
    parts.extend(r.failures.iter().map(|f| format!("FAILED: {f}")));
    parts.join("\n\n")
}

const NOTES: &str = "\
Ratios and differences are against the bare server in the same round; measured is their median, p99 excepted. CPU: user and
kernel time of the processes; the kernel charges packet processing to whoever runs at that moment. First byte: from just before
the fault until a client has the first answer of the backup, where the server held requests of 50 clients that fell due
meanwhile (BLPOP; it looks every 2 ms) and none asked anew. Speaking: requests that were meant to be sent between the fault and
that moment and waited 1 ms or longer; beyond the outage: less the time to the first byte. Memory: resident, of the host that takes more.";

fn patched(ft: &Ft) -> io::Result<Vec<f64>> {
    let program = std::env::current_exe()?.with_file_name(PATCHED_CALL);
    let mut command = Command::new(program);
    let child = Child::start(PATCHED_CALL, command.arg(PATCHED_ROUNDS), Words::Kept, &ft.stop)?;
    let lines = child.finish(PATCHED_MAX)?;
    lines.iter().map(|l| l.parse().map_err(|e| io::Error::other(format!("{PATCHED_CALL} says {l}: {e}")))).collect()
}

impl Run<'_> {
    fn say(&self, what: &str) {
        eprintln!("{:5.0} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn fail(&mut self, what: &str, why: &str) {
        self.say(&format!("{what}: FAILED: {why}"));
        self.failures.push(format!("{what}: {why}"));
    }

    fn round(&mut self, round: u32) -> io::Result<()> {
        const ALL: [Point; 4] = [CLOSED_1, CLOSED_50, SET_20000, SET_80000];
        let mut systems = System::ALL;
        // None is always the first or always after the same.
        systems.rotate_left(round as usize % System::ALL.len());
        for system in systems {
            let what = format!("round {} of {}, {}", round + 1, self.asked.rounds, system.name());
            let running = Running::start(system, self.ft);
            self.ft.stop.check()?;
            let running = match running {
                Ok(r) => r,
                Err(e) => {
                    self.fail(&what, &e.to_string());
                    continue;
                }
            };
            let points: &[Point] = if system == System::Replica { &[CLOSED_50] } else { &ALL };
            for point in points {
                let what = format!("{what:<26} {:<10}", point.name);
                let measured = running.measure(point, self.asked.warm_up, self.asked.window);
                self.ft.stop.check()?;
                let why = match (measured, running.check()) {
                    (Err(e), _) => e.to_string(),
                    (_, Err(e)) => e,
                    (Ok(report), _) if is_bad(&report) => trouble(&report),
                    (Ok(report), Ok(())) => {
                        let (rate, p50) = (report.requests_per_second, report.latency_us.p50);
                        self.say(&format!("{what} {rate:>8.0} req/s  p50 {p50:>8.0} us"));
                        self.samples.push(Sample { round, load: point.name, system: system.name(), report });
                        continue;
                    }
                };
                // What is left of it may not be what it was.
                self.fail(&what, &why);
                break;
            }
        }
        Ok(())
    }

    fn fault(&mut self, round: u32, loss: Loss) -> io::Result<()> {
        let what = format!("fault {} of {}, {:<14}", round + 1, self.asked.fault_rounds, loss.name);
        let seen = self.take_over(loss);
        self.ft.stop.check()?;
        match seen {
            Err(e) => self.fail(&what, &e.to_string()),
            Ok(t) => {
                let most = t.spoke.iter().copied().fold(0.0, f64::max);
                self.say(&format!("{what} first byte {:>6.1} ms  speaking {most:>6.1} ms", t.first));
                self.taken_over.entry(loss.name).or_default().push(t);
            }
        }
        Ok(())
    }

    /// A fresh pair's primary is lost: the time to the first byte of the backup, and what those waited who spoke meanwhile.
    fn take_over(&self, loss: Loss) -> io::Result<TakenOver> {
        let config = if loss.tapped { TAPPED } else { "" };
        let running = Running::start_with(System::Protected, self.ft, config, &HZ)?;
        let times = (FAULT_WARM_UP, FAULT_AFTER, FAULT_WINDOW);
        let (fault, reports) = running.measure_fault(&[WAITING, SPEAKING], loss.fault, times)?;
        let serves = running.rig().host(BACKUP)?;
        let bad = reports.iter().find(|r| is_bad(r) || r.unanswered > 0);
        if let (Some(_), _) | (_, false) = (bad, serves.is_primary()) {
            let why = bad.map_or_else(|| format!("{BACKUP} does not serve"), trouble);
            return Err(io::Error::other(format!("{why}; {}", running.rig().last_events())));
        }
        let fault_us = fault.at_us();
        let [waiting, speaking] = &reports[..] else { unreachable!("two loads were asked for") };
        let spans = |r: &Report, f: fn(&crate::load::Outage) -> &Vec<Span>| r.outage.as_ref().map(f).cloned().unwrap_or_default();
        let silences = spans(waiting, |o| &o.silences).into_iter();
        let restored = outage::restored_us(fault_us, &running.rig().events(BACKUP));
        let restored = restored.ok_or_else(|| io::Error::other(format!("{BACKUP} did not note how it took over")))?;
        let first = outage::end_of_silence(fault_us, Some(restored), silences)
            .ok_or_else(|| io::Error::other("clients were answered while nobody could have answered"))?;
        let meanwhile = |s: &Span| (fault_us..first.at_us).contains(&s.begin);
        let spoke = spans(speaking, |o| &o.waits).into_iter().filter(meanwhile).map(|s| s.length() as f64 / 1e3);
        Ok(TakenOver { first: (first.at_us - fault_us) as f64 / 1e3, spoke: spoke.collect() })
    }

    /// Of both hosts with 50 connections that write, and with many idle ones beside them.
    fn memory(&mut self) -> io::Result<[[Memory; 2]; 2]> {
        let rig = Rig::up(self.ft, &[], "", &redis(&IN_MEMORY), Words::Kept)?;
        let measure = |idle: u32| {
            let load = Load {
                seconds: (MEMORY_AFTER * 2).as_secs_f64(),
                conns: 50,
                idle,
                rate: 2_000,
                depth_max: 1,
                item_bytes_max: 64,
                seed: 0,
            };
            let mut clients = Clients::start(&rig, &load)?;
            clients.work_until(Instant::now() + MEMORY_AFTER, |_| {})?;
            let of_host = |host: &str| {
                let p = rig.pids(host)?;
                let (guest, engine) = p.guest.zip(p.engine).ok_or_else(|| io::Error::other("a pair has both"))?;
                memory::of(guest, engine)
            };
            let both = [of_host(PRIMARY)?, of_host(BACKUP)?];
            let tally = clients.finish(|_| {})?;
            if !tally.errors.is_empty() {
                return Err(io::Error::other(tally.errors.join("; ")));
            }
            Ok(both)
        };
        let all = [measure(0)?, measure(IDLE_CONNECTIONS)?];
        self.say("memory measured");
        Ok(all)
    }

    fn report(&self, round: u32, load: &Point, system: System) -> Option<&Report> {
        let found = self.samples.iter().find(|s| s.round == round && s.load == load.name && s.system == system.name());
        found.map(|s| &s.report)
    }

    /// `f` of the pair's sample and another system's, in each round that has both.
    fn against(&self, load: &Point, other: System, f: impl Fn(&Report, &Report) -> Option<f64>) -> Vec<f64> {
        let of = |round| f(self.report(round, load, System::Protected)?, self.report(round, load, other)?);
        (0..self.asked.rounds).filter_map(of).collect()
    }

    fn own(&self, load: &Point, f: impl Fn(&Report) -> Option<f64>) -> Vec<f64> {
        self.against(load, System::Native, |p, _| f(p))
    }

    fn cost_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let cpu = |r: &Report, roles: &[&str]| {
            let used = roles.iter().map(|role| r.usage.cpu_us.get(*role).copied().flatten());
            Some(used.sum::<Option<f64>>()? / r.requests.max(1) as f64)
        };
        let rates = [(SET_20000, 0.7, 4.0), (SET_80000, 0.45, 2.0)];
        for (point, guest_bar, host_bar) in rates {
            let whose: [(&str, &[&str], f64, f64); 2] = [
                ("guest CPU per SET", &[SERVER], guest_bar, 0.4),
                ("primary host CPU per SET", &[SERVER, ENGINE], host_bar, 1.4),
            ];
            for (what, roles, bar, goal) in whose {
                let ratio = |p: &Report, n: &Report| Some(cpu(p, roles)? / cpu(n, &[SERVER])?);
                let values = self.against(&point, System::Native, ratio);
                let rate = point.rate.unwrap_or_default();
                let what = format!("{what}, {rate}/s, to native");
                let line = Line::median(what, "x", Demand::AtMost { bar, goal: Some(goal) }, &values);
                lines.push(self.at_rate(line, &point));
            }
        }
        let added = |f: fn(&Report) -> f64| self.against(&CLOSED_1, System::Native, |p, n| Some(f(p) - f(n)));
        let latency = |what, bar, goal, values: Vec<f64>| {
            Line::median(what, "us", Demand::AtMost { bar, goal: Some(goal) }, &values)
        };
        lines.push(latency("latency added, 1 connection, p50", 160.0, 60.0, added(|r| r.latency_us.p50)));
        lines.push(latency("latency added, 1 connection, p99", 600.0, 200.0, added(|r| r.latency_us.p99)));
        let rate = |p: &Report, n: &Report| Some(p.requests_per_second / n.requests_per_second);
        for (other, bar, goal) in [(System::Native, 0.5, 0.8), (System::Replica, 0.8, 1.0)] {
            let what = format!("closed loop, 50 connections, to {}", other.name());
            let values = self.against(&CLOSED_50, other, rate);
            lines.push(Line::median(what, "x", Demand::AtLeast { bar, goal: Some(goal) }, &values));
        }
        for (point, bar) in [(CLOSED_50, 32.0), (CLOSED_1, 96.0)] {
            let each = |r: &Report, bytes: u64| bytes as f64 / r.requests.max(1) as f64;
            let over = self.own(&point, |r| Some(each(r, r.usage.log_bytes?) - each(r, r.request_bytes)));
            let link = median(self.own(&point, |r| Some(each(r, r.usage.link_bytes?))));
            let asked = median(self.own(&point, |r| Some(each(r, r.request_bytes))));
            let what = format!("log bytes over the request's, {} connection(s)", point.connections);
            let note = match (asked, link) {
                (Some(a), Some(l)) => format!("request {a:.0}, link {l:.0}"),
                _ => String::new(),
            };
            lines.push(Line::median(what, "B", Demand::AtMost { bar, goal: Some(24.0) }, &over).noted(note));
        }
        lines
    }

    /// Figures of a rate that was not reached are not that rate's.
    fn at_rate(&self, line: Line, point: &Point) -> Line {
        let wanted = f64::from(point.rate.unwrap_or_default());
        let reached = |r: &Report| Some(r.requests_per_second / wanted);
        match median(self.own(point, reached)) {
            Some(share) if share < REACHED => line.void(&format!("only {:.0}/s were reached", share * wanted)),
            _ => line,
        }
    }

    fn fault_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let silence = Limits::default().silence_ms_max as f64;
        let all = |l: &Loss| self.taken_over.get(l.name).map_or(&[][..], Vec::as_slice);
        let first = |l: &Loss| all(l).iter().map(|t| t.first).collect::<Vec<_>>();
        for loss in KILLED {
            let p50 = Demand::AtMost { bar: 20.0, goal: Some(5.0) };
            let p99 = Demand::AtMost { bar: 100.0, goal: Some(20.0) };
            lines.push(Line::median(format!("{} to first byte, p50", loss.name), "ms", p50, &first(&loss)));
            lines.push(Line::quantile(format!("{} to first byte, p99", loss.name), "ms", p99, 0.99, &first(&loss)));
        }
        for loss in SILENT {
            let p50 = Demand::AtMost { bar: silence + 60.0, goal: Some(silence + 10.0) };
            lines.push(Line::median(format!("{} to first byte, p50", loss.name), "ms", p50, &first(&loss)));
        }
        for (what, losses, bar) in [("killed", KILLED, 450.0), ("silent", SILENT, 700.0)] {
            let spoke: Vec<f64> = losses.iter().flat_map(all).flat_map(|t| t.spoke.iter().copied()).collect();
            let what = format!("speaking during the outage, {what}, p99");
            let line = Line::quantile(what, "ms", Demand::at_most(bar), 0.99, &spoke);
            lines.push(line.noted("without the tap"));
        }
        for loss in TAPPED_LOSSES {
            let over = all(&loss).iter().flat_map(|t| t.spoke.iter().map(|s| s - t.first));
            let what = format!("speaking beyond the outage, {}, p99", loss.name);
            lines.push(Line::quantile(what, "ms", Demand::at_most(10.0), 0.99, &over.collect::<Vec<_>>()));
        }
        lines
    }
}

fn median(values: Vec<f64>) -> Option<f64> {
    Spread::of(values).map(|s| s.median)
}

fn campaign_line(cases: &[faults::Ended]) -> Line {
    let bad = |c: &faults::Ended| c.lost + c.doubled + u64::from(c.reset) + u64::from(c.two_senders) + u64::from(!c.ok);
    let each: Vec<f64> = cases.iter().map(|c| bad(c) as f64).collect();
    let sum = (!each.is_empty()).then(|| each.iter().sum::<f64>());
    let what = "faults of all kinds: lost, doubled, reset, two senders, otherwise failed";
    let line = Line::quantile(what, "", Demand::at_most(0.0), 1.0, sum.as_slice());
    let count = each.len();
    if count == 0 { line } else { line.noted(format!("{count} faults; ft-bench faults --count 200 is the full number")) }
}

fn memory_lines(measured: Option<[[Memory; 2]; 2]>) -> Vec<Line> {
    const MIB: f64 = 1024.0 * 1024.0;
    let most = |f: &dyn Fn([[Memory; 2]; 2], usize) -> f64| {
        let m = measured?;
        Some(f(m, 0).max(f(m, 1)))
    };
    let shim = most(&|m, host| m[0][host].shim as f64 / MIB);
    let engine = most(&|m, host| m[0][host].engine as f64 / MIB);
    let all = |m: Memory| (m.shim + m.engine) as f64;
    let each = most(&|m, host| (all(m[1][host]) - all(m[0][host])) / 1024.0 / f64::from(IDLE_CONNECTIONS));
    let line = |what: &str, unit, bar, value: Option<f64>| Line::median(what, unit, Demand::at_most(bar), value.as_slice());
    vec![
        line("memory of shim and rings, 50 connections", "MiB", 64.0, shim),
        line("memory of the engine, 50 connections", "MiB", 64.0, engine),
        line("memory per further idle connection", "KiB", 32.0, each).noted("shim, rings and engine"),
    ]
}
