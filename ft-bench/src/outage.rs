//! How long clients heard nothing, from what they saw themselves. Pure.

use crate::load::Span;
use crate::verify::Sample;
use ft_runtime::pair::status::{Event, Milestone};

/// Replies that were on their way still reach clients so long after the fault.
const ON_THEIR_WAY_US: u64 = 20_000;

/// When clients heard the survivor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstByte {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// For so long no client had heard anything.
    pub silence_us: u64,
}

/// When the survivor had the connections and no way yet to say anything: nobody is answered at that moment, whatever the
/// dead host had sent before. None: nobody has taken over since.
pub fn restored_us(fault_us: u64, events: &[Event]) -> Option<u64> {
    let restored = events.iter().filter(|e| e.milestone == Some(Milestone::SocketsRestored));
    restored.map(|e| e.at_us).find(|at| *at >= fault_us)
}

/// The end of the silence of all clients in which the survivor restored the connections; without that, of the longest that
/// the fault began. Not simply the first reply after the fault: that may still be the dead host's.
pub fn first_byte(fault_us: u64, restored_us: Option<u64>, samples: &[Sample]) -> Option<FirstByte> {
    let mut replies: Vec<u64> = samples.iter().map(Sample::answered_us).collect();
    replies.sort_unstable();
    end_of_silence(fault_us, restored_us, replies.windows(2).map(|w| Span { begin: w[0], end: w[1] }))
}

/// As `first_byte`, from the times in which no answer came.
pub fn end_of_silence(
    fault_us: u64,
    restored_us: Option<u64>,
    silences: impl Iterator<Item = Span>,
) -> Option<FirstByte> {
    let is_outage = |s: &Span| match restored_us {
        Some(at) => s.begin <= at && at < s.end,
        None => s.end > fault_us && s.begin < fault_us + ON_THEIR_WAY_US,
    };
    silences.filter(is_outage).map(|s| FirstByte { at_us: s.end, silence_us: s.length() }).max_by_key(|f| f.silence_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: u64 = 10_000_000;

    fn reply(at: u64) -> Sample {
        Sample { sent_us: at - 100, latency_us: 100 }
    }

    #[test]
    fn the_first_byte_ends_the_longest_silence() {
        // 300 us after the fault a reply arrives that the dead host had sent; much later there is a pause of its own.
        let at = [FAULT - 900, FAULT - 100, FAULT + 300, FAULT + 120_000, FAULT + 120_400, FAULT + 900_000];
        let samples: Vec<Sample> = at.iter().rev().map(|t| reply(*t)).collect();
        let first = Some(FirstByte { at_us: FAULT + 120_000, silence_us: 119_700 });
        assert_eq!(first_byte(FAULT, None, &samples), first);
        assert_eq!(first_byte(FAULT, Some(FAULT + 90_000), &samples), first);
    }

    #[test]
    fn what_the_dead_host_said_late_is_not_the_survivors() {
        // The fault took a while; clients heard the dead host for another 30 ms.
        let at = [FAULT - 500, FAULT + 18_000, FAULT + 30_000, FAULT + 170_000, FAULT + 500_000];
        let samples: Vec<Sample> = at.iter().map(|t| reply(*t)).collect();
        let first = first_byte(FAULT, Some(FAULT + 160_000), &samples);
        assert_eq!(first, Some(FirstByte { at_us: FAULT + 170_000, silence_us: 140_000 }));
        let restored = |at_us| Event {
            seq: 1,
            at_ms: at_us / 1000,
            at_us,
            milestone: Some(Milestone::SocketsRestored),
            event: String::new(),
        };
        assert_eq!(restored_us(FAULT, &[restored(FAULT - 9), restored(FAULT + 7)]), Some(FAULT + 7));
        assert_eq!(restored_us(FAULT, &[restored(FAULT - 9)]), None);
    }

    #[test]
    fn there_is_none_if_nobody_answers() {
        assert_eq!(first_byte(FAULT, None, &[reply(FAULT - 500), reply(FAULT - 100)]), None);
        assert_eq!(first_byte(FAULT, None, &[]), None);
    }
}
