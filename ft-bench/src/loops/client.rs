//! Asks on each connection, and again when it was answered.

use super::MESSAGE_BYTES;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::io::{self, Read, Write};
use std::net::TcpStream;

const EVENTS: usize = 256;
/// An answer that takes longer never comes.
const ANSWER_MAX_MS: u16 = 10_000;

/// Returns when so many requests were answered.
pub fn ask(sockets: &[TcpStream], requests: u32) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut missing = vec![0; sockets.len()];
    let (mut asked, mut answered) = (0, 0);
    for (k, s) in sockets.iter().enumerate() {
        s.set_nonblocking(true)?;
        epoll.add(s, EpollEvent::new(EpollFlags::EPOLLIN, k as u64))?;
        if asked < requests {
            asked += 1;
            missing[k] = request(s)?;
        }
    }
    let mut events = [EpollEvent::empty(); EVENTS];
    while answered < requests {
        let n = epoll.wait(&mut events, ANSWER_MAX_MS)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer came"));
        }
        for e in &events[..n] {
            let k = e.data() as usize;
            let mut socket = &sockets[k];
            let mut buffer = [0; MESSAGE_BYTES];
            let n = socket.read(&mut buffer)?;
            if n == 0 || n > missing[k] {
                return Err(io::Error::other("the loop ended a connection or sent more than it was asked for"));
            }
            missing[k] -= n;
            if missing[k] == 0 {
                answered += 1;
                if asked < requests {
                    asked += 1;
                    missing[k] = request(socket)?;
                }
            }
        }
    }
    Ok(())
}

/// How many bytes will answer it.
fn request(mut socket: &TcpStream) -> io::Result<usize> {
    socket.write_all(&[b'q'; MESSAGE_BYTES])?;
    Ok(MESSAGE_BYTES)
}
