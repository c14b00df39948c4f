//! The service's program comes by itself: somebody starts it with `LD_PRELOAD=libft_shim.so`, and it asks the engine to be
//! the guest. The engine waits for it here.

use crate::guest::{Adoptee, Refusal, without_shim};
use crate::pair::status::{Reception, Shown, StatusBoard};
use crate::start::{Error, Surroundings, io_error};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// What service managers tell each of their programs, and what differs from start to start or from host to host.
const NOT_THE_SERVICES: [&str; 9] = [
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MANAGERPID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
/// Of `ft` itself.
const OURS: &[u8] = b"FT_";
/// What a program is told of sockets that were opened for it.
const GIVEN_SOCKETS: &str = "LISTEN_FDS";
pub const AWAITS_PROGRAM: Shown = Shown {
    role: "starting",
    state: "waiting for the program: FT_SOCKET=THIS LD_PRELOAD=libft_shim.so COMMAND",
    term: 0,
};

/// A program that waits, as the service's.
pub struct Program {
    pub adoptee: Adoptee,
    pub refusal: Refusal,
    pub surroundings: Surroundings,
}

/// For programs that come to the board's control socket. Before that is opened: the first may be there at once.
pub fn open_reception(board: &StatusBoard) -> Result<Arc<Reception>, Error> {
    board.set(AWAITS_PROGRAM);
    board.open_reception().map_err(io_error("getting ready for the program"))
}

/// Waits until a program comes that can be the guest; others are told why they can't.
pub fn await_program(
    reception: &Reception,
    board: &StatusBoard,
    signals: &OwnedFd,
    memory_every: u64,
) -> Result<Program, Error> {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(reception.bell(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(io_error("waiting for the program")(e.into())),
        }
        if fds[0].revents().is_some_and(|r| !r.is_empty()) {
            return Err(Error::Refused("stopped by a signal before the program was started".into()));
        }
        let Some(stream) = reception.call() else { continue };
        let refusal = Refusal::new(stream.try_clone().map_err(io_error("duplicating a descriptor"))?);
        match take(stream, memory_every) {
            Ok((adoptee, surroundings)) => {
                let (name, pid) = (surroundings.program.display(), adoptee.pid);
                board.event(&format!("{name} has come to be protected, process {pid}"));
                return Ok(Program { adoptee, refusal, surroundings });
            }
            Err(e) => {
                tracing::warn!("a program came that can't be the service's: {e}");
                board.event(&format!("a program was refused: {e}"));
                // Before it is told: the next one may come at once.
                reception.free();
                refusal.say(&e.to_string());
            }
        }
    }
}

fn take(program: UnixStream, memory_every: u64) -> Result<(Adoptee, Surroundings), Error> {
    let adoptee = Adoptee::new(program)?;
    let surroundings = surroundings(&adoptee, memory_every)?;
    Ok((adoptee, surroundings))
}

fn surroundings(a: &Adoptee, memory_every: u64) -> Result<Surroundings, Error> {
    let started = a.started()?;
    if let Some((_, n)) = started.env.iter().find(|(name, _)| name == GIVEN_SOCKETS) {
        return Err(Error::Refused(format!(
            "{}: {GIVEN_SOCKETS} is {}: sockets that a service manager opened can't be taken over; have the server open them \
             itself (no .socket unit)",
            a.program.display(),
            n.display()
        )));
    }
    let (seed, at_random) = Surroundings::chance()?;
    Ok(Surroundings {
        program: a.program.clone(),
        argv: started.argv,
        env: started.env.into_iter().filter_map(kept).collect(),
        cwd: started.cwd,
        umask: started.umask,
        seed,
        at_random,
        memory_every,
        memory_slices: false,
    })
}

/// A variable as the guest has it.
fn kept((name, value): (OsString, OsString)) -> Option<(OsString, OsString)> {
    let is = |n: &&str| name == OsStr::new(n);
    if name.as_bytes().starts_with(OURS) || NOT_THE_SERVICES.iter().any(|n| is(n)) {
        return None;
    }
    if name == "LD_PRELOAD" {
        let value = without_shim(&value)?;
        return Some((name, value));
    }
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_keeps_what_is_its_own() {
        let of = |name: &str, value: &str| kept((name.into(), value.into())).map(|(_, v)| v.into_string().unwrap());
        assert_eq!(of("PATH", "/bin").as_deref(), Some("/bin"));
        assert_eq!(of("LD_PRELOAD", "/usr/lib/libft_shim.so"), None);
        assert_eq!(of("LD_PRELOAD", "libft_shim.so:libjemalloc.so.2").as_deref(), Some("libjemalloc.so.2"));
        for gone in ["FT_SOCKET", "FT_LOG", "INVOCATION_ID", "NOTIFY_SOCKET"] {
            assert_eq!(of(gone, "x"), None);
        }
    }
}
