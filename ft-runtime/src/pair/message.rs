//! What the engines of a pair say to each other over the link. Entries and births are numbered by their order;
//! everything else is not of the log.

use ft_log::codec::{DecodeError, Reader, Writer};
use ft_log::ids::{ConnId, DomainId, LogIndex, Term};

/// Kinds of frames on the link.
pub mod kind {
    /// One log entry of a domain.
    pub const ENTRY: u8 = 1;
    /// A TCP connection's birth: also of the log.
    pub const BIRTH: u8 = 2;
    /// The primary's kernel is done with a connection.
    pub const GONE: u8 = 3;
    /// The backup's engine holds the log up to here.
    pub const ACK: u8 = 4;
    pub const HEARTBEAT: u8 = 5;
    /// JSON: what a host is, before anything runs.
    pub const HELLO: u8 = 6;
    /// JSON: what the guest is started with; the log begins after it.
    pub const START: u8 = 7;
    /// The backup's guest is started.
    pub const READY: u8 = 8;
    /// The sender leaves; text says why.
    pub const BYE: u8 = 9;
}

/// Room for the head of any message here.
pub const HEAD_BYTES: usize = 64;

/// Who the sender is and how far it got; from both sides, many times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub term: Term,
    /// The sender's log: appended on the primary, received on the backup.
    pub index: LogIndex,
    /// Input point that the sender's guest has reached.
    pub point: u64,
    /// Counts the sender's heartbeats.
    pub seq: u64,
    /// The last one it has heard of the other side: what a lease is measured from.
    pub echo: u64,
}

impl Heartbeat {
    pub fn encode(&self, w: &mut Writer) {
        w.uint(self.term.0);
        w.uint(self.index.0);
        w.uint(self.point);
        w.uint(self.seq);
        w.uint(self.echo);
    }

    pub fn decode(b: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(b);
        let h = Self { term: Term(r.uint()?), index: LogIndex(r.uint()?), point: r.uint()?, seq: r.uint()?, echo: r.uint()? };
        r.end()?;
        Ok(h)
    }
}

/// Head of an ENTRY frame; the encoded entry follows.
pub fn encode_domain(d: DomainId, w: &mut Writer) {
    w.uint(d.0.into());
}

pub fn decode_entry(b: &[u8]) -> Result<(DomainId, &[u8]), DecodeError> {
    let mut r = Reader::new(b);
    let d = DomainId(r.u16()?);
    Ok((d, r.rest()))
}

pub fn decode_index(b: &[u8]) -> Result<LogIndex, DecodeError> {
    let mut r = Reader::new(b);
    let i = LogIndex(r.uint()?);
    r.end()?;
    Ok(i)
}

pub fn decode_conn(b: &[u8]) -> Result<ConnId, DecodeError> {
    let mut r = Reader::new(b);
    let c = ConnId(r.u32()?);
    r.end()?;
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_come_back_and_nothing_else_does() {
        let h = Heartbeat { term: Term(3), index: LogIndex(1 << 40), point: 77, seq: 9, echo: 1 << 50 };
        let mut b = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut b);
        h.encode(&mut w);
        let n = w.len();
        assert_eq!(Heartbeat::decode(&b[..n]), Ok(h));
        assert!(Heartbeat::decode(&b[..n - 1]).is_err());
        assert!(Heartbeat::decode(&b[..=n]).is_err());
    }
}
