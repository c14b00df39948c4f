//! System calls without a safe wrapper at hand. Thin: no decisions here.

use ft_log::shared::GUEST_FDS_MAX;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Wakes one sleeper on a word that another process maps too.
pub fn futex_wake(word: &AtomicU32) {
    wake(word, 1);
}

/// Wakes all of them.
pub fn futex_wake_all(word: &AtomicU32) {
    wake(word, i32::MAX);
}

fn wake(word: &AtomicU32, sleepers_max: i32) {
    // SAFETY: FUTEX_WAKE only uses the word's address, which is valid by the reference.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, sleepers_max) };
}

pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec. The clocks asked for exist everywhere and are never negative.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Bytes (a FIN counts as one) given to the kernel that the peer has not acknowledged.
pub fn unacknowledged(socket: BorrowedFd) -> io::Result<u64> {
    let mut n: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (= TIOCOUTQ) writes one int to the address given.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut n) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(n.max(0) as u64) }
}

/// Where the next peek begins, from the oldest unread byte on; -1: peeks always begin there.
pub fn set_peek_offset(socket: BorrowedFd, offset: i32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// Takes up to `n` bytes out of a stream without looking at them.
pub fn discard(socket: BorrowedFd, n: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing through the null pointer.
    let r = unsafe {
        libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), n, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as usize) }
}

/// A descriptor that becomes readable when the process ends.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no memory; a non-negative result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

pub fn pidfd_kill(pidfd: BorrowedFd, signo: i32) -> io::Result<()> {
    // SAFETY: the signal info pointer may be null; nothing else is passed by address.
    let r = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signo, std::ptr::null::<u8>(), 0)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `waitpid` that doesn't wait: the raw status once the child has ended. It is reaped by that.
pub fn reap(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    let r = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    match r {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => Ok(Some(status)),
    }
}

/// Sets an integer option by number, as the guest named it.
pub fn set_option(socket: BorrowedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Sets an option whose value is a structure.
pub fn set_option_bytes(socket: BorrowedFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads so many bytes from `value`.
    let r = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the descriptor limit of this process as far as it goes. What it can't have shows later as EMFILE.
///
/// And has the kernel make its table of them large now. One that grows as they come, at 64, 128, 256, waits each time for
/// every processor if the process has threads, 10 ms and more: in the middle of a takeover.
pub fn provide_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let most = hard.max(DESCRIPTORS_MAX);
        if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_err() {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(DESCRIPTORS_READY, |(soft, _)| soft.min(DESCRIPTORS_READY));
    // SAFETY: duplicates stderr and closes the duplicate, which nobody else knows.
    unsafe {
        let highest = libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, limit as i32 - 1);
        if highest >= 0 {
            libc::close(highest);
        }
    }
}

const DESCRIPTORS_MAX: u64 = 1 << 17;
/// More than a guest has, and the engine beside.
const DESCRIPTORS_READY: u64 = 2 * GUEST_FDS_MAX as u64;

/// Signals that `ft` itself gets and hands to the guest.
pub const FORWARDED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signo: libc::c_int) {
    let byte = signo as u8;
    // SAFETY: write and the errno location are async-signal-safe; errno is restored for the code interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// Catches [`FORWARDED`] for the rest of the process's life; their numbers arrive as bytes at the descriptor.
///
/// Handlers, not a blocked mask: exec resets handlers, and a mask would have to be undone in the guest.
pub fn catch_signals() -> io::Result<OwnedFd> {
    use nix::fcntl::OFlag;
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    SIGNAL_PIPE.store(std::os::fd::IntoRawFd::into_raw_fd(write), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for s in FORWARDED {
        // SAFETY: the handler is async-signal-safe (see there) and its descriptor was stored before and stays open.
        unsafe { sigaction(s, &action) }?;
    }
    Ok(read)
}
