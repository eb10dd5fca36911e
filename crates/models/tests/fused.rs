//! The fused layers against the same layers from stock candle operations.

use candle_core::{DType, Device, Result, Tensor, Var};
use wrn_sam_kernels::Context;
use wrn_sam_models::{BasicUnit, DownsampleUnit, Mode, Parameters, WideResNet, WideResNetConfig};

const TRAINING: [Mode; 2] = [Mode::Train, Mode::TrainFrozenStatistics];

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
            var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
        }
    }
}

fn error(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let largest = expected.abs()?.max_all()?.to_scalar::<f32>()?;
    let difference = (found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
    Ok(difference / largest.max(1e-6))
}

/// Output, input gradient, parameter gradients and buffers of both ways, from the same start.
fn compare(
    parameters: &Parameters,
    x: &Var,
    mode: Mode,
    fused: &dyn Fn(&Tensor) -> wrn_sam_models::Result<Tensor>,
    plain: &dyn Fn(&Tensor) -> wrn_sam_models::Result<Tensor>,
) {
    let start = parameters.state().unwrap().into_iter().collect();
    let mut results = Vec::new();
    for (way, forward) in [("plain", plain), ("fused", fused), ("handed over", fused)] {
        parameters.load_state(&start).unwrap();
        let y = forward(x).unwrap();
        let loss = (&y * noise(y.dims(), 99)).unwrap().sum_all().unwrap();
        let gradients =
            if way == "handed over" { wrn_sam_kernels::backward(&loss) } else { loss.backward() }.unwrap();
        let mut tensors = vec![("y".to_string(), y), ("dx".to_string(), gradients.get(x).unwrap().clone())];
        for (name, _, var) in parameters.named() {
            match gradients.get(&var) {
                Some(gradient) => tensors.push((format!("d {name}"), gradient.clone())),
                None => tensors.push((name, var.to_dtype(DType::F32).unwrap().copy().unwrap())),
            }
        }
        results.push((way, tensors));
    }
    let expected = results.remove(0).1;
    for (way, tensors) in results {
        assert_eq!(tensors.len(), expected.len());
        for ((name, found), (expected_name, expected)) in tensors.iter().zip(&expected) {
            assert_eq!(name, expected_name);
            assert_eq!(found.shape(), expected.shape(), "{name}");
            let error = error(found, expected).unwrap();
            assert!(error < 5e-4, "{name} {way} {mode:?}: {error}");
        }
    }
}

#[test]
fn basic_units_agree() {
    for (channels, size, batch, dropout) in
        [(16, 8, 3, 0.0), (3, 5, 2, 0.0), (17, 9, 1, 0.0), (32, 6, 2, 0.4), (64, 16, 8, 0.0)]
    {
        let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
        let unit = BasicUnit::new(channels, dropout, parameters.var_builder()).unwrap();
        disturb(&parameters);
        let x = Var::from_tensor(&noise(&[batch, channels, size, size + 1], 5)).unwrap();
        for mode in TRAINING {
            let fused = |x: &Tensor| (unit.seek_dropout(3, 4), unit.forward(x, mode)).1;
            let plain = |x: &Tensor| (unit.seek_dropout(3, 4), unit.forward_plain(x, mode)).1;
            compare(&parameters, &x, mode, &fused, &plain);
        }
        let (fused, plain) =
            (unit.forward(&x, Mode::Eval).unwrap(), unit.forward_plain(&x, Mode::Eval).unwrap());
        assert!(error(&fused, &plain).unwrap() < 1e-5);
        assert!(!fused.track_op());
    }
}

#[test]
fn downsample_units_agree() {
    for (inputs, outputs, stride, size, dropout) in
        [(16, 32, 2, 8, 0.0), (16, 16, 1, 6, 0.0), (3, 5, 2, 7, 0.0), (16, 48, 2, 9, 0.3)]
    {
        let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
        let unit = DownsampleUnit::new(inputs, outputs, stride, dropout, parameters.var_builder()).unwrap();
        disturb(&parameters);
        let x = Var::from_tensor(&noise(&[3, inputs, size, size], 6)).unwrap();
        for mode in TRAINING {
            let fused = |x: &Tensor| (unit.seek_dropout(3, 4), unit.forward(x, mode)).1;
            let plain = |x: &Tensor| (unit.seek_dropout(3, 4), unit.forward_plain(x, mode)).1;
            compare(&parameters, &x, mode, &fused, &plain);
        }
        let (fused, plain) =
            (unit.forward(&x, Mode::Eval).unwrap(), unit.forward_plain(&x, Mode::Eval).unwrap());
        assert!(error(&fused, &plain).unwrap() < 1e-5);
    }
}

fn small() -> WideResNetConfig {
    WideResNetConfig { depth: 10, width_factor: 1, dropout: 0.0, in_channels: 3, labels: 7 }
}

#[test]
fn networks_agree() {
    for (config, batch) in [(small(), 4), (WideResNetConfig { depth: 16, dropout: 0.2, ..small() }, 3)] {
        let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
        let model = WideResNet::new(&config, parameters.var_builder()).unwrap();
        disturb(&parameters);
        let x = Var::from_tensor(&noise(&[batch, 3, 32, 32], 7)).unwrap();
        for mode in TRAINING {
            let fused = |x: &Tensor| (model.seek_dropout(3, 4), model.forward(x, mode)).1;
            let plain = |x: &Tensor| (model.seek_dropout(3, 4), model.forward_plain(x, mode)).1;
            compare(&parameters, &x, mode, &fused, &plain);
        }
        let (fused, plain) =
            (model.forward(&x, Mode::Eval).unwrap(), model.forward_plain(&x, Mode::Eval).unwrap());
        assert!(error(&fused, &plain).unwrap() < 1e-5);
    }
}

#[test]
fn results_are_the_same_for_any_number_of_threads() {
    let config = WideResNetConfig { dropout: 0.1, ..small() };
    let x = noise(&[5, 3, 32, 32], 8);
    let mut expected: Option<Vec<Vec<f32>>> = None;
    for threads in 1..=3 {
        let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
        let model =
            WideResNet::new(&config, parameters.var_builder()).unwrap().with_context(Context::new(threads));
        disturb(&parameters);
        let loss = model.forward(&x, Mode::Train).unwrap().sqr().unwrap().sum_all().unwrap();
        let gradients = wrn_sam_kernels::backward(&loss).unwrap();
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let found: Vec<_> =
            parameters.trainable().iter().map(|var| values(gradients.get(var).unwrap())).collect();
        assert_eq!(*expected.get_or_insert_with(|| found.clone()), found, "{threads} threads");
    }
}
