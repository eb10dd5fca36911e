//! Every hyper-parameter of a run, as one value.

mod choices;
mod file;
mod keys;
mod method;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use wrn_sam_data::{
    Augmentation, Cutout, IMAGE_CHANNELS, Mix, Policy, RandomCrop, RandomHorizontalFlip, Statistics,
};
use wrn_sam_kernels::{OutOfRange, Precision};
use wrn_sam_losses::check_smoothing;
use wrn_sam_models::WideResNetConfig;
use wrn_sam_optim::{CosineWithWarmup, MultiStepLr, Schedule, SgdConfig};

pub use choices::{Ascent, Augment, DataChoice, Exchange, Method, Perturb, RhoSchedule, ScheduleKind};
pub use file::Difference;

use keys::{keyed, precision_name};

use crate::error::Result;
use crate::metrics::EvalSplit;

/// The milestones of [`ScheduleKind::Step`], in percent of the epochs.
const STEP_PERCENT: [usize; 4] = [20, 50, 70, 85];
const STEP_GAMMA: f64 = 0.2;

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
/// let recipe = Recipe::quick().with(|recipe| recipe.epochs = 1);
/// assert_eq!(recipe.batch_size, 128);
///
/// let error = Recipe::from_toml("rho = -1").unwrap_err();
/// assert!(error.to_string().starts_with("rho = -1: must be"));
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Recipe {
    /// Layers of the network: 6n + 4, at least 10.
    pub depth: usize,
    /// How many times wider than a plain ResNet: at least 1.
    pub width_factor: usize,
    /// Share of activations dropped between a unit's convolutions: [0, 1).
    pub dropout: f64,

    /// Which images to train on.
    pub data: DataChoice,
    /// Train on only the first N images; 0 for all of them.
    pub train_limit: usize,
    /// Test on only the first N images; 0 for all of them.
    pub test_limit: usize,
    /// The images' side in pixels: 32 for CIFAR. Pictures of a folder are scaled to it: 1 to 1024.
    pub image_size: usize,
    /// Training images that are held out, the same share of each class: 0 or more, and fewer than there are. Every epoch is
    /// measured on them, and the best one chosen by them; the test images are then measured once, at the end. With 0 both is
    /// done on the test images, so the best epoch's figure is too good.
    pub validation: usize,
    /// What happens to a training image.
    pub augment: Augment,
    /// Zeros put around an image before a random window of its size is cut out: 0 to `image_size` pixels; 0 for no crop.
    pub crop_padding: usize,
    /// Probability of a horizontal flip: [0, 1].
    pub flip_probability: f64,
    /// Operations that RandAugment does to an image: 0 to 14.
    pub randaugment_operations: usize,
    /// How strongly it does them: 0 to 30.
    pub randaugment_magnitude: usize,
    /// Side of the square that cutout blanks: at least 1 pixel.
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
    /// End the run after N epochs that were no better than the best before them; 0 for never. Wants `validation` above 0.
    pub patience: usize,
    /// Images per step: 1 to 65,536. Evaluation takes the same number at a time.
    pub batch_size: usize,
    /// How gradients travel between ranks.
    pub exchange: Exchange,
    /// Learning rate the schedule starts from: above 0.
    pub learning_rate: f64,
    /// How the learning rate moves.
    pub schedule: ScheduleKind,
    /// Epochs of the cosine schedule's linear rise: 0 to `epochs`. The step schedule has none.
    pub warmup_epochs: usize,
    /// Momentum of SGD: 0 or more, and below 1 in practice.
    pub momentum: f64,
    /// Dampening of SGD's momentum: 0 in practice.
    pub dampening: f64,
    /// Nesterov's momentum; wants `momentum` above 0 and `dampening` 0.
    pub nesterov: bool,
    /// L2 penalty of SGD: 0 or more.
    pub weight_decay: f64,
    /// Whether normalization layers and biases have it too.
    pub decay_norms: bool,
    /// Largest norm of what SGD sees, before weight decay: 0 or more; 0 for no bound.
    pub clip: f64,

    /// The member of the SAM family.
    pub method: Method,
    /// Radius of SAM's neighborhood: 0 or more; with 0, a step is one of plain SGD, in one pass.
    pub rho: f64,
    /// How the radius moves over the epochs.
    pub rho_schedule: RhoSchedule,
    /// The least radius of the proportional schedule: 0 to `rho`.
    pub rho_min: f64,
    /// Measure the neighborhood relative to each weight, as davda54/sam does; the method `asam` is another convention.
    pub adaptive: bool,
    /// Exponent of the norm the radius is measured in: above 1; infinity lets every weight move by `rho`.
    pub norm: f64,
    /// Which parameters SAM moves in its ascent.
    pub perturb: Perturb,
    /// The first epoch with SAM, counted from 0; those before are SGD's (late SAM).
    pub sam_from_epoch: usize,
    /// Take SAM's second pass in every k-th step only: at least 1. LookSAM has a key of its own.
    pub sam_every: u64,
    /// Added to each weight's size by the method `asam`: 0 or more.
    pub asam_eta: f64,
    /// LookSAM's k: a second pass in every k-th step; at least 1.
    pub looksam_every: u64,
    /// LookSAM's alpha: how much of the last second pass the other steps use again; 0 or more.
    pub looksam_alpha: f64,
    /// F-SAM's sigma: how much of the average gradient is taken out of the ascent.
    pub fsam_sigma: f64,
    /// F-SAM's lambda: what part of the average stays each step; [0, 1).
    pub fsam_lambda: f64,
    /// VaSSO's theta: what part of the average each gradient gets; (0, 1].
    pub vasso_theta: f64,
    /// GSAM's alpha: how strongly the gap between the two losses is made small; 0 or more.
    pub gsam_alpha: f64,
    /// WSAM's gamma: the weight of the sharpness; [0, 1), where 0.5 is SAM.
    pub wsam_gamma: f64,
    /// Whether WSAM's sharpness goes past momentum and weight decay.
    pub wsam_decoupled: bool,
    /// Parts that each batch is divided into: a power of two that divides `batch_size`. Memory is that of one part. Several
    /// ranks share them; a new run on several ranks that is given 1 has one for each rank.
    pub micro_batches: usize,
    /// Whether all parts share one ascent, or each has its own (m-sharpness).
    pub ascent: Ascent,
    /// Decay of an exponential average of the weights, taken after each step: [0, 1); 0 for none. Its test result and
    /// `ema.safetensors` come at the end of the run.
    pub ema: f64,
    /// Average the weights at the ends of the last N epochs (SWA): 0 for none. Its test result and `swa.safetensors` come at
    /// the end of the run.
    pub swa_epochs: usize,

    /// Probability mass taken from the label and spread over the other classes: [0, 1).
    pub label_smoothing: f64,

    /// The type of number that convolutions compute with: f32, and on an NVIDIA GPU also tf32 or bf16. Weights, batch statistics, loss
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
            image_size: wrn_sam_data::IMAGE_SIZE,
            validation: 0,
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
            patience: 0,
            batch_size: 128,
            exchange: Exchange::F32,
            learning_rate: 0.1,
            schedule: ScheduleKind::Step,
            warmup_epochs: 0,
            momentum: 0.9,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 5e-4,
            decay_norms: true,
            clip: 0.0,
            method: Method::Sam,
            rho: 0.1,
            rho_schedule: RhoSchedule::Constant,
            rho_min: 0.0,
            adaptive: false,
            norm: 2.0,
            perturb: Perturb::All,
            sam_from_epoch: 0,
            sam_every: 1,
            asam_eta: 0.01,
            looksam_every: 5,
            looksam_alpha: 0.7,
            fsam_sigma: 1.0,
            fsam_lambda: 0.9,
            vasso_theta: 0.9,
            gsam_alpha: 0.4,
            wsam_gamma: 0.9,
            wsam_decoupled: true,
            micro_batches: 1,
            ascent: Ascent::Batch,
            ema: 0.0,
            swa_epochs: 0,
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

    /// This recipe with some values changed: `Recipe::quick().with(|recipe| recipe.epochs = 1)`.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value against its range. What a part of the workspace has a range for is asked of that part.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), which names the key, the value and the range, for the first value out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { epochs, batch_size, learning_rate, warmup_epochs, seed, threads, .. } = *self;
        let Self { mixup_alpha, cutmix_alpha, mix_probability: p, .. } = *self;
        OutOfRange::check("epochs", epochs, (1..=1_000_000).contains(&epochs), "from 1 to 1000000")?;
        let (size, most) = (self.image_size, wrn_sam_data::MAX_IMAGE_SIZE);
        OutOfRange::check("image_size", size, (1..=most).contains(&size), "from 1 to 1024")?;
        let padding = self.crop_padding;
        OutOfRange::check("crop_padding", padding, padding <= size, "at most `image_size`")?;
        let (patience, held_out) = (self.patience, self.validation > 0);
        OutOfRange::check("patience", patience, patience == 0 || held_out, "0 where `validation` is 0")?;
        OutOfRange::check("batch_size", batch_size, (1..=65_536).contains(&batch_size), "from 1 to 65536")?;
        OutOfRange::check("learning_rate", learning_rate, learning_rate > 0.0, "a number above 0")?;
        OutOfRange::check("warmup_epochs", warmup_epochs, warmup_epochs <= epochs, "at most `epochs`")?;
        // TOML's integers are signed.
        OutOfRange::check("seed", seed, i64::try_from(seed).is_ok(), "from 0 to 9223372036854775807")?;
        OutOfRange::check("threads", threads, threads <= 1024, "from 0 (all) to 1024")?;

        keyed(self.network(1).validate())?;
        // With every step, so that also values of no effect are in their ranges.
        let statistics = Statistics { mean: [0.0; IMAGE_CHANNELS], std: [1.0; IMAGE_CHANNELS] };
        let every_step = Self { augment: Augment::RandAugment, ..self.clone() };
        keyed(every_step.augmentation(statistics).validate())?;
        keyed(Mix::new(mixup_alpha, cutmix_alpha).with_p(p).validate())?;
        keyed(self.sgd().validate())?;
        self.check_method()?;
        keyed(check_smoothing(self.label_smoothing))
    }

    /// Checks that the recipe can run on `device`: every precision but f32 needs an NVIDIA GPU. Training does so too;
    /// this is for asking before any data are read.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange).
    pub fn check_device(&self, device: &Device) -> Result<()> {
        let fits = self.precision == Precision::F32 || device.is_cuda();
        Ok(OutOfRange::check("precision", self.precision, fits, "f32 on any device but an NVIDIA GPU")?)
    }

    /// The images that each epoch is measured on.
    pub fn eval_split(&self) -> EvalSplit {
        if self.validation > 0 { EvalSplit::Validation } else { EvalSplit::Test }
    }

    /// The network for `classes` classes.
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
        let cutout = (self.augment != Augment::Basic && self.cutout_probability != 0.0)
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

    /// The schedule of the learning rate.
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
