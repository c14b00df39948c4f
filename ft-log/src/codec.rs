//! Variable-length integers and byte strings. Decoding foreign bytes returns an error, never panics.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why bytes are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end before the value does.
    Truncated,
    /// A tag or flag that this version doesn't know.
    Unknown(u8),
    /// An integer longer or larger than its type.
    Overflow,
    /// Bytes remain after the value.
    Trailing(usize),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => write!(f, "the bytes end before the value does"),
            Self::Unknown(t) => write!(f, "tag {t} is unknown to this version"),
            Self::Overflow => write!(f, "an integer is larger than its type"),
            Self::Trailing(n) => write!(f, "{n} bytes remain after the value"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Writes into a caller's buffer. A buffer that is too small is the caller's bug: every writer knows its bound.
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    pub fn u8(&mut self, v: u8) {
        self.buffer[self.at] = v;
        self.at += 1;
    }

    /// LEB128: seven bits a byte, least significant first.
    pub fn uint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.u8(v as u8 | 0x80);
            v >>= 7;
        }
        self.u8(v as u8);
    }

    /// Zigzag, then LEB128.
    pub fn int(&mut self, v: i64) {
        self.uint(((v << 1) ^ (v >> 63)) as u64);
    }

    /// Eight bytes, little endian: for values without small ones (hashes).
    pub fn fixed64(&mut self, v: u64) {
        self.raw(&v.to_le_bytes());
    }

    /// Bytes without a length: the frame around them has it.
    pub fn raw(&mut self, b: &[u8]) {
        self.buffer[self.at..self.at + b.len()].copy_from_slice(b);
        self.at += b.len();
    }

    pub fn address(&mut self, a: &SocketAddr) {
        match a.ip() {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.raw(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.raw(&ip.octets());
            }
        }
        self.raw(&a.port().to_be_bytes());
    }
}

/// Reads what [`Writer`] wrote.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        if n > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            let bits = u64::from(b & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Overflow);
            }
            v |= bits << shift;
            if b & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(DecodeError::Overflow)
    }

    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let z = self.uint()?;
        Ok((z >> 1) as i64 ^ -((z & 1) as i64))
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        u16::try_from(self.uint()?).map_err(|_| DecodeError::Overflow)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.uint()?).map_err(|_| DecodeError::Overflow)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        i32::try_from(self.int()?).map_err(|_| DecodeError::Overflow)
    }

    pub fn fixed64(&mut self) -> Result<u64, DecodeError> {
        let mut b = [0; 8];
        b.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(b))
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    pub fn address(&mut self) -> Result<SocketAddr, DecodeError> {
        let ip = match self.u8()? {
            4 => {
                let mut b = [0; 4];
                b.copy_from_slice(self.take(4)?);
                IpAddr::V4(Ipv4Addr::from(b))
            }
            6 => {
                let mut b = [0; 16];
                b.copy_from_slice(self.take(16)?);
                IpAddr::V6(Ipv6Addr::from(b))
            }
            t => return Err(DecodeError::Unknown(t)),
        };
        let mut p = [0; 2];
        p.copy_from_slice(self.take(2)?);
        Ok(SocketAddr::new(ip, u16::from_be_bytes(p)))
    }

    /// The end must be here.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(DecodeError::Trailing(n)),
        }
    }
}
