//! The SAM family in one picture: gradient descent falls into a sharp minimum on its way, SAM and its relatives find the flat
//! one.
//!
//!     cargo run --release --example sam_quadratic
//!
//! The function is a quadratic bowl with a deep, narrow pit in its slope. All methods start at the same point and move as
//! fast. The picture shows their paths over the function's contours.

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wrn_sam::candle::{D, Device, Result, Tensor, Var};
use wrn_sam::charts::{COLORS, Contours, Path};
use wrn_sam::optim::{Pass, Sam, SamConfig, Sgd, SgdConfig};

use support::{AnyError, say};

const START: [f64; 2] = [-2.4, 1.6];
const FLAT: [f64; 2] = [1.2, -0.4];
const SHARP: [f64; 2] = [-0.7, 0.35];
const STEPS: usize = 400;
/// The radius of SAM's neighborhood.
const RHO: f64 = 0.3;

/// The loss of every point of `w`: `[.., 2]` in, `[..]` out.
fn loss(w: &Tensor) -> Result<Tensor> {
    let to = |point: [f64; 2]| w.broadcast_sub(&Tensor::new(&point, &Device::Cpu)?)?.sqr();
    let bowl = to(FLAT)?.broadcast_mul(&Tensor::new(&[0.12, 0.06], &Device::Cpu)?)?.sum(D::Minus1)?;
    let pit = (to(SHARP)?.sum(D::Minus1)? * -10.0)?.exp()?;
    bowl - pit * 0.9
}

/// The largest loss within SAM's radius of a point: on circles around it.
fn largest_around((x, y): (f64, f64)) -> Result<f64> {
    let circle = |radius: f64| (0..360).map(move |degree| (radius, f64::from(degree).to_radians()));
    let points = (0..=10).flat_map(|tenth| circle(RHO * f64::from(tenth) / 10.0));
    let points: Vec<_> =
        points.map(|(radius, angle)| vec![x + radius * angle.cos(), y + radius * angle.sin()]).collect();
    loss(&Tensor::new(points, &Device::Cpu)?)?.max(0)?.to_scalar()
}

/// What a method does from the start.
struct Walk {
    name: &'static str,
    /// The points that it visits.
    path: Vec<(f64, f64)>,
    /// Where it took the gradients of its second passes, each with the point that it climbed from.
    ascents: Vec<[(f64, f64); 2]>,
    gradients: usize,
}

impl Walk {
    fn new(name: &'static str, base: SgdConfig, sam: SamConfig) -> Result<Self> {
        let w = Var::new(&START, &Device::Cpu)?;
        let at = || -> Result<(f64, f64)> {
            let point = w.to_vec1::<f64>()?;
            Ok((point[0], point[1]))
        };
        let mut sam = Sam::new(Sgd::named(vec![("w".into(), w.clone())], base)?, sam)?;
        let mut walk = Self { name, path: vec![at()?], ascents: Vec::new(), gradients: 0 };
        for _ in 0..STEPS {
            let from = at()?;
            sam.step(|pass| {
                walk.gradients += 1;
                if pass == Pass::Second {
                    walk.ascents.push([from, at()?]); // here, w is w + e
                }
                loss(&w)
            })?;
            walk.path.push(at()?);
        }
        Ok(walk)
    }

    fn end(&self) -> (f64, f64) {
        self.path[self.path.len() - 1]
    }
}

/// The SAM family on a two-dimensional function: draw the paths of its members to DIR/sam_quadratic.svg.
#[derive(Parser)]
struct Options {
    /// The folder for the picture
    #[arg(default_value = "result")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    support::end(run(&Options::parse()))
}

fn run(Options { dir }: &Options) -> std::result::Result<(), AnyError> {
    let base = SgdConfig::new(0.1);
    // With a momentum of 0.5, half the rate moves as fast. MSAM has a larger radius than SAM in its paper too.
    let with_momentum = SgdConfig::new(0.05).with_momentum(0.5);
    let walks = [
        Walk::new("SGD", base, SamConfig::sam(0.0))?,
        Walk::new("SAM", base, SamConfig::sam(RHO))?,
        Walk::new("ASAM", base, SamConfig::asam(RHO))?,
        Walk::new("MSAM", with_momentum, SamConfig::msam(2.0 * RHO))?,
        Walk::new("LookSAM", base, SamConfig::looksam(RHO))?,
        Walk::new("GSAM", base, SamConfig::gsam(RHO))?,
    ];
    say(format_args!("method   gradients  ends at          largest loss within {RHO}"));
    for walk in &walks {
        let (name, gradients, (x, y)) = (walk.name, walk.gradients, walk.end());
        let around = largest_around(walk.end())?;
        say(format_args!("{name:<8} {gradients:>9}  ({x:5.2}, {y:5.2})   {around:.3}"));
    }
    say("SGD makes the loss at a point small; the others make the largest loss around it small.");
    let (file, picture) = (dir.join("sam_quadratic.svg"), picture(&walks)?);
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, picture));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    say(file.display());
    Ok(())
}

/// The function's contours with the paths over them.
fn picture(walks: &[Walk]) -> Result<String> {
    let axis = |low: f64, cells: usize| (0..=cells).map(|cell| low + cell as f64 / 15.0).collect::<Vec<_>>();
    let (x, y) = (axis(-2.8, 75), axis(-1.4, 51));
    let points: Vec<_> = y.iter().flat_map(|&y| x.iter().map(move |&x| vec![x, y])).collect();
    let values = loss(&Tensor::new(points, &Device::Cpu)?)?.to_vec1()?;
    // Squares of whole numbers, which lie evenly in a bowl.
    let levels = (-6..=11).map(|level| 0.02 * f64::from(level * i32::abs(level)));

    let title = "The SAM family passes over a sharp minimum that SGD falls into";
    let mut picture = Contours::new(title, "w1", "w2", &x, &y, values).with_levels(levels);
    if let Some(sam) = walks.iter().find(|walk| walk.name == "SAM") {
        // A point that is no number lifts the pen.
        let pieces = sam.ascents.iter().flat_map(|[from, to]| [*from, *to, (f64::NAN, f64::NAN)]);
        picture = picture.with_path(Path::new("SAM's ascent, w to w + e", "#f2c79b", pieces));
    }
    for (walk, color) in walks.iter().zip(COLORS) {
        picture = picture.with_path(Path::new(walk.name, color, walk.path.iter().copied()).with_dots());
    }
    for ([x, y], text) in [
        ([START[0], 1.72], "start"),
        ([SHARP[0], -0.18], "sharp minimum"),
        ([FLAT[0], -0.85], "flat minimum"),
    ] {
        picture = picture.with_label(x, y, text);
    }
    Ok(picture.to_svg())
}
