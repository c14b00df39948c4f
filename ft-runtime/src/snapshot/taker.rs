//! When a running guest is captured, and on which thread: the engine goes on meanwhile.

use super::EngineState;
use super::capture::{Captured, Copy, capture};
use super::changes::{Teller, Told, changes};
use super::file::BUFFER_BYTES;
use super::stream::Outlet;
use crate::flight::{Keeper, snapshot_prefix};
use ft_log::shared::{Segment, copy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the engine looks whether files were read, while they are.
const LOOK: Duration = Duration::from_millis(5);

/// Between two snapshots, however long the log becomes.
const EARLY_MIN: Duration = Duration::from_millis(250);

/// When snapshots are taken, and where they go.
enum Plan {
    /// One every so often, the next one at `next`, into files that are called `prefix` and the input point. `ring`: they
    /// begin its segments.
    Files { prefix: PathBuf, every: Duration, next: Instant, ring: Option<Arc<Keeper>> },
    /// One whenever somebody wants it.
    Stream(Option<Outlet>),
}

pub struct Taker {
    plan: Plan,
    state_dirs: Arc<[PathBuf]>,
    reader: Option<JoinHandle<()>>,
    /// While files are read.
    teller: Option<Teller>,
}

impl Taker {
    pub fn into_files(prefix: PathBuf, every: Duration, state_dirs: Vec<PathBuf>) -> Self {
        Self::new(Plan::Files { prefix, every, next: Instant::now() + every, ring: None }, state_dirs)
    }

    pub fn into_ring(ring: Arc<Keeper>, every: Duration, state_dirs: Vec<PathBuf>) -> Self {
        let (prefix, next) = (snapshot_prefix(ring.dir()), Instant::now() + every);
        Self::new(Plan::Files { prefix, every, next, ring: Some(ring) }, state_dirs)
    }

    pub fn on_demand(state_dirs: Vec<PathBuf>) -> Self {
        Self::new(Plan::Stream(None), state_dirs)
    }

    fn new(plan: Plan, state_dirs: Vec<PathBuf>) -> Self {
        Self { plan, state_dirs: state_dirs.into(), reader: None, teller: None }
    }

    /// The next snapshot goes there. False: the one before is still under way.
    pub fn want(&mut self, segment: &Segment, to: impl FnOnce() -> io::Result<Outlet>) -> io::Result<bool> {
        let free = self.is_free() && segment.header().copy.load(Ordering::Acquire) == copy::NONE;
        let Plan::Stream(outlet) = &mut self.plan else { return Ok(false) };
        if free {
            *outlet = Some(to()?);
            ask(segment);
        }
        Ok(free)
    }

    fn is_free(&self) -> bool {
        self.teller.is_none() && self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// `None`: nothing is to be done at any time.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let look = self.teller.as_ref().map(|_| now + LOOK);
        let next = if let Plan::Files { next, .. } = self.plan { Some(next) } else { None };
        [look, next].into_iter().flatten().min()
    }

    /// Asks the guest for a copy, if it is time to. `drained`: the rings of all domains were read to their ends in this turn.
    /// `keep_events`: whether all events that the guest has not applied are kept, from now on if not yet.
    pub fn turn(&mut self, segment: &Segment, now: Instant, drained: bool, keep_events: impl FnOnce() -> bool) {
        self.teller.take_if(|t| t.is_over(segment, drained));
        let free = self.is_free();
        if let Plan::Files { every, next, ring, .. } = &mut self.plan
            && (now >= *next || now + *every >= *next + EARLY_MIN && ring.as_ref().is_some_and(|r| r.wants_snapshot()))
        {
            let is_asked = segment.header().copy.load(Ordering::Acquire) == copy::WANTED;
            if is_asked && now < *next {
                return;
            }
            if free && !is_asked && ring.is_some() && !keep_events() {
                *next = now + LOOK;
                return;
            }
            *next = now + *every;
            if is_asked {
                tracing::warn!("no snapshot for {every:?}: the server has a fork child at work, or never waits for anything");
            } else if free {
                // If one is still under way, the next is taken a turn later.
                ask(segment);
            }
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
        self.join();
        let to = match &mut self.plan {
            Plan::Files { prefix, ring, .. } => {
                let mut path = prefix.clone().into_os_string();
                path.push(format!(".{point}"));
                To::File(path.into(), ring.clone())
            }
            Plan::Stream(outlet) => match outlet.take() {
                Some(o) => To::Stream(o),
                // It is not wanted any more.
                None => return drop(Waiting { pid, segment }),
            },
        };
        if pid == 0 {
            segment.header().copy.store(copy::READ, Ordering::Release);
            return to.fail("the server could not be copied, is there memory and room for another process?".into());
        }
        let waiting = Waiting { pid, segment };
        let state_dirs = self.state_dirs.clone();
        let (teller, changes) = changes(&segment);
        let read = move || {
            give_way();
            let pid = Pid::from_raw(waiting.pid as i32);
            let seed = segment.header().seed;
            let copy = Copy { pid, seed, point, engine: &engine, state_dirs: &state_dirs, changes: &changes };
            to.keep(&copy, waiting);
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

/// This thread, which has its precedence of the engine, is equal to the guest. Not below it: the kernel owes a thread of
/// less weight its share as well, and where an engine is busy it has been seen to give that out for 20 ms at a time,
/// in which the guest did not run at all.
fn give_way() {
    // SAFETY: no pointers. 0 is the calling thread. Without it the snapshot is only more in the way.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
}

fn ask(segment: &Segment) {
    let word = &segment.header().copy;
    let _ = word.compare_exchange(copy::NONE, copy::WANTED, Ordering::AcqRel, Ordering::Relaxed);
}

/// Where one snapshot goes.
enum To {
    File(PathBuf, Option<Arc<Keeper>>),
    Stream(Outlet),
}

impl To {
    fn fail(self, why: String) {
        match self {
            Self::File(path, _) => tracing::error!("no snapshot {}: {why}", path.display()),
            Self::Stream(outlet) => outlet.fail(why),
        }
    }

    fn keep(self, copy: &Copy, waiting: Waiting) {
        let began = Instant::now();
        let (kept, what) = match self {
            Self::File(path, ring) => match write_file(copy, waiting, &path) {
                Ok(kept) => {
                    if let Some(Err(e)) = ring.map(|r| r.complete(copy.point)) {
                        tracing::error!("the ring of {} is not kept small: {e}", path.display());
                    }
                    (kept, format!("snapshot {}", path.display()))
                }
                Err(why) => return Self::File(path, ring).fail(why),
            },
            Self::Stream(mut outlet) => match capture(copy, &mut outlet, || drop(waiting)) {
                Ok(kept) => (kept, "snapshot for the other host".to_owned()),
                Err(e) => return outlet.fail(e.to_string()),
            },
        };
        let Captured { content_bytes, mapped_bytes, file_bytes } = kept;
        let ms = began.elapsed().as_millis();
        tracing::info!("{what}: {content_bytes} of {mapped_bytes} bytes of memory, {file_bytes} of files, {ms} ms");
    }
}

/// One whose writing failed leaves nothing.
fn write_file(copy: &Copy, waiting: Waiting, path: &Path) -> Result<Captured, String> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let write = || {
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(&unfinished).map_err(|e| e.to_string())?);
        let captured = capture(copy, file, || drop(waiting)).map_err(|e| e.to_string())?;
        File::open(&unfinished).and_then(|f| f.sync_all()).map_err(|e| e.to_string())?;
        std::fs::rename(&unfinished, path).map_err(|e| e.to_string())?;
        Ok(captured)
    };
    write().inspect_err(|_: &String| {
        let _ = std::fs::remove_file(&unfinished);
    })
}

/// A copy that waits to be read. It ends with this value, and the guest may reap it.
struct Waiting {
    pid: u32,
    segment: Segment,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        if self.pid != 0 {
            let _ = kill(Pid::from_raw(self.pid as i32), Signal::SIGKILL);
        }
        self.segment.header().copy.store(copy::READ, Ordering::Release);
    }
}
