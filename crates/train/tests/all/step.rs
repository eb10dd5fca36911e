//! One step and one evaluation on their own.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_data::{Augmentation, Batch, Dataset, Loader, LoaderConfig, Mixed, Statistics};
use wrn_sam_losses::smooth_cross_entropy;
use wrn_sam_models::{Kind, Mode, Parameters, WideResNet};
use wrn_sam_optim::{AscentOver, OptimizerState, Sam, Sgd};
use wrn_sam_train::{Classifier, MicroBatch, Recipe, evaluate, step, step_micro_batches};

fn network() -> (Recipe, Parameters, WideResNet) {
    let recipe = Recipe::reference().with(|recipe| {
        recipe.depth = 10;
        recipe.width_factor = 1;
    });
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
    let data = Dataset::synthetic(17, 50, 50);
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

/// A network whose every pass moves what a network can move, and which fails where it is told to.
struct Failing {
    network: WideResNet,
    fail: Cell<Option<(usize, Fault)>>,
    passes: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Forward,
    NanLogits,
    LogitsWithoutGraph,
    LogitsOfAnotherType,
}

impl Failing {
    fn new(network: WideResNet) -> Self {
        Self { network, fail: Cell::new(None), passes: Cell::new(0) }
    }

    fn fail(&self, pass: usize, fault: Fault) {
        self.fail.set(Some((pass, fault)));
        self.passes.set(0);
    }
}

impl Classifier for Failing {
    fn forward(&self, images: &Tensor, mode: Mode) -> wrn_sam_train::Result<Tensor> {
        let logits = self.network.forward(images, mode)?;
        let pass = self.passes.replace(self.passes.get() + 1);
        match self.fail.get() {
            Some((failing, fault)) if failing == pass => match fault {
                Fault::Forward => Err(candle_core::Error::msg("the pass failed").into()),
                Fault::NanLogits => Ok((logits * f64::NAN)?),
                Fault::LogitsWithoutGraph => Ok(logits.detach()),
                Fault::LogitsOfAnotherType => Ok(logits.to_dtype(DType::BF16)?),
            },
            _ => Ok(logits),
        }
    }

    fn classes(&self) -> usize {
        self.network.config().classes
    }

    fn buffers(&self) -> Vec<Var> {
        self.network.buffers()
    }

    fn dropout_position(&self) -> (u64, u64) {
        self.network.dropout_position()
    }

    fn seek_dropout(&self, seed: u64, pass: u64) {
        self.network.seek_dropout(seed, pass);
    }
}

/// After an error, wherever it is from, a step leaves everything as it was, and training goes on as if the step had never
/// been tried.
#[test]
fn a_step_that_fails_anywhere_changes_nothing() {
    let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\ndropout = 0.2").unwrap();
    let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
    let model = WideResNet::new(&recipe.network(100), parameters.var_builder()).unwrap();
    let model = Failing::new(model);
    let mut sam = sam(&recipe, &parameters);
    model.seek_dropout(23, 5);
    let good = loader(10).epoch(0).next().unwrap().unwrap();
    step(&model, &mut sam, &good, smoothed).unwrap(); // so that there is a state to spoil
    let state = |sam: &Sam<Sgd>| {
        let bytes = |tensor: &Tensor| {
            let numbers: Vec<f64> = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
            Ok::<_, candle_core::Error>(numbers.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        };
        let values = parameters.named().into_iter().map(|(name, _, var)| (name, bytes(&var).unwrap()));
        let optimizer = sam.state().unwrap().into_iter().map(|(name, value)| (name, bytes(&value).unwrap()));
        (values.chain(optimizer).collect::<Vec<_>>(), model.dropout_position())
    };
    let before = state(&sam);
    let check = |sam: &mut Sam<Sgd>, batch: &Batch, said: &str| {
        let error = step(&model, sam, batch, smoothed).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
        assert!(state(sam) == before, "{said}");
    };

    let images = |change: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
        Batch::new(change(&good.images).unwrap(), good.labels.clone())
    };
    check(&mut sam, &images(&|images| images.narrow(2, 0, 31)), "[10, 3, 31, 32]");
    check(&mut sam, &images(&|images| images.to_dtype(DType::F64)), "F64");
    check(&mut sam, &images(&|images| images * f64::NAN), "not finite (NaN)");
    check(&mut sam, &images(&|images| images * f64::INFINITY), "not finite");
    let labels = |values: Vec<u32>| {
        let len = values.len();
        Batch::new(good.images.clone(), Tensor::from_vec(values, len, &Device::Cpu).unwrap())
    };
    check(&mut sam, &labels(vec![100; 10]), "label 100 of row 0 is outside 0..100");
    check(&mut sam, &labels(vec![1; 9]), "labels [9]");
    let mixed = Mixed { labels: Tensor::new(&[7u32; 3], &Device::Cpu).unwrap(), lambda: 0.5 };
    check(&mut sam, &good.clone().with_mixed(mixed), "labels [3]");

    for pass in [0, 1] {
        for (fault, said) in [
            (Fault::Forward, "the pass failed"),
            (Fault::NanLogits, if pass == 0 { "in the first pass" } else { "in the second pass" }),
            (Fault::LogitsWithoutGraph, "has a gradient"),
            (Fault::LogitsOfAnotherType, "logits must be f32 or f64"),
        ] {
            model.fail(pass, fault);
            check(&mut sam, &good, said);
        }
    }
    model.fail.set(None);
    for rate in [f64::NAN, f64::INFINITY, -1.0] {
        let kept = sam.learning_rate();
        sam.set_learning_rate(rate);
        let error = step(&model, &mut sam, &good, smoothed).unwrap_err().to_string();
        assert!(error.contains(&format!("learning_rate = {rate}: must be")), "{error}");
        sam.set_learning_rate(kept);
        assert!(state(&sam) == before, "{rate}");
    }

    // As if none of it had been tried.
    let outcome = step(&model, &mut sam, &good, smoothed).unwrap();
    let other_parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
    let other_model = WideResNet::new(&recipe.network(100), other_parameters.var_builder()).unwrap();
    let mut other = self::sam(&recipe, &other_parameters);
    other_model.seek_dropout(23, 5);
    step(&other_model, &mut other, &good, smoothed).unwrap();
    let expected = step(&other_model, &mut other, &good, smoothed).unwrap();
    assert_eq!(outcome.logits.to_vec2::<f32>().unwrap(), expected.logits.to_vec2::<f32>().unwrap());
    assert_eq!(weights(&parameters), weights(&other_parameters));
}

/// With a rho of 0 a step is one pass, and the same as the base optimizer's.
#[test]
fn without_a_radius_a_step_is_one_pass_of_the_base() {
    let (recipe, parameters, model) = network();
    let model = Failing::new(model);
    let batch = loader(10).epoch(0).next().unwrap().unwrap();
    let mut sam =
        Sam::new(Sgd::named(parameters.named_trainable(), recipe.sgd()).unwrap(), recipe.sam().with_rho(0.0))
            .unwrap();
    let (_, plain_parameters, plain) = network();
    let mut sgd = Sgd::named(plain_parameters.named_trainable(), recipe.sgd()).unwrap();
    for taken in 1..=3 {
        let outcome = step(&model, &mut sam, &batch, smoothed).unwrap();
        assert!(outcome.grad_norm.to_scalar::<f64>().unwrap() > 0.0);
        assert_eq!(model.passes.get(), taken);
        let logits = plain.forward(&batch.images, Mode::Train).unwrap();
        let loss = (smoothed(&logits, &batch.labels).unwrap() / 10.0).unwrap();
        sgd.step(&wrn_sam_kernels::backward(&loss).unwrap()).unwrap();
        assert_eq!(weights(&parameters), weights(&plain_parameters));
    }
}

/// The loader's images are a view of channels-last memory, which changes no bit of what the network answers.
/// SAM-ON's first pass is taken without the gradients that it does not read; the step is the same to the bit.
#[test]
fn a_step_over_the_norms_is_that_with_all_gradients() {
    let [ours, by_hand] = [true, false].map(|through_step| {
        let (recipe, parameters, model) = network();
        leave_zero(&parameters);
        let mut sam = sam(&recipe, &parameters).perturbing(&parameters.norms()).unwrap();
        let batch = loader(16).epoch(0).next().unwrap().unwrap();
        if through_step {
            step(&model, &mut sam, &batch, smoothed).unwrap();
        } else {
            let gradients = |mode| {
                let loss = smoothed(&model.forward(&batch.images, mode).unwrap(), &batch.labels).unwrap();
                wrn_sam_kernels::backward(&(&loss / loss.elem_count() as f64).unwrap()).unwrap()
            };
            let climbed = sam.begin().unwrap().climb(&gradients(Mode::Train)).unwrap().unwrap();
            climbed.descend(&gradients(Mode::TrainFrozenStatistics)).unwrap();
        }
        weights(&parameters)
    });
    assert_eq!(ours, by_hand);
}

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

/// A network that counts its passes' modes and where dropout was.
struct Watched(WideResNet, std::cell::RefCell<Vec<(Mode, u64)>>);

impl Classifier for Watched {
    fn forward(&self, images: &Tensor, mode: Mode) -> wrn_sam_train::Result<Tensor> {
        self.1.borrow_mut().push((mode, self.0.dropout_position().1));
        Ok(self.0.forward(images, mode)?)
    }

    fn classes(&self) -> usize {
        self.0.config().classes
    }

    fn buffers(&self) -> Vec<Var> {
        self.0.buffers()
    }

    fn dropout_position(&self) -> (u64, u64) {
        self.0.dropout_position()
    }

    fn seek_dropout(&self, seed: u64, pass: u64) {
        self.0.seek_dropout(seed, pass);
    }
}

/// Both passes of a micro-batch drop the same, by the number that the micro-batch has in its run.
#[test]
fn a_step_in_micro_batches_is_one_step() {
    let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\ndropout = 0.2").unwrap();
    let batch = loader(10).epoch(0).next().unwrap().unwrap();
    let run = |count: usize, over: AscentOver| {
        let parameters = Parameters::new(recipe.seed, DType::F32, &Device::Cpu);
        let model = WideResNet::new(&recipe.network(100), parameters.var_builder()).unwrap();
        leave_zero(&parameters);
        model.seek_dropout(3, 7);
        let (model, mut sam) = (Watched(model, Default::default()), sam(&recipe, &parameters));
        let parts = MicroBatch::split(&batch, count, 7).unwrap();
        let outcomes = step_micro_batches(&model, &mut sam, &parts, over, smoothed).unwrap();
        assert_eq!((outcomes.len(), sam.steps()), (count, 1));
        for outcome in outcomes {
            let images = 10 / count;
            assert_eq!((outcome.logits.dims(), outcome.loss.dims()), (&[images, 100][..], &[images][..]));
        }
        let counted = parameters.named().into_iter().find(|(name, ..)| name.ends_with("num_batches_tracked"));
        assert_eq!(counted.unwrap().2.to_scalar::<i64>().unwrap(), count as i64);
        (model.1.into_inner(), weights(&parameters))
    };
    let (passes, whole) = run(1, AscentOver::MicroBatch);
    assert_eq!(passes, [(Mode::Train, 7), (Mode::TrainFrozenStatistics, 7)]);

    let (train, frozen) = (Mode::Train, Mode::TrainFrozenStatistics);
    let (passes, each) = run(2, AscentOver::MicroBatch);
    assert_eq!(passes, [(train, 7), (frozen, 7), (train, 8), (frozen, 8)]);
    let (passes, all) = run(2, AscentOver::Batch);
    assert_eq!(passes, [(train, 7), (train, 8), (frozen, 7), (frozen, 8)]);
    assert!(each != all && all != whole);

    for count in [0, 11] {
        let error = MicroBatch::split(&batch, count, 0).unwrap_err().to_string();
        assert_eq!(error, format!("micro_batches = {count}: must be from 1 to the images of a batch"));
    }
}

/// Without dropout, and with statistics that a batch of equal halves has in each of them, micro-batches under one ascent are
/// the batch itself.
#[test]
fn micro_batches_under_one_ascent_are_the_batch() {
    let half = loader(5).epoch(0).next().unwrap().unwrap();
    let twice = |tensor: &Tensor| Tensor::cat(&[tensor, tensor], 0).unwrap();
    let batch = Batch::new(twice(&half.images), twice(&half.labels));
    let after = |count| {
        let (recipe, parameters, model) = network();
        leave_zero(&parameters);
        let mut sam = sam(&recipe, &parameters);
        let parts = MicroBatch::split(&batch, count, 0).unwrap();
        step_micro_batches(&model, &mut sam, &parts, AscentOver::Batch, smoothed).unwrap();
        let floats = parameters.named().into_iter().filter(|(name, ..)| !name.ends_with("tracked"));
        floats
            .map(|(name, _, var)| (name, var.flatten_all().unwrap().to_vec1::<f32>().unwrap()))
            .collect::<Vec<_>>()
    };
    for ((name, whole), (_, parts)) in after(1).into_iter().zip(after(2)) {
        // The unbiased variance of ten images is not that of five.
        let tolerance = if name.ends_with("running_var") { 2e-3 } else { 1e-4 };
        let largest = whole.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        for (whole, part) in whole.iter().zip(&parts) {
            assert!((whole - part).abs() <= tolerance * largest, "{name}: {whole} and {part}");
        }
    }
}
