//! A divergence, beyond the decision who goes on: the host that follows tells the primary where its guest stood; that knows what it did
//! itself. Each writes what it knows into a report.

use super::message::kind;
use super::status::Milestone;
use super::{Pair, SERVICE};
use crate::engine::Core;
use crate::failover::{self, event::Blame};
use crate::link::text::{self, Parts};
use crate::monitor::reports;
use crate::monitor::scene::{Expected, Scene};
use ft_log::ids::DomainId;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

/// No scene is larger: a megabyte of memory in hexadecimal, and what goes with it.
const SCENE_BYTES_MAX: usize = 16 << 20;

/// What the peer has told of a divergence.
pub(super) struct Told {
    parts: Parts,
    whole: Option<Box<Scene>>,
}

impl Default for Told {
    fn default() -> Self {
        Self { parts: Parts::new(SCENE_BYTES_MAX), whole: None }
    }
}

impl Told {
    /// One part; an error: why it can't be.
    pub fn part(&mut self, body: &[u8]) -> Result<(), String> {
        let wrong = |e: &dyn std::fmt::Display| format!("where its server diverged: {e}");
        if let Some(text) = self.parts.push(body).map_err(|e| wrong(&e))? {
            self.whole = Some(serde_json::from_slice(&text).map_err(|e| wrong(&e))?);
        }
        Ok(())
    }
}

impl Pair {
    /// The guest, which follows, did something else than the log says.
    pub(super) fn diverged(&mut self, scene: Box<Scene>) {
        if self.diverged.is_some() {
            return;
        }
        for p in text::cut(&serde_json::to_vec(&scene).expect("plain data")) {
            self.out.borrow_mut().send(kind::DIVERGED, &[], &p);
        }
        self.report_divergence(scene.clone(), None);
        let blame = if scene.disk_failure().is_some() { Blame::Backup } else { Blame::Unknown };
        self.diverged = Some(scene);
        self.decider.tell(failover::Event::Diverged(blame));
    }

    /// What the peer's guest did otherwise.
    pub(super) fn hear_divergence(&mut self, core: &Core) {
        let Some(scene) = self.told.whole.take() else { return };
        let domain = DomainId(scene.domain());
        let pid = core.pid_of(domain).or_else(|| core.pid_of(SERVICE));
        let expected = core.history_of(domain).map(|history| Expected::of(&scene, history, pid));
        self.report_divergence(scene, expected);
    }

    /// On a thread: to read the names of functions from files may take long, and nobody waits for it.
    fn report_divergence(&mut self, scene: Box<Scene>, expected: Option<Expected>) {
        let reports = self.settings.reports.clone();
        let board = self.board.clone();
        let (now, program) = (SystemTime::now(), self.settings.program.clone());
        let when = humantime::format_rfc3339_millis(now);
        let role = if expected.is_some() { "the primary" } else { "the host that followed" };
        let head = format!("{when}: divergence of {}, as {role}, {}, knows it\n\n", self.settings.service, self.settings.host);
        let write = move || {
            let text = head + &scene.text(expected.as_ref(), &program);
            let saved = match reports::save(&reports, now, &text) {
                Ok(path) => format!("report in {}", path.display()),
                Err(e) => format!("no report could be written into {}: {e}", reports.display()),
            };
            let text = format!("diverged: {}; {saved}", scene.summary(expected.as_ref()));
            tracing::error!("{text}");
            board.mark(Milestone::Diverged, &text);
        };
        match thread::Builder::new().name("ft-report".into()).spawn(write) {
            Ok(reporter) => {
                self.reporters.retain(Reporter::is_writing);
                self.reporters.push(Reporter(Some(reporter)));
            }
            Err(e) => tracing::error!("diverged, and there is no report: a thread for it: {e}"),
        }
    }
}

/// It has said what there is to say before this is gone.
pub(super) struct Reporter(Option<JoinHandle<()>>);

impl Reporter {
    fn is_writing(&self) -> bool {
        self.0.as_ref().is_some_and(|r| !r.is_finished())
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // One that broke down has told so itself.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_comes_as_it_was_told() {
        let scene = Scene::bare(3, "x".repeat(200_000));
        let mut told = Told::default();
        text::cut(&serde_json::to_vec(&scene).unwrap()).iter().for_each(|p| told.part(p).unwrap());
        assert_eq!(told.whole.as_deref(), Some(&scene));
        assert!(Told::default().part(b"\x01{").is_err());
    }
}
