//! Saving an optimizer's state, and putting it back.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;

use crate::{Error, Result};

/// An optimizer whose whole state can be saved and put back, so that training continues as if it had never
/// stopped: hyper-parameters, momentum buffers, step counts.
///
/// The state is a list of named tensors, ready for a safetensors file. Parameters are named by their index
/// in the list that the optimizer was made with. candle's own `AdamW` keeps its moments to itself; use
/// [`AdamW`](crate::AdamW) where they are to be saved.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{OptimizerState, Sgd, SgdConfig};
///
/// let w = Var::new(&[1f32, 2.], &Device::Cpu)?;
/// let config = SgdConfig { momentum: 0.9, ..SgdConfig::default() };
/// let mut sgd = Sgd::new(vec![w.clone()], config)?;
/// sgd.backward_step(&w.sqr()?.sum_all()?)?;
///
/// let file = std::env::temp_dir().join(format!("sgd-{}.safetensors", std::process::id()));
/// candle_core::safetensors::save(&sgd.state()?.into_iter().collect(), &file)?;
///
/// let mut resumed = Sgd::new(vec![w.clone()], config)?;
/// resumed.load_state(&candle_core::safetensors::load(&file, &Device::Cpu)?)?;
/// # std::fs::remove_file(file)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait OptimizerState {
    /// The state, entries in a stable order, as copies that later steps do not change.
    ///
    /// # Errors
    /// If candle cannot copy.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Puts a saved state back, hyper-parameters included.
    ///
    /// # Errors
    /// [`Error::State`] naming every missing, unexpected and misshapen entry, or the error of a
    /// hyper-parameter outside its range; the optimizer's state is then as before.
    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()>;
}

/// Has no state but its learning rate.
impl OptimizerState for candle_nn::SGD {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![number("learning_rate", self.learning_rate())?])
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut entries = Entries::of(state);
        let learning_rate = entries.number("learning_rate")?;
        entries.finish()?;
        self.set_learning_rate(learning_rate);
        Ok(())
    }
}

/// An entry of one number.
pub(crate) fn number(name: &str, value: f64) -> Result<(String, Tensor)> {
    Ok((name.to_string(), Tensor::new(value, &Device::Cpu)?))
}

/// An entry of one count per parameter.
pub(crate) fn counts(name: &str, counts: impl Iterator<Item = u64>) -> Result<(String, Tensor)> {
    let counts: Vec<i64> = counts.map(|count| i64::try_from(count).unwrap_or(i64::MAX)).collect();
    Ok((name.to_string(), Tensor::new(counts, &Device::Cpu)?))
}

/// An entry with a copy of a buffer.
pub(crate) fn buffer(name: &str, parameter: usize, buffer: &Var) -> Result<(String, Tensor)> {
    Ok((format!("{name}.{parameter}"), buffer.as_detached_tensor().copy()?))
}

/// Reads a saved state entry by entry and remembers everything that does not fit.
pub(crate) struct Entries<'a> {
    unread: HashMap<&'a str, &'a Tensor>,
    missing: Vec<String>,
    misshapen: Vec<String>,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(state: &'a HashMap<String, Tensor>) -> Self {
        let unread = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        Self { unread, missing: Vec::new(), misshapen: Vec::new() }
    }

    /// The entry, if it is there and of this shape and type.
    fn take(&mut self, name: &str, shape: &[usize], dtype: DType) -> Option<&'a Tensor> {
        let Some(tensor) = self.unread.remove(name) else {
            self.missing.push(name.to_string());
            return None;
        };
        if tensor.dims() == shape && tensor.dtype() == dtype {
            return Some(tensor);
        }
        let (found, found_dtype) = (tensor.dims(), tensor.dtype());
        self.misshapen
            .push(format!("{name} (expected {shape:?} {dtype:?}, found {found:?} {found_dtype:?})"));
        None
    }

    /// The number of this name, or 0 with the fault remembered.
    pub(crate) fn number(&mut self, name: &str) -> Result<f64> {
        Ok(self.take(name, &[], DType::F64).map_or(Ok(0.0), Tensor::to_scalar)?)
    }

    /// The counts of this name, one for each of `len` parameters, or zeros with the fault remembered.
    pub(crate) fn counts(&mut self, name: &str, len: usize) -> Result<Vec<u64>> {
        let Some(tensor) = self.take(name, &[len], DType::I64) else { return Ok(vec![0; len]) };
        Ok(tensor.to_vec1::<i64>()?.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).collect())
    }

    /// A fresh variable like `var` with the buffer of this name, or none with the fault remembered.
    pub(crate) fn buffer(&mut self, name: &str, parameter: usize, var: &Var) -> Result<Option<Var>> {
        let tensor = self.take(&format!("{name}.{parameter}"), var.dims(), var.dtype());
        let buffer = tensor.map(|tensor| Var::from_tensor(&tensor.detach().to_device(var.device())?.copy()?));
        Ok(buffer.transpose()?)
    }

    /// The faults remembered, and whatever was not read.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { unread, missing, misshapen } = self;
        if unread.is_empty() && missing.is_empty() && misshapen.is_empty() {
            return Ok(());
        }
        let mut unexpected: Vec<String> = unread.into_keys().map(str::to_string).collect();
        unexpected.sort();
        Err(Error::State { missing, unexpected, misshapen })
    }
}
