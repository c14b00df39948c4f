//! One link without its socket: bytes from the wire become frames, frames become bytes for the wire.
//!
//! The peers first prove their keys (tls.rs). Then the accepting side says its preamble and the connecting side
//! answers with its own: so whoever is refused has nothing under way that could drown the reason. Frames of the caller
//! follow once both said the same version.

use super::buffer::Buffer;
use super::frame::{self, BadLength, FRAME_BYTES_MAX, HEAD_BYTES};
use super::keys::Keys;
use super::tls::{Progress, Tls, TlsError, Wanted};

/// Kind of the first frame in each direction; no other frame has it.
pub(super) const PREAMBLE: u8 = 0;
/// All future versions of the preamble begin with this and the version.
const MAGIC: [u8; 8] = *b"ft link\0";
const FT_VERSION_CHARS_MAX: usize = 64;

/// One read from the kernel.
const INCOMING_BYTES: usize = 256 << 10;
/// Opened and not yet taken by the caller: beyond it nothing more is read. Holds any frame.
const PLAIN_BYTES_MAX: usize = 1 << 20;
/// Sealed and not yet taken by the kernel.
const OUTGOING_BYTES: usize = 256 << 10;
/// An empty queue gives memory beyond this back.
const KEEP_CAPACITY_BYTES: usize = 1 << 20;

const _: () = assert!(PLAIN_BYTES_MAX > FRAME_BYTES_MAX);

/// Why a session ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionError {
    Tls(TlsError),
    /// It speaks our language up to the preamble.
    Version {
        theirs: u32,
        their_ft: String,
    },
    Preamble(String),
    Frame(BadLength),
    /// The incoming bytes fill the buffer and are no record.
    Stuffed,
}

impl From<TlsError> for SessionError {
    fn from(e: TlsError) -> Self {
        Self::Tls(e)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Connecting,
    Accepting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Keys,
    Preamble { said: bool },
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    No,
    /// After what is queued.
    Wanted,
    Sealed,
}

/// Frames that are not sealed yet.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Everything before is sealed.
    sealed: usize,
}

impl Queue {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.sealed..]
    }

    fn sealed(&mut self, n: usize) {
        self.sealed += n;
        if self.sealed == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP_CAPACITY_BYTES);
            self.sealed = 0;
        } else if self.sealed > self.bytes.len() / 2 {
            // Each byte is moved once at most, on average.
            self.bytes.drain(..self.sealed);
            self.sealed = 0;
        }
    }
}

pub(super) struct Session {
    tls: Tls,
    side: Side,
    phase: Phase,
    version: u32,
    incoming: Buffer,
    plain: Buffer,
    queue: Queue,
    outgoing: Buffer,
    goodbye: Goodbye,
    peer_closed: bool,
}

impl Session {
    pub fn new(side: Side, keys: &Keys, version: u32) -> Self {
        let tls = match side {
            Side::Connecting => Tls::client(&keys.configs),
            Side::Accepting => Tls::server(&keys.configs),
        };
        Self {
            tls,
            side,
            phase: Phase::Keys,
            version,
            incoming: Buffer::new(INCOMING_BYTES),
            plain: Buffer::new(PLAIN_BYTES_MAX + INCOMING_BYTES),
            queue: Queue::default(),
            outgoing: Buffer::new(OUTGOING_BYTES),
            goodbye: Goodbye::No,
            peer_closed: false,
        }
    }

    /// The protocol's, as we speak it.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// The peer said that it sends no more.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// False: first take frames.
    pub fn wants_more(&self) -> bool {
        self.plain.len() <= PLAIN_BYTES_MAX
    }

    /// Where bytes from the wire go; not empty. Only while [`Self::wants_more`].
    pub fn room(&mut self) -> Result<&mut [u8], SessionError> {
        assert!(self.wants_more(), "the bound was not heeded");
        let room = self.incoming.room(INCOMING_BYTES);
        if room.is_empty() { Err(SessionError::Stuffed) } else { Ok(room) }
    }

    /// So many bytes from the wire were put into the room. 0 starts the handshake.
    pub fn received(&mut self, n: usize) -> Result<(), SessionError> {
        self.incoming.filled_more(n);
        self.process(Wanted::Nothing)?;
        if let Phase::Preamble { said } = self.phase {
            self.preambles(said)?;
        }
        Ok(())
    }

    fn process(&mut self, wanted: Wanted) -> Result<Progress, TlsError> {
        let progress = self.tls.process(&mut self.incoming, &mut self.plain, &mut self.outgoing, wanted)?;
        self.peer_closed |= progress.peer_closed;
        if progress.ready && self.phase == Phase::Keys {
            self.phase = Phase::Preamble { said: false };
        }
        Ok(progress)
    }

    fn preambles(&mut self, said: bool) -> Result<(), SessionError> {
        if self.side == Side::Accepting && !said {
            self.say_preamble()?;
        }
        let first = frame::first(self.plain.filled());
        let Some((kind, body)) = first.map_err(|e| SessionError::Preamble(e.to_string()))? else { return Ok(()) };
        let (theirs, their_ft) = parse_preamble(kind, body)
            .ok_or_else(|| SessionError::Preamble("its first words are not those of ft".into()))?;
        let length = HEAD_BYTES + body.len();
        self.plain.discard(length);
        if self.side == Side::Connecting {
            // Also to a peer of another version: it has to be able to say so.
            self.say_preamble()?;
        }
        if theirs != self.version {
            return Err(SessionError::Version { theirs, their_ft });
        }
        self.phase = Phase::Up;
        Ok(())
    }

    fn say_preamble(&mut self) -> Result<(), SessionError> {
        let body = [&MAGIC[..], &self.version.to_le_bytes(), env!("CARGO_PKG_VERSION").as_bytes()].concat();
        let bytes = [&frame::head(PREAMBLE, body.len())[..], &body].concat();
        let sealed = self.process(Wanted::Bytes(&bytes))?.sealed;
        assert_eq!(sealed, bytes.len(), "nothing but the handshake was in the buffer before");
        self.phase = Phase::Preamble { said: true };
        Ok(())
    }

    /// Queues one frame.
    pub fn send(&mut self, kind: u8, head: &[u8], payload: &[u8]) {
        assert!(kind != PREAMBLE, "kind 0 is the preamble's");
        let queue = &mut self.queue.bytes;
        queue.extend_from_slice(&frame::head(kind, head.len() + payload.len()));
        queue.extend_from_slice(head);
        queue.extend_from_slice(payload);
    }

    /// What a peer of ours never does.
    #[cfg(test)]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.queue.bytes.extend_from_slice(bytes);
    }

    /// Says good-bye after what is queued.
    pub fn close(&mut self) {
        if self.goodbye == Goodbye::No {
            self.goodbye = Goodbye::Wanted;
        }
    }

    /// Nothing will follow what is unsent.
    pub fn said_goodbye(&self) -> bool {
        self.goodbye == Goodbye::Sealed
    }

    /// Seals as much of the queue as there is room for.
    pub fn seal(&mut self) -> Result<(), TlsError> {
        if self.phase != Phase::Up {
            return Ok(());
        }
        if !self.queue.rest().is_empty() {
            let wanted = Wanted::Bytes(self.queue.rest());
            let progress = self.tls.process(&mut self.incoming, &mut self.plain, &mut self.outgoing, wanted)?;
            self.peer_closed |= progress.peer_closed;
            self.queue.sealed(progress.sealed);
        }
        if self.goodbye == Goodbye::Wanted && self.queue.rest().is_empty() {
            self.process(Wanted::CloseNotify)?;
            self.goodbye = Goodbye::Sealed;
        }
        Ok(())
    }

    /// Bytes for the wire.
    pub fn unsent(&self) -> &[u8] {
        self.outgoing.filled()
    }

    pub fn sent(&mut self, n: usize) {
        self.outgoing.discard(n);
    }

    pub fn queued_bytes(&self) -> usize {
        self.queue.rest().len() + self.outgoing.len()
    }

    /// The oldest frame not yet taken; it takes `HEAD_BYTES` and its body.
    pub fn frame(&self) -> Result<Option<(u8, &[u8])>, SessionError> {
        match self.phase {
            Phase::Up => frame::first(self.plain.filled()).map_err(SessionError::Frame),
            _ => Ok(None),
        }
    }

    pub fn take_frame(&mut self, body_bytes: usize) {
        self.plain.discard(HEAD_BYTES + body_bytes);
    }
}

fn parse_preamble(kind: u8, body: &[u8]) -> Option<(u32, String)> {
    let (version, ft) = body.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    let ft = String::from_utf8_lossy(ft).chars().filter(|c| !c.is_control()).take(FT_VERSION_CHARS_MAX).collect();
    (kind == PREAMBLE).then_some((u32::from_le_bytes(*version), ft))
}
