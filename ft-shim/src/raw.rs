//! The shim's own system calls, straight to the kernel: its text is the one range that dispatch lets pass.

use core::arch::asm;

pub const EPERM: i64 = 1;
pub const ENOENT: i64 = 2;
pub const ESRCH: i64 = 3;
pub const EINTR: i64 = 4;
pub const EIO: i64 = 5;
pub const ENXIO: i64 = 6;
pub const E2BIG: i64 = 7;
pub const EBADF: i64 = 9;
pub const ECHILD: i64 = 10;
pub const EAGAIN: i64 = 11;
pub const ENOMEM: i64 = 12;
pub const EACCES: i64 = 13;
pub const EFAULT: i64 = 14;
pub const EBUSY: i64 = 16;
pub const EEXIST: i64 = 17;
pub const ENODEV: i64 = 19;
pub const ENOTDIR: i64 = 20;
pub const EINVAL: i64 = 22;
pub const ENFILE: i64 = 23;
pub const EMFILE: i64 = 24;
pub const ENOTTY: i64 = 25;
pub const EFBIG: i64 = 27;
pub const ENOSPC: i64 = 28;
pub const ESPIPE: i64 = 29;
pub const EPIPE: i64 = 32;
pub const EDOM: i64 = 33;
pub const ERANGE: i64 = 34;
pub const EDEADLK: i64 = 35;
pub const ENAMETOOLONG: i64 = 36;
pub const ENOSYS: i64 = 38;
pub const ELOOP: i64 = 40;
pub const ENOTSOCK: i64 = 88;
pub const EDESTADDRREQ: i64 = 89;
pub const EMSGSIZE: i64 = 90;
pub const EPROTOTYPE: i64 = 91;
pub const ENOPROTOOPT: i64 = 92;
pub const EPROTONOSUPPORT: i64 = 93;
pub const ESOCKTNOSUPPORT: i64 = 94;
pub const EOPNOTSUPP: i64 = 95;
pub const EAFNOSUPPORT: i64 = 97;
pub const EADDRINUSE: i64 = 98;
pub const EADDRNOTAVAIL: i64 = 99;
pub const ENETUNREACH: i64 = 101;
pub const ECONNRESET: i64 = 104;
pub const EISCONN: i64 = 106;
pub const ENOTCONN: i64 = 107;
pub const ETIMEDOUT: i64 = 110;
pub const ECONNREFUSED: i64 = 111;
pub const EALREADY: i64 = 114;
pub const EINPROGRESS: i64 = 115;
pub const EUCLEAN: i64 = 117;
pub const EDQUOT: i64 = 122;

pub mod nr {
    //! Numbers of the calls that the shim itself makes.
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const FSTAT: usize = 5;
    pub const POLL: usize = 7;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const MPROTECT: usize = 10;
    pub const MUNMAP: usize = 11;
    pub const BRK: usize = 12;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const PREAD64: usize = 17;
    pub const MREMAP: usize = 25;
    pub const MINCORE: usize = 27;
    pub const MADVISE: usize = 28;
    pub const DUP: usize = 32;
    pub const PAUSE: usize = 34;
    pub const NANOSLEEP: usize = 35;
    pub const GETPID: usize = 39;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SENDTO: usize = 44;
    pub const RECVMSG: usize = 47;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const EXIT_GROUP: usize = 231;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const CHDIR: usize = 80;
    pub const UMASK: usize = 95;
    pub const SIGALTSTACK: usize = 131;
    pub const PERSONALITY: usize = 135;
    pub const PRCTL: usize = 157;
    pub const ARCH_PRCTL: usize = 158;
    pub const FUTEX: usize = 202;
    pub const GETDENTS64: usize = 217;
    pub const CLOCK_GETTIME: usize = 228;
    pub const TGKILL: usize = 234;
    pub const OPENAT: usize = 257;
    pub const NEWFSTATAT: usize = 262;
    pub const EVENTFD2: usize = 290;
    pub const DUP3: usize = 292;
    pub const CLOSE_RANGE: usize = 436;
}

/// One system call.
///
/// # Safety
/// The call's own contract: what it writes through pointers must be valid for that, and it must not take
/// away memory or descriptors that the shim needs.
#[inline(always)]
pub unsafe fn syscall(n: usize, a: [u64; 6]) -> i64 {
    let r: i64;
    // SAFETY: the registers are as the kernel's ABI has them; memory effects are the caller's promise.
    unsafe {
        asm!("syscall",
            inlateout("rax") n as i64 => r,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    r
}

/// `raw!(nr, args...)`: a system call with up to six arguments, each cast to `u64`.
macro_rules! raw {
    ($n:expr $(, $a:expr)*) => {{
        #[allow(unused_mut, unused_assignments)]
        let (mut args, mut i) = ([0u64; 6], 0);
        $( args[i] = $a as u64; #[allow(unused_assignments)] { i += 1; } )*
        let _ = i;
        $crate::raw::syscall($n as usize, args)
    }};
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}

pub const NS: u64 = 1_000_000_000;

impl Timespec {
    pub fn from_ns(ns: u64) -> Self {
        Self { sec: (ns / NS) as i64, nsec: (ns % NS) as i64 }
    }

    /// Nanoseconds; `None` where the kernel would say EINVAL.
    pub fn to_ns(self) -> Option<u64> {
        if self.sec < 0 || !(0..NS as i64).contains(&self.nsec) {
            return None;
        }
        Some((self.sec as u64).saturating_mul(NS).saturating_add(self.nsec as u64))
    }
}

/// The host's own clock: for inputs only.
pub fn host_clock_ns(clock: i32) -> u64 {
    let mut t = Timespec::default();
    // SAFETY: writes one timespec to `t`.
    let r = unsafe { raw!(nr::CLOCK_GETTIME, clock, &raw mut t) };
    assert!(r == 0);
    t.sec as u64 * NS + t.nsec as u64
}

/// One line to the guest's stderr: the last word before the end.
pub fn complain(text: &[u8]) {
    // SAFETY: the kernel only reads the slice.
    unsafe { raw!(nr::WRITE, 2, text.as_ptr() as u64, text.len()) };
}

/// Ends the process at once.
pub fn exit_process(code: i32) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { raw!(nr::EXIT_GROUP, code) };
    }
}
