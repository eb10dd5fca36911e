//! The measures of a network against PyTorch's float64: `golden/family/measures.safetensors` in the folder that the
//! environment variable `WRN_SAM_EXTRA` names, where it is set.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use wrn_sam::analysis::{Ball, Direction, Surface, hessian, landscape, sharpness};
use wrn_sam::candle::{DType, Device, Tensor, safetensors};
use wrn_sam::losses::smooth_cross_entropy;
use wrn_sam::models::{Mode, Parameters, WideResNet, WideResNetConfig};

/// The file's tensors and its `config`, where there is such a file.
fn golden() -> Option<(HashMap<String, Tensor>, Value)> {
    let Some(extra) = std::env::var_os("WRN_SAM_EXTRA") else {
        println!("skipped: WRN_SAM_EXTRA, a folder of extra test data, is not set");
        return None;
    };
    let path = Path::new(&extra).join("golden/family/measures.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, header) = ::safetensors::SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let config = header.metadata().as_ref().and_then(|metadata| metadata.get("config")).expect("a config");
    let config = serde_json::from_str(config).expect("JSON");
    Some((safetensors::load(path, &Device::Cpu).expect("tensors"), config))
}

/// The worst relative error, with what it is of.
#[track_caller]
fn near(what: &str, found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("no number for {what}"));
    let error = (found - expected).abs() / expected.abs().max(1e-3);
    assert!(error <= tolerance, "{what}: {found} for {expected}, off by {error:.1e}");
}

/// All measures in the element type `dtype`: f64 takes candle's operations, f32 the network's own passes.
fn measures_are_pytorchs(dtype: DType, tolerance: f64) {
    let Some((tensors, config)) = golden() else { return };
    let size = |key: &str| config[key].as_u64().expect("a size") as usize;
    let parameters = Parameters::new(0, dtype, &Device::Cpu);
    let network = WideResNetConfig::new(size("depth"), size("width")).with_classes(size("labels"));
    let model = WideResNet::new(&network, parameters.var_builder()).expect("a network");
    let state =
        tensors.iter().filter_map(|(key, value)| Some((key.strip_prefix("init/")?.into(), value.clone())));
    parameters.load_state(&state.collect()).expect("a state dict");

    let (x, y) = (tensors["x"].to_dtype(dtype).unwrap(), tensors["y"].to_dtype(DType::U32).unwrap());
    let smoothing = config["smoothing"].as_f64().expect("a number");
    let loss = |_| {
        let logits = model.forward(&x, Mode::EvalWithGradients)?;
        Ok(smooth_cross_entropy(&logits, &y, smoothing)?)
    };
    let named = parameters.named_trainable();
    let mut surface = Surface::new(named.clone(), 1, loss).unwrap();
    let part = |group: &str| {
        let parts = named.iter().map(|(name, _)| tensors[&format!("{group}/{name}")].clone());
        parts.collect::<Vec<_>>()
    };
    let off = |found: &Direction, expected: &Direction| {
        found.plus(-1.0, expected).unwrap().norm().unwrap() / expected.norm().unwrap()
    };
    let before = parameters.state().unwrap();

    let (value, gradient) = surface.gradient().unwrap();
    near("loss", value, &config["loss"], tolerance);
    let error = off(&gradient, &surface.direction(&part("grad")).unwrap());
    assert!(error < 1e-4, "the gradient is off by {error:.1e}");

    for (adaptive, key) in [(false, "one_step"), (true, "one_step_adaptive")] {
        for (rho, expected) in config[key].as_object().expect("radii") {
            let ball = Ball::new(rho.parse().unwrap()).with_adaptive(adaptive);
            let found = sharpness::one_step(&mut surface, ball).unwrap();
            near(&format!("{key} {rho}"), found, expected, 20.0 * tolerance);
            // One batch is all of them.
            let found = sharpness::of_batches(&mut surface, ball).unwrap();
            near(&format!("{key} {rho} of batches"), found, expected, 20.0 * tolerance);
        }
    }
    let worst = &config["worst_case"];
    let (rho, steps) = (worst["rho"].as_f64().unwrap(), worst["steps"].as_u64().unwrap() as usize);
    let found = sharpness::worst_case(&mut surface, Ball::new(rho), steps).unwrap();
    near("worst case", found, &worst["value"], 20.0 * tolerance);

    let [v, r] = ["v", "r"].map(|group| surface.direction(&part(group)).unwrap());
    let h = config["h"].as_f64().unwrap();
    let found = hessian::product(&mut surface, &v, h).unwrap();
    let error = off(&found, &surface.direction(&part("hv_fd")).unwrap());
    assert!(error < 20.0 * tolerance, "H v by differences is off by {error:.1e}");

    let [d1, d2] = [&v, &r].map(|d| landscape::filter_normalized(&surface, d).unwrap());
    for (found, group) in [(&d1, "d1"), (&d2, "d2")] {
        let error = off(found, &surface.direction(&part(group)).unwrap());
        assert!(error < 1e-6, "{group} is off by {error:.1e}");
    }
    let at = landscape::grid(1.0, 5).unwrap();
    let line = landscape::line(&mut surface, &d1, &at, |surface| surface.loss()).unwrap();
    for (a, found) in at.iter().zip(line) {
        near(&format!("line {a}"), found, &config["line"][format!("{a}")], tolerance);
    }
    let plane = landscape::plane(&mut surface, [&d1, &d2], [&at, &at], |surface| surface.loss()).unwrap();
    for (index, found) in plane.into_iter().enumerate() {
        let place = format!("{},{}", at[index % 5], at[index / 5]);
        near(&format!("plane {place}"), found, &config["plane"][&place], tolerance);
    }

    drop(surface);
    for ((name, before), (_, after)) in before.iter().zip(parameters.state().unwrap()) {
        let same = before.eq(&after).unwrap().min_all().unwrap().to_scalar::<u8>().unwrap();
        assert_eq!(same, 1, "{name} has moved");
    }
}

#[test]
fn in_double_precision() {
    measures_are_pytorchs(DType::F64, 1e-6);
}

#[test]
fn in_single_precision() {
    measures_are_pytorchs(DType::F32, 2e-5);
}
