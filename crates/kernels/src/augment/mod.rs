//! Shuffle, crop, flip, normalize and cutout of a batch of images in one pass from the data set's bytes, on the device that
//! holds them, driven by a counter-based generator.
//!
//! Each image's draws are those of Philox4x32-10 under the seed as its key, at the counter (position in the epoch, epoch):
//! they depend on nothing else, and on every device they are the same. So are the values, to the bit.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", all(test, unix)))]
mod cuda_args;
#[cfg(all(test, unix))]
mod cuda_tests;
mod philox;
mod plain;

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// The largest padding of a crop.
const MOST_PADDING: u32 = 1 << 10;
/// The largest side of a cutout.
const MOST_CUTOUT: u32 = 1 << 10;
/// The largest side of an image, so that the kernel's numbers of pixels stay small.
const MOST_SIDE: usize = 1 << 14;

/// What is drawn for each image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    /// The generator's key.
    pub seed: u64,
    /// The crop's offset is uniform in -padding to padding, in both directions: 0 to 1024.
    pub padding: u32,
    /// The probability of a horizontal flip, in [0, 1].
    pub flip: f64,
    /// The probability of a cutout, in [0, 1].
    pub cutout: f64,
    /// The side of the square that a cutout sets to zero: 1 to 1024. Its top is uniform in [-side / 2, H - side / 2), its
    /// left in [-side / 2, W - side / 2).
    pub cutout_size: u32,
}

/// The random choices for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Rows by which the crop's window is moved downwards.
    pub down: i32,
    /// Columns by which it is moved to the right.
    pub right: i32,
    /// Whether the window is mirrored left to right.
    pub flip: bool,
    /// The top and left of the square that is set to zero, if one is.
    pub cutout: Option<(i32, i32)>,
}

impl Draws {
    /// What is drawn for the image at `position` of epoch `epoch`, of `height` by `width` pixels. Every number is uniform
    /// within 2⁻³².
    pub fn at(&self, epoch: u32, position: u64, [height, width]: [u32; 2]) -> Draw {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let draw = |number| philox::philox([position as u32, (position >> 32) as u32, epoch, number], key);
        let below = |random: u32, bound: u32| ((u64::from(random) * u64::from(bound)) >> 32) as i32;
        let ([down, right, flip, cutout], [top, left, ..]) = (draw(0), draw(1));
        let (padding, half) = (self.padding as i32, (self.cutout_size / 2) as i32);
        let cutout = (u64::from(cutout) < threshold(self.cutout))
            .then(|| (below(top, height) - half, below(left, width) - half));
        Draw {
            down: below(down, 2 * self.padding + 1) - padding,
            right: below(right, 2 * self.padding + 1) - padding,
            flip: u64::from(flip) < threshold(self.flip),
            cutout,
        }
    }
}

/// A probability times 2³²: that 32 random bits are below it.
fn threshold(p: f64) -> u64 {
    (p.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

/// The images and labels of a data set, where they are augmented.
#[derive(Clone, Debug)]
pub struct ByteImages {
    images: Tensor,
    labels: Tensor,
    values: Tensor,
    len: usize,
    /// Channels, rows and columns of an image.
    dims: [usize; 3],
}

impl ByteImages {
    /// Brings `labels.len()` images of `height` by `width` pixels to `device`: their bytes, `[N, C, H, W]`, a label each,
    /// and for each channel what each byte becomes.
    ///
    /// # Errors
    /// [`Error::Shape`] for other lengths, and for sides of 0 or more than 16,384; [`Error::Unsupported`] for a device other than the CPU and, with the feature
    /// `cuda`, NVIDIA GPUs; no memory.
    pub fn new(
        images: &[u8],
        [height, width]: [usize; 2],
        labels: &[u8],
        values: &[[f32; 256]],
        device: &Device,
    ) -> Result<Self> {
        let (len, dims) = (labels.len(), [values.len(), height, width]);
        if dims.iter().any(|size| !(1..=MOST_SIDE).contains(size)) {
            let (expected, found) = (format!("sizes from 1 to {MOST_SIDE}"), format!("{dims:?}"));
            return Err(Error::Shape { what: "images", expected, found });
        }
        let image: usize = dims.iter().product();
        if len.checked_mul(image) != Some(images.len()) {
            let (expected, found) = (format!("{len} times {image} bytes"), images.len().to_string());
            return Err(Error::Shape { what: "images", expected, found });
        }
        if !(device.is_cpu() || cfg!(feature = "cuda") && device.is_cuda()) {
            let expected = "the CPU, or with the feature `cuda` an NVIDIA GPU";
            return Err(Error::Unsupported {
                operation: "augment",
                expected,
                found: format!("{:?}", device.location()),
            });
        }
        Ok(Self {
            images: Tensor::from_slice(images, images.len(), device)?,
            labels: Tensor::from_slice(labels, len, device)?,
            values: Tensor::from_slice(values.as_flattened(), values.len() * 256, device)?,
            len,
            dims,
        })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An epoch's order, from positions to images, brought to where they are.
    ///
    /// # Errors
    /// [`Error::Shape`] for the number of an image that is not there.
    pub fn order(&self, order: &[u32]) -> Result<Order> {
        if let Some(image) = order.iter().find(|&&image| image as usize >= self.len) {
            let (expected, found) = (format!("numbers below {}", self.len), image.to_string());
            return Err(Error::Shape { what: "order", expected, found });
        }
        Ok(Order { images: Tensor::from_slice(order, order.len(), self.images.device())? })
    }

    /// The `count` images from position `first` of `order` on, as drawn by `draws` for epoch `epoch`: `[N, C, H, W]`, a
    /// view of channels-last memory, in `dtype` (`F32`, or `BF16` on a GPU), and their labels `[N]` in `u32`. On a GPU
    /// nothing waits.
    ///
    /// # Errors
    /// [`Error::Shape`] for positions behind the order's end or an order of other images, [`Error::Unsupported`] for
    /// another type, a launch that fails.
    pub fn augment(
        &self,
        order: &Order,
        draws: &Draws,
        epoch: u32,
        first: usize,
        count: usize,
        dtype: DType,
    ) -> Result<(Tensor, Tensor)> {
        let end = first.checked_add(count).filter(|end| count > 0 && *end <= order.images.elem_count());
        let sizes = draws.padding <= MOST_PADDING && (1..=MOST_CUTOUT).contains(&draws.cutout_size);
        if end.is_none() || !sizes {
            let expected = format!(
                "1 to {} positions, padding to {MOST_PADDING} and a cutout of 1 to {MOST_CUTOUT}",
                order.images.elem_count()
            );
            let found = format!("{count} from {first} on, {draws:?}");
            return Err(Error::Shape { what: "batch", expected, found });
        }
        if !order.images.device().same_device(self.images.device()) {
            let (expected, found) = (self.images.device().location(), order.images.device().location());
            let (expected, found) = (format!("an order on {expected:?}"), format!("{found:?}"));
            return Err(Error::Shape { what: "order", expected, found });
        }
        let (pixels, labels) = match (self.images.device(), dtype) {
            (Device::Cpu, DType::F32) => self.augment_here(order, draws, epoch, first, count)?,
            #[cfg(feature = "cuda")]
            (Device::Cuda(_), DType::F32 | DType::BF16) => {
                cuda::augment(self, order, draws, epoch, first, count, dtype)?
            }
            (device, dtype) => {
                let found = format!("{dtype:?} on {:?}", device.location());
                let expected = "F32, or BF16 on a GPU";
                return Err(Error::Unsupported { operation: "augment", expected, found });
            }
        };
        Ok((pixels.permute((0, 3, 1, 2))?, labels))
    }

    fn augment_here(
        &self,
        order: &Order,
        draws: &Draws,
        epoch: u32,
        first: usize,
        count: usize,
    ) -> Result<(Tensor, Tensor)> {
        let numbers = order.images.narrow(0, first, count)?.to_vec1::<u32>()?;
        let values = self.values.to_vec1::<f32>()?;
        let [channels, height, width] = self.dims;
        let (image, size) = (channels * height * width, [height as u32, width as u32]);
        let mut pixels = vec![0.0; count * image];
        let mut labels = Vec::with_capacity(count);
        for ((&number, out), position) in
            numbers.iter().zip(pixels.chunks_exact_mut(image)).zip(first as u64..)
        {
            let number = number as usize;
            let bytes = self.images.narrow(0, number * image, image)?.to_vec1::<u8>()?;
            plain::augment(&bytes, self.dims, &values, draws, &draws.at(epoch, position, size), out);
            labels.push(u32::from(self.labels.get(number)?.to_scalar::<u8>()?));
        }
        let pixels = Tensor::from_vec(pixels, (count, height, width, channels), &Device::Cpu)?;
        Ok((pixels, Tensor::from_vec(labels, count, &Device::Cpu)?))
    }
}

/// An epoch's order, beside the [`ByteImages`] that made it.
#[derive(Clone, Debug)]
pub struct Order {
    images: Tensor,
}
