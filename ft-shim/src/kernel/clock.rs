//! The coherent clock: a sample that came with the last batch of inputs, plus a fixed step per read since.
//!
//! All clocks are this one: monotonic, boot time and raw are equal, real time is an offset. Equal on both hosts
//! because samples are in the log and reads are counted.

use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EINVAL, EPERM, NS, Timespec};
use crate::user;
use ft_log::entry::ClockSample;

/// What one read adds.
const STEP_NS: u64 = 20;
/// Reads without a fresh sample; then one is taken, so that loops which wait for time to pass end.
const READS_MAX: u32 = 64;

/// Processor time is the time that passes by this clock while the domain has something to do: it has one kernel thread.
#[derive(Default)]
pub struct Clock {
    sampled_ns: u64,
    realtime_offset_ns: i64,
    reads: u32,
    /// Time that is nobody's: before the start, and while the domain was idle.
    idle_ns: u64,
    /// Processor time that threads have been charged with.
    charged_ns: u64,
}

impl Clock {
    /// Now, without counting as a read.
    pub fn now(&self) -> u64 {
        self.sampled_ns + u64::from(self.reads) * STEP_NS
    }

    pub fn realtime_offset_ns(&self) -> i64 {
        self.realtime_offset_ns
    }

    /// A sample from the log or from the host; never behind what the guest has read.
    pub fn set(&mut self, s: ClockSample) {
        assert!(s.monotonic_ns >= self.now(), "clock sample behind the guest's clock");
        self.sampled_ns = s.monotonic_ns;
        self.realtime_offset_ns = s.realtime_offset_ns.unwrap_or(self.realtime_offset_ns);
        self.reads = 0;
    }

    /// Nothing ran since `from`.
    pub fn note_idle(&mut self, from: u64) {
        self.idle_ns += self.now() - from;
    }

    /// Processor time of all threads.
    pub fn busy_ns(&self) -> u64 {
        self.now().saturating_sub(self.idle_ns)
    }

    /// Processor time since the last charge, which is the running thread's.
    pub fn uncharged_ns(&self) -> u64 {
        self.busy_ns().saturating_sub(self.charged_ns)
    }

    /// As `uncharged_ns`; the caller charges it to a thread.
    pub fn charge(&mut self) -> u64 {
        let ns = self.uncharged_ns();
        self.charged_ns += ns;
        ns
    }

    pub fn sampled_ns(&self) -> u64 {
        self.sampled_ns
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Monotonic,
    Real,
    ProcessCpu,
    /// Of the caller, or of the thread with that id.
    ThreadCpu(Option<i32>),
}

fn kind(id: u64) -> Result<Kind, i64> {
    match id as i32 {
        0 | 5 | 8 => Ok(Kind::Real),         // REALTIME, REALTIME_COARSE, REALTIME_ALARM
        1 | 4 | 6 | 7 | 9 => Ok(Kind::Monotonic), // MONOTONIC, RAW, COARSE, BOOTTIME, BOOTTIME_ALARM
        11 => Ok(Kind::Real),                // TAI: as real time
        2 => Ok(Kind::ProcessCpu),
        3 => Ok(Kind::ThreadCpu(None)),
        // Of a process or thread: its id inverted, a bit that tells which, a kind of time.
        i if i < 0 && i & 4 != 0 => Ok(Kind::ThreadCpu(Some(!(i >> 3)).filter(|&tid| tid != 0))),
        i if i < 0 => Ok(Kind::ProcessCpu),
        _ => Err(EINVAL),
    }
}

impl Kernel {
    /// One read of the clock by the guest.
    pub fn read_clock(&mut self) -> u64 {
        self.clock.reads += 1;
        if self.clock.reads >= READS_MAX {
            self.poll_point(true);
        }
        self.fire_timers();
        self.clock.now()
    }

    fn realtime(&self, monotonic: u64) -> u64 {
        monotonic.wrapping_add_signed(self.clock.realtime_offset_ns())
    }

    pub fn thread_cpu_ns(&self, tid: Option<i32>) -> Result<u64, i64> {
        let t = match tid {
            None => self.threads.current,
            Some(tid) => self.threads.by_tid(tid).ok_or(EINVAL)?,
        };
        let open = if t == self.threads.loaded { self.clock.uncharged_ns() } else { 0 };
        Ok(self.threads.at(t).cpu_ns + open)
    }

    fn read(&mut self, k: Kind) -> Result<u64, i64> {
        Ok(match k {
            Kind::Monotonic => self.read_clock(),
            Kind::Real => {
                let m = self.read_clock();
                self.realtime(m)
            }
            // Asked for after computing, when the sample is old: worth a look.
            Kind::ProcessCpu => {
                self.poll_point(false);
                self.clock.busy_ns()
            }
            Kind::ThreadCpu(tid) => {
                self.poll_point(false);
                self.thread_cpu_ns(tid)?
            }
        })
    }

    /// Monotonic deadline of an absolute time on clock `id`.
    pub fn absolute_deadline(&self, id: u64, at: u64) -> Result<u64, i64> {
        Ok(match kind(id)? {
            Kind::Monotonic => at,
            Kind::Real => at.saturating_add_signed(-self.clock.realtime_offset_ns()),
            Kind::ProcessCpu | Kind::ThreadCpu(_) => return Err(EINVAL),
        })
    }

    pub fn real_now(&self) -> u64 {
        self.realtime(self.clock.now())
    }

    /// The deadline of the current call: `ns` from its start.
    pub fn relative_deadline(&mut self, ns: u64) -> u64 {
        let now = self.clock.now();
        *self.threads.cur().call.deadline.get_or_insert(now.saturating_add(ns))
    }
}

pub fn clock_gettime(k: &mut Kernel, a: &Args) -> Reply {
    let kind = kind(a[0])?;
    let t = k.read(kind)?;
    user::write(a[1], &Timespec::from_ns(t))?;
    done(0)
}

pub fn clock_getres(_: &mut Kernel, a: &Args) -> Reply {
    kind(a[0])?;
    if a[1] != 0 {
        let coarse = matches!(a[0], 5 | 6);
        user::write(a[1], &Timespec { sec: 0, nsec: if coarse { 4_000_000 } else { 1 } })?;
    }
    done(0)
}

/// A guest that sets the clock would set it on one host.
pub fn clock_settime(k: &mut Kernel, a: &Args) -> Reply {
    if a[0] != 0 {
        return Err(EINVAL);
    }
    k.refuse("clock_settime", "the hosts' clocks are the operator's");
    Err(EPERM)
}

pub fn gettimeofday(k: &mut Kernel, a: &Args) -> Reply {
    let t = k.read(Kind::Real)?;
    if a[0] != 0 {
        user::write(a[0], &[t / NS, t % NS / 1000])?;
    }
    if a[1] != 0 {
        user::write(a[1], &[0u32, 0])?;
    }
    done(0)
}

pub fn time(k: &mut Kernel, a: &Args) -> Reply {
    let t = k.read(Kind::Real)? / NS;
    if a[0] != 0 {
        user::write(a[0], &t)?;
    }
    done(t as i64)
}

pub fn nanosleep(k: &mut Kernel, a: &Args) -> Reply {
    let ns = user::read::<Timespec>(a[0])?.to_ns().ok_or(EINVAL)?;
    let deadline = k.relative_deadline(ns);
    sleep_until(k, deadline)
}

pub fn clock_nanosleep(k: &mut Kernel, a: &Args) -> Reply {
    const TIMER_ABSTIME: u64 = 1;
    let ns = user::read::<Timespec>(a[2])?.to_ns().ok_or(EINVAL)?;
    let deadline = if a[1] & TIMER_ABSTIME != 0 {
        let at = k.absolute_deadline(a[0], ns)?;
        *k.threads.cur().call.deadline.get_or_insert(at)
    } else {
        kind(a[0])?;
        k.relative_deadline(ns)
    };
    sleep_until(k, deadline)
}

fn sleep_until(k: &mut Kernel, deadline: u64) -> Reply {
    if k.clock.now() >= deadline {
        return done(0);
    }
    Ok(Outcome::Block(Block::Object))
}

/// What is left of the current call's sleep, for a call that a signal ends.
pub fn write_remaining(k: &Kernel, t: usize) {
    let call = k.threads.at(t).call;
    let at = match call.number {
        35 => call.args[1],
        230 if call.args[1] & 1 == 0 => call.args[3],
        _ => return,
    };
    if at != 0 {
        let left = call.deadline.unwrap_or(0).saturating_sub(k.clock.now());
        let _ = user::write(at, &Timespec::from_ns(left));
    }
}
