//! Why a guest could not be started: what happened, why, and what to do about it.

use super::image::ShimImageError;
use std::io;
use std::path::PathBuf;

/// Every failed launch; none leaves a process behind.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The caller's: the program can't be executed at all.
    #[error("cannot start {}: {why}; {advice}", program.display())]
    Program { program: PathBuf, why: String, advice: String },

    /// The caller's: the program could run, but not as a guest.
    #[error("cannot protect {}: {why}; {advice}", program.display())]
    Unsupported { program: PathBuf, why: String, advice: String },

    /// The environment's: kernel or processor lack something for good.
    #[error("this host cannot run guests: it needs {feature}; {advice}")]
    Missing { feature: String, advice: &'static str },

    /// The caller's: an argument that no process can be given.
    #[error("cannot start the guest: {what}; correct the command line or the environment given for it")]
    Argument { what: String },

    /// The environment's: the engine could not get ready for a guest.
    #[error("cannot start the guest: {what} failed in the engine: {source}; {advice}")]
    Prepare { what: &'static str, source: io::Error, advice: &'static str },

    /// The environment's: the new process could not become what a guest must be.
    #[error("cannot start the guest: {what} failed in the new process: {source}; {advice}")]
    Setup { what: &'static str, source: io::Error, advice: &'static str },

    /// The environment's: the stopped guest could not be given the shim.
    #[error("cannot inject the shim: {what} failed: {source}; {advice}")]
    Inject { what: &'static str, source: io::Error, advice: &'static str },

    /// The environment's: what the kernel says of the stopped guest is not understood.
    #[error("cannot inject the shim: the kernel shows {what}; report this with `uname -r` and the program's name")]
    Strange { what: String },

    /// The guest's: it ended before the shim was in.
    #[error(
        "the guest ended before its first instruction ({how}); see the kernel's log (out of memory, security module) \
             and what ft wrote to stderr"
    )]
    Died { how: String },

    /// The environment's: it did not reach its first instruction in time.
    #[error(
        "the guest did not reach its first instruction within {seconds} s and was killed; \
             is its file system reachable, or has somebody stopped or traced it?"
    )]
    Stuck { seconds: u64 },

    /// The build's: the shim in this binary is unusable.
    #[error(transparent)]
    Shim(#[from] ShimImageError),
}

impl LaunchError {
    /// For `map_err` on steps in the engine.
    pub(super) fn prepare(what: &'static str, advice: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Prepare { what, source, advice }
    }

    /// For `map_err` on steps at the exec stop.
    pub(super) fn inject(what: &'static str, advice: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Inject { what, source, advice }
    }
}
