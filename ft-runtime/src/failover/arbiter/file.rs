//! The arbiter as files on storage that both hosts see (NFSv4, GFS2, OCFS2, a shared disk's file system).
//!
//! Version N of the record is the file `NAME.vN`, made by linking a file that lies whole on the disk to that name:
//! `link(2)` fails if the name is there, on every file system, and that is the compare-and-put. The record is the
//! highest version there is. A lock would do on a good day, but a host that is frozen while it holds one stops the
//! other from taking over, and one whose lock the server has given away overwrites what came after.
//!
//! Old versions are removed. So a host that was frozen before its link may make a version that was there before: it
//! looks for higher ones afterwards, and takes its own back if there are any.
//!
//! A host that stood still between its link and that look finds higher versions too where the other host built on its
//! version meanwhile. It can't tell the two cases apart, and need not: what it made is not the record any more.

use super::stored::{self, directory, sync_directory, write_synced};
use super::{Ask, Keeper, KeeperError, Told};
use crate::failover::record::{HostId, Record, Version, compare_and_put};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Versions kept below the highest: a reader that has listed them may still open one.
const KEPT: u64 = 8;
/// Times a reader lists again because what it had found was removed meanwhile.
const ROUNDS_MAX: usize = 16;

/// No record is longer.
const RECORD_BYTES: usize = 512;

pub struct FileArbiter {
    /// Without the suffix of a version.
    name: PathBuf,
    temporary: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} can't be used: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} changes faster than it can be read", path.display())]
    Restless { path: PathBuf },
}

impl FileArbiter {
    /// `name`: the same on both hosts, one per service. `me` tells this host's temporary files from the other's.
    pub fn new(name: impl Into<PathBuf>, me: HostId) -> Self {
        let name = name.into();
        let temporary = with_suffix(&name, &format!(".new.{me}.{}", std::process::id()));
        Self { name, temporary }
    }

    fn path_of(&self, version: Version) -> PathBuf {
        with_suffix(&self.name, &format!(".v{}", version.0))
    }

    fn failed(path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError::Io { path: path.to_owned(), source }
    }

    /// All versions there are, in no order.
    fn versions(&self) -> Result<Vec<Version>, FileError> {
        let dir = directory(&self.name);
        let mut prefix = self.name.file_name().map(OsString::from).unwrap_or_default();
        prefix.push(".v");
        let prefix = prefix.to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(Self::failed(dir))? {
            let entry = entry.map_err(Self::failed(dir))?;
            if let Some(number) = entry.file_name().to_string_lossy().strip_prefix(&prefix) {
                found.extend(number.parse().ok().map(Version));
            }
        }
        Ok(found)
    }

    fn read(&self) -> Result<Option<Record>, FileError> {
        for _ in 0..ROUNDS_MAX {
            let Some(version) = self.versions()?.into_iter().max() else { return Ok(None) };
            let path = self.path_of(version);
            match fs::read(&path) {
                Ok(bytes) => {
                    let damaged = |what| FileError::Damaged { path: path.clone(), what };
                    let record = stored::decode(&bytes).map_err(damaged)?;
                    if record.version != version {
                        return Err(damaged(format!("it says version {}", record.version.0)));
                    }
                    return Ok(Some(record));
                }
                // Removed since it was listed: there is a higher one.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(FileError::Io { path, source }),
            }
        }
        Err(FileError::Restless { path: self.name.clone() })
    }

    fn put(&self, ask: &Ask) -> Result<Told, FileError> {
        let Ask::Put { expect, ruling } = *ask else { return Ok(Told::Current(self.read()?)) };
        let record = match compare_and_put(self.read()?, expect, ruling) {
            Ok(record) => record,
            Err(stands) => return Ok(Told::Lost(stands)),
        };
        // Else the other host was faster; or the server has made it and its answer was lost. What stands will tell.
        if self.link(&record)? { self.settle(record) } else { Ok(Told::Lost(self.read()?)) }
    }

    /// Makes the file of `record`. `false`: there is one.
    fn link(&self, record: &Record) -> Result<bool, FileError> {
        let content = stored::encode(record);
        assert!(content.len() <= RECORD_BYTES, "a record of {} bytes", content.len());
        write_synced(&self.temporary, &content).map_err(Self::failed(&self.temporary))?;
        let path = self.path_of(record.version);
        let linked = fs::hard_link(&self.temporary, &path);
        let _ = fs::remove_file(&self.temporary);
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(FileError::Io { path, source }),
        }
    }

    /// Tells whether `record`, which this host has just linked, is what stands; takes it back if it is not.
    fn settle(&self, record: Record) -> Result<Told, FileError> {
        let path = self.path_of(record.version);
        let versions = self.versions()?;
        if versions.iter().any(|v| *v > record.version) {
            let _ = fs::remove_file(&path);
            return Ok(Told::Lost(self.read()?));
        }
        sync_directory(&path).map_err(Self::failed(&path))?;
        for old in versions.into_iter().filter(|v| v.0 + KEPT < record.version.0) {
            let _ = fs::remove_file(self.path_of(old));
        }
        Ok(Told::Granted(record))
    }

    /// Makes this host's view of the directory fresh: what a network file system has cached of it is void once this
    /// host has changed it. It writes as much as a record has, so that a full disk is found before there is something to decide.
    fn refresh(&self) -> Result<(), FileError> {
        write_synced(&self.temporary, &[b' '; RECORD_BYTES]).map_err(Self::failed(&self.temporary))?;
        fs::remove_file(&self.temporary).map_err(Self::failed(&self.temporary))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Keeper for FileArbiter {
    fn ask(&mut self, ask: &Ask, _: Instant) -> Result<Told, KeeperError> {
        self.refresh().map_err(|e| KeeperError::Unreachable(e.to_string()))?;
        self.put(ask).map_err(|e| KeeperError::Unknown(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::record::{MEMBERS_MAX, Members, Phase, Ruling};
    use ft_log::ids::Term;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ft-file-arbiter-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn arbiter(&self, host: u64) -> FileArbiter {
            FileArbiter::new(self.0.join("redis"), HostId(host))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ask(arbiter: &mut FileArbiter, ask: Ask) -> Told {
        arbiter.ask(&ask, Instant::now() + Duration::from_secs(5)).unwrap()
    }

    fn claim(term: u64, host: u64) -> Ruling {
        Ruling::alone(Term(term), HostId(host), Phase::Claim)
    }

    fn put(expect: u64, ruling: Ruling) -> Ask {
        Ask::Put { expect: Version(expect), ruling }
    }

    #[test]
    fn one_of_two_puts_takes_effect() {
        let dir = Dir::new("one-of-two");
        let (mut a, mut b) = (dir.arbiter(1), dir.arbiter(2));
        assert_eq!(ask(&mut a, Ask::Read), Told::Current(None));
        let Told::Granted(first) = ask(&mut a, put(0, claim(1, 1))) else { panic!("the first put is granted") };
        assert_eq!(ask(&mut b, put(0, claim(1, 2))), Told::Lost(Some(first)));
        assert_eq!(ask(&mut b, Ask::Read), Told::Current(Some(first)));
        assert!(matches!(ask(&mut b, put(1, claim(2, 2))), Told::Granted(_)));
        assert!(matches!(ask(&mut a, put(1, claim(2, 1))), Told::Lost(Some(r)) if r.ruling.owner == HostId(2)));
    }

    #[test]
    fn a_full_disk_and_a_directory_that_is_gone_are_found_before_they_matter() {
        use nix::mount::{MsFlags, mount, umount};
        let dir = Dir::new("full");
        // Of this thread alone.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).expect("root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), &dir.0, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let mut a = dir.arbiter(1);
        assert!(matches!(ask(&mut a, put(0, claim(1, 1))), Told::Granted(_)));
        let unreachable = |a: &mut FileArbiter, why: &str| match a.ask(&Ask::Read, Instant::now()) {
            Err(KeeperError::Unreachable(e)) => assert!(e.contains(why), "{e}"),
            other => panic!("{other:?}"),
        };
        let ballast = dir.0.join("ballast");
        assert!(fs::write(&ballast, vec![0; 1 << 20]).is_err());
        unreachable(&mut a, "No space left");
        fs::remove_file(&ballast).unwrap();
        assert!(matches!(ask(&mut a, Ask::Read), Told::Current(Some(_))));
        umount(&dir.0).unwrap();
        fs::remove_dir(&dir.0).unwrap();
        unreachable(&mut a, "No such file");
    }

    #[test]
    fn old_versions_go_and_a_late_link_to_one_is_void() {
        let dir = Dir::new("late-link");
        let mut a = dir.arbiter(1);
        for k in 0..30 {
            assert!(matches!(ask(&mut a, put(k, claim(k + 1, 1))), Told::Granted(_)));
        }
        let left = fs::read_dir(&dir.0).unwrap().count();
        assert!(left as u64 <= KEPT + 1, "{left} files");
        // A host that read version 1, froze, and thaws now.
        let mut b = dir.arbiter(2);
        let stale = Record { version: Version(2), ruling: claim(2, 2) };
        assert_eq!(b.link(&stale).ok(), Some(true));
        let Told::Current(Some(newest)) = ask(&mut a, Ask::Read) else { panic!("there is a record") };
        assert_eq!(newest.version, Version(30), "with the late link in place");
        assert_eq!(b.settle(stale).ok(), Some(Told::Lost(Some(newest))));
        assert!(!b.path_of(stale.version).exists());
        assert_eq!(ask(&mut b, Ask::Read), Told::Current(Some(newest)));
    }

    #[test]
    fn a_put_that_was_built_on_before_its_maker_looked_is_told_what_was_built() {
        let dir = Dir::new("built-on");
        let (a, mut b) = (dir.arbiter(1), dir.arbiter(2));
        let first = Record { version: Version(1), ruling: claim(1, 1) };
        assert_eq!(a.link(&first).ok(), Some(true));
        assert_eq!(ask(&mut b, Ask::Read), Told::Current(Some(first)), "it stands from its link on");
        let Told::Granted(second) = ask(&mut b, put(1, claim(2, 2))) else { panic!("built on what stands") };
        assert_eq!(a.settle(first).ok(), Some(Told::Lost(Some(second))));
        assert_eq!(ask(&mut b, Ask::Read), Told::Current(Some(second)));
    }

    #[test]
    fn a_temporary_that_a_dead_process_left_linked_is_not_written_through() {
        let dir = Dir::new("left-behind");
        let mut a = dir.arbiter(1);
        let first = Record { version: Version(1), ruling: claim(1, 1) };
        write_synced(&a.temporary, &stored::encode(&first)).unwrap();
        // Dead between the link and the removal of the temporary; the next process got the same pid.
        fs::hard_link(&a.temporary, a.path_of(first.version)).unwrap();
        assert_eq!(ask(&mut a, Ask::Read), Told::Current(Some(first)));
        assert!(matches!(ask(&mut a, put(1, claim(2, 1))), Told::Granted(_)));
    }

    #[test]
    fn a_damaged_record_is_no_record_to_go_by() {
        let dir = Dir::new("damaged");
        let mut a = dir.arbiter(1);
        ask(&mut a, put(0, claim(1, 1)));
        fs::write(a.path_of(Version(2)), b"{\"version\":2").unwrap();
        let e = a.ask(&Ask::Read, Instant::now()).unwrap_err();
        assert!(matches!(&e, KeeperError::Unknown(what) if what.contains("redis.v2 can't be used")), "{e}");
    }

    #[test]
    fn a_record_of_an_older_format_is_refused_by_name() {
        let dir = Dir::new("older");
        let mut a = dir.arbiter(1);
        let older = br#"{"version":1,"term":1,"owner":"1","in_sync":["1","2"],"phase":"live"}"#;
        fs::write(a.path_of(Version(1)), older).unwrap();
        for ask in [Ask::Read, put(1, claim(2, 1))] {
            let e = a.ask(&ask, Instant::now()).unwrap_err().to_string();
            assert!(e.contains("redis.v1") && e.contains("format 1"), "{e}");
        }
    }

    #[test]
    fn a_record_of_the_largest_set_fits() {
        let dir = Dir::new("largest");
        let hosts: Vec<_> = (0..MEMBERS_MAX as u64).map(|k| HostId(u64::MAX - 9 + k)).collect();
        let in_sync = Members::from_sorted(&hosts).unwrap();
        let ruling = Ruling { term: Term(u64::MAX), owner: hosts[0], in_sync, phase: Phase::Claim };
        let mut a = dir.arbiter(1);
        let Told::Granted(first) = ask(&mut a, put(0, ruling)) else { panic!("the first put is granted") };
        assert_eq!(ask(&mut a, Ask::Read), Told::Current(Some(first)));
    }

    #[test]
    fn a_missing_directory_is_unreachable() {
        let mut a = FileArbiter::new("/nonexistent/ft/redis", HostId(1));
        assert!(matches!(a.ask(&Ask::Read, Instant::now()), Err(KeeperError::Unreachable(_))));
    }

    /// What is certain of every interleaving: a version is granted once at most; each has one content, whoever is told
    /// of it; and each stood, so that the next was built on it. That its maker is told of a grant is not certain: where
    /// the other host builds on it before the maker looks, the answer is what was built, as that is the record by then.
    #[test]
    fn two_hosts_that_race_never_both_win() {
        const LAST: u64 = 200;
        let dir = Dir::new("race");
        let play = |host: u64| {
            let mut arbiter = dir.arbiter(host);
            let mut answers = Vec::new();
            // What it was told last; at worst it loses a round.
            let mut known = 0;
            while known < LAST {
                let told = ask(&mut arbiter, put(known, claim(known + 1, host)));
                let (Told::Granted(r) | Told::Lost(Some(r))) = told else { panic!("{told:?}") };
                assert!(r.version.0 > known, "{told:?}, for a put that expected {known}");
                known = r.version.0;
                answers.push(told);
            }
            answers
        };
        let (a, b) = std::thread::scope(|s| {
            let other = s.spawn(|| play(2));
            (play(1), other.join().unwrap())
        });
        let mut stood = BTreeMap::new();
        let mut granted = BTreeSet::new();
        for (host, told) in a.into_iter().map(|t| (1, t)).chain(b.into_iter().map(|t| (2, t))) {
            let (Told::Granted(r) | Told::Lost(Some(r))) = told else { panic!("{told:?}") };
            let before = *stood.entry(r.version.0).or_insert(r);
            assert_eq!(before, r, "two records of one version");
            if matches!(told, Told::Granted(_)) {
                assert_eq!(r.ruling, claim(r.version.0, host), "granted something else");
                assert!(granted.insert(r.version.0), "version {} was granted twice", r.version.0);
            }
        }
        assert!(stood.into_keys().eq(1..=LAST), "a version was built on one that nobody was told of");
        assert!(granted.contains(&LAST), "nothing was built on the last version");
    }
}
