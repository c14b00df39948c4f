//! `ft-bench load`: asks a redis server, from one thread, and prints what came of it as one line of JSON.
//!
//! Closed loop: each connection asks again when it was answered. Open loop: requests are due at even distances,
//! whatever the server does, on the connections in turn; what is due is sent although earlier ones wait.

mod connection;
mod meter;
mod replies;
mod requests;
mod tally;

pub use meter::{CLIENT, Interface, Usage, Watched};
pub use tally::{Latency, Span};

use crate::resp::{Client, Reply};
use clap::Args;
use connection::Connection;
use meter::Meter;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use requests::{KEYS, Requests};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tally::{Schedule, Tally};

pub const CONNECTIONS_MAX: u32 = 10_000;
pub const SECONDS_MAX: f64 = 3_600.0;
const RATE_MAX: f64 = 10_000_000.0;
/// After the window, for answers that are under way.
const LATE_MAX: Duration = Duration::from_millis(200);
/// Of an open loop: more wait only where the figures say nothing any more.
const WAITING_MAX: u64 = 5_000_000;
const READ_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 256;
const TIMER: u64 = u64::MAX;
/// Requests in one go while keys are set for the first time.
const FILL_PIPELINE: u32 = 100;
/// For replicas to have all keys.
const REPLICAS_MS_MAX: u32 = 30_000;

/// What to do, from the command line.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// The server.
    pub address: SocketAddr,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub connections: u32,
    /// Requests per second, due at even distances. Otherwise each connection asks again when it was answered.
    #[arg(long)]
    pub rate: Option<f64>,
    /// How long to measure.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// How long to ask before that.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub warm_up: f64,
    /// How many of a hundred requests are SET; the others are GET.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(..=100))]
    pub sets: u8,
    /// Ask what the server answers after 1 to so many milliseconds (BLPOP), and nothing else.
    #[arg(long, value_name = "MS")]
    pub held: Option<u32>,
    /// Report when no answer came, and which requests waited: a host is going to die.
    #[arg(long)]
    pub outage: bool,
    /// A write counts as answered when so many replicas have it (WAIT).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub replicas: u32,
    /// Set all keys and do nothing else.
    #[arg(long)]
    pub fill: bool,
    /// Report the CPU time of this process under this name; several are allowed.
    #[arg(long, value_name = "ROLE=PID")]
    pub watch: Vec<Watched>,
    /// Report the bytes that went over this interface in this process' network.
    #[arg(long, value_name = "PID:INTERFACE")]
    pub link: Option<Interface>,
    /// Report what the engine that answers here wrote to its log.
    #[arg(long, value_name = "SOCKET")]
    pub engine: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The window's length.
    pub seconds: f64,
    /// Answers within the window.
    pub requests: u64,
    pub requests_per_second: f64,
    /// From the intended time of sending to the last byte of the answer.
    pub latency_us: Latency,
    /// The longest time without any answer on any connection.
    pub longest_silence_ms: f64,
    /// Meant to be sent before the window's end and not answered shortly after it: in the latencies with their age.
    pub unanswered: u64,
    /// Answers that say no, or something else than they must.
    pub errors: u64,
    pub first_error: Option<String>,
    /// Connections that broke.
    pub lost_connections: u32,
    /// Given to the kernel within the window.
    pub request_bytes: u64,
    pub usage: Usage,
    /// With `--outage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
}

/// What clients saw of a pause, in microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Times of 1 ms and more in which no answer came on any connection.
    pub silences: Vec<Span>,
    /// Requests that took 1 ms and more, from the intended time of sending.
    pub waits: Vec<Span>,
}

impl LoadArgs {
    pub fn check(&self) -> Result<(), String> {
        let sane = |what: &str, value: f64, min: f64, max: f64| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(format!("{what}: {value} is not in {min} to {max}")) }
        };
        sane("--seconds", self.seconds, 0.01, SECONDS_MAX)?;
        sane("--warm-up", self.warm_up, 0.0, SECONDS_MAX)?;
        self.rate.map_or(Ok(()), |r| sane("--rate", r, 1.0, RATE_MAX))
    }

    /// The line to print.
    pub fn run(&self) -> io::Result<String> {
        if self.fill {
            fill(self.address, self.replicas)?;
            return Ok(serde_json::json!({ "keys": KEYS }).to_string());
        }
        let report = Load::new(self)?.run()?;
        Ok(serde_json::to_string(&report).expect("plain numbers and text"))
    }
}

/// Sets every key, and waits until the replicas have them.
fn fill(address: SocketAddr, replicas: u32) -> io::Result<()> {
    let mut client = Client::connect(address)?;
    let value = "v".repeat(requests::VALUE_BYTES);
    for begin in (0..KEYS).step_by(FILL_PIPELINE as usize) {
        let keys = begin..KEYS.min(begin + FILL_PIPELINE);
        for k in keys.clone() {
            client.push(&[&"SET", &requests::key(k), &value]);
        }
        client.flush()?;
        for _ in keys {
            expect(&client.reply()?, |r| matches!(r, Reply::Status(_)))?;
        }
    }
    if replicas > 0 {
        let have = client.call(&[&"WAIT", &replicas.to_string(), &REPLICAS_MS_MAX.to_string()])?;
        expect(&have, |r| matches!(r, Reply::Int(n) if *n >= i64::from(replicas)))?;
    }
    Ok(())
}

fn expect(reply: &Reply, good: impl Fn(&Reply) -> bool) -> io::Result<()> {
    if good(reply) { Ok(()) } else { Err(io::Error::other(format!("the server answered {reply:?}"))) }
}

/// When connections ask.
enum Pace {
    Closed,
    Open { schedule: Schedule, next: usize },
}

struct Load {
    /// `None`: it broke.
    connections: Vec<Option<Connection>>,
    epoll: Epoll,
    timer: TimerFd,
    /// For what the timer is set.
    timer_ns: u64,
    pace: Pace,
    requests: Requests,
    tally: Tally,
    meter: Meter,
    started: Instant,
    /// Microseconds since 1970 at the start.
    started_us: u64,
    outage: bool,
    warm_up: Duration,
    window: Duration,
    /// Connections with bytes for the kernel.
    unsent: BTreeSet<usize>,
    /// Asked and not answered.
    waiting: u64,
    /// Intended times of what was or would have been asked on connections that broke.
    unanswerable: Vec<u64>,
    errors: u64,
    first_error: Option<String>,
    lost: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Window,
    /// Nothing more is asked.
    Late,
}

impl Load {
    fn new(args: &LoadArgs) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut connections = Vec::new();
        for k in 0..u64::from(args.connections) {
            let c = Connection::connect(args.address)
                .map_err(|e| io::Error::new(e.kind(), format!("connecting to {}: {e}", args.address)))?;
            epoll.add(c.fd(), EpollEvent::new(EpollFlags::EPOLLIN, k))?;
            connections.push(Some(c));
        }
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            connections,
            epoll,
            timer,
            timer_ns: 0,
            pace: match args.rate {
                Some(r) => Pace::Open { schedule: Schedule::new(r), next: 0 },
                None => Pace::Closed,
            },
            requests: args.held.into_iter().fold(Requests::new(args.sets, args.replicas), Requests::held),
            tally: Tally::new(args.outage),
            meter: Meter { processes: args.watch.clone(), link: args.link.clone(), engine: args.engine.clone() },
            started: Instant::now(),
            started_us: 0,
            outage: args.outage,
            warm_up: Duration::from_secs_f64(args.warm_up),
            window: Duration::from_secs_f64(args.seconds),
            unsent: BTreeSet::new(),
            waiting: 0,
            unanswerable: Vec::new(),
            errors: 0,
            first_error: None,
            lost: 0,
        })
    }

    fn run(mut self) -> io::Result<Report> {
        self.started = Instant::now();
        self.started_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        if matches!(self.pace, Pace::Closed) {
            for k in 0..self.connections.len() {
                self.ask(k, 0);
            }
        }
        self.turn_until(Phase::WarmUp, self.warm_up)?;
        let before = self.meter.read()?;
        let begin = self.started.elapsed();
        self.tally.begin(begin.as_nanos() as u64);
        let sent_before = self.sent_bytes();
        self.turn_until(Phase::Window, begin + self.window)?;
        let request_bytes = self.sent_bytes().saturating_sub(sent_before);
        let end = self.started.elapsed();
        self.tally.end(end.as_nanos() as u64);
        let usage = self.meter.read()?.since(&before);
        self.turn_until(Phase::Late, end + LATE_MAX)?;
        self.give_up();
        let seconds = (end - begin).as_secs_f64();
        Ok(Report {
            seconds,
            requests: self.tally.answered,
            requests_per_second: self.tally.answered as f64 / seconds,
            latency_us: self.tally.latency_us(),
            longest_silence_ms: self.tally.longest_silence_ns as f64 / 1e6,
            unanswered: self.tally.unanswered,
            errors: self.errors,
            first_error: self.first_error,
            lost_connections: self.lost,
            request_bytes,
            usage,
            outage: self.outage.then(|| self.tally.outage(self.started_us)),
        })
    }

    /// Of connections that broke nothing is known any more: such a window is no sample.
    fn sent_bytes(&self) -> u64 {
        self.connections.iter().flatten().map(|c| c.sent_bytes).sum()
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn turn_until(&mut self, phase: Phase, end: Duration) -> io::Result<()> {
        let end_ns = end.as_nanos() as u64;
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let now = self.now_ns();
            let done = phase == Phase::Late && self.waiting == 0;
            if now >= end_ns || done {
                return Ok(());
            }
            let due = if phase == Phase::Late { None } else { self.ask_what_is_due(now) };
            self.flush();
            self.set_timer(due.unwrap_or(end_ns).min(end_ns))?;
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => 0,
                n => n?,
            };
            for e in events.iter().take(n).filter(|e| e.data() != TIMER) {
                let k = e.data() as usize;
                if e.events().contains(EpollFlags::EPOLLOUT) {
                    self.unsent.insert(k);
                }
                if e.events().intersects(!EpollFlags::EPOLLOUT) {
                    self.receive(k, phase, &mut buffer);
                }
            }
            if self.waiting > WAITING_MAX {
                return Err(io::Error::other(format!("{WAITING_MAX} requests wait: a lower rate or a shorter time")));
            }
        }
    }

    /// When the next one is due, in an open loop.
    fn ask_what_is_due(&mut self, now_ns: u64) -> Option<u64> {
        loop {
            let Pace::Open { schedule, next } = &mut self.pace else { return None };
            let Some(intended) = schedule.take_due(now_ns) else { return Some(schedule.next_ns()) };
            let k = *next;
            *next = (k + 1) % self.connections.len();
            self.ask(k, intended);
        }
    }

    fn ask(&mut self, k: usize, intended_ns: u64) {
        match &mut self.connections[k] {
            Some(c) => {
                c.ask(&mut self.requests, intended_ns);
                self.waiting += 1;
                self.unsent.insert(k);
            }
            None => self.unanswerable.push(intended_ns),
        }
    }

    fn flush(&mut self) {
        for k in std::mem::take(&mut self.unsent) {
            let Some(c) = &mut self.connections[k] else { continue };
            let result = c.flush().and_then(|blocked| {
                if blocked != c.blocked {
                    c.blocked = blocked;
                    let more = if blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
                    self.epoll.modify(c.fd(), &mut EpollEvent::new(EpollFlags::EPOLLIN | more, k as u64))?;
                }
                Ok(())
            });
            if let Err(e) = result {
                self.lose(k, &e);
            }
        }
    }

    fn receive(&mut self, k: usize, phase: Phase, buffer: &mut [u8]) {
        let now = self.now_ns();
        let Some(c) = &mut self.connections[k] else { return };
        let result = c.receive(buffer, self.requests.replicas, |a| {
            self.waiting -= 1;
            self.errors += u64::from(!a.ok);
            match phase {
                Phase::WarmUp | Phase::Window => self.tally.answer(a.intended_ns, now),
                Phase::Late => self.tally.answer_late(a.intended_ns, now),
            }
        });
        if self.first_error.is_none() {
            self.first_error = c.first_error.take();
        }
        let free = c.is_idle();
        match result {
            Err(e) => self.lose(k, &e),
            Ok(()) if free && phase != Phase::Late && matches!(self.pace, Pace::Closed) => self.ask(k, now),
            Ok(()) => {}
        }
    }

    fn lose(&mut self, k: usize, error: &io::Error) {
        let Some(c) = self.connections[k].take() else { return };
        self.lost += 1;
        self.first_error.get_or_insert_with(|| format!("a connection broke: {error}"));
        for intended in c.waiting() {
            self.waiting -= 1;
            self.unanswerable.push(intended);
        }
    }

    fn give_up(&mut self) {
        let now = self.now_ns();
        let waiting = self.connections.iter().flatten().flat_map(Connection::waiting);
        for intended in waiting.chain(self.unanswerable.iter().copied()) {
            self.tally.give_up(intended, now);
        }
    }

    fn set_timer(&mut self, at_ns: u64) -> io::Result<()> {
        if at_ns == self.timer_ns && at_ns > self.now_ns() {
            return Ok(());
        }
        self.timer_ns = at_ns;
        // Zero would disarm it.
        let wait = Duration::from_nanos(at_ns.saturating_sub(self.now_ns()).max(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        Ok(self.timer.set(expiration, TimerSetTimeFlags::empty())?)
    }
}
