//! How a run begins and how it is resumed.

use std::path::Path;

use candle_core::{DType, Tensor};
use candle_nn::Optimizer;
use wrn_sam_data::{Augmentation, Loader, LoaderConfig, Share, Split, Statistics};
use wrn_sam_kernels::Cpu;
use wrn_sam_losses::smooth_cross_entropy;
use wrn_sam_models::Parameters;
use wrn_sam_optim::{OptimizerState, Sam, Variables};

use super::{Session, average};
use crate::checkpoint::{Newest, Progress};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::logs::Logs;
use crate::observer::{Resumed, Start, Warning};
use crate::provenance::Provenance;
use crate::recipe::{Perturb, Recipe};
use crate::results::Results;
use crate::run_folder::RunFolder;
use crate::run_source::{InitialWeights, RunSource};
use crate::tally::Meter;
use crate::trainer::{Run, Setup, Trainer};
use crate::{fingerprint, lengthen};

impl<'a, M: Classifier, O: Optimizer + OptimizerState + Variables> Session<'a, M, O> {
    /// Begins a run; the first checkpoint shows at once whether there is room for one.
    pub(crate) fn begin(trainer: Trainer<'a, M, O>, folder: RunFolder) -> Result<Self> {
        let images = fingerprint::of_images(&trainer.run.data);
        trainer.run.together.check_alike(&trainer.run.recipe, &images)?;
        let progress = Progress {
            recipe: trainer.run.recipe.to_toml()?,
            images,
            initial_weights: shared_initial_weights(&trainer.run, &folder)?,
            ..Progress::default()
        };
        let mut session = Self::new(trainer, folder, progress)?;
        if let Some(InitialWeights { path, .. }) = &session.progress.initial_weights {
            session.parameters.load(path)?;
            session.parameters.check_values()?;
        }
        session.write_recipe_and_source()?;
        session.announce(None)?;
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
        trainer.run.together.check_alike(&trainer.run.recipe, &expected)?;
        if progress.images != expected {
            return Err(Error::OtherData { path, found: progress.images, expected });
        }
        progress.recipe = trainer.run.recipe.to_toml()?;
        let lengthened = lengthen.record.is_some();
        progress.lengthened.extend(lengthen.record);

        let mut session = Self::new(trainer, folder, progress)?;
        session.parameters.load_state(&checkpoint.model)?;
        session.sam.load_state(&checkpoint.optimizer)?;
        if let Some(average) = &mut session.average {
            average.load_state(&checkpoint.average)?;
        }
        let state = session.state()?;
        session.write_recipe_and_source()?;
        session.announce(Some((&path, &skipped)))?;
        if let Some(warning) = lengthen.warning {
            session.warn(&warning)?;
        }
        if lengthened {
            session.write_checkpoint()?;
        }
        if session.run.together.writes()
            && let Some(epoch) = session.results.write_missing(&session.progress, &state)?
        {
            session.warn(&Warning::BestWeightsLost { epoch })?;
        }
        Ok(session)
    }

    fn new(trainer: Trainer<'a, M, O>, folder: RunFolder, progress: Progress) -> Result<Self> {
        let Trainer { mut run, network, optimizer } = trainer;
        // Those of the whole split, so that neither a limit nor a validation part changes how a pixel is seen.
        let statistics = Statistics::from_split(&run.data.train)?;
        let validation = match run.recipe.validation {
            0 => None,
            images => {
                let (rest, validation) = run.data.train.hold_out(images, run.recipe.seed)?;
                run.data.train = rest; // the whole is not needed any more
                Some(validation)
            }
        };
        let Run { recipe, data, device, .. } = &run;
        let cpu = match recipe.threads {
            0 => Cpu::shared().clone(),
            threads => Cpu::new(threads),
        };
        let config = LoaderConfig::default()
            .with_batch_size(recipe.batch_size / recipe.micro_batches)
            .with_threads(cpu.threads())
            .with_seed(recipe.seed);
        let (images, augmentation) =
            (limited(&data.train, recipe.train_limit), recipe.augmentation(statistics));
        let train = Loader::new(&images, augmentation, config)?.with_mix(recipe.mix())?.with_device(device);
        let ranks = run.together.ranks();
        let share = Share::of_rank(recipe.micro_batches, ranks.rank(), ranks.world())?;
        let config = config.with_batch_size(recipe.batch_size).with_shuffle(false);
        let unchanged = |images| {
            Ok::<_, Error>(Loader::new(&images, Augmentation::none(statistics), config)?.with_device(device))
        };
        let test = unchanged(limited(&data.test, recipe.test_limit))?;
        let validation = validation.map(unchanged).transpose()?;

        let parameters = Parameters::new(recipe.seed, DType::F32, device);
        let (classes, image_size) = (data.classes(), data.image_size());
        let setup = Setup { recipe, classes, image_size, cpu: &cpu, norms_and_biases: &[] };
        let model = network(parameters.var_builder(), &setup)?;
        if model.classes() != data.classes() {
            return Err(Error::UnsuitableData {
                what: "the network has other classes than the images",
                found: format!("{} of the network", model.classes()),
                expected: format!("{}", data.classes()),
            });
        }
        let setup = Setup { norms_and_biases: &parameters.norms_and_biases(), ..setup };
        let optimizer = optimizer(parameters.named_trainable(), &setup)?;
        let sam = Sam::new(optimizer, recipe.sam())?;
        let sam = match recipe.perturb {
            Perturb::All => sam,
            Perturb::Norms => sam.perturbing(&parameters.norms())?,
        };
        let sam = sam.with_buffers(parameters.buffers())?.with_cpu(cpu.clone());
        let sam = sam.with_ranks(ranks.clone(), recipe.exchange.into());
        let average = average::of(recipe, &parameters, &cpu)?;
        let smoothing = recipe.label_smoothing;
        let smoothed =
            move |logits: &Tensor, labels: &Tensor| Ok(smooth_cross_entropy(logits, labels, smoothing)?);
        let provenance = Provenance::new(model.name(), data, statistics, &progress.images, recipe);
        let results = Results::new(folder.path(), provenance);
        let guess = run.loss.is_none().then(|| (model.classes() as f64).ln());
        let loss = run.loss.take().unwrap_or_else(|| Box::new(smoothed));
        Ok(Self {
            run,
            folder,
            results,
            logs: None,
            train,
            share,
            validation,
            test,
            meter: Meter::default(),
            counted: Vec::new(),
            parameters,
            model,
            sam,
            average,
            cpu,
            loss,
            guess,
            progress,
        })
    }

    fn write_recipe_and_source(&self) -> Result<()> {
        if !self.run.together.writes() {
            return Ok(());
        }
        self.folder.write_recipe(&self.run.recipe)?;
        let Progress { images, initial_weights, lengthened, .. } = &self.progress;
        let mut source = RunSource::new(&self.run.data.source, images);
        (source.initial_weights, source.lengthened) = (initial_weights.clone(), lengthened.clone());
        source.write(self.folder.path())
    }

    fn announce(&mut self, resumed: Option<(&Path, &[Error])>) -> Result<()> {
        let steps = self.steps();
        let Self { run, progress, .. } = self;
        let resumed = resumed.map(|(checkpoint, skipped)| Resumed {
            checkpoint,
            epoch: progress.epoch,
            step: progress.step,
            skipped,
        });
        tracing::info!(folder = %self.folder.path().display(), batches = %self.train, ?resumed, "training");
        let start = Start {
            recipe: &run.recipe,
            source: &run.data.source,
            loader: &self.train,
            folder: self.folder.path(),
            parameters: self.parameters.parameter_count(),
            train_images: self.train.len(),
            validation_images: self.validation.as_ref().map_or(0, Loader::len),
            test_images: self.test.len(),
            steps,
            resumed,
        };
        if run.together.writes() {
            self.logs = Some(Logs::start(self.folder.path(), &start, run.tensorboard)?);
        }
        run.observer.on_start(&start);
        let source = &run.data.source;
        if source.is_unknown() {
            let warning = Warning::UnknownImages { source: source.to_string() };
            self.warn(&warning)?;
        }
        Ok(())
    }
}

/// The first `limit` images, or all where it is 0.
fn limited(split: &Split, limit: usize) -> Split {
    split.truncated(if limit == 0 { split.len() } else { limit })
}

/// [`initial_weights`], as rank 0 finds them.
fn shared_initial_weights(run: &Run<'_>, folder: &RunFolder) -> Result<Option<InitialWeights>> {
    let own = if run.together.writes() { initial_weights(run, folder)? } else { None };
    run.together.of_first(own)
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
