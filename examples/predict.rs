//! Says what is on an image: the five likeliest classes by a network that `cifar100` trained.
//!
//! ```text
//! cargo run --release --example predict -- result/20261123-120000/best.safetensors cat.jpg
//! ```

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use image::imageops::{self, FilterType};
use image::{ImageReader, RgbImage};
use wrn_sam::candle::{D, DType, Device, Tensor};
use wrn_sam::candle_nn::ops::softmax;
use wrn_sam::data::{IMAGE_CHANNELS, IMAGE_SIZE, Normalize, Statistics, Variant};
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::train::{DataChoice, Recipe};

use support::{AnyError, DeviceChoice};

/// Say what is on images: the five likeliest classes, with probabilities.
#[derive(Parser)]
struct Args {
    /// Weights: a model.safetensors or best.safetensors of a run; depth, width and classes are read from them
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// PNG or JPEG images of any size; the largest square in the middle of each is scaled to 32x32
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.device.device()?;
    let config = WideResNetConfig::from_state_dict(&args.model)?;
    if config.in_channels != IMAGE_CHANNELS {
        return Err(format!("{} wants {} channels, not RGB", args.model.display(), config.in_channels).into());
    }
    let parameters = Parameters::new(0, DType::F32, &device);
    let model = WideResNet::new(&config, parameters.var_builder())?;
    parameters.load(&args.model)?;

    let trained_on = TrainedOn::beside(&args.model)?;
    for path in &args.images {
        let image =
            open(path).map_err(|error| format!("{}: {}", path.display(), support::chain(error.as_ref())))?;
        let images = normalized(&middle(image), &trained_on.normalize, &device)?;
        let probabilities =
            softmax(&model.forward(&images, Mode::Eval)?, D::Minus1)?.squeeze(0)?.to_vec1::<f32>()?;
        let mut likeliest: Vec<(usize, f32)> = probabilities.into_iter().enumerate().collect();
        likeliest.sort_by(|(_, a), (_, b)| b.total_cmp(a));

        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", path.display())?;
        for (class, probability) in likeliest.into_iter().take(5) {
            writeln!(out, "  {:5.1} %  {}", 100.0 * probability, trained_on.name(class, config.classes))?;
        }
    }
    Ok(())
}

/// The pixels' statistics in training and the names of the classes.
struct TrainedOn {
    normalize: Normalize,
    names: Vec<String>,
}

impl TrainedOn {
    /// What the recipe beside the weights says; CIFAR-100 where there is none.
    fn beside(model: &Path) -> Result<Self, AnyError> {
        let recipe = model.with_file_name("recipe.toml");
        let recipe = if recipe.is_file() { Recipe::from_toml_file(&recipe)? } else { Recipe::reference() };
        if recipe.data == DataChoice::Synthetic {
            eprintln!(
                "note: {} was trained on synthetic images, so the classes mean nothing",
                model.display()
            );
            let data = support::synthetic(&recipe);
            return Ok(Self {
                normalize: Normalize::new(Statistics::from_split(&data.train)?),
                names: data.fine_names,
            });
        }
        let (statistics, variant) = match recipe.data {
            DataChoice::Cifar10 => (CIFAR10, Variant::Cifar10),
            _ => (CIFAR100, Variant::Cifar100),
        };
        let names = variant.names().iter().copied().map(String::from).collect();
        Ok(Self { normalize: Normalize::new(statistics), names })
    }

    fn name(&self, class: usize, classes: usize) -> String {
        if classes == self.names.len() { self.names[class].clone() } else { format!("class {class}") }
    }
}

/// Those of CIFAR-10's 50,000 training images, as they are in general use.
const CIFAR10: Statistics =
    Statistics { mean: [0.49139968, 0.48215841, 0.44653091], std: [0.24703223, 0.24348513, 0.26158784] };

/// Those of CIFAR-100's 50,000 training images.
const CIFAR100: Statistics =
    Statistics { mean: [0.50707516, 0.48654887, 0.44091784], std: [0.26733429, 0.25643846, 0.27615047] };

fn open(path: &Path) -> Result<RgbImage, AnyError> {
    Ok(ImageReader::open(path)?.with_guessed_format()?.decode()?.to_rgb8())
}

/// The largest square in the middle, scaled to 32x32: what is in CIFAR-100 fills its square and is not distorted.
fn middle(image: RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    let square = imageops::crop_imm(&image, (width - side) / 2, (height - side) / 2, side, side).to_image();
    let size = IMAGE_SIZE as u32;
    if side == size { square } else { imageops::resize(&square, size, size, FilterType::CatmullRom) }
}

/// A batch of one: `[1, 3, 32, 32]`.
fn normalized(image: &RgbImage, normalize: &Normalize, device: &Device) -> Result<Tensor, AnyError> {
    let plane = |channel: usize| image.pixels().map(move |pixel| normalize.value(channel, pixel[channel]));
    let values: Vec<f32> = (0..IMAGE_CHANNELS).flat_map(plane).collect();
    Ok(Tensor::from_vec(values, (1, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE), device)?)
}
