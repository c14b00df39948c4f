//! Where programs that want to be the guest wait for the engine: at the control socket, one at a time.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub struct Reception {
    seat: Mutex<Seat>,
    /// Readable once somebody waits.
    bell: EventFd,
}

enum Seat {
    Free,
    Waits(UnixStream),
    /// The engine has its guest, or is about to.
    Taken,
}

impl Reception {
    pub(super) fn open() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { seat: Mutex::new(Seat::Free), bell })
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it back if there is somebody already.
    pub(super) fn enter(&self, program: UnixStream) -> Result<(), UnixStream> {
        let mut seat = self.seat();
        if !matches!(*seat, Seat::Free) {
            return Err(program);
        }
        *seat = Seat::Waits(program);
        let _ = self.bell.write(1);
        Ok(())
    }

    /// Who waits; nobody else is let in after that, until [`Self::free`].
    pub fn call(&self) -> Option<UnixStream> {
        let mut seat = self.seat();
        match std::mem::replace(&mut *seat, Seat::Taken) {
            Seat::Waits(program) => {
                let _ = self.bell.read();
                Some(program)
            }
            before => {
                *seat = before;
                None
            }
        }
    }

    /// The one that was called is not the guest.
    pub fn free(&self) {
        *self.seat() = Seat::Free;
    }

    /// Readable once somebody waits.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_none_besides_the_guest() {
        let r = Reception::open().unwrap();
        let program = || UnixStream::pair().unwrap().0;
        assert!(r.call().is_none());
        r.enter(program()).unwrap();
        assert!(r.enter(program()).is_err());
        assert!(r.call().is_some() && r.call().is_none());
        assert!(r.enter(program()).is_err(), "there is a guest");
        r.free();
        r.enter(program()).unwrap();
    }
}
