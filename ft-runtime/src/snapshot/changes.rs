//! What the guest tells of its files while they are copied: from the engine, which hears it, to the thread that copies.

use super::SnapshotError;
use super::tree::Replaced;
use ft_log::shared::{Segment, files};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Told and not yet written. More, and the snapshot is given up: it would never be done.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// Something that happens to files.
#[derive(Debug)]
pub enum Told {
    Replaced(Replaced),
    /// It can't be undone; why.
    Untold(String),
}

/// The engine's end. What is told is over when it is dropped.
pub struct Teller {
    to: Sender<Told>,
    waiting: Arc<AtomicUsize>,
    was_free: bool,
}

/// The copying thread's end.
pub struct Changes {
    from: Receiver<Told>,
    waiting: Arc<AtomicUsize>,
    word: &'static AtomicU32,
}

pub fn changes(segment: &Segment) -> (Teller, Changes) {
    let (to, from) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let word = &segment.header().files;
    (Teller { to, waiting: waiting.clone(), was_free: false }, Changes { from, waiting, word })
}

impl Teller {
    pub fn tell(&self, told: Told) {
        let bytes = if let Told::Replaced(r) = &told { r.bytes.len() } else { 0 };
        let told = match self.waiting.fetch_add(bytes, Ordering::Relaxed) {
            n if n <= WAITING_BYTES_MAX => told,
            _ => Told::Untold("the server replaces what is in its files faster than they can be copied".into()),
        };
        // Without the other end the snapshot has failed, and that is told.
        let _ = self.to.send(told);
    }

    /// Whether all was heard. `drained`: the rings of all domains were read to their ends since the last call.
    pub fn is_over(&mut self, segment: &Segment, drained: bool) -> bool {
        let was_free = std::mem::replace(&mut self.was_free, segment.header().files.load(Ordering::Acquire) == files::FREE);
        was_free && drained
    }
}

impl Changes {
    /// Files were listed: names may change.
    pub fn listed(&self) {
        self.set(files::READ);
    }

    /// Nothing is read any more: content may change untold.
    pub fn free(&self) {
        self.set(files::FREE);
    }

    fn set(&self, state: u32) {
        self.word.store(state, Ordering::Release);
        // SAFETY: FUTEX_WAKE only uses the word's address, which is valid by the reference.
        unsafe { libc::syscall(libc::SYS_futex, self.word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// What was told by now.
    pub fn now(&self) -> impl Iterator<Item = Result<Replaced, SnapshotError>> {
        self.from.try_iter().map(|t| self.take(t))
    }

    /// What is told until the end, which comes soon after [`Self::free`].
    pub fn rest(&self) -> impl Iterator<Item = Result<Replaced, SnapshotError>> {
        self.from.iter().map(|t| self.take(t))
    }

    fn take(&self, told: Told) -> Result<Replaced, SnapshotError> {
        match told {
            Told::Replaced(r) => {
                self.waiting.fetch_sub(r.bytes.len(), Ordering::Relaxed);
                Ok(r)
            }
            Told::Untold(why) => Err(SnapshotError::Unsupported(why)),
        }
    }
}

/// Whatever became of the snapshot, the guest waits no longer.
impl Drop for Changes {
    fn drop(&mut self) {
        self.free();
    }
}
