//! What is measured: the sums over a pass through the images, and the table of an epoch's figures.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use wrn_sam_kernels::tally::{DeviceTally, Sums};

use crate::error::{Error, Result};
use crate::run_folder::write_atomically;

/// Sums over images: exact counts, and the loss in `f64`, so that a mean is that of the images whatever the batches.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Images counted.
    pub images: u64,
    /// Sum of their losses. Stored as its bits, which no reader rounds.
    #[serde(with = "bits")]
    pub loss_sum: f64,
    /// How many had their label as the likeliest class.
    pub top1: u64,
    /// How many had their label among the five likeliest.
    pub top5: u64,
}

impl Tally {
    /// Adds a batch: `loss` `[N]` and `logits` `[N, K]` of a float type, `labels` `[N]` of an integer type.
    ///
    /// Of equal logits the lower class counts as the likelier one; NaN counts as likelier than the label.
    ///
    /// # Errors
    /// [`Error::Metrics`] for lengths that do not fit, or labels outside 0 to K - 1; [`Error::Candle`] for other ranks.
    pub fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<()> {
        let losses = loss.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let logits = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        if losses.len() != labels.len() || logits.len() != labels.len() {
            return Err(Error::Metrics {
                what: "of a batch".into(),
                found: format!("{} losses and {} rows of logits", losses.len(), logits.len()),
                expected: format!("one of each for {} labels", labels.len()),
            });
        }
        for ((loss, logits), label) in losses.iter().zip(&logits).zip(labels) {
            let rank = rank(logits, label as usize).ok_or_else(|| Error::Metrics {
                what: "of a batch".into(),
                found: format!("label {label}"),
                expected: format!("a class below {}", logits.len()),
            })?;
            self.images += 1;
            self.loss_sum += f64::from(*loss);
            self.top1 += u64::from(rank < 1);
            self.top5 += u64::from(rank < 5);
        }
        Ok(())
    }

    /// The mean loss; NaN of no images.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.images as f64
    }

    /// Top-1 accuracy in [0, 1]; NaN of no images.
    pub fn top1(&self) -> f64 {
        self.top1 as f64 / self.images as f64
    }

    /// Top-5 accuracy in [0, 1]; NaN of no images.
    pub fn top5(&self) -> f64 {
        self.top5 as f64 / self.images as f64
    }
}

/// A [`Tally`] of batches that may lie on an NVIDIA GPU: what is added there stays there until it is asked for.
#[derive(Debug, Default)]
pub struct Meter {
    tally: Tally,
    on_gpu: DeviceTally,
}

impl Meter {
    /// Adds a batch, as [`Tally::add`] does. `f32` losses and logits and `u32` labels on one NVIDIA GPU are added there,
    /// without waiting; a label outside 0 to K - 1 is then no error, but never right.
    ///
    /// # Errors
    /// Those of [`Tally::add`]; a GPU that fails.
    pub fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<()> {
        if self.on_gpu.add(loss, logits, labels)? { Ok(()) } else { self.tally.add(loss, logits, labels) }
    }

    /// All that was added. Waits for a GPU.
    ///
    /// # Errors
    /// A GPU that fails.
    pub fn tally(&mut self) -> Result<Tally> {
        let Sums { images, loss, top1, top5 } = self.on_gpu.take()?;
        self.tally.images += images;
        self.tally.loss_sum += loss;
        self.tally.top1 += top1;
        self.tally.top5 += top5;
        Ok(self.tally)
    }
}

/// Goes on from a tally.
impl From<Tally> for Meter {
    fn from(tally: Tally) -> Self {
        Self { tally, on_gpu: DeviceTally::default() }
    }
}

mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(x.to_bits())
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// How many classes are likelier than `label`.
fn rank(logits: &[f32], label: usize) -> Option<usize> {
    let own = *logits.get(label)?;
    let behind = |class, logit: f32| logit < own || (logit == own && class > label);
    Some(logits.iter().enumerate().filter(|&(class, &logit)| class != label && !behind(class, logit)).count())
}

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
fn nine_digits(x: f64) -> f64 {
    format!("{x:.8e}").parse().unwrap_or(x)
}

/// metrics.csv, a row added as each epoch ends.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Writes the header and `rows` to `path`, in place of what was there, and leaves the file open for more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, rows: &[EpochMetrics]) -> Result<Self> {
        let lines = rows.iter().map(|row| row.to_csv() + "\n").collect::<String>();
        write_atomically(path, format!("{HEADER}\n{lines}").as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.into(), file })
    }

    /// Adds a row; when this returns, it is on disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, row: &EpochMetrics) -> Result<()> {
        let line = row.to_csv() + "\n";
        let write = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        write.map_err(Error::io("write to", &self.path))
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
            return Err(Error::Metrics {
                what: "header".into(),
                found: header.into(),
                expected: HEADER.into(),
            });
        }
        lines.map(EpochMetrics::from_csv).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tally_counts_ranks_and_sums_losses() {
        let device = Device::Cpu;
        let logits: Vec<Vec<f32>> = vec![
            vec![0.1, 0.9, 0.2, 0.3, 0.4, 0.5], // label 1: first
            vec![0.6, 0.1, 0.2, 0.3, 0.4, 0.5], // label 2: fifth
            vec![0.6, 0.1, 0.2, 0.3, 0.4, 0.5], // label 1: sixth
        ];
        let logits = Tensor::new(logits, &device).unwrap();
        let mut tally = Tally::default();
        let loss = Tensor::new(&[1f32, 2.0, 4.5], &device).unwrap();
        tally.add(&loss, &logits, &Tensor::new(&[1u32, 2, 1], &device).unwrap()).unwrap();
        assert_eq!(tally, Tally { images: 3, loss_sum: 7.5, top1: 1, top5: 2 });
        assert_eq!(tally.loss(), 2.5);

        let error = tally.add(&loss, &logits, &Tensor::new(&[1u32, 6, 1], &device).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "metrics of a batch: found `label 6`, expected a class below 6");
    }

    #[test]
    fn ties_go_to_the_lower_class_and_nan_is_never_right() {
        assert_eq!(rank(&[0.0; 4], 0), Some(0));
        assert_eq!(rank(&[0.0; 4], 3), Some(3));
        assert_eq!(rank(&[f32::NAN; 4], 0), Some(3));
        assert_eq!(rank(&[f32::NAN, 1.0, 0.0], 1), Some(1));
        assert_eq!(rank(&[0.0; 4], 4), None);
    }

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
    fn rows_are_on_disk_when_appended_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let row = EpochMetrics::from_csv("1,0.1,4,0.01,4,0.02,0.05,1,100").unwrap();
        let mut file = MetricsFile::create(&path, &[row]).unwrap();
        file.append(&EpochMetrics { epoch: 2, ..row }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some(HEADER));
        assert_eq!(MetricsFile::read(&path).unwrap().iter().map(|row| row.epoch).collect::<Vec<_>>(), [1, 2]);

        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let error = MetricsFile::read(&path).unwrap_err().to_string();
        assert!(error.starts_with("metrics row: found `2,0.1,"), "{error}");
        std::fs::write(&path, "epoch,loss\n").unwrap();
        let error = MetricsFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("header") && error.contains("images_per_second"), "{error}");
    }
}
