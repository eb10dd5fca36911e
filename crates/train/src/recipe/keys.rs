//! A recipe's keys and the names that its parts have for them.

use crate::error::{Error, Result};

/// A precision in TOML: its name.
pub(super) mod precision_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use wrn_sam_kernels::Precision;

    pub fn serialize<S: Serializer>(precision: &Precision, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(precision)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Precision, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A part's error of a value out of range under the recipe's key.
pub(super) fn keyed<E: Into<Error>>(checked: std::result::Result<(), E>) -> Result<()> {
    renamed(checked, |name| match name {
        "p" => "norm",
        "smoothing" => "label_smoothing",
        "crop padding" => "crop_padding",
        "flip probability" => "flip_probability",
        "cutout size" => "cutout_size",
        "cutout probability" => "cutout_probability",
        "RandAugment's number of operations" => "randaugment_operations",
        "RandAugment's magnitude" => "randaugment_magnitude",
        "mixup's alpha" => "mixup_alpha",
        "CutMix's alpha" => "cutmix_alpha",
        "mixing probability" => "mix_probability",
        key => key,
    })
}

/// The same with other keys.
pub(super) fn renamed<E: Into<Error>>(
    checked: std::result::Result<(), E>,
    key: impl Fn(&'static str) -> &'static str,
) -> Result<()> {
    let Err(error) = checked.map_err(Into::into) else { return Ok(()) };
    let mut out_of_range = match error {
        Error::OutOfRange(out_of_range)
        | Error::Data(wrn_sam_data::Error::OutOfRange(out_of_range))
        | Error::Models(wrn_sam_models::Error::OutOfRange(out_of_range))
        | Error::Losses(wrn_sam_losses::Error::OutOfRange(out_of_range))
        | Error::Optim(wrn_sam_optim::Error::OutOfRange(out_of_range)) => out_of_range,
        other => return Err(other),
    };
    out_of_range.name = key(out_of_range.name);
    Err(out_of_range.into())
}
