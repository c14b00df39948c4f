//! The engine's host side: launching a guest, owning its connections, recording and replaying its log.

pub mod engine;
pub mod front;
pub mod guest;
pub mod logfile;
