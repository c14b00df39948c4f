//! Which birth an accepted connection is.
//!
//! An address alone doesn't say: a client may have tried twice from the same port. The kernel keeps each connection's
//! SYN for us, and with it the client's initial sequence number.

use super::packet::{Packet, Seq};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const TCP_SAVE_SYN: libc::c_int = 27;
const TCP_SAVED_SYN: libc::c_int = 28;
/// IP and TCP header at their longest, and extension headers.
const SYN_BYTES_MAX: usize = 512;

/// To be called on a listening socket, before its first connection.
pub fn keep(listener: BorrowedFd) -> io::Result<()> {
    crate::engine::sys::set_option(listener, libc::IPPROTO_TCP, TCP_SAVE_SYN, 1)
}

/// The client's initial sequence number of an accepted connection. Once per connection: the kernel gives it away.
pub fn client_isn(connection: BorrowedFd) -> io::Result<Seq> {
    let mut bytes = [0u8; SYN_BYTES_MAX];
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `bytes`, and how many to `length`.
    let r = unsafe {
        libc::getsockopt(
            connection.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_SAVED_SYN,
            bytes.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // Headers only: a SYN's data is not kept.
    match Packet::parse(&bytes[..length as usize], u32::MAX) {
        Ok(Packet::Tcp(s)) => Ok(s.seq),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
