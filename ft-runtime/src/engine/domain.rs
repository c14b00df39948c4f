//! One domain as the engine sees it: its slot of the segment, its process, what waits for room in its ring.

use super::process::Process;
use super::sys;
use ft_log::codec::Writer;
use ft_log::entry::{Applied, ClockSample, Entry, HEADER_BYTES_MAX};
use ft_log::idle::{Claim, Waiting};
use ft_log::ids::{DomainId, InputPoint, LogIndex, PipeId};
use ft_log::ring::{Consumer, Corrupt, Producer, SharedBytes};
use ft_log::shared::{DomainControl, Segment};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A domain that is quiet for so long is compared.
const QUIET: Duration = Duration::from_millis(250);

/// How a domain ended, in its own words or in the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub status: i32,
    pub digest: u64,
    /// The domain said it itself.
    pub logged: bool,
}

pub struct Domain {
    pub id: DomainId,
    pub parent: Option<DomainId>,
    pub process: Box<dyn Process>,
    control: &'static DomainControl,
    to_guest: Producer<'static, SharedBytes>,
    pub from_guest: Consumer<'static, SharedBytes>,
    /// What didn't fit the ring, in order. While it holds anything nothing is pushed past it.
    outbox: VecDeque<Box<[u8]>>,
    outbox_bytes: usize,
    pushed: bool,
    /// Events that were pushed for a domain that makes the log, and that no point has applied so far.
    pub unapplied: u32,
    /// The newest of those, as they were logged: for somebody who will be given the domain as it is at some point.
    retained: Option<VecDeque<Box<[u8]>>>,
    /// The point it waits at, since when; and the first at which it has done nothing since it was compared.
    waits_since: Option<(u64, Instant)>,
    compared: u64,
    /// Index of the last entry this domain made: what its acts depend on.
    pub barrier: LogIndex,
    /// The process has ended. Its ring may still hold messages.
    pub gone: bool,
    pub exit: Option<Exit>,
    /// Pipes this domain has written to and not ended.
    pub pipes_open: Vec<PipeId>,
    /// Bytes of each pipe that other domains have written for this one to read.
    pub pipe_bytes: HashMap<PipeId, u64>,
    /// How often each pipe was closed by another domain.
    pub pipe_closings: HashMap<PipeId, u64>,
}

impl Domain {
    /// # Safety
    /// No other engine end of this slot's rings is in use.
    pub unsafe fn new(segment: &Segment, id: DomainId, parent: Option<DomainId>, process: Box<dyn Process>) -> Self {
        // SAFETY: the caller's promise.
        let (to_guest, from_guest) = unsafe { (segment.to_guest_producer(id.0), segment.from_guest_consumer(id.0)) };
        Self {
            id,
            parent,
            process,
            control: segment.domain(id.0),
            to_guest,
            from_guest,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            pushed: false,
            unapplied: 0,
            retained: None,
            waits_since: None,
            compared: 0,
            barrier: LogIndex(0),
            gone: false,
            exit: None,
            pipes_open: Vec::new(),
            pipe_bytes: HashMap::new(),
            pipe_closings: HashMap::new(),
        }
    }

    /// Sends; keeps what doesn't fit now.
    pub fn push(&mut self, head: &[u8], payload: &[u8]) -> Result<(), Corrupt> {
        if self.outbox.is_empty() && self.to_guest.push(head, payload)? {
            self.pushed = true;
        } else {
            self.outbox_bytes += head.len() + payload.len();
            self.outbox.push_back([head, payload].concat().into());
        }
        Ok(())
    }

    /// An event, which some point will apply.
    pub fn push_event(&mut self, head: &[u8], payload: &[u8]) -> Result<(), Corrupt> {
        self.unapplied += 1;
        if let Some(r) = &mut self.retained {
            r.push_back([head, payload].concat().into());
        }
        self.forget_applied();
        self.push(head, payload)
    }

    fn forget_applied(&mut self) {
        if let Some(r) = &mut self.retained {
            let applied = r.len().saturating_sub(self.unapplied as usize);
            r.drain(..applied);
        }
    }

    /// Keeps events from now on. True: it has all that are not applied.
    pub fn retain_events(&mut self) -> bool {
        self.retained.get_or_insert_default();
        self.forget_applied();
        self.retained.as_ref().is_some_and(|r| r.len() == self.unapplied as usize)
    }

    /// What no point has applied, if that was kept; nothing is kept any more.
    pub fn take_retained(&mut self) -> Option<Vec<Box<[u8]>>> {
        self.forget_applied();
        self.retained.take().filter(|r| r.len() == self.unapplied as usize).map(Vec::from)
    }

    pub fn push_entry(&mut self, entry: &Entry) -> Result<(), Corrupt> {
        let mut head = [0; HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut head);
        let payload = entry.encode(&mut w);
        let n = w.len();
        self.push(&head[..n], payload)
    }

    /// Moves what waited into the ring, then wakes the guest if anything was pushed since the last call.
    pub fn flush(&mut self) -> Result<(), Corrupt> {
        while let Some(frame) = self.outbox.front() {
            if !self.to_guest.push(frame, &[])? {
                break;
            }
            self.pushed = true;
            self.outbox_bytes -= frame.len();
            self.outbox.pop_front();
        }
        if std::mem::take(&mut self.pushed) && self.control.to_guest.must_wake_consumer() {
            sys::futex_wake(&self.control.to_guest.consumer_waits.0);
        }
        Ok(())
    }

    /// After draining: the guest may wait for room.
    pub fn wake_producer(&self) {
        if self.control.from_guest.must_wake_producer() {
            sys::futex_wake(&self.control.from_guest.producer_waits.0);
        }
    }

    /// To an act that has an answer: the guest waits for it.
    pub fn answer(&self, value: i64) {
        let s = &self.control.status;
        s.answer.store(value, Ordering::Relaxed);
        s.answered.0.store(1, Ordering::Release);
        sys::futex_wake(&s.answered.0);
    }

    /// Bytes that wait for room in the ring.
    pub fn backlog_bytes(&self) -> usize {
        self.outbox_bytes
    }

    pub fn control(&self) -> &'static DomainControl {
        self.control
    }

    /// The guest has taken everything and waits for more. True only for an instant unless we alone feed it.
    pub fn waits_for_input(&self) -> bool {
        self.outbox.is_empty()
            && self.control.to_guest.is_drained()
            && self.control.status.idle.is_waiting()
            && self.control.to_guest.is_drained()
    }

    /// If the domain waits and all it said was taken: it applies at its point what was pushed, now. The caller logs that.
    pub fn claim(&mut self) -> Result<Option<Applied>, Corrupt> {
        if self.unapplied == 0 || !self.outbox.is_empty() {
            return Ok(None);
        }
        let Some((point, waiting)) = self.control.status.idle.waiting() else { return Ok(None) };
        self.claim_at(point, &waiting)
    }

    /// If the domain has done something and waits since then for so long that nobody else has its digest logged: has it compared.
    /// Once, until it does something again.
    pub fn claim_quiet(&mut self, now: Instant) -> Result<Option<Applied>, Corrupt> {
        let Some((point, _)) = self.control.status.idle.waiting() else { return Ok(None) };
        match self.waits_since {
            _ if point == self.compared => Ok(None),
            Some((p, since)) if p == point && now.saturating_duration_since(since) >= QUIET => self.claim_nothing(),
            Some((p, _)) if p == point => Ok(None),
            _ => {
                self.waits_since = Some((point, now));
                Ok(None)
            }
        }
    }

    /// If the domain waits and nothing was pushed: it applies nothing at its point, and goes on to the next.
    pub fn claim_nothing(&mut self) -> Result<Option<Applied>, Corrupt> {
        if self.unapplied > 0 || !self.outbox.is_empty() {
            return Ok(None);
        }
        let Some((point, waiting)) = self.control.status.idle.waiting() else { return Ok(None) };
        let applied = self.claim_at(point, &waiting)?;
        if applied.is_some() {
            self.compared = point + 1;
            // It must wake for that.
            self.pushed = true;
        }
        Ok(applied)
    }

    fn claim_at(&mut self, point: u64, waiting: &Waiting) -> Result<Option<Applied>, Corrupt> {
        // Looked at after it was seen waiting: what it says at its point, it says before.
        if !self.from_guest.is_empty()? {
            return Ok(None);
        }
        let now = sys::clock_ns(libc::CLOCK_MONOTONIC).saturating_add_signed(waiting.ahead_ns).max(waiting.clock_ns);
        let clock = ClockSample::now(now, sys::clock_ns(libc::CLOCK_REALTIME), waiting.realtime_offset_ns);
        let events = self.unapplied;
        if !self.control.status.idle.claim(point, &Claim { events, clock }) {
            return Ok(None);
        }
        self.unapplied = 0;
        Ok(Some(Applied { point: InputPoint(point), events, clock, digest: waiting.digest, signals: 0 }))
    }

    /// Changes whenever the domain gets on.
    pub fn progress(&self) -> [u64; 3] {
        let s = &self.control.status;
        [s.calls.load(Ordering::Relaxed), s.point.load(Ordering::Relaxed), self.control.to_guest.released()]
    }
}

/// Makes a slot as new for its next domain.
pub fn reset_slot(control: &DomainControl) {
    control.to_guest.reset();
    control.from_guest.reset();
    let s = &control.status;
    s.idle.reset();
    control.history.reset();
    for word in [&s.calls, &s.hooked, &s.rewritten, &s.point] {
        word.store(0, Ordering::SeqCst);
    }
}
