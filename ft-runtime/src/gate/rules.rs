//! Which packets of the service's namespace are queued.
//!
//! Laws: everything that wants to leave is queued, without bypass: no queue, no packet (but for what [`super::pass`] knows
//! to be committed). Were the rules flushed, the
//! chain's policy drops. Incoming SYNs are queued so that the judge knows a birth's other half.

use super::bpf;
use super::error::GateError;
use super::lease::MARK;
use super::namespace::ServiceNet;
use super::pass::Passes;
use super::queue::{EGRESS, INGRESS};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

/// Tried in this order; which one takes NFQUEUE depends on what the kernel was built with.
const TOOLS: [&str; 3] = ["iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"];
const TOOLS_V6: [&str; 3] = ["ip6tables-restore", "ip6tables-nft-restore", "ip6tables-legacy-restore"];

/// Installs them. A kernel without IPv6 needs none for it. What passes without being asked about passes by `passes`, as far
/// as this kernel has that: returned if so.
pub fn install(net: &ServiceNet, passes: io::Result<Passes>) -> Result<Option<Passes>, GateError> {
    let v6 = std::fs::exists("/proc/sys/net/ipv6").unwrap_or(true);
    let all = |pins: Option<&Pins>| {
        restore(&TOOLS, pins.map(|p| p.path("v4")))?;
        if v6 { restore(&TOOLS_V6, pins.map(|p| p.path("v6"))) } else { Ok(()) }
    };
    net.within(|| {
        let why = match passes.and_then(|p| Ok((Pins::of(&p)?, p))) {
            Ok((pins, passes)) => match all(Some(&pins)) {
                Ok(()) => return Ok(Some(passes)),
                Err(e) => e.to_string(),
            },
            Err(e) => e.to_string(),
        };
        tracing::warn!(
            "every packet of the service goes through the engine, which costs time and nothing else: this kernel has no \
             packet filter programs in its firewall (CONFIG_NETFILTER_XT_MATCH_BPF): {why}"
        );
        all(None).map(|()| None)
    })
    .map_err(GateError::system("entering the service's network namespace"))?
}

/// Names for the programs, for as long as the tool needs to find them by one: rules keep them afterwards.
struct Pins(OwnedFd);

impl Pins {
    fn of(passes: &Passes) -> io::Result<Self> {
        let pins = Self(bpf::detached_file_system()?);
        for (program, name) in passes.programs().into_iter().zip(["v4", "v6"]) {
            bpf::pin(program, &CString::new(pins.path(name)).expect("no zero byte in it"))?;
        }
        // Tools are our children: the path is the same for them.
        nix::fcntl::fcntl(&pins.0, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        Ok(pins)
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd())
    }
}

fn restore(tools: &[&str], pass: Option<String>) -> Result<(), GateError> {
    let pass = pass.map_or(String::new(), |path| {
        format!(
            ":PASS - [0:0]\n-A PASS -j MARK --set-mark {MARK}\n-A PASS -j ACCEPT\n\
             -A OUTPUT -p tcp -m bpf --object-pinned {path} -j PASS\n"
        )
    });
    let rules = format!(
        "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT DROP\n{pass}\
         -A INPUT -p tcp --syn -j NFQUEUE --queue-num {INGRESS}\n\
         -A OUTPUT -j NFQUEUE --queue-num {EGRESS}\nCOMMIT\n"
    );
    let mut tried = Vec::new();
    for tool in tools {
        match run(tool, &rules) {
            Ok(()) => {
                tracing::debug!(tool, "queue rules installed");
                return Ok(());
            }
            Err(why) => tried.push(format!("{tool}: {why}")),
        }
    }
    Err(GateError::Rules { tried: tried.join("; ") })
}

fn run(tool: &str, rules: &str) -> Result<(), String> {
    let mut child = Command::new(tool)
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
