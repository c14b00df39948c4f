//! What a log consists of.

use ft_log::entry::{Entry, Event};
use ft_log::ids::DomainId;
use ft_log::shared::DOMAINS_MAX;
use ft_runtime::logfile::{LogFileError, Recording};
use std::collections::BTreeMap;
use std::path::Path;

/// Of a frame, beside its entry: length, checksum, domain.
const FRAME_BYTES: u64 = 9;

#[derive(Debug, Default)]
pub struct Census {
    pub entries: u64,
    /// Entries and their frames.
    pub bytes: u64,
    /// Bytes of clients.
    pub input_bytes: u64,
    pub memory_checks: u64,
    /// Fork children that ended.
    pub children: u64,
    /// By kind of entry: how many, how many bytes with frames.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
}

pub fn census(path: &Path) -> Result<Census, LogFileError> {
    let recording = Recording::open(path)?;
    let mut cursors = recording.cursors();
    let mut c = Census::default();
    for d in 0..DOMAINS_MAX as u16 {
        while let Some(bytes) = cursors.next(DomainId(d))? {
            let Ok(e) = Entry::decode(&bytes) else { continue };
            let name = c.note(d, &e);
            let size = bytes.len() as u64 + FRAME_BYTES;
            let kind = c.kinds.entry(name).or_default();
            kind.0 += 1;
            kind.1 += size;
            c.entries += 1;
            c.bytes += size;
        }
    }
    Ok(c)
}

impl Census {
    fn note(&mut self, domain: u16, e: &Entry) -> &'static str {
        match e {
            Entry::Event(Event::Data { bytes, .. }) => {
                self.input_bytes += bytes.len() as u64;
                "data"
            }
            Entry::Event(Event::Accept { .. }) => "accept",
            Entry::Event(Event::Fin { .. } | Event::Reset { .. }) => "fin, reset",
            Entry::Event(Event::Acked { .. }) => "acked",
            Entry::Event(Event::Signal { .. }) => "signal",
            Entry::Event(Event::PipeData { .. } | Event::PipeClosed { .. } | Event::PipeReader { .. }) => "pipe",
            Entry::Event(Event::ChildExit { .. }) => {
                self.children += u64::from(domain == 0);
                "child exit"
            }
            Entry::Applied(_) => "applied",
            Entry::Passed { .. } => "passed",
            Entry::Recorded { .. } => "recorded",
            Entry::Memory { .. } => {
                self.memory_checks += 1;
                "memory"
            }
            Entry::Exit { .. } => "exit",
            Entry::GoLive { .. } => "go live",
        }
    }
}
