//! A private copy of the whole root file system: what a replayed guest writes goes nowhere else.
//!
//! Laws: all mounts are made in a mount namespace of our own, private to the last, so that none is ever seen outside
//! and none outlives us, however we end. The directory is removed only after its mount point was found empty:
//! nothing that is mounted in it is ever deleted.

use crate::guest::PreExec;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const NAME: &str = "ft-replay-";
/// Other file systems that are overlaid too; a host with more has a problem of its own.
const MOUNTS_MAX: usize = 512;
/// Names tried before giving up on a new directory.
const ATTEMPTS_MAX: u32 = 100;

/// Why there is no private root.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a private copy of the file system: {what}: {source}; {advice}")]
pub struct OverlayError {
    what: String,
    source: io::Error,
    advice: &'static str,
}

fn fail<E: Into<io::Error>>(what: impl Into<String>, advice: &'static str) -> impl FnOnce(E) -> OverlayError {
    let what = what.into();
    move |e| OverlayError { what, source: e.into(), advice }
}

const ROOT_ADVICE: &str = "replay needs root (CAP_SYS_ADMIN)";
const DISK_ADVICE: &str = "is there room there? TMPDIR names another place";
const OVERLAY_ADVICE: &str = "does the kernel have overlayfs?";

/// Dropped, everything is unmounted and removed.
pub struct PrivateRoot {
    dir: PathBuf,
    /// Held as long as we live: a directory whose lock is free was left behind.
    _lock: Flock<File>,
    keep: bool,
    layers: usize,
}

impl PrivateRoot {
    /// Takes the calling thread, and what it starts from now on, into a mount namespace of its own and makes the copy.
    pub fn create(keep: bool) -> Result<Self, OverlayError> {
        let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        sweep(&base);
        unshare(CloneFlags::CLONE_NEWNS).map_err(fail("a mount namespace of our own", ROOT_ADVICE))?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(fail("making all mounts private", ROOT_ADVICE))?;
        let others = other_mounts().map_err(fail("reading /proc/thread-self/mountinfo", "is /proc mounted?"))?;
        let (dir, lock) = new_dir(&base)?;
        let mut root = Self { dir, _lock: lock, keep, layers: 0 };
        fs::create_dir(root.path()).map_err(fail("a directory for it", DISK_ADVICE))?;
        root.overlay(Path::new("/"))?;
        for m in &others {
            root.other(m)?;
        }
        Ok(root)
    }

    /// Where the copy is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where its own files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An absolute path of the guest's, as we see it.
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Lays an overlay over the copy of `lower`, which is a directory.
    fn overlay(&mut self, lower: &Path) -> Result<(), OverlayError> {
        let what = || format!("an overlay of {}", lower.display());
        if self.try_overlay(lower).is_ok() {
            return Ok(());
        }
        // The temporary directory can't carry an overlay (it is one itself, or a network's): memory can.
        let layers = self.dir.join("memory");
        if !layers.exists() {
            fs::create_dir(&layers).map_err(fail(what(), DISK_ADVICE))?;
            mount(Some("tmpfs"), &layers, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .map_err(fail(what(), OVERLAY_ADVICE))?;
            tracing::warn!("{} can't carry an overlay; what the guest writes is kept in memory", self.dir.display());
        }
        self.try_overlay_in(lower, &layers).map_err(fail(what(), OVERLAY_ADVICE))
    }

    fn try_overlay(&mut self, lower: &Path) -> io::Result<()> {
        let dir = self.dir.clone();
        self.try_overlay_in(lower, &dir)
    }

    fn try_overlay_in(&mut self, lower: &Path, layers: &Path) -> io::Result<()> {
        self.layers += 1;
        let (upper, work) = (layers.join(format!("upper-{}", self.layers)), layers.join(format!("work-{}", self.layers)));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        // The root of the copy shows the mode and owner of the upper directory.
        let m = fs::metadata(lower)?;
        std::os::unix::fs::chown(&upper, Some(std::os::unix::fs::MetadataExt::uid(&m)), Some(std::os::unix::fs::MetadataExt::gid(&m)))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(m.permissions().mode() & 0o7777))?;
        let options = overlay_options(lower, &upper, &work);
        let target = self.inside(lower);
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_os_str())).map_err(Into::into)
    }

    /// Another file system than the root's.
    fn other(&mut self, m: &OtherMount) -> Result<(), OverlayError> {
        let target = self.inside(&m.path);
        let bind = |flags| mount(Some(&m.path), &target, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
        if m.is_kernels {
            bind(MsFlags::MS_REC).map_err(fail(format!("binding {}", m.path.display()), ROOT_ADVICE))?;
            let shm = target.join("shm");
            if m.path == Path::new("/dev") && shm.is_dir() {
                let options = Some("mode=1777");
                mount(Some("tmpfs"), &shm, Some("tmpfs"), MsFlags::empty(), options)
                    .map_err(fail("a /dev/shm of its own", OVERLAY_ADVICE))?;
            }
            return Ok(());
        }
        if m.path.is_dir() {
            if let Err(e) = self.overlay(&m.path) {
                tracing::warn!("{e}; the guest sees an empty directory there");
            }
        } else if bind(MsFlags::empty()).is_ok() {
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &target, None::<&str>, read_only, None::<&str>)
                .map_err(fail(format!("binding {} read-only", m.path.display()), ROOT_ADVICE))?;
        }
        Ok(())
    }

    /// Puts `fill`'s files in place of the directory at `path` (absolute, without symbolic links).
    pub fn replace(&mut self, path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), OverlayError> {
        self.layers += 1;
        let content = self.dir.join(format!("state-{}", self.layers));
        fs::create_dir(&content).map_err(fail("a directory for the recorded state", DISK_ADVICE))?;
        fill(&content).map_err(fail(format!("restoring {}", path.display()), DISK_ADVICE))?;
        let target = self.inside(path);
        fs::create_dir_all(&target).map_err(fail(format!("making {}", path.display()), DISK_ADVICE))?;
        mount(Some(&content), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(fail(format!("mounting {}", path.display()), ROOT_ADVICE))
    }

    /// For a guest's child process: makes the copy its root. It inherits our namespace.
    pub fn enter(&self) -> Result<PreExec, OverlayError> {
        let root = CString::new(self.path().into_os_string().into_vec())
            .map_err(|e| fail("its name", DISK_ADVICE)(io::Error::from(e)))?;
        Ok(Box::new(move || {
            // SAFETY: plain system calls with terminated strings; nothing is allocated.
            let r = unsafe {
                match libc::chroot(root.as_ptr()) {
                    0 => libc::chdir(c"/".as_ptr()),
                    e => e,
                }
            };
            if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        }))
    }
}

impl Drop for PrivateRoot {
    fn drop(&mut self) {
        // Processes of the guest may still be on their way out: detach, don't wait.
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        if self.keep {
            // Without a lock file no later replay sweeps it away.
            let _ = fs::remove_file(self.dir.join("lock"));
            eprintln!("ft: kept in {}", self.dir.display());
        } else {
            remove(&self.dir);
        }
    }
}

/// Removes a directory of ours, unless anything is still mounted on its `root`.
fn remove(dir: &Path) {
    let root = dir.join("root");
    // rmdir refuses mount points and anything that isn't empty: the proof that what follows deletes only our layers.
    let gone = match fs::remove_dir(&root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r,
    };
    let memory = dir.join("memory");
    if memory.exists() {
        let _ = umount2(&memory, MntFlags::MNT_DETACH);
    }
    if let Err(e) = gone.and_then(|()| fs::remove_dir_all(dir)) {
        tracing::warn!("{} could not be removed: {e}; remove it by hand", dir.display());
    }
}

/// Removes what replays that were killed left behind.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(NAME.as_bytes()) {
            continue;
        }
        let dir = entry.path();
        // No lock file: it is being made this moment, or it was kept.
        if let Ok(f) = File::open(dir.join("lock"))
            && let Ok(lock) = Flock::lock(f, FlockArg::LockExclusiveNonblock)
        {
            remove(&dir);
            drop(lock);
        }
    }
}

fn new_dir(base: &Path) -> Result<(PathBuf, Flock<File>), OverlayError> {
    let advice = || fail::<io::Error>(format!("a directory in {}", base.display()), DISK_ADVICE);
    for k in 0..ATTEMPTS_MAX {
        let dir = base.join(format!("{NAME}{}-{k}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            r => r.map_err(advice())?,
        }
        // A guest without rights here isn't hindered: it starts at the mounted root, not at this path.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(advice())?;
        // It gets its name when it is locked: a sweep that found it free would take it for left behind.
        let unnamed = dir.join("lock.new");
        let f = File::create(&unnamed).map_err(advice())?;
        let lock = Flock::lock(f, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| advice()(e.into()))?;
        fs::rename(&unnamed, dir.join("lock")).map_err(advice())?;
        return Ok((dir, lock));
    }
    Err(advice()(io::ErrorKind::AlreadyExists.into()))
}

pub(crate) struct OtherMount {
    pub(crate) path: PathBuf,
    /// /proc, /sys, /dev: bound whole.
    is_kernels: bool,
}

/// File systems besides the root's, parents before children; what lies below the kernel's own is not listed.
/// As the calling thread sees them, which may have a namespace of its own.
pub(crate) fn other_mounts() -> io::Result<Vec<OtherMount>> {
    let info = fs::read("/proc/thread-self/mountinfo")?;
    let mut out: Vec<OtherMount> = Vec::new();
    for line in info.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let Some(path) = fields.get(4).map(|p| PathBuf::from(OsString::from_vec(unescaped(p)))) else { continue };
        if path == Path::new("/") || out.iter().any(|m| m.path == path || (m.is_kernels && path.starts_with(&m.path))) {
            continue;
        }
        let is_kernels = ["/proc", "/sys", "/dev"].iter().any(|k| path == Path::new(k));
        out.push(OtherMount { path, is_kernels });
        if out.len() > MOUNTS_MAX {
            return Err(io::Error::other(format!("more than {MOUNTS_MAX} mounts")));
        }
    }
    out.sort_by_key(|m| m.path.components().count());
    Ok(out)
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescaped(b: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(b.len());
    let mut k = 0;
    while k < b.len() {
        let octal = b.get(k + 1..k + 4).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (b[k], octal) {
            (b'\\', Some(v)) => {
                out.push(v);
                k += 4;
            }
            (c, _) => {
                out.push(c);
                k += 1;
            }
        }
    }
    out
}

/// Mount options of an overlay.
pub(crate) fn overlay_options(lower: &Path, upper: &Path, work: &Path) -> OsString {
    let mut options = OsString::new();
    for (name, path) in [("lowerdir=", lower), (",upperdir=", upper), (",workdir=", work)] {
        options.push(name);
        options.push(escaped(path));
    }
    options
}

/// overlayfs splits its options at commas and its lower directories at colons.
fn escaped(path: &Path) -> OsString {
    let mut out = Vec::new();
    for b in OsStr::as_bytes(path.as_os_str()) {
        if matches!(b, b',' | b':' | b'\\') {
            out.push(b'\\');
        }
        out.push(*b);
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn paths_survive_mount_options() {
        assert_eq!(escaped(Path::new("/a,b:c\\d")), "/a\\,b\\:c\\\\d");
        assert_eq!(unescaped(b"/with\\040space\\134x"), b"/with space\\x");
        assert_eq!(unescaped(b"/plain"), b"/plain");
    }

    /// Writes, deletions and replaced directories stay inside; nothing is left.
    #[test]
    fn nothing_of_the_real_file_system_changes() {
        // SAFETY: no pointers.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("not root: not tested");
            return;
        }
        let outside = std::env::temp_dir().join(format!("ft-overlay-test-{}", std::process::id()));
        fs::create_dir_all(outside.join("state")).unwrap();
        fs::write(outside.join("file"), "real").unwrap();
        fs::write(outside.join("state/now"), "of today").unwrap();
        // Of this thread alone, so that what others mount meanwhile is not seen here; shared, as most systems have it,
        // so that what the private root mounts would be.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        for how in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | how, None::<&str>).unwrap();
        }
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let (o, mounts_before) = (outside.clone(), mounts());
        // The namespace belongs to the thread that makes it.
        let dir = std::thread::spawn(move || {
            let mut root = PrivateRoot::create(false).unwrap();
            root.replace(&o.join("state"), |d| fs::write(d.join("then"), "of the recording")).unwrap();
            let enter = root.enter();
            let mut enter = enter.unwrap();
            let child = o.clone();
            // chroot is the thread's own once it doesn't share its file system state.
            std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_FS).unwrap();
                enter().unwrap();
                assert_eq!(fs::read_to_string(child.join("file")).unwrap(), "real");
                fs::write(child.join("file"), "changed").unwrap();
                fs::write("/etc/ft-overlay-test", "x").unwrap();
                fs::write("/dev/shm/ft-overlay-test", "x").unwrap();
                assert!(!child.join("state/now").exists());
                assert_eq!(fs::read_to_string(child.join("state/then")).unwrap(), "of the recording");
                fs::remove_file(child.join("state/then")).unwrap();
                assert!(Path::new("/proc/self/status").exists());
                fs::write("/dev/null", "x").unwrap();
            })
            .join()
            .unwrap();
            let dir = root.dir().to_owned();
            assert!(dir.exists());
            drop(root);
            dir
        })
        .join()
        .unwrap();
        assert!(!dir.exists());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "real");
        assert_eq!(fs::read_to_string(outside.join("state/now")).unwrap(), "of today");
        assert!(!Path::new("/etc/ft-overlay-test").exists() && !Path::new("/dev/shm/ft-overlay-test").exists());
        assert_eq!(mounts(), mounts_before);
        fs::remove_dir_all(&outside).unwrap();
    }

    #[test]
    fn what_a_killed_replay_left_is_swept() {
        let base = std::env::temp_dir().join(format!("ft-sweep-test-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let (live, lock) = new_dir(&base).unwrap();
        let dead = base.join(format!("{NAME}0-0"));
        fs::create_dir_all(dead.join("root")).unwrap();
        fs::create_dir_all(dead.join("upper-1/etc")).unwrap();
        File::create(dead.join("lock")).unwrap();
        let kept = base.join(format!("{NAME}0-1"));
        fs::create_dir_all(&kept).unwrap();
        sweep(&base);
        assert!(live.exists() && !dead.exists() && kept.exists());
        drop(lock);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_replay_that_begins_is_not_swept_by_another() {
        const TIMES: usize = 500;
        let base = std::env::temp_dir().join(format!("ft-sweep-race-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    sweep(&base);
                }
            });
            let begin = || {
                let (dir, _lock) = new_dir(&base).map_err(|e| e.to_string())?;
                fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))
            };
            let begun: Result<(), String> = (0..TIMES).try_for_each(|_| begin());
            is_done.store(true, Ordering::Relaxed);
            begun.unwrap();
        });
        fs::remove_dir_all(&base).unwrap();
    }
}
