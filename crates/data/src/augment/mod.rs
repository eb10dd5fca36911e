//! Random crop, random horizontal flip, a policy's operations, normalization and cutout: bytes in, normalized values
//! out.

mod affine;
mod mix;
mod operation;
mod policy;

use std::ops::Range;

use rand::{Rng, RngExt};
use wrn_sam_kernels::OutOfRange;

use crate::{IMAGE_BYTES, IMAGE_CHANNELS, IMAGE_SIZE, Result, Statistics};

pub use mix::{Mix, MixDraw};
pub use operation::Operation;
pub use policy::Policy;

const SIZE: i32 = IMAGE_SIZE as i32;
/// Bytes of one channel.
const PLANE: usize = IMAGE_SIZE * IMAGE_SIZE;
/// Values of a row, all channels.
const ROW: usize = IMAGE_CHANNELS * IMAGE_SIZE;

/// Cuts a 32x32 window out of the image with `padding` zero pixels around it.
///
/// The window's position is uniform over all that fit: offsets of `-padding` to `padding` in both directions.
/// The zeros are there before normalization, so they come out as `-mean / std`. (torchvision's
/// `RandomCrop(32, padding)`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomCrop {
    /// Pixels of padding on each side, 0 to 32; 0 leaves images as they are.
    pub padding: usize,
}

/// Mirrors the image left to right with probability `p`. (torchvision's `RandomHorizontalFlip`)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomHorizontalFlip {
    /// The probability, 0 to 1.
    pub p: f64,
}

/// Maps byte `b` of a channel to `(b / 255 - mean) / std`, in float32 and in PyTorch's order of operations.
#[derive(Clone, Debug)]
pub struct Normalize {
    statistics: Statistics,
    /// The value of every byte in every channel.
    table: Box<[[f32; 256]; IMAGE_CHANNELS]>,
}

impl Normalize {
    /// Normalizes by the given mean and standard deviation of each channel.
    pub fn new(statistics: Statistics) -> Self {
        let mut table = Box::new([[0.0; 256]; IMAGE_CHANNELS]);
        for (channel, values) in table.iter_mut().enumerate() {
            let (mean, std) = (statistics.mean[channel] as f32, statistics.std[channel] as f32);
            for (byte, value) in values.iter_mut().enumerate() {
                *value = (byte as f32 / 255.0 - mean) / std;
            }
        }
        Self { statistics, table }
    }

    /// The mean and standard deviation in use.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Planes of bytes to normalized values, channels last.
    fn apply(&self, image: &[u8; IMAGE_BYTES], out: &mut [f32; IMAGE_BYTES]) {
        let [red, green, blue] = image.as_chunks::<PLANE>().0 else {
            unreachable!("an image has three planes")
        };
        let [reds, greens, blues] = &*self.table;
        let bytes = red.iter().zip(green).zip(blue);
        for (out, ((&red, &green), &blue)) in out.as_chunks_mut().0.iter_mut().zip(bytes) {
            *out = [reds[usize::from(red)], greens[usize::from(green)], blues[usize::from(blue)]];
        }
    }

    /// The normalized value of a byte; channels are 0 red, 1 green, 2 blue.
    ///
    /// # Panics
    /// As indexing does, if `channel` is not below 3.
    pub fn value(&self, channel: usize, byte: u8) -> f32 {
        self.table[channel][usize::from(byte)]
    }
}

/// Sets a square of the normalized image to zero with probability `p`. (arXiv 1708.04552)
///
/// The square's top and left are uniform in `[-size / 2, 32 - size / 2)` and independent; what is outside
/// the image is clipped. So the square's middle is always inside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cutout {
    /// The square's side in pixels, at least 1.
    pub size: usize,
    /// The probability, 0 to 1.
    pub p: f64,
}

/// What happens to an image on its way into a batch: crop, flip, a policy's operations, normalize, cutout, in this
/// order, as in the papers' CIFAR recipes.
///
/// [`sample`](Self::sample) makes the random choices; [`apply`](Self::apply) applies them.
///
/// ```
/// use rand::SeedableRng;
/// use wrn_sam_data::{Augmentation, Cifar, IMAGE_BYTES, Statistics};
///
/// let train = Cifar::synthetic(17, 100, 0).train;
/// let augmentation = Augmentation::reference(Statistics::from_split(&train)?);
/// let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
///
/// let draw = augmentation.sample(&mut rng);
/// let mut pixels = [0.0; IMAGE_BYTES];
/// augmentation.apply(train.image(0), &draw, &mut pixels);
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Augmentation {
    /// Where the image is cut.
    pub crop: RandomCrop,
    /// Whether it is mirrored.
    pub flip: RandomHorizontalFlip,
    /// Which operations are drawn for it, if any.
    pub policy: Option<Policy>,
    /// How bytes become values.
    pub normalize: Normalize,
    /// The square that is set to zero, if any.
    pub cutout: Option<Cutout>,
}

/// The random choices for one image, drawn by [`Augmentation::sample`].
#[derive(Clone, Debug, PartialEq)]
pub struct AugmentationDraw {
    /// Rows and columns by which the crop's window is moved from the image, downwards and to the right.
    pub offset: (i32, i32),
    /// Whether the window is mirrored left to right.
    pub flip: bool,
    /// What is done to the window, in this order.
    pub operations: Vec<Operation>,
    /// The top and left of the square that is set to zero, if any.
    pub cutout: Option<(i32, i32)>,
}

impl AugmentationDraw {
    /// The image as it is: the draw for evaluation.
    pub const IDENTITY: Self = Self { offset: (0, 0), flip: false, operations: Vec::new(), cutout: None };

    /// The window that the draw cuts out of the padded image, mirrored or not.
    fn crop_and_flip(&self, image: &[u8; IMAGE_BYTES]) -> [u8; IMAGE_BYTES] {
        let (down, right) = (self.offset.0.clamp(-SIZE, SIZE), self.offset.1.clamp(-SIZE, SIZE));
        // With rows end to end, moving the window is moving the bytes. What then comes in from the row above or
        // below lies in columns where the padding belongs.
        let shift = (down * SIZE + right) as isize;
        let length = PLANE.saturating_sub(shift.unsigned_abs());
        let (from, to) = (shift.max(0) as usize, (-shift).max(0) as usize);
        let on_image: [u8; IMAGE_SIZE] =
            std::array::from_fn(|x| if (0..SIZE).contains(&(x as i32 + right)) { u8::MAX } else { 0 });

        let mut moved = [0; IMAGE_BYTES];
        for (plane, moved) in image.as_chunks::<PLANE>().0.iter().zip(moved.as_chunks_mut::<PLANE>().0) {
            if length > 0 {
                moved[to..to + length].copy_from_slice(&plane[from..from + length]);
            }
            for row in moved.as_chunks_mut::<IMAGE_SIZE>().0 {
                for (byte, mask) in row.iter_mut().zip(on_image) {
                    *byte &= mask;
                }
                if self.flip {
                    row.reverse();
                }
            }
        }
        moved
    }
}

impl Augmentation {
    /// The reference recipe's training augmentation: padding 4, flip 0.5, and a 16x16 cutout 0.5.
    pub fn reference(statistics: Statistics) -> Self {
        Self { cutout: Some(Cutout { size: 16, p: 0.5 }), ..Self::basic(statistics) }
    }

    /// The usual minimum: padding 4 and flip 0.5.
    pub fn basic(statistics: Statistics) -> Self {
        Self {
            crop: RandomCrop { padding: 4 },
            flip: RandomHorizontalFlip { p: 0.5 },
            ..Self::none(statistics)
        }
    }

    /// A policy as its paper trains on CIFAR with it: padding 4, flip 0.5, the policy, and always a 16x16 cutout.
    pub fn from_policy(policy: Policy, statistics: Statistics) -> Self {
        Self { policy: Some(policy), cutout: Some(Cutout { size: 16, p: 1.0 }), ..Self::basic(statistics) }
    }

    /// Only normalization, as for evaluation.
    pub fn none(statistics: Statistics) -> Self {
        Self {
            crop: RandomCrop { padding: 0 },
            flip: RandomHorizontalFlip { p: 0.0 },
            policy: None,
            normalize: Normalize::new(statistics),
            cutout: None,
        }
    }

    /// With another crop.
    #[must_use]
    pub fn with_crop(self, crop: RandomCrop) -> Self {
        Self { crop, ..self }
    }

    /// With another flip.
    #[must_use]
    pub fn with_flip(self, flip: RandomHorizontalFlip) -> Self {
        Self { flip, ..self }
    }

    /// With a policy's operations, or without any for `None`.
    #[must_use]
    pub fn with_policy(self, policy: impl Into<Option<Policy>>) -> Self {
        Self { policy: policy.into(), ..self }
    }

    /// With another cutout, or without any for `None`.
    #[must_use]
    pub fn with_cutout(self, cutout: impl Into<Option<Cutout>>) -> Self {
        Self { cutout: cutout.into(), ..self }
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for padding above 32, a probability outside `[0, 1]`, a policy's
    /// number out of its range, a cutout of size 0, and
    /// what [`Statistics::validate`] refuses.
    pub fn validate(&self) -> Result<()> {
        let probability = |name, p: f64| OutOfRange::check(name, p, (0.0..=1.0).contains(&p), "0 to 1");
        OutOfRange::check("crop padding", self.crop.padding, self.crop.padding <= IMAGE_SIZE, "0 to 32")?;
        probability("flip probability", self.flip.p)?;
        if let Some(policy) = self.policy {
            policy.validate()?;
        }
        if let Some(cutout) = self.cutout {
            OutOfRange::check("cutout size", cutout.size, cutout.size > 0, "at least 1")?;
            probability("cutout probability", cutout.p)?;
        }
        self.normalize.statistics.validate()
    }

    /// Draws the random choices for one image. The draws are independent of each other and always in the same
    /// order, a policy's last.
    pub fn sample(&self, rng: &mut impl Rng) -> AugmentationDraw {
        let padding = self.crop.padding.min(IMAGE_SIZE) as i32;
        let offset = (rng.random_range(-padding..=padding), rng.random_range(-padding..=padding));
        let flip = rng.random::<f64>() < self.flip.p;
        let cutout = self.cutout.filter(|cutout| rng.random::<f64>() < cutout.p).map(|cutout| {
            let half = cutout_size(cutout) / 2;
            (rng.random_range(-half..SIZE - half), rng.random_range(-half..SIZE - half))
        });
        let operations = self.policy.map(|policy| policy.sample(rng)).unwrap_or_default();
        AugmentationDraw { offset, flip, operations, cutout }
    }

    /// Writes `image` as augmented by `draw` to `out`: planes of bytes, `[3, 32, 32]`, to normalized values with the
    /// channels last, `[32, 32, 3]`.
    pub fn apply(&self, image: &[u8; IMAGE_BYTES], draw: &AugmentationDraw, out: &mut [f32; IMAGE_BYTES]) {
        let mut image = draw.crop_and_flip(image);
        for operation in &draw.operations {
            operation.apply(&mut image);
        }
        self.normalize.apply(&image, out);
        if let Some((top, left)) = draw.cutout {
            let size = self.cutout.map_or(0, cutout_size);
            let columns = inside(left, size);
            for row in &mut out.as_chunks_mut::<ROW>().0[inside(top, size)] {
                row[IMAGE_CHANNELS * columns.start..IMAGE_CHANNELS * columns.end].fill(0.0);
            }
        }
    }
}

/// The part of `start..start + size` that lies on the image.
fn inside(start: i32, size: i32) -> Range<usize> {
    start.clamp(0, SIZE) as usize..start.saturating_add(size).clamp(0, SIZE) as usize
}

/// The square's side as an `i32`, saturated.
fn cutout_size(cutout: Cutout) -> i32 {
    i32::try_from(cutout.size).unwrap_or(i32::MAX)
}
