//! Pipes and socket pairs: byte queues between descriptors of this domain, or between domains.
//!
//! A pipe that a fork child inherited crosses domains: what a domain writes for a reader elsewhere goes out as an
//! act and comes in there as an input, so that its arrival has a place in the reader's log.

use super::fds::{DescId, O_CLOEXEC, O_NONBLOCK, Object};
use super::slab::Slab;
use super::{Args, Kernel, Reply, done, epoll};
use crate::raw::{EAFNOSUPPORT, EINVAL, EPROTONOSUPPORT};
use crate::user;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use ft_log::entry::{Act, PAYLOAD_BYTES_MAX};
use ft_log::ids::PipeId;

pub const CAPACITY_BYTES: usize = 65_536;
/// Writes up to this are never split.
const ATOMIC_BYTES: usize = 4096;

#[derive(Default)]
pub struct Pipe {
    pub id: PipeId,
    buffer: VecDeque<u8>,
    /// For packet pairs: lengths of the packets in the buffer.
    packets: Option<VecDeque<usize>>,
    readers: u32,
    writers: u32,
    /// Domains that hold the other end.
    remote_readers: Vec<u16>,
    remote_writers: Vec<u16>,
    read_desc: Option<DescId>,
    write_desc: Option<DescId>,
}

#[derive(Default)]
pub struct Pipes {
    slab: Slab<Pipe>,
    next: PipeId,
}

#[derive(Clone, Copy)]
pub struct End {
    pub pipe: usize,
    pub write: bool,
}

/// One end of a socket pair: reads one queue, writes the other.
#[derive(Clone, Copy)]
pub struct Pair {
    pub rx: usize,
    pub tx: usize,
    pub packets: bool,
    rx_shut: bool,
    tx_shut: bool,
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
        self.slab.insert(Pipe { id, packets: packets.then(VecDeque::new), ..Pipe::default() })
    }

    pub fn at(&self, p: usize) -> &Pipe {
        self.slab.at(p)
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
        CAPACITY_BYTES.saturating_sub(self.buffer.len())
    }

    fn ended(&self) -> bool {
        self.writers == 0 && self.remote_writers.is_empty()
    }

    fn broken(&self) -> bool {
        self.readers == 0 && self.remote_readers.is_empty()
    }

    fn is_remote(&self) -> bool {
        self.readers == 0 && !self.remote_readers.is_empty()
    }

    fn take(&mut self, max: usize, peek: bool) -> Vec<u8> {
        let (n, drop) = match &mut self.packets {
            Some(p) if peek => (p.front().copied().unwrap_or(0).min(max), 0),
            Some(p) => {
                let whole = p.pop_front().unwrap_or(0);
                (whole.min(max), whole)
            }
            None => {
                let n = self.buffer.len().min(max);
                (n, if peek { 0 } else { n })
            }
        };
        let (a, b) = self.buffer.as_slices();
        let mut out = Vec::with_capacity(n);
        out.extend_from_slice(&a[..n.min(a.len())]);
        out.extend_from_slice(&b[..n - out.len()]);
        self.buffer.drain(..drop);
        out
    }
}

impl Kernel {
    /// `None`: nothing now. Empty: the end.
    pub fn pipe_read(&mut self, p: usize, max: usize, peek: bool) -> Option<Vec<u8>> {
        let pipe = self.pipes.slab.at_mut(p);
        if pipe.is_empty() {
            return pipe.ended().then(Vec::new);
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
        let must = if pipe.packets.is_some() || whole <= ATOMIC_BYTES { bytes.len() } else { 1 };
        let free = pipe.free();
        if free < must && !(pipe.packets.is_some() && pipe.buffer.is_empty()) {
            return Moved::Later;
        }
        let n = if pipe.packets.is_some() { bytes.len() } else { bytes.len().min(free) };
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

    pub fn pair_mask(&self, s: Pair) -> u32 {
        let (rx, tx) = (self.pipes.at(s.rx), self.pipes.at(s.tx));
        let mut m = 0;
        let end = s.rx_shut || rx.ended();
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
        self.changed = true;
        if let Some(w) = w {
            self.notify(w, epoll::OUT | epoll::ERR);
        }
    }

    fn close_writer(&mut self, p: usize) {
        let pipe = self.pipes.slab.at_mut(p);
        pipe.writers -= 1;
        pipe.write_desc = None;
        let (r, id, remote) = (pipe.read_desc, pipe.id, !pipe.remote_readers.is_empty());
        self.changed = true;
        if remote {
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
        let Object::Pair(s) = &mut self.fds.at_mut(d).object else { return Err(EINVAL) };
        let (read, write) = match how {
            0 => (true, false),
            1 => (false, true),
            2 => (true, true),
            _ => return Err(EINVAL),
        };
        let close = write && !s.tx_shut;
        s.rx_shut |= read;
        s.tx_shut |= write;
        let tx = s.tx;
        if close {
            self.close_writer(tx);
        }
        self.notify(d, epoll::IN | epoll::OUT);
        done(0)
    }

    /// What the other end of `s` sees: nothing more comes.
    pub fn pair_is_shut(&self, s: Pair) -> (bool, bool) {
        (s.rx_shut, s.tx_shut)
    }

    /// Another domain wrote.
    pub fn pipe_input(&mut self, id: PipeId, bytes: &[u8]) {
        let Some(p) = self.pipes.by_id(id) else { return }; // closed meanwhile
        let pipe = self.pipes.slab.at_mut(p);
        pipe.buffer.extend(bytes);
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
            let pipe = self.pipes.slab.at_mut(p);
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
        for p in self.pipes.slab.indices() {
            let pipe = self.pipes.slab.at_mut(p);
            let before = (pipe.remote_readers.len(), pipe.remote_writers.len());
            pipe.remote_readers.retain(|&d| d != other);
            pipe.remote_writers.retain(|&d| d != other);
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
    let r = k.install_fd(Object::Pipe(End { pipe: p, write: false }), flags)?;
    let w = match k.install_fd(Object::Pipe(End { pipe: p, write: true }), flags | 1) {
        Ok(w) => w,
        Err(e) => {
            k.pipes.slab.at_mut(p).readers = 1;
            k.close_fd(r)?;
            return Err(e);
        }
    };
    let (rd, wd) = (k.fds.desc_of(r as u64)?, k.fds.desc_of(w as u64)?);
    let pipe = k.pipes.slab.at_mut(p);
    (pipe.readers, pipe.writers, pipe.read_desc, pipe.write_desc) = (1, 1, Some(rd), Some(wd));
    user::write(a[0], &[r as u32, w as u32])?;
    done(0)
}

pub fn socketpair(k: &mut Kernel, a: &Args) -> Reply {
    const AF_UNIX: u64 = 1;
    const STREAM: u32 = 1;
    const DGRAM: u32 = 2;
    const SEQPACKET: u32 = 5;
    if a[0] != AF_UNIX {
        return Err(EAFNOSUPPORT);
    }
    let flags = a[1] as u32 & (O_CLOEXEC | O_NONBLOCK);
    let packets = match a[1] as u32 & !flags {
        STREAM => false,
        DGRAM | SEQPACKET => true,
        _ => return Err(EPROTONOSUPPORT),
    };
    user::write(a[3], &[0u32, 0])?;
    let (one, two) = (k.pipes.create(packets), k.pipes.create(packets));
    let pair = |rx, tx| Object::Pair(Pair { rx, tx, packets, rx_shut: false, tx_shut: false });
    for p in [one, two] {
        let p = k.pipes.slab.at_mut(p);
        (p.readers, p.writers) = (1, 1);
    }
    let x = k.install_fd(pair(one, two), flags | 2)?;
    let y = k.install_fd(pair(two, one), flags | 2)?;
    let (xd, yd) = (k.fds.desc_of(x as u64)?, k.fds.desc_of(y as u64)?);
    let p = k.pipes.slab.at_mut(one);
    (p.read_desc, p.write_desc) = (Some(xd), Some(yd));
    let p = k.pipes.slab.at_mut(two);
    (p.read_desc, p.write_desc) = (Some(yd), Some(xd));
    user::write(a[3], &[x as u32, y as u32])?;
    done(0)
}

impl Kernel {
    /// In a fork child: what the parent shared with others is not shared with them from here.
    pub fn forget_remote_pipes(&mut self) {
        for p in self.pipes.slab.indices() {
            let pipe = self.pipes.slab.at_mut(p);
            pipe.remote_readers.clear();
            pipe.remote_writers.clear();
        }
    }
}
