//! Augmentation: what each operation does to which pixel, and how often.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wrn_sam_data::{
    Augmentation, AugmentationDraw, Cutout, IMAGE_BYTES, IMAGE_SIZE, RandomCrop, RandomHorizontalFlip,
    Statistics,
};

/// CIFAR-100's own.
const STATISTICS: Statistics =
    Statistics { mean: [0.50707516, 0.48654887, 0.44091784], std: [0.26733429, 0.25643846, 0.27615047] };

/// An image whose pixels differ from all their neighbors and between channels.
fn image() -> [u8; IMAGE_BYTES] {
    std::array::from_fn(|i| ((i * 37 + i / 1024 * 11 + i / 32 * 5) % 251 + 1) as u8)
}

fn apply(
    augmentation: &Augmentation,
    image: &[u8; IMAGE_BYTES],
    draw: &AugmentationDraw,
) -> [f32; IMAGE_BYTES] {
    let mut out = [f32::NAN; IMAGE_BYTES];
    augmentation.apply(image, draw, &mut out);
    out
}

/// The definition, one value at a time: pad, crop, flip, normalize, cutout; channels last.
fn expected(
    augmentation: &Augmentation,
    image: &[u8; IMAGE_BYTES],
    draw: &AugmentationDraw,
) -> [f32; IMAGE_BYTES] {
    std::array::from_fn(|i| {
        let (channel, y, x) = (i % 3, (i / 96) as i32, (i / 3 % 32) as i32);
        if let (Some((top, left)), Some(Cutout { size, .. })) = (draw.cutout, augmentation.cutout) {
            let side = size as i32;
            if (top..top + side).contains(&y) && (left..left + side).contains(&x) {
                return 0.0;
            }
        }
        let x = if draw.flip { 31 - x } else { x };
        let (y, x) = (y + draw.offset.0, x + draw.offset.1);
        let on_image = (0..32).contains(&y) && (0..32).contains(&x);
        let byte = if on_image { image[channel * 1024 + y as usize * 32 + x as usize] } else { 0 };
        (f32::from(byte) / 255.0 - STATISTICS.mean[channel] as f32) / STATISTICS.std[channel] as f32
    })
}

#[test]
fn normalizing_alone_keeps_every_pixel_in_place() {
    let augmentation = Augmentation::none(STATISTICS);
    let draw = augmentation.sample(32, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(draw, AugmentationDraw::IDENTITY);
    let out = apply(&augmentation, &image(), &draw);
    assert_eq!(out, expected(&augmentation, &image(), &AugmentationDraw::IDENTITY));
    // (255 / 255 - 0.5) / 0.25 and (0 - 0.5) / 0.25
    let plain = Augmentation::none(Statistics { mean: [0.5; 3], std: [0.25; 3] });
    assert_eq!((plain.normalize.value(0, 255), plain.normalize.value(2, 0)), (2.0, -2.0));
}

#[test]
fn every_draw_of_the_reference_equals_the_definition() {
    let augmentation = Augmentation::reference(STATISTICS);
    let image = image();
    for down in -4..=4 {
        for right in -4..=4 {
            for flip in [false, true] {
                for cutout in [None, Some((-8, -8)), Some((23, 5)), Some((3, 23))] {
                    let draw = AugmentationDraw {
                        offset: (down, right),
                        flip,
                        cutout,
                        ..AugmentationDraw::IDENTITY
                    };
                    let out = apply(&augmentation, &image, &draw);
                    assert_eq!(out, expected(&augmentation, &image, &draw), "{draw:?}");
                }
            }
        }
    }
}

/// A number of trials within five standard deviations of its expectation.
fn assert_binomial(found: usize, trials: usize, p: f64, what: &str) {
    let expected = trials as f64 * p;
    let deviation = (expected * (1.0 - p)).sqrt();
    assert!((found as f64 - expected).abs() < 5.0 * deviation, "{what}: {found} found, {expected} expected");
}

#[test]
fn the_reference_draws_from_its_distributions() {
    const TRIALS: usize = 90_000;
    let augmentation = Augmentation::reference(STATISTICS);
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let draws: Vec<AugmentationDraw> = (0..TRIALS).map(|_| augmentation.sample(32, &mut rng)).collect();
    for offset in -4..=4 {
        for (axis, count) in [
            ("row", draws.iter().filter(|draw| draw.offset.0 == offset).count()),
            ("column", draws.iter().filter(|draw| draw.offset.1 == offset).count()),
        ] {
            assert_binomial(count, TRIALS, 1.0 / 9.0, &format!("{axis} offset {offset}"));
        }
    }
    // Rows and columns are drawn apart.
    let corner = draws.iter().filter(|draw| draw.offset == (4, -4)).count();
    assert_binomial(corner, TRIALS, 1.0 / 81.0, "offset (4, -4)");
    assert_binomial(draws.iter().filter(|draw| draw.flip).count(), TRIALS, 0.5, "flips");

    let cutouts: Vec<(i32, i32)> = draws.iter().filter_map(|draw| draw.cutout).collect();
    assert_binomial(cutouts.len(), TRIALS, 0.5, "cutouts");
    for start in -8..24 {
        let tops = cutouts.iter().filter(|cutout| cutout.0 == start).count();
        let lefts = cutouts.iter().filter(|cutout| cutout.1 == start).count();
        assert_binomial(tops, cutouts.len(), 1.0 / 32.0, &format!("top {start}"));
        assert_binomial(lefts, cutouts.len(), 1.0 / 32.0, &format!("left {start}"));
    }
    assert!(draws.iter().all(|draw| draw.offset.0.abs() <= 4 && draw.offset.1.abs() <= 4));
    assert!(cutouts.iter().all(|(top, left)| (-8..24).contains(top) && (-8..24).contains(left)));
    let both = draws.iter().filter(|draw| draw.flip && draw.cutout.is_some()).count();
    assert_binomial(both, TRIALS, 0.25, "flip and cutout together");
}

proptest! {
    /// Any setting and any draw, even one that no sampling gives: each output pixel is the pixel by the
    /// definition, so a normalized source pixel, a normalized zero or zero; and nothing panics or stays
    /// unwritten.
    #[test]
    fn any_draw_equals_the_definition(
        padding in 0..40_usize,
        size in 0..80_usize,
        offset in (-40..40_i32, -40..40_i32),
        flip: bool,
        cutout in prop::option::of((-90..40_i32, -90..40_i32)),
        bytes in prop::collection::vec(any::<u8>(), 97),
    ) {
        let augmentation = Augmentation::none(STATISTICS)
            .with_crop(RandomCrop { padding })
            .with_flip(RandomHorizontalFlip { p: 0.5 })
            .with_cutout(Cutout { size, p: 0.5 });
        let image = std::array::from_fn(|i| bytes[i % bytes.len()]);
        let draw = AugmentationDraw { offset, flip, cutout, ..AugmentationDraw::IDENTITY };
        prop_assert_eq!(apply(&augmentation, &image, &draw), expected(&augmentation, &image, &draw));
    }

    /// Any setting, also one that `validate` refuses, samples without panicking and stays within its bounds.
    #[test]
    fn sampling_stays_within_bounds(padding: usize, size: usize, p in -1.0..2.0, seed: u64) {
        let augmentation = Augmentation::none(STATISTICS)
            .with_crop(RandomCrop { padding })
            .with_flip(RandomHorizontalFlip { p })
            .with_cutout(Cutout { size, p });
        let draw = augmentation.sample(32, &mut ChaCha8Rng::seed_from_u64(seed));
        let bound = padding.min(IMAGE_SIZE) as i32;
        prop_assert!(draw.offset.0.abs() <= bound && draw.offset.1.abs() <= bound);
        prop_assert!(p > 0.0 || (!draw.flip && draw.cutout.is_none()));
        prop_assert!(p < 1.0 || (draw.flip && draw.cutout.is_some()));
        let out = apply(&augmentation, &image(), &draw);
        prop_assert!(out.iter().all(|value| value.is_finite()));
    }
}
