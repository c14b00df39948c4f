//! While a host serves alone, a thread of its own looks for another one that could be its backup.

use super::meeting::{Ends, Meeting, Met, RETRY, wait};
use super::status::StatusBoard;
use crate::link::Link;
use crate::start::Error;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub struct Admission {
    wanted: Option<Sender<()>>,
    met: Receiver<Link>,
    bell: Arc<EventFd>,
    /// Readable: the thread is to end.
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
    looking: bool,
}

fn bell() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

impl Admission {
    /// In the network namespace of the link. Nobody is looked for yet.
    pub fn start(meeting: Meeting, board: StatusBoard) -> io::Result<Self> {
        let (wanted, asked) = channel();
        let (to, met) = channel();
        let (rung, stop) = (Arc::new(bell()?), bell()?);
        let ends = Ends { signals: stop.as_fd().try_clone_to_owned()?, program: None };
        let bell = rung.clone();
        let life = move || look(meeting, &board, &ends, &asked, &to, &rung);
        let thread = thread::Builder::new().name("ft-admission".into()).spawn(life)?;
        Ok(Self { wanted: Some(wanted), met, bell, stop, thread: Some(thread), looking: false })
    }

    /// Somebody is to be looked for, if nobody is yet.
    pub fn want(&mut self) {
        if !std::mem::replace(&mut self.looking, true)
            && let Some(w) = &self.wanted
        {
            // A thread that has gone has said why.
            let _ = w.send(());
        }
    }

    /// Readable when somebody was found.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub fn take(&mut self) -> Option<Link> {
        let link = self.met.try_recv().ok()?;
        self.looking = false;
        Some(link)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.wanted = None;
        let _ = self.stop.write(1);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// The thread's life.
fn look(mut meeting: Meeting, board: &StatusBoard, ends: &Ends, asked: &Receiver<()>, to: &Sender<Link>, bell: &EventFd) {
    meeting.serves();
    let mut said = None;
    while asked.recv().is_ok() {
        loop {
            match meeting.look(ends) {
                Ok(Some(Met { link, .. })) => {
                    board.event(&format!("linked with {}", meeting.peer_name));
                    if to.send(link).is_err() {
                        return;
                    }
                    let _ = bell.write(1);
                    break;
                }
                Ok(None) => {}
                Err(Error::Refused(why)) if said.as_ref() == Some(&why) => {}
                Err(e) => {
                    let why = e.to_string();
                    tracing::warn!("{}: {why}", meeting.peer_name);
                    board.event(&format!("{} can't be a backup: {why}", meeting.peer_name));
                    said = Some(why);
                }
            }
            let waited = match meeting.waits_for() {
                Ok(fd) => wait(&[(fd, PollFlags::POLLIN)], ends, Instant::now() + super::meeting::SLEEP_MAX),
                Err(at) => wait(&[], ends, at.max(Instant::now() + RETRY / 4)),
            };
            if waited.is_err() {
                return;
            }
        }
    }
}
