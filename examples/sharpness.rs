//! Measures how sharp the minimum is that a training found: sharpness around the weights, the Hessian's largest eigenvalue
//! and trace, and the loss landscape, as a table, CSV files and figures.
//!
//! ```text
//! cargo run --release --example sharpness -- result/RUN/model.safetensors --data-dir data
//! ```
//!
//! Networks can be compared where images, radii and steps are the same.

#[path = "support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wrn_sam::analysis::hessian::{self, Lanczos};
use wrn_sam::analysis::{Ball, Noise, Progress, Surface, landscape, sharpness};
use wrn_sam::candle::{DType, Device};
use wrn_sam::charts::{COLORS, Chart, Contours, Series};
use wrn_sam::data::{Augmentation, Batch, Dataset, Loader, LoaderConfig, Statistics, Variant};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::train::{Provenance, evaluate};

use support::{AnyError, DeviceChoice, say};

/// Measure how sharp the minimum of a trained Wide ResNet is, and draw the loss around it.
///
/// The loss is that of training, in evaluation mode, on images that are not augmented. Every value holds for these images,
/// and the Hessian's for the step h: a ReLU that changes sign within it adds curvature.
#[derive(Parser)]
struct Args {
    /// Weights: safetensors or PyTorch (.pth, .pt) of a Wide ResNet. Those of a run of cifar100 say what they were trained on
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Folder or archive of the CIFAR that the network was trained on; not needed for synthetic images
    #[arg(long, value_name = "PATH", default_value = "data")]
    data_dir: PathBuf,
    /// Which images to measure on
    #[arg(long, value_enum, default_value_t = Images::Train)]
    split: Images,
    /// The first N of them
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Images per batch; m of the m-sharpness
    #[arg(long, value_name = "M", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// Radius of the ball
    #[arg(long, default_value_t = 0.05)]
    rho: f64,
    /// Measure radii and noise in units of each weight's size
    #[arg(long)]
    adaptive: bool,
    /// Steps of the projected ascent to the worst case
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// Deviation of the noise of the average case
    #[arg(long, default_value_t = 0.005)]
    sigma: f64,
    /// Random draws of the average case and of the trace
    #[arg(long, value_name = "N", default_value_t = 10)]
    draws: usize,
    /// Step of the differences that give the Hessian
    #[arg(long, default_value_t = hessian::STEP)]
    h: f64,
    /// The most iterations of Lanczos's method
    #[arg(long, value_name = "N", default_value_t = 20)]
    iterations: usize,

    /// The landscape reaches from -X to X along each direction
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    range: f64,
    /// Places along the one direction; 0 for none
    #[arg(long, value_name = "N", default_value_t = 41)]
    line: usize,
    /// Places along each of the two directions; 0 for none
    #[arg(long, value_name = "N", default_value_t = 21)]
    plane: usize,

    /// What directions and noise are drawn from
    #[arg(long, default_value_t = 17)]
    seed: u64,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Folder for the files [default: MODEL with the ending .sharpness]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Images {
    Train,
    Test,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.device.device()?;
    let subject = Subject::load(args, &device)?;
    let out = args.out.clone().unwrap_or_else(|| args.model.with_extension("sharpness"));
    std::fs::create_dir_all(&out).map_err(|error| format!("cannot make {}: {error}", out.display()))?;

    let bar = bar();
    let Subject { name, model, parameters, batches, smoothing } = &subject;
    let loss = |batch: usize| {
        let Batch { images, labels, .. } = &batches[batch];
        let logits = model.forward_plain(images, Mode::Eval)?;
        Ok(smooth_cross_entropy(&logits, labels, *smoothing)?)
    };
    let mut surface = Surface::new(parameters.named_trainable(), batches.len(), loss)?
        .with_progress(|progress| show(&bar, progress));
    say(format_args!("{name}, {} parameters, {} images", surface.parameters(), subject.images()));
    let table = Table::measure(args, &mut surface)?;
    bar.finish_and_clear();
    table.print();
    write(&out.join("sharpness.csv"), &table.to_csv())?;

    // Accuracy too, and without a graph.
    let measure = |_: &mut Surface| {
        let batches = batches.iter().cloned().map(Ok);
        let tally =
            evaluate(model, batches, |x, labels| smooth_cross_entropy(x, labels, *smoothing), &device);
        tally.map(|tally| [tally.loss(), 100.0 * tally.top1()]).map_err(|error| match error {
            wrn_sam::train::Error::Candle(error) => error.into(),
            other => wrn_sam::candle::Error::wrap(other).into(),
        })
    };
    let right = landscape::direction(&surface, args.seed, 0)?;
    if args.line > 0 {
        let at = landscape::grid(args.range, args.line)?;
        let values = landscape::line(&mut surface, &right, &at, measure)?;
        bar.finish_and_clear();
        draw_line(&out, name, &at, &values)?;
    }
    if args.plane > 0 {
        let (up, at) =
            (landscape::direction(&surface, args.seed, 1)?, landscape::grid(args.range, args.plane)?);
        let values = landscape::plane(&mut surface, [&right, &up], [&at, &at], measure)?;
        bar.finish_and_clear();
        draw_plane(&out, name, &at, &values)?;
    }
    say(format_args!("table and figures are in {}", out.display()));
    Ok(())
}

/// What is measured: a network, and the images that its loss is taken of.
struct Subject {
    name: String,
    model: WideResNet,
    parameters: Parameters,
    batches: Vec<Batch>,
    smoothing: f64,
}

impl Subject {
    fn load(args: &Args, device: &Device) -> Result<Self, AnyError> {
        let provenance = Provenance::from_weights(&args.model)?;
        let config = WideResNetConfig::from_state_dict(&args.model)?;
        let parameters = Parameters::new(0, DType::F32, device);
        let model = WideResNet::new(&config, parameters.var_builder())?;
        parameters.load(&args.model)?;
        parameters.check_values()?;

        let data = match &provenance {
            Some(provenance) if provenance.synthetic => support::synthetic(&provenance.recipe),
            _ => {
                let variant = if config.classes == 10 { Variant::Cifar10 } else { Variant::Cifar100 };
                Dataset::open(variant, &args.data_dir)?
            }
        };
        if data.classes() != config.classes {
            let (network, images) = (config.classes, data.classes());
            return Err(format!("the network has {network} classes, the images {images}").into());
        }
        let statistics = match &provenance {
            Some(Provenance { mean, std, .. }) => Statistics { mean: *mean, std: *std },
            None => Statistics::from_split(&data.train)?,
        };
        let split = if args.split == Images::Train { &data.train } else { &data.test };
        let config = LoaderConfig::default()
            .with_batch_size(args.batch as usize)
            .with_threads(0)
            .with_shuffle(false)
            .with_seed(args.seed);
        let loader =
            Loader::new(&split.truncated(args.images as usize), Augmentation::none(statistics), config)?;
        let batches: Vec<Batch> =
            loader.epoch(0).map(|batch| Ok(batch?.to_device(device)?)).collect::<Result<_, AnyError>>()?;
        let (smoothing, what) = match &provenance {
            Some(provenance) => (provenance.recipe.label_smoothing, provenance.data.as_str()),
            None => (0.1, "CIFAR"),
        };
        let name = format!("WRN-{}-{} on {what}", model.config().depth, model.config().width_factor);
        Ok(Self { name, model, parameters, batches, smoothing })
    }

    fn images(&self) -> usize {
        self.batches.iter().map(|batch| batch.labels.elem_count()).sum()
    }
}

/// What was measured: the measure, its value, how certain that is, and with which settings.
struct Table(Vec<(&'static str, f64, Option<f64>, String)>);

impl Table {
    fn measure(args: &Args, surface: &mut Surface<'_>) -> Result<Self, AnyError> {
        let &Args { rho, adaptive, steps, sigma, draws, h, iterations, seed, batch, .. } = args;
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

    fn print(&self) {
        for (measure, value, uncertainty, of) in &self.0 {
            let uncertainty = uncertainty.map_or(String::new(), |uncertainty| format!("± {uncertainty:.3}"));
            say(format!("{measure:<22} {value:>12.5} {uncertainty:<10} {of}").trim_end());
        }
    }

    fn to_csv(&self) -> String {
        let mut text = "measure,value,uncertainty,settings\n".to_string();
        for (measure, value, uncertainty, of) in &self.0 {
            let uncertainty = uncertainty.map_or(String::new(), |uncertainty| uncertainty.to_string());
            let _ = writeln!(text, "{measure},{value},{uncertainty},{}", of.replace(',', ";"));
        }
        text
    }
}

fn draw_line(out: &Path, name: &str, at: &[f64], values: &[[f64; 2]]) -> Result<(), AnyError> {
    let mut csv = "a,loss,top1_percent\n".to_string();
    for (a, [loss, top1]) in at.iter().zip(values) {
        let _ = writeln!(csv, "{a},{loss},{top1}");
    }
    write(&out.join("line.csv"), &csv)?;
    let column = |index: usize| at.iter().zip(values).map(move |(&a, value)| (a, value[index]));
    for (file, label, index) in [("line-loss.svg", "loss", 0), ("line-top1.svg", "top-1 accuracy (%)", 1)] {
        let chart = Chart::new(&format!("Along a random direction: {name}"), "a (filter-normalized)", label);
        let chart = chart.from_zero().with(Series::line(label, COLORS[index], column(index)));
        write(&out.join(file), &chart.to_svg())?;
    }
    Ok(())
}

fn draw_plane(out: &Path, name: &str, at: &[f64], values: &[[f64; 2]]) -> Result<(), AnyError> {
    let mut csv = "a,b,loss,top1_percent\n".to_string();
    let places = at.iter().flat_map(|b| at.iter().map(move |a| (a, b)));
    for ((a, b), [loss, top1]) in places.zip(values) {
        let _ = writeln!(csv, "{a},{b},{loss},{top1}");
    }
    write(&out.join("plane.csv"), &csv)?;
    let losses = values.iter().map(|[loss, _]| *loss).collect();
    let title = format!("Loss around the weights: {name}");
    let picture = Contours::new(&title, "a (filter-normalized)", "b (filter-normalized)", at, at, losses);
    write(&out.join("plane.svg"), &picture.with_level_labels().with_label(0.0, 0.0, "w").to_svg())
}

fn write(path: &Path, text: &str) -> Result<(), AnyError> {
    Ok(wrn_sam::files::write(path, |file| file.write_all(text.as_bytes()))?)
}

/// On a terminal, a bar on stderr.
fn bar() -> ProgressBar {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = "{msg:24} [{bar:24}] {pos}/{len}  {eta} left";
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
    ProgressBar::with_draw_target(None, target).with_style(style)
}

fn show(bar: &ProgressBar, progress: Progress) {
    if bar.message() != progress.measure {
        bar.reset();
        bar.set_message(progress.measure);
    }
    bar.set_length(progress.total as u64);
    bar.set_position(progress.done as u64);
}
