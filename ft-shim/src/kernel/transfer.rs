//! Reading and writing through descriptors, whatever is behind them.

use super::fds::{DescId, Object};
use super::pipe::Moved;
use super::signal::{SI_USER, SIGPIPE, SigInfo};
use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, both, done};
use crate::raw::{self, EAGAIN, EBADF, EINVAL, ENOTSOCK, EPIPE, ESPIPE, nr};
use crate::user::{self, Iovec};
use alloc::vec::Vec;

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_MORE: u32 = 0x8000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// Most bytes that one call moves.
const TRANSFER_BYTES_MAX: usize = 0x7fff_f000;
/// Bytes that are copied through the shim at a time.
const PART_BYTES: usize = 256 * 1024;
/// Reads of nothing in a row, without a look outside; then one is taken, so that loops which try until something
/// comes end.
const EMPTY_READS_MAX: u32 = 16;

/// How one read or write is to be done.
#[derive(Clone, Copy, Default)]
struct How {
    peek: bool,
    dontwait: bool,
    waitall: bool,
    nosignal: bool,
}

impl Kernel {
    /// EAGAIN from applied state; after some in a row, the outside is looked at.
    pub fn nothing_to_read(&mut self) -> Reply {
        if self.inputs.empty_read() >= EMPTY_READS_MAX {
            self.poll_point(false);
        }
        Err(EAGAIN)
    }

    fn read_some(&mut self, d: DescId, max: usize, how: How) -> Result<Option<Vec<u8>>, i64> {
        match self.fds.at(d).object {
            Object::Pipe(e) if e.write => Err(EBADF),
            Object::Pipe(e) => Ok(self.pipe_read(e.pipe, max, how.peek)),
            Object::Pair(p) => {
                if self.pair_is_shut(p).0 && self.pipes.at(p.rx).is_empty() {
                    return Ok(Some(Vec::new()));
                }
                Ok(self.pipe_read(p.rx, max, how.peek))
            }
            Object::Socket(_) => self.socket_read(d, max, how.peek),
            Object::EventFd(_) if max < 8 => Err(EINVAL),
            Object::EventFd(_) => Ok(self.eventfd_read(d)?.map(|v| v.to_le_bytes().to_vec())),
            Object::TimerFd(_) if max < 8 => Err(EINVAL),
            Object::TimerFd(_) => Ok(self.timerfd_read(d)?.map(|v| v.to_le_bytes().to_vec())),
            Object::SignalFd(_) => self.signalfd_read(d, max),
            Object::Recorded(_) => self.recorded_read(d, max).map(Some),
            Object::Epoll(_) | Object::Console => Err(EINVAL),
            Object::File(_) => unreachable!("files are read by the kernel"),
        }
    }

    fn read_into(&mut self, d: DescId, iov: &[Iovec], how: How) -> Reply {
        let max = user::total(iov).min(TRANSFER_BYTES_MAX);
        if max == 0 && !matches!(self.fds.at(d).object, Object::EventFd(_) | Object::TimerFd(_) | Object::SignalFd(_)) {
            return done(0);
        }
        let mut progress = self.threads.cur().call.progress;
        loop {
            match self.read_some(d, (max - progress).min(PART_BYTES), how)? {
                Some(b) => {
                    scatter_at(iov, progress, &b)?;
                    progress += b.len();
                    let ended = b.is_empty();
                    // More may lie ready: a stream gives all that fits.
                    let stream = matches!(self.fds.at(d).object, Object::Socket(_) | Object::Pipe(_))
                        || matches!(self.fds.at(d).object, Object::Pair(p) if !p.packets);
                    if ended || progress == max || how.peek || !stream {
                        return done(progress as i64);
                    }
                }
                None if progress > 0 && !how.waitall => return done(progress as i64),
                None if how.dontwait || self.fds.nonblocking(d) => {
                    return if progress > 0 { done(progress as i64) } else { self.nothing_to_read() };
                }
                None => {
                    self.threads.cur().call.progress = progress;
                    return self.wait_for(d, false, progress);
                }
            }
        }
    }

    /// Waits for the object, at most as long as the socket's timeout says.
    fn wait_for(&mut self, d: DescId, write: bool, progress: usize) -> Reply {
        if let Some(t) = self.socket_timeout(d, write) {
            let deadline = self.relative_deadline(t);
            if deadline <= self.clock.now() {
                return if progress > 0 { done(progress as i64) } else { Err(EAGAIN) };
            }
        }
        Ok(Outcome::Block(Block::Object))
    }

    fn write_from(&mut self, d: DescId, iov: &[Iovec], how: How) -> Reply {
        let total = user::total(iov).min(TRANSFER_BYTES_MAX);
        match self.fds.at(d).object {
            Object::EventFd(_) => return self.write_eventfd(d, iov, how),
            Object::TimerFd(_) | Object::SignalFd(_) | Object::Epoll(_) => return Err(EINVAL),
            Object::Recorded(_) => return Err(EBADF),
            Object::Pipe(e) if !e.write => return Err(EBADF),
            _ => {}
        }
        let mut progress = self.threads.cur().call.progress;
        loop {
            let bytes = user::gather(iov, progress, (total - progress).min(PART_BYTES))?;
            let moved = match self.fds.at(d).object {
                Object::Console => {
                    write_console(self, d, &bytes);
                    Moved::Bytes(bytes.len())
                }
                Object::Pipe(e) => self.pipe_write(e.pipe, &bytes, total),
                Object::Pair(p) if self.pair_is_shut(p).1 => Moved::Broken,
                Object::Pair(p) => self.pipe_write(p.tx, &bytes, if p.packets { total } else { total.max(PART_BYTES) }),
                Object::Socket(_) => match self.socket_write(d, &bytes) {
                    Ok(Some(n)) => Moved::Bytes(n),
                    Ok(None) => Moved::Later,
                    Err(EPIPE) => Moved::Broken,
                    Err(e) => return if progress > 0 { done(progress as i64) } else { Err(e) },
                },
                _ => unreachable!("files are written by the kernel"),
            };
            match moved {
                Moved::Bytes(n) => {
                    progress += n;
                    if progress == total {
                        return done(progress as i64);
                    }
                }
                Moved::Broken => {
                    if progress > 0 {
                        return done(progress as i64);
                    }
                    if !how.nosignal {
                        let (t, first) = (self.threads.current, [self.process.pid as u32, super::process::uid()]);
                        self.post_to_thread(t, SigInfo { signo: SIGPIPE, code: SI_USER, first, value: 0 });
                    }
                    return Err(EPIPE);
                }
                Moved::Later if how.dontwait || self.fds.nonblocking(d) => {
                    return if progress > 0 { done(progress as i64) } else { self.nothing_to_read() };
                }
                Moved::Later => {
                    self.threads.cur().call.progress = progress;
                    return self.wait_for(d, true, progress);
                }
            }
        }
    }

    fn write_eventfd(&mut self, d: DescId, iov: &[Iovec], how: How) -> Reply {
        let b = user::gather(iov, 0, 8)?;
        let Ok(v) = <[u8; 8]>::try_from(&b[..]) else { return Err(EINVAL) };
        if self.eventfd_write(d, u64::from_le_bytes(v))? {
            return done(8);
        }
        if how.dontwait || self.fds.nonblocking(d) {
            return Err(EAGAIN);
        }
        Ok(Outcome::Block(Block::Object))
    }

    /// For FIONREAD; `None`: ask the kernel.
    pub fn readable_bytes(&self, d: DescId) -> Result<Option<usize>, i64> {
        match &self.fds.at(d).object {
            Object::Pipe(e) => Ok(Some(self.pipes.at(e.pipe).len())),
            Object::Pair(p) => Ok(Some(self.pipes.at(p.rx).len())),
            Object::Socket(s) => self.socket_readable_bytes(s).map(Some),
            Object::File(_) => Ok(None),
            _ => Err(raw::ENOTTY),
        }
    }
}

fn scatter_at(iov: &[Iovec], mut skip: usize, mut bytes: &[u8]) -> Result<(), i64> {
    for v in iov {
        if skip >= v.len {
            skip -= v.len;
            continue;
        }
        let n = (v.len - skip).min(bytes.len());
        user::copy_out(v.base + skip as u64, &bytes[..n])?;
        bytes = &bytes[n..];
        skip = 0;
    }
    Ok(())
}

/// All of it, on this host's own: what becomes of it the guest never learns.
fn write_console(k: &mut Kernel, d: DescId, bytes: &[u8]) {
    let fd = k.open_fds().find(|&(_, x)| x == d).map_or(2, |(fd, _)| fd);
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the kernel reads the slice.
        let n = unsafe { raw!(nr::WRITE, fd, rest.as_ptr() as u64, rest.len()) };
        if n <= 0 && n != -raw::EINTR {
            break;
        }
        rest = &rest[n.max(0) as usize..];
    }
    k.digest.bytes(bytes);
}

fn is_file(k: &Kernel, fd: u64) -> Result<(DescId, bool), i64> {
    let d = k.fds.desc_of(fd)?;
    Ok((d, matches!(k.fds.at(d).object, Object::File(_))))
}

fn one(base: u64, len: u64) -> [Iovec; 1] {
    [Iovec { base, len: (len as usize).min(TRANSFER_BYTES_MAX) }]
}

pub fn read(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    if file {
        return both::read(k, nr::READ as u32, a);
    }
    k.read_into(d, &one(a[1], a[2]), How::default())
}

pub fn write(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    if file {
        return both::run(k, nr::WRITE as u32, a);
    }
    k.write_from(d, &one(a[1], a[2]), How::default())
}

pub fn readv(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    let iov = user::iovecs(a[1], a[2] as usize)?;
    if file {
        return both::read_vector(k, 19, a, &iov);
    }
    k.read_into(d, &iov, How::default())
}

pub fn writev(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    if file {
        return both::run(k, 20, a);
    }
    let iov = user::iovecs(a[1], a[2] as usize)?;
    k.write_from(d, &iov, How::default())
}

pub fn pread64(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    if file {
        return both::read(k, nr::PREAD64 as u32, a);
    }
    if let Object::Recorded(_) = k.fds.at(d).object {
        let b = k.recorded_read_at(d, a[2] as usize, a[3])?;
        user::copy_out(a[1], &b)?;
        return done(b.len() as i64);
    }
    Err(ESPIPE)
}

pub fn pwrite64(k: &mut Kernel, a: &Args) -> Reply {
    positioned(k, 18, a)
}

pub fn preadv(k: &mut Kernel, a: &Args) -> Reply {
    let (_, file) = is_file(k, a[0])?;
    if !file {
        return Err(ESPIPE);
    }
    let iov = user::iovecs(a[1], a[2] as usize)?;
    both::read_vector(k, k.threads.at(k.threads.current).call.number, a, &iov)
}

pub fn pwritev(k: &mut Kernel, a: &Args) -> Reply {
    let n = k.threads.cur().call.number;
    positioned(k, n, a)
}

fn positioned(k: &mut Kernel, number: u32, a: &Args) -> Reply {
    let (_, file) = is_file(k, a[0])?;
    if file { both::run(k, number, a) } else { Err(ESPIPE) }
}

fn flags(k: &mut Kernel, f: u64) -> Result<How, i64> {
    let f = f as u32;
    if f & MSG_OOB != 0 {
        k.refuse("out-of-band data", "TCP urgent data is not replicated");
        return Err(EINVAL);
    }
    let known = MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_MORE | MSG_CMSG_CLOEXEC;
    if f & !known != 0 {
        k.refuse_number("message flags", u64::from(f & !known));
        return Err(EINVAL);
    }
    Ok(How {
        peek: f & MSG_PEEK != 0,
        dontwait: f & MSG_DONTWAIT != 0,
        waitall: f & MSG_WAITALL != 0,
        nosignal: f & MSG_NOSIGNAL != 0,
    })
}

fn socket_like(k: &Kernel, fd: u64) -> Result<DescId, i64> {
    let d = k.fds.desc_of(fd)?;
    match k.fds.at(d).object {
        Object::Socket(_) | Object::Pair(_) => Ok(d),
        _ => Err(ENOTSOCK),
    }
}

pub fn recvfrom(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[3])?;
    let r = k.read_into(d, &one(a[1], a[2]), how)?;
    if let (Outcome::Done(_), true) = (&r, a[4] != 0 && a[5] != 0) {
        user::write(a[5], &0u32)?; // a connected socket gives no address
    }
    Ok(r)
}

pub fn sendto(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[3])?;
    if a[4] != 0 && matches!(k.fds.at(d).object, Object::Pair(_)) {
        return Err(raw::EISCONN);
    }
    k.write_from(d, &one(a[1], a[2]), how)
}

/// msghdr: name, namelen, iov, iovlen, control, controllen, flags.
fn message(at: u64) -> Result<(Vec<Iovec>, u64), i64> {
    let [_, _, iov, count] = user::read::<[u64; 4]>(at)?;
    let [_, control_len] = user::read::<[u64; 2]>(at + 32)?;
    Ok((user::iovecs(iov, count as usize)?, control_len))
}

pub fn sendmsg(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[2])?;
    let (iov, control) = message(a[1])?;
    if control != 0 {
        k.refuse("sendmsg with control data", "passing descriptors between processes is not yet supported");
        return Err(EINVAL);
    }
    k.write_from(d, &iov, how)
}

pub fn recvmsg(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[2])?;
    let (iov, _) = message(a[1])?;
    let r = k.read_into(d, &iov, how)?;
    if let Outcome::Done(_) = r {
        user::write(a[1] + 8, &0u32)?; // no address
        user::write(a[1] + 40, &0u64)?; // no control data
        user::write(a[1] + 48, &0u32)?; // no flags
    }
    Ok(r)
}

pub fn sendfile(k: &mut Kernel, a: &Args) -> Reply {
    let [out, input, offset_at, count, ..] = *a;
    let od = k.fds.desc_of(out)?;
    let (_, file) = is_file(k, input)?;
    if !file {
        return Err(EINVAL);
    }
    if matches!(k.fds.at(od).object, Object::File(_)) {
        return both::run(k, 40, a);
    }
    let count = (count as usize).min(TRANSFER_BYTES_MAX);
    let mut progress = k.threads.cur().call.progress;
    let start = if offset_at != 0 {
        user::read::<u64>(offset_at)?
    } else {
        // SAFETY: asks for the file's position.
        let r = unsafe { raw!(nr::LSEEK, input, 0, 1) };
        if r < 0 {
            return Err(-r);
        }
        r as u64
    };
    let mut buffer = alloc::vec![0u8; PART_BYTES];
    let ended = loop {
        if progress == count {
            break done(progress as i64);
        }
        let want = (count - progress).min(PART_BYTES);
        // SAFETY: reads into `buffer`, which has `want` bytes.
        let n = unsafe { raw!(nr::PREAD64, input, buffer.as_mut_ptr() as u64, want, start + progress as u64) };
        if n < 0 {
            break if progress > 0 { done(progress as i64) } else { Err(-n) };
        }
        if n == 0 {
            break done(progress as i64);
        }
        let part = &buffer[..n as usize];
        let moved = match k.fds.at(od).object {
            Object::Socket(_) => match k.socket_write(od, part) {
                Ok(Some(n)) => Moved::Bytes(n),
                Ok(None) => Moved::Later,
                Err(EPIPE) => Moved::Broken,
                Err(e) => break if progress > 0 { done(progress as i64) } else { Err(e) },
            },
            Object::Pipe(e) if e.write => k.pipe_write(e.pipe, part, PART_BYTES),
            Object::Pair(p) if k.pair_is_shut(p).1 => Moved::Broken,
            Object::Pair(p) => k.pipe_write(p.tx, part, PART_BYTES),
            _ => break Err(EINVAL),
        };
        match moved {
            Moved::Bytes(n) => progress += n,
            Moved::Broken => {
                let t = k.threads.current;
                k.post_to_thread(t, SigInfo { signo: SIGPIPE, code: SI_USER, ..SigInfo::default() });
                break if progress > 0 { done(progress as i64) } else { Err(EPIPE) };
            }
            Moved::Later if k.fds.nonblocking(od) => {
                break if progress > 0 { done(progress as i64) } else { k.nothing_to_read() };
            }
            Moved::Later => {
                k.threads.cur().call.progress = progress;
                return Ok(Outcome::Block(Block::Object));
            }
        }
    };
    if let Ok(Outcome::Done(n)) = &ended {
        let end = start + *n as u64;
        if offset_at != 0 {
            user::write(offset_at, &end)?;
        } else {
            // SAFETY: moves the file's position.
            unsafe { raw!(nr::LSEEK, input, end, 0) };
        }
    }
    ended
}
