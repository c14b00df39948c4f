//! A pair in a rig of this machine, for tests: its faults, what its hosts say, and its client's network.
#![allow(dead_code, reason = "each test binary uses a part")]

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing in a test takes longer, a takeover in between.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// For a pair that stays one on a busy machine, and on a link where a lost frame is repeated after 200 ms and a round trip.
pub const PATIENT: &str = "[limits]\nsilence_ms_max = 1000\n";

/// It is gone at the end of its test, whatever happens.
pub struct Rig {
    name: String,
    pub address: String,
    pub address6: String,
}

impl Rig {
    /// `options`: of `ft rig up`. `config`: a configuration, or nothing.
    pub fn up<S: AsRef<OsStr>>(name: &str, config: &str, options: &[&str], command: &[S]) -> Self {
        Self::up_beside(name, config, options, command, |_| ()).0
    }

    /// While it comes up, `beside` is done, which it may need for that.
    pub fn up_beside<S: AsRef<OsStr>, T>(
        name: &str,
        config: &str,
        options: &[&str],
        command: &[S],
        beside: impl FnOnce(&Self) -> T,
    ) -> (Self, T) {
        // SAFETY: no pointers.
        let root = unsafe { libc::geteuid() } == 0;
        assert!(root, "needs root");
        let mut rig = Self { name: format!("p{}-{name}", std::process::id()), address: String::new(), address6: String::new() };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let mut c = rig.ft("up");
        if !config.is_empty() {
            c.arg("--config").arg(file.path());
        }
        c.args(options).arg("--").args(command).stdout(Stdio::piped()).stderr(Stdio::piped());
        let coming = c.spawn().unwrap();
        let made = beside(&rig);
        let o = coming.wait_with_output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        let v: Value = serde_json::from_slice(&o.stdout).unwrap();
        rig.address = v["address"].as_str().unwrap().to_owned();
        rig.address6 = v["address6"].as_str().unwrap_or_default().to_owned();
        (rig, made)
    }

    pub fn ft(&self, subcommand: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
        c.args(["rig", subcommand, "--name", &self.name]).stdin(Stdio::null());
        c
    }

    /// What a command on a host prints.
    pub fn exec(&self, host: &str, command: &[&str]) -> String {
        let o = self.ft("exec").args([host, "--"]).args(command).output().unwrap();
        assert!(o.status.success(), "{o:?}");
        String::from_utf8(o.stdout).unwrap()
    }

    fn hosts(&self) -> Vec<Value> {
        let o = self.ft("status").args(["-o", "json"]).output().unwrap();
        let v: Value = serde_json::from_slice(&o.stdout).unwrap();
        v["hosts"].as_array().unwrap().clone()
    }

    pub fn roles(&self) -> Vec<(String, String)> {
        let text = |h: &Value, k: &str| h[k].as_str().unwrap_or("").to_owned();
        self.hosts().iter().map(|h| (text(h, "host"), text(h, "role"))).collect()
    }

    pub fn state(&self, host: &str) -> String {
        let of = self.hosts().into_iter().find(|h| h["host"] == host).unwrap();
        of["state"].as_str().unwrap_or("").to_owned()
    }

    pub fn primaries(&self) -> Vec<String> {
        self.roles().into_iter().filter(|(_, r)| r == "primary").map(|(h, _)| h).collect()
    }

    /// What the host's engine says has happened.
    pub fn events(&self, host: &str) -> String {
        self.exec(host, &["/usr/local/bin/ft", "events"])
    }

    /// The last that the host's engine and server wrote.
    pub fn log(&self, host: &str) -> String {
        let log = std::fs::read_to_string(format!("/var/tmp/ft-rig/{}/logs/{host}.log", self.name)).unwrap_or_default();
        let from = log.len().saturating_sub(4000);
        log.get(from..).unwrap_or(&log).to_owned()
    }

    pub fn fault(&self, host: &str, kind: &str) {
        let o = self.ft("fault").args([host, kind]).output().unwrap();
        assert!(o.status.success(), "{o:?}");
    }

    pub fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "{:?}", self.roles());
        }
    }

    /// Runs on a thread in the client's network; sockets made there stay there.
    pub fn at_client<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let ns = File::open(format!("/run/netns/ft-{}-client", self.name)).unwrap();
        std::thread::scope(|s| {
            let inside = s.spawn(|| {
                setns(&ns, CloneFlags::CLONE_NEWNET).unwrap();
                f()
            });
            inside.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in ["alpha", "beta"] {
                eprintln!("-- {host}: {}", self.log(host));
            }
        }
        let o = self.ft("down").output().unwrap();
        assert!(o.status.success() || std::thread::panicking(), "{}", String::from_utf8_lossy(&o.stderr));
    }
}
