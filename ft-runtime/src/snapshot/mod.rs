//! A guest's process as it was at one input point, in a file: what another process can go on from.
//!
//! [`capture`] reads a copy that the guest made of itself (`ft-shim/src/kernel/copy.rs`), [`file`] is how it is kept,
//! [`tree`] has the files that it writes, [`taker`] decides when, [`stream`] is its way to another host; `guest::restore` makes a process of it.
//!
//! Laws: what can't be made again elsewhere is refused when it is captured, not when it is needed; a reader trusts no byte
//! that a checksum didn't cover; a file without its end is not used.

mod capture;
pub mod changes;
pub mod file;
pub mod stream;
pub mod taker;
pub mod tree;

use crate::front::state::FrontState;
use crate::guest::maps::Shown;
use crate::logfile::{LogFileError, OsText};
use ft_log::shared::{SEGMENT_BYTES, SHARED_BASE, SHIM_REGION};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use tree::Tree;

pub(crate) const PAGE: u64 = 4096;
/// Where a process that is being made of a snapshot has its only instructions; no snapshot holds it.
pub(crate) const SCRATCH: u64 = SHIM_REGION.end - PAGE;

/// Why a process can't be captured, or a snapshot not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{what} failed: {source}")]
    System { what: &'static str, source: io::Error },
    /// It has what can't be made again elsewhere.
    #[error("{0}")]
    Unsupported(String),
    #[error(transparent)]
    File(#[from] LogFileError),
}

impl SnapshotError {
    fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::System { what, source: e.into() }
    }
}

/// All of a process but the content of its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its code goes on in the middle of a function: no other build of the shim will do.
    pub shim_sha256: String,
    /// The service's, which differs from one recording to the next.
    pub seed: u64,
    /// The input point at whose start it was copied.
    pub point: u64,
    pub registers: Registers,
    /// Vector and other extended registers, as the kernel's NT_X86_XSTATE has them, hexadecimal.
    pub extended: String,
    pub signal_mask: u64,
    pub brk_start: u64,
    pub brk: u64,
    pub mappings: Vec<Mapping>,
    pub descriptors: Vec<Descriptor>,
    pub standing: Standing,
    /// Its state directories.
    pub trees: Vec<Tree>,
}

/// What a process is to the kernel besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub directory: OsText,
    pub umask: u32,
    /// Real, effective and saved.
    pub users: [u32; 3],
    pub groups: [u32; 3],
    pub more_groups: Vec<u32>,
    pub no_new_privileges: bool,
}

/// What the engine knew when the process was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    pub front: FrontState,
    /// Events that were logged for the service and not applied by it. The front knows of them.
    pub unapplied: u32,
}

/// What a process is made of.
pub struct Source {
    pub reader: file::SnapshotReader,
    /// Its state directories, where they are to be.
    pub files: tree::Making,
}

/// In the order of the kernel's `user_regs_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers(pub [u64; 27]);

impl Registers {
    pub fn of(r: libc::user_regs_struct) -> Self {
        // SAFETY: the structure is 27 words and nothing else.
        Self(unsafe { std::mem::transmute::<libc::user_regs_struct, [u64; 27]>(r) })
    }

    pub fn for_ptrace(self) -> libc::user_regs_struct {
        // SAFETY: as above; any words are registers.
        unsafe { std::mem::transmute::<[u64; 27], libc::user_regs_struct>(self.0) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// PROT_* bits.
    pub protection: u32,
    /// A stack that the kernel extends.
    pub grows_down: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    pub fd: i32,
    pub object: Object,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// The guest's standard output or error, whatever that is on each host.
    Console,
    /// Stands for something that the shim emulates.
    Placeholder { flags: i32 },
    /// A file or directory. Where it stands in it, the shim knows.
    File { path: OsText, flags: i32 },
    /// The same open file as this descriptor's.
    Same { fd: i32, flags: i32 },
}

impl Object {
    /// O_CLOEXEC, if the descriptor has it, and the flags of what is open.
    pub fn flags(&self) -> i32 {
        match *self {
            Self::Console => 0,
            Self::Placeholder { flags } | Self::File { flags, .. } | Self::Same { flags, .. } => flags,
        }
    }
}

/// Whether a mapping belongs to the process: not to the kernel, the engine, or the making of it.
pub(crate) fn is_of_process(m: &Shown) -> bool {
    let is_segment = (m.start, m.end) == (SHARED_BASE, SHARED_BASE + SEGMENT_BYTES as u64);
    !is_segment && m.start != SCRATCH && !m.is_kernels()
}

/// Of the shim in this program.
pub fn shim_sha256() -> String {
    crate::logfile::hex(&Sha256::digest(crate::guest::EMBEDDED_SHIM))
}

/// Gives what of `bytes`, which lie at `at`, is not zero, by pages.
fn give_what_is_not_zero<E>(
    at: u64,
    bytes: &[u8],
    give: &mut (impl FnMut(u64, &[u8]) -> Result<(), E> + ?Sized),
) -> Result<(), E> {
    let page = PAGE as usize;
    let mut begin: Option<usize> = None;
    for (k, content) in bytes.chunks(page).enumerate() {
        match (content.iter().all(|b| *b == 0), begin) {
            (false, None) => begin = Some(k * page),
            (true, Some(b)) => {
                give(at + b as u64, &bytes[b..k * page])?;
                begin = None;
            }
            _ => {}
        }
    }
    match begin {
        Some(b) => give(at + b as u64, &bytes[b..]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_left_out() {
        let page = PAGE as usize;
        let mut bytes = vec![0; 5 * page + 3];
        (bytes[page], bytes[3 * page - 1], bytes[5 * page]) = (1, 1, 1);
        let mut given = Vec::new();
        give_what_is_not_zero(0x1000, &bytes, &mut |at, b: &[u8]| {
            given.push((at, b.len()));
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(given, [(0x2000, 2 * page), (0x6000, 3)]);
    }
}
