//! When a running guest is captured, and on which thread: the engine goes on meanwhile.

use super::{Captured, capture};
use ft_log::shared::{Segment, copy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Takes a snapshot every so often.
pub struct Taker {
    every: Duration,
    /// The next one is asked for at this time.
    next: Instant,
    /// Snapshots are called this and the input point.
    prefix: PathBuf,
    reader: Option<JoinHandle<()>>,
}

impl Taker {
    pub fn new(prefix: PathBuf, every: Duration) -> Self {
        Self { every, next: Instant::now() + every, prefix, reader: None }
    }

    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Asks the guest for a copy, if it is time to.
    pub fn turn(&mut self, segment: &Segment, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        // If one is still under way, the next is taken a turn later.
        let word = &segment.header().copy;
        let _ = word.compare_exchange(copy::NONE, copy::WANTED, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The guest has made a copy at the start of `point`; process 0: it could not.
    pub fn made(&mut self, segment: Segment, point: u64, pid: u32) {
        if pid == 0 {
            tracing::error!("no snapshot: the server could not be copied, is there memory and room for another process?");
            segment.header().copy.store(copy::READ, Ordering::Release);
            return;
        }
        self.join();
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!(".{point}"));
        let (path, pid) = (PathBuf::from(path), Pid::from_raw(pid as i32));
        let read = move || {
            let mut unfinished = path.clone().into_os_string();
            unfinished.push(".part");
            let unfinished = PathBuf::from(unfinished);
            let began = Instant::now();
            let captured = capture(pid, segment.header().seed, point, &unfinished);
            // An error means that it has ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
            segment.header().copy.store(copy::READ, Ordering::Release);
            let kept = captured.map_err(|e| e.to_string()).and_then(|c| {
                std::fs::rename(&unfinished, &path).map_err(|e| e.to_string())?;
                Ok(c)
            });
            match kept {
                Ok(Captured { content_bytes, mapped_bytes }) => tracing::info!(
                    "snapshot {}: {content_bytes} of {mapped_bytes} bytes, {} ms",
                    path.display(),
                    began.elapsed().as_millis()
                ),
                Err(e) => {
                    let _ = std::fs::remove_file(&unfinished);
                    tracing::error!("no snapshot {}: {e}", path.display());
                }
            }
        };
        match thread::Builder::new().name("ft-snapshot".into()).spawn(read) {
            Ok(r) => self.reader = Some(r),
            Err(e) => {
                tracing::error!("no snapshot: a thread for it: {e}");
                let _ = kill(pid, Signal::SIGKILL);
                segment.header().copy.store(copy::READ, Ordering::Release);
            }
        }
    }

    fn join(&mut self) {
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
