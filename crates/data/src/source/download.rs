//! Fetching the official archive.
//!
//! What comes goes to a temporary file in the destination folder, is checked against its MD5, unpacked to a
//! temporary folder and renamed into place: at no moment can something half-written be taken for data, and
//! what was there stays.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use md5::{Digest, Md5};
use tempfile::{NamedTempFile, TempDir};
use ureq::Body;
use ureq::http::Response;

use super::{ARCHIVE, FOLDER, Member, archive};
use crate::cifar::{TEST_IMAGES, TRAIN_IMAGES, check_size};
use crate::{Error, Result};

/// Where the official archive is.
pub const URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz";
/// The official archive's MD5.
pub const MD5: &str = "03b5dce01913d631647c71ecec9e9cb8";

/// What [`download`] fetches, and how patiently.
#[derive(Clone)]
pub struct DownloadOptions {
    /// The archive's address.
    pub url: String,
    /// The archive's MD5, 32 hexadecimal digits.
    pub md5: String,
    /// How long the server's answer may take, from name resolution to the response's head.
    pub connect_timeout: Duration,
    /// How long no byte may come once they flow.
    pub stall_timeout: Duration,
    /// The most bytes accepted; the official archive has 169 million.
    pub max_bytes: u64,
    /// Called often while bytes come.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Default for DownloadOptions {
    /// The official archive; 15 s for an answer and 30 s for each stall.
    fn default() -> Self {
        Self {
            url: URL.into(),
            md5: MD5.into(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            max_bytes: 200_000_000,
            progress: None,
        }
    }
}

impl fmt::Debug for DownloadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadOptions")
            .field("url", &self.url)
            .field("md5", &self.md5)
            .field("connect_timeout", &self.connect_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have come.
    pub received: u64,
    /// Bytes that will, where the server says so.
    pub total: Option<u64>,
}

/// Fetches CIFAR-100's binary version into `dir/cifar-100-binary` and returns that folder, for
/// [`Cifar100::from_dir`](crate::Cifar100::from_dir). Where it is already whole, nothing is fetched.
///
/// Proxies are taken from the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
///
/// ```no_run
/// use std::{path::Path, sync::Arc};
/// use wrn_sam_data::{Cifar100, download::{DownloadOptions, download}};
///
/// let progress = Arc::new(|progress| eprintln!("{progress:?}"));
/// let options = DownloadOptions { progress: Some(progress), ..Default::default() };
/// let cifar = Cifar100::from_dir(download(Path::new("data"), &options)?)?;
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
///
/// # Errors
/// [`Error::Occupied`] where something else has the folder's name; [`Error::Connect`] where no answer comes
/// within `connect_timeout`; [`Error::Status`], [`Error::Stalled`], [`Error::CutOff`],
/// [`Error::DownloadTooLarge`], [`Error::Checksum`]; those of
/// [`Cifar100::from_archive`](crate::Cifar100::from_archive); [`Error::Io`]. All leave `dir` as it was.
pub fn download(dir: &Path, options: &DownloadOptions) -> Result<PathBuf> {
    let target = dir.join(FOLDER);
    if is_whole(&target)? {
        return Ok(target);
    }
    let archive = fetch(dir, options)?;
    let unpacked =
        TempDir::with_prefix_in(".cifar-100-", dir).map_err(Error::io("create a folder in", dir))?;
    // Not the temporary folder itself, for that is readable by its owner alone.
    let folder = unpacked.path().join(FOLDER);
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    archive::unpack(archive.path(), &folder)?;
    if let Err(error) = fs::rename(&folder, &target) {
        // Another process may have been faster.
        return if is_whole(&target)? { Ok(target) } else { Err(Error::io("rename to", target)(error)) };
    }
    tracing::info!("unpacked {} to {}", options.url, target.display());
    Ok(target)
}

/// Whether the folder is there and whole; an error where it is there and is not.
fn is_whole(target: &Path) -> Result<bool> {
    if target.symlink_metadata().is_err() {
        return Ok(false);
    }
    for (member, images) in [(Member::Train, TRAIN_IMAGES), (Member::Test, TEST_IMAGES)] {
        let path = target.join(member.file_name());
        let checked = match path.metadata() {
            Ok(metadata) => check_size(&path, metadata.len(), Some(images)),
            Err(_) => Err(Error::Missing { path }),
        };
        if let Err(problem) = checked {
            return Err(Error::Occupied { path: target.into(), problem: Box::new(problem) });
        }
    }
    Ok(true)
}

/// The archive, checked, as a temporary file in `dir`.
fn fetch(dir: &Path, options: &DownloadOptions) -> Result<NamedTempFile> {
    let url = &options.url;
    let mut response = request(options)?;
    let total = response.body().content_length();
    let too_large = || Error::DownloadTooLarge { url: url.clone(), limit: options.max_bytes };
    if total > Some(options.max_bytes) {
        return Err(too_large());
    }

    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let mut file = tempfile::Builder::new()
        .prefix(".cifar-100-")
        .suffix(ARCHIVE)
        .tempfile_in(dir)
        .map_err(Error::io("create a file in", dir))?;
    let mut reader = response.body_mut().as_reader();
    let mut digest = Md5::new();
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let (url, reason) = (url.clone(), error.to_string());
                return Err(match ureq::Error::from(error) {
                    ureq::Error::Timeout(_) => {
                        Error::Stalled { url, received, timeout: options.stall_timeout }
                    }
                    _ => Error::CutOff { url, received, expected: total, reason },
                });
            }
        };
        if count == 0 {
            break;
        }
        received += count as u64;
        if received > options.max_bytes {
            return Err(too_large());
        }
        digest.update(&buffer[..count]);
        file.write_all(&buffer[..count]).map_err(Error::io("write", file.path()))?;
        if let Some(progress) = &options.progress {
            progress(Progress { received, total });
        }
    }

    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if !found.eq_ignore_ascii_case(&options.md5) {
        return Err(Error::Checksum { url: url.clone(), expected: options.md5.clone(), found });
    }
    Ok(file)
}

/// The server's answer, its body still to come.
fn request(options: &DownloadOptions) -> Result<Response<Body>> {
    let timeout = options.connect_timeout;
    let agent = ureq::Agent::config_builder()
        .timeout_resolve(Some(timeout))
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .build()
        .new_agent();
    let url = options.url.clone();
    let failed = |reason| Error::Connect { url: options.url.clone(), reason };

    // The stages have a timeout each and are repeated for redirects. Waiting for all of them together needs a
    // thread, which ends by itself, at the latest as its own timeouts pass.
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("wrn-sam-download".into())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = sender.send(agent.get(url).call());
        })
        .map_err(|error| failed(error.to_string()))?;
    let answer = receiver
        .recv_timeout(timeout)
        .map_err(|_| failed(format!("no answer within {:.1} s", timeout.as_secs_f64())))?;
    match answer {
        Ok(response) if response.status() == 200 => Ok(response),
        Ok(response) => Err(Error::Status { url: options.url.clone(), status: response.status().as_u16() }),
        Err(ureq::Error::StatusCode(status)) => Err(Error::Status { url: options.url.clone(), status }),
        Err(error) => Err(failed(error.to_string())),
    }
}
