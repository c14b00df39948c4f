//! Orders of people to an engine, and what becomes of them.

use super::client::{AskError, ask, ask_line, find_socket, follow, order};
use super::command::fields;
use super::{Event, Milestone, Order, Request};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For a backup to become one that could take over.
const SWITCHOVER_MAX: Duration = Duration::from_secs(10);
const SWITCHOVER_AGAIN: Duration = Duration::from_millis(100);
/// For the engine to say what became of an order; longer than a host that hands over is patient.
const END_MAX: Duration = Duration::from_secs(15);

#[derive(Args)]
pub struct ForceArgs {
    /// The control socket, as configured. Otherwise the only one in /run/ft.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// You know that the other host is off, and stays off until it has heard of this one. If it is not, two hosts speak.
    #[arg(long, required = true)]
    peer_is_off: bool,
}

impl ForceArgs {
    pub fn run(self) -> Result<(), AskError> {
        order(&find_socket(self.socket)?, Order::Force)
    }
}

#[derive(Args)]
pub struct OrderArgs {
    /// The control socket, as configured. Otherwise the only one in /run/ft.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl OrderArgs {
    /// Until the other host serves, or it is known that it won't.
    pub fn switch_over(self) -> Result<(), AskError> {
        let path = find_socket(self.socket)?;
        let end = Instant::now() + SWITCHOVER_MAX;
        loop {
            let refusal = match carry_out(&path, Order::Switchover, Milestone::Deposed)? {
                Ok(said) => {
                    println!("{said}");
                    return Ok(());
                }
                Err(why) => why,
            };
            // A host that has just become the backup may not be sure yet that clients reach it.
            let status = fields(&ask_line(&path, Request::Status)?);
            let is = |key: &str, value: &str| status.get(key).is_some_and(|v| v == value);
            if !is("role", "primary") || !is("state", "protected") || Instant::now() > end {
                return Err(AskError::Refused { socket: path.display().to_string(), why: refusal });
            }
            std::thread::sleep(SWITCHOVER_AGAIN);
        }
    }

    /// Until nothing counts on the backup any more.
    pub fn pause(self) -> Result<(), AskError> {
        self.carry_out(Order::Pause, Milestone::Paused)
    }

    /// Until another host is admitted, not until it is one that protects.
    pub fn resume(self) -> Result<(), AskError> {
        self.carry_out(Order::Resume, Milestone::Resumed)
    }

    fn carry_out(self, what: Order, done: Milestone) -> Result<(), AskError> {
        let path = find_socket(self.socket)?;
        match carry_out(&path, what, done)? {
            Ok(said) => println!("{said}"),
            Err(why) => return Err(AskError::Refused { socket: path.display().to_string(), why }),
        }
        Ok(())
    }
}

#[derive(Subcommand)]
pub enum BackupCommand {
    /// Take it out, for maintenance of its machine: the primary goes on alone, no client waits, and the backup's `ft run` ends.
    /// `ft run` brings it back. On either host.
    Detach(OrderArgs),
}

impl BackupCommand {
    pub fn run(self) -> Result<(), AskError> {
        match self {
            Self::Detach(a) => a.carry_out(Order::Detach, Milestone::Detached),
        }
    }
}

/// One attempt: what the engine says of it in the end. `done`: what shows that it is.
fn carry_out(path: &Path, what: Order, done: Milestone) -> Result<Result<String, String>, AskError> {
    let mut last = 0;
    for line in ask(path, Request::Events { after: 0, follow: false })? {
        last = serde_json::from_str::<Event>(&line?).map_or(last, |e| e.seq);
    }
    // Before the order: it may end the engine.
    let events = follow(path, last, END_MAX)?;
    order(path, what)?;
    let end = Instant::now() + END_MAX;
    for line in events {
        let line = match line {
            Err(AskError::Silent { .. }) => return Ok(Err(undecided())),
            line => line?,
        };
        let Ok(e) = serde_json::from_str::<Event>(&line) else { continue };
        match e.milestone {
            Some(m) if m == done => return Ok(Ok(e.event)),
            Some(Milestone::Refused | Milestone::Unprotected | Milestone::Deposed | Milestone::Detected) => return Ok(Err(e.event)),
            _ if Instant::now() > end => return Ok(Err(undecided())),
            _ => {}
        }
    }
    Ok(Err("the engine ended; `ft status` on the other host says whether it serves".into()))
}

fn undecided() -> String {
    let s = END_MAX.as_secs();
    format!("it has not said in {s} s what became of it; `ft events` tells, and `ft status` how the pair stands")
}
