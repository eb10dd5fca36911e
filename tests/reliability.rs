//! docs/reliability.md names tests that exist.

use std::path::{Path, PathBuf};

/// The workspace's Rust files, and what is in them.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = ["crates", "examples", "tests", "src"].map(|folder| root.join(folder)).to_vec();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                files.push((path, text));
            }
        }
    }
    files
}

/// What stands between backticks in the last column of the page's tables.
fn named(page: &str) -> Vec<&str> {
    let cells =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once(" | "));
    cells.flat_map(|(_, holders)| holders.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_promise_is_held_by_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/reliability.md")).expect("the page");
    let (page, _) = page.split_once("\n## Mutants").expect("a section on mutants, without promises");
    let (names, sources) = (named(page), sources());
    assert!(names.len() > 50, "{names:?}");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise"));
    for row in rows {
        assert!(!named(row).is_empty(), "held by nothing: {row}");
    }
    let exists = |name: &str| {
        if name.contains('/') {
            return root.join(name).exists();
        }
        let (module, function) = name.rsplit_once("::").unwrap_or(("", name));
        let declared = format!("fn {function}(");
        sources.iter().any(|(path, text)| {
            let here = module.is_empty() || path.file_stem().is_some_and(|stem| stem == module);
            here && text.contains(&declared)
        })
    };
    let absent: Vec<_> = names.into_iter().filter(|name| !exists(name)).collect();
    assert!(absent.is_empty(), "docs/reliability.md names what does not exist: {absent:?}");
}
