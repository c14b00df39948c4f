//! Guest programs that go live in the middle of their recording, as they would at a takeover: what they print is the
//! same wherever that happens.
//!
//! What these programs print is a function of their calls alone. So they may be cut anywhere: what was logged is
//! followed, the rest happens anew, at other times.

use ft_tests::guest::{self, Trial};
use ft_tests::redis;
use libtest_mimic::{Arguments, Trial as Test};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ft = Arc::new(OnceLock::new());
    let test = |name: &str, what: fn(&str, &Path) -> Result<(), String>| {
        let (ft, own_name) = (ft.clone(), name.to_owned());
        Test::test(name, move || Ok(what(&own_name, ft.get_or_init(guest::ft).as_ref()?)?))
    };
    // What a client of a network program has of it depends on when its connection broke.
    let programs: Vec<String> = guest::run().into_iter().filter(|n| !n.starts_with("net/")).collect();
    let mut tests: Vec<Test> = programs.iter().map(|n| test(n, |name, ft| Trial::new(name, ft)?.go_live())).collect();
    tests.push(test("redis", |_, ft| redis::go_live(ft)));
    libtest_mimic::run(&arguments, tests).exit_code()
}
