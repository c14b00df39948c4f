//! The deterministic kernel: its state, and what happens between a call and the return to the guest.
//!
//! Everything here is a function of the guest's own calls and of what [`crate::inputs`] applies. Each kind of
//! object has one file with the same parts in the same order: state, operations, readiness.

pub mod both;
pub mod clock;
pub mod copy;
pub mod cpuid;
pub mod epoll;
pub mod eventfd;
pub mod fds;
pub mod files;
pub mod futex;
pub mod inner;
pub mod locks;
pub mod memory;
pub mod mute;
pub mod pipe;
pub mod poll;
pub mod process;
pub mod replaced;
pub mod signal;
pub mod signalfd;
pub mod sites;
pub mod slab;
pub mod socket;
pub mod threads;
pub mod timerfd;
pub mod timers;
pub mod transfer;
pub mod values;

use crate::channel;
use crate::digest::{Digest, Taken};
use crate::inputs::Inputs;
use crate::table;
use crate::trap::frame::{UContext, reg};
use core::cell::UnsafeCell;
use ft_log::entry::Act;
use ft_log::history::PastCall;
use ft_log::shared::{GUEST_FDS_MAX, flag};

pub type Args = [u64; 6];

/// What a call came to.
pub enum Outcome {
    Done(i64),
    /// The thread waits; the call is tried again when something changed, or completed by who wakes it.
    Block(threads::Block),
    /// The thread's registers were set by the call, or the thread is no more.
    Gone,
}

/// An error is an errno.
pub type Reply = Result<Outcome, i64>;

pub fn done(v: i64) -> Reply {
    Ok(Outcome::Done(v))
}

/// Calls a thread makes before others get their turn, and before the domain looks outside even if it never waits.
const QUANTUM_CALLS: u32 = 256;
pub struct Kernel {
    pub inputs: Inputs,
    pub digest: Digest,
    pub clock: clock::Clock,
    pub threads: threads::Threads,
    pub signals: signal::Signals,
    pub timers: timers::Timers,
    pub fds: fds::Fds,
    pub pipes: pipe::Pipes,
    pub net: socket::Net,
    pub files: files::Files,
    pub memory: memory::Memory,
    pub sites: sites::Sites,
    pub new_text: cpuid::NewText,
    pub process: process::Process,
    /// The copy of this process that was made last, 0 once it was reaped.
    copy_pid: i32,
    /// The engine may be copying files since: see [`replaced`].
    pub tells_changes: bool,
    /// An object changed: calls that wait for one are worth another try.
    pub changed: bool,
    /// The context that the kernel will return to.
    uc: *mut UContext,
    slice_calls: u32,
    /// The current thread gives up its turn.
    yielded: bool,
    pub calls: u64,
    /// Calls that came to their end, as they are numbered in the history.
    pub noted: u64,
    pub tracing: bool,
    counting: bool,
}

struct Cell(UnsafeCell<Option<Kernel>>);
// SAFETY: one kernel thread, never re-entered (law 2).
unsafe impl Sync for Cell {}
static KERNEL: Cell = Cell(UnsafeCell::new(None));

/// The shim's state, for a handler.
pub fn with<R>(f: impl FnOnce(&mut Kernel) -> R) -> R {
    // SAFETY: handlers don't nest while they hold it: asynchronous signals are blocked, and a fault inside the
    // shim never comes here (it is a fixup or an assertion).
    let k = unsafe { &mut *KERNEL.0.get() };
    f(k.as_mut().expect("shim used before boot"))
}

/// First thing in a guest.
pub fn boot() {
    let header = channel::segment().header();
    assert!(header.magic == ft_log::shared::MAGIC && header.version == ft_log::shared::VERSION, "shared segment");
    let flags = header.flags.load(core::sync::atomic::Ordering::Relaxed);
    let mut kernel = Kernel {
        inputs: Inputs::open(0),
        digest: Digest::new(header.seed),
        clock: clock::Clock::default(),
        threads: threads::Threads::new(header.guest_pid as i32),
        signals: signal::Signals::default(),
        timers: timers::Timers::default(),
        fds: fds::Fds::new(),
        pipes: pipe::Pipes::default(),
        net: socket::Net::default(),
        files: files::Files::default(),
        memory: memory::Memory::new(header),
        sites: sites::Sites::default(),
        new_text: cpuid::NewText::of(header),
        process: process::Process::new(header.guest_pid as i32),
        copy_pid: 0,
        tells_changes: false,
        changed: false,
        uc: core::ptr::null_mut(),
        slice_calls: 0,
        yielded: false,
        calls: 0,
        noted: 0,
        tracing: flags & flag::TRACE != 0,
        counting: flags & flag::CENSUS != 0,
    };
    const _: () = assert!(GUEST_FDS_MAX < ft_log::shared::DOORBELL_FD as u32);
    // The first input point gives the first clock sample.
    kernel.poll_point(true);
    kernel.clock.note_idle(0);
    // SAFETY: nothing runs yet but this.
    unsafe { *KERNEL.0.get() = Some(kernel) };
}

impl Kernel {
    /// One call, to the return into the guest.
    pub fn on_call(&mut self, uc: &mut UContext, number: u32, args: Args) {
        self.uc = uc;
        if !self.new_text.is_empty() && number != crate::raw::nr::MMAP as u32 {
            self.replace_cpuid();
        }
        let t = self.threads.loaded;
        self.threads.begin_call(t, number, args);
        self.calls += 1;
        self.slice_calls += 1;
        if self.counting && (number as usize) < ft_log::shared::CALLS_MAX {
            channel::segment().header().census[number as usize].fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
        self.attempt(t);
        let mut rotate = core::mem::take(&mut self.yielded);
        if self.slice_calls >= QUANTUM_CALLS {
            self.poll_point(false);
            rotate = true;
        }
        self.go_on(rotate);
        self.land();
    }

    /// A fault that is the guest's own.
    pub fn on_guest_fault(&mut self, uc: &mut UContext, signo: u32, info: &[u8; 128]) {
        self.uc = uc;
        self.threads.current = self.threads.loaded;
        self.force_fault(signo, info);
        self.go_on(false);
        self.land();
    }

    /// The time stamp counter, as the guest sees it: the coherent clock in nanoseconds.
    pub fn read_time_stamp(&mut self) -> u64 {
        self.read_clock()
    }

    /// Runs the row of thread `t`'s call, for the first time or again.
    pub fn attempt(&mut self, t: usize) {
        let before = core::mem::replace(&mut self.threads.current, t);
        self.threads.finish(t);
        let call = self.threads.at(t).call;
        let reply = table::run(self, call.number, &call.args);
        match reply {
            Ok(Outcome::Done(v)) => self.complete(t, v),
            Err(e) => self.complete(t, -e),
            Ok(Outcome::Block(b)) => self.threads.block(t, b),
            Ok(Outcome::Gone) => {}
        }
        self.threads.current = before;
    }

    /// The call of thread `t` has its result.
    pub fn complete(&mut self, t: usize, result: i64) {
        let call = self.threads.at(t).call;
        self.note_call(t, call.number as u16, call.args, result);
        self.regs_mut(t)[reg::RAX] = result as u64;
        self.threads.finish(t);
        self.restore_wait_mask(t);
    }

    /// Digest, history, trace.
    pub fn note_call(&mut self, t: usize, call: u16, args: Args, result: i64) {
        self.digest.word(u64::from(call) | (t as u64) << 16);
        for a in &args[..table::arity(call)] {
            self.digest.word(*a);
        }
        self.digest.word(result as u64);
        self.noted += 1;
        let Taken { bytes, first } = self.digest.take_taken();
        let digest = self.digest.value;
        self.inputs.note(&PastCall { number: self.noted, digest, thread: t as u16, call, bytes, args, result, first });
        if self.tracing {
            self.act(&Act::Trace { thread: t as u16, call, args, result, digest });
        }
    }

    /// The current thread lets others run first.
    pub fn yield_now(&mut self) {
        self.yielded = true;
    }

    /// The registers of thread `t`, wherever they are.
    pub fn regs_mut(&mut self, t: usize) -> &mut [u64] {
        if t == self.threads.loaded {
            &mut self.uc().regs
        } else {
            &mut self.threads.at_mut(t).context.regs
        }
    }

    pub fn uc(&mut self) -> &mut UContext {
        self.uc_if_any().expect("a handler runs")
    }

    /// `None`: the guest has not run yet.
    pub fn uc_if_any(&mut self) -> Option<&mut UContext> {
        // SAFETY: null, or set by the handler that is running; the kernel's frame lives until it returns.
        unsafe { self.uc.as_mut() }
    }

    /// Chooses who runs next and makes its registers the ones to return to.
    fn go_on(&mut self, mut rotate: bool) {
        loop {
            if rotate || !self.threads.is_runnable(self.threads.loaded) {
                self.retry_waiting();
                self.slice_calls = 0;
            }
            match self.threads.pick(rotate) {
                Some(next) => {
                    rotate = false;
                    self.load_thread(next);
                    self.deliver_signals(next);
                    if self.threads.is_runnable(next) && next == self.threads.loaded {
                        return;
                    }
                }
                None => {
                    rotate = false;
                    let before = self.clock.now();
                    self.idle();
                    self.clock.note_idle(before);
                }
            }
        }
    }

    fn load_thread(&mut self, next: usize) {
        let old = self.threads.loaded;
        if old == next {
            return;
        }
        // SAFETY: as in `uc`; a raw copy so that the thread table can be borrowed beside it.
        let uc = unsafe { &mut *self.uc };
        let ran_ns = self.clock.charge();
        if self.threads.exists(old) {
            let t = self.threads.at_mut(old);
            t.cpu_ns += ran_ns;
            t.context.save(uc);
        }
        self.threads.at(next).context.load(uc);
        self.threads.loaded = next;
    }

    /// Tries again what waits for objects, if one changed, and what waits for a time that has come.
    fn retry_waiting(&mut self) {
        // A retry can change objects in turn (a pipe read frees space): bounded by the work there is.
        loop {
            let changed = core::mem::take(&mut self.changed);
            let now = self.clock.now();
            let mut any = false;
            for t in 0..self.threads.len() {
                match self.threads.due(t, changed, now) {
                    threads::Due::No => {}
                    threads::Due::Retry => {
                        any = true;
                        self.attempt(t);
                    }
                    threads::Due::TimedOut => {
                        any = true;
                        self.complete(t, -crate::raw::ETIMEDOUT);
                    }
                }
            }
            if !any || !self.changed {
                return;
            }
        }
    }
}
