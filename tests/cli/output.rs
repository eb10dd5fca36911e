//! Output that nobody reads, or that cannot be written, ends no run and makes no program panic.

use std::path::{Path, PathBuf};

use crate::support::root;

/// The Rust files of the examples.
fn sources() -> Vec<PathBuf> {
    let mut folders = vec![root().join("examples")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.extension() {
                None if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => files.push(path),
                _ => {}
            }
        }
    }
    files
}

#[test]
fn no_example_prints_by_a_macro_that_panics() {
    let prints = |path: &Path| {
        let text = std::fs::read_to_string(path).expect("a source file");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let macros = ["println!(", "print!(", "eprint!(", "dbg!("]; // eprintln! has println!( in it
        code.filter(|line| macros.iter().any(|name| line.contains(name))).count()
    };
    let files = sources();
    assert!(files.len() >= 10, "{files:?}");
    let printing: Vec<_> = files.iter().filter(|path| prints(path) > 0).collect();
    assert!(printing.is_empty(), "{printing:?}");
}

#[cfg(unix)]
mod redirected {
    use std::process::{Command, Stdio};

    use crate::support::{Ended, example, rows, tiny};
    use crate::{folder, write};

    /// What a shell may do to a program's stdout and stderr: closed, full, a pipe that nobody reads.
    const REDIRECTIONS: [&str; 7] =
        [">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "2>&1 | true"];

    /// The program's exit code, its output redirected; for a pipe, the code is written to a file.
    fn code(command: &Command, redirection: &str) -> i32 {
        let folder = folder();
        let file = folder.path().join("code");
        let line = format!("{{ \"$@\"; echo $? > '{}'; }} {redirection}", file.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        shell.status().expect("a shell");
        let code = std::fs::read_to_string(file).expect("a code");
        code.trim().parse().expect("a number")
    }

    #[test]
    fn a_run_trains_to_its_end() {
        for redirection in REDIRECTIONS {
            let folder = folder();
            let out = folder.path().join("run");
            assert_eq!(code(tiny().arg("--out").arg(&out), redirection), 0, "{redirection}");
            assert_eq!(rows(&out), 1, "{redirection}");
            // A message that cannot be written changes no exit code.
            assert_eq!(code(tiny().arg("--out").arg(&out), redirection), 2, "{redirection}");
            assert_eq!(code(example("cifar100").arg("--depth"), redirection), 2, "{redirection}");
            let nowhere = folder.path().join("nowhere");
            assert_eq!(
                code(example("cifar100").arg("--resume").arg(nowhere), redirection),
                1,
                "{redirection}"
            );
        }
    }

    #[test]
    fn no_program_panics() {
        let folder = folder();
        let bad = folder.path().join("bad");
        write(&bad, "nothing of use");
        let [bad, picture, drawing] = [&bad, &folder.path().join("preview.png"), folder.path()]
            .map(|path| path.to_str().expect("UTF-8").to_string());
        let programs: [(&str, &[&str]); 10] = [
            ("loader", &["--images", "64", "--epochs", "1", "--batch", "32"]),
            ("loader", &["--data-dir", &bad]),
            ("predict", &[&bad, &bad]),
            ("preview", &[&picture, "--images", "1"]),
            ("preview", &["/nowhere/preview.png", "--images", "1"]),
            ("sam_quadratic", &[&drawing]),
            ("sharpness", &[&bad]),
            ("study", &[&bad, "--out", &drawing]),
            ("throughput", &["10", "1", "2", "--steps", "1", "--warmup", "0"]),
            ("verify", &[&bad]),
        ];
        for (name, arguments) in programs {
            let undisturbed = Ended::of(example(name).args(arguments)).code.expect("an exit code");
            for redirection in REDIRECTIONS {
                let code = code(example(name).args(arguments), redirection);
                // What is lost with the output may make a success a failure.
                assert!(code == undisturbed || code == 1, "{name} {arguments:?} {redirection}: {code}");
                let help = self::code(example(name).arg("--help"), redirection);
                assert!([0, 1].contains(&help), "{name} --help {redirection}: {help}");
            }
        }
    }
}
