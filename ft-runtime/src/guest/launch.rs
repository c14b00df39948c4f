//! Starts a guest: fork, exec under ptrace, the shim put in at the exec stop, and off it goes. A program that asked to become
//! the guest ([`Adoptee`]) comes to its exec stop by itself; from there on all is the same.
//!
//! The program's own first instruction (ld.so's, or a static binary's) has not run when the shim gets control: r15
//! holds its address, everything else is as the kernel left it at exec.
//!
//! The thread that forks is the guest's parent in the kernel's eyes: ptrace obeys only it, and the guest dies with it
//! (PR_SET_PDEATHSIG speaks of threads). So each guest has a *keeper*, a thread that forks, injects, and then does
//! nothing but live as long as the guest. An engine that ends takes its keepers and so its guests along.
//!
//! A program that was adopted keeps its parent, and dies by its lifeline instead.
//!
//! What the kernel clears again: the death signal goes when the guest changes its credentials, and forked children of
//! the guest never have it. Both are the shim's to set anew.

use super::{Guest, Origin};
use super::adopt::{Adoptee, Become};
use super::child::{Child, StringArray, describe, reason};
use super::error::LaunchError;
use super::image::ShimImage;
use super::maps::Layout;
use super::program;
use super::restore::restore;
use super::requirements;
use super::segment::{NewSegment, Start};
use super::start_stack::{self, SIGNAL_STACK_BYTES_MIN, StackError};
use super::tracee::{self, Tracee};
use crate::snapshot::Source;
use ft_log::adopt::{FAILURE_BYTES, Step, decode_failure};
use ft_log::shared::{ARENA_BASE, ARENA_BYTES, SEGMENT_BYTES, SEGMENT_FD, SHARED_BASE, SHIM_BASE};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// From fork to exec; covers slow file systems and `pre_exec`.
const EXEC_SECONDS_MAX: u64 = 20;
/// How a preloaded shim's file is called, whatever its version.
const SHIM_FILE: &[u8] = b"libft_shim";

pub type PreExec = Box<dyn FnMut() -> io::Result<()> + Send>;

/// What to start and as what.
pub struct LaunchSpec {
    /// Already looked up in PATH. Named after `pre_exec` and from the engine's root, so better absolute.
    pub program: PathBuf,
    /// With argv[0].
    pub argv: Vec<OsString>,
    /// All of it: nothing is inherited. Entries of LD_PRELOAD that name libft_shim are left out.
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
    pub umask: u32,
    /// One of [`ft_log::shared::role`].
    pub role: u32,
    /// Of [`ft_log::shared::flag`].
    pub flags: u64,
    /// As in [`ft_log::shared::Header::memory_every`].
    pub memory_every: u64,
    /// As in [`ft_log::shared::Hold::at`].
    pub hold_at: u64,
    pub seed: u64,
    /// The kernel's 16 random bytes, equal on both hosts.
    pub at_random: [u8; 16],
    /// `None`: the engine's own.
    pub stdout: Option<OwnedFd>,
    /// `None`: the engine's own.
    pub stderr: Option<OwnedFd>,
    /// Runs in the child before everything else, with the engine's descriptors, e.g. to enter a mount namespace.
    /// Other threads of the engine may have held locks at the fork: system calls only, no allocation, no logging.
    pub pre_exec: Option<PreExec>,
    /// The guest goes on from this snapshot, of the same program, instead of starting.
    pub snapshot: Option<Source>,
    /// The program that is to become the guest, with its own standard output and error and without `pre_exec`. `None`: a
    /// new process is made.
    pub adoptee: Option<Adoptee>,
}

/// Starts a guest. It runs when this returns; dropping it kills it.
pub fn launch(spec: &mut LaunchSpec, shim: &ShimImage) -> Result<Guest, LaunchError> {
    requirements::check()?;
    let mut order = Order::new(spec)?;
    let shim = shim.clone();
    let (tell, told) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("ft-guest-keeper".into())
        .spawn(move || keep(&mut order, &shim, &tell))
        .map_err(LaunchError::prepare("starting the guest's keeper thread", "is the limit of threads reached?"))?;
    // `spec` stays borrowed until the keeper has answered: it owns the descriptors that `order` names by number.
    let (launched, pre_exec) = told.recv().expect("the keeper answers before it ends");
    spec.pre_exec = pre_exec;
    launched
}

/// A [`LaunchSpec`] in the kernel's words.
struct Order {
    program: PathBuf,
    program_c: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    umask: u32,
    role: u32,
    flags: u64,
    memory_every: u64,
    hold_at: u64,
    seed: u64,
    at_random: [u8; 16],
    stdout: RawFd,
    stderr: RawFd,
    pre_exec: Option<PreExec>,
    snapshot: Option<Source>,
    adoptee: Option<Adoptee>,
}

impl Order {
    fn new(spec: &mut LaunchSpec) -> Result<Self, LaunchError> {
        if spec.argv.is_empty() {
            return Err(LaunchError::Argument { what: "there is no argv[0]".into() });
        }
        Ok(Self {
            program: spec.program.clone(),
            program_c: c_string("the program", spec.program.as_os_str())?,
            argv: spec.argv.iter().map(|a| c_string("an argument", a)).collect::<Result<_, _>>()?,
            env: environment(&spec.env)?,
            cwd: c_string("the working directory", spec.cwd.as_os_str())?,
            umask: spec.umask,
            role: spec.role,
            flags: spec.flags,
            memory_every: spec.memory_every,
            hold_at: spec.hold_at,
            seed: spec.seed,
            at_random: spec.at_random,
            stdout: spec.stdout.as_ref().map_or(libc::STDOUT_FILENO, |fd| fd.as_raw_fd()),
            stderr: spec.stderr.as_ref().map_or(libc::STDERR_FILENO, |fd| fd.as_raw_fd()),
            pre_exec: spec.pre_exec.take(),
            snapshot: spec.snapshot.take(),
            adoptee: spec.adoptee.take(),
        })
    }
}

fn c_string(what: &str, s: &OsStr) -> Result<CString, LaunchError> {
    CString::new(s.as_bytes())
        .map_err(|_| LaunchError::Argument { what: format!("{what} {s:?} has a zero byte in it") })
}

fn environment(env: &[(OsString, OsString)]) -> Result<Vec<CString>, LaunchError> {
    let mut out = Vec::with_capacity(env.len());
    for (name, value) in env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(LaunchError::Argument { what: format!("an environment variable can't be called {name:?}") });
        }
        let value = if name == "LD_PRELOAD" {
            let Some(kept) = without_shim(value) else { continue };
            kept
        } else {
            value.clone()
        };
        let mut entry = name.clone();
        entry.push("=");
        entry.push(value);
        out.push(c_string("the environment entry", &entry)?);
    }
    Ok(out)
}

/// A list of preloads without the shim's own; `None` when that was all of it.
pub(crate) fn without_shim(preload: &OsStr) -> Option<OsString> {
    let is_separator = |b: &u8| matches!(b, b':' | b' ');
    let names_shim = |entry: &[u8]| {
        let file = entry.rsplit(|b| *b == b'/').next().unwrap_or_default();
        file.starts_with(SHIM_FILE)
    };
    let entries: Vec<_> = preload.as_bytes().split(is_separator).collect();
    if !entries.iter().any(|e| names_shim(e)) {
        return Some(preload.to_owned());
    }
    let kept: Vec<_> = entries.into_iter().filter(|e| !e.is_empty() && !names_shim(e)).collect();
    (!kept.is_empty()).then(|| OsString::from_vec(kept.join(&b':')))
}

type Answer = (Result<Guest, LaunchError>, Option<PreExec>);

/// The keeper's life.
fn keep(order: &mut Order, shim: &ShimImage, tell: &mpsc::SyncSender<Answer>) {
    let launched = start(order, shim).and_then(|guest| {
        let ended = guest.pidfd.try_clone().map_err(LaunchError::prepare("duplicating a descriptor", FDS_ADVICE))?;
        Ok((guest, ended))
    });
    let (launched, ended) = match launched {
        Ok((guest, ended)) => (Ok(guest), Some(ended)),
        Err(e) => (Err(e), None),
    };
    // Nobody listens any more: the guest comes back in the error and is killed by its drop.
    let _ = tell.send((launched, order.pre_exec.take()));
    if let Some(ended) = ended {
        // Bounded by the guest's life, which is the purpose.
        while poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
    }
}

const FDS_ADVICE: &str = "is the engine's descriptor limit (ulimit -n) reached?";

fn start(order: &mut Order, shim: &ShimImage) -> Result<Guest, LaunchError> {
    // The child starts with this mask: no handler of the engine runs in it. Signals to the engine go to other threads.
    SigSet::all()
        .thread_set_mask()
        .map_err(|e| LaunchError::prepare("blocking signals", "report this with `uname -r`")(e.into()))?;
    let mut segment = NewSegment::create()
        .map_err(LaunchError::prepare("making the shared segment", "is there memory for 130 MiB more?"))?;
    let doorbell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map_err(|e| LaunchError::prepare("making the doorbell", FDS_ADVICE)(e.into()))?
        .into();
    let stdin = File::open("/dev/null").map_err(LaunchError::prepare("opening /dev/null", "does /dev exist?"))?;

    let (fledgling, origin) = match order.adoptee.take() {
        None => (exec(order, &segment, &doorbell, &stdin)?, Origin::Forked),
        Some(a) => adopt(order, a, &segment, &doorbell, &stdin)?,
    };
    let mut tracee =
        Tracee::at_exec_stop(fledgling.pid()).map_err(LaunchError::inject("taking hold of it", INJECT_ADVICE))?;
    let layout = look_at(&tracee, fledgling.pid(), order)?;
    segment.fill(&Start {
        role: order.role,
        flags: order.flags,
        memory_every: order.memory_every,
        hold_at: order.hold_at,
        seed: order.seed,
        layout: &layout,
    });
    map_segment(&tracee)?;
    let gone = match order.snapshot.take() {
        None => {
            inject(&tracee, order, shim, &layout)?;
            tracee.enter(shim.entry())
        }
        Some(s) => {
            let cpu = restore(&mut tracee, fledgling.pid(), layout.brk_start, s)?;
            tracee.go_on(cpu)
        }
    };
    gone.map_err(LaunchError::inject("letting it go", INJECT_ADVICE))?;
    let (pid, pidfd) = fledgling.grown();
    Ok(Guest { pid, pidfd, segment: segment.publish(), doorbell, origin, exit: None })
}

/// A guest without a shim: dropped, it is killed.
struct Fledgling(Option<(Pid, OwnedFd)>);

impl Fledgling {
    fn new(pid: Pid) -> Result<Self, LaunchError> {
        // SAFETY: a plain system call; the result is checked. The child is ours and not waited for, so `pid` is it.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0 as libc::c_uint) };
        if fd >= 0 {
            // SAFETY: just opened, owned by nobody else.
            return Ok(Self(Some((pid, unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))));
        }
        let source = io::Error::last_os_error();
        // The child is ours and not waited for, so `pid` is it; nothing to do about an error.
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        let _ = tracee::wait(pid);
        Err(LaunchError::Prepare { what: "opening a pidfd", source, advice: FDS_ADVICE })
    }

    fn pid(&self) -> Pid {
        self.0.as_ref().expect("only `grown` and `drop` take it, and both end self").0
    }

    fn grown(mut self) -> (Pid, OwnedFd) {
        self.0.take().expect("only `grown` and `drop` take it, and both end self")
    }
}

impl Drop for Fledgling {
    fn drop(&mut self) {
        if let Some((pid, pidfd)) = self.0.take() {
            super::kill(&pidfd, super::PIDFD_SIGNAL_PROCESS_GROUP);
            super::kill(&pidfd, 0);
            // It may report stops of the trace before it reports its end.
            while let Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)) = tracee::wait(pid) {}
        }
    }
}

/// Forks and brings the child to its exec stop.
fn exec(order: &mut Order, segment: &NewSegment, doorbell: &OwnedFd, stdin: &File) -> Result<Fledgling, LaunchError> {
    let (failures, failures_of_child) =
        pipe2(OFlag::O_CLOEXEC).map_err(|e| LaunchError::prepare("making a pipe", FDS_ADVICE)(e.into()))?;
    let argv = StringArray::new(std::mem::take(&mut order.argv));
    let env = StringArray::new(std::mem::take(&mut order.env));
    let child = Child {
        program: &order.program_c,
        argv: &argv,
        env: &env,
        cwd: &order.cwd,
        umask: order.umask,
        engine_pid: std::process::id() as i32,
        stdin: stdin.as_raw_fd(),
        stdout: order.stdout,
        stderr: order.stderr,
        doorbell: doorbell.as_raw_fd(),
        segment: segment.fd().as_raw_fd(),
        failures: failures_of_child.as_raw_fd(),
        pre_exec: order.pre_exec.as_mut(),
    };
    // SAFETY: the child runs `Child::run` only, which keeps to async-signal-safe calls (and `pre_exec`, whose author
    // promises the same in `LaunchSpec`).
    match unsafe { fork() } {
        // SAFETY: just forked; all signals are blocked since `start`; descriptors and strings are owned by our
        // caller's frames, of which the child has a copy.
        Ok(ForkResult::Child) => unsafe { child.run() },
        Ok(ForkResult::Parent { child: pid }) => {
            let fledgling = Fledgling::new(pid)?;
            drop(failures_of_child);
            await_exec(order, pid, failures.into())?;
            Ok(fledgling)
        }
        Err(e) => Err(LaunchError::prepare("forking", "is a limit of processes or memory reached?")(e.into())),
    }
}

/// Has a program execute itself anew, and meets it at its exec stop. Before that it ends by itself if this fails: nothing
/// is killed that is not a guest.
fn adopt(
    order: &Order,
    adoptee: Adoptee,
    segment: &NewSegment,
    doorbell: &OwnedFd,
    stdin: &File,
) -> Result<(Fledgling, Origin), LaunchError> {
    let (guests_end, lifeline) =
        pipe2(OFlag::O_CLOEXEC).map_err(|e| LaunchError::prepare("making a pipe", FDS_ADVICE)(e.into()))?;
    let failures = adoptee.become_guest(&Become {
        program: &order.program_c,
        argv: &order.argv,
        env: &order.env,
        cwd: &order.cwd,
        umask: order.umask,
        descriptors: [stdin.as_fd(), doorbell.as_fd(), segment.fd(), guests_end.as_fd()],
    })?;
    let Adoptee { stream, pid, pidfd, .. } = adoptee;
    // Its end is awaited at `failures`.
    drop(stream);
    await_exec(order, pid, failures)?;
    Ok((Fledgling(Some((pid, pidfd))), Origin::Adopted { _lifeline: lifeline }))
}

/// Reads until exec or exit closes the process's end, then waits for the stop that follows an exec.
fn await_exec(order: &Order, pid: Pid, mut failures: File) -> Result<(), LaunchError> {
    wait_readable(&failures, Duration::from_secs(EXEC_SECONDS_MAX))?;
    let mut message = [0; FAILURE_BYTES];
    match failures.read_exact(&mut message) {
        Ok(()) => {
            let Some((step, errno)) = decode_failure(&message) else {
                return Err(LaunchError::Strange { what: format!("a child that failed with {message:?}") });
            };
            let (source, (what, advice)) = (reason(errno), describe(step));
            return Err(match step {
                Step::Exec => program::explain_exec(&order.program, &source),
                _ => LaunchError::Setup { what, source, advice },
            });
        }
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(e) => return Err(LaunchError::prepare("reading the child's pipe", "report this with `uname -r`")(e)),
    }
    match tracee::wait(pid) {
        Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => Ok(()),
        Ok(WaitStatus::Exited(_, code)) => Err(LaunchError::Died { how: format!("exit status {code}") }),
        Ok(WaitStatus::Signaled(_, signal, _)) => Err(LaunchError::Died { how: format!("killed by {signal}") }),
        Ok(other) => Err(LaunchError::Strange { what: format!("{other:?} where the exec stop was due") }),
        Err(e) => Err(LaunchError::inject("waiting for the exec stop", INJECT_ADVICE)(e)),
    }
}

fn wait_readable(file: &File, max: Duration) -> Result<(), LaunchError> {
    let end = Instant::now() + max;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up, so that it can't spin at zero; never above the u16 of seconds that `max` is.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(LaunchError::Stuck { seconds: max.as_secs() }),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => {
                return Err(LaunchError::prepare("waiting for the child", "report this with `uname -r`")(e.into()));
            }
        }
    }
}

const INJECT_ADVICE: &str = "did somebody kill or trace it? otherwise report this with `uname -r`";

/// What the kernel made of the program at exec: before anything is mapped.
fn look_at(tracee: &Tracee, pid: Pid, order: &Order) -> Result<Layout, LaunchError> {
    program::check_executed(&order.program, Path::new(&format!("/proc/{pid}/exe")))?;
    if !tracee.runs_64_bit_code() {
        return Err(LaunchError::Strange { what: "a 64-bit program that starts in 32-bit mode".into() });
    }
    Layout::read(pid)
        .map_err(LaunchError::inject("reading its /proc", "is /proc mounted, without hidepid for root?"))?
        .map_err(|what| LaunchError::Strange { what })
}

/// Puts everything of the shim's into the stopped guest.
fn inject(tracee: &Tracee, order: &Order, shim: &ShimImage, layout: &Layout) -> Result<(), LaunchError> {
    edit_stack(tracee, order, layout)?;
    map_shim(tracee, shim)?;
    let arena = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map(tracee, "reserving the shim's heap", ARENA_BASE, ARENA_BYTES, arena, NO_FD)
}

fn edit_stack(tracee: &Tracee, order: &Order, layout: &Layout) -> Result<(), LaunchError> {
    let at = tracee.stack_pointer();
    if !layout.stack.contains(&at) {
        return Err(LaunchError::Strange { what: format!("a stack pointer {at:#x} outside the stack") });
    }
    let mut stack = vec![0; (layout.stack.end - at) as usize];
    tracee.read(at, &mut stack).map_err(LaunchError::inject("reading its stack", INJECT_ADVICE))?;
    let vector = start_stack::rewrite(at, &stack).map_err(|e| match e {
        StackError::Malformed(what) => LaunchError::Strange { what: what.into() },
        StackError::SignalFrame(bytes) => LaunchError::Unsupported {
            program: order.program.clone(),
            why: format!("this CPU's signal frames take {bytes} bytes, guests are promised {SIGNAL_STACK_BYTES_MIN}"),
            advice: "use another CPU model for the pair, or raise SIGNAL_STACK_BYTES_MIN in ft on both hosts".into(),
        },
    })?;
    if vector.secure {
        return Err(program::privileged(&order.program));
    }
    tracee
        .write(vector.at, &vector.bytes)
        .and_then(|()| tracee.write(vector.random_at, &order.at_random))
        .map_err(LaunchError::inject("writing its stack", INJECT_ADVICE))?;
    Ok(())
}

const PROT_RW: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const NO_FD: u64 = u64::MAX;

fn map_shim(tracee: &Tracee, shim: &ShimImage) -> Result<(), LaunchError> {
    const WHAT: &str = "mapping the shim";
    map(tracee, WHAT, SHIM_BASE, shim.len(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, NO_FD)?;
    for (at, bytes) in shim.contents() {
        tracee.write(at, bytes).map_err(LaunchError::inject(WHAT, INJECT_ADVICE))?;
    }
    for (range, protection) in shim.protections() {
        let args = [range.start, range.end - range.start, (*protection).into(), 0, 0, 0];
        tracee.syscall(libc::SYS_mprotect, args).map_err(LaunchError::inject(WHAT, INJECT_ADVICE))?;
    }
    Ok(())
}

fn map_segment(tracee: &Tracee) -> Result<(), LaunchError> {
    let (bytes, fd) = (SEGMENT_BYTES as u64, SEGMENT_FD as u64);
    map(tracee, "mapping the shared segment", SHARED_BASE, bytes, libc::MAP_SHARED, fd)?;
    tracee
        .syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0])
        .map_err(LaunchError::inject("closing the segment's descriptor", INJECT_ADVICE))?;
    Ok(())
}

/// Maps readable and writable memory at exactly `at`.
fn map(tracee: &Tracee, what: &'static str, at: u64, len: u64, flags: i32, fd: u64) -> Result<(), LaunchError> {
    let flags = (flags | libc::MAP_FIXED_NOREPLACE) as u64;
    let advice = "the program must leave 0x200000000000-0x210000000000 free, \
                  and vm.overcommit_memory=2 must not forbid reserving 64 GiB";
    let got =
        tracee.syscall(libc::SYS_mmap, [at, len, PROT_RW, flags, fd, 0]).map_err(LaunchError::inject(what, advice))?;
    assert_eq!(got, at, "the kernel honours MAP_FIXED_NOREPLACE since 4.17");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(preload: &str) -> Option<String> {
        without_shim(OsStr::new(preload)).map(|p| p.into_string().unwrap())
    }

    #[test]
    fn only_the_shim_leaves_the_preloads() {
        assert_eq!(kept("/usr/lib/libft_shim.so"), None);
        assert_eq!(kept("libft_shim.so.1 "), None);
        assert_eq!(kept("/a/libft_shim.so:/b/other.so").as_deref(), Some("/b/other.so"));
        assert_eq!(kept("/a/libjemalloc.so  x").as_deref(), Some("/a/libjemalloc.so  x"));
        assert_eq!(kept("/libft_shim.so.d/other.so").as_deref(), Some("/libft_shim.so.d/other.so"));
        assert_eq!(kept("").as_deref(), Some(""));
    }

    #[test]
    fn the_environment_is_taken_as_given() {
        let env = [("B".into(), "1=2".into()), ("A".into(), "".into())];
        assert_eq!(environment(&env).unwrap(), [c"B=1=2".to_owned(), c"A=".to_owned()]);
        for bad in ["", "A=B", "A\0"] {
            assert!(environment(&[(bad.into(), "".into())]).is_err(), "{bad:?}");
        }
    }
}
