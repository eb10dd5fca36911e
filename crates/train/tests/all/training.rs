//! Whole runs of a tiny network: the same again, stopped and resumed, and every way in which a folder can be bad.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wrn_sam_data::Cifar;
use wrn_sam_train::metrics::{self, HEADER};
use wrn_sam_train::{
    Augment, Control, Error, EvaluateProgress, Lengthening, Observer, Outcome, Provenance, Recipe, RunSource,
    ScheduleKind, Start, StepProgress, Trainer, Warning,
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
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    assert_eq!(rows.iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2]);
    assert!(rows.iter().all(|row| (0.0..=1.0).contains(&row.test_top5) && row.seconds > 0.0));

    let files = names(&out);
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
        let trainer = trainer(&recipe()).with_observer(Impatient(control.clone())).with_control(control);
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
        let trainer = trainer(&all).with_observer(Impatient(control.clone())).with_control(control);
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
        .with_observer(DuringEvaluation(control.clone()))
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
    let outcome = trainer(&recipe()).with_observer(&mut careful).with_control(control).run(&out).unwrap();
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
    let _ =
        trainer(&recipe()).with_observer(Snapshots { out: out.clone(), to: to.clone() }).run(&out).unwrap();
    let end = End::of(&out);

    let moments = ["before the first checkpoint", "in the first evaluation", "in the second epoch"];
    for moment in moments {
        let killed = to.join(moment);
        // A row beyond the checkpoint, a row cut short, and files half written.
        let metrics = killed.join("metrics.csv");
        if let Ok(rows) = std::fs::read_to_string(&metrics) {
            std::fs::write(&metrics, rows + "1,0.1,9,9,9,9,9,9,9\n2,0.02,4.1").unwrap();
        }
        for folder in [&killed, &killed.join("checkpoints")] {
            if folder.is_dir() {
                std::fs::write(folder.join(".wrn-sam.AbCd1234.partial"), "half").unwrap();
            }
        }
        let _ = trainer(&recipe()).resume(&killed).unwrap();
        end.assert_same(&End::of(&killed), moment);
        assert!(names(&killed).iter().all(|name| !name.starts_with('.')), "{moment}");
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
    let _ = trainer(&recipe()).with_observer(&mut skipped).resume(&out).unwrap();
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
    refused(&recipe(), &["recipe.toml: depth = 33"]);
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
    refused(Recipe { depth: 33, ..recipe() }, data(), "depth = 33");
    refused(recipe(), Cifar::synthetic(17, 10, 0), "the test split");
    let real = Recipe { data: wrn_sam_train::DataChoice::Cifar100, ..recipe() };
    refused(real, data(), "`data` is not what was given");
}

#[test]
fn a_removed_recipe_is_had_from_a_checkpoint() {
    let (_folder, out, end) = whole_run();
    std::fs::remove_file(out.join("recipe.toml")).unwrap();
    let found = Recipe::from_run(&out).unwrap();
    assert!(found.differences(&Recipe { data: found.data, ..recipe() }).unwrap().is_empty());
    let _ = trainer(&found).resume(&out).unwrap();
    assert_eq!(Recipe::from_toml_file(&out.join("recipe.toml")).unwrap(), found);
    end.assert_same(&End::of(&out), "without its recipe");

    std::fs::remove_file(out.join("recipe.toml")).unwrap();
    std::fs::remove_dir_all(out.join("checkpoints")).unwrap();
    assert!(matches!(Recipe::from_run(&out), Err(Error::NotARun { .. })));
    assert!(matches!(trainer(&found).resume(&out), Err(Error::NotARun { .. })));
}

#[test]
fn results_whose_checkpoints_are_gone_are_not_overwritten() {
    let (_folder, out, end) = whole_run();
    for path in checkpoints(&out) {
        std::fs::remove_file(path).unwrap();
    }
    for what in ["model.safetensors", "best.safetensors", "metrics.csv with the rows of 2 epochs"] {
        let before = names(&out);
        let error = trainer(&recipe()).resume(&out).unwrap_err();
        assert!(matches!(error, Error::CheckpointsMissing { .. }), "{error}");
        assert!(error.to_string().contains(what), "{what} in {error}");
        assert_eq!(names(&out), before);
        std::fs::remove_file(out.join(what.split(' ').next().unwrap())).unwrap();
    }
    // Nothing is left of the training, so it begins again.
    let _ = trainer(&recipe()).resume(&out).unwrap();
    end.assert_same(&End::of(&out), "from the start");
}

/// What lies in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies results at the moments when files of less training could take their place.
struct Watch<'a> {
    out: &'a Path,
    models: Vec<Vec<u8>>,
    warnings: Vec<Warning>,
}

impl<'a> Watch<'a> {
    fn new(out: &'a Path) -> Self {
        Self { out, models: Vec::new(), warnings: Vec::new() }
    }
}

impl Observer for Watch<'_> {
    fn on_epoch(&mut self, _: &metrics::EpochMetrics) {
        self.models.push(std::fs::read(self.out.join("model.safetensors")).unwrap());
    }
    fn on_warning(&mut self, warning: &Warning) {
        self.warnings.push(warning.clone());
    }
}

#[test]
fn results_of_more_training_stay_until_they_are_reached_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let four = Recipe { epochs: 4, checkpoint_every: 2, ..recipe() };
    let _ = trainer(&four).run(&out).unwrap();
    let end = End::of(&out);
    // Back to the checkpoint after two epochs.
    std::fs::remove_file(checkpoints(&out).pop().unwrap()).unwrap();
    let mut watch = Watch::new(&out);
    let _ = trainer(&four).with_observer(&mut watch).resume(&out).unwrap();
    assert!(watch.models.len() == 2 && watch.models.iter().all(|model| *model == end.model));
    end.assert_same(&End::of(&out), "trained again");
}

#[test]
fn removed_results_are_written_again() {
    let (_folder, out, end) = whole_run();
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    let best_is_last = rows[1].test_top1 > rows[0].test_top1;
    for name in ["model.safetensors", "metrics.csv", "loss.svg", "top1.svg", "source.toml"] {
        let before = std::fs::read(out.join(name)).unwrap();
        std::fs::remove_file(out.join(name)).unwrap();
        let mut watch = Watch::new(&out);
        let _ = trainer(&recipe()).with_observer(&mut watch).resume(&out).unwrap();
        assert!(std::fs::read(out.join(name)).unwrap() == before, "{name}");
        assert_eq!(watch.warnings, []);
    }
    std::fs::remove_file(out.join("best.safetensors")).unwrap();
    let mut watch = Watch::new(&out);
    let _ = trainer(&recipe()).with_observer(&mut watch).resume(&out).unwrap();
    if best_is_last {
        end.assert_same(&End::of(&out), "written again");
        assert_eq!(watch.warnings, []);
    } else {
        assert_eq!(watch.warnings, [Warning::BestWeightsLost { epoch: 1 }]);
        assert!(watch.warnings[0].to_string().contains("best.safetensors is gone"));
    }
}

#[test]
fn weights_say_what_they_were_trained_on() {
    let (_folder, out, _end) = whole_run();
    let provenance = Provenance::from_weights(&out.join("model.safetensors")).unwrap().unwrap();
    assert_eq!((provenance.epoch, provenance.synthetic, provenance.classes.len()), (2, true, 100));
    assert_eq!(provenance.network, "WRN-10-1");
    assert!(provenance.data.starts_with("synthetic images of seed 17"), "{}", provenance.data);
    assert!(provenance.recipe.differences(&recipe()).unwrap().iter().all(|d| d.key == "data"));
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    assert_eq!(provenance.test_top1, rows[1].test_top1);
    let statistics = wrn_sam_data::Statistics::from_split(&data().train).unwrap();
    assert_eq!((provenance.mean, provenance.std), (statistics.mean, statistics.std));
    let images_md5 = RunSource::from_run(&out).unwrap().unwrap().images_md5;
    assert_eq!(provenance.images_md5, images_md5);
    assert_eq!(Provenance::from_toml(&provenance.to_toml().unwrap()).unwrap(), provenance);
    assert!(Provenance::from_toml("version = 1").is_err());
}

#[test]
fn a_checkpoint_is_as_large_at_the_start_as_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    struct First {
        out: PathBuf,
        bytes: u64,
    }
    impl Observer for First {
        fn on_step(&mut self, step: &StepProgress) {
            if (step.epoch, step.step) == (1, 1) {
                self.bytes = tensor_bytes(&checkpoints(&self.out)[0]);
            }
        }
    }
    let mut first = First { out: out.clone(), bytes: 0 };
    let _ = trainer(&recipe()).with_observer(&mut first).run(&out).unwrap();
    assert_eq!(first.bytes, tensor_bytes(&checkpoints(&out)[1]));
}

/// The length of a safetensors file without its header.
fn tensor_bytes(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let header: [u8; 8] = bytes[..8].try_into().unwrap();
    bytes.len() as u64 - 8 - u64::from_le_bytes(header)
}

#[test]
fn a_run_is_lengthened_where_the_schedule_allows_it() {
    let (folder, _, _) = whole_run();
    // In its warm-up the cosine schedule has the same rates whatever its length.
    let short = Recipe {
        schedule: ScheduleKind::Cosine,
        warmup_epochs: 2,
        epochs: 2,
        checkpoint_every: 0,
        ..recipe()
    };
    let long = Recipe { epochs: 3, ..short.clone() };
    let [whole, parts] = ["long", "lengthened"].map(|name| folder.path().join(name));
    let _ = trainer(&long).run(&whole).unwrap();
    let _ = trainer(&short).run(&parts).unwrap();
    let _ = trainer(&long).resume(&parts).unwrap();
    let (whole, lengthened) = (End::of(&whole), End::of(&parts));
    assert_eq!(whole.metrics, lengthened.metrics);
    assert!(whole.model == lengthened.model, "other weights at the end");
    let lengthened = RunSource::from_run(&parts).unwrap().unwrap().lengthened;
    assert_eq!(lengthened.len(), 1);
    assert_eq!(
        (lengthened[0].after, lengthened[0].from, lengthened[0].to, lengthened[0].exact),
        (2, 2, 3, true)
    );
    assert_eq!(Recipe::from_run(&parts).unwrap().epochs, 3);
    // Results of more training are never replaced by those of less.
    assert!(matches!(trainer(&short).resume(&parts), Err(Error::OtherRecipe { .. })));
}

#[test]
fn past_rates_are_kept_only_if_asked_for() {
    let (_folder, out, end) = whole_run();
    // Of two epochs the second has 0.2 times the rate; of four it has not.
    let long = Recipe { epochs: 10, ..recipe() };
    let error = trainer(&long).resume(&out).unwrap_err();
    assert!(matches!(error, Error::CannotLengthen { from: 2, to: 10, epoch: 2, .. }), "{error}");
    end.assert_same(&End::of(&out), "after a refusal");
    let long = Recipe { epochs: 3, ..recipe() };
    let mut watch = Watch::new(&out);
    let kept = trainer(&long).with_observer(&mut watch).with_lengthening(Lengthening::KeepPastRates);
    let Outcome::Completed { metrics } = kept.resume(&out).unwrap() else { panic!("interrupted") };
    assert_eq!(metrics.iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2, 3]);
    let expected = long.learning_rates();
    assert!((metrics[2].learning_rate - expected.at(2)).abs() < 1e-12);
    let lengthened = RunSource::from_run(&out).unwrap().unwrap().lengthened;
    let warned = watch.warnings.iter().any(|warning| matches!(warning, Warning::PastRatesKept { .. }));
    assert_eq!(warned, !lengthened[0].exact);
    // It is one run from now on.
    let _ = trainer(&long).resume(&out).unwrap();
}

#[test]
fn a_run_begins_with_given_weights() {
    let (folder, whole, end) = whole_run();
    let [out, other] = ["given", "other"].map(|name| folder.path().join(name));
    let weights = whole.join("model.safetensors");
    let _ = trainer(&recipe()).with_initial_weights(&weights).run(&out).unwrap();
    assert!(End::of(&out).metrics != end.metrics);
    let recorded = RunSource::from_run(&out).unwrap().unwrap().initial_weights.unwrap();
    assert_eq!((recorded.path, recorded.md5.len()), (weights, 32));

    let missing = folder.path().join("missing.safetensors");
    assert!(trainer(&recipe()).with_initial_weights(&missing).run(&other).is_err());
    let wide = Recipe { width_factor: 2, ..recipe() };
    assert!(trainer(&wide).with_initial_weights(whole.join("model.safetensors")).run(&other).is_err());
    // Nothing is left that would keep the next try from this folder.
    let _ = trainer(&recipe()).run(&other).unwrap();
    end.assert_same(&End::of(&other), "after failed tries");
}

/// Running variances that overflow, while the batches' own statistics, losses and gradients are finite or zero.
#[test]
fn divergence_without_a_gradient_that_is_not_finite_is_an_error() {
    let (folder, whole, _) = whole_run();
    let device = candle_core::Device::Cpu;
    let mut weights = candle_core::safetensors::load(whole.join("model.safetensors"), &device).unwrap();
    let filter = weights.get_mut("f.0_convolution.weight").unwrap();
    *filter = (filter.clone() * 1e25).unwrap();
    let wild = folder.path().join("wild.safetensors");
    candle_core::safetensors::save(&weights, &wild).unwrap();

    let out = folder.path().join("run");
    let error = trainer(&recipe()).with_initial_weights(&wild).run(&out).unwrap_err().to_string();
    let part = "training has diverged: f.1_block.block.0.norm_act.0_normalization.running_var is infinite or NaN \
                (learning rate 0.1, rho 0.1)";
    assert!(error.starts_with("epoch 1, step ") && error.contains(part), "{error}");
    assert_eq!(names(&out), ["checkpoints", "recipe.toml", "source.toml"]);
    // The checkpoint from before is as it was, and the run fails in the same way.
    assert_eq!(checkpoints(&out).len(), 1);
    assert_eq!(trainer(&recipe()).resume(&out).unwrap_err().to_string(), error);

    let rho = Recipe { rho: 1e20, ..recipe() };
    let out = folder.path().join("rho");
    assert!(trainer(&rho).run(&out).unwrap_err().to_string().starts_with("epoch 1, step "));
    assert!(!out.join("model.safetensors").exists());
}

#[test]
fn weights_that_stay_finite_but_answer_nonsense_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut watch = Watch::new(&out);
    let wild = Recipe { learning_rate: 1e9, epochs: 1, ..recipe() };
    match trainer(&wild).with_observer(&mut watch).run(&out) {
        Ok(_) => assert!(matches!(watch.warnings[..], [Warning::LossAboveGuess { .. }])),
        Err(error) => assert!(error.to_string().contains("epoch 1, step"), "{error}"),
    }
}

#[test]
fn a_table_edited_while_the_run_goes_on_loses_no_row() {
    struct Editor(PathBuf);
    impl Observer for Editor {
        fn on_epoch(&mut self, _: &metrics::EpochMetrics) {
            // As an editor does it: another file takes the name.
            let other = self.0.with_file_name("edited");
            std::fs::write(&other, "mine").unwrap();
            std::fs::rename(other, &self.0).unwrap();
        }
        fn on_step(&mut self, step: &StepProgress) {
            if step.epoch == 2 {
                let _ = std::fs::remove_file(&self.0);
            }
        }
    }
    let (folder, _, end) = whole_run();
    let out = folder.path().join("edited");
    struct Restore(Editor, Vec<String>);
    impl Observer for Restore {
        fn on_step(&mut self, step: &StepProgress) {
            self.0.on_step(step);
        }
        fn on_epoch(&mut self, row: &metrics::EpochMetrics) {
            self.1 = std::fs::read_to_string(&self.0.0).unwrap().lines().map(Into::into).collect();
            self.0.on_epoch(row);
        }
    }
    let mut editor = Restore(Editor(out.join("metrics.csv")), Vec::new());
    let _ = trainer(&recipe()).with_observer(&mut editor).run(&out).unwrap();
    let without_time = |line: &String| line.split(',').take(7).collect::<Vec<_>>().join(",");
    assert_eq!(editor.1.iter().map(without_time).collect::<Vec<_>>(), end.metrics);
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
