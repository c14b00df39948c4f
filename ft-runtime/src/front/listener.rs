//! A listening socket of the service.

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Of a connection, in the kernel; Linux doubles it for its own bookkeeping.
pub const RECEIVE_BUFFER_BYTES: usize = 512 << 10;

/// What a listening socket is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSpec {
    pub address: SocketAddr,
    pub backlog: u32,
    pub v6only: bool,
}

pub struct Listener {
    socket: TcpListener,
    pub spec: ListenSpec,
    /// There may be a connection to accept.
    pub ready: bool,
}

/// What an accept brought.
pub enum Accepted {
    Connection { socket: TcpStream, peer: SocketAddr, local: SocketAddr },
    /// Nobody waits.
    Empty,
    /// The engine has no descriptor or memory left: ask later.
    Exhausted(io::Error),
    /// That one connection was gone again: ask at once.
    Lost,
}

/// A socket with an address that doesn't listen yet.
pub struct Bound(Socket);

impl Bound {
    pub fn bind(address: SocketAddr, v6only: bool, freebind: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // What a connection may have in the kernel is also in the log and with the guest: it must be bounded.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        if address.is_ipv6() {
            socket.set_only_v6(v6only)?;
        }
        match (freebind, address) {
            (false, _) => {}
            (true, SocketAddr::V4(_)) => socket.set_freebind_v4(true)?,
            (true, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
        }
        socket.bind(&SockAddr::from(address))?;
        Ok(Self(socket))
    }

    pub fn port(&self) -> io::Result<u16> {
        self.0.local_addr()?.as_socket().map(|a| a.port()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    pub fn listen(self, spec: ListenSpec) -> io::Result<Listener> {
        let socket = self.0;
        // Which of a client's attempts a connection is, the gate learns from its SYN.
        crate::gate::saved_syn::keep(std::os::fd::AsFd::as_fd(&socket))?;
        socket.listen(i32::try_from(spec.backlog).unwrap_or(i32::MAX))?;
        Ok(Listener { socket: socket.into(), spec, ready: true })
    }
}

impl Listener {
    pub fn socket(&self) -> &TcpListener {
        &self.socket
    }

    pub fn accept(&self) -> Accepted {
        match self.socket.accept() {
            Ok((socket, peer)) => {
                // The engine gathers output itself; Nagle on top of it only delays.
                let ready = socket.set_nodelay(true).and_then(|()| socket.local_addr());
                match ready {
                    Ok(local) => Accepted::Connection { socket, peer, local },
                    Err(_) => Accepted::Lost,
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Accepted::Empty,
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) =>
            {
                Accepted::Exhausted(e)
            }
            // ECONNABORTED, EINTR and the network errors that accept(2) passes on.
            Err(_) => Accepted::Lost,
        }
    }
}
