//! Faults: guest-memory accesses of the shim, trapped time stamps and cpuid, or the guest's own.

use super::frame::{UContext, reg};
use crate::kernel;
use crate::kernel::cpuid::{CPUID, STAND_IN};
use crate::raw::nr;
use crate::user;
use core::ops::Range;

const SIGSEGV: u32 = 11;

pub fn on_fault(signo: u32, info: &[u8; 128], uc: &mut UContext, shim_text: Range<u64>) {
    let rip = uc.regs[reg::RIP];
    if let Some(next) = user::fixup(rip) {
        uc.regs[reg::RIP] = next;
        return;
    }
    assert!(!shim_text.contains(&rip), "signal {signo} in the shim at {rip:#x}, address {:#x}", uc.regs[reg::CR2]);
    if signo == SIGSEGV && emulate(uc, rip) {
        return;
    }
    kernel::with(|k| k.on_guest_fault(uc, signo, info));
}

/// rdtsc, rdtscp, cpuid and what stands for it trap as a general-protection fault, which the kernel delivers as SIGSEGV.
fn emulate(uc: &mut UContext, rip: u64) -> bool {
    let mut code = [0u8; 4];
    // The instruction may end a mapping: take what is there.
    if user::copy_in(&mut code[..2], rip).is_err() {
        return false;
    }
    let _ = user::copy_in(&mut code[2..3], rip + 2);
    let length = match code {
        [0x0f, 0x31, ..] => {
            let t = kernel::with(|k| k.read_time_stamp());
            set_pair(uc, t);
            2
        }
        [0x0f, 0x01, 0xf9, ..] => {
            let t = kernel::with(|k| k.read_time_stamp());
            set_pair(uc, t);
            uc.regs[reg::RCX] = 0; // IA32_TSC_AUX: processor 0 of node 0
            3
        }
        [a, b, ..] if [a, b] == CPUID || [a, b] == STAND_IN => {
            let r = guest_cpuid(uc.regs[reg::RAX] as u32, uc.regs[reg::RCX] as u32);
            uc.regs[reg::RAX] = r[0].into();
            uc.regs[reg::RBX] = r[1].into();
            uc.regs[reg::RCX] = r[2].into();
            uc.regs[reg::RDX] = r[3].into();
            2
        }
        _ => return false,
    };
    uc.regs[reg::RIP] += length;
    true
}

fn set_pair(uc: &mut UContext, v: u64) {
    uc.regs[reg::RAX] = v & 0xffff_ffff;
    uc.regs[reg::RDX] = v >> 32;
}

fn guest_cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    masked_cpuid(leaf, sub, native_cpuid(leaf, sub))
}

/// The processor as the guest sees it: no hardware randomness, no transactional memory, and nothing that tells
/// on which processor of the host it runs. What remains, two hosts must have in common.
pub fn masked_cpuid(leaf: u32, sub: u32, native: [u32; 4]) -> [u32; 4] {
    let mut r = native;
    match (leaf, sub) {
        (1, _) => {
            r[1] = (r[1] & 0x0000_ffff) | 1 << 16; // initial APIC id 0, one logical processor
            r[2] &= !(1 << 30); // RDRAND
            r[2] &= !(1 << 31); // hypervisor present: its clocks are not for the guest
        }
        (7, 0) => {
            r[1] &= !(1 << 4 | 1 << 11 | 1 << 18); // HLE, RTM, RDSEED
            r[2] &= !(1 << 22); // RDPID: can't be trapped
            r[3] &= !(1 << 13 | 1 << 11 | 1 << 16); // RTM_FORCE_ABORT, RTM_ALWAYS_ABORT, TSXLDTRK
        }
        (0xb | 0x1f, _) => r = [0, 0, sub & 0xff, 0], // no topology
        (0x15 | 0x16, _) => r = [0; 4],               // clock ratios of this host
        (0x4000_0000..=0x4fff_ffff, _) => r = [0; 4],
        (0x8000_0001, _) => r[3] &= !(1 << 27), // RDTSCP reports the processor
        (0x8000_0008, _) => r[1] &= !(1 << 4),  // RDPRU reads the host's clocks
        (0x8000_001e | 0x8000_0026, _) => r = [0; 4], // which processor this is
        _ => {}
    }
    r
}

/// cpuid for real: the trap, where there is one, is off for the one instruction.
#[inline(never)]
fn native_cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    const ARCH_SET_CPUID: u32 = 0x1012;
    // SAFETY: only whether cpuid traps changes; nothing else runs meanwhile.
    unsafe { raw!(nr::ARCH_PRCTL, ARCH_SET_CPUID, 1) };
    let r = core::arch::x86_64::__cpuid_count(leaf, sub);
    // SAFETY: as above.
    unsafe { raw!(nr::ARCH_PRCTL, ARCH_SET_CPUID, 0) };
    [r.eax, r.ebx, r.ecx, r.edx]
}


