//! Which segments of a ring are not needed any more. Pure.

use std::time::Duration;

/// One file of the log, as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Since its begin.
    pub age: Duration,
    /// The guest can begin here: it was started here, or there is a whole snapshot.
    pub is_start: bool,
    /// On the disk, with its snapshot.
    pub bytes: u64,
}

/// How many of the oldest segments can go so that the last `last` can still be replayed: all before the youngest start that is
/// as old as that. The oldest come first.
/// Where that takes more than `bytes_max`, more of them go, but never the youngest start.
pub fn outdated(segments: &[Segment], last: Duration, bytes_max: u64) -> usize {
    let by_age = segments.iter().rposition(|s| s.is_start && s.age >= last).unwrap_or(0);
    let rest = |from: usize| segments[from..].iter().map(|s| s.bytes).sum::<u64>();
    let starts = (by_age..segments.len()).filter(|n| *n == by_age || segments[*n].is_start);
    let mut last_start = by_age;
    for n in starts {
        last_start = n;
        if rest(n) <= bytes_max {
            break;
        }
    }
    last_start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAST: Duration = Duration::from_secs(100);

    fn ring(of: &[(u64, bool)]) -> Vec<Segment> {
        of.iter().map(|&(s, is_start)| Segment { age: Duration::from_secs(s), is_start, bytes: 10 }).collect()
    }

    #[test]
    fn what_lies_before_the_last_time_goes() {
        assert_eq!(outdated(&ring(&[(150, true), (120, true), (90, true)]), LAST, u64::MAX), 1);
        assert_eq!(outdated(&ring(&[(99, true), (50, true)]), LAST, u64::MAX), 0);
        assert_eq!(outdated(&[], LAST, u64::MAX), 0);
    }

    #[test]
    fn what_cannot_be_begun_at_keeps_what_comes_before() {
        assert_eq!(outdated(&ring(&[(300, true), (200, false), (150, false), (90, true)]), LAST, u64::MAX), 0);
        assert_eq!(outdated(&ring(&[(300, true), (200, true), (150, false), (90, false)]), LAST, u64::MAX), 1);
    }

    #[test]
    fn what_is_too_much_goes_but_for_the_youngest_start() {
        let all = ring(&[(90, true), (80, false), (50, true), (20, true), (10, false)]);
        let gone = |bytes| outdated(&all, LAST, bytes);
        assert_eq!([50, 49, 30, 29, 20, 19, 0].map(gone), [0, 2, 2, 3, 3, 3, 3]);
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
                Segment { age: Duration::from_secs(age), is_start, bytes: age % 7 }
            }).collect();
            all.reverse();
            all[0].is_start = true;
            let gone = outdated(&all, last, u64::MAX);
            prop_assert!(gone == 0 || all[gone].is_start && all[gone].age >= last);
            prop_assert!(all[gone + 1..].iter().all(|s| !s.is_start || s.age < last));
        }
    }
}
