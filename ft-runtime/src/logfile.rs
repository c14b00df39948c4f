//! The log in a file: what `ft record` writes and `ft replay` reads. Format: docs/PROTOCOL.md, "Log file".
//!
//! Laws: a reader trusts no byte that a checksum didn't cover, and verifies the whole file before the first entry
//! is used. A file that ends in the middle of a frame is torn (the recorder died): everything before is good. Any
//! other mismatch is corruption, named by its offset. Never guess.

use crate::replay::StreamKind;
use ft_log::entry::{HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use ft_log::ids::{DomainId, LogIndex};
use ft_log::shared::DOMAINS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"ftrecord";
/// Grows with every change of the format; a reader refuses all others.
pub const VERSION: u32 = 4;
const PREAMBLE_BYTES: u64 = 16;
const SECTION_HEAD_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 8;
/// No body of a frame is longer.
const BODY_BYTES_MAX: usize = 1 + HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX;
const END_BODY_BYTES: usize = 17;
/// A header is small; bounds what a broken file can make us allocate.
const HEADER_SECTION_BYTES_MAX: u64 = 16 << 20;
/// Frames are gathered up to here before they are written.
const WRITE_BUFFER_BYTES: usize = 256 << 10;
const READ_CHUNK_BYTES: usize = 256 << 10;

mod section {
    pub const HEADER: u32 = 1;
    pub const STATE: u32 = 2;
    /// The frames; last, to the end of the file.
    pub const LOG: u32 = 3;
}

mod kind {
    /// First byte of a body; below `DOMAINS_MAX` it is the entry's domain.
    pub const NOTE: u8 = 0xf0;
    pub const END: u8 = 0xf1;
}

const _: () = assert!(DOMAINS_MAX <= kind::NOTE as usize);

/// Why a recording can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogFileError {
    #[error("{}: {what}: {source}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("{}: not a recording: it doesn't begin with \"ftrecord\"", path.display())]
    Magic { path: PathBuf },
    #[error("{}: format version {found}, this ft reads {VERSION}; replay with the ft that recorded it", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("{}: corrupt at offset {offset}: {why}; restore the file from where it was whole", path.display())]
    Corrupt { path: PathBuf, offset: u64, why: String },
    #[error("{}: the recorder died before the guest started: there is nothing to replay", path.display())]
    Unstarted { path: PathBuf },
    #[error("{}: {why}", path.display())]
    Ring { path: PathBuf, why: String },
}

/// Bytes that are text nearly always: a JSON string then, `{"hex": ".."}` otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsText(pub OsString);

impl From<&OsStr> for OsText {
    fn from(s: &OsStr) -> Self {
        Self(s.to_owned())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextForm {
    Text(String),
    Hex { hex: String },
}

impl Serialize for OsText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(t) => TextForm::Text(t.to_owned()),
            None => TextForm::Hex { hex: hex(self.0.as_bytes()) },
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(match TextForm::deserialize(d)? {
            TextForm::Text(t) => t.into(),
            TextForm::Hex { hex } => {
                OsString::from_vec(unhex(&hex).ok_or_else(|| serde::de::Error::custom("not a hexadecimal string"))?)
            }
        }))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(s: &str) -> Option<Vec<u8>> {
    let s = s.as_bytes();
    if !s.len().is_multiple_of(2) {
        return None;
    }
    s.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok()).collect()
}

/// Everything a replay needs to start the same guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the ft that recorded.
    pub ft_version: String,
    pub program: OsText,
    /// SHA-256 of the program's file, hexadecimal.
    pub program_sha256: String,
    pub argv: Vec<OsText>,
    /// `NAME=value` each, in order.
    pub env: Vec<OsText>,
    pub cwd: OsText,
    pub umask: u32,
    /// Digest seed.
    pub seed: u64,
    /// AT_RANDOM, hexadecimal.
    pub at_random: String,
    pub memory_every: u64,
    #[serde(default)]
    pub memory_slices: bool,
    pub kernel_release: String,
    /// Absolute; each has a state section of its own, in this order.
    pub state_dirs: Vec<OsText>,
    /// In a ring of several files: which one this is.
    #[serde(default)]
    pub segment: Option<Segment>,
    /// What the guest's standard output was.
    #[serde(default)]
    pub stdout: StreamKind,
    #[serde(default)]
    pub stderr: StreamKind,
}

/// A file of a ring: it goes on where the one before ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Of the guest's own domain: entries of earlier points are in earlier files. 0: it begins with the guest.
    pub point: u64,
    /// The point at which the file before begins.
    pub after: Option<u64>,
    /// Entries of the files before.
    pub entries_before: u64,
    /// So many entries it begins with are events that those files have too, and that the guest had not applied at `point`.
    pub unapplied: u32,
}

impl Header {
    pub fn at_random_bytes(&self) -> Option<[u8; 16]> {
        unhex(&self.at_random)?.try_into().ok()
    }
}

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The service ended; its wait status. `logged`: by an Exit entry, else it was killed from outside.
    Exited { status: i32, logged: bool },
    /// The recorder stopped while the guest ran on or was stopped by it.
    Stopped,
    /// Another file of the ring goes on.
    Continued,
    /// The recorder died: whole frames end at `offset`, `dropped` bytes of an unfinished one follow.
    Torn { offset: u64, dropped: u64 },
}

impl End {
    fn encode(self, entries: u64) -> [u8; END_BODY_BYTES] {
        let (how, status) = match self {
            End::Exited { status, logged: true } => (0u32, status),
            End::Exited { status, logged: false } => (1, status),
            End::Stopped => (2, 0),
            End::Continued => (3, 0),
            End::Torn { .. } => unreachable!("nobody writes a torn end"),
        };
        let mut b = [0; END_BODY_BYTES];
        b[0] = kind::END;
        b[1..9].copy_from_slice(&entries.to_le_bytes());
        b[9..13].copy_from_slice(&how.to_le_bytes());
        b[13..17].copy_from_slice(&status.to_le_bytes());
        b
    }

    /// The end and the number of entries before it.
    fn decode(body: &[u8]) -> Option<(Self, u64)> {
        if body.len() != END_BODY_BYTES || body[0] != kind::END {
            return None;
        }
        let entries = u64::from_le_bytes(body[1..9].try_into().ok()?);
        let status = i32::from_le_bytes(body[13..17].try_into().ok()?);
        let end = match u32::from_le_bytes(body[9..13].try_into().ok()?) {
            0 => End::Exited { status, logged: true },
            1 => End::Exited { status, logged: false },
            2 => End::Stopped,
            3 => End::Continued,
            _ => return None,
        };
        Some((end, entries))
    }
}

/// The checksum binds a body to its place in the order.
fn checksum(index: u64, parts: &[&[u8]]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&index.to_le_bytes());
    for p in parts {
        h.update(p);
    }
    h.finalize()
}

/// Appends entries to a recording.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    index: u64,
}

impl LogWriter {
    /// Creates the file with its header and, one for each state directory of it, the sections `state` writes.
    pub fn create(
        path: &Path,
        header: &Header,
        mut state: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> Result<Self, LogFileError> {
        let fail = |what| move |source| LogFileError::Io { path: path.to_owned(), what, source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(fail("cannot create the recording"))?;
        let mut preamble = Vec::with_capacity(PREAMBLE_BYTES as usize);
        preamble.extend(MAGIC);
        preamble.extend(VERSION.to_le_bytes());
        preamble.extend([0; 4]);
        file.write_all(&preamble).map_err(fail("cannot write"))?;
        let json = serde_json::to_vec(header).map_err(|e| fail("cannot encode the header")(e.into()))?;
        section_write(&mut file, section::HEADER, |w| w.write_all(&json)).map_err(fail("cannot write the header"))?;
        for k in 0..header.state_dirs.len() {
            section_write(&mut file, section::STATE, |w| state(k, w))
                .map_err(fail("cannot archive a state directory"))?;
        }
        file.write_all(&section_head(section::LOG, 0, 0)).map_err(fail("cannot write"))?;
        Ok(Self { path: path.to_owned(), file, buffer: Vec::with_capacity(WRITE_BUFFER_BYTES * 2), index: 0 })
    }

    /// One entry: `head` and `payload` as `Entry::encode` makes them.
    pub fn append(&mut self, domain: DomainId, head: &[u8], payload: &[u8]) -> Result<LogIndex, LogFileError> {
        assert!((domain.0 as usize) < DOMAINS_MAX);
        self.index += 1;
        self.frame(&[&[domain.0 as u8], head, payload])?;
        Ok(LogIndex(self.index))
    }

    /// A remark for people; replay skips it.
    pub fn note(&mut self, text: &str) -> Result<(), LogFileError> {
        let cut = text.floor_char_boundary(PAYLOAD_BYTES_MAX);
        self.frame(&[&[kind::NOTE], &text.as_bytes()[..cut]])
    }

    /// The last frame; the kernel has everything afterwards.
    pub fn end(&mut self, end: End) -> Result<(), LogFileError> {
        self.frame(&[&end.encode(self.index)])?;
        self.flush()
    }

    /// The last frame; everything is on disk afterwards.
    pub fn finish(&mut self, end: End) -> Result<(), LogFileError> {
        self.end(end)?;
        self.file.sync_data().map_err(|source| self.io("cannot sync", source))
    }

    /// Hands everything gathered to the kernel.
    pub fn flush(&mut self) -> Result<(), LogFileError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|source| self.io("cannot write the log (is the disk full?)", source))
    }

    pub fn has_unflushed(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn frame(&mut self, parts: &[&[u8]]) -> Result<(), LogFileError> {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        assert!((1..=BODY_BYTES_MAX).contains(&length), "messages are bounded by HEADER_BYTES_MAX and PAYLOAD_BYTES_MAX");
        self.buffer.extend((length as u32).to_le_bytes());
        self.buffer.extend(checksum(self.index, parts).to_le_bytes());
        for p in parts {
            self.buffer.extend_from_slice(p);
        }
        if self.buffer.len() >= WRITE_BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn io(&self, what: &'static str, source: io::Error) -> LogFileError {
        LogFileError::Io { path: self.path.clone(), what, source }
    }
}

fn section_head(kind: u32, length: u64, crc: u32) -> [u8; SECTION_HEAD_BYTES] {
    let mut b = [0; SECTION_HEAD_BYTES];
    b[0..4].copy_from_slice(&kind.to_le_bytes());
    b[8..16].copy_from_slice(&length.to_le_bytes());
    b[16..20].copy_from_slice(&crc.to_le_bytes());
    b
}

/// Counts and sums what passes.
struct Summing<W> {
    inner: W,
    hasher: crc32fast::Hasher,
    length: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(b)?;
        self.hasher.update(&b[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The head is written last: until then the section is empty of a kind no reader knows.
fn section_write(file: &mut File, kind: u32, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let at = file.stream_position()?;
    file.write_all(&section_head(0, 0, 0))?;
    let (length, crc) = {
        let mut w = Summing { inner: io::BufWriter::new(&mut *file), hasher: crc32fast::Hasher::new(), length: 0 };
        content(&mut w)?;
        w.flush()?;
        (w.length, w.hasher.finalize())
    };
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&section_head(kind, length, crc))?;
    file.seek(SeekFrom::End(0))?;
    Ok(())
}

/// A recording that was read once from end to end and found whole, but perhaps for a torn tail. One file, or several of
/// a ring that follow each other.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    file: Arc<File>,
    pub header: Header,
    /// Offset and length of the state archives, in the order of `header.state_dirs`.
    states: Vec<(u64, u64)>,
    /// The first file's frames.
    frames: Frames,
    /// Behind the events that an earlier file of the ring has too.
    own: Frames,
    /// Of the files that follow, each one's own.
    more: Vec<Frames>,
    pub entries: u64,
    pub end: End,
    /// Remarks, in order.
    pub notes: Vec<String>,
}

/// Whole frames of one file.
#[derive(Clone, Debug)]
struct Frames {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// Entries of the file before `at`.
    index: u64,
}

impl Recording {
    pub fn open(path: &Path) -> Result<Self, LogFileError> {
        let io = |what| move |source| LogFileError::Io { path: path.to_owned(), what, source };
        let file = File::open(path).map_err(io("cannot open the recording"))?;
        let size = file.metadata().map_err(io("cannot stat"))?.len();
        let corrupt = |offset, why: &str| LogFileError::Corrupt { path: path.to_owned(), offset, why: why.to_owned() };
        let unstarted = || LogFileError::Unstarted { path: path.to_owned() };
        let mut preamble = [0; PREAMBLE_BYTES as usize];
        if size < PREAMBLE_BYTES {
            return Err(LogFileError::Magic { path: path.to_owned() });
        }
        file.read_exact_at(&mut preamble, 0).map_err(io("cannot read"))?;
        if preamble[..8] != MAGIC {
            return Err(LogFileError::Magic { path: path.to_owned() });
        }
        let found = u32::from_le_bytes([preamble[8], preamble[9], preamble[10], preamble[11]]);
        if found != VERSION {
            return Err(LogFileError::Version { path: path.to_owned(), found });
        }
        let mut at = PREAMBLE_BYTES;
        let mut header: Option<Header> = None;
        let mut states = Vec::new();
        loop {
            if size - at < SECTION_HEAD_BYTES as u64 {
                return Err(unstarted());
            }
            let mut head = [0; SECTION_HEAD_BYTES];
            file.read_exact_at(&mut head, at).map_err(io("cannot read"))?;
            let kind = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            let length = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
            let crc = u32::from_le_bytes(head[16..20].try_into().expect("four bytes"));
            let content = at + SECTION_HEAD_BYTES as u64;
            if kind == section::LOG {
                at = content;
                break;
            }
            if kind == 0 && length == 0 {
                return Err(unstarted());
            }
            if length > size - content {
                return Err(corrupt(at, "a section is longer than the file"));
            }
            if section_checksum(&file, content, length).map_err(io("cannot read"))? != crc {
                return Err(corrupt(at, "a section's checksum doesn't match"));
            }
            match kind {
                section::HEADER if header.is_none() && length <= HEADER_SECTION_BYTES_MAX => {
                    let mut json = vec![0; length as usize];
                    file.read_exact_at(&mut json, content).map_err(io("cannot read"))?;
                    header = Some(serde_json::from_slice(&json).map_err(|e| corrupt(content, &format!("header: {e}")))?);
                }
                section::STATE => states.push((content, length)),
                k => return Err(corrupt(at, &format!("a section of kind {k} can't be here"))),
            }
            at = content + length;
        }
        let header = header.ok_or_else(|| corrupt(PREAMBLE_BYTES, "no header"))?;
        if states.len() != header.state_dirs.len() {
            return Err(corrupt(at, "the number of state sections doesn't match the header"));
        }
        let file = Arc::new(file);
        let frames = Frames { file: file.clone(), at, end: at, index: 0 };
        let mut r = Self {
            path: path.to_owned(),
            file,
            header,
            states,
            own: frames.clone(),
            frames,
            more: Vec::new(),
            entries: 0,
            end: End::Stopped,
            notes: Vec::new(),
        };
        r.verify(size)?;
        Ok(r)
    }

    /// Reads all frames; sets what is known only then.
    fn verify(&mut self, size: u64) -> Result<(), LogFileError> {
        let finished = self.tail_is_an_end(size)?;
        let mut chunks = Chunks::new(self.file.clone(), self.frames.at, size);
        let unapplied = self.unapplied();
        let mut body = Vec::new();
        let corrupt = |offset, why: &str| LogFileError::Corrupt { path: self.path.clone(), offset, why: why.to_owned() };
        loop {
            let at = chunks.at;
            let left = size - at;
            let io = |source| LogFileError::Io { path: self.path.clone(), what: "cannot read", source };
            (self.frames.end, self.own.end) = (at, at);
            if self.entries <= unapplied {
                (self.own.at, self.own.index) = (at, self.entries);
            }
            if left == 0 {
                // The end frame may be lost with a torn tail, and then the loss happened to be between two frames.
                self.end = End::Torn { offset: at, dropped: 0 };
                return Ok(());
            }
            let torn = End::Torn { offset: at, dropped: left };
            if left < FRAME_HEAD_BYTES as u64 {
                if finished {
                    return Err(corrupt(at, "less than a frame's head before the end"));
                }
                self.end = torn;
                return Ok(());
            }
            let mut head = [0; FRAME_HEAD_BYTES];
            chunks.read_exact(&mut head).map_err(io)?;
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            let left = left - FRAME_HEAD_BYTES as u64;
            if !finished && length == 0 && crc == 0 && self.is_zero(at, size).map_err(io)? {
                // The file system had extended the file, the bytes never came.
                self.end = torn;
                return Ok(());
            }
            if !(1..=BODY_BYTES_MAX).contains(&length) {
                return Err(corrupt(at, &format!("a frame of {length} bytes can't be")));
            }
            if length as u64 > left {
                if finished {
                    return Err(corrupt(at, "a frame is longer than the file"));
                }
                self.end = torn;
                return Ok(());
            }
            body.resize(length, 0);
            chunks.read_exact(&mut body).map_err(io)?;
            let is_entry = usize::from(body[0]) < DOMAINS_MAX;
            let index = self.entries + u64::from(is_entry);
            if checksum(index, &[&body]) != crc {
                if !finished && length as u64 == left {
                    self.end = torn;
                    return Ok(());
                }
                return Err(corrupt(at, "a frame's checksum doesn't match"));
            }
            self.entries = index;
            match body[0] {
                _ if is_entry => {}
                kind::NOTE => self.notes.push(String::from_utf8_lossy(&body[1..]).into_owned()),
                kind::END => {
                    let Some((end, entries)) = End::decode(&body) else {
                        return Err(corrupt(at, "the end frame is none of this version's"));
                    };
                    if entries != self.entries || length as u64 != left {
                        return Err(corrupt(at, "the end frame is not at the end"));
                    }
                    self.end = end;
                    return Ok(());
                }
                k => return Err(corrupt(at, &format!("a frame of kind {k:#x} is unknown"))),
            }
        }
    }

    /// A whole end frame at the file's end: then nothing before it can be torn, only corrupt.
    fn tail_is_an_end(&self, size: u64) -> Result<bool, LogFileError> {
        const BYTES: usize = FRAME_HEAD_BYTES + END_BODY_BYTES;
        if size - self.frames.at < BYTES as u64 {
            return Ok(false);
        }
        let mut b = [0; BYTES];
        self.file
            .read_exact_at(&mut b, size - BYTES as u64)
            .map_err(|source| LogFileError::Io { path: self.path.clone(), what: "cannot read", source })?;
        let (head, body) = b.split_at(FRAME_HEAD_BYTES);
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        Ok(length == END_BODY_BYTES && End::decode(body).is_some_and(|(_, n)| checksum(n, &[body]) == crc))
    }

    fn is_zero(&self, at: u64, size: u64) -> io::Result<bool> {
        let mut chunks = Chunks::new(self.file.clone(), at, size);
        let mut b = [0; 4096];
        while chunks.at < size {
            let n = b.len().min((size - chunks.at) as usize);
            chunks.read_exact(&mut b[..n])?;
            if b[..n].iter().any(|x| *x != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Content of the `k`-th state directory's archive.
    pub fn state(&self, k: usize) -> impl Read + use<> {
        let (at, length) = self.states[k];
        Chunks::new(self.file.clone(), at, at + length)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn unapplied(&self) -> u64 {
        self.header.segment.map_or(0, |s| s.unapplied.into())
    }

    /// Entries that no earlier file of the ring has.
    pub fn own_entries(&self) -> u64 {
        self.entries.saturating_sub(self.unapplied())
    }

    /// The next file of the ring, which follows this one.
    pub fn go_on_with(&mut self, next: Recording) {
        assert!(next.more.is_empty(), "one file at a time");
        self.entries += next.own_entries();
        self.more.push(next.own);
        self.end = next.end;
        self.notes.extend(next.notes);
    }

    /// Entries of each domain, each domain at its own pace.
    pub fn cursors(&self) -> Cursors {
        let files: Vec<Frames> = std::iter::once(&self.frames).chain(&self.more).cloned().collect();
        Cursors {
            path: self.path.clone(),
            limit: None,
            domains: std::array::from_fn(|_| Cursor {
                chunks: files[0].chunks(),
                index: 0,
                passed: 0,
                file: 0,
                buffered: VecDeque::new(),
            }),
            files,
        }
    }
}

impl Frames {
    fn chunks(&self) -> Chunks {
        Chunks::new(self.file.clone(), self.at, self.end)
    }
}

fn section_checksum(file: &File, at: u64, length: u64) -> io::Result<u32> {
    let mut h = crc32fast::Hasher::new();
    let mut b = vec![0; READ_CHUNK_BYTES];
    let mut done = 0;
    while done < length {
        let n = b.len().min((length - done) as usize);
        file.read_exact_at(&mut b[..n], at + done)?;
        h.update(&b[..n]);
        done += n as u64;
    }
    Ok(h.finalize())
}

/// Reads a part of a file from its begin to its end, in large pieces. Several may read one file.
#[derive(Debug)]
struct Chunks {
    file: Arc<File>,
    /// Offset of the next byte.
    at: u64,
    end: u64,
    chunk: Vec<u8>,
    /// Offset of the chunk's first byte.
    chunk_at: u64,
}

impl Chunks {
    fn new(file: Arc<File>, at: u64, end: u64) -> Self {
        Self { file, at, end, chunk: Vec::new(), chunk_at: at }
    }

    fn skip(&mut self, n: u64) {
        self.at += n;
    }

    fn some(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let offset = self.at.wrapping_sub(self.chunk_at);
        if offset >= self.chunk.len() as u64 {
            let n = READ_CHUNK_BYTES.min(self.end.saturating_sub(self.at) as usize);
            self.chunk.resize(n, 0);
            self.chunk_at = self.at;
            self.file.read_exact_at(&mut self.chunk, self.at)?;
        }
        let have = &self.chunk[(self.at - self.chunk_at) as usize..];
        let n = have.len().min(to.len());
        to[..n].copy_from_slice(&have[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Read for Chunks {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.some(to)
    }
}

/// One reader per domain. A domain far behind another costs a second pass over the file, not memory.
pub struct Cursors {
    path: PathBuf,
    files: Vec<Frames>,
    limit: Option<u64>,
    domains: [Cursor; DOMAINS_MAX],
}

struct Cursor {
    chunks: Chunks,
    /// Entries of this file, of all domains, passed so far; and of all files.
    index: u64,
    passed: u64,
    /// Which of the files.
    file: usize,
    buffered: VecDeque<Vec<u8>>,
}

impl Cursors {
    /// The log as it was after so many entries.
    pub fn limit(&mut self, entries: u64) {
        self.limit = Some(entries);
    }

    /// The domain's next entry, encoded; `None` at the log's end.
    pub fn next(&mut self, domain: DomainId) -> Result<Option<Vec<u8>>, LogFileError> {
        let c = &mut self.domains[usize::from(domain.0)];
        if let Some(b) = c.buffered.pop_front() {
            return Ok(Some(b));
        }
        let io = |source| LogFileError::Io { path: self.path.clone(), what: "cannot read", source };
        loop {
            if c.chunks.at >= c.chunks.end {
                let Some(next) = self.files.get(c.file + 1) else { return Ok(None) };
                (c.file, c.chunks, c.index) = (c.file + 1, next.chunks(), next.index);
                continue;
            }
            let at = c.chunks.at;
            let mut head = [0; FRAME_HEAD_BYTES + 1];
            c.chunks.read_exact(&mut head).map_err(io)?;
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            let owner = head[FRAME_HEAD_BYTES];
            // The whole file was verified, but it may have changed since.
            let corrupt = || LogFileError::Corrupt {
                path: self.path.clone(),
                offset: at,
                why: "the file changed while it was read".into(),
            };
            if !(1..=BODY_BYTES_MAX).contains(&length) {
                return Err(corrupt());
            }
            let is_entry = u64::from(usize::from(owner) < DOMAINS_MAX);
            if self.limit.is_some_and(|n| c.passed + is_entry > n) {
                c.chunks.at = at;
                return Ok(None);
            }
            c.index += is_entry;
            c.passed += is_entry;
            if u16::from(owner) != domain.0 {
                c.chunks.skip(length as u64 - 1);
                continue;
            }
            let mut body = vec![0; length - 1];
            c.chunks.read_exact(&mut body).map_err(io)?;
            if checksum(c.index, &[&[owner], &body]) != crc {
                return Err(corrupt());
            }
            return Ok(Some(body));
        }
    }

    /// What the others said before this domain's last entry is left out.
    pub fn skip_others_to(&mut self, domain: DomainId) {
        let k = usize::from(domain.0);
        let Cursor { file, index, passed, .. } = self.domains[k];
        let at = self.domains[k].chunks.at;
        for other in (0..DOMAINS_MAX).filter(|d| *d != k) {
            let mut chunks = self.files[file].chunks();
            chunks.at = at;
            self.domains[other] = Cursor { chunks, index, passed, file, buffered: VecDeque::new() };
        }
    }

    /// Puts an entry back in front.
    pub fn unread(&mut self, domain: DomainId, entry: Vec<u8>) {
        self.domains[usize::from(domain.0)].buffered.push_front(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::codec::Writer;
    use ft_log::entry::{Entry, Event};
    use ft_log::ids::ConnId;

    pub(crate) fn header() -> Header {
        Header {
            ft_version: "0".into(),
            program: OsText("/bin/true".into()),
            program_sha256: "00".into(),
            argv: vec![OsText("true".into()), OsText(OsString::from_vec(vec![0xff, b'x']))],
            env: vec![OsText("A=b".into())],
            cwd: OsText("/".into()),
            umask: 0o22,
            seed: u64::MAX,
            at_random: hex(&[7; 16]),
            memory_every: 0,
            memory_slices: false,
            kernel_release: "6".into(),
            state_dirs: vec![OsText("/state".into())],
            segment: None,
            stdout: StreamKind::Pipe,
            stderr: StreamKind::Null,
        }
    }

    fn data(k: u32) -> Vec<u8> {
        let payload = vec![k as u8; k as usize % 700];
        let mut head = [0; HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut head);
        let tail = Entry::Event(Event::Data { conn: ConnId(k), bytes: &payload }).encode(&mut w).to_vec();
        let n = w.len();
        [&head[..n], &tail].concat()
    }

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("ft-logfile-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const ENTRIES: u32 = 3000;

    fn write(path: &Path, end: Option<End>) {
        let mut w = LogWriter::create(path, &header(), |k, out| {
            assert_eq!(k, 0);
            out.write_all(&[5; 10_000])
        })
        .unwrap();
        for k in 0..ENTRIES {
            let index = w.append(DomainId((k % 3) as u16), &data(k), &[]).unwrap();
            assert_eq!(index.0, u64::from(k) + 1);
            if k == 10 {
                w.note("a remark").unwrap();
            }
        }
        match end {
            Some(e) => w.finish(e).unwrap(),
            None => w.flush().unwrap(),
        }
    }

    fn entries(r: &Recording) -> usize {
        let mut cursors = r.cursors();
        let mut seen = 0;
        for d in [2, 0, 1, 3] {
            let mut k = u32::from(d);
            while let Some(e) = cursors.next(DomainId(d)).unwrap() {
                assert_eq!(e, data(k));
                k += 3;
                seen += 1;
            }
        }
        seen
    }

    #[test]
    fn what_is_written_is_read() {
        let t = Temp::new("round");
        let end = End::Exited { status: 9, logged: false };
        write(&t.0, Some(end));
        let r = Recording::open(&t.0).unwrap();
        assert_eq!(r.header, header());
        assert_eq!(r.header.at_random_bytes(), Some([7; 16]));
        assert_eq!((r.entries, r.end, &r.notes[..]), (u64::from(ENTRIES), end, &["a remark".to_owned()][..]));
        let mut state = Vec::new();
        r.state(0).read_to_end(&mut state).unwrap();
        assert_eq!(state, [5; 10_000]);
        assert_eq!(entries(&r), ENTRIES as usize);
    }

    /// Cut anywhere in the last frames: everything before the cut is there, and the tear is named.
    #[test]
    fn a_torn_tail_is_named_and_dropped() {
        let t = Temp::new("torn");
        write(&t.0, None);
        let whole = std::fs::read(&t.0).unwrap();
        for cut in [1, 2, 7, 8, 9, 100, 500, 699, 1400] {
            std::fs::write(&t.0, &whole[..whole.len() - cut]).unwrap();
            let r = Recording::open(&t.0).unwrap();
            let End::Torn { offset, dropped } = r.end else { panic!("{:?}", r.end) };
            assert_eq!(offset + dropped, (whole.len() - cut) as u64);
            assert!(r.entries < u64::from(ENTRIES) && r.entries > u64::from(ENTRIES) - 10);
            assert_eq!(entries(&r), r.entries as usize);
        }
        std::fs::write(&t.0, [&whole[..], &[0; 5000]].concat()).unwrap();
        let r = Recording::open(&t.0).unwrap();
        assert_eq!(r.end, End::Torn { offset: whole.len() as u64, dropped: 5000 });
        assert_eq!(r.entries, u64::from(ENTRIES));
    }

    /// Any single changed byte is found; in a finished file it is never taken for a torn tail.
    #[test]
    fn a_changed_byte_is_corruption_at_an_offset() {
        let t = Temp::new("corrupt");
        write(&t.0, Some(End::Stopped));
        let whole = std::fs::read(&t.0).unwrap();
        let stride = 9973;
        for at in (0..whole.len() - 25).step_by(stride) {
            let mut b = whole.clone();
            b[at] ^= 0x40;
            std::fs::write(&t.0, &b).unwrap();
            match Recording::open(&t.0) {
                Err(LogFileError::Corrupt { offset, .. }) => assert!(offset <= at as u64),
                Err(LogFileError::Magic { .. }) => assert!(at < 8),
                other => panic!("byte {at}: {:?}", other.map(|r| r.end)),
            }
        }
    }

    #[test]
    fn others_files_are_refused() {
        let t = Temp::new("magic");
        std::fs::write(&t.0, b"#!/bin/sh\necho this is no recording\n").unwrap();
        assert!(matches!(Recording::open(&t.0), Err(LogFileError::Magic { .. })));
        write(&t.0, None);
        let mut b = std::fs::read(&t.0).unwrap();
        b[8] = 99;
        std::fs::write(&t.0, &b).unwrap();
        assert!(matches!(Recording::open(&t.0), Err(LogFileError::Version { found: 99, .. })));
        b.truncate(60);
        b[8] = VERSION as u8;
        std::fs::write(&t.0, &b).unwrap();
        assert!(Recording::open(&t.0).is_err());
    }
}
