//! The witness's side: takes requests from any number of hosts, one at a time to the disk.
//!
//! Laws: a request whose tag doesn't fit changes nothing and ends its connection; every connection, message and wait
//! is bounded; what is answered is on the disk.

use super::seal::{Nonce, Seal};
use super::store::{Store, StoreError};
use super::wire::{self, Reply, Request, WireError};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Hosts that may be connected at a time; more are hung up on.
const CONNECTIONS_MAX: usize = 256;
/// A host asks every few seconds even when nothing happens.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a host may take to take an answer.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// After an error that is not a client's.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A witness that listens already.
pub struct Witness {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    seal: Seal,
    connections: AtomicUsize,
}

impl Witness {
    pub fn bind(address: SocketAddr, state: &Path, seal: Seal) -> Result<Self, WitnessError> {
        let store = Store::open(state)?;
        let listener = TcpListener::bind(address).map_err(|source| WitnessError::Listen { address, source })?;
        let shared = Arc::new(Shared { store: Mutex::new(store), seal, connections: AtomicUsize::new(0) });
        Ok(Self { listener, shared })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// How many services it keeps.
    pub fn services(&self) -> usize {
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Serves until the process ends. Nothing needs to be done then: all that was answered is on the disk.
    pub fn run(self) -> ! {
        loop {
            match self.listener.accept() {
                Ok((stream, from)) => self.shared.clone().take(stream, from),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::warn!("accept: {e}");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }
}

impl Shared {
    fn take(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("{from}: {CONNECTIONS_MAX} hosts are connected already");
            return;
        }
        let shared = self.clone();
        let started = thread::Builder::new().name("ft-witness".into()).spawn(move || {
            let set_up = stream
                .set_nodelay(true)
                .and_then(|()| stream.set_read_timeout(Some(IDLE_MAX)))
                .and_then(|()| stream.set_write_timeout(Some(WRITE_MAX)));
            match set_up.map_err(WireError::from).and_then(|()| shared.talk(stream)) {
                Err(WireError::Io(e)) => tracing::debug!("{from}: {e}"),
                Err(e) => tracing::warn!("{from}: {e}"),
                Ok(()) => {}
            }
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(e) = started {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("{from}: no thread: {e}");
        }
    }

    /// One connection, to its end.
    fn talk(&self, stream: impl Read + Write) -> Result<(), WireError> {
        serve(stream, &self.seal, &draw_nonce()?, |request| {
            // A thread that panicked did so before or after the store was changed, never within.
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            Reply { id: request.id, outcome: store.ask(&request.service, &request.ask) }
        })
    }
}

/// Answers the requests of one stream until it ends or says something it can't.
pub fn serve(
    mut stream: impl Read + Write,
    seal: &Seal,
    nonce: &Nonce,
    mut answer: impl FnMut(&Request) -> Reply,
) -> Result<(), WireError> {
    stream.write_all(&wire::greeting(nonce))?;
    stream.flush()?;
    let mut last = 0;
    loop {
        let (body, tag) = match wire::read_frame(&mut stream) {
            Err(WireError::Io(e)) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        if !wire::is_whole_request(seal, nonce, &body, &tag) {
            return Err(WireError::Tag);
        }
        let reply = match Request::decode(&body) {
            // Whoever repeats what was said on this connection says nothing.
            Ok(request) if request.id <= last => return Err(WireError::Order),
            Ok(request) => {
                last = request.id;
                answer(&request)
            }
            Err((id, refusal)) => Reply { id, outcome: Err(refusal) },
        };
        let out = reply.encode();
        wire::write_frame(&mut stream, &out, &wire::seal_reply(seal, nonce, (&body, &tag), &out))?;
    }
}

fn draw_nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    Ok(nonce)
}
