//! Results for people: tables that are also Markdown, and what their figures include.

use super::results::{Figures, Measured, Results, Spread, Takeover};
use super::system::ROLES;
use crate::load::CLIENT;
use crate::tables::{NONE, optional, short, table, whole};
use comfy_table::Table;

const NOTES: &str = "\
Medians of the rounds; +- is half the distance between the lowest and the highest round. x: times native, in this run.
Latency runs from the intended time of sending to the last byte of the answer. `behind`: the rate was not reached, so
latency grows with the length of the run. An answer counts when it comes: what waited before the measurement can lift a
rate above the one asked for.
CPU: user and kernel time of the processes, in microseconds per request. The kernel charges packet processing to whoever
runs at that moment: with veth mostly the sender, so a client pays for part of the server's receiving, and the other way
round. `machine`: all that was not idle. `others`: of that, what is neither client nor service: kernel threads, interrupts
on an idle processor, and whatever else runs on this machine; much of it means that the run was disturbed.
Link bytes: both directions, as the interface counts them. Log bytes: before encryption.";

fn spread(s: Spread) -> String {
    format!("{:.0}%", 50.0 * (s.max - s.min) / s.median.max(f64::MIN_POSITIVE))
}

fn served(loads: &[Measured]) -> Table {
    let mut t = table(&["load", "system", "req/s", "+-", "x", "p50 us", "x", "p99 us", "x"], 2);
    for m in loads {
        let Some(f) = &m.figures else {
            t.add_row([m.load, m.system, "failed", NONE, NONE, NONE, NONE, NONE, NONE]);
            continue;
        };
        let latency = |value: String| if f.reached { value } else { "behind".into() };
        let times = |value: Option<f64>| if f.reached { optional(value) } else { NONE.into() };
        t.add_row([
            m.load.to_owned(),
            m.system.to_owned(),
            whole(f.requests_per_second.median),
            spread(f.requests_per_second),
            optional(m.times_native.map(|t| t.requests_per_second)),
            latency(whole(f.p50_us.median)),
            times(m.times_native.map(|t| t.p50)),
            latency(whole(f.p99_us.median)),
            times(m.times_native.map(|t| t.p99)),
        ]);
    }
    t
}

fn costs(loads: &[Measured]) -> Table {
    let columns = [
        "load", "system", "client", "server", "engine", "backup server", "backup engine", "service", "x", "others",
        "machine", "log bytes", "log entries", "link bytes",
    ];
    let mut t = table(&columns, 2);
    for m in loads {
        let Some(f) = &m.figures else { continue };
        let role = |r: &str| optional(f.cpu_us_per_request.get(r).copied());
        let mut row = vec![m.load.to_owned(), m.system.to_owned(), role(CLIENT)];
        row.extend(ROLES.iter().map(|r| role(r)));
        row.extend(rest_of_costs(m, f));
        t.add_row(row);
    }
    t
}

fn rest_of_costs(m: &Measured, f: &Figures) -> [String; 7] {
    let client = f.cpu_us_per_request.get(CLIENT).copied().unwrap_or_default();
    let others = f.machine_us_per_request - client - f.service_cpu_us_per_request;
    [
        short(f.service_cpu_us_per_request),
        optional(m.times_native.map(|t| t.service_cpu)),
        short(others.max(0.0)),
        short(f.machine_us_per_request),
        optional(f.log_bytes_per_request),
        optional(f.log_entries_per_request),
        optional(f.link_bytes_per_request),
    ]
}

fn takeovers(all: &[Takeover]) -> Table {
    let columns =
        ["fault", "rounds", "silence ms", "max", "slowest request ms", "max", "lost connections", "unanswered requests"];
    let mut t = table(&columns, 1);
    for o in all {
        let median = |s: Option<Spread>| optional(s.map(|s| s.median));
        let max = |s: Option<Spread>| optional(s.map(|s| s.max));
        t.add_row([
            o.fault.to_owned(),
            o.samples.len().to_string(),
            median(o.silence_ms),
            max(o.silence_ms),
            median(o.slowest_ms),
            max(o.slowest_ms),
            o.lost_connections.to_string(),
            o.unanswered.to_string(),
        ]);
    }
    t
}

pub fn text(r: &Results) -> String {
    let mut parts = Vec::new();
    if !r.loads.is_empty() {
        parts.push(format!("What clients get\n\n{}", served(&r.loads)));
        parts.push(format!("What a request costs (CPU in us)\n\n{}", costs(&r.loads)));
    }
    if !r.takeovers.is_empty() {
        parts.push(format!("What clients see of a primary's death (at 2,000 requests/s)\n\n{}", takeovers(&r.takeovers)));
    }
    let m = &r.machine;
    parts.push(format!("{NOTES}\nMachine: {} processors, {}, Linux {}.", m.processors, m.model, m.kernel));
    parts.extend(r.failures.iter().map(|f| format!("FAILED: {f}")));
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::super::plan::{MIXED, Point, System};
    use super::super::results::{Machine, compare, samples::report};
    use super::*;

    #[test]
    fn tables_show_what_was_measured_and_what_was_not() {
        let closed = Point { name: "closed-1", connections: 1, rate: None, asks: MIXED };
        let open = Point { name: "open-9000", connections: 1, rate: Some(9000), asks: MIXED };
        let mut loads = vec![
            Measured::new(&closed, System::Native, vec![report(12_000.0, 100.0, 10.0)]),
            Measured::new(&closed, System::Protected, vec![report(6_000.0, 250.0, 12.0)]),
            Measured::new(&open, System::Protected, vec![report(6_000.0, 250.0, 30.0)]),
            Measured::new(&open, System::Replica, vec![]),
        ];
        compare(&mut loads);
        let r = Results {
            ok: false,
            machine: Machine { processors: 2, model: "a model".into(), kernel: "6.18".into() },
            seconds: 1.0,
            rounds: 1,
            loads,
            takeovers: vec![Takeover::new("kill-host", vec![report(2_000.0, 100.0, 1.0)])],
            failures: vec!["it broke".into()],
        };
        let text = text(&r);
        let line = |begin: &[&str]| {
            let cells = |l: &str| l.split('|').map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect::<Vec<_>>();
            text.lines().map(cells).find(|c| c.iter().zip(begin).all(|(a, b)| a == b) && c.len() > begin.len()).unwrap()
        };
        assert_eq!(line(&["closed-1", "protected"])[2..], ["6,000", "0%", "0.50", "250", "2.50", "500", "2.50"]);
        assert_eq!(line(&["open-9000", "protected"])[2..], ["6,000", "0%", "-", "behind", "-", "behind", "-"]);
        assert_eq!(line(&["open-9000", "replica"])[2], "failed");
        let costs = line(&["closed-1", "protected", "5.00"]);
        assert_eq!(costs[3..], ["12.0", "-", "-", "-", "12.0", "1.20", "3.00", "20.0", "30.0", "-", "-"]);
        assert_eq!(line(&["kill-host"])[1..4], ["1", "1.00", "1.00"]);
        assert!(text.contains("FAILED: it broke") && text.contains("2 processors, a model"));
    }
}
