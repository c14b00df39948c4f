//! The stack a program starts with: argc, argv, environment, auxiliary vector; and what `ft` changes in it.
//!
//! Both hosts must show the guest the same vector. Rewritten here, so equal by construction:
//!
//! - `AT_SYSINFO_EHDR` -> `AT_IGNORE`: no vDSO, so reading time is a system call the shim answers;
//! - `AT_RSEQ_FEATURE_SIZE`, `AT_RSEQ_ALIGN` -> `AT_IGNORE`: the shim refuses rseq;
//! - `AT_MINSIGSTKSZ`: the constant [`SIGNAL_STACK_BYTES_MIN`];
//! - the 16 bytes at `AT_RANDOM`.
//!
//! Left as they are and therefore to be compared between hosts before they pair: `AT_HWCAP`, `AT_HWCAP2` (CPU and
//! kernel), `AT_PLATFORM`, `AT_CLKTCK`, `AT_PAGESZ`, and the ids of the user.
//!
//! /proc/PID/auxv still shows the kernel's own copy: what the guest reads there is a matter of the shim's table.

/// What every guest is told a signal frame needs. Larger than any frame of today's CPUs with AVX-512 and AMX.
pub(super) const SIGNAL_STACK_BYTES_MIN: u64 = 0x3000;

const AT_NULL: u64 = 0;
const AT_IGNORE: u64 = 1;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
const AT_SYSINFO_EHDR: u64 = 33;
const AT_MINSIGSTKSZ: u64 = 51;

const WORD: usize = 8;

/// A rewritten vector and where things lie in the guest.
#[derive(Debug, PartialEq)]
pub(super) struct Rewritten {
    /// Address of the vector.
    pub at: u64,
    /// The whole vector, `AT_NULL` included.
    pub bytes: Vec<u8>,
    /// Address of the 16 random bytes.
    pub random_at: u64,
    /// The kernel calls this program privileged (set-user-id, file capabilities).
    pub secure: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum StackError {
    /// The stack ends before the vector does, or the vector lacks an entry.
    Malformed(&'static str),
    /// A signal frame of this CPU is larger than guests are told.
    SignalFrame(u64),
}

/// `stack` is the guest's memory from its stack pointer `at` up to the stack's end.
pub(super) fn rewrite(at: u64, stack: &[u8]) -> Result<Rewritten, StackError> {
    let cut_short = StackError::Malformed("a stack without auxiliary vector");
    let words: Vec<u64> =
        stack.chunks_exact(WORD).map(|w| u64::from_le_bytes(w.try_into().expect("chunks of a word"))).collect();
    let argc = *words.first().unwrap_or(&u64::MAX);
    let environment = usize::try_from(argc).ok().and_then(|n| n.checked_add(2));
    let Some(environment) = environment.filter(|at| *at < words.len()) else { return Err(cut_short) };
    let Some(environment_len) = words[environment..].iter().position(|w| *w == 0) else { return Err(cut_short) };
    let first = environment + environment_len + 1;
    let mut vector = words[first..].to_vec();
    let Some(pairs) = vector.chunks_exact(2).position(|p| p[0] == AT_NULL) else { return Err(cut_short) };
    vector.truncate(2 * (pairs + 1));

    let (mut random_at, mut secure) = (None, false);
    for pair in vector.chunks_exact_mut(2) {
        match pair[0] {
            AT_SYSINFO_EHDR | AT_RSEQ_FEATURE_SIZE | AT_RSEQ_ALIGN => pair.copy_from_slice(&[AT_IGNORE, 0]),
            AT_MINSIGSTKSZ if pair[1] > SIGNAL_STACK_BYTES_MIN => return Err(StackError::SignalFrame(pair[1])),
            AT_MINSIGSTKSZ => pair[1] = SIGNAL_STACK_BYTES_MIN,
            AT_RANDOM => random_at = Some(pair[1]),
            AT_SECURE => secure = pair[1] != 0,
            _ => {}
        }
    }
    Ok(Rewritten {
        at: at + (first * WORD) as u64,
        bytes: vector.iter().flat_map(|w| w.to_le_bytes()).collect(),
        random_at: random_at.ok_or(StackError::Malformed("an auxiliary vector without AT_RANDOM"))?,
        secure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn rewrites_what_differs_between_hosts_and_nothing_else() {
        let before = stack(&[
            2,
            0x10,
            0x20,
            0, // argc, argv
            0x30,
            0, // environment
            AT_SYSINFO_EHDR,
            0x7777,
            16,
            0xbfeb,
            AT_MINSIGSTKSZ,
            0x2eb0,
            AT_RANDOM,
            0x5000,
            27,
            28,
            28,
            32,
            0,
            0, //
            0xdead,
            0xbeef,
        ]);
        let r = rewrite(0x1000, &before).unwrap();
        assert_eq!((r.at, r.random_at, r.secure), (0x1030, 0x5000, false));
        let after = [1, 0, 16, 0xbfeb, AT_MINSIGSTKSZ, 0x3000, AT_RANDOM, 0x5000, 1, 0, 1, 0, 0, 0];
        assert_eq!(r.bytes, stack(&after));
    }

    #[test]
    fn sees_privileged_programs() {
        let r = rewrite(0, &stack(&[0, 0, 0, AT_SECURE, 1, AT_RANDOM, 9, 0, 0])).unwrap();
        assert!(r.secure);
    }

    #[test]
    fn refuses_what_it_cannot_promise_or_parse() {
        let large = stack(&[0, 0, 0, AT_MINSIGSTKSZ, 0x4000, AT_RANDOM, 9, 0, 0]);
        assert_eq!(rewrite(0, &large), Err(StackError::SignalFrame(0x4000)));
        let whole = stack(&[1, 0x10, 0, 0x30, 0, AT_RANDOM, 9, 0, 0]);
        for len in 0..whole.len() {
            assert!(matches!(rewrite(0, &whole[..len]), Err(StackError::Malformed(_))), "cut to {len}");
        }
        assert!(rewrite(0, &stack(&[u64::MAX, 0, 0])).is_err());
    }
}
