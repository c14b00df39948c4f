//! Snapshots in files. Format: docs/PROTOCOL.md, "Snapshot file".

use super::tree::Replaced;
use super::{EngineState, Head, PAGE};
use crate::front::ListenSpec;
use crate::front::state::ConnectionState;
use crate::logfile::LogFileError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"ftsnapsh";
/// Grows with every change of the format; a reader refuses all others.
pub const VERSION: u32 = 2;
/// Head and content of a part: bounds what a broken file can make us allocate.
const HEAD_BYTES_MAX: usize = 16 << 20;
pub const PART_BYTES_MAX: usize = 1 << 20;
pub const BUFFER_BYTES: usize = 1 << 20;

/// What a part is; a number and a place go with it.
mod kind {
    pub const HEAD: u32 = 1;
    /// Of memory; the place: their address.
    pub const PAGES: u32 = 2;
    /// Of a file; its number, and where it lies.
    pub const CONTENT: u32 = 3;
    /// The same, of what a change replaced. First the size that the file had.
    pub const REPLACED: u32 = 4;
    pub const END: u32 = 5;
    /// What the engine knew; before all but the head.
    pub const ENGINE: u32 = 6;
    /// Of a connection; its number.
    pub const CONNECTION: u32 = 7;
    /// Output of that one; its number and position.
    pub const OUTPUT: u32 = 8;
}

/// Kind, number, place, bytes that follow and their checksum.
const PART_HEAD_BYTES: usize = 24;
const SIZE_BYTES: usize = 8;

fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(head);
    h.update(bytes);
    h.finalize()
}

/// What is in an ENGINE part.
#[derive(Serialize, Deserialize)]
struct Engine {
    unapplied: u32,
    last_conn: u32,
    listeners: Vec<(u32, ListenSpec)>,
}

pub struct SnapshotWriter<W> {
    to: W,
}

impl<W: Write> SnapshotWriter<W> {
    pub fn new(mut to: W, head: &Head, engine: &EngineState) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        let mut w = Self { to };
        let head = serde_json::to_vec(head)?;
        if head.len() > HEAD_BYTES_MAX {
            let most = HEAD_BYTES_MAX >> 20;
            return Err(io::Error::other(format!("the files in the state directories are too many: their list is over {most} MiB")));
        }
        w.part(kind::HEAD, 0, 0, &[&head])?;
        let front = &engine.front;
        let (unapplied, last_conn, listeners) = (engine.unapplied, front.last_conn, front.listeners.clone());
        w.part(kind::ENGINE, 0, 0, &[&serde_json::to_vec(&Engine { unapplied, last_conn, listeners })?])?;
        for c in &front.connections {
            w.part(kind::CONNECTION, c.id, 0, &[&serde_json::to_vec(c)?])?;
            for (place, bytes) in (c.acked..).step_by(PART_BYTES_MAX).zip(c.output.chunks(PART_BYTES_MAX)) {
                w.part(kind::OUTPUT, c.id, place, &[bytes])?;
            }
        }
        Ok(w)
    }

    /// Whole pages, one after the other from `at` on.
    pub fn pages(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!((bytes.len() as u64).is_multiple_of(PAGE));
        self.part(kind::PAGES, 0, at, &[bytes])
    }

    pub fn content(&mut self, file: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.part(kind::CONTENT, file, offset, &[bytes])
    }

    /// In the order in which it happened.
    pub fn replaced(&mut self, file: u32, was: &Replaced) -> io::Result<()> {
        self.part(kind::REPLACED, file, was.offset, &[&was.size.to_le_bytes(), &was.bytes])
    }

    fn part(&mut self, kind: u32, number: u32, place: u64, bytes: &[&[u8]]) -> io::Result<()> {
        let bytes = bytes.concat();
        debug_assert!(kind == kind::HEAD || bytes.len() <= PART_BYTES_MAX + SIZE_BYTES);
        let mut head = Vec::with_capacity(PART_HEAD_BYTES);
        head.extend(kind.to_le_bytes());
        head.extend(number.to_le_bytes());
        head.extend(place.to_le_bytes());
        head.extend((bytes.len() as u32).to_le_bytes());
        head.extend(checksum(&head, &bytes).to_le_bytes());
        self.to.write_all(&head)?;
        self.to.write_all(&bytes)
    }

    /// Without this the snapshot is none.
    pub fn finish(mut self) -> io::Result<W> {
        self.part(kind::END, 0, 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// What comes next in a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Of memory, from this address on.
    Pages { at: u64 },
    Content { file: u32, offset: u64 },
    Replaced { file: u32, offset: u64, size: u64 },
}

/// A snapshot whose head was read.
pub struct SnapshotReader {
    pub head: Head,
    pub engine: EngineState,
    /// The first part after those, already read.
    ahead: Option<(PartHead, Vec<u8>)>,
    path: PathBuf,
    from: Box<dyn Read + Send>,
    offset: u64,
}

impl SnapshotReader {
    pub fn open(path: &Path) -> Result<Self, LogFileError> {
        let io = |source| LogFileError::Io { path: path.into(), what: "cannot read", source };
        let file = File::open(path).map_err(io)?;
        Self::new(path, Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
    }

    /// `path` is what errors call it.
    pub fn new(path: &Path, mut from: Box<dyn Read + Send>) -> Result<Self, LogFileError> {
        let io = |source| LogFileError::Io { path: path.into(), what: "cannot read", source };
        let mut preamble = [0; 12];
        from.read_exact(&mut preamble).map_err(io)?;
        let corrupt = |offset, why: String| LogFileError::Corrupt { path: path.into(), offset, why };
        if preamble[..8] != MAGIC {
            return Err(corrupt(0, "not a snapshot: it doesn't begin with \"ftsnapsh\"".into()));
        }
        let version = u32::from_le_bytes(preamble[8..].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(corrupt(8, format!("format version {version}, this ft reads {VERSION}")));
        }
        let (mut offset, mut head) = (preamble.len() as u64, Vec::new());
        if part(path, &mut from, &mut offset, HEAD_BYTES_MAX, &mut head)?.kind != kind::HEAD {
            return Err(corrupt(12, "it has no head".into()));
        }
        let head = serde_json::from_slice(&head).map_err(|e| corrupt(12, format!("the head: {e}")))?;
        let mut r = Self { head, engine: EngineState::default(), ahead: None, path: path.into(), from, offset };
        r.read_engine()?;
        Ok(r)
    }

    fn read_engine(&mut self) -> Result<(), LogFileError> {
        let front = &mut self.engine.front;
        loop {
            let (begin, mut bytes) = (self.offset, Vec::new());
            let h = part(&self.path, &mut self.from, &mut self.offset, PART_BYTES_MAX + SIZE_BYTES, &mut bytes)?;
            let corrupt = |why: &str| LogFileError::Corrupt { path: self.path.clone(), offset: begin, why: why.into() };
            match h.kind {
                kind::ENGINE => {
                    let e: Engine = json(&bytes).map_err(|e| corrupt(&e))?;
                    (self.engine.unapplied, front.last_conn, front.listeners) = (e.unapplied, e.last_conn, e.listeners);
                }
                kind::CONNECTION => front.connections.push(json(&bytes).map_err(|e| corrupt(&e))?),
                kind::OUTPUT => {
                    let follows = |c: &&mut ConnectionState| c.id == h.number && c.acked + c.output.len() as u64 == h.place;
                    let c = front.connections.last_mut().filter(follows);
                    c.ok_or_else(|| corrupt("output that belongs to no connection"))?.output.append(&mut bytes);
                }
                _ => {
                    self.ahead = Some((h, bytes));
                    return Ok(());
                }
            }
        }
    }

    /// The next part, its content into `bytes`; `None`: that was all.
    pub fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Part>, LogFileError> {
        let begin = self.offset;
        let h = match self.ahead.take() {
            Some((h, content)) => {
                *bytes = content;
                h
            }
            None => part(&self.path, &mut self.from, &mut self.offset, PART_BYTES_MAX + SIZE_BYTES, bytes)?,
        };
        let corrupt = |why| LogFileError::Corrupt { path: self.path.clone(), offset: begin, why };
        let (at, file) = (h.place, h.number);
        Ok(Some(match h.kind {
            kind::END => return Ok(None),
            kind::PAGES => {
                let end = at.checked_add(bytes.len() as u64);
                let lies_within = |m: &super::Mapping| m.start <= at && end.is_some_and(|end| end <= m.end);
                let whole = at % PAGE == 0 && (bytes.len() as u64).is_multiple_of(PAGE);
                if !whole || !self.head.mappings.iter().any(lies_within) {
                    return Err(corrupt(format!("pages at {at:#x} where the process had none")));
                }
                Part::Pages { at }
            }
            kind::CONTENT => Part::Content { file, offset: at },
            kind::REPLACED => {
                let size = bytes.get(..SIZE_BYTES).ok_or_else(|| corrupt("a change without a size".into()))?;
                let size = u64::from_le_bytes(size.try_into().expect("eight bytes"));
                bytes.drain(..SIZE_BYTES);
                Part::Replaced { file, offset: at, size }
            }
            other => return Err(corrupt(format!("an unknown part ({other})"))),
        }))
    }
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("what the engine knew: {e}"))
}

struct PartHead {
    kind: u32,
    number: u32,
    place: u64,
}

fn part(path: &Path, from: &mut impl Read, offset: &mut u64, max: usize, bytes: &mut Vec<u8>) -> Result<PartHead, LogFileError> {
    let begin = *offset;
    let corrupt = |why: &str| LogFileError::Corrupt { path: path.into(), offset: begin, why: why.into() };
    let read = |from: &mut dyn Read, to: &mut [u8]| match from.read_exact(to) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(corrupt("the file ends before the snapshot does")),
        Err(source) => Err(LogFileError::Io { path: path.into(), what: "cannot read", source }),
        Ok(()) => Ok(()),
    };
    let mut head = [0; PART_HEAD_BYTES];
    read(from, &mut head)?;
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let place = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
    let (length, sum) = (word(16) as usize, word(20));
    if length > max {
        return Err(corrupt("a part that is too long"));
    }
    bytes.resize(length, 0);
    read(from, bytes)?;
    if checksum(&head[..20], bytes) != sum {
        return Err(corrupt("a checksum doesn't match"));
    }
    *offset += (head.len() + length) as u64;
    Ok(PartHead { kind: word(0), number: word(4), place })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Place;
    use super::super::{Mapping, Registers, Standing};
    use crate::front::state::{FrontState, GuestState};
    use super::*;

    fn head() -> Head {
        Head {
            shim_sha256: "00".into(),
            seed: 5,
            point: 7,
            registers: Registers([1; 27]),
            extended: "0102".into(),
            signal_mask: 3,
            brk_start: 0x1000,
            brk: 0x2000,
            mappings: vec![Mapping { start: 0x10000, end: 0x20000, protection: 3, grows_down: false }],
            descriptors: Vec::new(),
            standing: Standing::default(),
            trees: Vec::new(),
        }
    }

    fn engine() -> EngineState {
        let address = "10.0.0.2:80".parse().unwrap();
        let connection = |id, output| ConnectionState {
            id,
            peer: "[fd00::1]:4000".parse().unwrap(),
            local: address,
            received: 8,
            consumed: 5,
            input_ended: true,
            acked: 100,
            acked_told: 90,
            guest: GuestState::Closed { reset: true },
            is_gone: false,
            options: Vec::new(),
            output,
        };
        let front = FrontState {
            last_conn: 9,
            listeners: vec![(3, ListenSpec { address, backlog: 7, v6only: false })],
            connections: vec![connection(4, vec![1; PART_BYTES_MAX + 5]), connection(9, Vec::new())],
        };
        EngineState { front, unapplied: 3 }
    }

    fn replaced() -> Replaced {
        Replaced { on: Place(1, 2), size: 99, offset: 10, bytes: vec![7; 3] }
    }

    fn written() -> Vec<u8> {
        let mut w = SnapshotWriter::new(Vec::new(), &head(), &engine()).unwrap();
        w.pages(0x10000, &[1; 8192]).unwrap();
        w.content(3, 5, b"content").unwrap();
        w.replaced(4, &replaced()).unwrap();
        w.pages(0x1f000, &[2; 4096]).unwrap();
        w.finish().unwrap()
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<(Part, Vec<u8>)>, LogFileError> {
        let mut r = SnapshotReader::new(Path::new("snap"), Box::new(io::Cursor::new(bytes)))?;
        assert_eq!((&r.head, &r.engine), (&head(), &engine()));
        let (mut all, mut b) = (Vec::new(), Vec::new());
        while let Some(at) = r.next(&mut b)? {
            all.push((at, b.clone()));
        }
        Ok(all)
    }

    #[test]
    fn what_was_written_is_read() {
        let want = [
            (Part::Pages { at: 0x10000 }, vec![1; 8192]),
            (Part::Content { file: 3, offset: 5 }, b"content".to_vec()),
            (Part::Replaced { file: 4, offset: 10, size: 99 }, vec![7; 3]),
            (Part::Pages { at: 0x1f000 }, vec![2; 4096]),
        ];
        assert_eq!(read(written()).unwrap(), want);
    }

    #[test]
    fn no_changed_byte_and_no_missing_end_passes() {
        let whole = written();
        for at in (0..whole.len()).step_by(4001) {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert!(read(broken).is_err(), "byte {at}");
        }
        for end in (0..whole.len()).step_by(4003) {
            assert!(read(whole[..end].to_vec()).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn pages_lie_where_the_process_had_memory() {
        for at in [0x0f000, 0x20000, 0x10001] {
            let mut w = SnapshotWriter::new(Vec::new(), &head(), &engine()).unwrap();
            w.pages(at, &[1; 4096]).unwrap();
            assert!(matches!(read(w.finish().unwrap()), Err(LogFileError::Corrupt { .. })), "{at:#x}");
        }
    }
}
