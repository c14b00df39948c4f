//! Reading and writing through descriptors, whatever is behind them.

use super::fds::{DescId, Object};
use super::pipe::{Moved, Taken};
use super::signal::{SI_USER, SIGPIPE, SigInfo};
use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, both, done, mute};
use crate::raw::{self, EAGAIN, EBADF, EINVAL, EMSGSIZE, ENOTSOCK, EPIPE, ESPIPE, nr};
use crate::user::{self, Iovec};
use alloc::vec::Vec;

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_MORE: u32 = 0x8000;
/// recvmmsg: wait for the first message only.
const MSG_WAITFORONE: u32 = 0x1_0000;
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
    /// Of a message: say how long it was. Of a stream: throw away.
    truncate: bool,
    dontwait: bool,
    waitall: bool,
    nosignal: bool,
}

/// What a read came to.
enum Received {
    /// `cut`: the message was longer than the room for it.
    Bytes { result: usize, cut: bool },
    Wait,
}

impl Received {
    fn bytes(result: usize) -> Self {
        Self::Bytes { result, cut: false }
    }

    fn reply(&self) -> Reply {
        match self {
            Self::Bytes { result, .. } => done(*result as i64),
            Self::Wait => Ok(Outcome::Block(Block::Object)),
        }
    }
}

impl Kernel {
    /// EAGAIN from applied state; after some in a row, the outside is looked at.
    pub fn nothing_now(&mut self) -> i64 {
        if self.inputs.empty_read() >= EMPTY_READS_MAX {
            self.poll_point(false);
        }
        EAGAIN
    }

    fn read_some(&mut self, d: DescId, max: usize, how: How) -> Result<Option<Taken>, i64> {
        self.read_from_shared(d)?;
        if let Some(p) = self.pair_of(d) {
            return Ok(self.pair_read(p, max, how.peek));
        }
        let taken = match self.fds.at(d).object {
            Object::Pipe(e) if e.write => return Err(EBADF),
            Object::Pipe(e) => return Ok(self.pipe_read(e.pipe, max, how.peek)),
            Object::Pair(_) => unreachable!("a pair has its queues"),
            Object::Socket(_) => self.socket_read(d, max, how.peek)?,
            Object::EventFd(_) if max < 8 => return Err(EINVAL),
            Object::EventFd(_) => self.eventfd_read(d)?.map(|v| v.to_le_bytes().to_vec()),
            Object::TimerFd(_) if max < 8 => return Err(EINVAL),
            Object::TimerFd(_) => self.timerfd_read(d)?.map(|v| v.to_le_bytes().to_vec()),
            Object::SignalFd(_) => self.signalfd_read(d, max)?,
            Object::Recorded(_) => Some(self.recorded_read(d, max)?),
            Object::Epoll(_) | Object::Console => return Err(EINVAL),
            Object::File(_) => unreachable!("files are read by the kernel"),
        };
        Ok(taken.map(Taken::from))
    }

    fn read_into(&mut self, d: DescId, iov: &[Iovec], how: How) -> Result<Received, i64> {
        let max = user::total(iov).min(TRANSFER_BYTES_MAX);
        // More may lie ready: a stream gives all that fits.
        let (stream, counts_none) = match self.fds.at(d).object {
            Object::Socket(_) | Object::Pair(_) | Object::Pipe(_) => {
                let packets = self.pair_of(d).is_some_and(|p| p.packets());
                (!packets, packets)
            }
            Object::EventFd(_) | Object::TimerFd(_) | Object::SignalFd(_) => (false, true),
            _ => (false, false),
        };
        if max == 0 && !counts_none {
            return Ok(Received::bytes(0));
        }
        let mut progress = self.threads.cur().call.progress;
        loop {
            match self.read_some(d, (max - progress).min(PART_BYTES), how)? {
                Some(t) => {
                    if !(stream && how.truncate) {
                        scatter_at(iov, progress, &t.bytes)?;
                    }
                    progress += t.bytes.len();
                    if !stream {
                        let cut = t.whole > t.bytes.len();
                        return Ok(Received::Bytes { result: if how.truncate { t.whole } else { progress }, cut });
                    }
                    if t.bytes.is_empty() || progress == max || how.peek {
                        return Ok(Received::bytes(progress));
                    }
                }
                None if progress > 0 && !how.waitall => return Ok(Received::bytes(progress)),
                None if how.dontwait || self.fds.nonblocking(d) => {
                    return if progress > 0 { Ok(Received::bytes(progress)) } else { Err(self.nothing_now()) };
                }
                None => {
                    self.threads.cur().call.progress = progress;
                    return match self.wait_for(d, false, progress)? {
                        true => Ok(Received::Wait),
                        false => Ok(Received::bytes(progress)),
                    };
                }
            }
        }
    }

    /// Is there still time to wait for the object? As long as the socket's timeout says: after it the call ends with
    /// what it has moved, or EAGAIN.
    fn wait_for(&mut self, d: DescId, write: bool, progress: usize) -> Result<bool, i64> {
        let Some(t) = self.socket_timeout(d, write) else { return Ok(true) };
        if self.relative_deadline(t) > self.clock.now() {
            return Ok(true);
        }
        if progress > 0 { Ok(false) } else { Err(EAGAIN) }
    }

    /// Moves some or all of `bytes`, which belong to a write of `whole`, to what can be written in parts.
    fn write_some(&mut self, d: DescId, bytes: &[u8], whole: usize) -> Result<Moved, i64> {
        if let Some(p) = self.pair_of(d) {
            return self.pair_write(p, bytes, whole);
        }
        match self.fds.at(d).object {
            Object::Console => {
                write_console(self, bytes);
                Ok(Moved::Bytes(bytes.len()))
            }
            Object::Pipe(e) => Ok(self.pipe_write(e.pipe, bytes, whole)),
            Object::Socket(_) => match self.socket_write(d, bytes) {
                Ok(Some(n)) => Ok(Moved::Bytes(n)),
                Ok(None) => Ok(Moved::Later),
                Err(EPIPE) => Ok(Moved::Broken),
                Err(e) => Err(e),
            },
            _ => unreachable!("written by the kernel or as a whole"),
        }
    }

    fn write_from(&mut self, d: DescId, iov: &[Iovec], how: How) -> Reply {
        let total = user::total(iov).min(TRANSFER_BYTES_MAX);
        match self.fds.at(d).object {
            Object::EventFd(_) => return self.write_eventfd(d, iov, how),
            Object::TimerFd(_) | Object::SignalFd(_) | Object::Epoll(_) => return Err(EINVAL),
            Object::Recorded(_) => {
                let bytes = user::gather(iov, 0, total.min(PART_BYTES))?;
                return done(self.recorded_write(d, &bytes)? as i64);
            }
            Object::Pipe(e) if !e.write => return Err(EBADF),
            _ => {}
        }
        if let Some(p) = self.pair_of(d) {
            self.pair_takes(p, total)?;
        }
        let mut progress = self.threads.cur().call.progress;
        loop {
            let bytes = user::gather(iov, progress, (total - progress).min(PART_BYTES))?;
            let moved = match self.write_some(d, &bytes, total) {
                Ok(m) => m,
                Err(e) => return if progress > 0 { done(progress as i64) } else { Err(e) },
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
                    return if progress > 0 { done(progress as i64) } else { Err(self.nothing_now()) };
                }
                Moved::Later => {
                    self.threads.cur().call.progress = progress;
                    return match self.wait_for(d, true, progress)? {
                        true => Ok(Outcome::Block(Block::Object)),
                        false => done(progress as i64),
                    };
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
fn write_console(k: &mut Kernel, bytes: &[u8]) {
    let fd = k.threads.cur().call.args[0]; // of every call that writes
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
    k.read_into(d, &one(a[1], a[2]), How::default())?.reply()
}

pub fn write(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    if file {
        return both::write(k, nr::WRITE as u32, a, &one(a[1], a[2]));
    }
    k.write_from(d, &one(a[1], a[2]), How::default())
}

pub fn readv(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    let iov = user::iovecs(a[1], a[2] as usize)?;
    if file {
        return both::read_vector(k, 19, a, &iov);
    }
    k.read_into(d, &iov, How::default())?.reply()
}

pub fn writev(k: &mut Kernel, a: &Args) -> Reply {
    let (d, file) = is_file(k, a[0])?;
    let iov = user::iovecs(a[1], a[2] as usize)?;
    if file {
        return both::write(k, 20, a, &iov);
    }
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
    positioned(k, 18, a, &one(a[1], a[2]))
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
    let iov = user::iovecs(a[1], a[2] as usize)?;
    positioned(k, n, a, &iov)
}

fn positioned(k: &mut Kernel, number: u32, a: &Args, iov: &[Iovec]) -> Reply {
    let (_, file) = is_file(k, a[0])?;
    if file { both::write(k, number, a, iov) } else { Err(ESPIPE) }
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
        truncate: f & MSG_TRUNC != 0,
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
    if matches!(r, Received::Bytes { .. }) && a[4] != 0 && a[5] != 0 {
        user::write(a[5], &0u32)?; // a connected socket gives no address
    }
    r.reply()
}

pub fn sendto(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[3])?;
    check_target(k, d, a[4], a[5])?;
    k.write_from(d, &one(a[1], a[2]), how)
}

/// Can a message go to the address that the call names, or to the socket's own peer if it names none?
fn check_target(k: &mut Kernel, d: DescId, address: u64, len: u64) -> Result<(), i64> {
    match &k.fds.at(d).object {
        Object::Pair(_) if address != 0 => Err(raw::EISCONN),
        Object::Socket(s) => match s.mute_kind() {
            Some(kind) => Err(mute::send(k, kind, address, len)),
            None => Ok(()), // it has its peer
        },
        _ => Ok(()),
    }
}

/// The fields of msghdr that count: name, iov, control.
struct Message {
    name: u64,
    name_len: u64,
    iov: Vec<Iovec>,
    control_len: u64,
}

fn message(at: u64) -> Result<Message, i64> {
    let [name, name_len, iov, count] = user::read::<[u64; 4]>(at)?;
    let [_, control_len] = user::read::<[u64; 2]>(at + 32)?;
    if count > user::IOV_MAX as u64 {
        return Err(EMSGSIZE);
    }
    Ok(Message { name, name_len: name_len as u32 as u64, iov: user::iovecs(iov, count as usize)?, control_len })
}

fn send_message(k: &mut Kernel, d: DescId, at: u64, how: How) -> Reply {
    let m = message(at)?;
    if m.control_len != 0 {
        k.refuse("sendmsg with control data", "passing descriptors between processes is not yet supported");
        return Err(EINVAL);
    }
    check_target(k, d, m.name, m.name_len)?;
    k.write_from(d, &m.iov, how)
}

fn receive_message(k: &mut Kernel, d: DescId, at: u64, how: How) -> Reply {
    let m = message(at)?;
    let r = k.read_into(d, &m.iov, how)?;
    if let Received::Bytes { cut, .. } = r {
        user::write(at + 8, &0u32)?; // no address
        user::write(at + 40, &0u64)?; // no control data
        user::write(at + 48, &if cut { MSG_TRUNC } else { 0 })?;
    }
    r.reply()
}

pub fn sendmsg(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[2])?;
    send_message(k, d, a[1], how)
}

pub fn recvmsg(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[2])?;
    receive_message(k, d, a[1], how)
}

pub fn sendmmsg(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[3])?;
    messages(k, a, |k, at, _| send_message(k, d, at, how))
}

pub fn recvmmsg(k: &mut Kernel, a: &Args) -> Reply {
    let d = socket_like(k, a[0])?;
    let how = flags(k, a[3] & !u64::from(MSG_WAITFORONE))?;
    // The timeout is looked at between messages only, so a call that has one does not wait between them.
    let one = a[3] as u32 & MSG_WAITFORONE != 0 || a[4] != 0;
    messages(k, a, |k, at, first| {
        receive_message(k, d, at, How { dontwait: how.dontwait || (one && !first), ..how })
    })
}

/// Each of an array of mmsghdr in turn: msghdr and a length, 64 bytes. What was done counts, whatever ends it.
fn messages(k: &mut Kernel, a: &Args, mut f: impl FnMut(&mut Kernel, u64, bool) -> Reply) -> Reply {
    const HEADER_BYTES: u64 = 64;
    let count = (a[2] as u32 as usize).min(user::IOV_MAX);
    loop {
        let n = k.threads.cur().call.messages;
        if n == count {
            return done(n as i64);
        }
        let at = a[1] + n as u64 * HEADER_BYTES;
        match f(k, at, n == 0) {
            Ok(Outcome::Done(len)) => {
                user::write(at + 56, &(len as u32))?;
                let call = &mut k.threads.cur().call;
                (call.messages, call.progress) = (n + 1, 0);
            }
            Err(_) if n > 0 => return done(n as i64),
            r => return r,
        }
    }
}

pub fn sendfile(k: &mut Kernel, a: &Args) -> Reply {
    let [out, input, offset_at, count, ..] = *a;
    let od = k.fds.desc_of(out)?;
    let (_, file) = is_file(k, input)?;
    if !file {
        return Err(EINVAL);
    }
    match k.fds.at(od).object {
        Object::File(_) => return both::run(k, SENDFILE, a),
        Object::Pipe(e) if !e.write => return Err(EBADF),
        Object::Pipe(_) | Object::Pair(_) | Object::Socket(_) | Object::Console => {}
        _ => return Err(EINVAL),
    }
    let count = (count as usize).min(TRANSFER_BYTES_MAX);
    let mut progress = k.threads.cur().call.progress;
    let mut buffer = alloc::vec![0u8; PART_BYTES];
    // What is moved is counted in the offset at once, so that a signal may end the call while it waits.
    let mut offset = file_offset(input, offset_at)?;
    loop {
        if progress == count {
            return done(progress as i64);
        }
        let want = (count - progress).min(PART_BYTES);
        // SAFETY: reads into `buffer`, which has `want` bytes.
        let n = unsafe { raw!(nr::PREAD64, input, buffer.as_mut_ptr() as u64, want, offset) };
        if n <= 0 {
            return if n < 0 && progress == 0 { Err(-n) } else { done(progress as i64) };
        }
        match k.write_some(od, &buffer[..n as usize], PART_BYTES) {
            Ok(Moved::Bytes(n)) => {
                progress += n;
                offset += n as u64;
                set_file_offset(input, offset_at, offset)?;
            }
            Ok(Moved::Broken) => {
                if progress > 0 {
                    return done(progress as i64);
                }
                let (t, first) = (k.threads.current, [k.process.pid as u32, super::process::uid()]);
                k.post_to_thread(t, SigInfo { signo: SIGPIPE, code: SI_USER, first, value: 0 });
                return Err(EPIPE);
            }
            Ok(Moved::Later) if k.fds.nonblocking(od) => {
                return if progress > 0 { done(progress as i64) } else { Err(k.nothing_now()) };
            }
            Ok(Moved::Later) => {
                k.threads.cur().call.progress = progress;
                return match k.wait_for(od, true, progress)? {
                    true => Ok(Outcome::Block(Block::Object)),
                    false => done(progress as i64),
                };
            }
            Err(e) => return if progress > 0 { done(progress as i64) } else { Err(e) },
        }
    }
}

const SENDFILE: u32 = 40;

/// Where sendfile reads: at the offset the guest gives, or at the file's position.
fn file_offset(input: u64, offset_at: u64) -> Result<u64, i64> {
    if offset_at != 0 {
        return user::read::<u64>(offset_at);
    }
    // SAFETY: asks for the file's position.
    let r = unsafe { raw!(nr::LSEEK, input, 0, 1) };
    if r < 0 { Err(-r) } else { Ok(r as u64) }
}

fn set_file_offset(input: u64, offset_at: u64, offset: u64) -> Result<(), i64> {
    if offset_at != 0 {
        return user::write(offset_at, &offset);
    }
    // SAFETY: moves the file's position.
    let r = unsafe { raw!(nr::LSEEK, input, offset, 0) };
    if r < 0 { Err(-r) } else { Ok(()) }
}
