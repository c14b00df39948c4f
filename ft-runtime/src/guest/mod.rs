//! Guests: how one is started and how it ends.
//!
//! A [`Guest`] is the first process of a service on this host. It never outlives its `Guest` value, nor the engine.
//! What it says and hears goes through its segment; here is only its life.

mod adopt;
mod child;
mod ended;
mod error;
mod image;
mod launch;
pub(crate) mod maps;
mod program;
mod restore;
pub(crate) mod requirements;
mod segment;
mod start_stack;
pub(crate) mod tracee;

pub use adopt::{Adoptee, Refusal, Started};
pub use error::LaunchError;
pub use image::{EMBEDDED_SHIM, ShimImage, ShimImageError};
pub use launch::{LaunchSpec, PreExec, launch};
pub(crate) use launch::without_shim;
pub use segment::GUEST_PID;

use ft_log::shared::Segment;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::Pid;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A running guest. Dropped, it is killed and reaped.
pub struct Guest {
    /// As this host knows it; the guest sees [`GUEST_PID`].
    pub pid: Pid,
    /// Readable once the guest has ended.
    pub pidfd: OwnedFd,
    /// Stays mapped as long as the engine lives, so that what the guest said last can be read after its end.
    pub segment: Segment,
    /// Eventfd, nonblocking: the guest writes to it to wake the engine.
    pub doorbell: OwnedFd,
    origin: Origin,
    /// Known once it was reaped; from then on `pid` may be somebody else's.
    exit: Option<ExitStatus>,
}

/// Whose child a guest is.
enum Origin {
    /// The engine's.
    Forked,
    /// Somebody else's, who reaps it. When the lifeline's end here goes, the kernel kills it.
    Adopted { _lifeline: OwnedFd },
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("pid", &self.pid).field("exit", &self.exit).finish_non_exhaustive()
    }
}

impl Guest {
    /// Waits until the guest has ended. Of one that was adopted the status may be lost, which is an error.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if self.is_adopted() {
            // Bounded by the guest's life.
            while poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
            return self.try_wait()?.ok_or_else(|| io::Error::other("whose child the guest was has reaped it"));
        }
        let status = self.reap(WaitPidFlag::empty())?;
        Ok(status.expect("without WNOHANG waitpid returns a process"))
    }

    fn is_adopted(&self) -> bool {
        matches!(self.origin, Origin::Adopted { .. })
    }

    /// How the guest ended; `None` while it runs, or when nobody knows any more.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.is_adopted() {
            self.exit = self.exit.or_else(|| ended::status(self.pid, &self.pidfd));
            return Ok(self.exit);
        }
        self.reap(WaitPidFlag::WNOHANG)
    }

    fn reap(&mut self, flags: WaitPidFlag) -> io::Result<Option<ExitStatus>> {
        while self.exit.is_none() {
            let mut status = 0;
            // SAFETY: the kernel writes to `status`. `pid` is our child: only this function reaps it, and only once.
            let r = unsafe { libc::waitpid(self.pid.as_raw(), &mut status, flags.bits() | libc::__WALL) };
            match r {
                0 => return Ok(None),
                -1 => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
                _ => self.exit = Some(ExitStatus::from_raw(status)),
            }
        }
        Ok(self.exit)
    }

    /// Ends the guest at once; with all processes of its group, if the engine made that. It is reaped by `wait` or by the
    /// drop.
    pub fn kill(&self) {
        if !self.is_adopted() {
            kill(&self.pidfd, PIDFD_SIGNAL_PROCESS_GROUP);
        }
        // Before its setsid there is no such group.
        kill(&self.pidfd, 0);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
        // An error means that there is nothing to reap.
        let _ = self.wait();
    }
}

/// `pidfd_send_signal` to the process group that the process leads; since Linux 6.9.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Kills what `pidfd` stands for, or the group it leads, so that forked children go too.
fn kill(pidfd: &OwnedFd, flags: libc::c_uint) {
    // SAFETY: a plain system call; the null pointer asks for the signal's default information. Errors mean that there is no
    // such process or group, which is what we want.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
}
