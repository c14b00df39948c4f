//! Snapshots in files. Format: docs/PROTOCOL.md, "Snapshot file".

use super::{Head, PAGE};
use crate::logfile::LogFileError;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"ftsnapsh";
/// Grows with every change of the format; a reader refuses all others.
pub const VERSION: u32 = 1;
/// Head and pages of a part: bounds what a broken file can make us allocate.
const HEAD_BYTES_MAX: usize = 16 << 20;
pub const PART_BYTES_MAX: usize = 1 << 20;
const BUFFER_BYTES: usize = 1 << 20;
/// The address of the part that is none: the end.
const END: u64 = u64::MAX;

fn checksum(at: u64, bytes: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&at.to_le_bytes());
    h.update(bytes);
    h.finalize()
}

pub struct SnapshotWriter<W> {
    to: W,
}

impl SnapshotWriter<BufWriter<File>> {
    pub fn create(path: &Path, head: &Head) -> io::Result<Self> {
        Self::new(BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?), head)
    }
}

impl<W: Write> SnapshotWriter<W> {
    pub fn new(mut to: W, head: &Head) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        let mut w = Self { to };
        w.part(0, &serde_json::to_vec(head)?)?;
        Ok(w)
    }

    /// Whole pages, one after the other from `at` on.
    pub fn pages(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(bytes.len() <= PART_BYTES_MAX && (bytes.len() as u64).is_multiple_of(PAGE));
        self.part(at, bytes)
    }

    fn part(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(&at.to_le_bytes())?;
        self.to.write_all(&(bytes.len() as u32).to_le_bytes())?;
        self.to.write_all(&checksum(at, bytes).to_le_bytes())?;
        self.to.write_all(bytes)
    }

    /// Without this the snapshot is none.
    pub fn finish(mut self) -> io::Result<W> {
        self.part(END, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// A snapshot whose head was read.
pub struct SnapshotReader {
    pub head: Head,
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

    fn new(path: &Path, mut from: Box<dyn Read + Send>) -> Result<Self, LogFileError> {
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
        if part(path, &mut from, &mut offset, HEAD_BYTES_MAX, &mut head)? != 0 {
            return Err(corrupt(12, "it has no head".into()));
        }
        let head = serde_json::from_slice(&head).map_err(|e| corrupt(12, format!("the head: {e}")))?;
        Ok(Self { head, path: path.into(), from, offset })
    }

    /// The next pages into `bytes`, and where they lie; `None`: that was all.
    pub fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>, LogFileError> {
        let begin = self.offset;
        let at = part(&self.path, &mut self.from, &mut self.offset, PART_BYTES_MAX, bytes)?;
        if at == END {
            return Ok(None);
        }
        let end = at.checked_add(bytes.len() as u64);
        let lies_within = |m: &super::Mapping| m.start <= at && end.is_some_and(|end| end <= m.end);
        if at % PAGE != 0 || !(bytes.len() as u64).is_multiple_of(PAGE) || !self.head.mappings.iter().any(lies_within) {
            let why = format!("pages at {at:#x} where the process had none");
            return Err(LogFileError::Corrupt { path: self.path.clone(), offset: begin, why });
        }
        Ok(Some(at))
    }
}

fn part(path: &Path, from: &mut impl Read, offset: &mut u64, max: usize, bytes: &mut Vec<u8>) -> Result<u64, LogFileError> {
    let begin = *offset;
    let corrupt = |why: &str| LogFileError::Corrupt { path: path.into(), offset: begin, why: why.into() };
    let read = |from: &mut dyn Read, to: &mut [u8]| match from.read_exact(to) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(corrupt("the file ends before the snapshot does")),
        Err(source) => Err(LogFileError::Io { path: path.into(), what: "cannot read", source }),
        Ok(()) => Ok(()),
    };
    let mut head = [0; 16];
    read(from, &mut head)?;
    let at = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(head[8..12].try_into().expect("four bytes")) as usize;
    let sum = u32::from_le_bytes(head[12..].try_into().expect("four bytes"));
    if length > max {
        return Err(corrupt("a part that is too long"));
    }
    bytes.resize(length, 0);
    read(from, bytes)?;
    if checksum(at, bytes) != sum {
        return Err(corrupt("a checksum doesn't match"));
    }
    *offset += (head.len() + length) as u64;
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::super::{Mapping, Registers};
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
        }
    }

    fn written() -> Vec<u8> {
        let mut w = SnapshotWriter::new(Vec::new(), &head()).unwrap();
        w.pages(0x10000, &[1; 8192]).unwrap();
        w.pages(0x1f000, &[2; 4096]).unwrap();
        w.finish().unwrap()
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<(u64, Vec<u8>)>, LogFileError> {
        let mut r = SnapshotReader::new(Path::new("snap"), Box::new(io::Cursor::new(bytes)))?;
        assert_eq!(r.head, head());
        let (mut all, mut b) = (Vec::new(), Vec::new());
        while let Some(at) = r.next(&mut b)? {
            all.push((at, b.clone()));
        }
        Ok(all)
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(written()).unwrap(), [(0x10000, vec![1; 8192]), (0x1f000, vec![2; 4096])]);
    }

    #[test]
    fn no_changed_byte_and_no_missing_end_passes() {
        let whole = written();
        for at in (0..whole.len()).step_by(7) {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert!(read(broken).is_err(), "byte {at}");
        }
        for end in (0..whole.len()).step_by(11) {
            assert!(read(whole[..end].to_vec()).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn pages_lie_where_the_process_had_memory() {
        for at in [0x0f000, 0x20000, 0x10001] {
            let mut w = SnapshotWriter::new(Vec::new(), &head()).unwrap();
            w.pages(at, &[1; 4096]).unwrap();
            assert!(matches!(read(w.finish().unwrap()), Err(LogFileError::Corrupt { .. })), "{at:#x}");
        }
    }
}
