//! `ft-bench verify`: redis clients that know every write that was acknowledged.
//!
//! Each connection owns a counter and a list, sends INCR and RPUSH in pipelines of random depth and demands that every
//! reply is the next value. In the end it reads both back. Idle connections only say at the end that they are alive.
//!
//! Laws: no connection is opened twice and nothing is sent twice. What was acknowledged is read back over the same
//! connection; if that was lost, over another, so that a lost connection does not hide lost writes. An item of a list
//! has a name of its own: lost and doubled ones are counted, not guessed.

use crate::resp::{Client, Reply};
use clap::Args;
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A reply that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(20);
/// The rest are RPUSH.
pub const INCR_SHARE: f64 = 0.7;
/// Bytes of an item, beside its name; and the largest that is allowed.
const ITEM_BYTES: [usize; 5] = [0, 10, 300, 5_000, 50_000];
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// So many errors are told in words.
const ERRORS_TOLD_MAX: usize = 5;

#[derive(Args)]
pub struct ClientArgs {
    server: SocketAddr,
    /// How long to write.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    conns: u32,
    /// Writes per second, of all connections together.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Connections that are open beside them and say nothing meanwhile.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    idle: u32,
    /// Writes in one pipeline, at most.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    depth: u32,
    /// Bytes of an item of a list, at most.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    item_bytes: u32,
    /// Decides what each connection writes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What is printed, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// All connections are open; writing begins.
    Began,
    /// Writes acknowledged so far.
    Acknowledged(u64),
    Ended(Tally),
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Microseconds since 1970.
    pub sent_us: u64,
    pub latency_us: u64,
}

impl Sample {
    pub fn answered_us(&self) -> u64 {
        self.sent_us + self.latency_us
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Connections that worked to the end.
    pub open: u32,
    /// Those that were closed or reset.
    pub reset: u32,
    /// Those on which no reply came any more.
    pub stalled: u32,
    /// Idle ones that were dead in the end.
    pub idle_lost: u32,
    pub acknowledged: u64,
    pub verdict: Verdict,
    /// Redis' run id and process id, before and after.
    pub server: [String; 2],
    /// The first of what went wrong.
    pub errors: Vec<String>,
    pub samples: Vec<Sample>,
}

/// What became of the writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Acknowledged and gone.
    pub lost: u64,
    /// Done more than once.
    pub doubled: u64,
    /// Replies and items that are none of ours, or in another order.
    pub wrong: u64,
    /// Acknowledged, but nobody could be asked about them.
    pub unverified: u64,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, v: Self) {
        self.lost += v.lost;
        self.doubled += v.doubled;
        self.wrong += v.wrong;
        self.unverified += v.unverified;
    }

    /// A counter where `least..=most` were possible.
    fn of_counter(value: i64, least: u64, most: u64) -> Self {
        let value = value.max(0) as u64;
        Self { lost: least.saturating_sub(value), doubled: value.saturating_sub(most), ..Self::default() }
    }

    /// A list to which items 1 to `sent` were appended in that order, the first `acknowledged` for certain.
    fn of_list(items: &[Vec<u8>], conn: u32, acknowledged: u64, sent: u64) -> Self {
        let mut v = Self::default();
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut last = 0;
        for item in items {
            let Some(n) = item_number(item, conn).filter(|n| (1..=sent).contains(n)) else {
                v.wrong += 1;
                continue;
            };
            let times = seen.entry(n).or_default();
            *times += 1;
            if *times > 1 {
                v.doubled += 1;
            } else if n < last {
                v.wrong += 1;
            }
            last = last.max(n);
        }
        v.lost = (1..=acknowledged).filter(|n| !seen.contains_key(n)).count() as u64;
        v
    }
}

/// What is drawn from, each as often.
fn item_bytes(max: usize) -> impl Iterator<Item = usize> {
    ITEM_BYTES.into_iter().filter(move |b| *b < max).chain([max])
}

pub fn item_bytes_mean(max: u32) -> f64 {
    let all: Vec<usize> = item_bytes(max as usize).collect();
    all.iter().sum::<usize>() as f64 / all.len() as f64
}

fn item_name(conn: u32, n: u64) -> String {
    format!("{conn}-{n}-")
}

fn item_number(item: &[u8], conn: u32) -> Option<u64> {
    let text = std::str::from_utf8(item).ok()?;
    let mut parts = text.split('-');
    (parts.next()? == conn.to_string()).then_some(())?;
    parts.next()?.parse().ok()
}

/// `ft-bench verify`.
pub fn run(a: &ClientArgs) -> ExitCode {
    let Ok(time) = Duration::try_from_secs_f64(a.seconds) else {
        eprintln!("ft-bench: a time of {} s makes no sense", a.seconds);
        return ExitCode::from(2);
    };
    match load(a, time) {
        Ok(tally) => {
            let ok = tally.verdict.is_clean() && tally.errors.is_empty();
            say(&Said::Ended(tally));
            if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("ft-bench: {}: {e}", a.server);
            ExitCode::from(2)
        }
    }
}

fn say(what: &Said) {
    let line = serde_json::to_string(what).expect("plain numbers and text");
    // Who reads it may have been interrupted.
    let _ = writeln!(io::stdout(), "{line}");
}

fn load(a: &ClientArgs, time: Duration) -> io::Result<Tally> {
    let epoch = Epoch::now();
    let acknowledged = AtomicU64::new(0);
    // A server may have been asked before.
    let prefix = format!("demo{}", epoch.unix_us);
    let mut conns = (0..a.conns).map(|id| Conn::open(a, id, &prefix)).collect::<io::Result<Vec<_>>>()?;
    let mut idle = (0..a.idle).map(|_| open(a.server)).collect::<io::Result<Vec<_>>>()?;
    idle.iter_mut().try_for_each(is_alive)?;
    let before = identity(&mut conns[0].client)?;
    let mean_batch = f64::from(1 + a.depth) / 2.0;
    let pause_mean = Duration::from_secs_f64(f64::from(a.conns) * mean_batch / f64::from(a.rate));
    say(&Said::Began);
    let begin = Instant::now();
    let mut tally = Tally::default();
    std::thread::scope(|s| {
        let threads: Vec<_> = conns
            .drain(..)
            .map(|mut c| {
                let acknowledged = &acknowledged;
                s.spawn(move || {
                    c.write_until(begin + time, pause_mean, epoch, acknowledged);
                    c
                })
            })
            .collect();
        let mut next = begin + PROGRESS_EVERY;
        while threads.iter().any(|t| !t.is_finished()) {
            if Instant::now() >= next {
                next += PROGRESS_EVERY;
                say(&Said::Acknowledged(acknowledged.load(Ordering::Relaxed)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        conns = threads.into_iter().map(|t| t.join().expect("a connection's thread does not panic")).collect();
    });
    let first = &mut conns[0];
    let after = if first.end.is_none() { identity(&mut first.client) } else { Ok("not to be asked".into()) };
    let after = after.unwrap_or_else(|e| first.end.insert(e).to_string());
    for c in conns {
        c.close(a.server, &mut tally);
    }
    for e in idle.iter_mut().filter_map(|c| is_alive(c).err()) {
        tally.idle_lost += 1;
        if tally.errors.len() < ERRORS_TOLD_MAX {
            tally.errors.push(format!("an idle connection is dead: {e}"));
        }
    }
    tally.server = [before, after];
    Ok(tally)
}

fn open(server: SocketAddr) -> io::Result<Client> {
    let client = Client::connect(server)?;
    client.stream().set_read_timeout(Some(PATIENCE))?;
    client.stream().set_write_timeout(Some(PATIENCE))?;
    Ok(client)
}

fn is_alive(client: &mut Client) -> io::Result<()> {
    match client.call(&[&"PING"])? {
        Reply::Status(s) if s == "PONG" => Ok(()),
        r => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{r:?} to PING"))),
    }
}

/// Of the server's process.
fn identity(client: &mut Client) -> io::Result<String> {
    let Reply::Bulk(info) = client.call(&[&"INFO", &"server"])? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "INFO is not answered with text"));
    };
    let info = String::from_utf8_lossy(&info).into_owned();
    let field = |name| info.lines().find_map(|l| l.trim().strip_prefix(name)).unwrap_or("?");
    Ok(format!("pid {}, run id {}", field("process_id:"), field("run_id:")))
}

/// Wall clock at one moment; from there by the monotonic one.
#[derive(Clone, Copy)]
struct Epoch {
    unix_us: u64,
    at: Instant,
}

impl Epoch {
    fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_us: unix.as_micros() as u64, at: Instant::now() }
    }

    fn unix_us(&self, at: Instant) -> u64 {
        self.unix_us + at.saturating_duration_since(self.at).as_micros() as u64
    }
}

/// How far one of a connection's two keys has come.
#[derive(Clone, Copy, Default)]
struct Book {
    sent: u64,
    acknowledged: u64,
    /// The last value that was answered.
    value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Write1 {
    Incr,
    Push,
}

struct Conn {
    id: u32,
    client: Client,
    rng: Rng,
    depth_max: u32,
    item_bytes_max: usize,
    counter_key: String,
    list_key: String,
    counter: Book,
    list: Book,
    verdict: Verdict,
    errors: Vec<String>,
    samples: Vec<Sample>,
    /// Why it ended early.
    end: Option<io::Error>,
}

impl Conn {
    fn open(a: &ClientArgs, id: u32, prefix: &str) -> io::Result<Self> {
        Ok(Self {
            id,
            client: open(a.server)?,
            rng: Rng::with_seed(a.seed.wrapping_add(id.into())),
            depth_max: a.depth,
            item_bytes_max: a.item_bytes as usize,
            counter_key: format!("{prefix}:c:{id}"),
            list_key: format!("{prefix}:l:{id}"),
            counter: Book::default(),
            list: Book::default(),
            verdict: Verdict::default(),
            errors: Vec::new(),
            samples: Vec::new(),
            end: None,
        })
    }

    fn write_until(&mut self, end: Instant, pause_mean: Duration, epoch: Epoch, acknowledged: &AtomicU64) {
        let mut next = Instant::now() + pause_mean.mul_f64(self.rng.f64());
        while next < end {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if let Err(e) = self.batch(epoch, acknowledged) {
                self.end = Some(e);
                return;
            }
            next = Instant::now().max(next + pause_mean.mul_f64(2.0 * self.rng.f64()));
        }
    }

    /// A pipeline and its replies.
    fn batch(&mut self, epoch: Epoch, acknowledged: &AtomicU64) -> io::Result<()> {
        let mut awaited = Vec::new();
        for _ in 0..self.rng.u32(1..=self.depth_max) {
            if self.rng.f64() < INCR_SHARE {
                self.counter.sent += 1;
                self.client.push(&[&"INCR", &self.counter_key]);
                awaited.push(Write1::Incr);
            } else {
                self.list.sent += 1;
                let bytes = self.item_bytes();
                let item = item_name(self.id, self.list.sent) + &"x".repeat(bytes);
                self.client.push(&[&"RPUSH", &self.list_key, &item]);
                awaited.push(Write1::Push);
            }
        }
        let sent_at = Instant::now();
        self.client.flush()?;
        for w in awaited {
            let reply = self.client.reply()?;
            let latency_us = sent_at.elapsed().as_micros() as u64;
            self.samples.push(Sample { sent_us: epoch.unix_us(sent_at), latency_us });
            self.acknowledge(w, &reply);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn item_bytes(&mut self) -> usize {
        let all: Vec<usize> = item_bytes(self.item_bytes_max).collect();
        *self.rng.choice(&all).expect("the largest is there")
    }

    fn acknowledge(&mut self, write: Write1, reply: &Reply) {
        let book = if write == Write1::Incr { &mut self.counter } else { &mut self.list };
        let want = book.value + 1;
        match *reply {
            Reply::Int(got) => {
                book.acknowledged += 1;
                book.value = got.max(0) as u64;
                if write == Write1::Incr {
                    // What a list lacks or has too often is seen in its items.
                    self.verdict.add(Verdict::of_counter(got, want, want));
                }
                if got != want as i64 {
                    self.verdict.wrong += 1;
                    self.errors.push(format!("connection {}: {got} answered instead of {want}", self.id));
                }
            }
            ref other => {
                self.verdict.wrong += 1;
                self.errors.push(format!("connection {}: {other:?} answered instead of {want}", self.id));
            }
        }
    }

    /// Reads all back; over another connection if its own is lost.
    fn close(mut self, server: SocketAddr, tally: &mut Tally) {
        let mut verdict = self.verdict;
        let own = match self.end.take() {
            None => read_back(&mut self.client, &self.counter_key, &self.list_key),
            Some(e) => Err(e),
        };
        match own {
            Ok(read) => {
                tally.open += 1;
                verdict.add(self.judge(&read));
            }
            Err(e) => {
                let stalled = matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                if stalled {
                    tally.stalled += 1
                } else {
                    tally.reset += 1
                }
                self.errors.push(format!("connection {} lost: {e}", self.id));
                let other = open(server).and_then(|mut c| read_back(&mut c, &self.counter_key, &self.list_key));
                match other {
                    Ok(read) => verdict.add(self.judge(&read)),
                    Err(_) => verdict.unverified += self.counter.acknowledged + self.list.acknowledged,
                }
            }
        }
        tally.acknowledged += self.counter.acknowledged + self.list.acknowledged;
        tally.verdict.add(verdict);
        let room = ERRORS_TOLD_MAX.saturating_sub(tally.errors.len());
        tally.errors.extend(self.errors.into_iter().take(room));
        tally.samples.append(&mut self.samples);
    }

    fn judge(&mut self, (count, items): &(i64, Vec<Vec<u8>>)) -> Verdict {
        let c = self.counter;
        let mut v = Verdict::of_counter(*count, c.value, c.value + (c.sent - c.acknowledged));
        v.add(Verdict::of_list(items, self.id, self.list.acknowledged, self.list.sent));
        if !v.is_clean() {
            self.errors.push(format!("connection {}, read back: {v:?}", self.id));
        }
        v
    }
}

fn read_back(client: &mut Client, counter_key: &str, list_key: &str) -> io::Result<(i64, Vec<Vec<u8>>)> {
    let bad = |r: Reply| io::Error::new(io::ErrorKind::InvalidData, format!("{r:?} at the read-back"));
    let count = match client.call(&[&"GET", &counter_key])? {
        Reply::Nil => 0,
        Reply::Bulk(b) => String::from_utf8_lossy(&b).parse().map_err(io::Error::other)?,
        r => return Err(bad(r)),
    };
    let items = match client.call(&[&"LRANGE", &list_key, &"0", &"-1"])? {
        Reply::Array(a) => a.into_iter().map(|r| match r {
            Reply::Bulk(b) => Ok(b),
            r => Err(bad(r)),
        }),
        r => return Err(bad(r)),
    };
    Ok((count, items.collect::<io::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|n| n.as_bytes().to_vec()).collect()
    }

    #[test]
    fn items_are_counted_by_name() {
        let judge = |names: &[&str]| Verdict::of_list(&list(names), 7, 3, 4);
        assert!(judge(&["7-1-", "7-2-xxx", "7-3-"]).is_clean());
        assert!(judge(&["7-1-", "7-2-", "7-3-", "7-4-"]).is_clean(), "sent and not acknowledged: both are right");
        assert_eq!(judge(&["7-1-", "7-3-"]), Verdict { lost: 1, ..Verdict::default() });
        assert_eq!(judge(&["7-1-", "7-2-", "7-2-", "7-3-"]), Verdict { doubled: 1, ..Verdict::default() });
        assert_eq!(judge(&["7-2-", "7-1-", "7-3-"]), Verdict { wrong: 1, ..Verdict::default() });
        assert_eq!(judge(&["7-1-", "7-2-", "7-3-", "7-5-"]), Verdict { wrong: 1, ..Verdict::default() });
        assert_eq!(judge(&["8-1-", "7-2-", "7-3-"]), Verdict { wrong: 1, lost: 1, ..Verdict::default() });
        assert_eq!(judge(&[]).lost, 3);
    }

    #[test]
    fn counters_have_a_range() {
        assert!(Verdict::of_counter(5, 5, 5).is_clean() && Verdict::of_counter(6, 5, 7).is_clean());
        assert_eq!(Verdict::of_counter(3, 5, 5).lost, 2);
        assert_eq!(Verdict::of_counter(8, 5, 7).doubled, 1);
    }
}
