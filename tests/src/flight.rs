//! Rings of a redis-server under load.

use crate::guest::{free_port, same_files};
use crate::process::{Finished, Running};
use crate::redis::{Client, reach, report};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// What rings cover.
const LAST: &str = "1s";
/// Of each kind of file: four parts of the time, the one that covers its begin, and some that are just made or deleted.
const FILES_MAX: usize = 8;
/// So many starts are seen before a ring has dropped enough.
const STARTS: usize = 12;

/// A server under load whose oldest segments are dropped: what is left replays to the same files.
pub fn a_ring_is_bounded_and_replays(ft: &Path) -> Result<(), String> {
    let ring = Ring::new(ft)?;
    let (server, mut client) = ring.record()?;
    let seen = ring.load(&mut client, |r| Ok(r.starts()?.first() != Some(&0)), STARTS)?;
    client.shut_down()?;
    server.finish(LIMIT)?.success()?;
    let starts = ring.starts()?;
    if starts.len() < 2 || seen.len() <= starts.len() {
        return Err(format!("starts at {starts:?} are left of {seen:?}: nothing was tested"));
    }
    ring.replays_to_the_same_files(&[])?;
    let youngest = starts.last().ok_or("there are some")?.to_string();
    ring.replays_to_the_same_files(&["--from", &youngest])
}

/// What it may take, whatever the time: its log is ended by snapshots as it becomes long, and the oldest go.
pub fn a_ring_is_bounded_by_its_size(ft: &Path) -> Result<(), String> {
    const MAX_MIB: u64 = 64;
    /// Of what is written meanwhile.
    const SNAPSHOT_MIB: u64 = 48;
    let ring = Ring::new(ft)?;
    let (server, mut client) = ring.record_with(&["--last", "1h", "--max-mib", &MAX_MIB.to_string()])?;
    // The server's own log would be in each snapshot.
    client.ask("CONFIG SET appendonly no", "+OK")?;
    let value = "x".repeat(50_000);
    let begin = Instant::now();
    for n in 0u64.. {
        client.ask(&format!("SET key:{} {value}", n % 5), "+OK")?;
        if n % 50 == 0 {
            let mib = ring.bytes()? >> 20;
            if mib > MAX_MIB + SNAPSHOT_MIB {
                return Err(format!("the ring takes {mib} MiB"));
            }
            if n > 2000 && ring.starts()?.first() != Some(&0) {
                break;
            }
            // A disk that is slower than this client must not decide how the test ends.
            while ring.newest_log_bytes()? >> 20 > MAX_MIB / 4 && begin.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if begin.elapsed() > LIMIT {
            return Err(format!("nothing has gone after {} s: {:?}", LIMIT.as_secs(), ring.starts()?));
        }
    }
    client.shut_down()?;
    let f = server.finish(LIMIT)?.success()?;
    if f.stderr.contains("not recorded until") {
        return Err(f.report("has a hole"));
    }
    ring.replays_to_the_same_files(&[])
}

/// The recorder's process is killed in the middle of it.
pub fn a_killed_recorder_leaves_a_ring(ft: &Path) -> Result<(), String> {
    let ring = Ring::new(ft)?;
    let (server, mut client) = ring.record()?;
    ring.load(&mut client, |r| Ok(r.starts()?.len() > 2), 3)?;
    server.kill()?;
    let starts = ring.starts()?;
    for from in &starts {
        let f = ring.replay(&[format!("--from={from}")])?;
        let r = report(&f)?;
        // Nothing may have been written since the last.
        let least = from + u64::from(Some(from) != starts.last());
        if r["ok"] != true || r["points"].as_u64() < Some(least) {
            return Err(f.report("did not replay"));
        }
    }
    Ok(())
}

pub fn rings_that_are_none_are_refused(ft: &Path) -> Result<(), String> {
    let ring = Ring::new(ft)?;
    for (time, says) in [("0s", "no time at all"), ("soon", "write 90s, 10m, 2h"), ("10", "write 90s, 10m, 2h")] {
        let mut c = Command::new(ft);
        c.args(["record", "--last", time, "-o"]).arg(ring.path("bad")).args(["--", "true"]);
        refused(Running::start(c, "bad-time", ring.dir.path())?, says)?;
    }
    fs::create_dir(ring.path("empty")).map_err(|e| e.to_string())?;
    let mut c = Command::new(ft);
    c.arg("replay").arg(ring.path("empty"));
    refused(Running::start(c, "empty", ring.dir.path())?, "not a ring")?;

    let (server, mut client) = ring.record()?;
    ring.load(&mut client, |r| Ok(r.starts()?.len() > 3), 4)?;
    client.shut_down()?;
    server.finish(LIMIT)?.success()?;
    let mut c = Command::new(ft);
    c.args(["record", "--last", LAST, "-o"]).arg(ring.path("ring")).args(["--", "true"]);
    refused(Running::start(c, "again", ring.dir.path())?, "not empty")?;
    let start = |from: &str| Running::start(ring.command(&["--from", from]), "refused", ring.dir.path());
    refused(start("7777777")?, "those of this ring are at input points")?;
    let logs = ring.points("log")?;
    let [_, second, third, ..] = logs.iter().collect::<Vec<_>>()[..] else { return Err("too few segments".into()) };
    fs::remove_file(ring.path(&format!("ring/log.{second}"))).map_err(|e| e.to_string())?;
    let whole = Running::start(ring.command(&[]), "refused", ring.dir.path())?;
    refused(whole, &format!("log.{second} is missing"))?;
    // Behind the gap it replays.
    let f = ring.replay(&["--from".to_owned(), format!("ring/snapshot.{third}")])?;
    if report(&f)?["ok"] == true { Ok(()) } else { Err(f.report("did not replay")) }
}

pub(crate) fn refused(run: Running, says: &str) -> Result<(), String> {
    let f = run.finish(LIMIT)?;
    let is_said = !f.status.success() && f.stderr.contains(says) && f.stdout.is_empty();
    if is_said { Ok(()) } else { Err(f.report(&format!("should have been refused with {says:?}"))) }
}

struct Ring<'a> {
    ft: &'a Path,
    dir: tempfile::TempDir,
    port: u16,
}

impl<'a> Ring<'a> {
    fn new(ft: &'a Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("ft-ring-").tempdir().map_err(|e| format!("a directory: {e}"))?;
        fs::create_dir(dir.path().join("state")).map_err(|e| e.to_string())?;
        Ok(Self { ft, dir, port: free_port() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn record(&self) -> Result<(Running, Client), String> {
        self.record_with(&["--last", LAST])
    }

    fn record_with(&self, bounds: &[&str]) -> Result<(Running, Client), String> {
        let mut c = Command::new(self.ft);
        c.arg("record").args(bounds).args(["--memory-every", "50", "--state"]).arg(self.path("state"));
        c.arg("--output").arg(self.path("ring"));
        c.args(["--", "redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir"]);
        c.arg(self.path("state")).args(["--port", &self.port.to_string()]);
        let mut server = Running::start(c, "recorded", self.dir.path())?;
        let client = reach(&mut server, self.port)?.ok_or("the recorded server ended by itself")?;
        Ok((server, client))
    }

    fn newest_log_bytes(&self) -> Result<u64, String> {
        let newest = self.points("log")?.last().copied().unwrap_or_default();
        fs::metadata(self.path(&format!("ring/log.{newest}"))).map(|m| m.len()).map_err(|e| e.to_string())
    }

    /// Of all its files.
    fn bytes(&self) -> Result<u64, String> {
        let entries = fs::read_dir(self.path("ring")).map_err(|e| e.to_string())?;
        // One that goes meanwhile counts as nothing.
        Ok(entries.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum())
    }

    /// Requests until there is `enough` and so many starts were seen; which ones. The ring is bounded all the while.
    fn load(&self, client: &mut Client, enough: impl Fn(&Self) -> Result<bool, String>, starts: usize) -> Result<BTreeSet<u64>, String> {
        let (begin, mut seen) = (Instant::now(), BTreeSet::new());
        for n in 1u64.. {
            client.ask(&format!("SET key:{} {}", n % 1000, "x".repeat(1000)), "+OK")?;
            client.ask("INCR count", &format!(":{n}"))?;
            if n % 50 != 0 {
                continue;
            }
            seen.extend(self.starts()?);
            for kind in ["log", "snapshot"] {
                let points = self.points(kind)?;
                if points.len() > FILES_MAX {
                    return Err(format!("there are {} files {kind}.POINT: {points:?}", points.len()));
                }
            }
            if seen.len() >= starts && enough(self)? {
                return Ok(seen);
            }
            if begin.elapsed() > LIMIT {
                return Err(format!("only the starts {seen:?} after {} s", LIMIT.as_secs()));
            }
        }
        unreachable!("numbers don't end")
    }

    fn points(&self, kind: &str) -> Result<BTreeSet<u64>, String> {
        let entries = fs::read_dir(self.path("ring")).map_err(|e| format!("the ring: {e}"))?;
        let point = |name: &str| name.strip_prefix(kind)?.strip_prefix('.')?.parse().ok();
        Ok(entries.flatten().filter_map(|e| point(e.file_name().to_str()?)).collect())
    }

    /// In order.
    fn starts(&self) -> Result<Vec<u64>, String> {
        // Snapshots first: what is deleted meanwhile has lost its snapshot first.
        let (snapshots, logs) = (self.points("snapshot")?, self.points("log")?);
        Ok(logs.into_iter().filter(|p| *p == 0 || snapshots.contains(p)).collect())
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut c = Command::new(self.ft);
        c.arg("replay").args(options).arg(self.path("ring")).env("TMPDIR", self.dir.path()).current_dir(self.dir.path());
        c
    }

    fn replay(&self, options: &[String]) -> Result<Finished, String> {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Running::start(self.command(&options), "replay", self.dir.path())?.finish(LIMIT)
    }

    fn replays_to_the_same_files(&self, options: &[&str]) -> Result<(), String> {
        let kept = tempfile::tempdir_in(self.dir.path()).map_err(|e| e.to_string())?;
        let mut c = self.command(&[options, &["--keep"]].concat());
        c.env("TMPDIR", kept.path());
        let f = Running::start(c, "replay", self.dir.path())?.finish(LIMIT)?;
        let r = report(&f)?;
        if r["ok"] != true || r["exit_status"] != 0 || r["memory_checks"] == 0 {
            return Err(f.report("did not do what was recorded"));
        }
        let replays = fs::read_dir(kept.path()).map_err(|e| e.to_string())?.flatten();
        let within = replays.flat_map(|d| fs::read_dir(d.path()).into_iter().flatten().flatten());
        let states: Vec<PathBuf> =
            within.filter(|e| e.file_name().to_string_lossy().starts_with("state-")).map(|e| e.path()).collect();
        let [state] = &states[..] else { return Err(format!("kept {states:?} instead of one state directory")) };
        same_files(&self.path("state"), state)
    }
}
