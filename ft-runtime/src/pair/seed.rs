//! The primary's side of giving a running service's state to a host that has none.
//!
//! Three steps: events that the guest has not applied are kept, until the engine has all of them; then the guest is asked
//! for a copy of itself; what the engine knew at that point goes out, the log from there on, and between its entries the
//! snapshot that is made of the copy. `join` is the other side.
//!
//! Law: nothing is sent of the log before the copy, and everything from it on.

use super::message::kind;
use super::start_message::StartMessage;
use super::world::{BIRTH_BYTES_MAX, Told};
use crate::link::Link;
use crate::snapshot::stream::{Chunks, Next};
use ft_log::codec::Writer;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Of the snapshot, sent and not yet used by the other host. Bounds what it must hold.
pub const WINDOW_BYTES: u64 = 4 << 20;
/// Chunks that are sent before others have their turn.
const CHUNKS_PER_TURN: usize = 4;

/// [`kind::SEED`]. What [`kind::SEED_EVENT`] and [`kind::SEED_BIRTH`] add follows at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedMessage {
    pub start: StartMessage,
    /// Index of the last entry before the copy.
    pub index: u64,
    /// The guest's clock by now; `None`: nobody has told it the time yet.
    pub clock_ns: Option<u64>,
    /// About as much as will come.
    pub bytes: u64,
    /// So many follow.
    pub events: u32,
    pub births: u32,
}

/// What is under way.
enum Step {
    /// Events are kept, and a copy is to be asked for.
    Begun,
    Asked(Chunks),
    Sends(Chunks),
    /// All of the snapshot is on its way.
    Sent,
}

/// One attempt.
pub struct Seed {
    step: Step,
    pub since: Instant,
    /// Of the snapshot.
    pub sent: u64,
    pub taken: u64,
    pub total: u64,
}

impl Seed {
    pub fn begin(now: Instant) -> Self {
        Self { step: Step::Begun, since: now, sent: 0, taken: 0, total: 0 }
    }

    pub fn is_begun(&self) -> bool {
        matches!(self.step, Step::Begun)
    }

    pub fn asked(&mut self, chunks: Chunks) {
        self.step = Step::Asked(chunks);
    }

    /// The copy is made: the other host is told what goes with it. False: nobody has asked for one.
    pub fn copied(&mut self, link: &mut Link, message: SeedMessage, events: &[Box<[u8]>], births: &[Told]) -> bool {
        let Step::Asked(chunks) = std::mem::replace(&mut self.step, Step::Begun) else { return false };
        self.step = Step::Sends(chunks);
        self.total = message.bytes;
        link.send(kind::SEED, &[], &serde_json::to_vec(&message).expect("plain data"));
        for e in events {
            link.send(kind::SEED_EVENT, &[], e);
        }
        for b in births {
            let mut bytes = [0; BIRTH_BYTES_MAX];
            let mut w = Writer::new(&mut bytes);
            b.encode(&mut w);
            let n = w.len();
            link.send(kind::SEED_BIRTH, &bytes[..n], &[]);
        }
        true
    }

    /// Sends what there is. True: there may be more at once. An error: there will be no snapshot; why.
    pub fn turn(&mut self, link: &mut Link) -> Result<bool, String> {
        let (Step::Asked(chunks) | Step::Sends(chunks)) = &self.step else { return Ok(false) };
        for _ in 0..CHUNKS_PER_TURN {
            if self.sent - self.taken.min(self.sent) >= WINDOW_BYTES {
                return Ok(false);
            }
            match chunks.next() {
                Next::Chunk(c) => {
                    self.sent += c.len() as u64;
                    link.send(kind::SNAPSHOT, &[], &c);
                }
                Next::Later => return Ok(false),
                Next::End => {
                    self.step = Step::Sent;
                    return Ok(false);
                }
                Next::Failed(why) => return Err(why),
            }
        }
        Ok(true)
    }
}
