//! The curves of a run.

use std::path::Path;

use wrn_sam_charts::{COLORS, Chart, Series};

use crate::error::Result;
use crate::metrics::{EpochMetrics, EvalSplit};

/// The files of [`draw`].
pub const FILES: [&str; 3] = ["loss.svg", "top1.svg", "top5.svg"];

const BLUE: &str = COLORS[0];
const ORANGE: &str = COLORS[1];

/// Draws the curves of `rows`, measured on `split`, into `folder`: `loss.svg` and `top1.svg` with that of training and that of
/// `split`, `top5.svg` with top-1 and top-5 of `split`. `subject` says in the titles what was trained on what.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// use wrn_sam_train::{EpochMetrics, metrics::EvalSplit, report};
///
/// let row = EpochMetrics::from_csv("1,0.1,3.4405,0.0651,3.2943,0.0918,0.2982,39.1,1320.4,1")?;
/// report::draw(folder, "WRN-10-1, CIFAR-100", EvalSplit::Test, &[row])?;
/// assert!(std::fs::read_to_string(folder.join("top5.svg")).unwrap().contains("best 29.82 % in epoch 1"));
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); each file is replaced whole or not at all.
pub fn draw(folder: &Path, subject: &str, split: EvalSplit, rows: &[EpochMetrics]) -> Result<()> {
    for (file, svg) in FILES.iter().zip(curves(subject, split, rows)) {
        wrn_sam_files::write(folder.join(file), |file| file.write_all(svg.as_bytes()))?;
    }
    Ok(())
}

/// The figures of [`draw`], as SVG.
pub(crate) fn curves(subject: &str, split: EvalSplit, rows: &[EpochMetrics]) -> [String; 3] {
    let split = split.to_string();
    let column = |value: fn(&EpochMetrics) -> f64| rows.iter().map(value).collect::<Vec<_>>();
    let percent =
        |value: fn(&EpochMetrics) -> f64| rows.iter().map(|row| 100.0 * value(row)).collect::<Vec<_>>();
    let accuracy = |name: &str, color, values: Vec<f64>| {
        let best =
            best(&values, f64::max).map(|(epoch, value)| format!(", best {value:.2} % in epoch {epoch}"));
        Series::over_epochs(&format!("{name}{}", best.unwrap_or_default()), color, values)
    };
    let loss = |name: &str, color, values: Vec<f64>| {
        let best =
            best(&values, f64::min).map(|(epoch, value)| format!(", lowest {value:.4} in epoch {epoch}"));
        Series::over_epochs(&format!("{name}{}", best.unwrap_or_default()), color, values)
    };
    let chart = |title: &str, label: &str| Chart::new(&format!("{title}: {subject}"), "epoch", label);

    let charts = [
        chart("Loss", "loss (KL form, smoothed)")
            .with(loss("train", BLUE, column(|row| row.train_loss)))
            .with(loss(&split, ORANGE, column(|row| row.eval_loss))),
        chart("Top-1 accuracy", "top-1 accuracy (%)")
            .from_zero()
            .with(accuracy("train", BLUE, percent(|row| row.train_top1)))
            .with(accuracy(&split, ORANGE, percent(|row| row.eval_top1))),
        chart("Top-1 and top-5 accuracy", &format!("{split} accuracy (%)"))
            .from_zero()
            .with(accuracy("top-1", BLUE, percent(|row| row.eval_top1)))
            .with(accuracy("top-5", ORANGE, percent(|row| row.eval_top5))),
    ];
    charts.map(|chart| chart.to_svg())
}

/// The first epoch with the extreme of the finite values, and that value.
fn best(values: &[f64], extreme: fn(f64, f64) -> f64) -> Option<(usize, f64)> {
    let best = values.iter().copied().filter(|value| value.is_finite()).reduce(extreme)?;
    Some((values.iter().position(|value| *value == best)? + 1, best))
}
