//! Two loops on epoll.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::Sender;

const EVENTS: usize = 256;
const BUFFER_BYTES: usize = 64 << 10;

fn watch(sockets: &[TcpStream], flags: EpollFlags) -> io::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (k, s) in sockets.iter().enumerate() {
        s.set_nonblocking(true)?;
        epoll.add(s, EpollEvent::new(flags, k as u64))?;
    }
    Ok(epoll)
}

/// As everybody begins: level-triggered, one read of what is ready, its answer at once.
pub fn plain(sockets: Vec<TcpStream>, ready: Sender<()>) -> io::Result<u64> {
    let epoll = watch(&sockets, EpollFlags::EPOLLIN)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut events = [EpollEvent::empty(); EVENTS];
    let (mut open, mut turns) = (sockets.len(), 0);
    let _ = ready.send(());
    while open > 0 {
        let n = epoll.wait(&mut events, EpollTimeout::NONE)?;
        turns += 1;
        for e in &events[..n] {
            let mut socket = &sockets[e.data() as usize];
            match socket.read(&mut buffer)? {
                0 => {
                    epoll.delete(socket)?;
                    open -= 1;
                }
                n => socket.write_all(&buffer[..n])?,
            }
        }
    }
    Ok(turns)
}

/// One connection of [`as_the_engine`].
struct Connection {
    socket: TcpStream,
    readable: bool,
    hangup: bool,
    output: VecDeque<u8>,
}

/// As `ft_runtime::front` and the engine's loop do it: edge-triggered for both directions, the events of a turn noted first,
/// then all reads, each connection until a short one, then all writes, from a queue of each connection.
pub fn as_the_engine(sockets: Vec<TcpStream>, ready: Sender<()>) -> io::Result<u64> {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    let epoll = watch(&sockets, flags)?;
    let connection = |socket| Connection { socket, readable: false, hangup: false, output: VecDeque::new() };
    let mut connections: Vec<Connection> = sockets.into_iter().map(connection).collect();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut events = [EpollEvent::empty(); EVENTS];
    let (mut to_read, mut to_write) = (Vec::new(), Vec::new());
    let (mut open, mut turns) = (connections.len(), 0);
    let _ = ready.send(());
    while open > 0 {
        let n = epoll.wait(&mut events, EpollTimeout::NONE)?;
        turns += 1;
        for e in &events[..n] {
            let k = e.data() as usize;
            let c = &mut connections[k];
            c.hangup |= e.events().intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            if e.events().intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP) {
                c.readable = true;
                to_read.push(k);
            }
        }
        for k in to_read.drain(..) {
            let c = &mut connections[k];
            while c.readable {
                match c.socket.read(&mut buffer) {
                    Ok(0) => {
                        epoll.delete(&c.socket)?;
                        c.readable = false;
                        open -= 1;
                    }
                    Ok(n) => {
                        if c.output.is_empty() {
                            to_write.push(k);
                        }
                        c.output.extend(&buffer[..n]);
                        c.readable = n == buffer.len() || c.hangup;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => c.readable = false,
                    Err(e) => return Err(e),
                }
            }
        }
        for k in to_write.drain(..) {
            let Connection { socket, output, .. } = &mut connections[k];
            socket.write_all(output.make_contiguous())?;
            output.clear();
        }
    }
    Ok(turns)
}
