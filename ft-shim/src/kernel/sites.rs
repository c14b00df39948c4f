//! Call sites: how often each has trapped, and those that were rewritten to come without a trap (`trap/patch.rs`).
//!
//! Laws: whether and when a site is rewritten follows from the guest's calls and its mappings alone. Rewritten text was
//! never writable, so it is not part of the memory that is compared; before a mapping with such text or with stubs
//! changes, the guest's own bytes are put back. Everywhere but in `land` a thread is where it would be in the guest's
//! own text, so signal frames, unwinders and parked threads know nothing of stubs.

use super::Kernel;
use crate::raw::nr;
use crate::trap::frame::{UContext, reg};
use crate::trap::functions::{Function, Memory};
use crate::trap::instructions::SYSCALL;
use crate::trap::patch::{self, Plan};
use crate::trap::hook;
use crate::user;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

const PAGE: u64 = 4096;
const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;

/// A site is rewritten when it traps for this time: most of those that run at a start run once.
const TRAPS: u8 = 2;
/// Code that makes new sites all the time is not counted forever.
const SITES_MAX: usize = 1 << 16;
/// rt_sigreturn: unwinders know its site by its bytes. clone, fork, vfork, clone3: who returns there is another.
const LEFT: [u32; 5] = [15, 56, 57, 58, 435];

/// Room for stubs, all within reach of the sites that jump there. The hook's address lies in the first slot.
const AREA_BYTES: u64 = 64 << 10;
const SLOT_BYTES: u64 = patch::STUB_BYTES as u64;
/// A jump's reach, less what site and stub may lie apart from where they begin.
const REACH: u64 = (1 << 31) - AREA_BYTES - PAGE;
/// Texts larger than that are not searched for branches.
const TEXT_BYTES_MAX: u64 = 16 << 20;

struct Patch {
    span: Range<u64>,
    /// What the guest's text had there.
    own: Vec<u8>,
    prot: u64,
    /// The address after the call.
    next: u64,
    stub: u64,
    /// Displaced instructions inside the span: their own address, and where they are now.
    moved: Vec<(u64, u64)>,
}

struct Area {
    start: u64,
    /// Slots in use, from the first on; those given back are used again.
    used: u64,
    free: Vec<u64>,
}

impl Area {
    fn range(&self) -> Range<u64> {
        self.start..self.start + AREA_BYTES
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty() || (self.used + 1) * SLOT_BYTES <= AREA_BYTES
    }

    fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.start + (self.used - 1) * SLOT_BYTES
        })
    }
}

#[derive(Default)]
pub struct Sites {
    /// Traps so far, by the address after the call.
    traps: BTreeMap<u64, u8>,
    /// Sorted by their spans.
    patches: Vec<Patch>,
    areas: Vec<Area>,
    /// The last hooked call: the address after it, and where its stub goes on.
    entered: (u64, u64),
    /// Calls that came without a trap.
    pub hooked: u64,
}

impl Sites {
    /// A call came from the stub that goes on at `resume`.
    pub fn enter(&mut self, next: u64, resume: u64) {
        self.entered = (next, resume);
        self.hooked += 1;
    }

    /// How many sites are rewritten now.
    pub fn count(&self) -> usize {
        self.patches.len()
    }

    fn is_due(&mut self, next: u64) -> bool {
        if self.traps.len() >= SITES_MAX && !self.traps.contains_key(&next) {
            return false;
        }
        let n = self.traps.entry(next).or_insert(0);
        *n = n.saturating_add(1);
        *n == TRAPS
    }

    /// Where what the guest has at `rip` is executed.
    fn executed_at(&self, rip: u64) -> u64 {
        if rip == self.entered.0 {
            return self.entered.1;
        }
        let i = self.patches.partition_point(|p| p.span.end <= rip);
        let Some(p) = self.patches.get(i).filter(|p| p.span.start < rip) else { return rip };
        p.moved.iter().find(|(own, _)| *own == rip).map_or(rip, |(_, now)| *now)
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Writes to text that is executable otherwise. False: it can't be made writable, and is as before.
pub fn write_text(at: u64, bytes: &[u8], prot: u64) -> bool {
    let start = at & !(PAGE - 1);
    let len = (at + bytes.len() as u64).next_multiple_of(PAGE) - start;
    // SAFETY: the guest's text or a stub area; the shim runs, so nobody executes it.
    if unsafe { raw!(nr::MPROTECT, start, len, PROT_READ | PROT_WRITE) } != 0 {
        return false;
    }
    let written = user::copy_out(at, bytes);
    // SAFETY: as it was before.
    let r = unsafe { raw!(nr::MPROTECT, start, len, prot) };
    assert!(written.is_ok() && r == 0, "text at {at:#x} can't be written");
    true
}

/// What lies there, if all of it can be read.
pub fn text(range: Range<u64>) -> Option<Vec<u8>> {
    let mut b = alloc::vec![0; (range.end - range.start) as usize];
    user::copy_in(&mut b, range.start).is_ok().then_some(b)
}

impl Kernel {
    /// The call that returns to `uc`'s rip trapped.
    pub fn trapped(&mut self, uc: &mut UContext, number: u32) {
        let next = uc.regs[reg::RIP];
        if !LEFT.contains(&number) && self.sites.is_due(next) && hook::learn(uc) {
            self.rewrite(next);
        }
    }

    /// The last step of each way back into the guest.
    pub fn land(&mut self) {
        let rip = self.uc().regs[reg::RIP];
        self.uc().regs[reg::RIP] = self.sites.executed_at(rip);
    }

    /// Rewrites the site whose call returns to `next`, or leaves it as it is.
    fn rewrite(&mut self, next: u64) -> Option<()> {
        let site = next.checked_sub(SYSCALL.len() as u64)?;
        let (mapping, prot) = self.memory.text_at(site)?;
        let mut read = |at: u64, to: &mut [u8]| user::copy_in(to, at).is_ok();
        let function = Memory { read: &mut read }.function_at(site)?;
        let Range { start, end } = function.range;
        if end - start > patch::FUNCTION_BYTES_MAX as u64 || start < mapping.start || end > mapping.end {
            return None;
        }
        let code = text(start..end)?;
        let plans = patch::plans(&code, (site - start) as usize, &function);
        plans.iter().find_map(|plan| {
            let span = start + plan.span.start as u64..start + plan.span.end as u64;
            let one_page = span.start & !(PAGE - 1) == (span.end - 1) & !(PAGE - 1);
            let closed = plan.inner.is_empty() || !may_be_entered(&function, &span);
            if one_page && closed { self.apply(&code, start, plan, next, prot) } else { None }
        })
    }

    fn apply(&mut self, code: &[u8], start: u64, plan: &Plan, next: u64, prot: u64) -> Option<()> {
        let span = start + plan.span.start as u64..start + plan.span.end as u64;
        let area = self.area_near(span.start)?;
        let hook_pointer = self.sites.areas[area].start;
        let at = self.sites.areas[area].take();
        let (before, after) = (&code[plan.before.clone()], &code[plan.after.clone()]);
        let written = patch::stub(before, after, at, next, span.end, hook_pointer).and_then(|stub| {
            let mut text = patch::jump(span.start, at)?.to_vec();
            const INT3: u8 = 0xcc;
            text.resize(plan.span.len(), INT3);
            let done = write_text(at, &stub.code, PROT_READ | PROT_EXEC) && write_text(span.start, &text, prot);
            done.then_some(stub)
        });
        let Some(stub) = written else {
            self.sites.areas[area].free.push(at);
            return None;
        };
        let moved = plan.inner.iter().map(|&own| {
            let now = if plan.after.contains(&own) { stub.after + own - plan.after.start } else { own - plan.before.start };
            (start + own as u64, at + now as u64)
        });
        let own = code[plan.span.clone()].to_vec();
        let patch = Patch { span, own, prot, next, stub: at, moved: moved.collect() };
        let i = self.sites.patches.partition_point(|p| p.span.start < patch.span.start);
        self.sites.patches.insert(i, patch);
        Some(())
    }

    /// An area with a free slot that a jump at `site` reaches, there and back.
    fn area_near(&mut self, site: u64) -> Option<usize> {
        let areas = &self.sites.areas;
        if let Some(i) = areas.iter().position(|a| a.start.abs_diff(site) < REACH && a.has_room()) {
            return Some(i);
        }
        let start = self.memory.place_stubs(site, AREA_BYTES, REACH)?;
        const MAP_PRIVATE: u64 = 2;
        const MAP_ANONYMOUS: u64 = 0x20;
        const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        // SAFETY: free by the table; nothing is replaced if it isn't.
        let r = unsafe { raw!(nr::MMAP, start, AREA_BYTES, PROT_READ | PROT_EXEC, flags, u64::MAX, 0) };
        if r != start as i64 || !write_text(start, &hook::address().to_le_bytes(), PROT_READ | PROT_EXEC) {
            return None;
        }
        self.memory.insert_stubs(start, start + AREA_BYTES);
        self.sites.areas.push(Area { start, used: 1, free: Vec::new() });
        Some(self.sites.areas.len() - 1)
    }

    /// Before the guest changes what is mapped in `range`: its text there is its own again, and no stub is left in it.
    pub fn put_back(&mut self, range: Range<u64>) {
        let gone: Vec<Range<u64>> = self.sites.areas.iter().map(Area::range).filter(|a| overlap(a, &range)).collect();
        let in_gone = |at: u64| gone.iter().any(|a| a.contains(&at));
        let s = &mut self.sites;
        if gone.is_empty() && !s.patches.iter().any(|p| overlap(&p.span, &range)) {
            return;
        }
        let mut i = 0;
        while i < s.patches.len() {
            if !overlap(&s.patches[i].span, &range) && !in_gone(s.patches[i].stub) {
                i += 1;
                continue;
            }
            let p = s.patches.remove(i);
            assert!(write_text(p.span.start, &p.own, p.prot), "text at {:#x} can't be put back", p.span.start);
            s.traps.remove(&p.next);
            if let Some(a) = s.areas.iter_mut().find(|a| a.range().contains(&p.stub)) {
                a.free.push(p.stub);
            }
        }
        s.entered = (0, 0);
        s.areas.retain(|a| !in_gone(a.start));
        for a in gone {
            // SAFETY: the shim's own, and no site jumps there any more.
            let r = unsafe { raw!(nr::MUNMAP, a.start, AREA_BYTES) };
            assert!(r == 0, "stubs at {:#x} can't be unmapped", a.start);
            self.memory.forget(a);
        }
    }
}

/// Could anything but the decoded function branch to strictly inside `span`?
fn may_be_entered(function: &Function, span: &Range<u64>) -> bool {
    const CHUNK: u64 = 64 << 10;
    /// A branch may begin in one chunk and end in the next.
    const SEAM: u64 = 3;
    let whole = &function.text;
    if whole.end - whole.start > TEXT_BYTES_MAX {
        return true;
    }
    let mut at = whole.start;
    while at < whole.end {
        let end = (at + CHUNK + SEAM).min(whole.end);
        match text(at..end) {
            Some(code) if !patch::may_branch_into(&code, at, span) => {}
            _ => return true,
        }
        at += CHUNK;
    }
    let before = (span.start - patch::SHORT_REACH).max(whole.start)..function.range.start;
    let after = function.range.end..(span.end + patch::SHORT_REACH).min(whole.end);
    [before, after].into_iter().filter(|r| r.start < r.end).any(|r| {
        let at = r.start;
        text(r).is_none_or(|code| patch::may_branch_shortly_into(&code, at, span))
    })
}
