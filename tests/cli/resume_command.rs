//! The command that an interrupted run prints: it works when it is pasted into a shell.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::folder;
use crate::support::{Ended, example, root, rows, signal, spawn, tiny, wait_until};

/// The command that a run in the folder `name` of `at` prints when it is interrupted.
fn printed(at: &Path, name: &OsStr, flags: &[&str]) -> String {
    let mut command = tiny();
    command.current_dir(at).args(["--epochs", "3", "--checkpoint-every", "1"]).args(flags);
    let mut equals = OsStr::new("--out=").to_os_string();
    equals.push(name);
    let mut child = spawn(command.arg(equals));
    let out = at.join(name);
    wait_until(&mut child, "a row", || rows(&out) >= 1);
    signal(&child, &["INT"]);
    let ended = Ended::from(child.wait_with_output().expect("a child")).fails(1, &["Go on with:\n"]);
    ended.stderr.split_once("Go on with:\n").expect("a command").1.trim_end().to_string()
}

/// Runs it in a shell, in the folder where the run was begun.
fn paste(at: &Path, command: &str) -> Ended {
    Ended::of(Command::new("bash").args(["-c", command]).current_dir(at))
}

#[test]
fn every_path_can_be_pasted() {
    let names: [&[u8]; 6] =
        [b"it's a run", b"-run", b"$HOME `date` \"x\" \\", b"line\nbreak", b"no text \xff'", b"r\xc3\xa4um"];
    for name in names.map(OsStr::from_bytes) {
        let folder = folder();
        let command = printed(folder.path(), name, &["--device", "cpu"]);
        assert!(command.contains(" --device cpu"), "{command}");
        let ended = paste(folder.path(), &command).succeeds();
        assert!(ended.stdout.contains("resume "), "{command}\n{}", ended.stdout);
        assert_eq!(rows(&folder.path().join(name)), 3);
    }
}

#[test]
fn a_data_folder_is_passed_on() {
    let folder = folder();
    let command = printed(folder.path(), OsStr::new("run"), &["--data-dir", "it's here"]);
    assert!(command.ends_with(r"--resume 'run' --data-dir 'it'\''s here'"), "{command}");
    paste(folder.path(), &command).succeeds();
}

#[test]
fn in_the_workspace_it_is_cargo_s() {
    let folder = folder();
    let out = folder.path().join("it's a run");
    let command = printed(root(), out.as_os_str(), &[]);
    let arguments =
        command.strip_prefix("cargo run --release --example cifar100 -- ").expect("cargo's command");
    let program = example("cifar100").get_program().to_str().expect("UTF-8").to_string();
    paste(root(), &format!("'{program}' {arguments}")).succeeds();
    assert_eq!(rows(&out), 3);
}
