//! One guest program: run bare, recorded, replayed twice, and gone live from any place of its recording, with the same
//! output demanded each time.

use crate::left_out::left_out;
use crate::process::{Finished, Running};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Guest memory is hashed at every so many idle points.
const MEMORY_EVERY: u32 = 20;
/// For one run of one program; each takes well under 2 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);
/// For a network program whose conversation is over; after a failed one it waits for nothing.
const LIMIT_AFTER_FAILURE: Duration = Duration::from_millis(500);
const REPLAYS: u32 = 2;
/// A recording is cut at each of its entries, or at so many places spread over it.
const CUTS_MAX: u64 = 16;
/// Between snapshots, seconds: as often as they can be taken.
const SNAPSHOT_EVERY: &str = "0.001";
/// Of a recording's snapshots so many are gone on from.
const SNAPSHOTS_MAX: u64 = 4;

/// The programs, by name as in `guests/NAME.c`; those that need a client are called `net/NAME`.
pub fn all() -> Vec<String> {
    let sources = sources();
    let mut names = Vec::new();
    for prefix in ["", "net/"] {
        let dir = sources.join(prefix);
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut found: Vec<String> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension() == Some(OsStr::new("c")))
            .filter_map(|p| Some(format!("{prefix}{}", p.file_stem()?.to_str()?)))
            .collect();
        found.sort();
        names.extend(found);
    }
    names
}

/// Those that are run.
pub fn run() -> Vec<String> {
    all().into_iter().filter(|n| left_out().all(|name| name != n)).collect()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
}

/// The `ft` under test: `FT_BIN`, or the workspace's, built now if need be.
pub fn ft() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("FT_BIN") {
        return Ok(given.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of a workspace");
    let built = Command::new(env!("CARGO"))
        .args(["build", "-q", "--release", "-p", "ft-runtime", "--bin", "ft"])
        .current_dir(workspace)
        .output()
        .map_err(|e| format!("can't run cargo to build ft: {e}"))?;
    if !built.status.success() {
        return Err(format!("ft does not build:\n{}", String::from_utf8_lossy(&built.stderr)));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("release/ft"))
}

/// Programs that make the same calls again and again, how many of those come without a trap at least, and at how many
/// rewritten call sites: four of six kinds of them and libc's own; one after another in the same place; libc's own.
pub const REPEATING: [(&str, u64, u64); 3] =
    [("hooked_registers", 4 * 58, 5), ("hooked_remap", 80, 1), ("hooked_signals", 50, 3)];

/// Of `program`'s calls at least `calls` come without a trap, at `sites` rewritten call sites or more.
pub fn comes_without_traps(ft: &Path, program: &str, calls: u64, sites: u64) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("ft-guest-").tempdir().map_err(|e| format!("a directory: {e}"))?;
    let mut c = Command::new(ft);
    c.args(["run", "--solo", "--calls", "--"]).arg(Path::new(env!("GUEST_PROGRAMS")).join(program));
    c.env("GUEST_DIR", dir.path());
    let f = Running::start(c, "counted", dir.path())?.finish(LIMIT)?.success()?;
    let line = f.stderr.lines().find(|l| l.contains("without a trap"));
    let numbers: Vec<u64> = line.unwrap_or("").split_whitespace().filter_map(|w| w.parse().ok()).collect();
    match numbers[..] {
        [c, s] if c >= calls && s >= sites => Ok(()),
        _ => Err(f.report(&format!("should have made {calls} calls without a trap, at {sites} sites"))),
    }
}

/// The test of one program.
pub struct Trial {
    name: String,
    program: PathBuf,
    ft: PathBuf,
    dir: tempfile::TempDir,
}

impl Trial {
    pub fn new(name: &str, ft: &Path) -> Result<Self, String> {
        let program = Path::new(env!("GUEST_PROGRAMS")).join(name);
        let dir = tempfile::Builder::new()
            .prefix("ft-guest-")
            .tempdir()
            .map_err(|e| format!("can't make a temporary directory: {e}"))?;
        fs::create_dir(dir.path().join("state")).map_err(|e| format!("can't make a state directory: {e}"))?;
        Ok(Self { name: name.into(), program, ft: ft.into(), dir })
    }

    /// The same bare, recorded and replayed.
    pub fn run(self) -> Result<(), String> {
        self.keep_if_failed(Self::run_steps)
    }

    /// The same from wherever in its recording it goes live.
    pub fn go_live(self) -> Result<(), String> {
        self.keep_if_failed(Self::go_live_steps)
    }

    /// The same from each of its snapshots on; how many there were.
    pub fn go_on_from_snapshots(self) -> Result<u64, String> {
        let mut found = 0;
        self.keep_if_failed(|t| {
            found = t.snapshot_steps()?;
            Ok(())
        })?;
        Ok(found)
    }

    /// After a failure the directory stays, and the message says where it is.
    fn keep_if_failed(mut self, steps: impl FnOnce(&Self) -> Result<(), String>) -> Result<(), String> {
        steps(&self).map_err(|e| {
            self.dir.disable_cleanup(true);
            format!("{e}\nfiles are in {}", self.dir.path().display())
        })
    }

    fn run_steps(&self) -> Result<(), String> {
        let bare = self.converse("bare", |program, port| {
            let mut c = Command::new(program);
            c.args(port);
            c
        })?;
        self.clear_state()?;
        let state = self.state();
        let with_state = [OsStr::new("--state"), state.as_os_str()];
        let recorded = self.record(&with_state)?;
        same("bare", &bare.stdout, "recorded", &recorded.stdout)?;
        for n in 1..=REPLAYS {
            let name = format!("replay-{n}");
            let replayed = self.replay(&name, &[])?;
            if replayed.memory_checks == 0 {
                return Err(format!("{name} compared no memory"));
            }
            same("recorded", &recorded.stdout, &name, &replayed.stdout)?;
        }
        Ok(())
    }

    fn go_live_steps(&self) -> Result<(), String> {
        let state = self.state();
        let recorded = self.record(&[OsStr::new("--memory-slices"), OsStr::new("--state"), state.as_os_str()])?;
        let whole = self.replay("replay", &[])?;
        for entries in cuts(whole.entries) {
            let name = format!("live-after-{entries}");
            let live = self.replay(&name, &["--live-after".as_ref(), entries.to_string().as_ref()])?;
            same("recorded", &recorded.stdout, &name, &live.stdout)?;
        }
        Ok(())
    }

    fn snapshot_steps(&self) -> Result<u64, String> {
        let state = self.state();
        let options = ["--snapshot-every".as_ref(), SNAPSHOT_EVERY.as_ref(), "--state".as_ref(), state.as_os_str()];
        let recorded = self.record(&options)?;
        let snapshots = snapshots(&self.recording())?;
        let found = snapshots.len() as u64;
        let mut whole = None;
        for (point, snapshot) in snapshots.iter().step_by(found.div_ceil(SNAPSHOTS_MAX).max(1) as usize) {
            let name = format!("from-point-{point}");
            let rest = self.replay(&name, &["--from".as_ref(), snapshot.as_os_str()])?;
            is_end_of(&recorded, &name, &rest)?;
            // What a client of a network program has of it depends on when its connection broke.
            if !self.name.starts_with("net/") {
                let whole = match whole {
                    Some(n) => n,
                    None => *whole.insert(self.replay("replay", &[])?.entries),
                };
                let entries = whole - rest.entries / 2;
                let name = format!("{name}-live-after-{entries}");
                let options = ["--from".as_ref(), snapshot.as_os_str(), "--live-after".as_ref()];
                let live = self.replay(&name, &[&options[..], &[entries.to_string().as_ref()]].concat())?;
                is_end_of(&recorded, &name, &live)?;
            }
        }
        Ok(found)
    }

    fn record(&self, options: &[&OsStr]) -> Result<Finished, String> {
        self.converse("recorded", |program, port| {
            let mut c = Command::new(&self.ft);
            c.args(["record", "--memory-every", &MEMORY_EVERY.to_string()]).args(options);
            c.arg("--output").arg(self.recording()).arg("--").arg(program).args(port);
            c
        })
    }

    fn recording(&self) -> PathBuf {
        self.dir.path().join("recording")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A program's files must not be there from an earlier run.
    fn clear_state(&self) -> Result<(), String> {
        fs::remove_dir_all(self.state())
            .and_then(|()| fs::create_dir(self.state()))
            .map_err(|e| format!("can't clear the state directory: {e}"))
    }

    /// One run to the end; a network program's with its client.
    fn converse(
        &self,
        run: &str,
        command: impl FnOnce(&Path, Option<String>) -> Command,
    ) -> Result<Finished, String> {
        let net = self.name.strip_prefix("net/");
        let port = net.map(|_| free_port().to_string());
        let mut command = command(&self.program, port.clone());
        command.env("GUEST_DIR", self.state());
        let server = Running::start(command, run, self.dir.path())?;
        let driven = match (net, port) {
            (Some(name), Some(port)) => {
                let mut c = Command::new("python3");
                c.arg(sources().join("net/drive.py")).args([name, "127.0.0.1", &port]);
                let client = Running::start(c, &format!("{run}-client"), self.dir.path())?;
                client.finish(LIMIT).and_then(|f| succeeded(f.success()?))
            }
            _ => Ok(()),
        };
        let limit = if driven.is_ok() { LIMIT } else { LIMIT_AFTER_FAILURE };
        let served = server.finish(limit).and_then(Finished::success).and_then(|f| {
            // What a refusal left on stderr is a line of ft's, and the program's own check tells if it matters.
            if run == "bare" && !f.stderr.is_empty() {
                return Err(f.report("wrote to stderr"));
            }
            if f.stdout.ends_with("EXIT-SUCCESS\n") { Ok(f) } else { Err(f.report("did not end with EXIT-SUCCESS")) }
        });
        match (driven, served) {
            (Ok(()), r) => r,
            (Err(c), Ok(_)) => Err(c),
            (Err(c), Err(s)) => Err(format!("{c}\n{s}")),
        }
    }

    /// One replay to the guest's end.
    fn replay(&self, name: &str, options: &[&OsStr]) -> Result<Replayed, String> {
        let kept = self.dir.path().join(format!("{name}.kept"));
        fs::create_dir(&kept).map_err(|e| format!("{}: {e}", kept.display()))?;
        let mut c = Command::new(&self.ft);
        c.args(["replay", "--keep"]).args(options).arg(self.recording()).env("TMPDIR", &kept);
        let f = Running::start(c, name, self.dir.path())?.finish(LIMIT)?;
        let report: serde_json::Value =
            serde_json::from_str(f.stdout.trim()).map_err(|e| f.report(&format!("printed no report ({e})")))?;
        if report["ok"] != true || report["exit_status"] != 0 || !f.status.success() {
            return Err(f.report("did not do what was recorded"));
        }
        let number = |key: &str| report[key].as_u64().unwrap_or(0);
        let mut dirs = fs::read_dir(&kept).map_err(|e| format!("{}: {e}", kept.display()))?;
        let stdout = match (dirs.next(), dirs.next()) {
            (Some(Ok(d)), None) => {
                same_files(&self.state(), &only_state(&d.path())?)?;
                let path = d.path().join("stdout");
                fs::read(&path)
                    .map(|b| String::from_utf8_lossy(&b).into_owned())
                    .map_err(|e| format!("{}: {e}", path.display()))?
            }
            _ => return Err(f.report("did not keep exactly one directory")),
        };
        fs::remove_dir_all(&kept).map_err(|e| format!("{}: {e}", kept.display()))?;
        Ok(Replayed { stdout, entries: number("entries"), memory_checks: number("memory_checks") })
    }
}

/// The files that a replay has kept of the recording's one state directory.
fn only_state(kept: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(kept).map_err(|e| format!("{}: {e}", kept.display()))?;
    let is_state = |p: &PathBuf| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"state-"));
    let states: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_state).collect();
    match &states[..] {
        [one] => Ok(one.clone()),
        _ => Err(format!("{} has {} kept state directories, not one", kept.display(), states.len())),
    }
}

/// What a replay came to.
struct Replayed {
    stdout: String,
    entries: u64,
    memory_checks: u64,
}

/// Where to cut a recording of so many entries: from before the first to after the last.
pub fn cuts(entries: u64) -> Vec<u64> {
    if entries < CUTS_MAX {
        return (0..=entries).collect();
    }
    (0..CUTS_MAX).map(|k| k * entries / (CUTS_MAX - 1)).collect()
}

/// A recording's snapshots, by the input point that they were taken at.
pub fn snapshots(recording: &Path) -> Result<BTreeMap<u64, PathBuf>, String> {
    let dir = recording.parent().ok_or("a recording lies somewhere")?;
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let point = |p: PathBuf| {
        let (name, point) = p.file_name()?.to_str()?.split_once(".snapshot.")?;
        let is_its = recording.file_name()?.to_str()? == name;
        Some((point.parse().ok().filter(|_| is_its)?, p))
    };
    Ok(entries.filter_map(|e| point(e.ok()?.path())).collect())
}

fn is_end_of(recorded: &Finished, name: &str, rest: &Replayed) -> Result<(), String> {
    if recorded.stdout.ends_with(&rest.stdout) {
        return Ok(());
    }
    Err(format!("{name}: it printed {:?}, which is no end of {:?}", rest.stdout, recorded.stdout))
}

fn succeeded(f: Finished) -> Result<(), String> {
    if f.stdout.ends_with("EXIT-SUCCESS\n") { Ok(()) } else { Err(f.report("did not end with EXIT-SUCCESS")) }
}

/// A port that was free a moment ago, on both families.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("::", 0)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    listener.and_then(|l| l.local_addr()).expect("a free port").port()
}

/// The same names, kinds, modes and content. Sockets are those of the host.
pub(crate) fn same_files(recorded: &Path, replayed: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", recorded.display());
    let kind = |p: &Path| {
        let m = fs::symlink_metadata(p).map_err(|e| format!("{}: {e}", p.display()))?;
        Ok::<_, String>((m.mode(), m.is_dir(), m.file_type()))
    };
    let ((mode, is_dir, t), (other, ..)) = (kind(recorded)?, kind(replayed)?);
    if mode != other {
        return Err(format!("{} has mode {mode:o}, in the replay {other:o}", recorded.display()));
    }
    if t.is_symlink() && fs::read_link(recorded).map_err(failed)? != fs::read_link(replayed).map_err(failed)? {
        return Err(format!("{} leads elsewhere in the replay", recorded.display()));
    }
    if t.is_file() && fs::read(recorded).map_err(failed)? != fs::read(replayed).map_err(failed)? {
        return Err(format!("{} differs from {}", recorded.display(), replayed.display()));
    }
    if !is_dir {
        return Ok(());
    }
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?.flatten();
        let kept = entries.filter(|e| !e.file_type().is_ok_and(|t| t.is_socket()));
        Ok::<_, String>(kept.map(|e| e.file_name()).collect::<BTreeSet<_>>())
    };
    let (one, two) = (names(recorded)?, names(replayed)?);
    if one != two {
        return Err(format!("{} has {one:?}, in the replay {two:?}", recorded.display()));
    }
    one.iter().try_for_each(|n| same_files(&recorded.join(n), &replayed.join(n)))
}

fn same(one: &str, x: &str, two: &str, y: &str) -> Result<(), String> {
    if x == y {
        return Ok(());
    }
    let n = x.lines().zip(y.lines()).take_while(|(x, y)| x == y).count();
    let line = |t: &str| t.lines().nth(n).unwrap_or("(its end)").to_owned();
    Err(format!("stdout differs at line {}: {one} has {:?}, {two} has {:?}", n + 1, line(x), line(y)))
}
