//! Images per second of the loader: bytes in memory to augmented, normalized batches of 128. With 0 threads the caller
//! makes each batch itself, so that figure is one core's.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wrn_sam_data::{Augmentation, Dataset, Loader, LoaderConfig, Mix, Policy, Split, Statistics};

const IMAGES: usize = 12_800;

fn split() -> (Split, Statistics) {
    let train = Dataset::synthetic(17, IMAGES, 0).train;
    let statistics = Statistics::from_split(&train).expect("the split has images");
    (train, statistics)
}

/// A whole epoch, a new one each time.
fn epochs(criterion: &mut Criterion, name: &str, loader: Loader) {
    let mut group = criterion.benchmark_group("loader");
    group.sample_size(20).throughput(Throughput::Elements(IMAGES as u64));
    let mut epoch = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            epoch += 1;
            loader.epoch(epoch).for_each(|batch| drop(batch.expect("no worker fails")));
        })
    });
    group.finish();
}

fn threads(criterion: &mut Criterion) {
    let (train, statistics) = split();
    for (name, augmentation) in
        [("reference", Augmentation::reference(statistics)), ("none", Augmentation::none(statistics))]
    {
        for threads in [0, 1, 2] {
            let config = LoaderConfig::default().with_threads(threads);
            let loader = Loader::new(&train, augmentation.clone(), config).expect("settings in range");
            epochs(criterion, &format!("{name}/{threads} threads"), loader);
        }
    }
}

fn augmentations(criterion: &mut Criterion) {
    let (train, statistics) = split();
    let basic = || Augmentation::basic(statistics);
    let policy = |policy| Augmentation::from_policy(policy, statistics);
    for (name, augmentation, mix) in [
        ("basic", basic(), None),
        ("AutoAugment", policy(Policy::AutoAugment), None),
        ("RandAugment", policy(Policy::RAND_AUGMENT), None),
        ("TrivialAugment", policy(Policy::TrivialAugment), None),
        ("mixup", basic(), Some(Mix::mixup(1.0))),
        ("CutMix", basic(), Some(Mix::cutmix(1.0))),
    ] {
        let config = LoaderConfig::default();
        let loader = Loader::new(&train, augmentation, config).and_then(|loader| loader.with_mix(mix));
        let loader = loader.expect("settings in range");
        epochs(criterion, &format!("{name}/2 threads"), loader);
    }
}

criterion_group!(benches, threads, augmentations);
criterion_main!(benches);
