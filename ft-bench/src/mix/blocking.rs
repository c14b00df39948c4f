//! Blocking commands whose timeouts run out, and that are served.

use super::{Outcome, Session};
use crate::resp::Arg;

const LISTS: u32 = 6;

/// Waits, mostly longer than something takes to come.
pub fn wait(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    while !s.is_over() {
        let (a, b) = (format!("wait:{}", s.rng.u32(0..LISTS)), format!("wait:{}", s.rng.u32(0..LISTS)));
        let (y, z) = (format!("waitz:{}", s.rng.u32(0..LISTS)), format!("waitz:{}", s.rng.u32(0..LISTS)));
        let ms = if s.rng.u32(0..4) == 0 { s.rng.u32(1..15) } else { s.rng.u32(15..400) };
        let seconds = (f64::from(ms) / 1000.0).to_string();
        let ms = ms.to_string();
        let args: &[Arg] = match s.rng.u32(0..8) {
            0 | 1 => &[&"BLPOP", &a, &b, &seconds],
            2 | 3 => &[&"BRPOP", &a, &seconds],
            4 => &[&"BLMOVE", &a, &"waited", &"LEFT", &"RIGHT", &seconds],
            5 => &[&"BZPOPMIN", &y, &z, &seconds],
            6 => &[&"BZPOPMAX", &z, &seconds],
            _ => &[&"XREAD", &"BLOCK", &ms, &"STREAMS", &"waitx", &"$"],
        };
        s.call(&mut c, args)?;
        // Blocked with more commands behind it.
        if s.rng.u32(0..5) == 0 {
            c.push(&[&"BLPOP", &a, &"0.02"]);
            c.push(&[&"LTRIM", &"waited", &"0", &"20"]);
            c.push(&[&"BZPOPMIN", &y, &"0.01"]);
            c.push(&[&"PING", &seconds]);
            s.exchange(&mut c)?;
        }
    }
    Ok(())
}

/// Serves some of them.
pub fn feed(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    while !s.is_over() {
        let list = format!("wait:{}", s.rng.u32(0..LISTS));
        let sorted = format!("waitz:{}", s.rng.u32(0..LISTS));
        let value = s.rng.u32(..).to_string();
        match s.rng.u32(0..6) {
            0 => c.push(&[&"LPUSH", &list, &value]),
            1 => c.push(&[&"RPUSH", &list, &value, &"second", &"third"]),
            2 => c.push(&[&"ZADD", &sorted, &value, &"a", &"1", &"b"]),
            3 => c.push(&[&"XADD", &"waitx", &"MAXLEN", &"20", &"*", &"v", &value]),
            4 => {
                // Served from within a transaction and from within a script.
                c.push(&[&"MULTI"]);
                c.push(&[&"LPUSH", &list, &value]);
                c.push(&[&"ZADD", &sorted, &value, &"c"]);
                c.push(&[&"EXEC"]);
            }
            _ => c.push(&[&"EVAL", &"return redis.call('LPUSH', KEYS[1], ARGV[1])", &"1", &list, &value]),
        }
        s.exchange(&mut c)?;
        s.pause_ms(30);
    }
    Ok(())
}
