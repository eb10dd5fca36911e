//! A run under way: the loop over epochs, and what is written as it goes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer;
use wrn_sam_data::{Augmentation, Batch, Loader, LoaderConfig, Split, Statistics};
use wrn_sam_kernels::Cpu;
use wrn_sam_losses::smooth_cross_entropy;
use wrn_sam_models::Parameters;
use wrn_sam_optim::{OptimizerState, Sam, Variables};

use crate::checkpoint::{self, Best, Newest, Progress};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::evaluate::evaluate_batch;
use crate::fingerprint;
use crate::lengthen;
use crate::metrics::EpochMetrics;
use crate::observer::{EvaluateProgress, Resumed, Start, StepProgress, Warning};
use crate::provenance::Provenance;
use crate::recipe::Recipe;
use crate::results::{Results, State};
use crate::run_folder::RunFolder;
use crate::run_source::{InitialWeights, RunSource};
use crate::step::step;
use crate::tally::{Meter, Tally};
use crate::trainer::{Loss, Outcome, Run, Setup, Trainer};

/// How many steps a GPU takes before it is asked for their figures, and whether all gradients were finite.
const GPU_STEPS: usize = 50;

/// A loss above this multiple of a guessing network's is worth a warning.
const DIVERGED: f64 = 10.0;

/// All that a run works with. Only [`Progress`], the parameters and the optimizer change from step to step; these
/// three are what a checkpoint holds.
pub(crate) struct Session<'a, M, O> {
    run: Run<'a>,
    folder: RunFolder,
    results: Results,
    train: Loader,
    test: Loader,
    meter: Meter,
    parameters: Parameters,
    model: M,
    sam: Sam<O>,
    loss: Loss<'a>,
    /// The smoothed loss of a network that finds all classes equally likely; `None` for another loss.
    guess: Option<f64>,
    progress: Progress,
}

impl<'a, M: Classifier, O: Optimizer + OptimizerState + Variables> Session<'a, M, O> {
    /// Begins a run; the first checkpoint shows at once whether there is room for one.
    pub(crate) fn begin(trainer: Trainer<'a, M, O>, folder: RunFolder) -> Result<Self> {
        let progress = Progress {
            recipe: trainer.run.recipe.to_toml()?,
            images: fingerprint::of_images(&trainer.run.data),
            initial_weights: initial_weights(&trainer.run, &folder)?,
            ..Progress::default()
        };
        let mut session = Self::new(trainer, folder, progress)?;
        if let Some(InitialWeights { path, .. }) = &session.progress.initial_weights {
            session.parameters.load(path)?;
            session.parameters.check_values()?;
        }
        session.folder.write_recipe(&session.run.recipe)?;
        session.write_source()?;
        session.announce(None);
        session.write_checkpoint()?;
        Ok(session)
    }

    /// Resumes from a checkpoint. Every check comes before the first file is written.
    pub(crate) fn restore(trainer: Trainer<'a, M, O>, folder: RunFolder, newest: Newest) -> Result<Self> {
        let Newest { path, checkpoint, skipped } = newest;
        let mut progress = checkpoint.progress;
        let theirs = Recipe::from_toml(&progress.recipe)?;
        let lengthen = lengthen::check(&path, &trainer.run, &theirs, Some(&progress))?;
        let expected = fingerprint::of_images(&trainer.run.data);
        if progress.images != expected {
            return Err(Error::OtherData { path, found: progress.images, expected });
        }
        progress.recipe = trainer.run.recipe.to_toml()?;
        let lengthened = lengthen.record.is_some();
        progress.lengthened.extend(lengthen.record);

        let mut session = Self::new(trainer, folder, progress)?;
        session.parameters.load_state(&checkpoint.model)?;
        session.sam.load_state(&checkpoint.optimizer)?;
        let state = session.state()?;
        session.folder.write_recipe(&session.run.recipe)?;
        session.write_source()?;
        session.announce(Some((&path, &skipped)));
        if let Some(warning) = lengthen.warning {
            session.run.observer.on_warning(&warning);
        }
        if lengthened {
            session.write_checkpoint()?;
        }
        if let Some(epoch) = session.results.write_missing(&session.progress, &state)? {
            session.run.observer.on_warning(&Warning::BestWeightsLost { epoch });
        }
        Ok(session)
    }

    fn new(trainer: Trainer<'a, M, O>, folder: RunFolder, progress: Progress) -> Result<Self> {
        let Trainer { mut run, network, optimizer } = trainer;
        let Run { recipe, data, device, .. } = &run;
        let cpu = match recipe.threads {
            0 => Cpu::shared().clone(),
            threads => Cpu::new(threads),
        };
        // Those of the whole split, so that a limit on the images does not change how a pixel is seen.
        let statistics = Statistics::from_split(&data.train)?;
        let config = LoaderConfig::default()
            .with_batch_size(recipe.batch_size)
            .with_threads(cpu.threads())
            .with_seed(recipe.seed);
        let (images, augmentation) =
            (limited(&data.train, recipe.train_limit), recipe.augmentation(statistics));
        let train = Loader::new(&images, augmentation, config)?.with_mix(recipe.mix())?.with_device(device);
        let (images, config) = (limited(&data.test, recipe.test_limit), config.with_shuffle(false));
        let test = Loader::new(&images, Augmentation::none(statistics), config)?.with_device(device);

        let parameters = Parameters::new(recipe.seed, DType::F32, device);
        let setup = Setup { recipe, classes: data.classes(), cpu: &cpu };
        let model = network(parameters.var_builder(), &setup)?;
        if model.classes() != data.classes() {
            return Err(Error::UnsuitableData {
                what: "the network has other classes than the images",
                found: format!("{} of the network", model.classes()),
                expected: format!("{}", data.classes()),
            });
        }
        let optimizer = optimizer(parameters.named_trainable(), &setup)?;
        let sam =
            Sam::new(optimizer, recipe.sam())?.with_buffers(parameters.buffers())?.with_cpu(cpu.clone());
        let smoothing = recipe.label_smoothing;
        let smoothed =
            move |logits: &Tensor, labels: &Tensor| Ok(smooth_cross_entropy(logits, labels, smoothing)?);
        let provenance = Provenance::new(model.name(), data, statistics, &progress.images, recipe);
        let results = Results::new(folder.path(), provenance);
        let meter = Meter::from(progress.tally);
        let guess = run.loss.is_none().then(|| (model.classes() as f64).ln());
        let loss = run.loss.take().unwrap_or_else(|| Box::new(smoothed));
        Ok(Self { run, folder, results, train, test, meter, parameters, model, sam, loss, guess, progress })
    }

    fn write_source(&self) -> Result<()> {
        let Progress { images, initial_weights, lengthened, .. } = &self.progress;
        let mut source = RunSource::new(&self.run.data.source, images);
        (source.initial_weights, source.lengthened) = (initial_weights.clone(), lengthened.clone());
        source.write(self.folder.path())
    }

    fn announce(&mut self, resumed: Option<(&Path, &[Error])>) {
        let Self { run, progress, .. } = self;
        let resumed = resumed.map(|(checkpoint, skipped)| Resumed {
            checkpoint,
            epoch: progress.epoch,
            step: progress.step,
            skipped,
        });
        tracing::info!(folder = %self.folder.path().display(), batches = %self.train, ?resumed, "training");
        run.observer.on_start(&Start {
            recipe: &run.recipe,
            source: &run.data.source,
            loader: &self.train,
            folder: self.folder.path(),
            parameters: self.parameters.parameter_count(),
            train_images: self.train.len(),
            test_images: self.test.len(),
            steps: self.train.batches_per_epoch(),
            resumed,
        });
        let source = &run.data.source;
        if !source.known && !source.is_synthetic() {
            run.observer.on_warning(&Warning::UnknownImages { source: source.to_string() });
        }
    }

    /// Trains what epochs are left.
    pub(crate) fn train(mut self) -> Result<Outcome> {
        while self.progress.epoch < self.run.recipe.epochs {
            if self.progress.step == 0 {
                self.progress.learning_rate = self.run.learning_rate(self.progress.epoch);
            }
            let trained = self.train_epoch()?;
            // Before the evaluation, which may well give plausible figures.
            let state = self.state()?;
            let began = Instant::now();
            let measured = if trained { self.evaluate()? } else { None };
            let Some(test) = measured else {
                return Ok(Outcome::Interrupted { checkpoint: self.write_checkpoint()? });
            };
            self.end_epoch(test, state, began.elapsed().as_secs_f64())?;
        }
        if let (Some(guess), Some(row)) = (self.guess, self.progress.rows.last())
            && row.train_loss > DIVERGED * guess
        {
            self.run.observer.on_warning(&Warning::LossAboveGuess { loss: row.train_loss, guess });
        }
        Ok(Outcome::Completed { metrics: self.progress.rows })
    }

    /// Takes the steps that are left of the epoch; false if asked to stop.
    fn train_epoch(&mut self) -> Result<bool> {
        let learning_rate = self.progress.learning_rate;
        self.sam.set_learning_rate(learning_rate);
        let (before, began) = (self.progress.seconds, Instant::now());
        for batch in self.train.epoch_from(self.progress.epoch, self.progress.step) {
            let stops = self.run.control.stops();
            if stops || self.run.control.take_checkpoint() {
                self.settle()?;
                self.progress.seconds = before + began.elapsed().as_secs_f64();
                if stops {
                    return Ok(false);
                }
                self.write_checkpoint()?;
            }
            let grad_norm = self.step(batch?).map_err(|error| self.failed(self.progress.step + 1, error))?;
            self.progress.step += 1;
            let (step, steps) = (self.progress.step, self.train.batches_per_epoch());
            if self.run.device.is_cuda() && step < steps && !step.is_multiple_of(GPU_STEPS) {
                continue;
            }
            self.settle()?;
            self.progress.seconds = before + began.elapsed().as_secs_f64();

            let progress = &self.progress;
            self.run.observer.on_step(&StepProgress {
                epoch: progress.epoch + 1,
                epochs: self.run.recipe.epochs,
                step,
                steps,
                learning_rate,
                loss: progress.tally.loss(),
                top1: progress.tally.top1(),
                grad_norm: grad_norm.to_scalar()?,
                images_per_second: progress.tally.images as f64 / progress.seconds,
            });
        }
        Ok(true)
    }

    /// Waits for the steps taken: brings their figures here, and says if a gradient or the loss was not finite.
    fn settle(&mut self) -> Result<()> {
        // Of one of the last `GPU_STEPS`.
        self.sam.check_gradients().map_err(|error| self.failed(self.progress.step, error.into()))?;
        self.progress.tally = self.meter.tally()?;
        let Tally { images, loss_sum, .. } = self.progress.tally;
        if images == 0 || loss_sum.is_finite() { Ok(()) } else { Err(self.diverged("the training loss")) }
    }

    /// The parameters and buffers, all of which are finite.
    fn state(&self) -> Result<State> {
        match self.parameters.check_values() {
            Err(wrn_sam_models::Error::BadValues { name, .. }) => return Err(self.diverged(&name)),
            checked => checked?,
        }
        let state = self.parameters.state()?.into_iter();
        state.map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?))).collect()
    }

    fn diverged(&self, what: &str) -> Error {
        let (learning_rate, rho) = (self.progress.learning_rate, self.run.recipe.rho);
        let source = Error::Diverged { what: what.into(), learning_rate, rho };
        self.failed(self.progress.step, source)
    }

    fn failed(&self, step: usize, source: Error) -> Error {
        Error::Step { epoch: self.progress.epoch + 1, step, source: source.into() }
    }

    /// One step; returns the norm of its first gradient.
    fn step(&mut self, batch: Batch) -> Result<Tensor> {
        let Self { run, model, sam, loss, progress, train, meter, .. } = self;
        let taken = progress.epoch * train.batches_per_epoch() + progress.step;
        model.seek_dropout(run.recipe.seed, 2 * taken as u64); // a step has two passes
        let outcome = step(model, sam, &batch, &*loss)?;
        meter.add(&outcome.loss, &outcome.logits, batch.dominant_labels())?;
        Ok(outcome.grad_norm)
    }

    /// Measures the test split; `None` if asked to stop.
    fn evaluate(&mut self) -> Result<Option<Tally>> {
        let (mut meter, mut images) = (Meter::default(), 0);
        for batch in self.test.epoch(0) {
            if self.run.control.stops() {
                return Ok(None);
            }
            if self.run.control.take_checkpoint() {
                self.write_checkpoint()?;
            }
            let batch = batch?;
            let Run { recipe, device, observer, .. } = &mut self.run;
            evaluate_batch(&self.model, &batch, &*self.loss, device, &mut meter)?;
            images += batch.labels.elem_count();
            observer.on_evaluate(&EvaluateProgress {
                epoch: self.progress.epoch + 1,
                epochs: recipe.epochs,
                images,
                total: self.test.len(),
            });
        }
        Ok(Some(meter.tally()?))
    }

    /// Writes what an epoch leaves behind. The checkpoint comes last: all that it says has been done is on disk.
    fn end_epoch(&mut self, test: Tally, state: State, test_seconds: f64) -> Result<()> {
        if !test.loss_sum.is_finite() {
            return Err(self.diverged("the test loss"));
        }
        let Self { run, progress, results, .. } = self;
        let recipe = &run.recipe;
        let epoch = progress.epoch + 1;
        let row = EpochMetrics {
            epoch,
            learning_rate: progress.learning_rate,
            train_loss: progress.tally.loss(),
            train_top1: progress.tally.top1(),
            test_loss: test.loss(),
            test_top1: test.top1(),
            test_top5: test.top5(),
            seconds: progress.seconds + test_seconds,
            images_per_second: progress.tally.images as f64 / progress.seconds,
        };
        // As it will be read back, so that a run that was resumed knows the same as one that was not.
        let row = EpochMetrics::from_csv(&row.to_csv())?;
        progress.rows.push(row);
        if progress.best.is_none_or(|best| test.top1 > best.top1) {
            progress.best = Some(Best { epoch, top1: test.top1 });
        }
        results.write(progress, &state, epoch == recipe.epochs)?;

        (progress.epoch, progress.step) = (progress.epoch + 1, 0);
        (progress.tally, progress.seconds) = (Tally::default(), 0.0);
        self.meter = Meter::default();
        let due = recipe.checkpoint_every != 0 && progress.epoch.is_multiple_of(recipe.checkpoint_every);
        if due || progress.epoch == recipe.epochs {
            self.write_checkpoint()?;
        }
        tracing::info!(
            epoch = row.epoch,
            test_loss = row.test_loss,
            test_top1 = row.test_top1,
            "epoch ended"
        );
        self.run.observer.on_epoch(&row);
        Ok(())
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf> {
        let folder = self.folder.checkpoints();
        std::fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        let path = checkpoint::write(&folder, &self.progress, &self.state()?, &self.sam.state()?)?;
        tracing::info!(path = %path.display(), "wrote a checkpoint");
        self.run.observer.on_checkpoint(&path);
        Ok(path)
    }
}

/// The first `limit` images, or all where it is 0.
fn limited(split: &Split, limit: usize) -> Split {
    split.truncated(if limit == 0 { split.len() } else { limit })
}

/// The weights that a run which begins was given: by the trainer, or, where it was killed before its first checkpoint, as
/// its source.toml says.
fn initial_weights(run: &Run<'_>, folder: &RunFolder) -> Result<Option<InitialWeights>> {
    let recorded = RunSource::from_run(folder.path())?.and_then(|source| source.initial_weights);
    let Some(path) = run.initial_weights.clone().or(recorded.as_ref().map(|weights| weights.path.clone()))
    else {
        return Ok(None);
    };
    let md5 = fingerprint::of_file(&path)?;
    match recorded {
        Some(InitialWeights { md5: expected, .. }) if md5 != expected => {
            Err(Error::OtherWeights { path, found: md5, expected })
        }
        _ => Ok(Some(InitialWeights { path: std::path::absolute(&path).unwrap_or(path), md5 })),
    }
}
