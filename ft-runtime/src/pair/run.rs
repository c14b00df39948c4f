//! `ft run --config FILE`: from the configuration to a running half of a pair.
//!
//! A host that starts meets its peer, compares itself with it, and asks the failover machine what to be; with its guest
//! launched, as primary or as backup, the engine goes on ([`Pair`]).

use super::decider::Decider;
use super::guard::Notice;
use super::message::{self, HEAD_BYTES, kind};
use super::status::{ControlSocket, Order, Shown, StatusBoard};
use super::world::World;
use super::{Beginning, Pair, Settings};
use crate::config::{ArbiterConfig, Config, Start};
use crate::engine::{Ended, Engine};
use crate::failover::arbiter::Arbiter;
use crate::failover::arbiter::etcd::{EtcdArbiter, TlsFiles};
use crate::failover::arbiter::file::FileArbiter;
use crate::failover::arbiter::witness::client::{Tcp, WitnessClient};
use crate::failover::arbiter::witness::seal::{Key, Seal};
use crate::failover::arbiter::witness::wire::ServiceName;
use crate::failover::config::{ArbiterKind, DivergencePolicy, Timing};
use crate::failover::event::{Command, LinkEnd};
use crate::failover::message::Preferred;
use crate::failover::{self, Action, Event, HostId, Kind};
use crate::gate;
use crate::guest::{self, Adoptee, ShimImage, launch};
use crate::preload::{Program, await_program, open_reception};
use crate::link::hello::{Hello, HelloReader, Subject, clock_difference, differences};
use crate::link::{Keys, Link, LinkError, Listener, PrivateKey, PublicKey};
use crate::logfile::{OsText, hex};
use crate::tap::flood::Caller;
use crate::tap::{self, TapError};
use crate::probe::{self, Probe};
use crate::start::{Error, Surroundings, exit_code_of, io_error, prepare_process, setup};
use ft_log::codec::Writer;
use ft_log::shared::role;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Between two attempts to reach the other host.
const RETRY: Duration = Duration::from_millis(200);
/// For one step of the start, once the other host is there.
const STEP_MAX: Duration = Duration::from_secs(60);
/// For the primary's frames to reach the backup's tap, and how often it looks.
const FLOOD_MAX: Duration = Duration::from_secs(3);
const FLOOD_EVERY: Duration = Duration::from_millis(20);
/// For one answer of the arbiter, beyond the silence that hosts grant each other; then it is asked again.
const ARBITER_MAX: Duration = Duration::from_millis(1000);
/// How long `ft` sleeps at most while it waits for its part.
const SLEEP_MAX: Duration = Duration::from_secs(1);

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
    fn new(s: &Surroundings) -> Self {
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
            memory_slices: true,
        })
    }
}

/// The service's surroundings as the configuration has them, not as our own happen to be.
fn surroundings(c: &Config) -> Result<Surroundings, Error> {
    let command: Vec<OsString> = c.service.command.iter().map(OsString::from).collect();
    let mut s = Surroundings::here(&command, c.monitor.memory_every)?;
    s.memory_slices = true;
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

/// What ends the waiting for the other host.
struct Ends {
    signals: OwnedFd,
    /// Readable once the program that waits with us has ended.
    program: Option<OwnedFd>,
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
fn wait(fds: &[(BorrowedFd, PollFlags)], ends: &Ends, until: Instant) -> Result<(), Error> {
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

fn wait_link(link: &Link, ends: &Ends, until: Instant) -> Result<(), Error> {
    let write = if link.interest().write { PollFlags::POLLOUT } else { PollFlags::empty() };
    wait(&[(link.fd(), PollFlags::POLLIN | write)], ends, until)
}

fn connect(address: SocketAddr, keys: &Keys, ends: &Ends) -> Result<Link, Error> {
    bring_up(Link::connect(address, keys)?, ends)
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

fn say<T: Serialize>(link: &mut Link, kind: u8, what: &T) -> Result<(), Error> {
    let json = serde_json::to_vec(what).map_err(|e| Error::Refused(format!("what can't be said: {e}")))?;
    link.send(kind, &[], &json);
    Ok(link.flush()?)
}

/// The next message, which must be of that kind; `roles` gets what is said of roles before it.
fn hear(
    link: &mut Link,
    wanted: u8,
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
                roles(message::decode_role(&b).map_err(|e| Error::Refused(format!("the other host said of its role: {e}")))?);
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

/// What both hosts must have in common, compared before anything is started. Both compare, both refuse.
fn agree(link: &mut Link, c: &Config, s: &Surroundings, process: Option<Pid>, ends: &Ends) -> Result<(), Error> {
    let mut names = [&c.host.name, &c.peer.name];
    names.sort();
    let both = format!("{:?}", (names, &c.service, c.limits.silence_ms_max, c.arbiter.shared()));
    let subject = Subject {
        program: &s.program,
        argv: &s.argv,
        env: &s.env,
        cwd: &s.cwd,
        umask: s.umask,
        state_dirs: &c.service.state_dirs,
        service: None,
        config: both.as_bytes(),
        process,
    };
    let ours = Hello::here(&subject, &mut |_| ControlFlow::Continue(()))?;
    for frame in ours.to_frames() {
        link.send(kind::HELLO, &[], &frame);
    }
    link.flush()?;
    let mut reader = HelloReader::default();
    let theirs = loop {
        if let Some(h) = reader.push(&hear(link, kind::HELLO, ends, &mut |_| {})?)? {
            break h;
        }
    };
    let mut found = differences(&ours, &theirs);
    // Both are here now and have nothing else to do: what passes from one to the other is on its way only.
    say(link, kind::CLOCK, &SystemTime::now())?;
    let clock = hear(link, kind::CLOCK, ends, &mut |_| {})?;
    let clock = serde_json::from_slice(&clock).map_err(|e| Error::Refused(format!("the other host's clock: {e}")))?;
    found.extend(clock_difference(SystemTime::now(), clock));
    if found.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    let text = format!("the hosts can't run in lockstep:\n  {}", list.join("\n  "));
    refuse(link, &text)?;
    Err(Error::Refused(text))
}

/// Tells the other host why there is no service.
fn refuse(link: &mut Link, why: &str) -> Result<(), LinkError> {
    link.send(kind::BYE, &[], why.as_bytes());
    link.flush()?;
    // So that the other host reads it before the link is gone.
    link.close()
}

fn address_in_use(c: &Config) -> Result<Option<String>, Error> {
    let Some(interface) = &c.service.interface else { return Ok(None) };
    let ips: Vec<IpAddr> = c.service.addresses.iter().map(|a| a.ip).collect();
    Ok(probe::in_use(interface, &ips)?)
}

/// Ids that both hosts and the arbiter know: made of the names in both configurations.
fn host_id(name: &str) -> HostId {
    let digest = Sha256::digest(name.as_bytes());
    HostId(u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes")))
}

fn timing(silence_ms: u64) -> Timing {
    Timing {
        heartbeat_ms: silence_ms / 8,
        lease_ms: silence_ms * 3 / 4,
        silence_ms,
        head_start_ms: silence_ms / 4,
        ..Timing::default()
    }
}

fn decider(c: &Config) -> Result<Decider, Error> {
    let (me, peer) = (host_id(&c.host.name), host_id(&c.peer.name));
    let start = |a: std::io::Result<Arbiter>| a.map(Some).map_err(io_error("starting the thread that asks the arbiter"));
    let max = ARBITER_MAX + c.limits.silence();
    let (kind, arbiter) = match &c.arbiter {
        ArbiterConfig::Witness { address, key_file } => {
            let seal = match key_file {
                Some(f) => Seal::Key(Key::read(f).map_err(|e| Error::Refused(format!("arbiter.key_file: {e}")))?),
                None => Seal::ByStream,
            };
            let name = ServiceName::new(&c.service.name).map_err(|e| Error::Refused(format!("service.name: {e}")))?;
            (ArbiterKind::Votes, start(Arbiter::start(WitnessClient::new(Tcp(*address), name, seal), max))?)
        }
        ArbiterConfig::File { file } => {
            (ArbiterKind::Votes, start(Arbiter::start(FileArbiter::new(file, me), max))?)
        }
        ArbiterConfig::Etcd { endpoints, ca_file, cert_file, key_file } => {
            let tls = TlsFiles { ca: ca_file.clone(), own: cert_file.clone().zip(key_file.clone()) };
            let keeper = EtcdArbiter::new(&c.service.name, endpoints.clone(), &tls);
            let keeper = keeper.map_err(|e| Error::Refused(format!("arbiter: {e}")))?;
            (ArbiterKind::Votes, start(Arbiter::start(keeper, max))?)
        }
        ArbiterConfig::None => (ArbiterKind::None { alone_allowed: false }, None),
    };
    let prefers = match c.host.start {
        Start::Primary => Preferred::Primary,
        Start::Backup => Preferred::Backup,
    };
    let timing = timing(c.limits.silence_ms_max);
    let config = failover::Config { me, peer, prefers, arbiter: kind, divergence: DivergencePolicy::Reseed, timing };
    Decider::new(config, arbiter).map_err(|e| Error::Refused(format!("limits: {e}")))
}

/// What a host turns out to be.
enum Part {
    /// It starts the service, with the peer if there is a link.
    Starts(Option<Link>),
    /// It follows the peer's guest from its first instruction on.
    Follows(Link, StartMessage),
}

/// A host that has nothing yet and waits for its part.
struct Candidate<'a> {
    config: &'a Config,
    surroundings: &'a Surroundings,
    /// Of the program that waits with us.
    process: Option<Pid>,
    keys: Keys,
    ends: &'a Ends,
    board: &'a StatusBoard,
    decider: &'a mut Decider,
    /// The primary by preference listens, the other one comes: one connection, whoever was first.
    listener: Option<Listener>,
    link: Option<Link>,
    look_again: Instant,
    said: Option<String>,
    reason: String,
}

impl Candidate<'_> {
    fn wait_for_part(mut self) -> Result<Part, Error> {
        loop {
            if self.link.is_none() {
                self.meet()?;
            }
            if let Some(start) = self.hear()? {
                let link = self.link.take().expect("it came over the link");
                return Ok(Part::Follows(link, start));
            }
            if self.decide()? {
                return Ok(Part::Starts(self.link));
            }
            let mut until = Instant::now() + SLEEP_MAX;
            until = self.decider.deadline().map_or(until, |at| until.min(at));
            let mut fds = Vec::new();
            match (&self.link, &self.listener) {
                (Some(l), _) => {
                    let write = if l.interest().write { PollFlags::POLLOUT } else { PollFlags::empty() };
                    fds.push((l.fd(), PollFlags::POLLIN | write));
                }
                (None, Some(l)) => fds.push((l.fd(), PollFlags::POLLIN)),
                (None, None) => until = until.min(self.look_again),
            }
            fds.extend(self.decider.fd().map(|fd| (fd, PollFlags::POLLIN)));
            wait(&fds, self.ends, until)?;
        }
    }

    /// Looks for the peer, once.
    fn meet(&mut self) -> Result<(), Error> {
        let peer = &self.config.peer;
        let met = match &self.listener {
            Some(l) => match l.accept(&self.keys)? {
                None => return Ok(()),
                Some(link) => bring_up(link, self.ends),
            },
            None if Instant::now() < self.look_again => return Ok(()),
            None => connect(peer.address, &self.keys, self.ends),
        };
        self.look_again = Instant::now() + RETRY;
        match met {
            Ok(mut link) => {
                self.board.event(&format!("linked with {}", peer.name));
                agree(&mut link, self.config, self.surroundings, self.process, self.ends)?;
                self.link = Some(link);
                self.said = None;
                self.decider.tell(Event::LinkUp);
                Ok(())
            }
            Err(Error::Link(e)) => {
                let e = e.to_string();
                if self.said.as_ref() != Some(&e) {
                    tracing::warn!("{}: {e}; trying again", peer.name);
                    self.said = Some(e);
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// What the peer says. `Some`: its guest starts, and ours with it.
    fn hear(&mut self) -> Result<Option<StartMessage>, Error> {
        let Some(link) = &mut self.link else { return Ok(None) };
        let mut start = None;
        let mut wrong = None;
        let heard = link.on_ready().and_then(|()| {
            link.recv(&mut |k, body| {
                match (k, message::decode_role(body)) {
                    (kind::ROLE, Ok(m)) => {
                        self.decider.tell(Event::Peer(m));
                        return ControlFlow::Continue(());
                    }
                    (kind::START, _) => match serde_json::from_slice(body) {
                        Ok(s) => start = Some(s),
                        Err(e) => wrong = Some(format!("the primary's start message can't be read: {e}")),
                    },
                    (kind::BYE, _) => {
                        wrong = Some(format!("the other host refuses: {}", String::from_utf8_lossy(body)));
                    }
                    _ => wrong = Some(format!("the other host sent message {k} before its guest was started")),
                }
                ControlFlow::Break(())
            })
        });
        if let Some(text) = wrong {
            return Err(Error::Refused(text));
        }
        if start.is_none()
            && let Err(e) = heard.and_then(|()| link.flush())
        {
            self.lose_link(&e);
        }
        Ok(start)
    }

    fn lose_link(&mut self, e: &LinkError) {
        tracing::warn!("{}: {e}", self.config.peer.name);
        self.link = None;
        self.decider.tell(Event::LinkDown(LinkEnd::Closed));
    }

    /// True: this host starts the service.
    fn decide(&mut self) -> Result<bool, Error> {
        let mut starts = false;
        if let Some(Order::Force) = self.board.take_order() {
            self.decider.tell(Event::Operator(Command::Force));
        }
        self.decider.on_answer();
        while let Some(actions) = self.decider.next() {
            for action in actions {
                match self.decider.act(action) {
                    Some(Action::StartGuest) => starts = true,
                    Some(Action::Send(m)) => {
                        if let Some(link) = &mut self.link {
                            let mut head = [0; HEAD_BYTES];
                            let mut w = Writer::new(&mut head);
                            message::encode_role(&m, &mut w);
                            let n = w.len();
                            link.send(kind::ROLE, &head[..n], &[]);
                        }
                    }
                    Some(Action::Report(r)) => {
                        self.reason = r.to_string();
                        tracing::info!("{}", self.reason);
                        self.board.event(&self.reason);
                    }
                    // Without a guest and a gate there is nothing to hold, to drop or to take down.
                    _ => {}
                }
            }
            if self.decider.kind() == Kind::Failed {
                return Err(Error::Refused(std::mem::take(&mut self.reason)));
            }
        }
        self.board.set(Shown::of(self.decider.kind(), self.decider.term().0));
        if let Some(Err(e)) = self.link.as_mut().map(Link::flush) {
            self.lose_link(&e);
        }
        Ok(starts)
    }
}

/// Starts the peer's guest with ours.
fn start_both(link: &mut Link, s: &Surroundings, decider: &mut Decider, ends: &Ends) -> Result<(), Error> {
    say(link, kind::START, &StartMessage::new(s))?;
    hear(link, kind::READY, ends, &mut |m| decider.tell(Event::Peer(m)))?;
    Ok(())
}

/// Refuses, on both hosts, a network that does not flood.
fn try_tap(link: &mut Link, world: &World, c: &Config, leads: bool, ends: &Ends) -> Result<(), Error> {
    let shared = tap::shared_mac(&c.service.name);
    let heard = match world.tap() {
        Some(tap) => {
            let until = Instant::now() + FLOOD_MAX;
            let mut heard = tap.hears_caller();
            while !heard && Instant::now() < until {
                std::thread::sleep(FLOOD_EVERY);
                heard = tap.hears_caller();
            }
            link.send(kind::TAPPED, &[], &[heard.into()]);
            link.flush()?;
            heard
        }
        None => {
            let interface = c.service.interface.as_ref().expect("service.tap goes with an interface");
            let caller = Caller::open(interface, shared)?;
            let until = Instant::now() + STEP_MAX;
            let mut answer = None;
            while answer.is_none() {
                caller.call()?;
                wait_link(link, ends, Instant::now() + FLOOD_EVERY)?;
                link.on_ready()?;
                link.recv(&mut |k, body| {
                    if k == kind::TAPPED {
                        answer = body.first().copied();
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                })?;
                if Instant::now() > until {
                    return Err(Error::Refused("service.tap: the other host does not say whether it hears this one".into()));
                }
            }
            answer == Some(1)
        }
    };
    if heard {
        return Ok(());
    }
    let (speaker, listener) = if leads { (&c.host.name, &c.peer.name) } else { (&c.peer.name, &c.host.name) };
    let mac = shared.map(|b| format!("{b:02x}")).join(":");
    Err(TapError::Deaf { speaker: speaker.clone(), listener: listener.clone(), mac }.into())
}

/// This thread, on which heartbeats and leases depend, before others that want the processor. The guest is not of it.
fn go_first() {
    const NICE: i32 = -10;
    // SAFETY: no pointers. 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        tracing::warn!("the engine has no precedence on the processor: {}", std::io::Error::last_os_error());
    }
}

/// The exit status.
pub fn run(c: &Config) -> Result<i32, Error> {
    check_host(c)?;
    let signals = prepare_process()?;
    let board = StatusBoard::new(&c.service.name, &c.host.name, &c.peer.name);
    let reception = c.service.preload.then(|| open_reception(&board)).transpose()?;
    let _control = ControlSocket::open(&c.control.socket, board.clone())
        .map_err(io_error(format!("the control socket {}", c.control.socket.display())))?;
    let Some(reception) = reception else {
        return run_service(c, surroundings(c)?, None, signals, board);
    };
    let Program { adoptee, refusal, surroundings } =
        await_program(&reception, &board, &signals, c.monitor.memory_every)?;
    board.set(Shown::of(Kind::Starting, 0));
    let s = as_configured(c, surroundings);
    run_service(c, s, Some(adoptee), signals, board).inspect_err(|e| refusal.say(&e.to_string()))
}

/// What can be known before anybody is waited for.
fn check_host(c: &Config) -> Result<(), Error> {
    guest::requirements::check()?;
    if !c.service.addresses.is_empty() {
        gate::requirements::check(c.service.addresses.iter().any(|a| a.ip.is_ipv6()))?;
    }
    Ok(())
}

/// The configuration's word counts more than the program's own.
fn as_configured(c: &Config, mut s: Surroundings) -> Surroundings {
    s.memory_slices = true;
    if let Some(cwd) = &c.service.cwd {
        s.cwd = cwd.clone();
    }
    if !c.service.env.is_empty() {
        s.env = c.service.env.iter().map(|(n, v)| (n.into(), v.into())).collect();
    }
    s
}

fn run_service(
    c: &Config,
    s: Surroundings,
    adoptee: Option<Adoptee>,
    signals: OwnedFd,
    board: StatusBoard,
) -> Result<i32, Error> {
    let own = PrivateKey::load(&c.link.key_file)?;
    let peer: PublicKey = c.peer.key.parse()?;
    let mut decider = decider(c)?;
    let listens = c.host.start == Start::Primary;
    let pidfd = adoptee.as_ref().map(|a| a.pidfd.try_clone()).transpose();
    let ends = Ends { signals, program: pidfd.map_err(io_error("duplicating a descriptor"))? };
    let candidate = Candidate {
        config: c,
        surroundings: &s,
        process: adoptee.as_ref().map(|a| a.pid),
        keys: Keys::new(&own, peer)?,
        ends: &ends,
        board: &board,
        decider: &mut decider,
        listener: listens.then(|| Listener::bind(c.link.listen)).transpose()?,
        link: None,
        look_again: Instant::now(),
        said: None,
        reason: String::new(),
    };
    let (link, leads, s) = match candidate.wait_for_part()? {
        Part::Starts(mut link) => {
            if let Some(why) = address_in_use(c)? {
                if let Some(l) = &mut link {
                    refuse(l, &why)?;
                }
                return Err(Error::Refused(why));
            }
            if let Some(l) = &mut link {
                start_both(l, &s, &mut decider, &ends)?;
            }
            (link, true, s)
        }
        Part::Follows(link, start) => {
            let s = start.surroundings();
            (Some(link), false, s.ok_or_else(|| Error::Refused("the primary's start message has no seed".into()))?)
        }
    };
    let mut spec = s.spec(if leads { role::PRIMARY } else { role::BACKUP }, 0);
    spec.adoptee = adoptee;
    let guest = launch(&mut spec, &ShimImage::embedded()?)?;
    board.set_guest(guest.pid.as_raw());
    let mut link = link;
    if let (false, Some(l)) = (leads, &mut link) {
        l.send(kind::READY, &[], &[]);
        l.flush()?;
    }
    let settings = Settings {
        timing: timing(c.limits.silence_ms_max),
        lag_bytes_max: c.limits.lag_bytes_max as usize,
        lag_max: Duration::from_millis(c.limits.lag_ms_max),
        reset_memory: 2 * c.limits.service_loss() + Duration::from_millis(c.limits.silence_ms_max),
        peer: c.peer.name.clone(),
    };
    let mut world = World::open(&c.service, settings.lease(), !leads)?;
    if let (Some(w), Some(l), true) = (&world, &mut link, c.service.tap) {
        try_tap(l, w, c, leads, &ends)?;
    }
    let mut notice = None;
    if let (Some(w), true) = (&mut world, link.is_some()) {
        let ready = if leads {
            w.be_guarded(c.link.listen.ip(), c.peer.address)
        } else {
            Notice::open(c.link.listen).map(|n| notice = Some(n))
        };
        if let Err(e) = ready {
            tracing::warn!("the engine is not guarded: were the primary's killed, taking over would wait for its lease: {e}");
        }
    }
    // Before this thread enters the service's namespace: the service network's interface is in the host's own.
    let probe = match &c.service.interface {
        Some(i) => Some(Probe::open(i, &c.service.probe_targets, c.limits.service_loss())?),
        None => None,
    };
    if let Some(p) = &probe {
        board.event(&p.watches());
    }
    if let Some(w) = &world {
        w.enter().map_err(io_error("entering the service's network namespace"))?;
    }
    go_first();
    let beginning = Beginning { link, leads, decider, settings, board, world, probe, notice };
    let engine = Engine::of_pair(setup(guest, ends.signals, None)?, |epoll| Pair::new(epoll, beginning))?;
    let outcome = engine.run()?;
    if let Ended::Left(why) = &outcome.ended {
        return Err(Error::Refused(why.clone()));
    }
    Ok(exit_code_of(&outcome))
}
