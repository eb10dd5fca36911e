//! Runs whose network, optimizer, loss or schedule is not the recipe's.

use candle_core::{D, Tensor, Var};
use candle_nn::{Linear, Module, VarBuilder, linear};
use wrn_sam_data::Dataset;
use wrn_sam_losses::{Convention, smooth_cross_entropy_with};
use wrn_sam_models::{BatchNorm, Conv2d, Mode};
use wrn_sam_optim::{AdamW, AdamWConfig};
use wrn_sam_train::metrics::{self, EpochMetrics};
use wrn_sam_train::{
    Classifier, Control, Error, Observer, Outcome, Provenance, Recipe, Result, Setup, Trainer,
};

/// A convolution and a batch norm before a linear classifier.
struct Small {
    convolution: Conv2d,
    norm: BatchNorm,
    classifier: Linear,
}

impl Small {
    fn new(vb: VarBuilder<'_>, setup: &Setup<'_>) -> Result<Self> {
        Ok(Self {
            convolution: Conv2d::new(3, 8, 3, 4, vb.pp("convolution"))?,
            norm: BatchNorm::new(8, vb.pp("norm"))?,
            classifier: linear(8, setup.classes, vb.pp("classifier"))?,
        })
    }
}

impl Classifier for Small {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.norm.forward_relu(&self.convolution.forward(images)?, mode)?;
        Ok(self.classifier.forward(&x.mean(D::Minus1)?.mean(D::Minus1)?)?)
    }

    fn classes(&self) -> usize {
        self.classifier.weight().dims()[0]
    }
}

fn adamw(parameters: Vec<(String, Var)>, setup: &Setup<'_>) -> wrn_sam_optim::Result<AdamW> {
    AdamW::named(parameters, AdamWConfig::new(setup.recipe.learning_rate))
}

fn trainer<'a>() -> Trainer<'a, Small, AdamW> {
    let recipe = "epochs = 2\nbatch_size = 32\nlearning_rate = 0.01\nthreads = 1\ncheckpoint_every = 1";
    Trainer::new(Recipe::from_toml(recipe).unwrap(), Dataset::synthetic(17, 100, 40))
        .with_network(Small::new)
        .with_optimizer(adamw)
}

struct StopAfterAnEpoch(Control);

impl Observer for StopAfterAnEpoch {
    fn on_epoch(&mut self, _: &EpochMetrics) {
        self.0.stop();
    }
}

#[test]
fn own_parts_are_trained_checkpointed_and_resumed_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let outcome = trainer().run(&whole).unwrap();
    assert!(
        matches!(&outcome, Outcome::Completed { metrics, .. } if metrics[1].train_loss < metrics[0].train_loss)
    );

    let control = Control::default();
    let stopped =
        trainer().with_observer(StopAfterAnEpoch(control.clone())).with_control(control).run(&parts);
    assert!(matches!(stopped.unwrap(), Outcome::Interrupted { .. }));
    let _ = trainer().resume(&parts).unwrap();
    for name in ["model.safetensors", "best.safetensors"] {
        assert!(
            std::fs::read(whole.join(name)).unwrap() == std::fs::read(parts.join(name)).unwrap(),
            "{name}"
        );
    }
    let provenance = Provenance::from_weights(&whole.join("model.safetensors")).unwrap().unwrap();
    assert_eq!((provenance.network.as_str(), provenance.epoch), ("network", 2));
    assert!(std::fs::read_to_string(whole.join("loss.svg")).unwrap().contains("network, synthetic images"));

    // Another network, and another optimizer, have no place for this state.
    let recipe = Recipe::from_run(&parts).unwrap();
    let data = Dataset::synthetic(17, 100, 40);
    let other = Trainer::new(recipe.clone(), data.clone()).with_optimizer(adamw).resume(&parts);
    assert!(matches!(other, Err(Error::Models(_))), "{other:?}");
    let other = Trainer::new(recipe, data).with_network(Small::new).resume(&parts);
    assert!(matches!(other, Err(Error::Optim(_))), "{other:?}");
}

#[test]
fn a_loss_and_a_schedule_take_the_recipes_place() {
    let folder = tempfile::tempdir().unwrap();
    let [recipes, own] = ["recipes", "own"].map(|name| folder.path().join(name));
    let _ = trainer().run(&recipes).unwrap();
    let cross_entropy = |logits: &Tensor, labels: &Tensor| {
        smooth_cross_entropy_with(logits, labels, 0.1, Convention::CrossEntropy)
    };
    let _ = trainer().with_loss(cross_entropy).with_schedule(|_| 0.01).run(&own).unwrap();
    let [recipes, own] = [recipes, own].map(|folder| metrics::read(&folder.join("metrics.csv")).unwrap());
    assert_eq!(own.iter().map(|row| row.learning_rate).collect::<Vec<_>>(), [0.01, 0.01]);
    assert!((recipes[1].learning_rate - 0.0004).abs() < 1e-12);
    // The two forms of the loss differ by the entropy of the smoothed labels, which no weight changes.
    let entropy = -(0.9f64 * 0.9f64.ln() + 0.1 * (0.1f64 / 99.0).ln());
    assert!((own[0].train_loss - recipes[0].train_loss - entropy).abs() < 1e-3, "{own:?} {recipes:?}");
    assert_eq!(own[0].eval_top1, recipes[0].eval_top1);
}

#[test]
fn a_network_of_other_classes_and_a_builder_that_fails_leave_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let ten = |vb: VarBuilder<'static>, setup: &Setup<'_>| {
        let mut network = Small::new(vb.pp("other"), setup)?;
        network.classifier = linear(8, 10, vb)?;
        Result::Ok(network)
    };
    let error = trainer().with_network(ten).run(&out).unwrap_err().to_string();
    assert!(error.contains("10 of the network") && error.contains("expected 100"), "{error}");
    let none =
        |_: VarBuilder<'static>, _: &Setup<'_>| -> candle_core::Result<Small> { candle_core::bail!("none") };
    assert!(trainer().with_network(none).run(&out).unwrap_err().to_string().contains("none"));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}
