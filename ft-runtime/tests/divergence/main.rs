//! Two hosts that do different things: it is noticed, told with what was expected and what came, and healed; nothing that clients
//! were told is lost.

#[path = "../rigged/mod.rs"]
mod rigged;

use rigged::{PATIENT, Rig};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// 100 MB of idle memory are compared within a minute.
const SLICES_MAX: Duration = Duration::from_secs(90);
/// What flips: it stands nowhere else.
const MARK: &str = "the-value-that-flips-a-bit";
const FLIPPED: &str = "uhe-value-that-flips-a-bit";

struct Client(BufReader<TcpStream>);

impl Client {
    fn of(rig: &Rig, port: u16) -> Self {
        let address = format!("{}:{port}", rig.address);
        let stream = rig.at_client(|| TcpStream::connect(&address).unwrap());
        stream.set_read_timeout(Some(rigged::PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, request: &str) -> String {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

fn redis(name: &str, config: &str) -> (Rig, Client) {
    let server = ["redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/var/lib/redis"];
    let rig = Rig::up(name, &format!("{PATIENT}{config}"), &[], &server);
    let mut client = Client::of(&rig, 6379);
    assert_eq!(client.ask(&format!("SET marked {MARK}")), "+OK");
    // Buffers of the connection hold other things now.
    assert_eq!(client.ask(&format!("SET other {}", "x".repeat(300))), "+OK");
    (rig, client)
}

/// The directory holds the program.
fn odd(name: &str) -> (Rig, Client, tempfile::TempDir) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/divergence/odd.c"), dir.path().join("odd"));
    let made = Command::new("gcc").args(["-O1", "-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-uninitialized", "-o"]).args([&to, &from]).output();
    let made = made.expect("gcc: scripts/setup");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let options = ["--port", "7000", "--state", "/var/lib/odd"];
    let rig = Rig::up(name, PATIENT, &options, &[to.to_str().unwrap(), "7000", "/var/lib/odd/file"]);
    let client = Client::of(&rig, 7000);
    (rig, client, dir)
}

/// The host says that they diverged: the whole event.
fn said(rig: &Rig, host: &str) -> Option<String> {
    rig.events(host).lines().find(|l| l.contains("diverged: ")).map(str::to_owned)
}

/// What that host's report says.
fn report(rig: &Rig, host: &str) -> String {
    let event = said(rig, host).unwrap();
    let file = event.rsplit("report in ").next().unwrap().trim().to_owned();
    rig.exec(host, &["cat", &file])
}

fn wait_until_said(rig: &Rig, max: Duration) {
    let end = Instant::now() + max;
    while said(rig, "alpha").is_none() {
        assert!(Instant::now() < end, "no divergence: {}", rig.events("alpha"));
        std::thread::sleep(Duration::from_millis(20)); // only how often is looked
    }
}

fn expect_whole(rig: &Rig) {
    rig.wait_until(|r| {
        assert_eq!(r.primaries(), ["alpha"]);
        ["alpha", "beta"].iter().all(|h| r.state(h) == "protected")
    });
}

fn flip(rig: &Rig, host: &str) {
    let o = rig.ft("fault").args([host, "flip-bit", "--text", MARK]).output().unwrap();
    assert!(o.status.success(), "{o:?}");
}

fn expect_all(text: &str, parts: &[&str]) {
    for p in parts {
        assert!(text.contains(p), "{p:?} in\n{text}");
    }
}

#[test]
fn a_bit_that_flips_in_the_backups_memory_is_told_with_its_bytes_and_the_backup_is_replaced() {
    let (rig, mut client) = redis("flip-backup", "[monitor]\nmemory_every = 0\n");
    flip(&rig, "beta");
    assert_eq!((client.ask("GET marked"), client.line()), (format!("${}", MARK.len()), MARK.into()));
    wait_until_said(&rig, rigged::PATIENCE);
    let event = said(&rig, "alpha").unwrap();
    expect_all(&event, &["first different: write", FLIPPED, "expected write", MARK]);
    let text = report(&rig, "alpha");
    expect_all(&text, &["the first call that differs", "expected (primary)", "got (backup)", MARK, FLIPPED, "\n! "]);
    // Where the guest stood, and the log around it.
    expect_all(&text, &["the guest's stack here, thread 0", "libc.so.6", "redis-", "the log around it", "GET marked"]);
    expect_all(&report(&rig, "beta"), &[FLIPPED, "the host that followed"]);
    expect_whole(&rig);
    // What it was given is right: it serves when the primary is lost.
    rig.fault("alpha", "kill-host");
    assert_eq!((client.ask("GET marked"), client.line()), (format!("${}", MARK.len()), MARK.into()));
}

#[test]
fn a_bit_that_flips_where_nobody_looks_is_found_by_comparing_memory() {
    let (rig, mut client) = redis("flip-idle", "");
    flip(&rig, "beta");
    wait_until_said(&rig, SLICES_MAX);
    let text = report(&rig, "alpha");
    let different = |l: &&str| l.contains("bytes differ") && l.contains("expected 74") && l.contains("got 75");
    expect_all(&text, &["pages of memory differ", "no call differs"]);
    assert!(text.lines().any(|l| different(&l)), "{text}");
    expect_whole(&rig);
    assert_eq!((client.ask("GET marked"), client.line()), (format!("${}", MARK.len()), MARK.into()));
}

#[test]
fn a_bit_that_flips_in_the_primarys_memory_is_told_too() {
    let (rig, mut client) = redis("flip-primary", "[monitor]\nmemory_every = 0\n");
    flip(&rig, "alpha");
    // The primary's word counts: nobody knows that it is the wrong one.
    assert_eq!((client.ask("GET marked"), client.line()), (format!("${}", MARK.len()), FLIPPED.into()));
    wait_until_said(&rig, rigged::PATIENCE);
    expect_all(&said(&rig, "alpha").unwrap(), &[FLIPPED, MARK]);
    expect_whole(&rig);
}

#[test]
fn hosts_that_shall_halt_end_both() {
    let (rig, mut client) = redis("halt", "[monitor]\nmemory_every = 0\ndivergence = \"halt\"\n");
    flip(&rig, "beta");
    client.ask("GET marked");
    rig.wait_until(|r| r.roles().iter().filter(|(h, _)| h != "witness").all(|(_, role)| role.is_empty() || role == "ended"));
}

#[test]
fn a_file_that_somebody_changed_on_the_backup_is_noticed_when_it_is_read() {
    let (rig, mut client, _dir) = odd("file");
    for host in ["alpha", "beta"] {
        rig.exec(host, &["sh", "-c", "echo equal > /var/lib/odd/file"]);
    }
    assert_eq!(client.ask("f"), "equal");
    assert_eq!(said(&rig, "alpha"), None);
    rig.exec("beta", &["sh", "-c", "echo other > /var/lib/odd/file"]);
    assert_eq!(client.ask("f"), "equal");
    wait_until_said(&rig, rigged::PATIENCE);
    expect_all(&said(&rig, "alpha").unwrap(), &["first different: read(", "other", "equal"]);
    expect_whole(&rig);
    // No client spoke meanwhile, and the server has no timers.
    assert_eq!(rig.exec("beta", &["cat", "/var/lib/odd/file"]), "equal\n");
}

#[test]
fn a_guest_that_uses_rdrand_all_the_same_is_found_out_and_its_clients_are_served() {
    let (rig, mut client, _dir) = odd("rdrand");
    let random = client.ask("r");
    wait_until_said(&rig, rigged::PATIENCE);
    expect_all(&said(&rig, "alpha").unwrap(), &["first different: write(", &random]);
    expect_all(&report(&rig, "alpha"), &["main (odd+", "(libc.so.6+"]);
    expect_whole(&rig);
    assert!(!client.ask("s").is_empty());
}

#[test]
fn what_lies_on_a_stack_is_the_same_on_both_hosts() {
    let (rig, mut client, _dir) = odd("stack");
    let dirt: Vec<String> = (0..50).map(|_| client.ask("s")).collect();
    assert!(dirt.iter().any(|d| d != "0"), "{dirt:?}");
    // The backup has done all of it when it has sent what comes after.
    rig.fault("alpha", "kill-host");
    client.ask("s");
    assert_eq!(said(&rig, "beta"), None);
}
