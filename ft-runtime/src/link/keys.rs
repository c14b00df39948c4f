//! Keys of the link: each host has an Ed25519 key pair and knows the other's public key. No certificates, no names.
//!
//! A private key is a PKCS #8 file (PEM) that only its owner may read. A public key is written as one line: base64 of
//! its SubjectPublicKeyInfo (RFC 8410), as `openssl pkey -pubout` has it between its two lines.
//!
//! Law: a private key is never printed, and a file that others can read is refused.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

const KEY_BYTES: usize = 32;
/// SEQUENCE { SEQUENCE { OID 1.3.101.112 } BIT STRING of 32 bytes }
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING of 32 bytes } }
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const OTHERS: u32 = 0o077;
/// Far above any key file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why a key can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: there is a file already, and a key is never overwritten; choose another name or move it away", path.display())]
    Exists { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: others than its owner may use this private key (mode {mode:o}); chmod 600 it, and make a new one if it was seen", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{}: no Ed25519 private key; make one with `ft keygen FILE`", path.display())]
    NotPrivate { path: PathBuf },
    #[error("{text:?} is no public key; expected is the line that `ft keygen` printed on the peer")]
    NotPublic { text: String },
    #[error("the configured key of the peer is our own; configure the key that `ft keygen` printed on the peer")]
    Own,
    #[error("the system's source of randomness failed; nothing was written")]
    Random,
}

/// Names a host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; PUBLIC_PREFIX.len() + KEY_BYTES]);

impl PublicKey {
    pub(super) fn from_info(der: &[u8]) -> Option<Self> {
        der.starts_with(&PUBLIC_PREFIX).then(|| der.try_into().ok().map(Self)).flatten()
    }

    pub(super) fn info(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        let der = BASE64_STANDARD.decode(s.trim()).ok();
        der.and_then(|d| Self::from_info(&d))
            .ok_or_else(|| KeyError::NotPublic { text: s.trim().chars().take(200).collect() })
    }
}

/// A host's own key.
pub struct PrivateKey {
    pkcs8: PrivatePkcs8KeyDer<'static>,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key of {}", self.public)
    }
}

impl PrivateKey {
    pub fn generate() -> Result<Self, KeyError> {
        let mut pkcs8 = PRIVATE_PREFIX.to_vec();
        pkcs8.resize(PRIVATE_PREFIX.len() + KEY_BYTES, 0);
        let random = ring::default_provider().secure_random;
        random.fill(&mut pkcs8[PRIVATE_PREFIX.len()..]).map_err(|_| KeyError::Random)?;
        Ok(Self::from_pkcs8(pkcs8.into()).expect("32 bytes are an Ed25519 key"))
    }

    fn from_pkcs8(pkcs8: PrivatePkcs8KeyDer<'static>) -> Option<Self> {
        let key = ring::sign::any_eddsa_type(&pkcs8).ok()?;
        let public = PublicKey::from_info(key.public_key()?.as_ref())?;
        Some(Self { pkcs8, public })
    }

    /// Refuses a file that others can read or write.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        let mut pem = Vec::new();
        Read::by_ref(&mut file).take(FILE_BYTES_MAX).read_to_end(&mut pem).map_err(failed)?;
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(&pem).ok();
        pkcs8.and_then(Self::from_pkcs8).ok_or_else(|| KeyError::NotPrivate { path: path.to_owned() })
    }

    /// Mode 0600, synced. Never overwrites.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            _ => KeyError::Io { path: path.to_owned(), source },
        };
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(self.to_pem().as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)
    }

    /// Content of a key file. It is the secret itself.
    pub fn to_pem(&self) -> String {
        let text = BASE64_STANDARD.encode(self.pkcs8.secret_pkcs8_der());
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// What a link needs to know whom it talks to. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    pub(super) own: PublicKey,
    pub(super) peer: PublicKey,
    pub(super) configs: super::tls::Configs,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("own", &self.own).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Keys {
    /// `peer` is pinned: nobody with another key gets a link.
    pub fn new(own: &PrivateKey, peer: PublicKey) -> Result<Self, KeyError> {
        Self::with_provider(own, peer, super::tls::provider())
    }

    pub(super) fn with_provider(own: &PrivateKey, peer: PublicKey, provider: CryptoProvider) -> Result<Self, KeyError> {
        if own.public == peer {
            return Err(KeyError::Own);
        }
        let key = provider
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(own.pkcs8.clone_key()))
            .expect("the same bytes were a key before");
        // RFC 7250: the "certificate" is the bare public key.
        let shown = CertificateDer::from(own.public.info().to_vec());
        let certified = Arc::new(CertifiedKey::new(vec![shown], key));
        Ok(Self { own: own.public, peer, configs: super::tls::Configs::new(certified, peer, Arc::new(provider)) })
    }

    /// Our own public key.
    pub fn own(&self) -> PublicKey {
        self.own
    }

    pub fn peer(&self) -> PublicKey {
        self.peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_saved_once_and_read_back_from_a_closed_file_only() {
        let dir = tempfile::tempdir();
        let path = dir.path().join("key");
        let key = PrivateKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(key.save(&path), Err(KeyError::Exists { .. })));
        assert_eq!(PrivateKey::load(&path).unwrap().public(), key.public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(PrivateKey::load(&path), Err(KeyError::Open { mode: 0o640, .. })));
        let other = dir.path().join("other");
        fs::write(&other, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(PrivateKey::load(&other), Err(KeyError::NotPrivate { .. })));
        assert!(matches!(PrivateKey::load(&dir.path().join("none")), Err(KeyError::Io { .. })));
    }

    #[test]
    fn a_public_key_is_one_line() {
        let key = PrivateKey::generate().unwrap().public();
        let line = key.to_string();
        assert_eq!(line.len(), 60);
        assert!(line.starts_with("MCowBQYDK2VwAyEA"));
        assert_eq!(format!(" {line}\n").parse::<PublicKey>().unwrap(), key);
        for bad in ["", "MCow", &line[..59], "AAAABQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            assert!(matches!(bad.parse::<PublicKey>(), Err(KeyError::NotPublic { .. })), "{bad}");
        }
        assert!(!format!("{:?}", PrivateKey::generate().unwrap()).contains("PrivatePkcs8"));
    }

    #[test]
    fn our_own_key_is_no_peers() {
        let key = PrivateKey::generate().unwrap();
        assert!(matches!(Keys::new(&key, key.public()), Err(KeyError::Own)));
    }

    /// A directory of a test's own, gone with it.
    mod tempfile {
        use std::path::{Path, PathBuf};

        pub struct Dir(PathBuf);

        impl Dir {
            pub fn path(&self) -> &Path {
                &self.0
            }
        }

        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.0);
            }
        }

        pub fn tempdir() -> Dir {
            let path = std::env::temp_dir().join(format!("ft-keys-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }
}
