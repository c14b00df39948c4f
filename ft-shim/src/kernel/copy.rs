//! Copies of the process, from which it can be made anew elsewhere.
//!
//! A copy is a fork that never runs: the engine reads its memory and registers and ends it. Memory is copied on write by
//! the kernel, so the guest goes on at once. A process that is made of what was read goes on where the fork returned, with
//! the same state, and follows the log from that input point on.

use super::Kernel;
use crate::raw::{self, nr};
use crate::trap::entry;
use core::sync::atomic::Ordering;
use ft_log::entry::Act;
use ft_log::ids::InputPoint;
use ft_log::shared::copy;

/// What an input point was for copies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The process goes on as before.
    IsOriginal,
    /// This process was made of a copy.
    IsCopy,
}

/// What `pause` returns in a process that was made of a copy: whoever makes it sets that. The kernel never does.
const GO_ON: i64 = 1;

impl Kernel {
    /// At an input point where the domain idles, before anything is applied there.
    pub fn copy_if_wanted(&mut self) -> Copied {
        let word = &self.inputs.header().copy;
        match word.load(Ordering::Acquire) {
            copy::WANTED if self.process.domain == 0 && !self.process.has_children() => self.copy(),
            copy::READ if self.process.domain == 0 => {
                self.reap_copy();
                word.store(copy::NONE, Ordering::Release);
                Copied::IsOriginal
            }
            _ => Copied::IsOriginal,
        }
    }

    fn copy(&mut self) -> Copied {
        // No signal at its end: it is none of the guest's children.
        // SAFETY: a plain fork; the child does nothing but wait, and uses nothing of the shared segment.
        let host = unsafe { raw!(nr::CLONE, 0, 0, 0, 0, 0) };
        if host == 0 {
            freeze();
            self.become_copy();
            return Copied::IsCopy;
        }
        self.copy_pid = host.max(0) as i32;
        self.inputs.header().copy.store(copy::MADE, Ordering::Release);
        let point = InputPoint(self.inputs.point());
        self.inputs.tell(Act::Copied { point, host_pid: self.copy_pid as u32 });
        Copied::IsOriginal
    }

    /// The engine has ended it.
    fn reap_copy(&mut self) {
        const WALL: u32 = 0x4000_0000;
        while self.copy_pid != 0 {
            // SAFETY: reaps our own child; no status is asked for.
            if unsafe { raw!(nr::WAIT4, self.copy_pid, 0, WALL, 0) } != -raw::EINTR {
                self.copy_pid = 0;
            }
        }
    }

    /// The first steps of a process made of a copy: what the kernel and the engine knew of the original is set anew.
    fn become_copy(&mut self) {
        entry::arm();
        self.inputs = self.inputs.of_copy();
        assert!(!self.inputs.is_primary(), "a copy follows a log");
        self.files.forget_disk();
    }
}

/// Until the end, or until somebody has made a process of this one.
fn freeze() {
    const PR_SET_PDEATHSIG: u32 = 1;
    // SAFETY: the copy must not outlive the original; and `pause` touches nothing.
    unsafe {
        raw!(nr::PRCTL, PR_SET_PDEATHSIG, 9);
        while raw!(nr::PAUSE) != GO_ON {}
    }
}
