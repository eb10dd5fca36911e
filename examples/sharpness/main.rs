//! Measures how sharp the minimum is that a training found: sharpness around the weights, the Hessian's largest eigenvalue
//! and trace, and the loss landscape, as a table, CSV files and figures.
//!
//! ```text
//! cargo run --release --example sharpness -- result/RUN/model.safetensors --data-dir data
//! ```
//!
//! Networks can be compared where images, radii and steps are the same.

mod measure;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wrn_sam::analysis::{Progress, Surface, landscape};
use wrn_sam::charts::{COLORS, Chart, Contours, Series};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::train::evaluate;

use measure::{Settings, Subject, Table};
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
    #[command(flatten)]
    settings: Settings,

    /// The landscape reaches from -X to X along each direction
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    range: f64,
    /// Places along the one direction; 0 for none
    #[arg(long, value_name = "N", default_value_t = 41)]
    line: usize,
    /// Places along each of the two directions; 0 for none
    #[arg(long, value_name = "N", default_value_t = 21)]
    plane: usize,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Folder for the files [default: MODEL with the ending .sharpness]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.device.device()?;
    let Args { model: path, settings, .. } = args;
    let subject = Subject::load(path, settings, &device)?;
    let out = args.out.clone().unwrap_or_else(|| args.model.with_extension("sharpness"));
    std::fs::create_dir_all(&out).map_err(|error| format!("cannot make {}: {error}", out.display()))?;

    let bar = bar();
    let mut surface = subject.surface()?.with_progress(|progress| show(&bar, progress));
    let Subject { name, model, batches, smoothing, .. } = &subject;
    say(format_args!("{name}, {} parameters, {} images", surface.parameters(), subject.images()));
    let table = Table::measure(settings, &mut surface)?;
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
    let right = landscape::direction(&surface, settings.seed, 0)?;
    if args.line > 0 {
        let at = landscape::grid(args.range, args.line)?;
        let values = landscape::line(&mut surface, &right, &at, measure)?;
        bar.finish_and_clear();
        draw_line(&out, name, &at, &values)?;
    }
    if args.plane > 0 {
        let (up, at) =
            (landscape::direction(&surface, settings.seed, 1)?, landscape::grid(args.range, args.plane)?);
        let values = landscape::plane(&mut surface, [&right, &up], [&at, &at], measure)?;
        bar.finish_and_clear();
        draw_plane(&out, name, &at, &values)?;
    }
    say(format_args!("table and figures are in {}", out.display()));
    Ok(())
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
