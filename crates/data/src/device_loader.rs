//! Batches made where the network runs: the split's bytes live on the device, and one kernel makes a batch of them.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use candle_core::{DType, Device};
use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::augment::{Draws, Images, Order};

use crate::loader::order;
use crate::{Augmentation, Batch, Cutout, Error, LoaderConfig, Result, Split};

/// The largest side of a cutout that the kernel does.
const LARGEST_CUTOUT: usize = 64;

/// A [`Loader`](crate::Loader) on the device: the same order of every epoch, and crop, flip, normalization and cutout from
/// the same distributions, drawn by another generator.
///
/// The images are brought to the device once, as bytes (184 MB for all of CIFAR). For each batch the host then starts one
/// kernel, which never waits, and for each epoch it sends its order; `config.threads` is not used. The draws come from
/// Philox4x32-10, a counter-based generator (Salmon et al., 2011), and depend on the seed, the epoch and the place in it
/// alone; they are the same on every device.
///
/// On the CPU the plain form runs: for tests, not for speed.
///
/// ```
/// use candle_core::{DType, Device};
/// use wrn_sam_data::{Augmentation, Cifar, DeviceLoader, LoaderConfig, Statistics};
///
/// let train = Cifar::synthetic(17, 300, 0).train;
/// let augmentation = Augmentation::reference(Statistics::of(&train)?);
/// let config = LoaderConfig::default();
/// let loader = DeviceLoader::new(&train, &augmentation, config, DType::F32, &Device::Cpu)?;
/// for batch in loader.epoch(0)? {
///     assert_eq!(batch?.images.dims()[1..], [3, 32, 32]);
/// }
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceLoader {
    images: Images,
    draws: Draws,
    config: LoaderConfig,
    dtype: DType,
}

impl DeviceLoader {
    /// A loader over the images of `split`, on `device`, of batches in `dtype`: `F32`, or `BF16` on a GPU.
    ///
    /// # Errors
    /// Those of [`Loader::new`](crate::Loader::new); [`Error::OutOfRange`] for what there is no kernel for: a policy of
    /// operations, or a cutout of more than 64 pixels; [`Error::Kernels`] for a device without kernels or without room.
    pub fn new(
        split: &Split,
        augmentation: &Augmentation,
        config: LoaderConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.check(split, augmentation)?;
        OutOfRange::check("policy", "one of operations", augmentation.policy.is_none(), "none on a device")?;
        let float = dtype == DType::F32 || (dtype == DType::BF16 && device.is_cuda());
        OutOfRange::check("dtype", dtype.as_str(), float, "f32, or bf16 on a GPU")?;
        let Cutout { size, p } = augmentation.cutout.unwrap_or(Cutout { size: 1, p: 0.0 });
        OutOfRange::check("cutout size", size, size <= LARGEST_CUTOUT, "1 to 64 on a device")?;
        let draws = Draws {
            seed: config.seed,
            padding: augmentation.crop.padding as u32,
            flip: augmentation.flip.p,
            cutout: p,
            cutout_size: size as u32,
        };
        let values = std::array::from_fn(|channel| {
            std::array::from_fn(|byte| augmentation.normalize.value(channel, byte as u8))
        });
        let images = Images::new(split.images().as_flattened(), split.labels(), &values, device)?;
        Ok(Self { images, draws, config, dtype })
    }

    /// Whether there are kernels for `augmentation`: they have no policies of operations, and cutouts of up to 64 pixels.
    pub fn has_kernels_for(augmentation: &Augmentation) -> bool {
        augmentation.policy.is_none()
            && augmentation.cutout.is_none_or(|cutout| cutout.size <= LARGEST_CUTOUT)
    }

    /// The number of images in an epoch.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether an epoch has no images: never so.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The number of batches in an epoch, the last and perhaps smaller one included.
    pub fn batches_per_epoch(&self) -> usize {
        self.config.batches(self.len())
    }

    /// The batches of epoch `epoch`, each image once.
    ///
    /// # Errors
    /// As [`epoch_from`](Self::epoch_from).
    pub fn epoch(&self, epoch: usize) -> Result<DeviceBatches> {
        self.epoch_from(epoch, 0)
    }

    /// The batches of epoch `epoch` from number `first_batch` (counted from 0) on, the same as at the end of
    /// [`epoch`](Self::epoch). Nothing is made of those before it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an epoch of 2^32 or more; [`Error::Kernels`] where the device has no room for its order.
    pub fn epoch_from(&self, epoch: usize, first_batch: usize) -> Result<DeviceBatches> {
        let number = u32::try_from(epoch).ok();
        OutOfRange::check("epoch", epoch, number.is_some(), "below 2^32")?;
        let order: Vec<u32> =
            order(self.len(), &self.config, epoch).into_iter().map(|image| image as u32).collect();
        let end = self.batches_per_epoch();
        Ok(DeviceBatches {
            loader: self.clone(),
            order: self.images.order(&order)?,
            epoch: number.unwrap_or_default(),
            left: first_batch.min(end)..end,
        })
    }
}

/// The batches of an epoch, in order, each made when it is asked for.
pub struct DeviceBatches {
    loader: DeviceLoader,
    order: Order,
    epoch: u32,
    left: Range<usize>,
}

impl Iterator for DeviceBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let index = self.left.next()?;
        let DeviceLoader { images, draws, config, dtype } = &self.loader;
        let first = index * config.batch_size;
        let count = config.batch_size.min(images.len() - first);
        let batch = images.augment(&self.order, draws, self.epoch, first, count, *dtype);
        if batch.is_err() {
            self.left = 0..0;
        }
        Some(batch.map(|(images, labels)| Batch::new(images, labels)).map_err(Error::from))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl ExactSizeIterator for DeviceBatches {}
impl FusedIterator for DeviceBatches {}

impl fmt::Debug for DeviceBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBatches").field("remaining", &self.left.len()).finish_non_exhaustive()
    }
}
