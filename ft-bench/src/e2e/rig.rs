//! `ft rig` as a user types it.

use super::child::{Child, Stop};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const UP_MAX: Duration = Duration::from_secs(120);
const DOWN_MAX: Duration = Duration::from_secs(60);
const FAULT_MAX: Duration = Duration::from_secs(30);

/// The `ft` under test.
#[derive(Clone)]
pub struct Ft {
    pub program: PathBuf,
    pub stop: Stop,
}

/// What `ft rig up` prints.
#[derive(Debug, Deserialize)]
pub struct Up {
    pub address: String,
    pub pids: BTreeMap<String, Pids>,
    pub controls: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Deserialize)]
pub struct Pids {
    pub init: i32,
    pub engine: Option<i32>,
    pub guest: Option<i32>,
}

/// A rig; it is taken down with this.
pub struct Rig {
    ft: Ft,
    name: String,
    pub up: Up,
}

impl Rig {
    pub fn up(ft: &Ft, name: &str, options: &[&str], command: &[String]) -> io::Result<Self> {
        let mut c = Command::new(&ft.program);
        c.args(["rig", "up", "--name", name]).args(options).arg("--").args(command);
        let out = Child::start("ft rig up", &mut c)?.finish(&ft.stop, UP_MAX)?;
        let unreadable = |e| io::Error::other(format!("what ft rig up printed can't be read: {e}: {out}"));
        let taken_down = |e| {
            down(ft, name);
            unreadable(e)
        };
        let up = serde_json::from_str(&out).map_err(taken_down)?;
        Ok(Self { ft: ft.clone(), name: name.into(), up })
    }

    /// Starts a program on a host.
    pub fn start(&self, host: &str, name: &str, command: &[String]) -> io::Result<Child> {
        let mut c = Command::new(&self.ft.program);
        c.args(["rig", "exec", "--name", &self.name, host, "--"]).args(command);
        Child::start(name, &mut c)
    }

    pub fn fault(&self, host: &str, kind: &str) -> io::Result<()> {
        let mut c = Command::new(&self.ft.program);
        c.args(["rig", "fault", "--name", &self.name, host, kind]);
        Child::start("ft rig fault", &mut c)?.finish(&self.ft.stop, FAULT_MAX).map(drop)
    }

    pub fn pids(&self, host: &str) -> io::Result<&Pids> {
        self.up.pids.get(host).ok_or_else(|| io::Error::other(format!("ft rig up said nothing of {host}")))
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
    let ended = Child::start("ft rig down", &mut c).and_then(|c| c.finish(&Stop::never(), DOWN_MAX));
    if let Err(e) = ended {
        eprintln!("ft-bench: {e}\nft-bench: to remove what is left: ft rig down --name {name}");
    }
}
