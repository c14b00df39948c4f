//! A client, two hosts and the bridge between them, in network namespaces without names: the kernel takes them away
//! with the last descriptor, however the test ends.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

pub struct Ns(OwnedFd);

impl Ns {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (as root)");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        let ns = Self(made.join().unwrap());
        // A fresh host's link-local address would be unusable for a second or two.
        ns.sysctl("ipv6/conf/default/accept_dad", "0");
        ns.ip("link set lo up");
        ns
    }

    /// Runs on a thread in the namespace; sockets made there stay there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| {
            let inside = s.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                f()
            });
            inside.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Commands of ip(8), one a line.
    pub fn ip(&self, commands: &str) {
        self.run(|| {
            let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success(), "ip: {commands}");
        });
    }

    /// What ip(8) prints.
    pub fn ip_show(&self, arguments: &str) -> String {
        self.run(|| {
            let out = Command::new("ip").args(arguments.split(' ')).output().unwrap();
            assert!(out.status.success(), "ip {arguments}");
            String::from_utf8(out.stdout).unwrap()
        })
    }

    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|e| panic!("{name}: {e}")));
    }

    /// A link's first moments swallow packets: its queue comes from a work queue too.
    fn until_up(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.ip_show("-br link show eth0").contains(" UP ") {
            assert!(Instant::now() < end, "eth0 is not up within {PATIENCE:?}");
        }
    }

    /// As another process can open it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn service(self) -> IpAddr {
        match self {
            Self::V4 => "10.77.0.100".parse().unwrap(),
            Self::V6 => "fd77::100".parse().unwrap(),
        }
    }

    pub fn client(self) -> IpAddr {
        match self {
            Self::V4 => "10.77.0.1".parse().unwrap(),
            Self::V6 => "fd77::1".parse().unwrap(),
        }
    }
}

const AT_ALPHA: &str = "address add 10.77.0.100/32 dev eth0\naddress add fd77::100/128 dev eth0 nodad\n";
/// Present, but nobody is told: not an address of the interface that hears the questions. An address that comes only
/// with the takeover is late: IPv6 adds it from a work queue, whatever `nodad` says.
const AT_BETA: &str = "address add 10.77.0.100/32 dev lo\naddress add fd77::100/128 dev lo nodad\n";

pub struct Net {
    pub client: Ns,
    pub bridge: Ns,
    /// The service's host at first.
    pub alpha: Ns,
    pub beta: Ns,
}

impl Net {
    pub fn new() -> Self {
        let net = Self { client: Ns::new(), bridge: Ns::new(), alpha: Ns::new(), beta: Ns::new() };
        let mut commands = "link add br0 type bridge\nlink set br0 up\n".to_owned();
        for (ns, port) in [(&net.client, "client"), (&net.alpha, "alpha"), (&net.beta, "beta")] {
            commands += &format!("link add {port} type veth peer name eth0 netns {}\n", ns.path());
            commands += &format!("link set {port} master br0\nlink set {port} up\n");
        }
        net.bridge.ip(&commands);
        for (ns, host) in [(&net.client, 1), (&net.alpha, 11), (&net.beta, 12)] {
            ns.ip(&format!(
                "link set eth0 up\naddress add 10.77.0.{host}/24 dev eth0\naddress add fd77::{host}/64 dev eth0 nodad\n"
            ));
        }
        for ns in [&net.alpha, &net.beta] {
            ns.sysctl("ipv4/tcp_syncookies", "0");
            ns.sysctl("ipv4/tcp_ecn", "0");
        }
        for ns in [&net.client, &net.alpha, &net.beta] {
            ns.until_up();
        }
        net.beta.sysctl("ipv4/conf/all/arp_ignore", "1");
        // Many connections go live while their one next hop is still asked for: none of their packets may be dropped.
        for family in ["ipv4", "ipv6"] {
            net.beta.sysctl(&format!("{family}/neigh/eth0/unres_qlen_bytes"), "16777216");
        }
        net.alpha.ip(AT_ALPHA);
        net.beta.ip(AT_BETA);
        net
    }

    /// Alpha is gone from the network, as by a cut cable.
    pub fn cut_alpha(&self) {
        self.bridge.ip("link set alpha down");
    }

    /// And back again, with nothing of the service's but the address; beta is gone.
    pub fn swap_hosts(&self) {
        self.bridge.ip("link set alpha up\nlink set beta down\n");
        self.alpha.until_up();
    }

    /// What alpha sends to the client reaches nobody; what the client sends arrives.
    pub fn deafen_client_to_alpha(&self, family: Family) {
        let alpha = self.alpha.ip_show("-br link show eth0");
        let mac = alpha.split_whitespace().nth(2).unwrap();
        self.client.ip(&format!("neighbour replace {} dev eth0 lladdr {mac} nud reachable\n", family.service()));
        let nobody = "lladdr 02:00:00:00:00:99 nud permanent";
        self.alpha.ip(&format!("neighbour replace {} dev eth0 {nobody}\n", family.client()));
    }
}
