//! All threads of the guest process as contexts on one kernel thread: who exists, who runs, who waits for what.
//!
//! The rule is deterministic: a thread runs until its call waits or a quantum of calls ends, then the next
//! runnable one in order of creation slots.

use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EAGAIN, EINVAL, ENOSYS, nr};
use crate::trap::frame::{Context, SS_DISABLE, SignalStack, reg};
use crate::user;
use alloc::vec::Vec;

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;
/// More threads than that: EAGAIN, as a process limit would say.
pub const THREADS_MAX: usize = 4096;

/// What a waiting thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// An object, or the call's deadline: the row is run again when an object changed or the time has come.
    Object,
    /// A wake of this futex word; the waker completes the call. At the deadline: ETIMEDOUT.
    Futex { address: u64, bits: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runnable,
    Waiting(Block),
}

/// The call a thread is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub number: u32,
    pub args: Args,
    /// When the wait ends by itself; set by the row the first time it runs.
    pub deadline: Option<u64>,
    /// Bytes done so far by a call that may be done in parts.
    pub progress: usize,
    /// Messages done so far by a call that does many.
    pub messages: usize,
    /// The row has run before.
    pub again: bool,
}

pub struct Thread {
    pub tid: i32,
    state: State,
    pub context: Context,
    pub call: Call,
    /// Cleared and woken when the thread ends.
    pub clear_tid: u64,
    pub robust_list: u64,
    pub signal: super::signal::ThreadSignals,
    pub name: [u8; 16],
    /// Processor time charged to it.
    pub cpu_ns: u64,
}

pub struct Threads {
    slots: Vec<Option<Thread>>,
    /// Whose registers the kernel will return to.
    pub loaded: usize,
    /// Whose call is being worked on.
    pub current: usize,
    pub next_tid: i32,
}

pub enum Due {
    No,
    Retry,
    TimedOut,
}

impl Threads {
    pub fn new(pid: i32) -> Self {
        let mut first = Thread::new(pid);
        first.name = program_name();
        Self { slots: alloc::vec![Some(first)], loaded: 0, current: 0, next_tid: pid + 1 }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn count(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub fn exists(&self, t: usize) -> bool {
        self.slots.get(t).is_some_and(Option::is_some)
    }

    pub fn at(&self, t: usize) -> &Thread {
        self.slots[t].as_ref().expect("thread exists")
    }

    pub fn at_mut(&mut self, t: usize) -> &mut Thread {
        self.slots[t].as_mut().expect("thread exists")
    }

    pub fn cur(&mut self) -> &mut Thread {
        self.at_mut(self.current)
    }

    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(|&t| self.exists(t))
    }

    pub fn by_tid(&self, tid: i32) -> Option<usize> {
        self.indices().find(|&t| self.at(t).tid == tid)
    }

    pub fn begin_call(&mut self, t: usize, number: u32, args: Args) {
        self.at_mut(t).call = Call { number, args, ..Call::default() };
    }

    pub fn is_runnable(&self, t: usize) -> bool {
        self.exists(t) && self.at(t).state == State::Runnable
    }

    pub fn waits_for(&self, t: usize) -> Option<Block> {
        match self.at(t).state {
            State::Waiting(b) => Some(b),
            State::Runnable => None,
        }
    }

    pub fn block(&mut self, t: usize, b: Block) {
        let th = self.at_mut(t);
        th.state = State::Waiting(b);
        th.call.again = true;
    }

    pub fn finish(&mut self, t: usize) {
        self.at_mut(t).state = State::Runnable;
    }

    /// Moves a futex waiter to another word.
    pub fn requeue(&mut self, t: usize, to: u64) {
        if let State::Waiting(Block::Futex { address, .. }) = &mut self.at_mut(t).state {
            *address = to;
        }
    }

    pub fn due(&self, t: usize, changed: bool, now: u64) -> Due {
        let Some(th) = self.slots[t].as_ref() else { return Due::No };
        let late = th.call.deadline.is_some_and(|d| d <= now);
        match th.state {
            State::Waiting(Block::Object) if changed || late => Due::Retry,
            State::Waiting(Block::Futex { .. }) if late => Due::TimedOut,
            _ => Due::No,
        }
    }

    /// The earliest time at which a waiting thread goes on by itself.
    pub fn next_deadline(&self) -> u64 {
        let waiting = self.slots.iter().flatten().filter(|t| t.state != State::Runnable);
        waiting.filter_map(|t| t.call.deadline).min().unwrap_or(NEVER)
    }

    /// The loaded thread if it can go on and needn't let others; else the next in order.
    pub fn pick(&self, rotate: bool) -> Option<usize> {
        if !rotate && self.is_runnable(self.loaded) {
            return Some(self.loaded);
        }
        let n = self.slots.len();
        (1..=n).map(|i| (self.loaded + i) % n).find(|&t| self.is_runnable(t))
    }

    fn insert(&mut self, t: Thread) -> usize {
        match self.slots.iter().position(Option::is_none) {
            Some(i) => {
                self.slots[i] = Some(t);
                i
            }
            None => {
                self.slots.push(Some(t));
                self.slots.len() - 1
            }
        }
    }

    /// In a fork child: the caller is the only thread, under a new id.
    pub fn keep_only_current(&mut self, tid: i32) {
        let keep = self.current;
        for (i, s) in self.slots.iter_mut().enumerate() {
            if i != keep {
                *s = None;
            }
        }
        let t = self.at_mut(keep);
        t.tid = tid;
        t.clear_tid = 0;
        t.robust_list = 0;
        self.loaded = keep;
        self.next_tid = tid + 1;
    }
}

impl Thread {
    /// As much of `name` as the kernel keeps.
    pub fn set_name(&mut self, name: &[u8]) {
        const NAME_BYTES_MAX: usize = 15;
        let n = name.len().min(NAME_BYTES_MAX);
        self.name = [0; 16];
        self.name[..n].copy_from_slice(&name[..n]);
    }

    fn new(tid: i32) -> Self {
        Self {
            tid,
            state: State::Runnable,
            context: Context::default(),
            call: Call::default(),
            clear_tid: 0,
            robust_list: 0,
            signal: super::signal::ThreadSignals::default(),
            name: [0; 16],
            cpu_ns: 0,
        }
    }
}

/// What exec called the process: the program's file name, so the same on both hosts.
fn program_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    const PR_GET_NAME: u32 = 16;
    // SAFETY: fills 16 bytes.
    unsafe { raw!(nr::PRCTL, PR_GET_NAME, name.as_mut_ptr() as u64) };
    name
}

pub mod clone_flag {
    pub const VM: u64 = 0x100;
    pub const SIGHAND: u64 = 0x800;
    pub const VFORK: u64 = 0x4000;
    pub const THREAD: u64 = 0x1_0000;
    pub const SETTLS: u64 = 0x8_0000;
    pub const PARENT_SETTID: u64 = 0x10_0000;
    pub const CHILD_CLEARTID: u64 = 0x20_0000;
    pub const CHILD_SETTID: u64 = 0x100_0000;
}

pub fn clone(k: &mut Kernel, a: &Args) -> Reply {
    let [flags, stack, parent_tid, child_tid, tls, _] = *a;
    if flags & clone_flag::THREAD == 0 {
        return super::process::fork(k, flags, stack, parent_tid, child_tid, tls);
    }
    if flags & (clone_flag::VM | clone_flag::SIGHAND) != clone_flag::VM | clone_flag::SIGHAND {
        return Err(EINVAL);
    }
    if k.threads.count() >= THREADS_MAX {
        return Err(EAGAIN);
    }
    let tid = k.new_id();
    let me = k.threads.current;
    assert!(me == k.threads.loaded, "clone is never retried");
    let mut child = Thread::new(tid);
    child.context.save(k.uc());
    child.context.regs[reg::RAX] = 0;
    child.context.regs[reg::RSP] = stack;
    if flags & clone_flag::SETTLS != 0 {
        child.context.fs_base = tls;
    }
    if flags & clone_flag::CHILD_CLEARTID != 0 {
        child.clear_tid = child_tid;
    }
    child.signal.mask = k.threads.at(me).signal.mask;
    child.name = k.threads.at(me).name;
    child.signal.stack = SignalStack { flags: SS_DISABLE, ..SignalStack::default() };
    if flags & clone_flag::PARENT_SETTID != 0 {
        user::write(parent_tid, &tid)?;
    }
    if flags & clone_flag::CHILD_SETTID != 0 {
        user::write(child_tid, &tid)?;
    }
    k.threads.insert(child);
    done(tid.into())
}

pub fn clone3(_: &mut Kernel, _: &Args) -> Reply {
    Err(ENOSYS) // glibc falls back to clone
}

pub fn exit(k: &mut Kernel, a: &Args) -> Reply {
    if k.threads.count() == 1 {
        k.terminate((a[0] as i32 & 0xff) << 8);
    }
    let me = k.threads.current;
    k.note_call(me, 60, *a, 0);
    super::futex::release_robust_list(k, me);
    let word = k.threads.at(me).clear_tid;
    if word != 0 && user::write(word, &0u32).is_ok() {
        k.futex_wake(word, 1, u32::MAX);
    }
    k.threads.slots[me] = None;
    Ok(Outcome::Gone)
}

pub fn set_tid_address(k: &mut Kernel, a: &Args) -> Reply {
    let t = k.threads.cur();
    t.clear_tid = a[0];
    done(t.tid.into())
}

pub fn set_robust_list(k: &mut Kernel, a: &Args) -> Reply {
    if a[1] != 24 {
        return Err(EINVAL);
    }
    k.threads.cur().robust_list = a[0];
    done(0)
}

pub fn gettid(k: &mut Kernel, _: &Args) -> Reply {
    done(k.threads.cur().tid.into())
}

pub fn sched_yield(k: &mut Kernel, _: &Args) -> Reply {
    // A loop of yields waits for something: let time and the outside in, then the others.
    k.poll_point(false);
    k.yield_now();
    done(0)
}

pub fn arch_prctl(_: &mut Kernel, a: &Args) -> Reply {
    use crate::trap::frame;
    match a[0] {
        0x1001 => frame::set_gs_base(a[1]),
        0x1002 => frame::set_fs_base(a[1]),
        0x1003 => user::write(a[1], &frame::fs_base())?,
        0x1004 => user::write(a[1], &frame::gs_base())?,
        _ => return Err(EINVAL), // cpuid faulting, shadow stacks, AMX permission
    }
    done(0)
}

impl Kernel {
    /// The next process or thread id of this domain.
    pub fn new_id(&mut self) -> i32 {
        let id = self.threads.next_tid;
        self.threads.next_tid += 1;
        id
    }
}
