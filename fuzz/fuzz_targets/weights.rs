//! Weights files: what is read fits the model, and what is refused changes nothing.
#![no_main]

use candle_core::{DType, Device, Tensor};
use libfuzzer_sys::fuzz_target;
use wrn_sam_models::{BasicUnit, Parameters, WideResNetConfig, read_metadata};

fn bytes(state: Vec<(String, Tensor)>) -> Vec<Vec<u8>> {
    state.iter().map(|(_, tensor)| safetensors::View::data(tensor).into_owned()).collect()
}

fuzz_target!(|file: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weights");
    std::fs::write(&path, file).expect("a file in it");
    let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
    BasicUnit::new(4, 0.0, parameters.var_builder().pp("unit")).expect("a unit");
    let before = bytes(parameters.state().expect("values"));
    if parameters.load(&path).is_err() {
        assert_eq!(bytes(parameters.state().expect("values")), before);
    }
    if let Ok(config) = WideResNetConfig::from_state_dict(&path) {
        config.validate().expect("a configuration that was read is valid");
    }
    let _ = read_metadata(&path);
});
