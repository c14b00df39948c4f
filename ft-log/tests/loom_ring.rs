//! Every interleaving of the ring's two ends. Run:
//! `RUSTFLAGS="--cfg loom" cargo test -p ft-log --release loom_`
#![cfg(loom)]

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
