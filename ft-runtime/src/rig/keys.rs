//! Keys of a rig's hosts. The only place that knows how keys are made.

use super::{Result, io_error};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;

/// One host's.
#[derive(Clone)]
pub(super) struct KeyPair {
    /// Content of a key file.
    pub private: String,
    /// As a peer's configuration has it.
    pub public: String,
}

/// What `ft keygen` makes. Until the link has keys: something of that shape.
pub(super) fn generate() -> Result<KeyPair> {
    let mut secret = [0; 32];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut secret)).map_err(io_error("/dev/urandom"))?;
    let public = Sha256::digest(secret);
    Ok(KeyPair { private: format!("{}\n", base64(&secret)), public: base64(&public) })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for c in bytes.chunks(3) {
        let word = c.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - c.len()));
        for k in 0..4 {
            out.push(if k <= c.len() { char::from(DIGITS[(word >> (18 - 6 * k)) as usize & 63]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
