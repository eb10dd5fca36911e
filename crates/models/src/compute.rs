//! What runs a layer's passes.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use wrn_sam_kernels::{Cpu, Error, Precision};

use crate::error::Result;

/// The backend of a layer, which follows from where its parameters are.
#[derive(Clone, Debug)]
pub(crate) enum Compute {
    /// For `f32` on the CPU.
    Cpu(Cpu),
    /// For `f32` parameters on a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(wrn_sam_kernels::cuda::Cuda),
    /// candle's own operations, for any other device or type.
    Plain,
}

/// Chooses the backend of a layer, at the latest when it first runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    compute: OnceLock<Compute>,
    precision: Precision,
    deterministic: bool,
}

impl Placement {
    /// The backend of a layer of which `parameter` is one.
    ///
    /// # Errors
    /// Where its device fails.
    pub(crate) fn compute(&self, parameter: &Tensor) -> Result<&Compute> {
        match self.compute.get() {
            Some(compute) => Ok(compute),
            None => {
                let compute = self.choose(parameter)?;
                Ok(self.compute.get_or_init(|| compute))
            }
        }
    }

    fn choose(&self, parameter: &Tensor) -> Result<Compute> {
        let compute = match (parameter.device(), parameter.dtype()) {
            (Device::Cpu, DType::F32) => Compute::Cpu(Cpu::shared().clone()),
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), DType::F32) => {
                let Self { precision, deterministic, .. } = *self;
                return Ok(Compute::Cuda(wrn_sam_kernels::cuda::Cuda::shared(
                    device,
                    precision,
                    deterministic,
                )?));
            }
            _ => Compute::Plain,
        };
        if self.precision == Precision::F32 {
            return Ok(compute);
        }
        let found = format!("{:?} on {:?}", parameter.dtype(), parameter.device().location());
        let (operation, expected) = ("a precision below f32", "f32 parameters on a CUDA device");
        Err(Error::Unsupported { operation, expected, found }.into())
    }

    /// Takes the place of [`Cpu::shared`], for a layer that runs on the CPU.
    pub(crate) fn set_cpu(&mut self, parameter: &Tensor, cpu: Cpu) {
        if parameter.device().is_cpu() && parameter.dtype() == DType::F32 {
            self.compute = OnceLock::from(Compute::Cpu(cpu));
        }
    }

    /// # Errors
    /// Where the backend lacks the precision, or its device fails; nothing is changed then.
    pub(crate) fn set_precision(&mut self, parameter: &Tensor, precision: Precision) -> Result<()> {
        if precision != self.precision {
            let mut changed = Self { compute: OnceLock::new(), precision, ..*self };
            changed.compute = OnceLock::from(changed.choose(parameter)?);
            *self = changed;
        }
        Ok(())
    }

    pub(crate) fn set_deterministic(&mut self, deterministic: bool) {
        #[cfg(feature = "cuda")]
        if let Some(Compute::Cuda(_)) = self.compute.get() {
            self.compute = OnceLock::new(); // chosen again, for this setting
        }
        self.deterministic = deterministic;
    }
}
