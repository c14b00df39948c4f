//! The system call bpf(2): maps, programs, where they are attached. No decisions here.

use super::asm::Instruction;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const PROG_ATTACH: i32 = 8;
const LINK_CREATE: i32 = 28;
pub const MAP_TYPE_HASH: u32 = 1;
pub const MAP_TYPE_ARRAY: u32 = 2;
pub const F_NO_PREALLOC: u32 = 1;
pub const F_MMAPABLE: u32 = 1 << 10;
pub const PROG_TYPE_SOCKET_FILTER: u32 = 1;
pub const PROG_TYPE_SCHED_CLS: u32 = 3;
/// Of `bpf_redirect`: as if it had come in there.
pub const F_INGRESS: i32 = 1;
pub const TCX_INGRESS: u32 = 46;
pub const TCX_EGRESS: u32 = 47;

/// The beginnings of `union bpf_attr`; the kernel takes the rest as zero.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct ProgAttach {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// # Safety
/// Every address in `attribute` must be valid for what the command does with it, until the call returns.
unsafe fn call<T>(command: i32, attribute: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from attribute; addresses in it are the caller's promise.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as i32) }
}

pub fn create_map(map_type: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32) -> io::Result<OwnedFd> {
    let attribute = MapCreate { map_type, key_size, value_size, max_entries, map_flags };
    // SAFETY: no addresses in it; a result is a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(call(MAP_CREATE, &attribute)?)) }
}

/// `key` and `value` have the sizes that the map was made with.
pub fn put(map: BorrowedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    let attribute = MapElement { map_fd: map.as_raw_fd() as u32, key, value, flags: 0 };
    // SAFETY: both slices live until the call returns.
    unsafe { call(MAP_UPDATE_ELEM, &attribute) }.map(|_| ())
}

pub fn delete(map: BorrowedFd, key: &[u8]) -> io::Result<()> {
    let attribute = MapElement { map_fd: map.as_raw_fd() as u32, key: key.as_ptr() as u64, value: 0, flags: 0 };
    // SAFETY: the slice lives until the call returns.
    unsafe { call(MAP_DELETE_ELEM, &attribute) }.map(|_| ())
}

/// `name`: at most 15 bytes.
pub fn load(prog_type: u32, name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(name.as_bytes());
    let attribute = ProgLoad {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    // SAFETY: instructions and license live until the call returns; a result is a new descriptor of ours.
    unsafe { Ok(OwnedFd::from_raw_fd(call(PROG_LOAD, &attribute)?)) }
}

/// For as long as the interface is there.
pub fn attach(program: &OwnedFd, interface: u32, attach_type: u32) -> io::Result<()> {
    let attribute = ProgAttach {
        target_ifindex: interface,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type,
        attach_flags: 0,
    };
    // SAFETY: no addresses in it.
    unsafe { call(PROG_ATTACH, &attribute) }.map(|_| ())
}

/// As long as the descriptor lives, in the calling thread's namespace.
pub fn link(program: &OwnedFd, interface: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let attribute =
        LinkCreate { prog_fd: program.as_raw_fd() as u32, target_ifindex: interface, attach_type, flags: 0 };
    // SAFETY: no addresses in it; a result is a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(call(LINK_CREATE, &attribute)?)) }
}

/// Gives a program a name in a file system made for that.
pub fn pin(program: &OwnedFd, path: &CStr) -> io::Result<()> {
    let attribute = ObjPin { pathname: path.as_ptr() as u64, bpf_fd: program.as_raw_fd() as u32, file_flags: 0 };
    // SAFETY: the path lives until the call returns.
    unsafe { call(OBJ_PIN, &attribute) }.map(|_| ())
}

/// A file system for pins that is mounted nowhere: `/proc/self/fd/N` is its root, and it goes with the descriptor.
pub fn detached_file_system() -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    let result = |r: libc::c_long| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as i32) };
    let nothing = std::ptr::null::<u8>();
    // SAFETY: the name is a C string, other addresses are null where that is allowed; results are new descriptors of ours.
    unsafe {
        let context = OwnedFd::from_raw_fd(result(libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), FSOPEN_CLOEXEC))?);
        let fd = context.as_raw_fd();
        result(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, nothing, nothing, 0))?;
        Ok(OwnedFd::from_raw_fd(result(libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0))?))
    }
}
