//! A process of the guest: when it is gone, and how it ended.

use super::sys;
use crate::guest::Guest;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;

/// What the engine needs of a process. Tests have a guest that is a thread.
pub trait Process {
    /// Readable once the process has ended; `None`: it was gone already when we looked.
    fn gone_fd(&self) -> Option<BorrowedFd<'_>>;
    /// Wait status, once it has ended; `None`: nobody can say any more.
    fn status(&mut self) -> Option<i32>;
    fn kill(&self);
    /// Its id on this host; `None`: it has none.
    fn pid(&self) -> Option<i32> {
        None
    }
}

/// The guest's first process: our child. Dropped, it is killed and reaped.
impl Process for Guest {
    fn gone_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.pidfd.as_fd())
    }

    fn status(&mut self) -> Option<i32> {
        self.try_wait().ok().flatten().map(ExitStatusExt::into_raw)
    }

    fn kill(&self) {
        Guest::kill(self);
    }

    fn pid(&self) -> Option<i32> {
        Some(self.pid.as_raw())
    }
}

/// A fork child of the guest: the guest reaps it.
pub struct Grandchild {
    pid: i32,
    pidfd: Option<OwnedFd>,
    status: Option<i32>,
}

impl Grandchild {
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = pid as i32;
        match sys::pidfd_open(pid) {
            Ok(fd) => Ok(Self { pid, pidfd: Some(fd), status: None }),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(Self { pid, pidfd: None, status: None }),
            Err(e) => Err(e),
        }
    }
}

impl Process for Grandchild {
    fn gone_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|fd| fd.as_fd())
    }

    fn status(&mut self) -> Option<i32> {
        if self.status.is_none() {
            // Ours if its parent went first: we are the subreaper.
            self.status = zombie_status(self.pid).or_else(|| sys::reap(self.pid).ok().flatten());
        }
        self.status
    }

    fn kill(&self) {
        if let Some(fd) = &self.pidfd {
            kill(fd);
        }
    }
}

impl Drop for Grandchild {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill(pidfd: &OwnedFd) {
    // ESRCH: gone already, which is what we want.
    let _ = sys::pidfd_kill(pidfd.as_fd(), libc::SIGKILL);
}

/// `exit_code` of a zombie, the last field of /proc/PID/stat.
pub(crate) fn zombie_status(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything.
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if !matches!(state, "Z" | "X") {
        return None;
    }
    fields.last()?.parse().ok()
}

/// The process has ended, as its descriptor says now.
pub fn is_gone(p: &dyn Process) -> bool {
    let Some(fd) = p.gone_fd() else { return true };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, valid for the call; a timeout of 0 never blocks.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_zombies_status_is_read_without_reaping_it() {
        let mut c = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let mut p = Grandchild::open(c.id()).unwrap();
        let fd = p.gone_fd().unwrap();
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, 10_000) }, 1);
        assert!(is_gone(&p));
        assert_eq!(p.status(), Some(7 << 8));
        assert_eq!(c.wait().unwrap().code(), Some(7));
    }
}
