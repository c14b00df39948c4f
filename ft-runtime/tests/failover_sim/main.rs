//! Thousands of histories of a pair under faults, judged from outside. See `world`.
//!
//! `FT_SIM_SEED=7` replays one history and prints what happened in it; `FT_SIM_SEEDS=100000` runs more of them.

mod checker;
mod host;
mod rng;
mod world;

use checker::Violation;
use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use world::{Summary, Without, World};

const SEEDS: u64 = 2000;
/// Histories in which a missing rule must show.
const MUTANT_SEEDS: u64 = 20_000;
const TRACE_LINES_MAX: usize = 400;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v} is no number")))
}

fn run(seed: u64, without: Option<Without>) -> Result<Summary, Violation> {
    World::new(seed, without, false).run()
}

/// The history again, with its trace.
fn explain(seed: u64, without: Option<Without>, violation: &Violation) -> String {
    let mut world = World::new(seed, without, true);
    let again = world.run();
    assert_eq!(again.as_ref().err(), Some(violation), "a seed makes one history");
    let trace = world.take_trace();
    let skipped = trace.len().saturating_sub(TRACE_LINES_MAX);
    format!(
        "{}\n{skipped} lines before these\nseed {seed}{}: {}\nreplay: FT_SIM_SEED={seed} cargo test -p ft-runtime --test failover_sim seeds -- --nocapture",
        trace[skipped..].join("\n"),
        without.map_or(String::new(), |w| format!(" without {w:?}")),
        violation
    )
}

/// The first failing seed below `seeds`, looked for on all processors.
fn first_failure(seeds: u64, without: Option<Without>, each: impl Fn(Summary) + Sync) -> Option<(u64, Violation)> {
    let next = AtomicU64::new(0);
    let least = AtomicU64::new(u64::MAX);
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    let found: Vec<Option<(u64, Violation)>> = thread::scope(|s| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                s.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds || least.load(Ordering::Relaxed) < seed {
                            return None;
                        }
                        match run(seed, without) {
                            Ok(summary) => each(summary),
                            Err(violation) if without.is_some_and(|w| !w.shows(&violation)) => {}
                            Err(violation) => {
                                least.fetch_min(seed, Ordering::Relaxed);
                                return Some((seed, violation));
                            }
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("a history panicked")).collect()
    });
    found.into_iter().flatten().min_by_key(|(seed, _)| *seed)
}

#[test]
fn seeds() {
    if let Some(seed) = number("FT_SIM_SEED") {
        let mut world = World::new(seed, None, true);
        let outcome = world.run();
        println!("{}\nseed {seed}: {outcome:?}", world.take_trace().join("\n"));
        assert!(outcome.is_ok(), "seed {seed} fails");
        return;
    }
    let seeds = number("FT_SIM_SEEDS").unwrap_or(SEEDS);
    let totals: [AtomicU64; 7] = Default::default();
    let failure = first_failure(seeds, None, |s| {
        let values = [s.answers, s.takeovers, s.cold_starts, s.stale_sends, s.releases, s.steps, s.expected_service.into()];
        for (total, value) in totals.iter().zip(values) {
            total.fetch_add(value, Ordering::Relaxed);
        }
    });
    if let Some((seed, violation)) = failure {
        panic!("{}", explain(seed, None, &violation));
    }
    let [answers, takeovers, cold, stale, releases, steps, expected] = totals.map(|t| t.into_inner());
    println!(
        "{seeds} histories, {steps} steps: {answers} answers, {takeovers} takeovers, {cold} cold starts, {releases} backups let go, {stale} packets of \
         hosts that could not know better, {expected} had to end in service"
    );
    assert!(takeovers > seeds / 4, "the faults must make hosts take over: {takeovers}");
    assert!(releases > seeds / 10, "people must have backups let go: {releases}");
}

#[test]
fn a_missing_rule_shows() {
    let mut unseen = Vec::new();
    for without in Without::ALL {
        match first_failure(MUTANT_SEEDS, Some(without), |_| {}) {
            Some((seed, violation)) => println!("without {without:?}: seed {seed}: {violation}"),
            None => unseen.push(without),
        }
    }
    assert!(unseen.is_empty(), "no history shows the absence of {unseen:?}");
}

#[test]
fn a_seed_makes_one_history() {
    for seed in 0..20 {
        let trace = |mut w: World| {
            let outcome = w.run();
            (outcome.map(|s| s.steps), w.take_trace())
        };
        assert_eq!(trace(World::new(seed, None, true)), trace(World::new(seed, None, true)));
    }
}
