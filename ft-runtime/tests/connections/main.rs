//! Every state that a connection can be in, through every kind of takeover, over IPv4 and IPv6: the client gets exactly the
//! right bytes, nothing is reset that nobody reset, nothing hangs.
//!
//! All states are there at once when the fault comes; each is looked at on a thread of its own afterwards.

mod client;
#[path = "../rigged/mod.rs"]
mod rigged;
mod many;
mod redis;
mod states;

use client::Client;
use rigged::{PATIENT, Rig};
use states::STATES;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PORT: u16 = 7000;

/// For campaigns.
fn number(variable: &str, unless_set: usize) -> usize {
    std::env::var(variable).map_or(unless_set, |n| n.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn server(dir: &Path) -> PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/connections/server.c"), dir.join("server"));
    let made = Command::new("gcc").args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).args([&to, &from]).output();
    let made = made.expect("gcc: scripts/setup");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    to
}

fn up(name: &str, config: &str) -> Rig {
    // Where all hosts see it.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let server = server(dir.path());
    let port = PORT.to_string();
    Rig::up(name, config, &["--port", &port], &[server.to_str().unwrap(), &port])
}

/// Where and over what the states are set up.
pub struct Place<'a> {
    pub rig: &'a Rig,
    /// 4 or 6.
    pub family: u8,
    pub main: SocketAddr,
    /// Nobody accepts there before somebody says so.
    pub later: SocketAddr,
}

impl Place<'_> {
    fn of(rig: &Rig, family: u8) -> Place<'_> {
        let ip = if family == 4 { &rig.address } else { &rig.address6 }.parse().unwrap();
        Place { rig, family, main: SocketAddr::new(ip, PORT), later: SocketAddr::new(ip, PORT + 1) }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.rig, self.main)
    }

    /// With a name by which others call it.
    pub fn connect_named(&self, name: &str) -> (Client, String) {
        let name = format!("{name}{}", self.family);
        let mut c = self.connect();
        c.ask(&format!("name {name}"), "ok");
        (c, name)
    }
}

fn families() -> &'static [u8] {
    if std::fs::exists("/proc/sys/net/ipv6").unwrap() { &[4, 6] } else { &[4] }
}

/// FT_STATE=NAME: only that one. FT_ROUNDS=n: a campaign.
fn survives(name: &str, host: &str, fault: &str, serves: &str) {
    let only = std::env::var("FT_STATE").ok();
    for round in 0..number("FT_ROUNDS", 1) {
        let rig = up(name, PATIENT);
        let mut before = Vec::new();
        for &family in families() {
            let place = Place::of(&rig, family);
            for (state, begin) in STATES.iter().filter(|(n, _)| only.as_ref().is_none_or(|o| o == n)) {
                before.push((*state, family, begin(&place)));
            }
        }
        let started = Instant::now();
        let failed: Vec<String> = std::thread::scope(|s| {
            let rig = &rig;
            let mut looks = Vec::new();
            for (k, (state, family, (at_fault, after))) in before.into_iter().enumerate() {
                let look = move || {
                    let place = Place::of(rig, family);
                    // Some before the fault, some in it.
                    std::thread::sleep(Duration::from_millis((k as u64 * 7 + round as u64 * 3) % 30));
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        at_fault();
                        after(&place);
                    }));
                    result.err().map(|e| {
                        let text = e.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| e.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                        format!("{state} over IPv{family}: {}", text.unwrap_or_default())
                    })
                };
                looks.push(s.spawn(look));
            }
            rig.fault(host, fault);
            looks.into_iter().filter_map(|l| l.join().unwrap()).collect()
        });
        assert!(failed.is_empty(), "{fault}, round {round}:\n{}\n{}", failed.join("\n"), rig.events(serves));
        rig.wait_until(|r| r.primaries() == [serves]);
        eprintln!("{fault}: all as it must be after {:?}", started.elapsed());
    }
}

#[test]
fn every_state_outlives_the_guest() {
    survives("sguest", "alpha", "kill-guest", "beta");
}

#[test]
fn every_state_outlives_the_engine() {
    survives("sengine", "alpha", "kill-engine", "beta");
}

#[test]
fn every_state_outlives_the_host() {
    survives("shost", "alpha", "kill-host", "beta");
}

#[test]
fn every_state_outlives_a_frozen_host() {
    survives("sfreeze", "alpha", "freeze-host", "beta");
}

#[test]
fn every_state_moves_with_the_service_network() {
    survives("sservice", "alpha", "cut-service", "beta");
}
