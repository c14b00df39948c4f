//! Digest of a directory: equal on two hosts if a program finds the same in it.
//!
//! Walked in the order of names. Covered: names, kinds, modes, owners, sizes, content, targets of symbolic links,
//! numbers of devices, which names are one file. Not covered: times (the hosts' differ by nature), extended attributes.

use super::HelloError;
use crate::archive::DEPTH_MAX;
use crate::logfile::{OsText, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const ENTRIES_MAX: u64 = 16 << 20;
/// Names of the top whose digests are told, so that the place of a difference can be named.
const PARTS_MAX: usize = 256;
const READ_BYTES: usize = 1 << 20;
/// Asks whether to go on after so many entries, and after each piece of a file.
const ENTRIES_BETWEEN_ASKS: u64 = 64;

/// What was read so far, of all state directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeProgress {
    pub entries: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDir {
    /// Absolute.
    pub path: OsText,
    pub sha256: String,
    pub entries: u64,
    pub bytes: u64,
    /// What is directly in it, the first ones in order.
    pub parts: Vec<Part>,
}

impl StateDir {
    /// Known by name only.
    pub(super) fn unread(path: &Path) -> Self {
        Self { path: OsText(path.into()), sha256: String::new(), entries: 0, bytes: 0, parts: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub name: OsText,
    pub sha256: String,
}

/// Name, directly in it, of something that differs; `None`: it differs in what is not told, or itself.
pub(super) fn first_difference(a: &StateDir, b: &StateDir) -> Option<OsText> {
    let by_name = |d: &StateDir| -> BTreeMap<OsString, String> {
        d.parts.iter().map(|p| (p.name.0.clone(), p.sha256.clone())).collect()
    };
    let (x, y) = (by_name(a), by_name(b));
    // A list that was cut says nothing about names beyond its end.
    let end = |d: &StateDir| (d.parts.len() == PARTS_MAX).then(|| d.parts.last().map(|p| p.name.0.clone())).flatten();
    let told = |name: &OsString| [end(a), end(b)].iter().flatten().all(|end| name <= end);
    super::union(&x, &y).into_iter().find(|(name, p, q)| p != q && told(name)).map(|(name, ..)| OsText(name.clone()))
}

pub(super) fn digest(
    dir: &Path,
    progress: &mut TreeProgress,
    ask: &mut dyn FnMut(&TreeProgress) -> ControlFlow<()>,
) -> Result<StateDir, HelloError> {
    let before = *progress;
    let mut walk = Walk { top: dir, progress, ask, links: HashMap::new() };
    let m = fs::symlink_metadata(dir).map_err(walk.failed(dir))?;
    if !m.is_dir() {
        return Err(HelloError::State { path: dir.to_owned(), why: "no directory; name the directory itself".into() });
    }
    let mut whole = Sha256::new();
    attributes(&mut whole, &m);
    let mut parts = Vec::new();
    for name in walk.names(dir)? {
        let mut one = Sha256::new();
        walk.entry(&mut one, &dir.join(&name), 1)?;
        let one = one.finalize();
        bytes(&mut whole, name.as_bytes());
        whole.update(one);
        if parts.len() < PARTS_MAX {
            parts.push(Part { name: OsText(name), sha256: hex(&one) });
        }
    }
    Ok(StateDir {
        path: dir.as_os_str().into(),
        sha256: hex(&whole.finalize()),
        entries: progress.entries - before.entries,
        bytes: progress.bytes - before.bytes,
        parts,
    })
}

/// Unambiguous: with its length.
fn bytes(d: &mut Sha256, b: &[u8]) {
    d.update((b.len() as u64).to_le_bytes());
    d.update(b);
}

/// Kind and mode, owners.
fn attributes(d: &mut Sha256, m: &Metadata) {
    for v in [m.mode(), m.uid(), m.gid()] {
        d.update(v.to_le_bytes());
    }
}

struct Walk<'a> {
    top: &'a Path,
    progress: &'a mut TreeProgress,
    ask: &'a mut dyn FnMut(&TreeProgress) -> ControlFlow<()>,
    /// Files of several names: the first one, from the top.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Walk<'_> {
    fn failed(&self, at: &Path) -> impl FnOnce(io::Error) -> HelloError + use<> {
        let (path, at) = (self.top.to_owned(), at.to_owned());
        move |e| HelloError::State { path, why: format!("{}: {e}", at.display()) }
    }

    fn refuse(&self, why: String) -> HelloError {
        HelloError::State { path: self.top.to_owned(), why }
    }

    fn go_on(&mut self) -> Result<(), HelloError> {
        match (self.ask)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(HelloError::Stopped),
        }
    }

    /// Sorted.
    fn names(&self, dir: &Path) -> Result<Vec<OsString>, HelloError> {
        let mut names = Vec::new();
        for e in fs::read_dir(dir).map_err(self.failed(dir))? {
            names.push(e.map_err(self.failed(dir))?.file_name());
            if names.len() as u64 > ENTRIES_MAX {
                return Err(self.refuse(format!("more than {ENTRIES_MAX} entries")));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entry(&mut self, d: &mut Sha256, path: &Path, depth: usize) -> Result<(), HelloError> {
        if depth > DEPTH_MAX {
            return Err(self.refuse(format!("{}: nested deeper than {DEPTH_MAX}", path.display())));
        }
        self.progress.entries += 1;
        if self.progress.entries > ENTRIES_MAX {
            return Err(self.refuse(format!("more than {ENTRIES_MAX} entries")));
        }
        if self.progress.entries.is_multiple_of(ENTRIES_BETWEEN_ASKS) {
            self.go_on()?;
        }
        let m = fs::symlink_metadata(path).map_err(self.failed(path))?;
        let t = m.file_type();
        attributes(d, &m);
        if t.is_dir() {
            for name in self.names(path)? {
                bytes(d, name.as_bytes());
                self.entry(d, &path.join(name), depth + 1)?;
            }
            // No name is empty: the end of this directory.
            bytes(d, b"");
            return Ok(());
        }
        if m.nlink() > 1 {
            let name = path.strip_prefix(self.top).expect("below the top").to_owned();
            let first = self.links.entry((m.dev(), m.ino())).or_insert(name);
            bytes(d, first.as_os_str().as_bytes());
        } else {
            bytes(d, b"");
        }
        if t.is_symlink() {
            let target = fs::read_link(path).map_err(self.failed(path))?;
            bytes(d, target.as_os_str().as_bytes());
        } else if t.is_file() {
            d.update(m.len().to_le_bytes());
            d.update(self.content(path, m.len())?);
        } else if t.is_block_device() || t.is_char_device() {
            d.update(m.rdev().to_le_bytes());
        }
        Ok(())
    }

    fn content(&mut self, path: &Path, length: u64) -> Result<[u8; 32], HelloError> {
        let mut file =
            File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(self.failed(path))?;
        let mut d = Sha256::new();
        let mut piece = vec![0; READ_BYTES.min(length as usize + 1)];
        let mut read = 0;
        loop {
            let n = file.read(&mut piece).map_err(self.failed(path))?;
            read += n as u64;
            if (n == 0 && read < length) || read > length {
                return Err(self
                    .refuse(format!("{}: its size changes while it is read; is a server using it?", path.display())));
            }
            if n == 0 {
                return Ok(d.finalize().into());
            }
            d.update(&piece[..n]);
            self.progress.bytes += n as u64;
            if n == READ_BYTES {
                self.go_on()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn quick(dir: &Path) -> StateDir {
        digest(dir, &mut TreeProgress::default(), &mut |_| ControlFlow::Continue(())).unwrap()
    }

    /// A directory with a little of everything, gone with the value.
    struct Sample(PathBuf);

    impl Drop for Sample {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn sample(name: &str) -> Sample {
        let dir = std::env::temp_dir().join(format!("ft-tree-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("sub/deep")).unwrap();
        fs::write(dir.join("b"), "bee").unwrap();
        fs::write(dir.join("a"), "").unwrap();
        fs::write(dir.join("sub/deep/big"), vec![3; 5 << 18]).unwrap();
        fs::hard_link(dir.join("b"), dir.join("sub/b2")).unwrap();
        symlink("/nowhere", dir.join("link")).unwrap();
        Sample(dir)
    }

    #[test]
    fn equal_trees_have_equal_digests_and_each_change_shows() {
        let (a, b) = (sample("one"), sample("two"));
        let (a, b) = (&a.0, &b.0);
        let original = quick(a);
        assert_eq!((original.entries, original.bytes), (7, 3 + 3 + (5 << 18)));
        let same = quick(b);
        assert_eq!((&original.sha256, &original.parts), (&same.sha256, &same.parts));
        type Change = (&'static str, &'static str, fn(&Path));
        let changes: [Change; 8] = [
            ("content", "a", |d| fs::write(d.join("a"), "x").unwrap()),
            ("same size", "sub", |d| fs::write(d.join("sub/deep/big"), vec![4; 5 << 18]).unwrap()),
            ("mode", "a", |d| fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o600)).unwrap()),
            ("new name", "sub", |d| fs::write(d.join("sub/new"), "").unwrap()),
            ("removed", "a", |d| fs::remove_file(d.join("a")).unwrap()),
            ("target", "link", |d| {
                fs::remove_file(d.join("link")).unwrap();
                symlink("/elsewhere", d.join("link")).unwrap();
            }),
            ("two files instead of one", "b", |d| {
                fs::remove_file(d.join("sub/b2")).unwrap();
                fs::write(d.join("sub/b2"), "bee").unwrap();
            }),
            ("directory instead of file", "a", |d| {
                fs::remove_file(d.join("a")).unwrap();
                fs::create_dir(d.join("a")).unwrap();
            }),
        ];
        for (n, (what, place, change)) in changes.into_iter().enumerate() {
            let c = sample(&format!("changed{n}"));
            change(&c.0);
            let changed = quick(&c.0);
            assert_ne!(original.sha256, changed.sha256, "{what}");
            assert_eq!(first_difference(&original, &changed).unwrap().0, place, "{what}");
        }
        // SAFETY: no pointers.
        if unsafe { libc::geteuid() } == 0 {
            std::os::unix::fs::lchown(b.join("link"), Some(1), None).unwrap();
            assert_ne!(original.sha256, quick(b).sha256, "owner");
        }
    }

    #[test]
    fn a_name_moved_between_directories_shows() {
        let s = sample("moved");
        let before = quick(&s.0);
        fs::rename(s.0.join("sub/deep/big"), s.0.join("sub/big")).unwrap();
        assert_ne!(before.sha256, quick(&s.0).sha256);
    }

    #[test]
    fn it_can_be_stopped() {
        let s = sample("stopped");
        let stopped = digest(&s.0, &mut TreeProgress::default(), &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(HelloError::Stopped)));
    }

    #[test]
    fn a_file_is_no_state_directory() {
        let s = sample("file");
        let r = digest(&s.0.join("a"), &mut TreeProgress::default(), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(r, Err(HelloError::State { .. })));
    }
}
