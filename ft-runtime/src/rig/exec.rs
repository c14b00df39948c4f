//! `ft rig exec`: a command of the caller's in a host, with the caller's directory, environment and streams.

use super::freezer::Freezer;
use super::netns;
use super::state::{Places, RigName, State};
use super::{Host, Result, RigError, io_error};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{ForkResult, Pid, fork};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// As shells say: found but not startable, not found.
const EXIT_NO_START: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;

/// Exit status of the command; does not return where it can become the command.
pub fn exec(name: &RigName, host: Host, command: &[OsString]) -> Result<i32> {
    let (places, state) = State::of(name)?;
    match host {
        // They have the machine's files: only the network is theirs.
        Host::Client | Host::Witness => {
            let path = netns::path(&places.netns(host));
            let ns = File::open(&path).map_err(io_error(path.display().to_string()))?;
            setns(ns, CloneFlags::CLONE_NEWNET).map_err(io_error(format!("entering the network of {host}")))?;
            Ok(become_command(command))
        }
        Host::Alpha | Host::Beta => inside(&places, &state, host, command),
    }
}

/// Only returns if it could not be started.
fn become_command(command: &[OsString]) -> i32 {
    let Some((program, arguments)) = command.split_first() else { return EXIT_NOT_FOUND };
    let e = Command::new(program).args(arguments).exec();
    eprintln!("ft: {}: {e}", program.display());
    if e.kind() == std::io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NO_START }
}

fn inside(places: &Places, state: &State, host: Host, command: &[OsString]) -> Result<i32> {
    let dead = || RigError::Refused(format!("{host} is dead"));
    let init = state.init(host).ok_or_else(dead)?;
    let init = init.open().ok_or_else(dead)?;
    let cwd = std::env::current_dir().map_err(io_error("the current directory"))?;
    let group = Freezer::of(places, host).and_then(|f| File::options().write(true).open(f.members()).ok());
    let all = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    setns(init, all).map_err(io_error(format!("entering {host}")))?;
    std::env::set_current_dir(&cwd).map_err(io_error(format!("{} does not exist on {host}", cwd.display())))?;

    // Only a child is in the pid namespace. From here signals are taken by hand.
    let mask = forwarded();
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before)).map_err(io_error("blocking signals"))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(io_error("making a process"))? {
        ForkResult::Child => {
            // SAFETY: prctl with integers: nothing goes on in a host that nobody waits for.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if let Some(mut g) = group {
                use std::io::Write;
                // Without a group it can't be frozen with the host: no reason not to run.
                let _ = g.write_all(b"0");
            }
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
            std::process::exit(become_command(command))
        }
        ForkResult::Parent { child } => {
            drop(group);
            attend(child, &mask)
        }
    }
}

/// Signals that are the command's rather than ours.
fn forwarded() -> SigSet {
    let mut s = SigSet::all();
    for not in [
        Signal::SIGKILL,
        Signal::SIGSTOP,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTRAP,
        Signal::SIGSYS,
        Signal::SIGABRT,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ] {
        s.remove(not);
    }
    s
}

/// Passes signals on, until the command ends; then ends like it.
fn attend(child: Pid, mask: &SigSet) -> Result<i32> {
    loop {
        // SAFETY: all-zero is a valid siginfo; the kernel fills it; the set is initialised.
        let (signo, code) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let n = libc::sigwaitinfo(mask.as_ref(), &mut info);
            (n, info.si_code)
        };
        match signo {
            libc::SIGCHLD => {
                if let Some(code) = ended(child)? {
                    return Ok(code);
                }
            }
            // The terminal sent it to the command as well.
            n if n > 0 && code == libc::SI_KERNEL => {}
            n if n > 0 => {
                // SAFETY: no pointers; the child was not reaped, so the pid is its own.
                unsafe { libc::kill(child.as_raw(), n) };
            }
            // Interrupted.
            _ => {}
        }
    }
}

fn ended(child: Pid) -> Result<Option<i32>> {
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(child), flags) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(end_by(signal))),
            Ok(WaitStatus::Stopped(..)) => {
                // Whoever controls us controls the command: stop with it, and let it go on when we do.
                let _ = nix::sys::signal::raise(Signal::SIGSTOP);
                let _ = kill(child, Signal::SIGCONT);
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(io_error("waiting for the command")(e)),
        }
    }
}

/// By the same signal: the caller sees what happened to the command.
fn end_by(signal: Signal) -> i32 {
    let mut only = SigSet::empty();
    only.add(signal);
    // SAFETY: no handler is installed; no core of ours is wanted.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        let _ = nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl);
    }
    let _ = nix::sys::signal::raise(signal);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
    // A signal that does not end a process.
    128 + signal as i32
}
