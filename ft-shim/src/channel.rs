//! The rings to and from the engine, and the sleeping and waking around them. Knows nothing of what is said.

use crate::raw::{ETIMEDOUT, Timespec, nr};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use ft_log::codec::Writer;
use ft_log::entry::{Entry, FromGuest, HEADER_BYTES_MAX};
use ft_log::ring::{Consumer, Producer, SharedBytes, announce_wait};
use ft_log::shared::{DOORBELL_FD, DomainControl, SHARED_BASE, Segment};

const FUTEX_WAKE: u32 = 1;
/// Unlike `FUTEX_WAIT`, until a time and not for one: the clock need not be read before.
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_ANY: u32 = u32::MAX;

pub struct Channel {
    segment: Segment,
    domain: u16,
    to_guest: Consumer<'static, SharedBytes>,
    from_guest: Producer<'static, SharedBytes>,
    /// Something was pushed since the engine was last told.
    unannounced: bool,
}

/// The segment as the launcher mapped it.
pub fn segment() -> Segment {
    // SAFETY: the launcher mapped and initialised it before the shim's first instruction.
    unsafe { Segment::new(SHARED_BASE as *mut u8) }
}

impl Channel {
    pub fn open(domain: u16) -> Self {
        let segment = segment();
        // SAFETY: this process alone is the guest's end of this domain's rings.
        let (to_guest, from_guest) = unsafe { (segment.to_guest_consumer(domain), segment.from_guest_producer(domain)) };
        Self { segment, domain, to_guest, from_guest, unannounced: false }
    }

    pub fn control(&self) -> &'static DomainControl {
        self.segment.domain(self.domain)
    }

    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Sends; waits for room where there is none. The guest can't notice the wait.
    pub fn send(&mut self, m: &FromGuest) {
        let mut head = [0u8; HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut head);
        let payload = m.encode(&mut w);
        let n = w.len();
        self.unannounced = true;
        let word = &self.control().from_guest.producer_waits.0;
        while !self.push(&head[..n], payload) {
            self.announce();
            announce_wait(word);
            if self.push(&head[..n], payload) {
                break;
            }
            futex_wait(word, 1, None);
        }
    }

    fn push(&mut self, head: &[u8], payload: &[u8]) -> bool {
        self.from_guest.push(head, payload).expect("ring from guest corrupt")
    }

    /// Tells the engine that there is something, if there is and it sleeps.
    pub fn announce(&mut self) {
        if !core::mem::take(&mut self.unannounced) {
            return;
        }
        let word = &self.segment.header().engine_waits.0;
        core::sync::atomic::fence(Ordering::SeqCst);
        if word.load(Ordering::Relaxed) == 1 && word.swap(0, Ordering::Relaxed) == 1 {
            let one = 1u64;
            // SAFETY: the kernel reads eight bytes of `one`. A full eventfd counter is a wake-up too.
            unsafe { raw!(nr::WRITE, DOORBELL_FD, &raw const one, 8) };
        }
    }

    /// Sends an act that the engine answers, and waits for that. The guest can't notice the wait.
    pub fn ask(&mut self, m: &FromGuest) -> i64 {
        let status = &self.control().status;
        status.answered.0.store(0, Ordering::Relaxed);
        self.send(m);
        self.announce();
        while status.answered.0.load(Ordering::Acquire) == 0 {
            futex_wait(&status.answered.0, 0, None);
        }
        status.answer.load(Ordering::Relaxed)
    }

    /// Waits while a word of the engine's is `value`, which is told that it has to look. The guest can't notice the wait.
    pub fn wait_while(&mut self, word: &AtomicU32, value: u32) {
        self.unannounced = true;
        self.announce();
        while word.load(Ordering::Acquire) == value {
            futex_wait(word, value, None);
        }
    }

    /// Copies the next message from the engine into `buffer` and takes it off the ring; its length.
    pub fn pop(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let n = self.to_guest.pop_into(buffer).expect("ring to guest corrupt");
        if n.is_some() && self.control().to_guest.must_wake_producer() {
            futex_wake(&self.control().to_guest.producer_waits.0);
        }
        n
    }

    /// Shows the next message from the engine and leaves it there.
    pub fn peek<R>(&mut self, f: impl FnOnce(Entry) -> R) -> Option<R> {
        self.to_guest
            .with_next(|b| (false, f(Entry::decode(b).expect("engine sent what this shim can't read"))))
            .expect("ring to guest corrupt")
    }

    pub fn is_empty(&self) -> bool {
        self.to_guest.is_empty().expect("ring to guest corrupt")
    }

    /// Sleeps until the engine sent something, a signal came, or the host's monotonic clock is at `until_ns`; true in that
    /// case. Spurious returns are allowed.
    pub fn wait(&mut self, until_ns: Option<u64>) -> bool {
        self.announce();
        let word = &self.control().to_guest.consumer_waits.0;
        WAIT_WORD.store(core::ptr::from_ref(word).cast_mut(), Ordering::Relaxed);
        announce_wait(word);
        let mut is_late = false;
        if self.is_empty() {
            let_signals_in(true);
            is_late = futex_wait(word, 1, until_ns) == -ETIMEDOUT;
            let_signals_in(false);
        }
        word.store(0, Ordering::Relaxed);
        is_late
    }
}

/// The word that the domain sleeps on, for the handler of direct signals.
static WAIT_WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// From a signal handler: a sleep, or the one about to begin, ends at once.
pub fn end_sleep() {
    let word = WAIT_WORD.load(Ordering::Relaxed);
    if !word.is_null() {
        // SAFETY: points into the shared segment, which lives as long as the process.
        unsafe { (*word).store(0, Ordering::Relaxed) };
    }
}

/// Lets in the signals that wait for it.
pub fn look_for_signals() {
    let_signals_in(true);
    let_signals_in(false);
}

/// Asynchronous signals are blocked in guest and shim; they come in while it sleeps.
fn let_signals_in(open: bool) {
    const SIG_SETMASK: u32 = 2;
    let mask = if open { 0 } else { crate::trap::entry::ASYNCHRONOUS_MASK };
    // SAFETY: reads one word. Synchronous signals stay open either way.
    unsafe { raw!(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const mask, 0, 8) };
}

/// `until_ns`: on the host's monotonic clock. Every result is a reason to look again.
fn futex_wait(word: &AtomicU32, value: u32, until_ns: Option<u64>) -> i64 {
    let t = until_ns.map(Timespec::from_ns);
    let p = t.as_ref().map_or(0, |t| core::ptr::from_ref(t) as u64);
    // SAFETY: the word lives in the shared segment; the kernel reads the timespec.
    unsafe { raw!(nr::FUTEX, core::ptr::from_ref(word) as u64, FUTEX_WAIT_BITSET, value, p, 0, FUTEX_ANY) }
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word lives in the shared segment.
    unsafe { raw!(nr::FUTEX, core::ptr::from_ref(word) as u64, FUTEX_WAKE, 1) };
}
