//! The first instruction in the guest, and the handler of trapped calls.
//!
//! Syscall User Dispatch traps every system call outside the shim's text (SIGSYS). Handlers run on the shim's own signal
//! stack. Asynchronous signals are blocked throughout, in the guest too: they come in where the shim sleeps or looks for
//! them (`channel`), so nothing interrupts the way into the shim and out of it. Synchronous ones are never blocked,
//! because the kernel kills a process whose fault is blocked.

use super::fault;
use super::frame::{UContext, reg};
use crate::kernel;
use crate::raw::{self, nr};
use core::arch::{global_asm, naked_asm};

const SIGILL: u32 = 4;
const SIGTRAP: u32 = 5;
const SIGBUS: u32 = 7;
const SIGFPE: u32 = 8;
const SIGSEGV: u32 = 11;
const SIGSYS: u32 = 31;
const SYNCHRONOUS: [u32; 5] = [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV];
/// Left to the kernel: what can't be caught (KILL, STOP), what stops and continues a process as a whole (TSTP, TTIN,
/// TTOU, CONT), and what a host's own doings cause (CHLD, PIPE, which is ignored).
const LEFT: [u32; 8] = [9, 13, 17, 18, 19, 20, 21, 22];

const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_NODEFER: u64 = 0x4000_0000;

pub const fn bit(signo: u32) -> u64 {
    1 << (signo - 1)
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// A number that no call has.
const NO_CALL: i32 = 0x7fff_ffff;

const SYNCHRONOUS_MASK: u64 =
    bit(SIGILL) | bit(SIGTRAP) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGSEGV) | bit(SIGSYS);

const LEFT_MASK: u64 = {
    let (mut mask, mut i) = (0, 0);
    while i < LEFT.len() {
        mask |= bit(LEFT[i]);
        i += 1;
    }
    mask
};

/// What is blocked but where the shim sleeps or looks for it: all that has a handler and no instruction that causes it.
pub const ASYNCHRONOUS_MASK: u64 = !(SYNCHRONOUS_MASK | LEFT_MASK);

pub(super) const STACK_BYTES: usize = 1 << 20;

#[repr(align(4096))]
pub(super) struct Stack(#[allow(dead_code)] core::cell::UnsafeCell<[u8; STACK_BYTES]>);
// SAFETY: only the kernel (signal frames), `ft_hook` and the code they start there use one: one thread.
unsafe impl Sync for Stack {}
impl Stack {
    pub(super) const fn new() -> Self {
        Self(core::cell::UnsafeCell::new([0; STACK_BYTES]))
    }
}
/// The kernel leaves gaps in the extended state that it saves here, and the guest gets to see them: nothing else is
/// ever written where its frames lie.
static STACK: Stack = Stack::new();

global_asm!(
    r#"
.text
.globl ft_sigreturn
.hidden ft_sigreturn
ft_sigreturn:
 mov eax, 15
 syscall
 ud2
"#
);

unsafe extern "C" {
    fn ft_sigreturn();
    #[cfg(feature = "freestanding")]
    #[link_name = "__ehdr_start"]
    static IMAGE_START: u8;
    #[cfg(feature = "freestanding")]
    #[link_name = "etext"]
    static TEXT_END: u8;
}

/// The range whose system calls pass: the shim's image up to the end of its text.
#[cfg(feature = "freestanding")]
fn text() -> (u64, u64) {
    let lo = &raw const IMAGE_START as u64 & !4095;
    let hi = (&raw const TEXT_END as u64 + 4095) & !4095;
    (lo, hi - lo)
}
#[cfg(not(feature = "freestanding"))]
fn text() -> (u64, u64) {
    (0, 0)
}

/// Entry of the injected image: r15 = the program's own first instruction; all else as at exec.
#[cfg_attr(feature = "freestanding", unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn ft_entry() {
    naked_asm!(
        "push rdx", "mov rbp, rsp", "and rsp, -16", "call {start}", "mov rsp, rbp", "pop rdx",
        "xor eax, eax", "xor ebx, ebx", "xor ecx, ecx", "xor esi, esi", "xor edi, edi", "xor ebp, ebp",
        "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d", "xor r12d, r12d", "xor r13d, r13d",
        "xor r14d, r14d",
        // What the shim pushed below the stack pointer would differ between hosts: wipe it.
        "lea rdi, [rsp - 65536]", "mov ecx, 65536", "rep stosb", "xor edi, edi",
        "xorps xmm0, xmm0", "xorps xmm1, xmm1", "xorps xmm2, xmm2", "xorps xmm3, xmm3",
        "xorps xmm4, xmm4", "xorps xmm5, xmm5", "xorps xmm6, xmm6", "xorps xmm7, xmm7",
        "xorps xmm8, xmm8", "xorps xmm9, xmm9", "xorps xmm10, xmm10", "xorps xmm11, xmm11",
        "xorps xmm12, xmm12", "xorps xmm13, xmm13", "xorps xmm14, xmm14", "xorps xmm15, xmm15",
        "jmp r15",
        start = sym start)
}

extern "C" fn start() {
    kernel::boot();
    arm();
    kernel::with(kernel::Kernel::replace_cpuid);
}

/// Installs handlers, the traps for time stamps and cpuid, and dispatch.
pub fn arm() {
    let stack = [&raw const STACK as u64, 0, STACK_BYTES as u64];
    // SAFETY: the stack is static and large enough for the largest frame.
    let r = unsafe { raw!(nr::SIGALTSTACK, stack.as_ptr() as u64, 0) };
    assert!(r == 0, "sigaltstack");
    install(SIGSYS, on_call as *const () as u64);
    for s in SYNCHRONOUS {
        install(s, on_fault as *const () as u64);
    }
    for s in 1..=64 {
        if s != SIGSYS && !SYNCHRONOUS.contains(&s) && !LEFT.contains(&s) {
            install(s, on_signal as *const () as u64);
        }
    }
    const SIG_SETMASK: u32 = 2;
    let mask = ASYNCHRONOUS_MASK;
    // SAFETY: reads one word.
    unsafe { raw!(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const mask, 0, 8) };
    const SIGPIPE: u32 = 13;
    const SIG_IGN: u64 = 1;
    let ignore = [SIG_IGN, SA_RESTORER, ft_sigreturn as *const () as u64, 0];
    // SAFETY: ignoring a signal runs nothing.
    unsafe { raw!(nr::RT_SIGACTION, SIGPIPE, ignore.as_ptr() as u64, 0, 8) };
    const PR_SET_TSC: u32 = 26;
    const PR_TSC_SIGSEGV: u32 = 2;
    const ARCH_SET_CPUID: u32 = 0x1012;
    // SAFETY: both only make instructions trap, and the handler is there.
    unsafe {
        assert!(raw!(nr::PRCTL, PR_SET_TSC, PR_TSC_SIGSEGV) == 0, "PR_SET_TSC");
        // Where the processor can't, what `kernel::cpuid` replaced traps all the same.
        raw!(nr::ARCH_PRCTL, ARCH_SET_CPUID, 0);
    }
    dispatch();
}

/// From here on every call outside the shim's text comes to `on_call`. A fork child inherits all but this.
pub fn dispatch() {
    const PR_SET_SYSCALL_USER_DISPATCH: u32 = 59;
    let (lo, len) = text();
    // SAFETY: the handler is installed.
    let r = unsafe { raw!(nr::PRCTL, PR_SET_SYSCALL_USER_DISPATCH, 1, lo, len, 0) };
    assert!(r == 0, "PR_SET_SYSCALL_USER_DISPATCH: kernel without it?");
}

fn install(signo: u32, handler: u64) {
    let action = [
        handler,
        SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER,
        ft_sigreturn as *const () as u64,
        ASYNCHRONOUS_MASK,
    ];
    // SAFETY: the handlers obey the signal ABI and run on the shim's own stack.
    let r = unsafe { raw!(nr::RT_SIGACTION, signo, action.as_ptr() as u64, 0, 8) };
    assert!(r == 0, "sigaction");
}

/// Dies by `signo` as the guest would have: default action, not blocked.
pub fn die_by(signo: u32) -> ! {
    let default = [0u64; 4];
    let none = 0u64;
    const SIG_SETMASK: u32 = 2;
    // SAFETY: nothing of this process goes on after it.
    unsafe {
        raw!(nr::RT_SIGACTION, signo, default.as_ptr() as u64, 0, 8);
        raw!(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const none, 0, 8);
        let pid = raw!(nr::GETPID);
        raw!(nr::KILL, pid, signo);
    }
    raw::exit_process(128 + signo as i32)
}

/// A system call of the guest. What it returns to is whatever the kernel left in `uc`.
///
/// # Safety
/// Called by the kernel as a signal handler.
unsafe extern "C" fn on_call(_signo: i32, info: *const u8, uc: *mut UContext) {
    // SAFETY: the kernel passes a valid siginfo (si_syscall at 24, si_arch at 28) and context; law 2 makes both exclusive.
    let (number, arch, uc) = unsafe { (info.add(24).cast::<i32>().read(), info.add(28).cast::<u32>().read(), &mut *uc) };
    // `int 0x80` has other numbers: whatever it was, it is none of ours, and is refused as such.
    let number = if arch == AUDIT_ARCH_X86_64 { number } else { NO_CALL };
    let r = &uc.regs;
    let args = [r[reg::RDI], r[reg::RSI], r[reg::RDX], r[reg::R10], r[reg::R8], r[reg::R9]];
    // The kernel leaves these two to the `syscall` instruction: clobber them equally everywhere.
    uc.regs[reg::RCX] = uc.regs[reg::RIP];
    uc.regs[reg::R11] = uc.regs[reg::EFLAGS];
    kernel::with(|k| {
        k.trapped(uc, number as u32);
        k.on_call(uc, number as u32, args);
    });
}

/// A fault of the guest, or of the shim.
///
/// # Safety
/// Called by the kernel as a signal handler.
unsafe extern "C" fn on_fault(signo: i32, info: *const u8, uc: *mut UContext) {
    // SAFETY: as in `on_call`.
    let uc = unsafe { &mut *uc };
    // SAFETY: a siginfo has 128 bytes.
    let info = unsafe { info.cast::<[u8; 128]>().read() };
    let (lo, len) = text();
    fault::on_fault(signo as u32, &info, uc, lo..lo + len);
}

/// A signal that somebody sent to this process directly. Noted; an input point of the primary makes it an input.
///
/// # Safety
/// Called by the kernel as a signal handler, never while the shim runs but where it lets signals in.
unsafe extern "C" fn on_signal(signo: i32, _info: *const u8, _uc: *mut UContext) {
    crate::inputs::DIRECT_SIGNALS.fetch_or(bit(signo as u32), core::sync::atomic::Ordering::Relaxed);
    crate::channel::end_sleep();
}
