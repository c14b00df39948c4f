//! eventfd: a counter that is a descriptor.

use super::fds::{DescId, O_CLOEXEC, O_NONBLOCK, Object};
use super::{Args, Kernel, Reply, epoll};
use crate::raw::{EBADF, EINVAL};

const SEMAPHORE: u32 = 1;
const MAX: u64 = u64::MAX - 1;

pub struct EventFd {
    pub count: u64,
    semaphore: bool,
}

pub fn eventfd2(k: &mut Kernel, a: &Args) -> Reply {
    let flags = a[1] as u32;
    if flags & !(SEMAPHORE | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    let object = Object::EventFd(EventFd { count: a[0] as u32 as u64, semaphore: flags & SEMAPHORE != 0 });
    k.install(object, flags & !SEMAPHORE | 2)
}

pub fn eventfd(k: &mut Kernel, a: &Args) -> Reply {
    eventfd2(k, &[a[0], 0, 0, 0, 0, 0])
}

impl Kernel {
    /// `None`: zero, nothing to take.
    pub fn eventfd_read(&mut self, d: DescId) -> Result<Option<u64>, i64> {
        let Object::EventFd(e) = &mut self.fds.at_mut(d).object else { return Err(EBADF) };
        if e.count == 0 {
            return Ok(None);
        }
        let v = if e.semaphore { 1 } else { e.count };
        e.count -= v;
        self.notify(d, epoll::OUT);
        Ok(Some(v))
    }

    /// False: no room.
    pub fn eventfd_write(&mut self, d: DescId, v: u64) -> Result<bool, i64> {
        let Object::EventFd(e) = &mut self.fds.at_mut(d).object else { return Err(EBADF) };
        if v == u64::MAX {
            return Err(EINVAL);
        }
        if v > MAX - e.count {
            return Ok(false);
        }
        e.count += v;
        self.notify(d, epoll::IN);
        Ok(true)
    }
}

impl EventFd {
    pub fn mask(&self) -> u32 {
        (if self.count > 0 { epoll::IN } else { 0 }) | (if self.count < MAX { epoll::OUT } else { 0 })
    }
}
