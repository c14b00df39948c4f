//! What the kernel made of the program at exec: its mappings and break, read from /proc.

use super::segment::STACK_BYTES;
use ft_log::shared::{INITIAL_MAPS_MAX, InitialMap, map_kind};
use std::fs;
use std::io;
use std::ops::Range;

/// The address space at the exec stop, before the shim is in.
#[derive(Debug)]
pub(super) struct Layout {
    /// At most [`INITIAL_MAPS_MAX`]; without the vsyscall page, which no call can touch.
    pub mappings: Vec<InitialMap>,
    pub stack: Range<u64>,
    pub brk_start: u64,
}

/// Where the vsyscall page and nothing else lies.
const KERNEL_HALF: u64 = 1 << 63;
/// `start_brk` in /proc/PID/stat, counted from 1 as in proc(5).
const START_BRK_FIELD: usize = 47;

impl Layout {
    /// `Err`: text for `LaunchError::Strange`, or why /proc can't be read.
    pub(super) fn read(pid: nix::unistd::Pid) -> io::Result<Result<Self, String>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(Self::parse(&maps, &stat))
    }

    fn parse(maps: &str, stat: &str) -> Result<Self, String> {
        let mut mappings = Vec::new();
        let mut stack = None;
        for line in maps.lines() {
            let m = Shown::parse(line).map(|m| m.initial()).ok_or_else(|| format!("a mapping as {line:?}"))?;
            if m.start >= KERNEL_HALF {
                continue;
            }
            if m.kind == map_kind::STACK {
                stack = Some(m.start..m.end);
            }
            mappings.push(m);
        }
        let stack = stack.ok_or("no stack")?;
        if stack.end < STACK_BYTES {
            return Err(format!("a stack that ends at {:#x}", stack.end));
        }
        if mappings.len() > INITIAL_MAPS_MAX {
            return Err(format!("{} mappings of a new program, more than {INITIAL_MAPS_MAX}", mappings.len()));
        }
        let brk_start = start_brk(stat).ok_or_else(|| format!("a process status as {stat:?}"))?;
        if brk_start == 0 {
            return Err("no program break (the tracer may not see it)".into());
        }
        Ok(Self { mappings, stack, brk_start })
    }
}

/// `start-end rwxp offset dev inode   path`
pub(crate) struct Shown<'a> {
    pub start: u64,
    pub end: u64,
    /// PROT_* bits.
    pub protection: u32,
    pub is_shared: bool,
    /// Empty, a file's, or the kernel's own name in brackets.
    pub path: &'a str,
}

impl<'a> Shown<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?;
        let path = fields.nth(3)?.trim_start();
        let bit = |c: char, prot: i32| if rights.contains(c) { prot as u32 } else { 0 };
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            protection: bit('r', libc::PROT_READ) | bit('w', libc::PROT_WRITE) | bit('x', libc::PROT_EXEC),
            is_shared: rights.ends_with('s'),
            path,
        })
    }

    /// vdso, vvar and the like.
    pub(crate) fn is_kernels(&self) -> bool {
        self.path.starts_with("[v")
    }

    fn initial(&self) -> InitialMap {
        InitialMap { start: self.start, end: self.end, protection: self.protection, kind: self.kind() }
    }

    fn kind(&self) -> u32 {
        match self.path {
            "[stack]" => map_kind::STACK,
            "[heap]" => map_kind::HEAP,
            _ if self.is_kernels() => map_kind::KERNEL,
            p if p.starts_with('/') => map_kind::FILE,
            _ => map_kind::ANONYMOUS,
        }
    }
}

pub(crate) fn start_brk(stat: &str) -> Option<u64> {
    // The second field, the name in brackets, may hold spaces and brackets.
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(START_BRK_FIELD - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
555555554000-555555556000 r--p 00000000 fe:00 1234    /usr/bin/a file with spaces
555555556000-55555555a000 r-xp 00002000 fe:00 1234    /usr/bin/a file with spaces
55555555f000-555555560000 rw-p 00000000 00:00 0 
7ffff7fc3000-7ffff7fc7000 r--p 00000000 00:00 0                          [vvar]
7ffff7fc7000-7ffff7fc9000 r-xp 00000000 00:00 0                          [vdso]
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    fn stat(brk: &str) -> String {
        let zeros = "0 ".repeat(START_BRK_FIELD - 4);
        format!("7 (a) b (c)) t {zeros}{brk} 0 0 0 0 0")
    }

    #[test]
    fn reads_kinds_rights_stack_and_break() {
        let l = Layout::parse(MAPS, &stat("93824992284672")).unwrap();
        let kinds: Vec<_> = l.mappings.iter().map(|m| (m.kind, m.protection)).collect();
        let (file, anon, kernel, stack) = (map_kind::FILE, map_kind::ANONYMOUS, map_kind::KERNEL, map_kind::STACK);
        assert_eq!(kinds, [(file, 1), (file, 5), (anon, 3), (kernel, 1), (kernel, 5), (stack, 3)]);
        assert_eq!(l.stack, 0x7ffffffde000..0x7ffffffff000);
        assert_eq!(l.brk_start, 93824992284672);
    }

    #[test]
    fn says_what_it_does_not_understand() {
        assert!(Layout::parse("nonsense", &stat("1")).unwrap_err().contains("nonsense"));
        assert_eq!(Layout::parse("", &stat("1")).unwrap_err(), "no stack");
        assert!(Layout::parse(MAPS, "7 (a) t 1 2").unwrap_err().contains("7 (a) t"));
        let many: String = (1..40).map(|i| format!("{i}000-{i}001 rw-p 00000000 00:00 0 \n")).collect();
        assert!(Layout::parse(&(many + MAPS), &stat("1")).unwrap_err().contains("45 mappings"));
    }
}
