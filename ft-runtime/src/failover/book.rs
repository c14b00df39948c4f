//! A host's dealings with the arbiter: one request at a time, and what is known of the record.
//!
//! Law: an answer only ever tells what the record *is*. Whether a put took effect is seen by its content, so a put
//! that timed out is treated like any other: read the record again, put again.

use super::action::{Action, Report};
use super::record::{Record, Ruling, Version};

/// Numbers the requests of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The put took effect; the record as it is now.
    Granted(Record),
    /// The record as it is. The put is void, or something came after it, or the answer to it was lost.
    Lost(Option<Record>),
    /// The answer to a read.
    Current(Option<Record>),
    /// Nothing came back. A put may have taken effect, or may still.
    TimedOut,
    /// The arbiter could not be asked.
    Unreachable,
}

/// What an answer told. Only [`Book::hear`] makes it.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    record: Option<Record>,
    settled: bool,
}

impl Heard {
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// No put that this host sent before can take effect any more.
    pub fn is_settled(&self) -> bool {
        self.settled
    }
}

#[derive(Debug)]
pub enum News {
    Heard(Heard),
    Silence,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Waiting {
    #[default]
    Nothing,
    Read(RequestId),
    Put(RequestId),
}

/// How the arbiter stands to this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Nothing is known: taken for good.
    #[default]
    Unknown,
    /// It has not answered once.
    Awaited,
    /// The last request was answered, and with nothing older than what is known.
    Answers,
    /// It did answer.
    Lost,
}

#[derive(Debug, Default)]
pub struct Book {
    last: RequestId,
    waiting: Waiting,
    /// The newest record heard of.
    known: Option<Record>,
    /// The highest version that a put of ours expected: later records show that none of them is on its way.
    expected: Option<Version>,
    standing: Standing,
}

impl Book {
    pub fn known(&self) -> Option<&Record> {
        self.known.as_ref()
    }

    pub fn is_reachable(&self) -> bool {
        matches!(self.standing, Standing::Unknown | Standing::Answers)
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting != Waiting::Nothing
    }

    /// Asks for the record. The answer to any request before is not waited for any longer.
    pub fn read(&mut self, out: &mut Vec<Action>) {
        self.last = RequestId(self.last.0 + 1);
        self.waiting = Waiting::Read(self.last);
        out.push(Action::ArbiterRead { request: self.last });
    }

    /// Asks to replace the record of version `expect`. The answer to any request before is not waited for any longer.
    pub fn put(&mut self, expect: Version, ruling: Ruling, out: &mut Vec<Action>) {
        assert!(ruling.is_sound(), "a ruling that no arbiter may keep: {ruling:?}");
        self.last = RequestId(self.last.0 + 1);
        self.waiting = Waiting::Put(self.last);
        self.expected = self.expected.max(Some(expect));
        out.push(Action::ArbiterPut { request: self.last, expect, ruling });
    }

    /// `None`: the answer to a request that is not waited for any longer.
    pub fn hear(&mut self, request: RequestId, answer: Answer, out: &mut Vec<Action>) -> Option<News> {
        match self.waiting {
            Waiting::Read(id) | Waiting::Put(id) if id == request => self.waiting = Waiting::Nothing,
            _ => return None,
        }
        let record = match answer {
            Answer::Granted(record) => Some(record),
            Answer::Lost(record) | Answer::Current(record) => record,
            Answer::TimedOut | Answer::Unreachable => return Some(self.silent(out)),
        };
        let version = record.map_or(Version::ABSENT, |r| r.version);
        if self.known.is_some_and(|k| k.version > version) {
            // Nothing but a lost disk makes an arbiter forget. What it says now can't be trusted with anything.
            return Some(self.lost(Standing::Lost, Report::ArbiterForgot, out));
        }
        if !self.is_reachable() {
            out.push(Action::Report(Report::ArbiterBack));
        }
        self.standing = Standing::Answers;
        self.known = record;
        let settled = self.expected.is_none_or(|e| version > e);
        Some(News::Heard(Heard { record, settled }))
    }

    fn silent(&mut self, out: &mut Vec<Action>) -> News {
        match self.standing {
            Standing::Unknown => self.lost(Standing::Awaited, Report::ArbiterAwaited, out),
            _ => self.lost(Standing::Lost, Report::ArbiterLost, out),
        }
    }

    /// Told once, at the first request that shows it.
    fn lost(&mut self, to: Standing, report: Report, out: &mut Vec<Action>) -> News {
        if self.is_reachable() {
            self.standing = to;
            out.push(Action::Report(report));
        }
        News::Silence
    }
}
