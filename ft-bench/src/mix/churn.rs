//! Connections that come and go in every way a connection can end.

use super::{Outcome, Session, data};
use crate::resp::{Client, Reply, encode};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

pub fn run(s: &mut Session) -> Outcome {
    while !s.is_over() {
        match s.rng.u32(0..14) {
            0..3 => short(s)?,
            3 => nothing(s)?,
            4 => half_a_command(s)?,
            5 | 6 => half_closed(s)?,
            7 | 8 => reset(s)?,
            9 => killed(s)?,
            10 => quit(s)?,
            11 => nonsense(s)?,
            12 => byte_by_byte(s)?,
            _ => many(s)?,
        }
        s.pause_ms(6);
    }
    Ok(())
}

fn short(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    for _ in 0..s.rng.u32(1..4) {
        data::push(&mut c, &mut s.rng);
    }
    s.exchange(&mut c).map(drop)
}

fn nothing(s: &mut Session) -> Outcome {
    s.connect().map(drop)
}

fn half_a_command(s: &mut Session) -> Outcome {
    let c = s.connect()?;
    let mut b = Vec::new();
    encode(&mut b, &[&"SET", &"never", &"written"]);
    b.truncate(s.rng.usize(1..b.len()));
    // The server may be quicker to close than we are to write: no matter.
    let _ = (&mut c.stream()).write_all(&b);
    s.pause_ms(3);
    Ok(())
}

/// All requests, then FIN; every reply must come before the server's FIN.
fn half_closed(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    let n = s.rng.u32(1..60);
    for _ in 0..n {
        data::push(&mut c, &mut s.rng);
    }
    let wrong = |e: io::Error| format!("half-closed: {e}");
    c.flush().map_err(wrong)?;
    c.stream().shutdown(Shutdown::Write).map_err(wrong)?;
    // redis closes when it reads the FIN, whatever it has not yet answered: what comes must be whole from the start.
    let mut answered = 0;
    loop {
        match c.message() {
            Ok(r) => {
                answered += 1;
                s.count(1);
                s.check(&r)?;
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => break,
            Err(e) => return Err(wrong(e)),
        }
    }
    if answered > n { Err(format!("{answered} replies to {n} requests")) } else { Ok(()) }
}

/// RST in the middle of requests or of replies.
fn reset(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    for _ in 0..s.rng.u32(0..40) {
        data::push(&mut c, &mut s.rng);
    }
    if s.rng.bool() {
        c.push(&[&"LOLWUT"]);
        c.push(&[&"COMMAND"]);
    }
    let mut b = c.take_unsent();
    b.truncate(s.rng.usize(0..=b.len()));
    let _ = (&mut c.stream()).write_all(&b);
    if s.rng.bool() {
        let _ = c.stream().set_read_timeout(Some(Duration::from_millis(20)));
        let _ = (&mut c.stream()).read(&mut [0; 1000]);
    }
    SockRef::from(c.stream()).set_linger(Some(Duration::ZERO)).map_err(|e| format!("SO_LINGER: {e}"))
}

/// By itself, and by another while it waits.
fn killed(s: &mut Session) -> Outcome {
    let (mut a, mut b) = (s.connect()?, s.connect()?);
    let Reply::Int(id) = s.call(&mut a, &[&"CLIENT", &"ID"])? else { return Err("CLIENT ID answers no number".into()) };
    let id = id.to_string();
    if s.rng.bool() {
        a.push(&[&"BLPOP", &"nobody", &"5"]);
        a.flush().map_err(|e| format!("before being killed: {e}"))?;
        s.pause_ms(3);
    }
    s.call(&mut b, &[&"CLIENT", &"KILL", &"ID", &id])?;
    match a.message() {
        Ok(r) => Err(format!("a killed client got {r:?}")),
        Err(_) => Ok(()),
    }
}

fn quit(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    s.call(&mut c, &[&"CLIENT", &"SETNAME", &"short-lived"])?;
    s.call(&mut c, &[&"QUIT"])?;
    match c.message() {
        Ok(r) => Err(format!("after QUIT came {r:?}")),
        Err(_) => Ok(()),
    }
}

/// Protocol errors, of which the server says one and closes; and inline commands, which it takes.
fn nonsense(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    let lines: [&[u8]; 4] = [b"*1\r\n$x\r\n", b"*3\r\n:1\r\n", b"PING\r\nECHO hello\r\n", b"\r\n\r\nPING \"unfinished\r\n"];
    let line = lines[s.rng.usize(0..lines.len())];
    let _ = (&mut c.stream()).write_all(line);
    s.count(1);
    let _ = c.stream().set_read_timeout(Some(Duration::from_millis(30)));
    let _ = c.message();
    Ok(())
}

fn byte_by_byte(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    let mut b = Vec::new();
    encode(&mut b, &[&"SET", &"slowly", &"written"]);
    for byte in &b {
        (&mut c.stream()).write_all(&[*byte]).map_err(|e| format!("byte by byte: {e}"))?;
        if s.rng.u32(0..4) == 0 {
            std::thread::yield_now();
        }
    }
    let r = c.message().map_err(|e| format!("byte by byte: {e}"))?;
    s.count(1);
    s.check(&r)
}

fn many(s: &mut Session) -> Outcome {
    let mut all = Vec::<Client>::new();
    for _ in 0..s.rng.u32(5..40) {
        let mut c = s.connect()?;
        data::push(&mut c, &mut s.rng);
        c.flush().map_err(|e| format!("one of many: {e}"))?;
        all.push(c);
    }
    s.rng.shuffle(&mut all);
    for c in &mut all {
        let r = c.reply().map_err(|e| format!("one of many: {e}"))?;
        s.count(1);
        s.check(&r)?;
    }
    Ok(())
}
