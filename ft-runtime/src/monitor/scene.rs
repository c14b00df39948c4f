//! Where a guest was when it did something else than the log says: its last calls, its stack, the log around it. Taken on the host that
//! follows, completed on the primary, which knows what it did itself.

use super::backtrace::{self, Frame};
use crate::guest::maps::Shown;
use crate::logfile::{hex, unhex};
use ft_log::entry::{Disagreement, Entry, Event};
use ft_log::history::{CALLS_KEPT, FIRST_BYTES, History, PastCall, WORDS};
use ft_log::shared::SHIM_REGION;
use ft_shim::table;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::io::IoSliceMut;
use std::path::Path;

const PAGE: u64 = 4096;
/// Calls before the first that may differ, to show where the guest was.
const CALLS_BEFORE: u64 = 24;
/// Calls after the first that differs.
const CALLS_AFTER: usize = 8;
/// Of a log entry, so much is shown.
const LINE_CHARS_MAX: usize = 200;
/// Pages in which both hosts may differ; a comparison has no more.
const PAGES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// What was noticed, in one line.
    pub what: String,
    domain: u16,
    point: u64,
    thread: u16,
    /// Number of the last call that both hosts agree on.
    agreed: u64,
    calls: Vec<[u64; WORDS]>,
    stack: Vec<Frame>,
    pages: Vec<Page>,
    /// Entries around the point, in words.
    log: Vec<String>,
    /// What this host's disk said when it failed one of the calls that may differ; 0: it didn't.
    disk_errno: u16,
}

/// Of the guest's memory where it was compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    address: u64,
    hex: String,
}

/// What the primary knows of the same.
pub struct Expected {
    calls: HashMap<u64, PastCall>,
    memory: Vec<String>,
}

impl Expected {
    /// At once: the primary goes on, and forgets. `pid`: of its process.
    pub fn of(scene: &Scene, history: &History, pid: Option<i32>) -> Self {
        let calls = scene.calls().filter_map(|c| history.get(c.number)).map(|c| (c.number, c)).collect();
        Self { calls, memory: pid.map(|p| scene.compare_memory(Pid::from_raw(p))).unwrap_or_default() }
    }
}

impl Scene {
    /// Of a guest that stands where it noticed it; `pid`: of its process. `log`: frames before and after the point.
    pub fn take(domain: u16, d: &Disagreement, what: &str, history: &History, pid: Option<i32>, log: &[Vec<u8>]) -> Self {
        let first = d.agreed.saturating_sub(CALLS_BEFORE).max((d.newest + 1).saturating_sub(CALLS_KEPT as u64)) + 1;
        let pid = pid.map(Pid::from_raw);
        Self {
            what: what.into(),
            domain,
            point: d.point.0,
            thread: d.thread,
            agreed: d.agreed,
            // One more than the newest: it may be under way.
            calls: (first..=d.newest + 1).filter_map(|n| history.get(n)).map(|c| c.words()).collect(),
            stack: pid.map(|p| backtrace::unwind(p, d.registers)).unwrap_or_default(),
            pages: pid.map(|p| pages(p, d.memory.start, d.memory.end)).unwrap_or_default(),
            log: log.iter().map(|f| line(f)).collect(),
            disk_errno: d.disk_errno,
        }
    }

    /// A difference that no guest noticed: it ended otherwise than in the log.
    pub fn bare(domain: u16, what: String) -> Self {
        let (calls, stack, pages, log) = Default::default();
        Self { what, domain, point: 0, thread: 0, agreed: 0, calls, stack, pages, log, disk_errno: 0 }
    }

    pub fn domain(&self) -> u16 {
        self.domain
    }

    /// How the disk of the host that followed failed, where that explains it.
    pub fn disk_failure(&self) -> Option<std::io::Error> {
        (self.disk_errno != 0).then(|| std::io::Error::from_raw_os_error(self.disk_errno.into()))
    }

    fn calls(&self) -> impl Iterator<Item = PastCall> {
        self.calls.iter().map(PastCall::of)
    }

    /// The first call that the primary made differently, with the primary's.
    fn first_different(&self, expected: &Expected) -> Option<(PastCall, PastCall)> {
        let mut later = self.calls().filter(|c| c.number > self.agreed);
        later.find_map(|c| expected.calls.get(&c.number).filter(|e| **e != c).map(|e| (c, *e)))
    }

    /// What differs, in one line.
    pub fn summary(&self, expected: Option<&Expected>) -> String {
        match expected.and_then(|e| self.first_different(e)) {
            Some((got, expected)) => format!("{}; first different: {}, expected {}", self.what, Written(&got), Written(&expected)),
            None => self.what.clone(),
        }
    }

    /// All that is known, as people read it. `program`: the guest's, for names of its functions.
    pub fn text(&self, expected: Option<&Expected>, program: &Path) -> String {
        let mut t = String::new();
        let _ = writeln!(t, "what       domain {} at input point {}: {}", self.domain, self.point, self.what);
        let _ = writeln!(t, "agreed     up to call {} of the domain; thread {} ran last", self.agreed, self.thread);
        if let Some(e) = self.disk_failure() {
            let _ = writeln!(t, "disk       of the host that followed has failed a call since: {e}");
        }
        let different = expected.and_then(|e| self.first_different(e));
        match (&different, expected) {
            (Some((got, expected)), _) => {
                let _ = writeln!(t, "\nthe first call that differs, {} by thread {}", got.number, got.thread);
                let _ = writeln!(t, "  expected (primary)  {}", Written(expected));
                let _ = writeln!(t, "  got (backup)        {}", Written(got));
            }
            (None, Some(e)) if self.calls().any(|c| c.number > self.agreed && !e.calls.contains_key(&c.number)) => {
                let _ = writeln!(t, "\nthe primary no longer has its own calls of that time");
            }
            (None, Some(_)) => t.push_str("\nno call differs\n"),
            (None, None) => {}
        }
        self.write_calls(&mut t, different.map(|(got, _)| got.number));
        if let Some(e) = expected
            && !e.memory.is_empty()
        {
            t.push_str("\nmemory: pages compared then that differ now (the primary has gone on since)\n");
            e.memory.iter().for_each(|l| {
                let _ = writeln!(t, "  {l}");
            });
        }
        if !self.stack.is_empty() {
            let _ = writeln!(t, "\nthe guest's stack here, thread {}", self.thread);
            for (i, (frame, name)) in self.stack.iter().zip(backtrace::names(&self.stack, program)).enumerate() {
                let _ = writeln!(t, "  #{i:<3} {:#014x} {name}", frame.address);
            }
        }
        if !self.log.is_empty() {
            t.push_str("\nthe log around it\n");
            self.log.iter().for_each(|l| {
                let _ = writeln!(t, "  {l}");
            });
        }
        t
    }

    fn write_calls(&self, t: &mut String, different: Option<u64>) {
        let after = different.unwrap_or(u64::MAX).saturating_add(CALLS_AFTER as u64);
        let from = different.unwrap_or(self.agreed).saturating_sub(CALLS_BEFORE);
        let mut shown: Vec<PastCall> = self.calls().filter(|c| c.number > from && c.number <= after).collect();
        if different.is_none() {
            // The newest say more than those after the last agreement.
            let more = shown.len().saturating_sub(2 * CALLS_BEFORE as usize);
            shown.drain(..more);
        }
        if shown.is_empty() {
            return;
        }
        t.push_str("\ncalls here: number, thread, call, arguments, result, bytes given to the digest\n");
        for c in shown {
            let mark = if different == Some(c.number) { '!' } else { ' ' };
            let _ = writeln!(t, "{mark} {:>8} {:>3} {}", c.number, c.thread, Written(&c));
        }
    }

    /// What differs now from the primary's memory, in lines. It has gone on: pages that it works with differ too.
    fn compare_memory(&self, primary: Pid) -> Vec<String> {
        let (mut lines, mut same) = (Vec::new(), 0);
        for p in &self.pages {
            let (Some(got), Some(expected)) = (unhex(&p.hex), read(primary, p.address, PAGE as usize)) else { continue };
            let different: Vec<usize> = (0..got.len()).filter(|i| got[*i] != expected[*i]).collect();
            let Some(&first) = different.first() else {
                same += 1;
                continue;
            };
            let end = (first + 16).min(got.len());
            lines.push(format!(
                "{:#x}: {} bytes differ, first at +{first:#x}: expected {} got {}",
                p.address,
                different.len(),
                hex(&expected[first..end]),
                hex(&got[first..end])
            ));
        }
        if !self.pages.is_empty() {
            lines.push(format!("{same} pages are equal"));
        }
        lines
    }
}

/// Bytes of another process, if all of them can be read.
pub(super) fn read(pid: Pid, at: u64, n: usize) -> Option<Vec<u8>> {
    let mut b = vec![0; n];
    let from = [RemoteIoVec { base: at as usize, len: n }];
    let got = process_vm_readv(pid, &mut [IoSliceMut::new(&mut b)], &from).ok()?;
    (got == n).then_some(b)
}

/// Those in the range that aren't empty.
fn pages(pid: Pid, start: u64, end: u64) -> Vec<Page> {
    let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let own = |m: &Shown| !m.is_shared && !SHIM_REGION.contains(&m.start) && start < m.end && m.start < end;
    let ranges = maps.lines().filter_map(Shown::parse).filter(own);
    let addresses = ranges.flat_map(|m| (m.start.max(start)..m.end.min(end)).step_by(PAGE as usize));
    let page = |address| {
        let bytes = read(pid, address, PAGE as usize).filter(|b| b.iter().any(|x| *x != 0))?;
        Some(Page { address, hex: hex(&bytes) })
    };
    if start == end { Vec::new() } else { addresses.filter_map(page).take(PAGES_MAX).collect() }
}

/// An entry in words.
fn line(frame: &[u8]) -> String {
    let text = match Entry::decode(frame) {
        Ok(Entry::Event(Event::Data { conn, bytes })) => {
            format!("Data {{ conn: {conn}, {} bytes: {} }}", bytes.len(), bytes[..bytes.len().min(FIRST_BYTES)].escape_ascii())
        }
        Ok(Entry::Recorded { call, bytes }) => {
            let name = table::name(call.into()).unwrap_or("?");
            format!("Recorded {{ {name}, {} bytes: {} }}", bytes.len(), hex(&bytes[..bytes.len().min(FIRST_BYTES)]))
        }
        Ok(e) => format!("{e:?}"),
        Err(e) => e.to_string(),
    };
    text.chars().take(LINE_CHARS_MAX).collect()
}

/// A call as people write it.
struct Written<'a>(&'a PastCall);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0;
        let args: Vec<String> = c.args[..table::arity(c.call)].iter().map(|a| format!("{a:#x}")).collect();
        write!(f, "{}({})", table::name(c.call.into()).unwrap_or("?"), args.join(", "))?;
        match c.result {
            _ if c.digest == 0 => write!(f, " is under way")?,
            e @ -4095..=-1 => write!(f, " = -1 {}", nix::errno::Errno::from_raw(-e as i32))?,
            r => write!(f, " = {r:#x}")?,
        }
        if c.bytes > 0 {
            let shown = &c.first[..(c.bytes as usize).min(FIRST_BYTES)];
            let more = if c.bytes as usize > FIRST_BYTES { "..." } else { "" };
            write!(f, ", {} bytes \"{}{more}\"", c.bytes, shown.escape_ascii())?;
        }
        write!(f, ", digest {:016x}", c.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_log::entry::MemoryPart;
    use ft_log::ids::InputPoint;

    fn call(number: u64, text: &[u8]) -> PastCall {
        let mut first = [0; FIRST_BYTES];
        first[..text.len()].copy_from_slice(text);
        let args = [8, 0x7f00, text.len() as u64, 0, 0, 0];
        PastCall { number, digest: number + text.len() as u64, thread: 0, call: 1, bytes: text.len() as u32, args, result: text.len() as i64, first }
    }

    fn history(calls: impl IntoIterator<Item = PastCall>) -> Box<History> {
        let h = Box::new(History::default());
        calls.into_iter().for_each(|c| h.push(&c));
        h
    }

    fn scene(h: &History, agreed: u64, newest: u64) -> Scene {
        let memory = MemoryPart::default();
        let d = Disagreement { point: InputPoint(5), thread: 0, registers: [0; 3], agreed, newest, memory, disk_errno: 0 };
        Scene::take(0, &d, "digests differ", h, None, &[])
    }

    #[test]
    fn the_first_different_call_is_named_with_what_was_expected() {
        let same = (1..=40).map(|n| call(n, b"+OK\r\n"));
        let here = history(same.clone().chain([call(41, b"$2\r\nno"), call(42, b"x")]));
        let there = history(same.chain([call(41, b"$3\r\nyes"), call(42, b"y")]));
        let s = scene(&here, 40, 42);
        let e = Expected::of(&s, &there, None);
        let summary = s.summary(Some(&e));
        assert!(summary.contains("\"$2\\r\\nno\"") && summary.contains("expected write(0x8, 0x7f00, 0x7) = 0x7"), "{summary}");
        let text = s.text(Some(&e), Path::new("/bin/true"));
        assert!(text.contains("the first call that differs, 41 by thread 0"), "{text}");
        assert!(text.contains("!       41   0 write(") && !text.contains("       16   0 write("), "{text}");
        assert_eq!(s, serde_json::from_slice(&serde_json::to_vec(&s).unwrap()).unwrap());
    }

    #[test]
    fn a_primary_that_has_gone_far_says_so_and_nothing_is_made_up() {
        let here = history((1..=3).map(|n| call(n, b"a")));
        let there = history((2000..=3100).map(|n| call(n, b"b")));
        let s = scene(&here, 1, 3);
        let text = s.text(Some(&Expected::of(&s, &there, None)), Path::new("/bin/true"));
        assert!(text.contains("the primary no longer has its own calls"), "{text}");
        assert_eq!(s.summary(None), "digests differ");
    }

    #[test]
    fn equal_calls_are_not_blamed() {
        let both = history((1..=3).map(|n| call(n, b"a")));
        let s = scene(&both, 1, 3);
        let text = s.text(Some(&Expected::of(&s, &both, None)), Path::new("/bin/true"));
        assert!(text.contains("no call differs"), "{text}");
    }
}
