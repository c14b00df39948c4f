//! Several subscribers, by channel and by pattern; one publisher.

use super::{Outcome, Session, bytes};
use crate::resp::{Client, Reply};
use std::io;
use std::time::Duration;

const CHANNELS: u32 = 8;

/// May be killed by the admin at any time, and comes back.
pub fn subscribe(s: &mut Session) -> Outcome {
    while !s.is_over() {
        let mut c = s.connect()?;
        if let Err(e) = listen(s, &mut c) {
            match e.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {}
                _ => return Err(format!("as a subscriber: {e}")),
            }
        }
    }
    Ok(())
}

fn listen(s: &mut Session, c: &mut Client) -> io::Result<()> {
    let resp3 = s.rng.bool();
    if resp3 {
        c.call(&[&"HELLO", &"3"])?;
    }
    c.stream().set_read_timeout(Some(Duration::from_millis(100)))?;
    let first = format!("channel:{}", s.rng.u32(0..CHANNELS));
    c.push(&[&"SUBSCRIBE", &first, &"everyone"]);
    c.push(&[&"PSUBSCRIBE", &"channel:[0-3]"]);
    if s.rng.bool() {
        c.push(&[&"SSUBSCRIBE", &"shard"]);
    }
    c.flush()?;
    s.count(2);
    let mut seen = 0u32;
    while !s.is_over() {
        let m = match c.message() {
            Ok(m) => m,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(e) => return Err(e),
        };
        if !matches!(m, Reply::Array(_)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a subscriber got {m:?}")));
        }
        seen += 1;
        if s.rng.u32(0..60) == 0 {
            let other = format!("channel:{}", s.rng.u32(0..CHANNELS));
            let verb = if s.rng.bool() { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
            c.push(&[&verb, &other]);
            c.flush()?;
            s.count(1);
        }
        if seen > 3000 {
            return Ok(());
        }
    }
    Ok(())
}

pub fn publish(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    while !s.is_over() {
        for _ in 0..s.rng.u32(1..6) {
            let channel = format!("channel:{}", s.rng.u32(0..CHANNELS));
            let n = if s.rng.u32(0..30) == 0 { s.rng.usize(0..3000) } else { s.rng.usize(0..40) };
            let text = bytes(&mut s.rng, n);
            match s.rng.u32(0..12) {
                0 => c.push(&[&"PUBSUB", &"NUMSUB", &channel]),
                1 => c.push(&[&"PUBLISH", &"everyone", &text]),
                2 => c.push(&[&"SPUBLISH", &"shard", &text]),
                _ => c.push(&[&"PUBLISH", &channel, &text]),
            }
        }
        s.exchange(&mut c)?;
        s.pause_ms(12);
    }
    Ok(())
}
