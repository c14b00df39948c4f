//! The arbiter as a small server on a third machine: `ft witness`.
//!
//! `wire` is what the two say, and pure; `seal` proves who says it; `client` asks, as a [`Keeper`](super::Keeper);
//! `server` answers; `store` is its disk. All run over any stream of bytes: plain TCP with a shared key, or a stream
//! that is encrypted and knows its peer itself, with [`seal::Seal::ByStream`].

pub mod client;
pub mod command;
pub mod seal;
pub mod server;
pub mod store;
pub mod wire;
