//! A rewritten call site, its stub and the shim's hook, around a handler that does nothing: what the way in and out costs.
//!
//! The sources are the shim's own (`ft-shim/src/trap`), compiled here with another kernel under them, so that what is
//! measured is what guests run. The site and its direct counterpart are made at run time.

extern crate alloc;

/// What hooked calls reach.
mod kernel {
    use super::trap::frame::{UContext, reg};

    pub struct Kernel {
        pub sites: Sites,
    }

    pub struct Sites;

    impl Sites {
        pub fn enter(&mut self, _rip: u64, _resume: u64) {}
    }

    impl Kernel {
        pub fn on_call(&mut self, uc: &mut UContext, number: u32, _args: [u64; 6]) {
            uc.regs[reg::RAX] = number.into();
        }
    }

    pub fn with(f: impl FnOnce(&mut Kernel)) {
        f(&mut Kernel { sites: Sites });
    }
}

// Measured is one way through it.
#[allow(dead_code)]
#[path = "../../../ft-shim/src/trap"]
mod trap {
    pub mod frame;
    pub mod functions;
    pub mod hook;
    pub mod instructions;
    pub mod patch;

    /// Of the shim's, what the hook needs: a stack.
    mod entry {
        pub(super) const STACK_BYTES: usize = 1 << 20;

        #[repr(align(4096))]
        pub(super) struct Stack(#[allow(dead_code)] core::cell::UnsafeCell<[u8; STACK_BYTES]>);
        // SAFETY: `Site` is not `Sync`: one thread calls.
        unsafe impl Sync for Stack {}
        impl Stack {
            pub(super) const fn new() -> Self {
                Self(core::cell::UnsafeCell::new([0; STACK_BYTES]))
            }
        }
    }
}

use std::io;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::time::Instant;
use trap::{hook, patch};

const PAGE: usize = 4096;
/// mov eax, 39
const NUMBER: [u8; 5] = [0xb8, 39, 0, 0, 0];
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const RET: u8 = 0xc3;
/// Where things are in the page.
const PATCHED: usize = 0;
const DIRECT: usize = 64;
const EMPTY: usize = 128;
const HOOK_POINTER: usize = 192;
const STUB: usize = 256;

/// Code of two functions that set a number and call: one by a rewritten `syscall`, one directly. For one thread.
pub struct Site {
    page: *mut u8,
    one_thread: PhantomData<*mut u8>,
}

impl Site {
    pub fn new() -> io::Result<Self> {
        let (rwx, private) = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, where the kernel likes.
        let page = unsafe { libc::mmap(null_mut(), PAGE, rwx, private, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = page.cast::<u8>();
        let base = page as u64;
        let after_call = base + (PATCHED + NUMBER.len() + SYSCALL.len()) as u64;
        let too_far = || io::Error::other("a page is smaller than a jump's reach");
        let stub = patch::stub(&NUMBER, &[], base + STUB as u64, after_call, after_call, base + HOOK_POINTER as u64);
        let stub = stub.ok_or_else(too_far)?.code;
        let jump = patch::jump(base + PATCHED as u64, base + STUB as u64).ok_or_else(too_far)?;
        let call = [0xe8u8].into_iter().chain(((EMPTY - (DIRECT + NUMBER.len() + 5)) as i32).to_le_bytes());
        let put = |at: usize, bytes: &[u8]| {
            assert!(at + bytes.len() <= PAGE);
            // SAFETY: within the page, which nobody else knows yet.
            unsafe { page.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        };
        put(PATCHED, &[&jump[..], &SYSCALL, &[RET]].concat());
        put(DIRECT, &[&NUMBER[..], &call.collect::<Vec<_>>(), &[RET]].concat());
        put(EMPTY, &[RET]);
        put(HOOK_POINTER, &hook::address().to_le_bytes());
        put(STUB, &stub);
        Ok(Self { page, one_thread: PhantomData })
    }

    fn call(&self, at: usize) -> u64 {
        // SAFETY: a function without arguments was put there; it keeps all registers that a function keeps.
        let f: extern "C" fn() -> u64 = unsafe { std::mem::transmute(self.page.add(at)) };
        f()
    }

    /// Through jump, stub and hook to a handler that answers with the call's number.
    pub fn patched(&self) -> u64 {
        self.call(PATCHED)
    }

    /// A call of a function that does nothing.
    pub fn direct(&self) -> u64 {
        self.call(DIRECT)
    }

    /// Nanoseconds that a patched call takes beyond a direct one: medians of many short runs in turn, so that what else
    /// the processor does meanwhile is in few of them.
    pub fn added_ns(&self) -> f64 {
        const RUNS: usize = 101;
        const CALLS: u32 = 10_000;
        fn time(f: impl Fn() -> u64) -> f64 {
            let start = Instant::now();
            (0..CALLS).for_each(|_| {
                std::hint::black_box(f());
            });
            start.elapsed().as_nanos() as f64 / f64::from(CALLS)
        }
        let (mut patched, mut direct) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            patched.push(time(|| self.patched()));
            direct.push(time(|| self.direct()));
        }
        let median = |v: &mut Vec<f64>| {
            v.sort_by(f64::total_cmp);
            v[RUNS / 2]
        };
        median(&mut patched) - median(&mut direct)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing runs in it.
        unsafe { libc::munmap(self.page.cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_answer_with_the_number() {
        let site = Site::new().unwrap();
        assert_eq!((site.patched(), site.direct()), (39, 39));
    }
}
