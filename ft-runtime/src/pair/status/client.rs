//! Asks an engine.

use super::{Order, Request};
use serde::Serialize;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where control sockets are unless configured otherwise.
const DIRECTORY: &str = "/run/ft";
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Why there is no answer: what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "{socket} does not exist: start the engine with `ft run`, or give the path configured as control.socket: {hint}"
    )]
    Missing { socket: String, hint: String },
    #[error("the engine of {0} has ended: start it again with `ft run`")]
    Ended(String),
    #[error("{0} may not be opened: ask as root")]
    Forbidden(String),
    #[error("the engine of {socket} does not answer within {} s: is it stopped or frozen?", ANSWER_MAX.as_secs())]
    Silent { socket: String },
    #[error("the engine of {socket} refuses: {why}")]
    Refused { socket: String, why: String },
    #[error("{socket}: {source}")]
    Io { socket: String, source: io::Error },
    #[error("{what}; say which: --socket PATH")]
    Unclear { what: String },
}

impl AskError {
    fn new(path: &Path, source: io::Error) -> Self {
        let socket = path.display().to_string();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { socket, hint: there_are(&sockets(Path::new(DIRECTORY))) },
            io::ErrorKind::ConnectionRefused => Self::Ended(socket),
            io::ErrorKind::PermissionDenied => Self::Forbidden(socket),
            // Full is the queue of one that accepts nobody.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent { socket },
            _ => Self::Io { socket, source },
        }
    }
}

/// The control socket that was named, or else the only one there is.
pub fn find_socket(named: Option<PathBuf>) -> Result<PathBuf, AskError> {
    match named {
        Some(p) => Ok(p),
        None => only_socket(Path::new(DIRECTORY)),
    }
}

fn only_socket(dir: &Path) -> Result<PathBuf, AskError> {
    let mut found = sockets(dir);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(AskError::Unclear {
            what: format!(
                "no engine runs here: there is no control socket in {}; start one with `ft run`",
                dir.display()
            ),
        }),
        _ => Err(AskError::Unclear { what: format!("several services run here: {}", there_are(&found)) }),
    }
}

fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "sock")).collect();
    found.sort();
    found
}

fn there_are(sockets: &[PathBuf]) -> String {
    if sockets.is_empty() {
        return format!("there is none in {DIRECTORY}");
    }
    let names: Vec<String> = sockets.iter().map(|p| p.display().to_string()).collect();
    format!("there are {}", names.join(", "))
}

/// Lines of an answer.
pub struct Answer {
    path: PathBuf,
    lines: Lines<BufReader<UnixStream>>,
}

impl Iterator for Answer {
    type Item = Result<String, AskError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.lines.next()? {
            Ok(l) => l,
            // As a killed engine's.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(e) => return Some(Err(AskError::new(&self.path, e))),
        };
        Some(match refusal(&line) {
            Some(why) => Err(AskError::Refused { socket: self.path.display().to_string(), why }),
            None => Ok(line),
        })
    }
}

fn refusal(line: &str) -> Option<String> {
    let v: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(v.get("error")?.as_str()?.to_owned())
}

/// The answer's lines, as they come. One that follows may keep silent for as long as nothing happens.
pub fn ask(path: &Path, request: Request) -> Result<Answer, AskError> {
    let follows = matches!(request, Request::Events { follow: true, .. });
    open(path, request, (!follows).then_some(ANSWER_MAX))
        .map(|stream| Answer { path: path.into(), lines: BufReader::new(stream).lines() })
        .map_err(|e| AskError::new(path, e))
}

/// Events after that one as they come, until nothing has happened for so long: then the last line is [`AskError::Silent`].
pub fn follow(path: &Path, after: u64, quiet_max: Duration) -> Result<Answer, AskError> {
    open(path, Request::Events { after, follow: true }, Some(quiet_max))
        .map(|stream| Answer { path: path.into(), lines: BufReader::new(stream).lines() })
        .map_err(|e| AskError::new(path, e))
}

/// The first line of the answer.
pub fn ask_line(path: &Path, request: Request) -> Result<String, AskError> {
    ask(path, request)?.next().unwrap_or_else(|| Err(AskError::Ended(path.display().to_string())))
}

/// Has the engine do something; it does so within a few milliseconds, and tells of it in its events.
pub fn order(path: &Path, order: Order) -> Result<(), AskError> {
    let stream = open(path, order, Some(ANSWER_MAX)).map_err(|e| AskError::new(path, e))?;
    let mut answer = Answer { path: path.into(), lines: BufReader::new(stream).lines() };
    answer.next().unwrap_or_else(|| Err(AskError::Ended(path.display().to_string()))).map(|_| ())
}

fn open(path: &Path, request: impl Serialize, time_max: Option<Duration>) -> io::Result<UnixStream> {
    let mut stream = connect(path)?;
    stream.set_read_timeout(time_max)?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all((serde_json::to_string(&request).map_err(io::Error::other)? + "\n").as_bytes())?;
    Ok(stream)
}

/// A stopped engine's queue may be full: a plain connect would wait for ever.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_socket_needs_no_name() {
        let dir = std::env::temp_dir().join(format!("ft-sockets-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        assert!(only_socket(&dir).unwrap_err().to_string().contains("ft run"));
        std::fs::write(dir.join("a.sock"), "").unwrap();
        std::fs::write(dir.join("other"), "").unwrap();
        assert_eq!(only_socket(&dir).unwrap(), dir.join("a.sock"));
        std::fs::write(dir.join("b.sock"), "").unwrap();
        let said = only_socket(&dir).unwrap_err().to_string();
        assert!(said.contains("a.sock") && said.contains("b.sock") && said.contains("--socket"), "{said}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
