//! The output rule: nothing leaves until the log that caused it is committed. Pure; the engine acts on it.
//!
//! Each act of a guest has a barrier: the index of the last entry its domain had logged before it. Within a
//! connection acts lie on one line of positions: byte n is position n (from 1), FIN is the position after the
//! last byte, close the one after that. [`Held`] keeps, in fixed room, how far on that line which commit lets
//! one go. It may hold back longer than needed when its room is short, and never shorter.

use crate::ids::LogIndex;

/// How long the log is and how much of it is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    appended: LogIndex,
    committed: LogIndex,
}

impl Progress {
    /// A log with nothing in it.
    pub const fn new() -> Self {
        Self { appended: LogIndex(0), committed: LogIndex(0) }
    }

    /// A log that goes on from another one, all of which is safe up to `index`.
    pub fn begin_at(&mut self, index: LogIndex) {
        assert!(self.appended == LogIndex(0), "only an empty log begins");
        self.appended = index;
        self.committed = index;
    }

    /// One more entry; its index.
    pub fn append(&mut self) -> LogIndex {
        self.appended = self.appended.next();
        self.appended
    }

    /// Everything up to `upto` is safe. An older or repeated acknowledgement changes nothing.
    ///
    /// `false`: `upto` was never appended; whoever acknowledges it speaks of another log. Nothing changes.
    #[must_use]
    pub fn commit(&mut self, upto: LogIndex) -> bool {
        if upto > self.appended {
            return false;
        }
        self.committed = self.committed.max(upto);
        true
    }

    pub fn appended(&self) -> LogIndex {
        self.appended
    }

    pub fn committed(&self) -> LogIndex {
        self.committed
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Positions up to here ...
    upto: u64,
    /// ... may leave once the log is committed up to here.
    barrier: LogIndex,
}

/// What one connection holds back, in room for `N` different barriers.
#[derive(Clone, Debug)]
pub struct Held<const N: usize> {
    /// Ring of `len` marks from `first`; both `upto` and `barrier` grow strictly.
    marks: [Mark; N],
    first: usize,
    len: usize,
    released: u64,
}

impl<const N: usize> Default for Held<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Held<N> {
    pub const fn new() -> Self {
        assert!(N > 0, "room for one barrier at least");
        Self { marks: [Mark { upto: 0, barrier: LogIndex(0) }; N], first: 0, len: 0, released: 0 }
    }

    /// Everything up to position `upto` that isn't held yet waits for `barrier`.
    pub fn hold(&mut self, upto: u64, barrier: LogIndex) {
        let Some(last) = self.len.checked_sub(1).map(|k| (self.first + k) % N) else {
            if upto > self.released {
                self.marks[self.first] = Mark { upto, barrier };
                self.len = 1;
            }
            return;
        };
        let mark = &mut self.marks[last];
        if upto <= mark.upto {
            return;
        }
        // Barriers of one domain never fall; should one, holding to the higher is safe.
        let barrier = barrier.max(mark.barrier);
        if barrier == mark.barrier || self.len == N {
            *mark = Mark { upto, barrier };
        } else {
            self.marks[(last + 1) % N] = Mark { upto, barrier };
            self.len += 1;
        }
    }

    /// The position up to which everything may leave, now that the log is committed up to `committed`.
    pub fn release(&mut self, committed: LogIndex) -> u64 {
        while self.len > 0 && self.marks[self.first].barrier <= committed {
            self.released = self.marks[self.first].upto;
            self.first = (self.first + 1) % N;
            self.len -= 1;
        }
        self.released
    }

    /// Something still waits for a commit.
    pub fn is_holding(&self) -> bool {
        self.len > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_leaves_before_its_commit() {
        let mut h = Held::<4>::new();
        h.hold(100, LogIndex(7));
        h.hold(150, LogIndex(7));
        h.hold(151, LogIndex(9));
        assert_eq!(h.release(LogIndex(6)), 0);
        assert_eq!(h.release(LogIndex(7)), 150);
        assert_eq!(h.release(LogIndex(8)), 150);
        assert!(h.is_holding());
        assert_eq!(h.release(LogIndex(9)), 151);
        assert!(!h.is_holding());
    }

    #[test]
    fn an_act_without_a_log_leaves_at_once() {
        let mut h = Held::<2>::new();
        h.hold(5, LogIndex(0));
        assert_eq!(h.release(LogIndex(0)), 5);
    }

    #[test]
    fn a_foreign_acknowledgement_is_refused() {
        let mut p = Progress::new();
        assert_eq!(p.append(), LogIndex(1));
        assert!(!p.commit(LogIndex(2)));
        assert_eq!(p.committed(), LogIndex(0));
        assert!(p.commit(LogIndex(1)));
        assert!(p.commit(LogIndex(0)), "an old acknowledgement is no error");
        assert_eq!(p.committed(), LogIndex(1));
    }

    proptest! {
        /// Against the definition with unlimited room: never earlier, and complete once all is committed.
        #[test]
        fn never_earlier_than_the_definition(steps in prop::collection::vec((0u64..50, 0u64..3, any::<bool>(), 0u64..3), 1..200)) {
            let mut held = Held::<3>::new();
            let mut all: Vec<(u64, u64)> = Vec::new();
            let (mut end, mut barrier, mut committed) = (0u64, 0u64, 0u64);
            for (bytes, logged, commit, by) in steps {
                barrier += logged;
                end += bytes;
                held.hold(end, LogIndex(barrier));
                all.push((end, barrier));
                if commit {
                    committed = (committed + by).min(barrier);
                }
                let allowed = all.iter().filter(|m| m.1 <= committed).map(|m| m.0).max().unwrap_or(0);
                prop_assert!(held.release(LogIndex(committed)) <= allowed);
            }
            prop_assert_eq!(held.release(LogIndex(barrier)), end);
        }
    }
}
