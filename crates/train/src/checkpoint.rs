//! Checkpoints: everything a run needs to continue as if it had never stopped, in one file.
//!
//! A checkpoint is a safetensors file. Its tensors are the network's (`model.…`, parameters and buffers), the
//! optimizer's (`optimizer.…`), and those of an average of the weights (`average.…`); its metadata has one entry, the JSON of a [`Progress`] and a checksum over that and
//! the tensors. It appears under its name complete or not at all, and one that is damaged later is recognized.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fingerprint;
use crate::metrics::EpochMetrics;
use crate::run_source::{InitialWeights, Lengthened};
use crate::tally::{Tally, bits};

/// How many checkpoints a run keeps.
pub const KEPT: usize = 2;

/// The one entry of a checkpoint's metadata: these words and the number of the format.
const FORMAT: &str = "wrn-sam checkpoint ";
const METADATA: &str = "wrn-sam checkpoint 3";

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The recipe, as TOML.
    pub recipe: String,
    /// What the training and test images are, as 32 hexadecimal digits.
    pub images: String,
    /// Epochs that have ended.
    pub epoch: usize,
    /// Steps taken of the next one.
    pub step: usize,
    /// The learning rate they were taken with. Stored as its bits, which no reader rounds.
    #[serde(with = "bits")]
    pub learning_rate: f64,
    /// Sums over those steps.
    pub tally: Tally,
    /// Seconds they took.
    pub seconds: f64,
    /// The best epoch so far.
    pub best: Option<Best>,
    /// The rows of metrics.csv.
    pub rows: Vec<EpochMetrics>,
    /// The weights that the run began with, if it was given any.
    pub initial_weights: Option<InitialWeights>,
    /// Each time that the run was given more epochs.
    pub lengthened: Vec<Lengthened>,
}

/// The epoch after which the most images were classified rightly, the first of equals: of the validation images, if there
/// are any, else of the test images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Best {
    /// The epoch, from 1.
    pub epoch: usize,
    /// How many of them were classified rightly.
    pub top1: u64,
}

/// What a checkpoint file holds.
#[derive(Debug)]
pub struct Checkpoint {
    /// How far the run had come.
    pub progress: Progress,
    /// The network's parameters and buffers by name.
    pub model: HashMap<String, Tensor>,
    /// The optimizer's state by name.
    pub optimizer: HashMap<String, Tensor>,
    /// The state of the weights' average by name; empty without one.
    pub average: HashMap<String, Tensor>,
}

/// The checkpoint to resume from.
#[derive(Debug)]
pub struct Newest {
    /// Its file.
    pub path: PathBuf,
    /// What is in it.
    pub checkpoint: Checkpoint,
    /// Newer ones that could not be read, newest first.
    pub skipped: Vec<Error>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    /// The JSON of a [`Progress`], as text, so that the checksum is over the very bytes written.
    progress: String,
    checksum: String,
}

/// Writes a checkpoint of `parts`, each named as in a [`Checkpoint`], into `folder`, named by its position, and removes all but the newest [`KEPT`] up to it.
///
/// # Errors
/// [`Error::Io`], and [`Error::Candle`] if a tensor cannot be brought to the CPU.
pub fn write(folder: &Path, progress: &Progress, parts: &[(&str, Vec<(String, Tensor)>)]) -> Result<PathBuf> {
    let mut tensors = BTreeMap::new();
    for (part, named) in parts {
        for (name, tensor) in named {
            tensors.insert(format!("{part}.{name}"), tensor.to_device(&Device::Cpu)?.contiguous()?);
        }
    }
    let path = path(folder, progress);
    let unwritable = |error: String| Error::Checkpoint { path: path.clone(), reason: error };

    let progress = serde_json::to_string(progress).map_err(|error| unwritable(error.to_string()))?;
    let checksum = fingerprint::of_tensors(&progress, &tensors);
    let metadata = serde_json::to_string(&Metadata { progress, checksum });
    let metadata =
        HashMap::from([(METADATA.into(), metadata.map_err(|error| unwritable(error.to_string()))?)]);
    let bytes =
        safetensors::serialize(tensors, Some(metadata)).map_err(|error| unwritable(error.to_string()))?;
    wrn_sam_files::write(&path, |file| file.write_all(&bytes))?;

    let up_to_this = list(folder)?.into_iter().skip_while(|other| *other != path);
    for old in up_to_this.skip(KEPT) {
        std::fs::remove_file(&old).map_err(Error::io("remove", &old))?;
    }
    Ok(path)
}

/// Reads a checkpoint and verifies it.
///
/// # Errors
/// [`Error::Checkpoint`] for a file that is cut short, damaged, or no checkpoint; [`Error::Io`].
pub fn read(path: &Path) -> Result<Checkpoint> {
    parse(path, &std::fs::read(path).map_err(Error::io("read", path))?)
}

/// As [`read`], of the bytes of the file `path`.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    let refused = |reason: String| Error::Checkpoint { path: path.into(), reason };
    let damaged = |error: &dyn std::fmt::Display| {
        refused(format!("cut short or damaged, {} bytes long ({error})", bytes.len()))
    };

    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(&error))?;
    let entries = header.metadata().as_ref();
    let metadata = entries.and_then(|entries| entries.get(METADATA)).ok_or_else(|| {
        let other = entries.and_then(|entries| entries.keys().find_map(|key| key.strip_prefix(FORMAT)));
        refused(match other {
            Some(format) => format!("of format {format}; this version of the program reads only format 3"),
            None => "a safetensors file, but not a checkpoint of a run".into(),
        })
    })?;
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|error| damaged(&error))?;
    let views = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
    let views: BTreeMap<_, _> = views.tensors().into_iter().collect();
    let checksum = fingerprint::of_tensors(&metadata.progress, &views);
    if checksum != metadata.checksum {
        return Err(damaged(&format!("checksum {checksum}, expected {}", metadata.checksum)));
    }
    let progress = serde_json::from_str(&metadata.progress).map_err(|error| damaged(&error))?;

    let [mut model, mut optimizer, mut average] = [(); 3].map(|()| HashMap::new());
    for (name, view) in views {
        let dtype = view.dtype().try_into()?;
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        match name.split_once('.') {
            Some(("model", name)) => model.insert(name.into(), tensor),
            Some(("optimizer", name)) => optimizer.insert(name.into(), tensor),
            Some(("average", name)) => average.insert(name.into(), tensor),
            _ => return Err(refused(format!("holds the unknown tensor {name}"))),
        };
    }
    Ok(Checkpoint { progress, model, optimizer, average })
}

/// The newest checkpoint in `folder` that verifies; `None` if there is no checkpoint, or no such folder.
///
/// # Errors
/// [`Error::NoUsableCheckpoint`] if there are checkpoints and none verifies; [`Error::Io`] if the folder cannot be
/// listed.
pub fn newest(folder: &Path) -> Result<Option<Newest>> {
    let mut skipped = Vec::new();
    for path in list(folder)? {
        match read(&path) {
            Ok(checkpoint) => return Ok(Some(Newest { path, checkpoint, skipped })),
            Err(error) => {
                tracing::warn!(%error, "skipped a checkpoint");
                skipped.push(error);
            }
        }
    }
    if skipped.is_empty() {
        Ok(None)
    } else {
        Err(Error::NoUsableCheckpoint { folder: folder.into(), failures: skipped })
    }
}

/// The file in `folder` that a checkpoint of this progress is written to.
pub(crate) fn path(folder: &Path, progress: &Progress) -> PathBuf {
    folder.join(file_name(progress.epoch, progress.step))
}

/// The name of a checkpoint after `epoch` epochs and `step` steps of the next.
fn file_name(epoch: usize, step: usize) -> String {
    format!("epoch-{epoch:04}-step-{step:06}.safetensors")
}

fn position(path: &Path) -> Option<(usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".safetensors")?;
    let (epoch, step) = stem.strip_prefix("epoch-")?.split_once("-step-")?;
    Some((epoch.parse().ok()?, step.parse().ok()?))
}

/// The checkpoint files in `folder`, newest first; none where there is no such folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", folder))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if let Some(position) = position(&path) {
            found.push((position, path));
        }
    }
    found.sort_by(|one, other| other.cmp(one));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(epoch: usize, step: usize) -> Progress {
        Progress {
            recipe: "depth = 10\n".into(),
            images: "0".repeat(32),
            epoch,
            step,
            tally: Tally { images: 192, loss_sum: 0.1 + 0.2, top1: 3, top5: 11 },
            seconds: 1.5,
            learning_rate: 0.1 * 0.2,
            best: Some(Best { epoch: 1, top1: 7 }),
            rows: vec![EpochMetrics::from_csv("1,0.1,4,0.01,4,0.02,0.05,1,100,1").unwrap()],
            ..Progress::default()
        }
    }

    fn write_one(folder: &Path, epoch: usize, step: usize) -> PathBuf {
        let weight = Tensor::new(&[1f32, f32::MIN_POSITIVE, -0.0, 1e30], &Device::Cpu).unwrap();
        let count = Tensor::new(5i64, &Device::Cpu).unwrap();
        let momentum = Tensor::new(&[0.5f32; 4], &Device::Cpu).unwrap();
        let model = vec![("f.weight".into(), weight), ("f.num_batches_tracked".into(), count)];
        let optimizer = vec![("base.momentum.f.weight".into(), momentum.clone())];
        let average = vec![("average.f.weight".into(), momentum)];
        let parts = [("model", model), ("optimizer", optimizer), ("average", average)];
        write(folder, &progress(epoch, step), &parts).unwrap()
    }

    #[test]
    fn what_is_written_is_read_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = write_one(folder.path(), 3, 17);
        let read = read(&path).unwrap();
        assert_eq!(read.progress, progress(3, 17));
        let weight = read.model["f.weight"].to_vec1::<f32>().unwrap();
        let bits: Vec<_> = weight.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [1f32, f32::MIN_POSITIVE, -0.0, 1e30].map(f32::to_bits));
        assert_eq!(read.model["f.num_batches_tracked"].to_scalar::<i64>().unwrap(), 5);
        assert_eq!(read.optimizer["base.momentum.f.weight"].dims(), [4]);
        assert_eq!(read.average["average.f.weight"].dims(), [4]);
    }

    #[test]
    fn the_newest_two_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for (epoch, step) in [(0, 0), (5, 0), (9, 99), (10, 0), (10, 100)] {
            write_one(folder.path(), epoch, step);
        }
        let left = list(folder.path()).unwrap();
        let left: Vec<_> = left.iter().filter_map(|path| position(path)).collect();
        assert_eq!(left, [(10, 100), (10, 0)]);
        // One written behind a newer one is not taken for old.
        write_one(folder.path(), 7, 0);
        assert_eq!(list(folder.path()).unwrap().len(), 3);
        assert!(newest(Path::new("nowhere")).unwrap().is_none());
    }

    #[test]
    fn a_cut_or_a_flipped_bit_anywhere_is_found_and_the_one_before_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let older = write_one(folder.path(), 1, 0);
        let path = write_one(folder.path(), 2, 0);
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(3) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, Error::Checkpoint { .. }), "cut to {length}: {error}");
        }
        for index in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[index] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(read(&path).is_err(), "byte {index} of {}", whole.len());
        }
        let newest = newest(folder.path()).unwrap().unwrap();
        assert_eq!((newest.path, newest.skipped.len()), (older, 1));
    }

    #[test]
    fn without_any_good_checkpoint_the_error_names_each() {
        let folder = tempfile::tempdir().unwrap();
        assert!(newest(folder.path()).unwrap().is_none());
        for epoch in [1, 2] {
            let path = write_one(folder.path(), epoch, 0);
            std::fs::write(&path, &std::fs::read(&path).unwrap()[..100]).unwrap();
        }
        let error = newest(folder.path()).unwrap_err().to_string();
        for part in
            ["no checkpoint", "epoch-0001", "epoch-0002", "cut short", "100 bytes", "Nothing was changed"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!(list(folder.path()).unwrap().len(), 2);

        let other = folder.path().join("epoch-0003-step-000000.safetensors");
        let tensors = HashMap::from([("a", Tensor::new(1f32, &Device::Cpu).unwrap())]);
        std::fs::write(&other, safetensors::serialize(tensors, None).unwrap()).unwrap();
        assert!(read(&other).unwrap_err().to_string().ends_with("not a checkpoint of a run"));
        let old = HashMap::from([("wrn-sam checkpoint 1".to_string(), String::new())]);
        std::fs::write(
            &other,
            safetensors::serialize([("a", Tensor::new(1f32, &Device::Cpu).unwrap())], Some(old)).unwrap(),
        )
        .unwrap();
        assert!(read(&other).unwrap_err().to_string().contains("of format 1; this version"));
    }
}
