//! From single looks at the service network to what a host relies on. Pure: time and what was seen come in.
//!
//! Laws: only what has been known to answer can be missed, so a target that never answered takes the service from
//! nobody; a look that comes late counts once, so a host that stood still has lost nothing by that; to be relied on, a
//! network must have worked for a while, so one that comes and goes is not.

use crate::failover::event::ServiceNet;
use std::time::{Duration, Instant};

/// Looks without any evidence, one after the other, that make a loss.
const LOOKS_LOST: u32 = 4;
/// Of those, how many may be an accident.
const LOOKS_MISSED_MAX: u32 = 1;
/// How long the network must have worked to be relied on.
pub const SOUND_AFTER: Duration = Duration::from_secs(1);

/// What was found since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub carrier: bool,
    /// A probe target answered.
    pub answer: bool,
    /// A client said something new.
    pub clients: bool,
}

#[derive(Debug)]
pub struct Judge {
    has_targets: bool,
    /// A target has answered once.
    proven: bool,
    missed: u32,
    works_since: Option<Instant>,
    /// It has worked, and has failed to since it was last sound.
    in_doubt: bool,
    says: ServiceNet,
}

impl Judge {
    /// Without targets the carrier is all the evidence there is.
    pub fn new(has_targets: bool) -> Self {
        Self { has_targets, proven: false, missed: 0, works_since: None, in_doubt: false, says: ServiceNet::Unsure }
    }

    /// How often to look, so that a loss is found within `loss`: a probe's answer is seen at the next look.
    pub fn pace(loss: Duration) -> Duration {
        loss / (LOOKS_LOST + 1)
    }

    pub fn says(&self) -> ServiceNet {
        self.says
    }

    /// What the host goes by from now on, if that is something else than before.
    pub fn look(&mut self, now: Instant, seen: Seen) -> Option<ServiceNet> {
        self.proven |= seen.answer;
        if seen.carrier && (seen.answer || seen.clients || !self.has_targets) {
            self.missed = 0;
            self.works_since.get_or_insert(now);
        } else {
            self.missed = self.missed.saturating_add(1);
            if !seen.carrier || self.missed > LOOKS_MISSED_MAX {
                self.in_doubt |= self.works_since.take().is_some();
            }
        }
        let is_lost = self.missed >= LOOKS_LOST && (!seen.carrier || self.proven);
        let says = match self.works_since {
            _ if is_lost => ServiceNet::Lost,
            Some(since) if now.saturating_duration_since(since) >= SOUND_AFTER => ServiceNet::Sound,
            _ if self.in_doubt => ServiceNet::Doubtful,
            _ => ServiceNet::Unsure,
        };
        self.in_doubt &= says != ServiceNet::Sound;
        (std::mem::replace(&mut self.says, says) != says).then_some(says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Seen = Seen { carrier: true, answer: true, clients: false };
    const CLIENTS: Seen = Seen { carrier: true, answer: false, clients: true };
    const SILENCE: Seen = Seen { carrier: true, answer: false, clients: false };
    const UNPLUGGED: Seen = Seen { carrier: false, answer: false, clients: false };

    /// What the judge says of looks, the time going on by `pace` with each.
    fn judged(judge: &mut Judge, at: &mut Instant, looks: &[(Seen, u32)]) -> Vec<ServiceNet> {
        let mut said = Vec::new();
        for (seen, times) in looks {
            for _ in 0..*times {
                *at += Duration::from_millis(100);
                said.extend(judge.look(*at, *seen));
            }
        }
        said
    }

    fn sound() -> (Judge, Instant) {
        let (mut j, mut at) = (Judge::new(true), Instant::now());
        assert_eq!(judged(&mut j, &mut at, &[(ANSWER, 11)]), [ServiceNet::Sound]);
        (j, at)
    }

    #[test]
    fn a_network_is_relied_on_after_a_while() {
        let (mut j, mut at) = (Judge::new(true), Instant::now());
        assert_eq!(judged(&mut j, &mut at, &[(ANSWER, 10)]), []);
        assert_eq!(judged(&mut j, &mut at, &[(ANSWER, 1)]), [ServiceNet::Sound]);
    }

    #[test]
    fn a_loss_takes_several_looks_and_one_miss_is_none() {
        let (mut j, mut at) = sound();
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 1), (ANSWER, 1), (SILENCE, 1), (ANSWER, 1)]), []);
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 4)]), [ServiceNet::Doubtful, ServiceNet::Lost]);
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 100)]), []);
        assert_eq!(judged(&mut j, &mut at, &[(ANSWER, 11)]), [ServiceNet::Doubtful, ServiceNet::Sound]);
    }

    #[test]
    fn without_a_carrier_it_is_not_relied_on_at_once_and_lost_soon() {
        let (mut j, mut at) = sound();
        assert_eq!(judged(&mut j, &mut at, &[(UNPLUGGED, 1)]), [ServiceNet::Doubtful]);
        assert_eq!(judged(&mut j, &mut at, &[(UNPLUGGED, 3)]), [ServiceNet::Lost]);
    }

    #[test]
    fn what_worked_for_a_moment_and_does_not_any_more_is_in_doubt() {
        let (mut j, mut at) = (Judge::new(true), Instant::now());
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 1), (ANSWER, 1), (UNPLUGGED, 1)]), [ServiceNet::Doubtful]);
        assert_eq!(judged(&mut j, &mut at, &[(UNPLUGGED, 2)]), []);
        assert_eq!(judged(&mut j, &mut at, &[(ANSWER, 11)]), [ServiceNet::Sound]);
    }

    #[test]
    fn clients_are_evidence_where_targets_are_silent() {
        let (mut j, mut at) = sound();
        assert_eq!(judged(&mut j, &mut at, &[(CLIENTS, 50)]), []);
    }

    #[test]
    fn a_target_that_never_answered_proves_nothing() {
        let (mut j, mut at) = (Judge::new(true), Instant::now());
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 50)]), []);
        assert_eq!(judged(&mut j, &mut at, &[(UNPLUGGED, 1)]), [ServiceNet::Lost]);
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 50)]), [ServiceNet::Unsure]);
    }

    #[test]
    fn a_network_that_comes_and_goes_is_not_relied_on() {
        let (mut j, mut at) = sound();
        judged(&mut j, &mut at, &[(UNPLUGGED, 4)]);
        for _ in 0..20 {
            let said = judged(&mut j, &mut at, &[(ANSWER, 9), (UNPLUGGED, 1)]);
            assert!(!said.contains(&ServiceNet::Sound), "{said:?}");
        }
    }

    #[test]
    fn a_host_that_stood_still_has_missed_one_look() {
        let (mut j, at) = sound();
        assert_eq!(j.look(at + Duration::from_secs(60), SILENCE), None);
    }

    #[test]
    fn without_targets_the_carrier_decides() {
        let (mut j, mut at) = (Judge::new(false), Instant::now());
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 11)]), [ServiceNet::Sound]);
        assert_eq!(judged(&mut j, &mut at, &[(UNPLUGGED, 4)]), [ServiceNet::Doubtful, ServiceNet::Lost]);
        assert_eq!(judged(&mut j, &mut at, &[(SILENCE, 1)]), [ServiceNet::Doubtful]);
    }
}
