//! Guest programs that go on from snapshots of themselves: each follows its own recording to the same end.

use ft_tests::guest::{self, Trial};
use ft_tests::redis;
use libtest_mimic::{Arguments, Trial as Test};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// They wait for a tenth of a second and more, in which a snapshot can be taken. Others may come to their end before.
const SLOW: [&str; 7] = ["clock_cputime", "file_changes", "ids_left", "time_coarse", "timerfd_epoll", "net/tcp_push_timer", "net/tcp_timeout"];
/// How often a slow one is recorded for the sake of a snapshot: the machine may have been busy.
const RECORDINGS_MAX: u32 = 20;

fn go_on(name: &str, ft: &Path) -> Result<(), String> {
    let times = if SLOW.contains(&name) { RECORDINGS_MAX } else { 1 };
    for _ in 0..times {
        if Trial::new(name, ft)?.go_on_from_snapshots()? > 0 {
            return Ok(());
        }
    }
    if times > 1 { Err(format!("no snapshot was taken in {times} recordings")) } else { Ok(()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ft = Arc::new(OnceLock::new());
    let test = |name: String, what: fn(&str, &Path) -> Result<(), String>| {
        let (ft, own_name) = (ft.clone(), name.clone());
        Test::test(name, move || Ok(what(&own_name, ft.get_or_init(guest::ft).as_ref()?)?))
    };
    let mut tests: Vec<Test> = guest::run().into_iter().map(|name| test(name, go_on)).collect();
    tests.push(test("redis".into(), |_, ft| redis::go_on_from_snapshots(ft)));
    libtest_mimic::run(&arguments, tests).exit_code()
}
