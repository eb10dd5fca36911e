//! The residual units and batch normalization alone: shapes, gradients, modes, builders and errors.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Module, ModuleT, VarBuilder, VarMap};
use wrn_sam_models::{
    BasicUnit, BatchNorm, Conv2d, Conv2dConfig, DownsampleUnit, Error, Mode, Parameters, WideResNet,
    WideResNetConfig,
};

const CPU: Device = Device::Cpu;

/// Deterministic values without pattern in [-1, 1).
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &CPU).unwrap()
}

/// Compares every derivative of a weighted sum of the outputs with a central difference, in f64.
fn check_gradients(variables: &[(String, Var)], output: impl Fn() -> Tensor) {
    let weights = noise(output().dims(), 99);
    let value = || (output() * &weights).unwrap().sum_all().unwrap();
    let grads = value().backward().unwrap();
    let step = 1e-6;
    for (name, var) in variables {
        let (analytic, original) = (flat(grads.get(var).unwrap()), flat(var));
        let at = |index: usize, delta: f64| {
            let mut moved = original.clone();
            moved[index] += delta;
            var.set(&Tensor::from_vec(moved, var.dims(), &CPU).unwrap()).unwrap();
            value().to_scalar::<f64>().unwrap()
        };
        for (index, analytic) in analytic.iter().enumerate() {
            let numeric = (at(index, step) - at(index, -step)) / (2.0 * step);
            at(index, 0.0);
            let error = (numeric - analytic).abs() / numeric.abs().max(1.0);
            assert!(error < 1e-5, "{name}[{index}]: {analytic} instead of {numeric}");
        }
    }
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// All trainable values, moved off their first ones so that nothing is symmetric, and the input.
fn variables(parameters: &Parameters, x: &Var) -> Vec<(String, Var)> {
    let mut variables = vec![("x".to_string(), x.clone())];
    for (seed, (name, kind, var)) in parameters.named().into_iter().enumerate() {
        if kind == wrn_sam_models::Kind::Trainable {
            var.set(&(var.as_tensor() + noise(var.dims(), seed as u64) * 0.3).unwrap()).unwrap();
            variables.push((name, var));
        }
    }
    variables
}

#[test]
fn gradients_of_the_basic_unit() {
    let parameters = Parameters::new(1, DType::F64, &CPU);
    let unit = BasicUnit::new(2, 0.0, parameters.var_builder()).unwrap();
    let x = Var::from_tensor(&noise(&[2, 2, 4, 4], 5)).unwrap();
    let variables = variables(&parameters, &x);
    for mode in [Mode::Train, Mode::TrainFrozenStatistics, Mode::EvalWithGradients] {
        unit.forward_plain(&x, Mode::Train).unwrap(); // so that evaluation's statistics are not the first ones
        check_gradients(&variables, || unit.forward_plain(&x, mode).unwrap());
    }
}

#[test]
fn gradients_of_the_downsample_unit() {
    for stride in [1, 2] {
        let parameters = Parameters::new(2, DType::F64, &CPU);
        let unit = DownsampleUnit::new(2, 3, stride, 0.0, parameters.var_builder()).unwrap();
        let x = Var::from_tensor(&noise(&[2, 2, 4, 4], 6)).unwrap();
        let variables = variables(&parameters, &x);
        check_gradients(&variables, || unit.forward_plain(&x, Mode::TrainFrozenStatistics).unwrap());
    }
}

#[test]
fn gradients_through_dropout_use_the_mask_of_the_pass() {
    let parameters = Parameters::new(3, DType::F64, &CPU);
    let unit = BasicUnit::new(2, 0.4, parameters.var_builder()).unwrap();
    let x = Var::from_tensor(&noise(&[2, 2, 4, 4], 7)).unwrap();
    let variables = variables(&parameters, &x);
    check_gradients(&variables, || {
        unit.seek_dropout(17, 3);
        unit.forward_plain(&x, Mode::TrainFrozenStatistics).unwrap()
    });
}

#[test]
fn batch_norm_normalizes_tracks_and_evaluates() {
    let parameters = Parameters::new(1, DType::F64, &CPU);
    let norm = BatchNorm::new(3, parameters.var_builder()).unwrap();
    let scalar = |name: &str| parameters.get(name).unwrap().to_scalar::<i64>().unwrap();
    let vector = |name: &str| parameters.get(name).unwrap().to_vec1::<f64>().unwrap();
    let x = ((noise(&[4, 3, 5, 5], 8) * 2.0).unwrap() + 1.0).unwrap();
    let per_channel = x.transpose(0, 1).unwrap().flatten_from(1).unwrap().to_vec2::<f64>().unwrap();

    let y = norm.forward(&x, Mode::Train).unwrap();
    let normalized = y.transpose(0, 1).unwrap().flatten_from(1).unwrap().to_vec2::<f64>().unwrap();
    for (channel, (values, normalized)) in per_channel.iter().zip(&normalized).enumerate() {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        for (value, normalized) in values.iter().zip(normalized) {
            assert!((normalized - (value - mean) / (variance + 1e-5).sqrt()).abs() < 1e-12);
        }
        assert!((vector("running_mean")[channel] - 0.1 * mean).abs() < 1e-12);
        assert!((vector("running_var")[channel] - (0.9 + 0.1 * variance * n / (n - 1.0))).abs() < 1e-12);
    }
    assert_eq!(scalar("num_batches_tracked"), 1);

    let (mean, var) = (vector("running_mean"), vector("running_var"));
    let frozen = norm.forward(&x, Mode::TrainFrozenStatistics).unwrap();
    assert_eq!(flat(&frozen), flat(&y));
    assert_eq!((vector("running_mean"), vector("running_var")), (mean.clone(), var.clone()));
    assert_eq!(scalar("num_batches_tracked"), 2);

    let eval = norm.forward(&x, Mode::Eval).unwrap().transpose(0, 1).unwrap().flatten_from(1).unwrap();
    for (channel, values) in eval.to_vec2::<f64>().unwrap().iter().enumerate() {
        for (value, x) in values.iter().zip(&per_channel[channel]) {
            assert!((value - (x - mean[channel]) / (var[channel] + 1e-5).sqrt()).abs() < 1e-12);
        }
    }
    assert_eq!(scalar("num_batches_tracked"), 2);
    assert_eq!(vector("running_mean"), mean);
}

#[test]
fn no_gradient_flows_into_the_running_statistics() {
    let parameters = Parameters::new(1, DType::F32, &CPU);
    let norm = BatchNorm::new(2, parameters.var_builder()).unwrap();
    let x = noise(&[2, 2, 3, 3], 1).to_dtype(DType::F32).unwrap();
    for mode in [Mode::Train, Mode::EvalWithGradients] {
        let grads = norm.forward(&x, mode).unwrap().sum_all().unwrap().backward().unwrap();
        for name in ["running_mean", "running_var", "num_batches_tracked"] {
            assert!(grads.get(&parameters.get(name).unwrap()).is_none(), "{name}");
        }
        assert!(grads.get(&parameters.get("weight").unwrap()).is_some());
    }
}

#[test]
fn every_unit_can_be_built_from_candles_var_map() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &CPU);
    let x = noise(&[2, 4, 6, 6], 1).to_dtype(DType::F32).unwrap();
    let basic = BasicUnit::new(4, 0.0, vb.pp("basic")).unwrap();
    assert_eq!(basic.forward(&x, Mode::Train).unwrap().dims(), [2, 4, 6, 6]);
    let same = DownsampleUnit::new(4, 5, 1, 0.0, vb.pp("same")).unwrap();
    assert_eq!(same.forward(&x, Mode::Train).unwrap().dims(), [2, 5, 6, 6]);
    let half = DownsampleUnit::new(4, 5, 2, 0.0, vb.pp("half")).unwrap();
    assert_eq!(half.forward(&x, Mode::Eval).unwrap().dims(), [2, 5, 3, 3]);
    assert_eq!(map.all_vars().len(), 12 + 13 + 13);

    // The running statistics are the map's own variables, so that the map saves them.
    let data = map.data().lock().unwrap();
    let mean = data["basic.block.0_normalization.running_mean"].to_vec1::<f32>().unwrap();
    assert!(mean.iter().any(|&m| m != 0.0));
    assert_eq!(data["half.norm_act.0_normalization.num_batches_tracked"].to_scalar::<i64>().unwrap(), 0);
}

#[test]
fn a_model_runs_from_plain_tensors() {
    let config = WideResNetConfig::new(10, 1).with_classes(7).with_in_channels(1);
    let parameters = Parameters::new(4, DType::F32, &CPU);
    let model = WideResNet::new(&config, parameters.var_builder()).unwrap();
    let weight = parameters.get("f.8_classification.weight").unwrap();
    weight.set(&noise(weight.dims(), 3).to_dtype(DType::F32).unwrap()).unwrap();
    let tensors: HashMap<_, _> = parameters.state().unwrap().into_iter().collect();
    let mapped = WideResNet::new(&config, VarBuilder::from_tensors(tensors, DType::F32, &CPU)).unwrap();
    let x = noise(&[2, 1, 32, 32], 1).to_dtype(DType::F32).unwrap();
    for mode in [Mode::Eval, Mode::Train, Mode::Eval] {
        let (a, b) = (model.forward(&x, mode).unwrap(), mapped.forward(&x, mode).unwrap());
        assert_eq!(a.to_vec2::<f32>().unwrap(), b.to_vec2::<f32>().unwrap());
        assert!(a.to_vec2::<f32>().unwrap().concat().iter().any(|&v| v != 0.0));
    }
}

#[test]
fn f16_runs_and_resembles_f32() {
    let config = WideResNetConfig::new(10, 1).with_classes(5);
    let logits = |dtype| {
        let parameters = Parameters::new(4, dtype, &CPU);
        let model = WideResNet::new(&config, parameters.var_builder()).unwrap();
        let weight = parameters.get("f.8_classification.weight").unwrap();
        weight.set(&noise(weight.dims(), 3).to_dtype(dtype).unwrap()).unwrap();
        let x = noise(&[2, 3, 32, 32], 1).to_dtype(dtype).unwrap();
        let logits = model.forward_plain(&x, Mode::Train).unwrap();
        assert_eq!(logits.dtype(), dtype);
        logits.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap().concat()
    };
    // bf16 needs a GPU: candle has no bf16 product on the CPU.
    for (a, b) in logits(DType::F16).iter().zip(logits(DType::F32)) {
        assert!((a - b).abs() < 0.02, "{a} instead of {b}");
    }
}

#[test]
fn dropout_of_a_model_depends_on_seed_and_pass() {
    let config = WideResNetConfig::new(10, 1).with_dropout(0.3).with_classes(5);
    let parameters = Parameters::new(4, DType::F32, &CPU);
    let model = WideResNet::new(&config, parameters.var_builder()).unwrap();
    let weight = parameters.get("f.8_classification.weight").unwrap();
    weight.set(&noise(weight.dims(), 3).to_dtype(DType::F32).unwrap()).unwrap();
    let x = noise(&[2, 3, 32, 32], 1).to_dtype(DType::F32).unwrap();
    let run = || model.forward(&x, Mode::TrainFrozenStatistics).unwrap().to_vec2::<f32>().unwrap();
    model.seek_dropout(17, 0);
    let passes = [run(), run(), run()];
    assert_ne!(passes[0], passes[1]);
    model.seek_dropout(17, 2);
    assert_eq!(run(), passes[2]);
    model.seek_dropout(18, 2);
    assert_ne!(run(), passes[2]);
}

#[test]
fn wrong_inputs_are_named() {
    let config = WideResNetConfig::new(10, 1).with_classes(5);
    let parameters = Parameters::new(4, DType::F32, &CPU);
    let model = WideResNet::new(&config, parameters.var_builder()).unwrap();
    for shape in [
        &[2, 3, 30, 30][..],
        &[2, 3, 32, 64],
        &[2, 3, 0, 0],
        &[2, 1, 32, 32],
        &[3, 32, 32],
        &[0, 3, 32, 32],
        &[1, 2, 3, 32, 32],
        &[],
    ] {
        let x = Tensor::zeros(shape, DType::F32, &CPU).unwrap();
        let error = model.forward(&x, Mode::Eval).unwrap_err().to_string();
        let expected =
            "WideResNet takes an input of shape [N, 3, S, S] with N at least 1 and S a multiple of 4, found";
        assert_eq!(error, format!("{expected} {shape:?}"));
    }
    let x = Tensor::zeros((1, 3, 32, 32), DType::F64, &CPU).unwrap();
    let error = model.forward(&x, Mode::Eval).unwrap_err().to_string();
    assert_eq!(error, "WideResNet has F32 parameters, but its input is F64: convert it with to_dtype");

    let norm = BatchNorm::new(2, parameters.var_builder().pp("norm")).unwrap();
    let one = Tensor::zeros((1, 2, 1, 1), DType::F32, &CPU).unwrap();
    assert!(norm.forward(&one, Mode::Eval).is_ok());
    let error = norm.forward(&one, Mode::Train).unwrap_err();
    assert!(matches!(&error, Error::TooFewValues { layer, .. } if layer == "norm"), "{error}");
    let error =
        norm.forward(&Tensor::zeros((1, 3, 4, 4), DType::F32, &CPU).unwrap(), Mode::Train).unwrap_err();
    assert_eq!(
        error.to_string(),
        "norm takes an input of shape [N, 2, H, W] with nothing empty, found [1, 3, 4, 4]"
    );

    let vb = parameters.var_builder().pp("unit");
    assert!(BasicUnit::new(2, 1.0, vb.clone()).is_err());
    let error = DownsampleUnit::new(2, 2, 0, 0.0, vb).unwrap_err().to_string();
    assert_eq!(error, "stride = 0: must be at least 1");
}

#[test]
fn wrong_configurations_are_named() {
    let base = WideResNetConfig::default;
    let cases = [
        (
            WideResNetConfig::new(33, 10),
            "depth = 33: must be 6n + 4 and at least 10; the nearest are 28 and 34",
        ),
        (WideResNetConfig::new(4, 10), "depth = 4: must be 6n + 4 and at least 10; the smallest is 10"),
        (WideResNetConfig::new(0, 10), "depth = 0: must be 6n + 4 and at least 10; the smallest is 10"),
        (WideResNetConfig::new(34, 0), "width_factor = 0: must be between 1 and 65536"),
        (base().with_dropout(1.0), "dropout = 1: must be a probability in [0, 1)"),
        (base().with_dropout(f64::NAN), "dropout = NaN: must be a probability in [0, 1)"),
        (base().with_in_channels(0), "in_channels = 0: must be between 1 and 65536"),
        (base().with_classes(0), "classes = 0: must be between 1 and 65536"),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
        let parameters = Parameters::new(0, DType::F32, &CPU);
        assert!(WideResNet::new(&config, parameters.var_builder()).is_err());
        assert!(parameters.named().is_empty());
    }
    for depth in [usize::MAX, usize::MAX - 11] {
        assert!(WideResNetConfig::new(depth, 10).validate().is_err());
    }
    base().validate().unwrap();
}

#[test]
fn a_network_of_modules_trains_and_evaluates() {
    let parameters = Parameters::new(5, DType::F32, &CPU);
    let vb = parameters.var_builder();
    let convolution = Conv2d::new(3, 4, 3, 2, vb.pp("conv")).unwrap().with_padding(0);
    let norm = BatchNorm::new(4, vb.pp("norm")).unwrap();
    let unit = BasicUnit::new(4, 0.0, vb.pp("unit")).unwrap();
    let down = DownsampleUnit::new(4, 6, 2, 0.0, vb.pp("down")).unwrap();
    let x = Var::from_tensor(&noise(&[2, 3, 9, 9], 3).to_dtype(DType::F32).unwrap()).unwrap();
    let forward = |train: bool| {
        let y = Module::forward(&convolution, &x)?;
        let y = unit.forward_t(&norm.forward_t(&y, train)?, train)?;
        down.forward_t(&y, train)
    };
    let gradients = forward(true).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for var in parameters.trainable().iter().chain([&x]) {
        assert!(gradients.get(var).is_some());
    }
    let counts = || {
        parameters.get("down.block.1_normalization.num_batches_tracked").unwrap().to_scalar::<i64>().unwrap()
    };
    assert_eq!(counts(), 1);
    assert_eq!(forward(false).unwrap().dims(), [2, 6, 2, 2]);
    assert_eq!(counts(), 1);
}

#[test]
fn a_convolution_is_candles() {
    for (kernel, stride, padding) in [(1, 1, 0), (3, 1, 1), (3, 2, 1), (5, 3, 0), (2, 2, 1)] {
        let parameters = Parameters::new(6, DType::F32, &CPU);
        let convolution =
            Conv2d::new(3, 5, kernel, stride, parameters.var_builder()).unwrap().with_padding(padding);
        let weight = parameters.get("weight").unwrap();
        let x = noise(&[2, 3, 8, 7], 4).to_dtype(DType::F32).unwrap();
        let expected = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
        let y = convolution.forward(&x).unwrap();
        assert_eq!(y.dims(), expected.dims());
        let error = (y - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 1e-5, "{error}");
    }
    for (groups, dilation, stride) in [(2, 1, 1), (4, 2, 1), (1, 3, 2)] {
        let parameters = Parameters::new(6, DType::F32, &CPU);
        let (vb, config) = (parameters.var_builder(), Conv2dConfig::new(stride, 2));
        let config = config.with_groups(groups).with_dilation(dilation);
        let convolution = Conv2d::from_config(4, 8, 3, config, vb.clone()).unwrap().with_bias(vb).unwrap();
        let [weight, bias] = ["weight", "bias"].map(|name| parameters.get(name).unwrap());
        bias.set(&noise(&[8], 3).to_dtype(DType::F32).unwrap()).unwrap();
        let x = Var::from_tensor(&noise(&[2, 4, 9, 7], 4).to_dtype(DType::F32).unwrap()).unwrap();
        let expected = x.conv2d(&weight, 2, stride, dilation, groups).unwrap();
        let expected = expected.broadcast_add(&bias.reshape((1, 8, 1, 1)).unwrap()).unwrap();
        let y = convolution.forward(&x).unwrap();
        let [found_gradients, gradients] =
            [&y, &expected].map(|y| y.sqr().unwrap().sum_all().unwrap().backward().unwrap());
        let mut pairs = vec![(y, expected)];
        for var in [&x, &weight, &bias] {
            pairs.push((found_gradients.get(var).unwrap().clone(), gradients.get(var).unwrap().clone()));
        }
        for (found, expected) in pairs {
            let max = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(found.dims(), expected.dims());
            assert!(max(&(found - &expected).unwrap()) < 1e-5 * max(&expected));
        }
    }
    let vb = Parameters::new(6, DType::F32, &CPU).var_builder();
    let groups = Conv2d::from_config(4, 6, 3, Conv2dConfig::new(1, 1).with_groups(4), vb.pp("g"));
    let error = groups.unwrap_err().to_string();
    assert_eq!(error, "groups = 4: must be a divisor of both numbers of channels");
    let error = Conv2d::new(3, 5, 3, 0, vb.pp("a")).unwrap_err().to_string();
    assert_eq!(error, "stride = 0: must be at least 1");
    let error = Conv2d::new(3, 5, 0, 1, vb.pp("b")).unwrap_err().to_string();
    assert_eq!(error, "kernel = 0: must be at least 1");
    let convolution = Conv2d::new(3, 5, 3, 1, vb.pp("c")).unwrap();
    let error = convolution.forward(&Tensor::zeros((1, 4, 8, 8), DType::F32, &CPU).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c takes an input of shape [N, 3, H, W] with nothing empty, found [1, 4, 8, 8]"
    );
}

#[test]
fn the_batch_norms_of_f32_are_that_of_f64() {
    let x = noise(&[3, 4, 5, 5], 9);
    let norm = |dtype| BatchNorm::new(4, Parameters::new(1, dtype, &CPU).var_builder()).unwrap();
    let (oracle, plain, relu) = (norm(DType::F64), norm(DType::F32), norm(DType::F32));
    let single = x.to_dtype(DType::F32).unwrap();
    for mode in [Mode::Train, Mode::TrainFrozenStatistics, Mode::Eval] {
        let expected = oracle.forward(&x, mode).unwrap();
        for (found, expected) in [
            (plain.forward(&single, mode).unwrap(), expected.clone()),
            (relu.forward_relu(&single, mode).unwrap(), expected.relu().unwrap()),
        ] {
            let difference = (found.to_dtype(DType::F64).unwrap() - expected).unwrap().abs().unwrap();
            let error = difference.max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 1e-5, "{error} in {mode:?}");
        }
    }
}

#[test]
fn a_pass_that_is_refused_changes_nothing() {
    // The first norm has four values per channel, the second only one.
    let parameters = Parameters::new(1, DType::F32, &CPU);
    let unit = DownsampleUnit::new(2, 3, 2, 0.5, parameters.var_builder()).unwrap();
    let x = noise(&[1, 2, 2, 2], 1).to_dtype(DType::F32).unwrap();
    let state = || -> Vec<Vec<f64>> {
        let values = parameters.state().unwrap().into_iter();
        values.map(|(_, value)| flat(&value.to_dtype(DType::F64).unwrap())).collect()
    };
    unit.seek_dropout(17, 4);
    let before = state();
    for forward in [DownsampleUnit::forward, DownsampleUnit::forward_plain] {
        let error = forward(&unit, &x, Mode::Train).unwrap_err();
        assert!(
            matches!(&error, Error::TooFewValues { layer, .. } if layer == "block.1_normalization"),
            "{error}"
        );
        assert_eq!((state(), unit.dropout_position().1), (before.clone(), 4));
    }
    assert!(unit.forward(&x, Mode::Eval).is_ok());
    assert_eq!(unit.dropout_position().1, 4);
}

#[test]
fn a_clone_shares_values_and_passes() {
    let parameters = Parameters::new(4, DType::F32, &CPU);
    let unit = BasicUnit::new(3, 0.3, parameters.var_builder()).unwrap();
    let clone = unit.clone();
    let x = noise(&[2, 3, 4, 4], 2).to_dtype(DType::F32).unwrap();
    unit.forward(&x, Mode::Train).unwrap();
    assert_eq!(clone.dropout_position().1, 1);
    let values =
        |unit: &BasicUnit| flat(&unit.forward(&x, Mode::Eval).unwrap().to_dtype(DType::F64).unwrap());
    assert_eq!(values(&unit), values(&clone));
}
