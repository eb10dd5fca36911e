//! Nearest-neighbor sampling along an affine map, in the fixed point that Pillow computes with.

use super::image_side;

/// From a pixel's place in the output to where it comes from: x' = a x + b y + c and y' = d x + e y + f, with x to the
/// right, y downwards and pixels' middles at halves.
pub(super) struct Affine {
    matrix: [[f64; 3]; 2],
}

impl Affine {
    pub(super) fn shear_x(strength: f64) -> Self {
        Self { matrix: [[1.0, strength, 0.0], [0.0, 1.0, 0.0]] }
    }

    pub(super) fn shear_y(strength: f64) -> Self {
        Self { matrix: [[1.0, 0.0, 0.0], [strength, 1.0, 0.0]] }
    }

    pub(super) fn translate(right: f64, down: f64) -> Self {
        Self { matrix: [[1.0, 0.0, -right], [0.0, 1.0, -down]] }
    }

    /// Counterclockwise about the middle of an image with this side.
    pub(super) fn rotate(degrees: f64, side: usize) -> Self {
        let middle = side as f64 / 2.0;
        let (sin, cos) = degrees.to_radians().sin_cos();
        let row = |a: f64, b: f64| [a, b, middle - (a + b) * middle];
        Self { matrix: [row(cos, -sin), row(sin, cos)] }
    }
}

/// Replaces each pixel of the three planes by the one where the map points; by black where that is outside.
pub(super) fn transform(image: &mut [u8], affine: &Affine) {
    let (source, side) = (image.to_vec(), image_side(image.len()));
    // 16 fractional bits. The clamp only moves points that are far outside, and they stay outside.
    let fixed = |value: f64| (value.clamp(-1e9, 1e9) * 65_536.0 + 0.5).floor() as i64;
    let [across, along] = affine
        .matrix
        .map(|[by_x, by_y, start]| (fixed(by_x), fixed(by_y), fixed(start + by_x * 0.5 + by_y * 0.5)));
    let at = |(by_x, by_y, start): (i64, i64, i64), x: usize, y: usize| {
        usize::try_from((start + by_x * x as i64 + by_y * y as i64) >> 16).ok().filter(|&at| at < side)
    };
    for y in 0..side {
        for x in 0..side {
            let from = at(along, x, y).zip(at(across, x, y)).map(|(y, x)| y * side + x);
            for plane in (0..image.len()).step_by(side * side) {
                image[plane + y * side + x] = from.map_or(0, |from| source[plane + from]);
            }
        }
    }
}
