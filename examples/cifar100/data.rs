//! Which images a run gets: CIFAR from the disk, else from the network, else synthetic ones, saying which.

use std::path::Path;

use wrn_sam::data::download::DownloadOptions;
use wrn_sam::data::{Cifar, Error, Variant};
use wrn_sam::train::{DataChoice, Recipe};

use crate::args::DataFlags;
use crate::progress;
use crate::support::{AnyError, chain, synthetic};

/// The images that `recipe.data` asks for: from the hub if the flags say so, else looked for in their folder first.
///
/// # Errors
/// What is there is damaged; or CIFAR and nothing else was asked for, and cannot be had.
pub fn find(recipe: &Recipe, flags: &DataFlags) -> Result<Cifar, AnyError> {
    let variant = match recipe.data {
        DataChoice::Synthetic => return Ok(synthetic(recipe)),
        DataChoice::Cifar10 => Variant::Cifar10,
        DataChoice::Auto | DataChoice::Cifar100 => Variant::Cifar100,
    };
    if flags.hub {
        return hub(variant);
    }
    let path = &*flags.data_dir;
    let absent = match Cifar::open(variant, path) {
        Err(error @ Error::NoData { .. }) if !path.is_file() => error,
        found => return Ok(found?),
    };
    let options = DownloadOptions::from_env(variant)?;
    let (url, shown) = (options.url.clone(), path.display());
    progress::say(format_args!("no {variant} in {shown}; fetching {url}"));
    match fetch(path, options) {
        Ok(data) => Ok(data),
        Err(error) if recipe.data == DataChoice::Auto => {
            progress::say(format_args!(
                "{variant} cannot be had: {}\n\
                 GOING ON WITH SYNTHETIC IMAGES: what comes of this run says nothing about {variant}. For the real \
                 images, unpack {url} in {shown}.",
                chain(&error),
            ));
            Ok(synthetic(recipe))
        }
        Err(error) => Err(format!(
            "there is no {variant}. Looked in the folder: {absent}. Tried to fetch it: {}. \
             Get {url} by any means and put it in {shown}, or say with --data-dir where it is",
            chain(&error),
        )
        .into()),
    }
}

#[cfg(feature = "hub")]
fn hub(variant: Variant) -> Result<Cifar, AnyError> {
    progress::say(format_args!("looking for {variant} in the Hugging Face hub's cache, else fetching it"));
    Ok(Cifar::from_hub(variant)?)
}

#[cfg(not(feature = "hub"))]
fn hub(variant: Variant) -> Result<Cifar, AnyError> {
    Err(format!("--hub cannot get {variant}: this program was built without cargo's --features hub").into())
}

fn fetch(folder: &Path, options: DownloadOptions) -> wrn_sam::data::Result<Cifar> {
    let bar = progress::download_bar();
    let told = bar.clone();
    let options = options.with_progress(move |progress| {
        told.set_length(progress.total.unwrap_or(progress.received));
        told.set_position(progress.received);
    });
    let fetched = Cifar::download(folder, &options);
    bar.finish_and_clear();
    fetched
}
