//! The images that a run gets, and data that cannot be used.

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
