//! Which files a program is made of when it starts: interpreters of scripts, the loader, the libraries it loads.
//!
//! The loader itself is asked (`ld.so --list`), in the guest's environment: only it knows its cache, its paths and
//! what the environment preloads. It runs nothing of the program.

use super::{HelloError, Subject, io_error};
use crate::engine::sys::pidfd_open;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, elf::FileHeader64};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Scripts whose interpreter is a script; the kernel follows as many.
const INTERPRETERS_MAX: usize = 5;
const SCRIPT_LINE_BYTES: usize = 256;
const LOADER_MAX: Duration = Duration::from_secs(10);
const LIST_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, PartialEq)]
enum Kind {
    Script { interpreter: PathBuf },
    Dynamic { loader: PathBuf },
    Static,
}

/// All but the program itself.
pub(super) fn loaded_at_start(s: &Subject) -> Result<Vec<PathBuf>, HelloError> {
    let refused = |program: &Path, why: &str| HelloError::Program { program: program.to_owned(), why: why.into() };
    let mut files = Vec::new();
    let mut program = s.program.to_owned();
    for _ in 0..=INTERPRETERS_MAX {
        match kind(&program)? {
            Kind::Script { interpreter } => {
                program = s.cwd.join(interpreter);
                files.push(program.clone());
            }
            Kind::Static => return Ok(files),
            Kind::Dynamic { loader } => {
                let text = ask_loader(&loader, &program, s)?;
                for path in parse_list(&text).map_err(|missing| {
                    refused(&program, &format!("its library {missing} is not found; install the package that has it"))
                })? {
                    let path = s.cwd.join(path);
                    if !files.contains(&path) {
                        files.push(path);
                    }
                }
                return Ok(files);
            }
        }
    }
    Err(refused(s.program, "its interpreter is a script whose interpreter is a script, and so on"))
}

fn kind(program: &Path) -> Result<Kind, HelloError> {
    let mut file = File::open(program).map_err(io_error(program.display().to_string()))?;
    let mut head = Vec::new();
    Read::by_ref(&mut file)
        .take(SCRIPT_LINE_BYTES as u64)
        .read_to_end(&mut head)
        .and_then(|_| file.rewind())
        .map_err(io_error(program.display().to_string()))?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let word = line.split(u8::is_ascii_whitespace).find(|w| !w.is_empty()).unwrap_or_default();
        return Ok(Kind::Script { interpreter: OsStr::from_bytes(word).into() });
    }
    let unreadable = |e: object::Error| HelloError::Program {
        program: program.to_owned(),
        why: format!("no 64-bit ELF program: {e}"),
    };
    let data = &ReadCache::new(file);
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(unreadable)?;
    let endian = header.endian().map_err(unreadable)?;
    for segment in header.program_headers(endian, data).map_err(unreadable)? {
        if let Some(path) = segment.interpreter(endian, data).map_err(unreadable)? {
            return Ok(Kind::Dynamic { loader: OsStr::from_bytes(path).into() });
        }
    }
    Ok(Kind::Static)
}

fn ask_loader(loader: &Path, program: &Path, s: &Subject) -> Result<Vec<u8>, HelloError> {
    let what = || format!("{} --list {}", loader.display(), program.display());
    let failed = |why: String| HelloError::Program { program: program.to_owned(), why };
    // Not a pipe: a loader that says much must not wait for us while we wait for it.
    let said = || {
        memfd_create(c"loader", MFdFlags::MFD_CLOEXEC).map(File::from).map_err(|e| io_error("memfd_create")(e.into()))
    };
    let (mut out, mut err) = (said()?, said()?);
    let stdio = |f: &File| f.try_clone().map(Stdio::from).map_err(io_error("duplicating a descriptor"));
    let mut child = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env_clear()
        .envs(s.env.iter().map(|(k, v)| (k, v)))
        .current_dir(s.cwd)
        .stdin(Stdio::null())
        .stdout(stdio(&out)?)
        .stderr(stdio(&err)?)
        .spawn()
        .map_err(io_error(what()))?;
    let ended = pidfd_open(child.id() as i32).and_then(|fd| readable_within(&fd, LOADER_MAX));
    if !matches!(ended, Ok(true)) {
        // It is reaped below.
        let _ = child.kill();
    }
    let status = child.wait().map_err(io_error(what()))?;
    if !ended.map_err(io_error(what()))? {
        return Err(failed(format!("{} took longer than {} s; is a file system slow?", what(), LOADER_MAX.as_secs())));
    }
    let read = |f: &mut File| {
        let mut text = Vec::new();
        f.rewind()?;
        f.take(LIST_BYTES_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read(&mut out).map_err(io_error(what()))?;
    if !status.success() {
        let why = read(&mut err).map_err(io_error(what()))?;
        return Err(failed(format!("{} failed ({status}): {}", what(), String::from_utf8_lossy(&why).trim())));
    }
    Ok(text)
}

fn readable_within(fd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let ms = PollTimeout::try_from(left.as_millis() as i32 + 1).expect("a few seconds");
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], ms) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Paths in the loader's order; an error is the name of a library that is missing.
///
/// Lines are `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)`, `NAME => not found`; the kernel's vDSO has no path.
fn parse_list(text: &[u8]) -> Result<Vec<PathBuf>, String> {
    const ARROW: &[u8] = b" => ";
    let mut paths = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let line = line.trim_ascii();
        let (name, target) = match line.windows(ARROW.len()).position(|w| w == ARROW) {
            Some(at) => (&line[..at], &line[at + ARROW.len()..]),
            None => (line, line),
        };
        if target == b"not found" {
            return Err(String::from_utf8_lossy(name).into_owned());
        }
        let Some(end) = target.windows(4).rposition(|w| w == b" (0x") else { continue };
        let path = &target[..end];
        if path.contains(&b'/') {
            paths.push(OsString::from_vec(path.to_vec()).into());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_loader() {
        let text = b"\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/with (odd) name/libz.so.1 (0x00007f5e)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f5e)\n";
        assert_eq!(
            parse_list(text).unwrap(),
            [Path::new("/lib/with (odd) name/libz.so.1"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert_eq!(parse_list(b"\tliba.so => not found\n"), Err("liba.so".into()));
        assert_eq!(parse_list(b"\tstatically linked\n"), Ok(vec![]));
    }
}
