//! Images per second of the loader: bytes in memory to augmented, normalized batches of 128. With 0 threads
//! the caller makes each batch itself, so that figure is one core's.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wrn_sam_data::{Augmentation, Cifar, Loader, LoaderConfig, Statistics};

const IMAGES: usize = 20_000;

fn loader(criterion: &mut Criterion) {
    let train = Cifar::synthetic(17, IMAGES, 0).train;
    let statistics = Statistics::of(&train).expect("the split has images");

    let mut group = criterion.benchmark_group("loader");
    group.sample_size(20).throughput(Throughput::Elements(IMAGES as u64));
    for (name, augmentation) in
        [("reference", Augmentation::reference(statistics)), ("none", Augmentation::none(statistics))]
    {
        for threads in [0, 1, 2] {
            let config = LoaderConfig { threads, ..LoaderConfig::default() };
            let loader =
                Loader::new(&train, augmentation.clone(), config).expect("the settings are in range");
            let mut epoch = 0;
            group.bench_function(format!("{name}/{threads} threads"), |bencher| {
                bencher.iter(|| {
                    epoch += 1;
                    loader.epoch(epoch).for_each(|batch| drop(batch.expect("no worker fails")));
                })
            });
        }
    }
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
