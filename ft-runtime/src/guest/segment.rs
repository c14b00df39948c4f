//! The segment that engine and guest share: made, sealed and mapped here; its header filled before the guest runs.

use super::maps::Layout;
use ft_log::shared::{Header, INITIAL_MAPS_MAX, MAGIC, SEGMENT_BYTES, Segment, VERSION};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// The first process of a guest, as the guest sees it. Equal on both hosts, so it can't be the real one.
pub const GUEST_PID: u32 = 1000;
/// Room for the main stack: the limit is pinned to it.
pub const STACK_BYTES: u64 = 8 << 20;

/// A segment whose guest does not run yet. Dropping it takes it down; [`Self::publish`] keeps it for good.
pub(super) struct NewSegment {
    fd: OwnedFd,
    memory: Memory,
}

struct Memory(NonNull<c_void>);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly what `create` mapped; `publish` is the only way to let a view of it out, and forgoes this.
        // An error can only mean that nothing is mapped there any more.
        let _ = unsafe { munmap(self.0, SEGMENT_BYTES) };
    }
}

impl NewSegment {
    /// An empty segment of full size. Sealed: no guest can shrink it under the engine's feet.
    pub(super) fn create() -> io::Result<Self> {
        let fd = memfd_create(c"ft-segment", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, SEGMENT_BYTES as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        let bytes = const { NonZeroUsize::new(SEGMENT_BYTES).unwrap() };
        // SAFETY: a new mapping at an address the kernel chooses; it takes nothing from anybody.
        let base =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &fd, 0)? };
        Ok(Self { fd, memory: Memory(base) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Says what the guest is, to the shim that has not run yet.
    pub(super) fn fill(&mut self, start: &Start) {
        // SAFETY: the mapping covers the header and is page-aligned; the guest has not run its first instruction and
        // no view was given out (`publish` consumes self), so nobody else looks at it.
        let h = unsafe { self.memory.0.cast::<Header>().as_mut() };
        h.magic = MAGIC;
        h.version = VERSION;
        h.role.store(start.role, Ordering::Relaxed);
        h.flags.store(start.flags, Ordering::Relaxed);
        h.memory_every.store(start.memory_every, Ordering::Relaxed);
        h.hold.at.store(start.hold_at, Ordering::Relaxed);
        h.guest_pid = GUEST_PID;
        let maps = &start.layout.mappings;
        assert!(maps.len() <= INITIAL_MAPS_MAX, "Layout::read bounds the number of mappings");
        h.initial_maps_len = maps.len() as u32;
        h.initial_maps[..maps.len()].copy_from_slice(maps);
        h.brk_start = start.layout.brk_start;
        h.stack_limit = start.layout.stack.end - STACK_BYTES;
        h.seed = start.seed;
    }

    /// The engine's view. From here on the mapping stays as long as the process lives, as [`Segment`] demands.
    pub(super) fn publish(self) -> Segment {
        let base = self.memory.0.as_ptr().cast();
        std::mem::forget(self.memory);
        // SAFETY: page-aligned, SEGMENT_BYTES long, initialised by `create` and `fill`; never unmapped, since the
        // only munmap is in the destructor just forgone.
        unsafe { Segment::new(base) }
    }
}

/// What the header says.
pub(super) struct Start<'a> {
    pub role: u32,
    pub flags: u64,
    pub memory_every: u64,
    pub hold_at: u64,
    pub seed: u64,
    pub layout: &'a Layout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_shrink_it() {
        let segment = NewSegment::create().unwrap();
        assert_eq!(nix::unistd::ftruncate(segment.fd(), 0), Err(nix::errno::Errno::EPERM));
    }
}
