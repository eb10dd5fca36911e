//! The images of a run: CIFAR from the disk, else from the network, else synthetic images. The program says which.

use std::path::Path;

use wrn_sam::data::download::DownloadOptions;
use wrn_sam::data::{Cifar, Error, Variant};
use wrn_sam::train::{DataChoice, Recipe, RunSource};

use crate::args::DataFlags;
use crate::progress;
use crate::support::{AnyError, say, synthetic, with_causes};

/// The images that `recipe.data` asks for: from the hub if the flags say so, else from their folder, else downloaded. A run
/// that is resumed looks where its source.toml says that it read them.
///
/// # Errors
/// The images there are damaged; or there are none, and CIFAR was asked for or a folder named.
pub fn find(recipe: &Recipe, flags: &DataFlags, resumed: Option<&Path>) -> Result<Cifar, AnyError> {
    let variant = match recipe.data {
        DataChoice::Synthetic => return Ok(synthetic(recipe)),
        DataChoice::Cifar10 => Variant::Cifar10,
        DataChoice::Auto | DataChoice::Cifar100 => Variant::Cifar100,
    };
    let before = match resumed {
        Some(run) if flags.data_dir.is_none() => RunSource::from_run(run)?,
        _ => None,
    };
    if flags.hub || before.as_ref().is_some_and(|source| source.hub) {
        return hub(variant);
    }
    let before = before.and_then(|source| source.location);
    let path = flags.data_dir.as_deref().or(before.as_deref()).unwrap_or(Path::new("./data"));
    let absent = match Cifar::open(variant, path) {
        Err(error @ Error::NoData { .. }) if !path.is_file() => error,
        found => return Ok(found?),
    };
    if before.is_some() {
        return Err(format!(
            "{absent}. The run read its images there; say with --data-dir where they are now, or where to download them to"
        )
        .into());
    }
    if flags.data_dir.is_some() && recipe.data == DataChoice::Auto {
        // The folder that was named may be the wrong one: nothing is downloaded to it, or trained on instead.
        return Err(format!("{absent}; to download {variant} to there, add --data cifar100").into());
    }
    let options = DownloadOptions::from_env(variant)?;
    let (url, shown) = (options.url.clone(), path.display());
    say(format_args!("no {variant} in {shown}; downloading {url}"));
    match fetch(path, options) {
        Ok(data) => Ok(data),
        Err(error) if recipe.data == DataChoice::Auto => {
            say(format_args!(
                "{variant} cannot be had: {absent}; {}\n\
                 CONTINUING WITH SYNTHETIC IMAGES: the results of this run say nothing about {variant}. For the real \
                 images, unpack {url} in {shown}.",
                with_causes(&error),
            ));
            Ok(synthetic(recipe))
        }
        Err(error) => Err(format!(
            "there is no {variant}. In the folder: {absent}. From the network: {}. \
             Put {url} in {shown}, or say with --data-dir where it is",
            with_causes(&error),
        )
        .into()),
    }
}

#[cfg(feature = "hub")]
fn hub(variant: Variant) -> Result<Cifar, AnyError> {
    say(format_args!("looking for {variant} in the Hugging Face hub's cache, else fetching it"));
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
