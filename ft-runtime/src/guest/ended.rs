//! How a process ended that is somebody else's child.

use crate::engine::process::zombie_status;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// `struct pidfd_info` in its first size; the exit code since Linux 6.15.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, and eight ids of users and groups.
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xff, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = 3 << 30 | (size_of::<PidfdInfo>() as libc::c_ulong) << 16 | 0xff << 8 | 11;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// `None`: it runs, or it was reaped and this kernel does not say.
pub(super) fn status(pid: Pid, pidfd: &OwnedFd) -> Option<ExitStatus> {
    // Until it is reaped /proc has it, afterwards the descriptor; its parent may reap it between any two looks. The descriptor
    // first: the pid may be somebody else's by then.
    let raw = reaped_status(pidfd).or_else(|| zombie_status(pid.as_raw())).or_else(|| reaped_status(pidfd))?;
    Some(ExitStatus::from_raw(raw))
}

fn reaped_status(pidfd: &OwnedFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes at most as many bytes as the request's number says, the size of `info`.
    let r = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (r == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sys::pidfd_open;
    use std::process::Command;

    #[test]
    fn a_status_is_known_before_and_after_the_parent_has_it() {
        let mut c = Command::new("sh").args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (pid, pidfd) = (Pid::from_raw(c.id() as i32), pidfd_open(c.id() as i32).unwrap());
        assert_eq!(status(pid, &pidfd), None);
        drop(c.stdin.take());
        let ended = || crate::engine::process::zombie_status(pid.as_raw()).is_some();
        while !ended() {}
        assert_eq!(status(pid, &pidfd).unwrap().code(), Some(7));
        c.wait().unwrap();
        // Linux before 6.15 has forgotten it by now.
        assert!(matches!(status(pid, &pidfd).map(|s| s.code()), None | Some(Some(7))));
    }
}
