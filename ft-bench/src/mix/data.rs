//! Pipelines of commands on every kind of value, from one to a hundred at once.

use super::{Outcome, Session, bytes};
use crate::resp::{Arg, Client, Reply};
use fastrand::Rng;

const PIPELINE_MAX: u32 = 100;
/// Keys of each kind: few, so that clients meet.
const KEYS: u32 = 400;

pub fn run(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    let own = format!("own:{}", s.number);
    let mut counter: Option<(u64, i64)> = None;
    while !s.is_over() {
        let before = s.epoch();
        c.push(&[&"INCR", &own]);
        let n = if s.rng.bool() { 1 } else { s.rng.u32(1..PIPELINE_MAX) };
        for _ in 0..n {
            push(&mut c, &mut s.rng);
        }
        let first = s.exchange(&mut c)?.swap_remove(0);
        let steady = before.is_multiple_of(2) && s.epoch() == before;
        counter = match (first, counter) {
            (Reply::Int(now), Some((epoch, last))) if steady && epoch == before && now != last + 1 => {
                return Err(format!("{own} went from {last} to {now} by one INCR"));
            }
            (Reply::Int(now), _) if steady => Some((before, now)),
            _ => None,
        };
        match s.rng.u32(0..100) {
            0..50 => {}
            50..98 => s.pause_ms(2),
            98 => s.pause_ms(50),
            _ => c = s.connect()?,
        }
    }
    Ok(())
}

fn key(rng: &mut Rng, kind: u8) -> String {
    // Now and then one of another kind: WRONGTYPE is an answer too.
    let kind = if rng.u32(0..200) == 0 { rng.choice(*b"snhlezxpg").expect("not empty") } else { kind };
    format!("{}:{}", char::from(kind), rng.u32(0..KEYS))
}

fn short(rng: &mut Rng) -> Vec<u8> {
    let n = if rng.u32(0..20) == 0 { rng.usize(0..4000) } else { rng.usize(0..60) };
    bytes(rng, n)
}

fn number(rng: &mut Rng) -> String {
    rng.i32(-1000..1000).to_string()
}

fn member(rng: &mut Rng) -> String {
    format!("m{}", rng.u32(0..300))
}

/// One random command.
pub fn push(c: &mut Client, rng: &mut Rng) {
    match rng.u32(0..100) {
        0..35 => strings(c, rng),
        35..45 => hashes(c, rng),
        45..57 => lists(c, rng),
        57..67 => sets(c, rng),
        67..78 => sorted_sets(c, rng),
        78..86 => streams(c, rng),
        86..91 => others(c, rng),
        _ => keys(c, rng),
    }
}

fn strings(c: &mut Client, rng: &mut Rng) {
    let k = key(rng, b's');
    let k2 = key(rng, b's');
    let n = key(rng, b'n');
    let v = short(rng);
    let at = rng.u32(0..200).to_string();
    let ms = rng.u32(1..400).to_string();
    let d = number(rng);
    let args: &[Arg] = match rng.u32(0..24) {
        0..4 => &[&"SET", &k, &v],
        4 => &[&"SET", &k, &v, &"PX", &ms],
        5 => &[&"SET", &k, &v, &"KEEPTTL", &"GET"],
        6..10 => &[&"GET", &k],
        10 => &[&"MGET", &k, &k2, &n],
        11 => &[&"MSET", &k, &v, &k2, &d],
        12 => &[&"APPEND", &k, &v],
        13 => &[&"SETRANGE", &k, &at, &v],
        14 => &[&"GETRANGE", &k, &"0", &at],
        15 => &[&"STRLEN", &k],
        16 => &[&"INCR", &n],
        17 => &[&"DECRBY", &n, &d],
        18 => &[&"INCRBYFLOAT", &n, &"0.25"],
        19 => &[&"SETBIT", &k, &at, &"1"],
        20 => &[&"BITCOUNT", &k],
        21 => &[&"GETDEL", &k],
        22 => &[&"GETEX", &k, &"PX", &ms],
        _ => &[&"SETNX", &k, &v],
    };
    c.push(args);
}

fn hashes(c: &mut Client, rng: &mut Rng) {
    let k = key(rng, b'h');
    let (f, g) = (member(rng), member(rng));
    let v = short(rng);
    let d = number(rng);
    let args: &[Arg] = match rng.u32(0..9) {
        0 | 1 => &[&"HSET", &k, &f, &v, &g, &d],
        2 => &[&"HGET", &k, &f],
        3 => &[&"HGETALL", &k],
        4 => &[&"HINCRBY", &k, &"count", &d],
        5 => &[&"HDEL", &k, &f, &g],
        6 => &[&"HRANDFIELD", &k, &"3", &"WITHVALUES"],
        7 => &[&"HSCAN", &k, &"0", &"COUNT", &"20"],
        _ => &[&"HMGET", &k, &f, &g],
    };
    c.push(args);
}

fn lists(c: &mut Client, rng: &mut Rng) {
    let (k, k2) = (key(rng, b'l'), key(rng, b'l'));
    let v = short(rng);
    let d = number(rng);
    let args: &[Arg] = match rng.u32(0..13) {
        0 | 1 => &[&"LPUSH", &k, &v, &d],
        2 | 3 => &[&"RPUSH", &k, &d, &v],
        4 => &[&"LTRIM", &k, &"0", &"100"],
        5 => &[&"LRANGE", &k, &"0", &"30"],
        6 => &[&"LPOP", &k, &"2"],
        7 => &[&"RPOP", &k],
        8 => &[&"LINSERT", &k, &"BEFORE", &d, &"x"],
        9 => &[&"LREM", &k, &"2", &d],
        10 => &[&"LMOVE", &k, &k2, &"LEFT", &"RIGHT"],
        11 => &[&"LPOS", &k, &d],
        _ => &[&"LSET", &k, &"1", &v],
    };
    c.push(args);
}

fn sets(c: &mut Client, rng: &mut Rng) {
    let (k, k2, k3) = (key(rng, b'e'), key(rng, b'e'), key(rng, b'e'));
    let (m, n) = (member(rng), number(rng));
    let args: &[Arg] = match rng.u32(0..12) {
        0..3 => &[&"SADD", &k, &m, &n],
        3 => &[&"SREM", &k, &m],
        4 => &[&"SPOP", &k],
        5 => &[&"SPOP", &k, &"2"],
        6 => &[&"SRANDMEMBER", &k],
        7 => &[&"SRANDMEMBER", &k, &"-5"],
        8 => &[&"SINTER", &k, &k2],
        9 => &[&"SUNIONSTORE", &k, &k2, &k3],
        10 => &[&"SSCAN", &k, &"0"],
        _ => &[&"SMISMEMBER", &k, &m, &n],
    };
    c.push(args);
}

fn sorted_sets(c: &mut Client, rng: &mut Rng) {
    let (k, k2) = (key(rng, b'z'), key(rng, b'z'));
    let (m, d) = (member(rng), number(rng));
    let args: &[Arg] = match rng.u32(0..12) {
        0..3 => &[&"ZADD", &k, &d, &m],
        3 => &[&"ZINCRBY", &k, &d, &m],
        4 => &[&"ZRANGE", &k, &"0", &"20", &"WITHSCORES"],
        5 => &[&"ZRANGEBYSCORE", &k, &"-100", &"100", &"LIMIT", &"0", &"20"],
        6 => &[&"ZPOPMIN", &k],
        7 => &[&"ZREM", &k, &m],
        8 => &[&"ZRANDMEMBER", &k, &"2"],
        9 => &[&"ZRANK", &k, &m],
        10 => &[&"ZUNIONSTORE", &k2, &"2", &k, &k2],
        _ => &[&"ZREMRANGEBYRANK", &k, &"200", &"-1"],
    };
    c.push(args);
}

fn streams(c: &mut Client, rng: &mut Rng) {
    let k = key(rng, b'x');
    let v = short(rng);
    let args: &[Arg] = match rng.u32(0..9) {
        0..3 => &[&"XADD", &k, &"MAXLEN", &"~", &"200", &"*", &"field", &v],
        3 => &[&"XRANGE", &k, &"-", &"+", &"COUNT", &"10"],
        4 => &[&"XREAD", &"COUNT", &"5", &"STREAMS", &k, &"0"],
        5 => &[&"XGROUP", &"CREATE", &k, &"g", &"0", &"MKSTREAM"],
        6 => &[&"XREADGROUP", &"GROUP", &"g", &"reader", &"COUNT", &"5", &"STREAMS", &k, &">"],
        7 => &[&"XPENDING", &k, &"g"],
        _ => &[&"XTRIM", &k, &"MAXLEN", &"50"],
    };
    c.push(args);
}

fn others(c: &mut Client, rng: &mut Rng) {
    let (p, g) = (key(rng, b'p'), key(rng, b'g'));
    let m = member(rng);
    let (lon, lat) = ((f64::from(rng.i32(-1700..1700)) / 10.0).to_string(), (f64::from(rng.i32(-800..800)) / 10.0).to_string());
    let args: &[Arg] = match rng.u32(0..8) {
        0 => &[&"PFADD", &p, &m],
        1 => &[&"PFCOUNT", &p],
        2 => &[&"GEOADD", &g, &lon, &lat, &m],
        3 => &[&"GEOSEARCH", &g, &"FROMLONLAT", &lon, &lat, &"BYRADIUS", &"900", &"km", &"COUNT", &"9", &"WITHDIST"],
        4 => &[&"TIME"],
        5 => &[&"ECHO", &m],
        6 => &[&"LASTSAVE"],
        _ => &[&"DBSIZE"],
    };
    c.push(args);
}

fn keys(c: &mut Client, rng: &mut Rng) {
    let kind = rng.choice(*b"snhlezx").expect("not empty");
    let (k, k2) = (key(rng, kind), key(rng, kind));
    let ms = rng.u32(1..500).to_string();
    let cursor = rng.u32(0..512).to_string();
    let args: &[Arg] = match rng.u32(0..16) {
        0 | 1 => &[&"DEL", &k],
        2 => &[&"UNLINK", &k, &k2],
        3..6 => &[&"PEXPIRE", &k, &ms],
        6 => &[&"EXPIRE", &k, &"1"],
        7 => &[&"PTTL", &k],
        8 => &[&"PERSIST", &k],
        9 => &[&"TYPE", &k],
        10 => &[&"RENAME", &k, &k2],
        11 => &[&"COPY", &k, &k2, &"REPLACE"],
        12 => &[&"RANDOMKEY"],
        13 => &[&"SCAN", &cursor, &"COUNT", &"30"],
        14 => &[&"EXISTS", &k, &k2],
        _ => &[&"OBJECT", &"ENCODING", &k],
    };
    c.push(args);
}
