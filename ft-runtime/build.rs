//! Builds the shim for guests (scripts/build-shim) and says where it is: `include_bytes!(env!("FT_SHIM_SO"))`. It is put
//! beside `ft` as well, for LD_PRELOAD.
//!
//! `FT_SHIM_PREBUILT=/path/libft_shim.so` embeds that file instead. Where the shim does not compile, a release build
//! fails; a debug build warns and embeds an empty file, which no guest can be started with, so that work on the
//! runtime does not stop for work on the shim.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PREBUILT: &str = "FT_SHIM_PREBUILT";
/// What the shim is made of, from the workspace's root.
const SOURCES: [&str; 7] = [
    "scripts/build-shim",
    "Cargo.toml",
    "Cargo.lock",
    "ft-shim/Cargo.toml",
    "ft-shim/src",
    "ft-log/Cargo.toml",
    "ft-log/src",
];
const REPORT_LINES_MAX: usize = 20;

fn main() {
    let variable = |name| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let manifest = variable("CARGO_MANIFEST_DIR");
    let workspace = manifest.parent().expect("ft-runtime lies in the workspace");
    // A copy, so that what is embedded can't change under a running compiler.
    let embedded = variable("OUT_DIR").join("libft_shim.so");

    println!("cargo:rerun-if-env-changed={PREBUILT}");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    match shim(workspace) {
        Ok(built) => {
            fs::copy(&built, &embedded).unwrap_or_else(|e| panic!("can't copy {} here: {e}", built.display()));
        }
        Err(report) if env::var("PROFILE").as_deref() == Ok("release") => {
            panic!("the shim does not build (scripts/build-shim):\n{report}")
        }
        Err(report) => {
            println!("cargo:warning=the shim does not build; this ft can't start guests. See scripts/build-shim");
            for line in report.lines().filter(|l| l.starts_with("error")).take(REPORT_LINES_MAX) {
                println!("cargo:warning=  {line}");
            }
            fs::write(&embedded, []).unwrap_or_else(|e| panic!("can't write {}: {e}", embedded.display()));
        }
    }
    println!("cargo:rustc-env=FT_SHIM_SO={}", embedded.display());
    place_beside_ft(&embedded);
}

/// For LD_PRELOAD: in the directory that gets `ft`, which is OUT_DIR's `target/PROFILE`.
fn place_beside_ft(embedded: &Path) {
    const LEVELS: usize = 3; // build/ft-runtime-HASH/out
    let Some(dir) = embedded.parent().and_then(|out| out.ancestors().nth(LEVELS)) else { return };
    // A new file: one that is mapped by a running program must not change.
    let (new, to) = (dir.join("libft_shim.so.new"), dir.join("libft_shim.so"));
    fs::copy(embedded, &new)
        .and_then(|_| fs::rename(&new, &to))
        .unwrap_or_else(|e| panic!("can't put the shim at {}: {e}", to.display()));
}

/// Path of the shim's shared object, or what its build said.
fn shim(workspace: &Path) -> Result<PathBuf, String> {
    if let Some(prebuilt) = env::var_os(PREBUILT) {
        println!("cargo:rerun-if-changed={}", Path::new(&prebuilt).display());
        return Ok(prebuilt.into());
    }
    // The script clears the environment of everything meant for this build.
    let script = workspace.join("scripts/build-shim");
    let built = Command::new(&script)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("error: can't run {}: {e}", script.display()))?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into_owned());
    }
    let out = String::from_utf8_lossy(&built.stdout);
    out.lines().last().map(PathBuf::from).ok_or_else(|| "error: scripts/build-shim printed no path".into())
}
