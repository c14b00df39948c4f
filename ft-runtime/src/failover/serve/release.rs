//! How a primary lets its backup go by a person's word: because protection is paused, or because the backup's machine is
//! wanted for something else.
//!
//! Laws: output waits for the backup until the record has this host alone, so no client waits and nothing leaves that the
//! backup lacks before; where nobody could put that into the record, the backup stays.

use super::{Mode, Serving};
use crate::failover::action::{Report, Unprotected};
use crate::failover::config::ArbiterKind;
use crate::failover::message::{Drop, Kept, Message};
use crate::failover::record::Members;
use crate::failover::refusal::Refusal;
use crate::failover::rights::{Alone, Live};
use crate::failover::state::{Context, State};

impl Serving {
    pub(super) fn pause(self, cx: &mut Context) -> State {
        match self.mode {
            // The end of it is told.
            Mode::Releasing(Unprotected::Paused) => {}
            Mode::Releasing(_) => cx.report(Report::Refused(Refusal::Busy)),
            _ if cx.paused => cx.report(Report::PausedAlready),
            Mode::Alone(alone) | Mode::Inviting { alone, .. } => {
                cx.paused = true;
                return Self::alone(cx, self.live, alone, Unprotected::Paused);
            }
            Mode::Adding | Mode::Paired => return self.release(cx, Unprotected::Paused),
        }
        State::Primary(self)
    }

    pub(super) fn resume(mut self, cx: &mut Context) -> State {
        if !cx.paused {
            cx.report(Report::NotPaused);
            return State::Primary(self);
        }
        cx.unpause();
        match self.mode {
            Mode::Releasing(_) => {
                self.mode = Mode::Adding;
                self.drive_in(cx)
            }
            _ => State::Primary(self),
        }
    }

    /// `asked_here`: by a person on this host, else on the backup's.
    pub(super) fn detach(self, cx: &mut Context, asked_here: bool) -> State {
        match self.mode {
            Mode::Adding | Mode::Paired => return self.release(cx, Unprotected::Detached),
            Mode::Releasing(Unprotected::Detached) => {}
            Mode::Alone(_) | Mode::Inviting { .. } if asked_here => cx.report(Report::Refused(Refusal::NoBackup)),
            _ => tell_kept(cx, Unprotected::Detached, Kept::Busy),
        }
        State::Primary(self)
    }

    /// Output goes on waiting for the backup meanwhile.
    fn release(mut self, cx: &mut Context, why: Unprotected) -> State {
        let kept = match cx.config.arbiter {
            ArbiterKind::None { alone_allowed: false } => Kept::NoArbiter,
            ArbiterKind::Votes if !cx.book.is_reachable() => Kept::ArbiterSilent,
            arbiter => {
                cx.paused = why == Unprotected::Paused;
                if arbiter != ArbiterKind::Votes {
                    let alone = self.live.alone_unarbitrated();
                    return Self::released(cx, self.live, alone, why);
                }
                self.mode = Mode::Releasing(why);
                return self.drive_out(cx);
            }
        };
        tell_kept(cx, why, kept);
        State::Primary(self)
    }

    /// Takes the backup out of the set.
    pub(super) fn drive_out(self, cx: &mut Context) -> State {
        match cx.book.known().copied() {
            Some(r) => super::put_live(cx, &r, Members::only(cx.config.me)),
            None => cx.read(),
        }
        State::Primary(self)
    }

    pub(super) fn released(cx: &mut Context, live: Live, alone: Alone, why: Unprotected) -> State {
        if why == Unprotected::Detached {
            cx.send(Message::Dismissed { why: Drop::Detached });
        }
        Self::alone(cx, live, alone, why)
    }

    /// The arbiter does not say what became of it: the backup is put back, whatever that was.
    pub(super) fn keep(mut self, cx: &mut Context, why: Unprotected) -> State {
        cx.paused = false;
        tell_kept(cx, why, Kept::ArbiterSilent);
        self.mode = Mode::Adding;
        cx.retry();
        State::Primary(self)
    }
}

/// Also to the backup, where a person may have asked for it.
fn tell_kept(cx: &mut Context, why: Unprotected, kept: Kept) {
    cx.report(Report::Refused(Refusal::Keeps(kept)));
    if why == Unprotected::Detached {
        cx.send(Message::Kept { why: kept });
    }
}
