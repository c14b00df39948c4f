//! `ft-bench divergence`: how long it takes to be found out that a bit of one host's memory has flipped, where a call
//! shows it and where nobody looks; and what looking costs.

use crate::e2e::plan::{MIXED, Point, System};
use crate::e2e::system::Running;
use crate::figures::{self, Figures};
use crate::lines::{Demand, Line};
use crate::reseed::{fill, up, whole};
use crate::rig::child::Words;
use crate::rig::{self, BACKUP, Ft, PRIMARY, Rig};
use crate::{Format, check_root};
use clap::Args;
use ft_runtime::pair::status::Milestone;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What the server holds where nobody looks.
const IDLE_MB: u64 = 100;
const CALL_MAX: Duration = Duration::from_secs(20);
const IDLE_MAX: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(20);
const CLIENT_MAX: Duration = Duration::from_secs(20);
const LOAD: Point = Point { name: "closed-50", connections: 50, rate: None, asks: MIXED };
const WARM_UP: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_secs(1);
const NEVER: &str = "[monitor]\nmemory_every = 0\n";

#[derive(Args)]
pub struct DivergenceArgs {
    /// Fail if a figure falls short of what is demanded.
    #[arg(long)]
    check: bool,
    /// How often each bit flips.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How often throughputs are compared.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    cost_rounds: u32,
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

pub fn run(a: &DivergenceArgs) -> ExitCode {
    figures::run(a.ft.as_deref(), a.output, NOTES, |ft| a.measure(ft))
}

const NOTES: &str = "\
A bit of a value in the backup's redis flips. In a call: until the primary has said `diverged`, from when a client is answered with the value. In
idle memory: 100 MB, no client, from the flip on. After each the pair is waited for until it is whole again. Throughput: of 50
connections that always wait for an answer, on a pair that compares memory to one that doesn't; four windows of a second each time: with,
without, without, with.";

impl DivergenceArgs {
    fn measure(&self, ft: &Ft) -> io::Result<Figures> {
        check_root()?;
        rig::remove_orphans(ft)?;
        let started = Instant::now();
        let say = |what: &str| eprintln!("{:5.0} s  {what}", started.elapsed().as_secs_f64());
        let (mut lines, mut failures) = (Vec::new(), Vec::new());
        for (what, config, asks, bar) in [("in a call", NEVER, true, 1.0), ("in idle memory of 100 MB", "", false, 60.0)] {
            let rig = up(ft, config)?;
            if !asks {
                fill(&rig, IDLE_MB, ft)?;
            }
            let mut seen = Vec::new();
            for round in 0..self.rounds {
                match found_after(&rig, round, asks, ft) {
                    Ok(seconds) => {
                        say(&format!("{what}, round {} of {}: {seconds:.3} s", round + 1, self.rounds));
                        seen.push(seconds);
                    }
                    Err(e) => {
                        ft.stop.check()?;
                        say(&format!("{what}: FAILED: {e}"));
                        failures.push(format!("{what}, round {}: {e}", round + 1));
                    }
                }
            }
            lines.push(Line::quantile(format!("flipped bit {what}: reported after, max"), "s", Demand::at_most(bar), 1.0, &seen));
        }
        let costs = self.costs(ft, &say)?;
        lines.push(Line::median("throughput with memory compared, to without", "x", Demand::AtLeast { bar: 0.97, goal: None }, &costs));
        Ok(Figures::new(self.check, started.elapsed(), lines, failures))
    }

    /// Both pairs stay up; each is idle while the other is measured, but for its comparisons.
    fn costs(&self, ft: &Ft, say: &dyn Fn(&str)) -> io::Result<Vec<f64>> {
        let [with, without] = ["", NEVER].map(|config| Running::start_with(System::Protected, ft, config, &[]));
        let (with, without) = (with?, without?);
        let mut ratios = Vec::new();
        for _ in 0..self.cost_rounds {
            // What drifts in the machine is the same for both.
            let (a, b) = (per_second(&with)?, per_second(&without)?);
            let (b, a) = (b + per_second(&without)?, a + per_second(&with)?);
            ratios.push(a / b);
            say(&format!("requests per second with comparisons {:.0}, without {:.0}: {:.3}", a / 2.0, b / 2.0, a / b));
        }
        Ok(ratios)
    }
}

fn per_second(running: &Running) -> io::Result<f64> {
    Ok(running.measure(&LOAD, WARM_UP, WINDOW)?.requests_per_second)
}

/// What a client is answered.
fn ask(rig: &Rig, request: &[&str]) -> io::Result<String> {
    let ip = rig.service().ip().to_string();
    let command: Vec<String> = ["redis-cli", "-h", &ip].iter().chain(request).map(|s| (*s).to_owned()).collect();
    Ok(rig.start("client", "redis-cli", &command, Words::Kept)?.finish(CLIENT_MAX)?.join("\n"))
}

/// Seconds until the primary knows; then it heals.
fn found_after(rig: &Rig, round: u32, asks: bool, ft: &Ft) -> io::Result<f64> {
    let serves = whole(rig, ft)?;
    let follows = if serves == PRIMARY { BACKUP } else { PRIMARY };
    let mark = format!("the-value-that-flips-{round}-of-{}", std::process::id());
    ask(rig, &["SET", &format!("marked{round}"), &mark])?;
    let flipped = rig.fault(follows, &format!("flip-bit --text {mark}"))?.at_us();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let mut begin = flipped;
    if asks {
        begin = now();
        if ask(rig, &["GET", &format!("marked{round}")])? != mark {
            return Err(io::Error::other("the client was answered with something else"));
        }
    }
    let end = Instant::now() + if asks { CALL_MAX } else { IDLE_MAX };
    loop {
        let events = rig.events(serves);
        if let Some(e) = events.iter().find(|e| e.at_us >= flipped && e.milestone == Some(Milestone::Diverged)) {
            return Ok(e.at_us.saturating_sub(begin) as f64 / 1e6);
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("not found; {}", rig.last_events())));
        }
        ft.stop.sleep(POLL)?;
    }
}
