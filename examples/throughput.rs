//! Times one SAM step (two forward and backward passes, ascent, restore, SGD) on random images and prints one JSON line:
//! `cargo run --release --example throughput -- 16 2 128`.

#[path = "support/profile.rs"]
mod profile;
#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use wrn_sam::candle::{DType, Device, Tensor};
use wrn_sam::candle_nn::Optimizer;
use wrn_sam::data::{
    Augmentation, Batch, Cifar, DeviceLoader, IMAGE_CHANNELS, IMAGE_SIZE, Loader, LoaderConfig, Statistics,
};
use wrn_sam::kernels::{Context, Precision};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::optim::{Sam, SamConfig, Sgd, SgdConfig};
use wrn_sam::train::step;

use profile::Profile;
use support::{AnyError, DeviceChoice, peak_bytes_on};

/// Time a SAM step of a Wide ResNet on random images: seconds, images per second and peak memory as one JSON line.
#[derive(Parser)]
struct Args {
    /// Layers: 6n + 4
    depth: usize,
    /// How many times wider than a plain ResNet
    width: usize,
    /// Images per step
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// Steps that are timed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them that are not
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// What convolutions take: f32, or on a GPU tf32 or bf16
    #[arg(long, default_value_t = Precision::F32)]
    precision: Precision,
    /// On a GPU, the same convolutions in every run, in the place of the fastest
    #[arg(long)]
    deterministic: bool,
    /// CPU threads of the network; 0 for all
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// The network from stock candle operations instead (their threads are those of RAYON_NUM_THREADS)
    #[arg(long)]
    plain: bool,
    /// A forward pass in evaluation mode instead of a SAM step
    #[arg(long)]
    forward: bool,
    /// Batches from a training's loader, augmented, instead of always the same one
    #[arg(long, conflicts_with_all = ["plain", "forward"])]
    loader: bool,
    /// Also print a table of the kernels: their time beside the least that this machine needs for them
    #[arg(long)]
    profile: bool,
}

/// The keys are those of the PyTorch program that times the same step, so that results go in one table; `torch` names
/// what computed.
#[derive(Serialize)]
struct Line {
    torch: &'static str,
    depth: usize,
    width: usize,
    batch: u32,
    device: String,
    layout: &'static str,
    precision: String,
    compile: bool,
    seconds_per_step: f64,
    min_seconds: f64,
    images_per_second: f64,
    peak_bytes: Option<u64>,
}

const LABELS: usize = 100;

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.device.device()?;
    let mut work = work(args, &device)?;
    let profile = Profile::default();
    if args.profile {
        tracing::subscriber::set_global_default(profile.clone())?;
    }
    for _ in 0..args.warmup {
        work()?;
    }
    profile.clear();
    let mut times = Vec::new();
    for _ in 0..args.steps {
        device.synchronize()?;
        let began = Instant::now();
        work()?;
        device.synchronize()?;
        times.push(began.elapsed().as_secs_f64());
    }
    if args.profile {
        let total = Duration::from_secs_f64(times.iter().sum());
        writeln!(std::io::stdout(), "{}", profile.table(&context(args), args.steps, total))?;
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let line = Line {
        torch: concat!("none; wrn-sam ", env!("CARGO_PKG_VERSION"), " on candle 0.11"),
        depth: args.depth,
        width: args.width,
        batch: args.batch,
        device: support::device_name(&device),
        layout: if args.plain { "nchw" } else { "nhwc" },
        precision: args.precision.to_string(),
        compile: false,
        seconds_per_step: median,
        min_seconds: times[0],
        images_per_second: f64::from(args.batch) / median,
        peak_bytes: peak_bytes_on(&device),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&line)?)?;
    Ok(())
}

/// The threads that were asked for.
fn context(args: &Args) -> Context {
    if args.threads == 0 { Context::shared().clone() } else { Context::new(args.threads) }
}

/// What is timed, ready to be done again and again.
fn work(args: &Args, device: &Device) -> Result<Box<dyn FnMut() -> Result<(), AnyError>>, AnyError> {
    let (depth, width_factor) = (args.depth, args.width);
    let network = WideResNetConfig { depth, width_factor, labels: LABELS, ..WideResNetConfig::default() };
    let parameters = Parameters::new(17, DType::F32, device);
    let mut model = WideResNet::new(&network, parameters.var_builder())?;
    if args.threads != 0 {
        model = model.with_context(context(args));
    }
    model = model.with_precision(args.precision)?.with_deterministic(args.deterministic);
    // A classifier of zeros, which training begins with, would leave all other gradients zero.
    if let Some(var) = parameters.get("f.8_classification.weight") {
        var.set(&var.randn_like(0.0, 0.05)?)?;
    }
    let mut next_batch = batches(args, device)?;
    let batch = next_batch()?;

    let forward = if args.plain { WideResNet::forward_plain } else { WideResNet::forward };
    if args.forward {
        return Ok(Box::new(move || Ok(forward(&model, &batch.images, Mode::Eval).map(drop)?)));
    }
    let config = SgdConfig { learning_rate: 0.01, momentum: 0.9, weight_decay: 5e-4, ..SgdConfig::default() };
    let sgd = Sgd::new(parameters.trainable(), config)?;
    let mut sam = Sam::new(parameters.trainable(), sgd, SamConfig { rho: 0.1, ..SamConfig::default() })?;
    if !args.plain {
        let model = model.with_handed_over_gradients(); // as a training has it
        return Ok(Box::new(move || Ok(step(&model, &mut sam, &next_batch()?, 0.1).map(drop)?)));
    }
    Ok(Box::new(move || {
        let logits = model.forward_plain(&batch.images, Mode::Train)?;
        let loss = smooth_cross_entropy(&logits, &batch.labels, 0.1)?.mean_all()?;
        let perturbed = sam.first_step(&loss.backward()?)?;
        let logits = model.forward_plain(&batch.images, Mode::TrainFrozenStatistics)?;
        let loss = smooth_cross_entropy(&logits, &batch.labels, 0.1)?.mean_all()?;
        Ok(perturbed.second_step(&loss.backward()?)?)
    }))
}

/// What gives a batch after the other: always the same random one, or, with `--loader`, those of a training's loader.
fn batches(args: &Args, device: &Device) -> Result<Box<dyn FnMut() -> Result<Batch, AnyError>>, AnyError> {
    let batch_size = args.batch as usize;
    if !args.loader {
        let shape = (batch_size, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE);
        let labels: Vec<u32> = (0..batch_size).map(|image| (image % LABELS) as u32).collect();
        let (images, labels) = (Tensor::randn(0f32, 1f32, shape, device)?, Tensor::new(labels, device)?);
        return Ok(Box::new(move || Ok(Batch::new(images.clone(), labels.clone()))));
    }
    let images = Cifar::synthetic(17, (16 * batch_size).max(8192), 0).train;
    let augmentation = Augmentation::reference(Statistics::of(&images)?);
    let config = LoaderConfig { batch_size, threads: context(args).threads(), shuffle: true, seed: 17 };
    type Epoch = Box<dyn Iterator<Item = wrn_sam::data::Result<Batch>>>;
    let mut epoch_of: Box<dyn FnMut(usize) -> Result<Epoch, AnyError>> = if device.is_cuda() {
        let loader = DeviceLoader::new(&images, &augmentation, config, DType::F32, device)?;
        Box::new(move |epoch| Ok(Box::new(loader.epoch(epoch)?)))
    } else {
        let loader = Loader::new(&images, augmentation, config)?;
        Box::new(move |epoch| Ok(Box::new(loader.epoch(epoch))))
    };
    let (mut number, mut epoch) = (0, epoch_of(0)?);
    let device = device.clone();
    Ok(Box::new(move || {
        let batch = match epoch.next() {
            Some(batch) => batch?,
            None => {
                number += 1;
                epoch = epoch_of(number)?;
                epoch.next().ok_or("an epoch has batches")??
            }
        };
        Ok(batch.to_device(&device)?)
    }))
}
