//! Says what is on images: the five likeliest classes by a network that `cifar100` trained.
//!
//! ```text
//! cargo run --release --example predict -- result/20261123-120000/best.safetensors cat.jpg
//! ```

#[path = "../support/mod.rs"]
mod support;

mod inputs;
mod trained_on;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use wrn_sam::candle::{D, DType, Device, Tensor};
use wrn_sam::candle_nn::ops::softmax;
use wrn_sam::data::{IMAGE_CHANNELS, Normalize, pictures};
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};

use support::{AnyError, DeviceChoice};
use trained_on::TrainedOn;

/// Say what is on images: the five likeliest classes, with probabilities.
///
/// An image that cannot be read is named on stderr, and the others are still classified; the exit code is then 1.
#[derive(Parser)]
struct Args {
    /// Weights: safetensors or PyTorch (.pth, .pt) of a Wide ResNet; the file tells depth, width, classes and, if a run
    /// of cifar100 wrote it, what it was trained on
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// PNG or JPEG images of any size, folders of them, or - for one on stdin. Each is turned as its EXIF orientation
    /// says, laid over white where it is transparent, and its largest central square is scaled to the size that the network was trained on
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => support::end(Err(error)),
    }
}

/// How many images were refused.
fn run(args: &Args) -> Result<usize, AnyError> {
    let network = Network::load(&args.model, &args.device.device()?)?;
    let mut refused = 0;
    for argument in &args.images {
        let images = match inputs::images(argument) {
            Ok(images) => images,
            Err(error) => {
                refused += 1;
                report(argument, &error);
                continue;
            }
        };
        for path in images {
            match inputs::read(&path).and_then(|bytes| network.likeliest(&bytes)) {
                Ok(likeliest) => print(&path, &likeliest)?,
                Err(error) => {
                    refused += 1;
                    report(&path, &error);
                }
            }
        }
    }
    Ok(refused)
}

/// A class's name and its probability.
type Likely = (String, f32);

fn print(path: &Path, likeliest: &[Likely]) -> Result<(), AnyError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", path.display())?;
    for (class, probability) in likeliest {
        writeln!(out, "  {:5.1} %  {class}", 100.0 * probability)?;
    }
    Ok(())
}

fn report(path: &Path, error: &AnyError) {
    support::warn(format_args!("error: {}: {}", path.display(), support::with_causes(error.as_ref())));
}

/// A network and what it was trained on.
struct Network {
    model: WideResNet,
    trained_on: TrainedOn,
    device: Device,
}

impl Network {
    fn load(path: &Path, device: &Device) -> Result<Self, AnyError> {
        let refused = |error: &dyn std::fmt::Display| AnyError::from(format!("{}: {error}", path.display()));
        let config = WideResNetConfig::from_state_dict(path)?;
        if config.in_channels != IMAGE_CHANNELS {
            return Err(refused(&format_args!("it takes {} channels, not RGB", config.in_channels)));
        }
        let parameters = Parameters::new(0, DType::F32, device);
        let model = WideResNet::new(&config, parameters.var_builder())?;
        parameters.load(path)?;
        parameters.check_values().map_err(|error| refused(&error))?;
        let trained_on = TrainedOn::of(path, config.classes)?;
        Ok(Self { model, trained_on, device: device.clone() })
    }

    /// The five likeliest classes of a picture, a PNG or JPEG file, the likeliest first.
    fn likeliest(&self, picture: &[u8]) -> Result<Vec<Likely>, AnyError> {
        let size = self.trained_on.image_size;
        let images =
            normalized(&pictures::decode(picture, size)?, size, &self.trained_on.normalize, &self.device)?;
        let logits = self.model.forward(&images, Mode::Eval)?;
        if !logits.flatten_all()?.to_vec1::<f32>()?.iter().all(|logit| logit.is_finite()) {
            return Err(
                "the network's outputs are not finite: its weights are too large to compute with".into()
            );
        }
        let probabilities = softmax(&logits, D::Minus1)?.squeeze(0)?.to_vec1::<f32>()?;
        let mut likeliest: Vec<(usize, f32)> = probabilities.into_iter().enumerate().collect();
        likeliest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let named = likeliest.into_iter().take(5);
        Ok(named.map(|(class, probability)| (self.trained_on.name(class), probability)).collect())
    }
}

/// A batch of one, `[1, 3, size, size]`, of an image's planes.
fn normalized(image: &[u8], size: usize, normalize: &Normalize, device: &Device) -> Result<Tensor, AnyError> {
    let planes = image.chunks_exact(size * size).enumerate();
    let values =
        planes.flat_map(|(channel, plane)| plane.iter().map(move |&byte| normalize.value(channel, byte)));
    let values: Vec<f32> = values.collect();
    Ok(Tensor::from_vec(values, (1, IMAGE_CHANNELS, size, size), device)?)
}
