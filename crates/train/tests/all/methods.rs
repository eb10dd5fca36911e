//! The SAM family through recipes: each method trains, resumes to the same bits, and leaves what it should.

use std::path::Path;

use wrn_sam_data::Dataset;
use wrn_sam_train::{Control, Method, Observer, Outcome, Recipe, StepProgress, Trainer, metrics};

/// A small training with other keys than the reference's.
fn recipe(keys: &str) -> Recipe {
    let small =
        "depth = 10\nwidth_factor = 1\nepochs = 2\nbatch_size = 16\nthreads = 1\nseed = 5\nrho = 0.05\n";
    Recipe::from_toml(&format!("{small}{keys}")).unwrap()
}

fn data() -> Dataset {
    Dataset::synthetic(17, 40, 20) // three steps an epoch, the last of 8 images
}

fn train(recipe: &Recipe, out: &Path) {
    let outcome = Trainer::new(recipe.clone(), data()).run(out).unwrap();
    assert!(matches!(outcome, Outcome::Completed { .. }));
}

/// Stops a run after so many steps.
struct StopAfter(usize, Control);

impl Observer for StopAfter {
    fn on_step(&mut self, _: &StepProgress) {
        self.0 -= 1;
        if self.0 == 0 {
            self.1.stop();
        }
    }
}

/// Every method, and every key that changes what a step or an epoch does.
const KEYS: [&str; 19] = [
    "method = 'sgd'",
    "method = 'sam'",
    "method = 'asam'\nasam_eta = 0.02",
    "method = 'msam'",
    "method = 'looksam'\nlooksam_every = 2",
    "method = 'fsam'",
    "method = 'vasso'",
    "method = 'gsam'",
    "method = 'wsam'",
    "method = 'wsam'\nwsam_decoupled = false",
    "perturb = 'norms'",
    "sam_every = 2",
    "sam_from_epoch = 1",
    "rho_schedule = 'proportional'\nrho_min = 0.01\nschedule = 'cosine'",
    "micro_batches = 2\nascent = 'micro'",
    "micro_batches = 4",
    "clip = 0.5",
    "decay_norms = false",
    "ema = 0.5",
];

#[test]
fn every_method_trains_to_its_own_end_and_resumes_to_the_same_bits() {
    let mut ends = Vec::<Vec<u8>>::new();
    for (index, keys) in KEYS.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
        let recipe = recipe(keys);
        train(&recipe, &whole);
        let end = std::fs::read(whole.join("model.safetensors")).unwrap();

        // In the first epoch, or in the second.
        let (control, after) = (Control::default(), [2, 4][index % 2]);
        let trainer = Trainer::new(recipe.clone(), data()).with_control(control.clone());
        let outcome = trainer.with_observer(StopAfter(after, control)).run(&stopped).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { .. }), "{keys}");
        let _ = Trainer::new(recipe, data()).resume(&stopped).unwrap();
        for file in ["model.safetensors", "best.safetensors", "ema.safetensors", "test.csv"] {
            let [one, other] = [&whole, &stopped].map(|folder| std::fs::read(folder.join(file)).ok());
            assert!(one == other, "{keys}: {file} differs");
        }
        // An average does not change the training; everything else does.
        ends.push(end);
    }
    // The weights only: files say their recipe too.
    let weights = |file: &Vec<u8>| {
        let (header, _) = safetensors::SafeTensors::read_metadata(file).unwrap();
        file[8 + header..].to_vec()
    };
    let ends: Vec<_> = ends.iter().map(weights).collect();
    for (index, one) in ends.iter().enumerate() {
        for (other_index, other) in ends.iter().enumerate().skip(index + 1) {
            let same = one == other;
            let average = KEYS[index] == "method = 'sam'" && KEYS[other_index] == "ema = 0.5";
            assert_eq!(same, average, "{} and {}", KEYS[index], KEYS[other_index]);
        }
    }
}

#[test]
fn averages_are_measured_and_saved() {
    for (keys, name) in [("ema = 0.9", "ema"), ("swa_epochs = 2", "swa")] {
        let folder = tempfile::tempdir().unwrap();
        train(&recipe(keys), folder.path());
        let tests = metrics::read_test(&folder.path().join("test.csv")).unwrap();
        let test = tests.iter().find(|test| test.weights == name).unwrap();
        assert!(test.loss.is_finite() && test.epoch == 2);
        let file = folder.path().join(format!("{name}.safetensors"));
        let provenance = wrn_sam_train::Provenance::from_weights(&file).unwrap().unwrap();
        assert!((provenance.test_top1.unwrap() - test.top1).abs() < 1e-6);
        let load = |file: &Path| candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
        let (average, last) = (load(&file), load(&folder.path().join("model.safetensors")));
        let differ = |name: &str| {
            let [one, other] = [&average[name], &last[name]].map(|tensor| tensor.to_vec1::<f32>().unwrap());
            one != other
        };
        assert!(differ("f.8_classification.bias") && differ("f.4_normalization.running_mean"));
    }
}

/// The average of the last epochs would have others in it.
#[test]
fn a_run_with_an_average_of_its_last_epochs_is_not_lengthened() {
    let folder = tempfile::tempdir().unwrap();
    let swa = recipe("swa_epochs = 1");
    train(&swa, folder.path());
    let longer = Trainer::new(swa.with(|recipe| recipe.epochs = 3), data());
    let error = longer.resume(folder.path()).unwrap_err().to_string();
    assert!(error.contains("swa_epochs"), "{error}");
}

/// Late SAM's first epochs are SGD's to the bit.
#[test]
fn sam_may_begin_late() {
    let folder = tempfile::tempdir().unwrap();
    let end = |name: &str, keys: &str| {
        let out = folder.path().join(name);
        train(&recipe(keys), &out);
        metrics::read(&out.join("metrics.csv")).unwrap()
    };
    let (sgd, late) = (end("sgd", "method = 'sgd'"), end("late", "sam_from_epoch = 1"));
    assert_eq!(sgd[0].train_loss, late[0].train_loss);
    assert_ne!(sgd[1].train_loss, late[1].train_loss);
}

#[test]
fn keys_that_do_not_fit_are_named() {
    let refused = |keys: &str, text: &str| {
        let error = Recipe::from_toml(keys).unwrap_err().to_string();
        assert!(error.contains(text), "{keys}: {error}");
    };
    refused("method = 'adam'", "looksam");
    for (keys, text) in [
        ("sam_every = 0", "sam_every = 0: must be at least 1"),
        ("looksam_every = 0", "looksam_every = 0"),
        ("looksam_alpha = -1", "looksam_alpha = -1"),
        ("asam_eta = -0.1", "asam_eta = -0.1"),
        ("gsam_alpha = -1", "gsam_alpha = -1"),
        ("fsam_lambda = 1", "fsam_lambda = 1"),
        ("fsam_sigma = inf", "fsam_sigma = inf"),
        ("vasso_theta = 0", "vasso_theta = 0"),
        ("wsam_gamma = 1", "wsam_gamma = 1"),
        ("clip = -1", "clip = -1"),
        ("ema = 1", "ema = 1"),
        ("rho_min = 0.2", "rho_min = 0.2: must be from 0 to `rho`"),
        ("micro_batches = 0", "micro_batches = 0"),
        ("micro_batches = 129", "micro_batches = 129: must be a power of two that divides `batch_size`"),
        ("swa_epochs = 201", "swa_epochs = 201: must be at most `epochs`"),
        ("ema = 0.9\nswa_epochs = 1", "swa_epochs = 1: must be 0 where `ema` is above 0"),
        ("method = 'asam'\nadaptive = true", "adaptive = true: must be false"),
        ("method = 'looksam'\nmicro_batches = 2\nascent = 'micro'", "ascent = micro: must be batch"),
        ("method = 'msam'\nsam_every = 2", "Momentum"),
        ("method = 'msam'\nmomentum = 0", "momentum = 0: must be above 0"),
    ] {
        refused(keys, text);
    }
    assert_eq!(recipe("method = 'msam'").method, Method::Msam);
}
