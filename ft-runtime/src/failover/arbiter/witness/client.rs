//! A host's side of the witness: a [`Keeper`] over any stream.
//!
//! A connection is kept between requests. One that turns out to be broken is replaced once and the request repeated:
//! a put that was done after all is then lost to itself, which its content shows (see `book`).

use super::super::{Ask, Keeper, KeeperError, Told};
use super::seal::{Nonce, Seal};
use super::wire::{self, GREETING_BYTES, Reply, Request, ServiceName, WireError};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A stream of bytes that can be told how long it may take.
pub trait Stream: Read + Write + Send {
    fn set_patience(&mut self, patience: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let patience = Some(patience.max(Duration::from_millis(1)));
        self.set_read_timeout(patience)?;
        self.set_write_timeout(patience)
    }
}

/// Makes streams to the witness.
pub trait Connect: Send {
    type Stream: Stream;
    fn connect(&mut self, deadline: Instant) -> io::Result<Self::Stream>;
}

/// Plain TCP.
pub struct Tcp(pub SocketAddr);

impl Connect for Tcp {
    type Stream = TcpStream;

    fn connect(&mut self, deadline: Instant) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.0, left(deadline)?)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

pub struct WitnessClient<C: Connect> {
    connect: C,
    service: ServiceName,
    seal: Seal,
    connection: Option<Connection<C::Stream>>,
}

struct Connection<S> {
    stream: S,
    nonce: Nonce,
    last: u64,
}

impl<C: Connect> WitnessClient<C> {
    pub fn new(connect: C, service: ServiceName, seal: Seal) -> Self {
        Self { connect, service, seal, connection: None }
    }

    fn open(&mut self, deadline: Instant) -> Result<Connection<C::Stream>, WireError> {
        let mut stream = self.connect.connect(deadline)?;
        stream.set_patience(left(deadline)?)?;
        let mut greeting = [0; GREETING_BYTES];
        stream.read_exact(&mut greeting)?;
        let nonce = wire::read_greeting(&greeting)?;
        Ok(Connection { stream, nonce, last: 0 })
    }

    fn once(&mut self, mut on: Connection<C::Stream>, ask: &Ask, deadline: Instant) -> Result<Reply, WireError> {
        on.stream.set_patience(left(deadline)?)?;
        on.last += 1;
        let body = Request { service: self.service.clone(), id: on.last, ask: *ask }.encode();
        let tag = wire::seal_request(&self.seal, &on.nonce, &body);
        wire::write_frame(&mut on.stream, &body, &tag)?;
        let (answer, answer_tag) = wire::read_frame(&mut on.stream)?;
        if !wire::is_whole_reply(&self.seal, &on.nonce, (&body, &tag), &answer, &answer_tag) {
            return Err(WireError::Tag);
        }
        let reply = Reply::decode(&answer)?;
        if reply.id != on.last {
            return Err(WireError::Order);
        }
        self.connection = Some(on);
        Ok(reply)
    }
}

impl<C: Connect> Keeper for WitnessClient<C> {
    fn ask(&mut self, ask: &Ask, deadline: Instant) -> Result<Told, KeeperError> {
        let unknown = |e: WireError| KeeperError::Unknown(e.to_string());
        let reply = match self.connection.take() {
            Some(old) => match self.once(old, ask, deadline) {
                // It was closed while nobody looked, by a witness that restarted for one.
                Err(WireError::Io(e)) if is_broken(&e) => {
                    let fresh = self.open(deadline).map_err(unknown)?;
                    self.once(fresh, ask, deadline)
                }
                other => other,
            },
            None => {
                let fresh = self.open(deadline).map_err(|e| KeeperError::Unreachable(e.to_string()))?;
                self.once(fresh, ask, deadline)
            }
        };
        match reply.map_err(unknown)?.outcome {
            Ok(told) => Ok(told),
            Err(refusal) => Err(KeeperError::Unreachable(format!("the witness refuses: {refusal}"))),
        }
    }
}

fn is_broken(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}

fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(ErrorKind::TimedOut.into()),
    }
}
