//! The demonstration's rig. However the demonstration ends, the rig goes with it.

use super::child::{Interrupt, Running, output};
use super::say;
use ft_runtime::pair::status::Event;
use serde::Deserialize;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PREFIX: &str = "demo-";
/// `ft` as hosts of a rig have it.
const FT_OF_HOST: &str = "/usr/local/bin/ft";

pub struct Rig {
    ft: PathBuf,
    name: String,
    interrupt: Interrupt,
    down: bool,
}

#[derive(Deserialize)]
pub struct Up {
    pub address: String,
    pub port: u16,
}

#[derive(Deserialize)]
pub struct Fault {
    pub unix_ns: u64,
}

#[derive(Deserialize)]
struct Status {
    hosts: Vec<HostStatus>,
}

#[derive(Deserialize)]
pub struct HostStatus {
    pub host: String,
    pub role: Option<String>,
    pub state: Option<String>,
}

impl Rig {
    /// Returns once the service is protected.
    pub fn up(ft: &Path, interrupt: &Interrupt, service: &[&str]) -> io::Result<(Self, Up)> {
        remove_orphans(ft, interrupt)?;
        let name = format!("{PREFIX}{}", std::process::id());
        let rig = Self { ft: ft.into(), name, interrupt: interrupt.clone(), down: false };
        let up = rig.one_line(rig.ft("up").arg("--").args(service))?;
        Ok((rig, up))
    }

    fn ft(&self, subcommand: &str) -> Command {
        let mut c = Command::new(&self.ft);
        c.args(["rig", subcommand, "--name", &self.name]);
        c
    }

    fn one_line<T: for<'a> Deserialize<'a>>(&self, command: &mut Command) -> io::Result<T> {
        let lines = output(command, &self.interrupt)?;
        let line = lines.first().ok_or_else(|| io::Error::other("ft rig says nothing"))?;
        serde_json::from_str(line).map_err(|e| io::Error::other(format!("ft rig says {line}: {e}")))
    }

    /// Starts something in the clients' network.
    pub fn start_client(&self, program: &Path, arguments: &[String]) -> io::Result<Running> {
        let mut c = self.ft("exec");
        Running::start(c.args(["client", "--"]).arg(program).args(arguments), &self.interrupt)
    }

    pub fn fault(&self, host: &str, kind: &str) -> io::Result<Fault> {
        self.one_line(self.ft("fault").args([host, kind]))
    }

    pub fn hosts(&self) -> io::Result<Vec<HostStatus>> {
        self.one_line::<Status>(self.ft("status").args(["-o", "json"])).map(|s| s.hosts)
    }

    /// All that the engine of a host has noted.
    pub fn events(&self, host: &str) -> io::Result<Vec<Event>> {
        let mut c = self.ft("exec");
        let lines = output(c.args([host, "--", FT_OF_HOST, "events", "-o", "json"]), &self.interrupt)?;
        lines.iter().map(|l| serde_json::from_str(l).map_err(io::Error::other)).collect()
    }

    pub fn down(mut self) -> io::Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> io::Result<()> {
        self.down = true;
        remove(&self.ft, &self.name)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.down {
            return;
        }
        say("taking the rig down");
        if let Err(e) = self.remove() {
            say(&format!("{e}; try again: {} rig down --name {}", self.ft.display(), self.name));
        }
    }
}

/// Not to be interrupted: a second Ctrl-C at the terminal does not reach it.
fn remove(ft: &Path, name: &str) -> io::Result<()> {
    let mut c = Command::new(ft);
    let status = c.args(["rig", "down", "--name", name]).stdin(Stdio::null()).process_group(0).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the rig {name} can't be taken down: {status}"))) }
}

#[derive(Deserialize)]
struct Listed {
    name: String,
}

/// Rigs of demonstrations that were killed.
fn remove_orphans(ft: &Path, interrupt: &Interrupt) -> io::Result<()> {
    let lines = output(Command::new(ft).args(["rig", "list", "-o", "json"]), interrupt)?;
    let rigs: Vec<Listed> = serde_json::from_str(&lines.concat()).map_err(io::Error::other)?;
    for rig in rigs {
        let pid = rig.name.strip_prefix(PREFIX).and_then(|p| p.parse::<u32>().ok());
        if pid.is_some_and(|p| !Path::new(&format!("/proc/{p}")).exists()) {
            say(&format!("removing {}, left by a demonstration that was killed", rig.name));
            remove(ft, &rig.name)?;
        }
    }
    Ok(())
}
