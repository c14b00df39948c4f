//! gdb on a guest: whether it can be had, and how it is started so that it and the shim don't disturb each other.
//!
//! - The shim lives by SIGSYS and by faults (decisions/0013): gdb passes them on without a word. A fault that ends the guest is
//!   sent by the shim to its own process, as a signal of a user's: at those gdb stops.
//! - A guest that waits stands in the shim. An unwinder shows the guest's own frames behind it, from the registers that
//!   the shim says it keeps for the guest (`Hold` in ft-log).
//! - All threads of a guest are one to the kernel: gdb's library for threads would find others than there are.

use crate::start::{Error, io_error};
use ft_log::shared::{Header, Hold, SHARED_BASE, SHIM_REGION};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A gdb that can be started.
pub struct Gdb {
    /// Of the guest.
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Gdb {
    /// `arguments`: of the user's, e.g. `-batch -ex bt`. Refused here is what would fail later.
    pub fn find(program: &Path, arguments: &[OsString]) -> Result<Self, Error> {
        let version = Command::new("gdb").args(["-nx", "-batch", "-ex", "python print(1)"]).stdin(Stdio::null()).output();
        match version {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Refused("gdb is not in PATH: install it (Debian: apt install gdb)".into()));
            }
            Err(e) => return Err(io_error("running gdb")(e)),
            Ok(o) if !o.status.success() || o.stdout.trim_ascii() != b"1" => {
                return Err(Error::Refused("this gdb has no Python, which showing the server's frames needs: install a full gdb".into()));
            }
            Ok(_) => {}
        }
        try_ptrace().map_err(|e| {
            Error::Refused(format!(
                "no process can be attached to here ({e}): run as root, with /proc/sys/kernel/yama/ptrace_scope below 3, and in a \
                 container with CAP_SYS_PTRACE"
            ))
        })?;
        Ok(Self { program: program.to_owned(), arguments: arguments.to_vec() })
    }

    /// In `dir` is room for a file that lives as long as the guest.
    pub fn ready(self, dir: &Path) -> Result<ReadyGdb, Error> {
        let settings = dir.join("settings.gdb");
        fs::write(&settings, commands()).map_err(io_error(settings.display().to_string()))?;
        Ok(ReadyGdb { gdb: self, settings })
    }
}

pub struct ReadyGdb {
    gdb: Gdb,
    settings: PathBuf,
}

impl ReadyGdb {
    /// On our own terminal.
    pub fn start(&self, guest: Pid) -> io::Result<Child> {
        let mut command = Command::new("gdb");
        command.arg("-q").arg("-ix").arg(&self.settings).args(&self.gdb.arguments);
        command.arg("-p").arg(guest.to_string()).arg(&self.gdb.program).spawn()
    }
}

fn commands() -> String {
    let hold = SHARED_BASE + offset_of!(Header, hold) as u64 + offset_of!(Hold, registers) as u64;
    include_str!("gdb/settings.gdb")
        .replace("@HOLD_REGISTERS@", &format!("{hold:#x}"))
        .replace("@SHIM_START@", &format!("{:#x}", SHIM_REGION.start))
        .replace("@SHIM_END@", &format!("{:#x}", SHIM_REGION.end))
}

/// Attaches to a process of our own.
fn try_ptrace() -> io::Result<()> {
    // SAFETY: the child only waits: it allocates nothing and takes no lock.
    match unsafe { fork() }? {
        ForkResult::Child => loop {
            // SAFETY: no pointers.
            unsafe { libc::pause() };
        },
        ForkResult::Parent { child } => {
            let attached = ptrace::attach(child).and_then(|()| match waitpid(child, None)? {
                WaitStatus::Stopped(..) => Ok(()),
                _ => Err(nix::errno::Errno::ESRCH),
            });
            // It is ours, attached or not, and is not reaped yet.
            nix::sys::signal::kill(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            Ok(attached?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_no_holes() {
        let text = commands();
        assert!(!text.contains('@') && text.contains("catch signal"), "{text}");
    }
}
