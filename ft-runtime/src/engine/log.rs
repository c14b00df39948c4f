//! Where the engine's log goes, and how far of it is safe.

use crate::logfile::{End, LogFileError, LogWriter};
use ft_log::ids::{DomainId, InputPoint, LogIndex};
use ft_log::output_rule::Progress;
use std::time::{Duration, Instant};

/// A recorder that dies loses at most this much of what it gathered.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// Takes entries in the one order the engine gives them.
pub trait Log {
    /// `head` and `payload` as `Entry::encode` makes them.
    fn append(&mut self, domain: DomainId, head: &[u8], payload: &[u8]) -> Result<LogIndex, LogFileError>;
    /// Output caused by entries up to here may leave.
    fn committed(&self) -> LogIndex;
    /// A remark for people.
    fn note(&mut self, text: &str) -> Result<(), LogFileError>;
    /// Called at each turn; `Some`: call again at that time at the latest.
    fn turn(&mut self, now: Instant) -> Result<Option<Instant>, LogFileError>;
    fn finish(&mut self, end: End) -> Result<(), LogFileError>;
    /// The guest was copied at the start of `point`, and nothing was done since. `unapplied`: events that were logged and
    /// that it has not applied, if they were kept; returned if somebody else is to have them.
    fn copied(&mut self, _point: InputPoint, unapplied: Option<Vec<Box<[u8]>>>) -> Option<Vec<Box<[u8]>>> {
        unapplied
    }
}

/// No log at all: everything is committed as soon as it is counted.
#[derive(Default)]
pub struct NoLog {
    progress: Progress,
}

impl Log for NoLog {
    fn append(&mut self, _: DomainId, _: &[u8], _: &[u8]) -> Result<LogIndex, LogFileError> {
        Ok(append_committed(&mut self.progress))
    }

    fn committed(&self) -> LogIndex {
        self.progress.committed()
    }

    fn note(&mut self, _: &str) -> Result<(), LogFileError> {
        Ok(())
    }

    fn turn(&mut self, _: Instant) -> Result<Option<Instant>, LogFileError> {
        Ok(None)
    }

    fn finish(&mut self, _: End) -> Result<(), LogFileError> {
        Ok(())
    }
}

fn append_committed(p: &mut Progress) -> LogIndex {
    let index = p.append();
    assert!(p.commit(index), "just appended");
    index
}

/// The log in a file. What is in the writer's buffer counts as committed: a recording protects nobody.
pub struct Recorder {
    writer: LogWriter,
    progress: Progress,
    flush_at: Option<Instant>,
}

impl Recorder {
    pub fn new(writer: LogWriter) -> Self {
        Self::continuing(writer, 0)
    }

    /// One whose file has so many entries already.
    pub fn continuing(writer: LogWriter, entries: u64) -> Self {
        let mut progress = Progress::new();
        progress.begin_at(LogIndex(entries));
        Self { writer, progress, flush_at: None }
    }

    /// The last frame, without waiting for the disk.
    pub fn end(&mut self, end: End) -> Result<(), LogFileError> {
        self.writer.end(end)
    }
}

impl Log for Recorder {
    fn append(&mut self, domain: DomainId, head: &[u8], payload: &[u8]) -> Result<LogIndex, LogFileError> {
        let index = self.writer.append(domain, head, payload)?;
        assert_eq!(index, append_committed(&mut self.progress), "one count");
        Ok(index)
    }

    fn committed(&self) -> LogIndex {
        self.progress.committed()
    }

    fn note(&mut self, text: &str) -> Result<(), LogFileError> {
        self.writer.note(text)
    }

    fn turn(&mut self, now: Instant) -> Result<Option<Instant>, LogFileError> {
        if !self.writer.has_unflushed() {
            self.flush_at = None;
        } else if self.flush_at.is_some_and(|at| at <= now) {
            self.writer.flush()?;
            self.flush_at = None;
        } else if self.flush_at.is_none() {
            self.flush_at = Some(now + FLUSH_AFTER);
        }
        Ok(self.flush_at)
    }

    fn finish(&mut self, end: End) -> Result<(), LogFileError> {
        self.writer.finish(end)
    }
}
