//! Who serves: one host of a pair, as a pure state machine, and the arbiter that decides between the two.
//!
//! [`state`] says what a host does about each event; [`rights`] are the values without which it can't; [`book`] is its
//! side of the dealings with the arbiter, whose record stands in [`record`]. Whoever owns a [`state::Machine`] (the
//! engine's one task, or a simulation) turns what happens into [`event::Event`]s and does the [`action::Action`]s in
//! their order.
//!
//! docs/PROTOCOL.md has the record and what goes over wires, docs/decisions/0008-who-serves.md why it is so and what a
//! driver owes; tests/failover_sim holds machine and duties to it.

pub mod action;
pub mod arbiter;
pub mod backups;
pub mod book;
pub mod config;
pub mod event;
pub mod follow;
pub mod message;
pub mod record;
pub mod refusal;
pub mod rights;
pub mod serve;
pub mod start;
pub mod state;
pub mod take;

pub use action::Action;
pub use book::{Answer, RequestId};
pub use config::Config;
pub use event::Event;
pub use message::Message;
pub use record::{HostId, Record};
pub use state::{Kind, Machine};
