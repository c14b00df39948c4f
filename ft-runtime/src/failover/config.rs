//! What a pair agrees on before it starts, checked once.

use super::message::Preferred;
use super::record::HostId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub me: HostId,
    pub peer: HostId,
    pub prefers: Preferred,
    pub arbiter: ArbiterKind,
    pub divergence: DivergencePolicy,
    pub timing: Timing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArbiterKind {
    /// etcd, a witness, a file: it decides.
    Votes,
    /// Nothing takes over by itself. `alone_allowed`: a primary that loses its backup goes on without it.
    None { alone_allowed: bool },
}

/// What to do when the guests did different things and nothing tells which one went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DivergencePolicy {
    /// The backup is given the primary's state anew.
    Reseed,
    /// The backup takes over.
    Takeover,
    /// Nobody goes on.
    Halt,
}

/// All waits of failover. Each is bounded by the one it must outlast; see [`Timing::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    /// How long a primary may send after the peer's acknowledgement, counted from when it sent what is acknowledged.
    pub lease_ms: u64,
    /// Silence after which the primary gives its backup up.
    pub silence_ms: u64,
    /// What a backup gives the primary on top where perhaps only the link died.
    pub head_start_ms: u64,
    /// How long a host that was frozen, or yields, gives the other one to finish taking over.
    pub patience_ms: u64,
    /// How long a starting host waits for its peer before it starts without, where the record says that nobody else has
    /// the state, or says that it waits.
    pub peer_wait_ms: u64,
    pub arbiter_retry_ms: u64,
    pub arbiter_check_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 25,
            lease_ms: 150,
            silence_ms: 400,
            head_start_ms: 100,
            patience_ms: 3000,
            peer_wait_ms: 5000,
            arbiter_retry_ms: 200,
            arbiter_check_ms: 2000,
        }
    }
}

/// Two hosts' clocks run at rates that differ by less than one part in this.
const CLOCK_RATE_PARTS: u64 = 50;
/// What a lease's reader and its kernel program may be late.
const LEASE_GRAIN_MS: u64 = 5;
/// Heartbeats that fit into a lease and into a silence.
const HEARTBEATS_MIN: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("both hosts are called {0}: give each host of the pair its own id")]
    SameHost(HostId),
    #[error("{what} is {is} ms and must be at least {least} ms, because {why}")]
    TooShort { what: &'static str, is: u64, least: u64, why: &'static str },
}

impl Config {
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.me == self.peer {
            return Err(ConfigError::SameHost(self.me));
        }
        self.timing.check()
    }
}

impl Timing {
    /// How long after this host last heard from its peer the peer's lease has run out for certain.
    pub fn peer_lease_ms(&self) -> u64 {
        self.lease_ms + self.lease_ms.div_ceil(CLOCK_RATE_PARTS) + LEASE_GRAIN_MS
    }

    pub fn check(&self) -> Result<(), ConfigError> {
        let at_least = |what, is, least, why| {
            if is < least { Err(ConfigError::TooShort { what, is, least, why }) } else { Ok(()) }
        };
        at_least("heartbeat_ms", self.heartbeat_ms, 1, "a heartbeat takes time")?;
        let beats = self.heartbeat_ms * HEARTBEATS_MIN;
        at_least("lease_ms", self.lease_ms, beats, "a late heartbeat must not silence the service")?;
        at_least("silence_ms", self.silence_ms, self.peer_lease_ms(), "a silent primary's lease must have run out")?;
        at_least("arbiter_retry_ms", self.arbiter_retry_ms, 1, "an arbiter that is down must not be flooded")?;
        at_least("arbiter_check_ms", self.arbiter_check_ms, 1, "an arbiter must not be flooded")?;
        at_least(
            "patience_ms",
            self.patience_ms,
            self.peer_lease_ms(),
            "a host that takes over waits for the other one's lease first",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(Timing::default().check(), Ok(()));
    }

    #[test]
    fn a_silence_shorter_than_the_lease_is_refused() {
        let t = Timing { silence_ms: 155, ..Timing::default() };
        assert!(matches!(t.check(), Err(ConfigError::TooShort { what: "silence_ms", .. })));
    }
}
