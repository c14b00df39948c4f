//! A loop on io_uring: one call per turn, which hands in the answers of the last one and waits for requests. Each connection
//! has one receive that stays armed and takes its memory from a ring of buffers.

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, Submitter, cqueue, opcode, squeue};

use std::alloc::{self, Layout};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::Sender;

const ENTRIES: u32 = 256;
const BUFFERS: u16 = 256;
const BUFFER_BYTES: usize = 4096;
const GROUP: u16 = 0;
/// The kernel wants the ring of buffers at the beginning of a page.
const PAGE_BYTES: usize = 4096;
/// Set in the user data of a send.
const SEND: u64 = 1 << 32;

/// What the kernel fills.
struct Buffers {
    ring: *mut BufRingEntry,
    memory: Vec<u8>,
    tail: u16,
}

impl Buffers {
    fn layout() -> Layout {
        Layout::from_size_align(size_of::<BufRingEntry>() * usize::from(BUFFERS), PAGE_BYTES).expect("a page or more")
    }

    fn new(submitter: &Submitter) -> io::Result<Self> {
        // SAFETY: the layout has a size.
        let ring = unsafe { alloc::alloc_zeroed(Self::layout()) };
        if ring.is_null() {
            alloc::handle_alloc_error(Self::layout());
        }
        let memory = vec![0; BUFFER_BYTES * usize::from(BUFFERS)];
        let mut buffers = Self { ring: ring.cast(), memory, tail: 0 };
        // SAFETY: so many zeroed entries, which live until the ring does not: see `serve`.
        unsafe { submitter.register_buf_ring_with_flags(ring.addr() as u64, BUFFERS, GROUP, 0) }?;
        (0..BUFFERS).for_each(|id| buffers.give(id));
        Ok(buffers)
    }

    /// The kernel may fill it.
    fn give(&mut self, id: u16) {
        let start = usize::from(id) * BUFFER_BYTES;
        let address = self.memory[start..start + BUFFER_BYTES].as_mut_ptr().addr();
        // SAFETY: within the ring; the kernel reads no entry at or after the tail.
        let entry = unsafe { &mut *self.ring.add(usize::from(self.tail % BUFFERS)) };
        entry.set_addr(address as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, and only this thread writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn filled(&self, id: u16, bytes: usize) -> &[u8] {
        &self.memory[usize::from(id) * BUFFER_BYTES..][..bytes]
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: from `new`, and the kernel's ring is gone.
        unsafe { alloc::dealloc(self.ring.cast(), Self::layout()) };
    }
}

fn ring() -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES)
}

/// Why this kernel doesn't let us, if so.
pub fn refusal() -> Option<String> {
    let e = ring().and_then(|r| Buffers::new(&r.submitter()).map(|b| drop((r, b)))).err()?;
    let why = match e.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel is built without it".into(),
        Some(libc::EPERM | libc::EACCES) => {
            match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").as_deref().map(str::trim) {
                Ok("0") => "a seccomp filter or security module forbids it".into(),
                Ok(v) => format!("kernel.io_uring_disabled is {v}"),
                Err(_) => "a seccomp filter or security module forbids it".into(),
            }
        }
        Some(libc::EINVAL) => "the kernel is too old: deferred task work needs Linux 6.1".into(),
        _ => "it can't be set up".to_owned(),
    };
    Some(format!("{why} ({e})"))
}

pub fn serve(sockets: Vec<TcpStream>, ready: Sender<()>) -> io::Result<u64> {
    // Dropped in the opposite order: the kernel's ring ends before what it writes to and reads from.
    let mut output = vec![Vec::<u8>::with_capacity(BUFFER_BYTES); sockets.len()];
    let unset = ring()?;
    let mut buffers = Buffers::new(&unset.submitter())?;
    let mut ring = unset;
    let receive = |k: usize| {
        opcode::RecvMulti::new(Fd(sockets[k].as_raw_fd()), GROUP).build().user_data(k as u64)
    };
    for k in 0..sockets.len() {
        push(&mut ring, &receive(k))?;
    }
    let mut done: Vec<cqueue::Entry> = Vec::new();
    let (mut open, mut turns) = (sockets.len(), 0);
    let _ = ready.send(());
    while open > 0 {
        ring.submit_and_wait(1)?;
        turns += 1;
        done.extend(ring.completion());
        for c in done.drain(..) {
            let k = (c.user_data() & !SEND) as usize;
            if c.user_data() & SEND != 0 {
                // Only one that failed says so.
                return Err(io::Error::from_raw_os_error(-c.result()));
            }
            let armed = cqueue::more(c.flags());
            match c.result() {
                0 => open -= 1,
                e if e == -libc::ENOBUFS => push(&mut ring, &receive(k))?,
                e if e < 0 => return Err(io::Error::from_raw_os_error(-e)),
                n => {
                    let id = cqueue::buffer_select(c.flags()).ok_or_else(|| io::Error::other("data without a buffer"))?;
                    // In a closed loop its last answer has arrived.
                    output[k].clear();
                    output[k].extend_from_slice(buffers.filled(id, n as usize));
                    buffers.give(id);
                    if !armed {
                        push(&mut ring, &receive(k))?;
                    }
                    let fd = Fd(sockets[k].as_raw_fd());
                    let send = opcode::Send::new(fd, output[k].as_ptr(), output[k].len() as u32)
                        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                        .build()
                        .flags(squeue::Flags::SKIP_SUCCESS)
                        .user_data(k as u64 | SEND);
                    push(&mut ring, &send)?;
                }
            }
        }
    }
    Ok(turns)
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: what entries point to lives as long as the ring: see `serve`.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit()?;
    }
    Ok(())
}
