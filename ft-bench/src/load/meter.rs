//! What a stretch of time cost: CPU of processes and of the whole machine, bytes on the link, bytes of the log.
//!
//! A process is charged by the scheduler's clock, in nanoseconds, all threads together. The kernel charges packet
//! processing to whoever runs when it happens: for a veth pair mostly the sender.

use ft_runtime::pair::status::{Request, client};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The load's own.
pub const CLIENT: &str = "client";
/// Of /proc/stat.
const TICK_MS: u64 = 10;

/// A process to charge under a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    pub role: String,
    pub pid: i32,
}

impl std::str::FromStr for Watched {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parsed = s.split_once('=').and_then(|(role, pid)| Some((role, pid.parse().ok()?)));
        let (role, pid) = parsed.ok_or_else(|| format!("'{s}' is not ROLE=PID"))?;
        Ok(Self { role: role.into(), pid })
    }
}

/// An interface of a process' network.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    pub pid: i32,
    pub name: String,
}

impl std::str::FromStr for Interface {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parsed = s.split_once(':').and_then(|(pid, name)| Some((pid.parse().ok()?, name)));
        let (pid, name) = parsed.ok_or_else(|| format!("'{s}' is not PID:INTERFACE"))?;
        Ok(Self { pid, name: name.into() })
    }
}

impl Interface {
    /// Bytes in both directions.
    fn bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.pid))?;
        bytes_of(&text, &self.name).ok_or_else(|| io::Error::other(format!("no interface {} there", self.name)))
    }
}

fn bytes_of(net_dev: &str, name: &str) -> Option<u64> {
    let line = net_dev.lines().find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let mut fields = line.split_ascii_whitespace();
    let received: u64 = fields.next()?.parse().ok()?;
    let sent: u64 = fields.nth(7)?.parse().ok()?;
    Some(received + sent)
}

/// Where to look.
pub struct Meter {
    pub processes: Vec<Watched>,
    pub link: Option<Interface>,
    /// Control socket of the engine that writes the log.
    pub engine: Option<PathBuf>,
}

/// What there was at one moment.
pub struct Reading {
    at: Instant,
    /// `None`: the process has ended.
    cpu: BTreeMap<String, Option<Duration>>,
    idle: Duration,
    processors: u32,
    link_bytes: Option<u64>,
    log: Option<Log>,
}

#[derive(Clone, Copy, Deserialize)]
struct Log {
    log_bytes: u64,
    log_appended: u64,
}

/// The difference of two readings. `None`: there is no such thing, or it ended meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_us: BTreeMap<String, Option<f64>>,
    /// Of all processors, whoever used them.
    pub machine_us: f64,
    pub link_bytes: Option<u64>,
    pub log_bytes: Option<u64>,
    pub log_entries: Option<u64>,
}

impl Meter {
    pub fn read(&self) -> io::Result<Reading> {
        let own = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        let mut cpu = BTreeMap::from([(CLIENT.to_owned(), Some(own.into()))]);
        for w in &self.processes {
            let used = clock_getcpuclockid(Pid::from_raw(w.pid)).and_then(clock_gettime);
            cpu.insert(w.role.clone(), used.ok().map(Into::into));
        }
        let (idle, processors) = idle(&fs::read_to_string("/proc/stat")?).ok_or_else(|| io::Error::other("/proc/stat"))?;
        Ok(Reading {
            at: Instant::now(),
            cpu,
            idle,
            processors,
            // Of a host that died it can't be told.
            link_bytes: self.link.as_ref().and_then(|l| l.bytes().ok()),
            log: self.engine.as_ref().and_then(|path| {
                serde_json::from_str(&client::ask_line(path, Request::Status).ok()?).ok()
            }),
        })
    }
}

impl Reading {
    pub fn since(&self, earlier: &Self) -> Usage {
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        let cpu = self.cpu.iter().map(|(role, now)| {
            let before = earlier.cpu.get(role).copied().flatten();
            (role.clone(), now.zip(before).map(|(n, b)| us(n.saturating_sub(b))))
        });
        let all = (self.at - earlier.at) * self.processors;
        let log = self.log.zip(earlier.log);
        Usage {
            cpu_us: cpu.collect(),
            machine_us: us(all.saturating_sub(self.idle.saturating_sub(earlier.idle))),
            link_bytes: self.link_bytes.zip(earlier.link_bytes).map(|(n, b)| n.saturating_sub(b)),
            log_bytes: log.map(|(n, b)| n.log_bytes.saturating_sub(b.log_bytes)),
            log_entries: log.map(|(n, b)| n.log_appended.saturating_sub(b.log_appended)),
        }
    }
}

/// Time in which processors did nothing or were the hypervisor's, and how many there are.
fn idle(stat: &str) -> Option<(Duration, u32)> {
    const IDLE: usize = 3;
    const IO_WAIT: usize = 4;
    const STOLEN: usize = 7;
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = all.split_ascii_whitespace().map_while(|f| f.parse().ok()).collect();
    let ticks = fields.get(IDLE)? + fields.get(IO_WAIT)? + fields.get(STOLEN)?;
    let processors = stat.lines().skip(1).take_while(|l| l.starts_with("cpu")).count();
    Some((Duration::from_millis(TICK_MS * ticks), processors as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_tables_are_read_right() {
        let dev = "Inter-| Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n \
                   link0: 1000 2 0 0 0 0 0 0 500 3 0 0 0 0 0 0\n";
        assert_eq!(bytes_of(dev, "link0"), Some(1500));
        assert_eq!(bytes_of(dev, "link"), None);
        let stat = "cpu  10 1 20 300 5 0 7 2 0 0\ncpu0 1\ncpu1 2\nintr 3\n";
        assert_eq!(idle(stat), Some((Duration::from_millis(3070), 2)));
        assert_eq!("server=12".parse::<Watched>().unwrap(), Watched { role: "server".into(), pid: 12 });
        assert!("server".parse::<Watched>().is_err() && "1".parse::<Interface>().is_err());
    }

    #[test]
    fn work_is_charged_to_who_did_it() {
        // The kernel's PID_MAX_LIMIT: nobody has it.
        const PIDS: i32 = 4 << 20;
        let meter = Meter {
            processes: vec![
                Watched { role: "self".into(), pid: std::process::id() as i32 },
                Watched { role: "nobody".into(), pid: PIDS },
            ],
            link: None,
            engine: None,
        };
        let before = meter.read().unwrap();
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {}
        let u = meter.read().unwrap().since(&before);
        let own = u.cpu_us["self"].unwrap();
        assert!(own > 1_000.0 && (own - u.cpu_us[CLIENT].unwrap()).abs() < own, "{u:?}");
        assert_eq!((u.cpu_us["nobody"], u.link_bytes, u.log_bytes), (None, None, None));
    }
}
