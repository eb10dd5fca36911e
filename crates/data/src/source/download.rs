//! Fetching the official archive.
//!
//! What comes goes to a hidden file in the destination folder, which a broken download leaves there to go on
//! from. Once whole it is checked against its MD5, unpacked to a temporary folder and renamed into place: at no
//! moment can something half-written be taken for data, and what was there stays.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use ureq::Body;
use ureq::http::{HeaderMap, Response, header};
use wrn_sam_kernels::OutOfRange;

use super::archive;
use super::layout::{Layout, layouts};
use super::partial::Partial;
use crate::{Cifar, Error, Result, Variant, binary};

/// The environment variable that [`DownloadOptions::from_env`] takes its timeouts from, in seconds.
pub const TIMEOUT_VARIABLE: &str = "WRN_SAM_TIMEOUT";

/// What [`download`] fetches, and how patiently.
#[derive(Clone)]
pub struct DownloadOptions {
    /// Which data set it is.
    pub variant: Variant,
    /// The address of a .tar.gz of its binary version.
    pub url: String,
    /// The archive's MD5, 32 hexadecimal digits.
    pub md5: String,
    /// How long the server's answer may take, from name resolution to the response's head.
    pub connect_timeout: Duration,
    /// How long no byte may come once they flow.
    pub stall_timeout: Duration,
    /// How often a connection that broke or stalled after some bytes is made again, to go on from there.
    pub retries: u32,
    /// The most bytes accepted; the official archives have up to 171 million.
    pub max_bytes: u64,
    /// Called often while bytes come.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl DownloadOptions {
    /// The official archive of `variant`; 15 s for an answer, 30 s for each stall and 3 retries.
    pub fn new(variant: Variant) -> Self {
        let (url, md5) = match variant {
            Variant::Cifar10 => (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
            ),
            Variant::Cifar100 => (
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                "03b5dce01913d631647c71ecec9e9cb8",
            ),
        };
        Self {
            variant,
            url: url.into(),
            md5: md5.into(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            retries: 3,
            max_bytes: 200_000_000,
            progress: None,
        }
    }

    /// As [`new`](Self::new), with both timeouts from the environment's `WRN_SAM_TIMEOUT` where that is set:
    /// seconds, at least one thousandth.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where it is set to anything else.
    pub fn from_env(variant: Variant) -> Result<Self> {
        let options = Self::new(variant);
        match std::env::var_os(TIMEOUT_VARIABLE) {
            Some(value) if !value.is_empty() => options.with_timeout(&value.to_string_lossy()),
            _ => Ok(options),
        }
    }

    fn with_timeout(self, seconds: &str) -> Result<Self> {
        let timeout = seconds.trim().parse().ok().filter(|seconds| (1e-3..=1e9).contains(seconds));
        let timeout = timeout
            .map(Duration::from_secs_f64)
            .ok_or_else(|| OutOfRange::new(TIMEOUT_VARIABLE, seconds, "a number of seconds from 0.001 on"))?;
        Ok(Self { connect_timeout: timeout, stall_timeout: timeout, ..self })
    }
}

impl fmt::Debug for DownloadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadOptions")
            .field("variant", &self.variant)
            .field("url", &self.url)
            .field("md5", &self.md5)
            .field("connect_timeout", &self.connect_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("retries", &self.retries)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there, those of an earlier, broken download included.
    pub received: u64,
    /// Bytes that will be, where the server says so.
    pub total: Option<u64>,
}

impl Cifar {
    /// Reads the data set from `dir`, and fetches it to there first where it is not: [`download`], then
    /// [`from_dir`](Self::from_dir).
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use wrn_sam_data::{Cifar, Variant, download::DownloadOptions};
    ///
    /// let progress = Arc::new(|progress| eprintln!("{progress:?}"));
    /// let options =
    ///     DownloadOptions { progress: Some(progress), ..DownloadOptions::from_env(Variant::Cifar100)? };
    /// let cifar = Cifar::download("data", &options)?;
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of both.
    pub fn download(dir: impl AsRef<Path>, options: &DownloadOptions) -> Result<Self> {
        Self::from_dir(options.variant, download(dir.as_ref(), options)?)
    }
}

/// Fetches a data set's binary version into the folder in `dir` that its official archive unpacks to
/// (`cifar-100-binary`, `cifar-10-batches-bin`), and returns that folder. Where it is already whole, nothing is
/// fetched.
///
/// What a broken download left behind is gone on with, if the server can send the rest alone and still has the
/// same file; otherwise it begins anew. Of two processes, or threads, that fetch to one `dir` at the same time
/// one waits for the other.
///
/// Proxies are taken from the environment: `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY`, with `NO_PROXY` for
/// exceptions.
///
/// # Errors
/// [`Error::Occupied`] where something else has the folder's name; [`Error::Connect`] where no answer comes
/// within `connect_timeout`; [`Error::Status`], [`Error::Stalled`], [`Error::CutOff`],
/// [`Error::DownloadTooLarge`], [`Error::Checksum`]; those of
/// [`Cifar::from_archive`](crate::Cifar::from_archive); [`Error::Io`]. All leave `dir` as it was, but for the
/// hidden part of a broken download.
pub fn download(dir: &Path, options: &DownloadOptions) -> Result<PathBuf> {
    let layout = &layouts(options.variant)[0];
    let target = dir.join(layout.folder);
    if is_whole(layout, &target)? {
        return Ok(target);
    }
    let made = make_folder(dir)?;
    let fetched = fetch_and_unpack(dir, layout, &target, options);
    if fetched.is_err() {
        // Innermost first; those that are not empty stay.
        for folder in made.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
    fetched.map(|()| target)
}

/// Makes the folder `dir`; the folders that were not there, outermost first.
fn make_folder(dir: &Path) -> Result<Vec<PathBuf>> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && path.symlink_metadata().is_err();
    let mut made: Vec<PathBuf> = dir.ancestors().take_while(missing).map(Path::to_path_buf).collect();
    made.reverse();
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    Ok(made)
}

fn fetch_and_unpack(dir: &Path, layout: &Layout, target: &Path, options: &DownloadOptions) -> Result<()> {
    let mut partial =
        Partial::open(dir.join(format!(".{}.part", layout.archive)), &options.url, &options.md5)?;
    // Another process may have been faster.
    if is_whole(layout, target)? {
        partial.remove();
        return Ok(());
    }
    let unpacked = fetch(&mut partial, options).and_then(|()| unpack(&mut partial, dir, layout, target));
    match &unpacked {
        // Bytes that came are good until the sum says otherwise.
        Err(error) if is_passing(error) => {}
        _ => partial.remove(),
    }
    unpacked
}

/// Whether what was received may be of use for another try.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect { .. }
            | Error::Status { .. }
            | Error::Stalled { .. }
            | Error::CutOff { .. }
            | Error::Io { .. }
            | Error::Occupied { .. }
    )
}

/// Unpacks the whole archive to `target`, through a folder beside it.
fn unpack(partial: &mut Partial, dir: &Path, layout: &Layout, target: &Path) -> Result<()> {
    let unpacked = TempDir::with_prefix_in(".cifar-", dir).map_err(Error::io("create a folder in", dir))?;
    // Not the temporary folder itself, for that is readable by its owner alone.
    let folder = unpacked.path().join(layout.folder);
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    let path = partial.path().to_path_buf();
    archive::unpack(layout.variant, partial.reader()?, &path, &folder)?;
    if let Err(error) = fs::rename(&folder, target) {
        // Where there are no locks, another process may have been faster.
        return if is_whole(layout, target)? { Ok(()) } else { Err(Error::io("rename to", target)(error)) };
    }
    tracing::info!("fetched {}", target.display());
    Ok(())
}

/// Whether the folder is there and whole; an error where it is there and is not.
fn is_whole(layout: &Layout, target: &Path) -> Result<bool> {
    if target.symlink_metadata().is_err() {
        return Ok(false);
    }
    let variant = layout.variant;
    for (member, name) in layout.image_files() {
        let path = target.join(name);
        let checked = match path.metadata() {
            Ok(metadata) => binary::check_size(variant, &path, metadata.len(), layout.images(member)),
            Err(_) => Err(Error::Missing { path, variant }),
        };
        if let Err(problem) = checked {
            return Err(Error::Occupied { path: target.into(), problem: Box::new(problem) });
        }
    }
    Ok(true)
}

/// Fetches what is missing of the archive, and checks the whole.
fn fetch(partial: &mut Partial, options: &DownloadOptions) -> Result<()> {
    let mut old = partial.received() > 0;
    let mut retries = options.retries;
    loop {
        let before = partial.received();
        match receive(partial, options) {
            Err(error @ (Error::Stalled { .. } | Error::CutOff { .. }))
                if retries > 0 && partial.received() > before =>
            {
                tracing::warn!("{error}; going on from there");
                (retries, old) = (retries - 1, true);
                continue;
            }
            received => received?,
        }
        let found = partial.md5();
        if found.eq_ignore_ascii_case(&options.md5) {
            return Ok(());
        }
        if !std::mem::take(&mut old) {
            let (url, expected) = (options.url.clone(), options.md5.clone());
            return Err(Error::Checksum { url, expected, found });
        }
        // It is not said which of the pieces is wrong.
        tracing::warn!("what came of {} in pieces has MD5 {found}; fetching it anew", options.url);
        partial.restart("")?;
    }
}

/// Receives, of one connection, all that is missing.
fn receive(partial: &mut Partial, options: &DownloadOptions) -> Result<()> {
    let url = &options.url;
    let mut response = request(partial, options)?;
    let start = match response.status().as_u16() {
        206 => content_range_start(response.headers()),
        // The server does not send parts, or has another file now.
        200 => Some(0),
        // Nothing is missing, or the file became shorter; the sum tells.
        416 if partial.received() > 0 => return Ok(()),
        status => return Err(Error::Status { url: url.clone(), status }),
    };
    if start != Some(partial.received()) {
        if start != Some(0) {
            let reason = "the server sent another part than was asked for".into();
            return Err(Error::Connect { url: url.clone(), reason });
        }
        partial.restart("")?;
    }
    if partial.received() == 0 {
        partial.restart(&validator(response.headers()))?;
    }
    let total = response.body().content_length().map(|rest| rest.saturating_add(partial.received()));
    let too_large = || Error::DownloadTooLarge { url: url.clone(), limit: options.max_bytes };
    if total > Some(options.max_bytes) {
        return Err(too_large());
    }

    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let (url, received, reason) = (url.clone(), partial.received(), error.to_string());
                return Err(match ureq::Error::from(error) {
                    ureq::Error::Timeout(_) => {
                        Error::Stalled { url, received, timeout: options.stall_timeout }
                    }
                    _ => Error::CutOff { url, received, expected: total, reason },
                });
            }
        };
        if count == 0 {
            return Ok(());
        }
        if partial.received() + count as u64 > options.max_bytes {
            return Err(too_large());
        }
        partial.write(&buffer[..count])?;
        if let Some(progress) = &options.progress {
            progress(Progress { received: partial.received(), total });
        }
    }
}

/// What the server calls the file, for `If-Range`: a strong ETag, or the date of its last change.
fn validator(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let etag = text(header::ETAG).filter(|etag| etag.starts_with('"'));
    etag.or_else(|| text(header::LAST_MODIFIED)).unwrap_or_default().into()
}

/// Where the part begins, by `Content-Range: bytes START-END/TOTAL`.
fn content_range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// The server's answer, its body still to come: the whole file, or what is missing of it.
fn request(partial: &Partial, options: &DownloadOptions) -> Result<Response<Body>> {
    let timeout = options.connect_timeout;
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(timeout))
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .build()
        .new_agent();
    let failed = |reason| Error::Connect { url: options.url.clone(), reason };
    let mut request = agent.get(&options.url);
    if partial.received() > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", partial.received()));
        if !partial.validator().is_empty() {
            request = request.header(header::IF_RANGE, partial.validator());
        }
    }

    // The stages have a timeout each and are repeated for redirects. Waiting for all of them together needs a
    // thread, which ends by itself, at the latest as its own timeouts pass.
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("wrn-sam-download".into())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = sender.send(request.call());
        })
        .map_err(|error| failed(error.to_string()))?;
    receiver
        .recv_timeout(timeout)
        .map_err(|_| failed(format!("no answer within {:.1} s", timeout.as_secs_f64())))?
        .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_of_the_environment_is_in_seconds() {
        let options = DownloadOptions::new(Variant::Cifar100);
        let half = options.clone().with_timeout(" 0.5").unwrap();
        assert_eq!(
            (half.connect_timeout, half.stall_timeout),
            (Duration::from_millis(500), Duration::from_millis(500))
        );
        for wrong in ["soon", "0", "-1", "nan", "inf"] {
            let message = options.clone().with_timeout(wrong).unwrap_err().to_string();
            assert_eq!(
                message,
                format!("WRN_SAM_TIMEOUT = {wrong}: must be a number of seconds from 0.001 on")
            );
        }
    }
}
