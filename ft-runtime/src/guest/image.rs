//! The shim as it lies in a guest's memory: its file, laid out and relocated for [`SHIM_BASE`].
//!
//! Laws: the only relocations are relative ones, nothing is both writable and executable, and nothing is left for a
//! dynamic linker to do. An image that breaks one of them is refused here, before any guest exists.

use ft_log::shared::{ARENA_BASE, SHIM_BASE};
use object::elf::{ET_DYN, PF_R, PF_W, PF_X, PT_GNU_RELRO, PT_LOAD, R_X86_64_RELATIVE, SHT_RELR};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSymbol, RelocationFlags};
use std::ops::Range;
use std::sync::Arc;

/// Name of the shim's first instruction.
const ENTRY: &str = "ft_entry";
pub(super) const PAGE: u64 = 4096;

/// The shim this binary was built with: the file as the linker wrote it.
pub static EMBEDDED_SHIM: &[u8] = include_bytes!(env!("FT_SHIM_SO"));

/// Why a file can't serve as shim. Always a fault of the build.
#[derive(Debug, thiserror::Error)]
pub enum ShimImageError {
    #[error("this ft was built without a shim, because the shim did not compile; see scripts/build-shim and rebuild")]
    Missing,
    #[error("the shim is not a usable ELF file: {0}; rebuild ft (scripts/build-shim)")]
    Elf(#[from] object::Error),
    #[error("the shim breaks a law: {0}; ft-runtime/tests/shim_binary.rs names the culprit")]
    Law(String),
}

/// A shim ready to be copied into guests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShimImage {
    memory: Arc<[u8]>,
    /// Parts of `memory` that come from the file; the rest is zero.
    contents: Arc<[Range<usize>]>,
    protections: Arc<[(Range<u64>, u32)]>,
    entry: u64,
}

impl ShimImage {
    /// The shim this binary was built with.
    pub fn embedded() -> Result<Self, ShimImageError> {
        if EMBEDDED_SHIM.is_empty() {
            return Err(ShimImageError::Missing);
        }
        Self::parse(EMBEDDED_SHIM)
    }

    /// Lays out and relocates a shared object.
    pub fn parse(file: &[u8]) -> Result<Self, ShimImageError> {
        let elf = ElfFile64::<LittleEndian>::parse(file)?;
        let header = elf.elf_header();
        if header.e_type(LittleEndian) != ET_DYN {
            return Err(ShimImageError::Law("it is not a shared object".into()));
        }
        let (mut memory, mut contents, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        for ph in elf.elf_program_headers().iter().filter(|ph| ph.p_type(LittleEndian) == PT_LOAD) {
            contents.push(place_segment(file, ph, &mut memory, &mut pages)?);
        }
        for ph in elf.elf_program_headers().iter().filter(|ph| ph.p_type(LittleEndian) == PT_GNU_RELRO) {
            let (start, end) = (ph.p_vaddr(LittleEndian), ph.p_vaddr(LittleEndian) + ph.p_memsz(LittleEndian));
            for page in start / PAGE..end / PAGE {
                let page = pages.get_mut(page as usize).ok_or_else(|| law("RELRO lies outside the image"))?;
                *page &= !PF_W;
            }
        }
        relocate(&elf, &mut memory, &contents)?;
        let entry = elf
            .dynamic_symbols()
            .find(|s| s.name() == Ok(ENTRY) && s.is_definition())
            .ok_or_else(|| law("it does not export ft_entry"))?
            .address();
        if pages.get((entry / PAGE) as usize).is_none_or(|flags| flags & PF_X == 0) {
            return Err(law("ft_entry is not executable"));
        }
        Ok(Self {
            memory: memory.into(),
            contents: contents.into(),
            protections: runs(&pages).into(),
            entry: SHIM_BASE + entry,
        })
    }

    /// Room it takes from [`SHIM_BASE`] on; whole pages.
    pub(super) fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// What to write into that room, which is zero, and where.
    pub(super) fn contents(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.contents.iter().map(|part| (SHIM_BASE + part.start as u64, &self.memory[part.clone()]))
    }

    /// Address ranges and their PROT_* bits; together they cover the image.
    pub(super) fn protections(&self) -> &[(Range<u64>, u32)] {
        &self.protections
    }

    /// Address of the shim's first instruction in a guest.
    pub(super) fn entry(&self) -> u64 {
        self.entry
    }
}

fn law(what: &str) -> ShimImageError {
    ShimImageError::Law(what.into())
}

type Phdr = object::elf::ProgramHeader64<LittleEndian>;

/// Copies a segment to its place; which place that is.
fn place_segment(
    file: &[u8],
    ph: &Phdr,
    memory: &mut Vec<u8>,
    pages: &mut Vec<u32>,
) -> Result<Range<usize>, ShimImageError> {
    let flags = ph.p_flags(LittleEndian) & (PF_R | PF_W | PF_X);
    if flags & PF_W != 0 && flags & PF_X != 0 {
        return Err(law("a segment is both writable and executable"));
    }
    let start = ph.p_vaddr(LittleEndian);
    let end = start
        .checked_add(ph.p_memsz(LittleEndian))
        .filter(|end| *end <= (ARENA_BASE - SHIM_BASE).min(IMAGE_BYTES_MAX))
        .ok_or_else(|| law("a segment is larger than the room for the shim"))?;
    let data = ph.data(LittleEndian, file).map_err(|()| law("a segment lies outside the file"))?;
    if data.len() as u64 > end - start {
        return Err(law("a segment has more file than memory"));
    }
    let last = end.div_ceil(PAGE);
    if (pages.len() as u64) < last {
        pages.resize(last as usize, 0);
        memory.resize((last * PAGE) as usize, 0);
    }
    for page in &mut pages[(start / PAGE) as usize..last as usize] {
        if *page != 0 && *page != flags {
            return Err(law("two segments with different rights share a page"));
        }
        *page = flags;
    }
    let content = start as usize..start as usize + data.len();
    memory[content.clone()].copy_from_slice(data);
    Ok(content)
}

/// Far above any shim; bounds what a broken file can make us allocate.
const IMAGE_BYTES_MAX: u64 = 64 << 20;

fn relocate(elf: &ElfFile64<LittleEndian>, memory: &mut [u8], contents: &[Range<usize>]) -> Result<(), ShimImageError> {
    if elf.elf_section_table().iter().any(|s| s.sh_type(LittleEndian) == SHT_RELR) {
        return Err(law("it has packed relocations (SHT_RELR)"));
    }
    for (at, r) in elf.dynamic_relocations().into_iter().flatten() {
        if r.flags() != (RelocationFlags::Elf { r_type: R_X86_64_RELATIVE }) {
            return Err(ShimImageError::Law(format!("relocation at {at:#x} is {:?}, not relative", r.flags())));
        }
        let place = at as usize..(at as usize).saturating_add(8);
        if !contents.iter().any(|part| part.start <= place.start && place.end <= part.end) {
            return Err(law("a relocation lies outside the initialised image"));
        }
        memory[place].copy_from_slice(&SHIM_BASE.wrapping_add_signed(r.addend()).to_le_bytes());
    }
    Ok(())
}

/// Equal neighbours as one range, in PROT_* bits and guest addresses.
fn runs(pages: &[u32]) -> Vec<(Range<u64>, u32)> {
    let mut at = SHIM_BASE;
    let mut out = Vec::new();
    for run in pages.chunk_by(|a, b| a == b) {
        let end = at + run.len() as u64 * PAGE;
        out.push((at..end, protection(run[0])));
        at = end;
    }
    out
}

fn protection(flags: u32) -> u32 {
    let bit = |flag, prot: i32| if flags & flag != 0 { prot as u32 } else { 0 };
    bit(PF_R, libc::PROT_READ) | bit(PF_W, libc::PROT_WRITE) | bit(PF_X, libc::PROT_EXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_equal_rights_become_one_range() {
        let r = runs(&[PF_R, PF_R | PF_X, PF_R | PF_X, 0, PF_R | PF_W]);
        let rx = (libc::PROT_READ | libc::PROT_EXEC) as u32;
        let rw = (libc::PROT_READ | libc::PROT_WRITE) as u32;
        let at = |n: u64| SHIM_BASE + n * PAGE;
        assert_eq!(r, [(at(0)..at(1), 1), (at(1)..at(3), rx), (at(3)..at(4), 0), (at(4)..at(5), rw)]);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(ShimImage::parse(b"no elf"), Err(ShimImageError::Elf(_))));
    }
}
