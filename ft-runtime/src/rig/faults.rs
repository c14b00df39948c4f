//! What can be made to happen to a host.

use super::freezer::Freezer;
use super::host::{events, service_pid};
use super::network::{self, Network};
use super::process::{self, NamespaceId, ProcessId};
use super::state::{Places, RigName, State};
use super::up::Mode;
use super::{Host, Result, RigError, down, flip, io_error, netns, revive, slow, status};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// For a killed host to be gone.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// A kind of fault. `as_str` and `ALL` are what a user sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillGuest,
    FlipBit,
    KillEngine,
    PauseEngine,
    ResumeEngine,
    KillHost,
    ReviveHost,
    FreezeHost,
    ThawHost,
    CutLink,
    SlowLink,
    HealLink,
    FlushGate,
    FillDisk,
    FreeDisk,
    CutService,
    LoseService,
    HealService,
    CutManagement,
    HealManagement,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::KillGuest,
        Self::FlipBit,
        Self::KillEngine,
        Self::PauseEngine,
        Self::ResumeEngine,
        Self::KillHost,
        Self::ReviveHost,
        Self::FreezeHost,
        Self::ThawHost,
        Self::CutLink,
        Self::SlowLink,
        Self::HealLink,
        Self::FlushGate,
        Self::FillDisk,
        Self::FreeDisk,
        Self::CutService,
        Self::LoseService,
        Self::HealService,
        Self::CutManagement,
        Self::HealManagement,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::KillGuest => "kill-guest",
            Self::FlipBit => "flip-bit",
            Self::KillEngine => "kill-engine",
            Self::PauseEngine => "pause-engine",
            Self::ResumeEngine => "resume-engine",
            Self::KillHost => "kill-host",
            Self::ReviveHost => "revive-host",
            Self::FreezeHost => "freeze-host",
            Self::ThawHost => "thaw-host",
            Self::CutLink => "cut-link",
            Self::SlowLink => "slow-link",
            Self::HealLink => "heal-link",
            Self::FlushGate => "flush-gate",
            Self::FillDisk => "fill-disk",
            Self::FreeDisk => "free-disk",
            Self::CutService => "cut-service",
            Self::LoseService => "lose-service",
            Self::HealService => "heal-service",
            Self::CutManagement => "cut-management",
            Self::HealManagement => "heal-management",
        }
    }

    pub fn meaning(self) -> &'static str {
        match self {
            Self::KillGuest => "SIGKILL to the server's first process",
            Self::FlipBit => "a bit of the server's memory flips, in the first byte wherever --text stands",
            Self::KillEngine => "SIGKILL to the host's `ft run`",
            Self::PauseEngine => "SIGSTOP to the host's `ft run`; the server goes on",
            Self::ResumeEngine => "and SIGCONT",
            Self::KillHost => "the machine is gone: its cables first, then all its processes",
            Self::ReviveHost => "and is switched on again, with its old disk; with --wipe, with an empty one",
            Self::FreezeHost => "all processes of the host stand still; the kernel does not",
            Self::ThawHost => "and go on",
            Self::CutLink => "the link between the pair is down",
            Self::SlowLink => "the link between the pair takes 10 ms each way, and loses one frame in 200",
            Self::HealLink => "all is well with it again",
            Self::FlushGate => "a person empties the firewall of the service's network namespace, and lets all through",
            Self::FillDisk => "the host's disk is full (a rig made with --disk)",
            Self::FreeDisk => "and has room again",
            Self::CutService => "the host's cable to the service network is pulled",
            Self::LoseService => "the service network passes nothing to or from the host; its cable stays plugged in",
            Self::HealService => "all is well with it again",
            Self::CutManagement => "the host's cable to the network of the witness is pulled",
            Self::HealManagement => "and plugged in again",
        }
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|f| f.as_str() == s).ok_or_else(|| {
            let lines: Vec<String> = Self::ALL.iter().map(|f| format!("  {:<18}{}", f.as_str(), f.meaning())).collect();
            format!("there is no fault '{s}'; there are\n{}", lines.join("\n"))
        })
    }
}

/// What was done, and when: taken just before it began.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    pub host: Host,
    pub kind: &'static str,
    pub unix_ns: u64,
    pub boot_ns: u64,
}

/// `ft rig fault`.
pub fn fault(name: &RigName, host: Host, kind: Fault, wipe: bool, text: Option<&str>) -> Result<Done> {
    if wipe && kind != Fault::ReviveHost {
        return Err(RigError::Refused(format!("--wipe goes with {} only", Fault::ReviveHost.as_str())));
    }
    let text = match (kind, text) {
        (Fault::FlipBit, Some(t)) if !t.is_empty() => t,
        (Fault::FlipBit, _) | (_, Some(_)) => {
            return Err(RigError::Refused(format!("--text TEXT goes with {}, and that with it", Fault::FlipBit.as_str())));
        }
        (_, None) => "",
    };
    let (places, state) = State::of(name)?;
    let target = Target { places: &places, state: &state, host };
    let (unix_ns, boot_ns) = match kind {
        Fault::KillGuest => target.signal(target.guest()?, libc::SIGKILL),
        Fault::FlipBit => target.guest().and_then(|g| timed(|| flip::flip(g.pid, text.as_bytes()))),
        Fault::KillEngine => target.signal(target.engine()?, libc::SIGKILL),
        Fault::PauseEngine => target.signal(target.engine()?, libc::SIGSTOP),
        Fault::ResumeEngine => target.signal(target.engine()?, libc::SIGCONT),
        Fault::KillHost => target.kill_host(),
        Fault::ReviveHost => timed(|| revive::revive(&places, host, wipe)),
        Fault::FreezeHost => target.freezer().and_then(|f| timed(|| f.freeze())),
        Fault::ThawHost => target.freezer().and_then(|f| timed(|| f.thaw())),
        Fault::CutLink => target.set(Network::Link, false),
        Fault::SlowLink => target.slow_link(),
        Fault::HealLink => slow::stop(&places).and_then(|()| target.set(Network::Link, true)),
        Fault::FlushGate => target.flush_gate(),
        Fault::FillDisk => target.fill_disk(),
        Fault::FreeDisk => target.free_disk(),
        Fault::CutService => target.set(Network::Service, false),
        Fault::LoseService => target.lose_service(),
        Fault::HealService => target.set(Network::Service, true),
        Fault::CutManagement => target.set(Network::Management, false),
        Fault::HealManagement => target.set(Network::Management, true),
    }?;
    Ok(Done { host, kind: kind.as_str(), unix_ns, boot_ns })
}

/// Wall clock and boot clock.
type Moment = (u64, u64);

fn now() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    (unix.as_nanos() as u64, boot.as_nanos() as u64)
}

fn timed(f: impl FnOnce() -> Result<()>) -> Result<Moment> {
    let at = now();
    f().map(|()| at)
}

struct Target<'a> {
    places: &'a Places,
    state: &'a State,
    host: Host,
}

impl Target<'_> {
    fn init(&self) -> Result<ProcessId> {
        self.state.init(self.host).ok_or_else(|| match self.host {
            Host::Client => {
                RigError::Refused("the client is a network only: nothing runs there but what you start".into())
            }
            h => RigError::Refused(format!("{h} is dead already")),
        })
    }

    /// The first thing that runs on it: the engine, the bare server or the witness.
    fn service(&self) -> Result<ProcessId> {
        let pid = service_pid(&events(self.places, self.host));
        pid.and_then(|p| process::by_inner_pid(self.init().ok()?, p))
            .ok_or_else(|| RigError::Refused(format!("nothing runs on {}", self.host)))
    }

    fn engine(&self) -> Result<ProcessId> {
        self.init()?;
        if self.state.mode == Mode::Native && self.host != Host::Witness {
            return Err(RigError::Refused("there is no engine: this rig runs the bare server (--native)".into()));
        }
        self.service()
    }

    fn guest(&self) -> Result<ProcessId> {
        let init = self.init()?;
        guest(self.places, self.state, self.host, init)
            .ok_or_else(|| RigError::Refused(format!("no server runs on {}", self.host)))
    }

    fn signal(&self, victim: ProcessId, signo: i32) -> Result<Moment> {
        let at = now();
        if victim.signal(signo) { Ok(at) } else { Err(RigError::Refused("it ended this moment".into())) }
    }

    /// Silence first: no FIN and no RST of what dies may be heard.
    fn kill_host(&self) -> Result<Moment> {
        let init = self.init()?;
        // Of connections that nobody owns any more; it needs the living to find their networks.
        down::forget_orphans(init);
        let at = now();
        network::unplug(self.places, self.host)?;
        init.signal(libc::SIGKILL);
        if let Some(freezer) = Freezer::of(self.places, self.host)
            && freezer.is_frozen()
        {
            for p in process::of_init(init) {
                p.signal(libc::SIGKILL);
            }
            freezer.thaw()?;
        }
        if !init.wait(DEATH_MAX) {
            return Err(RigError::Refused(format!("{} does not die: is its disk stuck?", self.host)));
        }
        Ok(at)
    }

    fn freezer(&self) -> Result<Freezer> {
        self.init()?;
        Freezer::of(self.places, self.host).ok_or_else(|| {
            RigError::Refused("this machine has no freezer of control groups; mount cgroup2 at /sys/fs/cgroup".into())
        })
    }

    /// In the namespace that the engine's thread has entered.
    fn flush_gate(&self) -> Result<Moment> {
        let id = |pid| NamespaceId::of_process(pid, "net").map_err(io_error(format!("the network of process {pid}")));
        let (init, engine) = (self.init()?, self.engine()?);
        if id(init.pid)? == id(engine.pid)? {
            return Err(RigError::Refused(format!("{} has no gate", self.host)));
        }
        let path = format!("/proc/{}/ns/net", engine.pid);
        let inside = File::open(&path).map_err(io_error(path))?;
        timed(|| netns::within(&inside, crate::gate::rules::flush).map_err(io_error("flushing the gate's rules")))
    }

    /// What takes the room.
    fn ballast(&self) -> Result<PathBuf> {
        let init = self.init()?;
        if !self.state.has_small_disks || self.host.peer().is_none() {
            return Err(RigError::Refused(format!(
                "the disk of {} is the machine's own; `ft rig up --disk MIB` gives alpha and beta disks of their own",
                self.host
            )));
        }
        Ok(format!("/proc/{}/root/var/tmp/ft-ballast", init.pid).into())
    }

    fn fill_disk(&self) -> Result<Moment> {
        let path = self.ballast()?;
        timed(|| fill(&path).map_err(io_error(path.display().to_string())))
    }

    fn free_disk(&self) -> Result<Moment> {
        let path = self.ballast()?;
        timed(|| fs::remove_file(&path).map_err(io_error(path.display().to_string())))
    }

    fn slow_link(&self) -> Result<Moment> {
        if !network::is_on(self.host, Network::Link) {
            return Err(RigError::Refused(format!("{} is not on that network", self.host)));
        }
        timed(|| slow::start(self.places))
    }

    fn lose_service(&self) -> Result<Moment> {
        timed(|| network::block_service(self.places, self.host))
    }

    fn set(&self, network: Network, up: bool) -> Result<Moment> {
        if !network::is_on(self.host, network) {
            return Err(RigError::Refused(format!("{} is not on that network", self.host)));
        }
        if up && self.host != Host::Client {
            // A dead machine does not come back by its cables.
            self.init()?;
        }
        timed(|| network::set(self.places, self.host, network, up))
    }
}

/// Until there is no room for a byte.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let mut size = 1 << 20;
    while size > 0 {
        match file.write_all(&vec![0; size]) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::StorageFull => size /= 2,
            Err(e) => return Err(e),
        }
    }
    file.sync_all()
}

/// The server's first process on a host.
pub(super) fn guest(places: &Places, state: &State, host: Host, init: ProcessId) -> Option<ProcessId> {
    let service = process::by_inner_pid(init, service_pid(&events(places, host))?)?;
    match state.mode {
        Mode::Native => Some(service),
        Mode::Solo => process::first_child(service),
        Mode::Pair => match status::ask(init, &state.service).ok().and_then(|v| v["guest_pid"].as_i64()) {
            Some(inner) => process::by_inner_pid(init, inner as i32),
            None => process::first_child(service),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_fault_is_told_which_there_are() {
        for f in Fault::ALL {
            assert_eq!(f.as_str().parse(), Ok(f));
        }
        let said = "kill-all".parse::<Fault>().unwrap_err();
        assert!(Fault::ALL.iter().all(|f| said.contains(f.as_str())), "{said}");
    }
}
