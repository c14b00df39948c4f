//! Who says it: each message over plain TCP ends with an HMAC-SHA256 under a key that hosts and witness share.
//!
//! A request's covers the nonce that the witness drew for this connection, an answer's the request's own tag too: what
//! was recorded elsewhere or earlier fits nowhere. It hides nothing; the record is no secret.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub const TAG_BYTES: usize = 32;
pub const NONCE_BYTES: usize = 16;
/// Shorter keys can be guessed.
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: u64 = 4096;

pub type Nonce = [u8; NONCE_BYTES];
pub type Tag = [u8; TAG_BYTES];

#[derive(Clone)]
pub enum Seal {
    Key(Key),
    /// The stream itself is encrypted and has made sure who is at its other end.
    ByStream,
}

#[derive(Clone)]
pub struct Key([u8; 32]);

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "cannot read the key {path}: {source}; make one with `head -c 32 /dev/urandom | base64 > {path}; chmod 600 {path}` and copy it to both hosts and the witness"
    )]
    Unreadable { path: String, source: io::Error },
    #[error("the key {path} can be read by others (mode {mode:o}): chmod 600 {path}, and make a new one if they did")]
    Exposed { path: String, mode: u32 },
    #[error("the key {path} has {bytes} bytes: {KEY_BYTES_MIN} to {KEY_BYTES_MAX} are needed")]
    Length { path: String, bytes: u64 },
}

impl Key {
    /// Any secret text; white space at its end doesn't count.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let unreadable = |source| KeyError::Unreadable { path: name.clone(), source };
        let meta = fs::metadata(path).map_err(unreadable)?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: name, mode });
        }
        if meta.len() > KEY_BYTES_MAX {
            return Err(KeyError::Length { path: name, bytes: meta.len() });
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        let secret = bytes.trim_ascii_end();
        if secret.len() < KEY_BYTES_MIN {
            return Err(KeyError::Length { path: name, bytes: secret.len() as u64 });
        }
        Ok(Self::from_secret(secret))
    }

    pub fn from_secret(secret: &[u8]) -> Self {
        Self(Sha256::new().chain_update(b"ft witness key\0").chain_update(secret).finalize().into())
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in parts {
            // Lengths keep what belongs to one part from counting to the next.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

impl Seal {
    /// Appends the tag of `parts`, which name what is said, to whom, and the message itself.
    pub fn close(&self, parts: &[&[u8]]) -> Tag {
        match self {
            Self::Key(key) => key.mac(parts).finalize().into_bytes().into(),
            Self::ByStream => [0; TAG_BYTES],
        }
    }

    #[must_use]
    pub fn is_whole(&self, parts: &[&[u8]], tag: &Tag) -> bool {
        match self {
            // In constant time.
            Self::Key(key) => key.mac(parts).verify_slice(tag).is_ok(),
            Self::ByStream => tag == &[0; TAG_BYTES],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_fits_one_message_under_one_key() {
        let seal = Seal::Key(Key::from_secret(b"0123456789abcdef"));
        let tag = seal.close(&[b"request", b"nonce", b"body"]);
        assert!(seal.is_whole(&[b"request", b"nonce", b"body"], &tag));
        assert!(!seal.is_whole(&[b"answer", b"nonce", b"body"], &tag));
        assert!(!seal.is_whole(&[b"request", b"noncebody", b""], &tag), "parts don't run together");
        assert!(!Seal::Key(Key::from_secret(b"0123456789abcdeF")).is_whole(&[b"request", b"nonce", b"body"], &tag));
        assert!(!Seal::ByStream.is_whole(&[b"request", b"nonce", b"body"], &tag));
    }
}
