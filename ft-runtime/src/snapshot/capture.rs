//! From a copy that waits to a snapshot: its registers by ptrace, its memory and descriptors from /proc.

use super::file::{PART_BYTES_MAX, SnapshotWriter};
use super::{Descriptor, Head, Mapping, Object, PAGE, Registers, SnapshotError, is_of_process, shim_sha256};
use crate::guest::maps::{Shown, start_brk};
use crate::guest::tracee;
use crate::logfile::{LogFileError, OsText, hex};
use ft_log::shared::GUEST_FDS_MAX;
use nix::sys::ptrace;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// For a copy to come to where it waits: a few instructions.
const WAITS_MAX: Duration = Duration::from_secs(10);
const WAIT_POLL: Duration = Duration::from_millis(1);

/// Of a snapshot that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    pub mapped_bytes: u64,
    /// What was neither untouched nor zero.
    pub content_bytes: u64,
}

/// Writes the snapshot of a copy that was made at `point`; `seed`: its service's. The copy goes on waiting.
pub fn capture(pid: Pid, seed: u64, point: u64, to: &Path) -> Result<Captured, SnapshotError> {
    let stopped = Stopped::take(pid)?;
    let maps = fs::read_to_string(proc(pid, "maps")).map_err(SnapshotError::system("reading its mappings"))?;
    let areas = maps.lines().map(Area::parse).collect::<Result<Vec<_>, _>>()?;
    let areas: Vec<Area> = areas.into_iter().flatten().collect();
    let (brk_start, brk) = breaks(pid, &maps)?;
    let head = Head {
        shim_sha256: shim_sha256(),
        seed,
        point,
        registers: stopped.registers()?,
        extended: hex(&stopped.extended()?),
        signal_mask: stopped.signal_mask()?,
        brk_start,
        brk,
        mappings: areas.iter().map(|a| a.mapping).collect(),
        descriptors: descriptors(pid)?,
    };
    let failed = |source| LogFileError::Io { path: to.into(), what: "cannot write", source };
    let mut writer = SnapshotWriter::create(to, &head).map_err(failed)?;
    let memory = Memory::open(pid)?;
    let mut captured = Captured::default();
    for area in &areas {
        captured.mapped_bytes += area.mapping.end - area.mapping.start;
        memory.walk(area, &mut |at, pages| {
            captured.content_bytes += pages.len() as u64;
            writer.pages(at, pages).map_err(failed).map_err(SnapshotError::from)
        })?;
    }
    // It may end at any time, with the guest. One that still stands was whole all along.
    stopped.registers()?;
    writer.finish().map_err(failed)?;
    Ok(captured)
}

fn proc(pid: Pid, file: &str) -> String {
    format!("/proc/{pid}/{file}")
}

/// A copy that this thread holds by ptrace; it is let go with the value, to wait on.
struct Stopped(Pid);

impl Stopped {
    fn take(pid: Pid) -> Result<Self, SnapshotError> {
        ptrace::seize(pid, ptrace::Options::empty()).map_err(SnapshotError::system("taking hold of the copy"))?;
        let stopped = Self(pid);
        let end = Instant::now() + WAITS_MAX;
        loop {
            ptrace::interrupt(pid).map_err(SnapshotError::system("stopping the copy"))?;
            match tracee::wait(pid).map_err(SnapshotError::system("waiting for the copy's stop"))? {
                WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => {}
                other => return Err(SnapshotError::Unsupported(format!("the copy ended before it was read ({other:?})"))),
            }
            let registers = ptrace::getregs(pid).map_err(SnapshotError::system("reading registers"))?;
            if registers.orig_rax as i64 == libc::SYS_pause {
                return Ok(stopped);
            }
            // It is still on its way from the fork.
            if Instant::now() > end {
                return Err(SnapshotError::Unsupported(format!("the copy did not come to rest in {WAITS_MAX:?}")));
            }
            ptrace::cont(pid, None).map_err(SnapshotError::system("letting the copy go on"))?;
            thread::sleep(WAIT_POLL);
        }
    }

    fn registers(&self) -> Result<Registers, SnapshotError> {
        Ok(Registers::of(ptrace::getregs(self.0).map_err(SnapshotError::system("reading registers"))?))
    }

    fn extended(&self) -> Result<Vec<u8>, SnapshotError> {
        const BYTES_MAX: usize = 64 << 10;
        let mut bytes = vec![0; BYTES_MAX];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: the kernel writes at most `iov_len` bytes to `bytes` and notes how many; the process is ours and stopped.
        let r = unsafe {
            libc::ptrace(libc::PTRACE_GETREGSET, self.0.as_raw(), tracee::NT_X86_XSTATE, &raw mut part)
        };
        if r != 0 {
            return Err(SnapshotError::system("reading extended registers")(io::Error::last_os_error()));
        }
        bytes.truncate(part.iov_len);
        Ok(bytes)
    }

    fn signal_mask(&self) -> Result<u64, SnapshotError> {
        let mut mask = 0u64;
        // SAFETY: the kernel writes eight bytes, its size of a signal set, to `mask`; the process is ours and stopped.
        let r = unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, self.0.as_raw(), size_of::<u64>(), &raw mut mask) };
        if r != 0 {
            return Err(SnapshotError::system("reading the signal mask")(io::Error::last_os_error()));
        }
        Ok(mask)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = ptrace::detach(self.0, None);
    }
}

/// A mapping as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Area {
    mapping: Mapping,
    /// Its content is a file's where nobody has written.
    of_file: bool,
}

impl Area {
    /// `None`: it is no part of a snapshot.
    fn parse(line: &str) -> Result<Option<Self>, SnapshotError> {
        let strange = || SnapshotError::Unsupported(format!("the kernel shows a mapping as {line:?}"));
        let shown = Shown::parse(line).ok_or_else(strange)?;
        if !is_of_process(&shown) {
            return Ok(None);
        }
        let Shown { start, end, protection, is_shared, path } = shown;
        if is_shared && protection & libc::PROT_WRITE as u32 != 0 {
            return Err(SnapshotError::Unsupported(format!(
                "the server shares writable memory ({path}), which snapshots can't hold yet"
            )));
        }
        let mapping = Mapping { start, end, protection, grows_down: path == "[stack]" };
        Ok(Some(Self { mapping, of_file: path.starts_with('/') }))
    }
}

/// Start and end of the break, as the kernel has them.
fn breaks(pid: Pid, maps: &str) -> Result<(u64, u64), SnapshotError> {
    let stat = fs::read_to_string(proc(pid, "stat")).map_err(SnapshotError::system("reading its status"))?;
    let start = start_brk(&stat)
        .ok_or_else(|| SnapshotError::Unsupported(format!("the kernel shows a process status as {stat:?}")))?;
    let heap = maps.lines().filter_map(Shown::parse).filter(|m| m.path == "[heap]");
    Ok((start, heap.map(|m| m.end).max().unwrap_or(start)))
}

fn descriptors(pid: Pid) -> Result<Vec<Descriptor>, SnapshotError> {
    let failed = |what| SnapshotError::system::<io::Error>(what);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(proc(pid, "fd")).map_err(failed("listing its descriptors"))? {
        let name = entry.map_err(failed("listing its descriptors"))?.file_name();
        numbers.extend(name.to_str().and_then(|n| n.parse::<i32>().ok()).filter(|fd| (*fd as u32) < GUEST_FDS_MAX));
    }
    numbers.sort_unstable();
    let mut found: Vec<Descriptor> = Vec::new();
    for fd in numbers {
        let object = object(pid, fd, &found)?;
        found.push(Descriptor { fd, object });
    }
    Ok(found)
}

fn object(pid: Pid, fd: i32, before: &[Descriptor]) -> Result<Object, SnapshotError> {
    let path = proc(pid, &format!("fd/{fd}"));
    let target = fs::read_link(&path).map_err(SnapshotError::system("looking at a descriptor"))?;
    let metadata = fs::metadata(&path).map_err(SnapshotError::system("looking at a descriptor"))?;
    let (flags, position) = flags_and_position(pid, fd)?;
    let unsupported =
        |why: &str| Err(SnapshotError::Unsupported(format!("descriptor {fd} is {}: {why}", target.display())));
    if target.as_os_str() == "anon_inode:[eventfd]" {
        return Ok(Object::Placeholder { flags });
    }
    if matches!(fd, libc::STDOUT_FILENO | libc::STDERR_FILENO) && is_own(fd, &metadata) {
        return Ok(Object::Console);
    }
    if !target.is_absolute() {
        return unsupported("what lies outside of the process can't be opened again");
    }
    let is_file = |d: &&Descriptor| matches!(d.object, Object::File { .. });
    for other in before.iter().filter(is_file) {
        if is_same(pid, other.fd, fd)? {
            return Ok(Object::Same { fd: other.fd, flags });
        }
    }
    if metadata.nlink() == 0 {
        return unsupported("a file that was deleted can't be opened again");
    }
    if metadata.is_file() && flags & libc::O_ACCMODE != libc::O_RDONLY {
        return unsupported("snapshots don't hold files that the server writes, yet");
    }
    Ok(Object::File { path: OsText(target.into()), flags, position })
}

/// Whether it is what we ourselves have there.
fn is_own(fd: i32, metadata: &fs::Metadata) -> bool {
    let own = fs::metadata(format!("/proc/self/fd/{fd}"));
    own.is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()))
}

/// Whether two descriptors are one open file.
fn is_same(pid: Pid, a: i32, b: i32) -> Result<bool, SnapshotError> {
    const KCMP_FILE: libc::c_int = 0;
    let (a, b, pid) = (a as libc::c_ulong, b as libc::c_ulong, pid.as_raw());
    // SAFETY: a plain system call that compares.
    match unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, a, b) } {
        -1 => Err(SnapshotError::system("kcmp (CONFIG_KCMP)")(io::Error::last_os_error())),
        order => Ok(order == 0),
    }
}

fn flags_and_position(pid: Pid, fd: i32) -> Result<(i32, u64), SnapshotError> {
    let text = fs::read_to_string(proc(pid, &format!("fdinfo/{fd}")));
    let text = text.map_err(SnapshotError::system("looking at a descriptor"))?;
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let flags = value("flags:").and_then(|v| i32::from_str_radix(v, 8).ok());
    let position = value("pos:").and_then(|v| v.parse().ok());
    flags
        .zip(position)
        .ok_or_else(|| SnapshotError::Unsupported(format!("the kernel shows descriptor {fd} as {text:?}")))
}

struct Memory {
    content: File,
    pages: File,
}

/// As the kernel's `pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// As the kernel's `page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const REGIONS: usize = 512;

impl Memory {
    fn open(pid: Pid) -> Result<Self, SnapshotError> {
        let open = |name| File::open(proc(pid, name)).map_err(SnapshotError::system("opening its memory"));
        Ok(Self { content: open("mem")?, pages: open("pagemap")? })
    }

    /// Gives all pages of an area that are not zero, several at a time where they adjoin.
    fn walk(
        &self,
        area: &Area,
        give: &mut dyn FnMut(u64, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let Mapping { start, end, .. } = area.mapping;
        // What of a file nobody has touched has content all the same.
        if area.of_file {
            return self.read(start, end, true, give);
        }
        let mut at = start;
        while at < end {
            let mut regions = [Region::default(); REGIONS];
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: at,
                end,
                regions: regions.as_mut_ptr() as u64,
                regions_len: REGIONS as u64,
                any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                returned: PAGE_IS_PRESENT,
                ..Scan::default()
            };
            // SAFETY: the kernel reads and writes `scan` and writes at most `regions_len` entries to `regions`.
            let n = unsafe { libc::ioctl(self.pages.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            if n < 0 {
                return Err(SnapshotError::system("PAGEMAP_SCAN (since Linux 6.7)")(io::Error::last_os_error()));
            }
            for r in &regions[..n as usize] {
                self.read(r.start, r.end, false, give)?;
            }
            at = scan.walk_end;
        }
        Ok(())
    }

    /// `may_end`: beyond the end of its file a mapping has nothing, which the kernel tells by EIO.
    fn read(
        &self,
        start: u64,
        end: u64,
        may_end: bool,
        give: &mut dyn FnMut(u64, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut buffer = vec![0; PART_BYTES_MAX.min((end - start) as usize)];
        let mut at = start;
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let failed = SnapshotError::system::<io::Error>("reading its memory");
            match self.content.read_at(&mut buffer[..want], at) {
                Ok(n) if n as u64 >= PAGE => {
                    let whole = n as u64 / PAGE * PAGE;
                    give_what_is_not_zero(at, &buffer[..whole as usize], give)?;
                    at += whole;
                }
                // The kernel's answer where the process has none any more.
                Ok(_) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Err(e) if may_end && e.raw_os_error() == Some(libc::EIO) => at += PAGE,
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }
}

fn give_what_is_not_zero(
    at: u64,
    bytes: &[u8],
    give: &mut dyn FnMut(u64, &[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let pages = bytes.chunks_exact(PAGE as usize);
    let is_zero = |page: &[u8]| page.iter().all(|b| *b == 0);
    let mut begin: Option<usize> = None;
    for (k, page) in pages.enumerate() {
        match (is_zero(page), begin) {
            (false, None) => begin = Some(k),
            (true, Some(b)) => {
                give(at + b as u64 * PAGE, &bytes[b * PAGE as usize..k * PAGE as usize])?;
                begin = None;
            }
            _ => {}
        }
    }
    match begin {
        Some(b) => give(at + b as u64 * PAGE, &bytes[b * PAGE as usize..]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::shared::{SEGMENT_BYTES, SHARED_BASE};
    use std::process::Command;

    #[test]
    fn mappings_are_taken_but_for_the_kernels_and_the_engines() {
        let parse = |l: &str| Area::parse(l);
        let stack = parse("7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]").unwrap().unwrap();
        assert!(stack.mapping.grows_down && !stack.of_file);
        assert_eq!(stack.mapping.protection, 3);
        let text = parse("555555554000-555555556000 r-xp 00002000 08:01 77   /usr/bin/with space").unwrap().unwrap();
        assert!(text.of_file);
        assert_eq!(parse("7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0  [vdso]").unwrap(), None);
        let end = SHARED_BASE + SEGMENT_BYTES as u64;
        assert_eq!(parse(&format!("{SHARED_BASE:x}-{end:x} rw-s 00000000 00:01 9 /memfd:ft-segment (deleted)")).unwrap(), None);
        assert!(parse("7f0000000000-7f0000001000 rw-s 00000000 00:01 9 /dev/shm/x").is_err());
        assert!(parse("7f0000000000-7f0000001000 r--s 00000000 00:01 9 /usr/lib/gconv/gconv-modules.cache").unwrap().is_some());
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn memory_of_a_process_that_has_ended_is_no_memory_of_zeros() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let memory = Memory::open(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mapping = Mapping { start: 0x1000, end: 0x3000, protection: 3, grows_down: false };
        for of_file in [false, true] {
            let read = memory.walk(&Area { mapping, of_file }, &mut |_, _| Ok(()));
            assert!(read.is_err(), "of a file: {of_file}");
        }
    }

    #[test]
    fn zeros_are_left_out() {
        let page = PAGE as usize;
        let mut bytes = vec![0; 5 * page];
        (bytes[page], bytes[3 * page - 1], bytes[4 * page]) = (1, 1, 1);
        let mut given = Vec::new();
        give_what_is_not_zero(0x1000, &bytes, &mut |at, b| {
            given.push((at, b.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(given, [(0x2000, 2 * page), (0x5000, page)]);
    }
}
