//! epoll: sets of watched descriptors with a queue of those that may be ready. Level, edge, one-shot.
//!
//! The queue works as in the kernel: an object that changes queues the items that watch it; a wait takes items
//! in order, looks at the object, and puts a level-triggered one that was ready back at the end. An item that is taken
//! out leaves its place in the queue behind, which then means nothing: with ten thousand descriptors, looking for it
//! would cost more than everything else.

use super::fds::{DescId, O_CLOEXEC, Object};
use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EBADF, EEXIST, EINVAL, ELOOP, ENOENT, EPERM, Timespec};
use crate::user;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

pub const IN: u32 = 1;
pub const PRI: u32 = 2;
pub const OUT: u32 = 4;
pub const ERR: u32 = 8;
pub const HUP: u32 = 16;
pub const RDNORM: u32 = 64;
pub const RDBAND: u32 = 128;
pub const WRNORM: u32 = 256;
pub const WRBAND: u32 = 512;
pub const RDHUP: u32 = 0x2000;
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
const PRIVATE: u32 = EXCLUSIVE | WAKEUP | ONESHOT | EDGE;
/// How deep epolls may watch epolls.
const NESTING_MAX: u32 = 5;

type Key = (i32, DescId);

struct Item {
    /// Tells it from earlier items under the same key.
    serial: u64,
    events: u32,
    data: u64,
    queued: bool,
    /// A one-shot item that has fired: nothing until it is modified, not even errors.
    spent: bool,
}

impl Item {
    fn new(serial: u64, events: u32, data: u64) -> Self {
        Self { serial, events, data, queued: false, spent: false }
    }

    /// What it wants to know: errors and hang-up need no asking.
    fn wants(&self) -> u32 {
        if self.spent { 0 } else { (self.events | ERR | HUP) & !PRIVATE }
    }
}

/// A place in the queue; it counts as long as the item of that serial number is there.
#[derive(Clone, Copy)]
struct Place {
    key: Key,
    serial: u64,
}

#[derive(Default)]
pub struct Epoll {
    items: BTreeMap<Key, Item>,
    queue: VecDeque<Place>,
    last_serial: u64,
}

impl Epoll {
    fn add(&mut self, key: Key, events: u32, data: u64) {
        self.last_serial += 1;
        self.items.insert(key, Item::new(self.last_serial, events, data));
    }

    fn remove(&mut self, key: Key) {
        self.items.remove(&key);
        // Nobody may ever wait: at most as many places that mean nothing as others, and a few.
        const EMPTY_PLACES_MAX: usize = 64;
        if self.queue.len() > 2 * self.items.len() + EMPTY_PLACES_MAX {
            let items = &self.items;
            self.queue.retain(|p| items.get(&p.key).is_some_and(|i| i.serial == p.serial));
        }
    }

    /// Puts the item at the end of the queue, if it isn't in it.
    fn enqueue(&mut self, key: Key) {
        if let Some(item) = self.items.get_mut(&key).filter(|i| !i.queued) {
            item.queued = true;
            let serial = item.serial;
            self.queue.push_back(Place { key, serial });
        }
    }

    /// The item of a place, unless it is gone.
    fn at(&self, p: &Place) -> Option<&Item> {
        self.items.get(&p.key).filter(|i| i.serial == p.serial)
    }
}

impl Kernel {
    /// What is ready on an open description, in epoll's terms.
    pub fn ready(&self, d: DescId) -> u32 {
        self.ready_nested(d, 0)
    }

    fn ready_nested(&self, d: DescId, depth: u32) -> u32 {
        let m = match &self.fds.at(d).object {
            Object::Console => OUT,
            Object::File(_) | Object::Recorded(_) => IN | OUT,
            Object::Pipe(e) if e.write => self.pipe_write_mask(e.pipe),
            Object::Pipe(e) => self.pipe_read_mask(e.pipe),
            Object::Pair(p) => self.pair_mask(*p),
            Object::Socket(s) => self.socket_mask(s),
            Object::EventFd(e) => e.mask(),
            Object::TimerFd(t) => t.mask(),
            Object::SignalFd(s) => {
                if self.signalfd_ready(s.mask) {
                    IN
                } else {
                    0
                }
            }
            Object::Epoll(e) => {
                let ready = |p: &Place| {
                    e.at(p).is_some_and(|i| {
                        depth < NESTING_MAX && self.ready_nested(p.key.1, depth + 1) & i.wants() != 0
                    })
                };
                if e.queue.iter().any(ready) { IN } else { 0 }
            }
        };
        let norm = (if m & IN != 0 { RDNORM } else { 0 }) | (if m & OUT != 0 { WRNORM } else { 0 });
        m | norm
    }

    /// Object `d` changed in the ways of `mask`: whoever waits for it looks again.
    pub fn notify(&mut self, d: DescId, mask: u32) {
        self.notify_nested(d, mask, 0);
    }

    fn notify_nested(&mut self, d: DescId, mask: u32, depth: u32) {
        self.changed = true;
        if self.fds.at(d).watchers.is_empty() || depth > NESTING_MAX {
            return;
        }
        let mask = mask | (if mask & IN != 0 { RDNORM } else { 0 }) | (if mask & OUT != 0 { WRNORM } else { 0 });
        for i in 0..self.fds.at(d).watchers.len() {
            let (epd, fd) = self.fds.at(d).watchers[i];
            let Object::Epoll(e) = &mut self.fds.at_mut(epd).object else { continue };
            if e.items.get(&(fd, d)).is_none_or(|i| i.wants() & mask == 0) {
                continue;
            }
            e.enqueue((fd, d));
            self.notify_nested(epd, IN, depth + 1);
        }
    }

    /// The description goes away: no epoll watches it any more.
    pub fn forget_watches(&mut self, d: DescId) {
        for (epd, fd) in core::mem::take(&mut self.fds.at_mut(d).watchers) {
            if let Object::Epoll(e) = &mut self.fds.at_mut(epd).object {
                e.remove((fd, d));
            }
        }
    }

    pub fn close_epoll(&mut self, epd: DescId, e: Epoll) {
        for (_, d) in e.items.into_keys() {
            if self.fds.exists(d) {
                self.fds.at_mut(d).watchers.retain(|w| w.0 != epd);
            }
        }
    }

    fn epoll_mut(&mut self, epfd: u64) -> Result<(DescId, &mut Epoll), i64> {
        let d = self.fds.desc_of(epfd)?;
        match &mut self.fds.at_mut(d).object {
            Object::Epoll(e) => Ok((d, e)),
            _ => Err(EINVAL),
        }
    }

    fn epoll_collect(&mut self, epd: DescId, max: usize) -> Vec<(u32, u64)> {
        let mut out = Vec::new();
        let Object::Epoll(e) = &self.fds.at(epd).object else { return out };
        for _ in 0..e.queue.len() {
            if out.len() == max {
                break;
            }
            let Object::Epoll(e) = &mut self.fds.at_mut(epd).object else { break };
            let Some(Place { key, serial }) = e.queue.pop_front() else { break };
            let Some(item) = e.items.get_mut(&key).filter(|i| i.serial == serial) else { continue };
            item.queued = false;
            let (events, data, wants) = (item.events, item.data, item.wants());
            let ready = self.ready(key.1) & wants;
            if ready == 0 {
                continue;
            }
            out.push((ready, data));
            let Object::Epoll(e) = &mut self.fds.at_mut(epd).object else { break };
            let Some(item) = e.items.get_mut(&key) else { continue };
            if events & ONESHOT != 0 {
                item.spent = true;
            } else if events & EDGE == 0 {
                e.enqueue(key);
            }
        }
        out
    }
}

pub fn epoll_create(k: &mut Kernel, a: &Args) -> Reply {
    if a[0] as i32 <= 0 {
        return Err(EINVAL);
    }
    k.install(Object::Epoll(Epoll::default()), 2)
}

pub fn epoll_create1(k: &mut Kernel, a: &Args) -> Reply {
    if a[0] as u32 & !O_CLOEXEC != 0 {
        return Err(EINVAL);
    }
    k.install(Object::Epoll(Epoll::default()), a[0] as u32 | 2)
}

pub fn epoll_ctl(k: &mut Kernel, a: &Args) -> Reply {
    const ADD: u64 = 1;
    const DEL: u64 = 2;
    const MOD: u64 = 3;
    let [epfd, op, fd, event, ..] = *a;
    let (mut events, mut data) = (0, 0);
    if op != DEL {
        let mut b = [0u8; 12];
        user::copy_in(&mut b, event)?;
        events = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        data = u64::from_le_bytes([b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11]]);
    }
    let epd = k.fds.desc_of(epfd)?;
    let d = k.fds.desc_of(fd)?;
    if matches!(&k.fds.at(d).object, Object::File(f) if f.path_only) {
        return Err(EBADF);
    }
    if matches!(k.fds.at(d).object, Object::File(_) | Object::Recorded(_) | Object::Console) {
        return Err(EPERM);
    }
    if d == epd || !matches!(k.fds.at(epd).object, Object::Epoll(_)) {
        return Err(EINVAL);
    }
    let is_epoll = matches!(k.fds.at(d).object, Object::Epoll(_));
    if events & EXCLUSIVE != 0 {
        const ALLOWED: u32 = IN | OUT | WRNORM | RDNORM | ERR | HUP | WAKEUP | EDGE | EXCLUSIVE;
        if op == MOD || is_epoll || events & !ALLOWED != 0 {
            return Err(EINVAL);
        }
    }
    if op == ADD && is_epoll && reaches(k, d, epd, 0) {
        return Err(ELOOP);
    }
    let key = (fd as i32, d);
    let (_, e) = k.epoll_mut(epfd)?;
    match (op, e.items.get_mut(&key)) {
        (ADD, Some(_)) => return Err(EEXIST),
        (MOD | DEL, None) => return Err(ENOENT),
        (ADD, None) => {
            e.add(key, events, data);
            k.fds.at_mut(d).watchers.push((epd, fd as i32));
        }
        (MOD, Some(item)) => {
            if item.events & EXCLUSIVE != 0 {
                return Err(EINVAL);
            }
            (item.events, item.data, item.spent) = (events, data, false);
        }
        (DEL, Some(_)) => {
            e.remove(key);
            k.fds.at_mut(d).watchers.retain(|w| *w != (epd, fd as i32));
            return done(0);
        }
        _ => return Err(EINVAL),
    }
    if k.ready(d) & (events | ERR | HUP) & !PRIVATE != 0 {
        let (_, e) = k.epoll_mut(epfd)?;
        e.enqueue(key);
        k.notify(epd, IN);
    }
    done(0)
}

/// Epoll `from` watches `to`, directly or through others.
fn reaches(k: &Kernel, from: DescId, to: DescId, depth: u32) -> bool {
    let Object::Epoll(e) = &k.fds.at(from).object else { return false };
    depth >= NESTING_MAX || e.items.keys().any(|&(_, d)| d == to || reaches(k, d, to, depth + 1))
}

fn wait(k: &mut Kernel, epfd: u64, events: u64, max: u64, timeout: Option<u64>) -> Reply {
    let epd = match k.fds.desc_of(epfd) {
        Ok(d) => d,
        Err(_) => return Err(EBADF),
    };
    let max = max as i32;
    if !matches!(k.fds.at(epd).object, Object::Epoll(_)) || max <= 0 || max > i32::MAX / 12 {
        return Err(EINVAL);
    }
    if !k.threads.cur().call.again {
        k.poll_point(false);
    }
    for d in k.undecided_readers() {
        if reaches(k, epd, d, 0) {
            k.claim_reading(d);
        }
    }
    let got = k.epoll_collect(epd, max as usize);
    if !got.is_empty() {
        let mut b = Vec::with_capacity(got.len() * 12);
        for (ready, data) in &got {
            b.extend_from_slice(&ready.to_le_bytes());
            b.extend_from_slice(&data.to_le_bytes());
        }
        user::copy_out(events, &b)?;
        return done(got.len() as i64);
    }
    wait_or_time_out(k, timeout)
}

/// The common end of a poll that found nothing: 0 at its deadline, EINTR for a pending signal, else wait.
pub fn wait_or_time_out(k: &mut Kernel, timeout: Option<u64>) -> Reply {
    if k.has_deliverable(k.threads.current) {
        return Err(crate::raw::EINTR);
    }
    if let Some(ns) = timeout {
        let deadline = k.relative_deadline(ns);
        if deadline <= k.clock.now() {
            return done(0);
        }
    }
    Ok(Outcome::Block(Block::Object))
}

/// Milliseconds as poll and epoll_wait take them; negative: for ever.
pub fn timeout_ms(v: u64) -> Option<u64> {
    let ms = v as i32;
    (ms >= 0).then(|| ms as u64 * 1_000_000)
}

/// A mask for the wait, if one is given.
pub fn wait_mask(k: &mut Kernel, at: u64, size: u64) -> Result<(), i64> {
    if at == 0 || k.threads.cur().call.again {
        return Ok(());
    }
    if size != 8 {
        return Err(EINVAL);
    }
    let mask = user::read::<u64>(at)?;
    k.set_wait_mask(mask);
    Ok(())
}

pub fn epoll_wait(k: &mut Kernel, a: &Args) -> Reply {
    wait(k, a[0], a[1], a[2], timeout_ms(a[3]))
}

pub fn epoll_pwait(k: &mut Kernel, a: &Args) -> Reply {
    wait_mask(k, a[4], a[5])?;
    wait(k, a[0], a[1], a[2], timeout_ms(a[3]))
}

pub fn epoll_pwait2(k: &mut Kernel, a: &Args) -> Reply {
    wait_mask(k, a[4], a[5])?;
    let timeout = match a[3] {
        0 => None,
        at => Some(user::read::<Timespec>(at)?.to_ns().ok_or(EINVAL)?),
    };
    wait(k, a[0], a[1], a[2], timeout)
}
