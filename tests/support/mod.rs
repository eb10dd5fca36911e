//! What the tests of the programs share: the built examples, run as a user runs them.
#![allow(dead_code)] // every test file takes what it needs

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

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

/// The program, to go on with the run in `out`.
pub fn resume(out: &Path) -> Command {
    let mut command = example("cifar100");
    command.arg("--resume").arg(out);
    command
}

/// metrics.csv without its two columns of time.
pub fn metrics(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("metrics.csv")).expect("metrics.csv");
    let times = ["seconds", "images_per_second"];
    let names: Vec<&str> = text.lines().next().expect("a header").split(',').collect();
    assert!(times.iter().all(|time| names.contains(time)), "{names:?}");
    let kept = |line: &str| {
        let columns = names.iter().zip(line.split(',')).filter(|(name, _)| !times.contains(name));
        columns.map(|(_, value)| value).collect::<Vec<_>>().join(",")
    };
    text.lines().map(kept).collect()
}

/// Starts a command whose output [`Ended`] will hold.
pub fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Sends signals to a process, one after the other: "HUP", "INT", …
pub fn signal(child: &Child, names: &[&str]) {
    let sent = names.iter().map(|name| format!("kill -{name} {}", child.id()));
    let status = Command::new("sh").args(["-c", &sent.collect::<Vec<_>>().join(" && ")]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {names:?}");
}

/// Waits until `holds`, while the process runs.
#[track_caller]
pub fn wait_until(child: &mut Child, what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(child.try_wait().expect("a child").is_none(), "the run ended before {what}");
        assert!(began.elapsed() < Duration::from_secs(120), "no {what} after two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The rows of a run's metrics.csv.
pub fn rows(out: &Path) -> usize {
    let text = std::fs::read_to_string(out.join("metrics.csv")).unwrap_or_default();
    text.lines().count().saturating_sub(1)
}

/// The names of a run's checkpoints, oldest first.
pub fn checkpoints(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out.join("checkpoints")).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("epoch-")).collect();
    names.sort();
    names
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
