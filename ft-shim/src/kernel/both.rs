//! Calls that both hosts execute on their own disk and memory, because the result follows from equal state.

use super::{Args, Kernel, Reply, done};
use crate::raw;
use crate::user::{self, Iovec};

const PART_BYTES: usize = 64 * 1024;
/// The guest's own call, on this host.
fn execute(k: &mut Kernel, number: u32, a: &Args) -> i64 {
    // SAFETY: the guest's own call on the guest's own memory and descriptors; the rows that lead here never touch
    // what the shim owns.
    let r = unsafe { raw::syscall(number as usize, *a) };
    k.look_at_disk(r);
    r
}

/// Executes call `number` as it stands. Its result goes into the digest like every result.
pub fn run(k: &mut Kernel, number: u32, a: &Args) -> Reply {
    let r = execute(k, number, a);
    if r == -raw::EFBIG {
        k.too_large();
    }
    done(r)
}

/// A call that writes all of `iov` into a file.
pub fn write(k: &mut Kernel, number: u32, a: &Args, iov: &[Iovec]) -> Reply {
    let r = run(k, number, a)?;
    if let super::Outcome::Done(n) = r
        && let Some(unwritten) = user::address_of(iov, n as usize)
        && user::read::<u8>(unwritten).is_ok()
        && !k.limits_file_size()
    {
        // The next one would say so.
        k.look_at_disk(-raw::ENOSPC);
    }
    Ok(r)
}

/// The row for calls that need nothing else.
pub fn plain(k: &mut Kernel, a: &Args) -> Reply {
    let number = k.threads.cur().call.number;
    run(k, number, a)
}

/// As [`plain`], for calls on a descriptor that must be a file.
pub fn on_file(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    match k.fds.at(d).object {
        super::fds::Object::File(_) | super::fds::Object::Console => plain(k, a),
        _ => Err(raw::EINVAL),
    }
}

/// As [`on_file`], for calls that need positions, which pipes don't have.
pub fn on_positioned(k: &mut Kernel, a: &Args) -> Reply {
    let d = k.fds.desc_of(a[0])?;
    match k.fds.at(d).object {
        super::fds::Object::Pipe(_) => Err(raw::ESPIPE),
        _ => on_file(k, a),
    }
}

/// read and pread64 of a file: what was read goes into the digest.
pub fn read(k: &mut Kernel, number: u32, a: &Args) -> Reply {
    let n = execute(k, number, a);
    if n > 0 {
        digest_user(k, a[1], n as usize);
    }
    done(n)
}

pub fn read_vector(k: &mut Kernel, number: u32, a: &Args, iov: &[Iovec]) -> Reply {
    let n = execute(k, number, a);
    let mut left = n.max(0) as usize;
    for v in iov {
        let part = v.len.min(left);
        digest_user(k, v.base, part);
        left -= part;
    }
    done(n)
}

/// Takes guest memory that a call has just filled into the digest.
pub fn digest_user(k: &mut Kernel, at: u64, n: usize) {
    let mut buffer = alloc::vec![0u8; n.min(PART_BYTES)];
    let mut done = 0;
    while done < n {
        let part = (n - done).min(PART_BYTES);
        user::copy_in(&mut buffer[..part], at + done as u64).expect("the kernel has just written here");
        k.digest.bytes(&buffer[..part]);
        done += part;
    }
}

/// readlink, getcwd, extended attributes: what was read goes into the digest.
pub fn text(k: &mut Kernel, a: &Args) -> Reply {
    let number = k.threads.cur().call.number;
    const GETCWD: u32 = 79;
    const READLINKAT: u32 = 267;
    const GETXATTR: core::ops::RangeInclusive<u32> = 191..=193;
    let (at, room) = match number {
        GETCWD => (a[0], a[1]),
        READLINKAT => (a[2], a[3]),
        n if GETXATTR.contains(&n) => (a[2], a[3]),
        _ => (a[1], a[2]),
    };
    let n = execute(k, number, a);
    if n > 0 && room > 0 {
        digest_user(k, at, n as usize);
    }
    done(n)
}
