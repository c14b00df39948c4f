//! The last word on silence: two programs in the kernel, at the service's interface.
//!
//! Egress: everything (IP, ARP, neighbour discovery) is dropped once the boot clock has reached the lease's end. The
//! kernel decides that as the packet leaves, so a host that stood still says nothing when it goes on. Of IP only what
//! carries [`MARK`] leaves, which the engine's verdict puts on a packet: a namespace that is being taken down loses its
//! queue before its interface, and would answer what comes in by itself (resets), under a lease that still runs.
//! Ingress: everything is dropped while it is shut: an address that is present doesn't answer, and no packet finds a
//! port without a socket.
//!
//! Both start closed. They are attached to the interface itself (TCX, BPF_PROG_ATTACH), not by a link: a link goes with
//! its descriptor, and thus with the engine, while the namespace may live on for minutes in the kernel's half-closed
//! connections, answering ARP for an address that is another host's by then. So nothing needs to be pinned: the
//! programs go with the interface, and the lease runs out.

use super::asm::{Assembler, Instruction, KTIME_GET_BOOT_NS, R0, R1, R2, R6, R7};
use super::boot_time::BootTime;
use super::error::GateError;
use super::namespace::ServiceNet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of packets that the engine lets leave.
pub const MARK: u32 = 0x0066_7401;

/// What engine and programs share; the map's one value.
#[repr(C)]
struct Words {
    /// Boot clock, nanoseconds; from here on nothing leaves.
    lease_until: AtomicU64,
    /// 1: packets come in.
    open: AtomicU64,
    egress_dropped: AtomicU64,
    ingress_dropped: AtomicU64,
}

const LEASE_UNTIL: i16 = 0;
const OPEN: i16 = 8;
const EGRESS_DROPPED: i16 = 16;
const INGRESS_DROPPED: i16 = 24;
const WORDS_BYTES: usize = size_of::<Words>();

/// `TCX_NEXT`: let others decide; `TCX_DROP` (`linux/bpf.h`).
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// The map's memory.
struct Shared {
    words: *const Words,
    _map: OwnedFd,
}

// SAFETY: the memory holds atomics only and stays mapped until the last owner drops it; the pointer is never changed.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn words(&self) -> &Words {
        // SAFETY: mapped in `attach` with at least a Words' bytes, page aligned, until drop.
        unsafe { &*self.words }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `attach` with this length, and no reference outlives self.
        unsafe { libc::munmap(self.words.cast_mut().cast(), WORDS_BYTES) };
    }
}

/// The right to send, for a time. Dropped, it runs out by itself.
#[derive(Clone)]
pub struct Lease(Arc<Shared>);

/// It has run out: what was queued under it must not leave under a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has run out")]
pub struct RanOut;

impl Lease {
    /// Packets leave until then. Earlier than before is allowed. One that has run out can't be renewed; see
    /// [`super::Gate::resume`].
    pub fn renew(&self, until: BootTime) -> Result<(), RanOut> {
        let before = self.until();
        if BootTime::now() >= before {
            return Err(RanOut);
        }
        self.grant(until);
        // Had we stood still between looking and granting, it would have run out in between.
        if BootTime::now() >= before {
            self.close();
            return Err(RanOut);
        }
        Ok(())
    }

    /// Packets leave until then, whatever was before.
    pub(super) fn grant(&self, until: BootTime) {
        self.0.words().lease_until.store(until.0, Ordering::Release);
    }

    /// Nothing leaves from now on.
    pub fn close(&self) {
        self.grant(BootTime::PAST);
    }

    pub fn until(&self) -> BootTime {
        BootTime(self.0.words().lease_until.load(Ordering::Acquire))
    }

    /// Frames that wanted to leave without a lease.
    pub fn dropped(&self) -> u64 {
        self.0.words().egress_dropped.load(Ordering::Relaxed)
    }
}

/// Whether packets come in.
#[derive(Clone)]
pub struct Ingress(Arc<Shared>);

impl Ingress {
    pub fn open(&self) {
        self.0.words().open.store(1, Ordering::Release);
    }

    pub fn shut(&self) {
        self.0.words().open.store(0, Ordering::Release);
    }

    pub fn is_open(&self) -> bool {
        self.0.words().open.load(Ordering::Acquire) == 1
    }

    /// Frames that wanted to come in while it was shut.
    pub fn dropped(&self) -> u64 {
        self.0.words().ingress_dropped.load(Ordering::Relaxed)
    }
}

/// Puts both programs at the service's interface, closed.
pub fn attach(net: &ServiceNet) -> Result<(Lease, Ingress), GateError> {
    let map = create_map().map_err(refused)?;
    // SAFETY: a new mapping of the map's first page; Shared owns it.
    let memory = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), WORDS_BYTES, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
    };
    if memory == libc::MAP_FAILED {
        return Err(GateError::system("mapping the lease")(io::Error::last_os_error()));
    }
    let egress = load(&egress_program(map.as_raw_fd()), b"ft_lease").map_err(refused)?;
    let ingress = load(&ingress_program(map.as_raw_fd()), b"ft_lease").map_err(refused)?;
    let shared = Arc::new(Shared { words: memory.cast(), _map: map });
    net.within(|| {
        attach_program(&egress, net.interface(), bpf::TCX_EGRESS)?;
        attach_program(&ingress, net.interface(), bpf::TCX_INGRESS)
    })
    .map_err(GateError::system("entering the service's network namespace"))?
    .map_err(refused)?;
    Ok((Lease(shared.clone()), Ingress(shared)))
}

fn refused(e: io::Error) -> GateError {
    match e.raw_os_error() {
        Some(libc::ENOSYS) => GateError::Missing { feature: "bpf(2)", todo: "Use a kernel with CONFIG_BPF_SYSCALL" },
        Some(libc::EINVAL | libc::EOPNOTSUPP) => GateError::Missing {
            feature: "eBPF at interfaces (TCX)",
            todo: "Use Linux 6.9 or newer with CONFIG_NET_XGRESS and CONFIG_BPF_SYSCALL",
        },
        Some(libc::EPERM) => GateError::Missing {
            feature: "the right to load eBPF programs",
            todo: "Run `ft` as root; a lockdown or security module of this host may forbid it too (see `dmesg`)",
        },
        _ => GateError::System { what: "loading the lease program", source: e },
    }
}

/// Egress: drop at or after `lease_until`, and IP without the mark.
fn egress_program(map: i32) -> Vec<Instruction> {
    let mut a = Assembler::new();
    a.copy(R7, R1);
    a.map_value(R1, map);
    a.load(R6, R1, LEASE_UNTIL);
    a.call(KTIME_GET_BOOT_NS);
    a.jump_less(R0, R6, "leased");
    a.label("drop");
    count(&mut a, map, EGRESS_DROPPED);
    a.exit(DROP);
    a.label("leased");
    a.load_32(R6, R7, packet::PROTOCOL);
    a.jump_equal(R6, packet::IPV4, "ip");
    a.jump_equal(R6, packet::IPV6, "ip");
    a.exit(NEXT);
    a.label("ip");
    a.load_32(R6, R7, packet::MARK);
    a.jump_equal(R6, MARK as i32, "leave");
    a.jump("drop");
    a.label("leave");
    a.exit(NEXT);
    a.finish()
}

/// Ingress: drop unless `open` is 1.
fn ingress_program(map: i32) -> Vec<Instruction> {
    let mut a = Assembler::new();
    a.map_value(R1, map);
    a.load(R6, R1, OPEN);
    a.jump_equal(R6, 1, "enter");
    count(&mut a, map, INGRESS_DROPPED);
    a.exit(DROP);
    a.label("enter");
    a.exit(NEXT);
    a.finish()
}

fn count(a: &mut Assembler, map: i32, counter: i16) {
    a.map_value(R1, map);
    a.set(R2, 1);
    a.add_atomic(R1, counter, R2);
}

/// A packet as a program sees it: `struct __sk_buff` (`linux/bpf.h`). The protocol is in network order.
mod packet {
    pub const MARK: i16 = 8;
    pub const PROTOCOL: i16 = 16;
    pub const IPV4: i32 = (libc::ETH_P_IP as u16).to_be() as i32;
    pub const IPV6: i32 = (libc::ETH_P_IPV6 as u16).to_be() as i32;
}

/// Linux's numbers (`linux/bpf.h`).
pub(crate) mod bpf {
    pub const MAP_CREATE: i32 = 0;
    pub const PROG_LOAD: i32 = 5;
    pub const PROG_ATTACH: i32 = 8;
    pub const MAP_TYPE_ARRAY: u32 = 2;
    pub const F_MMAPABLE: u32 = 1 << 10;
    pub const PROG_TYPE_SCHED_CLS: u32 = 3;
    pub const TCX_INGRESS: u32 = 46;
    pub const TCX_EGRESS: u32 = 47;
    pub const LINK_CREATE: i32 = 28;
    /// Of `bpf_redirect`: as if it had come in there.
    pub const F_INGRESS: i32 = 1;
}

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

/// # Safety
/// Every address in `attribute` must be valid for what the command does with it, until the call returns.
unsafe fn call<T>(command: i32, attribute: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from attribute; addresses in it are the caller's promise.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as i32) }
}

fn create_map() -> io::Result<OwnedFd> {
    let attribute = MapCreate {
        map_type: bpf::MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: WORDS_BYTES as u32,
        max_entries: 1,
        map_flags: bpf::F_MMAPABLE,
    };
    // SAFETY: no addresses in it; a result is a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(call(bpf::MAP_CREATE, &attribute)?)) }
}

/// `name`: 15 bytes at most.
pub(crate) fn load(program: &[Instruction], name: &[u8]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(name);
    let attribute = ProgLoad {
        prog_type: bpf::PROG_TYPE_SCHED_CLS,
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
    unsafe { Ok(OwnedFd::from_raw_fd(call(bpf::PROG_LOAD, &attribute)?)) }
}

fn attach_program(program: &OwnedFd, interface: u32, attach_type: u32) -> io::Result<()> {
    let attribute = ProgAttach {
        target_ifindex: interface,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type,
        attach_flags: 0,
    };
    // SAFETY: no addresses in it.
    unsafe { call(bpf::PROG_ATTACH, &attribute) }.map(|_| ())
}

/// As long as the descriptor lives, in the calling thread's namespace.
pub(crate) fn link_program(program: &OwnedFd, interface: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let attribute =
        LinkCreate { prog_fd: program.as_raw_fd() as u32, target_ifindex: interface, attach_type, flags: 0 };
    // SAFETY: no addresses in it; a result is a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(call(bpf::LINK_CREATE, &attribute)?)) }
}
