//! A snapshot on its way to another host: between the threads that make it and use it, and the engines that carry it.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

/// What is carried at a time, at most.
pub const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Made and not yet carried away; then the maker waits.
const CHUNKS_MAX: usize = 16;

fn bell() -> io::Result<Arc<EventFd>> {
    Ok(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
}

fn ring(bell: &EventFd) {
    // A counter that is full rings as well.
    let _ = bell.write(1);
}

/// From the thread that makes a snapshot to the engine.
pub fn outgoing() -> io::Result<(Outlet, Chunks)> {
    let (to, from) = sync_channel(CHUNKS_MAX);
    let bell = bell()?;
    let outlet = Outlet { to, bell: bell.clone(), buffer: Vec::with_capacity(CHUNK_BYTES_MAX) };
    Ok((outlet, Chunks { from, bell }))
}

/// Where the snapshot is written to.
pub struct Outlet {
    to: SyncSender<Result<Vec<u8>, String>>,
    bell: Arc<EventFd>,
    buffer: Vec<u8>,
}

impl Outlet {
    fn send(&self, what: Result<Vec<u8>, String>) -> io::Result<()> {
        let sent = self.to.send(what).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        ring(&self.bell);
        sent
    }

    /// There is no snapshot; why.
    pub fn fail(self, why: String) {
        // Whoever has dropped the other end wants to know nothing.
        let _ = self.send(Err(why));
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK_BYTES_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == CHUNK_BYTES_MAX {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES_MAX));
        self.send(Ok(chunk))
    }
}

/// What comes next of a snapshot that is being made.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Chunk(Vec<u8>),
    /// Nothing at the moment.
    Later,
    /// That was all.
    End,
    Failed(String),
}

/// The engine's end. Dropped, the maker gives up.
pub struct Chunks {
    from: Receiver<Result<Vec<u8>, String>>,
    bell: Arc<EventFd>,
}

impl Chunks {
    /// Readable when there may be more.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub fn next(&self) -> Next {
        match self.from.try_recv() {
            Ok(Ok(chunk)) => Next::Chunk(chunk),
            Ok(Err(why)) => Next::Failed(why),
            Err(TryRecvError::Empty) => Next::Later,
            Err(TryRecvError::Disconnected) => Next::End,
        }
    }
}

/// From the engine to the thread that uses a snapshot.
pub fn incoming() -> io::Result<(Inlet, Intake)> {
    let (to, from) = channel();
    let taken = Arc::new(AtomicU64::new(0));
    let bell = bell()?;
    let intake = Intake { from, chunk: Vec::new(), at: 0, taken: taken.clone(), bell: bell.clone() };
    Ok((Inlet { to, taken, bell }, intake))
}

/// Where the engine puts what came. What waits in it is bounded by what the sender may send before it is told of
/// [`Inlet::taken`].
pub struct Inlet {
    to: Sender<Vec<u8>>,
    taken: Arc<AtomicU64>,
    bell: Arc<EventFd>,
}

impl Inlet {
    pub fn put(&self, chunk: &[u8]) {
        // Nobody takes it any more: whoever used it has failed, and says so.
        let _ = self.to.send(chunk.to_vec());
    }

    /// Bytes that were used so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Readable when more was used.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// From now on it is readable for what comes then.
    pub fn heed(&self) {
        let _ = self.bell.read();
    }

    /// Makes it readable.
    pub fn bell(&self) -> impl Fn() + Send + use<> {
        let bell = self.bell.clone();
        move || ring(&bell)
    }
}

/// Where the snapshot is read from.
pub struct Intake {
    from: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    taken: Arc<AtomicU64>,
    bell: Arc<EventFd>,
}


impl Read for Intake {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            self.taken.fetch_add(self.chunk.len() as u64, Ordering::Relaxed);
            ring(&self.bell);
            self.chunk.clear();
            self.at = 0;
            let Ok(chunk) = self.from.recv() else { return Ok(0) };
            (self.chunk, self.at) = (chunk, 0);
        }
        let n = to.len().min(self.chunk.len() - self.at);
        to[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_is_written_on_one_host_is_read_on_the_other() {
        let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        let (mut outlet, chunks) = outgoing().unwrap();
        let (inlet, mut intake) = incoming().unwrap();
        let given = bytes.clone();
        let maker = thread::spawn(move || {
            given.chunks(100_003).for_each(|c| outlet.write_all(c).unwrap());
            outlet.flush().unwrap();
        });
        let user = thread::spawn(move || {
            let mut got = Vec::new();
            intake.read_to_end(&mut got).unwrap();
            got
        });
        loop {
            match chunks.next() {
                Next::Chunk(c) => inlet.put(&c),
                Next::Later => thread::yield_now(),
                Next::End => break,
                Next::Failed(why) => panic!("{why}"),
            }
        }
        maker.join().unwrap();
        drop(inlet);
        assert!(user.join().unwrap() == bytes);
    }

    #[test]
    fn a_maker_whose_reader_has_gone_gives_up_and_one_that_fails_says_why() {
        let (mut outlet, chunks) = outgoing().unwrap();
        drop(chunks);
        assert!(outlet.write_all(&vec![1; CHUNK_BYTES_MAX]).is_err());
        let (outlet, chunks) = outgoing().unwrap();
        assert_eq!(chunks.next(), Next::Later);
        outlet.fail("why".into());
        assert_eq!(chunks.next(), Next::Failed("why".into()));
    }

    #[test]
    fn only_what_was_used_counts_as_taken() {
        let (inlet, mut intake) = incoming().unwrap();
        inlet.put(&[1; 10]);
        inlet.put(&[2; 10]);
        let mut b = [0; 11];
        intake.read_exact(&mut b).unwrap();
        assert_eq!(inlet.taken(), 10);
        let is_heard = || {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            poll(&mut [PollFd::new(inlet.fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
        };
        assert!(is_heard());
        inlet.heed();
        assert!(!is_heard());
        inlet.bell()();
        assert!(is_heard());
    }
}
