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
use std::time::{Duration, Instant};

/// Of the snapshot, sent and not yet used by the other host. Bounds what it must hold.
pub const WINDOW_BYTES: u64 = 4 << 20;
/// Of the engine's time, the snapshot gets one part in so many. Clients have the rest, and the other host's guest is
/// hardly made any slower: its engine unseals what this one seals.
const TIME_PARTS: u32 = 4;
/// What was not used of that in so long may be caught up on: an engine that has nothing else to do sleeps for a millisecond.
const CATCH_UP_MAX: Duration = Duration::from_millis(4);
/// After the copy, what clients said while it was made comes first.
const REST_AFTER_COPY: Duration = Duration::from_millis(10);

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
    /// Nothing is sent before.
    rests_until: Instant,
}

impl Seed {
    pub fn begin(now: Instant) -> Self {
        Self { step: Step::Begun, since: now, sent: 0, taken: 0, total: 0, rests_until: now }
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
        self.rests_until = Instant::now() + REST_AFTER_COPY;
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

    /// When there may be something to send, though nobody rings; `None`: somebody will.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        (matches!(self.step, Step::Sends(_)) && self.rests_until > now).then_some(self.rests_until)
    }

    /// Sends a chunk, if there is one and it is time to. True: there may be more at once. An error: there will be no
    /// snapshot; why.
    pub fn turn(&mut self, link: &mut Link) -> Result<bool, String> {
        let (Step::Asked(chunks) | Step::Sends(chunks)) = &self.step else { return Ok(false) };
        let began = Instant::now();
        if began < self.rests_until || self.sent - self.taken.min(self.sent) >= WINDOW_BYTES {
            return Ok(false);
        }
        match chunks.next() {
            Next::Chunk(c) => {
                self.sent += c.len() as u64;
                link.send(kind::SNAPSHOT, &[], &c);
                // An error shows again when the turn's rest is sent.
                let _ = link.flush();
                let owed = began.checked_sub(CATCH_UP_MAX).unwrap_or(began);
                self.rests_until = self.rests_until.max(owed) + began.elapsed() * TIME_PARTS;
                Ok(Instant::now() >= self.rests_until)
            }
            Next::Later => Ok(false),
            Next::End => {
                self.step = Step::Sent;
                Ok(false)
            }
            Next::Failed(why) => Err(why),
        }
    }
}
