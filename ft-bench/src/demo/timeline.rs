//! What happened after a fault, in order: the survivor's events and what clients saw. Pure.

use crate::outage::FirstByte;
use ft_runtime::pair::status::{Event, Milestone};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Since the fault.
    pub ms: f64,
    pub milestone: Option<Milestone>,
    pub text: String,
}

/// The survivor's events since the fault, and its first byte as a client saw it.
pub fn timeline(fault_us: u64, events: &[Event], first: Option<FirstByte>) -> Vec<Step> {
    let ms = |us: u64| (us - fault_us) as f64 / 1e3;
    let since = events.iter().filter(|e| e.at_us >= fault_us);
    let mut steps: Vec<Step> =
        since.map(|e| Step { ms: ms(e.at_us), milestone: e.milestone, text: e.event.clone() }).collect();
    steps.extend(first.map(|f| Step {
        ms: ms(f.at_us),
        milestone: Some(Milestone::FirstByte),
        text: format!("a client is answered, after {:.1} ms without a word to any", f.silence_us as f64 / 1e3),
    }));
    steps.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: u64 = 10_000_000;

    fn event(seq: u64, at_us: u64, milestone: Option<Milestone>) -> Event {
        Event { seq, at_ms: at_us / 1000, at_us, milestone, event: format!("event {seq}") }
    }

    #[test]
    fn steps_stand_in_order_and_begin_with_the_fault() {
        let events = [
            event(1, FAULT - 5_000_000, None),
            event(2, FAULT + 98_250, Some(Milestone::Detected)),
            event(3, FAULT + 99_000, None),
            event(4, FAULT + 140_000, Some(Milestone::AddressUp)),
        ];
        let first = FirstByte { at_us: FAULT + 120_000, silence_us: 119_700 };
        let steps = timeline(FAULT, &events, Some(first));
        let got: Vec<(f64, Option<Milestone>)> = steps.iter().map(|s| (s.ms, s.milestone)).collect();
        assert_eq!(
            got,
            [
                (98.25, Some(Milestone::Detected)),
                (99.0, None),
                (120.0, Some(Milestone::FirstByte)),
                (140.0, Some(Milestone::AddressUp))
            ]
        );
        assert_eq!(steps[0].text, "event 2");
        assert!(steps[2].text.contains("119.7 ms"), "{}", steps[2].text);
    }
}
