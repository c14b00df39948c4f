//! Reports as files: a divergence is rare, and is looked into later.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The newest are kept; a service that diverges again and again must not fill a disk.
const REPORTS_MAX: usize = 32;
const PREFIX: &str = "divergence-";
/// Readable by root alone: calls have parts of what clients said.
const MODE: u32 = 0o600;

/// Writes one more report into `dir`, which is made if it is missing; where it lies.
pub fn save(dir: &Path, now: SystemTime, text: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let stamp = humantime::format_rfc3339_micros(now).to_string();
    let name: String = stamp.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let path = dir.join(format!("{PREFIX}{name}.txt"));
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path)?;
    file.write_all(text.as_bytes())?;
    forget_oldest(dir)?;
    Ok(path)
}

fn forget_oldest(dir: &Path) -> io::Result<()> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX)))
        .collect();
    // Their names sort by time.
    names.sort();
    let more = names.len().saturating_sub(REPORTS_MAX);
    names[..more].iter().try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_newest_reports_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let reports = dir.path().join("a/b");
        let at = |n| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + n);
        let last = REPORTS_MAX as u64 + 5;
        let paths: Vec<PathBuf> = (0..last).map(|n| save(&reports, at(n), &n.to_string()).unwrap()).collect();
        assert_eq!(fs::read_dir(&reports).unwrap().count(), REPORTS_MAX);
        assert!(!paths[4].exists() && paths[5].exists());
        assert_eq!(fs::read_to_string(paths.last().unwrap()).unwrap(), (last - 1).to_string());
        assert!(save(&reports, at(last - 1), "the same moment").is_err());
    }
}
