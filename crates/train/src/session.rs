//! A run under way: the loop over epochs, and what is written as it goes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Tensor};
use candle_nn::Optimizer;
use wrn_sam_data::{AnyLoader, Augmentation, Batch, LoaderConfig, Split, Statistics};
use wrn_sam_kernels::Cpu;
use wrn_sam_models::{Parameters, WideResNet};
use wrn_sam_optim::{OptimizerState, Sam, Schedule, Sgd};

use crate::checkpoint::{self, Newest, Progress};
use crate::error::{Error, Result};
use crate::evaluate::evaluate_batch;
use crate::metrics::{EpochMetrics, Meter, MetricsFile, Tally};
use crate::observer::{EvaluateProgress, Resumed, Start, StepProgress};
use crate::recipe::Recipe;
use crate::run_folder::RunFolder;
use crate::step::step;
use crate::trainer::{Outcome, Trainer};
use crate::{fingerprint, report};

/// How many steps a GPU takes before it is asked for their figures, and whether all gradients were finite.
const GPU_STEPS: usize = 50;

/// All that a run works with. Only [`Progress`], the parameters and the optimizer change from step to step; these
/// three are what a checkpoint holds.
pub(crate) struct Session<'a> {
    trainer: Trainer<'a>,
    folder: RunFolder,
    metrics: MetricsFile,
    train: AnyLoader,
    test: AnyLoader,
    meter: Meter,
    parameters: Parameters,
    model: WideResNet,
    sam: Sam<Sgd>,
    learning_rates: Box<dyn Schedule>,
    progress: Progress,
}

impl<'a> Session<'a> {
    /// Begins a run; the first checkpoint shows at once whether there is room for one.
    pub(crate) fn begin(trainer: Trainer<'a>, folder: RunFolder) -> Result<Self> {
        let progress = Progress {
            recipe: trainer.recipe.to_toml()?,
            images: fingerprint::of_images(&trainer.data),
            epoch: 0,
            step: 0,
            tally: Tally::default(),
            seconds: 0.0,
            best: None,
            rows: Vec::new(),
        };
        folder.write_source(&trainer.data.source, &progress.images)?;
        let mut session = Self::new(trainer, folder, progress)?;
        session.announce(None);
        session.write_checkpoint()?;
        Ok(session)
    }

    /// Goes on from a checkpoint.
    pub(crate) fn restore(trainer: Trainer<'a>, folder: RunFolder, newest: Newest) -> Result<Self> {
        let Newest { path, checkpoint, skipped } = newest;
        let differences = trainer.recipe.differences(&Recipe::from_toml(&checkpoint.progress.recipe)?)?;
        if !differences.is_empty() {
            return Err(Error::OtherRecipe { path, differences });
        }
        let expected = fingerprint::of_images(&trainer.data);
        if checkpoint.progress.images != expected {
            return Err(Error::OtherData { path, found: checkpoint.progress.images, expected });
        }
        folder.write_recipe(&trainer.recipe)?;
        folder.write_source(&trainer.data.source, &expected)?;
        let mut session = Self::new(trainer, folder, checkpoint.progress)?;
        session.parameters.load_state(&checkpoint.model)?;
        session.sam.load_state(&checkpoint.optimizer)?;
        session.announce(Some((&path, &skipped)));
        Ok(session)
    }

    fn new(trainer: Trainer<'a>, folder: RunFolder, progress: Progress) -> Result<Self> {
        let Trainer { recipe, data, device, .. } = &trainer;
        let context = match recipe.threads {
            0 => Cpu::shared().clone(),
            threads => Cpu::new(threads),
        };
        // Those of the whole split, so that a limit on the images does not change how a pixel is seen.
        let statistics = Statistics::of(&data.train)?;
        let config = LoaderConfig {
            batch_size: recipe.batch_size,
            threads: context.threads(),
            shuffle: true,
            seed: recipe.seed,
        };
        let (images, augmentation) =
            (limited(&data.train, recipe.train_limit), recipe.augmentation(statistics));
        let train = AnyLoader::new(&images, augmentation, recipe.mix(), config, device)?;
        let (images, config) =
            (limited(&data.test, recipe.test_limit), LoaderConfig { shuffle: false, ..config });
        let test = AnyLoader::new(&images, Augmentation::none(statistics), None, config, device)?;

        let parameters = Parameters::new(recipe.seed, DType::F32, device);
        let model = WideResNet::new(&recipe.network(data.classes()), parameters.var_builder())?;
        let model = model.with_cpu(context.clone()).with_precision(recipe.precision)?;
        let model = model.with_deterministic(recipe.deterministic);
        let model = model.with_handed_over_gradients(); // as `step` takes them
        let sgd = Sgd::new(parameters.trainable(), recipe.sgd())?.with_cpu(context.clone());
        let sam = Sam::new(parameters.trainable(), sgd, recipe.sam())?.with_cpu(context);
        let learning_rates = recipe.learning_rates();
        let metrics = MetricsFile::create(&folder.file("metrics.csv"), &progress.rows)?;
        let meter = Meter::from(progress.tally);
        Ok(Self {
            trainer,
            folder,
            metrics,
            train,
            test,
            meter,
            parameters,
            model,
            sam,
            learning_rates,
            progress,
        })
    }

    fn announce(&mut self, resumed: Option<(&Path, &[Error])>) {
        let Self { trainer, progress, .. } = self;
        let resumed = resumed.map(|(checkpoint, skipped)| Resumed {
            checkpoint,
            epoch: progress.epoch,
            step: progress.step,
            skipped,
        });
        tracing::info!(folder = %self.folder.path().display(), batches = %self.train, ?resumed, "training");
        trainer.observer.on_start(&Start {
            recipe: &trainer.recipe,
            source: &trainer.data.source,
            loader: &self.train,
            folder: self.folder.path(),
            parameters: self.parameters.parameter_count(),
            train_images: self.train.len(),
            test_images: self.test.len(),
            steps: self.train.batches_per_epoch(),
            resumed,
        });
    }

    /// Trains what epochs are left.
    pub(crate) fn train(mut self) -> Result<Outcome> {
        while self.progress.epoch < self.trainer.recipe.epochs {
            let learning_rate = self.learning_rates.at(self.progress.epoch);
            let trained = self.train_epoch(learning_rate)?;
            let began = Instant::now();
            let measured = if trained { self.evaluate()? } else { None };
            let Some(test) = measured else {
                return Ok(Outcome::Interrupted { checkpoint: self.write_checkpoint()? });
            };
            self.end_epoch(learning_rate, test, began.elapsed().as_secs_f64())?;
        }
        Ok(Outcome::Completed { metrics: self.progress.rows })
    }

    /// Takes the steps that are left of the epoch; false if asked to stop.
    fn train_epoch(&mut self, learning_rate: f64) -> Result<bool> {
        self.sam.set_learning_rate(learning_rate);
        let (before, began) = (self.progress.seconds, Instant::now());
        for batch in self.train.epoch_from(self.progress.epoch, self.progress.step)? {
            let stops = self.trainer.control.stops();
            if stops || self.trainer.control.take_checkpoint() {
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
            if self.trainer.device.is_cuda() && step < steps && !step.is_multiple_of(GPU_STEPS) {
                continue;
            }
            self.settle()?;
            self.progress.seconds = before + began.elapsed().as_secs_f64();

            let progress = &self.progress;
            self.trainer.observer.on_step(&StepProgress {
                epoch: progress.epoch + 1,
                epochs: self.trainer.recipe.epochs,
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

    /// Waits for the steps taken: brings their figures here, and says if a gradient was not finite.
    fn settle(&mut self) -> Result<()> {
        // Of one of the last `GPU_STEPS`.
        self.sam.check_gradients().map_err(|error| self.failed(self.progress.step, error.into()))?;
        self.progress.tally = self.meter.tally()?;
        Ok(())
    }

    fn failed(&self, step: usize, source: Error) -> Error {
        Error::Step { epoch: self.progress.epoch + 1, step, source: source.into() }
    }

    /// One step; returns the norm of its first gradient.
    fn step(&mut self, batch: Batch) -> Result<Tensor> {
        let Self { trainer, model, sam, progress, train, meter, .. } = self;
        let recipe = &trainer.recipe;
        let taken = progress.epoch * train.batches_per_epoch() + progress.step;
        model.seek_dropout(recipe.seed, 2 * taken as u64); // a step has two passes
        let outcome = step(model, sam, &batch, recipe.label_smoothing)?;
        meter.add(&outcome.loss, &outcome.logits, batch.dominant_labels())?;
        Ok(outcome.grad_norm)
    }

    /// Measures the test split; `None` if asked to stop.
    fn evaluate(&mut self) -> Result<Option<Tally>> {
        let (mut meter, mut images) = (Meter::default(), 0);
        for batch in self.test.epoch_from(0, 0)? {
            if self.trainer.control.stops() {
                return Ok(None);
            }
            if self.trainer.control.take_checkpoint() {
                self.write_checkpoint()?;
            }
            let batch = batch?;
            let Trainer { recipe, device, observer, .. } = &mut self.trainer;
            evaluate_batch(&self.model, &batch, recipe.label_smoothing, device, &mut meter)?;
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
    fn end_epoch(&mut self, learning_rate: f64, test: Tally, test_seconds: f64) -> Result<()> {
        let Self { trainer, folder, parameters, progress, .. } = self;
        let Trainer { recipe, data, .. } = &*trainer;
        let row = EpochMetrics {
            epoch: progress.epoch + 1,
            learning_rate,
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
        self.metrics.append(&row)?;
        progress.rows.push(row);
        if progress.best.is_none_or(|best| test.top1 > best) {
            progress.best = Some(test.top1);
            parameters.save(&folder.file("best.safetensors"))?;
        }
        parameters.save(&folder.file("model.safetensors"))?;
        let subject = format!("WRN-{}-{}, {}", recipe.depth, recipe.width_factor, images(&data.source));
        report::draw(folder.path(), &subject, &progress.rows)?;

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
        self.trainer.observer.on_epoch(&row);
        Ok(())
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf> {
        let (model, optimizer) = (self.parameters.state()?, self.sam.state()?);
        let path = checkpoint::write(&self.folder.checkpoints(), &self.progress, model, optimizer)?;
        tracing::info!(path = %path.display(), "wrote a checkpoint");
        self.trainer.observer.on_checkpoint(&path);
        Ok(path)
    }
}

/// The first `limit` images, or all where it is 0.
fn limited(split: &Split, limit: usize) -> Split {
    split.truncated(if limit == 0 { split.len() } else { limit })
}

/// What the curves' titles call the images.
fn images(source: &wrn_sam_data::Source) -> String {
    if source.is_synthetic() { "synthetic images".into() } else { source.variant.to_string() }
}
