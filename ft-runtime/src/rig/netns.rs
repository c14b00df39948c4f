//! Named network namespaces, as `ip netns` has them; and what is done inside one.

use super::state::{NETNS, Places};
use super::{Result, RigError, io_error};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where system tools are, whatever the caller's PATH.
const TOOLS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Says that no one had named network namespaces before us.
const MARK: &str = "/run/ft-rig/.made-netns";
/// Mounts of one namespace in one place.
const LAYERS_MAX: usize = 16;

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Runs `ip` with these arguments and this on stdin.
pub(super) fn ip(args: &[&str], input: &str) -> Result<()> {
    let command = || format!("ip {}", args.join(" "));
    let mut child = Command::new("ip")
        .args(args)
        .env("PATH", TOOLS)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(super::with_advice("running `ip`", "; install iproute2"))?;
    // It may end without reading.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes());
    let o = child.wait_with_output().map_err(io_error(command()))?;
    if o.status.success() {
        return Ok(());
    }
    Err(RigError::Tool { command: command(), said: String::from_utf8_lossy(&o.stderr).trim().to_owned() })
}

/// Does these lines of `ip` commands in a namespace.
pub(super) fn batch(netns: &str, lines: &[String]) -> Result<()> {
    let mut input = lines.join("\n");
    input.push('\n');
    ip(&["-n", netns, "-batch", "-"], &input).map_err(|e| match e {
        // It names only the number of the line.
        RigError::Tool { command, said } => RigError::Tool { command, said: format!("{said}\n{input}") },
        e => e,
    })
}

/// What can be done of these lines.
pub(super) fn batch_forced(netns: &str, lines: &[String]) {
    let _ = ip(&["-force", "-n", netns, "-batch", "-"], &format!("{}\n", lines.join("\n")));
}

pub(super) fn create(places: &Places) -> Result<()> {
    // Without this, `ip` would leave its directory behind.
    if !Path::new(NETNS).exists() {
        File::create(MARK).map_err(io_error(MARK))?;
    }
    for name in places.netns_all() {
        ip(&["netns", "add", &name], "")?;
    }
    Ok(())
}

/// A name leads to a new namespace, whatever it led to.
pub(super) fn renew(name: &str) -> Result<()> {
    remove_name(name)?;
    ip(&["netns", "add", name], "")
}

/// Removes the names; the namespaces go with their last process and socket.
pub(super) fn remove(places: &Places) -> Vec<String> {
    places.netns_all().iter().filter_map(|n| remove_name(n).err()).map(|e| e.to_string()).collect()
}

fn remove_name(name: &str) -> Result<()> {
    let p = path(name);
    for _ in 0..LAYERS_MAX {
        if umount2(&p, MntFlags::MNT_DETACH).is_err() {
            break;
        }
    }
    match fs::remove_file(&p) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(p.display().to_string())(e)),
        _ => Ok(()),
    }
}

/// After the last rig: takes away what `ip netns add` made for the first one.
pub(super) fn remove_directory() {
    let _ = (|| -> io::Result<()> {
        if !Path::new(MARK).exists() || fs::read_dir(NETNS)?.next().is_some() {
            return Ok(());
        }
        // `ip` holds this lock while it makes the mount.
        let lock = Flock::lock(File::open(NETNS)?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
        if fs::read_dir(NETNS)?.next().is_some() {
            return Ok(());
        }
        drop(lock);
        match umount2(NETNS, MntFlags::empty()) {
            // It was no mount point: someone was faster.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(e) => return Err(e.into()),
        }
        fs::remove_dir(NETNS)
    })();
    // If it stays, then for someone else's.
    let _ = fs::remove_file(MARK);
}

/// Does `f` inside the network namespace, on a thread of its own.
pub(super) fn within<T: Send>(netns: &File, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|s| {
        let inside = s.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            f()
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("a panic in another network namespace")))
    })
}

pub(super) fn within_named<T: Send>(name: &str, f: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    let what = || format!("network namespace {name}");
    let file = File::open(path(name)).map_err(io_error(what()))?;
    within(&file, f).map_err(io_error(what()))
}
