//! Every hyper-parameter of a run, as one value that reads from and writes to TOML.

use std::fmt;
use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use wrn_sam_data::{
    Augmentation, Cutout, Mix, Policy, RandomCrop, RandomHorizontalFlip, Source, Statistics, Variant,
};
use wrn_sam_kernels::{OutOfRange, Precision};
use wrn_sam_models::WideResNetConfig;
use wrn_sam_optim::{CosineWithWarmup, MultiStepLr, SamConfig, Schedule, SgdConfig};

use crate::checkpoint;
use crate::error::{Error, Result};

/// Which images a run trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataChoice {
    /// Whatever is there; a run writes down what it was.
    #[default]
    Auto,
    /// The real CIFAR-10.
    Cifar10,
    /// The real CIFAR-100.
    Cifar100,
    /// The synthetic set.
    Synthetic,
}

impl DataChoice {
    /// What images from `source` are.
    pub fn of(source: &Source) -> Self {
        match source.variant {
            _ if source.is_synthetic() => Self::Synthetic,
            Variant::Cifar10 => Self::Cifar10,
            Variant::Cifar100 => Self::Cifar100,
        }
    }
}

/// The milestones of [`ScheduleKind::Step`], in percent of the epochs.
const STEP_PERCENT: [usize; 4] = [20, 50, 70, 85];
const STEP_GAMMA: f64 = 0.2;

/// How the learning rate moves over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// [`MultiStepLr`]: times 0.2 at 20 %, 50 %, 70 % and 85 % of the epochs.
    #[default]
    Step,
    /// [`CosineWithWarmup`]: a linear rise over `warmup_epochs`, then half a cosine down to zero.
    Cosine,
}

/// What happens to a training image. Every kind begins with crop and flip; every kind but [`Basic`](Self::Basic) ends with
/// the recipe's cutout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// Only crop and flip.
    Basic,
    /// The reference's.
    #[default]
    Cutout,
    /// AutoAugment's policy for CIFAR.
    AutoAugment,
    /// RandAugment by `randaugment_operations` and `randaugment_magnitude`.
    RandAugment,
    /// TrivialAugment (wide).
    TrivialAugment,
}

/// Every hyper-parameter of a run.
///
/// The default is [`Recipe::reference`]. In TOML every field is a key of the same name; a file may leave out any of
/// them, which then has the reference's value, and an unknown key is an error.
///
/// ```
/// use wrn_sam_train::Recipe;
///
/// let recipe = Recipe::from_toml("depth = 16\nwidth_factor = 4\nepochs = 30")?;
/// assert_eq!((recipe.depth, recipe.batch_size), (16, 128));
/// assert_eq!(Recipe::from_toml(&recipe.to_toml()?)?, recipe);
///
/// let error = Recipe::from_toml("depth = 33").unwrap_err();
/// assert_eq!(error.to_string(), "depth = 33: must be 6n + 4 from 10 to 1000: 10, 16, 22, 28, 34, 40, …");
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Layers of the network: 6n + 4, from 10 to 1000.
    pub depth: usize,
    /// How many times wider than a plain ResNet: 1 to 1000.
    pub width_factor: usize,
    /// Share of activations dropped between a unit's convolutions: [0, 1).
    pub dropout: f64,

    /// Which images to train on.
    pub data: DataChoice,
    /// Train on only the first N images; 0 for all of them.
    pub train_limit: usize,
    /// Test on only the first N images; 0 for all of them.
    pub test_limit: usize,
    /// What happens to a training image.
    pub augment: Augment,
    /// Zeros put around an image before a random 32x32 window is cut out: 0 to 32 pixels; 0 for no crop.
    pub crop_padding: usize,
    /// Probability of a horizontal flip: [0, 1].
    pub flip_probability: f64,
    /// Operations that RandAugment does to an image: 0 to 14.
    pub randaugment_operations: usize,
    /// How strongly it does them: 0 to 30.
    pub randaugment_magnitude: usize,
    /// Side of the square that cutout blanks: 1 to 64 pixels.
    pub cutout_size: usize,
    /// Probability of a cutout: [0, 1]. The papers of the policies have 1.
    pub cutout_probability: f64,
    /// Mixup's alpha: 0 to 1000; 0 for no mixup.
    pub mixup_alpha: f64,
    /// CutMix's alpha: 0 to 1000; 0 for no CutMix. With both above 0, each batch gets one of them, at even odds.
    pub cutmix_alpha: f64,
    /// Probability that a batch is mixed, where there is anything to mix it by: [0, 1].
    pub mix_probability: f64,

    /// Passes over the training images: 1 to 1,000,000.
    pub epochs: usize,
    /// Images per step: 1 to 65,536. Evaluation takes as many at a time.
    pub batch_size: usize,
    /// Learning rate the schedule starts from: above 0.
    pub learning_rate: f64,
    /// How the learning rate moves.
    pub schedule: ScheduleKind,
    /// Epochs of the cosine schedule's linear rise: 0 to `epochs`. The step schedule has none.
    pub warmup_epochs: usize,
    /// Momentum of SGD: [0, 1).
    pub momentum: f64,
    /// Dampening of SGD's momentum: [0, 1].
    pub dampening: f64,
    /// Nesterov's momentum; wants `momentum` above 0 and `dampening` 0.
    pub nesterov: bool,
    /// L2 penalty of SGD, on every parameter: 0 or more.
    pub weight_decay: f64,
    /// Radius of SAM's neighborhood: 0 or more; 0 is plain SGD at twice the price.
    pub rho: f64,
    /// Measure the neighborhood relative to each weight (ASAM).
    pub adaptive: bool,
    /// Exponent of the norm the radius is measured in: above 1; infinity lets every weight move by `rho`.
    pub norm: f64,
    /// Probability mass taken from the label and spread over the other classes: [0, 1).
    pub label_smoothing: f64,

    /// The numbers that convolutions take: f32, and on an NVIDIA GPU also tf32 or bf16. Weights, batch statistics, loss
    /// and optimizer are f32 in any case.
    #[serde(with = "precision_name")]
    pub precision: Precision,
    /// The same bits in every run on one kind of GPU with one version of its libraries, which may cost speed; on the CPU
    /// they are the same in any case.
    pub deterministic: bool,
    /// The one seed of initialization, order, augmentation and dropout: 0 to 2^63 - 1.
    pub seed: u64,
    /// CPU threads; 0 for all. No result depends on it.
    pub threads: usize,
    /// Write a checkpoint after every N epochs; 0 for only the last one. No result depends on it.
    pub checkpoint_every: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self::reference()
    }
}

impl Recipe {
    /// The reference: WRN-34-10 for 200 epochs, reported to reach top-1 84.36 % and top-5 96.65 %.
    pub fn reference() -> Self {
        Self {
            depth: 34,
            width_factor: 10,
            dropout: 0.0,
            data: DataChoice::Auto,
            train_limit: 0,
            test_limit: 0,
            augment: Augment::Cutout,
            crop_padding: 4,
            flip_probability: 0.5,
            randaugment_operations: 2,
            randaugment_magnitude: 9,
            cutout_size: 16,
            cutout_probability: 0.5,
            mixup_alpha: 0.0,
            cutmix_alpha: 0.0,
            mix_probability: 1.0,
            epochs: 200,
            batch_size: 128,
            learning_rate: 0.1,
            schedule: ScheduleKind::Step,
            warmup_epochs: 0,
            momentum: 0.9,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 5e-4,
            rho: 0.1,
            adaptive: false,
            norm: 2.0,
            label_smoothing: 0.1,
            precision: Precision::F32,
            deterministic: false,
            seed: 17,
            threads: 0,
            checkpoint_every: 5,
        }
    }

    /// The reference's values with a small network and few epochs: it visibly learns within minutes on two CPU cores.
    pub fn quick() -> Self {
        Self { depth: 10, width_factor: 1, epochs: 4, ..Self::reference() }
    }

    /// Reads and validates a recipe; what `text` leaves out has the reference's value.
    ///
    /// # Errors
    /// [`Error::Toml`] for a syntax error, an unknown key or a wrong type; [`Error::OutOfRange`] for a value out
    /// of range.
    pub fn from_toml(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text)
            .map_err(|error| Error::Toml { message: error.to_string().trim_end().into() })?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// [`Recipe::from_toml`] of a file.
    ///
    /// # Errors
    /// Those of [`Recipe::from_toml`] with the path, and [`Error::Io`].
    pub fn from_toml_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::from_toml(&text)
            .map_err(|source| Error::RecipeFile { path: path.into(), source: source.into() })
    }

    /// The recipe of the run in `folder`, to resume it with: from `recipe.toml`, or from the newest checkpoint where that
    /// file was removed.
    ///
    /// # Errors
    /// [`Error::NotARun`] where there is neither; those of [`Recipe::from_toml_file`] and [`checkpoint::newest`].
    pub fn from_run(folder: &Path) -> Result<Self> {
        let path = folder.join("recipe.toml");
        if path.is_file() {
            return Self::from_toml_file(&path);
        }
        match checkpoint::newest(&folder.join("checkpoints"))? {
            Some(newest) => Self::from_toml(&newest.checkpoint.progress.recipe),
            None => Err(Error::NotARun { path: folder.into() }),
        }
    }

    /// The recipe as TOML, every key in it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a value out of range, so that what is written can always be read.
    pub fn to_toml(&self) -> Result<String> {
        self.validate()?;
        toml::to_string(self).map_err(|error| Error::Toml { message: error.to_string() })
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], which names the key, the value and the range, for the first value out of range.
    pub fn validate(&self) -> Result<()> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let probability = |x: f64| (0.0..=1.0).contains(&x);
        let Self { depth, width_factor, dropout, epochs, batch_size, learning_rate, .. } = *self;
        let Self { crop_padding, flip_probability, cutout_size, cutout_probability, .. } = *self;
        let Self { randaugment_operations, randaugment_magnitude, .. } = *self;
        let Self { mixup_alpha, cutmix_alpha, mix_probability, .. } = *self;
        let alpha = |x: f64| (0.0..=1000.0).contains(&x);
        let Self { warmup_epochs, momentum, dampening, nesterov, weight_decay, .. } = *self;
        let Self { rho, norm, label_smoothing, seed, threads, .. } = *self;
        let depth_fits = (10..=1000).contains(&depth) && depth % 6 == 4;
        let nesterov_fits = !nesterov || (momentum > 0.0 && dampening == 0.0);

        OutOfRange::check("depth", depth, depth_fits, "6n + 4 from 10 to 1000: 10, 16, 22, 28, 34, 40, …")?;
        OutOfRange::check(
            "width_factor",
            width_factor,
            (1..=1000).contains(&width_factor),
            "from 1 to 1000",
        )?;
        OutOfRange::check("dropout", dropout, share(dropout), "at least 0 and less than 1")?;
        OutOfRange::check("crop_padding", crop_padding, crop_padding <= 32, "from 0 to 32")?;
        OutOfRange::check(
            "flip_probability",
            flip_probability,
            probability(flip_probability),
            "from 0 to 1",
        )?;
        OutOfRange::check(
            "randaugment_operations",
            randaugment_operations,
            randaugment_operations <= 14,
            "from 0 to 14",
        )?;
        OutOfRange::check(
            "randaugment_magnitude",
            randaugment_magnitude,
            randaugment_magnitude <= 30,
            "from 0 to 30",
        )?;
        OutOfRange::check("cutout_size", cutout_size, (1..=64).contains(&cutout_size), "from 1 to 64")?;
        OutOfRange::check(
            "cutout_probability",
            cutout_probability,
            probability(cutout_probability),
            "from 0 to 1",
        )?;
        OutOfRange::check("mixup_alpha", mixup_alpha, alpha(mixup_alpha), "from 0 to 1000")?;
        OutOfRange::check("cutmix_alpha", cutmix_alpha, alpha(cutmix_alpha), "from 0 to 1000")?;
        OutOfRange::check("mix_probability", mix_probability, probability(mix_probability), "from 0 to 1")?;
        OutOfRange::check("epochs", epochs, (1..=1_000_000).contains(&epochs), "from 1 to 1000000")?;
        OutOfRange::check("batch_size", batch_size, (1..=65_536).contains(&batch_size), "from 1 to 65536")?;
        OutOfRange::check("learning_rate", learning_rate, positive(learning_rate), "a number above 0")?;
        OutOfRange::check("warmup_epochs", warmup_epochs, warmup_epochs <= epochs, "at most `epochs`")?;
        OutOfRange::check("momentum", momentum, share(momentum), "at least 0 and less than 1")?;
        OutOfRange::check("dampening", dampening, probability(dampening), "from 0 to 1")?;
        OutOfRange::check(
            "nesterov",
            nesterov,
            nesterov_fits,
            "false unless `momentum` is above 0 and `dampening` is 0",
        )?;
        OutOfRange::check(
            "weight_decay",
            weight_decay,
            not_negative(weight_decay),
            "a number of at least 0",
        )?;
        OutOfRange::check("rho", rho, not_negative(rho), "a number of at least 0")?;
        OutOfRange::check("norm", norm, norm > 1.0, "above 1 (inf is allowed)")?;
        OutOfRange::check(
            "label_smoothing",
            label_smoothing,
            share(label_smoothing),
            "at least 0 and less than 1",
        )?;
        // TOML's integers are signed.
        OutOfRange::check("seed", seed, i64::try_from(seed).is_ok(), "from 0 to 9223372036854775807")?;
        OutOfRange::check("threads", threads, threads <= 1024, "from 0 (all) to 1024")?;
        Ok(())
    }

    /// Checks that the recipe can run on `device`: every precision but f32 needs an NVIDIA GPU. Training does so too;
    /// this is for asking before any data are read.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn check_device(&self, device: &Device) -> Result<()> {
        let fits = self.precision == Precision::F32 || device.is_cuda();
        Ok(OutOfRange::check("precision", self.precision, fits, "f32 on any device but an NVIDIA GPU")?)
    }

    /// Every key in which the two recipes differ and a run's results with them: all but `threads` and
    /// `checkpoint_every`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if either recipe is invalid.
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>> {
        let (ours, theirs) = (self.results_only()?, other.results_only()?);
        let differs = |(key, value): &(&String, &toml::Value)| theirs.get(*key) != Some(*value);
        let difference = |(key, value): (&String, &toml::Value)| Difference {
            key: key.clone(),
            ours: value.to_string(),
            theirs: theirs.get(key).map(toml::Value::to_string).unwrap_or_default(),
        };
        Ok(ours.iter().filter(differs).map(difference).collect())
    }

    /// The keys that a run's results depend on, as a table.
    pub(crate) fn results_only(&self) -> Result<toml::Table> {
        self.validate()?;
        let table =
            toml::Table::try_from(self).map_err(|error| Error::Toml { message: error.to_string() })?;
        let changes_results = |key: &String| !["threads", "checkpoint_every"].contains(&key.as_str());
        Ok(table.into_iter().filter(|(key, _)| changes_results(key)).collect())
    }

    /// The network, for so many classes.
    pub fn network(&self, classes: usize) -> WideResNetConfig {
        WideResNetConfig::new(self.depth, self.width_factor)
            .with_dropout(self.dropout)
            .with_in_channels(wrn_sam_data::IMAGE_CHANNELS)
            .with_classes(classes)
    }

    /// The augmentation of the training images.
    pub fn augmentation(&self, statistics: Statistics) -> Augmentation {
        let policy = match self.augment {
            Augment::Basic | Augment::Cutout => None,
            Augment::AutoAugment => Some(Policy::AutoAugment),
            Augment::RandAugment => Some(Policy::RandAugment {
                operations: self.randaugment_operations,
                magnitude: self.randaugment_magnitude,
            }),
            Augment::TrivialAugment => Some(Policy::TrivialAugment),
        };
        let cutout = (self.augment != Augment::Basic && self.cutout_probability > 0.0)
            .then_some(Cutout { size: self.cutout_size, p: self.cutout_probability });
        Augmentation::none(statistics)
            .with_crop(RandomCrop { padding: self.crop_padding })
            .with_flip(RandomHorizontalFlip { p: self.flip_probability })
            .with_policy(policy)
            .with_cutout(cutout)
    }

    /// How a batch's images are mixed, if they are.
    pub fn mix(&self) -> Option<Mix> {
        let Self { mixup_alpha, cutmix_alpha, mix_probability: p, .. } = *self;
        (p > 0.0 && (mixup_alpha > 0.0 || cutmix_alpha > 0.0))
            .then_some(Mix::new(mixup_alpha, cutmix_alpha).with_p(p))
    }

    /// The base optimizer.
    pub fn sgd(&self) -> SgdConfig {
        SgdConfig::new(self.learning_rate)
            .with_momentum(self.momentum)
            .with_dampening(self.dampening)
            .with_nesterov(self.nesterov)
            .with_weight_decay(self.weight_decay)
    }

    /// The ascent around it.
    pub fn sam(&self) -> SamConfig {
        SamConfig::new(self.rho).with_adaptive(self.adaptive).with_p(self.norm)
    }

    /// The learning rate's way.
    pub fn learning_rates(&self) -> Box<dyn Schedule> {
        match self.schedule {
            ScheduleKind::Step => {
                let milestones = STEP_PERCENT.map(|percent| (self.epochs * percent).div_ceil(100));
                Box::new(MultiStepLr::new(self.learning_rate, milestones, STEP_GAMMA))
            }
            ScheduleKind::Cosine => {
                Box::new(CosineWithWarmup::new(self.learning_rate, self.epochs, self.warmup_epochs))
            }
        }
    }
}

/// A precision in TOML: its name.
mod precision_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use wrn_sam_kernels::Precision;

    pub fn serialize<S: Serializer>(precision: &Precision, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(precision)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Precision, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// One key in which two recipes differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// The value asked for.
    pub ours: String,
    /// The value found in the run.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {} here but {} there", self.key, self.ours, self.theirs)
    }
}
