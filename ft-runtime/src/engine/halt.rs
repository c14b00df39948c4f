//! A guest that follows a log and stands still at one of its input points: there the run ends, or a debugger looks at it.
//!
//! The shim stands by itself (`Hold` in ft-log). With a debugger there are no limits of time: who steps through a program takes
//! as long as it takes. Nothing ends the guest while the debugger lives; at the log's end it is stopped by a signal, which
//! shows in the debugger.

use super::{Ended, EngineError};
use crate::gdb::ReadyGdb;
use ft_log::shared::Segment;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the debugger and the guest in it are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What happens where the guest stands.
pub enum Halt {
    /// The run ends.
    End { point: u64 },
    /// Somebody looks at it.
    Debug(Debugging),
}

pub struct Debugging {
    guest: Pid,
    state: State,
}

enum State {
    Wanted(ReadyGdb),
    /// The guest goes on as soon as the debugger has it.
    Starts(Child),
    Has(Child),
    /// With or without having had the guest.
    Over { had: bool },
}

impl Debugging {
    pub fn new(gdb: ReadyGdb, guest: Pid) -> Self {
        Self { guest, state: State::Wanted(gdb) }
    }

    fn turn(&mut self, segment: &Segment, stands: bool, gone: bool) -> Result<(), EngineError> {
        let failed = |what| move |e: std::io::Error| EngineError::system(what, e);
        let over = match &mut self.state {
            State::Starts(child) | State::Has(child) => child.try_wait().map_err(failed("waiting for gdb"))?,
            State::Wanted(_) | State::Over { .. } => None,
        };
        self.state = match std::mem::replace(&mut self.state, State::Over { had: true }) {
            // There is nothing to look at any more.
            State::Wanted(_) if gone => State::Over { had: true },
            State::Wanted(gdb) if stands => State::Starts(gdb.start(self.guest).map_err(failed("starting gdb"))?),
            // It may have been quicker than we look.
            State::Starts(_) if over.is_some() => State::Over { had: over.is_some_and(|status| status.success()) },
            State::Has(_) if over.is_some() => State::Over { had: true },
            State::Starts(child) if is_traced(self.guest) => {
                release(segment);
                State::Has(child)
            }
            same => same,
        };
        Ok(())
    }

    /// The log has no more: whoever has let the guest go on is to see that.
    fn show_end(&self) {
        if let State::Has(_) = self.state
            && !is_stopped(self.guest)
        {
            // An error means that it is gone.
            let _ = kill(self.guest, Signal::SIGSTOP);
        }
    }
}

/// What a guest that follows a log has come to.
pub(super) struct Seen {
    /// It stands, and all that it said was heard.
    pub stands: bool,
    /// Its process is gone.
    pub gone: bool,
    /// How the run would end.
    pub ended: Option<Ended>,
}

impl Halt {
    pub fn is_debug(&self) -> bool {
        matches!(self, Self::Debug(_))
    }

    /// How the run ends, if it does.
    pub(super) fn turn(&mut self, segment: &Segment, seen: Seen) -> Result<Option<Ended>, EngineError> {
        let Seen { stands, gone, ended } = seen;
        let debugging = match self {
            Self::End { point } => return Ok(ended.or_else(|| stands.then_some(Ended::Held(*point)))),
            Self::Debug(d) => d,
        };
        let at_end = ended == Some(Ended::LogEnd);
        debugging.turn(segment, stands || at_end, gone)?;
        Ok(match debugging.state {
            State::Over { had: false } => Some(Ended::Stuck("gdb ended before it had attached to the guest".into())),
            State::Over { had: true } if at_end || ended.is_none() => {
                Some(Ended::Debugged(segment.domain(0).status.point.load(Ordering::Relaxed)))
            }
            State::Over { had: true } => ended,
            _ => {
                if at_end {
                    debugging.show_end();
                }
                None
            }
        })
    }

    pub fn deadline(&self) -> Instant {
        Instant::now() + LOOK
    }
}

fn release(segment: &Segment) {
    let word = &segment.header().hold.stands;
    word.store(0, Ordering::Release);
    super::sys::futex_wake(word);
}

fn status_of(pid: Pid, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| Some(l.strip_prefix(field)?.trim().to_owned()))
}

/// From then on it runs nothing before the debugger lets it: a signal that stops it is on its way, at least.
fn is_traced(pid: Pid) -> bool {
    status_of(pid, "TracerPid:").is_some_and(|tracer| tracer != "0")
}

fn is_stopped(pid: Pid) -> bool {
    status_of(pid, "State:").is_some_and(|s| s.starts_with(['t', 'T']))
}
