//! The states: what brings a connection there, what is done to it while the fault comes, and what must hold afterwards.

use crate::Place;
use crate::client::Client;
use crate::rigged::PATIENCE;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type AtFault = Box<dyn FnOnce() + Send>;
type After = Box<dyn FnOnce(&Place) + Send>;
type Begin = fn(&Place) -> (AtFault, After);

pub const STATES: &[(&str, Begin)] = &[
    ("idle, never used", idle),
    ("idle, used before", used),
    ("the client's half closed, unread by the guest", client_half_closed_unread),
    ("the client's half closed, the guest's answer open", client_half_closed),
    ("the client's half closed in the fault", client_half_closed_in_fault),
    ("the guest's half closed, the client sends on", guest_half_closed),
    ("the guest's half closed, its output unread", guest_half_closed_unread),
    ("closed by the guest, its output unread", closed_unread),
    ("closed by the client, then the guest, its output unread", closed_by_both_unread),
    ("closed by the guest, in the fault by the client", closed_in_fault),
    ("reset by the client", reset_by_client),
    ("reset by the client in the fault", reset_by_client_in_fault),
    ("reset by the guest", reset_by_guest),
    ("reset by the guest in the fault", reset_by_guest_in_fault),
    ("unread input, all buffers full", unread_input),
    ("unread output, all buffers full", unread_output),
    ("not accepted", not_accepted),
    ("SYN-ACK lost, until after the takeover", syn_ack_lost),
    ("the handshake's last ACK lost, until after the takeover", last_ack_lost),
    ("SYN sent in the fault", syn_in_fault),
    ("upload in the middle", upload),
    ("download in the middle", download),
];

/// More than the client's window takes, and what the guest may have unacknowledged.
const UNREAD_BYTES: u64 = 900_000;
/// A transfer goes on for so long after the takeover.
const GO_ON_BYTES: u64 = 16 << 20;

fn nothing() -> AtFault {
    Box::new(|| {})
}

fn idle(p: &Place) -> (AtFault, After) {
    let mut c = p.connect();
    (nothing(), Box::new(move |_| c.ask("echo a", "1 a")))
}

fn used(p: &Place) -> (AtFault, After) {
    let mut c = p.connect();
    c.ask("echo a", "1 a");
    (nothing(), Box::new(move |_| c.ask("echo b", "2 b")))
}

fn client_half_closed_unread(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("client-half-unread");
    let mut other = p.connect();
    c.say("count");
    other.ask(&format!("pause {name}"), "ok");
    c.send(100_000);
    c.end();
    let after = move |_: &Place| {
        other.ask(&format!("resume {name}"), "ok");
        assert_eq!(c.hear(), "ended 100000");
        c.expect_end();
    };
    (nothing(), Box::new(after))
}

fn client_half_closed(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("client-half");
    let mut other = p.connect();
    c.say("wait");
    c.send(100_000);
    c.end();
    other.ask_until(&format!("seen {name}"), "open 100000");
    let after = move |_: &Place| {
        other.ask(&format!("answer {name}"), "ok");
        assert_eq!(c.hear(), "ended 100000");
        c.expect_end();
    };
    (nothing(), Box::new(after))
}

fn client_half_closed_in_fault(p: &Place) -> (AtFault, After) {
    let mut c = p.connect();
    c.say("count");
    c.send(10_000);
    let end = c.stream.try_clone().unwrap();
    let after = move |_: &Place| {
        assert_eq!(c.hear(), "ended 10000");
        c.expect_end();
    };
    (Box::new(move || Client::of(end).end()), Box::new(after))
}

fn guest_half_closed(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("guest-half");
    let mut other = p.connect();
    c.say("shut 100000");
    c.receive(100_000);
    c.expect_end();
    c.send(50_000);
    let after = move |_: &Place| {
        c.send(50_000);
        c.end();
        other.ask_until(&format!("seen {name}"), "ended 100000");
    };
    (nothing(), Box::new(after))
}

fn guest_half_closed_unread(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("guest-half-unread");
    let mut other = p.connect();
    c.say(&format!("shut {UNREAD_BYTES}"));
    c.send(50_000);
    other.ask_until(&format!("seen {name}"), "open 50000");
    let after = move |_: &Place| {
        c.send(50_000);
        c.receive(UNREAD_BYTES);
        c.expect_end();
        c.send(50_000);
        c.end();
        other.ask_until(&format!("seen {name}"), "ended 150000");
    };
    (nothing(), Box::new(after))
}

/// The guest has let go of it; the client has read nothing.
fn closed(p: &Place, name: &str, ends: bool) -> Client {
    let (mut c, name) = p.connect_named(name);
    c.say(&format!("close {UNREAD_BYTES}"));
    if ends {
        c.end();
    }
    p.connect().ask_until(&format!("seen {name}"), "ended 0");
    c
}

fn closed_unread(p: &Place) -> (AtFault, After) {
    let mut c = closed(p, "closed-unread", false);
    let after = move |_: &Place| {
        c.receive(UNREAD_BYTES);
        c.expect_end();
    };
    (nothing(), Box::new(after))
}

fn closed_by_both_unread(p: &Place) -> (AtFault, After) {
    let mut c = closed(p, "closed-by-both", true);
    let after = move |_: &Place| {
        c.receive(UNREAD_BYTES);
        c.expect_end();
    };
    (nothing(), Box::new(after))
}

fn closed_in_fault(p: &Place) -> (AtFault, After) {
    let mut c = closed(p, "closed-in-fault", false);
    let end = c.stream.try_clone().unwrap();
    let after = move |_: &Place| {
        c.receive(UNREAD_BYTES);
        c.expect_end();
    };
    (Box::new(move || Client::of(end).end()), Box::new(after))
}

fn reset_by_client(p: &Place) -> (AtFault, After) {
    let (c, name) = p.connect_named("client-reset");
    let mut other = p.connect();
    c.reset();
    other.ask_until(&format!("seen {name}"), "reset 0");
    (nothing(), Box::new(move |_| other.ask(&format!("seen {name}"), "reset 0")))
}

fn reset_by_client_in_fault(p: &Place) -> (AtFault, After) {
    let (c, name) = p.connect_named("client-reset-late");
    let mut other = p.connect();
    (Box::new(move || c.reset()), Box::new(move |_| other.ask_until(&format!("seen {name}"), "reset 0")))
}

fn reset_by_guest(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("guest-reset");
    p.connect().ask(&format!("abort {name}"), "ok");
    (nothing(), Box::new(move |_| c.expect_reset()))
}

fn reset_by_guest_in_fault(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("guest-reset-late");
    let mut other = p.connect();
    let mut abort = Client::of(other.stream.try_clone().unwrap());
    let after = move |_: &Place| {
        assert_eq!(other.hear(), "ok");
        c.expect_reset();
    };
    (Box::new(move || abort.say(&format!("abort {name}"))), Box::new(after))
}

fn unread_input(p: &Place) -> (AtFault, After) {
    let (mut c, name) = p.connect_named("unread-input");
    let mut other = p.connect();
    c.say("count");
    other.ask(&format!("pause {name}"), "ok");
    c.send_until_full();
    let after = move |_: &Place| {
        other.ask(&format!("resume {name}"), "ok");
        c.send(1 << 20);
        c.end();
        assert_eq!(c.hear(), format!("ended {}", c.sent));
        c.expect_end();
    };
    (nothing(), Box::new(after))
}

fn unread_output(p: &Place) -> (AtFault, After) {
    const ALL: u64 = 8 << 20;
    let mut c = p.connect();
    c.say(&format!("download {ALL}"));
    let after = move |p: &Place| {
        // Another one's answer: the takeover is over, and then this one goes on being slow.
        p.connect().ask("echo a", "1 a");
        std::thread::sleep(Duration::from_secs(2));
        c.receive(ALL);
        c.ask("echo a", "1 a");
    };
    (nothing(), Box::new(after))
}

fn not_accepted(p: &Place) -> (AtFault, After) {
    // The guest's backlog is 2.
    let mut all: Vec<Client> = (0..6).map(|_| Client::connect(p.rig, p.later)).collect();
    for c in all.iter_mut().step_by(2) {
        c.say("echo a");
    }
    let after = move |p: &Place| {
        for c in all.iter_mut().skip(1).step_by(2) {
            c.say("echo a");
        }
        // Once for both families: the listener is one.
        if p.family == 4 {
            p.connect().ask("accept", "ok");
        }
        for c in &mut all {
            assert_eq!(c.hear(), "1 a");
        }
    };
    (nothing(), Box::new(after))
}

/// Something that the client's network loses, until this is dropped.
struct Lost {
    program: &'static str,
    rule: Vec<String>,
}

impl Lost {
    fn new(p: &Place, rule: &str) -> Self {
        let program = if p.family == 4 { "iptables" } else { "ip6tables" };
        let l = Self { program, rule: rule.split(' ').map(str::to_owned).collect() };
        l.run(p, "-A");
        l
    }

    fn run(&self, p: &Place, what: &str) {
        p.rig.at_client(|| {
            let o = Command::new(self.program).args(["-w", what]).args(&self.rule).output().unwrap();
            assert!(o.status.success(), "{o:?}");
        });
    }

    /// It has lost something.
    fn until_used(&self, p: &Place) {
        let end = Instant::now() + PATIENCE;
        while !p.rig.at_client(|| {
            let o = Command::new(self.program).args(["-w", "-nvxL"]).output().unwrap();
            let text = String::from_utf8(o.stdout).unwrap();
            let port = self.rule.iter().find(|w| w.len() == 5 && w.starts_with("62")).unwrap();
            let line = text.lines().find(|l| l.contains(&format!(":{port}"))).unwrap().to_owned();
            line.split_whitespace().next() != Some("0")
        }) {
            assert!(Instant::now() < end, "nothing came that could be lost");
        }
    }
}

/// A socket that may connect to there, from `port`, whatever the outcome.
fn connecting(p: &Place, port: u16, to: SocketAddr) -> std::thread::JoinHandle<std::io::Result<TcpStream>> {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let socket = p.rig.at_client(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap());
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    socket.bind(&SockAddr::from(SocketAddr::new(any.ip(), port))).unwrap();
    std::thread::spawn(move || socket.connect_timeout(&SockAddr::from(to), PATIENCE).map(|()| socket.into()))
}

fn syn_ack_lost(p: &Place) -> (AtFault, After) {
    let port = 62_000 + u16::from(p.family);
    let lost = Lost::new(p, &format!("INPUT -p tcp --dport {port} --tcp-flags SYN,ACK SYN,ACK -j DROP"));
    let connecting = connecting(p, port, p.main);
    lost.until_used(p);
    let after = move |p: &Place| {
        // Another one's answer: what the takeover says by itself was said, and lost.
        p.connect().ask("echo a", "1 a");
        std::thread::sleep(Duration::from_millis(200));
        lost.run(p, "-D");
        let mut c = Client::of(connecting.join().unwrap().unwrap_or_else(|e| panic!("connecting: {e}")));
        c.ask("echo a", "1 a");
        c.ask("echo b", "2 b");
    };
    (nothing(), Box::new(after))
}

fn last_ack_lost(p: &Place) -> (AtFault, After) {
    let port = 62_100 + u16::from(p.family);
    let lost = Lost::new(p, &format!("OUTPUT -p tcp --sport {port} --tcp-flags SYN,ACK ACK -j DROP"));
    let mut c = Client::of(connecting(p, port, p.main).join().unwrap().unwrap());
    c.say("echo a");
    let after = move |p: &Place| {
        p.connect().ask("echo a", "1 a");
        lost.run(p, "-D");
        assert_eq!(c.hear(), "1 a");
        c.ask("echo b", "2 b");
    };
    (nothing(), Box::new(after))
}

fn syn_in_fault(p: &Place) -> (AtFault, After) {
    let (begin, begun) = std::sync::mpsc::channel();
    let (rig_address, ns) = (p.main, p.rig.at_client(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()));
    let connecting = std::thread::spawn(move || {
        nix::sched::setns(&ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        begun.recv().unwrap();
        TcpStream::connect_timeout(&rig_address, PATIENCE)
    });
    let after = move |_: &Place| {
        let mut c = Client::of(connecting.join().unwrap().unwrap_or_else(|e| panic!("connecting: {e}")));
        c.ask("echo a", "1 a");
    };
    (Box::new(move || begin.send(()).unwrap()), Box::new(after))
}

fn upload(p: &Place) -> (AtFault, After) {
    let mut c = p.connect();
    c.say("count");
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = is_over.clone();
    let sending = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            c.send(1 << 20);
        }
        c.send(GO_ON_BYTES);
        c.end();
        assert_eq!(c.hear(), format!("ended {}", c.sent));
        c.expect_end();
    });
    let after = move |p: &Place| {
        p.connect().ask("echo a", "1 a");
        is_over.store(true, Ordering::Relaxed);
        sending.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    };
    (nothing(), Box::new(after))
}

fn download(p: &Place) -> (AtFault, After) {
    let mut c = p.connect();
    c.say(&format!("download {}", 1u64 << 40));
    c.receive(4 << 20);
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = is_over.clone();
    let receiving = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            c.receive(1 << 20);
        }
        c.receive(GO_ON_BYTES);
    });
    let after = move |p: &Place| {
        p.connect().ask("echo a", "1 a");
        is_over.store(true, Ordering::Relaxed);
        receiving.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    };
    (nothing(), Box::new(after))
}
