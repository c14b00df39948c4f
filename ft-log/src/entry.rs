//! Log entries, and the acts by which a guest speaks to its engine.
//!
//! An [`Entry`] is something the backup needs: an input event, or where inputs were applied. An [`Act`] is
//! something the guest did that the engine carries out or notes; it follows from the log and is not in it.
//! On a ring to the guest travel entries; on a ring from the guest travel entries (made by the guest) and acts.

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::{ConnId, DomainId, InputPoint, ListenerId, PipeId};
use core::net::SocketAddr;

/// No payload on a ring or in the log is longer. Longer data is cut into several.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Room for everything of a message but its payload.
pub const HEADER_BYTES_MAX: usize = 128;

/// Received bytes of a connection that the guest may hold unread: `Event::Data` never runs further ahead of
/// `Act::Consumed`.
pub const RX_WINDOW_BYTES: u64 = 256 * 1024;
/// Output of a connection that may be unacknowledged: `Act::Output` never runs further ahead of `Event::Acked`.
pub const TX_WINDOW_BYTES: u64 = 1024 * 1024;
/// Digest of an `Entry::Exit` that the engine made because the domain died without making one (killed from
/// outside). It says nothing about what the domain did.
pub const DIGEST_FORCED: u64 = 0;

/// Real time is taken over into the log when it has moved by more than this against monotonic time.
const REALTIME_STEP_NS: u64 = 1_000_000;

/// One sample of the domain's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSample {
    /// Nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    /// Real time minus monotonic time, nanoseconds; `None`: as before.
    pub realtime_offset_ns: Option<i64>,
}

impl ClockSample {
    /// The domain's time now, by the clocks of the host. `offset_ns`: what it has for real time minus monotonic time.
    pub fn now(monotonic_ns: u64, realtime_ns: u64, offset_ns: i64) -> Self {
        let offset = (realtime_ns as i64).wrapping_sub(monotonic_ns as i64);
        let moved = offset.abs_diff(offset_ns) >= REALTIME_STEP_NS;
        Self { monotonic_ns, realtime_offset_ns: moved.then_some(offset) }
    }
}

/// Something the outside did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A client connected. `local` is the address it connected to.
    Accept { listener: ListenerId, conn: ConnId, peer: SocketAddr, local: SocketAddr },
    /// Bytes arrived.
    Data { conn: ConnId, bytes: &'a [u8] },
    /// The peer closed its sending side.
    Fin { conn: ConnId },
    /// The connection broke; the guest sees `errno` once.
    Reset { conn: ConnId, errno: u16 },
    /// The peer acknowledged everything up to byte `upto` (counted from the connection's start).
    Acked { conn: ConnId, upto: u64 },
    /// An asynchronous signal for the domain.
    Signal { signo: u8 },
    /// Another domain has written a pipe up to byte `upto` (counted from the pipe's start in that domain).
    PipeData { pipe: PipeId, bytes: &'a [u8] },
    /// Another domain holds the pipe's writing end no longer.
    PipeClosed { pipe: PipeId },
    /// Another domain reads the pipe: what it holds is that one's.
    PipeReader { pipe: PipeId },
    /// A fork child ended; `status` as in `wait4`.
    ChildExit { child: DomainId, status: i32 },
}

/// Where and how a domain noticed the outside. Of the domain's making, or of the engine's where it claimed the point
/// ([`crate::idle`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub point: InputPoint,
    /// That many events, in the order of the log, were applied here.
    pub events: u32,
    pub clock: ClockSample,
    /// Rolling digest of everything the domain did before this point.
    pub digest: u64,
    /// Signals that reached the guest's process directly (bit n-1 = signal n), applied after the events.
    pub signals: u64,
}

/// An entry of the log, within one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Event(Event<'a>),
    Applied(Applied),
    /// The domain saw nothing at any input point up to this one, beyond what is logged, and went on.
    Passed { point: InputPoint },
    /// Result of a recorded call, or of a wait whose end the outside decided.
    Recorded { call: u16, bytes: &'a [u8] },
    /// Hash of the guest's memory when it was at this point.
    Memory { point: InputPoint, hash: u64, pages: u64 },
    /// The domain ended; `status` as in `wait4`.
    Exit { status: i32, digest: u64 },
    /// To a guest that follows: the log ends here, go live; its clock is at least so far. Never stored.
    GoLive { monotonic_ns: u64 },
}

/// Where a domain was when it and the log disagreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    pub point: InputPoint,
    /// The thread that ran last, and its rip, rsp and rbp.
    pub thread: u16,
    pub registers: [u64; 3],
    /// Number of the last call that both hosts agree on, and of the last one here: see [`crate::history`].
    pub agreed: u64,
    pub newest: u64,
    /// In which memory differs; empty where calls differ.
    pub memory: MemoryPart,
    /// What this host's disk said when it failed a call that the two don't agree on yet, as an errno; 0: it didn't.
    pub disk_errno: u16,
}

/// A part of the guest's memory, by its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPart {
    pub start: u64,
    pub end: u64,
}

/// What a guest asks of its engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// Bytes for the client.
    Output { conn: ConnId, bytes: &'a [u8] },
    /// The guest will send no more (FIN after what was sent).
    Shutdown { conn: ConnId },
    /// The guest holds the connection no longer; `reset`: by RST.
    Close { conn: ConnId, reset: bool },
    /// The guest has read up to byte `upto`.
    Consumed { conn: ConnId, upto: u64 },
    /// A socket gets an address; port 0: any. Answered with the port, or an errno below zero.
    Bind { listener: ListenerId, address: SocketAddr, v6only: bool, freebind: bool },
    /// A socket listens. Answered with 0, or an errno below zero.
    Listen { listener: ListenerId, address: SocketAddr, backlog: u32, v6only: bool },
    Unlisten { listener: ListenerId },
    /// A socket option that the real connection needs too.
    Option { conn: ConnId, level: u16, name: u16, value: i32 },
    /// A child was forked and became a domain of its own.
    Fork { child: DomainId, host_pid: u32, guest_pid: u32 },
    /// Bytes for another domain that holds the pipe's reading end.
    PipeOutput { pipe: PipeId, bytes: &'a [u8] },
    /// This domain holds the pipe's writing end no longer.
    PipeEnd { pipe: PipeId },
    /// This domain reads the pipe, or waits for something to read; others hold its reading end too.
    PipeReader { pipe: PipeId },
    /// A signal for another domain.
    Kill { domain: DomainId, signo: u8 },
    /// The guest did what can't be done in lockstep; text says what and why.
    Refused { text: &'a [u8] },
    /// This host's disk fails call `number` of the domain, which the other host makes on its own disk; text says how. Only a
    /// primary waits for an answer, which comes once it is to live with that; where the other host goes on, it never comes.
    DiskFailed { number: u64, text: &'a [u8] },
    /// The guest and the log disagree; text says how. The domain has stopped, and waits to be ended.
    Diverged { scene: Disagreement, text: &'a [u8] },
    /// One call, for comparing runs by eye.
    Trace { thread: u16, call: u16, args: [u64; 6], result: i64, digest: u64 },
    /// A line for the engine's own log.
    Note { text: &'a [u8] },
    /// Everything the log had was applied and the domain now makes its own log.
    Live { point: InputPoint },
    /// A copy of the process as it is at the start of this point, for the engine to read and to end; process 0: there is
    /// none, for lack of memory or processes.
    Copied { point: InputPoint, host_pid: u32 },
    /// A file that is about to change was `size` bytes long, and had these at `offset`: told while the engine copies files.
    Replaced { device: u64, inode: u64, size: u64, offset: u64, bytes: &'a [u8] },
    /// Files are about to change in a way that can't be told.
    Untold { text: &'a [u8] },
}

/// What travels from guest to engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGuest<'a> {
    Entry(Entry<'a>),
    Act(Act<'a>),
}

mod tag {
    pub const ACCEPT: u8 = 1;
    pub const DATA: u8 = 2;
    pub const FIN: u8 = 3;
    pub const RESET: u8 = 4;
    pub const ACKED: u8 = 5;
    pub const SIGNAL: u8 = 6;
    pub const PIPE_DATA: u8 = 7;
    pub const PIPE_CLOSED: u8 = 8;
    pub const CHILD_EXIT: u8 = 9;
    pub const PIPE_READER: u8 = 10;

    /// Plus which of the two that most don't have: [`WITH_SIGNALS`], [`WITH_REALTIME`].
    pub const APPLIED: u8 = 32;
    pub const APPLIED_LAST: u8 = APPLIED + WITH_SIGNALS + WITH_REALTIME;
    pub const PASSED: u8 = 36;
    pub const RECORDED: u8 = 37;
    pub const MEMORY: u8 = 38;
    pub const EXIT: u8 = 39;
    pub const GO_LIVE: u8 = 40;

    pub const WITH_SIGNALS: u8 = 1;
    pub const WITH_REALTIME: u8 = 2;

    pub const OUTPUT: u8 = 64;
    pub const SHUTDOWN: u8 = 65;
    pub const CLOSE: u8 = 66;
    pub const CONSUMED: u8 = 67;
    pub const LISTEN: u8 = 68;
    pub const UNLISTEN: u8 = 69;
    pub const OPTION: u8 = 70;
    pub const FORK: u8 = 71;
    pub const PIPE_OUTPUT: u8 = 72;
    pub const PIPE_END: u8 = 73;
    pub const KILL: u8 = 74;
    pub const REFUSED: u8 = 75;
    pub const DIVERGED: u8 = 76;
    pub const TRACE: u8 = 77;
    pub const NOTE: u8 = 78;
    pub const LIVE: u8 = 79;
    pub const READS_PIPE: u8 = 80;
    pub const BIND: u8 = 81;
    pub const COPIED: u8 = 82;
    pub const REPLACED: u8 = 83;
    pub const UNTOLD: u8 = 84;
    pub const DISK_FAILED: u8 = 85;
}

impl<'a> Event<'a> {
    fn encode(&self, w: &mut Writer) -> &'a [u8] {
        match *self {
            Event::Accept { listener, conn, ref peer, ref local } => {
                w.u8(tag::ACCEPT);
                w.uint(listener.0.into());
                w.uint(conn.0.into());
                w.address(peer);
                w.address(local);
            }
            Event::Data { conn, bytes } => {
                w.u8(tag::DATA);
                w.uint(conn.0.into());
                return bytes;
            }
            Event::Fin { conn } => {
                w.u8(tag::FIN);
                w.uint(conn.0.into());
            }
            Event::Reset { conn, errno } => {
                w.u8(tag::RESET);
                w.uint(conn.0.into());
                w.uint(errno.into());
            }
            Event::Acked { conn, upto } => {
                w.u8(tag::ACKED);
                w.uint(conn.0.into());
                w.uint(upto);
            }
            Event::Signal { signo } => {
                w.u8(tag::SIGNAL);
                w.u8(signo);
            }
            Event::PipeData { pipe, bytes } => {
                w.u8(tag::PIPE_DATA);
                w.uint(pipe.0.into());
                return bytes;
            }
            Event::PipeClosed { pipe } => {
                w.u8(tag::PIPE_CLOSED);
                w.uint(pipe.0.into());
            }
            Event::PipeReader { pipe } => {
                w.u8(tag::PIPE_READER);
                w.uint(pipe.0.into());
            }
            Event::ChildExit { child, status } => {
                w.u8(tag::CHILD_EXIT);
                w.uint(child.0.into());
                w.int(status.into());
            }
        }
        &[]
    }

    fn decode(t: u8, r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match t {
            tag::ACCEPT => Event::Accept {
                listener: ListenerId(r.u32()?),
                conn: ConnId(r.u32()?),
                peer: r.address()?,
                local: r.address()?,
            },
            tag::DATA => Event::Data { conn: ConnId(r.u32()?), bytes: r.rest() },
            tag::FIN => Event::Fin { conn: ConnId(r.u32()?) },
            tag::RESET => Event::Reset { conn: ConnId(r.u32()?), errno: r.u16()? },
            tag::ACKED => Event::Acked { conn: ConnId(r.u32()?), upto: r.uint()? },
            tag::SIGNAL => Event::Signal { signo: r.u8()? },
            tag::PIPE_DATA => Event::PipeData { pipe: PipeId(r.u32()?), bytes: r.rest() },
            tag::PIPE_CLOSED => Event::PipeClosed { pipe: PipeId(r.u32()?) },
            tag::PIPE_READER => Event::PipeReader { pipe: PipeId(r.u32()?) },
            tag::CHILD_EXIT => Event::ChildExit { child: DomainId(r.u16()?), status: r.i32()? },
            t => return Err(DecodeError::Unknown(t)),
        })
    }
}

impl<'a> Entry<'a> {
    /// Writes the head into `w` and returns the payload that follows it.
    pub fn encode(&self, w: &mut Writer) -> &'a [u8] {
        match *self {
            Entry::Event(ref e) => return e.encode(w),
            Entry::Applied(a) => {
                let signals = if a.signals == 0 { 0 } else { tag::WITH_SIGNALS };
                let realtime = if a.clock.realtime_offset_ns.is_none() { 0 } else { tag::WITH_REALTIME };
                w.u8(tag::APPLIED + signals + realtime);
                w.uint(a.point.0);
                w.uint(a.events.into());
                w.uint(a.clock.monotonic_ns);
                w.fixed64(a.digest);
                if let Some(offset) = a.clock.realtime_offset_ns {
                    w.int(offset);
                }
                if a.signals != 0 {
                    w.fixed64(a.signals);
                }
            }
            Entry::Passed { point } => {
                w.u8(tag::PASSED);
                w.uint(point.0);
            }
            Entry::Recorded { call, bytes } => {
                w.u8(tag::RECORDED);
                w.uint(call.into());
                return bytes;
            }
            Entry::Memory { point, hash, pages } => {
                w.u8(tag::MEMORY);
                w.uint(point.0);
                w.fixed64(hash);
                w.uint(pages);
            }
            Entry::Exit { status, digest } => {
                w.u8(tag::EXIT);
                w.int(status.into());
                w.fixed64(digest);
            }
            Entry::GoLive { monotonic_ns } => {
                w.u8(tag::GO_LIVE);
                w.uint(monotonic_ns);
            }
        }
        &[]
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let t = r.u8()?;
        let e = Self::decode_tagged(t, &mut r)?;
        r.end()?;
        Ok(e)
    }

    fn decode_tagged(t: u8, r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match t {
            tag::APPLIED..=tag::APPLIED_LAST => {
                let with = |what| (t - tag::APPLIED) & what != 0;
                let (point, events) = (InputPoint(r.uint()?), r.u32()?);
                let (monotonic_ns, digest) = (r.uint()?, r.fixed64()?);
                let realtime_offset_ns = if with(tag::WITH_REALTIME) { Some(r.int()?) } else { None };
                let signals = if with(tag::WITH_SIGNALS) { r.fixed64()? } else { 0 };
                Entry::Applied(Applied { point, events, clock: ClockSample { monotonic_ns, realtime_offset_ns }, digest, signals })
            }
            tag::PASSED => Entry::Passed { point: InputPoint(r.uint()?) },
            tag::RECORDED => Entry::Recorded { call: r.u16()?, bytes: r.rest() },
            tag::MEMORY => Entry::Memory { point: InputPoint(r.uint()?), hash: r.fixed64()?, pages: r.uint()? },
            tag::EXIT => Entry::Exit { status: r.i32()?, digest: r.fixed64()? },
            tag::GO_LIVE => Entry::GoLive { monotonic_ns: r.uint()? },
            t => Entry::Event(Event::decode(t, r)?),
        })
    }
}

impl<'a> Act<'a> {
    /// Writes the head into `w` and returns the payload that follows it.
    pub fn encode(&self, w: &mut Writer) -> &'a [u8] {
        match *self {
            Act::Output { conn, bytes } => {
                w.u8(tag::OUTPUT);
                w.uint(conn.0.into());
                return bytes;
            }
            Act::Shutdown { conn } => {
                w.u8(tag::SHUTDOWN);
                w.uint(conn.0.into());
            }
            Act::Close { conn, reset } => {
                w.u8(tag::CLOSE);
                w.uint(conn.0.into());
                w.u8(reset.into());
            }
            Act::Consumed { conn, upto } => {
                w.u8(tag::CONSUMED);
                w.uint(conn.0.into());
                w.uint(upto);
            }
            Act::Bind { listener, ref address, v6only, freebind } => {
                w.u8(tag::BIND);
                w.uint(listener.0.into());
                w.address(address);
                w.u8(v6only.into());
                w.u8(freebind.into());
            }
            Act::Listen { listener, ref address, backlog, v6only } => {
                w.u8(tag::LISTEN);
                w.uint(listener.0.into());
                w.address(address);
                w.uint(backlog.into());
                w.u8(v6only.into());
            }
            Act::Unlisten { listener } => {
                w.u8(tag::UNLISTEN);
                w.uint(listener.0.into());
            }
            Act::Option { conn, level, name, value } => {
                w.u8(tag::OPTION);
                w.uint(conn.0.into());
                w.uint(level.into());
                w.uint(name.into());
                w.int(value.into());
            }
            Act::Fork { child, host_pid, guest_pid } => {
                w.u8(tag::FORK);
                w.uint(child.0.into());
                w.uint(host_pid.into());
                w.uint(guest_pid.into());
            }
            Act::PipeOutput { pipe, bytes } => {
                w.u8(tag::PIPE_OUTPUT);
                w.uint(pipe.0.into());
                return bytes;
            }
            Act::PipeEnd { pipe } => {
                w.u8(tag::PIPE_END);
                w.uint(pipe.0.into());
            }
            Act::PipeReader { pipe } => {
                w.u8(tag::READS_PIPE);
                w.uint(pipe.0.into());
            }
            Act::Kill { domain, signo } => {
                w.u8(tag::KILL);
                w.uint(domain.0.into());
                w.u8(signo);
            }
            Act::Refused { text } => {
                w.u8(tag::REFUSED);
                return text;
            }
            Act::DiskFailed { number, text } => {
                w.u8(tag::DISK_FAILED);
                w.uint(number);
                return text;
            }
            Act::Diverged { scene, text } => {
                w.u8(tag::DIVERGED);
                w.uint(scene.point.0);
                w.uint(scene.thread.into());
                for n in scene.registers {
                    w.fixed64(n);
                }
                for n in [scene.agreed, scene.newest, scene.memory.start, scene.memory.end, scene.disk_errno.into()] {
                    w.uint(n);
                }
                return text;
            }
            Act::Trace { thread, call, args, result, digest } => {
                w.u8(tag::TRACE);
                w.uint(thread.into());
                w.uint(call.into());
                for a in args {
                    w.uint(a);
                }
                w.int(result);
                w.fixed64(digest);
            }
            Act::Note { text } => {
                w.u8(tag::NOTE);
                return text;
            }
            Act::Live { point } => {
                w.u8(tag::LIVE);
                w.uint(point.0);
            }
            Act::Copied { point, host_pid } => {
                w.u8(tag::COPIED);
                w.uint(point.0);
                w.uint(host_pid.into());
            }
            Act::Replaced { device, inode, size, offset, bytes } => {
                w.u8(tag::REPLACED);
                [device, inode, size, offset].into_iter().for_each(|n| w.uint(n));
                return bytes;
            }
            Act::Untold { text } => {
                w.u8(tag::UNTOLD);
                return text;
            }
        }
        &[]
    }

    fn decode_tagged(t: u8, r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match t {
            tag::OUTPUT => Act::Output { conn: ConnId(r.u32()?), bytes: r.rest() },
            tag::SHUTDOWN => Act::Shutdown { conn: ConnId(r.u32()?) },
            tag::CLOSE => Act::Close { conn: ConnId(r.u32()?), reset: flag(r)? },
            tag::CONSUMED => Act::Consumed { conn: ConnId(r.u32()?), upto: r.uint()? },
            tag::LISTEN => Act::Listen {
                listener: ListenerId(r.u32()?),
                address: r.address()?,
                backlog: r.u32()?,
                v6only: flag(r)?,
            },
            tag::BIND => Act::Bind {
                listener: ListenerId(r.u32()?),
                address: r.address()?,
                v6only: flag(r)?,
                freebind: flag(r)?,
            },
            tag::UNLISTEN => Act::Unlisten { listener: ListenerId(r.u32()?) },
            tag::OPTION => {
                Act::Option { conn: ConnId(r.u32()?), level: r.u16()?, name: r.u16()?, value: r.i32()? }
            }
            tag::FORK => Act::Fork { child: DomainId(r.u16()?), host_pid: r.u32()?, guest_pid: r.u32()? },
            tag::PIPE_OUTPUT => Act::PipeOutput { pipe: PipeId(r.u32()?), bytes: r.rest() },
            tag::PIPE_END => Act::PipeEnd { pipe: PipeId(r.u32()?) },
            tag::READS_PIPE => Act::PipeReader { pipe: PipeId(r.u32()?) },
            tag::KILL => Act::Kill { domain: DomainId(r.u16()?), signo: r.u8()? },
            tag::REFUSED => Act::Refused { text: r.rest() },
            tag::DISK_FAILED => Act::DiskFailed { number: r.uint()?, text: r.rest() },
            tag::DIVERGED => {
                let (point, thread) = (InputPoint(r.uint()?), r.u16()?);
                let registers = [r.fixed64()?, r.fixed64()?, r.fixed64()?];
                let (agreed, newest) = (r.uint()?, r.uint()?);
                let memory = MemoryPart { start: r.uint()?, end: r.uint()? };
                let disk_errno = r.u16()?;
                let scene = Disagreement { point, thread, registers, agreed, newest, memory, disk_errno };
                Act::Diverged { scene, text: r.rest() }
            }
            tag::TRACE => {
                let (thread, call) = (r.u16()?, r.u16()?);
                let mut args = [0; 6];
                for a in &mut args {
                    *a = r.uint()?;
                }
                Act::Trace { thread, call, args, result: r.int()?, digest: r.fixed64()? }
            }
            tag::NOTE => Act::Note { text: r.rest() },
            tag::LIVE => Act::Live { point: InputPoint(r.uint()?) },
            tag::COPIED => Act::Copied { point: InputPoint(r.uint()?), host_pid: r.u32()? },
            tag::REPLACED => Act::Replaced {
                device: r.uint()?,
                inode: r.uint()?,
                size: r.uint()?,
                offset: r.uint()?,
                bytes: r.rest(),
            },
            tag::UNTOLD => Act::Untold { text: r.rest() },
            t => return Err(DecodeError::Unknown(t)),
        })
    }
}

fn flag(r: &mut Reader) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        t => Err(DecodeError::Unknown(t)),
    }
}

impl<'a> FromGuest<'a> {
    pub fn encode(&self, w: &mut Writer) -> &'a [u8] {
        match self {
            Self::Entry(e) => e.encode(w),
            Self::Act(a) => a.encode(w),
        }
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let t = r.u8()?;
        let m = if t >= tag::OUTPUT {
            Self::Act(Act::decode_tagged(t, &mut r)?)
        } else {
            Self::Entry(Entry::decode_tagged(t, &mut r)?)
        };
        r.end()?;
        Ok(m)
    }
}
