//! How what the failover machine reports is told: a text for people, and a milestone where programs look for one.

use super::status::{Milestone, StatusBoard};
use crate::failover::action::{Failure, Report, Unprotected};
use crate::failover::refusal::Refusal;

/// The text, which stands on the board from now on.
pub fn tell(board: &StatusBoard, r: &Report, peer: &str) -> String {
    let text = match r {
        Report::Deposed { term, .. } => format!("{peer} serves in term {term}: this host no longer does"),
        Report::Refused(Refusal::Elsewhere) => {
            format!("refused: this host does not serve at the moment; say it on {peer}, if `ft status` there says primary")
        }
        r => r.to_string(),
    };
    match milestone(r) {
        Some(m) => board.mark(m, &text),
        None => board.event(&text),
    }
    text
}

fn milestone(r: &Report) -> Option<Milestone> {
    Some(match r {
        Report::Claiming { .. } => Milestone::Detected,
        Report::Live { .. } => Milestone::Live,
        Report::Protected { .. } => Milestone::Protected,
        Report::Unprotected { why: Unprotected::Paused, .. } | Report::PausedAlready | Report::PeerPaused => Milestone::Paused,
        Report::Unpaused | Report::NotPaused | Report::PeerUnpaused => Milestone::Resumed,
        Report::Unprotected { why: Unprotected::Detached, .. } | Report::Failed(Failure::Detached) => Milestone::Detached,
        Report::Unprotected { .. } => Milestone::Unprotected,
        Report::Deposed { .. } => Milestone::Deposed,
        Report::Refused(_) => Milestone::Refused,
        _ => return None,
    })
}
