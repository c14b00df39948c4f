//! What the failover machine wants done, done by one host of a pair. Nothing is decided here.

use super::log::{Outgoing, PairLog, Rule};
use super::message::{self, HEAD_BYTES, kind};
use super::status::Milestone;
use super::{Pair, Role, SERVICE, news};
use crate::engine::{Core, Ended, EngineError, Part};
use crate::failover::action::{Failure, Farewell, Lease, Output, Report};
use crate::failover::{self, Action, Message};
use crate::front::Front;
use crate::gate::boot_time::BootTime;
use crate::takeover::tcp_repair::Birth;
use ft_log::codec::Writer;
use ft_log::entry::Event;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

impl Pair {
    pub(super) fn act(&mut self, core: &mut Core, action: Action, now: Instant) -> Result<(), EngineError> {
        match action {
            Action::Send(m) => self.say(&m),
            Action::Output(o) => self.output(o),
            Action::Lease(l) => {
                self.lease = l;
                if let (Lease::Own, true, Some(w)) = (l, self.is_open, &mut self.world) {
                    w.renew(BootTime::now())?;
                }
            }
            Action::DropQueue => {
                if let Some(w) = &mut self.world {
                    w.drop_queue();
                }
            }
            Action::Acks(a) => self.acks = a,
            Action::ReplayToEnd => {
                self.board.mark(Milestone::Claimed, "claimed");
                self.log_is_over = true;
                self.is_replaying = true;
            }
            Action::RestoreSockets => self.restore(now),
            Action::OpenGate(_) => self.open(core, now)?,
            Action::Announce => {
                if let Some(w) = &mut self.world {
                    w.announce();
                    self.board.mark(Milestone::AddressUp, "address up");
                }
            }
            Action::Demote(how) => self.demote(core, how),
            Action::Report(r) => self.report(&r),
            // Whoever has had a guest can't start another: a new process can.
            Action::StartGuest => {
                let why = "this host would start the service from nothing now: start `ft run` again, it will do so";
                self.ended.get_or_insert(Ended::Left(why.into()));
            }
            Action::StartTimer { .. } | Action::CancelTimer(_) | Action::ArbiterRead { .. } | Action::ArbiterPut { .. } => {
                unreachable!("the decider's own")
            }
        }
        Ok(())
    }

    fn say(&mut self, m: &Message) {
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        message::encode_role(self.settings.me, m, &mut w);
        let n = w.len();
        self.out.borrow_mut().send(kind::ROLE, &head[..n], &[]);
    }

    fn output(&mut self, o: Output) {
        let mut out = self.out.borrow_mut();
        match o {
            Output::Held => out.set_rule(Rule::Held),
            Output::WhenPeerHas(_) => out.set_rule(Rule::Backups),
            Output::Alone(_) => {
                if out.forget_backup() {
                    // It would have to be given the state anew.
                    out.end_following();
                    self.peer_has_all = false;
                }
                out.set_rule(Rule::Alone);
            }
        }
    }

    /// The service's sockets as its clients know them, mute. A host that starts the service has none.
    fn restore(&mut self, now: Instant) {
        let mut done = Ok(());
        if let Some(Role::Following(b)) = &mut self.role {
            self.board.mark(Milestone::Replayed, "replayed");
            if let (Some(w), Some(front)) = (&mut self.world, b.front()) {
                let young = &mut self.young;
                let adopt = |front: &mut Front, b: &Birth| {
                    let listener = front.listener_for(b.local)?;
                    let conn = front.adopt_elsewhere(b.client, b.local, now);
                    young.push(Event::Accept { listener, conn, peer: b.client, local: b.local });
                    Some(conn)
                };
                done = w.restore(front, adopt, now);
            }
            if done.is_ok() {
                self.board.mark(Milestone::SocketsRestored, "sockets restored");
            }
        }
        self.decider.tell(match done {
            Ok(()) => failover::Event::SocketsRestored,
            Err(e) => {
                tracing::error!("the sockets could not be restored: {e}");
                failover::Event::RestoreFailed
            }
        });
    }

    fn open(&mut self, core: &mut Core, now: Instant) -> Result<(), EngineError> {
        match self.role.take().expect("a role but while it changes") {
            Role::Leading(p) => {
                if let Some(w) = &mut self.world {
                    w.open_gate()?;
                }
                self.role = Some(Role::Leading(p));
            }
            Role::Following(backup) => {
                let clock = self.clock.map_or(0, |c| c.now_ns(now));
                let mut new = Outgoing::new(self.out.borrow_mut().link.take(), self.settings.peer_id, self.received);
                new.set_rule(self.out.borrow().rule());
                self.out = Rc::new(RefCell::new(new));
                let mut primary = backup.go_live(core, Box::new(PairLog(self.out.clone())), clock)?;
                for (conn, c) in primary.front().elsewhere() {
                    self.out.borrow_mut().begin_input(conn, c.inherited().received);
                }
                if let Some(w) = &mut self.world {
                    w.open_gate()?;
                    let r = w.animate(primary.front(), now)?;
                    self.board.event(&format!(
                        "connections that go on: {} ({} half open, {} lost)",
                        r.connections, r.half_open, r.lost
                    ));
                    for e in std::mem::take(&mut self.young) {
                        primary.unlogged_event(core, SERVICE, &e)?;
                    }
                    if let Some(g) = w.give_back() {
                        self.board.event(&format!(
                            "packets that clients sent meanwhile: {} given to this host ({} refused)",
                            g.packets, g.refused
                        ));
                    }
                }
                primary.break_connections(core)?;
                primary.front().watched = true;
                self.role = Some(Role::Leading(Box::new(primary)));
            }
        }
        self.is_open = true;
        Ok(())
    }

    /// This host has no part in the service any more, and its process ends.
    fn demote(&mut self, core: &mut Core, how: Farewell) {
        match how {
            // Nobody else has the connections: what was said is still delivered, and then they are closed as the
            // kernel closes those of a process that died.
            Farewell::Resets if self.leads() && self.is_open => {
                self.out.borrow_mut().set_rule(Rule::Alone);
                self.lease = Lease::Own;
                self.is_leaving = true;
                core.kill_all();
            }
            Farewell::Resets | Farewell::Silent => {
                // Nothing that the closing sockets say may leave.
                if let Some(w) = &mut self.world {
                    w.fall_silent();
                }
                self.end(core);
            }
        }
    }

    pub(super) fn report(&mut self, r: &Report) {
        let text = news::tell(&self.board, r, &self.settings.peer);
        match r {
            Report::Failed(Failure::Detached) => tracing::info!("{text}"),
            Report::Mute | Report::Unprotected { .. } | Report::ArbiterLost | Report::Failed(_) => tracing::error!("{text}"),
            _ => tracing::info!("{text}"),
        }
        self.reason = text;
    }
}
