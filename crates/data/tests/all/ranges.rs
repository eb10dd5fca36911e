//! Every setting of every configuration: the ends of its range are allowed, what is beyond them is refused by name.

use std::fmt::Display;

use wrn_sam_data::{
    Augmentation, Cutout, Error, Loader, LoaderConfig, Mix, Policy, RandomCrop, RandomHorizontalFlip, Result,
    Statistics,
};

const STATISTICS: Statistics = Statistics { mean: [0.5; 3], std: [0.25; 3] };

/// The bad values of a probability.
const NOT_PROBABILITIES: [f64; 5] =
    [-f64::MIN_POSITIVE, 1.0 + f64::EPSILON, f64::NAN, f64::INFINITY, -f64::INFINITY];

fn table<T: Copy + Display>(name: &str, good: &[T], bad: &[T], validate: impl Fn(T) -> Result<()>) {
    for &value in good {
        validate(value).unwrap_or_else(|error| panic!("{name} {value}: {error}"));
    }
    for &value in bad {
        match validate(value) {
            Err(Error::OutOfRange(error)) => {
                assert_eq!((error.name, error.value), (name, value.to_string()), "{}", error.expected);
            }
            other => panic!("{name} {value}: {other:?}"),
        }
    }
}

fn reference() -> Augmentation {
    Augmentation::reference(STATISTICS)
}

#[test]
fn a_loaders_settings() {
    let with = |size| LoaderConfig::default().with_batch_size(size).validate();
    table("batch size", &[1, usize::MAX], &[0], with);
}

#[test]
fn an_augmentations_settings() {
    let crop = |padding| reference().with_crop(RandomCrop { padding }).validate();
    table("crop padding", &[0, 32, 1024], &[1025, usize::MAX], crop);
    let flip = |p| reference().with_flip(RandomHorizontalFlip { p }).validate();
    table("flip probability", &[0.0, 1.0], &NOT_PROBABILITIES, flip);
    let size = |size| reference().with_cutout(Cutout { size, p: 0.5 }).validate();
    table("cutout size", &[1, usize::MAX], &[0], size);
    let p = |p| reference().with_cutout(Cutout { size: 16, p }).validate();
    table("cutout probability", &[0.0, 1.0], &NOT_PROBABILITIES, p);
}

#[test]
fn a_policys_settings() {
    let of = |operations, magnitude| {
        reference().with_policy(Policy::RandAugment { operations, magnitude }).validate()
    };
    table("RandAugment's number of operations", &[0, 14], &[15, usize::MAX], |operations| of(operations, 9));
    table("RandAugment's magnitude", &[0, 30], &[31, usize::MAX], |magnitude| of(2, magnitude));
    for policy in [Policy::AutoAugment, Policy::RAND_AUGMENT, Policy::TrivialAugment] {
        reference().with_policy(policy).validate().unwrap();
    }
}

#[test]
fn means_and_deviations() {
    let infinite = [f64::NAN, f64::INFINITY, -f64::INFINITY];
    for channel in 0..3 {
        let with_mean = |mean| {
            let mut statistics = STATISTICS;
            statistics.mean[channel] = mean;
            Augmentation::none(statistics).validate()
        };
        table("a channel's mean", &[0.0, -1.0, 255.0], &infinite, with_mean);
        let with_std = |std| {
            let mut statistics = STATISTICS;
            statistics.std[channel] = std;
            Augmentation::none(statistics).validate()
        };
        let bad = [&infinite[..], &[0.0, -0.0, -1.0]].concat();
        table("a channel's standard deviation", &[1e-9, 255.0], &bad, with_std);
    }
}

#[test]
fn mixing() {
    let bad = [&NOT_PROBABILITIES[..1], &NOT_PROBABILITIES[2..], &[1000.1]].concat();
    table("mixup's alpha", &[0.0, 1000.0], &bad, |alpha| Mix::new(alpha, 1.0).validate());
    table("CutMix's alpha", &[0.0, 1000.0], &bad, |alpha| Mix::new(1.0, alpha).validate());
    table("mixing probability", &[0.0, 1.0], &NOT_PROBABILITIES, |p| Mix::mixup(1.0).with_p(p).validate());
}

/// A loader takes nothing that is out of range.
#[test]
fn a_loader_validates_all_that_it_is_given() {
    let train = wrn_sam_data::Dataset::synthetic(1, 3, 0).train;
    let new = |augmentation, config| Loader::new(&train, augmentation, config);
    let config = LoaderConfig::default();
    assert!(matches!(new(reference(), config.with_batch_size(0)), Err(Error::OutOfRange(_))));
    let flip = reference().with_flip(RandomHorizontalFlip { p: 2.0 });
    assert!(matches!(new(flip, config), Err(Error::OutOfRange(_))));
    let loader = new(reference(), config).unwrap();
    assert!(matches!(loader.clone().with_mix(Mix::mixup(-1.0)), Err(Error::OutOfRange(_))));
    assert!(loader.with_mix(None).is_ok());
}

#[cfg(feature = "download")]
#[test]
fn a_downloads_settings() {
    use std::time::Duration;

    use wrn_sam_data::Variant::Cifar100;
    use wrn_sam_data::download::DownloadOptions;

    let options = || DownloadOptions::new(Cifar100);
    let good = ["0123456789abcdefABCDEF0123456789"];
    let bad = [
        "",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdefa",
        "g123456789abcdef0123456789abcdef",
    ];
    table("md5", &good, &bad, |md5| {
        let mut options = options();
        options.md5 = md5.into();
        options.validate()
    });
    for change in [
        |options: &mut DownloadOptions| options.connect_timeout = Duration::ZERO,
        |options: &mut DownloadOptions| options.stall_timeout = Duration::ZERO,
    ] {
        let mut options = options();
        change(&mut options);
        assert!(matches!(options.validate(), Err(Error::OutOfRange(_))));
    }
}
