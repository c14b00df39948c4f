//! A connection's output from the last acknowledged byte on. Positions count from the connection's start.

use std::collections::VecDeque;

/// A queue that holds no more than this keeps no memory for much more.
pub const KEEP_BYTES: usize = 4 << 10;

/// `acked <= written <= end`.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// From position `acked` to `end`. Acknowledged late is kept long: a backup may need it.
    bytes: VecDeque<u8>,
    acked: u64,
    written: u64,
}

impl SendQueue {
    /// Of an empty one: what comes next is at this position, and the peer has all before it.
    pub fn begin_at(&mut self, acked: u64) {
        assert!(self.end() == 0, "it has begun");
        (self.acked, self.written) = (acked, acked);
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The peer has everything before.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The kernel has everything before.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The guest made everything before.
    pub fn end(&self) -> u64 {
        self.acked + self.bytes.len() as u64
    }

    /// What the kernel doesn't have, up to `limit`, in at most two pieces.
    pub fn unwritten(&self, limit: u64) -> (&[u8], &[u8]) {
        let from = (self.written - self.acked) as usize;
        let to = (limit.clamp(self.written, self.end()) - self.acked) as usize;
        let (a, b) = self.bytes.as_slices();
        let in_a = from.min(a.len())..to.min(a.len());
        let in_b = from.saturating_sub(a.len())..to.saturating_sub(a.len());
        if in_a.is_empty() { (&b[in_b], &[]) } else { (&a[in_a], &b[in_b]) }
    }

    pub fn wrote(&mut self, n: usize) {
        self.written += n as u64;
        assert!(self.written <= self.end(), "more written than there is");
    }

    /// Everything, in at most two pieces.
    pub fn all(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }

    /// A kernel has everything before `upto`, here or on another host.
    pub fn wrote_elsewhere(&mut self, upto: u64) {
        assert!(upto <= self.end(), "written what was never made");
        self.written = self.written.max(upto);
    }

    /// Forgets what the peer has.
    pub fn prune(&mut self, acked: u64) {
        assert!((self.acked..=self.written).contains(&acked), "acknowledged what was never written");
        self.bytes.drain(..(acked - self.acked) as usize);
        self.acked = acked;
        if self.bytes.len() <= KEEP_BYTES && self.bytes.capacity() > 4 * KEEP_BYTES {
            // Copied, not shrunk in place: what stayed of each would keep the rest from becoming one piece again.
            self.bytes = self.bytes.iter().copied().collect();
        }
    }

    /// The connection broke: nothing will be written or acknowledged any more.
    pub fn abandon(&mut self) {
        let end = self.end();
        self.bytes = VecDeque::new();
        self.acked = end;
        self.written = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_queue_is_a_window_on_the_stream(steps in prop::collection::vec((0usize..500, 0usize..500, 0usize..500, 0u64..600), 1..100)) {
            let byte = |p: u64| (p * 7 + p / 251) as u8;
            let mut q = SendQueue::default();
            for (push, write, ack, hold) in steps {
                let from = q.end();
                q.push(&(0..push as u64).map(|k| byte(from + k)).collect::<Vec<_>>());
                let limit = q.end().saturating_sub(hold);
                let (a, b) = q.unwritten(limit);
                let all = [a, b].concat();
                prop_assert_eq!(all.len() as u64, limit.saturating_sub(q.written()));
                prop_assert!(all.iter().enumerate().all(|(k, x)| *x == byte(q.written() + k as u64)));
                q.wrote(write.min(all.len()));
                let acked = (q.acked() + ack as u64).min(q.written());
                q.prune(acked);
                prop_assert_eq!(q.acked(), acked);
            }
        }
    }
}
