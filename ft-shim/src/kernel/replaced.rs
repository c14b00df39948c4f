//! Changes of files while the engine copies them: before one of content it is told what was there, one of names waits until
//! the engine has looked at them.

use super::fds::Object;
use super::{Args, Kernel};
use crate::raw::{EBADF, nr};
use crate::user;
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ft_log::entry::{Act, PAYLOAD_BYTES_MAX};
use ft_log::shared::files;

const AT_FDCWD: u64 = -100i64 as u64;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;
const O_NONBLOCK_CLOEXEC: u64 = 0o200_4000;
const O_APPEND: i64 = 0o2000;
const F_GETFL: u64 = 3;
const S_IFMT: u64 = 0o170_000;
const S_IFREG: u64 = 0o100_000;
const TO_THE_END: u64 = u64::MAX;

/// What of a file a call replaces, from `from` on; nothing beyond the file's end.
struct Range {
    from: u64,
    len: u64,
}

/// What a call does to files.
enum Change {
    Nothing,
    /// Names, or what belongs to them: owners, modes, attributes.
    Names,
    Content(u64, Range),
    /// By its path, as openat takes it; `names`: it may make a new one.
    ContentAt { dirfd: u64, path: u64, range: Range, names: bool },
    /// From now on through memory.
    Memory,
}

impl Kernel {
    /// To be called before call `number` while the engine may be copying files.
    pub fn tell_change(&mut self, number: u32, a: &Args) {
        if self.inputs.header().files.load(Ordering::Acquire) == files::FREE {
            self.tells_changes = false;
            return;
        }
        match self.change(number, a) {
            Change::Nothing => {}
            Change::Names => self.await_listing(),
            Change::Content(fd, range) => self.tell_content(fd, &range),
            Change::ContentAt { dirfd, path, range, names } => {
                if names {
                    self.await_listing();
                }
                self.tell_content_at(dirfd, path, &range);
            }
            Change::Memory => self.untold("the server maps a file to write to it through memory"),
        }
    }

    fn await_listing(&mut self) {
        let word = &self.inputs.header().files;
        self.inputs.wait_while(word, files::LISTED);
    }

    fn untold(&mut self, why: &str) {
        self.inputs.tell(Act::Untold { text: why.as_bytes() });
    }

    fn is_file(&self, fd: u64) -> bool {
        self.fds.get(fd).is_some_and(|d| matches!(self.fds.at(d).object, Object::File(_)))
    }

    /// A bad pointer changes nothing: the call itself will find it.
    fn change(&self, number: u32, a: &Args) -> Change {
        let vector = |at: u64, n: u64| user::iovecs(at, n as usize).map_or(0, |v| user::total(&v) as u64);
        let content = |fd: u64, range: Option<Range>| match range {
            Some(r) if self.is_file(fd) => Change::Content(fd, r),
            _ => Change::Nothing,
        };
        let here = |fd: u64, len: u64| content(fd, position(fd).map(|from| Range { from, len }));
        let there = |fd: u64, from: u64, len: u64| content(fd, Some(Range { from, len }));
        let opened = |dirfd: u64, path: u64, flags: u64| {
            let names = flags & O_CREAT != 0;
            match flags & O_TRUNC {
                0 if names => Change::Names,
                0 => Change::Nothing,
                _ => Change::ContentAt { dirfd, path, range: Range { from: 0, len: TO_THE_END }, names },
            }
        };
        match number {
            // write writev sendfile: where the file stands
            1 => here(a[0], a[2]),
            20 if self.is_file(a[0]) => here(a[0], vector(a[1], a[2])),
            40 => here(a[0], a[3]),
            // pwrite64 pwritev pwritev2
            18 => there(a[0], a[3], a[2]),
            328 if a[3] as i64 == -1 && self.is_file(a[0]) => here(a[0], vector(a[1], a[2])),
            296 | 328 if self.is_file(a[0]) => there(a[0], a[3], vector(a[1], a[2])),
            // copy_file_range
            326 if a[3] == 0 => here(a[2], a[4]),
            326 => match user::read::<u64>(a[3]) {
                Ok(from) => there(a[2], from, a[4]),
                Err(_) => Change::Nothing,
            },
            // ftruncate truncate
            77 => there(a[0], a[1], TO_THE_END),
            76 => {
                let range = Range { from: a[1], len: TO_THE_END };
                Change::ContentAt { dirfd: AT_FDCWD, path: a[0], range, names: false }
            }
            // fallocate: a hole or zeros, all from there on moved, or only longer
            285 => match a[1] {
                mode if mode & 0x12 != 0 => there(a[0], a[2], a[3]),
                mode if mode & 0x28 != 0 => there(a[0], a[2], TO_THE_END),
                _ => there(a[0], TO_THE_END, 0),
            },
            // open creat openat
            2 => opened(AT_FDCWD, a[0], a[1]),
            85 => opened(AT_FDCWD, a[0], O_CREAT | O_TRUNC),
            257 => opened(a[0], a[1], a[2]),
            // mmap mprotect
            9 if writes_to_file(a) => Change::Memory,
            10 if a[2] & 2 != 0 && self.memory.is_shared(a[0], a[1]) => Change::Memory,
            // rename mkdir rmdir link unlink symlink chmod fchmod chown fchown lchown utime mknod
            82..=84 | 86..=88 | 90..=94 | 132 | 133
            // setxattr and removexattr of all kinds, utimes
            | 188..=190 | 197..=199 | 235
            // mkdirat mknodat fchownat futimesat unlinkat renameat linkat symlinkat fchmodat utimensat renameat2 fchmodat2
            | 258..=261 | 263..=266 | 268 | 280 | 316 | 452 => Change::Names,
            _ => Change::Nothing,
        }
    }

    fn tell_content_at(&mut self, dirfd: u64, path: u64, range: &Range) {
        let mut s = [0u64; 18];
        // SAFETY: fills one stat structure of 144 bytes.
        let r = unsafe { raw!(nr::NEWFSTATAT, dirfd, path, s.as_mut_ptr() as u64, 0) };
        if r < 0 || !is_regular(&s) {
            return;
        }
        // SAFETY: opens a regular file; the number is free again before the guest goes on.
        let fd = unsafe { raw!(nr::OPENAT, dirfd, path, O_NONBLOCK_CLOEXEC, 0) };
        if fd < 0 {
            return self.untold("a file that the server changes can't be read");
        }
        self.tell_content(fd as u64, range);
        // SAFETY: opened above.
        unsafe { raw!(nr::CLOSE, fd) };
    }

    /// Also where nothing is replaced: how long the file was.
    fn tell_content(&mut self, fd: u64, range: &Range) {
        let mut s = [0u64; 18];
        // SAFETY: fills one stat structure of 144 bytes.
        let r = unsafe { raw!(nr::FSTAT, fd, s.as_mut_ptr() as u64) };
        if r < 0 || !is_regular(&s) {
            return;
        }
        let (device, inode, size) = (s[0], s[1], s[6]);
        let mut at = range.from.min(size);
        let end = range.from.saturating_add(range.len).min(size);
        if at >= end {
            return self.inputs.tell(Act::Replaced { device, inode, size, offset: at, bytes: &[] });
        }
        let mut part: Vec<u8> = alloc::vec![0; PAYLOAD_BYTES_MAX.min((end - at) as usize)];
        let mut reads = fd;
        while at < end {
            let want = part.len().min((end - at) as usize);
            // SAFETY: fills at most the length of `part`.
            let n = unsafe { raw!(nr::PREAD64, reads, part.as_mut_ptr() as u64, want, at) };
            if n == -EBADF && reads == fd {
                // It is open for writing only.
                let path = format!("/proc/self/fd/{fd}\0");
                // SAFETY: reads the path; the number is free again before the guest goes on.
                let again = unsafe { raw!(nr::OPEN, path.as_ptr() as u64, O_NONBLOCK_CLOEXEC) };
                if again >= 0 {
                    reads = again as u64;
                    continue;
                }
            }
            if n <= 0 {
                self.untold("a file that the server changes can't be read");
                break;
            }
            self.inputs.tell(Act::Replaced { device, inode, size, offset: at, bytes: &part[..n as usize] });
            at += n as u64;
        }
        if reads != fd {
            // SAFETY: opened above.
            unsafe { raw!(nr::CLOSE, reads) };
        }
    }
}

fn is_regular(stat: &[u64; 18]) -> bool {
    stat[3] & S_IFMT == S_IFREG
}

/// Where a write begins that doesn't say so. At the end of a file that is only added to nothing is replaced.
fn position(fd: u64) -> Option<u64> {
    // SAFETY: asks for flags and the position of a descriptor.
    let (flags, at) = unsafe { (raw!(nr::FCNTL, fd, F_GETFL), raw!(nr::LSEEK, fd, 0, 1)) };
    if flags >= 0 && flags & O_APPEND != 0 {
        return Some(TO_THE_END);
    }
    u64::try_from(at).ok()
}

/// Whether a mapping changes its file.
fn writes_to_file(mmap: &Args) -> bool {
    const SHARED: u64 = 1;
    const ANONYMOUS: u64 = 0x20;
    const WRITE: u64 = 2;
    mmap[2] & WRITE != 0 && mmap[3] & SHARED != 0 && mmap[3] & ANONYMOUS == 0
}
