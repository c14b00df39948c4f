//! The engine's real sockets against real clients on loopback and a guest that is a thread.

mod fake;

use fake::{MemoryLog, PATIENCE, Rig, Server, echo};
use ft_log::entry::{Act, Entry, Event, TX_WINDOW_BYTES};
use ft_log::ids::{ConnId, ListenerId};
use ft_runtime::engine::Ended;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn pattern(n: usize, salt: u64) -> Vec<u8> {
    (0..n as u64).map(|k| (k.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 7) as u8).collect()
}

fn roundtrip(s: &mut TcpStream, bytes: &[u8]) {
    s.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    s.read_exact(&mut back).unwrap();
    assert!(back == bytes);
}

#[test]
fn echo_small_and_large() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    for k in 0..2000usize {
        roundtrip(&mut s, &pattern(1 + k % 50, k as u64));
    }
    // Larger than every window: a thread writes while we read.
    let big = pattern(8 << 20, 1);
    let sent = big.clone();
    let mut w = s.try_clone().unwrap();
    let writer = std::thread::spawn(move || w.write_all(&sent).unwrap());
    let mut back = vec![0; big.len()];
    s.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == big);
    drop(s);
    let outcome = rig.stop();
    assert_eq!(outcome.ended, Ended::Exited { status: 0, logged: true });
    assert_eq!(outcome.stats.input_bytes, outcome.stats.output_bytes);
    assert_eq!(outcome.stats.connections, 1);
}

#[test]
fn a_thousand_connections_at_once() {
    let rig = Rig::primary(echo);
    let mut all: Vec<TcpStream> = (0..1000).map(|_| rig.connect()).collect();
    for round in 0..3u64 {
        for (k, s) in all.iter_mut().enumerate() {
            s.write_all(&pattern(100, k as u64 + round)).unwrap();
        }
        for (k, s) in all.iter_mut().enumerate() {
            let mut b = [0; 100];
            s.read_exact(&mut b).unwrap();
            assert!(b[..] == pattern(100, k as u64 + round)[..]);
        }
    }
    assert_eq!(rig.stop().stats.connections, 1000);
    for s in &mut all {
        assert_eq!(s.read(&mut [0]).unwrap(), 0, "the guest's end closes its connections");
    }
}

#[test]
fn half_close_is_answered_in_full() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    let bytes = pattern(200_000, 3);
    s.write_all(&bytes).unwrap();
    s.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    s.read_to_end(&mut back).unwrap();
    assert!(back == bytes);
    rig.stop();
}

#[test]
fn a_clients_reset_reaches_the_guest_once() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    roundtrip(&mut s, b"hello");
    socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO)).unwrap();
    drop(s);
    rig.until("reset", |e| e.iter().any(|e| e.contains("Reset")));
    let log = rig.log.clone();
    // The guest's own close of it is no error.
    let mut other = rig.connect();
    roundtrip(&mut other, b"still there");
    rig.stop();
    let resets: Vec<_> = log.events(0).into_iter().filter(|e| e.contains("Reset")).collect();
    assert_eq!(resets, [format!("Reset {{ conn: ConnId(1), errno: {} }}", libc::ECONNRESET)]);
}

#[test]
fn a_clients_orderly_close_is_one_fin() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    roundtrip(&mut s, b"x");
    drop(s);
    rig.until("fin", |e| e.iter().any(|e| e.starts_with("Fin")));
    let log = rig.log.clone();
    rig.stop();
    assert_eq!(log.events(0).iter().filter(|e| e.starts_with("Fin")).count(), 1);
    assert!(!log.events(0).iter().any(|e| e.contains("Reset")));
}

/// On accept sends so much, then shuts down; closes at the client's FIN.
fn pour(bytes: usize) -> impl FnOnce(&mut Server, SocketAddr) -> Result<(), fake::Killed> + Send + 'static {
    move |server, address| {
        server.listen(address)?;
        while let Some(events) = server.step()? {
            for b in &events {
                match Entry::decode(b) {
                    Ok(Entry::Event(Event::Accept { conn, .. })) => {
                        server.write(conn, &pattern(bytes, 9))?;
                        server.shutdown(conn)?;
                    }
                    Ok(Entry::Event(Event::Fin { conn })) => server.close(conn)?,
                    _ => {}
                }
            }
            for c in server.conns.values() {
                assert!(c.unacked_max <= TX_WINDOW_BYTES);
            }
        }
        Ok(())
    }
}

#[test]
fn a_slow_reader_gets_everything_and_bounds_the_guest() {
    const BYTES: usize = 4 << 20;
    let rig = Rig::primary(pour(BYTES));
    let mut s = rig.connect();
    socket2::SockRef::from(&s).set_recv_buffer_size(32 << 10).unwrap();
    let mut got = Vec::new();
    let mut b = vec![0; 40_000];
    loop {
        let n = s.read(&mut b).unwrap();
        if n == 0 {
            break;
        }
        got.extend_from_slice(&b[..n]);
        if got.len() < 1 << 20 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(got == pattern(BYTES, 9));
    drop(s);
    let log = rig.log.clone();
    rig.until("fin", |e| e.iter().any(|e| e.starts_with("Fin")));
    rig.stop();
    let acks = log.events(0).iter().filter(|e| e.starts_with("Acked")).count();
    assert!((3..2000).contains(&acks), "{acks} acknowledgements logged");
}

#[test]
fn small_answers_log_no_acknowledgements() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    for _ in 0..500 {
        roundtrip(&mut s, &[7; 100]);
    }
    let log = rig.log.clone();
    rig.stop();
    assert!(!log.events(0).iter().any(|e| e.starts_with("Acked")));
}

#[test]
fn a_slow_guest_closes_the_window_and_loses_nothing() {
    const BYTES: usize = 4 << 20;
    let total = Arc::new(Mutex::new(Vec::new()));
    let seen = total.clone();
    let rig = Rig::primary(move |server, address| {
        server.listen(address)?;
        // Reads only when its buffer is full or the client is done: `step` asserts the window.
        while let Some(events) = server.step()? {
            for b in &events {
                if let Ok(Entry::Event(Event::Data { bytes, .. })) = Entry::decode(b) {
                    seen.lock().unwrap().extend_from_slice(bytes);
                }
                let conns: Vec<ConnId> = server.conns.keys().copied().collect();
                for conn in conns {
                    let c = &server.conns[&conn];
                    if c.received - c.consumed > 200_000 {
                        let upto = c.received - 1000;
                        server.consume(conn, upto)?;
                    }
                }
                if let Ok(Entry::Event(Event::Fin { conn })) = Entry::decode(b) {
                    server.close(conn)?;
                }
            }
        }
        Ok(())
    });
    let mut s = rig.connect();
    s.write_all(&pattern(BYTES, 4)).unwrap();
    s.shutdown(Shutdown::Write).unwrap();
    assert_eq!(s.read(&mut [0]).unwrap(), 0);
    rig.stop();
    assert!(*total.lock().unwrap() == pattern(BYTES, 4));
}

/// Accepts, answers the first byte with so much, and closes at once.
fn answer_and_close(bytes: usize, reset: bool) -> impl FnOnce(&mut Server, SocketAddr) -> Result<(), fake::Killed> + Send + 'static {
    move |server, address| {
        server.listen(address)?;
        while let Some(events) = server.step()? {
            for b in &events {
                if let Ok(Entry::Event(Event::Data { conn, .. })) = Entry::decode(b)
                    && let Some(c) = server.conns.get(&conn)
                {
                    let upto = c.received;
                    server.consume(conn, upto)?;
                    server.write(conn, &pattern(bytes, 5))?;
                    if reset { server.reset(conn)? } else { server.close(conn)? }
                }
            }
        }
        Ok(())
    }
}

#[test]
fn close_after_a_large_answer_delivers_all_of_it() {
    const BYTES: usize = TX_WINDOW_BYTES as usize;
    let rig = Rig::primary(answer_and_close(BYTES, false));
    let mut s = rig.connect();
    socket2::SockRef::from(&s).set_recv_buffer_size(16 << 10).unwrap();
    s.write_all(b"?").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut got = Vec::new();
    s.read_to_end(&mut got).unwrap();
    assert!(got == pattern(BYTES, 5));
    rig.stop();
}

#[test]
fn the_guests_end_delivers_what_it_had_said() {
    const BYTES: usize = TX_WINDOW_BYTES as usize;
    let rig = Rig::primary(move |server, address| {
        server.listen(address)?;
        while let Some(events) = server.step()? {
            for b in &events {
                if let Ok(Entry::Event(Event::Data { conn, .. })) = Entry::decode(b) {
                    server.write(conn, &pattern(BYTES, 6))?;
                    return server.io.exit(3 << 8);
                }
            }
        }
        Ok(())
    });
    let mut s = rig.connect();
    s.write_all(b"?").unwrap();
    let mut got = Vec::new();
    s.read_to_end(&mut got).unwrap();
    assert!(got == pattern(BYTES, 6));
    let mut rig = rig;
    assert_eq!(rig.join().unwrap().ended, Ended::Exited { status: 3 << 8, logged: true });
}

#[test]
fn a_guests_reset_is_a_reset() {
    let rig = Rig::primary(answer_and_close(0, true));
    let mut s = rig.connect();
    s.write_all(b"?").unwrap();
    assert_eq!(s.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    rig.stop();
}

#[test]
fn data_after_the_guests_close_draws_a_reset() {
    let rig = Rig::primary(answer_and_close(10, false));
    let mut s = rig.connect();
    s.write_all(b"?").unwrap();
    let mut got = Vec::new();
    s.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 10);
    let start = Instant::now();
    let error = loop {
        assert!(start.elapsed() < PATIENCE, "the kernel never answered by a reset");
        if let Err(e) = s.write_all(b"more") {
            break e;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    rig.stop();
}

#[test]
fn an_address_in_use_is_the_guests_to_know() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let mut rig = Rig::primary(move |server, free| {
        let bind = |n, address| Act::Bind { listener: ListenerId(n), address, v6only: false, freebind: false };
        let mut ask = |a| server.io.ask(a).map(|r| tell.send(r).unwrap());
        ask(bind(1, address))?;
        ask(bind(2, free))?;
        ask(Act::Listen { listener: ListenerId(2), address: free, backlog: 5, v6only: false })?;
        ask(Act::Listen { listener: ListenerId(3), address, backlog: 5, v6only: false })?;
        server.io.exit(0)
    });
    assert_eq!(rig.join().unwrap().ended, Ended::Exited { status: 0, logged: true });
    let in_use = -i64::from(libc::EADDRINUSE);
    assert_eq!(told.iter().collect::<Vec<_>>(), [in_use, rig.address.port().into(), 0, in_use]);
}

#[test]
fn a_killed_guest_is_told_from_one_that_ended() {
    let mut rig = Rig::primary(echo);
    let mut s = rig.connect();
    roundtrip(&mut s, b"x");
    fake_kill(&rig);
    assert_eq!(rig.join().unwrap().ended, Ended::Exited { status: libc::SIGKILL, logged: false });
    assert_eq!(s.read(&mut [0]).unwrap(), 0);
    assert!(rig.log.notes.lock().unwrap()[0].contains("forced exit"));
}

fn fake_kill(rig: &Rig) {
    use ft_runtime::engine::process::Process;
    rig.process.kill();
}

#[test]
fn a_guest_that_overruns_its_window_is_ended() {
    let mut rig = Rig::primary(|server, address| {
        server.listen(address)?;
        while let Some(events) = server.step()? {
            for b in &events {
                if let Ok(Entry::Event(Event::Accept { conn, .. })) = Entry::decode(b) {
                    // More than the client's kernel takes, acknowledged or not: it never reads.
                    server.conns.remove(&conn);
                    for _ in 0..4096 {
                        server.io.act(Act::Output { conn, bytes: &[0; 65536] })?;
                    }
                }
            }
        }
        Ok(())
    });
    let _s = rig.connect();
    let text = rig.join().unwrap_err().to_string();
    assert!(text.contains("beyond its window"), "{text}");
}

/// The output rule: what depends on an uncommitted log stays, FIN and close included.
#[test]
fn nothing_leaves_before_the_log_is_committed() {
    let log = MemoryLog::default();
    let rig = Rig::with_log(echo, log.clone());
    let mut s = rig.connect();
    roundtrip(&mut s, b"committed at once");
    log.hold.store(true, Ordering::SeqCst);
    s.write_all(b"held").unwrap();
    s.shutdown(Shutdown::Write).unwrap();
    rig.until("fin", |e| e.iter().any(|e| e.starts_with("Fin")));
    s.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = s.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "a byte or FIN escaped the output rule");
    log.hold.store(false, Ordering::SeqCst);
    s.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    s.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"held");
    rig.stop();
}

/// While a guest waits, the log has what it will apply before it wakes; then it does just that.
#[test]
fn what_a_waiting_guest_will_apply_is_logged_ahead() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    roundtrip(&mut s, b"awake");
    rig.process.lull.store(true, Ordering::SeqCst);
    rig.until("the guest sleeps", |_| rig.process.sleeps.load(Ordering::SeqCst));
    let heard = rig.applied.lock().unwrap().len();
    let last = |rig: &Rig| Entry::decode(rig.log.domain(0).last().unwrap()).is_ok_and(|e| matches!(e, Entry::Applied(_)));
    s.write_all(b"claimed").unwrap();
    rig.until("the claim", |e| e.last().unwrap().contains("[99, 108, 97") && last(&rig));
    s.write_all(b" and later").unwrap();
    rig.until("what comes later", |e| e.last().unwrap().contains("[32, 97, 110"));
    // Its point is taken: the rest is the guest's to apply.
    rig.until("nothing", |_| !last(&rig));
    assert_eq!(rig.applied.lock().unwrap().len(), heard, "it still sleeps");
    rig.process.lull.store(false, Ordering::SeqCst);
    let mut got = [0; 17];
    s.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"claimed and later");
    let (log, applied) = (rig.log.clone(), rig.applied.clone());
    rig.stop();
    let mut backup = Rig::backup(echo, log.source());
    assert_eq!(backup.join().unwrap().ended, Ended::Exited { status: 0, logged: true });
    assert_eq!(*backup.applied.lock().unwrap(), *applied.lock().unwrap());
}

/// What was recorded is applied by a guest that follows, event by event at the same points.
#[test]
fn a_following_guest_applies_the_same() {
    let rig = Rig::primary(echo);
    let mut conns: Vec<TcpStream> = (0..20).map(|_| rig.connect()).collect();
    for round in 0..30u64 {
        for (k, s) in conns.iter_mut().enumerate() {
            s.write_all(&pattern(1 + (k * 37 + round as usize * 11) % 3000, round)).unwrap();
        }
        for (k, s) in conns.iter_mut().enumerate() {
            s.read_exact(&mut vec![0; 1 + (k * 37 + round as usize * 11) % 3000]).unwrap();
        }
    }
    drop(conns);
    rig.until("all fins", |e| e.iter().filter(|e| e.starts_with("Fin")).count() == 20);
    let (log, applied) = (rig.log.clone(), rig.applied.clone());
    let primary = rig.stop();
    assert_eq!(primary.ended, Ended::Exited { status: 0, logged: true });

    let mut backup = Rig::backup(echo, log.source());
    let followed = backup.join().unwrap();
    assert_eq!(followed.ended, Ended::Exited { status: 0, logged: true });
    assert_eq!(*backup.applied.lock().unwrap(), *applied.lock().unwrap());
    assert_eq!(
        (followed.stats.entries, followed.stats.input_bytes, followed.stats.output_bytes, followed.stats.points),
        (primary.stats.entries, primary.stats.input_bytes, primary.stats.output_bytes, primary.stats.points)
    );
}

#[test]
fn a_guest_at_the_logs_end_is_found_waiting() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    for _ in 0..100 {
        roundtrip(&mut s, b"abc");
    }
    let log = rig.log.clone();
    rig.stop();
    let mut source = log.source();
    // Without the signal's Applied and the Exit: as if the recorder had been stopped.
    source.0.values_mut().for_each(|q| q.truncate(q.len() - 3));
    let mut backup = Rig::backup(echo, source);
    assert_eq!(backup.join().unwrap().ended, Ended::LogEnd);
    assert!(backup.process.killed.load(Ordering::SeqCst));
}

#[test]
fn another_end_than_the_logs_is_divergence() {
    let rig = Rig::primary(echo);
    let mut s = rig.connect();
    roundtrip(&mut s, b"abc");
    let log = rig.log.clone();
    rig.stop();
    let mut backup = Rig::backup(
        |server, address| {
            server.listen(address)?;
            while server.step()?.is_some() {}
            Ok(())
        },
        {
            let mut s = log.source();
            let q = s.0.get_mut(&ft_log::ids::DomainId(0)).unwrap();
            let last = q.back_mut().unwrap();
            let Ok(Entry::Exit { digest, .. }) = Entry::decode(last) else { panic!() };
            let mut head = [0; 128];
            let mut w = ft_log::codec::Writer::new(&mut head);
            Entry::Exit { status: 0, digest: digest + 1 }.encode(&mut w);
            let n = w.len();
            *last = head[..n].to_vec();
            s
        },
    );
    let ended = backup.join().unwrap().ended;
    assert!(matches!(&ended, Ended::Diverged(t) if t.what.contains("digest")), "{ended:?}");
}
