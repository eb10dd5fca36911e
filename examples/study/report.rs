//! The results of a study: a table with means, deviations and paired differences, and a figure.

use std::fmt::Write as _;
use std::path::Path;

use wrn_sam::charts::{COLORS, Chart, Point, Series};
use wrn_sam::train::Provenance;

use crate::plan::{Plan, Run};
use crate::support::AnyError;
use crate::write;

/// A run that is over.
pub struct Finished {
    method: String,
    seed: u64,
    /// Test accuracy after the last epoch, in percent: no epoch was chosen by it.
    top1: f64,
    /// Gradients that were taken of each image.
    gradients: f64,
    sharpness: Vec<(String, f64)>,
}

impl Finished {
    /// # Errors
    /// Weights that do not say how well they did.
    pub fn read(run: &Run, sharpness: Option<Vec<(String, f64)>>) -> Result<Self, AnyError> {
        let weights = run.folder.join("model.safetensors");
        let provenance = Provenance::from_weights(&weights)?;
        let top1 = provenance.and_then(|provenance| provenance.test_top1);
        let top1 = top1.ok_or_else(|| format!("{} does not say its test accuracy", weights.display()))?;
        Ok(Self {
            method: run.method.clone(),
            seed: run.recipe.seed,
            top1: 100.0 * top1,
            gradients: run.recipe.epochs as f64 * run.recipe.gradients_per_epoch(),
            sharpness: sharpness.unwrap_or_default(),
        })
    }
}

/// What is known of a study so far.
pub struct Report<'a> {
    plan: &'a Plan,
    runs: Vec<Finished>,
}

impl<'a> Report<'a> {
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, runs: Vec::new() }
    }

    pub fn add(&mut self, run: Finished) {
        self.runs.push(run);
    }

    /// Writes runs.csv, table.md and accuracy.svg.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, out: &Path) -> Result<(), AnyError> {
        let mut csv = "method,seed,gradients_per_image,test_top1_percent".to_string();
        for (measure, _) in self.measures() {
            let _ = write!(csv, ",{measure}");
        }
        csv.push('\n');
        for run in &self.runs {
            let _ =
                write!(csv, "{},{},{},{}", run.method.replace(',', ";"), run.seed, run.gradients, run.top1);
            for (_, value) in &run.sharpness {
                let _ = write!(csv, ",{value}");
            }
            csv.push('\n');
        }
        write(&out.join("runs.csv"), &csv)?;
        write(&out.join("table.md"), &self.table())?;
        write(&out.join("accuracy.svg"), &self.figure())
    }

    fn measures(&self) -> &[(String, f64)] {
        self.runs.first().map_or(&[], |run| &run.sharpness)
    }

    fn of<'b>(&'b self, method: &'b str) -> impl Iterator<Item = &'b Finished> {
        self.runs.iter().filter(move |run| run.method == method)
    }

    /// As Markdown.
    pub fn table(&self) -> String {
        let base = &self.plan.methods[0].name;
        let mut text = format!("# {}\n\n", self.plan.title);
        let _ = write!(text, "| method | gradients | seeds | test top-1 (%) | less {base}, paired |");
        for (measure, _) in self.measures() {
            let _ = write!(text, " {measure} |");
        }
        let _ = writeln!(text, "\n|---|---|---|---|---|{}", "---|".repeat(self.measures().len()));
        for method in &self.plan.methods {
            let runs: Vec<_> = self.of(&method.name).collect();
            let Some(first) = runs.first() else { continue };
            let top1 = Spread::of(&runs.iter().map(|run| run.top1).collect::<Vec<_>>());
            let pairs = runs.iter().filter_map(|run| {
                let other = self.of(base).find(|other| other.seed == run.seed)?;
                Some(run.top1 - other.top1)
            });
            let difference = match Spread::of(&pairs.collect::<Vec<_>>()) {
                _ if method.name == *base => String::new(),
                Spread { mean, deviation: None, .. } => format!("{mean:+.2}"),
                spread => format!("{:+.2} ± {:.2}", spread.mean, spread.standard_error()),
            };
            let (name, gradients, seeds) = (&method.name, first.gradients, runs.len());
            let _ = write!(text, "| {name} | {gradients} | {seeds} | {top1} | {difference} |");
            for (index, _) in first.sharpness.iter().enumerate() {
                let values: Vec<_> = runs.iter().map(|run| run.sharpness[index].1).collect();
                let _ = write!(text, " {} |", Spread::of(&values).mean_of_three_digits());
            }
            text.push('\n');
        }
        text += "\nGradients: those taken of each image over the training. Accuracy: of the test images after the last epoch, its\n\
                 mean over the seeds ± their standard deviation. Paired: the mean of the differences seed by seed ± its\n\
                 standard error.\n";
        text
    }

    fn figure(&self) -> String {
        let chart = Chart::new(&self.plan.title, "gradients of each image", "test top-1 (%)");
        let chart = self.plan.methods.iter().enumerate().fold(chart, |chart, (index, method)| {
            let runs: Vec<_> = self.of(&method.name).collect();
            let Some(first) = runs.first() else { return chart };
            let Spread { mean, deviation, .. } =
                Spread::of(&runs.iter().map(|run| run.top1).collect::<Vec<_>>());
            let point = Point { x: first.gradients, y: mean, deviation: deviation.unwrap_or(0.0) };
            chart.with(Series::points(&method.name, COLORS[index % COLORS.len()], [point]))
        });
        chart.to_svg()
    }
}

/// Mean and standard deviation of some values.
struct Spread {
    mean: f64,
    /// With n - 1 in the denominator; none of one value.
    deviation: Option<f64>,
    count: usize,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Self { mean, deviation, count: values.len() }
    }

    fn standard_error(&self) -> f64 {
        self.deviation.map_or(f64::NAN, |deviation| deviation / (self.count as f64).sqrt())
    }

    fn mean_of_three_digits(&self) -> String {
        let decimals = (2.0 - self.mean.abs().max(1e-9).log10().floor()).clamp(0.0, 9.0) as usize;
        format!("{:.decimals$}", self.mean)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.deviation {
            Some(deviation) => write!(f, "{:.2} ± {deviation:.2}", self.mean),
            None => write!(f, "{:.2}", self.mean),
        }
    }
}
