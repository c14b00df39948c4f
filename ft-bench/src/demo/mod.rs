//! `ft-bench demo`: a host dies under a loaded redis, and nobody who talks to it notices more than a pause.
//!
//! Laws: what is claimed is counted by a client that does not know of `ft`; the rig is taken down however this ends.

mod chart;
mod child;
mod report;
mod rig;
mod timeline;

use crate::verify::{Said, Tally};
use chart::Chart;
use child::{Interrupt, Running};
use clap::{Args, ValueEnum};
use report::{Ran, Report};
use rig::{Rig, Up};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const EXIT_INTERRUPTED: u8 = 130;
const EXIT_NOT_RUN: u8 = 2;
const REDIS: [&str; 11] = [
    "redis-server",
    "--port",
    "6379",
    "--bind",
    "0.0.0.0",
    "--protected-mode",
    "no",
    "--appendonly",
    "yes",
    "--dir",
    "/var/lib/redis",
];
/// For the client to say its last word once its time is over: all that is patient in it, one after the other.
const CLIENT_END_MAX: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// The machine is gone, cables first.
    KillHost,
    /// SIGKILL to `ft run`.
    KillEngine,
    /// SIGKILL to the server.
    KillGuest,
}

impl Fault {
    /// As `ft rig fault` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::KillHost => "kill-host",
            Self::KillEngine => "kill-engine",
            Self::KillGuest => "kill-guest",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args)]
pub struct DemoArgs {
    /// What happens to the primary in the middle of the load.
    #[arg(long, default_value = "kill-host")]
    fault: Fault,
    /// How long to load the server.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=300))]
    seconds: u32,
    /// Connections; each owns a counter and a list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    conns: u32,
    /// Writes per second, of all connections together.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Draw the clients' latency over time.
    #[arg(long, value_name = "FILE", overrides_with = "svg")]
    svg: Option<PathBuf>,
    /// `json`: one line on stdout, the text on stderr.
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// The ft to show; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

/// For people. A terminal that is gone is no reason to leave a rig behind.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "demo: {what}");
}

/// `ft-bench demo`.
pub fn run(a: &DemoArgs) -> ExitCode {
    let interrupt = match Interrupt::catch() {
        Ok(i) => i,
        Err(e) => {
            say(&format!("catching signals: {e}"));
            return ExitCode::from(EXIT_NOT_RUN);
        }
    };
    match a.show(&interrupt) {
        Ok(report) => {
            // Who went away wants none of it.
            let _ = match a.output {
                Format::Text => write!(io::stdout(), "{report}"),
                Format::Json => {
                    let _ = write!(io::stderr(), "{report}");
                    writeln!(io::stdout(), "{}", serde_json::to_string(&report).expect("plain numbers and text"))
                }
            };
            if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        // At a terminal the programs that it runs are interrupted as well, and may be heard of first.
        Err(_) if interrupt.check().is_err() => {
            say("interrupted");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(e) => {
            say(&e.to_string());
            ExitCode::from(EXIT_NOT_RUN)
        }
    }
}

impl DemoArgs {
    fn show(&self, interrupt: &Interrupt) -> io::Result<Report> {
        let ft = self.ft()?;
        say("making two hosts and a client on this machine, with redis-server protected");
        let (rig, up) = Rig::up(&ft, interrupt, &REDIS)?;
        let (ran, tally) = self.break_host(&rig, &up)?;
        say("taking the rig down");
        rig.down()?;
        if let Some(path) = &self.svg {
            self.draw(path, &ran, &tally)?;
            say(&format!("latency over time: {}", path.display()));
        }
        Ok(Report::new(ran, &tally))
    }

    fn ft(&self) -> io::Result<PathBuf> {
        let ft = match &self.ft {
            Some(p) => p.clone(),
            None => std::env::current_exe()?.with_file_name("ft"),
        };
        if !ft.is_file() {
            let what = format!("{} is not there: cargo build --release -p ft-runtime, or --ft FILE", ft.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        ft.canonicalize()
    }

    /// Load, and the fault in its middle.
    fn break_host(&self, rig: &Rig, up: &Up) -> io::Result<(Ran, Tally)> {
        let (victim, survivor) = roles(rig)?;
        say(&format!(
            "{victim} serves {}:{}, {survivor} follows; {} connections write {} times a second for {} s",
            up.address, up.port, self.conns, self.rate, self.seconds
        ));
        let arguments = [
            "demo-client".into(),
            format!("{}:{}", up.address, up.port),
            format!("--seconds={}", self.seconds),
            format!("--conns={}", self.conns),
            format!("--rate={}", self.rate),
        ];
        let mut client = rig.start_client(&std::env::current_exe()?, &arguments)?;
        let begin = match hear(&mut client, None)? {
            Some(Said::Began) => Instant::now(),
            _ => return Err(io::Error::other("the client could not begin")),
        };
        let fault_at = begin + Duration::from_secs(self.seconds.into()) / 2;
        if let Some(t) = tell_until(&mut client, begin, fault_at)? {
            return Err(io::Error::other(format!("the load ended before the fault: {}", t.errors.join("; "))));
        }
        check_pair(rig, &victim, &survivor)?;
        say(&format!("now: {} on {victim}", self.fault.name()));
        let fault = rig.fault(&victim, self.fault.name())?;
        let until = begin + Duration::from_secs(self.seconds.into()) + CLIENT_END_MAX;
        let tally = tell_until(&mut client, begin, until)?
            .ok_or_else(|| io::Error::other(format!("the clients are not done {} s after their end", CLIENT_END_MAX.as_secs())))?;
        let fault_us = fault.unix_ns / 1000;
        let first = timeline::first_byte(fault_us, &tally.samples);
        let role = rig.hosts()?.into_iter().find(|h| h.host == survivor).and_then(|h| h.role.or(h.state));
        let ran = Ran {
            fault: self.fault.name().into(),
            timeline: timeline::timeline(fault_us, &rig.events(&survivor)?, first),
            victim,
            survivor,
            fault_us,
            outage_ms: first.map(|f| f.silence_us as f64 / 1e3),
            role,
        };
        Ok((ran, tally))
    }

    fn draw(&self, path: &std::path::Path, ran: &Ran, tally: &Tally) -> io::Result<()> {
        let title = format!(
            "redis-server under ft: {} connections, {} writes a second, {} lost",
            self.conns, self.rate, tally.verdict.lost
        );
        let first = timeline::first_byte(ran.fault_us, &tally.samples);
        let chart = Chart {
            title: &title,
            fault_us: ran.fault_us,
            fault: &format!("{} on {}", ran.fault, ran.victim),
            back_ms: first.map(|f| (f.at_us - ran.fault_us) as f64 / 1e3),
            samples: &tally.samples,
        };
        chart.write(path).map_err(io::Error::other)
    }
}

/// Who serves and who follows.
fn roles(rig: &Rig) -> io::Result<(String, String)> {
    let hosts = rig.hosts()?;
    let with = |role: &str| {
        let h = hosts.iter().find(|h| h.role.as_deref() == Some(role));
        h.map(|h| h.host.clone()).ok_or_else(|| io::Error::other(format!("no host is {role}: see ft rig status")))
    };
    Ok((with("primary")?, with("backup")?))
}

/// A fault shows nothing where the other host serves already.
fn check_pair(rig: &Rig, victim: &str, survivor: &str) -> io::Result<()> {
    if roles(rig).is_ok_and(|r| r == (victim.into(), survivor.into())) {
        return Ok(());
    }
    let mut what = String::from(
        "the hosts are no pair any more, before any fault. Is the machine too busy for the load? A primary that is not \
         heard for limits.silence_ms_max is taken for dead: try a lower --rate. What they noted:",
    );
    for host in [victim, survivor] {
        for e in rig.events(host).unwrap_or_default() {
            what += &format!("\n  {} {host}: {}", e.at_ms, e.event);
        }
    }
    Err(io::Error::other(what))
}

/// The client's next word, at most until then; none: it has nothing more to say.
fn hear(client: &mut Running, until: Option<Instant>) -> io::Result<Option<Said>> {
    let line = match until {
        None => client.line()?,
        Some(t) => match client.line_until(t)? {
            Some(l) => l,
            None => return Err(io::ErrorKind::TimedOut.into()),
        },
    };
    line.map(|l| serde_json::from_str(&l).map_err(|e| io::Error::other(format!("the client said {l}: {e}")))).transpose()
}

/// Shows how the client gets on; its last word if that comes before.
fn tell_until(client: &mut Running, begin: Instant, until: Instant) -> io::Result<Option<Tally>> {
    loop {
        match hear(client, Some(until)) {
            Ok(Some(Said::Acknowledged(n))) => {
                say(&format!("{:>3.0} s  {n:>8} writes acknowledged", begin.elapsed().as_secs_f64()));
            }
            Ok(Some(Said::Ended(tally))) => return Ok(Some(tally)),
            Ok(Some(Said::Began)) => {}
            Ok(None) => {
                let status = client.wait()?;
                return Err(io::Error::other(format!("the clients ended without a result: {status}")));
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}
