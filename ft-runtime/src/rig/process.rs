//! Which process: by pid and start time, or by the namespaces it is in.

use crate::engine::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A pid together with what tells it from a later process of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

impl ProcessId {
    /// `None`: there is no such process, or it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        (!stat.ended).then_some(Self { pid, started: stat.started })
    }

    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// A descriptor that means this process and no other.
    pub fn open(&self) -> Option<OwnedFd> {
        let fd = sys::pidfd_open(self.pid).ok()?;
        // It was the one we mean when the descriptor was there: so the descriptor is that one's.
        self.is_alive().then_some(fd)
    }

    /// True if it was there to be killed.
    pub fn signal(&self, signo: i32) -> bool {
        self.open().is_some_and(|fd| sys::pidfd_kill(fd.as_fd(), signo).is_ok())
    }

    /// Waits for its end.
    pub fn wait(&self, patience: Duration) -> bool {
        let Some(fd) = self.open() else { return true };
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        matches!(poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout), Ok(1))
    }
}

/// A namespace, as the file in /proc tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceId {
    dev: u64,
    ino: u64,
}

impl NamespaceId {
    pub fn of(path: impl AsRef<Path>) -> io::Result<Self> {
        let m = fs::metadata(path)?;
        Ok(Self { dev: m.dev(), ino: m.ino() })
    }

    pub fn of_process(pid: i32, kind: &str) -> io::Result<Self> {
        Self::of(format!("/proc/{pid}/ns/{kind}"))
    }
}

struct Stat {
    parent: i32,
    started: u64,
    ended: bool,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in brackets, may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, started, ended })
    }
}

/// All living processes of the machine.
pub(super) fn all() -> impl Iterator<Item = ProcessId> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(ProcessId::of)
}

/// The living processes in a namespace of this kind.
pub(super) fn in_namespace(kind: &str, id: NamespaceId) -> Vec<ProcessId> {
    all().filter(|p| NamespaceId::of_process(p.pid, kind).is_ok_and(|n| n == id)).collect()
}

/// The living processes in the pid namespace that this one is the first of, itself included.
pub(super) fn of_init(init: ProcessId) -> Vec<ProcessId> {
    match NamespaceId::of_process(init.pid, "pid") {
        Ok(id) if init.is_alive() => in_namespace("pid", id),
        _ => Vec::new(),
    }
}

/// Who has this pid inside the namespace of `init`?
pub(super) fn by_inner_pid(init: ProcessId, inner: i32) -> Option<ProcessId> {
    of_init(init).into_iter().find(|p| inner_pid(p.pid) == Some(inner))
}

fn inner_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

/// The oldest child.
pub(super) fn first_child(parent: ProcessId) -> Option<ProcessId> {
    let is_child = |p: &ProcessId| Stat::of(p.pid).is_some_and(|s| s.parent == parent.pid);
    all().filter(is_child).min_by_key(|p| (p.started, p.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_was_used_again_is_another_process() {
        let me = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        let earlier = ProcessId { started: me.started - 1, ..me };
        assert!(!earlier.is_alive() && earlier.open().is_none());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let c = ProcessId::of(child.id() as i32).unwrap();
        assert_eq!(first_child(me), Some(c));
        assert!(!c.wait(Duration::from_millis(1)));
        assert!(c.signal(libc::SIGKILL) && c.wait(Duration::from_secs(10)));
        assert!(!c.is_alive(), "what is only left to be reaped has ended");
        child.wait().unwrap();
    }

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let s = Stat::parse("12 (a) b (c)) S 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1").unwrap();
        assert_eq!((s.parent, s.started, s.ended), (7, 4711, false));
        assert!(Stat::parse("12 (x").is_none());
    }
}
