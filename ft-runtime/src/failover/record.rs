//! What the arbiter keeps for one service: who may send from its address, and who may take over.
//!
//! Laws: the owner is in the set; a version grows by one with each put, so a put that expected an older one can
//! never take effect any more.

use ft_log::ids::Term;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// So many hosts hold the state of one service at most: a primary and its backups.
pub const MEMBERS_MAX: usize = 7;

/// A host of a service; the same number in all configurations and at the arbiter. As text: hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(pub u64);

impl HostId {
    /// Of the host that configurations call so.
    pub fn of_name(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self(u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes")))
    }
}

impl TryFrom<String> for HostId {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        u64::from_str_radix(&s, 16).map(Self).map_err(|_| format!("{s:?} is no host id"))
    }
}

impl From<HostId> for String {
    fn from(h: HostId) -> Self {
        h.to_string()
    }
}

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

/// The hosts that hold everything a client was ever told: 1 to [`MEMBERS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<HostId>", into = "Vec<HostId>")]
pub struct Members {
    /// The first `count` ascend strictly; the others are zero.
    ids: [HostId; MEMBERS_MAX],
    count: u8,
}

/// Why a list of hosts is no set of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    #[error("a set of {0} hosts; 1 to {MEMBERS_MAX} are possible")]
    Count(usize),
    #[error("host {0} is named twice, or after one with a higher id")]
    Order(HostId),
}

impl Members {
    pub const fn only(host: HostId) -> Self {
        let mut ids = [HostId(0); MEMBERS_MAX];
        ids[0] = host;
        Self { ids, count: 1 }
    }

    pub fn both(a: HostId, b: HostId) -> Self {
        assert!(a != b, "two members are two different hosts");
        Self::from_sorted(&[a.min(b), a.max(b)]).expect("two hosts in order")
    }

    /// As every representation has them: by ascending id, each once.
    pub fn from_sorted(hosts: &[HostId]) -> Result<Self, MembersError> {
        if hosts.is_empty() || hosts.len() > MEMBERS_MAX {
            return Err(MembersError::Count(hosts.len()));
        }
        if let Some(pair) = hosts.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(MembersError::Order(pair[1]));
        }
        let mut ids = [HostId(0); MEMBERS_MAX];
        ids[..hosts.len()].copy_from_slice(hosts);
        Ok(Self { ids, count: hosts.len() as u8 })
    }

    pub fn as_slice(&self) -> &[HostId] {
        &self.ids[..usize::from(self.count)]
    }

    pub fn contains(&self, host: HostId) -> bool {
        self.as_slice().contains(&host)
    }

    /// By ascending id.
    pub fn iter(&self) -> impl Iterator<Item = HostId> {
        self.as_slice().iter().copied()
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl TryFrom<Vec<HostId>> for Members {
    type Error = MembersError;

    fn try_from(hosts: Vec<HostId>) -> Result<Self, MembersError> {
        Self::from_sorted(&hosts)
    }
}

impl From<Members> for Vec<HostId> {
    fn from(m: Members) -> Self {
        m.as_slice().to_vec()
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
pub(crate) mod tests {
    use super::*;
    use proptest::collection::btree_set;
    use proptest::prelude::*;
    use proptest::sample::Index;

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

    #[test]
    fn what_is_no_set_is_refused_by_what_is_wrong_with_it() {
        let of = |ids: &[u64]| Members::from_sorted(&ids.iter().copied().map(HostId).collect::<Vec<_>>());
        assert_eq!(of(&[]), Err(MembersError::Count(0)));
        assert_eq!(of(&[1, 2, 3, 4, 5, 6, 7, 8]), Err(MembersError::Count(MEMBERS_MAX + 1)));
        assert_eq!(of(&[1, 3, 3]), Err(MembersError::Order(HostId(3))));
        assert_eq!(of(&[3, 1]), Err(MembersError::Order(HostId(1))));
        assert_eq!(of(&[0]), Ok(Members::only(HostId(0))));
        assert_ne!(of(&[0]), of(&[0, 1]));
    }

    pub fn any_members() -> impl Strategy<Value = Members> {
        btree_set(any::<u64>(), 1..=MEMBERS_MAX).prop_map(|ids| {
            let hosts: Vec<_> = ids.into_iter().map(HostId).collect();
            Members::from_sorted(&hosts).expect("a set in order")
        })
    }

    /// Of all kinds that an arbiter may keep.
    pub fn any_ruling() -> impl Strategy<Value = Ruling> {
        (1..=u64::MAX, any_members(), any::<Index>(), any::<bool>()).prop_map(|(term, in_sync, owner, live)| Ruling {
            term: Term(term),
            owner: *owner.get(in_sync.as_slice()),
            in_sync,
            phase: if live { Phase::Live } else { Phase::Claim },
        })
    }

    proptest! {
        #[test]
        fn members_are_the_hosts_that_were_named(hosts in btree_set(0u64..9, 0..10)) {
            let named: Vec<_> = hosts.iter().copied().map(HostId).collect();
            match Members::from_sorted(&named) {
                Ok(m) => {
                    prop_assert_eq!(m.as_slice(), &named[..]);
                    prop_assert!((0..9).all(|h| m.contains(HostId(h)) == hosts.contains(&h)));
                    let text = serde_json::to_string(&m).unwrap();
                    prop_assert_eq!(serde_json::from_str::<Members>(&text).unwrap(), m);
                }
                Err(e) => prop_assert_eq!(e, MembersError::Count(hosts.len())),
            }
        }

        #[test]
        fn an_owner_is_sound_where_the_set_has_it(ruling in any_ruling(), other in any::<u64>()) {
            prop_assert!(ruling.is_sound());
            let other = HostId(other);
            prop_assert_eq!(Ruling { owner: other, ..ruling }.is_sound(), ruling.in_sync.contains(other));
        }
    }
}
