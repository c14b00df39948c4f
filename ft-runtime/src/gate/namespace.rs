//! The service's own network: a namespace without a name, held by descriptors only, with one interface to the world.
//!
//! Laws: no firewall tool of the host reaches into it; it is gone when the last descriptor of it is (the engine's, and
//! the kernel's own for connections that a dead engine left half closed, a minute or two: [`super::lease`] keeps those
//! silent); its interface comes up only after [`super::lease`] has shut it.

use super::error::GateError;
use super::netlink::{self, Request};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::SockProtocol;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The interface's name inside. There is no other beside `lo`.
const INTERFACE: &str = "service";

/// A network namespace, by a descriptor.
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// A new one, empty.
    pub fn create() -> io::Result<Self> {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The calling thread's.
    pub fn current() -> io::Result<Self> {
        Ok(Self { fd: File::open("/proc/thread-self/ns/net")?.into() })
    }

    /// Takes the calling thread into this namespace for good.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.fd, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `f` with the calling thread in this namespace, and comes back. Sockets that `f` opens stay in it.
    ///
    /// Ends the process if it can't come back: everything after would speak in the wrong network.
    pub fn within<R>(&self, f: impl FnOnce() -> R) -> io::Result<R> {
        struct Back(Namespace);
        impl Drop for Back {
            fn drop(&mut self) {
                if let Err(e) = setns(&self.0.fd, CloneFlags::CLONE_NEWNET) {
                    eprintln!("ft: cannot return to the host's network namespace: {e}");
                    std::process::abort();
                }
            }
        }
        let back = Back(Self::current()?);
        setns(&self.fd, CloneFlags::CLONE_NEWNET)?;
        let result = f();
        drop(back);
        Ok(result)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Namespace {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// An address of the service with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    ip: IpAddr,
    prefix: u8,
}

impl Address {
    pub fn new(ip: IpAddr, prefix: u8) -> Result<Self, GateError> {
        let refuse = |why: &str| Err(GateError::Address { address: format!("{ip}/{prefix}"), why: why.into() });
        if prefix > bits(ip) || prefix == 0 {
            return refuse("a prefix has 1 to 32 bits, for IPv6 1 to 128");
        }
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return refuse("clients cannot reach a service there");
        }
        Ok(Self { ip, prefix })
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network's first address.
    fn network(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX << (32 - self.prefix)).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX << (128 - self.prefix)).into()),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = GateError;

    fn from_str(s: &str) -> Result<Self, GateError> {
        let parsed = s.split_once('/').and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
        match parsed {
            Some((ip, prefix)) => Self::new(ip, prefix),
            None => Err(GateError::Address { address: s.into(), why: "expected ADDRESS/PREFIX".into() }),
        }
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

/// What must be set in the namespace, and to what.
const SETTINGS: [(&str, &str); 15] = [
    // A cookie is a birth that only the kernel knows.
    ("ipv4/tcp_syncookies", "0"),
    // Neither can be restored on another host.
    ("ipv4/tcp_ecn", "0"),
    ("ipv4/tcp_fastopen", "0"),
    // Else a small write waits until the packet before it has left the gate's queue: at a takeover, the last byte of what is
    // repeated, without which the kernel takes no acknowledgement of it.
    ("ipv4/tcp_autocorking", "0"),
    // Protects against what a stale host says after a takeover (PAWS).
    ("ipv4/tcp_timestamps", "1"),
    // The judge's lifetimes are made for it.
    ("ipv4/tcp_synack_retries", "5"),
    ("ipv4/ip_forward", "0"),
    // Sockets are restored before the address is there.
    ("ipv4/ip_nonlocal_bind", "1"),
    // Frames for the service may come in where a route doesn't lead out.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Also frames whose sender is the service itself: the backup's tap gives such back.
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// The same for IPv6.
const SETTINGS_V6: [(&str, &str); 7] = [
    ("ipv6/ip_nonlocal_bind", "1"),
    ("ipv6/conf/all/forwarding", "0"),
    // Which addresses the service has is configured, not advertised.
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/autoconf", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    // Detecting duplicates takes a second in which an address can't be used, and at a takeover there is none.
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
];

/// What the host's administrator may have tuned, and a new namespace doesn't take over.
const INHERITED: [&str; 16] = [
    "core/somaxconn",
    "ipv4/ip_local_port_range",
    "ipv4/tcp_congestion_control",
    "ipv4/tcp_fin_timeout",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_notsent_lowat",
    "ipv4/tcp_retries1",
    "ipv4/tcp_retries2",
    "ipv4/tcp_rmem",
    "ipv4/tcp_sack",
    "ipv4/tcp_slow_start_after_idle",
    "ipv4/tcp_window_scaling",
    "ipv4/tcp_wmem",
];

/// Linux's numbers (`linux/rtnetlink.h`, `if_link.h`, `if_addr.h`).
mod rt {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const NEWROUTE: u16 = 24;
    pub const CREATE: u16 = 0x400;
    pub const EXCL: u16 = 0x200;
    pub const IFLA_ADDRESS: u16 = 1;
    pub const IFLA_IFNAME: u16 = 3;
    pub const IFLA_MTU: u16 = 4;
    pub const IFLA_LINK: u16 = 5;
    pub const IFLA_LINKINFO: u16 = 18;
    pub const IFLA_NET_NS_FD: u16 = 28;
    pub const IFLA_INFO_KIND: u16 = 1;
    pub const IFLA_INFO_DATA: u16 = 2;
    pub const IFLA_MACVLAN_MODE: u16 = 1;
    pub const MACVLAN_MODE_BRIDGE: u32 = 4;
    pub const IFA_ADDRESS: u16 = 1;
    pub const IFA_LOCAL: u16 = 2;
    pub const IFA_FLAGS: u16 = 8;
    pub const IFA_F_NODAD: u32 = 0x02;
    pub const IFA_F_NOPREFIXROUTE: u32 = 0x200;
    pub const RTA_DST: u16 = 1;
    pub const RTA_OIF: u16 = 4;
    pub const RTA_GATEWAY: u16 = 5;
    pub const TABLE_MAIN: u8 = 254;
    pub const PROTOCOL_STATIC: u8 = 4;
    pub const SCOPE_UNIVERSE: u8 = 0;
    pub const SCOPE_LINK: u8 = 253;
    pub const UNICAST: u8 = 1;
    pub const NEXTHOP_ONLINK: u32 = 4;
}

/// The service's namespace with its interface.
pub struct ServiceNet {
    namespace: Namespace,
    interface: u32,
    mac: [u8; 6],
    /// What frames come from, where that is not the interface's own address.
    source: Option<[u8; 6]>,
    addresses: Vec<Address>,
    gateways: Vec<IpAddr>,
}

impl ServiceNet {
    /// A namespace with a macvlan of `parent` in it, still down and without addresses: see [`Self::raise`].
    ///
    /// `parent`: the interface, in the caller's namespace, of the network where the clients are. (By a macvlan's nature
    /// the host itself doesn't reach the service through it; other hosts, and other macvlans of it, do.)
    ///
    /// `shared`: the hardware address that the other host's has too; frames are to come from the parent's own instead.
    pub fn create(
        parent: &str,
        addresses: &[Address],
        gateways: &[IpAddr],
        shared: Option<[u8; 6]>,
    ) -> Result<Self, GateError> {
        let v6 = addresses.iter().any(|a| a.ip.is_ipv6());
        super::requirements::check(v6)?;
        let refuse = |why: &str| GateError::Parent { name: parent.into(), why: why.into() };
        if addresses.is_empty() {
            return Err(GateError::Address { address: "(none)".into(), why: "a service needs one at least".into() });
        }

        let host = route_socket()?;
        let index = nix::net::if_::if_nametoindex(parent)
            .map_err(|_| refuse("this host has no such interface (see `ip link`)"))?;
        let link = Link::read(&host, index).map_err(GateError::system("reading the service interface"))?;
        if link.flags & libc::IFF_UP as u32 == 0 {
            return Err(refuse("it is down (`ip link set dev <name> up`)"));
        }
        if link.kind != libc::ARPHRD_ETHER {
            return Err(refuse("it is no Ethernet interface"));
        }
        if let Some(why) = super::firewall::in_the_way(parent, Path::new("/sys"), Path::new("/proc")) {
            return Err(refuse(&why));
        }
        let inherited: Vec<(&str, String)> =
            INHERITED.iter().filter_map(|name| Some((*name, fs::read_to_string(setting_path(name)).ok()?))).collect();

        let namespace = Namespace::create().map_err(GateError::system("making a network namespace"))?;
        in_namespace(&namespace, || {
            for (name, value) in inherited {
                // What this kernel keeps for all namespaces alike is the same already.
                let _ = fs::write(setting_path(name), value);
            }
            // Before there is an interface: it takes the defaults over when it is made.
            let v6_settings: &[_] = if v6 || fs::exists("/proc/sys/net/ipv6").unwrap_or(false) { &SETTINGS_V6 } else { &[] };
            for (name, value) in SETTINGS.iter().chain(v6_settings) {
                fs::write(setting_path(name), value).map_err(|source| {
                    tracing::error!("cannot set net/{name} to {value}");
                    GateError::System { what: "setting up the service's network (sysctl)", source }
                })?;
            }
            Ok(())
        })?;

        let mut r = Request::new();
        r.message(rt::NEWLINK, rt::CREATE | rt::EXCL, &interface_message(0, 0, 0));
        r.attribute(rt::IFLA_IFNAME, format!("{INTERFACE}\0").as_bytes());
        r.attribute(rt::IFLA_LINK, &index.to_ne_bytes());
        if let Some(mac) = shared {
            r.attribute(rt::IFLA_ADDRESS, &mac);
        }
        r.attribute(rt::IFLA_MTU, &link.mtu.to_ne_bytes());
        r.attribute(rt::IFLA_NET_NS_FD, &namespace.fd.as_raw_fd().to_ne_bytes());
        r.nested(rt::IFLA_LINKINFO, |r| {
            r.attribute(rt::IFLA_INFO_KIND, b"macvlan");
            r.nested(rt::IFLA_INFO_DATA, |r| {
                r.attribute(rt::IFLA_MACVLAN_MODE, &rt::MACVLAN_MODE_BRIDGE.to_ne_bytes());
            });
        });
        host.ask(&mut r, |_, _| {}).map_err(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => GateError::Missing {
                feature: "macvlan",
                todo: "Load the kernel's module `macvlan` (CONFIG_MACVLAN)",
            },
            Some(libc::EBUSY | libc::EINVAL) => {
                refuse("no macvlan can be made on it; it may be part of a bridge or a bond, or be a macvlan itself: name the bridge or bond")
            }
            _ => GateError::System { what: "making the service's interface (macvlan)", source: e },
        })?;

        let what = "finding the service's interface";
        let (interface, mac) = in_namespace(&namespace, || {
            let index = nix::net::if_::if_nametoindex(INTERFACE).map_err(|e| GateError::system(what)(e.into()))?;
            Ok((index, Link::read(&route_socket()?, index).map_err(GateError::system(what))?.mac))
        })?;
        let source = shared.map(|_| link.mac);
        Ok(Self { namespace, interface, mac, source, addresses: addresses.into(), gateways: gateways.into() })
    }

    /// Interfaces up, addresses and routes there. From now on the kernel speaks, as far as the lease lets it.
    pub fn raise(&self) -> Result<(), GateError> {
        in_namespace(&self.namespace, || {
            let socket = route_socket()?;
            let ask = |r: &mut Request, what| socket.ask(r, |_, _| {}).map_err(GateError::system(what));
            let loopback = nix::net::if_::if_nametoindex("lo").map_err(|e| GateError::system("finding lo")(e.into()))?;
            for index in [loopback, self.interface] {
                let up = libc::IFF_UP as u32;
                let mut r = Request::new();
                r.message(rt::NEWLINK, 0, &interface_message(index, up, up));
                ask(&mut r, "setting an interface of the service up")?;
            }
            for a in &self.addresses {
                let mut r = Request::new();
                let mut fixed = vec![family(a.ip), bits(a.ip), 0, 0];
                fixed.extend(self.interface.to_ne_bytes());
                r.message(rt::NEWADDR, rt::CREATE | rt::EXCL, &fixed);
                r.attribute(rt::IFA_LOCAL, &octets(a.ip));
                r.attribute(rt::IFA_ADDRESS, &octets(a.ip));
                r.attribute(rt::IFA_FLAGS, &(rt::IFA_F_NODAD | rt::IFA_F_NOPREFIXROUTE).to_ne_bytes());
                ask(&mut r, "giving the service its address")?;
            }
            let mut networks: Vec<(IpAddr, u8)> = self.addresses.iter().map(|a| (a.network(), a.prefix)).collect();
            networks.sort();
            networks.dedup();
            for (network, prefix) in networks.into_iter().filter(|(n, p)| *p < bits(*n)) {
                let mut r = Request::new();
                r.message(rt::NEWROUTE, rt::CREATE, &route_message(network, prefix, rt::SCOPE_LINK, 0));
                r.attribute(rt::RTA_DST, &octets(network));
                r.attribute(rt::RTA_OIF, &self.interface.to_ne_bytes());
                ask(&mut r, "making the route to the service's network")?;
            }
            for gateway in &self.gateways {
                let mut r = Request::new();
                let fixed = route_message(*gateway, 0, rt::SCOPE_UNIVERSE, rt::NEXTHOP_ONLINK);
                r.message(rt::NEWROUTE, rt::CREATE, &fixed);
                r.attribute(rt::RTA_GATEWAY, &octets(*gateway));
                r.attribute(rt::RTA_OIF, &self.interface.to_ne_bytes());
                ask(&mut r, "making the route through the gateway")?;
            }
            Ok(())
        })
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Index of the interface, inside.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// What each frame that leaves must come from; none: it does so by itself.
    pub(super) fn source(&self) -> Option<[u8; 6]> {
        self.source
    }

    /// The interface's own; each host has another, unless they share one.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// See [`Namespace::within`].
    pub fn within<R>(&self, f: impl FnOnce() -> R) -> io::Result<R> {
        self.namespace.within(f)
    }

    /// The interface goes at once, and what any socket still says with it. Whoever makes another one may need its address.
    pub fn take_down(&self) -> Result<(), GateError> {
        in_namespace(&self.namespace, || {
            let mut r = Request::new();
            r.message(rt::DELLINK, 0, &interface_message(self.interface, 0, 0));
            let taken = route_socket()?.ask(&mut r, |_, _| {});
            taken.map_err(GateError::system("taking the service's interface down"))
        })
    }
}

/// What an interface says of itself.
struct Link {
    flags: u32,
    kind: u16,
    mtu: u32,
    /// Zeros where the kind has another length.
    mac: [u8; 6],
}

impl Link {
    fn read(socket: &netlink::Socket, index: u32) -> io::Result<Self> {
        let mut r = Request::new();
        r.message(rt::GETLINK, 0, &interface_message(index, 0, 0));
        let mut found = None;
        socket.ask(&mut r, |kind, message| {
            if kind != rt::NEWLINK {
                return;
            }
            let Some((fixed, rest)) = message.split_first_chunk::<16>() else { return };
            let attribute = |kind| netlink::attributes(rest).find(|(k, _)| *k == kind).map(|(_, value)| value);
            let mtu = attribute(rt::IFLA_MTU).and_then(|v| v.try_into().ok());
            let mac = attribute(rt::IFLA_ADDRESS).and_then(|v| v.try_into().ok());
            found = Some(Self {
                flags: u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
                kind: u16::from_ne_bytes([fixed[2], fixed[3]]),
                mtu: mtu.map_or(1500, u32::from_ne_bytes),
                mac: mac.unwrap_or_default(),
            });
        })?;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn route_socket() -> Result<netlink::Socket, GateError> {
    netlink::Socket::open(SockProtocol::NetlinkRoute).map_err(GateError::system("opening a netlink socket"))
}

fn in_namespace<R>(namespace: &Namespace, f: impl FnOnce() -> Result<R, GateError>) -> Result<R, GateError> {
    namespace.within(f).map_err(GateError::system("entering the service's network namespace"))?
}

fn setting_path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// `struct ifinfomsg`.
fn interface_message(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut m = vec![0; 4];
    m.extend(index.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend(change.to_ne_bytes());
    m
}

/// `struct rtmsg`.
fn route_message(of: IpAddr, prefix: u8, scope: u8, flags: u32) -> Vec<u8> {
    let mut m = vec![family(of), prefix, 0, 0, rt::TABLE_MAIN, rt::PROTOCOL_STATIC, scope, rt::UNICAST];
    m.extend(flags.to_ne_bytes());
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_their_networks() {
        let a: Address = "10.1.2.3/20".parse().unwrap();
        assert_eq!((a.network(), a.prefix()), ("10.1.0.0".parse().unwrap(), 20));
        let a: Address = "fd00::1:2/64".parse().unwrap();
        assert_eq!(a.network(), "fd00::".parse::<IpAddr>().unwrap());
        for bad in ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/0", "fd00::1/129", "127.0.0.1/8", "0.0.0.0/8", "224.0.0.1/4", "x/3"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
