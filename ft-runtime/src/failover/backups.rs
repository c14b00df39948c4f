//! The backups of a log: how far each one holds it, and how far all of those do that output waits for. Pure.
//!
//! Law: by this rule output leaves when *every* backup that it waits for holds what caused it. Where it waits for none,
//! nothing leaves by it: only the right to be alone ([`super::rights::Alone`]) lets go what nobody else holds.

use super::record::{HostId, MEMBERS_MAX};
use ft_log::ids::LogIndex;

/// All members but the primary.
pub const BACKUPS_MAX: usize = MEMBERS_MAX - 1;

#[derive(Clone, Copy, Debug)]
struct Backup {
    host: HostId,
    /// Everything up to here is with it, by its own word.
    holds: LogIndex,
    is_awaited: bool,
}

/// The hosts that are given one log: [`BACKUPS_MAX`] at most.
#[derive(Clone, Debug, Default)]
pub struct Backups(Vec<Backup>);

impl Backups {
    /// `host` is given the log from here on, and has acknowledged nothing. Output doesn't wait for it yet. Again: anew.
    pub fn begin(&mut self, host: HostId) {
        self.end(host);
        assert!(self.0.len() < BACKUPS_MAX, "a log has {BACKUPS_MAX} backups at most");
        self.0.push(Backup { host, holds: LogIndex(0), is_awaited: false });
    }

    /// `host` is given no more of the log, and is not waited for.
    pub fn end(&mut self, host: HostId) {
        self.0.retain(|b| b.host != host);
    }

    pub fn is_given(&self, host: HostId) -> bool {
        self.find(host).is_some()
    }

    /// Output waits for `host` from here on, if it is given the log.
    pub fn wait_for(&mut self, host: HostId) {
        self.0.iter_mut().filter(|b| b.host == host).for_each(|b| b.is_awaited = true);
    }

    /// The word of `host` that it holds everything up to `upto`. An older one changes nothing, nor does that of a host
    /// which isn't given the log.
    pub fn acknowledge(&mut self, host: HostId, upto: LogIndex) {
        self.0.iter_mut().filter(|b| b.host == host).for_each(|b| b.holds = b.holds.max(upto));
    }

    /// Output that was caused by entries up to here may leave: each backup that it waits for holds them. `None`: it waits
    /// for no backup, and none lets anything go.
    pub fn committed(&self) -> Option<LogIndex> {
        self.0.iter().filter(|b| b.is_awaited).map(|b| b.holds).min()
    }

    /// What all hold that are given the log, waited for or not; `None`: there are none.
    pub fn held_by_all(&self) -> Option<LogIndex> {
        self.0.iter().map(|b| b.holds).min()
    }

    /// What `host` holds; `None`: it isn't given the log.
    pub fn held_by(&self, host: HostId) -> Option<LogIndex> {
        self.find(host).map(|b| b.holds)
    }

    fn find(&self, host: HostId) -> Option<&Backup> {
        self.0.iter().find(|b| b.host == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: HostId = HostId(1);
    const B: HostId = HostId(2);
    const C: HostId = HostId(3);

    fn awaited(hosts: &[HostId]) -> Backups {
        let mut b = Backups::default();
        for h in hosts {
            b.begin(*h);
            b.wait_for(*h);
        }
        b
    }

    #[test]
    fn no_backup_lets_nothing_go() {
        let mut b = Backups::default();
        assert_eq!(b.committed(), None);
        b.acknowledge(A, LogIndex(5));
        b.wait_for(A);
        assert_eq!((b.committed(), b.held_by_all()), (None, None), "a host that isn't given the log");
    }

    #[test]
    fn one_backup_lets_go_what_it_holds() {
        let mut b = Backups::default();
        b.begin(A);
        b.acknowledge(A, LogIndex(5));
        assert_eq!((b.committed(), b.held_by(A)), (None, Some(LogIndex(5))), "nothing waits for it yet");
        b.wait_for(A);
        assert_eq!(b.committed(), Some(LogIndex(5)));
        b.acknowledge(A, LogIndex(4));
        assert_eq!(b.committed(), Some(LogIndex(5)), "an old acknowledgement is no error");
        b.end(A);
        assert_eq!(b.committed(), None);
        b.begin(A);
        assert_eq!((b.committed(), b.held_by(A)), (None, Some(LogIndex(0))), "what it held before is gone");
    }

    #[test]
    fn of_two_backups_the_slower_one_counts() {
        let mut b = awaited(&[A, B]);
        b.acknowledge(A, LogIndex(9));
        assert_eq!(b.committed(), Some(LogIndex(0)));
        b.acknowledge(B, LogIndex(7));
        assert_eq!(b.committed(), Some(LogIndex(7)));
        b.end(B);
        assert_eq!(b.committed(), Some(LogIndex(9)));
    }

    #[test]
    fn of_three_backups_one_that_is_being_given_the_state_does_not_count() {
        let mut b = awaited(&[A, B]);
        b.begin(C);
        for (host, upto) in [(A, 9), (B, 7), (C, 2)] {
            b.acknowledge(host, LogIndex(upto));
        }
        assert_eq!((b.committed(), b.held_by_all()), (Some(LogIndex(7)), Some(LogIndex(2))));
        b.wait_for(C);
        assert_eq!(b.committed(), Some(LogIndex(2)));
        b.acknowledge(C, LogIndex(9));
        assert_eq!(b.committed(), Some(LogIndex(7)));
    }

    proptest! {
        /// Against the definition.
        #[test]
        fn nothing_leaves_that_a_backup_lacks(
            steps in prop::collection::vec((0u8..4, 0u64..BACKUPS_MAX as u64, 0u64..40), 0..80),
        ) {
            let mut b = Backups::default();
            let mut model: Vec<Option<(u64, bool)>> = vec![None; BACKUPS_MAX];
            for (what, host, upto) in steps {
                let (id, known) = (HostId(host), &mut model[host as usize]);
                match what {
                    0 => {
                        b.begin(id);
                        *known = Some((0, false));
                    }
                    1 => {
                        b.end(id);
                        *known = None;
                    }
                    2 => {
                        b.wait_for(id);
                        *known = known.map(|(holds, _)| (holds, true));
                    }
                    _ => {
                        b.acknowledge(id, LogIndex(upto));
                        *known = known.map(|(holds, awaited)| (holds.max(upto), awaited));
                    }
                }
                let awaited = model.iter().flatten().filter(|(_, awaited)| *awaited).map(|(holds, _)| LogIndex(*holds));
                prop_assert_eq!(b.committed(), awaited.min());
                prop_assert_eq!(b.is_given(id), model[host as usize].is_some());
            }
        }
    }
}
