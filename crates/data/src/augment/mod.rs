//! Random crop, random horizontal flip, a policy's operations, normalization and cutout: bytes in, normalized values
//! out.

mod affine;
mod mix;
mod operation;
mod policy;

use std::ops::Range;

use rand::{Rng, RngExt};
use wrn_sam_kernels::OutOfRange;

use crate::{IMAGE_CHANNELS, MAX_IMAGE_SIZE, Result, Statistics};

pub use mix::{Mix, MixDraw};
pub use operation::Operation;
pub use policy::Policy;

/// Cuts a window of the image's own size out of the image with `padding` zero pixels around it.
///
/// The window's position is uniform over all that fit: offsets of `-padding` to `padding` in both directions.
/// The zeros are there before normalization, so they come out as `-mean / std`. (torchvision's
/// `RandomCrop(size, padding)`)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomCrop {
    /// Pixels of padding on each side, from 0, which leaves images as they are, to the image's side.
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
    fn apply(&self, image: &[u8], out: &mut [f32]) {
        let (red, rest) = image.split_at(image.len() / IMAGE_CHANNELS);
        let (green, blue) = rest.split_at(red.len());
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
/// The square's top and left are uniform in `[-size / 2, S - size / 2)` for an image of S by S pixels, and independent; what
/// is outside the image is clipped. So the square's middle is always inside.
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
/// [`sample`](Self::sample) makes the random choices; [`apply`](Self::apply) applies them. Images are square, of any size.
///
/// ```
/// use rand::SeedableRng;
/// use wrn_sam_data::{Augmentation, Dataset, IMAGE_BYTES, Statistics};
///
/// let train = Dataset::synthetic(17, 100, 0).train;
/// let augmentation = Augmentation::reference(Statistics::from_split(&train)?);
/// let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
///
/// let draw = augmentation.sample(train.image_size(), &mut rng);
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
    fn crop_and_flip(&self, image: &[u8]) -> Vec<u8> {
        let (side, plane) = (image_side(image.len()), image.len() / IMAGE_CHANNELS);
        let within = |offset: i32| (offset as isize).clamp(-(side as isize), side as isize);
        let (down, right) = (within(self.offset.0), within(self.offset.1));
        // With rows end to end, moving the window is moving the bytes. What then comes in from the row above or
        // below lies in columns where the padding belongs.
        let shift = down * side as isize + right;
        let length = plane.saturating_sub(shift.unsigned_abs());
        let (from, to) = (shift.max(0) as usize, (-shift).max(0) as usize);
        let padding = if right < 0 { 0..right.unsigned_abs() } else { side - right as usize..side };

        let mut moved = vec![0; image.len()];
        for (plane, moved) in image.chunks_exact(plane).zip(moved.chunks_exact_mut(plane)) {
            if length > 0 {
                moved[to..to + length].copy_from_slice(&plane[from..from + length]);
            }
            for row in moved.chunks_exact_mut(side) {
                row[padding.clone()].fill(0);
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
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for padding above the largest image's side, a probability outside `[0, 1]`, a policy's
    /// number out of its range, a cutout of size 0, and
    /// what [`Statistics::validate`] refuses.
    pub fn validate(&self) -> Result<()> {
        let probability = |name, p: f64| OutOfRange::check(name, p, (0.0..=1.0).contains(&p), "0 to 1");
        let padding = self.crop.padding;
        OutOfRange::check("crop padding", padding, padding <= MAX_IMAGE_SIZE, "0 to 1024")?;
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

    /// Draws the random choices for one image of `size` by `size` pixels. The draws are independent of each other and always
    /// in the same order, a policy's last.
    pub fn sample(&self, size: usize, rng: &mut impl Rng) -> AugmentationDraw {
        let padding = self.crop.padding.min(size) as i32;
        let offset = (rng.random_range(-padding..=padding), rng.random_range(-padding..=padding));
        let flip = rng.random::<f64>() < self.flip.p;
        let cutout = self.cutout.filter(|cutout| rng.random::<f64>() < cutout.p).map(|cutout| {
            let half = cutout_size(cutout) / 2;
            let mut start = || rng.random_range(-half..(size.max(1) as i32).saturating_sub(half));
            (start(), start())
        });
        let operations = self.policy.map(|policy| policy.sample(size, rng)).unwrap_or_default();
        AugmentationDraw { offset, flip, operations, cutout }
    }

    /// Writes `image` as augmented by `draw` to `out`: planes of bytes, `[3, S, S]`, to normalized values with the
    /// channels last, `[S, S, 3]`.
    ///
    /// # Panics
    /// If `image` is not three square planes, or `out` has another length.
    pub fn apply(&self, image: &[u8], draw: &AugmentationDraw, out: &mut [f32]) {
        let side = image_side(image.len());
        assert_eq!(
            (image.len(), out.len()),
            (IMAGE_CHANNELS * side * side, image.len()),
            "an image and its values"
        );
        let mut image = draw.crop_and_flip(image);
        for operation in &draw.operations {
            operation.apply(&mut image);
        }
        self.normalize.apply(&image, out);
        if let Some((top, left)) = draw.cutout {
            let size = self.cutout.map_or(0, cutout_size);
            let (rows, columns) = (inside(top, size, side), inside(left, size, side));
            for row in out.chunks_exact_mut(IMAGE_CHANNELS * side).take(rows.end).skip(rows.start) {
                row[IMAGE_CHANNELS * columns.start..IMAGE_CHANNELS * columns.end].fill(0.0);
            }
        }
    }
}

/// The side in pixels of a square image of `len` bytes.
fn image_side(len: usize) -> usize {
    (len / IMAGE_CHANNELS).isqrt()
}

/// The part of `start..start + size` that lies on an image with this side.
fn inside(start: i32, size: i32, side: usize) -> Range<usize> {
    let within = |at: i32| (at.max(0) as usize).min(side);
    within(start)..within(start.saturating_add(size))
}

/// The square's side as an `i32`. One above 2^30 covers any image, as a larger one does.
fn cutout_size(cutout: Cutout) -> i32 {
    cutout.size.min(1 << 30) as i32
}
