//! The boot clock: the clock of leases. Unlike the monotonic clock it counts a suspended machine's time.

use std::time::Duration;

/// Nanoseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Before everything.
    pub const PAST: Self = Self(0);
    /// After everything.
    pub const NEVER: Self = Self(u64::MAX);

    pub fn now() -> Self {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec.
        let r = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
        assert_eq!(r, 0, "every kernel that runs this has a boot clock");
        Self(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
