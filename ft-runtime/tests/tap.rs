//! The tap on a switch: a bridge between three namespaces, a client's and two hosts'.
//!
//! All namespaces are held by descriptors of the test: nothing is left when it ends, however it ends.

use ft_runtime::gate::Gate;
use ft_runtime::gate::boot_time::BootTime;
use ft_runtime::gate::namespace::Namespace;
use ft_runtime::tap::flood::Caller;
use ft_runtime::tap::{Tap, shared_mac};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CLIENT: &str = "10.94.0.1";
const SERVICE: &str = "10.94.0.100";
const PATIENCE: Duration = Duration::from_secs(10);

fn is_root() -> bool {
    // SAFETY: no pointers.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("not tested: needs root");
    }
    root
}

fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let o = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(o.status.success(), "{command}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8(o.stdout).unwrap()
}

/// Ports are named as what they lead to.
struct Switch {
    switch: Namespace,
    client: Namespace,
    hosts: [Namespace; 2],
}

impl Switch {
    fn new() -> Self {
        let new = || Namespace::create().unwrap();
        let s = Self { switch: new(), client: new(), hosts: [new(), new()] };
        s.switch.within(|| run("ip link add br0 type bridge stp_state 0 mcast_snooping 0")).unwrap();
        s.switch.within(|| run("ip link set br0 up")).unwrap();
        for (port, end) in [("client", &s.client), ("alpha", &s.hosts[0]), ("beta", &s.hosts[1])] {
            let path = format!("/proc/{}/fd/{}", std::process::id(), end.as_fd().as_raw_fd());
            s.switch
                .within(|| {
                    run(&format!("ip link add {port} type veth peer name eth0 netns {path}"));
                    run(&format!("ip link set {port} master br0 up"));
                })
                .unwrap();
            end.within(|| run("ip link set eth0 up")).unwrap();
        }
        s.client.within(|| run(&format!("ip address add {CLIENT}/24 dev eth0"))).unwrap();
        s
    }

    fn gate(&self, host: usize) -> Gate {
        let address = format!("{SERVICE}/24").parse().unwrap();
        self.hosts[host].within(|| Gate::open("eth0", &[address], &[], Some(shared_mac("test"))).unwrap()).unwrap()
    }

    fn flood(&self, port: &str, on: bool) {
        let on = if on { "on" } else { "off" };
        self.switch.within(|| run(&format!("bridge link set dev {port} flood {on}"))).unwrap();
    }
}

fn hears(caller: &Caller, tap: &Tap, until: Duration) -> bool {
    let end = Instant::now() + until;
    loop {
        caller.call().unwrap();
        sleep(Duration::from_millis(5));
        if tap.hears_caller() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
    }
}

#[test]
fn a_tap_hears_the_other_host_only_where_the_network_floods() {
    if !is_root() {
        return;
    }
    let s = Switch::new();
    let gate = s.gate(1);
    let tap = Tap::open(gate.net()).unwrap();
    let caller = s.hosts[0].within(|| Caller::open("eth0", shared_mac("test")).unwrap()).unwrap();
    assert!(hears(&caller, &tap, PATIENCE));
    s.flood("beta", false);
    while tap.hears_caller() {}
    assert!(!hears(&caller, &tap, Duration::from_millis(300)));
    s.flood("beta", true);
    assert!(hears(&caller, &tap, PATIENCE));
}

/// Else the switch would learn where it is, and send what is for it there only.
#[test]
fn no_frame_comes_from_the_shared_address() {
    if !is_root() {
        return;
    }
    let s = Switch::new();
    let [mut speaks, _listens] = [s.gate(0), s.gate(1)];
    speaks.resume(BootTime::now().after(PATIENCE)).unwrap();
    speaks.ingress().open();
    let mac = shared_mac("test").map(|b| format!("{b:02x}")).join(":");
    let asks = s.client.within(|| UdpSocket::bind((CLIENT, 0)).unwrap()).unwrap();
    let end = Instant::now() + PATIENCE;
    // The kernel answers who asks for the address, without the engine.
    let mut neighbours = String::new();
    while !neighbours.contains(&mac) {
        assert!(Instant::now() < end, "the client doesn't learn the address: {neighbours}");
        asks.send_to(b"?", (SERVICE, 9)).unwrap();
        sleep(Duration::from_millis(5));
        neighbours = s.client.within(|| run("ip neigh show dev eth0")).unwrap();
    }
    let learned = s.switch.within(|| run("bridge fdb show dynamic")).unwrap();
    assert!(!learned.contains(&mac), "the switch knows it: {learned}");
    let own = s.hosts[0].within(|| run("ip -br link show eth0")).unwrap();
    let own = own.split_whitespace().find(|w| w.contains(':')).unwrap().to_owned();
    assert!(learned.contains(&own), "the answer came from elsewhere: {learned}, not {own}");
}
