//! A directory in a tar archive and back: names, content, kinds, owners, modes, times (to the nanosecond), hard links.
//! Not kept: sockets (nobody listens any more), extended attributes, change times.

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// Deeper than any state directory.
pub(crate) const DEPTH_MAX: usize = 256;

/// Archives what is in `dir`, and `dir` itself as ".".
pub fn pack(dir: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut b = Builder::new(out);
    let mut links = HashMap::new();
    pack_one(&mut b, dir, Path::new("."), &mut links, 0)?;
    b.finish()
}

/// The same error, with the path that it is about.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_owned();
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn pack_one(
    b: &mut Builder<&mut dyn Write>,
    path: &Path,
    name: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("{}: nested deeper than {DEPTH_MAX}", path.display())));
    }
    let m = fs::symlink_metadata(path).map_err(at(path))?;
    let t = m.file_type();
    if t.is_socket() {
        return Ok(());
    }
    let time = |s: i64, ns: i64| format!("{s}.{ns:09}");
    let (mtime, atime) = (time(m.mtime(), m.mtime_nsec()), time(m.atime(), m.atime_nsec()));
    let mut h = Header::new_gnu();
    h.set_metadata(&m);
    h.set_size(0);
    b.append_pax_extensions([("mtime", mtime.as_bytes()), ("atime", atime.as_bytes())])?;
    if !t.is_dir() && m.nlink() > 1 {
        match links.get(&(m.dev(), m.ino())) {
            Some(first) => {
                h.set_entry_type(EntryType::Link);
                return b.append_link(&mut h, name, first);
            }
            None => links.insert((m.dev(), m.ino()), name.to_owned()),
        };
    }
    if t.is_symlink() {
        h.set_entry_type(EntryType::Symlink);
        return b.append_link(&mut h, name, fs::read_link(path).map_err(at(path))?);
    }
    if t.is_file() {
        h.set_size(m.len());
        let mut counted = Counted { inner: File::open(path).map_err(at(path))?.take(m.len()), count: 0 };
        b.append_data(&mut h, name, &mut counted).map_err(at(path))?;
        if counted.count != m.len() {
            return Err(io::Error::other(format!("{}: it shrank while it was archived; is a server using it?", path.display())));
        }
        return Ok(());
    }
    if t.is_fifo() {
        h.set_entry_type(EntryType::Fifo);
    } else if t.is_char_device() || t.is_block_device() {
        h.set_entry_type(if t.is_char_device() { EntryType::Char } else { EntryType::Block });
        h.set_device_major(libc::major(m.rdev()))?;
        h.set_device_minor(libc::minor(m.rdev()))?;
    }
    b.append_data(&mut h, name, io::empty())?;
    if t.is_dir() {
        let mut inside = fs::read_dir(path).map_err(at(path))?.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()?;
        inside.sort();
        for n in inside {
            pack_one(b, &path.join(&n), &name.join(&n), links, depth + 1)?;
        }
    }
    Ok(())
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(to)?;
        self.count += n as u64;
        Ok(n)
    }
}

/// Restores an archive into `dir`, which exists and is empty. Owners need root.
pub fn unpack(from: impl Read, dir: &Path) -> io::Result<()> {
    let mut archive = Archive::new(from);
    // Times of directories last: what is put into them changes them.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let path = inside(dir, &name)?;
        let h = entry.header();
        let (kind, mode, uid, gid) = (h.entry_type(), h.mode()?, h.uid()? as u32, h.gid()? as u32);
        let device = (h.device_major()?.unwrap_or(0), h.device_minor()?.unwrap_or(0));
        let (mut mtime, mut atime) = (TimeSpec::new(h.mtime()? as i64, 0), None);
        if let Some(extensions) = entry.pax_extensions()? {
            for x in extensions {
                let x = x?;
                match x.key() {
                    Ok("mtime") => mtime = parse_time(x.value_bytes()).unwrap_or(mtime),
                    Ok("atime") => atime = parse_time(x.value_bytes()),
                    _ => {}
                }
            }
        }
        match kind {
            EntryType::Link => {
                let first = entry.link_name()?.ok_or_else(|| io::Error::other("a hard link to nothing"))?;
                fs::hard_link(inside(dir, &first)?, &path).map_err(at(&path))?;
                continue;
            }
            EntryType::Symlink => {
                let to = entry.link_name()?.ok_or_else(|| io::Error::other("a symbolic link to nothing"))?;
                std::os::unix::fs::symlink(to, &path).map_err(at(&path))?;
            }
            EntryType::Directory => match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path == dir => {}
                r => r.map_err(at(&path))?,
            },
            EntryType::Regular | EntryType::GNUSparse => {
                let mut f = File::options().write(true).create_new(true).open(&path).map_err(at(&path))?;
                io::copy(&mut entry, &mut f).map_err(at(&path))?;
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let format = match kind {
                    EntryType::Fifo => libc::S_IFIFO,
                    EntryType::Char => libc::S_IFCHR,
                    _ => libc::S_IFBLK,
                };
                make_node(&path, format, libc::makedev(device.0, device.1)).map_err(at(&path))?;
            }
            other => return Err(io::Error::other(format!("{}: unknown kind {other:?} in the archive", name.display()))),
        }
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(at(&path))?;
        if kind != EntryType::Symlink {
            // After the owner: changing it clears set-id bits.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777)).map_err(at(&path))?;
        }
        let times = (atime.unwrap_or(mtime), mtime);
        if kind == EntryType::Directory {
            directories.push((path, times));
        } else {
            set_times(&path, times)?;
        }
    }
    for (path, times) in directories.into_iter().rev() {
        set_times(&path, times)?;
    }
    Ok(())
}

pub(crate) fn set_times(path: &Path, (atime, mtime): (TimeSpec, TimeSpec)) -> io::Result<()> {
    utimensat(nix::fcntl::AT_FDCWD, path, &atime, &mtime, UtimensatFlags::NoFollowSymlink).map_err(|e| at(path)(e.into()))
}

/// `name` under `dir`; never outside.
pub(crate) fn inside(dir: &Path, name: &Path) -> io::Result<PathBuf> {
    let mut path = dir.to_owned();
    for c in name.components() {
        match c {
            Component::CurDir => {}
            Component::Normal(n) => path.push(n),
            _ => return Err(io::Error::other(format!("{}: an archive of a state directory can't hold this name", name.display()))),
        }
    }
    Ok(path)
}

/// "seconds.nanoseconds", as `pack` writes it.
fn parse_time(b: &[u8]) -> Option<TimeSpec> {
    let (s, ns) = std::str::from_utf8(b).ok()?.split_once('.')?;
    Some(TimeSpec::new(s.parse().ok()?, ns.parse().ok()?))
}

/// `format`: S_IFIFO, S_IFCHR or S_IFBLK.
pub(crate) fn make_node(path: &Path, format: u32, device: u64) -> io::Result<()> {
    let c = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a terminated string that lives through the call.
    let r = unsafe { libc::mknod(c.as_ptr(), format | 0o600, device) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let base = std::env::temp_dir().join(format!("ft-archive-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(from.join("a/file"), vec![7; 100_000]).unwrap();
        fs::hard_link(from.join("a/file"), from.join("a/b/same")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at all", from.join("link")).unwrap();
        let long = "x".repeat(200);
        fs::write(from.join(&long), b"").unwrap();
        fs::set_permissions(from.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        make_node(&from.join("fifo"), libc::S_IFIFO, 0).unwrap();
        // SAFETY: no pointers.
        let root = unsafe { libc::geteuid() } == 0;
        if root {
            std::os::unix::fs::chown(from.join("a/b"), Some(1234), Some(5678)).unwrap();
        }
        set_times(&from.join("a"), (TimeSpec::new(5, 6), TimeSpec::new(1_000_000_000, 123_456_789))).unwrap();
        let mut bytes = Vec::new();
        pack(&from, &mut bytes).unwrap();
        unpack(&bytes[..], &to).unwrap();
        for name in [".", "a", "a/b", "a/file", "a/b/same", "link", "fifo", &long] {
            let (f, t) = (fs::symlink_metadata(from.join(name)).unwrap(), fs::symlink_metadata(to.join(name)).unwrap());
            assert_eq!(
                (f.mode(), f.uid(), f.gid(), f.mtime(), f.mtime_nsec(), f.is_dir() || f.len() == t.len()),
                (t.mode(), t.uid(), t.gid(), t.mtime(), t.mtime_nsec(), true),
                "{name}"
            );
        }
        assert_eq!(fs::read(to.join("a/file")).unwrap(), vec![7; 100_000]);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere/at all"));
        let ino = |p: &str| fs::metadata(to.join(p)).unwrap().ino();
        assert_eq!(ino("a/file"), ino("a/b/same"));
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_name_never_leads_outside() {
        for bad in ["../x", "/etc/passwd", "a/../../x"] {
            assert!(inside(Path::new("/t"), Path::new(bad)).is_err());
        }
        assert_eq!(inside(Path::new("/t"), Path::new("./a/b")).unwrap(), Path::new("/t/a/b"));
    }
}
