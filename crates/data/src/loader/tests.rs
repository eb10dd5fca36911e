use super::*;
use crate::{Dataset, IMAGE_BYTES, Statistics};

fn loader(threads: usize) -> Loader {
    let train = Dataset::synthetic(17, 203, 0).train;
    let augmentation = Augmentation::reference(Statistics::from_split(&train).unwrap());
    Loader::new(
        &train,
        augmentation,
        LoaderConfig::default().with_batch_size(16).with_threads(threads).with_seed(3),
    )
    .unwrap()
}

fn values(batch: Result<Batch>) -> (Vec<f32>, Vec<u32>) {
    let Batch { images, labels, .. } = batch.unwrap();
    (images.flatten_all().unwrap().to_vec1().unwrap(), labels.to_vec1().unwrap())
}

/// An epoch's threads share one copy of the loader, which is gone when the last of them has ended.
fn copies(loader: &Loader) -> usize {
    Arc::strong_count(&loader.augmentation) - 1
}

/// The sixth batch of an epoch goes wrong by `fault`: the five before it are what they are without, then its error
/// comes and the epoch ends, its threads too, and the loader is none the worse.
fn fails_in_its_place(fault: fn() -> Result<Batch>, expected: &str) {
    for threads in [1, 3] {
        let loader = loader(threads);
        let mut epoch = loader.batches(
            0,
            (0..loader.batches_per_epoch()).collect(),
            threads,
            move |loader, epoch, order, index| match index {
                5 => fault(),
                _ => loader.batch(epoch, order, index),
            },
        );
        for (made, unharmed) in epoch.by_ref().take(5).zip(loader.epoch(0)) {
            assert_eq!(values(made), values(unharmed));
        }
        assert_eq!(epoch.next().unwrap().unwrap_err().to_string(), expected, "{threads} threads");
        assert!(epoch.next().is_none());
        assert_eq!(epoch.len(), 0);
        drop(epoch);
        assert_eq!(copies(&loader), 0, "{threads} threads");
        assert_eq!(loader.epoch(0).map(values).count(), 13);
    }
}

#[test]
fn an_error_in_a_worker_reaches_the_caller() {
    fails_in_its_place(|| Err(Error::EmptySplit), "the split has no images, at least one expected");
}

#[test]
fn a_panic_in_a_worker_reaches_the_caller() {
    fails_in_its_place(|| panic!("out of luck"), "making batch 5 panicked: out of luck");
}

#[test]
fn threads_end_with_an_epoch_that_is_dropped() {
    for threads in [1, 3] {
        let loader = loader(threads);
        for taken in [0, 1, 5] {
            let mut epoch = loader.epoch(taken);
            assert_eq!(epoch.by_ref().take(taken).map(values).count(), taken);
            assert_eq!(copies(&loader), 1);
            drop(epoch);
            assert_eq!(copies(&loader), 0, "{threads} threads, {taken} batches taken");
        }
    }
}

/// What is drawn for order, images and mixing comes from the streams of their own names, which random.rs keeps
/// apart: no two of them share a number.
#[test]
fn each_purpose_draws_from_its_own_stream() {
    let mix = Mix::mixup(1.0);
    let loader = loader(0).with_mix(mix).unwrap();
    let plain = self::loader(0);
    let (seed, epoch) = (3, 2);
    let mut order: Vec<usize> = (0..203).collect();
    order.shuffle(&mut stream(seed, Purpose::Order, epoch, 0));
    for (index, (batch, plain)) in loader.epoch(2).zip(plain.epoch(2)).enumerate() {
        let (batch, plain) = (batch.unwrap(), plain.unwrap());
        let lambda = |purpose| {
            mix.sample(32, &mut stream(seed, purpose, epoch, index as u64)).map(|draw| draw.lambda())
        };
        let mixed = batch.mixed.unwrap().lambda;
        assert_eq!(Some(mixed), lambda(Purpose::Mix));
        assert_ne!(Some(mixed), lambda(Purpose::Augmentation));
        assert_ne!(Some(mixed), lambda(Purpose::Order));
        let images = plain.images.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap();
        for (i, found) in images.to_vec1::<f32>().unwrap().as_chunks::<IMAGE_BYTES>().0.iter().enumerate() {
            let position = index * 16 + i;
            let mut expected = [0.0; IMAGE_BYTES];
            let mut rng = stream(seed, Purpose::Augmentation, epoch, position as u64);
            let draw = loader.augmentation.sample(32, &mut rng);
            loader.augmentation.apply(loader.split.image(order[position]), &draw, &mut expected);
            assert!(*found == expected, "position {position}");
        }
    }
}

#[test]
fn an_error_on_the_way_to_the_device_ends_the_epoch() {
    let loader = loader(2).with_maker(Maker::Kernel).unwrap();
    let mut epoch = loader.epoch(1 << 32);
    let message = epoch.next().unwrap().unwrap_err().to_string();
    assert_eq!(message, "epoch = 4294967296: must be below 2^32 on a device");
    assert!(epoch.next().is_none());
    let last = loader.epoch(u32::MAX as usize).next().unwrap().unwrap();
    let first = loader.epoch(0).next().unwrap().unwrap();
    assert!(values(Ok(last)) != values(Ok(first)));
    // Threads have no such limit.
    assert!(self::loader(2).epoch(1 << 32).next().unwrap().is_ok());
}
