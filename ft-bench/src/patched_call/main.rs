//! `ft-patched-call [ROUNDS]`: prints the nanoseconds that a patched call takes beyond a direct one, a line per round. A
//! program of its own, because a program with the engine in it has the shim's hook already.

use ft_patched_call::Site;

fn main() -> std::io::Result<()> {
    let rounds = match std::env::args().nth(1) {
        None => 7,
        Some(n) => n.parse().map_err(|e| std::io::Error::other(format!("{n} is no number of rounds: {e}")))?,
    };
    let site = Site::new()?;
    (0..rounds).for_each(|_: u32| println!("{}", site.added_ns()));
    Ok(())
}
