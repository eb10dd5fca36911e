//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Variant;

/// A [`std::result::Result`] with this crate's [`Error`], unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which loading, fetching or batching images can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kernel reported an error.
    #[error(transparent)]
    Kernels(#[from] wrn_sam_kernels::Error),
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// A folder or archive holds nothing of the data set.
    #[error("no {variant} in {}: {}", path.display(), crate::source::layout::not_found(*variant, path, *other))]
    NoData {
        /// The folder or archive that was searched.
        path: PathBuf,
        /// What was searched for.
        variant: Variant,
        /// The other data set, if it is there.
        other: Option<Variant>,
    },

    /// A directory has the name of a file.
    #[error("{} is a directory, a file expected; move it away or give another folder", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },

    /// A file of images is absent.
    #[error("{} is missing: {variant} has {}; get the file again", path.display(), crate::source::layout::files_beside(*variant, path))]
    Missing {
        /// The absent file.
        path: PathBuf,
        /// The data set that it is a part of.
        variant: Variant,
    },

    /// A file of records holds nothing.
    #[error("{} is empty: records of {} bytes expected; get the file again", path.display(), variant.record_bytes())]
    Empty {
        /// The empty file.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
    },

    /// A file of records ends too early.
    #[error(
        "{} is cut short in record {record}: {expected} bytes expected ({} records of {}), \
         {found} found; get the file again",
        path.display(), expected / variant.record_bytes() as u64, variant.record_bytes()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
        /// The first record, from 0, that is not whole.
        record: u64,
        /// The bytes that a whole file has.
        expected: u64,
        /// The bytes that it has.
        found: u64,
    },

    /// A file of records is longer than the data set's.
    #[error(
        "{} is too long: {expected} bytes expected ({} records of {}), {found} found; \
         is it of {variant}'s binary version?",
        path.display(), expected / variant.record_bytes() as u64, variant.record_bytes()
    )]
    Oversized {
        /// The file.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
        /// The bytes that a whole file has.
        expected: u64,
        /// The bytes that it has.
        found: u64,
    },

    /// A label byte names no class.
    #[error(
        "{}: record {record} has the {kind} label {value} at offset {offset}, 0 to {max} allowed; \
         is it of {variant}'s binary version?",
        path.display()
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
        /// The record, from 0.
        record: u64,
        /// The label's offset in the file, in bytes.
        offset: u64,
        /// `"coarse"` or `"fine"`.
        kind: &'static str,
        /// The byte found.
        value: u8,
        /// The largest label allowed.
        max: u8,
    },

    /// A file of the Python version is not the pickle that it should be.
    #[error("{}: {reason}; is it of {variant}'s Python version? Get the file again", path.display())]
    Python {
        /// The file.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
        /// What was found, with its offset in bytes or its place in a list, and what was expected.
        reason: String,
    },

    /// A file is not the parquet that the Hugging Face hub has.
    #[error("{}: {reason}; is it of {variant} on the Hugging Face hub?", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
        /// What was found, and in which row, from 0.
        reason: String,
    },

    /// The Hugging Face hub does not give the data set.
    #[error(
        "cannot get {repository} from the Hugging Face hub: {reason}; check the network, or use another source"
    )]
    Hub {
        /// The data set's owner and name there.
        repository: String,
        /// Why, as its client says.
        reason: String,
    },

    /// What the Hugging Face hub's cache holds is not the data set.
    #[error(
        "{} does not hold {variant}: {reason}; remove this folder of the Hugging Face hub's cache to have it fetched \
         again",
        path.display()
    )]
    HubCache {
        /// The data set's folder in the cache.
        path: PathBuf,
        /// What it should be.
        variant: Variant,
        /// The file in it, and what is wrong with it.
        reason: String,
    },

    /// A file of class names does not have one name for each class.
    #[error("{} has {found} names, {expected} expected; get the file again or remove it", path.display())]
    Names {
        /// The file.
        path: PathBuf,
        /// The number of classes.
        expected: usize,
        /// The number of names.
        found: usize,
    },

    /// Images and labels do not fit each other.
    #[error(
        "{images} bytes of images with {labels} labels and {} coarse labels: \
         {image_bytes} bytes and one of each per image expected",
        coarse.map_or("no".into(), |coarse| coarse.to_string())
    )]
    Lengths {
        /// Bytes of one image.
        image_bytes: usize,
        /// Bytes of images.
        images: usize,
        /// Number of labels.
        labels: usize,
        /// Number of coarse labels, if there are any.
        coarse: Option<usize>,
    },

    /// Tensors are not images and labels.
    #[error("{reason}")]
    Tensors {
        /// What was found and what is expected.
        reason: String,
    },

    /// Two splits and names of classes do not make one data set.
    #[error("the data set {name}: {reason}")]
    Dataset {
        /// The data set's name.
        name: String,
        /// What does not fit.
        reason: String,
    },

    /// A picture cannot be used.
    #[error("{}: {reason}", path.display())]
    Picture {
        /// The picture.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A folder does not hold pictures by class.
    #[error(
        "{}: {reason}; expected a folder for each class with PNG and JPEG files, in the folders train and test or in this \
         folder itself",
        path.display()
    )]
    PictureFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// An archive cannot be decoded.
    #[error(
        "{} is damaged or is no .tar.gz of {variant}: {source}; get it again",
        path.display()
    )]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What it should be of.
        variant: Variant,
        /// Where decoding stopped.
        source: io::Error,
    },

    /// An archive holds something that is not in the official one and not safe to unpack.
    #[error(
        "{}: refusing the entry {}, which {reason}; this is not the official archive",
        path.display(), entry.display()
    )]
    Entry {
        /// The archive.
        path: PathBuf,
        /// The entry's path in the archive.
        entry: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// No connection to the server, or no answer from it.
    #[error("cannot reach {url}: {reason}; check the network, or unpack the archive by hand")]
    Connect {
        /// The address asked for.
        url: String,
        /// Why, as the network layer says.
        reason: String,
    },

    /// The server answered with something other than the file.
    #[error("{url} answered with HTTP status {status} instead of the file")]
    Status {
        /// The address asked for.
        url: String,
        /// HTTP's status code.
        status: u16,
    },

    /// The server stopped sending.
    #[error(
        "{url} sent nothing for {:.1} s after {received} bytes; try again",
        timeout.as_secs_f64()
    )]
    Stalled {
        /// The address asked for.
        url: String,
        /// Bytes received until then.
        received: u64,
        /// How long nothing came.
        timeout: Duration,
    },

    /// The connection broke before the file's end.
    #[error(
        "{url} was cut off after {received} of {} bytes ({reason}); try again",
        expected.map_or("an unknown number of".into(), |bytes| bytes.to_string())
    )]
    CutOff {
        /// The address asked for.
        url: String,
        /// Bytes received until then.
        received: u64,
        /// The length that the server announced, in bytes.
        expected: Option<u64>,
        /// Why, as the network layer says.
        reason: String,
    },

    /// The file is larger than any archive of CIFAR.
    #[error("{url} is larger than the {limit} bytes allowed")]
    DownloadTooLarge {
        /// The address asked for.
        url: String,
        /// The most bytes accepted.
        limit: u64,
    },

    /// The file that came is not the one asked for.
    #[error(
        "{url} has MD5 {found}, {expected} expected: the file is damaged or is another file; nothing was kept"
    )]
    Checksum {
        /// The address asked for.
        url: String,
        /// The MD5 asked for, in hexadecimal digits.
        expected: String,
        /// The MD5 of what came.
        found: String,
    },

    /// A folder stands where a download would go, and is not the whole data set.
    #[error("{} is already there but not whole ({problem}); move it away or delete it first", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        problem: Box<Error>,
    },

    /// A setting is outside its range.
    #[error(transparent)]
    OutOfRange(#[from] wrn_sam_kernels::OutOfRange),

    /// A device's kernel was to make batches that it cannot make.
    #[error("the device has no kernel for {what}; let threads of the CPU make the batches")]
    NoKernel {
        /// What is asked of it.
        what: &'static str,
    },

    /// A split without images, where at least one is needed.
    #[error("the split has no images, at least one expected")]
    EmptySplit,

    /// A loader's worker thread panicked.
    #[error("making batch {batch} panicked: {message}")]
    Worker {
        /// The batch in its epoch, from 0.
        batch: usize,
        /// The panic's message.
        message: String,
    },

    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err`: an [`Error::Io`] of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source }
    }
}
