//! A redis-server that goes live in the middle of its recording: it has done exactly what it was told until then.

use crate::guest::{cuts, free_port, snapshots};
use crate::process::{Finished, Running};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to reach a server that starts.
const AGAIN: Duration = Duration::from_millis(5);
/// Where snapshots are to be taken meanwhile.
const BETWEEN_STEPS: Duration = Duration::from_millis(15);
/// Requests of each kind in the recording.
const STEPS: u32 = 60;

/// Records a server that writes `key:N` and then counts to N, for N = 1 to STEPS; then lets it go live at places all
/// over the recording and asks it how far it came.
pub fn go_live(ft: &Path) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("ft-redis-").tempdir().map_err(|e| format!("a directory: {e}"))?;
    let service = Service { ft, dir: dir.path(), recording: dir.path().join("recording"), port: free_port() };
    let result = service.steps();
    if result.is_err() {
        let kept = dir.keep();
        return result.map_err(|e| format!("{e}\nfiles are in {}", kept.display()));
    }
    result
}

/// Records a server that takes snapshots of itself while it works, and replays it from each of them.
pub fn go_on_from_snapshots(ft: &Path) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("ft-redis-").tempdir().map_err(|e| format!("a directory: {e}"))?;
    let service = Service { ft, dir: dir.path(), recording: dir.path().join("recording"), port: free_port() };
    let result = service.snapshot_steps();
    if result.is_err() {
        let kept = dir.keep();
        return result.map_err(|e| format!("{e}\nfiles are in {}", kept.display()));
    }
    result
}

struct Service<'a> {
    ft: &'a Path,
    dir: &'a Path,
    recording: PathBuf,
    port: u16,
}

impl Service<'_> {
    fn steps(&self) -> Result<(), String> {
        let state = self.dir.join("state");
        std::fs::create_dir(&state).map_err(|e| format!("{}: {e}", state.display()))?;
        let state = state.to_str().ok_or("TMPDIR is no UTF-8")?;
        self.record(&["--state", state], &["--appendonly", "yes", "--dir", state], Duration::ZERO, &|| Ok(true))?;

        let whole = self.replay("replay", &[])?.finish(LIMIT)?;
        let entries = report(&whole)?["entries"].as_u64().unwrap_or(0);
        let (mut least, mut reached) = (0, 0);
        for entries in cuts(entries) {
            let name = format!("live-after-{entries}");
            if let Some(n) = self.live(&name, &["--live-after", &entries.to_string()])? {
                reached += 1;
                if n < least {
                    return Err(format!("{name}: counted to {n}; cut earlier it had counted to {least}"));
                }
                least = n;
            }
        }
        if reached < 3 || least == 0 {
            return Err(format!("only {reached} servers went live, the last had counted to {least}: nothing was tested"));
        }
        Ok(())
    }

    /// How far a replay that goes live has come; `None`: it ended by itself.
    fn live(&self, name: &str, options: &[&str]) -> Result<Option<u32>, String> {
        let mut live = self.replay(name, options)?;
        let client = reach(&mut live, self.port)?;
        let come_to = client.map(|c| had_come_to(c).map_err(|e| format!("{name}: {e}"))).transpose()?;
        let f = live.finish(LIMIT)?;
        let r = report(&f)?;
        if r["ok"] == true && r["exit_status"] == 0 { Ok(come_to) } else { Err(f.report("did not end in order")) }
    }

    fn snapshot_steps(&self) -> Result<(), String> {
        const SNAPSHOTS: usize = 4;
        let are_there = || Ok(snapshots(&self.recording)?.len() >= SNAPSHOTS);
        let state = self.dir.join("state");
        std::fs::create_dir(&state).map_err(|e| format!("{}: {e}", state.display()))?;
        let state = state.to_str().ok_or("TMPDIR is no UTF-8")?;
        let options = ["--snapshot-every", "0.1", "--memory-every", "10", "--state", state];
        self.record(&options, &["--appendonly", "yes", "--dir", state], BETWEEN_STEPS, &are_there)?;
        let snapshots = snapshots(&self.recording)?;
        for (point, path) in &snapshots {
            let name = format!("from-point-{point}");
            let path = path.to_str().ok_or("TMPDIR is no UTF-8")?;
            let f = self.replay(&name, &["--from", path])?.finish(LIMIT)?;
            let r = report(&f)?;
            if r["ok"] != true || r["exit_status"] != 0 || r["memory_checks"] == 0 {
                return Err(f.report("did not do what was recorded"));
            }
        }
        self.live_from(&snapshots)?;
        self.refuses_anothers(snapshots.values().next().ok_or("there are some")?)
    }

    /// Wherever it begins, a server that goes live at the same place has come equally far.
    fn live_from(&self, snapshots: &BTreeMap<u64, PathBuf>) -> Result<(), String> {
        let whole = self.replay("replay", &[])?.finish(LIMIT)?;
        let entries = report(&whole)?["entries"].as_u64().unwrap_or(0) * 9 / 10;
        let options = ["--live-after", &entries.to_string()];
        let want = self.live("live-after", &options)?.ok_or("it ended by itself")?;
        let mut compared = 0;
        // The others were taken later.
        for (point, path) in snapshots.iter().take(snapshots.len() / 2) {
            let from = ["--from", path.to_str().ok_or("TMPDIR is no UTF-8")?];
            let got = self.live(&format!("live-from-{point}"), &[from, options].concat())?;
            if got != Some(want) {
                return Err(format!("from input point {point} it came to {got:?}, from the start to {want}"));
            }
            compared += 1;
        }
        if compared == 0 || want == 0 { Err("nothing was compared".into()) } else { Ok(()) }
    }

    /// A recording is not gone on with from a snapshot of another one.
    fn refuses_anothers(&self, snapshot: &Path) -> Result<(), String> {
        let other = self.dir.join("other");
        let mut c = Command::new(self.ft);
        c.arg("record").arg("--output").arg(&other).args(["--", "true"]);
        Running::start(c, "other", self.dir)?.finish(LIMIT)?.success()?;
        let mut c = Command::new(self.ft);
        c.arg("replay").arg("--from").arg(snapshot).arg(&other);
        let f = Running::start(c, "from-anothers", self.dir)?.finish(LIMIT)?;
        let is_said = !f.status.success() && f.stderr.contains("another recording");
        if is_said { Ok(()) } else { Err(f.report("should have been refused")) }
    }

    /// A server that is told all the steps, more until there is `enough`, and then to end.
    fn record(
        &self,
        options: &[&str],
        of_redis: &[&str],
        between: Duration,
        enough: &dyn Fn() -> Result<bool, String>,
    ) -> Result<(), String> {
        let mut c = Command::new(self.ft);
        c.arg("record").args(options).arg("--output").arg(&self.recording);
        c.args(["--", "redis-server", "--bind", "127.0.0.1", "--save", ""]).args(of_redis);
        c.args(["--port", &self.port.to_string()]);
        let mut server = Running::start(c, "recorded", self.dir)?;
        let mut client = reach(&mut server, self.port)?.ok_or("the recorded server ended by itself")?;
        let begin = Instant::now();
        let mut talk = || {
            for n in 1.. {
                if n > STEPS && enough()? {
                    break;
                }
                if begin.elapsed() > LIMIT {
                    return Err(format!("{n} steps were not enough"));
                }
                std::thread::sleep(between);
                client.ask(&format!("SET key:{n} {n}"), "+OK")?;
                client.ask("INCR count", &format!(":{n}"))?;
            }
            client.shut_down()
        };
        talk().map_err(|e| format!("the recorded server: {e}"))?;
        server.finish(LIMIT)?.success().map(drop)
    }

    fn replay(&self, name: &str, options: &[&str]) -> Result<Running, String> {
        let mut c = Command::new(self.ft);
        c.arg("replay").args(options).arg(&self.recording).env("TMPDIR", self.dir);
        Running::start(c, name, self.dir)
    }
}

/// A client of the server at that port; `None`: it has ended.
pub(crate) fn reach(server: &mut Running, port: u16) -> Result<Option<Client>, String> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if server.has_ended() {
            return Ok(None);
        }
        let client = TcpStream::connect(("127.0.0.1", port)).and_then(|s| {
            s.set_read_timeout(Some(LIMIT))?;
            Ok(Client(s))
        });
        if let Ok(mut c) = client
            && c.request("PING").is_ok_and(|r| r.starts_with("+PONG"))
        {
            return Ok(Some(c));
        }
        std::thread::sleep(AGAIN);
    }
    Err(format!("no server at port {port} after {} s", LIMIT.as_secs()))
}

/// What `count` is, and that everything before it was done and nothing after it.
fn had_come_to(mut client: Client) -> Result<u32, String> {
    let next = client.request("INCR count").map_err(|e| e.to_string())?;
    let next: u32 = next.trim_start_matches(':').trim().parse().map_err(|e| format!("INCR: {next:?}: {e}"))?;
    for n in 1..next {
        client.ask(&format!("GET key:{n}"), &format!("${}\r\n{n}", n.to_string().len()))?;
    }
    client.ask(&format!("EXISTS key:{}", next + 1), ":0")?;
    client.shut_down()?;
    Ok(next - 1)
}

/// The line that a replay prints.
pub(crate) fn report(f: &Finished) -> Result<serde_json::Value, String> {
    serde_json::from_str(f.stdout.trim()).map_err(|e| f.report(&format!("printed no report ({e})")))
}

pub(crate) struct Client(TcpStream);

impl Client {
    /// The answer to an inline command, up to and without its last line's end.
    pub(crate) fn request(&mut self, command: &str) -> io::Result<String> {
        self.0.write_all(format!("{command}\r\n").as_bytes())?;
        let mut got = Vec::new();
        let lines = |b: &[u8]| b.windows(2).filter(|w| w == b"\r\n").count();
        while lines(&got) < if got.first() == Some(&b'$') && !got.starts_with(b"$-1") { 2 } else { 1 } {
            let mut part = [0; 4096];
            match self.0.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got.extend_from_slice(&part[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&got).trim_end().to_owned())
    }

    pub(crate) fn ask(&mut self, command: &str, want: &str) -> Result<(), String> {
        let got = self.request(command).map_err(|e| format!("{command}: {e}"))?;
        if got == want { Ok(()) } else { Err(format!("{command}: {got:?} instead of {want:?}")) }
    }

    /// It answers by closing.
    pub(crate) fn shut_down(&mut self) -> Result<(), String> {
        match self.request("SHUTDOWN NOSAVE") {
            Err(_) => Ok(()),
            Ok(said) => Err(format!("SHUTDOWN: {said}")),
        }
    }
}
