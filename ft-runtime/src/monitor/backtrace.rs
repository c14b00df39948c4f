//! The guest's stack: return addresses by the unwind tables that its objects carry in memory, names by the objects' files.
//!
//! Memory is what counts: a guest that was made of a snapshot has no file behind its mappings.

use super::scene::read;
use addr2line::Loader;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};
use ft_log::shared::SHIM_REGION;
use nix::unistd::Pid;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, elf};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

const FRAMES_MAX: usize = 64;
/// Larger segments are not read.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Where linkers put libraries, for those that a guest knows by name only.
const LIBRARY_DIRS: [&str; 5] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/local/lib"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub address: u64,
    /// The library's own name; empty: the program, or nothing that is known.
    object: String,
    /// As in the object's file.
    offset: u64,
    build_id: Vec<u8>,
}

/// An object as it lies in a guest.
struct Loaded {
    range: Range<u64>,
    /// Where it lies less where its file says that it lies.
    bias: u64,
    name: String,
    build_id: Vec<u8>,
    sections: ExplicitModuleSectionInfo<Vec<u8>>,
}

/// Frames of the thread whose registers (rip, rsp, rbp) these are. The process stands still.
pub fn unwind(pid: Pid, [rip, rsp, rbp]: [u64; 3]) -> Vec<Frame> {
    if rip == 0 {
        return Vec::new();
    }
    let objects = objects(pid);
    let mut unwinder = UnwinderX86_64::new();
    for o in &objects {
        unwinder.add_module(Module::new(o.name.clone(), o.range.clone(), o.range.start, o.sections.clone()));
    }
    let mut word = |at: u64| read(pid, at, 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or(());
    let mut cache = CacheX86_64::<_>::new();
    let mut frames = unwinder.iter_frames(rip, UnwindRegsX86_64::new(rip, rsp, rbp), &mut cache, &mut word);
    let mut found = Vec::new();
    while found.len() < FRAMES_MAX
        && let Ok(Some(f)) = frames.next()
    {
        // A return address is just behind its call.
        let at = f.address_for_lookup();
        let o = objects.iter().find(|o| o.range.contains(&at));
        found.push(Frame {
            address: f.address(),
            object: o.map(|o| o.name.clone()).unwrap_or_default(),
            offset: o.map_or(at, |o| at.wrapping_sub(o.bias)),
            build_id: o.map(|o| o.build_id.clone()).unwrap_or_default(),
        });
    }
    found
}

/// All ELF objects of a process but the shim.
fn objects(pid: Pid) -> Vec<Loaded> {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let mappings = maps.lines().filter_map(crate::guest::maps::Shown::parse);
    mappings.filter(|m| !SHIM_REGION.contains(&m.start)).filter_map(|m| Loaded::at(pid, m.start)).collect()
}

impl Loaded {
    /// The object whose header lies at `header`, if one does.
    fn at(pid: Pid, header: u64) -> Option<Self> {
        const HEADER_BYTES: usize = 4096;
        let page = read(pid, header, HEADER_BYTES)?;
        let h = elf::FileHeader64::<Endianness>::parse(&*page).ok()?;
        let e = h.endian().ok()?;
        let headers = h.program_headers(e, &*page).ok()?;
        let range = |p: &elf::ProgramHeader64<Endianness>| p.p_vaddr(e)..p.p_vaddr(e).saturating_add(p.p_memsz(e));
        let loads = headers.iter().filter(|p| p.p_type(e) == elf::PT_LOAD);
        let ranges: Vec<(Range<u64>, u32)> = loads.map(|p| (range(p), p.p_flags(e))).collect();
        let first = ranges.first()?.0.start & !0xfff;
        let bias = header.wrapping_sub(first);
        let memory = |r: Range<u64>| {
            let n = r.end.checked_sub(r.start).filter(|n| *n <= SEGMENT_BYTES_MAX)?;
            read(pid, r.start.wrapping_add(bias), n as usize)
        };
        let of_kind = |kind| headers.iter().find(|p| p.p_type(e) == kind).map(range);
        let dynamic = of_kind(elf::PT_DYNAMIC).and_then(&memory);
        let notes = headers.iter().filter(|p| p.p_type(e) == elf::PT_NOTE);
        let mut notes = notes.filter_map(|p| memory(range(p)));
        let table = of_kind(elf::PT_GNU_EH_FRAME);
        let entries = table.as_ref().and_then(|t| {
            let hdr = memory(t.clone())?;
            // Version 1, the entries' address relative to its own place, 32 bits: as every linker writes it.
            let [1, 0x1b, _, _, a, b, c, d, ..] = *hdr.as_slice() else { return None };
            let start = (t.start + 4).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into());
            // They end where it says itself; it is read to the segment's end.
            ranges.iter().find(|(r, _)| r.contains(&start)).map(|(r, _)| start..r.end)
        });
        let sections = ExplicitModuleSectionInfo {
            base_svma: first,
            text_svma: ranges.iter().find(|(_, flags)| flags & elf::PF_X != 0).map(|(r, _)| r.clone()),
            eh_frame: entries.clone().and_then(&memory),
            eh_frame_svma: entries,
            eh_frame_hdr: table.clone().and_then(&memory),
            eh_frame_hdr_svma: table,
            ..Default::default()
        };
        let end = ranges.last()?.0.end;
        let name = dynamic.and_then(|d| soname(pid, &d, bias)).unwrap_or_default();
        let build_id = notes.find_map(|n| build_id(&n)).unwrap_or_default();
        Some(Self { range: header..end.wrapping_add(bias), bias, name, build_id, sections })
    }
}

/// What a library calls itself.
fn soname(pid: Pid, dynamic: &[u8], bias: u64) -> Option<String> {
    const NAME_BYTES_MAX: usize = 128;
    let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or_default();
    let entries = || dynamic.chunks_exact(16).map(|c| (word(&c[..8]), word(&c[8..])));
    let value = |tag: u32| entries().find(|(t, _)| *t == u64::from(tag)).map(|(_, v)| v);
    let (text, name) = (value(elf::DT_STRTAB)?, value(elf::DT_SONAME)?);
    // The loader has added the bias already where it was told to.
    let text = if text < bias { text.wrapping_add(bias) } else { text };
    let bytes = read(pid, text.checked_add(name)?, NAME_BYTES_MAX)?;
    let end = bytes.iter().position(|b| *b == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = notes;
    let word = |b: &[u8], at: usize| Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?) as usize);
    while let (Some(name), Some(length), Some(kind)) = (word(rest, 0), word(rest, 4), word(rest, 8)) {
        let from = 12 + name.next_multiple_of(4);
        if kind == elf::NT_GNU_BUILD_ID as usize && rest.get(12..15) == Some(b"GNU") {
            return rest.get(from..from + length).map(<[u8]>::to_vec);
        }
        rest = rest.get(from + length.next_multiple_of(4)..)?;
    }
    None
}

/// What each frame is called: function, source and line as far as the object's file, or its debugging information, knows them.
pub fn names<'f>(frames: &'f [Frame], program: &Path) -> Vec<String> {
    let mut files: HashMap<&str, Option<Loader>> = HashMap::new();
    let mut name = |f: &'f Frame| {
        let Frame { object, offset, .. } = f;
        let file = files.entry(object).or_insert_with(|| file_of(f, program).and_then(|p| Loader::new(p).ok()));
        let shown = match (object.as_str(), &file) {
            ("", Some(_)) => program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ("", None) => "?".into(),
            (library, _) => library.into(),
        };
        let place = format!("{shown}+{offset:#x}");
        let Some(symbol) = file.as_ref().and_then(|l| l.find_symbol(*offset)) else { return place };
        let symbol = addr2line::demangle_auto(symbol.into(), None);
        let location = file.as_ref().and_then(|l| l.find_location(*offset).ok().flatten());
        match location.and_then(|l| Some((l.file?.to_owned(), l.line?))) {
            Some((source, line)) => format!("{symbol} at {source}:{line} ({place})"),
            None => format!("{symbol} ({place})"),
        }
    };
    frames.iter().map(|f| name(f)).collect()
}

/// The file of a frame's object: of the same build, so that no wrong names are shown.
fn file_of(f: &Frame, program: &Path) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = match f.object.as_str() {
        "" => vec![program.into()],
        library => LIBRARY_DIRS.iter().map(|d| Path::new(d).join(library)).collect(),
    };
    candidates.into_iter().find(|p| {
        let Ok(bytes) = fs::read(p) else { return false };
        ElfFile64::<Endianness>::parse(&*bytes).is_ok_and(|e| e.build_id().ok().flatten().unwrap_or_default() == f.build_id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::ptrace;
    use nix::sys::wait::waitpid;
    use std::process::{Command, Stdio};

    #[test]
    fn a_stack_is_read_from_memory_and_named_by_files() {
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("deep.c"), dir.path().join("deep"));
        let text = "#include <unistd.h>\n__attribute__((noinline)) int inner(int n) { return pause() + n; }\n\
                    __attribute__((noinline)) int outer(int n) { return inner(n + 1) * 3; }\n\
                    int main(int c, char **v) { write(1, \"x\", 1); return outer(c) + 7; }\n";
        fs::write(&source, text).unwrap();
        let built = Command::new("gcc").args(["-O1", "-fomit-frame-pointer", "-o"]).args([&program, &source]).status().unwrap();
        assert!(built.success());
        let mut child = Command::new(&program).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        while !fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap().starts_with("34 ") {
            std::thread::yield_now();
        }
        ptrace::attach(pid).unwrap();
        waitpid(pid, None).unwrap();
        let r = ptrace::getregs(pid).unwrap();
        let names = names(&unwind(pid, [r.rip, r.rsp, r.rbp]), &program);
        child.kill().unwrap();
        child.wait().unwrap();
        let at = |n: &str| names.iter().position(|s| s.starts_with(n)).unwrap_or_else(|| panic!("{n} in {names:#?}"));
        assert!(at("inner (deep+") < at("outer (deep+") && at("outer") < at("main (deep+"), "{names:#?}");
        assert!(names[0].contains("(libc.so.6+"), "{names:#?}");
    }
}
