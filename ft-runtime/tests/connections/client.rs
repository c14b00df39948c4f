//! The client's end of a connection with `server.c`, and the pattern that its streams are made of.

use crate::rigged::{PATIENCE, Rig};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

const PATTERN_BYTES: usize = 1_000_003;
const PIECE_BYTES: usize = 64 << 10;
/// The same again and again: a wrong, lost or doubled byte shows.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let once = (0..PATTERN_BYTES as u32).map(|p| (p.wrapping_mul(0x9e37_79b9) >> 24) as u8);
    once.cycle().take(PATTERN_BYTES + PIECE_BYTES).collect()
});

/// At most [`PIECE_BYTES`] of the stream.
pub fn piece(from: u64, to: u64) -> &'static [u8] {
    let at = (from % PATTERN_BYTES as u64) as usize;
    &PATTERN[at..at + (to - from).min(PIECE_BYTES as u64) as usize]
}

pub fn wrong_at(bytes: &[u8], right: &[u8]) -> Option<usize> {
    if bytes == right { None } else { bytes.iter().zip(right).position(|(a, b)| a != b) }
}

pub struct Client {
    pub stream: TcpStream,
    /// Of the pattern.
    pub sent: u64,
    pub received: u64,
}

impl Client {
    pub fn connect(rig: &Rig, at: SocketAddr) -> Self {
        Self::of(rig.at_client(|| TcpStream::connect_timeout(&at, PATIENCE)).unwrap_or_else(|e| panic!("connecting: {e}")))
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, sent: 0, received: 0 }
    }

    pub fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap_or_else(|e| panic!("saying {line}: {e}"));
    }

    pub fn hear(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => panic!("the end instead of a line, after {:?}", String::from_utf8_lossy(&line)),
                Ok(_) if byte[0] == b'\n' => return String::from_utf8(line).unwrap(),
                Ok(_) => line.push(byte[0]),
                Err(e) => panic!("no line: {e}"),
            }
        }
    }

    pub fn ask(&mut self, line: &str, answer: &str) {
        self.say(line);
        assert_eq!(self.hear(), answer, "answer to {line:?}");
    }

    /// Asks until that is the answer.
    pub fn ask_until(&mut self, line: &str, answer: &str) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            self.say(line);
            let heard = self.hear();
            if heard == answer {
                return;
            }
            assert!(std::time::Instant::now() < end, "{line}: still {heard:?}, never {answer:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn send(&mut self, bytes: u64) {
        let to = self.sent + bytes;
        while self.sent < to {
            let n = self.stream.write(piece(self.sent, to)).unwrap_or_else(|e| panic!("sending byte {}: {e}", self.sent));
            self.sent += n as u64;
        }
    }

    /// Until nothing more goes for a while: the server's buffers and ours are full.
    pub fn send_until_full(&mut self) {
        const QUIET: Duration = Duration::from_millis(400);
        self.stream.set_write_timeout(Some(QUIET)).unwrap();
        loop {
            match self.stream.write(piece(self.sent, u64::MAX)) {
                Ok(n) => self.sent += n as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("sending byte {}: {e}", self.sent),
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }

    pub fn receive(&mut self, bytes: u64) {
        let to = self.received + bytes;
        let mut buffer = vec![0; PIECE_BYTES];
        while self.received < to {
            let want = piece(self.received, to);
            let n = self.stream.read(&mut buffer[..want.len()]).unwrap_or_else(|e| panic!("byte {}: {e}", self.received));
            assert!(n > 0, "ended at {} of {to}", self.received);
            assert_eq!(wrong_at(&buffer[..n], &want[..n]), None, "wrong byte after {}", self.received);
            self.received += n as u64;
        }
    }

    pub fn end(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap_or_else(|e| panic!("ending: {e}"));
    }

    pub fn expect_end(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(n) => assert_eq!(n, 0, "a byte instead of the end"),
            Err(e) => panic!("no end: {e}"),
        }
    }

    /// An orderly end would make what was sent before look complete.
    pub fn expect_reset(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(n) => panic!("{n} bytes instead of a reset"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
    }

    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
