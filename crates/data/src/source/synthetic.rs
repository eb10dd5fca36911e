//! Generated images in CIFAR-100's shape, with classes that a small network learns and never quite masters.
//!
//! An image is two sets of parallel bands of color on gray, under noise. The first set tells the class: its
//! hue and width give one of 20 coarse labels, its direction one of 5 fine labels within; all three vary
//! within a class, and where classes meet they overlap a little. The second, fainter set is anything.
//! Directions lie within a quarter turn, so that mirroring an image, or cutting it, does not turn it into
//! another class. All arithmetic is exact or rounded as IEEE 754 says, so every machine makes the same bytes.

use rand::{Rng, RngExt};

use super::{Origin, Source};
use crate::random::{Purpose, stream};
use crate::{COARSE_NAMES, Dataset, FINE_NAMES, IMAGE_BYTES, IMAGE_SIZE, Split, Variant};

const FINE_CLASSES: usize = FINE_NAMES.len();
const COARSE_CLASSES: usize = COARSE_NAMES.len();
const HUES: usize = 10;
const DIRECTIONS: usize = FINE_CLASSES / COARSE_CLASSES;

pub(super) fn generate(seed: u64, train_len: usize, test_len: usize) -> Dataset {
    Dataset {
        train: split(seed, Purpose::SyntheticTrain, train_len),
        test: split(seed, Purpose::SyntheticTest, test_len),
        class_names: (0..FINE_CLASSES).map(|label| format!("synthetic_{label:02}")).collect(),
        coarse_names: (0..COARSE_CLASSES).map(|label| format!("synthetic_group_{label:02}")).collect(),
        source: Source::new(Variant::Cifar100, Origin::Synthetic { seed }, Vec::new()),
    }
}

fn split(seed: u64, purpose: Purpose, len: usize) -> Split {
    let mut images = vec![0; len * IMAGE_BYTES];
    let mut labels = Vec::with_capacity(len);
    for (index, image) in images.as_chunks_mut().0.iter_mut().enumerate() {
        let label = index % FINE_CLASSES;
        draw(label, &mut stream(seed, purpose, 0, index as u64), image);
        labels.push(label as u8);
    }
    let coarse_labels = labels.iter().map(|label| label / DIRECTIONS as u8).collect();
    Split::new(images, labels, Some(coarse_labels))
        .expect("one image and two labels were made for each index")
}

fn draw(label: usize, rng: &mut impl Rng, image: &mut [u8; IMAGE_BYTES]) {
    let (coarse, direction) = (label / DIRECTIONS, label % DIRECTIONS);
    let mut near = |value: usize, spread: f32| value as f32 + rng.random_range(-spread..spread);
    let hue = near(coarse % HUES, 0.6) / HUES as f32;
    let width = near(coarse / HUES, 0.55);
    let direction = near(direction, 0.6) / (DIRECTIONS - 1) as f32;
    let telling = Bands::new(rng, direction, 2.0 + 1.8 * width.max(-0.5), color(hue));
    let any_color = color(rng.random());
    let (any_direction, any_width) = (rng.random_range(-1.0..1.0), rng.random_range(1.0..6.0));
    let other = Bands::new(rng, any_direction, any_width, any_color);
    let strength = rng.random_range(60..120);
    let other_strength = rng.random_range(0..40);
    let gray = rng.random_range(60..130);
    let noise = rng.random_range(10..45);

    // The bytes of the noise make room for the image's, one after the other.
    rng.fill_bytes(image);
    let planes = image.as_chunks_mut::<IMAGE_SIZE>().0.as_chunks_mut::<IMAGE_SIZE>().0;
    for (channel, plane) in planes.iter_mut().enumerate() {
        let amount = strength * telling.color[channel];
        let other_amount = other_strength * other.color[channel];
        for (y, row) in plane.iter_mut().enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let bands = amount * telling.height(x, y) + other_amount * other.height(x, y);
                let noise = (i32::from(*pixel) - 128) * noise / 128;
                *pixel = (gray + bands / (256 * 256) + noise).clamp(0, 255) as u8;
            }
        }
    }
}

/// Parallel bands across an image. Places are fractions of a band in 32 bits, which wrap from one band to the
/// next.
struct Bands {
    start: u32,
    right: u32,
    down: u32,
    /// How much of each channel, -256 to 256.
    color: [i32; 3],
}

impl Bands {
    /// `count` bands across the image, at a random place. `direction` 0 to 1 turns them from upright to
    /// level.
    fn new(rng: &mut impl Rng, direction: f32, count: f32, color: [i32; 3]) -> Self {
        // With direction = tan(angle / 2), these are the angle's cosine and sine.
        let square = direction * direction;
        let (cos, sin) = ((1.0 - square) / (1.0 + square), 2.0 * direction / (1.0 + square));
        let band = |part: f32| ((part * count / IMAGE_SIZE as f32) * 4_294_967_296.0) as i64 as u32;
        Self { start: rng.random(), right: band(cos), down: band(sin), color }
    }

    /// The height at a pixel, 0 to 256: a ramp up and down over each band.
    fn height(&self, x: usize, y: usize) -> i32 {
        let place = self
            .start
            .wrapping_add(self.right.wrapping_mul(x as u32))
            .wrapping_add(self.down.wrapping_mul(y as u32));
        ((place as i32) >> 23).abs()
    }
}

/// The color of a hue on a circle of length 1: how much of red, green and blue, each -256 to 256.
fn color(hue: f32) -> [i32; 3] {
    [0.0, 1.0, 2.0].map(|third: f32| {
        let place = ((hue + third / 3.0) * 4_294_967_296.0) as i64 as u32;
        // Each channel goes up and down once around the circle, a third of it apart.
        2 * ((place as i32) >> 23).abs() - 256
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_and_colors_stay_in_range() {
        let mut rng = stream(1, Purpose::SyntheticTrain, 0, 0);
        let bands = Bands::new(&mut rng, 0.3, 5.0, [0; 3]);
        let heights = (0..32 * 32).map(|i| bands.height(i % 32, i / 32));
        assert!(heights.clone().all(|height| (0..=256).contains(&height)));
        assert!(heights.clone().max() > Some(240) && heights.min() < Some(16));
        for hue in [-0.1, 0.0, 0.25, 0.5, 0.99, 1.1] {
            assert!(color(hue).iter().all(|amount| (-256..=256).contains(amount)));
        }
    }

    #[test]
    fn images_depend_only_on_seed_and_position() {
        let all = generate(5, 300, 100);
        let fewer = generate(5, 120, 0);
        assert_eq!(all.train.truncated(120).bytes(), fewer.train.bytes());
        assert_ne!(all.train.image(0), all.test.image(0));
        assert_ne!(all.train.image(0), all.train.image(100));
        assert_ne!(all.train.image(0), generate(6, 1, 0).train.image(0));
        for index in 0..300 {
            assert_eq!(usize::from(all.train.label(index)), index % 100);
            assert_eq!(all.train.coarse_labels().unwrap()[index], all.train.label(index) / 5);
        }
    }
}
