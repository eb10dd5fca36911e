//! The smaller programs.

use serde_json::Value;

use crate::folder;
use crate::support::{Ended, example};

#[test]
fn throughput_prints_one_line() {
    let keys = [
        "torch",
        "depth",
        "width",
        "batch",
        "device",
        "layout",
        "precision",
        "compile",
        "seconds_per_step",
        "min_seconds",
        "images_per_second",
        "peak_bytes",
    ];
    for extra in [&[][..], &["--plain"], &["--forward"], &["--plain", "--forward"]] {
        let mut command = example("throughput");
        command.args(["10", "1", "4", "--steps", "3", "--warmup", "0", "--threads", "1", "--device", "cpu"]);
        let ended = Ended::of(command.args(extra)).succeeds();
        let line: Value = serde_json::from_str(&ended.stdout).expect("one JSON line");
        let line = line.as_object().expect("an object");
        assert_eq!(line.keys().map(String::as_str).collect::<Vec<_>>(), {
            let mut sorted = keys;
            sorted.sort_unstable();
            sorted
        });
        let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line:?}"));
        assert_eq!((number("depth"), number("width"), number("batch")), (10.0, 1.0, 4.0));
        assert!(number("seconds_per_step") >= number("min_seconds") && number("min_seconds") > 0.0);
        assert!((number("images_per_second") * number("seconds_per_step") - 4.0).abs() < 1e-9);
        assert!(!cfg!(target_os = "linux") || number("peak_bytes") > 1e6);
    }
    // With batches from a loader, also how long a step waits for its batch.
    let mut command = example("throughput");
    command.args(["10", "1", "4", "--steps", "3", "--threads", "1", "--device", "cpu", "--loader"]);
    let ended = Ended::of(&mut command).succeeds();
    let line: Value = serde_json::from_str(&ended.stdout).expect("one JSON line");
    assert_eq!(line.as_object().expect("an object").len(), keys.len() + 2);
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line:?}"));
    let (wait, share) = (number("data_seconds_per_step"), number("data_share"));
    assert!(wait > 0.0 && share > 0.0 && share < 1.0, "{line:?}");
    assert!(wait >= share * number("min_seconds") * (1.0 - 1e-9), "{line:?}");
}

#[test]
fn loader_prints_one_line() {
    let mut command = example("loader");
    let ended = Ended::of(command.args(["--images", "640", "--epochs", "1", "--threads", "1"])).succeeds();
    let line: Value = serde_json::from_str(&ended.stdout).expect("one JSON line");
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line:?}"));
    assert_eq!((number("threads"), number("batch"), number("images")), (1.0, 128.0, 640.0));
    assert!(number("images_per_second") > 0.0 && number("read_seconds") > 0.0);
}

#[test]
fn preview_draws_a_picture() {
    let folder = folder();
    let path = folder.path().join("preview.png");
    Ended::of(example("preview").arg(&path).args(["--images", "3"])).succeeds();
    let picture = image::open(&path).expect("a PNG").to_rgb8();
    // Titles and three columns beside each other, twelve rows of images and names; and it shows something.
    assert!(picture.width() > 3 * 128 && picture.height() > 12 * 128);
    let colors: std::collections::HashSet<_> = picture.pixels().collect();
    assert!(colors.len() > 100, "{} colors", colors.len());
    let nowhere = folder.path().join("absent/preview.png");
    Ended::of(example("preview").arg(&nowhere).args(["--images", "1"])).fails(1, &["cannot write", "absent"]);
}

#[test]
fn sam_quadratic_shows_what_each_method_minimizes() {
    let folder = folder();
    let ended = Ended::of(example("sam_quadratic").arg(folder.path())).succeeds();
    let largest = |name: &str| {
        let line = ended.stdout.lines().find(|line| line.starts_with(name)).expect("a line");
        line.split_whitespace().last().and_then(|number| number.parse::<f64>().ok()).expect("a number")
    };
    for name in ["SAM", "ASAM", "MSAM", "LookSAM", "GSAM"] {
        assert!(largest(name) < 0.5 * largest("SGD"), "{name}: {}", ended.stdout);
    }
    let picture = std::fs::read_to_string(folder.path().join("sam_quadratic.svg")).expect("a picture");
    assert!(["sharp minimum", "LookSAM", "ascent"].iter().all(|text| picture.contains(text)));
    let file = folder.path().join("sam_quadratic.svg");
    Ended::of(example("sam_quadratic").arg(&file)).fails(1, &["cannot write", "sam_quadratic.svg"]);
}
