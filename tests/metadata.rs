//! What the packages say of themselves: complete metadata for the registry, and a minimum Rust version that is true for
//! every dependency.

use std::process::Command;

use serde_json::Value;

/// What `cargo metadata` prints, for the platform that runs the tests, without a network.
fn metadata() -> Value {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// The packages of this workspace, and those from elsewhere.
fn packages() -> (Vec<Value>, Vec<Value>) {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages").clone();
    packages.into_iter().partition(|package| package["source"].is_null())
}

#[test]
fn every_package_describes_itself() {
    let (ours, _) = packages();
    assert!(ours.len() >= 9, "the facade and its crates");
    for package in ours {
        let name = package["name"].as_str().expect("a name");
        for key in ["description", "documentation", "readme", "repository", "rust_version"] {
            assert!(package[key].is_string(), "{name} has no {key}");
        }
        for key in ["keywords", "categories"] {
            assert!(!package[key].as_array().expect("a list").is_empty(), "{name} has no {key}");
        }
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{name}");
    }
}

#[test]
fn no_dependency_needs_a_newer_rust() {
    let number = |version: &str| -> Vec<u32> {
        version.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("version {version}"))).collect()
    };
    let (ours, theirs) = packages();
    let least = ours[0]["rust_version"].as_str().expect("a version");
    for package in theirs {
        let Some(needed) = package["rust_version"].as_str() else { continue };
        let (name, version) = (&package["name"], &package["version"]);
        assert!(number(needed) <= number(least), "{name} {version} needs Rust {needed}; we promise {least}");
    }
}
