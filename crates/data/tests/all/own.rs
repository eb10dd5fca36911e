//! Images of your own: any size, from memory and tensors, and parts held out.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use wrn_sam_data::{
    Augmentation, Batch, Cutout, Dataset, Loader, LoaderConfig, Maker, Mix, Policy, RandomCrop, Split,
    Statistics,
};

/// `images` images of `size` by `size` pixels, each with all bytes; the labels 0, 1, 2, 0, …
fn split(size: usize, images: usize) -> Split {
    let bytes = (0..images * 3 * size * size).map(|i| (i * 37 + i / 251) as u8).collect();
    Split::of_size(size, bytes, (0..images).map(|i| (i % 3) as u8).collect(), None).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Every size, odd ones too, goes through all of augmentation, mixing and the loader.
#[test]
fn images_of_any_size_are_augmented_and_batched() {
    for size in [1, 2, 3, 7, 32, 48, 64] {
        let split = split(size, 10);
        let statistics = Statistics::from_split(&split).unwrap();
        let config = LoaderConfig::default().with_batch_size(4);
        let plain = Loader::new(&split, Augmentation::none(statistics), config.with_shuffle(false)).unwrap();
        let mut images = Vec::new();
        for batch in plain.epoch(0) {
            images.extend(values(&batch.unwrap().images));
        }
        let plane = size * size;
        for (i, value) in images.iter().enumerate() {
            let channel = i / plane % 3;
            let expected = (f32::from(split.bytes()[i]) / 255.0 - statistics.mean[channel] as f32)
                / statistics.std[channel] as f32;
            assert_eq!(*value, expected, "{size}: {i}");
        }
        for policy in [Policy::AutoAugment, Policy::RAND_AUGMENT, Policy::TrivialAugment] {
            let padding = RandomCrop { padding: size.min(4) };
            let augmentation = Augmentation::from_policy(policy, statistics).with_crop(padding);
            let loader =
                Loader::new(&split, augmentation, config).unwrap().with_mix(Mix::new(1.0, 1.0)).unwrap();
            for epoch in 0..3 {
                for batch in loader.epoch(epoch) {
                    let Batch { images, labels, mixed, .. } = batch.unwrap();
                    assert_eq!(images.dims(), [labels.dims()[0], 3, size, size]);
                    assert!(values(&images).iter().all(|value| value.is_finite()));
                    assert!(mixed.is_some_and(|mixed| (0.0..=1.0).contains(&mixed.lambda)));
                }
            }
        }
    }
}

proptest! {
    /// Crop, flip and cutout of an image of any size, by the definition, one value at a time.
    #[test]
    fn any_size_equals_the_definition(
        size in 1..40_i32,
        offset in (-45..45_i32, -45..45_i32),
        flip: bool,
        cutout in prop::option::of((-50..45_i32, -50..45_i32)),
        side in 1..50_usize,
    ) {
        let statistics = Statistics { mean: [0.25, 0.5, 0.75], std: [0.5, 0.25, 0.125] };
        let augmentation = Augmentation::none(statistics)
            .with_crop(RandomCrop { padding: 45 })
            .with_cutout(Cutout { size: side, p: 1.0 });
        let mut draw = wrn_sam_data::AugmentationDraw::IDENTITY;
        (draw.offset, draw.flip, draw.cutout) = (offset, flip, cutout);
        let split = split(size as usize, 1);
        let image = split.image(0);
        let mut out = vec![f32::NAN; image.len()];
        augmentation.apply(image, &draw, &mut out);
        for (i, value) in out.iter().enumerate() {
            let (channel, y, x) = (i % 3, i as i32 / (3 * size), i as i32 / 3 % size);
            let cut = cutout.is_some_and(|(top, left)| {
                (top..top + side as i32).contains(&y) && (left..left + side as i32).contains(&x)
            });
            let x = if flip { size - 1 - x } else { x };
            let (y, x) = (y + offset.0, x + offset.1);
            let on_image = (0..size).contains(&y) && (0..size).contains(&x);
            let byte = if on_image { image[((channel as i32 * size + y) * size + x) as usize] } else { 0 };
            let expected = if cut { 0.0 } else { augmentation.normalize.value(channel, byte) };
            prop_assert_eq!(*value, expected);
        }
    }

    /// Each class gives its share, to within one image; both parts together are the whole.
    #[test]
    fn a_held_out_part_is_stratified(
        labels in prop::collection::vec(0..7_u8, 1..200),
        share in 0.0..1.0,
        seed: u64,
    ) {
        let len = labels.len();
        let held_out = (share * len as f64) as usize;
        let bytes = (0..len).flat_map(|i| [i as u8, (i >> 8) as u8, labels[i]]).collect();
        let split = Split::of_size(1, bytes, labels, None).unwrap();
        let (rest, part) = split.hold_out(held_out, seed).unwrap();
        prop_assert_eq!((rest.len(), part.len()), (len - held_out, held_out));
        for class in 0..7 {
            let count = |split: &Split| split.labels().iter().filter(|&&label| label == class).count() as f64;
            prop_assert!((count(&part) - count(&split) * held_out as f64 / len as f64).abs() < 1.0);
        }
        let mut images: Vec<_> = rest.images().chain(part.images()).map(<[u8]>::to_vec).collect();
        let mut all: Vec<_> = split.images().map(<[u8]>::to_vec).collect();
        images.sort();
        all.sort();
        prop_assert!(images == all);
        let number = |image: &[u8]| usize::from(image[0]) + 256 * usize::from(image[1]);
        prop_assert!(part.images().map(number).is_sorted() && rest.images().map(number).is_sorted());
        prop_assert!(part.images().zip(part.labels()).all(|(image, &label)| image[2] == label));
        let (_, again) = split.hold_out(held_out, seed).unwrap();
        prop_assert_eq!(again.bytes(), part.bytes());
    }
}

#[test]
fn what_a_split_cannot_give_is_refused_and_holding_out_depends_on_the_seed() {
    let split = split(1, 30);
    let labels = |seed| split.hold_out(9, seed).unwrap().1.bytes().to_vec();
    assert_ne!(labels(1), labels(2));
    assert_eq!(split.hold_out(0, 1).unwrap().1.len(), 0);
    let padded = Augmentation::basic(Statistics { mean: [0.5; 3], std: [0.5; 3] });
    let error = Loader::new(&split, padded, LoaderConfig::default()).unwrap_err().to_string();
    assert_eq!(error, "crop padding = 4: must be at most the images' side");
    let error = split.hold_out(30, 1).unwrap_err().to_string();
    assert_eq!(error, "held-out images = 30: must be fewer than there are images");
}

#[test]
fn the_kernel_takes_any_size_too() {
    let split = split(48, 9);
    let none = Augmentation::none(Statistics::from_split(&split).unwrap());
    let loader = || Loader::new(&split, none.clone(), LoaderConfig::default().with_batch_size(4)).unwrap();
    let kernel = loader().with_maker(Maker::Kernel).unwrap();
    for (ours, theirs) in kernel.epoch(1).zip(loader().epoch(1)) {
        assert!(values(&ours.unwrap().images) == values(&theirs.unwrap().images));
    }
}

#[test]
fn tensors_become_splits_or_say_what_is_wrong() {
    let device = Device::Cpu;
    let images = Tensor::arange(0u8, 96, &device).unwrap().reshape((2, 3, 4, 4)).unwrap();
    let labels = Tensor::new(&[3i64, 255], &device).unwrap();
    let split = Split::from_tensors(&images, &labels).unwrap();
    assert_eq!((split.image_size(), split.labels()), (4, &[3, 255][..]));
    assert!(split.bytes().iter().copied().eq(0..96));
    let floats = (images.to_dtype(DType::F64).unwrap() / 255.0).unwrap();
    assert_eq!(Split::from_tensors(&floats, &labels).unwrap().bytes(), split.bytes());

    let fails = |images: &Tensor, labels: &Tensor, part: &str| {
        let error = Split::from_tensors(images, labels).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    };
    fails(&images.reshape((2, 48)).unwrap(), &labels, "[N, 3, S, S] expected");
    fails(&images.reshape((2, 3, 2, 8)).unwrap(), &labels, "[2, 3, 2, 8]");
    fails(&images, &labels.narrow(0, 0, 1).unwrap(), "labels [1]");
    fails(&images, &Tensor::new(&[256i64, 0], &device).unwrap(), "a label of 256, 0 to 255 expected");
    fails(&images, &Tensor::new(&[0f32, 1.0], &device).unwrap(), "labels in F32");
    fails(&images.to_dtype(DType::F32).unwrap(), &labels, "a pixel of 2, 0 to 1 expected");
    fails(&images.to_dtype(DType::U32).unwrap(), &labels, "images in U32");
    fails(&(floats * f64::NAN).unwrap(), &labels, "a pixel of NaN");
}

#[test]
fn parts_that_make_no_data_set_are_refused() {
    let fails = |train: Split, names: &[&str], part: &str| {
        let error = Dataset::new("mine", train, split(4, 3), names.iter().copied()).unwrap_err().to_string();
        assert!(error.starts_with("the data set mine: ") && error.contains(part), "{part} in {error}");
    };
    fails(split(5, 3), &["a", "b", "c"], "training images of 5 pixels a side and test images of 4");
    fails(split(4, 3), &["a", "b"], "the label 2 with 2 names");
    fails(split(4, 3), &["a", "b", "a"], "two classes with the name a");
    let data = Dataset::new("mine", split(4, 6), split(4, 3), ["a", "b", "c"]).unwrap();
    assert_eq!((data.source.to_string().as_str(), data.classes()), ("mine, images in memory", 3));
}
