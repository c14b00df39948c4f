//! `ft keygen` as people type it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

fn keygen(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ft")).arg("keygen").args(arguments).current_dir(dir).output().unwrap()
}

#[test]
fn a_key_is_made_shown_and_never_overwritten() {
    let dir = std::env::temp_dir().join(format!("ft-keygen-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let made = keygen(&["host.key"], &dir);
    assert!(made.status.success(), "{made:?}");
    let line = String::from_utf8(made.stdout).unwrap();
    assert!(line.ends_with('\n') && line.lines().count() == 1);
    line.parse::<ft_runtime::link::PublicKey>().unwrap();
    let file = dir.join("host.key");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    let private = fs::read_to_string(&file).unwrap();

    let shown = keygen(&["--show", "host.key"], &dir);
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), line);

    let again = keygen(&["host.key"], &dir);
    assert_eq!(again.status.code(), Some(125));
    assert!(again.stdout.is_empty());
    assert!(String::from_utf8_lossy(&again.stderr).contains("host.key: there is a file already"));
    assert_eq!(fs::read_to_string(&file).unwrap(), private);
    fs::remove_dir_all(&dir).unwrap();
}
