//! `ft rig` itself: hosts that are reached, that die silently, and of which nothing stays.
//!
//! Server and client of these tests are this very program, started again: it needs nothing that a host may lack.

use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for anything that is sent to arrive.
const SILENCE: Duration = Duration::from_millis(700);
const PORT: u16 = 7000;
const SERVER: &str = "FT_RIG_TEST_SERVER";
const CLIENT: &str = "FT_RIG_TEST_CLIENT";

/// Not a test: the server, when asked to be one. Echoes.
#[test]
fn as_server() {
    if std::env::var_os(SERVER).is_none() {
        return;
    }
    let listener = TcpListener::bind(("::", PORT)).unwrap();
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut from = stream.try_clone().unwrap();
            io::copy(&mut from, &mut stream)
        });
    }
}

/// Not a test: a client, when asked to be one. Exit status 0 if the echo came.
#[test]
fn as_client() {
    let Ok(address) = std::env::var(CLIENT) else { return };
    let mut s = TcpStream::connect_timeout(&address.parse().unwrap(), SILENCE).unwrap();
    s.set_read_timeout(Some(SILENCE)).unwrap();
    let start = Instant::now();
    echo(&mut s).unwrap();
    println!("echo {}", start.elapsed().as_micros());
}

fn echo(s: &mut TcpStream) -> io::Result<()> {
    s.write_all(b"hello")?;
    let mut b = [0; 5];
    s.read_exact(&mut b)?;
    assert_eq!(&b, b"hello");
    Ok(())
}

/// A rig that is gone at the end of its test, whatever happens.
struct Rig(String);

impl Rig {
    /// `None`: not to be tested here.
    fn new(name: &str) -> Option<Self> {
        // SAFETY: no pointers.
        let root = unsafe { libc::geteuid() } == 0;
        let ip = Command::new("ip").arg("-V").output().is_ok();
        if !root || !ip {
            eprintln!("not tested: root {root}, iproute2 {ip}");
            return None;
        }
        Some(Self(format!("t{}-{name}", std::process::id())))
    }

    fn ft(&self, subcommand: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
        c.args(["rig", subcommand, "--name", &self.0]).stdin(Stdio::null());
        c
    }

    fn run(&self, subcommand: &str, args: &[&str]) -> Output {
        self.ft(subcommand).args(args).output().unwrap()
    }

    fn up_command(&self, options: &[&str]) -> Command {
        let mut c = self.ft("up");
        c.args(options).arg("--").arg(std::env::current_exe().unwrap()).args(["--exact", "as_server"]).env(SERVER, "1");
        c
    }

    fn up(&self, options: &[&str]) -> Value {
        let o = self.up_command(options).output().unwrap();
        assert!(o.status.success(), "{o:?}");
        assert_eq!(o.stdout.iter().filter(|b| **b == b'\n').count(), 1, "one line on stdout: {o:?}");
        serde_json::from_slice(&o.stdout).unwrap()
    }

    fn exec(&self, host: &str, command: &[&str]) -> Output {
        self.ft("exec").arg(host).arg("--").args(command).output().unwrap()
    }

    /// Does the echo come from there?
    fn reaches(&self, host: &str, address: &str) -> bool {
        let me = std::env::current_exe().unwrap();
        let o =
            self.ft("exec").arg(host).arg("--").arg(me).args(["--exact", "as_client"]).env(CLIENT, address).output();
        o.unwrap().status.success()
    }

    /// How long the echo takes, in microseconds.
    fn echo_us(&self, host: &str, address: &str) -> u64 {
        let me = std::env::current_exe().unwrap();
        let mut c = self.ft("exec");
        c.arg(host).arg("--").arg(me).args(["--exact", "as_client", "--nocapture"]).env(CLIENT, address);
        let o = c.output().unwrap();
        let said = String::from_utf8_lossy(&o.stdout).into_owned();
        let us = said.lines().find_map(|l| l.split_once("echo ")?.1.parse().ok());
        us.unwrap_or_else(|| panic!("{o:?}"))
    }

    fn fault(&self, host: &str, kind: &str) -> Value {
        let o = self.run("fault", &[host, kind]);
        assert!(o.status.success(), "{o:?}");
        serde_json::from_slice(&o.stdout).unwrap()
    }

    fn status(&self) -> Value {
        let start = Instant::now();
        let o = self.run("status", &["-o", "json"]);
        assert!(start.elapsed() < Duration::from_secs(2), "status took {:?}", start.elapsed());
        assert!(o.status.success(), "{o:?}");
        serde_json::from_slice(&o.stdout).unwrap()
    }

    fn host(&self, host: &str) -> Value {
        self.status()["hosts"].as_array().unwrap().iter().find(|h| h["host"] == host).unwrap().clone()
    }

    fn down(&self) {
        let o = self.run("down", &[]);
        assert!(o.status.success(), "{o:?}");
        assert_eq!(self.left(), [] as [String; 0]);
    }

    /// All that has to do with this rig.
    fn left(&self) -> Vec<String> {
        let mut out = Vec::new();
        for dir in ["/run/netns", "/run/ft-rig", "/var/tmp/ft-rig", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup"] {
            let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
            out.extend(names.filter(|p| p.to_string_lossy().contains(&self.0)).map(|p| p.display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        out.extend(mounts.lines().filter(|l| l.contains(&self.0)).map(str::to_owned));
        for p in fs::read_dir("/proc").unwrap().flatten() {
            let read = |name| fs::read(p.path().join(name)).unwrap_or_default();
            let in_cgroup = String::from_utf8_lossy(&read("cgroup")).contains(&self.0);
            let of_name = String::from_utf8_lossy(&read("cmdline")).contains(&self.0);
            if in_cgroup || of_name {
                out.push(format!("{}: {}", p.path().display(), String::from_utf8_lossy(&read("cmdline"))));
            }
        }
        out
    }

    /// A connection from the client's place, held by this process.
    fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let ns = fs::File::open(format!("/run/netns/ft-{}-client", self.0))?;
        let address: SocketAddr = address.parse().unwrap();
        let inside = move || {
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            TcpStream::connect_timeout(&address, SILENCE)
        };
        std::thread::spawn(inside).join().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.ft("down").output();
    }
}

fn v4(up: &Value) -> String {
    format!("{}:{PORT}", up["address"].as_str().unwrap())
}

fn v6(up: &Value) -> String {
    format!("[{}]:{PORT}", up["address6"].as_str().unwrap())
}

#[test]
fn a_server_is_reached_over_both_protocols_and_leaves_nothing() {
    let Some(rig) = Rig::new("reach") else { return };
    let up = rig.up(&["--native"]);
    assert!(rig.reaches("client", &v4(&up)) && rig.reaches("client", &v6(&up)));
    for host in ["alpha", "beta", "client", "witness"] {
        let name = up["namespaces"][host].as_str().unwrap();
        assert!(Path::new("/run/netns").join(name).exists(), "{name}");
    }
    let pid = up["pids"]["alpha"]["guest"].as_i64().unwrap();
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("as_server"));
    assert_eq!(rig.host("alpha")["state"], "unprotected");
    let listed = Command::new(env!("CARGO_BIN_EXE_ft")).args(["rig", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&rig.0));
    let again = rig.up_command(&["--native"]).output().unwrap();
    assert!(!again.status.success(), "a rig that is up stays");
    assert!(rig.reaches("client", &v4(&up)));
    rig.down();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(rig.run("down", &[]).status.success(), "down of nothing is no error");
}

#[test]
fn a_host_has_its_own_name_files_and_processes() {
    let Some(rig) = Rig::new("own") else { return };
    let mark = format!("/etc/{}", rig.0);
    rig.up(&["--native", "--state", &format!("/var/lib/{}", rig.0)]);
    for host in ["alpha", "beta"] {
        let script =
            format!("uname -n; test -d /var/lib/{0} && touch {mark} /tmp/{0} /run/{0} /dev/shm/{0} && sync", rig.0);
        let o = rig.exec(host, &["sh", "-c", &script]);
        assert_eq!((o.status.code(), String::from_utf8_lossy(&o.stdout).trim()), (Some(0), host), "{o:?}");
        let first = rig.exec(host, &["cat", "/proc/1/cmdline"]);
        assert!(String::from_utf8_lossy(&first.stdout).contains(&rig.0), "{first:?}");
        let rigs = rig.exec(host, &["ls", "-A", "/var/tmp/ft-rig"]);
        assert_eq!((rigs.status.code(), &rigs.stdout[..]), (Some(0), &b""[..]), "layers are hidden");
        let links = rig.exec(host, &["ls", "/sys/class/net"]);
        assert_eq!(String::from_utf8_lossy(&links.stdout), "eth0\nlink0\nlo\nmgmt0\n");
        let ft = rig.exec(host, &["/usr/local/bin/ft", "--version"]);
        assert!(ft.status.success(), "{ft:?}");
        let kinds = rig.exec(host, &["stat", "-f", "-c", "%T", "/", "/tmp", "/run"]);
        assert_eq!(String::from_utf8_lossy(&kinds.stdout), "overlayfs\noverlayfs\ntmpfs\n");
    }
    // One storage for both, as an arbiter's file needs it.
    assert!(rig.exec("alpha", &["sh", "-c", "echo word > /mnt/ft-shared/file"]).status.success());
    assert_eq!(rig.exec("beta", &["cat", "/mnt/ft-shared/file"]).stdout, b"word\n");
    for dir in ["/etc", "/tmp", "/run", "/dev/shm", "/var/lib"] {
        assert!(!Path::new(dir).join(&rig.0).exists(), "{dir} of the machine");
    }
    rig.down();
}

#[test]
fn a_command_keeps_its_surroundings_and_its_end() {
    let Some(rig) = Rig::new("exec") else { return };
    rig.up(&["--native"]);
    let dir = std::env::temp_dir().join(&rig.0);
    fs::create_dir_all(&dir).unwrap();
    for host in ["client", "alpha", "beta", "witness"] {
        let mut c = rig.ft("exec");
        c.args([host, "--", "sh", "-c", "pwd; echo $VARIABLE; cat; echo word >&2; exit 7"]);
        c.current_dir(&dir)
            .env("VARIABLE", "value")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = c.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"input\n").unwrap();
        let o = child.wait_with_output().unwrap();
        assert_eq!(o.status.code(), Some(7), "{host}: {o:?}");
        assert_eq!(String::from_utf8_lossy(&o.stdout), format!("{}\nvalue\ninput\n", dir.display()), "{host}");
        assert_eq!(o.stderr, b"word\n");
        assert_eq!(rig.exec(host, &["sh", "-c", "kill -9 $$"]).status.signal(), Some(9), "{host}");
        assert_eq!(rig.exec(host, &["no-such-command"]).status.code(), Some(127), "{host}");

        // A signal reaches the command, which answers as it likes.
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done";
        let mut child = rig.ft("exec").args([host, "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        kill(&child, libc::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(9), "{host}");
    }
    fs::remove_dir(&dir).unwrap();
    rig.down();
}

#[test]
fn two_rigs_stand_side_by_side() {
    let (Some(a), Some(b)) = (Rig::new("one"), Rig::new("two")) else { return };
    let (up_a, up_b) = std::thread::scope(|s| {
        let other = s.spawn(|| b.up(&["--native"]));
        (a.up(&["--native"]), other.join().unwrap())
    });
    assert!(a.reaches("client", &v4(&up_a)) && b.reaches("client", &v4(&up_b)));
    a.fault("alpha", "kill-guest");
    assert!(!a.reaches("client", &v4(&up_a)) && b.reaches("client", &v4(&up_b)));
    a.down();
    assert!(b.reaches("client", &v6(&up_b)));
    b.down();
}

/// Fails only by not answering.
fn assert_silent<T: std::fmt::Debug>(mut act: impl FnMut() -> io::Result<T>) {
    let r = loop {
        match act() {
            // Children of other tests end: with a timeout set, the kernel does not go on by itself.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            r => break r,
        }
    };
    assert!(matches!(r.as_ref().map_err(|e| e.kind()), Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{r:?}");
}

#[test]
fn a_killed_host_says_nothing_any_more() {
    let Some(rig) = Rig::new("silence") else { return };
    let up = rig.up(&["--native"]);
    let mut connections: Vec<TcpStream> = [v4(&up), v6(&up)].iter().map(|a| rig.connect(a).unwrap()).collect();
    for s in &mut connections {
        s.set_read_timeout(Some(SILENCE)).unwrap();
        echo(s).unwrap();
    }
    let done = rig.fault("alpha", "kill-host");
    assert!(done["unix_ns"].as_u64() > Some(0));
    assert_eq!(rig.host("alpha")["role"], "dead");
    let init = up["pids"]["alpha"]["init"].as_i64().unwrap();
    // It may still wait to be reaped: then it has no command line.
    assert_eq!(fs::read(format!("/proc/{init}/cmdline")).unwrap_or_default(), b"");
    for s in &mut connections {
        // A FIN would be an end of file, an RST an error.
        assert_silent(|| s.read(&mut [0]));
        assert_silent(|| echo(s));
    }
    let e = rig.connect(&v4(&up)).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable), "{e}");
    let o = rig.exec("alpha", &["true"]);
    assert_eq!(o.status.code(), Some(125), "{o:?}");
    assert_eq!(rig.run("fault", &["alpha", "heal-service"]).status.code(), Some(125), "the dead stay dead");
    rig.down();
}

#[test]
fn a_killed_host_comes_back_with_its_old_disk_or_an_empty_one() {
    let Some(rig) = Rig::new("revive") else { return };
    let data = format!("/var/lib/{}", rig.0);
    let (kept, lost) = (format!("{data}/file"), format!("/run/{}", rig.0));
    let refused = |args: &[&str], why: &str| {
        let o = rig.run("fault", args);
        let said = String::from_utf8_lossy(&o.stderr);
        assert!(o.status.code() == Some(125) && said.contains(why), "{args:?}: {said}");
    };
    let says = |host, script: &str| {
        let o = rig.exec(host, &["sh", "-c", script]);
        (o.status.success(), String::from_utf8(o.stdout).unwrap())
    };
    for disk in [&[][..], &["--disk", "64"]] {
        let up = rig.up(&[&["--native", "--state", &data], disk].concat());
        let network = || says("alpha", "cd /sys/class/net && for i in *; do echo $i; cat $i/address; done; ip -o route");
        let first = network();
        assert!(first.0 && first.1.contains("eth0"), "{first:?}");
        for (options, is_kept) in [(&[][..], true), (&["--wipe"], false)] {
            assert!(says("alpha", &format!("touch {kept} {lost} && ip route add 10.99.0.0/24 dev eth0")).0);
            refused(&["alpha", "revive-host"], "kill-host");
            rig.fault("alpha", "slow-link");
            rig.fault("alpha", "cut-service");
            rig.fault("alpha", "kill-host");
            let done = rig.run("fault", &[&["alpha", "revive-host"], options].concat());
            assert!(done.status.success(), "{done:?}");
            let start = Instant::now();
            while !rig.reaches("client", &v4(&up)) {
                assert!(start.elapsed() < PATIENCE, "{}", rig.status());
            }
            assert!(rig.reaches("client", &v6(&up)));
            for (host, address) in [("beta", "192.168.77.1"), ("witness", "192.168.78.1")] {
                assert!(rig.reaches(host, &format!("{address}:{PORT}")), "{host}");
            }
            assert_eq!(network(), first);
            assert!(says("alpha", &format!("test -d {data} && test ! -e {lost}")).0);
            assert_eq!(says("alpha", &format!("test -e {kept}")).0, is_kept, "{options:?}");
        }
        // A host as before: it may end, freeze and die.
        rig.fault("alpha", "kill-guest");
        refused(&["alpha", "revive-host"], "kill-host");
        if rig.run("fault", &["alpha", "freeze-host"]).status.success() {
            refused(&["alpha", "revive-host"], "thaw-host");
        }
        rig.fault("alpha", "kill-host");
        rig.down();
    }
}

#[test]
fn hosts_without_a_service_come_back_and_the_client_is_never_dead() {
    let Some(rig) = Rig::new("idle") else { return };
    rig.up(&["--native"]);
    let mut left = rig.ft("exec").args(["witness", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    for host in ["beta", "witness"] {
        rig.fault(host, "kill-host");
        rig.fault(host, "revive-host");
        assert!(rig.exec(host, &["true"]).status.success());
    }
    // It has the machine's processes, but the host's network: in one that nobody finds it would stay.
    assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!((&rig.host("beta")["state"], &rig.status()["witness"]), (&"idle".into(), &"idle".into()));
    for args in [["client", "revive-host", "--wipe"], ["alpha", "kill-host", "--wipe"]] {
        assert_eq!(rig.run("fault", &args).status.code(), Some(125), "{args:?}");
    }
    assert_eq!(rig.host("alpha")["state"], "unprotected");
    rig.down();
}

#[test]
fn a_frozen_host_stands_still_and_goes_on() {
    let Some(rig) = Rig::new("frozen") else { return };
    let up = rig.up(&["--native"]);
    if !rig.run("fault", &["alpha", "freeze-host"]).status.success() {
        eprintln!("not tested: no freezer");
        return;
    }
    assert_eq!(rig.host("alpha")["state"], "frozen");
    assert!(!rig.reaches("client", &v4(&up)));
    rig.fault("alpha", "thaw-host");
    assert!(rig.reaches("client", &v4(&up)));
    rig.fault("alpha", "freeze-host");
    rig.fault("alpha", "kill-host");
    assert_eq!(rig.host("alpha")["role"], "dead");
    rig.fault("beta", "freeze-host");
    rig.down();
}

#[test]
fn networks_are_cut_and_healed() {
    let Some(rig) = Rig::new("cut") else { return };
    let up = rig.up(&["--native"]);
    let link = format!("192.168.77.1:{PORT}");
    let management = format!("192.168.78.1:{PORT}");
    let reached = || {
        let service = rig.reaches("client", &v4(&up));
        (service, rig.reaches("beta", &link), rig.reaches("witness", &management))
    };
    assert_eq!(reached(), (true, true, true));
    for (host, cut, heal, expected) in [
        ("alpha", "cut-service", "heal-service", (false, true, true)),
        ("alpha", "lose-service", "heal-service", (false, true, true)),
        ("alpha", "cut-link", "heal-link", (true, false, true)),
        ("beta", "cut-link", "heal-link", (true, false, true)),
        ("alpha", "cut-management", "heal-management", (true, true, false)),
        ("client", "cut-service", "heal-service", (false, true, true)),
    ] {
        rig.fault(host, cut);
        assert_eq!(reached(), expected, "{host} {cut}");
        rig.fault(host, heal);
        // Who asked for an address in vain asks again only after a second.
        let start = Instant::now();
        while reached() != (true, true, true) {
            assert!(start.elapsed() < PATIENCE, "{host} {heal}: {:?}", reached());
        }
    }
    rig.down();
}

#[test]
fn a_slow_link_is_slow_until_it_is_healed() {
    const ROUND_TRIP_US: u64 = 20_000;
    let Some(rig) = Rig::new("slow") else { return };
    let up = rig.up(&["--native"]);
    let link = format!("192.168.77.1:{PORT}");
    rig.fault("beta", "slow-link");
    assert!(rig.echo_us("beta", &link) >= ROUND_TRIP_US);
    let again = rig.run("fault", &["alpha", "slow-link"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("slow already"), "{again:?}");
    assert!(rig.reaches("client", &v4(&up)));
    rig.fault("alpha", "cut-link");
    assert!(!rig.reaches("beta", &link));
    rig.fault("alpha", "heal-link");
    let start = Instant::now();
    while !rig.reaches("beta", &link) || rig.echo_us("beta", &link) >= ROUND_TRIP_US {
        assert!(start.elapsed() < PATIENCE, "it stays slow");
    }
    rig.fault("alpha", "slow-link");
    rig.down();
}

#[test]
fn an_unknown_fault_is_refused_with_those_there_are() {
    let Some(rig) = Rig::new("unknown") else { return };
    let o = rig.run("fault", &["alpha", "set-on-fire"]);
    let said = String::from_utf8_lossy(&o.stderr);
    assert!(!o.status.success());
    for kind in ["set-on-fire", "kill-guest", "kill-engine", "kill-host", "freeze-host"] {
        assert!(said.contains(kind), "{said}");
    }
}

#[test]
fn without_protection_the_engine_can_be_killed_too() {
    let Some(rig) = Rig::new("solo") else { return };
    if ft_runtime::guest::EMBEDDED_SHIM.is_empty() {
        eprintln!("not tested: no shim built in");
        return;
    }
    let up = rig.up(&["--solo"]);
    assert!(rig.reaches("client", &v4(&up)));
    let pids = &up["pids"]["alpha"];
    assert!(pids["engine"].is_i64() && pids["guest"].is_i64() && pids["engine"] != pids["guest"], "{pids}");
    rig.fault("alpha", "kill-engine");
    let start = Instant::now();
    while !rig.host("alpha")["state"].as_str().unwrap().starts_with("ended") {
        assert!(start.elapsed() < PATIENCE, "{}", rig.status());
    }
    rig.down();
}

/// A server that never listens: its rig is never up.
fn up_that_waits(rig: &Rig) -> Child {
    let mut c = rig.ft("up");
    c.args(["--native", "--port", "1", "--", "sleep", "1000"]);
    c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads progress until this is said.
fn await_progress(up: &mut Child, what: &str) {
    for line in BufReader::new(up.stderr.as_mut().unwrap()).lines() {
        if line.unwrap().contains(what) {
            return;
        }
    }
    panic!("up never said {what}");
}

fn kill(child: &Child, signal: i32) {
    // SAFETY: no pointers; the child was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn an_up_that_was_killed_anywhere_leaves_what_down_finds() {
    let Some(rig) = Rig::new("killed") else { return };
    let steps = ["networks", "host witness", "host alpha", "host beta", "waiting"];
    // Right where a step begins, and somewhere in it.
    for (k, step) in steps.iter().flat_map(|s| [s; 4]).enumerate() {
        let mut up = up_that_waits(&rig);
        await_progress(&mut up, step);
        std::thread::sleep(Duration::from_millis(7 * (k as u64 % 4)));
        kill(&up, libc::SIGKILL);
        up.wait().unwrap();
        rig.down();
    }
    // The next `up` of that name needs no `down`.
    let mut up = up_that_waits(&rig);
    await_progress(&mut up, "waiting");
    kill(&up, libc::SIGKILL);
    up.wait().unwrap();
    let up = rig.up(&["--native"]);
    assert!(rig.reaches("client", &v4(&up)));
    rig.down();
}

#[test]
fn an_up_that_is_interrupted_cleans_up_itself() {
    let Some(rig) = Rig::new("interrupted") else { return };
    for step in ["networks", "host alpha", "waiting"] {
        let mut up = up_that_waits(&rig);
        await_progress(&mut up, step);
        kill(&up, libc::SIGTERM);
        // Its progress is still read: nobody ends for want of a reader.
        io::copy(up.stderr.as_mut().unwrap(), &mut io::sink()).unwrap();
        assert_eq!(up.wait().unwrap().code(), Some(125));
        assert_eq!(rig.left(), [] as [String; 0], "{step}");
    }
}

#[test]
fn down_stops_an_up_at_work() {
    let Some(rig) = Rig::new("stopped") else { return };
    let mut up = up_that_waits(&rig);
    await_progress(&mut up, "waiting");
    let reader = std::thread::spawn({
        let mut err = up.stderr.take().unwrap();
        move || io::copy(&mut err, &mut io::sink())
    });
    rig.down();
    assert!(!up.wait().unwrap().success());
    reader.join().unwrap().unwrap();
}

#[test]
fn a_server_that_ends_is_reported_with_its_words() {
    let Some(rig) = Rig::new("ends") else { return };
    let o = rig.ft("up").args(["--native", "--", "sh", "-c", "echo last words; exit 3"]).output().unwrap();
    let said = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(125));
    assert!(said.contains("last words") && said.contains("exit status 3"), "{said}");
    assert_eq!(rig.left(), [] as [String; 0]);
}

#[test]
fn what_runs_in_the_client_ends_with_the_rig() {
    let Some(rig) = Rig::new("strays") else { return };
    rig.up(&["--native"]);
    let strays: Vec<Child> = ["client", "witness", "alpha"]
        .iter()
        .map(|h| {
            let script = "setsid sleep 1000 & echo ready; wait";
            let mut c = rig.ft("exec").args([h, "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            BufReader::new(c.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
            c
        })
        .collect();
    let sleeps = || {
        let dirs = fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
        let net = |p: &Path| fs::read_link(p.join("ns/net")).unwrap_or_default();
        dirs.filter(|p| fs::read(p.join("cmdline")).is_ok_and(|c| c == b"sleep\x001000\x00"))
            .map(|p| net(&p))
            .collect::<Vec<_>>()
    };
    let ours: Vec<_> = strays.iter().map(|c| fs::read_link(format!("/proc/{}/ns/net", c.id())).unwrap()).collect();
    let start = Instant::now();
    while !ours.iter().all(|n| sleeps().contains(n)) {
        assert!(start.elapsed() < PATIENCE);
    }
    rig.down();
    assert!(!ours.iter().any(|n| sleeps().contains(n)));
    for mut c in strays {
        assert_eq!(c.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
