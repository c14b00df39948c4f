//! The new process, from fork to exec.
//!
//! Laws: everything that needs memory was prepared before the fork; between fork and exec only async-signal-safe calls
//! are made (other threads of the engine may have held any lock at the fork); it never returns, not even by a panic.
//! What fails is told to the engine through a pipe that exec closes.
//!
//! What the guest inherits is fixed here and equal on both hosts: descriptors, limits, masks, dispositions,
//! personality, umask, directory.

use super::segment::STACK_BYTES;
use ft_log::adopt::{self, Step};
use ft_log::shared::{DOORBELL_FD, GUEST_FDS_MAX, SEGMENT_FD, STAGING_FD};
use std::ffi::{CStr, CString, c_char, c_int, c_ulong};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// Descriptor limit that placing them takes at least.
const PLACING_FDS_MIN: u64 = STAGING_FD as u64 + 64;
const SIGNALS_MAX: c_int = 64;

/// What was done, and what to do when it fails.
pub(super) fn describe(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Signals => ("resetting signals", "report this with `uname -r`"),
        Step::PreExec => ("entering the guest's surroundings (pre_exec)", "see the setup of namespaces"),
        Step::Session => ("starting a session", "report this with `uname -r`"),
        Step::Personality => (
            "turning off address randomisation (personality)",
            "a container's seccomp profile may forbid it: allow personality(ADDR_NO_RANDOMIZE)",
        ),
        Step::PlacingLimit => (
            "raising the descriptor limit",
            "the hard limit (ulimit -Hn) is too low: raise it, or run ft with CAP_SYS_RESOURCE",
        ),
        Step::Descriptors => ("placing descriptors", "are stdout and stderr of ft open?"),
        Step::Directory => ("entering the working directory", "it must exist on both hosts"),
        Step::Limits => ("fixing the resource limits", "run ft as root (CAP_SYS_RESOURCE)"),
        Step::DeathSignal => ("tying the guest to the engine", "the engine ended meanwhile"),
        Step::Trace => ("becoming traceable", "is kernel.yama.ptrace_scope 3? it must be 2 or less"),
        Step::Exec => ("executing the program", ""),
    }
}

/// Why a step failed.
pub(super) fn reason(errno: i32) -> io::Error {
    if errno == 0 { io::Error::other("no reason given") } else { io::Error::from_raw_os_error(errno) }
}

/// Strings and the null-terminated array of pointers to them that exec takes.
pub(super) struct StringArray {
    // Owns what `pointers` point to; never changed.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    pub(super) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// All the child needs, made before the fork.
pub(super) struct Child<'a> {
    pub program: &'a CStr,
    pub argv: &'a StringArray,
    pub env: &'a StringArray,
    pub cwd: &'a CStr,
    pub umask: u32,
    pub engine_pid: i32,
    pub stdin: RawFd,
    pub stdout: RawFd,
    pub stderr: RawFd,
    pub doorbell: RawFd,
    pub segment: RawFd,
    /// Writing end; close-on-exec.
    pub failures: RawFd,
    pub pre_exec: Option<&'a mut super::launch::PreExec>,
}

impl Child<'_> {
    /// Becomes the guest's program, or tells why not and exits.
    ///
    /// # Safety
    /// Only in a process just forked, with all signals blocked. The descriptors are open and the pointers of `argv`
    /// and `env` valid (both by construction of [`StringArray`] and of the caller's owners, which outlive the fork).
    pub(super) unsafe fn run(mut self) -> ! {
        let _bomb = NeverReturn;
        // SAFETY: the caller's promise is the one `become_guest` wants.
        let (step, e) = match unsafe { self.become_guest() } {
            Err(failure) => failure,
            Ok(never) => match never {},
        };
        let message = adopt::failure(step, e.raw_os_error().unwrap_or(0));
        // SAFETY: writes a local buffer to a descriptor we hold; then ends the process without running the engine's
        // exit handlers, which are not ours to run.
        unsafe {
            libc::write(self.failures, message.as_ptr().cast(), message.len());
            libc::_exit(EXIT_BEFORE_EXEC)
        }
    }

    /// # Safety
    /// As for `run`.
    unsafe fn become_guest(&mut self) -> Result<std::convert::Infallible, (Step, io::Error)> {
        let at = |step| move |e| (step, e);
        // SAFETY: by `run`'s promise the process is just forked: no handler of the engine may run in it any more.
        unsafe { default_dispositions() }.map_err(at(Step::Signals))?;
        if let Some(pre_exec) = &mut self.pre_exec {
            pre_exec().map_err(at(Step::PreExec))?;
        }
        // SAFETY: takes no memory; concerns this process alone, which is still single-threaded after the fork.
        check(unsafe { libc::setsid() }).map_err(at(Step::Session))?;
        // The whole value, not one bit more: every other personality bit changes the layout too.
        // SAFETY: as for setsid.
        check(unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as c_ulong) }).map_err(at(Step::Personality))?;
        raise_descriptor_limit(ITSELF).map_err(at(Step::PlacingLimit))?;
        // SAFETY: as for this function: the engine's descriptors are not used here any more but through `self`.
        unsafe { self.place_descriptors() }.map_err(at(Step::Descriptors))?;
        // SAFETY: `cwd` is a C string that the fork copied with the rest of the engine's memory.
        check(unsafe { libc::chdir(self.cwd.as_ptr()) }).map_err(at(Step::Directory))?;
        // SAFETY: as for setsid; it can't fail.
        unsafe { libc::umask(self.umask) };
        fix_limits(ITSELF).map_err(at(Step::Limits))?;
        // After pre_exec: a change of credentials there would clear it.
        // SAFETY: as for setsid.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong) })
            .map_err(at(Step::DeathSignal))?;
        // SAFETY: as for setsid; it can't fail.
        if unsafe { libc::getppid() } != self.engine_pid {
            return Err((Step::DeathSignal, io::Error::from_raw_os_error(libc::ESRCH)));
        }
        // SAFETY: PTRACE_TRACEME takes no further argument.
        check(unsafe { libc::ptrace(libc::PTRACE_TRACEME) }).map_err(at(Step::Trace))?;
        // The exec stop is a SIGTRAP; everything else stays blocked until the shim is in.
        block_all_but_sigtrap().map_err(at(Step::Signals))?;
        // SAFETY: C strings and arrays of them that end with a null pointer (`StringArray::new`), copied by the fork.
        unsafe { libc::execve(self.program.as_ptr(), self.argv.pointers.as_ptr(), self.env.pointers.as_ptr()) };
        Err((Step::Exec, io::Error::last_os_error()))
    }

    /// # Safety
    /// As for `run`.
    unsafe fn place_descriptors(&mut self) -> io::Result<()> {
        let stage = |fd: RawFd| {
            // SAFETY: duplicates a descriptor; takes no memory.
            check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, STAGING_FD) })
        };
        // First out of the way, then into place: a source may lie where another one goes.
        self.failures = stage(self.failures)?;
        let places = [
            (stage(self.stdin)?, 0),
            (stage(self.stdout)?, 1),
            (stage(self.stderr)?, 2),
            (stage(self.doorbell)?, DOORBELL_FD),
            (stage(self.segment)?, SEGMENT_FD),
        ];
        // SAFETY: changes flags of descriptors of this process only; nothing uses the engine's copies here any more.
        check(unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3 as c_ulong,
                u32::MAX as c_ulong,
                libc::CLOSE_RANGE_CLOEXEC as c_ulong,
            )
        })?;
        for (from, to) in places {
            // SAFETY: as above; what lay at `to` was the engine's and is not used here.
            check(unsafe { libc::dup3(from, to, 0) })?;
        }
        Ok(())
    }
}

const EXIT_BEFORE_EXEC: c_int = 127;

/// A panic (of `pre_exec`) must not unwind into the engine's code in the child.
struct NeverReturn;

impl Drop for NeverReturn {
    fn drop(&mut self) {
        // SAFETY: ends the process; nothing is needed of it any more.
        unsafe { libc::_exit(EXIT_BEFORE_EXEC) }
    }
}

trait Failed {
    fn failed(&self) -> bool;
}
impl Failed for c_int {
    fn failed(&self) -> bool {
        *self == -1
    }
}
impl Failed for libc::c_long {
    fn failed(&self) -> bool {
        *self == -1
    }
}

fn check<T: Failed>(result: T) -> io::Result<T> {
    if result.failed() { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Exec resets handlers but keeps what is ignored; Rust programs ignore SIGPIPE.
///
/// # Safety
/// The process has no use for its handlers any more.
unsafe fn default_dispositions() -> io::Result<()> {
    // The kernel's struct, not libc's, whose sigaction refuses the signals it keeps for itself.
    let default = [0u64; 4];
    for signal in (1..=SIGNALS_MAX).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // SAFETY: the kernel reads its 32-byte struct from `default` and writes nothing.
        check(unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, ptr::null::<u8>(), size_of::<u64>())
        })?;
    }
    Ok(())
}

fn block_all_but_sigtrap() -> io::Result<()> {
    let mask: u64 = !(1 << (libc::SIGTRAP - 1));
    // SAFETY: the kernel reads a set of eight bytes from `mask` and writes nothing.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, ptr::null::<u8>(), size_of::<u64>())
    })?;
    Ok(())
}

/// The calling process, where a process is named.
const ITSELF: libc::pid_t = 0;

/// So that the shim's descriptors can be placed.
pub(super) fn raise_descriptor_limit(pid: libc::pid_t) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, ptr::null(), &mut limit) })?;
    limit.rlim_max = limit.rlim_max.max(PLACING_FDS_MIN);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads `limit`.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, ptr::null_mut()) })?;
    Ok(())
}

/// After all descriptors are in their places, which lie above the limit set here.
pub(super) fn fix_limits(pid: libc::pid_t) -> io::Result<()> {
    let fixed = [
        (libc::RLIMIT_STACK, STACK_BYTES),
        (libc::RLIMIT_CORE, 0),
        // The shim reserves its heap in one piece, far above either limit.
        (libc::RLIMIT_AS, libc::RLIM_INFINITY),
        (libc::RLIMIT_DATA, libc::RLIM_INFINITY),
        (libc::RLIMIT_NOFILE, GUEST_FDS_MAX.into()),
    ];
    for (resource, value) in fixed {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: the kernel reads `limit`.
        check(unsafe { libc::prlimit(pid, resource, &limit, ptr::null_mut()) })?;
    }
    Ok(())
}
