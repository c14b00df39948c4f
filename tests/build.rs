//! Builds the guest programs (guests/Makefile) into `GUEST_PROGRAMS`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let sources = variable("CARGO_MANIFEST_DIR").join("guests");
    let programs = variable("OUT_DIR").join("guests");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rustc-env=GUEST_PROGRAMS={}", programs.display());
    let jobs = env::var("NUM_JOBS").unwrap_or_else(|_| "1".into());
    let made = Command::new("make")
        .args(["-s", "-j", &jobs, "-C"])
        .arg(&sources)
        .arg(format!("OUT={}", programs.display()))
        // Cargo's own job server is not make's business.
        .env_remove("MAKEFLAGS")
        .env_remove("CARGO_MAKEFLAGS")
        .status()
        .unwrap_or_else(|e| panic!("can't run make: {e}"));
    assert!(made.success(), "guest programs don't build, see above: make -C {}", sources.display());
}
