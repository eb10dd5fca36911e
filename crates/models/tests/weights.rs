//! Weights from elsewhere: every file is read right or called what it is, and nothing in one can do harm.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use wrn_sam_models::{
    BasicUnit, Error, Mode, Parameters, WideResNet, WideResNetConfig, read_metadata, save_state_dict,
};

const CPU: Device = Device::Cpu;

/// Files that tests/pth/make.py wrote with PyTorch.
fn pth(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth").join(name)
}

/// The parameters of the unit that those files are of.
fn unit() -> Parameters {
    let parameters = Parameters::new(1, DType::F32, &CPU);
    BasicUnit::new(4, 0.0, parameters.var_builder().pp("unit")).unwrap();
    parameters
}

fn config() -> WideResNetConfig {
    WideResNetConfig::new(16, 2).with_classes(10)
}

fn network(seed: u64) -> (WideResNet, Parameters) {
    let parameters = Parameters::new(seed, DType::F32, &CPU);
    (WideResNet::new(&config(), parameters.var_builder()).unwrap(), parameters)
}

/// A network whose every value differs from a new one's.
fn trained() -> (WideResNet, Parameters) {
    let (model, parameters) = network(17);
    for (place, (_, _, var)) in parameters.named().into_iter().enumerate() {
        let shift = 0.01 * (1 + place) as f64;
        let moved = match var.dtype() {
            DType::I64 => Tensor::new(5i64, &CPU).unwrap(),
            _ => var.affine(1.0, shift).unwrap().detach(),
        };
        var.set(&moved).unwrap();
    }
    (model, parameters)
}

fn state(parameters: &Parameters) -> HashMap<String, Tensor> {
    parameters.state().unwrap().into_iter().collect()
}

fn bytes(parameters: &Parameters) -> Vec<(String, Vec<u8>)> {
    let state = parameters.state().unwrap();
    state.into_iter().map(|(name, tensor)| (name, safetensors::View::data(&tensor).into_owned())).collect()
}

fn write(folder: &Path, state: &HashMap<String, Tensor>) -> PathBuf {
    let path = folder.join("model.safetensors");
    candle_core::safetensors::save(state, &path).unwrap();
    path
}

fn renamed(state: HashMap<String, Tensor>, name: impl Fn(&str) -> String) -> HashMap<String, Tensor> {
    state.into_iter().map(|(old, tensor)| (name(&old), tensor)).collect()
}

/// One line, with all these parts in it.
fn refuses(error: Error, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n') && parts.iter().all(|part| text.contains(part)), "{text}");
}

/// The values that make.py gives each file.
fn assert_is_the_units(parameters: &Parameters, counter: i64) {
    let mut number = 0;
    for (name, _, var) in parameters.named() {
        if name.ends_with("num_batches_tracked") {
            assert_eq!(var.to_scalar::<i64>().unwrap(), counter, "{name}");
            continue;
        }
        let expected = (0..var.elem_count()).map(|i| (i + 1 + number) as f32 / 8.0).collect::<Vec<_>>();
        assert_eq!(var.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected, "{name}");
        number += 1;
    }
    assert_eq!(number, 10);
}

#[test]
fn pytorch_files_are_read() {
    for name in
        ["plain.pth", "protocol4.pth", "checkpoint.pth", "parameters.pt", "f16.pth", "bf16.pth", "f64.pth"]
    {
        let parameters = unit();
        parameters.load(pth(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_is_the_units(&parameters, 7);
        assert_eq!(read_metadata(pth(name)).unwrap(), None);
    }
    let parameters = unit();
    parameters.load(pth("views.pth")).unwrap();
    assert_is_the_units(&parameters, 0);
}

#[test]
fn pytorch_files_without_a_state_dict_are_called_what_they_are() {
    let parameters = unit();
    refuses(
        parameters.load(pth("module.pth")).unwrap_err(),
        &["torch.nn.modules.batchnorm.BatchNorm2d", "\"net\""],
    );
    refuses(
        parameters.load(pth("legacy.pth")).unwrap_err(),
        &["legacy.pth is a PyTorch file", "before PyTorch 1.6"],
    );
}

/// A checksum guards every byte that matters, so that a damaged file is refused or the damage is without effect.
#[test]
fn a_damaged_pytorch_file_never_loads_wrong_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    let whole = std::fs::read(pth("plain.pth")).unwrap();
    let parameters = unit();
    let before = bytes(&parameters);
    let mut refused = 0;
    for at in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        match parameters.load(&path) {
            Ok(()) => {
                assert_is_the_units(&parameters, 7);
                parameters.load_state(&state(&unit())).unwrap();
            }
            Err(_) => refused += 1,
        }
        assert_eq!(bytes(&parameters), before, "byte {at}");
    }
    assert!(refused > whole.len() / 12, "{refused}");
    for length in (0..whole.len()).step_by(37) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = parameters.load(&path).unwrap_err().to_string();
        assert!(error.contains("empty") || error.contains("cut short"), "{length}: {error}");
    }
    assert_eq!(bytes(&parameters), before);
}

#[test]
fn files_that_are_no_weights_are_called_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let parameters = unit();
    for (content, part) in [
        (&b""[..], "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer, not the weights",
        ),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\x1f\x8b\x08\0\0\0\0\0\x02\x03", "gzip"),
        (b"Entry not found", "text that begins with \"Entry not found\""),
        (b"PK\x03\x04 and no more", "zip archive is cut short"),
        (b"\xff\xff\xff\xff\xff\0\0\0{", "header too large"),
        (b"\xff\xfe\xff\xff\xff\0\xff\0{", "neither safetensors nor a PyTorch file"),
    ] {
        std::fs::write(&path, content).unwrap();
        refuses(parameters.load(&path).unwrap_err(), &["model.safetensors", part]);
        refuses(WideResNetConfig::from_state_dict(&path).unwrap_err(), &["model.safetensors", part]);
        refuses(read_metadata(&path).unwrap_err(), &["model.safetensors", part]);
    }
    refuses(parameters.load(folder.path()).unwrap_err(), &["is a folder"]);
    refuses(parameters.load(folder.path().join("none")).unwrap_err(), &["cannot read", "none"]);
}

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

#[test]
fn float_types_are_converted_and_counters_may_be_missing() {
    let (_, parameters) = trained();
    let converted = |dtype: DType| -> HashMap<String, Tensor> {
        let convert =
            |tensor: Tensor| if tensor.dtype() == DType::I64 { Ok(tensor) } else { tensor.to_dtype(dtype) };
        state(&parameters).into_iter().map(|(name, tensor)| (name, convert(tensor).unwrap())).collect()
    };
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let (_, loaded) = network(0);
        loaded.load_state(&converted(dtype)).unwrap();
        for (name, _, var) in loaded.named().iter().filter(|(.., var)| var.dtype() == DType::F32) {
            let expected = converted(dtype)[name].to_dtype(DType::F32).unwrap();
            assert_eq!(
                safetensors::View::data(var.as_tensor()),
                safetensors::View::data(&expected),
                "{name}"
            );
        }
    }
    // An f64 model takes f32 values exactly.
    let wide = Parameters::new(0, DType::F64, &CPU);
    WideResNet::new(&config(), wide.var_builder()).unwrap();
    wide.load_state(&state(&parameters)).unwrap();
    let of = |parameters: &Parameters| {
        parameters
            .get("f.8_classification.bias")
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
    };
    assert_eq!(of(&wide), of(&parameters));

    let counter = |name: &str| name.ends_with("num_batches_tracked");
    let count = |parameters: &Parameters| {
        parameters.get("f.4_normalization.num_batches_tracked").unwrap().to_scalar::<i64>().unwrap()
    };
    let with = |tensor: Option<Tensor>| -> HashMap<String, Tensor> {
        let of = |(name, value): (String, Tensor)| {
            let value = if counter(&name) { tensor.clone()? } else { value };
            Some((name, value))
        };
        state(&parameters).into_iter().filter_map(of).collect()
    };
    let one = |dtype| Tensor::new(&[9u32], &CPU).unwrap().to_dtype(dtype).unwrap();
    let forms = [
        (None, 0),
        (Some(one(DType::I64)), 9),
        (Some(one(DType::I32).reshape(()).unwrap()), 9),
        (Some(one(DType::U8)), 9),
    ];
    for (form, expected) in forms {
        let loaded = trained().1;
        loaded.load_state(&with(form)).unwrap();
        assert_eq!(count(&loaded), expected);
    }
    for form in [one(DType::F32), Tensor::zeros(2, DType::I64, &CPU).unwrap()] {
        assert!(network(0).1.load_state(&with(Some(form))).is_err());
    }

    // Whole numbers are no weights, and a shape is a shape.
    for value in
        [Tensor::zeros(10, DType::I64, &CPU).unwrap(), Tensor::zeros((10, 1), DType::F32, &CPU).unwrap()]
    {
        let mut state = state(&parameters);
        state.insert("f.8_classification.bias".to_string(), value);
        let error = network(0).1.load_state(&state).unwrap_err();
        refuses(error, &["1 of another shape or type (f.8_classification.bias is ", ", not F32 [10])"]);
    }
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

#[test]
fn values_that_mean_nothing_are_loaded_and_found() {
    let (_, parameters) = trained();
    parameters.check_values().unwrap();
    for (name, place, value) in [
        ("f.0_convolution.weight", 3, f32::NAN),
        ("f.8_classification.bias", 9, f32::INFINITY),
        ("f.4_normalization.running_mean", 0, f32::NEG_INFINITY),
        ("f.4_normalization.running_var", 5, -1.0),
    ] {
        let mut state = state(&parameters);
        let shape = state[name].dims().to_vec();
        let mut values: Vec<f32> = state[name].flatten_all().unwrap().to_vec1().unwrap();
        values[place] = value;
        let count = values.len();
        state.insert(name.to_string(), Tensor::from_vec(values, shape, &CPU).unwrap());
        let (_, loaded) = network(0);
        loaded.load_state(&state).unwrap();
        refuses(
            loaded.check_values().unwrap_err(),
            &[name, &format!("holds {value} (1 of its {count} values")],
        );
    }
}

#[test]
fn a_text_is_saved_with_the_values_and_equal_files_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let (_, parameters) = trained();
    let text = "classes = [\"a \\\"quoted\\\" one\", \"café\"]\n";
    save_state_dict(&a, &parameters.state().unwrap(), Some(text)).unwrap();
    save_state_dict(&b, &parameters.state().unwrap(), Some(text)).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    assert_eq!(read_metadata(&a).unwrap().as_deref(), Some(text));
    let (_, loaded) = network(0);
    loaded.load(&a).unwrap();
    assert_eq!(bytes(&loaded), bytes(&parameters));
    parameters.save(&a).unwrap();
    assert_eq!(read_metadata(&a).unwrap(), None);
}
