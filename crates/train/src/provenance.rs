//! What weights were trained on and how: written into their file, so that it goes where they go.

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize, Serializer};
use wrn_sam_data::{Dataset, IMAGE_CHANNELS, IMAGE_SIZE, Statistics};
use wrn_sam_models::{read_metadata, save_state_dict};

use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// What a file of weights was trained on, and how well it did.
///
/// [`Trainer`](crate::Trainer) writes it as TOML into the safetensors metadata, by [`save_state_dict`].
/// Nothing in it depends on the machine, the number of threads or the time, so equal weights are equal files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provenance {
    /// The version of this crate that wrote the weights.
    pub version: String,
    /// The network's name, such as `WRN-34-10`.
    pub network: String,
    /// The name of the images' data set, without a path: `CIFAR-100`, that of your own, or in words that they are synthetic.
    pub data: String,
    /// Whether the images are generated: then the weights say nothing about photographs.
    pub synthetic: bool,
    /// The images' side in pixels; 32 in files that do not say.
    #[serde(default = "cifar_size")]
    pub image_size: usize,
    /// The MD5 of all images and labels, as 32 hexadecimal digits.
    pub images_md5: String,
    /// The name of each class, in the order of the logits.
    pub classes: Vec<String>,
    /// The mean of each channel, in [0, 1], that images are normalized with.
    pub mean: [f64; IMAGE_CHANNELS],
    /// The standard deviation of each channel.
    pub std: [f64; IMAGE_CHANNELS],
    /// Epochs trained.
    pub epoch: usize,
    /// Top-1 accuracy on the validation images after the last of them, in [0, 1]; none without such images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_top1: Option<f64>,
    /// Top-1 accuracy on the test images, in [0, 1]; none where they are measured only at the end of the run, and it has not
    /// ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_top1: Option<f64>,
    /// The recipe, without the keys that change no result.
    #[serde(serialize_with = "results_only")]
    pub recipe: Recipe,
}

fn cifar_size() -> usize {
    IMAGE_SIZE
}

fn results_only<S: Serializer>(recipe: &Recipe, to: S) -> std::result::Result<S::Ok, S::Error> {
    recipe.results_only().map_err(serde::ser::Error::custom)?.serialize(to)
}

impl Provenance {
    /// Of weights that have not been trained yet.
    pub(crate) fn new(
        network: String,
        data: &Dataset,
        statistics: Statistics,
        images_md5: &str,
        recipe: &Recipe,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            network,
            data: data.source.name.clone(),
            synthetic: data.source.is_synthetic(),
            image_size: data.image_size(),
            images_md5: images_md5.into(),
            classes: data.class_names.clone(),
            mean: statistics.mean,
            std: statistics.std,
            epoch: 0,
            validation_top1: None,
            test_top1: None,
            recipe: recipe.clone(),
        }
    }

    /// As TOML: the text beside the weights.
    ///
    /// # Errors
    /// [`Error::Toml`] for a recipe that is not valid.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Toml { message: error.to_string() })
    }

    /// From that text.
    ///
    /// # Errors
    /// [`Error::Toml`] where it is anything else.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| Error::Toml { message: error.message().into() })
    }

    /// Reads what a file of weights says of itself; `None` if it says nothing, as weights from elsewhere do.
    ///
    /// # Errors
    /// [`Error::Models`] for a file that cannot be read; [`Error::Toml`].
    pub fn from_weights(path: &Path) -> Result<Option<Self>> {
        read_metadata(path)?.as_deref().map(Self::from_toml).transpose()
    }

    /// What was trained on what, for titles.
    pub(crate) fn subject(&self) -> String {
        let images = if self.synthetic { "synthetic images" } else { &self.data };
        format!("{}, {images}", self.network)
    }

    /// Writes weights with this in their metadata.
    pub(crate) fn write_weights(&self, path: &Path, state: &[(String, Tensor)]) -> Result<()> {
        Ok(save_state_dict(path, state, Some(&self.to_toml()?))?)
    }
}
