//! What is compared, each alone in a rig of its own while it is measured.

use super::plan::{Asks, Point, System};
use crate::load::Report;
use crate::rig::child::{Child, Words};
use crate::rig::{BACKUP, Fault, Ft, IN_MEMORY, PRIMARY, Rig, redis};
use ft_runtime::pair::status::{Request, client};
use std::io;
use std::time::Duration;

/// Where alpha is on the network of the pair: the replica comes over it, as the backup does.
const LINK_ADDRESS: &str = "192.168.77.1";
const LINK: &str = "link0";
/// For the first keys, and replicas that copy them.
const FILL_MAX: Duration = Duration::from_secs(60);
/// For a load, beyond its own time.
const LOAD_EXTRA_MAX: Duration = Duration::from_secs(30);

/// Under which names processes are charged.
pub const SERVER: &str = "server";
pub const ENGINE: &str = "engine";
pub const BACKUP_SERVER: &str = "backup_server";
pub const BACKUP_ENGINE: &str = "backup_engine";
pub const ROLES: [&str; 4] = [SERVER, ENGINE, BACKUP_SERVER, BACKUP_ENGINE];

/// A system that serves, with its keys set.
pub struct Running {
    // Before the rig: it ends first.
    _replica: Option<Child>,
    rig: Rig,
    system: System,
    ft: Ft,
    watched: Vec<(&'static str, i32)>,
}

impl Running {
    pub fn start(system: System, ft: &Ft) -> io::Result<Self> {
        Self::start_with(system, ft, "", &[])
    }

    /// `config`: the service's; `more`: options of redis.
    pub fn start_with(system: System, ft: &Ft, config: &str, more: &[&str]) -> io::Result<Self> {
        let own = [&IN_MEMORY[..], more].concat();
        let options: &[&str] = if system == System::Protected { &[] } else { &["--native"] };
        let rig = Rig::up(ft, options, config, &redis(&own), Words::Kept)?;
        let (mut replica, mut watched) = (None, Vec::new());
        let mut watch = |role, pid: Option<i32>| watched.extend(pid.map(|p| (role, p)));
        watch(SERVER, rig.pids(PRIMARY)?.guest);
        watch(ENGINE, rig.pids(PRIMARY)?.engine);
        match system {
            System::Native => {}
            System::Protected => {
                watch(BACKUP_SERVER, rig.pids(BACKUP)?.guest);
                watch(BACKUP_ENGINE, rig.pids(BACKUP)?.engine);
            }
            System::Replica => {
                let port = rig.service().port().to_string();
                let master = ["--replicaof", LINK_ADDRESS, &port];
                let command = redis(&[&own[..], &master].concat());
                replica = Some(rig.start(BACKUP, "the replica", &command, Words::Kept)?);
            }
        }
        let mut running = Self { _replica: replica, rig, system, ft: ft.clone(), watched };
        let fill = running.client(&["--fill"])?;
        fill.finish(FILL_MAX)?;
        if let Some(r) = &running._replica {
            running.watched.push((BACKUP_SERVER, only_child(r.pid())?));
        }
        Ok(running)
    }

    /// The load generator in the client's network.
    fn client(&self, options: &[&str]) -> io::Result<Child> {
        let mut arguments = vec!["load".into(), self.rig.service().to_string()];
        if self.system == System::Replica {
            arguments.extend(["--replicas".into(), "1".into()]);
        }
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        self.rig.start_client(&arguments, Words::Kept)
    }

    /// What the load generator is told of a point.
    fn options(point: &Point, warm_up: Duration, window: Duration) -> Vec<String> {
        let numbers = [
            ("--connections", point.connections.to_string()),
            match point.asks {
                Asks::Sets(percent) => ("--sets", percent.to_string()),
                Asks::Held(ms) => ("--held", ms.to_string()),
            },
            ("--seconds", window.as_secs_f64().to_string()),
            ("--warm-up", warm_up.as_secs_f64().to_string()),
        ];
        let rate = point.rate.map(|r| ("--rate", r.to_string()));
        numbers.into_iter().chain(rate).flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    /// Where to look for what it costs.
    fn meters(&self) -> io::Result<Vec<String>> {
        let mut options = Vec::new();
        for (role, pid) in &self.watched {
            options.extend(["--watch".into(), format!("{role}={pid}")]);
        }
        if self.system != System::Native {
            options.extend(["--link".into(), format!("{}:{LINK}", self.rig.pids(PRIMARY)?.init)]);
        }
        if let Some(socket) = self.rig.control(PRIMARY) {
            options.extend(["--engine".into(), socket.display().to_string()]);
        }
        Ok(options)
    }

    fn start_load(&self, options: &[String]) -> io::Result<Child> {
        self.client(&options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn finish_load(load: Child, time: Duration) -> io::Result<Report> {
        let line = load.finish(time + LOAD_EXTRA_MAX)?.concat();
        serde_json::from_str(&line).map_err(|e| io::Error::other(format!("what ft-bench load printed: {e}: {line}")))
    }

    pub fn measure(&self, point: &Point, warm_up: Duration, window: Duration) -> io::Result<Report> {
        let options = [Self::options(point, warm_up, window), self.meters()?].concat();
        Self::finish_load(self.start_load(&options)?, warm_up + window)
    }

    /// Loads under which something happens to the primary, `after` the last of them began. Nothing is metered: a host that
    /// died can't be asked.
    pub fn measure_fault(
        &self,
        points: &[Point],
        kind: &str,
        (warm_up, after, window): (Duration, Duration, Duration),
    ) -> io::Result<(Fault, Vec<Report>)> {
        let start = |p: &Point| self.start_load(&[Self::options(p, warm_up, window), vec!["--outage".into()]].concat());
        let loads = points.iter().map(start).collect::<io::Result<Vec<_>>>()?;
        self.ft.stop.sleep(warm_up + after)?;
        let fault = self.rig.fault(PRIMARY, kind)?;
        let reports = loads.into_iter().map(|l| Self::finish_load(l, warm_up + window));
        Ok((fault, reports.collect::<io::Result<_>>()?))
    }

    /// Is it still what was started? A pair may have broken under the load.
    pub fn check(&self) -> Result<(), String> {
        let Some(control) = self.rig.control(PRIMARY) else { return Ok(()) };
        let line = client::ask_line(control, Request::Status).unwrap_or_else(|e| e.to_string());
        let now: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if now["role"] == "primary" && now["state"] == "protected" {
            return Ok(());
        }
        Err(format!("no longer protected: {}; {}", line.trim_end(), self.rig.last_events()))
    }

    pub fn rig(&self) -> &Rig {
        &self.rig
    }
}

/// `ft rig exec` has one child: the command.
fn only_child(pid: i32) -> io::Result<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path)?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{path}: {text:?} is not one process")))
}
