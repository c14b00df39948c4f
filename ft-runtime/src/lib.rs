//! The engine's host side: launching a guest, owning its connections, recording and replaying its log.

pub mod archive;
pub mod config;
pub mod engine;
pub mod failover;
pub mod flight;
pub mod front;
pub mod gate;
pub mod gdb;
pub mod guest;
pub mod link;
pub mod logfile;
pub mod monitor;
pub mod overlay;
pub mod pair;
pub mod preload;
pub mod probe;
pub mod record;
pub mod replay;
pub mod rig;
pub mod snapshot;
pub mod start;
pub mod takeover;
pub mod tap;
pub mod until;
