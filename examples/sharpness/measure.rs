//! What is measured of a network, with which settings.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use wrn_sam::analysis::hessian::{self, Lanczos};
use wrn_sam::analysis::{Ball, Noise, Surface, sharpness};
use wrn_sam::candle::{DType, Device};
use wrn_sam::data::pictures::PictureOptions;
use wrn_sam::data::{Augmentation, Batch, Dataset, Loader, LoaderConfig, Statistics, Variant};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::train::{DataChoice, Provenance, Recipe};

use crate::support::{self, AnyError, say};

/// The images, and the numbers of each measure. As flags, or in a study's file.
#[derive(Clone, Debug, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the images are that the network was trained on: folder or archive of CIFAR, or a folder of pictures; not needed
    /// for synthetic images
    #[arg(long, value_name = "PATH", default_value = "data")]
    pub data_dir: PathBuf,
    /// Which images to measure on
    #[arg(long, value_enum, default_value_t = Images::Train)]
    pub split: Images,
    /// The first N of them
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub images: u32,
    /// Images per batch; m of the m-sharpness
    #[arg(long, value_name = "M", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,

    /// Radius of the ball
    #[arg(long, default_value_t = 0.05)]
    pub rho: f64,
    /// Measure radii and noise in units of each weight's size
    #[arg(long)]
    pub adaptive: bool,
    /// Steps of the projected ascent to the worst case
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub steps: usize,
    /// Deviation of the noise of the average case
    #[arg(long, default_value_t = 0.005)]
    pub sigma: f64,
    /// Random draws of the average case and of the trace
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub draws: usize,
    /// Step of the differences that give the Hessian
    #[arg(long, default_value_t = hessian::STEP)]
    pub h: f64,
    /// The most iterations of Lanczos's method
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub iterations: usize,

    /// What directions and noise are drawn from
    #[arg(long, default_value_t = 17)]
    pub seed: u64,
}

impl Default for Settings {
    /// As without flags.
    fn default() -> Self {
        #[derive(Parser)]
        struct Flags {
            #[command(flatten)]
            settings: Settings,
        }
        Flags::parse_from([""]).settings
    }
}

/// A split of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Images {
    Train,
    Test,
}

/// The images of a recipe, read from `path`, or made where they are synthetic.
///
/// # Errors
/// Images that cannot be read, or that were another program's.
pub fn images(recipe: &Recipe, path: &Path) -> Result<Dataset, AnyError> {
    Ok(match recipe.data {
        DataChoice::Synthetic => support::synthetic(recipe),
        DataChoice::Cifar10 => Dataset::open(Variant::Cifar10, path)?,
        DataChoice::Auto | DataChoice::Cifar100 => Dataset::open(Variant::Cifar100, path)?,
        DataChoice::Folder => {
            Dataset::from_pictures(path, &PictureOptions::default().with_image_size(recipe.image_size))?
        }
        DataChoice::Memory => return Err("the images were in the memory of another program".into()),
    })
}

/// What is measured: a network, and the images that its loss is taken of.
pub struct Subject {
    pub name: String,
    pub model: WideResNet,
    pub batches: Vec<Batch>,
    pub smoothing: f64,
    parameters: Parameters,
}

impl Subject {
    /// The network of the weights at `path`, with the images that the settings name.
    ///
    /// # Errors
    /// Weights or images that cannot be read, or do not fit each other.
    pub fn load(path: &Path, settings: &Settings, device: &Device) -> Result<Self, AnyError> {
        let provenance = Provenance::from_weights(path)?;
        let config = WideResNetConfig::from_state_dict(path)?;
        let parameters = Parameters::new(0, DType::F32, device);
        let model = WideResNet::new(&config, parameters.var_builder())?;
        parameters.load(path)?;
        parameters.check_values()?;

        let data = match &provenance {
            Some(provenance) => images(&provenance.recipe, &settings.data_dir)?,
            None if config.classes == 10 => Dataset::open(Variant::Cifar10, &settings.data_dir)?,
            None => Dataset::open(Variant::Cifar100, &settings.data_dir)?,
        };
        if data.classes() != config.classes {
            let (network, images) = (config.classes, data.classes());
            return Err(format!("the network has {network} classes, the images {images}").into());
        }
        let statistics = match &provenance {
            Some(Provenance { mean, std, .. }) => Statistics { mean: *mean, std: *std },
            None => Statistics::from_split(&data.train)?,
        };
        let split = if settings.split == Images::Train { &data.train } else { &data.test };
        let config = LoaderConfig::default()
            .with_batch_size(settings.batch as usize)
            .with_threads(0)
            .with_shuffle(false)
            .with_seed(settings.seed);
        let loader =
            Loader::new(&split.truncated(settings.images as usize), Augmentation::none(statistics), config)?;
        let batches: Vec<Batch> =
            loader.epoch(0).map(|batch| Ok(batch?.to_device(device)?)).collect::<Result<_, AnyError>>()?;
        let (smoothing, what) = match &provenance {
            Some(provenance) => (provenance.recipe.label_smoothing, provenance.data.as_str()),
            None => (0.1, "CIFAR"),
        };
        let name = format!("WRN-{}-{} on {what}", model.config().depth, model.config().width_factor);
        Ok(Self { name, model, parameters, batches, smoothing })
    }

    /// The loss over the network's parameters, in evaluation mode.
    ///
    /// # Errors
    /// None, for weights that were loaded.
    pub fn surface(&self) -> Result<Surface<'_>, AnyError> {
        let loss = |batch: usize| {
            let Batch { images, labels, .. } = &self.batches[batch];
            let logits = self.model.forward(images, Mode::EvalWithGradients)?;
            Ok(smooth_cross_entropy(&logits, labels, self.smoothing)?)
        };
        Ok(Surface::new(self.parameters.named_trainable(), self.batches.len(), loss)?)
    }

    pub fn images(&self) -> usize {
        self.batches.iter().map(|batch| batch.labels.elem_count()).sum()
    }
}

/// What was measured: the measure, its value, how certain that is, and with which settings.
pub struct Table(Vec<(&'static str, f64, Option<f64>, String)>);

impl Table {
    /// Measures everything.
    ///
    /// # Errors
    /// Settings out of range; a loss that is not finite.
    pub fn measure(settings: &Settings, surface: &mut Surface<'_>) -> Result<Self, AnyError> {
        let &Settings { rho, adaptive, steps, sigma, draws, h, iterations, seed, batch, .. } = settings;
        let ball = Ball::new(rho).with_adaptive(adaptive);
        let scale = if adaptive { ", adaptive" } else { "" };
        let (loss, gradient) = surface.gradient()?;
        let one_step = sharpness::one_step(surface, ball)?;
        let of_batches = sharpness::of_batches(surface, ball)?;
        let worst = sharpness::worst_case(surface, ball, steps)?;
        let noise = Noise::new(sigma).with_adaptive(adaptive).with_draws(draws).with_seed(seed);
        let average = sharpness::average(surface, noise)?;
        let lanczos = Lanczos::default().with_iterations(iterations).with_h(h).with_seed(seed);
        let top = hessian::largest_eigenvalue(surface, lanczos)?;
        let trace = hessian::trace(surface, h, draws, seed)?;
        let taken = format!("h {h}; {} iterations; uncertainty: residual", top.iterations);
        Ok(Self(vec![
            ("loss", loss, None, String::new()),
            ("norm of the gradient", gradient.norm()?, None, String::new()),
            ("one-step sharpness", one_step, None, format!("rho {rho}{scale}")),
            ("m-sharpness", of_batches, None, format!("rho {rho}{scale}; m {batch}")),
            ("worst-case sharpness", worst, None, format!("rho {rho}{scale}; {steps} steps")),
            (
                "average sharpness",
                average.mean,
                Some(average.standard_error),
                format!("sigma {sigma}{scale}; {draws} draws; uncertainty: standard error"),
            ),
            ("largest eigenvalue", top.value, Some(top.residual), taken),
            (
                "trace",
                trace.mean,
                Some(trace.standard_error),
                format!("h {h}; {draws} draws; uncertainty: standard error"),
            ),
        ]))
    }

    pub fn print(&self) {
        for (measure, value, uncertainty, of) in &self.0 {
            let uncertainty = uncertainty.map_or(String::new(), |uncertainty| format!("± {uncertainty:.3}"));
            say(format!("{measure:<22} {value:>12.5} {uncertainty:<10} {of}").trim_end());
        }
    }

    pub fn to_csv(&self) -> String {
        let mut text = "measure,value,uncertainty,settings\n".to_string();
        for (measure, value, uncertainty, of) in &self.0 {
            let uncertainty = uncertainty.map_or(String::new(), |uncertainty| uncertainty.to_string());
            let _ = writeln!(text, "{measure},{value},{uncertainty},{}", of.replace(',', ";"));
        }
        text
    }
}
