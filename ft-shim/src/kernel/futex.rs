//! Futexes: words of guest memory that threads wait on. One process, so a word is its address.

use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EAGAIN, EINVAL, ENOSYS, Timespec};
use crate::user;

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const TRYLOCK_PI: u64 = 8;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const LOCK_PI2: u64 = 13;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;

const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;
/// Entries of a robust list that are walked, as in the kernel.
const ROBUST_MAX: usize = 2048;

pub fn futex(k: &mut Kernel, a: &Args) -> Reply {
    let [word, op, value, timeout, word2, value3] = *a;
    if word % 4 != 0 {
        return Err(EINVAL);
    }
    match op & !(PRIVATE | CLOCK_REALTIME) {
        WAIT => wait(k, word, value as u32, u32::MAX, timeout, op, true),
        WAIT_BITSET => wait(k, word, value as u32, value3 as u32, timeout, op, false),
        WAKE => {
            user::read::<u32>(word)?;
            done(k.futex_wake(word, value as i32, u32::MAX))
        }
        WAKE_BITSET => {
            user::read::<u32>(word)?;
            done(k.futex_wake(word, value as i32, nonzero(value3 as u32)?))
        }
        REQUEUE => done(k.futex_requeue(word, value as i32, word2, timeout as i32)),
        CMP_REQUEUE => {
            if user::read::<u32>(word)? != value3 as u32 {
                return Err(EAGAIN);
            }
            let n = k.futex_requeue(word, value as i32, word2, timeout as i32);
            done(n)
        }
        WAKE_OP => {
            let wake2 = operate(word2, value3 as u32)?;
            let mut n = k.futex_wake(word, value as i32, u32::MAX);
            if wake2 {
                n += k.futex_wake(word2, timeout as i32, u32::MAX);
            }
            done(n)
        }
        LOCK_PI | UNLOCK_PI | TRYLOCK_PI | LOCK_PI2 => {
            k.refuse("futex with priority inheritance", "use PTHREAD_PRIO_NONE mutexes");
            Err(ENOSYS)
        }
        _ => Err(ENOSYS),
    }
}

fn nonzero(bits: u32) -> Result<u32, i64> {
    if bits == 0 { Err(EINVAL) } else { Ok(bits) }
}

fn wait(k: &mut Kernel, word: u64, value: u32, bits: u32, timeout: u64, op: u64, relative: bool) -> Reply {
    let bits = nonzero(bits)?;
    if timeout != 0 {
        let ns = user::read::<Timespec>(timeout)?.to_ns().ok_or(EINVAL)?;
        let deadline = if relative {
            k.clock.now().saturating_add(ns)
        } else {
            k.absolute_deadline(u64::from(op & CLOCK_REALTIME == 0), ns)?
        };
        k.threads.cur().call.deadline = Some(deadline);
    }
    if user::read::<u32>(word)? != value {
        return Err(EAGAIN);
    }
    if k.threads.cur().call.deadline.is_some_and(|d| d <= k.clock.now()) {
        return Err(crate::raw::ETIMEDOUT);
    }
    Ok(Outcome::Block(Block::Futex { address: word, bits }))
}

/// The second word's operation of FUTEX_WAKE_OP; whether to wake there.
fn operate(word: u64, code: u32) -> Result<bool, i64> {
    let old = user::read::<u32>(word)?;
    let mut arg = ((code << 8) as i32 >> 20) as u32;
    if code >> 31 != 0 {
        arg = 1 << (arg & 31);
    }
    let new = match (code >> 28) & 7 {
        0 => arg,
        1 => old.wrapping_add(arg),
        2 => old | arg,
        3 => old & !arg,
        4 => old ^ arg,
        _ => return Err(ENOSYS),
    };
    user::write(word, &new)?;
    let (old, with) = (old as i32, (code << 20) as i32 >> 20);
    Ok(match (code >> 24) & 15 {
        0 => old == with,
        1 => old != with,
        2 => old < with,
        3 => old <= with,
        4 => old > with,
        5 => old >= with,
        _ => return Err(ENOSYS),
    })
}

impl Kernel {
    fn futex_waiter(&self, word: u64, bits: u32) -> Option<usize> {
        // In order of creation slots: which of several waiters wakes is free in the kernel, but must be the same here.
        self.threads.indices().find(|&t| {
            matches!(self.threads.waits_for(t), Some(Block::Futex { address, bits: b }) if address == word && b & bits != 0)
        })
    }

    /// Wakes up to `n` waiters; how many.
    pub fn futex_wake(&mut self, word: u64, n: i32, bits: u32) -> i64 {
        let mut woken = 0;
        while woken < i64::from(n.max(1)) {
            let Some(t) = self.futex_waiter(word, bits) else { break };
            self.complete(t, 0);
            woken += 1;
        }
        woken
    }

    fn futex_requeue(&mut self, from: u64, wake: i32, to: u64, move_max: i32) -> i64 {
        let woken = if wake > 0 { self.futex_wake(from, wake, u32::MAX) } else { 0 };
        let mut moved = 0;
        while moved < i64::from(move_max) {
            let Some(t) = self.futex_waiter(from, u32::MAX) else { break };
            self.threads.requeue(t, to);
            moved += 1;
            if from == to {
                break;
            }
        }
        woken + moved
    }
}

/// What the kernel does for a thread that ends while it holds robust mutexes.
pub fn release_robust_list(k: &mut Kernel, t: usize) {
    let (head, tid) = (k.threads.at(t).robust_list, k.threads.at(t).tid as u32);
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = user::read::<[u64; 3]>(head) else { return };
    let mut entry = first & !1;
    for _ in 0..ROBUST_MAX {
        if entry == head {
            break;
        }
        let Ok(next) = user::read::<u64>(entry) else { return };
        if entry != pending & !1 {
            release(k, entry.wrapping_add(offset), tid);
        }
        entry = next & !1;
    }
    if pending != 0 {
        release(k, (pending & !1).wrapping_add(offset), tid);
    }
}

fn release(k: &mut Kernel, word: u64, tid: u32) {
    let Ok(v) = user::read::<u32>(word) else { return };
    if v & TID_MASK != tid {
        return;
    }
    let _ = user::write(word, &(v & WAITERS | OWNER_DIED));
    if v & WAITERS != 0 {
        k.futex_wake(word, 1, u32::MAX);
    }
}
