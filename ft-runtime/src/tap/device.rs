//! A TAP device: what is written into it, the kernel takes as if it had come in there.

use crate::takeover::address::Mac;
use socket2::{Domain, Socket, Type};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

const NAME: &[u8] = b"tap";

/// It goes with the descriptor.
pub struct Device(File);

impl Device {
    /// In the calling thread's network namespace, up; with the address that the frames are for.
    pub fn create(mac: Mac) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(NAME) {
            *to = *from as libc::c_char;
        }
        let mut ask = |fd: i32, what: libc::c_ulong, set: &dyn Fn(&mut libc::ifreq)| {
            set(&mut request);
            // SAFETY: the kernel reads and writes one ifreq.
            if unsafe { libc::ioctl(fd, what, &raw mut request) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        ask(file.as_raw_fd(), libc::TUNSETIFF, &|r| {
            r.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        })?;
        // No address of its own, which would come with a route: there would be two to the same network.
        match fs::write("/proc/sys/net/ipv6/conf/tap/addr_gen_mode", "1") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let any = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        ask(any.as_raw_fd(), libc::SIOCSIFHWADDR, &|r| {
            let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
            for (to, from) in address.sa_data.iter_mut().zip(mac) {
                *to = from as libc::c_char;
            }
            r.ifr_ifru.ifru_hwaddr = address;
        })?;
        ask(any.as_raw_fd(), libc::SIOCSIFFLAGS, &|r| r.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short)?;
        Ok(Self(file))
    }

    /// One frame behind its virtio header.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write_all(frame)
    }
}
