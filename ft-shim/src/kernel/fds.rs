//! Descriptors and open file descriptions. Each emulated object holds a real placeholder descriptor, so the
//! lowest free number, dup, close-on-exec and inheritance hold by themselves.

use super::slab::Slab;
use super::{Args, Kernel, Outcome, Reply, done, epoll, eventfd, files, pipe, signalfd, socket, timerfd};
use crate::raw::{self, EBADF, EINVAL, EMFILE, nr};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use ft_log::shared::GUEST_FDS_MAX;

pub type DescId = usize;

pub const O_CLOEXEC: u32 = 0o200_0000;
pub const O_NONBLOCK: u32 = 0o4000;
const O_APPEND: u32 = 0o2000;
const O_RDWR: u32 = 2;

/// What is open.
pub enum Object {
    /// The guest's standard output and error: written on each host's own, always in full.
    Console,
    /// A file, directory or harmless device: the real descriptor, on both hosts.
    File(files::File),
    /// Something of the host that both can't see alike: what is read comes from the log.
    Recorded(files::Recorded),
    Pipe(pipe::End),
    Pair(pipe::Pair),
    Socket(socket::Socket),
    EventFd(eventfd::EventFd),
    TimerFd(timerfd::TimerFd),
    SignalFd(signalfd::SignalFd),
    Epoll(epoll::Epoll),
}

pub struct Description {
    refs: u32,
    /// O_NONBLOCK and access mode.
    pub flags: u32,
    pub object: Object,
    /// Epolls that watch it: the epoll's description and the descriptor it was added under.
    pub watchers: Vec<(DescId, i32)>,
}

pub struct Fds {
    table: Vec<Option<DescId>>,
    descriptions: Slab<Description>,
    /// Timers and signals as descriptors: those that the clock and pending signals change.
    watched: BTreeSet<DescId>,
}

impl Fds {
    pub fn new() -> Self {
        let mut f = Self { table: Vec::new(), descriptions: Slab::default(), watched: BTreeSet::new() };
        let null = f.open(Object::File(files::File::other()), 0);
        f.attach(0, null);
        for fd in 1..=2 {
            let d = f.open(Object::Console, O_RDWR);
            f.attach(fd, d);
        }
        f
    }

    fn open(&mut self, object: Object, flags: u32) -> DescId {
        let watched = matches!(object, Object::TimerFd(_) | Object::SignalFd(_));
        let d = self.descriptions.insert(Description { refs: 0, flags, object, watchers: Vec::new() });
        if watched {
            self.watched.insert(d);
        }
        d
    }

    fn attach(&mut self, fd: i32, d: DescId) {
        let i = fd as usize;
        if self.table.len() <= i {
            self.table.resize(i + 1, None);
        }
        assert!(self.table[i].is_none(), "descriptor {fd} in use");
        self.table[i] = Some(d);
        self.descriptions.at_mut(d).refs += 1;
    }

    pub fn get(&self, fd: u64) -> Option<DescId> {
        *self.table.get(fd as u32 as usize)?
    }

    pub fn desc_of(&self, fd: u64) -> Result<DescId, i64> {
        self.get(fd).ok_or(EBADF)
    }

    pub fn at(&self, d: DescId) -> &Description {
        self.descriptions.at(d)
    }

    pub fn at_mut(&mut self, d: DescId) -> &mut Description {
        self.descriptions.at_mut(d)
    }

    pub fn exists(&self, d: DescId) -> bool {
        self.descriptions.get(d).is_some()
    }

    /// Descriptions of timers and signals.
    pub fn watched(&self) -> Vec<DescId> {
        self.watched.iter().copied().collect()
    }

    pub fn nonblocking(&self, d: DescId) -> bool {
        self.at(d).flags & O_NONBLOCK != 0
    }
}

impl Default for Fds {
    fn default() -> Self {
        Self::new()
    }
}

impl Kernel {
    /// Opens an emulated object under the lowest free descriptor.
    pub fn install(&mut self, object: Object, flags: u32) -> Reply {
        let fd = self.install_fd(object, flags)?;
        done(fd.into())
    }

    pub fn install_fd(&mut self, object: Object, flags: u32) -> Result<i32, i64> {
        let fd = placeholder(flags & O_CLOEXEC != 0)?;
        self.adopt(fd, object, flags);
        Ok(fd)
    }

    /// Notes that real descriptor `fd` stands for `object`.
    pub fn adopt(&mut self, fd: i32, object: Object, flags: u32) -> DescId {
        let d = self.fds.open(object, flags & !O_CLOEXEC);
        self.fds.attach(fd, d);
        d
    }

    pub fn close_fd(&mut self, fd: i32) -> Result<(), i64> {
        self.fds.desc_of(fd as u64)?;
        // SAFETY: a descriptor of the guest.
        let r = unsafe { raw!(nr::CLOSE, fd) };
        assert!(r == 0 || r == -raw::EINTR || r == -raw::EIO || r == -28 || r == -122, "close: {r}");
        self.forget_fd(fd);
        Ok(())
    }

    /// The real descriptor `fd` is closed, if it was open.
    fn forget_fd(&mut self, fd: i32) {
        if let Some(d) = self.fds.table.get_mut(fd as usize).and_then(Option::take) {
            self.release(d);
        }
    }

    fn release(&mut self, d: DescId) {
        let desc = self.fds.at_mut(d);
        desc.refs -= 1;
        if desc.refs > 0 {
            return;
        }
        self.forget_watches(d);
        let desc = self.fds.descriptions.remove(d);
        self.fds.watched.remove(&d);
        match desc.object {
            Object::Console | Object::Recorded(_) => {}
            Object::File(_) => self.changed = true, // its locks are gone
            Object::EventFd(_) | Object::TimerFd(_) | Object::SignalFd(_) => {}
            Object::Pipe(e) => self.close_pipe_end(e),
            Object::Pair(p) => self.close_pair(p),
            Object::Socket(s) => self.close_socket(d, s),
            Object::Epoll(e) => self.close_epoll(d, e),
        }
    }

    /// Everything still open, at the end of the domain.
    pub fn close_all(&mut self) {
        for fd in 0..self.fds.table.len() {
            if let Some(d) = self.fds.table[fd].take() {
                self.release(d);
            }
        }
    }

    /// All real files that are open, by descriptor.
    pub fn open_fds(&self) -> impl Iterator<Item = (i32, DescId)> + '_ {
        self.fds.table.iter().enumerate().filter_map(|(fd, d)| Some((fd as i32, (*d)?)))
    }
}

/// A real descriptor that means nothing, under the lowest free number.
pub fn placeholder(cloexec: bool) -> Result<i32, i64> {
    // SAFETY: makes a descriptor.
    let r = unsafe { raw!(nr::EVENTFD2, 0, if cloexec { O_CLOEXEC } else { 0 }) };
    if r < 0 { Err(-r) } else { Ok(r as i32) }
}

pub fn close(k: &mut Kernel, a: &Args) -> Reply {
    k.close_fd(a[0] as i32)?;
    done(0)
}

pub fn close_range(k: &mut Kernel, a: &Args) -> Reply {
    let [first, last, flags, ..] = *a;
    const UNSHARE: u64 = 2;
    const CLOEXEC: u64 = 4;
    if first as u32 > last as u32 || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(EINVAL);
    }
    let open: Vec<i32> =
        k.open_fds().map(|(fd, _)| fd).filter(|&fd| fd as u32 >= first as u32 && fd as u32 <= last as u32).collect();
    for fd in open {
        if flags & CLOEXEC != 0 {
            // SAFETY: a descriptor of the guest.
            unsafe { raw!(nr::FCNTL, fd, 2, 1) };
        } else {
            k.close_fd(fd)?;
        }
    }
    done(0)
}

fn share(k: &mut Kernel, d: DescId, real: i64) -> Reply {
    if real < 0 {
        return Err(-real);
    }
    k.fds.attach(real as i32, d);
    done(real)
}

pub fn dup(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    // SAFETY: duplicates a descriptor of the guest.
    let r = unsafe { raw!(nr::DUP, a[0]) };
    share(k, d, r)
}

pub fn dup2(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if a[0] as u32 == a[1] as u32 {
        return Ok(Outcome::Done(a[0] as i64));
    }
    dup_to(k, d, a[0], a[1], 0)
}

pub fn dup3(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    if a[0] as u32 == a[1] as u32 || a[2] & !u64::from(O_CLOEXEC) != 0 {
        return Err(EINVAL);
    }
    dup_to(k, d, a[0], a[1], a[2])
}

fn dup_to(k: &mut Kernel, d: DescId, from: u64, to: u64, flags: u64) -> Reply {
    if to as u32 >= GUEST_FDS_MAX {
        return Err(EBADF);
    }
    const DUP3: u32 = 292;
    // SAFETY: duplicates a descriptor of the guest to a number of the guest's, closing what is there.
    let r = unsafe { raw!(DUP3, from as u32, to as u32, flags) };
    if r >= 0 {
        k.forget_fd(to as i32);
    }
    share(k, d, r)
}

pub fn fcntl(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    const F_DUPFD: u32 = 0;
    const F_GETFD: u32 = 1;
    const F_SETFD: u32 = 2;
    const F_GETFL: u32 = 3;
    const F_SETFL: u32 = 4;
    const F_SETOWN: u32 = 8;
    const F_DUPFD_CLOEXEC: u32 = 1030;
    const F_SETPIPE_SZ: u32 = 1031;
    const F_GETPIPE_SZ: u32 = 1032;
    let real = matches!(k.fds.at(d).object, Object::File(_));
    match a[1] as u32 {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            if a[2] >= u64::from(GUEST_FDS_MAX) {
                return Err(EINVAL);
            }
            // SAFETY: duplicates a descriptor of the guest.
            let r = unsafe { raw!(nr::FCNTL, a[0], a[1], a[2]) };
            if r == -EMFILE { Err(EMFILE) } else { share(k, d, r) }
        }
        F_GETFD | F_SETFD => super::both::run(k, nr::FCNTL as u32, a),
        F_GETFL if real => super::both::run(k, nr::FCNTL as u32, a),
        F_GETFL => done(k.fds.at(d).flags.into()),
        F_SETFL => {
            let desc = k.fds.at_mut(d);
            let settable = O_NONBLOCK | O_APPEND;
            desc.flags = desc.flags & !settable | a[2] as u32 & settable;
            if real { super::both::run(k, nr::FCNTL as u32, a) } else { done(0) }
        }
        F_SETOWN => done(0), // SIGIO is never sent: O_ASYNC is not settable
        F_GETPIPE_SZ => k.pipe_capacity(d, None),
        F_SETPIPE_SZ => k.pipe_capacity(d, Some(a[2])),
        5..=7 | 36..=38 if real => super::locks::record_lock(k, a),
        // Seals and hints: of files only.
        1033..=1038 if real => super::both::run(k, nr::FCNTL as u32, a),
        c => {
            k.refuse_number("fcntl command", c.into());
            Err(EINVAL)
        }
    }
}

pub fn ioctl(k: &mut Kernel, a: &Args) -> Reply {
    const FIONREAD: u32 = 0x541b;
    const FIONBIO: u32 = 0x5421;
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIOASYNC: u32 = 0x5452;
    const TERMINAL: core::ops::RangeInclusive<u32> = 0x5401..=0x541a;
    const TIOCGPGRP_AND_ON: core::ops::RangeInclusive<u32> = 0x541c..=0x5420;
    let d = k.fds.desc_of(a[0])?;
    match a[1] as u32 {
        FIONBIO => {
            let on = crate::user::read::<i32>(a[2])? != 0;
            let f = &mut k.fds.at_mut(d).flags;
            *f = if on { *f | O_NONBLOCK } else { *f & !O_NONBLOCK };
            done(0)
        }
        FIOASYNC => done(0), // SIGIO is not sent; programs that use it also poll
        FIOCLEX | FIONCLEX => {
            // SAFETY: sets a flag of a descriptor of the guest.
            done(unsafe { raw!(nr::FCNTL, a[0], 2, u64::from(a[1] as u32 == FIOCLEX)) })
        }
        FIONREAD => {
            let n = k.readable_bytes(d)?;
            match n {
                Some(n) => {
                    crate::user::write(a[2], &(n as i32))?;
                    done(0)
                }
                None => super::both::run(k, nr::IOCTL as u32, a),
            }
        }
        c if TERMINAL.contains(&c) || TIOCGPGRP_AND_ON.contains(&c) => Err(raw::ENOTTY), // nothing of a guest's is a terminal
        c => {
            k.refuse_number("ioctl", c.into());
            Err(raw::ENOTTY)
        }
    }
}
