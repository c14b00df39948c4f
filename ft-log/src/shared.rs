//! The memory that engine and guest share, and the addresses of everything the shim owns in a guest.
//!
//! One segment per service, a memfd: a header, then one slot per domain with a ring each way. Every
//! guest process maps it at [`SHARED_BASE`]. Layout changes demand a new [`VERSION`].

use crate::history::History;
use crate::idle::Idle;
use crate::ring::{Consumer, Control, Line, Producer, SharedBytes};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// Where the shim's image is mapped.
pub const SHIM_BASE: u64 = 0x2000_0000_0000;
/// Where the shim's heap is reserved.
pub const ARENA_BASE: u64 = 0x2001_0000_0000;
pub const ARENA_BYTES: u64 = 64 << 30;
/// Where the shared segment is mapped.
pub const SHARED_BASE: u64 = 0x2020_0000_0000;
/// Everything of the shim's lies in here; the guest never gets an address in it.
pub const SHIM_REGION: core::ops::Range<u64> = SHIM_BASE..0x2100_0000_0000;

/// "ftshared" in little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ftshared");
pub const VERSION: u32 = 8;

/// The service and its fork children that run at the same time.
pub const DOMAINS_MAX: usize = 16;
pub const RING_BYTES: usize = 4 << 20;

/// Descriptors that the shim keeps in a guest lie at and above this; the guest's limit lies below.
pub const GUEST_FDS_MAX: u32 = 16_384;
/// Eventfd that wakes the engine.
pub const DOORBELL_FD: i32 = 16_448;
/// Where the segment's descriptor lies until it is mapped.
pub const SEGMENT_FD: i32 = DOORBELL_FD + 1;
/// Only in guests that the engine did not fork: a pipe whose other end the engine has. Its end is the guest's: SIGKILL.
pub const LIFELINE_FD: i32 = DOORBELL_FD + 2;
/// Descriptors wait here, above every place they go to, until those places are free.
pub const STAGING_FD: i32 = DOORBELL_FD + 64;

/// How a domain takes part. Only the engine writes it, and only before the domain starts or by `GoLive`.
pub mod role {
    /// Makes the log.
    pub const PRIMARY: u32 = 1;
    /// Follows the log.
    pub const BACKUP: u32 = 2;
}

/// Options the shim reads at its start.
pub mod flag {
    /// Send an `Act::Trace` for each call.
    pub const TRACE: u64 = 1;
    /// Count calls into [`super::Header::census`].
    pub const CENSUS: u64 = 2;
    /// Hash memory in slices, one at a time: what a check costs is bounded, whatever the guest's size.
    pub const MEMORY_SLICES: u64 = 4;
}

/// How far a copy of the service's first process is. Engine and guest take turns.
pub mod copy {
    /// Nobody wants one.
    pub const NONE: u32 = 0;
    /// The engine wants one, at the next input point where the domain idles and has no fork child.
    pub const WANTED: u32 = 1;
    /// The guest has made it, and the engine reads it.
    pub const MADE: u32 = 2;
    /// The engine has ended it, and the guest may reap it.
    pub const READ: u32 = 3;
}

/// Where the service's first process stands still while it follows a log, before anything is applied there.
#[repr(C)]
pub struct Hold {
    /// The input point; 0: nowhere. Only before the guest starts. A process that would end because it diverged stands
    /// still too, if this is set.
    pub at: AtomicU64,
    /// 1: it stands. The engine lets it go on by 0.
    pub stands: AtomicU32,
    /// Where the guest's registers lie (as `gregs` of the kernel's ABI) while it waits or dies: what a debugger asks.
    pub registers: AtomicU64,
}

/// How far the engine is with copying the files that belong to a copy of the process. The guest begins, with the copy.
pub mod files {
    /// Nothing is copied.
    pub const FREE: u32 = 0;
    /// The engine looks what there is. Names and what belongs to them stay as they are: who wants to change them waits.
    pub const LISTED: u32 = 1;
    /// The engine reads what is in them.
    pub const READ: u32 = 2;
}

/// What a process that is made of a copy is given: a table of files that lie on another disk now.
pub mod moved {
    /// A file by device and inode: on the disk of the copied process, and on this one.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Moved {
        pub from: [u64; 2],
        pub to: [u64; 2],
    }

    /// Of a table of so many.
    pub const fn bytes(len: usize) -> usize {
        size_of::<u64>() + len * size_of::<Moved>()
    }

    /// # Safety
    /// At `at`, aligned for words, lies a number and so many [`Moved`], for as long as the result is used.
    pub unsafe fn read<'a>(at: u64) -> &'a [Moved] {
        // SAFETY: by the caller's promise.
        unsafe {
            let len = *(at as *const u64) as usize;
            core::slice::from_raw_parts((at + size_of::<u64>() as u64) as *const Moved, len)
        }
    }
}

/// Initial mappings of the program, as the kernel made them at exec.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct InitialMap {
    pub start: u64,
    pub end: u64,
    /// PROT_* bits.
    pub protection: u32,
    /// One of [`map_kind`].
    pub kind: u32,
}

pub mod map_kind {
    pub const FILE: u32 = 0;
    pub const STACK: u32 = 1;
    pub const HEAP: u32 = 2;
    /// vdso, vvar and the like: kept, never hashed.
    pub const KERNEL: u32 = 3;
    pub const ANONYMOUS: u32 = 4;
}

pub const INITIAL_MAPS_MAX: usize = 32;
pub const CALLS_MAX: usize = 512;

#[repr(C)]
pub struct Header {
    pub magic: u64,
    pub version: u32,
    /// Role of domain 0 at its start.
    pub role: AtomicU32,
    pub flags: AtomicU64,
    /// Every so many input points at which the domain idles its memory, or a slice of it, is hashed; 0: never.
    pub memory_every: AtomicU64,
    /// One of [`copy`].
    pub copy: AtomicU32,
    /// One of [`files`]. But where it is free, whoever changes a file's content tells before what was there.
    pub files: AtomicU32,
    pub hold: Hold,
    /// 1: the engine sleeps on the doorbell and wants a write to it.
    pub engine_waits: Line<AtomicU32>,
    /// The guest's own first process id, as it sees itself.
    pub guest_pid: u32,
    pub initial_maps_len: u32,
    pub initial_maps: [InitialMap; INITIAL_MAPS_MAX],
    /// Program break at exec.
    pub brk_start: u64,
    /// Lowest address the main stack may reach.
    pub stack_limit: u64,
    /// Digest seed: differs per service, equal on both hosts.
    pub seed: u64,
    /// Calls made, by number.
    pub census: [AtomicU64; CALLS_MAX],
}

/// What a domain says of itself without a ring.
#[repr(C)]
pub struct DomainStatus {
    pub idle: Idle,
    /// Calls made, for progress reports.
    pub calls: AtomicU64,
    /// How many of them came without a trap, and how many call sites are rewritten so that they do.
    pub hooked: AtomicU64,
    pub rewritten: AtomicU64,
    /// Current input point, for progress reports.
    pub point: AtomicU64,
    /// The engine's answer to an act that has one; valid while `answered` is 1.
    pub answer: AtomicI64,
    /// 0: the guest waits for an answer.
    pub answered: Line<AtomicU32>,
}

#[repr(C)]
pub struct DomainControl {
    pub to_guest: Control,
    pub from_guest: Control,
    pub status: DomainStatus,
    pub history: History,
}

const PAGE: usize = 4096;

/// Bytes of the header, rounded up to pages.
pub const HEADER_BYTES: usize = size_of::<Header>().div_ceil(PAGE) * PAGE;
const CONTROL_BYTES: usize = size_of::<DomainControl>().div_ceil(PAGE) * PAGE;
const SLOT_BYTES: usize = CONTROL_BYTES + 2 * RING_BYTES;
/// Size of the whole segment.
pub const SEGMENT_BYTES: usize = HEADER_BYTES + DOMAINS_MAX * SLOT_BYTES;

/// A view of the segment at whatever address this process has it.
#[derive(Clone, Copy)]
pub struct Segment {
    base: *mut u8,
}

// SAFETY: the segment holds atomics and rings only (and a header that is constant once the guest runs); the
// rings' ends are handed out by unsafe functions whose callers promise a single user each.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// # Safety
    /// `base` is page-aligned and maps [`SEGMENT_BYTES`] of zeroed or initialised segment for as long as the
    /// process lives.
    pub const unsafe fn new(base: *mut u8) -> Self {
        Self { base }
    }

    pub fn header(&self) -> &'static Header {
        // SAFETY: the mapping is large and aligned enough and lives as long as the process (`new`).
        unsafe { &*self.base.cast::<Header>() }
    }

    /// # Safety
    /// No other reference to the header is in use: only before the guest starts.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn header_mut(&self) -> &'static mut Header {
        // SAFETY: the mapping is large and aligned enough (`new`); exclusive by the caller's promise.
        unsafe { &mut *self.base.cast::<Header>() }
    }

    fn slot(&self, domain: u16) -> *mut u8 {
        assert!((domain as usize) < DOMAINS_MAX);
        // SAFETY: inside the mapping by the assertion and `new`.
        unsafe { self.base.add(HEADER_BYTES + domain as usize * SLOT_BYTES) }
    }

    pub fn domain(&self, domain: u16) -> &'static DomainControl {
        // SAFETY: as in `header`; all of it is atomics.
        unsafe { &*self.slot(domain).cast::<DomainControl>() }
    }

    fn ring_bytes(&self, domain: u16, index: usize) -> SharedBytes {
        // SAFETY: inside the slot by construction of SLOT_BYTES; one producer and one consumer by the promise of
        // the callers of the four functions below.
        unsafe { SharedBytes::new(self.slot(domain).add(CONTROL_BYTES + index * RING_BYTES), RING_BYTES) }
    }

    /// # Safety
    /// One producer per domain.
    pub unsafe fn to_guest_producer(&self, domain: u16) -> Producer<'static, SharedBytes> {
        Producer::new(&self.domain(domain).to_guest, self.ring_bytes(domain, 0))
    }

    /// # Safety
    /// One consumer per domain.
    pub unsafe fn to_guest_consumer(&self, domain: u16) -> Consumer<'static, SharedBytes> {
        Consumer::new(&self.domain(domain).to_guest, self.ring_bytes(domain, 0))
    }

    /// # Safety
    /// One producer per domain.
    pub unsafe fn from_guest_producer(&self, domain: u16) -> Producer<'static, SharedBytes> {
        Producer::new(&self.domain(domain).from_guest, self.ring_bytes(domain, 1))
    }

    /// # Safety
    /// One consumer per domain.
    pub unsafe fn from_guest_consumer(&self, domain: u16) -> Consumer<'static, SharedBytes> {
        Consumer::new(&self.domain(domain).from_guest, self.ring_bytes(domain, 1))
    }
}
