//! `ft record` around a real redis-server, and `ft replay` of what it left.

use crate::resp::Client;
use ft_runtime::replay::Report;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// For the server to answer its first PING.
const START_MAX: Duration = Duration::from_secs(30);
/// For the server to save its data and end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(120);
const REPLAY_PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// Where everything of a run lies.
#[derive(Clone, Debug)]
pub struct Place {
    pub dir: PathBuf,
}

impl Place {
    pub fn create(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir(dir.join("state"))?;
        // What `ft replay` makes for itself.
        fs::create_dir(dir.join("tmp"))?;
        Ok(Self { dir })
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn recording(&self) -> PathBuf {
        self.dir.join("recording.ft")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// However this program ends. (Its first thread starts others and outlives them.)
fn end_with_us(c: &mut Command) -> &mut Command {
    // SAFETY: one system call; nothing is allocated.
    unsafe {
        c.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    }
}

/// A recorded server, running.
pub struct Recorded {
    ft: Child,
    pub address: SocketAddr,
}

impl Recorded {
    pub fn start(ft: &Path, place: &Place, memory_every: u64, trace: bool) -> io::Result<Self> {
        let address = free_address()?;
        let mut c = Command::new(ft);
        c.arg("record").arg("-o").arg(place.recording()).arg("--state").arg(place.state());
        c.arg("--memory-every").arg(memory_every.to_string());
        if trace {
            c.arg("--trace").arg(place.file("record.trace"));
        }
        c.arg("--").arg("redis-server");
        let options = [
            ("--bind", "127.0.0.1".to_owned()),
            ("--port", address.port().to_string()),
            ("--dir", place.state().display().to_string()),
            ("--appendonly", "yes".into()),
            ("--appendfsync", "everysec".into()),
            ("--enable-debug-command", "local".into()),
            ("--maxclients", "1000".into()),
        ];
        for (name, value) in options {
            c.arg(name).arg(value);
        }
        c.stdin(Stdio::null()).stdout(File::create(place.file("record.out"))?).stderr(File::create(place.file("record.err"))?);
        let mut s = Self { ft: end_with_us(&mut c).spawn()?, address };
        s.await_first_reply(place)?;
        Ok(s)
    }

    fn await_first_reply(&mut self, place: &Place) -> io::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ft.try_wait()? {
                let said = fs::read_to_string(place.file("record.err")).unwrap_or_default();
                return Err(io::Error::other(format!("ft record ended at once ({status}): {said}")));
            }
            if let Ok(mut c) = Client::connect(self.address)
                && c.call(&[&"PING"]).is_ok()
            {
                return Ok(());
            }
            if start.elapsed() > START_MAX {
                return Err(io::Error::other(format!("no answer from the server within {} s", START_MAX.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `Some`: it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.ft.try_wait().ok().flatten()
    }

    /// A clean shutdown: SIGTERM goes through ft to the server, which saves and ends.
    pub fn stop(mut self) -> io::Result<ExitStatus> {
        // SAFETY: no pointers; our child, not yet waited for.
        unsafe { libc::kill(self.ft.id() as i32, libc::SIGTERM) };
        let start = Instant::now();
        while start.elapsed() < STOP_MAX {
            if let Some(status) = self.ft.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other(format!("the server did not end within {} s of SIGTERM", STOP_MAX.as_secs())))
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = self.ft.kill();
        let _ = self.ft.wait();
    }
}

/// A port nobody listens on now.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

pub fn replay(ft: &Path, place: &Place, run: u32, trace: bool, time_max: Duration) -> io::Result<Report> {
    let mut c = Command::new(ft);
    c.arg("replay").arg(place.recording());
    if trace {
        c.arg("--trace").arg(place.file(&format!("replay-{run}.trace")));
    }
    let err = place.file(&format!("replay-{run}.err"));
    c.env("TMPDIR", place.file("tmp"));
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&err)?);
    let mut child = end_with_us(&mut c).spawn()?;
    let status = await_end(&mut child, time_max)?;
    // One line: it fits the pipe.
    let mut out = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut out)?;
    serde_json::from_str(&out).map_err(|_| {
        let said = fs::read_to_string(&err).unwrap_or_default();
        io::Error::other(format!("ft replay printed no report ({status}): {out}{said}"))
    })
}

fn await_end(child: &mut Child, time_max: Duration) -> io::Result<ExitStatus> {
    let start = Instant::now();
    let mut next = REPLAY_PROGRESS_EVERY;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let passed = start.elapsed();
        if passed > time_max {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other(format!("not done after {} s: killed", time_max.as_secs())));
        }
        if passed >= next {
            eprintln!("  {:.0} s", passed.as_secs_f64());
            next += REPLAY_PROGRESS_EVERY;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
