//! The guest's address space: every address it ever gets is chosen here, from a table of our own, because the
//! kernel's choice depends on file systems, limits and caches. The mappings themselves are real.

use super::fds::Object;
use super::{Args, Kernel, Reply, done};
use crate::digest::hash;
use crate::raw::{self, EBADF, EEXIST, EINVAL, ENODEV, ENOMEM, nr};
use crate::trap::frame::reg;
use alloc::vec::Vec;
use core::ops::Range;
use ft_log::entry::MemoryPart;
use ft_log::shared::{Header, SHIM_REGION, map_kind};

const PAGE: u64 = 4096;
/// Mappings are placed below this, downwards.
const TOP: u64 = 0x7f00_0000_0000;
/// Mappings that ask for the low 2 GiB.
const LOW_TOP: u64 = 0x7000_0000;
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x7fff_ffff_f000;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
const MAP_SHARED: u64 = 1;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_32BIT: u64 = 0x40;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_HUGETLB: u64 = 0x4_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vma {
    pub start: u64,
    pub end: u64,
    pub prot: u64,
    /// Has ever been writable: part of the memory that is compared.
    pub written: bool,
    pub shared: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Stack,
    /// vvar and the like.
    Kernel,
    /// What rewritten call sites jump to: the shim's, but near the guest's text.
    Stubs,
}

pub struct Memory {
    /// Sorted, disjoint.
    vmas: Vec<Vma>,
    brk_start: u64,
    brk: u64,
    stack_top: u64,
    /// Where the next slice of the comparison begins.
    compared_upto: u64,
}

const fn align(n: u64) -> Option<u64> {
    match n.checked_add(PAGE - 1) {
        Some(v) => Some(v & !(PAGE - 1)),
        None => None,
    }
}

impl Memory {
    pub fn new(h: &Header) -> Self {
        let mut m = Self { vmas: Vec::new(), brk_start: h.brk_start, brk: h.brk_start, stack_top: 0, compared_upto: 0 };
        for i in &h.initial_maps[..h.initial_maps_len as usize] {
            let mut start = i.start;
            let kind = match i.kind {
                map_kind::STACK => {
                    m.stack_top = i.end;
                    start = h.stack_limit.min(start); // it may grow that far: nobody else gets it
                    Kind::Stack
                }
                map_kind::KERNEL => Kind::Kernel,
                _ => Kind::Ordinary,
            };
            let prot = u64::from(i.protection);
            m.insert(Vma { start, end: i.end, prot, written: prot & PROT_WRITE != 0, shared: false, kind });
        }
        m
    }

    fn insert(&mut self, v: Vma) {
        self.remove(v.start, v.end);
        let at = self.vmas.partition_point(|x| x.start < v.start);
        self.vmas.insert(at, v);
        self.merge(at);
    }

    /// Joins entry `at` with equal neighbours.
    fn merge(&mut self, at: usize) {
        let joins = |a: &Vma, b: &Vma| {
            a.end == b.start && a.prot == b.prot && a.written == b.written && a.shared == b.shared && a.kind == b.kind
        };
        if at + 1 < self.vmas.len() && joins(&self.vmas[at], &self.vmas[at + 1]) {
            self.vmas[at].end = self.vmas[at + 1].end;
            self.vmas.remove(at + 1);
        }
        if at > 0 && joins(&self.vmas[at - 1], &self.vmas[at]) {
            self.vmas[at - 1].end = self.vmas[at].end;
            self.vmas.remove(at);
        }
    }

    /// First entry that ends after `start`.
    fn first_from(&self, start: u64) -> usize {
        self.vmas.partition_point(|v| v.end <= start)
    }

    fn remove(&mut self, start: u64, end: u64) {
        self.cut(start);
        self.cut(end);
        let from = self.first_from(start);
        let to = self.vmas.partition_point(|v| v.start < end);
        if from < to {
            self.vmas.drain(from..to);
        }
    }

    /// Makes `at` a boundary.
    fn cut(&mut self, at: u64) {
        let i = self.first_from(at);
        if let Some(v) = self.vmas.get_mut(i) {
            if v.start < at {
                let right = Vma { start: at, ..*v };
                v.end = at;
                self.vmas.insert(i + 1, right);
            }
        }
    }

    fn is_free(&self, start: u64, end: u64) -> bool {
        start >= LOWEST
            && end <= HIGHEST
            && (end <= SHIM_REGION.start || start >= SHIM_REGION.end)
            && self.vmas.get(self.first_from(start)).is_none_or(|v| v.start >= end)
    }

    /// Whether any of it is shared with a file or another process.
    pub fn is_shared(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        self.vmas[self.first_from(start)..].iter().take_while(|v| v.start < end).any(|v| v.shared)
    }

    /// The highest gap of `len` bytes below `top`.
    fn place(&self, len: u64, top: u64) -> Option<u64> {
        let mut end = top;
        loop {
            let start = end.checked_sub(len).filter(|&s| s >= LOWEST)?;
            if end > SHIM_REGION.start && start < SHIM_REGION.end {
                end = SHIM_REGION.start;
                continue;
            }
            // The last mapping that begins below `end`.
            match self.vmas[..self.vmas.partition_point(|v| v.start < end)].last() {
                Some(v) if v.end > start => end = v.start,
                _ => return Some(start),
            }
        }
    }

    /// The mapping of `at`, and its protection, if it is code that nobody could ever write.
    pub fn text_at(&self, at: u64) -> Option<(Range<u64>, u64)> {
        let v = self.vmas.get(self.first_from(at)).filter(|v| v.start <= at)?;
        let is_text = v.prot & PROT_EXEC != 0 && !v.written && !v.shared && v.kind == Kind::Ordinary;
        is_text.then_some((v.start..v.end, v.prot))
    }

    /// Free room for stubs within `reach` of `site`: above all that `place` gives if that is near, so that the guest's
    /// mappings lie where they would lie otherwise; else the highest gap below.
    pub fn place_stubs(&self, site: u64, len: u64, reach: u64) -> Option<u64> {
        let mut start = TOP;
        while site < TOP && start + len - site < reach {
            match self.vmas.get(self.first_from(start)).filter(|v| v.start < start + len) {
                Some(v) => start = v.end,
                None => return Some(start),
            }
        }
        self.place(len, site).filter(|s| site - s < reach)
    }

    pub fn insert_stubs(&mut self, start: u64, end: u64) {
        let prot = PROT_READ | PROT_EXEC;
        self.insert(Vma { start, end, prot, written: false, shared: false, kind: Kind::Stubs });
    }

    /// What was there is unmapped.
    pub fn forget(&mut self, range: Range<u64>) {
        self.remove(range.start, range.end);
    }

    fn protect(&mut self, start: u64, end: u64, prot: u64) {
        self.cut(start);
        self.cut(end);
        let from = self.first_from(start);
        let to = self.vmas.partition_point(|v| v.start < end);
        for v in &mut self.vmas[from..to] {
            v.prot = prot;
            v.written |= prot & PROT_WRITE != 0;
        }
        let mut i = from.saturating_sub(1);
        while i + 1 < self.vmas.len() && self.vmas[i].start < end {
            let n = self.vmas.len();
            self.merge(i + 1);
            if self.vmas.len() == n {
                i += 1;
            }
        }
    }

    /// Is there memory that a fork child would go on sharing?
    pub fn shared_writable(&self) -> bool {
        self.vmas.iter().any(|v| v.shared && v.written)
    }

    pub fn count(&self) -> usize {
        self.vmas.len()
    }
}

fn valid_guest_range(start: u64, len: u64) -> Result<u64, i64> {
    let end = start.checked_add(len).ok_or(ENOMEM)?;
    if end > HIGHEST || (end > SHIM_REGION.start && start < SHIM_REGION.end) {
        return Err(ENOMEM);
    }
    Ok(end)
}

pub fn mmap(k: &mut Kernel, a: &Args) -> Reply {
    let [hint, len, prot, flags, fd, offset] = *a;
    if len == 0 || offset % PAGE != 0 {
        return Err(EINVAL);
    }
    let len = align(len).ok_or(ENOMEM)?;
    if flags & MAP_HUGETLB != 0 {
        k.refuse("mmap with MAP_HUGETLB", "the hosts' pools of huge pages differ; transparent huge pages work");
        return Err(ENOMEM);
    }
    if flags & MAP_GROWSDOWN != 0 {
        k.refuse("mmap with MAP_GROWSDOWN", "its growth can't be seen");
        return Err(EINVAL);
    }
    if flags & MAP_ANONYMOUS == 0 {
        let d = k.fds.get(fd).ok_or(EBADF)?;
        match k.fds.at(d).object {
            Object::File(_) => {}
            Object::Recorded(_) => {
                k.refuse("mmap of a file that differs between hosts", "read it instead");
                return Err(ENODEV);
            }
            _ => return Err(ENODEV),
        }
    }
    k.address_space_allows(len)?;
    let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    let start = if fixed {
        if hint % PAGE != 0 {
            return Err(EINVAL);
        }
        let end = valid_guest_range(hint, len)?;
        if flags & MAP_FIXED_NOREPLACE != 0 && !k.memory.is_free(hint, end) {
            return Err(EEXIST);
        }
        hint
    } else {
        let wish = hint & !(PAGE - 1);
        let top = if flags & MAP_32BIT != 0 { LOW_TOP } else { TOP };
        if wish != 0 && wish.checked_add(len).is_some_and(|e| e <= top.max(TOP) && k.memory.is_free(wish, e)) {
            wish
        } else {
            k.memory.place(len, top).ok_or(ENOMEM)?
        }
    };
    // Ours is the choice, so the kernel is told exactly where; what isn't in the table must be free.
    let how = if flags & MAP_FIXED != 0 { MAP_FIXED } else { MAP_FIXED_NOREPLACE };
    let flags_real = flags & !(MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT) | how;
    k.put_back(start..start + len);
    // SAFETY: the range is the guest's or free, never the shim's.
    let r = unsafe { raw!(nr::MMAP, start, len, prot, flags_real, fd, offset) };
    if r < 0 {
        assert!(r != -EEXIST, "mmap: {start:#x}+{len:#x} is mapped but not in the table");
        return Err(-r);
    }
    assert!(r as u64 == start, "mmap went elsewhere");
    let shared = flags & MAP_SHARED_VALIDATE == MAP_SHARED || flags & MAP_SHARED_VALIDATE == MAP_SHARED_VALIDATE;
    let written = prot & PROT_WRITE != 0;
    k.memory.insert(Vma { start, end: start + len, prot, written, shared, kind: Kind::Ordinary });
    if prot & PROT_EXEC != 0 && flags & MAP_ANONYMOUS == 0 {
        k.new_text.add(start..start + len);
    }
    done(start as i64)
}

pub fn munmap(k: &mut Kernel, a: &Args) -> Reply {
    let len = align(a[1]).ok_or(EINVAL)?;
    if a[0] % PAGE != 0 || len == 0 {
        return Err(EINVAL);
    }
    let end = valid_guest_range(a[0], len).map_err(|_| EINVAL)?;
    k.put_back(a[0]..end);
    // SAFETY: the guest's own range.
    let r = unsafe { raw!(nr::MUNMAP, a[0], len) };
    if r == 0 {
        k.memory.remove(a[0], end);
    }
    done(r)
}

pub fn mprotect(k: &mut Kernel, a: &Args) -> Reply {
    let len = align(a[1]).ok_or(ENOMEM)?;
    let end = valid_guest_range(a[0], len)?;
    k.put_back(a[0]..end);
    // SAFETY: the guest's own range.
    let r = unsafe { raw!(nr::MPROTECT, a[0], a[1], a[2]) };
    if r == 0 && len > 0 {
        const RWX: u64 = 7;
        k.memory.protect(a[0], end, a[2] & RWX);
        if a[2] & PROT_EXEC != 0 && k.memory.text_at(a[0]).is_some() {
            k.new_text.add(a[0]..end);
        }
    }
    done(r)
}

pub fn pkey_mprotect(k: &mut Kernel, a: &Args) -> Reply {
    if a[3] as i32 != -1 {
        return Err(EINVAL);
    }
    mprotect(k, a)
}

pub fn madvise(k: &mut Kernel, a: &Args) -> Reply {
    const DONTNEED: u64 = 4;
    const FREE: u64 = 8;
    let end = valid_guest_range(a[0], a[1]).map_err(|_| ENOMEM)?;
    let advice = match a[2] {
        FREE => DONTNEED, // what is freed when depends on memory pressure
        // NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED REMOVE DONTFORK DOFORK, huge pages, dump flags
        v @ (0..=4 | 9..=11 | 14..=19) => v,
        v => {
            k.refuse_number("madvise", v);
            return Err(EINVAL);
        }
    };
    const WILLNEED: u64 = 3;
    if advice == WILLNEED {
        return done(0);
    }
    const CHANGES_NOTHING: u64 = 3; // NORMAL, RANDOM, SEQUENTIAL
    if advice >= CHANGES_NOTHING {
        k.put_back(a[0]..end.next_multiple_of(PAGE));
    }
    if k.memory.text_at(a[0]).is_some() {
        // It may be as in its file again.
        k.new_text.add(a[0]..end);
    }
    // SAFETY: the guest's own range.
    done(unsafe { raw!(nr::MADVISE, a[0], a[1], advice) })
}

pub fn mremap(k: &mut Kernel, a: &Args) -> Reply {
    const MAYMOVE: u64 = 1;
    const FIXED: u64 = 2;
    let [old, old_len, new_len, flags, target, _] = *a;
    let (old_len, new_len) = (align(old_len).ok_or(EINVAL)?, align(new_len).ok_or(EINVAL)?);
    if old % PAGE != 0 || old_len == 0 || new_len == 0 || flags & !(MAYMOVE | FIXED) != 0 || flags & (MAYMOVE | FIXED) == FIXED {
        return Err(EINVAL);
    }
    let old_end = valid_guest_range(old, old_len)?;
    let i = k.memory.first_from(old);
    let Some(v) = k.memory.vmas.get(i).copied().filter(|v| v.start <= old && v.end >= old_end) else {
        return Err(raw::EFAULT);
    };
    k.address_space_allows(new_len.saturating_sub(old_len))?;
    let (to, real_flags) = if flags & FIXED != 0 {
        let end = valid_guest_range(target, new_len).map_err(|_| EINVAL)?;
        if target % PAGE != 0 || (target < old_end && old < end) {
            return Err(EINVAL);
        }
        (target, MAYMOVE | FIXED)
    } else if new_len <= old_len || k.memory.is_free(old_end, old + new_len) {
        (old, 0)
    } else if flags & MAYMOVE != 0 {
        (k.memory.place(new_len, TOP).ok_or(ENOMEM)?, MAYMOVE | FIXED)
    } else {
        return Err(ENOMEM);
    };
    k.put_back(old..old_end);
    k.put_back(to..to + new_len);
    // SAFETY: both ranges are the guest's or free.
    let r = unsafe { raw!(nr::MREMAP, old, old_len, new_len, real_flags, to) };
    if r < 0 {
        return Err(-r);
    }
    assert!(r as u64 == to, "mremap went elsewhere");
    k.memory.remove(old, old_end);
    k.memory.insert(Vma { start: to, end: to + new_len, ..v });
    done(r)
}

pub fn brk(k: &mut Kernel, a: &Args) -> Reply {
    let limit = k.process.limits.address_space();
    let m = &mut k.memory;
    let (old, want) = (m.brk, a[0]);
    if want >= m.brk_start && want != old {
        let (old_end, new_end) = (align(old).ok_or(ENOMEM)?, align(want).ok_or(ENOMEM)?);
        let grows = new_end.saturating_sub(old_end);
        if grows == 0 || (m.is_free(old_end, new_end) && allowed(m, limit, grows)) {
            // SAFETY: moves the guest's break into free space.
            let r = unsafe { raw!(nr::BRK, want) };
            if r as u64 == want {
                m.brk = want;
                if new_end > old_end {
                    let prot = PROT_READ | PROT_WRITE;
                    m.insert(Vma { start: old_end, end: new_end, prot, written: true, shared: false, kind: Kind::Ordinary });
                } else {
                    m.remove(new_end, old_end);
                }
            }
        }
    }
    done(k.memory.brk as i64)
}

pub fn mincore(_: &mut Kernel, a: &Args) -> Reply {
    // Residency differs between hosts: all of it is in memory, as far as the guest can tell.
    let pages = align(a[1]).ok_or(ENOMEM)? / PAGE;
    for i in 0..pages {
        crate::user::write(a[2] + i, &1u8)?;
    }
    done(0)
}

/// Does RLIMIT_AS leave room for `more`? The shim's own memory is nobody's business.
fn allowed(m: &Memory, limit: u64, more: u64) -> bool {
    let own = m.vmas.iter().filter(|v| v.kind != Kind::Stubs);
    limit == u64::MAX || own.map(|v| v.end - v.start).sum::<u64>().saturating_add(more) <= limit
}

impl Kernel {
    fn address_space_allows(&self, more: u64) -> Result<(), i64> {
        if allowed(&self.memory, self.process.limits.address_space(), more) { Ok(()) } else { Err(ENOMEM) }
    }

    /// Hash of everything the guest may have written, and how many pages that was. Pages of zeros don't count:
    /// whether they were ever touched is nobody's business.
    pub fn hash_memory(&mut self) -> (u64, u64) {
        const CHUNK_PAGES: u64 = 2048;
        let mut resident = alloc::vec![0u8; CHUNK_PAGES as usize];
        let (mut sum, mut pages) = (0u64, 0u64);
        for (start, end, _) in self.compared_memory() {
            let mut at = start;
            while at < end {
                let n = ((end - at) / PAGE).min(CHUNK_PAGES);
                // SAFETY: writes one byte per page into `resident`.
                let r = unsafe { raw!(nr::MINCORE, at, n * PAGE, resident.as_mut_ptr() as u64) };
                for i in 0..n {
                    if r == 0 && resident[i as usize] & 1 == 0 {
                        continue;
                    }
                    let page = at + i * PAGE;
                    // SAFETY: mapped and readable by the table; nothing else runs while we look. A file mapping
                    // that ends inside the file faults and stops the process: crash, not lie.
                    let bytes = unsafe { core::slice::from_raw_parts(page as *const u8, PAGE as usize) };
                    if bytes.iter().all(|b| *b == 0) {
                        continue;
                    }
                    sum = sum.wrapping_add(hash(page, bytes));
                    pages += 1;
                }
                at += n * PAGE;
            }
        }
        (sum, pages)
    }

    /// Hash of the next `left` pages, how many of them are not empty, and where they are; from the first again after the last.
    ///
    /// Residency is not asked: under memory pressure it differs between hosts. So shared mappings are left out, of which
    /// a look would make pages.
    pub fn hash_slice(&mut self, mut left: u64) -> ((u64, u64), MemoryPart) {
        let mut bytes = [0u8; PAGE as usize];
        let (mut sum, mut pages) = (0u64, 0u64);
        let from = self.memory.compared_upto;
        for (start, end, shared) in self.compared_memory() {
            let mut at = start.max(from);
            while !shared && at < end {
                if left == 0 {
                    self.memory.compared_upto = at;
                    return ((sum, pages), MemoryPart { start: from, end: at });
                }
                left -= 1;
                // Beyond the end of a mapped file there is nothing, on both hosts.
                if crate::user::copy_in(&mut bytes, at).is_ok() && bytes.iter().any(|b| *b != 0) {
                    sum = sum.wrapping_add(hash(at, &bytes));
                    pages += 1;
                }
                at += PAGE;
            }
        }
        self.memory.compared_upto = 0;
        ((sum, pages), MemoryPart { start: from, end: HIGHEST })
    }

    /// Start and end of all that the guest could write, in order, and if it is shared; of the main stack only what is in
    /// use.
    fn compared_memory(&mut self) -> Vec<(u64, u64, bool)> {
        let rsp = if self.threads.exists(0) { self.regs_mut(0)[reg::RSP] } else { 0 };
        let compared = self.memory.vmas.iter().filter(|v| v.written && v.prot & PROT_READ != 0 && v.kind != Kind::Kernel);
        compared
            .filter_map(|v| match v.kind {
                Kind::Stack if rsp < v.start || rsp >= v.end => None,
                Kind::Stack => Some(((rsp - 128) & !(PAGE - 1), v.end, v.shared)),
                _ => Some((v.start, v.end, v.shared)),
            })
            .collect()
    }

    /// Hash of each mapping, for finding what differs.
    pub fn note_memory_map(&mut self) {
        use alloc::string::String;
        use core::fmt::Write;
        let mut text = String::new();
        for v in &self.memory.vmas {
            let _ = writeln!(text, "{:x}-{:x} {} {}", v.start, v.end, v.prot, u8::from(v.written));
        }
        for part in text.as_bytes().chunks(60_000) {
            self.act(&ft_log::entry::Act::Note { text: part });
        }
    }
}
