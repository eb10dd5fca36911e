//! The images that a run gets, and data that cannot be used.

use std::path::Path;

use crate::support::{Ended, example};
use crate::{contents, folder, write};

#[test]
fn without_cifar100_and_network() {
    let folder = folder();
    // Asked for: an error that says what was tried and how to get it.
    let mut command = example("cifar100");
    let ended =
        Ended::of(command.args(["--data", "cifar100", "--data-dir", "nowhere"]).current_dir(folder.path()));
    ended.fails(1, &["nowhere", "cifar-100-binary.tar.gz", "cannot reach", "--data-dir"]);
    assert_eq!(contents(folder.path()), []);

    // Not asked for: synthetic images, plainly said and marked.
    let mut command = example("cifar100");
    command.args(["--depth", "10", "--batch-size", "16", "--train-limit", "32", "--test-limit", "16"]);
    let ended = Ended::of(command.args(["--epochs", "1"]).current_dir(folder.path())).succeeds();
    for text in [
        "CIFAR-100 cannot be had",
        "SYNTHETIC IMAGES",
        "data    synthetic images of seed 17 (not CIFAR-100)",
        "batches made by ",
        "best test top-1 ON SYNTHETIC IMAGES",
    ] {
        assert!(ended.stdout.contains(text), "no {text} in:\n{}", ended.stdout);
    }
    // The default folder is result/YYYYmmdd-HHMMSS.
    let result = std::fs::read_dir(folder.path().join("result")).expect("result").next().expect("a run");
    let out = result.expect("an entry").path();
    let name = out.file_name().and_then(|name| name.to_str()).expect("a name").to_string();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    assert!(name.len() == 15 && digits(&name[..8]) && &name[8..9] == "-" && digits(&name[9..]), "{name}");
    let recipe = std::fs::read_to_string(out.join("recipe.toml")).expect("recipe.toml");
    assert!(recipe.contains("data = \"synthetic\""), "{recipe}");
}

#[test]
fn damaged_data_is_an_error_and_stays() {
    let folder = folder();
    let records = |count: usize| vec![0_u8; 3074 * count];
    let fails = |part: &str| {
        let before = contents(folder.path());
        for data in ["auto", "cifar100"] {
            let mut command = example("cifar100");
            command.args(["--data", data, "--data-dir"]).arg(folder.path());
            Ended::of(command.arg("--out").arg(folder.path().join("run"))).fails(1, &[part]);
        }
        assert!(contents(folder.path()) == before, "{part}: the folder changed");
    };
    let data = folder.path().join("cifar-100-binary");
    write(&data.join("train.bin"), &records(3)[1..]);
    fails("train.bin is cut short");
    write(&data.join("train.bin"), []);
    fails("train.bin is empty");
    std::fs::remove_dir_all(&data).expect("a temporary folder");
    write(&folder.path().join("cifar-100-binary.tar.gz"), b"no archive");
    fails("cifar-100-binary.tar.gz is damaged");
}

#[test]
fn a_data_folder_that_is_named_is_never_replaced_by_synthetic_images() {
    let folder = folder();
    let [absent, empty, other] = ["absent", "empty", "other"].map(|name| folder.path().join(name));
    std::fs::create_dir(&empty).expect("a temporary folder");
    write(&other.join("notes.txt"), "not CIFAR");
    let before = contents(folder.path());
    for path in [&absent, &empty, &other] {
        let mut command = example("cifar100");
        let ended = Ended::of(command.arg("--data-dir").arg(path).current_dir(folder.path()));
        ended.fails(1, &[path.to_str().expect("UTF-8"), "CIFAR-100", "--data cifar100"]);
    }
    assert!(contents(folder.path()) == before, "something was written");
}

/// Files of CIFAR-100's size in `folder` that are not CIFAR-100: all but the first images are zeros.
fn unknown_images(folder: &Path) {
    let record = |image: usize| {
        let pixels = (0..3072).map(move |byte| (image * 31 + byte * 7 + byte * image % 13) as u8);
        [(image % 20) as u8, (image % 100) as u8].into_iter().chain(pixels)
    };
    for (name, images) in [("train.bin", 50_000), ("test.bin", 10_000)] {
        let path = folder.join(name);
        write(&path, (0..64).flat_map(record).collect::<Vec<u8>>());
        let file = std::fs::File::options().write(true).open(path).expect("a temporary file");
        file.set_len(images * 3074).expect("a temporary file");
    }
}

/// A short run on the images in `data`.
fn train_on(data: &Path, out: &Path) -> Ended {
    let mut command = example("cifar100");
    command.args(["--depth", "10", "--width-factor", "1", "--batch-size", "16", "--epochs", "1"]);
    command.args(["--train-limit", "64", "--test-limit", "32", "--threads", "1", "--data-dir"]);
    Ended::of(command.arg(data).arg("--out").arg(out))
}

#[test]
fn unknown_images_are_warned_of() {
    let folder = folder();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    unknown_images(&data);
    let ended = train_on(&data, &out).succeeds();
    for text in ["warning: ", "unknown images"] {
        assert!(ended.stderr.contains(text), "no {text} in:\n{}", ended.stderr);
    }
    let source = std::fs::read_to_string(out.join("source.toml")).expect("source.toml");
    assert!(source.contains("known = false"), "{source}");
}

#[test]
fn a_resumed_run_finds_its_images() {
    let folder = folder();
    let [data, moved, out] = ["it's data", "moved", "run"].map(|name| folder.path().join(name));
    unknown_images(&data);
    train_on(&data, &out).succeeds();
    let resume = || {
        let mut command = example("cifar100");
        command.current_dir(folder.path()).arg("--resume").arg(&out);
        command
    };
    Ended::of(&mut resume()).succeeds();
    std::fs::rename(&data, &moved).expect("a temporary folder");
    Ended::of(&mut resume()).fails(1, &["it's data", "--data-dir"]);
    Ended::of(resume().arg("--data-dir").arg(&moved)).succeeds();
}

#[test]
fn a_directory_in_the_place_of_the_images_is_named() {
    let folder = folder();
    unknown_images(folder.path());
    std::fs::remove_file(folder.path().join("train.bin")).expect("a temporary file");
    std::fs::create_dir(folder.path().join("train.bin")).expect("a temporary folder");
    train_on(folder.path(), &folder.path().join("run")).fails(1, &["train.bin is a directory"]);
}
