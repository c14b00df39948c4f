//! Reads a ring: which of its files follow each other, and where a replay may begin.

use super::{LOG, SNAPSHOT, log_path, snapshot_path};
use crate::logfile::{End, LogFileError, Recording, Segment};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A ring that is being recorded loses its oldest files while it is read: then it is looked at anew.
const LOOKS_MAX: u32 = 5;

/// A ring from one of its starts on.
pub struct Ring {
    pub recording: Recording,
    /// `None`: it begins with the guest.
    pub snapshot: Option<PathBuf>,
    /// What came later and can't be joined to this: the log between was lost. A replay may begin there.
    pub later: Option<PathBuf>,
}

impl Ring {
    /// From the oldest start on, or from the snapshot named `from`: its path, or its input point.
    pub fn open(dir: &Path, from: Option<&Path>) -> Result<Self, LogFileError> {
        let mut looks = 0;
        loop {
            looks += 1;
            match Self::look(dir, from) {
                Err(LogFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && looks < LOOKS_MAX => {}
                r => return r,
            }
        }
    }

    fn look(dir: &Path, from: Option<&Path>) -> Result<Self, LogFileError> {
        let listed = Listed::of(dir)?;
        let starts: Vec<u64> = listed.starts().collect();
        let bad = |why| LogFileError::Ring { path: dir.to_owned(), why };
        let begin = match from {
            None => *starts.first().ok_or_else(|| {
                bad("not a ring that can be replayed: there is neither log.0 nor a snapshot.POINT with its log.POINT; name the \
                     directory that `ft record --last` wrote"
                    .into())
            })?,
            Some(f) => point_of(f).filter(|p| starts.contains(p)).ok_or_else(|| {
                bad(format!("there is no start {}; those of this ring are at input points {}", f.display(), list(&starts)))
            })?,
        };
        let mut recording = open(dir, begin)?;
        let mut later = None;
        let mut at = begin;
        for &point in listed.logs.range(begin + 1..) {
            let next = match open(dir, point) {
                // The recorder died when it had just begun it.
                Err(LogFileError::Unstarted { .. } | LogFileError::Magic { .. }) if listed.logs.last() == Some(&point) => break,
                r => r?,
            };
            let segment = segment_of(&next)?;
            if next.header.seed != recording.header.seed {
                return Err(bad(format!("log.{point} is of another run of the server than log.{at}: keep each run in a directory of its own")));
            }
            let has = segment_of(&recording)?.entries_before + recording.own_entries();
            match segment.after {
                Some(a) if a == at && segment.entries_before == has => {}
                Some(a) if a != at => {
                    return Err(bad(format!(
                        "log.{a} is missing, which lies between log.{at} and log.{point}: copy it too, or begin behind it with \
                         --from {}",
                        starts.iter().find(|s| **s >= point).map_or("(no snapshot follows)".into(), |s| format!("snapshot.{s}"))
                    )));
                }
                _ if matches!(recording.end, End::Torn { .. }) => {
                    later = starts.iter().find(|s| **s >= point).map(|s| snapshot_path(dir, *s));
                    break;
                }
                _ => {
                    return Err(bad(format!(
                        "log.{point} says that {} entries came before it, and there are {has}: restore the files from where they \
                         were whole",
                        segment.entries_before
                    )));
                }
            }
            recording.go_on_with(next);
            at = point;
        }
        let snapshot = (begin != 0).then(|| snapshot_path(dir, begin));
        Ok(Self { recording, snapshot, later })
    }
}

fn open(dir: &Path, point: u64) -> Result<Recording, LogFileError> {
    let path = log_path(dir, point);
    let recording = Recording::open(&path)?;
    match segment_of(&recording)?.point {
        p if p == point => Ok(recording),
        p => Err(LogFileError::Ring { path, why: format!("it begins at input point {p}: give it its name back, log.{p}") }),
    }
}

fn segment_of(r: &Recording) -> Result<Segment, LogFileError> {
    r.header.segment.ok_or_else(|| LogFileError::Ring {
        path: r.path().to_owned(),
        why: "it is a recording of its own, no part of a ring: replay it by its name".into(),
    })
}

/// The input point in the name of a snapshot, or alone.
fn point_of(from: &Path) -> Option<u64> {
    let name = from.file_name()?.to_str()?;
    name.strip_prefix(SNAPSHOT).and_then(|n| n.strip_prefix('.')).unwrap_or(name).parse().ok()
}

fn list(points: &[u64]) -> String {
    points.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

struct Listed {
    logs: BTreeSet<u64>,
    snapshots: BTreeSet<u64>,
}

impl Listed {
    fn of(dir: &Path) -> Result<Self, LogFileError> {
        let io = |source| LogFileError::Io { path: dir.to_owned(), what: "cannot list the ring", source };
        let mut listed = Self { logs: BTreeSet::new(), snapshots: BTreeSet::new() };
        for entry in fs::read_dir(dir).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            match name.to_str().and_then(|n| n.split_once('.')).map(|(kind, point)| (kind, point.parse())) {
                Some((LOG, Ok(p))) => listed.logs.insert(p),
                Some((SNAPSHOT, Ok(p))) => listed.snapshots.insert(p),
                _ => false,
            };
        }
        Ok(listed)
    }

    fn starts(&self) -> impl Iterator<Item = u64> {
        self.logs.iter().copied().filter(|p| *p == 0 || self.snapshots.contains(p))
    }
}
