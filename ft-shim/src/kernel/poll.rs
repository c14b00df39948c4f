//! poll and select.

use super::epoll::{self, timeout_ms, wait_mask, wait_or_time_out};
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EBADF, EINVAL, NS, Timespec};
use crate::user;
use alloc::vec::Vec;
use ft_log::shared::GUEST_FDS_MAX;

const NVAL: u32 = 32;

fn poll_all(k: &mut Kernel, at: u64, n: u64, timeout: Option<u64>) -> Reply {
    if n > u64::from(GUEST_FDS_MAX) {
        return Err(EINVAL);
    }
    if !k.threads.cur().call.again {
        k.poll_point(false);
    }
    let mut hits = 0;
    for i in 0..n {
        let at = at + i * 8;
        let [fd, ev] = user::read::<[u32; 2]>(at)?;
        let events = ev & 0xffff;
        let got = if (fd as i32) < 0 {
            0
        } else {
            match k.fds.get(fd.into()) {
                Some(d) => {
                    if events & epoll::IN != 0 {
                        k.claim_reading(d);
                    }
                    k.ready(d) & (events | epoll::ERR | epoll::HUP)
                }
                None => NVAL,
            }
        };
        user::write(at + 6, &(got as u16))?;
        hits += i64::from(got != 0);
    }
    if hits > 0 {
        return done(hits);
    }
    wait_or_time_out(k, timeout)
}

pub fn poll(k: &mut Kernel, a: &Args) -> Reply {
    poll_all(k, a[0], a[1], timeout_ms(a[2]))
}

pub fn ppoll(k: &mut Kernel, a: &Args) -> Reply {
    wait_mask(k, a[3], a[4])?;
    let timeout = timespec(a[2])?;
    let r = poll_all(k, a[0], a[1], timeout);
    write_left(k, a[2], &r, 1);
    r
}

fn timespec(at: u64) -> Result<Option<u64>, i64> {
    match at {
        0 => Ok(None),
        at => Ok(Some(user::read::<Timespec>(at)?.to_ns().ok_or(EINVAL)?)),
    }
}

/// ppoll, select and pselect say how much of the timeout is left.
fn write_left(k: &mut Kernel, at: u64, r: &Reply, ns_per_unit: u64) {
    if at == 0 || matches!(r, Ok(Outcome::Block(_))) {
        return;
    }
    let now = k.clock.now();
    let left = k.threads.cur().call.deadline.map_or(0, |d| d.saturating_sub(now));
    if k.threads.cur().call.deadline.is_some() {
        let _ = user::write(at, &[left / NS, left % NS / ns_per_unit]);
    }
}

fn select_all(k: &mut Kernel, a: &Args, timeout: Option<u64>) -> Reply {
    let n = a[0] as i32;
    if n < 0 {
        return Err(EINVAL);
    }
    let n = (n as usize).min(GUEST_FDS_MAX as usize);
    let bytes = n.div_ceil(64) * 8;
    if !k.threads.cur().call.again {
        k.poll_point(false);
    }
    const IN_SET: u32 = epoll::IN | epoll::RDNORM | epoll::RDBAND | epoll::HUP | epoll::ERR;
    const OUT_SET: u32 = epoll::OUT | epoll::WRNORM | epoll::WRBAND | epoll::ERR;
    let sets = [(a[1], IN_SET), (a[2], OUT_SET), (a[3], epoll::PRI)];
    let mut results: [Vec<u8>; 3] = Default::default();
    let mut hits = 0;
    for (i, (at, mask)) in sets.iter().enumerate() {
        if *at == 0 {
            continue;
        }
        let mut want = alloc::vec![0u8; bytes];
        user::copy_in(&mut want, *at)?;
        let mut got = alloc::vec![0u8; bytes];
        for fd in 0..n {
            if want[fd / 8] >> (fd % 8) & 1 == 0 {
                continue;
            }
            let d = k.fds.get(fd as u64).ok_or(EBADF)?;
            if i == 0 {
                k.claim_reading(d);
            }
            if k.ready(d) & mask != 0 {
                got[fd / 8] |= 1 << (fd % 8);
                hits += 1;
            }
        }
        results[i] = got;
    }
    let r = if hits > 0 { done(hits) } else { wait_or_time_out(k, timeout) };
    if matches!(r, Ok(Outcome::Done(_))) {
        for ((at, _), got) in sets.iter().zip(&results) {
            if *at != 0 {
                user::copy_out(*at, got)?;
            }
        }
    }
    r
}

pub fn select(k: &mut Kernel, a: &Args) -> Reply {
    let timeout = match a[4] {
        0 => None,
        at => {
            let [s, us] = user::read::<[u64; 2]>(at)?.map(|v| v as i64);
            if s < 0 || us < 0 {
                return Err(EINVAL);
            }
            Some((s as u64).saturating_mul(NS).saturating_add(us as u64 * 1000))
        }
    };
    let r = select_all(k, a, timeout);
    write_left(k, a[4], &r, 1000);
    r
}

pub fn pselect6(k: &mut Kernel, a: &Args) -> Reply {
    if a[5] != 0 {
        let [mask, size] = user::read::<[u64; 2]>(a[5])?;
        wait_mask(k, mask, size)?;
    }
    let timeout = timespec(a[4])?;
    let r = select_all(k, a, timeout);
    write_left(k, a[4], &r, 1);
    r
}
