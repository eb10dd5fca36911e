//! The bytes on their way: requests, retries, and the check of the whole.

use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

use ureq::Body;
use ureq::http::{HeaderMap, Response, header};

use super::options::{DownloadOptions, DownloadProgress};
use super::partial::Partial;
use crate::{Error, Result};

/// Fetches what is missing of the archive, and checks the whole.
pub(super) fn fetch(partial: &mut Partial, options: &DownloadOptions) -> Result<()> {
    let mut old = partial.received() > 0;
    let mut retries = options.retries;
    loop {
        let before = partial.received();
        match receive(partial, options) {
            Err(error @ (Error::Stalled { .. } | Error::CutOff { .. }))
                if retries > 0 && partial.received() > before =>
            {
                tracing::warn!("{error}; resuming");
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
        // Any of the pieces can be the wrong one.
        tracing::warn!(
            "the pieces of {} have MD5 {found} together; fetching the whole file again",
            options.url
        );
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
            progress(DownloadProgress { received: partial.received(), total });
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
