//! How control reaches the shim: at the program's first instruction, by a trapped system call, by a rewritten one, by a
//! fault.

pub mod entry;
pub mod fault;
pub mod frame;
pub mod functions;
pub mod hook;
pub mod instructions;
pub mod patch;
