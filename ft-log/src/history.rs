//! The last calls of a domain, where engine and guest both see them: what a report shows when two hosts did different things.
//!
//! Laws: the guest alone writes, and never waits; engines read at any time. A call that is overwritten while it is read is not given. Calls are
//! counted alike on both hosts, so the same number is the same call.

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// So many calls are kept, the last ones.
pub const CALLS_KEPT: usize = 1024;
/// Of the bytes that a call gave to the domain's digest, so many are kept, the first ones.
pub const FIRST_BYTES: usize = 48;
const FIRST_WORDS: usize = FIRST_BYTES / 8;
pub const WORDS: usize = 10 + FIRST_WORDS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastCall {
    /// Counted from 1.
    pub number: u64,
    /// The domain's digest after it.
    pub digest: u64,
    pub thread: u16,
    pub call: u16,
    /// How many bytes it gave to the digest beyond arguments and result: what was written, or read from files.
    pub bytes: u32,
    pub args: [u64; 6],
    pub result: i64,
    pub first: [u8; FIRST_BYTES],
}

impl PastCall {
    /// As it is kept, and told elsewhere.
    pub fn words(&self) -> [u64; WORDS] {
        let mut w = [0; WORDS];
        w[0] = self.number;
        w[1] = self.digest;
        w[2] = u64::from(self.thread) | u64::from(self.call) << 16 | u64::from(self.bytes) << 32;
        w[3..9].copy_from_slice(&self.args);
        w[9] = self.result as u64;
        for (word, bytes) in w[10..].iter_mut().zip(self.first.chunks_exact(8)) {
            *word = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
        }
        w
    }

    pub fn of(w: &[u64; WORDS]) -> Self {
        let mut first = [0; FIRST_BYTES];
        for (bytes, word) in first.chunks_exact_mut(8).zip(&w[10..]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self {
            number: w[0],
            digest: w[1],
            thread: w[2] as u16,
            call: (w[2] >> 16) as u16,
            bytes: (w[2] >> 32) as u32,
            args: [w[3], w[4], w[5], w[6], w[7], w[8]],
            result: w[9] as i64,
            first,
        }
    }
}

#[repr(C)]
pub struct History([[AtomicU64; WORDS]; CALLS_KEPT]);

impl Default for History {
    fn default() -> Self {
        Self(core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl History {
    fn slot(&self, number: u64) -> &[AtomicU64; WORDS] {
        &self.0[number as usize % CALLS_KEPT]
    }

    /// One more call, by the domain itself.
    pub fn push(&self, call: &PastCall) {
        let slot = self.slot(call.number);
        slot[0].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let words = call.words();
        for (to, word) in slot[1..].iter().zip(&words[1..]) {
            to.store(*word, Ordering::Relaxed);
        }
        slot[0].store(words[0], Ordering::Release);
    }

    /// The call of that number, if it is still kept.
    pub fn get(&self, number: u64) -> Option<PastCall> {
        let slot = self.slot(number);
        let mut words = [0; WORDS];
        words[0] = slot[0].load(Ordering::Acquire);
        for (word, from) in words[1..].iter_mut().zip(&slot[1..]) {
            *word = from.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        let is_whole = words[0] == number && number != 0 && slot[0].load(Ordering::Relaxed) == number;
        is_whole.then(|| PastCall::of(&words))
    }

    /// Another domain takes the slot.
    pub fn reset(&self) {
        for slot in &self.0 {
            slot[0].store(0, Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn call(number: u64) -> PastCall {
        let first = core::array::from_fn(|i| (number as usize + i) as u8);
        let args = [number, 2, 3, 4, 5, u64::MAX];
        PastCall { number, digest: number * 3, thread: 7, call: 500, bytes: 70_000, args, result: -(number as i64), first }
    }

    fn empty() -> Box<History> {
        Box::default()
    }

    #[test]
    fn the_last_calls_are_kept_and_no_others() {
        let h = empty();
        let last = 3 * CALLS_KEPT as u64;
        (1..=last).for_each(|n| h.push(&call(n)));
        let oldest = last - CALLS_KEPT as u64 + 1;
        assert_eq!(h.get(oldest - 1), None);
        assert!((oldest..=last).all(|n| h.get(n) == Some(call(n))));
        assert_eq!((h.get(last + 1), h.get(0)), (None, None));
        h.reset();
        assert_eq!(h.get(last), None);
    }

    #[test]
    fn what_is_overwritten_while_it_is_read_is_not_given() {
        let h = empty();
        let last = 200 * CALLS_KEPT as u64;
        std::thread::scope(|s| {
            s.spawn(|| (1..=last).for_each(|n| h.push(&call(n))));
            let seen = (1..=last).filter(|n| h.get(*n).inspect(|c| assert_eq!(*c, call(*n))).is_some()).count();
            assert!(seen <= last as usize);
        });
        assert_eq!(h.get(last), Some(call(last)));
    }
}
