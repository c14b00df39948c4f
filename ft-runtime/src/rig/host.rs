//! A host: a first process that everything in it descends from, and that everything in it ends with.
//!
//! `start` makes the process in namespaces of its own; it does nothing until it was written down, and ends if whoever
//! made it ends before that. `main` is what it then does: set up the host, run the service, bury the dead.

use super::freezer::Freezer;
use super::process::ProcessId;
use super::state::Places;
use super::{Host, Result, RigError, io_error, root};
use crate::guest::EMBEDDED_SHIM;
use crate::logfile::OsText;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// All that a host's first process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub host: Host,
    pub netns: PathBuf,
    /// Where its file system lives; `None`: it has the machine's.
    pub private_root: Option<PathBuf>,
    /// Room for what it writes there, if limited.
    pub disk_mib: Option<u32>,
    /// A directory that all private roots show.
    pub shared: PathBuf,
    pub log: PathBuf,
    pub events: PathBuf,
    /// Made if missing.
    pub directories: Vec<PathBuf>,
    pub files: Vec<SpecFile>,
    /// The service's, whoever starts the host.
    pub environment: Vec<(OsText, OsText)>,
    pub service: Option<Service>,
    /// A server that comes to `service` by itself.
    pub preloaded: Option<Preloaded>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SpecFile {
    pub path: PathBuf,
    pub mode: u32,
    pub content: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Service {
    pub argv: Vec<OsText>,
    pub cwd: OsText,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Preloaded {
    pub server: Service,
    /// Where the engine waits for it.
    pub socket: PathBuf,
}

/// Where a host finds the shim.
const SHIM: &str = "/usr/local/lib/libft_shim.so";

/// What a host's first process reports, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Event {
    Ready,
    /// Pid as the host sees it.
    Service(i32),
    /// Its wait status.
    Ended(i32),
    Failed(String),
}

impl Spec {
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(io_error(path.display().to_string()))?;
        serde_json::from_slice(&text).map_err(|e| RigError::Refused(format!("{}: {e}", path.display())))
    }
}

/// All reported so far.
pub(super) fn events(places: &Places, host: Host) -> Vec<Event> {
    let text = fs::read_to_string(places.events(host)).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

pub(super) fn service_pid(events: &[Event]) -> Option<i32> {
    events.iter().find_map(|e| if let Event::Service(pid) = e { Some(*pid) } else { None })
}

/// Why there is no service any more.
pub(super) fn service_end(events: &[Event]) -> Option<String> {
    events.iter().find_map(|e| match e {
        Event::Ended(status) => Some(crate::engine::backup::describe_status(*status)),
        Event::Failed(why) => Some(why.clone()),
        _ => None,
    })
}

/// Makes the first process of a host. `record` writes it down; only then does it begin.
pub(super) fn start(places: &Places, spec: &Spec, record: impl FnOnce(ProcessId) -> Result<()>) -> Result<()> {
    let path = places.spec(spec.host);
    let text = serde_json::to_vec(spec).expect("a spec is plain text and numbers");
    // It holds keys.
    let mut f = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error(path.display().to_string()))?;
    f.write_all(&text).map_err(io_error(path.display().to_string()))?;
    File::create(&spec.events).map_err(io_error(spec.events.display().to_string()))?;

    let mut namespaces = CloneFlags::CLONE_NEWPID;
    if spec.private_root.is_some() {
        namespaces |= CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    }
    let arguments: Vec<OsString> =
        vec!["ft".into(), "rig".into(), "host".into(), "--name".into(), places.name.to_string().into(), path.into()];
    let (process, go) = spawn(namespaces, &arguments)?;
    let id = ProcessId::of(process)
        .ok_or_else(|| RigError::Refused(format!("the first process of {} ended at once", spec.host)))?;
    record(id)?;
    if let Some(freezer) = Freezer::of(places, spec.host) {
        freezer.add(id)?;
    }
    File::from(go).write_all(b"g").map_err(io_error(format!("the first process of {}", spec.host)))
}

/// A process that becomes this `ft` once a byte comes through the pipe, and ends if none comes.
fn spawn(namespaces: CloneFlags, arguments: &[OsString]) -> Result<(i32, OwnedFd)> {
    let what = || io_error("making a host's first process");
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(what())?;
    // All memory that the child needs is made before there is a child.
    let terminated = |s: &OsString| {
        use std::os::unix::ffi::OsStrExt;
        CString::new(s.as_bytes()).expect("no zero in our own arguments")
    };
    let arguments: Vec<CString> = arguments.iter().map(terminated).collect();
    let mut argv: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    // SAFETY: a fork: no memory is shared, the child goes on with a copy of this stack. This process has one thread
    // (`ft rig` starts none that outlives a call), so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } as i32;
    if pid == 0 {
        // SAFETY: system calls on descriptors and memory that the copy has; no return into the caller.
        unsafe {
            // Ours of the other end would hide that the maker ended.
            libc::close(write.as_raw_fd());
            let mut byte = 0u8;
            while libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1) < 0
                && *libc::__errno_location() == libc::EINTR
            {}
            if byte == b'g' {
                libc::execv(c"/proc/self/exe".as_ptr(), argv.as_ptr());
            }
            libc::_exit(127)
        }
    }
    if pid < 0 {
        return Err(super::with_advice("making a host's first process", "; a rig needs root")(
            io::Error::last_os_error(),
        ));
    }
    Ok((pid, write))
}

/// The life of a host's first process. Returns only if it can't live.
pub(super) fn main(spec: &Path) -> Result<i32> {
    let spec = Spec::load(spec)?;
    let log =
        File::options().append(true).create(true).open(&spec.log).map_err(io_error(spec.log.display().to_string()))?;
    detach(log).map_err(io_error("leaving the caller's terminal and descriptors"))?;
    // They were closed with all others.
    let log = File::options().append(true).open(&spec.log).map_err(io_error(spec.log.display().to_string()))?;
    let mut reports =
        Reports(File::options().append(true).open(&spec.events).map_err(io_error(spec.events.display().to_string()))?);
    match prepare(&spec) {
        Ok(()) => reports.say(&Event::Ready),
        Err(e) => {
            reports.say(&Event::Failed(e.to_string()));
            return Err(e);
        }
    }
    let service = match spec.service.as_ref().map(|s| launch(s, &spec.environment, &log)).transpose() {
        Ok(pid) => pid,
        Err(e) => {
            reports.say(&Event::Failed(e.to_string()));
            None
        }
    };
    if let Some(pid) = service {
        reports.say(&Event::Service(pid));
    }
    if let Some(p) = &spec.preloaded
        && let Err(e) = launch(&p.server, &preloaded_environment(&p.socket), &log)
    {
        reports.say(&Event::Failed(e.to_string()));
    }
    bury(service, &mut reports)
}

struct Reports(File);

impl Reports {
    fn say(&mut self, e: &Event) {
        let mut line = serde_json::to_string(e).expect("an event is plain");
        line.push('\n');
        // One write: readers see whole lines. Without a disk there is nobody to tell.
        let _ = self.0.write_all(line.as_bytes());
    }
}

/// Out of the caller's session, and nothing of its descriptors kept open: it may wait for their end.
fn detach(log: File) -> io::Result<()> {
    nix::unistd::setsid()?;
    let (null, log) = (File::open("/dev/null")?.into_raw_fd(), log.into_raw_fd());
    for (from, to) in [(null, 0), (log, 1), (log, 2)] {
        // SAFETY: the three standard descriptors are nobody's property.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: what is closed beyond the standard ones came from the caller, or is `null` or `log`, which nobody owns.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::umask(0o022);
    }
    Ok(())
}

fn prepare(spec: &Spec) -> Result<()> {
    let netns = File::open(&spec.netns).map_err(io_error(spec.netns.display().to_string()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(io_error("entering the host's network"))?;
    if let Some(dir) = &spec.private_root {
        nix::unistd::sethostname(spec.host.name()).map_err(io_error("the host's name"))?;
        root::enter(dir, &spec.shared, spec.disk_mib)?;
    }
    root::make_directories(&spec.directories)?;
    if spec.preloaded.is_some() {
        let parent = Path::new(SHIM).parent().expect("it is a file's path");
        fs::create_dir_all(parent).and_then(|()| fs::write(SHIM, EMBEDDED_SHIM)).map_err(io_error(SHIM))?;
    }
    for f in &spec.files {
        let what = || io_error(f.path.display().to_string());
        if let Some(parent) = f.path.parent() {
            fs::create_dir_all(parent).map_err(what())?;
        }
        fs::write(&f.path, &f.content).map_err(what())?;
        fs::set_permissions(&f.path, fs::Permissions::from_mode(f.mode)).map_err(what())?;
    }
    Ok(())
}

/// With the shim preloaded, for the engine there. What `ft rig up` was started with is not the server's.
fn preloaded_environment(socket: &Path) -> Vec<(OsText, OsText)> {
    let path: OsString = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into();
    let all = [
        ("PATH", path),
        ("HOME", "/".into()),
        ("LANG", "C.UTF-8".into()),
        ("LD_PRELOAD", SHIM.into()),
        ("FT_SOCKET", socket.into()),
    ];
    all.into_iter().map(|(name, value)| (OsText(name.into()), OsText(value))).collect()
}

fn launch(service: &Service, environment: &[(OsText, OsText)], log: &File) -> Result<i32> {
    let Some((program, arguments)) = service.argv.split_first() else {
        return Err(RigError::Refused("no command given".into()));
    };
    let stream = || log.try_clone().map(Stdio::from).map_err(io_error("the log"));
    let child = Command::new(&program.0)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (&name.0, &value.0)))
        .args(arguments.iter().map(|a| &a.0))
        .current_dir(&service.cwd.0)
        .stdin(Stdio::null())
        .stdout(stream()?)
        .stderr(stream()?)
        .spawn()
        .map_err(io_error(format!("starting {} in {}", program.0.display(), service.cwd.0.display())))?;
    Ok(child.id() as i32)
}

/// Reaps until the host is killed.
fn bury(service: Option<i32>, reports: &mut Reports) -> Result<i32> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(io_error("blocking SIGCHLD"))?;
    loop {
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one int.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            if Some(pid) == service {
                reports.say(&Event::Ended(status));
            }
        }
        // A child that ended since has left its signal pending.
        let _ = children.wait();
    }
}

/// The end of a host's log, for messages.
pub(super) fn log_tail(places: &Places, host: Host) -> String {
    const BYTES_MAX: u64 = 2000;
    let path = places.log(host);
    let tail = (|| -> io::Result<Vec<u8>> {
        use std::io::{Seek, SeekFrom};
        let mut f = File::open(&path)?;
        let length = f.metadata()?.len();
        f.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut b = Vec::new();
        f.read_to_end(&mut b)?;
        Ok(b)
    })();
    match tail {
        Ok(b) if b.is_empty() => format!("its log is empty ({})", path.display()),
        Ok(b) => format!("the end of its log:\n{}", String::from_utf8_lossy(&b).trim_end()),
        Err(e) => format!("{}: {e}", path.display()),
    }
}
