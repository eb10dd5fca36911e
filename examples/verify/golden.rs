//! Golden files: whole steps of a member of the SAM family computed by PyTorch, in safetensors (see testdata/make_golden.py
//! for the layout).

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Map, Value};
use wrn_sam::candle::safetensors::load_buffer;
use wrn_sam::candle::{DType, Device, Tensor};

use crate::config::Config;
use crate::support::AnyError;

/// A golden file in memory.
pub struct Golden {
    pub config: Config,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Reads a file; floats become `dtype`.
    ///
    /// # Errors
    /// A file that cannot be read, is no safetensors file, whose metadata has no usable `config`, or which holds what is not
    /// known here.
    pub fn read(path: &Path, dtype: DType, device: &Device) -> Result<Self, AnyError> {
        let bytes = std::fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| format!("not a safetensors file, or damaged: {error}"))?;
        let config = header.metadata().as_ref().and_then(|metadata| metadata.get("config"));
        let config = config.ok_or("not a golden file: its metadata has no `config`")?;
        let config: Map<String, Value> = serde_json::from_str(config)
            .map_err(|error| format!("the metadata's `config` is not understood: {error}"))?;
        let config = Config::read(config)
            .map_err(|error| format!("the metadata's `config` is not understood: {error}"))?;
        let mut tensors = load_buffer(&bytes, device)?;
        for tensor in tensors.values_mut().filter(|tensor| tensor.dtype().is_float()) {
            *tensor = tensor.to_dtype(dtype)?;
        }
        let golden = Self { config, tensors };
        golden.check_keys()?;
        Ok(golden)
    }

    /// Checks that every key is one that the replay looks at.
    fn check_keys(&self) -> Result<(), AnyError> {
        let known = |key: &str| {
            let of_step = |rest: &str| {
                let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
                let step = number.parse::<usize>().is_ok_and(|step| (1..=self.config.steps).contains(&step));
                let what = &rest[number.len()..];
                const VALUES: [&str; 7] =
                    ["/x", "/y", "/logits", "/loss", "/logits2", "/loss2", "/grad_norm"];
                const TABLES: [&str; 10] = [
                    "/grad1/",
                    "/perturbed/",
                    "/grad2/",
                    "/descent/",
                    "/after/",
                    "/ema/",
                    "/state/ema/",
                    "/state/gv/",
                    "/state/momentum/",
                    "/state/exp_avg",
                ];
                step && (VALUES.contains(&what)
                    || TABLES.iter().any(|table| what.starts_with(table))
                    || ["/state/mu", "/state/var"].contains(&what))
            };
            key.starts_with("init/")
                || ["init_eval/logits", "final_eval/logits"].contains(&key)
                || key.strip_prefix("step").is_some_and(of_step)
        };
        let mut unknown: Vec<_> = self.tensors.keys().filter(|key| !known(key)).collect();
        unknown.sort();
        match unknown.first() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} of its tensors are not known to this program, the first {first}; it is no golden file of steps",
                unknown.len()
            )
            .into()),
        }
    }

    /// The tensor of that key.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, key: &str) -> Result<&Tensor, AnyError> {
        self.tensors.get(key).ok_or_else(|| format!("it has no {key}").into())
    }

    /// Whether there is a tensor whose key begins so.
    pub fn has(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|key| key.starts_with(prefix))
    }

    /// Every tensor whose key begins with `prefix`, by the rest of its key.
    pub fn below(&self, prefix: &str) -> HashMap<String, Tensor> {
        let entries = self.tensors.iter();
        entries.filter_map(|(key, t)| Some((key.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
    }
}
