//! A run: its parts, how it begins and how it is resumed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use candle_nn::{Optimizer, VarBuilder};
use wrn_sam_collective::Collective;
use wrn_sam_data::Dataset;
use wrn_sam_kernels::{Cpu, OutOfRange};
use wrn_sam_models::WideResNet;
use wrn_sam_optim::{Group, OptimizerState, Schedule, Sgd, Variables};

use crate::checkpoint;
use crate::classifier::Classifier;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::lengthen::{self, Lengthening};
use crate::metrics::{EpochMetrics, FinalTest};
use crate::observer::Observer;
use crate::recipe::{DataChoice, Recipe};
use crate::run_folder::RunFolder;
use crate::session::Session;
use crate::together::Together;

/// Trains a network by a recipe and leaves all results in a folder.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let out = folder.path().join("run");
/// use wrn_sam_data::Dataset;
/// use wrn_sam_train::{Outcome, Recipe, Trainer};
///
/// let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\nepochs = 1\nbatch_size = 32")?;
/// let data = Dataset::synthetic(recipe.seed, 64, 32);
/// let outcome = Trainer::new(recipe, data).run(&out)?;
/// assert!(matches!(outcome, Outcome::Completed { metrics, .. } if metrics.len() == 1));
/// assert!(out.join("model.safetensors").is_file());
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
///
/// The folder of a run:
///
/// ```text
/// recipe.toml                         every value in force
/// source.toml                         where the images come from, with MD5 sums
/// metrics.csv                         a row an epoch, written anew each epoch
/// log.jsonl                           what happened when, an object a line
/// loss.svg top1.svg top5.svg          the curves, drawn anew each epoch
/// model.safetensors                   the weights after the last epoch, under PyTorch's names
/// best.safetensors                    those of the epoch with the best top-1 on the images of the recipe's
///                                     `validation`, or without such images on the test images, the first of equals
/// ema.safetensors swa.safetensors     at the end: an average of the weights, where the recipe asks for one
/// test.csv                            at the end: loss, top-1 and top-5 of all of them on the test images
/// confusion.csv confusion.svg         which class was taken for which, and in classes.csv the accuracy of each class: by the
/// classes.csv                         best weights if they were chosen on validation images, else by the last
/// report.html                         all that on one page, with mistakes, recipe and system
/// checkpoints/epoch-EEEE-step-SSSSSS.safetensors
///                                     after E epochs and S steps of the next; the newest two are kept
/// ```
///
/// One seed fixes the weights, and every figure but the time, whatever the number of threads. A run that was
/// interrupted, or killed at any moment, ends the same when it is [resumed](Trainer::resume).
///
/// Unless told otherwise, the network is the recipe's [`WideResNet`], the optimizer [`Sgd`] under SAM, the loss the
/// smoothed one and the schedule the recipe's. Any [`Classifier`], any optimizer that can save its state, any loss and
/// any schedule can take their place; the recipe's values for what was replaced are then of no effect.
#[must_use = "a trainer does nothing until `run` or `resume`"]
pub struct Trainer<'a, M = WideResNet, O = Sgd> {
    pub(crate) run: Run<'a>,
    pub(crate) network: Builder<'a, VarBuilder<'static>, M>,
    pub(crate) optimizer: Builder<'a, Vec<(String, Var)>, O>,
}

/// What makes a network or an optimizer.
pub(crate) type Builder<'a, From, To> = Box<dyn FnOnce(From, &Setup<'_>) -> Result<To> + 'a>;

/// A loss: of logits `[N, classes]` and labels `[N]` in u32, one number an image, `[N]`.
pub(crate) type Loss<'a> = Box<dyn Fn(&Tensor, &Tensor) -> Result<Tensor> + 'a>;

/// What a network or an optimizer may want to know when it is made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Setup<'a> {
    /// Every value in force.
    pub recipe: &'a Recipe,
    /// Classes of the images.
    pub classes: usize,
    /// The images' side in pixels.
    pub image_size: usize,
    /// The run's threads on the CPU.
    pub cpu: &'a Cpu,
    /// The parameters of normalization layers, and biases, which are often spared weight decay. None before the network is
    /// made.
    pub norms_and_biases: &'a [Var],
}

/// A run apart from its network and its optimizer.
pub(crate) struct Run<'a> {
    pub(crate) recipe: Recipe,
    pub(crate) data: Dataset,
    pub(crate) device: Device,
    pub(crate) observer: Box<dyn Observer + 'a>,
    pub(crate) control: Control,
    /// Another loss than the smoothed one of the recipe.
    pub(crate) loss: Option<Loss<'a>>,
    /// Another schedule than the recipe's.
    pub(crate) schedule: Option<Box<dyn Schedule + 'a>>,
    pub(crate) initial_weights: Option<PathBuf>,
    pub(crate) lengthening: Lengthening,
    pub(crate) together: Together,
    pub(crate) tensorboard: bool,
    pub(crate) card: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Outcome {
    /// All epochs were trained, or as many as the recipe's `patience` asks for.
    #[non_exhaustive]
    Completed {
        /// One row an epoch.
        metrics: Vec<EpochMetrics>,
        /// What the last weights, and the best ones, do on the test images.
        tests: Vec<FinalTest>,
    },
    /// It was [stopped](Control::stop) and can be resumed.
    Interrupted {
        /// The checkpoint written for that.
        checkpoint: PathBuf,
    },
}

impl<'a> Trainer<'a> {
    /// Trains by `recipe` on `data`, on the CPU unless told otherwise.
    pub fn new(recipe: Recipe, data: Dataset) -> Self {
        let run = Run {
            recipe,
            data,
            device: Device::Cpu,
            observer: Box::new(()),
            control: Control::default(),
            loss: None,
            schedule: None,
            initial_weights: None,
            lengthening: Lengthening::default(),
            together: Together::default(),
            tensorboard: false,
            card: false,
        };
        Self { run, network: Box::new(wide_resnet), optimizer: Box::new(sgd) }
    }
}

fn wide_resnet(vb: VarBuilder<'static>, setup: &Setup<'_>) -> Result<WideResNet> {
    let recipe = setup.recipe;
    let model = WideResNet::new(&recipe.network(setup.classes), vb)?;
    let model = model.with_cpu(setup.cpu.clone()).with_precision(recipe.precision)?;
    // `step` takes gradients as they are handed over.
    Ok(model.with_deterministic(recipe.deterministic).with_handed_over_gradients())
}

fn sgd(parameters: Vec<(String, Var)>, setup: &Setup<'_>) -> Result<Sgd> {
    let sgd = Sgd::named(parameters, setup.recipe.sgd())?.with_cpu(setup.cpu.clone());
    if setup.recipe.decay_norms {
        return Ok(sgd);
    }
    Ok(sgd.with_group(setup.norms_and_biases, Group::new().with_weight_decay(0.0))?)
}

impl<'a, M, O> Trainer<'a, M, O> {
    /// Trains on `device`.
    pub fn with_device(mut self, device: Device) -> Self {
        self.run.device = device;
        self
    }

    /// Tells `observer` how the run goes.
    pub fn with_observer(mut self, observer: impl Observer + 'a) -> Self {
        self.run.observer = Box::new(observer);
        self
    }

    /// Follows the requests of `control` during the run: to stop, or to write a checkpoint.
    pub fn with_control(mut self, control: Control) -> Self {
        self.run.control = control;
        self
    }

    /// Trains the network that `build` makes from the builder: every value it asks for there is trained, saved and
    /// resumed under its name. Their first values are drawn from the recipe's seed.
    pub fn with_network<N: Classifier, E>(
        self,
        build: impl FnOnce(VarBuilder<'static>, &Setup<'_>) -> std::result::Result<N, E> + 'a,
    ) -> Trainer<'a, N, O>
    where
        Error: From<E>,
    {
        let Self { run, optimizer, .. } = self;
        Trainer { run, network: Box::new(|vb, setup| Ok(build(vb, setup)?)), optimizer }
    }

    /// Steps with the optimizer that `build` makes for the network's trainable parameters, under SAM. Each epoch sets
    /// its learning rate.
    pub fn with_optimizer<P: Optimizer + OptimizerState + Variables, E>(
        self,
        build: impl FnOnce(Vec<(String, Var)>, &Setup<'_>) -> std::result::Result<P, E> + 'a,
    ) -> Trainer<'a, M, P>
    where
        Error: From<E>,
    {
        let Self { run, network, .. } = self;
        Trainer { run, network, optimizer: Box::new(|parameters, setup| Ok(build(parameters, setup)?)) }
    }

    /// Trains and measures by `loss`, which gives one number an image, `[N]`, of logits `[N, classes]` and labels `[N]`.
    pub fn with_loss<E>(
        mut self,
        loss: impl Fn(&Tensor, &Tensor) -> std::result::Result<Tensor, E> + 'a,
    ) -> Self
    where
        Error: From<E>,
    {
        self.run.loss = Some(Box::new(move |logits, labels| Ok(loss(logits, labels)?)));
        self
    }

    /// Takes each epoch's learning rate from `schedule`.
    pub fn with_schedule(mut self, schedule: impl Schedule + 'a) -> Self {
        self.run.schedule = Some(Box::new(schedule));
        self
    }

    /// Begins a run with the weights in the file `path`, of any kind that
    /// [`Parameters::load`](wrn_sam_models::Parameters::load) reads, rather than with those that the seed gives. The
    /// run's source.toml names the file.
    pub fn with_initial_weights(mut self, path: impl Into<PathBuf>) -> Self {
        self.run.initial_weights = Some(path.into());
        self
    }

    /// Trains together with other ranks: processes that each make this call, with the same recipe and data, and then the same
    /// [`run`](Self::run) or [`resume`](Self::resume). Each step's micro-batches are shared between them, and so is the
    /// evaluation. Rank 0 writes all files and tells its observer; the others read only the data, and the file of
    /// [`with_initial_weights`](Self::with_initial_weights), which must be there for each of them.
    ///
    /// On the CPU, weights, metrics (but the times) and checkpoints do not depend on the number of ranks, and a run can be
    /// resumed with another. An error on one rank ends the run on all. A request to one rank's
    /// [`Control`] is followed by all after the same step.
    pub fn with_ranks(mut self, ranks: Arc<dyn Collective>) -> Self {
        self.run.together = Together::new(ranks);
        self
    }

    /// Also writes TensorBoard's event files, into the run's folder `tensorboard`.
    pub fn with_tensorboard(mut self, tensorboard: bool) -> Self {
        self.run.tensorboard = tensorboard;
        self
    }

    /// Also lays out, at the end, the run's folder `hub` as a model repository of the Hugging Face hub: README.md, config.json
    /// and model.safetensors, the weights that report.html shows.
    pub fn with_card(mut self, card: bool) -> Self {
        self.run.card = card;
        self
    }

    /// Says what [`resume`](Self::resume) does where the recipe has more epochs than the run had.
    pub fn with_lengthening(mut self, lengthening: Lengthening) -> Self {
        self.run.lengthening = lengthening;
        self
    }
}

impl<M: Classifier, O: Optimizer + OptimizerState + Variables> Trainer<'_, M, O> {
    /// Begins a run in the folder `out`, which must be new or empty.
    ///
    /// # Errors
    /// Before training: [`Error::OutOfRange`], [`Error::UnsuitableData`], [`Error::FolderNotEmpty`], [`Error::Io`].
    /// While training: [`Error::Step`] where a gradient, the loss or a weight is no longer finite, and [`Error::Io`]; the
    /// run can then be resumed from its newest checkpoint.
    ///
    /// On several ranks also [`Error::OtherRank`] and [`Error::Collective`] before training, and [`Error::Collective`] where
    /// another rank fails.
    pub fn run(self, out: &Path) -> Result<Outcome> {
        let together = self.run.together.clone();
        together.fail(self.begin(out))
    }

    fn begin(mut self, out: &Path) -> Result<Outcome> {
        self.run.together.settle(&mut self.run.recipe);
        self.run.settle()?;
        let folder = self.run.folder(out, RunFolder::create)?;
        Session::begin(self, folder)?.train()
    }

    /// Resumes the run in the folder `out` from its newest checkpoint that is whole, or from the start where nothing was
    /// trained yet.
    ///
    /// The recipe must be that of the run ([`Recipe::from_run`]); only `threads` and `checkpoint_every` may differ, and
    /// `epochs` may be more (see [`Lengthening`]). The network and the optimizer must be those of the run. Results of
    /// epochs after the checkpoint stay until the run reaches those epochs again; files that were removed from the folder are
    /// written again as far as the checkpoint has them.
    ///
    /// # Errors
    /// [`Error::NotARun`], [`Error::OtherRecipe`], [`Error::CannotLengthen`], [`Error::OtherData`],
    /// [`Error::NoUsableCheckpoint`], [`Error::CheckpointsMissing`], with every file as it was; those of
    /// [`run`](Self::run).
    pub fn resume(self, out: &Path) -> Result<Outcome> {
        let together = self.run.together.clone();
        together.fail(self.go_on(out))
    }

    fn go_on(mut self, out: &Path) -> Result<Outcome> {
        self.run.settle()?;
        let folder = self.run.folder(out, RunFolder::open)?;
        let writes = self.run.together.writes();
        let newest = if writes { checkpoint::newest(&folder.checkpoints())? } else { None };
        let newest = self.run.together.share_newest(newest)?;
        if writes && let Some(theirs) = folder.recipe()? {
            let progress = newest.as_ref().map(|newest| &newest.checkpoint.progress);
            lengthen::check(&folder.file("recipe.toml"), &self.run, &theirs, progress)?;
        }
        let session = match newest {
            Some(newest) => Session::restore(self, folder, newest)?,
            None => {
                if writes {
                    folder.check_untrained()?;
                }
                Session::begin(self, folder)?
            }
        };
        session.train()
    }
}

impl Run<'_> {
    /// The run's folder, by `open` on the rank that writes to it. Only that rank tells its observer how the run goes.
    fn folder(&mut self, out: &Path, open: impl FnOnce(&Path) -> Result<RunFolder>) -> Result<RunFolder> {
        if self.together.writes() {
            return open(out);
        }
        self.observer = Box::new(());
        Ok(RunFolder::of_another_rank(out))
    }

    /// Checks recipe and data, and writes into the recipe what the data are.
    fn settle(&mut self) -> Result<()> {
        self.recipe.validate()?;
        self.recipe.check_device(&self.device)?;
        let found = DataChoice::of(&self.data.source);
        if ![DataChoice::Auto, found].contains(&self.recipe.data) {
            return Err(Error::UnsuitableData {
                what: "the recipe's `data` is not what was given to train on",
                found: format!("{found:?}"),
                expected: format!("{:?}", self.recipe.data),
            });
        }
        self.recipe.data = found;
        let (found, expected) = (self.data.image_size(), self.recipe.image_size);
        if found != expected {
            return Err(Error::UnsuitableData {
                what: "the images have another size than the recipe's `image_size`",
                found: format!("{found}x{found} pixels"),
                expected: format!("{expected}x{expected}"),
            });
        }
        let (held_out, images) = (self.recipe.validation, self.data.train.len());
        let fits = held_out < images.max(1);
        OutOfRange::check("validation", held_out, fits, "fewer than there are training images")?;
        for (what, split) in [("the training split", &self.data.train), ("the test split", &self.data.test)] {
            if split.is_empty() {
                let expected = "at least one image".into();
                return Err(Error::UnsuitableData { what, found: "no images".into(), expected });
            }
        }
        Ok(())
    }

    /// The learning rate of `epoch`, counted from 0.
    pub(crate) fn learning_rate(&self, epoch: usize) -> f64 {
        match &self.schedule {
            Some(schedule) => schedule.at(epoch),
            None => self.recipe.learning_rates().at(epoch),
        }
    }
}
