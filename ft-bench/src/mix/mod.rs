//! Mixed load on redis: many kinds of clients at once, each deciding by its own seeded numbers what to do next.
//!
//! Laws: what a client does depends on the seed alone (when it does it, on the machine). A client checks what it can
//! know: number and form of replies, its own counters, the content of its own large values. An error reply that
//! none of its commands should draw is a fault, and a fault ends the run.

mod admin;
mod blocking;
mod churn;
mod data;
mod large;
mod pubsub;
mod scripts;
mod transactions;

use crate::resp::{Client, Reply};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Outcome = Result<(), String>;

/// A kind of client.
struct Kind {
    name: &'static str,
    /// Clients of the kind.
    threads: u32,
    /// What one does until the end.
    run: fn(&mut Session) -> Outcome,
}

const fn kind(name: &'static str, threads: u32, run: fn(&mut Session) -> Outcome) -> Kind {
    Kind { name, threads, run }
}

/// Longer than TIME_WAIT.
const PORTS_REST: Duration = Duration::from_secs(75);
const PORT_POLL: Duration = Duration::from_millis(20);

const KINDS: [Kind; 10] = [
    kind("data", 3, data::run),
    kind("transactions", 2, transactions::run),
    kind("scripts", 1, scripts::run),
    kind("waiters", 4, blocking::wait),
    kind("feeder", 1, blocking::feed),
    kind("subscribers", 3, pubsub::subscribe),
    kind("publisher", 1, pubsub::publish),
    kind("large", 2, large::run),
    kind("churn", 2, churn::run),
    kind("admin", 1, admin::run),
];

/// Errors that a mixed load draws by its nature.
const EXPECTED: [&str; 24] = [
    "WRONGTYPE",
    "EXECABORT",
    "NOSCRIPT",
    "OOM ",
    "BUSYGROUP",
    "ERR An LFU maxmemory policy is selected",
    "INVALIDOBJ",
    "NOGROUP",
    "MISCONF",
    "ERR no such key",
    "ERR index out of range",
    "ERR value is not",
    "ERR hash value is not",
    "ERR increment",
    "ERR string exceeds",
    "ERR resulting score",
    "ERR source and destination",
    "ERR The XGROUP subcommand requires the key",
    "ERR The ID specified in XADD is equal or smaller",
    "ERR Background save already in progress",
    "ERR Background append only file rewriting already in progress",
    "ERR No such client",
    "ERR Another child process is active",
    "ERR Can't BGSAVE while AOF",
];

pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|k| k.name).collect()
}

/// What all clients share.
pub struct Shared {
    pub address: SocketAddr,
    seed: u64,
    end: Instant,
    stop: AtomicBool,
    requests: AtomicU64,
    /// Odd while keys may vanish (FLUSHALL, eviction): nobody may then rely on what it wrote.
    epoch: AtomicU64,
    faults: Mutex<Vec<String>>,
    failed: AtomicBool,
}

/// Running clients.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<(&'static str, JoinHandle<Counts>)>,
}

type Errors = BTreeMap<String, u64>;

#[derive(Default)]
struct Counts {
    requests: u64,
    errors: Errors,
}

/// What all clients together did.
#[derive(Default)]
pub struct Tally {
    pub requests: u64,
    pub faults: Vec<String>,
    /// Requests and expected errors by kind of client.
    pub clients: BTreeMap<&'static str, (u64, Errors)>,
}

impl Load {
    pub fn start(address: SocketAddr, seed: u64, time: Duration, only: &[String]) -> Result<Self, String> {
        if let Some(wrong) = only.iter().find(|o| !names().contains(&o.as_str())) {
            return Err(format!("there are no clients {wrong:?}: only {}", names().join(", ")));
        }
        let shared = Arc::new(Shared {
            address,
            seed,
            end: Instant::now() + time,
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            faults: Mutex::default(),
            failed: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for (number, Kind { name, threads: n, run }) in KINDS.into_iter().enumerate() {
            if !only.is_empty() && !only.iter().any(|o| o == name) {
                continue;
            }
            for k in 0..n {
                let shared = shared.clone();
                let thread = std::thread::Builder::new().name(format!("{name}-{k}"));
                let body = move || Session::new(shared, name, number as u32, k).live(run);
                threads.push((name, thread.spawn(body).map_err(|e| format!("a client's thread: {e}"))?));
            }
        }
        Ok(Self { shared, threads })
    }

    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|t| t.1.is_finished())
    }

    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// After the server's end nobody waits for it, so this ends soon.
    pub fn join(self) -> Tally {
        self.stop();
        let mut t = Tally::default();
        for (name, thread) in self.threads {
            match thread.join() {
                Ok(c) => {
                    t.requests += c.requests;
                    let kind = t.clients.entry(name).or_default();
                    kind.0 += c.requests;
                    for (e, n) in c.errors {
                        *kind.1.entry(e).or_default() += n;
                    }
                }
                Err(_) => t.faults.push(format!("a client of kind {name} panicked")),
            }
        }
        t.faults.append(&mut self.shared.faults.lock().expect("nobody panics with it"));
        t
    }
}

/// Where all ports of this machine rest after their connections (TIME_WAIT), one becomes free first.
fn with_a_port<T>(mut connect: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + PORTS_REST;
    loop {
        match connect() {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < end => std::thread::sleep(PORT_POLL),
            other => return other,
        }
    }
}

/// One client's thread.
pub struct Session {
    pub shared: Arc<Shared>,
    pub rng: Rng,
    pub name: &'static str,
    /// Which one of its kind.
    pub number: u32,
    counts: Counts,
}

impl Session {
    fn new(shared: Arc<Shared>, name: &'static str, kind: u32, number: u32) -> Self {
        // Seeds that lie close make streams that lie close: spread them.
        let spread = (u64::from(kind) << 32 | u64::from(number)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rng = Rng::with_seed(shared.seed ^ spread);
        Self { shared, rng, name, number, counts: Counts::default() }
    }

    fn live(mut self, run: fn(&mut Session) -> Outcome) -> Counts {
        if let Err(e) = run(&mut self)
            && !self.shared.stop.load(Ordering::Relaxed)
        {
            let fault = format!("client {}-{}: {e}", self.name, self.number);
            self.shared.faults.lock().expect("nobody panics with it").push(fault);
            self.shared.failed.store(true, Ordering::Relaxed);
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.counts
    }

    pub fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) || Instant::now() >= self.shared.end
    }

    pub fn connect(&self) -> Result<Client, String> {
        with_a_port(|| Client::connect(self.shared.address)).map_err(|e| format!("connecting: {e}"))
    }

    pub fn count(&mut self, requests: u64) {
        self.counts.requests += requests;
        self.shared.requests.fetch_add(requests, Ordering::Relaxed);
    }

    /// Sends the pipeline and takes all its replies.
    pub fn exchange(&mut self, c: &mut Client) -> Result<Vec<Reply>, String> {
        let n = c.awaited;
        let mut replies = Vec::with_capacity(n as usize);
        let done: io::Result<()> = (|| {
            c.flush()?;
            for _ in 0..n {
                replies.push(c.reply()?);
            }
            Ok(())
        })();
        self.count(replies.len() as u64);
        done.map_err(|e| format!("after {} of {n} replies: {e}", replies.len()))?;
        for r in &replies {
            self.check(r)?;
        }
        Ok(replies)
    }

    /// One command, one reply.
    pub fn call(&mut self, c: &mut Client, args: &[crate::resp::Arg]) -> Result<Reply, String> {
        c.push(args);
        let mut replies = self.exchange(c).map_err(|e| format!("{}: {e}", printable(args)))?;
        Ok(replies.pop().expect("one command was pushed"))
    }

    /// An error that may be; one that may not is a fault.
    pub fn check(&mut self, r: &Reply) -> Outcome {
        match r {
            Reply::Error(e) => match EXPECTED.iter().find(|x| e.starts_with(**x)) {
                Some(x) => {
                    *self.counts.errors.entry(x.trim().to_owned()).or_default() += 1;
                    Ok(())
                }
                None => Err(format!("the server answers {e:?}")),
            },
            Reply::Array(all) => all.iter().try_for_each(|r| self.check(r)),
            _ => Ok(()),
        }
    }

    pub fn pause_ms(&mut self, max: u64) {
        std::thread::sleep(Duration::from_micros(self.rng.u64(0..=max * 1000)));
    }

    /// While even and unchanged, keys stay unless their owner removes them.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::SeqCst)
    }

    fn epoch_step(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

fn printable(args: &[crate::resp::Arg]) -> String {
    let part = |a: &crate::resp::Arg| {
        let b = a.as_ref();
        String::from_utf8_lossy(&b[..b.len().min(60)]).into_owned()
    };
    args.iter().take(6).map(part).collect::<Vec<_>>().join(" ")
}

/// `n` bytes: compressible or not.
pub fn bytes(rng: &mut Rng, n: usize) -> Vec<u8> {
    if rng.bool() {
        let b = rng.u8(b'a'..=b'z');
        return vec![b; n];
    }
    let mut v = vec![0; n];
    rng.fill(&mut v);
    v
}
