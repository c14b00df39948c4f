//! What lies in the directory of a ring, and what of it goes. Shared by the engine, which begins segments, and the thread
//! that writes their snapshots.

use super::outdated::{Segment, outdated};
use super::{log_path, snapshot_path};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct Kept {
    point: u64,
    begun: Instant,
    is_start: bool,
    /// On the disk, all of it: another one goes on.
    is_synced: bool,
}

/// Half of what a ring may take is for what has to stay, a quarter for a log that waits for the next snapshot, and the rest for a
/// snapshot that comes late.
const KEPT_PART: u64 = 2;
const LOG_PART: u64 = 4;

pub struct Keeper {
    dir: PathBuf,
    last: Duration,
    /// For all files.
    bytes_max: u64,
    /// The newest log is so long that it should end.
    is_long: AtomicBool,
    /// The oldest first.
    segments: Mutex<Vec<Kept>>,
}

impl Keeper {
    /// In an empty directory, which is made if need be.
    pub fn create(dir: &Path, last: Duration, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(io::Error::other(
                "it is not empty, and an earlier recording may be all that is left of an incident: move it away, or name \
                 another directory (-o /var/lib/ft/$(date +%s))",
            ));
        }
        // Its own name too.
        File::open(dir.join(".."))?.sync_all()?;
        Ok(Self { dir: dir.to_owned(), last, bytes_max, is_long: AtomicBool::new(false), segments: Mutex::default() })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn segments(&self) -> MutexGuard<'_, Vec<Kept>> {
        // Nothing in here panics while it holds it.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log goes on in `log.point`, which is there.
    pub fn begun(&self, point: u64) {
        let is_start = point == 0;
        self.segments().push(Kept { point, begun: Instant::now(), is_start, is_synced: false });
        self.is_long.store(false, Ordering::Relaxed);
    }

    /// The newest log has become so long. False: it is to go on no further, since no snapshot has ended it.
    pub fn takes(&self, log_bytes: u64) -> bool {
        self.is_long.store(log_bytes >= self.bytes_max / LOG_PART, Ordering::Relaxed);
        log_bytes < self.bytes_max / KEPT_PART
    }

    /// A snapshot is due, whatever the time.
    pub fn wants_snapshot(&self) -> bool {
        self.is_long.load(Ordering::Relaxed)
    }

    /// `snapshot.point` lies there, whole and synced: what is older than it has to be may go.
    pub fn complete(&self, point: u64) -> io::Result<()> {
        let Some(unsynced) = self.unsynced_to(point) else {
            // Its log could not be begun: nobody can begin here.
            return fs::remove_file(snapshot_path(&self.dir, point));
        };
        for p in &unsynced {
            File::open(log_path(&self.dir, *p))?.sync_data()?;
        }
        File::open(&self.dir)?.sync_all()?;
        let gone = self.take_outdated(point);
        for p in gone {
            let snapshot = snapshot_path(&self.dir, p);
            let removed = if snapshot.exists() { fs::remove_file(&snapshot) } else { Ok(()) };
            removed.and_then(|()| fs::remove_file(log_path(&self.dir, p)))?;
        }
        Ok(())
    }

    /// Logs that must be on the disk before the one of `point` counts, and that one.
    fn unsynced_to(&self, point: u64) -> Option<Vec<u64>> {
        let segments = self.segments();
        let at = segments.iter().position(|s| s.point == point)?;
        Some(segments[..=at].iter().filter(|s| !s.is_synced).map(|s| s.point).collect())
    }

    fn take_outdated(&self, point: u64) -> Vec<u64> {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |m| m.len());
        let mut segments = self.segments();
        for s in segments.iter_mut() {
            s.is_start |= s.point == point;
            s.is_synced |= s.point < point;
        }
        let seen = segments.iter().map(|s| Segment {
            age: s.begun.elapsed(),
            is_start: s.is_start,
            bytes: size(log_path(&self.dir, s.point)) + size(snapshot_path(&self.dir, s.point)),
        });
        let seen: Vec<Segment> = seen.collect();
        let kept_max = self.bytes_max / KEPT_PART;
        let gone = outdated(&seen, self.last, kept_max);
        let left: u64 = seen[gone..].iter().map(|s| s.bytes).sum();
        if left > kept_max {
            tracing::warn!("the newest snapshot and its log alone take {} MiB, more than half of --max-mib", left >> 20);
        }
        segments.drain(..gone).map(|s| s.point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    fn begin(k: &Keeper, point: u64) {
        fs::write(log_path(k.dir(), point), b"log").unwrap();
        k.begun(point);
    }

    fn complete(k: &Keeper, point: u64) {
        fs::write(snapshot_path(k.dir(), point), b"snapshot").unwrap();
        k.complete(point).unwrap();
    }

    #[test]
    fn a_start_is_kept_until_a_later_one_covers_the_time() {
        let dir = tempfile::tempdir().unwrap();
        // No time at all: each start covers it.
        let k = Keeper::create(dir.path(), Duration::ZERO, u64::MAX).unwrap();
        begin(&k, 0);
        begin(&k, 5);
        assert_eq!(names(dir.path()), ["log.0", "log.5"]);
        begin(&k, 9);
        complete(&k, 9);
        assert_eq!(names(dir.path()), ["log.9", "snapshot.9"]);
        let long = tempfile::tempdir().unwrap();
        let k = Keeper::create(long.path(), Duration::from_secs(3600), u64::MAX).unwrap();
        begin(&k, 0);
        begin(&k, 5);
        complete(&k, 5);
        assert_eq!(names(long.path()), ["log.0", "log.5", "snapshot.5"]);
    }

    #[test]
    fn a_log_that_becomes_long_wants_a_snapshot_and_then_ends() {
        let dir = tempfile::tempdir().unwrap();
        let k = Keeper::create(dir.path(), Duration::from_secs(3600), 4000).unwrap();
        begin(&k, 0);
        assert!(k.takes(999) && !k.wants_snapshot());
        assert!(k.takes(1000) && k.wants_snapshot());
        assert!(!k.takes(2000));
        begin(&k, 5);
        assert!(!k.wants_snapshot());
    }

    #[test]
    fn a_snapshot_without_its_log_goes() {
        let dir = tempfile::tempdir().unwrap();
        let k = Keeper::create(dir.path(), Duration::ZERO, u64::MAX).unwrap();
        begin(&k, 0);
        complete(&k, 7);
        assert_eq!(names(dir.path()), ["log.0"]);
    }

    #[test]
    fn what_lies_there_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.0"), b"of an incident").unwrap();
        assert!(Keeper::create(dir.path(), Duration::ZERO, u64::MAX).is_err());
        assert_eq!(names(dir.path()), ["log.0"]);
    }
}
