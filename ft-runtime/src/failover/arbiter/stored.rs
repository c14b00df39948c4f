//! A record as it lies on disks and in etcd: one shape for all arbiters that keep it as JSON.

use super::super::record::{HostId, Members, Phase, Record, Ruling, Version};
use ft_log::ids::Term;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Grows with every change of the shape. Format 1 had one or two hosts, and its single records didn't say so.
pub const FORMAT: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    version: u64,
    term: u64,
    owner: HostId,
    /// 1 to `MEMBERS_MAX`, ascending.
    in_sync: Members,
    phase: StoredPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredPhase {
    Claim,
    Live,
}

/// A record that lies by itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Single {
    format: u32,
    record: Stored,
}

#[derive(Deserialize)]
struct FormatOnly {
    #[serde(default = "first_format")]
    format: u32,
}

fn first_format() -> u32 {
    1
}

/// A record by itself, as JSON.
pub fn encode(r: &Record) -> Vec<u8> {
    serde_json::to_vec(&Single { format: FORMAT, record: r.into() }).expect("a record is plain numbers and text")
}

/// What is no sound record of this format is told by what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Record, String> {
    let FormatOnly { format } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if format != FORMAT {
        return Err(other_format(format));
    }
    serde_json::from_slice::<Single>(bytes).map_err(|e| e.to_string())?.record.record()
}

/// What there is to do about what another ft has written.
pub fn other_format(format: u32) -> String {
    format!(
        "it has format {format}, and this ft knows {FORMAT}: run the ft that wrote it, or stop all hosts that it is about, remove it, \
         and start them with this one"
    )
}

impl From<&Record> for Stored {
    fn from(r: &Record) -> Self {
        Self {
            version: r.version.0,
            term: r.ruling.term.0,
            owner: r.ruling.owner,
            in_sync: r.ruling.in_sync,
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
        let phase = match self.phase {
            StoredPhase::Claim => Phase::Claim,
            StoredPhase::Live => Phase::Live,
        };
        let ruling = Ruling { term: Term(self.term), owner: self.owner, in_sync: self.in_sync, phase };
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
    use crate::failover::record::tests::any_ruling;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(version in 1..=u64::MAX, ruling in any_ruling()) {
            let record = Record { version: Version(version), ruling };
            prop_assert_eq!(decode(&encode(&record)), Ok(record));
        }

        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    fn single(record: &str) -> Result<Record, String> {
        decode(format!(r#"{{"format":2,"record":{record}}}"#).as_bytes())
    }

    #[test]
    fn the_shape_is_the_documented_one() {
        let ruling = Ruling {
            term: Term(7),
            owner: HostId(0xab),
            in_sync: Members::from_sorted(&[HostId(3), HostId(0xab), HostId(u64::MAX)]).unwrap(),
            phase: Phase::Live,
        };
        let text = r#"{"version":9,"term":7,"owner":"ab","in_sync":["3","ab","ffffffffffffffff"],"phase":"live"}"#;
        assert_eq!(single(text), Ok(Record { version: Version(9), ruling }));
    }

    #[test]
    fn an_unsound_record_is_refused() {
        let bad = [
            (r#"{"version":0,"term":1,"owner":"1","in_sync":["1"],"phase":"live"}"#, "unsound"),
            (r#"{"version":1,"term":0,"owner":"1","in_sync":["1"],"phase":"live"}"#, "unsound"),
            (r#"{"version":1,"term":1,"owner":"2","in_sync":["1"],"phase":"live"}"#, "unsound"),
            (r#"{"version":1,"term":1,"owner":"1","in_sync":["1","1"],"phase":"live"}"#, "host 1 is named twice"),
            (r#"{"version":1,"term":1,"owner":"1","in_sync":["2","1"],"phase":"live"}"#, "higher id"),
            (r#"{"version":1,"term":1,"owner":"1","in_sync":[],"phase":"live"}"#, "a set of 0 hosts"),
            (
                r#"{"version":1,"term":1,"owner":"1","in_sync":["1","2","3","4","5","6","7","8"],"phase":"live"}"#,
                "a set of 8 hosts",
            ),
            (r#"{"version":1,"term":1,"owner":"x","in_sync":["1"],"phase":"live"}"#, "no host id"),
        ];
        for (text, why) in bad {
            let e = single(text).unwrap_err();
            assert!(e.contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let first = br#"{"version":1,"term":1,"owner":"1","in_sync":["1"],"phase":"live"}"#;
        let e = decode(first).unwrap_err();
        assert!(e.contains("it has format 1, and this ft knows 2"), "{e}");
        assert!(decode(br#"{"format":3}"#).unwrap_err().contains("it has format 3"));
    }
}
