//! What a host may do, as values that only the step before can make.
//!
//! [`TermGranted`] -> [`ReplayDone`] -> [`SocketsRestored`] -> [`Live`] -> [`GateKey`]: each consumes the one before,
//! and nothing outside `failover` makes any of them, so no code can open the gate of a host that skipped a step.
//!
//! ```compile_fail,E0451
//! use ft_runtime::failover::rights::Live;
//! let forged = Live { term: ft_log::ids::Term(7) };
//! ```

use super::book::Heard;
use super::record::{HostId, Members, Phase, Record, Version};
use ft_log::ids::{LogIndex, Term};

/// This host may prepare to serve in `term`. Another host of the set may still win.
#[derive(Debug, PartialEq, Eq)]
pub struct TermGranted {
    term: Term,
    /// The record's version at the grant, the only one that going live may replace. `None`: there is no arbiter.
    version: Option<Version>,
}

impl TermGranted {
    /// The arbiter's record says so.
    pub(super) fn by_arbiter(me: HostId, heard: &Heard) -> Option<Self> {
        let Record { version, ruling } = *heard.record()?;
        (ruling.owner == me && ruling.phase == Phase::Claim)
            .then_some(Self { term: ruling.term, version: Some(version) })
    }

    /// There is no arbiter; a person or the configuration says so.
    pub(super) fn unarbitrated(term: Term) -> Self {
        Self { term, version: None }
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub(super) fn replayed(self, upto: LogIndex) -> ReplayDone {
        ReplayDone { granted: self, upto }
    }
}

/// The guest has done all that the log says.
#[derive(Debug, PartialEq, Eq)]
pub struct ReplayDone {
    granted: TermGranted,
    upto: LogIndex,
}

impl ReplayDone {
    pub fn term(&self) -> Term {
        self.granted.term
    }

    pub fn upto(&self) -> LogIndex {
        self.upto
    }

    pub(super) fn sockets_restored(self) -> SocketsRestored {
        SocketsRestored { replayed: self }
    }
}

/// The service's sockets stand as the clients know them, in repair, with the gate shut.
#[derive(Debug, PartialEq, Eq)]
pub struct SocketsRestored {
    replayed: ReplayDone,
}

impl SocketsRestored {
    pub fn term(&self) -> Term {
        self.replayed.term()
    }

    /// The arbiter's record says that this host is live in the term it was granted; else nothing has changed.
    ///
    /// Going live leaves nobody else in the set, and voids every earlier put of this host: it serves alone.
    pub(super) fn live(self, me: HostId, heard: &Heard) -> Result<(Live, Alone), Self> {
        let term = self.term();
        match heard.record().map(|r| r.ruling) {
            Some(r) if r.term == term => Live { term }.alone(me, heard).map_err(|_| self),
            _ => Err(self),
        }
    }

    /// Without an arbiter the grant itself was all there is to ask for.
    pub(super) fn live_unarbitrated(self) -> Result<(Live, Alone), Self> {
        let term = self.term();
        if self.claim().is_none() { Ok((Live { term }, Alone { term })) } else { Err(self) }
    }

    /// The version of the record that granted the term; `None` without an arbiter.
    pub(super) fn claim(&self) -> Option<Version> {
        self.replayed.granted.version
    }
}

/// This host, and no other, may send from the service's address in `term`, under the output rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Live {
    term: Term,
}

impl Live {
    pub fn term(&self) -> Term {
        self.term
    }

    pub(super) fn gate_key(&self) -> GateKey {
        GateKey { term: self.term }
    }

    /// The right to send without the peer: the record has nobody else in its set, and no put of ours that could
    /// change that is still on its way. Where the record shows a later term of ours, that is the term from now on.
    pub(super) fn alone(self, me: HostId, heard: &Heard) -> Result<(Self, Alone), Self> {
        match heard.record().map(|r| r.ruling) {
            Some(r)
                if heard.is_settled()
                    && r.owner == me
                    && r.phase == Phase::Live
                    && r.in_sync == Members::only(me)
                    && r.term >= self.term =>
            {
                Ok((Self { term: r.term }, Alone { term: r.term }))
            }
            _ => Err(self),
        }
    }

    /// There is no arbiter, or none that answers; the configuration or a person says that the other host is off.
    pub(super) fn alone_unarbitrated(&self) -> Alone {
        Alone { term: self.term }
    }

    /// The arbiter has seen a later term of ours.
    pub(super) fn raised(self, me: HostId, heard: &Heard) -> Self {
        match heard.record().map(|r| r.ruling) {
            Some(r) if r.owner == me && r.phase == Phase::Live && r.term > self.term => Self { term: r.term },
            _ => self,
        }
    }
}

/// Opens the gate and lets out what the peer holds the cause of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateKey {
    term: Term,
}

impl GateKey {
    pub fn term(&self) -> Term {
        self.term
    }
}

/// Lets output go that the peer doesn't hold the cause of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    term: Term,
}

impl Alone {
    pub fn term(&self) -> Term {
        self.term
    }
}
