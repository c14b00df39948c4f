//! File locks: the kernel's own, on both hosts. A lock that would have to wait is tried again when something changed,
//! because the one kernel thread must never wait in the kernel.
//!
//! Between threads of a domain that is a function of its calls. A lock that a process outside the domain holds is not:
//! the hosts' own processes are no business of a service.

use super::fds::Object;
use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EAGAIN, EINVAL, nr};
use crate::user;

const FLOCK: usize = 73;
const LOCK_NB: u64 = 4;

/// The fcntl commands of record locks, as (waits, does not wait), and those that only ask.
const F_GETLK: u64 = 5;
const F_SETLK: u64 = 6;
const F_SETLKW: u64 = 7;
const F_OFD_SETLK: u64 = 37;
const F_OFD_SETLKW: u64 = 38;

pub fn flock(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if !matches!(k.fds.at(d).object, Object::File(_)) {
        // Emulated objects have no file under their descriptor that anybody else could lock: always granted.
        return if a[1] & !LOCK_NB <= 8 { done(0) } else { Err(EINVAL) };
    }
    // SAFETY: locks a file of the guest, or doesn't, at once.
    let r = unsafe { raw!(FLOCK, a[0], a[1] | LOCK_NB) };
    taken(k, r, a[1] & LOCK_NB == 0)
}

/// fcntl's lock commands on a real file.
pub fn record_lock(k: &mut Kernel, a: &Args) -> Reply {
    let command = match a[1] {
        F_SETLKW => F_SETLK,
        F_OFD_SETLKW => F_OFD_SETLK,
        c => c,
    };
    // SAFETY: reads, and for F_GETLK writes, one flock structure of the guest; does not wait.
    let r = unsafe { raw!(nr::FCNTL, a[0], command, a[2]) };
    if r == 0 && a[1] == F_GETLK {
        hide_owner(k, a[2])?;
    }
    taken(k, r, command != a[1])
}

/// A lock was tried with result `r`.
fn taken(k: &mut Kernel, r: i64, waits: bool) -> Reply {
    if r == -EAGAIN && waits {
        return Ok(Outcome::Block(Block::Object));
    }
    if r == 0 {
        k.changed = true; // it may have been an unlock, or a lock made smaller
    }
    done(r)
}

/// F_GETLK names the host's id of the process that has the lock; the guest gets the id that it knows.
fn hide_owner(k: &mut Kernel, at: u64) -> Result<(), i64> {
    const PID: u64 = 24;
    const TYPE_UNLOCKED: u16 = 2;
    if user::read::<u16>(at)? == TYPE_UNLOCKED {
        return Ok(());
    }
    let host = user::read::<i32>(at + PID)?;
    let own = k.process.children.iter().find(|c| c.host_pid == host).map_or(0, |c| c.pid);
    user::write(at + PID, &own)
}
