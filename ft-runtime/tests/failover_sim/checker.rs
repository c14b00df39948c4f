//! What must hold, judged from outside: by what left hosts, what clients were told, and what the arbiter keeps. Nothing
//! here asks a host what it thinks it may do.

use super::world::{Entry, HOSTS};
use ft_runtime::failover::record::{Phase, Record};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Something happened that must never.
    Safety(String),
    /// Something did not happen that had to.
    Liveness(String),
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Safety(what) => write!(f, "{what}"),
            Self::Liveness(what) => write!(f, "(liveness) {what}"),
        }
    }
}

/// What a host truly has, whatever it believes.
pub struct Truth<'a> {
    pub log: &'a [Entry],
    pub lineage: u64,
    /// Has the state of a running service.
    pub holds_state: bool,
}

#[derive(Default)]
pub struct Checker {
    /// What clients were told in the present life of the service: request -> its position and entry.
    told: BTreeMap<u64, (usize, Entry)>,
    lineage: u64,
    /// The longest log of the present life that each host ever held.
    held: [usize; HOSTS],
    /// When each host opened its gate last, counted over both. Nobody sends after the other one has.
    opened: [u64; HOSTS],
    sequence: u64,
    pub stale_sends: u64,
    pub answers: u64,
    pub takeovers: u64,
    pub cold_starts: u64,
    /// Backups that were let go by a person's word.
    pub releases: u64,
}

impl Checker {
    /// A host's log grew, or was replaced.
    pub fn on_log(&mut self, host: usize, truth: &Truth) {
        if truth.lineage == self.lineage {
            self.held[host] = self.held[host].max(truth.log.len());
        }
    }

    /// A put took effect. `cold`: its sender has no state and says so.
    pub fn on_put(
        &mut self,
        before: Option<Record>,
        after: Record,
        cold: bool,
        truths: &[Truth; HOSTS],
        index: impl Fn(u64) -> usize,
    ) -> Result<(), Violation> {
        let owner = index(after.ruling.owner.0);
        let granted = match before {
            None => true,
            Some(b) => b.ruling.owner != after.ruling.owner || b.ruling.phase != after.ruling.phase,
        };
        if !granted {
            return Ok(());
        }
        if let Some(b) = before {
            if after.ruling.term < b.ruling.term {
                return Err(Violation::Safety(format!("the term went back: {b:?} -> {after:?}")));
            }
            if b.ruling.phase == Phase::Live
                && b.ruling.owner != after.ruling.owner
                && !b.ruling.in_sync.contains(after.ruling.owner)
            {
                return Err(Violation::Safety(format!(
                    "host {owner} was granted and is not in the set: {b:?} -> {after:?}"
                )));
            }
        }
        if cold {
            let other = 1 - owner;
            let counted = before.is_some_and(|b| b.ruling.in_sync.iter().any(|m| index(m.0) == other));
            if counted && truths[other].holds_state {
                return Err(Violation::Safety(format!(
                    "host {owner} starts cold while host {other} holds everything"
                )));
            }
            return Ok(());
        }
        // A host that lost its state while its put was under way gains nothing by it: it can't go live.
        if truths[owner].holds_state { self.complete(owner, &truths[owner], "was granted") } else { Ok(()) }
    }

    fn complete(&self, host: usize, truth: &Truth, what: &str) -> Result<(), Violation> {
        if truth.lineage != self.lineage {
            return Err(Violation::Safety(format!("host {host} {what} with the state of another life")));
        }
        for (request, (at, entry)) in &self.told {
            if truth.log.get(*at) != Some(entry) {
                return Err(Violation::Safety(format!(
                    "host {host} {what} without what a client was told: request {request} at {at}: {:?}, not {entry:?}",
                    truth.log.get(*at)
                )));
            }
        }
        Ok(())
    }

    pub fn on_open(&mut self, host: usize, cold: bool, truth: &Truth) -> Result<(), Violation> {
        self.sequence += 1;
        self.opened[host] = self.sequence;
        if cold {
            self.told.clear();
            self.lineage = truth.lineage;
            self.held = [0; HOSTS];
            self.cold_starts += 1;
            return Ok(());
        }
        self.takeovers += 1;
        self.complete(host, truth, "went live")
    }

    /// Something leaves `host` from the service's address: an answer that depends on the log up to `upto`, or an
    /// announcement (`None`). `blind`: the host was frozen, its clock stood still, and by that clock its lease still runs;
    /// nothing on the host can know better.
    pub fn on_send(
        &mut self,
        host: usize,
        upto: Option<usize>,
        blind: bool,
        record: Option<Record>,
        truths: &[Truth; HOSTS],
        host_id: u64,
    ) -> Result<(), Violation> {
        let other = 1 - host;
        if self.opened[other] > self.opened[host] {
            // What the other one holds too, or what is of a life that ended with all that was known of it.
            let harmless = upto.is_none_or(|n| self.held[other] >= n || truths[host].lineage != self.lineage);
            if blind && harmless {
                self.stale_sends += 1;
                return Ok(());
            }
            return Err(Violation::Safety(format!("host {host} sends although host {other} has taken over")));
        }
        let Some(upto) = upto else { return Ok(()) };
        let committed = truths[host].lineage == self.lineage && self.held[other] >= upto;
        let alone = record.is_some_and(|r| {
            r.ruling.phase == Phase::Live
                && r.ruling.owner.0 == host_id
                && r.ruling.in_sync.iter().all(|m| m.0 == host_id)
        });
        if !committed && !alone {
            return Err(Violation::Safety(format!(
                "host {host} sends what depends on entry {upto}, host {other} held {} at most, and the record is {record:?}",
                self.held[other]
            )));
        }
        Ok(())
    }

    /// A client takes an answer.
    pub fn on_answer(&mut self, request: u64, at: usize, entry: &Entry, lineage: u64) -> Result<(), Violation> {
        if lineage != self.lineage {
            // From the life before a cold start; late on the network.
            return Ok(());
        }
        self.answers += 1;
        match self.told.get(&request) {
            Some(before) if before != &(at, entry.clone()) => Err(Violation::Safety(format!(
                "request {request} was answered {before:?} before and {at} {entry:?} now"
            ))),
            _ => {
                self.told.insert(request, (at, entry.clone()));
                Ok(())
            }
        }
    }
}
