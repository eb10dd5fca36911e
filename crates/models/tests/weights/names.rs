//! Names: prefixes, other repositories' names, and names that do not fit.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use wrn_sam_models::{BasicUnit, Error, Mode, Parameters, WideResNet, WideResNetConfig};

use super::{CPU, bytes, config, network, refuses, renamed, state, trained, unit, write};

#[test]
fn prefixes_of_wrappers_are_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    let (_, parameters) = trained();
    let prefixes =
        ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "model.net.", "module.model._orig_mod."];
    for prefix in prefixes {
        let path = write(folder.path(), &renamed(state(&parameters), |name| format!("{prefix}{name}")));
        assert_eq!(WideResNetConfig::from_state_dict(&path).unwrap(), config());
        let (_, loaded) = network(0);
        loaded.load(&path).unwrap();
        assert_eq!(bytes(&loaded), bytes(&parameters), "{prefix}");
    }

    // Only where all names have them.
    let mut half = renamed(state(&parameters), |name| format!("module.{name}"));
    half.insert("epoch".to_string(), Tensor::new(1i64, &CPU).unwrap());
    let error = network(0).1.load(write(folder.path(), &half)).unwrap_err();
    let parts =
        ["70 missing (f.0_convolution.weight, ", " and 65 more); 84 unexpected (epoch, ", " and 79 more)"];
    refuses(error, &parts);

    // And not where they are the model's own names.
    let own = Parameters::new(1, DType::F32, &CPU);
    BasicUnit::new(4, 0.0, own.var_builder().pp("model")).unwrap();
    let other = Parameters::new(2, DType::F32, &CPU);
    BasicUnit::new(4, 0.0, other.var_builder().pp("model")).unwrap();
    own.load_state(&state(&other)).unwrap();
    assert_eq!(bytes(&own), bytes(&other));
}

#[test]
fn a_mismatch_lists_five_names_a_count_and_the_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (_, parameters) = network(0);
    let other = renamed(state(&unit()), |name| format!("encoder.{name}"));
    let error = parameters.load(write(folder.path(), &other)).unwrap_err();
    let Error::StateDict { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!((mismatch.missing.len(), mismatch.unexpected.len()), (70, 12));
    refuses(
        error,
        &[
            " and 65 more)",
            "12 unexpected (encoder.unit.block.",
            " and 7 more)",
            "begin with \"encoder.unit.block.\"",
        ],
    );
}

/// A value's name at xternalz/WideResNet-pytorch.
fn xternalz(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let value = parts.last().unwrap();
    let layer = match parts[..] {
        [_, "0_convolution", _] => "conv1".to_string(),
        [_, "4_normalization", _] => "bn1".to_string(),
        [_, "8_classification", _] => "fc".to_string(),
        [_, group, _, unit, ref inner @ .., _] => {
            let layer = match inner {
                ["norm_act", _] | ["block", "0_normalization"] => "bn1",
                ["block", "0_convolution" | "2_convolution"] => "conv1",
                ["block", "1_normalization" | "3_normalization"] => "bn2",
                ["block", "4_convolution" | "6_convolution"] => "conv2",
                ["downsample"] => "convShortcut",
                _ => panic!("{name}"),
            };
            format!("block{}.layer.{unit}.{layer}", &group[..1])
        }
        _ => panic!("{name}"),
    };
    format!("{layer}.{value}")
}

#[test]
fn the_network_of_xternalz_is_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (model, parameters) = trained();
    let images = Tensor::rand(-1f32, 1.0, (2, 3, 32, 32), &CPU).unwrap();
    let logits = |model: &WideResNet| model.forward(&images, Mode::Eval).unwrap().to_vec2::<f32>().unwrap();
    for prefix in ["", "module."] {
        let theirs = renamed(state(&parameters), |name| format!("{prefix}{}", xternalz(name)));
        assert_eq!(theirs.len(), 83);
        let path = write(folder.path(), &theirs);
        assert_eq!(WideResNetConfig::from_state_dict(&path).unwrap(), config());
        let (copy, loaded) = network(0);
        loaded.load(&path).unwrap();
        assert_eq!(bytes(&loaded), bytes(&parameters));
        assert_eq!(logits(&copy), logits(&model));
    }
}

#[test]
fn networks_that_compute_another_function_are_refused_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let state = |names: &[&str]| {
        let tensor =
            |name: &&str| (name.to_string(), Tensor::zeros((16, 3, 3, 3), DType::F32, &CPU).unwrap());
        names.iter().map(tensor).collect::<HashMap<_, _>>()
    };
    let meliketoy = [
        "conv1.weight",
        "conv1.bias",
        "layer1.0.bn1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.conv1.bias",
        "layer1.0.shortcut.0.weight",
        "layer3.0.shortcut.0.weight",
        "bn1.weight",
        "linear.weight",
    ];
    let weiaicunzai = [
        "init_conv.weight",
        "init_conv.bias",
        "conv2.0.residual.0.weight",
        "conv2.0.residual.2.weight",
        "conv2.0.residual.6.bias",
        "conv2.0.shortcut.0.weight",
        "bn.weight",
        "linear.weight",
    ];
    let width_1 = [
        "conv1.weight",
        "block1.layer.0.bn1.weight",
        "block1.layer.0.conv1.weight",
        "block2.layer.0.convShortcut.weight",
        "block3.layer.0.convShortcut.weight",
        "bn1.weight",
        "fc.weight",
    ];
    for (names, parts) in [
        (&meliketoy[..], ["meliketoy/wide-resnet.pytorch", "second convolutions have the stride"]),
        (&weiaicunzai, ["weiaicunzai/pytorch-cifar100", "no ReLU follows its last normalization"]),
        (&width_1, ["xternalz/WideResNet-pytorch", "its first unit has no projection"]),
    ] {
        for prefix in ["", "module."] {
            let path = write(folder.path(), &renamed(state(names), |name| format!("{prefix}{name}")));
            refuses(network(0).1.load(&path).unwrap_err(), &parts);
            refuses(WideResNetConfig::from_state_dict(&path).unwrap_err(), &parts);
        }
    }
}
