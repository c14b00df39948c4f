//! Replies as they come off a socket, in any pieces. Only the kinds that the load asks for; values are not kept.

use std::io;

/// No reply of the load's has a longer first line.
const LINE_BYTES_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Status,
    Error(String),
    Int(i64),
    /// Its length.
    Value(usize),
    Nil,
}

/// Bytes that are not a whole reply yet.
#[derive(Default)]
pub struct Replies {
    bytes: Vec<u8>,
    at: usize,
}

impl Replies {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// `None`: the next one is not whole.
    pub fn take(&mut self) -> io::Result<Option<Reply>> {
        let rest = &self.bytes[self.at..];
        let Some(line) = rest.iter().take(LINE_BYTES_MAX).position(|b| *b == b'\n') else {
            return if rest.len() < LINE_BYTES_MAX { Ok(None) } else { Err(bad(&rest[..32])) };
        };
        let text = rest[..line].strip_suffix(b"\r").ok_or_else(|| bad(&rest[..line]))?;
        let (kind, text) = text.split_first().ok_or_else(|| bad(text))?;
        let number = || std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or_else(|| bad(&rest[..line]));
        let mut used = line + 1;
        let reply = match kind {
            b'+' => Reply::Status,
            b'-' => Reply::Error(String::from_utf8_lossy(text).into_owned()),
            b':' => Reply::Int(number()?),
            b'*' if text == b"-1" => Reply::Nil,
            b'$' => match number()? {
                -1 => Reply::Nil,
                n => {
                    let n = usize::try_from(n).map_err(|_| bad(&rest[..line]))?;
                    used += n + 2;
                    if rest.len() < used {
                        return Ok(None);
                    }
                    Reply::Value(n)
                }
            },
            _ => return Err(bad(&rest[..line])),
        };
        self.at += used;
        Ok(Some(reply))
    }
}

fn bad(line: &[u8]) -> io::Error {
    let what = format!("not a reply to what was asked: {:?}", String::from_utf8_lossy(line));
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_survive_any_cut() {
        let wire = b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n:1\r\n-ERR no\r\n$0\r\n\r\n:-2\r\n";
        let want = [
            Reply::Status,
            Reply::Value(3),
            Reply::Nil,
            Reply::Nil,
            Reply::Int(1),
            Reply::Error("ERR no".into()),
            Reply::Value(0),
            Reply::Int(-2),
        ];
        for piece in 1..=wire.len() {
            let mut replies = Replies::default();
            let mut got = Vec::new();
            for p in wire.chunks(piece) {
                replies.push(p);
                while let Some(r) = replies.take().unwrap() {
                    got.push(r);
                }
            }
            assert_eq!(got, want, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for wire in [&b"hello\r\n"[..], b"\r\n", b"$x\r\n", b"$-7\r\n", b":\r\n", b"+OK\n", b"*1\r\n", &[b'+'; 5000]] {
            let mut replies = Replies::default();
            replies.push(wire);
            assert!(replies.take().is_err(), "{:?}", String::from_utf8_lossy(wire));
        }
    }
}
