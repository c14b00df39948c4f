//! Every guest program bare, recorded and replayed. One test per program, named after it.

use ft_tests::guest::{self, Trial};
use ft_tests::left_out::left_out;
use libtest_mimic::{Arguments, Failed};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

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
    let mut trials: Vec<_> = guest::run()
        .into_iter()
        .map(|name| {
            let ft = ft.clone();
            libtest_mimic::Trial::test(name.clone(), move || {
                let ft = ft.get_or_init(guest::ft).as_ref()?;
                Ok(Trial::new(&name, ft)?.run()?)
            })
        })
        .collect();
    trials.push(libtest_mimic::Trial::test("left_out_is_documented", left_out_is_documented));
    for (program, calls, sites) in guest::REPEATING {
        let ft = ft.clone();
        trials.push(libtest_mimic::Trial::test(format!("{program}_without_traps"), move || {
            Ok(guest::comes_without_traps(ft.get_or_init(guest::ft).as_ref()?, program, calls, sites)?)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
