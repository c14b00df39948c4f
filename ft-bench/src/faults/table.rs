//! A campaign for people: a line per kind.

use super::Results;
use super::case::Ended;
use super::plan::KINDS;
use crate::tables::{NONE, short, table};

pub fn text(r: &Results) -> String {
    let columns = [
        "fault", "count", "failed", "writes", "detected ms", "takeover ms", "silence p50 ms", "p99", "max",
        "reseed p50 ms", "p99", "max", "lost", "doubled", "reset", "two senders",
    ];
    let mut t = table(&columns, 1);
    let named = KINDS.iter().map(|k| (k.name, r.cases.iter().filter(|c| c.kind == k.name).collect::<Vec<_>>()));
    let all = [("all", r.cases.iter().collect::<Vec<_>>())];
    for (name, cases) in named.chain(all).filter(|(_, c)| !c.is_empty()) {
        let sum = |f: fn(&Ended) -> u64| cases.iter().map(|c| f(c)).sum::<u64>().to_string();
        let at = |share, f: fn(&Ended) -> Option<f64>| quantile(share, cases.iter().filter_map(|c| f(c)));
        t.add_row([
            name.to_owned(),
            cases.len().to_string(),
            sum(|c| u64::from(!c.ok)),
            sum(|c| c.acknowledged),
            at(0.5, |c| c.detected_ms),
            at(0.5, |c| c.takeover_ms),
            at(0.5, |c| c.silence_ms),
            at(0.99, |c| c.silence_ms),
            at(1.0, |c| c.silence_ms),
            at(0.5, |c| c.reseed_ms),
            at(0.99, |c| c.reseed_ms),
            at(1.0, |c| c.reseed_ms),
            sum(|c| c.lost),
            sum(|c| c.doubled),
            sum(|c| c.reset.into()),
            sum(|c| c.two_senders.into()),
        ]);
    }
    let failed = r.cases.iter().filter(|c| !c.ok).count();
    let end = match failed {
        0 => format!("{} cases, seed {}, {:.0} s: nothing was lost.", r.cases.len(), r.seed, r.seconds),
        n => format!("FAILED: {n} of {} cases, seed {}, {:.0} s.", r.cases.len(), r.seed, r.seconds),
    };
    format!("{t}\n\ndetected: from the fault; takeover: from there until the guest leads; both medians, as the survivor noted them. \
             silence: the longest\ntime in which no client was answered. reseed: from the first byte of the service's state for the \
             other host until that is the\nbackup. two senders: cases in which a host sent from the service's address after the other \
             one had begun, at the switch. Every\ncase must end protected.\n\n{end}")
}

fn quantile(share: f64, values: impl Iterator<Item = f64>) -> String {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    let at = v.get((v.len() as f64 * share) as usize).or(v.last());
    at.map_or_else(|| NONE.into(), |ms| short(*ms))
}
