//! The least shim: checks what the launcher promises it, rings the doorbell with the checks that held, and lets the
//! program start. Compiled by tests/launch.rs with the linker flags of scripts/build-shim.
#![no_std]

use core::arch::{asm, naked_asm};

/// tests/launch.rs passes the addresses in the environment of the compiler.
macro_rules! given {
    ($name:literal) => {
        match usize::from_str_radix(env!($name), 10) {
            Ok(n) => n,
            Err(_) => panic!(),
        }
    };
}

const SHIM_BASE: usize = given!("SHIM_BASE");
const ARENA_BASE: usize = given!("ARENA_BASE");
const ARENA_BYTES: usize = given!("ARENA_BYTES");
const SHARED_BASE: usize = given!("SHARED_BASE");
const DOORBELL_FD: usize = given!("DOORBELL_FD");

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

fn one() -> u64 {
    1
}

/// Pointers to code: the loader must have relocated them.
#[used]
static TABLE: [fn() -> u64; 2] = [one, one];
#[used]
static mut ZEROED: [u64; 1000] = [0; 1000];
#[used]
static mut INITIALISED: [u64; 2] = [7, 8];

/// As the kernel starts programs, but r15 is where the program starts.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn ft_entry() {
    naked_asm!(
        "push rdx",
        "mov rbp, rsp",
        "mov rdi, r15",
        "and rsp, -16",
        "call {start}",
        "mov rsp, rbp",
        "pop rdx",
        "xor ebp, ebp",
        "jmp r15",
        start = sym start,
    )
}

extern "C" fn start(program: usize) {
    unsafe {
        let arena = ARENA_BASE as *mut u64;
        let last = (ARENA_BASE + ARENA_BYTES - 8) as *mut u64;
        arena.write_volatile(5);
        last.write_volatile(6);
        let table = core::ptr::read_volatile(&raw const TABLE);
        let zeroed = core::ptr::read_volatile((&raw const ZEROED).cast::<u64>().add(999));
        let second = core::ptr::read_volatile((&raw const INITIALISED).cast::<u64>().add(1));
        core::ptr::write_volatile((&raw mut ZEROED).cast::<u64>(), 1);
        let checks = [
            (table[1] as usize) - SHIM_BASE < 1 << 30 && table[1]() == 1,
            zeroed == 0,
            second == 8,
            arena.read_volatile() == 5 && last.read_volatile() == 6,
            (SHARED_BASE as *const [u8; 8]).read_volatile() == *b"ftshared",
            program != 0 && (program as *const [u8; 2]).read_volatile() != [0x0f, 0x05],
        ];
        let mut held = 0u64;
        let mut bit = 1;
        for check in checks {
            held |= if check { bit } else { 0 };
            bit <<= 1;
        }
        asm!("syscall", inlateout("rax") 1usize => _, in("rdi") DOORBELL_FD, in("rsi") &raw const held,
             in("rdx") 8usize, lateout("rcx") _, lateout("r11") _);
    }
}
