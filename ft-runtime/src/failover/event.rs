//! All that can happen to a host, as the state machine is told it. Nothing here decides.

use super::book::{Answer, RequestId};
use super::message::Message;
use ft_log::ids::LogIndex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process has started. First and once.
    Start,
    LinkUp,
    LinkDown(LinkEnd),
    /// The peer's engine runs: its heartbeat came in, after everything it had sent before.
    ///
    /// Heartbeats alone carry the time that acknowledgements echo, and each is told here before its echo leaves: so a
    /// silence, which outlasts the lease, outlasts every lease that was renewed.
    ///
    /// `service_ok`: the peer said of itself what [`Machine::would_serve`] says.
    ///
    /// [`Machine::would_serve`]: super::state::Machine::would_serve
    HeartbeatSeen {
        service_ok: bool,
    },
    Peer(Message),
    /// The peer's engine is dead and its gate is shut: its guard, which outlived it, has said so.
    PeerDead,
    /// The backup acknowledges, but too far behind the log, for longer than the configuration allows.
    PeerLags,
    /// The peer, not yet in sync, holds the log to within reach of its end.
    PeerCaughtUp,
    GuestStarted,
    GuestDied,
    ReplayDone {
        upto: LogIndex,
    },
    ReplayFailed,
    SocketsRestored,
    RestoreFailed,
    /// Gate shut, queue dropped, sockets and address gone, guest ended.
    Demoted,
    Arbiter {
        request: RequestId,
        answer: Answer,
    },
    /// This host's own probes of the service network say something else than before.
    ServiceNet(ServiceNet),
    /// This host did not run for longer than its lease lasts.
    Thawed,
    /// This host's disk fails a call of the guest, which waits in it.
    DiskFailed,
    /// The two guests did not do the same.
    Diverged(Blame),
    Operator(Command),
    Timer(Timer),
}

/// How the link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// The peer's kernel closed it: its engine is gone, most likely.
    Closed,
    /// Nothing but this host's own evidence: no carrier, no route, no answer.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceNet {
    /// Others there are reached, and have been for long enough to rely on it.
    Sound,
    /// Nobody there has been reached yet, or not for long enough.
    Unsure,
    /// Others there were reached, and are not at the moment, or only again for a short while.
    Doubtful,
    /// Nobody there has been reached for long enough to act on it.
    Lost,
}

/// Which guest the evidence speaks against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Primary,
    Backup,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Shutdown,
    Switchover,
    /// The person says that the other host is off, and stays off until it has heard of this one.
    Force,
    /// Go on without a backup, and let nobody become one, until [`Command::Resume`].
    Pause,
    Resume,
    /// The backup's machine is wanted for something else.
    Detach,
}

/// Each runs at most once at a time; starting it again starts it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A starting host has given its peer long enough to appear.
    PeerWait,
    /// Nothing was heard from the peer for as long as the configuration allows.
    Silence,
    /// The primary has had its head start.
    HeadStart,
    /// The peer's lease has run out, by this host's clock and with the margin for both clocks.
    PeerLease,
    /// Ask the arbiter again.
    Retry,
    /// Look whether the arbiter still answers, and what it says.
    ArbiterCheck,
    /// The other host had long enough to finish what it began.
    Patience,
}

impl Timer {
    pub const ALL: [Self; 7] = [
        Self::PeerWait,
        Self::Silence,
        Self::HeadStart,
        Self::PeerLease,
        Self::Retry,
        Self::ArbiterCheck,
        Self::Patience,
    ];
}
