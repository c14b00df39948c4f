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
use ft_runtime::takeover::tcp_repair::{Birth, InRepair, RestoreSpec, build, demote, is_confirmed, resend_syn_ack};
use net::{Family, Net, Ns};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(12);
/// Of each case; FT_RUNS=n for more.
static RUNS: LazyLock<usize> =
    LazyLock::new(|| std::env::var("FT_RUNS").map_or(3, |n| n.parse().expect("FT_RUNS is a number")));
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

    fn build(&self) -> InRepair {
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

/// The rest of an announcer's schedule, until this is dropped.
struct Announcing {
    _stop: mpsc::Sender<()>,
}

impl Announcing {
    fn start(mut announcer: Announcer) -> Self {
        let (stop, stopped) = mpsc::channel();
        std::thread::spawn(move || {
            while let Some(at) = announcer.next(Instant::now()) {
                match stopped.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Err(mpsc::RecvTimeoutError::Timeout) => announcer.fire(Instant::now()).unwrap(),
                    Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { _stop: stop }
    }
}

/// A finished takeover. The routes stay as they are for takeovers until it goes.
struct Takeover {
    sockets: Vec<TcpStream>,
    start: Instant,
    built: Duration,
    live: Duration,
    /// Processor time for each.
    cpu: [Duration; 2],
    /// Of the last one.
    tsval: Option<u32>,
    _routes: TakeoverRoutes,
    _announcing: Announcing,
}

/// Beta becomes the service's host.
fn take_over(net: &Net, kind: Kind, standings: &[Standing]) -> Takeover {
    take_over_at(&net.beta, kind, standings)
}

fn take_over_at(host: &Ns, kind: Kind, standings: &[Standing]) -> Takeover {
    host.run(|| {
        let routes = TakeoverRoutes::apply(Metrics::default()).unwrap();
        let mut announcer = Announcer::new("eth0", &[kind.family.service()], None).unwrap();
        let cpu = thread_time();
        let start = Instant::now();
        let silent: Vec<InRepair> = standings.iter().map(Standing::build).collect();
        let built = start.elapsed();
        let cpu_built = thread_time() - cpu;
        announcer.fire(Instant::now()).unwrap();
        let announcing = Announcing::start(announcer);
        let cpu = thread_time();
        let lived = Instant::now();
        let mut sockets = Vec::with_capacity(silent.len());
        let mut tsval = None;
        for (in_repair, s) in silent.into_iter().zip(standings) {
            let restored = in_repair.go_live().unwrap();
            assert_eq!(restored.written, s.acked + s.output.len() as u64);
            assert_eq!(restored.fin_sent, s.fin_sent);
            tsval = restored.tsval;
            sockets.push(TcpStream::from(restored.socket));
        }
        let live = lived.elapsed();
        let cpu = [cpu_built, thread_time() - cpu];
        for s in standings.iter().filter(|s| !s.established) {
            resend_syn_ack(&s.birth).unwrap();
        }
        for s in &sockets {
            s.set_nonblocking(false).unwrap();
            s.set_read_timeout(Some(PATIENCE)).unwrap();
            s.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        Takeover { sockets, start, built, live, cpu, tsval, _routes: routes, _announcing: announcing }
    })
}

/// Alpha's socket, of which the client must not hear any more.
fn forget(alpha: &TcpStream) {
    demote(alpha.try_clone().unwrap().into()).map_err(|e| e.1).unwrap();
}

fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
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
        for run in 0..*RUNS {
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

/// Whatever a test lets be outstanding, the kernel is to take.
fn take_all(s: &TcpStream) {
    sys::set_option(s.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20).unwrap();
}

/// Writes the stream from `at` on while less than `most` is unacknowledged, until `stop`; where it ended.
fn pour(mut s: &TcpStream, mut at: u64, most: u64, stop: &AtomicBool) -> u64 {
    s.set_nonblocking(true).unwrap();
    take_all(s);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        let room = most.saturating_sub(outstanding(s));
        match s.write(piece(at, at + room.min(PIECE_BYTES as u64))) {
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

const SILENCE: Duration = Duration::from_millis(50);

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

    /// Until nothing comes and nothing can.
    fn read_until_silent(&self, mut s: &TcpStream, is_cut: &AtomicBool) {
        s.set_read_timeout(Some(SILENCE)).unwrap();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match s.read(&mut buffer) {
                Ok(n) => {
                    check(&buffer[..n], self.at());
                    self.at.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && is_cut.load(Ordering::Relaxed) => return,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
        }
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
        for (stale, congestion) in [(0, "bbr"), (800_000, "reno")] {
            let times: Vec<_> = (0..*RUNS).map(|_| download(kind, stale, congestion)).collect();
            let (first, last): (Vec<_>, Vec<_>) = times.into_iter().unzip();
            let m = report(&format!("download, stale by {stale}, {congestion}: first byte"), kind, &first);
            report(&format!("download, stale by {stale}, {congestion}: all 9 MB"), kind, &last);
            assert!(m < Duration::from_millis(50));
        }
    }
}

#[test]
fn an_upload_goes_on_in_the_middle() {
    let _alone = alone();
    for kind in KINDS {
        let mut times = Vec::new();
        for _ in 0..*RUNS {
            let net = net_for(kind);
            let c = connect(&net, kind);
            let stop = AtomicBool::new(false);
            let reader = Reader::default();
            let is_cut = AtomicBool::new(false);
            std::thread::scope(|s| {
                let client = s.spawn(|| {
                    let end = pour(&c.client, 0, u64::MAX, &stop);
                    c.client.shutdown(Shutdown::Write).unwrap();
                    end
                });
                let lost = s.spawn(|| reader.read_until_silent(&c.alpha, &is_cut));
                until("the upload runs", || reader.at() > 3 << 20);
                net.cut_alpha();
                is_cut.store(true, Ordering::Relaxed);
                // All that alpha's kernel acknowledged counts as committed.
                lost.join().unwrap();
                let received = reader.at();
                let standing = Standing { received, ..Standing::of(&c) };
                forget(&c.alpha);
                let before = Instant::now();
                let t = take_over(&net, kind, &[standing]);
                stop.store(true, Ordering::Relaxed);
                reader.mark();
                let (first, _) = reader.run(&t.sockets[0]);
                times.push(first - t.start);
                assert_eq!(reader.at(), client.join().unwrap());
                assert!(before.elapsed() < PATIENCE);
            });
        }
        // The client's own timer: 200 ms after it last sent, doubled for what the outage already took.
        let m = report("upload: first byte", kind, &times);
        assert!(m < Duration::from_millis(900));
    }
}

#[test]
fn half_closed_connections_end_as_they_should() {
    let _alone = alone();
    for kind in [KINDS[0], KINDS[1], KINDS[5]] {
        for (client_shut, server_shut) in [(true, false), (false, true), (true, true)] {
            // What the lost host sent last: lost with it, or received by the client and not known to be.
            for arrived in [false, true] {
                half_closed(kind, client_shut, server_shut, arrived);
            }
        }
    }
}

fn half_closed(kind: Kind, client_shut: bool, server_shut: bool, arrived: bool) {
    const REPLY: u64 = 100_000;
    let net = net_for(kind);
    let mut c = connect(&net, kind);
    c.client.write_all(&pattern(0, 1000)).unwrap();
    expect(&c.alpha, 0, 1000);
    if client_shut {
        c.client.shutdown(Shutdown::Write).unwrap();
        expect_end(&c.alpha);
    }
    if !arrived {
        net.cut_alpha();
    }
    take_all(&c.alpha);
    let sent = if server_shut || arrived { REPLY } else { 0 };
    c.alpha.write_all(&pattern(0, sent)).unwrap();
    if server_shut {
        c.alpha.shutdown(Shutdown::Write).unwrap();
    }
    if arrived {
        until("the client has it", || unread(&c.client) as u64 == REPLY);
        net.cut_alpha();
    }
    let standing = Standing {
        received: 1000,
        fin_received: client_shut,
        output: pattern(0, sent),
        fin_sent: server_shut,
        ..Standing::of(&c)
    };
    forget(&c.alpha);
    let t = take_over(&net, kind, &[standing]);
    let beta = &t.sockets[0];
    if !server_shut {
        (&mut &*beta).write_all(&pattern(sent, sent + 200_000)).unwrap();
        beta.shutdown(Shutdown::Write).unwrap();
        expect(&c.client, 0, sent + 200_000);
    } else {
        expect(&c.client, 0, REPLY);
    }
    expect_end(&c.client);
    println!("half-closed, client {client_shut}, server {server_shut}, arrived {arrived}: {:.1?}", t.start.elapsed());
    if !client_shut {
        c.client.write_all(&pattern(1000, 500_000)).unwrap();
        c.client.shutdown(Shutdown::Write).unwrap();
        expect(beta, 1000, 500_000);
        expect_end(beta);
    }
    // Everything is acknowledged, our FIN too: nothing is left to say.
    until("the end is acknowledged", || outstanding(beta) == 0);
    assert_eq!(beta.take_error().unwrap().map(|e| e.to_string()), None);
    assert_eq!(c.client.take_error().unwrap().map(|e| e.to_string()), None);
}

#[test]
fn a_client_without_its_syn_ack_gets_connected() {
    let _alone = alone();
    for kind in KINDS {
        let mut times = Vec::new();
        for _ in 0..*RUNS {
            let net = net_for(kind);
            let at = SocketAddr::new(kind.family.service(), PORT);
            net.deafen_client_to_alpha(kind.family);
            let (mut capture, _listener) = net.alpha.run(|| (Capture::open(), TcpListener::bind(at).unwrap()));
            std::thread::scope(|s| {
                let client = s.spawn(|| {
                    net.client.run(|| {
                        let client = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
                        (client, Instant::now())
                    })
                });
                let (_, (birth, born, _)) = capture.births(1).into_iter().next().unwrap();
                net.cut_alpha();
                let t = take_over(&net, kind, &[Standing::born(birth, born, false)]);
                let (client, connected) = client.join().unwrap();
                times.push(connected.saturating_duration_since(t.start));
                let beta = &t.sockets[0];
                until("it shows", || is_confirmed(beta.as_fd()).unwrap());
                both_ways(&client, beta, 0, 0);
            });
        }
        let m = report("SYN-ACK lost: connected", kind, &times);
        assert!(m < Duration::from_millis(50));
    }
}

/// 300 kB each way on a connection that stands at these positions.
fn both_ways(mut client: &TcpStream, mut server: &TcpStream, up: u64, down: u64) {
    const BYTES: u64 = 300_000;
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|s| {
        s.spawn(move || client.write_all(&pattern(up, up + BYTES)).unwrap());
        expect(server, up, up + BYTES);
        s.spawn(move || server.write_all(&pattern(down, down + BYTES)).unwrap());
        expect(client, down, down + BYTES);
    });
}

#[test]
fn a_client_that_was_connected_already_takes_the_syn_ack_again() {
    let _alone = alone();
    for kind in [KINDS[0], KINDS[1], KINDS[5]] {
        let net = net_for(kind);
        let c = connect(&net, kind);
        net.cut_alpha();
        forget(&c.alpha);
        let t = take_over(&net, kind, &[Standing::born(c.birth, c.born, false)]);
        let beta = &t.sockets[0];
        until("it shows", || is_confirmed(beta.as_fd()).unwrap());
        both_ways(&c.client, beta, 0, 0);
    }
}

#[test]
fn the_syn_ack_is_the_one_that_was_committed() {
    let _alone = alone();
    for kind in KINDS {
        let net = net_for(kind);
        let at = SocketAddr::new(kind.family.service(), PORT);
        let (mut capture, _listener) = net.alpha.run(|| (Capture::open(), TcpListener::bind(at).unwrap()));
        let _client = net.client.run(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
        let (_, (birth, _, first)) = capture.births(1).into_iter().next().unwrap();
        let mut capture = net.client.run(Capture::open);
        net.alpha.run(|| resend_syn_ack(&birth).unwrap());
        let again = std::iter::from_fn(|| capture.segment()).find(|s| s.flags == SYN | ACK).unwrap();
        let but = |header: &[u8]| [&header[..14], &header[18..]].concat(); // window and checksum
        assert_eq!(but(&again.header), but(&first.header));
        // The client answers what its kernel found right: the checksum.
        let answer = std::iter::from_fn(|| capture.segment()).find(|s| s.from == birth.client).unwrap();
        assert_eq!((answer.flags, answer.ack), (ACK, birth.isn_server.wrapping_add(1)));
    }
}

#[test]
fn an_idle_connection_is_used_later() {
    let _alone = alone();
    for kind in KINDS {
        let net = net_for(kind);
        let c = connect(&net, kind);
        both_ways(&c.client, &c.alpha, 0, 0);
        until("all is acknowledged", || outstanding(&c.alpha) + outstanding(&c.client) == 0);
        net.cut_alpha();
        forget(&c.alpha);
        let s = Standing { received: 300_000, acked: 300_000, ..Standing::of(&c) };
        let t = take_over(&net, kind, &[s]);
        assert_eq!(outstanding(&t.sockets[0]), 0);
        both_ways(&c.client, &t.sockets[0], 300_000, 300_000);
    }
}

#[test]
fn a_second_takeover_goes_on_as_the_first() {
    let _alone = alone();
    for kind in KINDS {
        let net = net_for(kind);
        let c = connect(&net, kind);
        net.cut_alpha();
        forget(&c.alpha);
        let first = Standing::of(&c);
        // The connection's place in alpha must be free later.
        let Conn { client, birth, alpha, .. } = c;
        drop(alpha);
        let t = take_over(&net, kind, &[first]);
        assert_eq!(t.tsval.is_some(), kind.timestamps);
        let birth = Birth { server_tsval: t.tsval.unwrap_or(0), ..birth };
        both_ways(&client, &t.sockets[0], 0, 0);
        until("all is acknowledged", || outstanding(&t.sockets[0]) + outstanding(&client) == 0);
        net.swap_hosts();
        (&t.sockets[0]).write_all(&pattern(300_000, 301_000)).unwrap();
        forget(&t.sockets[0]);
        let (received, acked) = (300_000, 300_000);
        let output = pattern(acked, acked + 1000);
        let s = Standing { received, acked, output, ..Standing::born(birth, t.start, true) };
        let t = take_over_at(&net.alpha, kind, &[s]);
        expect(&client, 300_000, 301_000);
        let took = t.start.elapsed();
        both_ways(&client, &t.sockets[0], 300_000, 301_000);
        println!("second takeover: lost reply after {took:.1?}");
    }
}

#[test]
fn an_address_that_is_not_there_yet_does_not_hinder() {
    let _alone = alone();
    for kind in [KINDS[0], KINDS[1]] {
        let net = net_for(kind);
        let c = connect(&net, kind);
        net.cut_alpha();
        forget(&c.alpha);
        let service = kind.family.service();
        let prefix = if service.is_ipv4() { 32 } else { 128 };
        net.beta.ip(&format!("address delete {service}/{prefix} dev lo\n"));
        let standing = Standing::of(&c);
        let built = net.beta.run(|| standing.build());
        net.beta.ip(&format!("address add {service}/{prefix} dev eth0\n"));
        let beta = net.beta.run(|| {
            Announcer::new("eth0", &[service], None).unwrap().fire(Instant::now()).unwrap();
            TcpStream::from(built.go_live().unwrap().socket)
        });
        beta.set_nonblocking(false).unwrap();
        beta.set_read_timeout(Some(PATIENCE)).unwrap();
        both_ways(&c.client, &beta, 0, 0);
    }
}

#[test]
fn a_thousand_connections() {
    const N: usize = 1000;
    let _alone = alone();
    sys::provide_descriptors();
    for kind in [KINDS[0], KINDS[1]] {
        for bytes in [0, 1000] {
            let net = net_for(kind);
            let all = connect_many(&net, kind, N);
            net.cut_alpha();
            let standings: Vec<_> = all
                .iter()
                .map(|c| {
                    forget(&c.alpha);
                    Standing { output: pattern(0, bytes), ..Standing::of(c) }
                })
                .collect();
            let t = take_over(&net, kind, &standings);
            for c in &all {
                expect(&c.client, 0, bytes);
            }
            let (built, live, seen) = (t.built, t.live, t.start.elapsed());
            let each = t.cpu.map(|cpu| cpu / N as u32);
            println!(
                "{N} connections, {:?}, {bytes} bytes of output: built {built:.1?}, live {live:.1?}, processor for each \
                 {each:.1?}, all clients have theirs after {seen:.1?}",
                kind.family
            );
            for (c, beta) in all.iter().zip(&t.sockets) {
                (&c.client).write_all(&pattern(0, 100)).unwrap();
                (&mut &*beta).write_all(&pattern(bytes, bytes + 100)).unwrap();
            }
            for (c, beta) in all.iter().zip(&t.sockets) {
                expect(beta, 0, 100);
                expect(&c.client, bytes, bytes + 100);
            }
        }
    }
}

#[test]
fn a_deposed_host_leaves_without_a_word() {
    let _alone = alone();
    for kind in [KINDS[0], KINDS[1]] {
        let net = net_for(kind);
        let c = connect(&net, kind);
        both_ways(&c.client, &c.alpha, 0, 0);
        until("all is acknowledged", || outstanding(&c.alpha) + outstanding(&c.client) == 0);
        let mut capture = net.client.run(Capture::open);
        // Alpha's link is up. Unread input would make a plain close a reset.
        (&c.client).write_all(&pattern(300_000, 300_100)).unwrap();
        until("it is there", || unread(&c.alpha) == 100);
        let Conn { client, alpha, birth, born } = c;
        demote(alpha.into()).map_err(|e| e.1).unwrap();
        let s = Standing { received: 300_100, acked: 300_000, ..Standing::born(birth, born, true) };
        let t = take_over(&net, kind, &[s]);
        both_ways(&client, &t.sockets[0], 300_100, 300_000);
        let said: Vec<_> = std::iter::from_fn(|| capture.segment()).filter(|s| s.flags & (FIN | RST) != 0).collect();
        assert!(said.is_empty(), "{said:?}");
    }
}

#[test]
fn a_socket_in_repair_is_silent_to_its_end() {
    let _alone = alone();
    let net = net_for(PLAIN);
    let c = connect(&net, PLAIN);
    net.cut_alpha();
    forget(&c.alpha);
    let standing = Standing { output: pattern(0, 100_000), ..Standing::of(&c) };
    let mut capture = net.beta.run(Capture::open);
    let built = net.beta.run(|| standing.build());
    // Longer than any first timer of its kernel.
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let said = capture.segment();
        assert!(said.is_none(), "{said:?}");
    }
    drop(built);
    let said = capture.segment();
    assert!(said.is_none(), "{said:?}");
}

#[test]
fn a_listener_can_be_bound_beside_restored_connections() {
    let _alone = alone();
    let net = net_for(PLAIN);
    let c = connect(&net, PLAIN);
    net.cut_alpha();
    forget(&c.alpha);
    let at = c.birth.local;
    let first = net.beta.run(|| TcpListener::bind(at).unwrap());
    let t = take_over(&net, PLAIN, &[Standing::of(&c)]);
    drop(first);
    let listener = net.beta.run(|| TcpListener::bind(at).unwrap());
    let next = net.client.run(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    both_ways(&next, &accepted, 0, 0);
    both_ways(&c.client, &t.sockets[0], 0, 0);
}

/// 1 MB is outstanding, the client's window is much shorter.
#[test]
fn a_client_with_a_short_window_goes_on() {
    let _alone = alone();
    for kind in KINDS {
        let (mut times, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..*RUNS {
            let net = net_for(kind);
            net.client.sysctl("ipv4/tcp_rmem", "4096 65536 65536");
            let c = connect(&net, kind);
            let reader = Reader::default();
            std::thread::scope(|s| {
                net.cut_alpha();
                let standing = Standing { output: pattern(0, W), ..Standing::of(&c) };
                forget(&c.alpha);
                let client = s.spawn(|| reader.run(&c.client));
                reader.mark();
                let t = take_over(&net, kind, &[standing]);
                t.sockets[0].shutdown(Shutdown::Write).unwrap();
                let (first, end) = client.join().unwrap();
                assert_eq!(reader.at(), W);
                times.push(first - t.start);
                ends.push(end - t.start);
            });
        }
        let m = report("short window: first byte", kind, &times);
        report("short window: all of 1 MB", kind, &ends);
        assert!(m < Duration::from_millis(50));
    }
}

/// A client that doesn't read has a window of nothing; when it reads at last, it gets everything.
#[test]
fn a_client_that_does_not_read_gets_it_when_it_does() {
    let _alone = alone();
    for kind in [KINDS[0], KINDS[1], KINDS[3], KINDS[5]] {
        let net = net_for(kind);
        net.client.sysctl("ipv4/tcp_rmem", "4096 65536 65536");
        let c = connect(&net, kind);
        let stop = AtomicBool::new(false);
        let (acked, end) = std::thread::scope(|s| {
            let server = s.spawn(|| pour(&c.alpha, 0, W, &stop));
            // Full: the client's window and what may be outstanding.
            let mut last = (0, Instant::now());
            until("the window is shut", || {
                let now = (unread(&c.client), outstanding(&c.alpha));
                if now.0 != last.0 {
                    last = (now.0, Instant::now());
                }
                now.1 == W && last.1.elapsed() > Duration::from_millis(100)
            });
            stop.store(true, Ordering::Relaxed);
            let end = server.join().unwrap();
            (end - outstanding(&c.alpha), end)
        });
        net.cut_alpha();
        forget(&c.alpha);
        let standing = Standing { acked, output: pattern(acked, end), ..Standing::of(&c) };
        let t = take_over(&net, kind, &[standing]);
        t.sockets[0].shutdown(Shutdown::Write).unwrap();
        let start = Instant::now();
        let reader = Reader::default();
        reader.mark();
        reader.run(&c.client);
        assert_eq!(reader.at(), end);
        println!("client that did not read: {acked} of {end} acknowledged, all after {:.1?}", start.elapsed());
    }
}

#[test]
fn routes_are_afterwards_what_they_were() {
    let _alone = alone();
    let net = Net::new();
    net.beta.ip(
        "route add 10.88.0.0/16 via 10.77.0.1 metric 7 mtu 1400\nroute add default via 10.77.0.1\n\
         route add 10.89.0.0/16 nexthop via 10.77.0.1 weight 2 nexthop dev eth0\n\
         route add 10.90.0.0/16 via 192.0.2.1 dev eth0 onlink rto_min 50ms initrwnd 20\n\
         route add fd88::/64 via fd77::1 metric 5\nroute add ::/0 via fd77::1\n",
    );
    let show = || (net.beta.ip_show("route show"), net.beta.ip_show("-6 route show"));
    let before = show();
    let routes = net.beta.run(|| TakeoverRoutes::apply(Metrics::default()).unwrap());
    let during = show();
    for line in during.0.lines().chain(during.1.lines()).filter(|l| !l.trim_start().starts_with("nexthop")) {
        assert!(line.contains("initcwnd 20000") && line.contains("rto_min lock 10ms"), "{line}");
    }
    assert_eq!(routes.len(), before.0.lines().chain(before.1.lines()).filter(|l| !l.contains("nexthop ")).count());
    routes.undo().unwrap();
    assert_eq!(show(), before);
    net.beta.run(|| drop(TakeoverRoutes::apply(Metrics::default()).unwrap()));
    assert_eq!(show(), before);
    // One that goes meanwhile stays away, and is no failure.
    let routes = net.beta.run(|| TakeoverRoutes::apply(Metrics::default()).unwrap());
    net.beta.ip("route del 10.88.0.0/16\nroute del fd88::/64\n");
    routes.undo().unwrap();
    let left = |of: &str| of.lines().filter(|l| !l.contains("88")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((left(&show().0), left(&show().1)), (left(&before.0), left(&before.1)));
    assert!(!show().0.contains("10.88") && !show().1.contains("fd88"));
}

#[test]
fn an_announcement_moves_the_address_in_the_client_s_tables() {
    let _alone = alone();
    for kind in [KINDS[0], KINDS[1]] {
        let net = net_for(kind);
        let c = connect(&net, kind);
        let service = kind.family.service();
        let known = || net.client.ip_show(&format!("neighbour show {service}"));
        let before = known();
        net.cut_alpha();
        forget(&c.alpha);
        let mut announcer = net.beta.run(|| Announcer::new("eth0", &[service], None).unwrap());
        announcer.fire(Instant::now()).unwrap();
        until("the client has learnt it", || {
            let now = known();
            now.contains("lladdr") && now.split(' ').nth(4) != before.split(' ').nth(4)
        });
        let mac = net.beta.ip_show("-br link show eth0");
        assert!(mac.contains(known().split(' ').nth(4).unwrap()), "{mac} {}", known());
    }
}
