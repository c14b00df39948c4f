//! What the domains of a following guest did to each other and the log has not told yet.
//!
//! While the log goes on, each of these comes as an event of the log and is struck off here. If the log ends, they
//! become events of the new log: nothing between domains is lost with a host.

use ft_log::entry::{Entry, Event, PAYLOAD_BYTES_MAX};
use ft_log::ids::{DomainId, PipeId};
use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    PipeData { pipe: PipeId, bytes: VecDeque<u8> },
    PipeClosed { pipe: PipeId },
    PipeReader { pipe: PipeId },
    ChildExit { child: DomainId, status: i32 },
    Signal { signo: u8 },
}

/// Deeds by the domain that they reach, oldest first.
#[derive(Default)]
pub struct Unlogged {
    deeds: VecDeque<(DomainId, Deed)>,
}

impl Unlogged {
    pub fn pipe_output(&mut self, to: DomainId, pipe: PipeId, bytes: &[u8]) {
        self.deeds.push_back((to, Deed::PipeData { pipe, bytes: bytes.iter().copied().collect() }));
    }

    pub fn pipe_end(&mut self, to: DomainId, pipe: PipeId) {
        self.deeds.push_back((to, Deed::PipeClosed { pipe }));
    }

    pub fn pipe_reader(&mut self, to: DomainId, pipe: PipeId) {
        self.deeds.push_back((to, Deed::PipeReader { pipe }));
    }

    pub fn child_gone(&mut self, parent: DomainId, child: DomainId, status: i32) {
        self.deeds.push_back((parent, Deed::ChildExit { child, status }));
    }

    pub fn kill(&mut self, to: DomainId, signo: u8) {
        self.deeds.push_back((to, Deed::Signal { signo }));
    }

    /// The log has this frame for `d`: what it tells is not unlogged any more.
    pub fn logged(&mut self, d: DomainId, frame: &[u8]) {
        if self.deeds.is_empty() {
            return;
        }
        let Ok(Entry::Event(e)) = Entry::decode(frame) else { return };
        if let Event::PipeData { pipe, bytes } = e {
            return self.strike_bytes(d, pipe, bytes.len());
        }
        let told = |deed: &Deed| match (&e, deed) {
            (Event::PipeClosed { pipe }, Deed::PipeClosed { pipe: p }) => p == pipe,
            (Event::PipeReader { pipe }, Deed::PipeReader { pipe: p }) => p == pipe,
            (Event::ChildExit { child, .. }, Deed::ChildExit { child: c, .. }) => c == child,
            (Event::Signal { signo }, Deed::Signal { signo: s }) => s == signo,
            _ => false,
        };
        if let Some(k) = self.deeds.iter().position(|(to, deed)| *to == d && told(deed)) {
            self.deeds.remove(k);
        }
    }

    fn strike_bytes(&mut self, d: DomainId, of: PipeId, mut n: usize) {
        for (to, deed) in &mut self.deeds {
            if let Deed::PipeData { pipe, bytes } = deed
                && *to == d
                && *pipe == of
            {
                let k = n.min(bytes.len());
                bytes.drain(..k);
                n -= k;
            }
        }
        self.deeds.retain(|(_, deed)| !matches!(deed, Deed::PipeData { bytes, .. } if bytes.is_empty()));
    }

    /// Hands over all of it, as events in the order of the deeds.
    pub fn for_each<E>(&mut self, mut f: impl FnMut(DomainId, &Event) -> Result<(), E>) -> Result<(), E> {
        for (to, deed) in self.deeds.drain(..) {
            match deed {
                Deed::PipeData { pipe, bytes } => {
                    for part in Vec::from(bytes).chunks(PAYLOAD_BYTES_MAX) {
                        f(to, &Event::PipeData { pipe, bytes: part })?;
                    }
                }
                Deed::PipeClosed { pipe } => f(to, &Event::PipeClosed { pipe })?,
                Deed::PipeReader { pipe } => f(to, &Event::PipeReader { pipe })?,
                Deed::ChildExit { child, status } => f(to, &Event::ChildExit { child, status })?,
                Deed::Signal { signo } => f(to, &Event::Signal { signo })?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::codec::Writer;
    use ft_log::entry::HEADER_BYTES_MAX;

    fn frame(e: Event) -> Vec<u8> {
        let mut head = [0; HEADER_BYTES_MAX];
        let mut w = Writer::new(&mut head);
        let e = Entry::Event(e);
        let payload = e.encode(&mut w);
        let n = w.len();
        [&head[..n], payload].concat()
    }

    fn left(u: &mut Unlogged) -> Vec<String> {
        let mut out = Vec::new();
        u.for_each(|d, e| {
            out.push(format!("{d} {e:?}"));
            Ok::<(), ()>(())
        })
        .unwrap();
        out
    }

    #[test]
    fn what_the_log_tells_is_struck_off_in_any_grouping() {
        let (d, pipe) = (DomainId(0), PipeId(3));
        let mut u = Unlogged::default();
        u.pipe_output(d, pipe, b"abc");
        u.pipe_output(d, pipe, b"def");
        u.pipe_end(d, pipe);
        u.child_gone(d, DomainId(1), 7 << 8);
        u.kill(DomainId(2), 15);
        u.logged(d, &frame(Event::PipeData { pipe, bytes: b"abcd" }));
        u.logged(d, &frame(Event::ChildExit { child: DomainId(1), status: 7 << 8 }));
        let left = left(&mut u);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left[0].contains("[101, 102]"), "{left:?}");
        assert!(left[1].contains("PipeClosed") && left[2].starts_with("2 Signal"), "{left:?}");
    }

    #[test]
    fn a_signal_of_another_kind_strikes_nothing() {
        let mut u = Unlogged::default();
        u.kill(DomainId(1), 15);
        u.logged(DomainId(1), &frame(Event::Signal { signo: 10 }));
        u.logged(DomainId(0), &frame(Event::Signal { signo: 15 }));
        assert_eq!(left(&mut u).len(), 1);
    }
}
