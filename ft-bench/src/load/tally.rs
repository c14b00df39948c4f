//! What counts: pure, times come in as nanoseconds since the load began.
//!
//! Laws: latency runs from the moment a request was meant to be sent, so a server that stalls is charged for all that
//! should have been asked meanwhile; a request without an answer counts with its age at the end, never as nothing.

use super::Outage;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Of a latency: three digits are kept.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

/// When the requests of an open loop are due: evenly spaced, whatever the server does.
pub struct Schedule {
    period_ns: f64,
    made: u64,
}

impl Schedule {
    pub fn new(requests_per_second: f64) -> Self {
        Self { period_ns: 1e9 / requests_per_second, made: 0 }
    }

    /// When the next one is due.
    pub fn next_ns(&self) -> u64 {
        (self.made as f64 * self.period_ns) as u64
    }

    /// The intended time of a request that is due.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let intended = self.next_ns();
        (intended <= now_ns).then(|| {
            self.made += 1;
            intended
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Silences and waits that are noted are at least so long.
const NOTED_NS: u64 = 1_000_000;
/// Of each; more say nothing new.
const NOTED_MAX: usize = 100_000;

/// From one moment to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub begin: u64,
    pub end: u64,
}

impl Span {
    pub fn length(&self) -> u64 {
        self.end - self.begin
    }
}

/// Counts within a window.
pub struct Tally {
    latency_ns: Histogram<u64>,
    /// `None`: the load is warming up.
    begin_ns: Option<u64>,
    last_answer_ns: u64,
    pub longest_silence_ns: u64,
    pub answered: u64,
    pub unanswered: u64,
    /// Whether spans are noted, in nanoseconds.
    note: bool,
    silences: Vec<Span>,
    waits: Vec<Span>,
}

impl Tally {
    /// `note`: remember silences and requests that waited.
    pub fn new(note: bool) -> Self {
        Self {
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are good"),
            begin_ns: None,
            last_answer_ns: 0,
            longest_silence_ns: 0,
            answered: 0,
            unanswered: 0,
            note,
            silences: Vec::new(),
            waits: Vec::new(),
        }
    }

    pub fn begin(&mut self, now_ns: u64) {
        self.begin_ns = Some(now_ns);
        self.last_answer_ns = now_ns;
    }

    /// An answer within the window; what was meant to be sent before it is no latency of it.
    pub fn answer(&mut self, intended_ns: u64, now_ns: u64) {
        let Some(begin) = self.begin_ns else { return };
        self.answered += 1;
        self.hear(now_ns);
        if intended_ns >= begin {
            self.record(intended_ns, now_ns);
        }
    }

    /// An answer after the window's end to what was meant to be sent within it.
    pub fn answer_late(&mut self, intended_ns: u64, now_ns: u64) {
        if self.begin_ns.is_some_and(|b| intended_ns >= b) {
            self.record(intended_ns, now_ns);
        }
    }

    /// Nobody waits any longer for the answer.
    pub fn give_up(&mut self, intended_ns: u64, now_ns: u64) {
        self.unanswered += 1;
        self.answer_late(intended_ns, now_ns);
    }

    /// The window's end: silence until then counts.
    pub fn end(&mut self, now_ns: u64) {
        self.hear(now_ns);
    }

    fn hear(&mut self, now_ns: u64) {
        let silence = now_ns.saturating_sub(self.last_answer_ns);
        self.longest_silence_ns = self.longest_silence_ns.max(silence);
        if self.note && silence >= NOTED_NS && self.silences.len() < NOTED_MAX {
            self.silences.push(Span { begin: self.last_answer_ns, end: now_ns });
        }
        self.last_answer_ns = now_ns;
    }

    fn record(&mut self, intended_ns: u64, now_ns: u64) {
        let ns = now_ns.saturating_sub(intended_ns);
        self.latency_ns.saturating_record(ns.max(1));
        if self.note && ns >= NOTED_NS && self.waits.len() < NOTED_MAX {
            self.waits.push(Span { begin: intended_ns, end: now_ns });
        }
    }

    /// What was noted, where zero was at that many microseconds since 1970.
    pub fn outage(&self, zero_us: u64) -> Outage {
        let all = |spans: &[Span]| {
            spans.iter().map(|s| Span { begin: zero_us + s.begin / 1000, end: zero_us + s.end / 1000 }).collect()
        };
        Outage { silences: all(&self.silences), waits: all(&self.waits) }
    }

    /// In microseconds.
    pub fn latency_us(&self) -> Latency {
        let at = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: self.latency_ns.max() as f64 / 1e3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_schedule_neither_drifts_nor_waits() {
        let mut s = Schedule::new(3.0);
        let due: Vec<u64> = std::iter::from_fn(|| s.take_due(1_000_000_000)).collect();
        assert_eq!(due, [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(s.take_due(1_000_000_001), None);
        assert_eq!(s.next_ns(), 1_333_333_333);
    }

    /// A server that stands still for 500 of 1000 ms: a closed loop would see one slow request.
    #[test]
    fn what_should_have_been_asked_meanwhile_counts() {
        let mut t = Tally::new(true);
        t.begin(0);
        for k in 0..1000 {
            let intended = k * MS;
            let answered = if k < 500 { 500 * MS } else { intended };
            t.answer(intended, answered);
        }
        t.end(1000 * MS);
        let l = t.latency_us();
        assert!((l.p90 / 400_000.0 - 1.0).abs() < 0.01, "{l:?}");
        assert!((l.max / 500_000.0 - 1.0).abs() < 0.01, "{l:?}");
        assert_eq!((t.longest_silence_ns, t.answered), (500 * MS, 1000));
        let o = t.outage(7_000_000);
        assert_eq!(o.silences[0], Span { begin: 7_000_000, end: 7_500_000 });
        assert_eq!((o.waits[0].length(), o.waits.len()), (500_000, 500));
    }

    #[test]
    fn warming_up_does_not_count_and_no_answer_does() {
        let mut t = Tally::new(true);
        t.answer(0, 90 * MS);
        t.begin(100 * MS);
        t.answer(50 * MS, 110 * MS);
        t.answer(110 * MS, 111 * MS);
        t.end(200 * MS);
        t.answer_late(199 * MS, 201 * MS);
        t.give_up(150 * MS, 250 * MS);
        t.give_up(60 * MS, 250 * MS);
        let l = t.latency_us();
        assert_eq!((t.answered, t.unanswered), (2, 2));
        assert!((l.max / 100_000.0 - 1.0).abs() < 0.01, "an age, not nothing: {l:?}");
        assert!((l.p50 / 2_000.0 - 1.0).abs() < 0.01, "one before, one after: {l:?}");
        assert_eq!(t.longest_silence_ns, 89 * MS);
    }
}
