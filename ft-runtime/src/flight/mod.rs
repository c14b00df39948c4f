//! The flight recorder: a recording of the last minutes of a server that runs for months, as a ring of files in a directory.
//!
//! The log is cut wherever the guest was copied (decisions/0019): `log.POINT` is what it did from that input point on,
//! `snapshot.POINT` is the guest as it was there, with its state directories. `log.0` begins with the guest. A replay may begin
//! at each snapshot, and goes through all files from there on. Decisions: 0023. Format: docs/PROTOCOL.md, "Ring".
//!
//! Laws: no file is deleted before a later snapshot and the log from it on are on the disk; a log whose snapshot failed is
//! the rest of the one before. A disk that fails ends the recording until the next snapshot, never the server.

mod keeper;
mod outdated;
pub mod recorder;
pub mod ring;

pub use keeper::Keeper;

use std::path::{Path, PathBuf};

const LOG: &str = "log";
const SNAPSHOT: &str = "snapshot";

fn log_path(dir: &Path, point: u64) -> PathBuf {
    dir.join(format!("{LOG}.{point}"))
}

pub(crate) fn snapshot_path(dir: &Path, point: u64) -> PathBuf {
    dir.join(format!("{SNAPSHOT}.{point}"))
}

/// What the names of snapshots begin with: `.POINT` follows.
pub fn snapshot_prefix(dir: &Path) -> PathBuf {
    dir.join(SNAPSHOT)
}
