//! A guest that is a thread: it speaks the contract of `ft-log` with a real engine, and nothing else.
#![allow(dead_code, reason = "each test binary uses a part")]

use ft_log::codec::Writer;
use ft_log::entry::{
    Act, Applied, ClockSample, Entry, Event, FromGuest, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX, RX_WINDOW_BYTES,
    TX_WINDOW_BYTES,
};
use ft_log::ids::{ConnId, DomainId, InputPoint, ListenerId, LogIndex};
use ft_log::output_rule::Progress;
use ft_log::ring::{Consumer, Producer, SharedBytes, announce_wait};
use ft_log::idle::{Claim, Waiting};
use ft_log::shared::{SEGMENT_BYTES, Segment};
use ft_runtime::engine::feed::{Feed, Source};
use ft_runtime::engine::log::Log;
use ft_runtime::engine::process::Process;
use ft_runtime::engine::{Engine, EngineError, Outcome, Setup};
use ft_runtime::logfile::{End, LogFileError};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing in a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn segment() -> Segment {
    // SAFETY: a fresh shared mapping, zeroed, never unmapped (tests are short).
    unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            SEGMENT_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(p, libc::MAP_FAILED);
        Segment::new(p.cast())
    }
}

pub fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

pub type Entries = Arc<Mutex<Vec<(DomainId, Vec<u8>)>>>;

/// The log in memory; `hold` keeps it uncommitted until told otherwise.
#[derive(Clone, Default)]
pub struct MemoryLog {
    pub entries: Entries,
    pub notes: Arc<Mutex<Vec<String>>>,
    pub end: Arc<Mutex<Option<End>>>,
    pub hold: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}

impl MemoryLog {
    pub fn domain(&self, d: u16) -> Vec<Vec<u8>> {
        self.entries.lock().unwrap().iter().filter(|(e, _)| e.0 == d).map(|(_, b)| b.clone()).collect()
    }

    /// Events of a domain, in order, as text.
    pub fn events(&self, d: u16) -> Vec<String> {
        let is_event = |b: &Vec<u8>| match Entry::decode(b) {
            Ok(Entry::Event(e)) => Some(format!("{e:?}")),
            _ => None,
        };
        self.domain(d).iter().filter_map(is_event).collect()
    }

    pub fn source(&self) -> Listed {
        let mut by_domain: HashMap<DomainId, VecDeque<Vec<u8>>> = HashMap::new();
        for (d, e) in self.entries.lock().unwrap().iter() {
            by_domain.entry(*d).or_default().push_back(e.clone());
        }
        Listed(by_domain)
    }
}

pub struct Listed(pub HashMap<DomainId, VecDeque<Vec<u8>>>);

impl Source for Listed {
    fn next(&mut self, domain: DomainId) -> Result<Option<Vec<u8>>, LogFileError> {
        Ok(self.0.get_mut(&domain).and_then(VecDeque::pop_front))
    }
}

impl Log for MemoryLog {
    fn append(&mut self, domain: DomainId, head: &[u8], payload: &[u8]) -> Result<LogIndex, LogFileError> {
        self.entries.lock().unwrap().push((domain, [head, payload].concat()));
        let mut p = self.progress.lock().unwrap();
        let index = p.append();
        if !self.hold.load(Ordering::SeqCst) {
            assert!(p.commit(index));
        }
        Ok(index)
    }

    fn committed(&self) -> LogIndex {
        let mut p = self.progress.lock().unwrap();
        if !self.hold.load(Ordering::SeqCst) {
            let all = p.appended();
            assert!(p.commit(all));
        }
        p.committed()
    }

    fn note(&mut self, text: &str) -> Result<(), LogFileError> {
        self.notes.lock().unwrap().push(text.to_owned());
        Ok(())
    }

    fn turn(&mut self, now: Instant) -> Result<Option<Instant>, LogFileError> {
        Ok(Some(now + Duration::from_millis(1)))
    }

    fn finish(&mut self, end: End) -> Result<(), LogFileError> {
        *self.end.lock().unwrap() = Some(end);
        Ok(())
    }
}

/// Stands for the guest's process.
#[derive(Clone)]
pub struct FakeProcess {
    gone: Arc<EventFd>,
    status: Arc<AtomicI32>,
    pub killed: Arc<AtomicBool>,
    /// Where it waits for input it sleeps on, whatever comes, and says so.
    pub lull: Arc<AtomicBool>,
    pub sleeps: Arc<AtomicBool>,
}

impl FakeProcess {
    pub fn new() -> Self {
        let gone = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        Self {
            gone: Arc::new(gone),
            status: Arc::new(AtomicI32::new(-1)),
            killed: Arc::default(),
            lull: Arc::default(),
            sleeps: Arc::default(),
        }
    }

    pub fn die(&self, status: i32) {
        if self.status.compare_exchange(-1, status, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.gone.write(1).unwrap();
        }
    }
}

impl Process for FakeProcess {
    fn gone_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.gone.as_fd())
    }

    fn status(&mut self) -> Option<i32> {
        Some(self.status.load(Ordering::SeqCst)).filter(|s| *s != -1)
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.die(libc::SIGKILL);
    }
}

/// The guest's end of the rings of one domain.
pub struct Io {
    pub segment: Segment,
    pub domain: DomainId,
    to_guest: Consumer<'static, SharedBytes>,
    from_guest: Producer<'static, SharedBytes>,
    doorbell: OwnedFd,
    pub process: FakeProcess,
    pub point: u64,
    clock_ns: u64,
    pub follows: bool,
}

/// Unwinds the guest's thread when its process was killed.
pub struct Killed;

impl Io {
    /// # Panics
    /// When the contract is broken.
    pub fn new(segment: Segment, domain: u16, doorbell: OwnedFd, process: FakeProcess, follows: bool) -> Self {
        // SAFETY: the only guest end of this domain.
        let (to_guest, from_guest) = unsafe { (segment.to_guest_consumer(domain), segment.from_guest_producer(domain)) };
        Self { segment, domain: DomainId(domain), to_guest, from_guest, doorbell, process, point: 0, clock_ns: 0, follows }
    }

    fn futex_wait(word: &std::sync::atomic::AtomicU32) {
        let t = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        // SAFETY: waits on a word of the mapping; the timespec is valid for the call.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 1, &raw const t) };
    }

    /// A fork child's end: another slot of the same segment.
    pub fn fork(&self, domain: u16) -> Self {
        let bell = self.doorbell.try_clone().unwrap();
        Self::new(self.segment, domain, bell, FakeProcess::new(), self.follows)
    }

    fn is_killed(&self) -> bool {
        self.process.killed.load(Ordering::SeqCst)
    }

    pub fn send(&mut self, m: &FromGuest) -> Result<(), Killed> {
        let mut head = [0; HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut head);
        let payload = m.encode(&mut w);
        let n = w.len();
        while !self.from_guest.push(&head[..n], payload).unwrap() {
            self.ring_doorbell();
            let word = &self.segment.domain(self.domain.0).from_guest.producer_waits.0;
            announce_wait(word);
            if self.from_guest.push(&head[..n], payload).unwrap() {
                break;
            }
            Self::futex_wait(word);
            if self.is_killed() {
                return Err(Killed);
            }
        }
        self.ring_doorbell();
        Ok(())
    }

    pub fn act(&mut self, a: Act) -> Result<(), Killed> {
        self.send(&FromGuest::Act(a))
    }

    /// An act that the engine answers.
    pub fn ask(&mut self, a: Act) -> Result<i64, Killed> {
        let status = &self.segment.domain(self.domain.0).status;
        status.answered.0.store(0, Ordering::SeqCst);
        self.act(a)?;
        while status.answered.0.load(Ordering::SeqCst) == 0 {
            if self.is_killed() {
                return Err(Killed);
            }
            std::thread::yield_now();
        }
        Ok(status.answer.load(Ordering::SeqCst))
    }

    fn ring_doorbell(&self) {
        let word = &self.segment.header().engine_waits.0;
        std::sync::atomic::fence(Ordering::SeqCst);
        if word.swap(0, Ordering::SeqCst) == 1 {
            nix::unistd::write(&self.doorbell, &1u64.to_ne_bytes()).unwrap();
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let mut b = vec![0; PAYLOAD_BYTES_MAX + HEADER_BYTES_MAX];
        let n = self.to_guest.pop_into(&mut b).unwrap()?;
        b.truncate(n);
        Some(b)
    }

    fn wait(&mut self) -> Result<(), Killed> {
        let word = &self.segment.domain(self.domain.0).to_guest.consumer_waits.0;
        announce_wait(word);
        if self.to_guest.is_empty().unwrap() {
            Self::futex_wait(word);
        }
        while self.process.lull.load(Ordering::SeqCst) && !self.is_killed() {
            self.process.sleeps.store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
        self.process.sleeps.store(false, Ordering::SeqCst);
        if self.is_killed() { Err(Killed) } else { Ok(()) }
    }

    /// The next entry of the log, waiting for it.
    pub fn next(&mut self) -> Result<Vec<u8>, Killed> {
        let idle = &self.segment.domain(self.domain.0).status.idle;
        loop {
            if let Some(b) = self.pop() {
                return Ok(b);
            }
            idle.follow_at(self.point, true);
            self.wait()?;
            idle.follow_at(self.point, false);
        }
    }

    /// One input point: waits for input, takes what is there, logs it (or takes what the log or the engine says).
    pub fn input_point(&mut self) -> Result<Vec<Vec<u8>>, Killed> {
        let point = self.point + 1;
        let events = if self.follows { self.follow(point)? } else { self.make(point)? };
        self.point = point;
        self.segment.domain(self.domain.0).status.point.store(point, Ordering::SeqCst);
        Ok(events)
    }

    fn follow(&mut self, point: u64) -> Result<Vec<Vec<u8>>, Killed> {
        let b = self.next()?;
        match Entry::decode(&b).unwrap() {
            Entry::Applied(a) => {
                assert_eq!((a.point.0, a.digest), (point, point * 3));
                (0..a.events).map(|_| self.next()).collect()
            }
            // The log's last word; the guest comes there by itself.
            Entry::Exit { .. } => self.follow(point),
            other => panic!("unexpected in the log: {other:?}"),
        }
    }

    fn make(&mut self, point: u64) -> Result<Vec<Vec<u8>>, Killed> {
        let idle = &self.segment.domain(self.domain.0).status.idle;
        let digest = point * 3;
        let clock_ns = self.clock_ns;
        loop {
            let events: Vec<_> = std::iter::from_fn(|| self.pop()).collect();
            if !events.is_empty() {
                let clock = ClockSample { monotonic_ns: clock_ns, realtime_offset_ns: None };
                let (n, point) = (events.len() as u32, InputPoint(point));
                let a = Applied { point, events: n, clock, digest, signals: 0 };
                self.send(&FromGuest::Entry(Entry::Applied(a)))?;
                return Ok(events);
            }
            idle.wait_at(point, &Waiting { digest, clock_ns, ahead_ns: 0, realtime_offset_ns: 0 });
            self.wait()?;
            if let Some(Claim { events, clock }) = idle.leave(point) {
                assert!(events > 0 && clock.monotonic_ns >= clock_ns);
                self.clock_ns = clock.monotonic_ns;
                return Ok((0..events).map(|_| self.pop().expect("claimed events lie in the ring")).collect());
            }
        }
    }

    pub fn exit(&mut self, status: i32) -> Result<(), Killed> {
        self.send(&FromGuest::Entry(Entry::Exit { status, digest: 1234 + self.point }))?;
        self.process.die(status);
        Ok(())
    }
}

/// One connection in the fake guest.
#[derive(Default)]
pub struct Conn {
    pub received: u64,
    pub consumed: u64,
    out: VecDeque<u8>,
    pub sent: u64,
    pub acked: u64,
    pub unacked_max: u64,
    shut: bool,
    pub fin: bool,
}

/// A small server: its program gets events, its output respects the window.
pub struct Server {
    pub io: Io,
    pub conns: HashMap<ConnId, Conn>,
    /// Everything that was applied, as text.
    pub applied: Arc<Mutex<Vec<String>>>,
    closing: Vec<ConnId>,
}

impl Server {
    pub fn new(io: Io) -> Self {
        Self { io, conns: HashMap::new(), applied: Arc::default(), closing: Vec::new() }
    }

    pub fn listen(&mut self, address: SocketAddr) -> Result<(), Killed> {
        self.io.act(Act::Listen { listener: ListenerId(1), address, backlog: 1024, v6only: false })
    }

    pub fn write(&mut self, conn: ConnId, bytes: &[u8]) -> Result<(), Killed> {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.out.extend(bytes);
        }
        self.pump(conn)
    }

    fn pump(&mut self, conn: ConnId) -> Result<(), Killed> {
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        while !c.out.is_empty() {
            let room = (TX_WINDOW_BYTES - (c.sent - c.acked)) as usize;
            let n = room.min(c.out.len()).min(PAYLOAD_BYTES_MAX);
            if n == 0 {
                return Ok(());
            }
            let bytes: Vec<u8> = c.out.drain(..n).collect();
            c.sent += n as u64;
            c.unacked_max = c.unacked_max.max(c.sent - c.acked);
            self.io.act(Act::Output { conn, bytes: &bytes })?;
        }
        if c.shut {
            c.shut = false;
            self.io.act(Act::Shutdown { conn })?;
        }
        if let Some(k) = self.closing.iter().position(|x| *x == conn) {
            self.closing.swap_remove(k);
            self.conns.remove(&conn);
            self.io.act(Act::Close { conn, reset: false })?;
        }
        Ok(())
    }

    /// After everything written so far.
    pub fn shutdown(&mut self, conn: ConnId) -> Result<(), Killed> {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.shut = true;
        }
        self.pump(conn)
    }

    /// After everything written so far.
    pub fn close(&mut self, conn: ConnId) -> Result<(), Killed> {
        self.closing.push(conn);
        self.pump(conn)
    }

    pub fn reset(&mut self, conn: ConnId) -> Result<(), Killed> {
        self.conns.remove(&conn);
        self.io.act(Act::Close { conn, reset: true })
    }

    pub fn consume(&mut self, conn: ConnId, upto: u64) -> Result<(), Killed> {
        if let Some(c) = self.conns.get_mut(&conn) {
            assert!(upto <= c.received);
            c.consumed = upto;
            self.io.act(Act::Consumed { conn, upto })?;
        }
        Ok(())
    }

    /// One input point; bookkeeping done, events handed out. `None`: told to stop, and has.
    pub fn step(&mut self) -> Result<Option<Vec<Vec<u8>>>, Killed> {
        let events = self.io.input_point()?;
        for b in &events {
            let Ok(Entry::Event(e)) = Entry::decode(b) else { panic!("only events were applied") };
            self.applied.lock().unwrap().push(format!("{}: {e:?}", self.io.point));
            match e {
                Event::Accept { conn, .. } => {
                    self.conns.insert(conn, Conn::default());
                }
                Event::Data { conn, bytes } => {
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.received += bytes.len() as u64;
                        // Beyond the window only what the kernel holds, and the peer can't send more than that.
                        let bound = RX_WINDOW_BYTES + 2 * ft_runtime::front::listener::RECEIVE_BUFFER_BYTES as u64;
                        assert!(c.received - c.consumed <= bound, "the engine overran the window");
                        assert!(!c.fin, "data after FIN");
                    }
                }
                Event::Fin { conn } => {
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.fin = true;
                    }
                }
                Event::Acked { conn, upto } => {
                    if let Some(c) = self.conns.get_mut(&conn) {
                        assert!(c.acked < upto && upto <= c.sent);
                        c.acked = upto;
                    }
                    self.pump(conn)?;
                }
                Event::Signal { signo } if i32::from(signo) == libc::SIGTERM => {
                    self.io.exit(0)?;
                    return Ok(None);
                }
                _ => {}
            }
        }
        Ok(Some(events))
    }
}

/// Echoes; FIN is answered by FIN.
pub fn echo(server: &mut Server, address: SocketAddr) -> Result<(), Killed> {
    server.listen(address)?;
    while let Some(events) = server.step()? {
        for b in &events {
            match Entry::decode(b) {
                Ok(Entry::Event(Event::Data { conn, bytes })) => {
                    server.write(conn, bytes)?;
                    let upto = server.conns.get(&conn).map_or(0, |c| c.received);
                    server.consume(conn, upto)?;
                }
                Ok(Entry::Event(Event::Fin { conn })) => server.close(conn)?,
                Ok(Entry::Event(Event::Reset { conn, .. })) => server.reset(conn)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// An engine with a fake guest, both running.
pub struct Rig {
    pub address: SocketAddr,
    pub log: MemoryLog,
    pub process: FakeProcess,
    pub applied: Arc<Mutex<Vec<String>>>,
    signals: Option<OwnedFd>,
    engine: Option<JoinHandle<Result<Outcome, EngineError>>>,
    guest: Option<JoinHandle<()>>,
}

impl Rig {
    pub fn primary(program: impl FnOnce(&mut Server, SocketAddr) -> Result<(), Killed> + Send + 'static) -> Self {
        Self::start(program, None, MemoryLog::default())
    }

    pub fn with_log(
        program: impl FnOnce(&mut Server, SocketAddr) -> Result<(), Killed> + Send + 'static,
        log: MemoryLog,
    ) -> Self {
        Self::start(program, None, log)
    }

    pub fn backup(
        program: impl FnOnce(&mut Server, SocketAddr) -> Result<(), Killed> + Send + 'static,
        source: Listed,
    ) -> Self {
        Self::start(program, Some(source), MemoryLog::default())
    }

    fn start(
        program: impl FnOnce(&mut Server, SocketAddr) -> Result<(), Killed> + Send + 'static,
        source: Option<Listed>,
        log: MemoryLog,
    ) -> Self {
        let segment = segment();
        let doorbell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        let bell = doorbell.as_fd().try_clone_to_owned().unwrap();
        let process = FakeProcess::new();
        let address = free_port();
        let mut server = Server::new(Io::new(segment, 0, bell, process.clone(), source.is_some()));
        let applied = server.applied.clone();
        let (read, write) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let boxed = process.clone();
        let engine_log = log.clone();
        let engine = std::thread::spawn(move || {
            let setup =
                Setup { segment, doorbell: doorbell.into(), process: Box::new(boxed), signals: Some(read), trace: None, snapshots: None };
            match source {
                None => Engine::primary(setup, Box::new(engine_log))?.run(),
                Some(s) => Engine::backup(setup, Feed::new(s))?.run(),
            }
        });
        let guest = std::thread::spawn(move || {
            let _ = program(&mut server, address);
        });
        Self { address, log, process, applied, signals: Some(write), engine: Some(engine), guest: Some(guest) }
    }

    pub fn connect(&self) -> TcpStream {
        let start = Instant::now();
        loop {
            match TcpStream::connect(self.address) {
                Ok(s) => {
                    s.set_read_timeout(Some(PATIENCE)).unwrap();
                    s.set_write_timeout(Some(PATIENCE)).unwrap();
                    s.set_nodelay(true).unwrap();
                    return s;
                }
                // The guest's listen is on its way.
                Err(_) if start.elapsed() < PATIENCE => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub fn signal(&self, signo: i32) {
        nix::unistd::write(self.signals.as_ref().unwrap(), &[signo as u8]).unwrap();
    }

    /// Waits until the log's events of the service satisfy `f`.
    pub fn until(&self, what: &str, f: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !f(&self.log.events(0)) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.log.events(0));
            std::thread::yield_now();
        }
    }

    pub fn join(&mut self) -> Result<Outcome, EngineError> {
        let r = self.engine.take().unwrap().join().unwrap();
        self.guest.take().unwrap().join().unwrap();
        r
    }

    /// SIGTERM, and the end.
    pub fn stop(mut self) -> Outcome {
        self.signal(libc::SIGTERM);
        self.join().unwrap()
    }
}
