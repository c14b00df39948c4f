//! Many connections: all go on, soon, and none costs much while it is idle.

use crate::client::Client;
use crate::rigged::{PATIENCE, PATIENT, Rig};
use crate::{Place, number, up};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What each has moved each way before it fell idle.
const USED_BYTES: u64 = 100_000;
const IDLE_BYTES_MAX: usize = 32 << 10;
const ENGINE_BYTES_MAX: usize = 64 << 20;
const SHIM_BYTES_MAX: usize = 64 << 20;
const FEW: usize = 50;

/// What a host's processes keep in memory, in bytes.
pub struct Memory {
    pub engine: usize,
    /// With the rings that it shares with the engine, and all that the server itself needs.
    pub guest: usize,
}

impl Memory {
    pub fn of(rig: &Rig, host: &str, server: &str) -> Self {
        let text = rig.exec(host, &["sh", "-c", "grep -hE '^(Name|RssAnon|RssShmem):' /proc/[0-9]*/status"]);
        let mut memory = Self { engine: 0, guest: 0 };
        let mut name = "";
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (key, value) = (words.next().unwrap(), words.next().unwrap_or_default());
            let bytes = || value.parse::<usize>().unwrap() << 10;
            match (key, name) {
                ("Name:", _) => name = value,
                ("RssAnon:", "ft") => memory.engine = memory.engine.max(bytes()),
                (_, n) if n == server => memory.guest += bytes(),
                _ => {}
            }
        }
        assert!(memory.engine > 0 && memory.guest > 0, "{text}");
        memory
    }
}

fn use_each(all: &mut [Client]) {
    for part in all.chunks_mut(FEW) {
        for c in part.iter_mut() {
            c.say(&format!("upload {USED_BYTES}"));
            c.send(USED_BYTES);
        }
        for c in part.iter_mut() {
            assert_eq!(c.hear(), format!("uploaded {USED_BYTES}"));
            c.say(&format!("download {USED_BYTES}"));
        }
        for c in part.iter_mut() {
            c.receive(USED_BYTES);
        }
    }
}

/// All say something at once; when the last was answered.
fn ask_all(all: &mut [Client], text: &str, answer: &str) -> Duration {
    let started = Instant::now();
    for c in all.iter_mut() {
        c.say(text);
    }
    for c in all.iter_mut() {
        assert_eq!(c.hear(), answer);
    }
    started.elapsed()
}

/// FT_CONNS=n for more.
#[test]
fn a_thousand_connections_go_on() {
    let count = number("FT_CONNS", 1000);
    // Both ends of each are this machine's.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let rig = up("many", PATIENT);
    let place = Place::of(&rig, 4);
    let mut all: Vec<Client> = (0..FEW).map(|_| place.connect()).collect();
    use_each(&mut all);
    let few = ["alpha", "beta"].map(|h| Memory::of(&rig, h, "server"));
    let more = rig.at_client(|| {
        let connect = |_| TcpStream::connect_timeout(&place.main, PATIENCE).unwrap_or_else(|e| panic!("connecting: {e}"));
        (FEW..count).map(connect).collect::<Vec<_>>()
    });
    all.extend(more.into_iter().map(Client::of));
    // One in ten never says anything before the fault.
    let silent = all.len() / 10;
    use_each(&mut all[silent..]);
    for (host, few) in ["alpha", "beta"].iter().zip(few) {
        // What is acknowledged and not yet let go of is let go of within seconds.
        let end = Instant::now() + PATIENCE;
        loop {
            let many = Memory::of(&rig, host, "server");
            let each = many.guest.saturating_sub(few.guest) / (count - FEW);
            let text = format!(
                "{host}: guest {} KiB with {FEW} connections, {each} bytes more for each of {count}; engine {} KiB, then {} KiB",
                few.guest >> 10,
                few.engine >> 10,
                many.engine >> 10
            );
            if few.guest <= SHIM_BYTES_MAX && each <= IDLE_BYTES_MAX && many.engine <= ENGINE_BYTES_MAX {
                eprintln!("{text}");
                break;
            }
            assert!(Instant::now() < end, "{text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    rig.fault("alpha", "kill-host");
    let began = Instant::now();
    Client::of(rig.at_client(|| TcpStream::connect_timeout(&place.main, PATIENCE)).unwrap()).ask("echo a", "1 a");
    eprintln!("another connection was answered after {:?}", began.elapsed());
    eprintln!("all answered in {:?}", ask_all(&mut all, "echo a", "1 a"));
    let events = rig.events("beta");
    eprintln!("{events}");
    assert!(events.contains(&format!("{count} (0 half open, 0 lost)")), "{events}");
}
