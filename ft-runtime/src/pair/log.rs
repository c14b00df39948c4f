//! The log of a pair: on the primary it goes out over the link, on the backup it comes in.

use super::message::{self, HEAD_BYTES, kind};
use crate::engine::feed::Source;
use crate::engine::log::Log;
use crate::failover::HostId;
use crate::failover::backups::Backups;
use crate::link::Link;
use crate::logfile::{End, LogFileError};
use ft_log::codec::Writer;
use ft_log::entry::{Entry, Event, HEADER_BYTES_MAX};
use ft_log::ids::{ConnId, DomainId, LogIndex};
use ft_log::output_rule::Progress;
use ft_log::shared::DOMAINS_MAX;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

/// Who must have the log before its consequences may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing more leaves than what was let go before.
    Held,
    /// The engine of each backup in sync.
    Backups,
    /// Nobody: this host is the only one in the set, and the arbiter knows.
    Alone,
}

/// Input of a connection that becomes safe with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputMark {
    pub index: LogIndex,
    pub conn: ConnId,
    /// All input up to here, and whether its end is in it.
    pub received: u64,
    pub fin: bool,
}

/// The primary's end of the log.
pub struct Outgoing {
    pub link: Option<Link>,
    peer: HostId,
    /// Who follows this log: entries are sent.
    backups: Backups,
    /// How long it is, and how far of it every backup in sync has.
    progress: Progress,
    rule: Rule,
    had_backup: bool,
    /// What some rule has let go: no later one takes it back.
    released: LogIndex,
    received: HashMap<ConnId, u64>,
    marks: VecDeque<InputMark>,
    /// Bytes of entries, before the link seals them.
    pub bytes: u64,
    /// Appended and when, for the lag in time: oldest unacknowledged first.
    stamps: VecDeque<(LogIndex, Instant)>,
}

impl Outgoing {
    /// A log whose first entry comes after `start`, of which `link` would be with `peer`; nobody follows it, and nothing
    /// leaves yet.
    pub fn new(link: Option<Link>, peer: HostId, start: LogIndex) -> Self {
        let mut progress = Progress::new();
        progress.begin_at(start);
        Self {
            link,
            peer,
            backups: Backups::default(),
            progress,
            rule: Rule::Held,
            had_backup: false,
            released: start,
            received: HashMap::new(),
            marks: VecDeque::new(),
            bytes: 0,
            stamps: VecDeque::new(),
        }
    }

    pub fn set_rule(&mut self, rule: Rule) {
        self.released = self.committed();
        if rule == Rule::Backups {
            self.had_backup = true;
            self.backups.wait_for(self.peer);
            self.commit();
        }
        self.rule = rule;
    }

    fn commit(&mut self) {
        if let Some(upto) = self.backups.committed() {
            assert!(self.progress.commit(upto), "no backup holds what was never appended");
        }
    }

    /// The word of `by` that it holds the log up to `upto`. `false`: it was never given so much. That of a host which is
    /// given nothing any more is about another log.
    #[must_use]
    pub fn acknowledge(&mut self, by: HostId, upto: LogIndex) -> bool {
        if !self.backups.is_given(by) {
            return true;
        }
        if upto > self.progress.appended() {
            return false;
        }
        self.backups.acknowledge(by, upto);
        self.commit();
        true
    }

    pub fn appended(&self) -> LogIndex {
        self.progress.appended()
    }

    /// What all hosts have that follow this log; without any: what those had that output waited for.
    pub fn acknowledged(&self) -> LogIndex {
        self.backups.held_by_all().unwrap_or(self.progress.committed())
    }

    /// The peer follows this log.
    pub fn is_followed(&self) -> bool {
        self.backups.is_given(self.peer)
    }

    /// Whether output has waited for a backup since this was asked last.
    pub fn forget_backup(&mut self) -> bool {
        std::mem::take(&mut self.had_backup)
    }

    /// The peer is given all of it from here on.
    pub fn begin_following(&mut self) {
        self.backups.begin(self.peer);
    }

    /// The peer is given no more of it.
    pub fn end_following(&mut self) {
        self.backups.end(self.peer);
        self.stamps.clear();
    }

    pub fn rule(&self) -> Rule {
        self.rule
    }

    pub fn send(&mut self, kind: u8, head: &[u8], payload: &[u8]) {
        if let Some(l) = &mut self.link {
            l.send(kind, head, payload);
        }
    }

    fn send_entry(&mut self, kind: u8, head: &[u8], payload: &[u8]) {
        if self.is_followed() {
            self.send(kind, head, payload);
        }
    }

    /// Output caused by entries up to here may leave.
    pub fn committed(&self) -> LogIndex {
        match self.rule {
            Rule::Held => self.released,
            Rule::Backups => self.progress.committed().max(self.released),
            Rule::Alone => self.progress.appended(),
        }
    }

    /// One more entry that isn't a domain's.
    pub fn append_birth(&mut self, bytes: &[u8]) -> LogIndex {
        self.send_entry(kind::BIRTH, &[], bytes);
        self.count(bytes.len())
    }

    fn count(&mut self, bytes: usize) -> LogIndex {
        self.bytes += bytes as u64;
        let index = self.progress.append();
        // One stamp in a while is enough to know how old the oldest is.
        const STAMP_EVERY: u64 = 64;
        if self.is_followed() && (self.stamps.is_empty() || index.0.is_multiple_of(STAMP_EVERY)) {
            self.stamps.push_back((index, Instant::now()));
        }
        index
    }

    /// Since when there is the oldest entry that a backup doesn't have.
    pub fn lag_since(&mut self) -> Option<Instant> {
        let acknowledged = self.acknowledged();
        while self.stamps.front().is_some_and(|(i, _)| *i <= acknowledged) {
            self.stamps.pop_front();
        }
        self.stamps.front().map(|(_, at)| *at)
    }

    /// The next input that has become safe.
    pub fn next_safe_input(&mut self) -> Option<InputMark> {
        let committed = self.committed();
        if self.marks.front()?.index > committed { None } else { self.marks.pop_front() }
    }

    /// The input of connections that were restored here.
    pub fn begin_input(&mut self, conn: ConnId, received: u64) {
        self.received.insert(conn, received);
    }

    pub fn forget(&mut self, conn: ConnId) {
        self.received.remove(&conn);
    }

    fn mark(&mut self, index: LogIndex, head: &[u8], payload: &[u8]) {
        // Only what arrives on connections; its head alone decodes, with an empty payload.
        let Ok(Entry::Event(e)) = Entry::decode(head) else { return };
        let (conn, fin) = match e {
            Event::Data { conn, .. } => (conn, false),
            Event::Fin { conn } => (conn, true),
            _ => return,
        };
        let received = self.received.entry(conn).or_default();
        *received += payload.len() as u64;
        let received = *received;
        self.marks.push_back(InputMark { index, conn, received, fin });
    }
}

/// The log as the engine's primary part sees it.
pub struct PairLog(pub Rc<RefCell<Outgoing>>);

impl Log for PairLog {
    fn append(&mut self, domain: DomainId, head: &[u8], payload: &[u8]) -> Result<LogIndex, LogFileError> {
        let mut out = self.0.borrow_mut();
        let mut h = [0; HEAD_BYTES + HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut h);
        message::encode_domain(domain, &mut w);
        let n = w.len();
        if head.len() <= HEADER_BYTES_MAX {
            h[n..n + head.len()].copy_from_slice(head);
            out.send_entry(kind::ENTRY, &h[..n + head.len()], payload);
        } else {
            // An entry that the guest made comes whole as the head.
            debug_assert!(payload.is_empty());
            out.send_entry(kind::ENTRY, &h[..n], head);
        }
        let index = out.count(n + head.len() + payload.len());
        if domain.0 == 0 && head.len() <= HEADER_BYTES_MAX {
            out.mark(index, head, payload);
        }
        Ok(index)
    }

    fn committed(&self) -> LogIndex {
        self.0.borrow().committed()
    }

    fn note(&mut self, text: &str) -> Result<(), LogFileError> {
        tracing::info!("{text}");
        Ok(())
    }

    fn turn(&mut self, _: Instant) -> Result<Option<Instant>, LogFileError> {
        Ok(None)
    }

    fn finish(&mut self, _: End) -> Result<(), LogFileError> {
        Ok(())
    }
}

/// What has come over the link and was not yet given to the guest.
#[derive(Default)]
pub struct Lanes {
    lanes: [VecDeque<Vec<u8>>; DOMAINS_MAX],
}

impl Lanes {
    pub fn push(&mut self, d: DomainId, entry: &[u8]) -> bool {
        let Some(l) = self.lanes.get_mut(usize::from(d.0)) else { return false };
        l.push_back(entry.to_vec());
        true
    }

    /// Entries of all domains.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The log as the engine's backup part sees it.
#[derive(Clone, Default)]
pub struct LinkSource(pub Rc<RefCell<Lanes>>);

impl Source for LinkSource {
    fn next(&mut self, domain: DomainId) -> Result<Option<Vec<u8>>, LogFileError> {
        Ok(self.0.borrow_mut().lanes[usize::from(domain.0)].pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: HostId = HostId(9);

    fn log() -> Outgoing {
        Outgoing::new(None, PEER, LogIndex(0))
    }

    fn append(out: &mut Outgoing, entries: usize) {
        (0..entries).for_each(|_| {
            out.append_birth(b"x");
        });
    }

    #[test]
    fn output_waits_for_the_backup_until_this_host_is_alone() {
        let mut out = log();
        out.begin_following();
        append(&mut out, 5);
        assert!(out.acknowledge(PEER, LogIndex(3)));
        assert_eq!((out.committed(), out.acknowledged()), (LogIndex(0), LogIndex(3)), "held");
        out.set_rule(Rule::Backups);
        assert_eq!(out.committed(), LogIndex(3));
        assert!(!out.acknowledge(PEER, LogIndex(6)), "of another log");
        assert!(out.acknowledge(HostId(1), LogIndex(5)), "of nobody who follows");
        assert_eq!(out.committed(), LogIndex(3));
        // The link is gone: what was let go stays so, and nothing more is.
        out.end_following();
        append(&mut out, 1);
        assert!(out.acknowledge(PEER, LogIndex(6)));
        assert_eq!(out.committed(), LogIndex(3));
        out.set_rule(Rule::Held);
        assert_eq!(out.committed(), LogIndex(3));
        out.set_rule(Rule::Alone);
        assert_eq!(out.committed(), LogIndex(6));
    }

    #[test]
    fn what_was_let_go_alone_is_not_held_by_a_new_backup() {
        let mut out = log();
        out.set_rule(Rule::Alone);
        append(&mut out, 4);
        out.begin_following();
        assert!(out.acknowledge(PEER, LogIndex(2)));
        append(&mut out, 2);
        assert_eq!(out.committed(), LogIndex(6), "nothing waits for one that is being given the state");
        out.set_rule(Rule::Backups);
        append(&mut out, 2);
        assert_eq!(out.committed(), LogIndex(6));
        assert!(out.acknowledge(PEER, LogIndex(7)));
        assert_eq!(out.committed(), LogIndex(7));
    }

    #[test]
    fn without_a_backup_nothing_leaves_by_acknowledgement() {
        let mut out = log();
        out.set_rule(Rule::Backups);
        append(&mut out, 2);
        assert!(out.acknowledge(PEER, LogIndex(2)));
        assert_eq!(out.committed(), LogIndex(0));
    }
}
