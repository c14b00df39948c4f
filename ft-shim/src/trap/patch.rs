//! How a call site is rewritten: five bytes at or before its `syscall` become a jump to a stub close by, which executes
//! the instructions they displace and enters the hook.
//!
//! Laws: only whole instructions are displaced, and only such as do the same at any address; no branch known or
//! possible leads between them; a site of which this can't be shown is left alone.

use super::functions::Function;
use super::instructions::{self, Flow, LENGTH_MAX, SYSCALL};
use alloc::vec::Vec;
use core::ops::Range;

/// `jmp rel32`.
pub const JUMP_BYTES: usize = 5;
/// Instructions displaced on either side at most.
const DISPLACED_MAX: usize = 4;
/// No rewritten range is longer: one instruction may bring it from one byte short of a jump to its own length more.
pub const SPAN_BYTES_MAX: usize = JUMP_BYTES + LENGTH_MAX;
/// A stub takes no more.
pub const STUB_BYTES: usize = 64;
/// Larger functions are not looked at.
pub const FUNCTION_BYTES_MAX: usize = 1 << 16;

/// What of a function is rewritten, in offsets from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Replaced by the jump and what is left of the displaced instructions.
    pub span: Range<usize>,
    /// Displaced instructions before and after the call. One of them is empty.
    pub before: Range<usize>,
    pub after: Range<usize>,
    /// Starts of displaced instructions, but for the first one of `before`.
    pub inner: Vec<usize>,
}

/// Ways to rewrite the call at `syscall` in a function's `code`, best first.
pub fn plans(code: &[u8], syscall: usize, function: &Function) -> Vec<Plan> {
    let mut plans = Vec::new();
    let Some(flow) = Layout::of(code, syscall) else { return plans };
    let after_call = syscall + SYSCALL.len();
    let index = flow.starts.partition_point(|s| *s < syscall);
    let movable_before = flow.movable[..index].iter().rev().take(DISPLACED_MAX).take_while(|m| **m).count();
    let first = |enough: &dyn Fn(usize) -> bool| (1..=movable_before).map(|n| flow.starts[index - n]).find(|s| enough(*s));

    if let Some(start) = first(&|s| s + JUMP_BYTES <= syscall) {
        let inner = flow.starts[..index].iter().copied().filter(|s| *s > start).collect();
        plans.push(Plan { span: start..syscall, before: start..syscall, after: after_call..after_call, inner });
    }
    let movable_after = flow.movable[index + 1..].iter().take(DISPLACED_MAX).take_while(|m| **m).count();
    if let Some(n) = (1..=movable_after).find(|n| flow.start(index + 1 + n) - syscall >= JUMP_BYTES) {
        let end = flow.start(index + 1 + n);
        let inner = flow.starts[index + 1..index + 1 + n].to_vec();
        plans.push(Plan { span: syscall..end, before: syscall..syscall, after: after_call..end, inner });
    }
    plans.retain(|p| {
        let inside = |at: &usize| p.span.start < *at && *at < p.span.end;
        p.span.len() <= SPAN_BYTES_MAX
            && (p.inner.is_empty()
                || (flow.complete && !flow.indirect && !function.entered_otherwise && !flow.targets.iter().any(inside)))
    });
    // Least displaced first: one instruction has no inside to branch to.
    plans.sort_by_key(|p| p.inner.len());
    plans
}

/// A function's instructions.
struct Layout {
    starts: Vec<usize>,
    movable: Vec<bool>,
    end: usize,
    targets: Vec<usize>,
    indirect: bool,
    /// Known to the end of the function.
    complete: bool,
}

impl Layout {
    /// `None` if decoding doesn't come past the call.
    fn of(code: &[u8], syscall: usize) -> Option<Self> {
        let mut l = Self { starts: Vec::new(), movable: Vec::new(), end: 0, targets: Vec::new(), indirect: false, complete: false };
        while l.end < code.len() {
            let Some(i) = instructions::decode(&code[l.end..]) else { break };
            l.starts.push(l.end);
            l.movable.push(i.movable);
            l.end += i.length;
            match i.flow {
                Flow::Next => {}
                Flow::Direct(by) => l.targets.extend(l.end.checked_add_signed(by as isize)),
                Flow::Indirect => l.indirect = true,
            }
        }
        l.complete = l.end == code.len();
        let found = l.starts.binary_search(&syscall).is_ok() && code.get(syscall..syscall + SYSCALL.len()) == Some(&SYSCALL);
        (found && l.end >= syscall + SYSCALL.len()).then_some(l)
    }

    /// Where instruction `index` starts, or the last one ends.
    fn start(&self, index: usize) -> usize {
        self.starts.get(index).copied().unwrap_or(self.end)
    }
}

/// May there be a branch to strictly inside `span` in `code`, which lies at `base`? Looks at every position as if it held
/// one, so data may look like one, but no branch is overlooked. Parts of a text may be looked at one by one if they
/// overlap by three bytes.
pub fn may_branch_into(code: &[u8], base: u64, span: &Range<u64>) -> bool {
    let inside = (span.end - span.start - 1) as u32;
    let first = span.start + 1;
    code.windows(4).enumerate().any(|(i, w)| {
        let by = i32::from_le_bytes([w[0], w[1], w[2], w[3]]);
        let target = (base + i as u64 + 4).wrapping_add_signed(by.into()).wrapping_sub(first);
        target < u64::from(inside)
    })
}

/// As `may_branch_into`, of short branches.
pub fn may_branch_shortly_into(code: &[u8], base: u64, span: &Range<u64>) -> bool {
    code.windows(2).enumerate().any(|(i, w)| {
        let target = (base + i as u64 + 2).wrapping_add_signed(i64::from(w[1] as i8));
        matches!(w[0], 0x70..=0x7f | 0xe0..=0xe3 | 0xeb) && target > span.start && target < span.end
    })
}

/// Bytes that reach any short branch's target, either way.
pub const SHORT_REACH: u64 = 130;

/// A stub, and where in it the displaced instructions begin.
pub struct Stub {
    pub code: Vec<u8>,
    pub before: usize,
    pub after: usize,
}

/// The stub at `at` for the call that returns to `next` in the guest's own text; `back`: where the text goes on after the
/// span. `hook_pointer` is the address of a word that holds the hook's.
pub fn stub(before: &[u8], after: &[u8], at: u64, next: u64, back: u64, hook_pointer: u64) -> Option<Stub> {
    let mut code = Vec::with_capacity(STUB_BYTES);
    code.extend_from_slice(before);
    // mov rcx, next: what the `syscall` instruction leaves there. It overwrites r11 too, so both are free.
    code.extend_from_slice(&[0x48, 0xb9]);
    code.extend_from_slice(&next.to_le_bytes());
    let tail = code.len() + 7 + 6;
    if after.is_empty() {
        // mov r11, rcx, and a nop of four bytes.
        code.extend_from_slice(&[0x49, 0x89, 0xcb, 0x0f, 0x1f, 0x40, 0x00]);
    } else {
        // lea r11, [rip + tail]
        code.extend_from_slice(&[0x4c, 0x8d, 0x1d, 6, 0, 0, 0]);
    }
    // jmp [rip + hook pointer]
    code.extend_from_slice(&[0xff, 0x25]);
    code.extend_from_slice(&distance(at + tail as u64, hook_pointer)?.to_le_bytes());
    if !after.is_empty() {
        code.extend_from_slice(after);
        code.extend_from_slice(&jump(at + code.len() as u64, back)?);
    }
    (code.len() <= STUB_BYTES).then_some(Stub { code, before: 0, after: tail })
}

/// `jmp` at `from` to `to`.
pub fn jump(from: u64, to: u64) -> Option<[u8; JUMP_BYTES]> {
    let d = distance(from + JUMP_BYTES as u64, to)?.to_le_bytes();
    Some([0xe9, d[0], d[1], d[2], d[3]])
}

fn distance(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from) as i64).ok()
}
