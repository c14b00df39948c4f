//! From a copy that waits to a snapshot: its registers by ptrace, its memory and descriptors from /proc.

use super::changes::Changes;
use super::file::{PART_BYTES_MAX, SnapshotWriter};
use super::tree::{Content, Place, Replaced};
use super::{
    Descriptor, EngineState, Head, Mapping, Object, PAGE, Registers, SnapshotError, Standing, give_what_is_not_zero, is_of_process,
    shim_sha256,
};
use crate::guest::maps::{Shown, start_brk};
use crate::guest::tracee;
use crate::logfile::{OsText, hex};
use ft_log::shared::GUEST_FDS_MAX;
use nix::sys::ptrace;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
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
    /// Of state directories, likewise.
    pub file_bytes: u64,
}

/// A copy, and what of its service no process knows.
pub struct Copy<'a> {
    pub pid: Pid,
    /// The service's.
    pub seed: u64,
    /// At whose start it was made.
    pub point: u64,
    pub engine: &'a EngineState,
    pub state_dirs: &'a [PathBuf],
    /// What happens to files meanwhile.
    pub changes: &'a Changes,
}

/// Writes a snapshot. The copy goes on waiting; `read` is called when it is needed no more.
pub fn capture<W: Write>(copy: &Copy, to: W, read: impl FnOnce()) -> Result<Captured, SnapshotError> {
    let &Copy { pid, changes, .. } = copy;
    let stopped = Stopped::take(pid)?;
    let maps = fs::read_to_string(proc(pid, "maps")).map_err(SnapshotError::system("reading its mappings"))?;
    let areas = maps.lines().map(|l| Area::parse(l, copy.state_dirs)).collect::<Result<Vec<_>, _>>()?;
    let areas: Vec<Area> = areas.into_iter().flatten().collect();
    let (brk_start, brk) = breaks(pid, &maps)?;
    let (trees, content) = Content::list(copy.state_dirs)?;
    let head = Head {
        shim_sha256: shim_sha256(),
        seed: copy.seed,
        point: copy.point,
        registers: stopped.registers()?,
        extended: hex(&stopped.extended()?),
        signal_mask: stopped.signal_mask()?,
        brk_start,
        brk,
        mappings: areas.iter().map(|a| a.mapping).collect(),
        descriptors: descriptors(pid, &content)?,
        standing: standing(pid)?,
        trees,
    };
    // Names of files matter no more.
    changes.listed();
    if copy.state_dirs.is_empty() {
        changes.free();
    }
    let failed = |source| SnapshotError::System { what: "writing it", source };
    let mut writer = SnapshotWriter::new(to, &head, copy.engine).map_err(failed)?;
    let write_replaced = |writer: &mut SnapshotWriter<_>, was: Result<Replaced, SnapshotError>| {
        let was = was?;
        // Others are not of the state directories, or newer than the copy.
        content.id(was.on).map_or(Ok(()), |id| writer.replaced(id, &was).map_err(failed))
    };
    let memory = Memory::open(pid)?;
    let mut captured = Captured::default();
    for area in &areas {
        captured.mapped_bytes += area.mapping.end - area.mapping.start;
        memory.walk(area, &mut |at, pages| {
            captured.content_bytes += pages.len() as u64;
            changes.now().try_for_each(|was| write_replaced(&mut writer, was))?;
            writer.pages(at, pages).map_err(failed)
        })?;
    }
    // It may end at any time, with the guest. One that still stands was whole all along.
    stopped.registers()?;
    drop(stopped);
    read();
    content.read(&mut |id, offset, bytes| {
        captured.file_bytes += bytes.len() as u64;
        changes.now().try_for_each(|was| write_replaced(&mut writer, was))?;
        writer.content(id, offset, bytes).map_err(failed)
    })?;
    changes.free();
    changes.rest().try_for_each(|was| write_replaced(&mut writer, was))?;
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
    fn parse(line: &str, state_dirs: &[PathBuf]) -> Result<Option<Self>, SnapshotError> {
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
        // It would be memory of its own where the process is made again, and what is written to the file show in it no more.
        if state_dirs.iter().any(|d| Path::new(path).starts_with(d)) {
            return Err(SnapshotError::Unsupported(format!("the server maps {path}, which snapshots can't hold yet")));
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

fn descriptors(pid: Pid, content: &Content) -> Result<Vec<Descriptor>, SnapshotError> {
    let failed = |what| SnapshotError::system::<io::Error>(what);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(proc(pid, "fd")).map_err(failed("listing its descriptors"))? {
        let name = entry.map_err(failed("listing its descriptors"))?.file_name();
        numbers.extend(name.to_str().and_then(|n| n.parse::<i32>().ok()).filter(|fd| (*fd as u32) < GUEST_FDS_MAX));
    }
    numbers.sort_unstable();
    let mut found: Vec<Descriptor> = Vec::new();
    for fd in numbers {
        let object = object(pid, fd, &found, content)?;
        found.push(Descriptor { fd, object });
    }
    Ok(found)
}

fn object(pid: Pid, fd: i32, before: &[Descriptor], content: &Content) -> Result<Object, SnapshotError> {
    let path = proc(pid, &format!("fd/{fd}"));
    let target = fs::read_link(&path).map_err(SnapshotError::system("looking at a descriptor"))?;
    let metadata = fs::metadata(&path).map_err(SnapshotError::system("looking at a descriptor"))?;
    let flags = flags(pid, fd)?;
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
    let is_written = metadata.is_file() && flags & libc::O_ACCMODE != libc::O_RDONLY;
    if is_written && content.id(Place::of(&metadata)).is_none() {
        return unsupported("the server writes to it, and it lies in no state directory; name its directory with --state");
    }
    Ok(Object::File { path: OsText(target.into()), flags })
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

fn flags(pid: Pid, fd: i32) -> Result<i32, SnapshotError> {
    let text = fs::read_to_string(proc(pid, &format!("fdinfo/{fd}")));
    let text = text.map_err(SnapshotError::system("looking at a descriptor"))?;
    let flags = text.lines().find_map(|l| l.strip_prefix("flags:")).map(str::trim);
    flags
        .and_then(|v| i32::from_str_radix(v, 8).ok())
        .ok_or_else(|| SnapshotError::Unsupported(format!("the kernel shows descriptor {fd} as {text:?}")))
}

fn standing(pid: Pid) -> Result<Standing, SnapshotError> {
    let failed = |what| SnapshotError::system::<io::Error>(what);
    let root = |of: &str| fs::metadata(format!("/proc/{of}/root/.")).map(|m| Place::of(&m));
    if root(&pid.to_string()).map_err(failed("looking at its root directory"))?
        != root("self").map_err(failed("looking at the root directory"))?
    {
        return Err(SnapshotError::Unsupported("the server has changed its root directory, which can't be made again".into()));
    }
    let directory = fs::read_link(proc(pid, "cwd")).map_err(failed("looking at its directory"))?;
    let read = |of: &str| fs::read_to_string(format!("/proc/{of}/status")).map_err(failed("reading its status"));
    let (its, own) = (read(&pid.to_string())?, read("self")?);
    parse_standing(&its, &own, OsText(directory.into())).map_err(|what| SnapshotError::Unsupported(what.into()))
}

/// `its` and `own`: /proc/PID/status of the copy and of the engine.
fn parse_standing(its: &str, own: &str, directory: OsText) -> Result<Standing, &'static str> {
    const STRANGE: &str = "the kernel shows its status in a way that this version of ft doesn't know";
    let line = |of: &'static str, in_: &str| {
        in_.lines().find_map(|l| l.strip_prefix(of)?.strip_prefix(':')).map(|v| v.trim().to_owned()).ok_or(STRANGE)
    };
    let numbers = |of| -> Result<Vec<u32>, _> {
        line(of, its)?.split_whitespace().map(|n| n.parse().map_err(|_| STRANGE)).collect()
    };
    let three = |of| -> Result<[u32; 3], _> { numbers(of)?.get(..3).and_then(|n| n.try_into().ok()).ok_or(STRANGE) };
    let standing = Standing {
        directory,
        umask: u32::from_str_radix(&line("Umask", its)?, 8).map_err(|_| STRANGE)?,
        users: three("Uid")?,
        groups: three("Gid")?,
        more_groups: numbers("Groups")?,
        no_new_privileges: line("NoNewPrivs", its)? == "1",
    };
    let capabilities = |in_: &str| -> Result<Vec<String>, _> {
        ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().map(|c| line(c, in_)).collect()
    };
    const CHANGED: &str = "the server has changed its capabilities, which can't be done again";
    if line("CapBnd", its)? != line("CapBnd", own)? {
        return Err(CHANGED);
    }
    // A process that gives up being root loses them all by that.
    let left_root = !standing.users.contains(&0) && line("Uid", own)?.split_whitespace().all(|u| u == "0");
    let none = |c: &String| c.bytes().all(|b| b == b'0');
    let found = capabilities(its)?;
    if found != capabilities(own)? && !(left_root && found.iter().all(none)) {
        return Err(CHANGED);
    }
    Ok(standing)
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

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::shared::{SEGMENT_BYTES, SHARED_BASE};
    use std::process::Command;

    #[test]
    fn mappings_are_taken_but_for_the_kernels_and_the_engines() {
        let parse = |l: &str| Area::parse(l, &["/var/lib/x".into()]);
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
        assert!(parse("7f0000000000-7f0000001000 r--p 00000000 00:01 9 /var/lib/x/data").is_err());
        assert!(parse("7f0000000000-7f0000001000 r--p 00000000 00:01 9 /var/lib/xy").unwrap().is_some());
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
    fn a_standing_is_what_the_kernel_shows() {
        let status = |uid: &str, capabilities: &str| {
            let caps = ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|c| format!("{c}:\t{capabilities}\n")).concat();
            let caps = format!("{caps}CapBnd:\t01ff\n");
            format!("Name:\tx\nUmask:\t0027\nUid:\t{uid}\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \nNoNewPrivs:\t1\n{caps}")
        };
        let root = "0\t0\t0\t0";
        let parse = |its: &str| parse_standing(its, &status(root, "00ff"), OsText("/d".into()));
        let want = Standing {
            directory: OsText("/d".into()),
            umask: 0o27,
            users: [0; 3],
            groups: [5, 6, 7],
            more_groups: vec![4, 24],
            no_new_privileges: true,
        };
        assert_eq!(parse(&status(root, "00ff")), Ok(want.clone()));
        let left = status("9\t9\t9\t9", "0000");
        assert_eq!(parse(&left), Ok(Standing { users: [9; 3], ..want }));
        assert!(parse(&status("9\t9\t9\t9", "00ff")).is_ok());
        let dropped = left.replace("CapBnd:\t01ff", "CapBnd:\t00ff");
        for strange in [status(root, "000f"), status("9\t0\t9\t9", "0000"), dropped, "Umask:\t0027\n".into()] {
            assert!(parse(&strange).is_err(), "{strange}");
        }
    }
}
