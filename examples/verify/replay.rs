//! Takes a golden file's steps on this machine and measures how far every value is from PyTorch's.

use std::collections::HashMap;

use wrn_sam::candle::backprop::GradStore;
use wrn_sam::candle::{DType, Device, Tensor, Var};
use wrn_sam::candle_nn::Optimizer;
use wrn_sam::kernels::backward;
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Kind, Mode, Parameters, Precision, WideResNet, WideResNetConfig};
use wrn_sam::optim::{
    AdamW, AdamWConfig, Along, AscentOver, Group, OptimizerState, Sam, Sgd, SgdConfig, Variables,
    WeightAverage,
};

use crate::config::Base;
use crate::errors::{Compared, Errors, Worst, compared, distance};
use crate::golden::Golden;
use crate::support::AnyError;

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
    let spared = parameters.norms_and_biases();
    let group = config.norms_and_biases.map(|(weight_decay, _)| Group::new().with_weight_decay(weight_decay));
    let replay = Replay { golden, model, parameters };
    match config.base {
        Base::Sgd { lr, momentum, nesterov, weight_decay } => {
            let sgd = SgdConfig::new(lr).with_momentum(momentum).with_nesterov(nesterov);
            let sgd = Sgd::named(named, sgd.with_weight_decay(weight_decay))?;
            replay.run(match group {
                Some(group) => sgd.with_group(&spared, group)?,
                None => sgd,
            })
        }
        Base::AdamW { lr, weight_decay } => {
            let adamw = AdamW::named(named, AdamWConfig::new(lr).with_weight_decay(weight_decay))?;
            replay.run(match group {
                Some(group) => adamw.with_group(&spared, group)?,
                None => adamw,
            })
        }
    }
}

struct Replay<'a> {
    golden: &'a Golden,
    model: WideResNet,
    parameters: Parameters,
}

/// One part of a step's batch: its place, what share of the batch it is, and its images and labels.
struct Part {
    place: usize,
    parts: usize,
    share: f64,
    images: Tensor,
    labels: Tensor,
}

/// What all parts of one pass gave.
#[derive(Default)]
struct Seen {
    logits: Vec<Tensor>,
    losses: Vec<Tensor>,
}

impl Replay<'_> {
    fn run<O: Optimizer + OptimizerState + Variables>(&self, base: O) -> Result<Errors, AnyError> {
        let config = &self.golden.config;
        let mut sam = Sam::new(base, config.sam)?;
        if config.norms_only {
            sam = sam.perturbing(&self.parameters.norms())?;
        }
        if let Some((_, rho)) = config.norms_and_biases {
            sam = sam.with_rho_of(&self.parameters.norms_and_biases(), rho)?;
        }
        let floats = |(_, _, var): &(String, Kind, Var)| var.dtype().is_float();
        let averaged =
            self.parameters.named().into_iter().filter(floats).map(|(name, _, var)| (name, var)).collect();
        let mut average = config.ema_decay.map(|decay| WeightAverage::ema(averaged, decay)).transpose()?;

        let init_eval = self.evaluate("step1/x", "init_eval/logits")?;
        let mut errors = Errors { init_eval, ..Errors::default() };
        for step in 1..=config.steps {
            if let Some(rho_steps) = &config.rho_steps {
                sam.set_rho(rho_steps[step - 1])?;
            }
            let mut found = Errors::default();
            let second = self.step(&mut sam, step, &mut found)?;
            if let Some(expected) = &config.second_passes
                && expected.get(step - 1) != Some(&second)
            {
                return Err(format!(
                    "step {step} took {} second pass, unlike the file's",
                    if second { "a" } else { "no" }
                )
                .into());
            }
            if let Some(average) = &mut average {
                average.update()?;
            }
            errors.join(found, step);
        }
        errors.later.join(self.evaluate(&format!("step{}/x", config.steps), "final_eval/logits")?);
        if let Some(average) = &average {
            for (name, value) in average.values() {
                let key = format!("step{}/ema/{name}", config.steps);
                errors.state.join(self.compare(&key, &value)?);
            }
        }
        errors.state.join(self.compare_state(&sam.state()?.into_iter().collect())?);
        (errors.update, errors.statistics) = self.distances()?;
        errors.without_kinks = config.without_kinks;
        Ok(errors)
    }

    /// One step, as in `train::step`, looked at between its parts. The gradients and the perturbed weights are in the file
    /// for the first step only. Returns whether it had a second pass.
    fn step<O: Optimizer>(
        &self,
        sam: &mut Sam<O>,
        step: usize,
        errors: &mut Errors,
    ) -> Result<bool, AnyError> {
        let key = |name: &str| format!("step{step}/{name}");
        let parts = self.parts(step)?;
        let (mut first, mut second, mut norms) = (Seen::default(), Seen::default(), Vec::new());
        let ahead = sam.config().climb.along == Along::Momentum;
        let over = self.golden.config.micro_batches.map_or(AscentOver::Batch, |(_, over)| over);

        let mut under_way = sam.begin()?;
        if ahead {
            self.look_at_weights(&key("perturbed"), &mut errors.perturbed)?;
        }
        match over {
            AscentOver::MicroBatch => {
                for part in &parts {
                    let gradients = self.pass(part, Mode::part(part.place, part.parts), &mut first)?;
                    if part.place == 0 {
                        self.look_at(&key("grad1"), &gradients, &mut errors.grad1, &mut errors.grad1_rms)?;
                    }
                    let Some(perturbed) = under_way.part(part.share, &gradients)? else { continue };
                    norms.push(perturbed.grad_norm().clone());
                    if part.place == 0 {
                        self.look_at_weights(&key("perturbed"), &mut errors.perturbed)?;
                    }
                    let gradients = self.pass(part, Mode::TrainFrozenStatistics, &mut second)?;
                    if part.place == 0 {
                        self.look_at(&key("grad2"), &gradients, &mut errors.grad2, &mut errors.grad2_rms)?;
                    }
                    perturbed.descend(&gradients)?;
                }
                under_way.finish()?;
            }
            AscentOver::Batch if parts.len() > 1 => {
                for part in &parts {
                    let gradients = self.pass(part, Mode::part(part.place, part.parts), &mut first)?;
                    under_way.gather(part.share, &gradients)?;
                }
                if let Some(mut perturbed) = under_way.climb_gathered()? {
                    self.look_at_weights(&key("perturbed"), &mut errors.perturbed)?;
                    for part in &parts {
                        let gradients = self.pass(part, Mode::TrainFrozenStatistics, &mut second)?;
                        perturbed.gather(part.share, &gradients)?;
                    }
                    perturbed.finish()?;
                }
            }
            AscentOver::Batch => {
                let gradients = self.pass(&parts[0], Mode::Train, &mut first)?;
                self.look_at(&key("grad1"), &gradients, &mut errors.grad1, &mut errors.grad1_rms)?;
                if let Some(perturbed) = under_way.climb(&gradients)? {
                    self.look_at_weights(&key("perturbed"), &mut errors.perturbed)?;
                    let gradients = self.pass(&parts[0], Mode::TrainFrozenStatistics, &mut second)?;
                    self.look_at(&key("grad2"), &gradients, &mut errors.grad2, &mut errors.grad2_rms)?;
                    perturbed.descend(&gradients)?;
                }
            }
        }
        for (suffix, seen) in [("", &first), ("2", &second)] {
            if !seen.logits.is_empty() {
                errors
                    .logits
                    .join(self.compare(&key(&format!("logits{suffix}")), &Tensor::cat(&seen.logits, 0)?)?);
                errors
                    .loss
                    .join(self.compare(&key(&format!("loss{suffix}")), &Tensor::cat(&seen.losses, 0)?)?);
            }
        }
        if self.golden.has(&key("grad_norm")) {
            let norm = if norms.is_empty() { sam.grad_norm().clone() } else { Tensor::stack(&norms, 0)? };
            errors.loss.join(self.compare(&key("grad_norm"), &norm)?);
        }
        if self.golden.has(&key("after/")) {
            let state = |var: &Var| Some(var.as_tensor().clone());
            (errors.after_step1, _) = self.compare_each(&key("after"), state, |_| true)?;
        }
        Ok(!second.logits.is_empty())
    }

    /// The micro-batches of a step; the batch itself if it has none. Like torch's `chunk`, the last may be smaller.
    fn parts(&self, step: usize) -> Result<Vec<Part>, AnyError> {
        let images = self.golden.get(&format!("step{step}/x"))?;
        let labels = self.golden.get(&format!("step{step}/y"))?;
        let (count, batch) =
            (self.golden.config.micro_batches.map_or(1, |(count, _)| count.max(1)), images.dim(0)?);
        let size = batch.div_ceil(count).max(1);
        let parts = batch.div_ceil(size);
        let part = |place: usize| {
            let len = size.min(batch - place * size);
            Ok(Part {
                place,
                parts,
                share: len as f64 / batch as f64,
                images: images.narrow(0, place * size, len)?.contiguous()?,
                labels: labels.narrow(0, place * size, len)?.contiguous()?,
            })
        };
        (0..parts).map(part).collect()
    }

    /// The gradients of a part's mean loss.
    fn pass(&self, part: &Part, mode: Mode, seen: &mut Seen) -> Result<GradStore, AnyError> {
        let logits = self.model.forward(&part.images, mode)?;
        let loss = smooth_cross_entropy(&logits, &part.labels, self.golden.config.smoothing)?;
        seen.logits.push(logits.detach());
        seen.losses.push(loss.detach());
        Ok(backward(&loss.mean_all()?)?)
    }

    fn evaluate(&self, images: &str, key: &str) -> Result<Worst, AnyError> {
        self.compare(key, &self.model.forward(self.golden.get(images)?, Mode::Eval)?)
    }

    /// Compares gradients with those below `prefix`, if the file has them.
    fn look_at(
        &self,
        prefix: &str,
        gradients: &GradStore,
        worst: &mut Worst,
        rms: &mut Worst,
    ) -> Result<(), AnyError> {
        // Those of the first step are in every file.
        if prefix.starts_with("step1/") || self.golden.has(&format!("{prefix}/")) {
            (*worst, *rms) = self.compare_each(prefix, |var| gradients.get(var).cloned(), trainable)?;
        }
        Ok(())
    }

    /// Compares the weights with those below `prefix`, if the file has them.
    fn look_at_weights(&self, prefix: &str, worst: &mut Worst) -> Result<(), AnyError> {
        if prefix.starts_with("step1/") || self.golden.has(&format!("{prefix}/")) {
            (*worst, _) = self.compare_each(prefix, |var| Some(var.as_tensor().clone()), trainable)?;
        }
        Ok(())
    }

    /// Compares the optimizer's state with what the file has of it.
    fn compare_state(&self, state: &HashMap<String, Tensor>) -> Result<Worst, AnyError> {
        let prefix = format!("step{}/state/", self.golden.config.steps);
        let mut worst = Worst::default();
        let get = |name: &str| state.get(name).ok_or_else(|| format!("the optimizer has no {name}"));
        for key in self.golden.below(&prefix).into_keys() {
            let found = match key.split_once('/') {
                None if key == "mu" => get("sam.squares")?.get(0)?,
                None => get("sam.squares")?.get(1)?,
                Some(("ema" | "gv", name)) => get(&format!("sam.memory.{name}"))?.clone(),
                Some(("momentum", name)) => get(&format!("momentum_buffer.{name}"))?.clone(),
                Some((moment, name)) => get(&format!("{moment}.{name}"))?.clone(),
            };
            worst.join(self.compare(&format!("{prefix}{key}"), &found)?);
        }
        Ok(worst)
    }

    /// How far the whole update of all parameters is from the file's, and that of all running statistics: the norm of the
    /// difference, relative to the norm of the update.
    fn distances(&self) -> Result<(Worst, Worst), AnyError> {
        let last = format!("step{}/after", self.golden.config.steps);
        let of = |kind: Kind, key: &str| {
            let mut rows = Vec::new();
            for (name, _, var) in
                self.parameters.named().into_iter().filter(|(_, k, var)| *k == kind && var.dtype().is_float())
            {
                let (begin, end) =
                    (self.golden.get(&format!("init/{name}"))?, self.golden.get(&format!("{last}/{name}"))?);
                rows.push([var.as_detached_tensor(), end.clone(), begin.clone()]);
            }
            Ok::<_, AnyError>(Worst { error: distance(&rows)?, key: format!("{last}, {key}") })
        };
        Ok((of(Kind::Trainable, "all parameters")?, of(Kind::Buffer, "all running statistics")?))
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
        compared(key, found, self.golden.get(key)?)
    }
}

fn trainable(kind: Kind) -> bool {
    kind == Kind::Trainable
}
