//! The Python version's files: pickled dictionaries -> images, labels and names.
//!
//! A batch has `data`, a numpy array `[N, 3072]` of bytes whose rows are the binary version's images, and
//! labels as lists of integers: `fine_labels` and `coarse_labels` in CIFAR-100, `labels` in CIFAR-10.
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>)

use std::io::Read;
use std::path::Path;

use crate::cifar::{IMAGE_BYTES, TRAIN_IMAGES, Variant};
use crate::class_names;
use crate::pickle::{Id, Pickle, PickleValue};
use crate::source::layout::MAX_PICKLE_BYTES_PER_IMAGE;
use crate::{Error, Result, Split};

impl Variant {
    fn label_key(self) -> &'static str {
        match self {
            Self::Cifar10 => "labels",
            Self::Cifar100 => "fine_labels",
        }
    }
}

impl Split {
    /// Reads all images of a file of the Python version (`train`, `test`; `data_batch_1`, …), up to 50,000. Nothing in
    /// it is executed. Memory use is bounded by the file's size plus some tens of megabytes. Messages call it `name`.
    ///
    /// # Errors
    /// [`Error::Python`] where it is not such a pickle.
    pub fn from_python(variant: Variant, reader: impl Read, name: impl AsRef<Path>) -> Result<Self> {
        let max_bytes = TRAIN_IMAGES as u64 * MAX_PICKLE_BYTES_PER_IMAGE;
        read_batch(variant, reader, name.as_ref(), max_bytes, None)
    }
}

/// Reads a batch of exactly `images` images, where that is given.
pub(crate) fn read_batch(
    variant: Variant,
    reader: impl Read,
    path: &Path,
    max_bytes: u64,
    images: Option<usize>,
) -> Result<Split> {
    let fail = |reason| Error::Python { path: path.into(), variant, reason };
    let mut pickle = Pickle::read(reader, max_bytes).map_err(fail)?;
    let labels = labels(&pickle, variant.label_key(), variant.classes()).map_err(fail)?;
    let coarse_labels = match variant.coarse_classes() {
        0 => None,
        classes => Some(self::labels(&pickle, "coarse_labels", classes).map_err(fail)?),
    };
    let (rows, data) = array(&pickle).map_err(fail)?;
    if let Some(images) = images.filter(|images| *images != rows) {
        return Err(fail(format!("it has {rows} images, {images} expected")));
    }
    let bytes = pickle.take_bytes(data).ok_or_else(|| fail("the bytes of `data` are not bytes".into()))?;
    if bytes.len() != rows.saturating_mul(IMAGE_BYTES) {
        return Err(fail(format!("`data` has {} bytes, {rows} times 3072 expected", bytes.len())));
    }
    let coarse = coarse_labels.as_ref().map_or(rows, Vec::len);
    if labels.len() != rows || coarse != rows {
        return Err(fail(format!(
            "it has {rows} images with {} labels and {coarse} coarse labels, one of each per image expected",
            labels.len()
        )));
    }
    Split::new(bytes, labels, coarse_labels)
}

/// The names of the fine and of the coarse labels in `meta` or `batches.meta`.
pub(crate) fn read_names(
    variant: Variant,
    reader: impl Read,
    path: &Path,
    max_bytes: u64,
) -> Result<[Vec<String>; 2]> {
    let fail = |reason| Error::Python { path: path.into(), variant, reason };
    let pickle = Pickle::read(reader, max_bytes).map_err(fail)?;
    let names = |key: &str, expected| {
        let mut found = Vec::new();
        for (index, &id) in list(&pickle, key).map_err(fail)?.iter().enumerate() {
            match pickle.get(id) {
                PickleValue::Bytes(name) => found.push(String::from_utf8_lossy(name).into_owned()),
                _ => return Err(fail(format!("`{key}`[{index}] is not a name"))),
            }
        }
        class_names::check(found, path, expected)
    };
    Ok(match variant {
        Variant::Cifar10 => [names("label_names", variant.classes())?, Vec::new()],
        Variant::Cifar100 => [
            names("fine_label_names", variant.classes())?,
            names("coarse_label_names", variant.coarse_classes())?,
        ],
    })
}

fn list<'a>(pickle: &'a Pickle, key: &str) -> Result<&'a [Id], String> {
    match pickle.entry(key).map(|id| pickle.get(id)) {
        Some(PickleValue::List(items)) => Ok(items),
        Some(_) => Err(format!("`{key}` is not a list")),
        None => Err(format!("it is not a dictionary with the key `{key}`")),
    }
}

fn labels(pickle: &Pickle, key: &str, classes: usize) -> Result<Vec<u8>, String> {
    let label = |(index, id): (usize, &Id)| match *pickle.get(*id) {
        PickleValue::Int(label) if (0..classes as i64).contains(&label) => Ok(label as u8),
        PickleValue::Int(label) => Err(format!("`{key}`[{index}] is {label}, 0 to {} allowed", classes - 1)),
        _ => Err(format!("`{key}`[{index}] is not an integer")),
    };
    list(pickle, key)?.iter().enumerate().map(label).collect()
}

/// The number of rows of `data`, and its bytes.
fn array(pickle: &Pickle) -> Result<(usize, Id), String> {
    let (shape, bytes) = match pickle.entry("data").map(|id| pickle.get(id)) {
        Some(PickleValue::Array(Some((shape, bytes)))) => (pickle.get(*shape), *bytes),
        Some(_) => return Err("`data` is not an array".into()),
        None => return Err("it is not a dictionary with the key `data`".into()),
    };
    if let PickleValue::Tuple(dims) = shape
        && let [rows, row] = dims[..]
        && let (&PickleValue::Int(rows), PickleValue::Int(3072)) = (pickle.get(rows), pickle.get(row))
        && rows >= 0
    {
        Ok((rows as usize, bytes))
    } else {
        Err("`data` does not have the shape [N, 3072]".into())
    }
}
