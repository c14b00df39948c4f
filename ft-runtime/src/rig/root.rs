//! A host's file system: a throw-away copy of the real one, on disk, and kernel file systems of its own.
//!
//! Everything is mounted in the host's own mount namespace and goes with it. The upper directories lie on a disk, so
//! that fsync costs what it costs. What both hosts of a pair see of files is equal when they start.

use super::config::SHARED;
use super::{Result, RigError, io_error, with_advice};
use crate::overlay::{OtherMount, other_mounts, overlay_options};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a host finds the `ft` that made it.
pub(super) const FT: &str = "/usr/local/bin/ft";
/// What servers and engines ask of /dev; what is missing on the machine is missing in the host.
const DEVICES: [&str; 12] =
    ["null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse", "kvm", "userfaultfd", "net/tun", "hwrng"];
/// Of /run only the directories are copied: so deep, and so many.
const RUN_DEPTH_MAX: usize = 5;
const RUN_ENTRIES_MAX: usize = 4096;
/// In /run: other people's.
const RUN_SKIPPED: [&str; 6] = ["ft-rig", "netns", "user", "docker", "containerd", "mount"];

/// Makes `dir` the home of a private root and enters it; what it holds already is the host's old disk, which nobody has
/// mounted. The caller is in a mount namespace of its own. `disk_mib`: what the host writes has so much room, on a disk
/// of its own.
pub(super) fn enter(dir: &Path, shared: &Path, disk_mib: Option<u32>) -> Result<()> {
    private_mounts()?;
    let others = other_mounts().map_err(io_error("reading /proc/thread-self/mountinfo"))?;
    let disk = disk_mib.map(|mib| small_disk(dir, mib)).transpose()?;
    let layers = disk.as_deref().unwrap_or(dir);
    let root = dir.join("root");
    fs::create_dir_all(&root).map_err(io_error(root.display().to_string()))?;
    lay(layers, Path::new("/"), &root)?;
    for m in others.iter().filter(|m| !is_own(&m.path)) {
        if let Err(e) = other(layers, m, &root) {
            // The host can do without; whoever needs it reads this in the log.
            eprintln!("ft: {}: {e}", m.path.display());
        }
    }
    bind_ft(&root)?;
    share(shared, &root)?;
    hide_rigs(&root)?;
    mount_new("proc", &root.join("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)?;
    sys(&root.join("sys"))?;
    dev(&root.join("dev"))?;
    run(&root.join("run"))?;
    pivot(&root)
}

/// From now on nothing that is mounted here is seen outside.
fn private_mounts() -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(io_error("making all mounts private"))
}

/// These are made anew.
fn is_own(path: &Path) -> bool {
    ["/proc", "/sys", "/dev", "/run", "/var/run", "/var/tmp/ft-rig"].iter().any(|p| path.starts_with(p))
}

/// A file system in a file. It and its loop device go with the last mount of it.
fn small_disk(dir: &Path, mib: u32) -> Result<PathBuf> {
    let (image, at) = (dir.join("disk.img"), dir.join("disk"));
    fs::create_dir_all(&at).map_err(io_error(at.display().to_string()))?;
    let run = |command: &mut Command| {
        let o = command.output().map_err(io_error(format!("{command:?}")))?;
        let said = || String::from_utf8_lossy(&o.stderr).trim().to_owned();
        if o.status.success() { Ok(()) } else { Err(RigError::Tool { command: format!("{command:?}"), said: said() }) }
    };
    if !image.exists() {
        File::create(&image)
            .and_then(|f| f.set_len(u64::from(mib) << 20))
            .map_err(io_error(image.display().to_string()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
    }
    run(Command::new("mount").args(["-o", "loop"]).args([&image, &at]))?;
    Ok(at)
}

/// Below `layers` each has a name that follows from what it lies over.
fn lay(layers: &Path, lower: &Path, target: &Path) -> Result<()> {
    let what = || format!("an overlay of {} in {}", lower.display(), layers.display());
    let name = lower.to_string_lossy().replace('%', "%25").replace('/', "%2F");
    let (upper, work) = (layers.join(format!("upper-{name}")), layers.join(format!("work-{name}")));
    if !upper.exists() {
        fs::create_dir(&upper).map_err(with_advice(what(), "; is there room?"))?;
        // The root of the copy shows the mode and owner of the upper directory.
        let like = fs::metadata(lower).map_err(io_error(what()))?;
        copy_owner(&like, &upper).map_err(io_error(what()))?;
    }
    fs::create_dir_all(&work).map_err(with_advice(what(), "; is there room?"))?;
    let options = overlay_options(lower, &upper, &work);
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_os_str())).map_err(with_advice(
        what(),
        "; /var/tmp must be on a disk's file system (ext4, xfs, btrfs), not itself an overlay or in memory",
    ))
}

fn copy_owner(from: &fs::Metadata, to: &Path) -> io::Result<()> {
    chown(to, Some(from.uid()), Some(from.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(from.mode() & 0o7777))
}

/// Another file system than the root's.
fn other(layers: &Path, m: &OtherMount, root: &Path) -> Result<()> {
    let target = inside(root, &m.path);
    if m.path.is_dir() {
        return lay(layers, &m.path, &target);
    }
    bind_file(&m.path, &target)
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn bind_file(from: &Path, target: &Path) -> Result<()> {
    let bind = |flags| mount(Some(from), target, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
    bind(MsFlags::empty()).and_then(|()| bind(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)).map_err(io_error(format!(
        "binding {} to {}",
        from.display(),
        target.display()
    )))
}

/// The same program in both hosts, wherever it lies outside, and the same until the rig's end.
fn bind_ft(root: &Path) -> Result<()> {
    let target = inside(root, Path::new(FT));
    if !target.exists() {
        File::create(&target).map_err(io_error(target.display().to_string()))?;
    }
    let ft = fs::read_link("/proc/self/exe").map_err(io_error("/proc/self/exe"))?;
    // What was replaced while we run can't be bound by name.
    if bind_file(&ft, &target).is_ok() {
        return Ok(());
    }
    fs::copy("/proc/self/exe", &target).map(drop).map_err(io_error(target.display().to_string()))
}

/// Storage that both hosts have, at the same place.
fn share(from: &Path, root: &Path) -> Result<()> {
    let target = inside(root, Path::new(SHARED));
    fs::create_dir_all(&target).map_err(io_error(target.display().to_string()))?;
    mount(Some(from), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io_error(SHARED))
}

/// A host sees no layers, neither its own nor its peer's.
fn hide_rigs(root: &Path) -> Result<()> {
    let target = root.join("var/tmp/ft-rig");
    mount_new("tmpfs", &target, MsFlags::MS_RDONLY, Some("mode=755,size=0"))
}

fn mount_new(kind: &str, target: &Path, flags: MsFlags, options: Option<&str>) -> Result<()> {
    mount(Some(kind), target, Some(kind), flags, options)
        .map_err(io_error(format!("mounting {kind} at {}", target.display())))
}

/// /sys of the host's own network; control groups are the machine's.
fn sys(target: &Path) -> Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_new("sysfs", target, safe, None)?;
    let bpf = target.join("fs/bpf");
    if bpf.is_dir() {
        // Pins of the host's own: they go with it.
        mount_new("bpf", &bpf, safe, Some("mode=700"))?;
    }
    let groups = Path::new("/sys/fs/cgroup");
    if groups.is_dir() {
        mount(Some(groups), &target.join("fs/cgroup"), None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .map_err(io_error("binding /sys/fs/cgroup"))?;
    }
    Ok(())
}

fn dev(target: &Path) -> Result<()> {
    mount_new("tmpfs", target, MsFlags::MS_NOSUID, Some("mode=755"))?;
    let fail = |what: &str| io_error(format!("/dev/{what}"));
    for name in DEVICES {
        let Ok(m) = fs::metadata(Path::new("/dev").join(name)) else { continue };
        let at = target.join(name);
        let parent = at.parent().expect("it has a name");
        fs::create_dir_all(parent).map_err(fail(name))?;
        let device = makedev(nix::sys::stat::major(m.rdev()), nix::sys::stat::minor(m.rdev()));
        mknod(&at, SFlag::S_IFCHR, Mode::from_bits_truncate(m.mode() & 0o777), device)
            .map_err(|e| fail(name)(e.into()))?;
        copy_owner(&m, &at).map_err(fail(name))?;
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(to, target.join(name)).map_err(fail(name))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(target.join(name)).map_err(fail(name))?;
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_new("devpts", &target.join("pts"), safe, Some("newinstance,ptmxmode=0666,mode=0620,gid=5"))?;
    mount_new("tmpfs", &target.join("shm"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777"))?;
    // Not every kernel has it.
    let _ = mount_new("mqueue", &target.join("mqueue"), safe | MsFlags::MS_NODEV, None);
    Ok(())
}

/// The directories that packages expect, without anyone's sockets and pid files.
fn run(target: &Path) -> Result<()> {
    mount_new("tmpfs", target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    let mut left = RUN_ENTRIES_MAX;
    copy_directories(Path::new("/run"), target, RUN_DEPTH_MAX, &mut left).map_err(io_error("/run"))
}

fn copy_directories(from: &Path, to: &Path, depth: usize, left: &mut usize) -> io::Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        let skipped = from == Path::new("/run") && RUN_SKIPPED.iter().any(|s| entry.file_name() == *s);
        if skipped || *left == 0 {
            continue;
        }
        *left -= 1;
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_dir() {
            let Ok(m) = entry.metadata() else { continue };
            fs::create_dir(&target)?;
            if depth > 1 {
                // Someone may take it away meanwhile.
                let _ = copy_directories(&entry.path(), &target, depth - 1, left);
            }
            copy_owner(&m, &target)?;
        }
    }
    Ok(())
}

/// Makes it the root and lets go of the old one.
fn pivot(root: &Path) -> Result<()> {
    std::env::set_current_dir(root).map_err(io_error(root.display().to_string()))?;
    nix::unistd::pivot_root(".", ".").map_err(io_error("changing the root"))?;
    // The old root lies over the new one now.
    umount2(".", MntFlags::MNT_DETACH).map_err(io_error("leaving the old root"))?;
    std::env::set_current_dir("/").map_err(io_error("/"))
}

/// What a service needs that the machine has not.
pub(super) fn make_directories(dirs: &[PathBuf]) -> Result<()> {
    for d in dirs {
        if !d.is_absolute() {
            return Err(RigError::Refused(format!("state directory {} is not an absolute path", d.display())));
        }
        fs::create_dir_all(d).map_err(io_error(d.display().to_string()))?;
    }
    Ok(())
}
