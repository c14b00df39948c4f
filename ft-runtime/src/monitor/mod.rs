//! What is found out when the two hosts of a pair, or a guest and its recording, did different things: the scene where it was noticed, and the
//! report that people read.
//!
//! Laws: looking changes nothing of the guest; what can't be found out is left out, and never keeps anybody from healing.

pub mod backtrace;
pub mod reports;
pub mod scene;
