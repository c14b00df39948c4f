//! Why a host does not do what a person asks of it.

use super::action::Stranded;
use super::event::Command;
use super::message::Kept;
use super::state::Kind;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Whoever serves is to be asked.
    Elsewhere,
    /// This host changes its role, or holds back what it has to say.
    Busy,
    /// The other host could not go on; why.
    Switchover(Stranded),
    ForceServes,
    /// Nobody is there to be let go.
    NoBackup,
    /// This host is no backup that could be let go.
    NotBackup,
    /// The primary can't be asked.
    NoLink,
    /// The primary does not let its backup go.
    Keeps(Kept),
}

impl Refusal {
    /// What needs no further look at the host than this; `None`: its state decides.
    pub(super) fn beforehand(kind: Kind, command: Command) -> Option<Self> {
        match (command, kind) {
            (Command::Shutdown | Command::Force, _)
            | (_, Kind::PrimaryAlone | Kind::PrimaryAdding | Kind::PrimaryPaired | Kind::PrimaryReleasing)
            | (Command::Detach, Kind::Backup) => None,
            (Command::Detach, Kind::Starting | Kind::Joining | Kind::Failed) => Some(Self::NotBackup),
            (_, Kind::Starting | Kind::Joining | Kind::Backup | Kind::Failed) => Some(Self::Elsewhere),
            (
                _,
                Kind::Claiming
                | Kind::Replaying
                | Kind::Restoring
                | Kind::GoingLive
                | Kind::Removing
                | Kind::Mute
                | Kind::Rechecking
                | Kind::Yielding
                | Kind::Demoting,
            ) => Some(Self::Busy),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused: ")?;
        match self {
            Self::Elsewhere => {
                f.write_str("this host does not serve at the moment; ask where `ft status` says primary")
            }
            Self::Busy => f.write_str("this host is already changing its role; see `ft status` and try again"),
            Self::Switchover(why) => write!(f, "the other host could not take over: {why}"),
            Self::ForceServes => f.write_str("this host serves already"),
            Self::NoBackup => f.write_str(
                "there is no backup: this host serves alone, and the other one's `ft run` can be stopped as it is",
            ),
            Self::NotBackup => f.write_str(
                "this host is neither backup nor primary: nothing counts on it, and its `ft run` can be stopped as it is",
            ),
            Self::NoLink => f.write_str(
                "the primary can't be asked: there is no link to it; wait until there is one, or stop `ft run` here, and clients \
                 wait while the primary finds out",
            ),
            Self::Keeps(why) => write!(f, "the backup stays: {why}"),
        }
    }
}
