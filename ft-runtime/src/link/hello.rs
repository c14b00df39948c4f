//! What two hosts must have in common to run in lockstep, as data: each makes a [`Hello`], the other compares.
//!
//! Everything the guest can see and that neither the shim hides nor the launcher fixes belongs here. A pair that
//! differs is refused by the name of the item, with both values and what to do.
//!
//! Not covered, because only the run shows them: libraries opened by `dlopen`, and files outside the state
//! directories (time zone, locale, certificates). If those differ the sync monitor finds it.

mod cpu;
mod libraries;
mod tree;

pub use cpu::Cpu;
pub use tree::{Part, StateDir, TreeProgress};

use super::PROTOCOL_VERSION;
use super::text::{self, Parts};
use crate::failover::HostId;
use crate::guest::EMBEDDED_SHIM;
use crate::logfile::{OsText, hex};
use crate::record::sha256;
use nix::sys::resource::Resource;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A hello as text is never longer; bounds what a peer can make us hold.
const HELLO_BYTES_MAX: usize = 8 << 20;
/// Values are shown up to here.
const SHOWN_CHARS_MAX: usize = 240;
/// Beyond so many differences nobody reads on.
const DIFFERENCES_MAX: usize = 64;

/// Why a hello can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{}: {why}", program.display())]
    Program { program: PathBuf, why: String },
    #[error("state directory {}: {why}", path.display())]
    State { path: PathBuf, why: String },
    #[error("stopped while reading state directories")]
    Stopped,
    #[error("the peer's description of its host can't be read: {0}; is the same ft installed on both hosts?")]
    Foreign(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> HelloError {
    let what = what.into();
    move |source| HelloError::Io { what, source }
}

/// What a hello is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Whose hello it is.
    pub host: HostId,
    /// Absolute.
    pub program: &'a Path,
    pub argv: &'a [OsString],
    pub env: &'a [(OsString, OsString)],
    pub cwd: &'a Path,
    pub umask: u32,
    pub state_dirs: &'a [PathBuf],
    /// Where clients connect to.
    pub service: Option<SocketAddr>,
    /// The part of the configuration that is for both hosts.
    pub config: &'a [u8],
    /// Whose user and limits the guest has. `None`: this process's.
    pub process: Option<Pid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    pub path: OsText,
    pub sha256: String,
}

impl FileDigest {
    fn of(path: &Path) -> Result<Self, HelloError> {
        let sha256 = sha256(path).map_err(io_error(path.display().to_string()))?;
        Ok(Self { path: path.as_os_str().into(), sha256 })
    }
}

/// The value may be a secret: its digest goes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: OsText,
    pub sha256: String,
}

/// What the kernel tells every program at its start and the launcher leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartVector {
    pub hwcap: u64,
    pub hwcap2: u64,
    pub platform: String,
    pub page_bytes: u64,
    pub clock_ticks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Sorted.
    pub groups: Vec<u32>,
}

/// Soft and hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit(pub u64, pub u64);

/// One host, as far as a guest can tell it from another. Digests are SHA-256, hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub ft_version: String,
    pub protocol: u32,
    /// Who says it, and whose word all is that comes over this link. Each host has its own: see [`host_difference`].
    pub host: HostId,
    pub shim_sha256: String,
    pub program: FileDigest,
    /// Interpreters and libraries that are loaded at the start, in the loader's order. A static program has none.
    pub libraries: Vec<FileDigest>,
    pub argv: Vec<OsText>,
    /// In order: it is the order on the guest's stack.
    pub env: Vec<Variable>,
    pub cwd: OsText,
    pub umask: u32,
    pub user: User,
    pub kernel_release: String,
    pub start_vector: StartVector,
    pub cpu: Cpu,
    /// Without their content before [`Self::read_state`].
    pub state_dirs: Vec<StateDir>,
    /// The service runs here: what its state directories hold now is nothing to compare.
    pub serves: bool,
    /// Those that the launcher does not fix.
    pub limits: BTreeMap<String, Limit>,
    pub service: Option<SocketAddr>,
    pub config_sha256: String,
}

impl Hello {
    /// Reads the program and its libraries.
    pub fn here(s: &Subject) -> Result<Self, HelloError> {
        let release =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(io_error("the kernel's release"))?;
        let variable = |(name, value): &(OsString, OsString)| Variable {
            name: OsText(name.clone()),
            sha256: digest(value.as_bytes()),
        };
        let libraries = libraries::loaded_at_start(s)?;
        Ok(Self {
            ft_version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL_VERSION,
            host: s.host,
            shim_sha256: digest(EMBEDDED_SHIM),
            program: FileDigest::of(s.program)?,
            libraries: libraries.iter().map(|p| FileDigest::of(p)).collect::<Result<_, _>>()?,
            argv: s.argv.iter().cloned().map(OsText).collect(),
            env: s.env.iter().map(variable).collect(),
            cwd: s.cwd.as_os_str().into(),
            umask: s.umask,
            user: user(s.process).map_err(io_error("the ids of the user"))?,
            kernel_release: release.trim().into(),
            start_vector: start_vector(),
            cpu: Cpu::here(),
            state_dirs: s.state_dirs.iter().map(|d| StateDir::unread(d)).collect(),
            serves: false,
            limits: limits(s.process).map_err(io_error("the limits of the process"))?,
            service: s.service,
            config_sha256: digest(s.config),
        })
    }

    /// Reads the state directories: may take long. `progress` is asked now and then whether to go on.
    pub fn read_state(&mut self, progress: &mut dyn FnMut(&TreeProgress) -> ControlFlow<()>) -> Result<(), HelloError> {
        let mut read = TreeProgress::default();
        for dir in &mut self.state_dirs {
            *dir = tree::digest(Path::new(&dir.path.0), &mut read, progress)?;
        }
        Ok(())
    }

    /// Bodies of the frames that carry it, in order.
    pub fn to_frames(&self) -> Vec<Vec<u8>> {
        text::cut(&serde_json::to_vec(self).expect("plain data"))
    }
}

/// Puts the peer's hello together.
#[derive(Debug)]
pub struct HelloReader(Parts);

impl Default for HelloReader {
    fn default() -> Self {
        Self(Parts::new(HELLO_BYTES_MAX))
    }
}

impl HelloReader {
    /// One body; the hello once it is complete.
    pub fn push(&mut self, body: &[u8]) -> Result<Option<Hello>, HelloError> {
        let Some(text) = self.0.push(body).map_err(HelloError::Foreign)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| HelloError::Foreign(e.to_string()))
    }
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn user(process: Option<Pid>) -> io::Result<User> {
    let Some(pid) = process else {
        let mut groups: Vec<u32> = nix::unistd::getgroups()?.into_iter().map(|g| g.as_raw()).collect();
        groups.sort_unstable();
        return Ok(User { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), groups });
    };
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = |name: &str| -> Vec<u32> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect()
    };
    // Real, effective, saved, of the file system.
    let effective = |name: &str| numbers(name).get(1).copied().ok_or_else(|| io::Error::other(format!("no {name}")));
    let mut groups = numbers("Groups:");
    groups.sort_unstable();
    Ok(User { uid: effective("Uid:")?, gid: effective("Gid:")?, groups })
}

fn start_vector() -> StartVector {
    // SAFETY: getauxval takes a number and reads this process's own vector.
    let value = |kind| unsafe { libc::getauxval(kind) };
    let platform = value(libc::AT_PLATFORM) as *const libc::c_char;
    let platform = if platform.is_null() {
        String::new()
    } else {
        // SAFETY: the kernel put a terminated string there, which lives as long as the process.
        unsafe { CStr::from_ptr(platform) }.to_string_lossy().into_owned()
    };
    StartVector {
        hwcap: value(libc::AT_HWCAP),
        hwcap2: value(libc::AT_HWCAP2),
        platform,
        page_bytes: value(libc::AT_PAGESZ),
        clock_ticks: value(libc::AT_CLKTCK),
    }
}

/// The launcher fixes the others: stack, core, address space, data, descriptors.
const LIMITS: [(&str, Resource); 10] = [
    ("cpu time", Resource::RLIMIT_CPU),
    ("file size", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("locked memory", Resource::RLIMIT_MEMLOCK),
    ("message queues", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("processes", Resource::RLIMIT_NPROC),
    ("realtime priority", Resource::RLIMIT_RTPRIO),
    ("realtime time", Resource::RLIMIT_RTTIME),
    ("pending signals", Resource::RLIMIT_SIGPENDING),
];

fn limits(process: Option<Pid>) -> io::Result<BTreeMap<String, Limit>> {
    let pid = process.map_or(0, Pid::as_raw);
    let one = |(name, resource): &(&str, Resource)| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel fills `limit`.
        if unsafe { libc::prlimit(pid, *resource as libc::__rlimit_resource_t, std::ptr::null(), &mut limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(((*name).to_owned(), Limit(limit.rlim_cur, limit.rlim_max)))
    };
    LIMITS.iter().map(one).collect()
}

/// What can differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    FtVersion,
    Protocol,
    Host,
    Shim,
    Program,
    Library(String),
    LibraryOrder,
    Arguments,
    Variable(String),
    VariableOrder,
    Directory,
    Umask,
    User,
    Kernel,
    StartVector,
    CpuModel,
    CpuBrand,
    CpuFeatures,
    /// Of the cpuid instruction, as "leaf.subleaf".
    CpuLeaf(String),
    XsaveSize,
    StateDirectories,
    StateDirectory(String),
    Limit(String),
    Service,
    Config,
    Clock,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FtVersion => f.write_str("version of ft"),
            Self::Protocol => f.write_str("version of the link's protocol"),
            Self::Host => f.write_str("host at the other end"),
            Self::Shim => f.write_str("build of ft's shim"),
            Self::Program => f.write_str("program"),
            Self::Library(name) => write!(f, "library {name}"),
            Self::LibraryOrder => f.write_str("order of libraries"),
            Self::Arguments => f.write_str("arguments"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::VariableOrder => f.write_str("order of environment variables"),
            Self::Directory => f.write_str("working directory"),
            Self::Umask => f.write_str("umask"),
            Self::User => f.write_str("user and groups"),
            Self::Kernel => f.write_str("kernel release"),
            Self::StartVector => f.write_str("hardware capabilities told by the kernel"),
            Self::CpuModel => f.write_str("processor model"),
            Self::CpuBrand => f.write_str("processor name"),
            Self::CpuFeatures => f.write_str("processor features"),
            Self::CpuLeaf(leaf) => write!(f, "processor description (cpuid leaf {leaf})"),
            Self::XsaveSize => f.write_str("size of the processor's extended state"),
            Self::StateDirectories => f.write_str("list of state directories"),
            Self::StateDirectory(path) => write!(f, "content of state directory {path}"),
            Self::Limit(name) => write!(f, "limit of {name}"),
            Self::Service => f.write_str("service address"),
            Self::Config => f.write_str("shared configuration"),
            Self::Clock => f.write_str("time of day"),
        }
    }
}

/// One reason why two hosts can't run in lockstep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub item: Item,
    pub ours: String,
    pub theirs: String,
    pub advice: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} here, {} on the peer; {}", self.item, self.ours, self.theirs, self.advice)
    }
}

const SAME_FT: &str = "install the same ft on both hosts";
const SAME_MACHINE: &str = "pair hosts of the same processor model (virtual machines: of the same type)";
const ABSENT: &str = "absent";

struct Found(Vec<Difference>);

impl Found {
    fn add(&mut self, item: Item, ours: impl fmt::Display, theirs: impl fmt::Display, advice: &'static str) {
        if self.0.len() < DIFFERENCES_MAX {
            self.0.push(Difference { item, ours: shown(ours), theirs: shown(theirs), advice });
        }
    }

    fn compare<T: PartialEq>(
        &mut self,
        item: Item,
        ours: &T,
        theirs: &T,
        show: impl Fn(&T) -> String,
        advice: &'static str,
    ) {
        if ours != theirs {
            self.add(item, show(ours), show(theirs), advice);
        }
    }
}

/// Printable and of bounded length: the peer's words reach terminals.
fn shown(value: impl fmt::Display) -> String {
    let text = value.to_string();
    let mut out: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push_str("...");
    }
    out
}

fn lossy(t: &OsText) -> String {
    t.0.to_string_lossy().into_owned()
}

/// Everything in which the two differ; empty: they can run in lockstep.
pub fn differences(ours: &Hello, theirs: &Hello) -> Vec<Difference> {
    let mut f = Found(Vec::new());
    f.compare(Item::FtVersion, &ours.ft_version, &theirs.ft_version, String::clone, SAME_FT);
    f.compare(Item::Protocol, &ours.protocol, &theirs.protocol, u32::to_string, SAME_FT);
    f.compare(Item::Shim, &ours.shim_sha256, &theirs.shim_sha256, |s| short(s), SAME_FT);
    let file = |d: &FileDigest| format!("{} with content {}", lossy(&d.path), short(&d.sha256));
    f.compare(Item::Program, &ours.program, &theirs.program, file, "install the same build of it at the same path");
    compare_libraries(&mut f, ours, theirs);
    let words = |v: &Vec<OsText>| format!("{:?}", v.iter().map(lossy).collect::<Vec<_>>());
    f.compare(Item::Arguments, &ours.argv, &theirs.argv, words, "start the service with the same command line");
    compare_variables(&mut f, ours, theirs);
    f.compare(Item::Directory, &ours.cwd, &theirs.cwd, lossy, "start the service in the same directory");
    f.compare(
        Item::Umask,
        &ours.umask,
        &theirs.umask,
        |m| format!("{m:04o}"),
        "set the same umask where ft is started",
    );
    let user = |u: &User| format!("uid {} gid {} groups {:?}", u.uid, u.gid, u.groups);
    f.compare(
        Item::User,
        &ours.user,
        &theirs.user,
        user,
        "give the service's user the same numbers on both hosts (see `id`)",
    );
    // A program that runs has asked already, and what it is told comes from the log: so kernels can be updated in turn.
    if !ours.serves && !theirs.serves {
        f.compare(
            Item::Kernel,
            &ours.kernel_release,
            &theirs.kernel_release,
            String::clone,
            "boot the same kernel: programs see what it can do",
        );
    }
    let vector = |v: &StartVector| {
        let StartVector { hwcap, hwcap2, platform, page_bytes, clock_ticks } = v;
        format!("hwcap {hwcap:#x} {hwcap2:#x}, platform {platform}, pages of {page_bytes}, {clock_ticks} ticks")
    };
    f.compare(Item::StartVector, &ours.start_vector, &theirs.start_vector, vector, SAME_MACHINE);
    cpu::compare(&mut f, &ours.cpu, &theirs.cpu);
    compare_state(&mut f, &ours.state_dirs, &theirs.state_dirs, ours.serves || theirs.serves);
    for (name, a, b) in union(&ours.limits, &theirs.limits) {
        let show = |l: Option<&Limit>| {
            l.map_or(ABSENT.into(), |Limit(soft, hard)| format!("{} to {}", limit(*soft), limit(*hard)))
        };
        f.compare(
            Item::Limit(name.clone()),
            &a,
            &b,
            |l| show(*l),
            "set the same limit where ft is started (ulimit, systemd's Limit...=)",
        );
    }
    let address = |a: &Option<SocketAddr>| a.map_or("none".into(), |a| a.to_string());
    f.compare(Item::Service, &ours.service, &theirs.service, address, "configure the same service address");
    f.compare(
        Item::Config,
        &ours.config_sha256,
        &theirs.config_sha256,
        |s| short(s),
        "copy the service's configuration from one host to the other",
    );
    f.0
}

/// Whether the host that speaks is the one that the link is configured to.
pub fn host_difference(configured: HostId, theirs: HostId) -> Option<Difference> {
    (configured != theirs).then(|| Difference {
        item: Item::Host,
        ours: format!("id {configured} by `peer.name`"),
        theirs: format!("id {theirs} by `host.name`"),
        advice: "let each host's configuration name the other one as that names itself",
    })
}

/// Clocks may differ by so much. The service's time of day moves by it at a takeover.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(1);

/// Of two clocks, read as close to each other as a message takes.
pub fn clock_difference(ours: SystemTime, theirs: SystemTime) -> Option<Difference> {
    let apart = ours.duration_since(theirs).unwrap_or_else(|e| e.duration());
    let shown = |t| humantime::format_rfc3339_millis(t).to_string();
    (apart > CLOCKS_APART_MAX).then(|| Difference {
        item: Item::Clock,
        ours: shown(ours),
        theirs: shown(theirs),
        advice: "keep both clocks by NTP (chrony, systemd-timesyncd): the service's time would jump at a takeover",
    })
}

/// As much of a digest as people compare.
fn short(sha256: &str) -> String {
    sha256.chars().take(16).collect()
}

fn limit(v: u64) -> String {
    if v == libc::RLIM_INFINITY { "unlimited".into() } else { v.to_string() }
}

/// Names of both, in order, with both values.
fn union<'a, K: Ord, V>(a: &'a BTreeMap<K, V>, b: &'a BTreeMap<K, V>) -> Vec<(&'a K, Option<&'a V>, Option<&'a V>)> {
    let names: std::collections::BTreeSet<&K> = a.keys().chain(b.keys()).collect();
    names.into_iter().map(|k| (k, a.get(k), b.get(k))).collect()
}

fn compare_libraries(f: &mut Found, ours: &Hello, theirs: &Hello) {
    const ADVICE: &str = "install the same version of its package on both hosts";
    // By name, so that one that lies elsewhere shows as such.
    let by_name = |h: &'_ Hello| -> BTreeMap<String, FileDigest> {
        let name =
            |d: &FileDigest| Path::new(&d.path.0).file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
        h.libraries.iter().map(|d| (name(d), d.clone())).collect()
    };
    let (a, b) = (by_name(ours), by_name(theirs));
    let before = f.0.len();
    for (name, x, y) in union(&a, &b) {
        let show = |d: &Option<&FileDigest>| {
            d.map_or(ABSENT.into(), |d| format!("{} with content {}", lossy(&d.path), short(&d.sha256)))
        };
        f.compare(Item::Library(name.clone()), &x, &y, show, ADVICE);
    }
    if f.0.len() == before {
        let paths = |v: &Vec<FileDigest>| v.iter().map(|d| lossy(&d.path)).collect::<Vec<_>>().join(" ");
        f.compare(
            Item::LibraryOrder,
            &ours.libraries,
            &theirs.libraries,
            paths,
            "see LD_PRELOAD, LD_LIBRARY_PATH and /etc/ld.so.preload",
        );
    }
}

fn compare_variables(f: &mut Found, ours: &Hello, theirs: &Hello) {
    const ADVICE: &str = "start ft with the same environment on both hosts";
    let by_name =
        |h: &Hello| -> BTreeMap<String, String> { h.env.iter().map(|v| (lossy(&v.name), v.sha256.clone())).collect() };
    let (a, b) = (by_name(ours), by_name(theirs));
    let before = f.0.len();
    for (name, x, y) in union(&a, &b) {
        let show = |v: &Option<&String>| v.map_or(ABSENT.into(), |v| format!("a value of digest {}", short(v)));
        f.compare(Item::Variable(name.clone()), &x, &y, show, ADVICE);
    }
    if f.0.len() == before {
        let names = |v: &Vec<Variable>| v.iter().map(|v| lossy(&v.name)).collect::<Vec<_>>().join(" ");
        f.compare(Item::VariableOrder, &ours.env, &theirs.env, names, ADVICE);
    }
}

/// `served`: by one of them.
fn compare_state(f: &mut Found, ours: &[StateDir], theirs: &[StateDir], served: bool) {
    let paths = |v: &[StateDir]| v.iter().map(|d| lossy(&d.path)).collect::<Vec<_>>();
    if paths(ours) != paths(theirs) {
        let show = |v: &[StateDir]| format!("{:?}", paths(v));
        f.add(
            Item::StateDirectories,
            show(ours),
            show(theirs),
            "configure the same state directories, in the same order",
        );
        return;
    }
    if served {
        return;
    }
    const ADVICE: &str =
        "copy it from the host that has the truth while no service runs (rsync -aHX --delete), or let ft reseed";
    for (a, b) in ours.iter().zip(theirs).filter(|(a, b)| a.sha256 != b.sha256) {
        let name = tree::first_difference(a, b);
        let show = |d: &StateDir| {
            let place = match &name {
                Some(name) => format!(", at {}", lossy(name)),
                None => String::new(),
            };
            format!("{} entries of {} bytes with digest {}{place}", d.entries, d.bytes, short(&d.sha256))
        };
        f.add(Item::StateDirectory(lossy(&a.path)), show(a), show(b), ADVICE);
    }
}

#[cfg(test)]
mod tests;
