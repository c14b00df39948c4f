//! The flight recorder: rings that are bounded and replay, replays that stop at a point, and a debugger there.

use ft_tests::{flight, guest, incident};
use libtest_mimic::{Arguments, Trial as Test};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

type What = fn(&Path) -> Result<(), String>;

const TESTS: [(&str, What); 11] = [
    ("a_ring_is_bounded_and_replays", flight::a_ring_is_bounded_and_replays),
    ("a_ring_is_bounded_by_its_size", flight::a_ring_is_bounded_by_its_size),
    ("a_killed_recorder_leaves_a_ring", flight::a_killed_recorder_leaves_a_ring),
    ("rings_that_are_none_are_refused", flight::rings_that_are_none_are_refused),
    ("a_replay_stops_exactly_there", incident::a_replay_stops_exactly_there),
    ("a_point_that_is_not_there_is_refused", incident::a_point_that_is_not_there_is_refused),
    ("gdb_shows_the_guest_and_goes_on", incident::gdb_shows_the_guest_and_goes_on),
    ("gdb_shows_a_crash", incident::gdb_shows_a_crash),
    ("gdb_stops_where_the_recording_ends", incident::gdb_stops_where_the_recording_ends),
    ("gdb_on_a_guest_from_a_snapshot", incident::gdb_on_a_guest_from_a_snapshot),
    ("without_gdb_nothing_starts", incident::without_gdb_nothing_starts),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ft = Arc::new(OnceLock::new());
    let test = |(name, what): (&str, What)| {
        let ft = ft.clone();
        Test::test(name, move || Ok(what(ft.get_or_init(guest::ft).as_ref()?)?))
    };
    libtest_mimic::run(&arguments, TESTS.into_iter().map(test).collect()).exit_code()
}
