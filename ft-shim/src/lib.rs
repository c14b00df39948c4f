//! The freestanding code inside the guest: a small deterministic kernel that answers every system call.
//!
//! Laws of in-guest code:
//! 1. Raw system calls only. No libc, no guest heap, no guest lock, no thread-local storage.
//! 2. One kernel thread, never re-entered: asynchronous signals are blocked but where the shim sleeps or looks for them.
//! 3. Nothing that differs between hosts is left in the guest's memory or registers. What differs comes
//!    through [`inputs`] alone, where the primary logs it and the backup takes it from the log.
//! 4. Guest memory is touched only through [`user`], which turns a bad pointer into EFAULT.
//! 5. It crashes rather than lies: an assertion that fails writes one line and ends the process.
//! 6. No instruction above SSE2, so the guest's wider registers survive untouched.
#![cfg_attr(feature = "freestanding", no_std)]

extern crate alloc;

#[macro_use]
pub mod raw;

pub mod arena;
#[cfg(feature = "freestanding")]
mod bare;
pub mod channel;
pub mod digest;
pub mod inputs;
pub mod kernel;
#[cfg(feature = "freestanding")]
mod preload;
pub mod table;
pub mod trap;
pub mod user;
