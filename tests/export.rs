//! The program `export`: what ONNX Runtime and PyTorch compute from its files, where Python has them, is what the network
//! computes here.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Ended, example, root};
use wrn_sam::candle::{DType, Device, Tensor};
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig, save_state_dict};

/// Runs a Python program in a folder; false, and a printed reason, where Python lacks one of the modules.
#[track_caller]
fn python(modules: &str, program: &str, folder: &Path) -> bool {
    let run = |program: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", program]).current_dir(folder).env("PYTHONPATH", root().join("tools"));
        command.env("PYTHONDONTWRITEBYTECODE", "1").output()
    };
    if !run(&format!("import {modules}")).is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 does not have {modules}");
        return false;
    }
    let output = run(program).expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// Little-endian `f32` in a file.
fn write(path: &Path, tensor: &Tensor) {
    let values = tensor.flatten_all().and_then(|values| values.to_vec1::<f32>()).expect("f32");
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    std::fs::write(path, bytes).expect("a temporary file");
}

/// A network that tells images apart, its files in the folder, and its logits of images of two sizes.
fn exported(folder: &Path) -> String {
    let config = WideResNetConfig::new(16, 2).with_classes(10);
    let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
    let model = WideResNet::new(&config, parameters.var_builder()).expect("a network");
    for (at, (name, _, var)) in parameters.named().into_iter().enumerate() {
        if var.dtype() == DType::F32 && !name.contains("convolution") && !name.contains("downsample") {
            let wave = |i: usize| (at as f32 + 0.7 * i as f32).sin() * 0.3;
            let noise = Tensor::from_vec((0..var.elem_count()).map(wave).collect(), var.dims(), &Device::Cpu);
            let moved = (var.as_tensor() + noise.expect("noise")).expect("a sum");
            var.set(&moved).expect("its shape");
        }
    }
    let weights = folder.join("model.safetensors");
    save_state_dict(&weights, &parameters.state().expect("a state"), Some("trained on waves"))
        .expect("saved");
    for size in [32, 48] {
        let values = (0..3 * 3 * size * size).map(|i| (0.37 * i as f32).sin() * 2.0).collect();
        let images = Tensor::from_vec(values, (3, 3, size, size), &Device::Cpu).expect("images");
        write(&folder.join(format!("images{size}")), &images);
        write(&folder.join(format!("logits{size}")), &model.forward(&images, Mode::Eval).expect("logits"));
    }
    let mut command = example("export");
    command.arg(&weights).arg("--onnx").arg(folder.join("model.onnx"));
    Ended::of(command.arg("--pytorch").arg(folder.join("model.pth"))).succeeds().stdout
}

/// Python: `check(answer)` compares what `answer` makes of the images of each size.
const CHECK: &str = r#"
import numpy as np
def check(answer):
    for size in (32, 48):
        images = np.fromfile(f"images{size}", np.float32).reshape(3, 3, size, size)
        expected = np.fromfile(f"logits{size}", np.float32).reshape(3, 10)
        assert np.ptp(expected) > 1, "logits that say nothing"
        error = np.abs(answer(images) - expected).max() / np.abs(expected).max()
        assert error < 1e-4, f"{size}: {error}"
"#;

#[test]
fn onnx_runtime_computes_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    exported(folder.path());
    let program = r#"
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
assert session.get_modelmeta().custom_metadata_map == {"wrn_sam": "trained on waves"}
assert [i.shape for i in session.get_inputs()] == [["batch", 3, "height", "width"]]
assert [o.shape for o in session.get_outputs()] == [["batch", 10]]
check(lambda images: session.run(["logits"], {"images": images})[0])
"#;
    python("numpy, onnxruntime", &format!("{CHECK}{program}"), folder.path());
}

#[test]
fn the_onnx_model_is_valid() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    exported(folder.path());
    let program = "import onnx; onnx.checker.check_model(\"model.onnx\", full_check=True)";
    python("onnx", program, folder.path());
}

#[test]
fn the_printed_lines_load_the_state_dict_into_pytorch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stdout = exported(folder.path());
    let snippet: String = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .fold(String::new(), |all, line| all + line + "\n");
    assert_eq!(snippet.lines().count(), 5, "{stdout}");
    let program = "
with torch.no_grad():
    check(lambda images: model(torch.from_numpy(images)).numpy())
";
    python("numpy, torch", &format!("{CHECK}{snippet}{program}"), folder.path());
}

#[test]
fn a_state_dict_comes_back_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    exported(folder.path());
    let read = |name: &str| {
        let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
        let config = WideResNetConfig::from_state_dict(folder.path().join(name)).expect("a network");
        WideResNet::new(&config, parameters.var_builder()).expect("a network");
        parameters.load(folder.path().join(name)).expect("loaded");
        parameters.save(folder.path().join("again.safetensors")).expect("saved");
        std::fs::read(folder.path().join("again.safetensors")).expect("a file")
    };
    assert_eq!(read("model.pth"), read("model.safetensors"));
}

#[test]
fn wrong_arguments_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = folder.path().join("model.safetensors");
    Ended::of(example("export").arg(&weights)).fails(2, &["--onnx"]);
    let onnx = folder.path().join("none/model.onnx");
    Ended::of(example("export").arg(&weights).arg("--onnx").arg(&onnx))
        .fails(1, &["model.safetensors", "No such file"]);
    exported(folder.path());
    Ended::of(example("export").arg(&weights).arg("--onnx").arg(&onnx))
        .fails(1, &["model.onnx", "No such file"]);
}
