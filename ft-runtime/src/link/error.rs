//! Why a link is not, or no longer, there: who is to blame, and what to do.

use super::PROTOCOL_VERSION;
use super::keys::PublicKey;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// How far a link had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// TCP.
    Connect,
    /// Proof of keys, agreement on the protocol's version.
    Handshake,
    /// In use.
    Up,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Handshake => "the handshake",
            Self::Up => "use",
        })
    }
}

/// The end of a link. Cheap to clone: it is told as often as it is asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot reach the peer at {peer}: {source}; {}", reach_advice(source))]
    Unreachable { peer: SocketAddr, source: Arc<io::Error> },
    #[error(
        "what is at {peer} has key {theirs}, but the configured key of the peer is {configured}; if that host is the \
         right one, configure its key (printed there by `ft keygen --show FILE`), else correct the address"
    )]
    WrongKey { peer: SocketAddr, theirs: PublicKey, configured: PublicKey },
    #[error("the peer at {peer} does not accept our key {ours}; configure this key as its peer's on that host")]
    KeyRefused { peer: SocketAddr, ours: PublicKey },
    #[error(
        "the peer at {peer} is ft {their_ft} and speaks version {theirs} of the link's protocol, we are ft {} and speak \
         {ours}; install the same ft on both hosts", env!("CARGO_PKG_VERSION")
    )]
    Version { peer: SocketAddr, theirs: u32, their_ft: String, ours: u32 },
    #[error("what is at {peer} is not an ft peer: {what}; correct the address and port of the peer")]
    NotFt { peer: SocketAddr, what: String },
    #[error(
        "the peer at {peer} did not finish {stage} within {seconds} s; does ft run there, is it stopped or overloaded, \
         does a firewall drop packets of the link?"
    )]
    HandshakeTimeout { peer: SocketAddr, stage: Stage, seconds: u64 },
    #[error("{}", closed(peer, *stage, *orderly))]
    Closed { peer: SocketAddr, stage: Stage, orderly: bool },
    #[error(
        "the connection to the peer at {peer} broke during {stage}: {source}; see ft's messages there and the link's cable"
    )]
    Broken { peer: SocketAddr, stage: Stage, source: Arc<io::Error> },
    /// Of the kernel: what we sent is not acknowledged. Silence on top of a working connection is the engine's to notice.
    #[error(
        "the peer at {peer} is silent: for {seconds} s its kernel acknowledged nothing, or ft there took nothing; is the \
         host down, the link's cable out, ft stopped there?"
    )]
    Silent { peer: SocketAddr, seconds: u64 },
    #[error(
        "the peer at {peer} broke the link's protocol (version {PROTOCOL_VERSION}): {what}; this is a fault of ft or of \
         that host's memory: report it"
    )]
    Protocol { peer: SocketAddr, what: String },
    #[error("{what}: {source}")]
    System { what: String, source: Arc<io::Error> },
}

impl LinkError {
    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source: source.into() }
    }
}

fn reach_advice(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "ft does not listen there: is it started, are address and port right?",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "see `ip route get` for the way there; is the link's interface up?"
        }
        io::ErrorKind::TimedOut => "is the host up, does a firewall drop packets of the link?",
        io::ErrorKind::AddrNotAvailable => "this host has no address for it (see `ip address`)",
        _ => "see the peer's address in the configuration",
    }
}

fn closed(peer: &SocketAddr, stage: Stage, orderly: bool) -> String {
    match (stage, orderly) {
        (Stage::Up, true) => format!("the peer at {peer} closed the link; ft was ended there"),
        (Stage::Up, false) => format!("the link to {peer} ended without a good-bye; ft died there: see its messages"),
        _ => format!("the peer at {peer} hung up during {stage}; see ft's messages there, and whether it is ft at all"),
    }
}
