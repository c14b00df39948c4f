//! `ft rig` as a user types it: two hosts, a client and a witness, with a server on them. A rig goes with its value,
//! however this program ends but by SIGKILL; what that leaves is removed by the next one.

pub mod child;

use child::{Child, Stop, Words};
use ft_runtime::pair::status::{Event, Request, client};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UP_MAX: Duration = Duration::from_secs(120);
const DOWN_MAX: Duration = Duration::from_secs(60);
const ASK_MAX: Duration = Duration::from_secs(30);
/// Of the names of rigs; our pid follows.
const PREFIX: &str = "bench-";
const PORT: u16 = 6379;
/// Who serves first, and who follows.
pub const PRIMARY: &str = "alpha";
pub const BACKUP: &str = "beta";

/// The `ft` under test.
#[derive(Clone)]
pub struct Ft {
    pub program: PathBuf,
    pub stop: Stop,
}

/// A redis-server in a rig; `more` are options of its own.
pub fn redis(more: &[&str]) -> Vec<String> {
    let port = PORT.to_string();
    let common = ["redis-server", "--port", &port, "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/var/lib/redis"];
    common.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

/// Redis that writes every command to its disk, as a service would.
pub const ON_DISK: [&str; 2] = ["--appendonly", "yes"];
/// Redis without files.
pub const IN_MEMORY: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// What `ft rig up` prints.
#[derive(Debug, Deserialize)]
pub struct Up {
    address: IpAddr,
    address6: Option<IpAddr>,
    pub namespaces: BTreeMap<String, String>,
    pub pids: BTreeMap<String, Pids>,
    pub logs: BTreeMap<String, PathBuf>,
    pub controls: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Deserialize)]
pub struct Pids {
    pub init: i32,
    pub engine: Option<i32>,
    pub guest: Option<i32>,
}

/// A configuration: clients need not repeat what they say in an outage.
pub const TAPPED: &str = "[service]\ntap = true\n";

/// What `ft rig fault` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct Fault {
    pub unix_ns: u64,
}

impl Fault {
    /// Microseconds since 1970.
    pub fn at_us(&self) -> u64 {
        self.unix_ns / 1000
    }
}

#[derive(Deserialize)]
struct Status {
    hosts: Vec<HostStatus>,
}

/// A host as `ft rig status` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct HostStatus {
    pub host: String,
    pub role: Option<String>,
    pub term: Option<u64>,
    pub state: Option<String>,
}

impl HostStatus {
    pub fn is_primary(&self) -> bool {
        self.role.as_deref() == Some("primary")
    }
}

/// A rig; it is taken down with this.
pub struct Rig {
    ft: Ft,
    name: String,
    pub up: Up,
}

impl Rig {
    /// Returns once the service serves; protected, unless the options say otherwise. `config`: the text of the service's
    /// configuration.
    pub fn up(ft: &Ft, options: &[&str], config: &str, command: &[String], words: Words) -> io::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut c = Command::new(&ft.program);
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(config.as_bytes())?;
        c.args(["rig", "up", "--name", &name, "--config"]).arg(file.path());
        c.args(options).arg("--").args(command);
        let out = Child::start("ft rig up", &mut c, words, &ft.stop)?.finish(UP_MAX)?.concat();
        let up = serde_json::from_str(&out).map_err(|e| {
            down(ft, &name);
            io::Error::other(format!("what ft rig up printed can't be read: {e}: {out}"))
        })?;
        Ok(Self { ft: ft.clone(), name, up })
    }

    /// Where clients find the service.
    pub fn service(&self) -> SocketAddr {
        SocketAddr::new(self.up.address, PORT)
    }

    /// The service's own addresses, whoever has them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        [Some(self.up.address), self.up.address6].into_iter().flatten().collect()
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut c = Command::new(&self.ft.program);
        c.args(["rig", subcommand, "--name", &self.name]);
        c
    }

    fn ask<T: for<'a> Deserialize<'a>>(&self, name: &str, command: &mut Command) -> io::Result<T> {
        let out = Child::start(name, command, Words::Kept, &self.ft.stop)?.finish(ASK_MAX)?.concat();
        serde_json::from_str(&out).map_err(|e| io::Error::other(format!("{name} says {out}: {e}")))
    }

    /// Starts a program on a host.
    pub fn start(&self, host: &str, name: &str, command: &[String], words: Words) -> io::Result<Child> {
        let mut c = self.command("exec");
        Child::start(name, c.args([host, "--"]).args(command), words, &self.ft.stop)
    }

    /// Starts this program in the clients' network.
    pub fn start_client(&self, arguments: &[String], words: Words) -> io::Result<Child> {
        let program = std::env::current_exe()?.into_os_string().into_string();
        let program = program.map_err(|p| io::Error::other(format!("{} is no UTF-8", p.display())))?;
        let name = format!("ft-bench {}", arguments.first().map_or("", String::as_str));
        self.start("client", &name, &[&[program], arguments].concat(), words)
    }

    /// `kind`: with its options.
    pub fn fault(&self, host: &str, kind: &str) -> io::Result<Fault> {
        self.ask("ft rig fault", self.command("fault").arg(host).args(kind.split(' ')))
    }

    /// A person's word to the engine of a host, as it is typed after `ft`; returns once it is carried out.
    pub fn order(&self, host: &str, words: &str) -> io::Result<Fault> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let socket = self.control(host).ok_or_else(|| io::Error::other(format!("{host} has no control socket")))?;
        let mut c = Command::new(&self.ft.program);
        let o = c.args(words.split(' ')).arg("--socket").arg(socket).stdin(Stdio::null()).output()?;
        let said = || io::Error::other(format!("ft {words} on {host}: {}", String::from_utf8_lossy(&o.stderr).trim()));
        if o.status.success() { Ok(Fault { unix_ns: at.as_nanos() as u64 }) } else { Err(said()) }
    }

    /// A fault as in [`Self::fault`]; or, after `ft `, a person's word.
    pub fn happen(&self, host: &str, what: &str) -> io::Result<Fault> {
        match what.strip_prefix("ft ") {
            Some(words) => self.order(host, words),
            None => self.fault(host, what),
        }
    }

    pub fn hosts(&self) -> io::Result<Vec<HostStatus>> {
        self.ask::<Status>("ft rig status", self.command("status").args(["-o", "json"])).map(|s| s.hosts)
    }

    pub fn host(&self, name: &str) -> io::Result<HostStatus> {
        let found = self.hosts()?.into_iter().find(|h| h.host == name);
        found.ok_or_else(|| io::Error::other(format!("ft rig status says nothing of {name}")))
    }

    pub fn pids(&self, host: &str) -> io::Result<&Pids> {
        self.up.pids.get(host).ok_or_else(|| io::Error::other(format!("ft rig up said nothing of {host}")))
    }

    pub fn control(&self, host: &str) -> Option<&Path> {
        self.up.controls.get(host).map(PathBuf::as_path)
    }

    /// All that the engine of a host has noted; nothing if it has none that answers.
    pub fn events(&self, host: &str) -> Vec<Event> {
        let asked = self.control(host).and_then(|c| client::ask(c, Request::Events { after: 0, follow: false }).ok());
        let lines = asked.into_iter().flatten().map_while(Result::ok);
        lines.filter_map(|l| serde_json::from_str(&l).ok()).collect()
    }

    /// What the engines that live said last: for explaining a failure.
    pub fn last_events(&self) -> String {
        const EACH: usize = 12;
        let of_host = |host: &String| {
            let all = self.events(host);
            let last = all[all.len().saturating_sub(EACH)..].iter().map(|e| format!("{} {}", e.at_us, e.event));
            format!("{host}: {}", last.collect::<Vec<_>>().join(" / "))
        };
        self.up.controls.keys().map(of_host).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        down(&self.ft, &self.name);
    }
}

/// Also after Ctrl-C: this is not interrupted.
fn down(ft: &Ft, name: &str) {
    let mut c = Command::new(&ft.program);
    c.args(["rig", "down", "--name", name]);
    let ended = Child::start("ft rig down", &mut c, Words::Kept, &Stop::never()).and_then(|c| c.finish(DOWN_MAX));
    if let Err(e) = ended {
        eprintln!("ft-bench: {e}\nft-bench: to remove what is left: ft rig down --name {name}");
    }
}

#[derive(Deserialize)]
struct Listed {
    name: String,
}

/// Rigs of programs like this that were killed.
pub fn remove_orphans(ft: &Ft) -> io::Result<()> {
    let mut c = Command::new(&ft.program);
    let out = Child::start("ft rig list", c.args(["rig", "list", "-o", "json"]), Words::Kept, &ft.stop)?.finish(ASK_MAX)?;
    let rigs: Vec<Listed> = serde_json::from_str(&out.concat()).map_err(io::Error::other)?;
    let orphan = |r: &Listed| {
        let pid = r.name.strip_prefix(PREFIX).and_then(|p| p.split('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|p| !Path::new(&format!("/proc/{p}")).exists())
    };
    for rig in rigs.iter().filter(|r| orphan(r)) {
        eprintln!("ft-bench: removing the rig {}, left by a run that was killed", rig.name);
        down(ft, &rig.name);
    }
    Ok(())
}
