//! What leaves without asking the engine: segments whose acknowledgement it has said to be safe.
//!
//! Law: a program in the kernel passes a segment only if it has ACK and neither SYN, FIN nor RST, belongs to a connection
//! that the judge opened, and acknowledges nothing beyond what the judge said last. Everything else is queued as ever.
//! That is the judge's own rule, minus all that needs more than two numbers; so a program that says too little costs
//! time and nothing else. The lease stands behind it: what passes here still leaves only under one.

use super::asm::{Assembler, Instruction, LOAD_BYTES, MAP_LOOKUP, R0, R1, R2, R3, R4, R6, R7, STACK};
use super::bpf;
use super::judge::{CONNECTIONS_MAX, Pass};
use super::packet::{Flags, Tuple};
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// In a connection's word, beside the number: the connection may pass.
const OPEN: u64 = 1 << 32;
const WORDS_BYTES: usize = CONNECTIONS_MAX * size_of::<AtomicU64>();

/// Where a header has what the program looks at, from the IP header's start.
struct Layout {
    version_mask: i32,
    version: i32,
    protocol: i16,
    tcp: i16,
    /// Addresses and ports lie side by side in either header: they are the key as they are.
    key: i16,
    key_bytes: u32,
}

/// Without options, as a kernel sends TCP.
const V4: Layout = Layout { version_mask: 0xff, version: 0x45, protocol: 9, tcp: 20, key: 12, key_bytes: 12 };
const V6: Layout = Layout { version_mask: 0xf0, version: 0x60, protocol: 6, tcp: 40, key: 8, key_bytes: 36 };

struct Family {
    /// From a connection's key to the number of its word.
    connections: OwnedFd,
    program: OwnedFd,
}

impl Family {
    fn create(layout: &Layout, words: i32) -> io::Result<Self> {
        let max = CONNECTIONS_MAX as u32;
        let connections = bpf::create_map(bpf::MAP_TYPE_HASH, layout.key_bytes, 4, max, bpf::F_NO_PREALLOC)?;
        let program = program(layout, connections.as_raw_fd(), words);
        let program = bpf::load(bpf::PROG_TYPE_SOCKET_FILTER, "ft_pass", &program)?;
        Ok(Self { connections, program })
    }
}

/// The maps behind the programs.
pub struct Passes {
    v4: Family,
    v6: Family,
    words: *const AtomicU64,
    _map: OwnedFd,
    /// Those the kernel's map took.
    open: HashSet<Tuple>,
}

// SAFETY: the words are atomics and stay mapped until drop; the pointer is never changed.
unsafe impl Send for Passes {}

impl Passes {
    pub fn create() -> io::Result<Self> {
        let map = bpf::create_map(bpf::MAP_TYPE_ARRAY, 4, 8, CONNECTIONS_MAX as u32, bpf::F_MMAPABLE)?;
        let (v4, v6) = (Family::create(&V4, map.as_raw_fd())?, Family::create(&V6, map.as_raw_fd())?);
        // SAFETY: a new mapping of all of the map; Drop ends it.
        let words = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), WORDS_BYTES, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { v4, v6, words: words.cast(), _map: map, open: HashSet::new() })
    }

    /// Answers 1 to a packet (from its IP header on) that may leave; for IPv4 and for IPv6.
    pub fn programs(&self) -> [&OwnedFd; 2] {
        [&self.v4.program, &self.v6.program]
    }

    fn word(&self, slot: u32) -> &AtomicU64 {
        assert!((slot as usize) < CONNECTIONS_MAX);
        // SAFETY: inside the mapping, which lives as long as self; atomics only.
        unsafe { &*self.words.add(slot as usize) }
    }

    /// Does what the judge said. In its order: a slot's next connection comes after the former one's end.
    pub fn apply(&mut self, p: &Pass) {
        match *p {
            Pass::Open { slot, tuple } => {
                let (family, key) = self.key(&tuple);
                match bpf::put(family.connections.as_fd(), &key, &slot.to_ne_bytes()) {
                    Ok(()) => {
                        self.open.insert(tuple);
                    }
                    // It goes the long way, then.
                    Err(e) => tracing::debug!("no pass for {tuple}: {e}"),
                }
            }
            Pass::Upto { slot, ack } => self.word(slot).store(OPEN | u64::from(ack.0), Ordering::Release),
            Pass::Close { slot, tuple } => {
                self.word(slot).store(0, Ordering::Release);
                let (family, key) = self.key(&tuple);
                if let Err(e) = bpf::delete(family.connections.as_fd(), &key)
                    && self.open.contains(&tuple)
                {
                    tracing::warn!("a closed connection keeps its pass ({tuple}): {e}");
                }
                self.open.remove(&tuple);
            }
        }
    }

    fn key(&self, tuple: &Tuple) -> (&Family, Vec<u8>) {
        let (local, peer) = (tuple.local(), tuple.peer());
        let ports = [local.port().to_be_bytes(), peer.port().to_be_bytes()].concat();
        match (local.ip(), peer.ip()) {
            (IpAddr::V4(l), IpAddr::V4(p)) => (&self.v4, [&l.octets()[..], &p.octets(), &ports].concat()),
            (l, p) => {
                let octets = |a: IpAddr| match a {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                (&self.v6, [&octets(l)[..], &octets(p), &ports].concat())
            }
        }
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        // SAFETY: mapped by `create` with this length, and no reference outlives self.
        unsafe { libc::munmap(self.words.cast_mut().cast(), WORDS_BYTES) };
    }
}

/// See the file's head.
fn program(l: &Layout, connections: i32, words: i32) -> Vec<Instruction> {
    const TCP_BYTES: i16 = 20;
    /// Of the header's copy on the stack.
    const AT: i16 = -64;
    const SLOT: i16 = -72;
    let flags = i32::from(Flags::SYN | Flags::FIN | Flags::RST | Flags::ACK);
    let mut a = Assembler::new();
    a.set(R2, 0);
    a.copy(R3, STACK);
    a.add(R3, AT.into());
    a.set(R4, (l.tcp + TCP_BYTES).into());
    a.call(LOAD_BYTES);
    a.jump_unequal(R0, 0, "queue");
    a.load_8(R6, STACK, AT);
    a.and(R6, l.version_mask);
    a.jump_unequal(R6, l.version, "queue");
    a.load_8(R6, STACK, AT + l.protocol);
    a.jump_unequal(R6, libc::IPPROTO_TCP, "queue");
    a.load_8(R6, STACK, AT + l.tcp + 13);
    a.and(R6, flags);
    a.jump_unequal(R6, Flags::ACK.into(), "queue");
    a.load_32(R7, STACK, AT + l.tcp + 8);
    a.from_network_32(R7);
    a.map(R1, connections);
    a.copy(R2, STACK);
    a.add(R2, (AT + l.key).into());
    a.call(MAP_LOOKUP);
    a.jump_equal(R0, 0, "queue");
    a.load_32(R6, R0, 0);
    a.store_32(STACK, SLOT, R6);
    a.map(R1, words);
    a.copy(R2, STACK);
    a.add(R2, SLOT.into());
    a.call(MAP_LOOKUP);
    a.jump_equal(R0, 0, "queue");
    // One load: the number and whether it counts belong together.
    a.load(R6, R0, 0);
    a.copy(R1, R6);
    a.shift_right(R1, 32);
    a.jump_unequal(R1, 1, "queue");
    a.subtract_32(R6, R7);
    a.jump_greater(R6, i32::MAX, "queue");
    a.exit(1);
    a.label("queue");
    a.exit(0);
    a.finish()
}
