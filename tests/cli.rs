//! The programs as a user meets them: help, wrong flags, bad inputs, and what each says and leaves behind.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Ended, example, root, tiny};
use tempfile::{TempDir, tempdir};

fn folder() -> TempDir {
    tempdir().expect("a temporary folder")
}

fn write(path: &Path, contents: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
    std::fs::write(path, contents).expect("a temporary file");
}

/// Everything below a folder with its contents, to see that it stays as it was.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push((path.clone(), std::fs::read(&path).ok()));
        }
    }
    found.sort();
    found
}

#[test]
fn help_names_every_flag_with_its_default() {
    let ended = Ended::of(example("cifar100").arg("--help")).succeeds();
    for flag in [
        "data",
        "data-dir",
        "hub",
        "recipe",
        "depth",
        "width-factor",
        "dropout",
        "epochs",
        "batch-size",
        "lr",
        "momentum",
        "weight-decay",
        "rho",
        "adaptive",
        "label-smoothing",
        "augment",
        "randaugment-operations",
        "randaugment-magnitude",
        "cutout-probability",
        "mixup",
        "cutmix",
        "mix-probability",
        "seed",
        "threads",
        "train-limit",
        "test-limit",
        "device",
        "precision",
        "deterministic",
        "out",
        "resume",
        "checkpoint-every",
    ] {
        assert!(ended.stdout.contains(&format!("--{flag}")), "no --{flag} in:\n{}", ended.stdout);
    }
    for text in
        ["Data:", "Recipe:", "Run:", "quick 10, reference 34", "0.0005", "[default: ./data]", "cuda[:N]"]
    {
        assert!(ended.stdout.contains(text), "no {text} in:\n{}", ended.stdout);
    }
    for name in ["verify", "throughput", "predict", "loader", "preview"] {
        let ended = Ended::of(example(name).arg("--help")).succeeds();
        assert!(ended.stdout.contains("Usage:"), "{}", ended.stdout);
    }
}

#[test]
fn wrong_flags_end_with_2() {
    let wrong = |arguments: &[&str], parts: &[&str]| {
        Ended::of(example("cifar100").args(arguments)).fails(2, parts);
    };
    wrong(&["--nonsense"], &["--nonsense"]);
    wrong(&["stray"], &["stray"]);
    wrong(&["--data", "imagenet"], &["imagenet", "auto, cifar100, cifar10 or synthetic"]);
    wrong(&["--device", "gpu"], &["gpu", "auto, cpu, cuda and cuda:N"]);
    wrong(&["--device", "cuda:x"], &["cuda:x"]);
    wrong(&["--recipe", "quik"], &["quik", "quick, reference or a file"]);
    wrong(&["--augment", "augmix"], &["augmix", "randaugment or trivialaugment"]);
    wrong(&["--randaugment-operations", "15"], &["`randaugment_operations` is 15", "from 0 to 14"]);
    wrong(&["--randaugment-magnitude", "31"], &["`randaugment_magnitude` is 31", "from 0 to 30"]);
    wrong(&["--mixup", "-1"], &["`mixup_alpha` is -1"]);
    wrong(&["--epochs", "many"], &["many", "--epochs"]);
    wrong(&["--epochs"], &["--epochs"]);
    wrong(&["--resume", "a", "--out", "b"], &["--resume", "--out"]);
    wrong(&["--hub", "--data-dir", "data"], &["--hub", "--data-dir"]);
    // Values out of range.
    wrong(&["--depth", "33"], &["`depth` is 33", "6n + 4"]);
    wrong(&["--batch-size", "0"], &["`batch_size` is 0"]);
    wrong(&["--label-smoothing", "1.5"], &["`label_smoothing` is 1.5"]);
    wrong(&["--rho", "-1"], &["`rho` is -1"]);
    wrong(&["--lr", "nan"], &["`learning_rate` is NaN"]);
    wrong(&["--epochs", "0"], &["`epochs` is 0"]);
    wrong(&["--dropout", "1"], &["`dropout` is 1"]);

    Ended::of(&mut example("verify")).fails(2, &["FILE"]);
    Ended::of(example("verify").args(["x", "--tolerance=-1"])).fails(2, &["--tolerance"]);
    Ended::of(example("throughput").args(["16", "2", "0"])).fails(2, &["0"]);
    Ended::of(example("throughput").args(["16", "2", "1", "--precision", "f8"])).fails(2, &["f32"]);
    Ended::of(example("predict").arg("model.safetensors")).fails(2, &["IMAGE"]);
}

#[test]
fn a_device_that_is_not_there() {
    for (name, arguments) in [
        ("cifar100", &["--data", "synthetic"][..]),
        ("verify", &["x.safetensors"]),
        ("throughput", &["10", "1", "1"]),
        ("predict", &["x.safetensors", "x.png"]),
    ] {
        Ended::of(example(name).args(arguments).args(["--device", "cuda:99"]))
            .fails(1, &["--device cuda:99", "--device cpu"]);
        let tf32 = ["--precision", "tf32", "--device", "cpu"];
        if name != "predict" && name != "verify" {
            Ended::of(example(name).args(arguments).args(tf32)).fails(1, &["precision"]);
        }
    }
}

#[test]
fn bad_recipe_files() {
    let folder = folder();
    let path = folder.path().join("mine.toml");
    let fails = |parts: &[&str]| {
        let ended = Ended::of(tiny().arg("--recipe").arg(&path).current_dir(folder.path()));
        ended.fails(1, &[&["mine.toml"], parts].concat());
    };
    fails(&["No such file"]);
    for (text, part) in [
        ("depth = ", "TOML"),
        ("depth = 33", "`depth` is 33"),
        ("batch_size = 0", "`batch_size` is 0"),
        ("label_smoothing = 1.5", "`label_smoothing` is 1.5"),
        ("rho = -1.0", "`rho` is -1"),
        ("color = 'red'", "unknown field `color`"),
        ("epochs = 'many'", "epochs"),
    ] {
        write(&path, text);
        fails(&[part]);
    }
    write(&path, [0xff, 0xfe, 0x00]);
    fails(&["UTF-8"]);
    // No run was begun.
    assert_eq!(contents(folder.path()).len(), 1);
}

#[test]
fn a_recipe_file_is_overridden_by_flags() {
    let folder = folder();
    let path = folder.path().join("mine.toml");
    write(&path, "depth = 10\nwidth_factor = 2\nlabel_smoothing = 0.2\nadaptive = true\nbatch_size = 10\n");
    let out = folder.path().join("run");
    let mut command = example("cifar100");
    command.args(["--data", "synthetic", "--train-limit", "30", "--test-limit", "10", "--epochs", "1"]);
    command.args([
        "--augment",
        "randaugment",
        "--randaugment-operations",
        "3",
        "--randaugment-magnitude",
        "5",
    ]);
    command
        .args(["--width-factor", "1", "--adaptive=false", "--lr", "0.05", "--seed", "4", "--recipe"])
        .arg(&path);
    Ended::of(command.arg("--out").arg(&out)).succeeds();
    let recipe = std::fs::read_to_string(out.join("recipe.toml")).expect("recipe.toml");
    for line in [
        "depth = 10",
        "width_factor = 1",
        "label_smoothing = 0.2",
        "adaptive = false",
        "batch_size = 10",
        "learning_rate = 0.05",
        "seed = 4",
        "augment = \"randaugment\"",
        "randaugment_operations = 3",
        "randaugment_magnitude = 5",
        "momentum = 0.9",
        "epochs = 1",
        "data = \"synthetic\"",
    ] {
        assert!(recipe.lines().any(|found| found == line), "no {line} in:\n{recipe}");
    }
}

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
fn out_folders_that_cannot_be() {
    let folder = folder();
    let file = folder.path().join("file");
    write(&file, "mine");
    let before = contents(folder.path());
    Ended::of(tiny().arg("--out").arg(file.join("run"))).fails(1, &["cannot create the folder", "file/run"]);
    Ended::of(tiny().arg("--out").arg(&file)).fails(1, &["file"]);
    Ended::of(tiny().arg("--out").arg(folder.path()))
        .fails(1, &["not empty", "nothing in it is overwritten"]);
    assert!(contents(folder.path()) == before);
}

#[test]
fn folders_that_cannot_be_resumed() {
    let folder = folder();
    let out = folder.path().join("run");
    let resume =
        |arguments: &[&str]| Ended::of(example("cifar100").arg("--resume").arg(&out).args(arguments));
    resume(&[]).fails(1, &["holds no run to resume"]);
    assert_eq!(contents(folder.path()), []);

    Ended::of(tiny().arg("--out").arg(&out)).succeeds();
    let before = contents(&out);
    // Another recipe, said by flags or by a file.
    let parts = ["another recipe", "`depth` is 16 here but 10 there", "`rho` is 0.2 here but 0.1 there"];
    resume(&["--depth", "16", "--rho", "0.2"]).fails(1, &parts);
    resume(&["--recipe", "reference", "--data", "synthetic"])
        .fails(1, &["another recipe", "`epochs` is 200 here"]);
    assert!(contents(&out) == before, "a refused resume changed the run");

    // Every checkpoint cut short.
    let checkpoints: Vec<_> =
        before.iter().filter(|(path, _)| path.starts_with(out.join("checkpoints"))).collect();
    for (path, bytes) in checkpoints {
        if let Some(bytes) = bytes {
            write(path, &bytes[..bytes.len() / 2]);
        }
    }
    let before = contents(&out);
    resume(&[]).fails(1, &["no checkpoint", "can be used", "Nothing was changed"]);
    assert!(contents(&out) == before, "a refused resume changed the run");

    write(&out.join("recipe.toml"), "depth = 10\ncolor = 'red'\n");
    resume(&[]).fails(1, &["recipe.toml", "unknown field `color`"]);
}

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
    Ended::of(example("throughput").args(["33", "1", "1"])).fails(1, &["33"]);
}

#[test]
fn loader_prints_one_line() {
    let mut command = example("loader");
    let ended = Ended::of(command.args(["--images", "640", "--epochs", "1", "--threads", "1"])).succeeds();
    let line: Value = serde_json::from_str(&ended.stdout).expect("one JSON line");
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line:?}"));
    assert_eq!((number("threads"), number("batch"), number("images")), (1.0, 128.0, 640.0));
    assert!(number("images_per_second") > 0.0 && number("read_seconds") > 0.0);
    Ended::of(example("loader").args(["--batch", "0"])).fails(1, &["batch size is 0"]);
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
