//! Pipes and socket pairs: byte queues between descriptors of this domain, or between domains.
//!
//! A pipe that a fork child inherited crosses domains: what a domain writes for a reader elsewhere goes out as an
//! act and comes in there as an input, so that its arrival has a place in the reader's log.
//!
//! Where several domains hold the reading end, what is written stays with the writer until one of them reads or waits
//! for something to read; the others hear of that, and pass on what they hold. Two that read the same pipe are refused.

use super::fds::{DescId, O_CLOEXEC, O_NONBLOCK, Object};
use super::slab::Slab;
use super::{Args, Kernel, Reply, done, epoll};
use crate::raw::{EAFNOSUPPORT, EBADF, EBUSY, ECONNREFUSED, EINVAL, EMSGSIZE, EOPNOTSUPP, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT};
use crate::user;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use ft_log::entry::{Act, PAYLOAD_BYTES_MAX};
use ft_log::ids::PipeId;

const CAPACITY_BYTES: usize = 65_536;
/// As /proc/sys/fs/pipe-max-size has it by default.
const CAPACITY_BYTES_MAX: usize = 1 << 20;
/// Writes up to this are never split.
const ATOMIC_BYTES: usize = 4096;
/// Longest message of a packet pair: the kernel's default send buffer less what it needs for itself.
const PACKET_BYTES_MAX: usize = 212_992 - 32;
/// Messages that may wait in a packet pair: empty ones take no bytes.
const PACKETS_MAX: usize = 512;

#[derive(Default)]
pub struct Pipe {
    pub id: PipeId,
    buffer: VecDeque<u8>,
    /// For packet pairs: lengths of the packets in the buffer.
    packets: Option<VecDeque<usize>>,
    capacity_bytes: usize,
    readers: u32,
    writers: u32,
    /// The reader has shut down reading.
    deaf: bool,
    /// Domains that hold these ends too.
    remote_readers: Vec<u16>,
    remote_writers: Vec<u16>,
    reader: Reader,
    /// So many of the first bytes were there at the fork: every domain that shares the pipe has them.
    inherited: usize,
    /// Our writing end is closed, and what was written goes to others first.
    end_owed: bool,
    read_desc: Option<DescId>,
    write_desc: Option<DescId>,
}

/// Which of the domains that hold a reading end reads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Reader {
    #[default]
    Unknown,
    Here,
    Elsewhere,
}

#[derive(Default)]
pub struct Pipes {
    slab: Slab<Pipe>,
    next: PipeId,
    /// Some pipe is held by other domains too.
    shared: bool,
    /// Other domains said that they read these, at the input point that is being applied.
    read_elsewhere: Vec<PipeId>,
}

#[derive(Clone, Copy)]
pub struct End {
    pub pipe: usize,
    pub write: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PairKind {
    Stream,
    Datagram,
    Seqpacket,
}

/// One end of a socket pair: reads one queue, writes the other.
#[derive(Clone, Copy)]
pub struct Pair {
    pub rx: usize,
    pub tx: usize,
    pub kind: PairKind,
    /// SO_RCVTIMEO and SO_SNDTIMEO.
    pub read_timeout_ns: u64,
    pub write_timeout_ns: u64,
    rx_shut: bool,
    tx_shut: bool,
}

impl Pair {
    /// Message boundaries are kept.
    pub fn packets(&self) -> bool {
        self.kind != PairKind::Stream
    }

    /// SO_TYPE.
    pub fn type_number(&self) -> u32 {
        match self.kind {
            PairKind::Stream => STREAM,
            PairKind::Datagram => DGRAM,
            PairKind::Seqpacket => SEQPACKET,
        }
    }
}

/// What was read, and how long the message was of which it is the beginning.
#[derive(Default)]
pub struct Taken {
    pub bytes: Vec<u8>,
    pub whole: usize,
}

impl From<Vec<u8>> for Taken {
    fn from(bytes: Vec<u8>) -> Self {
        let whole = bytes.len();
        Self { bytes, whole }
    }
}

/// What a transfer came to.
pub enum Moved {
    Bytes(usize),
    /// Nothing now: wait or EAGAIN.
    Later,
    /// Nobody will ever read it.
    Broken,
}

impl Pipes {
    fn create(&mut self, packets: bool) -> usize {
        self.next = self.next.next();
        let id = self.next;
        let packets = packets.then(VecDeque::new);
        self.slab.insert(Pipe { id, packets, capacity_bytes: CAPACITY_BYTES, ..Pipe::default() })
    }

    pub fn at(&self, p: usize) -> &Pipe {
        self.slab.at(p)
    }

    /// Two ends that are connected with each other.
    pub fn create_pair(&mut self, kind: PairKind) -> (Pair, Pair) {
        let packets = kind != PairKind::Stream;
        let (one, two) = (self.create(packets), self.create(packets));
        for p in [one, two] {
            let p = self.slab.at_mut(p);
            (p.readers, p.writers) = (1, 1);
        }
        let end = |rx, tx| Pair { rx, tx, kind, read_timeout_ns: 0, write_timeout_ns: 0, rx_shut: false, tx_shut: false };
        (end(one, two), end(two, one))
    }

    /// The end belongs to open description `d` from now on.
    pub fn attach_pair(&mut self, s: Pair, d: DescId) {
        self.slab.at_mut(s.rx).read_desc = Some(d);
        self.slab.at_mut(s.tx).write_desc = Some(d);
    }

    fn by_id(&self, id: PipeId) -> Option<usize> {
        self.slab.iter().find(|(_, p)| p.id == id).map(|(i, _)| i)
    }
}

impl Pipe {
    pub fn len(&self) -> usize {
        match &self.packets {
            Some(p) => p.front().copied().unwrap_or(0),
            None => self.buffer.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match &self.packets {
            Some(p) => p.is_empty(),
            None => self.buffer.is_empty(),
        }
    }

    fn free(&self) -> usize {
        self.capacity_bytes.saturating_sub(self.buffer.len())
    }

    fn ended(&self) -> bool {
        self.writers == 0 && self.remote_writers.is_empty()
    }

    fn broken(&self) -> bool {
        self.deaf || (self.readers == 0 && self.remote_readers.is_empty())
    }

    fn is_remote(&self) -> bool {
        !self.remote_readers.is_empty() && (self.readers == 0 || self.reader == Reader::Elsewhere)
    }

    /// Nobody knows yet who will read.
    fn is_undecided(&self) -> bool {
        self.readers > 0 && !self.remote_readers.is_empty() && self.reader == Reader::Unknown
    }

    /// Takes what others have to get, message by message where there are any.
    fn take_for_others(&mut self) -> Vec<Vec<u8>> {
        // Whoever reads has the bytes of the fork's time, unless they were ours.
        let mut skip = if self.reader == Reader::Here { 0 } else { core::mem::take(&mut self.inherited) };
        let all: Vec<u8> = core::mem::take(&mut self.buffer).into();
        let Some(packets) = &mut self.packets else { return alloc::vec![all[skip.min(all.len())..].to_vec()] };
        let mut at = 0;
        let mut out = Vec::new();
        for n in core::mem::take(packets) {
            if skip >= n && skip > 0 {
                skip -= n;
            } else {
                out.push(all[at..at + n].to_vec());
            }
            at += n;
        }
        out
    }

    fn take(&mut self, max: usize, peek: bool) -> Taken {
        let whole = match &mut self.packets {
            Some(p) if peek => p.front().copied().unwrap_or(0),
            Some(p) => p.pop_front().unwrap_or(0),
            None => self.buffer.len().min(max),
        };
        let n = whole.min(max);
        let drop = if peek { 0 } else { whole };
        let (a, b) = self.buffer.as_slices();
        let mut out = Vec::with_capacity(n);
        out.extend_from_slice(&a[..n.min(a.len())]);
        out.extend_from_slice(&b[..n - out.len()]);
        self.buffer.drain(..drop);
        self.inherited = self.inherited.saturating_sub(drop);
        Taken { bytes: out, whole }
    }

    /// A packet of `n` bytes fits; one that is alone always does.
    fn takes_packet(&self, n: usize) -> bool {
        let waiting = self.packets.as_ref().map_or(0, VecDeque::len);
        waiting == 0 || (waiting < PACKETS_MAX && n <= self.free())
    }
}

impl Kernel {
    /// This domain reads the pipe, or waits to: who shares it must know. False: another one reads it.
    fn claim_pipe(&mut self, p: usize) -> bool {
        let pipe = self.pipes.slab.at_mut(p);
        if pipe.is_undecided() {
            pipe.reader = Reader::Here;
            let id = pipe.id;
            self.act(&Act::PipeReader { pipe: id });
        }
        self.pipes.at(p).reader != Reader::Elsewhere
    }

    fn refuse_second_reader(&mut self) {
        self.refuse("reading a pipe that another process reads too", "which of them gets what can't be known");
    }

    /// `d` is waited on for something to read.
    pub fn claim_reading(&mut self, d: DescId) {
        if let Some(p) = self.queue_of(d) {
            self.claim_pipe(p);
        }
    }

    /// What is read through `d`, if it is a queue of ours.
    fn queue_of(&self, d: DescId) -> Option<usize> {
        match (&self.fds.at(d).object, self.pair_of(d)) {
            (_, Some(s)) => Some(s.rx),
            (Object::Pipe(e), _) if !e.write => Some(e.pipe),
            _ => None,
        }
    }

    /// Before a read of `d`.
    pub fn read_from_shared(&mut self, d: DescId) -> Result<(), i64> {
        match self.queue_of(d) {
            Some(p) if !self.claim_pipe(p) => {
                self.refuse_second_reader();
                Err(EBADF)
            }
            _ => Ok(()),
        }
    }

    /// Pipes of which it is not known who reads them, by the description that would.
    pub fn undecided_readers(&self) -> Vec<DescId> {
        if !self.pipes.shared {
            return Vec::new();
        }
        self.pipes.slab.iter().filter(|(_, p)| p.is_undecided()).filter_map(|(_, p)| p.read_desc).collect()
    }

    /// Another domain reads the pipe; an input. What follows from it waits until the log has the input point.
    pub fn pipe_read_elsewhere(&mut self, id: PipeId) {
        self.pipes.read_elsewhere.push(id);
    }

    /// The input point is in the log: what others read goes to them.
    pub fn flush_shared_pipes(&mut self) {
        for id in core::mem::take(&mut self.pipes.read_elsewhere) {
            let Some(p) = self.pipes.by_id(id) else { continue }; // closed meanwhile
            let pipe = self.pipes.slab.at_mut(p);
            if pipe.remote_readers.is_empty() {
                continue;
            }
            if pipe.reader == Reader::Here && pipe.readers > 0 {
                self.refuse_second_reader();
                continue;
            }
            pipe.reader = Reader::Elsewhere;
            self.pass_on(p);
            self.pipe_ends_changed(p);
        }
    }

    /// What others have to get goes to them, and the end if it is due.
    fn pass_on(&mut self, p: usize) {
        let pipe = self.pipes.slab.at_mut(p);
        let (id, parts) = (pipe.id, pipe.take_for_others());
        let end = core::mem::take(&mut pipe.end_owed);
        for part in parts.iter().flat_map(|b| b.chunks(PAYLOAD_BYTES_MAX)) {
            self.act(&Act::PipeOutput { pipe: id, bytes: part });
        }
        if end {
            self.act(&Act::PipeEnd { pipe: id });
        }
    }

    /// `None`: nothing now. Empty: the end.
    pub fn pipe_read(&mut self, p: usize, max: usize, peek: bool) -> Option<Taken> {
        let pipe = self.pipes.slab.at_mut(p);
        if pipe.is_empty() {
            return pipe.ended().then(Taken::default);
        }
        let out = pipe.take(max, peek);
        if let Some(w) = pipe.write_desc {
            self.notify(w, epoll::OUT);
        }
        self.changed = true;
        Some(out)
    }

    /// Writes some or all of `bytes`. `whole` is the size of the guest's write of which they are the rest.
    pub fn pipe_write(&mut self, p: usize, bytes: &[u8], whole: usize) -> Moved {
        let pipe = self.pipes.slab.at_mut(p);
        if pipe.broken() {
            return Moved::Broken;
        }
        if pipe.is_remote() {
            let id = pipe.id;
            for part in bytes.chunks(PAYLOAD_BYTES_MAX) {
                self.act(&Act::PipeOutput { pipe: id, bytes: part });
            }
            return Moved::Bytes(bytes.len());
        }
        let n = if pipe.packets.is_some() {
            if !pipe.takes_packet(bytes.len()) {
                return Moved::Later;
            }
            bytes.len()
        } else {
            let free = pipe.free();
            if free < if whole <= ATOMIC_BYTES { bytes.len() } else { 1 } {
                return Moved::Later;
            }
            bytes.len().min(free)
        };
        if let Some(q) = &mut pipe.packets {
            q.push_back(n);
        }
        pipe.buffer.extend(&bytes[..n]);
        let reader = pipe.read_desc;
        self.changed = true;
        if let Some(r) = reader {
            self.notify(r, epoll::IN);
        }
        Moved::Bytes(n)
    }

    pub fn pipe_read_mask(&self, p: usize) -> u32 {
        let pipe = self.pipes.at(p);
        let mut m = 0;
        if !pipe.is_empty() {
            m |= epoll::IN;
        }
        if pipe.ended() {
            m |= epoll::HUP;
        }
        m
    }

    pub fn pipe_write_mask(&self, p: usize) -> u32 {
        let pipe = self.pipes.at(p);
        if pipe.broken() {
            return epoll::ERR | epoll::OUT;
        }
        if pipe.is_remote() || pipe.free() >= ATOMIC_BYTES { epoll::OUT } else { 0 }
    }

    /// `None`: nothing now. Empty: the end, or an empty message.
    pub fn pair_read(&mut self, s: Pair, max: usize, peek: bool) -> Option<Taken> {
        if self.pipes.at(s.rx).is_empty() && s.rx_shut {
            return Some(Taken::default());
        }
        // Datagrams have no end.
        if self.pipes.at(s.rx).is_empty() && s.kind == PairKind::Datagram {
            return None;
        }
        self.pipe_read(s.rx, max, peek)
    }

    /// Writes some or all of `bytes`, which are the rest of `whole`; an errno that isn't a broken pipe.
    pub fn pair_write(&mut self, s: Pair, bytes: &[u8], whole: usize) -> Result<Moved, i64> {
        if s.tx_shut {
            return Ok(Moved::Broken);
        }
        if s.kind == PairKind::Datagram && self.pipes.at(s.tx).readers == 0 && self.pipes.at(s.tx).broken() {
            return Err(ECONNREFUSED);
        }
        // A stream has no atomic writes.
        let whole = if s.packets() { whole } else { whole.max(ATOMIC_BYTES + 1) };
        Ok(self.pipe_write(s.tx, bytes, whole))
    }

    /// Before the bytes are looked at: can a message be that long?
    pub fn pair_takes(&self, s: Pair, whole: usize) -> Result<(), i64> {
        if s.packets() && whole > PACKET_BYTES_MAX { Err(EMSGSIZE) } else { Ok(()) }
    }

    pub fn pair_mask(&self, s: Pair) -> u32 {
        let (rx, tx) = (self.pipes.at(s.rx), self.pipes.at(s.tx));
        let mut m = 0;
        // The peer of a datagram socket may come back, as far as the kernel knows.
        let end = s.rx_shut || (rx.ended() && s.kind != PairKind::Datagram);
        if !rx.is_empty() || end {
            m |= epoll::IN;
        }
        if end {
            m |= epoll::RDHUP;
        }
        if s.tx_shut || tx.broken() || tx.free() >= ATOMIC_BYTES {
            m |= epoll::OUT;
        }
        if end && (s.tx_shut || tx.broken()) {
            m |= epoll::HUP;
        }
        m
    }

    pub fn close_pipe_end(&mut self, e: End) {
        if e.write { self.close_writer(e.pipe) } else { self.close_reader(e.pipe) }
        self.drop_unused(e.pipe);
    }

    pub fn close_pair(&mut self, s: Pair) {
        self.close_reader(s.rx);
        if !s.tx_shut {
            self.close_writer(s.tx);
        }
        self.drop_unused(s.rx);
        self.drop_unused(s.tx);
    }

    fn close_reader(&mut self, p: usize) {
        let pipe = self.pipes.slab.at_mut(p);
        pipe.readers -= 1;
        pipe.read_desc = None;
        let w = pipe.write_desc;
        let passes_on = pipe.is_remote();
        self.changed = true;
        if passes_on {
            self.pass_on(p);
        }
        if let Some(w) = w {
            self.notify(w, epoll::OUT | epoll::ERR);
        }
    }

    fn close_writer(&mut self, p: usize) {
        let pipe = self.pipes.slab.at_mut(p);
        pipe.writers -= 1;
        pipe.write_desc = None;
        let (r, id, remote) = (pipe.read_desc, pipe.id, !pipe.remote_readers.is_empty());
        pipe.end_owed = pipe.is_undecided();
        let now = !pipe.end_owed;
        self.changed = true;
        if remote && now {
            self.act(&Act::PipeEnd { pipe: id });
        }
        if let Some(r) = r {
            self.notify(r, epoll::IN | epoll::HUP);
        }
    }

    fn drop_unused(&mut self, p: usize) {
        if self.pipes.slab.get(p).is_some_and(|x| x.readers == 0 && x.writers == 0) {
            self.pipes.slab.remove(p);
        }
    }

    pub fn shutdown_pair(&mut self, d: DescId, how: u64) -> Reply {
        let Some(s) = self.pair_mut(d) else { return Err(EINVAL) };
        let (read, write) = match how {
            0 => (true, false),
            1 => (false, true),
            2 => (true, true),
            _ => return Err(EINVAL),
        };
        let close = write && !s.tx_shut;
        s.rx_shut |= read;
        s.tx_shut |= write;
        let (rx, tx) = (s.rx, s.tx);
        if close {
            self.close_writer(tx);
        }
        if read {
            let pipe = self.pipes.slab.at_mut(rx);
            pipe.deaf = true;
            if let Some(w) = pipe.write_desc {
                self.notify(w, epoll::OUT | epoll::HUP);
            }
        }
        self.notify(d, epoll::IN | epoll::OUT);
        done(0)
    }

    /// F_GETPIPE_SZ and F_SETPIPE_SZ.
    pub fn pipe_capacity(&mut self, d: DescId, new: Option<u64>) -> Reply {
        let Object::Pipe(e) = self.fds.at(d).object else { return Err(EBADF) };
        let pipe = self.pipes.slab.at_mut(e.pipe);
        if let Some(asked) = new {
            // A whole number of pages, a power of two.
            let asked = (asked as u32 as usize).max(ATOMIC_BYTES).next_power_of_two();
            if asked > CAPACITY_BYTES_MAX {
                return Err(EPERM);
            }
            if asked < pipe.buffer.len() {
                return Err(EBUSY);
            }
            pipe.capacity_bytes = asked;
            if let Some(w) = pipe.write_desc {
                self.notify(w, epoll::OUT);
            }
        }
        done(self.pipes.at(e.pipe).capacity_bytes as i64)
    }

    /// Another domain wrote.
    pub fn pipe_input(&mut self, id: PipeId, bytes: &[u8]) {
        let Some(p) = self.pipes.by_id(id) else { return }; // closed meanwhile
        let pipe = self.pipes.slab.at_mut(p);
        pipe.buffer.extend(bytes);
        if let Some(q) = &mut pipe.packets {
            q.push_back(bytes.len());
        }
        let r = pipe.read_desc;
        self.changed = true;
        if let Some(r) = r {
            self.notify(r, epoll::IN);
        }
    }

    /// Another domain holds a writing end no longer.
    pub fn pipe_remote_closed(&mut self, id: PipeId) {
        let Some(p) = self.pipes.by_id(id) else { return };
        let pipe = self.pipes.slab.at_mut(p);
        if !pipe.remote_writers.is_empty() {
            pipe.remote_writers.remove(0);
        }
        self.pipe_ends_changed(p);
    }

    fn pipe_ends_changed(&mut self, p: usize) {
        self.changed = true;
        let pipe = self.pipes.at(p);
        let (r, w) = (pipe.read_desc, pipe.write_desc);
        if let Some(r) = r {
            self.notify(r, epoll::IN | epoll::HUP);
        }
        if let Some(w) = w {
            self.notify(w, epoll::OUT | epoll::ERR);
        }
    }

    /// A fork: parent and child now hold the same ends. `other` is the domain on the far side, as seen from here.
    pub fn share_pipes_with(&mut self, other: u16) {
        for p in self.pipes.slab.indices() {
            self.pipes.shared = true;
            let pipe = self.pipes.slab.at_mut(p);
            pipe.inherited = pipe.buffer.len();
            if pipe.reader == Reader::Here {
                pipe.reader = Reader::Unknown; // the new one doesn't know
            }
            if pipe.readers > 0 {
                pipe.remote_readers.push(other);
            }
            if pipe.writers > 0 {
                pipe.remote_writers.push(other);
            }
        }
    }

    /// Domain `other` is gone, and with it the ends it held.
    pub fn unshare_pipes_with(&mut self, other: u16) {
        self.pipes.shared = false;
        for p in self.pipes.slab.indices() {
            let pipe = self.pipes.slab.at_mut(p);
            let before = (pipe.remote_readers.len(), pipe.remote_writers.len());
            pipe.remote_readers.retain(|&d| d != other);
            pipe.remote_writers.retain(|&d| d != other);
            if pipe.remote_readers.is_empty() {
                pipe.reader = Reader::Unknown;
                pipe.end_owed = false;
            } else {
                self.pipes.shared = true;
            }
            if (pipe.remote_readers.len(), pipe.remote_writers.len()) != before {
                self.pipe_ends_changed(p);
            }
        }
    }
}

pub fn pipe(k: &mut Kernel, a: &Args) -> Reply {
    pipe2(k, &[a[0], 0, 0, 0, 0, 0])
}

pub fn pipe2(k: &mut Kernel, a: &Args) -> Reply {
    let flags = a[1] as u32;
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(EINVAL); // O_DIRECT: packet pipes
    }
    user::write(a[0], &[0u32, 0])?;
    let p = k.pipes.create(false);
    let pipe = k.pipes.slab.at_mut(p);
    (pipe.readers, pipe.writers) = (1, 1);
    let (read, write) = (End { pipe: p, write: false }, End { pipe: p, write: true });
    let r = match k.install_fd(Object::Pipe(read), flags) {
        Ok(r) => r,
        Err(e) => {
            k.close_pipe_end(read);
            k.close_pipe_end(write);
            return Err(e);
        }
    };
    let w = match k.install_fd(Object::Pipe(write), flags | 1) {
        Ok(w) => w,
        Err(e) => {
            k.close_fd(r)?;
            k.close_pipe_end(write);
            return Err(e);
        }
    };
    let (rd, wd) = (k.fds.desc_of(r as u64)?, k.fds.desc_of(w as u64)?);
    let pipe = k.pipes.slab.at_mut(p);
    (pipe.read_desc, pipe.write_desc) = (Some(rd), Some(wd));
    user::write(a[0], &[r as u32, w as u32])?;
    done(0)
}

const STREAM: u32 = 1;
const DGRAM: u32 = 2;
const RAW: u32 = 3;
const SEQPACKET: u32 = 5;

pub fn socketpair(k: &mut Kernel, a: &Args) -> Reply {
    const AF_UNIX: u64 = 1;
    const AF_INET: u64 = 2;
    const AF_INET6: u64 = 10;
    match a[0] {
        AF_UNIX => {}
        AF_INET | AF_INET6 => return Err(EOPNOTSUPP),
        _ => return Err(EAFNOSUPPORT),
    }
    if a[2] > AF_UNIX {
        return Err(EPROTONOSUPPORT);
    }
    let flags = a[1] as u32 & (O_CLOEXEC | O_NONBLOCK);
    let kind = match a[1] as u32 & !flags {
        STREAM => PairKind::Stream,
        DGRAM | RAW => PairKind::Datagram,
        SEQPACKET => PairKind::Seqpacket,
        _ => return Err(ESOCKTNOSUPPORT),
    };
    user::write(a[3], &[0u32, 0])?;
    let (near, far) = k.pipes.create_pair(kind);
    let x = k.install_fd(Object::Pair(near), flags | 2);
    let y = if x.is_ok() { k.install_fd(Object::Pair(far), flags | 2) } else { x };
    let (x, y) = match (x, y) {
        (Ok(x), Ok(y)) => (x, y),
        (x, y) => {
            match x {
                Ok(fd) => k.close_fd(fd)?,
                Err(_) => k.close_pair(near),
            }
            k.close_pair(far);
            return Err(y.err().unwrap_or(EINVAL));
        }
    };
    let (xd, yd) = (k.fds.desc_of(x as u64)?, k.fds.desc_of(y as u64)?);
    k.pipes.attach_pair(near, xd);
    k.pipes.attach_pair(far, yd);
    user::write(a[3], &[x as u32, y as u32])?;
    done(0)
}

impl Kernel {
    /// In a fork child: what the parent shared with others is not shared with them from here.
    pub fn forget_remote_pipes(&mut self) {
        for p in self.pipes.slab.indices() {
            let pipe = self.pipes.slab.at_mut(p);
            pipe.remote_readers.clear();
            pipe.reader = Reader::Unknown;
            pipe.end_owed = false;
            pipe.remote_writers.clear();
        }
    }
}
