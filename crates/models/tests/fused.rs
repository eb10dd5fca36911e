//! The fused layers, on every device, against the same layers from stock candle operations on the CPU.

use candle_core::{DType, Device, Result, Tensor, Var};
use wrn_sam_kernels::Cpu;
use wrn_sam_models::{BasicUnit, DownsampleUnit, Mode, Parameters, Precision, WideResNet, WideResNetConfig};

const DIFFERENTIABLE: [Mode; 3] = [Mode::Train, Mode::TrainFrozenStatistics, Mode::EvalWithGradients];

/// The CPU, and with the feature `cuda` a GPU where there is one, else a printed reason.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if cfg!(feature = "cuda") {
        devices.extend(gpu().map_err(|reason| eprintln!("skipped on CUDA: {reason}")));
    }
    devices
}

#[cfg(feature = "cuda")]
fn gpu() -> std::result::Result<Device, String> {
    wrn_sam_kernels::cuda::device(0).map_err(|error| error.to_string())
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> std::result::Result<Device, String> {
    Err("built without it".to_string())
}

/// Deterministic values that look random, around zero.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let len: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..len)
        .map(|_| {
            let mut sum = 0.0;
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                sum += (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            }
            sum * 1.7
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Norm weights, biases and running statistics that are not their initial ones.
fn disturb(parameters: &Parameters) {
    for (index, (name, _, var)) in parameters.named().into_iter().enumerate() {
        if var.dtype() == DType::F32 {
            let noise = (noise(var.dims(), index as u64 + 1) * 0.2).unwrap();
            let noise = if name.ends_with("running_var") { noise.abs().unwrap() } else { noise };
            let noise = noise.to_device(var.device()).unwrap();
            var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
        }
    }
}

fn error(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let found = found.to_device(&Device::Cpu)?;
    let largest = expected.abs()?.max_all()?.to_scalar::<f32>()?;
    let difference = (found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
    Ok(difference / largest.max(1e-6))
}

/// ‖a - b‖ / ‖b‖: of a gradient, where one ReLU that turns at its kink changes a few elements by much.
fn error_of_norm(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let norm = |tensor: Tensor| tensor.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
    let difference = norm((found.to_device(&Device::Cpu)? - expected)?)?;
    Ok(difference / norm(expected.clone())?.max(1e-6))
}

/// The seed of the parameters. With it no ReLU turns on the CPU, whatever its vectors are.
const SEED: u64 = 1;

/// A module and its parameters, disturbed, on a device.
struct Built<M> {
    module: M,
    parameters: Parameters,
}

impl<M> Built<M> {
    fn new(device: &Device, build: &dyn Fn(&Parameters) -> M) -> Self {
        let parameters = Parameters::new(SEED, DType::F32, device);
        let module = build(&parameters);
        disturb(&parameters);
        Self { module, parameters }
    }

    /// Output, input gradient, parameter gradients and buffers of a pass, on the CPU.
    fn pass(
        &self,
        x: &Tensor,
        hand_over: bool,
        forward: &dyn Fn(&M, &Tensor) -> Tensor,
    ) -> Vec<(String, Tensor)> {
        let device = self.parameters.named()[0].2.device().clone();
        let x = Var::from_tensor(&x.to_device(&device).unwrap()).unwrap();
        let y = forward(&self.module, &x);
        let weights = noise(y.dims(), 99).to_device(&device).unwrap();
        let loss = (&y * weights).unwrap().sum_all().unwrap();
        let gradients = if hand_over { wrn_sam_kernels::backward(&loss) } else { loss.backward() }.unwrap();
        let mut tensors = vec![("y".to_string(), y), ("dx".to_string(), gradients.get(&x).unwrap().clone())];
        for (name, _, var) in self.parameters.named() {
            match gradients.get(&var) {
                Some(gradient) => tensors.push((format!("d {name}"), gradient.clone())),
                None => tensors.push((name, var.to_dtype(DType::F32).unwrap().copy().unwrap())),
            }
        }
        tensors
    }
}

/// The fused way on every device, with both ways to its gradients, against the plain one on the CPU, each from the same
/// start.
fn compare<M>(
    x: &Tensor,
    build: &dyn Fn(&Parameters) -> M,
    fused: &dyn Fn(&M, &Tensor, Mode) -> Tensor,
    plain: &dyn Fn(&M, &Tensor, Mode) -> Tensor,
) {
    for mode in DIFFERENTIABLE {
        let oracle = Built::new(&Device::Cpu, build);
        let expected = oracle.pass(x, false, &|module, x| plain(module, x, mode));
        for device in devices() {
            for hand_over in [false, true] {
                let built = Built::new(&device, build);
                let tensors = built.pass(x, hand_over, &|module, x| fused(module, x, mode));
                assert_eq!(tensors.len(), expected.len());
                for ((name, found), (expected_name, expected)) in tensors.iter().zip(&expected) {
                    assert_eq!(name, expected_name);
                    assert_eq!(found.shape(), expected.shape(), "{name}");
                    // Another device adds up in another order, and may turn a ReLU.
                    let (error, bound) = match &device {
                        Device::Cpu => (error(found, expected), 5e-4),
                        _ => (error_of_norm(found, expected), 1e-2),
                    };
                    let error = error.unwrap();
                    assert!(
                        error < bound,
                        "{name} on {device:?}, {mode:?}, handed over {hand_over}: {error}"
                    );
                }
            }
        }
    }
    let oracle = Built::new(&Device::Cpu, build);
    let expected = plain(&oracle.module, x, Mode::Eval);
    for device in devices() {
        let found = fused(&Built::new(&device, build).module, &x.to_device(&device).unwrap(), Mode::Eval);
        assert!(error(&found, &expected).unwrap() < 1e-4, "evaluation on {device:?}");
        assert!(!found.track_op());
    }
}

#[test]
fn basic_units_agree() {
    for (channels, size, batch, dropout) in
        [(16, 8, 3, 0.0), (3, 5, 2, 0.0), (17, 9, 1, 0.0), (32, 6, 2, 0.4), (64, 16, 8, 0.0)]
    {
        let build =
            |parameters: &Parameters| BasicUnit::new(channels, dropout, parameters.var_builder()).unwrap();
        let x = noise(&[batch, channels, size, size + 1], 5);
        compare(
            &x,
            &build,
            &|unit, x, mode| (unit.seek_dropout(3, 4), unit.forward(x, mode).unwrap()).1,
            &|unit, x, mode| (unit.seek_dropout(3, 4), unit.forward_plain(x, mode).unwrap()).1,
        );
    }
}

#[test]
fn downsample_units_agree() {
    for (inputs, outputs, stride, size, dropout) in
        [(16, 32, 2, 8, 0.0), (16, 16, 1, 6, 0.0), (3, 5, 2, 7, 0.0), (16, 48, 2, 9, 0.3)]
    {
        let build = |parameters: &Parameters| {
            DownsampleUnit::new(inputs, outputs, stride, dropout, parameters.var_builder()).unwrap()
        };
        compare(
            &noise(&[3, inputs, size, size], 6),
            &build,
            &|unit, x, mode| (unit.seek_dropout(3, 4), unit.forward(x, mode).unwrap()).1,
            &|unit, x, mode| (unit.seek_dropout(3, 4), unit.forward_plain(x, mode).unwrap()).1,
        );
    }
}

fn small() -> WideResNetConfig {
    WideResNetConfig::new(10, 1).with_classes(7)
}

#[test]
fn networks_agree() {
    for (config, batch) in [(small(), 4), (WideResNetConfig::new(16, 1).with_dropout(0.2).with_classes(7), 3)]
    {
        compare(
            &noise(&[batch, 3, 32, 32], 7),
            &|parameters| WideResNet::new(&config, parameters.var_builder()).unwrap(),
            &|model, x, mode| (model.seek_dropout(3, 4), model.forward(x, mode).unwrap()).1,
            &|model, x, mode| (model.seek_dropout(3, 4), model.forward_plain(x, mode).unwrap()).1,
        );
    }
}

#[test]
fn images_of_any_size_that_halves_twice_agree() {
    for (size, batch) in [(4, 3), (20, 2), (64, 2)] {
        compare(
            &noise(&[batch, 3, size, size], 7),
            &|parameters| WideResNet::new(&small(), parameters.var_builder()).unwrap(),
            &|model, x, mode| model.forward(x, mode).unwrap(),
            &|model, x, mode| model.forward_plain(x, mode).unwrap(),
        );
    }
}

/// What is computed in less than f32 is f32's within its rounding; and two passes give the same bits.
#[test]
fn lower_precisions_agree() {
    let gpus: Vec<Device> = devices().into_iter().filter(Device::is_cuda).collect();
    let images = noise(&[4, 3, 32, 32], 7);
    let build = |parameters: &Parameters| WideResNet::new(&small(), parameters.var_builder()).unwrap();
    let expected = Built::new(&Device::Cpu, &build).module.forward_plain(&images, Mode::Train).unwrap();
    for device in gpus {
        for (precision, bound) in [(Precision::Tf32, 1e-2), (Precision::Bf16, 5e-2)] {
            let build = |parameters: &Parameters| build(parameters).with_precision(precision).unwrap();
            let built = Built::new(&device, &build);
            let [first, second] =
                [0, 1].map(|_| built.pass(&images, true, &|model, x| model.forward(x, Mode::Train).unwrap()));
            assert!(error(&first[0].1, &expected).unwrap() < bound, "{precision}");
            for ((name, first), (_, second)) in first.iter().zip(&second) {
                let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(
                    name.contains("running") || name.contains("tracked") || values(first) == values(second),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn the_cpu_refuses_lower_precisions_and_handed_over_gradients_are_not_had_otherwise() {
    let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
    let model = WideResNet::new(&small(), parameters.var_builder()).unwrap().with_handed_over_gradients();
    let loss = model.forward(&noise(&[2, 3, 32, 32], 1), Mode::Train).unwrap().sum_all().unwrap();
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("wrn_sam_kernels::backward(&loss)"), "{error}");
    let gradients = wrn_sam_kernels::backward(&loss).unwrap();
    assert!(parameters.trainable().iter().all(|var| gradients.get(var).is_some()));
    let error = model.with_precision(Precision::Bf16).unwrap_err().to_string();
    assert_eq!(error, "a precision below f32 needs f32 parameters on a CUDA device, found F32 on Cpu");
}

#[test]
fn results_are_the_same_for_any_number_of_threads() {
    let config = small().with_dropout(0.1);
    let x = noise(&[5, 3, 32, 32], 8);
    let mut expected: Option<Vec<Vec<f32>>> = None;
    for threads in 1..=3 {
        let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
        let model = WideResNet::new(&config, parameters.var_builder()).unwrap().with_cpu(Cpu::new(threads));
        disturb(&parameters);
        let loss = model.forward(&x, Mode::Train).unwrap().sqr().unwrap().sum_all().unwrap();
        let gradients = wrn_sam_kernels::backward(&loss).unwrap();
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let found: Vec<_> =
            parameters.trainable().iter().map(|var| values(gradients.get(var).unwrap())).collect();
        assert_eq!(*expected.get_or_insert_with(|| found.clone()), found, "{threads} threads");
    }
}
