//! Whether the network sends to all ports what is for the shared address. Tried once, before the service starts: where it
//! does not, the primary would not be reached either.

use super::{ETHERNET_HEADER_BYTES, Tap, TapError, VNET_HEADER_BYTES, failed};
use crate::takeover::address::{Mac, bind_to_link};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;

/// For local experiments (IEEE 802, 9.2.2): nobody else's.
const ETHERTYPE: u16 = 0x88b5;
const WORDS: &[u8] = b"ft: does this network flood?";
/// A shorter one is padded by some cards and refused by others.
const FRAME_BYTES: usize = 60;

/// Speaks to the shared address, from the host's own.
pub struct Caller {
    socket: Socket,
    frame: [u8; FRAME_BYTES],
}

impl Caller {
    /// `interface`: the service network's, in the calling thread's namespace.
    pub fn open(interface: &str, to: Mac) -> Result<Self, TapError> {
        let opening = failed("a packet socket on the service network's interface");
        let index = nix::net::if_::if_nametoindex(interface).map_err(|e| opening(io::Error::from(e)))?;
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0))).map_err(&opening)?;
        let own = bind_to_link(&socket, index, 0).map_err(&opening)?;
        let mut frame = [0; FRAME_BYTES];
        let head = [&to[..], &own, &ETHERTYPE.to_be_bytes(), WORDS].concat();
        frame[..head.len()].copy_from_slice(&head);
        Ok(Self { socket, frame })
    }

    pub fn call(&self) -> Result<(), TapError> {
        self.socket.send(&self.frame).map(|_| ()).map_err(failed("sending on the service network"))
    }
}

impl Tap {
    /// Whether a caller was heard; throws away what came before it.
    pub fn hears_caller(&self) -> bool {
        let mut frame = [0; 2048];
        while let Some(n) = self.ears[0].next(&mut frame) {
            if frame[..n].get(VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES..).is_some_and(|f| f.starts_with(WORDS)) {
                return true;
            }
        }
        false
    }
}
