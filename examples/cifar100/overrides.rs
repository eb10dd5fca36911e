//! A flag for every key of a recipe, a line each.

use std::path::Path;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use toml::{Table, Value};
use wrn_sam::train::Recipe;

/// A key of a recipe, the values of its flag, and what it means. The type is that of the recipe's value.
struct Key(&'static str, &'static str, &'static str);

const DATA: &[Key] = &[
    Key(
        "data",
        "auto|cifar100|cifar10|synthetic|folder:DIR",
        "Images; auto: CIFAR-100 if there is any, else synthetic; folder:DIR: PNG and JPEG files in DIR/train/CLASS and \
         DIR/test/CLASS, or in DIR/CLASS, of which a fifth is then for testing",
    ),
    Key("image_size", "N", "Side in pixels that a folder's pictures are scaled to; CIFAR has 32"),
    Key(
        "validation",
        "N",
        "Hold out N training images, choose the best epoch by them, and test once, at the end; 0: choose by the test images",
    ),
    Key("train_limit", "N", "Train only on the first N images; 0 for all"),
    Key("test_limit", "N", "Test only on the first N images; 0 for all"),
];

const RECIPE: &[Key] = &[
    Key("depth", "N", "Layers of the network: 6n + 4"),
    Key("width_factor", "K", "Width of the network, as a multiple of a plain ResNet's"),
    Key("dropout", "P", "Share of activations dropped in each unit"),
    Key("augment", AUGMENT, "Augmentation after crop and flip; all but basic end with a cutout"),
    Key("crop_padding", "N", "Pixels of zeros around an image before its random crop; 0 for no crop"),
    Key("flip_probability", "P", "Probability of a horizontal flip"),
    Key("cutout_size", "N", "Side of the cutout's square in pixels"),
    Key("cutout_probability", "P", "Probability of the cutout; 1 in the papers of the policies"),
    Key("randaugment_operations", "N", "Operations that RandAugment applies to an image: 0 to 14"),
    Key("randaugment_magnitude", "M", "Magnitude of RandAugment's operations: 0 to 30"),
    Key("mixup_alpha", "ALPHA", "Mixup of images and labels; 0 for none"),
    Key(
        "cutmix_alpha",
        "ALPHA",
        "CutMix of images and labels; 0 for none; with --mixup a batch gets one of both",
    ),
    Key("mix_probability", "P", "Probability that a batch is mixed"),
    Key("epochs", "N", "Passes over the training images"),
    Key("patience", "N", "End after N epochs without a better one on the images of --validation; 0: never"),
    Key("batch_size", "N", "Images per step"),
    Key("exchange", "f32|bf16", "How gradients travel between processes"),
    Key("learning_rate", "RATE", "Learning rate that the schedule starts from"),
    Key(
        "schedule",
        "step|cosine",
        "Learning rate: times 0.2 at 20, 50, 70 and 85 % of the epochs; or a cosine to 0",
    ),
    Key("warmup_epochs", "N", "Epochs over which the cosine schedule first rises"),
    Key("momentum", "M", "Momentum of SGD"),
    Key("dampening", "D", "Dampening of SGD's momentum"),
    Key("nesterov", "true|false", "Nesterov momentum"),
    Key("weight_decay", "W", "Weight decay of SGD"),
    Key("decay_norms", "true|false", "Weight decay also for normalization layers and biases"),
    Key("clip", "C", "Largest norm of the gradient that SGD sees; 0 for no bound"),
    Key("method", METHOD, "Member of the SAM family; each has its paper's numbers"),
    Key("rho", "RHO", "Radius of SAM's neighborhood; 0: SGD, one pass a step"),
    Key("rho_schedule", "constant|proportional", "Radius: constant; or in proportion to the learning rate"),
    Key("rho_min", "RHO", "Least radius of the proportional schedule"),
    Key("adaptive", "true|false", "Measure the neighborhood relative to each weight, as davda54/sam does"),
    Key("norm", "P", "Exponent of the norm that measures the neighborhood: above 1, or inf"),
    Key("perturb", "all|norms", "Parameters that SAM moves in its ascent; norms: SAM-ON"),
    Key("sam_from_epoch", "N", "First epoch with SAM, counted from 0; SGD before it"),
    Key("sam_every", "K", "Take SAM's second pass in every K-th step only"),
    Key("asam_eta", "ETA", "What the method asam adds to each weight's size"),
    Key("looksam_every", "K", "LookSAM: a second pass in every K-th step"),
    Key("looksam_alpha", "ALPHA", "LookSAM: share of the last second pass that is used again"),
    Key("fsam_sigma", "SIGMA", "F-SAM: share of the average gradient that is taken out of the ascent"),
    Key("fsam_lambda", "LAMBDA", "F-SAM: share of the average that stays each step"),
    Key("vasso_theta", "THETA", "VaSSO: share that each gradient has in the average"),
    Key("gsam_alpha", "ALPHA", "GSAM: weight of the gap between the two losses"),
    Key("wsam_gamma", "GAMMA", "WSAM: weight of the sharpness; 0.5 is SAM"),
    Key("wsam_decoupled", "true|false", "WSAM: the sharpness goes past momentum and weight decay"),
    Key("micro_batches", "M", "Parts that each batch is divided into: a power of two; processes share them"),
    Key("ascent", "batch|micro", "Ascent over the batch, or over each part by itself (m-sharpness)"),
    Key(
        "ema",
        "DECAY",
        "Decay of an exponential average of the weights, saved as ema.safetensors; 0 for none",
    ),
    Key(
        "swa_epochs",
        "N",
        "Average the weights at the ends of the last N epochs, saved as swa.safetensors; 0 for none",
    ),
    Key("label_smoothing", "EPS", "Probability taken from the label and spread over the other classes"),
    Key("seed", "SEED", "Seed of initialization, order, augmentation and dropout"),
];

const RUN: &[Key] = &[
    Key("precision", "f32|tf32|bf16", "Numbers that convolutions compute with; tf32 and bf16 need a GPU"),
    Key(
        "deterministic",
        "true|false",
        "On a GPU, the same bits in every run, perhaps more slowly; a CPU always does so",
    ),
    Key("threads", "N", "CPU threads; 0 for all; no result depends on it"),
    Key("checkpoint_every", "N", "Write a checkpoint after every N epochs; 0: only at the end"),
];

const METHOD: &str = "sgd|sam|asam|msam|looksam|fsam|vasso|gsam|wsam";
const AUGMENT: &str = "basic|cutout|autoaugment|randaugment|trivialaugment";

const HEADINGS: [(&str, &[Key]); 3] = [("Data", DATA), ("Recipe", RECIPE), ("Run", RUN)];

impl Key {
    /// The flag: the key with `-` for `_`, or the short name in use.
    fn arg(&self, recipes: &[Table; 2]) -> Arg {
        let &Self(key, values, help) = self;
        let [quick, reference] = recipes.each_ref().map(|recipe| &recipe[key]);
        let default = if quick == reference {
            format!("[default: {}]", plain(quick))
        } else {
            format!("[default: quick {}, reference {}]", plain(quick), plain(reference))
        };
        let kind = reference.clone();
        let arg = Arg::new(key)
            .value_name(values)
            .help(format!("{help} {default}"))
            .allow_negative_numbers(true)
            .value_parser(move |text: &str| parse(text, &kind, values));
        let arg = match key {
            "learning_rate" => arg.long("lr").alias("learning-rate"),
            "mixup_alpha" => arg.long("mixup").alias("mixup-alpha"),
            "cutmix_alpha" => arg.long("cutmix").alias("cutmix-alpha"),
            _ => arg.long(key.replace('_', "-")),
        };
        match reference {
            Value::Boolean(_) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg,
        }
    }
}

/// A value as a flag takes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// The value of a flag, of the same type as `kind`. Ranges are the recipe's to check.
fn parse(text: &str, kind: &Value, values: &str) -> Result<Value, String> {
    match kind {
        Value::Integer(_) => {
            let number = text.parse().ok().filter(|number: &i64| *number >= 0);
            number
                .map(Value::Integer)
                .ok_or_else(|| format!("expected a whole number from 0 to {}", i64::MAX))
        }
        Value::Float(_) => text.parse().map(Value::Float).map_err(|_| "expected a number".into()),
        _ if !values
            .split('|')
            .any(|value| value == text || folder_of(text).is_some_and(|_| value == FOLDER)) =>
        {
            let (others, last) = values.rsplit_once('|').unwrap_or(("", values));
            Err(format!("expected {} or {last}", others.replace('|', ", ")))
        }
        Value::Boolean(_) => Ok(Value::Boolean(text == "true")),
        _ => Ok(Value::String(text.into())),
    }
}

/// The value of `--data` that names a folder, as the help has it.
const FOLDER: &str = "folder:DIR";

/// DIR of `folder:DIR`.
fn folder_of(text: &str) -> Option<&str> {
    text.strip_prefix("folder:").filter(|folder| !folder.is_empty())
}

/// The values that flags give to a recipe's keys.
#[derive(Clone, Debug)]
pub struct Overrides(Table);

impl Overrides {
    /// The folder of `--data folder:DIR`.
    pub fn folder(&self) -> Option<&Path> {
        folder_of(self.0.get("data")?.as_str()?).map(Path::new)
    }

    /// `base` with these values, whose ranges are not checked yet.
    pub fn over(&self, base: &Recipe) -> Recipe {
        let mut table = table(base);
        table.extend(self.0.clone());
        if self.folder().is_some() {
            // A recipe says what the images are; where they are, source.toml says.
            table.insert("data".into(), Value::String("folder".into()));
        }
        table.try_into().expect("every value has its key's type")
    }
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let recipes = [table(&Recipe::quick()), table(&Recipe::reference())];
        HEADINGS.iter().fold(command, |command, (heading, keys)| {
            command.next_help_heading(*heading).args(keys.iter().map(|key| key.arg(&recipes)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let keys = HEADINGS.iter().flat_map(|(_, keys)| *keys);
        let given =
            keys.filter_map(|&Key(key, ..)| Some((key.into(), matches.get_one::<Value>(key)?.clone())));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

fn table(recipe: &Recipe) -> Table {
    Table::try_from(recipe).expect("a valid recipe is a table")
}
