//! The recipes in `recipes/`, and the programs that compare and measure what they give: `study` and `sharpness`.

mod support;

use std::path::Path;

use support::{Ended, example, root, tiny};
use wrn_sam::train::Recipe;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_recipe_is_one_and_says_what_to_expect() {
    let entries = std::fs::read_dir(root().join("recipes")).expect("a folder of recipes");
    let mut recipes = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        let (name, text) = (path.file_stem().expect("a name").to_string_lossy().into_owned(), read(&path));
        if name.starts_with("study") {
            continue;
        }
        recipes += 1;
        let recipe = Recipe::from_toml_file(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(recipe.to_toml().is_ok());
        for part in ["# Source: ", "# Reported there", " %"] {
            assert!(text.contains(part), "{name} does not say \"{part}\"");
        }
    }
    assert!(recipes >= 6, "{recipes} recipes");
    let mut reference = Recipe::from_toml_file(&root().join("recipes/reference.toml")).expect("a recipe");
    reference.threads = 0;
    assert_eq!(reference, Recipe::reference());
}

/// A study of two methods and two seeds on a few synthetic images, with the sharpness of the ends.
const STUDY: &str = r#"
title = "SGD & SAM"
seeds = [1, 2]

[recipe]
data = "synthetic"
depth = 10
width_factor = 1
epochs = 1
batch_size = 16
train_limit = 48
test_limit = 32
threads = 1

[[method]]
name = "SGD"
recipe = { method = "sgd" }

[[method]]
name = "SAM, rho 0.2"
recipe = { rho = 0.2 }

[sharpness]
images = 16
batch = 8
steps = 2
draws = 2
iterations = 2
"#;

#[test]
fn a_study_is_trained_measured_and_compared() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, out) = (folder.path().join("study.toml"), folder.path().join("out"));
    std::fs::write(&file, STUDY).expect("a temporary file");
    let study = || Ended::of(example("study").arg(&file).arg("--out").arg(&out).args(["--device", "cpu"]));
    let ended = study().succeeds();
    assert!(ended.stdout.contains("run 4 of 4: SAM, rho 0.2, seed 2"), "{}", ended.stdout);

    let table = read(&out.join("table.md"));
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let [head, sgd, sam] = &rows[..] else { panic!("{table}") };
    assert_eq!(head[1..6], ["method", "gradients", "seeds", "test top-1 (%)", "less SGD, paired"]);
    assert!(head.contains(&"largest eigenvalue"), "{table}");
    assert_eq!((sgd[1..4].to_vec(), sgd[5]), (vec!["SGD", "1", "2"], ""));
    assert_eq!(sam[1..4], ["SAM, rho 0.2", "2", "2"]);

    // The table is what the runs say.
    let runs = read(&out.join("runs.csv"));
    let top1 = |method: &str| -> Vec<f64> {
        let lines = runs.lines().filter(|line| line.starts_with(method));
        lines.map(|line| line.split(',').nth(3).expect("a cell").parse().expect("a number")).collect()
    };
    let (sgd_top1, sam_top1) = (top1("SGD,"), top1("SAM; rho 0.2,"));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let spread = |values: &[f64]| (values[0] - values[1]).abs() / 2f64.sqrt(); // with n - 1
    assert_eq!(sgd[4], format!("{:.2} ± {:.2}", mean(&sgd_top1), spread(&sgd_top1)));
    let pairs: Vec<f64> = sam_top1.iter().zip(&sgd_top1).map(|(sam, sgd)| sam - sgd).collect();
    assert_eq!(sam[5], format!("{:+.2} ± {:.2}", mean(&pairs), spread(&pairs) / 2f64.sqrt()));
    let figure = read(&out.join("accuracy.svg"));
    assert!(figure.contains("SGD &amp; SAM") && figure.matches("<circle").count() == 2);

    // Given again, it trains nothing; of a run that is gone, only that one.
    let again = study().succeeds();
    assert!(!again.stdout.contains("run "), "{}", again.stdout);
    assert_eq!(read(&out.join("runs.csv")), runs);
    std::fs::remove_dir_all(out.join("sam-rho-0-2/seed-1")).expect("a run's folder");
    let again = study().succeeds();
    assert_eq!(again.stdout.matches("run ").count(), 1, "{}", again.stdout);
    assert_eq!(read(&out.join("runs.csv")), runs);

    // Another recipe in the same folder is refused before anything is trained.
    std::fs::write(&file, STUDY.replace("rho = 0.2", "rho = 0.3")).expect("a temporary file");
    study().fails(1, &["another recipe", "`rho` is 0.3 here but 0.2 there"]);
}

#[test]
fn what_is_no_study_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("study.toml");
    let refused = |text: &str, part: &str| {
        std::fs::write(&file, text).expect("a temporary file");
        Ended::of(example("study").arg(&file).arg("--out").arg(folder.path().join("out"))).fails(2, &[part]);
    };
    refused("title = 1", "title");
    refused(&STUDY.replace("seeds = [1, 2]", "seeds = [1]"), "two seeds");
    refused(&STUDY.replace("seeds = [1, 2]", "seeds = [1, 1, 2]"), "twice");
    refused(&STUDY.replace("SAM, rho 0.2", "sgd"), "same name");
    refused(&STUDY.replace("rho = 0.2", "rho = -1"), "rho = -1");
    refused(&STUDY.replace("rho = 0.2", "rhoo = 0.2"), "rhoo");
    refused(&STUDY.replace("steps = 2", "stairs = 2"), "stairs");
    assert!(!folder.path().join("out").exists());

    // The study of the repository is one: it is refused for its images only.
    let study = root().join("recipes/study-sam-family.toml");
    let mut command = example("study");
    command.arg(study).arg("--out").arg(folder.path().join("out")).arg("--data-dir").arg(folder.path());
    Ended::of(command.args(["--device", "cpu"])).fails(1, &["CIFAR-100"]);
}

#[test]
fn sharpness_measures_weights_and_draws_the_loss_around_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = folder.path().join("run");
    Ended::of(tiny().arg("--out").arg(&run)).succeeds();
    let model = run.join("model.safetensors");
    let before = std::fs::read(&model).expect("weights");
    let measure = |seed: &str, out: &Path| {
        let mut command = example("sharpness");
        command.arg(&model).args(["--images", "16", "--batch", "8", "--steps", "2", "--draws", "2"]);
        command.args(["--iterations", "3", "--line", "3", "--plane", "3", "--device", "cpu", "--seed", seed]);
        Ended::of(command.arg("--out").arg(out)).succeeds().stdout
    };
    let [one, two, other] = ["one", "two", "other"].map(|name| folder.path().join(name));
    let text = measure("3", &one);
    for part in
        ["WRN-10-1 on synthetic", "16 images", "one-step sharpness", "largest eigenvalue", "± ", "h 0.01"]
    {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let csv = read(&one.join("sharpness.csv"));
    let values: Vec<f64> = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(1).expect("a cell").parse().expect("a number"))
        .collect();
    assert!(values.len() == 8 && values.iter().all(|value| value.is_finite()), "{csv}");
    let (one_step, worst) = (values[2], values[4]);
    assert!(one_step > 0.0 && worst >= 0.0, "{csv}");

    // In the middle of the line and the plane is the network itself.
    let line: Vec<String> = read(&one.join("line.csv")).lines().map(String::from).collect();
    let middle: f64 = line[2].split(',').nth(1).expect("a cell").parse().expect("a number");
    assert!(line.len() == 4 && (middle - values[0]).abs() < 1e-4 * values[0].abs(), "{line:?} {csv}");
    let plane = read(&one.join("plane.csv"));
    assert!(
        plane.lines().count() == 10 && plane.lines().nth(5).expect("a line").starts_with("0,0,"),
        "{plane}"
    );
    for figure in ["line-loss.svg", "line-top1.svg", "plane.svg"] {
        assert!(read(&one.join(figure)).contains("WRN-10-1"), "{figure}");
    }

    // Seeded.
    measure("3", &two);
    measure("4", &other);
    for file in ["sharpness.csv", "line.csv", "plane.csv"] {
        assert_eq!(read(&one.join(file)), read(&two.join(file)), "{file}");
        assert_ne!(read(&one.join(file)), read(&other.join(file)), "{file}");
    }
    assert!(std::fs::read(&model).expect("weights") == before);

    let nowhere = Ended::of(example("sharpness").arg(folder.path().join("nowhere.safetensors")));
    nowhere.fails(1, &["nowhere.safetensors"]);
    Ended::of(example("sharpness").arg(&model).args(["--draws", "1"])).fails(1, &["draws = 1"]);
}
