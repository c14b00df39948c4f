//! The gate between a real server and a real client: a client's namespace, a host's, and the service's own.
//!
//! All namespaces are held by descriptors of the test: nothing is left when it ends, however it ends.

use ft_runtime::gate::Gate;
use ft_runtime::gate::boot_time::BootTime;
use ft_runtime::gate::judge::{BirthId, Event};
use ft_runtime::gate::lease::{Ingress, Lease};
use ft_runtime::gate::namespace::{Address, Namespace, ServiceNet};
use ft_runtime::gate::packet::Tuple;
use ft_runtime::gate::rules::Change;
use ft_runtime::gate::saved_syn;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CLIENT: &str = "10.93.0.1";
const ASKER: &str = "10.93.0.2";
const SERVICE: &str = "10.93.0.100";
const CLIENT_V6: &str = "fd93::1";
const SERVICE_V6: &str = "fd93::100";
const ECHO: u16 = 7;
/// Takes everything and answers with how much it was.
const SINK: u16 = 9;
const NOBODY: u16 = 11;
const FOREVER: Duration = Duration::from_secs(1000);
const PATIENCE: Duration = Duration::from_secs(30);
/// Environment of a gate in a process of its own: descriptor of the host's namespace.
const HOST_FD: &str = "FT_TEST_GATE_HOST";
const LEASE_MS: &str = "FT_TEST_GATE_LEASE_MS";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// One test at a time: they measure.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    // SAFETY: no pointers.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not tested: needs root");
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(|e| e.into_inner()))
}

fn ip(arguments: &str) {
    let o = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(o.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&o.stderr));
}

/// The network: a client and a host at two ends of a cable.
struct Rig {
    client: Namespace,
    host: Namespace,
}

impl Rig {
    fn new() -> Self {
        let (client, host) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        let host_path = format!("/proc/{}/fd/{}", std::process::id(), host.as_fd().as_raw_fd());
        client
            .within(|| {
                ip(&format!("link add c0 type veth peer name h0 netns {host_path}"));
                ip("link set lo up");
                ip("link set c0 up");
                ip(&format!("address add {CLIENT}/24 dev c0"));
                ip(&format!("address add {CLIENT_V6}/64 dev c0 nodad"));
            })
            .unwrap();
        host.within(|| {
            // Whatever the client hears is the service's.
            std::fs::write("/proc/sys/net/ipv6/conf/h0/disable_ipv6", "1").unwrap();
            ip("link set h0 up");
        })
        .unwrap();
        Self { client, host }
    }

    fn gate(&self) -> Gate {
        self.host.within(open_gate).unwrap()
    }

    fn connect(&self, address: &str, port: u16) -> std::io::Result<TcpStream> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let c = self.client.within(|| TcpStream::connect_timeout(&address, ms(3500))).unwrap()?;
        c.set_nodelay(true)?;
        c.set_read_timeout(Some(PATIENCE))?;
        c.set_write_timeout(Some(PATIENCE))?;
        Ok(c)
    }

    /// Makes the client ask for the service's MAC again.
    fn forget_neighbours(&self) {
        self.client.within(|| ip("neigh flush dev c0")).unwrap();
    }
}

fn open_gate() -> Gate {
    let addresses: [Address; 2] =
        [format!("{SERVICE}/24").parse().unwrap(), format!("{SERVICE_V6}/64").parse().unwrap()];
    Gate::open("h0", &addresses, &[], None).unwrap()
}

/// What an engine does for the gate's sake, around a server that echoes.
struct Engine {
    gate: Gate,
    listeners: Vec<(TcpListener, u16)>,
    births: HashMap<BirthId, ()>,
    connections: Vec<Connection>,
    /// Commits on their way; each takes `delay`.
    commits: VecDeque<(Instant, Commit)>,
    controls: Arc<Controls>,
}

struct Connection {
    socket: TcpStream,
    id: BirthId,
    port: u16,
    received: u64,
    fin: bool,
    fin_committed: bool,
    output: VecDeque<u8>,
}

enum Commit {
    Birth(BirthId),
    Input(BirthId, u64, bool),
}

#[derive(Default)]
struct Controls {
    delay_us: AtomicU64,
    stop: AtomicBool,
    /// The engine stands still while this is set ...
    freeze: AtomicBool,
    frozen: AtomicBool,
    /// ... and has to get its right again.
    resume_ms: AtomicU64,
}

impl Engine {
    fn new(mut gate: Gate, lease: Duration, controls: Arc<Controls>) -> Self {
        let listeners = gate
            .net()
            .within(|| {
                [ECHO, SINK]
                    .map(|port| {
                        let l = TcpListener::bind(("::", port)).unwrap();
                        l.set_nonblocking(true).unwrap();
                        saved_syn::keep(l.as_fd()).unwrap();
                        (l, port)
                    })
                    .into()
            })
            .unwrap();
        gate.judge().set_live(true);
        gate.ingress().open();
        gate.resume(BootTime::now().after(lease)).unwrap();
        Self { gate, listeners, births: HashMap::new(), connections: Vec::new(), commits: VecDeque::new(), controls }
    }

    fn run(mut self) {
        let mut buffer = vec![0; 256 * 1024];
        while !self.controls.stop.load(Ordering::Relaxed) {
            while self.controls.freeze.load(Ordering::SeqCst) {
                self.controls.frozen.store(true, Ordering::SeqCst);
                std::thread::sleep(ms(1));
            }
            let resume = self.controls.resume_ms.load(Ordering::SeqCst);
            if resume > 0 {
                self.gate.resume(BootTime::now().after(ms(resume))).unwrap();
                self.controls.resume_ms.store(0, Ordering::SeqCst);
            }
            let ready = self.wait();
            if ready[0] {
                self.gate.on_readable().unwrap();
            }
            self.events();
            for k in 0..self.listeners.len() {
                self.accept(k);
            }
            for k in 0..self.connections.len() {
                self.pump(k, &mut buffer);
            }
            self.connections.retain(|c| c.port != 0);
            self.commit();
            self.gate.flush().unwrap();
        }
    }

    fn wait(&self) -> Vec<bool> {
        let now = Instant::now();
        let due = self.commits.front().map_or(ms(5), |(at, _)| at.saturating_duration_since(now).min(ms(5)));
        let mut fds: Vec<PollFd> = Vec::new();
        let mut add = |fd: BorrowedFd<'_>, flags| {
            // SAFETY: all descriptors are self's and stay open during the call.
            fds.push(PollFd::new(unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }, flags));
        };
        add(self.gate.fd(), PollFlags::POLLIN);
        for (l, _) in &self.listeners {
            add(l.as_fd(), PollFlags::POLLIN);
        }
        for c in &self.connections {
            let mut flags = if c.fin { PollFlags::empty() } else { PollFlags::POLLIN };
            flags.set(PollFlags::POLLOUT, !c.output.is_empty());
            add(c.socket.as_fd(), flags);
        }
        let timeout = PollTimeout::from(due.as_micros().div_ceil(1000) as u16);
        poll(&mut fds, timeout).unwrap();
        fds.iter().map(|f| f.any() == Some(true)).collect()
    }

    fn later(&mut self, commit: Commit) {
        let delay = Duration::from_micros(self.controls.delay_us.load(Ordering::Relaxed));
        self.commits.push_back((Instant::now() + delay, commit));
    }

    fn events(&mut self) {
        while let Some(event) = self.gate.next_event() {
            match event {
                Event::Birth(b) => {
                    self.births.insert(b.id, ());
                    self.later(Commit::Birth(b.id));
                }
                Event::Gone { id, .. } => {
                    self.births.remove(&id);
                }
                Event::SynRepeated { .. } => panic!("nothing was restored here"),
            }
        }
    }

    fn accept(&mut self, k: usize) {
        while let Ok((socket, peer)) = self.listeners[k].0.accept() {
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(true).unwrap();
            let isn = saved_syn::client_isn(socket.as_fd()).unwrap();
            let tuple = Tuple::new(socket.local_addr().unwrap(), peer);
            let id = self.gate.judge().find(&tuple, isn).expect("every connection was born at the gate");
            assert!(self.births.contains_key(&id));
            self.gate.judge().accepted(id);
            let port = self.listeners[k].1;
            self.connections.push(Connection { socket, id, port, received: 0, fin: false, fin_committed: false, output: VecDeque::new() });
        }
    }

    fn pump(&mut self, k: usize, buffer: &mut [u8]) {
        let c = &mut self.connections[k];
        let mut news = false;
        while !c.fin {
            match c.socket.read(buffer) {
                Ok(0) => {
                    c.fin = true;
                    news = true;
                }
                Ok(n) => {
                    c.received += n as u64;
                    if c.port == ECHO {
                        c.output.extend(&buffer[..n]);
                    }
                    news = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    c.port = 0;
                    break;
                }
            }
        }
        while !c.output.is_empty() {
            match c.socket.write(c.output.as_slices().0) {
                Ok(n) => drop(c.output.drain(..n)),
                Err(_) => break,
            }
        }
        if c.fin_committed && c.output.is_empty() && c.port != 0 {
            self.gate.judge().permit_fin(c.id);
            let _ = c.socket.shutdown(std::net::Shutdown::Write);
            self.gate.judge().closed(BootTime::now(), c.id);
            c.port = 0;
        }
        if news {
            let commit = Commit::Input(c.id, c.received, c.fin);
            self.later(commit);
        }
    }

    fn commit(&mut self) {
        let now = Instant::now();
        while self.commits.front().is_some_and(|(at, _)| *at <= now) {
            match self.commits.pop_front().unwrap().1 {
                Commit::Birth(id) => self.gate.judge().birth_committed(BootTime::now(), id),
                Commit::Input(id, bytes, fin) => {
                    self.gate.judge().committed_input(id, bytes, fin);
                    if fin && let Some(c) = self.connections.iter_mut().find(|c| c.id == id) {
                        if c.port == SINK {
                            c.socket.write_all(&c.received.to_be_bytes()).unwrap();
                        }
                        c.fin_committed = true;
                    }
                }
            }
        }
    }
}

/// An engine on a thread of its own.
struct Service {
    controls: Arc<Controls>,
    lease: Lease,
    ingress: Ingress,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(rig: &Rig, lease: Duration) -> Self {
        Self::with(rig.gate(), lease)
    }

    fn with(gate: Gate, lease: Duration) -> Self {
        let controls = Arc::new(Controls::default());
        let (tell, told) = mpsc::channel();
        let host_controls = controls.clone();
        let handles = (gate.lease().clone(), gate.ingress().clone());
        let thread = std::thread::spawn(move || {
            let engine = Engine::new(gate, lease, host_controls);
            tell.send(()).unwrap();
            engine.run();
        });
        told.recv_timeout(PATIENCE).unwrap();
        Self { controls, lease: handles.0, ingress: handles.1, thread: Some(thread) }
    }

    fn delay(&self, d: Duration) {
        self.controls.delay_us.store(d.as_micros() as u64, Ordering::Relaxed);
    }

    fn resume(&self, d: Duration) {
        self.controls.resume_ms.store(d.as_millis() as u64, Ordering::SeqCst);
        while self.controls.resume_ms.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(ms(1));
        }
    }

    fn freeze(&self) {
        self.controls.frozen.store(false, Ordering::SeqCst);
        self.controls.freeze.store(true, Ordering::SeqCst);
        while !self.controls.frozen.load(Ordering::SeqCst) {
            std::thread::sleep(ms(1));
        }
    }

    fn thaw(&self) {
        self.controls.freeze.store(false, Ordering::SeqCst);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.thaw();
        self.controls.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

/// A frame that reached the client's interface from outside.
#[derive(Clone, Debug)]
struct Frame {
    /// When it arrived, by the kernel's clock.
    at: BootTime,
    bytes: Vec<u8>,
}

impl Frame {
    fn ether_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    fn is_arp(&self) -> bool {
        self.ether_type() == 0x0806
    }

    /// TCP flags and acknowledgement.
    fn tcp(&self) -> Option<(u8, u32)> {
        let b = &self.bytes;
        let at = match self.ether_type() {
            0x0800 if b[23] == 6 => 34,
            0x86dd if b[20] == 6 => 54,
            _ => return None,
        };
        Some((b[at + 13], u32::from_be_bytes(b[at + 8..at + 12].try_into().unwrap())))
    }

    fn is_syn_ack(&self) -> bool {
        self.tcp().is_some_and(|(flags, _)| flags & 0x12 == 0x12)
    }

    fn says_goodbye(&self) -> bool {
        self.tcp().is_some_and(|(flags, _)| flags & 0x05 != 0)
    }
}

/// Everything that comes in at the client's interface.
struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    socket: Arc<OwnedFd>,
}

impl Capture {
    fn start(rig: &Rig) -> Self {
        let socket = Arc::new(rig.client.within(packet_socket).unwrap());
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (f, s, fd) = (frames.clone(), stop.clone(), socket.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                if let Some(frame) = receive(&fd) {
                    f.lock().unwrap().push(frame);
                }
            }
        });
        Self { frames, stop, thread: Some(thread), socket }
    }

    fn count(&self, want: impl Fn(&Frame) -> bool) -> usize {
        self.frames.lock().unwrap().iter().filter(|f| want(f)).count()
    }

    fn after(&self, t: BootTime) -> Vec<Frame> {
        self.frames.lock().unwrap().iter().filter(|f| f.at >= t).cloned().collect()
    }

    /// Broadcasts "who has the service's address?".
    fn ask_arp(&self) {
        let mut f = vec![0xff; 6];
        f.extend([2, 0, 0, 0, 0, 9]);
        f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9]);
        // Not the client's address: the service would believe that it has moved.
        f.extend(ASKER.parse::<std::net::Ipv4Addr>().unwrap().octets());
        f.extend([0; 6]);
        f.extend(SERVICE.parse::<std::net::Ipv4Addr>().unwrap().octets());
        f.resize(60, 0);
        // SAFETY: sends from a buffer of our own.
        let n = unsafe { libc::send(self.socket.as_raw_fd(), f.as_ptr().cast(), f.len(), 0) };
        assert_eq!(n, 60);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn packet_socket() -> OwnedFd {
    let interface = nix::net::if_::if_nametoindex("c0").unwrap();
    // SAFETY: a new descriptor; options and address are read from locals during the calls.
    unsafe {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol));
        assert!(fd >= 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = interface as i32;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32), 0);
        let on = 1i32;
        for (option, value) in [(libc::SO_TIMESTAMPNS, on), (libc::SO_RCVBUFFORCE, 64 << 20)] {
            assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), 4), 0);
        }
        // Replies to a MAC of our invention come in too.
        let mut m: libc::packet_mreq = std::mem::zeroed();
        m.mr_ifindex = interface as i32;
        m.mr_type = libc::PACKET_MR_PROMISC as u16;
        let r = libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, (&raw const m).cast(), size_of_val(&m) as u32);
        assert_eq!(r, 0);
        let t = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const t).cast(), 16), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn receive(socket: &OwnedFd) -> Option<Frame> {
    let mut bytes = vec![0u8; 256];
    let mut control = [0u64; 16];
    // SAFETY: one message with one vector over `bytes`, an address and control data in locals; the control message is
    // read only if the kernel says that it is there.
    unsafe {
        let mut from: libc::sockaddr_ll = std::mem::zeroed();
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut m: libc::msghdr = std::mem::zeroed();
        m.msg_name = (&raw mut from).cast();
        m.msg_namelen = size_of_val(&from) as u32;
        m.msg_iov = &mut vector;
        m.msg_iovlen = 1;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = size_of_val(&control);
        let n = libc::recvmsg(socket.as_raw_fd(), &mut m, 0);
        if n < 14 || from.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        bytes.truncate(n as usize);
        let header = libc::CMSG_FIRSTHDR(&m);
        assert!(!header.is_null(), "asked for the time");
        let t: libc::timespec = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
        let stamp = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
        let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let boot = BootTime::now().0;
        Some(Frame { at: BootTime(boot - real.saturating_sub(stamp)), bytes })
    }
}

struct TcpInfo {
    retransmits: u32,
    rto_ms: u32,
}

impl std::fmt::Display for TcpInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} retransmits, RTO {} ms", self.retransmits, self.rto_ms)
    }
}

fn tcp_info(s: &TcpStream) -> TcpInfo {
    let mut b = [0u32; 64];
    let mut n = size_of_val(&b) as libc::socklen_t;
    // SAFETY: the kernel writes at most n bytes to b.
    let r = unsafe { libc::getsockopt(s.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, b.as_mut_ptr().cast(), &mut n) };
    assert_eq!(r, 0);
    // tcpi_total_retrans is the 24th word after eight bytes of flags; tcpi_rto the first.
    TcpInfo { retransmits: b[2 + 23], rto_ms: b[2] / 1000 }
}

fn echo(c: &mut TcpStream, text: &[u8]) {
    c.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    c.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

#[test]
fn a_syn_ack_is_held_until_its_commit() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    let capture = Capture::start(&rig);
    for address in [SERVICE, SERVICE_V6] {
        // The first finds the neighbour too.
        service.delay(ms(0));
        std::thread::sleep(ms(150));
        drop(rig.connect(address, ECHO).unwrap());
        for delay in [0, 1, 20, 100] {
            service.delay(ms(delay));
            let before = (Instant::now(), BootTime::now());
            let mut c = rig.connect(address, ECHO).unwrap();
            let took = before.0.elapsed();
            println!("connect with SYN-ACK held {delay} ms: {took:?}");
            assert!(took >= ms(delay) && took < ms(delay + 400), "{took:?}");
            std::thread::sleep(ms(150));
            let syn_acks = || capture.after(before.1).iter().filter(|f| f.is_syn_ack()).count();
            // One came, since we are connected; who looks for it may be late.
            while syn_acks() == 0 {
                assert!(before.0.elapsed() < Duration::from_secs(10));
                std::thread::sleep(ms(10));
            }
            assert_eq!(syn_acks(), 1);
            echo(&mut c, b"hello");
            assert_eq!(tcp_info(&c).retransmits, 0);
            // Both sides close: the service's FIN and last acknowledgement leave.
            c.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(c.read(&mut [0; 9]).unwrap(), 0);
        }
    }
    // Longer than the kernel waits with its repeat: one still.
    service.delay(ms(1300));
    let before = BootTime::now();
    let c = rig.connect(SERVICE, ECHO).unwrap();
    drop(c);
    std::thread::sleep(ms(300));
    assert_eq!(capture.after(before).iter().filter(|f| f.is_syn_ack()).count(), 1);
}

#[test]
fn an_acknowledgement_is_held_until_its_commit() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    let mut c = rig.connect(SERVICE, ECHO).unwrap();
    echo(&mut c, b"warm");
    let capture = Capture::start(&rig);
    echo(&mut c, b"x");
    // A round's acknowledgement may come once more after its reply.
    std::thread::sleep(ms(100));
    let mut acked = capture.frames.lock().unwrap().iter().rev().find_map(Frame::tcp).unwrap().1;
    for delay in [1, 5, 50] {
        service.delay(ms(delay));
        for _ in 0..10 {
            let before = (Instant::now(), BootTime::now());
            echo(&mut c, b"x");
            let took = before.0.elapsed();
            assert!(took >= ms(delay) && took < ms(delay + 400), "{took:?}");
            acked = acked.wrapping_add(1);
            // The reply was heard; what was captured of it is seen a little later.
            let first = loop {
                let frames = capture.after(before.1);
                if let Some(f) = frames.iter().find(|f| f.tcp().is_some_and(|(_, ack)| ack == acked)) {
                    break f.at.since(before.1);
                }
                assert!(before.0.elapsed() < PATIENCE);
                std::thread::sleep(ms(1));
            };
            assert!(first >= ms(delay), "{first:?}");
        }
    }
    let info = tcp_info(&c);
    println!("after holding 1, 5, 50 ms: {info}");
    assert_eq!(info.retransmits, 0);
}

#[test]
fn uploads_flow() {
    const BYTES: usize = 100 << 20;
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    let block = vec![7u8; 1 << 20];
    for delay_us in [0, 100, 1000, 5000] {
        service.delay(Duration::from_micros(delay_us));
        let mut c = rig.connect(SERVICE, SINK).unwrap();
        let before = Instant::now();
        for _ in 0..BYTES / block.len() {
            c.write_all(&block).unwrap();
        }
        c.shutdown(std::net::Shutdown::Write).unwrap();
        let mut n = [0; 8];
        c.read_exact(&mut n).unwrap();
        let took = before.elapsed();
        assert_eq!(u64::from_be_bytes(n) as usize, BYTES);
        assert_eq!(c.read(&mut [0; 1]).unwrap(), 0);
        let info = tcp_info(&c);
        println!("100 MB up, acknowledgements held {delay_us} us: {took:?}, {:.0} MB/s, {info}", 100.0 / took.as_secs_f64());
        // A commit that comes late by the scheduler's whim draws a tail loss probe (RFC 8985) or a timeout, which
        // repeats what was under way. Acknowledgements that never come in time repeat everything.
        let segments = (BYTES / 1448) as u32;
        assert!(info.retransmits < segments / 100, "a storm");
    }
}

#[test]
fn a_round_trip_costs_little_more() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let median = |c: &mut TcpStream| {
        let mut took: Vec<Duration> = (0..2000)
            .map(|_| {
                let before = Instant::now();
                echo(c, b"0123456789");
                before.elapsed()
            })
            .collect();
        took.sort();
        took[took.len() / 2]
    };
    let gated = {
        let _service = Service::start(&rig, FOREVER);
        median(&mut rig.connect(SERVICE, ECHO).unwrap())
    };
    // The same interface without queue and lease. The former one may still be there; it must not answer for the address.
    let net = rig
        .host
        .within(|| ServiceNet::create("h0", &[format!("{SERVICE}/24").parse().unwrap()], &[], None).unwrap())
        .unwrap();
    net.raise().unwrap();
    let listener = net.within(|| TcpListener::bind((SERVICE, ECHO)).unwrap()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        s.set_nodelay(true).unwrap();
        let mut b = [0; 4096];
        while let Ok(n @ 1..) = s.read(&mut b) {
            s.write_all(&b[..n]).unwrap();
        }
    });
    rig.forget_neighbours();
    let mut c = rig.connect(SERVICE, ECHO).unwrap();
    let bare = median(&mut c);
    drop(c);
    server.join().unwrap();
    println!("median round trip of 10 bytes: {gated:?} through the gate, {bare:?} without");
    assert!(gated < ms(20));
}

#[test]
fn downloads_and_echoes_flow_both_ways() {
    const BYTES: usize = 20 << 20;
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let _service = Service::start(&rig, FOREVER);
    let mut c = rig.connect(SERVICE_V6, ECHO).unwrap();
    let mut sender = c.try_clone().unwrap();
    let before = Instant::now();
    let writer = std::thread::spawn(move || {
        for k in 0..BYTES >> 16 {
            sender.write_all(&[k as u8; 1 << 16]).unwrap();
        }
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = vec![0; 1 << 16];
    for k in 0..BYTES >> 16 {
        c.read_exact(&mut back).unwrap();
        assert!(back.iter().all(|b| *b == k as u8));
    }
    writer.join().unwrap();
    println!("20 MB echoed in {:?}, {}", before.elapsed(), tcp_info(&c));
}

#[test]
fn a_lease_that_runs_out_silences_ip_and_arp() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    let capture = Capture::start(&rig);
    // Until a time, and until the capture has both kinds if `heard`.
    let talk = |until: BootTime, heard: bool| {
        let patience = BootTime::now().after(PATIENCE);
        // A fresh one: an old one's timers are backed off.
        let mut c = rig.connect(SERVICE, ECHO).unwrap();
        let mut text = 0u8;
        c.set_read_timeout(Some(ms(2))).unwrap();
        let is_heard = || capture.count(Frame::is_arp) > 10 && capture.count(|f| f.tcp().is_some()) > 10;
        while BootTime::now() < until || (heard && !is_heard()) {
            assert!(BootTime::now() < patience, "the service is mute");
            capture.ask_arp();
            let _ = c.write_all(&[text]);
            let _ = c.read(&mut [0; 64]);
            text = text.wrapping_add(1);
        }
    };
    for round in 0..3 {
        talk(BootTime::now(), true);
        let end = BootTime::now().after(ms(200));
        service.lease.renew(end).unwrap();
        let dropped = service.lease.dropped();
        talk(end.after(ms(400)), false);
        assert!(service.lease.dropped() > dropped, "nothing wanted to leave");
        let last = capture.after(end).iter().map(|f| f.at.since(end)).max();
        println!("round {round}: last frame after the lease's end: {last:?}");
        // A frame that left before may be delivered later where processors are busy.
        assert!(last.is_none_or(|d| d < ms(100)), "{last:?}");
        assert!(service.lease.renew(BootTime::NEVER).is_err(), "it ran out");
        capture.frames.lock().unwrap().clear();
        service.resume(FOREVER);
    }
    // Established anew, it speaks: as in each round but the first, so after the last.
    talk(BootTime::now(), true);
}

#[test]
fn what_waited_through_a_pause_never_leaves() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    let mut c = rig.connect(SERVICE, ECHO).unwrap();
    echo(&mut c, b"warm");
    let capture = Capture::start(&rig);
    service.lease.renew(BootTime::now().after(ms(300))).unwrap();
    service.freeze();
    c.write_all(b"while it stands still").unwrap();
    std::thread::sleep(ms(600));
    assert!(service.lease.renew(BootTime::NEVER).is_err());
    let before = BootTime::now();
    service.thaw();
    std::thread::sleep(ms(300));
    let after = capture.after(before);
    assert!(after.is_empty(), "{after:?}");
    service.resume(FOREVER);
    let mut back = [0; 21];
    c.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"while it stands still");
    echo(&mut c, b"and on");
}

/// With an engine that stands still: the kernel answers a client's probe, and acknowledges nothing that is not committed.
#[test]
fn what_is_committed_passes_by_the_engine() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    for address in [SERVICE, SERVICE_V6] {
        let mut c = rig.connect(address, ECHO).unwrap();
        echo(&mut c, b"0123456789");
        for (option, value) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1), (libc::SO_KEEPALIVE, 1)] {
            let level = if option == libc::SO_KEEPALIVE { libc::SOL_SOCKET } else { libc::IPPROTO_TCP };
            // SAFETY: one int of our own, for the time of the call.
            let r = unsafe { libc::setsockopt(c.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
            assert_eq!(r, 0);
        }
        // Between two turns: the one that answered has committed.
        service.freeze();
        let capture = Capture::start(&rig);
        let acks = || capture.frames.lock().unwrap().iter().filter_map(Frame::tcp).map(|(_, ack)| ack).collect::<Vec<_>>();
        let begun = Instant::now();
        while acks().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{address}: no answer to a probe while the engine stands still");
            std::thread::sleep(ms(10));
        }
        let committed = acks()[0];
        c.write_all(b"more").unwrap();
        std::thread::sleep(ms(1500));
        assert!(acks().iter().all(|a| *a == committed), "{address}: acknowledged before the commit");
        service.thaw();
        let mut back = [0; 4];
        c.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"more");
        echo(&mut c, b"and on");
    }
}

/// A new connection's first words are queued; what it says next must not pass by them.
#[test]
fn nothing_overtakes_what_is_queued() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let mut engine = Engine::new(rig.gate(), FOREVER, Arc::default());
    let mut c = std::thread::scope(|s| {
        let connecting = s.spawn(|| rig.connect(SERVICE, ECHO).unwrap());
        let begun = Instant::now();
        while engine.connections.is_empty() {
            assert!(begun.elapsed() < PATIENCE);
            engine.gate.flush().unwrap();
            engine.wait();
            engine.gate.on_readable().unwrap();
            engine.events();
            engine.commit();
            engine.accept(0);
        }
        connecting.join().unwrap()
    });
    let capture = Capture::start(&rig);
    engine.connections[0].socket.write_all(b"first").unwrap();
    engine.gate.flush().unwrap();
    engine.connections[0].socket.write_all(b"second").unwrap();
    std::thread::sleep(ms(100));
    assert_eq!(capture.count(|f| f.tcp().is_some()), 0, "it left before the queue was read");
    engine.gate.on_readable().unwrap();
    engine.gate.flush().unwrap();
    // Past the queue, which nobody reads.
    engine.connections[0].socket.write_all(b"third").unwrap();
    let mut said = [0; 16];
    c.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"firstsecondthird");
}

#[test]
fn ingress_that_is_shut_draws_no_reaction() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let service = Service::start(&rig, FOREVER);
    drop(rig.connect(SERVICE, ECHO).unwrap());
    let refused = rig.connect(SERVICE, NOBODY).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "live: a closed port says so");
    std::thread::sleep(ms(100));

    service.ingress.shut();
    std::thread::sleep(ms(50));
    let capture = Capture::start(&rig);
    let start = BootTime::now();
    for port in [ECHO, NOBODY] {
        let e = rig.connect(SERVICE, port).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TimedOut, "{e}");
    }
    for _ in 0..10 {
        capture.ask_arp();
    }
    std::thread::sleep(ms(100));
    let frames: Vec<Frame> = capture.after(start).into_iter().filter(|f| f.is_arp() || f.tcp().is_some()).collect();
    // The service's kernel may ask for its neighbour; it answers nothing.
    let answers = frames.iter().filter(|f| !f.is_arp() || f.bytes[21] == 2).count();
    assert_eq!(answers, 0, "{frames:?}");
    assert!(service.ingress.dropped() > 10);

    service.ingress.open();
    rig.forget_neighbours();
    echo(&mut rig.connect(SERVICE, ECHO).unwrap(), b"back");
}

#[test]
fn without_its_rules_nothing_leaves() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let gate = rig.gate();
    let inside = Namespace::from(gate.net().namespace().as_fd().try_clone_to_owned().unwrap());
    let service = Service::with(gate, FOREVER);
    let mut c = rig.connect(SERVICE, ECHO).unwrap();
    echo(&mut c, b"warm");
    let capture = Capture::start(&rig);
    let iptables = |arguments: &[&str]| {
        inside.within(|| assert!(Command::new("iptables").arg("-w").args(arguments).status().unwrap().success())).unwrap();
    };
    iptables(&["-F"]);
    let before = BootTime::now();
    c.write_all(b"hello?").unwrap();
    std::thread::sleep(ms(300));
    // As while a namespace is taken down: no rules at all, and the lease still runs.
    iptables(&["-P", "OUTPUT", "ACCEPT"]);
    c.write_all(b"hello again?").unwrap();
    let e = rig.connect(SERVICE, NOBODY).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TimedOut, "the kernel's own reset came out: {e}");
    assert!(service.lease.until() > BootTime::now());
    drop(service);
    std::thread::sleep(ms(300));
    let left: Vec<Frame> = capture.after(before).into_iter().filter(|f| f.tcp().is_some()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn rules_that_somebody_changed_are_installed_again() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let mut gate = rig.gate();
    let inside = Namespace::from(gate.net().namespace().as_fd().try_clone_to_owned().unwrap());
    let iptables = |arguments: &[&str]| {
        let o = inside.within(|| Command::new("iptables").arg("-w").args(arguments).output().unwrap()).unwrap();
        assert!(o.status.success(), "{o:?}");
        String::from_utf8(o.stdout).unwrap()
    };
    let mut changes = |count| {
        let mut seen = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        while seen.len() < count && Instant::now() < end {
            seen.extend(gate.look_at_rules(Instant::now()).unwrap());
            std::thread::sleep(ms(1));
        }
        seen
    };
    let rules = iptables(&["-S"]);
    for harm in [&["-F", "INPUT"][..], &["-F"], &["-P", "OUTPUT", "ACCEPT"]] {
        iptables(harm);
        assert_eq!(changes(2), [Change::Broken, Change::Repaired], "{harm:?}");
        assert_eq!(iptables(&["-S"]), rules, "{harm:?}");
    }
}

#[test]
fn udp_and_connections_of_the_service_s_own_stay_inside() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let mut gate = rig.gate();
    gate.resume(BootTime::NEVER).unwrap();
    gate.ingress().open();
    let client: IpAddr = CLIENT.parse().unwrap();
    let capture = Capture::start(&rig);
    gate.net()
        .within(|| {
            let u = UdpSocket::bind((SERVICE, 0)).unwrap();
            u.send_to(b"datagram", (client, 999)).unwrap();
            let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            s.set_nonblocking(true).unwrap();
            let _ = s.connect(&SocketAddr::new(client, 999).into());
            std::thread::sleep(ms(100));
            drop(s);
        })
        .unwrap();
    while gate.on_readable().unwrap() {}
    std::thread::sleep(ms(50));
    let n = gate.judge().counters();
    assert_eq!((n.unsupported_dropped, n.outbound_dropped), (1, 1), "{n:?}");
    assert_eq!(capture.count(|f| f.ether_type() == 0x0800), 0);
    assert_eq!(gate.losses().unwrap(), Default::default());
}

#[test]
fn a_gate_that_can_t_be_is_refused_by_name() {
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let address: Address = format!("{SERVICE}/24").parse().unwrap();
    let refused = |parent: &str| {
        let e = rig.host.within(|| Gate::open(parent, &[address], &[], None).map(|_| ())).unwrap().unwrap_err();
        e.to_string()
    };
    assert!(refused("nosuch0").contains("no such interface"));
    assert!(refused("lo").contains("it is down"));
    rig.host.within(|| ip("link set lo up")).unwrap();
    assert!(refused("lo").contains("no Ethernet"));
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn a_gate_in_a_process_of_its_own() {
    let (Ok(fd), Ok(lease)) = (std::env::var(HOST_FD), std::env::var(LEASE_MS)) else { return };
    let fd: RawFd = fd.parse().unwrap();
    // SAFETY: the parent left this descriptor open for us, and nobody else here owns it.
    let host = Namespace::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let gate = host.within(open_gate).unwrap();
    let lease = ms(lease.parse().unwrap());
    let handle = gate.lease().clone();
    std::thread::spawn(move || {
        while handle.renew(BootTime::now().after(lease)).is_ok() {
            std::thread::sleep(ms(20));
        }
    });
    let engine = Engine::new(gate, lease, Arc::new(Controls::default()));
    println!("\nready");
    std::io::stdout().flush().unwrap();
    engine.run();
}

#[test]
fn a_killed_engine_is_silent_and_then_its_kernel_too() {
    const LEASE: u64 = 400;
    let Some(_alone) = alone() else { return };
    let rig = Rig::new();
    let inherited = nix::unistd::dup(rig.host.as_fd()).unwrap();
    nix::fcntl::fcntl(&inherited, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_gate_in_a_process_of_its_own", "--nocapture"])
        .env(HOST_FD, inherited.as_raw_fd().to_string())
        .env(LEASE_MS, LEASE.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    while lines.next().expect("it gets ready").unwrap() != "ready" {}

    let mut clients: Vec<TcpStream> = (0..20).map(|_| rig.connect(SERVICE, ECHO).unwrap()).collect();
    for c in &mut clients {
        echo(c, b"before");
    }
    let capture = Capture::start(&rig);
    capture.ask_arp();
    std::thread::sleep(ms(50));
    assert!(capture.count(Frame::is_arp) > 0);
    // Something to be reset for: bytes that nobody will read. The others' sockets go on half closed.
    for c in &mut clients[10..] {
        c.write_all(&[1; 3000]).unwrap();
    }
    let killed = BootTime::now();
    child.kill().unwrap();
    child.wait().unwrap();
    let dead = BootTime::now();
    let end = killed.after(ms(LEASE + 20));
    let mut arp_before_the_end = 0;
    while BootTime::now() < end.after(ms(1500)) {
        capture.ask_arp();
        std::thread::sleep(ms(5));
    }
    for f in capture.after(killed) {
        assert!(!f.says_goodbye(), "{f:?}");
        assert!(f.at < dead || f.is_arp(), "TCP after death: {f:?}");
        arp_before_the_end += usize::from(f.is_arp() && f.at < end);
        assert!(f.at < end, "after the lease: {f:?}");
    }
    assert!(arp_before_the_end > 0, "half-closed sockets keep the namespace");
    println!("killed: {arp_before_the_end} ARP answers until the lease's end, none in 1.5 s after it, no FIN, no RST");
    for c in &mut clients {
        c.set_read_timeout(Some(ms(1))).unwrap();
        let mut b = [0; 4096];
        loop {
            match c.read(&mut b) {
                Ok(0) => panic!("the client was told"),
                Ok(_) => {}
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}");
                    break;
                }
            }
        }
    }
}
