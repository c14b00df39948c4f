//! What protection takes of a host's memory: the shim and the rings in the server's process, and the engine.
//!
//! Counted is what is resident: pages that were never touched cost nothing, however large they are mapped. The segment of
//! the rings is shared by both processes, and its pages count once, whoever touched them.

use ft_log::shared::{SHARED_BASE, SHIM_REGION};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Memory {
    /// Shim, its heap, its stubs, and the rings.
    pub shim: u64,
    /// All of the engine but the rings, files that it has mapped included.
    pub engine: u64,
    /// The rest of the server's process: what it would be without `ft`.
    pub guest: u64,
}

/// A mapping, as the kernel describes it.
#[derive(Debug, PartialEq)]
struct Mapping {
    range: Range<u64>,
    executable: bool,
    name: String,
    resident: u64,
}

/// Of a server's first process and its engine.
pub fn of(guest: i32, engine: i32) -> io::Result<Memory> {
    let (guest_maps, engine_maps) = (maps(guest)?, maps(engine)?);
    let rings = guest_maps.iter().find(|m| m.range.start == SHARED_BASE);
    let rings = rings.ok_or_else(|| io::Error::other(format!("process {guest} maps no rings")))?;
    let file = format!("/proc/{guest}/map_files/{:x}-{:x}", rings.range.start, rings.range.end);
    let ring_bytes = fs::metadata(&file).map_err(|e| io::Error::new(e.kind(), format!("{file}: {e}")))?.blocks() * 512;
    let sum = |maps: &[Mapping], which: &dyn Fn(&&Mapping) -> bool| maps.iter().filter(which).map(|m| m.resident).sum::<u64>();
    Ok(Memory {
        shim: sum(&guest_maps, &|m| is_shim(m)) + ring_bytes,
        engine: sum(&engine_maps, &|m| m.name != rings.name),
        guest: sum(&guest_maps, &|m| !is_shim(m) && m.name != rings.name),
    })
}

/// What is mapped for the shim, rings excepted. A guest's own code comes from files; code that does not is stubs.
fn is_shim(m: &Mapping) -> bool {
    let own = SHIM_REGION.contains(&m.range.start) && m.range.start != SHARED_BASE;
    own || (m.executable && m.name.is_empty())
}

fn maps(pid: i32) -> io::Result<Vec<Mapping>> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    parse(&text).ok_or_else(|| io::Error::other(format!("{path} reads unlike a table of mappings")))
}

fn parse(smaps: &str) -> Option<Vec<Mapping>> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next()?;
        if let Some((begin, end)) = first.split_once('-') {
            let hex = |s| u64::from_str_radix(s, 16).ok();
            let executable = fields.next()?.contains('x');
            let name = fields.skip(3).collect::<Vec<_>>().join(" ");
            all.push(Mapping { range: hex(begin)?..hex(end)?, executable, name, resident: 0 });
        } else if first == "Rss:" {
            let kib: u64 = fields.next()?.parse().ok()?;
            all.last_mut()?.resident = kib << 10;
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shims_mappings_are_told_from_the_guests() {
        let smaps = "200000000000-200000012000 r--p 00000000 00:00 0 \nSize: 72 kB\nRss: 72 kB\nPss: 72 kB\n\
                     202000000000-202008012000 rw-s 00000000 00:01 12  /memfd:ft-segment (deleted)\nRss: 24 kB\n\
                     7efffc5fc000-7efffc5fd000 rw-p 00000000 00:00 0 \nRss: 900 kB\n\
                     7f0000000000-7f0000001000 r-xp 00000000 00:00 0 \nRss: 4 kB\n\
                     7f0000009000-7f000000a000 r-xp 00001000 fd:00 77 /usr/lib/libc.so.6\nRss: 8 kB\n";
        let all = parse(smaps).unwrap();
        let shim: Vec<u64> = all.iter().filter(|m| is_shim(m)).map(|m| m.resident >> 10).collect();
        assert_eq!(shim, [72, 4]);
        assert_eq!(all[1].name, "/memfd:ft-segment (deleted)");
        assert_eq!(parse("nothing of the kind"), Some(Vec::new()));
        assert_eq!(parse("12-zz rw-p 0 0 0"), None);
    }
}
