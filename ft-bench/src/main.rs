//! `ft-bench`: parses, calls, prints. Tables and progress for people go to stderr, one JSON line per run to stdout.

mod demo;
mod lockstep;
mod mix;
mod recording;
mod resp;
mod service;
mod verify;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
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
    /// The demonstration's clients: they know every write that was acknowledged.
    DemoClient(verify::ClientArgs),
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

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Lockstep(a) => run_lockstep(a),
        Command::Demo(a) => demo::run(&a),
        Command::DemoClient(a) => verify::run(&a),
    }
}

fn run_lockstep(a: LockstepArgs) -> ExitCode {
    let seconds = a.minutes.map(|m| m * 60.0).or(a.seconds).unwrap_or_default();
    let Ok(time) = Duration::try_from_secs_f64(seconds) else {
        eprintln!("ft-bench: a time of {seconds} s makes no sense");
        return ExitCode::from(2);
    };
    let seed = if a.seed == 0 { fastrand::u64(1..) } else { a.seed };
    let run = lockstep::Lockstep {
        time,
        seed,
        replays: a.replays,
        memory_every: a.memory_every,
        keep: a.keep,
        only: a.only,
        trace: a.trace,
        ft: a.ft,
    };
    match run.run() {
        Ok(summary) => {
            println!("{}", serde_json::to_string(&summary).expect("plain numbers and text"));
            if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("ft-bench: {e}");
            ExitCode::from(2)
        }
    }
}
