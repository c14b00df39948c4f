//! State directories as they were at one input point, while the server goes on writing to them.
//!
//! What there is, is listed while the server may not change it, and every file opened. Content is read afterwards: what the
//! server has replaced since is told by its shim before ([`Replaced`]), and undone where the files are made again, the last
//! change first. So it doesn't matter when a byte is read.

use super::{PAGE, SnapshotError, give_what_is_not_zero};
use crate::archive::{self, DEPTH_MAX, at};
use crate::logfile::{OsText, hex, unhex};
use ft_log::shared::moved::Moved;
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Content is read and written so much at a time.
const PART_BYTES: u64 = 1 << 20;

/// One state directory: names and what belongs to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    pub path: OsText,
    /// Directories before what is in them; first the directory itself, by an empty name.
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Below the state directory.
    pub name: OsText,
    pub kind: Kind,
    pub mode: u32,
    /// User and group.
    pub owner: [u32; 2],
    /// Seconds and nanoseconds.
    pub accessed: [i64; 2],
    pub modified: [i64; 2],
    /// Extended ones; values hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(OsText, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Directory { on: Place },
    /// `id`: counts the files of a snapshot.
    File { id: u32, size: u64, on: Place },
    /// Another name of the same file.
    Link { of: OsText },
    Symlink { to: OsText },
    Fifo,
    Device { number: u64, is_block: bool },
}

/// Device and inode on the disk that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place(pub u64, pub u64);

impl Place {
    pub fn of(m: &Metadata) -> Self {
        Self(m.dev(), m.ino())
    }
}

/// What of a file a change replaced: it was `size` long and had these bytes at `offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub on: Place,
    pub size: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

fn system(e: impl Into<io::Error>) -> SnapshotError {
    SnapshotError::System { what: "copying a state directory", source: e.into() }
}

/// The listed directories' files, held open: they stay what they are, whatever becomes of their names.
#[derive(Default)]
pub struct Content {
    files: Vec<(File, u64)>,
    ids: HashMap<Place, u32>,
}

impl Content {
    /// Nobody changes names meanwhile.
    pub fn list(dirs: &[PathBuf]) -> Result<(Vec<Tree>, Self), SnapshotError> {
        let mut content = Self::default();
        let mut trees = Vec::new();
        for dir in dirs {
            let mut listing = Listing { dir, content: &mut content, links: HashMap::new(), nodes: Vec::new() };
            listing.add(Path::new(""), 0).map_err(system)?;
            trees.push(Tree { path: OsText(dir.into()), nodes: listing.nodes });
        }
        Ok((trees, content))
    }

    /// The file's number, if it is one of these.
    pub fn id(&self, on: Place) -> Option<u32> {
        self.ids.get(&on).copied()
    }

    /// Gives all that is not zero.
    pub fn read(&self, give: &mut dyn FnMut(u32, u64, &[u8]) -> Result<(), SnapshotError>) -> Result<(), SnapshotError> {
        for (id, (file, size)) in (0u32..).zip(&self.files) {
            let mut at = 0;
            while let Some(begin) = seek(file, at, libc::SEEK_DATA).map_err(system)?.filter(|b| b < size) {
                // It may have been cut since.
                let Some(end) = seek(file, begin, libc::SEEK_HOLE).map_err(system)? else { break };
                at = end;
                // Pages are those of the file.
                read_range(file, begin / PAGE * PAGE, end.min(*size), &mut |o, b| give(id, o, b))?;
            }
        }
        Ok(())
    }
}

/// `None`: there is nothing from there on.
fn seek(file: &File, from: u64, whence: i32) -> io::Result<Option<u64>> {
    // SAFETY: moves the position of a descriptor of ours, which nothing else uses.
    match unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) } {
        -1 => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
        n => Ok(Some(n as u64)),
    }
}

fn read_range(
    file: &File,
    mut at: u64,
    end: u64,
    give: &mut dyn FnMut(u64, &[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut buffer = vec![0; PART_BYTES.min(end.saturating_sub(at)) as usize];
    while at < end {
        let want = buffer.len().min((end - at) as usize);
        let mut have = 0;
        while have < want {
            match file.read_at(&mut buffer[have..want], at + have as u64).map_err(system)? {
                0 => break,
                n => have += n,
            }
        }
        give_what_is_not_zero(at, &buffer[..have], give)?;
        if have < want {
            // Cut since; what was there is told.
            return Ok(());
        }
        at += have as u64;
    }
    Ok(())
}

struct Listing<'a> {
    dir: &'a Path,
    content: &'a mut Content,
    links: HashMap<Place, PathBuf>,
    nodes: Vec<Node>,
}

impl Listing<'_> {
    fn add(&mut self, name: &Path, depth: usize) -> io::Result<()> {
        let path = if depth == 0 { self.dir.to_owned() } else { self.dir.join(name) };
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("{}: nested deeper than {DEPTH_MAX}", path.display())));
        }
        let m = fs::symlink_metadata(&path).map_err(at(&path))?;
        let t = m.file_type();
        if t.is_socket() {
            // Nobody listens where it is made again.
            return Ok(());
        }
        let first = if t.is_dir() || m.nlink() == 1 { None } else { self.links.get(&Place::of(&m)).cloned() };
        let kind = if let Some(of) = first {
            Kind::Link { of: OsText(of.into()) }
        } else if t.is_dir() {
            Kind::Directory { on: Place::of(&m) }
        } else if t.is_symlink() {
            Kind::Symlink { to: OsText(fs::read_link(&path).map_err(at(&path))?.into()) }
        } else if t.is_file() {
            let flags = libc::O_NOATIME | libc::O_NOFOLLOW;
            let file = File::options().read(true).custom_flags(flags).open(&path).map_err(at(&path))?;
            let id = self.content.files.len() as u32;
            self.content.files.push((file, m.len()));
            self.content.ids.insert(Place::of(&m), id);
            Kind::File { id, size: m.len(), on: Place::of(&m) }
        } else if t.is_fifo() {
            Kind::Fifo
        } else {
            Kind::Device { number: m.rdev(), is_block: t.is_block_device() }
        };
        self.links.insert(Place::of(&m), name.to_owned());
        let attributes = if t.is_symlink() { Vec::new() } else { attributes(&path).map_err(at(&path))? };
        self.nodes.push(Node {
            name: OsText(name.into()),
            kind,
            mode: m.mode() & 0o7777,
            owner: [m.uid(), m.gid()],
            accessed: [m.atime(), m.atime_nsec()],
            modified: [m.mtime(), m.mtime_nsec()],
            attributes,
        });
        if t.is_dir() {
            let entries = fs::read_dir(&path).map_err(at(&path))?;
            let mut inside = entries.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<OsString>>>()?;
            inside.sort();
            inside.iter().try_for_each(|n| self.add(&name.join(n), depth + 1))?;
        }
        Ok(())
    }
}

fn attributes(path: &Path) -> io::Result<Vec<(OsText, String)>> {
    let names = match xattr::list(path) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut found = Vec::new();
    for name in names {
        if let Some(value) = xattr::get(path, &name)? {
            found.push((OsText(name), hex(&value)));
        }
    }
    Ok(found)
}

/// Directories that are being made again.
#[derive(Default)]
pub struct Making {
    files: Vec<File>,
    /// File, size, offset and bytes of what was told while the others were read; the last is undone first.
    replaced: Vec<(u32, u64, u64, Vec<u8>)>,
    /// Set at the end: content changes them.
    times: Vec<(PathBuf, [i64; 2], [i64; 2])>,
    known: Vec<(Place, PathBuf)>,
    /// Directories whose content takes the place of what is there, once all was given.
    replacing: Vec<(PathBuf, Node)>,
}

/// Beside what a state directory holds: what it is to hold instead. As long as it is called that, the old is untouched ...
const UNFINISHED: &str = ".ft-new";
/// ... and so it is called while the old goes and it comes.
const TAKES_OVER: &str = ".ft-takes-over";

/// Makes `dir` fit to be what a service starts from: nothing is left of a transfer that ended too early.
pub fn leave_unfinished(dir: &Path) -> io::Result<()> {
    if dir.join(TAKES_OVER).exists() {
        return Err(io::Error::other(
            "it was being replaced by the other host's when this host stopped, and is neither the old nor the new one; let the \
             other host serve, which gives this one its state, or empty the directory",
        ));
    }
    match fs::remove_dir_all(dir.join(UNFINISHED)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(&dir.join(UNFINISHED))(e)),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let m = fs::symlink_metadata(path).map_err(at(path))?;
    if m.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(at(path))
}

/// Everything in `dir` but what came in it as [`TAKES_OVER`] goes, and that comes out.
fn take_over(dir: &Path) -> io::Result<()> {
    let new = dir.join(TAKES_OVER);
    fs::rename(dir.join(UNFINISHED), &new).map_err(at(dir))?;
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        if path != new {
            remove(&path)?;
        }
    }
    for entry in fs::read_dir(&new).map_err(at(&new))? {
        let entry = entry.map_err(at(&new))?;
        fs::rename(entry.path(), dir.join(entry.file_name())).map_err(at(&entry.path()))?;
    }
    fs::remove_dir(&new).map_err(at(&new))
}

impl Node {
    /// Owner, mode and attributes.
    fn dress(&self, path: &Path) -> io::Result<()> {
        let [uid, gid] = self.owner;
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(at(path))?;
        if !matches!(self.kind, Kind::Symlink { .. }) {
            // After the owner: changing it clears set-id bits.
            fs::set_permissions(path, fs::Permissions::from_mode(self.mode & 0o7777)).map_err(at(path))?;
        }
        for (name, value) in &self.attributes {
            let value = unhex(value).ok_or_else(|| broken(&self.name, "an attribute that is not hexadecimal"))?;
            xattr::set(path, &name.0, &value).map_err(at(path))?;
        }
        Ok(())
    }
}

fn set_times(path: &Path, accessed: [i64; 2], modified: [i64; 2]) -> io::Result<()> {
    let time = |[s, ns]: [i64; 2]| TimeSpec::new(s, ns);
    archive::set_times(path, (time(accessed), time(modified)))
}

fn broken(name: &OsText, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", name.0.display()))
}

impl Making {
    /// `dir` exists and is empty.
    pub fn add(&mut self, tree: &Tree, dir: &Path) -> io::Result<()> {
        tree.nodes.iter().try_for_each(|node| self.make(node, dir, dir))
    }

    /// The state directory is made where it was. What is there now stays until all was given.
    pub fn replace(&mut self, tree: &Tree) -> io::Result<()> {
        let dir = Path::new(&tree.path.0);
        let (root, inside) = tree.nodes.split_first().ok_or_else(|| broken(&tree.path, "it lacks the directory itself"))?;
        let Kind::Directory { on } = root.kind else { return Err(broken(&tree.path, "it is no directory")) };
        fs::create_dir_all(dir).map_err(at(dir))?;
        for left in [UNFINISHED, TAKES_OVER].map(|name| dir.join(name)) {
            if left.exists() {
                remove(&left)?;
            }
        }
        let new = dir.join(UNFINISHED);
        fs::create_dir(&new).map_err(at(&new))?;
        self.known.push((on, dir.to_owned()));
        self.replacing.push((dir.to_owned(), root.clone()));
        inside.iter().try_for_each(|node| self.make(node, &new, dir))
    }

    /// Below `dir`, which will be `end`.
    fn make(&mut self, node: &Node, dir: &Path, end: &Path) -> io::Result<()> {
        let name = Path::new(&node.name.0);
        let path = archive::inside(dir, name)?;
        let will_be = archive::inside(end, name)?;
        let made = || at(&path);
        match &node.kind {
            Kind::Directory { on } => {
                if path != dir {
                    fs::create_dir(&path).map_err(made())?;
                }
                self.known.push((*on, will_be));
            }
            Kind::File { id, size, on } => {
                if *id as usize != self.files.len() {
                    return Err(broken(&node.name, "its number is not the next one"));
                }
                let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(made())?;
                file.set_len(*size).map_err(made())?;
                self.files.push(file);
                self.known.push((*on, will_be));
            }
            Kind::Link { of } => {
                // What belongs to it belongs to its first name.
                return fs::hard_link(archive::inside(dir, Path::new(&of.0))?, &path).map_err(made());
            }
            Kind::Symlink { to } => std::os::unix::fs::symlink(&to.0, &path).map_err(made())?,
            Kind::Fifo => archive::make_node(&path, libc::S_IFIFO, 0).map_err(made())?,
            Kind::Device { number, is_block } => {
                let format = if *is_block { libc::S_IFBLK } else { libc::S_IFCHR };
                archive::make_node(&path, format, *number).map_err(made())?;
            }
        }
        node.dress(&path)?;
        self.times.push((path, node.accessed, node.modified));
        Ok(())
    }

    fn file(&self, id: u32) -> io::Result<&File> {
        self.files.get(id as usize).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("it has no file {id}")))
    }

    pub fn content(&self, id: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(id)?.write_all_at(bytes, offset)
    }

    /// It was `size` long and had `bytes` at `offset`.
    pub fn replaced(&mut self, id: u32, size: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.file(id)?;
        self.replaced.push((id, size, offset, bytes));
        Ok(())
    }

    /// All was given. What lies where now.
    pub fn finish(mut self) -> io::Result<Vec<Moved>> {
        while let Some((id, size, offset, bytes)) = self.replaced.pop() {
            let file = self.file(id)?;
            file.write_all_at(&bytes, offset)?;
            file.set_len(size)?;
        }
        for (path, accessed, modified) in self.times.iter().rev() {
            set_times(path, *accessed, *modified)?;
        }
        for (dir, root) in &self.replacing {
            take_over(dir)?;
            root.dress(dir)?;
            set_times(dir, root.accessed, root.modified)?;
        }
        let moved = |(from, path): &(Place, PathBuf)| {
            let to = Place::of(&fs::symlink_metadata(path).map_err(at(path))?);
            Ok(Moved { from: [from.0, from.1], to: [to.0, to.1] })
        };
        self.known.iter().map(moved).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Dirs(tempfile::TempDir);

    impl Dirs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["from", "to"] {
                fs::create_dir(dir.path().join(name)).unwrap();
            }
            Self(dir)
        }

        fn from(&self) -> PathBuf {
            self.0.path().join("from")
        }

        fn to(&self) -> PathBuf {
            self.0.path().join("to")
        }

        /// Copies after `list`; `meanwhile` is done before content is read.
        fn copy(&self, meanwhile: impl FnOnce(&Content) -> Vec<Replaced>) -> Vec<Moved> {
            let (trees, content) = Content::list(&[self.from()]).unwrap();
            let told = meanwhile(&content);
            let mut making = Making::default();
            making.add(&trees[0], &self.to()).unwrap();
            content
                .read(&mut |id, offset, bytes| making.content(id, offset, bytes).map_err(system))
                .unwrap();
            for r in told {
                making.replaced(content.id(r.on).unwrap(), r.size, r.offset, r.bytes).unwrap();
            }
            making.finish().unwrap()
        }
    }

    fn is_same(a: &Path, b: &Path) {
        let (a, b) = (fs::symlink_metadata(a).unwrap(), fs::symlink_metadata(b).unwrap());
        let shown = |m: &Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.rdev(), m.nlink());
        assert_eq!(shown(&a), shown(&b));
        assert!(a.is_dir() || a.len() == b.len());
    }

    #[test]
    fn what_is_listed_is_made_again() {
        let dirs = Dirs::new();
        let from = dirs.from();
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/file"), vec![7; 100_001]).unwrap();
        fs::hard_link(from.join("a/file"), from.join("a/b/same")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at all", from.join("link")).unwrap();
        archive::make_node(&from.join("fifo"), libc::S_IFIFO, 0).unwrap();
        fs::set_permissions(from.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        xattr::set(from.join("a/file"), "user.ft", b"\0x").unwrap();
        std::os::unix::fs::chown(from.join("a/b"), Some(1234), Some(5678)).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"far", 64 << 20).unwrap();
        archive::set_times(&from.join("a"), (TimeSpec::new(5, 6), TimeSpec::new(1_000_000_000, 123_456_789))).unwrap();
        let moved = dirs.copy(|_| Vec::new());
        let to = dirs.to();
        for name in ["", "a", "a/b", "a/file", "a/b/same", "link", "fifo", "sparse"] {
            is_same(&from.join(name), &to.join(name));
        }
        assert_eq!(fs::read(to.join("a/b/same")).unwrap(), vec![7; 100_001]);
        assert_eq!(xattr::get(to.join("a/file"), "user.ft").unwrap(), Some(b"\0x".to_vec()));
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere/at all"));
        let sparse = to.join("sparse").metadata().unwrap();
        assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
        assert_eq!(fs::read(to.join("sparse")).unwrap()[64 << 20..], *b"far");
        let place = |p: PathBuf| Place::of(&fs::metadata(p).unwrap());
        let (was, is) = (place(from.join("a/file")), place(to.join("a/file")));
        assert!(moved.contains(&Moved { from: [was.0, was.1], to: [is.0, is.1] }));
        assert_eq!(moved.len(), 5);
    }

    #[test]
    fn names_that_go_meanwhile_are_still_copied() {
        let dirs = Dirs::new();
        fs::write(dirs.from().join("x"), b"content").unwrap();
        dirs.copy(|_| {
            fs::remove_file(dirs.from().join("x")).unwrap();
            fs::write(dirs.from().join("new"), b"new").unwrap();
            Vec::new()
        });
        assert_eq!(fs::read(dirs.to().join("x")).unwrap(), b"content");
        assert!(!dirs.to().join("new").exists());
    }

    #[test]
    fn what_was_there_before_is_replaced_at_the_end_and_not_earlier() {
        let dirs = Dirs::new();
        let from = dirs.from();
        fs::create_dir(from.join("a")).unwrap();
        fs::write(from.join("a/file"), b"new").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o711)).unwrap();
        archive::set_times(&from, (TimeSpec::new(5, 6), TimeSpec::new(1_000_000_000, 7))).unwrap();
        let (mut trees, content) = Content::list(std::slice::from_ref(&from)).unwrap();
        let to = dirs.to();
        trees[0].path = OsText(to.clone().into());
        fs::create_dir(to.join("a")).unwrap();
        fs::write(to.join("a/old"), b"old").unwrap();
        fs::write(to.join("file"), b"old").unwrap();
        // One that is given up ...
        let mut making = Making::default();
        making.replace(&trees[0]).unwrap();
        drop(making);
        assert_eq!(fs::read(to.join("file")).unwrap(), b"old");
        leave_unfinished(&to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
        // ... one that is given up too late ...
        fs::create_dir(to.join(TAKES_OVER)).unwrap();
        assert!(leave_unfinished(&to).unwrap_err().to_string().contains("the other host"));
        // ... and one that comes to its end.
        let mut making = Making::default();
        making.replace(&trees[0]).unwrap();
        content.read(&mut |id, offset, bytes| making.content(id, offset, bytes).map_err(system)).unwrap();
        let moved = making.finish().unwrap();
        for name in ["", "a", "a/file"] {
            is_same(&from.join(name), &to.join(name));
            let place = |dir: &Path| Place::of(&fs::metadata(dir.join(name)).unwrap());
            let (was, is) = (place(&from), place(&to));
            assert!(moved.contains(&Moved { from: [was.0, was.1], to: [is.0, is.1] }), "{name}");
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        assert_eq!(fs::read(to.join("a/file")).unwrap(), b"new");
        leave_unfinished(&to).unwrap();
    }

    #[test]
    fn nothing_is_made_outside() {
        let dirs = Dirs::new();
        let (mut trees, _) = Content::list(&[dirs.from()]).unwrap();
        let mut node = trees[0].nodes[0].clone();
        node.name = OsText("../x".into());
        trees[0].nodes.push(node);
        assert!(Making::default().add(&trees[0], &dirs.to()).is_err());
        assert!(!dirs.0.path().join("x").exists());
    }

    #[derive(Clone, Debug)]
    enum Change {
        Write { at: u64, len: u64, with: u8 },
        Cut { to: u64 },
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let write = (0u64..20_000, 1u64..9_000, 1u8..).prop_map(|(at, len, with)| Change::Write { at, len, with });
        let cut = (0u64..25_000).prop_map(|to| Change::Cut { to });
        prop::collection::vec(prop_oneof![3 => write, 1 => cut], 0..20)
    }

    /// As the shim tells it.
    fn change(file: &File, c: &Change) -> Replaced {
        let m = file.metadata().unwrap();
        let (from, len) = match c {
            Change::Write { at, len, .. } => (*at, *len),
            Change::Cut { to } => (*to, u64::MAX),
        };
        let (offset, end) = (from.min(m.len()), from.saturating_add(len).min(m.len()));
        let mut bytes = vec![0; (end - offset) as usize];
        file.read_exact_at(&mut bytes, offset).unwrap();
        match c {
            Change::Write { at, len, with } => file.write_all_at(&vec![*with; *len as usize], *at).unwrap(),
            Change::Cut { to } => file.set_len(*to).unwrap(),
        }
        Replaced { on: Place::of(&m), size: m.len(), offset, bytes }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Whatever is changed before content is read, and after.
        #[test]
        fn content_is_that_of_the_listing(before in changes(), early in changes(), late in changes()) {
            let dirs = Dirs::new();
            let path = dirs.from().join("file");
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            before.iter().for_each(|c| _ = change(&file, c));
            let want = fs::read(&path).unwrap();
            let (trees, content) = Content::list(&[dirs.from()]).unwrap();
            let mut told: Vec<_> = early.iter().map(|c| change(&file, c)).collect();
            let mut making = Making::default();
            making.add(&trees[0], &dirs.to()).unwrap();
            content.read(&mut |id, offset, bytes| making.content(id, offset, bytes).map_err(system)).unwrap();
            told.extend(late.iter().map(|c| change(&file, c)));
            for r in told {
                making.replaced(content.id(r.on).unwrap(), r.size, r.offset, r.bytes).unwrap();
            }
            making.finish().unwrap();
            prop_assert!(fs::read(dirs.to().join("file")).unwrap() == want);
        }
    }
}
