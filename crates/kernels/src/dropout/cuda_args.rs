//! A mask as the kernels of other operations take it.

use crate::cuda_args::arguments;

arguments! {
    /// `Mask` of `dropout/mask.cuh`.
    Mask { key: u64, threshold: u64, scale: f32 }
}

impl From<Option<super::Mask>> for Mask {
    fn from(mask: Option<super::Mask>) -> Self {
        mask.map_or_else(Self::default, |mask| Self {
            key: mask.key,
            threshold: mask.threshold,
            scale: mask.scale,
        })
    }
}
