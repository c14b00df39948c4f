//! signalfd: a descriptor from which pending signals are read.

use super::fds::{DescId, Object};
use super::{Args, Kernel, Reply, done};
use crate::raw::{EBADF, EINVAL};
use crate::user;
use alloc::vec::Vec;

pub struct SignalFd {
    pub mask: u64,
}

const CLOEXEC: u64 = 0o200_0000;
const NONBLOCK: u64 = 0o4000;
const RECORD_BYTES: usize = 128;

pub fn signalfd4(k: &mut Kernel, a: &Args) -> Reply {
    if a[2] != 8 || a[3] & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    let mask = user::read::<u64>(a[1])?;
    if a[0] as i32 == -1 {
        return k.install(Object::SignalFd(SignalFd { mask }), a[3] as u32 | 2);
    }
    let d = k.fds.desc_of(a[0])?;
    match &mut k.fds.at_mut(d).object {
        Object::SignalFd(s) => s.mask = mask,
        _ => return Err(EINVAL),
    }
    k.notify(d, super::epoll::IN);
    done(a[0] as i64)
}

pub fn signalfd(k: &mut Kernel, a: &Args) -> Reply {
    signalfd4(k, &[a[0], a[1], a[2], 0, 0, 0])
}

impl Kernel {
    /// As many whole records as fit `max`; `None`: nothing pending.
    pub fn signalfd_read(&mut self, d: DescId, max: usize) -> Result<Option<Vec<u8>>, i64> {
        let Object::SignalFd(s) = &self.fds.at(d).object else { return Err(EBADF) };
        let mask = s.mask;
        if max < RECORD_BYTES {
            return Err(EINVAL);
        }
        let t = self.threads.current;
        let mut out = Vec::new();
        while out.len() + RECORD_BYTES <= max {
            let Some(i) = self.take_pending(t, mask) else { break };
            let mut r = [0u8; RECORD_BYTES];
            r[0..4].copy_from_slice(&i.signo.to_le_bytes());
            r[8..12].copy_from_slice(&i.code.to_le_bytes());
            r[12..16].copy_from_slice(&i.first[0].to_le_bytes());
            r[16..20].copy_from_slice(&i.first[1].to_le_bytes());
            r[40..44].copy_from_slice(&(i.value as u32).to_le_bytes());
            r[44..48].copy_from_slice(&(i.value as u32).to_le_bytes());
            r[48..56].copy_from_slice(&i.value.to_le_bytes());
            out.extend_from_slice(&r);
        }
        Ok(if out.is_empty() { None } else { Some(out) })
    }

    pub fn signalfd_ready(&self, mask: u64) -> bool {
        self.pending_set(self.threads.current) & mask != 0
    }

    pub fn notify_signalfds(&mut self) {
        for d in self.fds.watched() {
            if matches!(self.fds.at(d).object, Object::SignalFd(_)) {
                self.notify(d, super::epoll::IN);
            }
        }
    }
}
