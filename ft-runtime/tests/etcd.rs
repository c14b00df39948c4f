//! The arbiter in a real etcd of three members: they are killed, stopped and started again, alone and under a pair.

mod rigged;

use ft_log::ids::Term;
use ft_runtime::failover::arbiter::etcd::{EtcdArbiter, TlsFiles};
use ft_runtime::failover::arbiter::{Ask, Keeper, KeeperError, Told};
use ft_runtime::failover::record::{HostId, Members, Phase, Record, Ruling, Version};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rigged::Rig;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// For anything that three members on a busy machine have to agree on.
const PATIENCE: Duration = Duration::from_secs(60);
/// For one question, as an engine would wait.
const PATIENT_ASK: Duration = Duration::from_secs(6);
/// For a member to listen, which it does before it looks for the others.
const UP_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn free_ports<const N: usize>() -> [u16; N] {
    // All at a time, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|l| l.local_addr().unwrap().port())
}

struct Member {
    /// Of a program that has its data in a directory of its own.
    arguments: Vec<String>,
    /// For clients: it listens there last.
    port: u16,
    child: Option<Child>,
}

impl Member {
    fn new(arguments: Vec<String>, port: u16) -> Self {
        Self { arguments, port, child: None }
    }

    fn spawn(&mut self) {
        self.spawn_by(Command::new("etcd"));
    }

    /// `command` becomes it.
    fn spawn_by(&mut self, mut command: Command) {
        let c = command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(c.spawn().expect("needs etcd: scripts/setup"));
    }

    /// Once it listens. Why it doesn't: it has ended, as one does whose address is missing or has a port that is taken.
    fn came_up(&mut self) -> Result<(), ExitStatus> {
        let child = self.child.as_mut().expect("it was started");
        let end = Instant::now() + UP_PATIENCE;
        while !listens(child.id(), self.port) {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return Err(status);
            }
            assert!(Instant::now() < end, "an etcd that runs and does not listen on {}: {:?}", self.port, self.arguments);
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Starts it as often as it takes: where it listened before, or will be able to soon.
    fn start(&mut self, spawn: impl Fn(&mut Self)) {
        let end = Instant::now() + PATIENCE;
        spawn(self);
        while let Err(status) = self.came_up() {
            assert!(Instant::now() < end, "etcd ends before it listens on {}, {status}: {:?}", self.port, self.arguments);
            thread::sleep(LOOK_AGAIN);
            spawn(self);
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signal(&self, s: Signal) {
        kill(Pid::from_raw(self.child.as_ref().expect("it runs").id() as i32), s).unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Whether the process itself listens on the port, in its own network.
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let sockets: HashSet<String> = ["tcp", "tcp6"]
        .iter()
        .flat_map(|t| {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{t}")).unwrap_or_default();
            let of_line = |line: &str| {
                let fields: Vec<_> = line.split_ascii_whitespace().collect();
                let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
                (*state == LISTEN && local.ends_with(&format!(":{port:04X}"))).then(|| format!("socket:[{inode}]"))
            };
            text.lines().skip(1).filter_map(of_line).collect::<Vec<_>>()
        })
        .collect();
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.to_str().is_some_and(|t| sockets.contains(t)))
}

/// What members at `address` are started with.
fn arguments(dir: &str, address: &str, ports: [u16; 6]) -> Vec<Vec<String>> {
    let [clients, peers] = [&ports[..3], &ports[3..]].map(|p| p.iter().map(|p| format!("http://{address}:{p}")).collect::<Vec<_>>());
    let cluster: Vec<String> = peers.iter().enumerate().map(|(k, p)| format!("m{k}={p}")).collect();
    let of = |k: usize| {
        let (client, peer) = (clients[k].as_str(), peers[k].as_str());
        let data = format!("{dir}/m{k}");
        let name = format!("m{k}");
        [
            ["--name", &name],
            ["--data-dir", &data],
            ["--listen-client-urls", client],
            ["--advertise-client-urls", client],
            ["--listen-peer-urls", peer],
            ["--initial-advertise-peer-urls", peer],
            ["--initial-cluster", &cluster.join(",")],
            ["--log-level", "error"],
        ]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect()
    };
    (0..3).map(of).collect()
}

struct Cluster {
    members: Vec<Member>,
    endpoints: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let end = Instant::now() + PATIENCE;
        loop {
            match Self::try_start() {
                Ok(cluster) => return cluster,
                // Somebody took a port of it meanwhile.
                Err(status) => assert!(Instant::now() < end, "members of etcd end before they listen, {status}"),
            }
        }
    }

    fn try_start() -> Result<Self, ExitStatus> {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let arguments = arguments(dir.path().to_str().unwrap(), "127.0.0.1", ports).into_iter();
        let members = arguments.zip(ports).map(|(arguments, port)| Member::new(arguments, port)).collect();
        let endpoints = ports[..3].iter().map(|p| format!("http://127.0.0.1:{p}")).collect();
        let mut cluster = Self { members, endpoints, _dir: dir };
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.members.iter_mut().try_for_each(Member::came_up)?;
        Ok(cluster)
    }

    fn keeper(&self) -> EtcdArbiter {
        EtcdArbiter::new("redis", self.endpoints.clone(), &TlsFiles::default()).unwrap()
    }
}

/// The answer of members that may have to find together first.
fn patiently(keeper: &mut EtcdArbiter, ask: &Ask) -> Told {
    let end = Instant::now() + PATIENCE;
    loop {
        match keeper.ask(ask, Instant::now() + PATIENT_ASK) {
            Ok(told) => return told,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
    }
}

fn stands(keeper: &mut EtcdArbiter) -> Option<Record> {
    match patiently(keeper, &Ask::Read) {
        Told::Current(record) => record,
        told => panic!("a read that was told {told:?}"),
    }
}

fn ruling(term: u64, owner: u64) -> Ruling {
    Ruling { term: Term(term), owner: HostId(owner), in_sync: Members::both(HostId(1), HostId(2)), phase: Phase::Claim }
}

fn put(expect: Version, ruling: Ruling) -> Ask {
    Ask::Put { expect, ruling }
}

#[test]
fn of_two_hosts_that_put_at_once_one_is_granted() {
    const VERSIONS: u64 = 60;
    let cluster = Cluster::start();
    assert_eq!(stands(&mut cluster.keeper()), None);
    let race = |host: u64| {
        let mut keeper = cluster.keeper();
        let mut granted = Vec::new();
        loop {
            let version = stands(&mut keeper).map_or(Version::ABSENT, |r| r.version);
            if version.0 >= VERSIONS {
                return granted;
            }
            match patiently(&mut keeper, &put(version, ruling(version.0 + 1, host))) {
                Told::Granted(r) => granted.push(r),
                Told::Lost(r) => assert!(r.is_some_and(|r| r.version > version)),
                told @ Told::Current(_) => panic!("a put that was told {told:?}"),
            }
        }
    };
    let granted: Vec<Record> = thread::scope(|s| {
        let hosts = [1, 2].map(|host| s.spawn(move || race(host)));
        hosts.into_iter().flat_map(|h| h.join().unwrap()).collect()
    });
    let by_version: BTreeMap<u64, Ruling> = granted.iter().map(|r| (r.version.0, r.ruling)).collect();
    assert_eq!(by_version.len(), granted.len(), "granted twice: {granted:?}");
    assert!(by_version.keys().copied().eq(1..=VERSIONS), "{by_version:?}");
    let last = stands(&mut cluster.keeper()).unwrap();
    assert_eq!(by_version[&VERSIONS], last.ruling);
}

#[test]
fn a_member_that_is_lost_is_passed_over_and_two_are_too_many() {
    let mut cluster = Cluster::start();
    let mut keeper = cluster.keeper();
    let Told::Granted(first) = patiently(&mut keeper, &put(Version::ABSENT, ruling(1, 1))) else { panic!("not granted") };
    // Whichever it asks first.
    cluster.members[0].kill();
    let Told::Granted(second) = patiently(&mut keeper, &put(first.version, ruling(2, 1))) else { panic!("not granted") };
    cluster.members[1].kill();
    let begun = Instant::now();
    let lost = keeper.ask(&put(second.version, ruling(3, 2)), begun + PATIENT_ASK);
    assert!(matches!(lost, Err(KeeperError::Unknown(_))), "{lost:?}");
    assert!(begun.elapsed() < PATIENT_ASK + Duration::from_secs(2), "{:?}", begun.elapsed());
    cluster.members[2].kill();
    let none = keeper.ask(&Ask::Read, Instant::now() + PATIENT_ASK);
    assert!(matches!(none, Err(KeeperError::Unreachable(_))), "{none:?}");
    cluster.members.iter_mut().for_each(|m| m.start(Member::spawn));
    let now = stands(&mut keeper).unwrap();
    // The put that nobody answered was done or was not.
    assert!([(2, ruling(2, 1)), (3, ruling(3, 2))].contains(&(now.version.0, now.ruling)), "{now:?}");
    assert!(matches!(patiently(&mut keeper, &put(first.version, ruling(9, 2))), Told::Lost(Some(r)) if r == now));
    assert!(matches!(patiently(&mut keeper, &put(now.version, ruling(9, 2))), Told::Granted(_)));
}

#[test]
fn a_member_that_hangs_is_passed_over_in_time() {
    let cluster = Cluster::start();
    let mut keeper = cluster.keeper();
    assert_eq!(stands(&mut keeper), None);
    for member in &cluster.members {
        member.signal(Signal::SIGSTOP);
        // If it led, the others find that out first.
        patiently(&mut keeper, &Ask::Read);
        let begun = Instant::now();
        let told = keeper.ask(&Ask::Read, begun + PATIENT_ASK);
        assert!(told.is_ok(), "{told:?} after {:?}", begun.elapsed());
        member.signal(Signal::SIGCONT);
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let o = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output().expect("needs openssl");
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
}

#[test]
fn over_tls_both_sides_must_be_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for ca in ["ca", "other"] {
        openssl(dir.path(), &format!("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"));
    }
    fs::write(path("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["member", "host"] {
        openssl(dir.path(), &format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san";
        openssl(dir.path(), &format!("x509 -req -in {name}.csr {by} -out {name}.pem"));
    }
    let file = |name: &str| path(name).to_str().unwrap().to_owned();
    let spawn = |member: &mut Member| {
        let [client, peer] = free_ports();
        let url = format!("https://127.0.0.1:{client}");
        let arguments = [
            ["--data-dir", &file("data")],
            ["--listen-client-urls", &url],
            ["--advertise-client-urls", &url],
            ["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")],
            ["--trusted-ca-file", &file("ca.pem")],
            ["--cert-file", &file("member.pem")],
            ["--key-file", &file("member.key")],
            ["--log-level", "error"],
        ];
        let arguments = arguments.concat().iter().map(ToString::to_string).chain(["--client-cert-auth".to_owned()]).collect();
        *member = Member::new(arguments, client);
        member.spawn();
    };
    let mut member = Member::new(Vec::new(), 0);
    member.start(spawn);
    let url = format!("https://127.0.0.1:{}", member.port);
    let keeper = |ca: &str, own: Option<(&str, &str)>| {
        let own = own.map(|(c, k)| (path(c), path(k)));
        EtcdArbiter::new("redis", vec![url.clone()], &TlsFiles { ca: Some(path(ca)), own })
    };
    let host = Some(("host.pem", "host.key"));
    let granted = patiently(&mut keeper("ca.pem", host).unwrap(), &put(Version::ABSENT, ruling(1, 1)));
    assert!(matches!(granted, Told::Granted(_)));
    for (ca, own) in [("other.pem", host), ("ca.pem", None)] {
        let refused = keeper(ca, own).unwrap().ask(&Ask::Read, Instant::now() + PATIENT_ASK);
        assert!(refused.is_err(), "{ca} {own:?}: {refused:?}");
    }
    for (ca, own) in [("none.pem", host), ("host.key", host), ("ca.pem", Some(("ca.pem", "san")))] {
        let e = keeper(ca, own).err().expect("files that are none of these").to_string();
        assert!(e.contains("none.pem") || e.contains("host.key") || e.contains("san"), "{e}");
    }
}

/// Who serves is decided in an etcd on the third host. One member of it is no loss; all are missed; after the death of the
/// primary's host they give the word.
#[test]
fn a_pair_is_ruled_by_etcd() {
    const ADDRESS: &str = "192.168.78.9";
    // A machine that stands still for a while loses nobody.
    const LIMITS: &str = "[limits]\nsilence_ms_max = 3000\n";
    let dir = tempfile::tempdir().unwrap();
    let ports = [2379, 2479, 2579, 2380, 2480, 2580];
    let endpoints: Vec<String> = ports[..3].iter().map(|p| format!("\"http://{ADDRESS}:{p}\"")).collect();
    let config = format!("[arbiter]\nkind = \"etcd\"\nendpoints = [{}]\n{LIMITS}", endpoints.join(", "));
    let redis = ["redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no"];
    let (rig, mut members) = Rig::up_beside("etcd", &config, &[], &redis, |rig| {
        let begin = arguments(dir.path().to_str().unwrap(), ADDRESS, ports).into_iter();
        let mut members: Vec<_> = begin.zip(ports).map(|(arguments, port)| Member::new(arguments, port)).collect();
        members.iter_mut().for_each(|m| on_witness(rig, m));
        members
    });
    let client = |command: &[&str]| rig.exec("client", &[&["redis-cli", "-h", &rig.address], command].concat());
    assert_eq!(client(&["SET", "key", "kept"]).trim(), "OK");
    let said = |what: &str| ["alpha", "beta"].iter().filter(|h| rig.events(h).contains(what)).count();
    members[0].kill();
    // Both ask every two seconds.
    thread::sleep(Duration::from_secs(5));
    assert_eq!(said("ARBITER LOST"), 0);
    members[1..].iter().for_each(|m| m.signal(Signal::SIGSTOP));
    rig.wait_until(|_| said("ARBITER LOST") == 2);
    members[1..].iter().for_each(|m| m.signal(Signal::SIGCONT));
    rig.wait_until(|_| said("the arbiter answers") == 2);
    rig.fault("alpha", "kill-host");
    rig.wait_until(|r| r.primaries() == ["beta"]);
    assert_eq!(client(&["GET", "key"]).trim(), "kept");
}

/// Starts it on the third host of a rig, as soon as there is one and has its address.
fn on_witness(rig: &Rig, member: &mut Member) {
    member.start(|m| {
        let mut c = rig.ft("exec");
        c.args(["witness", "--", "etcd"]);
        m.spawn_by(c);
    });
}
