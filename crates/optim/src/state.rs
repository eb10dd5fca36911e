//! Saving an optimizer's state, and putting it back.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::OutOfRange;

use crate::{Error, Result};

/// An optimizer whose whole state can be saved and loaded, so that training continues with the same bits as if it had
/// never stopped: hyper-parameters, momentum buffers, step counts.
///
/// The state is a list of named tensors, ready for a safetensors file. What belongs to a parameter is saved under the
/// parameter's name, so the optimizer must be made with `named`: the order of variables may differ between processes
/// (that of [`VarMap::all_vars`](candle_nn::VarMap::all_vars) does). Its entries and shapes are the same before the first
/// step and after the last. candle's own `AdamW` does not show its moments; use [`AdamW`](crate::AdamW) where they are
/// to be saved.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use wrn_sam_optim::{OptimizerState, Sgd, SgdConfig};
///
/// let w = Var::new(&[1f32, 2.], &Device::Cpu)?;
/// let parameters = vec![("w".to_string(), w.clone())];
/// let config = SgdConfig::default().with_momentum(0.9);
/// let mut sgd = Sgd::named(parameters.clone(), config)?;
/// sgd.backward_step(&w.sqr()?.sum_all()?)?;
///
/// let file = std::env::temp_dir().join(format!("sgd-{}.safetensors", std::process::id()));
/// candle_core::safetensors::save(&sgd.state()?.into_iter().collect(), &file)?;
///
/// let mut resumed = Sgd::named(parameters, config)?;
/// resumed.load_state(&candle_core::safetensors::load(&file, &Device::Cpu)?)?;
/// # std::fs::remove_file(file)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait OptimizerState {
    /// The state, entries in a stable order, as copies that later steps do not change.
    ///
    /// # Errors
    /// [`Error::Unnamed`] for an optimizer whose parameters have no names; candle's where it cannot copy.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Puts a saved state back, hyper-parameters included. Its tensors may be on any device.
    ///
    /// # Errors
    /// [`Error::State`] names every entry that is missing, unexpected, misshapen or invalid, such as one that holds NaN;
    /// [`Error::OutOfRange`] names a hyper-parameter outside its range; [`Error::Unnamed`] as for
    /// [`state`](Self::state). After an error the optimizer is as before.
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
        check_learning_rate(learning_rate)?;
        self.set_learning_rate(learning_rate);
        Ok(())
    }
}

/// What every optimizer asks of a learning rate.
pub(crate) fn check_learning_rate(rate: f64) -> Result<()> {
    Ok(check_not_negative("learning_rate", rate)?)
}

/// Checks that a hyper-parameter is finite and at least 0.
pub(crate) fn check_not_negative(name: &'static str, value: f64) -> std::result::Result<(), OutOfRange> {
    OutOfRange::check(name, value, value.is_finite() && value >= 0.0, "a number of at least 0")
}

/// An entry of one number.
pub(crate) fn number(name: &str, value: f64) -> Result<(String, Tensor)> {
    Ok((name.to_string(), Tensor::new(value, &Device::Cpu)?))
}

/// An entry of one count for a parameter.
pub(crate) fn count(name: &str, parameter: &str, count: u64) -> Result<(String, Tensor)> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Ok((format!("{name}.{parameter}"), Tensor::new(count, &Device::Cpu)?))
}

/// An entry with a copy of a parameter's buffer.
pub(crate) fn buffer(name: &str, parameter: &str, buffer: &Var) -> Result<(String, Tensor)> {
    Ok((format!("{name}.{parameter}"), buffer.as_detached_tensor().copy()?))
}

/// Reads a saved state entry by entry and remembers everything that does not fit.
pub(crate) struct Entries<'a> {
    unread: HashMap<&'a str, &'a Tensor>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    invalid: Vec<String>,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(state: &'a HashMap<String, Tensor>) -> Self {
        let unread = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        Self { unread, missing: Vec::new(), misshapen: Vec::new(), invalid: Vec::new() }
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

    /// The switch of this name, a number that is 0 or 1; or false with the fault remembered.
    pub(crate) fn switch(&mut self, name: &str) -> Result<bool> {
        let value = self.number(name)?;
        if value != 0.0 && value != 1.0 {
            self.invalid.push(format!("{name} (expected 0 or 1, found {value})"));
        }
        Ok(value == 1.0)
    }

    /// The numbers of this name, or zeros with the fault remembered.
    pub(crate) fn numbers<const N: usize>(&mut self, name: &str) -> Result<[f64; N]> {
        let Some(tensor) = self.take(name, &[N], DType::F64) else { return Ok([0.0; N]) };
        Ok(tensor.to_vec1()?.try_into().unwrap_or([0.0; N]))
    }

    /// A choice that is saved as numbers of this name, or `otherwise` with the fault remembered.
    pub(crate) fn choice<T, const N: usize>(
        &mut self,
        name: &str,
        of_numbers: impl Fn([f64; N]) -> Option<T>,
        otherwise: T,
    ) -> Result<T> {
        let numbers = self.numbers(name)?;
        Ok(of_numbers(numbers).unwrap_or_else(|| {
            self.invalid.push(format!("{name} ({numbers:?} is no choice that is known)"));
            otherwise
        }))
    }

    /// A parameter's count of this name, at most `most`; or 0 with the fault remembered.
    pub(crate) fn count(&mut self, name: &str, parameter: &str, most: u64) -> Result<u64> {
        let name = format!("{name}.{parameter}");
        let found = self.take(&name, &[], DType::I64).map_or(Ok(0), Tensor::to_scalar::<i64>)?;
        let count = u64::try_from(found).ok().filter(|&count| count <= most);
        if count.is_none() {
            self.invalid.push(format!("{name} (expected 0 to {most}, found {found})"));
        }
        Ok(count.unwrap_or(0))
    }

    /// A fresh variable like `var` with the parameter's finite buffer of this name, or one of zeros with the fault
    /// remembered.
    pub(crate) fn buffer(&mut self, name: &str, parameter: &str, var: &Var) -> Result<Var> {
        let name = format!("{name}.{parameter}");
        let Some(tensor) = self.take(&name, var.dims(), var.dtype()) else {
            return Ok(Var::zeros(var.shape(), var.dtype(), var.device())?);
        };
        // 0 times an infinity or NaN is NaN.
        let zero = tensor.affine(0.0, 0.0)?.flatten_all()?.to_dtype(DType::F64)?.sum_all()?;
        if !zero.to_scalar::<f64>()?.is_finite() {
            self.invalid.push(format!("{name} (holds infinities or NaN)"));
        }
        Ok(Var::from_tensor(&tensor.detach().to_device(var.device())?.copy()?)?)
    }

    /// As [`buffer`](Self::buffer), without negative numbers.
    pub(crate) fn squares(&mut self, name: &str, parameter: &str, var: &Var) -> Result<Var> {
        let buffer = self.buffer(name, parameter, var)?;
        let negative = buffer.as_detached_tensor().lt(0.0)?.to_dtype(DType::U32)?.sum_all()?;
        if negative.to_scalar::<u32>()? > 0 {
            self.invalid.push(format!("{name}.{parameter} (holds negative numbers)"));
        }
        Ok(buffer)
    }

    /// The faults remembered, and whatever was not read.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { unread, missing, misshapen, invalid } = self;
        if unread.is_empty() && missing.is_empty() && misshapen.is_empty() && invalid.is_empty() {
            return Ok(());
        }
        let mut unexpected: Vec<String> = unread.into_keys().map(str::to_string).collect();
        unexpected.sort();
        Err(Error::State { missing, unexpected, misshapen, invalid })
    }
}
