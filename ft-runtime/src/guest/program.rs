//! Which programs can be guests, and plain words for why one can't.

use super::error::LaunchError;
use object::elf::{ELFCLASS64, EM_X86_64};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// As much of a file as tells what it is; the kernel looks at as much of a script's first line.
const HEAD_BYTES: usize = 256;
const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

#[derive(Debug, PartialEq)]
enum Kind {
    Elf64,
    /// Its interpreter.
    Script(String),
    /// In plain words.
    Other(&'static str),
}

fn classify(head: &[u8]) -> Kind {
    match head {
        [0x7f, b'E', b'L', b'F', class, _, ..] if head.len() >= 20 => {
            let machine = u16::from_le_bytes([head[18], head[19]]);
            match (*class, machine) {
                (ELFCLASS64, EM_X86_64) => Kind::Elf64,
                (_, EM_X86_64) => Kind::Other("an x32 program"),
                (1, _) => Kind::Other("a 32-bit program"),
                _ => Kind::Other("a program for another processor"),
            }
        }
        [b'#', b'!', rest @ ..] => {
            let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            Kind::Script(line.split_ascii_whitespace().next().unwrap_or_default().to_owned())
        }
        [] => Kind::Other("an empty file"),
        _ => Kind::Other("neither an ELF program nor a script that starts with #!"),
    }
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Explains a failed exec.
pub(super) fn explain_exec(program: &Path, source: &io::Error) -> LaunchError {
    let (why, advice) = match source.raw_os_error() {
        Some(libc::ENOENT) => match head(program).map(|h| classify(&h)) {
            Ok(Kind::Script(interpreter)) => (
                format!("it is a script and its interpreter {interpreter:?} is missing"),
                "install the interpreter or correct the first line of the script".into(),
            ),
            Ok(_) => (
                "the dynamic loader it names is missing".into(),
                "see `readelf -l` of it for the loader; install the libraries it was linked against".into(),
            ),
            Err(_) => ("there is no such file".into(), "check the path".into()),
        },
        Some(libc::EACCES) => {
            let mode = std::fs::metadata(program).map(|m| m.permissions().mode());
            match mode {
                Ok(mode) if program.is_dir() => (format!("it is a directory (mode {mode:o})"), "name a file".into()),
                Ok(mode) if mode & 0o111 == 0 => {
                    (format!("it is not executable (mode {:o})", mode & 0o7777), "chmod +x it".into())
                }
                _ => (
                    "permission denied".into(),
                    "is a directory on its path closed, its file system mounted noexec, or its interpreter not executable?"
                        .into(),
                ),
            }
        }
        Some(libc::ENOEXEC) => match head(program).map(|h| classify(&h)) {
            Ok(Kind::Other(what)) => {
                (format!("it is {what}"), "ft runs 64-bit x86 programs and scripts with #!".into())
            }
            Ok(Kind::Script(interpreter)) => (
                format!("it is a script whose interpreter {interpreter:?} is unusable"),
                "correct the first line of the script".into(),
            ),
            _ => ("the kernel does not know its format".into(), "is the file whole?".into()),
        },
        Some(libc::E2BIG) => (
            "its arguments and environment are too long".into(),
            "with the guest's stack of 8 MiB the kernel takes 2 MiB of both together".into(),
        ),
        _ => (source.to_string(), "see execve(2)".into()),
    };
    LaunchError::Program { program: program.to_owned(), why, advice }
}

/// Looks at the program a stopped process has become; `exe` is its /proc/PID/exe.
pub(super) fn check_executed(program: &Path, exe: &Path) -> Result<(), LaunchError> {
    let strange = |e: io::Error| LaunchError::Strange { what: format!("no {}: {e}", exe.display()) };
    let unsupported = |why: String, advice: &str| {
        Err(LaunchError::Unsupported { program: program.to_owned(), why, advice: advice.into() })
    };
    if let Kind::Other(what) = classify(&head(exe).map_err(strange)?) {
        return unsupported(format!("it is {what}"), "ft protects 64-bit x86 programs only");
    }
    let m = std::fs::metadata(exe).map_err(strange)?;
    let set_group_id = SET_GROUP_ID | GROUP_EXECUTE;
    if m.mode() & SET_USER_ID != 0 || m.mode() & set_group_id == set_group_id {
        return unsupported(
            format!("it is set-user-id or set-group-id (mode {:o})", m.mode() & 0o7777),
            "start ft as the user the server shall run as, and clear the bit on a copy of the program",
        );
    }
    Ok(())
}

/// For a program that the kernel itself calls privileged.
pub(super) fn privileged(program: &Path) -> LaunchError {
    LaunchError::Unsupported {
        program: program.to_owned(),
        why: "executing it grants privileges (file capabilities)".into(),
        advice: "remove them from the file (setcap -r) and give ft the capabilities the server needs".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, machine: u16) -> Vec<u8> {
        let mut h = vec![0; 64];
        h[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        h[18..20].copy_from_slice(&machine.to_le_bytes());
        h
    }

    #[test]
    fn tells_programs_apart() {
        assert_eq!(classify(&elf(2, 62)), Kind::Elf64);
        assert_eq!(classify(&elf(1, 3)), Kind::Other("a 32-bit program"));
        assert_eq!(classify(&elf(1, 62)), Kind::Other("an x32 program"));
        assert_eq!(classify(&elf(2, 183)), Kind::Other("a program for another processor"));
        assert_eq!(classify(b"#! /bin/sh -e\nexit"), Kind::Script("/bin/sh".into()));
        assert_eq!(classify(b"#!"), Kind::Script(String::new()));
        assert_eq!(classify(b""), Kind::Other("an empty file"));
        assert!(matches!(classify(b"\x7fELF"), Kind::Other(_)));
    }
}
