//! The witness's disk: one file with the records of all services, replaced whole.
//!
//! Law: nothing is answered that a crash could take back; a put is on the disk before it is granted.

use super::super::stored::{FORMAT, Stored, other_format, replace_synced};
use super::super::{Ask, Told};
use super::wire::{Refusal, ServiceName};
use crate::failover::record::{Record, compare_and_put};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What one witness keeps; each put writes them all.
pub const SERVICES_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: String, source: io::Error },
    #[error("{path} is in use by another witness: stop it, or give this one a state file of its own")]
    InUse { path: String },
    #[error("{path} can't be used: {}", other_format(*format))]
    Format { path: String, format: u32 },
    #[error(
        "{path} is damaged ({what}); nothing is granted on a guess: restore it, or remove it and start both hosts of each service anew"
    )]
    Damaged { path: String, what: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    format: u32,
    records: BTreeMap<String, Stored>,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

pub struct Store {
    path: PathBuf,
    temporary: PathBuf,
    records: BTreeMap<ServiceName, Record>,
    _lock: Flock<File>,
}

impl Store {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let named = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let shown = path.display().to_string();
        let lock_path = named(".lock");
        let io_at = |what, path: &Path| {
            let path = path.display().to_string();
            move |source| StoreError::Io { what, path, source }
        };
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_at("open", &lock_path))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::InUse { path: shown.clone() })?;
        let records = match fs::read(path) {
            Ok(bytes) => decode(&bytes, &shown)?,
            Err(e) if e.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(io_at("read", path)(e)),
        };
        let store = Self { path: path.to_owned(), temporary: named(".new"), records, _lock: lock };
        // Now, not at the first takeover, is the time to learn that it can't be written.
        store.save(&store.records).map_err(io_at("write", path))?;
        Ok(store)
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn ask(&mut self, service: &ServiceName, ask: &Ask) -> Result<Told, Refusal> {
        let stands = self.records.get(service).copied();
        let Ask::Put { expect, ruling } = *ask else { return Ok(Told::Current(stands)) };
        let record = match compare_and_put(stands, expect, ruling) {
            Ok(record) => record,
            Err(stands) => return Ok(Told::Lost(stands)),
        };
        if stands.is_none() && self.records.len() >= SERVICES_MAX {
            return Err(Refusal::Full);
        }
        let mut records = self.records.clone();
        records.insert(service.clone(), record);
        match self.save(&records) {
            Ok(()) => {
                self.records = records;
                Ok(Told::Granted(record))
            }
            Err(e) => {
                tracing::error!("cannot write {}: {e}", self.path.display());
                Err(Refusal::Disk)
            }
        }
    }

    fn save(&self, records: &BTreeMap<ServiceName, Record>) -> io::Result<()> {
        let records = records.iter().map(|(name, r)| (name.as_str().to_owned(), Stored::from(r))).collect();
        let mut content = serde_json::to_vec_pretty(&StateFile { format: FORMAT, records })
            .expect("records are plain numbers and text");
        content.push(b'\n');
        replace_synced(&self.path, &self.temporary, &content)
    }
}

fn decode(bytes: &[u8], path: &str) -> Result<BTreeMap<ServiceName, Record>, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let FormatOnly { format } = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if format != FORMAT {
        return Err(StoreError::Format { path: path.to_owned(), format });
    }
    let state: StateFile = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    let mut records = BTreeMap::new();
    for (name, stored) in &state.records {
        let name = ServiceName::new(name).map_err(damaged)?;
        records.insert(name, stored.record().map_err(damaged)?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::record::{HostId, Phase, Ruling, Version};
    use ft_log::ids::Term;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ft-witness-store-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn put(expect: u64) -> Ask {
        let ruling = Ruling::alone(Term(expect + 1), HostId(1), Phase::Live);
        Ask::Put { expect: Version(expect), ruling }
    }

    #[test]
    fn a_restart_knows_what_was_granted() {
        let dir = Dir::new("restart");
        let path = dir.0.join("state");
        let name = ServiceName::new("redis").unwrap();
        let mut store = Store::open(&path).unwrap();
        let Ok(Told::Granted(record)) = store.ask(&name, &put(0)) else { panic!("granted") };
        assert!(matches!(Store::open(&path), Err(StoreError::InUse { .. })));
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!(store.ask(&name, &Ask::Read), Ok(Told::Current(Some(record))));
        assert_eq!(store.ask(&name, &put(0)), Ok(Told::Lost(Some(record))), "an older put is void");
        assert_eq!(store.ask(&ServiceName::new("other").unwrap(), &Ask::Read), Ok(Told::Current(None)));
    }

    #[test]
    fn the_number_of_services_is_bounded() {
        let dir = Dir::new("bounded");
        let mut store = Store::open(&dir.0.join("state")).unwrap();
        for k in 0..SERVICES_MAX {
            let name = ServiceName::new(&format!("s{k}")).unwrap();
            let Ask::Put { ruling, .. } = put(0) else { unreachable!() };
            store.records.insert(name, Record { version: Version(1), ruling });
        }
        let name = |s: &str| ServiceName::new(s).unwrap();
        assert_eq!(store.ask(&name("one-more"), &put(0)), Err(Refusal::Full));
        assert!(matches!(store.ask(&name("s0"), &put(1)), Ok(Told::Granted(_))), "known ones go on");
    }

    #[test]
    fn what_was_not_written_here_is_refused_by_name() {
        let dir = Dir::new("foreign");
        let path = dir.0.join("state");
        let why = |content: &str| {
            fs::write(&path, content).unwrap();
            Store::open(&path).err().expect("refused").to_string()
        };
        assert!(why(r#"{"format":3,"more":1}"#).contains("has format 3"));
        let older = r#"{"format":1,"records":{"redis":{"version":1,"term":1,"owner":"1","in_sync":["1","2"],"phase":"live"}}}"#;
        assert!(why(older).contains("has format 1, and this ft knows 2"));
        assert!(why(r#"{"format":2,"records":{"#).contains("is damaged"));
        assert!(why("").contains("is damaged"));
        assert!(
            why(
                r#"{"format":2,"records":{"a b":{"version":1,"term":1,"owner":"1","in_sync":["1"],"phase":"live"}}}"#
            )
            .contains("no name of a service")
        );
    }
}
