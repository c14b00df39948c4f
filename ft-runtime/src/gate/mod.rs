//! The gate: holds the kernel to the output rule.

pub mod boot_time;
pub mod judge;
pub mod packet;
