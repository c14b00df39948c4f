//! A link between the pair that delays every frame and loses some.
//!
//! Two programs per host lead what would leave by the link into a cable to the switch, and what comes from there into
//! the link's interface, as if it had come over the link. In between stands a process that forwards. With it the
//! programs go, and the link is what it was: they are held by its descriptors only.

use super::netns::{self, batch};
use super::network::LINK;
use super::process::{self, NamespaceId, ProcessId};
use super::state::{Places, RigName};
use super::{Host, Result, RigError, io_error};
use crate::gate::asm::{Assembler, Instruction, R1, R2, REDIRECT};
use crate::gate::bpf;
use crate::takeover::address::bind_to_link;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Of each frame, in each direction.
const DELAY: Duration = Duration::from_millis(10);
/// One frame in so many is lost, in each direction: counted, so that what TCP repeats is not lost again.
const LOSS_EVERY: u64 = 200;
/// The cable's end in a host.
const CABLE: &str = "slow0";
/// Beyond it frames are lost, as in a switch whose buffer is full.
const FRAMES_MAX: usize = 16_384;
/// The largest packet that one host hands over to be cut later, and the headers before it.
const FRAME_BYTES_MAX: usize = 70_000;
/// For the forwarder's processes to end.
const DEATH_MAX: Duration = Duration::from_secs(5);
const READY: &str = "ready";

/// The cable's end at the switch.
fn port(host: Host) -> String {
    format!("d-{host}")
}

pub(super) fn ports() -> impl Iterator<Item = String> {
    Host::PAIR.into_iter().map(port)
}

/// Returns once frames take the long way.
pub(super) fn start(places: &Places) -> Result<()> {
    if forwarder(places).is_some() {
        return Err(RigError::Refused("the link is slow already".into()));
    }
    let switch = places.netns_switch();
    for host in Host::PAIR {
        let lines = [
            format!("link add {CABLE} type veth peer name {} netns {switch}", port(host)),
            format!("link set {CABLE} up"),
        ];
        batch(&places.netns(host), &lines)?;
    }
    batch(&switch, &ports().map(|p| format!("link set {p} up")).collect::<Vec<_>>())?;
    let log = places.disk().join("logs/link.log");
    let stderr = File::options().append(true).create(true).open(&log).map_err(io_error(log.display().to_string()))?;
    let mut child = Command::new("/proc/self/exe")
        .args(["rig", "slow-link", "--name", &places.name.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(io_error("starting the link's forwarder"))?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped above");
    BufReader::new(stdout).read_line(&mut line).map_err(io_error("the link's forwarder"))?;
    if line.trim() == READY {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let _ = stop(places);
    Err(RigError::Refused(format!("the link's forwarder ended at once: {}", said.trim())))
}

/// The link is what it was before.
pub(super) fn stop(places: &Places) -> Result<()> {
    if let Some(p) = forwarder(places) {
        p.signal(libc::SIGKILL);
        if !p.wait(DEATH_MAX) {
            return Err(RigError::Refused(format!("the link's forwarder, process {}, does not end", p.pid)));
        }
    }
    // Some may not be there.
    netns::batch_forced(&places.netns_switch(), &ports().map(|p| format!("link del {p}")).collect::<Vec<_>>());
    Ok(())
}

/// It alone lives in the switch.
fn forwarder(places: &Places) -> Option<ProcessId> {
    let id = NamespaceId::of(netns::path(&places.netns_switch())).ok()?;
    process::in_namespace("net", id).into_iter().next()
}

/// The life of the forwarder. Ends only by a signal, or if it can't live.
pub(super) fn main(name: &RigName) -> Result<i32> {
    forward(&Places::new(name)).map(|never| match never {}).map_err(io_error("the link's forwarder"))
}

fn forward(places: &Places) -> io::Result<Infallible> {
    nix::unistd::setsid()?;
    let network = |name: &str| File::open(netns::path(name));
    setns(network(&places.netns_switch())?, CloneFlags::CLONE_NEWNET)?;
    let [mut a, mut b] = [Way::from(Host::Alpha)?, Way::from(Host::Beta)?];
    let mut held: Vec<OwnedFd> = Vec::new();
    for host in Host::PAIR {
        held.extend(netns::within(&network(&places.netns(host))?, detour)?);
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}").and_then(|()| stdout.flush())?;
    // Whoever started this may wait for the end of it.
    nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    loop {
        let now = Instant::now();
        a.take(now);
        b.take(now);
        a.give(&b.socket, now);
        b.give(&a.socket, now);
        let next = a.due().into_iter().chain(b.due()).min();
        let wait = next.map(|at| TimeSpec::from(at.saturating_duration_since(Instant::now())));
        let mut fds = [&a, &b].map(|w| PollFd::new(w.socket.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut fds, wait, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Frames of one host on their way to the other.
struct Way {
    socket: Socket,
    frames: VecDeque<(Instant, Vec<u8>)>,
    seen: u64,
    buffer: Vec<u8>,
}

impl Way {
    /// In the switch's namespace.
    fn from(host: Host) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(port(host).as_str())?;
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        // Frames come and go with what the kernel notes about them: sums to be filled in, packets to be cut.
        let yes: libc::c_int = 1;
        // SAFETY: the kernel reads one int from `yes`.
        let r = unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const yes).cast(), length)
        };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.set_recv_buffer_size(8 << 20)?;
        bind_to_link(&socket, index, libc::ETH_P_ALL as u16)?;
        Ok(Self { socket, frames: VecDeque::new(), seen: 0, buffer: vec![0; FRAME_BYTES_MAX] })
    }

    fn take(&mut self, now: Instant) {
        while let Ok(n) = (&self.socket).read(&mut self.buffer) {
            self.seen += 1;
            if !self.seen.is_multiple_of(LOSS_EVERY) && self.frames.len() < FRAMES_MAX {
                self.frames.push_back((now + DELAY, self.buffer[..n].to_vec()));
            }
        }
    }

    /// What can't be handed over is lost.
    fn give(&mut self, to: &Socket, now: Instant) {
        while self.due().is_some_and(|at| at <= now) {
            if let Some((_, frame)) = self.frames.pop_front() {
                let _ = to.send(&frame);
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.frames.front().map(|(at, _)| *at)
    }
}

/// In a host's namespace: out by the cable instead of the link, and from it in as by the link.
fn detour() -> io::Result<[OwnedFd; 2]> {
    let index = |name: &str| nix::net::if_::if_nametoindex(name).map_err(io::Error::from);
    let (link, cable) = (index(LINK)?, index(CABLE)?);
    let out = bpf::load(bpf::PROG_TYPE_SCHED_CLS, "ft_slow_out", &redirect(cable, 0))?;
    let in_ = bpf::load(bpf::PROG_TYPE_SCHED_CLS, "ft_slow_in", &redirect(link, bpf::F_INGRESS))?;
    Ok([bpf::link(&out, link, bpf::TCX_EGRESS)?, bpf::link(&in_, cable, bpf::TCX_INGRESS)?])
}

fn redirect(interface: u32, flags: i32) -> Vec<Instruction> {
    let mut a = Assembler::new();
    a.set(R1, interface as i32);
    a.set(R2, flags);
    a.call(REDIRECT);
    a.leave();
    a.finish()
}
