//! What the hosts of a service say to each other about who serves. Carried by the link, in order with the log; the link
//! says who has said it and to whom.

use super::record::Members;
use ft_log::ids::Term;
use std::fmt;

/// Who the sender is, said at each start of a link and at each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub role: Role,
    /// The latest term the sender serves or follows in, or tries for; 0 if none.
    pub term: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Just started, with no state of the service, and ready to start it cold.
    Empty { prefers: Preferred },
    /// Without state, waiting to be given it.
    Joining,
    /// Holds everything a client was told, and follows.
    Backup,
    /// Is about to serve in place of the receiver.
    Taking,
    /// Serves.
    Primary(Stance),
    /// Served until now, has shut its gate, and wants the receiver to serve.
    Yielding,
    /// Without state, and can't be given any: taking down what it had, or waiting to be restarted.
    Failed,
}

impl Role {
    /// The sender holds nothing of the service that runs or ran.
    pub fn is_stateless(self) -> bool {
        matches!(self, Self::Empty { .. } | Self::Joining | Self::Failed)
    }
}

/// What a host that serves makes of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Has done nothing that the receiver may lack since it last followed.
    Waits,
    /// Goes on without it, and gives it the state anew.
    Alone,
    /// Goes on without it, and gives nobody its state until a person says so.
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferred {
    Primary,
    Backup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    /// The sender's gate is shut until it knows better. Are you still following?
    Ping {
        nonce: u64,
    },
    /// When this was sent, the sender followed and had claimed nothing.
    Pong {
        nonce: u64,
    },
    /// All log before this makes you complete, and my output waits for you from here on.
    Adding {
        term: Term,
        nonce: u64,
    },
    /// I hold everything up to your [`Message::Adding`] of this number. An older one doesn't count: the sender may have
    /// given it up and gone on alone in between.
    Ready {
        nonce: u64,
    },
    /// The arbiter has these hosts in the set, and output waits for all of them but me.
    InSync {
        term: Term,
        in_sync: Members,
    },
    /// My gate is shut and stays shut. Take over.
    TakeOver {
        term: Term,
        why: Yield,
    },
    /// I can't, and gave up what I had.
    CannotTakeOver {
        term: Term,
    },
    /// Don't count on me any longer.
    DropOut {
        why: Drop,
    },
    /// I don't count on you any longer.
    Dismissed {
        why: Drop,
    },
    /// A person wants me out. Go on without me, and tell me when I may go.
    Detach,
    /// You stay my backup.
    Kept {
        why: Kept,
    },
}

/// Why a primary hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yield {
    GuestDied,
    Diverged,
    ServiceNetLost,
    Shutdown,
    /// The operator wants the other host to serve.
    Switchover,
    /// Its disk fails a call that the backup's doesn't fail.
    DiskFailed,
}

impl fmt::Display for Yield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestDied => "its server died",
            Self::Diverged => "its server did something else than the backup's",
            Self::ServiceNetLost => "it has lost its service network",
            Self::Shutdown => "it is being stopped",
            Self::Switchover => "the operator wants it so",
            Self::DiskFailed => "its disk fails",
        })
    }
}

/// Why a backup is no longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    GuestDied,
    Diverged,
    Shutdown,
    /// A person wants its machine.
    Detached,
}

/// Why a primary does not let its backup go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing could take the backup out of the record.
    NoArbiter,
    ArbiterSilent,
    /// Another change of the pair is under way, or came in between.
    Busy,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoArbiter => {
                "there is no arbiter, and without one a primary that has no backup is mute; for maintenance stop the service on both hosts"
            }
            Self::ArbiterSilent => {
                "the arbiter does not answer, and as long as it has the backup in its record a primary without it is mute; repair the arbiter first"
            }
            Self::Busy => "the pair is changing already; see `ft status` and try again",
        })
    }
}
