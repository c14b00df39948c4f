//! `ft`: what people type. Parses, calls, prints; nothing is decided here.

use clap::{Args, Parser, Subcommand};
use ft_runtime::link::PrivateKey;
use ft_runtime::failover::arbiter::witness::command as witness;
use ft_runtime::record::{self, Record, Server};
use ft_runtime::config::Config;
use ft_runtime::pair::guard;
use ft_runtime::pair::status::command::{EventsArgs, StatusArgs};
use ft_runtime::pair::status::ordered::{BackupCommand, ForceArgs, OrderArgs};
use ft_runtime::replay::Replay;
use ft_runtime::rig::cli::Rig;
use ft_runtime::start::{EXIT_FT, Error, Show};
use ft_runtime::until::Until;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::exit;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Keeps an unmodified server alive through the loss of its machine.
#[derive(Parser)]
#[command(name = "ft", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server.
    Run(Run),
    /// Run a server and record all it learns from outside.
    Record(RecordArgs),
    /// Run a recorded server again and check that it does the same.
    Replay(ReplayArgs),
    /// What a host of a pair says of itself.
    Status(StatusArgs),
    /// What has happened on a host of a pair.
    Events(EventsArgs),
    /// Have this host serve alone where nothing can decide it: by your word that the other host is off.
    Force(ForceArgs),
    /// Have the other host of a pair serve, and this one protect it: for maintenance. No client's connection breaks.
    Switchover(OrderArgs),
    /// On the primary: go on without a backup, and admit none, until `ft resume`. No client's connection breaks.
    Pause(OrderArgs),
    /// On the primary: end `ft pause`. The other host is given the service's state, and protects it again.
    Resume(OrderArgs),
    /// What is done with the backup.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Make this host's key for the link to its peer, and print the public key, which the peer is configured with.
    Keygen(Keygen),
    /// Keep, on a third machine, the record of who serves: the vote that decides between two hosts.
    Witness(WitnessArgs),
    /// What an engine starts beside itself.
    #[command(name = guard::SUBCOMMAND, hide = true)]
    Guard { from: IpAddr, peer: SocketAddr },
    /// A pair of hosts on this one machine, to try, test and measure a server.
    #[command(subcommand)]
    Rig(Rig),
}

#[derive(Args)]
struct Run {
    /// One host of a pair, as FILE says.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["solo", "command", "preload", "trace", "calls"])]
    config: Option<PathBuf>,
    /// Without a peer: nothing is protected.
    #[arg(long, required_unless_present = "config")]
    solo: bool,
    /// Print at the end which system calls were made, and how often.
    #[arg(long)]
    calls: bool,
    #[command(flatten)]
    guest: Guest,
}

#[derive(Args)]
struct RecordArgs {
    /// The recording. With --last a directory, which must be empty or is made.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Keep only what is needed to replay the last while (`10m`, `90s`, `2h`), for as long as the server runs.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    last: Option<Duration>,
    /// With --last: the directory takes no more MiB than this, and a snapshot while it is written. What is too old for
    /// that goes, whatever the time; a log that comes to a quarter of it is ended by a snapshot.
    #[arg(long, value_name = "N", requires = "last", value_parser = clap::value_parser!(u64).range(16..=1 << 30))]
    max_mib: Option<u64>,
    /// A directory whose content at the start belongs to the recording; several are allowed.
    #[arg(long, value_name = "DIR")]
    state: Vec<PathBuf>,
    /// Hash the server's memory at every N-th input point at which it idles (0: never).
    #[arg(long, value_name = "N", default_value_t = 0)]
    memory_every: u64,
    /// Hash 64 pages of it each time, not all: for servers with much memory.
    #[arg(long)]
    memory_slices: bool,
    /// Beside the recording, write a snapshot of the server every so often (FILE.snapshot.POINT), from which it can be
    /// replayed too. With --last: a quarter of that time, unless given.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    snapshot_every: Option<Duration>,
    #[command(flatten)]
    guest: Guest,
}

#[derive(Args)]
struct ReplayArgs {
    /// Go on from this snapshot of the same recording, instead of the start. Of a ring, its input point will do.
    #[arg(long, value_name = "SNAPSHOT")]
    from: Option<PathBuf>,
    /// Follow only the first N entries of the log, then go live and make an own log
    #[arg(long, value_name = "N")]
    live_after: Option<u64>,
    /// Stop at this input point, before the server learns there what it learned; -N: N before the last
    #[arg(long, value_name = "POINT", allow_hyphen_values = true, conflicts_with = "live_after")]
    until: Option<Until>,
    /// Run gdb on the server there, or at the last input point, and go on as gdb says
    #[arg(long, conflicts_with = "live_after")]
    gdb: bool,
    /// The recording: a file, or the directory of --last.
    recording: PathBuf,
    /// Arguments of gdb, e.g. -batch -ex bt.
    #[arg(last = true, requires = "gdb", value_name = "GDB ARGUMENTS")]
    gdb_arguments: Vec<OsString>,
    /// Write a line per system call into FILE.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Keep the private copy of what was changed, and the server's output.
    #[arg(long)]
    keep: bool,
}

/// A time with its unit, that is not zero.
fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| format!("{e}; write 90s, 10m, 2h"))?;
    if time.is_zero() { Err("no time at all: write 90s, 10m, 2h".into()) } else { Ok(time) }
}

/// A time that is not zero.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    time.filter(|t| !t.is_zero()).ok_or_else(|| "not a number of seconds above 0".into())
}

#[derive(Args)]
struct Keygen {
    /// The private key; a file that exists is never overwritten.
    file: PathBuf,
    /// Make nothing: print the public key of the private key in FILE.
    #[arg(long)]
    show: bool,
}

#[derive(Args)]
struct WitnessArgs {
    /// Where hosts reach it, not over the service network alone.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The records; written before anything is granted.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// The secret that hosts and witness share.
    #[arg(long, value_name = "FILE", conflicts_with = "no_key")]
    key: Option<PathBuf>,
    /// Believe whoever connects.
    #[arg(long)]
    no_key: bool,
}

#[derive(Args)]
struct Guest {
    /// Write a line per system call into FILE.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Wait at SOCKET for the server, which somebody starts with FT_SOCKET=SOCKET LD_PRELOAD=libft_shim.so.
    #[arg(long, value_name = "SOCKET", conflicts_with = "command")]
    preload: Option<PathBuf>,
    /// The server and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Guest {
    fn server(&self) -> Server {
        match &self.preload {
            Some(socket) => Server::Preload(socket.clone()),
            None => Server::Command(self.command.clone()),
        }
    }
}

fn main() {
    let filter = EnvFilter::try_from_env("FT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let code = run(Cli::parse()).unwrap_or_else(|e| {
        eprintln!("ft: {e}");
        EXIT_FT
    });
    exit(code);
}

fn run(cli: Cli) -> Result<i32, Error> {
    match cli.command {
        Command::Run(Run { config: Some(file), .. }) => ft_runtime::pair::run::run(&Config::load(&file)?),
        Command::Status(a) => Ok(a.run().map(|()| 0)?),
        Command::Events(a) => Ok(a.run().map(|()| 0)?),
        Command::Force(a) => Ok(a.run().map(|()| 0)?),
        Command::Switchover(a) => Ok(a.switch_over().map(|()| 0)?),
        Command::Pause(a) => Ok(a.pause().map(|()| 0)?),
        Command::Resume(a) => Ok(a.resume().map(|()| 0)?),
        Command::Backup(c) => Ok(c.run().map(|()| 0)?),
        Command::Run(r) => record::solo(&r.guest.server(), &Show { trace: r.guest.trace, calls: r.calls }),
        Command::Record(r) => Record {
            output: r.output,
            state_dirs: r.state,
            memory_every: r.memory_every,
            memory_slices: r.memory_slices,
            snapshot_every: r.snapshot_every,
            last: r.last,
            max_bytes: r.max_mib.map_or(u64::MAX, |n| n << 20),
            server: r.guest.server(),
            show: Show { trace: r.guest.trace, calls: false },
        }
        .run(),
        Command::Rig(r) => Ok(r.run()?),
        Command::Replay(r) => {
            let replay = Replay {
                recording: r.recording,
                from: r.from,
                keep: r.keep,
                live_after: r.live_after,
                until: r.until,
                gdb: r.gdb.then_some(r.gdb_arguments),
                show: Show { trace: r.trace, calls: false },
            };
            let report = replay.run()?;
            let line = serde_json::to_string(&report).expect("a report is plain numbers and text");
            // A reader that went away is no fault of the replay.
            let _ = writeln!(std::io::stdout(), "{line}");
            Ok(report.exit_code())
        }
        Command::Keygen(k) => {
            let key = if k.show {
                PrivateKey::load(&k.file)?
            } else {
                let key = PrivateKey::generate()?;
                key.save(&k.file)?;
                key
            };
            let said = writeln!(std::io::stdout(), "{}", key.public());
            said.map_err(|source| Error::Io { what: "printing the public key".into(), source })?;
            Ok(0)
        }
        Command::Guard { from, peer } => guard::run(from, peer),
        Command::Witness(w) => {
            let witness = witness::Command { listen: w.listen, state: w.state, key: w.key, no_key: w.no_key };
            match witness.run() {
                Ok(never) => match never {},
                Err(e) => {
                    eprintln!("ft witness: {e}");
                    Ok(EXIT_FT)
                }
            }
        }
    }
}
