//! The loader for a device: which of the two makes the batches.

use std::fmt;
use std::iter::FusedIterator;

use candle_core::{DType, Device};

use crate::{
    Augmentation, Batch, Batches, DeviceBatches, DeviceLoader, Loader, LoaderConfig, Mix, Result, Split,
};

/// The loader for a device, with batches there: the device's own where it has kernels for what is asked, else threads of
/// the CPU, whose batches are copied.
///
/// An NVIDIA GPU has kernels for crop, flip, normalization and cutout. A policy or mixing is the CPU's work for any
/// device. Which it is can be matched on, and said: `made by 2 threads of the CPU`.
///
/// ```
/// use candle_core::Device;
/// use wrn_sam_data::{AnyLoader, Augmentation, Cifar, LoaderConfig, Statistics};
///
/// let train = Cifar::synthetic(17, 300, 0).train;
/// let augmentation = Augmentation::reference(Statistics::of(&train)?);
/// let device = Device::Cpu;
/// let loader = AnyLoader::new(&train, augmentation, None, LoaderConfig::default(), &device)?;
/// assert_eq!(loader.to_string(), "made by 2 threads of the CPU");
/// for batch in loader.epoch(0)? {
///     assert!(batch?.images.device().same_device(&device));
/// }
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum AnyLoader {
    /// Threads of the CPU make the batches.
    Cpu {
        /// What makes them.
        loader: Loader,
        /// Where each is copied to; the CPU needs no copy.
        device: Device,
    },
    /// The device makes the batches.
    Device(DeviceLoader),
}

impl AnyLoader {
    /// The loader of f32 batches for `device`, over the images of `split`.
    ///
    /// # Errors
    /// Those of [`Loader::new`], [`Loader::with_mix`] and [`DeviceLoader::new`].
    pub fn new(
        split: &Split,
        augmentation: Augmentation,
        mix: Option<Mix>,
        config: LoaderConfig,
        device: &Device,
    ) -> Result<Self> {
        if device.is_cuda() && mix.is_none() && DeviceLoader::has_kernels_for(&augmentation) {
            return Ok(Self::Device(DeviceLoader::new(split, &augmentation, config, DType::F32, device)?));
        }
        let loader = Loader::new(split, augmentation, config)?;
        let loader = match mix {
            Some(mix) => loader.with_mix(mix)?,
            None => loader,
        };
        Ok(Self::Cpu { loader, device: device.clone() })
    }

    /// The number of images in an epoch.
    pub fn len(&self) -> usize {
        match self {
            Self::Cpu { loader, .. } => loader.len(),
            Self::Device(loader) => loader.len(),
        }
    }

    /// Whether an epoch has no images: never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of batches in an epoch, the last and perhaps smaller one included.
    pub fn batches_per_epoch(&self) -> usize {
        match self {
            Self::Cpu { loader, .. } => loader.batches_per_epoch(),
            Self::Device(loader) => loader.batches_per_epoch(),
        }
    }

    /// The batches of epoch `epoch`, each image once.
    ///
    /// # Errors
    /// As [`epoch_from`](Self::epoch_from).
    pub fn epoch(&self, epoch: usize) -> Result<AnyBatches> {
        self.epoch_from(epoch, 0)
    }

    /// The batches of epoch `epoch` from number `first_batch` (counted from 0) on, the same as at the end of
    /// [`epoch`](Self::epoch). Nothing is made of those before it.
    ///
    /// # Errors
    /// Those of [`DeviceLoader::epoch_from`].
    pub fn epoch_from(&self, epoch: usize, first_batch: usize) -> Result<AnyBatches> {
        Ok(AnyBatches(match self {
            Self::Cpu { loader, device } => Inner::Cpu(loader.epoch_from(epoch, first_batch), device.clone()),
            Self::Device(loader) => Inner::Device(loader.epoch_from(epoch, first_batch)?),
        }))
    }
}

/// Who makes the batches.
impl fmt::Display for AnyLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(_) => f.write_str("made on the device"),
            Self::Cpu { loader, device } => {
                match loader.config().threads {
                    0 => f.write_str("made between the steps by the CPU"),
                    1 => f.write_str("made by 1 thread of the CPU"),
                    threads => write!(f, "made by {threads} threads of the CPU"),
                }?;
                if !device.is_cpu() {
                    f.write_str(
                        " and copied to the device, which has kernels for crop, flip and cutout alone",
                    )?;
                }
                Ok(())
            }
        }
    }
}

/// The batches of an epoch of an [`AnyLoader`], in order, on its device.
#[derive(Debug)]
pub struct AnyBatches(Inner);

#[derive(Debug)]
enum Inner {
    Cpu(Batches, Device),
    Device(DeviceBatches),
}

impl Iterator for AnyBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        match &mut self.0 {
            Inner::Cpu(batches, device) => Some(batches.next()?.and_then(|batch| batch.to_device(device))),
            Inner::Device(batches) => batches.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Inner::Cpu(batches, _) => batches.size_hint(),
            Inner::Device(batches) => batches.size_hint(),
        }
    }
}

impl ExactSizeIterator for AnyBatches {}
impl FusedIterator for AnyBatches {}
