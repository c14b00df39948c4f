//! `ft witness` as hosts see it: over loopback, through restarts, kills and people who don't have the key.

use ft_log::ids::Term;
use ft_runtime::failover::arbiter::witness::client::{Tcp, WitnessClient};
use ft_runtime::failover::arbiter::witness::seal::{Key, Seal};
use ft_runtime::failover::arbiter::witness::wire::{self, ServiceName};
use ft_runtime::failover::arbiter::{Arbiter, Ask, Keeper, KeeperError, Told};
use ft_runtime::failover::book::{Answer, RequestId};
use ft_runtime::failover::record::{HostId, Phase, Record, Ruling, Version};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SECRET: &str = "a secret of more than sixteen bytes";
/// Long enough for a slow disk; nothing waits for it to pass.
const LONG: Duration = Duration::from_secs(20);

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ft-witness-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        let place = Self(path);
        place.write_key(0o600);
        place
    }

    fn write_key(&self, mode: u32) {
        fs::write(self.0.join("key"), format!("{SECRET}\n")).unwrap();
        fs::set_permissions(self.0.join("key"), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn command(&self, listen: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
        c.args(["witness", "--listen", listen, "--state"]).arg(self.0.join("state"));
        c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    /// A witness that listens already.
    fn start(&self, listen: &str) -> Witness {
        let mut child = self.command(listen).arg("--key").arg(self.0.join("key")).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let Ok(told) = serde_json::from_str::<serde_json::Value>(&line) else {
            let mut why = String::new();
            let _ = child.kill();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("the witness said {line:?}; {why}");
        };
        Witness { child, address: told["listening"].as_str().unwrap().parse().unwrap() }
    }

    /// What it says when it will not run.
    fn refusal(&self, more: &[&str]) -> String {
        let out = self.command("127.0.0.1:0").args(more).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Witness {
    child: Child,
    address: SocketAddr,
}

impl Witness {
    /// SIGKILL, and gone when this returns.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client(address: SocketAddr, service: &str, secret: &str) -> WitnessClient<Tcp> {
    let seal = Seal::Key(Key::from_secret(secret.as_bytes()));
    WitnessClient::new(Tcp(address), ServiceName::new(service).unwrap(), seal)
}

fn ask(client: &mut WitnessClient<Tcp>, ask: Ask) -> Told {
    client.ask(&ask, Instant::now() + LONG).unwrap()
}

fn put(expect: u64, term: u64, host: u64) -> Ask {
    Ask::Put { expect: Version(expect), ruling: Ruling::alone(Term(term), HostId(host), Phase::Claim) }
}

#[test]
fn of_two_hosts_that_claim_one_is_granted() {
    let place = Place::new("two-hosts");
    let witness = place.start("127.0.0.1:0");
    let (mut a, mut b) = (client(witness.address, "redis", SECRET), client(witness.address, "redis", SECRET));
    assert_eq!(ask(&mut a, Ask::Read), Told::Current(None));
    let Told::Granted(record) = ask(&mut a, put(0, 1, 1)) else { panic!("the first claim is granted") };
    assert_eq!(ask(&mut b, put(0, 1, 2)), Told::Lost(Some(record)));
    assert_eq!(ask(&mut b, Ask::Read), Told::Current(Some(record)));
    assert_eq!(ask(&mut client(witness.address, "other", SECRET), Ask::Read), Told::Current(None));
}

#[test]
fn the_engines_loop_gets_answers_as_events() {
    let place = Place::new("loop");
    let witness = place.start("127.0.0.1:0");
    let mut arbiter = Arbiter::start(client(witness.address, "redis", SECRET), LONG).unwrap();
    let answer = |arbiter: &mut Arbiter, request: u64, ask: Ask| {
        arbiter.ask(RequestId(request), ask, Instant::now());
        let mut fds = [PollFd::new(arbiter.fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)), Ok(1));
        let answers = arbiter.answers(Instant::now());
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].0, RequestId(request));
        answers[0].1
    };
    assert_eq!(answer(&mut arbiter, 1, Ask::Read), Answer::Current(None));
    assert!(matches!(answer(&mut arbiter, 2, put(0, 1, 1)), Answer::Granted(r) if r.version == Version(1)));
    let address = witness.address;
    witness.kill();
    assert!(
        matches!(answer(&mut arbiter, 3, Ask::Read), Answer::Unreachable | Answer::TimedOut),
        "a dead witness is no answer"
    );
    let _again = place.start(&address.to_string());
    assert!(matches!(answer(&mut arbiter, 4, Ask::Read), Answer::Current(Some(r)) if r.version == Version(1)));
}

#[test]
fn a_connection_that_died_while_idle_is_replaced_within_the_request() {
    let place = Place::new("idle");
    let witness = place.start("127.0.0.1:0");
    let address = witness.address;
    let mut a = client(address, "redis", SECRET);
    let Told::Granted(record) = ask(&mut a, put(0, 1, 1)) else { panic!("granted") };
    witness.kill();
    let _again = place.start(&address.to_string());
    assert_eq!(ask(&mut a, Ask::Read), Told::Current(Some(record)));
}

#[test]
fn another_key_changes_nothing() {
    let place = Place::new("key");
    let witness = place.start("127.0.0.1:0");
    let mut stranger = client(witness.address, "redis", "a secret of more than sixteen byteZ");
    let e = stranger.ask(&put(0, 1, 2), Instant::now() + LONG).unwrap_err();
    assert!(matches!(e, KeeperError::Unknown(_)), "{e}");
    assert_eq!(ask(&mut client(witness.address, "redis", SECRET), Ask::Read), Told::Current(None));
}

#[test]
fn what_was_recorded_says_nothing_the_second_time() {
    let place = Place::new("replayed");
    let witness = place.start("127.0.0.1:0");
    let seal = Seal::Key(Key::from_secret(SECRET.as_bytes()));
    let open = || {
        let mut stream = TcpStream::connect(witness.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut greeting = [0; wire::GREETING_BYTES];
        stream.read_exact(&mut greeting).unwrap();
        (stream, wire::read_greeting(&greeting).unwrap())
    };
    let (mut stream, nonce) = open();
    let service = ServiceName::new("redis").unwrap();
    let body = wire::Request { service, id: 1, ask: put(0, 1, 1) }.encode();
    let tag = wire::seal_request(&seal, &nonce, &body);
    wire::write_frame(&mut stream, &body, &tag).unwrap();
    assert!(wire::read_frame(&mut stream).is_ok());
    // On the same connection, and on another one.
    wire::write_frame(&mut stream, &body, &tag).unwrap();
    assert!(wire::read_frame(&mut stream).is_err(), "it hangs up");
    let (mut stream, _) = open();
    wire::write_frame(&mut stream, &body, &tag).unwrap();
    assert!(wire::read_frame(&mut stream).is_err(), "it hangs up");
}

#[test]
fn nonsense_costs_one_connection() {
    let place = Place::new("nonsense");
    let witness = place.start("127.0.0.1:0");
    let mut garbage = TcpStream::connect(witness.address).unwrap();
    garbage.set_read_timeout(Some(LONG)).unwrap();
    garbage.write_all(&[0xff; 64]).unwrap();
    let mut said = Vec::new();
    // Its greeting, then the end (a reset, where the rest was not read).
    let _ = garbage.read_to_end(&mut said);
    assert_eq!(said.len(), wire::GREETING_BYTES);
    assert_eq!(ask(&mut client(witness.address, "redis", SECRET), Ask::Read), Told::Current(None));
}

#[test]
fn it_says_why_it_will_not_run() {
    let place = Place::new("refusals");
    assert!(place.refusal(&[]).contains("--key"), "without a key");
    let key = place.0.join("key");
    let key = key.to_str().unwrap();
    place.write_key(0o644);
    assert!(place.refusal(&["--key", key]).contains("chmod 600"), "with a key that all can read");
    place.write_key(0o600);
    fs::write(place.0.join("state"), r#"{"format":7}"#).unwrap();
    assert!(place.refusal(&["--key", key]).contains("has format 7"));
    fs::remove_file(place.0.join("state")).unwrap();
    let _first = place.start("127.0.0.1:0");
    assert!(place.refusal(&["--key", key]).contains("in use by another witness"));
}

/// The story: a witness that granted, was killed, and came back not knowing would grant the same again.
#[test]
fn kill_9_loses_nothing_that_was_granted() {
    const KILLS: u64 = 25;
    const HOSTS: u64 = 2;
    let place = Place::new("kill-9");
    let mut witness = place.start("127.0.0.1:0");
    let address = witness.address;
    let done = AtomicBool::new(false);
    let granted = AtomicU64::new(0);

    let host = |id: u64| {
        let mut client = client(address, "redis", SECRET);
        let mut won: Vec<Record> = Vec::new();
        let mut known = 0;
        while !done.load(Ordering::Relaxed) {
            // The term tells every put of every host from all others.
            let attempt = put(known, known * HOSTS + id, id);
            match client.ask(&attempt, Instant::now() + Duration::from_secs(2)) {
                Ok(Told::Granted(record)) => {
                    granted.fetch_add(1, Ordering::Relaxed);
                    known = record.version.0;
                    won.push(record);
                }
                Ok(Told::Lost(record)) => {
                    let record = record.expect("once there is a record it stays");
                    assert!(record.version.0 >= known, "it went back from {known} to {record:?}");
                    let own = matches!(attempt, Ask::Put { ruling, .. } if ruling == record.ruling);
                    if own {
                        // Done before the kill, told after it.
                        won.push(record);
                    }
                    known = record.version.0;
                }
                Ok(Told::Current(_)) => unreachable!("nothing was read"),
                // Killed: what became of the put is told by the next one.
                Err(_) => thread::yield_now(),
            }
        }
        won
    };
    let (won, _witness) = thread::scope(|s| {
        let hosts: Vec<_> = (1..=HOSTS).map(|id| s.spawn(move || host(id))).collect();
        let mut state = 7u64;
        for _ in 0..KILLS {
            // At least one grant in each life, and then any point of the next ones.
            let before = granted.load(Ordering::Relaxed);
            let patience = Instant::now() + LONG;
            while granted.load(Ordering::Relaxed) == before {
                assert!(Instant::now() < patience, "nothing is granted any more");
                thread::yield_now();
            }
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let more = Instant::now() + Duration::from_micros(state >> 52);
            while Instant::now() < more {
                std::hint::spin_loop();
            }
            witness.kill();
            witness = place.start(&address.to_string());
        }
        done.store(true, Ordering::Relaxed);
        (hosts.into_iter().flat_map(|h| h.join().unwrap()).collect::<Vec<_>>(), witness)
    });
    let mut versions: Vec<_> = won.iter().map(|r| r.version.0).collect();
    versions.sort_unstable();
    let count = versions.len();
    versions.dedup();
    assert_eq!(versions.len(), count, "a version was granted twice");
    let Told::Current(Some(last)) = ask(&mut client(address, "redis", SECRET), Ask::Read) else {
        panic!("there is a record")
    };
    assert!(last.version.0 >= *versions.last().unwrap(), "what was granted is there");
    assert!(count as u64 >= KILLS, "{count} grants");
}
