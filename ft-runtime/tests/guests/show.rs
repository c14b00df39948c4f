//! A guest that prints everything a launch promises to fix, and everything two launches must have in common.

use std::fs;

unsafe extern "C" {
    fn getauxval(kind: u64) -> u64;
    fn getpid() -> i32;
    fn getsid(pid: i32) -> i32;
    fn umask(mask: u32) -> u32;
    fn personality(value: u64) -> i32;
    fn sbrk(by: isize) -> *mut u8;
}

fn main() {
    let local = 0u8;
    unsafe {
        println!("vdso {:#x}", getauxval(33));
        println!("minsigstksz {:#x}", getauxval(51));
        println!("rseq {} {}", getauxval(27), getauxval(28));
        println!("random {:02x?}", *(getauxval(25) as *const [u8; 16]));
        println!("leader {}", getsid(0) == getpid());
        println!("umask {:o}", umask(0));
        println!("personality {:#x}", personality(0xffff_ffff));
        println!("libc {:p} code {:p} stack {:p} break {:p}", getpid as *const u8, main as *const u8, &local, sbrk(0));
    }
    println!("args {:?}", std::env::args_os().collect::<Vec<_>>());
    println!("env {:?}", std::env::vars_os().collect::<Vec<_>>());
    println!("cwd {:?}", std::env::current_dir());
    let mut fds: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().map(|f| f.unwrap()).collect();
    fds.retain(|f| f.path().read_link().is_ok_and(|to| !to.starts_with("/proc")));
    let mut fds: Vec<u32> = fds.iter().map(|f| f.file_name().to_str().unwrap().parse().unwrap()).collect();
    fds.sort();
    println!("fds {fds:?} stdin {:?}", fs::read_link("/proc/self/fd/0").unwrap());
    for line in fs::read_to_string("/proc/self/status").unwrap().lines() {
        if ["Sig", "Shd"].iter().any(|s| line.starts_with(s)) && !line.starts_with("SigQ") {
            println!("{line}");
        }
    }
    for line in fs::read_to_string("/proc/self/limits").unwrap().lines() {
        if ["stack", "core", "open", "address", "data"].iter().any(|s| line.contains(s)) {
            println!("{line}");
        }
    }
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        println!("map {}", line.split(' ').next().unwrap());
    }
}
