//! One step and one evaluation on their own.

use candle_core::{DType, Device, Tensor};
use wrn_sam_data::{Augmentation, Batch, Cifar, Loader, LoaderConfig, Mixed, Statistics};
use wrn_sam_losses::smooth_cross_entropy;
use wrn_sam_models::{Kind, Mode, Parameters, WideResNet};
use wrn_sam_optim::{Sam, Sgd};
use wrn_sam_train::{Recipe, evaluate, step};

fn network() -> (Recipe, Parameters, WideResNet) {
    let recipe = Recipe { depth: 10, width_factor: 1, ..Recipe::reference() };
    let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
    let model = WideResNet::new(&recipe.network(100), parameters.var_builder()).unwrap();
    (recipe, parameters, model)
}

fn smoothed(logits: &Tensor, labels: &Tensor) -> wrn_sam_losses::Result<Tensor> {
    smooth_cross_entropy(logits, labels, 0.1)
}

fn sam(recipe: &Recipe, parameters: &Parameters) -> Sam<Sgd> {
    Sam::new(Sgd::named(parameters.named_trainable(), recipe.sgd()).unwrap(), recipe.sam()).unwrap()
}

fn loader(batch_size: usize) -> Loader {
    let data = Cifar::synthetic(17, 50, 50);
    let plain = Augmentation::none(Statistics::from_split(&data.train).unwrap());
    let config = LoaderConfig::default().with_batch_size(batch_size).with_threads(0).with_shuffle(false);
    Loader::new(&data.test, plain, config).unwrap()
}

fn weights(parameters: &Parameters) -> Vec<Vec<f32>> {
    let trainable = parameters.named().into_iter().filter(|(_, kind, _)| *kind == Kind::Trainable);
    trainable.map(|(_, _, var)| var.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

/// Gives the classifier, which begins at zero, where all images have the same answers, some weights.
fn leave_zero(parameters: &Parameters) {
    for (name, _, var) in parameters.named() {
        if name.ends_with("classification.weight") {
            var.set(
                &(Tensor::arange(0f32, 6400., &Device::Cpu).unwrap().sin().unwrap())
                    .reshape((100, 64))
                    .unwrap(),
            )
            .unwrap();
        }
    }
}

#[test]
fn steps_bring_the_loss_down_and_a_failed_one_moves_no_weight() {
    let (recipe, parameters, model) = network();
    let mut sam = sam(&recipe, &parameters);
    let batch = loader(50).epoch(0).next().unwrap().unwrap();
    let mut losses = Vec::new();
    for _ in 0..4 {
        let outcome = step(&model, &mut sam, &batch, smoothed).unwrap();
        assert_eq!(outcome.loss.dims(), [50]);
        assert!(outcome.grad_norm.to_scalar::<f64>().unwrap() > 0.0);
        losses.push(outcome.loss.mean_all().unwrap().to_scalar::<f32>().unwrap());
    }
    assert!(losses.is_sorted_by(|before, after| after < before), "{losses:?}");

    let before = weights(&parameters);
    let labels = Tensor::full(100u32, 50, &Device::Cpu).unwrap();
    let error = step(&model, &mut sam, &Batch::new(batch.images, labels), smoothed).unwrap_err();
    assert!(error.to_string().contains("100"), "{error}");
    assert_eq!(weights(&parameters), before);
}

/// The loader's images are a view of channels-last memory, which changes no bit of what the network answers.
#[test]
fn the_order_in_memory_changes_nothing() {
    let (_, parameters, model) = network();
    leave_zero(&parameters);
    let images = loader(7).epoch(0).next().unwrap().unwrap().images;
    assert!(!images.is_contiguous() && images.permute((0, 2, 3, 1)).unwrap().is_contiguous());
    let answers = |images: &Tensor| {
        let logits = model.forward(images, Mode::Train).unwrap();
        let plain = model.forward_plain(images, Mode::Train).unwrap();
        [logits, plain].map(|logits| logits.to_vec2::<f32>().unwrap())
    };
    let found = answers(&images);
    assert!(found[0][0] != found[0][1] && found[0].iter().flatten().any(|logit| logit.abs() > 1e-3));
    assert!(found == answers(&images.contiguous().unwrap()));
}

/// A mixed batch's loss is its target's: that of the smoothed labels mixed, up to the entropies that no weight changes.
#[test]
fn a_mixed_batchs_loss_is_the_weighted_sum() {
    let batch = loader(50).epoch(0).next().unwrap().unwrap();
    let rolled: Vec<u32> = (0..50).map(|label| (label + 49) % 50).collect();
    let rolled = Tensor::new(rolled, &Device::Cpu).unwrap();
    let losses = |batch: &Batch| -> (Vec<f32>, f64, Vec<Vec<f32>>) {
        let (recipe, parameters, model) = network();
        let mut sam = sam(&recipe, &parameters);
        // The first step leaves zero, where all labels cost the same.
        step(&model, &mut sam, &Batch::new(batch.images.clone(), batch.labels.clone()), smoothed).unwrap();
        let outcome = step(&model, &mut sam, batch, smoothed).unwrap();
        (outcome.loss.to_vec1().unwrap(), outcome.grad_norm.to_scalar().unwrap(), weights(&parameters))
    };
    let with = |lambda| batch.clone().with_mixed(Mixed { labels: rolled.clone(), lambda });
    let own = losses(&batch);
    assert!(losses(&with(1.0)) == own, "with all the weight on its own labels a batch is as if not mixed");
    let others = losses(&with(0.0));
    assert!(others.0 != own.0 && others.1 != own.1);
    let mixed = losses(&with(0.3));
    for ((mixed, own), others) in mixed.0.iter().zip(&own.0).zip(&others.0) {
        assert!((mixed - (0.3 * own + 0.7 * others)).abs() < 1e-5, "{mixed} {own} {others}");
    }
    assert!(mixed.2 != own.2 && mixed.2 != others.2);
}

#[test]
fn an_evaluation_is_of_the_images_whatever_the_batches() {
    let (_, parameters, model) = network();
    leave_zero(&parameters);
    let whole = evaluate(&model, loader(50).epoch(0), smoothed, &Device::Cpu).unwrap();
    assert_eq!(whole.images, 50);
    for batch_size in [7, 49] {
        let parts = evaluate(&model, loader(batch_size).epoch(0), smoothed, &Device::Cpu).unwrap();
        assert_eq!((parts.images, parts.top1, parts.top5), (whole.images, whole.top1, whole.top5));
        assert!(
            (parts.loss() - whole.loss()).abs() < 1e-5 * whole.loss(),
            "{} {}",
            parts.loss(),
            whole.loss()
        );
    }
}
