//! What all subcommands that run a guest share: what it is started with, how it is started, how its end becomes ours.

use crate::engine::halt::{Debugging, Halt};
use crate::engine::log::{Log, NoLog};
use crate::engine::trace::{Trace, call_class, call_name};
use crate::engine::{Ended, Engine, EngineError, Outcome, Setup, sys};
use crate::gdb::ReadyGdb;
use crate::guest::{Guest, LaunchError, LaunchSpec, ShimImage, ShimImageError, launch};
use crate::logfile::LogFileError;
use crate::overlay::OverlayError;
use crate::snapshot::EngineState;
use crate::snapshot::taker::Taker;
use ft_log::shared::{Segment, flag, role};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Exit status of `ft` when the fault is not the guest's.
pub const EXIT_FT: i32 = 125;

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {why}", program.display())]
    Program { program: PathBuf, why: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Shim(#[from] ShimImageError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Log(#[from] LogFileError),
    #[error(transparent)]
    Feed(#[from] crate::engine::feed::FeedError),
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error(transparent)]
    Link(#[from] crate::link::LinkError),
    #[error(transparent)]
    Key(#[from] crate::link::KeyError),
    #[error(transparent)]
    Probe(#[from] crate::probe::ProbeError),
    #[error(transparent)]
    Tap(#[from] crate::tap::TapError),
    #[error(transparent)]
    Gate(#[from] crate::gate::error::GateError),
    #[error(transparent)]
    Hello(#[from] crate::link::hello::HelloError),
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Rig(#[from] crate::rig::RigError),
    #[error(transparent)]
    Ask(#[from] crate::pair::status::client::AskError),
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// What a guest is started with; equal in every run of a recording.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Absolute.
    pub program: PathBuf,
    pub argv: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
    pub umask: u32,
    pub seed: u64,
    pub at_random: [u8; 16],
    pub memory_every: u64,
    /// Only a slice of memory is hashed each time.
    pub memory_slices: bool,
}

impl Surroundings {
    /// Our own, for this command line.
    pub fn here(command: &[OsString], memory_every: u64) -> Result<Self, Error> {
        let Some(name) = command.first() else {
            return Err(Error::Refused("no command given: ft ... -- COMMAND ARGUMENTS".into()));
        };
        let cwd = std::env::current_dir().map_err(io_error("the current directory"))?;
        let (seed, at_random) = Self::chance()?;
        Ok(Self {
            program: find(name, &cwd)?,
            argv: command.to_vec(),
            env: std::env::vars_os().collect(),
            cwd,
            umask: umask(),
            seed,
            at_random,
            memory_every,
            memory_slices: false,
        })
    }

    /// Seed, and the bytes for AT_RANDOM.
    pub(crate) fn chance() -> Result<(u64, [u8; 16]), Error> {
        let mut random = [0; 24];
        File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).map_err(io_error("/dev/urandom"))?;
        let (seed, at_random) = random.split_at(8);
        let seed = u64::from_le_bytes(seed.try_into().expect("eight bytes"));
        Ok((seed, at_random.try_into().expect("sixteen bytes")))
    }

    pub(crate) fn spec(&self, role: u32, flags: u64) -> LaunchSpec {
        LaunchSpec {
            program: self.program.clone(),
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            umask: self.umask,
            role,
            flags: flags | if self.memory_slices { flag::MEMORY_SLICES } else { 0 },
            memory_every: self.memory_every,
            hold_at: 0,
            seed: self.seed,
            at_random: self.at_random,
            stdout: None,
            stderr: None,
            pre_exec: None,
            snapshot: None,
            adoptee: None,
        }
    }
}

/// As a shell finds a command.
fn find(name: &OsStr, cwd: &Path) -> Result<PathBuf, Error> {
    if name.as_bytes().contains(&b'/') {
        return Ok(cwd.join(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let is_program = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|d| cwd.join(d).join(name)).find(is_program).ok_or_else(|| Error::Program {
        program: name.into(),
        why: "not found in PATH; install it or give its path".into(),
    })
}

fn umask() -> u32 {
    // SAFETY: no pointers. The only way to read it is to set it; this process makes no file in between.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

/// What a run is to show besides its result.
#[derive(Clone, Debug, Default)]
pub struct Show {
    /// A line per call into this file.
    pub trace: Option<PathBuf>,
    /// A census of calls on stderr.
    pub calls: bool,
}

impl Show {
    fn flags(&self) -> u64 {
        let bit = |on, b| if on { b } else { 0 };
        bit(self.trace.is_some(), flag::TRACE) | bit(self.calls, flag::CENSUS)
    }

    fn open_trace(&self) -> Result<Option<Trace>, Error> {
        let open = |p: &PathBuf| Trace::create(p).map_err(io_error(p.display().to_string()));
        self.trace.as_ref().map(open).transpose()
    }
}

/// Makes this process fit for a guest's engine, whatever the role. Signals arrive at the descriptor from now on.
pub fn prepare_process() -> Result<OwnedFd, Error> {
    // SAFETY: prctl with integers. Children whose parent in the guest ended come to us and are reaped.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    sys::provide_descriptors();
    sys::catch_signals().map_err(io_error("catching signals"))
}

pub(crate) fn setup(guest: Guest, signals: OwnedFd, trace: Option<Trace>) -> Result<Setup, Error> {
    Ok(Setup {
        segment: guest.segment,
        doorbell: guest.doorbell.try_clone().map_err(io_error("duplicating the doorbell"))?,
        process: Box::new(guest),
        signals: Some(signals),
        trace,
        snapshots: None,
    })
}

/// Runs a guest that makes its log; `adapt` changes how it is started, `started` hears of its pid.
pub fn run_primary(
    s: &Surroundings,
    log: Box<dyn Log>,
    show: &Show,
    signals: OwnedFd,
    adapt: impl FnOnce(&mut LaunchSpec),
    started: impl FnOnce(Pid),
    snapshots: Option<Taker>,
) -> Result<Outcome, Error> {
    let trace = show.open_trace()?;
    let mut spec = s.spec(role::PRIMARY, show.flags());
    adapt(&mut spec);
    let guest = launch(&mut spec, &ShimImage::embedded()?)?;
    started(guest.pid);
    let segment = guest.segment;
    let setup = Setup { snapshots, ..setup(guest, signals, trace)? };
    let outcome = Engine::primary(setup, log)?.run()?;
    if show.calls {
        print_census(&segment);
    }
    Ok(outcome)
}

/// What a guest that follows a log does besides.
pub enum Beyond {
    /// Nothing: the run ends with the log.
    Nothing,
    /// At the log's end it goes live, with what was known where it begins.
    Live(EngineState),
    /// It stands still at this input point, and the run ends.
    Stop(u64),
    /// It stands still there for a debugger.
    Debug(u64, ReadyGdb),
}

/// Runs a guest that follows a log; `adapt` changes how it is started.
pub fn run_backup(
    s: &Surroundings,
    feed: crate::engine::feed::Feed<crate::logfile::Cursors>,
    show: &Show,
    signals: OwnedFd,
    beyond: Beyond,
    adapt: impl FnOnce(&mut LaunchSpec),
) -> Result<Outcome, Error> {
    let trace = show.open_trace()?;
    let mut spec = s.spec(role::BACKUP, show.flags());
    if let Beyond::Stop(point) | Beyond::Debug(point, _) = beyond {
        spec.hold_at = point;
    }
    adapt(&mut spec);
    let guest = launch(&mut spec, &ShimImage::embedded()?)?;
    // Ours are the other ends of pipes whose end the readers wait for.
    drop(spec);
    let pid = guest.pid;
    let setup = setup(guest, signals, trace)?;
    let engine = match beyond {
        Beyond::Nothing => Engine::backup(setup, feed)?,
        Beyond::Live(begins) => Engine::backup_then_primary(setup, feed, Box::new(NoLog::default()), begins)?,
        Beyond::Stop(point) => Engine::backup_that_halts(setup, feed, Halt::End { point })?,
        Beyond::Debug(_, gdb) => Engine::backup_that_halts(setup, feed, Halt::Debug(Debugging::new(gdb, pid)))?,
    };
    Ok(engine.run()?)
}

/// A wait status as a shell shows it.
pub fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Exit status of `ft` after a run that makes its log.
pub fn exit_code_of(outcome: &Outcome) -> i32 {
    match outcome.ended {
        Ended::Exited { status, .. } => exit_code(status),
        Ended::Detached(_) => 0,
        Ended::Interrupted(signo) => 128 + i32::from(signo),
        Ended::LogEnd | Ended::Held(_) | Ended::Debugged(_) | Ended::Diverged(_) | Ended::Stuck(_) | Ended::Left(_) | Ended::Rejoins(_) => EXIT_FT,
    }
}

fn print_census(segment: &Segment) {
    let census = &segment.header().census;
    let mut calls: Vec<(u64, usize)> =
        census.iter().enumerate().map(|(nr, n)| (n.load(Ordering::Relaxed), nr)).filter(|(n, _)| *n > 0).collect();
    calls.sort_by_key(|(n, nr)| (std::cmp::Reverse(*n), *nr));
    let total: u64 = calls.iter().map(|(n, _)| n).sum();
    eprintln!("{:>12}  calls by {} kinds", total, calls.len());
    let first = &segment.domain(0).status;
    let [hooked, sites] = [&first.hooked, &first.rewritten].map(|n| n.load(Ordering::Relaxed));
    eprintln!("{hooked:>12}  without a trap, at {sites} rewritten call sites (the service's first process)");
    for (n, nr) in calls {
        let name = call_name(nr).map_or_else(|| format!("call {nr}"), str::to_owned);
        eprintln!("{n:>12}  {name:<24} {}", call_class(nr));
    }
}
