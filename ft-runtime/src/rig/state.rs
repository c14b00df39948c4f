//! Where a rig keeps what, and what it wrote down about itself.
//!
//! The state file is replaced whole before each step that makes something. What it lacks after a crash can be found
//! by name: it is needed only for processes, and none of them does anything before it is written down.

use super::process::ProcessId;
use super::up::Mode;
use super::{Host, Result, RigError, io_error};
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RUN: &str = "/run/ft-rig";
const DISK: &str = "/var/tmp/ft-rig";
/// Where `ip netns` and everyone else looks.
pub(super) const NETNS: &str = "/run/netns";
const NAME_MAX: usize = 40;
/// For another `up` or `down` of the same rig to end.
const LOCK_MAX: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A rig's name: part of paths, of network namespaces' names and of cgroups'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RigName(String);

impl std::str::FromStr for RigName {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let first = s.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if !first || s.len() > NAME_MAX || !s.chars().all(fit) {
            return Err(format!("a rig's name has 1 to {NAME_MAX} letters, digits, '-', '_', '.', the first no sign"));
        }
        Ok(Self(s.to_owned()))
    }
}

impl std::fmt::Display for RigName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// All places of one rig.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub name: RigName,
}

impl Places {
    pub fn new(name: &RigName) -> Self {
        Self { name: name.clone() }
    }

    /// State, locks, what hosts report.
    pub fn run(&self) -> PathBuf {
        Path::new(RUN).join(&self.name.0)
    }

    /// File systems and logs.
    pub fn disk(&self) -> PathBuf {
        Path::new(DISK).join(&self.name.0)
    }

    pub fn host_disk(&self, host: Host) -> PathBuf {
        self.disk().join(host.name())
    }

    /// What both hosts have of one storage.
    pub fn shared(&self) -> PathBuf {
        self.disk().join("shared")
    }

    pub fn log(&self, host: Host) -> PathBuf {
        self.disk().join("logs").join(format!("{host}.log"))
    }

    pub fn spec(&self, host: Host) -> PathBuf {
        self.run().join(format!("{host}.spec"))
    }

    pub fn events(&self, host: Host) -> PathBuf {
        self.run().join(format!("{host}.events"))
    }

    fn state(&self) -> PathBuf {
        self.run().join("state.json")
    }

    fn lock(&self) -> PathBuf {
        // Beside the rig's directory, which `down` removes while it holds the lock.
        Path::new(RUN).join(format!(".{}.lock", self.name))
    }

    /// Name of a host's network namespace.
    pub fn netns(&self, host: Host) -> String {
        format!("ft-{}-{host}", self.name)
    }

    /// The namespace of the bridges.
    pub fn netns_switch(&self) -> String {
        format!("ft-{}-switch", self.name)
    }

    pub fn netns_all(&self) -> Vec<String> {
        Host::ALL.iter().map(|h| self.netns(*h)).chain([self.netns_switch()]).collect()
    }

    pub fn cgroup(&self, host: Host) -> String {
        format!("ft-rig-{}-{host}", self.name)
    }

    /// Is there anything of this rig?
    pub fn exist(&self) -> bool {
        self.run().exists()
            || self.disk().exists()
            || self.netns_all().iter().any(|n| Path::new(NETNS).join(n).symlink_metadata().is_ok())
    }

    /// One `up` or `down` at a time; given up by its end, however it ends. `None`: someone else has it.
    pub fn try_lock(&self) -> Result<Option<RigLock>> {
        let path = self.lock();
        for _ in 0..100 {
            fs::create_dir_all(RUN).map_err(io_error(RUN))?;
            let f = match File::create(&path) {
                // Another rig's `down` removed the directory this moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                f => f.map_err(io_error(path.display().to_string()))?,
            };
            // What is started meanwhile holds it too: a tool that outlives a killed `up` is waited for.
            fcntl(&f, FcntlArg::F_SETFD(FdFlag::empty())).map_err(io_error(path.display().to_string()))?;
            let held = match Flock::lock(f, FlockArg::LockExclusiveNonblock) {
                Ok(held) => held,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, e)) => return Err(io_error(path.display().to_string())(e)),
            };
            // Was it removed between open and lock?
            let same = fs::metadata(&path).ok().zip(held.metadata().ok());
            use std::os::unix::fs::MetadataExt;
            if same.is_some_and(|(a, b)| a.ino() == b.ino() && a.dev() == b.dev()) {
                return Ok(Some(RigLock { _held: held, path }));
            }
        }
        Err(RigError::Refused(format!("{} keeps disappearing", path.display())))
    }

    pub fn lock_wait(&self) -> Result<RigLock> {
        let end = Instant::now() + LOCK_MAX;
        loop {
            if let Some(l) = self.try_lock()? {
                return Ok(l);
            }
            if Instant::now() > end {
                return Err(RigError::Refused(format!("rig '{}' is busy: another up or down has it", self.name)));
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

pub(super) struct RigLock {
    _held: Flock<File>,
    path: PathBuf,
}

impl Drop for RigLock {
    fn drop(&mut self) {
        // While still held: whoever waits for this file finds that it was removed and takes a new one.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(RUN);
    }
}

/// How far `up` has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    Networks,
    Hosts,
    Service,
    Up,
}

/// What is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub name: String,
    pub boot_id: String,
    pub step: Step,
    pub mode: Mode,
    /// Hosts' disks can be filled without harm to the machine.
    #[serde(default)]
    pub has_small_disks: bool,
    /// The service's name: that of its control socket.
    pub service: String,
    pub address: String,
    pub address6: Option<String>,
    /// The `up` that made this.
    pub maker: ProcessId,
    /// First processes of the hosts.
    pub inits: BTreeMap<Host, ProcessId>,
    /// The command as given, for `list`.
    pub command: Vec<String>,
}

impl State {
    /// `None`: nothing was written down.
    pub fn load(places: &Places) -> Result<Option<Self>> {
        let path = places.state();
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            t => t.map_err(io_error(path.display().to_string()))?,
        };
        let state: Self = serde_json::from_slice(&text).map_err(|e| {
            RigError::Refused(format!("{}: {e}: was it made by another version of ft?", path.display()))
        })?;
        Ok(Some(state))
    }

    /// Of a rig that is up.
    pub fn of(name: &RigName) -> Result<(Places, Self)> {
        let places = Places::new(name);
        match Self::load(&places)? {
            Some(s) if s.boot_id != boot_id() => Err(RigError::Refused(format!(
                "rig '{name}' is of before the last boot; remove what is left: ft rig down --name {name}"
            ))),
            Some(s) => Ok((places, s)),
            None => Err(RigError::Refused(format!(
                "there is no rig '{name}'; make one: ft rig up --name {name} -- COMMAND; those there are: ft rig list"
            ))),
        }
    }

    pub fn save(&self, places: &Places) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("a state is plain text and numbers");
        replace(&places.state(), &text)
    }

    /// The first process of a host that lives.
    pub fn init(&self, host: Host) -> Option<ProcessId> {
        self.inits.get(&host).copied().filter(|p| p.is_alive())
    }
}

/// Whole or not at all, as readers see it.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let what = || path.display().to_string();
    fs::write(&new, content).map_err(io_error(what()))?;
    fs::rename(&new, path).map_err(io_error(what()))
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A rig as `ft rig list` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    pub name: String,
    /// `up`, `making`, or `broken`: left behind by an `up` that was killed.
    pub state: &'static str,
    pub address: Option<String>,
    pub command: Vec<String>,
}

/// All rigs of this machine.
pub fn list() -> Result<Vec<Listed>> {
    let mut names: Vec<String> = Vec::new();
    for base in [RUN, DISK] {
        let found = fs::read_dir(base).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
        names.extend(found.filter_map(|e| e.file_name().into_string().ok()));
    }
    names.sort();
    names.dedup();
    let mut out = Vec::new();
    for name in names.iter().filter_map(|n| n.parse::<RigName>().ok()) {
        let state = State::load(&Places::new(&name)).ok().flatten().filter(|s| s.boot_id == boot_id());
        out.push(Listed {
            name: name.to_string(),
            state: match &state {
                Some(s) if s.step == Step::Up => "up",
                Some(s) if s.maker.is_alive() => "making",
                _ => "broken",
            },
            address: state.as_ref().map(|s| s.address.clone()),
            command: state.map(|s| s.command).unwrap_or_default(),
        });
    }
    Ok(out)
}

/// What all rigs share: removed by the last one.
pub(super) fn remove_if_last() {
    let _ = fs::remove_dir(DISK);
    let others = fs::read_dir(RUN).into_iter().flatten().flatten().any(|e| e.path().is_dir());
    if !others {
        super::netns::remove_directory();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_paths() {
        for good in ["a", "default", "acc12x3", "A-b_c.d"] {
            assert!(good.parse::<RigName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", &"x".repeat(NAME_MAX + 1)] {
            assert!(bad.parse::<RigName>().is_err(), "{bad}");
        }
    }
}
