//! Two hosts on loopback, each with an epoll of its own. Edge-triggered, and a wait that lasts long is a failure: so
//! an edge that the link forgot shows.

use super::*;
use crate::link::frame::{BODY_BYTES_MAX, FRAME_BYTES_MAX};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::{SupportedCipherSuite, Tls13CipherSuite};
use socket2::SockRef;
use std::thread;

const STUCK_MS: u16 = 20_000;

fn keys() -> (Keys, Keys) {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    (Keys::new(&a, b.public()).unwrap(), Keys::new(&b, a.public()).unwrap())
}

struct Host {
    epoll: Epoll,
    link: Link,
}

impl Host {
    fn new(link: Link) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        epoll.add(link.fd(), EpollEvent::new(edge, 0)).unwrap();
        Self { epoll, link }
    }

    fn wait(&mut self) {
        if !self.link.pending() {
            let mut event = [EpollEvent::empty()];
            let n = self.epoll.wait(&mut event, EpollTimeout::from(STUCK_MS)).unwrap();
            assert!(n > 0, "no event for {STUCK_MS} ms: {} bytes queued", self.link.queued_bytes());
            if event[0].events().intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                self.link.read_to_end();
            }
        }
    }

    /// Waits for one event and does what an engine does at each.
    fn turn(&mut self, f: &mut dyn FnMut(u8, &[u8]) -> ControlFlow<()>) -> Result<(), LinkError> {
        self.wait();
        self.link.on_ready()?;
        self.link.recv(f)?;
        self.link.flush()
    }

    fn until_up(&mut self) -> Result<(), LinkError> {
        while !self.link.is_up() {
            self.wait();
            self.link.on_ready()?;
        }
        Ok(())
    }

    /// Turns until the link ends; the frames until then.
    fn until_end(&mut self) -> (Vec<(u8, Vec<u8>)>, LinkError) {
        let mut frames = Vec::new();
        loop {
            let r = self.turn(&mut |kind, body| {
                frames.push((kind, body.to_vec()));
                ControlFlow::Continue(())
            });
            if let Err(e) = r {
                return (frames, e);
            }
        }
    }
}

fn listener() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn accepted(l: &Listener) -> TcpStream {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(l.fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    assert_eq!(epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(STUCK_MS)), Ok(1));
    l.socket.accept().unwrap().0
}

/// Both ends until they are up or know why not. The connecting one first.
fn meet(connecting: Link, accepting: Link) -> (Result<Host, LinkError>, Result<Host, LinkError>) {
    let up = |link| {
        let mut host = Host::new(link);
        host.until_up().map(|()| host)
    };
    thread::scope(|s| {
        let other = s.spawn(move || up(accepting));
        (up(connecting), other.join().unwrap())
    })
}

fn links(a: &Keys, b: &Keys, versions: (u32, u32)) -> (Link, Link) {
    let l = listener();
    let connecting = Link::connect_as(l.address(), a, versions.0).unwrap();
    let accepting = Link::accept_as(accepted(&l), b, versions.1).unwrap();
    (connecting, accepting)
}

fn hosts() -> (Host, Host) {
    let (a, b) = keys();
    let (a, b) = links(&a, &b, (1, 1));
    let (a, b) = meet(a, b);
    (a.unwrap(), b.unwrap())
}

/// Sends `count` frames made by `make` while it takes as many; never queues more than `queue_max`.
fn exchange(mut host: Host, count: u32, queue_max: usize, make: fn(u32, &mut Vec<u8>)) -> Host {
    let (mut sent, mut got) = (0, 0);
    let (mut body, mut expected) = (Vec::new(), Vec::new());
    while sent < count || got < count || host.link.queued_bytes() > 0 {
        while sent < count && host.link.queued_bytes() < queue_max {
            body.clear();
            make(sent, &mut body);
            let (head, payload) = body.split_at(body.len().min(16));
            host.link.send(1 + (sent % 7) as u8, head, payload);
            sent += 1;
            if sent.is_multiple_of(100) {
                host.link.flush().unwrap();
            }
        }
        host.link.flush().unwrap();
        if sent == count && got == count && host.link.queued_bytes() == 0 {
            break;
        }
        if sent == count || host.link.queued_bytes() >= queue_max {
            host.wait();
        }
        host.link.on_ready().unwrap();
        host.link
            .recv(&mut |kind, body| {
                expected.clear();
                make(got, &mut expected);
                assert_eq!(kind, 1 + (got % 7) as u8);
                assert!(body == expected, "frame {got}");
                got += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    host
}

fn both_ways(a: Host, b: Host, count: u32, queue_max: usize, make: fn(u32, &mut Vec<u8>)) -> (Host, Host) {
    thread::scope(|s| {
        let other = s.spawn(move || exchange(b, count, queue_max, make));
        (exchange(a, count, queue_max, make), other.join().unwrap())
    })
}

fn small(n: u32, body: &mut Vec<u8>) {
    body.extend(n.to_le_bytes());
    body.resize(4 + (n % 60) as usize, n as u8);
}

fn large(n: u32, body: &mut Vec<u8>) {
    body.extend(n.to_le_bytes());
    body.resize(BODY_BYTES_MAX - (n % 3) as usize, n as u8);
}

#[test]
fn small_frames_go_both_ways_in_order() {
    let (a, b) = hosts();
    let (a, b) = both_ways(a, b, 100_000, 64 << 10, small);
    assert_eq!(a.link.wire_bytes().0, b.link.wire_bytes().1);
    assert_eq!(a.link.wire_bytes().1, b.link.wire_bytes().0);
    assert_eq!((a.link.queued_bytes(), b.link.queued_bytes()), (0, 0));
}

#[test]
fn large_frames_go_both_ways_in_order() {
    let (a, b) = hosts();
    both_ways(a, b, 300, 4 << 20, large);
}

#[test]
fn an_empty_frame_and_one_of_every_size_around_a_record() {
    fn around(n: u32, body: &mut Vec<u8>) {
        body.resize(if n == 0 { 0 } else { 16_300 + n as usize }, n as u8);
    }
    let (a, b) = hosts();
    both_ways(a, b, 200, 1 << 20, around);
}

#[test]
fn many_frames_share_a_record() {
    let (mut a, mut b) = hosts();
    let (before, _) = a.link.wire_bytes();
    for n in 0..100u8 {
        a.link.send(1, &[n], &[]);
    }
    a.link.flush().unwrap();
    let mut got = 0;
    while got < 100 {
        b.turn(&mut |_, _| {
            got += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    // Header, kind of content and tag of one record.
    assert_eq!(a.link.wire_bytes().0 - before, 100 * 6 + 22);
}

#[test]
fn an_end_that_came_with_the_last_frame_is_found() {
    let (mut a, mut b) = hosts();
    b.link.send(5, b"last", &[]);
    b.link.flush().unwrap();
    drop(b);
    let ended = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    ended.add(a.link.fd(), EpollEvent::new(EpollFlags::EPOLLRDHUP, 0)).unwrap();
    assert_eq!(ended.wait(&mut [EpollEvent::empty()], EpollTimeout::from(STUCK_MS)), Ok(1));
    // Both are one edge: there is no other.
    let (frames, end) = a.until_end();
    assert_eq!(frames, [(5, b"last".to_vec())]);
    assert!(matches!(end, LinkError::Closed { orderly: false, .. }), "{end}");
}

#[test]
fn a_peer_that_does_not_read_makes_the_queue_grow_and_nothing_is_lost() {
    let (mut a, mut b) = hosts();
    let mut n = 0u32;
    let mut body = Vec::new();
    // Far beyond what the kernel and the peer hold.
    while a.link.queued_bytes() < 32 << 20 {
        body.clear();
        large(n, &mut body);
        a.link.send(9, &body, &[]);
        a.link.flush().unwrap();
        // It looks, but takes nothing: what it holds is bounded.
        b.link.on_ready().unwrap();
        n += 1;
    }
    assert!(a.link.interest().write && !b.link.interest().read && b.link.pending());
    let taken = b.link.wire_bytes().1;
    b.link.on_ready().unwrap();
    assert_eq!(b.link.wire_bytes().1, taken);
    assert!(taken < 2 << 20, "{taken}");
    let queued = a.link.queued_bytes();
    let reader = thread::spawn(move || {
        let (mut got, mut expected) = (0, Vec::new());
        while got < n {
            b.turn(&mut |kind, body| {
                expected.clear();
                large(got, &mut expected);
                assert!(kind == 9 && body == expected, "frame {got}");
                got += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        }
        b
    });
    while a.link.queued_bytes() > 0 {
        a.turn(&mut |_, _| panic!("nothing was sent back")).unwrap();
    }
    assert!(queued > 32 << 20);
    reader.join().unwrap();
}

#[test]
fn frames_are_taken_one_by_one_if_the_caller_breaks() {
    let (mut a, mut b) = hosts();
    for n in 0..1000u32 {
        a.link.send(1, &n.to_le_bytes(), &[]);
    }
    a.link.flush().unwrap();
    let mut next = 0u32;
    while next < 1000 {
        b.turn(&mut |_, body| {
            assert_eq!(body, next.to_le_bytes());
            next += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    }
    assert!(!b.link.pending());
}

#[test]
fn what_is_sent_before_the_link_is_up_arrives_first() {
    let (a, b) = keys();
    let (mut a, b) = links(&a, &b, (1, 1));
    a.send(1, b"early", &[]);
    assert!(a.queued_bytes() > 0);
    let (a, b) = meet(a, b);
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    a.link.flush().unwrap();
    let mut seen = false;
    while !seen {
        b.turn(&mut |kind, body| {
            assert_eq!((kind, body), (1, &b"early"[..]));
            seen = true;
            ControlFlow::Continue(())
        })
        .unwrap();
    }
}

#[test]
fn a_wrong_key_is_refused_and_both_sides_say_so() {
    let (a, b, c) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let right_a = Keys::new(&a, b.public()).unwrap();
    let wrong_a = Keys::new(&a, c.public()).unwrap();
    let right_b = Keys::new(&b, a.public()).unwrap();
    let wrong_b = Keys::new(&b, c.public()).unwrap();
    for (n, (a_keys, b_keys, judge_connects)) in
        [(&wrong_a, &right_b, true), (&right_a, &wrong_b, false)].into_iter().enumerate()
    {
        let (connecting, accepting) = links(a_keys, b_keys, (1, 1));
        let (x, y) = meet(connecting, accepting);
        let (judge, judged) = if judge_connects { (x, y) } else { (y, x) };
        let (own, other) = if judge_connects { (&a, &b) } else { (&b, &a) };
        match judge.err().unwrap() {
            LinkError::WrongKey { theirs, configured, .. } => {
                assert_eq!((theirs, configured), (other.public(), c.public()));
            }
            e => panic!("{n}: {e}"),
        }
        match judged.err().unwrap() {
            LinkError::KeyRefused { ours, peer } => {
                assert_eq!(ours, other.public());
                assert!(peer.ip().is_loopback());
            }
            e => panic!("{n}: {e}, own {own:?}"),
        }
    }
}

#[test]
fn an_intruder_with_a_key_of_his_own_gets_nothing() {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let intruder = Keys::new(&PrivateKey::generate().unwrap(), b.public()).unwrap();
    let (connecting, accepting) = links(&intruder, &Keys::new(&b, a.public()).unwrap(), (1, 1));
    let (x, y) = meet(connecting, accepting);
    assert!(matches!(x, Err(LinkError::KeyRefused { .. })));
    assert!(matches!(y, Err(LinkError::WrongKey { .. })));
}

#[test]
fn another_version_is_refused_and_both_sides_say_so() {
    let (a, b) = keys();
    for versions in [(1, 2), (7, 3)] {
        let (x, y) = links(&a, &b, versions);
        let (x, y) = meet(x, y);
        for (r, ours, theirs) in [(x, versions.0, versions.1), (y, versions.1, versions.0)] {
            match r.err().unwrap() {
                LinkError::Version { theirs: t, ours: o, their_ft, .. } => {
                    assert_eq!((t, o, &their_ft[..]), (theirs, ours, env!("CARGO_PKG_VERSION")));
                }
                e => panic!("{e}"),
            }
        }
    }
}

#[test]
fn a_peer_that_speaks_no_tls_is_named() {
    let (a, b) = keys();
    // It connects to us.
    let l = listener();
    let mut stranger = TcpStream::connect(l.address()).unwrap();
    let mut host = Host::new(Link::accept(accepted(&l), &b).unwrap());
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").unwrap();
    let e = host.until_up().unwrap_err();
    assert!(matches!(e, LinkError::NotFt { .. }), "{e}");
    // We connect to it.
    let l = listener();
    let mut host = Host::new(Link::connect(l.address(), &a).unwrap());
    let mut stranger = accepted(&l);
    stranger.write_all(b"220 mail.example ESMTP\r\n").unwrap();
    let e = host.until_up().unwrap_err();
    assert!(matches!(e, LinkError::NotFt { .. }), "{e}");
    assert!(e.to_string().contains(&l.address().to_string()));
}

#[test]
fn random_bytes_never_do_harm() {
    let (_, b) = keys();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..50 {
        let l = listener();
        let mut stranger = TcpStream::connect(l.address()).unwrap();
        let mut host = Host::new(Link::accept(accepted(&l), &b).unwrap());
        let mut bytes: Vec<u8> = (0..2000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        if round % 2 == 0 {
            // Looks like a record of the handshake.
            bytes[..5].copy_from_slice(&[22, 3, 1, 2, 0]);
        }
        stranger.write_all(&bytes).unwrap();
        drop(stranger);
        let e = host.until_up().unwrap_err();
        assert!(matches!(e, LinkError::NotFt { .. } | LinkError::Closed { .. } | LinkError::Broken { .. }), "{e}");
    }
}

#[test]
fn a_peer_that_hangs_up_in_the_handshake_is_named() {
    let (a, _) = keys();
    let l = listener();
    let mut host = Host::new(Link::connect(l.address(), &a).unwrap());
    drop(accepted(&l));
    let e = host.until_up().unwrap_err();
    assert!(
        matches!(
            e,
            LinkError::Closed { stage: Stage::Handshake, orderly: false, .. }
                | LinkError::Broken { stage: Stage::Handshake, .. }
        ),
        "{e}"
    );
}

#[test]
fn nobody_listens() {
    let (a, _) = keys();
    let address = listener().address();
    let e = match Link::connect(address, &a) {
        Ok(link) => Host::new(link).until_up().unwrap_err(),
        Err(e) => e,
    };
    assert!(
        matches!(&e, LinkError::Unreachable { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused),
        "{e}"
    );
}

#[test]
fn a_half_open_peer_is_given_up_in_time() {
    let (a, b) = keys();
    let l = listener();
    let mut connecting = Host::new(Link::connect(l.address(), &a).unwrap());
    let mut accepting = Host::new(Link::accept(accepted(&l), &b).unwrap());
    connecting.link.on_ready().unwrap();
    for link in [&mut connecting.link, &mut accepting.link] {
        let at = link.deadline().unwrap();
        link.on_deadline(at - Duration::from_millis(1)).unwrap();
        let e = link.on_deadline(at).unwrap_err();
        assert!(matches!(e, LinkError::HandshakeTimeout { stage: Stage::Handshake, seconds: 5, .. }), "{e}");
        assert!(link.deadline().is_none() && !link.is_up());
        // It stays so.
        assert!(matches!(link.on_ready(), Err(LinkError::HandshakeTimeout { .. })));
    }
    let (a, _) = hosts();
    assert!(a.link.deadline().is_none());
}

#[test]
fn a_dying_peers_last_frames_are_handed_out_before_its_end_is_told() {
    for reset in [false, true] {
        let (mut a, mut b) = hosts();
        // Something unread on its side makes the kernel send a reset at close even without lingering off.
        for n in 0..1000u32 {
            a.link.send(3, &n.to_le_bytes(), &[]);
        }
        a.link.flush().unwrap();
        assert_eq!(a.link.queued_bytes(), 0);
        if reset {
            SockRef::from(&a.link.socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(a);
        // As one that writes when the peer is gone.
        b.wait();
        b.link.send(4, b"into the void", &[]);
        b.link.flush().unwrap();
        b.link.send(4, b"into the void", &[]);
        b.link.flush().unwrap();
        let (frames, e) = b.until_end();
        assert_eq!(frames.len(), 1000, "reset {reset}: {e}");
        assert!(frames.iter().zip(0u32..).all(|(f, n)| *f == (3, n.to_le_bytes().to_vec())));
        assert!(
            matches!(
                e,
                LinkError::Closed { stage: Stage::Up, orderly: false, .. } | LinkError::Broken { stage: Stage::Up, .. }
            ),
            "{e}"
        );
    }
}

#[test]
fn a_kernel_that_gives_up_on_the_peer_means_silence() {
    let (mut a, _b) = hosts();
    a.link.broken(io::ErrorKind::TimedOut.into());
    assert!(matches!(a.link.on_ready(), Err(LinkError::Silent { seconds: 10, .. })));
}

#[test]
fn half_a_frame_is_not_handed_out() {
    let (mut a, mut b) = hosts();
    a.link.session.send_raw(&frame::head(5, 100));
    a.link.session.send_raw(&[7; 50]);
    a.link.flush().unwrap();
    drop(a);
    let (frames, e) = b.until_end();
    assert!(frames.is_empty() && matches!(e, LinkError::Closed { orderly: false, .. }), "{e}");
}

#[test]
fn an_orderly_end_is_told_from_a_death() {
    let (mut a, mut b) = hosts();
    a.link.send(3, b"last", b" words");
    a.link.close().unwrap();
    assert_eq!(a.link.queued_bytes(), 0);
    let (frames, e) = b.until_end();
    assert_eq!(frames, [(3, b"last words".to_vec())]);
    assert!(matches!(e, LinkError::Closed { stage: Stage::Up, orderly: true, .. }), "{e}");
    assert!(e.to_string().contains("ft was ended there"));
}

#[test]
fn a_frame_too_long_is_a_breach_of_the_protocol() {
    let (mut a, mut b) = hosts();
    a.link.send(3, b"good", &[]);
    a.link.session.send_raw(&(FRAME_BYTES_MAX as u32).to_le_bytes());
    a.link.flush().unwrap();
    let (frames, e) = b.until_end();
    assert_eq!(frames, [(3, b"good".to_vec())]);
    assert!(matches!(e, LinkError::Protocol { .. }), "{e}");
}

#[test]
fn altered_bytes_end_the_link() {
    let (a, b) = keys();
    let (mut a, b) = through_proxy(&a, &b, |seen, bytes| {
        // After the handshake: one bit.
        if seen > 20_000 {
            bytes[0] ^= 1;
        }
        16 << 10
    });
    let sender = thread::spawn(move || {
        a.link.send(1, &[1; 60_000], &[]);
        a.link.flush().unwrap();
        a.until_end()
    });
    let (frames, e) = { b }.until_end();
    assert!(frames.is_empty(), "{e}");
    assert!(matches!(e, LinkError::Protocol { .. }), "{e}");
    sender.join().unwrap();
}

/// Hosts joined by a relay, which sees the bytes from the first one (and how many there were before) and says how many
/// to pass on at once.
fn through_proxy(a: &Keys, b: &Keys, relay: fn(usize, &mut [u8]) -> usize) -> (Host, Host) {
    let (front, back) = (listener(), listener());
    let connecting = Link::connect(front.address(), a).unwrap();
    let outer = accepted(&front);
    let inner = TcpStream::connect(back.address()).unwrap();
    let accepting = Link::accept(accepted(&back), b).unwrap();
    for (from, to, relay) in [
        (outer.try_clone().unwrap(), inner.try_clone().unwrap(), relay),
        (inner, outer, |_: usize, bytes: &mut [u8]| bytes.len().min(1)),
    ] {
        from.set_nonblocking(false).unwrap();
        to.set_nodelay(true).unwrap();
        thread::spawn(move || {
            let (mut from, mut to, mut seen) = (from, to, 0);
            let mut bytes = [0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                let step = relay(seen, &mut bytes[..n]).max(1);
                seen += n;
                if bytes[..n].chunks(step).any(|c| to.write_all(c).is_err()) {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    let (a, b) = meet(connecting, accepting);
    (a.unwrap(), b.unwrap())
}

#[test]
fn bytes_that_come_one_at_a_time() {
    let (a, b) = keys();
    let (a, b) = through_proxy(&a, &b, |_, _| 1);
    both_ways(a, b, 500, 1 << 10, small);
}

#[test]
fn keys_are_renewed_under_way() {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let hasty = || {
        let provider = tls::provider();
        let SupportedCipherSuite::Tls13(suite) = provider.cipher_suites[0] else { panic!("not of TLS 1.3") };
        let common = CipherSuiteCommon { confidentiality_limit: 20, ..suite.common };
        let suite: &'static Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite { common, ..*suite }));
        CryptoProvider { cipher_suites: vec![SupportedCipherSuite::Tls13(suite)], ..provider }
    };
    let a_keys = Keys::with_provider(&a, b.public(), hasty()).unwrap();
    let b_keys = Keys::with_provider(&b, a.public(), hasty()).unwrap();
    let (a, b) = links(&a_keys, &b_keys, (1, 1));
    let (a, b) = meet(a, b);
    // A record for each frame, and many renewals; then with the queues full.
    let (a, b) = both_ways(a.unwrap(), b.unwrap(), 5_000, 1, small);
    both_ways(a, b, 300, 4 << 20, large);
}

#[test]
fn options_of_the_socket() {
    let (a, b) = hosts();
    for link in [&a.link, &b.link] {
        let s = SockRef::from(&link.socket);
        assert!(s.tcp_nodelay().unwrap() && !s.keepalive().unwrap());
        assert_eq!(s.tcp_user_timeout().unwrap(), Some(SILENCE_MAX));
        assert!(s.send_buffer_size().unwrap() >= 200 << 10);
    }
}

#[test]
fn errors_say_who_and_what_to_do() {
    let peer = "10.9.8.7:6000".parse().unwrap();
    let (a, b) = (PrivateKey::generate().unwrap().public(), PrivateKey::generate().unwrap().public());
    let source = || std::sync::Arc::new(io::Error::from(io::ErrorKind::ConnectionReset));
    let all = [
        LinkError::Unreachable { peer, source: source() },
        LinkError::WrongKey { peer, theirs: a, configured: b },
        LinkError::KeyRefused { peer, ours: a },
        LinkError::Version { peer, theirs: 2, their_ft: "2.0".into(), ours: 1 },
        LinkError::NotFt { peer, what: "x".into() },
        LinkError::HandshakeTimeout { peer, stage: Stage::Connect, seconds: 5 },
        LinkError::Closed { peer, stage: Stage::Up, orderly: false },
        LinkError::Closed { peer, stage: Stage::Handshake, orderly: false },
        LinkError::Broken { peer, stage: Stage::Up, source: source() },
        LinkError::Silent { peer, seconds: 10 },
        LinkError::Protocol { peer, what: "x".into() },
    ];
    for e in all {
        let text = e.to_string();
        assert!(text.contains("10.9.8.7:6000") && text.len() > 60, "{text}");
    }
}

/// A quick look in a debug build; numbers come from a release build.
const FRAMES: u32 = if cfg!(debug_assertions) { 640 } else { 64_000 };

/// What sealing, the wire format and opening cost, without any socket.
fn session_cost(body_bytes: usize, per_flush: u32) -> Duration {
    let (a, b) = keys();
    let (mut a, mut b) = (Session::new(Side::Connecting, &a, 1), Session::new(Side::Accepting, &b, 1));
    let carry = |from: &mut Session, to: &mut Session| {
        while !from.unsent().is_empty() {
            let n = from.unsent().len().min(to.room().unwrap().len());
            to.room().unwrap()[..n].copy_from_slice(&from.unsent()[..n]);
            from.sent(n);
            to.received(n).unwrap();
        }
    };
    a.received(0).unwrap();
    for _ in 0..4 {
        carry(&mut a, &mut b);
        carry(&mut b, &mut a);
    }
    assert!(a.is_up() && b.is_up());
    let body = vec![7; body_bytes];
    let start = Instant::now();
    let mut got = 0;
    for n in 1..=FRAMES {
        a.send(1, &body, &[]);
        if n % per_flush == 0 {
            a.seal().unwrap();
            carry(&mut a, &mut b);
            while let Some((_, body)) = b.frame().unwrap() {
                let length = body.len();
                b.take_frame(length);
                got += 1;
            }
        }
    }
    assert_eq!(got, FRAMES);
    start.elapsed() / FRAMES
}

/// One host's CPU for one frame, as the time from sending to having it, with real sockets and no waiting.
fn socket_cost(body_bytes: usize, per_flush: u32) -> Duration {
    let (mut a, mut b) = hosts();
    let body = vec![7; body_bytes];
    let start = Instant::now();
    let (mut sent, mut got) = (0, 0);
    while got < FRAMES {
        for _ in 0..per_flush.min(FRAMES - sent) {
            a.link.send(1, &body, &[]);
            sent += 1;
        }
        a.link.flush().unwrap();
        b.link.on_ready().unwrap();
        b.link
            .recv(&mut |_, _| {
                got += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    start.elapsed() / FRAMES
}

/// The bound is one that a debug build on a busy machine meets. With FT_LINK_COST the numbers go to that file.
#[test]
fn a_small_frame_costs_little() {
    let mut lines = String::new();
    for (bytes, per_flush) in [(88, 1), (88, 32), (1400, 1), (1400, 32), (60_000, 1)] {
        let (session, socket) = (session_cost(bytes, per_flush), socket_cost(bytes, per_flush));
        assert!(session < Duration::from_millis(5) && socket < Duration::from_millis(5));
        lines += &format!("{bytes} B, {per_flush} a flush: session {session:?}, with sockets {socket:?}\n");
    }
    if let Some(path) = std::env::var_os("FT_LINK_COST") {
        std::fs::write(path, lines).unwrap();
    }
}
