//! Which images a run gets: CIFAR-100 from the disk, else from the network, else synthetic ones, saying which.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wrn_sam::data::download::{DownloadOptions, URL, download};
use wrn_sam::data::{Cifar100, Error};
use wrn_sam::train::{DataChoice, Recipe};

use crate::progress;
use crate::support::{AnyError, chain, synthetic};

/// How long to wait for the server's answer, and for more once bytes come.
const PATIENCE: Duration = Duration::from_secs(12);

/// The images that `recipe.data` asks for, looked for in `folder` first.
///
/// # Errors
/// CIFAR-100 in `folder` is damaged; or CIFAR-100 and nothing else was asked for, and cannot be had.
pub fn find(recipe: &Recipe, folder: &Path) -> Result<Cifar100, AnyError> {
    if recipe.data == DataChoice::Synthetic {
        return Ok(synthetic(recipe));
    }
    let absent = match Cifar100::open(folder) {
        Err(error @ Error::NoData { .. }) => error,
        found => return Ok(found?),
    };
    progress::say(format_args!("no CIFAR-100 in {}; fetching {URL}", folder.display()));
    match fetch(folder) {
        Ok(data) => Ok(data),
        Err(error) if recipe.data == DataChoice::Auto => {
            progress::say(format_args!(
                "CIFAR-100 cannot be had: {}\n\
                 GOING ON WITH SYNTHETIC IMAGES: what comes of this run says nothing about CIFAR-100. For the real \
                 images, unpack {URL} in {}.",
                chain(&error),
                folder.display()
            ));
            Ok(synthetic(recipe))
        }
        Err(error) => Err(format!(
            "there is no CIFAR-100. Looked in the folder: {absent}. Tried to fetch it: {}. \
             Get {URL} by any means and unpack it in {}, or name its folder with --data-dir",
            chain(&error),
            folder.display()
        )
        .into()),
    }
}

fn fetch(folder: &Path) -> wrn_sam::data::Result<Cifar100> {
    let bar = progress::download_bar();
    let told = bar.clone();
    let options = DownloadOptions {
        connect_timeout: PATIENCE,
        stall_timeout: PATIENCE,
        progress: Some(Arc::new(move |progress| {
            told.set_length(progress.total.unwrap_or(progress.received));
            told.set_position(progress.received);
        })),
        ..DownloadOptions::default()
    };
    let fetched = download(folder, &options);
    bar.finish_and_clear();
    Cifar100::from_dir(fetched?)
}
