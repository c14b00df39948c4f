//! From samples to figures: medians over rounds, per request, and against the bare server in the same run.

use super::plan::{Point, System};
use crate::load::{CLIENT, Report};
use serde::Serialize;
use std::collections::BTreeMap;

/// An open loop that answered less than this part of its rate did not keep up.
const REACHED: f64 = 0.98;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None`: no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut v: Vec<f64> = values.into_iter().collect();
        v.sort_by(f64::total_cmp);
        let (min, max) = (*v.first()?, *v.last()?);
        let upper = v.len() / 2;
        let median = if v.len() % 2 == 1 { v[upper] } else { f64::midpoint(v[upper - 1], v[upper]) };
        Some(Self { median, min, max })
    }
}

/// One load on one system.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub load: &'static str,
    pub system: &'static str,
    pub connections: u32,
    pub rate: Option<u32>,
    /// Of all figures the median of the rounds.
    pub figures: Option<Figures>,
    /// Against the bare server under the same load in the same run.
    pub times_native: Option<TimesNative>,
    pub samples: Vec<Report>,
}

#[derive(Debug, Serialize)]
pub struct Figures {
    pub requests_per_second: Spread,
    /// False: an open loop whose rate was not reached; its latencies grow with the length of the run.
    pub reached: bool,
    pub p50_us: Spread,
    pub p99_us: Spread,
    /// By role.
    pub cpu_us_per_request: BTreeMap<String, f64>,
    /// Of all roles but the client.
    pub service_cpu_us_per_request: f64,
    pub machine_us_per_request: f64,
    pub request_bytes: f64,
    pub log_bytes_per_request: Option<f64>,
    pub log_entries_per_request: Option<f64>,
    pub link_bytes_per_request: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TimesNative {
    pub requests_per_second: f64,
    pub p50: f64,
    pub p99: f64,
    pub service_cpu: f64,
}

impl Measured {
    pub fn new(point: &Point, system: System, samples: Vec<Report>) -> Self {
        Self {
            load: point.name,
            system: system.name(),
            connections: point.connections,
            rate: point.rate,
            figures: Figures::of(&samples, point.rate),
            times_native: None,
            samples,
        }
    }
}

impl Figures {
    fn of(samples: &[Report], rate: Option<u32>) -> Option<Self> {
        let spread = |f: &dyn Fn(&Report) -> f64| Spread::of(samples.iter().map(f));
        let each = |f: &dyn Fn(&Report) -> Option<f64>| {
            let per_request = |r: &Report| Some(f(r)? / r.requests.max(1) as f64);
            Spread::of(samples.iter().filter_map(per_request)).map(|s| s.median)
        };
        let requests_per_second = spread(&|r| r.requests_per_second)?;
        let roles = samples.iter().flat_map(|r| r.usage.cpu_us.keys()).cloned();
        let cpu_us_per_request: BTreeMap<String, f64> = roles
            .filter_map(|role| {
                let used = each(&|r| r.usage.cpu_us.get(&role).copied().flatten())?;
                Some((role, used))
            })
            .collect();
        Some(Self {
            requests_per_second,
            reached: rate.is_none_or(|r| requests_per_second.median >= f64::from(r) * REACHED),
            p50_us: spread(&|r| r.latency_us.p50)?,
            p99_us: spread(&|r| r.latency_us.p99)?,
            service_cpu_us_per_request: cpu_us_per_request.iter().filter(|(r, _)| *r != CLIENT).map(|(_, us)| us).sum(),
            cpu_us_per_request,
            machine_us_per_request: each(&|r| Some(r.usage.machine_us))?,
            request_bytes: each(&|r| Some(r.request_bytes as f64))?,
            log_bytes_per_request: each(&|r| r.usage.log_bytes.map(|b| b as f64)),
            log_entries_per_request: each(&|r| r.usage.log_entries.map(|b| b as f64)),
            link_bytes_per_request: each(&|r| r.usage.link_bytes.map(|b| b as f64)),
        })
    }
}

/// Fills in what each is of the bare server under the same load.
pub fn compare(all: &mut [Measured]) {
    let native = |load: &str| {
        let m = all.iter().find(|m| m.load == load && m.system == System::Native.name())?;
        m.figures.as_ref()
    };
    let compared: Vec<Option<TimesNative>> = all
        .iter()
        .map(|m| {
            let (f, n) = (m.figures.as_ref()?, native(m.load)?);
            Some(TimesNative {
                requests_per_second: f.requests_per_second.median / n.requests_per_second.median,
                p50: f.p50_us.median / n.p50_us.median,
                p99: f.p99_us.median / n.p99_us.median,
                service_cpu: f.service_cpu_us_per_request / n.service_cpu_us_per_request,
            })
        })
        .collect();
    for (m, c) in all.iter_mut().zip(compared) {
        m.times_native = c;
    }
}

/// What clients saw of the primary's death.
#[derive(Debug, Serialize)]
pub struct Takeover {
    pub fault: &'static str,
    /// The longest time without any answer.
    pub silence_ms: Option<Spread>,
    /// The longest that any request took.
    pub slowest_ms: Option<Spread>,
    pub lost_connections: u32,
    pub unanswered: u64,
    pub samples: Vec<Report>,
}

impl Takeover {
    pub fn new(fault: &'static str, samples: Vec<Report>) -> Self {
        Self {
            fault,
            silence_ms: Spread::of(samples.iter().map(|r| r.longest_silence_ms)),
            slowest_ms: Spread::of(samples.iter().map(|r| r.latency_us.max / 1e3)),
            lost_connections: samples.iter().map(|r| r.lost_connections).sum(),
            unanswered: samples.iter().map(|r| r.unanswered).sum(),
            samples,
        }
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Results {
    pub ok: bool,
    pub machine: Machine,
    pub seconds: f64,
    pub rounds: u32,
    pub loads: Vec<Measured>,
    pub takeovers: Vec<Takeover>,
    pub failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Machine {
    pub processors: usize,
    pub model: String,
    pub kernel: String,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            model: model.map_or("unknown", |(_, m)| m).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

#[cfg(test)]
pub mod samples {
    use super::*;
    use crate::load::{Latency, Usage};

    /// 1000 requests in a second, `cost` us of CPU each for the server.
    pub fn report(rate: f64, p50: f64, cost: f64) -> Report {
        let cpu = [(CLIENT, 5.0), ("server", cost)].map(|(r, us)| (r.to_owned(), Some(us * rate)));
        Report {
            seconds: 1.0,
            requests: rate as u64,
            requests_per_second: rate,
            latency_us: Latency { p50, p90: p50, p99: 2.0 * p50, p999: p50, max: 3.0 * p50 },
            longest_silence_ms: 1.0,
            unanswered: 0,
            errors: 0,
            first_error: None,
            lost_connections: 0,
            request_bytes: 40 * rate as u64,
            outage: None,
            usage: Usage {
                cpu_us: cpu.into(),
                machine_us: 20.0 * rate,
                link_bytes: None,
                log_bytes: Some(30 * rate as u64),
                log_entries: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::MIXED;
    use super::*;
    use samples::report;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn figures_are_per_request_and_against_native() {
        let point = Point { name: "open", connections: 1, rate: Some(1000), asks: MIXED };
        let native = Measured::new(&point, System::Native, vec![report(1000.0, 100.0, 10.0)]);
        let slower = vec![report(500.0, 300.0, 20.0), report(400.0, 500.0, 30.0), report(510.0, 300.0, 20.0)];
        let mut all = [native, Measured::new(&point, System::Protected, slower)];
        compare(&mut all);
        let f = all[1].figures.as_ref().unwrap();
        assert!(!f.reached && all[0].figures.as_ref().unwrap().reached);
        assert_eq!((f.service_cpu_us_per_request, f.cpu_us_per_request[CLIENT]), (20.0, 5.0));
        assert_eq!((f.machine_us_per_request, f.log_bytes_per_request, f.link_bytes_per_request), (20.0, Some(30.0), None));
        let times = TimesNative { requests_per_second: 0.5, p50: 3.0, p99: 3.0, service_cpu: 2.0 };
        assert_eq!(all[1].times_native, Some(times));
    }

    #[test]
    fn what_was_not_measured_has_no_figures() {
        let point = Point { name: "closed", connections: 1, rate: None, asks: MIXED };
        let mut all = [Measured::new(&point, System::Protected, vec![])];
        compare(&mut all);
        assert!(all[0].figures.is_none() && all[0].times_native.is_none());
    }
}
