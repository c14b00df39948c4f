//! What the two sides of `ft` say to each other: identities, log entries, rings, shared memory.
//!
//! Laws: no I/O, no clock, no allocation, no panic on foreign bytes. The shim (inside the guest) and
//! the runtime (the engine) both stand on this crate and never see each other otherwise.
#![cfg_attr(not(any(test, loom)), no_std)]

pub mod adopt;
pub mod codec;
pub mod entry;
pub mod history;
pub mod idle;
pub mod ids;
pub mod output_rule;
pub mod ring;
pub mod shared;
