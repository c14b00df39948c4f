//! From a snapshot to a process: a program at its exec stop gives up all it has, and gets the memory, descriptors and
//! registers of another one.
//!
//! It is the same program only so that the kernel shows its name. Everything is done by the process itself, one system call
//! at a time, from a page of its own ([`SCRATCH`]), before any of its code runs.

use super::error::LaunchError;
use super::maps::Shown;
use super::tracee::{Cpu, Tracee};
use crate::logfile::OsText;
use crate::snapshot::file::Part;
use crate::snapshot::{Descriptor, Head, Mapping, Object, PAGE, SCRATCH, Source, Standing, is_of_process, shim_sha256};
use ft_log::shared::moved::{self, Moved};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

const ADVICE: &str = "is there memory for it, and is the snapshot of this version of ft?";
const PROT_RW: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const NO_FD: u64 = u64::MAX;
/// Behind the instructions in the scratch page.
const SCRATCH_TEXT: u64 = SCRATCH + 64;

/// Makes the stopped program the process of the snapshot; what it goes on with.
pub(super) fn restore(
    tracee: &mut Tracee,
    pid: Pid,
    brk_start: u64,
    Source { mut reader, mut files }: Source,
) -> Result<Cpu, LaunchError> {
    let head = reader.head.clone();
    let ours = shim_sha256();
    if head.shim_sha256 != ours {
        return Err(unusable(format!("another build of ft took it (its shim is {}, this one's {ours})", head.shim_sha256)));
    }
    let mut cpu = cpu(&head).ok_or_else(|| unusable("it has no usable registers".into()))?;
    if head.brk_start != brk_start {
        return Err(unusable(format!("its program's break began at {:#x}, here at {brk_start:#x}", head.brk_start)));
    }
    leave_program(tracee, pid).map_err(step("clearing its memory"))?;
    set_break(tracee, &head).map_err(step("setting its program break"))?;
    for m in &head.mappings {
        let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        if m.grows_down {
            flags |= libc::MAP_GROWSDOWN | libc::MAP_STACK;
        }
        let args = [m.start, m.end - m.start, PROT_RW, flags as u64, NO_FD, 0];
        tracee.syscall(libc::SYS_mmap, args).map_err(step("mapping its memory"))?;
    }
    let mut bytes = Vec::new();
    while let Some(part) = reader.next(&mut bytes).map_err(|e| unusable(e.to_string()))? {
        match part {
            Part::Pages { at } => tracee.write(at, &bytes).map_err(step("writing its memory"))?,
            Part::Content { file, offset } => files.content(file, offset, &bytes).map_err(step("writing its files"))?,
            Part::Replaced { file, offset, size } => {
                files.replaced(file, size, offset, std::mem::take(&mut bytes)).map_err(step("writing its files"))?;
            }
        }
    }
    let moved = files.finish().map_err(step("writing its files"))?;
    for Mapping { start, end, protection, .. } in &head.mappings {
        if u64::from(*protection) != PROT_RW {
            let args = [*start, end - start, u64::from(*protection), 0, 0, 0];
            tracee.syscall(libc::SYS_mprotect, args).map_err(step("protecting its memory"))?;
        }
    }
    // A program has these three from its start, and may have closed them.
    for fd in (0..=libc::STDERR_FILENO).filter(|fd| head.descriptors.iter().all(|d| d.fd != *fd)) {
        tracee.syscall(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]).map_err(step("closing a descriptor"))?;
    }
    for d in &head.descriptors {
        open(tracee, d)?;
    }
    // The copy waits in `pause`, and has passed its instruction. What that returns tells the shim what the process is
    // (`ft-shim/src/kernel/copy.rs`).
    cpu.registers.rax = give_table(tracee, &moved).map_err(step("telling it of its files"))?;
    cpu.registers.orig_rax = u64::MAX;
    stand(tracee, &head.standing)?;
    Ok(cpu)
}

/// Files that lie elsewhere now; where the table is.
fn give_table(tracee: &Tracee, moved: &[Moved]) -> io::Result<u64> {
    let words = std::iter::once(moved.len() as u64).chain(moved.iter().flat_map(|m| m.from.into_iter().chain(m.to)));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    debug_assert_eq!(bytes.len(), moved::bytes(moved.len()));
    let length = (bytes.len() as u64).next_multiple_of(PAGE);
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let at = tracee.syscall(libc::SYS_mmap, [SCRATCH - length, length, PROT_RW, flags, NO_FD, 0])?;
    tracee.write(at, &bytes)?;
    Ok(at)
}

/// Last: who it becomes may be allowed less.
fn stand(tracee: &Tracee, s: &Standing) -> Result<(), LaunchError> {
    let put = |bytes: &[u8]| match bytes.len() as u64 {
        n if n > PAGE - (SCRATCH_TEXT - SCRATCH) => Err(unusable("its directory or groups are too many bytes".into())),
        _ => tracee.write(SCRATCH_TEXT, bytes).map_err(step("writing what it is")),
    };
    let text = |t: &OsText| [t.0.as_bytes(), &[0]].concat();
    put(&text(&s.directory))?;
    let directory = |e| unusable(format!("its directory is {}: {e}", s.directory.0.display()));
    tracee.syscall(libc::SYS_chdir, [SCRATCH_TEXT, 0, 0, 0, 0, 0]).map_err(directory)?;
    tracee.syscall(libc::SYS_umask, [s.umask.into(), 0, 0, 0, 0, 0]).map_err(step("setting its umask"))?;
    put(&s.more_groups.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<_>>())?;
    let set_ids = |call, args: [u32; 3]| {
        let [a, b, c] = args.map(u64::from);
        tracee.syscall(call, [a, b, c, 0, 0, 0]).map_err(step("becoming its user"))
    };
    let groups = [s.more_groups.len() as u64, SCRATCH_TEXT, 0, 0, 0, 0];
    tracee.syscall(libc::SYS_setgroups, groups).map_err(step("becoming its user"))?;
    set_ids(libc::SYS_setresgid, s.groups)?;
    set_ids(libc::SYS_setresuid, s.users)?;
    if s.no_new_privileges {
        let args = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0];
        tracee.syscall(libc::SYS_prctl, args).map_err(step("giving up new privileges"))?;
    }
    Ok(())
}

fn unusable(why: String) -> LaunchError {
    LaunchError::Argument { what: format!("the snapshot can't be used: {why}") }
}

fn step(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    LaunchError::inject(what, ADVICE)
}

fn cpu(head: &Head) -> Option<Cpu> {
    let registers = head.registers.for_ptrace();
    Some(Cpu { registers, extended: crate::logfile::unhex(&head.extended)?, signal_mask: head.signal_mask })
}

/// Everything of the program's goes, but what is the kernel's.
fn leave_program(tracee: &mut Tracee, pid: Pid) -> io::Result<()> {
    let protection = PROT_RW | libc::PROT_EXEC as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    tracee.syscall(libc::SYS_mmap, [SCRATCH, PAGE, protection, flags, NO_FD, 0])?;
    tracee.step_at(SCRATCH)?;
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let strange = || io::Error::other(format!("the kernel shows a mapping as {line:?}"));
        let m = Shown::parse(line).ok_or_else(strange)?;
        if is_of_process(&m) {
            tracee.syscall(libc::SYS_munmap, [m.start, m.end - m.start, 0, 0, 0, 0])?;
        }
    }
    Ok(())
}

/// The kernel keeps the end of the break apart from the memory below it, which is mapped like all other.
fn set_break(tracee: &Tracee, head: &Head) -> io::Result<()> {
    let (start, end) = (head.brk_start, head.brk);
    if start < end {
        tracee.syscall(libc::SYS_brk, [end, 0, 0, 0, 0, 0])?;
        tracee.syscall(libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])?;
    }
    Ok(())
}

fn open(tracee: &Tracee, d: &Descriptor) -> Result<(), LaunchError> {
    let close_on_exec = (d.object.flags() & libc::O_CLOEXEC) as u64;
    let fd = match &d.object {
        // Both are there since the exec.
        Object::Console => return Ok(()),
        Object::Placeholder { .. } => {
            tracee.syscall(libc::SYS_eventfd2, [0, close_on_exec, 0, 0, 0, 0]).map_err(step("making a descriptor"))?
        }
        Object::File { path, flags } => {
            let mut text = path.0.as_bytes().to_vec();
            text.push(0);
            if text.len() as u64 > PAGE - (SCRATCH_TEXT - SCRATCH) {
                return Err(unusable(format!("descriptor {} has a path of {} bytes", d.fd, text.len())));
            }
            tracee.write(SCRATCH_TEXT, &text).map_err(step("writing a path"))?;
            let flags = (flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC)) as u64;
            let opened = tracee.syscall(libc::SYS_open, [SCRATCH_TEXT, flags, 0, 0, 0, 0]);
            opened.map_err(|e| unusable(format!("descriptor {} is {}: {e}", d.fd, path.0.display())))?
        }
        Object::Same { fd, .. } => *fd as u64,
    };
    if fd != d.fd as u64 {
        tracee.syscall(libc::SYS_dup3, [fd, d.fd as u64, close_on_exec, 0, 0, 0]).map_err(step("placing a descriptor"))?;
        if !matches!(d.object, Object::Same { .. }) {
            tracee.syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0]).map_err(step("placing a descriptor"))?;
        }
    }
    Ok(())
}
