//! The arbiter as a key in etcd, by its JSON gateway (`/v3/kv` on the client port).
//!
//! Version N of the record is the N-th version of the key: etcd counts puts as we do, and a transaction that compares
//! that number is the compare-and-put. Reads are linearizable, so that a member that lost the others answers nothing.
//!
//! A member that doesn't answer is passed over for the next. A put may then be asked twice; one that was done after all is lost
//! to itself, which its content shows (see `book`).

use super::stored;
use super::{Ask, Keeper, KeeperError, Told};
use crate::failover::record::{Record, Version, compare_and_put};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// Keys of services begin with it.
const PREFIX: &str = "/ft/";
/// No answer is longer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// A member is given so much at least, whatever the number of others.
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// How etcd is reached over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who vouches for its members.
    pub ca: Option<PathBuf>,
    /// Own certificate and key.
    pub own: Option<(PathBuf, PathBuf)>,
}

pub struct EtcdArbiter {
    agent: Agent,
    /// As `http://host:port`; the one that answered last is asked first.
    endpoints: Vec<String>,
    answered: usize,
    key: String,
}

#[derive(Debug, thiserror::Error)]
enum EtcdError {
    /// It was not asked, for certain.
    #[error("{endpoint}: {why}")]
    Unreachable { endpoint: String, why: String },
    #[error("{endpoint}: {why}")]
    Unknown { endpoint: String, why: String },
    #[error("the record in etcd can't be used: {0}")]
    Damaged(String),
}

impl EtcdArbiter {
    pub fn new(service: &str, endpoints: Vec<String>, tls: &TlsFiles) -> io::Result<Self> {
        let config = Agent::config_builder().http_status_as_error(false).tls_config(tls.config()?).proxy(None).build();
        let key = BASE64.encode(format!("{PREFIX}{service}"));
        let endpoints = endpoints.into_iter().map(|e| e.trim_end_matches('/').to_owned()).collect();
        Ok(Self { agent: config.new_agent(), endpoints, answered: 0, key })
    }

    fn call<T: for<'a> Deserialize<'a>>(&self, endpoint: &str, what: &str, body: &Value, max: Duration) -> Result<T, EtcdError> {
        let unknown = |why: String| EtcdError::Unknown { endpoint: endpoint.into(), why };
        let sent = self.agent.post(format!("{endpoint}/v3/kv/{what}")).config().timeout_global(Some(max)).build();
        let mut answer = sent.send(body.to_string().as_bytes()).map_err(|e| match e {
            ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => {
                EtcdError::Unreachable { endpoint: endpoint.into(), why: e.to_string() }
            }
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                EtcdError::Unreachable { endpoint: endpoint.into(), why: e.to_string() }
            }
            e => unknown(e.to_string()),
        })?;
        let status = answer.status();
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(|e| unknown(e.to_string()))?;
        if !status.is_success() {
            return Err(unknown(format!("it answers {status}: {}", String::from_utf8_lossy(&bytes).trim())));
        }
        serde_json::from_slice(&bytes).map_err(|e| unknown(format!("its answer can't be read: {e}")))
    }

    fn once(&self, endpoint: &str, ask: &Ask, max: Duration) -> Result<Told, EtcdError> {
        let range = json!({ "key": self.key });
        let Ask::Put { expect, ruling } = *ask else {
            let found: Range = self.call(endpoint, "range", &range, max)?;
            return Ok(Told::Current(found.record()?));
        };
        let stands = (expect != Version::ABSENT).then_some(Record { version: expect, ruling });
        let Ok(record) = compare_and_put(stands, expect, ruling) else {
            let found: Range = self.call(endpoint, "range", &range, max)?;
            return Ok(Told::Lost(found.record()?));
        };
        let value = BASE64.encode(stored::encode(&record));
        let transaction = json!({
            "compare": [{ "key": self.key, "target": "VERSION", "result": "EQUAL", "version": expect.0.to_string() }],
            "success": [{ "request_put": { "key": self.key, "value": value } }],
            "failure": [{ "request_range": range }],
        });
        let done: Transaction = self.call(endpoint, "txn", &transaction, max)?;
        if done.succeeded {
            return Ok(Told::Granted(record));
        }
        let stands = done.responses.into_iter().find_map(|r| r.response_range).unwrap_or_default();
        Ok(Told::Lost(stands.record()?))
    }
}

impl Keeper for EtcdArbiter {
    fn ask(&mut self, ask: &Ask, deadline: Instant) -> Result<Told, KeeperError> {
        let (mut asked, mut why) = (false, String::new());
        let members = self.endpoints.len();
        for k in 0..members {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let at = (self.answered + k) % members;
            let max = (left / (members - k) as u32).max(PATIENCE_MIN).min(left);
            match self.once(&self.endpoints[at], ask, max) {
                Ok(told) => {
                    self.answered = at;
                    return Ok(told);
                }
                Err(e) => {
                    asked |= !matches!(e, EtcdError::Unreachable { .. });
                    why = e.to_string();
                }
            }
        }
        Err(if asked { KeeperError::Unknown(why) } else { KeeperError::Unreachable(why) })
    }
}

/// What a read finds. Fields that are zero are left out by etcd.
#[derive(Debug, Default, Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
struct KeyValue {
    value: String,
    version: String,
}

impl Range {
    fn record(self) -> Result<Option<Record>, EtcdError> {
        let Some(kv) = self.kvs.into_iter().next() else { return Ok(None) };
        let damaged = |e: String| EtcdError::Damaged(e);
        let bytes = BASE64.decode(&kv.value).map_err(|e| damaged(e.to_string()))?;
        let record = stored::decode(&bytes).map_err(damaged)?;
        if kv.version != record.version.0.to_string() {
            return Err(damaged(format!("it says version {}, and is the key's version {}", record.version.0, kv.version)));
        }
        Ok(Some(record))
    }
}

#[derive(Debug, Deserialize)]
struct Transaction {
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Debug, Deserialize)]
struct Response {
    response_range: Option<Range>,
}

impl TlsFiles {
    fn config(&self) -> io::Result<TlsConfig> {
        let mut config = TlsConfig::builder();
        if let Some(ca) = &self.ca {
            config = config.root_certs(RootCerts::from(certificates(ca)?));
        }
        if let Some((certificate, key)) = &self.own {
            let key = PrivateKey::from_pem(&read(key)?).map_err(named(key))?;
            config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(certificate)?, key)));
        }
        Ok(config.build())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn named<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> io::Error {
    let path = path.to_owned();
    move |e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let pem = read(path)?;
    let found = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(c)) => Some(Ok(c)),
        Ok(_) => None,
        Err(e) => Some(Err(named(path)(e))),
    });
    let found = found.collect::<io::Result<Vec<_>>>()?;
    if found.is_empty() { Err(named(path)("it holds no certificate in PEM")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::record::tests::any_ruling;
    use proptest::prelude::*;

    fn range(value: &[u8], version: u64) -> Result<Option<Record>, EtcdError> {
        let kvs = vec![KeyValue { value: BASE64.encode(value), version: version.to_string() }];
        Range { kvs }.record()
    }

    proptest! {
        #[test]
        fn a_record_is_found_as_it_was_put(version in 1..=u64::MAX, ruling in any_ruling()) {
            let record = Record { version: Version(version), ruling };
            prop_assert_eq!(range(&stored::encode(&record), version).unwrap(), Some(record));
            prop_assert!(range(&stored::encode(&record), version.wrapping_add(1)).is_err());
        }
    }

    #[test]
    fn an_older_format_is_refused_by_name() {
        let older = br#"{"version":1,"term":1,"owner":"1","in_sync":["1","2"],"phase":"live"}"#;
        let e = range(older, 1).unwrap_err().to_string();
        assert!(e.contains("the record in etcd") && e.contains("format 1"), "{e}");
    }
}
