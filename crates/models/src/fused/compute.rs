//! What runs a module's forward and backward passes.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use wrn_sam_kernels::{Cpu, Error, Precision};

use crate::error::Result;

/// The backend of a module, which follows from where its parameters lie.
#[derive(Clone, Debug)]
pub(crate) enum Compute {
    /// The fused layers, for `f32` on the CPU.
    Cpu(Cpu),
    /// The fused layers, for `f32` parameters on a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(wrn_sam_kernels::cuda::Cuda),
    /// Stock candle operations: any other device or type.
    Plain,
}

impl Compute {
    /// For a module of which `parameter` is one.
    ///
    /// # Errors
    /// Where the backend lacks the precision, or its device fails.
    pub(crate) fn new(parameter: &Tensor, precision: Precision) -> Result<Self> {
        let compute = match (parameter.device(), parameter.dtype()) {
            (Device::Cpu, DType::F32) => Self::Cpu(Cpu::shared().clone()),
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), DType::F32) => {
                return Ok(Self::Cuda(wrn_sam_kernels::cuda::Cuda::new(device, precision)?));
            }
            _ => Self::Plain,
        };
        if precision == Precision::F32 {
            return Ok(compute);
        }
        let found = format!("{:?} on {:?}", parameter.dtype(), parameter.device().location());
        let (operation, expected) = ("a precision below f32", "f32 parameters on a CUDA device");
        Err(Error::Unsupported { operation, expected, found }.into())
    }

    /// What `cell` holds, or else what suits `parameter`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn of<'a>(cell: &'a OnceLock<Self>, parameter: &Tensor) -> Result<&'a Self> {
        match cell.get() {
            Some(compute) => Ok(compute),
            None => {
                let compute = Self::new(parameter, Precision::F32)?;
                Ok(cell.get_or_init(|| compute))
            }
        }
    }
}
