//! A host that has nothing yet and waits for its part: to start the service, to follow it from its start on, or to be
//! given its state.

use super::decider::Decider;
use super::join::{Joined, Receiving};
use super::meeting::{self, Ends, Meeting, Met, SLEEP_MAX, refuse, wait};
use super::message::{self, HEAD_BYTES, Heartbeat, kind};
use super::run::timing;
use super::start_message::StartMessage;
use super::status::{SeedProgress, Shown, StatusBoard};
use super::{SILENCES_MAX, news};
use crate::config::Config;
use crate::failover::event::LinkEnd;
use crate::failover::{Action, Event, HostId, Kind};
use crate::guest::{Adoptee, Guest};
use crate::link::Link;
use crate::start::Error;
use ft_log::codec::Writer;
use nix::poll::PollFlags;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What a host turns out to be.
pub enum Part {
    /// It starts the service, with the peer if there is a link.
    Starts(Option<Link>),
    /// It follows the peer's guest from its first instruction on.
    Follows(Link, StartMessage),
    /// It goes on from where the peer's guest was.
    Joins(Link, Box<(Guest, Joined)>),
}

/// A host that has nothing yet and waits for its part.
pub struct Candidate<'a> {
    config: &'a Config,
    me: HostId,
    peer: HostId,
    adoptee: Option<Adoptee>,
    ends: &'a Ends,
    board: &'a StatusBoard,
    decider: &'a mut Decider,
    meeting: &'a mut Meeting,
    /// The peer is there; whether it can be spoken to is to be found out.
    met: Option<Met>,
    link: Option<Link>,
    /// The peer has other files than this host.
    apart: bool,
    /// The peer serves, and gives this host its state.
    receiving: Option<Receiving>,
    /// When the peer was heard last, and when it is told next that this host is there.
    heard_at: Instant,
    heartbeat_at: Instant,
    heartbeats: u64,
    /// What the primary says of its guard.
    guard: Option<Vec<u8>>,
    reason: String,
}

impl<'a> Candidate<'a> {
    /// `adoptee`: the program that waits with us.
    pub fn new(
        config: &'a Config,
        adoptee: Option<Adoptee>,
        ends: &'a Ends,
        board: &'a StatusBoard,
        decider: &'a mut Decider,
        meeting: &'a mut Meeting,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            me: HostId::of_name(&config.host.name),
            peer: HostId::of_name(&config.peer.name),
            adoptee,
            ends,
            board,
            decider,
            meeting,
            met: None,
            link: None,
            apart: false,
            receiving: None,
            heard_at: now,
            heartbeat_at: now,
            heartbeats: 0,
            guard: None,
            reason: String::new(),
        }
    }

    /// With the program, where that has not become the guest.
    pub fn wait_for_part(mut self) -> Result<(Part, Option<Adoptee>), Error> {
        loop {
            if self.link.is_none()
                && self.met.is_none()
                && let Some(met) = self.meeting.look(self.ends)?
            {
                self.board.event(&format!("linked with {}", self.config.peer.name));
                self.met = Some(met);
            }
            self.take_up()?;
            if let Some(start) = self.hear()? {
                let link = self.link.take().expect("it came over the link");
                return Ok((Part::Follows(link, start), self.adoptee));
            }
            if self.decide()? {
                // The other one comes back for what it lacks.
                let link = self.link.filter(|_| !self.apart);
                return Ok((Part::Starts(link), self.adoptee));
            }
            self.keep_company();
            if let Some(part) = self.look_at_guest() {
                return Ok((part, None));
            }
            let mut until = Instant::now() + SLEEP_MAX;
            until = self.decider.deadline().map_or(until, |at| until.min(at));
            let mut fds = Vec::new();
            if let Some(l) = &self.link {
                fds.push((l.fd(), meeting::flags(l)));
                if self.decider.kind() == Kind::Joining {
                    until = until.min(self.heartbeat_at);
                }
            } else if self.met.is_none() {
                match self.meeting.waits_for() {
                    Ok(fd) => fds.push((fd, PollFlags::POLLIN)),
                    Err(look_again) => until = until.min(look_again),
                }
            }
            fds.extend(self.decider.fd().map(|fd| (fd, PollFlags::POLLIN)));
            fds.extend(self.receiving.as_ref().map(|r| (r.fd(), PollFlags::POLLIN)));
            wait(&fds, self.ends, until)?;
        }
    }

    /// Hosts with different files can't start together; one alone can, whose files the arbiter knows to be the service's, and
    /// the other one is given them.
    fn take_up(&mut self) -> Result<(), Error> {
        let Some(met) = &mut self.met else { return Ok(()) };
        if let Some(text) = &met.apart {
            match self.decider.has_record() {
                None => return Ok(()),
                Some(true) => {}
                Some(false) => {
                    refuse(&mut met.link, text)?;
                    return Err(Error::Refused(text.clone()));
                }
            }
        }
        if let Some(Met { link, apart }) = self.met.take() {
            self.apart = apart.is_some();
            self.link = Some(link);
            self.heard_at = Instant::now();
            self.decider.tell(Event::LinkUp);
        }
        Ok(())
    }

    /// What the peer says. `Some`: its guest starts, and ours with it.
    fn hear(&mut self) -> Result<Option<StartMessage>, Error> {
        let Some(mut link) = self.link.take() else { return Ok(None) };
        let mut start = None;
        let mut wrong = None;
        let mut given_up = None;
        let heard = link.on_ready().and_then(|()| {
            link.recv(&mut |k, body| {
                self.heard_at = Instant::now();
                match k {
                    kind::ROLE => match message::decode_role(body, self.peer) {
                        Ok(m) => self.decider.tell(Event::Peer(m)),
                        Err(e) => wrong = Some(format!("the other host said of its role: {e}")),
                    },
                    kind::HEARTBEAT => {}
                    kind::START => match serde_json::from_slice(body) {
                        Ok(s) => start = Some(s),
                        Err(e) => wrong = Some(format!("the primary's start message can't be read: {e}")),
                    },
                    kind::BYE => {
                        let text = String::from_utf8_lossy(body);
                        match self.decider.kind() {
                            Kind::Joining => given_up = Some(format!("it says goodbye: {text}")),
                            _ => wrong = Some(format!("the other host refuses: {text}")),
                        }
                    }
                    kind::SEED => {
                        self.board.event("the service's state comes");
                        let dirs = &self.config.service.state_dirs;
                        match Receiving::begin(body, dirs, self.adoptee.take()) {
                            Ok(r) => self.receiving = Some(r),
                            Err(e) => given_up = Some(e.to_string()),
                        }
                    }
                    kind::GUARD => self.guard = Some(body.to_vec()),
                    _ => match &mut self.receiving {
                        Some(r) => given_up = r.take(k, body).err(),
                        None => wrong = Some(format!("the other host sent message {k} before its guest was started")),
                    },
                }
                match start.is_none() && wrong.is_none() && given_up.is_none() {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })
        });
        self.link = Some(link);
        if let Some(text) = wrong {
            return Err(Error::Refused(text));
        }
        if let Some(why) = given_up {
            self.lose_link(&why);
        } else if start.is_none()
            && let Err(e) = heard
        {
            self.lose_link(&e.to_string());
        }
        Ok(start)
    }

    fn lose_link(&mut self, why: &str) {
        if self.link.take().is_none() {
            return;
        }
        tracing::warn!("{}: {why}", self.config.peer.name);
        if self.receiving.take().is_some() {
            self.board.set_seed(None);
            self.board.event(&format!("the service's state did not come: {why}"));
        }
        self.decider.tell(Event::LinkDown(LinkEnd::Closed));
    }

    /// A host that joins is heard by the primary, and hears it, as a backup would.
    fn keep_company(&mut self) {
        let now = Instant::now();
        let timing = timing(self.config.limits.silence_ms_max);
        if self.decider.kind() != Kind::Joining || now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = now + Duration::from_millis(timing.heartbeat_ms);
        let quiet = now.saturating_duration_since(self.heard_at);
        if quiet > Duration::from_millis(timing.silence_ms) * SILENCES_MAX {
            return self.lose_link(&format!("silent for {} ms", quiet.as_millis()));
        }
        let Some(link) = &mut self.link else { return };
        self.heartbeats += 1;
        let h = Heartbeat { seq: self.heartbeats, echo: 0, would_serve: false };
        send(link, kind::HEARTBEAT, |w| h.encode(self.me, w));
        if let Some(r) = &mut self.receiving {
            let (bytes, total, elapsed) = r.progress(now);
            self.board.set_seed(Some(SeedProgress::new(bytes, total, elapsed)));
        }
        self.flush();
    }

    fn flush(&mut self) {
        if let Some(Err(e)) = self.link.as_mut().map(Link::flush) {
            self.lose_link(&e.to_string());
        }
    }

    /// What becomes of the state that comes.
    fn look_at_guest(&mut self) -> Option<Part> {
        let made = self.receiving.as_mut()?.look()?;
        let receiving = self.receiving.take()?;
        self.board.set_seed(None);
        match made.and_then(|(guest, engine)| Ok((guest, receiving.finish(engine)?))) {
            Ok((guest, mut joined)) => {
                joined.kept.extend(self.guard.take().map(|f| (kind::GUARD, f)));
                Some(Part::Joins(self.link.take()?, Box::new((guest, joined))))
            }
            Err(e) => {
                let why = format!("the service's state can't be used: {e}");
                self.board.event(&why);
                if let Some(link) = &mut self.link {
                    link.send(kind::BYE, &[], why.as_bytes());
                }
                self.flush();
                self.lose_link(&why);
                None
            }
        }
    }

    /// True: this host starts the service.
    fn decide(&mut self) -> Result<bool, Error> {
        let mut starts = false;
        if let Some(order) = self.board.take_order() {
            self.decider.tell(Event::Operator(order.command()));
        }
        self.decider.on_answer();
        while let Some(actions) = self.decider.next() {
            for action in actions {
                match self.decider.act(action) {
                    Some(Action::StartGuest) => starts = true,
                    Some(Action::Send(m)) => {
                        if let Some(link) = &mut self.link {
                            send(link, kind::ROLE, |w| message::encode_role(self.me, &m, w));
                        }
                    }
                    Some(Action::Report(r)) => {
                        self.reason = news::tell(self.board, &r, &self.config.peer.name);
                        tracing::info!("{}", self.reason);
                    }
                    // Without a guest and a gate there is nothing to hold, to drop or to take down.
                    _ => {}
                }
            }
            if self.decider.kind() == Kind::Failed {
                return Err(Error::Refused(std::mem::take(&mut self.reason)));
            }
        }
        if self.decider.kind() != Kind::Joining && self.receiving.take().is_some() {
            self.lose_link("nobody serves any more who could give this host its state");
        }
        self.board.set(Shown::of(self.decider.kind(), self.decider.is_paused(), self.decider.term().0));
        if let Some(link) = &mut self.link
            && let Some(bytes) = self.receiving.as_mut().and_then(Receiving::taken)
        {
            send(link, kind::TAKEN, |w| w.uint(bytes));
        }
        self.flush();
        Ok(starts)
    }
}

fn send(link: &mut Link, kind: u8, encode: impl FnOnce(&mut Writer)) {
    let mut head = [0; HEAD_BYTES];
    let mut w = Writer::new(&mut head);
    encode(&mut w);
    let n = w.len();
    link.send(kind, &head[..n], &[]);
}
