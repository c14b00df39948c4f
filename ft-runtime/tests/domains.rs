//! Fork children as domains of their own: what they say to their parent, how they end, and both again in a replay.

mod fake;

use fake::{Io, Killed, Rig, Server};
use ft_log::entry::{Act, Applied, ClockSample, DIGEST_FORCED, Entry, Event, FromGuest};
use ft_log::ids::{DomainId, InputPoint, PipeId};
use ft_runtime::engine::Ended;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

const PIPE: PipeId = PipeId(5);
const CHILD: DomainId = DomainId(1);

/// A real process to stand for the child's; it ends when told.
fn process() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
}

/// What a child does with its end of the rings.
type Program = fn(Io, Child) -> Result<(), Killed>;

/// Forks at each byte "f" of a client, tells it what the child said and how it ended. One child at a time.
fn forking(program: Program, forks: Arc<AtomicU32>) -> impl FnOnce(&mut Server, SocketAddr) -> Result<(), Killed> + Send {
    move |server, address| {
        server.listen(address)?;
        let mut threads = Vec::new();
        let mut said = Vec::new();
        let mut client = None;
        while let Some(events) = server.step()? {
            for b in &events {
                let Ok(Entry::Event(e)) = Entry::decode(b) else { panic!() };
                match e {
                    Event::Data { conn, bytes: b"f" } => {
                        client = Some(conn);
                        server.consume(conn, server.conns[&conn].received)?;
                        let (child, io) = (process(), server.io.fork(CHILD.0));
                        server.io.act(Act::Fork { child: CHILD, host_pid: child.id(), guest_pid: 1001 })?;
                        forks.fetch_add(1, Ordering::SeqCst);
                        threads.push(std::thread::spawn(move || {
                            let _ = program(io, child);
                        }));
                    }
                    Event::Data { bytes: b"p", .. } => server.io.act(Act::PipeOutput { pipe: PIPE, bytes: b"down" })?,
                    Event::Data { bytes: b"k", .. } => server.io.act(Act::Kill { domain: CHILD, signo: 10 })?,
                    Event::PipeData { pipe: PIPE, bytes } => said.extend_from_slice(bytes),
                    Event::PipeClosed { pipe: PIPE } => said.push(b'|'),
                    Event::ChildExit { child: CHILD, status } => {
                        // The slot is as new before the parent hears of the end.
                        let slot = server.io.segment.domain(CHILD.0);
                        assert!(slot.to_guest.is_drained() && slot.from_guest.is_drained());
                        assert!(!slot.status.idle.is_waiting());
                        said.extend_from_slice(format!(" {status};").as_bytes());
                        server.write(client.unwrap(), &said)?;
                        said.clear();
                    }
                    _ => {}
                }
            }
        }
        for t in threads {
            t.join().unwrap();
        }
        Ok(())
    }
}

/// Result of a recorded call: ours, or the log's.
fn recorded(io: &mut Io, mine: &[u8]) -> Result<Vec<u8>, Killed> {
    if !io.follows {
        io.send(&FromGuest::Entry(Entry::Recorded { call: 39, bytes: mine }))?;
        return Ok(mine.to_vec());
    }
    let b = io.next()?;
    match Entry::decode(&b).unwrap() {
        Entry::Recorded { bytes, .. } => Ok(bytes.to_vec()),
        other => panic!("{other:?}"),
    }
}

fn end(io: &mut Io, mut child: Child, status: i32) -> Result<(), Killed> {
    io.send(&FromGuest::Entry(Entry::Exit { status, digest: 99 }))?;
    child.kill().unwrap();
    // Not reaped: as a zombie that its parent doesn't wait for yet.
    std::mem::forget(child);
    Ok(())
}

/// Says something in pieces, slowly where it follows, and ends.
fn talker(mut io: Io, child: Child) -> Result<(), Killed> {
    if io.follows {
        std::thread::sleep(Duration::from_millis(100));
    }
    io.act(Act::PipeOutput { pipe: PIPE, bytes: b"hello " })?;
    let world = recorded(&mut io, b"world")?;
    io.act(Act::PipeOutput { pipe: PIPE, bytes: &world })?;
    io.act(Act::PipeEnd { pipe: PIPE })?;
    end(&mut io, child, 7 << 8)
}

fn run(program: Program, requests: &[&[u8]], answers: &[&str]) -> (Rig, Arc<AtomicU32>) {
    let forks = Arc::new(AtomicU32::new(0));
    let rig = Rig::primary(forking(program, forks.clone()));
    let mut s = rig.connect();
    let mut answer = Vec::new();
    for (k, want) in answers.iter().enumerate() {
        for r in requests {
            let before = forks.load(Ordering::SeqCst);
            s.write_all(r).unwrap();
            while *r == b"f" && forks.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            // One byte per read of the guest, whatever TCP makes of it.
            if *r != b"f" || requests.len() > 1 {
                rig.until("request logged", |e| e.iter().filter(|e| e.starts_with("Data")).count() > k * requests.len());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        answer.resize(want.len(), 0);
        s.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), *want);
    }
    (rig, forks)
}

/// Ends the primary and follows its log with the same program.
fn follow(rig: Rig, program: Program) -> Ended {
    let (log, applied) = (rig.log.clone(), rig.applied.clone());
    assert_eq!(rig.stop().ended, Ended::Exited { status: 0, logged: true });
    let mut backup = Rig::backup(forking(program, Arc::default()), log.source());
    let outcome = backup.join().unwrap();
    assert_eq!(*backup.applied.lock().unwrap(), *applied.lock().unwrap());
    outcome.ended
}

#[test]
fn a_childs_words_and_end_reach_its_parent_in_order() {
    let want = "hello world| 1792;";
    let (rig, forks) = run(talker, &[b"f"], &[want, want, want]);
    assert_eq!(forks.load(Ordering::SeqCst), 3, "the slot is used again");
    assert_eq!(follow(rig, talker), Ended::Exited { status: 0, logged: true });
}

/// Killed from outside: its end is forced, its pipes are closed for it, and a follower's child is killed too.
#[test]
fn a_killed_childs_end_is_forced() {
    fn killed(mut io: Io, mut child: Child) -> Result<(), Killed> {
        io.act(Act::PipeOutput { pipe: PIPE, bytes: b"half" })?;
        if io.follows {
            // Waits for input that the log doesn't have, until the engine kills it.
            io.segment.domain(CHILD.0).status.idle.follow_at(0, true);
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        } else {
            child.kill().unwrap();
            std::mem::forget(child);
        }
        Ok(())
    }
    let (rig, _) = run(killed, &[b"f"], &["half| 9;", "half| 9;"]);
    assert!(rig.log.notes.lock().unwrap()[0].contains("domain 1"));
    let last = rig.log.domain(1).pop().unwrap();
    assert_eq!(Entry::decode(&last), Ok(Entry::Exit { status: 9, digest: DIGEST_FORCED }));
    assert_eq!(follow(rig, killed), Ended::Exited { status: 0, logged: true });
}

/// Down the pipe and by signal: a child has input points of its own.
#[test]
fn a_parents_words_and_signals_reach_the_child() {
    fn listener(mut io: Io, child: Child) -> Result<(), Killed> {
        let mut heard = Vec::new();
        while heard.len() < 5 {
            for b in io.input_point()? {
                match Entry::decode(&b).unwrap() {
                    Entry::Event(Event::PipeData { pipe: PIPE, bytes }) => heard.extend_from_slice(bytes),
                    Entry::Event(Event::Signal { signo }) => heard.push(b'0' + signo),
                    other => panic!("{other:?}"),
                }
            }
        }
        heard.sort_unstable();
        io.act(Act::PipeOutput { pipe: PIPE, bytes: &heard })?;
        end(&mut io, child, 0)
    }
    let (rig, _) = run(listener, &[b"f", b"p", b"k"], &[":dnow| 0;", ":dnow| 0;"]);
    assert_eq!(follow(rig, listener), Ended::Exited { status: 0, logged: true });
}

/// A follower's child that ends differently is a divergence of that domain.
#[test]
fn a_child_that_ends_differently_diverges() {
    fn other(mut io: Io, child: Child) -> Result<(), Killed> {
        let status = if io.follows { 1 << 8 } else { 0 };
        io.act(Act::PipeOutput { pipe: PIPE, bytes: b"x" })?;
        end(&mut io, child, status)
    }
    let (rig, _) = run(other, &[b"f"], &["x| 0;"]);
    let log = rig.log.clone();
    rig.stop();
    let mut backup = Rig::backup(forking(other, Arc::default()), log.source());
    let ended = backup.join().unwrap().ended;
    assert!(matches!(&ended, Ended::Diverged(t) if t.domain() == 1), "{ended:?}");
}

/// A domain's entries far behind another's in the log don't stop it: each reads at its own pace.
#[test]
fn a_domain_far_behind_in_the_log_is_fed() {
    let applied = |point, events| {
        let clock = ClockSample::default();
        Entry::Applied(Applied { point: InputPoint(point), events, clock, digest: 0, signals: 0 })
    };
    let encode = |e: &Entry| {
        let mut head = [0; 128];
        let mut w = ft_log::codec::Writer::new(&mut head);
        let payload = e.encode(&mut w);
        let n = w.len();
        [&head[..n], payload].concat()
    };
    let path = std::env::temp_dir().join(format!("ft-domains-{}", std::process::id()));
    let header = ft_runtime::logfile::Header {
        ft_version: String::new(),
        program: ft_runtime::logfile::OsText("/x".into()),
        program_sha256: String::new(),
        argv: vec![],
        env: vec![],
        cwd: ft_runtime::logfile::OsText("/".into()),
        umask: 0,
        seed: 0,
        at_random: String::new(),
        memory_every: 0,
        memory_slices: false,
        kernel_release: String::new(),
        state_dirs: vec![],
        segment: None,
        stdout: Default::default(),
        stderr: Default::default(),
    };
    let mut w = ft_runtime::logfile::LogWriter::create(&path, &header, |_, _| Ok(())).unwrap();
    const MANY: u64 = 50_000;
    let signal = Entry::Event(Event::Signal { signo: 1 });
    for k in 1..=MANY {
        w.append(DomainId(0), &encode(&signal), &[]).unwrap();
        w.append(DomainId(0), &encode(&applied(k, 1)), &[]).unwrap();
    }
    w.append(CHILD, &encode(&signal), &[]).unwrap();
    w.append(CHILD, &encode(&applied(1, 1)), &[]).unwrap();
    w.finish(ft_runtime::logfile::End::Stopped).unwrap();
    let recording = ft_runtime::logfile::Recording::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut cursors = recording.cursors();
    let mut by_domain = HashMap::new();
    let child_first = cursors.next(CHILD).unwrap().unwrap();
    assert_eq!(child_first, encode(&signal));
    for d in [DomainId(0), CHILD] {
        let mut n = 0u64;
        while cursors.next(d).unwrap().is_some() {
            n += 1;
        }
        by_domain.insert(d, n);
    }
    assert_eq!(by_domain, HashMap::from([(DomainId(0), 2 * MANY), (CHILD, 1)]));
}
