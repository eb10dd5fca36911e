//! Batches made on a device, here the CPU: what they hold, and how their draws compare with the CPU loader's.

use candle_core::Tensor;
use wrn_sam_data::{
    Augmentation, Batch, Cutout, Dataset, Error, Loader, LoaderConfig, Maker, Mix, Policy, Split, Statistics,
};

fn split() -> Split {
    Dataset::synthetic(3, 300, 0).train
}

/// The loader whose batches are made by threads.
fn host(split: &Split, augmentation: &Augmentation) -> Loader {
    let config = LoaderConfig::default().with_batch_size(64).with_threads(0).with_seed(5);
    Loader::new(split, augmentation.clone(), config).unwrap()
}

fn loader(split: &Split, augmentation: &Augmentation) -> Loader {
    host(split, augmentation).with_maker(Maker::Kernel).unwrap()
}

fn batches(loader: &Loader, epoch: usize, from: usize) -> Vec<Batch> {
    loader.epoch_from(epoch, from).collect::<Result<_, _>>().unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn without_augmentation_the_batches_are_the_cpu_loaders_to_the_bit() {
    let split = split();
    let none = Augmentation::none(Statistics::from_split(&split).unwrap());
    let ours = batches(&loader(&split, &none), 2, 0);
    let theirs = host(&split, &none).epoch(2);
    assert_eq!((ours.len(), theirs.len()), (5, 5));
    for (ours, theirs) in ours.iter().zip(theirs) {
        let theirs = theirs.unwrap();
        assert_eq!(ours.labels.to_vec1::<u32>().unwrap(), theirs.labels.to_vec1::<u32>().unwrap());
        assert!(values(&ours.images) == values(&theirs.images));
        // A view of channels-last memory.
        assert!(ours.images.permute((0, 2, 3, 1)).unwrap().is_contiguous());
    }
}

#[test]
fn an_epoch_is_the_same_again_and_from_anywhere_and_others_differ() {
    let split = split();
    let loader = loader(&split, &Augmentation::reference(Statistics::from_split(&split).unwrap()));
    let all =
        |batches: Vec<Batch>| batches.iter().flat_map(|batch| values(&batch.images)).collect::<Vec<_>>();
    let epoch = all(batches(&loader, 7, 0));
    assert!(epoch == all(batches(&loader, 7, 0)));
    assert!(epoch[3 * 64 * 3072..] == all(batches(&loader, 7, 3)));
    assert!(epoch != all(batches(&loader, 8, 0)));
    assert!(loader.epoch_from(7, 9).next().is_none());
    let mut labels: Vec<u32> =
        batches(&loader, 7, 0).iter().flat_map(|batch| batch.labels.to_vec1().unwrap()).collect();
    let mut expected: Vec<u32> = split.labels().iter().map(|&label| label.into()).collect();
    labels.sort_unstable();
    expected.sort_unstable();
    assert_eq!(labels, expected);
}

/// An image whose every pixel tells where it is: what was drawn can be read off the batch, by the same reader for both
/// loaders.
#[test]
fn draws_are_distributed_as_the_cpu_loaders() {
    const N: usize = 4000;
    let mut image = [0u8; 3072];
    for (pixel, byte) in image[..1024].iter_mut().enumerate() {
        *byte = (pixel / 32 + 1) as u8; // red: the row, from 1
    }
    for (pixel, byte) in image[1024..2048].iter_mut().enumerate() {
        *byte = (pixel % 32 + 1) as u8; // green: the column
    }
    let split = Split::new(image.repeat(N), vec![0; N], None).unwrap();
    let statistics = Statistics { mean: [-1.0 / 255.0; 3], std: [1.0 / 255.0; 3] };
    let augmentation = Augmentation::reference(statistics); // byte b becomes b + 1, cutout 0
    let counts = |batches: &mut dyn Iterator<Item = Batch>| {
        let (mut downs, mut rights, mut coins, mut tops) = ([0u32; 9], [0u32; 9], [0u32; 4], [0u32; 32]);
        for batch in batches {
            for image in values(&batch.images).chunks_exact(3072) {
                let at =
                    |channel: usize, y: usize, x: usize| image[channel * 1024 + y * 32 + x].round() as i32;
                // A pixel of the image is at least 2 in red and green, one of the padding 1, a cutout 0.
                let seen = |(y, x): &(usize, usize)| at(0, *y, *x) >= 2 && at(1, *y, *x) >= 2;
                let places = (0..1024).map(|pixel| (pixel / 32, pixel % 32));
                let (y, x) = places.clone().find(seen).unwrap();
                let flip = {
                    let mut rows =
                        places.clone().filter(seen).filter(|&(row, column)| row == y && column != x);
                    let (row, column) = rows.next().unwrap();
                    (at(1, row, column) - at(1, y, x)) * (column as i32 - x as i32) < 0
                };
                let column = at(1, y, x) - 2;
                let right = if flip { column - (31 - x as i32) } else { column - x as i32 };
                downs[(at(0, y, x) - 2 - y as i32 + 4) as usize] += 1;
                rights[(right + 4) as usize] += 1;
                let blank = places.clone().find(|&(y, x)| at(0, y, x) == 0);
                coins[usize::from(flip) * 2 + usize::from(blank.is_some())] += 1;
                if let Some((top, _)) = blank {
                    // Tops above the image are cut off: only those that show count.
                    tops[top] += 1;
                }
            }
        }
        (downs, rights, coins, tops)
    };
    let device = loader(&split, &augmentation);
    let ours = counts(&mut device.epoch(0).map(Result::unwrap));
    let theirs = counts(&mut host(&split, &augmentation).epoch(0).map(Result::unwrap));
    // χ² of two samples of one distribution; the seeds are fixed, so what holds now holds always.
    let chi_square = |a: &[u32], b: &[u32]| -> f64 {
        let pairs = a.iter().zip(b).filter(|(a, b)| *a + *b > 0);
        pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2) / f64::from(a + b)).sum()
    };
    assert!(chi_square(&ours.0, &theirs.0) < 35.0, "{:?} {:?}", ours.0, theirs.0);
    assert!(chi_square(&ours.1, &theirs.1) < 35.0, "{:?} {:?}", ours.1, theirs.1);
    assert!(chi_square(&ours.2, &theirs.2) < 25.0, "{:?} {:?}", ours.2, theirs.2);
    assert!(chi_square(&ours.3, &theirs.3) < 75.0, "{:?} {:?}", ours.3, theirs.3);
}

#[test]
fn what_the_kernel_cannot_do_is_refused_and_left_to_threads() {
    let split = split();
    let reference = Augmentation::reference(Statistics::from_split(&split).unwrap());
    let cutout = |size| reference.clone().with_cutout(Cutout { size, p: 0.5 });
    let policy = reference.clone().with_policy(Policy::AutoAugment);
    let error = host(&split, &policy).with_maker(Maker::Kernel).unwrap_err();
    assert!(matches!(error, Error::NoKernel { what: "a policy of operations" }), "{error}");
    for augmentation in [&cutout(64), &cutout(usize::MAX), &reference, &reference.clone().with_cutout(None)] {
        let kernel = loader(&split, augmentation);
        assert_eq!((kernel.maker(), kernel.to_string()), (Maker::Kernel, "made on the device".into()));
        assert!(kernel.epoch(0).all(|batch| batch.is_ok()));
    }
    let error = loader(&split, &reference).with_mix(Mix::mixup(1.0)).unwrap_err();
    assert!(matches!(error, Error::NoKernel { what: "mixing" }), "{error}");
    let mixed = host(&split, &reference).with_mix(Mix::mixup(1.0)).unwrap();
    assert!(matches!(mixed.with_maker(Maker::Kernel), Err(Error::NoKernel { what: "mixing" })));
    // Left to itself it takes threads on the CPU, and says how many.
    let said = |threads| {
        let config = LoaderConfig::default().with_threads(threads);
        Loader::new(&split, reference.clone(), config).unwrap().to_string()
    };
    assert_eq!(said(0), "made by the CPU between the steps");
    assert_eq!(
        (said(1), said(3)),
        ("made by 1 thread of the CPU".into(), "made by 3 threads of the CPU".into())
    );
    assert_eq!(host(&split, &reference).maker(), Maker::Threads);
}

/// From 64 pixels on a square covers the whole image, wherever its middle is.
#[test]
fn a_large_cutout_covers_the_image() {
    let split = split();
    let plain = Augmentation::none(Statistics::from_split(&split).unwrap());
    for size in [64, 65, usize::MAX] {
        let covering = plain.clone().with_cutout(Cutout { size, p: 1.0 });
        for loader in [host(&split, &covering), loader(&split, &covering)] {
            let batch = loader.epoch(1).next().unwrap().unwrap();
            assert!(values(&batch.images).iter().all(|value| *value == 0.0), "{size} {loader}");
        }
    }
    let covering = plain.with_cutout(Cutout { size: 60, p: 1.0 });
    for loader in [host(&split, &covering), loader(&split, &covering)] {
        let batch = loader.epoch(1).next().unwrap().unwrap();
        assert!(values(&batch.images).iter().any(|value| *value != 0.0), "{loader}");
    }
}
