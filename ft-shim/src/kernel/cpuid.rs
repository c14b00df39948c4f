//! `cpuid` in the guest's text. Few hypervisors let it trap for programs, and many processors can't; so wherever text is mapped,
//! it is replaced by an instruction of the same length that traps everywhere. The fault handler knows both.
//!
//! Laws: what is replaced follows from the guest's mappings alone, so it is the same on both hosts, whether their processors can trap cpuid or not. Only
//! what decoding the function from its start shows to be an instruction is replaced: never a constant, never half of something else.

use super::Kernel;
use super::sites::{text, write_text};
use crate::trap::functions::Memory;
use crate::trap::instructions;
use crate::trap::patch::FUNCTION_BYTES_MAX;
use crate::user;
use alloc::vec::Vec;
use core::ops::Range;
use ft_log::shared::{Header, map_kind};

pub const CPUID: [u8; 2] = [0x0f, 0xa2];
/// `int 0xa2`: a general-protection fault, as that of a trapped cpuid. Linux opens only 3, 4 and 0x80 to programs.
pub const STAND_IN: [u8; 2] = [0xcd, 0xa2];
/// Text is searched in parts of that size.
const CHUNK: u64 = 64 << 10;

/// Ranges that became executable and were not searched yet: a loader maps an object's unwind tables after its text.
#[derive(Default)]
pub struct NewText(Vec<Range<u64>>);

impl NewText {
    /// What the kernel mapped at exec.
    pub fn of(h: &Header) -> Self {
        const PROT_EXEC: u32 = 4;
        let maps = &h.initial_maps[..h.initial_maps_len as usize];
        Self(maps.iter().filter(|m| m.kind == map_kind::FILE && m.protection & PROT_EXEC != 0).map(|m| m.start..m.end).collect())
    }

    pub fn add(&mut self, range: Range<u64>) {
        self.0.push(range);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Offsets in `code` at which the bytes of a cpuid are.
pub fn candidates(code: &[u8]) -> impl Iterator<Item = usize> {
    code.windows(CPUID.len()).enumerate().filter(|(_, w)| **w == CPUID).map(|(i, _)| i)
}

/// Whether an instruction starts at `offset` in the `code` of a function.
pub fn is_instruction(code: &[u8], offset: usize) -> bool {
    let mut at = 0;
    while at < offset {
        match instructions::decode(&code[at..]) {
            Some(i) => at += i.length,
            None => return false,
        }
    }
    at == offset
}

impl Kernel {
    /// Replaces cpuid in all text that is new.
    pub fn replace_cpuid(&mut self) {
        for range in core::mem::take(&mut self.new_text.0) {
            let mut at = range.start;
            while at < range.end {
                let end = (at + CHUNK).min(range.end);
                // One may begin in one part and end in the next.
                if let Some(code) = text(at..(end + 1).min(range.end)) {
                    for offset in candidates(&code) {
                        self.replace_at(at + offset as u64);
                    }
                }
                at = end;
            }
        }
    }

    fn replace_at(&mut self, at: u64) -> Option<()> {
        let (mapping, prot) = self.memory.text_at(at)?;
        let mut read = |at: u64, to: &mut [u8]| user::copy_in(to, at).is_ok();
        let function = Memory { read: &mut read }.function_at(at)?;
        let Range { start, end } = function.range;
        if end - start > FUNCTION_BYTES_MAX as u64 || start < mapping.start || end > mapping.end {
            return None;
        }
        if is_instruction(&text(start..end)?, (at - start) as usize) {
            write_text(at, &STAND_IN, prot);
        }
        Some(())
    }
}
