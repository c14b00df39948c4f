//! `ft-bench demo`: a host dies under a loaded redis, and nobody who talks to it notices more than a pause.
//!
//! Laws: what is claimed is counted by a client that does not know of `ft`; the rig is taken down however this ends.

mod chart;
mod report;
mod timeline;

use crate::clients::{Clients, Load};
use crate::outage;
use crate::rig::child::{Stop, Words};
use crate::rig::{self, Ft, ON_DISK, Rig};
use crate::verify::Tally;
use chart::Chart;
use clap::{Args, ValueEnum};
use report::{Ran, Report};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const EXIT_INTERRUPTED: u8 = 130;
const EXIT_NOT_RUN: u8 = 2;
/// Of a pipeline.
const DEPTH_MAX: u32 = 4;
const ITEM_BYTES_MAX: u32 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// The machine is gone, cables first.
    #[value(name = "kill-host")]
    Host,
    /// SIGKILL to `ft run`.
    #[value(name = "kill-engine")]
    Engine,
    /// SIGKILL to the server.
    #[value(name = "kill-guest")]
    Guest,
}

impl Fault {
    /// As `ft rig fault` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Host => "kill-host",
            Self::Engine => "kill-engine",
            Self::Guest => "kill-guest",
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
    let stop = match Stop::on_signals() {
        Ok(s) => s,
        Err(e) => {
            say(&format!("catching signals: {e}"));
            return ExitCode::from(EXIT_NOT_RUN);
        }
    };
    match a.show(&stop) {
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
        Err(_) if stop.check().is_err() => {
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
    fn show(&self, stop: &Stop) -> io::Result<Report> {
        let ft = Ft { program: crate::ft_program(self.ft.as_deref())?, stop: stop.clone() };
        rig::remove_orphans(&ft)?;
        say("making two hosts and a client on this machine, with redis-server protected");
        let rig = Rig::up(&ft, &[], "", &rig::redis(&ON_DISK), Words::Shown)?;
        let (ran, tally) = self.break_host(&rig)?;
        say("taking the rig down");
        drop(rig);
        if let Some(path) = &self.svg {
            self.draw(path, &ran, &tally)?;
            say(&format!("latency over time: {}", path.display()));
        }
        Ok(Report::new(ran, &tally))
    }

    /// Load, and the fault in its middle.
    fn break_host(&self, rig: &Rig) -> io::Result<(Ran, Tally)> {
        let (victim, survivor) = roles(rig)?;
        say(&format!(
            "{victim} serves {}, {survivor} follows; {} connections write {} times a second for {} s",
            rig.service(),
            self.conns,
            self.rate,
            self.seconds
        ));
        let load = Load {
            seconds: self.seconds.into(),
            conns: self.conns,
            idle: 0,
            rate: self.rate,
            depth_max: DEPTH_MAX,
            item_bytes_max: ITEM_BYTES_MAX,
            seed: 0,
        };
        let mut clients = Clients::start(rig, &load)?;
        let begin = clients.began();
        let progress =
            |n| say(&format!("{:>3.0} s  {n:>8} writes acknowledged", begin.elapsed().as_secs_f64()));
        clients.work_until(begin + Duration::from_secs(self.seconds.into()) / 2, progress)?;
        check_pair(rig, &victim, &survivor)?;
        say(&format!("now: {} on {victim}", self.fault.name()));
        let fault = rig.fault(&victim, self.fault.name())?;
        let tally = clients.finish(progress)?;
        let fault_us = fault.at_us();
        let events = rig.events(&survivor);
        let first = outage::first_byte(fault_us, outage::restored_us(fault_us, &events), &tally.samples);
        let survivor_now = rig.host(&survivor)?;
        let ran = Ran {
            fault: self.fault.name().into(),
            timeline: timeline::timeline(fault_us, &events, first),
            back_ms: first.map(|f| (f.at_us - fault_us) as f64 / 1e3),
            victim,
            survivor,
            fault_us,
            outage_ms: first.map(|f| f.silence_us as f64 / 1e3),
            role: survivor_now.role.or(survivor_now.state),
        };
        Ok((ran, tally))
    }

    fn draw(&self, path: &std::path::Path, ran: &Ran, tally: &Tally) -> io::Result<()> {
        let title = format!(
            "redis-server under ft: {} connections, {} writes a second, {} lost",
            self.conns, self.rate, tally.verdict.lost
        );
        let chart = Chart {
            title: &title,
            fault_us: ran.fault_us,
            fault: &format!("{} on {}", ran.fault, ran.victim),
            back_ms: ran.back_ms,
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
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    for host in [victim, survivor] {
        for e in rig.events(host) {
            let ago = now_ms.saturating_sub(e.at_ms) as f64 / 1e3;
            what += &format!("\n{ago:>8.3} s ago  {host}: {}", e.event);
        }
    }
    Err(io::Error::other(what))
}
