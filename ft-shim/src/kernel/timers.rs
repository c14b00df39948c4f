//! Timers that send signals: alarm, setitimer, timer_create. They fire when a clock sample passes them.

use super::signal::{SI_KERNEL, SI_TIMER, SIGALRM, SIGNALS, SigInfo};
use super::slab::Slab;
use super::threads::NEVER;
use super::{Args, Kernel, Reply, done};
use crate::raw::{EINVAL, NS, Timespec};
use crate::user;
use alloc::vec::Vec;

/// An interval timer on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    pub next: u64,
    pub every: u64,
}

impl Interval {
    pub const OFF: Self = Self { next: NEVER, every: 0 };

    /// Times it has fired by `now`; it then stands at the next time.
    pub fn expire(&mut self, now: u64) -> u64 {
        if self.next > now {
            return 0;
        }
        if self.every == 0 {
            self.next = NEVER;
            return 1;
        }
        let n = (now - self.next) / self.every + 1;
        self.next = self.next.saturating_add(n.saturating_mul(self.every));
        n
    }

    /// First so long from `now`. A time beyond what can be counted never comes.
    fn after(now: u64, first: u64, every: u64) -> Self {
        Self { next: now.saturating_add(first), every }
    }

    /// Interval and remaining time, as the guest sees them.
    pub fn value(&self, now: u64) -> [u64; 2] {
        let left = if self.next == NEVER { 0 } else { self.next.saturating_sub(now).max(1) };
        [self.every, left]
    }
}

enum Notify {
    Process,
    Thread(i32),
    None,
}

struct PosixTimer {
    clock: u64,
    interval: Interval,
    notify: Notify,
    signo: u32,
    value: u64,
    overrun: u64,
}

pub struct Timers {
    real: Interval,
    posix: Slab<PosixTimer>,
    /// The earliest time of any timer of the domain.
    next_fire: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self { real: Interval::OFF, posix: Slab::default(), next_fire: NEVER }
    }
}

impl Timers {
    fn next_deadline(&self) -> u64 {
        self.posix.iter().map(|(_, t)| t.interval.next).fold(self.real.next, u64::min)
    }

    /// In a fork child: none is inherited.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Kernel {
    /// When the clock has moved: by a sample, or by the guest's reads.
    pub fn fire_timers(&mut self) {
        let now = self.clock.now();
        if now < self.timers.next_fire {
            return;
        }
        self.fire_signal_timers(now);
        self.fire_timerfds();
        self.rearm();
    }

    /// A timer was set: it may be due already.
    pub fn timers_changed(&mut self) {
        self.rearm();
        self.fire_timers();
    }

    fn rearm(&mut self) {
        self.timers.next_fire = self.timers.next_deadline().min(self.next_timerfd());
    }

    pub fn next_timer(&self) -> u64 {
        self.timers.next_fire
    }

    /// A timer whose signal is still pending counts overruns instead of sending another.
    fn merge_pending_timer(&mut self, id: u32, fired: u64) -> bool {
        let threads = self.threads.indices().collect::<Vec<_>>();
        let is = |s: &SigInfo| s.code == SI_TIMER && s.first[0] == id;
        let own = threads.into_iter().find(|&t| self.threads.at(t).signal.pending.iter().any(is));
        let queue = match own {
            Some(t) => &mut self.threads.at_mut(t).signal.pending,
            None => &mut self.signals.pending,
        };
        let Some(s) = queue.iter_mut().find(|s| is(s)) else { return false };
        s.first[1] += fired as u32;
        self.timers.posix.at_mut(id as usize).overrun = s.first[1].into();
        true
    }

    fn fire_signal_timers(&mut self, now: u64) {
        if self.timers.real.expire(now) > 0 {
            self.post_to_process(SigInfo { signo: SIGALRM, code: SI_KERNEL, ..SigInfo::default() });
        }
        for i in self.timers.posix.indices() {
            let t = self.timers.posix.at_mut(i);
            let n = t.interval.expire(now);
            if n == 0 {
                continue;
            }
            if self.merge_pending_timer(i as u32, n) {
                continue;
            }
            let t = self.timers.posix.at_mut(i);
            t.overrun = n - 1;
            let info = SigInfo { signo: t.signo, code: SI_TIMER, first: [i as u32, t.overrun as u32], value: t.value };
            match t.notify {
                Notify::None => {}
                Notify::Process => self.post_to_process(info),
                Notify::Thread(tid) => {
                    if let Some(t) = self.threads.by_tid(tid) {
                        self.post_to_thread(t, info);
                    }
                }
            }
        }
    }
}

/// An `itimerspec` of the guest's: interval and time, in nanoseconds.
pub fn read_itimerspec(at: u64) -> Result<[u64; 2], i64> {
    let [every, time] = user::read::<[Timespec; 2]>(at)?;
    Ok([every.to_ns().ok_or(EINVAL)?, time.to_ns().ok_or(EINVAL)?])
}

pub fn write_itimerspec(at: u64, value: [u64; 2]) -> Result<(), i64> {
    user::write(at, &value.map(Timespec::from_ns))
}

impl Kernel {
    /// A timer on `clock`, as the guest sets it.
    pub fn interval(&self, clock: u64, [every, time]: [u64; 2], is_absolute: bool) -> Result<Interval, i64> {
        Ok(match time {
            0 => Interval { next: NEVER, every },
            t if is_absolute => Interval { next: self.absolute_deadline(clock, t)?, every },
            t => Interval::after(self.clock.now(), t, every),
        })
    }
}

fn timeval_ns(v: [u64; 2]) -> Result<u64, i64> {
    if v[1] >= 1_000_000 {
        return Err(EINVAL);
    }
    Ok(v[0].saturating_mul(NS).saturating_add(v[1] * 1000))
}

fn timeval(ns: u64) -> [u64; 2] {
    [ns / NS, ns % NS / 1000]
}

pub fn setitimer(k: &mut Kernel, a: &Args) -> Reply {
    let [every_s, every_us, value_s, value_us] = if a[1] != 0 { user::read::<[u64; 4]>(a[1])? } else { [0; 4] };
    let (every, value) = (timeval_ns([every_s, every_us])?, timeval_ns([value_s, value_us])?);
    let old = match a[0] {
        0 => {
            let now = k.clock.now();
            let old = k.timers.real.value(now);
            k.timers.real = if value == 0 { Interval::OFF } else { Interval::after(now, value, every) };
            k.timers_changed();
            old
        }
        1 | 2 => {
            if value != 0 {
                k.refuse("setitimer on processor time", "processor time is not measured in lockstep");
                return Err(EINVAL);
            }
            [0, 0]
        }
        _ => return Err(EINVAL),
    };
    if a[2] != 0 {
        let ([es, eu], [vs, vu]) = (timeval(old[0]), timeval(old[1]));
        user::write(a[2], &[es, eu, vs, vu])?;
    }
    done(0)
}

pub fn getitimer(k: &mut Kernel, a: &Args) -> Reply {
    let old = match a[0] {
        0 => k.timers.real.value(k.clock.now()),
        1 | 2 => [0, 0],
        _ => return Err(EINVAL),
    };
    let ([es, eu], [vs, vu]) = (timeval(old[0]), timeval(old[1]));
    user::write(a[1], &[es, eu, vs, vu])?;
    done(0)
}

pub fn alarm(k: &mut Kernel, a: &Args) -> Reply {
    let now = k.clock.now();
    let left = k.timers.real.value(now)[1];
    k.timers.real = match a[0] as u32 {
        0 => Interval::OFF,
        s => Interval::after(now, u64::from(s) * NS, 0),
    };
    k.timers_changed();
    done(left.div_ceil(NS) as i64)
}

pub fn timer_create(k: &mut Kernel, a: &Args) -> Reply {
    k.absolute_deadline(a[0], 0)?; // EINVAL for clocks that can't time
    let (mut notify, mut signo, mut value) = (Notify::Process, SIGALRM, None);
    if a[1] != 0 {
        let [v, sig_how] = user::read::<[u64; 2]>(a[1])?;
        let how = (sig_how >> 32) as u32;
        value = Some(v);
        signo = sig_how as u32;
        notify = match how {
            0 => Notify::Process,
            1 => Notify::None,
            4 => {
                let tid = user::read::<i32>(a[1] + 16)?;
                k.threads.by_tid(tid).ok_or(EINVAL)?;
                Notify::Thread(tid)
            }
            _ => return Err(EINVAL), // SIGEV_THREAD is glibc's own, by SIGEV_THREAD_ID
        };
        if !matches!(notify, Notify::None) && !(1..=SIGNALS as u32).contains(&signo) {
            return Err(EINVAL);
        }
    }
    let timer = PosixTimer { clock: a[0], interval: Interval::OFF, notify, signo, value: 0, overrun: 0 };
    let id = k.timers.posix.insert(timer);
    k.timers.posix.at_mut(id).value = value.unwrap_or(id as u64);
    user::write(a[2], &(id as u32))?;
    done(0)
}

pub fn timer_settime(k: &mut Kernel, a: &Args) -> Reply {
    let set = read_itimerspec(a[2])?;
    let now = k.clock.now();
    let clock = k.timers.posix.get(a[0] as usize).ok_or(EINVAL)?.clock;
    let interval = k.interval(clock, set, a[1] & 1 != 0)?;
    let t = k.timers.posix.at_mut(a[0] as usize);
    let old = core::mem::replace(&mut t.interval, interval).value(now);
    t.overrun = 0;
    k.timers_changed();
    if a[3] != 0 {
        write_itimerspec(a[3], old)?;
    }
    done(0)
}

pub fn timer_gettime(k: &mut Kernel, a: &Args) -> Reply {
    let value = k.timers.posix.get(a[0] as usize).ok_or(EINVAL)?.interval.value(k.clock.now());
    write_itimerspec(a[1], value)?;
    done(0)
}

pub fn timer_getoverrun(k: &mut Kernel, a: &Args) -> Reply {
    done(k.timers.posix.get(a[0] as usize).ok_or(EINVAL)?.overrun.min(i32::MAX as u64) as i64)
}

pub fn timer_delete(k: &mut Kernel, a: &Args) -> Reply {
    k.timers.posix.get(a[0] as usize).ok_or(EINVAL)?;
    k.timers.posix.remove(a[0] as usize);
    k.timers_changed();
    done(0)
}
