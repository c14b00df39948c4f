//! Regroups a log for a guest that follows it.
//!
//! In the log events stand where they arrived; a guest that follows needs them where they were applied: first the
//! `Applied`, then its events. What another domain of the same service must have done before (a fork child's end, a
//! pipe's bytes) is a [`Need`]: here it is only said, the engine knows when it is met.

use crate::logfile::{Cursors, LogFileError};
use ft_log::codec::DecodeError;
use ft_log::entry::{Applied, DIGEST_FORCED, Entry, Event};
use ft_log::ids::{DomainId, InputPoint, PipeId};
use ft_log::shared::DOMAINS_MAX;
use std::collections::{HashMap, VecDeque};

/// Events of a domain that were logged and never applied: what the windows of all connections allow, many times
/// over.
const PENDING_BYTES_MAX: usize = 1 << 30;

/// Entries of each domain, encoded, in the order of the log.
pub trait Source {
    /// `None`: the log has no more of this domain (now).
    fn next(&mut self, domain: DomainId) -> Result<Option<Vec<u8>>, LogFileError>;
}

impl Source for Cursors {
    fn next(&mut self, domain: DomainId) -> Result<Option<Vec<u8>>, LogFileError> {
        Cursors::next(self, domain)
    }
}

/// Why a log can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error(transparent)]
    Log(#[from] LogFileError),
    #[error("the log holds an entry of domain {domain} that this version can't read: {source}")]
    Decode { domain: DomainId, source: DecodeError },
    #[error("the log says that domain {domain} applied {applied} events where it had {had}")]
    Missing { domain: DomainId, applied: u32, had: usize },
    #[error("the log holds more than {PENDING_BYTES_MAX} bytes of events that domain {domain} never applied")]
    Pending { domain: DomainId },
    #[error("the log holds an entry that is never stored (domain {domain})")]
    Unstorable { domain: DomainId },
    #[error("the log ends before input point {point}, from which the guest is to go on: is the snapshot another recording's?")]
    Short { point: InputPoint },
}

/// What other domains of the service must have done here before a group may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Our child in that slot has ended for the n-th time, and its slot is free.
    ChildGone { child: DomainId, nth: u64 },
    /// Our pipe has had so many bytes, or was closed once more than that many times: then they will not come.
    PipeBytes { pipe: PipeId, upto: u64, closings: u64 },
    /// Our pipe was closed for the n-th time: each child that holds it closes it once.
    PipeClosed { pipe: PipeId, nth: u64 },
}

/// What is given to a domain in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    Entries { frames: Vec<Vec<u8>>, needs: Vec<Need> },
    /// The domain's last.
    Exit { frame: Vec<u8>, status: i32, digest: u64 },
    /// It was killed from outside: there is no such point in its execution.
    ForcedExit { status: i32 },
}

/// Totals of what was grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedStats {
    pub entries: u64,
    pub connections: u64,
    pub input_bytes: u64,
    pub memory_checks: u64,
}

#[derive(Default)]
struct Lane {
    /// Logged, not yet applied.
    pending: VecDeque<Vec<u8>>,
    pending_bytes: usize,
    next: Option<Group>,
    pipe_bytes: HashMap<PipeId, u64>,
    pipe_closings: HashMap<PipeId, u64>,
    child_exits: [u64; DOMAINS_MAX],
}

impl Lane {
    fn log(&mut self, domain: DomainId, event: Vec<u8>) -> Result<(), FeedError> {
        self.pending_bytes += event.len();
        if self.pending_bytes > PENDING_BYTES_MAX {
            return Err(FeedError::Pending { domain });
        }
        self.pending.push_back(event);
        Ok(())
    }

    fn apply(&mut self, domain: DomainId, applied: u32) -> Result<Vec<Vec<u8>>, FeedError> {
        let n = applied as usize;
        if n > self.pending.len() {
            return Err(FeedError::Missing { domain, applied, had: self.pending.len() });
        }
        let events: Vec<_> = self.pending.drain(..n).collect();
        self.pending_bytes -= events.iter().map(Vec::len).sum::<usize>();
        Ok(events)
    }
}

pub struct Feed<S> {
    source: S,
    lanes: [Lane; DOMAINS_MAX],
    pub stats: FeedStats,
}

/// The input point that an entry of a log belongs to, where it has one.
pub fn point_of(e: &Entry) -> Option<InputPoint> {
    match *e {
        Entry::Applied(Applied { point, .. }) | Entry::Passed { point } | Entry::Memory { point, .. } => Some(point),
        _ => None,
    }
}

impl Feed<Cursors> {
    /// For a guest that goes on at the start of this point, at which the service has no fork child: leaves out what was done
    /// before. Events that were logged before and not applied are still to come.
    pub fn skip_to(&mut self, point: InputPoint) -> Result<(), FeedError> {
        const SERVICE: DomainId = DomainId(0);
        let lane = &mut self.lanes[usize::from(SERVICE.0)];
        while let Some(frame) = self.source.next(SERVICE)? {
            let entry = Entry::decode(&frame).map_err(|source| FeedError::Decode { domain: SERVICE, source })?;
            if point_of(&entry).is_some_and(|p| p >= point) {
                self.source.unread(SERVICE, frame);
                self.source.skip_others_to(SERVICE);
                return Ok(());
            }
            match entry {
                Entry::Event(_) => {
                    lane.log(SERVICE, frame)?;
                }
                Entry::Applied(a) => {
                    lane.apply(SERVICE, a.events)?;
                }
                Entry::Exit { .. } => break,
                _ => {}
            }
        }
        Err(FeedError::Short { point })
    }
}

impl<S: Source> Feed<S> {
    pub fn new(source: S) -> Self {
        Self { source, lanes: Default::default(), stats: FeedStats::default() }
    }

    /// The next group of a domain; `None`: the log has no whole one (now).
    pub fn peek(&mut self, domain: DomainId) -> Result<Option<&Group>, FeedError> {
        let k = usize::from(domain.0);
        if self.lanes[k].next.is_none() {
            self.lanes[k].next = self.group(domain)?;
        }
        Ok(self.lanes[k].next.as_ref())
    }

    pub fn take(&mut self, domain: DomainId) -> Option<Group> {
        self.lanes[usize::from(domain.0)].next.take()
    }

    /// Takes the events that were logged for a domain and not applied before the log ended.
    pub fn take_pending(&mut self, domain: DomainId) -> Vec<Vec<u8>> {
        let lane = &mut self.lanes[usize::from(domain.0)];
        lane.pending_bytes = 0;
        lane.pending.drain(..).collect()
    }

    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Events that were logged for a domain and not applied before the log ended.
    pub fn pending(&self, domain: DomainId) -> usize {
        self.lanes[usize::from(domain.0)].pending.len()
    }

    fn group(&mut self, domain: DomainId) -> Result<Option<Group>, FeedError> {
        let lane = &mut self.lanes[usize::from(domain.0)];
        while let Some(frame) = self.source.next(domain)? {
            self.stats.entries += 1;
            let entry = Entry::decode(&frame).map_err(|source| FeedError::Decode { domain, source })?;
            match entry {
                Entry::Event(e) => {
                    match e {
                        Event::Data { bytes, .. } => self.stats.input_bytes += bytes.len() as u64,
                        Event::Accept { .. } => self.stats.connections += 1,
                        _ => {}
                    }
                    lane.log(domain, frame)?;
                }
                Entry::Applied(a) => {
                    let events = lane.apply(domain, a.events)?;
                    let mut needs = Vec::new();
                    for e in &events {
                        let e = Entry::decode(e).map_err(|source| FeedError::Decode { domain, source })?;
                        needs.extend(need(lane, &e));
                    }
                    let frames = std::iter::once(frame).chain(events).collect();
                    return Ok(Some(Group::Entries { frames, needs }));
                }
                Entry::Exit { status, digest } => {
                    // What came too late for this occupant of the slot is not for the next one.
                    *lane = Lane::default();
                    return Ok(Some(if digest == DIGEST_FORCED {
                        Group::ForcedExit { status }
                    } else {
                        Group::Exit { frame, status, digest }
                    }));
                }
                Entry::Memory { .. } => {
                    self.stats.memory_checks += 1;
                    return Ok(Some(Group::Entries { frames: vec![frame], needs: Vec::new() }));
                }
                Entry::Passed { .. } | Entry::Recorded { .. } => {
                    return Ok(Some(Group::Entries { frames: vec![frame], needs: Vec::new() }));
                }
                Entry::GoLive { .. } => return Err(FeedError::Unstorable { domain }),
            }
        }
        Ok(None)
    }
}

fn need(lane: &mut Lane, e: &Entry) -> Option<Need> {
    match *e {
        Entry::Event(Event::ChildExit { child, .. }) => {
            let nth = lane.child_exits.get_mut(usize::from(child.0))?;
            *nth += 1;
            Some(Need::ChildGone { child, nth: *nth })
        }
        Entry::Event(Event::PipeData { pipe, bytes }) => {
            let upto = lane.pipe_bytes.entry(pipe).or_default();
            *upto += bytes.len() as u64;
            let closings = lane.pipe_closings.get(&pipe).copied().unwrap_or(0);
            Some(Need::PipeBytes { pipe, upto: *upto, closings })
        }
        Entry::Event(Event::PipeClosed { pipe }) => {
            let nth = lane.pipe_closings.entry(pipe).or_default();
            *nth += 1;
            Some(Need::PipeClosed { pipe, nth: *nth })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::codec::Writer;
    use ft_log::entry::{Applied, ClockSample, HEADER_BYTES_MAX};
    use ft_log::ids::{ConnId, InputPoint};
    use proptest::prelude::*;

    pub(crate) fn encode(e: &Entry) -> Vec<u8> {
        let mut head = [0; HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut head);
        let payload = e.encode(&mut w);
        let n = w.len();
        [&head[..n], payload].concat()
    }

    struct Listed(HashMap<DomainId, VecDeque<Vec<u8>>>);

    impl Source for Listed {
        fn next(&mut self, domain: DomainId) -> Result<Option<Vec<u8>>, LogFileError> {
            Ok(self.0.get_mut(&domain).and_then(VecDeque::pop_front))
        }
    }

    fn listed(entries: &[(u16, Entry)]) -> Feed<Listed> {
        let mut by_domain: HashMap<DomainId, VecDeque<Vec<u8>>> = HashMap::new();
        for (d, e) in entries {
            by_domain.entry(DomainId(*d)).or_default().push_back(encode(e));
        }
        Feed::new(Listed(by_domain))
    }

    fn applied(point: u64, events: u32) -> Entry<'static> {
        let clock = ClockSample::default();
        Entry::Applied(Applied { point: InputPoint(point), events, clock, digest: 5, signals: 0 })
    }

    fn data(conn: u32, bytes: &[u8]) -> Entry<'_> {
        Entry::Event(Event::Data { conn: ConnId(conn), bytes })
    }

    #[test]
    fn events_follow_the_point_that_applied_them() {
        let mut f = listed(&[(0, data(1, b"a")), (0, data(2, b"b")), (0, applied(3, 1)), (0, data(1, b"c")), (0, applied(4, 2)), (0, data(9, b"late"))]);
        let d = DomainId(0);
        let entries = |es: &[Entry]| Group::Entries { frames: es.iter().map(encode).collect(), needs: vec![] };
        f.peek(d).unwrap();
        assert_eq!(f.take(d), Some(entries(&[applied(3, 1), data(1, b"a")])));
        f.peek(d).unwrap();
        assert_eq!(f.take(d), Some(entries(&[applied(4, 2), data(2, b"b"), data(1, b"c")])));
        assert_eq!(f.peek(d).unwrap(), None);
        assert_eq!(f.pending(d), 1);
        assert_eq!(f.stats, FeedStats { entries: 6, connections: 0, input_bytes: 7, memory_checks: 0 });
    }

    #[test]
    fn more_applied_than_logged_is_refused() {
        let mut f = listed(&[(0, data(1, b"a")), (0, applied(3, 2))]);
        assert!(matches!(f.peek(DomainId(0)), Err(FeedError::Missing { applied: 2, had: 1, .. })));
    }

    #[test]
    fn what_a_child_did_is_needed_first() {
        let pipe = PipeId(4);
        let child_exit = |n| Entry::Event(Event::ChildExit { child: DomainId(1), status: n });
        let mut f = listed(&[
            (0, Entry::Event(Event::PipeData { pipe, bytes: b"abc" })),
            (0, applied(1, 1)),
            (0, Entry::Event(Event::PipeData { pipe, bytes: b"de" })),
            (0, Entry::Event(Event::PipeClosed { pipe })),
            (0, child_exit(0)),
            (0, applied(2, 3)),
            (0, child_exit(0)),
            (0, applied(3, 1)),
            (0, Entry::Event(Event::PipeData { pipe, bytes: b"f" })),
            (0, Entry::Event(Event::PipeClosed { pipe })),
            (0, applied(4, 2)),
        ]);
        let mut needs = Vec::new();
        while f.peek(DomainId(0)).unwrap().is_some() {
            let Some(Group::Entries { needs: n, .. }) = f.take(DomainId(0)) else { panic!() };
            needs.push(n);
        }
        let gone = |nth| Need::ChildGone { child: DomainId(1), nth };
        assert_eq!(
            needs,
            [
                vec![Need::PipeBytes { pipe, upto: 3, closings: 0 }],
                vec![Need::PipeBytes { pipe, upto: 5, closings: 0 }, Need::PipeClosed { pipe, nth: 1 }, gone(1)],
                vec![gone(2)],
                vec![Need::PipeBytes { pipe, upto: 6, closings: 1 }, Need::PipeClosed { pipe, nth: 2 }]
            ]
        );
    }

    #[test]
    fn a_slots_next_occupant_starts_afresh() {
        let exit = |digest| Entry::Exit { status: 0, digest };
        let mut f = listed(&[(1, data(1, b"old")), (1, exit(77)), (1, data(1, b"new")), (1, applied(1, 1)), (1, exit(DIGEST_FORCED))]);
        let d = DomainId(1);
        f.peek(d).unwrap();
        assert!(matches!(f.take(d), Some(Group::Exit { digest: 77, .. })));
        f.peek(d).unwrap();
        assert_eq!(
            f.take(d),
            Some(Group::Entries { frames: vec![encode(&applied(1, 1)), encode(&data(1, b"new"))], needs: vec![] })
        );
        f.peek(d).unwrap();
        assert_eq!(f.take(d), Some(Group::ForcedExit { status: 0 }));
    }

    proptest! {
        /// A primary applies events in order, some at a time; regrouped, the same events come at the same points.
        #[test]
        fn regrouping_keeps_order_and_points(steps in prop::collection::vec((0u8..3, 0u32..6), 0..200)) {
            let mut log = Vec::new();
            let mut want: Vec<(u64, Vec<u32>)> = Vec::new();
            let (mut made, mut used, mut point) = (0u32, 0u32, 0u64);
            for (what, n) in steps {
                match what {
                    0 | 1 => {
                        for _ in 0..n {
                            log.push((0, data(made, b"x")));
                            made += 1;
                        }
                    }
                    _ => {
                        let n = n.min(made - used);
                        point += 1;
                        log.push((0, applied(point, n)));
                        want.push((point, (used..used + n).collect()));
                        used += n;
                    }
                }
            }
            let mut f = listed(&log);
            let mut got = Vec::new();
            while f.peek(DomainId(0)).unwrap().is_some() {
                let Some(Group::Entries { frames, .. }) = f.take(DomainId(0)) else { panic!() };
                let Ok(Entry::Applied(a)) = Entry::decode(&frames[0]) else { panic!() };
                let conns = frames[1..].iter().map(|f| match Entry::decode(f) {
                    Ok(Entry::Event(Event::Data { conn, .. })) => conn.0,
                    other => panic!("{other:?}"),
                });
                got.push((a.point.0, conns.collect::<Vec<_>>()));
            }
            prop_assert_eq!(got, want);
            prop_assert_eq!(f.pending(DomainId(0)) as u32, made - used);
        }
    }
}
