//! When a running guest is captured, and on which thread: the engine goes on meanwhile.

use super::capture::{Captured, Copy, capture};
use super::EngineState;
use super::changes::{Teller, Told, changes};
use ft_log::shared::{Segment, copy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the engine looks whether files were read, while they are.
const LOOK: Duration = Duration::from_millis(5);

/// Takes a snapshot every so often.
pub struct Taker {
    every: Duration,
    /// The next one is asked for at this time.
    next: Instant,
    /// Snapshots are called this and the input point.
    prefix: PathBuf,
    state_dirs: Arc<[PathBuf]>,
    reader: Option<JoinHandle<()>>,
    /// While files are read.
    teller: Option<Teller>,
}

impl Taker {
    pub fn new(prefix: PathBuf, every: Duration, state_dirs: Vec<PathBuf>) -> Self {
        let state_dirs = state_dirs.into();
        Self { every, next: Instant::now() + every, prefix, state_dirs, reader: None, teller: None }
    }

    pub fn deadline(&self, now: Instant) -> Instant {
        if self.teller.is_some() { self.next.min(now + LOOK) } else { self.next }
    }

    /// Asks the guest for a copy, if it is time to. `drained`: the rings of all domains were read to their ends in this turn.
    pub fn turn(&mut self, segment: &Segment, now: Instant, drained: bool) {
        self.teller.take_if(|t| t.is_over(segment, drained));
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        // If one is still under way, the next is taken a turn later.
        if self.teller.is_none() && self.reader.as_ref().is_none_or(JoinHandle::is_finished) {
            let word = &segment.header().copy;
            let _ = word.compare_exchange(copy::NONE, copy::WANTED, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Something happens to the guest's files.
    pub fn told(&self, told: Told) {
        // What comes late is of a copy that failed.
        if let Some(t) = &self.teller {
            t.tell(told);
        }
    }

    /// The guest has made a copy at the start of `point`; process 0: it could not.
    pub fn made(&mut self, segment: Segment, point: u64, pid: u32, engine: EngineState) {
        if pid == 0 {
            tracing::error!("no snapshot: the server could not be copied, is there memory and room for another process?");
            segment.header().copy.store(copy::READ, Ordering::Release);
            return;
        }
        self.join();
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!(".{point}"));
        let path = PathBuf::from(path);
        let waiting = Waiting { pid: Pid::from_raw(pid as i32), segment };
        let state_dirs = self.state_dirs.clone();
        let (teller, changes) = changes(&segment);
        let read = move || {
            let began = Instant::now();
            let copy = Copy {
                pid: waiting.pid,
                seed: segment.header().seed,
                point,
                engine: &engine,
                state_dirs: &state_dirs,
                changes: &changes,
            };
            match keep(&copy, waiting, &path) {
                Ok(Captured { content_bytes, mapped_bytes, file_bytes }) => tracing::info!(
                    "snapshot {}: {content_bytes} of {mapped_bytes} bytes of memory, {file_bytes} of files, {} ms",
                    path.display(),
                    began.elapsed().as_millis()
                ),
                Err(e) => tracing::error!("no snapshot {}: {e}", path.display()),
            }
        };
        match thread::Builder::new().name("ft-snapshot".into()).spawn(read) {
            Ok(r) => (self.reader, self.teller) = (Some(r), Some(teller)),
            Err(e) => tracing::error!("no snapshot: a thread for it: {e}"),
        }
    }

    fn join(&mut self) {
        // It may wait for what else is told.
        self.teller = None;
        if let Some(r) = self.reader.take() {
            // It has told what went wrong.
            let _ = r.join();
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.join();
    }
}

/// A snapshot whose writing failed leaves nothing.
fn keep(copy: &Copy, waiting: Waiting, path: &Path) -> Result<Captured, String> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let kept = capture(copy, &unfinished, || drop(waiting))
        .map_err(|e| e.to_string())
        .and_then(|c| std::fs::rename(&unfinished, path).map(|()| c).map_err(|e| e.to_string()));
    if kept.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    kept
}

/// A copy that waits to be read. It ends with this value, and the guest may reap it.
struct Waiting {
    pid: Pid,
    segment: Segment,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = kill(self.pid, Signal::SIGKILL);
        self.segment.header().copy.store(copy::READ, Ordering::Release);
    }
}
