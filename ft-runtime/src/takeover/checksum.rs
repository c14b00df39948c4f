//! The Internet checksum (RFC 1071) and the pseudo-headers of TCP and ICMPv6 over it.

use std::net::IpAddr;

/// Of a segment between two addresses of one family; its own checksum field is zero.
///
/// # Panics
/// The families differ, or the segment is longer than a packet can be.
pub fn of_segment(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).expect("a segment fits a packet");
    let addresses = match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => add(add(0, &a.octets()), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => add(add(0, &a.octets()), &b.octets()),
        _ => panic!("a packet has one family"),
    };
    let mut sum = add(addresses + u64::from(protocol) + u64::from(length), segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(sum, |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// RFC 1071: a segment that carries its checksum sums up to zero.
        #[test]
        fn a_summed_segment_sums_to_zero(mut segment in prop::collection::vec(any::<u8>(), 18..200), a: [u8; 16], b: [u8; 16]) {
            let (a, b) = (IpAddr::from(a), IpAddr::from(b));
            segment[16..18].fill(0);
            let sum = of_segment(a, b, 6, &segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(of_segment(a, b, 6, &segment), 0);
        }
    }
}
