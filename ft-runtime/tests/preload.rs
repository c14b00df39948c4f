//! `LD_PRELOAD=libft_shim.so PROGRAM` under a running engine, as people type it. Needs root, as `ft` does.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const FT_FAILED: Option<i32> = Some(125);

fn shim() -> PathBuf {
    let so = Path::new(env!("CARGO_BIN_EXE_ft")).with_file_name("libft_shim.so");
    assert!(so.exists(), "the build puts {} beside ft", so.display());
    so
}

/// A directory of its own, with the machine's /run/ft hidden from this test and all that it starts.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where an engine called `name` waits.
    fn socket(&self, name: &str) -> PathBuf {
        self.path(name).with_extension("sock")
    }

    fn ft(&self, name: &str, arguments: &[&str]) -> Running {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
        c.args(arguments);
        Running::start(c, self.path(name))
    }

    fn engine(&self, name: &str) -> Running {
        self.ft(name, &["run", "--solo", "--preload", self.socket(name).to_str().unwrap()])
    }

    fn program(&self, name: &str, command: &[&str]) -> Command {
        let mut c = Command::new(command[0]);
        c.args(&command[1..]).env("LD_PRELOAD", shim()).env("FT_SOCKET", self.socket(name)).stdin(Stdio::null());
        c
    }

    fn run(&self, name: &str, command: &[&str]) -> Output {
        self.program(name, command).output().unwrap()
    }
}

/// Ended at the latest when dropped.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    fn start(mut c: Command, output: PathBuf) -> Self {
        let out = File::create(&output).unwrap();
        c.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Self { child: c.spawn().unwrap(), output }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signo: i32) {
        // SAFETY: no pointers; the child is not reaped, so the pid is its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signo) }, 0);
    }

    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(t) = f() {
            return t;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn status(socket: &Path) -> Option<Value> {
    let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
    let o = c.args(["status", "-o", "json", "--socket"]).arg(socket).output().unwrap();
    serde_json::from_slice(&o.stdout).ok()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port()
}

fn said(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

#[test]
fn redis_is_served_by_the_process_that_was_started() {
    let p = Place::new();
    let mut engine = p.engine("redis");
    let port = free_port().to_string();
    let dir = p.path("data");
    fs::create_dir(&dir).unwrap();
    let server = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", dir.to_str().unwrap()];
    let mut redis = Running::start(p.program("redis", &server), p.path("redis-output"));
    let mut stream = until("it does not listen", || TcpStream::connect(format!("127.0.0.1:{port}")).ok());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"SET a b\r\nGET a\r\nBGSAVE\r\nINFO server\r\n").unwrap();
    let mut reply = String::new();
    while !reply.contains("io_threads_active") {
        let mut b = [0; 4096];
        let n = stream.read(&mut b).unwrap();
        assert!(n > 0, "{reply}");
        reply.push_str(std::str::from_utf8(&b[..n]).unwrap());
    }
    assert!(reply.starts_with("+OK\r\n$1\r\nb\r\n+Background saving started"), "{reply}");
    // It runs in lockstep: it has the pid that every guest has.
    assert!(reply.contains("process_id:1000\r\n"), "{reply}");
    let s = status(&p.socket("redis")).unwrap();
    assert_eq!((&s["role"], s["guest_pid"].as_i64()), (&"solo".into(), Some(redis.pid().into())));
    let name = fs::read_to_string(format!("/proc/{}/comm", redis.pid())).unwrap();
    assert_eq!(name, "redis-server\n", "as it was started, though /usr/bin/redis-server is a link");
    redis.signal(libc::SIGTERM);
    assert_eq!(redis.ended().code(), Some(0), "{}", redis.said());
    assert!(redis.said().contains("Received SIGTERM"), "{}", redis.said());
    assert_eq!(engine.ended().code(), Some(0), "{}", engine.said());
}

#[test]
fn the_programs_own_surroundings_and_status_count() {
    let p = Place::new();
    let script = r#"local $/; open(my $f, '<', '/proc/self/cmdline'); my $argv = <$f>; $argv =~ s/\0/|/g; chomp(my $cwd = readlink('/proc/self/cwd'));
                    print join(' ', map { "$_=$ENV{$_}" } sort keys %ENV), "\n$argv\n$cwd\n", sprintf('%03o', umask), "\n"; exit 7"#;
    let mut engine = p.engine("perl");
    let mut c = p.program("perl", &["perl", "-e", script, "a", "b c"]);
    c.env_clear().env("LD_PRELOAD", shim()).env("FT_SOCKET", p.socket("perl")).env("INVOCATION_ID", "1").env("KEPT", "x");
    c.current_dir("/usr");
    // SAFETY: umask and signal are plain system calls.
    unsafe {
        c.pre_exec(|| {
            libc::umask(0o27);
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
            Ok(())
        });
    }
    let o = c.output().unwrap();
    assert_eq!(o.status.code(), Some(7), "{}", said(&o));
    let out = said(&o);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "KEPT=x");
    assert!(out.contains("|a|b c|\n"), "{out}");
    assert_eq!(lines[lines.len() - 2..], ["/usr", "027"], "{out}");
    assert_eq!(engine.ended().code(), Some(7), "{}", engine.said());
}

#[test]
fn an_engine_that_is_killed_takes_the_program_along() {
    let p = Place::new();
    let mut engine = p.engine("sleep");
    let mut sleep = Running::start(p.program("sleep", &["sleep", "1000"]), p.path("sleep-output"));
    until("it is not the guest", || status(&p.socket("sleep")).filter(|s| s["role"] == "solo"));
    engine.child.kill().unwrap();
    engine.ended();
    assert_eq!(sleep.ended().signal(), Some(libc::SIGKILL), "{}", sleep.said());
}

#[test]
fn an_engine_that_is_interrupted_before_a_program_came_says_so() {
    let p = Place::new();
    let mut engine = p.engine("nobody");
    until("it does not answer", || status(&p.socket("nobody")).filter(|s| s["state"].as_str().unwrap().contains("LD_PRELOAD")));
    engine.signal(libc::SIGTERM);
    assert_eq!(engine.ended().code(), FT_FAILED);
    assert!(engine.said().contains("before the program was started"), "{}", engine.said());
}

#[test]
fn where_no_engine_runs_the_program_is_not_started_and_says_what_to_do() {
    let p = Place::new();
    let mut c = p.program("none", &["redis-server", "--version"]);
    let o = c.env_remove("FT_SOCKET").output().unwrap();
    assert_eq!(o.status.code(), FT_FAILED);
    let text = said(&o);
    assert!(text.starts_with("ft: no engine runs here") && text.contains("ft run") && text.contains("FT_SOCKET"), "{text}");
    let o = p.run("none", &["redis-server", "--version"]);
    assert_eq!(o.status.code(), FT_FAILED);
    assert!(said(&o).contains(&format!("there is no {}", p.socket("none").display())), "{}", said(&o));
    // One that was killed leaves its socket.
    let mut engine = p.engine("killed");
    until("it does not answer", || status(&p.socket("killed")));
    engine.child.kill().unwrap();
    engine.ended();
    let o = p.run("killed", &["redis-server", "--version"]);
    assert!(o.status.code() == FT_FAILED && said(&o).contains("has ended; start it again"), "{}", said(&o));
}

#[test]
fn the_only_engine_needs_no_name_and_of_several_one_must_be_named() {
    let p = Place::new();
    let at = |name: &str| format!("/run/ft/{name}.sock");
    let mut engines = ["a", "b"].map(|n| p.ft(n, &["run", "--solo", "--preload", &at(n)]));
    for n in ["a", "b"] {
        until("it does not answer", || status(Path::new(&at(n))));
    }
    let run = || p.program("x", &["true"]).env_remove("FT_SOCKET").output().unwrap();
    let o = run();
    let text = said(&o);
    assert_eq!(o.status.code(), FT_FAILED, "{text}");
    assert!(text.contains(&at("a")) && text.contains(&at("b")) && text.contains("FT_SOCKET=PATH"), "{text}");
    engines[1].signal(libc::SIGTERM);
    engines[1].ended();
    let o = run();
    assert!(o.status.success(), "{}", said(&o));
    assert_eq!(engines[0].ended().code(), Some(0), "{}", engines[0].said());
}

/// What can't be the guest is told why, and the engine goes on waiting.
#[test]
fn programs_that_cannot_be_guests_are_told_why() {
    let p = Place::new();
    let mut engine = p.engine("r");
    let refused = |o: Output, why: &str, advice: &str| {
        let text = said(&o);
        assert_eq!(o.status.code(), FT_FAILED, "{text}");
        assert!(text.starts_with("ft: the engine of ") && text.contains(why) && text.contains(advice), "{text}");
    };
    refused(p.run("r", &["sh", "-c", "exec true"]), "it is a shell", "exec env LD_PRELOAD=... SERVER");
    refused(p.program("r", &["true"]).env("LISTEN_FDS", "1").output().unwrap(), "LISTEN_FDS is 1", "no .socket unit");
    let mut c = p.program("r", &["true"]);
    // SAFETY: plain system calls; the filter is a constant, and only read.
    unsafe {
        c.pre_exec(|| {
            let allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
            let mut filter = [allow];
            let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
            let r = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
            if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    refused(c.output().unwrap(), "seccomp filter", "SystemCallFilter=");
    let mut c = p.program("r", &["true"]);
    // SAFETY: a plain system call.
    unsafe { c.pre_exec(|| Ok(unshare(CloneFlags::CLONE_NEWNS)?)) };
    refused(c.output().unwrap(), "another mnt namespace", "PrivateTmp=");
    let mut c = Command::new("strace");
    c.args(["-o", "/dev/null", "-E"]).arg(format!("LD_PRELOAD={}", shim().display())).arg("true");
    refused(c.env("FT_SOCKET", p.socket("r")).output().unwrap(), "traces it", "without strace or gdb");
    let copy = p.path("replaced");
    fs::copy("/bin/true", &copy).unwrap();
    let held = File::open(&copy).unwrap();
    fs::remove_file(&copy).unwrap();
    let fd = held.as_raw_fd();
    let mut c = p.program("r", &[&format!("/proc/self/fd/{fd}")]);
    // SAFETY: a plain system call on a descriptor that `held` keeps open.
    unsafe { c.pre_exec(move || Ok(nix::errno::Errno::result(libc::fcntl(fd, libc::F_SETFD, 0)).map(drop)?)) };
    refused(c.output().unwrap(), "was replaced or removed", "start it again");
    let o = p.run("r", &["true"]);
    assert!(o.status.success(), "it took none of them: {}", said(&o));
    assert_eq!(engine.ended().code(), Some(0), "{}", engine.said());
}

#[test]
fn a_second_program_is_told_that_there_is_one() {
    let p = Place::new();
    let _engine = p.engine("one");
    let mut first = Running::start(p.program("one", &["sleep", "1000"]), p.path("first"));
    until("it is not the guest", || status(&p.socket("one")).filter(|s| s["role"] == "solo"));
    let o = p.run("one", &["true"]);
    assert!(o.status.code() == FT_FAILED && said(&o).contains("it has a program already"), "{}", said(&o));
    first.signal(libc::SIGTERM);
    assert_eq!(first.ended().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_program_is_recorded_and_replayed() {
    let p = Place::new();
    let recording = p.path("recording");
    let socket = p.socket("record");
    let arguments = ["record", "-o", recording.to_str().unwrap(), "--preload", socket.to_str().unwrap()];
    let mut engine = p.ft("record", &arguments);
    let o = p.run("record", &["perl", "-e", "print time, ' ', rand, \"\\n\"; exit 3"]);
    assert_eq!((o.status.code(), engine.ended().code()), (Some(3), Some(3)), "{}", said(&o));
    let o = Command::new(env!("CARGO_BIN_EXE_ft")).arg("replay").arg(&recording).output().unwrap();
    let report: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((&report["ok"], &report["exit_status"]), (&true.into(), &3.into()), "{report}");
}

/// One host of a pair on this machine, without addresses.
fn host(p: &Place, name: &str, service: &str, keys: &[String; 2], ports: &[u16; 2]) -> PathBuf {
    let me = usize::from(name == "beta");
    let peer = ["beta", "alpha"][me];
    let start = ["primary", "backup"][me];
    let text = format!(
        "[service]\nname = \"s\"\n{service}\n[host]\nname = \"{name}\"\nstart = \"{start}\"\n[peer]\nname = \"{peer}\"\n\
         key = \"{}\"\naddress = \"127.0.0.1:{}\"\n[link]\nlisten = \"127.0.0.1:{}\"\nkey_file = {:?}\n\
         [arbiter]\nkind = \"none\"\n[control]\nsocket = {:?}\n",
        keys[1 - me],
        ports[1 - me],
        ports[me],
        p.path(&format!("{name}.key")),
        p.socket(name),
    );
    let file = p.path(&format!("{name}.toml"));
    fs::write(&file, text).unwrap();
    file
}

fn pair(p: &Place, service: &str) -> [Running; 2] {
    let names = ["alpha", "beta"];
    let keys = names.map(|n| {
        let o = Command::new(env!("CARGO_BIN_EXE_ft")).arg("keygen").arg(p.path(&format!("{n}.key"))).output().unwrap();
        String::from_utf8(o.stdout).unwrap().trim().to_owned()
    });
    let ports = [free_port(), free_port()];
    names.map(|n| {
        let config = host(p, n, service, &keys, &ports);
        p.ft(n, &["run", "--config", config.to_str().unwrap()])
    })
}

#[test]
fn programs_that_differ_between_the_hosts_are_named_and_neither_starts() {
    let p = Place::new();
    let mut engines = pair(&p, "preload = true");
    let start = |name: &str, argument: &str, colour: &str| {
        let mut c = p.program(name, &["sleep", argument]);
        c.env("COLOUR", colour);
        Running::start(c, p.path(&format!("{name}-program")))
    };
    let mut programs = [start("alpha", "1000", "red"), start("beta", "2000", "blue")];
    for program in &mut programs {
        assert_eq!(program.ended().code(), FT_FAILED, "{}", program.said());
        let said = program.said();
        assert!(said.contains("arguments: ") && said.contains("1000") && said.contains("2000"), "{said}");
        assert!(said.contains("environment variable COLOUR"), "{said}");
    }
    for engine in &mut engines {
        assert_eq!(engine.ended().code(), FT_FAILED);
        assert!(engine.said().contains("arguments: "), "{}", engine.said());
    }
}

#[test]
fn a_program_that_ends_while_its_engine_waits_for_the_other_host_ends_the_engine() {
    let p = Place::new();
    let [mut alpha, _beta] = pair(&p, "preload = true");
    let mut program = Running::start(p.program("alpha", &["sleep", "1000"]), p.path("program"));
    until("it is not seen", || status(&p.socket("alpha")).filter(|s| s["state"].as_str().unwrap().contains("peer")));
    program.signal(libc::SIGTERM);
    assert_eq!(program.ended().signal(), Some(libc::SIGTERM));
    assert_eq!(alpha.ended().code(), FT_FAILED);
    assert!(alpha.said().contains("the program ended before the service was started"), "{}", alpha.said());
}

#[test]
fn an_engine_that_starts_the_server_itself_takes_no_program() {
    let p = Place::new();
    let [_alpha, _beta] = pair(&p, "command = [\"sleep\", \"1000\"]");
    let o = p.run("alpha", &["true"]);
    assert!(o.status.code() == FT_FAILED && said(&o).contains("starts the server itself"), "{}", said(&o));
}
