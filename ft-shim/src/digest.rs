//! The rolling digest of what a domain does, and the hash of memory. Fast, not cryptographic: it finds
//! accidents, not adversaries.

use ft_log::history::FIRST_BYTES;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd1b5_4a32_d192_ed03;

fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    p as u64 ^ (p >> 64) as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub value: u64,
    taken: Taken,
}

/// The bytes that a digest took, for reports: how many, and the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub bytes: u32,
    pub first: [u8; FIRST_BYTES],
}

impl Taken {
    const NOTHING: Self = Self { bytes: 0, first: [0; FIRST_BYTES] };
}

impl Digest {
    pub fn new(seed: u64) -> Self {
        Self { value: seed ^ K1, taken: Taken::NOTHING }
    }

    pub fn word(&mut self, v: u64) {
        self.value = fold(self.value ^ v, K0).wrapping_add(v.rotate_left(32) ^ K1);
    }

    pub fn bytes(&mut self, b: &[u8]) {
        self.word(hash(self.value, b));
        let t = &mut self.taken;
        let at = (t.bytes as usize).min(FIRST_BYTES);
        let n = b.len().min(FIRST_BYTES - at);
        t.first[at..at + n].copy_from_slice(&b[..n]);
        t.bytes = t.bytes.saturating_add(b.len() as u32);
    }

    /// What was taken since this was last asked.
    pub fn take_taken(&mut self) -> Taken {
        if self.taken.bytes == 0 { Taken::NOTHING } else { core::mem::replace(&mut self.taken, Taken::NOTHING) }
    }
}

/// Hash of `b` with `seed`.
pub fn hash(seed: u64, b: &[u8]) -> u64 {
    let mut h0 = seed ^ K0;
    let mut h1 = (b.len() as u64).wrapping_mul(K1) ^ seed.rotate_left(17);
    let mut chunks = b.chunks_exact(16);
    for c in &mut chunks {
        let x = u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
        let y = u64::from_le_bytes([c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15]]);
        h0 = fold(h0 ^ x, K0 ^ y);
        h1 = (h1 ^ y).rotate_left(29).wrapping_add(x).wrapping_mul(K1);
    }
    let rest = chunks.remainder();
    let mut last = [0u8; 16];
    last[..rest.len()].copy_from_slice(rest);
    let x = u64::from_le_bytes([last[0], last[1], last[2], last[3], last[4], last[5], last[6], last[7]]);
    let y = u64::from_le_bytes([last[8], last[9], last[10], last[11], last[12], last[13], last[14], last[15]]);
    fold(h0 ^ x, h1 ^ K1) ^ fold(h1 ^ y, h0 ^ K0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_bit_changes_the_hash() {
        let mut b = [0u8; 100];
        let h = hash(1, &b);
        for i in 0..800 {
            b[i / 8] ^= 1 << (i % 8);
            assert_ne!(h, hash(1, &b), "bit {i}");
            b[i / 8] ^= 1 << (i % 8);
        }
        assert_ne!(hash(1, &b[..99]), h, "length");
    }

    #[test]
    fn what_was_taken_is_known_once() {
        let mut d = Digest::new(0);
        d.bytes(b"ab");
        d.bytes(&[b'c'; 100]);
        let t = d.take_taken();
        assert_eq!((t.bytes, &t.first[..3], t.first[FIRST_BYTES - 1]), (102, &b"abc"[..], b'c'));
        assert_eq!(d.take_taken(), Taken::NOTHING);
    }

    #[test]
    fn order_matters() {
        let (mut a, mut b) = (Digest::new(7), Digest::new(7));
        a.word(1);
        a.word(2);
        b.word(2);
        b.word(1);
        assert_ne!(a, b);
    }
}
