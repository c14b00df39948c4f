//! What hosts and witness say to each other. Pure: bytes in, bytes out. Integers are little endian.
//!
//! ```text
//! greeting = "ftwitnss" (8) | protocol u16 | 0 (6) | nonce (16)                         32 bytes, witness first
//! frame    = length u16 | body | tag (32)                                              length = bytes of body
//! request  = protocol u16 | kind u8 | name length u8 | request u64 | name | [expect u64 | ruling]
//! answer   = protocol u16 | kind u8 | 0 u8 | request u64 | [version u64 | ruling]  or  refusal u8
//! ruling   = term u64 | owner u64 | phase u8 | members u8 (1 to 7) | member u64 each, ascending
//! ```
//!
//! Decoding never panics, and what is left over is an error.

use super::super::{Ask, Told};
use super::seal::{NONCE_BYTES, Nonce, Seal, TAG_BYTES, Tag};
use crate::failover::record::{HostId, MEMBERS_MAX, Members, Phase, Record, Ruling, Version};
use ft_log::ids::Term;
use std::io::{self, Read, Write};

/// 1 had one or two members.
pub const PROTOCOL: u16 = 2;
const MAGIC: &[u8; 8] = b"ftwitnss";
pub const GREETING_BYTES: usize = 32;
pub const NAME_BYTES_MAX: usize = 64;
const RULING_BYTES_MAX: usize = 18 + 8 * MEMBERS_MAX;
/// The longest body: a put with the longest name.
pub const BODY_BYTES_MAX: usize = 12 + NAME_BYTES_MAX + 8 + RULING_BYTES_MAX;

const READ: u8 = 1;
const PUT: u8 = 2;
const GRANTED: u8 = 1;
const LOST: u8 = 2;
const CURRENT: u8 = 3;
const REFUSED: u8 = 4;

/// The name of a service: what a record is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName(String);

impl ServiceName {
    pub fn new(name: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(fits) {
            return Err(format!(
                "{name:?} is no name of a service: 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ - @ are"
            ));
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub service: ServiceName,
    /// Grows within a connection.
    pub id: u64,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub id: u64,
    pub outcome: Result<Told, Refusal>,
}

/// Why a witness did not do what it was asked, for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it speaks another version of the protocol: run the same ft on hosts and witness")]
    Protocol,
    #[error("it keeps as many services as it can: give it less, or start another one")]
    Full,
    #[error("it could not write its state; see its log")]
    Disk,
    #[error("it could not make sense of the request")]
    Malformed,
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("that is no witness: {0:?}")]
    NoWitness([u8; 8]),
    #[error("the witness speaks protocol {0}, this ft {PROTOCOL}: run the same ft on hosts and witness")]
    Protocol(u16),
    #[error("a message of {0} bytes; {BODY_BYTES_MAX} are the most")]
    Long(usize),
    #[error("a message whose tag doesn't fit: do hosts and witness have the same key?")]
    Tag,
    #[error("a message that can't be read")]
    Malformed,
    #[error("an answer to another request")]
    Order,
}

pub fn greeting(nonce: &Nonce) -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&PROTOCOL.to_le_bytes());
    out[16..].copy_from_slice(nonce);
    out
}

pub fn read_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<Nonce, WireError> {
    let magic: [u8; 8] = bytes[..8].try_into().expect("8 bytes");
    if &magic != MAGIC {
        return Err(WireError::NoWitness(magic));
    }
    match u16::from_le_bytes([bytes[8], bytes[9]]) {
        PROTOCOL => Ok(bytes[GREETING_BYTES - NONCE_BYTES..].try_into().expect("16 bytes")),
        other => Err(WireError::Protocol(other)),
    }
}

/// A message and the tag under it, in one write.
pub fn write_frame(stream: &mut impl Write, body: &[u8], tag: &Tag) -> io::Result<()> {
    assert!(body.len() <= BODY_BYTES_MAX, "messages are bounded");
    let mut frame = Vec::with_capacity(2 + body.len() + TAG_BYTES);
    frame.extend_from_slice(&(body.len() as u16).to_le_bytes());
    frame.extend_from_slice(body);
    frame.extend_from_slice(tag);
    stream.write_all(&frame)?;
    stream.flush()
}

/// The next message; not checked yet.
pub fn read_frame(stream: &mut impl Read) -> Result<(Vec<u8>, Tag), WireError> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > BODY_BYTES_MAX {
        return Err(WireError::Long(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let mut tag = [0; TAG_BYTES];
    stream.read_exact(&mut tag)?;
    Ok((body, tag))
}

pub fn seal_request(seal: &Seal, nonce: &Nonce, body: &[u8]) -> Tag {
    seal.close(&[b"request", nonce, body])
}

pub fn is_whole_request(seal: &Seal, nonce: &Nonce, body: &[u8], tag: &Tag) -> bool {
    seal.is_whole(&[b"request", nonce, body], tag)
}

/// `to`: body and tag of what is answered.
pub fn seal_reply(seal: &Seal, nonce: &Nonce, to: (&[u8], &Tag), body: &[u8]) -> Tag {
    seal.close(&[b"answer", nonce, to.0, to.1, body])
}

pub fn is_whole_reply(seal: &Seal, nonce: &Nonce, to: (&[u8], &Tag), body: &[u8], tag: &Tag) -> bool {
    seal.is_whole(&[b"answer", nonce, to.0, to.1, body], tag)
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let name = self.service.as_str().as_bytes();
        let kind = if let Ask::Read = self.ask { READ } else { PUT };
        let mut out = Vec::with_capacity(BODY_BYTES_MAX);
        out.extend_from_slice(&PROTOCOL.to_le_bytes());
        out.extend_from_slice(&[kind, name.len() as u8]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(name);
        if let Ask::Put { expect, ruling } = self.ask {
            out.extend_from_slice(&expect.0.to_le_bytes());
            encode_ruling(&ruling, &mut out);
        }
        out
    }

    /// The number of the request, if that much can be read, with what is wrong with the rest.
    pub fn decode(body: &[u8]) -> Result<Self, (u64, Refusal)> {
        let mut r = Reader(body);
        let bad = |id| move |Short| (id, Refusal::Malformed);
        let protocol = r.u16().map_err(bad(0))?;
        if protocol != PROTOCOL {
            return Err((0, Refusal::Protocol));
        }
        let (kind, length) = (r.u8().map_err(bad(0))?, r.u8().map_err(bad(0))?);
        let id = r.u64().map_err(bad(0))?;
        let bad = bad(id);
        let name = r.take(usize::from(length)).map_err(bad)?;
        let service =
            std::str::from_utf8(name).ok().and_then(|n| ServiceName::new(n).ok()).ok_or((id, Refusal::Malformed))?;
        let ask = match kind {
            READ => Ask::Read,
            PUT => {
                let expect = Version(r.u64().map_err(bad)?);
                Ask::Put { expect, ruling: decode_ruling(&mut r).map_err(bad)? }
            }
            _ => return Err((id, Refusal::Malformed)),
        };
        if r.0.is_empty() { Ok(Self { service, id, ask }) } else { Err((id, Refusal::Malformed)) }
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let (kind, record) = match self.outcome {
            Ok(Told::Granted(record)) => (GRANTED, Some(record)),
            Ok(Told::Lost(record)) => (LOST, record),
            Ok(Told::Current(record)) => (CURRENT, record),
            Err(_) => (REFUSED, None),
        };
        let mut out = Vec::with_capacity(BODY_BYTES_MAX);
        out.extend_from_slice(&PROTOCOL.to_le_bytes());
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&self.id.to_le_bytes());
        if let Some(record) = record {
            out.extend_from_slice(&record.version.0.to_le_bytes());
            encode_ruling(&record.ruling, &mut out);
        }
        if let Err(refusal) = self.outcome {
            out.push(match refusal {
                Refusal::Protocol => 1,
                Refusal::Full => 2,
                Refusal::Disk => 3,
                Refusal::Malformed => 4,
            });
        }
        out
    }

    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(body);
        match r.u16() {
            Ok(PROTOCOL) => Self::parse(r).map_err(|Short| WireError::Malformed),
            Ok(other) => Err(WireError::Protocol(other)),
            Err(Short) => Err(WireError::Malformed),
        }
    }

    /// What comes after the protocol.
    fn parse(mut r: Reader) -> Result<Self, Short> {
        let (kind, _) = (r.u8()?, r.u8()?);
        let id = r.u64()?;
        let record = |r: &mut Reader| -> Result<Option<Record>, Short> {
            if r.0.is_empty() {
                return Ok(None);
            }
            let version = Version(r.u64()?);
            let ruling = decode_ruling(r)?;
            if version == Version::ABSENT { Err(Short) } else { Ok(Some(Record { version, ruling })) }
        };
        let outcome = match kind {
            GRANTED => Ok(Told::Granted(record(&mut r)?.ok_or(Short)?)),
            LOST => Ok(Told::Lost(record(&mut r)?)),
            CURRENT => Ok(Told::Current(record(&mut r)?)),
            REFUSED => Err(match r.u8()? {
                1 => Refusal::Protocol,
                2 => Refusal::Full,
                3 => Refusal::Disk,
                4 => Refusal::Malformed,
                _ => return Err(Short),
            }),
            _ => return Err(Short),
        };
        if r.0.is_empty() { Ok(Self { id, outcome }) } else { Err(Short) }
    }
}

fn encode_ruling(r: &Ruling, out: &mut Vec<u8>) {
    out.extend_from_slice(&r.term.0.to_le_bytes());
    out.extend_from_slice(&r.owner.0.to_le_bytes());
    let phase = match r.phase {
        Phase::Claim => 1,
        Phase::Live => 2,
    };
    out.extend_from_slice(&[phase, r.in_sync.as_slice().len() as u8]);
    for member in r.in_sync.iter() {
        out.extend_from_slice(&member.0.to_le_bytes());
    }
}

fn decode_ruling(r: &mut Reader) -> Result<Ruling, Short> {
    let term = Term(r.u64()?);
    let owner = HostId(r.u64()?);
    let phase = match r.u8()? {
        1 => Phase::Claim,
        2 => Phase::Live,
        _ => return Err(Short),
    };
    let count = r.u8()?;
    let hosts = (0..count).map(|_| Ok(HostId(r.u64()?))).collect::<Result<Vec<_>, Short>>()?;
    let ruling = Ruling { term, owner, in_sync: Members::from_sorted(&hosts).map_err(|_| Short)?, phase };
    if ruling.is_sound() { Ok(ruling) } else { Err(Short) }
}

/// Too short, or not what may stand here.
#[derive(Clone, Copy, Debug)]
struct Short;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into().expect("2 bytes")))
    }

    fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::record::tests::any_ruling;
    use proptest::prelude::*;

    fn put(expect: u64, ruling: Ruling) -> Ask {
        Ask::Put { expect: Version(expect), ruling }
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_were(
            name in "[a-zA-Z0-9._@-]{1,64}",
            id in any::<u64>(),
            put in proptest::option::of((any::<u64>(), any_ruling())),
        ) {
            let ask = put.map_or(Ask::Read, |(expect, ruling)| self::put(expect, ruling));
            let request = Request { service: ServiceName::new(&name).unwrap(), id, ask };
            let body = request.encode();
            prop_assert!(body.len() <= BODY_BYTES_MAX);
            prop_assert_eq!(Request::decode(&body), Ok(request));
            for cut in 0..body.len() {
                prop_assert!(Request::decode(&body[..cut]).is_err());
            }
            prop_assert!(Request::decode(&[&body[..], &[0]].concat()).is_err());
        }

        #[test]
        fn replies_come_back_as_they_were(id in any::<u64>(), version in 1..=u64::MAX, ruling in any_ruling()) {
            let record = Record { version: Version(version), ruling };
            let told = [Told::Granted(record), Told::Lost(Some(record)), Told::Current(Some(record))];
            let refused = [Refusal::Protocol, Refusal::Full, Refusal::Disk, Refusal::Malformed].map(Err);
            for outcome in told.map(Ok).into_iter().chain([Ok(Told::Lost(None)), Ok(Told::Current(None))]).chain(refused) {
                let reply = Reply { id, outcome };
                prop_assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
            }
        }

        #[test]
        fn bytes_of_all_kinds_are_no_panic(bytes in proptest::collection::vec(0u8..5, 0..180)) {
            let mut body = PROTOCOL.to_le_bytes().to_vec();
            body.extend(bytes);
            let _ = Request::decode(&body);
            let _ = Reply::decode(&body);
        }
    }

    #[test]
    fn the_longest_put_is_as_long_as_a_body_may_be() {
        let hosts: Vec<_> = (0..MEMBERS_MAX as u64).map(HostId).collect();
        let in_sync = Members::from_sorted(&hosts).unwrap();
        let ruling = Ruling { term: Term(1), owner: hosts[0], in_sync, phase: Phase::Live };
        let service = ServiceName::new(&"n".repeat(NAME_BYTES_MAX)).unwrap();
        assert_eq!(Request { service, id: 1, ask: put(0, ruling) }.encode().len(), BODY_BYTES_MAX);
    }

    #[test]
    fn what_is_no_set_of_members_is_malformed() {
        // Term 1, live.
        let body = |owner: u64, members: &[u64]| {
            let mut out = Request { service: ServiceName::new("s").unwrap(), id: 7, ask: Ask::Read }.encode();
            out[2] = PUT;
            for n in [0, 1, owner] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            out.extend_from_slice(&[2, members.len() as u8]);
            out.extend(members.iter().flat_map(|m| m.to_le_bytes()));
            out
        };
        let good = body(4, &[1, 4, 9]);
        assert!(matches!(Request::decode(&good), Ok(Request { ask: Ask::Put { .. }, .. })));
        let bad: [(u64, &[u64]); 6] =
            [(4, &[]), (4, &[4, 4]), (4, &[9, 4]), (4, &[1, 9]), (4, &[1, 4, 4]), (4, &[1, 2, 3, 4, 5, 6, 7, 8])];
        for (owner, members) in bad {
            assert_eq!(Request::decode(&body(owner, members)), Err((7, Refusal::Malformed)), "{owner} {members:?}");
        }
    }

    #[test]
    fn another_protocol_is_named() {
        let mut read = Request { service: ServiceName::new("s").unwrap(), id: 7, ask: Ask::Read }.encode();
        let mut reply = Reply { id: 7, outcome: Ok(Told::Current(None)) }.encode();
        (read[0], reply[0]) = (1, 1);
        assert_eq!(Request::decode(&read), Err((0, Refusal::Protocol)));
        assert!(matches!(Reply::decode(&reply), Err(WireError::Protocol(1))));
        let mut hello = greeting(&[7; NONCE_BYTES]);
        assert_eq!(read_greeting(&hello).unwrap(), [7; NONCE_BYTES]);
        hello[8] = 9;
        assert!(matches!(read_greeting(&hello), Err(WireError::Protocol(9))));
        hello[0] = b'S';
        assert!(matches!(read_greeting(&hello), Err(WireError::NoWitness(_))));
    }
}
