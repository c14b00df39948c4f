//! Sockets that lead nowhere yet: datagrams, and Unix sockets that are not connected within the domain. They can be
//! made, set, asked and closed, so that a program which only tries goes on; what would reach somebody outside is
//! refused by name.

use super::fds::{O_CLOEXEC, O_NONBLOCK};
use super::pipe::PairKind;
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

    /// What it is when it is connected.
    pub fn pair_kind(self) -> Option<PairKind> {
        match self.kind {
            STREAM => Some(PairKind::Stream),
            SEQPACKET => Some(PairKind::Seqpacket),
            _ => None,
        }
    }

    pub fn is_unix(self) -> bool {
        self.family == AF_UNIX
    }

    pub fn connects(self) -> bool {
        self.kind != DGRAM
    }

    pub fn mask(self) -> u32 {
        if self.connects() { epoll::OUT | epoll::HUP } else { epoll::OUT }
    }

    pub fn listen(self) -> i64 {
        if self.connects() { EINVAL } else { EOPNOTSUPP } // not bound
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

/// Of a datagram socket. `Ok`: an association was dissolved that never was.
pub fn connect(k: &mut Kernel, address: u64, len: u64) -> Result<(), i64> {
    const AF_UNSPEC: u16 = 0;
    if (len as u32) < 2 {
        return Err(EINVAL);
    }
    if user::read::<u16>(address)? == AF_UNSPEC {
        return Ok(());
    }
    k.refuse("connect of a UDP socket", "datagrams are not yet replicated");
    Err(ENETUNREACH)
}

/// Why nothing can be sent.
pub fn send(k: &mut Kernel, s: Kind, address: u64, len: u64) -> i64 {
    match (s.is_unix(), address != 0) {
        (true, true) if s.connects() => EOPNOTSUPP,
        (true, true) => match super::inner::unix_name(address, len) {
            Ok(name) => reach_path(k, &name),
            Err(e) => e,
        },
        (true, false) => ENOTCONN,
        (false, true) => {
            k.refuse("sending a datagram", "datagrams are not yet replicated");
            ENETUNREACH
        }
        (false, false) => EDESTADDRREQ,
    }
}

/// Why the socket of that name, which is not the domain's, can't be reached: it is not there, or it is refused. Whether
/// it is there is the host's, so it is recorded.
pub fn reach_path(k: &mut Kernel, name: &[u8]) -> i64 {
    const CONNECT: u16 = 42;
    const AT_FDCWD: i32 = -100;
    if name[0] != 0 {
        let (r, _) = k.recorded_call(CONNECT, |_| {
            let mut stat = [0u64; 18];
            // SAFETY: reads a path that ends in 0, fills one stat structure of 144 bytes.
            let r = unsafe { raw!(nr::NEWFSTATAT, AT_FDCWD, name.as_ptr() as u64, stat.as_mut_ptr() as u64, 0) };
            (r, Vec::new())
        });
        if r < 0 {
            return -r;
        }
    }
    k.refuse("AF_UNIX socket to another program", "other programs on the host can't be seen alike by both hosts");
    ECONNREFUSED
}
