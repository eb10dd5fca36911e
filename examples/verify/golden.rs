//! Golden files: whole SAM steps computed by PyTorch, in safetensors (see testdata/make_golden.py for the layout).

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;
use wrn_sam::candle::safetensors::load_buffer;
use wrn_sam::candle::{DType, Device, Tensor};

use crate::support::AnyError;

/// What was computed: the file's metadata under `config`.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub depth: usize,
    pub width: usize,
    pub labels: usize,
    pub steps: usize,
    pub rho: f64,
    pub adaptive: bool,
    pub smoothing: f64,
    #[serde(flatten)]
    pub base: Base,
}

/// The base optimizer with PyTorch's arguments.
#[derive(Debug, Deserialize)]
#[serde(tag = "base", rename_all = "lowercase")]
pub enum Base {
    Sgd { lr: f64, momentum: f64, nesterov: bool, weight_decay: f64 },
    AdamW { lr: f64, weight_decay: f64 },
}

/// A golden file in memory.
pub struct Golden {
    pub config: Config,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Reads a file; floats become `dtype`.
    ///
    /// # Errors
    /// A file that cannot be read, is no safetensors file, or whose metadata has no usable `config`.
    pub fn read(path: &Path, dtype: DType, device: &Device) -> Result<Self, AnyError> {
        let bytes = std::fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| format!("not a safetensors file, or damaged: {error}"))?;
        let config = header.metadata().as_ref().and_then(|metadata| metadata.get("config"));
        let config = config.ok_or("not a golden file: its metadata has no `config`")?;
        let config: Config = serde_json::from_str(config)
            .map_err(|error| format!("the metadata's `config` is not understood: {error}"))?;
        if config.steps == 0 {
            return Err("the metadata's `config` has no steps".into());
        }
        let mut tensors = load_buffer(&bytes, device)?;
        for tensor in tensors.values_mut().filter(|tensor| tensor.dtype().is_float()) {
            *tensor = tensor.to_dtype(dtype)?;
        }
        Ok(Self { config, tensors })
    }

    /// The tensor of that key.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, key: &str) -> Result<&Tensor, AnyError> {
        self.tensors.get(key).ok_or_else(|| format!("it has no {key}").into())
    }

    /// Whether there is a tensor of that key.
    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// Every tensor whose key begins with `prefix`, by the rest of its key.
    pub fn below(&self, prefix: &str) -> HashMap<String, Tensor> {
        let entries = self.tensors.iter();
        entries.filter_map(|(key, t)| Some((key.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
    }
}
