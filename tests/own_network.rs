//! The example `own_network`: killed in the middle of a run, the same command goes on to the same end.
#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Ended, example};

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model.safetensors")).expect("the weights of the run")
}

#[test]
fn own_network_goes_on_after_a_kill_and_ends_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let ended = Ended::of(example("own_network").arg(&whole)).succeeds();
    assert_eq!(ended.stdout.matches("epoch ").count(), 3, "{}", ended.stdout);

    let mut child =
        example("own_network").arg(&killed).stdout(Stdio::null()).spawn().expect("the program starts");
    let began = Instant::now();
    while !killed.join("checkpoints/epoch-0001-step-000000.safetensors").exists() {
        assert!(began.elapsed() < Duration::from_secs(120), "no checkpoint");
        assert!(child.try_wait().expect("a child").is_none(), "the run ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("a child");

    let ended = Ended::of(example("own_network").arg(&killed)).succeeds();
    assert!(ended.stdout.matches("epoch ").count() < 3, "{}", ended.stdout);
    assert!(weights(&whole) == weights(&killed));
}
