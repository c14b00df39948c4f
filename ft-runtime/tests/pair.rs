//! A real redis-server protected by a real pair in a rig: the primary is lost under load, and its clients keep their
//! connections, their replies and everything that only the same process can know.
//!
//! The client is this very program, started again in the rig's client.

mod rigged;

use rigged::{PATIENCE, PATIENT};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const CLIENT: &str = "FT_PAIR_TEST_CLIENT";
const CLIENT_SECONDS: &str = "FT_TEST_CLIENT_SECONDS";
/// By what every system has.
const GUARD_KILLED: &str =
    r#"for p in /proc/[0-9]*; do [ "$(cat $p/comm)" = ft-guard ] && exec kill -9 "${p#/proc/}"; done; exit 1"#;
const TOLD_CLIENT: &str = "FT_PAIR_TEST_TOLD_CLIENT";
const LOAD: Duration = Duration::from_secs(4);
const FAULT_AFTER: Duration = Duration::from_millis(1500);
const CONNECTIONS: usize = 8;
const DEPTH: u64 = 5;
/// On a busy machine an answer may come before the pause.
const PAUSES: u32 = 3;

struct Redis {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Redis {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(n) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.drain(..n + 2).take(n).collect();
                return String::from_utf8(line).unwrap();
            }
            let mut b = [0; 4096];
            let n = match self.stream.read(&mut b) {
                Ok(0) => panic!("closed by the server"),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => panic!("no reply: {e}"),
            };
            self.buffer.extend_from_slice(&b[..n]);
        }
    }

    /// Sends a command and demands these lines.
    fn expect(&mut self, command: &str, lines: &[&str]) {
        self.send(command);
        for want in lines {
            assert_eq!(self.line(), *want, "reply to {command:?}");
        }
    }

    fn identity(&mut self) -> (String, String) {
        self.send("INFO server\r\n");
        let (mut pid, mut run) = (String::new(), String::new());
        loop {
            let l = self.line();
            match l.split_once(':') {
                Some(("process_id", v)) => pid = v.into(),
                Some(("run_id", v)) => run = v.into(),
                _ => {}
            }
            if l.starts_with("io_threads_active") || l.starts_with("listener0") {
                self.expect("ECHO end-of-info\r\n", &[]);
                while self.line() != "end-of-info" {}
                return (pid, run);
            }
        }
    }
}

/// Not a test: the client, when asked to be one.
#[test]
fn as_client() {
    let Ok(address) = std::env::var(CLIENT) else { return };
    let mut conns: Vec<(Redis, u64)> = (0..CONNECTIONS).map(|_| (Redis::connect(&address), 0)).collect();
    let identity = conns[0].0.identity();
    let mut transaction = Redis::connect(&address);
    transaction.expect("MULTI\r\nINCR open\r\nINCR open\r\n", &["+OK", "+QUEUED", "+QUEUED"]);
    let mut half = Redis::connect(&address);
    half.send("*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$5\r\nab");
    let mut blocked = Redis::connect(&address);
    blocked.send("BLPOP waited 60\r\n");
    let mut subscribed = Redis::connect(&address);
    subscribed.expect("SUBSCRIBE news\r\n", &["*3", "$9", "subscribe", "$4", "news", ":1"]);
    let mut idle = Redis::connect(&address);
    println!("LOADED");
    let load = std::env::var(CLIENT_SECONDS).map_or(LOAD, |s| Duration::from_secs(s.parse().unwrap()));
    let end = Instant::now() + load;
    while Instant::now() < end {
        for (k, (c, n)) in conns.iter_mut().enumerate() {
            (0..DEPTH).for_each(|_| c.send(&format!("INCR c{k}\r\n")));
            *n += DEPTH;
        }
        for (k, (c, n)) in conns.iter_mut().enumerate() {
            for want in *n - DEPTH + 1..=*n {
                assert_eq!(c.line(), format!(":{want}"), "connection {k}");
            }
        }
    }
    assert_eq!(conns[0].0.identity(), identity, "another server answers");
    transaction.expect("EXEC\r\n", &["*2", ":1", ":2"]);
    half.expect("cde\r\n", &["+OK"]);
    half.expect("GET half\r\n", &["$5", "abcde"]);
    idle.expect("RPUSH waited served\r\n", &[":1"]);
    blocked.expect("", &["*2", "$6", "waited", "$6", "served"]);
    idle.expect("PUBLISH news flash\r\n", &[":1"]);
    subscribed.expect("", &["*3", "$7", "message", "$4", "news", "$5", "flash"]);
    println!("all kept");
}

/// Not a test by itself: connections that say what they are told (a request and, after a tab, its reply), in the client's
/// network. A packet of theirs that nobody hears is repeated after ten seconds.
#[test]
fn as_client_that_is_told_to_speak() {
    let Ok(address) = std::env::var(TOLD_CLIENT) else { return };
    let o = Command::new("ip").args(["route", "change", "10.77.0.0/24", "dev", "eth0", "rto_min", "10s"]).output().unwrap();
    assert!(o.status.success(), "{o:?}");
    let mut conns: Vec<Redis> = (0..CONNECTIONS).map(|_| Redis::connect(&address)).collect();
    conns.iter_mut().for_each(|c| c.expect("PING\r\n", &["+PONG"]));
    println!("ready");
    for line in std::io::stdin().lines().map(Result::unwrap) {
        let (request, reply) = line.split_once('\t').unwrap();
        let spoke = Instant::now();
        conns.iter_mut().for_each(|c| c.send(&format!("{request}\r\n")));
        conns.iter_mut().for_each(|c| c.expect("", &[reply]));
        println!("answered after {} ms", spoke.elapsed().as_millis());
    }
}

/// With redis, and clients of it.
struct Rig(rigged::Rig);

impl Rig {
    fn up(name: &str) -> (Self, String) {
        Self::up_as(name, "")
    }

    fn up_patient(name: &str) -> (Self, String) {
        Self::up_as(name, PATIENT)
    }

    fn up_as(name: &str, config: &str) -> (Self, String) {
        Self::up_with(name, config, &[], &[])
    }

    fn up_with(name: &str, config: &str, options: &[&str], more: &[&str]) -> (Self, String) {
        let redis = Command::new("redis-server").arg("--version").output().is_ok();
        assert!(redis, "needs redis-server: scripts/setup");
        let server = ["redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no"];
        let files = ["--appendonly", "yes", "--dir", "/var/lib/redis"];
        let rig = Self(rigged::Rig::up(name, config, options, &[&server[..], &files, more].concat()));
        let address = format!("{}:6379", rig.address);
        (rig, address)
    }

    fn client(&self, address: &str) -> Child {
        self.client_for(address, LOAD)
    }

    fn client_for(&self, address: &str, load: Duration) -> Child {
        let mut c = self.ft("exec");
        c.args(["client", "--"]).arg(std::env::current_exe().unwrap()).args(["--exact", "as_client", "--nocapture"]);
        c.env(CLIENT_SECONDS, load.as_secs().to_string());
        c.env(CLIENT, address).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// That host serves, and becomes or stays protected by the other one.
    fn expect_whole(&self, serves: &str) {
        self.wait_until(|r| {
            assert_eq!(r.primaries(), [serves]);
            ["alpha", "beta"].iter().all(|h| r.state(h) == "protected")
        });
    }

    /// What a person says to a host's engine; whether it is done, and what is said of it.
    fn order(&self, host: &str, command: &[&str]) -> (bool, String) {
        let o = self.ft("exec").args([host, "--", "/usr/local/bin/ft"]).args(command).output().unwrap();
        (o.status.success(), String::from_utf8(o.stdout).unwrap() + &String::from_utf8(o.stderr).unwrap())
    }

    fn expect_done(&self, host: &str, command: &[&str], word: &str) {
        let (done, said) = self.order(host, command);
        assert!(done && said.contains(word), "{command:?} on {host}: {said}");
    }

    fn expect_refused(&self, host: &str, command: &[&str], why: &str) {
        let (done, said) = self.order(host, command);
        assert!(!done && said.contains(why), "{command:?} on {host}: {said}");
    }

    /// The pair as it is: its primary is lost under load, and the other one has everything.
    fn expect_protection(&self, address: &str) {
        let host = address.split(':').next().unwrap();
        self.exec("client", &["redis-cli", "-h", host, "FLUSHALL"]);
        let client = self.client(address);
        std::thread::sleep(FAULT_AFTER);
        self.fault("alpha", "kill-host");
        self.expect_all_kept(client);
        assert_eq!(self.primaries(), ["beta"]);
    }

    fn expect_all_kept(&self, client: Child) {
        let o = client.wait_with_output().unwrap();
        let text = format!("{}\n{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert!(o.status.success() && text.contains("all kept"), "{text}\nroles: {:?}", self.roles());
    }
}

impl Deref for Rig {
    type Target = rigged::Rig;

    fn deref(&self) -> &rigged::Rig {
        &self.0
    }
}

/// A fault in the middle of the load, and who serves afterwards.
fn survives(name: &str, fault: Option<(&str, &str)>, serves: &str) {
    survives_with(name, &[], fault, serves);
}

fn survives_with(name: &str, options: &[&str], fault: Option<(&str, &str)>, serves: &str) {
    let (rig, address) = Rig::up_with(name, "", options, &[]);
    assert_eq!(rig.primaries(), ["alpha"]);
    let client = rig.client(&address);
    if let Some((host, kind)) = fault {
        std::thread::sleep(FAULT_AFTER); // into the load; when exactly doesn't matter
        rig.fault(host, kind);
    }
    rig.expect_all_kept(client);
    assert_eq!(rig.primaries(), [serves]);
    let Some((host, kind)) = fault else { return };
    match kind {
        "freeze-host" => rig.fault(host, "thaw-host"),
        "pause-engine" => rig.fault(host, "resume-engine"),
        "cut-link" => rig.fault(host, "heal-link"),
        "kill-guest" => {}
        _ => return,
    }
    // It finds out that it lacks what clients were told, gives up what it has, and is given the service's state.
    rig.expect_whole(serves);
}

#[test]
fn a_protected_redis_serves() {
    survives("none", None, "alpha");
}

#[test]
fn clients_keep_everything_when_the_guest_is_killed() {
    survives("guest", Some(("alpha", "kill-guest")), "beta");
}

#[test]
fn clients_keep_everything_when_the_engine_is_killed() {
    survives("engine", Some(("alpha", "kill-engine")), "beta");
}

/// The client of [`as_client_that_is_told_to_speak`].
struct Told {
    client: Child,
    said: BufReader<ChildStdout>,
}

impl Told {
    /// Connected, and answered once.
    fn start(rig: &Rig, address: &str) -> Self {
        let mut c = rig.ft("exec");
        c.args(["client", "--"]).arg(std::env::current_exe().unwrap());
        c.args(["--exact", "as_client_that_is_told_to_speak", "--nocapture"]).env(TOLD_CLIENT, address);
        let mut client = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(client.stdout.take().unwrap());
        let mut told = Self { client, said };
        while told.line() != "ready" {}
        told
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        if self.said.read_line(&mut line).unwrap() == 0 {
            let mut errors = String::new();
            self.client.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("the client is gone: {errors}");
        }
        line.trim().to_owned()
    }

    fn speak(&mut self) {
        self.ask("PING", "+PONG");
    }

    fn ask(&mut self, request: &str, reply: &str) {
        writeln!(self.client.stdin.as_ref().unwrap(), "{request}\t{reply}").unwrap();
    }

    fn expect_answers_before_it_repeats(&mut self) {
        let line = self.line();
        let ms = line.strip_prefix("answered after ").and_then(|l| l.strip_suffix(" ms"));
        assert!(ms.unwrap().parse::<u64>().unwrap() < 9_000, "{line}, when TCP repeated it");
    }

    fn finish(mut self) {
        drop(self.client.stdin.take());
        let o = self.client.wait_with_output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    }
}

/// What they said reached nobody, and they don't repeat it for ten seconds: that they are answered before is the tap's doing.
#[test]
fn clients_that_speak_into_an_outage_need_not_repeat_it_where_the_service_is_tapped() {
    let (rig, address) = Rig::up_as("tap", "[service]\ntap = true\n[limits]\nsilence_ms_max = 400\n");
    let mut client = Told::start(&rig, &address);
    rig.fault("alpha", "kill-host");
    client.speak();
    client.expect_answers_before_it_repeats();
    client.finish();
    assert_eq!(rig.primaries(), ["beta"]);
}

/// The primary's engine hears what its guest can't any more, and the backup has it. The witness keeps that from being over
/// before anybody has spoken.
#[test]
fn what_clients_say_after_the_primarys_guest_died_is_the_backups() {
    let (rig, address) = Rig::up_patient("heir");
    let mut client = Told::start(&rig, &address);
    rig.fault("witness", "freeze-host");
    rig.fault("alpha", "kill-guest");
    rig.wait_until(|r| r.events("beta").contains("taking over, term 2: the primary handed over"));
    client.speak();
    // Into alpha's log, and to beta: nothing tells when, but neither host does anything else.
    std::thread::sleep(Duration::from_millis(300));
    rig.fault("witness", "thaw-host");
    client.expect_answers_before_it_repeats();
    client.finish();
    assert_eq!(rig.primaries(), ["beta"]);
}

/// What the kernel tried to send while the right to send had run out it tries again after ten seconds by itself, and so do
/// the clients.
#[test]
fn what_could_not_leave_during_a_pause_leaves_after_it() {
    let (rig, address) = Rig::up("push");
    rig.fault("beta", "kill-host");
    rig.wait_until(|r| r.state("alpha") == "alone");
    let in_service = "for p in /proc/[0-9]*; do [ $(cat $p/comm) = ft ] || continue; for f in $p/fd/*; do case $(readlink $f) in \
        net:*) exec nsenter --net=$f ip route change 10.77.0.0/24 dev service rto_min 10s;; esac; done; done; exit 1";
    rig.exec("alpha", &["sh", "-c", in_service]);
    let mut client = Told::start(&rig, &address);
    for _ in 0..PAUSES {
        // The server answers by itself, while the engine stands still: longer than a lease.
        client.ask("BLPOP none 0.4", "*-1");
        std::thread::sleep(Duration::from_millis(200));
        rig.fault("alpha", "pause-engine");
        std::thread::sleep(Duration::from_millis(400));
        rig.fault("alpha", "resume-engine");
        client.expect_answers_before_it_repeats();
    }
    client.finish();
}

/// Each takes over from the other, again and again: with connections that began on a primary long gone, and in the
/// middle of what they do.
#[test]
fn hosts_of_a_pair_take_over_from_each_other_in_turn() {
    let (rig, address) = Rig::up("turns");
    let host = address.split(':').next().unwrap();
    let increment = || rig.exec("client", &["redis-cli", "-h", host, "INCR", "n"]).trim().to_owned();
    let mut client = Told::start(&rig, &address);
    let mut ask = |request: &str, reply: &str| {
        client.ask(request, reply);
        client.expect_answers_before_it_repeats();
    };
    ask("MULTI", "+OK");
    let mut n = 0;
    for (dies, lives) in [("alpha", "beta"), ("beta", "alpha"), ("alpha", "beta"), ("beta", "alpha")] {
        rig.fault(dies, "kill-guest");
        ask("INCR inside", "+QUEUED");
        rig.expect_whole(lives);
        ask("INCR inside", "+QUEUED");
        n += 1;
        assert_eq!(increment(), n.to_string());
    }
    ask("DISCARD", "+OK");
    client.finish();
    let files = "cd /var/lib/redis && find . -type f | sort | xargs sha256sum";
    let of = |host| rig.exec(host, &["sh", "-c", files]);
    let same = |_: &rigged::Rig| of("alpha") == of("beta");
    rig.wait_until(same);
    assert_eq!(of("alpha").lines().count(), 3, "{}", of("alpha"));
}

/// A pair with so much state that its transfer takes seconds; and the transfer to beta is under way.
fn in_the_middle_of_a_transfer(name: &str) -> (Rig, String) {
    let (rig, address) = Rig::up_with(name, PATIENT, &[], &["--enable-debug-command", "yes"]);
    let host = address.split(':').next().unwrap();
    rig.exec("client", &["redis-cli", "-h", host, "DEBUG", "POPULATE", "300000", "key", "1000"]);
    rig.exec("client", &["redis-cli", "-h", host, "SET", "told", "1"]);
    rig.fault("beta", "kill-guest");
    rig.wait_until(|r| r.exec("beta", &["/usr/local/bin/ft", "status", "-o", "json"]).contains("seed_bytes"));
    (rig, address)
}

fn get(rig: &rigged::Rig, address: &str, key: &str) -> String {
    let host = address.split(':').next().unwrap();
    let o = rig.ft("exec").args(["client", "--", "redis-cli", "-h", host, "GET", key]).output().unwrap();
    String::from_utf8_lossy(&o.stdout).trim().to_owned()
}

#[test]
fn a_link_that_breaks_in_the_middle_of_a_transfer_delays_it() {
    let (rig, address) = in_the_middle_of_a_transfer("midlink");
    rig.fault("beta", "cut-link");
    rig.wait_until(|r| r.events("beta").contains("the service's state did not come"));
    assert_eq!((rig.primaries(), get(&rig, &address, "told")), (vec!["alpha".into()], "1".into()));
    rig.fault("beta", "heal-link");
    rig.expect_whole("alpha");
}

#[test]
fn a_host_that_dies_in_the_middle_of_a_transfer_is_given_the_state_when_it_is_back() {
    let (rig, address) = in_the_middle_of_a_transfer("midhost");
    rig.fault("beta", "kill-host");
    assert_eq!((rig.primaries(), get(&rig, &address, "told")), (vec!["alpha".into()], "1".into()));
    rig.fault("beta", "revive-host");
    rig.expect_whole("alpha");
}

/// Nobody else has the state, and nobody pretends to: the host that has the files starts the service when it is back.
#[test]
fn a_primary_that_dies_in_the_middle_of_a_transfer_is_waited_for() {
    let (rig, address) = in_the_middle_of_a_transfer("midprimary");
    rig.fault("alpha", "kill-host");
    rig.wait_until(|r| r.events("beta").contains("the service's state did not come"));
    assert_eq!(rig.primaries(), [] as [String; 0]);
    rig.fault("alpha", "revive-host");
    rig.wait_until(|r| r.primaries() == ["alpha"] && get(r, &address, "told") == "1");
    rig.expect_whole("alpha");
}

/// Both hosts in turn, under load: no connection breaks, nothing is lost; and where it can't be, it is said why.
#[test]
fn a_person_moves_the_service_from_host_to_host() {
    let (rig, address) = Rig::up_patient("switch");
    let client = rig.client(&address);
    let switchover = |host: &str| rig.order(host, &["switchover"]);
    for (from, to) in [("alpha", "beta"), ("beta", "alpha")] {
        std::thread::sleep(FAULT_AFTER / 2);
        let (done, said) = switchover(from);
        assert!(done && said.contains(&format!("{to} serves in term")), "{said}");
        rig.expect_whole(to);
    }
    rig.expect_all_kept(client);
    let (done, said) = switchover("beta");
    assert!(!done && said.contains("this host does not serve at the moment"), "{said}");
    rig.fault("beta", "kill-host");
    rig.wait_until(|r| r.state("alpha") == "alone");
    let (done, said) = switchover("alpha");
    assert!(!done && said.contains("could not take over: there is no backup"), "{said}");
    assert_eq!(rig.primaries(), ["alpha"]);
}

const PAUSE: &[&str] = &["pause"];
const RESUME: &[&str] = &["resume"];
const DETACH: &[&str] = &["backup", "detach"];

/// Under load: no connection breaks, nothing is lost, nobody joins meanwhile; and afterwards the pair is as good as before.
#[test]
fn a_person_pauses_protection_and_resumes_it() {
    let (rig, address) = Rig::up_patient("maint");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.expect_refused("beta", PAUSE, "this host does not serve at the moment; say it on alpha");
    rig.expect_done("alpha", PAUSE, "protection is paused by a person; nothing takes over until `ft resume` here");
    rig.expect_done("alpha", PAUSE, "paused already");
    rig.wait_until(|r| r.state("beta").starts_with("paused: waits for `ft resume`"));
    rig.expect_all_kept(client);
    assert!(rig.state("alpha").starts_with("alone: paused"), "{}", rig.state("alpha"));
    assert!(rig.events("beta").contains("the primary has paused protection"), "{}", rig.events("beta"));
    rig.expect_refused("alpha", &["switchover"], "protection is paused");
    rig.expect_refused("alpha", DETACH, "there is no backup");
    rig.expect_refused("beta", DETACH, "neither backup nor primary");
    rig.expect_refused("beta", RESUME, "say it on alpha");
    assert_eq!(rig.primaries(), ["alpha"]);
    rig.expect_done("alpha", RESUME, "`ft events --follow` says when it is `protected`");
    rig.expect_whole("alpha");
    rig.expect_done("alpha", RESUME, "protection isn't paused");
    assert!(!rig.events("alpha").contains("MUTE"), "{}", rig.events("alpha"));
    rig.expect_protection(&address);
}

#[test]
fn a_pause_breaks_off_a_transfer_and_lasts_for_whoever_comes() {
    let (rig, address) = in_the_middle_of_a_transfer("midpause");
    rig.expect_done("alpha", PAUSE, "protection is paused");
    rig.wait_until(|r| r.events("beta").contains("the service's state did not come: it says goodbye: protection is paused"));
    rig.wait_until(|r| r.state("beta").starts_with("paused"));
    rig.fault("beta", "kill-host");
    rig.fault("beta", "revive-host");
    rig.wait_until(|r| r.state("beta").starts_with("paused"));
    assert_eq!((rig.primaries(), get(&rig, &address, "told")), (vec!["alpha".into()], "1".into()));
    rig.expect_done("alpha", RESUME, "protection is resumed");
    rig.expect_whole("alpha");
}

/// Nobody else has the state then, and nobody pretends to.
#[test]
fn a_pause_ends_with_the_primarys_engine() {
    let (rig, address) = Rig::up("unpause");
    rig.exec("client", &["redis-cli", "-h", address.split(':').next().unwrap(), "SET", "told", "1"]);
    rig.expect_done("alpha", PAUSE, "protection is paused");
    rig.wait_until(|r| r.state("beta").starts_with("paused"));
    rig.fault("alpha", "kill-host");
    // It knows that nobody is there; what it makes of that takes no longer.
    rig.wait_until(|r| !r.state("beta").starts_with("paused"));
    assert_eq!(rig.primaries(), [] as [String; 0]);
    rig.fault("alpha", "revive-host");
    rig.wait_until(|r| r.primaries() == ["alpha"] && get(r, &address, "told") == "1");
    rig.expect_whole("alpha");
}

/// Its machine is switched off and on, and the pair is as good as before.
fn detaches(name: &str, host: &str) {
    let (rig, address) = Rig::up_patient(name);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.expect_done(host, DETACH, "detached by a person");
    rig.wait_until(|r| r.state("beta") == "ended, exit status 0");
    assert_eq!(rig.state("alpha"), "alone");
    rig.expect_refused("alpha", DETACH, "there is no backup");
    rig.expect_all_kept(client);
    let said = rig.events("alpha");
    assert!(said.contains("the backup is detached by a person") && !said.contains("MUTE"), "{said}");
    assert!(rig.log("beta").contains("ft: detached by a person"), "{}", rig.log("beta"));
    rig.fault("beta", "kill-host");
    rig.fault("beta", "revive-host");
    rig.expect_whole("alpha");
    rig.expect_protection(&address);
}

#[test]
fn a_backup_is_detached_by_a_word_to_the_primary_and_comes_back() {
    detaches("pdetach", "alpha");
}

#[test]
fn a_backup_is_detached_by_a_word_to_itself_and_comes_back() {
    detaches("bdetach", "beta");
}

/// Starts the engine that has left `host` anew, as it was started, under what it must take for another kernel.
const UPDATED: &str = r#"
echo 6.99.0-updated > /run/release && mount --bind /run/release /proc/sys/kernel/osrelease &&
cd "$(cat /run/cwd)" && exec xargs -0 -a /run/environ sh -c 'exec env -i "$@" /usr/local/bin/ft run --config /etc/ft/service.toml' sh"#;
const NOTE_START: &str = "set $(cat /proc/1/task/1/children) && cat /proc/$1/environ > /run/environ && readlink /proc/$1/cwd > /run/cwd";

#[test]
fn both_kernels_are_updated_one_after_the_other_and_no_connection_is_lost() {
    let (rig, address) = Rig::up_patient("kernels");
    for host in ["alpha", "beta"] {
        rig.exec(host, &["sh", "-c", NOTE_START]);
    }
    let client = rig.client_for(&address, Duration::from_secs(15));
    let says = |host: &str, what: &str| rig.order(host, &["status"]).1.contains(what);
    let mut engines = Vec::new();
    for (host, other) in [("beta", "alpha"), ("alpha", "beta")] {
        rig.expect_done(other, DETACH, "detached by a person");
        rig.wait_until(|_| !rig.order(host, &["status"]).0);
        let mut c = rig.ft("exec");
        c.args([host, "--", "sh", "-c", UPDATED]).stdout(Stdio::null());
        engines.push(c.spawn().unwrap());
        rig.wait_until(|_| ["alpha", "beta"].iter().all(|h| says(h, "protected")));
        assert!(says(other, "primary") && says(host, "backup"));
        if host == "beta" {
            rig.expect_done(other, &["switchover"], "");
            rig.wait_until(|_| says(host, "primary") && ["alpha", "beta"].iter().all(|h| says(h, "protected")));
        }
    }
    rig.expect_all_kept(client);
    let release = ["sh", "-c", "cat /proc/sys/kernel/osrelease"];
    assert_eq!(["alpha", "beta"].map(|h| rig.exec(h, &release)), ["6.99.0-updated\n"; 2]);
    drop(rig);
    engines.iter_mut().for_each(|e| drop(e.wait()));
}

/// Rather than that a client has to wait.
#[test]
fn a_backup_that_nobody_could_take_out_of_the_record_stays() {
    let (rig, address) = Rig::up_patient("keeps");
    let client = rig.client(&address);
    rig.fault("witness", "kill-host");
    rig.wait_until(|r| ["alpha", "beta"].iter().all(|h| r.events(h).contains(LOST)));
    for (host, command) in [("alpha", PAUSE), ("alpha", DETACH), ("beta", DETACH)] {
        rig.expect_refused(host, command, "the backup stays: the arbiter does not answer");
    }
    rig.expect_all_kept(client);
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
    rig.fault("witness", "revive-host");
    rig.wait_until(|r| ["alpha", "beta"].iter().all(|h| r.events(h).contains(BACK)));
    rig.expect_done("alpha", PAUSE, "protection is paused");
}

#[test]
fn without_an_arbiter_a_backup_stays() {
    let (rig, _) = Rig::up_as("nokeep", "[arbiter]\nkind = \"none\"\n");
    for (host, command) in [("alpha", PAUSE), ("alpha", DETACH), ("beta", DETACH)] {
        rig.expect_refused(host, command, "the backup stays: there is no arbiter");
    }
    assert_eq!(rig.state("alpha"), "protected");
}

/// What the backup takes the primary's death for, with the primary's guard as it is or killed before.
fn takes_a_killed_engine_for(name: &str, guarded: bool, said: &str) {
    let (rig, _) = Rig::up_patient(name);
    if !guarded {
        let o = rig.ft("exec").args(["alpha", "--", "sh", "-c", GUARD_KILLED]).output().unwrap();
        assert!(o.status.success(), "{o:?}");
    }
    rig.fault("alpha", "kill-engine");
    rig.wait_until(|r| r.primaries() == ["beta"]);
    let events = rig.events("beta");
    assert!(events.contains(&format!("taking over, term 2: {said}")), "{events}");
}

#[test]
fn the_guard_of_a_killed_engine_tells_the_backup() {
    takes_a_killed_engine_for("guard", true, "the primary's engine died");
}

#[test]
fn without_its_guard_a_killed_engines_lease_is_waited_for() {
    takes_a_killed_engine_for("unguard", false, "the primary closed the link");
}

#[test]
fn clients_keep_everything_when_the_host_is_killed() {
    survives("host", Some(("alpha", "kill-host")), "beta");
}

/// The old primary's host, with what it wrote still on its disk, or without.
fn comes_back(name: &str, options: &[&str], wipe: bool) {
    let (rig, address) = Rig::up_with(name, "", options, &[]);
    rig.exec("alpha", &["touch", "/etc/mark"]);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("alpha", "kill-host");
    rig.wait_until(|r| r.primaries() == ["beta"]);
    let o = rig.ft("fault").args(["alpha", "revive-host"]).args(wipe.then_some("--wipe")).output().unwrap();
    assert!(o.status.success(), "{o:?}");
    rig.expect_whole("beta");
    rig.expect_all_kept(client);
    rig.expect_whole("beta");
    assert_eq!(rig.exec("alpha", &["find", "/etc", "-maxdepth", "1", "-name", "mark"]).is_empty(), wipe);
}

#[test]
fn a_host_that_is_switched_on_again_protects_the_service() {
    comes_back("revive", &[], false);
}

#[test]
fn a_host_that_comes_back_without_its_files_protects_the_service() {
    comes_back("wipe", &[], true);
}

#[test]
fn clients_notice_nothing_when_the_backup_is_killed() {
    survives("bhost", Some(("beta", "kill-host")), "alpha");
}

#[test]
fn clients_notice_nothing_when_the_backups_guest_is_killed() {
    survives("bguest", Some(("beta", "kill-guest")), "alpha");
}

#[test]
fn clients_notice_nothing_when_the_link_is_cut() {
    survives("link", Some(("alpha", "cut-link")), "alpha");
}

#[test]
fn clients_of_a_server_that_came_by_itself_keep_everything() {
    survives_with("preload", &["--preload"], Some(("alpha", "kill-host")), "beta");
}

#[test]
fn a_server_that_came_by_itself_dies_with_its_engine_and_clients_keep_everything() {
    survives_with("prengine", &["--preload"], Some(("alpha", "kill-engine")), "beta");
}

#[test]
fn a_primary_whose_engine_is_paused_is_replaced_and_stays_silent_when_it_goes_on() {
    survives("pause", Some(("alpha", "pause-engine")), "beta");
}

#[test]
fn clients_notice_nothing_when_the_backups_engine_is_paused_and_it_leaves_when_it_goes_on() {
    survives("bpause", Some(("beta", "pause-engine")), "alpha");
}

/// Shorter than the silence, of which longer than the primary's lease.
fn outlives_a_pause(name: &str, host: &str, pause: Duration) {
    let (rig, address) = Rig::up_patient(name);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault(host, "pause-engine");
    std::thread::sleep(pause);
    rig.fault(host, "resume-engine");
    rig.expect_all_kept(client);
    rig.wait_until(|r| r.state("alpha") == "protected");
    assert_eq!(rig.roles()[..2], [("alpha".into(), "primary".into()), ("beta".into(), "backup".into())]);
}

#[test]
fn a_short_pause_of_the_primarys_engine_moves_nothing() {
    outlives_a_pause("short", "alpha", Duration::from_millis(300));
}

#[test]
fn a_short_pause_of_the_backups_engine_moves_nothing() {
    outlives_a_pause("bshort", "beta", Duration::from_millis(300));
}

/// Link and service network of one host at once: the service network first, so that its carrier is missed by the time the
/// link's silence is over.
fn survives_both_cuts(name: &str, host: &str, serves: &str) {
    let (rig, address) = Rig::up(name);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault(host, "cut-service");
    rig.fault(host, "cut-link");
    rig.expect_all_kept(client);
    assert_eq!((rig.primaries(), rig.state(serves)), (vec![serves.to_owned()], "alone".into()));
}

#[test]
fn a_primary_that_lost_link_and_service_network_does_not_beat_its_backup() {
    survives_both_cuts("cutboth", "alpha", "beta");
}

#[test]
fn a_backup_that_lost_link_and_service_network_leaves_and_clients_notice_nothing() {
    survives_both_cuts("bcutboth", "beta", "alpha");
}

/// The arbiter's files are lost in one way or another: nothing moves, both say so, and say when they are back.
fn outlives_its_arbiter_files(name: &str, lose: &str, find: &str) {
    let (rig, address) = Rig::up_as(name, "[arbiter]\nkind = \"file\"\n[limits]\nsilence_ms_max = 1000\n");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    let on_both = |script: &str| {
        for h in ["alpha", "beta"] {
            let o = rig.ft("exec").args([h, "--", "sh", "-ec", script]).output().unwrap();
            assert!(o.status.success(), "{script}: {o:?}");
        }
    };
    on_both(lose);
    rig.wait_until(|r| ["alpha", "beta"].iter().all(|h| r.events(h).contains(LOST)));
    on_both(find);
    rig.wait_until(|r| ["alpha", "beta"].iter().all(|h| r.events(h).contains(BACK)));
    rig.expect_all_kept(client);
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
    // It decides again.
    rig.fault("alpha", "kill-host");
    rig.wait_until(|r| r.primaries() == ["beta"]);
}

#[test]
fn arbiter_files_that_can_only_be_read_are_missed() {
    let remount = |how: &str| format!("mount -o remount,bind,{how} /mnt/ft-shared");
    outlives_its_arbiter_files("aro", &remount("ro"), &remount("rw"));
}

/// Storage that hangs holds up the thread that asks, and nothing else. A pipe that nobody writes to hangs whoever opens it.
#[test]
fn arbiter_files_that_hang_are_missed_and_hold_up_nobody() {
    let pipe = "/mnt/ft-shared/arbiter.v99999999";
    let lose = format!("[ -p {pipe} ] || mkfifo {pipe}");
    let find = format!("[ -p {pipe} ] || exit 0; exec 3<>{pipe}; rm {pipe}; exec 3>&-");
    outlives_its_arbiter_files("ahang", &lose, &find);
}

#[test]
fn a_server_that_came_by_itself_ends_on_both_hosts_when_its_process_is_told_to() {
    let (rig, _) = Rig::up_with("prterm", "", &["--preload"], &[]);
    let o = rig.ft("exec").args(["alpha", "--", "sh", "-c", "kill -TERM $(pgrep -x redis-server)"]).output().unwrap();
    assert!(o.status.success(), "{o:?}");
    for host in ["alpha", "beta"] {
        rig.wait_until(|r| r.state(host) == "ended, exit status 0");
    }
}

/// Somebody else's, or this host's own: two owners of an address would mean clients that talk to either.
#[test]
fn an_address_that_is_in_use_is_not_taken() {
    let (rig, address) = Rig::up("inuse");
    let ip = address.split(':').next().unwrap();
    for host in ["alpha", "beta"] {
        rig.fault(host, "kill-engine");
        rig.wait_until(|r| r.state(host).starts_with("ended"));
    }
    let run = |host: &str, script: &str| {
        let o = rig.ft("exec").args([host, "--", "sh", "-ec", script]).output().unwrap();
        (o.status.code(), String::from_utf8_lossy(&o.stderr).into_owned())
    };
    // Beta was the last to serve, so it starts the service, and tells alpha.
    let start = |host: &str| {
        let mut c = rig.ft("exec");
        c.args([host, "--", "/usr/local/bin/ft", "run", "--config", "/etc/ft/service.toml"]);
        c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let refused = |why: &[&str]| {
        let engines = ["alpha", "beta"].map(start);
        for e in engines {
            let o = e.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&o.stderr);
            assert_eq!(o.status.code(), Some(125), "{said}");
            assert!(why.iter().all(|w| said.contains(w)) && said.contains(ip), "{said}");
        }
    };
    assert_eq!(run("client", &format!("ip address add {ip}/24 dev eth0")).0, Some(0));
    refused(&["is in use: ", "answers for it on eth0", "choose another"]);
    assert_eq!(run("client", &format!("ip address del {ip}/24 dev eth0")).0, Some(0));
    assert_eq!(run("beta", &format!("ip address add {ip}/24 dev eth0")).0, Some(0));
    refused(&["is this host's own, on eth0", "ip address del"]);
}

/// One after the other: the primary's host is lost, then the survivor's engine, and `ft run` there has it all.
#[test]
fn a_survivor_that_is_started_again_serves_what_it_had() {
    let (rig, address) = Rig::up("again");
    let increment = || {
        let host = address.split(':').next().unwrap();
        let o = rig.ft("exec").args(["client", "--", "redis-cli", "-h", host, "INCR", "n"]).output().unwrap();
        String::from_utf8_lossy(&o.stdout).trim().to_owned()
    };
    for n in 1..=20 {
        assert_eq!(increment(), n.to_string());
    }
    rig.fault("alpha", "kill-host");
    assert_eq!(increment(), "21");
    assert_eq!(rig.primaries(), ["beta"]);
    rig.fault("beta", "kill-engine");
    rig.wait_until(|r| r.state("beta").starts_with("ended"));
    let mut again = rig.ft("exec");
    again.args(["beta", "--", "/usr/local/bin/ft", "run", "--config", "/etc/ft/service.toml"]);
    let mut again = again.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Until it serves there is no number, and nothing was counted.
    let end = Instant::now() + PATIENCE;
    let mut counted = increment();
    while counted.parse::<u64>().is_err() {
        assert!(Instant::now() < end, "it does not serve: {counted}");
        assert!(again.try_wait().unwrap().is_none(), "it ended");
        counted = increment();
    }
    assert_eq!(counted, "22");
    drop(rig);
    again.wait().unwrap();
}

/// The primary's own probes tell it, and it hands over to a backup that is better off.
fn hands_over(name: &str, fault: &str) {
    let (rig, address) = Rig::up_patient(name);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("alpha", fault);
    rig.expect_all_kept(client);
    assert_eq!(rig.primaries(), ["beta"]);
    let said = rig.events("beta");
    assert!(said.contains("the primary handed over: it has lost its service network"), "{said}");
    rig.fault("alpha", "heal-service");
    rig.expect_whole("beta");
}

#[test]
fn clients_keep_everything_when_the_primarys_service_network_is_cut() {
    hands_over("service", "cut-service");
}

#[test]
fn clients_keep_everything_when_the_primarys_service_network_is_silent() {
    hands_over("silent", "lose-service");
}

#[test]
fn a_service_network_that_both_hosts_lost_moves_nothing() {
    let (rig, address) = Rig::up_patient("both");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("beta", "lose-service");
    // Else it may still believe that clients reach it when it is asked to take over.
    rig.wait_until(|r| r.events("beta").contains("SERVICE NETWORK LOST"));
    rig.fault("alpha", "cut-service");
    rig.wait_until(|r| r.events("alpha").contains("stays primary without a service network"));
    assert_eq!(rig.primaries(), ["alpha"]);
    rig.fault("alpha", "heal-service");
    rig.expect_all_kept(client);
    assert_eq!(rig.primaries(), ["alpha"]);
    assert!(rig.events("alpha").contains("the service network is back"));
}

#[test]
fn a_backup_that_loses_its_service_network_says_so_and_nothing_moves() {
    let (rig, address) = Rig::up_patient("bservice");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("beta", "cut-service");
    rig.wait_until(|r| r.events("beta").contains("SERVICE NETWORK LOST"));
    rig.expect_all_kept(client);
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
}

/// Somebody empties the firewall of a host's gate: it is noticed there, and mended.
fn mends_its_gate(name: &str, host: &str) {
    let (rig, address) = Rig::up_patient(name);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault(host, "flush-gate");
    rig.wait_until(|r| r.events(host).contains("the gate's rules are installed again"));
    assert!(rig.events(host).contains("GATE RULES CHANGED"));
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
    // The gate is what it was: also on a host that comes to need it.
    rig.fault("alpha", "kill-host");
    rig.expect_all_kept(client);
    assert_eq!(rig.primaries(), ["beta"]);
}

#[test]
fn a_primary_whose_gate_is_flushed_mends_it() {
    mends_its_gate("flush", "alpha");
}

#[test]
fn a_backup_whose_gate_is_flushed_mends_it() {
    mends_its_gate("bflush", "beta");
}

const LOST: &str = "ARBITER LOST";
const BACK: &str = "the arbiter answers";

/// The witness is lost under load and perhaps comes back: nothing moves, and those who lost it say so.
fn outlives_the_witness(name: &str, host: &str, fault: &str, heal: Option<&str>, tell: &[&str]) {
    let (rig, address) = Rig::up_patient(name);
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault(host, fault);
    rig.wait_until(|r| tell.iter().all(|h| r.events(h).contains(LOST)));
    for h in ["alpha", "beta"] {
        assert_eq!(rig.events(h).contains(LOST), tell.contains(&h), "{}", rig.events(h));
    }
    if let Some(heal) = heal {
        rig.fault(host, heal);
        rig.wait_until(|r| tell.iter().all(|h| r.events(h).contains(BACK)));
    }
    rig.expect_all_kept(client);
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
}

#[test]
fn a_pair_outlives_its_witness_and_says_so() {
    outlives_the_witness("wkill", "witness", "kill-host", None, &["alpha", "beta"]);
}

#[test]
fn a_killed_witness_is_missed_until_it_is_switched_on_again() {
    outlives_the_witness("wrevive", "witness", "kill-host", Some("revive-host"), &["alpha", "beta"]);
}

#[test]
fn a_frozen_witness_is_missed_until_it_thaws() {
    outlives_the_witness("wfreeze", "witness", "freeze-host", Some("thaw-host"), &["alpha", "beta"]);
}

#[test]
fn a_witness_without_its_network_is_missed_until_it_is_back() {
    outlives_the_witness("wcut", "witness", "cut-management", Some("heal-management"), &["alpha", "beta"]);
}

#[test]
fn a_host_that_alone_lost_the_witness_says_so() {
    outlives_the_witness("mcut", "alpha", "cut-management", Some("heal-management"), &["alpha"]);
}

#[test]
fn a_witness_is_not_needed_in_the_service_network() {
    let (rig, address) = Rig::up_patient("wservice");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("witness", "cut-service");
    rig.expect_all_kept(client);
    rig.fault("witness", "heal-service");
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
    for h in ["alpha", "beta"] {
        let said = rig.events(h);
        assert!(!said.contains(LOST) && !said.contains("SERVICE NETWORK LOST"), "{said}");
    }
}

#[test]
fn a_slow_link_makes_clients_wait_and_nothing_else() {
    let (rig, address) = Rig::up_patient("slow");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("alpha", "slow-link");
    rig.expect_all_kept(client);
    assert_eq!((rig.primaries(), rig.state("alpha")), (vec!["alpha".into()], "protected".into()));
    for h in ["alpha", "beta"] {
        let said = rig.events(h);
        assert!(!said.contains("UNPROTECTED") && !said.contains("taking over"), "{said}");
    }
    rig.fault("beta", "heal-link");
    assert_eq!(rig.state("alpha"), "protected");
}

fn with_small_disks(name: &str) -> (Rig, String) {
    Rig::up_with(name, "", &["--disk", "64"], &[])
}

#[test]
fn a_backup_whose_disk_is_full_leaves_and_clients_notice_nothing() {
    let (rig, address) = with_small_disks("bdisk");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("beta", "fill-disk");
    rig.expect_all_kept(client);
    let said = rig.events("alpha");
    assert!(said.contains("its server did something else") && said.contains("UNPROTECTED"), "{said}");
    rig.fault("beta", "free-disk");
    rig.expect_whole("alpha");
}

#[test]
fn a_primary_whose_disk_is_full_hands_over_and_clients_notice_nothing() {
    let (rig, address) = with_small_disks("disk");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("alpha", "fill-disk");
    rig.expect_all_kept(client);
    assert_eq!(rig.primaries(), ["beta"]);
    let said = rig.events("alpha");
    assert!(said.contains("comes to ENOSPC; the backup's does not"), "{said}");
    assert!(said.contains("handing over") && said.contains("its disk fails"), "{said}");
    rig.fault("alpha", "free-disk");
    rig.expect_whole("beta");
}

/// Redis itself refuses to write, as it would without a backup, and stays protected in that.
#[test]
fn a_server_whose_disks_are_full_on_both_hosts_says_so_to_its_clients_until_there_is_room() {
    let (rig, address) = with_small_disks("disks");
    let host = address.split_once(':').unwrap().0;
    let redis = |command: &[&str]| {
        let cli = ["client", "--", "redis-cli", "-h", host];
        let o = rig.ft("exec").args(cli).args(command).output().unwrap();
        String::from_utf8(o.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(redis(&["SET", "before", "1"]), "OK");
    for full in ["alpha", "beta"] {
        rig.fault(full, "fill-disk");
    }
    let refused = |_: &rigged::Rig| redis(&["SET", "filler", &"x".repeat(10_000)]).contains("No space left on device");
    rig.wait_until(refused);
    let said = rig.events("alpha");
    assert!(said.contains("the backup's disk fails it too; the server is told so"), "{said}");
    assert_eq!(redis(&["GET", "before"]), "1");
    for free in ["alpha", "beta"] {
        rig.fault(free, "free-disk");
    }
    rig.wait_until(|_| redis(&["SET", "after", "1"]) == "OK");
    assert_eq!(redis(&["GET", "before"]), "1");
    let serves = rig.primaries().remove(0);
    rig.expect_whole(&serves);
}

#[test]
fn a_frozen_primary_is_replaced_and_stays_silent_when_it_thaws() {
    survives("freeze", Some(("alpha", "freeze-host")), "beta");
}

#[test]
fn without_an_arbiter_a_primary_that_lost_its_backup_waits_for_a_persons_word() {
    let (rig, address) = Rig::up_as("force", "[arbiter]\nkind = \"none\"\n");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    rig.fault("beta", "kill-host");
    rig.wait_until(|r| r.state("alpha").starts_with("mute"));
    let force = ["alpha", "--", "/usr/local/bin/ft", "force", "--peer-is-off"];
    let o = rig.ft("exec").args(force).output().unwrap();
    assert!(o.status.success(), "{o:?}");
    rig.expect_all_kept(client);
    assert_eq!(rig.state("alpha"), "alone");
}

#[test]
fn a_service_that_ends_by_itself_ends_on_both_hosts() {
    let (rig, address) = Rig::up("end");
    let host = address.split_once(':').unwrap().0;
    let o = rig.ft("exec").args(["client", "--", "redis-cli", "-h", host, "shutdown", "nosave"]).output().unwrap();
    assert!(o.status.success(), "{o:?}");
    for host in ["alpha", "beta"] {
        rig.wait_until(|r| r.state(host).starts_with("ended"));
        assert!(rig.state(host).contains('0'), "{}", rig.state(host));
    }
}

#[test]
fn a_backup_that_is_stopped_leaves_and_the_primary_serves_on() {
    let (rig, address) = Rig::up("stop");
    let client = rig.client(&address);
    std::thread::sleep(FAULT_AFTER);
    // The host's own first process is 1, its engine the first that it started.
    let o = rig.ft("exec").args(["beta", "--", "sh", "-c", "kill -TERM $(cat /proc/1/task/1/children)"]).output().unwrap();
    assert!(o.status.success(), "{o:?}");
    rig.expect_all_kept(client);
    assert_eq!(rig.primaries(), ["alpha"]);
    assert_eq!(rig.state("alpha"), "alone");
    assert!(rig.state("beta").starts_with("ended"));
}
