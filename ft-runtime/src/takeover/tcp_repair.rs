//! Live TCP connections, built again from byte counts on a host that has never seen them.
//!
//! ```text
//! build    the socket exists, in repair mode: it has sent nothing
//! go_live  it speaks; a client that lost bytes has them within a few milliseconds
//! ```
//!
//! Why it is done in exactly this way:
//!
//! - Output goes into the send queue as if it had been sent, but for its last bytes, which are sent for real, one by
//!   one. That raises the send position to what the client may already have acknowledged (an acknowledgement beyond it
//!   is dropped, and the connection would hang), and draws acknowledgements by which the kernel sees at once that what
//!   it never sent is lost. Left to its timer, a rebuilt socket waits 3 s.
//! - A client whose window is shorter than our output drops those bytes as beyond it. So there are such bytes every
//!   [`STRIDE_BYTES`]; those that the client takes are enough. Only a client that has shut its window waits for a
//!   timer, 1 to 3 s.
//! - The output is queued by `go_live`, not by `build`: with anything in its queue a socket speaks when its timers
//!   fire, after 1 s, even in repair mode.
//! - The new timestamp is an hour ahead. One behind the old host's would make the client drop everything; one a little
//!   ahead would let the kernel take the echo of the old for a round trip of the length of the outage. Beyond 36
//!   minutes it doesn't believe the echo (tcp_rtt_tsopt_us), and up to 24 days the client believes the new one (RFC
//!   7323, 5). An odd value would switch the socket to microseconds.
//! - A rebuilt socket has an MSS of 536; setting empty IP options makes the kernel work it out again.
//!   TCP_MAXSEG does not.
//! - The client's FIN is counted in the receive position, and never read: the log tells the guest of it.
//! - Where only the birth is known, one placeholder byte lies in the SYN-ACK's place. It is outstanding until the
//!   client has shown that it knows the connection, and can't be delivered. Other connections get none: the kernel
//!   would give up an idle one whose client sleeps.
//!
//! What must never happen here: a FIN or RST that the guest didn't cause. Errors and drops leave sockets in repair
//! mode, in which closing is silent.

use super::checksum;
use crate::engine::sys;
use ft_log::entry::TX_WINDOW_BYTES;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What one side said in its SYN or SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Zero: it named none.
    pub mss: u16,
    pub wscale: Option<u8>,
    pub sack: bool,
    /// (TSval, TSecr).
    pub timestamps: Option<(u32, u32)>,
}

/// How a connection began: all that byte counts don't tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub isn_client: u32,
    pub isn_server: u32,
    pub client_options: TcpOptions,
    pub server_options: TcpOptions,
    /// Of the SYN, unscaled.
    pub client_window: u16,
    /// A TSval that the server sent: the SYN-ACK's, or a later one.
    pub server_tsval: u32,
    /// When, on CLOCK_MONOTONIC of the host that logged it. Only the caller can map that to this host's.
    pub server_tsval_at_ns: u64,
}

/// Where a connection stood.
#[derive(Clone, Copy, Debug)]
pub struct RestoreSpec<'a> {
    pub birth: &'a Birth,
    /// Committed input bytes.
    pub received: u64,
    /// The client's FIN is committed.
    pub fin_received: bool,
    /// Output bytes known to be acknowledged. The client may have acknowledged more.
    pub acked: u64,
    /// The output from `acked` to its end, in two pieces.
    pub output: (&'a [u8], &'a [u8]),
    /// The guest shut its side or closed.
    pub fin_sent: bool,
    /// Time since `birth.server_tsval` was current.
    pub elapsed_since_tsval_ms: u64,
    /// The handshake is known to be complete: it was accepted, or sent data.
    pub established: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{client}: {bytes} bytes of output are unacknowledged, more than the {TX_WINDOW_BYTES} a guest may have")]
    TooMuchOutput { client: SocketAddr, bytes: u64 },
    #[error("{client} and {local} are not of one address family")]
    Families { client: SocketAddr, local: SocketAddr },
    #[error("{client} on {local}: {step} failed: {source}; {}", advice(source))]
    System { client: SocketAddr, local: SocketAddr, step: &'static str, source: io::Error },
}

fn advice(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EPERM) => "the engine needs CAP_NET_ADMIN and CAP_NET_RAW in the service's namespace",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => "the service's namespace has no route to the client",
        Some(libc::EADDRNOTAVAIL) => "another socket of the service's namespace already is that connection",
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => "the kernel has no memory for its output",
        Some(libc::EMFILE | libc::ENFILE) => "raise the engine's limit of open files",
        _ => "the connection can't be kept",
    }
}

/// A socket that stands where the lost one stood and has sent nothing yet. Dropping it stays silent.
///
/// It still acknowledges what comes in: that must be shut out until it goes live.
#[derive(Debug)]
pub struct InRepair {
    socket: Socket,
    output: Vec<u8>,
    /// Its first byte's position.
    acked: u64,
    /// So many bytes at the end of each stride are sent one by one.
    fresh: usize,
    fin_sent: bool,
    tsval: Option<u32>,
    established: bool,
    client: SocketAddr,
    local: SocketAddr,
}

/// A connection that goes on. Non-blocking, close-on-exec, TCP_NODELAY.
#[derive(Debug)]
pub struct Restored {
    pub socket: OwnedFd,
    /// The kernel has the output before this position. The caller goes on from there; it is the output's end unless
    /// the connection broke in the same moment.
    pub written: u64,
    /// The socket was shut for sending, as the guest had.
    pub fin_sent: bool,
    /// What its timestamps are now: the [`Birth::server_tsval`] of the next takeover. One that goes by the old would be
    /// behind.
    pub tsval: Option<u32>,
}

const TCP_REPAIR_ON: i32 = 1;
const TCP_REPAIR_OFF: i32 = 0;
/// Off without a window probe.
const TCP_REPAIR_OFF_NO_WP: i32 = -1;
const TCP_RECV_QUEUE: i32 = 1;
const TCP_SEND_QUEUE: i32 = 2;
/// `<linux/tcp.h>`; libc has the option's name only.
const TCPOPT_MAXSEG: u32 = 2;
const TCPOPT_WINDOW: u32 = 3;
const TCPOPT_SACK_PERM: u32 = 4;
const TCPOPT_TIMESTAMP: u32 = 8;
/// `<asm-generic/socket.h>`, since Linux 5.15.
const SO_BUF_LOCK: i32 = 72;
/// `<linux/tcp.h>`, since Linux 6.15.
const TCP_RTO_MAX_MS: i32 = 44;
/// `<linux/in6.h>`.
const IPV6_TRANSPARENT: i32 = 75;

/// So far ahead of the old host's clock.
const TSVAL_AHEAD_MS: u64 = 3_600_000;
/// Beyond the output, until the client has told its window.
const SEND_WINDOW_SPARE_BYTES: usize = 64 << 10;
/// At least what the lost host may have advertised: what a client sends beyond it is dropped, acknowledgements too.
const RECEIVE_WINDOW_MAX_BYTES: u32 = 4 << 20;
/// Smaller than nearly every client's window.
const STRIDE_BYTES: usize = 16 << 10;
/// With fewer than three the kernel gives the rest some milliseconds in which it may only have been reordered.
const FRESH_BYTES_SACK: usize = 4;
/// Receive offload may merge them by two, and three duplicate acknowledgements are wanted.
const FRESH_BYTES_NO_SACK: usize = 8;
/// The least the kernel takes, and its own.
const RTO_MAX_FIRST_MS: i32 = 1000;
const RTO_MAX_MS: i32 = 120_000;
/// The kernel's send buffer takes this much output without being asked.
const SEND_BUFFER_FREE_BYTES: usize = 4 << 10;
/// After an orderly end no FIN is left to wait for.
const LINGER_IN_FIN_WAIT2_S: i32 = 1;
/// RFC 9293, 3.7.1: of a side that named none.
const MSS_UNNAMED_V4: u16 = 536;
const MSS_UNNAMED_V6: u16 = 1220;

/// Builds the socket. Wants the address or at least a route to the client in this namespace, and the routes as
/// [`super::route`] sets them, to be there.
pub fn build(spec: &RestoreSpec) -> Result<InRepair, RestoreError> {
    let birth = spec.birth;
    let (client, local) = (unmapped(birth.client), unmapped(birth.local));
    let failed = |step| move |source| RestoreError::System { client, local, step, source };
    let output = [spec.output.0, spec.output.1].concat();
    let length = output.len();
    if length as u64 > TX_WINDOW_BYTES {
        return Err(RestoreError::TooMuchOutput { client, bytes: length as u64 });
    }
    if client.is_ipv4() != local.is_ipv4() {
        return Err(RestoreError::Families { client, local });
    }

    let socket = Socket::new(Domain::for_address(local), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .map_err(failed("socket"))?;
    let fd = socket.as_fd();
    let tcp = |name, value: i32| sys::set_option(fd, libc::IPPROTO_TCP, name, value);
    let tcp_bytes = |name, value: &[u8]| sys::set_option_bytes(fd, libc::IPPROTO_TCP, name, value);

    // Before bind: in repair mode it looks at no other socket of that port, however many there are.
    tcp(libc::TCP_REPAIR, TCP_REPAIR_ON).map_err(failed("TCP_REPAIR"))?;
    tcp(libc::TCP_NODELAY, 1).map_err(failed("TCP_NODELAY"))?;
    bind(&socket, local).map_err(failed("bind"))?;

    let has_placeholder = !spec.established;
    let rcv_nxt = sequence(birth.isn_client, spec.received + u64::from(spec.fin_received));
    let snd_una = sequence(birth.isn_server, spec.acked).wrapping_sub(u32::from(has_placeholder));
    for (queue, at) in [(TCP_RECV_QUEUE, rcv_nxt), (TCP_SEND_QUEUE, snd_una)] {
        tcp(libc::TCP_REPAIR_QUEUE, queue).map_err(failed("TCP_REPAIR_QUEUE"))?;
        tcp_bytes(libc::TCP_QUEUE_SEQ, &at.to_ne_bytes()).map_err(failed("TCP_QUEUE_SEQ"))?;
    }
    socket.connect(&SockAddr::from(client)).map_err(failed("connect"))?;

    let (options, n) = repair_options(birth, client.is_ipv4());
    tcp_bytes(libc::TCP_REPAIR_OPTIONS, &options[..n]).map_err(failed("TCP_REPAIR_OPTIONS"))?;
    let tsval = has_timestamps(birth).then(|| tsval_now(birth.server_tsval, spec.elapsed_since_tsval_ms));
    if let Some(tsval) = tsval {
        tcp_bytes(libc::TCP_TIMESTAMP, &tsval.to_ne_bytes()).map_err(failed("TCP_TIMESTAMP"))?;
    }
    // After the options, which the MSS depends on, and before output is cut by it.
    sys::set_option_bytes(fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &[]).map_err(failed("IP_OPTIONS"))?;

    if !has_sack(birth) {
        // BBR learns nothing from retransmissions that only cumulative acknowledgements confirm, and stays at a window
        // of one packet: 33 kB/s (M). Every kernel has this one.
        tcp_bytes(libc::TCP_CONGESTION, b"reno").map_err(failed("TCP_CONGESTION"))?;
    }
    if length > SEND_BUFFER_FREE_BYTES {
        let size = 4 * length as i32 + (64 << 10);
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).map_err(failed("SO_SNDBUFFORCE"))?;
        // The size stays; the kernel may tune it again.
        sys::set_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK, 0).map_err(failed("SO_BUF_LOCK"))?;
    }
    let window = Window {
        snd_wl1: rcv_nxt.wrapping_sub(1),
        snd_wnd: (length + SEND_WINDOW_SPARE_BYTES) as u32,
        rcv_wnd: (u32::from(u16::MAX) << receive_scale(birth)).min(RECEIVE_WINDOW_MAX_BYTES),
        rcv_wup: rcv_nxt,
    };
    tcp_bytes(libc::TCP_REPAIR_WINDOW, &window.bytes()).map_err(failed("TCP_REPAIR_WINDOW"))?;
    if spec.fin_received {
        tcp(libc::TCP_LINGER2, LINGER_IN_FIN_WAIT2_S).map_err(failed("TCP_LINGER2"))?;
    }

    let fresh = if has_sack(birth) { FRESH_BYTES_SACK } else { FRESH_BYTES_NO_SACK };
    let (fin_sent, established) = (spec.fin_sent, spec.established);
    Ok(InRepair { output, acked: spec.acked, fresh, fin_sent, tsval, established, client, local, socket })
}

impl InRepair {
    /// The socket speaks from here on: only with the gate open and the right to send.
    pub fn go_live(self) -> Result<Restored, RestoreError> {
        let Self { socket, output, acked, fresh, fin_sent, tsval, established, client, local } = self;
        let failed = |step| move |source| RestoreError::System { client, local, step, source };
        let tcp = |name, value: i32| sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, name, value);
        if !established {
            queue_sent(&socket, Pieces(&[0], &[])).1.map_err(failed("the placeholder"))?;
        }
        let output = Pieces(&output, &[]);
        let has_output = output.len() > 0;
        if has_output {
            // Kernels before 6.15 don't know it: three seconds then.
            let _ = tcp(TCP_RTO_MAX_MS, RTO_MAX_FIRST_MS);
        }
        // A client still in SYN_SENT would not understand a probe, and where output follows it tells no more.
        let probe = established && !has_output;
        let mut rest = output;
        loop {
            let (n, queued) = queue_sent(&socket, rest.split_at(silent_bytes(rest.len(), fresh)).0);
            rest = rest.split_at(n).1;
            tcp(libc::TCP_REPAIR, if probe { TCP_REPAIR_OFF } else { TCP_REPAIR_OFF_NO_WP })
                .map_err(failed("leaving TCP_REPAIR"))?;
            // The socket is live: what fails from here on is the connection's own end, and who reads it learns of it.
            if queued.is_err() {
                break;
            }
            let (n, sent) = send_fresh(&socket, rest.split_at(fresh).0);
            rest = rest.split_at(n).1;
            if sent.is_err() || rest.len() == 0 || tcp(libc::TCP_REPAIR, TCP_REPAIR_ON).is_err() {
                break;
            }
        }
        if has_output {
            let _ = tcp(TCP_RTO_MAX_MS, RTO_MAX_MS);
        }
        let written = acked + (output.len() - rest.len()) as u64;
        let fin_sent = fin_sent && rest.len() == 0 && socket.shutdown(Shutdown::Write).is_ok();
        // Leaving repair took it away, and a listener could not be bound again beside this socket.
        let _ = socket.set_reuse_address(true);
        Ok(Restored { socket: socket.into(), written, fin_sent, tsval })
    }
}

/// Closes a connection without a word: it belongs to another host now. On an error the socket is handed back, since
/// closing it would speak.
pub fn demote(socket: OwnedFd) -> Result<(), (OwnedFd, io::Error)> {
    match sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, TCP_REPAIR_ON) {
        Ok(()) => Ok(()),
        Err(e) => Err((socket, e)),
    }
}

/// Whether the client of a socket that was restored with only its birth known has shown that it is there.
pub fn is_confirmed(socket: BorrowedFd) -> io::Result<bool> {
    // The placeholder is all that can be outstanding: the guest hasn't seen this connection.
    Ok(sys::unacknowledged(socket)? == 0)
}

/// Repeats the SYN-ACK that was committed. Harmless if the client had it. To be done at go-live, and for each SYN that the
/// client repeats: to the kernel the connection is established, and it answers a SYN with what tells the client nothing.
pub fn resend_syn_ack(birth: &Birth) -> Result<(), RestoreError> {
    let (client, local) = (unmapped(birth.client), unmapped(birth.local));
    let failed = |step| move |source| RestoreError::System { client, local, step, source };
    if client.is_ipv4() != local.is_ipv4() {
        return Err(RestoreError::Families { client, local });
    }
    let raw = Socket::new(Domain::for_address(local), Type::RAW.nonblocking(), Some(Protocol::TCP))
        .map_err(failed("raw socket"))?;
    // A raw socket's port is its protocol, or none.
    let (mut from, mut to) = (local, client);
    from.set_port(0);
    to.set_port(0);
    bind(&raw, from).map_err(failed("binding the raw socket"))?;
    let (segment, n) = syn_ack(birth);
    raw.send_to(&segment[..n], &SockAddr::from(to)).map_err(failed("sending the SYN-ACK"))?;
    Ok(())
}

const SYN_ACK_BYTES_MAX: usize = 60;

/// The TCP segment, in the order of options in which Linux writes them.
fn syn_ack(birth: &Birth) -> ([u8; SYN_ACK_BYTES_MAX], usize) {
    const NOP: u8 = 1;
    let (client, local) = (unmapped(birth.client), unmapped(birth.local));
    let o = &birth.server_options;
    let mut segment = [0; SYN_ACK_BYTES_MAX];
    let mut n = 20;
    let mut put = |bytes: &[u8]| {
        segment[n..n + bytes.len()].copy_from_slice(bytes);
        n += bytes.len();
    };
    let [mss_high, mss_low] = o.mss.to_be_bytes();
    if o.mss != 0 {
        put(&[TCPOPT_MAXSEG as u8, 4, mss_high, mss_low]);
    }
    match (o.timestamps, o.sack) {
        (Some((tsval, tsecr)), sack) => {
            put(if sack { &[TCPOPT_SACK_PERM as u8, 2] } else { &[NOP, NOP] });
            put(&[TCPOPT_TIMESTAMP as u8, 10]);
            put(&tsval.to_be_bytes());
            put(&tsecr.to_be_bytes());
        }
        (None, true) => put(&[NOP, NOP, TCPOPT_SACK_PERM as u8, 2]),
        (None, false) => {}
    }
    if let Some(scale) = o.wscale {
        put(&[NOP, TCPOPT_WINDOW as u8, 3, scale]);
    }
    segment[0..2].copy_from_slice(&local.port().to_be_bytes());
    segment[2..4].copy_from_slice(&client.port().to_be_bytes());
    segment[4..8].copy_from_slice(&birth.isn_server.to_be_bytes());
    segment[8..12].copy_from_slice(&birth.isn_client.wrapping_add(1).to_be_bytes());
    segment[12] = ((n / 4) << 4) as u8;
    segment[13] = 0x12; // SYN, ACK
    // Not what the lost host said, but no more than the rebuilt socket takes.
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let sum = checksum::of_segment(local.ip(), client.ip(), libc::IPPROTO_TCP as u8, &segment[..n]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    (segment, n)
}

/// An IPv4 client of a dual-stack listener speaks IPv4.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Binds even where the address is not configured (yet).
fn bind(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(local);
    match socket.bind(&address) {
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
            let (level, name) = match local {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, IPV6_TRANSPARENT),
            };
            sys::set_option(socket.as_fd(), level, name, 1)?;
            socket.bind(&address)
        }
        r => r,
    }
}

/// The sequence number of a position of the stream.
fn sequence(isn: u32, position: u64) -> u32 {
    isn.wrapping_add(1).wrapping_add(position as u32)
}

fn has_sack(birth: &Birth) -> bool {
    birth.client_options.sack && birth.server_options.sack
}

fn has_timestamps(birth: &Birth) -> bool {
    birth.client_options.timestamps.is_some() && birth.server_options.timestamps.is_some()
}

fn tsval_now(tsval: u32, elapsed_ms: u64) -> u32 {
    tsval.wrapping_add((elapsed_ms + TSVAL_AHEAD_MS) as u32) & !1
}

/// Both sides' scales, or none.
fn scales(birth: &Birth) -> (u8, u8) {
    birth.client_options.wscale.zip(birth.server_options.wscale).unwrap_or((0, 0))
}

fn receive_scale(birth: &Birth) -> u8 {
    scales(birth).1
}

/// `struct tcp_repair_opt`s: pairs of code and value.
fn repair_options(birth: &Birth, is_v4: bool) -> ([u8; 32], usize) {
    let mut bytes = [0; 32];
    let mut n = 0;
    let mut put = |code: u32, value: u32| {
        bytes[n..n + 4].copy_from_slice(&code.to_ne_bytes());
        bytes[n + 4..n + 8].copy_from_slice(&value.to_ne_bytes());
        n += 8;
    };
    if has_sack(birth) {
        put(TCPOPT_SACK_PERM, 0);
    }
    // Without one the scale of this host would be in force, not zero.
    let (client_scale, server_scale) = scales(birth);
    put(TCPOPT_WINDOW, u32::from(client_scale) | u32::from(server_scale) << 16);
    if has_timestamps(birth) {
        put(TCPOPT_TIMESTAMP, 0);
    }
    let mss = match (birth.client_options.mss, is_v4) {
        (0, true) => MSS_UNNAMED_V4,
        (0, false) => MSS_UNNAMED_V6,
        (named, _) => named,
    };
    put(TCPOPT_MAXSEG, u32::from(mss));
    (bytes, n)
}

/// Output in two pieces, as a ring has it.
#[derive(Clone, Copy, Debug)]
struct Pieces<'a>(&'a [u8], &'a [u8]);

impl<'a> Pieces<'a> {
    fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    /// The first `n`, or all, and the rest.
    fn split_at(&self, n: usize) -> (Self, Self) {
        let (a, a_rest) = self.0.split_at(n.min(self.0.len()));
        let (b, b_rest) = self.1.split_at((n - a.len()).min(self.1.len()));
        (Self(a, b), Self(a_rest, b_rest))
    }
}

/// Of so much output, what goes silently before the next bytes that are sent.
fn silent_bytes(length: usize, fresh: usize) -> usize {
    length.min(STRIDE_BYTES).saturating_sub(fresh)
}

/// Puts bytes into the send queue of a socket in repair mode, as sent; how many.
fn queue_sent(socket: &Socket, bytes: Pieces) -> (usize, io::Result<()>) {
    let mut rest = bytes;
    if bytes.len() > 0
        && let Err(e) = sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    {
        return (0, Err(e));
    }
    while rest.len() > 0 {
        match socket.send_vectored(&[IoSlice::new(rest.0), IoSlice::new(rest.1)]) {
            Ok(n) => rest = rest.split_at(n).1,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (bytes.len() - rest.len(), Err(e)),
        }
    }
    (bytes.len(), Ok(()))
}

/// Sends bytes one by one; how many.
fn send_fresh(socket: &Socket, bytes: Pieces) -> (usize, io::Result<()>) {
    let mut sent = 0;
    for byte in bytes.0.iter().chain(bytes.1) {
        loop {
            match socket.send_with_flags(std::slice::from_ref(byte), libc::MSG_NOSIGNAL) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (sent, Err(e)),
            }
        }
        sent += 1;
    }
    (sent, Ok(()))
}

/// `struct tcp_repair_window`. Its `max_window` is `snd_wnd` here.
struct Window {
    snd_wl1: u32,
    snd_wnd: u32,
    rcv_wnd: u32,
    rcv_wup: u32,
}

impl Window {
    fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let fields = [self.snd_wl1, self.snd_wnd, self.snd_wnd, self.rcv_wnd, self.rcv_wup];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strides_cover_the_output(a in prop::collection::vec(any::<u8>(), 0..70_000), cut in 0usize..70_000, fresh in 1usize..9) {
            let cut = cut.min(a.len());
            let mut rest = Pieces(&a[..cut], &a[cut..]);
            let mut seen = Vec::new();
            while rest.len() > 0 {
                let (silent, after) = rest.split_at(silent_bytes(rest.len(), fresh));
                let (live, after) = after.split_at(fresh);
                prop_assert!(live.len() > 0 && silent.len() + live.len() <= STRIDE_BYTES);
                for p in [silent, live] {
                    seen.extend([p.0, p.1].concat());
                }
                rest = after;
            }
            prop_assert_eq!(seen, a);
        }

        /// PAWS: the client takes it for newer; RTT: the kernel doesn't take the difference for a round trip.
        #[test]
        fn a_new_timestamp_is_far_ahead_and_even(tsval: u32, elapsed_ms in 0u64..1 << 30, error_ms in 0u32..60_000) {
            let new = tsval_now(tsval, elapsed_ms);
            let old = tsval.wrapping_add(elapsed_ms as u32).wrapping_add(error_ms);
            prop_assert_eq!(new & 1, 0);
            let ahead = new.wrapping_sub(old);
            prop_assert!(ahead > i32::MAX as u32 / 1000 && ahead < 1 << 31);
        }
    }

    #[test]
    fn a_mapped_address_is_restored_as_what_it_is() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(unmapped(mapped), "10.1.2.3:80".parse().unwrap());
        let v6: SocketAddr = "[fd00::1%3]:80".parse().unwrap();
        assert_eq!(unmapped(v6), v6);
    }
}
