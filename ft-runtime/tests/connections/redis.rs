//! A real redis-server: values as large as many windows, and TLS by the OpenSSL in the guest.

use crate::client::{piece, wrong_at};
use crate::many::Memory;
use crate::rigged::{PATIENCE, PATIENT, Rig};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const VALUE_BYTES: u64 = 64 << 20;
/// Of it before the fault.
const BEFORE_BYTES: u64 = 20 << 20;
const ENGINE_BYTES_MAX: usize = 64 << 20;

fn up(name: &str, options: &[&str]) -> Rig {
    let server = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/var/lib/redis", "--save", ""];
    Rig::up(name, PATIENT, &["--port", "6379"], &[&server[..], options].concat())
}

struct Redis(BufReader<TcpStream>);

impl Redis {
    fn connect(rig: &Rig) -> Self {
        let at = format!("{}:6379", rig.address);
        let stream = rig.at_client(|| TcpStream::connect(at)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap_or_else(|e| panic!("no line: {e}"));
        line.trim_end().to_owned()
    }

    fn send_value(&mut self, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let p = piece(at, to);
            self.0.get_mut().write_all(p).unwrap_or_else(|e| panic!("sending near {at}: {e}"));
            at += p.len() as u64;
        }
    }

    fn expect_value(&mut self, from: u64, to: u64) {
        let mut at = from;
        let mut buffer = vec![0; 64 << 10];
        while at < to {
            let want = piece(at, to);
            self.0.read_exact(&mut buffer[..want.len()]).unwrap_or_else(|e| panic!("near {at}: {e}"));
            assert_eq!(wrong_at(&buffer[..want.len()], want), None, "near {at}");
            at += want.len() as u64;
        }
    }
}

fn expect_small_engines(rig: &Rig, hosts: &[&str]) {
    for host in hosts {
        let engine = Memory::of(rig, host, "redis-server").engine;
        eprintln!("{host}: engine {} KiB", engine >> 10);
        assert!(engine <= ENGINE_BYTES_MAX, "{host}: {engine} bytes");
    }
}

/// A value of 64 MB goes in and out by back-pressure; the host is lost while it goes.
fn a_large_value(name: &str, fault_in_set: bool) {
    let rig = up(name, &["--port", "6379"]);
    let fault = || rig.fault("alpha", "kill-host");
    let mut c = Redis::connect(&rig);
    c.say(&format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE_BYTES}\r\n"));
    c.send_value(0, BEFORE_BYTES);
    expect_small_engines(&rig, &["alpha", "beta"]);
    if fault_in_set {
        fault();
    }
    c.send_value(BEFORE_BYTES, VALUE_BYTES);
    c.say("\r\n");
    assert_eq!(c.line(), "+OK");
    c.say("GET k\r\n");
    assert_eq!(c.line(), format!("${VALUE_BYTES}"));
    c.expect_value(0, BEFORE_BYTES);
    if !fault_in_set {
        // The client is slow: all that the engine has of it is the window.
        expect_small_engines(&rig, &["alpha", "beta"]);
        fault();
    }
    c.expect_value(BEFORE_BYTES, VALUE_BYTES);
    assert_eq!(c.line(), "");
    c.say("STRLEN k\r\n");
    assert_eq!(c.line(), format!(":{VALUE_BYTES}"));
    expect_small_engines(&rig, &["beta"]);
    assert_eq!(rig.primaries(), ["beta"]);
}

#[test]
fn a_large_value_is_set_through_a_takeover() {
    a_large_value("set64", true);
}

#[test]
fn a_large_value_is_got_through_a_takeover() {
    a_large_value("get64", false);
}

/// `openssl s_client`: it does not connect again, and a wrong byte ends its session.
struct Tls {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Tls {
    fn connect(rig: &Rig, options: &[&str]) -> Self {
        let at = format!("{}:6379", rig.address);
        let mut process = rig.at_client(|| {
            let mut c = Command::new("openssl");
            c.args(["s_client", "-quiet", "-verify_quiet", "-connect", &at]).args(options);
            c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl: scripts/setup")
        });
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, to, from }
    }

    fn ask(&mut self, text: &str, answer: &str) {
        self.to.write_all(format!("{text}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), answer, "answer to {text:?}");
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn tls_sessions_go_on() {
    const LOAD: Duration = Duration::from_secs(3);
    // Where all hosts see it.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (key, certificate) = (dir.path().join("key"), dir.path().join("certificate"));
    let o = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=redis"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl: scripts/setup");
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let tls = ["--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no"];
    let rig = up("tls", &[&tls[..], &["--tls-key-file", key, "--tls-cert-file", certificate]].concat());
    // Sessions of both protocols, the newest and the one before.
    let mut all: Vec<(Tls, u64)> = (0..6).map(|k| (Tls::connect(&rig, &[["-tls1_3", "-tls1_2"][k % 2]]), 0)).collect();
    let mut idle = Tls::connect(&rig, &[]);
    idle.ask("PING", "+PONG");
    let started = Instant::now();
    let mut fault = None;
    while started.elapsed() < LOAD {
        if fault.is_none() && started.elapsed() > LOAD / 3 {
            let mut c = rig.ft("fault");
            fault = Some(c.args(["alpha", "kill-host"]).stdout(Stdio::null()).spawn().unwrap());
        }
        for (k, (c, n)) in all.iter_mut().enumerate() {
            *n += 1;
            c.ask(&format!("INCR c{k}"), &format!(":{n}"));
        }
    }
    assert!(fault.unwrap().wait().unwrap().success());
    idle.ask("PING", "+PONG");
    Tls::connect(&rig, &[]).ask("PING", "+PONG");
    assert_eq!(rig.primaries(), ["beta"]);
}
