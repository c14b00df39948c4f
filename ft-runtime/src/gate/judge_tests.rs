//! The judge, case by case, and against a model with random commits.

use super::super::packet::build;
use super::*;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::SocketAddr;

const ACK: u8 = Flags::ACK;
const FIN: u8 = Flags::FIN;
const RST: u8 = Flags::RST;
const SYN: u8 = Flags::SYN;
/// MSS 1460, SACK, timestamps, window scale 7.
const OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 3, 7];
const PLAIN: [u8; 4] = [2, 4, 5, 0xb4];
const SERVER_ISN: u32 = 0x8000_0000;

fn peer(n: u16) -> SocketAddr {
    format!("10.0.0.{}:{}", 1 + n / 1000, 4000 + n).parse().unwrap()
}

fn local() -> SocketAddr {
    "10.0.0.200:80".parse().unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A judge with the queue around it.
struct Desk {
    judge: Judge,
    now: BootTime,
    last_packet: u32,
    waiting: HashSet<PacketId>,
}

impl Desk {
    fn new() -> Self {
        let mut judge = Judge::new();
        judge.set_live(true);
        Self { judge, now: BootTime(1_000_000_000), last_packet: 0, waiting: HashSet::new() }
    }

    fn pass(&mut self, d: Duration) {
        self.now = self.now.after(d);
        self.judge.tick(self.now);
    }

    /// Verdicts since the last call; each packet gets one, and only packets that were there.
    fn verdicts(&mut self) -> Vec<(PacketId, Verdict)> {
        let mut v = Vec::new();
        self.judge.take_verdicts(&mut v);
        for (packet, _) in &v {
            assert!(self.waiting.remove(packet), "a second verdict, or none asked: {packet:?}");
        }
        v
    }

    fn out_raw(&mut self, bytes: &[u8]) -> PacketId {
        self.last_packet += 1;
        let packet = PacketId(self.last_packet);
        self.waiting.insert(packet);
        self.judge.egress(self.now, packet, &bytes[..bytes.len().min(128)], bytes.len() as u32);
        packet
    }

    /// `None`: held.
    fn out(&mut self, n: u16, flags: u8, seq: u32, ack: u32, payload_bytes: u32, options: &[u8]) -> Option<Verdict> {
        let packet = self.out_packet(n, flags, seq, ack, payload_bytes, options);
        let v = self.verdicts();
        v.iter().find(|(p, _)| *p == packet).map(|(_, v)| *v)
    }

    fn out_packet(&mut self, n: u16, flags: u8, seq: u32, ack: u32, payload_bytes: u32, options: &[u8]) -> PacketId {
        let bytes = build::tcp(&Segment {
            source: local(),
            destination: peer(n),
            seq: Seq(seq),
            ack: Seq(ack),
            flags: Flags(flags),
            window: 500,
            payload_bytes,
            options,
        });
        self.out_raw(&bytes)
    }

    fn ack(&mut self, n: u16, ack: u32) -> Option<Verdict> {
        self.out(n, ACK, SERVER_ISN + 1, ack, 0, &[])
    }

    fn syn(&mut self, n: u16, isn: u32, options: &[u8]) -> Verdict {
        let bytes = build::tcp(&Segment {
            source: peer(n),
            destination: local(),
            seq: Seq(isn),
            ack: Seq(0),
            flags: Flags(SYN),
            window: 64240,
            payload_bytes: 0,
            options,
        });
        self.judge.ingress(self.now, &bytes, bytes.len() as u32)
    }

    fn syn_ack(&mut self, n: u16, isn: u32) -> Option<Verdict> {
        self.out(n, SYN | ACK, SERVER_ISN, isn.wrapping_add(1), 0, &OPTIONS)
    }

    fn birth(&mut self) -> Birth {
        match self.judge.next_event() {
            Some(Event::Birth(b)) => b,
            e => panic!("no birth: {e:?}"),
        }
    }

    fn commit_birth(&mut self, id: BirthId) -> Vec<(PacketId, Verdict)> {
        self.judge.birth_committed(self.now, id);
        self.verdicts()
    }

    fn commit(&mut self, id: BirthId, bytes: u64, fin: bool) -> Vec<Verdict> {
        self.judge.committed_input(id, bytes, fin);
        self.verdicts().into_iter().map(|(_, v)| v).collect()
    }

    /// A connection that the engine has.
    fn open(&mut self, n: u16, isn: u32) -> BirthId {
        self.open_with(n, isn, &OPTIONS)
    }

    fn open_with(&mut self, n: u16, isn: u32, options: &[u8]) -> BirthId {
        assert_eq!(self.syn(n, isn, options), Verdict::Accept);
        assert_eq!(self.syn_ack(n, isn), None);
        let id = self.birth().id;
        assert_eq!(self.commit_birth(id).len(), 1);
        self.judge.accepted(id);
        id
    }
}

#[test]
fn a_syn_ack_waits_for_its_birth() {
    let mut d = Desk::new();
    assert_eq!(d.syn(1, 77, &OPTIONS), Verdict::Accept);
    assert_eq!(d.syn_ack(1, 77), None);
    let b = d.birth();
    assert_eq!(b.tuple, Tuple::new(local(), peer(1)));
    assert_eq!((b.client.isn, b.client.window, b.client.options.mss), (Seq(77), 64240, Some(1460)));
    assert_eq!((b.server.isn, b.server.window), (Seq(SERVER_ISN), 500));
    assert_eq!(b.server.options.timestamps.map(|t| t.value), Some(256));
    assert_eq!(b.client.options.raw(), OPTIONS);
    assert_eq!(d.judge.next_event(), None, "told once");
    assert_eq!(d.judge.find(&b.tuple, Seq(77)), Some(b.id));
    assert_eq!(d.judge.find(&b.tuple, Seq(78)), None);
    let v = d.commit_birth(b.id);
    assert_eq!(v.iter().map(|v| v.1).collect::<Vec<_>>(), [Verdict::Accept]);
    assert!(d.commit_birth(b.id).is_empty());
    assert_eq!(d.judge.held(), 0);
}

#[test]
fn syn_ack_repeats_before_the_commit_are_dropped_and_later_ones_leave_when_they_are_needed() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    d.syn_ack(1, 77);
    let id = d.birth().id;
    d.pass(ms(100));
    // The client repeats its SYN, the kernel its answer.
    assert_eq!(d.syn(1, 77, &OPTIONS), Verdict::Accept);
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Drop));
    assert_eq!(d.commit_birth(id).len(), 1);
    d.pass(ms(199));
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Drop), "on its way already");
    d.pass(ms(1));
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Accept), "it was lost");
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Drop));
    d.pass(ms(200));
    d.judge.accepted(id);
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Drop), "the client has it");
    assert_eq!(d.judge.next_event(), None);
    assert_eq!(d.judge.counters().syn_ack_repeats_dropped, 4);
}

#[test]
fn a_syn_ack_held_longer_than_its_repeat_takes_leaves_once() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    d.syn_ack(1, 77);
    let id = d.birth().id;
    d.pass(ms(1500));
    assert_eq!(d.commit_birth(id).len(), 1);
    d.pass(ms(999));
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Drop));
    d.pass(ms(1));
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Accept));
}

#[test]
fn nothing_leaves_before_the_birth_is_committed() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    d.syn_ack(1, 77);
    let id = d.birth().id;
    assert_eq!(d.ack(1, 78), Some(Verdict::Drop), "a challenge ACK");
    assert_eq!(d.out(1, RST, 0, 78, 0, &[]), Some(Verdict::Drop));
    assert_eq!(d.out(1, FIN | ACK, 0, 78, 0, &[]), Some(Verdict::Drop));
    d.commit_birth(id);
    assert_eq!(d.ack(1, 78), Some(Verdict::Accept), "the handshake's own acknowledgement");
}

#[test]
fn a_syn_ack_without_its_syn_stays() {
    let mut d = Desk::new();
    assert_eq!(d.syn_ack(1, 77), Some(Verdict::Drop));
    d.syn(1, 77, &OPTIONS);
    assert_eq!(d.syn_ack(1, 78), Some(Verdict::Drop));
    assert_eq!(d.judge.counters().syn_ack_strangers_dropped, 2);
}

#[test]
fn an_acknowledgement_waits_for_the_commit_of_all_it_covers() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    assert_eq!(d.ack(1, 1001), Some(Verdict::Accept));
    assert_eq!(d.ack(1, 1002), None);
    assert_eq!(d.out(1, ACK, SERVER_ISN + 1, 1101, 500, &[]), None, "data carries it too");
    assert_eq!(d.ack(1, 1201), None);
    assert_eq!(d.commit(id, 99, false), [Verdict::Accept]);
    assert_eq!(d.commit(id, 100, false), [Verdict::Accept]);
    assert_eq!(d.commit(id, 100, false), []);
    assert_eq!(d.commit(id, 50, false), [], "an old number changes nothing");
    assert_eq!(d.commit(id, 200, false), [Verdict::Accept]);
    assert_eq!(d.ack(1, 1150), Some(Verdict::Accept), "an older acknowledgement");
    assert_eq!(d.judge.held(), 0);
    assert!(d.waiting.is_empty());
}

#[test]
fn a_fin_of_the_client_counts_one() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    assert_eq!(d.commit(id, 10, false), []);
    assert_eq!(d.ack(1, 1012), None, "covers the FIN");
    assert_eq!(d.commit(id, 10, true), [Verdict::Accept]);
    assert_eq!(d.ack(1, 1013), None);
    // Half-closed: the service goes on sending.
    assert_eq!(d.out(1, ACK, SERVER_ISN + 1, 1012, 1400, &[]), Some(Verdict::Accept));
}

#[test]
fn the_circle_of_sequence_numbers_is_closed() {
    let mut d = Desk::new();
    let isn = u32::MAX - 1;
    let id = d.open(1, isn);
    assert_eq!(d.ack(1, isn + 1), Some(Verdict::Accept));
    assert_eq!(d.ack(1, 0), None);
    assert_eq!(d.ack(1, 5), None);
    assert_eq!(d.commit(id, 1, false), [Verdict::Accept]);
    assert_eq!(d.commit(id, 5, false), []);
    assert_eq!(d.commit(id, 6, false), [Verdict::Accept]);
    // Once around and more.
    let bytes = (3u64 << 32) + 10;
    let end = isn.wrapping_add(1).wrapping_add(10);
    d.commit(id, bytes, false);
    assert_eq!(d.ack(1, end), Some(Verdict::Accept));
    assert_eq!(d.ack(1, end + 1), None);
    assert_eq!(d.commit(id, bytes, true), [Verdict::Accept]);
}

#[test]
fn a_fin_needs_permission_and_a_commit() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    assert_eq!(d.out(1, FIN | ACK, SERVER_ISN + 1, 1001, 0, &[]), Some(Verdict::Drop));
    assert_eq!(d.out(1, FIN | ACK, SERVER_ISN + 1, 1001, 700, &[]), Some(Verdict::Drop), "data with it too");
    d.judge.permit_fin(id);
    assert_eq!(d.out(1, FIN | ACK, SERVER_ISN + 1, 1001, 0, &[]), Some(Verdict::Accept));
    assert_eq!(d.out(1, FIN | ACK, SERVER_ISN + 1, 1051, 0, &[]), None);
    assert_eq!(d.commit(id, 50, false), [Verdict::Accept]);
    assert_eq!(d.judge.counters().fins_forbidden, 2);
}

#[test]
fn both_ends_close_at_once() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    d.judge.permit_fin(id);
    assert_eq!(d.out(1, FIN | ACK, SERVER_ISN + 1, 1001, 0, &[]), Some(Verdict::Accept));
    // The client's FIN crossed ours.
    assert_eq!(d.out(1, ACK, SERVER_ISN + 2, 1002, 0, &[]), None);
    assert_eq!(d.commit(id, 0, true), [Verdict::Accept]);
    d.judge.closed(d.now, id);
    d.pass(Duration::from_secs(60));
    assert_eq!(d.ack(1, 1002), Some(Verdict::Accept), "TIME_WAIT answers the client's repeated FIN");
    assert_eq!(d.ack(1, 1003), None, "and the rule still holds");
    d.pass(Duration::from_secs(40));
    assert!(d.verdicts().iter().all(|(_, v)| *v == Verdict::Drop));
    assert_eq!(d.ack(1, 1002), Some(Verdict::Drop), "forgotten");
    assert_eq!(d.judge.held(), 0);
    assert!(d.waiting.is_empty());
}

#[test]
fn a_reset_needs_permission() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    assert_eq!(d.out(1, RST | ACK, SERVER_ISN + 1, 1001, 0, &[]), Some(Verdict::Drop));
    d.judge.permit_fin(id);
    assert_eq!(d.out(1, RST, SERVER_ISN + 1, 0, 0, &[]), Some(Verdict::Drop));
    d.judge.permit_rst(id);
    assert_eq!(d.out(1, RST, SERVER_ISN + 1, 0, 0, &[]), Some(Verdict::Accept));
    assert_eq!(d.judge.counters().resets_forbidden, 2);
}

#[test]
fn a_closed_port_says_so_only_while_live() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    assert_eq!(d.out(1, RST | ACK, 0, 78, 0, &[]), Some(Verdict::Accept));
    d.judge.set_live(false);
    assert_eq!(d.out(1, RST | ACK, 0, 78, 0, &[]), Some(Verdict::Drop));
    let id = d.open(2, 1000);
    d.judge.closed(d.now, id);
    assert_eq!(d.out(2, RST, SERVER_ISN + 1, 0, 0, &[]), Some(Verdict::Drop));
    d.judge.set_live(true);
    assert_eq!(d.out(2, RST, SERVER_ISN + 1, 0, 0, &[]), Some(Verdict::Accept), "data for a connection that is over");
}

#[test]
fn strangers_outbound_and_other_protocols_stay() {
    let mut d = Desk::new();
    assert_eq!(d.ack(9, 5), Some(Verdict::Drop));
    assert_eq!(d.out(9, SYN, 5, 0, 0, &OPTIONS), Some(Verdict::Drop));
    assert_eq!(d.out(9, 0, 5, 0, 0, &[]), Some(Verdict::Drop));
    let (a, b) = (local().ip(), peer(1).ip());
    let (c, e) = ("fd00::9".parse().unwrap(), "fd00::1".parse().unwrap());
    let mut verdict = |bytes: Vec<u8>| {
        d.out_raw(&bytes);
        d.verdicts()[0].1
    };
    assert_eq!(verdict(build::ip(17, a, b, &[0; 8])), Verdict::Drop);
    assert_eq!(verdict(build::ip(1, a, b, &[3, 3])), Verdict::Drop);
    assert_eq!(verdict(build::ip(1, a, b, &[0, 0])), Verdict::Accept, "ping");
    assert_eq!(verdict(build::ip(58, c, e, &[136, 0])), Verdict::Accept, "neighbour advertisement");
    assert_eq!(verdict(vec![0x45, 0, 0]), Verdict::Drop);
    d.judge.allow_icmp_errors(true);
    d.out_raw(&build::ip(1, a, b, &[3, 3]));
    assert_eq!(d.verdicts()[0].1, Verdict::Accept);
    let n = d.judge.counters();
    assert_eq!((n.strangers_dropped, n.outbound_dropped), (2, 1));
    assert_eq!((n.unsupported_dropped, n.icmp_dropped, n.unreadable_dropped), (1, 1, 1));
}

#[test]
fn repeats_of_a_held_acknowledgement_keep_the_newest() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    let first = d.out_packet(1, ACK, SERVER_ISN + 1, 1011, 0, &[]);
    let second = d.out_packet(1, ACK, SERVER_ISN + 1, 1011, 0, &[]);
    assert_eq!(d.verdicts(), [(first, Verdict::Drop)]);
    let data = d.out_packet(1, ACK, SERVER_ISN + 1, 1011, 9, &[]);
    let higher = d.out_packet(1, ACK, SERVER_ISN + 10, 1012, 0, &[]);
    assert_eq!(d.verdicts(), [], "data and higher acknowledgements are no repeats");
    d.judge.committed_input(id, 10, false);
    assert_eq!(d.verdicts(), [(second, Verdict::Accept), (data, Verdict::Accept)]);
    d.judge.committed_input(id, 11, false);
    assert_eq!(d.verdicts(), [(higher, Verdict::Accept)]);
    assert_eq!(d.judge.counters().coalesced, 1);
}

#[test]
fn without_sack_repeats_are_counted_by_the_client_and_all_wait() {
    let mut d = Desk::new();
    let id = d.open_with(1, 1000, &PLAIN);
    for _ in 0..3 {
        assert_eq!(d.ack(1, 1011), None);
    }
    assert_eq!(d.commit(id, 10, false).len(), 3);
}

#[test]
fn what_is_held_is_bounded() {
    let mut d = Desk::new();
    let id = d.open(0, 1000);
    for n in 0..HELD_PER_CONNECTION_MAX as u32 {
        assert_eq!(d.ack(0, 1002 + n), None);
    }
    assert_eq!(d.ack(0, 9000), Some(Verdict::Drop));
    let full = HELD_TOTAL_MAX / HELD_PER_CONNECTION_MAX;
    for c in 1..full as u16 {
        d.open(c, 1000);
        for n in 0..HELD_PER_CONNECTION_MAX as u32 {
            assert_eq!(d.ack(c, 1002 + n), None);
        }
    }
    assert_eq!(d.judge.held(), HELD_TOTAL_MAX);
    // A birth with no room waits for the kernel's repeat.
    d.syn(500, 5, &OPTIONS);
    assert_eq!(d.syn_ack(500, 5), Some(Verdict::Drop));
    let late = d.birth().id;
    assert!(d.commit_birth(late).is_empty());
    assert_eq!(d.syn_ack(500, 5), Some(Verdict::Accept));
    assert_eq!(d.commit(id, 1 << 20, false).len(), HELD_PER_CONNECTION_MAX);
    assert_eq!(d.judge.held(), HELD_TOTAL_MAX - HELD_PER_CONNECTION_MAX);
}

#[test]
fn a_thaw_drops_what_waits_and_the_kernel_s_repeats_go_on() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    let held = d.out_packet(1, ACK, SERVER_ISN + 1, 1011, 0, &[]);
    d.syn(2, 77, &OPTIONS);
    let syn_ack = d.out_packet(2, SYN | ACK, SERVER_ISN, 78, 0, &OPTIONS);
    let birth = d.birth().id;
    d.judge.thawed();
    let mut v = d.verdicts();
    v.sort_by_key(|v| v.0.0);
    assert_eq!(v, [(held, Verdict::Drop), (syn_ack, Verdict::Drop)]);
    assert_eq!(d.judge.held(), 0);
    assert_eq!(d.commit(id, 10, false), []);
    assert_eq!(d.ack(1, 1011), Some(Verdict::Accept));
    // One repeat waits, not two; and the birth isn't told again.
    assert_eq!(d.syn_ack(2, 77), None);
    assert_eq!(d.syn_ack(2, 77), Some(Verdict::Drop));
    assert_eq!(d.judge.next_event(), None);
    assert_eq!(d.commit_birth(birth).len(), 1);
}

#[test]
fn a_tuple_used_again_is_another_connection() {
    let mut d = Desk::new();
    let old = d.open(1, 1000);
    d.commit(old, 500, true);
    d.judge.closed(d.now, old);
    d.syn(1, 9_000_000, &OPTIONS);
    let held = d.out(1, SYN | ACK, 42, 9_000_001, 0, &OPTIONS);
    assert_eq!(held, None);
    let new = d.birth().id;
    assert_ne!(old, new);
    assert_eq!(d.commit_birth(new).len(), 1);
    d.judge.accepted(new);
    // What was committed of the old one counts nothing here.
    assert_eq!(d.ack(1, 9_000_002), None);
    assert_eq!(d.commit(old, 10_000, true), []);
    d.judge.permit_rst(old);
    assert_eq!(d.out(1, RST, 43, 0, 0, &[]), Some(Verdict::Drop));
    assert_eq!(d.commit(new, 1, false), [Verdict::Accept]);
    assert_eq!(d.judge.next_event(), None, "the engine had closed the old one");
}

#[test]
fn a_birth_that_the_kernel_gave_up_is_superseded() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    let first = d.out_packet(1, SYN | ACK, SERVER_ISN, 78, 0, &OPTIONS);
    let old = d.birth().id;
    // The same SYN again, and the kernel knows nothing of the first.
    d.syn(1, 77, &OPTIONS);
    assert_eq!(d.out(1, SYN | ACK, 4711, 78, 0, &OPTIONS), None);
    assert!(!d.waiting.contains(&first), "dropped with its birth");
    assert_eq!(d.judge.next_event(), Some(Event::Gone { id: old, why: Gone::Superseded }));
    let new = d.birth();
    assert_eq!(new.server.isn, Seq(4711));
    assert!(d.commit_birth(old).is_empty());
    assert_eq!(d.commit_birth(new.id).len(), 1);
}

#[test]
fn a_birth_that_nobody_accepts_expires() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    d.syn_ack(1, 77);
    let gone = d.birth().id;
    let kept = d.open(2, 1000);
    d.pass(BIRTH_LIFE);
    assert_eq!(d.judge.next_event(), Some(Event::Gone { id: gone, why: Gone::Expired }));
    assert_eq!(d.judge.next_event(), None);
    assert_eq!(d.verdicts().len(), 1);
    assert_eq!(d.ack(2, 1001), Some(Verdict::Accept));
    assert_eq!(d.commit(kept, 1, false), []);
}

#[test]
fn a_flood_of_births_makes_room_for_new_ones() {
    let mut d = Desk::new();
    let born = |d: &mut Desk, n: usize| {
        let client = SocketAddr::new([10, (n >> 16) as u8, (n >> 8) as u8, n as u8].into(), 4000);
        let syn = Segment {
            source: client,
            destination: local(),
            seq: Seq(1),
            ack: Seq(0),
            flags: Flags(SYN),
            window: 1,
            payload_bytes: 0,
            options: &[],
        };
        let bytes = build::tcp(&syn);
        d.judge.ingress(d.now, &bytes, bytes.len() as u32);
        let answer =
            Segment { source: local(), destination: client, ack: Seq(2), flags: Flags(SYN | ACK), ..syn };
        d.out_raw(&build::tcp(&answer));
        let mut told = Vec::new();
        while let Some(e) = d.judge.next_event() {
            if let Event::Birth(b) = e {
                d.judge.birth_committed(d.now, b.id);
            }
            told.push(e);
        }
        d.verdicts();
        told
    };
    for n in 0..CONNECTIONS_MAX {
        assert_eq!(born(&mut d, n).len(), 1);
    }
    assert_eq!(born(&mut d, CONNECTIONS_MAX), [], "all are young");
    assert_eq!(d.judge.counters().over_limit_dropped, 1);
    d.now = d.now.after(BIRTH_LIFE_MIN);
    let told = born(&mut d, CONNECTIONS_MAX + 1);
    assert!(matches!(told[..], [Event::Gone { why: Gone::Expired, .. }, Event::Birth(_)]), "{told:?}");
}

#[test]
fn an_accept_before_the_commit_frees_nothing() {
    let mut d = Desk::new();
    d.syn(1, 77, &OPTIONS);
    d.syn_ack(1, 77);
    let id = d.birth().id;
    d.judge.accepted(id);
    d.judge.committed_input(id, 5, false);
    assert_eq!(d.ack(1, 83), Some(Verdict::Drop));
    assert_eq!(d.commit_birth(id).iter().map(|v| v.1).collect::<Vec<_>>(), [Verdict::Drop]);
    assert_eq!(d.ack(1, 83), Some(Verdict::Accept));
}

#[test]
fn a_restored_connection_goes_on_where_it_was() {
    let mut d = Desk::new();
    let r = Restored {
        tuple: Tuple::new(local(), peer(1)),
        isn_client: Seq(1000),
        isn_server: Seq(SERVER_ISN),
        sack: true,
        input_bytes: 50,
        fin: false,
        fin_permitted: false,
        confirmed: true,
    };
    let id = d.judge.restore(d.now, &r).unwrap();
    assert_eq!(d.judge.restore(d.now, &r), Err(RestoreError::Known));
    assert_eq!(d.ack(1, 1051), Some(Verdict::Accept));
    assert_eq!(d.ack(1, 1052), None);
    assert_eq!(d.commit(id, 50, true), [Verdict::Accept]);
    assert_eq!(d.syn_ack(1, 1000), Some(Verdict::Drop));
    // Half-open: its SYN-ACK is sent again.
    let half = Restored { tuple: Tuple::new(local(), peer(2)), input_bytes: 0, confirmed: false, ..r };
    d.judge.restore(d.now, &half).unwrap();
    assert_eq!(d.syn_ack(2, 1000), Some(Verdict::Accept));
}

fn half_open(d: &mut Desk, n: u16, isn: u32) -> BirthId {
    let r = Restored {
        tuple: Tuple::new(local(), peer(n)),
        isn_client: Seq(isn),
        isn_server: Seq(SERVER_ISN),
        sack: true,
        input_bytes: 0,
        fin: false,
        fin_permitted: false,
        confirmed: false,
    };
    d.judge.restore(d.now, &r).unwrap()
}

#[test]
fn a_restored_half_open_connection_asks_for_its_syn_ack_until_its_client_speaks() {
    let mut d = Desk::new();
    let id = half_open(&mut d, 1, 1000);
    for _ in 0..3 {
        assert_eq!(d.syn(1, 1000, &OPTIONS), Verdict::Accept);
        assert_eq!(d.judge.next_event(), Some(Event::SynRepeated { id }));
        assert_eq!(d.syn_ack(1, 1000), Some(Verdict::Accept));
        assert_eq!(d.syn_ack(1, 1000), Some(Verdict::Drop), "a second one at once");
        d.pass(ms(1000));
    }
    assert_eq!(d.syn(1, 2000, &OPTIONS), Verdict::Accept);
    assert_eq!(d.judge.next_event(), None, "another attempt is no repeat");
    assert_eq!(d.ack(1, 1002), None);
    assert_eq!(d.commit(id, 1, false), [Verdict::Accept]);
    d.syn(1, 1000, &OPTIONS);
    assert_eq!(d.judge.next_event(), None);
    assert_eq!(d.syn_ack(1, 1000), Some(Verdict::Drop));
    let mut passes = Vec::new();
    d.judge.take_passes(&mut passes);
    assert!(matches!(passes[..], [Pass::Open { .. }, Pass::Upto { .. }]), "{passes:?}");
}

/// A client that connected and said nothing: its connection was taken for a birth that came to nothing.
#[test]
fn a_restored_half_open_connection_does_not_expire() {
    let mut d = Desk::new();
    let id = half_open(&mut d, 1, 1000);
    d.pass(2 * BIRTH_LIFE);
    d.judge.tick(d.now);
    assert_eq!(d.judge.next_event(), None);
    assert_eq!(d.ack(1, 1001), Some(Verdict::Accept));
    assert_eq!(d.ack(1, 1006), None);
    assert_eq!(d.commit(id, 5, false), [Verdict::Accept]);
}

/// The client's FIN comes after both hosts are done with the connection: nobody will log it, and the client repeated it for
/// minutes.
#[test]
fn a_closed_connection_acknowledges_its_clients_fin() {
    let mut d = Desk::new();
    let id = d.open(1, 1000);
    d.judge.permit_fin(id);
    assert_eq!(d.ack(1, 1002), None);
    assert_eq!(d.ack(1, 1003), None);
    d.judge.closed(d.now, id);
    assert_eq!(d.verdicts().iter().map(|v| v.1).collect::<Vec<_>>(), [Verdict::Accept]);
    assert_eq!(d.judge.held(), 1, "never data");
    assert_eq!(d.ack(1, 1002), Some(Verdict::Accept));
}

#[test]
fn unanswered_syns_are_bounded() {
    let mut d = Desk::new();
    let from = |n: usize| SocketAddr::new([10, 1, (n >> 8) as u8, n as u8].into(), 4000 + (n >> 16) as u16);
    let syn = |d: &mut Desk, n: usize| {
        let bytes = build::tcp(&Segment {
            source: from(n),
            destination: local(),
            seq: Seq(n as u32),
            ack: Seq(0),
            flags: Flags(SYN),
            window: 1,
            payload_bytes: 0,
            options: &[],
        });
        d.judge.ingress(d.now, &bytes, bytes.len() as u32)
    };
    for n in 0..SYNS_MAX {
        assert_eq!(syn(&mut d, n), Verdict::Accept);
    }
    assert_eq!(syn(&mut d, SYNS_MAX), Verdict::Drop, "the kernel's answers to the others may still come");
    assert_eq!(syn(&mut d, 5), Verdict::Accept, "a repeat");
    d.pass(ms(1001));
    for n in SYNS_MAX..2 * SYNS_MAX {
        assert_eq!(syn(&mut d, n), Verdict::Accept);
    }
    assert!(d.judge.syns.by_tuple.len() <= SYNS_MAX);
    for k in 0..3 * SYNS_MAX {
        syn(&mut d, k % 7);
    }
    assert!(d.judge.syns.order.len() <= 2 * SYNS_MAX);
}

#[test]
fn closed_connections_are_bounded() {
    let mut d = Desk::new();
    for n in 0..CLOSED_MAX + 10 {
        let r = Restored {
            tuple: Tuple::new(local(), SocketAddr::new([10, 2, (n >> 8) as u8, n as u8].into(), 4000)),
            isn_client: Seq(0),
            isn_server: Seq(0),
            sack: true,
            input_bytes: 0,
            fin: true,
            fin_permitted: true,
            confirmed: true,
        };
        let id = d.judge.restore(d.now, &r).unwrap();
        d.judge.closed(d.now, id);
    }
    assert_eq!(d.judge.connections.by_tuple.len(), CLOSED_MAX);
}

/// What the world and the engine may do to one of three connections.
#[derive(Clone, Debug)]
enum Step {
    Syn(u32),
    SynAck,
    /// Half-open, from another host.
    Restore(u32),
    /// The client repeats its SYN.
    SynAgain,
    CommitBirth,
    Accepted,
    /// Bytes arrived: the kernel acknowledges them, with or without data of its own.
    Receive(u32, u32),
    ReceiveFin,
    Commit(u64),
    PermitFin,
    Fin,
    PermitRst,
    Rst,
    Closed,
    Thaw,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => prop_oneof![Just(u32::MAX - 3000), any::<u32>()].prop_map(Step::Syn),
        3 => Just(Step::SynAck),
        1 => any::<u32>().prop_map(Step::Restore),
        1 => Just(Step::SynAgain),
        3 => Just(Step::CommitBirth),
        2 => Just(Step::Accepted),
        8 => (0u32..3000, prop_oneof![Just(0u32), 1u32..60_000]).prop_map(|(n, d)| Step::Receive(n, d)),
        1 => Just(Step::ReceiveFin),
        8 => (0u64..3000).prop_map(Step::Commit),
        1 => Just(Step::PermitFin),
        1 => Just(Step::Fin),
        1 => Just(Step::PermitRst),
        1 => Just(Step::Rst),
        1 => Just(Step::Closed),
        1 => Just(Step::Thaw),
        1 => (1u64..100_000).prop_map(Step::Pass),
    ]
}

/// The truth about a connection, in numbers that don't wrap.
#[derive(Default)]
struct Model {
    isn: u32,
    server_isn: u32,
    id: Option<BirthId>,
    birth_committed: bool,
    received: u64,
    fin_received: bool,
    committed: u64,
    fin_committed: bool,
    fin_permitted: bool,
    rst_permitted: bool,
    closed: bool,
    restored: bool,
}

/// A packet that asked to leave.
struct Asked {
    connection: usize,
    server_isn: u32,
    flags: u8,
    /// Positions acknowledged beyond ISN + 1.
    covers: u64,
}

proptest! {
    /// Whatever happens in whatever order: each packet gets at most one verdict, none leaves before what it needs, and
    /// once all is committed nothing waits.
    #[test]
    fn nothing_leaves_too_early(steps in prop::collection::vec((0usize..3, step()), 1..200)) {
        let mut d = Desk::new();
        let mut models: [Model; 3] = Default::default();
        let mut asked: HashMap<PacketId, Asked> = HashMap::new();
        let mut server_isn = 7u32;
        // As the kernel has it.
        let mut passes = Vec::new();
        let (mut slots, mut numbers): (HashMap<Tuple, u32>, HashMap<u32, Seq>) = Default::default();

        for (k, step) in steps {
            let m = &mut models[k];
            let mut early = None;
            let mut send = |d: &mut Desk, m: &Model, flags: u8, covers: u64, payload: u32| {
                let ack = m.isn.wrapping_add(1).wrapping_add(covers as u32);
                let pass = slots.get(&Tuple::new(local(), peer(k as u16))).and_then(|slot| numbers.get(slot));
                if flags == ACK && pass.is_some_and(|upto| !Seq(ack).is_after(*upto)) {
                    if !m.birth_committed || covers > m.committed + u64::from(m.fin_committed || m.closed) {
                        early = Some((k, covers));
                    }
                    return;
                }
                let options: &[u8] = if flags & SYN != 0 { &OPTIONS } else { &[] };
                let packet = d.out_packet(k as u16, flags, m.server_isn, ack, payload, options);
                asked.insert(packet, Asked { connection: k, server_isn: m.server_isn, flags, covers });
            };
            let covers = m.received + u64::from(m.fin_received);
            match step {
                Step::Syn(isn) => {
                    d.syn(k as u16, isn, &OPTIONS);
                    // The kernel has no connection of this address any more.
                    server_isn = server_isn.wrapping_mul(2_654_435_761).wrapping_add(12345);
                    *m = Model { isn, server_isn, ..Model::default() };
                    send(&mut d, m, SYN | ACK, 0, 0);
                }
                Step::SynAck => send(&mut d, m, SYN | ACK, 0, 0),
                Step::Restore(isn) => {
                    let r = Restored {
                        tuple: Tuple::new(local(), peer(k as u16)),
                        isn_client: Seq(isn),
                        isn_server: Seq(!isn),
                        sack: true,
                        input_bytes: 0,
                        fin: false,
                        fin_permitted: false,
                        confirmed: false,
                    };
                    if let Ok(id) = d.judge.restore(d.now, &r) {
                        let (id, birth_committed, restored) = (Some(id), true, true);
                        *m = Model { isn, server_isn: !isn, id, birth_committed, restored, ..Model::default() };
                    }
                }
                Step::SynAgain => {
                    d.syn(k as u16, m.isn, &OPTIONS);
                }
                Step::CommitBirth => {
                    if let Some(id) = m.id {
                        m.birth_committed = true;
                        d.judge.birth_committed(d.now, id);
                    }
                }
                Step::Accepted => {
                    if let Some(id) = m.id {
                        d.judge.accepted(id);
                    }
                }
                Step::Receive(n, payload) => {
                    if !m.fin_received {
                        m.received += u64::from(n);
                    }
                    let covers = m.received + u64::from(m.fin_received);
                    send(&mut d, m, ACK, covers, payload);
                }
                Step::ReceiveFin => {
                    m.fin_received = true;
                    let covers = m.received + 1;
                    send(&mut d, m, ACK, covers, 0);
                }
                Step::Commit(n) => {
                    if let Some(id) = m.id {
                        m.committed = (m.committed + n).min(m.received);
                        m.fin_committed |= m.fin_received && m.committed == m.received;
                        d.judge.committed_input(id, m.committed, m.fin_committed);
                    }
                }
                Step::PermitFin => {
                    if let Some(id) = m.id {
                        m.fin_permitted = true;
                        d.judge.permit_fin(id);
                    }
                }
                Step::Fin => send(&mut d, m, FIN | ACK, covers, 0),
                Step::PermitRst => {
                    if let Some(id) = m.id {
                        m.rst_permitted = true;
                        d.judge.permit_rst(id);
                    }
                }
                Step::Rst => {
                    // A known connection only: a closed port's is another test's.
                    if m.id.is_some() {
                        send(&mut d, m, RST | ACK, covers, 0);
                    }
                }
                Step::Closed => {
                    if let Some(id) = m.id {
                        m.rst_permitted = true;
                        m.closed = true;
                        d.judge.closed(d.now, id);
                    }
                }
                Step::Thaw => d.judge.thawed(),
                Step::Pass(n) => d.pass(ms(n)),
            }
            prop_assert_eq!(early, None, "an acknowledgement passed too early");
            d.judge.take_passes(&mut passes);
            for p in passes.drain(..) {
                match p {
                    Pass::Open { slot, tuple } => {
                        prop_assert_eq!(slots.insert(tuple, slot), None, "a tuple was open already");
                        prop_assert_eq!(numbers.get(&slot), None, "a slot was in use");
                    }
                    Pass::Upto { slot, ack } => {
                        numbers.insert(slot, ack);
                    }
                    Pass::Close { slot, tuple } => {
                        prop_assert_eq!(slots.remove(&tuple), Some(slot));
                        numbers.remove(&slot);
                    }
                }
            }
            while let Some(event) = d.judge.next_event() {
                match event {
                    Event::Birth(b) => {
                        let m = &mut models[k];
                        prop_assert_eq!((b.client.isn.0, b.server.isn.0), (m.isn, m.server_isn));
                        m.id = Some(b.id);
                        m.birth_committed = false;
                    }
                    Event::SynRepeated { id } => prop_assert_eq!((models[k].id, models[k].restored), (Some(id), true)),
                    Event::Gone { id, .. } => {
                        for m in models.iter_mut().filter(|m| m.id == Some(id)) {
                            m.id = None;
                            // The address is a stranger's again.
                            m.rst_permitted = true;
                        }
                    }
                }
            }
            for (packet, verdict) in d.verdicts() {
                let a = asked.remove(&packet).unwrap();
                if verdict == Verdict::Drop {
                    continue;
                }
                let m = &models[a.connection];
                prop_assert_eq!(a.server_isn, m.server_isn, "a packet of an older connection left");
                if a.flags & RST != 0 {
                    prop_assert!(m.rst_permitted);
                    continue;
                }
                prop_assert!(m.birth_committed);
                prop_assert!(a.covers <= m.committed + u64::from(m.fin_committed || m.closed), "an acknowledgement left too early");
                prop_assert!(a.flags & FIN == 0 || m.fin_permitted);
            }
            prop_assert_eq!(d.waiting.len(), d.judge.held());
            prop_assert!(d.judge.held() <= HELD_TOTAL_MAX);
        }

        for m in &mut models {
            if let Some(id) = m.id {
                d.judge.birth_committed(d.now, id);
                d.judge.committed_input(id, m.received, m.fin_received);
            }
        }
        d.verdicts();
        prop_assert_eq!(d.judge.held(), 0);
        prop_assert!(d.waiting.is_empty());
    }
}
