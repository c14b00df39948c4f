//! The subcommands of `ft rig`. Parses, calls, prints; nothing is decided here.

use super::state::RigName;
use super::status::RigStatus;
use super::{Fault, Host, Mode, Result, Up, host, slow};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Subcommand)]
pub enum Rig {
    /// Make a rig with a server in it; returns once it serves, and prints one JSON object.
    Up(UpArgs),
    /// Run a command on one of the rig's hosts.
    Exec(ExecArgs),
    /// Let something happen to a host.
    Fault(FaultArgs),
    /// How the hosts are.
    Status(StatusArgs),
    /// Remove a rig and all that is in it.
    Down(Named),
    /// All rigs of this machine.
    List(ListArgs),
    /// A host's first process.
    #[command(hide = true)]
    Host(HostArgs),
    /// What makes the link slow.
    #[command(hide = true)]
    SlowLink(Named),
}

#[derive(Args)]
pub struct Named {
    /// Which rig.
    #[arg(long, default_value = "default")]
    name: RigName,
}

#[derive(Args)]
pub struct UpArgs {
    #[command(flatten)]
    rig: Named,
    /// Configuration of the service, as for `ft run`; what concerns hosts and networks is the rig's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Give up after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,
    /// Only on alpha, under `ft` but not protected.
    #[arg(long, conflicts_with = "native")]
    solo: bool,
    /// Only on alpha, the bare command: to compare with.
    #[arg(long)]
    native: bool,
    /// Start the server on its own, with LD_PRELOAD=libft_shim.so, and have `ft` wait for it.
    #[arg(long, conflicts_with_all = ["solo", "native"])]
    preload: bool,
    /// A directory of the server's data, made if missing; several are allowed. Otherwise guessed from the command.
    #[arg(long, value_name = "DIR")]
    state: Vec<PathBuf>,
    /// Wait until this port accepts connections. Otherwise guessed from the command.
    #[arg(long)]
    port: Option<u16>,
    /// Room for what each host writes, in MiB, 32 at least. Otherwise the machine's: then disks can't be filled.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..))]
    disk: Option<u32>,
    /// Leave a rig that did not come up for inspection.
    #[arg(long)]
    keep: bool,
    /// The server and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
pub struct ExecArgs {
    #[command(flatten)]
    rig: Named,
    host: Host,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
pub struct FaultArgs {
    #[command(flatten)]
    rig: Named,
    host: Host,
    /// An unknown one lists all.
    kind: Fault,
    /// With revive-host: its disk is empty.
    #[arg(long)]
    wipe: bool,
    /// With flip-bit: where.
    #[arg(long)]
    text: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    rig: Named,
    #[arg(short, long, default_value = "text")]
    output: Format,
}

#[derive(Args)]
pub struct ListArgs {
    #[arg(short, long, default_value = "text")]
    output: Format,
}

#[derive(Args)]
pub struct HostArgs {
    /// Only to be read in a list of processes.
    #[command(flatten)]
    _rig: Named,
    spec: PathBuf,
}

impl Rig {
    /// The exit status.
    pub fn run(self) -> Result<i32> {
        match self {
            Self::Up(a) => print_json(&a.into_up().run()?),
            Self::Exec(a) => return super::exec(&a.rig.name, a.host, &a.command),
            Self::Fault(a) => print_json(&super::fault(&a.rig.name, a.host, a.kind, a.wipe, a.text.as_deref())?),
            Self::Status(a) => {
                let status = super::status(&a.rig.name)?;
                match a.output {
                    Format::Json => print_json(&status),
                    Format::Text => print(&text(&status)),
                }
            }
            Self::Down(a) => {
                if !super::down(&a.name)? {
                    eprintln!("ft: there is no rig '{}'", a.name);
                }
            }
            Self::List(a) => {
                let rigs = super::list()?;
                match a.output {
                    Format::Json => print_json(&rigs),
                    Format::Text => rigs.iter().for_each(|r| {
                        print(&format!("{:<20} {:<8} {}", r.name, r.state, r.command.join(" ")));
                    }),
                }
            }
            Self::Host(a) => return host::main(&a.spec),
            Self::SlowLink(a) => return slow::main(&a.name),
        }
        Ok(0)
    }
}

impl UpArgs {
    fn into_up(self) -> Up {
        Up {
            name: self.rig.name,
            config: self.config,
            mode: match (self.solo, self.native) {
                (true, _) => Mode::Solo,
                (_, true) => Mode::Native,
                _ => Mode::Pair,
            },
            timeout: Duration::from_secs(self.timeout),
            keep: self.keep,
            state_dirs: self.state,
            port: self.port,
            preload: self.preload,
            disk_mib: self.disk,
            command: self.command,
        }
    }
}

fn text(s: &RigStatus) -> String {
    let mut lines = vec![format!("{:<10}{:<10}{:>6}  {}", "host", "role", "term", "state")];
    for h in &s.hosts {
        let term = h.term.map_or_else(|| "-".into(), |t| t.to_string());
        let (role, state) = (h.role.as_deref().unwrap_or("-"), h.state.as_deref().unwrap_or("-"));
        lines.push(format!("{:<10}{role:<10}{term:>6}  {state}", h.host.name()));
    }
    lines.push(format!("{:<10}{:<10}{:>6}  {}", "witness", "-", "-", s.witness));
    lines.join("\n")
}

fn print_json(value: &impl Serialize) {
    print(&serde_json::to_string(value).expect("reports are plain numbers and text"));
}

/// A reader that went away is no fault of ours.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
