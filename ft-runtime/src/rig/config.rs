//! What a rig's service is, and the configuration files that its hosts run it with.

use super::keys::KeyPair;
use super::network::{ADDRESS, ADDRESS6, PREFIX, PREFIX6, SERVICE, has_ipv6, link_address, management_address, service_address};
use super::{Host, Result, RigError, io_error};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

pub(super) const CONFIG_FILE: &str = "/etc/ft/service.toml";
pub(super) const KEY_FILE: &str = "/etc/ft/key";
pub(super) const WITNESS_KEY_FILE: &str = "/etc/ft/witness.key";
pub(super) const LINK_PORT: u16 = 7400;
pub(super) const WITNESS_PORT: u16 = 7500;
/// A directory that both hosts have, as storage they share.
pub(super) const SHARED: &str = "/mnt/ft-shared";
const WITNESS: &str = "witness";
const NAME_MAX: usize = 40;
/// Options of common servers that name the directory of their data.
const STATE_OPTIONS: [&str; 5] = ["--dir", "--datadir", "--data-dir", "--dbpath", "--data"];
/// And their port.
const PORT_OPTIONS: [&str; 3] = ["--port", "-port", "-p"];

/// What runs in a rig.
#[derive(Clone, Debug)]
pub(super) struct ServiceConfig {
    pub name: String,
    pub command: Vec<OsString>,
    pub cwd: PathBuf,
    pub state_dirs: Vec<PathBuf>,
    pub port: Option<u16>,
    /// The rig starts the server itself, with the shim preloaded; `ft` waits for it.
    pub preload: bool,
    /// All that the user's file says.
    given: Table,
}

impl ServiceConfig {
    /// From the user's file, if any, and the command line, which wins.
    pub fn new(file: Option<&Path>, command: &[OsString], state_dirs: &[PathBuf], port: Option<u16>) -> Result<Self> {
        let given = match file {
            Some(f) => read(f)?,
            None => Table::new(),
        };
        let bad = |what: &str| RigError::Refused(format!("{what} in the configuration file is not what it must be"));
        let service = match given.get("service") {
            Some(Value::Table(t)) => t.clone(),
            Some(_) => return Err(bad("[service]")),
            None => Table::new(),
        };
        let texts = |key: &str| -> Result<Vec<String>> {
            let Some(v) = service.get(key) else { return Ok(Vec::new()) };
            let list = v.as_array().ok_or_else(|| bad(key))?;
            list.iter().map(|t| t.as_str().map(str::to_owned).ok_or_else(|| bad(key))).collect()
        };
        let mut argv = command.to_vec();
        if argv.is_empty() {
            argv = texts("command")?.into_iter().map(OsString::from).collect();
        }
        let Some(program) = argv.first() else {
            return Err(RigError::Refused(
                "no command: ft rig up -- COMMAND ARGUMENTS, or --config FILE with [service] command = [...]".into(),
            ));
        };
        let name = match service.get("name").map(|v| v.as_str().ok_or_else(|| bad("name"))).transpose()? {
            Some(n) => n.to_owned(),
            None => name_of(program),
        };
        let mut dirs: Vec<PathBuf> = state_dirs.to_vec();
        dirs.extend(texts("state_dirs")?.into_iter().map(PathBuf::from));
        if dirs.is_empty() {
            dirs.extend(option_values(&argv, &STATE_OPTIONS).map(PathBuf::from).filter(|d| d.is_absolute()));
        }
        dirs.dedup();
        let cwd = match service.get("cwd").map(|v| v.as_str().ok_or_else(|| bad("cwd"))).transpose()? {
            Some(d) => d.into(),
            None => std::env::current_dir().map_err(io_error("the current directory"))?,
        };
        let guessed = || option_values(&argv, &PORT_OPTIONS).find_map(|v| v.to_str()?.parse().ok());
        let preload = service.get("preload").map(|v| v.as_bool().ok_or_else(|| bad("preload"))).transpose()?;
        let preload = preload.unwrap_or(false);
        Ok(Self { name, port: port.or_else(guessed), command: argv, cwd, state_dirs: dirs, preload, given })
    }

    /// Path of the control socket, in the host.
    pub fn control_socket(name: &str) -> String {
        format!("/run/ft/{name}.sock")
    }

    /// The kind of arbiter: the user's choice, or a witness.
    fn arbiter(&self) -> &str {
        self.given.get("arbiter").and_then(|a| a.get("kind")?.as_str()).unwrap_or(WITNESS)
    }

    pub fn needs_witness(&self) -> bool {
        self.arbiter() == WITNESS
    }

    /// The configuration file of one of the pair.
    pub fn of_host(&self, host: Host, keys: &BTreeMap<Host, KeyPair>) -> Result<String> {
        let peer = host.peer().expect("only the pair runs the service");
        let mut all = self.given.clone();
        let text = |s: &OsStr| {
            s.to_str().map(Value::from).ok_or_else(|| RigError::Refused(format!("{} is not UTF-8", s.display())))
        };
        let command = self.command.iter().map(|a| text(a)).collect::<Result<Vec<_>>>()?;
        let dirs = self.state_dirs.iter().map(|d| text(d.as_os_str())).collect::<Result<Vec<_>>>()?;
        let targets = vec![Value::from(service_address(Host::Client)), service_address(Host::Witness).into()];
        let targets = self.given.get("service").and_then(|s| s.get("probe_targets")).cloned().unwrap_or(targets.into());
        let mut addresses = vec![Value::from(format!("{ADDRESS}/{PREFIX}"))];
        if has_ipv6() {
            addresses.push(format!("{ADDRESS6}/{PREFIX6}").into());
        }
        merge(
            &mut all,
            "service",
            [
                ("name", self.name.as_str().into()),
                ("command", command.into()),
                ("cwd", text(self.cwd.as_os_str())?),
                ("preload", self.preload.into()),
                ("addresses", addresses.into()),
                ("interface", SERVICE.into()),
                ("probe_targets", targets),
                ("state_dirs", dirs.into()),
            ],
        );
        if self.preload {
            // Its own.
            let service = all.get_mut("service").and_then(Value::as_table_mut).expect("it was just made");
            service.remove("command");
            service.remove("cwd");
        }
        let start = if host == Host::Alpha { "primary" } else { "backup" };
        merge(&mut all, "host", [("name", host.name().into()), ("start", start.into())]);
        let key_of = |h: Host| keys.get(&h).map_or("", |k| k.public.as_str());
        merge(
            &mut all,
            "peer",
            [
                ("name", peer.name().into()),
                ("key", key_of(peer).into()),
                ("address", format!("{}:{LINK_PORT}", link_address(peer)).into()),
            ],
        );
        merge(
            &mut all,
            "link",
            [("listen", format!("{}:{LINK_PORT}", link_address(host)).into()), ("key_file", KEY_FILE.into())],
        );
        let kind = self.arbiter();
        merge(&mut all, "arbiter", [("kind", kind.into())]);
        if kind == WITNESS {
            let address = format!("{}:{WITNESS_PORT}", management_address(Host::Witness));
            merge(
                &mut all,
                "arbiter",
                [("address", address.into()), ("key_file", WITNESS_KEY_FILE.into())],
            );
        } else if kind == "file" {
            merge(&mut all, "arbiter", [("file", format!("{SHARED}/arbiter").into())]);
        }
        merge(&mut all, "control", [("socket", Self::control_socket(&self.name).into())]);
        toml::to_string(&all).map_err(|e| RigError::Refused(format!("the configuration of {host}: {e}")))
    }
}

fn read(file: &Path) -> Result<Table> {
    let text = fs::read_to_string(file).map_err(io_error(file.display().to_string()))?;
    text.parse().map_err(|e| RigError::Refused(format!("{}: {e}", file.display())))
}

fn merge<const N: usize>(all: &mut Table, section: &str, values: [(&str, Value); N]) {
    let entry = all.entry(section).or_insert_with(|| Table::new().into());
    if !entry.is_table() {
        *entry = Table::new().into();
    }
    let table = entry.as_table_mut().expect("it was made one");
    for (k, v) in values {
        table.insert(k.into(), v);
    }
}

/// A name for sockets and files.
fn name_of(program: &OsStr) -> String {
    let base = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    base.chars().map(fit).take(NAME_MAX).collect()
}

/// Values of `--option value` and `--option=value`.
fn option_values<'a>(argv: &'a [OsString], options: &'a [&str]) -> impl Iterator<Item = &'a OsStr> {
    let after = argv.windows(2).filter(|w| options.iter().any(|o| w[0] == *o)).map(|w| w[1].as_os_str());
    let joined = argv.iter().filter_map(|a| {
        let (name, value) = a.to_str()?.split_once('=')?;
        options.contains(&name).then(|| OsStr::new(value))
    });
    after.chain(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn what_the_command_says_is_found() {
        let line = command("/usr/bin/redis-server --port 6379 --bind 0.0.0.0 --dir /var/lib/redis");
        let c = ServiceConfig::new(None, &line, &[], None).unwrap();
        assert_eq!((c.name.as_str(), c.port), ("redis-server", Some(6379)));
        assert_eq!(c.state_dirs, [PathBuf::from("/var/lib/redis")]);
        let c = ServiceConfig::new(None, &command("server --datadir=/d --port=x"), &["/s".into()], Some(1)).unwrap();
        assert_eq!((c.state_dirs, c.port), (vec![PathBuf::from("/s")], Some(1)));
        assert!(ServiceConfig::new(None, &[], &[], None).is_err());
    }

    #[test]
    fn the_arbiter_is_the_users_choice() {
        let mut c = ServiceConfig::new(None, &command("server"), &[], None).unwrap();
        assert!(c.needs_witness());
        c.given = "[arbiter]\nkind = \"file\"".parse().unwrap();
        assert!(!c.needs_witness());
        let t = c.of_host(Host::Alpha, &BTreeMap::new()).unwrap().parse::<Table>().unwrap();
        assert!(t["arbiter"]["file"].as_str().unwrap().starts_with(SHARED) && t["arbiter"].get("address").is_none());
    }

    #[test]
    fn a_server_that_comes_by_itself_is_not_started_by_ft() {
        let mut c = ServiceConfig::new(None, &command("server --port 1"), &[], None).unwrap();
        c.preload = true;
        let t = c.of_host(Host::Beta, &BTreeMap::new()).unwrap().parse::<Table>().unwrap();
        let service = t["service"].as_table().unwrap();
        assert_eq!((service["preload"].as_bool(), service.get("command"), service.get("cwd")), (Some(true), None, None));
    }

    #[test]
    fn the_two_files_of_a_pair_mirror_each_other() {
        let c = ServiceConfig::new(None, &command("server --port 1"), &[], None).unwrap();
        let key = |k: &str| KeyPair { private: String::new(), public: k.into() };
        let keys = BTreeMap::from([(Host::Alpha, key("A")), (Host::Beta, key("B")), (Host::Witness, key("W"))]);
        let of = |h| c.of_host(h, &keys).unwrap().parse::<Table>().unwrap();
        let (a, b) = (of(Host::Alpha), of(Host::Beta));
        assert_eq!((a["host"]["start"].as_str(), b["host"]["start"].as_str()), (Some("primary"), Some("backup")));
        for (x, y) in [(&a, &b), (&b, &a)] {
            assert_eq!(x["peer"]["address"], y["link"]["listen"]);
            assert_eq!(x["peer"]["name"], y["host"]["name"]);
        }
        assert_eq!((a["peer"]["key"].as_str(), b["peer"]["key"].as_str()), (Some("B"), Some("A")));
        for same in ["service", "arbiter", "control"] {
            assert_eq!(a[same], b[same]);
        }
    }
}
