//! Who takes the events in the ring of a domain that waits: the domain, once it wakes, or the engine ahead of it.
//!
//! A domain with nothing to do waits at an input point. The engine may then say for it what it applies there and at what
//! time: it *claims* the point. The log has that before the guest has woken. One word decides: leaving the point by
//! itself and claiming it are each a compare-and-swap away from "idle", and only one of them comes true.

use crate::entry::ClockSample;
use crate::ring::Line;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

const BUSY: u64 = 0;
const IDLE: u64 = 1;
const CLAIMED: u64 = 2;
/// Waits for the log's next entry: nothing to claim.
const FOLLOWING: u64 = 3;
const STATE_MASK: u64 = 3;

/// What an idle domain says of itself, for who claims its point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Rolling digest of everything before the point.
    pub digest: u64,
    /// The domain's clock: a claim stamps no earlier time.
    pub clock_ns: u64,
    /// What the domain's clock is ahead of the host's.
    pub ahead_ns: i64,
    pub realtime_offset_ns: i64,
}

/// What the engine said for the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// That many events, all of them in the ring.
    pub events: u32,
    pub clock: ClockSample,
}

/// The word, and what either side tells the other by it. Zeroed memory is a busy domain.
#[repr(C)]
pub struct Idle {
    /// `point << 2 | state`.
    word: Line<AtomicU64>,
    digest: AtomicU64,
    clock_ns: AtomicU64,
    ahead_ns: AtomicI64,
    realtime_offset_ns: AtomicI64,
    claim_events: AtomicU32,
    /// 1: the claim has a new offset of real time.
    claim_has_offset: AtomicU32,
    claim_monotonic_ns: AtomicU64,
    claim_realtime_offset_ns: AtomicI64,
}

impl Idle {
    #[cfg_attr(loom, allow(clippy::new_without_default))]
    pub fn new() -> Self {
        Self {
            word: Line(AtomicU64::new(BUSY)),
            digest: AtomicU64::new(0),
            clock_ns: AtomicU64::new(0),
            ahead_ns: AtomicI64::new(0),
            realtime_offset_ns: AtomicI64::new(0),
            claim_events: AtomicU32::new(0),
            claim_has_offset: AtomicU32::new(0),
            claim_monotonic_ns: AtomicU64::new(0),
            claim_realtime_offset_ns: AtomicI64::new(0),
        }
    }

    /// Guest: waits at `point`, having taken everything it saw in the ring. Each time with the same words for one point.
    pub fn wait_at(&self, point: u64, w: &Waiting) {
        self.digest.store(w.digest, Ordering::Relaxed);
        self.clock_ns.store(w.clock_ns, Ordering::Relaxed);
        self.ahead_ns.store(w.ahead_ns, Ordering::Relaxed);
        self.realtime_offset_ns.store(w.realtime_offset_ns, Ordering::Relaxed);
        self.word.0.store(point << 2 | IDLE, Ordering::Release);
    }

    /// Guest: waits no longer. `Some`: its point was claimed, and that is what it does there; else it is its own.
    pub fn leave(&self, point: u64) -> Option<Claim> {
        let (idle, busy) = (point << 2 | IDLE, point << 2 | BUSY);
        if self.word.0.compare_exchange(idle, busy, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return None;
        }
        let offset = self.claim_realtime_offset_ns.load(Ordering::Relaxed);
        let has_offset = self.claim_has_offset.load(Ordering::Relaxed) == 1;
        let clock = ClockSample {
            monotonic_ns: self.claim_monotonic_ns.load(Ordering::Relaxed),
            realtime_offset_ns: has_offset.then_some(offset),
        };
        let claim = Claim { events: self.claim_events.load(Ordering::Relaxed), clock };
        self.word.0.store(busy, Ordering::Release);
        Some(claim)
    }

    /// Guest: waits for the log's next entry, or does so no longer.
    pub fn follow_at(&self, point: u64, waits: bool) {
        self.word.0.store(point << 2 | if waits { FOLLOWING } else { BUSY }, Ordering::Release);
    }

    /// Engine: where the domain waits, if it does and its point can be claimed.
    pub fn waiting(&self) -> Option<(u64, Waiting)> {
        let word = self.word.0.load(Ordering::Acquire);
        let waiting = Waiting {
            digest: self.digest.load(Ordering::Relaxed),
            clock_ns: self.clock_ns.load(Ordering::Relaxed),
            ahead_ns: self.ahead_ns.load(Ordering::Relaxed),
            realtime_offset_ns: self.realtime_offset_ns.load(Ordering::Relaxed),
        };
        (word & STATE_MASK == IDLE).then_some((word >> 2, waiting))
    }

    /// Engine: claims `point`. `false`: the domain left it by itself, and what [`Self::waiting`] said may be of two points.
    pub fn claim(&self, point: u64, c: &Claim) -> bool {
        self.claim_events.store(c.events, Ordering::Relaxed);
        self.claim_has_offset.store(c.clock.realtime_offset_ns.is_some().into(), Ordering::Relaxed);
        self.claim_monotonic_ns.store(c.clock.monotonic_ns, Ordering::Relaxed);
        self.claim_realtime_offset_ns.store(c.clock.realtime_offset_ns.unwrap_or(0), Ordering::Relaxed);
        let (idle, claimed) = (point << 2 | IDLE, point << 2 | CLAIMED);
        self.word.0.compare_exchange(idle, claimed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Engine: the domain waits, in whichever role.
    pub fn is_waiting(&self) -> bool {
        matches!(self.word.0.load(Ordering::SeqCst) & STATE_MASK, IDLE | FOLLOWING)
    }

    /// As zeroed memory. Only while nobody uses it.
    pub fn reset(&self) {
        self.word.0.store(BUSY, Ordering::SeqCst);
    }
}

#[cfg(not(loom))]
impl Default for Idle {
    fn default() -> Self {
        Self::new()
    }
}
