//! Times one SAM step (two forward and backward passes, ascent, restore, SGD) on random images and prints one JSON line:
//! `cargo run --release --example throughput -- 16 2 128`. Under `mpirun` (feature `mpi`) the ranks share each step's images.

#[path = "support/profile.rs"]
mod profile;
#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use wrn_sam::candle::{DType, Device, Tensor};
use wrn_sam::collective::{Collective, Precision as Exchange, Traffic, from_environment};
use wrn_sam::data::{
    Augmentation, Batch, Dataset, IMAGE_CHANNELS, IMAGE_SIZE, Loader, LoaderConfig, Statistics,
};
use wrn_sam::kernels::{Cpu, Precision};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::optim::{AscentOver, Pass, Sam, SamConfig, Sgd, SgdConfig};
use wrn_sam::train::{MicroBatch, step, step_micro_batches};

use profile::Profile;
use support::{AnyError, DeviceChoice, WrongFlags, check_precision, peak_bytes_on};

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
    /// On a GPU, the same convolutions in every run instead of the fastest
    #[arg(long)]
    deterministic: bool,
    /// CPU threads of the network; 0 for all
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// The network from stock candle operations instead (their threads are those of RAYON_NUM_THREADS)
    #[arg(long)]
    plain: bool,
    /// With several ranks, send gradients rounded to bfloat16
    #[arg(long)]
    exchange_bf16: bool,
    /// A forward pass in evaluation mode instead of a SAM step
    #[arg(long)]
    forward: bool,
    /// Batches from a training's loader, augmented, instead of always the same one; how long steps wait for them is
    /// printed too
    #[arg(long, conflicts_with_all = ["plain", "forward"])]
    loader: bool,
    /// Also print a table of the kernels: their time beside the least that this machine needs for them
    #[arg(long)]
    profile: bool,
}

/// The keys are those of the PyTorch program that times the same step, so that results go in one table; `torch` names
/// what computed. With `--loader` there are two more: how long a step waits for its batch, and which share of all steps'
/// time that is.
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
    #[serde(flatten)]
    data: Option<DataTime>,
    #[serde(flatten)]
    exchange: Option<ExchangeTime>,
}

/// What several ranks send each other, of rank 0.
#[derive(Serialize)]
struct ExchangeTime {
    ranks: usize,
    /// Bytes that a rank sends, and receives, in a step.
    bytes_per_step: u64,
    messages_per_step: f64,
    /// From the begin of each sum to its end: the messages, and the wait for a slower rank.
    exchange_seconds_per_step: f64,
}

impl ExchangeTime {
    fn between(before: &Traffic, after: &Traffic, ranks: usize, steps: u32) -> Self {
        let mean = |total: u64| total as f64 / f64::from(steps);
        Self {
            ranks,
            bytes_per_step: (after.bytes_sent - before.bytes_sent) / u64::from(steps),
            messages_per_step: mean(after.messages - before.messages),
            exchange_seconds_per_step: (after.seconds - before.seconds) / f64::from(steps),
        }
    }
}

/// The time from asking for a batch until it is there, the beginning of an epoch included: means over all steps timed.
#[derive(Serialize)]
struct DataTime {
    data_seconds_per_step: f64,
    data_share: f64,
}

const LABELS: usize = 100;

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.device.device()?;
    network(args).validate().map_err(WrongFlags::from_error)?;
    check_precision(args.precision, &device)?;
    let ranks = from_environment()?;
    if !args.batch.is_multiple_of(ranks.world() as u32) {
        return Err(
            WrongFlags(format!("{} images cannot be shared by {} ranks", args.batch, ranks.world())).into()
        );
    }
    let mut work = work(args, &device, &ranks)?;
    let profile = Profile::default();
    if args.profile {
        tracing::subscriber::set_global_default(profile.clone())?;
    }
    for _ in 0..args.warmup {
        work()?;
    }
    profile.clear();
    let sent_before = ranks.traffic()?;
    let (mut times, mut waited) = (Vec::new(), Duration::ZERO);
    for _ in 0..args.steps {
        device.synchronize()?;
        ranks.barrier()?;
        let began = Instant::now();
        waited += work()?;
        device.synchronize()?;
        times.push(began.elapsed().as_secs_f64());
    }
    let total: f64 = times.iter().sum();
    let sent = ranks.traffic()?;
    if ranks.rank() != 0 {
        return Ok(());
    }
    if args.profile {
        let total = Duration::from_secs_f64(total);
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
        data: args.loader.then(|| DataTime {
            data_seconds_per_step: waited.as_secs_f64() / f64::from(args.steps),
            data_share: waited.as_secs_f64() / total,
        }),
        exchange: (ranks.world() > 1)
            .then(|| ExchangeTime::between(&sent_before, &sent, ranks.world(), args.steps)),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&line)?)?;
    Ok(())
}

fn network(args: &Args) -> WideResNetConfig {
    WideResNetConfig::new(args.depth, args.width).with_classes(LABELS)
}

/// The threads that were asked for.
fn context(args: &Args) -> Cpu {
    if args.threads == 0 { Cpu::shared().clone() } else { Cpu::new(args.threads) }
}

/// What is timed, to be done again and again; it tells how long it waited for its batch.
type Work = Box<dyn FnMut() -> Result<Duration, AnyError>>;

fn work(args: &Args, device: &Device, ranks: &Arc<dyn Collective>) -> Result<Work, AnyError> {
    let parameters = Parameters::new(17, DType::F32, device);
    let mut model = WideResNet::new(&network(args), parameters.var_builder())?;
    if args.threads != 0 {
        model = model.with_cpu(context(args));
    }
    model = model.with_precision(args.precision)?.with_deterministic(args.deterministic);
    // A classifier of zeros, which training begins with, would leave all other gradients zero.
    if let Some(var) = parameters.get("f.8_classification.weight") {
        var.set(&var.randn_like(0.0, 0.05)?)?;
    }
    let mut next_batch = batches(args, device, ranks.world())?;
    let batch = next_batch()?;

    let forward = if args.plain { WideResNet::forward_plain } else { WideResNet::forward };
    if args.forward {
        return Ok(Box::new(move || {
            forward(&model, &batch.images, Mode::Eval)?;
            Ok(Duration::ZERO)
        }));
    }
    let config = SgdConfig::new(0.01).with_momentum(0.9).with_weight_decay(5e-4);
    let mut sam = Sam::new(Sgd::named(parameters.named_trainable(), config)?, SamConfig::sam(0.1))?;
    if !args.plain && ranks.world() > 1 {
        let model = model.with_handed_over_gradients();
        let exchange = if args.exchange_bf16 { Exchange::Bf16 } else { Exchange::Exact };
        let (mut sam, share) = (sam.with_ranks(ranks.clone(), exchange), 1.0 / ranks.world() as f64);
        let mut number = ranks.rank() as u64;
        return Ok(Box::new(move || {
            let began = Instant::now();
            let own = [MicroBatch::new(next_batch()?, share, number)];
            let waited = began.elapsed();
            number += 1;
            let loss = |logits: &Tensor, labels: &Tensor| smooth_cross_entropy(logits, labels, 0.1);
            step_micro_batches(&model, &mut sam, &own, AscentOver::MicroBatch, loss)?;
            Ok(waited)
        }));
    }
    if !args.plain {
        let model = model.with_handed_over_gradients(); // as a training has it
        return Ok(Box::new(move || {
            let began = Instant::now();
            let batch = next_batch()?;
            let waited = began.elapsed();
            step(&model, &mut sam, &batch, |logits, labels| smooth_cross_entropy(logits, labels, 0.1))?;
            Ok(waited)
        }));
    }
    Ok(Box::new(move || {
        sam.step(|pass| {
            let mode = if pass == Pass::First { Mode::Train } else { Mode::TrainFrozenStatistics };
            let logits = model.forward_plain(&batch.images, mode)?;
            smooth_cross_entropy(&logits, &batch.labels, 0.1)?.mean_all()
        })?;
        Ok(Duration::ZERO)
    }))
}

/// What gives a batch after the other: always the same random one, or, with `--loader`, those of a training's loader.
fn batches(
    args: &Args,
    device: &Device,
    ranks: usize,
) -> Result<Box<dyn FnMut() -> Result<Batch, AnyError>>, AnyError> {
    let batch_size = args.batch as usize / ranks;
    if !args.loader {
        let shape = (batch_size, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE);
        let labels: Vec<u32> = (0..batch_size).map(|image| (image % LABELS) as u32).collect();
        let (images, labels) = (Tensor::randn(0f32, 1f32, shape, device)?, Tensor::new(labels, device)?);
        return Ok(Box::new(move || Ok(Batch::new(images.clone(), labels.clone()))));
    }
    let images = Dataset::synthetic(17, (16 * batch_size).max(8192), 0).train;
    let augmentation = Augmentation::reference(Statistics::from_split(&images)?);
    let config = LoaderConfig::default().with_batch_size(batch_size).with_threads(context(args).threads());
    let loader = Loader::new(&images, augmentation, config)?.with_device(device);
    let (mut number, mut epoch) = (0, loader.epoch(0));
    Ok(Box::new(move || {
        if epoch.len() == 0 {
            number += 1;
            epoch = loader.epoch(number);
        }
        Ok(epoch.next().ok_or("an epoch has batches")??)
    }))
}
