//! What the tests of the programs share: the built examples, run as a user runs them.
#![allow(dead_code)] // every test file takes what it needs

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command for a built example. It finds no network: whatever it tries to fetch fails at once.
pub fn example(name: &str) -> Command {
    let mut command = Command::new(example_path(name));
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"] {
        command.env(variable, "http://127.0.0.1:9");
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("RUST_BACKTRACE");
    command
}

/// `cargo test` builds the examples beside the tests; a single `cargo test --test` does not, so that is done here.
fn example_path(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let tests = std::env::current_exe().expect("a running test has a path");
    let profile = tests.parent().and_then(Path::parent).expect("tests lie in PROFILE/deps");
    let path = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    BUILD.call_once(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--examples", "--offline"]).current_dir(root());
        match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => {}
            Some(name) => drop(cargo.args(["--profile", name])),
        }
        let built = path.exists() || cargo.status().is_ok_and(|status| status.success());
        assert!(built, "the examples cannot be built");
    });
    path
}

/// A training of a tiny network on few synthetic images: 12 steps of 16 images an epoch.
pub fn tiny() -> Command {
    let mut command = example("cifar100");
    command.args(["--data", "synthetic", "--depth", "10", "--width-factor", "1", "--batch-size", "16"]);
    command.args(["--train-limit", "185", "--test-limit", "50", "--threads", "1", "--epochs", "1"]);
    command
}

/// How a program ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        output.into()
    }

    /// Exit code 0.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Exit code `code` and one message on stderr, of one line, that holds all of `parts`.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "stdout:\n{stdout}\nstderr:\n{stderr}");
        assert_eq!(stderr.matches("error: ").count(), 1, "not one message:\n{stderr}");
        for trace in ["panicked", "backtrace", "stack"] {
            assert!(!stderr.contains(trace), "{trace} in:\n{stderr}");
        }
        for part in parts {
            assert!(stderr.contains(part), "no \"{part}\" in:\n{stderr}");
        }
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}
