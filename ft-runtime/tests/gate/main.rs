//! The gate between a real server and a real client: a client's namespace, a host's, and the service's own.
//!
//! All namespaces are held by descriptors of the test: nothing is left when it ends, however it ends.

mod capture;
mod engine;
mod net;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use capture::{Capture, Frame};
use engine::{Controls, Engine, Service};
use ft_runtime::gate::Gate;
use ft_runtime::gate::boot_time::BootTime;
use ft_runtime::gate::namespace::{Address, Namespace, ServiceNet};
use ft_runtime::gate::rules::Change;
use net::{Rig, ip, open_gate};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
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

/// This thread and those that it starts. A virtual cable has a queue per processor: what both ends send from two of them, data by writes
/// and by acknowledgements, overtakes itself, and TCP takes that for loss. No gate can help it.
fn stay_on_one_processor() {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|c| allowed.is_set(*c).unwrap()).unwrap()).unwrap();
    sched_setaffinity(this_thread, &one).unwrap();
}

#[test]
fn uploads_flow() {
    const BYTES: usize = 100 << 20;
    let Some(_alone) = alone() else { return };
    stay_on_one_processor();
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
