//! What a system call of a guest costs: bare, trapped, and from a rewritten call site.
//!
//! The call is getppid, which does next to nothing on either side: what remains is the way in and out, and what the shim
//! does around each call. The guest measures itself; the clock it sees follows the host's to a millisecond.

use serde::{Deserialize, Serialize};
use std::arch::asm;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const CALLS: u32 = 1_000_000;
const GETPPID: u64 = 110;

/// Nanoseconds per call, by what surrounds the instruction.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Cost {
    /// A number that can be displaced by a jump.
    movable: f64,
    /// Memory accesses, which stay where they are: this site always traps.
    fixed: f64,
}

#[derive(Debug, Serialize)]
struct Sample {
    bare: Cost,
    guest: Cost,
}

/// The part that is the guest.
pub fn inside() {
    let cost = Cost { movable: measure(movable), fixed: measure(fixed) };
    println!("{}", serde_json::to_string(&cost).expect("two numbers"));
}

fn measure(call: fn()) -> f64 {
    // Sites are rewritten when they run again and again.
    (0..10).for_each(|_| call());
    let start = Instant::now();
    (0..CALLS).for_each(|_| call());
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

#[inline(never)]
fn movable() {
    // SAFETY: getppid has no effect.
    unsafe { asm!("mov eax, 110", "syscall", out("rax") _, out("rcx") _, out("r11") _) };
}

#[inline(never)]
fn fixed() {
    let mut number = GETPPID;
    // SAFETY: as above.
    unsafe {
        asm!("mov rax, [{n}]", "syscall", "mov [{n}], rax", n = in(reg) &raw mut number, out("rax") _, out("rcx") _, out("r11") _);
    }
}

/// Measures both in turn, `rounds` times; prints a table and one JSON line.
pub fn run(ft: &Path, rounds: u32) -> Result<(), Box<dyn Error>> {
    let me = std::env::current_exe()?;
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let bare = ask(&mut Command::new(&me))?;
        let guest = ask(Command::new(ft).args(["run", "--solo", "--"]).arg(&me))?;
        samples.push(Sample { bare, guest });
    }
    let kinds: [(&str, fn(&Sample) -> f64); 3] =
        [("bare", |s| s.bare.movable), ("rewritten", |s| s.guest.movable), ("trapped", |s| s.guest.fixed)];
    eprintln!("{:<12}{:>10}{:>10}{:>10}   ns per getppid, {rounds} rounds of {CALLS}", "", "least", "median", "most");
    for (name, of) in kinds {
        let mut all: Vec<f64> = samples.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        eprintln!("{name:<12}{:>10.1}{:>10.1}{:>10.1}", all[0], all[all.len() / 2], all[all.len() - 1]);
    }
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

fn ask(command: &mut Command) -> Result<Cost, Box<dyn Error>> {
    let out = command.arg("calls-inside").output()?;
    if !out.status.success() {
        return Err(format!("{command:?}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}
