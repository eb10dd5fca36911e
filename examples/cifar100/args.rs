//! The command line, and the recipe that it asks for.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args as Group, Parser};
use wrn_sam::train::{DataChoice, Difference, Error, Recipe};

use crate::overrides::Overrides;
use crate::support::{AnyError, DeviceChoice, WrongFlags};

/// The command line.
#[derive(Parser)]
#[command(name = "cifar100", version, about = ABOUT, long_about = None, next_line_help = true, args_override_self = true, after_help = NOTES)]
pub struct Args {
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    pub data: DataFlags,
    #[command(flatten)]
    start: StartFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

const ABOUT: &str = "Train a Wide ResNet with Sharpness-Aware Minimization (SAM) on CIFAR-100, CIFAR-10 or your own pictures\n\n\
    Without flags, the program looks for CIFAR-100 in ./data, downloads it if it is not there, and trains on synthetic\n\
    images if that fails. It says which images it uses.";

const NOTES: &str = "Defaults: those shown, unless --recipe names a file. A key that the file leaves out has the reference's value.\n\n\
    Signals: Ctrl-C, SIGTERM and SIGHUP write a checkpoint and end the run; it says how to resume. A second Ctrl-C, at\n\
    least a second later, ends it at once. SIGUSR1 writes a checkpoint and goes on. Under nohup, SIGHUP is ignored.\n\n\
    Environment: ALL_PROXY, HTTPS_PROXY and NO_PROXY for downloads; WRN_SAM_TIMEOUT, the seconds to wait for a server's\n\
    answer (default 15) and for more bytes (default 30); with --hub also HF_HOME and the hub's other variables.\n\n\
    Exit codes: 0 trained to the end; 2 wrong flags, found before any data are read or downloaded; 1 anything else,\n\
    interruptions included.";

#[derive(Group)]
#[command(next_help_heading = "Data")]
pub struct DataFlags {
    /// Where CIFAR is, in its binary or Python format: its folder, the folder around that, or its .tar.gz. With --data
    /// cifar100 or cifar10, downloads go there. For a run on a folder that was moved: where it is now [default: ./data]
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<PathBuf>,

    /// Take the images from the Hugging Face hub, through its cache; needs cargo's --features hub
    #[arg(long, conflicts_with = "data_dir")]
    pub hub: bool,
}

#[derive(Group)]
#[command(next_help_heading = "Recipe")]
struct StartFlags {
    /// Recipe to start from, of which the other flags change single values [default: quick on a CPU, reference on a GPU]
    #[arg(long, value_name = "quick|reference|FILE.toml", display_order = 0)]
    recipe: Option<RecipeChoice>,
}

#[derive(Group)]
#[command(next_help_heading = "Run")]
pub struct RunFlags {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "auto|cpu|cuda[:N]", default_value = "auto")]
    pub device: DeviceChoice,

    /// New folder for everything that the run writes [default: ./result/YYYYmmdd-HHMMSS, the time in UTC]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,

    /// Continue the run in DIR, with its recipe and images. More --epochs than it had lengthen it, if the schedule gives the
    /// past epochs the same learning rates
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,

    /// With --resume and --epochs: lengthen the run although past epochs had other learning rates; source.toml says so
    #[arg(long, requires = "resume")]
    pub keep_past_rates: bool,

    /// Weights to begin with: a file that predict reads, of the same depth, width and classes
    #[arg(long, value_name = "WEIGHTS", conflicts_with = "resume")]
    pub init: Option<PathBuf>,

    /// Also write TensorBoard's event files, to the folder tensorboard of the run
    #[arg(long)]
    pub tensorboard: bool,

    /// At the end, lay out the folder hub of the run as a model repository of the Hugging Face hub: README.md, config.json and
    /// model.safetensors
    #[arg(long)]
    pub card: bool,
}

/// `--recipe quick|reference|FILE.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RecipeChoice {
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
    /// Where the images are, if a flag says so.
    pub fn data_dir(&self) -> Option<&Path> {
        self.overrides.folder().or(self.data.data_dir.as_deref())
    }

    /// The recipe of `--recipe`, else that of the run to resume, else `default`, with the values that other flags give.
    ///
    /// # Errors
    /// [`WrongFlags`]: the recipe's file cannot be read, a value is out of range, or the run to resume has another recipe.
    /// Any other: the run to resume has no valid recipe.
    pub fn recipe(&self, default: Recipe) -> Result<Recipe, AnyError> {
        let base = match (&self.start.recipe, &self.run.resume) {
            (Some(RecipeChoice::Quick), _) => Recipe::quick(),
            (Some(RecipeChoice::Reference), _) => Recipe::reference(),
            (Some(RecipeChoice::File(path)), _) => {
                Recipe::from_toml_file(path).map_err(WrongFlags::from_error)?
            }
            (None, Some(run)) => Recipe::from_run(run)?,
            (None, None) => default,
        };
        let mut recipe = self.overrides.over(&base);
        recipe.validate().map_err(WrongFlags::from_error)?;
        if self.overrides.folder().is_some() && (self.data.data_dir.is_some() || self.data.hub) {
            return Err(WrongFlags("--data folder:DIR cannot be used with --data-dir or --hub".into()).into());
        }
        if let Some(run) = &self.run.resume {
            let theirs = Recipe::from_run(run)?;
            if recipe.data == DataChoice::Auto {
                recipe.data = theirs.data;
            }
            let differences = recipe.differences(&theirs)?;
            let lengthened =
                |difference: &Difference| difference.key == "epochs" && recipe.epochs > theirs.epochs;
            if !differences.iter().all(lengthened) {
                let path = run.join("recipe.toml");
                return Err(WrongFlags::from_error(Error::OtherRecipe { path, differences }).into());
            }
        }
        Ok(recipe)
    }
}
