//! Sockets that lead nowhere: datagrams and AF_UNIX. They can be made, set, asked and closed, so that a program which
//! only tries goes on; what would reach somebody outside is refused by name.

use super::fds::{O_CLOEXEC, O_NONBLOCK};
use super::{Kernel, epoll};
use crate::raw::*;
use crate::user;
use alloc::vec::Vec;

pub const AF_UNIX: u16 = 1;
pub const STREAM: u32 = 1;
pub const DGRAM: u32 = 2;
const RAW: u32 = 3;
const SEQPACKET: u32 = 5;

/// What such a socket is: all there is to know of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub family: u16,
    /// SO_TYPE.
    pub kind: u32,
}

impl Kind {
    /// What `socket` makes of its arguments; an errno where there is no such socket. `kind` is without flags.
    pub fn new(family: u16, kind: u32, protocol: u64) -> Result<Self, i64> {
        assert!(kind & (O_CLOEXEC | O_NONBLOCK) == 0);
        const IPPROTO_UDP: u64 = 17;
        if family == AF_UNIX {
            if protocol > 1 {
                return Err(EPROTONOSUPPORT);
            }
            return match kind {
                STREAM | DGRAM | SEQPACKET => Ok(Self { family, kind }),
                RAW => Ok(Self { family, kind: DGRAM }),
                _ => Err(ESOCKTNOSUPPORT),
            };
        }
        match (kind, protocol) {
            (DGRAM, 0 | IPPROTO_UDP) => Ok(Self { family, kind }),
            (STREAM | DGRAM, _) => Err(EPROTONOSUPPORT),
            (RAW, _) => Err(EPERM),
            _ => Err(ESOCKTNOSUPPORT),
        }
    }

    fn is_unix(self) -> bool {
        self.family == AF_UNIX
    }

    fn connects(self) -> bool {
        self.kind != DGRAM
    }

    /// SO_PROTOCOL.
    pub fn protocol(self) -> i32 {
        if self.is_unix() { 0 } else { 17 }
    }

    pub fn mask(self) -> u32 {
        if self.connects() { epoll::OUT | epoll::HUP } else { epoll::OUT }
    }

    pub fn listen(self) -> i64 {
        if self.connects() { EINVAL } else { EOPNOTSUPP } // not bound, and can't be
    }

    /// `Ok`: nothing, now or ever.
    pub fn read(self) -> Result<(), i64> {
        match self.kind {
            DGRAM => Ok(()),
            STREAM => Err(EINVAL),
            _ => Err(ENOTCONN),
        }
    }
}

pub fn bind(k: &mut Kernel, s: Kind) -> i64 {
    if s.is_unix() {
        k.refuse("bind of an AF_UNIX socket", "other programs on the host can't be seen alike by both hosts");
    } else {
        k.refuse("bind of a UDP socket", "datagrams are not yet replicated");
    }
    EADDRNOTAVAIL
}

/// `Ok`: an association was dissolved that never was.
pub fn connect(k: &mut Kernel, s: Kind, address: u64, len: u64) -> Result<(), i64> {
    const AF_UNSPEC: u16 = 0;
    if (len as u32) < 2 {
        return Err(EINVAL);
    }
    let family = user::read::<u16>(address)?;
    if s.is_unix() {
        return Err(reach_path(k, address, len));
    }
    if family == AF_UNSPEC {
        return Ok(());
    }
    k.refuse("connect of a UDP socket", "datagrams are not yet replicated");
    Err(ENETUNREACH)
}

/// Why nothing can be sent.
pub fn send(k: &mut Kernel, s: Kind, address: u64, len: u64) -> i64 {
    match (s.is_unix(), address != 0) {
        (true, true) if s.connects() => EOPNOTSUPP,
        (true, true) => reach_path(k, address, len),
        (true, false) => ENOTCONN,
        (false, true) => {
            k.refuse("sending a datagram", "datagrams are not yet replicated");
            ENETUNREACH
        }
        (false, false) => EDESTADDRREQ,
    }
}

/// Why the socket at an AF_UNIX address can't be reached: it is not there, or it is refused. Whether it is there is
/// the host's, so it is recorded.
fn reach_path(k: &mut Kernel, address: u64, len: u64) -> i64 {
    const ADDRESS_BYTES_MAX: u64 = 110;
    const CONNECT: u16 = 42;
    const NEWFSTATAT: usize = nr::NEWFSTATAT;
    let len = len as u32 as u64;
    if !(3..=ADDRESS_BYTES_MAX).contains(&len) {
        return EINVAL;
    }
    let mut b = [0u8; ADDRESS_BYTES_MAX as usize + 1];
    if let Err(e) = user::copy_in(&mut b[..len as usize], address) {
        return e;
    }
    if u16::from_le_bytes([b[0], b[1]]) != AF_UNIX {
        return EINVAL;
    }
    let abstract_name = b[2] == 0;
    if !abstract_name {
        let (r, _) = k.recorded_call(CONNECT, |_| {
            let mut stat = [0u64; 18];
            const AT_FDCWD: i32 = -100;
            // SAFETY: reads a path that ends in 0, fills one stat structure of 144 bytes.
            let r = unsafe { raw!(NEWFSTATAT, AT_FDCWD, b[2..].as_ptr() as u64, stat.as_mut_ptr() as u64, 0) };
            (r, Vec::new())
        });
        if r < 0 {
            return -r;
        }
    }
    k.refuse("AF_UNIX socket to another program", "other programs on the host can't be seen alike by both hosts");
    ECONNREFUSED
}
