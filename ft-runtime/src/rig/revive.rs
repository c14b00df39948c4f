//! A dead host comes back, as a machine that is switched on again: its disk is the old one or empty, all else is new.

use super::freezer::Freezer;
use super::host::{self, Event, Spec, events, service_pid};
use super::process::{self, ProcessId};
use super::state::{Places, State};
use super::up::{Mode, await_host};
use super::{Host, Result, RigError, down, io_error, network, slow};
use std::fs;
use std::time::{Duration, Instant};

/// For the last process that has a dead host's files to end.
const RELEASE_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Returns once it runs what it ran at first. `wipe`: with an empty disk.
pub(super) fn revive(places: &Places, host: Host, wipe: bool) -> Result<()> {
    let Some(_lock) = places.try_lock()? else {
        return Err(RigError::Refused(format!("rig '{}' is being changed this moment; try again", places.name)));
    };
    let (_, mut state) = State::of(&places.name)?;
    refuse_living(places, &state, host)?;
    let spec = Spec::load(&places.spec(host))?;
    if let Some(left) = down::kill_in_networks(&[places.netns(host)]) {
        return Err(RigError::Refused(format!("{host} has {left}")));
    }
    await_release(places, host)?;
    if wipe {
        let disk = places.host_disk(host);
        down::remove_tree(&disk)?;
        fs::create_dir_all(&disk).map_err(io_error(disk.display().to_string()))?;
    }
    if host.peer().is_some() {
        // The long way leads through interfaces that go.
        slow::stop(places)?;
    }
    network::renew(places, host)?;
    if state.mode != Mode::Pair && host == Host::Alpha {
        network::give_service_address(places, host)?;
    }
    if let Some(f) = Freezer::of(places, host) {
        f.create()?;
        f.thaw()?;
    }
    host::start(places, &spec, |id| {
        state.inits.insert(host, id);
        state.save(places)
    })?;
    await_host(places, &state, host, |_| {
        let said = events(places, host);
        if spec.service.is_some() { service_pid(&said).is_some() } else { said.contains(&Event::Ready) }
    })
}

fn refuse_living(places: &Places, state: &State, host: Host) -> Result<()> {
    let fault = |kind: &str| format!("ft rig fault --name {} {host} {kind}", places.name);
    let why = match state.init(host) {
        _ if host == Host::Client => "the client is a network only: it is never dead".into(),
        None => return Ok(()),
        Some(_) if Freezer::of(places, host).is_some_and(|f| f.is_frozen()) => {
            format!("{host} is frozen, not dead; let it go on: {}", fault("thaw-host"))
        }
        Some(_) => {
            format!("{host} is up, even if its server has ended: only a dead host is revived; kill it first: {}", fault("kill-host"))
        }
    };
    Err(RigError::Refused(why))
}

/// Until nobody has the dead host's file system mounted any more: what is mounted twice is damaged.
fn await_release(places: &Places, host: Host) -> Result<()> {
    let mark = format!("upperdir={}/", places.host_disk(host).display());
    let has = |p: &ProcessId| fs::read_to_string(format!("/proc/{}/mountinfo", p.pid)).is_ok_and(|m| m.contains(&mark));
    let end = Instant::now() + RELEASE_MAX;
    loop {
        let left: Vec<i32> = process::all().filter(has).map(|p| p.pid).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(RigError::Refused(format!(
                "processes {left:?} still have the disk of {host} mounted; end them, then try again"
            )));
        }
        std::thread::sleep(POLL);
    }
}
