//! The operations that policies choose from, each on one image of bytes.
//!
//! Their results are those of torchvision's `AutoAugment`, `RandAugment` and `TrivialAugmentWide` on a Pillow image,
//! bit for bit: nearest-neighbor sampling, black where nothing was, and Pillow's roundings.

use super::affine::{Affine, transform};
use super::image_side;
use crate::IMAGE_CHANNELS;

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
    /// Changes `image`, square planes of bytes `[3, S, S]`.
    ///
    /// # Panics
    /// If `image` is not three square planes.
    pub fn apply(self, image: &mut [u8]) {
        let side = image_side(image.len());
        assert_eq!(image.len(), IMAGE_CHANNELS * side * side, "three square planes");
        match self {
            Self::Identity => {}
            Self::ShearX(strength) => transform(image, &Affine::shear_x(strength)),
            Self::ShearY(strength) => transform(image, &Affine::shear_y(strength)),
            Self::TranslateX(pixels) => transform(image, &Affine::translate(pixels.trunc(), 0.0)),
            Self::TranslateY(pixels) => transform(image, &Affine::translate(0.0, pixels.trunc())),
            Self::Rotate(degrees) => transform(image, &Affine::rotate(degrees, side)),
            Self::Brightness(strength) => blend(image, |_| 0, strength),
            Self::Color(strength) => {
                let gray = gray(image);
                blend(image, |i| gray[i % gray.len()], strength);
            }
            Self::Contrast(strength) => {
                let gray = gray(image);
                let sum: u32 = gray.iter().map(|&byte| u32::from(byte)).sum();
                let mean = (f64::from(sum) / gray.len() as f64 + 0.5) as u8;
                blend(image, |_| mean, strength);
            }
            Self::Sharpness(strength) => {
                let smooth = smooth(image, side);
                blend(image, |i| smooth[i], strength);
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
fn blend(image: &mut [u8], degenerate: impl Fn(usize) -> u8, strength: f64) {
    let factor = (1.0 + strength) as f32;
    for (i, byte) in image.iter_mut().enumerate() {
        let from = degenerate(i);
        let value = f32::from(from) + factor * f32::from(i16::from(*byte) - i16::from(from));
        *byte = value as u8; // saturates
    }
}

/// Luma by ITU-R 601-2 in 16 bits' fixed point.
fn gray(image: &[u8]) -> Vec<u8> {
    let (red, rest) = image.split_at(image.len() / IMAGE_CHANNELS);
    let (green, blue) = rest.split_at(red.len());
    let luma = |((&red, &green), &blue)| {
        let [red, green, blue] = [red, green, blue].map(u32::from);
        ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8
    };
    red.iter().zip(green).zip(blue).map(luma).collect()
}

/// The mean of a pixel, weighing 5, and its eight neighbors, weighing 1; the outermost pixels stay.
fn smooth(image: &[u8], side: usize) -> Vec<u8> {
    let mut smooth = image.to_vec();
    if side < 3 {
        return smooth;
    }
    for (smooth, plane) in smooth.chunks_exact_mut(side * side).zip(image.chunks_exact(side * side)) {
        // Rows of the result with the three rows of the image around each.
        let inner = smooth.chunks_exact_mut(side).skip(1).zip(plane.windows(3 * side).step_by(side));
        for (smooth, rows) in inner {
            for x in 1..side - 1 {
                let row = |y: usize| rows[y * side + x - 1..][..3].iter().map(|&byte| u16::from(byte));
                let sum: u16 = row(0).chain(row(1)).chain(row(2)).sum();
                // Rounded to nearest: thirteenths never lie half way.
                smooth[x] = ((sum + 4 * u16::from(rows[side + x]) + 6) / 13) as u8;
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
fn map(image: &mut [u8], f: impl Fn(u8) -> u8) {
    for byte in image {
        *byte = f(*byte);
    }
}

/// Maps each channel's bytes by what its histogram gives.
fn map_planes(image: &mut [u8], table: impl Fn(&[u32; 256]) -> [u8; 256]) {
    let plane = (image.len() / IMAGE_CHANNELS).max(1);
    for plane in image.chunks_exact_mut(plane) {
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
