//! A folder of pictures by class as a data set.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use wrn_sam_kernels::OutOfRange;

use super::cache::Cache;
use super::decode::{PictureError, decode};
use crate::{Dataset, Error, IMAGE_CHANNELS, IMAGE_SIZE, MAX_IMAGE_SIZE, Origin, Result, Split};

/// What a test folder may be called, the first that is there.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];

/// How [`Dataset::from_pictures`] reads a folder.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PictureOptions {
    /// The side in pixels that every picture is scaled to: 1 to 1024.
    pub image_size: usize,
    /// The share of each class's pictures that becomes the test split where there is no test folder: above 0, below 1.
    pub test_share: f64,
    /// What those pictures are drawn from.
    pub seed: u64,
    /// Whether the decoded pictures are kept in a hidden file in the folder, from which they are read the next time.
    pub cache: bool,
}

impl Default for PictureOptions {
    /// Pictures of 32x32, a fifth of them for testing if no folder says otherwise, with a cache.
    fn default() -> Self {
        Self { image_size: IMAGE_SIZE, test_share: 0.2, seed: 0, cache: true }
    }
}

impl PictureOptions {
    /// With another size.
    #[must_use]
    pub fn with_image_size(self, image_size: usize) -> Self {
        Self { image_size, ..self }
    }

    /// With another share for testing.
    #[must_use]
    pub fn with_test_share(self, test_share: f64) -> Self {
        Self { test_share, ..self }
    }

    /// With another seed for the choice of the test split.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// With or without a cache.
    #[must_use]
    pub fn with_cache(self, cache: bool) -> Self {
        Self { cache, ..self }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn validate(&self) -> Result<()> {
        let (size, share) = (self.image_size, self.test_share);
        OutOfRange::check("image size", size, (1..=MAX_IMAGE_SIZE).contains(&size), "from 1 to 1024")?;
        Ok(OutOfRange::check("test share", share, share > 0.0 && share < 1.0, "above 0 and below 1")?)
    }
}

impl Dataset {
    /// Reads a folder of pictures by class: `folder/train/CLASS/*.png` and `folder/test/CLASS/*.png` (or `val`, `valid`,
    /// `validation`), or `folder/CLASS/*.png`, where the options say which share of each class is for testing.
    ///
    /// Classes are the folders' names in their order, at most 256. Within a class's folder, PNG and JPEG files are read at any
    /// depth; hidden files are not. [`decode`] says what becomes of a picture. The data set is called as the folder is.
    ///
    /// Pictures are decoded by all threads. They are then kept in the hidden file `.wrn-sam-pictures-SIZE` in the folder, if it
    /// can be written, until a picture is added, removed or changed.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # for class in ["cat", "dog"] {
    /// #     std::fs::create_dir(folder.path().join(class)).unwrap();
    /// #     for i in 0..5 {
    /// #         image::RgbImage::from_pixel(40, 50, image::Rgb([10 * i; 3]))
    /// #             .save(folder.path().join(class).join(format!("{i}.png")))
    /// #             .unwrap();
    /// #     }
    /// # }
    /// # let folder = folder.path();
    /// use wrn_sam_data::Dataset;
    /// use wrn_sam_data::pictures::PictureOptions;
    ///
    /// let data = Dataset::from_pictures(folder, &PictureOptions::default().with_image_size(64))?;
    /// assert_eq!(data.class_names, ["cat", "dog"]);
    /// assert_eq!((data.train.len(), data.test.len(), data.image_size()), (8, 2, 64));
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::PictureFolder`] for a folder of another form; [`Error::Picture`] for a picture that
    /// cannot be used; [`Error::Io`].
    pub fn from_pictures(folder: impl AsRef<Path>, options: &PictureOptions) -> Result<Self> {
        options.validate()?;
        let folder = folder.as_ref();
        let train = Some(folder.join("train")).filter(|path| path.is_dir());
        let test = TEST.iter().map(|name| folder.join(name)).find(|path| path.is_dir());
        let classes = classes(train.as_deref().unwrap_or(folder))?;
        let train = files(train.as_deref().unwrap_or(folder), &classes)?;
        let test = test.filter(|test| !train.iter().any(|(path, _)| path.starts_with(test)));
        let test = test
            .map(|test| check_classes(&test, &classes).and_then(|()| files(&test, &classes)))
            .transpose()?;

        let all: Vec<_> = train.iter().chain(test.iter().flatten()).map(|(path, _)| path.as_path()).collect();
        let size = options.image_size;
        let mut pixels = pixels(folder, &all, options)?;
        let labels = |files: &[(PathBuf, u8)]| files.iter().map(|(_, label)| *label).collect::<Vec<_>>();
        let rest = pixels.split_off(train.len() * IMAGE_CHANNELS * size * size);
        let train = Split::of_size(size, pixels, labels(&train), None)?;
        let (train, test) = match test {
            Some(test) => (train, Split::of_size(size, rest, labels(&test), None)?),
            None => {
                let for_test = (train.len() as f64 * options.test_share).round() as usize;
                train.hold_out(for_test.clamp(1, (train.len() - 1).max(1)), options.seed)?
            }
        };
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
        let name = absolute.file_name().unwrap_or(OsStr::new("pictures")).to_string_lossy().into_owned();
        Self::of_origin(name, Origin::Pictures { path: folder.into() }, train, test, classes)
    }
}

/// The names of the folders in `folder`, sorted.
fn classes(folder: &Path) -> Result<Vec<String>> {
    let fail = |reason: String| Error::PictureFolder { path: folder.into(), reason };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && !is_hidden(name) {
            let name =
                name.to_str().ok_or_else(|| fail(format!("the name of {} is not UTF-8", path.display())))?;
            names.push(name.to_string());
        }
    }
    names.sort();
    match names.len() {
        2..=256 => Ok(names),
        0 => Err(fail("it has no folders".into())),
        1 => Err(fail(format!("it has only one folder, {}", names[0]))),
        many => Err(fail(format!("it has {many} folders, at most 256 classes are possible"))),
    }
}

/// Checks that every class for testing is one for training.
fn check_classes(test: &Path, classes: &[String]) -> Result<()> {
    match self::classes(test)?.iter().find(|class| !classes.contains(class)) {
        Some(class) => {
            let reason = format!("the class {class} is not among those to train on ({})", classes.join(", "));
            Err(Error::PictureFolder { path: test.into(), reason })
        }
        None => Ok(()),
    }
}

/// The pictures of every class with their labels.
fn files(folder: &Path, classes: &[String]) -> Result<Vec<(PathBuf, u8)>> {
    let mut files = Vec::new();
    for (label, class) in (0..=u8::MAX).zip(classes) {
        let folder = folder.join(class);
        if folder.is_dir() {
            files.extend(list(&folder)?.into_iter().map(|path| (path, label)));
        }
    }
    if files.is_empty() {
        let reason = "its folders have no .png, .jpg or .jpeg file".into();
        return Err(Error::PictureFolder { path: folder.into(), reason });
    }
    Ok(files)
}

/// The PNG and JPEG files in a folder and its folders, by name and sorted. Hidden files and folders are left out, and so are
/// links to folders, which may lead back.
///
/// # Errors
/// [`Error::Io`] where a folder cannot be listed.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut pictures, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let path = entry.path();
            if is_hidden(&entry.file_name()) {
                continue;
            }
            if entry.file_type().map_err(Error::io("list", &folder))?.is_dir() {
                folders.push(path);
            } else if has_picture_name(&path) && !path.is_dir() {
                pictures.push(path);
            }
        }
    }
    pictures.sort();
    Ok(pictures)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn has_picture_name(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
}

/// The pixels of all pictures, one after the other, from the cache if it has them.
fn pixels(folder: &Path, files: &[&Path], options: &PictureOptions) -> Result<Vec<u8>> {
    let cache = Cache::of(folder, files, options.image_size)?;
    if let Some(pixels) = options.cache.then(|| cache.read()).flatten() {
        return Ok(pixels);
    }
    tracing::info!(pictures = files.len(), folder = %folder.display(), "decoding");
    let pixels = decode_all(files, options.image_size)?;
    if options.cache
        && let Err(error) = cache.write(&pixels)
    {
        tracing::warn!(%error, "the decoded pictures cannot be kept for the next time");
    }
    Ok(pixels)
}

/// Decodes on all threads. An error names the first picture that is wrong, and says how many are.
fn decode_all(files: &[&Path], size: usize) -> Result<Vec<u8>> {
    let mut pixels = vec![0; files.len() * IMAGE_CHANNELS * size * size];
    let work = Mutex::new(pixels.chunks_exact_mut(IMAGE_CHANNELS * size * size).zip(files).enumerate());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                    let Some((index, (pixels, path))) = next else { return };
                    match read(path, size) {
                        Ok(image) => pixels.copy_from_slice(&image),
                        Err(error) => {
                            failures
                                .lock()
                                .unwrap_or_else(|poisoned| poisoned.into_inner())
                                .push((index, error));
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    failures.sort_by_key(|(index, _)| *index);
    let others = failures.len().saturating_sub(1);
    match failures.into_iter().next() {
        None => Ok(pixels),
        Some((_, Error::Picture { path, reason })) if others > 0 => Err(Error::Picture {
            path,
            reason: format!("{reason}; and {others} other pictures cannot be used"),
        }),
        Some((_, error)) => Err(error),
    }
}

fn read(path: &Path, size: usize) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    decode(&bytes, size).map_err(|PictureError(reason)| Error::Picture { path: path.into(), reason })
}
