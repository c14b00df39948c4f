//! The gateways of default routes through an interface: probed where the configuration names nothing else.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// In this thread's network namespace.
pub fn gateways(interface: &str) -> Vec<IpAddr> {
    let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let (v4, v6) = (read("route"), read("ipv6_route"));
    let v4 = v4.lines().filter_map(|l| of_route(l, interface)).map(IpAddr::V4);
    let mut all: Vec<IpAddr> = v4.chain(v6.lines().filter_map(|l| of_route6(l, interface)).map(IpAddr::V6)).collect();
    all.sort();
    all.dedup();
    all
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`: numbers as the processor has them in memory.
fn of_route(line: &str, interface: &str) -> Option<Ipv4Addr> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |k: usize| u32::from_str_radix(fields.get(k)?, 16).ok();
    let is_default = number(1)? == 0 && number(7)? == 0;
    let gateway = Ipv4Addr::from(number(2)?.to_ne_bytes());
    (fields[0] == interface && is_default && !gateway.is_unspecified()).then_some(gateway)
}

/// `destination length source length next-hop metric refcount use flags interface`.
fn of_route6(line: &str, interface: &str) -> Option<Ipv6Addr> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |k: usize| u128::from_str_radix(fields.get(k)?, 16).ok();
    let is_default = number(0)? == 0 && number(1)? == 0;
    let gateway = Ipv6Addr::from(number(4)?);
    (fields.get(9) == Some(&interface) && is_default && !gateway.is_unspecified()).then_some(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_default_routes_through_the_interface_count() {
        let gateway = u32::from_ne_bytes([10, 77, 0, 1]);
        let line = |name: &str, to: &str| format!("{name}\t{to}\t{gateway:08X}\t0003\t0\t0\t0\t{to}\t0\t0\t0");
        assert_eq!(of_route(&line("eth0", "00000000"), "eth0"), Some("10.77.0.1".parse().unwrap()));
        assert_eq!(of_route(&line("eth0", "0000FFFF"), "eth0"), None);
        assert_eq!(of_route(&line("eth1", "00000000"), "eth0"), None);
        assert_eq!(of_route("Iface\tDestination\tGateway \tFlags", "eth0"), None);
        let zero = "0".repeat(32);
        let line = |via: &str| format!("{zero} 00 {zero} 00 {via} 00000400 00000001 00000000 00000003     eth0");
        let via = "fe8000000000000000000000000000ff";
        assert_eq!(of_route6(&line(via), "eth0"), Some("fe80::ff".parse().unwrap()));
        assert_eq!(of_route6(&line(&zero), "eth0"), None);
        assert_eq!(of_route6(&line(via), "eth1"), None);
    }
}
