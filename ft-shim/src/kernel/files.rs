//! Files, directories, and what of the file system differs between hosts.
//!
//! The guest's files are real and executed on both hosts. What is of the host (/proc, /sys, random devices) is
//! recorded: the primary looks, the backup takes the primary's view from the log. Inode and device numbers, times and
//! block counts are recorded too, and a backup remembers which of its own they stand for: what the guest has seen
//! stays what it was when the host changes.

use super::fds::{DescId, O_CLOEXEC, Object};
use super::{Args, Kernel, Reply, both, done};
use crate::raw::{self, EACCES, EBADF, EFAULT, EINVAL, ENOENT, ENOTDIR, ENXIO, ESPIPE, nr};
use crate::user;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ft_log::codec::{Reader, Writer};
use ft_log::shared::moved::Moved;

const AT_FDCWD: i32 = -100;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const O_ACCMODE: u32 = 3;
const O_DIRECTORY: u32 = 0o20_0000;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const SEEK_SET: u32 = 0;
const SEEK_CUR: u32 = 1;
/// Every file's, as the guest sees it.
const DEVICE: u64 = 0x801;
/// Longest content of a recorded file.
const RECORDED_BYTES_MAX: usize = 8 << 20;

pub struct File {
    listing: Option<Listing>,
    /// Opened with O_PATH: a name, nothing to read or poll.
    pub path_only: bool,
    /// When the process was copied last.
    place: Place,
}

/// What the kernel keeps of an open file that a copy shares with the original, and the original goes on changing.
#[derive(Clone, Copy, Default)]
struct Place {
    position: i64,
    flags: i64,
}

/// A directory as it was when reading it began.
struct Listing {
    entries: Vec<Entry>,
    at: usize,
}

struct Entry {
    name: Vec<u8>,
    kind: u8,
    ino: u64,
}

/// A file of the host. The descriptor is a placeholder; the path is looked at when content is needed.
pub struct Recorded {
    path: Vec<u8>,
    content: Content,
    listing: Option<Listing>,
}

enum Content {
    /// Not looked at since the last rewind.
    Unread,
    Bytes { bytes: Vec<u8>, at: usize },
    /// Never ends.
    Random,
    /// /proc/.../comm of one of the guest's own threads: its id, and how much was read.
    ThreadName { tid: i32, at: usize },
}

#[derive(Default)]
pub struct Files {
    /// Real (dev, ino) to the number the guest sees, and back.
    inodes: BTreeMap<(u64, u64), u64>,
    real: BTreeMap<u64, (u64, u64)>,
    last_inode: u64,
    /// By the number the guest sees: what another host's disk had to say of a file, and ours at that time.
    aliases: BTreeMap<u64, Alias>,
}

/// Words of a stat structure that no two disks have alike.
struct Alias {
    seen: [u64; UNLIKE_WORDS],
    own: [u64; UNLIKE_WORDS],
}

/// Blocks, and the times of access, modification and change of two words each.
const UNLIKE_WORDS: usize = 7;
const UNLIKE: core::ops::Range<usize> = 8..8 + UNLIKE_WORDS;
const UNLIKE_PARTS: [core::ops::Range<usize>; 4] = [0..1, 1..3, 3..5, 5..7];

impl Files {
    /// The disk is another one: what was there under other numbers is known by its own now. What else the guest has seen is
    /// forgotten, and its numbers stay taken.
    pub fn change_disk(&mut self, moved: &[Moved]) {
        let before = core::mem::replace(self, Self { last_inode: self.last_inode, ..Self::default() });
        for Moved { from, to } in moved {
            if let Some(n) = before.inodes.get(&(from[0], from[1])) {
                self.inodes.insert((to[0], to[1]), *n);
                self.real.insert(*n, (to[0], to[1]));
            }
        }
    }
}

impl Alias {
    /// What of the file didn't change since is as it was seen.
    fn apply(&self, now: &mut [u64; UNLIKE_WORDS]) {
        for part in UNLIKE_PARTS {
            if now[part.clone()] == self.own[part.clone()] {
                now[part.clone()].copy_from_slice(&self.seen[part]);
            }
        }
    }
}

impl File {
    fn new(path_only: bool) -> Self {
        Self { listing: None, path_only, place: Place::default() }
    }

    pub fn other() -> Self {
        Self::new(false)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Equal on both hosts.
    Own,
    /// Of the host.
    Host,
    Random,
}

fn whose(path: &[u8]) -> Whose {
    let under = |dir: &[u8]| path.starts_with(dir) && (path.len() == dir.len() || path[dir.len()] == b'/');
    match path {
        b"/dev/random" | b"/dev/urandom" => Whose::Random,
        _ if under(b"/proc") || under(b"/sys") => Whose::Host,
        _ => Whose::Own,
    }
}

impl Kernel {
    fn places(&mut self, mut f: impl FnMut(i32, &mut Place)) {
        let open: Vec<_> = self.open_fds().collect();
        for (fd, d) in open {
            if let Object::File(file) = &mut self.fds.at_mut(d).object {
                f(fd, &mut file.place);
            }
        }
    }

    /// Before the process is copied.
    pub fn note_places(&mut self) {
        self.places(|fd, place| {
            // SAFETY: asks for flags and the position of a descriptor.
            let (flags, position) = unsafe { (raw!(nr::FCNTL, fd, F_GETFL), raw!(nr::LSEEK, fd, 0, SEEK_CUR)) };
            *place = Place { position, flags };
        });
    }

    /// In a process that was made of a copy, whose files are opened and nothing else.
    pub fn return_to_places(&mut self) {
        self.places(|fd, place| {
            // What has no position says so both times.
            // SAFETY: sets flags and the position of a descriptor of the guest.
            unsafe {
                raw!(nr::LSEEK, fd, place.position.max(0), SEEK_SET);
                raw!(nr::FCNTL, fd, F_SETFL, place.flags);
            }
        });
    }

    /// The path as it is judged: relative paths below a recorded directory are the host's too.
    fn judged(&self, dirfd: u64, path: &[u8]) -> Vec<u8> {
        if !path.starts_with(b"/") {
            if let Some(Object::Recorded(r)) = self.fds.get(dirfd).map(|d| &self.fds.at(d).object) {
                let mut full = r.path.clone();
                full.push(b'/');
                full.extend_from_slice(path);
                return full;
            }
        }
        self.translated(path)
    }

    /// `/proc/PID` of the guest's own pid means itself, `/proc/self/task/TID` of its own threads the one that the
    /// host knows.
    fn translated(&self, path: &[u8]) -> Vec<u8> {
        let Some((id, rest)) = path.strip_prefix(b"/proc/").map(first_component) else { return path.to_vec() };
        let tail = match id {
            b"self" => rest,
            b"thread-self" => return [b"/proc/self", rest].concat(),
            _ if number(id) == Some(self.process.pid) => rest,
            _ => return path.to_vec(),
        };
        match self.own_task(tail) {
            Some((_, rest)) => [b"/proc/self", rest].concat(),
            None => [b"/proc/self", tail].concat(),
        }
    }

    /// `/task/TID/rest` with a thread of the guest: its id and the rest.
    fn own_task<'a>(&self, tail: &'a [u8]) -> Option<(i32, &'a [u8])> {
        let (tid, rest) = first_component(tail.strip_prefix(b"/task/")?);
        let tid = number(tid).filter(|&t| self.threads.by_tid(t).is_some())?;
        Some((tid, rest))
    }

    /// The guest thread whose name is at `path`, if there is one.
    fn names_thread(&self, path: &[u8]) -> Option<i32> {
        let (id, rest) = first_component(path.strip_prefix(b"/proc/")?);
        let tail = match id {
            b"thread-self" if rest == b"/comm" => return Some(self.threads.at(self.threads.current).tid),
            b"self" => rest,
            _ if number(id) == Some(self.process.pid) => rest,
            _ => return None,
        };
        if tail == b"/comm" {
            return Some(self.process.pid);
        }
        self.own_task(tail).filter(|(_, rest)| *rest == b"/comm").map(|(tid, _)| tid)
    }

    /// What the guest reads as the name of thread `tid`.
    fn thread_name_line(&self, tid: i32) -> Result<Vec<u8>, i64> {
        let t = self.threads.by_tid(tid).ok_or(raw::ESRCH)?;
        let name = &self.threads.at(t).name;
        let mut line = name[..name.iter().position(|&c| c == 0).unwrap_or(name.len())].to_vec();
        line.push(b'\n');
        Ok(line)
    }

    /// A write to a recorded file: only names of threads are taken.
    pub fn recorded_write(&mut self, d: DescId, bytes: &[u8]) -> Result<usize, i64> {
        let Content::ThreadName { tid, .. } = self.recorded_mut(d)?.content else { return Err(EBADF) };
        let t = self.threads.by_tid(tid).ok_or(raw::ESRCH)?;
        let end = bytes.iter().position(|&c| c == 0).unwrap_or(bytes.len());
        self.threads.at_mut(t).set_name(&bytes[..end]);
        Ok(bytes.len())
    }

    /// Records a result and bytes of any length.
    pub fn recorded_call(&mut self, call: u16, f: impl FnOnce(&mut Kernel) -> (i64, Vec<u8>)) -> (i64, Vec<u8>) {
        let all = self.record(call, |k| {
            let (r, bytes) = f(k);
            let mut out = r.to_le_bytes().to_vec();
            out.extend_from_slice(&bytes);
            out
        });
        let r = i64::from_le_bytes(all[..8].try_into().expect("8 bytes"));
        (r, all[8..].to_vec())
    }

    fn inode(&mut self, dev: u64, ino: u64) -> u64 {
        if let Some(n) = self.files.inodes.get(&(dev, ino)) {
            return *n;
        }
        let n = self.files.last_inode + 1;
        self.learn_inode(dev, ino, n);
        n
    }

    /// The backup learns what the primary calls its own inode.
    fn learn_inode(&mut self, dev: u64, ino: u64, seen_as: u64) {
        let f = &mut self.files;
        f.last_inode = f.last_inode.max(seen_as);
        match f.inodes.insert((dev, ino), seen_as) {
            Some(same) if same == seen_as => return,
            Some(other) => _ = f.real.remove(&other),
            None => {}
        }
        // The primary's disk gave the number of a removed file to a new one, ours another.
        if let Some(old) = f.real.insert(seen_as, (dev, ino)) {
            f.inodes.remove(&old);
        }
    }

    /// The backup learns what the guest sees for words that differ here.
    fn learn_alias(&mut self, seen: &[u64; 18], own: &[u64; 18]) {
        let words = |s: &[u64; 18]| -> [u64; UNLIKE_WORDS] { s[UNLIKE].try_into().expect("as many") };
        let alias = Alias { seen: words(seen), own: words(own) };
        if alias.seen == alias.own {
            self.files.aliases.remove(&seen[1]);
        } else {
            self.files.aliases.insert(seen[1], alias);
        }
    }

    /// An own file's stat structure as the guest is to see it.
    fn seen(&mut self, mut own: [u64; 18]) -> [u64; 18] {
        own[1] = self.inode(own[0], own[1]);
        own[0] = DEVICE;
        if let Some(alias) = self.files.aliases.get(&own[1]) {
            alias.apply((&mut own[UNLIKE]).try_into().expect("as many"));
        }
        own
    }

    fn recorded_mut(&mut self, d: DescId) -> Result<&mut Recorded, i64> {
        match &mut self.fds.at_mut(d).object {
            Object::Recorded(r) => Ok(r),
            _ => Err(EBADF),
        }
    }

    /// The content since the last rewind; looked at now if it wasn't yet.
    fn recorded_content(&mut self, d: DescId) -> Result<(), i64> {
        let r = self.recorded_mut(d)?;
        if !matches!(r.content, Content::Unread) {
            return Ok(());
        }
        let path = r.path.clone();
        let (e, bytes) = self.recorded_call(nr::READ as u16, |_| read_host_file(&path));
        if e < 0 {
            return Err(-e);
        }
        self.recorded_mut(d)?.content = Content::Bytes { bytes, at: 0 };
        Ok(())
    }

    pub fn recorded_read(&mut self, d: DescId, max: usize) -> Result<Vec<u8>, i64> {
        match self.recorded_mut(d)?.content {
            Content::Random => return Ok(self.random_bytes(max)),
            Content::ThreadName { tid, at } => {
                let line = self.thread_name_line(tid)?;
                let from = at.min(line.len());
                let to = (from + max).min(line.len());
                self.recorded_mut(d)?.content = Content::ThreadName { tid, at: to };
                return Ok(line[from..to].to_vec());
            }
            Content::Unread | Content::Bytes { .. } => {}
        }
        self.recorded_content(d)?;
        let Content::Bytes { bytes, at } = &mut self.recorded_mut(d)?.content else { return Err(EBADF) };
        let n = bytes.len().saturating_sub(*at).min(max);
        let out = bytes[(*at).min(bytes.len())..][..n].to_vec();
        *at += n;
        Ok(out)
    }

    pub fn recorded_read_at(&mut self, d: DescId, max: usize, offset: u64) -> Result<Vec<u8>, i64> {
        match self.recorded_mut(d)?.content {
            Content::Random => return Ok(self.random_bytes(max)),
            Content::ThreadName { tid, .. } => {
                let line = self.thread_name_line(tid)?;
                let from = (offset as usize).min(line.len());
                return Ok(line[from..(from + max).min(line.len())].to_vec());
            }
            Content::Unread | Content::Bytes { .. } => {}
        }
        if offset == 0 {
            self.recorded_mut(d)?.content = Content::Unread;
        }
        self.recorded_content(d)?;
        let Content::Bytes { bytes, .. } = &self.recorded_mut(d)?.content else { return Err(EBADF) };
        let from = (offset as usize).min(bytes.len());
        Ok(bytes[from..(from + max).min(bytes.len())].to_vec())
    }

    /// Random bytes of the host's, fewer than `max` if those are many.
    pub fn random_bytes(&mut self, max: usize) -> Vec<u8> {
        const RANDOM_BYTES_MAX: usize = 32 * 1024;
        let n = max.min(RANDOM_BYTES_MAX);
        self.recorded_call(318, |_| {
            let mut b = alloc::vec![0u8; n];
            // SAFETY: fills `n` bytes of `b`; urandom never gives less once it is seeded.
            let r = unsafe { raw!(318, b.as_mut_ptr() as u64, n, 0) };
            assert!(r == n as i64, "getrandom");
            (r, b)
        })
        .1
    }
}

/// A path's first component, and what follows, which is empty or begins with '/'.
fn first_component(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().position(|&c| c == b'/').unwrap_or(path.len()))
}

/// A process or thread id in decimal.
fn number(text: &[u8]) -> Option<i32> {
    core::str::from_utf8(text).ok()?.parse().ok().filter(|&n| n > 0)
}

fn terminated(path: &[u8]) -> Vec<u8> {
    let mut p = path.to_vec();
    p.push(0);
    p
}

fn open_host(path: &[u8], flags: u32) -> i64 {
    // Above the guest's descriptors would need a second call; the number is free again before the guest goes on.
    let path = terminated(path);
    // SAFETY: reads the path.
    unsafe { raw!(nr::OPEN, path.as_ptr() as u64, flags | O_CLOEXEC) }
}

fn close_host(fd: i64) {
    // SAFETY: a descriptor that we have just opened.
    unsafe { raw!(nr::CLOSE, fd) };
}

fn read_host_file(path: &[u8]) -> (i64, Vec<u8>) {
    let fd = open_host(path, 0);
    if fd < 0 {
        return (fd, Vec::new());
    }
    let mut bytes = Vec::new();
    let mut part = alloc::vec![0u8; 64 * 1024];
    let r = loop {
        // SAFETY: fills at most the length of `part`.
        let n = unsafe { raw!(nr::READ, fd, part.as_mut_ptr() as u64, part.len()) };
        if n <= 0 || bytes.len() >= RECORDED_BYTES_MAX {
            break n.min(0);
        }
        bytes.extend_from_slice(&part[..n as usize]);
    };
    close_host(fd);
    (r, bytes)
}

pub fn open(k: &mut Kernel, a: &Args) -> Reply {
    openat(k, &[AT_FDCWD as u64, a[0], a[1], a[2], 0, 0])
}

pub fn creat(k: &mut Kernel, a: &Args) -> Reply {
    const O_CREAT_WRONLY_TRUNC: u64 = 0o100 | 1 | 0o1000;
    openat(k, &[AT_FDCWD as u64, a[0], O_CREAT_WRONLY_TRUNC, a[1], 0, 0])
}

pub fn openat(k: &mut Kernel, a: &Args) -> Reply {
    let path = user::string(a[1])?;
    let flags = a[2] as u32;
    if let Some(tid) = k.names_thread(&path) {
        let r = Recorded { path, content: Content::ThreadName { tid, at: 0 }, listing: None };
        return k.install(Object::Recorded(r), flags & (O_CLOEXEC | O_ACCMODE));
    }
    let judged = k.judged(a[0], &path);
    match whose(&judged) {
        Whose::Own => {}
        Whose::Random => {
            let r = Recorded { path: judged, content: Content::Random, listing: None };
            return k.install(Object::Recorded(r), flags & O_CLOEXEC);
        }
        Whose::Host => return open_recorded(k, judged, flags),
    }
    if judged.starts_with(b"/dev/fd/") || matches!(&judged[..], b"/dev/stdin" | b"/dev/stdout" | b"/dev/stderr") {
        k.refuse("opening a descriptor by path", "use the descriptor itself");
        return Err(ENOENT);
    }
    match file_kind(a[0], a[1]) {
        None | Some((S_IFREG | S_IFDIR | S_IFLNK, _)) => {}
        // null zero full
        Some((S_IFCHR, 0x103 | 0x105 | 0x107)) => {}
        Some(_) => {
            k.refuse("opening a device, fifo or socket file", "what comes out of it can't be seen alike by both hosts");
            return Err(ENXIO);
        }
    }
    const OPENAT: usize = nr::OPENAT;
    // SAFETY: opens a file for the guest.
    let fd = unsafe { raw!(OPENAT, a[0], a[1], a[2], a[3]) };
    if fd < 0 {
        k.look_at_disk(fd);
        return Err(-fd);
    }
    const O_PATH: u32 = 0o1000_0000;
    k.adopt(fd as i32, Object::File(File::new(flags & O_PATH != 0)), flags & O_CLOEXEC);
    done(fd)
}

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFSOCK: u32 = 0o140_000;

/// Type and device number of what is there, if anything is.
fn file_kind(dirfd: u64, path: u64) -> Option<(u32, u64)> {
    let mut s = [0u64; 18];
    // SAFETY: fills one stat structure of 144 bytes.
    let r = unsafe { raw!(nr::NEWFSTATAT, dirfd, path, s.as_mut_ptr() as u64, 0) };
    (r == 0).then(|| (s[3] as u32 & S_IFMT, s[5]))
}

fn open_recorded(k: &mut Kernel, path: Vec<u8>, flags: u32) -> Reply {
    if flags & O_ACCMODE != 0 {
        k.refuse("writing to /proc or /sys", "it would change one host only");
        return Err(EACCES);
    }
    let (r, _) = k.recorded_call(nr::OPENAT as u16, |_| {
        let fd = open_host(&path, flags & (O_DIRECTORY | 0o40_0000));
        if fd >= 0 {
            close_host(fd);
        }
        (fd.min(0), Vec::new())
    });
    if r < 0 {
        return Err(-r);
    }
    let o = Recorded { path, content: Content::Unread, listing: None };
    k.install(Object::Recorded(o), flags & O_CLOEXEC)
}

pub fn memfd_create(k: &mut Kernel, a: &Args) -> Reply {
    const CLOEXEC: u64 = 1;
    const HUGETLB: u64 = 4;
    if a[1] & HUGETLB != 0 {
        return Err(EINVAL);
    }
    // SAFETY: makes a file in memory.
    let fd = unsafe { raw!(319, a[0], a[1]) };
    if fd < 0 {
        return Err(-fd);
    }
    k.adopt(fd as i32, Object::File(File::other()), if a[1] & CLOEXEC != 0 { O_CLOEXEC } else { 0 });
    done(fd)
}

pub fn lseek(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    match &mut k.fds.at_mut(d).object {
        Object::File(File { listing: Some(_), .. }) => seek_listing(k, d, a),
        Object::File(_) => both::run(k, nr::LSEEK as u32, a),
        Object::Recorded(r) if r.listing.is_some() => seek_listing(k, d, a),
        Object::Recorded(_) => {
            if a[2] == 0 && a[1] == 0 {
                let content = &mut k.recorded_mut(d)?.content;
                match content {
                    Content::ThreadName { at, .. } => *at = 0,
                    Content::Random => {}
                    Content::Unread | Content::Bytes { .. } => *content = Content::Unread,
                }
                return done(0);
            }
            k.recorded_content(d)?;
            let Content::Bytes { bytes, at } = &mut k.recorded_mut(d)?.content else { return done(0) };
            let base = match a[2] {
                0 => 0,
                1 => *at as i64,
                2 => bytes.len() as i64,
                _ => return Err(EINVAL),
            };
            let to = base.checked_add(a[1] as i64).filter(|&t| t >= 0).ok_or(EINVAL)?;
            *at = to as usize;
            done(to)
        }
        Object::Epoll(_) | Object::EventFd(_) | Object::TimerFd(_) | Object::SignalFd(_) => done(0),
        _ => Err(ESPIPE),
    }
}

fn listing_mut(k: &mut Kernel, d: DescId) -> Option<&mut Option<Listing>> {
    match &mut k.fds.at_mut(d).object {
        Object::File(f) => Some(&mut f.listing),
        Object::Recorded(r) => Some(&mut r.listing),
        _ => None,
    }
}

fn seek_listing(k: &mut Kernel, d: DescId, a: &Args) -> Reply {
    let slot = listing_mut(k, d).ok_or(ENOTDIR)?;
    let Some(l) = slot else { return Err(EINVAL) };
    let to = match a[2] {
        0 => a[1] as i64,
        1 => l.at as i64 + a[1] as i64,
        _ => return Err(EINVAL),
    };
    if to < 0 {
        return Err(EINVAL);
    }
    if to == 0 {
        *slot = None; // what is read then is the directory as it is then
    } else {
        l.at = to as usize;
    }
    done(to)
}

/// Names, types and inodes of a directory, sorted by name.
fn read_directory(fd: i64) -> Result<Vec<Entry>, i64> {
    let mut entries = Vec::new();
    let mut b = alloc::vec![0u8; 64 * 1024];
    // SAFETY: moves the directory's position, which nothing else uses.
    unsafe { raw!(nr::LSEEK, fd, 0, 0) };
    loop {
        // SAFETY: fills at most the length of `b`.
        let n = unsafe { raw!(nr::GETDENTS64, fd, b.as_mut_ptr() as u64, b.len()) };
        if n < 0 {
            return Err(-n);
        }
        if n == 0 {
            break;
        }
        let mut at = 0;
        while at < n as usize {
            let ino = u64::from_le_bytes(b[at..at + 8].try_into().expect("8 bytes"));
            let len = usize::from(u16::from_le_bytes([b[at + 16], b[at + 17]]));
            let kind = b[at + 18];
            let name = &b[at + 19..at + len];
            let name = name.iter().position(|&c| c == 0).map_or(name, |n| &name[..n]).to_vec();
            entries.push(Entry { name, kind, ino });
            at += len;
        }
    }
    entries.sort_by(|x, y| x.name.cmp(&y.name));
    Ok(entries)
}

impl Kernel {
    fn listing(&mut self, d: DescId, fd: u64) -> Result<Listing, i64> {
        let path = match &self.fds.at(d).object {
            Object::Recorded(r) => Some(r.path.clone()),
            Object::File(_) => None,
            _ => return Err(ENOTDIR),
        };
        let primary = self.inputs.is_primary();
        let (r, bytes) = self.recorded_call(nr::GETDENTS64 as u16, |k| {
            let dir = match &path {
                Some(p) => open_host(p, O_DIRECTORY),
                None => fd as i64,
            };
            if dir < 0 {
                return (dir, Vec::new());
            }
            let dev = stat_of_fd(dir).map_or(0, |s| s[0]);
            let r = read_directory(dir);
            if path.is_some() {
                close_host(dir);
            }
            let entries = match r {
                Ok(e) => e,
                Err(e) => return (-e, Vec::new()),
            };
            let mut out = Vec::new();
            for e in entries {
                let mut head = [0u8; 32];
                let mut w = Writer::new(&mut head);
                w.u8(e.kind);
                w.uint(k.inode(dev, e.ino));
                w.uint(e.name.len() as u64);
                let n = w.len();
                out.extend_from_slice(&head[..n]);
                out.extend_from_slice(&e.name);
            }
            (0, out)
        });
        if r < 0 {
            return Err(-r);
        }
        let mut reader = Reader::new(&bytes);
        let mut entries = Vec::new();
        let mut rest = reader;
        while rest.u8().is_ok() {
            let kind = reader.u8().map_err(|_| EFAULT)?;
            let ino = reader.uint().map_err(|_| EFAULT)?;
            let n = reader.uint().map_err(|_| EFAULT)? as usize;
            let name = reader.take(n).map_err(|_| EFAULT)?.to_vec();
            entries.push(Entry { name, kind, ino });
            rest = reader;
        }
        if !primary {
            self.learn_listing(&entries, path.is_none().then_some(fd as i64));
        }
        Ok(Listing { entries, at: 0 })
    }

    /// The backup learns the inode numbers of a listing. `own`: the directory, if it is on both hosts' disks.
    fn learn_listing(&mut self, seen: &[Entry], own: Option<i64>) {
        if let Some(fd) = own {
            let dev = stat_of_fd(fd).map_or(0, |s| s[0]);
            for e in read_directory(fd).unwrap_or_default() {
                if let Ok(at) = seen.binary_search_by(|s| s.name.cmp(&e.name)) {
                    self.learn_inode(dev, e.ino, seen[at].ino);
                }
            }
        }
        let highest = seen.iter().map(|e| e.ino).max().unwrap_or(0);
        self.files.last_inode = self.files.last_inode.max(highest);
    }
}

pub fn getdents64(k: &mut Kernel, a: &Args) -> Reply {
    list(k, a, |out, e, next| {
        let len = (19 + e.name.len() + 1 + 7) & !7;
        out.extend_from_slice(&e.ino.to_le_bytes());
        out.extend_from_slice(&next.to_le_bytes());
        out.extend_from_slice(&(len as u16).to_le_bytes());
        out.push(e.kind);
        out.extend_from_slice(&e.name);
        out.resize(len, 0);
    })
}

/// The old form: the type comes last.
pub fn getdents(k: &mut Kernel, a: &Args) -> Reply {
    list(k, a, |out, e, next| {
        let len = (18 + e.name.len() + 2 + 7) & !7;
        out.extend_from_slice(&e.ino.to_le_bytes());
        out.extend_from_slice(&next.to_le_bytes());
        out.extend_from_slice(&(len as u16).to_le_bytes());
        out.extend_from_slice(&e.name);
        out.resize(len - 1, 0);
        out.push(e.kind);
    })
}

/// As many entries as fit; `put` appends one to an empty buffer, with the position of the next.
fn list(k: &mut Kernel, a: &Args, put: impl Fn(&mut Vec<u8>, &Entry, u64)) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if listing_mut(k, d).ok_or(ENOTDIR)?.is_none() {
        let l = k.listing(d, a[0])?;
        *listing_mut(k, d).ok_or(ENOTDIR)? = Some(l);
    }
    let Some(Some(l)) = listing_mut(k, d) else { return Err(ENOTDIR) };
    let room = a[2] as usize;
    let mut out = Vec::new();
    let mut at = l.at;
    let mut one = Vec::new();
    while let Some(e) = l.entries.get(at) {
        one.clear();
        put(&mut one, e, at as u64 + 1);
        if out.len() + one.len() > room {
            break;
        }
        out.extend_from_slice(&one);
        at += 1;
    }
    if out.is_empty() && at < l.entries.len() {
        return Err(EINVAL);
    }
    l.at = at;
    user::copy_out(a[1], &out)?;
    done(out.len() as i64)
}

fn stat_of_fd(fd: i64) -> Option<[u64; 18]> {
    let mut s = [0u64; 18];
    // SAFETY: fills one stat structure of 144 bytes.
    let r = unsafe { raw!(nr::FSTAT, fd, s.as_mut_ptr() as u64) };
    (r == 0).then_some(s)
}

/// How an emulated object looks to stat.
fn emulated_mode(o: &Object) -> u32 {
    match o {
        Object::Pipe(_) => S_IFIFO | 0o600,
        Object::Socket(_) | Object::Pair(_) => S_IFSOCK | 0o777,
        Object::Console => S_IFIFO | 0o600,
        _ => 0o600,
    }
}

/// What is asked about: a real path or descriptor of the guest, or a path of the host.
enum Subject {
    Own { dirfd: u64, path: u64, flags: u64 },
    Host { path: Vec<u8>, flags: u64 },
    Emulated(u32),
}

impl Kernel {
    fn stat_subject(&mut self, dirfd: u64, path_at: u64, flags: u64) -> Result<Subject, i64> {
        let path = if path_at == 0 && flags & AT_EMPTY_PATH != 0 { Vec::new() } else { user::string(path_at)? };
        if path.is_empty() {
            if flags & AT_EMPTY_PATH == 0 {
                return Err(ENOENT);
            }
            if dirfd as i32 != AT_FDCWD {
                return self.fd_subject(dirfd);
            }
        }
        let judged = self.judged(dirfd, &path);
        Ok(if whose(&judged) == Whose::Host {
            Subject::Host { path: judged, flags }
        } else {
            Subject::Own { dirfd, path: path_at, flags }
        })
    }

    fn fd_subject(&mut self, fd: u64) -> Result<Subject, i64> {
        let d = self.fds.desc_of(fd)?;
        Ok(match &self.fds.at(d).object {
            Object::File(_) => Subject::Own { dirfd: fd, path: EMPTY.as_ptr() as u64, flags: AT_EMPTY_PATH },
            Object::Recorded(r) => Subject::Host { path: r.path.clone(), flags: 0 },
            o => Subject::Emulated(emulated_mode(o)),
        })
    }

    /// A stat structure of 144 bytes as the guest sees it, equal on both hosts.
    fn stat(&mut self, subject: &Subject) -> Result<[u64; 18], i64> {
        let look = |s: &Subject| -> (i64, [u64; 18]) {
            let mut b = [0u64; 18];
            let at = b.as_mut_ptr() as u64;
            let r = match s {
                // SAFETY: fills one stat structure of 144 bytes.
                Subject::Own { dirfd, path, flags } => unsafe { raw!(nr::NEWFSTATAT, *dirfd, *path, at, *flags) },
                Subject::Host { path, flags } => {
                    let (path, flags) = (terminated(path), flags & AT_SYMLINK_NOFOLLOW);
                    // SAFETY: as above.
                    unsafe { raw!(nr::NEWFSTATAT, AT_FDCWD as i64, path.as_ptr() as u64, at, flags) }
                }
                Subject::Emulated(_) => unreachable!(),
            };
            (r, b)
        };
        if let Subject::Emulated(mode) = subject {
            let mut b = [0u64; 18];
            b[1] = 1;
            b[2] = 1;
            b[3] = u64::from(*mode) | u64::from(super::process::uid()) << 32;
            b[7] = 4096;
            return Ok(b);
        }
        let primary = self.inputs.is_primary();
        let (r, bytes) = self.recorded_call(nr::NEWFSTATAT as u16, |k| {
            let (r, s) = look(subject);
            if r < 0 {
                return (r, Vec::new());
            }
            let s = k.seen(s);
            let mut out = Vec::with_capacity(144);
            s.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
            (0, out)
        });
        let mut s = [0u64; 18];
        for (i, w) in bytes.chunks_exact(8).enumerate() {
            s[i] = u64::from_le_bytes(w.try_into().expect("8 bytes"));
        }
        if !primary {
            if let Subject::Own { .. } = subject {
                let (own_r, own) = look(subject);
                // Same file, or the hosts' disks have gone apart.
                let same = own_r == r && (r < 0 || (own[3] as u32 == s[3] as u32 && same_size(&own, &s)));
                if !same {
                    self.diverged_in_call(format_args!(
                        "stat: the primary saw result {r}, mode {:o}, {} bytes; here it is {own_r}, mode {:o}, {} bytes",
                        s[3] as u32, s[6], own[3] as u32, own[6]
                    ));
                }
                if r == 0 {
                    self.learn_inode(own[0], own[1], s[1]);
                    self.learn_alias(&s, &own);
                }
            }
        }
        if r < 0 { Err(-r) } else { Ok(s) }
    }
}

fn same_size(x: &[u64; 18], y: &[u64; 18]) -> bool {
    x[3] as u32 & S_IFMT != S_IFREG || x[6] == y[6]
}

static EMPTY: [u8; 1] = [0];

fn write_stat(at: u64, s: &[u64; 18]) -> Reply {
    for (i, w) in s.iter().enumerate() {
        user::write(at + i as u64 * 8, w)?;
    }
    done(0)
}

pub fn newfstatat(k: &mut Kernel, a: &Args) -> Reply {
    let s = k.stat_subject(a[0], a[1], a[3])?;
    let s = k.stat(&s)?;
    write_stat(a[2], &s)
}

pub fn stat(k: &mut Kernel, a: &Args) -> Reply {
    newfstatat(k, &[AT_FDCWD as u64, a[0], a[1], 0, 0, 0])
}

pub fn lstat(k: &mut Kernel, a: &Args) -> Reply {
    newfstatat(k, &[AT_FDCWD as u64, a[0], a[1], AT_SYMLINK_NOFOLLOW, 0, 0])
}

pub fn fstat(k: &mut Kernel, a: &Args) -> Reply {
    let s = k.fd_subject(a[0])?;
    let s = k.stat(&s)?;
    write_stat(a[1], &s)
}

pub fn statx(k: &mut Kernel, a: &Args) -> Reply {
    let subject = k.stat_subject(a[0], a[1], a[2] & (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))?;
    let s = k.stat(&subject)?;
    let mut x = [0u64; 32];
    const BASIC_STATS: u64 = 0x7ff;
    x[0] = BASIC_STATS | s[7] << 32; // mask, blksize
    x[2] = (s[2] & 0xffff_ffff) | (s[3] >> 32) << 32; // nlink, uid
    x[3] = (s[4] & 0xffff_ffff) | (s[3] & 0xffff) << 32; // gid, mode
    x[4] = s[1]; // ino
    x[5] = s[6]; // size
    x[6] = s[8]; // blocks
    // stat: atime 9,10 mtime 11,12 ctime 13,14; statx: atime at 0x40, btime, ctime at 0x60, mtime at 0x70
    (x[8], x[9]) = (s[9], s[10]);
    (x[12], x[13]) = (s[13], s[14]);
    (x[14], x[15]) = (s[11], s[12]);
    let (major, minor) = (|d: u64| (d >> 8) & 0xfff, |d: u64| (d & 0xff) | ((d >> 12) & 0xfff00));
    x[16] = major(s[5]) | minor(s[5]) << 32;
    x[17] = major(s[0]) | minor(s[0]) << 32;
    for (i, w) in x.iter().enumerate() {
        user::write(a[4] + i as u64 * 8, w)?;
    }
    done(0)
}

/// access, faccessat, readlink, readlinkat: of an own path executed, of the host's recorded.
pub fn access(k: &mut Kernel, a: &Args) -> Reply {
    at_path(k, a, None, a[0], false)
}

pub fn faccessat(k: &mut Kernel, a: &Args) -> Reply {
    at_path(k, a, Some(a[0]), a[1], false)
}

pub fn readlink(k: &mut Kernel, a: &Args) -> Reply {
    at_path(k, a, None, a[0], true)
}

pub fn readlinkat(k: &mut Kernel, a: &Args) -> Reply {
    at_path(k, a, Some(a[0]), a[1], true)
}

fn at_path(k: &mut Kernel, a: &Args, dirfd: Option<u64>, path_at: u64, link: bool) -> Reply {
    let path = user::string(path_at)?;
    let judged = k.judged(dirfd.unwrap_or(AT_FDCWD as u64), &path);
    if whose(&judged) != Whose::Host {
        return if link { both::text(k, a) } else { both::plain(k, a) };
    }
    let number = k.threads.cur().call.number;
    let shift = usize::from(dirfd.is_some());
    let room = if link { (a[2 + shift] as usize).min(4096) } else { 0 };
    let (r, bytes) = k.recorded_call(number as u16, |_| {
        let p = terminated(&judged);
        let mut b = alloc::vec![0u8; room];
        let mut args = *a;
        args[shift] = p.as_ptr() as u64;
        if link {
            args[1 + shift] = b.as_mut_ptr() as u64;
            args[2 + shift] = room as u64;
        }
        if dirfd.is_some() {
            args[0] = AT_FDCWD as u64;
        }
        // SAFETY: reads the path, fills at most `room` bytes of `b`.
        let r = unsafe { raw::syscall(number as usize, args) };
        b.truncate(r.max(0) as usize);
        (r, b)
    });
    if link && r > 0 {
        user::copy_out(a[1 + shift], &bytes)?;
    }
    done(r)
}
