//! Keys of a rig's hosts. The only place that knows how keys are made.

use super::{Result, RigError};
use crate::link::PrivateKey;

/// One host's.
#[derive(Clone)]
pub(super) struct KeyPair {
    /// Content of a key file.
    pub private: String,
    /// As a peer's configuration has it.
    pub public: String,
}

/// What `ft keygen` makes.
pub(super) fn generate() -> Result<KeyPair> {
    let key = PrivateKey::generate().map_err(|e| RigError::Refused(e.to_string()))?;
    Ok(KeyPair { private: key.to_pem(), public: key.public().to_string() })
}
