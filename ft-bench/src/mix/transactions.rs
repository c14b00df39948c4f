//! MULTI, EXEC, WATCH, DISCARD.

use super::data;
use super::{Outcome, Session};
use crate::resp::Reply;

pub fn run(s: &mut Session) -> Outcome {
    let mut c = s.connect()?;
    while !s.is_over() {
        let shared = format!("tx:{}", s.rng.u32(0..3));
        match s.rng.u32(0..6) {
            // Whole in one write.
            0..3 => {
                c.push(&[&"MULTI"]);
                c.push(&[&"INCR", &"tx:a"]);
                for _ in 0..s.rng.u32(0..20) {
                    data::push(&mut c, &mut s.rng);
                }
                c.push(&[&"INCR", &"tx:b"]);
                c.push(&[&"EXEC"]);
                s.exchange(&mut c)?;
            }
            // Read, then write if nobody else has: two clients do this on the same keys.
            3 | 4 => {
                s.call(&mut c, &[&"WATCH", &shared])?;
                let old = match s.call(&mut c, &[&"GET", &shared])? {
                    Reply::Bulk(b) => String::from_utf8_lossy(&b).parse().unwrap_or(0u64),
                    _ => 0,
                };
                if s.rng.bool() {
                    s.pause_ms(3);
                }
                let new = (old + 1).to_string();
                s.call(&mut c, &[&"MULTI"])?;
                s.call(&mut c, &[&"SET", &shared, &new])?;
                s.call(&mut c, &[&"EXEC"])?;
            }
            _ => {
                s.call(&mut c, &[&"MULTI"])?;
                s.call(&mut c, &[&"SET", &shared, &"never"])?;
                s.call(&mut c, &[&"DISCARD"])?;
            }
        }
        s.pause_ms(4);
    }
    Ok(())
}
