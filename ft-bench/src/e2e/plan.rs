//! What is to be measured, and under which names it can be asked for.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    Native,
    Protected,
    Replica,
}

impl System {
    pub const ALL: [Self; 3] = [Self::Native, Self::Protected, Self::Replica];

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Protected => "protected",
            Self::Replica => "replica",
        }
    }
}

/// One load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub name: &'static str,
    pub connections: u32,
    /// Requests per second of an open loop.
    pub rate: Option<u32>,
    pub asks: Asks,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asks {
    /// So many SET of a hundred requests, the others GET.
    Sets(u8),
    /// What the server answers after 1 to so many milliseconds.
    Held(u32),
}

/// As many GET as SET.
pub const MIXED: Asks = Asks::Sets(50);

const POINTS: [Point; 5] = [
    Point { name: "closed-1", connections: 1, rate: None, asks: MIXED },
    Point { name: "closed-50", connections: 50, rate: None, asks: MIXED },
    Point { name: "open-2000", connections: 50, rate: Some(2_000), asks: MIXED },
    Point { name: "open-20000", connections: 50, rate: Some(20_000), asks: MIXED },
    Point { name: "open-80000", connections: 50, rate: Some(80_000), asks: MIXED },
];

const FAULTS: [&str; 3] = ["kill-guest", "kill-engine", "kill-host"];
/// While the primary dies.
pub const FAULT_POINT: Point = Point { name: "open-2000", connections: 50, rate: Some(2_000), asks: MIXED };
/// Of the window, before the fault.
pub const FAULT_AFTER: Duration = Duration::from_secs(1);
/// Long enough for clients' retransmission timers.
pub const FAULT_WINDOW: Duration = Duration::from_secs(4);

#[derive(Debug, PartialEq)]
pub struct Plan {
    pub systems: Vec<System>,
    pub points: Vec<Point>,
    pub faults: Vec<&'static str>,
}

impl Plan {
    /// `only` empty: all. Else its systems, and its loads and faults; a kind that is not named is not limited.
    pub fn new(only: &[String], skip_faults: bool) -> Result<Self, String> {
        let named = |name: &str| only.iter().any(|o| o == name);
        let mut p = Self {
            systems: System::ALL.into_iter().filter(|s| named(s.name())).collect(),
            points: POINTS.into_iter().filter(|p| named(p.name)).collect(),
            faults: FAULTS.into_iter().filter(|f| named(f)).collect(),
        };
        let known = p.systems.len() + p.points.len() + p.faults.len();
        if known < only.len() {
            let systems = System::ALL.map(System::name).join(", ");
            let points = POINTS.map(|p| p.name).join(", ");
            return Err(format!(
                "--only {}: there are the systems {systems}; the loads {points}; the faults {}; each once",
                only.join(","),
                FAULTS.join(", ")
            ));
        }
        if p.systems.is_empty() {
            p.systems = System::ALL.into();
        }
        if p.points.is_empty() && p.faults.is_empty() {
            p.points = POINTS.into();
            if !skip_faults {
                p.faults = FAULTS.into();
            }
        }
        if skip_faults && !p.faults.is_empty() {
            return Err("--skip-faults, and --only names a fault".into());
        }
        if !p.systems.contains(&System::Protected) {
            // Nobody takes over elsewhere.
            p.faults.clear();
        }
        if p.points.is_empty() && p.faults.is_empty() {
            return Err("nothing is left to measure: faults are only for `protected`".into());
        }
        Ok(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(only: &[&str], skip_faults: bool) -> Result<Plan, String> {
        Plan::new(&only.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), skip_faults)
    }

    #[test]
    fn what_is_named_limits_its_kind() {
        let all = plan(&[], false).unwrap();
        assert_eq!((all.systems.len(), all.points.len(), all.faults.len()), (3, 5, 3));
        assert!(plan(&[], true).unwrap().faults.is_empty());
        let native = plan(&["native"], false).unwrap();
        assert_eq!((native.systems, native.points.len(), native.faults.len()), (vec![System::Native], 5, 0));
        let one = plan(&["closed-50", "protected", "native"], false).unwrap();
        assert_eq!((one.systems.len(), one.points.len(), one.faults.len()), (2, 1, 0));
        let fault = plan(&["kill-host"], false).unwrap();
        assert_eq!((fault.points.len(), fault.faults), (0, vec!["kill-host"]));
    }

    #[test]
    fn nonsense_is_told_what_there_is() {
        let said = plan(&["closed-51"], false).unwrap_err();
        assert!(POINTS.iter().all(|p| said.contains(p.name)) && said.contains("kill-engine"), "{said}");
        assert!(plan(&["native", "native"], false).is_err());
        assert!(plan(&["kill-host"], true).is_err());
        assert!(plan(&["kill-host", "native"], false).is_err());
    }
}
