//! Images per second of one SAM step, for a few networks, and of the same step from stock candle operations.
//!
//! `cargo bench --bench sam_step`; one network alone: `cargo bench --bench sam_step -- WRN-28-10`.

use std::error::Error;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use wrn_sam::candle::{DType, Device, Tensor};
use wrn_sam::data::{Batch, IMAGE_CHANNELS, IMAGE_SIZE};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::optim::{Sam, SamConfig, Sgd, SgdConfig};
use wrn_sam::train::step;

/// A network, its optimizer and a batch of random images.
struct Setup {
    model: WideResNet,
    sam: Sam<Sgd>,
    batch: Batch,
}

impl Setup {
    fn new(depth: usize, width_factor: usize, batch: usize) -> Result<Self, Box<dyn Error>> {
        let device = &Device::Cpu;
        let config = WideResNetConfig::new(depth, width_factor);
        let parameters = Parameters::new(17, DType::F32, device);
        let model = WideResNet::new(&config, parameters.var_builder())?;
        // A classifier of zeros, which training begins with, would leave all other gradients zero.
        if let Some(var) = parameters.get("f.8_classification.weight") {
            var.set(&var.randn_like(0.0, 0.05)?)?;
        }
        let config = SgdConfig::new(0.01).with_momentum(0.9).with_weight_decay(5e-4);
        let sam = Sam::new(Sgd::named(parameters.named_trainable(), config)?, SamConfig::sam(0.1))?;
        let images = Tensor::randn(0f32, 1f32, (batch, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE), device)?;
        let labels: Vec<u32> = (0..batch as u32).map(|image| image % 100).collect();
        Ok(Self { model, sam, batch: Batch::new(images, Tensor::new(labels, device)?) })
    }

    fn step(&mut self) -> Result<(), Box<dyn Error>> {
        step(&self.model, &mut self.sam, &self.batch, |logits, labels| {
            smooth_cross_entropy(logits, labels, 0.1)
        })?;
        Ok(())
    }

    fn step_of_stock_operations(&mut self) -> Result<(), Box<dyn Error>> {
        let Self { model, sam, batch } = self;
        let loss = |mode| -> Result<Tensor, Box<dyn Error>> {
            let logits = model.forward_plain(&batch.images, mode)?;
            Ok(smooth_cross_entropy(&logits, &batch.labels, 0.1)?.mean_all()?)
        };
        if let Some(perturbed) = sam.begin()?.climb(&loss(Mode::Train)?.backward()?)? {
            perturbed.descend(&loss(Mode::TrainFrozenStatistics)?.backward()?)?;
        }
        Ok(())
    }
}

fn sam_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sam_step");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(10));
    for (depth, width_factor, batch) in [(10, 1, 128), (16, 2, 128), (28, 10, 8)] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("WRN-{depth}-{width_factor}, batch {batch}"), |bencher| {
            let mut setup = Setup::new(depth, width_factor, batch).expect("a valid configuration");
            bencher.iter(|| setup.step().expect("a step"));
        });
    }
    group.throughput(Throughput::Elements(4));
    group.bench_function("WRN-16-2, batch 4, stock candle operations", |bencher| {
        let mut setup = Setup::new(16, 2, 4).expect("a valid configuration");
        bencher.iter(|| setup.step_of_stock_operations().expect("a step"));
    });
    group.finish();
}

criterion_group!(benches, sam_step);
criterion_main!(benches);
