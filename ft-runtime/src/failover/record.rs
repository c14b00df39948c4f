//! What the arbiter keeps for one service: who may send from its address, and who may take over.
//!
//! Laws: the owner is in the set; a version grows by one with each put, so a put that expected an older one can
//! never take effect any more.

use ft_log::ids::Term;
use std::fmt;

/// One of the two hosts of a pair; the same number in both configurations and at the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u64);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// How often the record was put. 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// What a put expects that is to make the record.
    pub const ABSENT: Self = Self(0);

    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(n) => Self(n),
            None => panic!("versions exhausted"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The owner wants to serve and prepares; another host of the set may still win.
    Claim,
    /// The owner sends, or is about to. Only the owner itself changes the record from here.
    Live,
}

/// The hosts that hold everything a client was ever told. One or two, never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    first: HostId,
    /// Greater than `first`.
    second: Option<HostId>,
}

impl Members {
    pub const fn only(host: HostId) -> Self {
        Self { first: host, second: None }
    }

    pub fn both(a: HostId, b: HostId) -> Self {
        assert!(a != b, "a pair has two different hosts");
        Self { first: a.min(b), second: Some(a.max(b)) }
    }

    pub fn contains(&self, host: HostId) -> bool {
        self.first == host || self.second == Some(host)
    }

    pub fn iter(&self) -> impl Iterator<Item = HostId> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

/// What a host asks the arbiter to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub term: Term,
    pub owner: HostId,
    pub in_sync: Members,
    pub phase: Phase,
}

impl Ruling {
    /// `owner` alone holds the state.
    pub fn alone(term: Term, owner: HostId, phase: Phase) -> Self {
        Self { term, owner, in_sync: Members::only(owner), phase }
    }

    pub fn is_sound(&self) -> bool {
        self.term.0 > 0 && self.in_sync.contains(self.owner)
    }
}

/// A ruling as the arbiter keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub version: Version,
    pub ruling: Ruling,
}

/// The rule of every arbiter: a put takes effect if the record is still the one its sender knew.
///
/// `Ok`: the record to keep. `Err`: the put is void; what stands.
pub fn compare_and_put(stands: Option<Record>, expect: Version, ruling: Ruling) -> Result<Record, Option<Record>> {
    let version = stands.map_or(Version::ABSENT, |r| r.version);
    if version == expect && ruling.is_sound() { Ok(Record { version: version.next(), ruling }) } else { Err(stands) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_that_expected_an_older_record_is_void() {
        let (a, b) = (HostId(1), HostId(2));
        let first = compare_and_put(None, Version::ABSENT, Ruling::alone(Term(1), a, Phase::Claim)).unwrap();
        assert_eq!(first.version, Version(1));
        let other = Ruling::alone(Term(2), b, Phase::Claim);
        assert_eq!(compare_and_put(Some(first), Version::ABSENT, other), Err(Some(first)));
        assert_eq!(compare_and_put(Some(first), Version(2), other), Err(Some(first)));
        let second = compare_and_put(Some(first), Version(1), other).unwrap();
        assert_eq!(second, Record { version: Version(2), ruling: other });
    }

    #[test]
    fn an_owner_outside_its_set_is_refused() {
        let ruling =
            Ruling { term: Term(1), owner: HostId(1), in_sync: Members::only(HostId(2)), phase: Phase::Live };
        assert_eq!(compare_and_put(None, Version::ABSENT, ruling), Err(None));
    }

    #[test]
    fn members_do_not_depend_on_the_order_of_naming() {
        assert_eq!(Members::both(HostId(2), HostId(1)), Members::both(HostId(1), HostId(2)));
    }
}
