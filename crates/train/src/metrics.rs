//! The figures of a run's epochs, and the table of them: metrics.csv.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The header of metrics.csv.
pub const HEADER: &str =
    "epoch,learning_rate,train_loss,train_top1,test_loss,test_top1,test_top5,seconds,images_per_second";

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
    /// Mean smoothed loss of the test images after the epoch.
    pub test_loss: f64,
    /// Top-1 accuracy of the test images, in [0, 1].
    pub test_top1: f64,
    /// Top-5 accuracy of the test images, in [0, 1].
    pub test_top5: f64,
    /// Seconds the epoch took, training and evaluation.
    pub seconds: f64,
    /// Training images per second of training.
    pub images_per_second: f64,
}

impl EpochMetrics {
    /// The row as it stands in metrics.csv, without the line's end.
    ///
    /// ```
    /// use wrn_sam_train::EpochMetrics;
    ///
    /// let row = "3,0.02,2.917312,0.166800,2.841200,0.182300,0.455300,61.250,841.3";
    /// assert_eq!(EpochMetrics::from_csv(row)?.to_csv(), row);
    /// # Ok::<(), wrn_sam_train::Error>(())
    /// ```
    pub fn to_csv(&self) -> String {
        format!(
            "{},{},{:.6},{:.6},{:.6},{:.6},{:.6},{:.3},{:.1}",
            self.epoch,
            nine_digits(self.learning_rate),
            self.train_loss,
            self.train_top1,
            self.test_loss,
            self.test_top1,
            self.test_top5,
            self.seconds,
            self.images_per_second
        )
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`Error::Metrics`] for a line of other than nine numbers.
    pub fn from_csv(line: &str) -> Result<Self> {
        let parse = || -> Option<Self> {
            let (epoch, rest) = line.split_once(',')?;
            let numbers = rest.split(',').map(|field| field.parse().ok()).collect::<Option<Vec<f64>>>()?;
            let [
                learning_rate,
                train_loss,
                train_top1,
                test_loss,
                test_top1,
                test_top5,
                seconds,
                images_per_second,
            ] = numbers.try_into().ok()?;
            Some(Self {
                epoch: epoch.parse().ok()?,
                learning_rate,
                train_loss,
                train_top1,
                test_loss,
                test_top1,
                test_top5,
                seconds,
                images_per_second,
            })
        };
        parse().ok_or_else(|| Error::Metrics {
            what: "row".into(),
            found: line.into(),
            expected: format!("nine numbers: {HEADER}"),
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

/// Replaces the metrics.csv at `path` by one of these rows, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, rows: &[EpochMetrics]) -> Result<()> {
    let lines = rows.iter().map(|row| row.to_csv() + "\n").collect::<String>();
    Ok(wrn_sam_files::write(path, |file| write!(file, "{HEADER}\n{lines}"))?)
}

/// Reads the rows of a metrics.csv.
///
/// # Errors
/// [`Error::Io`]; [`Error::Metrics`] for another header or a row cut short.
pub fn read(path: &Path) -> Result<Vec<EpochMetrics>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    if header != HEADER {
        return Err(Error::Metrics { what: "header".into(), found: header.into(), expected: HEADER.into() });
    }
    lines.map(EpochMetrics::from_csv).collect()
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
            test_loss: 2.5572,
            test_top1: 0.2504,
            test_top5: 0.5594,
            seconds: 12.3456,
            images_per_second: 4051.66,
        };
        assert_eq!(row.to_csv(), "7,0.02,2.615300,0.241700,2.557200,0.250400,0.559400,12.346,4051.7");
    }

    #[test]
    fn a_table_is_read_as_it_was_written_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let row = EpochMetrics::from_csv("1,0.1,4,0.01,4,0.02,0.05,1,100").unwrap();
        write(&path, &[row, EpochMetrics { epoch: 2, ..row }]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some(HEADER));
        assert_eq!(read(&path).unwrap().iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2]);

        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with("metrics row: found `2,0.1,"), "{error}");
        std::fs::write(&path, "epoch,loss\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("header") && error.contains("images_per_second"), "{error}");
    }
}
