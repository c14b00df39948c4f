//! docs/DETERMINISM.md names every system call with its class. The list is made from the shim's own table, so that
//! the page can't promise anything else than the code does. `FT_BLESS=1` writes it anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const PAGE: &str = "../docs/DETERMINISM.md";
const BEGIN: &str = "<!-- calls: begin -->\n";
const END: &str = "<!-- calls: end -->\n";
/// No call of x86-64 has a higher number.
const NUMBERS_MAX: u32 = 1024;
const LINE_BYTES: usize = 118;

/// As `ft_shim::table::class_name` calls them, in the order of the page.
const CLASSES: [&str; 6] = ["emulate", "by descriptor", "both", "record", "virtual", "refuse"];

fn calls() -> String {
    let mut by_class: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for number in 0..NUMBERS_MAX {
        if let Some(name) = ft_shim::table::name(number) {
            by_class.entry(ft_shim::table::class_name(number)).or_default().push(name);
        }
    }
    assert_eq!(by_class.len(), CLASSES.len(), "a class the page doesn't know: {:?}", by_class.keys());
    let mut out = String::new();
    for class in CLASSES {
        let mut names = by_class[class].clone();
        names.sort_unstable();
        out.push_str(&format!("\n**{class}** ({})\n\n", names.len()));
        let mut line = String::new();
        for name in names {
            if line.len() + name.len() + 1 > LINE_BYTES {
                out.push_str(line.trim_end());
                out.push('\n');
                line.clear();
            }
            line.push_str(name);
            line.push(' ');
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
    out
}

#[test]
fn the_page_lists_every_call_as_the_table_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let begin = page.find(BEGIN).expect("the list has a begin") + BEGIN.len();
    let end = page.find(END).expect("the list has an end");
    let calls = calls();
    if std::env::var_os("FT_BLESS").is_some() {
        // In one step: the other test reads the page.
        let new = path.with_extension("new");
        fs::write(&new, format!("{}{calls}{}", &page[..begin], &page[end..])).unwrap();
        fs::rename(&new, &path).unwrap();
        return;
    }
    assert!(page[begin..end] == calls, "docs/DETERMINISM.md lists other calls than ft-shim/src/table.rs; see FT_BLESS above");
}

/// A test named on the page exists and is run.
#[test]
fn the_page_names_only_tests_that_are_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/DETERMINISM.md")).unwrap();
    let table = page.split("## Sources").nth(1).and_then(|p| p.split("\n## ").next()).expect("the page has sources");
    // The suite names the programs that it leaves out.
    let suite = fs::read_to_string(root.join("tests/suites/guests.rs")).unwrap();
    let mut named = 0;
    for row in table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| source")) {
        let last = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        for name in last.split('`').skip(1).step_by(2) {
            named += 1;
            let is_guest = root.join(format!("tests/guests/{name}.c")).exists() && !suite.contains(&format!("\"{name}\""));
            let is_test = name.contains("::") && test_exists(&root, name);
            assert!(is_guest || is_test, "{name} is no test, or none that is run (in: {row})");
        }
    }
    assert!(named > 20, "only {named} tests were found on the page");
}

/// `file::function`, with the file's path from the workspace's root and without `.rs`.
fn test_exists(root: &Path, name: &str) -> bool {
    let Some((file, function)) = name.rsplit_once("::") else { return false };
    let text = fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
    text.contains(&format!("fn {function}("))
}
