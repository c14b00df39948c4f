//! What a host must have before it may protect a service. Each refusal says what is missing and what to do.

use super::error::GateError;
use std::fs;
use std::os::fd::AsRawFd;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// First id, the same outside, all of them: the first user namespace.
const WHOLE_UID_MAP: [&str; 3] = ["0", "0", "4294967295"];

/// Refuses a host that can't have a gate, as far as that can be seen without making one. `v6`: for IPv6 addresses too.
pub fn check(v6: bool) -> Result<(), GateError> {
    let uid_map = fs::read_to_string("/proc/self/uid_map").map_err(GateError::system("reading /proc/self/uid_map"))?;
    if uid_map.split_whitespace().ne(WHOLE_UID_MAP) {
        return Err(GateError::Missing {
            feature: "the host's own user namespace",
            todo: "`ft` runs in a user namespace (a rootless container?), where the kernel allows no lease program: run it as root of the host",
        });
    }
    let status = fs::read_to_string("/proc/thread-self/status").map_err(GateError::system("reading /proc/thread-self/status"))?;
    let effective = effective_capabilities(&status);
    for (bit, feature) in [(CAP_NET_ADMIN, "the capability CAP_NET_ADMIN"), (CAP_SYS_ADMIN, "the capability CAP_SYS_ADMIN")] {
        if effective & 1 << bit == 0 {
            return Err(GateError::Missing { feature, todo: "Run `ft` as root, or give its unit AmbientCapabilities=" });
        }
    }
    for family in [libc::AF_INET, libc::AF_INET6].into_iter().take(if v6 { 2 } else { 1 }) {
        probe_peek_offset(family)?;
    }
    Ok(())
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|v| u64::from_str_radix(v.trim(), 16).ok()).unwrap_or(0)
}

/// SO_PEEK_OFF on TCP: input is committed when it arrives, and consumed when the guest reads.
fn probe_peek_offset(family: i32) -> Result<(), GateError> {
    let domain = socket2::Domain::from(family);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP)).map_err(|_| {
        GateError::Missing { feature: "TCP over IPv6", todo: "The service has an IPv6 address: boot without ipv6.disable=1" }
    })?;
    let zero: libc::c_int = 0;
    // SAFETY: the kernel reads one int from `zero`.
    let r = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const zero).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if r == 0 {
        return Ok(());
    }
    Err(GateError::Missing { feature: "SO_PEEK_OFF on TCP sockets", todo: "Use Linux 6.9 or newer (6.10 for IPv6)" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_as_the_kernel_prints_them() {
        assert_eq!(effective_capabilities("Name:\tft\nCapEff:\t0000000000201000\nCapBnd:\t1\n"), 1 << 12 | 1 << 21);
        assert_eq!(effective_capabilities("Name:\tft\n"), 0);
    }
}
