//! A run under way: the loop over epochs, and what is written as it goes.

mod average;
mod begin;
mod finish;

use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use wrn_sam_data::{Batch, Loader, Share};
use wrn_sam_kernels::Cpu;
use wrn_sam_models::Parameters;
use wrn_sam_optim::{OptimizerState, Sam, Variables, WeightAverage};

use crate::answers::Answers;
use crate::checkpoint::{self, Best, Progress};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::evaluate::evaluate_batch;
use crate::logs::Logs;
use crate::metrics::{EpochMetrics, EvalSplit};
use crate::micro_batches::{MicroBatch, step_micro_batches};
use crate::observer::{EvaluateProgress, StepProgress, Warning};
use crate::results::{Results, State};
use crate::run_folder::RunFolder;
use crate::step::{StepOutcome, step};
use crate::tally::{Meter, Tally};
use crate::together::Together;
use crate::trainer::{Loss, Outcome, Run};

/// How many steps a GPU takes before it is asked for their figures, and whether all gradients were finite.
const GPU_STEPS: usize = 50;

/// A loss above this multiple of a guessing network's is worth a warning.
const DIVERGED: f64 = 10.0;

/// All that a run works with. Only [`Progress`], the parameters, the optimizer and the weights' average change from step to
/// step; these are what a checkpoint holds.
pub(crate) struct Session<'a, M, O> {
    run: Run<'a>,
    folder: RunFolder,
    results: Results,
    /// Open from the moment that the run is announced.
    logs: Option<Logs>,
    /// Its batches are micro-batches, of which each step has those that `share` says.
    train: Loader,
    share: Share,
    validation: Option<Loader>,
    test: Loader,
    /// What was counted on a GPU since the last look.
    meter: Meter,
    /// What was counted on the CPU since then, for each micro-batch.
    counted: Vec<Tally>,
    parameters: Parameters,
    model: M,
    sam: Sam<O>,
    /// The average of the weights, where the recipe asks for one.
    average: Option<WeightAverage>,
    cpu: Cpu,
    loss: Loss<'a>,
    /// The smoothed loss of a network that finds all classes equally likely; `None` for another loss.
    guess: Option<f64>,
    progress: Progress,
}

impl<'a, M: Classifier, O: Optimizer + OptimizerState + Variables> Session<'a, M, O> {
    /// Trains what epochs are left.
    pub(crate) fn train(mut self) -> Result<Outcome> {
        let mut trained_some = false;
        while !self.is_over() {
            trained_some = true;
            if self.progress.step == 0 {
                self.progress.learning_rate = self.run.learning_rate(self.progress.epoch);
            }
            let trained = self.train_epoch()?;
            if trained {
                self.average_epoch(self.progress.epoch)?;
            }
            // Before the evaluation, which may well give plausible figures.
            let state = self.state()?;
            let began = Instant::now();
            let split = self.run.recipe.eval_split();
            let measured = if trained { self.evaluate(split, true, None)? } else { None };
            let Some(measured) = measured else {
                return Ok(Outcome::Interrupted { checkpoint: self.write_checkpoint()? });
            };
            self.end_epoch(measured, state, began.elapsed().as_secs_f64())?;
        }
        // By the rank that writes; the others wait for what it finds.
        let own = if self.run.together.writes() { self.finish(trained_some)? } else { None };
        let Some(tests) = self.run.together.of_first(own)? else {
            return Ok(Outcome::Interrupted { checkpoint: self.write_checkpoint()? });
        };
        if let (Some(guess), Some(row)) = (self.guess, self.progress.rows.last())
            && row.train_loss > DIVERGED * guess
        {
            let loss = row.train_loss;
            self.warn(&Warning::LossAboveGuess { loss, guess })?;
        }
        self.log(|logs| logs.end())?;
        Ok(Outcome::Completed { metrics: self.progress.rows, tests })
    }

    /// Whether the epochs are trained, or as many as the recipe's `patience` were no better than the best before them.
    fn is_over(&self) -> bool {
        let Progress { rows, best, .. } = &self.progress;
        let waited = best.map_or(0, |best| rows.len() - best.epoch);
        let patience = self.run.recipe.patience;
        rows.len() >= self.run.recipe.epochs || (patience > 0 && waited >= patience)
    }

    fn log(&mut self, write: impl FnOnce(&mut Logs) -> Result<()>) -> Result<()> {
        self.logs.as_mut().map_or(Ok(()), write)
    }

    fn warn(&mut self, warning: &Warning) -> Result<()> {
        self.run.observer.on_warning(warning);
        self.log(|logs| logs.warning(warning))
    }

    /// Takes the steps that are left of the epoch; false if asked to stop.
    fn train_epoch(&mut self) -> Result<bool> {
        let learning_rate = self.progress.learning_rate;
        self.sam.set_learning_rate(learning_rate);
        self.sam.set_rho(self.run.recipe.radius(self.progress.epoch, learning_rate))?;
        let (before, began) = (self.progress.seconds, Instant::now());
        let mut told = self.progress.tally;
        let (epoch, first) = (self.progress.epoch, self.progress.step);
        let mut batches = self.train.epoch_share(epoch, first, &self.share);
        for step in first..self.steps() {
            let Run { control, together, .. } = &self.run;
            let (stops, checkpoint) = together.requests(control.stops(), control.take_checkpoint())?;
            if stops || checkpoint {
                self.settle()?;
                self.progress.seconds = before + began.elapsed().as_secs_f64();
                if stops {
                    return Ok(false);
                }
                self.write_checkpoint()?;
            }
            let own = self.share.batches_of_step(step, self.train.batches_per_epoch()).len();
            let own = batches.by_ref().take(own).collect::<wrn_sam_data::Result<_>>()?;
            let grad_norm = self.step(own).map_err(|error| self.failed(self.progress.step + 1, error))?;
            self.average_step()?;
            self.progress.step += 1;
            let (step, steps) = (self.progress.step, self.steps());
            if self.run.device.is_cuda() && step < steps && !step.is_multiple_of(GPU_STEPS) {
                continue;
            }
            self.settle()?;
            self.progress.seconds = before + began.elapsed().as_secs_f64();

            let progress = &self.progress;
            let since = progress.tally.since(&told);
            told = progress.tally;
            let taken = StepProgress {
                epoch: progress.epoch + 1,
                epochs: self.run.recipe.epochs,
                step,
                steps,
                learning_rate,
                step_loss: since.loss(),
                loss: progress.tally.loss(),
                top1: progress.tally.top1(),
                grad_norm: grad_norm.to_scalar()?,
                images_per_second: progress.tally.images as f64 / progress.seconds,
            };
            self.log(|logs| logs.step(&taken))?;
            self.run.observer.on_step(&taken);
        }
        let expected = self.train.fingerprint(epoch, first * self.share.micro_batches());
        self.run.together.check_images(epoch + 1, batches.fingerprint(), expected)?;
        Ok(true)
    }

    /// Steps in an epoch.
    fn steps(&self) -> usize {
        self.share.steps(self.train.batches_per_epoch())
    }

    /// Waits for the steps taken: brings their figures here, and says if a gradient or the loss was not finite.
    fn settle(&mut self) -> Result<()> {
        // Of one of the last `GPU_STEPS`.
        self.sam.check_gradients().map_err(|error| self.failed(self.progress.step, error.into()))?;
        let mut own = std::mem::take(&mut self.counted);
        if self.run.device.is_cuda() {
            own.push(std::mem::take(&mut self.meter).tally()?);
        }
        for tally in self.run.together.tallies(own)? {
            self.progress.tally.join(&tally);
        }
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

    /// One step, of which `own` are this rank's micro-batches; returns the norm of its first gradient.
    fn step(&mut self, own: Vec<Batch>) -> Result<Tensor> {
        let (steps, images) = (self.steps(), self.train.len());
        let Self { run, model, sam, loss, progress, share, meter, counted, .. } = self;
        let recipe = &run.recipe;
        let micro_batches = share.micro_batches();
        // Counted over the run, so that dropout does not depend on who computes what.
        let first = (progress.epoch * steps + progress.step) * micro_batches + share.own().start;
        let mut count = |outcome: &StepOutcome, batch: &Batch| {
            meter.add(&outcome.loss, &outcome.logits, batch.dominant_labels())?;
            if !run.device.is_cuda() {
                counted.push(std::mem::take(meter).tally()?);
            }
            Ok::<_, Error>(())
        };
        if let ([batch], 1) = (own.as_slice(), micro_batches) {
            model.seek_dropout(recipe.seed, first as u64); // both passes of a step drop the same
            let outcome = step(model, sam, batch, &*loss)?;
            count(&outcome, batch)?;
            return Ok(outcome.grad_norm);
        }
        let images = recipe.batch_size.min(images - progress.step * recipe.batch_size);
        let micro_batch = |(number, batch): (usize, Batch)| {
            let share = batch.labels.elem_count() as f64 / images as f64;
            MicroBatch::new(batch, share, (first + number) as u64)
        };
        let own: Vec<_> = own.into_iter().enumerate().map(micro_batch).collect();
        model.seek_dropout(recipe.seed, 0);
        let outcomes = step_micro_batches(model, sam, &own, recipe.ascent_over(), &*loss)?;
        for (outcome, MicroBatch { batch, .. }) in outcomes.iter().zip(&own) {
            count(outcome, batch)?;
        }
        Ok(sam.grad_norm().clone())
    }

    /// Measures the images of `split`, and adds what was answered to `answers`; `None` if asked to stop. The ranks take one
    /// batch in turn, all with `by_turns`, or this rank takes all of them.
    fn evaluate(
        &mut self,
        split: EvalSplit,
        by_turns: bool,
        mut answers: Option<&mut Answers>,
    ) -> Result<Option<Tally>> {
        let together = if by_turns { self.run.together.clone() } else { Together::default() };
        let turns =
            Share::of_rank(together.ranks().world(), together.ranks().rank(), together.ranks().world())?;
        let loader =
            self.validation.as_ref().filter(|_| split == EvalSplit::Validation).unwrap_or(&self.test);
        let (mut batches, total) = (loader.epoch_share(0, 0, &turns), loader.len());
        let (mut sum, mut meter, mut images) = (Tally::default(), Meter::default(), 0);
        for _ in 0..turns.steps(loader.batches_per_epoch()) {
            let Run { control, .. } = &self.run;
            let (stops, checkpoint) = together.requests(control.stops(), control.take_checkpoint())?;
            if stops {
                return Ok(None);
            }
            if checkpoint && by_turns {
                self.write_checkpoint()?;
            }
            let batch = batches.next().transpose()?;
            let Run { recipe, device, observer, .. } = &mut self.run;
            if let Some(batch) = &batch {
                let logits = evaluate_batch(&self.model, batch, &*self.loss, device, &mut meter)?;
                if let Some(answers) = &mut answers {
                    answers.add(&logits)?;
                }
            }
            // In the order of the batches. A GPU adds up its own and is asked once.
            if !device.is_cuda() {
                let own = batch.is_some().then(|| std::mem::take(&mut meter).tally()).transpose()?;
                together.tallies(own.into_iter().collect())?.iter().for_each(|tally| sum.join(tally));
            }
            images = total.min(images + turns.micro_batches() * recipe.batch_size);
            let epoch = (self.progress.epoch + 1).min(recipe.epochs);
            observer.on_evaluate(&EvaluateProgress { epoch, epochs: recipe.epochs, split, images, total });
        }
        if self.run.device.is_cuda() {
            together.tallies(vec![meter.tally()?])?.iter().for_each(|tally| sum.join(tally));
        }
        Ok(Some(sum))
    }

    /// Writes what an epoch leaves behind. The checkpoint comes last: all that it says has been done is on disk.
    fn end_epoch(&mut self, eval: Tally, state: State, eval_seconds: f64) -> Result<()> {
        if !eval.loss_sum.is_finite() {
            return Err(self.diverged(&format!("the {} loss", self.run.recipe.eval_split())));
        }
        let Self { run, progress, .. } = self;
        let recipe = &run.recipe;
        let epoch = progress.epoch + 1;
        let best = progress.best.is_none_or(|best| eval.top1 > best.top1);
        let row = EpochMetrics {
            epoch,
            learning_rate: progress.learning_rate,
            train_loss: progress.tally.loss(),
            train_top1: progress.tally.top1(),
            eval_loss: eval.loss(),
            eval_top1: eval.top1(),
            eval_top5: eval.top5(),
            seconds: progress.seconds + eval_seconds,
            images_per_second: progress.tally.images as f64 / progress.seconds,
            best,
        };
        // As it will be read back, so that a run that was resumed knows the same as one that was not.
        let row = EpochMetrics::from_csv(&row.to_csv())?;
        progress.rows.push(row);
        if best {
            progress.best = Some(Best { epoch, top1: eval.top1 });
        }
        let every = recipe.checkpoint_every;
        let last = self.is_over();
        if self.run.together.writes() {
            self.results.write(&self.progress, &state, last)?;
        }

        let progress = &mut self.progress;
        (progress.epoch, progress.step) = (epoch, 0);
        (progress.tally, progress.seconds) = (Tally::default(), 0.0);
        if last || (every != 0 && epoch.is_multiple_of(every)) {
            self.write_checkpoint()?;
        }
        tracing::info!(
            epoch = row.epoch,
            eval_loss = row.eval_loss,
            eval_top1 = row.eval_top1,
            "epoch ended"
        );
        self.log(|logs| logs.epoch(&row))?;
        self.run.observer.on_epoch(&row);
        Ok(())
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf> {
        let folder = self.folder.checkpoints();
        let path = checkpoint::path(&folder, &self.progress);
        let average = self.average.as_ref().map_or(Ok(Vec::new()), OptimizerState::state)?;
        let parts = [("model", self.state()?), ("optimizer", self.sam.state()?), ("average", average)];
        let after = format!("epoch {} and {} steps", self.progress.epoch, self.progress.step);
        self.run.together.check_replicas(&after, &parts)?;
        if self.run.together.writes() {
            std::fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
            checkpoint::write(&folder, &self.progress, &parts)?;
            tracing::info!(path = %path.display(), "wrote a checkpoint");
            self.log(|logs| logs.checkpoint(&path))?;
            self.run.observer.on_checkpoint(&path);
        }
        // No rank trains on, or ends, before it is there.
        self.run.together.meet()?;
        Ok(path)
    }
}
