//! What is asked: SET with values of 64 bytes, GET for the rest, on 10,000 keys, in an order that is the same every time.

use super::replies::Reply;
use crate::resp::{Arg, encode};

pub const KEYS: u32 = 10_000;
pub const VALUE_BYTES: usize = 64;
const KEY_PREFIX: &str = "key:";
const KEY_DIGITS: usize = 10;
const SEED: u64 = 1;
/// A list that nobody makes.
const NO_KEY: &str = "none";

pub fn key(number: u32) -> String {
    format!("{KEY_PREFIX}{number:0KEY_DIGITS$}")
}

/// What a request's replies must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Set,
    /// SET, and WAIT until so many replicas have it.
    SetAndWait,
    /// What the server holds back for a while.
    Held,
}

impl Kind {
    pub fn replies(self) -> u8 {
        if self == Self::SetAndWait { 2 } else { 1 }
    }

    /// Is this what must come when so many replies (this one included) are missing?
    pub fn accepts(self, reply: &Reply, missing: u8, replicas: u32) -> bool {
        match (self, missing, reply) {
            (Self::Get, _, Reply::Value(n)) => *n == VALUE_BYTES,
            (Self::SetAndWait, 1, Reply::Int(n)) => *n >= i64::from(replicas),
            (Self::Held, _, Reply::Nil) => true,
            (Self::Set, _, Reply::Status) | (Self::SetAndWait, 2, Reply::Status) => true,
            _ => false,
        }
    }
}

/// Makes requests.
pub struct Requests {
    random: fastrand::Rng,
    get: Template,
    set: Template,
    wait: Vec<u8>,
    /// Milliseconds.
    held_max: Option<u32>,
    set_percent: u8,
    pub replicas: u32,
}

/// A command with a place for the key's number.
struct Template {
    bytes: Vec<u8>,
    digits: usize,
}

impl Template {
    fn new(command: &str, value: Option<&str>) -> Self {
        let key = key(0);
        let mut args: Vec<Arg> = vec![&command, &key];
        if let Some(v) = &value {
            args.push(v);
        }
        let mut bytes = Vec::new();
        encode(&mut bytes, &args);
        let found = bytes.windows(key.len()).position(|w| w == key.as_bytes());
        let digits = found.expect("it was just put there") + KEY_PREFIX.len();
        Self { bytes, digits }
    }

    fn write(&self, out: &mut Vec<u8>, key: u32) {
        let begin = out.len() + self.digits;
        out.extend_from_slice(&self.bytes);
        let mut rest = key;
        for d in out[begin..begin + KEY_DIGITS].iter_mut().rev() {
            *d = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}

impl Requests {
    /// `set_percent`: how many of a hundred requests are SET. `replicas`: how many must have a write before it counts as
    /// answered.
    pub fn new(set_percent: u8, replicas: u32) -> Self {
        let mut wait = Vec::new();
        encode(&mut wait, &[&"WAIT", &replicas.to_string(), &"0"]);
        let value = "v".repeat(VALUE_BYTES);
        Self {
            random: fastrand::Rng::with_seed(SEED),
            get: Template::new("GET", None),
            set: Template::new("SET", Some(&value)),
            wait,
            held_max: None,
            set_percent,
            replicas,
        }
    }

    /// Requests that the server has for 1 to so many milliseconds before it answers: none of SET and GET then. They last
    /// differently long, so that some fall due at any time.
    pub fn held(self, ms_max: u32) -> Self {
        Self { held_max: Some(ms_max), ..self }
    }

    /// Adds one request of the mix.
    pub fn write(&mut self, out: &mut Vec<u8>) -> Kind {
        if let Some(ms_max) = self.held_max {
            let seconds = f64::from(self.random.u32(1..=ms_max)) / 1e3;
            encode(out, &[&"BLPOP", &NO_KEY, &format!("{seconds:.3}")]);
            return Kind::Held;
        }
        let key = self.random.u32(..KEYS);
        if self.random.u8(..100) >= self.set_percent {
            self.get.write(out, key);
            return Kind::Get;
        }
        self.write_set(out, key);
        if self.replicas == 0 {
            return Kind::Set;
        }
        out.extend_from_slice(&self.wait);
        Kind::SetAndWait
    }

    fn write_set(&self, out: &mut Vec<u8>, key: u32) {
        self.set.write(out, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_key() {
        let mut out = b"before".to_vec();
        Requests::new(50, 0).write_set(&mut out, 4321);
        let value = "v".repeat(64);
        assert_eq!(out, format!("before*3\r\n$3\r\nSET\r\n$14\r\nkey:0000004321\r\n$64\r\n{value}\r\n").into_bytes());
    }

    #[test]
    fn half_are_writes_and_each_waits_for_its_replicas() {
        let mut requests = Requests::new(50, 1);
        let mut out = Vec::new();
        let kinds: Vec<Kind> = (0..10_000).map(|_| requests.write(&mut out)).collect();
        let writes = kinds.iter().filter(|k| **k == Kind::SetAndWait).count();
        assert!((4_800..5_200).contains(&writes), "{writes}");
        let all = |percent| (0..100).map(|_| Requests::new(percent, 0).write(&mut Vec::new())).collect::<Vec<_>>();
        assert!(all(100).iter().all(|k| *k == Kind::Set) && all(0).iter().all(|k| *k == Kind::Get));
        assert!(!kinds.contains(&Kind::Set));
        let mut out_of_held = Vec::new();
        assert_eq!(Requests::new(50, 0).held(1).write(&mut out_of_held), Kind::Held);
        assert!(String::from_utf8(out_of_held).unwrap().contains("BLPOP\r\n$4\r\nnone\r\n$5\r\n0.001\r\n"));
        let waits = out.windows(4).filter(|w| w == b"WAIT").count();
        assert_eq!(waits, writes);
    }

    #[test]
    fn only_the_right_reply_is_accepted() {
        assert!(Kind::Get.accepts(&Reply::Value(64), 1, 0));
        assert!(!Kind::Get.accepts(&Reply::Nil, 1, 0), "every key was set before");
        assert!(Kind::Set.accepts(&Reply::Status, 1, 0));
        assert!(Kind::SetAndWait.accepts(&Reply::Status, 2, 1));
        assert!(Kind::SetAndWait.accepts(&Reply::Int(1), 1, 1));
        assert!(!Kind::SetAndWait.accepts(&Reply::Int(0), 1, 1), "no replica has it");
        assert!(!Kind::Set.accepts(&Reply::Error("x".into()), 1, 0));
        assert!(Kind::Held.accepts(&Reply::Nil, 1, 0) && !Kind::Held.accepts(&Reply::Status, 1, 0));
    }
}
