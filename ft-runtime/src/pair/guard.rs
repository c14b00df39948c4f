//! A small process beside the engine that outlives it: when the engine is gone, it shuts the gate and tells the peer.
//!
//! Without it the peer sees no more than a closed link, which proves nothing about the gate, and waits for the lease to
//! run out. How the guard knows: the thread that owns the gate holds a robust mutex, and the first thing the kernel does
//! with a thread that exits is to pass it on. Why the peer believes it: the engine has told it, over the link, the
//! SHA-256 of a secret that only engine and guard have.
//!
//! Laws: the secret is shown only after the lease is closed, and the lease is closed only when nobody can renew it any
//! more. A guard that is missing, killed too, or not heard costs time and nothing else.

use crate::gate::lease::Lease;
use crate::start::Error;
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigHandler, Signal, signal};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The subcommand of `ft`.
pub const SUBCOMMAND: &str = "guard";
const SECRET_BYTES: usize = 32;
/// Of the secret: what the peer is told.
pub type Fingerprint = [u8; 32];
/// Waits between repetitions, since a datagram may be lost.
const REPEAT_AFTER_MS: [u64; 8] = [0, 1, 2, 5, 10, 20, 50, 100];

/// What engine and guard share.
#[repr(C)]
struct Page {
    mutex: libc::pthread_mutex_t,
    secret: [u8; SECRET_BYTES],
}

/// The engine's side. Whoever drops it can't open the gate any more: it belongs behind the gate in the same owner.
pub struct Guard {
    page: MmapRaw,
    fingerprint: Fingerprint,
    /// The thread that has locked the mutex keeps it.
    _stays: PhantomData<*const ()>,
}

impl Guard {
    /// To be called on the thread that owns the gate, in the network namespace of the link.
    pub fn start(lease: &Lease, from: IpAddr, peer: SocketAddr) -> io::Result<Self> {
        let memory = File::from(memfd_create(c"ft-guard", MFdFlags::MFD_CLOEXEC)?);
        memory.set_len(size_of::<Page>() as u64)?;
        let page = MmapRaw::map_raw(&memory)?;
        let mut secret = [0; SECRET_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut secret)?;
        let p: *mut Page = page.as_mut_ptr().cast();
        // SAFETY: the page is mapped, large enough, page aligned, and nobody else has it yet. Attributes are initialised
        // before use and the mutex by them.
        let locked = unsafe {
            (&raw mut (*p).secret).write(secret);
            let mut how: libc::pthread_mutexattr_t = std::mem::zeroed();
            [
                libc::pthread_mutexattr_init(&mut how),
                libc::pthread_mutexattr_setpshared(&mut how, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutexattr_setrobust(&mut how, libc::PTHREAD_MUTEX_ROBUST),
                libc::pthread_mutex_init(&raw mut (*p).mutex, &how),
                libc::pthread_mutex_lock(&raw mut (*p).mutex),
            ]
        };
        if let Some(e) = locked.into_iter().find(|e| *e != 0) {
            return Err(io::Error::from_raw_os_error(e));
        }
        Command::new("/proc/self/exe")
            .arg0("ft")
            .args([SUBCOMMAND, &from.to_string(), &peer.to_string()])
            .stdin(Stdio::from(memory))
            .stdout(Stdio::from(lease.map().try_clone_to_owned()?))
            // What ends the engine by its process group shall not end this too.
            .process_group(0)
            .spawn()?;
        Ok(Self { page, fingerprint: Sha256::digest(secret).into(), _stays: PhantomData })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let p: *mut Page = self.page.as_mut_ptr().cast();
        // SAFETY: initialised and locked by `start`, on this thread: a Guard is not Send. Unlocked before it is unmapped,
        // else the kernel would look for it here in vain when the thread exits.
        unsafe { libc::pthread_mutex_unlock(&raw mut (*p).mutex) };
    }
}

/// The guard process: its stdin is the page, its stdout the lease's map. The exit status.
pub fn run(from: IpAddr, peer: SocketAddr) -> Result<i32, Error> {
    let failed = |what: &'static str| move |e: io::Error| Error::Refused(format!("the engine's guard: {what}: {e}"));
    for s in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: no handler is installed.
        unsafe { signal(s, SigHandler::SigIgn) }.map_err(|e| failed("ignoring a signal")(e.into()))?;
    }
    // SAFETY: the name is a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"ft-guard".as_ptr()) };
    // SAFETY: nothing is open here yet but stdin, stdout and stderr; what the engine may have left open must end with it.
    unsafe { libc::close_range(3, u32::MAX, 0) };
    let memory = io::stdin().as_fd().try_clone_to_owned().map_err(failed("its page"))?;
    let page = MmapOptions::new().len(size_of::<Page>()).map_raw(&memory).map_err(failed("its page"))?;
    let p: *mut Page = page.as_mut_ptr().cast();
    let map = io::stdout().as_fd().try_clone_to_owned().map_err(failed("the lease"))?;
    let lease = Lease::of_map(map).map_err(failed("the lease"))?;
    let socket = UdpSocket::bind((from, 0)).map_err(failed("a socket"))?;
    socket.connect(peer).map_err(failed("a socket"))?;
    // Says nothing; but what will be needed in a hurry is in memory then, and the neighbour known.
    let _ = socket.send(&[]);
    // SAFETY: the engine has initialised the mutex before it started this process; the mapping stays.
    match unsafe { libc::pthread_mutex_lock(&raw mut (*p).mutex) } {
        0 | libc::EOWNERDEAD => {}
        e => return Err(failed("waiting for the engine's end")(io::Error::from_raw_os_error(e))),
    }
    lease.close();
    // SAFETY: written before this process was started, never again.
    let secret = unsafe { (&raw const (*p).secret).read() };
    for ms in REPEAT_AFTER_MS {
        sleep(Duration::from_millis(ms));
        let _ = socket.send(&secret);
    }
    Ok(0)
}

/// The peer's side: hears the guard.
pub struct Notice {
    socket: UdpSocket,
    expected: Option<Fingerprint>,
}

impl Notice {
    /// At the link's own address.
    pub fn open(listen: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, expected: None })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What the peer's engine says of its guard's secret.
    pub fn expect(&mut self, f: Fingerprint) {
        self.expected = Some(f);
    }

    /// Whether the guard has said that the peer's engine is gone and its gate shut. Once.
    pub fn is_heard(&mut self) -> bool {
        let mut datagram = [0; SECRET_BYTES + 1];
        let mut heard = false;
        // An error ends it too: there is nothing more to read.
        while let Ok(n) = self.socket.recv(&mut datagram) {
            heard |= self.expected.take_if(|f| n == SECRET_BYTES && *f == *Sha256::digest(&datagram[..n])).is_some();
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_is_heard_and_once() {
        let mut notice = Notice::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let guard = UdpSocket::bind("127.0.0.1:0").unwrap();
        guard.connect(notice.socket.local_addr().unwrap()).unwrap();
        let secret = [7; SECRET_BYTES];
        guard.send(&secret).unwrap();
        assert!(!notice.is_heard(), "nothing is expected yet");
        notice.expect(Sha256::digest(secret).into());
        for wrong in [&[][..], &[8; SECRET_BYTES], &[7; SECRET_BYTES - 1], &[7; SECRET_BYTES + 1]] {
            guard.send(wrong).unwrap();
            assert!(!notice.is_heard());
        }
        guard.send(&[]).unwrap();
        guard.send(&secret).unwrap();
        assert!(notice.is_heard(), "behind others");
        guard.send(&secret).unwrap();
        assert!(!notice.is_heard(), "a repetition");
    }
}
