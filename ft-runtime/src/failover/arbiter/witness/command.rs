//! `ft witness`: a witness as a process, in the foreground, fit for systemd.

use super::seal::{Key, KeyError, Seal};
use super::server::{Witness, WitnessError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("give the key that hosts and witness share with --key FILE, or --no-key where nobody else can reach {0}")]
    NoKey(SocketAddr),
    #[error(transparent)]
    Witness(#[from] WitnessError),
    #[error("the listening socket has no address: {0}")]
    Address(io::Error),
}

/// What was typed.
pub struct Command {
    pub listen: SocketAddr,
    pub state: PathBuf,
    pub key: Option<PathBuf>,
    /// Whoever reaches the port decides who serves.
    pub no_key: bool,
}

impl Command {
    /// Serves until the process is ended. Once it listens it says so in one line of JSON on stdout.
    pub fn run(&self) -> Result<std::convert::Infallible, CommandError> {
        let witness = Witness::bind(self.listen, &self.state, self.seal()?)?;
        let address = witness.address().map_err(CommandError::Address)?;
        let line = serde_json::json!({ "listening": address.to_string(), "services": witness.services() });
        // Whoever started it may not read it.
        let _ = writeln!(io::stdout(), "{line}");
        let _ = io::stdout().flush();
        witness.run()
    }

    fn seal(&self) -> Result<Seal, CommandError> {
        match (&self.key, self.no_key) {
            (Some(path), _) => Ok(Seal::Key(Key::read(Path::new(path))?)),
            (None, true) => {
                tracing::warn!("no key: whoever reaches {} decides who serves", self.listen);
                Ok(Seal::ByStream)
            }
            (None, false) => Err(CommandError::NoKey(self.listen)),
        }
    }
}
