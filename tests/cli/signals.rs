//! Signals: which end a run, which do not, and that each leaves a checkpoint.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::folder;
use crate::support::{Ended, checkpoints, example, rows, signal, spawn, tiny, wait_until};

/// A run that a test ends, whose only checkpoint is that of its start.
fn endless(out: &Path) -> Command {
    let mut command = tiny();
    command.args(["--epochs", "1000000", "--checkpoint-every", "0", "--out"]).arg(out);
    command
}

/// The same, begun by a shell that ignores `signal`.
fn ignoring(signal: &str, out: &Path) -> Command {
    let command = endless(out);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' {signal}; exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// The child ends with a checkpoint from which the run can be resumed.
#[track_caller]
fn ends_with_a_checkpoint(child: Child, out: &Path) {
    Ended::from(child.wait_with_output().expect("a child")).fails(1, &["interrupted; wrote", "--resume"]);
    resumes(out);
}

/// The run can be resumed from its newest checkpoint, which is not that of its start.
#[track_caller]
fn resumes(out: &Path) {
    let last = checkpoints(out).pop().expect("a checkpoint");
    assert_ne!(last, "epoch-0000-step-000000.safetensors");

    let mut resumed = spawn(example("cifar100").arg("--resume").arg(out));
    let before = rows(out);
    wait_until(&mut resumed, "another row", || rows(out) > before);
    signal(&resumed, &["TERM"]);
    let ended = Ended::from(resumed.wait_with_output().expect("a child"));
    assert!(ended.stdout.contains(&last), "resumed from another checkpoint than {last}:\n{}", ended.stdout);
}

#[test]
fn every_polite_signal_leaves_a_checkpoint() {
    // A terminal that closes sends SIGHUP twice; batch systems repeat SIGTERM, or mix the two.
    for signals in [&["HUP", "HUP"][..], &["TERM", "TERM", "HUP", "TERM"], &["INT"], &["HUP", "INT"]] {
        let folder = folder();
        let out = folder.path().join("run");
        let mut child = spawn(&mut endless(&out));
        wait_until(&mut child, "a row", || rows(&out) >= 1);
        signal(&child, signals);
        ends_with_a_checkpoint(child, &out);
    }
}

#[test]
fn a_signal_ignored_at_the_start_stays_ignored() {
    for name in ["HUP", "INT", "TERM", "USR1"] {
        let folder = folder();
        let out = folder.path().join("run");
        let mut child = spawn(&mut ignoring(name, &out));
        wait_until(&mut child, "a row", || rows(&out) >= 1);
        let before = (rows(&out), checkpoints(&out));
        signal(&child, &[name, name]);
        wait_until(&mut child, "two more rows", || rows(&out) >= before.0 + 2);
        assert_eq!(checkpoints(&out), before.1, "SIG{name} asked for a checkpoint");
        signal(&child, &[if name == "TERM" { "HUP" } else { "TERM" }]);
        ends_with_a_checkpoint(child, &out);
    }
}

#[test]
fn usr1_writes_a_checkpoint_and_goes_on() {
    let folder = folder();
    let out = folder.path().join("run");
    let mut child = spawn(&mut endless(&out));
    wait_until(&mut child, "a row", || rows(&out) >= 1);
    let start = checkpoints(&out);
    signal(&child, &["USR1"]);
    wait_until(&mut child, "a checkpoint", || checkpoints(&out) != start);
    let (first, before) = (checkpoints(&out), rows(&out));
    wait_until(&mut child, "another row", || rows(&out) > before);
    signal(&child, &["USR1", "USR1"]);
    wait_until(&mut child, "a second checkpoint", || checkpoints(&out) != first);
    signal(&child, &["INT"]);
    ends_with_a_checkpoint(child, &out);
}

#[test]
fn only_a_second_ctrl_c_a_second_later_ends_at_once() {
    let folder = folder();
    let out = folder.path().join("run");
    // A run that cannot finish its step: it waits for a reader of its first line.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut full = writer.try_clone().expect("a pipe");
    let filler = std::thread::spawn(move || full.write_all(&vec![b'.'; 1 << 20]));
    std::thread::sleep(Duration::from_millis(100));
    let mut command = endless(&out);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("the program starts");
    drop(command);
    wait_until(&mut child, "recipe.toml", || out.join("recipe.toml").exists());

    signal(&child, &["HUP", "TERM"]);
    signal(&child, &["INT", "INT"]);
    std::thread::sleep(Duration::from_millis(1100));
    assert!(child.try_wait().expect("a child").is_none(), "two signals within a second ended it");
    signal(&child, &["HUP", "TERM"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("a child").is_none(), "another signal than Ctrl-C ended it");
    signal(&child, &["INT"]);
    Ended::from(child.wait_with_output().expect("a child")).fails(1, &["ended at once"]);
    drop(reader);
    assert!(filler.join().expect("a thread").is_err());
}

#[test]
fn a_terminal_that_closes_leaves_a_checkpoint() {
    let folder = folder();
    let out = folder.path().join("run");
    let quote = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().expect("UTF-8"));
    let command = endless(&out);
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quote);
    let pid = folder.path().join("pid");
    let line = format!("echo $$ > {}; exec {}", quote(pid.as_os_str()), words.collect::<Vec<_>>().join(" "));
    // `script` runs a command on a terminal of its own, which closes when `script` is killed.
    let terminal = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut terminal) = terminal else {
        println!("skipped: no program `script`, which gives a terminal");
        return;
    };
    wait_until(&mut terminal, "a row", || rows(&out) >= 1);
    terminal.kill().expect("SIGKILL");
    terminal.wait().expect("a child");

    let pid = std::fs::read_to_string(pid).expect("the run's process id");
    let runs = || {
        let output = Command::new("ps").args(["-o", "stat=", "-p", pid.trim()]).output().expect("ps");
        let state = String::from_utf8_lossy(&output.stdout).trim().to_string();
        !(state.is_empty() || state.starts_with('Z'))
    };
    for _ in 0..1200 {
        if !runs() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!runs(), "the run goes on without its terminal");
    assert_eq!(checkpoints(&out).len(), 2, "{:?}", checkpoints(&out));
    resumes(&out);
}
