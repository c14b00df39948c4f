//! Processes with a time limit, in groups of their own, that don't outlive their owner.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often an end is looked for. It decides nothing but how soon the end is seen.
const LOOK: Duration = Duration::from_millis(2);
/// A report shows that much of the beginning and of the end of what a process wrote.
const SHOWN_BYTES: usize = 2000;

/// A running process. Dropped, it is killed with all that it started in its group.
pub struct Running {
    what: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

/// What a process left.
pub struct Finished {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    /// Starts `command`; its output goes into files called `name` in `dir`.
    pub fn start(mut command: Command, name: &str, dir: &Path) -> Result<Self, String> {
        let what = format!("{name} ({})", command.get_program().to_string_lossy());
        let file = |suffix: &str| -> io::Result<(PathBuf, File)> {
            let path = dir.join(format!("{name}.{suffix}"));
            let file = File::create(&path)?;
            Ok((path, file))
        };
        let mut start = || -> io::Result<Self> {
            let ((stdout, out), (stderr, err)) = (file("stdout")?, file("stderr")?);
            command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
            // SAFETY: prctl with integers only.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                    Ok(())
                });
            }
            let child = command.spawn()?;
            Ok(Self { what: what.clone(), child, stdout, stderr, ended: None })
        };
        start().map_err(|e| format!("{what} doesn't start: {e}"))
    }

    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_some()
    }

    /// Ends it as a machine that dies does.
    pub fn kill(mut self) -> Result<(), String> {
        self.child.kill().map_err(|e| format!("{} can't be killed: {e}", self.what))?;
        self.ended = self.child.wait().ok();
        Ok(())
    }

    /// Its end, and what it wrote; an error after `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Finished, String> {
        let start = Instant::now();
        let status = loop {
            if self.has_ended()
                && let Some(s) = self.ended
            {
                break s;
            }
            if start.elapsed() >= limit {
                let (out, err) = self.written();
                return Err(format!(
                    "{} still ran after {} s and was killed\nstdout: {}stderr: {}",
                    self.what,
                    limit.as_secs(),
                    shortened(&out),
                    shortened(&err)
                ));
            }
            std::thread::sleep(LOOK);
        };
        let (stdout, stderr) = self.written();
        Ok(Finished { what: self.what.clone(), status, stdout, stderr })
    }

    fn written(&self) -> (String, String) {
        let text = |p| fs::read(p).map_or_else(|e| format!("({e})\n"), |b| String::from_utf8_lossy(&b).into_owned());
        (text(&self.stdout), text(&self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // SAFETY: the group was made by us and its leader is not reaped yet, so the id is still its own.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

impl Finished {
    /// An error unless it ended with status 0.
    pub fn success(self) -> Result<Self, String> {
        match (self.status.code(), self.status.signal()) {
            (Some(0), _) => Ok(self),
            (Some(n), _) => Err(self.report(&format!("ended with status {n}"))),
            (_, signal) => Err(self.report(&format!("was killed by signal {}", signal.unwrap_or(0)))),
        }
    }

    /// What happened, with what it wrote: beginning and end, where that is much.
    pub fn report(&self, happened: &str) -> String {
        format!("{} {happened}\nstdout: {}stderr: {}", self.what, shortened(&self.stdout), shortened(&self.stderr))
    }
}

fn shortened(text: &str) -> String {
    let mut shown = if text.len() <= 2 * SHOWN_BYTES {
        text.to_owned()
    } else {
        let (begin, end) = (text.floor_char_boundary(SHOWN_BYTES), text.ceil_char_boundary(text.len() - SHOWN_BYTES));
        format!("{} ... {}", &text[..begin], &text[end..])
    };
    if !shown.ends_with('\n') {
        shown.push('\n');
    }
    shown
}
