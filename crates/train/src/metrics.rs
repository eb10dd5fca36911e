//! The figures of a run's epochs, and the table of them: metrics.csv.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tally::Tally;

/// The images that each epoch is measured on, and that the best epoch is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvalSplit {
    /// The test images. The best epoch is then chosen on them, so its figure is too good: no other images confirm it.
    Test,
    /// The images that the recipe's `validation` holds out of the training images. The test images are measured once, at the
    /// end of the run.
    Validation,
}

impl fmt::Display for EvalSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Test => "test",
            Self::Validation => "validation",
        })
    }
}

/// The header of metrics.csv, which says on which images the epochs were measured and the best one was chosen.
///
/// ```
/// use wrn_sam_train::metrics::{EvalSplit, header};
///
/// assert_eq!(
///     header(EvalSplit::Test),
///     "epoch,learning_rate,train_loss,train_top1,test_loss,test_top1,test_top5,seconds,images_per_second,best_by_test"
/// );
/// assert!(header(EvalSplit::Validation).ends_with(",best_by_validation"));
/// ```
pub fn header(split: EvalSplit) -> String {
    format!(
        "epoch,learning_rate,train_loss,train_top1,{split}_loss,{split}_top1,{split}_top5,seconds,images_per_second,\
         best_by_{split}"
    )
}

/// The figures of one epoch: a row of metrics.csv, as which it is also stored elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The learning rate it was trained with.
    pub learning_rate: f64,
    /// Mean smoothed loss of the training images, each seen in the first pass of its step.
    pub train_loss: f64,
    /// Top-1 accuracy of the same answers, in [0, 1]; in a mixed batch by the labels with the larger weight.
    pub train_top1: f64,
    /// Mean smoothed loss, after the epoch, of the images of the run's [`EvalSplit`].
    pub eval_loss: f64,
    /// Top-1 accuracy of the same images, in [0, 1].
    pub eval_top1: f64,
    /// Top-5 accuracy of the same images, in [0, 1].
    pub eval_top5: f64,
    /// Seconds the epoch took, training and evaluation.
    pub seconds: f64,
    /// Training images per second of training.
    pub images_per_second: f64,
    /// Whether this epoch is better than all before it: best.safetensors then has its weights.
    pub best: bool,
}

impl EpochMetrics {
    /// The row as it stands in metrics.csv, without the line's end.
    ///
    /// ```
    /// use wrn_sam_train::EpochMetrics;
    ///
    /// let row = "3,0.02,2.917312,0.166800,2.841200,0.182300,0.455300,61.250,841.3,1";
    /// assert_eq!(EpochMetrics::from_csv(row)?.to_csv(), row);
    /// # Ok::<(), wrn_sam_train::Error>(())
    /// ```
    pub fn to_csv(&self) -> String {
        format!(
            "{},{},{:.6},{:.6},{:.6},{:.6},{:.6},{:.3},{:.1},{}",
            self.epoch,
            nine_digits(self.learning_rate),
            self.train_loss,
            self.train_top1,
            self.eval_loss,
            self.eval_top1,
            self.eval_top5,
            self.seconds,
            self.images_per_second,
            u8::from(self.best)
        )
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`Error::Metrics`] for a line of other than ten numbers.
    pub fn from_csv(line: &str) -> Result<Self> {
        let parse = || -> Option<Self> {
            let mut fields = line.split(',');
            let epoch = fields.next()?.parse().ok()?;
            let mut number = || fields.next()?.parse::<f64>().ok();
            let row = Self {
                epoch,
                learning_rate: number()?,
                train_loss: number()?,
                train_top1: number()?,
                eval_loss: number()?,
                eval_top1: number()?,
                eval_top5: number()?,
                seconds: number()?,
                images_per_second: number()?,
                best: match fields.next()? {
                    "0" => false,
                    "1" => true,
                    _ => return None,
                },
            };
            fields.next().is_none().then_some(row)
        };
        parse().ok_or_else(|| Error::Metrics {
            what: "row".into(),
            found: line.into(),
            expected: format!("ten numbers: {}", header(EvalSplit::Test)),
        })
    }
}

impl From<EpochMetrics> for String {
    fn from(row: EpochMetrics) -> Self {
        row.to_csv()
    }
}

impl TryFrom<String> for EpochMetrics {
    type Error = Error;

    fn try_from(line: String) -> Result<Self> {
        Self::from_csv(&line)
    }
}

/// 0.020000000000000004 is meant as 0.02.
pub(crate) fn nine_digits(x: f64) -> f64 {
    format!("{x:.8e}").parse().unwrap_or(x)
}

/// Replaces the metrics.csv at `path` by one of these rows, measured on `split`, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, split: EvalSplit, rows: &[EpochMetrics]) -> Result<()> {
    let lines = rows.iter().map(|row| row.to_csv() + "\n").collect::<String>();
    Ok(wrn_sam_files::write(path, |file| write!(file, "{}\n{lines}", header(split)))?)
}

/// Reads the rows of a metrics.csv.
///
/// # Errors
/// [`Error::Io`]; [`Error::Metrics`] for another header or a row cut short.
pub fn read(path: &Path) -> Result<Vec<EpochMetrics>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut lines = text.lines();
    let found = lines.next().unwrap_or_default();
    if ![EvalSplit::Test, EvalSplit::Validation].map(header).iter().any(|header| header == found) {
        let expected = header(EvalSplit::Test);
        return Err(Error::Metrics { what: "header".into(), found: found.into(), expected });
    }
    lines.map(EpochMetrics::from_csv).collect()
}

/// The header of test.csv.
const TEST_HEADER: &str = "weights,epoch,loss,top1,top5";

/// What some weights do on the test images at the end of a run: a row of test.csv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FinalTest {
    /// The file of weights, without `.safetensors`: `model` for those of the last epoch, `best` for those of the best one,
    /// `ema` or `swa` for an average of the weights.
    pub weights: String,
    /// The epoch that they are from, from 1.
    pub epoch: usize,
    /// Mean smoothed loss of the test images.
    pub loss: f64,
    /// Top-1 accuracy of the test images, in [0, 1].
    pub top1: f64,
    /// Top-5 accuracy of the test images, in [0, 1].
    pub top5: f64,
}

impl FinalTest {
    pub(crate) fn new(weights: &str, epoch: usize, tally: &Tally) -> Self {
        // As they will be read back.
        let six = |x: f64| format!("{x:.6}").parse().unwrap_or(x);
        let (loss, top1, top5) = (six(tally.loss()), six(tally.top1()), six(tally.top5()));
        Self { weights: weights.into(), epoch, loss, top1, top5 }
    }
}

/// Replaces the test.csv at `path`.
pub(crate) fn write_test(path: &Path, rows: &[FinalTest]) -> Result<()> {
    let line = |row: &FinalTest| {
        let FinalTest { weights, epoch, loss, top1, top5 } = row;
        format!("{weights},{epoch},{loss:.6},{top1:.6},{top5:.6}\n")
    };
    let lines = rows.iter().map(line).collect::<String>();
    Ok(wrn_sam_files::write(path, |file| write!(file, "{TEST_HEADER}\n{lines}"))?)
}

/// Reads the rows of a test.csv.
///
/// # Errors
/// [`Error::Io`]; [`Error::Metrics`] for a file of another form.
pub fn read_test(path: &Path) -> Result<Vec<FinalTest>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let refused = |found: &str| Error::Metrics {
        what: format!("in {}", path.display()),
        found: found.into(),
        expected: format!("rows of {TEST_HEADER}"),
    };
    let mut lines = text.lines();
    lines.next().filter(|line| *line == TEST_HEADER).ok_or_else(|| refused("another header"))?;
    let row = |line: &str| {
        let [weights, epoch, loss, top1, top5] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
        Some(FinalTest {
            weights: weights.into(),
            epoch: epoch.parse().ok()?,
            loss: loss.parse().ok()?,
            top1: top1.parse().ok()?,
            top5: top5.parse().ok()?,
        })
    };
    lines.map(|line| row(line).ok_or_else(|| refused(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_well() {
        let row = EpochMetrics {
            epoch: 7,
            learning_rate: 0.1 * 0.2,
            train_loss: 2.6153,
            train_top1: 0.2417,
            eval_loss: 2.5572,
            eval_top1: 0.2504,
            eval_top5: 0.5594,
            seconds: 12.3456,
            images_per_second: 4051.66,
            best: true,
        };
        assert_eq!(row.to_csv(), "7,0.02,2.615300,0.241700,2.557200,0.250400,0.559400,12.346,4051.7,1");
        for (from, to) in
            [("7,1", "7,2"), ("7,1", "7"), ("7,1", "7,1,1"), ("7,0.02", "0.7,0.02"), ("12.346", "x")]
        {
            assert!(EpochMetrics::from_csv(&row.to_csv().replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_table_is_read_as_it_was_written_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let row = EpochMetrics::from_csv("1,0.1,4,0.01,4,0.02,0.05,1,100,1").unwrap();
        for split in [EvalSplit::Validation, EvalSplit::Test] {
            write(&path, split, &[row, EpochMetrics { epoch: 2, ..row }]).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().next(), Some(&*header(split)));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(read(&path).unwrap().iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2]);

        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with("metrics row: found `2,0.1,"), "{error}");
        std::fs::write(&path, "epoch,loss\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("header") && error.contains("images_per_second"), "{error}");
    }
}
