//! Flags, recipes, and their defaults in the help.

use wrn_sam::train::Recipe;

use crate::support::{Ended, example, tiny};
use crate::{contents, folder, write};

#[test]
fn help_names_every_flag_with_its_default() {
    let ended = Ended::of(example("cifar100").arg("--help")).succeeds();
    let keys = Recipe::reference().to_toml().expect("a recipe");
    let keys = keys.lines().map(|line| line.split_once(" = ").expect("a key").0);
    let keys = keys.map(|key| match key {
        "learning_rate" => "lr".to_string(),
        "mixup_alpha" | "cutmix_alpha" => key.replace("_alpha", ""),
        key => key.replace('_', "-"),
    });
    for flag in keys.chain(["data-dir", "hub", "recipe", "device", "out", "resume"].map(String::from)) {
        assert!(ended.stdout.contains(&format!(" --{flag}")), "no --{flag} in:\n{}", ended.stdout);
    }
    for text in [
        "Data:",
        "Recipe:",
        "Run:",
        "quick 10, reference 34",
        "0.0005",
        "[default: ./data]",
        "cuda[:N]",
        "0: SGD, one pass a step",
    ] {
        assert!(ended.stdout.contains(text), "no {text} in:\n{}", ended.stdout);
    }
    for name in
        ["verify", "throughput", "predict", "loader", "preview", "sam_quadratic", "sharpness", "study"]
    {
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
    wrong(&["--data", "imagenet"], &["imagenet", "auto, cifar100, cifar10, synthetic or folder:DIR"]);
    wrong(&["--device", "gpu"], &["gpu", "auto, cpu, cuda and cuda:N"]);
    wrong(&["--device", "cuda:x"], &["cuda:x"]);
    wrong(&["--recipe", "quik"], &["quik", "quick, reference or a file"]);
    wrong(&["--augment", "augmix"], &["augmix", "randaugment or trivialaugment"]);
    wrong(&["--randaugment-operations", "15"], &["randaugment_operations = 15", "0 to 14"]);
    wrong(&["--randaugment-magnitude", "31"], &["randaugment_magnitude = 31", "0 to 30"]);
    wrong(&["--mixup", "-1"], &["mixup_alpha = -1"]);
    wrong(&["--epochs", "many"], &["many", "--epochs"]);
    wrong(&["--epochs"], &["--epochs"]);
    wrong(&["--resume", "a", "--out", "b"], &["--resume", "--out"]);
    wrong(&["--hub", "--data-dir", "data"], &["--hub", "--data-dir"]);
    // Values out of range.
    wrong(&["--depth", "33"], &["depth = 33", "6n + 4"]);
    wrong(&["--batch-size", "0"], &["batch_size = 0"]);
    wrong(&["--label-smoothing", "1.5"], &["label_smoothing = 1.5"]);
    wrong(&["--rho", "-1"], &["rho = -1"]);
    wrong(&["--lr", "nan"], &["learning_rate = NaN"]);
    wrong(&["--epochs", "0"], &["epochs = 0"]);
    wrong(&["--dropout", "1"], &["dropout = 1"]);
    wrong(&["--norm", "1"], &["norm = 1"]);
    wrong(&["--schedule", "linear"], &["linear", "step or cosine"]);
    wrong(&["--epochs", "3", "--warmup-epochs", "4"], &["warmup_epochs = 4", "`epochs`"]);
    wrong(&["--nesterov", "--momentum", "0"], &["nesterov = true"]);
    wrong(&["--adaptive=maybe"], &["maybe", "true or false"]);
    wrong(&["--seed", "-1"], &["-1", "whole number"]);
    wrong(&["--seed", "18446744073709551615"], &["whole number from 0 to 9223372036854775807"]);

    Ended::of(&mut example("verify")).fails(2, &["FILE"]);
    Ended::of(example("verify").args(["x", "--tolerance=-1"])).fails(2, &["--tolerance"]);
    Ended::of(example("throughput").args(["16", "2", "0"])).fails(2, &["0"]);
    Ended::of(example("throughput").args(["33", "1", "1"])).fails(2, &["33"]);
    Ended::of(example("loader").args(["--batch", "0"])).fails(2, &["--batch"]);
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
        for precision in ["tf32", "bf16"] {
            if name != "predict" {
                let mut command = example(name);
                command.args(arguments).args(["--precision", precision, "--device", "cpu"]);
                Ended::of(&mut command).fails(2, &["--precision", precision, "GPU"]);
            }
        }
    }
}

#[test]
fn bad_recipe_files() {
    let folder = folder();
    let path = folder.path().join("mine.toml");
    let fails = |parts: &[&str]| {
        let ended = Ended::of(tiny().arg("--recipe").arg(&path).current_dir(folder.path()));
        ended.fails(2, &[&["mine.toml"], parts].concat());
    };
    fails(&["No such file"]);
    for (text, part) in [
        ("depth = ", "TOML"),
        ("depth = 33", "depth = 33"),
        ("batch_size = 0", "batch_size = 0"),
        ("label_smoothing = 1.5", "label_smoothing = 1.5"),
        ("rho = -1.0", "rho = -1"),
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
        "--schedule",
        "cosine",
        "--warmup-epochs",
        "1",
        "--nesterov",
        "--norm",
        "inf",
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
        "schedule = \"cosine\"",
        "warmup_epochs = 1",
        "nesterov = true",
        "norm = inf",
        "momentum = 0.9",
        "epochs = 1",
        "data = \"synthetic\"",
    ] {
        assert!(recipe.lines().any(|found| found == line), "no {line} in:\n{recipe}");
    }
}

#[test]
fn a_refused_command_touches_no_data() {
    let folder = folder();
    // Reading these images, or downloading others, would end with 1.
    write(&folder.path().join("data/train.bin"), "damaged");
    write(&folder.path().join("full/file"), "mine");
    write(&folder.path().join("bad.toml"), "depth = 33");
    let mut begun = tiny();
    Ended::of(begun.args(["--epochs", "2", "--out"]).arg(folder.path().join("run"))).succeeds();
    let before = contents(folder.path());
    for flags in [
        &["--precision", "bf16", "--device", "cpu"][..],
        &["--precision", "tf32", "--device", "cpu"],
        &["--out", "full"],
        &["--recipe", "absent.toml"],
        &["--recipe", "bad.toml"],
        &["--depth", "33"],
        &["--rho", "inf"],
        &["--init", "absent.safetensors"],
        &["--resume", "run", "--out", "new"],
        &["--resume", "run", "--init", "full/file"],
        &["--resume", "run", "--depth", "16"],
        &["--resume", "run", "--epochs", "1"],
        &["--resume", "run", "--recipe", "reference"],
        &["--resume", "run", "--precision", "bf16"],
        &["--keep-past-rates"],
    ] {
        let resumes = flags[0] == "--resume";
        let data: &[&str] = if resumes { &[] } else { &["--data", "cifar100"] };
        let mut command = example("cifar100");
        command.current_dir(folder.path()).args(flags).args(data).args(["--data-dir", "data"]);
        let ended = Ended::of(&mut command).fails(2, &[]);
        assert!(
            !ended.stderr.contains("train.bin") && ended.stdout.is_empty(),
            "{flags:?}: {}",
            ended.stderr
        );
        assert!(contents(folder.path()) == before, "{flags:?} changed something");
    }
}
