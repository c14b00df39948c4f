//! How long clients heard nothing, from what they saw themselves. Pure.

use crate::load::Span;
use crate::verify::Sample;

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

/// The end of the longest silence of all clients that the fault began. Not simply the first reply after the fault:
/// that may still be the dead host's.
pub fn first_byte(fault_us: u64, samples: &[Sample]) -> Option<FirstByte> {
    let mut replies: Vec<u64> = samples.iter().map(Sample::answered_us).collect();
    replies.sort_unstable();
    end_of_silence(fault_us, replies.windows(2).map(|w| Span { begin: w[0], end: w[1] }))
}

/// As `first_byte`, from the times in which no answer came.
pub fn end_of_silence(fault_us: u64, silences: impl Iterator<Item = Span>) -> Option<FirstByte> {
    let of_fault = silences.filter(|s| s.end > fault_us && s.begin < fault_us + ON_THEIR_WAY_US);
    of_fault.map(|s| FirstByte { at_us: s.end, silence_us: s.length() }).max_by_key(|f| f.silence_us)
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
        assert_eq!(first_byte(FAULT, &samples), Some(FirstByte { at_us: FAULT + 120_000, silence_us: 119_700 }));
    }

    #[test]
    fn there_is_none_if_nobody_answers() {
        assert_eq!(first_byte(FAULT, &[reply(FAULT - 500), reply(FAULT - 100)]), None);
        assert_eq!(first_byte(FAULT, &[]), None);
    }
}
