//! All that the state machine can want done. The driver does it, in this order, before it hands in the next event.

use super::book::RequestId;
use super::event::Timer;
use super::message::{Drop, Message, Yield};
use super::record::{HostId, Ruling, Version};
use super::refusal::Refusal;
use super::rights::{Alone, GateKey};
use ft_log::ids::Term;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    StartTimer {
        timer: Timer,
        after_ms: u64,
    },
    CancelTimer(Timer),
    ArbiterRead {
        request: RequestId,
    },
    ArbiterPut {
        request: RequestId,
        expect: Version,
        ruling: Ruling,
    },
    Send(Message),
    /// Which output may leave. Holds from the moment of this action, also for what waits in queues.
    Output(Output),
    /// What the gate's lease is renewed by.
    Lease(Lease),
    /// Everything that waits at the gate is dropped, not sent. TCP repeats it.
    DropQueue,
    /// Whether this host acknowledges log and heartbeats to its peer.
    Acks(Acks),
    /// Start the guest from nothing.
    StartGuest,
    /// Let the guest follow to the log's end and stop at the first point the log doesn't cover.
    ReplayToEnd,
    /// Build the service's sockets in repair, with gate and ingress shut.
    RestoreSockets,
    /// Gate and ingress; sockets out of repair; input flows.
    OpenGate(GateKey),
    /// Tell the network where the address is, as often as it takes.
    Announce,
    /// Shut the gate, drop its queue, close sockets as told, remove the address, end the guest. [`Event::Demoted`]
    /// follows.
    ///
    /// [`Event::Demoted`]: super::event::Event::Demoted
    Demote(Farewell),
    Report(Report),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing leaves.
    Held,
    /// What the peer has acknowledged the cause of.
    WhenPeerHas(GateKey),
    /// Everything.
    Alone(Alone),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nothing renews it: it runs out.
    Expire,
    /// An acknowledgement renews it, counted from when the heartbeat that it echoes was *sent*.
    ByPeer,
    /// The engine's own turns renew it: nobody else can be granted.
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    On,
    Off,
}

/// What the clients of a host that stops serving see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing: another host has, or will have, their connections.
    Silent,
    /// A reset: nobody has.
    Resets,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    WaitingForPeer,
    ColdStart,
    Following {
        term: Term,
    },
    Claiming {
        term: Term,
        why: ClaimCause,
    },
    Retreated {
        term: Term,
    },
    NotGranted,
    Live {
        term: Term,
    },
    Protected {
        term: Term,
    },
    /// Serves without a backup.
    Unprotected {
        term: Term,
        why: Unprotected,
    },
    /// Can reach neither the backup nor the arbiter: holds all output.
    Mute,
    Resumed {
        term: Term,
    },
    Frozen,
    ServiceNetLost,
    ServiceNetBack,
    /// Without a service network, and primary all the same.
    Stranded(Stranded),
    Yielding {
        term: Term,
        why: Yield,
    },
    Deposed {
        owner: HostId,
        term: Term,
    },
    DroppedOut {
        why: Drop,
    },
    Dismissed {
        why: Drop,
    },
    NoTakeoverWithoutArbiter {
        why: ClaimCause,
    },
    ArbiterAwaited,
    ArbiterLost,
    ArbiterBack,
    ArbiterEmpty,
    ArbiterForgot,
    PausedAlready,
    /// A backup is wanted again.
    Unpaused,
    NotPaused,
    /// The primary wants no backup, and wants one again.
    PeerPaused,
    PeerUnpaused,
    /// What the operator asked for is not done.
    Refused(Refusal),
    Failed(Failure),
}

/// Why a backup takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimCause {
    LinkClosed,
    LinkLost,
    Silence,
    /// The primary's engine is dead, and its guard has shut the gate.
    EngineDied,
    /// The primary asked for it, and said why.
    Yielded(Option<Yield>),
    /// The primary is back without its state.
    PeerRestarted,
    Operator,
    Cold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprotected {
    LinkClosed,
    LinkLost,
    Silence,
    Lag,
    Diverged,
    BackupDropped,
    /// Thawed and found the pair as it left it, but the backup didn't answer.
    NoAnswer,
    /// The backup wanted to take over and has not.
    ClaimBeaten,
    /// The backup was asked to take over and has not.
    YieldFailed,
    Operator,
    /// A person wants no backup.
    Paused,
    /// A person wants the backup's machine.
    Detached,
}

impl Unprotected {
    /// What there is to do.
    fn remedy(self) -> &'static str {
        match self {
            Self::Paused => "nothing takes over until `ft resume` here, and `protected` after it",
            Self::Detached => "nothing takes over until `ft run` there, and `protected` after it",
            _ => "bring the other host back",
        }
    }
}

/// Why a primary without a service network does not hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranded {
    NoBackup,
    Paused,
    /// The backup's service network is no better, or the arbiter does not answer it.
    BackupToo,
    NoArbiter,
    ArbiterSilent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    GuestDied,
    Replay,
    Restore,
    Diverged,
    Shutdown,
    /// No failure at all: a person took this backup out.
    Detached,
}

impl fmt::Display for ClaimCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkClosed => "the primary closed the link",
            Self::LinkLost => "the link is lost",
            Self::Silence => "the primary is silent",
            Self::EngineDied => "the primary's engine died",
            Self::Yielded(None) => "the primary handed over",
            Self::Yielded(Some(why)) => return write!(f, "the primary handed over: {why}"),
            Self::PeerRestarted => "the primary came back without its state",
            Self::Operator => "the operator said so",
            Self::Cold => "cold start",
        })
    }
}

impl fmt::Display for Unprotected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkClosed => "the backup closed the link",
            Self::LinkLost => "the link is lost",
            Self::Silence => "the backup is silent",
            Self::Lag => "the backup lagged too far behind",
            Self::Diverged => "the backup's guest did something else",
            Self::BackupDropped => "the backup dropped out",
            Self::NoAnswer => "the backup did not answer after this host had been frozen",
            Self::ClaimBeaten => "the backup began to take over and did not finish",
            Self::YieldFailed => "the backup did not take over when asked to",
            Self::Operator => "the operator said that the other host is off",
            Self::Paused => "protection is paused by a person",
            Self::Detached => "the backup is detached by a person",
        })
    }
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBackup => "there is no backup",
            Self::Paused => "protection is paused; `ft resume` here first, and wait for `protected`",
            Self::BackupToo => "the backup does not reach its service network, or the arbiter, either",
            Self::NoArbiter => "there is no arbiter, and without one nothing moves by itself",
            Self::ArbiterSilent => "the arbiter does not answer",
        })
    }
}

impl fmt::Display for Report {
    /// What happened, why, and what to do next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitingForPeer => f.write_str(
                "not started: the other host may hold newer state; start it, or `ft force` here if it is gone for good",
            ),
            Self::ColdStart => f.write_str("cold start: no host holds running state of this service"),
            Self::Following { term } => write!(f, "backup in term {term}: everything the primary tells clients is here"),
            Self::Claiming { term, why } => write!(f, "taking over, term {term}: {why}"),
            Self::Retreated { term } => write!(f, "the primary of term {term} is back; following it again"),
            Self::NotGranted => f.write_str(
                "not taking over: the arbiter says that this host lacks what clients were told; it will be given state anew",
            ),
            Self::Live { term } => write!(f, "live in term {term}"),
            Self::Protected { term } => write!(f, "protected: the backup is in sync in term {term}"),
            Self::Unprotected { term, why } => {
                write!(f, "UNPROTECTED in term {term}: {why}; {}", why.remedy())
            }
            Self::Mute => f.write_str(
                "MUTE: neither the backup nor the arbiter answers, so clients get no answer either; bring one of them \
                 back, or `ft force` if the other host is off for certain",
            ),
            Self::Resumed { term } => write!(f, "output flows again in term {term}"),
            Self::Frozen => f.write_str(
                "this host did not run for longer than its lease; what waited to be sent was dropped and the term is read again",
            ),
            Self::ServiceNetLost => f.write_str("SERVICE NETWORK LOST: clients can't reach this host"),
            Self::ServiceNetBack => f.write_str("the service network is back"),
            Self::Stranded(why) => write!(f, "stays primary without a service network, clients wait: {why}; repair it now"),
            Self::Yielding { term, why } => write!(f, "handing over in term {term}: {why}"),
            Self::Deposed { owner, term } => write!(f, "host {owner} serves in term {term}: this one no longer does"),
            Self::DroppedOut { why } => write!(f, "no longer a backup: {why:?}; the primary goes on alone"),
            Self::Dismissed { why } => write!(f, "dismissed by the primary: {why:?}; waiting for state"),
            Self::NoTakeoverWithoutArbiter { why } => write!(
                f,
                "NOT taking over although {why}: there is no arbiter; `ft force` here if the other host is off for certain",
            ),
            Self::ArbiterAwaited => f.write_str(
                "the arbiter does not answer yet; until it does this host starts no service and takes none over; see that it runs",
            ),
            Self::ArbiterLost => f.write_str(
                "ARBITER LOST: it does not answer; the service runs on, but the next failure would stop it; repair it now",
            ),
            Self::ArbiterBack => f.write_str("the arbiter answers"),
            Self::ArbiterEmpty => f.write_str(
                "the arbiter has no record of this service: nothing is granted on its word; was its state file lost?",
            ),
            Self::ArbiterForgot => f.write_str(
                "the arbiter went back to an older record: its answers are ignored; was its state file restored from a copy?",
            ),
            Self::PausedAlready => f.write_str("protection is paused already; `ft resume` here ends that"),
            Self::Unpaused => f.write_str(
                "protection is resumed: the other host is given the service's state; `ft events --follow` says when it is `protected`",
            ),
            Self::NotPaused => f.write_str("protection isn't paused; `ft status` says how the pair stands"),
            Self::PeerPaused => f.write_str(
                "the primary has paused protection: this host waits, and nothing takes over, until `ft resume` there",
            ),
            Self::PeerUnpaused => f.write_str("the primary has resumed protection"),
            Self::Refused(why) => write!(f, "{why}"),
            Self::Failed(Failure::GuestDied) => f.write_str("the server ended, and no other host can go on with it"),
            Self::Failed(Failure::Replay) => f.write_str("could not take over: the server failed at the end of its log"),
            Self::Failed(Failure::Restore) => f.write_str("could not take over: the sockets could not be restored"),
            Self::Failed(Failure::Diverged) => {
                f.write_str("stopped: the two servers did different things and the configuration says `halt`")
            }
            Self::Failed(Failure::Shutdown) => f.write_str("stopped by the operator"),
            Self::Failed(Failure::Detached) => f.write_str(
                "detached by a person: the primary goes on alone; `ft run` here makes this host its backup again",
            ),
        }
    }
}
