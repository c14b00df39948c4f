//! Births read off the wire, as a gate would log them.

use ft_runtime::takeover::tcp_repair::{Birth, TcpOptions};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Everything that passes the namespace's interfaces from now on.
pub struct Capture(Socket);

#[derive(Clone, Debug)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: TcpOptions,
    pub header: Vec<u8>,
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

const PATIENCE: Duration = Duration::from_secs(5);

impl Capture {
    /// In this thread's namespace.
    pub fn open() -> Self {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        ft_runtime::engine::sys::set_option(
            std::os::fd::AsFd::as_fd(&socket),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            64 << 20,
        )
        .unwrap();
        Self(socket)
    }

    /// The next TCP segment; `None` after a while without any.
    pub fn segment(&mut self) -> Option<Segment> {
        let mut frame = vec![0; 70_000];
        loop {
            let n = (&self.0).read(&mut frame).ok()?;
            if let Some(s) = parse(&frame[..n]) {
                return Some(s);
            }
        }
    }

    /// Whose SYN and SYN-ACK passed, by the client's address; until there are `n`.
    pub fn births(&mut self, n: usize) -> HashMap<SocketAddr, (Birth, Instant, Segment)> {
        let until = Instant::now() + PATIENCE;
        let mut syns = HashMap::new();
        let mut births = HashMap::new();
        while births.len() < n {
            assert!(Instant::now() < until, "{} births seen of {n}", births.len());
            let Some(s) = self.segment() else { continue };
            if s.flags & (SYN | ACK) == SYN {
                syns.insert(s.from, s);
            } else if s.flags & SYN != 0
                && let Some(syn) = syns.get(&s.to)
            {
                let birth = Birth {
                    client: s.to,
                    local: s.from,
                    isn_client: syn.seq,
                    isn_server: s.seq,
                    client_options: syn.options,
                    server_options: s.options,
                    client_window: syn.window,
                    server_tsval: s.options.timestamps.map_or(0, |t| t.0),
                    server_tsval_at_ns: 0,
                };
                births.insert(s.to, (birth, Instant::now(), s));
            }
        }
        births
    }
}

fn parse(frame: &[u8]) -> Option<Segment> {
    let ip = frame.get(14..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match frame[12..14] {
        [0x08, 0x00] if ip[9] == 6 => {
            let at = |n: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[n..n + 4]).unwrap());
            (at(12), at(16), &ip[usize::from(ip[0] & 15) * 4..])
        }
        [0x86, 0xdd] if ip[6] == 6 => {
            let at = |n: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[n..n + 16]).unwrap()).into();
            (at(8), at(24), &ip[40..])
        }
        _ => return None,
    };
    let half = |n: usize| u16::from_be_bytes([tcp[n], tcp[n + 1]]);
    let word = |n: usize| u32::from_be_bytes([tcp[n], tcp[n + 1], tcp[n + 2], tcp[n + 3]]);
    let header = &tcp[..usize::from(tcp[12] >> 4) * 4];
    let mut options = TcpOptions { mss: 0, wscale: None, sack: false, timestamps: None };
    let mut rest = &header[20..];
    while let [kind, tail @ ..] = rest {
        match kind {
            0 => break,
            1 => rest = tail,
            _ => {
                let (option, tail) = rest.split_at(usize::from(rest[1]));
                let be = |n: usize| u32::from_be_bytes([option[n], option[n + 1], option[n + 2], option[n + 3]]);
                match kind {
                    2 => options.mss = u16::from_be_bytes([option[2], option[3]]),
                    3 => options.wscale = Some(option[2]),
                    4 => options.sack = true,
                    8 => options.timestamps = Some((be(2), be(6))),
                    _ => {}
                }
                rest = tail;
            }
        }
    }
    Some(Segment {
        from: SocketAddr::new(from, half(0)),
        to: SocketAddr::new(to, half(2)),
        seq: word(4),
        ack: word(8),
        flags: tcp[13],
        window: half(14),
        options,
        header: header.to_vec(),
    })
}
