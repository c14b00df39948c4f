//! The service namespace's routes during a takeover: rebuilt sockets take their congestion window and their shortest
//! retransmission timeout from the route, and there is no other way to give them any.
//!
//! Every unicast route of the main table gets the two metrics and, about [`SETTLE`] later, is what it was before.
//! Only attributes are changed, no route ever goes away. A route that is about to expire is left alone.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::time::Duration;

/// So long the takeover's metrics stay.
pub const SETTLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Must exceed the packets of any connection's unacknowledged output: those beyond it would wait.
    pub initcwnd: u32,
    pub rto_min_ms: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { initcwnd: 20_000, rto_min_ms: 10 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("netlink, {step}: {source}; the engine needs CAP_NET_ADMIN in the service's namespace")]
    Netlink { step: &'static str, source: io::Error },
    #[error("netlink sent what isn't a message")]
    Malformed,
}

impl RouteError {
    /// The route went away meanwhile, or its device did (the tap's does).
    fn is_gone(&self) -> bool {
        let Self::Netlink { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
    }
}

/// Routes that were changed, and how to undo it. Dropping it undoes it too, as far as that goes.
#[derive(Debug)]
#[must_use = "dropping it takes the metrics away again"]
pub struct TakeoverRoutes {
    netlink: Netlink,
    /// Bodies of RTM_NEWROUTE as they were.
    before: Vec<Vec<u8>>,
}

impl TakeoverRoutes {
    /// Changes the routes of this thread's network namespace. Before the first [`super::tcp_repair::build`].
    pub fn apply(metrics: Metrics) -> Result<Self, RouteError> {
        let mut netlink = Netlink::open()?;
        let mut all = netlink.dump(libc::AF_INET as u8)?;
        all.extend(netlink.dump(libc::AF_INET6 as u8)?);
        let mut routes = Self { netlink, before: Vec::new() };
        for body in all {
            let Some(route) = Route::parse(&body)? else { continue };
            let changed = route.body(Some(metrics));
            let original = route.body(None);
            routes.netlink.replace(&changed)?;
            routes.before.push(original);
        }
        Ok(routes)
    }

    /// How many were changed.
    pub fn len(&self) -> usize {
        self.before.len()
    }

    pub fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    pub fn undo(mut self) -> Result<(), RouteError> {
        self.put_back()
    }

    /// All of them, whatever fails; then the first failure. A route that is gone needs nothing.
    fn put_back(&mut self) -> Result<(), RouteError> {
        let mut result = Ok(());
        for body in std::mem::take(&mut self.before) {
            match self.netlink.replace(&body) {
                Err(e) if e.is_gone() => {}
                r => result = result.and(r),
            }
        }
        result
    }
}

impl Drop for TakeoverRoutes {
    fn drop(&mut self) {
        let _ = self.put_back();
    }
}

const NLMSG_HEADER_BYTES: usize = 16;
const RTMSG_BYTES: usize = 12;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `<linux/rtnetlink.h>`: what libc lacks.
const RTAX_LOCK: u16 = 1;
const RTAX_RTO_MIN: u16 = 13;
const RTAX_INITCWND: u16 = 11;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const CACHEINFO_EXPIRES_AT: usize = 8;
/// A kernel's dump comes in pieces of at most this.
const DUMP_BUFFER_BYTES: usize = 64 << 10;

/// One route that may be changed, as the kernel described it.
struct Route<'a> {
    header: &'a [u8],
    attributes: Vec<(u16, &'a [u8])>,
}

impl<'a> Route<'a> {
    /// `None`: not one for clients, or one that must not be touched.
    fn parse(body: &'a [u8]) -> Result<Option<Self>, RouteError> {
        let (header, rest) = body.split_at_checked(RTMSG_BYTES).ok_or(RouteError::Malformed)?;
        let (table, kind) = (header[4], header[7]);
        let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let attributes = attributes(rest)?;
        let expires = attributes
            .iter()
            .find(|(k, _)| *k == libc::RTA_CACHEINFO)
            .and_then(|(_, v)| v.get(CACHEINFO_EXPIRES_AT..CACHEINFO_EXPIRES_AT + 4))
            .is_some_and(|e| e != [0; 4]);
        let is_ours = table == libc::RT_TABLE_MAIN && kind == libc::RTN_UNICAST && flags & RTM_F_CLONED == 0;
        Ok((is_ours && !expires).then_some(Self { header, attributes }))
    }

    fn body(&self, metrics: Option<Metrics>) -> Vec<u8> {
        let mut body = self.header.to_vec();
        // The rest of the flags is the kernel's own.
        let flags = u32::from_ne_bytes([body[8], body[9], body[10], body[11]]) & RTNH_F_ONLINK;
        body[8..12].copy_from_slice(&flags.to_ne_bytes());
        let mut of_route: &[u8] = &[];
        for &(kind, value) in &self.attributes {
            match kind {
                libc::RTA_METRICS => of_route = value,
                libc::RTA_CACHEINFO => {}
                _ => push_attribute(&mut body, kind, value),
            }
        }
        let mut nested = of_route.to_vec();
        if let Some(m) = metrics {
            nested.clear();
            let mut locks = 0;
            for (kind, value) in attributes(of_route).unwrap_or_default() {
                match kind {
                    RTAX_LOCK => locks = value.first_chunk().map_or(0, |v| u32::from_ne_bytes(*v)),
                    RTAX_INITCWND | RTAX_RTO_MIN => {}
                    _ => push_attribute(&mut nested, kind, value),
                }
            }
            // TCP heeds the shortest timeout only of a route that locks it (tcp_rto_min).
            push_attribute(&mut nested, RTAX_LOCK, &(locks | 1 << RTAX_RTO_MIN).to_ne_bytes());
            push_attribute(&mut nested, RTAX_INITCWND, &m.initcwnd.to_ne_bytes());
            push_attribute(&mut nested, RTAX_RTO_MIN, &m.rto_min_ms.to_ne_bytes());
        }
        if !nested.is_empty() {
            push_attribute(&mut body, libc::RTA_METRICS, &nested);
        }
        body
    }
}

fn attributes(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, RouteError> {
    let mut all = Vec::new();
    while bytes.len() >= ATTRIBUTE_HEADER_BYTES {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & ATTRIBUTE_TYPE;
        all.push((kind, bytes.get(ATTRIBUTE_HEADER_BYTES..length).ok_or(RouteError::Malformed)?));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(all)
}

fn push_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (ATTRIBUTE_HEADER_BYTES + value.len()) as u16;
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

#[derive(Debug)]
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self, RouteError> {
        let failed = |source| RouteError::Netlink { step: "opening a socket", source };
        let protocol = Some(Protocol::from(libc::NETLINK_ROUTE));
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, protocol).map_err(failed)?;
        Ok(Self { socket, sequence: 0 })
    }

    fn dump(&mut self, family: u8) -> Result<Vec<Vec<u8>>, RouteError> {
        let mut body = [0; RTMSG_BYTES];
        body[0] = family;
        self.send("listing routes", libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body)?;
        let mut all = Vec::new();
        self.answers("listing routes", |kind, body| {
            if kind == libc::RTM_NEWROUTE {
                all.push(body.to_vec());
            }
        })?;
        Ok(all)
    }

    fn replace(&mut self, body: &[u8]) -> Result<(), RouteError> {
        let step = "changing a route";
        self.send(step, libc::RTM_NEWROUTE, libc::NLM_F_REPLACE | libc::NLM_F_ACK, body)?;
        self.answers(step, |_, _| {})
    }

    fn send(&mut self, step: &'static str, kind: u16, flags: i32, body: &[u8]) -> Result<(), RouteError> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
        message.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        self.socket.send(&message).map_err(|source| RouteError::Netlink { step, source })?;
        Ok(())
    }

    /// Until the answer to the last message is complete.
    fn answers(&mut self, step: &'static str, mut each: impl FnMut(u16, &[u8])) -> Result<(), RouteError> {
        let failed = |source| RouteError::Netlink { step, source };
        let mut buffer = vec![0; DUMP_BUFFER_BYTES];
        loop {
            let n = match (&self.socket).read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                r => r.map_err(failed)?,
            };
            let mut rest = &buffer[..n];
            while rest.len() >= NLMSG_HEADER_BYTES {
                let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let (length, kind, sequence) = (word(0) as usize, word(4) as u16, word(8));
                let body = rest.get(NLMSG_HEADER_BYTES..length).ok_or(RouteError::Malformed)?;
                if sequence == self.sequence {
                    match i32::from(kind) {
                        libc::NLMSG_DONE => return Ok(()),
                        libc::NLMSG_ERROR => {
                            let code = i32::from_ne_bytes(*body.first_chunk().ok_or(RouteError::Malformed)?);
                            return if code == 0 { Ok(()) } else { Err(failed(io::Error::from_raw_os_error(-code))) };
                        }
                        _ => each(kind, body),
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn attributes_come_back(all in prop::collection::vec((0u16..0x3fff, prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut bytes = Vec::new();
            for (kind, value) in &all {
                push_attribute(&mut bytes, *kind, value);
            }
            let back: Vec<_> = attributes(&bytes).unwrap().into_iter().map(|(k, v)| (k, v.to_vec())).collect();
            prop_assert_eq!(back, all);
        }

        #[test]
        fn no_bytes_crash_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some(route)) = Route::parse(&bytes) {
                route.body(Some(Metrics::default()));
            }
        }
    }
}
