//! Every guest program bare, recorded and replayed. One test per program, named after it.

use ft_tests::guest::{self, Trial};
use libtest_mimic::{Arguments, Failed};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// Programs that are not run, by what they need and lockstep does not do yet. docs/COMPATIBILITY.md names each and
/// says to users what happens instead; a test here compares.
const NEEDS_PREEMPTION: [&str; 4] = ["fork_threaded", "signal_fp_state", "spin_preempt", "thread_exit_process"];
const NEEDS_ONE_DOMAIN_FOR_ALL_PROCESSES: [&str; 9] = [
    "fork_cow",
    "fork_daemon",
    "fork_many",
    "fork_shared_mmap",
    "fork_signal_child",
    "fork_stop_continue",
    "fork_wait",
    "net/tcp_echo_fork",
    "net/tcp_prefork",
];
const NEEDS_EXEC: [&str; 3] = ["exec_self", "fork_exec", "fork_vfork"];
const NEEDS_OUTBOUND_CONNECTIONS: [&str; 1] = ["net/tcp_dial_out"];
const NEEDS_DATAGRAMS: [&str; 1] = ["net/udp_echo"];

fn left_out() -> impl Iterator<Item = &'static str> {
    [
        &NEEDS_PREEMPTION[..],
        &NEEDS_ONE_DOMAIN_FOR_ALL_PROCESSES,
        &NEEDS_EXEC,
        &NEEDS_OUTBOUND_CONNECTIONS,
        &NEEDS_DATAGRAMS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// What is not run exists, and users are told.
fn left_out_is_documented() -> Result<(), Failed> {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/COMPATIBILITY.md");
    let text = std::fs::read_to_string(document).map_err(|e| format!("{document}: {e}"))?;
    let programs = guest::all();
    for name in left_out() {
        if !programs.iter().any(|p| p == name) {
            return Err(format!("{name} is left out but does not exist").into());
        }
        if !text.contains(&format!("`{name}`")) {
            return Err(format!("{name} is left out, and docs/COMPATIBILITY.md does not say so").into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ft = Arc::new(OnceLock::new());
    let run = guest::all().into_iter().filter(|n| left_out().all(|name| name != n));
    let mut trials: Vec<_> = run
        .map(|name| {
            let ft = ft.clone();
            libtest_mimic::Trial::test(name.clone(), move || {
                let ft = ft.get_or_init(guest::ft).as_ref()?;
                Ok(Trial::new(&name, ft)?.run()?)
            })
        })
        .collect();
    trials.push(libtest_mimic::Trial::test("left_out_is_documented", left_out_is_documented));
    libtest_mimic::run(&arguments, trials).exit_code()
}
