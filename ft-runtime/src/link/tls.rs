//! The encryption: TLS 1.3, both sides proving raw Ed25519 keys (RFC 7250), each pinning the other's. No I/O.
//!
//! Law: nobody without the configured key gets past [`Tls::process`] to [`Step::Ready`].

use super::buffer::Buffer;
use super::keys::PublicKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;

/// Plain bytes in one record.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Room that the sealed form of one full record, and a change of keys before it, takes at most.
const SEALED_BYTES_MAX: usize = RECORD_BYTES_MAX + 1024;
/// Room that TLS's own messages find at all times: they are few and small once the handshake is done.
const OWN_BYTES_MAX: usize = 1024;

/// One cipher (both hosts are of one kind, with AES instructions), one key exchange.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

#[derive(Clone)]
pub(super) struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Configs {
    pub fn new(own: Arc<CertifiedKey>, peer: PublicKey, provider: Arc<CryptoProvider>) -> Self {
        const SUITED: &str = "the provider has a cipher of TLS 1.3";
        let pin = Arc::new(Pin { peer, provider: provider.clone() });
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect(SUITED)
            .dangerous()
            .with_custom_certificate_verifier(pin.clone())
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own.clone())));
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect(SUITED)
            .with_client_cert_verifier(pin)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Self { client: client.into(), server: server.into() }
    }
}

/// Somebody proved, or was about to prove, this key.
#[derive(Debug)]
struct OtherKey(Option<PublicKey>);

impl fmt::Display for OtherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the configured key")
    }
}

impl std::error::Error for OtherKey {}

/// Accepts one key.
#[derive(Debug)]
struct Pin {
    peer: PublicKey,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn check(&self, shown: &CertificateDer) -> Result<(), Error> {
        match PublicKey::from_info(shown) {
            Some(key) if key == self.peer => Ok(()),
            other => Err(CertificateError::Other(OtherError(Arc::new(OtherKey(other)))).into()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(&key[..]), signature, algorithms)
    }
}

const ONLY_TLS13: &str = "only TLS 1.3 was offered";

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer,
        _: &[CertificateDer],
        _: &ServerName,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(ONLY_TLS13.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer,
        _: &[CertificateDer],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(ONLY_TLS13.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Why TLS failed, in the link's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsError {
    /// The peer showed this key, which is not the configured one.
    WrongKey(PublicKey),
    /// The peer said that our key is not the one it expects.
    KeyRefused,
    /// Anything else.
    Other(String),
}

impl From<Error> for TlsError {
    fn from(e: Error) -> Self {
        match &e {
            Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref() {
                Some(OtherKey(Some(key))) => Self::WrongKey(*key),
                _ => Self::Other("it shows no Ed25519 key".into()),
            },
            Error::InvalidCertificate(_) => Self::Other("it does not own the key it shows".into()),
            // What the other side's `OtherKey` becomes on the wire.
            Error::AlertReceived(AlertDescription::CertificateUnknown) => Self::KeyRefused,
            Error::AlertReceived(alert) => Self::Other(format!("it refused us with the TLS alert {alert:?}")),
            Error::DecryptError => Self::Other("a record was altered on its way, or the peer's memory is bad".into()),
            Error::InvalidMessage(_) => Self::Other("what it sends is not TLS".into()),
            Error::NoCertificatesPresented => Self::Other("it shows no key".into()),
            e => Self::Other(e.to_string()),
        }
    }
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What came of one step.
enum Step {
    /// Something was done; there may be more.
    Again,
    /// The handshake needs more from the peer.
    Blocked,
    /// The handshake is done, and as much as wanted or possible was sealed.
    Ready {
        sealed: usize,
    },
    /// The peer says that it sends no more.
    PeerClosed,
    Closed,
}

/// What the outside wants sealed.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    Nothing,
    Bytes(&'a [u8]),
    CloseNotify,
}

/// What a call of `process` achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The handshake is done and the peer is who it should be.
    pub ready: bool,
    /// Of the wanted bytes.
    pub sealed: usize,
    /// The peer sends no more.
    pub peer_closed: bool,
}

pub(super) struct Tls {
    side: Side,
    peer_closed: bool,
    /// It is not asked again then: rustls does not stand for a second error.
    failed: Option<TlsError>,
}

impl Tls {
    pub fn client(c: &Configs) -> Self {
        let name = ServerName::try_from("ft").expect("a DNS name; nobody looks at it");
        let connection = UnbufferedClientConnection::new(c.client.clone(), name).expect("a complete configuration");
        Self { side: Side::Client(Box::new(connection)), peer_closed: false, failed: None }
    }

    pub fn server(c: &Configs) -> Self {
        let connection = UnbufferedServerConnection::new(c.server.clone()).expect("a complete configuration");
        Self { side: Side::Server(Box::new(connection)), peer_closed: false, failed: None }
    }

    /// Opens what `incoming` has into `plain`, then seals what is wanted into `out` as far as there is room.
    /// `plain` must have room for as much as `incoming` holds. After an error, `out` ends with what the peer is to be told.
    pub fn process(
        &mut self,
        incoming: &mut Buffer,
        plain: &mut Buffer,
        out: &mut Buffer,
        wanted: Wanted,
    ) -> Result<Progress, TlsError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let mut progress = Progress { peer_closed: self.peer_closed, ..Progress::default() };
        // Each step takes or makes a record, or is the last.
        loop {
            match self.step(incoming, plain, out, wanted) {
                Ok(Step::Again) => {}
                Ok(Step::Blocked | Step::Closed) => return Ok(progress),
                Ok(Step::PeerClosed) => {
                    self.peer_closed = true;
                    progress.peer_closed = true;
                }
                Ok(Step::Ready { sealed }) => {
                    progress.ready = true;
                    progress.sealed = sealed;
                    return Ok(progress);
                }
                Err(e) => {
                    // The alert, and what was to be said before it. Each step takes one message.
                    while self.wants_write() && self.step(incoming, plain, out, Wanted::Nothing).is_ok() {}
                    let e = TlsError::from(e);
                    self.failed = Some(e.clone());
                    return Err(e);
                }
            }
        }
    }

    fn wants_write(&self) -> bool {
        match &self.side {
            Side::Client(c) => c.wants_write(),
            Side::Server(s) => s.wants_write(),
        }
    }

    fn step(
        &mut self,
        incoming: &mut Buffer,
        plain: &mut Buffer,
        out: &mut Buffer,
        wanted: Wanted,
    ) -> Result<Step, Error> {
        let (discard, step) = match &mut self.side {
            Side::Client(c) => carry_out(c.process_tls_records(incoming.filled_mut()), plain, out, wanted),
            Side::Server(s) => carry_out(s.process_tls_records(incoming.filled_mut()), plain, out, wanted),
        };
        incoming.discard(discard);
        step
    }
}

fn carry_out<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Buffer,
    out: &mut Buffer,
    wanted: Wanted,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(e) => Err(e),
        Ok(ConnectionState::ReadTraffic(mut records)) => loop {
            match records.next_record() {
                None => break Ok(Step::Again),
                Some(Err(e)) => break Err(e),
                Some(Ok(record)) => {
                    plain.push(record.payload);
                    discard += record.discard;
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut message)) => match message.encode(out.room(SEALED_BYTES_MAX)) {
            Ok(n) => {
                out.filled_more(n);
                Ok(Step::Again)
            }
            Err(e) => Err(Error::General(e.to_string())),
        },
        // It is in `out`, in order, and will be sent.
        Ok(ConnectionState::TransmitTlsData(t)) => {
            t.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let mut sealed = 0;
            match wanted {
                Wanted::Nothing => Ok(Step::Ready { sealed }),
                Wanted::CloseNotify => match traffic.queue_close_notify(out.room(SEALED_BYTES_MAX)) {
                    Ok(n) => {
                        out.filled_more(n);
                        Ok(Step::Ready { sealed })
                    }
                    Err(e) => Err(Error::General(e.to_string())),
                },
                Wanted::Bytes(bytes) => loop {
                    let rest = &bytes[sealed..];
                    if rest.is_empty() {
                        break Ok(Step::Ready { sealed });
                    }
                    let room = out.room(SEALED_BYTES_MAX + OWN_BYTES_MAX);
                    if room.len() < SEALED_BYTES_MAX + OWN_BYTES_MAX {
                        break Ok(Step::Ready { sealed });
                    }
                    let record = &rest[..rest.len().min(RECORD_BYTES_MAX)];
                    match traffic.encrypt(record, room) {
                        Ok(n) => out.filled_more(n),
                        Err(e) => break Err(Error::General(e.to_string())),
                    }
                    sealed += record.len();
                },
            }
        }
        Ok(other) => Err(Error::General(format!("unexpected state {other:?}"))),
    };
    (discard, step)
}
