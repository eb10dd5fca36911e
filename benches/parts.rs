//! What passes cost that need fewer gradients than a training pass: an evaluation, training the head of a frozen network, and
//! the gradients of the batch norms only, each as a multiple of an evaluation or of a training pass. The passes take turns, so
//! that another program on the machine slows all of them.
//!
//! `cargo bench --bench parts`

use std::error::Error;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use wrn_sam::candle::{DType, Device, Tensor, Var};
use wrn_sam::kernels::{backward, backward_to};
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};

const BATCH: usize = 64;

/// A network, one whose classifier only is trained, the batch norms' parameters, and images.
struct Setup {
    all: WideResNet,
    head: WideResNet,
    norms: Vec<Var>,
    images: Tensor,
}

impl Setup {
    fn new(config: &WideResNetConfig) -> Result<Self, Box<dyn Error>> {
        let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
        let all = WideResNet::new(config, parameters.var_builder())?;
        let view = parameters.with_frozen(|name| !name.starts_with(WideResNet::CLASSIFIER));
        let head = WideResNet::new(config, view.var_builder())?;
        let named = parameters.named_trainable().into_iter();
        let norms = named.filter(|(name, _)| name.contains("normalization")).map(|(_, var)| var).collect();
        let images = Tensor::randn(0f32, 1f32, (BATCH, 3, 32, 32), &Device::Cpu)?;
        Ok(Self { all, head, norms, images })
    }

    fn pass(&self, at: usize) -> Result<(), Box<dyn Error>> {
        let loss = |model: &WideResNet, mode| model.forward(&self.images, mode)?.sqr()?.mean_all();
        match at {
            0 => drop(loss(&self.all, Mode::Eval)?),
            1 => drop(backward(&loss(&self.head, Mode::EvalWithGradients)?)?),
            2 => drop(backward(&loss(&self.all, Mode::TrainFrozenStatistics)?)?),
            _ => drop(backward_to(&loss(&self.all, Mode::TrainFrozenStatistics)?, &self.norms)?),
        }
        Ok(())
    }
}

const PASSES: [&str; 4] = ["evaluation", "head only", "training", "batch norms only"];

fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parts");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(10));
    let setup = Setup::new(&WideResNetConfig::new(16, 2)).expect("a valid configuration");
    let mut fastest = [f64::INFINITY; PASSES.len()];
    group.bench_function(format!("WRN-16-2, batch {BATCH}, all four passes"), |bencher| {
        bencher.iter(|| {
            for (at, fastest) in fastest.iter_mut().enumerate() {
                let start = Instant::now();
                setup.pass(at).expect("a pass");
                *fastest = fastest.min(start.elapsed().as_secs_f64());
            }
        });
    });
    group.finish();
    let [evaluation, head, training, norms] = fastest;
    for (name, seconds) in PASSES.iter().zip(fastest) {
        println!("{name}: {:.1} ms at best", 1e3 * seconds);
    }
    println!("head only / evaluation: {:.2}", head / evaluation);
    println!("batch norms only / training: {:.2}", norms / training);
    println!("a SAM step over the batch norms / a plain training step: {:.2}", (norms + training) / training);
}

criterion_group!(benches, parts);
criterion_main!(benches);
