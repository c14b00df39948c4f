//! The engine's host side: launching a guest, owning its connections, recording and replaying its log.

pub mod archive;
pub mod engine;
pub mod failover;
pub mod front;
pub mod guest;
pub mod logfile;
pub mod overlay;
pub mod record;
pub mod replay;
pub mod start;
