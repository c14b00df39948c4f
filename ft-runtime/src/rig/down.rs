//! `ft rig down`: nothing is left, whatever of the rig still stands, and whatever crashed.
//!
//! Nothing here depends on a step having been completed: what may be there has a name or is in a namespace that has.

use super::freezer::Freezer;
use super::process::{self, NamespaceId, ProcessId};
use super::state::{self, Places, RigName, State, boot_id};
use super::{Host, Result, RigError, io_error, netns, network};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// For an `up` in the middle to clean up by itself.
const MAKER_MAX: Duration = Duration::from_secs(10);
/// For a host's processes to be gone: their disk may be busy.
const DEATH_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// False: there was nothing.
pub fn down(name: &RigName) -> Result<bool> {
    let places = Places::new(name);
    if let (None, Ok(Some(state))) = (places.try_lock()?, State::load(&places))
        && state.maker.is_alive()
    {
        // An `up` at work: it stops at its next step.
        state.maker.signal(libc::SIGTERM);
        if !state.maker.wait(MAKER_MAX) {
            state.maker.signal(libc::SIGKILL);
        }
    }
    let _lock = places.lock_wait()?;
    if !places.exist() {
        return Ok(false);
    }
    remove(&places)?;
    Ok(true)
}

/// The caller holds the lock.
pub(super) fn remove(places: &Places) -> Result<()> {
    let state = State::load(places).ok().flatten().filter(|s| s.boot_id == boot_id());
    let mut failed = kill_all(places, state.as_ref());
    network::destroy(places);
    failed.extend(netns::remove(places));
    for host in Host::ALL {
        if let Some(f) = Freezer::of(places, host)
            && let Err(e) = f.remove()
        {
            failed.push(e.to_string());
        }
    }
    // State last: as long as anything else is there, so is what is known of it.
    for dir in [places.disk(), places.run()] {
        if !failed.is_empty() {
            break;
        }
        if let Err(e) = remove_tree(&dir) {
            failed.push(e.to_string());
        }
    }
    if !failed.is_empty() {
        return Err(RigError::Refused(format!(
            "not all of rig '{}' could be removed: {}",
            places.name,
            failed.join("; ")
        )));
    }
    state::remove_if_last();
    Ok(())
}

/// Everything that runs in the rig.
fn kill_all(places: &Places, state: Option<&State>) -> Vec<String> {
    let mut failed = Vec::new();
    let inits: Vec<ProcessId> =
        state.into_iter().flat_map(|s| s.inits.values().copied()).filter(ProcessId::is_alive).collect();
    for netns in places.netns_all().iter().filter_map(|n| File::open(netns::path(n)).ok()) {
        network::forget_orphans(&netns);
    }
    for init in &inits {
        forget_orphans(*init);
    }
    for init in &inits {
        init.signal(libc::SIGKILL);
    }
    for host in Host::ALL {
        // Frozen processes die only when they may go on; ended already by then.
        if let Some(f) = Freezer::of(places, host) {
            if f.is_frozen() {
                let members = fs::read_to_string(f.members()).unwrap_or_default();
                for p in members.lines().filter_map(|l| ProcessId::of(l.parse().ok()?)) {
                    p.signal(libc::SIGKILL);
                }
            }
            let _ = f.thaw();
        }
    }
    for init in &inits {
        if !init.wait(DEATH_MAX) {
            failed.push(format!("process {} does not end: is its disk stuck?", init.pid));
        }
    }
    failed.extend(kill_in_networks(&places.netns_all()));
    failed
}

/// Commands of `exec` in places without a first process, and what they started.
pub(super) fn kill_in_networks(names: &[String]) -> Option<String> {
    let me = std::process::id() as i32;
    let ids: Vec<NamespaceId> = names.iter().filter_map(|n| NamespaceId::of(netns::path(n)).ok()).collect();
    let end = Instant::now() + DEATH_MAX;
    loop {
        let found = ids.iter().flat_map(|id| process::in_namespace("net", *id));
        let left: Vec<ProcessId> = found.filter(|p| p.pid != me).collect();
        if left.is_empty() {
            return None;
        }
        for p in &left {
            p.signal(libc::SIGKILL);
        }
        if Instant::now() > end {
            return Some(format!("processes that do not end: {:?}", left.iter().map(|p| p.pid).collect::<Vec<_>>()));
        }
        std::thread::sleep(POLL);
    }
}

/// In all networks of a host's threads: engines have one that no name leads to.
pub(super) fn forget_orphans(init: ProcessId) {
    let mut seen: Vec<NamespaceId> = Vec::new();
    for p in process::of_init(init) {
        for task in fs::read_dir(format!("/proc/{}/task", p.pid)).into_iter().flatten().flatten() {
            let path = task.path().join("ns/net");
            if let (Ok(id), Ok(netns)) = (NamespaceId::of(&path), File::open(&path))
                && !seen.contains(&id)
            {
                seen.push(id);
                network::forget_orphans(&netns);
            }
        }
    }
}

/// Removes a directory in which nothing is mounted.
pub(super) fn remove_tree(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(io_error("/proc/self/mountinfo"))?;
    if let Some(m) = mounts.lines().filter_map(|l| l.split(' ').nth(4)).find(|p| Path::new(p).starts_with(dir)) {
        return Err(RigError::Refused(format!("something is mounted at {m}; unmount it, then try again")));
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(dir.display().to_string())(e)),
        _ => Ok(()),
    }
}
