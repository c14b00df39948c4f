//! Programs at work: heard line by line, ended when they are not wanted any more; and Ctrl-C, which is this program's
//! alone, so that what was made is taken down in order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);
/// After SIGTERM, before SIGKILL: `ft rig up` removes what it made.
const END_MAX: Duration = Duration::from_secs(30);

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn on_signals() -> io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, flag.clone())?;
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
        self.sleep_until(Instant::now() + time)
    }

    pub fn sleep_until(&self, end: Instant) -> io::Result<()> {
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// What becomes of a program's stderr.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// People see it at once.
    Shown,
    /// It is in the error, if the program fails.
    Kept,
}

/// A program at work. It ends with this.
pub struct Child {
    name: String,
    child: process::Child,
    lines: Receiver<String>,
    err: Option<File>,
    stop: Stop,
}

impl Child {
    /// In a process group of its own: the terminal's Ctrl-C does not reach it.
    pub fn start(name: &str, command: &mut Command, words: Words, stop: &Stop) -> io::Result<Self> {
        stop.check()?;
        let mut err = None;
        if words == Words::Kept {
            let file = tempfile::tempfile()?;
            command.stderr(file.try_clone()?);
            err = Some(file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", command.get_program().display())))?;
        let out = child.stdout.take().expect("it is piped");
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            let said = BufReader::new(out).lines().map_while(Result::ok);
            // Nobody listens any more once it is given up.
            said.map_while(|l| tx.send(l).ok()).for_each(drop);
        });
        Ok(Self { name: name.into(), child, lines, err, stop: stop.clone() })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The next line of its stdout, `Some(None)` after the last; `None` if that moment has come.
    pub fn line_until(&mut self, until: Instant) -> io::Result<Option<Option<String>>> {
        loop {
            self.stop.check()?;
            let wait = POLL.min(until.saturating_duration_since(Instant::now()));
            match self.lines.recv_timeout(wait) {
                Ok(l) => return Ok(Some(Some(l))),
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(None)),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What it has still to print; an error if it fails, is not done in time, or is interrupted.
    pub fn finish(mut self, time_max: Duration) -> io::Result<Vec<String>> {
        let end = Instant::now() + time_max;
        let mut lines = Vec::new();
        loop {
            match self.line_until(end)? {
                Some(Some(l)) => lines.push(l),
                Some(None) => break,
                None => return Err(self.late(time_max)),
            }
        }
        match self.wait_until(end)? {
            Some(status) if status.success() => Ok(lines),
            Some(status) => {
                let said = self.last_words();
                Err(io::Error::other(format!("{} failed ({status}): {said}", self.name)))
            }
            None => Err(self.late(time_max)),
        }
    }

    fn late(&mut self, time_max: Duration) -> io::Error {
        self.end();
        let said = self.last_words();
        let what = format!("{} was not done after {time_max:?}: {said}", self.name);
        io::Error::new(io::ErrorKind::TimedOut, what)
    }

    pub fn is_at_work(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended; `None` if that moment has come.
    pub fn wait_until(&mut self, until: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            self.stop.check()?;
            if Instant::now() > until {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    fn last_words(&mut self) -> String {
        const LINES: usize = 8;
        let Some(file) = &mut self.err else { return "it said why above".into() };
        let mut bytes = Vec::new();
        if let Err(e) = file.rewind().and_then(|()| file.read_to_end(&mut bytes)) {
            return format!("what it said can't be read: {e}");
        }
        let said = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = said.trim_end().lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn end(&mut self) {
        if !self.is_at_work() {
            return;
        }
        // SAFETY: no pointers; our child, not yet waited for.
        unsafe { libc::kill(self.pid(), libc::SIGTERM) };
        let end = Instant::now() + END_MAX;
        while self.is_at_work() && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        // One that can't be ended is removed with the rig.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}
