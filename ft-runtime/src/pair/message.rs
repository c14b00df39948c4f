//! What the engines of a service say to each other over the link. Entries and births are numbered by their order;
//! everything else is not of the log.
//!
//! What decides who serves, and what may leave, names the host that says it: ROLE, HEARTBEAT, ACK. Its decoders demand the
//! host that the link is with.

use crate::failover::Message;
use crate::failover::message::{Drop, Hello, Kept, Preferred, Role, Stance, Yield};
use crate::failover::record::{HostId, Members, MembersError};
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
    /// The sender's engine holds the log up to here.
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
pub const HEAD_BYTES: usize = 96;

/// Why a message can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error(transparent)]
    Codec(#[from] DecodeError),
    #[error(transparent)]
    Members(#[from] MembersError),
    #[error("it names host {named}, and this link is with host {peer}")]
    Sender { named: HostId, peer: HostId },
}

fn sender(r: &mut Reader, peer: HostId) -> Result<(), MessageError> {
    let named = HostId(r.fixed64()?);
    if named == peer { Ok(()) } else { Err(MessageError::Sender { named, peer }) }
}

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
    pub fn encode(&self, by: HostId, w: &mut Writer) {
        w.fixed64(by.0);
        w.uint(self.seq);
        w.uint(self.echo);
        w.u8(self.would_serve.into());
    }

    pub fn decode(b: &[u8], peer: HostId) -> Result<Self, MessageError> {
        let mut r = Reader::new(b);
        sender(&mut r, peer)?;
        let (seq, echo) = (r.uint()?, r.uint()?);
        let would_serve = match r.u8()? {
            0 => false,
            1 => true,
            n => return Err(DecodeError::Unknown(n).into()),
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

/// `by` holds the log up to `upto`.
pub fn encode_ack(by: HostId, upto: LogIndex, w: &mut Writer) {
    w.fixed64(by.0);
    w.uint(upto.0);
}

pub fn decode_ack(b: &[u8], peer: HostId) -> Result<LogIndex, MessageError> {
    let mut r = Reader::new(b);
    sender(&mut r, peer)?;
    let upto = LogIndex(r.uint()?);
    r.end()?;
    Ok(upto)
}

pub fn decode_number(b: &[u8]) -> Result<u64, DecodeError> {
    let mut r = Reader::new(b);
    let n = r.uint()?;
    r.end()?;
    Ok(n)
}

pub fn decode_conn(b: &[u8]) -> Result<ConnId, DecodeError> {
    let mut r = Reader::new(b);
    let c = ConnId(r.u32()?);
    r.end()?;
    Ok(c)
}

const NOTHING: [u64; 2] = [0; 2];

/// Who says it, a tag and two numbers, whatever the message; one that tells of the set of members ends with it.
pub fn encode_role(by: HostId, m: &Message, w: &mut Writer) {
    w.fixed64(by.0);
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
        Message::InSync { term, .. } => (5, [term.0, 0]),
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
    if let Message::InSync { in_sync, .. } = m {
        encode_members(in_sync, w);
    }
}

fn encode_members(m: &Members, w: &mut Writer) {
    w.u8(m.as_slice().len() as u8);
    m.iter().for_each(|h| w.fixed64(h.0));
}

fn decode_members(r: &mut Reader) -> Result<Members, MessageError> {
    let count = r.u8()?;
    let hosts = (0..count).map(|_| r.fixed64().map(HostId)).collect::<Result<Vec<_>, _>>()?;
    Ok(Members::from_sorted(&hosts)?)
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

pub fn decode_role(b: &[u8], peer: HostId) -> Result<Message, MessageError> {
    let mut r = Reader::new(b);
    sender(&mut r, peer)?;
    let tag = r.u8()?;
    let (first, second) = (r.uint()?, r.uint()?);
    let message = match tag {
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
                n => return Err(unknown(n).into()),
            };
            Message::Hello(Hello { role, term: Term(second) })
        }
        1 => Message::Ping { nonce: first },
        2 => Message::Pong { nonce: first },
        3 => Message::Adding { term: Term(first), nonce: second },
        4 => Message::Ready { nonce: first },
        5 => Message::InSync { term: Term(first), in_sync: decode_members(&mut r)? },
        6 => {
            let why = match second {
                0 => Yield::GuestDied,
                1 => Yield::Diverged,
                2 => Yield::ServiceNetLost,
                3 => Yield::Shutdown,
                4 => Yield::Switchover,
                5 => Yield::DiskFailed,
                n => return Err(unknown(n).into()),
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
                n => return Err(unknown(n).into()),
            };
            Message::Kept { why }
        }
        n => return Err(unknown(n.into()).into()),
    };
    r.end()?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::record::MEMBERS_MAX;
    use crate::failover::record::tests::any_members;
    use proptest::prelude::*;

    const PEER: HostId = HostId(u64::MAX - 1);

    fn encoded(encode: impl Fn(&mut Writer)) -> Vec<u8> {
        let mut b = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut b);
        encode(&mut w);
        let n = w.len();
        b[..n].to_vec()
    }

    /// Only whole, with nothing behind, and only from the host that the link is with.
    fn comes_back<T: PartialEq + std::fmt::Debug>(
        value: T,
        bytes: &[u8],
        decode: impl Fn(&[u8], HostId) -> Result<T, MessageError>,
    ) {
        assert_eq!(decode(bytes, PEER), Ok(value));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], PEER).is_err());
        }
        assert_eq!(decode(&[bytes, &[0]].concat(), PEER), Err(DecodeError::Trailing(1).into()));
        let other = HostId(7);
        assert_eq!(decode(bytes, other), Err(MessageError::Sender { named: PEER, peer: other }));
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let roles = vec![
            Role::Empty { prefers: Preferred::Primary },
            Role::Empty { prefers: Preferred::Backup },
            Role::Joining,
            Role::Backup,
            Role::Taking,
            Role::Primary(Stance::Waits),
            Role::Primary(Stance::Alone),
            Role::Primary(Stance::Paused),
            Role::Yielding,
            Role::Failed,
        ];
        let yields = vec![Yield::GuestDied, Yield::Diverged, Yield::ServiceNetLost, Yield::Shutdown, Yield::Switchover, Yield::DiskFailed];
        let drops = vec![Drop::GuestDied, Drop::Diverged, Drop::Shutdown, Drop::Detached];
        let kept = vec![Kept::NoArbiter, Kept::ArbiterSilent, Kept::Busy];
        let term = || any::<u64>().prop_map(Term);
        let nonce = any::<u64>;
        let select = prop::sample::select::<Drop>;
        prop_oneof![
            (prop::sample::select(roles), term()).prop_map(|(role, term)| Message::Hello(Hello { role, term })),
            nonce().prop_map(|nonce| Message::Ping { nonce }),
            nonce().prop_map(|nonce| Message::Pong { nonce }),
            (term(), nonce()).prop_map(|(term, nonce)| Message::Adding { term, nonce }),
            nonce().prop_map(|nonce| Message::Ready { nonce }),
            (term(), any_members()).prop_map(|(term, in_sync)| Message::InSync { term, in_sync }),
            (term(), prop::sample::select(yields)).prop_map(|(term, why)| Message::TakeOver { term, why }),
            term().prop_map(|term| Message::CannotTakeOver { term }),
            select(drops.clone()).prop_map(|why| Message::DropOut { why }),
            select(drops).prop_map(|why| Message::Dismissed { why }),
            Just(Message::Detach),
            prop::sample::select(kept).prop_map(|why| Message::Kept { why }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_of_roles_comes_back_and_nothing_else_does(m in any_message()) {
            comes_back(m, &encoded(|w| encode_role(PEER, &m, w)), decode_role);
        }

        #[test]
        fn heartbeats_come_back_and_nothing_else_does(seq in any::<u64>(), echo in any::<u64>(), would_serve in any::<bool>()) {
            let h = Heartbeat { seq, echo, would_serve };
            comes_back(h, &encoded(|w| h.encode(PEER, w)), Heartbeat::decode);
        }

        #[test]
        fn acknowledgements_come_back_and_nothing_else_does(upto in any::<u64>()) {
            comes_back(LogIndex(upto), &encoded(|w| encode_ack(PEER, LogIndex(upto), w)), decode_ack);
        }

        #[test]
        fn bytes_of_all_kinds_are_no_panic(bytes in prop::collection::vec(0u8..14, 0..90)) {
            let bytes = [&PEER.0.to_le_bytes()[..], &bytes].concat();
            let _ = (decode_role(&bytes, PEER), Heartbeat::decode(&bytes, PEER), decode_ack(&bytes, PEER));
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for wrong in [[12, 0, 0], [0, 10, 0], [6, 0, 6], [8, 4, 0], [11, 3, 0]] {
            let bytes = [&PEER.0.to_le_bytes()[..], &wrong].concat();
            assert!(matches!(decode_role(&bytes, PEER), Err(MessageError::Codec(DecodeError::Unknown(_)))), "{wrong:?}");
        }
        let mut beat = encoded(|w| Heartbeat { seq: 9, echo: 1 << 50, would_serve: true }.encode(PEER, w));
        *beat.last_mut().unwrap() = 2;
        assert_eq!(Heartbeat::decode(&beat, PEER), Err(DecodeError::Unknown(2).into()));
    }

    #[test]
    fn what_is_no_set_of_members_is_refused() {
        let in_sync = |members: &[u64]| {
            let mut out = [&PEER.0.to_le_bytes()[..], &[5, 3, 0, members.len() as u8]].concat();
            out.extend(members.iter().flat_map(|m| m.to_le_bytes()));
            decode_role(&out, PEER)
        };
        assert!(in_sync(&[1, 2, 3, 4, 5, 6, 7]).is_ok());
        assert_eq!(in_sync(&[]), Err(MembersError::Count(0).into()));
        assert_eq!(in_sync(&[1, 2, 3, 4, 5, 6, 7, 8]), Err(MembersError::Count(MEMBERS_MAX + 1).into()));
        assert_eq!(in_sync(&[4, 4]), Err(MembersError::Order(HostId(4)).into()));
        assert_eq!(in_sync(&[4, 1]), Err(MembersError::Order(HostId(1)).into()));
    }
}
