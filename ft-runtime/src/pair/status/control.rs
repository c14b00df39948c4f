//! The control socket: one request per connection, a line of JSON; the answer is lines of JSON.
//!
//! Laws: a connection has a thread, and there are at most `CONNECTIONS_MAX`; who asks wrongly, slowly or not at all
//! harms nobody but itself. Files are the system's: who may connect is decided by the directory's mode.

use super::StatusBoard;
use super::served::Served;
use crate::failover::event::Command;
use crate::guest::Refusal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECTIONS_MAX: usize = 32;
const REQUEST_BYTES_MAX: u64 = 4096;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);
/// For a follower whose queue is full.
const FOLLOWER_STALL_MAX: Duration = Duration::from_secs(60);
/// How often one that hears nothing is looked at: is it still there?
const FOLLOWER_CHECK: Duration = Duration::from_secs(1);
const STACK_BYTES: usize = 128 << 10;
/// For who asks or follows when the engine ends.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "kebab-case")]
pub enum Request {
    Status,
    Events {
        /// Only events with a higher number.
        #[serde(default)]
        after: u64,
        /// The answer goes on as events come, until the asker or the engine ends.
        #[serde(default)]
        follow: bool,
    },
}

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Order {
    /// Go on alone, by a person's word that the other host is off.
    Force,
    /// Have the other host serve.
    Switchover,
    /// Go on without a backup, and admit none.
    Pause,
    /// Admit one again.
    Resume,
    /// Take the backup out.
    Detach,
}

impl Order {
    pub fn command(self) -> Command {
        match self {
            Self::Force => Command::Force,
            Self::Switchover => Command::Switchover,
            Self::Pause => Command::Pause,
            Self::Resume => Command::Resume,
            Self::Detach => Command::Detach,
        }
    }
}

enum Line {
    Request(Request),
    Order(Order),
    /// Who connects wants to be the guest: `ft_log::adopt`.
    Program,
}

impl Line {
    /// Told apart first, so that an error speaks of what was meant.
    fn parse(line: &str) -> serde_json::Result<Self> {
        let v: serde_json::Value = serde_json::from_str(line)?;
        match v.get("do") {
            Some(what) if what == "adopt" => Ok(Self::Program),
            Some(_) => serde_json::from_value(v).map(Self::Order),
            None => serde_json::from_value(v).map(Self::Request),
        }
    }
}

/// Removed with it, when who follows the events has been told the last of them.
pub struct ControlSocket {
    path: PathBuf,
    board: StatusBoard,
    served: Served,
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
        let socket = Self { path: path.into(), board: board.clone(), served: Served::default() };
        let served = socket.served.clone();
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let Some(seat) = served.enter(CONNECTIONS_MAX) else {
                    let _ = refuse(&stream, "too many ask at once; try again");
                    continue;
                };
                let board = board.clone();
                let serve = move || {
                    let _ = serve(&stream, &board);
                    drop(seat);
                };
                // Without a thread it is not answered: its connection ends.
                let _ = std::thread::Builder::new().name("control".into()).stack_size(STACK_BYTES).spawn(serve);
            }
        };
        std::thread::Builder::new().name("control".into()).stack_size(STACK_BYTES).spawn(accept)?;
        Ok(socket)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        self.board.close();
        self.served.wait_for_none(LAST_WORDS_MAX);
    }
}

fn serve(mut stream: &UnixStream, board: &StatusBoard) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIME_MAX))?;
    stream.set_write_timeout(Some(REQUEST_TIME_MAX))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    match Line::parse(&line) {
        Ok(Line::Request(Request::Status)) => stream.write_all(&lines(&[board.status()])),
        Ok(Line::Request(Request::Events { after, follow: false })) => stream.write_all(&lines(&board.events(after))),
        Ok(Line::Request(Request::Events { after, follow: true })) => follow(stream, board, after),
        Ok(Line::Program) => {
            if let Err((program, why)) = board.receive(stream.try_clone()?) {
                Refusal::new(program).say(why);
            }
            Ok(())
        }
        Ok(Line::Order(o)) => {
            board.order(o);
            stream.write_all(&lines(&[serde_json::json!({ "ordered": o })]))
        }
        Err(e) => refuse(stream, &format!("not a request: {e}")),
    }
}

fn lines<T: Serialize>(items: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    for i in items {
        serde_json::to_writer(&mut out, i).expect("plain numbers and text");
        out.push(b'\n');
    }
    out
}

fn refuse(mut stream: &UnixStream, why: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_TIME_MAX))?;
    stream.write_all(format!("{}\n", serde_json::json!({ "error": why })).as_bytes())
}

fn follow(mut stream: &UnixStream, board: &StatusBoard, mut after: u64) -> io::Result<()> {
    stream.set_write_timeout(Some(FOLLOWER_STALL_MAX))?;
    while !has_gone(stream)? {
        let (events, more) = board.await_events(after, FOLLOWER_CHECK);
        if let Some(last) = events.last() {
            after = last.seq;
            stream.write_all(&lines(&events))?;
        }
        if !more {
            break;
        }
    }
    Ok(())
}

/// A hang-up is told without being asked for.
fn has_gone(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].any().unwrap_or(true))
}
