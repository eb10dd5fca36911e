//! The command line: every flag, and what it changes in a recipe.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as Group, Parser};
use wrn_sam::kernels::Precision;
use wrn_sam::train::{Augment, DataChoice, Recipe};

use crate::support::DeviceChoice;

/// The command line.
#[derive(Parser)]
#[command(name = "cifar100", version, about = ABOUT, long_about = None, next_line_help = true, args_override_self = true, after_help = NOTES)]
pub struct Args {
    #[command(flatten)]
    pub data: DataFlags,
    #[command(flatten)]
    recipe: RecipeFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

const ABOUT: &str = "Train a Wide ResNet with Sharpness-Aware Minimization on CIFAR-100\n\n\
    Without any flag it looks for CIFAR-100 in ./data, else fetches it, else trains on synthetic images, and says\n\
    which. A recipe file has defaults of its own for all that a recipe says.";

const NOTES: &str = "Environment: ALL_PROXY, HTTPS_PROXY and NO_PROXY for what is fetched; WRN_SAM_TIMEOUT, the seconds to wait for an\n\
    answer of the server (default 15) and for more bytes (30); HF_HOME and others of the hub's with --hub.\n\n\
    Exit codes: 0 trained to the end; 2 wrong flags; 1 anything else, Ctrl-C included\n\
    (it writes a checkpoint and says how to resume).";

#[derive(Group)]
#[command(next_help_heading = "Data")]
pub struct DataFlags {
    /// Which images; auto is CIFAR-100 if it can be had, else synthetic images [default: auto]
    #[arg(long, value_name = "auto|cifar100|cifar10|synthetic", value_parser = data_choice)]
    pub data: Option<DataChoice>,

    /// Their binary or Python version: its folder, the folder around that, or its .tar.gz; fetched to there if absent
    #[arg(long, value_name = "PATH", default_value = "./data")]
    pub data_dir: PathBuf,

    /// Take them from the Hugging Face hub, by way of its cache; needs cargo's --features hub
    #[arg(long, conflicts_with = "data_dir")]
    pub hub: bool,

    #[arg(long, value_name = "N", help = limit_help("Train"))]
    train_limit: Option<usize>,

    #[arg(long, value_name = "N", help = limit_help("Test"))]
    test_limit: Option<usize>,
}

#[derive(Group)]
#[command(next_help_heading = "Recipe")]
struct RecipeFlags {
    /// Values to start from; the flags below change single ones [default: quick on a CPU, reference on a GPU]
    #[arg(long, value_name = "quick|reference|FILE.toml")]
    recipe: Option<RecipeChoice>,

    #[arg(long, value_name = "N", help = help("Layers of the network: 6n + 4", |r| r.depth))]
    depth: Option<usize>,

    #[arg(long, value_name = "K", help = help("How many times wider than a plain ResNet", |r| r.width_factor))]
    width_factor: Option<usize>,

    #[arg(long, value_name = "P", allow_negative_numbers = true, help = help("Share of activations dropped in each unit", |r| r.dropout))]
    dropout: Option<f64>,

    #[arg(
        long, value_name = "basic|cutout|autoaugment|randaugment|trivialaugment", value_parser = augment,
        help = "What happens to a training image after crop and flip; all but basic end with a cutout [default: cutout]"
    )]
    augment: Option<Augment>,

    #[arg(long, value_name = "N", help = help("Operations that RandAugment does to an image: 0 to 14", |r| r.randaugment_operations))]
    randaugment_operations: Option<usize>,

    #[arg(long, value_name = "M", help = help("How strongly RandAugment does them: 0 to 30", |r| r.randaugment_magnitude))]
    randaugment_magnitude: Option<usize>,

    #[arg(
        long, value_name = "P", allow_negative_numbers = true,
        help = help("Probability of the cutout; 1 in the papers of the policies", |r| r.cutout_probability)
    )]
    cutout_probability: Option<f64>,

    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true, help = help("Mix images and labels by mixup; 0 for none", |r| r.mixup_alpha))]
    mixup: Option<f64>,

    #[arg(
        long, value_name = "ALPHA", allow_negative_numbers = true,
        help = help("Mix images and labels by CutMix; 0 for none; with --mixup each batch gets one of both", |r| r.cutmix_alpha)
    )]
    cutmix: Option<f64>,

    #[arg(long, value_name = "P", allow_negative_numbers = true, help = help("Probability that a batch is mixed", |r| r.mix_probability))]
    mix_probability: Option<f64>,

    #[arg(long, value_name = "N", help = help("Passes over the training images", |r| r.epochs))]
    epochs: Option<usize>,

    #[arg(long, value_name = "N", help = help("Images per step", |r| r.batch_size))]
    batch_size: Option<usize>,

    #[arg(long, value_name = "RATE", allow_negative_numbers = true, help = help("Learning rate of the first epochs", |r| r.learning_rate))]
    lr: Option<f64>,

    #[arg(long, value_name = "M", allow_negative_numbers = true, help = help("Momentum of SGD", |r| r.momentum))]
    momentum: Option<f64>,

    #[arg(long, value_name = "W", allow_negative_numbers = true, help = help("Weight decay of SGD", |r| r.weight_decay))]
    weight_decay: Option<f64>,

    #[arg(long, value_name = "RHO", allow_negative_numbers = true, help = help("Radius of SAM's neighborhood", |r| r.rho))]
    rho: Option<f64>,

    #[arg(
        long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true,
        help = help("Measure the neighborhood relative to each weight (ASAM)", |r| r.adaptive)
    )]
    adaptive: Option<bool>,

    #[arg(
        long, value_name = "EPS", allow_negative_numbers = true,
        help = help("Probability taken from the label and spread over the other classes", |r| r.label_smoothing)
    )]
    label_smoothing: Option<f64>,

    #[arg(
        long, value_name = "SEED",
        help = help("Seed of initialization, order, augmentation and dropout", |r| r.seed)
    )]
    seed: Option<u64>,
}

#[derive(Group)]
#[command(next_help_heading = "Run")]
pub struct RunFlags {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "auto|cpu|cuda[:N]", default_value = "auto")]
    pub device: DeviceChoice,

    #[arg(
        long, value_name = "f32|tf32|bf16",
        help = help("What convolutions take; tf32 and bf16 on a GPU alone", |r| r.precision)
    )]
    precision: Option<Precision>,

    #[arg(
        long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true,
        help = help("On a GPU, the same bits in every run, perhaps more slowly; on the CPU they always are", |r| r.deterministic)
    )]
    deterministic: Option<bool>,

    #[arg(long, value_name = "N", help = help("CPU threads, 0 for all; no result depends on it", |r| r.threads))]
    threads: Option<usize>,

    /// New folder for all that comes of the run [default: ./result/YYYYmmdd-HHMMSS, the time in UTC]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,

    /// Go on with the interrupted run in DIR, with its recipe
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,

    #[arg(
        long, value_name = "N",
        help = help("Write a checkpoint after every N epochs; 0: at the end alone", |r| r.checkpoint_every)
    )]
    checkpoint_every: Option<usize>,
}

/// Help of a flag that overrides a recipe's value, with that value of the recipes there are.
fn help<T: Display + PartialEq>(text: &str, value: impl Fn(&Recipe) -> T) -> String {
    let (quick, reference) = (value(&Recipe::quick()), value(&Recipe::reference()));
    if quick == reference {
        format!("{text} [default: {quick}]")
    } else {
        format!("{text} [default: quick {quick}, reference {reference}]")
    }
}

fn limit_help(verb: &str) -> String {
    format!("{verb} on the first N images alone, 0 for all [default: 0]")
}

fn augment(text: &str) -> Result<Augment, String> {
    match text {
        "basic" => Ok(Augment::Basic),
        "cutout" => Ok(Augment::Cutout),
        "autoaugment" => Ok(Augment::AutoAugment),
        "randaugment" => Ok(Augment::RandAugment),
        "trivialaugment" => Ok(Augment::TrivialAugment),
        _ => Err("expected basic, cutout, autoaugment, randaugment or trivialaugment".to_string()),
    }
}

fn data_choice(text: &str) -> Result<DataChoice, String> {
    match text {
        "auto" => Ok(DataChoice::Auto),
        "cifar100" => Ok(DataChoice::Cifar100),
        "cifar10" => Ok(DataChoice::Cifar10),
        "synthetic" => Ok(DataChoice::Synthetic),
        _ => Err("expected auto, cifar100, cifar10 or synthetic".to_string()),
    }
}

/// `--recipe quick|reference|FILE.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeChoice {
    Quick,
    Reference,
    File(PathBuf),
}

impl FromStr for RecipeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quick" => Ok(Self::Quick),
            "reference" => Ok(Self::Reference),
            file if file.ends_with(".toml") => Ok(Self::File(file.into())),
            _ => Err("expected quick, reference or a file named *.toml".to_string()),
        }
    }
}

impl Args {
    /// The recipe the flags start from: that of `--recipe`, else that of the run to go on with, else `default`.
    ///
    /// # Errors
    /// The file cannot be read or holds no valid recipe.
    pub fn base_recipe(&self, default: Recipe) -> wrn_sam::train::Result<Recipe> {
        match (&self.recipe.recipe, &self.run.resume) {
            (Some(RecipeChoice::Quick), _) => Ok(Recipe::quick()),
            (Some(RecipeChoice::Reference), _) => Ok(Recipe::reference()),
            (Some(RecipeChoice::File(path)), _) => Recipe::from_toml_file(path),
            (None, Some(run)) => {
                let path = run.join("recipe.toml");
                let found = path.is_file();
                let not_a_run = || wrn_sam::train::Error::NotARun { path: run.clone() };
                found.then_some(path).ok_or_else(not_a_run).and_then(|path| Recipe::from_toml_file(&path))
            }
            (None, None) => Ok(default),
        }
    }

    /// `base` with every value that a flag gives.
    pub fn over(&self, base: Recipe) -> Recipe {
        let Self { data, recipe: flags, run } = self;
        base.with(|recipe| {
            set(&mut recipe.data, data.data);
            set(&mut recipe.train_limit, data.train_limit);
            set(&mut recipe.test_limit, data.test_limit);
            set(&mut recipe.depth, flags.depth);
            set(&mut recipe.width_factor, flags.width_factor);
            set(&mut recipe.dropout, flags.dropout);
            set(&mut recipe.augment, flags.augment);
            set(&mut recipe.randaugment_operations, flags.randaugment_operations);
            set(&mut recipe.randaugment_magnitude, flags.randaugment_magnitude);
            set(&mut recipe.cutout_probability, flags.cutout_probability);
            set(&mut recipe.mixup_alpha, flags.mixup);
            set(&mut recipe.cutmix_alpha, flags.cutmix);
            set(&mut recipe.mix_probability, flags.mix_probability);
            set(&mut recipe.epochs, flags.epochs);
            set(&mut recipe.batch_size, flags.batch_size);
            set(&mut recipe.learning_rate, flags.lr);
            set(&mut recipe.momentum, flags.momentum);
            set(&mut recipe.weight_decay, flags.weight_decay);
            set(&mut recipe.rho, flags.rho);
            set(&mut recipe.adaptive, flags.adaptive);
            set(&mut recipe.label_smoothing, flags.label_smoothing);
            set(&mut recipe.seed, flags.seed);
            set(&mut recipe.precision, run.precision);
            set(&mut recipe.deterministic, run.deterministic);
            set(&mut recipe.threads, run.threads);
            set(&mut recipe.checkpoint_every, run.checkpoint_every);
        })
    }
}

/// The value of a flag, if it was given.
fn set<T>(value: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *value = flag;
    }
}
