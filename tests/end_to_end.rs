//! Whole runs of the real program: what lies in the folder afterwards, that nothing but the seed decides it, and that a
//! run that was stopped, politely or not, ends as one that was not.
#![cfg(unix)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use support::{Ended, metrics, resume, rows, spawn, tiny, wait_until};
use tempfile::TempDir;

const EPOCHS: &str = "3";

/// A run of three epochs with a checkpoint after each.
fn run(out: &Path) -> Command {
    let mut command = tiny();
    command.args(["--epochs", EPOCHS, "--checkpoint-every", "1", "--dropout", "0.1", "--out"]).arg(out);
    command
}

/// The folder of that run, never interrupted.
fn uninterrupted() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("run");
        Ended::of(&mut run(&out)).succeeds();
        (folder, out)
    });
    out
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The same weights to the byte, and the same figures.
#[track_caller]
fn assert_same_results(out: &Path, expected: &Path) {
    assert_eq!(metrics(out), metrics(expected));
    for name in ["model.safetensors", "best.safetensors"] {
        assert!(read(&out.join(name)) == read(&expected.join(name)), "{name} differs");
    }
}

#[test]
fn a_run_leaves_all_its_files() {
    let out = uninterrupted();
    let rows = metrics(out);
    let header = wrn_sam::train::metrics::header(wrn_sam::train::EvalSplit::Test);
    let text = String::from_utf8(read(&out.join("metrics.csv"))).expect("UTF-8");
    assert_eq!(text.lines().next(), Some(&*header));
    assert_eq!(rows.len(), 4, "{rows:?}");
    for (epoch, row) in text.lines().enumerate().skip(1) {
        let values: Vec<f64> = row.split(',').map(|value| value.parse().expect("a number")).collect();
        assert_eq!(values[0], epoch as f64);
        assert!([3, 5, 6].iter().all(|&column| (0.0..=1.0).contains(&values[column])), "{row}");
        assert!(values.iter().all(|value| value.is_finite()), "{row}");
    }
    for name in ["loss.svg", "top1.svg", "top5.svg"] {
        let figure = String::from_utf8(read(&out.join(name))).expect("UTF-8");
        assert!(figure.contains("<svg") && figure.to_lowercase().contains("synthetic"), "{name}:\n{figure}");
    }
    let recipe = String::from_utf8(read(&out.join("recipe.toml"))).expect("UTF-8");
    for line in ["depth = 10", "epochs = 3", "dropout = 0.1", "data = \"synthetic\"", "seed = 17"] {
        assert!(recipe.lines().any(|found| found == line), "no {line} in:\n{recipe}");
    }
    assert!(std::fs::read_dir(out.join("checkpoints")).expect("a folder").count() > 0);
    // Nothing temporary is left.
    let names = std::fs::read_dir(out).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    Ended::of(run(&out).args(["--threads", "3"])).succeeds();
    assert_same_results(&out, uninterrupted());
}

#[test]
fn a_killed_run_is_resumed_to_the_same_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let mut child = spawn(&mut run(&out));
    wait_until(&mut child, "a row", || rows(&out) >= 1);
    std::thread::sleep(Duration::from_millis(100));
    child.kill().expect("SIGKILL");
    assert_eq!(child.wait().expect("a child").code(), None, "the run ended before it was killed");
    assert!(metrics(&out).len() < 4, "the run was over");

    Ended::of(&mut resume(&out)).succeeds();
    assert_same_results(&out, uninterrupted());
}

#[test]
fn a_run_killed_at_any_moment_can_be_resumed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    for milliseconds in [20, 90, 160, 250, 400, 600] {
        // Killed before it had written anything, it begins anew.
        let began = out.join("recipe.toml").exists();
        let mut child = spawn(&mut if began { resume(&out) } else { run(&out) });
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("SIGKILL");
        child.wait().expect("a child");
    }
    let began = out.join("recipe.toml").exists();
    Ended::of(&mut if began { resume(&out) } else { run(&out) }).succeeds();
    assert_same_results(&out, uninterrupted());
}

#[test]
fn a_stopped_run_is_resumed_to_the_same_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let mut child = spawn(&mut run(&out));
    wait_until(&mut child, "a row", || rows(&out) >= 1);
    std::thread::sleep(Duration::from_millis(100));
    support::signal(&child, &["INT"]);
    let ended = Ended::from(child.wait_with_output().expect("a child"));
    let command = format!("--resume '{}'", out.display());
    ended
        .fails(1, &["interrupted; wrote", "checkpoints", "cargo run --release --example cifar100", &command]);
    assert!(metrics(&out).len() < 4, "the run was over");

    let ended = Ended::of(&mut resume(&out)).succeeds();
    assert!(ended.stdout.contains("resume "), "{}", ended.stdout);
    assert_same_results(&out, uninterrupted());
}

#[test]
fn a_run_that_is_over_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    Ended::of(tiny().arg("--out").arg(&out)).succeeds();
    let before = (metrics(&out), read(&out.join("model.safetensors")));
    Ended::of(&mut resume(&out)).succeeds();
    assert!(before == (metrics(&out), read(&out.join("model.safetensors"))));
}
