//! The log of a ring: goes on in another file where the guest was copied.

use super::{Keeper, log_path};
use crate::engine::log::{Log, Recorder};
use crate::logfile::{End, Header, LogFileError, LogWriter, Segment};
use ft_log::ids::{DomainId, InputPoint, LogIndex};
use ft_log::output_rule::Progress;
use std::sync::Arc;
use std::time::Instant;

const SERVICE: DomainId = DomainId(0);
/// The keeper is told whenever the log has become so much longer.
const TELL_BYTES: u64 = 64 << 10;

pub struct FlightRecorder {
    keeper: Arc<Keeper>,
    /// Of the newest file.
    header: Header,
    /// `None`: it could not be written, and what comes next begins with a snapshot.
    file: Option<Recorder>,
    /// Of its entries, and how many of them the keeper has heard of.
    bytes: u64,
    told_bytes: u64,
    progress: Progress,
}

impl FlightRecorder {
    /// `first`: what `log.0` is begun with.
    pub fn begin(
        keeper: Arc<Keeper>,
        mut header: Header,
        first: impl FnOnce(&std::path::Path, &Header) -> Result<LogWriter, LogFileError>,
    ) -> Result<Self, LogFileError> {
        header.segment = Some(Segment::default());
        let writer = first(&log_path(keeper.dir(), 0), &header)?;
        keeper.begun(0);
        // Later files have none: a snapshot holds them.
        header.state_dirs.clear();
        Ok(Self { keeper, header, file: Some(Recorder::new(writer)), bytes: 0, told_bytes: 0, progress: Progress::new() })
    }

    /// A log that can't be written has a hole, and is of no use until the next snapshot. The server goes on.
    fn or_pause<T: Default>(&mut self, done: impl FnOnce(&mut Recorder) -> Result<T, LogFileError>) -> T {
        let Some(file) = &mut self.file else { return T::default() };
        done(file).unwrap_or_else(|e| {
            tracing::error!("not recorded until the next snapshot: {e}");
            self.file = None;
            T::default()
        })
    }

    fn go_on_in(&mut self, point: u64, unapplied: &[Box<[u8]>]) -> Result<Recorder, LogFileError> {
        let before = self.header.segment.unwrap_or_default();
        let segment = Segment {
            point,
            after: Some(before.point),
            entries_before: self.progress.appended().0,
            unapplied: unapplied.len() as u32,
        };
        let header = Header { segment: Some(segment), ..self.header.clone() };
        let mut writer = LogWriter::create(&log_path(self.keeper.dir(), point), &header, |_, _| Ok(()))?;
        for event in unapplied {
            writer.append(SERVICE, event, &[])?;
        }
        self.header = header;
        // What begins here is to outlive this process from the begin.
        writer.flush()?;
        Ok(Recorder::continuing(writer, unapplied.len() as u64))
    }
}

impl Log for FlightRecorder {
    fn append(&mut self, domain: DomainId, head: &[u8], payload: &[u8]) -> Result<LogIndex, LogFileError> {
        self.or_pause(|f| f.append(domain, head, payload).map(drop));
        self.bytes += (head.len() + payload.len()) as u64;
        if self.bytes >= self.told_bytes + TELL_BYTES {
            self.told_bytes = self.bytes;
            if !self.keeper.takes(self.bytes) && self.file.take().is_some() {
                tracing::error!("not recorded until the next snapshot: without one the log would take more than half of --max-mib");
            }
        }
        let index = self.progress.append();
        assert!(self.progress.commit(index), "just appended");
        Ok(index)
    }

    fn committed(&self) -> LogIndex {
        self.progress.committed()
    }

    fn note(&mut self, text: &str) -> Result<(), LogFileError> {
        self.or_pause(|f| f.note(text));
        Ok(())
    }

    fn turn(&mut self, now: Instant) -> Result<Option<Instant>, LogFileError> {
        Ok(self.or_pause(|f| f.turn(now)))
    }

    fn finish(&mut self, end: End) -> Result<(), LogFileError> {
        self.or_pause(|f| f.finish(end));
        Ok(())
    }

    fn copied(&mut self, point: InputPoint, unapplied: Option<Vec<Box<[u8]>>>) -> Option<Vec<Box<[u8]>>> {
        let Some(events) = unapplied else {
            tracing::error!("no new segment at input point {}: what the server has not applied yet was not kept", point.0);
            return None;
        };
        match self.go_on_in(point.0, &events) {
            Ok(next) => {
                self.or_pause(|f| f.end(End::Continued));
                self.file = Some(next);
                (self.bytes, self.told_bytes) = (0, 0);
                self.keeper.begun(point.0);
            }
            Err(e) => {
                tracing::error!("no new segment: {e}");
                // Half a file would be in the way of all that is right.
                let _ = std::fs::remove_file(log_path(self.keeper.dir(), point.0));
            }
        }
        None
    }
}
