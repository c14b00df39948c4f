//! The shim's own memory: a region at a fixed address that the launcher reserved, cut into powers of two.
//!
//! Deterministic (same requests, same addresses) and never given back to the kernel. Single-threaded by the
//! shim's law 2.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use ft_log::shared::{ARENA_BASE, ARENA_BYTES};

/// 32 bytes: the smallest block; 2^5.
const CLASS_MIN: u32 = 5;
const CLASSES: usize = 32;

struct Free {
    next: *mut Free,
}

struct Inner {
    used: u64,
    free: [*mut Free; CLASSES],
}

pub struct Arena(UnsafeCell<Inner>);

// SAFETY: one kernel thread uses the shim and never re-enters it (law 2).
unsafe impl Sync for Arena {}

impl Arena {
    const fn new() -> Self {
        Self(UnsafeCell::new(Inner { used: 0, free: [ptr::null_mut(); CLASSES] }))
    }

    fn class(layout: Layout) -> usize {
        let size = layout.size().max(layout.align()).max(1 << CLASS_MIN).next_power_of_two();
        (size.trailing_zeros() - CLASS_MIN) as usize
    }
}

// SAFETY: blocks are disjoint, sized and aligned to their power-of-two class, inside the reserved region.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = Self::class(layout);
        if class >= CLASSES {
            return ptr::null_mut();
        }
        // SAFETY: no other reference exists: single thread, never re-entered.
        let inner = unsafe { &mut *self.0.get() };
        let head = inner.free[class];
        if !head.is_null() {
            // SAFETY: free blocks were given back by `dealloc`, which wrote a `Free` into them.
            inner.free[class] = unsafe { (*head).next };
            return head.cast();
        }
        let size = 1u64 << (class as u32 + CLASS_MIN);
        let at = inner.used.next_multiple_of(size.min(4096));
        if at + size > ARENA_BYTES {
            return ptr::null_mut();
        }
        inner.used = at + size;
        (ARENA_BASE + at) as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let class = Self::class(layout);
        // SAFETY: as in `alloc`.
        let inner = unsafe { &mut *self.0.get() };
        let block = block.cast::<Free>();
        // SAFETY: the block is ours, at least 32 bytes, and nobody uses it any more.
        unsafe { (*block).next = inner.free[class] };
        inner.free[class] = block;
    }
}

#[cfg_attr(feature = "freestanding", global_allocator)]
pub static ARENA: Arena = Arena::new();
