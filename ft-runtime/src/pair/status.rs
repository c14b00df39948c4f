//! What a host says of itself. The engine writes it on a board; a control socket reads the board by threads of its own,
//! so that an answer comes whatever the engine is doing.
//!
//! Law: nothing here makes the engine wait for who asks. The board's lock is held for copies only, never for I/O.

pub mod client;
pub mod command;
mod control;
mod event;
pub mod ordered;
mod reception;
mod served;

pub use control::{ControlSocket, Order, Request};
pub use event::{Event, Milestone};
pub use reception::Reception;

use crate::failover::Kind;
use crate::gate::boot_time::BootTime;
use crate::gate::lease::Lease;
use event::EventLog;
use serde::Serialize;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub role: &'static str,
    pub state: &'static str,
    pub term: u64,
}

/// How far the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries that this host has: on the primary those it made, on the backup those that came.
    pub appended: u64,
    /// Of those, the ones that the backup has acknowledged.
    pub acknowledged: u64,
    /// Age of the oldest entry that is not acknowledged; 0 if all are.
    pub lag_ms: u64,
    /// Bytes of entries so far.
    pub log_bytes: u64,
    /// Bytes that wait for the link.
    pub queued_bytes: u64,
    /// Encrypted, as given to the kernel and taken from it; 0 without a link.
    pub link_sent_bytes: u64,
    pub link_received_bytes: u64,
}

/// How far the service's state has come from one host to the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedProgress {
    seed_bytes: u64,
    /// About as many as it will be.
    seed_total_bytes: u64,
    seed_bytes_per_s: u64,
    seed_remaining_ms: u64,
}

impl SeedProgress {
    /// `elapsed`: since it began.
    pub fn new(bytes: u64, total: u64, elapsed: Duration) -> Self {
        let ms = elapsed.as_millis().max(1) as u64;
        let total = total.max(bytes);
        let remaining = (total - bytes).saturating_mul(ms).checked_div(bytes).unwrap_or(0);
        Self {
            seed_bytes: bytes,
            seed_total_bytes: total,
            seed_bytes_per_s: bytes.saturating_mul(1000) / ms,
            seed_remaining_ms: remaining,
        }
    }
}

/// What `ft status` shows, in this order; a new field is a line here and a setter below.
#[derive(Clone, Debug, Serialize)]
struct Status {
    service: String,
    host: String,
    peer: String,
    #[serde(flatten)]
    shown: Shown,
    guest_pid: Option<i32>,
    engine_pid: u32,
    #[serde(flatten)]
    progress: Option<ProgressShown>,
    /// Only while it comes or goes.
    #[serde(flatten)]
    seed: Option<SeedProgress>,
}

const PRIMARY: &str = "primary";
const MUTE: &str = "mute";
/// How the state of a host begins that serves and holds back what it has to say.
const OUTPUT_HELD: &str = "output held";

impl Shown {
    /// `paused`: a person wants no backup; see [`Machine::is_paused`].
    ///
    /// [`Machine::is_paused`]: crate::failover::Machine::is_paused
    pub fn of(kind: Kind, paused: bool, term: u64) -> Self {
        let (role, state) = match kind {
            Kind::Joining if paused => ("joining", "paused: waits for `ft resume` on the primary"),
            Kind::PrimaryAlone if paused => (PRIMARY, "alone: paused, and nothing takes over, until `ft resume` here"),
            Kind::Starting => ("starting", "waiting for the peer and the arbiter"),
            Kind::Joining => ("joining", "waiting for the service's state"),
            Kind::Backup => ("backup", "protected"),
            Kind::Claiming => ("claiming", "asking the arbiter"),
            Kind::Replaying => ("claiming", "replaying the log's end"),
            Kind::Restoring => ("claiming", "restoring sockets"),
            Kind::GoingLive => ("claiming", "going live"),
            Kind::PrimaryAlone => (PRIMARY, "alone"),
            Kind::PrimaryAdding => (PRIMARY, "adding the backup"),
            Kind::PrimaryPaired => (PRIMARY, "protected"),
            Kind::PrimaryReleasing => (PRIMARY, "letting the backup go"),
            Kind::Removing => (PRIMARY, "output held: asking to go on without the backup"),
            Kind::Rechecking => (PRIMARY, "output held: this host stood still and asks whether it still serves"),
            Kind::Mute => (MUTE, "mute: neither the backup nor the arbiter answers"),
            Kind::Yielding => ("yielding", "handing over"),
            Kind::Demoting => ("leaving", "taking down what it had"),
            Kind::Failed => ("failed", "restart it"),
        };
        Self { role, state, term }
    }
}

/// The backup's distance comes first: it is what people look for.
#[derive(Clone, Copy, Debug, Serialize)]
struct ProgressShown {
    lag_entries: u64,
    lag_ms: u64,
    log_appended: u64,
    log_acknowledged: u64,
    log_bytes: u64,
    queued_bytes: u64,
    link_sent_bytes: u64,
    link_received_bytes: u64,
}

impl From<Progress> for ProgressShown {
    fn from(p: Progress) -> Self {
        Self {
            lag_entries: p.appended.saturating_sub(p.acknowledged),
            lag_ms: p.lag_ms,
            log_appended: p.appended,
            log_acknowledged: p.acknowledged,
            log_bytes: p.log_bytes,
            queued_bytes: p.queued_bytes,
            link_sent_bytes: p.link_sent_bytes,
            link_received_bytes: p.link_received_bytes,
        }
    }
}

struct Board {
    status: Status,
    /// `None`: there is no gate here.
    lease: Option<Lease>,
    events: EventLog,
    /// Not yet seen by the engine.
    order: Option<Order>,
    /// Nothing more happens here.
    closed: bool,
}

/// Shared between the engine and the threads that answer.
#[derive(Clone)]
pub struct StatusBoard(Arc<Shared>);

struct Shared {
    board: Mutex<Board>,
    /// Told of each event.
    news: Condvar,
    /// Only where the engine waits for the service's program.
    reception: OnceLock<Arc<Reception>>,
}

impl StatusBoard {
    pub fn new(service: &str, host: &str, peer: &str) -> Self {
        let status = Status {
            service: service.into(),
            host: host.into(),
            peer: peer.into(),
            shown: Shown::of(Kind::Starting, false, 0),
            guest_pid: None,
            engine_pid: std::process::id(),
            progress: None,
            seed: None,
        };
        let board = Mutex::new(Board { status, lease: None, events: EventLog::default(), order: None, closed: false });
        Self(Arc::new(Shared { board, news: Condvar::new(), reception: OnceLock::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // A panic elsewhere leaves plain values: they can still be shown.
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, shown: Shown) {
        self.lock().status.shown = shown;
    }

    pub fn set_lease(&self, lease: Lease) {
        self.lock().lease = Some(lease);
    }

    pub fn set_guest(&self, pid: i32) {
        self.lock().status.guest_pid = Some(pid);
    }

    pub fn set_progress(&self, progress: Progress) {
        self.lock().status.progress = Some(progress.into());
    }

    /// This host has no part in the service any more; what happened to it stays known.
    pub fn clear(&self) {
        let mut board = self.lock();
        board.lease = None;
        let s = &mut board.status;
        (s.shown, s.guest_pid, s.progress, s.seed) = (Shown::of(Kind::Starting, false, 0), None, None, None);
    }

    pub fn set_seed(&self, seed: Option<SeedProgress>) {
        self.lock().status.seed = seed;
    }

    /// From now on a program may come to the control socket.
    pub fn open_reception(&self) -> io::Result<Arc<Reception>> {
        let opened = Arc::new(Reception::open()?);
        Ok(self.0.reception.get_or_init(|| opened).clone())
    }

    /// A program wants to be the guest. Given back with the reason if it can't.
    fn receive(&self, program: UnixStream) -> Result<(), (UnixStream, &'static str)> {
        match self.0.reception.get() {
            None => Err((program, "this engine starts the server itself; to have it wait for a program, see `preload`")),
            Some(r) => r.enter(program).map_err(|p| (p, "it has a program already")),
        }
    }

    fn order(&self, o: Order) {
        self.lock().order = Some(o);
    }

    /// What a person wants done.
    pub fn take_order(&self) -> Option<Order> {
        self.lock().order.take()
    }

    /// Something happened.
    pub fn event(&self, text: &str) {
        self.note(None, text);
    }

    /// A step of a takeover is done.
    pub fn mark(&self, milestone: Milestone, text: &str) {
        self.note(Some(milestone), text);
    }

    fn note(&self, milestone: Option<Milestone>, text: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.lock().events.push(at, milestone, text);
        self.0.news.notify_all();
    }

    /// As the engine said last; but who may not speak any more is no primary, even if the engine has yet to find out. It is
    /// given a moment for that.
    fn status(&self) -> Status {
        const LOOKS: u32 = 30;
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        for _ in 0..LOOKS {
            match self.written() {
                (status, true) => return status,
                (_, false) => std::thread::sleep(LOOK_EVERY),
            }
        }
        let (mut status, speaks) = self.written();
        if !speaks {
            status.shown.role = MUTE;
            if !status.shown.state.starts_with(OUTPUT_HELD) {
                status.shown.state = "output held: its right to send has run out";
            }
        }
        status
    }

    /// What stands on the board, and whether a primary's lease bears it out.
    fn written(&self) -> (Status, bool) {
        let board = self.lock();
        let over = board.lease.as_ref().is_some_and(|l| l.until() <= BootTime::now());
        (board.status.clone(), board.status.shown.role != PRIMARY || !over)
    }

    fn events(&self, after: u64) -> Vec<Event> {
        self.lock().events.after(after).cloned().collect()
    }

    /// Like `events`, but waits so long for one to come. With it: whether there may be more.
    fn await_events(&self, after: u64, time_max: Duration) -> (Vec<Event>, bool) {
        let none_yet = |b: &mut Board| b.events.after(after).next().is_none() && !b.closed;
        let r = self.0.news.wait_timeout_while(self.lock(), time_max, none_yet);
        let (board, _) = r.unwrap_or_else(PoisonError::into_inner);
        (board.events.after(after).cloned().collect(), !board.closed)
    }

    /// All has happened: who waits for more is told so.
    fn close(&self) {
        self.lock().closed = true;
        self.0.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfers_remaining_time_goes_by_its_rate() {
        let p = SeedProgress::new(1_000, 4_000, Duration::from_millis(500));
        assert_eq!((p.seed_bytes_per_s, p.seed_remaining_ms), (2_000, 1_500));
        let more_than_thought = SeedProgress::new(5_000, 4_000, Duration::from_millis(500));
        assert_eq!((more_than_thought.seed_total_bytes, more_than_thought.seed_remaining_ms), (5_000, 0));
        assert_eq!(SeedProgress::new(0, 0, Duration::ZERO).seed_remaining_ms, 0);
    }

    #[test]
    fn every_state_that_holds_output_says_so() {
        for kind in [Kind::Removing, Kind::Rechecking] {
            assert!(Shown::of(kind, false, 1).state.starts_with(OUTPUT_HELD));
        }
    }
}
