//! What the guest tells of its files while they are copied: from the engine, which hears it, to the thread that copies.

use super::SnapshotError;
use super::tree::Replaced;
use crate::engine::sys;
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
        sys::futex_wake_all(self.word);
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

#[cfg(test)]
mod tests {
    use super::super::tree::Place;
    use super::*;
    use ft_log::shared::SEGMENT_BYTES;

    /// A segment of zeros, which is one that nobody has used.
    fn segment() -> Segment {
        let memory = memmap2::MmapMut::map_anon(SEGMENT_BYTES).unwrap();
        let base = Box::leak(Box::new(memory)).as_mut_ptr();
        // SAFETY: page-aligned, large enough, never unmapped.
        unsafe { Segment::new(base) }
    }

    fn replaced(bytes: usize) -> Told {
        Told::Replaced(Replaced { on: Place(1, 2), size: 9, offset: 0, bytes: vec![7; bytes] })
    }

    #[test]
    fn what_is_told_after_the_last_byte_was_read_counts_too() {
        let segment = segment();
        let word = &segment.header().files;
        word.store(files::LISTED, Ordering::Relaxed);
        let (mut teller, changes) = changes(&segment);
        changes.listed();
        assert_eq!(word.load(Ordering::Relaxed), files::READ);
        teller.tell(replaced(3));
        assert_eq!(changes.now().count(), 1);
        assert!(!teller.is_over(&segment, true));
        changes.free();
        // Seen for the first time: what a ring held then is told by the next.
        assert!(!teller.is_over(&segment, true));
        teller.tell(replaced(4));
        assert!(!teller.is_over(&segment, false));
        assert!(teller.is_over(&segment, true));
        drop(teller);
        assert_eq!(changes.rest().map(|r| r.unwrap().bytes.len()).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_snapshot_that_would_never_be_done_is_given_up() {
        let segment = segment();
        let (teller, changes) = changes(&segment);
        for _ in 0..2 {
            teller.tell(replaced(WAITING_BYTES_MAX / 2 + 1));
        }
        assert_eq!(changes.now().filter(Result::is_ok).count(), 2);
        for _ in 0..3 {
            teller.tell(replaced(WAITING_BYTES_MAX / 2 + 1));
        }
        assert_eq!(changes.now().filter(Result::is_err).count(), 1);
        // Whoever waits is let go, however it ends.
        segment.header().files.store(files::LISTED, Ordering::Relaxed);
        drop(changes);
        assert_eq!(segment.header().files.load(Ordering::Relaxed), files::FREE);
        teller.tell(replaced(1));
    }
}
