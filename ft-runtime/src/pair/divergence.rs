//! A divergence, beyond the decision who goes on: the host that follows tells the primary where its guest stood; that knows what it did
//! itself. Each writes what it knows into a report.

use super::message::kind;
use super::status::Milestone;
use super::{Pair, SERVICE};
use crate::engine::{Core, EngineError};
use crate::failover::{self, event::Blame};
use crate::link::frame::BODY_BYTES_MAX;
use crate::monitor::reports;
use crate::monitor::scene::{Primary, Scene};
use ft_log::ids::DomainId;
use std::time::SystemTime;

/// A scene is told in parts: whether more follow, then bytes of its JSON.
const MORE: u8 = 1;
const LAST: u8 = 0;
/// No scene is larger: a megabyte of memory in hexadecimal, and what goes with it.
const SCENE_BYTES_MAX: usize = 16 << 20;

/// What the peer has told of a divergence.
#[derive(Default)]
pub(super) struct Told {
    parts: Vec<u8>,
    whole: Option<Box<Scene>>,
}

impl Told {
    /// One part; an error: why it can't be.
    pub fn part(&mut self, body: &[u8]) -> Result<(), String> {
        let (flag, bytes) = body.split_first().ok_or("an empty part of a scene")?;
        if self.parts.len() + bytes.len() > SCENE_BYTES_MAX {
            return Err(format!("a scene of more than {SCENE_BYTES_MAX} bytes"));
        }
        self.parts.extend_from_slice(bytes);
        if *flag == LAST {
            let parts = std::mem::take(&mut self.parts);
            self.whole = Some(serde_json::from_slice(&parts).map_err(|e| format!("a scene: {e}"))?);
        }
        Ok(())
    }
}

/// Frames that tell a scene.
fn parts(scene: &Scene) -> Vec<Vec<u8>> {
    let text = serde_json::to_vec(scene).expect("plain data");
    let mut parts: Vec<Vec<u8>> = text.chunks(BODY_BYTES_MAX - 1).map(|c| [&[MORE], c].concat()).collect();
    if let Some(last) = parts.last_mut() {
        last[0] = LAST;
    }
    parts
}

impl Pair {
    /// The guest, which follows, did something else than the log says.
    pub(super) fn diverged(&mut self, scene: Box<Scene>) {
        if self.diverged.is_some() {
            return;
        }
        for p in parts(&scene) {
            self.out.borrow_mut().send(kind::DIVERGED, &[], &p);
        }
        self.report_divergence(&scene, None);
        self.diverged = Some(scene);
        self.decider.tell(failover::Event::Diverged(Blame::Unknown));
    }

    /// What the peer's guest did otherwise.
    pub(super) fn hear_divergence(&mut self, core: &Core) -> Result<(), EngineError> {
        let Some(scene) = self.told.whole.take() else { return Ok(()) };
        let domain = DomainId(scene.domain());
        let pid = core.pid_of(domain).or_else(|| core.pid_of(SERVICE));
        self.report_divergence(&scene, core.history_of(domain).map(|history| Primary { history, pid }));
        Ok(())
    }

    fn report_divergence(&mut self, scene: &Scene, primary: Option<Primary>) {
        let now = SystemTime::now();
        let when = humantime::format_rfc3339_millis(now);
        let role = if primary.is_some() { "the primary" } else { "the host that followed" };
        let head = format!("{when}: divergence of {}, as {role}, {}, knows it\n\n", self.settings.service, self.settings.host);
        let text = head + &scene.text(primary.as_ref(), &self.settings.program);
        let saved = match reports::save(&self.settings.reports, now, &text) {
            Ok(path) => format!("report in {}", path.display()),
            Err(e) => format!("no report could be written into {}: {e}", self.settings.reports.display()),
        };
        let text = format!("diverged: {}; {saved}", scene.summary(primary.as_ref()));
        tracing::error!("{text}");
        self.board.mark(Milestone::Diverged, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_is_told_in_parts() {
        let scene = Scene::bare(3, "x".repeat(3 * BODY_BYTES_MAX));
        let mut told = Told::default();
        let parts = parts(&scene);
        assert!(parts.len() == 4 && parts.iter().all(|p| p.len() <= BODY_BYTES_MAX));
        for p in &parts {
            assert!(told.whole.is_none());
            told.part(p).unwrap();
        }
        assert_eq!(told.whole.as_deref(), Some(&scene));
        assert!(Told::default().part(&[]).is_err() && Told::default().part(b"\0{").is_err());
    }
}
