//! Signals: actions, masks, pending signals, frames on the guest's stack. The kernel's own are never used for it.
//!
//! Delivered only when the shim returns to the guest, so at the same place on both hosts.

use super::threads::Block;
use super::{Args, Kernel, Outcome, Reply, done};
use crate::raw::{EAGAIN, EINTR, EINVAL, EPERM, ESRCH, ENOMEM, Timespec};
use crate::trap::frame::{SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SignalStack, UContext, reg};
use crate::user;
use alloc::vec::Vec;

pub const SIGNALS: usize = 64;
pub const SIGKILL: u32 = 9;
pub const SIGSEGV: u32 = 11;
pub const SIGPIPE: u32 = 13;
pub const SIGALRM: u32 = 14;
pub const SIGCHLD: u32 = 17;
const SIGSTOP: u32 = 19;
const SIGRT_MIN: u32 = 32;
/// Queued real-time signals a process may have; more are EAGAIN.
const QUEUE_MAX: usize = 4096;

pub const SI_USER: i32 = 0;
pub const SI_KERNEL: i32 = 128;
pub const SI_TIMER: i32 = -2;
pub const SI_TKILL: i32 = -6;

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;
const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_ONSTACK: u64 = 0x0800_0000;

pub const fn bit(signo: u32) -> u64 {
    1 << (signo - 1)
}

const UNBLOCKABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);

#[derive(Clone, Copy, Default)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// What the guest learns with a signal: the fields of siginfo that its code gives meaning to.
#[derive(Clone, Copy, Debug, Default)]
pub struct SigInfo {
    pub signo: u32,
    pub code: i32,
    /// pid and uid, or timer id and overrun.
    pub first: [u32; 2],
    /// Value, or child's status.
    pub value: u64,
}

impl SigInfo {
    pub fn bytes(&self) -> [u8; 128] {
        let mut b = [0; 128];
        b[0..4].copy_from_slice(&self.signo.to_le_bytes());
        b[8..12].copy_from_slice(&self.code.to_le_bytes());
        b[16..20].copy_from_slice(&self.first[0].to_le_bytes());
        b[20..24].copy_from_slice(&self.first[1].to_le_bytes());
        b[24..32].copy_from_slice(&self.value.to_le_bytes());
        b
    }

    fn from_bytes(b: &[u8; 128]) -> Self {
        let u = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        Self { signo: u(0), code: u(8) as i32, first: [u(16), u(20)], value: u64::from(u(24)) | u64::from(u(28)) << 32 }
    }
}

pub struct ThreadSignals {
    pub mask: u64,
    pub pending: Vec<SigInfo>,
    pub stack: SignalStack,
    /// The mask to go back to after a wait that changed it (sigsuspend, ppoll ...).
    pub saved_mask: Option<u64>,
}

impl Default for ThreadSignals {
    fn default() -> Self {
        let stack = SignalStack { flags: SS_DISABLE, ..SignalStack::default() };
        Self { mask: 0, pending: Vec::new(), stack, saved_mask: None }
    }
}

pub struct Signals {
    actions: [Action; SIGNALS + 1],
    pub pending: Vec<SigInfo>,
    /// Something may be pending somewhere: look before the guest goes on.
    look: bool,
}

impl Default for Signals {
    fn default() -> Self {
        Self { actions: [Action::default(); SIGNALS + 1], pending: Vec::new(), look: false }
    }
}

fn ignored_by_default(signo: u32) -> bool {
    // CHLD, CONT, URG, WINCH; and those that would stop the process: a service is not job-controlled.
    matches!(signo, 17 | 18 | 23 | 28 | 19..=22)
}

impl Signals {
    fn is_ignored(&self, signo: u32) -> bool {
        match self.actions[signo as usize].handler {
            SIG_IGN => true,
            SIG_DFL => ignored_by_default(signo),
            _ => false,
        }
    }

    /// With SIGCHLD ignored, children that end leave nothing behind.
    pub fn reaps_children(&self) -> bool {
        const SA_NOCLDWAIT: u64 = 2;
        let a = &self.actions[SIGCHLD as usize];
        a.handler == SIG_IGN || a.flags & SA_NOCLDWAIT != 0
    }

    pub fn clear_pending(&mut self) {
        self.pending.clear();
    }
}

impl Kernel {
    /// For the process: any thread that doesn't block it takes it.
    pub fn post_to_process(&mut self, info: SigInfo) {
        let open = self.threads.indices().find(|&t| self.threads.at(t).signal.mask & bit(info.signo) == 0);
        if (open.is_some() && self.signals.is_ignored(info.signo)) || !room(&self.signals.pending, &info) {
            return;
        }
        self.signals.pending.push(info);
        self.signals.look = true;
        self.changed = true; // who waits for signals looks again
        self.notify_signalfds();
        if let Some(t) = self.waiting_open_thread(info.signo).or(open) {
            self.interrupt(t, info.signo);
        }
    }

    /// For one thread.
    pub fn post_to_thread(&mut self, t: usize, info: SigInfo) {
        let open = self.threads.at(t).signal.mask & bit(info.signo) == 0;
        if (open && self.signals.is_ignored(info.signo)) || !room(&self.threads.at(t).signal.pending, &info) {
            return;
        }
        self.threads.at_mut(t).signal.pending.push(info);
        self.signals.look = true;
        self.changed = true;
        self.notify_signalfds();
        if open {
            self.interrupt(t, info.signo);
        }
    }

    /// A signal that came as an input.
    pub fn post_input(&mut self, signo: u32) {
        if signo == SIGKILL {
            self.terminate(SIGKILL as i32);
        }
        self.post_to_process(SigInfo { signo, code: SI_USER, ..SigInfo::default() });
    }

    /// Prefers a running thread, like the kernel does, else one that waits.
    fn waiting_open_thread(&self, signo: u32) -> Option<usize> {
        let mut open = self.threads.indices().filter(|&t| self.threads.at(t).signal.mask & bit(signo) == 0);
        let first = open.next()?;
        if self.threads.is_runnable(first) {
            return Some(first);
        }
        Some(open.find(|&t| self.threads.is_runnable(t)).unwrap_or(first))
    }

    /// Ends the wait of thread `t` for a signal that it will take.
    fn interrupt(&mut self, t: usize, signo: u32) {
        if self.threads.waits_for(t).is_none() {
            return;
        }
        let call = self.threads.at(t).call;
        const RT_SIGTIMEDWAIT: u32 = 128;
        if call.number == RT_SIGTIMEDWAIT && user::read::<u64>(call.args[0]).unwrap_or(0) & bit(signo) != 0 {
            return;
        }
        // What was done so far counts, in messages where the call counts those.
        if call.messages > 0 || call.progress > 0 {
            let done = if call.messages > 0 { call.messages } else { call.progress };
            return self.complete(t, done as i64);
        }
        let action = self.signals.actions[signo as usize];
        let handled = action.handler > SIG_IGN;
        if restartable(&call) && (!handled || action.flags & SA_RESTART != 0) {
            let r = self.regs_mut(t);
            r[reg::RAX] = u64::from(call.number);
            r[reg::RIP] -= 2; // the `syscall` instruction again, after the handler
            self.note_call(t, call.number as u16, call.args, -512);
            self.threads.finish(t);
            return;
        }
        super::clock::write_remaining(self, t);
        self.complete(t, -EINTR);
    }

    /// The mask of a wait that ended otherwise than by a signal.
    pub fn restore_wait_mask(&mut self, t: usize) {
        if self.regs_mut(t)[reg::RAX] as i64 == -EINTR {
            return; // the handler runs first; `deliver_signals` restores it
        }
        self.restore_saved_mask(t);
    }

    fn restore_saved_mask(&mut self, t: usize) {
        if let Some(m) = self.threads.at_mut(t).signal.saved_mask.take() {
            self.set_mask(t, m);
        }
    }

    /// A mask for the time of the current call's wait.
    pub fn set_wait_mask(&mut self, mask: u64) {
        let t = self.threads.current;
        let s = &mut self.threads.at_mut(t).signal;
        if s.saved_mask.is_none() {
            s.saved_mask = Some(s.mask);
            self.set_mask(t, mask);
        }
    }

    pub fn set_mask(&mut self, t: usize, mask: u64) {
        self.threads.at_mut(t).signal.mask = mask & !UNBLOCKABLE;
        self.signals.look = true;
    }

    /// A signal for thread `t` that it doesn't block is pending.
    pub fn has_deliverable(&self, t: usize) -> bool {
        let s = &self.threads.at(t).signal;
        let open = |i: &SigInfo| s.mask & bit(i.signo) == 0;
        s.pending.iter().any(open) || self.signals.pending.iter().any(open)
    }

    /// Takes the lowest pending signal of `set` for thread `t`.
    pub fn take_pending(&mut self, t: usize, set: u64) -> Option<SigInfo> {
        for own in [true, false] {
            let q = if own { &mut self.threads.at_mut(t).signal.pending } else { &mut self.signals.pending };
            let best = q.iter().enumerate().filter(|(_, i)| set & bit(i.signo) != 0).min_by_key(|(n, i)| (i.signo, *n));
            if let Some((n, _)) = best {
                return Some(q.remove(n));
            }
        }
        None
    }

    pub fn pending_set(&self, t: usize) -> u64 {
        let of = |q: &[SigInfo]| q.iter().fold(0, |m, i| m | bit(i.signo));
        of(&self.threads.at(t).signal.pending) | of(&self.signals.pending)
    }

    /// Before thread `t`, which is loaded, goes on in the guest.
    pub fn deliver_signals(&mut self, t: usize) {
        if !self.signals.look {
            return;
        }
        loop {
            let mask = self.threads.at(t).signal.mask;
            let Some(info) = self.take_pending(t, !mask) else { break };
            let action = self.signals.actions[info.signo as usize];
            match action.handler {
                SIG_IGN => {}
                SIG_DFL if ignored_by_default(info.signo) => {}
                SIG_DFL => self.terminate(info.signo as i32),
                _ => self.enter_handler(t, action, &info.bytes(), info.signo, false),
            }
        }
        self.restore_saved_mask(t);
        let any = !self.signals.pending.is_empty()
            || self.threads.indices().any(|t| !self.threads.at(t).signal.pending.is_empty());
        self.signals.look = any;
    }

    /// A fault of the loaded thread: its handler at once, or the end.
    pub fn force_fault(&mut self, signo: u32, info: &[u8; 128]) {
        let t = self.threads.loaded;
        let action = self.signals.actions[signo as usize];
        self.digest.word(0xfa17 << 32 | u64::from(signo));
        if action.handler <= SIG_IGN || self.threads.at(t).signal.mask & bit(signo) != 0 {
            self.terminate(signo as i32);
        }
        self.enter_handler(t, action, info, signo, true);
    }

    /// Builds the frame on the guest's stack, as the kernel would, and points the thread at the handler.
    fn enter_handler(&mut self, t: usize, action: Action, info: &[u8; 128], signo: u32, fault: bool) {
        assert!(t == self.threads.loaded);
        let stack = self.threads.at(t).signal.stack;
        let saved = self.threads.at_mut(t).signal.saved_mask.take();
        let mask = self.threads.at(t).signal.mask;
        let uc = self.uc();
        let xstate = uc.xstate().to_vec();
        let rsp = uc.regs[reg::RSP];
        let on_stack = on_stack(&stack, rsp);
        let top = if action.flags & SA_ONSTACK != 0 && stack.flags & SS_DISABLE == 0 && !on_stack {
            stack.sp + stack.size
        } else {
            rsp - 128
        };
        let fp = (top - xstate.len() as u64) & !63;
        const FRAME_BYTES: u64 = 8 + size_of::<UContext>() as u64 + 128;
        let frame = ((fp - FRAME_BYTES) & !15) - 8;
        let mut regs = uc.regs;
        if !fault {
            regs[reg::ERROR..=reg::CR2].fill(0);
        }
        regs[reg::OLDMASK] = mask;
        const FLAGS: u64 = 7; // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
        let mut b = Vec::with_capacity(FRAME_BYTES as usize);
        let mut put = |v: u64| b.extend_from_slice(&v.to_le_bytes());
        put(action.restorer);
        put(FLAGS);
        put(0);
        put(stack.sp);
        put(u64::from(stack.flags | if on_stack { SS_ONSTACK } else { 0 }));
        put(stack.size);
        regs.iter().for_each(|r| put(*r));
        put(fp);
        (0..8).for_each(|_| put(0));
        put(saved.unwrap_or(mask));
        b.extend_from_slice(info);
        if user::copy_out(fp, &xstate).and(user::copy_out(frame, &b)).is_err() {
            self.terminate(SIGSEGV as i32); // no room for the frame
        }
        let r = &mut self.uc().regs;
        r[reg::RDI] = signo.into();
        r[reg::RSI] = frame + 8 + size_of::<UContext>() as u64;
        r[reg::RDX] = frame + 8;
        r[reg::RAX] = 0;
        r[reg::RSP] = frame;
        r[reg::RIP] = action.handler;
        const DF_TF_RF: u64 = 0x400 | 0x100 | 0x1_0000;
        r[reg::EFLAGS] &= !DF_TF_RF;
        if stack.flags & SS_AUTODISARM != 0 {
            self.threads.at_mut(t).signal.stack = SignalStack { flags: SS_DISABLE, ..SignalStack::default() };
        }
        let own = if action.flags & SA_NODEFER == 0 { bit(signo) } else { 0 };
        self.set_mask(t, mask | action.mask | own);
        if action.flags & SA_RESETHAND != 0 {
            self.signals.actions[signo as usize].handler = SIG_DFL;
        }
        self.digest.word(0x516 << 32 | u64::from(signo));
    }
}

fn room(queue: &[SigInfo], info: &SigInfo) -> bool {
    if info.signo < SIGRT_MIN {
        queue.iter().all(|i| i.signo != info.signo)
    } else {
        queue.len() < QUEUE_MAX
    }
}

fn on_stack(s: &SignalStack, rsp: u64) -> bool {
    s.flags & (SS_DISABLE | SS_AUTODISARM) == 0 && rsp > s.sp && rsp - s.sp <= s.size
}

/// Calls that go on after a handler with SA_RESTART.
fn restartable(call: &super::threads::Call) -> bool {
    match call.number {
        // read write readv writev accept accept4 recvfrom sendto recvmsg sendmsg connect wait4 waitid open flock fcntl
        0 | 1 | 19 | 20 | 42 | 43 | 44 | 45 | 46 | 47 | 288 | 61 | 247 | 257 | 73 | 72 | 299 | 307 => call.deadline.is_none(),
        202 => call.deadline.is_none(), // futex without timeout
        _ => false,
    }
}

pub fn rt_sigaction(k: &mut Kernel, a: &Args) -> Reply {
    let signo = a[0] as u32;
    if !(1..=SIGNALS as u32).contains(&signo) || a[3] != 8 {
        return Err(EINVAL);
    }
    let old = k.signals.actions[signo as usize];
    if a[1] != 0 {
        if UNBLOCKABLE & bit(signo) != 0 {
            return Err(EINVAL);
        }
        let [handler, flags, restorer, mask] = user::read::<[u64; 4]>(a[1])?;
        k.signals.actions[signo as usize] = Action { handler, flags, restorer, mask: mask & !UNBLOCKABLE };
        if k.signals.is_ignored(signo) {
            k.signals.pending.retain(|i| i.signo != signo);
            for t in k.threads.indices().collect::<Vec<_>>() {
                k.threads.at_mut(t).signal.pending.retain(|i| i.signo != signo);
            }
        }
    }
    if a[2] != 0 {
        user::write(a[2], &[old.handler, old.flags, old.restorer, old.mask])?;
    }
    done(0)
}

pub fn rt_sigprocmask(k: &mut Kernel, a: &Args) -> Reply {
    if a[3] != 8 {
        return Err(EINVAL);
    }
    let t = k.threads.current;
    let old = k.threads.at(t).signal.mask;
    if a[1] != 0 {
        let set = user::read::<u64>(a[1])?;
        let new = match a[0] {
            0 => old | set,
            1 => old & !set,
            2 => set,
            _ => return Err(EINVAL),
        };
        k.set_mask(t, new);
    }
    if a[2] != 0 {
        user::write(a[2], &old)?;
    }
    done(0)
}

pub fn rt_sigpending(k: &mut Kernel, a: &Args) -> Reply {
    let t = k.threads.current;
    let set = k.pending_set(t) & k.threads.at(t).signal.mask;
    user::copy_out(a[0], &set.to_le_bytes()[..(a[1] as usize).min(8)])?;
    done(0)
}

pub fn rt_sigsuspend(k: &mut Kernel, a: &Args) -> Reply {
    if !k.threads.cur().call.again {
        let mask = user::read::<u64>(a[0])?;
        k.set_wait_mask(mask);
    }
    wait_for_signal(k)
}

pub fn pause(k: &mut Kernel, _: &Args) -> Reply {
    wait_for_signal(k)
}

fn wait_for_signal(k: &mut Kernel) -> Reply {
    if k.has_deliverable(k.threads.current) {
        return Err(EINTR);
    }
    Ok(Outcome::Block(Block::Object))
}

pub fn rt_sigtimedwait(k: &mut Kernel, a: &Args) -> Reply {
    let set = user::read::<u64>(a[0])? & !UNBLOCKABLE;
    let deadline = if a[2] != 0 {
        let ns = user::read::<Timespec>(a[2])?.to_ns().ok_or(EINVAL)?;
        Some(k.relative_deadline(ns))
    } else {
        None
    };
    let t = k.threads.current;
    if let Some(info) = k.take_pending(t, set) {
        if a[1] != 0 {
            user::copy_out(a[1], &info.bytes())?;
        }
        return done(info.signo.into());
    }
    if k.has_deliverable(t) {
        return Err(EINTR);
    }
    if deadline.is_some_and(|d| d <= k.clock.now()) {
        return Err(EAGAIN);
    }
    Ok(Outcome::Block(Block::Object))
}

pub fn rt_sigreturn(k: &mut Kernel, _: &Args) -> Reply {
    let t = k.threads.current;
    assert!(t == k.threads.loaded);
    let at = k.uc().regs[reg::RSP];
    let mut b = [0u8; size_of::<UContext>()];
    if user::copy_in(&mut b, at).is_err() {
        k.terminate(SIGSEGV as i32);
    }
    let word = |i: usize| u64::from_le_bytes(b[i * 8..i * 8 + 8].try_into().expect("8 bytes"));
    let stack = SignalStack { sp: word(2), flags: word(3) as u32 & !SS_ONSTACK, pad: 0, size: word(4) };
    let fp = word(5 + 23);
    let mask = word(5 + 23 + 1 + 8);
    let uc = k.uc();
    for i in 0..reg::CONTEXT {
        uc.regs[i] = word(5 + i);
    }
    // What a program may set of the flags; the rest stays.
    const USER_FLAGS: u64 = 0x4_0dd5;
    uc.regs[reg::EFLAGS] = (uc.regs[reg::EFLAGS] & USER_FLAGS) | 0x202;
    if fp != 0 {
        let mut x = uc.xstate().to_vec();
        let keep: [u8; 48] = x[464..512].try_into().expect("48 bytes");
        let mut own = alloc::vec![0u8; x.len()];
        if user::copy_in(&mut own, fp).is_err() {
            k.terminate(SIGSEGV as i32);
        }
        // A frame in the same format as ours: all of it; else only the legacy part.
        let n = if own[464..484] == keep[..20] { x.len() } else { 464 };
        x[..n].copy_from_slice(&own[..n]);
        x[464..512].copy_from_slice(&keep);
        if !is_restorable(&x) {
            k.terminate(SIGSEGV as i32);
        }
        k.uc().set_xstate(&x);
    }
    k.threads.at_mut(t).signal.stack = stack;
    k.set_mask(t, mask);
    k.note_call(t, 15, [0; 6], 0);
    k.threads.finish(t);
    Ok(Outcome::Gone)
}

/// Will the processor take this extended state? Reserved bits in it are a fault.
fn is_restorable(x: &[u8]) -> bool {
    const MXCSR: core::ops::Range<usize> = 24..28;
    const MXCSR_RESERVED: u32 = 0xffff_0000;
    const COMPONENTS: usize = 472;
    const HEADER: core::ops::Range<usize> = 512..576;
    let word = |at: usize| u64::from_le_bytes(x[at..at + 8].try_into().expect("8 bytes"));
    let mxcsr = u32::from_le_bytes(x[MXCSR].try_into().expect("4 bytes"));
    mxcsr & MXCSR_RESERVED == 0
        && (x.len() < HEADER.end
            || (word(HEADER.start) & !word(COMPONENTS) == 0 && x[HEADER][8..].iter().all(|b| *b == 0)))
}

pub fn sigaltstack(k: &mut Kernel, a: &Args) -> Reply {
    let t = k.threads.current;
    let rsp = k.regs_mut(t)[reg::RSP];
    let s = &mut k.threads.at_mut(t).signal;
    let old = s.stack;
    let on = on_stack(&old, rsp);
    let new = if a[0] != 0 { Some(user::read::<[u64; 3]>(a[0])?) } else { None };
    if a[1] != 0 {
        let flags = old.flags | if on { SS_ONSTACK } else { 0 };
        user::write(a[1], &[old.sp, flags.into(), old.size])?;
    }
    if let Some([sp, flags, size]) = new {
        const MIN_BYTES: u64 = 2048;
        if on {
            return Err(EPERM);
        }
        let flags = flags as u32 & !SS_ONSTACK;
        if flags & SS_DISABLE != 0 {
            s.stack = SignalStack { flags: SS_DISABLE, ..SignalStack::default() };
        } else if flags & !SS_AUTODISARM != 0 {
            return Err(EINVAL);
        } else if size < MIN_BYTES {
            return Err(ENOMEM);
        } else {
            s.stack = SignalStack { sp, flags, pad: 0, size };
        }
    }
    done(0)
}

fn user_info(k: &Kernel, signo: u32, code: i32) -> SigInfo {
    SigInfo { signo, code, first: [k.process.pid as u32, super::process::uid()], value: 0 }
}

fn check(signo: u64) -> Result<u32, i64> {
    let s = signo as u32;
    if s as usize > SIGNALS { Err(EINVAL) } else { Ok(s) }
}

pub fn kill(k: &mut Kernel, a: &Args) -> Reply {
    let signo = check(a[1])?;
    let pid = a[0] as i32;
    let mine = pid == k.process.pid || pid == 0 || pid == -1 || pid == -k.process.pgid;
    if mine {
        if signo != 0 && pid != -1 {
            let info = user_info(k, signo, SI_USER);
            post(k, None, info);
        }
        return done(0);
    }
    let Some(child) = k.process.child_by_pid(pid.abs()) else { return Err(ESRCH) };
    if signo != 0 && child.status.is_none() {
        let domain = child.domain;
        k.act(&ft_log::entry::Act::Kill { domain, signo: signo as u8 });
    }
    done(0)
}

fn post(k: &mut Kernel, thread: Option<usize>, info: SigInfo) {
    if info.signo == SIGKILL {
        k.terminate(SIGKILL as i32);
    }
    match thread {
        Some(t) => k.post_to_thread(t, info),
        None => k.post_to_process(info),
    }
}

pub fn tkill(k: &mut Kernel, a: &Args) -> Reply {
    if a[0] as i32 <= 0 {
        return Err(EINVAL);
    }
    to_thread(k, a[0] as i32, a[1])
}

pub fn tgkill(k: &mut Kernel, a: &Args) -> Reply {
    if a[0] as i32 <= 0 || a[1] as i32 <= 0 {
        return Err(EINVAL);
    }
    if a[0] as i32 != k.process.pid {
        return Err(ESRCH);
    }
    to_thread(k, a[1] as i32, a[2])
}

fn to_thread(k: &mut Kernel, tid: i32, signo: u64) -> Reply {
    let signo = check(signo)?;
    let t = k.threads.by_tid(tid).ok_or(ESRCH)?;
    if signo != 0 {
        let info = user_info(k, signo, SI_TKILL);
        post(k, Some(t), info);
    }
    done(0)
}

pub fn rt_sigqueueinfo(k: &mut Kernel, a: &Args) -> Reply {
    queue_info(k, a[0] as i32, None, a[1], a[2])
}

pub fn rt_tgsigqueueinfo(k: &mut Kernel, a: &Args) -> Reply {
    queue_info(k, a[0] as i32, Some(a[1] as i32), a[2], a[3])
}

fn queue_info(k: &mut Kernel, pid: i32, tid: Option<i32>, signo: u64, at: u64) -> Reply {
    let signo = check(signo)?;
    if pid != k.process.pid {
        return Err(ESRCH);
    }
    let thread = match tid {
        Some(t) => Some(k.threads.by_tid(t).ok_or(ESRCH)?),
        None => None,
    };
    let mut b = [0u8; 128];
    user::copy_in(&mut b, at)?;
    if signo != 0 {
        let info = SigInfo { signo, ..SigInfo::from_bytes(&b) };
        post(k, thread, info);
    }
    done(0)
}
