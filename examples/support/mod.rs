//! What the examples share: how a program ends, its lines, the choice of a device, and a recipe's synthetic images.
#![allow(dead_code, unused_imports)] // every example takes what it needs

mod device;
mod output;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

pub use wrn_sam::data::with_causes;
use wrn_sam::data::{Dataset, TEST_IMAGES, TRAIN_IMAGES};
use wrn_sam::train::Recipe;

pub use device::{DeviceChoice, check_precision, device_name, peak_bytes, peak_bytes_on};
pub use output::{say, warn};

/// Any error, for programs that only report it.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Flags that were read, but cannot be used: together, on this device, or with the files that they name. Exit code 2.
///
/// A program finds this out before it reads, fetches or writes any data.
#[derive(Debug)]
pub struct WrongFlags(pub String);

impl WrongFlags {
    /// For `map_err`: the text of the error and of its causes.
    pub fn from_error(error: impl Error) -> Self {
        Self(with_causes(&error))
    }
}

impl fmt::Display for WrongFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\nFor more information, try '--help'.", self.0)
    }
}

impl Error for WrongFlags {}

/// Exit code 0; or one message on stderr, the error and what caused it, and exit code 2 for [`WrongFlags`], else 1.
pub fn end(result: Result<(), AnyError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // A reader that has seen enough (`| head`) is no failure worth a message.
    if !is_broken_pipe(error.as_ref()) {
        warn(format_args!("error: {}", with_causes(error.as_ref())));
    }
    ExitCode::from(if error.is::<WrongFlags>() { 2 } else { 1 })
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The synthetic images of a run: no more than its recipe wants to train on, hold out and test on.
pub fn synthetic(recipe: &Recipe) -> Dataset {
    let limited = |images: usize, limit| if limit == 0 { images } else { images.min(limit) };
    let train = match recipe.train_limit {
        0 => TRAIN_IMAGES,
        limit => limit.saturating_add(recipe.validation).min(TRAIN_IMAGES),
    };
    Dataset::synthetic(recipe.seed, train, limited(TEST_IMAGES, recipe.test_limit))
}
