//! Batches: an epoch's order, augmentation into the batch's own buffer, tensors.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use wrn_sam_kernels::OutOfRange;

use crate::prefetch::Prefetch;
use crate::random::{Purpose, stream};
use crate::{Augmentation, Error, IMAGE_BYTES, IMAGE_CHANNELS, IMAGE_SIZE, Mix, MixDraw, Result, Split};

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

impl LoaderConfig {
    /// What every loader asks of a split, an augmentation and its settings.
    pub(crate) fn check(&self, split: &Split, augmentation: &Augmentation) -> Result<()> {
        if split.is_empty() {
            return Err(Error::EmptySplit);
        }
        OutOfRange::check("batch_size", self.batch_size, self.batch_size > 0, "at least 1")?;
        augmentation.validate()
    }

    /// The batches of so many images.
    pub(crate) fn batches(&self, images: usize) -> usize {
        images.div_ceil(self.batch_size)
    }
}

/// One batch of N images, on the CPU when a [`Loader`] has made it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalized images, `[N, 3, 32, 32]`, f32. In memory the channels come last: this is a view of `[N, 32, 32, 3]`.
    pub images: Tensor,
    /// Fine labels, `[N]`, u32.
    pub labels: Tensor,
    /// What was mixed into the images, if anything.
    pub mixed: Option<Mixed>,
}

/// The other part of a batch that was mixed with itself. (See [`Mix`].)
///
/// A target for such a batch is the labels' with the weight λ and these labels' with 1 - λ; so is a loss.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The fine labels of the images mixed in, `[N]`, u32.
    pub labels: Tensor,
    /// λ, the weight of the batch's own labels, 0 to 1.
    pub lambda: f64,
}

impl Batch {
    /// A batch of images `[N, 3, 32, 32]` and labels `[N]` that are not mixed.
    pub fn new(images: Tensor, labels: Tensor) -> Self {
        Self { images, labels, mixed: None }
    }

    /// The batch on `device`; what is there already is not copied.
    ///
    /// # Errors
    /// [`Error::Candle`] where the device has no room.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let mixed = self.mixed.as_ref().map(|mixed| {
            Ok::<_, Error>(Mixed { labels: mixed.labels.to_device(device)?, lambda: mixed.lambda })
        });
        Ok(Self {
            images: self.images.to_device(device)?,
            labels: self.labels.to_device(device)?,
            mixed: mixed.transpose()?,
        })
    }

    /// The labels `[N]` with the larger weight: those that an accuracy on the batch is measured by.
    pub fn dominant_labels(&self) -> &Tensor {
        match &self.mixed {
            Some(mixed) if mixed.lambda < 0.5 => &mixed.labels,
            _ => &self.labels,
        }
    }
}

/// Makes the batches of any epoch of a split.
///
/// An epoch's batches depend on the split, the augmentation, the mixing, the batch size, the seed and the epoch's number
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
    mix: Option<Mix>,
    config: LoaderConfig,
}

impl Loader {
    /// A loader over the images of `split`.
    ///
    /// # Errors
    /// [`Error::EmptySplit`], and [`Error::OutOfRange`] for a batch size of 0 or what [`Augmentation::validate`]
    /// refuses.
    pub fn new(split: &Split, augmentation: Augmentation, config: LoaderConfig) -> Result<Self> {
        config.check(split, &augmentation)?;
        Ok(Self { split: split.clone(), augmentation: Arc::new(augmentation), mix: None, config })
    }

    /// The same loader with each batch's images mixed with each other. The images are drawn and augmented as without.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for what [`Mix::validate`] refuses.
    pub fn with_mix(self, mix: Mix) -> Result<Self> {
        mix.validate()?;
        Ok(Self { mix: Some(mix), ..self })
    }

    /// How batches are formed.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
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
        self.config.batches(self.len())
    }

    /// The batches of epoch `epoch`, each image once.
    pub fn epoch(&self, epoch: usize) -> Batches {
        self.epoch_from(epoch, 0)
    }

    /// The batches of epoch `epoch` from number `first_batch` (counted from 0) on, the same as at the end of
    /// [`epoch`](Self::epoch). Nothing is made of those before it.
    pub fn epoch_from(&self, epoch: usize, first_batch: usize) -> Batches {
        self.batches(epoch, first_batch, Self::batch)
    }

    /// An epoch's batches from number `first_batch` on, each made by `make` from the epoch, its order and the batch's number.
    fn batches(
        &self,
        epoch: usize,
        first_batch: usize,
        make: impl Fn(&Self, usize, &[usize], usize) -> Result<Batch> + Send + Sync + 'static,
    ) -> Batches {
        let end = self.batches_per_epoch();
        let order = order(self.len(), &self.config, epoch);
        let loader = self.clone();
        let make = move |index| make(&loader, epoch, &order, index);
        Batches(Prefetch::new(first_batch.min(end)..end, self.config.threads, make))
    }

    fn batch(&self, epoch: usize, order: &[usize], index: usize) -> Result<Batch> {
        let first = index * self.config.batch_size;
        let images = &order[first..order.len().min(first + self.config.batch_size)];
        let mut pixels = Vec::with_capacity(images.len() * IMAGE_BYTES);
        for (&image, position) in images.iter().zip(first as u64..) {
            let mut rng = stream(self.config.seed, Purpose::Augmentation, epoch as u64, position);
            let draw = self.augmentation.sample(&mut rng);
            // Zeroed image by image, just before it is filled and while it is in the nearest cache.
            pixels.resize(pixels.len() + IMAGE_BYTES, 0.0);
            let Some(out) = pixels.last_chunk_mut() else { unreachable!("room was made just now") };
            self.augmentation.apply(self.split.image(image), &draw, out);
        }
        let draw = self.mix.and_then(|mix| {
            mix.sample(&mut stream(self.config.seed, Purpose::Mix, epoch as u64, index as u64))
        });
        if let Some(draw) = draw {
            draw.apply(pixels.as_chunks_mut().0);
        }

        let len = images.len();
        let labels = |image_of: &dyn Fn(usize) -> usize| {
            let labels: Vec<u32> = (0..len).map(|i| self.split.label(images[image_of(i)]).into()).collect();
            Tensor::from_vec(labels, len, &Device::Cpu)
        };
        let mixed = draw.map(|draw| {
            let labels = labels(&|i| MixDraw::partner(i, len))?;
            Ok::<_, Error>(Mixed { labels, lambda: draw.lambda() })
        });
        let shape = (len, IMAGE_SIZE, IMAGE_SIZE, IMAGE_CHANNELS);
        Ok(Batch {
            images: Tensor::from_vec(pixels, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?,
            labels: labels(&|i| i)?,
            mixed: mixed.transpose()?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cifar, Statistics};

    fn loader(threads: usize) -> Loader {
        let train = Cifar::synthetic(17, 203, 0).train;
        let augmentation = Augmentation::reference(Statistics::of(&train).unwrap());
        Loader::new(&train, augmentation, LoaderConfig { batch_size: 16, threads, shuffle: true, seed: 3 })
            .unwrap()
    }

    fn values(batch: Result<Batch>) -> (Vec<f32>, Vec<u32>) {
        let Batch { images, labels, .. } = batch.unwrap();
        (images.flatten_all().unwrap().to_vec1().unwrap(), labels.to_vec1().unwrap())
    }

    /// An epoch's threads share one copy of the loader, which is gone when the last of them has ended.
    fn copies(loader: &Loader) -> usize {
        Arc::strong_count(&loader.augmentation) - 1
    }

    /// The sixth batch of an epoch goes wrong by `fault`: the five before it are what they are without, then its error
    /// comes and the epoch ends, its threads too, and the loader is none the worse.
    fn fails_in_its_place(fault: fn() -> Result<Batch>, expected: &str) {
        for threads in [1, 3] {
            let loader = loader(threads);
            let mut epoch = loader.batches(0, 0, move |loader, epoch, order, index| match index {
                5 => fault(),
                _ => loader.batch(epoch, order, index),
            });
            for (made, unharmed) in epoch.by_ref().take(5).zip(loader.epoch(0)) {
                assert_eq!(values(made), values(unharmed));
            }
            assert_eq!(epoch.next().unwrap().unwrap_err().to_string(), expected, "{threads} threads");
            assert!(epoch.next().is_none());
            assert_eq!(epoch.len(), 0);
            drop(epoch);
            assert_eq!(copies(&loader), 0, "{threads} threads");
            assert_eq!(loader.epoch(0).map(values).count(), 13);
        }
    }

    #[test]
    fn an_error_in_a_worker_reaches_the_caller() {
        fails_in_its_place(|| Err(Error::EmptySplit), "the split has no images, at least one expected");
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller() {
        fails_in_its_place(|| panic!("out of luck"), "making batch 5 panicked: out of luck");
    }

    #[test]
    fn threads_end_with_an_epoch_that_is_dropped() {
        for threads in [1, 3] {
            let loader = loader(threads);
            for taken in [0, 1, 5] {
                let mut epoch = loader.epoch(taken);
                assert_eq!(epoch.by_ref().take(taken).map(values).count(), taken);
                assert_eq!(copies(&loader), 1);
                drop(epoch);
                assert_eq!(copies(&loader), 0, "{threads} threads, {taken} batches taken");
            }
        }
    }
}
