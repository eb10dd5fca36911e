//! Takes a golden file's steps on this machine and measures how far every value is from PyTorch's.

use serde::Serialize;
use wrn_sam::candle::{DType, Device, Tensor, Var};
use wrn_sam::candle_nn::Optimizer;
use wrn_sam::kernels::backward;
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Kind, Mode, Parameters, Precision, WideResNet, WideResNetConfig};
use wrn_sam::optim::{AdamW, AdamWConfig, Sam, SamConfig, Sgd, SgdConfig};

use crate::golden::{Base, Golden};
use crate::support::AnyError;

/// The largest relative error of one group of values, and the tensor that has it.
#[derive(Debug, Clone, Default)]
pub struct Worst {
    pub error: f64,
    pub key: String,
}

impl Worst {
    fn join(&mut self, other: Worst) {
        if other.error >= self.error {
            *self = other;
        }
    }
}

/// As JSON, only the error; an infinite one is null there.
impl Serialize for Worst {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.error.serialize(to)
    }
}

/// The largest relative error of each group: of the evaluation before any step, of the first step (`logits` and `loss`
/// of both its passes), and of all that comes later, the final evaluation included. Of the gradients also the root mean
/// square error over all parameters, relative to that of the gradient: a turned ReLU weighs little in it.
#[derive(Debug, Default, Serialize)]
pub struct Errors {
    pub init_eval: Worst,
    pub logits: Worst,
    pub loss: Worst,
    pub grad1: Worst,
    pub grad1_rms: Worst,
    pub perturbed: Worst,
    pub grad2: Worst,
    pub grad2_rms: Worst,
    pub after_step1: Worst,
    pub later: Worst,
}

/// Replays a golden file on `device` with parameters of `dtype`. In F32 the network runs on this project's kernels, in
/// the given precision, else on stock candle operations.
///
/// # Errors
/// The device has not the precision; the file lacks a value or has one of another shape; a step fails.
pub fn replay(
    golden: &Golden,
    dtype: DType,
    precision: Precision,
    deterministic: bool,
    device: &Device,
) -> Result<Errors, AnyError> {
    let config = &golden.config;
    let network = WideResNetConfig::new(config.depth, config.width).with_classes(config.labels);
    let parameters = Parameters::new(0, dtype, device);
    let model = WideResNet::new(&network, parameters.var_builder())?;
    let model = model.with_precision(precision)?.with_deterministic(deterministic);
    parameters.load_state(&golden.below("init/"))?;

    let named = parameters.named_trainable();
    let replay = Replay { golden, model, parameters };
    let sam = SamConfig::new(config.rho).with_adaptive(config.adaptive);
    match config.base {
        Base::Sgd { lr, momentum, nesterov, weight_decay } => {
            let sgd = SgdConfig::new(lr).with_momentum(momentum).with_nesterov(nesterov);
            replay.run(Sam::new(Sgd::named(named, sgd.with_weight_decay(weight_decay))?, sam)?)
        }
        Base::AdamW { lr, weight_decay } => {
            let adamw = AdamWConfig::new(lr).with_weight_decay(weight_decay);
            replay.run(Sam::new(AdamW::named(named, adamw)?, sam)?)
        }
    }
}

struct Replay<'a> {
    golden: &'a Golden,
    model: WideResNet,
    parameters: Parameters,
}

impl Replay<'_> {
    fn run<O: Optimizer>(&self, mut sam: Sam<O>) -> Result<Errors, AnyError> {
        let steps = self.golden.config.steps;
        let init_eval = self.evaluate("step1/x", "init_eval/logits")?;
        let mut errors = Errors { init_eval, ..self.step(&mut sam, 1)? };
        for step in 2..=steps {
            let Errors { logits, loss, after_step1: after, .. } = self.step(&mut sam, step)?;
            [logits, loss, after].into_iter().for_each(|worst| errors.later.join(worst));
        }
        errors.later.join(self.evaluate(&format!("step{steps}/x"), "final_eval/logits")?);
        Ok(errors)
    }

    /// One SAM step, as in `train::step`, looked at between its parts. The gradients and the perturbed weights are in
    /// the file only for the first step.
    fn step<O: Optimizer>(&self, sam: &mut Sam<O>, step: usize) -> Result<Errors, AnyError> {
        let key = |name: &str| format!("step{step}/{name}");
        let mut errors = Errors::default();

        let under_way = sam.begin()?;
        let (logits, loss) = self.pass(step, Mode::Train)?;
        errors.logits = self.compare(&key("logits"), &logits)?;
        errors.loss = self.compare(&key("loss"), &loss)?;
        let grads = backward(&loss.mean_all()?)?;
        if step == 1 {
            let gradient = |var: &Var| grads.get(var).cloned();
            (errors.grad1, errors.grad1_rms) = self.compare_each("step1/grad1", gradient, trainable)?;
        }

        let perturbed = under_way.climb(&grads)?.ok_or("the rho of a golden file is above 0")?;
        if step == 1 {
            let weight = |var: &Var| Some(var.as_tensor().clone());
            (errors.perturbed, _) = self.compare_each("step1/perturbed", weight, trainable)?;
        }

        let (logits, loss) = self.pass(step, Mode::TrainFrozenStatistics)?;
        errors.logits.join(self.compare(&key("logits2"), &logits)?);
        errors.loss.join(self.compare(&key("loss2"), &loss)?);
        let grads = backward(&loss.mean_all()?)?;
        if step == 1 {
            let gradient = |var: &Var| grads.get(var).cloned();
            (errors.grad2, errors.grad2_rms) = self.compare_each("step1/grad2", gradient, trainable)?;
        }

        perturbed.descend(&grads)?;
        // Files may leave out the states between the first and the last.
        let steps = self.golden.config.steps;
        if step == 1 || step == steps || self.golden.has(&key("after/f.0_convolution.weight")) {
            let state = |var: &Var| Some(var.as_tensor().clone());
            (errors.after_step1, _) = self.compare_each(&key("after"), state, |_| true)?;
        }
        Ok(errors)
    }

    /// Logits and losses per sample of a step's batch.
    fn pass(&self, step: usize, mode: Mode) -> Result<(Tensor, Tensor), AnyError> {
        let logits = self.model.forward(self.golden.get(&format!("step{step}/x"))?, mode)?;
        let labels = self.golden.get(&format!("step{step}/y"))?;
        let loss = smooth_cross_entropy(&logits, labels, self.golden.config.smoothing)?;
        Ok((logits, loss))
    }

    fn evaluate(&self, images: &str, key: &str) -> Result<Worst, AnyError> {
        self.compare(key, &self.model.forward(self.golden.get(images)?, Mode::Eval)?)
    }

    /// Compares what `value` says of every parameter of the kinds asked for with the golden tensors below `prefix`: the
    /// largest error of one, and the root mean square error over all, relative to the root mean square of what is expected.
    fn compare_each(
        &self,
        prefix: &str,
        value: impl Fn(&Var) -> Option<Tensor>,
        kinds: impl Fn(Kind) -> bool,
    ) -> Result<(Worst, Worst), AnyError> {
        let (mut worst, mut differences, mut squares) = (Worst::default(), 0.0, 0.0);
        for (name, kind, var) in self.parameters.named() {
            if kinds(kind) {
                let found = value(&var).ok_or_else(|| format!("{name} got no gradient"))?;
                let compared = self.compare_values(&format!("{prefix}/{name}"), &found)?;
                worst.join(compared.worst);
                differences += compared.differences;
                squares += compared.squares;
            }
        }
        let error = f64::sqrt(differences / squares);
        let error = if error.is_nan() { f64::INFINITY } else { error };
        Ok((worst, Worst { error, key: format!("{prefix}, all of it") }))
    }

    fn compare(&self, key: &str, found: &Tensor) -> Result<Worst, AnyError> {
        Ok(self.compare_values(key, found)?.worst)
    }

    fn compare_values(&self, key: &str, found: &Tensor) -> Result<Compared, AnyError> {
        let expected = self.golden.get(key)?;
        if found.dims() != expected.dims() {
            return Err(
                format!("{key} is {:?}, the network gives {:?}", expected.dims(), found.dims()).into()
            );
        }
        let exact = !expected.dtype().is_float();
        let (found, expected) = (values(found)?, values(expected)?);
        let error = relative_error(&found, &expected);
        let error = if exact && error > 0.0 { f64::INFINITY } else { error };
        Ok(Compared {
            worst: Worst { error, key: key.to_string() },
            differences: found
                .iter()
                .zip(&expected)
                .map(|(found, expected)| (found - expected).powi(2))
                .sum(),
            squares: expected.iter().map(|expected| expected.powi(2)).sum(),
        })
    }
}

/// A tensor beside what is expected: its largest error, and the sums of the squares of differences and of expected values.
struct Compared {
    worst: Worst,
    differences: f64,
    squares: f64,
}

fn trainable(kind: Kind) -> bool {
    kind == Kind::Trainable
}

fn values(tensor: &Tensor) -> Result<Vec<f64>, AnyError> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// max |a - b| / max |b|. Infinite where a value is not a number, or where b is all zeros and a is not.
fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    let scale = b.iter().fold(0.0, |max: f64, b| max.max(b.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // `f64::max` passes over NaN, which must not pass for a small error.
    let largest = differences.fold(0.0, |max: f64, d| if d.is_nan() { f64::INFINITY } else { max.max(d) });
    if largest == 0.0 { 0.0 } else { largest / scale }
}
