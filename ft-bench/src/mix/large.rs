//! Values up to a megabyte, and clients that read slower than the server writes.

use super::{Outcome, Session};
use crate::resp::{Client, Reply};
use fastrand::Rng;
use socket2::{Domain, Socket, Type};
use std::io::Read;
use std::time::Duration;

const KEYS: u32 = 8;
const VALUE_BYTES_MAX: usize = 1 << 20;
const SLOW_WINDOW_BYTES: usize = 8 << 10;

pub fn run(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    while !s.is_over() {
        let key = format!("large:{}:{}", s.number, s.rng.u32(0..KEYS));
        let seed = s.rng.u64(..);
        let value = content(seed);
        let before = s.epoch();
        if !matches!(s.call(&mut c, &[&"SET", &key, &value])?, Reply::Status(_)) {
            // Refused for want of memory.
            continue;
        }
        let got = match s.rng.u32(0..4) {
            0 => slow_get(s, &key)?,
            _ => s.call(&mut c, &[&"GET", &key])?,
        };
        match got {
            Reply::Bulk(b) if b == value => {}
            Reply::Nil | Reply::Error(_) if !before.is_multiple_of(2) || s.epoch() != before => {}
            Reply::Bulk(b) => return Err(format!("{key}: {} bytes came back, not the {} written", b.len(), value.len())),
            other => return Err(format!("{key}: {} bytes were written, {other:?} came back", value.len())),
        }
        match s.rng.u32(0..5) {
            0 => drop(s.call(&mut c, &[&"UNLINK", &key])?),
            1 => drop(s.call(&mut c, &[&"APPEND", &key, &"more"])?),
            2 => drop(s.call(&mut c, &[&"GETRANGE", &key, &"1000", &"200000"])?),
            _ => {}
        }
        s.pause_ms(60);
    }
    Ok(())
}

fn content(seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let most = if rng.u32(0..4) == 0 { VALUE_BYTES_MAX } else { 100_000 };
    let n = rng.usize(1000..=most);
    let mut v = vec![0; n];
    rng.fill(&mut v);
    v
}

/// Asks for a value several times over a small window and reads it bit by bit; the last one is the answer.
fn slow_get(s: &mut Session, key: &str) -> Result<Reply, String> {
    let fail = |e: std::io::Error| format!("as a slow reader: {e}");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(fail)?;
    socket.set_recv_buffer_size(SLOW_WINDOW_BYTES).map_err(fail)?;
    super::with_a_port(|| socket.connect(&s.shared.address.into())).map_err(fail)?;
    let stream: std::net::TcpStream = socket.into();
    stream.set_read_timeout(Some(crate::resp::PATIENCE)).map_err(fail)?;
    let mut c = Client::on(stream);
    let times = s.rng.u32(1..4);
    for _ in 0..times {
        c.push(&[&"GET", &key]);
    }
    c.push(&[&"PING"]);
    c.flush().map_err(fail)?;
    std::thread::sleep(Duration::from_millis(s.rng.u64(0..80)));
    let mut got = Vec::new();
    let mut piece = [0; 16 << 10];
    // Slowly while it is worth it, so that the server meets a full window.
    for _ in 0..s.rng.u32(0..40) {
        let n = c.stream().read(&mut piece).map_err(fail)?;
        got.extend_from_slice(&piece[..n]);
        if got.ends_with(b"+PONG\r\n") || n == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    c.prepend(got);
    let mut last = Reply::Nil;
    for _ in 0..times {
        last = c.reply().map_err(fail)?;
    }
    let pong = c.reply().map_err(fail)?;
    s.count(u64::from(times) + 1);
    if pong != Reply::Status("PONG".into()) {
        return Err(format!("PING behind {times} large replies got {pong:?}"));
    }
    Ok(last)
}
