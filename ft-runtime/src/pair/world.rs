//! What a host of a pair has to do with the world: the gate while it leads, the sockets when it takes over.
//!
//! Laws: while this host doesn't lead, its gate is shut and without a lease; sockets are built in repair before the gate
//! opens and speak only after; a FIN or RST gets its permission only here, from an act that the output rule released.

use super::guard::{Fingerprint, Guard};
use super::log::InputMark;
use crate::config::{Prefixed, Service};
use crate::engine::EngineError;
use crate::front::{Front, connection::Inherited};
use crate::gate::boot_time::BootTime;
use crate::gate::error::GateError;
use crate::gate::judge::{self, BirthId, Event};
use crate::gate::lease::Lease;
use crate::gate::namespace::Address;
use crate::gate::packet::{Seq, SynOptions, Tuple};
use crate::gate::rules::Change;
use crate::gate::{Gate, saved_syn};
use crate::start::Error;
use crate::takeover::address::Announcer;
use crate::takeover::route::{Metrics, SETTLE, TakeoverRoutes};
use crate::takeover::tcp_repair::{self, Birth, InRepair, RestoreSpec, TcpOptions};
use crate::tap::{self, GivenBack, Tap};
use ft_log::codec::{DecodeError, Reader, Writer};
use ft_log::ids::{ConnId, LogIndex};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Room for an encoded birth, also for one with its connection and age.
pub const BIRTH_BYTES_MAX: usize = 176;
/// Interface of the virtual address in the service's namespace.
const INTERFACE: &str = "service";
const TICK: Duration = Duration::from_secs(1);

/// A birth as the log has it, and when it was so.
#[derive(Clone, Copy)]
pub struct Heard {
    birth: Birth,
    at: Instant,
}

/// How a connection began that one host tells another of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// `None`: the primary's engine was not given it yet.
    pub conn: Option<ConnId>,
    /// How old its timestamps are.
    pub age: Duration,
    pub birth: Birth,
}

impl Told {
    pub fn encode(&self, w: &mut Writer) {
        w.uint(self.conn.map_or(0, |c| c.0.into()));
        w.uint(self.age.as_millis() as u64);
        encode_birth(&self.birth, w);
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let conn = r.u32()?;
        let age = Duration::from_millis(r.uint()?);
        let birth = decode_birth(r.rest())?;
        Ok(Self { conn: (conn != 0).then_some(ConnId(conn)), age, birth })
    }
}

pub struct World {
    gate: Gate,
    addresses: Vec<Prefixed>,
    /// Leading: births whose SYN-ACK waits for the log.
    awaiting: VecDeque<(LogIndex, BirthId)>,
    /// Leading: births that the front has not been given as connections.
    unborn: HashMap<BirthId, Heard>,
    /// Of those, the ones that came to nothing since the last look.
    stillborn: Vec<Stillborn>,
    ids: HashMap<ConnId, BirthId>,
    /// Following: handshakes that the primary's engine has not been given as connections.
    births: HashMap<(SocketAddr, SocketAddr), Heard>,
    /// How the primary's connections began, here or there.
    begun: HashMap<ConnId, Heard>,
    /// Sockets that say nothing yet; with a birth: its SYN-ACK is to be repeated.
    built: Vec<(ConnId, InRepair, Option<Birth>)>,
    /// Leading, restored: the clients may not have had their SYN-ACKs.
    half_open: HashMap<BirthId, Birth>,
    restored: Restored,
    announcer: Option<Announcer>,
    routes: Option<(TakeoverRoutes, Instant)>,
    lease: Duration,
    tick_at: Instant,
    pub readable: bool,
    /// The right to send had run out and is there again, since it was last asked.
    resumed: bool,
    tap: Option<Tap>,
    /// Behind the gate: when it goes, the gate is gone.
    guard: Option<Guard>,
}

/// A handshake that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stillborn {
    client: SocketAddr,
    local: SocketAddr,
    isn_client: u32,
}

impl Stillborn {
    pub fn encode(&self, w: &mut Writer) {
        w.address(&self.client);
        w.address(&self.local);
        w.uint(self.isn_client.into());
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let s = Self { client: r.address()?, local: r.address()?, isn_client: r.u32()? };
        r.end()?;
        Ok(s)
    }
}

/// What became of the connections at a takeover.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restored {
    pub connections: usize,
    pub lost: usize,
    /// Connections that the old primary had not told its guest of.
    pub half_open: usize,
}

fn gate_error(what: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |e| EngineError::system(what, e)
}

impl Stillborn {
    fn of(b: &Birth) -> Self {
        Self { client: b.client, local: b.local, isn_client: b.isn_client }
    }
}

fn options(o: &SynOptions) -> TcpOptions {
    TcpOptions {
        mss: o.mss.unwrap_or(0),
        wscale: o.window_scale,
        sack: o.sack,
        timestamps: o.timestamps.map(|t| (t.value, t.echo)),
    }
}

fn encode_options(o: &TcpOptions, w: &mut Writer) {
    let bit = |on, n| if on { 1u8 << n } else { 0 };
    w.u8(bit(o.wscale.is_some(), 0) | bit(o.sack, 1) | bit(o.timestamps.is_some(), 2));
    w.uint(o.mss.into());
    if let Some(s) = o.wscale {
        w.u8(s);
    }
    if let Some((v, e)) = o.timestamps {
        w.uint(v.into());
        w.uint(e.into());
    }
}

fn decode_options(r: &mut Reader) -> Result<TcpOptions, DecodeError> {
    let flags = r.u8()?;
    if flags > 7 {
        return Err(DecodeError::Unknown(flags));
    }
    Ok(TcpOptions {
        mss: r.u16()?,
        wscale: if flags & 1 != 0 { Some(r.u8()?) } else { None },
        sack: flags & 2 != 0,
        timestamps: if flags & 4 != 0 { Some((r.u32()?, r.u32()?)) } else { None },
    })
}

fn birth(b: &judge::Birth) -> Birth {
    let server_options = options(&b.server.options);
    Birth {
        client: b.tuple.peer(),
        local: b.tuple.local(),
        isn_client: b.client.isn.0,
        isn_server: b.server.isn.0,
        client_options: options(&b.client.options),
        server_options,
        client_window: b.client.window,
        server_tsval: tsval(&server_options),
        server_tsval_at_ns: 0,
    }
}

fn tsval(o: &TcpOptions) -> u32 {
    o.timestamps.map_or(0, |(v, _)| v)
}

/// A birth for the log.
pub fn encode_birth(b: &Birth, w: &mut Writer) {
    w.address(&b.client);
    w.address(&b.local);
    w.uint(b.isn_client.into());
    w.uint(b.isn_server.into());
    encode_options(&b.client_options, w);
    // Restored sockets' timestamps are not those of their handshake.
    let timestamps = b.server_options.timestamps.map(|(_, echo)| (b.server_tsval, echo));
    encode_options(&TcpOptions { timestamps, ..b.server_options }, w);
    w.uint(b.client_window.into());
}

pub fn decode_birth(bytes: &[u8]) -> Result<Birth, DecodeError> {
    let mut r = Reader::new(bytes);
    let (client, local) = (r.address()?, r.address()?);
    let (isn_client, isn_server) = (r.u32()?, r.u32()?);
    let (client_options, server_options) = (decode_options(&mut r)?, decode_options(&mut r)?);
    let client_window = r.u16()?;
    r.end()?;
    Ok(Birth {
        client,
        local,
        isn_client,
        isn_server,
        client_options,
        server_options,
        client_window,
        server_tsval: tsval(&server_options),
        server_tsval_at_ns: 0,
    })
}

impl World {
    /// The service's network, present and mute. `None`: the service has no virtual address.
    /// `follows`: it hears what clients say, where the service is tapped.
    pub fn open(service: &Service, lease: Duration, follows: bool) -> Result<Option<Self>, Error> {
        let Some(interface) = &service.interface else { return Ok(None) };
        let addresses = service
            .addresses
            .iter()
            .map(|a| Address::new(a.ip, a.prefix))
            .collect::<Result<Vec<_>, GateError>>()?;
        let shared = service.tap.then(|| tap::shared_mac(&service.name));
        let gate = Gate::open(interface, &addresses, &[], shared)?;
        let tap = if service.tap && follows { Some(Tap::open(gate.net())?) } else { None };
        Ok(Some(Self {
            gate,
            addresses: service.addresses.clone(),
            awaiting: VecDeque::new(),
            unborn: HashMap::new(),
            stillborn: Vec::new(),
            ids: HashMap::new(),
            births: HashMap::new(),
            begun: HashMap::new(),
            built: Vec::new(),
            half_open: HashMap::new(),
            restored: Restored::default(),
            announcer: None,
            routes: None,
            lease,
            tick_at: Instant::now(),
            readable: false,
            resumed: false,
            tap,
            guard: None,
        }))
    }

    /// Sockets that this thread opens from now on are the service's.
    pub fn enter(&self) -> io::Result<()> {
        self.gate.net().namespace().enter()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.gate.fd()
    }

    /// Until when this host may speak.
    pub fn lease(&self) -> Lease {
        self.gate.lease().clone()
    }

    /// From now on a process that outlives this one shuts the gate in its place, and tells the peer. On the thread that
    /// owns the gate, before it enters the service's network.
    pub fn be_guarded(&mut self, from: IpAddr, peer: SocketAddr) -> io::Result<()> {
        self.guard = Some(Guard::start(self.gate.lease(), from, peer)?);
        Ok(())
    }

    pub fn guard_fingerprint(&self) -> Option<Fingerprint> {
        self.guard.as_ref().map(Guard::fingerprint)
    }

    // Leading.

    /// This host may speak from now on, and is spoken to.
    pub fn open_gate(&mut self) -> Result<(), EngineError> {
        self.gate.judge().set_live(true);
        self.gate.resume(BootTime::now().after(self.lease)).map_err(gate_error("opening the gate"))?;
        self.gate.ingress().open();
        Ok(())
    }

    /// Tells the network where the address is.
    pub fn announce(&mut self) {
        let ips: Vec<_> = self.addresses.iter().map(|a| a.ip).collect();
        match Announcer::new(INTERFACE, &ips, None) {
            Ok(mut a) => {
                if let Err(e) = a.fire(Instant::now()) {
                    tracing::warn!("announcing the address: {e}");
                }
                self.announcer = Some(a);
            }
            Err(e) => tracing::warn!("the address can't be announced: {e}"),
        }
    }

    /// The right to speak goes on for another while, from `since` on.
    pub fn renew(&mut self, since: BootTime) -> Result<(), EngineError> {
        let until = since.after(self.lease);
        if until <= BootTime::now() {
            return Ok(()); // confirmed too late to be worth anything
        }
        if self.gate.is_lapsed() || self.gate.lease().renew(until).is_err() {
            tracing::warn!("the right to send had run out: what waited to leave is dropped, TCP repeats it");
            self.gate.resume(until).map_err(gate_error("opening the gate again"))?;
            self.resumed = true;
        }
        Ok(())
    }

    /// What the kernel tried to send meanwhile is to be sent now.
    pub fn take_resumed(&mut self) -> bool {
        std::mem::take(&mut self.resumed)
    }

    /// What waits to leave won't. A later [`Self::renew`] starts with nothing.
    pub fn drop_queue(&mut self) {
        self.gate.lease().close();
    }

    /// This host has nothing more to say, ever.
    pub fn fall_silent(&mut self) {
        self.gate.lease().close();
        self.gate.ingress().shut();
        self.announcer = None;
    }

    /// Looks at queued packets; new births go to `log`, which gives the index to wait for.
    pub fn turn(&mut self, now: Instant, mut log: impl FnMut(&Birth) -> LogIndex) -> Result<bool, EngineError> {
        let mut more = false;
        if std::mem::take(&mut self.readable) {
            more = self.gate.on_readable().map_err(gate_error("reading queued packets"))?;
            self.readable = more;
        }
        while let Some(e) = self.gate.next_event() {
            match e {
                Event::Birth(b) => {
                    let heard = Heard { birth: birth(&b), at: now };
                    self.awaiting.push_back((log(&heard.birth), b.id));
                    self.unborn.insert(b.id, heard);
                }
                Event::Gone { id, .. } => self.stillborn.extend(self.unborn.remove(&id).map(|h| Stillborn::of(&h.birth))),
                Event::SynRepeated { id } => self.repeat_syn_ack(id),
            }
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.gate.tick().map_err(gate_error("forgetting old connections"))?;
        }
        if let Some(a) = &mut self.announcer
            && a.next(now).is_some_and(|at| at <= now)
            && let Err(e) = a.fire(now)
        {
            tracing::warn!("announcing the address: {e}");
        }
        if self.routes.as_ref().is_some_and(|(_, until)| *until <= now)
            && let Some((routes, _)) = self.routes.take()
            && let Err(e) = routes.undo()
        {
            tracing::warn!("routes keep the takeover's metrics: {e}");
        }
        Ok(more)
    }

    /// To a client that asks for it: the kernel would, if it knew of the handshake.
    fn repeat_syn_ack(&self, id: BirthId) {
        if let Some(b) = self.half_open.get(&id)
            && let Err(e) = tcp_repair::resend_syn_ack(b)
        {
            tracing::warn!(client = %b.client, "repeating its SYN-ACK: {e}");
        }
    }

    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let routes = self.routes.as_ref().map(|(_, until)| *until);
        let announce = self.announcer.as_ref().and_then(|a| a.next(now));
        [Some(self.tick_at), routes, announce].into_iter().flatten().min()
    }

    /// Whether the gate's rules are as they must be; what to say if they were not.
    pub fn look_at_rules(&mut self, now: Instant) -> Result<Option<&'static str>, GateError> {
        Ok(self.gate.look_at_rules(now)?.map(|change| match change {
            Change::Broken => {
                "GATE RULES CHANGED by somebody: nothing leaves this host until they are installed again, which begins now"
            }
            Change::Repaired => "the gate's rules are installed again",
        }))
    }

    /// The log is committed up to here.
    pub fn committed(&mut self, upto: LogIndex) {
        while self.awaiting.front().is_some_and(|(i, _)| *i <= upto) {
            if let Some((_, id)) = self.awaiting.pop_front() {
                self.gate.judge().birth_committed(BootTime::now(), id);
            }
        }
    }

    /// Input of a connection became safe.
    pub fn input(&mut self, m: InputMark) {
        if let Some(id) = self.ids.get(&m.conn) {
            self.gate.judge().committed_input(*id, m.received, m.fin);
            self.half_open.remove(id);
        }
    }

    /// The kernel gave the front a connection.
    pub fn accepted(&mut self, conn: ConnId, socket: &TcpStream, peer: SocketAddr, local: SocketAddr) {
        let tuple = Tuple::new(plain(local), plain(peer));
        let found = saved_syn::client_isn(socket.as_fd()).ok().and_then(|isn| self.gate.judge().find(&tuple, isn));
        match found {
            Some(id) => {
                self.gate.judge().accepted(id);
                if let Some(h) = self.unborn.remove(&id) {
                    self.begun.insert(conn, h);
                }
                self.ids.insert(conn, id);
            }
            None => tracing::warn!(%conn, %peer, "accepted a connection that the gate has not seen: it will stay mute"),
        }
    }

    pub fn permit_fin(&mut self, conn: ConnId) {
        if let Some(id) = self.ids.get(&conn) {
            self.gate.judge().permit_fin(*id);
        }
    }

    pub fn permit_rst(&mut self, conn: ConnId) {
        if let Some(id) = self.ids.get(&conn) {
            self.gate.judge().permit_rst(*id);
        }
    }

    pub fn closed(&mut self, conn: ConnId) {
        self.begun.remove(&conn);
        if let Some(id) = self.ids.remove(&conn) {
            self.half_open.remove(&id);
            self.gate.judge().closed(BootTime::now(), id);
        }
    }

    /// How all connections of this moment began.
    pub fn told(&self, now: Instant) -> Vec<Told> {
        let age = |h: &Heard| now.saturating_duration_since(h.at);
        let begun = self.begun.iter().map(|(conn, h)| Told { conn: Some(*conn), age: age(h), birth: h.birth });
        begun.chain(self.unborn.values().map(|h| Told { conn: None, age: age(h), birth: h.birth })).collect()
    }

    /// Carries out what was decided in this turn.
    pub fn flush(&mut self) -> Result<(), EngineError> {
        self.gate.flush().map_err(gate_error("answering queued packets"))
    }

    /// Handshakes that never became connections: the other host need not remember them.
    pub fn take_stillborn(&mut self) -> Vec<Stillborn> {
        std::mem::take(&mut self.stillborn)
    }

    // Following.

    /// `None`: the service is not tapped, or this host leads.
    pub fn tap(&self) -> Option<&Tap> {
        self.tap.as_ref()
    }

    /// To be called often while the log comes.
    pub fn keep_heard(&mut self, now: Instant, heard_at: Instant) {
        if let Some(Err(e)) = self.tap.as_mut().map(|t| t.keep(now, heard_at)) {
            tracing::warn!("the tap is gone: clients that speak during an outage will wait longer: {e}");
            self.tap = None;
        }
    }

    /// What clients said during the outage reaches the sockets now, which must be live.
    pub fn give_back(&mut self) -> Option<GivenBack> {
        Some(self.tap.take()?.give_back())
    }

    pub fn forget_stillborn(&mut self, s: Stillborn) {
        let key = (s.client, s.local);
        // The same address may have begun anew.
        if self.births.get(&key).is_some_and(|h| h.birth.isn_client == s.isn_client) {
            self.births.remove(&key);
        }
    }

    pub fn heard(&mut self, birth: Birth, now: Instant) {
        self.was_told(Told { conn: None, age: Duration::ZERO, birth }, now);
    }

    pub fn was_told(&mut self, Told { conn, age, birth }: Told, now: Instant) {
        let heard = Heard { birth, at: now.checked_sub(age).unwrap_or(now) };
        match conn {
            Some(conn) => self.begun.insert(conn, heard),
            None => self.births.insert((birth.client, birth.local), heard),
        };
    }

    /// The primary's engine was given a connection: a handshake's, whatever its addresses begin next.
    pub fn accepted_elsewhere(&mut self, conn: ConnId, peer: SocketAddr, local: SocketAddr) {
        if let Some(h) = self.births.remove(&(plain(peer), plain(local))) {
            self.begun.insert(conn, h);
        }
    }

    /// The primary's kernel is done with it.
    pub fn forget(&mut self, conn: ConnId) {
        self.begun.remove(&conn);
    }

    /// Builds the sockets of all connections of `front`, in repair: they say nothing before [`Self::animate`]. `adopt`
    /// gives a connection that the guest has not heard of its number, or refuses it.
    pub fn restore(
        &mut self,
        front: &mut Front,
        mut adopt: impl FnMut(&mut Front, &Birth) -> Option<ConnId>,
        now: Instant,
    ) -> Result<(), EngineError> {
        match TakeoverRoutes::apply(Metrics::default()) {
            Ok(r) => self.routes = Some((r, now + SETTLE)),
            Err(e) => tracing::warn!("clients will wait longer: {e}"),
        }
        let mut begun = std::mem::take(&mut self.begun);
        let mut young = HashSet::new();
        for h in std::mem::take(&mut self.births).into_values() {
            if let Some(conn) = adopt(front, &h.birth) {
                young.insert(conn);
                begun.insert(conn, h);
            }
        }
        self.restored.half_open = young.len();
        front.listen_here()?;
        let mut connections: Vec<_> = front.elsewhere().collect();
        // The client may have used an address again before the primary's guest was done with it: the newest is the one.
        connections.sort_unstable_by_key(|(id, _)| Reverse(*id));
        let mut tuples = HashSet::new();
        for (id, c) in connections {
            if !tuples.insert((plain(c.peer), plain(c.local))) {
                continue;
            }
            let Some(h) = begun.get(&id) else {
                self.restored.lost += 1;
                tracing::warn!(conn = %id, peer = %c.peer, "its birth was never heard of: lost");
                continue;
            };
            let i: Inherited = c.inherited();
            // Whoever was accepted has answered the SYN-ACK.
            let half_open = young.contains(&id);
            // A reset goes out as one, as soon as the socket lives: an end before it would make what was sent look complete.
            let fin_sent = i.fin_sent && !i.reset;
            let spec = RestoreSpec {
                birth: &h.birth,
                received: i.received,
                fin_received: i.fin_received,
                acked: i.acked,
                output: i.output,
                fin_sent,
                elapsed_since_tsval_ms: now.saturating_duration_since(h.at).as_millis() as u64,
                established: !half_open,
            };
            let socket = match tcp_repair::build(&spec) {
                Ok(s) => s,
                Err(e) => {
                    self.restored.lost += 1;
                    tracing::warn!(conn = %id, "{e}");
                    continue;
                }
            };
            let restored = judge::Restored {
                tuple: Tuple::new(h.birth.local, h.birth.client),
                isn_client: Seq(h.birth.isn_client),
                isn_server: Seq(h.birth.isn_server),
                sack: h.birth.client_options.sack && h.birth.server_options.sack,
                input_bytes: i.received,
                fin: i.fin_received,
                fin_permitted: fin_sent,
                confirmed: !half_open,
            };
            match self.gate.judge().restore(BootTime::now(), &restored) {
                Ok(b) => {
                    if half_open {
                        self.half_open.insert(b, h.birth);
                    }
                    self.ids.insert(id, b)
                }
                Err(e) => {
                    self.restored.lost += 1;
                    tracing::warn!(conn = %id, "the gate does not take it: {e}");
                    continue;
                }
            };
            self.built.push((id, socket, half_open.then_some(h.birth)));
        }
        self.begun = begun;
        Ok(())
    }

    /// The restored sockets speak from here on: only with the gate open.
    pub fn animate(&mut self, front: &mut Front, now: Instant) -> Result<Restored, EngineError> {
        for (id, socket, repeat) in std::mem::take(&mut self.built) {
            if let Some(b) = repeat
                && let Err(e) = tcp_repair::resend_syn_ack(&b)
            {
                tracing::warn!(conn = %id, "repeating its SYN-ACK: {e}");
            }
            match socket.go_live() {
                Ok(r) => {
                    self.restored.connections += 1;
                    if let (Some(h), Some(tsval)) = (self.begun.get_mut(&id), r.tsval) {
                        (h.birth.server_tsval, h.at) = (tsval, now);
                    }
                    front.came_here(id, TcpStream::from(r.socket), r.written, r.fin_sent, now)?;
                }
                Err(e) => {
                    self.begun.remove(&id);
                    self.restored.lost += 1;
                    tracing::warn!(conn = %id, "{e}");
                }
            }
        }
        Ok(self.restored)
    }
}

/// An IPv4 address that a dual-stack socket shows as IPv6 is IPv4 on the wire.
fn plain(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip().to_canonical(), a.port())
}

#[cfg(test)]
mod tests {
    use super::super::message::HEAD_BYTES;
    use super::*;

    #[test]
    fn a_stillbirth_comes_back_as_it_was() {
        let s = Stillborn {
            client: "[fd00::1]:40000".parse().unwrap(),
            local: "10.0.0.1:6379".parse().unwrap(),
            isn_client: u32::MAX,
        };
        let mut b = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut b);
        s.encode(&mut w);
        let n = w.len();
        assert_eq!(Stillborn::decode(&b[..n]), Ok(s));
        assert!(Stillborn::decode(&b[..n - 1]).is_err() && Stillborn::decode(&b[..=n]).is_err());
    }

    #[test]
    fn a_birth_comes_back_as_it_was() {
        let o = TcpOptions { mss: 1460, wscale: Some(7), sack: true, timestamps: Some((123_456, 0)) };
        let bare = TcpOptions { mss: 536, wscale: None, sack: false, timestamps: None };
        for (co, so) in [(o, o), (bare, bare), (o, bare)] {
            let mut b = [0; BIRTH_BYTES_MAX];
            let mut w = Writer::new(&mut b);
            w.address(&"[fd00::1]:40000".parse().unwrap());
            w.address(&"[fd00::2]:6379".parse().unwrap());
            w.uint(u32::MAX.into());
            w.uint(7);
            encode_options(&co, &mut w);
            encode_options(&so, &mut w);
            w.uint(65_535);
            let n = w.len();
            let birth = decode_birth(&b[..n]).unwrap();
            assert_eq!((birth.client_options, birth.server_options), (co, so));
            assert_eq!((birth.isn_client, birth.isn_server, birth.client_window), (u32::MAX, 7, 65_535));
            assert!(decode_birth(&b[..n - 1]).is_err());
            let told = Told { conn: Some(ConnId(7)), age: Duration::from_millis(1 << 40), birth: Birth { server_tsval: 99, ..birth } };
            let mut w = Writer::new(&mut b);
            told.encode(&mut w);
            let n = w.len();
            let again = Told::decode(&b[..n]).unwrap();
            assert_eq!((again.conn, again.age), (told.conn, told.age));
            assert_eq!(again.birth.server_tsval, if so.timestamps.is_some() { 99 } else { 0 });
        }
    }
}
