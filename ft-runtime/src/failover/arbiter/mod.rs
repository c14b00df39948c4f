//! The third vote, as the engine's loop sees it: requests go out with a number, answers come back as events.
//!
//! Whatever keeps the record may block, on a disk or a network, so it is asked on a thread of its own; the loop polls
//! one descriptor and one deadline. A request whose answer does not come in time is answered [`Answer::TimedOut`] here,
//! whatever the thread does; the state machine reads again.
//!
//! Laws: an answer is given once; what was not asked for certain is `Unreachable`, all else that went wrong `TimedOut`.

pub mod etcd;
pub mod file;
pub mod stored;
pub mod witness;

use super::book::{Answer, RequestId};
use super::record::{Record, Ruling, Version};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Requests that may wait for the thread. The state machine waits for one at a time; others were given up.
const JOBS_MAX: usize = 8;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Read,
    Put { expect: Version, ruling: Ruling },
}

/// What became of it, where something did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The put took effect, and stands.
    Granted(Record),
    /// What stands is not known to be the put: it is void, or something came after it, or the answer to it was lost.
    Lost(Option<Record>),
    /// The answer to a read.
    Current(Option<Record>),
}

/// Why nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It was not asked, for certain.
    #[error("cannot reach the arbiter: {0}")]
    Unreachable(String),
    /// It may have been asked, and may have done it.
    #[error("no answer from the arbiter: {0}")]
    Unknown(String),
}

/// Something that keeps the record, and may block while it does.
pub trait Keeper: Send {
    fn ask(&mut self, ask: &Ask, deadline: Instant) -> Result<Told, KeeperError>;
}

struct Job {
    request: RequestId,
    ask: Ask,
    deadline: Instant,
}

/// The engine's end.
pub struct Arbiter {
    jobs: SyncSender<Job>,
    answers: Receiver<(RequestId, Answer)>,
    wake: Arc<EventFd>,
    waiting: Vec<(RequestId, Instant)>,
    /// What could not even be handed to the thread.
    refused: Vec<RequestId>,
    timeout: Duration,
}

impl Arbiter {
    /// Starts the thread that asks `keeper`. It ends when this value is dropped and its last request is done with.
    pub fn start(keeper: impl Keeper + 'static, timeout: Duration) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (jobs, inbox) = sync_channel::<Job>(JOBS_MAX);
        let (outbox, answers) = channel();
        let bell = wake.clone();
        thread::Builder::new().name("ft-arbiter".into()).spawn(move || {
            let mut keeper = keeper;
            while let Ok(job) = inbox.recv() {
                if Instant::now() >= job.deadline {
                    // Answered already, by the loop.
                    continue;
                }
                let answer = match keeper.ask(&job.ask, job.deadline) {
                    Ok(Told::Granted(record)) => Answer::Granted(record),
                    Ok(Told::Lost(record)) => Answer::Lost(record),
                    Ok(Told::Current(record)) => Answer::Current(record),
                    Err(e) => {
                        tracing::debug!("request {}: {e}", job.request.0);
                        match e {
                            KeeperError::Unreachable(_) => Answer::Unreachable,
                            KeeperError::Unknown(_) => Answer::TimedOut,
                        }
                    }
                };
                if outbox.send((job.request, answer)).is_err() {
                    return;
                }
                // Full only if nobody has looked for 2^64 - 1 answers.
                let _ = bell.write(1);
            }
        })?;
        Ok(Self { jobs, answers, wake, waiting: Vec::new(), refused: Vec::new(), timeout })
    }

    /// Readable when [`answers`](Self::answers) has some.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub fn ask(&mut self, request: RequestId, ask: Ask, now: Instant) {
        let deadline = now + self.timeout;
        match self.jobs.try_send(Job { request, ask, deadline }) {
            Ok(()) => self.waiting.push((request, deadline)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.refused.push(request);
                let _ = self.wake.write(1);
            }
        }
    }

    /// When the loop must look at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, deadline)| *deadline).min()
    }

    /// All that is to be said by now, each request once.
    pub fn answers(&mut self, now: Instant) -> Vec<(RequestId, Answer)> {
        // WouldBlock: woken by the deadline.
        let _ = self.wake.read();
        let mut out: Vec<_> = self.refused.drain(..).map(|request| (request, Answer::Unreachable)).collect();
        while let Ok((request, answer)) = self.answers.try_recv() {
            if let Some(at) = self.waiting.iter().position(|(r, _)| *r == request) {
                self.waiting.swap_remove(at);
                out.push((request, answer));
            }
        }
        self.waiting.retain(|(request, deadline)| {
            let in_time = now < *deadline;
            if !in_time {
                out.push((*request, Answer::TimedOut));
            }
            in_time
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::HostId;
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::sync::mpsc;

    /// Answers when it is told to.
    struct Slow(mpsc::Receiver<Result<Told, KeeperError>>);

    impl Keeper for Slow {
        fn ask(&mut self, _: &Ask, _: Instant) -> Result<Told, KeeperError> {
            self.0.recv().unwrap_or(Err(KeeperError::Unreachable("gone".into())))
        }
    }

    fn wait(arbiter: &Arbiter) {
        let mut fds = [PollFd::new(arbiter.fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1));
    }

    #[test]
    fn an_answer_that_comes_late_is_not_given_twice() {
        // Longer than the thread can take to begin: a request that is late by the clock is not asked at all. The loop
        // is told that it is late.
        const TIMEOUT: Duration = Duration::from_secs(600);
        let (tell, told) = mpsc::channel();
        let mut arbiter = Arbiter::start(Slow(told), TIMEOUT).unwrap();
        let start = Instant::now();
        arbiter.ask(RequestId(1), Ask::Read, start);
        assert_eq!(arbiter.next_deadline(), Some(start + TIMEOUT));
        assert!(arbiter.answers(start).is_empty());
        let late = start + TIMEOUT;
        assert_eq!(arbiter.answers(late), [(RequestId(1), Answer::TimedOut)]);
        tell.send(Ok(Told::Current(None))).unwrap();
        wait(&arbiter);
        assert!(arbiter.answers(late).is_empty());

        let now = Instant::now();
        arbiter.ask(RequestId(2), Ask::Read, now);
        tell.send(Ok(Told::Current(None))).unwrap();
        wait(&arbiter);
        assert_eq!(arbiter.answers(now), [(RequestId(2), Answer::Current(None))]);
        assert_eq!(arbiter.next_deadline(), None);
    }

    #[test]
    fn a_keeper_that_hangs_is_not_given_more_than_it_can_hold() {
        let (_tell, told) = mpsc::channel();
        let mut arbiter = Arbiter::start(Slow(told), Duration::from_secs(60)).unwrap();
        let now = Instant::now();
        let ruling = Ruling::alone(ft_log::ids::Term(1), HostId(1), super::super::record::Phase::Claim);
        let ask = Ask::Put { expect: Version::ABSENT, ruling };
        for k in 0..20 {
            arbiter.ask(RequestId(k), ask, now);
        }
        let refused = arbiter.answers(now);
        assert!((11..=12).contains(&refused.len()), "{refused:?}");
        assert!(refused.iter().all(|(_, a)| *a == Answer::Unreachable));
    }
}
