//! SAM in one screen: gradient descent falls into a sharp minimum on its way, SAM finds the flat one.
//!
//!     cargo run --release --example sam_quadratic
//!
//! The function is a quadratic bowl with a deep, narrow pit in its slope. Both methods start at the same point
//! with the same learning rate. The picture shows their paths over the function's contours.

#[path = "support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wrn_sam::candle::{D, Device, Result, Tensor, Var};
use wrn_sam::candle_nn::Optimizer;
use wrn_sam::optim::{Pass, Sam, SamConfig, Sgd, SgdConfig};

use support::AnyError;

const START: [f64; 2] = [-2.4, 1.6];
const FLAT: [f64; 2] = [1.2, -0.4];
const SHARP: [f64; 2] = [-0.7, 0.35];
const STEPS: usize = 200;
/// The radius of SAM's neighborhood.
const RHO: f64 = 0.3;

/// The loss of every point of `w`: `[.., 2]` in, `[..]` out.
fn loss(w: &Tensor) -> Result<Tensor> {
    let to = |point: [f64; 2]| w.broadcast_sub(&Tensor::new(&point, &Device::Cpu)?)?.sqr();
    let bowl = to(FLAT)?.broadcast_mul(&Tensor::new(&[0.12, 0.06], &Device::Cpu)?)?.sum(D::Minus1)?;
    let pit = (to(SHARP)?.sum(D::Minus1)? * -10.0)?.exp()?;
    bowl - pit * 0.9
}

/// The losses on circles around a point, up to the radius that SAM looks at.
fn loss_around(point: &[f64]) -> Result<Tensor> {
    let on_circle =
        |radius: f64, angle: f64| vec![point[0] + radius * angle.cos(), point[1] + radius * angle.sin()];
    let circle = |radius| (0..360).map(move |degree| (radius, f64::from(degree).to_radians()));
    let points = (0..=10).flat_map(|tenth| circle(RHO * f64::from(tenth) / 10.0));
    let points: Vec<_> = points.map(|(radius, angle)| on_circle(radius, angle)).collect();
    loss(&Tensor::new(points, &Device::Cpu)?)
}

/// Plain gradient descent; returns the points it visits.
fn descend_with_sgd(config: SgdConfig) -> Result<Vec<Vec<f64>>> {
    let w = Var::new(&START, &Device::Cpu)?;
    let mut sgd = Sgd::new(vec![w.clone()], config)?;
    let mut path = vec![w.to_vec1()?];
    for _ in 0..STEPS {
        sgd.backward_step(&loss(&w)?)?;
        path.push(w.to_vec1()?);
    }
    Ok(path)
}

/// SAM around the same; returns the points it visits, and where it took each step's gradient.
fn descend_with_sam(config: SgdConfig, sam: SamConfig) -> Result<[Vec<Vec<f64>>; 2]> {
    let w = Var::new(&START, &Device::Cpu)?;
    let base = Sgd::new(vec![w.clone()], config)?;
    let mut sam = Sam::new(base, sam)?;
    let (mut path, mut perturbed) = (vec![w.to_vec1()?], Vec::new());
    for _ in 0..STEPS {
        sam.step(|pass| {
            if pass == Pass::Second {
                perturbed.push(w.to_vec1()?); // here, w is w + e
            }
            loss(&w)
        })?;
        path.push(w.to_vec1()?);
    }
    Ok([path, perturbed])
}

/// SAM and gradient descent on a two-dimensional function; draws their paths to DIR/sam_quadratic.svg.
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
    let config = SgdConfig::new(0.1);
    let sgd = descend_with_sgd(config)?;
    let [sam, perturbed] = descend_with_sam(config, SamConfig::sam(RHO))?;

    let mut out = std::io::stdout();
    for (name, path) in [("SGD", &sgd), ("SAM", &sam)] {
        let end = path.last().ok_or("a path has a start")?;
        let (at, around) = (loss(&Tensor::new(end.as_slice(), &Device::Cpu)?)?, loss_around(end)?);
        let (at, around) = (at.to_scalar::<f64>()?, around.max(0)?.to_scalar::<f64>()?);
        writeln!(
            out,
            "{name} ends at ({:5.2}, {:5.2}): loss {at:6.3} there, at most {around:6.3} within rho = {RHO}",
            end[0], end[1]
        )?;
    }
    writeln!(out, "SGD minimizes the loss at a point, SAM the largest loss around it.")?;
    let (file, picture) = (dir.join("sam_quadratic.svg"), draw(&sgd, &sam, &perturbed)?);
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, picture));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    writeln!(out, "{}", file.display())?;
    Ok(())
}

// Everything below only draws.

/// The picture's corner in the plane, its size there, and pixels per unit.
const LEFT: f64 = -2.8;
const TOP: f64 = 2.0;
const WIDTH: f64 = 5.0;
const HEIGHT: f64 = 3.6;
const UNIT: f64 = 150.0;
/// Contour grid cells per unit.
const CELLS: usize = 20;

fn draw(sgd: &[Vec<f64>], sam: &[Vec<f64>], perturbed: &[Vec<f64>]) -> Result<String> {
    let (width, height) = (WIDTH * UNIT, HEIGHT * UNIT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-50 -60 {} {}\" width=\"{}\" font-size=\"15\" \
         font-family=\"Helvetica, Arial, sans-serif\" fill=\"none\">\n\
         <rect x=\"-50\" y=\"-60\" width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        width + 70.0,
        height + 100.0,
        width + 70.0
    );
    let grid = Grid::of_loss()?;
    for level in -6..=11 {
        // Squares of whole numbers, which lie evenly in a bowl; dark in the pit, light on the rim.
        let contour = grid.contour(0.02 * f64::from(level * i32::abs(level)));
        let shade = 150 + 7 * level;
        let _ = writeln!(svg, "<path d=\"{contour}\" stroke=\"rgb({shade},{shade},{})\"/>", shade + 20);
    }
    for (from, to) in sam.iter().zip(perturbed) {
        let ends = polyline([from, to]);
        let _ = writeln!(svg, "<path d=\"{ends}\" stroke=\"#e67e22\" stroke-opacity=\"0.45\"/>");
    }
    for (path, color) in [(sgd, "#2166ac"), (sam, "#b2182b")] {
        let _ = writeln!(svg, "<path d=\"{}\" stroke=\"{color}\" stroke-width=\"2\"/>", polyline(path));
        for point in path {
            let (x, y) = pixel(point);
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"{color}\"/>");
        }
    }
    let _ = writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" stroke=\"#333\"/>");

    let middle = "text-anchor=\"middle\"";
    for tick in -2..=2 {
        svg += &text(pixel(&[f64::from(tick), 0.0]).0, height + 22.0, middle, &tick.to_string());
    }
    for tick in -1..=2 {
        let (_, y) = pixel(&[0.0, f64::from(tick)]);
        svg += &text(-10.0, y + 5.0, "text-anchor=\"end\"", &tick.to_string());
    }
    for (point, below, label) in
        [(START, -14.0, "start"), (SHARP, 64.0, "sharp minimum"), (FLAT, 64.0, "flat minimum")]
    {
        let (x, y) = pixel(&point);
        svg += &text(x, y + below, middle, label);
    }
    let title = "SAM passes over a sharp minimum that SGD falls into";
    svg += &text(0.0, -34.0, "font-size=\"18\" font-weight=\"bold\"", title);
    for (x, color, label) in [
        (0.0, "#2166ac", "SGD"),
        (90.0, "#b2182b", "SAM"),
        (180.0, "#e67e22", "SAM's ascent, from w to w + e"),
    ] {
        svg += &text(x + 32.0, -8.0, "", label);
        let _ = writeln!(svg, "<path d=\"M{x} -13h24\" stroke=\"{color}\" stroke-width=\"3\"/>");
    }
    Ok(svg + "</svg>\n")
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#222\" {attributes}>{text}</text>\n")
}

fn pixel(point: &[f64]) -> (f64, f64) {
    ((point[0] - LEFT) * UNIT, (TOP - point[1]) * UNIT)
}

fn polyline<'a>(points: impl IntoIterator<Item = &'a Vec<f64>>) -> String {
    let points = points.into_iter().map(|point| pixel(point)).map(|(x, y)| format!("{x:.1} {y:.1}"));
    format!("M{}", points.collect::<Vec<_>>().join("L"))
}

/// The loss on a grid over the picture.
struct Grid {
    points: Vec<Vec<f64>>,
    values: Vec<f64>,
}

const COLUMNS: usize = (WIDTH * CELLS as f64) as usize;
const ROWS: usize = (HEIGHT * CELLS as f64) as usize;

impl Grid {
    fn of_loss() -> Result<Self> {
        let at = |cell: usize| cell as f64 / CELLS as f64;
        let row = |row| (0..=COLUMNS).map(move |column| vec![LEFT + at(column), TOP - at(row)]);
        let points: Vec<_> = (0..=ROWS).flat_map(row).collect();
        let values = loss(&Tensor::new(points.clone(), &Device::Cpu)?)?.to_vec1()?;
        Ok(Self { points, values })
    }

    /// Where the loss is `level`, as a path: a line through each half of a cell that the contour crosses.
    fn contour(&self, level: f64) -> String {
        let mut path = String::new();
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let corner = row * (COLUMNS + 1) + column;
                let (right, below) = (corner + 1, corner + COLUMNS + 1);
                for triangle in [[corner, right, below], [right, below, below + 1]] {
                    let [a, b, c] = triangle;
                    let ends: Vec<_> = [(a, b), (b, c), (c, a)]
                        .into_iter()
                        .filter_map(|edge| self.cross(edge, level))
                        .collect();
                    if ends.len() == 2 {
                        path += &polyline(&ends);
                    }
                }
            }
        }
        path
    }

    /// Where the loss passes `level` between two grid points.
    fn cross(&self, (a, b): (usize, usize), level: f64) -> Option<Vec<f64>> {
        let (low, high) = (self.values[a] - level, self.values[b] - level);
        let share = low / (low - high);
        let between =
            |axis: usize| self.points[a][axis] + share * (self.points[b][axis] - self.points[a][axis]);
        ((low < 0.0) != (high < 0.0)).then(|| vec![between(0), between(1)])
    }
}
