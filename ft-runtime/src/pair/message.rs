//! What the engines of a pair say to each other over the link. Entries and births are numbered by their order;
//! everything else is not of the log.

use crate::failover::Message;
use crate::failover::message::{Drop, Hello, Kept, Preferred, Role, Stance, Yield};
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
    /// The backup's guest is started; one that was made of a snapshot has done nearly all that has come of the log.
    pub const READY: u8 = 8;
    /// The sender leaves; text says why.
    pub const BYE: u8 = 9;
    /// Who serves: see `failover`. In order with the log.
    pub const ROLE: u8 = 10;
    /// A birth came to nothing.
    pub const STILLBORN: u8 = 11;
    /// The fingerprint of the sender's guard: see `guard`.
    pub const GUARD: u8 = 12;
    /// Whether the backup's tap hears the primary's host: see `tap::flood`.
    pub const TAPPED: u8 = 14;
    /// JSON: the sender's time of day, after both hellos.
    pub const CLOCK: u8 = 13;
    /// JSON: the state of a running service begins, see `seed`. The log goes on behind it.
    pub const SEED: u8 = 15;
    /// An event that was logged before that and not applied by the guest then, as in the log.
    pub const SEED_EVENT: u8 = 16;
    /// How a connection of that time began.
    pub const SEED_BIRTH: u8 = 17;
    /// Bytes of the guest's snapshot.
    pub const SNAPSHOT: u8 = 18;
    /// So many bytes of it were used: the sender may send more.
    pub const TAKEN: u8 = 19;
    /// A part of where the backup's guest stood when it did something else: see `divergence`.
    pub const DIVERGED: u8 = 20;
    /// Domain and number of a call that the backup's disk has failed: see `disk`.
    pub const DISK_FAILED: u8 = 21;
}

/// Room for the head of any message here.
pub const HEAD_BYTES: usize = 64;

/// The sender's engine runs; from both sides, many times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Counts the sender's heartbeats.
    pub seq: u64,
    /// The last one it has heard of the other side: what a lease is measured from.
    pub echo: u64,
    /// Clients and the arbiter would be reached from the sender.
    pub would_serve: bool,
}

impl Heartbeat {
    pub fn encode(&self, w: &mut Writer) {
        w.uint(self.seq);
        w.uint(self.echo);
        w.u8(self.would_serve.into());
    }

    pub fn decode(b: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(b);
        let (seq, echo) = (r.uint()?, r.uint()?);
        let would_serve = match r.u8()? {
            0 => false,
            1 => true,
            n => return Err(DecodeError::Unknown(n)),
        };
        let h = Self { seq, echo, would_serve };
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

const NOTHING: [u64; 2] = [0; 2];

/// A tag and two numbers, whatever the message.
pub fn encode_role(m: &Message, w: &mut Writer) {
    let (tag, numbers) = match *m {
        Message::Hello(Hello { role, term }) => {
            let role = match role {
                Role::Empty { prefers: Preferred::Primary } => 0,
                Role::Empty { prefers: Preferred::Backup } => 1,
                Role::Joining => 2,
                Role::Backup => 3,
                Role::Taking => 4,
                Role::Primary(Stance::Waits) => 5,
                Role::Primary(Stance::Alone) => 6,
                Role::Yielding => 7,
                Role::Failed => 8,
                Role::Primary(Stance::Paused) => 9,
            };
            (0, [role, term.0])
        }
        Message::Ping { nonce } => (1, [nonce, 0]),
        Message::Pong { nonce } => (2, [nonce, 0]),
        Message::Adding { term, nonce } => (3, [term.0, nonce]),
        Message::Ready { nonce } => (4, [nonce, 0]),
        Message::InSync { term } => (5, [term.0, 0]),
        Message::TakeOver { term, why } => {
            let why = match why {
                Yield::GuestDied => 0,
                Yield::Diverged => 1,
                Yield::ServiceNetLost => 2,
                Yield::Shutdown => 3,
                Yield::Switchover => 4,
                Yield::DiskFailed => 5,
            };
            (6, [term.0, why])
        }
        Message::CannotTakeOver { term } => (7, [term.0, 0]),
        Message::DropOut { why } => (8, [drop_code(why), 0]),
        Message::Dismissed { why } => (9, [drop_code(why), 0]),
        Message::Detach => (10, NOTHING),
        Message::Kept { why } => {
            let why = match why {
                Kept::NoArbiter => 0,
                Kept::ArbiterSilent => 1,
                Kept::Busy => 2,
            };
            (11, [why, 0])
        }
    };
    w.u8(tag);
    numbers.into_iter().for_each(|n| w.uint(n));
}

fn drop_code(d: Drop) -> u64 {
    match d {
        Drop::GuestDied => 0,
        Drop::Diverged => 1,
        Drop::Shutdown => 2,
        Drop::Detached => 3,
    }
}

fn drop_of(code: u64) -> Result<Drop, DecodeError> {
    Ok(match code {
        0 => Drop::GuestDied,
        1 => Drop::Diverged,
        2 => Drop::Shutdown,
        3 => Drop::Detached,
        n => return Err(unknown(n)),
    })
}

fn unknown(n: u64) -> DecodeError {
    DecodeError::Unknown(u8::try_from(n).unwrap_or(u8::MAX))
}

pub fn decode_role(b: &[u8]) -> Result<Message, DecodeError> {
    let mut r = Reader::new(b);
    let tag = r.u8()?;
    let mut numbers = NOTHING;
    for n in &mut numbers {
        *n = r.uint()?;
    }
    r.end()?;
    let [first, second] = numbers;
    Ok(match tag {
        0 => {
            let role = match first {
                0 => Role::Empty { prefers: Preferred::Primary },
                1 => Role::Empty { prefers: Preferred::Backup },
                2 => Role::Joining,
                3 => Role::Backup,
                4 => Role::Taking,
                5 => Role::Primary(Stance::Waits),
                6 => Role::Primary(Stance::Alone),
                7 => Role::Yielding,
                8 => Role::Failed,
                9 => Role::Primary(Stance::Paused),
                n => return Err(unknown(n)),
            };
            Message::Hello(Hello { role, term: Term(second) })
        }
        1 => Message::Ping { nonce: first },
        2 => Message::Pong { nonce: first },
        3 => Message::Adding { term: Term(first), nonce: second },
        4 => Message::Ready { nonce: first },
        5 => Message::InSync { term: Term(first) },
        6 => {
            let why = match second {
                0 => Yield::GuestDied,
                1 => Yield::Diverged,
                2 => Yield::ServiceNetLost,
                3 => Yield::Shutdown,
                4 => Yield::Switchover,
                5 => Yield::DiskFailed,
                n => return Err(unknown(n)),
            };
            Message::TakeOver { term: Term(first), why }
        }
        7 => Message::CannotTakeOver { term: Term(first) },
        8 => Message::DropOut { why: drop_of(first)? },
        9 => Message::Dismissed { why: drop_of(first)? },
        10 => Message::Detach,
        11 => {
            let why = match first {
                0 => Kept::NoArbiter,
                1 => Kept::ArbiterSilent,
                2 => Kept::Busy,
                n => return Err(unknown(n)),
            };
            Message::Kept { why }
        }
        n => return Err(unknown(n.into())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_roles_comes_back_and_nothing_else_does() {
        let hello = |role| Message::Hello(Hello { role, term: Term(9) });
        let mut all = vec![
            hello(Role::Empty { prefers: Preferred::Primary }),
            hello(Role::Empty { prefers: Preferred::Backup }),
            hello(Role::Joining),
            hello(Role::Backup),
            hello(Role::Taking),
            hello(Role::Primary(Stance::Waits)),
            hello(Role::Primary(Stance::Alone)),
            hello(Role::Primary(Stance::Paused)),
            hello(Role::Yielding),
            hello(Role::Failed),
            Message::Ping { nonce: 1 },
            Message::Pong { nonce: 1 << 50 },
            Message::Adding { term: Term(3), nonce: 4 },
            Message::Ready { nonce: 4 },
            Message::InSync { term: Term(5) },
            Message::CannotTakeOver { term: Term(6) },
            Message::Detach,
        ];
        let yields = [Yield::GuestDied, Yield::Diverged, Yield::ServiceNetLost, Yield::Shutdown, Yield::Switchover];
        all.extend(yields.map(|why| Message::TakeOver { term: Term(2), why }));
        all.extend([Kept::NoArbiter, Kept::ArbiterSilent, Kept::Busy].map(|why| Message::Kept { why }));
        for why in [Drop::GuestDied, Drop::Diverged, Drop::Shutdown, Drop::Detached] {
            all.extend([Message::DropOut { why }, Message::Dismissed { why }]);
        }
        for m in all {
            let mut b = [0; HEAD_BYTES];
            let mut w = Writer::new(&mut b);
            encode_role(&m, &mut w);
            let n = w.len();
            assert_eq!(decode_role(&b[..n]), Ok(m));
            assert!(decode_role(&b[..n - 1]).is_err());
            assert!(decode_role(&b[..=n]).is_err());
        }
        for wrong in [[12, 0, 0], [0, 10, 0], [6, 0, 5], [8, 4, 0], [11, 3, 0]] {
            assert!(decode_role(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn heartbeats_come_back_and_nothing_else_does() {
        let h = Heartbeat { seq: 9, echo: 1 << 50, would_serve: true };
        let mut b = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut b);
        h.encode(&mut w);
        let n = w.len();
        assert_eq!(Heartbeat::decode(&b[..n]), Ok(h));
        assert!(Heartbeat::decode(&b[..n - 1]).is_err());
        assert!(Heartbeat::decode(&b[..=n]).is_err());
        b[n - 1] = 2;
        assert!(Heartbeat::decode(&b[..n]).is_err());
    }
}
