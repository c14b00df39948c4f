//! A firewall of the host in the way of the service's packets.
//!
//! In the service's own namespace there is none, and a macvlan's frames pass the host's by; but where the interface is a
//! bridge, the module br_netfilter hands bridged frames to iptables. A rule there that wants each connection to begin with a
//! SYN drops those that were restored after a takeover: it never saw them begin.

use std::fs;
use std::path::Path;

/// Why a takeover would lose its connections on this host. `interface`: of the service network; `sys`, `proc`: where those
/// file systems are.
pub fn in_the_way(interface: &str, sys: &Path, proc: &Path) -> Option<String> {
    let bridge = sys.join("class/net").join(interface).join("bridge");
    if !bridge.is_dir() {
        return None;
    }
    let is_on = |path: &Path| fs::read_to_string(path).is_ok_and(|v| v.trim() == "1");
    ["iptables", "ip6tables"].into_iter().find_map(|tables| {
        let all = proc.join(format!("sys/net/bridge/bridge-nf-call-{tables}"));
        let one = bridge.join(format!("nf_call_{tables}"));
        (is_on(&all) || is_on(&one)).then(|| {
            format!(
                "the frames of the bridge {interface} go through this host's {tables} (module br_netfilter), which may drop the \
                 connections that a takeover restores, as it never saw them begin. Turn it off: `sysctl \
                 net.bridge.bridge-nf-call-{tables}=0` and `ip link set {interface} type bridge nf_call_{tables} 0`"
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bridge_whose_frames_are_filtered_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (sys, proc) = (dir.path().join("sys"), dir.path().join("proc"));
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let look = |interface: &str| in_the_way(interface, &sys, &proc);
        let all = proc.join("sys/net/bridge/bridge-nf-call-iptables");
        fs::create_dir_all(sys.join("class/net/eth0")).unwrap();
        write(&sys.join("class/net/br0/bridge/nf_call_iptables"), "0\n");
        write(&all, "1\n");
        assert_eq!(look("eth0"), None);
        let said = look("br0").unwrap();
        assert!(said.contains("br0") && said.contains("sysctl net.bridge.bridge-nf-call-iptables=0"), "{said}");
        write(&all, "0\n");
        assert_eq!(look("br0"), None);
        write(&sys.join("class/net/br0/bridge/nf_call_ip6tables"), "1\n");
        assert!(look("br0").unwrap().contains("ip6tables"));
        // Without the module there is nothing to read.
        fs::remove_dir_all(&proc).unwrap();
        fs::remove_file(sys.join("class/net/br0/bridge/nf_call_ip6tables")).unwrap();
        assert_eq!(look("br0"), None);
    }
}
