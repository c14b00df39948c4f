//! Programs that the demonstration runs: heard line by line, ended if it is interrupted.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);
/// For a program that was asked to end. `ft rig up` removes what it has made.
const END_MAX: Duration = Duration::from_secs(20);

/// Ctrl-C, SIGTERM, SIGHUP: from now on only a flag.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn catch() -> io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(Self(flag))
    }

    pub fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

pub struct Running {
    child: Child,
    lines: Receiver<String>,
    interrupt: Interrupt,
}

impl Running {
    /// Its stderr is ours.
    pub fn start(command: &mut Command, interrupt: &Interrupt) -> io::Result<Self> {
        interrupt.check()?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e}", command.get_program().display()))
        })?;
        let out = child.stdout.take().expect("it is piped");
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            let said = BufReader::new(out).lines().map_while(Result::ok);
            // Nobody listens any more once it is given up.
            said.map_while(|l| tx.send(l).ok()).for_each(drop);
        });
        Ok(Self { child, lines, interrupt: interrupt.clone() })
    }

    /// The next line; none: it has closed its output.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.line_until(Instant::now() + POLL)? {
                return Ok(end);
            }
        }
    }

    /// `None` if that moment has come.
    pub fn line_until(&mut self, until: Instant) -> io::Result<Option<Option<String>>> {
        loop {
            self.interrupt.check()?;
            let now = Instant::now();
            match self.lines.recv_timeout(POLL.min(until.saturating_duration_since(now))) {
                Ok(l) => return Ok(Some(Some(l))),
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(None)),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            self.interrupt.check()?;
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(POLL / 5);
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        // SAFETY: no pointers; it was not reaped, so the pid is its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let end = Instant::now() + END_MAX;
        while Instant::now() < end {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that can't be ended is removed with the rig.
        let _ = self.end();
    }
}

/// All that it prints. Fails if it does.
pub fn output(command: &mut Command, interrupt: &Interrupt) -> io::Result<Vec<String>> {
    let mut running = Running::start(command, interrupt)?;
    let mut lines = Vec::new();
    while let Some(l) = running.line()? {
        lines.push(l);
    }
    let status = running.wait()?;
    if status.success() {
        return Ok(lines);
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    Err(io::Error::other(format!("`{} {}` failed: {status}", command.get_program().display(), arguments.join(" "))))
}
