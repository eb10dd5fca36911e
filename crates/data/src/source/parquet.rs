//! The Hugging Face hub's form: a row an image, with a PNG and labels.

use std::fs::File;
use std::io::Seek;
use std::panic;
use std::path::Path;

use image::ImageFormat;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

use super::{Origin, Source, folder};
use crate::checksum::{FileChecksum, Summed};
use crate::cifar::{IMAGE_BYTES, IMAGE_SIZE, TEST_IMAGES, TRAIN_IMAGES};
use crate::{Dataset, Error, Result, Split, Variant, class_names};

/// The column of the PNGs.
const IMAGE: &str = "img.bytes";

impl Variant {
    /// The columns of the labels and of the coarse labels.
    fn label_columns(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Cifar10 => ("label", None),
            Self::Cifar100 => ("fine_label", Some("coarse_label")),
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
    ///
    /// What the parquet crate panics on is refused before it comes to that, as far as it is known. Should it panic on
    /// other damage, that is an [`Error::Parquet`] too, but the process's panic hook, which is not a library's to change,
    /// hears of it first and by default prints a message.
    pub fn from_parquet(variant: Variant, path: impl AsRef<Path>) -> Result<Self> {
        Ok(read(variant, path.as_ref(), None)?.0)
    }
}

impl Dataset {
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

pub(super) fn from_files(variant: Variant, train: &Path, test: &Path, origin: Origin) -> Result<Dataset> {
    let (train, train_file) = read(variant, train, Some(TRAIN_IMAGES))?;
    let (test, test_file) = read(variant, test, Some(TEST_IMAGES))?;
    Ok(Dataset {
        train,
        test,
        class_names: class_names::built_in(variant.names()),
        coarse_names: class_names::built_in(variant.coarse_names()),
        source: Source::new(variant, origin, vec![train_file, test_file]),
    }
    .recognized())
}

/// The images of a file, exactly `images` of them where that is given, and its sum.
fn read(variant: Variant, path: &Path, images: Option<usize>) -> Result<(Split, FileChecksum)> {
    let fail = |reason: String| Error::Parquet { path: path.into(), variant, reason };
    let mut file = folder::open(path)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let sum = Summed::new(&file).finish(name).map_err(Error::io("read", path))?;
    file.rewind().map_err(Error::io("read", path))?;

    // What the parquet crate is known to panic on is looked for before; this is for what is not known.
    let decoded = panic::catch_unwind(|| decode(variant, file, images));
    let decoded = decoded.unwrap_or_else(|_| Err("it is damaged: its reader panicked".into()));
    Ok((decoded.map_err(fail)??, sum))
}

fn decode(variant: Variant, file: File, images: Option<usize>) -> Result<Result<Split>, String> {
    let file = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    let (label_column, coarse_column) = variant.label_columns();
    let (mut bytes, mut labels, mut coarse_labels) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..file.num_row_groups() {
        let group = file.get_row_group(index).map_err(|error| error.to_string())?;
        let first = labels.len();
        let most = images.unwrap_or(usize::MAX) - first;
        each::<ByteArrayType>(&*group, IMAGE, first, most, |png| append_image(png.data(), &mut bytes))?;
        let rows = bytes.len() / IMAGE_BYTES - first;
        let label = |column, classes, labels: &mut Vec<u8>| {
            each::<Int64Type>(&*group, column, first, rows, |label| {
                labels.push(class(label, classes)?);
                Ok(())
            })?;
            match labels.len() - first {
                found if found == rows => Ok(()),
                found => Err(format!("row group {index} has {rows} images and {found} of `{column}`")),
            }
        };
        label(label_column, variant.classes(), &mut labels)?;
        if let Some(column) = coarse_column {
            label(column, variant.coarse_classes(), &mut coarse_labels)?;
        }
    }
    if let Some(images) = images.filter(|images| *images != labels.len()) {
        return Err(format!("it has {} rows, {images} expected", labels.len()));
    }
    bytes.shrink_to_fit();
    Ok(Split::new(bytes, labels, coarse_column.is_some().then_some(coarse_labels)))
}

/// Hands the values of a row group's column to `take`, in their order; the file's row `first` is the first of them, and
/// no more than `most` are allowed.
fn each<T: DataType>(
    group: &dyn RowGroupReader,
    column: &str,
    first: usize,
    most: usize,
    mut take: impl FnMut(T::T) -> Result<(), String>,
) -> Result<(), String> {
    let columns = group.metadata().columns();
    let index = columns.iter().position(|found| found.column_path().string() == column);
    let index = index.ok_or_else(|| format!("there is no column `{column}`"))?;
    let (chunk, descriptor) = (&columns[index], columns[index].column_descr_ptr());
    let (found, expected) = (chunk.column_type(), T::get_physical_type());
    if found != expected || descriptor.max_rep_level() > 0 {
        return Err(format!("`{column}` is not one {expected} a row"));
    }
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    if start < 0 || chunk.compressed_size() < 0 {
        return Err(format!("`{column}` has {} bytes at offset {start}", chunk.compressed_size()));
    }
    let present = descriptor.max_def_level();
    let pages = group.get_column_page_reader(index).map_err(|error| error.to_string())?;
    let pages = Box::new(DictionaryFirst { pages, seen: false });
    let mut reader = get_typed_column_reader::<T>(get_column_reader(descriptor, pages));

    const ROWS: usize = 128;
    let (mut values, mut levels) = (Vec::with_capacity(ROWS), Vec::with_capacity(ROWS));
    let mut row = first;
    loop {
        let at = |row, reason| format!("row {row}: {reason}");
        values.clear();
        levels.clear();
        let read = reader.read_records(ROWS, Some(&mut levels), None, &mut values);
        let (rows, ..) = read.map_err(|error| at(row, error.to_string()))?;
        if rows == 0 {
            return Ok(());
        }
        if row + rows - first > most {
            return Err(format!("it has more than {} rows of `{column}`", first + most));
        }
        if let Some(null) = levels.iter().position(|level| *level < present) {
            return Err(at(row + null, format!("`{column}` is null")));
        }
        for value in values.drain(..) {
            take(value).map_err(|reason| at(row, format!("`{column}` {reason}")))?;
            row += 1;
        }
    }
}

/// The label as a byte.
fn class(label: i64, classes: usize) -> Result<u8, String> {
    match u8::try_from(label) {
        Ok(small) if usize::from(small) < classes => Ok(small),
        _ => Err(format!("is {label}, 0 to {} allowed", classes - 1)),
    }
}

/// Decodes a PNG, whose pixels come row by row with three bytes each, to planes of rows.
fn append_image(png: &[u8], planes: &mut Vec<u8>) -> Result<(), String> {
    let image = image::load_from_memory_with_format(png, ImageFormat::Png)
        .map_err(|error| format!("is no PNG: {error}"))?
        .into_rgb8();
    if image.dimensions() != (IMAGE_SIZE as u32, IMAGE_SIZE as u32) {
        return Err(format!("has {:?} pixels, (32, 32) expected", image.dimensions()));
    }
    planes.reserve(IMAGE_BYTES);
    for channel in 0..3 {
        planes.extend(image.as_raw().iter().skip(channel).step_by(3));
    }
    Ok(())
}

/// A column's pages, of which those that refer to a dictionary come after one: the decoder panics otherwise.
struct DictionaryFirst {
    pages: Box<dyn PageReader>,
    seen: bool,
}

impl PageReader for DictionaryFirst {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        self.seen |= matches!(page, Some(Page::DictionaryPage { .. }));
        match page.as_ref().map(Page::encoding) {
            Some(Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY) if !self.seen => {
                Err(ParquetError::General("a page refers to a dictionary that is not there".into()))
            }
            _ => Ok(page),
        }
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.pages.skip_next_page()
    }
}

impl Iterator for DictionaryFirst {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
