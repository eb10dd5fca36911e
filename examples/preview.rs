//! Draws training images as a network sees them: a row for each augmentation, with the classes' names.
//! `cargo run --release --example preview -- preview.png --data-dir data`

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage};
use wrn_sam::data::{
    Augmentation, Batch, Dataset, IMAGE_SIZE, Loader, LoaderConfig, Mix, Policy, Statistics, Variant,
};

use support::AnyError;

/// Draw training images under each augmentation, with the classes' names, as a PNG.
#[derive(Parser)]
struct Args {
    /// Where to write the picture
    out: PathBuf,
    /// Folder or archive of CIFAR-100; without it, synthetic images
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many of the first training images to draw
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    images: u32,
    /// What the augmentations are drawn from
    #[arg(long, default_value_t = 17)]
    seed: u64,
}

/// Each pixel of an image is a square of so many.
const SCALE: u32 = 4;
const SIDE: u32 = IMAGE_SIZE as u32 * SCALE;
const MARGIN: u32 = 8;
/// A character of the font, and a line of them with some air.
const CHARACTER: u32 = 8;
const LINE: u32 = 11;
/// What stands left of the images: 16 characters.
const TITLE: u32 = 16 * CHARACTER + MARGIN;
const CELL: (u32, u32) = (SIDE + MARGIN, SIDE + 2 * LINE + MARGIN);

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let count = args.images as usize;
    let cifar = match &args.data_dir {
        Some(folder) => Dataset::open(Variant::Cifar100, folder)?,
        None => Dataset::synthetic(17, 1000.max(count), 0),
    };
    let statistics = Statistics::from_split(&cifar.train)?;
    let basic = Augmentation::basic(statistics);
    let policy = |policy| Augmentation::none(statistics).with_policy(policy);
    let rows = [
        ("original", Augmentation::none(statistics), None, 1),
        ("crop and flip", basic.clone(), None, 1),
        ("cutout", Augmentation::reference(statistics), None, 2),
        ("AutoAugment", policy(Policy::AutoAugment), None, 2),
        ("RandAugment", policy(Policy::RAND_AUGMENT), None, 2),
        ("TrivialAugment", policy(Policy::TrivialAugment), None, 2),
        ("mixup", basic.clone(), Some(Mix::mixup(1.0)), 1),
        ("CutMix", basic, Some(Mix::cutmix(1.0)), 1),
    ];

    let height: usize = rows.iter().map(|(.., draws)| draws).sum();
    let mut canvas = RgbImage::from_pixel(
        MARGIN + TITLE + CELL.0 * args.images,
        MARGIN + CELL.1 * height as u32,
        Rgb([255; 3]),
    );
    let mut top = MARGIN;
    for (title, augmentation, mix, draws) in rows {
        let config = LoaderConfig::default()
            .with_batch_size(count)
            .with_threads(0)
            .with_shuffle(false)
            .with_seed(args.seed);
        let loader = Loader::new(&cifar.train.truncated(count), augmentation, config)?.with_mix(mix)?;
        write(&mut canvas, (MARGIN, top + SIDE / 2), title);
        // Every epoch has other draws of the same images.
        for batch in (0..draws).flat_map(|epoch| loader.epoch(epoch)) {
            draw_row(&mut canvas, top, &batch?, statistics, &cifar.class_names)?;
            top += CELL.1;
        }
    }
    canvas.save(&args.out).map_err(|error| format!("cannot write {}: {error}", args.out.display()))?;
    Ok(())
}

/// Draws a batch beside each other, with what each image is.
fn draw_row(
    canvas: &mut RgbImage,
    top: u32,
    batch: &Batch,
    statistics: Statistics,
    names: &[String],
) -> Result<(), AnyError> {
    let name = |label: u32| names[label as usize].replace('_', " ");
    let images = batch.images.permute((0, 2, 3, 1))?.flatten_from(1)?.to_vec2::<f32>()?;
    let labels = batch.labels.to_vec1::<u32>()?;
    let others = match &batch.mixed {
        Some(mixed) => Some((mixed.labels.to_vec1::<u32>()?, mixed.lambda)),
        None => None,
    };
    for (index, (image, &label)) in images.iter().zip(&labels).enumerate() {
        let left = MARGIN + TITLE + CELL.0 * index as u32;
        for (x, y) in (0..SIDE).flat_map(|x| (0..SIDE).map(move |y| (x, y))) {
            let pixel = (y / SCALE) as usize * IMAGE_SIZE + (x / SCALE) as usize;
            let byte = |channel: usize| {
                let value = f64::from(image[3 * pixel + channel]);
                (255.0 * (value * statistics.std[channel] + statistics.mean[channel])).round() as u8
            };
            canvas.put_pixel(left + x, top + y, Rgb([byte(0), byte(1), byte(2)]));
        }
        let below = top + SIDE + 2;
        match &others {
            None => write(canvas, (left, below), &name(label)),
            Some((others, lambda)) => {
                let part = |weight: f64, label| format!("{:.0}% {}", 100.0 * weight, name(label));
                write(canvas, (left, below), &part(*lambda, label));
                write(canvas, (left, below + LINE), &part(1.0 - lambda, others[index]));
            }
        }
    }
    Ok(())
}

/// Writes a line of text from the given left and top.
fn write(canvas: &mut RgbImage, (left, top): (u32, u32), text: &str) {
    for (place, character) in (0..).zip(text.chars()) {
        let glyph = font8x8::BASIC_FONTS.get(character).unwrap_or([0xFF; 8]);
        for (y, row) in (0..).zip(glyph) {
            for x in (0..CHARACTER).filter(|x| row >> x & 1 == 1) {
                let (x, y) = (left + place * CHARACTER + x, top + y);
                if x < canvas.width() && y < canvas.height() {
                    canvas.put_pixel(x, y, Rgb([0; 3]));
                }
            }
        }
    }
}
