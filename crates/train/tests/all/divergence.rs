//! Runs that cannot begin, and runs that diverge.

use wrn_sam_data::Dataset;
use wrn_sam_train::{Recipe, Trainer, Warning};

use crate::support::{Watch, checkpoints, data, names, recipe, trainer, whole_run};

#[test]
fn what_cannot_be_trained_is_refused_before_a_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = |recipe: Recipe, data: Dataset, part: &str| {
        let error = Trainer::new(recipe, data).run(&out).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!out.exists());
    };
    refused(recipe().with(|recipe| recipe.depth = 33), data(), "depth = 33");
    refused(recipe(), Dataset::synthetic(17, 10, 0), "the test split");
    let real = recipe().with(|recipe| recipe.data = wrn_sam_train::DataChoice::Cifar100);
    refused(real, data(), "`data` is not what was given");
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
    assert_eq!(names(&out), ["checkpoints", "log.jsonl", "recipe.toml", "source.toml"]);
    // The checkpoint from before is as it was, and the run fails in the same way.
    assert_eq!(checkpoints(&out).len(), 1);
    assert_eq!(trainer(&recipe()).resume(&out).unwrap_err().to_string(), error);

    let rho = recipe().with(|recipe| recipe.rho = 1e20);
    let out = folder.path().join("rho");
    assert!(trainer(&rho).run(&out).unwrap_err().to_string().starts_with("epoch 1, step "));
    assert!(!out.join("model.safetensors").exists());
}

#[test]
fn weights_that_stay_finite_but_answer_nonsense_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut watch = Watch::new(&out);
    let wild = recipe().with(|recipe| {
        recipe.learning_rate = 1e9;
        recipe.epochs = 1;
    });
    match trainer(&wild).with_observer(&mut watch).run(&out) {
        Ok(_) => assert!(matches!(watch.warnings[..], [Warning::LossAboveGuess { .. }])),
        Err(error) => assert!(error.to_string().contains("epoch 1, step"), "{error}"),
    }
}

#[test]
fn a_run_that_diverges_says_where_and_can_still_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let wild = recipe().with(|recipe| recipe.learning_rate = 1e30);
    let error = trainer(&wild).run(&out).unwrap_err().to_string();
    assert!(error.starts_with("epoch 1, step ") && error.contains("gradient"), "{error}");
    assert_eq!(checkpoints(&out).len(), 1);
    assert_eq!(trainer(&wild).resume(&out).unwrap_err().to_string(), error);
}
