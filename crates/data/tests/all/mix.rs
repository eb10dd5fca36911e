//! Mixup and CutMix: against torchvision's, their distributions, and how a loader hands them out.

use std::io::Read;
use std::ops::Range;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wrn_sam_data::{
    Augmentation, Batch, Dataset, IMAGE_BYTES, Loader, LoaderConfig, Mix, MixDraw, Statistics,
};

fn fixture(name: &str) -> Vec<f32> {
    let mut bytes = Vec::new();
    let packed: &[u8] = include_bytes!("../../testdata/augment.safetensors.gz");
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let channels_last = tensors[name].permute((0, 2, 3, 1)).unwrap();
    channels_last.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

#[test]
fn both_equal_torchvisions() {
    for (name, draw) in [
        ("mix/mixup", MixDraw::Mixup { lambda: 0.3 }),
        ("mix/cutmix", MixDraw::CutMix { rows: 3..14, columns: 20..32, size: 32 }),
    ] {
        let mut images = fixture("mix/images");
        draw.apply(32, &mut images);
        assert!(images == fixture(name), "{name}");
    }
    let draw = MixDraw::CutMix { rows: 3..14, columns: 20..32, size: 32 };
    assert_eq!(draw.lambda(), 1.0 - 132.0 / 1024.0);
}

#[test]
fn mixup_draws_its_weights_from_beta() {
    // Beta(α, α) has the mean 1/2 and the variance 1 / (8 α + 4).
    for alpha in [0.2, 1.0, 3.0] {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        let lambdas: Vec<f64> =
            (0..40_000).map(|_| Mix::mixup(alpha).sample(32, &mut rng).unwrap().lambda()).collect();
        let mean = lambdas.iter().sum::<f64>() / 40_000.0;
        let variance = lambdas.iter().map(|lambda| (lambda - mean).powi(2)).sum::<f64>() / 40_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
        assert!((variance * (8.0 * alpha + 4.0) - 1.0).abs() < 0.03, "{alpha}: {variance}");
    }
}

#[test]
fn cutmix_draws_its_boxes_as_the_paper_says() {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut middles = [0; 32];
    let mut lambdas = Vec::new();
    for _ in 0..40_000 {
        let draw = Mix::cutmix(1.0).sample(32, &mut rng).unwrap();
        let MixDraw::CutMix { rows, columns, .. } = &draw else { panic!("{draw:?}") };
        lambdas.push(draw.lambda());
        let (height, width) = (rows.len(), columns.len());
        let inside = |side: &Range<usize>| side.start > 0 && side.end < 32;
        if inside(rows) && inside(columns) {
            assert_eq!((height, height % 2), (width, 0), "{draw:?}");
        }
        if inside(columns) && width > 0 && width < 4 {
            middles[columns.start + width / 2] += 1;
        }
    }
    // Small boxes lie everywhere alike: about 40,000 of 1/64 to 1/16 of all, at 30 places.
    let seen: usize = middles.iter().sum();
    let expected = seen as f64 / 30.0;
    for count in &middles[2..30] {
        assert!((*count as f64 - expected).abs() < 6.0 * expected.sqrt(), "{middles:?}");
    }
    // Clipping only makes boxes smaller: with λ uniform, what is left is more than half on average.
    let mean = lambdas.iter().sum::<f64>() / 40_000.0;
    assert!((0.55..0.75).contains(&mean), "{mean}");
}

#[test]
fn one_of_both_is_drawn_and_as_often_as_asked() {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mix = Mix::new(0.2, 1.0).with_p(0.6);
    let (mut mixups, mut cutmixes) = (0, 0);
    for _ in 0..10_000 {
        match mix.sample(32, &mut rng) {
            Some(MixDraw::Mixup { .. }) => mixups += 1,
            Some(MixDraw::CutMix { .. }) => cutmixes += 1,
            None => {}
        }
    }
    assert!((2750..3250).contains(&mixups) && (2750..3250).contains(&cutmixes), "{mixups} {cutmixes}");
    assert_eq!(Mix::new(0.0, 0.0).sample(32, &mut rng), None);
}

fn loader(threads: usize, mix: Option<Mix>) -> Loader {
    let train = Dataset::synthetic(17, 100, 0).train;
    let augmentation = Augmentation::reference(Statistics::from_split(&train).unwrap());
    let config = LoaderConfig::default().with_batch_size(16).with_threads(threads);
    Loader::new(&train, augmentation, config).unwrap().with_mix(mix).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn labels(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1().unwrap()
}

#[test]
fn a_loaders_batches_are_the_plain_ones_mixed() {
    for mix in [Mix::mixup(0.4), Mix::cutmix(1.0)] {
        let plain: Vec<Batch> = loader(0, None).epoch(3).map(Result::unwrap).collect();
        for threads in [0, 3] {
            let batches: Vec<Batch> = loader(threads, Some(mix)).epoch(3).map(Result::unwrap).collect();
            assert_eq!(batches.len(), 7);
            for (batch, plain) in batches.iter().zip(&plain) {
                let mixed = batch.mixed.as_ref().unwrap();
                let own = labels(&plain.labels);
                let mut rolled = own.clone();
                rolled.rotate_right(1);
                assert_eq!((labels(&batch.labels), labels(&mixed.labels)), (own, rolled));
                // Each value lies between those of the two images, and on average where λ says.
                let [x, own] = [&batch.images, &plain.images].map(values);
                let mut others = own.clone();
                others.rotate_right(IMAGE_BYTES);
                for ((x, own), other) in x.iter().zip(&own).zip(&others) {
                    assert!(*x >= own.min(*other) - 1e-5 && *x <= own.max(*other) + 1e-5);
                }
                if mix.mixup_alpha > 0.0 {
                    let lambda = mixed.lambda as f32;
                    let wrong = x.iter().zip(&own).zip(&others).filter(|((x, own), other)| {
                        (*x - (*own * lambda + *other * (1.0 - lambda))).abs() > 1e-5
                    });
                    assert_eq!(wrong.count(), 0);
                }
                assert!((0.0..=1.0).contains(&mixed.lambda));
            }
        }
    }
}

#[test]
fn the_heavier_labels_are_named() {
    for batch in loader(0, Some(Mix::mixup(1.0))).epoch(0) {
        let batch = batch.unwrap();
        let mixed = batch.mixed.as_ref().unwrap();
        let heavier = if mixed.lambda >= 0.5 { &batch.labels } else { &mixed.labels };
        assert_eq!(labels(batch.dominant_labels()), labels(heavier));
        let moved = batch.to_device(&Device::Cpu).unwrap();
        assert_eq!(labels(&moved.mixed.unwrap().labels), labels(&mixed.labels));
    }
}

proptest! {
    /// Any α in range, also one so small that its draws are 0 or 1.
    #[test]
    fn weights_sum_to_one_and_boxes_lie_on_the_image(
        exponent in -300.0..3.0,
        cutmix: bool,
        seed: u64,
        len in 1..4_usize,
    ) {
        let alpha = 10_f64.powf(exponent);
        let mix = if cutmix { Mix::cutmix(alpha) } else { Mix::mixup(alpha) };
        mix.validate().unwrap();
        let draw = mix.sample(32, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        prop_assert!((0.0..=1.0).contains(&draw.lambda()), "{:?}", draw);
        prop_assert_eq!(mix.sample(32, &mut ChaCha8Rng::seed_from_u64(seed)), Some(draw.clone()));
        if let MixDraw::CutMix { rows, columns, .. } = &draw {
            prop_assert!([rows, columns].iter().all(|side| side.start <= side.end && side.end <= 32));
        }
        // What is left of image i is its share of its own value; the rest is its partner's.
        let mut images: Vec<f32> = (0..len).flat_map(|i| [i as f32; IMAGE_BYTES]).collect();
        draw.apply(32, &mut images);
        for (i, image) in images.chunks_exact(IMAGE_BYTES).enumerate() {
            let mean = image.iter().map(|value| f64::from(*value)).sum::<f64>() / IMAGE_BYTES as f64;
            let expected = draw.lambda() * i as f64 + (1.0 - draw.lambda()) * ((i + len - 1) % len) as f64;
            prop_assert!((mean - expected).abs() < 1e-5, "{} {}", mean, expected);
        }
    }
}
