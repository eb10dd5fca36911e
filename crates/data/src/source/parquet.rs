//! The Hugging Face hub's form: a row an image, with a PNG and labels.

use std::fs::File;
use std::io::Seek;
use std::panic;
use std::path::Path;

use image::ImageFormat;
use parquet::file::reader::SerializedFileReader;
use parquet::record::{Field, Row, RowAccessor};

use super::{Origin, Source};
use crate::checksum::{FileChecksum, Summed};
use crate::cifar::{IMAGE_BYTES, IMAGE_SIZE, TEST_IMAGES, TRAIN_IMAGES};
use crate::{Cifar, Error, Result, Split, Variant, class_names};

impl Variant {
    /// The names of the columns: the image's, the label's, and the coarse label's.
    fn columns(self) -> (&'static str, &'static str, Option<&'static str>) {
        match self {
            Self::Cifar10 => ("img", "label", None),
            Self::Cifar100 => ("img", "fine_label", Some("coarse_label")),
        }
    }
}

impl Split {
    /// Reads a file in the form of the Hugging Face hub's `uoft-cs/cifar10` and `uoft-cs/cifar100`, as many images as
    /// it has: a row an image, with the columns `img` (a structure whose `bytes` are a PNG of 32x32 pixels) and
    /// `label`, or `fine_label` and `coarse_label`.
    ///
    /// # Errors
    /// [`Error::Parquet`] and [`Error::Io`].
    pub fn from_parquet(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        Ok(read(variant, path.as_ref(), None)?.0)
    }
}

impl Cifar {
    /// Reads the data set from the two files that [`from_hub`](Self::from_hub) fetches, got by other means.
    ///
    /// # Errors
    /// [`Error::Parquet`] where they are not exactly the data set's; [`Error::Io`].
    pub fn from_parquet(variant: Variant, train: impl AsRef<Path>, test: impl AsRef<Path>) -> Result<Self> {
        let (train, test) = (train.as_ref(), test.as_ref());
        let origin = Origin::Parquet { train: train.into(), test: test.into() };
        from_files(variant, train, test, origin)
    }
}

pub(super) fn from_files(variant: Variant, train: &Path, test: &Path, origin: Origin) -> Result<Cifar> {
    let (train, train_file) = read(variant, train, Some(TRAIN_IMAGES))?;
    let (test, test_file) = read(variant, test, Some(TEST_IMAGES))?;
    let cifar = Cifar {
        train,
        test,
        fine_names: class_names::built_in(variant.names()),
        coarse_names: class_names::built_in(variant.coarse_names()),
        source: Source { variant, origin, files: vec![train_file, test_file] },
    };
    tracing::info!(train = cifar.train.len(), test = cifar.test.len(), "read {}", cifar.source);
    Ok(cifar)
}

/// The images of a file, exactly `images` of them where that is given, and its sum.
fn read(variant: Variant, path: &Path, images: Option<usize>) -> Result<(Split, FileChecksum)> {
    let fail = |reason: String| Error::Parquet { path: path.into(), variant, reason };
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let sum = Summed::new(&file).finish(name).map_err(Error::io("read", path))?;
    file.rewind().map_err(Error::io("read", path))?;

    // The parquet crate panics on some damaged files.
    let decoded = panic::catch_unwind(|| decode(variant, file, images));
    let decoded = decoded.unwrap_or_else(|_| Err("it is damaged: its reader panicked".into()));
    Ok((decoded.map_err(fail)??, sum))
}

fn decode(variant: Variant, file: File, images: Option<usize>) -> Done<Result<Split>> {
    let rows = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    let (mut bytes, mut labels, mut coarse_labels) = (Vec::new(), Vec::new(), Vec::new());
    let (image_column, label_column, coarse_column) = variant.columns();
    for (index, row) in rows.into_iter().enumerate() {
        let at = |reason: String| format!("row {index}: {reason}");
        if images == Some(index) {
            return Err(format!("it has more than {index} rows"));
        }
        let row = row.map_err(|error| at(error.to_string()))?;
        append_image(&row, image_column, &mut bytes).map_err(at)?;
        labels.push(label(&row, label_column, variant.classes()).map_err(at)?);
        if let Some(column) = coarse_column {
            coarse_labels.push(label(&row, column, variant.coarse_classes()).map_err(at)?);
        }
    }
    if let Some(images) = images.filter(|images| *images != labels.len()) {
        return Err(format!("it has {} rows, {images} expected", labels.len()));
    }
    bytes.shrink_to_fit();
    Ok(Split::new(bytes, labels, coarse_column.is_some().then_some(coarse_labels)))
}

type Done<T> = std::result::Result<T, String>;

fn field<'a>(row: &'a Row, column: &str) -> Done<&'a Field> {
    let found = row.get_column_iter().find(|(name, _)| *name == column);
    found.map(|(_, field)| field).ok_or_else(|| format!("there is no column `{column}`"))
}

fn label(row: &Row, column: &str, classes: usize) -> Done<u8> {
    let Field::Long(label) = *field(row, column)? else {
        return Err(format!("`{column}` is no 64-bit integer"));
    };
    match u8::try_from(label) {
        Ok(small) if usize::from(small) < classes => Ok(small),
        _ => Err(format!("`{column}` is {label}, 0 to {} allowed", classes - 1)),
    }
}

/// Decodes the row's PNG, whose pixels come row by row with three bytes each, to planes of rows.
fn append_image(row: &Row, column: &str, planes: &mut Vec<u8>) -> Done<()> {
    let Field::Group(group) = field(row, column)? else {
        return Err(format!("`{column}` is no structure"));
    };
    let png = group.get_bytes(index_of(group, "bytes")?).map_err(|error| error.to_string())?;
    let image = image::load_from_memory_with_format(png.data(), ImageFormat::Png)
        .map_err(|error| format!("`{column}` is no PNG: {error}"))?
        .into_rgb8();
    if image.dimensions() != (IMAGE_SIZE as u32, IMAGE_SIZE as u32) {
        return Err(format!("`{column}` has {:?} pixels, (32, 32) expected", image.dimensions()));
    }
    planes.reserve(IMAGE_BYTES);
    for channel in 0..3 {
        planes.extend(image.as_raw().iter().skip(channel).step_by(3));
    }
    Ok(())
}

fn index_of(group: &Row, name: &str) -> Done<usize> {
    group
        .get_column_iter()
        .position(|(found, _)| found == name)
        .ok_or_else(|| format!("there is no field `{name}`"))
}
