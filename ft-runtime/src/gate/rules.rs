//! Which packets of the service's namespace are queued.
//!
//! Laws: everything that wants to leave is queued, without bypass: no queue, no packet. Were the rules flushed, the
//! chain's policy drops. Incoming SYNs are queued so that the judge knows a birth's other half.

use super::error::GateError;
use super::namespace::ServiceNet;
use super::queue::{EGRESS, INGRESS};
use std::io::Write;
use std::process::{Command, Stdio};

/// Tried in this order; which one takes NFQUEUE depends on what the kernel was built with.
const TOOLS: [&str; 3] = ["iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"];
const TOOLS_V6: [&str; 3] = ["ip6tables-restore", "ip6tables-nft-restore", "ip6tables-legacy-restore"];

/// Installs them. A kernel without IPv6 needs none for it.
pub fn install(net: &ServiceNet) -> Result<(), GateError> {
    let v6 = std::fs::exists("/proc/sys/net/ipv6").unwrap_or(true);
    net.within(|| {
        restore(&TOOLS)?;
        if v6 { restore(&TOOLS_V6) } else { Ok(()) }
    })
    .map_err(GateError::system("entering the service's network namespace"))?
}

fn restore(tools: &[&str]) -> Result<(), GateError> {
    let rules = format!(
        "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT DROP\n\
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
