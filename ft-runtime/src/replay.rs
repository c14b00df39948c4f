//! `ft replay`: the guest of a recording once more, in a private copy of the file system, compared at every step.

use crate::archive;
use crate::engine::backup::describe_status;
use crate::engine::feed::Feed;
use crate::engine::{Ended, EngineError, Outcome};
use crate::logfile::{End, Header, Recording};
use crate::flight::ring::Ring;
use crate::gdb::Gdb;
use crate::overlay::PrivateRoot;
use crate::record::sha256;
use crate::snapshot::Source;
use crate::snapshot::file::SnapshotReader;
use crate::snapshot::tree::Making;
use crate::start::{Beyond, EXIT_FT, Error, Show, Surroundings, exit_code, io_error, prepare_process, run_backup};
use crate::until::{Points, Until};
use ft_log::ids::InputPoint;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After the guest's end: for its last output to be read.
const READERS_MAX: Duration = Duration::from_secs(5);

/// `ft replay`.
pub struct Replay {
    pub recording: PathBuf,
    pub keep: bool,
    /// Go on from this snapshot, of the same recording, instead of the start. Of a ring: its path or its input point.
    pub from: Option<PathBuf>,
    /// Stop there.
    pub until: Option<Until>,
    /// Run gdb on the guest there, or near the end, with these arguments.
    pub gdb: Option<Vec<OsString>>,
    /// Only so many entries; then the guest goes live.
    pub live_after: Option<u64>,
    pub show: Show,
}

/// The one line that `ft replay` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub ok: bool,
    pub entries: u64,
    pub points: u64,
    pub input_bytes: u64,
    pub output_bytes: u64,
    pub memory_checks: u64,
    pub domains: u64,
    pub seconds: f64,
    pub exit_status: Option<i32>,
    pub reason: String,
}

impl Report {
    /// Exit status of `ft`.
    pub fn exit_code(&self) -> i32 {
        i32::from(!self.ok)
    }
}

/// What a standard stream of the recorded guest was: a program may behave differently on a pipe and a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    Pipe,
    File,
    Terminal,
    Socket,
    #[default]
    Null,
}

impl StreamKind {
    /// Of one of our own.
    pub fn of(stream: &(impl AsFd + IsTerminal)) -> Self {
        let Ok(stat) = nix::sys::stat::fstat(stream.as_fd()) else { return Self::Null };
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFIFO => Self::Pipe,
            libc::S_IFREG => Self::File,
            libc::S_IFSOCK => Self::Socket,
            _ if stream.is_terminal() => Self::Terminal,
            _ => Self::Null,
        }
    }
}

impl Replay {
    pub fn run(&self) -> Result<Report, Error> {
        let Ring { recording, snapshot, later } = self.open()?;
        let surroundings = surroundings(&recording.header)?;
        check_program(&recording.header, &surroundings.program)?;
        let mut snapshot = snapshot.as_deref().map(SnapshotReader::open).transpose()?;
        if snapshot.as_ref().is_some_and(|s| s.head.seed != recording.header.seed) {
            return Err(Error::Refused("the snapshot is of another recording; use one that was taken with this one".into()));
        }
        let halt = self.halt(&recording, snapshot.as_ref().map_or(1, |s| s.head.point))?;
        let gdb = self.gdb.as_ref().map(|arguments| Gdb::find(&surroundings.program, arguments)).transpose()?;
        // Before anything temporary exists: from here a signal ends the replay in order.
        let signals = prepare_process()?;
        let mut root = PrivateRoot::create(self.keep)?;
        let mut files = Making::default();
        match &snapshot {
            Some(s) => s.head.trees.iter().try_for_each(|t| root.replace(Path::new(&t.path.0), |to| files.add(t, to)))?,
            None => {
                for (k, dir) in recording.header.state_dirs.iter().enumerate() {
                    root.replace(Path::new(&dir.0), |to| archive::unpack(recording.state(k), to))?;
                }
            }
        }
        let enter = root.enter()?;
        let keep = self.keep.then(|| root.dir().to_owned());
        let out = Stream::open(recording.header.stdout, keep.as_ref().map(|d| d.join("stdout")))?;
        let err = Stream::open(recording.header.stderr, keep.as_ref().map(|d| d.join("stderr")))?;
        let start = Instant::now();
        let (out_end, out_reader) = (out.guest, out.reader);
        let (err_end, err_reader) = (err.guest, err.reader);
        let mut cursors = recording.cursors();
        if let Some(n) = self.live_after {
            cursors.limit(n);
        }
        let mut feed = Feed::new(cursors);
        // A ring's log begins where its snapshot does.
        if let Some(s) = snapshot.as_ref().filter(|_| recording.header.segment.is_none()) {
            feed.skip_to(InputPoint(s.head.point)).map_err(EngineError::from)?;
        }
        let begins = snapshot.as_mut().map(|s| std::mem::take(&mut s.engine)).unwrap_or_default();
        let beyond = match (halt, gdb) {
            (Some(point), Some(gdb)) => Beyond::Debug(point, gdb.ready(root.dir())?),
            (Some(point), None) => Beyond::Stop(point),
            _ if self.live_after.is_some() => Beyond::Live(begins),
            _ => Beyond::Nothing,
        };
        let result = run_backup(&surroundings, feed, &self.show, signals, beyond, |spec| {
            spec.stdout = Some(out_end);
            spec.stderr = Some(err_end);
            spec.pre_exec = Some(enter);
            spec.snapshot = snapshot.map(|reader| Source { reader, files });
        });
        let seconds = start.elapsed().as_secs_f64();
        // The guest and with it the writing ends are gone.
        for reader in [out_reader, err_reader].into_iter().flatten() {
            await_reader(&reader);
        }
        drop(root);
        let result = result.inspect(|outcome| {
            if let Ended::Diverged(scene) = &outcome.ended {
                eprint!("{}", scene.text(None, &surroundings.program));
            }
        });
        let mut report = report(&recording, result?, seconds, self.live_after.is_some());
        if let Some(snapshot) = later {
            report.reason.push_str(&format!("; the log after that is lost, and goes on at {}: --from", snapshot.display()));
        }
        Ok(report)
    }

    fn open(&self) -> Result<Ring, Error> {
        if self.recording.is_dir() {
            return Ok(Ring::open(&self.recording, self.from.as_deref())?);
        }
        Ok(Ring { recording: Recording::open(&self.recording)?, snapshot: self.from.clone(), later: None })
    }

    /// The input point at which the guest is to stand still, if it is. `first`: where it begins.
    fn halt(&self, recording: &Recording, first: u64) -> Result<Option<u64>, Error> {
        if self.until.is_none() && self.gdb.is_none() {
            return Ok(None);
        }
        // Without a word of the user's: before the last that the guest learned, so that it does with the debugger what it did then.
        let until = self.until.unwrap_or(Until::FromEnd(0));
        Points::of(recording, first)?.find(until).map(Some).map_err(Error::Refused)
    }
}

fn surroundings(h: &Header) -> Result<Surroundings, Error> {
    let bad = |what: &str| Error::Refused(format!("the recording's header has no usable {what}"));
    let env = h.env.iter().map(|v| {
        let b = v.0.as_bytes();
        // A name may begin with '=' as little as here as in a shell.
        let cut = b.iter().skip(1).position(|c| *c == b'=').ok_or_else(|| bad("environment"))? + 1;
        let part = |p: &[u8]| std::ffi::OsStr::from_bytes(p).to_owned();
        Ok((part(&b[..cut]), part(&b[cut + 1..])))
    });
    Ok(Surroundings {
        program: PathBuf::from(&h.program.0),
        argv: h.argv.iter().map(|a| a.0.clone()).collect(),
        env: env.collect::<Result<_, Error>>()?,
        cwd: PathBuf::from(&h.cwd.0),
        umask: h.umask,
        seed: h.seed,
        at_random: h.at_random_bytes().ok_or_else(|| bad("at_random"))?,
        memory_every: h.memory_every,
        memory_slices: h.memory_slices,
    })
}

fn check_program(h: &Header, program: &Path) -> Result<(), Error> {
    let found = sha256(program).map_err(io_error(format!("the recorded program {}", program.display())))?;
    if found != h.program_sha256 {
        return Err(Error::Refused(format!(
            "{} is not the program that was recorded (SHA-256 {found}, recorded {}); put that version back to replay",
            program.display(),
            h.program_sha256
        )));
    }
    let here = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if here.trim() != h.kernel_release {
        tracing::warn!("recorded on kernel {}, this is {}", h.kernel_release, here.trim());
    }
    Ok(())
}

/// A stream of the recorded kind, whose content nobody needs.
struct Stream {
    guest: OwnedFd,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    /// `keep`: into that file, whatever the kind can do for it.
    fn open(kind: StreamKind, keep: Option<PathBuf>) -> Result<Self, Error> {
        let fail = || io_error("a stream for the guest");
        let sink: Option<File> = match &keep {
            Some(p) => Some(File::create(p).map_err(io_error(p.display().to_string()))?),
            None => None,
        };
        match kind {
            StreamKind::Null => {
                let f = File::options().read(true).write(true).open("/dev/null").map_err(fail())?;
                Ok(Self { guest: f.into(), reader: None })
            }
            StreamKind::File => {
                let file = match sink {
                    Some(f) => f,
                    None => nix::fcntl::open(
                        "/var/tmp",
                        nix::fcntl::OFlag::O_TMPFILE | nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
                        nix::sys::stat::Mode::from_bits_truncate(0o600),
                    )
                    .map_err(|e| fail()(e.into()))?
                    .into(),
                };
                Ok(Self { guest: file.into(), reader: None })
            }
            StreamKind::Pipe => {
                let (read, write) =
                    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| fail()(e.into()))?;
                Ok(Self { guest: write, reader: Some(drain(read, sink)) })
            }
            StreamKind::Socket => {
                let (ours, guest) = std::os::unix::net::UnixStream::pair().map_err(fail())?;
                Ok(Self { guest: guest.into(), reader: Some(drain(ours.into(), sink)) })
            }
            StreamKind::Terminal => {
                let (master, slave) = terminal().map_err(fail())?;
                Ok(Self { guest: slave, reader: Some(drain(master, sink)) })
            }
        }
    }
}

/// Until a reader has all: at once, unless a process that escaped holds the other end.
fn await_reader(reader: &JoinHandle<()>) {
    let end = Instant::now() + READERS_MAX;
    while !reader.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads to the end so that the guest never blocks.
fn drain(from: OwnedFd, to: Option<File>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = File::from(from);
        let copied = match to {
            Some(mut f) => io::copy(&mut from, &mut f),
            None => io::copy(&mut from.by_ref(), &mut io::sink()),
        };
        // A terminal's master ends by EIO.
        if let Err(e) = copied
            && e.raw_os_error() != Some(libc::EIO)
        {
            tracing::warn!("reading the guest's output: {e}");
        }
    })
}

fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use std::os::fd::FromRawFd;
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: openpty writes two descriptors; null means default name, settings and size. Both are new and ours.
    unsafe {
        if libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)))
    }
}

/// Did the replay do what the recording says?
fn report(recording: &Recording, outcome: Outcome, seconds: f64, live: bool) -> Report {
    let s = outcome.stats;
    let (ok, exit_status, reason) = match outcome.ended {
        Ended::Exited { status, .. } if live => {
            (true, Some(exit_code(status)), format!("the guest went live and ended with {}", describe_status(status)))
        }
        _ => judge(recording.end, &outcome),
    };
    let mut reason = reason;
    if let End::Torn { offset, dropped } = recording.end
        && !matches!(outcome.ended, Ended::Held(_))
    {
        reason.push_str(&format!(
            "; the recording is torn at offset {offset} ({dropped} bytes dropped): replayed to entry {}",
            recording.entries
        ));
    }
    Report {
        ok,
        entries: s.entries,
        points: s.points,
        input_bytes: s.input_bytes,
        output_bytes: s.output_bytes,
        memory_checks: s.memory_checks,
        domains: s.domains,
        seconds,
        exit_status,
        reason,
    }
}

fn judge(end: End, outcome: &Outcome) -> (bool, Option<i32>, String) {
    match &outcome.ended {
        Ended::Exited { status, logged: true } => {
            (true, Some(exit_code(*status)), format!("the guest ended as recorded, {}", describe_status(*status)))
        }
        Ended::Exited { status, logged: false } => {
            let how = describe_status(*status);
            match end {
                End::Exited { status: recorded, .. } if recorded == *status => {
                    (true, Some(exit_code(*status)), format!("the guest died as recorded, {how}"))
                }
                _ => (false, Some(exit_code(*status)), format!("the guest died, {how}; in the recording it did not")),
            }
        }
        Ended::LogEnd => match end {
            End::Exited { logged: true, status } => (
                false,
                None,
                format!("the guest waits for more, in the recording it ended with {}", describe_status(status)),
            ),
            End::Exited { status, .. } => (
                true,
                Some(exit_code(status)),
                format!("the guest waits where it was killed in the recording, {}", describe_status(status)),
            ),
            End::Stopped | End::Continued | End::Torn { .. } => (true, None, "the guest waits at the recording's end".into()),
        },
        Ended::Diverged(scene) => (false, None, format!("diverged: {}", scene.what)),
        Ended::Held(point) => (true, None, format!("stopped at input point {point}")),
        Ended::Debugged(point) => (true, None, format!("gdb has ended; the guest had come to input point {point}")),
        Ended::Stuck(text) => (false, None, format!("stuck: {text}")),
        Ended::Left(why) | Ended::Detached(why) | Ended::Rejoins(why) => (false, None, why.clone()),
        Ended::Interrupted(signo) => (false, Some(EXIT_FT), format!("interrupted by signal {signo}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::scene::Scene;
    use crate::engine::Stats;

    fn judged(end: End, ended: Ended) -> bool {
        judge(end, &Outcome { ended, stats: Stats::default(), refused: Vec::new() }).0
    }

    #[test]
    fn only_the_recorded_end_is_right() {
        let exited = |status, logged| End::Exited { status, logged };
        let ends = |status, logged| Ended::Exited { status, logged };
        assert!(judged(exited(0, true), ends(0, true)));
        assert!(judged(exited(9, false), Ended::LogEnd));
        assert!(judged(exited(11, false), ends(11, false)));
        assert!(judged(End::Torn { offset: 1, dropped: 2 }, Ended::LogEnd));
        assert!(!judged(exited(9, false), ends(11, false)));
        assert!(!judged(exited(0, true), Ended::LogEnd));
        assert!(!judged(exited(0, true), ends(11, false)));
        assert!(!judged(End::Stopped, Ended::Diverged(Box::new(Scene::bare(0, "x".into())))));
        assert!(!judged(End::Stopped, Ended::Interrupted(15)));
    }

    #[test]
    fn environments_are_split_at_their_first_sign() {
        let mut h: Header = serde_json::from_str(
            r#"{"ft_version":"","program":"/p","program_sha256":"","argv":["p"],"env":["A=b=c","E="],"cwd":"/","umask":18,
            "seed":1,"at_random":"00000000000000000000000000000000","memory_every":0,"kernel_release":"","state_dirs":[]}"#,
        )
        .unwrap();
        let s = surroundings(&h).unwrap();
        assert_eq!(s.env, [("A".into(), "b=c".into()), ("E".into(), "".into())]);
        h.at_random = "00".into();
        assert!(surroundings(&h).is_err());
    }

    #[test]
    fn a_stream_is_of_the_kind_that_was_recorded() {
        for kind in [StreamKind::Pipe, StreamKind::File, StreamKind::Terminal, StreamKind::Socket, StreamKind::Null] {
            let s = Stream::open(kind, None).unwrap();
            assert_eq!(StreamKind::of(&File::from(s.guest.try_clone().unwrap())), kind);
            drop(s.guest);
            if let Some(r) = s.reader {
                r.join().unwrap();
            }
        }
    }
}
