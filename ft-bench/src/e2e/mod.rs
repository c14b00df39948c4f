//! `ft-bench e2e`: a bare server, the same server protected, and what one would take instead, side by side in one run.
//!
//! Laws: systems alternate within each round and never run at the same time; a sample in which anything went wrong is
//! a failure that is told, not a figure; what was made is taken down whatever happens.

pub mod check;
pub mod plan;
pub mod results;
pub mod system;
mod table;

use crate::load::Report;
use crate::rig::child::Stop;
use crate::rig::{self, Ft};
use plan::{FAULT_AFTER, FAULT_POINT, FAULT_WINDOW, Plan, Point, System};
use results::{Machine, Measured, Results, Takeover, compare};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use system::Running;

pub use table::text;

pub struct E2e {
    pub window: Duration,
    pub warm_up: Duration,
    pub rounds: u32,
    pub fault_rounds: u32,
    pub only: Vec<String>,
    pub skip_faults: bool,
    pub ft: PathBuf,
}

/// What is under way.
struct Run {
    ft: Ft,
    plan: Plan,
    window: Duration,
    warm_up: Duration,
    started: Instant,
    samples: BTreeMap<(&'static str, System), Vec<Report>>,
    takeovers: BTreeMap<&'static str, Vec<Report>>,
    failures: Vec<String>,
}

impl E2e {
    /// What is asked for, or why it can't be.
    pub fn plan(&self) -> Result<Plan, String> {
        Plan::new(&self.only, self.skip_faults)
    }

    pub fn run(&self, plan: Plan) -> io::Result<Results> {
        crate::check_root()?;
        let mut run = Run {
            ft: Ft { program: self.ft.clone(), stop: Stop::on_signals()? },
            plan,
            window: self.window,
            warm_up: self.warm_up,
            started: Instant::now(),
            samples: BTreeMap::new(),
            takeovers: BTreeMap::new(),
            failures: Vec::new(),
        };
        rig::remove_orphans(&run.ft)?;
        if !run.plan.points.is_empty() {
            for round in 0..self.rounds {
                run.round(round, self.rounds)?;
            }
        }
        for round in 0..self.fault_rounds {
            run.fault_round(round, self.fault_rounds)?;
        }
        Ok(run.results(self))
    }
}

impl Run {
    fn say(&self, what: &str) {
        eprintln!("{:5.0} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn fail(&mut self, what: &str, why: &str) {
        self.say(&format!("{what}: FAILED: {why}"));
        self.failures.push(format!("{what}: {why}"));
    }

    /// A system that serves; `None`: why not is noted.
    fn start(&mut self, system: System, what: &str) -> io::Result<Option<Running>> {
        let running = Running::start(system, &self.ft);
        self.ft.stop.check()?;
        match running {
            Ok(r) => Ok(Some(r)),
            Err(e) => {
                self.fail(what, &e.to_string());
                Ok(None)
            }
        }
    }

    fn round(&mut self, round: u32, rounds: u32) -> io::Result<()> {
        let mut systems = self.plan.systems.clone();
        // None is always the first or always after the same.
        let first = round as usize % systems.len();
        systems.rotate_left(first);
        for system in systems {
            let mut running = None;
            for point in self.plan.points.clone() {
                let what = format!("round {} of {rounds}, {:<9} {:<10}", round + 1, system.name(), point.name);
                if running.is_none() {
                    running = self.start(system, &what)?;
                }
                let Some(r) = &running else { break };
                if !self.sample(r, system, &point, &what)? {
                    // What is left of it may not be what it was.
                    running = None;
                }
            }
        }
        Ok(())
    }

    /// One load on one system; whether that is still whole.
    fn sample(&mut self, r: &Running, system: System, point: &Point, what: &str) -> io::Result<bool> {
        let measured = r.measure(point, self.warm_up, self.window);
        self.ft.stop.check()?;
        let why = match (measured, r.check()) {
            (Err(e), _) => e.to_string(),
            (_, Err(e)) => e,
            (Ok(report), _) if is_bad(&report) => trouble(&report),
            (Ok(report), Ok(())) => {
                let l = report.latency_us;
                let rate = report.requests_per_second;
                self.say(&format!("{what} {rate:>8.0} req/s  p50 {:>8.0} us  p99 {:>8.0} us", l.p50, l.p99));
                self.samples.entry((point.name, system)).or_default().push(report);
                return Ok(true);
            }
        };
        self.fail(what, &why);
        Ok(false)
    }

    fn fault_round(&mut self, round: u32, rounds: u32) -> io::Result<()> {
        for fault in self.plan.faults.clone() {
            let what = format!("round {} of {rounds}, {fault:<11}", round + 1);
            let Some(r) = self.start(System::Protected, &what)? else { continue };
            let measured = r.measure_fault(&[FAULT_POINT], fault, (self.warm_up, FAULT_AFTER, FAULT_WINDOW));
            self.ft.stop.check()?;
            match measured {
                Err(e) => self.fail(&what, &e.to_string()),
                Ok((_, reports)) => {
                    let [report] = <[Report; 1]>::try_from(reports).expect("one load was asked for");
                    let (silence, slowest) = (report.longest_silence_ms, report.latency_us.max / 1e3);
                    self.say(&format!("{what} silence {silence:>6.0} ms  slowest request {slowest:>6.0} ms"));
                    if is_bad(&report) || report.unanswered > 0 {
                        self.fail(&what, &format!("{}; {}", trouble(&report), r.rig().last_events()));
                    }
                    self.takeovers.entry(fault).or_default().push(report);
                }
            }
        }
        Ok(())
    }

    fn results(mut self, asked: &E2e) -> Results {
        let mut loads = Vec::new();
        for point in &self.plan.points {
            for system in &self.plan.systems {
                let samples = self.samples.remove(&(point.name, *system)).unwrap_or_default();
                loads.push(Measured::new(point, *system, samples));
            }
        }
        compare(&mut loads);
        let takeovers = self.plan.faults.iter().map(|f| Takeover::new(f, self.takeovers.remove(f).unwrap_or_default()));
        Results {
            ok: self.failures.is_empty(),
            machine: Machine::here(),
            seconds: asked.window.as_secs_f64(),
            rounds: asked.rounds,
            loads,
            takeovers: takeovers.collect(),
            failures: self.failures,
        }
    }
}

/// Slow is a figure; wrong or cut off is not.
fn is_bad(r: &Report) -> bool {
    r.errors > 0 || r.lost_connections > 0 || r.requests == 0
}

fn trouble(r: &Report) -> String {
    let said = r.first_error.as_deref().unwrap_or("no error was told");
    format!(
        "{} answers, {} wrong ones, {} connections broke, {} requests without an answer: {said}",
        r.requests, r.errors, r.lost_connections, r.unanswered
    )
}
