//! Programs that are not run, by what they need and lockstep does not do yet. docs/COMPATIBILITY.md names each and says
//! to users what happens instead; a test compares.

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

/// All of them.
pub fn left_out() -> impl Iterator<Item = &'static str> {
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
