//! `ft rig up`: a rig, and the service in it; returns once it serves, protected unless that was not wanted.

use super::config::{CONFIG_FILE, KEY_FILE, WITNESS_KEY_FILE, ServiceConfig, WITNESS_PORT};
use super::freezer::Freezer;
use super::host::{self, Event, Preloaded, Service, Spec, SpecFile, events, log_tail, service_end, service_pid};
use super::keys::{self, KeyPair};
use super::process::{self, ProcessId};
use super::root::FT;
use super::state::{Places, RigName, State, Step, boot_id};
use super::{Host, Result, RigError, down, faults, io_error, netns, network, status};
use crate::logfile::OsText;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// For a host to have its file system.
const HOST_MAX: Duration = Duration::from_secs(30);
/// For a server whose port nobody knows to listen.
const LISTEN_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// How the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On alpha and beta, protected.
    Pair,
    /// Under `ft run --solo` on alpha.
    Solo,
    /// Bare, on alpha.
    Native,
}

/// What to make.
pub struct Up {
    pub name: RigName,
    pub config: Option<PathBuf>,
    pub mode: Mode,
    pub timeout: Duration,
    /// A rig that does not come up stays for inspection.
    pub keep: bool,
    pub state_dirs: Vec<PathBuf>,
    pub port: Option<u16>,
    /// The server is started on its own, with the shim preloaded.
    pub preload: bool,
    /// Room for what each host writes, if limited.
    pub disk_mib: Option<u32>,
    pub command: Vec<OsString>,
}

/// The one line that `ft rig up` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub name: String,
    pub mode: Mode,
    pub address: String,
    pub address6: Option<String>,
    pub port: Option<u16>,
    pub namespaces: BTreeMap<String, String>,
    pub pids: BTreeMap<Host, Pids>,
    pub logs: BTreeMap<Host, PathBuf>,
    /// Control sockets of the pair's engines, as the machine sees them.
    pub controls: BTreeMap<Host, PathBuf>,
}

/// As the machine numbers them.
#[derive(Clone, Debug, Serialize)]
pub struct Pids {
    /// The host's first process.
    pub init: i32,
    /// `ft run`, or `ft witness`.
    pub engine: Option<i32>,
    /// The server.
    pub guest: Option<i32>,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn progress(what: &str) {
    eprintln!("ft rig: {what}");
}

impl Up {
    pub fn run(&self) -> Result<Report> {
        // SAFETY: no pointers.
        if unsafe { libc::geteuid() } != 0 {
            return Err(RigError::Refused("a rig needs root: namespaces and mounts".into()));
        }
        let mut service = ServiceConfig::new(self.config.as_deref(), &self.command, &self.state_dirs, self.port)?;
        service.preload |= self.preload;
        catch_interrupts()?;
        let places = Places::new(&self.name);
        let Some(_lock) = places.try_lock()? else {
            return Err(RigError::Refused(format!("rig '{}' is being made or removed this moment", self.name)));
        };
        self.make_room(&places)?;
        let built = self.build(&places, &service);
        if built.is_err() && !self.keep {
            progress("removing what was made");
            if let Err(e) = down::remove(&places) {
                progress(&e.to_string());
            }
        }
        built
    }

    /// A rig that is up is in the way; what a killed `up` left is not.
    fn make_room(&self, places: &Places) -> Result<()> {
        if !places.exist() {
            return Ok(());
        }
        let state = State::load(places).ok().flatten().filter(|s| s.boot_id == boot_id());
        if state.is_some_and(|s| s.step == Step::Up) {
            return Err(RigError::Refused(format!(
                "rig '{0}' exists; take it down first: ft rig down --name {0}; or choose another --name",
                self.name
            )));
        }
        progress("removing what a rig of this name left behind");
        down::remove(places)
    }

    fn build(&self, places: &Places, service: &ServiceConfig) -> Result<Report> {
        let deadline = Instant::now() + self.timeout;
        fs::create_dir_all(places.run()).map_err(io_error(places.run().display().to_string()))?;
        let me = ProcessId::of(std::process::id() as i32).expect("we live");
        let mut state = State {
            name: self.name.to_string(),
            boot_id: boot_id(),
            step: Step::Networks,
            mode: self.mode,
            service: service.name.clone(),
            address: network::ADDRESS.into(),
            address6: network::has_ipv6().then(|| network::ADDRESS6.into()),
            maker: me,
            inits: BTreeMap::new(),
            has_small_disks: self.disk_mib.is_some(),
            command: service.command.iter().map(|a| a.to_string_lossy().into_owned()).collect(),
        };
        state.save(places)?;
        progress("networks");
        network::create(places)?;
        if self.mode != Mode::Pair {
            network::give_service_address(places, Host::Alpha)?;
        }
        check()?;

        state.step = Step::Hosts;
        state.save(places)?;
        self.start_hosts(places, service, &mut state)?;

        state.step = Step::Service;
        state.save(places)?;
        if self.mode == Mode::Pair {
            self.await_protected(places, &state, deadline)?;
        }
        self.await_listening(places, &state, service.port, deadline)?;
        state.step = Step::Up;
        state.save(places)?;
        Ok(report(places, &state, service.port))
    }

    fn start_hosts(&self, places: &Places, service: &ServiceConfig, state: &mut State) -> Result<()> {
        let mut keys = BTreeMap::new();
        if self.mode == Mode::Pair {
            for h in Host::WITH_INIT {
                keys.insert(h, keys::generate()?);
            }
        }
        fs::create_dir_all(places.disk().join("logs")).map_err(io_error(places.disk().display().to_string()))?;
        fs::create_dir_all(places.shared()).map_err(io_error(places.shared().display().to_string()))?;
        for h in Host::WITH_INIT {
            progress(&format!("host {h}"));
            fs::create_dir_all(places.host_disk(h)).map_err(io_error(places.host_disk(h).display().to_string()))?;
            if let Some(f) = Freezer::of(places, h) {
                f.create()?;
            }
            let spec = self.spec(places, service, h, &keys)?;
            host::start(places, &spec, |id| {
                state.inits.insert(h, id);
                state.save(places)
            })?;
            if h == Host::Witness && spec.service.is_some() {
                // Hosts that start before it answers would say that it is lost.
                await_host(places, state, h, |state| state.init(h).is_some_and(listens))?;
            }
        }
        for h in Host::WITH_INIT {
            await_host(places, state, h, |_| events(places, h).contains(&Event::Ready))?;
        }
        Ok(())
    }

    fn spec(
        &self,
        places: &Places,
        service: &ServiceConfig,
        host: Host,
        keys: &BTreeMap<Host, KeyPair>,
    ) -> Result<Spec> {
        let is_witness = host == Host::Witness;
        let key_file = |of: Host, path: PathBuf| {
            let content = keys.get(&of).map(|k| k.private.clone());
            content.map(|content| SpecFile { path, mode: 0o600, content })
        };
        let (argv, files): (Vec<OsString>, Vec<Option<SpecFile>>) = match (host, self.mode) {
            (Host::Witness, Mode::Pair) if service.needs_witness() => {
                let dir = places.host_disk(host);
                let listen = format!("{}:{WITNESS_PORT}", network::management_address(host));
                let (state, key) = (dir.join("state"), dir.join("key"));
                let mut argv: Vec<OsString> = vec!["/proc/self/exe".into(), "witness".into()];
                argv.extend(["--listen".into(), listen.into(), "--state".into(), state.into()]);
                argv.extend(["--key".into(), key.clone().into()]);
                (argv, vec![key_file(host, key)])
            }
            (Host::Alpha | Host::Beta, Mode::Pair) => {
                let config = SpecFile { path: CONFIG_FILE.into(), mode: 0o644, content: service.of_host(host, keys)? };
                let argv = [FT, "run", "--config", CONFIG_FILE].map(OsString::from).to_vec();
                // What only the witness and the two hosts know seals what they say to each other.
                let keys = [key_file(host, KEY_FILE.into()), key_file(Host::Witness, WITNESS_KEY_FILE.into())];
                (argv, [Some(config)].into_iter().chain(keys).collect())
            }
            (Host::Alpha, Mode::Solo) => {
                let mut argv = [FT, "run", "--solo", "--"].map(OsString::from).to_vec();
                argv.extend(service.command.iter().cloned());
                (argv, Vec::new())
            }
            (Host::Alpha, Mode::Native) => (service.command.clone(), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        let cwd = if is_witness { places.host_disk(host) } else { service.cwd.clone() };
        Ok(Spec {
            host,
            netns: netns::path(&places.netns(host)),
            private_root: (!is_witness).then(|| places.host_disk(host)),
            disk_mib: self.disk_mib,
            shared: places.shared(),
            log: places.log(host),
            events: places.events(host),
            directories: if is_witness { Vec::new() } else { service.state_dirs.clone() },
            files: files.into_iter().flatten().collect(),
            environment: std::env::vars_os().map(|(name, value)| (OsText(name), OsText(value))).collect(),
            preloaded: (service.preload && self.mode == Mode::Pair && !is_witness).then(|| Preloaded {
                server: started(&service.command, &service.cwd),
                socket: ServiceConfig::control_socket(&service.name).into(),
            }),
            service: (!argv.is_empty()).then(|| started(&argv, &cwd)),
        })
    }

    /// Both say that they are a pair.
    fn await_protected(&self, places: &Places, state: &State, deadline: Instant) -> Result<()> {
        progress("waiting until the service is protected");
        let mut said = String::new();
        loop {
            check()?;
            for h in Host::WITH_INIT {
                check_host(places, state, h)?;
            }
            let now = status::status(&self.name)?;
            let is = |role: &str| now.hosts.iter().find(|h| h.role.as_deref() == Some(role));
            if is("primary").is_some_and(|p| p.state.as_deref() == Some("protected")) && is("backup").is_some() {
                return Ok(());
            }
            let word = |h: &status::HostStatus| {
                let text = |s: &Option<String>| s.clone().unwrap_or_else(|| "-".into());
                format!("{} {} {}", h.host, text(&h.role), text(&h.state))
            };
            let line = now.hosts.iter().map(word).collect::<Vec<_>>().join(", ");
            if line != said {
                progress(&line);
                said = line;
            }
            if Instant::now() > deadline {
                let tails = Host::WITH_INIT.map(|h| format!("{h}: {}", log_tail(places, h))).join("\n");
                return Err(RigError::Service(format!("not protected after {:?}: {said}\n{tails}", self.timeout)));
            }
            std::thread::sleep(POLL);
        }
    }

    fn await_listening(&self, places: &Places, state: &State, port: Option<u16>, deadline: Instant) -> Result<()> {
        let address: IpAddr = network::ADDRESS.parse().expect("it is one");
        progress(&match port {
            Some(p) => format!("waiting until {address}:{p} accepts connections"),
            None => "waiting until the server listens".into(),
        });
        let patience = Instant::now() + LISTEN_MAX;
        loop {
            check()?;
            check_host(places, state, Host::Alpha)?;
            let listens = match port {
                Some(p) => network::accepts(places, SocketAddr::new(address, p))?,
                // Whatever the server takes, nobody but it and its engine listens there.
                None if self.mode != Mode::Pair => state.init(Host::Alpha).is_some_and(listens),
                None => return Ok(()),
            };
            if listens {
                return Ok(());
            }
            if port.is_none() && Instant::now() > patience {
                progress("it does not listen yet; going on (--port N says what to wait for)");
                return Ok(());
            }
            if Instant::now() > deadline {
                let tail = log_tail(places, Host::Alpha);
                return Err(RigError::Service(format!("nobody accepts connections after {:?}; {tail}", self.timeout)));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Until it is ready, of which `ready` decides.
pub(super) fn await_host(places: &Places, state: &State, host: Host, ready: impl Fn(&State) -> bool) -> Result<()> {
    let end = Instant::now() + HOST_MAX;
    while !ready(state) {
        check()?;
        check_host(places, state, host)?;
        if Instant::now() > end {
            return Err(RigError::Service(format!(
                "host {host} is not ready after {HOST_MAX:?}; {}",
                log_tail(places, host)
            )));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Fails if a host, or what runs on it, has ended.
fn check_host(places: &Places, state: &State, host: Host) -> Result<()> {
    let why = match service_end(&events(places, host)) {
        Some(end) => format!("ended, {end}"),
        None if state.init(host).is_none() => "its first process ended".into(),
        None => return Ok(()),
    };
    Err(RigError::Service(format!("{host}: {why}; {}", log_tail(places, host))))
}

fn started(argv: &[OsString], cwd: &Path) -> Service {
    Service { argv: argv.iter().cloned().map(OsText).collect(), cwd: OsText(cwd.into()) }
}

/// Is there a listening TCP socket in the host's network?
fn listens(init: ProcessId) -> bool {
    const LISTEN: &str = "0A";
    ["tcp", "tcp6"].iter().any(|t| {
        let text = fs::read_to_string(format!("/proc/{}/net/{t}", init.pid)).unwrap_or_default();
        text.lines().skip(1).any(|l| l.split_ascii_whitespace().nth(3) == Some(LISTEN))
    })
}

fn report(places: &Places, state: &State, port: Option<u16>) -> Report {
    let mut namespaces: BTreeMap<String, String> =
        Host::ALL.iter().map(|h| (h.to_string(), places.netns(*h))).collect();
    namespaces.insert("switch".into(), places.netns_switch());
    let controls = Host::PAIR.iter().filter(|_| state.mode == Mode::Pair).filter_map(|h| {
        let init = state.init(*h)?.pid;
        Some((*h, format!("/proc/{init}/root{}", ServiceConfig::control_socket(&state.service)).into()))
    });
    let controls = controls.collect();
    let pids = Host::WITH_INIT.iter().filter_map(|h| Some((*h, pids(places, state, *h)?))).collect();
    Report {
        name: state.name.clone(),
        mode: state.mode,
        address: state.address.clone(),
        address6: state.address6.clone(),
        port,
        namespaces,
        pids,
        logs: Host::WITH_INIT.iter().map(|h| (*h, places.log(*h))).collect(),
        controls,
    }
}

fn pids(places: &Places, state: &State, host: Host) -> Option<Pids> {
    let init = state.init(host)?;
    let service = service_pid(&events(places, host)).and_then(|p| process::by_inner_pid(init, p)).map(|p| p.pid);
    let engine = service.filter(|_| state.mode != Mode::Native);
    let guest = (host != Host::Witness).then(|| faults::guest(places, state, host, init)).flatten().map(|p| p.pid);
    Some(Pids { init: init.pid, engine, guest })
}

fn catch_interrupts() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::empty(), SigSet::empty());
    for s in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(s, &action) }.map_err(io_error("catching signals"))?;
    }
    Ok(())
}

fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(RigError::Interrupted) } else { Ok(()) }
}
