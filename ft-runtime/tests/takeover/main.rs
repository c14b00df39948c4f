//! Connections of real clients whose server loses its host and goes on at another. Needs root, as `ft` does.
//!
//! Alpha's kernel stands for the lost host: what it had received counts as committed (a gate sees to that), and of
//! what the client had acknowledged the other host knows an older, smaller number. Births are read off the wire.
//! `--nocapture` shows the times: from the first socket built in beta to the client's bytes, median and all runs.

mod capture;
mod net;

use capture::{ACK, Capture, FIN, RST, SYN};
use ft_runtime::engine::sys;
use ft_runtime::takeover::address::Announcer;
use ft_runtime::takeover::route::{Metrics, TakeoverRoutes};
use ft_runtime::takeover::tcp_repair::{self, Birth, InRepair, RestoreSpec, build, demote, resend_syn_ack};
use net::{Family, Net};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(12);
const RUNS: usize = 5;
/// Most that may be unacknowledged.
const W: u64 = ft_log::entry::TX_WINDOW_BYTES;

/// The streams' bytes, again and again from the start: a wrong, lost or doubled one shows.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let once = (0..PATTERN_BYTES as u64).map(|p| (p.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8);
    once.cycle().take(PATTERN_BYTES + PIECE_BYTES).collect()
});
/// A prime: no segment or buffer size divides it.
const PATTERN_BYTES: usize = 1_000_003;
const PIECE_BYTES: usize = 256 << 10;

/// At most [`PIECE_BYTES`] of a stream.
fn piece(from: u64, to: u64) -> &'static [u8] {
    let at = (from % PATTERN_BYTES as u64) as usize;
    &PATTERN[at..at + (to - from).min(PIECE_BYTES as u64) as usize]
}

fn pattern(from: u64, to: u64) -> Vec<u8> {
    let mut all = Vec::with_capacity((to - from) as usize);
    while all.len() < (to - from) as usize {
        all.extend_from_slice(piece(from + all.len() as u64, to));
    }
    all
}

fn check(bytes: &[u8], from: u64) {
    let right = piece(from, from + bytes.len() as u64);
    if bytes != right {
        let k = bytes.iter().zip(right).position(|(a, b)| a != b).unwrap();
        panic!("wrong byte at {}", from + k as u64);
    }
}

/// Reads and checks the stream from `from` to `to`; when the first byte came.
fn expect(mut s: &TcpStream, from: u64, to: u64) -> Instant {
    let mut at = from;
    let mut first = None;
    let mut buffer = vec![0; PIECE_BYTES];
    while at < to {
        let want = buffer.len().min((to - at) as usize);
        let n = s.read(&mut buffer[..want]).unwrap_or_else(|e| panic!("at {at} of {from}..{to}: {e}"));
        assert!(n > 0, "ended at {at} of {from}..{to}");
        first.get_or_insert_with(Instant::now);
        check(&buffer[..n], at);
        at += n as u64;
    }
    first.unwrap_or_else(Instant::now)
}

fn expect_end(mut s: &TcpStream) {
    assert_eq!(s.read(&mut [0]).expect("the end of the stream"), 0);
}

/// One test at a time: they measure.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// What a client's kernel can do.
#[derive(Clone, Copy, Debug)]
struct Kind {
    family: Family,
    timestamps: bool,
    wscale: bool,
    sack: bool,
}

const PLAIN: Kind = Kind { family: Family::V4, timestamps: true, wscale: true, sack: true };
const KINDS: [Kind; 7] = [
    PLAIN,
    Kind { family: Family::V6, ..PLAIN },
    Kind { timestamps: false, ..PLAIN },
    Kind { wscale: false, ..PLAIN },
    Kind { sack: false, ..PLAIN },
    Kind { timestamps: false, wscale: false, sack: false, ..PLAIN },
    Kind { family: Family::V6, timestamps: false, wscale: false, sack: false },
];

fn net_for(kind: Kind) -> Net {
    let net = Net::new();
    for (name, on) in [("timestamps", kind.timestamps), ("window_scaling", kind.wscale), ("sack", kind.sack)] {
        net.client.sysctl(&format!("ipv4/tcp_{name}"), if on { "1" } else { "0" });
    }
    net
}

/// A connection of the client's with alpha.
struct Conn {
    client: TcpStream,
    alpha: TcpStream,
    birth: Birth,
    born: Instant,
}

fn connect(net: &Net, kind: Kind) -> Conn {
    connect_many(net, kind, 1).pop().unwrap()
}

fn connect_many(net: &Net, kind: Kind, n: usize) -> Vec<Conn> {
    let at = SocketAddr::new(kind.family.service(), PORT);
    let (mut capture, listener) = net.alpha.run(|| (Capture::open(), TcpListener::bind(at).unwrap()));
    let mut pairs = Vec::new();
    net.client.run(|| {
        for _ in 0..n {
            let client = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
            let (alpha, _) = listener.accept().unwrap();
            pairs.push((client, alpha));
        }
    });
    let births = capture.births(n);
    pairs
        .into_iter()
        .map(|(client, alpha)| {
            for s in [&client, &alpha] {
                s.set_nodelay(true).unwrap();
                s.set_read_timeout(Some(PATIENCE)).unwrap();
                s.set_write_timeout(Some(PATIENCE)).unwrap();
            }
            let (birth, born, _) = births[&client.local_addr().unwrap()];
            let (asked, agreed) = (birth.client_options, birth.server_options);
            assert_eq!((asked.timestamps.is_some(), agreed.timestamps.is_some()), (kind.timestamps, kind.timestamps));
            assert_eq!((asked.wscale.is_some(), asked.sack), (kind.wscale, kind.sack));
            Conn { client, alpha, birth, born }
        })
        .collect()
}

/// What beta knows of a connection.
#[derive(Clone, Debug)]
struct Standing {
    birth: Birth,
    born: Instant,
    received: u64,
    fin_received: bool,
    acked: u64,
    output: Vec<u8>,
    fin_sent: bool,
    established: bool,
}

impl Standing {
    fn of(c: &Conn) -> Self {
        Self::born(c.birth, c.born, true)
    }

    fn born(birth: Birth, born: Instant, established: bool) -> Self {
        let (received, acked) = (0, 0);
        Self { birth, born, received, fin_received: false, acked, output: Vec::new(), fin_sent: false, established }
    }

    fn build(&self) -> InRepair<'_> {
        // As a ring gives it: in two pieces.
        let cut = self.output.len() * 2 / 3;
        let spec = RestoreSpec {
            birth: &self.birth,
            received: self.received,
            fin_received: self.fin_received,
            acked: self.acked,
            output: self.output.split_at(cut),
            fin_sent: self.fin_sent,
            elapsed_since_tsval_ms: self.born.elapsed().as_millis() as u64,
            established: self.established,
        };
        build(&spec).unwrap()
    }
}

/// A finished takeover. The routes stay as they are for takeovers until it goes.
struct Takeover {
    sockets: Vec<TcpStream>,
    start: Instant,
    built: Duration,
    live: Duration,
    _routes: TakeoverRoutes,
}

/// Beta becomes the service's host.
fn take_over(net: &Net, kind: Kind, standings: &[Standing]) -> Takeover {
    net.address_to_beta();
    net.beta.run(|| {
        let routes = TakeoverRoutes::apply(Metrics::default()).unwrap();
        let mut announcer = Announcer::new("eth0", &[kind.family.service()], None).unwrap();
        let start = Instant::now();
        let silent: Vec<InRepair> = standings.iter().map(Standing::build).collect();
        let built = start.elapsed();
        announcer.fire(Instant::now()).unwrap();
        let lived = Instant::now();
        let mut sockets = Vec::with_capacity(silent.len());
        for (in_repair, s) in silent.into_iter().zip(standings) {
            let restored = in_repair.go_live().unwrap();
            assert_eq!(restored.written, s.acked + s.output.len() as u64);
            assert_eq!(restored.fin_sent, s.fin_sent);
            sockets.push(TcpStream::from(restored.socket));
        }
        let live = lived.elapsed();
        for s in standings.iter().filter(|s| !s.established) {
            resend_syn_ack(&s.birth).unwrap();
        }
        for s in &sockets {
            s.set_nonblocking(false).unwrap();
            s.set_read_timeout(Some(PATIENCE)).unwrap();
            s.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        Takeover { sockets, start, built, live, _routes: routes }
    })
}

/// Alpha's socket, of which the client must not hear any more.
fn forget(alpha: &TcpStream) {
    demote(alpha.try_clone().unwrap().into()).map_err(|e| e.1).unwrap();
}

fn median(times: &[Duration]) -> Duration {
    let mut t = times.to_vec();
    t.sort();
    t[t.len() / 2]
}

fn report(what: &str, kind: Kind, times: &[Duration]) -> Duration {
    let Kind { family, timestamps, wscale, sack } = kind;
    let options: String = [(timestamps, " timestamps"), (wscale, " wscale"), (sack, " sack")]
        .iter()
        .map(|(on, name)| if *on { *name } else { "" })
        .collect();
    println!("{what}, {family:?}{options}: median {:.1?} of {times:.1?}", median(times));
    median(times)
}

fn outstanding(s: &TcpStream) -> u64 {
    sys::unacknowledged(s.as_fd()).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_reply_lost_in_flight_arrives_at_once() {
    let _alone = alone();
    for kind in KINDS {
        let mut times = Vec::new();
        for run in 0..RUNS {
            let net = net_for(kind);
            let mut c = connect(&net, kind);
            // One byte has no others before it.
            let n = if run == 0 { 1 } else { 1000 };
            c.client.write_all(b"GET").unwrap();
            c.alpha.read_exact(&mut [0; 3]).unwrap();
            net.cut_alpha();
            c.alpha.write_all(&pattern(0, n)).unwrap();
            let s = Standing { received: 3, output: pattern(0, n), ..Standing::of(&c) };
            forget(&c.alpha);
            let t = take_over(&net, kind, &[s]);
            expect(&c.client, 0, n);
            times.push(t.start.elapsed());
            // It goes on, both ways.
            (&t.sockets[0]).write_all(&pattern(n, 300_000)).unwrap();
            expect(&c.client, n, 300_000);
            c.client.write_all(&pattern(3, 300_000)).unwrap();
            expect(&t.sockets[0], 3, 300_000);
        }
        let m = report("lost reply", kind, &times);
        assert!(m < Duration::from_millis(50));
    }
}

/// Writes the stream from `at` on while less than `most` is unacknowledged, until `stop`; where it ended.
fn pour(mut s: &TcpStream, mut at: u64, most: u64, stop: &AtomicBool) -> u64 {
    s.set_nonblocking(true).unwrap();
    // Whatever the test lets be outstanding, the kernel is to take.
    sys::set_option(s.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20).unwrap();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        let room = most.saturating_sub(outstanding(s));
        match s.write(piece(at, at + room)) {
            Ok(n) => at += n as u64,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
    }
    at
}

/// A download is cut; beta believes that `stale` bytes less were acknowledged than were.
fn download(kind: Kind, stale: u64, congestion: &str) -> (Duration, Duration) {
    let net = net_for(kind);
    for host in [&net.alpha, &net.beta] {
        host.sysctl("ipv4/tcp_congestion_control", congestion);
    }
    let c = connect(&net, kind);
    let stop = AtomicBool::new(false);
    let reader = Reader::default();
    std::thread::scope(|s| {
        let client = s.spawn(|| reader.run(&c.client));
        let server = s.spawn(|| pour(&c.alpha, 0, W - stale, &stop));
        until("the download runs", || reader.at() > 3 << 20);
        net.cut_alpha();
        until("all is outstanding", || outstanding(&c.alpha) == W - stale);
        stop.store(true, Ordering::Relaxed);
        let end = server.join().unwrap();
        // What was on the wire is with the client, and read.
        let acked = end - outstanding(&c.alpha);
        until("the client is idle", || unread(&c.client) == 0 && reader.at() >= acked);
        let known = acked - stale;
        let standing = Standing { acked: known, output: pattern(known, end), ..Standing::of(&c) };
        forget(&c.alpha);
        reader.mark();
        let t = take_over(&net, kind, &[standing]);
        let total = end + AFTER_BYTES;
        (&t.sockets[0]).write_all(&pattern(end, total)).unwrap();
        t.sockets[0].shutdown(Shutdown::Write).unwrap();
        let (first, last) = client.join().unwrap();
        assert_eq!(reader.at(), total);
        (first - t.start, last - t.start)
    })
}

/// How far a stream goes on after the takeover.
const AFTER_BYTES: u64 = 8 << 20;

/// A client that reads a stream to its end, watched from outside.
#[derive(Default)]
struct Reader {
    at: AtomicU64,
    marked: AtomicBool,
}

impl Reader {
    fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// From here on the next byte is the first.
    fn mark(&self) {
        self.marked.store(true, Ordering::Relaxed);
    }

    /// When the first byte after the mark and when the end came.
    fn run(&self, mut s: &TcpStream) -> (Instant, Instant) {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut first = None;
        loop {
            let at = self.at();
            let n = s.read(&mut buffer).unwrap_or_else(|e| panic!("at {at}: {e}"));
            if n == 0 {
                return (first.expect("something after the mark"), Instant::now());
            }
            if self.marked.load(Ordering::Relaxed) {
                first.get_or_insert_with(Instant::now);
            }
            check(&buffer[..n], at);
            self.at.store(at + n as u64, Ordering::Relaxed);
        }
    }
}

/// Bytes that a socket's owner has not read.
fn unread(s: &TcpStream) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the address given.
    assert_eq!(unsafe { libc::ioctl(s.as_raw_fd(), libc::FIONREAD, &mut n) }, 0);
    n as usize
}

#[test]
fn a_download_goes_on_where_the_client_is() {
    let _alone = alone();
    for kind in KINDS {
        for (stale, congestion) in [(0, "bbr"), (0, "reno"), (100_000, "reno"), (800_000, "bbr"), (800_000, "reno")] {
            let times: Vec<_> = (0..RUNS).map(|_| download(kind, stale, congestion)).collect();
            let (first, last): (Vec<_>, Vec<_>) = times.into_iter().unzip();
            let m = report(&format!("download, stale by {stale}, {congestion}: first byte"), kind, &first);
            report(&format!("download, stale by {stale}, {congestion}: all 9 MB"), kind, &last);
            assert!(m < Duration::from_millis(50));
        }
    }
}
