//! What a guest is started with, as one host tells the other.

use crate::logfile::{OsText, hex};
use crate::start::Surroundings;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// What the primary's guest is started with; the backup's is started with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartMessage {
    program: OsText,
    argv: Vec<OsText>,
    env: Vec<(OsText, OsText)>,
    cwd: OsText,
    umask: u32,
    seed: u64,
    at_random: String,
    memory_every: u64,
}

fn at_random_bytes(s: &str) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    if s.len() != 32 || !s.is_ascii() {
        return None;
    }
    for (k, b) in out.iter_mut().enumerate() {
        *b = u8::from_str_radix(&s[2 * k..2 * k + 2], 16).ok()?;
    }
    Some(out)
}

impl StartMessage {
    pub fn new(s: &Surroundings) -> Self {
        let text = |o: &OsString| OsText(o.clone());
        Self {
            program: OsText(s.program.clone().into()),
            argv: s.argv.iter().map(text).collect(),
            env: s.env.iter().map(|(n, v)| (text(n), text(v))).collect(),
            cwd: OsText(s.cwd.clone().into()),
            umask: s.umask,
            seed: s.seed,
            at_random: hex(&s.at_random),
            memory_every: s.memory_every,
        }
    }

    pub fn surroundings(self) -> Option<Surroundings> {
        Some(Surroundings {
            program: PathBuf::from(self.program.0),
            argv: self.argv.into_iter().map(|a| a.0).collect(),
            env: self.env.into_iter().map(|(n, v)| (n.0, v.0)).collect(),
            cwd: PathBuf::from(self.cwd.0),
            umask: self.umask,
            seed: self.seed,
            at_random: at_random_bytes(&self.at_random)?,
            memory_every: self.memory_every,
            memory_slices: true,
        })
    }
}
