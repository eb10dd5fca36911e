//! The loader: every image once, the same batches for any number of threads.

use std::sync::OnceLock;

use md5::{Digest, Md5};
use proptest::prelude::*;
use wrn_sam_data::{
    Augmentation, Batch, Dataset, IMAGE_BYTES, Loader, LoaderConfig, Share, Split, Statistics,
};

/// Images that say which they are in their first two bytes.
fn numbered(len: usize) -> Split {
    let image = |i: usize| {
        let mut image = [0; IMAGE_BYTES];
        image[..2].copy_from_slice(&(i as u16).to_le_bytes());
        image
    };
    let labels: Vec<u8> = (0..len).map(|i| (i % 100) as u8).collect();
    Split::new((0..len).flat_map(image).collect(), labels.clone(), Some(labels)).unwrap()
}

/// Leaves bytes as they are, up to rounding.
fn plain() -> Augmentation {
    Augmentation::none(Statistics { mean: [0.0; 3], std: [1.0 / 255.0; 3] })
}

fn numbers(batch: &Batch) -> Vec<usize> {
    let images = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    images.iter().map(|image| image[0].round() as usize + 256 * image[1].round() as usize).collect()
}

/// All bits of an epoch's batches.
fn bits(batches: impl Iterator<Item = wrn_sam_data::Result<Batch>>) -> Vec<(Vec<u32>, Vec<u32>)> {
    batches
        .map(|batch| {
            let batch = batch.unwrap();
            let images = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let labels = batch.labels.to_vec1::<u32>().unwrap();
            (images.into_iter().map(f32::to_bits).collect(), labels)
        })
        .collect()
}

fn synthetic() -> &'static Dataset {
    static SYNTHETIC: OnceLock<Dataset> = OnceLock::new();
    SYNTHETIC.get_or_init(|| Dataset::synthetic(17, 203, 0))
}

fn reference(threads: usize, seed: u64) -> Loader {
    let train = &synthetic().train;
    let augmentation = Augmentation::reference(Statistics::from_split(train).unwrap());
    Loader::new(
        train,
        augmentation,
        LoaderConfig::default().with_batch_size(16).with_threads(threads).with_seed(seed),
    )
    .unwrap()
}

#[test]
fn without_shuffling_images_come_in_order_and_the_last_batch_is_kept() {
    let config = LoaderConfig::default().with_batch_size(4).with_shuffle(false);
    let loader = Loader::new(&numbered(10), plain(), config).unwrap();
    assert_eq!((loader.len(), loader.batches_per_epoch(), loader.epoch(0).len()), (10, 3, 3));
    let batches: Vec<Batch> = loader.epoch(0).map(Result::unwrap).collect();
    assert_eq!(
        batches.iter().map(numbers).collect::<Vec<_>>(),
        [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]
    );
    assert_eq!(batches[2].labels.to_vec1::<u32>().unwrap(), [8, 9]);
    assert_eq!(batches[2].images.dims(), [2, 3, 32, 32]);
}

#[test]
fn batches_are_identical_for_any_number_of_threads() {
    let expected = bits(reference(0, 3).epoch(2));
    assert_eq!(expected.len(), 13);
    for threads in 1..=4 {
        assert!(bits(reference(threads, 3).epoch(2)) == expected, "{threads} threads");
    }
}

#[test]
fn epochs_and_seeds_differ_and_repeat() {
    let loader = reference(2, 3);
    let first = bits(loader.epoch(0));
    assert!(bits(loader.epoch(1)) != first);
    assert!(bits(reference(2, 4).epoch(0)) != first);
    assert!(bits(loader.epoch(0)) == first);
    // Of two epochs' images in the same place, about one in a hundred has the same label.
    let labels =
        |epoch| bits(loader.epoch(epoch)).into_iter().flat_map(|(_, labels)| labels).collect::<Vec<_>>();
    let same = labels(0).iter().zip(labels(1)).filter(|(a, b)| **a == *b).count();
    assert!(same < 20, "{same}");
}

#[test]
fn an_epoch_can_be_entered_anywhere() {
    let loader = reference(2, 3);
    let whole = bits(loader.epoch(5));
    for first in [0, 1, 7, 12, 13, 100] {
        assert!(bits(loader.epoch_from(5, first)) == whole[first.min(13)..], "from {first}");
    }
}

#[test]
fn an_epoch_left_in_the_middle_leaves_nothing_behind() {
    let loader = reference(3, 3);
    let whole = bits(loader.epoch(0));
    for taken in 0..5 {
        assert!(bits(loader.epoch(0).take(taken)) == whole[..taken]);
    }
}

#[test]
fn an_empty_split_is_refused() {
    let error = Loader::new(&numbered(3).truncated(0), plain(), LoaderConfig::default()).unwrap_err();
    assert_eq!(error.to_string(), "the split has no images, at least one expected");
}

#[test]
fn places_in_the_order_are_uniform() {
    // How often image 0 comes in each tenth of the epoch.
    let config = LoaderConfig::default().with_batch_size(3).with_threads(0);
    let loader = Loader::new(&numbered(30), plain(), config).unwrap();
    let mut counts = [0; 10];
    for epoch in 0..1000 {
        let place = loader.epoch(epoch).position(|batch| numbers(&batch.unwrap()).contains(&0));
        counts[place.unwrap()] += 1;
    }
    // Expected 100, deviation 9.5.
    assert!(counts.iter().all(|count| (55..145).contains(count)), "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_image_comes_exactly_once(
        len in 1..400_usize,
        batch_size in 1..70_usize,
        threads in 0..5_usize,
        shuffle: bool,
        seed: u64,
        epoch in 0..1000_usize,
    ) {
        let config = LoaderConfig::default().with_batch_size(batch_size).with_threads(threads).with_shuffle(shuffle).with_seed(seed);
        let loader = Loader::new(&numbered(len), plain(), config).unwrap();
        let batches: Vec<Batch> = loader.epoch(epoch).map(Result::unwrap).collect();
        prop_assert_eq!(batches.len(), loader.batches_per_epoch());
        for (index, batch) in batches.iter().enumerate() {
            let size = batch_size.min(len - index * batch_size);
            prop_assert_eq!(batch.images.dims(), &[size, 3, 32, 32]);
            let labels: Vec<usize> =
                batch.labels.to_vec1::<u32>().unwrap().into_iter().map(|label| label as usize).collect();
            prop_assert_eq!(labels, numbers(batch).iter().map(|number| number % 100).collect::<Vec<_>>());
        }
        let mut seen: Vec<usize> = batches.iter().flat_map(numbers).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
    }
}

#[test]
fn the_references_batches_stay_what_they_were() {
    // Runs of earlier builds can be resumed and compared only as long as these never change.
    let mut hash = Md5::new();
    for (images, labels) in bits(reference(2, 17).epoch(1)) {
        for word in images.into_iter().chain(labels) {
            hash.update(word.to_le_bytes());
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "5cc29571be69bb8cbe808d4ca6bec04e");
}

/// Whatever the number of ranks, their micro-batches are those of the whole epoch, each with one of them.
#[test]
fn ranks_share_an_epoch_without_gaps_or_overlaps() {
    let loader = reference(2, 5); // 13 micro-batches, the last of 11 images
    let whole = bits(loader.epoch(3));
    for (micro_batches, world) in [(1, 1), (4, 1), (4, 2), (4, 4), (8, 4), (16, 2)] {
        for first_step in [0, 2] {
            let shares: Vec<Share> =
                (0..world).map(|rank| Share::of_rank(micro_batches, rank, world).unwrap()).collect();
            let mut own: Vec<_> =
                shares.iter().map(|share| loader.epoch_share(3, first_step, share)).collect();
            let mut taken = Vec::new();
            for step in first_step..shares[0].steps(13) {
                for (share, own) in shares.iter().zip(&mut own) {
                    let count = share.batches_of_step(step, 13).len();
                    taken.extend(bits(own.by_ref().take(count)));
                }
            }
            assert!(own.iter_mut().all(|own| own.next().is_none()));
            let first = (first_step * micro_batches).min(13);
            assert!(taken == whole[first..], "{micro_batches} micro-batches, {world} ranks");
            let sum = own.iter().map(|own| own.fingerprint()).fold(0, u64::wrapping_add);
            assert_eq!(sum, loader.fingerprint(3, first));
        }
    }
}

#[test]
fn an_image_that_is_missing_or_seen_twice_changes_the_fingerprint() {
    let loader = reference(0, 5);
    let all = loader.fingerprint(0, 0);
    assert_eq!(all, loader.fingerprint(1, 0), "every epoch has each image once");
    let mut epoch = loader.epoch(0);
    epoch.by_ref().take(12).for_each(drop);
    assert_ne!(epoch.fingerprint(), all);
    let twice = epoch.fingerprint().wrapping_mul(2);
    assert_ne!(twice, all);
    epoch.next();
    assert_eq!(epoch.fingerprint(), all);
    assert_eq!(loader.fingerprint(0, 13), 0);
}

#[test]
fn a_share_that_cannot_be_is_refused() {
    for (micro_batches, rank, world) in [(0, 0, 1), (4, 0, 3), (4, 4, 4), (4, 0, 0), (2, 0, 4)] {
        assert!(Share::of_rank(micro_batches, rank, world).is_err(), "{micro_batches} {rank} {world}");
    }
}
