//! Which packet may leave. Pure: packets, commits and time come in, verdicts and events come out.
//!
//! Laws:
//! - A segment leaves only when everything it acknowledges is committed.
//! - A SYN-ACK leaves only when the birth it announces (both ISNs, all options) is committed; no repeat of it before.
//! - A FIN leaves only by `permit_fin`, an RST of a connection only by `permit_rst`: a kernel that closes the sockets
//!   of a dying engine says nothing.
//! - What belongs to nothing known stays here.
//! - Of a connection that is over on both hosts nobody will log the client's FIN: its acknowledgement needs no commit.
//! - A packet gets one verdict. What is held is bounded, per connection and in all; beyond, it is dropped: TCP repeats.
//!
//! What must never happen: an acknowledgement that leaves too early. The client forgets those bytes, and if the host
//! dies then, the connection hangs for ever with both its ends alive.

use super::boot_time::BootTime;
use super::packet::{Flags, Packet, Segment, Seq, SynOptions, Tuple};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Packets of one connection that wait for a commit.
pub const HELD_PER_CONNECTION_MAX: usize = 2048;
/// Packets that wait for a commit, of all connections. Below the queue's length (65536): other packets must find room.
pub const HELD_TOTAL_MAX: usize = 49_152;
/// Connections known at a time, young, old and closed: the engine's 60 000, and as many closed ones.
pub const CONNECTIONS_MAX: usize = 131_072;
/// Closed connections that are still known.
pub const CLOSED_MAX: usize = 60_000;
/// SYNs that the kernel has not answered.
pub const SYNS_MAX: usize = 65_536;
/// A SYN younger than this is not forgotten for another one: the kernel's answer may still come.
const SYN_AGE_MIN: Duration = Duration::from_secs(1);
/// A SYN older than this is forgotten: the kernel's last repeat of its answer is 63 s old at most.
const SYN_AGE_MAX: Duration = Duration::from_secs(70);
/// A birth that nobody accepted by then never became a connection: the kernel repeats a SYN-ACK for 63 s.
pub const BIRTH_LIFE: Duration = Duration::from_secs(70);
/// Where there is no room for another connection, the oldest birth that nobody accepted goes, once it is this old: the
/// kernel itself gives up such a one after 3 s when too many SYNs come.
pub const BIRTH_LIFE_MIN: Duration = Duration::from_secs(3);
/// How long a closed connection is known: the kernel's TIME_WAIT (60 s), in which it answers a repeated FIN, and more.
pub const CLOSED_LIFE: Duration = Duration::from_secs(90);
/// A SYN-ACK is not repeated sooner: the client's answer is probably on its way.
const SYN_ACK_QUIET: Duration = Duration::from_millis(200);
/// The kernel repeats a SYN-ACK after this. One held longer has repeats on the way already ...
const SYN_ACK_HELD_LONG: Duration = Duration::from_secs(1);
/// ... which would draw an RST from a client that was done by then: be quiet longer.
const SYN_ACK_QUIET_LONG: Duration = Duration::from_secs(1);

/// A packet that waits in the kernel's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
}

/// A connection from its SYN-ACK on. Never reused: one that is over is not found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BirthId {
    slot: u32,
    generation: u32,
}

/// One side's part of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub isn: Seq,
    /// As in the header: not scaled.
    pub window: u16,
    pub options: SynOptions,
}

/// All that a restored connection needs of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    pub id: BirthId,
    pub tuple: Tuple,
    pub client: Handshake,
    /// The service's; the timestamp is the kernel's when it made the SYN-ACK.
    pub server: Handshake,
}

/// Which packets may leave without being asked about: segments with ACK and neither SYN, FIN nor RST of a connection that is
/// open, which acknowledge nothing beyond its number. To be carried out in order, after the verdicts before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Open { slot: u32, tuple: Tuple },
    Upto { slot: u32, ack: Seq },
    Close { slot: u32, tuple: Tuple },
}

/// Why a birth came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Nobody accepted it within [`BIRTH_LIFE`], or within less when others needed the room.
    Expired,
    /// The kernel answered another SYN from the same address: its own end of this connection is gone.
    Superseded,
}

/// What the engine has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Log it, and call `birth_committed` once that is committed. The SYN-ACK waits for it.
    Birth(Birth),
    /// The engine may forget this birth. Not told of one that the engine closed.
    Gone { id: BirthId, why: Gone },
    /// The client of a restored connection asks for its SYN-ACK again, and our kernel, which has it for established, does
    /// not answer: the engine must.
    SynRepeated { id: BirthId },
}

/// A connection that this host did not see the birth of: what a takeover knows about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    pub tuple: Tuple,
    pub isn_client: Seq,
    pub isn_server: Seq,
    /// Both sides' options had it.
    pub sack: bool,
    /// Bytes of the client that are committed.
    pub input_bytes: u64,
    /// The client's FIN is committed.
    pub fin: bool,
    /// The guest's end was shut by a committed act.
    pub fin_permitted: bool,
    /// The client is known to have had the SYN-ACK; else it may be repeated.
    pub confirmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("more than {CONNECTIONS_MAX} connections")]
    Full,
    #[error("the connection is known already")]
    Known,
}

/// What happened to packets; for metrics and alarms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub accepted: u64,
    /// Packets that waited.
    pub held: u64,
    /// Held acknowledgements replaced by a newer one that says the same.
    pub coalesced: u64,
    pub syn_ack_repeats_dropped: u64,
    /// SYN-ACKs whose SYN was not seen. Should be 0.
    pub syn_ack_strangers_dropped: u64,
    /// SYNs dropped because too many were unanswered, or because they can't be read.
    pub syns_dropped: u64,
    /// Segments of connections that are not known.
    pub strangers_dropped: u64,
    pub fins_forbidden: u64,
    pub resets_forbidden: u64,
    /// Connections that the service itself opens; not supported yet.
    pub outbound_dropped: u64,
    /// UDP and other protocols; not supported yet.
    pub unsupported_dropped: u64,
    pub icmp_dropped: u64,
    pub unreadable_dropped: u64,
    /// Beyond a bound of this file.
    pub over_limit_dropped: u64,
    /// Held at a thaw.
    pub thaw_dropped: u64,
}

struct Held {
    packet: PacketId,
    ack: Seq,
    /// It carries nothing else.
    pure: bool,
}

enum Stage {
    /// The birth is told, not committed.
    Waiting { syn_ack: Option<PacketId>, since: BootTime, accepted: bool },
    /// The SYN-ACK may leave.
    Answered { quiet_until: BootTime },
    /// Restored, and the engine has it; whether the client has had the SYN-ACK isn't known.
    HalfOpen { quiet_until: BootTime },
    /// The kernel has a connection, and the engine has it.
    Established,
    /// Over, by a committed act; the kernel may have to answer a repeat.
    Closed,
}

struct Connection {
    tuple: Tuple,
    isn_client: Seq,
    isn_server: Seq,
    sack: bool,
    stage: Stage,
    input_bytes: u64,
    fin: bool,
    fin_permitted: bool,
    rst_permitted: bool,
    /// Its committed acknowledgements leave without being asked about.
    passes: bool,
    /// Acknowledgements never fall from one to the next, so the first is always the first to go.
    held: VecDeque<Held>,
}

impl Connection {
    /// The highest acknowledgement that may leave.
    fn ack_max(&self) -> Seq {
        let fin = self.fin || matches!(self.stage, Stage::Closed);
        self.isn_client.plus(1).plus(self.input_bytes).plus(fin.into())
    }

    /// Packets that wait, with the SYN-ACK.
    fn held_packets(&self) -> usize {
        let syn_ack = matches!(self.stage, Stage::Waiting { syn_ack: Some(_), .. });
        self.held.len() + usize::from(syn_ack)
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// Connections by address and by id.
#[derive(Default)]
struct Connections {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_tuple: HashMap<Tuple, BirthId>,
}

impl Connections {
    fn get_mut(&mut self, id: BirthId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_mut() } else { None }
    }

    fn contains(&self, id: BirthId) -> bool {
        self.slots.get(id.slot as usize).is_some_and(|s| s.generation == id.generation && s.connection.is_some())
    }

    fn find(&self, tuple: &Tuple) -> Option<BirthId> {
        self.by_tuple.get(tuple).copied()
    }

    /// `None`: full. No other connection has the tuple.
    fn insert(&mut self, connection: Connection) -> Option<BirthId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < CONNECTIONS_MAX => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let entry = &mut self.slots[slot as usize];
        let id = BirthId { slot, generation: entry.generation };
        let former = self.by_tuple.insert(connection.tuple, id);
        assert!(former.is_none(), "two connections of one tuple");
        entry.connection = Some(connection);
        Some(id)
    }

    fn remove(&mut self, id: BirthId) -> Option<Connection> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|s| s.generation == id.generation)?;
        let connection = slot.connection.take()?;
        // A slot whose numbers are used up stays empty.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(id.slot);
        }
        self.by_tuple.remove(&connection.tuple);
        Some(connection)
    }
}

#[derive(Clone, Copy)]
struct Syn {
    handshake: Handshake,
    at: BootTime,
    number: u64,
}

/// SYNs that the kernel has not answered, oldest first.
#[derive(Default)]
struct Syns {
    by_tuple: HashMap<Tuple, Syn>,
    /// With numbers that may be gone or replaced.
    order: VecDeque<(Tuple, u64)>,
    last_number: u64,
}

impl Syns {
    /// False: no room.
    fn put(&mut self, now: BootTime, tuple: Tuple, handshake: Handshake) -> bool {
        while let Some((oldest, number)) = self.order.front() {
            let full = self.by_tuple.len() >= SYNS_MAX;
            match self.by_tuple.get(oldest).filter(|s| s.number == *number) {
                Some(s) if now.since(s.at) > SYN_AGE_MAX || (full && now.since(s.at) > SYN_AGE_MIN) => {
                    self.by_tuple.remove(oldest);
                }
                Some(_) => break,
                None => {}
            }
            self.order.pop_front();
        }
        if self.by_tuple.len() >= SYNS_MAX && !self.by_tuple.contains_key(&tuple) {
            return false;
        }
        if self.order.len() >= 2 * SYNS_MAX {
            let by_tuple = &self.by_tuple;
            self.order.retain(|(t, n)| by_tuple.get(t).is_some_and(|s| s.number == *n));
        }
        self.last_number += 1;
        self.order.push_back((tuple, self.last_number));
        self.by_tuple.insert(tuple, Syn { handshake, at: now, number: self.last_number });
        true
    }

    fn take(&mut self, tuple: &Tuple, isn: Seq) -> Option<Handshake> {
        let syn = self.by_tuple.get(tuple).filter(|s| s.handshake.isn == isn)?.handshake;
        self.by_tuple.remove(tuple);
        Some(syn)
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Judge {
    connections: Connections,
    syns: Syns,
    /// Births by the time of their SYN-ACK, which expire if nobody accepts them.
    births: VecDeque<(BootTime, BirthId)>,
    /// Closed connections by the time at which they are forgotten.
    closed: VecDeque<(BootTime, BirthId)>,
    held_total: usize,
    live: bool,
    icmp_errors: bool,
    verdicts: Vec<(PacketId, Verdict)>,
    passes: Vec<Pass>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Judge {
    pub fn new() -> Self {
        Self::default()
    }

    // What passes by.

    /// A packet that wants to leave; its verdict comes by [`Self::take_verdicts`], at once or later.
    ///
    /// `bytes`: from the IP header on, perhaps cut; `length`: what the packet has in all.
    pub fn egress(&mut self, now: BootTime, packet: PacketId, bytes: &[u8], length: u32) {
        let verdict = match Packet::parse(bytes, length) {
            Ok(Packet::Tcp(s)) => self.segment(now, packet, &s),
            Ok(Packet::Icmp { v6, kind }) => Some(self.icmp(v6, kind)),
            Ok(Packet::Udp | Packet::Other) => Some(drop_counted(&mut self.counters.unsupported_dropped)),
            Err(_) => Some(drop_counted(&mut self.counters.unreadable_dropped)),
        };
        if let Some(verdict) = verdict {
            self.decide(packet, verdict);
        }
    }

    /// A SYN that wants to come in. What is dropped here the kernel must not see: its answer would find no SYN.
    pub fn ingress(&mut self, now: BootTime, bytes: &[u8], length: u32) -> Verdict {
        let segment = match Packet::parse(bytes, length) {
            Ok(Packet::Tcp(s)) => s,
            Ok(_) => return Verdict::Accept,
            Err(_) => return drop_counted(&mut self.counters.syns_dropped),
        };
        if segment.flags.has(Flags::ACK) || segment.flags.has(Flags::RST) || !segment.flags.has(Flags::SYN) {
            return Verdict::Accept;
        }
        let Some(handshake) = handshake(&segment) else {
            return drop_counted(&mut self.counters.syns_dropped);
        };
        let tuple = Tuple::new(segment.destination, segment.source);
        if let Some(id) = self.connections.find(&tuple)
            && self.connections.get_mut(id).is_some_and(|c| matches!(c.stage, Stage::HalfOpen { .. }) && c.isn_client == handshake.isn)
        {
            self.events.push_back(Event::SynRepeated { id });
        }
        if self.syns.put(now, tuple, handshake) {
            Verdict::Accept
        } else {
            drop_counted(&mut self.counters.syns_dropped)
        }
    }

    // What the engine says. An id that is over is taken no notice of.

    /// The log with this birth is committed.
    pub fn birth_committed(&mut self, now: BootTime, id: BirthId) {
        let Some(c) = self.connections.get_mut(id) else { return };
        let Stage::Waiting { syn_ack, since, accepted } = c.stage else { return };
        let quiet = if now.since(since) > SYN_ACK_HELD_LONG { SYN_ACK_QUIET_LONG } else { SYN_ACK_QUIET };
        let quiet_until = if syn_ack.is_some() { now.after(quiet) } else { now };
        c.stage = Stage::Answered { quiet_until };
        if let Some(packet) = syn_ack {
            self.held_total -= 1;
            self.decide(packet, if accepted { Verdict::Drop } else { Verdict::Accept });
        }
        if accepted {
            self.establish(id);
        }
    }

    fn establish(&mut self, id: BirthId) {
        let Some(c) = self.connections.get_mut(id) else { return };
        c.stage = Stage::Established;
        c.passes = true;
        self.passes.push(Pass::Open { slot: id.slot, tuple: c.tuple });
        self.passes.push(Pass::Upto { slot: id.slot, ack: c.ack_max() });
    }

    /// The engine has this connection's socket.
    pub fn accepted(&mut self, id: BirthId) {
        let Some(c) = self.connections.get_mut(id) else { return };
        match &mut c.stage {
            // A client that guessed our ISN. Nothing is committed by that.
            Stage::Waiting { accepted, .. } => *accepted = true,
            Stage::Answered { .. } | Stage::HalfOpen { .. } => self.establish(id),
            Stage::Established | Stage::Closed => {}
        }
    }

    /// The log is committed with `bytes` bytes of this client, counted from the connection's start, and with its FIN.
    pub fn committed_input(&mut self, id: BirthId, bytes: u64, fin: bool) {
        let Some(c) = self.connections.get_mut(id) else { return };
        assert!(!c.fin || bytes <= c.input_bytes, "input behind the client's FIN");
        c.input_bytes = c.input_bytes.max(bytes);
        c.fin |= fin;
        // Who says something has had the SYN-ACK.
        let opens = matches!(c.stage, Stage::HalfOpen { .. }) && (c.input_bytes > 0 || c.fin);
        self.release(id);
        if opens {
            self.establish(id);
        }
    }

    /// Lets out what waits for no more than is committed.
    fn release(&mut self, id: BirthId) {
        let Some(c) = self.connections.get_mut(id) else { return };
        let ack_max = c.ack_max();
        while let Some(first) = c.held.front() {
            if first.ack.is_after(ack_max) {
                break;
            }
            self.verdicts.push((first.packet, Verdict::Accept));
            self.counters.accepted += 1;
            self.held_total -= 1;
            c.held.pop_front();
        }
        if c.passes {
            self.passes.push(Pass::Upto { slot: id.slot, ack: ack_max });
        }
    }

    /// The guest shut its sending side, and that is committed. To be called before the socket is shut.
    pub fn permit_fin(&mut self, id: BirthId) {
        if let Some(c) = self.connections.get_mut(id) {
            c.fin_permitted = true;
        }
    }

    /// The guest reset the connection, or has none any more for what comes; that is committed.
    pub fn permit_rst(&mut self, id: BirthId) {
        if let Some(c) = self.connections.get_mut(id) {
            c.rst_permitted = true;
        }
    }

    /// The connection is over on both hosts and its socket is closed. It is known for [`CLOSED_LIFE`] more.
    pub fn closed(&mut self, now: BootTime, id: BirthId) {
        let Some(c) = self.connections.get_mut(id) else { return };
        match c.stage {
            Stage::Closed => return,
            // Nothing of it ever left.
            Stage::Waiting { .. } => self.remove(id),
            _ => {
                c.stage = Stage::Closed;
                self.closed.push_back((now.after(CLOSED_LIFE), id));
                self.release(id);
            }
        }
        while self.closed.len() > CLOSED_MAX {
            self.forget_oldest_closed();
        }
    }

    /// A connection from before this host became primary.
    pub fn restore(&mut self, now: BootTime, r: &Restored) -> Result<BirthId, RestoreError> {
        if self.connections.find(&r.tuple).is_some() {
            return Err(RestoreError::Known);
        }
        let stage = Stage::HalfOpen { quiet_until: now };
        let connection = Connection {
            tuple: r.tuple,
            isn_client: r.isn_client,
            isn_server: r.isn_server,
            sack: r.sack,
            stage,
            input_bytes: r.input_bytes,
            fin: r.fin,
            fin_permitted: r.fin_permitted,
            rst_permitted: false,
            passes: false,
            held: VecDeque::new(),
        };
        let id = self.connections.insert(connection).ok_or(RestoreError::Full)?;
        if r.confirmed {
            self.establish(id);
        }
        Ok(id)
    }

    /// Whether this host is the one that answers for the address: only then does a closed port say so, and a ping.
    pub fn set_live(&mut self, live: bool) {
        self.live = live;
    }

    /// Whether ICMP errors (port unreachable and the like) may leave.
    pub fn allow_icmp_errors(&mut self, allow: bool) {
        self.icmp_errors = allow;
    }

    /// This host did not run, or lost its lease: what waits is too old to leave. Everything held is dropped.
    pub fn thawed(&mut self) {
        for slot in &mut self.connections.slots {
            let Some(c) = &mut slot.connection else { continue };
            if let Stage::Waiting { syn_ack, .. } = &mut c.stage
                && let Some(packet) = syn_ack.take()
            {
                self.verdicts.push((packet, Verdict::Drop));
                self.counters.thaw_dropped += 1;
            }
            for h in c.held.drain(..) {
                self.verdicts.push((h.packet, Verdict::Drop));
                self.counters.thaw_dropped += 1;
            }
        }
        self.held_total = 0;
    }

    /// Forgets what is over by now. Once a second is often enough.
    pub fn tick(&mut self, now: BootTime) {
        while self.expire_birth(now, BIRTH_LIFE) {}
        while self.closed.front().is_some_and(|(at, _)| *at <= now) {
            self.forget_oldest_closed();
        }
    }

    // What comes out.

    /// Moves the verdicts made since the last call to the end of `into`.
    pub fn take_verdicts(&mut self, into: &mut Vec<(PacketId, Verdict)>) {
        into.append(&mut self.verdicts);
    }

    /// Moves what may pass since the last call to the end of `into`.
    pub fn take_passes(&mut self, into: &mut Vec<Pass>) {
        into.append(&mut self.passes);
    }

    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The connection with this tuple whose client began with `isn_client`. A tuple alone may be an older one's.
    pub fn find(&mut self, tuple: &Tuple, isn_client: Seq) -> Option<BirthId> {
        let id = self.connections.find(tuple)?;
        (self.connections.get_mut(id)?.isn_client == isn_client).then_some(id)
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Packets that wait for a commit.
    pub fn held(&self) -> usize {
        self.held_total
    }

    // How it is decided. `None`: the packet is held.

    fn segment(&mut self, now: BootTime, packet: PacketId, s: &Segment) -> Option<Verdict> {
        let tuple = Tuple::new(s.source, s.destination);
        let known = self.connections.find(&tuple);
        if s.flags.has(Flags::RST) {
            return Some(self.reset(&tuple, known, s));
        }
        match (s.flags.has(Flags::SYN), s.flags.has(Flags::ACK)) {
            (true, true) => return self.syn_ack(now, packet, tuple, known, s),
            (true, false) => return Some(drop_counted(&mut self.counters.outbound_dropped)),
            (false, true) => {}
            (false, false) => return Some(drop_counted(&mut self.counters.strangers_dropped)),
        }
        let Some(c) = known.and_then(|id| self.connections.get_mut(id)) else {
            return Some(drop_counted(&mut self.counters.strangers_dropped));
        };
        if matches!(c.stage, Stage::Waiting { .. }) {
            return Some(drop_counted(&mut self.counters.strangers_dropped));
        }
        let fin = s.flags.has(Flags::FIN);
        if fin && !c.fin_permitted {
            return Some(drop_counted(&mut self.counters.fins_forbidden));
        }
        if !s.ack.is_after(c.ack_max()) {
            return Some(Verdict::Accept);
        }
        let pure = s.payload_bytes == 0 && !fin;
        // Without SACK a client counts repeats to find a loss; with it the newest says all.
        if let Some(last) = c.held.back_mut()
            && last.ack == s.ack
            && last.pure
            && pure
            && c.sack
        {
            let older = std::mem::replace(&mut last.packet, packet);
            self.counters.coalesced += 1;
            self.decide(older, Verdict::Drop);
            return None;
        }
        // Acknowledgements of one kernel never fall. Should one, what was held before goes no earlier than it: drop.
        let falls = c.held.back().is_some_and(|last| last.ack.is_after(s.ack));
        if falls || c.held.len() >= HELD_PER_CONNECTION_MAX || self.held_total >= HELD_TOTAL_MAX {
            return Some(drop_counted(&mut self.counters.over_limit_dropped));
        }
        c.held.push_back(Held { packet, ack: s.ack, pure });
        self.held_total += 1;
        self.counters.held += 1;
        None
    }

    fn reset(&mut self, tuple: &Tuple, known: Option<BirthId>, s: &Segment) -> Verdict {
        let permitted = match known.and_then(|id| self.connections.get_mut(id)) {
            Some(c) => c.rst_permitted || (matches!(c.stage, Stage::Closed) && self.live),
            None => self.live,
        };
        if !permitted {
            return drop_counted(&mut self.counters.resets_forbidden);
        }
        self.syns.take(tuple, Seq(s.ack.0.wrapping_sub(1)));
        Verdict::Accept
    }

    fn syn_ack(
        &mut self,
        now: BootTime,
        packet: PacketId,
        tuple: Tuple,
        known: Option<BirthId>,
        s: &Segment,
    ) -> Option<Verdict> {
        let isn_client = Seq(s.ack.0.wrapping_sub(1));
        let syn = self.syns.take(&tuple, isn_client);
        let held_total = &mut self.held_total;
        if let Some(c) = known.and_then(|id| self.connections.get_mut(id))
            && c.isn_client == isn_client
            && c.isn_server == s.seq
        {
            match &mut c.stage {
                // The one that waited was dropped at a thaw, or there was no room for it.
                Stage::Waiting { syn_ack: syn_ack @ None, .. } if *held_total < HELD_TOTAL_MAX => {
                    *syn_ack = Some(packet);
                    *held_total += 1;
                    return None;
                }
                Stage::Answered { quiet_until } | Stage::HalfOpen { quiet_until } if *quiet_until <= now => {
                    *quiet_until = now.after(SYN_ACK_QUIET);
                    return Some(Verdict::Accept);
                }
                _ => return Some(drop_counted(&mut self.counters.syn_ack_repeats_dropped)),
            }
        }
        let (Some(client), Some(server)) = (syn, handshake(s)) else {
            return Some(drop_counted(&mut self.counters.syn_ack_strangers_dropped));
        };
        if let Some(old) = known {
            let open = self.connections.get_mut(old).is_some_and(|c| !matches!(c.stage, Stage::Closed));
            if open {
                self.events.push_back(Event::Gone { id: old, why: Gone::Superseded });
            }
            self.remove(old);
        }
        if self.connections.by_tuple.len() >= CONNECTIONS_MAX {
            self.expire_birth(now, BIRTH_LIFE_MIN);
        }
        let room = self.held_total < HELD_TOTAL_MAX;
        let connection = Connection {
            tuple,
            isn_client,
            isn_server: s.seq,
            sack: client.options.sack && server.options.sack,
            stage: Stage::Waiting { syn_ack: room.then_some(packet), since: now, accepted: false },
            input_bytes: 0,
            fin: false,
            fin_permitted: false,
            rst_permitted: false,
            passes: false,
            held: VecDeque::new(),
        };
        let Some(id) = self.connections.insert(connection) else {
            return Some(drop_counted(&mut self.counters.over_limit_dropped));
        };
        self.note_birth(now, id);
        self.events.push_back(Event::Birth(Birth { id, tuple, client, server }));
        if !room {
            return Some(drop_counted(&mut self.counters.over_limit_dropped));
        }
        self.held_total += 1;
        self.counters.held += 1;
        None
    }

    fn icmp(&mut self, v6: bool, kind: u8) -> Verdict {
        let allowed = match (v6, kind) {
            // Neighbour discovery and MLD (RFC 4861, 3810): the address's own work; the lease program gates it.
            (true, 130..=136 | 143) => true,
            // An echo reply says that somebody lives here.
            (true, 129) | (false, 0) => self.live,
            (true, 1..=4) | (false, 3 | 4 | 11 | 12) => self.live && self.icmp_errors,
            _ => false,
        };
        if allowed { Verdict::Accept } else { drop_counted(&mut self.counters.icmp_dropped) }
    }

    fn decide(&mut self, packet: PacketId, verdict: Verdict) {
        if verdict == Verdict::Accept {
            self.counters.accepted += 1;
        }
        self.verdicts.push((packet, verdict));
    }

    /// Born and not accepted.
    fn is_birth(&mut self, id: BirthId) -> bool {
        let stage = self.connections.get_mut(id).map(|c| &c.stage);
        matches!(stage, Some(Stage::Waiting { accepted: false, .. } | Stage::Answered { .. }))
    }

    fn note_birth(&mut self, now: BootTime, id: BirthId) {
        while let Some((_, first)) = self.births.front().copied()
            && !self.is_birth(first)
        {
            self.births.pop_front();
        }
        if self.births.len() >= 2 * CONNECTIONS_MAX {
            let connections = &self.connections;
            self.births.retain(|(_, id)| connections.contains(*id));
        }
        self.births.push_back((now, id));
    }

    /// Forgets the oldest birth that nobody accepted, if it is that old.
    fn expire_birth(&mut self, now: BootTime, life: Duration) -> bool {
        while let Some((born, id)) = self.births.front().copied() {
            let open = self.is_birth(id);
            if open && now.since(born) < life {
                return false;
            }
            self.births.pop_front();
            if open {
                self.events.push_back(Event::Gone { id, why: Gone::Expired });
                self.remove(id);
                return true;
            }
        }
        false
    }

    fn forget_oldest_closed(&mut self) {
        if let Some((_, id)) = self.closed.pop_front() {
            self.remove(id);
        }
    }

    /// Forgets a connection; what it held is dropped.
    fn remove(&mut self, id: BirthId) {
        let Some(c) = self.connections.remove(id) else { return };
        self.held_total -= c.held_packets();
        if c.passes {
            self.passes.push(Pass::Close { slot: id.slot, tuple: c.tuple });
        }
        if let Stage::Waiting { syn_ack: Some(packet), .. } = c.stage {
            self.verdicts.push((packet, Verdict::Drop));
        }
        for h in c.held {
            self.verdicts.push((h.packet, Verdict::Drop));
        }
    }
}

fn drop_counted(counter: &mut u64) -> Verdict {
    *counter += 1;
    Verdict::Drop
}

fn handshake(s: &Segment) -> Option<Handshake> {
    Some(Handshake { isn: s.seq, window: s.window, options: SynOptions::parse(s.options)? })
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
