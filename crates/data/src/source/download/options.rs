//! What is fetched, and how patiently.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use wrn_sam_kernels::OutOfRange;

use super::super::layout::layouts;
use crate::{Result, Variant};

/// The environment variable that [`DownloadOptions::from_env`] takes its timeouts from, in seconds.
pub const TIMEOUT_VARIABLE: &str = "WRN_SAM_TIMEOUT";

/// What [`download`](super::download()) fetches, and how patiently.
#[derive(Clone)]
#[non_exhaustive]
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
    /// How often a connection that broke or stalled after some bytes is made again, to go on from there. One that
    /// gave no byte is not.
    pub retries: u32,
    /// The most bytes accepted; the official archives have up to 171 million.
    pub max_bytes: u64,
    /// Called often while bytes come.
    pub progress: Option<Arc<dyn Fn(DownloadProgress) + Send + Sync>>,
}

impl DownloadOptions {
    /// The official archive of `variant`; 15 s for an answer, 30 s for each stall and 3 retries.
    pub fn new(variant: Variant) -> Self {
        let layout = &layouts(variant)[0];
        let md5 = match variant {
            Variant::Cifar10 => "c32a1d4ab5d03f1284b67883e8d87530",
            Variant::Cifar100 => "03b5dce01913d631647c71ecec9e9cb8",
        };
        let url = format!("https://www.cs.toronto.edu/~kriz/{}", layout.archive);
        Self {
            variant,
            url,
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
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) where it is set to anything else.
    pub fn from_env(variant: Variant) -> Result<Self> {
        let options = Self::new(variant);
        match std::env::var_os(TIMEOUT_VARIABLE) {
            Some(value) if !value.is_empty() => options.with_timeout(&value.to_string_lossy()),
            _ => Ok(options),
        }
    }

    /// Another archive of the binary version: its address, and its MD5 as 32 hexadecimal digits.
    #[must_use]
    pub fn with_url(self, url: impl Into<String>, md5: impl Into<String>) -> Self {
        Self { url: url.into(), md5: md5.into(), ..self }
    }

    /// With this number of retries after a connection that broke or stalled.
    #[must_use]
    pub fn with_retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// With this limit on the number of bytes.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// With a function that is called often while bytes come.
    #[must_use]
    pub fn with_progress(self, progress: impl Fn(DownloadProgress) + Send + Sync + 'static) -> Self {
        Self { progress: Some(Arc::new(progress)), ..self }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for an MD5 that is not 32 hexadecimal digits, or a timeout of zero.
    pub fn validate(&self) -> Result<()> {
        let is_md5 = self.md5.len() == 32 && self.md5.bytes().all(|byte| byte.is_ascii_hexdigit());
        OutOfRange::check("md5", &self.md5, is_md5, "32 hexadecimal digits")?;
        for (name, timeout) in
            [("connect_timeout", self.connect_timeout), ("stall_timeout", self.stall_timeout)]
        {
            OutOfRange::check(name, format!("{timeout:?}"), timeout > Duration::ZERO, "above zero")?;
        }
        Ok(())
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
#[non_exhaustive]
pub struct DownloadProgress {
    /// Bytes that are there, those of an earlier, broken download included.
    pub received: u64,
    /// Bytes that will be, where the server says so.
    pub total: Option<u64>,
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
