//! What happened on a host: numbered, so that who asks again is told nothing twice and sees what was dropped.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Events that are kept for who asks later.
const EVENTS_MAX: usize = 1024;

/// What programs look for among events: first the steps of a takeover, in the order in which they are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Milestone {
    /// The primary is known to be gone.
    Detected,
    /// Nobody else may take over any more.
    Claimed,
    /// The guest has caught up with the log.
    Replayed,
    SocketsRestored,
    /// The guest leads.
    Live,
    AddressUp,
    /// The first byte of this host to a client.
    FirstByte,
    /// Another host begins to be given the service's state.
    Seeding,
    /// It is the backup.
    Protected,
    /// There is no backup any more.
    Unprotected,
    /// The other host serves, and this one no longer does.
    Deposed,
    /// What a person asked for is not done.
    Refused,
    /// The hosts did different things.
    Diverged,
    /// A person wants no backup, and wants one again.
    Paused,
    Resumed,
    /// A person has taken the backup out.
    Detached,
}

impl Milestone {
    pub const ALL: [Self; 16] = [
        Self::Detected,
        Self::Claimed,
        Self::Replayed,
        Self::SocketsRestored,
        Self::Live,
        Self::AddressUp,
        Self::FirstByte,
        Self::Seeding,
        Self::Protected,
        Self::Unprotected,
        Self::Deposed,
        Self::Refused,
        Self::Diverged,
        Self::Paused,
        Self::Resumed,
        Self::Detached,
    ];
}

/// As in JSON.
impl fmt::Display for Milestone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Detected => "detected",
            Self::Claimed => "claimed",
            Self::Replayed => "replayed",
            Self::SocketsRestored => "sockets-restored",
            Self::Live => "live",
            Self::AddressUp => "address-up",
            Self::FirstByte => "first-byte",
            Self::Seeding => "seeding",
            Self::Protected => "protected",
            Self::Unprotected => "unprotected",
            Self::Deposed => "deposed",
            Self::Refused => "refused",
            Self::Diverged => "diverged",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Detached => "detached",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without gaps, anew with each engine.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Microseconds since 1970.
    pub at_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milestone: Option<Milestone>,
    pub event: String,
}

/// The last events.
#[derive(Default)]
pub struct EventLog {
    kept: VecDeque<Event>,
    last: u64,
}

impl EventLog {
    /// `at`: since 1970.
    pub fn push(&mut self, at: Duration, milestone: Option<Milestone>, text: &str) {
        if self.kept.len() == EVENTS_MAX {
            self.kept.pop_front();
        }
        self.last += 1;
        self.kept.push_back(Event {
            seq: self.last,
            at_ms: at.as_millis() as u64,
            at_us: at.as_micros() as u64,
            milestone,
            event: text.into(),
        });
    }

    /// Those with a higher number, oldest first.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Event> {
        let fresh = self.last.saturating_sub(seq).min(self.kept.len() as u64);
        self.kept.range(self.kept.len() - fresh as usize..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(n: u64) -> EventLog {
        let mut log = EventLog::default();
        (1..=n).for_each(|k| log.push(Duration::from_micros(k * 1001), None, &format!("event {k}")));
        log
    }

    fn numbers(log: &EventLog, after: u64) -> Vec<u64> {
        log.after(after).map(|e| e.seq).collect()
    }

    #[test]
    fn a_cursor_yields_each_event_once() {
        let log = log(5);
        assert_eq!(numbers(&log, 0), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(&log, 3), [4, 5]);
        assert!(numbers(&log, 5).is_empty());
        assert!(numbers(&log, 99).is_empty(), "a cursor of another engine");
        assert!(numbers(&EventLog::default(), 0).is_empty());
    }

    #[test]
    fn what_was_dropped_shows_in_the_numbers() {
        let log = log(EVENTS_MAX as u64 + 10);
        let all = numbers(&log, 0);
        assert_eq!((all.len(), all[0]), (EVENTS_MAX, 11));
        assert_eq!(numbers(&log, 5), all, "a cursor before the oldest");
        assert_eq!(numbers(&log, 11)[0], 12);
    }

    #[test]
    fn milestones_are_called_the_same_everywhere() {
        for m in Milestone::ALL {
            assert_eq!(serde_json::to_string(&m).unwrap(), format!("\"{m}\""));
        }
        let mut log = log(1);
        log.push(Duration::from_micros(7_654_321), Some(Milestone::SocketsRestored), "50");
        let lines: Vec<String> = log.after(0).map(|e| serde_json::to_string(e).unwrap()).collect();
        assert!(!lines[0].contains("milestone"), "{}", lines[0]);
        assert_eq!(lines[1], r#"{"seq":2,"at_ms":7654,"at_us":7654321,"milestone":"sockets-restored","event":"50"}"#);
    }
}
