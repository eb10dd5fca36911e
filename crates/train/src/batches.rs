//! Where a run's batches are made: by threads of the CPU, or on the GPU that trains.

use candle_core::{DType, Device};
use wrn_sam_data::{Augmentation, Batch, DeviceLoader, Loader, LoaderConfig, Mix, Split};

use crate::error::Result;

/// A split's loader, on the device that trains where that has one for what is asked: there are kernels for crop, flip,
/// normalization and cutout, but not for policies and mixing, which the CPU's threads do for any device.
pub(crate) enum Batches {
    Cpu(Loader),
    Gpu(DeviceLoader),
}

impl Batches {
    /// # Errors
    /// Those of the loaders.
    pub(crate) fn new(
        split: &Split,
        augmentation: Augmentation,
        mix: Option<Mix>,
        config: LoaderConfig,
        device: &Device,
    ) -> Result<Self> {
        if device.is_cuda() && augmentation.policy.is_none() && mix.is_none() {
            return Ok(Self::Gpu(DeviceLoader::new(split, &augmentation, config, DType::F32, device)?));
        }
        if device.is_cuda() {
            tracing::info!(policy = ?augmentation.policy, ?mix, "batches are made by the CPU's threads");
        }
        let loader = Loader::new(split, augmentation, config)?;
        Ok(Self::Cpu(match mix {
            Some(mix) => loader.with_mix(mix)?,
            None => loader,
        }))
    }

    /// The number of images in an epoch.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Cpu(loader) => loader.len(),
            Self::Gpu(loader) => loader.len(),
        }
    }

    /// The number of batches in an epoch.
    pub(crate) fn per_epoch(&self) -> usize {
        match self {
            Self::Cpu(loader) => loader.batches_per_epoch(),
            Self::Gpu(loader) => loader.batches_per_epoch(),
        }
    }

    /// The batches of an epoch from number `first` on.
    pub(crate) fn epoch_from(
        &self,
        epoch: usize,
        first: usize,
    ) -> Result<Box<dyn Iterator<Item = wrn_sam_data::Result<Batch>>>> {
        Ok(match self {
            Self::Cpu(loader) => Box::new(loader.epoch_from(epoch, first)),
            Self::Gpu(loader) => Box::new(loader.epoch_from(epoch, first)?),
        })
    }
}
