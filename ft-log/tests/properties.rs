//! Codec, entries and ring against arbitrary input.
#![cfg(not(loom))]

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU8, Ordering};
use ft_log::codec::Writer;
use ft_log::entry::{Act, Disagreement, MemoryPart, Applied, ClockSample, Entry, Event, FromGuest, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use ft_log::ids::{ConnId, DomainId, InputPoint, ListenerId, PipeId};
use ft_log::ring::{Consumer, Control, Corrupt, Producer, Storage};
use proptest::prelude::*;
use std::collections::VecDeque;

/// An owned message, so that strategies needn't borrow.
#[derive(Clone, Debug)]
struct Recipe {
    variant: usize,
    a: u32,
    b: u32,
    c: u64,
    d: u64,
    e: i64,
    small: u16,
    flag: bool,
    six: [u64; 6],
    peer: SocketAddr,
    local: SocketAddr,
    bytes: Vec<u8>,
}

const EVENTS: usize = 10;
const ENTRIES: usize = EVENTS + 6;
const ACTS: usize = 21;

impl Recipe {
    fn entry(&self) -> Entry<'_> {
        let conn = ConnId(self.a);
        let bytes = &self.bytes[..];
        let point = InputPoint(self.c);
        match self.variant % ENTRIES {
            0 => Entry::Event(Event::Accept {
                listener: ListenerId(self.b),
                conn,
                peer: self.peer,
                local: self.local,
            }),
            1 => Entry::Event(Event::Data { conn, bytes }),
            2 => Entry::Event(Event::Fin { conn }),
            3 => Entry::Event(Event::Reset { conn, errno: self.small }),
            4 => Entry::Event(Event::Acked { conn, upto: self.c }),
            5 => Entry::Event(Event::Signal { signo: self.small as u8 }),
            6 => Entry::Event(Event::PipeData { pipe: PipeId(self.a), bytes }),
            7 => Entry::Event(Event::PipeClosed { pipe: PipeId(self.a) }),
            8 => Entry::Event(Event::ChildExit { child: DomainId(self.small), status: self.e as i32 }),
            9 => Entry::Event(Event::PipeReader { pipe: PipeId(self.a) }),
            10 => Entry::Applied(Applied {
                point,
                events: self.b,
                clock: ClockSample { monotonic_ns: self.d, realtime_offset_ns: (self.a & 1 != 0).then_some(self.e) },
                digest: self.six[0],
                signals: if self.flag { self.six[1] } else { 0 },
            }),
            11 => Entry::Passed { point },
            12 => Entry::Recorded { call: self.small, bytes },
            13 => Entry::Memory { point, hash: self.d, pages: self.six[2] },
            14 => Entry::Exit { status: self.e as i32, digest: self.d },
            _ => Entry::GoLive { monotonic_ns: self.d },
        }
    }

    fn act(&self) -> Act<'_> {
        let conn = ConnId(self.a);
        let bytes = &self.bytes[..];
        match self.variant % ACTS {
            0 => Act::Output { conn, bytes },
            1 => Act::Shutdown { conn },
            2 => Act::Close { conn, reset: self.flag },
            3 => Act::Consumed { conn, upto: self.c },
            4 => Act::Listen {
                listener: ListenerId(self.a),
                address: self.local,
                backlog: self.b,
                v6only: self.flag,
            },
            5 => Act::Unlisten { listener: ListenerId(self.a) },
            6 => Act::Option { conn, level: self.small, name: self.b as u16, value: self.e as i32 },
            7 => Act::Fork { child: DomainId(self.small), host_pid: self.a, guest_pid: self.b },
            8 => Act::PipeOutput { pipe: PipeId(self.a), bytes },
            9 => Act::PipeEnd { pipe: PipeId(self.a) },
            10 => Act::Kill { domain: DomainId(self.small), signo: self.b as u8 },
            11 => Act::Refused { text: bytes },
            12 => Act::Diverged {
                scene: Disagreement {
                    point: InputPoint(self.c),
                    thread: self.small,
                    registers: [self.six[0], self.six[1], self.six[2]],
                    agreed: self.six[3],
                    newest: self.six[4],
                    memory: MemoryPart { start: self.d, end: self.six[5] },
                    disk_errno: self.small,
                },
                text: bytes,
            },
            13 => Act::Trace {
                thread: self.small,
                call: self.b as u16,
                args: self.six,
                result: self.e,
                digest: self.d,
            },
            14 => Act::Note { text: bytes },
            15 => Act::PipeReader { pipe: PipeId(self.a) },
            16 => Act::Bind {
                listener: ListenerId(self.a),
                address: self.local,
                v6only: self.flag,
                freebind: self.b & 1 != 0,
            },
            17 => Act::Copied { point: InputPoint(self.c), host_pid: self.b },
            18 => Act::Replaced { device: self.c, inode: self.d, size: self.six[0], offset: self.six[1], bytes },
            19 => Act::Untold { text: bytes },
            _ => Act::Live { point: InputPoint(self.c) },
        }
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<i64>(), any::<u16>());
    let others = (any::<bool>(), any::<[u64; 6]>(), address(), address(), prop::collection::vec(any::<u8>(), 0..300));
    (any::<usize>(), numbers, others).prop_map(|(variant, (a, b, c, d, e, small), (flag, six, peer, local, bytes))| {
        Recipe { variant, a, b, c, d, e, small, flag, six, peer, local, bytes }
    })
}

/// The message's bytes as they travel, and the check that the head has room.
fn encode(m: &FromGuest) -> Vec<u8> {
    let mut head = [0; HEADER_BYTES_MAX];
    let mut w = Writer::new(&mut head);
    let payload = m.encode(&mut w);
    let n = w.len();
    [&head[..n], payload].concat()
}

proptest! {
    #[test]
    fn entries_round_trip(r in recipe()) {
        let e = r.entry();
        let bytes = encode(&FromGuest::Entry(e.clone()));
        prop_assert_eq!(Entry::decode(&bytes), Ok(e.clone()));
        prop_assert_eq!(FromGuest::decode(&bytes), Ok(FromGuest::Entry(e)));
    }

    #[test]
    fn acts_round_trip(r in recipe()) {
        let a = r.act();
        let bytes = encode(&FromGuest::Act(a.clone()));
        prop_assert_eq!(FromGuest::decode(&bytes), Ok(FromGuest::Act(a)));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Entry::decode(&bytes);
        let _ = FromGuest::decode(&bytes);
    }

    /// Near-valid bytes reach deeper than random ones.
    #[test]
    fn damaged_messages_never_panic(r in recipe(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        for m in [FromGuest::Entry(r.entry()), FromGuest::Act(r.act())] {
            let mut bytes = encode(&m);
            let k = at.index(bytes.len());
            bytes[k] = to;
            let _ = FromGuest::decode(&bytes);
            let _ = Entry::decode(&bytes);
            let _ = FromGuest::decode(&bytes[..cut.index(bytes.len())]);
        }
    }
}

/// Ring bytes owned by the test.
#[derive(Clone, Copy)]
struct Cells<'a>(&'a [AtomicU8]);

impl Storage for Cells<'_> {
    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        for (cell, b) in self.0[at..at + bytes.len()].iter().zip(bytes) {
            cell.store(*b, Ordering::Relaxed);
        }
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        for (cell, b) in self.0[at..at + bytes.len()].iter().zip(bytes) {
            *b = cell.load(Ordering::Relaxed);
        }
    }
}

fn cells(n: usize) -> Vec<AtomicU8> {
    (0..n).map(|_| AtomicU8::new(0)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push { head: usize, payload: usize },
    Pop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Largest frame that fits half of 512 bytes: 4 + 252.
        (0usize..20, 0usize..232).prop_map(|(head, payload)| Step::Push { head, payload }),
        Just(Step::Pop),
    ]
}

proptest! {
    #[test]
    fn ring_is_a_bounded_queue(steps in prop::collection::vec(step(), 1..400)) {
        let bytes = cells(512);
        let control = Control::new();
        let mut producer = Producer::new(&control, Cells(&bytes));
        let mut consumer = Consumer::new(&control, Cells(&bytes));
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        let mut next = 0u8;
        let mut out = [0; 256];
        for s in steps {
            match s {
                Step::Push { head, payload } => {
                    let frame: Vec<u8> = (0..head + payload).map(|k| next.wrapping_add(k as u8)).collect();
                    next = next.wrapping_add(17);
                    if producer.push(&frame[..head], &frame[head..]).unwrap() {
                        model.push_back(frame);
                    } else {
                        prop_assert!(!model.is_empty(), "an empty ring takes any frame");
                    }
                }
                Step::Pop => {
                    let got = consumer.pop_into(&mut out).unwrap().map(|n| out[..n].to_vec());
                    prop_assert_eq!(got, model.pop_front());
                }
            }
            prop_assert_eq!(consumer.is_empty().unwrap(), model.is_empty());
            prop_assert_eq!(control.is_drained(), model.is_empty());
        }
    }

    /// A consumer in front of a hostile producer: an error or a frame, never a panic.
    #[test]
    fn hostile_lengths_never_panic(garbage in prop::collection::vec(any::<u8>(), 512), frames in 1usize..20) {
        let bytes = cells(512);
        let control = Control::new();
        let mut producer = Producer::new(&control, Cells(&bytes));
        let mut consumer = Consumer::new(&control, Cells(&bytes));
        for k in 0..frames {
            let _ = producer.push(&garbage[k..k + 8], &[]);
        }
        for (cell, b) in bytes.iter().zip(&garbage) {
            cell.store(*b, Ordering::Relaxed);
        }
        let mut out = [0; 256];
        for _ in 0..frames + 1 {
            match consumer.pop_into(&mut out) {
                Ok(Some(_)) => {}
                Ok(None) | Err(Corrupt) => break,
            }
        }
    }
}

#[test]
fn a_full_payload_fits_a_ring() {
    const { assert!(PAYLOAD_BYTES_MAX + HEADER_BYTES_MAX + 8 <= ft_log::shared::RING_BYTES / 2) };
}
