//! How a program becomes a guest, as told between the engine and the process that is not a guest yet: a forked child, or a
//! program that was started with the shim preloaded and asks over the control socket.
//!
//! The program sends [`REQUEST`]. When its time has come the engine sends a [`Head`] of kind [`BECOME`] with descriptors and
//! the text that follows; the program makes itself what a guest must be before exec, says [`READY`], is traced from then
//! on, and executes after a [`GO`]. Instead of either head a [`REFUSED`] may come, with the reason as text. What fails in
//! the process is told as a [`failure`].

/// A line of the control socket.
pub const REQUEST: &[u8] = b"{\"do\":\"adopt\"}\n";

/// The text says why not. No more comes.
pub const REFUSED: u32 = 1;
/// Comes with [`DESCRIPTORS`]. The text: umask, number of arguments, number of variables (`u32` each), then, each ended by a
/// zero byte, working directory, program, arguments, variables.
pub const BECOME: u32 = 2;
/// No text.
pub const GO: u32 = 3;

/// Words before the strings of [`BECOME`]'s text.
pub const BECOME_WORDS: usize = 3;
/// Longest text: twice what the kernel takes at exec with a guest's stack.
pub const TEXT_BYTES_MAX: u32 = 4 << 20;
/// Standard input, doorbell, segment, lifeline: where the first lies is 0, the others lie where `shared` says.
pub const DESCRIPTORS: usize = 4;

pub const HEAD_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: u32,
    pub text_bytes: u32,
}

impl Head {
    pub fn encode(self) -> [u8; HEAD_BYTES] {
        let (k, n) = (self.kind.to_le_bytes(), self.text_bytes.to_le_bytes());
        [k[0], k[1], k[2], k[3], n[0], n[1], n[2], n[3]]
    }

    /// `None`: nothing that an engine of this version says.
    pub fn decode(b: &[u8; HEAD_BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let h = Self { kind: word(0), text_bytes: word(4) };
        (matches!(h.kind, REFUSED | BECOME | GO) && h.text_bytes <= TEXT_BYTES_MAX).then_some(h)
    }
}

/// Every step of a process on its way to exec that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Signals,
    PreExec,
    Session,
    Personality,
    PlacingLimit,
    Descriptors,
    Directory,
    Limits,
    DeathSignal,
    Trace,
    Exec,
}

impl Step {
    pub const ALL: [Self; 11] = [
        Self::Signals,
        Self::PreExec,
        Self::Session,
        Self::Personality,
        Self::PlacingLimit,
        Self::Descriptors,
        Self::Directory,
        Self::Limits,
        Self::DeathSignal,
        Self::Trace,
        Self::Exec,
    ];
}

pub const FAILURE_BYTES: usize = 8;
/// Instead of a failure: all is done but exec.
pub const READY: [u8; FAILURE_BYTES] = [u8::MAX; FAILURE_BYTES];

/// `errno` 0: no reason given.
pub fn failure(step: Step, errno: i32) -> [u8; FAILURE_BYTES] {
    let e = errno.to_le_bytes();
    [step as u8, 0, 0, 0, e[0], e[1], e[2], e[3]]
}

/// The step and the errno; `None`: not a failure.
pub fn decode_failure(b: &[u8; FAILURE_BYTES]) -> Option<(Step, i32)> {
    let step = *Step::ALL.get(usize::from(b[0]))?;
    Some((step, i32::from_le_bytes([b[4], b[5], b[6], b[7]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_the_way() {
        for (n, step) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, n);
            assert_eq!(decode_failure(&failure(step, 2)), Some((step, 2)));
        }
        assert_eq!(decode_failure(&[200, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(decode_failure(&READY), None);
    }

    #[test]
    fn heads_survive_and_other_words_are_none() {
        for kind in [REFUSED, BECOME, GO] {
            let h = Head { kind, text_bytes: 77 };
            assert_eq!(Head::decode(&h.encode()), Some(h));
        }
        // As an engine that knows no such request answers.
        assert_eq!(Head::decode(b"{\"error\""), None);
        assert_eq!(Head::decode(&Head { kind: GO, text_bytes: u32::MAX }.encode()), None);
    }
}
