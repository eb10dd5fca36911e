//! Batches made on a device, here the CPU: what they hold, and how their draws compare with the CPU loader's.

use candle_core::{DType, Device, Tensor};
use wrn_sam_data::{
    Augmentation, Batch, Cifar, DeviceLoader, Error, Loader, LoaderConfig, Policy, Split, Statistics,
};

fn split() -> Split {
    Cifar::synthetic(3, 300, 0).train
}

const CONFIG: LoaderConfig = LoaderConfig { batch_size: 64, threads: 0, shuffle: true, seed: 5 };

fn loader(split: &Split, augmentation: &Augmentation) -> DeviceLoader {
    DeviceLoader::new(split, augmentation, CONFIG, DType::F32, &Device::Cpu).unwrap()
}

fn batches(loader: &DeviceLoader, epoch: usize, from: usize) -> Vec<Batch> {
    loader.epoch_from(epoch, from).unwrap().collect::<Result<_, _>>().unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn without_augmentation_the_batches_are_the_cpu_loaders_to_the_bit() {
    let split = split();
    let none = Augmentation::none(Statistics::of(&split).unwrap());
    let ours = batches(&loader(&split, &none), 2, 0);
    let theirs = Loader::new(&split, none, CONFIG).unwrap().epoch(2);
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
    let loader = loader(&split, &Augmentation::reference(Statistics::of(&split).unwrap()));
    let all =
        |batches: Vec<Batch>| batches.iter().flat_map(|batch| values(&batch.images)).collect::<Vec<_>>();
    let epoch = all(batches(&loader, 7, 0));
    assert!(epoch == all(batches(&loader, 7, 0)));
    assert!(epoch[3 * 64 * 3072..] == all(batches(&loader, 7, 3)));
    assert!(epoch != all(batches(&loader, 8, 0)));
    assert!(loader.epoch_from(7, 9).unwrap().next().is_none());
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
                    // Tops above the image are cut off: those that show count alone.
                    tops[top] += 1;
                }
            }
        }
        (downs, rights, coins, tops)
    };
    let device = loader(&split, &augmentation);
    let ours = counts(&mut device.epoch(0).unwrap().map(Result::unwrap));
    let host = Loader::new(&split, augmentation, CONFIG).unwrap();
    let theirs = counts(&mut host.epoch(0).map(Result::unwrap));
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
fn what_it_cannot_do_is_an_error_when_it_is_made() {
    let split = split();
    let reference = Augmentation::reference(Statistics::of(&split).unwrap());
    let mut wide = reference.clone();
    wide.cutout.as_mut().unwrap().size = 65;
    let new = |augmentation: &Augmentation, dtype| {
        DeviceLoader::new(&split, augmentation, CONFIG, dtype, &Device::Cpu)
    };
    assert!(matches!(new(&wide, DType::F32), Err(Error::OutOfRange(_))));
    let policy = Augmentation { policy: Some(Policy::AutoAugment), ..reference.clone() };
    assert!(matches!(new(&policy, DType::F32), Err(Error::OutOfRange(_))));
    assert!(!DeviceLoader::has_kernels_for(&wide) && !DeviceLoader::has_kernels_for(&policy));
    assert!(DeviceLoader::has_kernels_for(&reference));
    assert!(DeviceLoader::has_kernels_for(&Augmentation { cutout: None, ..reference.clone() }));
    let zero = LoaderConfig { batch_size: 0, ..CONFIG };
    assert!(DeviceLoader::new(&split, &reference, zero, DType::F32, &Device::Cpu).is_err());
    assert!(new(&reference, DType::BF16).is_err());
}
