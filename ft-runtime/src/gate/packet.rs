//! What the gate needs to know of an IP packet: whose it is, and what it acknowledges.
//!
//! Pure, on foreign bytes: every access is checked, nothing panics, and what can't be read is [`Unreadable`].
//! Packets may be cut (the queue copies their first bytes only) and may be longer than any wire allows (GSO).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A connection's addresses, seen from the service. IPv4-mapped IPv6 addresses are IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    local: (IpAddr, u16),
    peer: (IpAddr, u16),
}

impl Tuple {
    pub fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        let canonical = |a: SocketAddr| (a.ip().to_canonical(), a.port());
        Self { local: canonical(local), peer: canonical(peer) }
    }

    pub fn local(&self) -> SocketAddr {
        self.local.into()
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer.into()
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.peer(), self.local())
    }
}

/// A TCP sequence number; compared on the circle (RFC 9293, 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Positions further; a stream may be longer than the circle.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.wrapping_add(n as u32))
    }

    /// `self` lies behind `other`, no further than half the circle.
    pub fn is_after(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) > 0
    }
}

/// TCP header flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;

    pub fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    pub value: u32,
    pub echo: u32,
}

/// The options of a SYN or SYN-ACK, read as Linux reads them (`tcp_parse_options`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SynOptions {
    raw: [u8; OPTIONS_BYTES_MAX],
    raw_len: u8,
    pub mss: Option<u16>,
    /// Shift, at most 14.
    pub window_scale: Option<u8>,
    pub sack: bool,
    pub timestamps: Option<Timestamps>,
}

/// A TCP header has no room for more.
pub const OPTIONS_BYTES_MAX: usize = 40;
/// RFC 7323, 2.3.
const WINDOW_SCALE_MAX: u8 = 14;

impl SynOptions {
    /// `None`: longer than a header can hold.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut raw = [0; OPTIONS_BYTES_MAX];
        raw.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let mut options =
            Self { raw, raw_len: bytes.len() as u8, mss: None, window_scale: None, sack: false, timestamps: None };
        let mut rest = bytes;
        loop {
            match rest {
                [] | [0, ..] => break,
                [1, tail @ ..] => rest = tail,
                [kind, size, ..] if *size >= 2 && usize::from(*size) <= rest.len() => {
                    let (option, tail) = rest.split_at(usize::from(*size));
                    match (*kind, &option[2..]) {
                        // Linux takes no notice of a zero MSS.
                        (2, &[a, b]) if (a, b) != (0, 0) => options.mss = Some(u16::from_be_bytes([a, b])),
                        (3, &[shift]) => options.window_scale = Some(shift.min(WINDOW_SCALE_MAX)),
                        (4, &[]) => options.sack = true,
                        (8, &[a, b, c, d, e, f, g, h]) => {
                            options.timestamps = Some(Timestamps {
                                value: u32::from_be_bytes([a, b, c, d]),
                                echo: u32::from_be_bytes([e, f, g, h]),
                            });
                        }
                        _ => {}
                    }
                    rest = tail;
                }
                _ => break,
            }
        }
        Some(options)
    }

    /// As they were on the wire.
    pub fn raw(&self) -> &[u8] {
        &self.raw[..usize::from(self.raw_len)]
    }
}

impl std::fmt::Debug for SynOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SynOptions")
            .field("mss", &self.mss)
            .field("window_scale", &self.window_scale)
            .field("sack", &self.sack)
            .field("timestamps", &self.timestamps)
            .field("raw", &self.raw())
            .finish()
    }
}

/// A TCP segment; source and destination as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub seq: Seq,
    pub ack: Seq,
    pub flags: Flags,
    /// As in the header: not scaled.
    pub window: u16,
    pub payload_bytes: u32,
    pub options: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Tcp(Segment<'a>),
    Udp,
    /// ICMP or ICMPv6 (told apart by `v6`) of this type.
    Icmp { v6: bool, kind: u8 },
    /// Another protocol, or a fragment.
    Other,
}

/// It is no IP packet, or its headers contradict each other or go beyond what was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Hop-by-hop (MLD and jumbograms have one), routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// More extension headers than this are not read.
const EXTENSIONS_MAX: usize = 8;

impl<'a> Packet<'a> {
    /// `bytes`: the packet from its IP header on, perhaps cut; `length`: what it has in all.
    pub fn parse(bytes: &'a [u8], length: u32) -> Result<Self, Unreadable> {
        match bytes.first().ok_or(Unreadable)? >> 4 {
            4 => Self::parse_v4(bytes, length),
            6 => Self::parse_v6(bytes, length),
            _ => Err(Unreadable),
        }
    }

    fn parse_v4(bytes: &'a [u8], length: u32) -> Result<Self, Unreadable> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Unreadable)?;
        let header_bytes = usize::from(header[0] & 15) * 4;
        if header_bytes < 20 {
            return Err(Unreadable);
        }
        let told = u16::from_be_bytes([header[2], header[3]]);
        let length = total(told.into(), length)?;
        if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
            return Ok(Self::Other);
        }
        let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let rest = bytes.get(header_bytes..).ok_or(Unreadable)?;
        let rest_length = length.checked_sub(header_bytes as u32).ok_or(Unreadable)?;
        Self::parse_transport(header[9], rest, rest_length, source.into(), destination.into())
    }

    fn parse_v6(bytes: &'a [u8], length: u32) -> Result<Self, Unreadable> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(Unreadable)?;
        let address = |at: usize| {
            let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes of forty");
            Ipv6Addr::from(octets)
        };
        let told = u32::from(u16::from_be_bytes([header[4], header[5]]));
        let length = total(if told == 0 { 0 } else { told + 40 }, length)?;
        let mut rest_length = length.checked_sub(40).ok_or(Unreadable)?;
        let mut rest = &bytes[40..];
        let mut next = header[6];
        for _ in 0..EXTENSIONS_MAX {
            if !EXTENSIONS.contains(&next) {
                return Self::parse_transport(next, rest, rest_length, address(8).into(), address(24).into());
            }
            let extension: &[u8; 2] = rest.first_chunk().ok_or(Unreadable)?;
            let extension_bytes = (usize::from(extension[1]) + 1) * 8;
            next = extension[0];
            rest = rest.get(extension_bytes..).ok_or(Unreadable)?;
            rest_length = rest_length.checked_sub(extension_bytes as u32).ok_or(Unreadable)?;
        }
        Err(Unreadable)
    }

    fn parse_transport(
        protocol: u8,
        bytes: &'a [u8],
        length: u32,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Self, Unreadable> {
        match protocol {
            TCP => {
                let h: &[u8; 20] = bytes.first_chunk().ok_or(Unreadable)?;
                let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
                let half = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
                let header_bytes = usize::from(h[12] >> 4) * 4;
                Ok(Self::Tcp(Segment {
                    source: SocketAddr::new(source, half(0)),
                    destination: SocketAddr::new(destination, half(2)),
                    seq: Seq(word(4)),
                    ack: Seq(word(8)),
                    flags: Flags(h[13]),
                    window: half(14),
                    payload_bytes: length.checked_sub(header_bytes as u32).ok_or(Unreadable)?,
                    options: bytes.get(20..header_bytes).ok_or(Unreadable)?,
                }))
            }
            UDP => Ok(Self::Udp),
            ICMP if source.is_ipv4() => Ok(Self::Icmp { v6: false, kind: *bytes.first().ok_or(Unreadable)? }),
            ICMP6 if source.is_ipv6() => Ok(Self::Icmp { v6: true, kind: *bytes.first().ok_or(Unreadable)? }),
            _ => Ok(Self::Other),
        }
    }
}

/// The header's own length, 0 when it doesn't fit there (jumbo GSO); never more than there is.
fn total(told: u32, length: u32) -> Result<u32, Unreadable> {
    match told {
        0 => Ok(length),
        told if told <= length => Ok(told),
        _ => Err(Unreadable),
    }
}

#[cfg(test)]
pub(super) mod build {
    //! Packets for tests.

    use super::*;

    /// An IP packet around a TCP segment; payload of zeros.
    pub fn tcp(s: &Segment) -> Vec<u8> {
        assert!(s.options.len().is_multiple_of(4));
        let mut t = Vec::new();
        t.extend(s.source.port().to_be_bytes());
        t.extend(s.destination.port().to_be_bytes());
        t.extend(s.seq.0.to_be_bytes());
        t.extend(s.ack.0.to_be_bytes());
        t.push(((20 + s.options.len()) / 4 * 16) as u8);
        t.push(s.flags.0);
        t.extend(s.window.to_be_bytes());
        t.extend([0; 4]);
        t.extend(s.options);
        t.resize(t.len() + s.payload_bytes as usize, 0);
        ip(TCP, s.source.ip(), s.destination.ip(), &t)
    }

    pub fn ip(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(20 + payload.len()).unwrap_or(0);
                let mut p = vec![0x45, 0];
                p.extend(length.to_be_bytes());
                p.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                p.extend(source.octets());
                p.extend(destination.octets());
                p.extend(payload);
                p
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut p = vec![0x60, 0, 0, 0];
                p.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
                p.extend([protocol, 64]);
                p.extend(source.octets());
                p.extend(destination.octets());
                p.extend(payload);
                p
            }
            _ => panic!("addresses of two families"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(v6: bool) -> Segment<'static> {
        let (source, destination) = if v6 { ("[fd00::9]:80", "[fd00::1]:4000") } else { ("10.0.0.9:80", "10.0.0.1:4000") };
        Segment {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            seq: Seq(0xffff_fff0),
            ack: Seq(7),
            flags: Flags(Flags::ACK | Flags::PSH),
            window: 501,
            payload_bytes: 33,
            options: &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        }
    }

    #[test]
    fn a_segment_is_read_as_it_was_built() {
        for v6 in [false, true] {
            let s = segment(v6);
            let p = build::tcp(&s);
            assert_eq!(Packet::parse(&p, p.len() as u32), Ok(Packet::Tcp(s)));
            // The queue copies headers only: what was cut off still counts.
            let header = p.len() - 33;
            assert_eq!(Packet::parse(&p[..header], p.len() as u32), Ok(Packet::Tcp(s)));
            assert_eq!(Packet::parse(&p[..header - 1], p.len() as u32), Err(Unreadable));
        }
    }

    #[test]
    fn a_segment_beyond_the_length_field_counts_by_the_queue_s_length() {
        for v6 in [false, true] {
            let s = Segment { payload_bytes: 180_000, ..segment(v6) };
            let p = build::tcp(&s);
            assert_eq!(Packet::parse(&p[..128], p.len() as u32), Ok(Packet::Tcp(s)));
        }
    }

    #[test]
    fn padding_behind_a_packet_is_no_payload() {
        let s = segment(false);
        let mut p = build::tcp(&s);
        p.extend([0; 6]);
        assert_eq!(Packet::parse(&p, p.len() as u32), Ok(Packet::Tcp(s)));
    }

    #[test]
    fn other_protocols_and_fragments() {
        let (a, b) = (IpAddr::from([10, 0, 0, 9]), IpAddr::from([10, 0, 0, 1]));
        let (c, d) = (IpAddr::V6("fe80::1".parse().unwrap()), IpAddr::V6("ff02::16".parse().unwrap()));
        fn parse(p: &[u8]) -> Packet<'_> {
            Packet::parse(p, p.len() as u32).unwrap()
        }
        assert_eq!(parse(&build::ip(UDP, a, b, &[0; 8])), Packet::Udp);
        assert_eq!(parse(&build::ip(ICMP, a, b, &[3, 3, 0, 0])), Packet::Icmp { v6: false, kind: 3 });
        assert_eq!(parse(&build::ip(ICMP6, c, d, &[136, 0])), Packet::Icmp { v6: true, kind: 136 });
        assert_eq!(parse(&build::ip(132, a, b, &[0; 8])), Packet::Other);
        let mld = [[ICMP6, 0, 5, 2, 0, 0, 1, 0], [143, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(parse(&build::ip(0, c, d, &mld)), Packet::Icmp { v6: true, kind: 143 });
        let mut fragment = build::tcp(&segment(false));
        fragment[6] = 0x20;
        assert_eq!(parse(&fragment), Packet::Other);
    }

    #[test]
    fn options_as_a_client_sends_them() {
        let raw = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 3, 7];
        let o = SynOptions::parse(&raw).unwrap();
        assert_eq!((o.mss, o.window_scale, o.sack), (Some(1460), Some(7), true));
        assert_eq!(o.timestamps, Some(Timestamps { value: 256, echo: 0 }));
        assert_eq!(o.raw(), raw);
    }

    #[test]
    fn options_that_linux_takes_no_notice_of() {
        let parse = |b: &[u8]| SynOptions::parse(b).unwrap();
        assert_eq!(parse(&[2, 4, 0, 0]).mss, None, "a zero MSS");
        assert_eq!(parse(&[2, 3, 5, 4, 2]).mss, None, "a size that isn't the kind's");
        assert!(parse(&[2, 3, 5, 4, 2]).sack, "what follows it is read");
        assert!(!parse(&[0, 4, 2]).sack, "behind the end of options");
        assert!(!parse(&[9, 1, 4, 2]).sack, "behind a size that can't be");
        assert!(!parse(&[9, 30, 4, 2]).sack, "behind a size beyond the header");
        assert_eq!(parse(&[3, 3, 200]).window_scale, Some(14));
        assert_eq!(parse(&[8]).timestamps, None);
        assert!(SynOptions::parse(&[1; 41]).is_none());
    }

    #[test]
    fn sequence_numbers_go_round() {
        assert!(Seq(5).is_after(Seq(u32::MAX - 5)));
        assert!(!Seq(u32::MAX - 5).is_after(Seq(5)));
        assert!(!Seq(5).is_after(Seq(5)));
        assert_eq!(Seq(u32::MAX).plus(1), Seq(0));
        assert_eq!(Seq(9).plus(5 << 32), Seq(9));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let plain = Tuple::new("10.0.0.9:80".parse().unwrap(), "10.0.0.1:4000".parse().unwrap());
        let mapped = Tuple::new("[::ffff:10.0.0.9]:80".parse().unwrap(), "[::ffff:10.0.0.1]:4000".parse().unwrap());
        assert_eq!(plain, mapped);
        assert_eq!(plain.to_string(), "10.0.0.1:4000 -> 10.0.0.9:80");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..160), length in any::<u32>()) {
            let _ = Packet::parse(&bytes, length);
            let _ = SynOptions::parse(&bytes);
        }

        #[test]
        fn no_damage_to_a_segment_makes_it_panic(
            v6 in any::<bool>(),
            damage in prop::collection::vec((0usize..100, any::<u8>()), 0..6),
            cut in 0usize..130,
        ) {
            let mut p = build::tcp(&segment(v6));
            let length = p.len();
            for (at, value) in damage {
                p[at % length] = value;
            }
            p.truncate(cut);
            if let Ok(Packet::Tcp(s)) = Packet::parse(&p, length as u32) {
                prop_assert!(s.options.len() <= OPTIONS_BYTES_MAX);
                prop_assert!(s.payload_bytes as usize <= length);
                prop_assert!(SynOptions::parse(s.options).is_some());
            }
        }
    }
}
