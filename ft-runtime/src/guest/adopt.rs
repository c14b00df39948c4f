//! A program that was started by somebody else with the shim preloaded, and waits to become the guest.
//!
//! It keeps its pid, its parent and its standard streams. The engine tells it what to become, takes hold of it by ptrace
//! while it waits for the last word, and meets it at its exec stop; from there on it is a guest like any other. Since it
//! is not the engine's child, it holds a *lifeline*: a pipe whose end kills it.
//!
//! Laws: nothing is started that the engine has not looked at; a program that can't become the guest is told why.

use super::child::{describe, fix_limits, raise_descriptor_limit, reason};
use super::error::LaunchError;
use super::tracee;
use crate::engine::sys::pidfd_open;
use ft_log::adopt::{BECOME, DESCRIPTORS, FAILURE_BYTES, GO, Head, READY, REFUSED, Step, decode_failure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt::PeerCredentials};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one step of a program that has nothing else to do.
const STEP_MAX: Duration = Duration::from_secs(20);
const PATH_BYTES_MAX: usize = 4096;
/// Namespaces that it must have in common with the engine, and what usually makes them differ.
const NAMESPACES: [(&str, &str); 2] = [
    ("mnt", "take ProtectSystem=, PrivateTmp= and the like out of its unit, or start ft in the same container"),
    ("user", "start it outside of user namespaces, or start ft in the same one"),
];
/// They start other programs, which a guest can't.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "mksh"];

/// A program that waits. Dropped without a word, it ends and says that the engine has ended.
#[derive(Debug)]
pub struct Adoptee {
    pub(super) stream: UnixStream,
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// As the program was executed.
    pub program: PathBuf,
}

/// What a program was started with.
pub struct Started {
    pub argv: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
    pub umask: u32,
}

/// Tells a program that it can't become the guest.
pub struct Refusal(UnixStream);

impl Refusal {
    pub fn new(program: UnixStream) -> Self {
        Self(program)
    }

    /// To a program that is the guest already, or gone, nothing is said.
    pub fn say(&self, why: &str) {
        let head = Head { kind: REFUSED, text_bytes: why.len() as u32 };
        let _ = (&self.0).write_all(&[&head.encode(), why.as_bytes()].concat());
    }
}

impl Adoptee {
    /// Who is at the other end, if it can become a guest. It is not told if it can't.
    pub fn new(stream: UnixStream) -> Result<Self, LaunchError> {
        let peer = getsockopt(&stream, PeerCredentials).map_err(|e| prepare("asking who connected")(e.into()))?;
        let pid = Pid::from_raw(peer.pid());
        if pid.as_raw() == 0 {
            return Err(unsupported(
                Path::new("the program"),
                "it runs in another process namespace (a container?) than ft",
                "start ft in the same container",
            ));
        }
        let pidfd = pidfd_open(pid.as_raw()).map_err(prepare("opening a pidfd"))?;
        stream.set_read_timeout(Some(STEP_MAX)).map_err(prepare("setting a time limit"))?;
        stream.set_write_timeout(Some(STEP_MAX)).map_err(prepare("setting a time limit"))?;
        let program = program(pid)?;
        check(pid, &program)?;
        Ok(Self { stream, pid, pidfd, program })
    }

    pub fn started(&self) -> Result<Started, LaunchError> {
        let strings = |file: &str| -> Result<Vec<OsString>, LaunchError> {
            let text = fs::read(proc(self.pid, file)).map_err(unreadable(file))?;
            let text = text.strip_suffix(&[0]).unwrap_or(&text);
            let all = text.split(|b| *b == 0).map(|s| OsString::from_vec(s.to_vec()));
            Ok(if text.is_empty() { Vec::new() } else { all.collect() })
        };
        let variable = |s: OsString| {
            let at = s.as_bytes().iter().position(|b| *b == b'=')?;
            let (name, value) = s.as_bytes().split_at(at);
            Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value[1..].to_vec())))
        };
        let cwd = fs::read_link(proc(self.pid, "cwd")).map_err(unreadable("cwd"))?;
        let umask = status(self.pid, "Umask")?;
        let umask = u32::from_str_radix(&umask, 8)
            .map_err(|_| LaunchError::Strange { what: format!("umask {umask} of process {}", self.pid) })?;
        Ok(Started {
            argv: strings("cmdline")?,
            env: strings("environ")?.into_iter().filter_map(variable).collect(),
            cwd,
            umask,
        })
    }

    /// Brings it to where an exec stop follows; what fails there comes through the file, which exec closes.
    pub(super) fn become_guest(&self, to: &Become) -> Result<fs::File, LaunchError> {
        raise_descriptor_limit(self.pid.as_raw()).map_err(setup(Step::PlacingLimit))?;
        self.send_become(to)?;
        let mut answer = [0; FAILURE_BYTES];
        (&self.stream).read_exact(&mut answer).map_err(lost)?;
        if answer != READY {
            return Err(match decode_failure(&answer) {
                Some((step, errno)) => setup(step)(reason(errno)),
                None => LaunchError::Strange { what: format!("a program that answers {answer:?}") },
            });
        }
        fix_limits(self.pid.as_raw()).map_err(setup(Step::Limits))?;
        ptrace::attach(self.pid).map_err(|e| setup(Step::Trace)(e.into()))?;
        match tracee::wait(self.pid) {
            Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => {}
            other => return Err(LaunchError::Strange { what: format!("{other:?} where a stop was due") }),
        }
        ptrace::cont(self.pid, None).map_err(|e| setup(Step::Trace)(e.into()))?;
        (&self.stream).write_all(&Head { kind: GO, text_bytes: 0 }.encode()).map_err(lost)?;
        self.stream.try_clone().map(|s| fs::File::from(OwnedFd::from(s))).map_err(prepare("duplicating a descriptor"))
    }

    fn send_become(&self, to: &Become) -> Result<(), LaunchError> {
        let words = [to.umask, to.argv.len() as u32, to.env.len() as u32];
        let mut text: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        for s in [to.cwd, to.program].into_iter().chain(to.argv).chain(to.env) {
            text.extend_from_slice(s.as_bytes_with_nul());
        }
        let head = Head { kind: BECOME, text_bytes: text.len() as u32 }.encode();
        if Head::decode(&head).is_none() {
            return Err(LaunchError::Argument { what: format!("arguments and environment take {} bytes", text.len()) });
        }
        let fds: [RawFd; DESCRIPTORS] = to.descriptors.map(|fd| fd.as_raw_fd());
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(&head)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(n) if n == head.len() => (&self.stream).write_all(&text).map_err(lost),
            Ok(n) => Err(LaunchError::Strange { what: format!("a socket that takes {n} bytes of {}", head.len()) }),
            Err(e) => Err(lost(e.into())),
        }
    }
}

impl AsFd for Adoptee {
    /// Readable once the program has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What a program is to become.
pub(super) struct Become<'a> {
    pub program: &'a CString,
    pub argv: &'a [CString],
    pub env: &'a [CString],
    pub cwd: &'a CString,
    pub umask: u32,
    /// Standard input, doorbell, segment, lifeline.
    pub descriptors: [BorrowedFd<'a>; DESCRIPTORS],
}

fn prepare(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    LaunchError::prepare(what, "see the limits of this process, and /proc")
}

fn setup(step: Step) -> impl FnOnce(io::Error) -> LaunchError {
    let (what, advice) = describe(step);
    move |source| LaunchError::Setup { what, source, advice }
}

fn lost(e: io::Error) -> LaunchError {
    LaunchError::Died { how: format!("it waited to become the guest, and its socket says: {e}") }
}

fn unreadable(file: &str) -> impl FnOnce(io::Error) -> LaunchError {
    move |e| LaunchError::Strange { what: format!("no /proc/PID/{file} of the program: {e}") }
}

fn unsupported(program: &Path, why: impl Into<String>, advice: impl Into<String>) -> LaunchError {
    LaunchError::Unsupported { program: program.into(), why: why.into(), advice: advice.into() }
}

fn proc(pid: Pid, file: &str) -> PathBuf {
    format!("/proc/{pid}/{file}").into()
}

/// A line of /proc/PID/status.
fn status(pid: Pid, name: &str) -> Result<String, LaunchError> {
    let text = fs::read_to_string(proc(pid, "status")).map_err(unreadable("status"))?;
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.unwrap_or_default().trim().to_owned())
}

/// The path it was executed by, if that still leads to it; else what the kernel calls it. It shows in the guest's name.
fn program(pid: Pid) -> Result<PathBuf, LaunchError> {
    let exe = proc(pid, "exe");
    let real = fs::read_link(&exe).map_err(unreadable("exe"))?;
    let same = |p: &Path| match (fs::metadata(p), fs::metadata(&exe)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    if let Some(given) = executed_as(pid) {
        let cwd = fs::read_link(proc(pid, "cwd")).map_err(unreadable("cwd"))?;
        let given = cwd.join(given);
        if same(&given) {
            return Ok(given);
        }
    }
    if same(&real) {
        return Ok(real);
    }
    Err(unsupported(&real, "its file was replaced or removed since it was started", "start it again"))
}

/// AT_EXECFN of its auxiliary vector.
fn executed_as(pid: Pid) -> Option<PathBuf> {
    let vector = fs::read(proc(pid, "auxv")).ok()?;
    let word = |b: &[u8]| u64::from_ne_bytes(b.try_into().expect("chunks of a word"));
    let mut pairs = vector.chunks_exact(16).map(|p| (word(&p[..8]), word(&p[8..])));
    let at = pairs.find(|(kind, _)| *kind == libc::AT_EXECFN)?.1;
    let mut path = vec![0; PATH_BYTES_MAX];
    // It lies near the stack's end: what is read may be short.
    let n = fs::File::open(proc(pid, "mem")).ok()?.read_at(&mut path, at).ok()?;
    let end = path[..n].iter().position(|b| *b == 0)?;
    Some(OsString::from_vec(path[..end].to_vec()).into())
}

/// Whether it can become a guest of this engine.
fn check(pid: Pid, program: &Path) -> Result<(), LaunchError> {
    let name = program.file_name().unwrap_or_default();
    if SHELLS.iter().any(|s| name == *s) {
        return Err(unsupported(
            program,
            "it is a shell, and guests can't start other programs",
            "have its script preload for the server alone: exec env LD_PRELOAD=... SERVER ARGUMENTS",
        ));
    }
    for (kind, advice) in NAMESPACES {
        let of = |p: &str| fs::read_link(format!("/proc/{p}/ns/{kind}"));
        let (its, ours) = (of(&pid.to_string()), of("self"));
        if its.map_err(unreadable("ns"))? != ours.map_err(unreadable("ns"))? {
            return Err(unsupported(program, format!("it runs in another {kind} namespace than ft"), advice));
        }
    }
    let root = |p: &str| fs::read_link(format!("/proc/{p}/root")).map_err(unreadable("root"));
    if root(&pid.to_string())? != root("self")? {
        return Err(unsupported(program, "its root directory is not ft's", "start ft in the same one"));
    }
    let filters = |p: Pid| status(p, "Seccomp_filters");
    if filters(pid)? != filters(Pid::this())? {
        return Err(unsupported(
            program,
            "it runs under a seccomp filter, which would stop the shim's own calls",
            "take SystemCallFilter=, RestrictAddressFamilies=, MemoryDenyWriteExecute= and the like out of its unit",
        ));
    }
    let tracer = status(pid, "TracerPid")?;
    if tracer != "0" {
        return Err(unsupported(program, format!("process {tracer} traces it"), "start it without strace or gdb"));
    }
    Ok(())
}
