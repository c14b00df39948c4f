//! The verifying clients notice what they are there for. A bare redis-server is spoilt behind their back.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);

struct Redis {
    address: SocketAddr,
    process: Child,
}

impl Redis {
    fn start() -> Self {
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("scripts/setup installs redis-server");
        let end = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { address, process }
    }

    fn command(&self, words: &[&str]) {
        let text: String = words.iter().map(|w| format!("${}\r\n{w}\r\n", w.len())).collect();
        let mut s = TcpStream::connect(self.address).unwrap();
        s.write_all(format!("*{}\r\n{text}", words.len()).as_bytes()).unwrap();
        let mut reply = [0];
        s.read_exact(&mut reply).unwrap();
        assert_ne!(reply, *b"-", "{words:?}");
    }

    fn eval(&self, script: &str) {
        self.command(&["EVAL", script, "0"]);
    }

    /// Two connections write; `spoil` happens in the middle. Exit status and result.
    fn verified(&self, spoil: impl FnOnce(&Self)) -> (bool, Value) {
        let mut client = Command::new(env!("CARGO_BIN_EXE_ft-bench"))
            .args(["verify", &self.address.to_string(), "--seconds=2", "--conns=2", "--rate=400", "--idle=3"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "\"began\"");
        // Enough is written by then.
        assert!(lines.next().unwrap().contains("acknowledged"));
        spoil(self);
        let last: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
        (client.wait().unwrap().success(), last["ended"].clone())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_that_keeps_all_passes() {
    let redis = Redis::start();
    let (ok, r) = redis.verified(|_| {});
    assert!(ok, "{r}");
    assert_eq!((&r["open"], &r["reset"], &r["stalled"]), (&2.into(), &0.into(), &0.into()));
    assert_eq!(r["idle_lost"], 0);
    assert!(r["acknowledged"].as_u64().unwrap() > 100, "{}", r["acknowledged"]);
    assert_eq!(r["samples"].as_array().unwrap().len() as u64, r["acknowledged"].as_u64().unwrap());
    assert_eq!(r["server"][0], r["server"][1]);
}

#[test]
fn what_is_lost_or_doubled_is_counted() {
    let redis = Redis::start();
    let (ok, r) = redis.verified(|redis| {
        redis.eval("return redis.call('DECRBY', redis.call('KEYS', 'demo*:c:0')[1], 3)");
        redis.eval("return redis.call('INCRBY', redis.call('KEYS', 'demo*:c:1')[1], 2)");
        redis.eval("return redis.call('LPOP', redis.call('KEYS', 'demo*:l:0')[1], 4)");
        redis.eval(
            "local k = redis.call('KEYS', 'demo*:l:1')[1] return redis.call('RPUSH', k, redis.call('LINDEX', k, 0))",
        );
    });
    let v = &r["verdict"];
    assert!(!ok && v["lost"] == 7 && v["doubled"] == 3, "{v} {}", r["errors"]);
    assert_eq!(r["open"], 2);
}

#[test]
fn a_connection_that_breaks_is_counted_and_its_writes_are_still_verified() {
    let redis = Redis::start();
    let (ok, r) = redis.verified(|redis| {
        redis.eval("return redis.call('LPOP', redis.call('KEYS', 'demo*:l:0')[1])");
        redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    });
    let v = &r["verdict"];
    assert!(!ok && r["reset"] == 2 && r["open"] == 0, "{} {}", r["reset"], r["open"]);
    assert_eq!(r["idle_lost"], 3);
    assert!(v["lost"] == 1 && v["unverified"] == 0, "{v}");
}

#[test]
fn a_server_that_is_gone_verifies_nothing() {
    let redis = Redis::start();
    let (ok, r) = redis.verified(|redis| {
        let pid = redis.process.id().to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    });
    assert!(!ok && r["reset"] == 2, "{}", r["reset"]);
    assert_eq!(r["verdict"]["unverified"], r["acknowledged"]);
}
