//! A redis client: pipelined, blocking, RESP2 and RESP3. Counts what it sends; never retries.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply that takes longer is a fault of the server.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What the socket is asked for at once.
const READ_BYTES: usize = 64 << 10;
/// No reply nests deeper.
const DEPTH_MAX: u32 = 16;

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    /// Also maps (keys and values in turn), sets and pushes.
    Array(Vec<Reply>),
}

pub struct Client {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Of `input`, already parsed.
    at: usize,
    /// Requests written and not answered.
    pub awaited: u32,
}

/// Anything a command consists of.
pub type Arg<'a> = &'a dyn AsRef<[u8]>;

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::on(stream))
    }

    pub fn on(stream: TcpStream) -> Self {
        Self { stream, out: Vec::new(), input: Vec::new(), at: 0, awaited: 0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Adds a command to the pipeline.
    pub fn push(&mut self, args: &[Arg]) {
        encode(&mut self.out, args);
        self.awaited += 1;
    }

    /// Takes the pipeline's bytes without sending them.
    pub fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Bytes that were read from the stream by other means.
    pub fn prepend(&mut self, bytes: Vec<u8>) {
        assert!(self.input.is_empty(), "they come before all others");
        self.input = bytes;
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// One command, one reply.
    pub fn call(&mut self, args: &[Arg]) -> io::Result<Reply> {
        self.push(args);
        self.flush()?;
        self.reply()
    }

    pub fn reply(&mut self) -> io::Result<Reply> {
        let r = self.message()?;
        self.awaited = self.awaited.saturating_sub(1);
        Ok(r)
    }

    /// Like `reply`, for what comes unasked.
    pub fn message(&mut self) -> io::Result<Reply> {
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        }
        let start = self.at;
        let message = self.value(0);
        if message.is_err() {
            // After a timeout it can be asked for again.
            self.at = start;
        }
        message
    }

    fn value(&mut self, depth: u32) -> io::Result<Reply> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if depth > DEPTH_MAX {
            return Err(bad("a reply nests too deep".into()));
        }
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| bad("an empty reply".into()))?;
        let number = || rest.parse::<i64>().map_err(|_| bad(format!("a reply with {line:?}")));
        let many = |times: i64| match number()? {
            -1 => Ok(None),
            n @ 0.. => Ok(Some(n * times)),
            _ => Err(bad(format!("a reply with {line:?}"))),
        };
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()?),
            "_" => Reply::Nil,
            "#" | "," | "(" => Reply::Status(rest.to_owned()),
            "$" | "=" => match many(1)? {
                None => Reply::Nil,
                Some(n) => Reply::Bulk(self.bulk(n as usize)?),
            },
            "*" | "~" | ">" | "%" => match many(if kind == "%" { 2 } else { 1 })? {
                None => Reply::Nil,
                Some(n) => Reply::Array((0..n).map(|_| self.value(depth + 1)).collect::<io::Result<_>>()?),
            },
            _ => return Err(bad(format!("a reply that begins with {line:?}"))),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut searched = self.at;
        loop {
            if let Some(n) = self.input[searched..].iter().position(|b| *b == b'\n') {
                let end = searched + n;
                let line = String::from_utf8_lossy(&self.input[self.at..end]).trim_end().to_owned();
                self.at = end + 1;
                return Ok(line);
            }
            searched = self.input.len();
            self.fill()?;
        }
    }

    fn bulk(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.input.len() - self.at < n + 2 {
            self.fill()?;
        }
        let b = self.input[self.at..self.at + n].to_vec();
        self.at += n + 2;
        Ok(b)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut b = [0; READ_BYTES];
        match self.stream.read(&mut b)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.input.extend_from_slice(&b[..n]);
                Ok(())
            }
        }
    }
}

/// A command as it goes over the wire.
pub fn encode(out: &mut Vec<u8>, args: &[Arg]) {
    let head = |out: &mut Vec<u8>, sign: char, n: usize| out.extend(format!("{sign}{n}\r\n").into_bytes());
    head(out, '*', args.len());
    for a in args {
        let a = a.as_ref();
        head(out, '$', a.len());
        out.extend_from_slice(a);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Replies are whole whatever the pieces they come in.
    #[test]
    fn replies_survive_any_cut() {
        let wire = b"+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n%1\r\n+k\r\n,1.5\r\n_\r\n";
        let want = [
            Reply::Status("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Int(-7),
            Reply::Bulk(b"a\r\n".to_vec()),
            Reply::Nil,
            Reply::Array(vec![Reply::Int(1), Reply::Array(vec![Reply::Bulk(vec![])])]),
            Reply::Array(vec![Reply::Status("k".into()), Reply::Status("1.5".into())]),
            Reply::Nil,
        ];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for piece in [1, 2, 5, wire.len()] {
            std::thread::scope(|s| {
                s.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.set_nodelay(true).unwrap();
                    for p in wire.chunks(piece) {
                        stream.write_all(p).unwrap();
                    }
                });
                let mut c = Client::connect(address).unwrap();
                for w in &want {
                    assert_eq!(&c.message().unwrap(), w);
                }
                assert_eq!(c.message().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            });
        }
    }

    #[test]
    fn a_command_has_its_lengths() {
        let mut out = Vec::new();
        encode(&mut out, &[&"SET", &"k", &vec![0u8, b'\r', b'\n']]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\0\r\n\r\n");
    }
}
