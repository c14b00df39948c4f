//! What happens in each case: drawn from the seed, so that a case can be run again alone. Pure.

use crate::clients::Load;
use crate::verify;
use fastrand::Rng;
use std::time::Duration;

/// To whom a fault is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Primary,
    Backup,
    Witness,
}

/// Who serves afterwards. In the end the other one protects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backup.
    TakenOver,
    /// The primary; the backup was lost, and is given the state anew.
    Reseeded,
    /// The primary, and the backup follows: nothing has moved.
    Unmoved,
}

/// A kind of fault; docs/OPERATIONS.md says what comes of each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    pub name: &'static str,
    pub victim: Victim,
    /// As `ft rig fault` calls it, or what a person types on that host (`ft ...`); `None`: nothing happens.
    pub fault: Option<&'static str>,
    /// A second one, right after it.
    pub also: Option<(Victim, &'static str)>,
    /// What ends what was done, in this order, while the load goes on. A host that was killed is switched on again.
    pub heal: &'static [(Victim, &'static str)],
    pub outcome: Outcome,
    /// `service.tap`.
    pub tap: bool,
    /// The rig's hosts have disks of their own that can be filled.
    pub small_disks: bool,
}

const fn kind(name: &'static str, victim: Victim, fault: &'static str, outcome: Outcome) -> Kind {
    Kind { name, victim, fault: Some(fault), also: None, heal: &[], outcome, tap: false, small_disks: false }
}

impl Kind {
    const fn healed(self, by: &'static [(Victim, &'static str)]) -> Self {
        Self { heal: by, ..self }
    }

    const fn and(self, victim: Victim, fault: &'static str) -> Self {
        Self { also: Some((victim, fault)), ..self }
    }

    const fn tapped(self) -> Self {
        Self { tap: true, ..self }
    }
}

use Outcome::{Reseeded, TakenOver, Unmoved};
use Victim::{Backup, Primary, Witness};

type Heal = &'static [(Victim, &'static str)];
const REVIVED: Heal = &[(Primary, "revive-host")];
/// Its first process lives on.
const RESTARTED: Heal = &[(Primary, "kill-host"), (Primary, "revive-host")];
const BACKUP_RESTARTED: Heal = &[(Backup, "kill-host"), (Backup, "revive-host")];
const THAWED: Heal = &[(Primary, "thaw-host")];
const RESUMED: Heal = &[(Primary, "resume-engine")];
const SERVICE_HEALED: Heal = &[(Primary, "heal-service")];
const LINK_HEALED: Heal = &[(Primary, "heal-link")];

pub const KINDS: [Kind; 39] = [
    Kind { fault: None, ..kind("none", Primary, "", Unmoved) },
    kind("kill-guest", Primary, "kill-guest", TakenOver),
    kind("kill-engine", Primary, "kill-engine", TakenOver).healed(RESTARTED),
    kind("kill-host", Primary, "kill-host", TakenOver).healed(REVIVED),
    kind("kill-host+wipe", Primary, "kill-host", TakenOver).healed(&[(Primary, "revive-host --wipe")]),
    kind("freeze-host", Primary, "freeze-host", TakenOver).healed(THAWED),
    kind("pause-engine", Primary, "pause-engine", TakenOver).healed(RESUMED),
    kind("tap:kill-guest", Primary, "kill-guest", TakenOver).tapped(),
    kind("tap:kill-engine", Primary, "kill-engine", TakenOver).healed(RESTARTED).tapped(),
    kind("tap:kill-host", Primary, "kill-host", TakenOver).healed(REVIVED).tapped(),
    kind("tap:freeze-host", Primary, "freeze-host", TakenOver).healed(THAWED).tapped(),
    kind("cut-service", Primary, "cut-service", TakenOver).healed(SERVICE_HEALED),
    kind("lose-service", Primary, "lose-service", TakenOver).healed(SERVICE_HEALED),
    kind("cut-link", Primary, "cut-link", Reseeded).healed(LINK_HEALED),
    kind("slow-link", Primary, "slow-link", Unmoved).healed(LINK_HEALED),
    kind("cut-management", Primary, "cut-management", Unmoved).healed(&[(Primary, "heal-management")]),
    kind("flush-gate", Primary, "flush-gate", Unmoved),
    kind("backup:kill-guest", Backup, "kill-guest", Reseeded),
    kind("backup:kill-engine", Backup, "kill-engine", Reseeded).healed(BACKUP_RESTARTED),
    kind("backup:kill-host", Backup, "kill-host", Reseeded).healed(&[(Backup, "revive-host")]),
    kind("backup:kill-host+wipe", Backup, "kill-host", Reseeded).healed(&[(Backup, "revive-host --wipe")]),
    kind("backup:freeze-host", Backup, "freeze-host", Reseeded).healed(&[(Backup, "thaw-host")]),
    kind("backup:pause-engine", Backup, "pause-engine", Reseeded).healed(&[(Backup, "resume-engine")]),
    kind("backup:cut-service", Backup, "cut-service", Unmoved).healed(&[(Backup, "heal-service")]),
    kind("backup:flush-gate", Backup, "flush-gate", Unmoved),
    Kind { small_disks: true, ..kind("backup:fill-disk", Backup, "fill-disk", Reseeded).healed(&[(Backup, "free-disk")]) },
    Kind { small_disks: true, ..kind("fill-disk", Primary, "fill-disk", TakenOver).healed(&[(Primary, "free-disk")]) },
    kind("witness:kill-host", Witness, "kill-host", Unmoved).healed(&[(Witness, "revive-host")]),
    kind("witness:freeze-host", Witness, "freeze-host", Unmoved).healed(&[(Witness, "thaw-host")]),
    kind("witness:cut-management", Witness, "cut-management", Unmoved).healed(&[(Witness, "heal-management")]),
    kind("witness:cut-service", Witness, "cut-service", Unmoved).healed(&[(Witness, "heal-service")]),
    kind("ft-pause", Primary, "ft pause", Reseeded).healed(&[(Primary, "ft resume")]),
    kind("ft-detach", Primary, "ft backup detach", Reseeded).healed(BACKUP_RESTARTED),
    kind("backup:ft-detach", Backup, "ft backup detach", Reseeded).healed(BACKUP_RESTARTED),
    kind("cut-service+cut-link", Primary, "cut-service", TakenOver)
        .and(Primary, "cut-link")
        .healed(&[(Primary, "heal-service"), (Primary, "heal-link")]),
    kind("flush-gate+kill-engine", Primary, "flush-gate", TakenOver).and(Primary, "kill-engine").healed(RESTARTED),
    kind("slow-link+kill-host", Primary, "slow-link", TakenOver).and(Primary, "kill-host").healed(REVIVED),
    kind("slow-link+kill-guest", Primary, "slow-link", TakenOver).and(Primary, "kill-guest").healed(LINK_HEALED),
    kind("backup:cut-service+kill-host", Backup, "cut-service", TakenOver)
        .and(Primary, "kill-host")
        .healed(&[(Backup, "heal-service"), (Primary, "revive-host")]),
];

/// Before the fault, at the earliest: every connection has written by then.
const FAULT_AT_MIN: Duration = Duration::from_millis(600);
const FAULT_AT_MAX: Duration = Duration::from_millis(1600);
/// Of what is healed: longer than any bound that decides about the fault.
const LASTS_MIN: Duration = Duration::from_millis(700);
const LASTS_MAX: Duration = Duration::from_millis(1400);
/// The load goes on so long after the last thing that happens: clients' retransmission timers have run out by then.
const AFTERWARDS: Duration = Duration::from_millis(1500);
/// Bytes that are written per second, at most: what is in the lists is read back in the end.
const BYTES_PER_SECOND_MAX: f64 = 8e6;
const RPUSH_SHARE: f64 = 1.0 - verify::INCR_SHARE;
/// Of writes per second, where the largest rate would be outside of it.
const RATE: std::ops::Range<u32> = 200..4_000;
const PIPELINES_PER_SECOND: u32 = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// From 0, within the campaign.
    pub number: u32,
    pub kind: Kind,
    /// Since the load began.
    pub fault_at: Duration,
    pub heal_at: Option<Duration>,
    pub load: Load,
}

/// The kinds that are named; all if none is. A wrong name is told what there is.
pub fn kinds(only: &[String]) -> Result<Vec<Kind>, String> {
    let find = |name: &String| {
        KINDS.into_iter().find(|k| k.name == name).ok_or_else(|| {
            let all = KINDS.map(|k| k.name).join(", ");
            format!("--kinds: there is no {name}; there are {all}")
        })
    };
    if only.is_empty() { Ok(KINDS.into()) } else { only.iter().map(find).collect() }
}

/// Case `number` of the campaign: it depends on the seed, the kinds and its number, not on how many there are. Kinds come
/// as cards of a deck: each once before any comes again.
pub fn case(seed: u64, kinds: &[Kind], number: u32) -> Case {
    let n = kinds.len() as u32;
    let mut deck: Vec<Kind> = kinds.to_vec();
    rng(seed, u64::from(number / n) << 32).shuffle(&mut deck);
    let kind = deck[(number % n) as usize];
    let mut r = rng(seed, (1 << 63) | u64::from(number));
    let fault_at = between(&mut r, FAULT_AT_MIN, FAULT_AT_MAX);
    let heal_at = (!kind.heal.is_empty()).then(|| fault_at + between(&mut r, LASTS_MIN, LASTS_MAX));
    let end = heal_at.unwrap_or(fault_at) + AFTERWARDS;
    let item_bytes_max = *r.choice([10, 300, 5_000, 50_000, 500_000].iter()).expect("there are some");
    let rate_max = (BYTES_PER_SECOND_MAX / (RPUSH_SHARE * verify::item_bytes_mean(item_bytes_max))) as u32;
    let rate = r.u32(RATE.start / 2..=rate_max.clamp(RATE.start, RATE.end));
    let load = Load {
        seconds: end.as_secs_f64(),
        conns: r.u32(1..=60),
        idle: r.u32(0..=30),
        rate,
        // Pipelines follow each other closely enough to see a pause of some ten milliseconds.
        depth_max: (*r.choice([1, 4, 16, 64].iter()).expect("there are some")).min(rate / PIPELINES_PER_SECOND).max(1),
        item_bytes_max,
        seed: r.u64(..),
    };
    Case { number, kind, fault_at, heal_at, load }
}

/// Seeds that lie close make streams that lie close: spread them.
fn rng(seed: u64, stream: u64) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_add(1).wrapping_mul(0xd134_2543_de82_ef95))
}

fn between(r: &mut Rng, min: Duration, max: Duration) -> Duration {
    Duration::from_micros(r.u64(min.as_micros() as u64..=max.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_follows_from_seed_and_number_alone() {
        let all: Vec<Case> = (0..50).map(|n| case(7, &KINDS, n)).collect();
        assert!(all.iter().all(|c| *c == case(7, &KINDS, c.number)));
        assert_ne!(all[3].load, case(8, &KINDS, 3).load);
        assert_ne!(all[3].load, all[4].load);
    }

    #[test]
    fn each_kind_comes_once_before_any_comes_again() {
        let names = |range: std::ops::Range<u32>| {
            let mut names: Vec<&str> = range.map(|n| case(1, &KINDS, n).kind.name).collect();
            let drawn = names.clone();
            names.sort_unstable();
            (names, drawn)
        };
        let n = KINDS.len() as u32;
        let (mut all, first) = (KINDS.map(|k| k.name).to_vec(), names(0..n));
        all.sort_unstable();
        assert_eq!(first.0, all);
        assert_eq!(names(n..2 * n).0, all);
        assert_ne!(names(n..2 * n).1, first.1, "another order each time");
    }

    #[test]
    fn a_load_outlasts_what_happens_and_can_be_read_back() {
        for n in 0..300 {
            let c = case(n.into(), &KINDS, n);
            let last = c.heal_at.unwrap_or(c.fault_at);
            assert!(c.load.seconds >= (last + AFTERWARDS).as_secs_f64() - 1e-6);
            let bytes = f64::from(c.load.rate) * RPUSH_SHARE * verify::item_bytes_mean(c.load.item_bytes_max);
            assert!(bytes <= BYTES_PER_SECOND_MAX && c.load.depth_max >= 1, "{c:?}");
            assert_eq!(c.heal_at.is_none(), c.kind.heal.is_empty());
        }
    }

    #[test]
    fn an_unknown_kind_is_told_which_there_are() {
        let said = kinds(&["kill-all".into()]).unwrap_err();
        assert!(KINDS.iter().all(|k| said.contains(k.name)), "{said}");
        assert_eq!(kinds(&["none".into()]).unwrap()[0].fault, None);
        assert_eq!(kinds(&[]).unwrap().len(), KINDS.len());
    }
}
