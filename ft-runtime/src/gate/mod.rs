//! The gate: holds the kernel to the output rule.
//!
//! The service's sockets live in a network namespace of their own ([`namespace`]). Every packet that wants to leave it
//! is queued ([`queue`], [`rules`]) and leaves when what it says is committed ([`judge`]); what is known to be committed
//! before it is said need not be queued ([`pass`]). At the interface the kernel itself drops everything once this host's
//! lease is over ([`lease`]).
//!
//! Laws: a dead engine is silent; an engine that stood still longer than its lease drops what waited before it decides
//! anything; nobody but the engine decides what was acknowledged.
//!
//! One thread owns a [`Gate`]: watch [`Gate::fd`] (level-triggered), call [`Gate::on_readable`], take the events, tell
//! the judge what is committed, and end each turn with [`Gate::flush`].

pub mod asm;
pub mod boot_time;
pub(crate) mod bpf;
pub mod error;
mod firewall;
pub mod judge;
pub mod lease;
pub mod namespace;
pub mod netlink;
pub mod packet;
pub mod pass;
pub mod queue;
pub mod requirements;
pub mod rules;
pub mod saved_syn;

use boot_time::BootTime;
use error::GateError;
use judge::{Event, Judge, PacketId, Pass, Verdict};
use lease::{Ingress, Lease};
use namespace::{Address, ServiceNet};
use pass::Passes;
use queue::{Decide, Losses, Queue, Queued};
use rules::{Change, Pins, Rules};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

pub struct Gate {
    net: ServiceNet,
    lease: Lease,
    ingress: Ingress,
    queue: Queue,
    rules: Rules,
    judge: Judge,
    /// The lease was over when there was something to decide: nothing is decided until [`Self::resume`].
    lapsed: bool,
    verdicts: Vec<(PacketId, Verdict)>,
    /// `None`: this kernel can't; every packet is asked about.
    passes: Option<Passes>,
    passed: Vec<Pass>,
    /// A connection is to pass, and what it said before may still be queued: nothing may overtake that.
    unread: bool,
}

impl Gate {
    /// The service's network, present and silent: no lease, ingress shut.
    ///
    /// `shared`: see [`ServiceNet::create`].
    pub fn open(
        parent: &str,
        addresses: &[Address],
        gateways: &[IpAddr],
        shared: Option<[u8; 6]>,
    ) -> Result<Self, GateError> {
        let net = ServiceNet::create(parent, addresses, gateways, shared)?;
        let (lease, ingress) = lease::attach(&net)?;
        let queue = net.within(Queue::open).map_err(GateError::system("entering the service's network namespace"))??;
        let (rules, passes) = install_rules(&net)?;
        net.raise()?;
        Ok(Self {
            net,
            lease,
            ingress,
            queue,
            rules,
            judge: Judge::new(),
            lapsed: true,
            verdicts: Vec::new(),
            passes,
            passed: Vec::new(),
            unread: false,
        })
    }

    /// For sockets, which belong inside.
    pub fn net(&self) -> &ServiceNet {
        &self.net
    }

    /// May be cloned and renewed from another thread.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    pub fn ingress(&self) -> &Ingress {
        &self.ingress
    }

    /// What is told here takes effect with the next [`Self::flush`] or [`Self::on_readable`].
    pub fn judge(&mut self) -> &mut Judge {
        &mut self.judge
    }

    pub fn next_event(&mut self) -> Option<Event> {
        self.judge.next_event()
    }

    /// Readable: call [`Self::on_readable`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Judges what is queued. True: there may be more.
    pub fn on_readable(&mut self) -> io::Result<bool> {
        let Self { lease, queue, judge, lapsed, .. } = self;
        self.unread = queue.read(&mut Desk { lease, judge, lapsed })?;
        Ok(self.unread)
    }

    /// Carries out what the judge decided since. To be called at the end of a turn.
    pub fn flush(&mut self) -> io::Result<()> {
        let Self { lease, judge, lapsed, verdicts, .. } = self;
        Desk { lease, judge, lapsed }.verdicts(verdicts);
        let result = self.queue.answer(queue::EGRESS, &self.verdicts);
        self.verdicts.clear();
        // What waited goes before what comes. After a takeover that is all that the rebuilt sockets repeat: a later packet
        // in front of it has a later timestamp, and clients drop what then comes with an earlier one (PAWS).
        let known = self.passed.len();
        self.judge.take_passes(&mut self.passed);
        self.unread |= self.passed[known..].iter().any(|p| matches!(p, Pass::Open { .. }));
        if !self.unread {
            for p in self.passed.drain(..) {
                if let Some(passes) = &mut self.passes {
                    passes.apply(&p);
                }
            }
        }
        result
    }

    /// Forgets what is over. Once a second is often enough.
    pub fn tick(&mut self) -> io::Result<()> {
        self.judge.tick(BootTime::now());
        self.flush()
    }

    /// The lease ran out, or there was none yet. Nothing leaves until [`Self::resume`]: what waits is from before a pause
    /// of unknown length.
    pub fn is_lapsed(&self) -> bool {
        self.lapsed
    }

    /// Drops everything that waits, here and in the kernel; then packets leave again, until `until`.
    ///
    /// To be called when this host's right to send is established anew: at the start, and after any pause longer than
    /// the lease.
    pub fn resume(&mut self, until: BootTime) -> io::Result<()> {
        self.queue.flush()?;
        self.judge.thawed();
        // The kernel has dropped them all; it may give their ids to others now.
        self.verdicts.clear();
        self.judge.take_verdicts(&mut self.verdicts);
        self.verdicts.clear();
        self.lapsed = false;
        self.lease.grant(until);
        Ok(())
    }

    /// Whether packets still are queued. To be asked often; it looks when it is time to. An error: they are not, and can't
    /// be made to.
    pub fn look_at_rules(&mut self, now: Instant) -> Result<Option<Change>, GateError> {
        self.rules.look(&self.net, now)
    }

    /// Packets lost between kernel and engine. Each is an alarm.
    pub fn losses(&self) -> io::Result<Losses> {
        self.net.within(Queue::losses)?
    }
}

/// With passes where this kernel has what they need.
fn install_rules(net: &ServiceNet) -> Result<(Rules, Option<Passes>), GateError> {
    let why = match Passes::create().and_then(|p| Ok((Pins::of(p.programs())?, p))) {
        Ok((pins, passes)) => match Rules::install(net, Some(pins)) {
            Ok(rules) => return Ok((rules, Some(passes))),
            Err(e) => e.to_string(),
        },
        Err(e) => e.to_string(),
    };
    let rules = Rules::install(net, None)?;
    tracing::warn!(
        "every packet of the service goes through the engine, which costs time and nothing else: this kernel's firewall has \
         no program match (CONFIG_NETFILTER_XT_MATCH_BPF): {why}"
    );
    Ok((rules, None))
}

/// The kernel takes the namespace apart some time later. Until then it would answer who asks for the service's address.
impl Drop for Gate {
    fn drop(&mut self) {
        self.lease.close();
        if let Err(e) = self.net.take_down() {
            tracing::warn!("{e}");
        }
    }
}

/// The judge at work, under the lease. (The kernel drops what leaves without one anyway; but it can't see that a pause
/// lies between a packet and a lease renewed later.)
struct Desk<'a> {
    lease: &'a Lease,
    judge: &'a mut Judge,
    lapsed: &'a mut bool,
}

impl Desk<'_> {
    fn is_lapsed(&mut self) -> bool {
        *self.lapsed |= BootTime::now() >= self.lease.until();
        *self.lapsed
    }
}

impl Decide for Desk<'_> {
    fn incoming(&mut self, packet: &Queued) -> Verdict {
        if self.is_lapsed() { Verdict::Drop } else { self.judge.ingress(BootTime::now(), packet.bytes, packet.length) }
    }

    fn outgoing(&mut self, packet: &Queued) {
        self.judge.egress(BootTime::now(), packet.id, packet.bytes, packet.length);
    }

    fn verdicts(&mut self, into: &mut Vec<(PacketId, Verdict)>) {
        self.judge.take_verdicts(into);
        if !into.is_empty() && self.is_lapsed() {
            for (_, verdict) in into {
                *verdict = Verdict::Drop;
            }
        }
    }
}
