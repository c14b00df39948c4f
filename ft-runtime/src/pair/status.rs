//! What a host says of itself: asked over the control socket, answered by a thread of its own, so that an answer
//! comes whatever the engine is doing.

use crate::failover::Kind;
use serde::Serialize;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Events that are kept for who asks later.
const EVENTS_MAX: usize = 1024;
const REQUEST_BYTES_MAX: u64 = 4096;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);

/// What changes while a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub role: &'static str,
    pub state: &'static str,
    pub term: u64,
}

#[derive(Clone, Debug, Serialize)]
struct EventLine {
    /// Milliseconds since 1970.
    at_ms: u64,
    event: String,
}

struct Board {
    service: String,
    host: String,
    peer: String,
    shown: Shown,
    guest_pid: Option<i32>,
    events: VecDeque<EventLine>,
}

impl Shown {
    pub fn of(kind: Kind, term: u64) -> Self {
        let (role, state) = match kind {
            Kind::Starting => ("starting", "waiting for the peer and the arbiter"),
            Kind::Joining => ("joining", "waiting for the service's state"),
            Kind::Backup => ("backup", "protected"),
            Kind::Claiming => ("claiming", "asking the arbiter"),
            Kind::Replaying => ("claiming", "replaying the log's end"),
            Kind::Restoring => ("claiming", "restoring sockets"),
            Kind::GoingLive => ("claiming", "going live"),
            Kind::PrimaryAlone => ("primary", "alone"),
            Kind::PrimaryAdding => ("primary", "adding the backup"),
            Kind::PrimaryPaired => ("primary", "protected"),
            Kind::Removing => ("primary", "output held: asking to go on without the backup"),
            Kind::Rechecking => ("primary", "output held: this host stood still and asks whether it still serves"),
            Kind::Mute => ("mute", "mute: neither the backup nor the arbiter answers"),
            Kind::Yielding => ("yielding", "handing over"),
            Kind::Demoting => ("leaving", "taking down what it had"),
            Kind::Failed => ("failed", "restart it"),
        };
        Self { role, state, term }
    }
}

/// What replication has cost so far: the engine counts at each of its turns, without a lock.
#[derive(Default)]
struct Counters {
    log_appended: AtomicU64,
    log_bytes: AtomicU64,
    link_sent_bytes: AtomicU64,
    link_received_bytes: AtomicU64,
}

/// Totals since this host leads or follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Of the log, written here or received.
    pub log_appended: u64,
    /// Of the log written here, before the link seals it; 0 on a backup.
    pub log_bytes: u64,
    /// Encrypted, as given to the kernel and taken from it; 0 without a link.
    pub link_sent_bytes: u64,
    pub link_received_bytes: u64,
}

/// Shared between the engine and the thread that answers.
#[derive(Clone)]
pub struct StatusBoard {
    board: Arc<Mutex<Board>>,
    counters: Arc<Counters>,
}

#[derive(Serialize)]
struct StatusLine<'a> {
    service: &'a str,
    host: &'a str,
    role: &'static str,
    state: &'static str,
    term: u64,
    guest_pid: Option<i32>,
    engine_pid: u32,
    peer: &'a str,
    log_appended: u64,
    log_bytes: u64,
    link_sent_bytes: u64,
    link_received_bytes: u64,
}

impl StatusBoard {
    pub fn new(service: &str, host: &str, peer: &str) -> Self {
        let board = Board {
            service: service.into(),
            host: host.into(),
            peer: peer.into(),
            shown: Shown::of(Kind::Starting, 0),
            guest_pid: None,
            events: VecDeque::new(),
        };
        Self { board: Arc::new(Mutex::new(board)), counters: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // A panic elsewhere leaves plain values: they can still be shown.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, shown: Shown) {
        self.lock().shown = shown;
    }

    pub fn set_guest(&self, pid: i32) {
        self.lock().guest_pid = Some(pid);
    }

    /// Only the engine counts: who reads may see values of two turns.
    pub fn count(&self, t: Traffic) {
        let c = &self.counters;
        c.log_appended.store(t.log_appended, Ordering::Relaxed);
        c.log_bytes.store(t.log_bytes, Ordering::Relaxed);
        c.link_sent_bytes.store(t.link_sent_bytes, Ordering::Relaxed);
        c.link_received_bytes.store(t.link_received_bytes, Ordering::Relaxed);
    }

    pub fn event(&self, text: &str) {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mut b = self.lock();
        if b.events.len() == EVENTS_MAX {
            b.events.pop_front();
        }
        b.events.push_back(EventLine { at_ms, event: text.into() });
    }

    fn answer(&self, request: &str) -> String {
        #[derive(serde::Deserialize)]
        struct Request {
            get: String,
        }
        let b = self.lock();
        let error = |e: &str| format!("{{\"error\":{}}}\n", serde_json::Value::from(e));
        match serde_json::from_str::<Request>(request) {
            Ok(r) if r.get == "status" => {
                let line = StatusLine {
                    service: &b.service,
                    host: &b.host,
                    role: b.shown.role,
                    state: b.shown.state,
                    term: b.shown.term,
                    guest_pid: b.guest_pid,
                    engine_pid: std::process::id(),
                    peer: &b.peer,
                    log_appended: self.counters.log_appended.load(Ordering::Relaxed),
                    log_bytes: self.counters.log_bytes.load(Ordering::Relaxed),
                    link_sent_bytes: self.counters.link_sent_bytes.load(Ordering::Relaxed),
                    link_received_bytes: self.counters.link_received_bytes.load(Ordering::Relaxed),
                };
                serde_json::to_string(&line).map_or_else(|e| error(&e.to_string()), |s| s + "\n")
            }
            Ok(r) if r.get == "events" => {
                b.events.iter().filter_map(|e| serde_json::to_string(e).ok()).map(|s| s + "\n").collect()
            }
            Ok(r) => error(&format!("`{}` is unknown; ask for status or events", r.get)),
            Err(e) => error(&format!("not a request: {e}")),
        }
    }
}

/// The control socket; removed with it.
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Answers from now on.
    pub fn open(path: &Path, board: StatusBoard) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // Of an engine that was killed; one that lives answers.
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another engine of this service runs here"));
        }
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who asks wrongly or not at all harms nobody but itself.
                let _ = serve(&stream, &board);
            }
        })?;
        Ok(Self { path: path.into() })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(stream: &UnixStream, board: &StatusBoard) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIME_MAX))?;
    stream.set_write_timeout(Some(REQUEST_TIME_MAX))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    (&mut &*stream).write_all(board.answer(&line).as_bytes())
}

/// Asks an engine; its answer's lines.
pub fn ask(path: &Path, what: &str) -> io::Result<Vec<String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(REQUEST_TIME_MAX))?;
    stream.write_all(format!("{{\"get\":\"{what}\"}}\n").as_bytes())?;
    BufReader::new(stream).lines().collect()
}

/// `ft status`: the exit status.
pub fn print(path: &Path, json: bool) -> Result<i32, crate::start::Error> {
    let lines = ask(path, "status").map_err(crate::start::io_error(format!(
        "{}: no engine answers there; is `ft run` started, is the path the one configured as control.socket",
        path.display()
    )))?;
    for line in lines {
        let v: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if json {
            println!("{line}");
        } else {
            for (name, value) in v.as_object().into_iter().flatten() {
                println!("{name:<20} {value}");
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_and_nonsense_named() {
        let dir = std::env::temp_dir().join(format!("ft-status-{}", std::process::id()));
        let path = dir.join("s.sock");
        let board = StatusBoard::new("redis", "alpha", "beta");
        let socket = ControlSocket::open(&path, board.clone()).unwrap();
        board.set(Shown { role: "primary", state: "protected", term: 3 });
        board.event("it \"began\"");
        board.count(Traffic { log_appended: 7, log_bytes: 80, link_sent_bytes: 120, link_received_bytes: 9 });
        let status = ask(&path, "status").unwrap();
        let v: serde_json::Value = serde_json::from_str(&status[0]).unwrap();
        assert_eq!((&v["role"], &v["term"], &v["host"]), (&"primary".into(), &3.into(), &"alpha".into()));
        assert_eq!((&v["log_appended"], &v["log_bytes"]), (&7.into(), &80.into()));
        assert_eq!((&v["link_sent_bytes"], &v["link_received_bytes"]), (&120.into(), &9.into()));
        assert!(ask(&path, "events").unwrap()[0].contains("began"));
        assert!(ask(&path, "weather").unwrap()[0].contains("unknown"));
        assert!(ControlSocket::open(&path, board).is_err(), "a second engine");
        drop(socket);
        assert!(!path.exists());
        std::fs::remove_dir(dir).unwrap();
    }
}
