//! `ft-bench faults`: a campaign of faults of all kinds under load, each on a fresh pair.
//!
//! Laws: everything that is drawn follows from the seed; what is claimed is counted by clients that do not know of `ft`
//! and by a listener at the switch; a case that could not be run has failed.

mod case;
mod frames;
mod plan;
mod table;

use crate::Format;
use crate::rig::child::Stop;
use crate::rig::{self, Ft};
pub use case::Ended;
use clap::Args;
use plan::Kind;
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const EVIDENCE: &str = "/var/tmp/ft-bench-faults";

#[derive(Args)]
pub struct FaultsArgs {
    /// How many faults.
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Decides kinds, times and loads (0 to draw one); it is printed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these kinds, comma-separated; a wrong name lists all.
    #[arg(long, value_delimiter = ',', value_name = "KINDS")]
    kinds: Vec<String>,
    /// Run one case of the campaign alone.
    #[arg(long, value_name = "K")]
    only_case: Option<u32>,
    /// Where logs and events of failed cases are kept.
    #[arg(long, value_name = "DIR", default_value = EVIDENCE)]
    evidence: PathBuf,
    /// `json`: one object with every case; the table goes to stderr.
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// The ft to test; else the one beside this program.
    #[arg(long, value_name = "FILE")]
    ft: Option<PathBuf>,
}

/// The whole campaign.
#[derive(Serialize)]
struct Results {
    ok: bool,
    seed: u64,
    seconds: f64,
    cases: Vec<Ended>,
}

/// `ft-bench faults`.
pub fn run(a: &FaultsArgs) -> ExitCode {
    let prepared = || {
        let kinds = plan::kinds(&a.kinds)?;
        let program = crate::ft_program(a.ft.as_deref()).map_err(|e| e.to_string())?;
        let stop = Stop::on_signals().map_err(|e| format!("catching signals: {e}"))?;
        Ok::<_, String>((kinds, Ft { program, stop }))
    };
    let (kinds, ft) = match prepared() {
        Ok(p) => p,
        Err(e) => return crate::usage(&e),
    };
    match a.campaign(&ft, &kinds) {
        Ok(r) => crate::print(a.output, &table::text(&r), &r, r.ok),
        Err(e) => crate::stopped(&e),
    }
}

/// So many cases of all kinds; the first thing of a failed one to be said is how to run it again.
pub fn campaign(ft: &Ft, seed: u64, count: u32) -> io::Result<Vec<Ended>> {
    let all = Campaign { seed, kinds: &plan::KINDS, named: "", evidence: EVIDENCE.as_ref() };
    all.run(ft, 0..count)
}

struct Campaign<'a> {
    seed: u64,
    kinds: &'a [Kind],
    /// What `--kinds` was, if not all.
    named: &'a str,
    evidence: &'a Path,
}

impl FaultsArgs {
    fn campaign(&self, ft: &Ft, kinds: &[Kind]) -> io::Result<Results> {
        crate::check_root()?;
        rig::remove_orphans(ft)?;
        let seed = if self.seed == 0 { fastrand::u64(1..) } else { self.seed };
        let numbers = match self.only_case {
            Some(k) => k..k + 1,
            None => 0..self.count,
        };
        let started = Instant::now();
        let named = self.kinds.join(",");
        let cases = Campaign { seed, kinds, named: &named, evidence: &self.evidence }.run(ft, numbers)?;
        Ok(Results { ok: cases.iter().all(|c| c.ok), seed, seconds: started.elapsed().as_secs_f64(), cases })
    }
}

impl Campaign<'_> {
    fn run(&self, ft: &Ft, numbers: Range<u32>) -> io::Result<Vec<Ended>> {
        let seed = self.seed;
        let started = Instant::now();
        let mut cases = Vec::new();
        for number in numbers {
            let case = plan::case(seed, self.kinds, number);
            let evidence = self.evidence.join(format!("seed{seed}-case{number}-{}", case.kind.name.replace(':', "-")));
            let ended = case::run(ft, &case, &evidence)?;
            let silence = ended.silence_ms.map_or_else(String::new, |ms| format!("  silence {ms:>6.1} ms"));
            let verdict = if ended.ok { "ok" } else { "FAILED" };
            let at = started.elapsed().as_secs_f64();
            let writes = ended.acknowledged;
            eprintln!("{at:5.0} s  case {number:>4}  {:<22} {verdict:<7}{writes:>7} writes{silence}", ended.kind);
            if !ended.ok {
                ended.failures.iter().for_each(|f| eprintln!("         {f}"));
                let only = if self.named.is_empty() { String::new() } else { format!(" --kinds {}", self.named) };
                eprintln!("         again: ft-bench faults --seed {seed}{only} --only-case {number}");
                eprintln!("         logs: {}", evidence.display());
            }
            cases.push(ended);
        }
        Ok(cases)
    }
}
