//! The operations of a training step, the same tests on every device, against the plain ones on the CPU.

#[path = "support/devices.rs"]
mod devices;

use devices::on_every_device;
use wrn_sam::candle::backprop::GradStore;
use wrn_sam::candle::{DType, Device, Tensor, Var};
use wrn_sam::candle_nn::Optimizer;
use wrn_sam::data::{Augmentation, Batch, Dataset, Loader, LoaderConfig, Maker, Mix, Policy, Statistics};
use wrn_sam::kernels::Backend;
use wrn_sam::kernels::batch_norm::{BatchNormState, BatchStatistics, batch_norm_relu};
use wrn_sam::kernels::conv2d::{Conv2dConfig, conv2d};
use wrn_sam::kernels::{Cpu, backward};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};
use wrn_sam::optim::{
    AdamW, AdamWConfig, AscentOver, Perturbed, Sam, SamConfig, Scale, Sgd, SgdConfig, Variables, When,
};
use wrn_sam::train::{Meter, Tally, step};

/// Numbers from -1 to 1, the same on every device.
fn numbers(seed: usize, shape: &[usize]) -> Tensor {
    let len = shape.iter().product();
    let number = |i: usize| {
        let bits = (i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(97_531)) >> 7;
        (bits % 20_001) as f32 / 10_000.0 - 1.0
    };
    Tensor::from_vec((0..len).map(number).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    tensor.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(1e-6f32, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * largest;
        assert!(close, "{what}: element {i} is {found}, expected {expected} (largest {largest})");
    }
}

/// Shapes around a vector's, a block's and a chunk's length, and more of them than one launch takes.
fn shapes() -> Vec<Vec<usize>> {
    let mut shapes = vec![vec![1], vec![3], vec![255], vec![16_384], vec![16_385], vec![64, 3, 3, 60]];
    shapes.extend((0..70).map(|i| vec![1 + i % 9]));
    shapes
}

fn variables(device: &Device) -> Vec<Var> {
    let variable = |(seed, shape): (usize, Vec<usize>)| {
        Var::from_tensor(&numbers(seed, &shape).to_device(device).unwrap()).unwrap()
    };
    shapes().into_iter().enumerate().map(variable).collect()
}

/// A loss of all variables whose gradient is different in every step.
fn gradients(vars: &[Var], seed: usize) -> GradStore {
    let terms = vars.iter().enumerate().map(|(index, var)| {
        let factors = numbers(seed + index, var.dims()).to_device(var.device()).unwrap();
        ((var.as_tensor() * factors).unwrap().sum_all().unwrap() + var.sqr().unwrap().sum_all().unwrap())
            .unwrap()
    });
    terms.reduce(|sum, term| (sum + term).unwrap()).unwrap().backward().unwrap()
}

fn climb<'a, O: Optimizer>(sam: &'a mut Sam<O>, gradients: &GradStore) -> Perturbed<'a, O> {
    sam.begin().unwrap().climb(gradients).unwrap().expect("rho is above 0")
}

/// Three steps of SAM on a device; the variables after each.
fn sam_steps<O: Optimizer + Variables>(
    device: &Device,
    config: SamConfig,
    base: impl Fn(Vec<Var>) -> O,
) -> Vec<Vec<Tensor>> {
    let vars = variables(device);
    let mut sam = Sam::new(base(vars.clone()), config).unwrap();
    let mut after = Vec::new();
    for seed in 0..3 {
        let before: Vec<Vec<f32>> = vars.iter().map(|var| values(var)).collect();
        let perturbed = climb(&mut sam, &gradients(&vars, 100 * seed));
        after.push(vars.iter().map(|var| var.copy().unwrap()).collect());
        assert!(perturbed.grad_norm().to_scalar::<f64>().unwrap() > 0.0);
        drop(perturbed); // back to the bit
        assert!(vars.iter().zip(&before).all(|(var, before)| values(var) == *before));
        let perturbed = climb(&mut sam, &gradients(&vars, 100 * seed));
        perturbed.descend(&gradients(&vars, 100 * seed + 7)).unwrap();
        after.push(vars.iter().map(|var| var.copy().unwrap()).collect());
    }
    sam.check_gradients().unwrap();
    after
}

fn compare_sam<O: Optimizer + Variables>(device: &Device, config: SamConfig, base: impl Fn(Vec<Var>) -> O) {
    let (found, expected) = (sam_steps(device, config, &base), sam_steps(&Device::Cpu, config, &base));
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert_close(&format!("{config:?}"), found, expected, 1e-5);
    }
}

fn network(device: &Device) -> (Parameters, WideResNet) {
    let parameters = Parameters::new(5, DType::F32, device);
    let config = WideResNetConfig::new(10, 2).with_classes(20);
    let model = WideResNet::new(&config, parameters.var_builder()).unwrap();
    let weight = parameters.get("f.8_classification.weight").unwrap();
    weight.set(&numbers(9, weight.dims()).to_device(device).unwrap()).unwrap();
    (parameters, model)
}

/// A convolution and its gradients against candle's on the CPU, on shapes that fit no vector.
fn compare_convolutions<B: Backend>(backend: &B, device: &Device, tolerance: f32) {
    for (batch, inputs, outputs, size, kernel, stride, padding) in [
        (2, 3, 5, 7, 3, 1, 1),
        (1, 17, 8, 6, 3, 2, 1),
        (3, 16, 33, 5, 1, 2, 0),
        (4, 24, 16, 9, 3, 1, 0),
        (1, 1, 1, 4, 3, 1, 1),
    ] {
        let on = |device: &Device, convolve: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
            let var = |seed, shape: &[usize]| {
                Var::from_tensor(&numbers(seed, shape).to_device(device).unwrap()).unwrap()
            };
            let x = var(1, &[batch, inputs, size, size]);
            let w = var(2, &[outputs, inputs, kernel, kernel]);
            let y = convolve(x.as_tensor(), w.as_tensor());
            let factors = numbers(3, y.dims()).to_device(device).unwrap();
            let gradients = (&y * factors).unwrap().sum_all().unwrap().backward().unwrap();
            [y, gradients.get(&x).unwrap().clone(), gradients.get(&w).unwrap().clone()]
        };
        let found =
            on(device, &|x, w| conv2d(backend, x, w, None, Conv2dConfig::new(stride, padding)).unwrap());
        let expected = on(&Device::Cpu, &|x, w| x.conv2d(w, padding, stride, 1, 1).unwrap());
        for ((name, found), expected) in ["y", "dx", "dw"].iter().zip(&found).zip(&expected) {
            assert_close(&format!("{name} of {inputs} -> {outputs}"), found, expected, tolerance);
        }
    }
}

/// Batch norm and ReLU, gradients and moved statistics, against stock operations on the CPU.
fn compare_batch_norms<B: Backend>(backend: &B, device: &Device, tolerance: f32) {
    for (batch, channels, size) in [(2, 3, 5), (3, 17, 4), (1, 64, 9)] {
        // What bfloat16 has exactly, so that no ReLU turns by rounding.
        let exact = |seed, shape: &[usize]| {
            (numbers(seed, shape).affine(128.0, 0.0).unwrap().round().unwrap() / 128.0).unwrap()
        };
        let var =
            |seed, shape: &[usize]| Var::from_tensor(&exact(seed, shape).to_device(device).unwrap()).unwrap();
        let (x, weight, bias) =
            (var(1, &[batch, channels, size, size]), var(2, &[channels]), var(3, &[channels]));
        let running_var = Var::from_tensor(&var(5, &[channels]).affine(0.25, 1.0).unwrap()).unwrap();
        let count = Var::zeros((), DType::I64, device).unwrap();
        let norm = BatchNormState {
            weight: &weight,
            bias: &bias,
            running_mean: &var(4, &[channels]),
            running_var: &running_var,
            num_batches_tracked: &count,
            epsilon: 1e-5,
            momentum: 0.1,
        };
        let cpu = |tensor: &Tensor| Var::from_tensor(&tensor.to_device(&Device::Cpu).unwrap()).unwrap();
        let (plain_x, plain_weight, plain_bias) = (cpu(&x), cpu(&weight), cpu(&bias));
        let plain = |mean: &Tensor, variance: &Tensor| {
            let column = |tensor: &Tensor| tensor.reshape((1, channels, 1, 1)).unwrap();
            let deviation = (column(variance) + 1e-5).unwrap().sqrt().unwrap();
            let x = plain_x.broadcast_sub(&column(mean)).unwrap().broadcast_div(&deviation).unwrap();
            let x = x.broadcast_mul(&column(&plain_weight)).unwrap().broadcast_add(&column(&plain_bias));
            x.unwrap().relu().unwrap()
        };
        let gradients_agree = |y: &Tensor, expected: &Tensor| {
            let factors = numbers(6, y.dims());
            let found = (y * factors.to_device(device).unwrap()).unwrap().sum_all().unwrap();
            let expected = (expected * factors).unwrap().sum_all().unwrap().backward().unwrap();
            let found = found.backward().unwrap();
            for (name, var, plain) in
                [("dx", &x, &plain_x), ("dweight", &weight, &plain_weight), ("dbias", &bias, &plain_bias)]
            {
                assert_close(name, found.get(var).unwrap(), expected.get(plain).unwrap(), 4.0 * tolerance);
            }
        };
        let evaluated = batch_norm_relu(backend, &x, &norm, BatchStatistics::Running).unwrap();
        let expected = plain(&cpu(norm.running_mean), &cpu(norm.running_var));
        assert_close("evaluated", &evaluated, &expected, tolerance);
        gradients_agree(&evaluated, &expected);

        let flat = plain_x.transpose(0, 1).unwrap().flatten_from(1).unwrap();
        let (mean, rows) = (flat.mean(1).unwrap(), (batch * size * size) as f64);
        let squares = flat.broadcast_sub(&mean.unsqueeze(1).unwrap()).unwrap().sqr().unwrap().sum(1).unwrap();
        let variance = (&squares / rows).unwrap();
        let moved = |running: &Tensor, new: &Tensor| {
            ((cpu(running).as_tensor() * 0.9).unwrap() + (new * 0.1).unwrap()).unwrap()
        };
        let moved_mean = moved(norm.running_mean, &mean);
        let moved_var = moved(norm.running_var, &(&squares / (rows - 1.0)).unwrap());
        let y = batch_norm_relu(backend, &x, &norm, BatchStatistics::Batch { moves: true }).unwrap();
        let expected = plain(&mean, &variance);
        assert_close("activated", &y, &expected, tolerance);
        assert_close("running mean", norm.running_mean, &moved_mean, tolerance);
        assert_close("running variance", norm.running_var, &moved_var, tolerance);
        gradients_agree(&y, &expected);
    }
}

on_every_device! {
    fn sam_around_sgd(device: &Device) {
        let sgd = |momentum, dampening, nesterov| move |vars| {
            let config = SgdConfig::new(0.05).with_momentum(momentum).with_dampening(dampening);
            Sgd::new(vars, config.with_nesterov(nesterov).with_weight_decay(0.01)).unwrap()
        };
        let sam = SamConfig::sam(0.1);
        compare_sam(device, sam, sgd(0.9, 0.0, false));
        compare_sam(device, SamConfig::adaptive(0.1), sgd(0.9, 0.0, true));
        compare_sam(device, sam.with_p(3.0), sgd(0.9, 0.5, false));
        compare_sam(device, sam.with_p(f64::INFINITY), sgd(0.0, 0.0, false));
    }

    fn sam_around_adamw(device: &Device) {
        let adamw = |vars| AdamW::new(vars, AdamWConfig::new(0.01)).unwrap();
        compare_sam(device, SamConfig::sam(0.1), adamw);
        compare_sam(device, SamConfig::gsam(0.1), adamw);
    }

    fn members_of_the_family(device: &Device) {
        let sgd = |vars| Sgd::new(vars, SgdConfig::new(0.05).with_momentum(0.9).with_weight_decay(0.01)).unwrap();
        let sam = SamConfig::sam(0.1);
        for config in [
            SamConfig::usam(0.01),
            SamConfig::fsam(0.1),
            SamConfig::vasso(0.1),
            SamConfig::gsam(0.1),
            SamConfig::wsam(0.1),
            sam.with_scale(Scale::Tensor),
            sam.with_scale(Scale::Adaptive { eta: 0.01, biases: true }).with_p(3.0),
            sam.with_clip(Some(0.5)),
            sam.with_when(When::Look { k: 1, alpha: 0.7 }),
        ] {
            compare_sam(device, config, sgd);
        }
        // Steps with a pass fewer, and micro-batches.
        for (config, over) in [
            (SamConfig::msam(0.3), AscentOver::Batch),
            (sam.with_when(When::Look { k: 2, alpha: 0.7 }), AscentOver::Batch),
            (SamConfig::aesam(0.1, 4), AscentOver::Batch),
            (sam.with_clip(Some(0.5)), AscentOver::MicroBatch),
            (SamConfig::gsam(0.1), AscentOver::MicroBatch),
        ] {
            let after = |device: &Device| {
                let vars = variables(device);
                let mut sam = Sam::new(sgd(vars.clone()), config).unwrap();
                for seed in 0..4 {
                    sam.step_parts(&[0.5, 0.25, 0.25], over, |part, _| {
                        let terms = vars.iter().enumerate().map(|(index, var)| {
                            let factors = numbers(100 * seed + 10 * part + index, var.dims()).to_device(device)?;
                            // Of unequal curvature: otherwise LookSAM would keep what rounding leaves of zero.
                            (var.as_tensor() * &factors)?.sum_all()? + (var.sqr()? * factors.sqr()?)?.sum_all()?
                        });
                        terms.reduce(|sum, term| sum? + term?).unwrap()
                    })
                    .unwrap();
                }
                sam.check_gradients().unwrap();
                vars
            };
            for (found, expected) in after(device).iter().zip(after(&Device::Cpu)) {
                // LookSAM keeps a small difference of large vectors, which has fewer digits.
                assert_close(&format!("{config:?}"), found, &expected, 1e-3);
            }
        }
    }

    /// Now or, on a GPU, when it is asked for; and no weight has moved.
    fn a_gradient_that_is_not_finite_is_reported(device: &Device) {
        let var = Var::from_tensor(&numbers(1, &[300]).to_device(device).unwrap()).unwrap();
        let sgd = Sgd::new(vec![var.clone()], SgdConfig::default().with_momentum(0.9)).unwrap();
        let buffers = [Var::new(7i64, device).unwrap(), Var::from_tensor(&numbers(2, &[5]).to_device(device).unwrap()).unwrap()];
        let mut sam = Sam::new(sgd, SamConfig::default()).unwrap().with_buffers(buffers.clone()).unwrap();
        let held = |buffers: &[Var; 2]| (buffers[0].to_scalar::<i64>().unwrap(), values(&buffers[1]));
        let before_buffers = held(&buffers);
        let before = values(&var);
        let gradients = |factor: f32| (var.as_tensor() * f64::from(factor)).unwrap().sum_all().unwrap().backward().unwrap();
        let take = |sam: &mut Sam<Sgd>, first: f32, second: f32| {
            let step = sam.begin()?;
            for buffer in &buffers {
                let moved = (buffer.as_detached_tensor() + buffer.ones_like()?)?;
                buffer.set(&moved)?;
            }
            step.climb(&gradients(first))?.unwrap().descend(&gradients(second))
        };
        let bad = |sam: &mut Sam<Sgd>, first: f32, second: f32| {
            take(sam, first, second)?;
            take(sam, 1.0, 1.0)?; // nor does a good one after it
            sam.check_gradients()
        };
        for (first, second) in [(f32::INFINITY, 1.0), (1.0, f32::NAN)] {
            let error = bad(&mut sam, first, second).unwrap_err().to_string();
            assert!(error.contains("not finite"), "{error}");
            assert!(values(&var) == before, "{first} {second}");
            assert!(held(&buffers) == before_buffers, "{first} {second}");
        }
        take(&mut sam, 1.0, 1.0).unwrap();
        sam.check_gradients().unwrap();
        assert!(values(&var) != before);
        assert_eq!(held(&buffers).0, 8);
    }

    fn cross_entropy_and_its_gradient(device: &Device) {
        let cases = [(1, 2, 0.0, DType::U8), (3, 33, 0.1, DType::I64), (128, 100, 0.1, DType::U32), (5, 1000, 0.3, DType::U32)];
        for (rows, classes, smoothing, dtype) in cases {
            let logits = (numbers(3, &[rows, classes]) * 9.0).unwrap();
            let labels: Vec<u32> = (0..rows).map(|row| (row * 37 % classes) as u32).collect();
            let factors = numbers(4, &[rows]);
            let on = |device: &Device| {
                let logits = Var::from_tensor(&logits.to_device(device).unwrap()).unwrap();
                let labels = Tensor::new(labels.clone(), device).unwrap().to_dtype(dtype).unwrap();
                let loss = smooth_cross_entropy(&logits, &labels, smoothing).unwrap();
                let weighted = (&loss * factors.to_device(device).unwrap()).unwrap().sum_all().unwrap();
                let gradient = backward(&weighted).unwrap().get(&logits).unwrap().clone();
                let plain = weighted.backward().unwrap().get(&logits).unwrap().clone();
                assert_close("loss.backward()", &plain, &gradient, 0.0);
                (loss, gradient)
            };
            let ((loss, gradient), (expected, expected_gradient)) = (on(device), on(&Device::Cpu));
            assert_close("loss", &loss, &expected, 1e-5);
            assert_close("gradient", &gradient, &expected_gradient, 1e-5);
        }
    }

    fn tallies(device: &Device) {
        let (mut meter, mut expected) = (Meter::from(Tally { images: 5, loss_sum: 0.5, top1: 1, top5: 2 }), Tally::default());
        for (rows, classes) in [(128, 100), (33, 7), (1, 5)] {
            let logits = ((numbers(rows, &[rows, classes]) * 3.0).unwrap().round().unwrap() + 0.0).unwrap(); // many are equal
            let labels: Vec<u32> = (0..rows).map(|row| (row * 31 % classes) as u32).collect();
            let (loss, labels) = (numbers(2, &[rows]), Tensor::new(labels, &Device::Cpu).unwrap());
            expected.add(&loss, &logits, &labels).unwrap();
            let [loss, logits, labels] = [loss, logits, labels].map(|tensor| tensor.to_device(device).unwrap());
            meter.add(&loss, &logits, &labels).unwrap();
        }
        for _ in 0..2 {
            let found = meter.tally().unwrap();
            assert_eq!((found.images, found.top1, found.top5), (expected.images + 5, expected.top1 + 1, expected.top5 + 2));
            assert!((found.loss_sum - expected.loss_sum - 0.5).abs() < 1e-9);
        }
    }

    /// The same bits as on the CPU.
    fn augmented_batches(device: &Device) {
        let split = Dataset::synthetic(3, 150, 0).train;
        let augmentation = Augmentation::reference(Statistics::from_split(&split).unwrap());
        let config = LoaderConfig::default().with_batch_size(64).with_seed(11);
        let loader = Loader::new(&split, augmentation, config).unwrap().with_maker(Maker::Kernel).unwrap();
        let on = |device| loader.clone().with_device(device).epoch(4).map(Result::unwrap);
        for (found, expected) in on(device).zip(on(&Device::Cpu)) {
            assert!(found.images.device().same_device(device));
            assert_close("images", &found.images, &expected.images, 0.0);
            assert_close("labels", &found.labels, &expected.labels, 0.0);
        }
    }

    /// Made where there are kernels for it, said so, and on the device in any case.
    fn batches_of_any_maker(device: &Device) {
        let split = Dataset::synthetic(3, 150, 0).train;
        let statistics = Statistics::from_split(&split).unwrap();
        let config = LoaderConfig::default().with_batch_size(64).with_seed(11);
        let reference = Augmentation::reference(statistics);
        let policy = Augmentation::from_policy(Policy::TrivialAugment, statistics);
        for (augmentation, mix, missing) in [
            (reference.clone(), None, None),
            (policy, None, Some("a policy of operations")),
            (reference, Some(Mix::mixup(0.2)), Some("mixing")),
        ] {
            let host = Loader::new(&split, augmentation, config).unwrap().with_mix(mix).unwrap();
            let loader = host.clone().with_device(device);
            let said = match (device.is_cpu(), missing) {
                (true, _) => "made by 2 threads of the CPU".into(),
                (_, None) => "made on the device".into(),
                (_, Some(what)) => {
                    format!("made by 2 threads of the CPU and copied to the device, which has no kernel for {what}")
                }
            };
            assert_eq!(loader.to_string(), said);
            let epoch = loader.epoch_from(4, 1);
            assert_eq!(epoch.len(), 2);
            for (batch, expected) in epoch.zip(host.epoch_from(4, 1)) {
                let (batch, expected) = (batch.unwrap(), expected.unwrap());
                assert!(batch.images.device().same_device(device));
                assert_close("labels", &batch.labels, &expected.labels, 0.0);
                assert_eq!(batch.mixed.is_some(), mix.is_some());
                if loader.maker() == Maker::Threads {
                    assert_close("images", &batch.images, &expected.images, 0.0);
                }
            }
            // The threads' batches can be had on every device.
            let threads = loader.with_maker(Maker::Threads).unwrap();
            for (batch, expected) in threads.epoch(4).zip(host.epoch(4)) {
                assert_close("images", &batch.unwrap().images, &expected.unwrap().images, 0.0);
            }
        }
    }

    fn convolution_and_batch_norm_on_tensors(device: &Device) {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = device {
            use wrn_sam::kernels::{Precision, cuda::Cuda};
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Tf32, 2e-3), (Precision::Bf16, 2e-2)] {
                let engine = Cuda::new(gpu, precision).unwrap();
                compare_convolutions(&engine, device, tolerance);
                compare_batch_norms(&engine, device, tolerance);
            }
            return;
        }
        compare_convolutions(Cpu::shared(), device, 1e-5);
        compare_batch_norms(Cpu::shared(), device, 1e-5);
    }

    /// Logits and gradients of the fused layers against stock operations, in training and evaluation.
    fn network_passes(device: &Device) {
        let images = numbers(7, &[3, 3, 32, 32]).to_device(device).unwrap();
        let labels = Tensor::new(&[4u32, 0, 19], device).unwrap();
        let (parameters, model) = network(device);
        let (plain_parameters, plain) = network(&Device::Cpu);
        let (cpu_images, cpu_labels) =
            (images.to_device(&Device::Cpu).unwrap(), labels.to_device(&Device::Cpu).unwrap());
        for mode in [Mode::Train, Mode::TrainFrozenStatistics, Mode::EvalWithGradients, Mode::Eval] {
            let logits = model.forward(&images, mode).unwrap();
            let expected = plain.forward_plain(&cpu_images, mode).unwrap();
            assert_close(&format!("logits, {mode:?}"), &logits, &expected, 1e-4);
            if !mode.has_gradients() {
                continue;
            }
            let found = backward(&smooth_cross_entropy(&logits, &labels, 0.1).unwrap().mean_all().unwrap()).unwrap();
            let loss = smooth_cross_entropy(&expected, &cpu_labels, 0.1).unwrap().mean_all().unwrap();
            let expected = loss.backward().unwrap();
            for (var, plain) in parameters.trainable().iter().zip(plain_parameters.trainable()) {
                assert_close("gradient", found.get(var).unwrap(), expected.get(&plain).unwrap(), 2e-3);
            }
        }
        for ((name, _, var), (_, _, plain)) in parameters.named().iter().zip(plain_parameters.named()) {
            assert_close(name, var, &plain, 1e-4);
        }
    }

    /// A step lowers the loss on its batch.
    fn steps_learn(device: &Device) {
        let (parameters, model) = network(device);
        let sgd = Sgd::named(parameters.named_trainable(), SgdConfig::new(0.05).with_momentum(0.9)).unwrap();
        let mut sam = Sam::new(sgd, SamConfig::default()).unwrap();
        let images = numbers(7, &[16, 3, 32, 32]).to_device(device).unwrap();
        let labels: Vec<u32> = (0..16).collect();
        let batch = Batch::new(images, Tensor::new(labels, device).unwrap());
        let mut losses = Vec::new();
        for _ in 0..8 {
            let loss = step(&model, &mut sam, &batch, |logits, labels| smooth_cross_entropy(logits, labels, 0.1)).unwrap().loss;
            losses.push(loss.mean_all().unwrap().to_scalar::<f32>().unwrap());
        }
        sam.check_gradients().unwrap();
        assert!(losses[7] < 0.7 * losses[0], "{losses:?}");
    }
}
