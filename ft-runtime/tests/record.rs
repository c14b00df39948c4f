//! `ft` itself: records and replays small programs that every host has, and leaves nothing behind.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of its own per test: recordings, state, and what `ft replay` makes (TMPDIR).
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let p = std::env::temp_dir().join(format!("ft-record-{}-{name}", std::process::id()));
        fs::create_dir_all(p.join("tmp")).unwrap();
        Self(p)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn ft(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
        c.args(args).current_dir(&self.0).env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        c
    }

    fn output(&self, args: &[&str]) -> Output {
        self.ft(args).output().unwrap()
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("tmp")).unwrap().map(|e| e.unwrap().path()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Guests need root (mounts) and a shim that was built in.
fn can_run_guests() -> bool {
    // SAFETY: no pointers.
    let root = unsafe { libc::geteuid() } == 0;
    let shim = !ft_runtime::guest::EMBEDDED_SHIM.is_empty();
    if !root || !shim {
        eprintln!("not tested: root {root}, shim built in {shim}");
    }
    root && shim
}

fn report(o: &Output) -> serde_json::Value {
    serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{e}: {o:?}"))
}

/// But network namespaces, which come and go with other rigs of the machine.
fn mounts() -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines().filter(|l| !l.contains(" /run/netns/")).map(str::to_owned).collect()
}

#[test]
fn what_was_recorded_replays_on_the_state_of_then() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("round");
    fs::create_dir(p.path("state")).unwrap();
    fs::write(p.path("state/then"), "1\n").unwrap();
    // Builtins only: no other program is started.
    let script = "read x < state/then; echo $x; echo more >> state/then; echo x > state/new; exit 3";
    let o = p.output(&["record", "-o", "r", "--state", "state", "--", "/bin/sh", "-c", script]);
    assert_eq!((o.status.code(), &o.stdout[..]), (Some(3), &b"1\n"[..]), "{o:?}");
    assert_eq!(fs::read(p.path("state/then")).unwrap(), b"1\nmore\n", "recording runs on the real files");
    fs::write(p.path("state/then"), "of today").unwrap();
    fs::remove_file(p.path("state/new")).unwrap();
    let before = mounts();
    let o = p.output(&["replay", "r"]);
    let r = report(&o);
    assert_eq!((o.status.code(), &r["ok"], &r["exit_status"]), (Some(0), &true.into(), &3.into()), "{r}");
    assert_eq!(fs::read(p.path("state/then")).unwrap(), b"of today", "replaying doesn't");
    assert!(!p.path("state/new").exists());
    assert_eq!(p.leftovers(), [] as [PathBuf; 0]);
    assert_eq!(mounts(), before);
}

#[test]
fn another_program_is_refused_by_name() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("digest");
    fs::copy("/bin/true", p.path("program")).unwrap();
    let o = p.output(&["record", "-o", "r", "--", "./program"]);
    assert_eq!(o.status.code(), Some(0), "{o:?}");
    fs::copy("/bin/false", p.path("program")).unwrap();
    let o = p.output(&["replay", "r"]);
    let text = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(125));
    assert!(text.contains("program") && text.contains("SHA-256"), "{text}");
    assert_eq!(p.leftovers(), [] as [PathBuf; 0]);
}

fn pid_of_guest(ft: &Child) -> Option<i32> {
    let threads = fs::read_dir(format!("/proc/{}/task", ft.id())).ok()?;
    let children = threads.flatten().filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    children.flat_map(|c| c.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()).next()?.parse().ok()
}

/// The guest of a running `ft`, once it runs `name`.
fn wait_for_guest(ft: &Child, name: &str) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(pid) = pid_of_guest(ft)
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name)
            // Past its start: in the sleep.
            && fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|w| w.contains("futex"))
        {
            return pid;
        }
        assert!(start.elapsed() < PATIENCE, "no guest");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn a_killed_guest_replays_to_where_it_was_killed() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("killed");
    let mut ft = p.ft(&["record", "-o", "r", "--", "/bin/sleep", "1000"]).spawn().unwrap();
    kill(wait_for_guest(&ft, "sleep"), libc::SIGKILL);
    assert_eq!(ft.wait().unwrap().code(), Some(128 + libc::SIGKILL));
    let o = p.output(&["replay", "r"]);
    let r = report(&o);
    assert_eq!((o.status.code(), &r["exit_status"]), (Some(0), &137.into()), "{r}");
}

#[test]
fn a_recorder_that_died_leaves_a_recording_to_its_last_entry() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("torn");
    let mut ft = p.ft(&["record", "-o", "r", "--", "/bin/sleep", "1000"]).spawn().unwrap();
    let guest = wait_for_guest(&ft, "sleep");
    // The writer's buffer goes to the file after at most 50 ms.
    std::thread::sleep(Duration::from_millis(200));
    ft.kill().unwrap();
    assert_eq!(ft.wait().unwrap().signal(), Some(libc::SIGKILL));
    await_end(guest);
    let o = p.output(&["replay", "r"]);
    let r = report(&o);
    assert_eq!(o.status.code(), Some(0), "{r}");
    assert!(r["reason"].as_str().unwrap().contains("torn"), "{r}");
}

/// Gone, or a zombie that its new parent has yet to collect.
fn await_end(pid: i32) {
    let start = Instant::now();
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ")) {
        assert!(start.elapsed() < PATIENCE, "the guest outlives its engine");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn signals_to_ft_reach_the_guest() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("signal");
    let mut ft = p.ft(&["record", "-o", "r", "--", "/bin/sleep", "1000"]).spawn().unwrap();
    wait_for_guest(&ft, "sleep");
    kill(ft.id() as i32, libc::SIGTERM);
    assert_eq!(ft.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    let o = p.output(&["replay", "r"]);
    assert_eq!(o.status.code(), Some(0), "{o:?}");
}

/// A directory of a replay that was killed goes with the next one; its mounts were never seen outside.
#[test]
fn a_killed_replay_leaves_no_mounts_and_is_cleaned_up_later() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("sweep");
    let o = p.output(&["record", "-o", "r", "--", "/bin/sleep", "0.01"]);
    assert_eq!(o.status.code(), Some(0), "{o:?}");
    let before = mounts();
    let mut seen = false;
    for ms in (0..60).step_by(3) {
        let mut ft = p.ft(&["replay", "r"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(ms));
        let _ = ft.kill();
        ft.wait().unwrap();
        assert_eq!(mounts(), before);
        seen |= !p.leftovers().is_empty();
    }
    assert!(seen, "no kill came at the right time: the test tested nothing");
    let o = p.output(&["replay", "r"]);
    assert_eq!(o.status.code(), Some(0), "{o:?}");
    let without_lock: Vec<PathBuf> = p.leftovers().into_iter().filter(|d| d.join("lock").exists()).collect();
    assert_eq!(without_lock, [] as [PathBuf; 0]);
    assert!(Path::new("/etc").exists());
}

#[test]
fn a_replay_that_is_told_to_stop_cleans_up() {
    if !can_run_guests() {
        return;
    }
    let p = Place::new("stop");
    let o = p.output(&["record", "-o", "r", "--", "/bin/sleep", "0.01"]);
    assert_eq!(o.status.code(), Some(0), "{o:?}");
    for ms in (0..40).step_by(5) {
        let mut ft = p.ft(&["replay", "r"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(ms));
        // SAFETY: no pointers; it may have ended already and waits for us then.
        unsafe { libc::kill(ft.id() as i32, libc::SIGTERM) };
        ft.wait().unwrap();
        assert_eq!(p.leftovers(), [] as [PathBuf; 0], "after {ms} ms");
    }
}
