//! Which function an address is in: from the program headers and unwind tables that loaded objects carry in memory,
//! since stripped libraries have no symbols.
//!
//! The guest's memory is believed in nothing: a table that makes no sense gives no function.

use core::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub range: Range<u64>,
    /// The loaded executable segment that it is part of.
    pub text: Range<u64>,
    /// Control may come in other ways than by branches: exceptions land in it, or it is a signal trampoline.
    pub entered_otherwise: bool,
}

const PAGE: u64 = 4096;
/// An object's header is looked for so far below the address.
const OBJECT_PAGES_MAX: u64 = 16_384;
const PROGRAM_HEADERS_MAX: u16 = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_R: u32 = 4;
/// What several unwind entries have in common is no longer.
const COMMON_BYTES_MAX: u32 = 64;
/// Such a length means that a longer one follows.
const LENGTH_64_BITS: u32 = 0xffff_fff0;
const MAGIC: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];

/// `read` copies memory and says if all of it is there.
pub struct Memory<'a> {
    pub read: &'a mut dyn FnMut(u64, &mut [u8]) -> bool,
}

impl Memory<'_> {
    fn bytes<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let mut b = [0; N];
        (self.read)(at, &mut b).then_some(b)
    }

    fn u32(&mut self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&mut self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// A signed 32-bit distance from `base`.
    fn relative(&mut self, at: u64, base: u64) -> Option<u64> {
        Some(base.wrapping_add_signed(i64::from(self.u32(at)? as i32)))
    }

    /// The function that `address` is in.
    pub fn function_at(&mut self, address: u64) -> Option<Function> {
        let mut page = address & !(PAGE - 1);
        for _ in 0..OBJECT_PAGES_MAX {
            if self.bytes(page)? == MAGIC
                && let Some(Object { text, table, constants }) = self.object(page, address)
            {
                let (range, entered_otherwise) = match table {
                    Some(table) => self.described(table, address)?,
                    None => self.searched(constants?, address)?,
                };
                let inside = text.start <= range.start && range.end <= text.end;
                return inside.then_some(Function { range, text, entered_otherwise });
            }
            page = page.checked_sub(PAGE)?;
        }
        None
    }

    /// The object whose header is at `header`, if `address` is in its text.
    fn object(&mut self, header: u64, address: u64) -> Option<Object> {
        let headers = header.checked_add(self.u64(header + 32)?)?;
        let size = u16::from_le_bytes(self.bytes(header + 54)?);
        let count = u16::from_le_bytes(self.bytes(header + 56)?);
        if usize::from(size) != PROGRAM_HEADER_BYTES || count > PROGRAM_HEADERS_MAX {
            return None;
        }
        let (mut base, mut text, mut table, mut constants) = (None, None, None, None);
        for i in 0..count {
            let at = headers.checked_add(u64::from(i) * PROGRAM_HEADER_BYTES as u64)?;
            let (kind, flags) = (self.u32(at)?, self.u32(at + 4)?);
            let (offset, start, bytes) = (self.u64(at + 8)?, self.u64(at + 16)?, self.u64(at + 40)?);
            if kind == PT_LOAD && offset == 0 {
                base = Some(header.wrapping_sub(start));
            }
            let base = base.unwrap_or(header);
            let range = base.wrapping_add(start)..base.wrapping_add(start).checked_add(bytes)?;
            match kind {
                PT_LOAD if flags & PF_X != 0 && range.contains(&address) => text = Some(range),
                PT_LOAD if flags == PF_R && text.is_some() && constants.is_none() => constants = Some(range),
                PT_GNU_EH_FRAME => table = Some(start),
                _ => {}
            }
        }
        let table = table.and_then(|t| Some(base?.wrapping_add(t)));
        Some(Object { text: text?, table, constants })
    }

    /// Looks `address` up in the unwind entries of an object without a table of them, as static programs are. Constants come before
    /// them in their segment.
    fn searched(&mut self, constants: Range<u64>, address: u64) -> Option<(Range<u64>, bool)> {
        let mut at = self.first_entry(constants.clone())?;
        while at < constants.end {
            let (length, distance) = (self.u32(at)?, self.u32(at + 4)?);
            if length == 0 || length >= LENGTH_64_BITS {
                return None;
            }
            if distance != 0 {
                let start = self.relative(at + 8, at + 8)?;
                if (start..start.checked_add(self.u32(at + 12)?.into())?).contains(&address) {
                    return self.description(at, start, address);
                }
            }
            at = at.checked_add(4 + u64::from(length))?;
        }
        None
    }

    /// Looks `address` up in an .eh_frame_hdr.
    fn described(&mut self, table: u64, address: u64) -> Option<(Range<u64>, bool)> {
        // Version 1; the encodings that every linker uses: 32-bit count, sorted pairs relative to the table.
        let [1, _, 0x03, 0x3b] = self.bytes(table)? else { return None };
        let entries = table.checked_add(12)?;
        let (mut low, mut high) = (0, u64::from(self.u32(table + 8)?));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.relative(entries + middle * 8, table)? <= address { low = middle + 1 } else { high = middle }
        }
        let entry = entries + low.checked_sub(1)? * 8;
        let start = self.relative(entry, table)?;
        let description = self.relative(entry + 4, table)?;
        self.description(description, start, address)
    }

    /// What looks like what several entries have in common begins the section of entries: nothing else has a length, a zero, a
    /// version, and a text that is understood.
    fn first_entry(&mut self, constants: Range<u64>) -> Option<u64> {
        let mut page = constants.start;
        while page < constants.end {
            let b: [u8; PAGE as usize + 12] = self.bytes(page).or_else(|| self.last_bytes(page))?;
            for i in (0..PAGE as usize).step_by(4) {
                let length = u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
                if (12..=COMMON_BYTES_MAX).contains(&length)
                    && b[i + 4..i + 10] == [0, 0, 0, 0, 1, b'z']
                    && self.common(page + i as u64).is_some()
                {
                    return Some(page + i as u64);
                }
            }
            page += PAGE;
        }
        None
    }

    /// A page behind which nothing is.
    fn last_bytes<const N: usize>(&mut self, page: u64) -> Option<[u8; N]> {
        let mut b = [0; N];
        (self.read)(page, &mut b[..PAGE as usize]).then_some(b)
    }

    /// Reads a frame description entry: the range it covers.
    fn description(&mut self, at: u64, start: u64, address: u64) -> Option<(Range<u64>, bool)> {
        let (length, distance) = (self.u32(at)?, self.u32(at.checked_add(4)?)?);
        if length < 12 || length >= LENGTH_64_BITS || distance == 0 {
            return None;
        }
        let common = self.common((at + 4).checked_sub(distance.into())?)?;
        let own_start = self.relative(at + 8, at + 8)?;
        let range = start..start.checked_add(self.u32(at + 12)?.into())?;
        if own_start != start || !range.contains(&address) {
            return None;
        }
        // The augmentation data of the entry: its length, then a pointer to landing pads.
        let lands = common.landing && {
            let data: [u8; 5] = self.bytes(at + 16)?;
            data[0] < 4 || data[0] >= 0x80 || data[1..] != [0; 4]
        };
        Some((range, lands || common.signal))
    }

    fn common(&mut self, at: u64) -> Option<Common> {
        let b: [u8; 32] = self.bytes(at)?;
        let text = &b[9..];
        let end = text.iter().position(|c| *c == 0)?;
        let augmentation = &text[..end];
        if u32::from_le_bytes([b[4], b[5], b[6], b[7]]) != 0 || b[8] != 1 || augmentation.first() != Some(&b'z') {
            return None;
        }
        // Code and data alignment, return address, length of what follows: one byte each in all compilers' output.
        let numbers = text.get(end + 1..end + 5)?;
        if numbers.iter().any(|n| *n >= 0x80) {
            return None;
        }
        let mut rest = text.get(end + 5..)?;
        let (mut encoding, mut landing, mut signal) = (0, false, false);
        for c in &augmentation[1..] {
            let (&first, after) = rest.split_first().unwrap_or((&0, &[]));
            match c {
                b'R' => (encoding, rest) = (first, after),
                b'L' => (landing, rest) = (true, after),
                b'P' => rest = after.get(if first & 0xf == 0xb || first & 0xf == 3 { 4 } else { 8 }..)?,
                b'S' => signal = true,
                _ => return None,
            }
        }
        // Relative to itself, 32 bits, signed.
        (encoding == 0x1b).then_some(Common { landing, signal })
    }
}

/// What an object's program headers say.
struct Object {
    /// The executable segment that was asked for.
    text: Range<u64>,
    /// Of unwind entries, sorted.
    table: Option<u64>,
    /// The segment after the text that is only read.
    constants: Option<Range<u64>>,
}

struct Common {
    landing: bool,
    signal: bool,
}
