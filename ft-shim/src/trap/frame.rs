//! What the kernel saves of a context when it delivers a signal, and what the shim keeps of a guest thread.

use alloc::vec::Vec;

/// Index of a register in [`UContext::regs`] (`gregs` of the kernel's ABI).
pub mod reg {
    pub const R8: usize = 0;
    pub const R9: usize = 1;
    pub const R10: usize = 2;
    pub const R11: usize = 3;
    pub const R12: usize = 4;
    pub const R13: usize = 5;
    pub const R14: usize = 6;
    pub const R15: usize = 7;
    pub const RDI: usize = 8;
    pub const RSI: usize = 9;
    pub const RBP: usize = 10;
    pub const RBX: usize = 11;
    pub const RDX: usize = 12;
    pub const RAX: usize = 13;
    pub const RCX: usize = 14;
    pub const RSP: usize = 15;
    pub const RIP: usize = 16;
    pub const EFLAGS: usize = 17;
    /// cs, gs, fs, ss as 16-bit fields.
    pub const SEGMENTS: usize = 18;
    pub const ERROR: usize = 19;
    pub const TRAP: usize = 20;
    pub const OLDMASK: usize = 21;
    pub const CR2: usize = 22;
    /// Registers up to here belong to the context; the rest describe the trap.
    pub const CONTEXT: usize = 18;
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SignalStack {
    pub sp: u64,
    pub flags: u32,
    pub pad: u32,
    pub size: u64,
}

pub const SS_ONSTACK: u32 = 1;
pub const SS_DISABLE: u32 = 2;
pub const SS_AUTODISARM: u32 = 1 << 31;

#[repr(C)]
pub struct UContext {
    pub flags: u64,
    pub link: u64,
    pub stack: SignalStack,
    pub regs: [u64; 23],
    /// Null in the frame of a hooked call until somebody asks for the state.
    pub fpstate: *mut u8,
    pub reserved: [u64; 8],
    pub sigmask: u64,
}

/// The software-reserved bytes of the legacy area: magic1, size (u32), features (u64), xstate size (u32).
pub const XSTATE_SOFTWARE: core::ops::Range<usize> = 464..512;
const SW_MAGIC: usize = XSTATE_SOFTWARE.start;
const SW_SIZE: usize = SW_MAGIC + 4;
const MAGIC1: u32 = 0x4650_5853;
const LEGACY_BYTES: usize = 512;

impl UContext {
    /// The extended state as the kernel saves it.
    pub fn xstate(&mut self) -> &[u8] {
        if self.fpstate.is_null() {
            self.fpstate = super::hook::extended_state();
        }
        // SAFETY: the kernel wrote a legacy area at least; with MAGIC1 its size field covers what follows.
        unsafe {
            let magic = self.fpstate.add(SW_MAGIC).cast::<u32>().read_unaligned();
            let size = self.fpstate.add(SW_SIZE).cast::<u32>().read_unaligned() as usize;
            let n = if magic == MAGIC1 { size } else { LEGACY_BYTES };
            core::slice::from_raw_parts(self.fpstate, n)
        }
    }

    pub fn set_xstate(&mut self, state: &[u8]) {
        assert!(state.len() == self.xstate().len(), "extended state changed size");
        // SAFETY: as long as what the kernel wrote there, by the assertion.
        unsafe { core::ptr::copy_nonoverlapping(state.as_ptr(), self.fpstate, state.len()) };
    }
}

/// A guest thread while another one is loaded.
#[derive(Clone, Default)]
pub struct Context {
    pub regs: [u64; reg::CONTEXT],
    pub fs_base: u64,
    pub gs_base: u64,
    pub xstate: Vec<u8>,
}

impl Context {
    pub fn save(&mut self, uc: &mut UContext) {
        self.regs.copy_from_slice(&uc.regs[..reg::CONTEXT]);
        self.fs_base = fs_base();
        self.gs_base = gs_base();
        self.xstate.clear();
        self.xstate.extend_from_slice(uc.xstate());
    }

    pub fn load(&self, uc: &mut UContext) {
        uc.regs[..reg::CONTEXT].copy_from_slice(&self.regs);
        uc.set_xstate(&self.xstate);
        set_fs_base(self.fs_base);
        set_gs_base(self.gs_base);
    }
}

pub fn fs_base() -> u64 {
    let v;
    // SAFETY: reads a register; FSGSBASE is checked at the start.
    unsafe { core::arch::asm!("rdfsbase {}", out(reg) v, options(nomem, nostack)) };
    v
}

pub fn set_fs_base(v: u64) {
    // SAFETY: the shim doesn't use fs; the guest's own value.
    unsafe { core::arch::asm!("wrfsbase {}", in(reg) v, options(nomem, nostack)) };
}

pub fn gs_base() -> u64 {
    let v;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("rdgsbase {}", out(reg) v, options(nomem, nostack)) };
    v
}

pub fn set_gs_base(v: u64) {
    // SAFETY: the shim doesn't use gs; the guest's own value.
    unsafe { core::arch::asm!("wrgsbase {}", in(reg) v, options(nomem, nostack)) };
}
