//! Whole runs of a tiny network: the same again, stopped and gone on with, and every way in which a folder can be bad.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wrn_sam_data::Cifar;
use wrn_sam_train::{
    Augment, Control, EvaluateProgress, HEADER, MetricsFile, Observer, Outcome, Recipe, Start, StepProgress,
    Trainer,
};

/// Four steps an epoch, the last of 4 images; a test split of 40, the last batch of 8.
fn recipe() -> Recipe {
    Recipe {
        depth: 10,
        width_factor: 1,
        dropout: 0.1,
        train_limit: 100,
        epochs: 2,
        batch_size: 32,
        threads: 1,
        checkpoint_every: 1,
        ..Recipe::reference()
    }
}

fn data() -> Cifar {
    Cifar::synthetic(17, 120, 40)
}

fn trainer<'a>(recipe: &Recipe) -> Trainer<'a> {
    Trainer::new(recipe.clone(), data())
}

/// Everything a run ends in but the time.
#[derive(PartialEq)]
struct End {
    metrics: Vec<String>,
    model: Vec<u8>,
    best: Vec<u8>,
}

impl End {
    fn of(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("metrics.csv")).unwrap();
        let without_time = |line: &str| line.split(',').take(7).collect::<Vec<_>>().join(",");
        let read = |name| std::fs::read(folder.join(name)).unwrap();
        Self {
            metrics: text.lines().map(without_time).collect(),
            model: read("model.safetensors"),
            best: read("best.safetensors"),
        }
    }

    fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.metrics, other.metrics, "{what}");
        assert!(self.model == other.model, "{what}: other weights at the end");
        assert!(self.best == other.best, "{what}: other best weights");
    }
}

/// The run all others are held against.
fn whole_run() -> (TempDir, PathBuf, End) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("whole");
    assert!(
        matches!(trainer(&recipe()).run(&out).unwrap(), Outcome::Completed { metrics } if metrics.len() == 2)
    );
    let end = End::of(&out);
    (folder, out, end)
}

fn checkpoints(out: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_seed_fixes_everything_whatever_the_threads() {
    let (folder, out, end) = whole_run();
    let two_threads = folder.path().join("two");
    let _ = trainer(&Recipe { threads: 2, ..recipe() }).run(&two_threads).unwrap();
    end.assert_same(&End::of(&two_threads), "two threads");

    let other_seed = folder.path().join("other");
    let _ = trainer(&Recipe { seed: 18, ..recipe() }).run(&other_seed).unwrap();
    assert!(end.model != End::of(&other_seed).model);

    let metrics = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().next().unwrap(), HEADER);
    assert_eq!(
        HEADER,
        "epoch,learning_rate,train_loss,train_top1,test_loss,test_top1,test_top5,seconds,images_per_second"
    );
    let rows = MetricsFile::read(&out.join("metrics.csv")).unwrap();
    assert_eq!(rows.iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2]);
    assert!(rows.iter().all(|row| (0.0..=1.0).contains(&row.test_top5) && row.seconds > 0.0));

    let mut files: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let expected = [
        "best.safetensors",
        "checkpoints",
        "loss.svg",
        "metrics.csv",
        "model.safetensors",
        "recipe.toml",
        "source.toml",
        "top1.svg",
        "top5.svg",
    ];
    assert_eq!(files, expected);
    assert_eq!(checkpoints(&out).len(), 2);
    let written = Recipe::from_toml_file(&out.join("recipe.toml")).unwrap();
    assert_eq!(written, Recipe { data: wrn_sam_train::DataChoice::Synthetic, ..recipe() });
    let source = std::fs::read_to_string(out.join("source.toml")).unwrap();
    assert!(source.contains("source = \"synthetic images of seed 17 (not CIFAR-100)\"\n"), "{source}");
    let (_, md5) = source.split_once("images_md5 = \"").unwrap();
    assert_eq!(md5.find('"'), Some(32), "{source}");
    assert!(std::fs::read_to_string(out.join("loss.svg")).unwrap().contains("WRN-10-1, synthetic images"));
}

/// Stops the run after every step.
struct Impatient(Control);

impl Observer for Impatient {
    fn on_step(&mut self, _: &StepProgress) {
        self.0.stop();
    }
}

#[test]
fn interrupted_after_every_step_it_ends_the_same() {
    let (folder, _, end) = whole_run();
    let out = folder.path().join("interrupted");
    let mut stops = 0;
    loop {
        let control = Control::default();
        let trainer = trainer(&recipe()).observer(Impatient(control.clone())).with_control(control);
        let outcome = if stops == 0 { trainer.run(&out) } else { trainer.resume(&out) };
        match outcome.unwrap() {
            Outcome::Completed { metrics } => {
                assert_eq!(metrics.len(), 2);
                break;
            }
            Outcome::Interrupted { checkpoint } => {
                assert!(checkpoint.is_file());
                stops += 1;
            }
        }
    }
    // The last stop of an epoch comes before its evaluation.
    assert_eq!(stops, 8);
    end.assert_same(&End::of(&out), "interrupted after every step");
}

#[test]
fn policies_and_mixing_end_the_same_when_interrupted() {
    let all = Recipe {
        augment: Augment::RandAugment,
        mixup_alpha: 0.4,
        cutmix_alpha: 1.0,
        mix_probability: 0.8,
        ..recipe()
    };
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let _ = trainer(&all).run(&whole).unwrap();
    for stops in 0..2 {
        let control = Control::default();
        let trainer = trainer(&all).observer(Impatient(control.clone())).with_control(control);
        let outcome = if stops == 0 { trainer.run(&parts) } else { trainer.resume(&parts) };
        assert!(matches!(outcome.unwrap(), Outcome::Interrupted { .. }));
    }
    let _ = trainer(&Recipe { threads: 2, ..all.clone() }).resume(&parts).unwrap();
    End::of(&whole).assert_same(&End::of(&parts), "interrupted");
    let (_folder, _, plain) = whole_run();
    assert!(plain.metrics != End::of(&whole).metrics);
    assert!(matches!(trainer(&recipe()).resume(&parts), Err(wrn_sam_train::Error::OtherRecipe { .. })));
}

#[test]
fn interrupted_during_evaluation_it_ends_the_same() {
    struct DuringEvaluation(Control);
    impl Observer for DuringEvaluation {
        fn on_evaluate(&mut self, _: &EvaluateProgress) {
            self.0.stop();
        }
    }
    let (folder, _, end) = whole_run();
    let out = folder.path().join("interrupted");
    let control = Control::default();
    let stopped = trainer(&recipe())
        .observer(DuringEvaluation(control.clone()))
        .with_control(control)
        .run(&out)
        .unwrap();
    let Outcome::Interrupted { checkpoint } = stopped else { panic!("not interrupted") };
    assert!(checkpoint.ends_with("epoch-0000-step-000004.safetensors"));
    // Threads and the checkpoints' rhythm are no part of a run's identity.
    let _ = trainer(&Recipe { threads: 2, checkpoint_every: 0, ..recipe() }).resume(&out).unwrap();
    end.assert_same(&End::of(&out), "interrupted during evaluation");
    assert_eq!(Recipe::from_toml_file(&out.join("recipe.toml")).unwrap().threads, 2);
}

#[test]
fn checkpoints_on_request_change_nothing() {
    /// Asks for a checkpoint at every step and in every evaluation.
    struct Careful {
        control: Control,
        written: Vec<String>,
    }
    impl Observer for Careful {
        fn on_step(&mut self, _: &StepProgress) {
            self.control.request_checkpoint();
        }
        fn on_evaluate(&mut self, _: &EvaluateProgress) {
            self.control.request_checkpoint();
        }
        fn on_checkpoint(&mut self, path: &Path) {
            let name = path.file_name().expect("a name").to_string_lossy();
            self.written.push(name["epoch-".len()..name.len() - ".safetensors".len()].into());
        }
    }
    let (folder, _, end) = whole_run();
    let out = folder.path().join("careful");
    let control = Control::default();
    let mut careful = Careful { control: control.clone(), written: Vec::new() };
    let outcome = trainer(&recipe()).observer(&mut careful).with_control(control).run(&out).unwrap();
    assert!(matches!(outcome, Outcome::Completed { .. }));
    for point in ["0000-step-000001", "0000-step-000004", "0001-step-000002"] {
        assert!(careful.written.iter().any(|name| name == point), "no {point} in {:?}", careful.written);
    }
    end.assert_same(&End::of(&out), "with checkpoints on request");
}

/// Copies the folder as it is at some moments: what a killed process would leave.
struct Snapshots {
    out: PathBuf,
    to: PathBuf,
}

impl Snapshots {
    fn take(&self, name: &str) {
        copy_folder(&self.out, &self.to.join(name));
    }
}

impl Observer for Snapshots {
    fn on_start(&mut self, start: &Start<'_>) {
        assert_eq!((start.train_images, start.test_images, start.steps), (100, 40, 4));
        self.take("before the first checkpoint");
    }
    fn on_step(&mut self, step: &StepProgress) {
        if (step.epoch, step.step) == (2, 3) {
            self.take("in the second epoch");
        }
    }
    fn on_evaluate(&mut self, progress: &EvaluateProgress) {
        if progress.epoch == 1 {
            self.take("in the first evaluation");
        }
    }
}

#[test]
fn killed_at_any_moment_it_can_be_resumed_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let to = folder.path().join("killed");
    let _ = trainer(&recipe()).observer(Snapshots { out: out.clone(), to: to.clone() }).run(&out).unwrap();
    let end = End::of(&out);

    let moments = ["before the first checkpoint", "in the first evaluation", "in the second epoch"];
    for moment in moments {
        let killed = to.join(moment);
        // A row beyond the checkpoint, a row cut short, and a file half written.
        let metrics = killed.join("metrics.csv");
        let row = "1,0.1,9,9,9,9,9,9,9\n2,0.02,4.1";
        std::fs::write(&metrics, std::fs::read_to_string(&metrics).unwrap_or_default() + row).unwrap();
        std::fs::write(killed.join("checkpoints/.partial"), "half").unwrap();
        let _ = trainer(&recipe()).resume(&killed).unwrap();
        end.assert_same(&End::of(&killed), moment);
    }

    // A run that has ended stays as it is.
    let outcome = trainer(&recipe()).resume(&out).unwrap();
    assert!(matches!(outcome, Outcome::Completed { metrics } if metrics.len() == 2));
    end.assert_same(&End::of(&out), "resumed after its end");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    struct Skipped(Vec<String>);
    impl Observer for Skipped {
        fn on_start(&mut self, start: &Start<'_>) {
            let resumed = start.resumed.as_ref().unwrap();
            assert_eq!((resumed.epoch, resumed.step), (1, 0));
            self.0 = resumed.skipped.iter().map(ToString::to_string).collect();
        }
    }
    let (_folder, out, end) = whole_run();
    let newest = checkpoints(&out).pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let mut skipped = Skipped(Vec::new());
    let _ = trainer(&recipe()).observer(&mut skipped).resume(&out).unwrap();
    assert_eq!(skipped.0.len(), 1);
    assert!(skipped.0[0].contains("epoch-0002") && skipped.0[0].contains("cut short"), "{}", skipped.0[0]);
    end.assert_same(&End::of(&out), "resumed before a damaged checkpoint");

    for path in checkpoints(&out) {
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..1000]).unwrap();
    }
    let error = trainer(&recipe()).resume(&out).unwrap_err().to_string();
    assert!(error.contains("no checkpoint in") && error.contains("Nothing was changed"), "{error}");
    end.assert_same(&End::of(&out), "after all checkpoints were damaged");
}

#[test]
fn a_folder_that_does_not_fit_is_refused_and_left_alone() {
    let (folder, out, end) = whole_run();
    let refused = |recipe: &Recipe, parts: &[&str]| {
        let error = trainer(recipe).resume(&out).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    refused(
        &Recipe { rho: 0.05, width_factor: 2, ..recipe() },
        &[
            "recipe.toml was trained with another recipe",
            "`rho` is 0.05 here but 0.1 there",
            "`width_factor` is 2",
        ],
    );
    let error = Trainer::new(recipe(), Cifar::synthetic(18, 120, 40)).resume(&out).unwrap_err().to_string();
    assert!(error.contains("other images"), "{error}");
    let error = trainer(&recipe()).run(&out).unwrap_err().to_string();
    assert!(error.contains("is not empty") && error.contains("resume"), "{error}");

    let text = std::fs::read_to_string(out.join("recipe.toml")).unwrap();
    std::fs::write(out.join("recipe.toml"), text.replace("rho = 0.1", "rho = 0.2")).unwrap();
    refused(&Recipe { rho: 0.2, ..recipe() }, &["checkpoints", "`rho` is 0.2 here but 0.1 there"]);
    std::fs::write(out.join("recipe.toml"), "depth = 33").unwrap();
    refused(&recipe(), &["recipe.toml: `depth` is 33"]);
    std::fs::remove_file(out.join("recipe.toml")).unwrap();
    refused(&recipe(), &["holds no run to resume"]);
    end.assert_same(&End::of(&out), "after refusals");

    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let error = trainer(&recipe()).run(&file).unwrap_err().to_string();
    assert!(error.starts_with("cannot create the folder"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn what_cannot_be_trained_is_refused_before_a_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = |recipe: Recipe, data: Cifar, part: &str| {
        let error = Trainer::new(recipe, data).run(&out).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!out.exists());
    };
    refused(Recipe { depth: 33, ..recipe() }, data(), "`depth` is 33");
    refused(recipe(), Cifar::synthetic(17, 10, 0), "the test split");
    let real = Recipe { data: wrn_sam_train::DataChoice::Cifar100, ..recipe() };
    refused(real, data(), "`data` is not what was given");
}

#[test]
fn a_run_that_diverges_says_where_and_can_still_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let wild = Recipe { learning_rate: 1e30, ..recipe() };
    let error = trainer(&wild).run(&out).unwrap_err().to_string();
    assert!(error.starts_with("epoch 1, step ") && error.contains("gradient"), "{error}");
    assert_eq!(checkpoints(&out).len(), 1);
    assert_eq!(trainer(&wild).resume(&out).unwrap_err().to_string(), error);
}
