//! Which packets of the service's namespace are queued.
//!
//! Laws: everything that wants to leave is queued, without bypass: no queue, no packet; but for what [`super::pass`] knows to
//! be committed, which is marked and leaves. Were the rules flushed, the chain's policy drops, and whatever the policy,
//! [`super::lease`] lets nothing out that neither the queue's verdict nor that rule marked:
//! rules that are gone make the service silent, never loose. Incoming SYNs are queued so that the judge knows a birth's
//! other half. Rules that somebody changed are noticed and installed again.

use super::bpf;
use super::error::GateError;
use super::lease::MARK;
use super::namespace::{Namespace, ServiceNet};
use super::netlink::{self, Request};
use super::queue::{EGRESS, INGRESS};
use nix::sys::socket::SockProtocol;
use socket2::{Domain, Protocol, Socket, Type};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tried in this order; which one takes NFQUEUE depends on what the kernel was built with.
const TOOLS: [&str; 3] = ["iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"];
const TOOLS_V6: [&str; 3] = ["ip6tables-restore", "ip6tables-nft-restore", "ip6tables-legacy-restore"];

/// How often to look whether they are as they were installed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The rules of a service's namespace, watched.
pub struct Rules {
    pins: Option<Arc<Pins>>,
    watch: Watch,
    installed: Fingerprint,
    /// Installing them again, away from the engine's thread: tools are run for it.
    repair: Option<JoinHandle<Result<(), GateError>>>,
    look_at: Instant,
}

/// What has become of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Somebody changed them. They are being installed again; until then nothing leaves.
    Broken,
    Repaired,
}

impl Rules {
    /// Installs them. A kernel without IPv6 needs none for it.
    /// What passes unqueued, passes by `pins`.
    pub fn install(net: &ServiceNet, pins: Option<Pins>) -> Result<Self, GateError> {
        let entering = || GateError::system("entering the service's network namespace");
        let watch = net.within(Watch::open).map_err(entering())?.map_err(watching)?;
        let before = watch.generation().map_err(watching)?;
        let pins = pins.map(Arc::new);
        net.within(|| install_here(pins.as_deref())).map_err(entering())??;
        let watch = Watch { uses_nft: watch.generation().map_err(watching)? != before, ..watch };
        let installed = watch.fingerprint().map_err(watching)?;
        Ok(Self { pins, watch, installed, repair: None, look_at: Instant::now() + LOOK_EVERY })
    }

    /// Looks at them, if it is time to. An error: there are none, and there is no way to have them again.
    pub fn look(&mut self, net: &ServiceNet, now: Instant) -> Result<Option<Change>, GateError> {
        if now < self.look_at {
            return Ok(None);
        }
        self.look_at = now + LOOK_EVERY;
        if let Some(r) = self.repair.take_if(|r| r.is_finished()) {
            r.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            self.installed = self.watch.fingerprint().map_err(watching)?;
            return Ok(Some(Change::Repaired));
        }
        if self.repair.is_some() || self.watch.fingerprint().map_err(watching)? == self.installed {
            return Ok(None);
        }
        let inside = net.namespace().as_fd().try_clone_to_owned().map(Namespace::from).map_err(watching)?;
        let pins = self.pins.clone();
        let install = move || {
            inside.enter().map_err(GateError::system("entering the service's network namespace"))?;
            install_here(pins.as_deref())
        };
        let thread = std::thread::Builder::new().name("gate-rules".into()).spawn(install).map_err(watching)?;
        self.repair = Some(thread);
        Ok(Some(Change::Broken))
    }
}

/// Takes them away, as a person might: for the rig. In the calling thread's namespace.
pub fn flush() -> io::Result<()> {
    let rules = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";
    for tools in [&TOOLS, &TOOLS_V6] {
        restore(tools, rules, None).map_err(io::Error::other)?;
    }
    Ok(())
}

fn watching(source: io::Error) -> GateError {
    GateError::System { what: "watching the queue rules", source }
}

/// In the calling thread's namespace.
fn install_here(pins: Option<&Pins>) -> Result<(), GateError> {
    let install = |tools, name| restore(tools, &queue_rules(pins.map(|p| p.path(name))), pins);
    install(&TOOLS, Pins::V4)?;
    let v6 = std::fs::exists("/proc/sys/net/ipv6").unwrap_or(true);
    if v6 { install(&TOOLS_V6, Pins::V6) } else { Ok(()) }
}

/// Names of the programs of [`super::pass`], by which the tools find them. Rules that are installed need no name.
pub struct Pins(OwnedFd);

impl Pins {
    const V4: &str = "v4";
    const V6: &str = "v6";

    /// `programs`: for IPv4 and for IPv6.
    pub fn of(programs: [&OwnedFd; 2]) -> io::Result<Self> {
        let pins = Self(bpf::detached_file_system()?);
        for (program, name) in programs.into_iter().zip([Self::V4, Self::V6]) {
            bpf::pin(program, &CString::new(pins.path(name))?)?;
        }
        Ok(pins)
    }

    /// In this process, and in one that inherits the descriptor.
    fn path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd())
    }
}

/// What changes whenever somebody changes the rules.
#[derive(Debug, PartialEq, Eq)]
enum Fingerprint {
    /// The number of the rule set's generation.
    Nft(u32),
    /// What each family's table says of itself.
    Legacy([Option<TableInfo>; 2]),
}

/// `struct ipt_getinfo` (linux/netfilter_ipv4/ip_tables.h), the same for IPv6: name, hooks, number and bytes of rules.
type TableInfo = [u8; 84];

/// Reads fingerprints: sockets in the service's namespace.
struct Watch {
    nft: netlink::Socket,
    legacy: [Option<Socket>; 2],
    uses_nft: bool,
}

/// Linux's numbers (linux/netfilter/nf_tables.h, linux/netfilter_ipv4/ip_tables.h).
mod nf {
    pub const GET_GENERATION: u16 = 10 << 8 | 16;
    pub const NEW_GENERATION: u16 = 10 << 8 | 15;
    pub const GENERATION_ID: u16 = 1;
    pub const SO_GET_INFO: libc::c_int = 64;
}

impl Watch {
    fn open() -> io::Result<Self> {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).ok();
        Ok(Self {
            nft: netlink::Socket::open(SockProtocol::NetlinkNetFilter)?,
            legacy: [raw(Domain::IPV4), raw(Domain::IPV6)],
            uses_nft: false,
        })
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        if self.uses_nft {
            let generation = self.generation()?.ok_or(io::ErrorKind::InvalidData)?;
            return Ok(Fingerprint::Nft(generation));
        }
        let [v4, v6] = &self.legacy;
        let info = |s: &Option<Socket>, level| s.as_ref().and_then(|s| table_info(s, level));
        Ok(Fingerprint::Legacy([info(v4, libc::SOL_IP), info(v6, libc::SOL_IPV6)]))
    }

    /// `None`: a kernel without nf_tables.
    fn generation(&self) -> io::Result<Option<u32>> {
        let mut request = Request::new();
        request.message(nf::GET_GENERATION, 0, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
        let mut found = None;
        let answer = self.nft.ask(&mut request, |kind, message| {
            let id = message.get(4..).and_then(|m| netlink::attributes(m).find(|(k, _)| *k == nf::GENERATION_ID));
            if let (nf::NEW_GENERATION, Some((_, id))) = (kind, id) {
                found = id.first_chunk().map(|b| u32::from_be_bytes(*b));
            }
        });
        match answer {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            r => r.map(|()| found),
        }
    }
}

fn table_info(socket: &Socket, level: libc::c_int) -> Option<TableInfo> {
    let mut info: TableInfo = [0; 84];
    info[..6].copy_from_slice(b"filter");
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel reads the name and writes at most `length` bytes, all of `info`.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, nf::SO_GET_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    (r == 0).then_some(info)
}

/// `pass`: where the program is that knows what need not be queued.
fn queue_rules(pass: Option<String>) -> String {
    let pass = pass.map_or(String::new(), |path| {
        format!(
            ":PASS - [0:0]\n-A PASS -j MARK --set-mark {MARK}\n-A PASS -j ACCEPT\n\
             -A OUTPUT -p tcp -m bpf --object-pinned {path} -j PASS\n"
        )
    });
    format!(
        "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT DROP\n{pass}\
         -A INPUT -p tcp --syn -j NFQUEUE --queue-num {INGRESS}\n\
         -A OUTPUT -j NFQUEUE --queue-num {EGRESS}\nCOMMIT\n"
    )
}

fn restore(tools: &[&str], rules: &str, pins: Option<&Pins>) -> Result<(), GateError> {
    let mut tried = Vec::new();
    for tool in tools {
        match run(tool, rules, pins) {
            Ok(()) => {
                tracing::debug!(tool, "queue rules installed");
                return Ok(());
            }
            Err(why) => tried.push(format!("{tool}: {why}")),
        }
    }
    Err(GateError::Rules { tried: tried.join("; ") })
}

fn run(tool: &str, rules: &str, pins: Option<&Pins>) -> Result<(), String> {
    let mut command = Command::new(tool);
    if let Some(fd) = pins.map(|p| p.0.as_raw_fd()) {
        // SAFETY: one system call on a descriptor that `pins` keeps open; nothing is allocated.
        unsafe {
            command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            })
        };
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    // A tool that ends without reading says why by its status.
    let _ = child.stdin.take().expect("piped above").write_all(rules.as_bytes());
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of its own, as the tools of both kinds leave the rules.
    fn change_shows(tools: [&'static str; 2], uses_nft: bool) {
        let inside = Namespace::create().expect("a network namespace (as root)");
        std::thread::spawn(move || {
            inside.enter().unwrap();
            let watch = Watch { uses_nft, ..Watch::open().unwrap() };
            for tool in tools {
                run(tool, &queue_rules(None), None).unwrap();
            }
            let installed = watch.fingerprint().unwrap();
            assert_eq!(watch.fingerprint().unwrap(), installed);
            let without_syns = queue_rules(None).replace("-A INPUT -p tcp --syn -j NFQUEUE --queue-num 1\n", "");
            assert_ne!(without_syns, queue_rules(None));
            run(tools[1], &without_syns, None).unwrap();
            assert_ne!(watch.fingerprint().unwrap(), installed);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_change_of_nft_rules_shows() {
        change_shows([TOOLS[1], TOOLS_V6[1]], true);
    }

    #[test]
    fn a_change_of_legacy_rules_shows() {
        change_shows([TOOLS[2], TOOLS_V6[2]], false);
    }
}
