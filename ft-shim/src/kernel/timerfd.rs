//! timerfd: expirations of a timer as a descriptor.

use super::fds::{DescId, O_CLOEXEC, O_NONBLOCK, Object};
use super::threads::NEVER;
use super::timers::{Interval, read_itimerspec, write_itimerspec};
use super::{Args, Kernel, Reply, done, epoll};
use crate::raw::{EBADF, EINVAL};
use alloc::vec::Vec;

pub struct TimerFd {
    clock: u64,
    interval: Interval,
    expired: u64,
}

pub fn timerfd_create(k: &mut Kernel, a: &Args) -> Reply {
    k.absolute_deadline(a[0], 0)?;
    let flags = a[1] as u32;
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    k.install(Object::TimerFd(TimerFd { clock: a[0], interval: Interval::OFF, expired: 0 }), flags | 2)
}

pub fn timerfd_settime(k: &mut Kernel, a: &Args) -> Reply {
    const ABSTIME: u64 = 1;
    const CANCEL_ON_SET: u64 = 2; // real time never jumps within a domain's life but at a takeover
    if a[1] & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(EINVAL);
    }
    let d = k.fds.desc_of(a[0])?;
    let set = read_itimerspec(a[2])?;
    let now = k.clock.now();
    let Object::TimerFd(t) = &k.fds.at(d).object else { return Err(EINVAL) };
    let interval = k.interval(t.clock, set, a[1] & ABSTIME != 0)?;
    let Object::TimerFd(t) = &mut k.fds.at_mut(d).object else { return Err(EINVAL) };
    let old = core::mem::replace(&mut t.interval, interval).value(now);
    t.expired = 0;
    k.timers_changed();
    if a[3] != 0 {
        write_itimerspec(a[3], old)?;
    }
    done(0)
}

pub fn timerfd_gettime(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    let now = k.clock.now();
    let Object::TimerFd(t) = &k.fds.at(d).object else { return Err(EINVAL) };
    write_itimerspec(a[1], t.interval.value(now))?;
    done(0)
}

impl Kernel {
    /// `None`: not expired since the last read.
    pub fn timerfd_read(&mut self, d: DescId) -> Result<Option<u64>, i64> {
        let Object::TimerFd(t) = &mut self.fds.at_mut(d).object else { return Err(EBADF) };
        Ok(match core::mem::take(&mut t.expired) {
            0 => None,
            n => Some(n),
        })
    }

    pub fn fire_timerfds(&mut self) {
        let now = self.clock.now();
        let due = |d: &DescId| match &self.fds.at(*d).object {
            Object::TimerFd(t) if t.interval.next <= now => Some((t.interval.next, *d)),
            _ => None,
        };
        let mut due: Vec<_> = self.fds.watched().iter().filter_map(due).collect();
        due.sort_unstable(); // who waits for several sees them in the order of their times
        for (_, d) in due {
            if let Object::TimerFd(t) = &mut self.fds.at_mut(d).object {
                t.expired += t.interval.expire(now);
                self.notify(d, epoll::IN);
            }
        }
    }

    pub fn next_timerfd(&self) -> u64 {
        self.fds.watched().into_iter().fold(NEVER, |m, d| match &self.fds.at(d).object {
            Object::TimerFd(t) => m.min(t.interval.next),
            _ => m,
        })
    }
}

impl TimerFd {
    pub fn mask(&self) -> u32 {
        if self.expired > 0 { epoll::IN } else { 0 }
    }
}
