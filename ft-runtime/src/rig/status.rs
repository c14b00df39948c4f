//! How the hosts are, asked of themselves; answered in time whatever is dead, frozen or cut off.

use super::config::ServiceConfig;
use super::freezer::Freezer;
use super::host::{events, service_end};
use super::process::ProcessId;
use super::state::{Places, RigName, State};
use super::up::Mode;
use super::{Host, Result};
use crate::pair::status::client::connect;
use serde::Serialize;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

/// For one host's answer; all are asked at once.
const ANSWER_MAX: Duration = Duration::from_millis(1000);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// One host, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostStatus {
    pub host: Host,
    /// The engine's word; `dead`: the host is; none: its engine doesn't answer or there is none.
    pub role: Option<String>,
    pub term: Option<u64>,
    pub state: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RigStatus {
    pub name: String,
    pub mode: Mode,
    pub address: String,
    pub address6: Option<String>,
    pub hosts: Vec<HostStatus>,
    pub witness: String,
}

/// `ft rig status`.
pub fn status(name: &RigName) -> Result<RigStatus> {
    let (places, state) = State::of(name)?;
    let hosts = std::thread::scope(|s| {
        let asked = Host::PAIR.map(|h| {
            s.spawn({
                let (places, state) = (&places, &state);
                move || of_host(places, state, h)
            })
        });
        asked.map(|t| t.join().expect("asking a host does not panic"))
    });
    Ok(RigStatus {
        name: state.name.clone(),
        mode: state.mode,
        address: state.address.clone(),
        address6: state.address6.clone(),
        hosts: hosts.into(),
        witness: of_witness(&places, &state),
    })
}

fn of_witness(places: &Places, state: &State) -> String {
    let frozen = Freezer::of(places, Host::Witness).is_some_and(|f| f.is_frozen());
    match (state.init(Host::Witness), service_end(&events(places, Host::Witness))) {
        (None, _) => "dead".into(),
        _ if frozen => "frozen".into(),
        (_, Some(end)) => format!("ended, {end}"),
        (_, None) if state.mode == Mode::Pair => "running".into(),
        _ => "idle".into(),
    }
}

fn of_host(places: &Places, state: &State, host: Host) -> HostStatus {
    let plain = |role: Option<&str>, state: &str| HostStatus {
        host,
        role: role.map(str::to_owned),
        term: None,
        state: Some(state.to_owned()),
    };
    let Some(init) = state.init(host) else { return plain(Some("dead"), "dead") };
    if Freezer::of(places, host).is_some_and(|f| f.is_frozen()) {
        return plain(None, "frozen");
    }
    let events = events(places, host);
    if let Some(end) = service_end(&events) {
        return plain(None, &format!("ended, {end}"));
    }
    if state.mode != Mode::Pair {
        let serves = host == Host::Alpha;
        return if serves { plain(None, "unprotected") } else { plain(None, "idle") };
    }
    match ask(init, &state.service) {
        Ok(v) => HostStatus {
            host,
            role: v["role"].as_str().map(str::to_owned),
            term: v["term"].as_u64(),
            state: v["state"].as_str().map(str::to_owned),
        },
        Err(e) => plain(None, &format!("no answer: {e}")),
    }
}

/// What the engine of a host says of itself.
pub(super) fn ask(init: ProcessId, service: &str) -> io::Result<Value> {
    ask_at(format!("/proc/{}/root{}", init.pid, ServiceConfig::control_socket(service)).as_ref())
}

fn ask_at(path: &Path) -> io::Result<Value> {
    let mut stream = connect(path)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(b"{\"get\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, listen};
    use std::io::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    #[test]
    fn an_engine_that_stands_still_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("ft-rig-ask-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let engine = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                let (mut s, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(s.try_clone().unwrap()).read_line(&mut line).unwrap();
                s.write_all(b"{\"role\":\"primary\",\"term\":3}\n").unwrap();
                line
            }
        });
        assert_eq!(ask_at(&path).unwrap()["role"], "primary");
        assert_eq!(engine.join().unwrap(), "{\"get\":\"status\"}\n");
        // Nobody accepts any more: the first are not answered, later ones are refused. The queue is made short, as the
        // system's default takes thousands of connections to fill, which is not the time to be measured.
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let start = Instant::now();
        assert_eq!(ask_at(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
        let waiting: Vec<_> = (0..10).map_while(|_| connect(&path).ok()).collect();
        assert!((1..10).contains(&waiting.len()), "a queue of one holds {}", waiting.len());
        assert_eq!(ask_at(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(start.elapsed() < ANSWER_MAX * 3 / 2);
        std::fs::remove_file(&path).unwrap();
    }
}
