//! What operators and monitoring do: saves, rewrites, settings, reports; rarely, everything is flushed.

use super::{Outcome, Session};
use crate::resp::Client;
use std::time::{Duration, Instant};

const SAVE_EVERY: Duration = Duration::from_secs(3);
const REWRITE_EVERY: Duration = Duration::from_secs(11);
/// A BGSAVE is under way soon, however short the run.
const FIRST_SAVE: Duration = Duration::from_secs(1);

pub fn run(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    let start = Instant::now();
    let (mut save_at, mut rewrite_at) = (start + FIRST_SAVE, start + REWRITE_EVERY / 2);
    s.call(&mut c, &[&"CONFIG", &"SET", &"latency-monitor-threshold", &"1"])?;
    s.call(&mut c, &[&"CONFIG", &"SET", &"slowlog-log-slower-than", &"500"])?;
    while !s.is_over() {
        let now = Instant::now();
        if now >= save_at {
            save_at = now + SAVE_EVERY;
            s.call(&mut c, &[&"BGSAVE"])?;
        }
        if now >= rewrite_at {
            rewrite_at = now + REWRITE_EVERY;
            s.call(&mut c, &[&"BGREWRITEAOF"])?;
        }
        match s.rng.u32(0..400) {
            0..120 => reports(s, &mut c)?,
            120..200 => looks(s, &mut c)?,
            200..260 => settings(s, &mut c)?,
            260..275 => drop(s.call(&mut c, &[&"DEBUG", &"SLEEP", &"0.004"])?),
            275 | 276 => vanish(s, &mut c, Vanish::Flush)?,
            277 | 278 => vanish(s, &mut c, Vanish::FlushAsync)?,
            279..282 => vanish(s, &mut c, Vanish::Evict)?,
            282..288 => drop(s.call(&mut c, &[&"CLIENT", &"KILL", &"TYPE", &"pubsub", &"SKIPME", &"yes"])?),
            288..294 => drop(s.call(&mut c, &[&"CLIENT", &"PAUSE", &"10", &"WRITE"])?),
            294..298 => drop(s.call(&mut c, &[&"DEBUG", &"DIGEST"])?),
            298..302 => monitor(s, &mut c)?,
            302 => c = s.connect()?,
            _ => s.pause_ms(60),
        }
        s.pause_ms(20);
    }
    Ok(())
}

fn reports(s: &mut Session, c: &mut Client) -> Outcome {
    let all: [&[&str]; 14] = [
        &["INFO"],
        &["INFO", "everything"],
        &["MEMORY", "STATS"],
        &["MEMORY", "DOCTOR"],
        &["MEMORY", "MALLOC-STATS"],
        &["MEMORY", "PURGE"],
        &["LATENCY", "LATEST"],
        &["LATENCY", "HISTOGRAM"],
        &["LATENCY", "DOCTOR"],
        &["SLOWLOG", "GET", "5"],
        &["CLIENT", "LIST"],
        &["CLIENT", "INFO"],
        &["COMMAND", "COUNT"],
        &["CONFIG", "GET", "*"],
    ];
    let one = all[s.rng.usize(0..all.len())];
    let args: Vec<crate::resp::Arg> = one.iter().map(|a| a as crate::resp::Arg).collect();
    s.call(c, &args).map(drop)
}

fn looks(s: &mut Session, c: &mut Client) -> Outcome {
    let kind = s.rng.choice(*b"snhlezx").expect("not empty");
    let key = format!("{}:{}", char::from(kind), s.rng.u32(0..400));
    c.push(&[&"OBJECT", &"ENCODING", &key]);
    c.push(&[&"OBJECT", &"IDLETIME", &key]);
    c.push(&[&"OBJECT", &"REFCOUNT", &key]);
    c.push(&[&"MEMORY", &"USAGE", &key, &"SAMPLES", &"0"]);
    c.push(&[&"DUMP", &key]);
    c.push(&[&"KEYS", &"s:1*"]);
    s.exchange(c).map(drop)
}

fn settings(s: &mut Session, c: &mut Client) -> Outcome {
    let all = [
        ("hz", "10"),
        ("hz", "50"),
        ("dynamic-hz", "yes"),
        ("appendfsync", "always"),
        ("appendfsync", "everysec"),
        ("appendfsync", "everysec"),
        ("appendfsync", "no"),
        ("appendfsync", "everysec"),
        ("lazyfree-lazy-user-del", "yes"),
        ("lazyfree-lazy-user-del", "no"),
        ("lazyfree-lazy-expire", "yes"),
        ("active-expire-effort", "9"),
        ("active-expire-effort", "1"),
        ("list-max-listpack-size", "5"),
        ("list-max-listpack-size", "-2"),
        ("hash-max-listpack-entries", "8"),
        ("set-max-intset-entries", "16"),
        ("rdbcompression", "no"),
        ("rdbcompression", "yes"),
        ("jemalloc-bg-thread", "no"),
        ("jemalloc-bg-thread", "yes"),
        ("timeout", "30"),
        ("timeout", "0"),
        ("tcp-keepalive", "60"),
    ];
    let (name, value) = all[s.rng.usize(0..all.len())];
    s.call(c, &[&"CONFIG", &"SET", &name, &value])?;
    if s.rng.u32(0..10) == 0 {
        s.call(c, &[&"CONFIG", &"RESETSTAT"])?;
    }
    Ok(())
}

enum Vanish {
    Flush,
    FlushAsync,
    Evict,
}

/// Keys vanish that others own: the epoch tells them.
fn vanish(s: &mut Session, c: &mut Client, how: Vanish) -> Outcome {
    s.epoch_step();
    let done = (|| {
        match how {
            Vanish::Flush => drop(s.call(c, &[&"FLUSHALL"])?),
            Vanish::FlushAsync => drop(s.call(c, &[&"FLUSHALL", &"ASYNC"])?),
            Vanish::Evict => {
                let policies = ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-ttl"];
                let policy = policies[s.rng.usize(0..policies.len())];
                s.call(c, &[&"CONFIG", &"SET", &"maxmemory-policy", &policy])?;
                s.call(c, &[&"CONFIG", &"SET", &"maxmemory", &"6mb"])?;
                s.pause_ms(80);
                s.call(c, &[&"CONFIG", &"SET", &"maxmemory", &"0"])?;
            }
        }
        Ok(())
    })();
    s.epoch_step();
    done
}

/// A second connection that sees every command, with times, for a moment.
fn monitor(s: &mut Session, c: &mut Client) -> Outcome {
    let mut m = s.connect()?;
    m.call(&[&"MONITOR"]).map_err(|e| format!("MONITOR: {e}"))?;
    s.count(1);
    for _ in 0..20 {
        s.call(c, &[&"PING", &"seen"])?;
        m.message().map_err(|e| format!("as a monitor: {e}"))?;
    }
    Ok(())
}
