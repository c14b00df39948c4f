//! `ft run --config FILE`: from the configuration to a running half of a pair.
//!
//! A host that starts meets its peer, compares itself with it, and asks the failover machine what to be; with its guest
//! launched, as primary or as backup, the engine goes on ([`Pair`]).

use super::admission::Admission;
use super::candidate::{Candidate, Part};
use super::decider::Decider;
use super::guard::Notice;
use super::join::Joined;
use super::meeting::{Ends, Meeting, STEP_MAX, hear, refuse, say, wait, wait_link};
use super::message::kind;
use super::start_message::StartMessage;
use super::status::{ControlSocket, Reception, Shown, StatusBoard};
use super::world::World;
use super::{Beginning, Pair, Settings};
use crate::config::{ArbiterConfig, Config, Divergence, Start};
use crate::engine::{Ended, Engine};
use crate::failover::arbiter::Arbiter;
use crate::failover::arbiter::etcd::{EtcdArbiter, TlsFiles};
use crate::failover::arbiter::file::FileArbiter;
use crate::failover::arbiter::witness::client::{Tcp, WitnessClient};
use crate::failover::arbiter::witness::seal::{Key, Seal};
use crate::failover::arbiter::witness::wire::ServiceName;
use crate::failover::config::{ArbiterKind, DivergencePolicy, Timing};
use crate::failover::message::Preferred;
use crate::failover::{self, Event, HostId, Kind};
use crate::gate;
use crate::gate::namespace::Namespace;
use crate::guest::{self, Adoptee, Guest, ShimImage, launch};
use crate::link::Link;
use crate::preload::{AWAITS_PROGRAM, Program, await_program, open_reception};
use crate::probe::{self, Probe};
use crate::snapshot::taker::Taker;
use crate::snapshot::tree::leave_unfinished;
use crate::start::{Error, Surroundings, exit_code_of, io_error, prepare_process, setup};
use crate::tap::flood::Caller;
use crate::tap::{self, TapError};
use ft_log::shared::role;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Between the end of a host's part and its next beginning; longer each time, unless the part was a long one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const LONG_LIFE: Duration = Duration::from_secs(3);
/// For the primary's frames to reach the backup's tap, and how often it looks.
const FLOOD_MAX: Duration = Duration::from_secs(3);
const FLOOD_EVERY: Duration = Duration::from_millis(20);
/// For one answer of the arbiter, beyond the silence that hosts grant each other; then it is asked again.
const ARBITER_MAX: Duration = Duration::from_millis(1000);

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

fn address_in_use(c: &Config) -> Result<Option<String>, Error> {
    let Some(interface) = &c.service.interface else { return Ok(None) };
    let ips: Vec<IpAddr> = c.service.addresses.iter().map(|a| a.ip).collect();
    Ok(probe::in_use(interface, &ips)?)
}

pub(super) fn timing(silence_ms: u64) -> Timing {
    Timing {
        heartbeat_ms: silence_ms / 8,
        lease_ms: silence_ms * 3 / 4,
        silence_ms,
        head_start_ms: silence_ms / 4,
        ..Timing::default()
    }
}

fn decider(c: &Config) -> Result<Decider, Error> {
    let (me, peer) = (HostId::of_name(&c.host.name), HostId::of_name(&c.peer.name));
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
    let divergence = match c.monitor.divergence {
        Divergence::Reseed => DivergencePolicy::Reseed,
        Divergence::Takeover => DivergencePolicy::Takeover,
        Divergence::Halt => DivergencePolicy::Halt,
    };
    let config = failover::Config { me, peer, prefers, arbiter: kind, divergence, timing };
    Decider::new(config, arbiter).map_err(|e| Error::Refused(format!("limits: {e}")))
}

/// Starts the peer's guest with ours.
fn start_both(link: &mut Link, peer: HostId, start: &StartMessage, decider: &mut Decider, ends: &Ends) -> Result<(), Error> {
    say(link, kind::START, start)?;
    hear(link, kind::READY, peer, ends, &mut |m| decider.tell(Event::Peer(m)))?;
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
    if let Err(e) = set_nice(NICE) {
        tracing::warn!("the engine has no precedence on the processor: {e}");
    }
}

/// Of this thread, and of what it starts.
fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: no pointers. 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What this thread was before it became an engine.
struct Home {
    network: Namespace,
    nice: i32,
}

impl Home {
    fn here() -> io::Result<Self> {
        // SAFETY: no pointers. 0 is the calling thread, which exists.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        Ok(Self { network: Namespace::current()?, nice })
    }

    fn back(&self) -> io::Result<()> {
        self.network.enter()?;
        set_nice(self.nice)
    }
}

/// How a host's part in the service ended.
enum Life {
    /// With this exit status.
    Over(i32),
    /// This host may be given the service's state anew; why it must.
    Again(String),
}

/// The exit status.
pub fn run(c: &Config) -> Result<i32, Error> {
    check_host(c)?;
    let signals = prepare_process()?;
    let board = StatusBoard::new(&c.service.name, &c.host.name, &c.peer.name);
    let reception = c.service.preload.then(|| open_reception(&board)).transpose()?;
    let _control = ControlSocket::open(&c.control.socket, board.clone())
        .map_err(io_error(format!("the control socket {}", c.control.socket.display())))?;
    let mut pause = PAUSE_MIN;
    let home = Home::here().map_err(io_error("this thread's network namespace"))?;
    loop {
        // A part that has ended leaves this thread as an engine.
        home.back().map_err(io_error("leaving the service's network namespace"))?;
        let began = Instant::now();
        match live(c, reception.as_deref(), &signals, &board)? {
            Life::Over(status) => return Ok(status),
            Life::Again(why) => {
                board.clear();
                reception.iter().for_each(|r| r.free());
                pause = if began.elapsed() > LONG_LIFE { PAUSE_MIN } else { (2 * pause).min(PAUSE_MAX) };
                board.event(&format!("waits for the service's state anew: {why}"));
                tracing::warn!("waits for the service's state anew: {why}");
                let ends = Ends { signals: dup(&signals)?, program: None };
                let until = Instant::now() + pause;
                while Instant::now() < until {
                    wait(&[], &ends, until)?;
                }
            }
        }
    }
}

fn dup(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    fd.try_clone().map_err(io_error("duplicating a descriptor"))
}

/// From nothing to the end of this host's part.
fn live(c: &Config, reception: Option<&Reception>, signals: &OwnedFd, board: &StatusBoard) -> Result<Life, Error> {
    let Some(reception) = reception else {
        return run_service(c, surroundings(c)?, None, dup(signals)?, board.clone());
    };
    board.set(AWAITS_PROGRAM);
    let Program { adoptee, refusal, surroundings } = await_program(reception, board, signals, c.monitor.memory_every)?;
    board.set(Shown::of(Kind::Starting, false, 0));
    let s = as_configured(c, surroundings);
    run_service(c, s, Some(adoptee), dup(signals)?, board.clone()).inspect_err(|e| refusal.say(&e.to_string()))
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

/// A guest, and how it came to this host.
struct Begun {
    guest: Guest,
    link: Option<Link>,
    leads: bool,
    start: StartMessage,
    joined: Option<Joined>,
}

/// Becomes what this host is to the service.
fn begin(
    c: &Config,
    s: &Surroundings,
    part: Part,
    adoptee: Option<Adoptee>,
    decider: &mut Decider,
    ends: &Ends,
) -> Result<Begun, Error> {
    let (mut link, leads, start) = match part {
        Part::Joins(link, made) => {
            let (guest, joined) = *made;
            let start = joined.message.start.clone();
            return Ok(Begun { guest, link: Some(link), leads: false, start, joined: Some(joined) });
        }
        Part::Starts(mut link) => {
            if let Some(why) = address_in_use(c)? {
                if let Some(l) = &mut link {
                    refuse(l, &why)?;
                }
                return Err(Error::Refused(why));
            }
            let start = StartMessage::new(s);
            if let Some(l) = &mut link {
                start_both(l, HostId::of_name(&c.peer.name), &start, decider, ends)?;
            }
            (link, true, start)
        }
        Part::Follows(link, start) => (Some(link), false, start),
    };
    let s = start.clone().surroundings();
    let s = s.ok_or_else(|| Error::Refused("the primary's start message has no seed".into()))?;
    let mut spec = s.spec(if leads { role::PRIMARY } else { role::BACKUP }, 0);
    spec.adoptee = adoptee;
    let guest = launch(&mut spec, &ShimImage::embedded()?)?;
    if let (false, Some(l)) = (leads, &mut link) {
        l.send(kind::READY, &[], &[]);
        l.flush()?;
    }
    Ok(Begun { guest, link, leads, start, joined: None })
}

fn run_service(
    c: &Config,
    s: Surroundings,
    adoptee: Option<Adoptee>,
    signals: OwnedFd,
    board: StatusBoard,
) -> Result<Life, Error> {
    for dir in &c.service.state_dirs {
        leave_unfinished(dir).map_err(io_error(format!("state directory {}", dir.display())))?;
    }
    let mut decider = decider(c)?;
    let pidfd = adoptee.as_ref().map(|a| a.pidfd.try_clone()).transpose();
    let ends = Ends { signals, program: pidfd.map_err(io_error("duplicating a descriptor"))? };
    let mut meeting = Meeting::new(c, &s, adoptee.as_ref().map(|a| a.pid)).or_else(|e| {
        // Of a program that has ended nothing can be read, and that is what there is to say.
        wait(&[], &ends, Instant::now())?;
        Err(e)
    })?;
    let candidate = Candidate::new(c, adoptee, &ends, &board, &mut decider, &mut meeting);
    let (part, adoptee) = candidate.wait_for_part()?;
    let Begun { guest, mut link, leads, start, joined } = begin(c, &s, part, adoptee, &mut decider, &ends)?;
    let guest_pid = guest.pid.as_raw();
    board.set_guest(guest_pid);
    let settings = Settings {
        timing: timing(c.limits.silence_ms_max),
        lag_bytes_max: c.limits.lag_bytes_max as usize,
        lag_max: Duration::from_millis(c.limits.lag_ms_max),
        reset_memory: 2 * c.limits.service_loss() + Duration::from_millis(c.limits.silence_ms_max),
        me: HostId::of_name(&c.host.name),
        peer_id: HostId::of_name(&c.peer.name),
        peer: c.peer.name.clone(),
        service: c.service.name.clone(),
        host: c.host.name.clone(),
        program: s.program.clone(),
        reports: c.reports(),
    };
    let mut world = World::open(&c.service, settings.lease(), !leads)?;
    // Whoever is given the state of a running service hears it on a network that was tried before.
    if let (Some(w), Some(l), true, true) = (&world, &mut link, c.service.tap, joined.is_none()) {
        try_tap(l, w, c, leads, &ends)?;
    }
    let mut notice = None;
    if let Some(w) = &mut world {
        let ready = w.be_guarded(c.link.listen.ip(), c.peer.address).and_then(|()| Notice::open(c.link.listen));
        match ready {
            Ok(n) => notice = Some(n),
            Err(e) => tracing::warn!(
                "the engine is not guarded: were the primary's killed, taking over would wait for its lease: {e}"
            ),
        }
    }
    // Before this thread enters the service's namespace: the networks' interfaces are in the host's own.
    let probe = match &c.service.interface {
        Some(i) => Some(Probe::open(i, &c.service.probe_targets, c.limits.service_loss())?),
        None => None,
    };
    let admission = Admission::start(meeting, board.clone()).map_err(io_error("starting a thread"))?;
    if let Some(p) = &probe {
        board.event(&p.watches());
    }
    if let Some(w) = &world {
        w.enter().map_err(io_error("entering the service's network namespace"))?;
    }
    go_first();
    let mut setup = setup(guest, ends.signals, None)?;
    setup.snapshots = Some(Taker::on_demand(c.service.state_dirs.clone()));
    let beginning = Beginning { link, leads, decider, settings, board, world, probe, notice, start, admission, guest_pid, joined };
    let engine = Engine::of_pair(setup, |epoll| Pair::new(epoll, beginning))?;
    let outcome = engine.run()?;
    match &outcome.ended {
        Ended::Left(why) => Err(Error::Refused(why.clone())),
        Ended::Rejoins(why) => Ok(Life::Again(why.clone())),
        Ended::Detached(why) => {
            eprintln!("ft: {why}");
            Ok(Life::Over(exit_code_of(&outcome)))
        }
        _ => Ok(Life::Over(exit_code_of(&outcome))),
    }
}
