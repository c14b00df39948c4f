//! Which segments of a ring are not needed any more. Pure.

use std::time::Duration;

/// One file of the log, as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Since its begin.
    pub age: Duration,
    /// The guest can begin here: it was started here, or there is a whole snapshot.
    pub is_start: bool,
}

/// How many of the oldest segments can go so that the last `last` can still be replayed: all before the youngest start that is
/// as old as that. The oldest come first.
pub fn outdated(segments: &[Segment], last: Duration) -> usize {
    segments.iter().rposition(|s| s.is_start && s.age >= last).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAST: Duration = Duration::from_secs(100);

    fn ring(of: &[(u64, bool)]) -> Vec<Segment> {
        of.iter().map(|&(s, is_start)| Segment { age: Duration::from_secs(s), is_start }).collect()
    }

    #[test]
    fn what_lies_before_the_last_time_goes() {
        assert_eq!(outdated(&ring(&[(150, true), (120, true), (90, true)]), LAST), 1);
        assert_eq!(outdated(&ring(&[(99, true), (50, true)]), LAST), 0);
        assert_eq!(outdated(&[], LAST), 0);
    }

    #[test]
    fn what_cannot_be_begun_at_keeps_what_comes_before() {
        assert_eq!(outdated(&ring(&[(300, true), (200, false), (150, false), (90, true)]), LAST), 0);
        assert_eq!(outdated(&ring(&[(300, true), (200, true), (150, false), (90, false)]), LAST), 1);
    }

    proptest! {
        /// Whatever happened: what is left begins with a start that covers the time, or nothing was deleted; and no second
        /// one that covers it is left.
        #[test]
        fn the_last_time_is_covered_and_no_more(
            steps in prop::collection::vec((1u64..40, any::<bool>()), 1..60),
            last in 1u64..200,
        ) {
            let last = Duration::from_secs(last);
            let mut age = 0;
            let mut all: Vec<Segment> = steps.iter().map(|&(s, is_start)| {
                age += s;
                Segment { age: Duration::from_secs(age), is_start }
            }).collect();
            all.reverse();
            all[0].is_start = true;
            let gone = outdated(&all, last);
            prop_assert!(gone == 0 || all[gone].is_start && all[gone].age >= last);
            prop_assert!(all[gone + 1..].iter().all(|s| !s.is_start || s.age < last));
        }
    }
}
