//! Times the loader and prints one JSON line: bytes of CIFAR-100 in memory to augmented, normalized batches.
//! `cargo run --release --example loader -- --data-dir data`

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde::Serialize;
use wrn_sam::data::{
    Augmentation, Dataset, Loader, LoaderConfig, Statistics, TEST_IMAGES, TRAIN_IMAGES, Variant,
};

use support::{AnyError, peak_bytes};

/// Time the loader with the reference's augmentation: images per second and peak memory as one JSON line.
#[derive(Parser)]
struct Args {
    /// Folder or archive of CIFAR-100; without it, synthetic images of the same number
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only the first N training images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    images: usize,
    /// Worker threads; with 0 the caller makes each batch
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Images per batch
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Epochs that are timed, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
}

#[derive(Serialize)]
struct Line {
    loader: &'static str,
    threads: usize,
    batch: u32,
    images: usize,
    read_seconds: f64,
    images_per_second: f64,
    minor_faults_per_batch: Option<f64>,
    peak_bytes: Option<u64>,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let limit = if args.images == 0 { TRAIN_IMAGES } else { args.images };
    let began = Instant::now();
    let cifar = match &args.data_dir {
        Some(folder) => Dataset::open(Variant::Cifar100, folder)?,
        None => Dataset::synthetic(17, limit, TEST_IMAGES),
    };
    let augmentation = Augmentation::reference(Statistics::from_split(&cifar.train)?);
    let read_seconds = began.elapsed().as_secs_f64();

    let config = LoaderConfig::default().with_batch_size(args.batch as usize).with_threads(args.threads);
    let loader = Loader::new(&cifar.train.truncated(limit), augmentation, config)?;
    let epoch = |epoch| loader.epoch(epoch).try_for_each(|batch| batch.map(drop));
    epoch(0)?;
    let (began, faults) = (Instant::now(), minor_faults());
    for number in 1..=args.epochs {
        epoch(number as usize)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let batches = f64::from(args.epochs) * loader.batches_per_epoch() as f64;
    let line = Line {
        loader: concat!("wrn-sam ", env!("CARGO_PKG_VERSION")),
        threads: args.threads,
        batch: args.batch,
        images: loader.len(),
        read_seconds,
        images_per_second: f64::from(args.epochs) * loader.len() as f64 / seconds,
        minor_faults_per_batch: faults
            .zip(minor_faults())
            .map(|(before, now)| (now - before) as f64 / batches),
        peak_bytes: peak_bytes(),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&line)?)?;
    Ok(())
}

/// How many pages the process was given until now without a disk's help, where the system tells (Linux).
fn minor_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the program's name in parentheses: state, six numbers, then the one wanted.
    stat.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}
