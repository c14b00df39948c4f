//! `ft status` and `ft events` against a control socket, as people call them.

use ft_runtime::pair::status::{ControlSocket, Milestone, Order, Progress, Shown, StatusBoard};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

struct Engine {
    board: StatusBoard,
    socket: Option<ControlSocket>,
    dir: PathBuf,
}

impl Engine {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ft-status-{}-{name}", std::process::id()));
        let board = StatusBoard::new("redis", "alpha", "beta");
        let socket = ControlSocket::open(&dir.join("redis.sock"), board.clone()).unwrap();
        Self { board, socket: Some(socket), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    fn ft(&self, arguments: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ft"));
        c.args(arguments).arg("--socket").arg(self.path()).stdin(Stdio::null());
        c
    }

    fn said(&self, arguments: &[&str]) -> String {
        let o = self.ft(arguments).output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8(o.stdout).unwrap()
    }

    fn error(&self, arguments: &[&str]) -> String {
        let o = self.ft(arguments).output().unwrap();
        assert_eq!(o.status.code(), Some(125), "{}", String::from_utf8_lossy(&o.stdout));
        String::from_utf8(o.stderr).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.socket = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn status_shows_what_the_board_has() {
    let e = Engine::start("status");
    e.board.set(Shown { role: "primary", state: "protected", term: 3 });
    let v: Value = serde_json::from_str(&e.said(&["status", "-o", "json"])).unwrap();
    assert_eq!((&v["role"], &v["term"], &v["host"]), (&"primary".into(), &3.into(), &"alpha".into()));
    assert!(v.get("lag_entries").is_none(), "nobody knows yet");
    e.board.set_progress(Progress { appended: 120, acknowledged: 117, lag_ms: 4, ..Progress::default() });
    let v: Value = serde_json::from_str(&e.said(&["status", "-o", "json"])).unwrap();
    assert_eq!((&v["lag_entries"], &v["lag_ms"], &v["log_appended"]), (&3.into(), &4.into(), &120.into()));
    let text = e.said(&["status"]);
    assert!(text.contains("role              primary\n") && text.contains("lag entries       3\n"), "{text}");
}

#[test]
fn watching_appends_lines_where_nobody_looks() {
    let e = Engine::start("watch");
    let mut watch = e.ft(&["status", "--watch", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for role in ["primary", "mute"] {
        e.board.set(Shown { role, state: "as it is", term: 1 });
        let shown = (&mut lines).map(|l| serde_json::from_str::<Value>(&l.unwrap()).unwrap());
        assert!(shown.take(5).any(|v| v["role"] == role), "{role} is never shown");
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn events_are_told_with_their_time_and_step() {
    let e = Engine::start("events");
    e.board.event("linked with beta");
    e.board.mark(Milestone::SocketsRestored, "50 connections");
    let text = e.said(&["events"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("20") && lines[0].ends_with("Z  linked with beta"), "{text}");
    assert!(lines[1].ends_with("Z  [sockets-restored] 50 connections"), "{text}");
    let json = e.said(&["events", "-o", "json"]);
    let v: Vec<Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&v[0]["seq"], &v[1]["seq"], &v[1]["milestone"]), (&1.into(), &2.into(), &"sockets-restored".into()));
    assert_eq!(v[1]["at_us"].as_u64().unwrap() / 1000, v[1]["at_ms"].as_u64().unwrap());
}

#[test]
fn a_follower_is_told_each_event_once() {
    const EVENTS: u64 = 3000;
    let e = Engine::start("follow");
    let mut follow = e.ft(&["events", "--follow", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for n in 1..=EVENTS {
        e.board.event(&format!("event {n}"));
        if n % 100 == 0 {
            // More at once than are kept would be dropped, and be told so.
            for k in n - 99..=n {
                let v: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                assert_eq!((v["seq"].as_u64(), v["event"].as_str()), (Some(k), Some(format!("event {k}").as_str())));
            }
        }
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_follower_notices_the_end_of_its_engine() {
    let mut e = Engine::start("end");
    e.socket = None;
    let engine = UnixListener::bind(e.path()).unwrap();
    let follow = e.ft(&["events", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut asker, _) = engine.accept().unwrap();
    let mut request = String::new();
    BufReader::new(&asker).read_line(&mut request).unwrap();
    assert_eq!(request, "{\"get\":\"events\",\"after\":0,\"follow\":true}\n");
    asker.write_all(b"{\"seq\":8,\"at_ms\":1,\"at_us\":1000,\"event\":\"the last\"}\n").unwrap();
    drop(asker);
    let o = follow.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8(o.stdout).unwrap(), String::from_utf8(o.stderr).unwrap());
    assert!(o.status.success() && out == "1970-01-01T00:00:00.001000Z  the last\n", "{out}");
    assert!(err.contains("7 older events") && err.contains("has ended"), "{err}");
}

/// An order, and what the engine says of it in the end.
fn ordered(name: &str, arguments: &[&str], order: Order, milestone: Milestone, text: &str) -> (bool, String) {
    let e = Engine::start(name);
    e.board.mark(Milestone::Refused, "of another order, long ago");
    let child = e.ft(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let given = loop {
        if let Some(o) = e.board.take_order() {
            break o;
        }
    };
    assert_eq!(given, order);
    e.board.event("something else");
    e.board.mark(milestone, text);
    // Its last words.
    drop(e);
    let o = child.wait_with_output().unwrap();
    (o.status.success(), String::from_utf8(o.stdout).unwrap() + &String::from_utf8(o.stderr).unwrap())
}

#[test]
fn what_becomes_of_an_order_is_waited_for() {
    let detach = ["backup", "detach"];
    for (arguments, order, done) in [
        (&["pause"][..], Order::Pause, Milestone::Paused),
        (&["resume"], Order::Resume, Milestone::Resumed),
        (&detach, Order::Detach, Milestone::Detached),
    ] {
        let name = arguments[arguments.len() - 1];
        assert_eq!(ordered(name, arguments, order, done, "it is done"), (true, "it is done\n".into()));
        let (ok, said) = ordered(&format!("no-{name}"), arguments, order, Milestone::Refused, "refused: not now");
        assert!(!ok && said.contains("not now") && !said.contains("long ago"), "{said}");
    }
    let (ok, said) = ordered("gone", &detach, Order::Detach, Milestone::Detected, "taking over, term 2");
    assert!(!ok && said.contains("taking over"), "{said}");
}

#[test]
fn errors_say_what_to_do() {
    let mut e = Engine::start("errors");
    let mut ask = UnixStream::connect(e.path()).unwrap();
    ask.write_all(b"{\"get\":\"weather\"}\n").unwrap();
    let mut said = String::new();
    ask.read_to_string(&mut said).unwrap();
    assert!(said.contains("error") && said.contains("weather") && said.contains("events"), "{said}");
    e.socket = None;
    let said = e.error(&["status"]);
    assert!(said.contains("does not exist") && said.contains("ft run"), "{said}");
    // As an engine that was killed leaves it.
    drop(UnixListener::bind(e.path()).unwrap());
    let said = e.error(&["status"]);
    assert!(said.contains("has ended") && said.contains("ft run"), "{said}");
}

#[test]
fn one_engine_per_socket() {
    let e = Engine::start("one");
    assert!(ControlSocket::open(&e.path(), e.board.clone()).is_err(), "a second engine");
    let path = e.path();
    drop(e);
    assert!(!path.exists());
}

#[test]
fn followers_do_not_keep_others_from_an_answer() {
    let e = Engine::start("many");
    let stalled: Vec<UnixStream> = (0..10)
        .map(|_| {
            let mut s = UnixStream::connect(e.path()).unwrap();
            s.write_all(b"{\"get\":\"events\",\"follow\":true}\n").unwrap();
            s
        })
        .collect();
    assert!(e.said(&["status"]).contains("alpha"));
    drop(stalled);
}

#[test]
fn a_second_engine_of_a_service_is_refused() {
    let e = Engine::start("second");
    let said = ControlSocket::open(&e.path(), e.board.clone()).err().unwrap().to_string();
    assert!(said.contains("another engine of this service runs here"), "{said}");
}
