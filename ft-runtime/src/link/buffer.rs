//! A fixed piece of memory that bytes enter at the end and leave at the front.

use std::fmt;

pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.len(), self.bytes.len())
    }
}

impl Buffer {
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into(), start: 0, end: 0 }
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Free bytes behind the filled ones: at least `wanted` if there are as many in all, or a slice that is shorter.
    pub fn room(&mut self, wanted: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < wanted && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// The first `n` bytes of the room were filled.
    pub fn filled_more(&mut self, n: usize) {
        assert!(n <= self.bytes.len() - self.end, "filled beyond the buffer");
        self.end += n;
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled_more(bytes.len());
    }

    /// The first `n` bytes are done with.
    pub fn discard(&mut self, n: usize) {
        assert!(n <= self.len(), "discarded more than there is");
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_enters_leaves_in_order() {
        let mut b = Buffer::new(8);
        b.push(b"abcdef");
        b.discard(4);
        b.push(b"ghijkl");
        assert_eq!(b.filled(), b"efghijkl");
        assert!(b.room(1).is_empty());
        b.discard(8);
        assert_eq!(b.len(), 0);
        assert_eq!(b.room(1).len(), 8);
    }
}
