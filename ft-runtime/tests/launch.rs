//! Launching guests, with a tiny shim that only proves that it was there. Needs root, as `ft` does.

use ft_log::shared::{
    ARENA_BASE, ARENA_BYTES, DOORBELL_FD, GUEST_FDS_MAX, MAGIC, SHARED_BASE, SHIM_BASE, VERSION, map_kind, role,
};
use ft_runtime::guest::{GUEST_PID, Guest, LaunchError, LaunchSpec, ShimImage, launch};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

const AT_RANDOM: [u8; 16] = *b"sixteen equal by";

fn compile(source: &str, out: &str, args: &[&str]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Tests may run as several processes at once: each gets a directory of its own, for rustc's own files too.
    let dir = dir.join(format!("launch-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let to = dir.join(out);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(source);
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "-O"])
        .args(args)
        .arg(&source)
        .arg("-o")
        .arg(&to)
        .env("SHIM_BASE", SHIM_BASE.to_string())
        .env("ARENA_BASE", ARENA_BASE.to_string())
        .env("ARENA_BYTES", ARENA_BYTES.to_string())
        .env("SHARED_BASE", SHARED_BASE.to_string())
        .env("DOORBELL_FD", DOORBELL_FD.to_string())
        .status()
        .unwrap();
    assert!(status.success(), "{} does not compile", source.display());
    to
}

fn shim() -> &'static ShimImage {
    static SHIM: OnceLock<ShimImage> = OnceLock::new();
    SHIM.get_or_init(|| {
        let link = "-nostdlib -nostartfiles -Wl,-Bsymbolic -Wl,-z,now -Wl,-z,relro -Wl,--no-undefined";
        let link = format!("link-args={link}");
        let args = ["--crate-type=cdylib", "-Cpanic=abort", "-C", &link];
        let so = compile("tiny_shim.rs", "libtiny_shim.so", &args);
        ShimImage::parse(&fs::read(so).unwrap()).unwrap()
    })
}

fn show() -> &'static Path {
    static SHOW: OnceLock<PathBuf> = OnceLock::new();
    SHOW.get_or_init(|| compile("show.rs", "show", &[]))
}

fn spec(program: impl Into<PathBuf>, args: &[&str]) -> LaunchSpec {
    let program = program.into();
    let argv = [program.clone().into_os_string()].into_iter().chain(args.iter().map(OsString::from)).collect();
    LaunchSpec {
        program,
        argv,
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/".into(),
        umask: 0o022,
        role: role::PRIMARY,
        flags: 3,
        memory_every: 5,
        hold_at: 0,
        seed: 11,
        at_random: AT_RANDOM,
        stdout: None,
        snapshot: None,
        stderr: None,
        pre_exec: None,
        adoptee: None,
    }
}

fn start(spec: &mut LaunchSpec) -> Guest {
    launch(spec, shim()).unwrap_or_else(|e| panic!("{e}"))
}

fn run(spec: &mut LaunchSpec) -> ExitStatus {
    start(spec).wait().unwrap()
}

fn output(spec: &mut LaunchSpec) -> String {
    let (mut from, to) = std::io::pipe().unwrap();
    spec.stdout = Some(to.into());
    let mut guest = start(spec);
    spec.stdout = None;
    let mut out = String::new();
    from.read_to_string(&mut out).unwrap();
    assert_eq!(guest.wait().unwrap().code(), Some(0), "{out}");
    out
}

fn refused(spec: &mut LaunchSpec) -> String {
    let e = launch(spec, shim()).expect_err("it must not start");
    assert!(matches!(e, LaunchError::Program { .. } | LaunchError::Unsupported { .. }), "{e:?}");
    e.to_string()
}

fn file(name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn is_running(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

#[test]
fn the_shim_runs_first_with_all_it_was_promised() {
    let mut guest = start(&mut spec("/bin/true", &[]));
    assert_eq!(guest.wait().unwrap().code(), Some(0));
    let mut rung = [0; 8];
    File::from(guest.doorbell.try_clone().unwrap()).read_exact(&mut rung).unwrap();
    assert_eq!(u64::from_le_bytes(rung), 0b111111, "one bit per check in tiny_shim.rs");
}

#[test]
fn the_header_says_what_the_guest_is() {
    let guest = start(&mut spec("/bin/sleep", &["100"]));
    let h = guest.segment.header();
    assert_eq!((h.magic, h.version, h.guest_pid, h.seed), (MAGIC, VERSION, GUEST_PID, 11));
    assert_eq!(h.role.load(Ordering::Relaxed), role::PRIMARY);
    assert_eq!((h.flags.load(Ordering::Relaxed), h.memory_every.load(Ordering::Relaxed)), (3, 5));
    let maps = &h.initial_maps[..h.initial_maps_len as usize];
    let of = |kind| maps.iter().filter(move |m| m.kind == kind);
    assert!(of(map_kind::FILE).count() >= 8, "program and ld.so: {maps:x?}");
    assert!(of(map_kind::KERNEL).count() >= 2, "{maps:x?}");
    let stack = of(map_kind::STACK).next().unwrap();
    assert_eq!(h.stack_limit, stack.end - (8 << 20));
    assert!(maps.iter().all(|m| m.start < m.end && m.start % 4096 == 0), "{maps:x?}");
    assert!(maps.is_sorted_by_key(|m| m.start));
    let program_end = of(map_kind::FILE).map(|m| m.end).filter(|end| *end < 0x7000_0000_0000).max().unwrap();
    assert!((program_end..program_end + (1 << 20)).contains(&h.brk_start), "{:x} {maps:x?}", h.brk_start);
}

#[test]
fn exit_status_and_signal_arrive() {
    assert_eq!(run(&mut spec("/bin/sh", &["-c", "exit 7"])).code(), Some(7));
    assert_eq!(run(&mut spec("/bin/sh", &["-c", "kill -9 $$"])).signal(), Some(9));
}

#[test]
fn a_script_runs() {
    let script = file("script", b"#!/bin/sh\nexit $1\n", 0o755);
    assert_eq!(run(&mut spec(script, &["9"])).code(), Some(9));
}

#[test]
fn a_static_program_runs() {
    let program = compile("show.rs", "show-static", &["-Ctarget-feature=+crt-static"]);
    let out = output(&mut spec(program, &[]));
    assert!(out.contains("vdso 0x0\n"), "{out}");
}

#[test]
fn what_cannot_start_is_named() {
    let e = refused(&mut spec("/no/such/server", &[]));
    assert!(e.contains("/no/such/server: there is no such file"), "{e}");
    let e = refused(&mut spec(file("plain", b"x", 0o644), &[]));
    assert!(e.contains("not executable (mode 644)"), "{e}");
    let e = refused(&mut spec("/etc", &[]));
    assert!(e.contains("directory"), "{e}");
    let e = refused(&mut spec(file("orphan", b"#!/no/such/sh\n", 0o755), &[]));
    assert!(e.contains("\"/no/such/sh\" is missing"), "{e}");
    let e = refused(&mut spec(file("text", b"hello", 0o755), &[]));
    assert!(e.contains("neither an ELF program nor a script"), "{e}");
    let mut arm = fs::read("/bin/true").unwrap();
    arm[18] = 183;
    let e = refused(&mut spec(file("arm", &arm, 0o755), &[]));
    assert!(e.contains("another processor"), "{e}");
    let e = refused(&mut spec(file("setuid", &fs::read("/bin/true").unwrap(), 0o4755), &[]));
    assert!(e.contains("set-user-id"), "{e}");
    let mut long = spec("/bin/true", &[]);
    long.argv.extend((0..40).map(|_| OsString::from("x".repeat(100_000))));
    let e = refused(&mut long);
    assert!(e.contains("too long"), "{e}");
}

#[test]
fn what_cannot_be_said_to_a_process_is_refused() {
    let mut s = spec("/bin/true", &[]);
    s.argv.clear();
    assert!(matches!(launch(&mut s, shim()), Err(LaunchError::Argument { .. })));
    let mut s = spec("/bin/true", &["a\0b"]);
    assert!(matches!(launch(&mut s, shim()), Err(LaunchError::Argument { .. })));
    let mut s = spec("/bin/true", &[]);
    s.cwd = "/no/such/directory".into();
    let e = launch(&mut s, shim()).unwrap_err().to_string();
    assert!(e.contains("entering the working directory failed"), "{e}");
}

#[test]
fn two_launches_are_equal() {
    let launch = |s: &mut LaunchSpec| {
        s.cwd = "/usr".into();
        s.umask = 0o027;
        s.env.push(("LD_PRELOAD".into(), "/x/libft_shim.so".into()));
        output(s)
    };
    let one = launch(&mut spec(show(), &["a", "b c"]));
    // Another parent thread, other descriptors open, an environment block elsewhere in our memory.
    let _more: Vec<_> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
    let two = std::thread::spawn(move || launch(&mut spec(show(), &["a", "b c"]))).join().unwrap();
    assert_eq!(one, two);

    let has = |line: &str| assert!(one.lines().any(|l| l == line), "no line {line:?} in\n{one}");
    has("vdso 0x0");
    has("minsigstksz 0x3000");
    has("rseq 0 0");
    has(&format!("random {AT_RANDOM:02x?}"));
    has("leader true");
    has("umask 27");
    has("personality 0x40000");
    has("cwd Ok(\"/usr\")");
    has("env [(\"PATH\", \"/usr/bin:/bin\")]");
    has(&format!("fds [0, 1, 2, {DOORBELL_FD}] stdin \"/dev/null\""));
    // The Rust runtime of `show` itself ignores SIGPIPE and catches SIGSEGV and SIGBUS.
    has("SigBlk:\t0000000000000000");
    has("SigPnd:\t0000000000000000");
    has("SigIgn:\t0000000000001000");
    has("Max stack size            8388608              8388608              bytes     ");
    has(&format!("Max open files            {GUEST_FDS_MAX:<20} {GUEST_FDS_MAX:<20} files     "));
    has("Max core file size        0                    0                    bytes     ");
    for address in ["map 200000000000-", "map 200100000000-201100000000", "map 202000000000-"] {
        assert!(one.contains(address), "no {address:?} in\n{one}");
    }
}

#[test]
fn signals_ignored_by_the_engine_are_not_ignored_by_the_guest() {
    // Rust test programs ignore SIGPIPE.
    let status = output(&mut spec("/bin/cat", &["/proc/self/status"]));
    assert!(status.contains("SigIgn:\t0000000000000000"), "{status}");
}

#[test]
fn a_dropped_guest_is_gone_with_its_children() {
    let (from, to) = std::io::pipe().unwrap();
    let mut s = spec("/bin/sh", &["-c", "sleep 1000 & echo $!; wait"]);
    s.stdout = Some(to.into());
    let guest = start(&mut s);
    s.stdout = None;
    let mut child = String::new();
    BufReader::new(&from).read_line(&mut child).unwrap();
    let (pid, child) = (guest.pid.as_raw(), child.trim().parse().unwrap());
    assert!(is_running(pid) && is_running(child));
    drop(guest);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "reaped");
    // The child holds the pipe's other end until it is gone.
    let mut rest = Vec::new();
    (&from).read_to_end(&mut rest).unwrap();
    assert!(!is_running(child));
}

#[test]
fn try_wait_and_kill() {
    let mut guest = start(&mut spec("/bin/sleep", &["1000"]));
    assert_eq!(guest.try_wait().unwrap(), None);
    guest.kill();
    assert_eq!(guest.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(guest.try_wait().unwrap().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_guest_outlives_the_thread_that_launched_it() {
    let mut guest = std::thread::spawn(|| start(&mut spec("/bin/sh", &["-c", "sleep 0.3; exit 3"]))).join().unwrap();
    assert_eq!(guest.wait().unwrap().code(), Some(3));
}

/// The test program itself, started once more with this set, plays the engine.
const PLAY_ENGINE: &str = "FT_TEST_PLAY_ENGINE";

#[test]
fn an_engine_that_dies_takes_its_guest_along() {
    if std::env::var_os(PLAY_ENGINE).is_some() {
        let guest = start(&mut spec("/bin/sleep", &["1000"]));
        println!("\nguest {}", guest.pid);
        loop {
            std::thread::park();
        }
    }
    let mut engine = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_engine_that_dies_takes_its_guest_along", "--nocapture"])
        .env(PLAY_ENGINE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(engine.stdout.take().unwrap()).lines();
    let pid: i32 = lines
        .map_while(Result::ok)
        .find_map(|l| l.strip_prefix("guest ").map(|p| p.parse().unwrap()))
        .expect("the engine tells its guest's pid");
    // SAFETY: a plain system call; its result is checked by from_raw_fd's own assertion against -1.
    let pidfd = unsafe {
        use std::os::fd::FromRawFd;
        OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32)
    };
    assert!(is_running(pid));
    engine.kill().unwrap();
    engine.wait().unwrap();
    let mut ended = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut ended, 10_000u16), Ok(1), "the guest lives on");
}

#[test]
fn pre_exec_runs_in_the_guest_and_its_errors_come_back() {
    let mut s = spec("/bin/sh", &["-c", "exit $(nice)"]);
    s.pre_exec = Some(Box::new(|| {
        // SAFETY: a plain system call.
        let n = unsafe { libc::nice(4) };
        assert_ne!(n, -1);
        Ok(())
    }));
    let before = run(&mut s).code().unwrap();
    assert!(s.pre_exec.is_some(), "the spec can be launched again");
    assert_eq!(run(&mut s).code(), Some(before));

    s.pre_exec = Some(Box::new(|| Err(std::io::Error::from_raw_os_error(libc::EPERM))));
    let e = launch(&mut s, shim()).unwrap_err().to_string();
    assert!(e.contains("pre_exec") && e.contains("not permitted"), "{e}");

    s.pre_exec = Some(Box::new(|| panic!("on purpose")));
    let e = launch(&mut s, shim()).unwrap_err();
    assert!(matches!(e, LaunchError::Died { .. }), "{e:?}");
}
