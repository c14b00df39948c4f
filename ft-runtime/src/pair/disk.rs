//! A call that each host makes on its own disk, and that the primary's disk fails: where the backup's doesn't, that one goes on,
//! and no client hears of it. The primary's guest stands still in the call until that is decided.

use super::message::kind;
use super::{HEAD_BYTES, Kind, Pair, Role};
use crate::engine::{Core, DiskFailure};
use crate::failover;
use ft_log::codec::{DecodeError, Reader, Writer};
use ft_log::ids::DomainId;
use std::time::{Duration, Instant};

/// For the backup's guest to come to the same call, and for its engine to say that its disk fails it too.
const BACKUP_MAX: Duration = Duration::from_millis(100);

/// What waits to be decided, and what is known.
#[derive(Default)]
pub(super) struct Disks {
    /// Of this host, which leads.
    waiting: Vec<(DiskFailure, Instant)>,
    /// The machine was asked to hand over.
    is_asked: bool,
    /// The last call that the backup's disk failed.
    backup: Option<(DomainId, u64)>,
}

impl Disks {
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_asked { None } else { self.waiting.iter().map(|(_, at)| *at + BACKUP_MAX).min() }
    }
}

/// What a primary does about a call that its disk has failed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The guest has the error: nobody else can go on, or nobody else is better off.
    LiveWithIt,
    HandOver,
    Wait,
}

fn judge(kind: Kind, same_on_backup: bool, is_asked: bool, waited: Duration) -> Verdict {
    match kind {
        Kind::PrimaryPaired if same_on_backup => Verdict::LiveWithIt,
        // The machine can't hand over, or it would be doing so.
        Kind::PrimaryPaired if is_asked => Verdict::LiveWithIt,
        Kind::PrimaryPaired if waited >= BACKUP_MAX => Verdict::HandOver,
        Kind::PrimaryPaired => Verdict::Wait,
        Kind::PrimaryAlone | Kind::PrimaryAdding | Kind::PrimaryReleasing => Verdict::LiveWithIt,
        // Who goes on is being decided.
        _ => Verdict::Wait,
    }
}

impl Pair {
    /// True: the machine has to be asked.
    pub(super) fn look_at_disks(&mut self, core: &Core, now: Instant) -> bool {
        match &mut self.role {
            Some(Role::Leading(p)) => self.disks.waiting.extend(p.disk_failures.drain(..).map(|f| (f, now))),
            Some(Role::Following(b)) => {
                if let Some(f) = b.disk_failure.take() {
                    self.tell_disk_failed(&f);
                }
                return false;
            }
            None => return false,
        }
        let kind = self.decider.kind();
        let Disks { waiting, is_asked, backup } = &mut self.disks;
        let mut hand_over = false;
        waiting.retain(|(f, since)| {
            let same = *backup == Some((f.domain, f.number));
            let verdict = judge(kind, same, *is_asked, now.saturating_duration_since(*since));
            hand_over |= verdict == Verdict::HandOver;
            if verdict == Verdict::LiveWithIt {
                let also = if same { "; the backup's disk fails it too" } else { "" };
                self.board.event(&format!("the disk fails: {}{also}; the server is told so", f.text));
                core.answer(f.domain, 0);
            }
            verdict != Verdict::LiveWithIt
        });
        *is_asked = (*is_asked || hand_over) && !waiting.is_empty();
        if hand_over {
            for (f, _) in waiting {
                self.board.event(&format!("the disk fails: {}; the backup's does not, so it is to go on", f.text));
            }
            self.decider.tell(failover::Event::DiskFailed);
        }
        hand_over
    }

    fn tell_disk_failed(&mut self, f: &DiskFailure) {
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        w.uint(f.domain.0.into());
        w.uint(f.number);
        let n = w.len();
        self.out.borrow_mut().send(kind::DISK_FAILED, &head[..n], &[]);
    }

    /// The backup's word.
    pub(super) fn hear_disk_failed(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let mut r = Reader::new(body);
        let failed = (DomainId(r.u16()?), r.uint()?);
        r.end()?;
        self.disks.backup = Some(failed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backup_whose_disk_does_not_fail_the_same_call_goes_on() {
        let (soon, late) = (Duration::from_millis(1), BACKUP_MAX);
        assert_eq!(judge(Kind::PrimaryPaired, false, false, soon), Verdict::Wait);
        assert_eq!(judge(Kind::PrimaryPaired, false, false, late), Verdict::HandOver);
        assert_eq!(judge(Kind::PrimaryPaired, true, false, late), Verdict::LiveWithIt);
        assert_eq!(judge(Kind::Yielding, false, true, late), Verdict::Wait);
        // The machine had its reasons not to.
        assert_eq!(judge(Kind::PrimaryPaired, false, true, late), Verdict::LiveWithIt);
        assert_eq!(judge(Kind::PrimaryAlone, false, true, late), Verdict::LiveWithIt);
        assert_eq!(judge(Kind::PrimaryAlone, false, false, soon), Verdict::LiveWithIt);
    }
}
