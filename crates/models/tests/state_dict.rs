//! The store of named values: seeded initialization, saving, loading, and what is refused.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use wrn_sam_models::{
    BasicUnit, BatchNorm, Error, Kind, Mode, Parameters, WideResNet, WideResNetConfig, summary,
};

const CPU: Device = Device::Cpu;

fn config(depth: usize, width_factor: usize, classes: usize) -> WideResNetConfig {
    WideResNetConfig::new(depth, width_factor).with_classes(classes)
}

fn build(seed: u64, config: &WideResNetConfig) -> (WideResNet, Parameters) {
    let parameters = Parameters::new(seed, DType::F32, &CPU);
    (WideResNet::new(config, parameters.var_builder()).unwrap(), parameters)
}

/// Every value's bytes by name.
fn bytes(parameters: &Parameters) -> Vec<(String, Vec<u8>)> {
    let state = parameters.state().unwrap();
    state.into_iter().map(|(name, tensor)| (name, safetensors::View::data(&tensor).into_owned())).collect()
}

fn write(path: &Path, state: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(state, path).unwrap();
}

#[test]
fn summary_and_store_agree() {
    for config in [config(10, 1, 10), config(16, 2, 100), config(22, 1, 3).with_in_channels(1)] {
        let (_, parameters) = build(0, &config);
        let summary = summary(&config, 2, 32).unwrap();
        assert_eq!(summary.parameters(), parameters.parameter_count() as u64);
        let all: usize = parameters.named().iter().map(|(.., var)| var.elem_count()).sum();
        assert_eq!(summary.parameters() + summary.buffers(), all as u64);
        let names: Vec<_> = parameters.named().into_iter().map(|(name, ..)| name).collect();
        for layer in summary.layers.iter().filter(|layer| layer.parameters > 0) {
            assert!(names.contains(&format!("{}.weight", layer.name)), "{}", layer.name);
        }
    }
}

#[test]
fn initialization_is_the_references() {
    let (_, parameters) = build(17, &config(16, 2, 10));
    for (name, kind, var) in parameters.named() {
        let shape = var.dims().to_vec();
        let values: Vec<f64> = var.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        let all = |value: f64| assert!(values.iter().all(|&v| v == value), "{name}");
        let last = name.rsplit('.').next().unwrap();
        match (last, shape.len()) {
            ("weight", 4) => {
                let expected = (2.0 / (shape[1] * shape[2] * shape[3]) as f64).sqrt();
                let std = (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
                let tolerance = 4.0 / (2.0 * values.len() as f64).sqrt();
                assert!((std / expected - 1.0).abs() < tolerance, "{name}: {std} for {expected}");
            }
            ("weight", 1) | ("running_var", 1) => all(1.0),
            _ => all(0.0),
        }
        let buffer = ["running_mean", "running_var", "num_batches_tracked"].contains(&last);
        assert_eq!(kind, if buffer { Kind::Buffer } else { Kind::Trainable });
        let dtype = if last == "num_batches_tracked" { DType::I64 } else { DType::F32 };
        assert_eq!(var.dtype(), dtype);
    }
}

#[test]
fn the_seed_alone_fixes_the_values() {
    let config = config(10, 1, 10);
    assert_eq!(bytes(&build(17, &config).1), bytes(&build(17, &config).1));
    assert_ne!(bytes(&build(17, &config).1), bytes(&build(18, &config).1));

    // Nor does the order of creation matter, or what else is made.
    let (a, b) = (Parameters::new(3, DType::F32, &CPU), Parameters::new(3, DType::F32, &CPU));
    BasicUnit::new(4, 0.0, a.var_builder().pp("one")).unwrap();
    BasicUnit::new(4, 0.0, a.var_builder().pp("two")).unwrap();
    BasicUnit::new(4, 0.0, b.var_builder().pp("two")).unwrap();
    BatchNorm::new(9, b.var_builder().pp("other")).unwrap();
    BasicUnit::new(4, 0.0, b.var_builder().pp("one")).unwrap();
    let b: HashMap<_, _> = bytes(&b).into_iter().collect();
    assert!(bytes(&a).iter().all(|(name, value)| b[name] == *value));
    let weights: Vec<_> = bytes(&a).into_iter().filter(|(name, _)| name.contains("convolution")).collect();
    assert!(weights.windows(2).all(|pair| pair[0].1 != pair[1].1));
}

#[test]
fn the_dtype_only_rounds_the_values() {
    let of = |dtype| {
        let parameters = Parameters::new(5, dtype, &CPU);
        BasicUnit::new(3, 0.0, parameters.var_builder()).unwrap();
        let weight = parameters.get("block.2_convolution.weight").unwrap();
        weight.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    for (exact, rounded) in of(DType::F64).into_iter().zip(of(DType::F32)) {
        assert_eq!(f64::from(exact as f32), rounded);
    }
}

#[test]
fn a_name_is_one_value() {
    let parameters = Parameters::new(5, DType::F32, &CPU);
    let vb = parameters.var_builder();
    let (a, b) = (vb.get(3, "a").unwrap(), vb.get(3, "a").unwrap());
    assert_eq!(a.id(), b.id());
    assert!(vb.contains_tensor("a") && !vb.contains_tensor("b"));
    assert_eq!(vb.get_unchecked("a").unwrap().id(), a.id());
    let error = vb.get(4, "a").unwrap_err().to_string();
    assert!(error.contains("a is F32 [3] already and cannot be F32 [4] as well"), "{error}");
    assert!(vb.get_unchecked("b").is_err());
    assert_eq!(parameters.named().len(), 1);
}

#[test]
fn every_difference_is_named_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (_, parameters) = build(17, &config(10, 1, 10));
    let (_, other) = build(18, &config(10, 1, 10));
    let mut state: HashMap<_, _> = other.state().unwrap().into_iter().collect();
    let before = bytes(&parameters);

    state.remove("f.0_convolution.weight").unwrap();
    state.remove("f.4_normalization.running_var").unwrap();
    state.insert("f.9_more.weight".into(), Tensor::zeros(3, DType::F32, &CPU).unwrap());
    state.insert("a".into(), Tensor::zeros(3, DType::F32, &CPU).unwrap());
    state.insert("f.8_classification.bias".into(), Tensor::zeros(11, DType::F32, &CPU).unwrap());
    state.insert("f.4_normalization.bias".into(), Tensor::zeros(64, DType::I64, &CPU).unwrap());
    write(&path, &state);
    let differences = "does not fit the model, so nothing was loaded: \
        2 missing (f.0_convolution.weight, f.4_normalization.running_var); 2 unexpected (a, f.9_more.weight); \
        2 of another shape or type (f.4_normalization.bias is I64 [64], not F32 [64], \
        f.8_classification.bias is F32 [11], not F32 [10])";
    let error = parameters.load(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("{} {differences}", path.display()));
    let Error::StateDict { mismatch, .. } = error else { panic!("{error}") };
    assert_eq!((mismatch.missing.len(), mismatch.unexpected.len(), mismatch.misshapen.len()), (2, 2, 2));
    let error = parameters.load_state(&state).unwrap_err();
    assert_eq!(error.to_string(), format!("the state dict {differences}"));
    assert_eq!(bytes(&parameters), before);
}

#[test]
fn broken_files_are_named_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (_, parameters) = build(17, &config(10, 1, 10));
    let before = bytes(&parameters);

    let error = parameters.load(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");

    parameters.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        for error in
            [parameters.load(&path).unwrap_err(), WideResNetConfig::from_state_dict(&path).unwrap_err()]
        {
            let error = error.to_string();
            let start = format!("{} is not a whole safetensors file (", path.display());
            assert!(error.starts_with(&start), "{error}");
        }
    }
    assert_eq!(bytes(&parameters), before);

    let missing = folder.path().join("no/model.safetensors");
    let error = parameters.save(&missing).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}: ", missing.display())), "{error}");
}

#[test]
fn saving_replaces_the_whole_file_and_leaves_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "old").unwrap();
    let (_, parameters) = build(17, &config(10, 1, 10));
    parameters.save(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    parameters.save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_state_is_a_copy_and_may_be_the_models_own() {
    let (model, parameters) = build(17, &config(10, 1, 10));
    let state: HashMap<_, _> = parameters.state().unwrap().into_iter().collect();
    let before = bytes(&parameters);
    model.forward(&Tensor::ones((2, 3, 32, 32), DType::F32, &CPU).unwrap(), Mode::Train).unwrap();
    assert_ne!(bytes(&parameters), before);
    parameters.load_state(&state).unwrap();
    assert_eq!(bytes(&parameters), before);
    let own = parameters.named().into_iter().map(|(name, _, var)| (name, var.into_inner())).collect();
    parameters.load_state(&own).unwrap();
    assert_eq!(bytes(&parameters), before);
}

#[test]
fn a_configuration_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for config in [config(10, 1, 10), config(22, 2, 7), config(16, 1, 100).with_in_channels(1)] {
        build(0, &config).1.save(&path).unwrap();
        assert_eq!(WideResNetConfig::from_state_dict(&path).unwrap(), config);
    }
    write(&path, &HashMap::from([("a".to_string(), Tensor::zeros(3, DType::F32, &CPU).unwrap())]));
    let error = WideResNetConfig::from_state_dict(&path).unwrap_err().to_string();
    assert!(error.contains("is not a WideResNet's state dict: it has no f."), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever bits the values have, NaN among them, they come back as they were.
    #[test]
    fn saving_and_loading_keeps_every_bit(
        seed: u64,
        channels in 1usize..5,
        bits in prop::collection::vec(any::<u32>(), 5),
        count: i64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let build = |seed| {
            let parameters = Parameters::new(seed, DType::F32, &CPU);
            BasicUnit::new(channels, 0.0, parameters.var_builder().pp("unit")).unwrap();
            parameters
        };
        let saved = build(seed);
        let bias = saved.get("unit.block.0_normalization.bias").unwrap();
        let values: Vec<f32> = bits[..channels].iter().map(|&bits| f32::from_bits(bits)).collect();
        bias.set(&Tensor::new(values, &CPU).unwrap()).unwrap();
        let tracked = saved.get("unit.block.3_normalization.num_batches_tracked").unwrap();
        tracked.set(&Tensor::new(count, &CPU).unwrap()).unwrap();
        saved.save(&path).unwrap();

        let loaded = build(seed.wrapping_add(1));
        prop_assert_ne!(bytes(&loaded), bytes(&saved));
        loaded.load(&path).unwrap();
        prop_assert_eq!(bytes(&loaded), bytes(&saved));
    }
}
