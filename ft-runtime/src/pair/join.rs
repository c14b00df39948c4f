//! The other side of `seed`: a host without state is given that of a running service.
//!
//! A thread makes the guest's process of the snapshot while it comes. What else comes meanwhile is of the log and is
//! kept, in order, until there is a guest that can follow it.

use super::message::kind;
use super::seed::{SeedMessage, WINDOW_BYTES};
use super::start_message::StartMessage;
use super::world::Told;
use crate::guest::{Adoptee, Guest, ShimImage, launch};
use crate::snapshot::file::SnapshotReader;
use crate::snapshot::stream::{Inlet, Intake, incoming};
use crate::snapshot::tree::Making;
use crate::snapshot::{EngineState, Source};
use crate::start::{Error, Surroundings, io_error};
use ft_log::shared::role;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Of the log that is kept until the guest can follow it. A service that writes more in that time is not waited for.
const KEPT_BYTES_MAX: usize = 1 << 30;
/// The sender is told what was used whenever it is so much.
const TELL_EVERY: u64 = WINDOW_BYTES / 16;

/// A host that is being given the service's state.
pub struct Receiving {
    message: SeedMessage,
    since: Instant,
    /// Dropped, the thread gives up.
    inlet: Inlet,
    told: u64,
    events: Vec<Vec<u8>>,
    births: Vec<Told>,
    kept: Vec<(u8, Vec<u8>)>,
    kept_bytes: usize,
    made: Receiver<Result<(Guest, EngineState), Error>>,
}

/// What a host begins with that was given the service's state, beside the guest.
pub struct Joined {
    pub engine: EngineState,
    pub message: SeedMessage,
    /// Logged before the copy and to be applied by it.
    pub events: Vec<Vec<u8>>,
    pub births: Vec<Told>,
    /// Messages that came behind, of the log and what goes with it.
    pub kept: Vec<(u8, Vec<u8>)>,
    /// When the state began to come.
    pub since: Instant,
}

fn refused(why: impl Into<String>) -> Error {
    Error::Refused(why.into())
}

impl Receiving {
    /// `adoptee`: the program that is to become the guest.
    pub fn begin(body: &[u8], state_dirs: &[PathBuf], adoptee: Option<Adoptee>) -> Result<Self, Error> {
        let message: SeedMessage =
            serde_json::from_slice(body).map_err(|e| refused(format!("the service's state begins with what can't be read: {e}")))?;
        let surroundings = StartMessage::surroundings(message.start.clone())
            .ok_or_else(|| refused("the service's state begins without a usable seed"))?;
        let (inlet, intake) = incoming().map_err(io_error("an eventfd"))?;
        let (dirs, ring) = (state_dirs.to_vec(), inlet.bell());
        let (tell, made) = channel();
        let make = move || {
            // Nobody listens any more: the guest goes with what is told.
            let _ = tell.send(make(&surroundings, intake, &dirs, adoptee));
            ring();
        };
        thread::Builder::new().name("ft-join".into()).spawn(make).map_err(io_error("starting a thread"))?;
        Ok(Self {
            message,
            since: Instant::now(),
            inlet,
            told: 0,
            events: Vec::new(),
            births: Vec::new(),
            kept: Vec::new(),
            kept_bytes: 0,
            made,
        })
    }

    /// Readable when there is something to look at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inlet.fd()
    }

    /// Whether the guest is there; `Some(Err)`: it won't be.
    pub fn look(&mut self) -> Option<Result<(Guest, EngineState), Error>> {
        self.inlet.heed();
        match self.made.try_recv() {
            Ok(made) => Some(made),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(refused("the thread that makes the guest broke down"))),
        }
    }

    /// One message of the primary's.
    pub fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        match kind {
            kind::SNAPSHOT => {
                self.inlet.put(body);
            }
            kind::SEED_EVENT => self.events.push(body.to_vec()),
            kind::SEED_BIRTH => {
                self.births.push(Told::decode(body).map_err(|e| format!("how a connection began can't be read: {e}"))?);
            }
            kind::ENTRY | kind::BIRTH | kind::GONE | kind::STILLBORN => {
                self.kept_bytes += body.len();
                if self.kept_bytes > KEPT_BYTES_MAX {
                    return Err(format!("the service logs more than {} MiB while its state comes", KEPT_BYTES_MAX >> 20));
                }
                self.kept.push((kind, body.to_vec()));
            }
            k => return Err(format!("message {k} in the middle of the service's state")),
        }
        Ok(())
    }

    /// What the primary is to be told was used of the snapshot, if it is worth it.
    pub fn taken(&mut self) -> Option<u64> {
        let taken = self.inlet.taken();
        (taken >= self.told + TELL_EVERY).then(|| {
            self.told = taken;
            taken
        })
    }

    /// Bytes of the snapshot that were used, those that will come or so, and for how long they come.
    pub fn progress(&self, now: Instant) -> (u64, u64, Duration) {
        (self.inlet.taken(), self.message.bytes, now.saturating_duration_since(self.since))
    }

    /// With what [`Self::look`] has shown.
    pub fn finish(self, engine: EngineState) -> Result<Joined, Error> {
        let Self { message, events, births, kept, since, .. } = self;
        if (events.len(), births.len()) != (message.events as usize, message.births as usize) {
            return Err(refused("the service's state came without all events and connections of its point"));
        }
        Ok(Joined { engine, message, events, births, kept, since })
    }
}

fn make(s: &Surroundings, intake: Intake, state_dirs: &[PathBuf], adoptee: Option<Adoptee>) -> Result<(Guest, EngineState), Error> {
    let mut reader = SnapshotReader::new(Path::new("the service's state"), Box::new(intake))?;
    let engine = std::mem::take(&mut reader.engine);
    if reader.head.seed != s.seed {
        return Err(refused("the service's state is of another start of it"));
    }
    let mut files = Making::default();
    for tree in &reader.head.trees {
        if !state_dirs.iter().any(|d| d.as_os_str() == tree.path.0) {
            return Err(refused(format!("the service's state has a directory that is none here: {}", tree.path.0.display())));
        }
        files.replace(tree).map_err(io_error(format!("state directory {}", tree.path.0.display())))?;
    }
    let mut spec = s.spec(role::BACKUP, 0);
    spec.snapshot = Some(Source { reader, files });
    spec.adoptee = adoptee;
    Ok((launch(&mut spec, &ShimImage::embedded()?)?, engine))
}
