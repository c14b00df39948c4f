//! `ft run --config FILE`: parsed once into what can be relied on. What is wrong is named with file and line.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SERVICE_LOSS_MS_LEAST: u64 = 100;
const ONE_BACKUP: &str = "more than one backup is not wired yet: name one other host, in one [peer] section";

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}; check that the file exists and that this user may read it", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {text}", path.display())]
    Parse { path: PathBuf, text: String },
    #[error("{}: {item}: {why}", path.display())]
    Value { path: PathBuf, item: &'static str, why: String },
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefixed {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl Prefixed {
    /// Is it in the same network?
    fn has(&self, other: IpAddr) -> bool {
        match (self.ip, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(self.prefix),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(self.prefix),
            _ => false,
        }
    }
}

impl TryFrom<String> for Prefixed {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{s}` is no address with prefix ({why}); write it like 10.0.0.100/24");
        let (ip, prefix) = s.split_once('/').ok_or_else(|| wrong("no `/`"))?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong("not an IP address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong("the prefix is not a number"))?;
        if prefix > if ip.is_ipv4() { 32 } else { 128 } {
            return Err(wrong("the prefix is too long"));
        }
        Ok(Self { ip, prefix })
    }
}

/// Which host makes the log first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    Primary,
    Backup,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: String,
    /// The server; or `preload`.
    #[serde(default)]
    pub command: Vec<String>,
    /// Somebody else starts the server, with the shim preloaded.
    #[serde(default)]
    pub preload: bool,
    /// Virtual addresses. None: the service listens on the host's own, and its connections don't survive a takeover.
    #[serde(default)]
    pub addresses: Vec<Prefixed>,
    /// Interface of the service network; needed with `addresses`.
    pub interface: Option<String>,
    /// Neighbours there of which one at least answers as long as clients can be reached. None: the gateways.
    #[serde(default)]
    pub probe_targets: Vec<IpAddr>,
    /// Both hosts hear what clients send, at a hardware address that they share: the network must flood.
    #[serde(default)]
    pub tap: bool,
    #[serde(default)]
    pub state_dirs: Vec<PathBuf>,
    pub cwd: Option<PathBuf>,
    /// Exactly these; without it a minimal environment.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub name: String,
    pub start: Start,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub name: String,
    /// Its public key, as `ft keygen` printed it there.
    pub key: String,
    pub address: SocketAddr,
}

/// One section; a list of them is refused by what is wrong with it.
fn one_peer<'de, D: Deserializer<'de>>(d: D) -> Result<Peer, D::Error> {
    struct OnePeer;

    impl<'de> Visitor<'de> for OnePeer {
        type Value = Peer;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("one section [peer]")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Peer, A::Error> {
            Peer::deserialize(MapAccessDeserializer::new(map))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Peer, A::Error> {
            Err(A::Error::custom(ONE_BACKUP))
        }
    }

    d.deserialize_any(OnePeer)
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    pub listen: SocketAddr,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ArbiterConfig {
    /// `key_file`: the secret that it shares with both hosts; none where it was started with `--no-key`.
    Witness { address: SocketAddr, key_file: Option<PathBuf> },
    /// On storage that both hosts see.
    File { file: PathBuf },
    /// A cluster of its own; https with the files where they are given.
    Etcd { endpoints: Vec<String>, ca_file: Option<PathBuf>, cert_file: Option<PathBuf>, key_file: Option<PathBuf> },
    /// Nobody: then nothing takes over by itself.
    None,
}

impl ArbiterConfig {
    /// What both hosts must say alike.
    pub fn shared(&self) -> String {
        match self {
            Self::Witness { address, .. } => format!("witness {address}"),
            Self::File { .. } => "file".into(),
            Self::Etcd { endpoints, .. } => {
                let mut sorted = endpoints.clone();
                sorted.sort();
                format!("etcd {}", sorted.join(" "))
            }
            Self::None => "none".into(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A silent peer is taken for dead after this.
    pub silence_ms_max: u64,
    /// A service network on which nobody is heard for so long is lost.
    pub service_loss_ms_max: u64,
    /// Log that the backup has not acknowledged; more, and the primary reads no more from clients.
    pub lag_bytes_max: u64,
    pub lag_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { silence_ms_max: 120, service_loss_ms_max: 400, lag_bytes_max: 64 << 20, lag_ms_max: 1000 }
    }
}

impl Limits {
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.silence_ms_max)
    }

    pub fn service_loss(&self) -> Duration {
        Duration::from_millis(self.service_loss_ms_max)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Monitor {
    /// At every N-th point at which the primary's guest idles, a slice of its memory is compared; 0: never.
    pub memory_every: u64,
    /// What to do when the hosts did different things.
    pub divergence: Divergence,
    /// Where it is reported; `None`: in a directory of the service's own below /var/lib/ft.
    pub reports: Option<PathBuf>,
}

/// Both hosts must say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Divergence {
    /// The backup is given the primary's state anew.
    Reseed,
    /// The backup's state counts. Not built yet.
    Takeover,
    /// Nobody goes on.
    Halt,
}

impl Divergence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reseed => "reseed",
            Self::Takeover => "takeover",
            Self::Halt => "halt",
        }
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self { memory_every: 1, divergence: Divergence::Reseed, reports: None }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub service: Service,
    pub host: Host,
    #[serde(deserialize_with = "one_peer")]
    pub peer: Peer,
    pub link: LinkConfig,
    pub arbiter: ArbiterConfig,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub monitor: Monitor,
    pub control: Control,
}

impl Config {
    /// Where divergences are reported.
    pub fn reports(&self) -> PathBuf {
        self.monitor.reports.clone().unwrap_or_else(|| Path::new("/var/lib/ft").join(&self.service.name))
    }

    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(path, &text)
    }

    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        // toml's own message has line, column and the line itself.
        let c: Self =
            toml::from_str(text).map_err(|e| ConfigError::Parse { path: path.into(), text: with_suggestion(e.to_string()) })?;
        let value = |item, why: &str| Err(ConfigError::Value { path: path.into(), item, why: why.into() });
        match (c.service.command.is_empty(), c.service.preload) {
            (true, false) => {
                let why = "is missing or empty; name the program and its arguments, or say `preload = true` and start it \
                           yourself with LD_PRELOAD=libft_shim.so";
                return value("service.command", why);
            }
            (false, true) => return value("service.command", "goes without `preload = true`: one of them starts the server"),
            _ => {}
        }
        if c.service.addresses.is_empty() != c.service.interface.is_none() {
            return value("service.interface", "goes with service.addresses: give both, or none");
        }
        if c.service.tap && c.service.interface.is_none() {
            return value("service.tap", "goes with service.interface: without one there is no service network to listen in");
        }
        if c.monitor.divergence == Divergence::Takeover {
            let why = "can't be \"takeover\" yet: what the primary told clients since may not follow from the backup's state, and their \
                       connections would have to break; say \"reseed\" or \"halt\"";
            return value("monitor.divergence", why);
        }
        if c.host.name == c.peer.name {
            return value("peer.name", "is this host's own name");
        }
        if c.limits.silence_ms_max < 40 {
            return value("limits.silence_ms_max", "below 40 ms every hiccup is a takeover");
        }
        if c.limits.service_loss_ms_max < SERVICE_LOSS_MS_LEAST {
            return value("limits.service_loss_ms_max", "below 100 ms a few lost packets move the service");
        }
        if let ArbiterConfig::Etcd { endpoints, ca_file, cert_file, key_file } = &c.arbiter {
            let is_url = |e: &String| ["http://", "https://"].iter().any(|s| e.strip_prefix(s).is_some_and(|host| !host.is_empty()));
            if endpoints.is_empty() || !endpoints.iter().all(is_url) {
                return value("arbiter.endpoints", "names etcd's members, as \"https://10.0.0.5:2379\"");
            }
            if cert_file.is_some() != key_file.is_some() {
                return value("arbiter.cert_file", "goes with arbiter.key_file: give both, or none");
            }
            let is_tls = ca_file.is_some() || cert_file.is_some();
            if is_tls && endpoints.iter().any(|e| e.starts_with("http://")) {
                return value("arbiter.endpoints", "are to be https:// where there is a ca_file or cert_file");
            }
        }
        for target in &c.service.probe_targets {
            if let Some(why) = unfit(*target, &c.service) {
                return value("service.probe_targets", &format!("{target} {why}"));
            }
        }
        Ok(c)
    }
}

/// Says which of the names that are possible there the unknown one looks like, and what names of several backups mean.
fn with_suggestion(mut error: String) -> String {
    /// Of 1, which is the same name.
    const LIKE_MIN: f64 = 0.75;
    const SEVERAL: [&str; 4] = ["field `peers`", "field `backup`", "field `backups`", "field `hosts`"];
    let is_second_peer = error.contains("duplicate key") && error.lines().any(|l| l.trim_end().ends_with("| [peer]"));
    if is_second_peer || SEVERAL.iter().any(|s| error.contains(&format!("unknown {s}"))) {
        return format!("{}\n{ONE_BACKUP}", error.trim_end());
    }
    let Some((_, list)) = error.split_once("unknown ") else { return error };
    let mut quoted = list.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next() else { return error };
    let like = quoted.map(|name| (strsim::jaro_winkler(unknown, name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((_, name)) = like.filter(|(likeness, _)| *likeness >= LIKE_MIN) {
        error = format!("{}\ndid you mean `{name}`?", error.trim_end());
    }
    error
}

/// Why a probe target would prove nothing, or the wrong thing.
fn unfit(target: IpAddr, service: &Service) -> Option<&'static str> {
    let is_link_local = matches!(target, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if service.interface.is_none() {
        Some("goes with service.interface: without one there is no service network to probe")
    } else if service.addresses.iter().any(|a| a.ip == target) {
        Some("is the service's own address: name a neighbour")
    } else if target.is_unspecified() || target.is_loopback() || target.is_multicast() {
        Some("is nobody's address")
    } else if !is_link_local && !service.addresses.iter().any(|a| a.has(target)) {
        Some("is in none of the networks of service.addresses: only neighbours can be probed, not what is behind a router")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[service]
name = "redis"
command = ["redis-server", "--port", "6379"]
addresses = ["10.77.0.100/24", "fd00:77::100/64"]
interface = "eth0"
[host]
name = "alpha"
start = "primary"
[peer]
name = "beta"
key = "abc"
address = "192.168.77.2:7400"
[link]
listen = "192.168.77.1:7400"
key_file = "/etc/ft/key"
[arbiter]
kind = "witness"
address = "192.168.78.9:7500"
[control]
socket = "/run/ft/redis.sock"
"#;

    fn error(text: &str) -> String {
        Config::parse(Path::new("/etc/ft/redis.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_complete_file_is_taken_with_defaults() {
        let c = Config::parse(Path::new("x"), GOOD).unwrap();
        assert_eq!(c.limits.silence(), Duration::from_millis(120));
        assert_eq!(c.service.addresses[1].prefix, 64);
        assert_eq!(c.host.start, Start::Primary);
    }

    #[test]
    fn the_file_in_the_readme_is_a_good_one() {
        let readme = include_str!("../../README.md");
        let start = readme.find("        [service]").expect("a configuration");
        let block: Vec<&str> =
            readme[start..].lines().take_while(|l| l.is_empty() || l.starts_with("        ")).map(str::trim).collect();
        let c = Config::parse(Path::new("README.md"), &block.join("\n")).unwrap();
        assert_eq!((c.service.name.as_str(), c.host.start), ("redis", Start::Primary));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let e = error(&GOOD.replace("start = \"primary\"", "start = \"first\""));
        assert!(e.contains("/etc/ft/redis.toml") && e.contains("line 9") && e.contains("primary"), "{e}");
        let e = error(&GOOD.replace("10.77.0.100/24", "10.77.0.100"));
        assert!(e.contains("no `/`"), "{e}");
        let e = error(&GOOD.replace("name = \"beta\"", "name = \"beta\"\ncolour = \"blue\""));
        assert!(e.contains("unknown field `colour`"), "{e}");
        let e = error(&GOOD.replace("interface = \"eth0\"\n", ""));
        assert!(e.contains("service.interface"), "{e}");
    }

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        for (good, slip, means) in [
            ("interface = ", "interfaces = ", "interface"),
            ("listen = ", "listens = ", "listen"),
            ("[arbiter]", "[arbitrer]", "arbiter"),
            ("kind = \"witness\"", "kind = \"wittness\"", "witness"),
            ("start = \"primary\"", "start = \"primery\"", "primary"),
        ] {
            let e = error(&GOOD.replace(good, slip));
            assert!(e.contains("line ") && e.ends_with(&format!("did you mean `{means}`?")), "{slip}: {e}");
        }
        let e = error(&GOOD.replace("[link]", "[[link]"));
        assert!(e.contains("line 14") && !e.contains("did you mean"), "{e}");
        let e = error(&GOOD.replace("name = \"beta\"", "name = \"beta\"\ncolour = \"blue\""));
        assert!(!e.contains("did you mean"), "{e}");
    }

    #[test]
    fn more_than_one_backup_is_refused_as_such() {
        let second = "[peer]\nname = \"gamma\"\nkey = \"abc\"\naddress = \"192.168.77.3:7400\"\n";
        let lists = GOOD.replace("[peer]", "[[peer]]");
        let several = [
            lists.clone(),
            format!("{lists}{}", second.replace("[peer]", "[[peer]]")),
            format!("{GOOD}{second}"),
            format!("{GOOD}{}", second.replace("[peer]", "[[peers]]")),
            format!("{GOOD}{}", second.replace("[peer]", "[backup]")),
            format!("{GOOD}{}", second.replace("[peer]", "[[backups]]")),
            format!("{GOOD}{}", second.replace("[peer]", "[hosts.gamma]")),
        ];
        for text in several {
            let e = error(&text);
            assert!(e.contains("line ") && e.trim_end().ends_with(ONE_BACKUP), "{e}");
        }
        let e = error(&format!("{GOOD}[host]\nname = \"gamma\"\n"));
        assert!(e.contains("duplicate key") && !e.contains("backup"), "{e}");
    }

    #[test]
    fn an_etcd_is_named_by_its_members() {
        let parse = |arbiter: &str| {
            let begin = GOOD.find("[arbiter]").unwrap();
            let rest = GOOD[begin + 1..].find("\n[").map_or("", |n| &GOOD[begin + 1 + n..]);
            Config::parse(Path::new("x"), &format!("{}[arbiter]\nkind = \"etcd\"\n{arbiter}\n{rest}", &GOOD[..begin]))
        };
        let c = parse("endpoints = [\"https://b:2379\", \"https://a:2379\"]\nca_file = \"/ca\"").unwrap();
        assert_eq!(c.arbiter.shared(), "etcd https://a:2379 https://b:2379");
        for bad in [
            "endpoints = []",
            "endpoints = [\"10.0.0.5:2379\"]",
            "endpoints = [\"http://\"]",
            "endpoints = [\"http://a:2379\"]\nca_file = \"/ca\"",
            "endpoints = [\"https://a:2379\"]\ncert_file = \"/c\"",
        ] {
            let e = parse(bad).unwrap_err().to_string();
            assert!(e.contains("arbiter."), "{bad}: {e}");
        }
    }

    #[test]
    fn the_server_is_started_here_or_by_somebody_else() {
        let command = "command = [\"redis-server\", \"--port\", \"6379\"]";
        assert!(Config::parse(Path::new("x"), &GOOD.replace(command, "preload = true")).unwrap().service.preload);
        for bad in ["", "command = []", &format!("{command}\npreload = true")] {
            let e = error(&GOOD.replace(command, bad));
            assert!(e.contains("service.command") && e.contains("preload = true"), "{e}");
        }
    }

    #[test]
    fn probe_targets_are_neighbours() {
        let with = |t: &str| GOOD.replace("[host]", &format!("probe_targets = [{t}]\n[host]"));
        let good = Config::parse(Path::new("x"), &with("\"10.77.0.1\", \"fd00:77::1\", \"fe80::1\"")).unwrap();
        assert_eq!(good.service.probe_targets.len(), 3);
        for (bad, why) in [
            ("10.77.1.1", "none of the networks"),
            ("fd00:78::1", "none of the networks"),
            ("10.77.0.100", "own address"),
            ("127.0.0.1", "nobody's"),
            ("gateway", "invalid IP address"),
        ] {
            let e = error(&with(&format!("\"{bad}\"")));
            assert!(e.contains(why) && e.contains("probe_targets"), "{e}");
        }
        let bare = with("\"10.77.0.1\"").replace("interface = \"eth0\"\n", "");
        let e = error(&bare.replace("addresses = [\"10.77.0.100/24\", \"fd00:77::100/64\"]\n", ""));
        assert!(e.contains("no service network to probe"), "{e}");
        let bare = with("").replace("interface = \"eth0\"\n", "tap = true\n");
        let e = error(&bare.replace("addresses = [\"10.77.0.100/24\", \"fd00:77::100/64\"]\n", ""));
        assert!(e.contains("service.tap") && e.contains("no service network"), "{e}");
        let e = error(&format!("{GOOD}[limits]\nservice_loss_ms_max = 50\n"));
        assert!(e.contains("service_loss_ms_max") && e.contains("100 ms"), "{e}");
    }
}
