//! How control reaches the shim: at the program's first instruction, by a trapped system call, by a fault.

pub mod entry;
pub mod fault;
pub mod frame;
