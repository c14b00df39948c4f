//! Single-producer single-consumer ring of frames in shared memory, both ends. The only unsafe of this crate.
//!
//! A frame is `[length: u32][payload][padding to 8]` and never wraps: where it would, the producer leaves a
//! skip mark and starts again at offset 0. So a consumer reads frames in place. Either side may be a broken or
//! hostile program: indices and lengths are checked before use, and payloads are decoded as foreign bytes.
//!
//! Waiting is the caller's (futex on [`Control::consumer_waits`] or [`Control::producer_waits`]): a side that
//! wants to sleep stores 1 there, looks once more, and sleeps while the word is 1; the other side, after
//! publishing, swaps it to 0 and wakes when it was 1.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Each index on a cache line of its own.
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// The words both ends share. Zeroed memory is an empty ring.
#[repr(C)]
pub struct Control {
    /// Bytes ever written; the producer's.
    head: Line<AtomicU64>,
    /// Bytes ever released; the consumer's.
    tail: Line<AtomicU64>,
    pub consumer_waits: Line<AtomicU32>,
    pub producer_waits: Line<AtomicU32>,
}

impl Control {
    #[cfg_attr(loom, allow(clippy::new_without_default))]
    pub fn new() -> Self {
        Self {
            head: Line(AtomicU64::new(0)),
            tail: Line(AtomicU64::new(0)),
            consumer_waits: Line(AtomicU32::new(0)),
            producer_waits: Line(AtomicU32::new(0)),
        }
    }

    /// Producer: after publishing. True: the consumer sleeps on `consumer_waits` and must be woken.
    pub fn must_wake_consumer(&self) -> bool {
        must_wake(&self.consumer_waits.0)
    }

    /// Consumer: after releasing. True: the producer sleeps on `producer_waits` and must be woken.
    pub fn must_wake_producer(&self) -> bool {
        must_wake(&self.producer_waits.0)
    }

    /// The consumer has released everything that was published. True only for an instant unless the producer
    /// asks.
    pub fn is_drained(&self) -> bool {
        self.tail.0.load(Ordering::Acquire) == self.head.0.load(Ordering::Acquire)
    }

    /// Bytes the consumer ever released: a measure of its progress.
    pub fn released(&self) -> u64 {
        self.tail.0.load(Ordering::Relaxed)
    }

    /// Empties the ring. Only while neither end is in use.
    pub fn reset(&self) {
        self.head.0.store(0, Ordering::SeqCst);
        self.tail.0.store(0, Ordering::SeqCst);
        self.consumer_waits.0.store(0, Ordering::SeqCst);
        self.producer_waits.0.store(0, Ordering::SeqCst);
    }
}

#[cfg(not(loom))]
impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

fn must_wake(word: &AtomicU32) -> bool {
    // Pairs with `announce_wait`: either we see the 1, or the sleeper sees what we published.
    fence(Ordering::SeqCst);
    word.load(Ordering::Relaxed) == 1 && word.swap(0, Ordering::Relaxed) == 1
}

/// A side about to sleep on `word` calls this, then looks at the ring once more, then sleeps while the word is 1.
pub fn announce_wait(word: &AtomicU32) {
    word.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// The bytes of a ring.
pub trait Storage {
    /// A power of two, at least 64.
    fn capacity(&self) -> usize;
    fn write(&self, at: usize, bytes: &[u8]);
    fn read(&self, at: usize, bytes: &mut [u8]);
}

/// Memory that another process maps too.
#[derive(Clone, Copy)]
pub struct SharedBytes {
    base: *mut u8,
    capacity: usize,
}

// SAFETY: the memory is shared between processes anyway; the ring's protocol gives each byte one writer at a time.
unsafe impl Send for SharedBytes {}

impl SharedBytes {
    /// # Safety
    /// `base` is valid for reads and writes of `capacity` bytes as long as the value lives, and only one
    /// producer and one consumer use it.
    pub unsafe fn new(base: *mut u8, capacity: usize) -> Self {
        assert!(capacity.is_power_of_two() && capacity >= 64);
        Self { base, capacity }
    }

    /// The consumer's view of a published frame.
    fn slice(&self, at: usize, len: usize) -> &[u8] {
        assert!(at <= self.capacity && len <= self.capacity - at);
        // SAFETY: inside the mapping by the assertion; the producer doesn't touch published bytes until the
        // consumer releases them, which ends the borrow of the consumer that this slice comes from.
        unsafe { core::slice::from_raw_parts(self.base.add(at), len) }
    }
}

impl Storage for SharedBytes {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.capacity && bytes.len() <= self.capacity - at);
        // SAFETY: inside the mapping by the assertion; unpublished bytes are the producer's alone.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) }
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.slice(at, bytes.len()));
    }
}

/// The other side wrote indices or lengths that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

impl core::fmt::Display for Corrupt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the ring's other side wrote impossible indices")
    }
}

impl core::error::Error for Corrupt {}

const LENGTH_BYTES: usize = 4;
const SKIP: u32 = u32::MAX;

const fn frame_bytes(payload: usize) -> usize {
    (LENGTH_BYTES + payload + 7) & !7
}

pub struct Producer<'a, S> {
    control: &'a Control,
    storage: S,
}

impl<'a, S: Storage> Producer<'a, S> {
    pub fn new(control: &'a Control, storage: S) -> Self {
        Self { control, storage }
    }

    pub fn control(&self) -> &'a Control {
        self.control
    }

    /// Publishes one frame made of `head` and `payload`. `Ok(false)`: no room now.
    ///
    /// A frame larger than half the ring never fits: that is the caller's bug.
    pub fn push(&mut self, head: &[u8], payload: &[u8]) -> Result<bool, Corrupt> {
        let capacity = self.storage.capacity();
        let len = head.len() + payload.len();
        let need = frame_bytes(len);
        assert!(need <= capacity / 2, "a frame must fit half the ring");
        let head_at = self.control.head.0.load(Ordering::Relaxed);
        let used = head_at.wrapping_sub(self.control.tail.0.load(Ordering::Acquire));
        if used > capacity as u64 {
            return Err(Corrupt);
        }
        let free = capacity - used as usize;
        let mut at = head_at as usize & (capacity - 1);
        let to_end = capacity - at;
        let skip = if to_end < need { to_end } else { 0 };
        if skip + need > free {
            return Ok(false);
        }
        if skip > 0 {
            self.storage.write(at, &SKIP.to_le_bytes());
            at = 0;
        }
        self.storage.write(at, &(len as u32).to_le_bytes());
        self.storage.write(at + LENGTH_BYTES, head);
        self.storage.write(at + LENGTH_BYTES + head.len(), payload);
        self.control.head.0.store(head_at.wrapping_add((skip + need) as u64), Ordering::Release);
        Ok(true)
    }
}

pub struct Consumer<'a, S> {
    control: &'a Control,
    storage: S,
}

impl<'a, S: Storage> Consumer<'a, S> {
    pub fn new(control: &'a Control, storage: S) -> Self {
        Self { control, storage }
    }

    pub fn control(&self) -> &'a Control {
        self.control
    }

    /// Offset, length and total size (skip mark included) of the next frame.
    fn next(&self) -> Result<Option<(usize, usize, usize)>, Corrupt> {
        let capacity = self.storage.capacity();
        let tail = self.control.tail.0.load(Ordering::Relaxed);
        let have = self.control.head.0.load(Ordering::Acquire).wrapping_sub(tail);
        if have == 0 {
            return Ok(None);
        }
        if have > capacity as u64 || have % 8 != 0 {
            return Err(Corrupt);
        }
        let have = have as usize;
        let mut at = tail as usize & (capacity - 1);
        let mut skipped = 0;
        let mut length = self.length(at);
        if length == SKIP {
            skipped = capacity - at;
            if skipped + 8 > have {
                return Err(Corrupt);
            }
            at = 0;
            length = self.length(at);
        }
        let need = frame_bytes(length as usize);
        if length == SKIP || need > capacity / 2 || skipped + need > have || at + need > capacity {
            return Err(Corrupt);
        }
        Ok(Some((at + LENGTH_BYTES, length as usize, skipped + need)))
    }

    fn length(&self, at: usize) -> u32 {
        let mut b = [0; LENGTH_BYTES];
        self.storage.read(at, &mut b);
        u32::from_le_bytes(b)
    }

    pub fn is_empty(&self) -> Result<bool, Corrupt> {
        Ok(self.next()?.is_none())
    }

    /// Copies the next frame out and releases it; its length, or `None` when the ring is empty.
    /// `buffer` holds at least the largest frame that is ever pushed.
    pub fn pop_into(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Corrupt> {
        let Some((at, len, total)) = self.next()? else { return Ok(None) };
        if len > buffer.len() {
            return Err(Corrupt);
        }
        self.storage.read(at, &mut buffer[..len]);
        self.release(total);
        Ok(Some(len))
    }

    fn release(&mut self, total: usize) {
        let tail = self.control.tail.0.load(Ordering::Relaxed);
        self.control.tail.0.store(tail.wrapping_add(total as u64), Ordering::Release);
    }
}

impl Consumer<'_, SharedBytes> {
    /// Hands the next frame to `f` in place. `f` returns whether the frame is done with; if so it is released.
    /// `None`: the ring is empty.
    pub fn with_next<R>(&mut self, f: impl FnOnce(&[u8]) -> (bool, R)) -> Result<Option<R>, Corrupt> {
        let Some((at, len, total)) = self.next()? else { return Ok(None) };
        let (done, r) = f(self.storage.slice(at, len));
        if done {
            self.release(total);
        }
        Ok(Some(r))
    }
}
