//! How two hosts find each other: the primary by preference listens, the other one comes; then each compares itself with
//! the other.

use super::message::{self, kind};
use crate::config::{Config, Start};
use crate::failover::{self, HostId};
use crate::link::hello::{Hello, HelloReader, Item, Subject, clock_difference, differences, host_difference};
use crate::link::{Keys, Link, LinkError, Listener, PrivateKey, PublicKey};
use crate::start::{Error, Surroundings, io_error};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::Serialize;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

/// Between two attempts to reach the other host.
pub const RETRY: Duration = Duration::from_millis(200);
/// For one step of the start, once the other host is there.
pub const STEP_MAX: Duration = Duration::from_secs(60);
/// How long a thread sleeps at most while it waits for the other host.
pub const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What ends the waiting for the other host.
pub struct Ends {
    pub signals: OwnedFd,
    /// Readable once the program that waits with us has ended.
    pub program: Option<OwnedFd>,
}

impl Ends {
    fn check(&self, signals: PollFlags, program: PollFlags) -> Result<(), Error> {
        let why = match (signals.is_empty(), program.is_empty()) {
            (false, _) => "stopped by a signal before the service was started",
            (_, false) => "the program ended before the service was started",
            _ => return Ok(()),
        };
        Err(Error::Refused(why.into()))
    }
}

/// Waits for something on one of `fds`.
pub fn wait(fds: &[(BorrowedFd, PollFlags)], ends: &Ends, until: Instant) -> Result<(), Error> {
    let program = ends.program.as_ref().unwrap_or(&ends.signals);
    let mut all = vec![PollFd::new(ends.signals.as_fd(), PollFlags::POLLIN), PollFd::new(program.as_fd(), PollFlags::POLLIN)];
    all.extend(fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)));
    let left = until.saturating_duration_since(Instant::now()).min(SLEEP_MAX);
    match poll(&mut all, PollTimeout::from(left.as_micros().div_ceil(1000) as u16)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {
            let came = |n: usize| all[n].revents().unwrap_or(PollFlags::empty());
            ends.check(came(0), came(1))
        }
        Err(e) => Err(io_error("waiting for the other host")(e.into())),
    }
}

pub fn wait_link(link: &Link, ends: &Ends, until: Instant) -> Result<(), Error> {
    wait(&[(link.fd(), flags(link))], ends, until)
}

/// What a link waits for.
pub fn flags(link: &Link) -> PollFlags {
    let write = if link.interest().write { PollFlags::POLLOUT } else { PollFlags::empty() };
    PollFlags::POLLIN | write
}

fn bring_up(mut link: Link, ends: &Ends) -> Result<Link, Error> {
    while !link.is_up() {
        let until = link.deadline().unwrap_or_else(|| Instant::now() + RETRY);
        wait_link(&link, ends, until)?;
        link.on_deadline(Instant::now())?;
        link.on_ready()?;
        link.flush()?;
    }
    Ok(link)
}

pub fn say<T: Serialize>(link: &mut Link, kind: u8, what: &T) -> Result<(), Error> {
    let json = serde_json::to_vec(what).map_err(|e| Error::Refused(format!("what can't be said: {e}")))?;
    link.send(kind, &[], &json);
    Ok(link.flush()?)
}

/// The next message of `peer`, which must be of that kind; `roles` gets what is said of roles before it.
pub fn hear(
    link: &mut Link,
    wanted: u8,
    peer: HostId,
    ends: &Ends,
    roles: &mut dyn FnMut(failover::Message),
) -> Result<Vec<u8>, Error> {
    let until = Instant::now() + STEP_MAX;
    loop {
        let mut got: Option<(u8, Vec<u8>)> = None;
        link.recv(&mut |k, b| {
            got = Some((k, b.to_vec()));
            ControlFlow::Break(())
        })?;
        match got {
            Some((k, b)) if k == wanted => return Ok(b),
            Some((kind::ROLE, b)) => {
                roles(message::decode_role(&b, peer).map_err(|e| Error::Refused(format!("the other host said of its role: {e}")))?);
            }
            Some((kind::BYE, b)) => {
                return Err(Error::Refused(format!("the other host refuses: {}", String::from_utf8_lossy(&b))));
            }
            Some((k, _)) => return Err(Error::Refused(format!("the other host sent message {k} instead of {wanted}"))),
            None => {}
        }
        if Instant::now() > until {
            return Err(Error::Refused(format!("the other host said nothing for {} s", STEP_MAX.as_secs())));
        }
        wait_link(link, ends, until)?;
        link.on_ready()?;
        link.flush()?;
    }
}

/// Tells the other host why there is no service.
pub fn refuse(link: &mut Link, why: &str) -> Result<(), LinkError> {
    link.send(kind::BYE, &[], why.as_bytes());
    link.flush()?;
    // So that the other host reads it before the link is gone.
    link.close()
}


/// The other host.
pub struct Met {
    pub link: Link,
    /// It has other files than this one, and neither serves: they can't both start from what they have. How they differ.
    pub apart: Option<String>,
}

/// One host's side of every meeting with the other.
pub struct Meeting {
    keys: Keys,
    peer: SocketAddr,
    peer_id: HostId,
    pub peer_name: String,
    hello: Hello,
    /// Of the one that listens: one connection, whoever was first.
    listener: Option<Listener>,
    look_again: Instant,
    /// Why the other one is not there, as it was told.
    said: Option<String>,
}

impl Meeting {
    /// `process`: of the program that is to be the guest, if it runs already.
    pub fn new(c: &Config, s: &Surroundings, process: Option<Pid>) -> Result<Self, Error> {
        let mut names = [&c.host.name, &c.peer.name];
        names.sort();
        let both = format!("{:?}", (names, &c.service, c.limits.silence_ms_max, c.arbiter.shared(), c.monitor.divergence));
        let hello = Hello::here(&Subject {
            host: HostId::of_name(&c.host.name),
            program: &s.program,
            argv: &s.argv,
            env: &s.env,
            cwd: &s.cwd,
            umask: s.umask,
            state_dirs: &c.service.state_dirs,
            service: None,
            config: both.as_bytes(),
            process,
        })?;
        let own = PrivateKey::load(&c.link.key_file)?;
        let peer: PublicKey = c.peer.key.parse()?;
        Ok(Self {
            keys: Keys::new(&own, peer)?,
            peer: c.peer.address,
            peer_id: HostId::of_name(&c.peer.name),
            peer_name: c.peer.name.clone(),
            hello,
            listener: (c.host.start == Start::Primary).then(|| Listener::bind(c.link.listen)).transpose()?,
            look_again: Instant::now(),
            said: None,
        })
    }

    /// The service runs here from now on.
    pub fn serves(&mut self) {
        self.hello.serves = true;
    }

    /// What tells of the other host, if anything does; else it is to be looked for at some time.
    pub fn waits_for(&self) -> Result<BorrowedFd<'_>, Instant> {
        self.listener.as_ref().map(Listener::fd).ok_or(self.look_again)
    }

    /// Looks for the other host, once. An error: it is there, and the two can't run in lockstep.
    pub fn look(&mut self, ends: &Ends) -> Result<Option<Met>, Error> {
        let link = match &self.listener {
            Some(l) => match l.accept(&self.keys)? {
                None => return Ok(None),
                Some(link) => Ok(link),
            },
            None if Instant::now() < self.look_again => return Ok(None),
            None => Link::connect(self.peer, &self.keys),
        };
        self.look_again = Instant::now() + RETRY;
        let met = link.map_err(Error::Link).and_then(|l| bring_up(l, ends)).and_then(|mut link| {
            let apart = self.compare(&mut link, ends)?;
            Ok(Met { link, apart })
        });
        match met {
            Ok(met) => {
                self.said = None;
                Ok(Some(met))
            }
            Err(Error::Link(e)) => {
                let e = e.to_string();
                if self.said.as_ref() != Some(&e) {
                    tracing::warn!("{}: {e}; trying again", self.peer_name);
                    self.said = Some(e);
                }
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// What both hosts must have in common. Both compare, both refuse. `Some`: only what their state directories hold
    /// differs, and how.
    fn compare(&mut self, link: &mut Link, ends: &Ends) -> Result<Option<String>, Error> {
        let mut ours = self.hello.clone();
        let mut theirs = exchange(link, &ours, self.peer_id, ends)?;
        if !ours.serves && !theirs.serves {
            ours.read_state(&mut |_| ControlFlow::Continue(()))?;
            theirs = exchange(link, &ours, self.peer_id, ends)?;
        }
        let mut found = differences(&ours, &theirs);
        found.extend(host_difference(self.peer_id, theirs.host));
        if ours.kernel_release != theirs.kernel_release && found.is_empty() {
            let [here, there] = [&ours, &theirs].map(|h| h.kernel_release.clone());
            tracing::warn!("kernel {here} here, {there} on {}: let it be for an update of both only", self.peer_name);
        }
        // Both are here now and have nothing else to do: what passes from one to the other is on its way only.
        say(link, kind::CLOCK, &SystemTime::now())?;
        let clock = hear(link, kind::CLOCK, self.peer_id, ends, &mut |_| {})?;
        let clock = serde_json::from_slice(&clock).map_err(|e| Error::Refused(format!("the other host's clock: {e}")))?;
        found.extend(clock_difference(SystemTime::now(), clock));
        if found.is_empty() {
            return Ok(None);
        }
        let list: Vec<String> = found.iter().map(ToString::to_string).collect();
        let text = format!("the hosts can't run in lockstep:\n  {}", list.join("\n  "));
        if found.iter().all(|d| matches!(d.item, Item::StateDirectory(_))) {
            return Ok(Some(text));
        }
        refuse(link, &text)?;
        Err(Error::Refused(text))
    }
}

fn exchange(link: &mut Link, ours: &Hello, peer: HostId, ends: &Ends) -> Result<Hello, Error> {
    for frame in ours.to_frames() {
        link.send(kind::HELLO, &[], &frame);
    }
    link.flush()?;
    let mut reader = HelloReader::default();
    loop {
        if let Some(h) = reader.push(&hear(link, kind::HELLO, peer, ends, &mut |_| {})?)? {
            return Ok(h);
        }
    }
}
