//! The batches of any epoch: their order, and who makes them.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use wrn_sam_kernels::OutOfRange;

use crate::batch::{Batch, Mixed};
use crate::on_device::OnDevice;
use crate::prefetch::Prefetch;
use crate::random::{Purpose, stream};
use crate::{Augmentation, Error, IMAGE_CHANNELS, LoaderConfig, Mix, MixDraw, Result, Split};

/// Makes the batches of any epoch of a split.
///
/// An epoch's batches depend only on the split, the augmentation, the mixing, the batch size, the seed, the epoch's
/// number and the [`Maker`]: never on the number of threads, on other epochs, or on where in the epoch one begins. Each
/// image's augmentation is drawn from its own random stream, named by seed, epoch and position in the epoch.
///
/// ```
/// use wrn_sam_data::{Augmentation, Dataset, Loader, LoaderConfig, Statistics};
///
/// let train = Dataset::synthetic(17, 300, 0).train;
/// let augmentation = Augmentation::reference(Statistics::from_split(&train)?);
/// let loader = Loader::new(&train, augmentation, LoaderConfig::default())?;
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.images.dims()[1..], [3, 32, 32]);
/// }
/// assert_eq!(loader.epoch(0).last().unwrap()?.labels.dims(), [300 - 2 * 128]);
/// assert_eq!(loader.to_string(), "made by 2 threads of the CPU");
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    split: Split,
    augmentation: Arc<Augmentation>,
    mix: Option<Mix>,
    config: LoaderConfig,
    device: Device,
    /// Who must make the batches; `None` leaves the choice to the loader.
    maker: Option<Maker>,
    /// The split on the device, from the first batch that is made there.
    on_device: Arc<OnceLock<OnDevice>>,
}

/// Who makes a [`Loader`]'s batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Maker {
    /// Threads of the CPU, which can do everything. A batch is copied to the loader's device when it is asked for.
    Threads,
    /// One kernel per batch on the loader's device, which holds the split's bytes (184 MB for all of CIFAR) and an
    /// epoch's order. It crops, flips, normalizes and cuts out, without policies or mixing.
    ///
    /// The order is the threads', and the distributions too, but the draws come from Philox4x32-10, a counter-based
    /// generator (Salmon et al., 2011): other batches than the threads', and the same on every device. Epochs are
    /// limited to those below 2^32. On the CPU the kernel's plain form runs: for tests, not for speed.
    Kernel,
}

impl Loader {
    /// A loader over the images of `split`, with batches on the CPU.
    ///
    /// # Errors
    /// [`Error::EmptySplit`]; [`Error::OutOfRange`] for what [`LoaderConfig::validate`] and [`Augmentation::validate`] refuse,
    /// and for padding above the images' side.
    pub fn new(split: &Split, augmentation: Augmentation, config: LoaderConfig) -> Result<Self> {
        if split.is_empty() {
            return Err(Error::EmptySplit);
        }
        config.validate()?;
        augmentation.validate()?;
        let (padding, side) = (augmentation.crop.padding, split.image_size());
        OutOfRange::check("crop padding", padding, padding <= side, "at most the images' side")?;
        Ok(Self {
            split: split.clone(),
            augmentation: Arc::new(augmentation),
            mix: None,
            config,
            device: Device::Cpu,
            maker: None,
            on_device: Arc::default(),
        })
    }

    /// The same loader with each batch's images mixed with each other, or not mixed for `None`. The images are drawn
    /// and augmented as without.
    ///
    /// # Errors
    /// What [`Mix::validate`] refuses; [`Error::NoKernel`] if a kernel must make the batches.
    pub fn with_mix(self, mix: impl Into<Option<Mix>>) -> Result<Self> {
        let mix = mix.into();
        mix.map_or(Ok(()), |mix| mix.validate())?;
        Self { mix, ..self }.with_kernel_checked()
    }

    /// The same loader with batches on `device`. On an NVIDIA GPU its kernel makes them if it can.
    #[must_use]
    pub fn with_device(self, device: &Device) -> Self {
        Self { device: device.clone(), on_device: Arc::default(), ..self }
    }

    /// The same loader with batches made by `maker`: [`Maker::Threads`] for the same batches on every device.
    ///
    /// # Errors
    /// [`Error::NoKernel`] for what the kernel cannot do.
    pub fn with_maker(self, maker: Maker) -> Result<Self> {
        Self { maker: Some(maker), ..self }.with_kernel_checked()
    }

    fn with_kernel_checked(self) -> Result<Self> {
        match (self.maker, self.missing_in_kernel()) {
            (Some(Maker::Kernel), Some(what)) => Err(Error::NoKernel { what }),
            _ => Ok(self),
        }
    }

    /// What is asked for that there is no kernel for.
    fn missing_in_kernel(&self) -> Option<&'static str> {
        match self.mix {
            Some(_) => Some("mixing"),
            None => OnDevice::missing(&self.augmentation),
        }
    }

    /// Who makes the batches.
    pub fn maker(&self) -> Maker {
        self.maker.unwrap_or(match self.device.is_cuda() && self.missing_in_kernel().is_none() {
            true => Maker::Kernel,
            false => Maker::Threads,
        })
    }

    /// How batches are formed.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// The number of images in an epoch, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a loader is never empty")]
    pub fn len(&self) -> usize {
        self.split.len()
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
        self.numbered(epoch, (first_batch..self.batches_per_epoch()).collect())
    }

    /// The batches of epoch `epoch` that are `share`'s, from step `first_step` on: micro-batches of a rank, the same as
    /// those of [`epoch`](Self::epoch). Nothing is made of the others.
    pub fn epoch_share(&self, epoch: usize, first_step: usize, share: &Share) -> Batches {
        let batches = self.batches_per_epoch();
        let steps = first_step..share.steps(batches);
        self.numbered(epoch, steps.flat_map(|step| share.batches_of_step(step, batches)).collect())
    }

    /// The batches of an epoch with these numbers.
    fn numbered(&self, epoch: usize, numbers: Vec<usize>) -> Batches {
        match self.maker() {
            Maker::Threads => self.batches(epoch, numbers, self.config.threads, Self::batch),
            Maker::Kernel => {
                let sent = OnceLock::new();
                self.batches(epoch, numbers, 0, move |loader, epoch, order, index| {
                    let on_device = get_or_try_init(&loader.on_device, || {
                        OnDevice::new(&loader.split, &loader.augmentation, loader.config.seed, &loader.device)
                    })?;
                    let order_there = get_or_try_init(&sent, || on_device.order(order))?;
                    on_device.batch(order_there, epoch, loader.positions(index))
                })
            }
        }
    }

    /// An epoch's batches with these numbers, each made by `make` from the epoch, its order and the batch's number.
    fn batches(
        &self,
        epoch: usize,
        numbers: Vec<usize>,
        threads: usize,
        make: impl Fn(&Self, usize, &[usize], usize) -> Result<Batch> + Send + Sync + 'static,
    ) -> Batches {
        let (loader, order) = (self.clone(), Arc::<[usize]>::from(self.order(epoch)));
        let hashed = numbers.iter().map(|&index| share::sum_of_hashes(&order[self.positions(index)]));
        let hashes = hashed.collect::<Vec<_>>().into_iter();
        // Numbered as the batches are, so that a panic names its own: from a rank's first batch on where ranks share them.
        let first = numbers.first().copied().unwrap_or(0);
        let range = first..first + numbers.len();
        let make = move |index: usize| make(&loader, epoch, &order, numbers[index - first]);
        let made = Prefetch::new(range, threads, make);
        Batches { made, device: self.device.clone(), hashes, fingerprint: 0 }
    }

    /// The images of an epoch in its order.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut stream(self.config.seed, Purpose::Order, epoch as u64, 0));
        }
        order
    }

    /// The positions in the epoch of the images of batch `index`.
    fn positions(&self, index: usize) -> Range<usize> {
        let first = index * self.config.batch_size;
        first..self.len().min(first + self.config.batch_size)
    }

    /// Batch `index` on the CPU.
    fn batch(&self, epoch: usize, order: &[usize], index: usize) -> Result<Batch> {
        let positions = self.positions(index);
        let images = &order[positions.clone()];
        let size = self.split.image_size();
        let values = IMAGE_CHANNELS * size * size;
        let mut pixels = Vec::with_capacity(images.len() * values);
        for (&image, position) in images.iter().zip(positions) {
            let mut rng = stream(self.config.seed, Purpose::Augmentation, epoch as u64, position as u64);
            let draw = self.augmentation.sample(size, &mut rng);
            // Zeroed image by image, just before it is filled and while it is in the nearest cache.
            let start = pixels.len();
            pixels.resize(start + values, 0.0);
            self.augmentation.apply(self.split.image(image), &draw, &mut pixels[start..]);
        }
        let draw = self.mix.and_then(|mix| {
            mix.sample(size, &mut stream(self.config.seed, Purpose::Mix, epoch as u64, index as u64))
        });
        if let Some(draw) = &draw {
            draw.apply(size, &mut pixels);
        }

        let len = images.len();
        let labels = |image_of: &dyn Fn(usize) -> usize| {
            let labels: Vec<u32> = (0..len).map(|i| self.split.label(images[image_of(i)]).into()).collect();
            Tensor::from_vec(labels, len, &Device::Cpu)
        };
        let shape = (len, size, size, IMAGE_CHANNELS);
        let pixels = Tensor::from_vec(pixels, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?;
        let batch = Batch::new(pixels, labels(&|i| i)?);
        Ok(match draw {
            Some(draw) => {
                let labels = labels(&|i| MixDraw::partner(i, len))?;
                batch.with_mixed(Mixed { labels, lambda: draw.lambda() })
            }
            None => batch,
        })
    }
}

/// Who makes the batches, as in "made by 2 threads of the CPU".
impl fmt::Display for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.maker(), self.config.threads) {
            (Maker::Kernel, _) => return f.write_str("made on the device"),
            (_, 0) => f.write_str("made by the CPU between the steps"),
            (_, 1) => f.write_str("made by 1 thread of the CPU"),
            (_, threads) => write!(f, "made by {threads} threads of the CPU"),
        }?;
        match (self.device.is_cpu(), self.missing_in_kernel().filter(|_| self.device.is_cuda())) {
            (true, _) => Ok(()),
            (_, Some(what)) => write!(f, " and copied to the device, which has no kernel for {what}"),
            (_, None) => f.write_str(" and copied to the device"),
        }
    }
}

/// The value of the cell, made by `make` if it has none. Two threads may both make it; one of theirs is kept.
fn get_or_try_init<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(value) => Ok(value),
        None => make().map(|value| cell.get_or_init(|| value)),
    }
}

/// The batches of an epoch, in order, on the loader's device; those of [`Maker::Threads`] are made a few ahead.
///
/// An error, or a panic in a worker thread, comes in its batch's place as an error and ends the iteration.
/// Dropping this ends the threads.
pub struct Batches {
    made: Prefetch<Batch>,
    device: Device,
    /// Of each batch still to come, the sum of its images' hashes.
    hashes: std::vec::IntoIter<u64>,
    fingerprint: u64,
}

impl Batches {
    /// A number for the images handed over so far: see [`Loader::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let batch = self.made.next()?.and_then(|batch| batch.to_device(&self.device));
        match batch {
            Ok(_) => self.fingerprint = self.fingerprint.wrapping_add(self.hashes.next().unwrap_or(0)),
            Err(_) => self.made.stop(),
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.made.remaining();
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for Batches {}
impl FusedIterator for Batches {}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("remaining", &self.made.remaining()).finish_non_exhaustive()
    }
}

mod share;
#[cfg(test)]
mod tests;

pub use share::Share;
