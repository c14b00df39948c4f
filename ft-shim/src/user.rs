//! The guest's memory: the only place where the shim reads or writes it. A bad pointer is EFAULT, as in the kernel.

use crate::raw::{EFAULT, ENAMETOOLONG};
use alloc::vec::Vec;
use core::arch::global_asm;
use core::mem::MaybeUninit;
use ft_log::shared::SHIM_REGION;

global_asm!(
    r#"
.text
.globl ft_user_copy
.hidden ft_user_copy
.globl ft_user_copy_access
.hidden ft_user_copy_access
.globl ft_user_copy_fixup
.hidden ft_user_copy_fixup
ft_user_copy:
 mov rcx, rdx
ft_user_copy_access:
 rep movsb
 xor eax, eax
 ret
ft_user_copy_fixup:
 mov eax, 1
 ret
"#
);

unsafe extern "C" {
    fn ft_user_copy(to: *mut u8, from: *const u8, n: usize) -> u32;
    static ft_user_copy_access: u8;
    static ft_user_copy_fixup: u8;
}

/// Where a fault at `rip` goes on, if it is a guest-memory access of ours.
pub fn fixup(rip: u64) -> Option<u64> {
    (rip == &raw const ft_user_copy_access as u64).then_some(&raw const ft_user_copy_fixup as u64)
}

/// Longest path the kernel takes, with its end.
const PATH_BYTES_MAX: usize = 4096;
/// Most iovecs in one call.
pub const IOV_MAX: usize = 1024;

fn foreign(at: u64, n: usize) -> bool {
    let Some(end) = at.checked_add(n as u64) else { return false };
    end <= SHIM_REGION.start || at >= SHIM_REGION.end
}

/// Copies guest memory at `at` into `to`.
pub fn copy_in(to: &mut [u8], at: u64) -> Result<(), i64> {
    if to.is_empty() {
        return Ok(());
    }
    // SAFETY: `to` is ours and long enough; a fault on the guest's side ends in the fixup.
    if foreign(at, to.len()) && unsafe { ft_user_copy(to.as_mut_ptr(), at as *const u8, to.len()) } == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Copies `from` into guest memory at `at`.
pub fn copy_out(at: u64, from: &[u8]) -> Result<(), i64> {
    if from.is_empty() {
        return Ok(());
    }
    // SAFETY: the target is not the shim's (`foreign`); a fault on the guest's side ends in the fixup.
    if foreign(at, from.len()) && unsafe { ft_user_copy(at as *mut u8, from.as_ptr(), from.len()) } == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Plain data: any bytes are a value.
///
/// # Safety
/// No padding that matters, no invalid bit patterns.
pub unsafe trait Plain: Copy {}
macro_rules! plain { ($($t:ty),*) => { $(
    // SAFETY: an integer, or an array or repr(C) struct of integers without padding.
    unsafe impl Plain for $t {}
)* } }
plain!(u8, i8, u16, i16, u32, i32, u64, i64, [u8; 8], [u32; 2], [u64; 2], [u64; 3], [u64; 4], [i64; 4], [u32; 4], crate::raw::Timespec, [crate::raw::Timespec; 2]);

pub fn read<T: Plain>(at: u64) -> Result<T, i64> {
    let mut v = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of `v`, all initialised by zeroing.
    let bytes = unsafe { core::slice::from_raw_parts_mut(v.as_mut_ptr().cast(), size_of::<T>()) };
    copy_in(bytes, at)?;
    // SAFETY: any bytes are a value (`Plain`).
    Ok(unsafe { v.assume_init() })
}

pub fn write<T: Plain>(at: u64, v: &T) -> Result<(), i64> {
    // SAFETY: the bytes of `v` (`Plain`: no padding).
    copy_out(at, unsafe { core::slice::from_raw_parts((&raw const *v).cast(), size_of::<T>()) })
}

/// A NUL-terminated string, without the NUL.
pub fn string(at: u64) -> Result<Vec<u8>, i64> {
    let mut out = Vec::new();
    let mut at = at;
    while out.len() < PATH_BYTES_MAX {
        // Never across a page in one access: the string may end just before an unmapped one.
        let chunk = (4096 - (at as usize & 4095)).min(256);
        let mut b = [0u8; 256];
        copy_in(&mut b[..chunk], at)?;
        if let Some(n) = b[..chunk].iter().position(|&c| c == 0) {
            out.extend_from_slice(&b[..n]);
            return Ok(out);
        }
        out.extend_from_slice(&b[..chunk]);
        at += chunk as u64;
    }
    Err(ENAMETOOLONG)
}

#[derive(Clone, Copy, Debug)]
pub struct Iovec {
    pub base: u64,
    pub len: usize,
}

pub fn iovecs(at: u64, count: usize) -> Result<Vec<Iovec>, i64> {
    if count > IOV_MAX {
        return Err(crate::raw::EINVAL);
    }
    let mut v = Vec::with_capacity(count);
    let mut total = 0u64;
    for i in 0..count {
        let [base, len] = read::<[u64; 2]>(at + i as u64 * 16)?;
        total = total.saturating_add(len);
        if total > i64::MAX as u64 {
            return Err(crate::raw::EINVAL);
        }
        v.push(Iovec { base, len: len as usize });
    }
    Ok(v)
}

/// Where byte `n` of them all lies; `None`: there are no more than that.
pub fn address_of(iov: &[Iovec], mut n: usize) -> Option<u64> {
    for v in iov {
        if n < v.len {
            return Some(v.base + n as u64);
        }
        n -= v.len;
    }
    None
}

/// Scatters `bytes` over `iov`; they fit.
pub fn scatter(iov: &[Iovec], mut bytes: &[u8]) -> Result<(), i64> {
    for v in iov {
        let n = v.len.min(bytes.len());
        copy_out(v.base, &bytes[..n])?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Gathers at most `max` bytes of `iov`, leaving out the first `skip`.
pub fn gather(iov: &[Iovec], mut skip: usize, max: usize) -> Result<Vec<u8>, i64> {
    let mut out = Vec::new();
    for v in iov {
        if skip >= v.len {
            skip -= v.len;
            continue;
        }
        let n = (v.len - skip).min(max - out.len());
        let start = out.len();
        out.resize(start + n, 0);
        copy_in(&mut out[start..], v.base + skip as u64)?;
        skip = 0;
        if out.len() == max {
            break;
        }
    }
    Ok(out)
}

pub fn total(iov: &[Iovec]) -> usize {
    iov.iter().map(|v| v.len).sum()
}
