//! Holds the direction of the imports and the promises every library crate makes: who may use whom, where `unsafe` and
//! `cfg(feature = "cuda")` may stand, that libraries do not print, and that the facade only re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may import from this workspace. Only `train` joins data, models, losses and optimizers.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("wrn-sam-collective", &[]),
    ("wrn-sam-analysis", &["wrn-sam-kernels"]),
    ("wrn-sam-charts", &[]),
    ("wrn-sam-data", &["wrn-sam-files", "wrn-sam-kernels"]),
    ("wrn-sam-files", &[]),
    ("wrn-sam-kernels", &[]),
    ("wrn-sam-losses", &["wrn-sam-kernels"]),
    ("wrn-sam-models", &["wrn-sam-files", "wrn-sam-kernels"]),
    ("wrn-sam-optim", &["wrn-sam-collective", "wrn-sam-kernels"]),
    (
        "wrn-sam-train",
        &[
            "wrn-sam-collective",
            "wrn-sam-charts",
            "wrn-sam-data",
            "wrn-sam-files",
            "wrn-sam-kernels",
            "wrn-sam-losses",
            "wrn-sam-models",
            "wrn-sam-optim",
        ],
    ),
    (
        "wrn-sam",
        &[
            "wrn-sam-collective",
            "wrn-sam-analysis",
            "wrn-sam-charts",
            "wrn-sam-data",
            "wrn-sam-files",
            "wrn-sam-kernels",
            "wrn-sam-losses",
            "wrn-sam-models",
            "wrn-sam-optim",
            "wrn-sam-train",
        ],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The workspace's packages and, of each, the workspace packages among its dependencies of every kind.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_string();
    let members: BTreeSet<String> = packages.iter().map(name).collect();
    let direct = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        dependencies.iter().map(name).filter(|name| members.contains(name)).collect()
    };
    packages.iter().map(|package| (name(package), direct(package))).collect()
}

/// Rust files below `folder`, sorted.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no sources in {}", folder.display());
    files
}

/// A file's lines of code with their numbers: no comments, nothing from its test module (the last item) on.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim().to_string()))
        .take_while(|(_, line)| line != "#[cfg(test)]")
        .filter(|(_, line)| !line.starts_with("//"))
        .collect()
}

fn library_crates() -> Vec<PathBuf> {
    MAY_IMPORT
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("wrn-sam-"))
        .map(|name| root().join("crates").join(name))
        .collect()
}

#[test]
fn imports_run_one_way() {
    let imports = imports();
    let known: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    assert_eq!(found, known, "a crate came or went: say here what it may import");
    for (name, allowed) in MAY_IMPORT {
        for import in &imports[name] {
            assert!(
                allowed.contains(&import.as_str()),
                "{name} imports {import}; it may import only {allowed:?}"
            );
        }
    }
}

#[test]
fn train_joins_data_models_losses_and_optimizers() {
    let imports = imports();
    let expected: BTreeSet<String> =
        ["data", "models", "losses", "optim"].iter().map(|name| format!("wrn-sam-{name}")).collect();
    assert!(imports["wrn-sam-train"].is_superset(&expected), "{:?}", imports["wrn-sam-train"]);
}

#[test]
fn only_kernels_has_unsafe_code_and_cuda() {
    for folder in library_crates() {
        if folder.ends_with("kernels") {
            continue;
        }
        let page = std::fs::read_to_string(folder.join("src/lib.rs")).expect("a lib.rs");
        assert!(page.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", folder.display());
        for file in sources(&folder.join("src")) {
            for (number, line) in code(&file) {
                // The models choose between the kernels' backends; one of them needs the feature.
                let cuda = line.contains("feature = \"cuda\"") && !folder.ends_with("models");
                assert!(!cuda, "{}:{number}: CUDA code belongs in kernels", file.display());
            }
        }
    }
    let facade = std::fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    assert!(facade.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn libraries_do_not_print() {
    let prints = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    for folder in library_crates() {
        for file in sources(&folder.join("src")) {
            for (number, line) in code(&file) {
                let printing = prints.iter().any(|name| line.contains(name));
                assert!(!printing, "{}:{number}: libraries do not print: {line}", file.display());
            }
        }
    }
}

/// Apart from the pages for people, whose code is tested as part of it.
#[test]
fn the_facade_only_re_exports() {
    let pages = ["#[cfg(doctest)]", "mod pages;"];
    for (number, line) in code(&root().join("src/lib.rs")) {
        let re_exports = line.is_empty() || line.starts_with("#![") || line.starts_with("pub use ");
        let allowed = re_exports || pages.contains(&line.as_str());
        assert!(allowed, "src/lib.rs:{number}: the facade only re-exports: {line}");
    }
}
