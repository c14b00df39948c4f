//! `ft-bench lockstep`: a real server under mixed load, recorded; then every replay must do exactly the same.
//!
//! Law: a run is good only if each check really happened. A replay without memory comparisons or without fork
//! children proves less than was asked for, so it fails.

use crate::mix::{Load, Tally};
use crate::recording::{self, Census};
use crate::service::{self, Place, Recorded};
use ft_runtime::replay::Report;
use serde::Serialize;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Where nobody watches, progress goes to a file: less often.
const PROGRESS_EVERY_QUIET: Duration = Duration::from_secs(15);
/// After the load's end, for clients in the middle of something.
const CLIENTS_END_MAX: Duration = Duration::from_secs(90);
/// A replay is given at most this, and so many times as long as the load took.
const REPLAY_MIN: Duration = Duration::from_secs(180);
const REPLAY_TIMES_MAX: u32 = 5;

pub struct Lockstep {
    pub time: Duration,
    pub seed: u64,
    pub replays: u32,
    pub memory_every: u64,
    pub keep: Option<PathBuf>,
    pub only: Vec<String>,
    pub trace: bool,
    pub ft: PathBuf,
}

/// The one line of stdout.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub ok: bool,
    pub seed: u64,
    pub load_seconds: f64,
    pub requests: u64,
    pub input_bytes: u64,
    pub log_bytes: u64,
    /// (log bytes - input bytes) / requests: what replication costs beside the requests themselves.
    pub log_bytes_per_request_over_input: f64,
    pub entries: u64,
    pub points: u64,
    pub memory_checks: u64,
    pub children: u64,
    pub replay_seconds: Vec<f64>,
    pub replays_ok: u32,
    pub failures: Vec<String>,
    /// Where the recording of a failed or kept run lies.
    pub kept: Option<PathBuf>,
}

impl Lockstep {
    pub fn run(self) -> io::Result<Summary> {
        let (place, temporary) = self.place()?;
        // A copy: a build during the run must not mix two versions, and a kept recording keeps its ft.
        let ft = place.file("ft");
        std::fs::copy(&self.ft, &ft)?;
        let mut failures = Vec::new();
        eprintln!("seed {}, {:.0} s of load, everything in {}", self.seed, self.time.as_secs_f64(), place.dir.display());
        let (tally, seconds) = self.record(&ft, &place, &mut failures)?;
        let census = recording::census(&place.recording()).unwrap_or_else(|e| {
            failures.push(e.to_string());
            Census::default()
        });
        let mut reports = Vec::new();
        for run in 1..=self.replays {
            eprintln!("replay {run} of {} ...", self.replays);
            match service::replay(&ft, &place, run, self.trace, REPLAY_MIN + self.time * REPLAY_TIMES_MAX) {
                Ok(r) => {
                    eprintln!("  {} in {:.1} s: {}", if r.ok { "ok" } else { "FAILED" }, r.seconds, r.reason);
                    reports.push(r);
                }
                Err(e) => failures.push(format!("replay {run}: {e}")),
            }
        }
        self.judge(&census, &reports, &mut failures);
        print_errors(&tally);
        let mut s = summary(self.seed, seconds, &tally, &census, &reports, failures);
        if !s.ok || self.keep.is_some() {
            let _ = temporary.map(tempfile::TempDir::keep);
            s.kept = Some(place.dir.clone());
        }
        print_table(&s, &census);
        if !s.ok {
            explain(&s, &ft, &place);
        }
        Ok(s)
    }

    /// On a real disk (/var/tmp): fsync must cost.
    fn place(&self) -> io::Result<(Place, Option<tempfile::TempDir>)> {
        match &self.keep {
            Some(dir) => {
                std::fs::create_dir(dir)?;
                Ok((Place::create(dir.canonicalize()?)?, None))
            }
            None => {
                let t = tempfile::Builder::new().prefix("ft-bench-").tempdir_in("/var/tmp")?;
                Ok((Place::create(t.path().to_owned())?, Some(t)))
            }
        }
    }

    /// Loads a recorded server and shuts it down.
    fn record(&self, ft: &Path, place: &Place, failures: &mut Vec<String>) -> io::Result<(Tally, f64)> {
        let mut server = Recorded::start(ft, place, self.memory_every, self.trace)?;
        let start = Instant::now();
        let load = Load::start(server.address, self.seed, self.time, &self.only).map_err(io::Error::other)?;
        let quiet = !io::stderr().is_terminal();
        let every = if quiet { PROGRESS_EVERY_QUIET } else { PROGRESS_EVERY };
        let mut next = start + every;
        let mut before = (start, 0);
        while !load.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
            let now = Instant::now();
            if let Some(status) = server.ended() {
                failures.push(format!("the server ended under load: ft record {status}; {}", said(place)));
                load.stop();
                break;
            }
            if start.elapsed() > self.time + CLIENTS_END_MAX {
                failures.push(format!("clients still wait {} s after the end", CLIENTS_END_MAX.as_secs()));
                break;
            }
            if load.failed() {
                break;
            }
            if now >= next {
                let done = load.requests();
                let rate = (done - before.1) as f64 / (now - before.0).as_secs_f64();
                let size = std::fs::metadata(place.recording()).map_or(0, |m| m.len());
                let line = format!(
                    "{:4.0} of {:.0} s  {done:>10} requests  {rate:>7.0}/s  recording {:>7.1} MB",
                    start.elapsed().as_secs_f64(),
                    self.time.as_secs_f64(),
                    size as f64 / 1e6
                );
                if quiet { eprintln!("{line}") } else { eprint!("\r{line}\x1b[K") }
                before = (now, done);
                next = now + every;
            }
        }
        if !quiet {
            eprintln!();
        }
        let seconds = start.elapsed().as_secs_f64();
        let requests = load.requests();
        let status = server.stop();
        let mut tally = load.join();
        tally.requests = tally.requests.max(requests);
        failures.append(&mut tally.faults);
        match status {
            Ok(s) if s.success() => {}
            Ok(s) => failures.push(format!("ft record ended with {s}; {}", said(place))),
            Err(e) => failures.push(e.to_string()),
        }
        Ok((tally, seconds))
    }

    fn judge(&self, census: &Census, reports: &[Report], failures: &mut Vec<String>) {
        for (k, r) in reports.iter().enumerate() {
            let run = k + 1;
            if !r.ok {
                failures.push(format!("replay {run}: {}", r.reason));
                continue;
            }
            if r.entries != census.entries {
                failures.push(format!("replay {run}: {} entries of {} were replayed", r.entries, census.entries));
            }
            if r.memory_checks != census.memory_checks || (self.memory_every > 0 && r.memory_checks == 0) {
                failures.push(format!("replay {run}: memory compared {} times of {}", r.memory_checks, census.memory_checks));
            }
            if r.domains != census.children + 1 {
                failures.push(format!("replay {run}: {} domains for {} children", r.domains, census.children));
            }
        }
        if census.children == 0 && self.only.is_empty() {
            failures.push("no BGSAVE child in the whole recording: the load was not what it should be".into());
        }
    }
}

fn summary(
    seed: u64,
    seconds: f64,
    tally: &Tally,
    census: &Census,
    reports: &[Report],
    failures: Vec<String>,
) -> Summary {
    let over = census.bytes as f64 - census.input_bytes as f64;
    Summary {
        ok: failures.is_empty(),
        seed,
        load_seconds: seconds,
        requests: tally.requests,
        input_bytes: census.input_bytes,
        log_bytes: census.bytes,
        log_bytes_per_request_over_input: over / tally.requests.max(1) as f64,
        entries: census.entries,
        points: reports.iter().map(|r| r.points).max().unwrap_or(0),
        memory_checks: reports.iter().map(|r| r.memory_checks).min().unwrap_or(0),
        children: census.children,
        replay_seconds: reports.iter().map(|r| r.seconds).collect(),
        replays_ok: reports.iter().filter(|r| r.ok).count() as u32,
        failures,
        kept: None,
    }
}

/// The last of what ft and the server wrote on stderr.
fn said(place: &Place) -> String {
    let tail = |name| {
        let text = std::fs::read(place.file(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    };
    format!("stderr ends:\n{}\nstdout ends:\n{}", tail("record.err"), tail("record.out"))
}

fn print_errors(tally: &Tally) {
    eprintln!("\nclient            requests   errors answered");
    for (name, (requests, errors)) in &tally.clients {
        let errors: Vec<String> = errors.iter().map(|(e, n)| format!("{e} x{n}")).collect();
        eprintln!("{name:<14} {requests:>11}   {}", errors.join(", "));
    }
}

fn print_table(s: &Summary, census: &Census) {
    eprintln!("\nentry             count         bytes   bytes/request");
    for (name, (n, bytes)) in &census.kinds {
        eprintln!("{name:<12} {n:>10}  {bytes:>12}   {:>13.2}", *bytes as f64 / s.requests.max(1) as f64);
    }
    let replays: Vec<String> = s.replay_seconds.iter().map(|t| format!("{t:.1}")).collect();
    let row = |name: &str, value: String| eprintln!("{name:<34} {value:>16}");
    eprintln!();
    row("load, seconds", format!("{:.1}", s.load_seconds));
    row("requests", s.requests.to_string());
    row("requests per second", format!("{:.0}", s.requests as f64 / s.load_seconds));
    row("input, bytes", s.input_bytes.to_string());
    row("log, bytes", s.log_bytes.to_string());
    row("log over input, bytes per request", format!("{:.2}", s.log_bytes_per_request_over_input));
    row("entries", s.entries.to_string());
    row("input points", s.points.to_string());
    row("memory comparisons", s.memory_checks.to_string());
    row("fork children", s.children.to_string());
    row("replays, seconds", replays.join(" "));
    row("replays ok", s.replays_ok.to_string());
    row("result", if s.ok { "ok" } else { "FAILED" }.into());
}

fn explain(s: &Summary, ft: &Path, place: &Place) {
    eprintln!();
    for f in &s.failures {
        eprintln!("failed: {f}");
    }
    let (ft, recording) = (ft.display(), place.recording());
    eprintln!("\nThe recording, the server's output and its files are kept in {}. To look closer:", place.dir.display());
    eprintln!("  {ft} replay {}                      # the same once more", recording.display());
    eprintln!("  {ft} replay --trace calls {}        # a line per system call", recording.display());
    eprintln!("  ft-bench lockstep ... --seed {} --trace --only NAMES   # two traces to diff, with fewer clients", s.seed);
}
