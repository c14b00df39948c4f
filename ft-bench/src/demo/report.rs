//! What the demonstration found, for people and as JSON. Pure.

use super::timeline::Step;
use crate::verify::{Sample, Tally};
use ft_runtime::pair::status::Milestone;
use serde::Serialize;
use std::fmt;

#[derive(Debug, Serialize)]
pub struct Report {
    pub ok: bool,
    pub fault: String,
    /// Where it happened.
    pub victim: String,
    pub survivor: String,
    /// Microseconds since 1970.
    pub fault_us: u64,
    pub timeline: Vec<Step>,
    /// The longest time in which no client was answered.
    pub outage_ms: Option<f64>,
    pub connections: Connections,
    pub writes: Writes,
    pub latency: Option<Latency>,
    pub server: [String; 2],
    pub failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Connections {
    pub open: u32,
    pub reset: u32,
    pub stalled: u32,
    /// The client never does.
    pub reconnected: u32,
}

#[derive(Debug, Serialize)]
pub struct Writes {
    pub acknowledged: u64,
    pub lost: u64,
    pub doubled: u64,
    pub wrong: u64,
    pub unverified: u64,
}

/// Of all writes.
#[derive(Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    fn of(samples: &[Sample]) -> Option<Self> {
        let mut all: Vec<u64> = samples.iter().map(|s| s.latency_us).collect();
        all.sort_unstable();
        let at = |share: f64| all.get((all.len() as f64 * share) as usize).or(all.last()).map(|us| *us as f64 / 1e3);
        Some(Self { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)? })
    }
}

/// What the run was.
pub struct Ran {
    pub fault: String,
    pub victim: String,
    pub survivor: String,
    pub fault_us: u64,
    pub timeline: Vec<Step>,
    /// From the fault until a client heard the survivor.
    pub back_ms: Option<f64>,
    pub outage_ms: Option<f64>,
    /// The survivor's role at the end.
    pub role: Option<String>,
}

impl Report {
    pub fn new(ran: Ran, tally: &Tally) -> Self {
        let v = tally.verdict;
        let mut failures = tally.errors.clone();
        let mut fail = |is: bool, what: String| {
            if is {
                failures.push(what);
            }
        };
        fail(v.lost > 0, format!("{} acknowledged writes are lost", v.lost));
        fail(v.doubled > 0, format!("{} writes were done twice", v.doubled));
        fail(v.wrong > 0, format!("{} replies or items are wrong", v.wrong));
        fail(v.unverified > 0, format!("{} acknowledged writes could not be read back", v.unverified));
        fail(tally.reset + tally.stalled > 0, format!("{} connections did not survive", tally.reset + tally.stalled));
        fail(
            tally.server[0] != tally.server[1],
            format!("another server answers: {}, was {}", tally.server[1], tally.server[0]),
        );
        let is_silent = ran.timeline.iter().all(|s| s.milestone == Some(Milestone::FirstByte));
        fail(is_silent, format!("{} noted nothing after the fault: had it taken over before?", ran.survivor));
        fail(ran.outage_ms.is_none(), "no client was answered after the fault".into());
        let serves = ran.role.as_deref() == Some("primary");
        fail(
            !serves,
            format!("{} does not serve: its role is {}", ran.survivor, ran.role.as_deref().unwrap_or("unknown")),
        );
        Self {
            ok: failures.is_empty(),
            fault: ran.fault,
            victim: ran.victim,
            survivor: ran.survivor,
            fault_us: ran.fault_us,
            timeline: ran.timeline,
            outage_ms: ran.outage_ms,
            connections: Connections { open: tally.open, reset: tally.reset, stalled: tally.stalled, reconnected: 0 },
            writes: Writes {
                acknowledged: tally.acknowledged,
                lost: v.lost,
                doubled: v.doubled,
                wrong: v.wrong,
                unverified: v.unverified,
            },
            latency: Latency::of(&tally.samples),
            server: tally.server.clone(),
            failures,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  ms since the fault")?;
        writeln!(f, "{:>10.1}  {:<18}{} on {}", 0.0, "fault", self.fault, self.victim)?;
        for s in &self.timeline {
            let name = s.milestone.map(|m| m.to_string().replace('-', " ")).unwrap_or_default();
            writeln!(f, "{:>10.1}  {name:<18}{}: {}", s.ms, self.survivor_or_client(s), s.text)?;
        }
        let c = &self.connections;
        writeln!(f)?;
        write!(f, "connections   {} open, {} reset, {} reconnected", c.open, c.reset, c.reconnected)?;
        writeln!(f, "{}", some(c.stalled.into(), "without a reply"))?;
        let w = &self.writes;
        write!(f, "writes        {} acknowledged, {} lost, {} doubled", w.acknowledged, w.lost, w.doubled)?;
        writeln!(f, "{}{}", some(w.wrong, "wrong"), some(w.unverified, "not to be read back"))?;
        if let Some(l) = &self.latency {
            writeln!(
                f,
                "latency       median {:.2} ms, 99 % {:.2} ms, longest {:.1} ms",
                l.p50_ms, l.p99_ms, l.max_ms
            )?;
        }
        if let Some(ms) = self.outage_ms {
            writeln!(f, "outage        {ms:.1} ms in which no client was answered")?;
        }
        writeln!(f, "server        before: {}", self.server[0])?;
        writeln!(f, "              after:  {}", self.server[1])?;
        if self.ok {
            return writeln!(f, "\nNothing was lost. {} serves on, unprotected.", self.survivor);
        }
        writeln!(f, "\nFAILED:")?;
        self.failures.iter().try_for_each(|e| writeln!(f, "  {e}"))
    }
}

impl Report {
    fn survivor_or_client(&self, s: &Step) -> &str {
        if s.milestone == Some(Milestone::FirstByte) { "client" } else { &self.survivor }
    }
}

/// Only said if there are any.
fn some(n: u64, what: &str) -> String {
    if n == 0 { String::new() } else { format!(", {n} {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Verdict;

    fn ran() -> Ran {
        Ran {
            fault: "kill-host".into(),
            victim: "alpha".into(),
            survivor: "beta".into(),
            fault_us: 1,
            timeline: vec![Step { ms: 98.2, milestone: Some(Milestone::SocketsRestored), text: "50".into() }],
            back_ms: Some(121.0),
            outage_ms: Some(121.0),
            role: Some("primary".into()),
        }
    }

    fn tally() -> Tally {
        let samples = (1..=100).map(|k| Sample { sent_us: 0, latency_us: k * 1000 }).collect();
        Tally { open: 50, acknowledged: 16_321, server: ["pid 1".into(), "pid 1".into()], samples, ..Tally::default() }
    }

    #[test]
    fn a_good_run_reads_like_this() {
        let r = Report::new(ran(), &tally());
        assert!(r.ok);
        let text = r.to_string();
        for line in [
            "       0.0  fault             kill-host on alpha\n",
            "      98.2  sockets restored  beta: 50\n",
            "connections   50 open, 0 reset, 0 reconnected\n",
            "writes        16321 acknowledged, 0 lost, 0 doubled\n",
            "latency       median 51.00 ms, 99 % 100.00 ms, longest 100.0 ms\n",
        ] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
    }

    #[test]
    fn each_failure_is_one() {
        let is_bad = |r: Ran, t: Tally, word: &str| {
            let report = Report::new(r, &t);
            assert!(!report.ok && report.to_string().contains(word), "{word}: {report}");
        };
        let verdict = |verdict| Tally { verdict, ..tally() };
        is_bad(ran(), verdict(Verdict { lost: 1, ..Verdict::default() }), "lost");
        is_bad(ran(), verdict(Verdict { doubled: 1, ..Verdict::default() }), "twice");
        is_bad(ran(), verdict(Verdict { wrong: 1, ..Verdict::default() }), "wrong");
        is_bad(ran(), verdict(Verdict { unverified: 1, ..Verdict::default() }), "read back");
        is_bad(ran(), Tally { reset: 1, ..tally() }, "did not survive");
        is_bad(ran(), Tally { stalled: 1, ..tally() }, "without a reply");
        is_bad(ran(), Tally { server: ["pid 1".into(), "pid 2".into()], ..tally() }, "another server");
        is_bad(Ran { outage_ms: None, ..ran() }, tally(), "no client");
        is_bad(Ran { timeline: Vec::new(), ..ran() }, tally(), "noted nothing");
        is_bad(Ran { role: Some("mute".into()), ..ran() }, tally(), "mute");
    }
}
