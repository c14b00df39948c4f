//! `ft rig`: a pair of hosts, a client and a witness on this one machine, to try a server, to test and to measure.
//!
//! Laws: everything a rig makes has a name that follows from the rig's own, so that `down` finds it whatever crashed
//! and however early; a step is written down before it is taken. Processes are known by pid *and* start time, or by
//! the namespace they are in; nothing else is ever killed. No interface of a rig is ever in the machine's own network.

pub mod cli;
mod config;
mod down;
mod exec;
mod faults;
mod flip;
mod freezer;
mod host;
mod keys;
mod netns;
mod network;
mod process;
mod revive;
mod root;
mod slow;
mod state;
mod status;
mod up;

pub use down::down;
pub use exec::exec;
pub use faults::{Fault, fault};
pub use state::list;
pub use status::status;
pub use up::{Mode, Up};

use serde::{Deserialize, Serialize};
use std::io;

/// Why a rig command failed.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    #[error("{what}: {source}{advice}")]
    Io { what: String, source: io::Error, advice: &'static str },
    /// A tool that the rig needs failed.
    #[error("`{command}` failed: {said}")]
    Tool { command: String, said: String },
    /// Asked for what can't be; says what can.
    #[error("{0}")]
    Refused(String),
    /// The service did not come up.
    #[error("{0}")]
    Service(String),
    #[error("interrupted")]
    Interrupted,
}

type Result<T, E = RigError> = std::result::Result<T, E>;

fn io_error<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> RigError {
    with_advice(what, "")
}

fn with_advice<E: Into<io::Error>>(what: impl Into<String>, advice: &'static str) -> impl FnOnce(E) -> RigError {
    let what = what.into();
    move |e| RigError::Io { what, source: e.into(), advice }
}

/// Who stands in a rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    Client,
    Alpha,
    Beta,
    Witness,
}

impl Host {
    pub const ALL: [Self; 4] = [Self::Client, Self::Alpha, Self::Beta, Self::Witness];
    /// The two that run the service.
    pub const PAIR: [Self; 2] = [Self::Alpha, Self::Beta];
    /// Those with processes of their own, in the order of their start.
    const WITH_INIT: [Self; 3] = [Self::Witness, Self::Alpha, Self::Beta];

    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Alpha => "alpha",
            Self::Beta => "beta",
            Self::Witness => "witness",
        }
    }

    fn peer(self) -> Option<Self> {
        match self {
            Self::Alpha => Some(Self::Beta),
            Self::Beta => Some(Self::Alpha),
            _ => None,
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
