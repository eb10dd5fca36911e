//! Whole runs of a tiny network: the same again, stopped and resumed.

use std::path::{Path, PathBuf};

use wrn_sam_train::metrics::{self, EvalSplit, header};
use wrn_sam_train::{
    Augment, Control, EvaluateProgress, Observer, Outcome, Provenance, Recipe, RunSource, Start, StepProgress,
};

use crate::support::{End, checkpoints, copy_folder, data, names, recipe, trainer, whole_run};

#[test]
fn a_seed_fixes_everything_whatever_the_threads() {
    let (folder, out, end) = whole_run();
    let two_threads = folder.path().join("two");
    let _ = trainer(&recipe().with(|recipe| recipe.threads = 2)).run(&two_threads).unwrap();
    end.assert_same(&End::of(&two_threads), "two threads");

    let other_seed = folder.path().join("other");
    let _ = trainer(&recipe().with(|recipe| recipe.seed = 18)).run(&other_seed).unwrap();
    assert!(end.model != End::of(&other_seed).model);

    let metrics = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().next().unwrap(), header(EvalSplit::Test));
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    assert_eq!(rows.iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2]);
    assert!(rows.iter().all(|row| (0.0..=1.0).contains(&row.eval_top5) && row.seconds > 0.0));

    let files = names(&out);
    let expected = [
        "best.safetensors",
        "checkpoints",
        "classes.csv",
        "confusion.csv",
        "confusion.svg",
        "log.jsonl",
        "loss.svg",
        "metrics.csv",
        "model.safetensors",
        "recipe.toml",
        "report.html",
        "source.toml",
        "test.csv",
        "top1.svg",
        "top5.svg",
    ];
    assert_eq!(files, expected);
    assert_eq!(checkpoints(&out).len(), 2);
    let written = Recipe::from_toml_file(&out.join("recipe.toml")).unwrap();
    assert_eq!(written, recipe().with(|recipe| recipe.data = wrn_sam_train::DataChoice::Synthetic));
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
            Outcome::Completed { metrics, .. } => {
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
    let all = recipe().with(|recipe| {
        recipe.augment = Augment::RandAugment;
        recipe.mixup_alpha = 0.4;
        recipe.cutmix_alpha = 1.0;
        recipe.mix_probability = 0.8;
    });
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let _ = trainer(&all).run(&whole).unwrap();
    for stops in 0..2 {
        let control = Control::default();
        let trainer = trainer(&all).with_observer(Impatient(control.clone())).with_control(control);
        let outcome = if stops == 0 { trainer.run(&parts) } else { trainer.resume(&parts) };
        assert!(matches!(outcome.unwrap(), Outcome::Interrupted { .. }));
    }
    let _ = trainer(&all.clone().with(|recipe| recipe.threads = 2)).resume(&parts).unwrap();
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
    let _ = trainer(&recipe().with(|recipe| {
        recipe.threads = 2;
        recipe.checkpoint_every = 0;
    }))
    .resume(&out)
    .unwrap();
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
    assert!(matches!(outcome, Outcome::Completed { metrics, .. } if metrics.len() == 2));
    end.assert_same(&End::of(&out), "resumed after its end");
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
    assert_eq!((provenance.test_top1, provenance.validation_top1), (Some(rows[1].eval_top1), None));
    let statistics = wrn_sam_data::Statistics::from_split(&data().train).unwrap();
    assert_eq!((provenance.mean, provenance.std), (statistics.mean, statistics.std));
    let images_md5 = RunSource::from_run(&out).unwrap().unwrap().images_md5;
    assert_eq!(provenance.images_md5, images_md5);
    assert_eq!(Provenance::from_toml(&provenance.to_toml().unwrap()).unwrap(), provenance);
    assert!(Provenance::from_toml("version = 1").is_err());
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
