//! A record as it lies on disks: one shape for the file arbiter and for the witness's state.

use super::super::record::{HostId, Members, Phase, Record, Ruling, Version};
use ft_log::ids::Term;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    version: u64,
    term: u64,
    /// Host ids in hexadecimal.
    owner: String,
    in_sync: Vec<String>,
    phase: StoredPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredPhase {
    Claim,
    Live,
}

impl From<&Record> for Stored {
    fn from(r: &Record) -> Self {
        Self {
            version: r.version.0,
            term: r.ruling.term.0,
            owner: r.ruling.owner.to_string(),
            in_sync: r.ruling.in_sync.iter().map(|h| h.to_string()).collect(),
            phase: match r.ruling.phase {
                Phase::Claim => StoredPhase::Claim,
                Phase::Live => StoredPhase::Live,
            },
        }
    }
}

impl Stored {
    /// What makes no sound record is told by what is wrong with it.
    pub fn record(&self) -> Result<Record, String> {
        let host = |s: &String| u64::from_str_radix(s, 16).map(HostId).map_err(|_| format!("{s:?} is no host id"));
        let members: Vec<_> = self.in_sync.iter().map(host).collect::<Result<_, _>>()?;
        let in_sync = match members[..] {
            [one] => Members::only(one),
            [a, b] if a != b => Members::both(a, b),
            _ => return Err(format!("a set of {} hosts", members.len())),
        };
        let phase = match self.phase {
            StoredPhase::Claim => Phase::Claim,
            StoredPhase::Live => Phase::Live,
        };
        let ruling = Ruling { term: Term(self.term), owner: host(&self.owner)?, in_sync, phase };
        if self.version == 0 || !ruling.is_sound() {
            return Err(format!("unsound: {self:?}"));
        }
        Ok(Record { version: Version(self.version), ruling })
    }
}

/// Writes a new file whose content is on the disk when this returns. Its name may not be: see [`sync_directory`].
///
/// A file that has the name already is unlinked, not written to: a process that died may have left it with a second
/// name, under which it is a record.
pub fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes names in the directory of `path` as durable as what they name.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Puts `content` at `path`, whole or not at all, and on the disk when this returns.
pub fn replace_synced(path: &Path, temporary: &Path, content: &[u8]) -> io::Result<()> {
    write_synced(temporary, content)?;
    fs::rename(temporary, path)?;
    sync_directory(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        for in_sync in [Members::only(HostId(0xab)), Members::both(HostId(0xab), HostId(u64::MAX))] {
            for phase in [Phase::Claim, Phase::Live] {
                let ruling = Ruling { term: Term(7), owner: HostId(0xab), in_sync, phase };
                let record = Record { version: Version(9), ruling };
                let text = serde_json::to_string(&Stored::from(&record)).unwrap();
                assert_eq!(serde_json::from_str::<Stored>(&text).unwrap().record(), Ok(record), "{text}");
            }
        }
    }

    #[test]
    fn an_unsound_record_is_refused() {
        let bad = [
            r#"{"version":0,"term":1,"owner":"1","in_sync":["1"],"phase":"live"}"#,
            r#"{"version":1,"term":0,"owner":"1","in_sync":["1"],"phase":"live"}"#,
            r#"{"version":1,"term":1,"owner":"2","in_sync":["1"],"phase":"live"}"#,
            r#"{"version":1,"term":1,"owner":"1","in_sync":["1","1"],"phase":"live"}"#,
            r#"{"version":1,"term":1,"owner":"1","in_sync":[],"phase":"live"}"#,
            r#"{"version":1,"term":1,"owner":"x","in_sync":["1"],"phase":"live"}"#,
        ];
        for text in bad {
            assert!(serde_json::from_str::<Stored>(text).unwrap().record().is_err(), "{text}");
        }
    }
}
