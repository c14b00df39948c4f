//! Programs that are run to their end, and Ctrl-C: it is ours alone, so that what was made is taken down in order.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);
/// After SIGTERM, before SIGKILL: `ft rig up` removes what it made.
const END_MAX: Duration = Duration::from_secs(30);

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn on_signals() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for s in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(s, flag.clone())?;
        }
        Ok(Self(flag))
    }

    /// For what must be done in any case.
    pub fn never() -> Self {
        Self(Arc::default())
    }

    pub fn check(&self) -> io::Result<()> {
        let stopped = self.0.load(Ordering::Relaxed);
        if stopped { Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
    }

    pub fn sleep(&self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// A program at work. It ends with this.
pub struct Child {
    name: String,
    child: process::Child,
    out: File,
    err: File,
}

impl Child {
    /// In a process group of its own: the terminal's Ctrl-C does not reach it.
    pub fn start(name: &str, command: &mut Command) -> io::Result<Self> {
        let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).process_group(0);
        let child = command.spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e}", command.get_program().display()))
        })?;
        Ok(Self { name: name.into(), child, out, err })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it printed; an error if it failed, is not done in time, or `stop` says so.
    pub fn finish(mut self, stop: &Stop, time_max: Duration) -> io::Result<String> {
        let status = self.wait(stop, time_max)?;
        let said = text(&mut self.err)?;
        if !status.success() {
            return Err(io::Error::other(format!("{} failed ({status}): {}", self.name, last_lines(&said))));
        }
        text(&mut self.out)
    }

    fn wait(&mut self, stop: &Stop, time_max: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + time_max;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let stopped = stop.check();
            if stopped.is_err() || Instant::now() > end {
                self.end();
                stopped?;
                let said = text(&mut self.err)?;
                let what = format!("{} was not done after {:?}: {}", self.name, time_max, last_lines(&said));
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            std::thread::sleep(POLL);
        }
    }

    fn end(&mut self) {
        // SAFETY: no pointers; our child, not yet waited for.
        unsafe { libc::kill(self.pid(), libc::SIGTERM) };
        let end = Instant::now() + END_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(said: &str) -> String {
    const LINES: usize = 8;
    let lines: Vec<&str> = said.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
