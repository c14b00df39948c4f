//! The figures that are demanded, and whether they are met. Pure.

use crate::e2e::results::Spread;
use crate::tables::{NONE, short, table};
use serde::Serialize;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    AtMost { bar: f64, goal: Option<f64> },
    AtLeast { bar: f64, goal: Option<f64> },
}

impl Demand {
    pub const fn at_most(bar: f64) -> Self {
        Self::AtMost { bar, goal: None }
    }

    /// Whether the bar is met, and the goal if there is one.
    fn judge(self, value: f64) -> (bool, Option<bool>) {
        match self {
            Self::AtMost { bar, goal } => (value <= bar, goal.map(|g| value <= g)),
            Self::AtLeast { bar, goal } => (value >= bar, goal.map(|g| value >= g)),
        }
    }

    fn shown(self) -> (String, String) {
        let one = |sign: &str, v: f64| format!("{sign} {}", short(v));
        match self {
            Self::AtMost { bar, goal } => (one("<=", bar), goal.map_or_else(|| NONE.into(), |g| one("<=", g))),
            Self::AtLeast { bar, goal } => (one(">=", bar), goal.map_or_else(|| NONE.into(), |g| one(">=", g))),
        }
    }
}

/// One line of the check.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub what: String,
    pub unit: &'static str,
    pub demand: Demand,
    /// What is judged, and the range of the values that it is of. `None`: it was not measured.
    pub measured: Option<f64>,
    pub range: Option<(f64, f64)>,
    pub values: usize,
    pub bar_met: bool,
    pub goal_met: Option<bool>,
    /// What else there is to know.
    pub note: String,
}

impl Line {
    fn new(what: impl Into<String>, unit: &'static str, demand: Demand, measured: Option<f64>, values: &[f64]) -> Self {
        let (bar_met, goal_met) = measured.map_or((false, None), |v| demand.judge(v));
        let range = Spread::of(values.iter().copied()).map(|s| (s.min, s.max));
        let what = what.into();
        Self { what, unit, demand, measured, range, values: values.len(), bar_met, goal_met, note: String::new() }
    }

    pub fn median(what: impl Into<String>, unit: &'static str, demand: Demand, values: &[f64]) -> Self {
        let median = Spread::of(values.iter().copied()).map(|s| s.median);
        Self::new(what, unit, demand, median, values)
    }

    /// The value that so large a share is below; with few values the largest.
    pub fn quantile(what: impl Into<String>, unit: &'static str, demand: Demand, share: f64, values: &[f64]) -> Self {
        let mut v = values.to_vec();
        v.sort_by(f64::total_cmp);
        let at = v.get((v.len() as f64 * share) as usize).or(v.last()).copied();
        Self::new(what, unit, demand, at, values)
    }

    pub fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// It can't be met by figures of something else.
    pub fn void(mut self, why: &str) -> Self {
        self.bar_met = false;
        self.goal_met = self.goal_met.map(|_| false);
        self.note = format!("{}{}{why}", self.note, if self.note.is_empty() { "" } else { "; " });
        self
    }

    pub fn was_measured(&self) -> bool {
        self.measured.is_some()
    }

    fn verdict(&self) -> &'static str {
        match (self.was_measured(), self.bar_met, self.goal_met) {
            (false, ..) => "not measured",
            (_, false, _) => "FALLS SHORT",
            (_, true, Some(true)) => "goal met",
            (_, true, _) => "bar met",
        }
    }
}

pub fn text(lines: &[Line]) -> String {
    let mut t = table(&["what", "verdict", "measured", "unit", "least", "most", "n", "bar", "goal", "note"], 2);
    for l in lines {
        let (bar, goal) = l.demand.shown();
        let number = |v: Option<f64>| v.map_or_else(|| NONE.into(), short);
        t.add_row([
            l.what.clone(),
            l.verdict().into(),
            number(l.measured),
            l.unit.into(),
            number(l.range.map(|r| r.0)),
            number(l.range.map(|r| r.1)),
            l.values.to_string(),
            bar,
            goal,
            l.note.clone(),
        ]);
    }
    let mut parts = vec![t.to_string()];
    let named = |head: &str, which: &dyn Fn(&&Line) -> bool| {
        let names: Vec<&str> = lines.iter().filter(which).map(|l| l.what.as_str()).collect();
        (!names.is_empty()).then(|| format!("{head}: {}.", names.join("; ")))
    };
    parts.extend(named("Not measured", &|l| !l.was_measured()));
    parts.extend(named("FALLS SHORT", &|l| l.was_measured() && !l.bar_met));
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_from_its_own_side() {
        let most = Demand::AtMost { bar: 0.7, goal: Some(0.4) };
        assert_eq!(Line::median("a", "x", most, &[0.7, 0.9, 0.1]).verdict(), "bar met");
        assert_eq!(Line::median("a", "x", most, &[0.4]).verdict(), "goal met");
        assert_eq!(Line::median("a", "x", most, &[0.71]).verdict(), "FALLS SHORT");
        let least = Demand::AtLeast { bar: 0.5, goal: Some(0.8) };
        assert_eq!(Line::median("a", "x", least, &[0.49]).verdict(), "FALLS SHORT");
        assert_eq!(Line::median("a", "x", least, &[0.5]).verdict(), "bar met");
        assert_eq!(Line::median("a", "x", Demand::at_most(1.0), &[1.0]).verdict(), "bar met");
        let void = Line::median("a", "x", least, &[0.9]).noted("1").void("2");
        assert_eq!((void.verdict(), void.note.as_str(), void.goal_met), ("FALLS SHORT", "1; 2", Some(false)));
    }

    #[test]
    fn what_was_not_measured_meets_nothing() {
        let l = Line::median("a", "x", Demand::at_most(1.0), &[]);
        assert!(!l.bar_met && !l.was_measured());
        assert_eq!(l.verdict(), "not measured");
    }

    #[test]
    fn quantiles_of_few_are_the_largest() {
        let many: Vec<f64> = (0..200).map(f64::from).collect();
        let at = |values: &[f64]| Line::quantile("a", "ms", Demand::at_most(1.0), 0.99, values).measured;
        assert_eq!(at(&many), Some(198.0));
        assert_eq!(at(&[3.0, 9.0, 4.0]), Some(9.0));
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn lines_that_fall_short_are_named() {
        let lines = [
            Line::median("memory", "MiB", Demand::at_most(64.0), &[12.0]),
            Line::median("latency, p50", "us", Demand::at_most(160.0), &[300.0]),
            Line::median("latency, p99", "us", Demand::at_most(600.0), &[]),
        ];
        let text = text(&lines);
        assert!(text.ends_with("Not measured: latency, p99.\n\nFALLS SHORT: latency, p50."), "{text}");
    }
}
