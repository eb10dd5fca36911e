//! The operations that policies choose from, each on one image of bytes.
//!
//! Their results are those of torchvision's `AutoAugment`, `RandAugment` and `TrivialAugmentWide` on a Pillow image,
//! bit for bit: nearest-neighbor sampling, black where nothing was, and Pillow's roundings.

use super::PLANE;
use super::affine::{Affine, transform};
use crate::{IMAGE_BYTES, IMAGE_SIZE};

/// One change of an image with its strength. (arXiv 1805.09501, table 6; torchvision's `_apply_op`)
///
/// Strengths of 0 leave the image as it is, and so do `Posterize(8)` and `Solarize(256.0)`.
///
/// ```
/// use wrn_sam_data::{IMAGE_BYTES, Operation};
///
/// let mut image = [10; IMAGE_BYTES];
/// Operation::Invert.apply(&mut image);
/// assert_eq!(image, [245; IMAGE_BYTES]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Leaves the image as it is.
    Identity,
    /// Moves row y by `-strength * y` columns to the right.
    ShearX(f64),
    /// Moves column x by `-strength * x` rows downwards.
    ShearY(f64),
    /// Moves the image to the right by this many pixels, truncated to a whole number.
    TranslateX(f64),
    /// Moves the image downwards by this many pixels, truncated to a whole number.
    TranslateY(f64),
    /// Turns the image about its middle by this many degrees counterclockwise.
    Rotate(f64),
    /// Blends with black: 1 + strength is the image's share, so -1 is black and above 0 is brighter.
    Brightness(f64),
    /// Blends with the image in gray: -1 is gray, above 0 is more colorful.
    Color(f64),
    /// Blends with the mean of the image in gray: -1 is plain gray, above 0 has more contrast.
    Contrast(f64),
    /// Blends with the image smoothed: -1 is smooth, above 0 is sharper. The outermost pixels stay.
    Sharpness(f64),
    /// Keeps this many of a byte's upper bits: 0 to 8.
    Posterize(u32),
    /// Inverts the bytes that are not below the threshold.
    Solarize(f64),
    /// Stretches each channel to its full range.
    AutoContrast,
    /// Makes each channel's histogram as even as a map of its bytes can.
    Equalize,
    /// Inverts every byte.
    Invert,
}

impl Operation {
    /// Changes `image`, planes of bytes `[3, 32, 32]`.
    pub fn apply(self, image: &mut [u8; IMAGE_BYTES]) {
        match self {
            Self::Identity => {}
            Self::ShearX(strength) => transform(image, &Affine::shear_x(strength)),
            Self::ShearY(strength) => transform(image, &Affine::shear_y(strength)),
            Self::TranslateX(pixels) => transform(image, &Affine::translate(pixels.trunc(), 0.0)),
            Self::TranslateY(pixels) => transform(image, &Affine::translate(0.0, pixels.trunc())),
            Self::Rotate(degrees) => transform(image, &Affine::rotate(degrees)),
            Self::Brightness(strength) => blend(image, &[0; IMAGE_BYTES], strength),
            Self::Color(strength) => {
                let gray = gray(image);
                let mut degenerate = [0; IMAGE_BYTES];
                degenerate.as_chunks_mut().0.fill(gray);
                blend(image, &degenerate, strength);
            }
            Self::Contrast(strength) => {
                let sum: u32 = gray(image).iter().map(|&byte| u32::from(byte)).sum();
                let mean = (f64::from(sum) / PLANE as f64 + 0.5) as u8;
                blend(image, &[mean; IMAGE_BYTES], strength);
            }
            Self::Sharpness(strength) => {
                let smooth = smooth(image);
                blend(image, &smooth, strength);
            }
            Self::Posterize(bits) => map(image, |byte| byte & !(0xFF_u16 >> bits.min(8)) as u8),
            Self::Solarize(threshold) => {
                map(image, |byte| if f64::from(byte) < threshold { byte } else { 255 - byte });
            }
            Self::AutoContrast => map_planes(image, stretch),
            Self::Equalize => map_planes(image, equalize),
            Self::Invert => map(image, |byte| 255 - byte),
        }
    }
}

/// Extrapolates from `degenerate` through the image to 1 + strength of the way, in Pillow's single precision,
/// truncated to a byte.
fn blend(image: &mut [u8; IMAGE_BYTES], degenerate: &[u8; IMAGE_BYTES], strength: f64) {
    let factor = (1.0 + strength) as f32;
    for (byte, &from) in image.iter_mut().zip(degenerate) {
        let value = f32::from(from) + factor * f32::from(i16::from(*byte) - i16::from(from));
        *byte = value as u8; // saturates
    }
}

/// Luma by ITU-R 601-2 in 16 bits' fixed point.
fn gray(image: &[u8; IMAGE_BYTES]) -> [u8; PLANE] {
    let [red, green, blue] = [0, 1, 2].map(|channel| &image[channel * PLANE..][..PLANE]);
    std::array::from_fn(|i| {
        let [red, green, blue] = [red[i], green[i], blue[i]].map(u32::from);
        ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8
    })
}

/// The mean of a pixel, weighing 5, and its eight neighbors, weighing 1; the outermost pixels stay.
fn smooth(image: &[u8; IMAGE_BYTES]) -> [u8; IMAGE_BYTES] {
    let mut smooth = *image;
    let planes = smooth.as_chunks_mut::<PLANE>().0.iter_mut().zip(image.as_chunks::<PLANE>().0);
    for (smooth, plane) in planes {
        let rows = plane.as_chunks::<IMAGE_SIZE>().0;
        let inner = &mut smooth.as_chunks_mut::<IMAGE_SIZE>().0[1..IMAGE_SIZE - 1];
        for (smooth, rows) in inner.iter_mut().zip(rows.windows(3)) {
            for x in 1..IMAGE_SIZE - 1 {
                let sum: u16 = rows.iter().flat_map(|row| &row[x - 1..=x + 1]).map(|&b| u16::from(b)).sum();
                // Rounded to nearest: thirteenths never lie half way.
                smooth[x] = ((sum + 4 * u16::from(rows[1][x]) + 6) / 13) as u8;
            }
        }
    }
    smooth
}

/// The map that takes a channel's smallest byte to 0 and its largest to 255.
fn stretch(histogram: &[u32; 256]) -> [u8; 256] {
    let present = |count: &u32| *count > 0;
    let (low, high) = (histogram.iter().position(present), histogram.iter().rposition(present));
    match (low, high) {
        (Some(low), Some(high)) if low < high => {
            let scale = 255.0 / (high - low) as f64;
            let offset = -(low as f64) * scale;
            std::array::from_fn(|byte| (byte as f64 * scale + offset) as u8) // saturates
        }
        _ => IDENTITY,
    }
}

/// The map under which equally many bytes fall on equally long stretches, as far as there are enough.
fn equalize(histogram: &[u32; 256]) -> [u8; 256] {
    let last = histogram.iter().rfind(|count| **count > 0).copied().unwrap_or(0);
    let step = (histogram.iter().sum::<u32>() - last) / 255;
    if step == 0 {
        return IDENTITY;
    }
    let mut below = step / 2;
    histogram.map(|count| {
        let value = below / step;
        below += count;
        value.min(255) as u8
    })
}

const IDENTITY: [u8; 256] = {
    let mut map = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        map[byte] = byte as u8;
        byte += 1;
    }
    map
};

/// Maps every byte.
fn map(image: &mut [u8; IMAGE_BYTES], f: impl Fn(u8) -> u8) {
    for byte in image {
        *byte = f(*byte);
    }
}

/// Maps each channel's bytes by what its histogram gives.
fn map_planes(image: &mut [u8; IMAGE_BYTES], table: impl Fn(&[u32; 256]) -> [u8; 256]) {
    for plane in image.as_chunks_mut::<PLANE>().0 {
        let mut histogram = [0; 256];
        for &byte in plane.iter() {
            histogram[usize::from(byte)] += 1;
        }
        let table = table(&histogram);
        for byte in plane {
            *byte = table[usize::from(*byte)];
        }
    }
}
