//! A run that measures figures and holds them against what is demanded: what it needs, and what it says at the end.

use crate::e2e::results::Machine;
use crate::lines::{self, Line};
use crate::rig::Ft;
use crate::rig::child::Stop;
use crate::{Format, ft_program, print, stopped, usage};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Serialize)]
pub struct Figures {
    ok: bool,
    seconds: f64,
    machine: Machine,
    lines: Vec<Line>,
    failures: Vec<String>,
}

impl Figures {
    /// `check`: all bars must be met.
    pub fn new(check: bool, elapsed: Duration, lines: Vec<Line>, failures: Vec<String>) -> Self {
        let ok = failures.is_empty() && (!check || lines.iter().all(|l| l.bar_met));
        Self { ok, seconds: elapsed.as_secs_f64(), machine: Machine::here(), lines, failures }
    }

    /// `notes`: what the figures are of.
    fn text(&self, notes: &str) -> String {
        let m = &self.machine;
        let mut parts = vec![lines::text(&self.lines), notes.to_owned()];
        parts.push(format!("{:.0} s. Machine: {} processors, {}, Linux {}.", self.seconds, m.processors, m.model, m.kernel));
        parts.extend(self.failures.iter().map(|f| format!("FAILED: {f}")));
        parts.join("\n\n")
    }
}

/// Measures with that `ft`, or the one beside this program, and prints.
pub fn run(ft: Option<&Path>, output: Format, notes: &str, measure: impl FnOnce(&Ft) -> io::Result<Figures>) -> ExitCode {
    let prepared = || {
        let program = ft_program(ft).map_err(|e| e.to_string())?;
        let stop = Stop::on_signals().map_err(|e| format!("catching signals: {e}"))?;
        Ok::<_, String>(Ft { program, stop })
    };
    let ft = match prepared() {
        Ok(ft) => ft,
        Err(e) => return usage(&e),
    };
    match measure(&ft) {
        Ok(f) => print(output, &f.text(notes), &f, f.ok),
        Err(e) => stopped(&e),
    }
}
