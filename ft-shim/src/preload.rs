//! `LD_PRELOAD=libft_shim.so PROGRAM`: the same shared object, loaded by the dynamic linker instead of injected.
//!
//! By then the linker has made dozens of calls and chosen its functions by cpuid: too late to make the program
//! deterministic. So all that happens here is that the program asks the engine to be its guest, makes itself what a guest
//! must be before exec (as `guest/child.rs` does for a new process), and executes itself anew, under injection.
//!
//! Laws: nothing of the program's own has run, and nothing of it ever runs here: it becomes a guest, or ends with
//! [`EXIT_FT`] and says why; only raw system calls, and no memory but what is mapped here (the shim's heap is not there).

use crate::raw::{self, EACCES, ECONNREFUSED, EINTR, ENOENT, ENOTDIR, nr};
use core::fmt::{self, Write};
use ft_log::adopt::{
    BECOME, BECOME_WORDS, DESCRIPTORS, GO, HEAD_BYTES, Head, READY, REFUSED, REQUEST, Step, TEXT_BYTES_MAX, failure,
};
use ft_log::shared::{DOORBELL_FD, LIFELINE_FD, SEGMENT_FD, STAGING_FD};

/// As `ft` itself: the fault is not the program's.
const EXIT_FT: i32 = 125;
const DIRECTORY: &[u8] = b"/run/ft\0";
const SUFFIX: &[u8] = b".sock";
const VARIABLE: &[u8] = b"FT_SOCKET=";
/// For an engine that is being started, if its socket was named.
const ENGINE_AWAITED_NS: u64 = 5 * raw::NS;
const LOOK_EVERY_NS: u64 = 20_000_000;
const ENVIRONMENT_BYTES_MAX: usize = 4 << 20;
/// `sun_path` with its end.
const PATH_BYTES_MAX: usize = 108;
const SIGNALS_MAX: u32 = 64;

/// The dynamic linker calls it before anything of the program's. An injected image has nobody who does.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    let path = socket_path();
    let socket = connect(&path);
    send(socket, REQUEST);
    let mut text = Text::none();
    let (head, fds) = hear(socket, &path, &mut text);
    let Some(fds) = fds.filter(|_| head.kind == BECOME) else {
        fail(|l| write!(l, "the engine of {path} did not say what to become; is it of the same version as this library?"))
    };
    if let Err((step, errno)) = become_guest(socket, fds, &text, &path) {
        set_flags(LIFELINE_FD, 0);
        send(socket, &failure(step, errno));
        // The engine has the words for it.
        hear(socket, &path, &mut text);
        fail(|l| write!(l, "step {step:?} on the way to becoming a guest failed with errno {errno}"));
    }
}

/// Up to exec. Returns only what failed.
fn become_guest(socket: i32, fds: [i32; DESCRIPTORS], text: &Text, path: &Path) -> Result<(), (Step, i32)> {
    let at = |step| move |errno: i32| (step, errno);
    let mut strings = Strings::parse(text.bytes()).ok_or((Step::Exec, 0))?;
    // Off the places that will be taken.
    let socket = stage(socket).map_err(at(Step::Descriptors))?;
    place(fds).map_err(at(Step::Descriptors))?;
    reset_signals().map_err(at(Step::Signals))?;
    const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
    // SAFETY: takes no memory; concerns this process alone.
    check(unsafe { raw!(nr::PERSONALITY, ADDR_NO_RANDOMIZE) }).map_err(at(Step::Personality))?;
    // SAFETY: `cwd` ends with a zero byte (`Strings::parse`).
    check(unsafe { raw!(nr::CHDIR, strings.cwd.as_ptr() as u64) }).map_err(at(Step::Directory))?;
    // SAFETY: takes no memory.
    unsafe { raw!(nr::UMASK, strings.umask) };
    send(socket, &READY);
    let (head, _) = hear(socket, path, &mut Text::none());
    if head.kind != GO {
        return Err((Step::Trace, 0));
    }
    // Not before: until now it can still be told why it is not the guest.
    tie_to_engine().map_err(at(Step::DeathSignal))?;
    let (argv, env) = strings.pointers().ok_or((Step::Exec, raw::ENOMEM as i32))?;
    // SAFETY: strings that end with a zero byte and arrays of them that end with a null pointer (`pointers`).
    let r = unsafe { raw!(nr::EXECVE, strings.program.as_ptr() as u64, argv, env) };
    Err((Step::Exec, -r as i32))
}

fn check(r: i64) -> Result<i32, i32> {
    if r < 0 { Err(-r as i32) } else { Ok(r as i32) }
}

const F_DUPFD_CLOEXEC: u32 = 1030;

fn stage(fd: i32) -> Result<i32, i32> {
    // SAFETY: duplicates a descriptor; takes no memory.
    check(unsafe { raw!(nr::FCNTL, fd, F_DUPFD_CLOEXEC, STAGING_FD) })
}

/// Standard output and error stay; all else of the program's own goes at exec.
fn place(fds: [i32; DESCRIPTORS]) -> Result<(), i32> {
    let [stdin, doorbell, segment, lifeline] = fds;
    let mut places = [(stdin, 0), (doorbell, DOORBELL_FD), (segment, SEGMENT_FD), (lifeline, LIFELINE_FD)];
    for (from, _) in &mut places {
        *from = stage(*from)?;
    }
    const F_GETFD: u32 = 1;
    for fd in [1, 2] {
        // SAFETY: looks at a descriptor; then gives it /dev/null, as stdin has, where it is closed.
        unsafe {
            if raw!(nr::FCNTL, fd, F_GETFD) < 0 {
                check(raw!(nr::DUP3, places[0].0, fd, 0))?;
            }
        }
    }
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: flags of this process's descriptors; nothing of the program has run that could use them.
    check(unsafe { raw!(nr::CLOSE_RANGE, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) })?;
    for (from, to) in places {
        // SAFETY: as above.
        check(unsafe { raw!(nr::DUP3, from, to, 0) })?;
    }
    Ok(())
}

/// The engine holds the other end of the lifeline: when it is gone, the kernel sends the signal that was asked for.
fn tie_to_engine() -> Result<(), i32> {
    const F_SETOWN: u32 = 8;
    const F_SETSIG: u32 = 10;
    const O_ASYNC: u32 = 0o20000;
    const SIGKILL: u32 = 9;
    // SAFETY: no memory; that the signal comes is meant.
    unsafe {
        check(raw!(nr::FCNTL, LIFELINE_FD, F_SETOWN, raw!(nr::GETPID)))?;
        check(raw!(nr::FCNTL, LIFELINE_FD, F_SETSIG, SIGKILL))?;
    }
    set_flags(LIFELINE_FD, O_ASYNC);
    // An engine that was gone before sends nothing any more.
    const POLLHUP: u64 = 0x10;
    const REVENTS_SHIFT: u32 = 48;
    let mut poll = LIFELINE_FD as u64;
    // SAFETY: one pollfd (descriptor, no events, revents), valid for the call, which doesn't wait.
    unsafe { raw!(nr::POLL, &raw mut poll as u64, 1, 0) };
    if poll >> REVENTS_SHIFT & POLLHUP != 0 { Err(raw::ESRCH as i32) } else { Ok(()) }
}

fn set_flags(fd: i32, flags: u32) {
    const F_SETFL: u32 = 4;
    // SAFETY: no memory. It can't fail on a pipe.
    unsafe { raw!(nr::FCNTL, fd, F_SETFL, flags) };
}

/// As after a fork of the engine's: nothing ignored, and everything blocked until the shim is in, but the exec stop.
fn reset_signals() -> Result<(), i32> {
    const SIGKILL: u32 = 9;
    const SIGTRAP: u32 = 5;
    const SIGSTOP: u32 = 19;
    const SIG_SETMASK: u32 = 2;
    let default = [0u64; 4];
    for signal in (1..=SIGNALS_MAX).filter(|s| ![SIGKILL, SIGSTOP].contains(s)) {
        // SAFETY: the kernel reads its 32-byte struct from `default` and writes nothing.
        check(unsafe { raw!(nr::RT_SIGACTION, signal, default.as_ptr() as u64, 0, 8) })?;
    }
    let mask: u64 = !(1 << (SIGTRAP - 1));
    // SAFETY: reads one word.
    check(unsafe { raw!(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const mask as u64, 0, 8) })?;
    Ok(())
}

/// What [`BECOME`]'s text says.
struct Strings<'a> {
    umask: u32,
    argc: usize,
    envc: usize,
    cwd: &'a [u8],
    program: &'a [u8],
    /// Arguments and variables.
    rest: &'a [u8],
}

impl<'a> Strings<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (words, mut rest) = text.split_at_checked(4 * BECOME_WORDS)?;
        let word = |n: usize| u32::from_le_bytes([words[4 * n], words[4 * n + 1], words[4 * n + 2], words[4 * n + 3]]);
        let mut string = || {
            let end = rest.iter().position(|b| *b == 0)?;
            let (s, left) = rest.split_at(end + 1);
            rest = left;
            Some(s)
        };
        let (cwd, program) = (string()?, string()?);
        let (argc, envc) = (word(1) as usize, word(2) as usize);
        let ends = rest.iter().filter(|b| **b == 0).count();
        (Some(ends) == argc.checked_add(envc)).then_some(Self { umask: word(0), argc, envc, cwd, program, rest })
    }

    /// Addresses of both arrays, as exec takes them.
    fn pointers(&mut self) -> Option<(u64, u64)> {
        let words = self.argc + self.envc + 2;
        let base = map(words * 8)?;
        let mut at = base as *mut u64;
        let mut rest = self.rest;
        for n in 0..self.argc + self.envc {
            if n == self.argc {
                // The array's null pointer is there: new memory is zero.
                at = at.wrapping_add(1);
            }
            // SAFETY: `words` of them were mapped, and each is written once.
            unsafe { at.write(rest.as_ptr() as u64) };
            at = at.wrapping_add(1);
            let end = rest.iter().position(|b| *b == 0)?;
            rest = &rest[end + 1..];
        }
        Some((base, base + 8 * (self.argc as u64 + 1)))
    }
}

/// New memory.
fn map(bytes: usize) -> Option<u64> {
    const PROT_RW: u32 = 3;
    const MAP_PRIVATE_ANONYMOUS: u32 = 0x22;
    // SAFETY: a new mapping takes nothing from anybody.
    let r = unsafe { raw!(nr::MMAP, 0, bytes.max(1), PROT_RW, MAP_PRIVATE_ANONYMOUS, u64::MAX, 0) };
    (r > 0).then_some(r as u64)
}

/// What came, in memory of its own; it stays mapped until exec.
struct Text {
    at: u64,
    bytes: usize,
}

impl Text {
    fn none() -> Self {
        Self { at: 0, bytes: 0 }
    }

    fn bytes(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: mapped and filled by `hear`, never unmapped, never written again.
        unsafe { core::slice::from_raw_parts(self.at as *const u8, self.bytes) }
    }
}

fn send(socket: i32, bytes: &[u8]) {
    const MSG_NOSIGNAL: u32 = 0x4000;
    // SAFETY: the kernel reads the slice. That the other end is gone is noticed where its answer is awaited; what is sent
    // is short, and nobody else fills the socket.
    unsafe { raw!(nr::SENDTO, socket, bytes.as_ptr() as u64, bytes.len(), MSG_NOSIGNAL, 0, 0) };
}

#[repr(C)]
struct Message {
    name: u64,
    name_bytes: u64,
    vectors: u64,
    vectors_count: u64,
    control: u64,
    control_bytes: u64,
    flags: u64,
}

#[repr(C, align(8))]
struct Control {
    bytes: u64,
    level: u32,
    kind: u32,
    fds: [i32; DESCRIPTORS],
}

/// The engine's next word. It may be long in coming: the other host may not be there yet. A refusal ends the program.
fn hear(socket: i32, path: &Path, text: &mut Text) -> (Head, Option<[i32; DESCRIPTORS]>) {
    let mut head = [0u8; HEAD_BYTES];
    let mut control = Control { bytes: 0, level: 0, kind: 0, fds: [-1; DESCRIPTORS] };
    let vector = [head.as_mut_ptr() as u64, HEAD_BYTES as u64];
    let mut message = Message {
        name: 0,
        name_bytes: 0,
        vectors: vector.as_ptr() as u64,
        vectors_count: 1,
        control: &raw mut control as u64,
        control_bytes: size_of::<Control>() as u64,
        flags: 0,
    };
    const MSG_WAITALL: u32 = 0x100;
    const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
    let n = loop {
        // SAFETY: all pointers are to locals, with their sizes.
        let r = unsafe { raw!(nr::RECVMSG, socket, &raw mut message as u64, MSG_WAITALL | MSG_CMSG_CLOEXEC) };
        if r != -EINTR {
            break r;
        }
    };
    if n != HEAD_BYTES as i64 {
        fail(|l| write!(l, "the engine of {path} has ended; start it again with `ft run`"));
    }
    let Some(decoded) = Head::decode(&head) else {
        // One that does not know the request says so in a line.
        fail(|l| {
            write!(l, "the engine of {path} does not take programs: ")?;
            l.bytes(&head);
            let mut b = [0; 1024];
            let n = read(socket, &mut b);
            l.bytes(&b[..n]);
            Ok(())
        });
    };
    if decoded.text_bytes > 0 {
        let bytes = decoded.text_bytes.min(TEXT_BYTES_MAX) as usize;
        let Some(at) = map(bytes) else { fail(|l| write!(l, "no memory for {bytes} bytes")) };
        // SAFETY: just mapped, so long.
        let room = unsafe { core::slice::from_raw_parts_mut(at as *mut u8, bytes) };
        let mut got = 0;
        while got < bytes {
            match read(socket, &mut room[got..]) {
                0 => fail(|l| write!(l, "the engine of {path} ended in the middle of a word")),
                n => got += n,
            }
        }
        *text = Text { at, bytes };
    }
    if decoded.kind == REFUSED {
        fail(|l| {
            write!(l, "the engine of {path} refuses: ")?;
            l.bytes(text.bytes());
            Ok(())
        });
    }
    const SOL_SOCKET: u32 = 1;
    const SCM_RIGHTS: u32 = 1;
    let came = control.bytes == 16 + 4 * DESCRIPTORS as u64 && (control.level, control.kind) == (SOL_SOCKET, SCM_RIGHTS);
    (decoded, came.then_some(control.fds))
}

/// 0 at the end, and if it can't be read.
fn read(fd: i32, room: &mut [u8]) -> usize {
    loop {
        // SAFETY: the kernel writes at most the slice.
        match unsafe { raw!(nr::READ, fd, room.as_mut_ptr() as u64, room.len()) } {
            r if r == -EINTR => {}
            r => return r.max(0) as usize,
        }
    }
}

/// Of a control socket, with its zero byte.
struct Path {
    bytes: [u8; PATH_BYTES_MAX],
    len: usize,
    /// By the user, who may have started its engine just now.
    named: bool,
}

impl Path {
    fn new(parts: &[&[u8]], named: bool) -> Self {
        let mut p = Self { bytes: [0; PATH_BYTES_MAX], len: 0, named };
        for part in parts {
            if p.len + part.len() >= PATH_BYTES_MAX {
                fail(|l| {
                    write!(l, "the path of a control socket is too long: ")?;
                    l.bytes(part);
                    write!(l, "; {} bytes are possible", PATH_BYTES_MAX - 1)
                });
            }
            p.bytes[p.len..p.len + part.len()].copy_from_slice(part);
            p.len += part.len();
        }
        p
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("(a path that is not UTF-8)"))
    }
}

/// The one that was named, or else the only one there is.
fn socket_path() -> Path {
    if let Some(named) = named_socket() {
        return named;
    }
    let mut found: Option<Path> = None;
    let mut several = Line::new();
    let mut count = 0;
    each_socket(|name| {
        let p = Path::new(&[&DIRECTORY[..DIRECTORY.len() - 1], b"/", name], false);
        let _ = write!(several, "{}{p}", if count > 0 { ", " } else { "" });
        count += 1;
        found = Some(p);
    });
    match (count, found) {
        (1, Some(p)) => p,
        (0, _) => fail(|l| {
            l.write_str(
                "no engine runs here: there is no control socket in /run/ft. Start one that takes a program: `ft run --config \
                 FILE` with `preload = true` in [service], or `ft run --solo --preload SOCKET`. If its socket lies elsewhere, \
                 name it: FT_SOCKET=PATH",
            )
        }),
        _ => fail(|l| {
            l.write_str("several services run here: ")?;
            l.bytes(several.so_far());
            l.write_str("; say which: FT_SOCKET=PATH")
        }),
    }
}

fn named_socket() -> Option<Path> {
    let Some(at) = map(ENVIRONMENT_BYTES_MAX) else { fail(|l| write!(l, "no memory")) };
    // SAFETY: just mapped, so long.
    let room = unsafe { core::slice::from_raw_parts_mut(at as *mut u8, ENVIRONMENT_BYTES_MAX) };
    // SAFETY: a constant path that ends with a zero byte.
    let fd = unsafe { raw!(nr::OPEN, c"/proc/self/environ".as_ptr() as u64, O_CLOEXEC) };
    if fd < 0 {
        fail(|l| write!(l, "/proc is not there (errno {}): mount it", -fd));
    }
    let mut len = 0;
    loop {
        match read(fd as i32, &mut room[len..]) {
            0 => break,
            n => len += n,
        }
    }
    close(fd as i32);
    let value = room[..len].split(|b| *b == 0).find_map(|v| v.strip_prefix(VARIABLE)).filter(|v| !v.is_empty())?;
    let path = Path::new(&[value], true);
    // SAFETY: exactly what was mapped, and nothing refers to it any more.
    unsafe { raw!(nr::MUNMAP, at, ENVIRONMENT_BYTES_MAX) };
    Some(path)
}

const O_CLOEXEC: u32 = 0o2000000;

fn close(fd: i32) {
    // SAFETY: a descriptor that was opened here.
    unsafe { raw!(nr::CLOSE, fd) };
}

/// Names in the directory that end as control sockets do.
fn each_socket(mut f: impl FnMut(&[u8])) {
    // SAFETY: a constant path that ends with a zero byte.
    let fd = unsafe { raw!(nr::OPEN, DIRECTORY.as_ptr() as u64, O_CLOEXEC) };
    if fd < 0 {
        return;
    }
    let mut room = [0u8; 4096];
    loop {
        // SAFETY: the kernel writes at most the buffer.
        let n = unsafe { raw!(nr::GETDENTS64, fd, room.as_mut_ptr() as u64, room.len()) };
        if n <= 0 {
            break;
        }
        let mut entries = &room[..n as usize];
        // ino and off: 8 bytes each, the entry's length: 2, its type: 1, the name with a zero byte.
        const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
        while entries.len() > NAME_AT {
            let length = usize::from(u16::from_le_bytes([entries[LENGTH_AT], entries[LENGTH_AT + 1]]));
            let name = &entries[NAME_AT..length];
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            if name.ends_with(SUFFIX) {
                f(name);
            }
            entries = &entries[length..];
        }
    }
    close(fd as i32);
}

fn connect(path: &Path) -> i32 {
    const AF_UNIX: u32 = 1;
    const SOCK_STREAM_CLOEXEC: u32 = 0o2000001;
    const CLOCK_MONOTONIC: i32 = 1;
    let mut address = [0u8; 2 + PATH_BYTES_MAX];
    address[0] = AF_UNIX as u8;
    address[2..].copy_from_slice(&path.bytes);
    let began = raw::host_clock_ns(CLOCK_MONOTONIC);
    loop {
        // SAFETY: takes no memory.
        let fd = unsafe { raw!(nr::SOCKET, AF_UNIX, SOCK_STREAM_CLOEXEC, 0) };
        if fd < 0 {
            fail(|l| write!(l, "no socket can be made: errno {}", -fd));
        }
        // SAFETY: the kernel reads the address, whose length is given.
        let r = unsafe { raw!(nr::CONNECT, fd, address.as_ptr() as u64, address.len()) };
        if r == 0 {
            return fd as i32;
        }
        close(fd as i32);
        let starts = path.named && raw::host_clock_ns(CLOCK_MONOTONIC) - began < ENGINE_AWAITED_NS;
        match -r {
            EINTR => {}
            ENOENT | ENOTDIR | ECONNREFUSED if starts => sleep(LOOK_EVERY_NS),
            ENOENT | ENOTDIR => fail(|l| {
                write!(l, "no engine runs here: there is no {path}. Start it with `ft run`, or correct FT_SOCKET")
            }),
            ECONNREFUSED => fail(|l| write!(l, "the engine of {path} has ended; start it again with `ft run`")),
            EACCES => fail(|l| {
                write!(l, "{path} may not be opened by this user: start the program as root, or let its user write there")
            }),
            errno => fail(|l| write!(l, "{path}: connecting failed with errno {errno}")),
        }
    }
}

fn sleep(ns: u64) {
    let time = raw::Timespec::from_ns(ns);
    // SAFETY: the kernel reads one timespec.
    unsafe { raw!(nr::NANOSLEEP, &raw const time as u64, 0) };
}

/// What is said at the end.
struct Line {
    bytes: [u8; 4096],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; 4096], len: 0 }
    }

    /// What has no room is left out.
    fn bytes(&mut self, b: &[u8]) {
        let n = b.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&b[..n]);
        self.len += n;
    }

    fn so_far(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

/// The program ends before it began.
fn fail(say: impl FnOnce(&mut Line) -> fmt::Result) -> ! {
    let mut line = Line::new();
    line.bytes(b"ft: ");
    let _ = say(&mut line);
    // Room for the last byte.
    line.len = line.len.min(line.bytes.len() - 1);
    line.bytes(b"\n");
    raw::complain(line.so_far());
    raw::exit_process(EXIT_FT)
}
