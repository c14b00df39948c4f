//! Clients that know every write that was acknowledged (`ft-bench verify`), at work in a rig's network.

use crate::rig::Rig;
use crate::rig::child::{Child, Words};
use crate::verify::{Said, Tally};
use std::io;
use std::time::{Duration, Instant};

/// For all connections to be open.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// For the clients to say their last word once their time is over: all that is patient in them, one after the other.
const END_MAX: Duration = Duration::from_secs(120);

/// What the clients do.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Load {
    pub seconds: f64,
    /// Connections that write.
    pub conns: u32,
    /// Connections that are open and say nothing meanwhile.
    pub idle: u32,
    /// Writes per second, of all connections together.
    pub rate: u32,
    /// Of a pipeline.
    pub depth_max: u32,
    pub item_bytes_max: u32,
    pub seed: u64,
}

pub struct Clients {
    child: Child,
    began: Instant,
    time: Duration,
}

impl Clients {
    /// Returns when they write.
    pub fn start(rig: &Rig, load: &Load) -> io::Result<Self> {
        let arguments = [
            "verify".into(),
            rig.service().to_string(),
            format!("--seconds={}", load.seconds),
            format!("--conns={}", load.conns),
            format!("--idle={}", load.idle),
            format!("--rate={}", load.rate),
            format!("--depth={}", load.depth_max),
            format!("--item-bytes={}", load.item_bytes_max),
            format!("--seed={}", load.seed),
        ];
        let child = rig.start_client(&arguments, Words::Shown)?;
        let mut c = Self { child, began: Instant::now(), time: Duration::from_secs_f64(load.seconds) };
        match c.hear(Instant::now() + BEGIN_MAX)? {
            Some(Said::Began) => {}
            _ => return Err(io::Error::other("the clients could not begin")),
        }
        c.began = Instant::now();
        Ok(c)
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    /// Until then they must not end; `progress` hears how many writes were acknowledged.
    pub fn work_until(&mut self, until: Instant, progress: impl FnMut(u64)) -> io::Result<()> {
        match self.listen(until, progress)? {
            None => Ok(()),
            Some(t) => Err(io::Error::other(format!("the load ended before the fault: {}", t.errors.join("; ")))),
        }
    }

    /// Their last word.
    pub fn finish(mut self, progress: impl FnMut(u64)) -> io::Result<Tally> {
        let until = self.began + self.time + END_MAX;
        self.listen(until, progress)?.ok_or_else(|| {
            io::Error::other(format!("the clients are not done {} s after their end", END_MAX.as_secs()))
        })
    }

    fn listen(&mut self, until: Instant, mut progress: impl FnMut(u64)) -> io::Result<Option<Tally>> {
        loop {
            match self.hear(until)? {
                Some(Said::Acknowledged(n)) => progress(n),
                Some(Said::Ended(tally)) => return Ok(Some(tally)),
                Some(Said::Began) => {}
                None => return Ok(None),
            }
        }
    }

    /// Their next word; `None` if that moment has come.
    fn hear(&mut self, until: Instant) -> io::Result<Option<Said>> {
        match self.child.line_until(until)? {
            None => Ok(None),
            Some(Some(l)) => {
                serde_json::from_str(&l).map(Some).map_err(|e| io::Error::other(format!("the clients said {l}: {e}")))
            }
            Some(None) => {
                let status = self.child.wait_until(Instant::now() + BEGIN_MAX)?;
                let how = status.map_or_else(|| "no status".into(), |s| s.to_string());
                Err(io::Error::other(format!("the clients ended without a result: {how}")))
            }
        }
    }
}
