//! A recorded program that is stopped at an input point, and looked at there with gdb.

use crate::flight::refused;
use crate::process::{Finished, Running};
use crate::redis::report;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

pub fn a_replay_stops_exactly_there(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &[], &[])?;
    let points = i.points()?;
    for (until, point) in [(format!("{}", points / 2), points / 2), ("1".into(), 1), (points.to_string(), points)] {
        let f = i.replay(&["--until", &until], &[])?;
        let r = report(&f)?;
        let reason = format!("stopped at input point {point}");
        if r["ok"] != true || r["points"] != point || r["reason"] != reason.as_str() {
            return Err(f.report(&format!("did not stop at {point}")));
        }
    }
    let [near, far] = ["-4", "-9"].map(|u| -> Result<u64, String> { Ok(report(&i.replay(&["--until", u], &[])?)?["points"].as_u64().unwrap_or(0)) });
    if near.clone()? == far.clone()? + 5 { Ok(()) } else { Err(format!("-4 is {near:?}, -9 is {far:?}")) }
}

pub fn a_point_that_is_not_there_is_refused(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &[], &[])?;
    let points = i.points()?;
    for until in ["0".to_owned(), (points + 1).to_string(), "-100000".into()] {
        let run = Running::start(i.command(&["--until", &until]), "refused", i.dir.path())?;
        refused(run, &format!("a replay that begins here has 1 to {points}"))?;
    }
    refused(Running::start(i.command(&["--until", "noon"]), "refused", i.dir.path())?, "not an input point")
}

pub fn gdb_shows_the_guest_and_goes_on(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &[], &[])?;
    i.goes_on_from(&["--until", &(i.points()? / 2).to_string()])
}

pub fn gdb_on_a_guest_from_a_snapshot(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &["--last", "1h", "--snapshot-every", "0.02"], &[])?;
    let entries = std::fs::read_dir(i.dir.path().join("recording")).map_err(|e| e.to_string())?;
    let points = entries.flatten().filter_map(|e| e.file_name().to_str()?.strip_prefix("snapshot.")?.parse::<u64>().ok());
    let from = points.min().ok_or("no snapshot was taken")?.to_string();
    i.goes_on_from(&["--from", &from, "--until", &from])
}

pub fn gdb_shows_a_crash(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &[], &["fail"])?;
    let f = i.replay(&["--gdb"], &["-ex", "continue", "-ex", "bt", "-ex", "print sum"])?;
    let shows = ["SIGSEGV", "fail (at=0x0)", "main (count=2", "= 210"];
    if shows.iter().all(|s| f.stdout.contains(s)) { Ok(()) } else { Err(f.report(&format!("did not show {shows:?}"))) }
}

/// A recorder that was killed says nothing of how the guest ended: it waits.
pub fn gdb_stops_where_the_recording_ends(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &[], &[])?;
    let path = i.dir.path().join("recording");
    let whole = std::fs::read(&path).map_err(|e| e.to_string())?;
    // The last frames, as after a crash of the machine.
    std::fs::write(&path, &whole[..whole.len() - 200]).map_err(|e| e.to_string())?;
    let f = i.replay(&["--gdb"], &["-ex", "continue", "-ex", "bt"])?;
    let shows = ["SIGSTOP", "main (count=1"];
    if !shows.iter().all(|s| f.stdout.contains(s)) {
        return Err(f.report(&format!("did not show {shows:?}")));
    }
    let r = last_report(&f)?;
    if r["ok"] == true { Ok(()) } else { Err(f.report("is not content")) }
}

pub fn without_gdb_nothing_starts(ft: &Path) -> Result<(), String> {
    let i = Incident::record(ft, &[], &[])?;
    let mut c = i.command(&["--gdb"]);
    c.env("PATH", "/nowhere");
    refused(Running::start(c, "no-gdb", i.dir.path())?, "gdb is not in PATH")
}

struct Incident<'a> {
    ft: &'a Path,
    dir: tempfile::TempDir,
}

impl<'a> Incident<'a> {
    fn record(ft: &'a Path, options: &[&str], arguments: &[&str]) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("ft-incident-").tempdir().map_err(|e| format!("a directory: {e}"))?;
        let i = Self { ft, dir };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/incident.c");
        let mut c = Command::new("cc");
        c.args(["-g", "-O0", "-o"]).arg(i.program()).arg(source);
        Running::start(c, "compiled", i.dir.path())?.finish(LIMIT)?.success()?;
        let mut c = Command::new(ft);
        c.arg("record").args(options).arg("-o").arg(i.dir.path().join("recording"));
        c.arg("--").arg(i.program()).args(arguments);
        let f = Running::start(c, "recorded", i.dir.path())?.finish(LIMIT)?;
        let want = if arguments.is_empty() { 0 } else { 128 + libc::SIGSEGV };
        if f.status.code() == Some(want) { Ok(i) } else { Err(f.report(&format!("should have ended with {want}"))) }
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("incident")
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut c = Command::new(self.ft);
        c.arg("replay").args(options).arg(self.dir.path().join("recording"));
        // Not within what a replay keeps apart.
        c.env("TMPDIR", "/var/tmp");
        c
    }

    /// With arguments of gdb, in batch mode.
    fn replay(&self, options: &[&str], gdb: &[&str]) -> Result<Finished, String> {
        let mut c = self.command(options);
        if !gdb.is_empty() {
            c.args(["--", "-nx", "-batch"]).args(gdb);
        }
        Running::start(c, "replay", self.dir.path())?.finish(LIMIT)
    }

    /// How many input points there are.
    fn points(&self) -> Result<u64, String> {
        let f = self.replay(&[], &[])?;
        let r = report(&f)?;
        if r["ok"] == true { Ok(r["points"].as_u64().unwrap_or(0)) } else { Err(f.report("did not do what was recorded")) }
    }

    /// Stopped there it waits in `main`; the next `step` is the one after those that it has done.
    fn goes_on_from(&self, options: &[&str]) -> Result<(), String> {
        let look = ["-ex", "bt", "-ex", "print sum", "-ex", "break step", "-ex", "continue", "-ex", "bt", "-ex", "print n"];
        let f = self.replay(&[options, &["--gdb"]].concat(), &look)?;
        let printed: Vec<u64> = f.stdout.lines().filter_map(|l| l.strip_prefix('$')?.split_once("= ")?.1.parse().ok()).collect();
        let shows = ["poll (", "main (count=1", "Breakpoint 2", ", step (n="];
        if let [sum, n] = printed[..]
            && n > 1
            && sum == n * (n - 1) / 2
            && shows.iter().all(|s| f.stdout.contains(s))
            && last_report(&f)?["ok"] == true
        {
            return Ok(());
        }
        Err(f.report(&format!("printed {printed:?}, and not all of {shows:?}")))
    }
}

/// After what gdb printed.
fn last_report(f: &Finished) -> Result<serde_json::Value, String> {
    let line = f.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|e| f.report(&format!("printed no report ({e})")))
}
