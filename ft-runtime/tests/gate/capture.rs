//! What the client's interface hears.

use super::net::Rig;
use super::{ASKER, SERVICE};
use ft_runtime::gate::boot_time::BootTime;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A frame that reached the client's interface from outside.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it arrived, by the kernel's clock.
    pub at: BootTime,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn ether_type(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    pub fn is_arp(&self) -> bool {
        self.ether_type() == 0x0806
    }

    /// TCP flags and acknowledgement.
    pub fn tcp(&self) -> Option<(u8, u32)> {
        let b = &self.bytes;
        let at = match self.ether_type() {
            0x0800 if b[23] == 6 => 34,
            0x86dd if b[20] == 6 => 54,
            _ => return None,
        };
        Some((b[at + 13], u32::from_be_bytes(b[at + 8..at + 12].try_into().unwrap())))
    }

    pub fn is_syn_ack(&self) -> bool {
        self.tcp().is_some_and(|(flags, _)| flags & 0x12 == 0x12)
    }

    pub fn says_goodbye(&self) -> bool {
        self.tcp().is_some_and(|(flags, _)| flags & 0x05 != 0)
    }
}

/// Everything that comes in at the client's interface.
pub struct Capture {
    pub frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    socket: Arc<OwnedFd>,
}

impl Capture {
    pub fn start(rig: &Rig) -> Self {
        let socket = Arc::new(rig.client.within(packet_socket).unwrap());
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (f, s, fd) = (frames.clone(), stop.clone(), socket.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                if let Some(frame) = receive(&fd) {
                    f.lock().unwrap().push(frame);
                }
            }
        });
        Self { frames, stop, thread: Some(thread), socket }
    }

    pub fn count(&self, want: impl Fn(&Frame) -> bool) -> usize {
        self.frames.lock().unwrap().iter().filter(|f| want(f)).count()
    }

    pub fn after(&self, t: BootTime) -> Vec<Frame> {
        self.frames.lock().unwrap().iter().filter(|f| f.at >= t).cloned().collect()
    }

    /// Broadcasts "who has the service's address?".
    pub fn ask_arp(&self) {
        let mut f = vec![0xff; 6];
        f.extend([2, 0, 0, 0, 0, 9]);
        f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9]);
        // Not the client's address: the service would believe that it has moved.
        f.extend(ASKER.parse::<std::net::Ipv4Addr>().unwrap().octets());
        f.extend([0; 6]);
        f.extend(SERVICE.parse::<std::net::Ipv4Addr>().unwrap().octets());
        f.resize(60, 0);
        // SAFETY: sends from a buffer of our own.
        let n = unsafe { libc::send(self.socket.as_raw_fd(), f.as_ptr().cast(), f.len(), 0) };
        assert_eq!(n, 60);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn packet_socket() -> OwnedFd {
    let interface = nix::net::if_::if_nametoindex("c0").unwrap();
    // SAFETY: a new descriptor; options and address are read from locals during the calls.
    unsafe {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol));
        assert!(fd >= 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = interface as i32;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32), 0);
        let on = 1i32;
        for (option, value) in [(libc::SO_TIMESTAMPNS, on), (libc::SO_RCVBUFFORCE, 64 << 20)] {
            assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), 4), 0);
        }
        // Replies to a MAC of our invention come in too.
        let mut m: libc::packet_mreq = std::mem::zeroed();
        m.mr_ifindex = interface as i32;
        m.mr_type = libc::PACKET_MR_PROMISC as u16;
        let r = libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, (&raw const m).cast(), size_of_val(&m) as u32);
        assert_eq!(r, 0);
        let t = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const t).cast(), 16), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn receive(socket: &OwnedFd) -> Option<Frame> {
    let mut bytes = vec![0u8; 256];
    let mut control = [0u64; 16];
    // SAFETY: one message with one vector over `bytes`, an address and control data in locals; the control message is
    // read only if the kernel says that it is there.
    unsafe {
        let mut from: libc::sockaddr_ll = std::mem::zeroed();
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut m: libc::msghdr = std::mem::zeroed();
        m.msg_name = (&raw mut from).cast();
        m.msg_namelen = size_of_val(&from) as u32;
        m.msg_iov = &mut vector;
        m.msg_iovlen = 1;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = size_of_val(&control);
        let n = libc::recvmsg(socket.as_raw_fd(), &mut m, 0);
        if n < 14 || from.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        bytes.truncate(n as usize);
        let header = libc::CMSG_FIRSTHDR(&m);
        assert!(!header.is_null(), "asked for the time");
        let t: libc::timespec = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
        let stamp = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
        let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let boot = BootTime::now().0;
        Some(Frame { at: BootTime(boot - real.saturating_sub(stamp)), bytes })
    }
}
