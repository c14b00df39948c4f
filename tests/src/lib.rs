//! What the suites are built from: guest programs, processes with a time limit, runs that are recorded and replayed.
//!
//! Laws: a process that a test starts ends with the test, whatever happens; it is ended by its id. Every test has a
//! directory of its own, its ports are given by the kernel. A limit that is reached says which one, and what the
//! process had written by then.

pub mod flight;
pub mod guest;
pub mod incident;
pub mod left_out;
pub mod process;
pub mod redis;
