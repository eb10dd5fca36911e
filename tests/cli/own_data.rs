//! Runs on pictures of your own, with a validation part, from given weights, and lengthened.

use std::path::Path;

use image::{Rgb, RgbImage};
use wrn_sam::train::{Provenance, RunSource, metrics};

use crate::support::{Ended, example, rows, tiny};
use crate::{contents, folder, write};

/// Pictures of three classes that their color tells, in `folder`, in the folders `splits`.
fn pictures(folder: &Path, splits: &[&str]) {
    for split in splits {
        for (class, color) in [("leaf", [20, 160, 40]), ("rust", [150, 70, 20]), ("sky", [60, 120, 220])] {
            let folder = folder.join(split).join(class);
            std::fs::create_dir_all(&folder).expect("a temporary folder");
            for i in 0..12_u8 {
                let picture = RgbImage::from_fn(48, 40, |x, y| {
                    Rgb(color.map(|c: u8| c.wrapping_add((x as u8 ^ y as u8) % 16).wrapping_add(i)))
                });
                let name = folder.join(format!("{i}.{}", if i % 2 == 0 { "png" } else { "jpg" }));
                picture.save(name).expect("a temporary file");
            }
        }
    }
}

/// A training of a tiny network on the pictures in `data`.
fn train(data: &Path, out: &Path, flags: &[&str]) -> Ended {
    let mut command = example("cifar100");
    command.args([
        "--depth",
        "10",
        "--width-factor",
        "1",
        "--batch-size",
        "8",
        "--threads",
        "1",
        "--epochs",
        "2",
    ]);
    command.arg("--data").arg(format!("folder:{}", data.display())).arg("--out").arg(out);
    Ended::of(command.args(flags))
}

#[test]
fn a_folder_of_pictures_is_trained_on_and_predicted() {
    let folder = folder();
    let [data, moved, out] = ["leaves", "moved", "run"].map(|name| folder.path().join(name));
    pictures(&data, &["train", "val"]);
    let ended = train(&data, &out, &["--card", "--tensorboard", "--image-size", "40"]).succeeds();
    assert!(ended.stdout.contains("data    leaves, pictures in "), "{}", ended.stdout);
    assert!(
        !ended.stdout.to_lowercase().contains("synthetic") && ended.stderr.is_empty(),
        "{}",
        ended.stderr
    );
    let recipe = std::fs::read_to_string(out.join("recipe.toml")).expect("recipe.toml");
    assert!(recipe.contains("data = \"folder\"") && recipe.contains("image_size = 40"), "{recipe}");
    let source = RunSource::from_run(&out).expect("source.toml").expect("a run");
    assert_eq!((source.location.as_deref(), source.synthetic), (Some(&*data), false));
    let provenance =
        Provenance::from_weights(&out.join("best.safetensors")).expect("weights").expect("metadata");
    assert_eq!(
        (&*provenance.data, provenance.classes),
        ("leaves", ["leaf", "rust", "sky"].map(String::from).to_vec())
    );
    assert_eq!(provenance.image_size, 40);
    for name in [
        "hub/README.md",
        "hub/config.json",
        "hub/model.safetensors",
        "report.html",
        "log.jsonl",
        "tensorboard",
    ] {
        assert!(out.join(name).exists(), "no {name}");
    }

    let mut predict = example("predict");
    let ended =
        Ended::of(predict.arg(out.join("model.safetensors")).arg(data.join("val/sky/1.jpg"))).succeeds();
    assert!(ended.stdout.contains(" sky\n") && ended.stderr.is_empty(), "{}{}", ended.stdout, ended.stderr);

    // The run finds its pictures again, or is told where they are now.
    let resume = |flags: &[&str]| {
        let mut command = example("cifar100");
        Ended::of(
            command
                .args(["--epochs", "3", "--schedule", "step", "--keep-past-rates", "--resume"])
                .arg(&out)
                .args(flags),
        )
    };
    resume(&[]).succeeds();
    assert_eq!(rows(&out), 3);
    std::fs::rename(&data, &moved).expect("a temporary folder");
    resume(&[]).fails(1, &["leaves"]);
    resume(&["--data-dir", moved.to_str().expect("UTF-8")]).succeeds();

    // A picture that cannot be used is named.
    write(&moved.join("train/sky/2.png"), "no picture");
    train(&moved, &folder.path().join("other"), &[]).fails(1, &["train/sky/2.png", "neither PNG nor JPEG"]);
    let absent = folder.path().join("absent");
    train(&absent, &folder.path().join("other"), &[]).fails(1, &["cannot list", "absent"]);
    train(&moved, &folder.path().join("other"), &["--hub"]).fails(2, &["--data folder:DIR", "--hub"]);
}

#[test]
fn a_validation_part_chooses_and_patience_ends() {
    let folder = folder();
    let out = folder.path().join("run");
    let mut command = tiny();
    command.args([
        "--train-limit",
        "96",
        "--validation",
        "50",
        "--patience",
        "1",
        "--epochs",
        "40",
        "--lr",
        "1e-9",
    ]);
    let ended = Ended::of(command.arg("--out").arg(&out)).succeeds();
    for part in [
        "96 training, 50 validation and 50 test images",
        "validation loss",
        "test    best.safetensors of epoch",
    ] {
        assert!(ended.stdout.contains(part), "no {part} in:\n{}", ended.stdout);
    }
    assert!((2..40).contains(&rows(&out)), "{} epochs", rows(&out));
    assert_eq!(metrics::read_test(&out.join("test.csv")).expect("test.csv").len(), 2);
    Ended::of(tiny().args(["--patience", "3"])).fails(2, &["patience = 3", "`validation`"]);
    let mut command = tiny();
    Ended::of(
        command.args(["--train-limit", "0", "--validation", "50000", "--out"]).arg(folder.path().join("x")),
    )
    .fails(1, &["validation = 50000"]);
}

#[test]
fn a_run_is_lengthened_exactly_or_only_if_asked_for() {
    let folder = folder();
    let [out, whole] = ["run", "whole"].map(|name| folder.path().join(name));
    // The first epoch of three has the learning rate of an only one.
    Ended::of(tiny().args(["--epochs", "1", "--out"]).arg(&out)).succeeds();
    let resume = |flags: &[&str]| Ended::of(example("cifar100").arg("--resume").arg(&out).args(flags));
    let before = contents(&out);
    resume(&["--epochs", "1"]).succeeds();
    resume(&["--epochs", "3"]).succeeds();
    assert!(before != contents(&out));
    Ended::of(tiny().args(["--epochs", "3", "--out"]).arg(&whole)).succeeds();
    let read = |out: &Path| std::fs::read(out.join("model.safetensors")).expect("weights");
    assert!(read(&out) == read(&whole), "the weights are not those of a run of this length");

    // Epoch 2 of three had a lower rate than epoch 2 of thirty has.
    let before = contents(&out);
    resume(&["--epochs", "30"]).fails(1, &["cannot be lengthened from 3 to 30", "--keep-past-rates"]);
    assert!(before == contents(&out), "a refused resume changed the run");
    // So had epoch 3, where that of five has more.
    let ended = resume(&["--epochs", "5", "--keep-past-rates"]).succeeds();
    assert!(ended.stderr.contains("was trained with the learning rate"), "{}", ended.stderr);
    let source = RunSource::from_run(&out).expect("source.toml").expect("a run");
    let said: Vec<_> = source.lengthened.iter().map(|l| (l.from, l.to, l.exact)).collect();
    assert_eq!(said, [(1, 3, true), (3, 5, false)]);
}

#[test]
fn a_run_begins_with_given_weights() {
    let folder = folder();
    let [first, second, third] = ["first", "second", "third"].map(|name| folder.path().join(name));
    Ended::of(tiny().arg("--out").arg(&first)).succeeds();
    let weights = first.join("model.safetensors");
    // At a rate that moves nothing, the given weights answer as they did.
    let from = |out: &Path, flags: &[&str]| {
        Ended::of(
            tiny()
                .args(["--lr", "1e-12", "--seed", "17", "--init"])
                .arg(&weights)
                .arg("--out")
                .arg(out)
                .args(flags),
        )
    };
    from(&second, &[]).succeeds();
    let rows = |out: &Path| metrics::read(&out.join("metrics.csv")).expect("metrics.csv");
    Ended::of(tiny().args(["--lr", "1e-12", "--out"]).arg(&third)).succeeds();
    assert!(rows(&second)[0].train_loss < rows(&third)[0].train_loss, "as if it had begun from the seed");
    let source = RunSource::from_run(&second).expect("source.toml").expect("a run");
    assert_eq!(source.initial_weights.expect("named").path, weights);
    let other = folder.path().join("other");
    from(&other, &["--depth", "16"]).fails(1, &["model.safetensors"]);
    from(&other, &["--init", "absent.safetensors"]).fails(2, &["--init absent.safetensors"]);
}
