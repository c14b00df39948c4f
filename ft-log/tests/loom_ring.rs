//! Every interleaving of the ring's two ends, and of who takes what lies in it. Run:
//! `RUSTFLAGS="--cfg loom" cargo test -p ft-log --release loom_`
#![cfg(loom)]

use ft_log::entry::ClockSample;
use ft_log::idle::{Claim, Idle, Waiting};
use ft_log::ring::{Consumer, Control, Producer, Storage, announce_wait};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, Ordering};

const BYTES: usize = 64;

/// Relaxed cells: only the ring's indices order them, which is what is tested.
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

struct Shared {
    control: Control,
    bytes: Vec<AtomicU8>,
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared { control: Control::new(), bytes: (0..BYTES).map(|_| AtomicU8::new(0)).collect() })
}

fn frame(k: u8) -> [u8; 2] {
    [k, !k]
}

/// Frames arrive whole and in order, also across the skip mark and while the ring is full.
#[test]
fn loom_frames_arrive_in_order() {
    loom::model(|| {
        let s = shared();
        {
            // 24 bytes used and released, so that the second of two frames of 24 wraps with a skip mark.
            let mut p = Producer::new(&s.control, Cells(&s.bytes));
            let mut c = Consumer::new(&s.control, Cells(&s.bytes));
            assert_eq!(p.push(&[9; 18], &[]), Ok(true));
            assert_eq!(c.pop_into(&mut [0; 32]), Ok(Some(18)));
        }
        let t = s.clone();
        let producer = loom::thread::spawn(move || {
            let mut p = Producer::new(&t.control, Cells(&t.bytes));
            let mut sent = 0;
            for k in 1..=3u8 {
                let mut body = [0; 18];
                body[..2].copy_from_slice(&frame(k));
                if p.push(&body[..2], &body[2..]).unwrap() {
                    sent += 1;
                } else {
                    break;
                }
            }
            sent
        });
        let mut c = Consumer::new(&s.control, Cells(&s.bytes));
        let mut got = 0u8;
        let mut body = [0; 32];
        for _ in 0..2 {
            if let Some(n) = c.pop_into(&mut body).unwrap() {
                got += 1;
                assert_eq!((n, &body[..2]), (18, &frame(got)[..]));
            }
        }
        let sent = producer.join().unwrap();
        while let Some(n) = c.pop_into(&mut body).unwrap() {
            got += 1;
            assert_eq!((n, &body[..2]), (18, &frame(got)[..]));
        }
        assert_eq!(got, sent);
    });
}

/// A consumer that announces itself, looks once more and sleeps is always woken for what was published.
#[test]
fn loom_no_wakeup_is_lost() {
    loom::model(|| {
        let s = shared();
        let t = s.clone();
        let producer = loom::thread::spawn(move || {
            let mut p = Producer::new(&t.control, Cells(&t.bytes));
            assert_eq!(p.push(&[7], &[]), Ok(true));
            // Waking is clearing the word, here as with a futex.
            t.control.must_wake_consumer();
        });
        let mut c = Consumer::new(&s.control, Cells(&s.bytes));
        let mut b = [0; 8];
        loop {
            if c.pop_into(&mut b).unwrap().is_some() {
                break;
            }
            announce_wait(&s.control.consumer_waits.0);
            if !c.is_empty().unwrap() {
                continue;
            }
            // Sleeping for ever is what loom reports as exceeding its bound.
            while s.control.consumer_waits.0.load(Ordering::Relaxed) == 1 {
                loom::thread::yield_now();
            }
        }
        assert_eq!(b[0], 7);
        producer.join().unwrap();
    });
}

/// The same from the other side: a producer before a full ring.
#[test]
fn loom_no_wakeup_of_the_producer_is_lost() {
    loom::model(|| {
        let s = shared();
        {
            let mut p = Producer::new(&s.control, Cells(&s.bytes));
            assert_eq!(p.push(&[1; 28], &[]), Ok(true));
            assert_eq!(p.push(&[2; 28], &[]), Ok(true));
        }
        let t = s.clone();
        let consumer = loom::thread::spawn(move || {
            let mut c = Consumer::new(&t.control, Cells(&t.bytes));
            assert_eq!(c.pop_into(&mut [0; 32]), Ok(Some(28)));
            t.control.must_wake_producer();
        });
        let mut p = Producer::new(&s.control, Cells(&s.bytes));
        loop {
            if p.push(&[3; 28], &[]).unwrap() {
                break;
            }
            announce_wait(&s.control.producer_waits.0);
            if p.push(&[3; 28], &[]).unwrap() {
                break;
            }
            while s.control.producer_waits.0.load(Ordering::Relaxed) == 1 {
                loom::thread::yield_now();
            }
        }
        consumer.join().unwrap();
    });
}

const POINT: u64 = 7;

fn waiting(point: u64) -> Waiting {
    let n = point * 10;
    Waiting { digest: n + 1, clock_ns: n + 2, ahead_ns: n as i64 + 3, realtime_offset_ns: n as i64 + 4 }
}

/// What lies in the ring of a domain that waits is applied by what the domain found or by what the engine claimed, never
/// both and never neither; a claim knows the point's own words, and the domain hears all of the claim.
#[test]
fn loom_a_point_has_one_author() {
    // Without a bound it takes a minute.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let s = shared();
        let idle = Arc::new(Idle::new());
        let (t, engine_idle) = (s.clone(), idle.clone());
        let clock = ClockSample { monotonic_ns: 99, realtime_offset_ns: Some(-5) };
        let engine = loom::thread::spawn(move || {
            let mut p = Producer::new(&t.control, Cells(&t.bytes));
            assert_eq!(p.push(&[1], &[]), Ok(true));
            let claimed = engine_idle.waiting().filter(|(p, _)| engine_idle.claim(*p, &Claim { events: 1, clock }));
            if let Some((point, w)) = claimed {
                assert_eq!(w, waiting(point));
            }
            t.control.must_wake_consumer();
            claimed.map(|(point, _)| point)
        });
        let mut c = Consumer::new(&s.control, Cells(&s.bytes));
        let mut b = [0; 8];
        let word = &s.control.consumer_waits.0;
        let heard = loop {
            if c.pop_into(&mut b).unwrap().is_some() {
                break None;
            }
            idle.wait_at(POINT, &waiting(POINT));
            announce_wait(word);
            if c.is_empty().unwrap() {
                while word.load(Ordering::Relaxed) == 1 {
                    loom::thread::yield_now();
                }
            }
            if let Some(claim) = idle.leave(POINT) {
                assert_eq!(c.pop_into(&mut b), Ok(Some(1)), "it was there when it was claimed");
                break Some(claim);
            }
        };
        assert_eq!(b[0], 1);
        // On to the next point, where nothing is left to claim but an engine that is late may try.
        if heard.is_none() {
            idle.wait_at(POINT + 1, &waiting(POINT + 1));
            let at_next = idle.leave(POINT + 1);
            let claimed = engine.join().unwrap();
            assert_eq!(at_next, claimed.map(|point| {
                assert_eq!(point, POINT + 1);
                Claim { events: 1, clock }
            }));
        } else {
            assert_eq!(heard, Some(Claim { events: 1, clock }));
            assert_eq!(engine.join().unwrap(), Some(POINT));
        }
    });
}
