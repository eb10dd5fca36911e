//! Trainings in several processes under `mpirun`, as a user starts them: the same files for any number of ranks, and what
//! happens when a rank is killed, stopped or started otherwise. `cargo test --features mpi --test processes`.
#![cfg(unix)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::tempdir;
use wrn_sam::train::checkpoint;

use support::{metrics, resume};

/// Whether there is an `mpirun`.
fn has_mpirun() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no mpirun");
    }
    found
}

/// `mpirun` with `world` ranks of the program of `command`, all on this machine.
fn mpirun(world: usize, command: &Command) -> Command {
    let mut all = Command::new("mpirun");
    all.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", &world.to_string()]);
    all.arg(command.get_program()).args(command.get_args());
    all
}

fn training(out: &Path) -> Command {
    let mut command = support::tiny();
    command.args(["--micro-batches", "4", "--epochs", "2", "--checkpoint-every", "1", "--out"]).arg(out);
    command
}

#[track_caller]
fn succeeds(mut command: Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", said(&output));
    output
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The weights, the metrics without the times, and all tensors of the newest checkpoint.
type Results = (Vec<Vec<u8>>, Vec<String>, Vec<(String, String)>);

fn results(out: &Path) -> Results {
    let weights =
        ["model.safetensors", "best.safetensors"].map(|name| std::fs::read(out.join(name)).unwrap());
    let newest = checkpoint::newest(&out.join("checkpoints")).unwrap().unwrap().checkpoint;
    let tensors = newest.model.into_iter().chain(newest.optimizer);
    let mut tensors: Vec<_> = tensors.map(|(name, tensor)| (name, format!("{tensor:?} {tensor}"))).collect();
    tensors.sort();
    (weights.into(), metrics(out), tensors)
}

/// One process, whose results all others must have.
fn alone(folder: &Path) -> PathBuf {
    let out = folder.join("alone");
    succeeds(training(&out));
    out
}

/// The process of rank `rank` below `mpirun`.
fn process_of(mpirun: &Child, rank: usize) -> Option<u32> {
    let children = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (parent == mpirun.id().to_string()).then_some(pid)
    });
    let is_rank = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let own = format!("OMPI_COMM_WORLD_RANK={rank}");
        environment.split(|&byte| byte == 0).any(|variable| variable == own.as_bytes())
    };
    let mut children: Vec<u32> = children.collect();
    children.retain(is_rank);
    children.first().copied()
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun starts")
}

fn send(signal: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {pid}");
}

#[test]
fn any_number_of_processes_leaves_the_same_files() {
    if !has_mpirun() {
        return;
    }
    let folder = tempdir().unwrap();
    let alone = results(&alone(folder.path()));
    for world in [2, 4] {
        let out = folder.path().join(world.to_string());
        let output = succeeds(mpirun(world, &training(&out)));
        assert!(results(&out) == alone, "{world} processes");
        let text = said(&output);
        assert_eq!(text.matches("done ").count(), 1, "only rank 0 speaks: {text}");
    }
}

/// Each rank in turn, at another moment each.
#[test]
fn a_killed_process_ends_all_and_any_number_goes_on_to_the_same_files() {
    if !has_mpirun() {
        return;
    }
    let folder = tempdir().unwrap();
    let expected = results(&alone(folder.path()));
    for (killed, after, go_on) in
        [(0, "epoch-0000-step-000000", 2), (1, "epoch-0000-step-000000", 1), (3, "epoch-0001-step-000000", 4)]
    {
        let out = folder.path().join(killed.to_string());
        let mut run = start(&mut mpirun(4, &training(&out)));
        let checkpoint = out.join("checkpoints").join(format!("{after}.safetensors"));
        support::wait_until(&mut run, "a checkpoint", || checkpoint.exists());
        std::thread::sleep(Duration::from_millis(70 * killed as u64));
        send("KILL", process_of(&run, killed).expect("the rank's process"));
        let began = Instant::now();
        let output = run.wait_with_output().unwrap();
        assert!(!output.status.success());
        let text = said(&output);
        assert!(text.contains(&format!("process rank {killed} ")) && text.contains("signal 9"), "{text}");
        // All others would otherwise wait for ten minutes.
        assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
        succeeds(if go_on == 1 { resume(&out) } else { mpirun(go_on, &resume(&out)) });
        assert!(results(&out) == expected, "rank {killed} killed, {go_on} processes went on");
    }
}

#[test]
fn a_signal_to_one_process_stops_all_after_the_same_step() {
    if !has_mpirun() {
        return;
    }
    let folder = tempdir().unwrap();
    let expected = results(&alone(folder.path()));
    let out = folder.path().join("stopped");
    let mut run = start(&mut mpirun(2, &training(&out)));
    let first = out.join("checkpoints/epoch-0000-step-000000.safetensors");
    support::wait_until(&mut run, "a checkpoint", || first.exists());
    send("TERM", process_of(&run, 1).expect("the rank's process"));
    let output = run.wait_with_output().unwrap();
    let text = said(&output);
    assert!(!output.status.success() && text.contains("interrupted; wrote"), "{text}");
    succeeds(mpirun(4, &resume(&out)));
    assert!(results(&out) == expected);
}

#[test]
fn processes_that_were_started_otherwise_do_not_begin() {
    if !has_mpirun() {
        return;
    }
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let mut run = mpirun(1, &training(&out));
    let other = training(&out);
    run.args([":", "-n", "1"]).arg(other.get_program()).args(other.get_args()).args(["--rho", "0.2"]);
    let output = run.output().unwrap();
    let text = said(&output);
    assert!(!output.status.success());
    assert!(text.contains("rank 1 has rho = 0.2, and rank 0 has rho = 0.1: start all ranks alike"), "{text}");
    assert!(!out.join("metrics.csv").exists());

    let output = mpirun(3, &training(&folder.path().join("three"))).output().unwrap();
    assert!(said(&output).contains("3 ranks: start a power of two"), "{}", said(&output));
}
