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
use ft_log::shared::{copy, files, moved};

/// What an input point was for copies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The process goes on as before.
    IsOriginal,
    /// This process was made of a copy.
    IsCopy,
}

impl Kernel {
    /// At an input point where the domain idles, before anything is applied there.
    pub fn copy_if_wanted(&mut self) -> Copied {
        let word = &self.inputs.header().copy;
        match word.load(Ordering::Acquire) {
            copy::WANTED if self.process.domain == 0 && !self.process.has_children() => self.copy(),
            copy::READ if self.process.domain == 0 => {
                if self.reap_copy() {
                    word.store(copy::NONE, Ordering::Release);
                }
                Copied::IsOriginal
            }
            _ => Copied::IsOriginal,
        }
    }

    fn copy(&mut self) -> Copied {
        self.note_places();
        // No signal at its end: it is none of the guest's children.
        // SAFETY: a plain fork; the child does nothing but wait, and uses nothing of the shared segment.
        let host = unsafe { raw!(nr::CLONE, 0, 0, 0, 0, 0) };
        if host == 0 {
            let moved = freeze();
            self.become_copy(moved);
            return Copied::IsCopy;
        }
        self.copy_pid = host.max(0) as i32;
        if host > 0 {
            self.tells_changes = true;
            self.inputs.header().files.store(files::LISTED, Ordering::Release);
        }
        self.inputs.header().copy.store(copy::MADE, Ordering::Release);
        let point = InputPoint(self.inputs.point());
        self.inputs.tell(Act::Copied { point, host_pid: self.copy_pid as u32 });
        Copied::IsOriginal
    }

    /// The engine has ended it. False: it is not gone yet; to give back a large memory takes a while, in which the guest must not wait.
    fn reap_copy(&mut self) -> bool {
        const WALL: u32 = 0x4000_0000;
        const WNOHANG: u32 = 1;
        if self.copy_pid != 0 {
            // SAFETY: reaps our own child; no status is asked for.
            let r = unsafe { raw!(nr::WAIT4, self.copy_pid, 0, WALL | WNOHANG, 0) };
            if r == 0 || r == -raw::EINTR {
                return false;
            }
            self.copy_pid = 0;
        }
        true
    }

    /// The first steps of a process made of a copy: what the kernel and the engine knew of the original is set anew.
    fn become_copy(&mut self, moved: u64) {
        entry::arm();
        self.inputs = self.inputs.of_copy();
        assert!(!self.inputs.is_primary(), "a copy follows a log");
        self.return_to_places();
        // SAFETY: whoever made this process put the table there.
        let table = unsafe { moved::read(moved) };
        self.files.change_disk(table);
        // SAFETY: nobody else knows of it.
        let r = unsafe { raw!(nr::MUNMAP, moved, moved::bytes(table.len())) };
        assert!(r == 0, "unmapping what a copy was given");
    }
}

/// Until the end, or until somebody has made a process of this one: then the address of its table [`moved`], which the
/// kernel never returns.
fn freeze() -> u64 {
    const PR_SET_PDEATHSIG: u32 = 1;
    // SAFETY: the copy must not outlive the original; and `pause` touches nothing.
    unsafe {
        raw!(nr::PRCTL, PR_SET_PDEATHSIG, 9);
        loop {
            let r = raw!(nr::PAUSE);
            if r > 0 {
                return r as u64;
            }
        }
    }
}
