//! Input points of a recording as people name them.

use crate::engine::feed::{FeedError, point_of};
use crate::logfile::Recording;
use ft_log::entry::Entry;
use ft_log::ids::DomainId;
use std::fmt;
use std::str::FromStr;

const SERVICE: DomainId = DomainId(0);

/// Where a replay is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Point(u64),
    /// So many before the last at which something happened.
    FromEnd(u64),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().map_err(|_| "not an input point: a number, or -N for N before the last".to_owned());
        match text.strip_prefix('-') {
            Some(digits) => number(digits).map(Self::FromEnd),
            None => number(text).map(Self::Point),
        }
    }
}

/// The service's input points in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    /// Where the guest begins.
    pub first: u64,
    /// The last that the log speaks of.
    pub last: u64,
    /// The last at which the guest learned of something, and be it the time.
    pub last_applied: u64,
}

impl Points {
    /// `first`: where the guest begins.
    pub fn of(recording: &Recording, first: u64) -> Result<Self, FeedError> {
        let mut cursors = recording.cursors();
        let mut points = Self { first, last: first, last_applied: first };
        while let Some(frame) = cursors.next(SERVICE)? {
            let entry = Entry::decode(&frame).map_err(|source| FeedError::Decode { domain: SERVICE, source })?;
            if let Some(p) = point_of(&entry) {
                points.last = points.last.max(p.0);
                if matches!(entry, Entry::Applied(_)) {
                    points.last_applied = points.last_applied.max(p.0);
                }
            }
        }
        Ok(points)
    }

    /// The point that is meant; why there is none such.
    pub fn find(&self, until: Until) -> Result<u64, String> {
        let point = match until {
            Until::Point(p) => Some(p),
            Until::FromEnd(n) => self.last_applied.checked_sub(n),
        };
        point.filter(|p| (self.first..=self.last).contains(p)).ok_or_else(|| format!("there is no input point {until}: {self}"))
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point(p) => write!(f, "{p}"),
            Self::FromEnd(n) => write!(f, "-{n}"),
        }
    }
}

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a replay that begins here has {} to {}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_from_either_end() {
        let points = Points { first: 10, last: 21, last_applied: 20 };
        let find = |text: &str| points.find(text.parse().unwrap());
        assert_eq!(find("10"), Ok(10));
        assert_eq!(find("21"), Ok(21));
        assert_eq!(find("-0"), Ok(20));
        assert_eq!(find("-10"), Ok(10));
        for missing in ["9", "22", "-11", "-21"] {
            assert!(find(missing).unwrap_err().contains("10 to 21"), "{missing}");
        }
        for bad in ["", "-", "x", "1.5", "--3", "+-1"] {
            assert!(bad.parse::<Until>().is_err(), "{bad}");
        }
    }
}
