//! `ft-bench`: parses, calls, prints. Tables and progress for people go to stderr, one JSON line per run to stdout.

mod calls;
mod clients;
mod demo;
mod divergence;
mod e2e;
mod faults;
mod figures;
mod lines;
mod load;
mod lockstep;
mod loops;
mod memory;
mod mix;
mod outage;
mod recording;
mod reseed;
mod resp;
mod rig;
mod service;
mod soak;
mod tables;
mod verify;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Measures what ft does to real servers.
#[derive(Parser)]
#[command(name = "ft-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record a real redis-server under mixed load, then replay: equal digests and equal memory are demanded.
    Lockstep(LockstepArgs),
    /// Show a host die under a loaded redis-server: what the other does, and what clients see of it.
    Demo(demo::DemoArgs),
    /// Faults of all kinds under load, drawn from a seed: nothing may be lost, doubled or reset, and only one host sends.
    Faults(faults::FaultsArgs),
    /// A pair that has lost its backup under load: how long until it has one again, and what clients notice of it.
    Reseed(reseed::ReseedArgs),
    /// Flip bits in the memory of one host: how long until that is found out, and what looking costs.
    Divergence(divergence::DivergenceArgs),
    /// A pair under mixed load for long: no divergence, no takeover, no leak, no event.
    Soak(soak::SoakArgs),
    #[command(hide = true)]
    Mix(soak::MixArgs),
    /// Clients that know every write that was acknowledged: what `demo` and `faults` run in the clients' network.
    Verify(verify::ClientArgs),
    /// Measure redis bare, protected, and with a replica and WAIT 1, side by side in rigs on this machine.
    E2e(E2eArgs),
    /// Measure one system call: bare, trapped, and from a rewritten call site.
    Calls(CallsArgs),
    #[command(hide = true)]
    CallsInside,
    /// Measure the I/O of an event loop: plain epoll, epoll as the engine uses it, io_uring.
    Loops(LoopsArgs),
    /// Ask a redis server from one thread and print rates, latencies and costs: what `e2e` runs in the client's network.
    #[command(hide = true)]
    Load(load::LoadArgs),
}

#[derive(Args)]
struct LockstepArgs {
    /// How long to load the server.
    #[arg(long, conflicts_with = "seconds", required_unless_present = "seconds")]
    minutes: Option<f64>,
    /// How long to load the server.
    #[arg(long)]
    seconds: Option<f64>,
    /// Decides what each client does (0 to draw one); it is printed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the recording is replayed.
    #[arg(long, default_value_t = 2)]
    replays: u32,
    /// Compare the server's whole memory at every K-th input point at which it idles (0: never).
    #[arg(long, value_name = "K", default_value_t = 500)]
    memory_every: u64,
    /// Keep recording, state and the server's output in this new directory. A failed run is kept in any case.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Only these clients, comma-separated (for narrowing down a failure); a wrong name lists all.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Write a line per system call of the recording and of the replays next to the recording: for diff.
    #[arg(long)]
    trace: bool,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args)]
struct E2eArgs {
    /// Measure what is demanded of a pair, and fail if a figure falls short of it.
    #[arg(long, conflicts_with = "skip_faults")]
    check: bool,
    /// With --check: no faults. What was not measured is named.
    #[arg(long, requires = "check", conflicts_with_all = ["fault_rounds", "campaign", "only"])]
    quick: bool,
    /// With --check: so many faults of all kinds (38; with --only none).
    #[arg(long, value_name = "COUNT", requires = "check")]
    campaign: Option<u32>,
    /// How long to measure each load on each system, in each round (3; with --check 1.5).
    #[arg(long)]
    seconds: Option<f64>,
    /// How long each load runs before it is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warm_up: f64,
    /// How often (3; with --check 5); the systems alternate in each round.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How often the primary is killed in each way (3; with --check 20).
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    fault_rounds: Option<u32>,
    /// Only these systems, loads and faults, comma-separated; a wrong name lists all. With --check only faults.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Kill nothing.
    #[arg(long)]
    skip_faults: bool,
    /// `json`: one object with every sample; the tables go to stderr.
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

#[derive(Args)]
struct CallsArgs {
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

#[derive(Args)]
struct LoopsArgs {
    /// So many at a time, one after the other.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", default_value = "1,50", value_parser = clap::value_parser!(u32).range(1..=250))]
    connections: Vec<u32>,
    /// How often; the loops alternate in each round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// For each loop in each round.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1000..))]
    requests: u32,
}

/// As clap says it.
const EXIT_USAGE: u8 = 2;
/// As shells say it of SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Lockstep(a) => run_lockstep(a),
        Command::E2e(a) => e2e(a),
        Command::Calls(a) => run_calls(&a),
        Command::CallsInside => {
            calls::inside();
            ExitCode::SUCCESS
        }
        Command::Loops(a) => run_loops(a),
        Command::Load(a) => load(&a),
        Command::Demo(a) => demo::run(&a),
        Command::Reseed(a) => reseed::run(&a),
        Command::Divergence(a) => divergence::run(&a),
        Command::Faults(a) => faults::run(&a),
        Command::Soak(a) => soak::run(&a),
        Command::Mix(a) => soak::mix(&a),
        Command::Verify(a) => verify::run(&a),
    }
}

/// Why a run ended early.
fn stopped(e: &std::io::Error) -> ExitCode {
    eprintln!("ft-bench: {e}");
    let interrupted = e.kind() == std::io::ErrorKind::Interrupted;
    if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::FAILURE }
}

fn check_root() -> std::io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::geteuid() } {
        0 => Ok(()),
        _ => Err(std::io::Error::other("a rig needs root: namespaces and mounts")),
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("ft-bench: {what}");
    ExitCode::from(EXIT_USAGE)
}

fn run_lockstep(a: LockstepArgs) -> ExitCode {
    let seconds = a.minutes.map(|m| m * 60.0).or(a.seconds).unwrap_or_default();
    let Ok(time) = Duration::try_from_secs_f64(seconds) else {
        return usage(&format!("a time of {seconds} s makes no sense"));
    };
    let seed = if a.seed == 0 { fastrand::u64(1..) } else { a.seed };
    let ft = match ft_program(a.ft.as_deref()) {
        Ok(ft) => ft,
        Err(e) => return usage(&e.to_string()),
    };
    let run = lockstep::Lockstep {
        time,
        seed,
        replays: a.replays,
        memory_every: a.memory_every,
        keep: a.keep,
        only: a.only,
        trace: a.trace,
        ft,
    };
    match run.run() {
        Ok(summary) => {
            println!("{}", serde_json::to_string(&summary).expect("plain numbers and text"));
            if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => usage(&e.to_string()),
    }
}

fn e2e(a: E2eArgs) -> ExitCode {
    let time = |what: &str, seconds: f64, min: f64| {
        let sane = (min..=load::SECONDS_MAX).contains(&seconds);
        let wrong = || format!("{what} {seconds}: not within {min} to {} seconds", load::SECONDS_MAX);
        sane.then(|| Duration::from_secs_f64(seconds)).ok_or_else(wrong)
    };
    if a.check {
        return check(&a, &time);
    }
    let prepared = || {
        let run = e2e::E2e {
            window: time("--seconds", a.seconds.unwrap_or(3.0), 0.1)?,
            warm_up: time("--warm-up", a.warm_up, 0.0)?,
            rounds: a.rounds.unwrap_or(3),
            fault_rounds: a.fault_rounds.unwrap_or(3),
            only: a.only.clone(),
            skip_faults: a.skip_faults,
            ft: ft_program(a.ft.as_deref()).map_err(|e| e.to_string())?,
        };
        let plan = run.plan()?;
        Ok::<_, String>((run, plan))
    };
    let (run, plan) = match prepared() {
        Ok(p) => p,
        Err(e) => return usage(&e),
    };
    match run.run(plan) {
        Ok(r) => print(a.output, &e2e::text(&r), &r, r.ok),
        Err(e) => stopped(&e),
    }
}

fn check(a: &E2eArgs, time: &dyn Fn(&str, f64, f64) -> Result<Duration, String>) -> ExitCode {
    let prepared = || {
        let many = |asked: Option<u32>, usual: u32| if a.quick { 0 } else { asked.unwrap_or(usual) };
        let check = e2e::check::Check {
            window: time("--seconds", a.seconds.unwrap_or(1.5), 0.1)?,
            warm_up: time("--warm-up", a.warm_up, 0.0)?,
            rounds: a.rounds.unwrap_or(5),
            fault_rounds: many(a.fault_rounds, 20),
            campaign: many(a.campaign, if a.only.is_empty() { 38 } else { 0 }),
            only: a.only.clone(),
        };
        check.known()?;
        let program = ft_program(a.ft.as_deref()).map_err(|e| e.to_string())?;
        let stop = rig::child::Stop::on_signals().map_err(|e| format!("catching signals: {e}"))?;
        Ok::<_, String>((check, rig::Ft { program, stop }))
    };
    let (check, ft) = match prepared() {
        Ok(p) => p,
        Err(e) => return usage(&e),
    };
    match check.run(&ft) {
        Ok(r) => print(a.output, &e2e::check::text(&r), &r, r.ok),
        Err(e) => stopped(&e),
    }
}

/// The text, or one JSON object on stdout and the text on stderr; and the exit status.
fn print(output: Format, text: &str, results: &impl serde::Serialize, ok: bool) -> ExitCode {
    match output {
        Format::Text => println!("{text}"),
        Format::Json => {
            eprintln!("{text}");
            println!("{}", serde_json::to_string(results).expect("plain numbers and text"));
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_calls(a: &CallsArgs) -> ExitCode {
    let ft = match ft_program(a.ft.as_deref()) {
        Ok(ft) => ft,
        Err(e) => return usage(&e.to_string()),
    };
    match calls::run(&ft, a.rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ft-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run_loops(a: LoopsArgs) -> ExitCode {
    let LoopsArgs { connections, rounds, requests } = a;
    match (loops::Loops { connections, rounds, requests }).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ft-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The given one, or the one beside this program.
fn ft_program(given: Option<&Path>) -> std::io::Result<PathBuf> {
    let ft = match given {
        Some(p) => p.to_owned(),
        None => std::env::current_exe()?.with_file_name("ft"),
    };
    if !ft.is_file() {
        let what = format!("{} is not there: cargo build --release -p ft-runtime, or --ft FILE", ft.display());
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, what));
    }
    // A path without a directory would be looked for elsewhere.
    ft.canonicalize()
}

fn load(a: &load::LoadArgs) -> ExitCode {
    if let Err(e) = a.check() {
        return usage(&e);
    }
    match a.run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("ft-bench: {e}");
            ExitCode::FAILURE
        }
    }
}
