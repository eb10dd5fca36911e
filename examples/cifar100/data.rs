//! The images of a run: a folder of pictures if the flags say so; or CIFAR from the disk, else from the network, else synthetic
//! images. The program says which.

use std::path::Path;

use wrn_sam::data::download::DownloadOptions;
use wrn_sam::data::pictures::PictureOptions;
use wrn_sam::data::{Dataset, Error, Variant};
use wrn_sam::train::{DataChoice, Recipe, RunSource};

use crate::args::Args;
use crate::progress;
use crate::support::{AnyError, say, synthetic, with_causes};

/// The images that `recipe.data` asks for: from the hub if the flags say so, else from their folder, else downloaded. A run
/// that is resumed looks where its source.toml says that it read them.
///
/// # Errors
/// The images there are damaged; or there are none, and CIFAR was asked for or a folder named.
pub fn find(recipe: &Recipe, args: &Args) -> Result<Dataset, AnyError> {
    let named = args.data_dir();
    let before = match &args.run.resume {
        Some(run) if named.is_none() => RunSource::from_run(run)?,
        _ => None,
    };
    let variant = match recipe.data {
        DataChoice::Synthetic => return Ok(synthetic(recipe)),
        DataChoice::Cifar10 => Variant::Cifar10,
        DataChoice::Auto | DataChoice::Cifar100 => Variant::Cifar100,
        DataChoice::Folder => {
            let path = named.map(Path::to_path_buf).or(before.and_then(|source| source.location));
            let path =
                path.ok_or("the recipe's images are a folder's: say with --data folder:DIR where it is")?;
            return pictures(&path, recipe);
        }
        choice => return Err(format!("this program has no images of the kind {choice:?}").into()),
    };
    if args.data.hub || before.as_ref().is_some_and(|source| source.hub) {
        return hub(variant);
    }
    let before = before.and_then(|source| source.location);
    let path = named.or(before.as_deref()).unwrap_or(Path::new("./data"));
    let absent = match Dataset::open(variant, path) {
        Err(error @ Error::NoData { .. }) if !path.is_file() => error,
        found => return Ok(found?),
    };
    if before.is_some() {
        return Err(format!(
            "{absent}. The run read its images there; say with --data-dir where they are now, or where to download them to"
        )
        .into());
    }
    if named.is_some() && recipe.data == DataChoice::Auto {
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

fn pictures(folder: &Path, recipe: &Recipe) -> Result<Dataset, AnyError> {
    let size = recipe.image_size;
    say(format_args!("reading the pictures in {} at {size}x{size} pixels", folder.display()));
    Ok(Dataset::from_pictures(folder, &PictureOptions::default().with_image_size(size))?)
}

#[cfg(feature = "hub")]
fn hub(variant: Variant) -> Result<Dataset, AnyError> {
    say(format_args!("looking for {variant} in the Hugging Face hub's cache, else fetching it"));
    Ok(Dataset::from_hub(variant)?)
}

#[cfg(not(feature = "hub"))]
fn hub(variant: Variant) -> Result<Dataset, AnyError> {
    Err(format!("--hub cannot get {variant}: this program was built without cargo's --features hub").into())
}

fn fetch(folder: &Path, options: DownloadOptions) -> wrn_sam::data::Result<Dataset> {
    let bar = progress::download_bar();
    let told = bar.clone();
    let options = options.with_progress(move |progress| {
        told.set_length(progress.total.unwrap_or(progress.received));
        told.set_position(progress.received);
    });
    let fetched = Dataset::download(folder, &options);
    bar.finish_and_clear();
    fetched
}
