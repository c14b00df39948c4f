//! `ft run --solo` and `ft record`: a guest without a peer, with or without a recording.

use crate::archive;
use crate::engine::log::{NoLog, Recorder};
use crate::flight::{Keeper, snapshot_prefix};
use crate::flight::recorder::FlightRecorder;
use crate::logfile::{Header, LogWriter, OsText, hex};
use crate::engine::Outcome;
use crate::engine::log::Log;
use crate::pair::status::{ControlSocket, Shown, StatusBoard};
use crate::snapshot::taker::Taker;
use crate::preload::{Program, await_program, open_reception};
use crate::start::{Error, Show, Surroundings, exit_code_of, io_error, prepare_process, run_primary};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Of the time that a ring covers: what is kept beyond that time is at most one of so many parts.
const SEGMENTS: u32 = 4;

/// The server of a run without a peer.
#[derive(Clone, Debug)]
pub enum Server {
    /// Started here.
    Command(Vec<OsString>),
    /// Started by somebody else with the shim preloaded; it comes to this control socket.
    Preload(PathBuf),
}

impl Server {
    /// Runs it to its end with the log that `log` makes for its surroundings.
    fn run(
        &self,
        memory_every: u64,
        show: &Show,
        snapshots: Option<Taker>,
        log: impl FnOnce(&mut Surroundings) -> Result<Box<dyn Log>, Error>,
    ) -> Result<Outcome, Error> {
        let signals = prepare_process()?;
        match self {
            Self::Command(command) => {
                let mut s = Surroundings::here(command, memory_every)?;
                let log = log(&mut s)?;
                run_primary(&s, log, show, signals, |_| {}, |_| {}, snapshots)
            }
            Self::Preload(socket) => {
                let service = socket.file_stem().unwrap_or(socket.as_os_str()).to_string_lossy();
                let board = StatusBoard::new(&service, "this host", "nobody");
                let reception = open_reception(&board)?;
                let _control = ControlSocket::open(socket, board.clone())
                    .map_err(io_error(format!("the control socket {}", socket.display())))?;
                let Program { adoptee, refusal, surroundings: mut s } =
                    await_program(&reception, &board, &signals, memory_every)?;
                let started = |pid: Pid| {
                    board.set_guest(pid.as_raw());
                    board.set(Shown { role: "solo", state: "not protected: there is no other host", term: 0 });
                };
                log(&mut s)
                    .and_then(|l| run_primary(&s, l, show, signals, |spec| spec.adoptee = Some(adoptee), started, snapshots))
                    .inspect_err(|e| refusal.say(&e.to_string()))
            }
        }
    }
}

/// `ft run --solo`: the exit status.
pub fn solo(server: &Server, show: &Show) -> Result<i32, Error> {
    let outcome = server.run(0, show, None, |_| Ok(Box::new(NoLog::default())))?;
    Ok(exit_code_of(&outcome))
}

/// `ft record`.
pub struct Record {
    pub output: PathBuf,
    pub state_dirs: Vec<PathBuf>,
    pub memory_every: u64,
    pub memory_slices: bool,
    /// Take a snapshot so often.
    pub snapshot_every: Option<Duration>,
    /// Only so much is kept, and `output` is a directory: a ring.
    pub last: Option<Duration>,
    /// The ring's files take no more, but for a snapshot that is being written.
    pub max_bytes: u64,
    pub server: Server,
    pub show: Show,
}

impl Record {
    /// The exit status.
    pub fn run(&self) -> Result<i32, Error> {
        if let Some(last) = self.last {
            return self.run_ring(last);
        }
        let dirs = state_dirs(&self.state_dirs, &self.output)?;
        let snapshots = self.snapshot_every.map(|every| Taker::into_files(beside(&self.output), every, dirs.clone()));
        let outcome = self.server.run(self.memory_every, &self.show, snapshots, |s| {
            s.memory_slices = self.memory_slices;
            let header = header(s, &dirs)?;
            let writer = LogWriter::create(&self.output, &header, |k, out| archive::pack(&dirs[k], out))?;
            Ok(Box::new(Recorder::new(writer)))
        })?;
        Ok(exit_code_of(&outcome))
    }

    fn run_ring(&self, last: Duration) -> Result<i32, Error> {
        let keeper = Arc::new(Keeper::create(&self.output, last, self.max_bytes).map_err(io_error(self.output.display().to_string()))?);
        let dirs = state_dirs(&self.state_dirs, &snapshot_prefix(&self.output))?;
        let every = self.snapshot_every.unwrap_or(last / SEGMENTS);
        let snapshots = Taker::into_ring(keeper.clone(), every, dirs.clone());
        let outcome = self.server.run(self.memory_every, &self.show, Some(snapshots), |s| {
            s.memory_slices = self.memory_slices;
            let first = |path: &Path, h: &Header| LogWriter::create(path, h, |k, out| archive::pack(&dirs[k], out));
            Ok(Box::new(FlightRecorder::begin(keeper, header(s, &dirs)?, first)?))
        })?;
        Ok(exit_code_of(&outcome))
    }
}

/// Snapshots lie beside the recording.
fn beside(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".snapshot");
    name.into()
}

/// Absolute and without symbolic links, so that they name the same in a replay.
fn state_dirs(given: &[PathBuf], output: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut out: Vec<PathBuf> = Vec::with_capacity(given.len());
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let output_dir = fs::canonicalize(parent).map_err(io_error(parent.display().to_string()))?;
    for d in given {
        let full = fs::canonicalize(d).map_err(io_error(format!("state directory {}", d.display())))?;
        if !full.is_dir() || full == Path::new("/") {
            return Err(Error::Refused(format!("{} can't be a state directory: name a directory below /", d.display())));
        }
        if output_dir.starts_with(&full) {
            return Err(Error::Refused(format!(
                "the recording would lie in the state directory {}: write it elsewhere",
                d.display()
            )));
        }
        if let Some(other) = out.iter().find(|o| full.starts_with(o) || o.starts_with(&full)) {
            return Err(Error::Refused(format!("state directories {} and {} overlap", other.display(), d.display())));
        }
        out.push(full);
    }
    Ok(out)
}

fn header(s: &Surroundings, dirs: &[PathBuf]) -> Result<Header, Error> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(io_error("the kernel's release"))?;
    let variable = |(name, value): &(OsString, OsString)| {
        let mut v = name.clone();
        v.push("=");
        v.push(value);
        OsText(v)
    };
    Ok(Header {
        ft_version: env!("CARGO_PKG_VERSION").into(),
        program: OsText(s.program.clone().into()),
        program_sha256: sha256(&s.program).map_err(io_error(s.program.display().to_string()))?,
        argv: s.argv.iter().cloned().map(OsText).collect(),
        env: s.env.iter().map(variable).collect(),
        cwd: OsText(s.cwd.clone().into()),
        umask: s.umask,
        seed: s.seed,
        at_random: hex(&s.at_random),
        memory_every: s.memory_every,
        memory_slices: s.memory_slices,
        kernel_release: release.trim().into(),
        state_dirs: dirs.iter().map(|d| OsText(d.clone().into())).collect(),
        segment: None,
        stdout: crate::replay::StreamKind::of(&io::stdout()),
        stderr: crate::replay::StreamKind::of(&io::stderr()),
    })
}

/// Digest of a file, hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut b = vec![0; 1 << 16];
    loop {
        match file.read(&mut b)? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&b[..n]),
        }
    }
}
