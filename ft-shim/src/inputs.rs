//! Input points: where a domain notices the outside. The only place where the two hosts differ.
//!
//! On the primary an input point takes what the engine has put into the ring, and says so in the log; where it waits,
//! the engine may have said it already. On the backup it waits until the log says what the primary took there, and
//! takes the same. Before anything leaves the domain
//! the log covers every input point passed so far: not having seen something is an input too.

use crate::channel::{self, Channel};
use crate::kernel::Kernel;
use crate::kernel::copy::Copied;
use crate::raw::{self, host_clock_ns};
use crate::table;
use crate::trap::frame::reg;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ft_log::entry::{Act, Applied, ClockSample, Disagreement, Entry, Event, MemoryPart, FromGuest, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use ft_log::history::{FIRST_BYTES, PastCall};
use ft_log::idle::{Claim, Waiting};
use ft_log::ids::InputPoint;
use ft_log::shared::{Header, flag};

/// Signals that were sent to this process directly (bit n-1 = signal n), until an input point takes them.
pub static DIRECT_SIGNALS: AtomicU64 = AtomicU64::new(0);

/// Events taken at one input point at most.
const EVENTS_MAX: u32 = 4096;
/// A poll that finds the clock sample older than this logs a fresh one.
const GRAIN_NS: u64 = 1_000_000;
/// Between two slices of memory that are compared: a busy domain has very many idle points.
const SLICE_EVERY_NS: u64 = 10_000_000;
const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Makes the log.
    Primary,
    /// Follows the log.
    Backup,
}

pub struct Inputs {
    channel: Channel,
    pub mode: Mode,
    /// The input point the domain is at or has last passed.
    point: u64,
    /// Up to here the log says what was seen.
    logged: u64,
    buffer: Box<[u8]>,
    /// What the domain's clock is ahead of the host's: each host counts from its own start.
    ahead_ns: i64,
    memory_every: u64,
    memory_slices: bool,
    /// The domain's clock when a slice was last compared.
    sliced_ns: u64,
    idles: u64,
    /// Number of the last call before the last point at which digests were found equal.
    agreed: u64,
    /// Number of the last call that this host's disk failed, and how.
    disk_failed: (u64, u16),
    empty_reads: u32,
}

/// The head of the ring to a backup.
enum Head {
    Applied(Applied),
    Passed(u64),
    Memory(u64, u64, u64),
    GoLive(u64),
    Exit(i32, u64),
    Recorded,
    Event,
}

impl Inputs {
    pub fn open(domain: u16) -> Self {
        let channel = Channel::open(domain);
        let header = channel.segment().header();
        let mode = match header.role.load(Ordering::Relaxed) {
            ft_log::shared::role::BACKUP => Mode::Backup,
            _ => Mode::Primary,
        };
        let memory_slices = header.flags.load(Ordering::Relaxed) & flag::MEMORY_SLICES != 0;
        let memory_every = header.memory_every.load(Ordering::Relaxed);
        let buffer = alloc::vec![0u8; PAYLOAD_BYTES_MAX + HEADER_BYTES_MAX].into_boxed_slice();
        Self {
            channel,
            mode,
            point: 0,
            logged: 0,
            buffer,
            ahead_ns: 0,
            memory_every,
            memory_slices,
            sliced_ns: 0,
            idles: 0,
            agreed: 0,
            disk_failed: (0, 0),
            empty_reads: 0,
        }
    }

    /// Those of a process made of a copy of this one, under another engine.
    pub fn of_copy(&self) -> Self {
        let copy = Self { point: self.point, logged: self.logged, idles: self.idles, sliced_ns: self.sliced_ns, agreed: self.agreed, ..Self::open(0) };
        copy.channel.control().status.point.store(self.point, Ordering::Relaxed);
        copy
    }

    /// Those of a fork child, which goes on with this one's role and clock.
    pub fn of_child(&self, domain: u16) -> Self {
        Self { mode: self.mode, ahead_ns: self.ahead_ns, agreed: self.agreed, ..Self::open(domain) }
    }

    pub fn is_primary(&self) -> bool {
        self.mode == Mode::Primary
    }

    /// A call has its result.
    pub fn note(&mut self, call: &PastCall) {
        self.channel.control().history.push(call);
    }

    pub fn point(&self) -> u64 {
        self.point
    }

    /// Counts a read that found nothing; how many there were since the last input point.
    pub fn empty_read(&mut self) -> u32 {
        self.empty_reads += 1;
        self.empty_reads
    }

    fn head(&mut self) -> Option<Head> {
        self.channel.peek(|e| match e {
            Entry::Applied(a) => Head::Applied(a),
            Entry::Passed { point } => Head::Passed(point.0),
            Entry::Memory { point, hash, pages } => Head::Memory(point.0, hash, pages),
            Entry::GoLive { monotonic_ns } => Head::GoLive(monotonic_ns),
            Entry::Exit { status, digest } => Head::Exit(status, digest),
            Entry::Recorded { .. } => Head::Recorded,
            Entry::Event(_) => Head::Event,
        })
    }

    fn drop_head(&mut self) {
        self.channel.pop(&mut self.buffer);
    }

    /// Something that follows from no input: the log need not cover it.
    pub fn tell(&mut self, a: Act) {
        self.channel.send(&FromGuest::Act(a));
    }

    /// Waits while a word of the engine's is `value`.
    pub fn wait_while(&mut self, word: &AtomicU32, value: u32) {
        self.channel.wait_while(word, value);
    }

    pub fn header(&self) -> &'static Header {
        self.channel.segment().header()
    }

    fn send_entry(&mut self, e: Entry) {
        self.channel.send(&FromGuest::Entry(e));
    }
}

impl Kernel {
    /// An act leaves the domain: the log must first cover what led to it.
    pub fn act(&mut self, a: &Act) {
        self.cover();
        self.inputs.channel.send(&FromGuest::Act(a.clone()));
    }

    /// Like `act`; what the engine answers. Only the primary's engine does, so the answer belongs into a record.
    pub fn ask(&mut self, a: &Act) -> i64 {
        self.cover();
        self.inputs.channel.ask(&FromGuest::Act(a.clone()))
    }

    fn cover(&mut self) {
        let i = &mut self.inputs;
        if i.mode == Mode::Primary && i.logged < i.point {
            i.logged = i.point;
            let point = InputPoint(i.point);
            i.send_entry(Entry::Passed { point });
        }
    }

    fn begin_point(&mut self) {
        self.inputs.point += 1;
        self.inputs.empty_reads = 0;
        let s = &self.inputs.channel.control().status;
        s.point.store(self.inputs.point, Ordering::Relaxed);
        s.calls.store(self.calls, Ordering::Relaxed);
        s.hooked.store(self.sites.hooked, Ordering::Relaxed);
        s.rewritten.store(self.sites.count() as u64, Ordering::Relaxed);
    }

    /// An input point at which the domain goes on whatever is there. `sample`: it needs a fresh clock.
    pub fn poll_point(&mut self, sample: bool) {
        self.begin_point();
        self.inputs.channel.announce();
        if self.inputs.mode == Mode::Backup {
            return self.follow(Place::Poll);
        }
        self.primary_poll(sample);
    }

    fn primary_poll(&mut self, sample: bool) {
        let digest = self.digest.value;
        let events = self.take_events(EVENTS_MAX);
        let now = self.host_now();
        let stale = now.saturating_sub(self.clock.sampled_ns()) >= GRAIN_NS;
        if stale {
            channel::look_for_signals();
        }
        let signals = take_direct_signals();
        if events > 0 || signals != 0 || sample || stale {
            self.log_applied(events, signals, digest, now);
        }
    }

    /// Nobody can run: waits until something comes or a time is reached.
    pub fn idle(&mut self) {
        self.begin_point();
        if self.inputs.mode == Mode::Backup {
            return self.follow(Place::Idle);
        }
        self.primary_idle();
    }

    fn primary_idle(&mut self) {
        if self.copy_if_wanted() == Copied::IsCopy {
            return self.follow(Place::Idle);
        }
        if self.memory_is_due() {
            self.log_memory();
        }
        let deadline = self.next_deadline();
        let digest = self.digest.value;
        let waiting = Waiting {
            digest,
            clock_ns: self.clock.now(),
            ahead_ns: self.inputs.ahead_ns,
            realtime_offset_ns: self.clock.realtime_offset_ns(),
        };
        let (point, idle) = (self.inputs.point, &self.inputs.channel.control().status.idle);
        self.inputs.channel.announce();
        let host_deadline = (deadline != u64::MAX).then(|| deadline.saturating_add_signed(-self.inputs.ahead_ns));
        let mut is_due = self.clock.now() >= deadline;
        loop {
            let events = self.take_events(EVENTS_MAX);
            let signals = take_direct_signals();
            if events > 0 || signals != 0 || is_due {
                return self.log_applied(events, signals, digest, self.host_now());
            }
            idle.wait_at(point, &waiting);
            is_due = self.inputs.channel.wait(host_deadline);
            if let Some(claim) = idle.leave(point) {
                return self.apply_claim(&claim);
            }
        }
    }

    /// Counts an idle point; whether memory is compared at it.
    fn memory_is_due(&mut self) -> bool {
        let (now, i) = (self.clock.now(), &mut self.inputs);
        i.idles += 1;
        i.memory_every != 0 && i.idles % i.memory_every == 0 && (!i.memory_slices || now - i.sliced_ns >= SLICE_EVERY_NS)
    }

    /// The engine has logged what happens here. Signals that came meanwhile are the next point's.
    fn apply_claim(&mut self, c: &Claim) {
        for _ in 0..c.events {
            assert!(self.take_event(), "claimed events lie in the ring");
        }
        self.inputs.logged = self.inputs.point;
        self.apply_clock(c.clock, 0);
    }

    fn next_deadline(&self) -> u64 {
        self.threads.next_deadline().min(self.next_timer())
    }

    /// The domain's clock by the host's, never behind what the guest has read.
    fn host_now(&self) -> u64 {
        host_clock_ns(CLOCK_MONOTONIC).saturating_add_signed(self.inputs.ahead_ns).max(self.clock.now())
    }

    fn log_applied(&mut self, events: u32, signals: u64, digest: u64, now: u64) {
        let clock = ClockSample::now(now, host_clock_ns(CLOCK_REALTIME), self.clock.realtime_offset_ns());
        let point = InputPoint(self.inputs.point);
        self.inputs.logged = self.inputs.point;
        self.inputs.send_entry(Entry::Applied(Applied { point, events, clock, digest, signals }));
        self.apply_clock(clock, signals);
    }

    fn apply_clock(&mut self, clock: ClockSample, signals: u64) {
        self.clock.set(clock);
        for signo in (1..=64).filter(|s| signals >> (s - 1) & 1 != 0) {
            self.post_input(signo);
        }
        self.fire_timers();
        self.flush_unwanted();
        self.flush_shared_pipes();
        self.digest.word(clock.monotonic_ns);
    }

    /// Applies up to `max` events that lie in the ring; how many.
    fn take_events(&mut self, max: u32) -> u32 {
        let mut n = 0;
        while n < max && self.take_event() {
            n += 1;
        }
        n
    }

    fn take_event(&mut self) -> bool {
        let mut buffer = core::mem::take(&mut self.inputs.buffer);
        let len = self.inputs.channel.pop(&mut buffer);
        if let Some(len) = len {
            match Entry::decode(&buffer[..len]) {
                Ok(Entry::Event(e)) => self.apply_event(&e),
                other => panic!("expected an event from the engine, got {other:?}"),
            }
        }
        self.inputs.buffer = buffer;
        len.is_some()
    }

    fn apply_event(&mut self, e: &Event) {
        self.changed = true;
        match *e {
            Event::Signal { signo } => self.post_input(signo.into()),
            Event::PipeData { pipe, bytes } => self.pipe_input(pipe, bytes),
            Event::PipeClosed { pipe } => self.pipe_remote_closed(pipe),
            Event::PipeReader { pipe } => self.pipe_read_elsewhere(pipe),
            Event::ChildExit { child, status } => self.child_exited(child, status),
            _ => self.net_input(e),
        }
    }

    /// Stands still where that is wanted, until the engine lets it go on.
    fn hold_if_wanted(&mut self) {
        if self.process.domain == 0 && self.inputs.header().hold.at.load(Ordering::Relaxed) == self.inputs.point {
            self.hold();
        }
    }

    fn hold(&mut self) {
        self.show_registers();
        let word = &self.inputs.header().hold.stands;
        word.store(1, Ordering::Release);
        self.inputs.wait_while(word, 1);
    }

    /// For a debugger: where the guest's registers are.
    pub fn show_registers(&mut self) {
        // At its first input point the guest has not run yet.
        let at = self.uc_if_any().map_or(0, |uc| uc.regs.as_ptr() as u64);
        self.inputs.header().hold.registers.store(at, Ordering::Relaxed);
    }

    /// Waits for the next entry of the log.
    fn await_head(&mut self) -> Head {
        loop {
            if let Some(h) = self.inputs.head() {
                return h;
            }
            self.show_registers();
            let (point, idle) = (self.inputs.point, &self.inputs.channel.control().status.idle);
            idle.follow_at(point, true);
            self.inputs.channel.wait(None);
            idle.follow_at(point, false);
        }
    }

    /// The backup at an input point: does what the log says the primary did there.
    fn follow(&mut self, place: Place) {
        self.hold_if_wanted();
        let point = self.inputs.point;
        loop {
            let head = self.await_head();
            match (head, place) {
                (Head::Applied(a), _) if a.point.0 == point => {
                    self.inputs.drop_head();
                    if a.digest != self.digest.value {
                        let own = self.digest.value;
                        self.diverged(format_args!("digest {own:016x}, the primary had {:016x}", a.digest));
                    }
                    self.inputs.agreed = self.noted;
                    for _ in 0..a.events {
                        self.await_head();
                        assert!(self.take_event());
                    }
                    self.inputs.logged = point;
                    return self.apply_clock(a.clock, a.signals);
                }
                (Head::Memory(p, hash, pages), _) if p == point => {
                    self.inputs.drop_head();
                    self.check_memory(hash, pages);
                }
                (Head::GoLive(min), _) => {
                    self.inputs.drop_head();
                    self.go_live(min);
                    return match place {
                        Place::Poll => self.primary_poll(true),
                        Place::Idle => self.primary_idle(),
                    };
                }
                (Head::Passed(p), Place::Poll) if p == point => return self.inputs.drop_head(),
                (Head::Passed(p) | Head::Memory(p, ..), Place::Poll) if p > point => return,
                (Head::Applied(a), Place::Poll) if a.point.0 > point => return,
                (Head::Recorded | Head::Exit(..), Place::Poll) => return,
                (h, _) => {
                    let what = h.name();
                    self.diverged(format_args!("at {} point, the log has {what}", place.name()));
                }
            }
        }
    }

    /// From here on the domain makes its own log.
    ///
    /// `monotonic_ns`: the domain's clock now, as far as the engine knows; it never goes back.
    fn go_live(&mut self, monotonic_ns: u64) {
        let i = &mut self.inputs;
        i.mode = Mode::Primary;
        let host = host_clock_ns(CLOCK_MONOTONIC);
        let followed_nothing = self.clock.sampled_ns() == 0 && monotonic_ns == 0;
        let now = if followed_nothing { host } else { self.clock.now().max(monotonic_ns) };
        i.ahead_ns = now as i64 - host as i64;
        // What was sent to a follower was for nobody.
        channel::look_for_signals();
        DIRECT_SIGNALS.store(0, Ordering::Relaxed);
        i.logged = i.point - 1;
        let point = InputPoint(i.point);
        i.channel.send(&FromGuest::Act(Act::Live { point }));
    }

    /// A result that only the host knows: found out on the primary, taken from the log on the backup.
    pub fn record(&mut self, call: u16, f: impl FnOnce(&mut Kernel) -> Vec<u8>) -> Vec<u8> {
        if self.inputs.mode == Mode::Backup {
            if let Some(b) = self.follow_record(call) {
                return b;
            }
        }
        let bytes = f(self);
        self.cover();
        // The total first, so that the backup knows how many parts there are.
        let total = (bytes.len() as u32).to_le_bytes();
        let mut first = total.to_vec();
        let head = bytes.len().min(PAYLOAD_BYTES_MAX - total.len());
        first.extend_from_slice(&bytes[..head]);
        self.inputs.send_entry(Entry::Recorded { call, bytes: &first });
        for part in bytes[head..].chunks(PAYLOAD_BYTES_MAX) {
            self.inputs.send_entry(Entry::Recorded { call, bytes: part });
        }
        self.digest.bytes(&bytes);
        bytes
    }

    /// `None`: the log ends here and the domain is live now.
    fn follow_record(&mut self, call: u16) -> Option<Vec<u8>> {
        let mut out: Vec<u8> = Vec::new();
        let mut total = None;
        loop {
            match self.await_head() {
                Head::Recorded => {}
                Head::Passed(p) if p <= self.inputs.point && total.is_none() => {
                    self.inputs.drop_head();
                    continue;
                }
                Head::GoLive(min) => {
                    // A value of which only a part arrived was never used: nothing left the primary after it.
                    self.inputs.drop_head();
                    self.go_live(min);
                    self.inputs.logged = self.inputs.point;
                    return None;
                }
                h => {
                    let what = h.name();
                    self.diverged_in_call(format_args!("call {call} wants its recorded result, the log has {what}"));
                }
            }
            let mut buffer = core::mem::take(&mut self.inputs.buffer);
            let n = self.inputs.channel.pop(&mut buffer).expect("seen at the head");
            let Ok(Entry::Recorded { call: logged, bytes }) = Entry::decode(&buffer[..n]) else {
                unreachable!("seen at the head")
            };
            if logged != call {
                self.diverged_in_call(format_args!("call {call} wants its recorded result, the log has one of call {logged}"));
            }
            if total.is_none() {
                total = Some(u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes")) as usize);
                out.extend_from_slice(&bytes[4..]);
            } else {
                out.extend_from_slice(bytes);
            }
            self.inputs.buffer = buffer;
            if total == Some(out.len()) {
                self.digest.bytes(&out);
                return Some(out);
            }
        }
    }

    /// Hash and number of pages that aren't empty, and where they are.
    fn hash_some(&mut self) -> ((u64, u64), MemoryPart) {
        if !self.inputs.memory_slices {
            return (self.hash_memory(), MemoryPart::default());
        }
        let now = self.clock.now();
        let pages = slice_pages(now - core::mem::replace(&mut self.inputs.sliced_ns, now));
        self.hash_slice(pages)
    }

    fn log_memory(&mut self) {
        let ((hash, pages), _) = self.hash_some();
        let point = InputPoint(self.inputs.point);
        self.inputs.send_entry(Entry::Memory { point, hash, pages });
    }

    fn check_memory(&mut self, hash: u64, pages: u64) {
        let (own, compared) = self.hash_some();
        if own != (hash, pages) {
            let what = format_args!("{} pages of memory differ in something, the primary had {pages}", own.1);
            self.diverged_in(compared, what);
        }
    }

    /// The last entries of the domain.
    pub fn end_of_log(&mut self, status: i32) {
        self.begin_point();
        let digest = self.digest.value;
        if self.inputs.mode == Mode::Backup {
            self.hold_if_wanted();
            self.follow_to_end();
        } else if self.inputs.memory_every != 0 {
            self.log_memory();
        }
        // What closing says comes between, as it did on the primary: others may have heard it already.
        self.close_all();
        if self.inputs.mode == Mode::Backup {
            self.follow_exit(status, digest);
        } else {
            self.cover();
        }
        self.inputs.send_entry(Entry::Exit { status, digest });
        self.inputs.channel.announce();
    }

    /// To where the primary had begun to close what was open.
    fn follow_to_end(&mut self) {
        loop {
            let point = self.inputs.point;
            match self.await_head() {
                Head::Memory(p, hash, pages) if p == point => {
                    self.inputs.drop_head();
                    self.check_memory(hash, pages);
                }
                Head::Passed(p) if p < point => self.inputs.drop_head(),
                Head::Passed(p) if p == point => return self.inputs.drop_head(),
                Head::Exit(..) => return,
                Head::GoLive(min) => {
                    self.inputs.drop_head();
                    return self.go_live(min);
                }
                h => {
                    let what = h.name();
                    self.diverged(format_args!("the domain ends, the log has {what}"));
                }
            }
        }
    }

    fn follow_exit(&mut self, status: i32, digest: u64) {
        match self.await_head() {
            Head::Exit(s, d) if (s, d) == (status, digest) => self.inputs.drop_head(),
            Head::Exit(s, d) => self.diverged(format_args!(
                "ends with {status:#x} and digest {digest:016x}; the primary with {s:#x} and {d:016x}"
            )),
            Head::GoLive(min) => {
                self.inputs.drop_head();
                self.go_live(min);
                self.inputs.logged = self.inputs.point;
            }
            h => {
                let what = h.name();
                self.diverged(format_args!("the domain has ended, the log has {what}"));
            }
        }
    }

    /// The two hosts are not in lockstep any more: says how, and stops.
    pub fn diverged(&mut self, what: core::fmt::Arguments) -> ! {
        self.diverged_in(MemoryPart::default(), what)
    }

    /// The same, within a call of the current thread: it is the last of the history.
    pub fn diverged_in_call(&mut self, what: core::fmt::Arguments) -> ! {
        let t = self.threads.current;
        let call = self.threads.at(t).call;
        let (first, bytes) = ([0; FIRST_BYTES], 0);
        let number = self.noted + 1;
        let c = PastCall { number, digest: 0, thread: t as u16, call: call.number as u16, bytes, args: call.args, result: 0, first };
        self.inputs.note(&c);
        self.diverged(what)
    }

    /// The same, where it shows in memory.
    fn diverged_in(&mut self, memory: MemoryPart, what: core::fmt::Arguments) -> ! {
        let mut text = String::new();
        let _ = write!(text, "{what}");
        let thread = self.threads.loaded;
        let registers = if self.uc_if_any().is_some() { [reg::RIP, reg::RSP, reg::RBP].map(|r| self.regs_mut(thread)[r]) } else { [0; 3] };
        let scene = Disagreement {
            point: InputPoint(self.inputs.point),
            thread: thread as u16,
            registers,
            agreed: self.inputs.agreed,
            newest: self.noted,
            memory,
            disk_errno: match self.inputs.disk_failed {
                (number, errno) if number > self.inputs.agreed => errno,
                _ => 0,
            },
        };
        let act = FromGuest::Act(Act::Diverged { scene, text: text.as_bytes() });
        if self.process.domain == 0 && self.inputs.header().hold.at.load(Ordering::Relaxed) != 0 {
            self.inputs.channel.send(&act);
            self.hold();
        }
        // The engine looks at the process as it is, and ends it.
        loop {
            self.inputs.channel.ask(&act);
        }
    }

    /// `result`: of a call that each host makes on its own disk. Where a disk has failed it, the other host's may not: a primary
    /// waits for its engine to find out, and lets the other one go on before anything follows from the failure.
    pub fn look_at_disk(&mut self, result: i64) {
        let Some((errno, name)) = DISK_FAILURES.into_iter().find(|(errno, _)| -errno == result) else { return };
        let number = self.noted + 1;
        self.inputs.disk_failed = (number, errno as u16);
        let mut text = String::new();
        let _ = write!(text, "{} comes to {name}", table::name(self.threads.cur().call.number).unwrap_or("a call"));
        let act = Act::DiskFailed { number, text: text.as_bytes() };
        if self.inputs.is_primary() {
            self.ask(&act);
        } else {
            self.act(&act);
        }
    }

    /// The guest asked for what lockstep can't give; it gets an error, the operator a line.
    pub fn refuse(&mut self, what: &str, instead: &str) {
        let mut text = String::new();
        let _ = write!(text, "{what}: {instead}");
        self.act(&Act::Refused { text: text.as_bytes() });
    }

    pub fn refuse_number(&mut self, what: &str, number: u64) {
        let mut text = String::new();
        let _ = write!(text, "{what} {number:#x}: not supported in lockstep");
        self.act(&Act::Refused { text: text.as_bytes() });
    }
}

/// What a disk says that fails.
const DISK_FAILURES: [(i64, &str); 4] = [(raw::EIO, "EIO"), (raw::ENOSPC, "ENOSPC"), (raw::EUCLEAN, "EUCLEAN"), (raw::EDQUOT, "EDQUOT")];

/// How many pages are compared after so long. Whoever idles seldom catches up in larger steps, up to a bound.
fn slice_pages(elapsed_ns: u64) -> u64 {
    const PER_SECOND: u64 = 1024;
    const MAX: u64 = 256;
    (elapsed_ns / (1_000_000_000 / PER_SECOND)).clamp(1, MAX)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Poll,
    Idle,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Poll => "a polling",
            Self::Idle => "an idle",
        }
    }
}

impl Head {
    fn name(&self) -> String {
        match self {
            Self::Applied(a) => alloc::format!("inputs applied at point {}", a.point),
            Self::Passed(p) => alloc::format!("point {p} passed"),
            Self::Memory(p, ..) => alloc::format!("a memory hash at point {p}"),
            Self::GoLive(_) => String::from("its end"),
            Self::Exit(s, _) => alloc::format!("the domain's exit with {s:#x}"),
            Self::Recorded => String::from("a recorded result"),
            Self::Event => String::from("an event that no point has applied"),
        }
    }
}

fn take_direct_signals() -> u64 {
    if DIRECT_SIGNALS.load(Ordering::Relaxed) == 0 { 0 } else { DIRECT_SIGNALS.swap(0, Ordering::Relaxed) }
}

