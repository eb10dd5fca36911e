//! Training parts of a network: only the gradients that are asked for, frozen values, features and replaced heads.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use wrn_sam_kernels::{backward, backward_to};
use wrn_sam_models::{Mode, Parameters, WideResNet, WideResNetConfig};

const CPU: Device = Device::Cpu;

fn config() -> WideResNetConfig {
    WideResNetConfig::new(10, 1).with_classes(7)
}

fn wave(dims: &[usize], phase: f32) -> Tensor {
    let len: usize = dims.iter().product();
    Tensor::from_vec((0..len).map(|i| (phase + 0.7 * i as f32).sin()).collect(), dims, &CPU).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A network whose values are not their first ones.
fn build() -> (WideResNet, Parameters) {
    let parameters = Parameters::new(3, DType::F32, &CPU);
    let model = WideResNet::new(&config(), parameters.var_builder()).unwrap();
    for (at, (name, _, var)) in parameters.named().into_iter().enumerate() {
        if var.dtype() == DType::F32 {
            let noise = (wave(var.dims(), at as f32) * 0.2).unwrap();
            let noise = if name.ends_with("running_var") { noise.abs().unwrap() } else { noise };
            var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
        }
    }
    (model, parameters)
}

fn loss(y: &Tensor) -> Tensor {
    (y * wave(y.dims(), 1.1)).unwrap().sum_all().unwrap()
}

/// Which values are trained.
type Chosen = fn(&str) -> bool;

const PARTS: [(&str, Chosen); 6] = [
    ("norms", |name| name.contains("norm")),
    ("convolutions", |name| name.contains("convolution") || name.contains("downsample")),
    ("the last group", |name| name.starts_with("f.3_block")),
    ("the head", |name| name.starts_with(WideResNet::CLASSIFIER)),
    ("the first layer", |name| name.starts_with("f.0_convolution")),
    ("one bias", |name| name == "f.2_block.block.0.block.1_normalization.bias"),
];

/// That exactly the gradients of `chosen` are there, each the same as in `all` to the bit.
fn check(parameters: &Parameters, all: &GradStore, found: &GradStore, chosen: Chosen, part: &str) {
    for (name, var) in parameters.named_trainable() {
        match (chosen(&name), found.get(&var)) {
            (true, Some(gradient)) => {
                assert_eq!(values(gradient), values(all.get(&var).unwrap()), "{name} of {part}");
            }
            (false, None) => {}
            (chosen, found) => panic!("{name} of {part}: chosen {chosen}, found {}", found.is_some()),
        }
    }
}

#[test]
fn the_gradients_that_are_asked_for_are_the_same_to_the_bit() {
    let (model, parameters) = build();
    let x = wave(&[3, 3, 32, 32], 0.3);
    for mode in [Mode::TrainFrozenStatistics, Mode::EvalWithGradients] {
        let loss = loss(&model.forward(&x, mode).unwrap());
        let all = backward(&loss).unwrap();
        for (part, chosen) in PARTS {
            let named = parameters.named_trainable().into_iter();
            let vars: Vec<Var> = named.filter(|(name, _)| chosen(name)).map(|(_, var)| var).collect();
            assert!(!vars.is_empty(), "{part}");
            check(&parameters, &all, &backward_to(&loss, &vars).unwrap(), chosen, part);
        }
    }
}

#[test]
fn the_gradient_of_the_input_can_be_asked_for() {
    let (model, _) = build();
    let x = Var::from_tensor(&wave(&[2, 3, 32, 32], 0.3)).unwrap();
    let loss = loss(&model.forward(&x, Mode::EvalWithGradients).unwrap());
    let expected = backward(&loss).unwrap();
    let found = backward_to(&loss, std::slice::from_ref(&x)).unwrap();
    assert_eq!(values(found.get(&x).unwrap()), values(expected.get(&x).unwrap()));
}

#[test]
fn what_is_frozen_has_no_gradient_and_changes_no_other() {
    let (model, parameters) = build();
    let x = wave(&[3, 3, 32, 32], 0.3);
    for (part, chosen) in PARTS {
        let view = parameters.with_frozen(move |name| !chosen(name));
        let frozen = WideResNet::new(&config(), view.var_builder()).unwrap();
        let named = view.named_trainable();
        assert!(!named.is_empty() && named.iter().all(|(name, _)| chosen(name)), "{part}");
        let counts = |of: &Parameters| (of.buffers().len(), of.named().len());
        assert_eq!(counts(&view), counts(&parameters));
        for mode in [Mode::TrainFrozenStatistics, Mode::EvalWithGradients] {
            let [expected, found] = [&model, &frozen].map(|model| model.forward(&x, mode).unwrap());
            assert_eq!(values(&found), values(&expected), "{part}");
            for way in [backward, Tensor::backward] {
                let [all, found] = [&expected, &found].map(|y| way(&loss(y)).unwrap());
                check(&parameters, &all, &found, chosen, part);
            }
        }
        assert!(!frozen.forward(&x, Mode::Eval).unwrap().track_op());
    }
}

#[test]
fn a_frozen_value_is_the_variable_s_and_all_frozen_is_outside_of_the_graph() {
    let (_, parameters) = build();
    let view = parameters.with_frozen(|_| true);
    let frozen = WideResNet::new(&config(), view.var_builder()).unwrap();
    let x = wave(&[2, 3, 32, 32], 0.3);
    assert!(view.trainable().is_empty());
    let before = frozen.forward(&x, Mode::EvalWithGradients).unwrap();
    assert!(!before.track_op());
    let bias = parameters.get("f.8_classification.bias").unwrap();
    bias.set(&(bias.as_tensor() + 1.0).unwrap()).unwrap();
    let moved = (frozen.forward(&x, Mode::Eval).unwrap() - before).unwrap();
    assert!(values(&moved).iter().all(|difference| (difference - 1.0).abs() < 1e-4));
}

#[test]
fn features_are_what_the_classifier_reads() {
    let (model, parameters) = build();
    let x = wave(&[3, 3, 32, 32], 0.3);
    let [weight, bias] =
        ["weight", "bias"].map(|name| parameters.get(&format!("{}.{name}", WideResNet::CLASSIFIER)).unwrap());
    for mode in [Mode::TrainFrozenStatistics, Mode::EvalWithGradients, Mode::Eval] {
        let features = model.features(&x, mode).unwrap();
        assert_eq!((features.dims(), features.track_op()), (&[3, 64][..], mode != Mode::Eval));
        let by_hand = features.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let logits = model.forward(&x, mode).unwrap();
        for (found, expected) in values(&by_hand).into_iter().zip(values(&logits)) {
            assert!((found - expected).abs() < 1e-4, "{found}, {expected}");
        }
        if mode != Mode::Eval {
            let [found, expected] = [&by_hand, &logits].map(|y| loss(y).backward().unwrap());
            for (name, var) in parameters.named_trainable() {
                let [found, expected] = [&found, &expected].map(|all| values(all.get(&var).unwrap()));
                let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() <= 1e-4 * largest, "{name}: {found}, {expected}");
                }
            }
        }
    }
}

#[test]
fn a_head_of_other_classes_takes_over_the_rest() {
    let (_, parameters) = build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    parameters.save(&path).unwrap();
    let other = Parameters::new(9, DType::F32, &CPU);
    WideResNet::new(&config().with_classes(4), other.var_builder()).unwrap();
    let first = values(&other.get("f.0_convolution.weight").unwrap());
    let error = other.load(&path).unwrap_err().to_string();
    assert!(error.contains("f.8_classification.weight is F32 [7, 64], not F32 [4, 64]"), "{error}");
    assert_eq!(values(&other.get("f.0_convolution.weight").unwrap()), first);

    other.load_only(&path, |name| !name.starts_with(WideResNet::CLASSIFIER)).unwrap();
    for (name, kind, var) in other.named() {
        if var.dtype() == DType::F32 && !name.starts_with(WideResNet::CLASSIFIER) {
            assert_eq!(values(&var), values(&parameters.get(&name).unwrap()), "{name}, {kind:?}");
        }
    }
    assert_eq!(values(&other.get("f.8_classification.weight").unwrap()), vec![0.0; 4 * 64]);

    // What the model does not have is still named.
    let unit = Parameters::new(9, DType::F32, &CPU);
    wrn_sam_models::BasicUnit::new(16, 0.0, unit.var_builder().pp("f.1_block.block.1")).unwrap();
    let error = unit.load_only(&path, |_| false).unwrap_err().to_string();
    assert!(error.contains("unexpected (f.0_convolution.weight"), "{error}");
}
