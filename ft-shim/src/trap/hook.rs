//! Calls that come without a trap: a rewritten site jumps to a stub, the stub to here.
//!
//! What a `syscall` keeps is kept: everything but rax, rcx and r11. The guest's stack is not touched, below its pointer
//! neither. Asynchronous signals are blocked while the guest runs, so nothing comes in between.

use super::entry::{STACK_BYTES, Stack};
use super::frame::{UContext, XSTATE_SOFTWARE, reg};
use crate::kernel;
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::{offset_of, zeroed};

/// The guest while a hooked call is worked on.
#[repr(C, align(64))]
struct Frame {
    xmm: [[u8; 16]; 16],
    uc: UContext,
    /// Where the stub goes on.
    resume: u64,
}

const XSTATE_BYTES_MAX: usize = 16 << 10;

#[repr(C, align(64))]
struct Xstate([u8; XSTATE_BYTES_MAX]);

struct Shared<T>(UnsafeCell<T>);
// SAFETY: one kernel thread, never re-entered (law 2).
unsafe impl<T> Sync for Shared<T> {}

/// Not that of signals: see there.
static STACK: Stack = Stack::new();
// SAFETY: integers and a pointer: zeros are a value.
static FRAME: Shared<Frame> = Shared(UnsafeCell::new(unsafe { zeroed() }));
/// The extended state, when somebody asks for it.
static XSTATE: Shared<Xstate> = Shared(UnsafeCell::new(Xstate([0; XSTATE_BYTES_MAX])));
/// The components that the kernel saves in signal frames.
static COMPONENTS: Shared<u64> = Shared(UnsafeCell::new(0));
/// What the kernel writes into each frame: segments, and its description of the extended state.
static SEGMENTS: Shared<u64> = Shared(UnsafeCell::new(0));
static DESCRIPTION: Shared<[u8; XSTATE_SOFTWARE.end - XSTATE_SOFTWARE.start]> = Shared(UnsafeCell::new([0; 48]));

const REGS: usize = offset_of!(Frame, uc) + offset_of!(UContext, regs);

const fn at(register: usize) -> usize {
    REGS + register * 8
}

// rcx: the address after the call; r11: where the stub goes on.
global_asm!(
    r#"
.text
.globl ft_hook
.hidden ft_hook
.type ft_hook,@function
ft_hook:
 mov [rip + {frame} + {rsp}], rsp
 lea rsp, [rip + {stack} + {stack_bytes}]
 pushfq
 push rcx
 lea rcx, [rip + {frame}]
 mov [rcx + {r8}], r8
 mov [rcx + {r9}], r9
 mov [rcx + {r10}], r10
 mov [rcx + {rdi}], rdi
 mov [rcx + {rsi}], rsi
 mov [rcx + {rdx}], rdx
 mov [rcx + {rbx}], rbx
 mov [rcx + {rbp}], rbp
 mov [rcx + {r12}], r12
 mov [rcx + {r13}], r13
 mov [rcx + {r14}], r14
 mov [rcx + {r15}], r15
 mov [rcx + {rax}], rax
 mov [rcx + {resume}], r11
 pop [rcx + {rip}]
 pop [rcx + {eflags}]
 movaps [rcx], xmm0
 movaps [rcx + 16], xmm1
 movaps [rcx + 32], xmm2
 movaps [rcx + 48], xmm3
 movaps [rcx + 64], xmm4
 movaps [rcx + 80], xmm5
 movaps [rcx + 96], xmm6
 movaps [rcx + 112], xmm7
 movaps [rcx + 128], xmm8
 movaps [rcx + 144], xmm9
 movaps [rcx + 160], xmm10
 movaps [rcx + 176], xmm11
 movaps [rcx + 192], xmm12
 movaps [rcx + 208], xmm13
 movaps [rcx + 224], xmm14
 movaps [rcx + 240], xmm15
 cld
 mov rdi, rcx
 call {on_hook}
 lea rcx, [rip + {frame}]
 mov rdi, [rcx + {fpstate}]
 test rdi, rdi
 jnz 2f
 movaps xmm0, [rcx]
 movaps xmm1, [rcx + 16]
 movaps xmm2, [rcx + 32]
 movaps xmm3, [rcx + 48]
 movaps xmm4, [rcx + 64]
 movaps xmm5, [rcx + 80]
 movaps xmm6, [rcx + 96]
 movaps xmm7, [rcx + 112]
 movaps xmm8, [rcx + 128]
 movaps xmm9, [rcx + 144]
 movaps xmm10, [rcx + 160]
 movaps xmm11, [rcx + 176]
 movaps xmm12, [rcx + 192]
 movaps xmm13, [rcx + 208]
 movaps xmm14, [rcx + 224]
 movaps xmm15, [rcx + 240]
1:
 push [rcx + {eflags}]
 mov r8, [rcx + {r8}]
 mov r9, [rcx + {r9}]
 mov r10, [rcx + {r10}]
 mov r11, [rcx + {r11}]
 mov r12, [rcx + {r12}]
 mov r13, [rcx + {r13}]
 mov r14, [rcx + {r14}]
 mov r15, [rcx + {r15}]
 mov rdi, [rcx + {rdi}]
 mov rsi, [rcx + {rsi}]
 mov rbp, [rcx + {rbp}]
 mov rbx, [rcx + {rbx}]
 mov rdx, [rcx + {rdx}]
 mov rax, [rcx + {rax}]
 mov rcx, [rcx + {rcx}]
 popfq
 mov rsp, [rip + {frame} + {rsp}]
 jmp [rip + {frame} + {rip}]
2:
 mov eax, [rip + {components}]
 mov edx, [rip + {components} + 4]
 call ft_hook_xrstor
 jmp 1b
.hidden ft_hook_xrstor
.type ft_hook_xrstor,@function
ft_hook_xrstor:
 xrstor64 [rdi]
 ret
.globl ft_hook_xsave
.hidden ft_hook_xsave
.type ft_hook_xsave,@function
ft_hook_xsave:
 mov rax, rsi
 mov rdx, rsi
 shr rdx, 32
 xsave64 [rdi]
 ret
"#,
    frame = sym FRAME,
    stack = sym STACK,
    stack_bytes = const STACK_BYTES,
    components = sym COMPONENTS,
    on_hook = sym on_hook,
    resume = const offset_of!(Frame, resume),
    fpstate = const offset_of!(Frame, uc) + offset_of!(UContext, fpstate),
    r8 = const at(reg::R8),
    r9 = const at(reg::R9),
    r10 = const at(reg::R10),
    r11 = const at(reg::R11),
    r12 = const at(reg::R12),
    r13 = const at(reg::R13),
    r14 = const at(reg::R14),
    r15 = const at(reg::R15),
    rdi = const at(reg::RDI),
    rsi = const at(reg::RSI),
    rbp = const at(reg::RBP),
    rbx = const at(reg::RBX),
    rdx = const at(reg::RDX),
    rax = const at(reg::RAX),
    rcx = const at(reg::RCX),
    rsp = const at(reg::RSP),
    rip = const at(reg::RIP),
    eflags = const at(reg::EFLAGS),
);

unsafe extern "C" {
    fn ft_hook();
    fn ft_hook_xsave(to: *mut u8, components: u64);
}

/// Where stubs jump to.
pub fn address() -> u64 {
    ft_hook as *const () as u64
}

/// Takes from a frame of the kernel's what it writes into all of them. False: this processor's state has no description
/// that could be made here, and calls must go on trapping.
pub fn learn(uc: &mut UContext) -> bool {
    let segments = uc.regs[reg::SEGMENTS];
    let state = uc.xstate();
    if state.len() <= XSTATE_SOFTWARE.end || state.len() > XSTATE_BYTES_MAX {
        return false;
    }
    let description = &state[XSTATE_SOFTWARE];
    // magic, size (32 bits each), components.
    let components = u64::from_le_bytes(description[8..16].try_into().expect("8 bytes"));
    // SAFETY: one thread, and no reference to these outlives a statement.
    unsafe {
        *SEGMENTS.0.get() = segments;
        *COMPONENTS.0.get() = components;
        (*DESCRIPTION.0.get()).copy_from_slice(description);
    }
    true
}

/// The extended state that belongs to a hooked call's frame, in the format of the kernel's signal frames.
pub fn extended_state() -> *mut u8 {
    const XMM: usize = 160;
    const PRESENT: usize = 512;
    const X87_AND_SSE: u8 = 3;
    const MAGIC2: u32 = 0x4650_5845;
    let at = XSTATE.0.get().cast::<u8>();
    // SAFETY: one thread; the area is aligned and, by `learn`, large enough for these components and the word after them.
    unsafe {
        ft_hook_xsave(at, *COMPONENTS.0.get());
        let area = &mut (*XSTATE.0.get()).0;
        let description = &*DESCRIPTION.0.get();
        area[XSTATE_SOFTWARE].copy_from_slice(description);
        let bytes = u32::from_le_bytes(description[4..8].try_into().expect("4 bytes")) as usize;
        area[bytes - 4..bytes].copy_from_slice(&MAGIC2.to_le_bytes());
        // The kernel says the same of these two, in use or not; xmm are those of the guest, not the shim's.
        area[PRESENT] |= X87_AND_SSE;
        for (i, x) in (*FRAME.0.get()).xmm.iter().enumerate() {
            area[XMM + i * 16..][..16].copy_from_slice(x);
        }
    }
    at
}

/// A call of the guest through a rewritten site.
///
/// # Safety
/// `frame` is [`FRAME`], filled by `ft_hook`.
unsafe extern "C" fn on_hook(frame: *mut Frame) {
    // SAFETY: law 2 makes it exclusive; `extended_state` reads its `xmm` alone.
    let (uc, resume) = unsafe { (&mut *(&raw mut (*frame).uc), (*frame).resume) };
    uc.fpstate = core::ptr::null_mut();
    let r = &mut uc.regs;
    r[reg::RCX] = r[reg::RIP];
    r[reg::R11] = r[reg::EFLAGS];
    // SAFETY: written by `learn`, before the first site was rewritten.
    r[reg::SEGMENTS] = unsafe { *SEGMENTS.0.get() };
    let args = [r[reg::RDI], r[reg::RSI], r[reg::RDX], r[reg::R10], r[reg::R8], r[reg::R9]];
    let number = r[reg::RAX] as u32;
    kernel::with(|k| {
        k.sites.enter(uc.regs[reg::RIP], resume);
        k.on_call(uc, number, args);
    });
}
