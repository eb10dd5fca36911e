//! The plain forward and its gradients against PyTorch's, from golden files (format: testdata/make_golden.py) in
//! `golden` of the folder that the environment variable `WRN_SAM_EXTRA` names.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use wrn_sam_models::{Mode, Parameters, WideResNet, WideResNetConfig};

const FILES: [(&str, usize, usize, usize, f64); 2] =
    [("wrn16-1_sam_sgd", 16, 1, 100, 0.1), ("wrn10-2_asam_nesterov", 10, 2, 20, 0.2)];

struct Golden {
    config: WideResNetConfig,
    smoothing: f64,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// The files, or none and a printed reason where there is no extra test data.
    fn all() -> Vec<Golden> {
        let Some(extra) = std::env::var_os("WRN_SAM_EXTRA") else {
            println!("skipped: WRN_SAM_EXTRA, a folder of extra test data, is not set");
            return Vec::new();
        };
        let folder = Path::new(&extra).join("golden");
        let read = |(name, depth, width_factor, classes, smoothing): (&str, _, _, _, _)| {
            let path = folder.join(format!("{name}.safetensors"));
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let config = WideResNetConfig::new(depth, width_factor).with_classes(classes);
            Golden { config, smoothing, tensors }
        };
        FILES.into_iter().map(read).collect()
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// Every tensor whose name begins so, under the rest of its name.
    fn under(&self, prefix: &str) -> HashMap<String, Tensor> {
        let strip =
            |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.into(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// The network at its first values, in the given dtype.
    fn model(&self, dtype: DType) -> (WideResNet, Parameters) {
        let parameters = Parameters::new(0, dtype, &Device::Cpu);
        let model = WideResNet::new(&self.config, parameters.var_builder()).unwrap();
        let mut state = self.under("init/");
        for value in state.values_mut().filter(|value| value.dtype() == DType::F32) {
            *value = value.to_dtype(dtype).unwrap();
        }
        parameters.load_state(&state).unwrap();
        (model, parameters)
    }

    /// The mean smoothed cross-entropy; its gradient is that of the KL form.
    fn loss(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let k = self.config.classes as f64;
        let (on, off) = (1.0 - self.smoothing, self.smoothing / (k - 1.0));
        let log_p = candle_nn::ops::log_softmax(logits, 1).unwrap();
        let of_label = log_p.gather(&labels.unsqueeze(1).unwrap(), 1).unwrap();
        let all = (log_p.sum_all().unwrap() * off).unwrap();
        let label = (of_label.sum_all().unwrap() * (on - off)).unwrap();
        ((all + label).unwrap() * (-1.0 / logits.dim(0).unwrap() as f64)).unwrap()
    }
}

/// max |a - b| / max |b|.
fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    let max = |t: Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    let (a, b) = (a.to_dtype(DType::F64).unwrap(), b.to_dtype(DType::F64).unwrap());
    assert_eq!(a.dims(), b.dims());
    max((a - &b).unwrap()) / max(b).max(1e-12)
}

/// Forward, running statistics and gradients of the first pass, in one dtype within its bounds.
fn compare(golden: &Golden, dtype: DType, forward: f64, gradient: f64) {
    let (model, parameters) = golden.model(dtype);
    let images = golden.get("step1/x").to_dtype(dtype).unwrap();
    let close = |what: &str, a: &Tensor, b: &Tensor, bound: f64| {
        let error = relative_error(a, b);
        assert!(error <= bound, "{what}: {error:e} is more than {bound:e} in {dtype:?}");
    };
    let eval = model.forward_plain(&images, Mode::Eval).unwrap();
    close("init_eval/logits", &eval, golden.get("init_eval/logits"), forward);

    let logits = model.forward_plain(&images, Mode::Train).unwrap();
    close("step1/logits", &logits, golden.get("step1/logits"), forward);

    let grads = golden.loss(&logits, golden.get("step1/y")).backward().unwrap();
    let after = golden.under("step1/after/");
    for (name, _, var) in parameters.named() {
        if let Some(expected) = golden.tensors.get(&format!("step1/grad1/{name}")) {
            close(&name, grads.get(&var).unwrap(), expected, gradient);
        } else if name.ends_with("num_batches_tracked") {
            assert_eq!(var.to_scalar::<i64>().unwrap(), 1);
        } else {
            close(&name, &var, &after[&name], forward);
        }
    }

    // The second pass leaves the running statistics alone, and both are counted, as PyTorch does.
    model.forward_plain(&images, Mode::TrainFrozenStatistics).unwrap();
    for (name, _, var) in parameters.named().into_iter().filter(|(name, ..)| !name.ends_with("weight")) {
        if name.ends_with("num_batches_tracked") {
            assert_eq!(var.to_scalar::<i64>().unwrap(), after[&name].to_scalar::<i64>().unwrap());
        } else if name.contains("running_") {
            close(&name, &var, &after[&name], forward);
        }
    }
}

#[test]
fn the_first_pass_in_f32() {
    Golden::all().iter().for_each(|golden| compare(golden, DType::F32, 1e-4, 1e-3));
}

#[test]
fn the_first_pass_in_f64() {
    // The golden inputs are rounded to f32, hence no closer.
    Golden::all().iter().for_each(|golden| compare(golden, DType::F64, 1e-5, 1e-4));
}

#[test]
fn the_parameters_come_in_pytorchs_order() {
    for golden in Golden::all() {
        let (_, parameters) = golden.model(DType::F32);
        let trainable = golden.under("step1/grad1/");
        assert_eq!(parameters.trainable().len(), trainable.len());
        let named = parameters.named();
        assert_eq!(named.len(), golden.under("init/").len());
        assert_eq!(named[0].0, "f.0_convolution.weight");
        assert_eq!(named.last().unwrap().0, "f.8_classification.bias");
    }
}
