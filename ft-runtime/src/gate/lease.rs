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

use super::asm::{Assembler, Instruction, KTIME_GET_BOOT_NS, R0, R1, R2, R3, R4, R5, R6, R7, STACK, STORE_BYTES};
use super::bpf;
use super::boot_time::BootTime;
use super::error::GateError;
use super::namespace::ServiceNet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
    map: OwnedFd,
}

// SAFETY: the memory holds atomics only and stays mapped until the last owner drops it; the pointer is never changed.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn of_map(map: OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping of the map's first page; Shared owns it.
        let memory = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), WORDS_BYTES, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { words: memory.cast(), map }) }
    }

    fn words(&self) -> &Words {
        // SAFETY: mapped in `of_map` with at least a Words' bytes, page aligned, until drop.
        unsafe { &*self.words }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `of_map` with this length, and no reference outlives self.
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
    /// Of the process whose [`Self::map`] this is.
    pub(crate) fn of_map(map: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared::of_map(map)?)))
    }

    pub(crate) fn map(&self) -> BorrowedFd<'_> {
        self.0.map.as_fd()
    }

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
    let map = bpf::create_map(bpf::MAP_TYPE_ARRAY, 4, WORDS_BYTES as u32, 1, bpf::F_MMAPABLE).map_err(refused)?;
    let load = |program: &[Instruction]| bpf::load(bpf::PROG_TYPE_SCHED_CLS, "ft_lease", program).map_err(refused);
    let egress = load(&egress_program(map.as_raw_fd(), net.source()))?;
    let ingress = load(&ingress_program(map.as_raw_fd()))?;
    let shared = Arc::new(Shared::of_map(map).map_err(GateError::system("mapping the lease"))?);
    net.within(|| {
        bpf::attach(&egress, net.interface(), bpf::TCX_EGRESS)?;
        bpf::attach(&ingress, net.interface(), bpf::TCX_INGRESS)
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

/// Egress: drop at or after `lease_until`, and IP without the mark. The rest leaves, from `source` if that is given.
fn egress_program(map: i32, source: Option<[u8; 6]>) -> Vec<Instruction> {
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
    a.jump("leave");
    a.label("ip");
    a.load_32(R6, R7, packet::MARK);
    a.jump_equal(R6, MARK as i32, "leave");
    a.jump("drop");
    a.label("leave");
    if let Some([m0, m1, m2, m3, m4, m5]) = source {
        const ROOM: i16 = -8;
        a.set(R1, i32::from_le_bytes([m0, m1, m2, m3]));
        a.store_32(STACK, ROOM, R1);
        a.set(R1, i32::from_le_bytes([m4, m5, 0, 0]));
        a.store_32(STACK, ROOM + 4, R1);
        a.copy(R1, R7);
        a.set(R2, packet::SOURCE);
        a.copy(R3, STACK);
        a.add(R3, ROOM.into());
        a.set(R4, 6);
        a.set(R5, 0);
        a.call(STORE_BYTES);
        a.jump_unequal(R0, 0, "drop");
    }
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
    /// Of its link header: where it comes from.
    pub const SOURCE: i32 = 6;
    pub const MARK: i16 = 8;
    pub const PROTOCOL: i16 = 16;
    pub const IPV4: i32 = (libc::ETH_P_IP as u16).to_be() as i32;
    pub const IPV6: i32 = (libc::ETH_P_IPV6 as u16).to_be() as i32;
}
