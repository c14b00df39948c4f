//! A process stopped at its exec stop, and the few things done to it there.
//!
//! Laws: all of it runs on the thread that forked the process (ptrace knows threads, not processes); the process has
//! every signal but SIGTRAP blocked, so that nothing but our own steps moves it; on success it goes on with the
//! registers of its exec, except those we name.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

/// `syscall`, little endian.
const SYSCALL: i64 = 0x050f;
const SYSCALL_BYTES: u64 = 2;
/// Stops that are not ours (SIGSTOP can't be blocked) before we give up on a call.
const STRAY_STOPS_MAX: u32 = 100;
const ERRNO_MAX: u64 = 4095;
/// Code segment of 64-bit user code.
const USER_CS_64: u64 = 0x33;

/// Set of extended registers, as ptrace names it.
pub(crate) const NT_X86_XSTATE: libc::c_int = 0x202;

pub(super) struct Tracee {
    pid: Pid,
    memory: File,
    start: libc::user_regs_struct,
    /// The eight bytes at `start.rip`, where the `syscall` lies until we leave.
    covered: i64,
}

/// All that a process goes on with, beside its memory.
pub(super) struct Cpu {
    pub registers: libc::user_regs_struct,
    /// As NT_X86_XSTATE has them.
    pub extended: Vec<u8>,
    pub signal_mask: u64,
}

impl Tracee {
    /// `pid` has just reported its exec stop to this thread.
    pub(super) fn at_exec_stop(pid: Pid) -> io::Result<Self> {
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let start = ptrace::getregs(pid)?;
        let covered = ptrace::read(pid, start.rip as ptrace::AddressType)?;
        ptrace::write(pid, start.rip as ptrace::AddressType, covered & !0xffff | SYSCALL)?;
        Ok(Self { pid, memory, start, covered })
    }

    pub(super) fn stack_pointer(&self) -> u64 {
        self.start.rsp
    }

    pub(super) fn runs_64_bit_code(&self) -> bool {
        self.start.cs == USER_CS_64
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(bytes, at)
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(bytes, at)
    }

    /// Makes the process carry out one system call.
    pub(super) fn syscall(&self, number: i64, args: [u64; 6]) -> io::Result<u64> {
        let mut regs = self.start;
        regs.rax = number as u64;
        // No call to restart: the kernel must not look at rax as if an interrupted call had returned it.
        regs.orig_rax = u64::MAX;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        ptrace::setregs(self.pid, regs)?;
        for _ in 0..STRAY_STOPS_MAX {
            ptrace::step(self.pid, None)?;
            match wait(self.pid)? {
                WaitStatus::Stopped(..) => {}
                other => return Err(io::Error::other(format!("the process ended in it: {other:?}"))),
            }
            let after = ptrace::getregs(self.pid)?;
            if after.rip == self.start.rip + SYSCALL_BYTES {
                let result = after.rax;
                return if result > u64::MAX - ERRNO_MAX {
                    Err(io::Error::from_raw_os_error(result.wrapping_neg() as i32))
                } else {
                    Ok(result)
                };
            }
        }
        Err(io::Error::other("somebody keeps stopping the process"))
    }

    /// From here on system calls are made from another place, which is writable and the process's to execute.
    pub(super) fn step_at(&mut self, at: u64) -> io::Result<()> {
        ptrace::write(self.pid, self.start.rip as ptrace::AddressType, self.covered)?;
        self.start.rip = at;
        self.covered = ptrace::read(self.pid, at as ptrace::AddressType)?;
        ptrace::write(self.pid, at as ptrace::AddressType, self.covered & !0xffff | SYSCALL)?;
        Ok(())
    }

    /// Lets the process go as another one.
    pub(super) fn go_on(self, mut cpu: Cpu) -> io::Result<()> {
        ptrace::setregs(self.pid, cpu.registers)?;
        let mut part = libc::iovec { iov_base: cpu.extended.as_mut_ptr().cast(), iov_len: cpu.extended.len() };
        // SAFETY: the kernel reads `iov_len` bytes of `extended`; the process is ours and stopped.
        if unsafe { libc::ptrace(libc::PTRACE_SETREGSET, self.pid.as_raw(), NT_X86_XSTATE, &raw mut part) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.release(cpu.signal_mask)
    }

    fn release(self, mask: u64) -> io::Result<()> {
        // SAFETY: the kernel reads `size_of::<u64>()` bytes, its size of a signal set, from `mask`, which outlives
        // the call; the process is ours and stopped.
        let r = unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, self.pid.as_raw(), size_of::<u64>(), &raw const mask) };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        ptrace::detach(self.pid, None::<Signal>)?;
        Ok(())
    }

    /// Lets the process go, to run at `entry` with r15 = where it would have started. No signal stays blocked.
    pub(super) fn enter(self, entry: u64) -> io::Result<()> {
        ptrace::write(self.pid, self.start.rip as ptrace::AddressType, self.covered)?;
        let mut regs = self.start;
        regs.r15 = regs.rip;
        regs.rip = entry;
        ptrace::setregs(self.pid, regs)?;
        self.release(0)
    }
}

/// Waits for the next stop or end of a child of this thread.
pub(crate) fn wait(pid: Pid) -> io::Result<WaitStatus> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}
