//! `ft run --config FILE`: from the configuration to a running half of a pair.

use super::message::kind;
use super::status::{ControlSocket, StatusBoard};
use super::world::World;
use super::{Pair, Settings};
use crate::config::{ArbiterConfig, Config, Start};
use crate::engine::Engine;
use crate::guest::{ShimImage, launch};
use crate::link::hello::{Hello, HelloReader, Subject, differences};
use crate::link::{Keys, Link, Listener, PrivateKey, PublicKey};
use crate::logfile::{OsText, hex};
use crate::start::{Error, Surroundings, exit_code_of, io_error, prepare_process, setup};
use ft_log::ids::Term;
use ft_log::shared::role;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two attempts to reach the other host.
const RETRY: Duration = Duration::from_millis(200);
/// For one step of the start, once the other host is there.
const STEP_MAX: Duration = Duration::from_secs(60);

/// What the primary's guest is started with; the backup's is started with the same.
#[derive(Serialize, Deserialize)]
struct StartMessage {
    program: OsText,
    argv: Vec<OsText>,
    env: Vec<(OsText, OsText)>,
    cwd: OsText,
    umask: u32,
    seed: u64,
    at_random: String,
    memory_every: u64,
    term: u64,
}

fn at_random_bytes(s: &str) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    if s.len() != 32 || !s.is_ascii() {
        return None;
    }
    for (k, b) in out.iter_mut().enumerate() {
        *b = u8::from_str_radix(&s[2 * k..2 * k + 2], 16).ok()?;
    }
    Some(out)
}

impl StartMessage {
    fn new(s: &Surroundings, term: Term) -> Self {
        let text = |o: &OsString| OsText(o.clone());
        Self {
            program: OsText(s.program.clone().into()),
            argv: s.argv.iter().map(text).collect(),
            env: s.env.iter().map(|(n, v)| (text(n), text(v))).collect(),
            cwd: OsText(s.cwd.clone().into()),
            umask: s.umask,
            seed: s.seed,
            at_random: hex(&s.at_random),
            memory_every: s.memory_every,
            term: term.0,
        }
    }

    fn surroundings(self) -> Option<Surroundings> {
        Some(Surroundings {
            program: PathBuf::from(self.program.0),
            argv: self.argv.into_iter().map(|a| a.0).collect(),
            env: self.env.into_iter().map(|(n, v)| (n.0, v.0)).collect(),
            cwd: PathBuf::from(self.cwd.0),
            umask: self.umask,
            seed: self.seed,
            at_random: at_random_bytes(&self.at_random)?,
            memory_every: self.memory_every,
        })
    }
}

/// The service's surroundings as the configuration has them, not as our own happen to be.
fn surroundings(c: &Config) -> Result<Surroundings, Error> {
    let command: Vec<OsString> = c.service.command.iter().map(OsString::from).collect();
    let mut s = Surroundings::here(&command, 0)?;
    s.cwd = c.service.cwd.clone().unwrap_or_else(|| "/".into());
    s.umask = 0o022;
    let default = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/"), ("LANG", "C.UTF-8")];
    s.env = if c.service.env.is_empty() {
        default.iter().map(|(n, v)| (n.into(), v.into())).collect()
    } else {
        c.service.env.iter().map(|(n, v)| (n.into(), v.into())).collect()
    };
    Ok(s)
}

/// Waits for something on `fd` or `signals`; false: a signal came.
fn wait(fd: impl AsFd, write: bool, signals: &OwnedFd, until: Instant) -> Result<bool, Error> {
    let flags = if write { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
    let mut fds = [PollFd::new(fd.as_fd(), flags), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let ms = until.saturating_duration_since(Instant::now()).as_millis().min(1000) as u16;
    match poll(&mut fds, PollTimeout::from(ms)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(fds[1].revents().is_none_or(|r| r.is_empty())),
        Err(e) => Err(io_error("waiting for the other host")(e.into())),
    }
}

fn interrupted() -> Error {
    Error::Refused("stopped by a signal before the service was started".into())
}

/// A link that is up, whichever side made it.
fn meet(c: &Config, keys: &Keys, signals: &OwnedFd) -> Result<Link, Error> {
    let far = || Instant::now() + RETRY;
    // The primary listens, the backup comes: one connection, whoever was first.
    if c.host.start == Start::Primary {
        let listener = Listener::bind(c.link.listen)?;
        tracing::info!(listen = %c.link.listen, "waiting for {}", c.peer.name);
        loop {
            if !wait(listener.fd(), false, signals, far())? {
                return Err(interrupted());
            }
            if let Some(link) = listener.accept(keys)? {
                match bring_up(link, signals) {
                    Ok(l) => return Ok(l),
                    Err(Error::Link(e)) => tracing::warn!("somebody came and was refused: {e}"),
                    Err(e) => return Err(e),
                }
            }
        }
    }
    tracing::info!(address = %c.peer.address, "looking for {}", c.peer.name);
    let mut said: Option<String> = None;
    loop {
        let e = match connect(c.peer.address, keys, signals) {
            Ok(l) => return Ok(l),
            Err(Error::Link(e)) => e.to_string(),
            Err(e) => return Err(e),
        };
        if said.as_ref() != Some(&e) {
            tracing::warn!("{}: {e}; trying again", c.peer.name);
            said = Some(e);
        }
        let again = far();
        while Instant::now() < again {
            if !wait(signals, false, signals, again)? {
                return Err(interrupted());
            }
        }
    }
}

fn connect(address: SocketAddr, keys: &Keys, signals: &OwnedFd) -> Result<Link, Error> {
    bring_up(Link::connect(address, keys)?, signals)
}

fn bring_up(mut link: Link, signals: &OwnedFd) -> Result<Link, Error> {
    while !link.is_up() {
        let until = link.deadline().unwrap_or_else(|| Instant::now() + RETRY);
        let write = link.interest().write;
        if !wait(link.fd(), write, signals, until)? {
            return Err(interrupted());
        }
        link.on_deadline(Instant::now())?;
        link.on_ready()?;
        link.flush()?;
    }
    Ok(link)
}

fn say<T: Serialize>(link: &mut Link, kind: u8, what: &T) -> Result<(), Error> {
    let json = serde_json::to_vec(what).map_err(|e| Error::Refused(format!("what can't be said: {e}")))?;
    link.send(kind, &[], &json);
    Ok(link.flush()?)
}

/// The next message, which must be of that kind.
fn hear(link: &mut Link, wanted: u8, signals: &OwnedFd) -> Result<Vec<u8>, Error> {
    let until = Instant::now() + STEP_MAX;
    loop {
        let mut got: Option<(u8, Vec<u8>)> = None;
        link.recv(&mut |k, b| {
            got = Some((k, b.to_vec()));
            ControlFlow::Break(())
        })?;
        match got {
            Some((k, b)) if k == wanted => return Ok(b),
            Some((kind::BYE, b)) => {
                return Err(Error::Refused(format!("the other host refuses: {}", String::from_utf8_lossy(&b))));
            }
            Some((k, _)) => return Err(Error::Refused(format!("the other host sent message {k} instead of {wanted}"))),
            None => {}
        }
        if Instant::now() > until {
            return Err(Error::Refused(format!("the other host said nothing for {} s", STEP_MAX.as_secs())));
        }
        let write = link.interest().write;
        if !wait(link.fd(), write, signals, until)? {
            return Err(interrupted());
        }
        link.on_ready()?;
        link.flush()?;
    }
}

/// What both hosts must have in common, compared before anything is started. Both compare, both refuse.
fn agree(link: &mut Link, c: &Config, s: &Surroundings, signals: &OwnedFd) -> Result<(), Error> {
    let both = format!("{:?}", (&c.service, c.limits.silence_ms_max));
    let subject = Subject {
        program: &s.program,
        argv: &s.argv,
        env: &s.env,
        cwd: &s.cwd,
        umask: s.umask,
        state_dirs: &c.service.state_dirs,
        service: None,
        config: both.as_bytes(),
    };
    let ours = Hello::here(&subject, &mut |_| ControlFlow::Continue(()))?;
    for frame in ours.to_frames() {
        link.send(kind::HELLO, &[], &frame);
    }
    link.flush()?;
    let mut reader = HelloReader::default();
    let theirs = loop {
        if let Some(h) = reader.push(&hear(link, kind::HELLO, signals)?)? {
            break h;
        }
    };
    let found = differences(&ours, &theirs);
    if found.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    let text = format!("the hosts can't run in lockstep:\n  {}", list.join("\n  "));
    link.send(kind::BYE, &[], text.as_bytes());
    link.flush()?;
    // So that the other host reads ours before the link is gone, if it hasn't found the same itself.
    link.close()?;
    Err(Error::Refused(text))
}

/// The exit status.
pub fn run(c: &Config) -> Result<i32, Error> {
    if c.arbiter != ArbiterConfig::None {
        return Err(Error::Refused(
            "arbiter.kind: arbiters are not built in yet; say `none`. Then only the backup takes over by itself, and a \
             primary that loses its backup falls silent"
                .into(),
        ));
    }
    let signals = prepare_process()?;
    let board = StatusBoard::new(&c.service.name, &c.host.name, &c.peer.name);
    let _control = ControlSocket::open(&c.control.socket, board.clone())
        .map_err(io_error(format!("the control socket {}", c.control.socket.display())))?;
    let own = PrivateKey::load(&c.link.key_file)?;
    let peer: PublicKey = c.peer.key.parse()?;
    let keys = Keys::new(&own, peer)?;
    let mut link = meet(c, &keys, &signals)?;
    board.event(&format!("linked with {}", c.peer.name));
    let leads = c.host.start == Start::Primary;
    let s = surroundings(c)?;
    agree(&mut link, c, &s, &signals)?;
    let (s, term) = if leads {
        let term = Term(1);
        say(&mut link, kind::START, &StartMessage::new(&s, term))?;
        hear(&mut link, kind::READY, &signals)?;
        (s, term)
    } else {
        let start: StartMessage = serde_json::from_slice(&hear(&mut link, kind::START, &signals)?)
            .map_err(|e| Error::Refused(format!("the primary's start message can't be read: {e}")))?;
        let term = Term(start.term);
        let s = start.surroundings().ok_or_else(|| Error::Refused("the primary's start message has no seed".into()))?;
        (s, term)
    };
    let mut spec = s.spec(if leads { role::PRIMARY } else { role::BACKUP }, 0);
    let guest = launch(&mut spec, &ShimImage::embedded()?)?;
    board.set_guest(guest.pid.as_raw());
    if !leads {
        link.send(kind::READY, &[], &[]);
        link.flush()?;
    }
    // Shorter than the silence after which the backup may open its own gate.
    let lease = c.limits.silence() * 3 / 4;
    let world = World::open(&c.service, lease)?;
    if let Some(w) = &world {
        w.enter().map_err(io_error("entering the service's network namespace"))?;
    }
    let settings = Settings {
        silence: c.limits.silence(),
        lag_bytes_max: c.limits.lag_bytes_max as usize,
        lag_max: Duration::from_millis(c.limits.lag_ms_max),
    };
    let engine = Engine::of_pair(setup(guest, signals, None)?, |epoll| {
        Pair::new(epoll, link, leads, term, settings, board, world)
    })?;
    Ok(exit_code_of(&engine.run()?))
}
