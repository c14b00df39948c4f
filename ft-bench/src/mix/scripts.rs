//! Lua: time, random numbers, keys; a function library; scripts by their digest.

use super::{Outcome, Session};
use crate::resp::Reply;

/// Writes what only the server knows.
const CLOCK: &str = "local t = redis.call('TIME'); \
    local r = math.random(1000000) + math.random(); \
    redis.call('SET', KEYS[1], t[1] .. '.' .. t[2] .. '/' .. r); \
    redis.call('PEXPIRE', KEYS[1], 20 + math.random(300)); return {t[1], t[2], tostring(r)}";
const RANDOM_MEMBERS: &str = "for i = 1, 20 do redis.call('SADD', KEYS[1], math.random(100000)) end; \
    local out = {}; for i = 1, 5 do out[i] = redis.call('SPOP', KEYS[1]) end; \
    return {redis.call('SRANDMEMBER', KEYS[1], 3), out, redis.call('SCARD', KEYS[1])}";
/// Tables ordered by address show any difference in memory layout.
const ADDRESSES: &str = "local t = {}; for i = 1, 50 do t[{}] = i end; local out = {}; \
    for _, v in pairs(t) do out[#out + 1] = v end; return table.concat(out, ',')";
const LOOP: &str = "local n = 0; for i = 1, tonumber(ARGV[1]) do n = n + i % 7 end; return n";
const LIBRARY: &str = "#!lua name=bench\nredis.register_function('stamp', function(keys, args) \
    local t = redis.call('TIME'); redis.call('HSET', keys[1], t[1], t[2]); \
    redis.call('EXPIRE', keys[1], 1); return t end)";

pub fn run(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    s.call(&mut c, &[&"FUNCTION", &"LOAD", &"REPLACE", &LIBRARY])?;
    let Reply::Bulk(sha) = s.call(&mut c, &[&"SCRIPT", &"LOAD", &CLOCK])? else {
        return Err("SCRIPT LOAD answers no digest".into());
    };
    while !s.is_over() {
        let key = format!("lua:{}", s.rng.u32(0..50));
        let set = format!("luaset:{}", s.rng.u32(0..5));
        let turns = s.rng.u32(0..20_000).to_string();
        for _ in 0..s.rng.u32(1..8) {
            match s.rng.u32(0..8) {
                0 => c.push(&[&"EVAL", &CLOCK, &"1", &key]),
                1 | 2 => c.push(&[&"EVALSHA", &sha, &"1", &key]),
                3 => c.push(&[&"EVAL", &RANDOM_MEMBERS, &"1", &set]),
                4 => c.push(&[&"EVAL", &ADDRESSES, &"0"]),
                5 => c.push(&[&"EVAL", &LOOP, &"0", &turns]),
                6 => c.push(&[&"EXISTS", &key]),
                _ => {
                    let stamp = format!("stamp:{}", s.rng.u32(0..5));
                    c.push(&[&"FCALL", &"stamp", &"1", &stamp]);
                }
            }
        }
        s.exchange(&mut c)?;
        s.pause_ms(8);
    }
    Ok(())
}
