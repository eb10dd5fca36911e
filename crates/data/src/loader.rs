//! Batches: an epoch's order, augmentation into the batch's own buffer, tensors.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;

use crate::augment::check;
use crate::prefetch::Prefetch;
use crate::random::{Purpose, stream};
use crate::{Augmentation, Error, IMAGE_BYTES, IMAGE_CHANNELS, IMAGE_SIZE, Result, Split};

/// How a [`Loader`] forms batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Images per batch, at least 1; an epoch's last batch has what is left.
    pub batch_size: usize,
    /// Worker threads. With 0, batches are made by the caller's thread when it asks for them.
    pub threads: usize,
    /// Whether each epoch has its own random order; otherwise all have the split's.
    pub shuffle: bool,
    /// What order and augmentation are drawn from.
    pub seed: u64,
}

impl Default for LoaderConfig {
    /// The reference's batches of 128 in random order, from seed 17, made by two threads.
    fn default() -> Self {
        Self { batch_size: 128, threads: 2, shuffle: true, seed: 17 }
    }
}

/// One batch of N images, on the CPU.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalized images, `[N, 3, 32, 32]`, f32.
    pub images: Tensor,
    /// Fine labels, `[N]`, u32.
    pub labels: Tensor,
}

/// Makes the batches of any epoch of a split.
///
/// An epoch's batches depend on the split, the augmentation, the batch size, the seed and the epoch's number
/// alone: never on the number of threads, on other epochs, or on where in the epoch one begins. Each image's
/// augmentation is drawn from its own random stream, named by seed, epoch and place in the epoch.
///
/// ```
/// use wrn_sam_data::{Augmentation, Cifar, Loader, LoaderConfig, Statistics};
///
/// let train = Cifar::synthetic(17, 300, 0).train;
/// let augmentation = Augmentation::reference(Statistics::of(&train)?);
/// let loader = Loader::new(&train, augmentation, LoaderConfig::default())?;
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.images.dims()[1..], [3, 32, 32]);
/// }
/// assert_eq!(loader.epoch(0).last().unwrap()?.labels.dims(), [300 - 2 * 128]);
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    split: Split,
    augmentation: Arc<Augmentation>,
    config: LoaderConfig,
}

impl Loader {
    /// A loader over the images of `split`.
    ///
    /// # Errors
    /// [`Error::EmptySplit`], and [`Error::Setting`] for a batch size of 0 or what [`Augmentation::validate`]
    /// refuses.
    pub fn new(split: &Split, augmentation: Augmentation, config: LoaderConfig) -> Result<Self> {
        if split.is_empty() {
            return Err(Error::EmptySplit);
        }
        check("batch size", config.batch_size, "at least 1", config.batch_size > 0)?;
        augmentation.validate()?;
        Ok(Self { split: split.clone(), augmentation: Arc::new(augmentation), config })
    }

    /// The number of images in an epoch.
    pub fn len(&self) -> usize {
        self.split.len()
    }

    /// Whether an epoch has no images: never so.
    pub fn is_empty(&self) -> bool {
        self.split.is_empty()
    }

    /// The number of batches in an epoch, the last and perhaps smaller one included.
    pub fn batches_per_epoch(&self) -> usize {
        self.len().div_ceil(self.config.batch_size)
    }

    /// The batches of epoch `epoch`, each image once.
    pub fn epoch(&self, epoch: usize) -> Batches {
        self.epoch_from(epoch, 0)
    }

    /// The batches of epoch `epoch` from number `first_batch` (counted from 0) on, the same as at the end of
    /// [`epoch`](Self::epoch). Nothing is made of those before it.
    pub fn epoch_from(&self, epoch: usize, first_batch: usize) -> Batches {
        let end = self.batches_per_epoch();
        let order = order(self.len(), &self.config, epoch);
        let loader = self.clone();
        let make = move |index| loader.batch(epoch, &order, index);
        Batches(Prefetch::new(first_batch.min(end)..end, self.config.threads, make))
    }

    fn batch(&self, epoch: usize, order: &[usize], index: usize) -> Result<Batch> {
        let first = index * self.config.batch_size;
        let images = &order[first..order.len().min(first + self.config.batch_size)];
        let mut pixels = vec![0.0; images.len() * IMAGE_BYTES];
        for ((&image, out), position) in images.iter().zip(pixels.as_chunks_mut().0).zip(first as u64..) {
            let mut rng = stream(self.config.seed, Purpose::Augmentation, epoch as u64, position);
            let draw = self.augmentation.sample(&mut rng);
            self.augmentation.apply(self.split.image(image), &draw, out);
        }
        let labels: Vec<u32> = images.iter().map(|&image| self.split.label(image).into()).collect();
        let shape = (images.len(), IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE);
        Ok(Batch {
            images: Tensor::from_vec(pixels, shape, &Device::Cpu)?,
            labels: Tensor::from_vec(labels, images.len(), &Device::Cpu)?,
        })
    }
}

/// The order of an epoch of `len` images.
pub(crate) fn order(len: usize, config: &LoaderConfig, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    if config.shuffle {
        order.shuffle(&mut stream(config.seed, Purpose::Order, epoch as u64, 0));
    }
    order
}

/// The batches of an epoch, in order, made a few ahead by worker threads.
///
/// An error, or a panic in a worker thread, comes in its batch's place as an error and ends the iteration.
/// Dropping this ends the threads.
pub struct Batches(Prefetch<Batch>);

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.0.remaining();
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for Batches {}
impl FusedIterator for Batches {}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("remaining", &self.0.remaining()).finish_non_exhaustive()
    }
}
