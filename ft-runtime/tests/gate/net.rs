//! The network: namespaces, addresses, and a gate between.

use super::{CLIENT, CLIENT_V6, PATIENCE, SERVICE, SERVICE_V6, ms};
use ft_runtime::gate::Gate;
use ft_runtime::gate::namespace::{Address, Namespace};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

pub fn ip(arguments: &str) {
    let o = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(o.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&o.stderr));
}

/// The network: a client and a host at two ends of a cable.
pub struct Rig {
    pub client: Namespace,
    pub host: Namespace,
}

impl Rig {
    pub fn new() -> Self {
        let (client, host) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        let host_path = format!("/proc/{}/fd/{}", std::process::id(), host.as_fd().as_raw_fd());
        client
            .within(|| {
                ip(&format!("link add c0 type veth peer name h0 netns {host_path}"));
                ip("link set lo up");
                ip("link set c0 up");
                ip(&format!("address add {CLIENT}/24 dev c0"));
                ip(&format!("address add {CLIENT_V6}/64 dev c0 nodad"));
            })
            .unwrap();
        host.within(|| {
            // Whatever the client hears is the service's.
            std::fs::write("/proc/sys/net/ipv6/conf/h0/disable_ipv6", "1").unwrap();
            ip("link set h0 up");
        })
        .unwrap();
        Self { client, host }
    }

    pub fn gate(&self) -> Gate {
        self.host.within(open_gate).unwrap()
    }

    pub fn connect(&self, address: &str, port: u16) -> std::io::Result<TcpStream> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let c = self.client.within(|| TcpStream::connect_timeout(&address, ms(3500))).unwrap()?;
        c.set_nodelay(true)?;
        c.set_read_timeout(Some(PATIENCE))?;
        c.set_write_timeout(Some(PATIENCE))?;
        Ok(c)
    }

    /// Makes the client ask for the service's MAC again.
    pub fn forget_neighbours(&self) {
        self.client.within(|| ip("neigh flush dev c0")).unwrap();
    }
}

pub fn open_gate() -> Gate {
    let addresses: [Address; 2] =
        [format!("{SERVICE}/24").parse().unwrap(), format!("{SERVICE_V6}/64").parse().unwrap()];
    Gate::open("h0", &addresses, &[], None).unwrap()
}
