//! Stopping all of a host at once, as a paused virtual machine: by the freezer of control groups, of which the
//! processes see nothing (a stop signal would end their system calls).

use super::process::ProcessId;
use super::state::Places;
use super::{Host, Result, RigError, io_error};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For the kernel to stop the last process of a group.
const FREEZE_MAX: Duration = Duration::from_secs(5);
/// For a group whose processes have ended to become removable.
const REMOVE_MAX: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The group of one host.
pub(super) struct Freezer {
    dir: PathBuf,
    version: Version,
}

impl Freezer {
    /// `None`: this machine has no freezer.
    pub fn of(places: &Places, host: Host) -> Option<Self> {
        let (base, version) = hierarchy(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
        Some(Self { dir: base.join(places.cgroup(host)), version })
    }

    pub fn create(&self) -> Result<()> {
        match fs::create_dir(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io_error(self.dir.display().to_string())(e)),
            _ => Ok(()),
        }
    }

    /// The file that takes the pids of those who join.
    pub fn members(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    pub fn add(&self, process: ProcessId) -> Result<()> {
        fs::write(self.members(), process.pid.to_string()).map_err(io_error(self.members().display().to_string()))
    }

    /// Returns once everything stands still.
    pub fn freeze(&self) -> Result<()> {
        self.set(true)?;
        let end = Instant::now() + FREEZE_MAX;
        while !self.is_frozen() {
            if Instant::now() > end {
                let _ = self.set(false);
                return Err(RigError::Refused(format!("{} does not freeze; it was thawed again", self.dir.display())));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    pub fn thaw(&self) -> Result<()> {
        if self.dir.exists() { self.set(false) } else { Ok(()) }
    }

    /// All of it stands still.
    pub fn is_frozen(&self) -> bool {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.version {
            Version::V1 => read("freezer.state").trim() == "FROZEN",
            Version::V2 => read("cgroup.events").lines().any(|l| l == "frozen 1"),
        }
    }

    fn set(&self, frozen: bool) -> Result<()> {
        let (file, value) = match (self.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        let path = self.dir.join(file);
        fs::write(&path, value).map_err(io_error(path.display().to_string()))
    }

    /// After its processes have ended.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + REMOVE_MAX;
        loop {
            match fs::remove_dir(&self.dir) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(e) if Instant::now() > end => return Err(io_error(self.dir.display().to_string())(e)),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

/// Where groups can be frozen: an old freezer hierarchy, or the one of today.
fn hierarchy(mountinfo: &str) -> Option<(PathBuf, Version)> {
    let mut found = None;
    for line in mountinfo.lines() {
        let Some((mount, super_block)) = line.split_once(" - ") else { continue };
        let Some(path) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut of_super = super_block.split(' ');
        match (of_super.next(), of_super.nth(1)) {
            (Some("cgroup"), Some(options)) if options.split(',').any(|o| o == "freezer") => {
                return Some((path, Version::V1));
            }
            (Some("cgroup2"), _) => found = found.or(Some((path, Version::V2))),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_freezer_are_found() {
        let v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        let v1 = "37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n";
        let other = "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n";
        assert_eq!(hierarchy(&format!("{other}{v2}")), Some(("/sys/fs/cgroup/unified".into(), Version::V2)));
        assert_eq!(hierarchy(&format!("{v2}{v1}")), Some(("/sys/fs/cgroup/freezer".into(), Version::V1)));
        assert_eq!(hierarchy(other), None);
    }
}
