//! Weights from elsewhere: every file is read right or called what it is, and nothing in one can do harm.

mod files;
mod names;
mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use wrn_sam_models::{BasicUnit, Error, Parameters, WideResNet, WideResNetConfig};

const CPU: Device = Device::Cpu;

/// The parameters of the unit that the files in tests/pth are of.
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
