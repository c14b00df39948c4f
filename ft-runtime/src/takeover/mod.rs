//! What becoming primary does to the world: the clients' connections, their routes, the address.
//!
//! Everything here runs on a thread of the service's network namespace and needs CAP_NET_ADMIN and CAP_NET_RAW in it.

pub mod address;
mod checksum;
pub mod route;
pub mod tcp_repair;
