//! Resuming a run: what is kept, refused, written again, lengthened.

use std::path::{Path, PathBuf};

use wrn_sam_data::Dataset;
use wrn_sam_train::{
    Error, Lengthening, Observer, Outcome, Recipe, RunSource, ScheduleKind, Start, StepProgress, Trainer,
    Warning, metrics,
};

use crate::support::{End, Watch, checkpoints, names, recipe, trainer, whole_run};

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
        &recipe().with(|recipe| {
            recipe.rho = 0.05;
            recipe.width_factor = 2;
        }),
        &[
            "recipe.toml was trained with another recipe",
            "`rho` is 0.05 here but 0.1 there",
            "`width_factor` is 2",
        ],
    );
    let error = Trainer::new(recipe(), Dataset::synthetic(18, 120, 40)).resume(&out).unwrap_err().to_string();
    assert!(error.contains("other images"), "{error}");
    let error = trainer(&recipe()).run(&out).unwrap_err().to_string();
    assert!(error.contains("is not empty") && error.contains("resume"), "{error}");

    let text = std::fs::read_to_string(out.join("recipe.toml")).unwrap();
    std::fs::write(out.join("recipe.toml"), text.replace("rho = 0.1", "rho = 0.2")).unwrap();
    refused(&recipe().with(|recipe| recipe.rho = 0.2), &["checkpoints", "`rho` is 0.2 here but 0.1 there"]);
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
fn a_removed_recipe_is_had_from_a_checkpoint() {
    let (_folder, out, end) = whole_run();
    std::fs::remove_file(out.join("recipe.toml")).unwrap();
    let found = Recipe::from_run(&out).unwrap();
    assert!(found.differences(&recipe().with(|recipe| recipe.data = found.data)).unwrap().is_empty());
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

#[test]
fn results_of_more_training_stay_until_they_are_reached_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let four = recipe().with(|recipe| {
        recipe.epochs = 4;
        recipe.checkpoint_every = 2;
    });
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
    let best_is_last = rows[1].eval_top1 > rows[0].eval_top1;
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
    let short = recipe().with(|recipe| {
        recipe.schedule = ScheduleKind::Cosine;
        recipe.warmup_epochs = 2;
        recipe.epochs = 2;
        recipe.checkpoint_every = 0;
    });
    let long = short.clone().with(|recipe| recipe.epochs = 3);
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
    let long = recipe().with(|recipe| recipe.epochs = 10);
    let error = trainer(&long).resume(&out).unwrap_err();
    assert!(matches!(error, Error::CannotLengthen { from: 2, to: 10, epoch: 2, .. }), "{error}");
    end.assert_same(&End::of(&out), "after a refusal");
    let long = recipe().with(|recipe| recipe.epochs = 3);
    let mut watch = Watch::new(&out);
    let kept = trainer(&long).with_observer(&mut watch).with_lengthening(Lengthening::KeepPastRates);
    let Outcome::Completed { metrics, .. } = kept.resume(&out).unwrap() else { panic!("interrupted") };
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
    let wide = recipe().with(|recipe| recipe.width_factor = 2);
    assert!(trainer(&wide).with_initial_weights(whole.join("model.safetensors")).run(&other).is_err());
    let device = candle_core::Device::Cpu;
    let mut bad = candle_core::safetensors::load(whole.join("model.safetensors"), &device).unwrap();
    let bias = bad.get_mut("f.8_classification.bias").unwrap();
    *bias = (bias.clone() * f64::NAN).unwrap();
    let file = folder.path().join("bad.safetensors");
    candle_core::safetensors::save(&bad, &file).unwrap();
    let error = trainer(&recipe()).with_initial_weights(&file).run(&other).unwrap_err().to_string();
    assert!(error.starts_with("f.8_classification.bias holds NaN"), "{error}");
    // Nothing is left that would keep the next try from this folder.
    let _ = trainer(&recipe()).run(&other).unwrap();
    end.assert_same(&End::of(&other), "after failed tries");
}
