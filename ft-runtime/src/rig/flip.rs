//! Memory that goes bad: a bit of the server's flips, as cosmic rays and broken modules have it.

use super::{Result, RigError, io_error};
use crate::guest::maps;
use ft_log::shared::SHIM_REGION;
use memchr::memmem;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Memory is searched in parts of that size.
const PART_BYTES: u64 = 16 << 20;

/// Flips the lowest bit of the first byte wherever `text` stands in what the server has written.
pub fn flip(pid: i32, text: &[u8]) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let failed = || io_error(path.clone());
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(failed())?;
    let memory = File::options().read(true).write(true).open(&path).map_err(failed())?;
    let mut found = Vec::new();
    let writable = libc::PROT_READ as u32 | libc::PROT_WRITE as u32;
    for m in maps.lines().filter_map(maps::Shown::parse) {
        if m.protection & writable != writable || m.is_shared || SHIM_REGION.contains(&m.start) {
            continue;
        }
        let mut at = m.start;
        while at < m.end {
            // What stands across the end of a part is found in the next.
            let n = PART_BYTES.min(m.end - at) as usize;
            let mut part = vec![0; n];
            if memory.read_exact_at(&mut part, at).is_ok() {
                found.extend(memmem::find_iter(&part, text).map(|i| (at + i as u64, part[i])));
            }
            at += if n as u64 == m.end - at { n as u64 } else { (n - text.len()) as u64 };
        }
    }
    if found.is_empty() {
        return Err(RigError::Refused(format!("{:?} is nowhere in the server's memory", String::from_utf8_lossy(text))));
    }
    found.dedup();
    found.iter().try_for_each(|(at, byte)| memory.write_all_at(&[byte ^ 1], *at).map_err(failed()))
}
