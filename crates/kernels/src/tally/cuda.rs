//! The kernel's launch.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Tensor};

use super::cuda_args::Tally;
use crate::cuda::{Grid, Module, cuda_device, launch, module, pointer};
use crate::{Error, Result};

const OPERATION: &str = "tally";
const MODULE: Module = module!("tally");

// SAFETY: plain numbers and device addresses, laid out as cuda.cu's struct of the same name (the tests on the host check
// its size and its use).
unsafe impl DeviceRepr for Tally {}

pub(super) fn serves(loss: &Tensor, logits: &Tensor, labels: &Tensor) -> bool {
    let here = |tensor: &Tensor| tensor.device().same_device(logits.device());
    let types = (loss.dtype(), logits.dtype(), labels.dtype());
    logits.device().is_cuda() && here(loss) && here(labels) && types == (DType::F32, DType::F32, DType::U32)
}

pub(super) fn add(sums: &mut Option<Tensor>, loss: &Tensor, logits: &Tensor, labels: &Tensor) -> Result<()> {
    let (rows, classes) = logits.dims2()?;
    if loss.dims() != [rows] || labels.dims() != [rows] {
        let expected = format!("losses and labels [{rows}]");
        let found = format!("{:?} and {:?}", loss.dims(), labels.dims());
        return Err(Error::Shape { what: OPERATION, expected, found });
    }
    let device = cuda_device(OPERATION, logits)?;
    let (loss, logits, labels) = (loss.contiguous()?, logits.contiguous()?, labels.contiguous()?);
    let sums = match sums {
        Some(sums) if sums.device().same_device(logits.device()) => sums,
        none => none.insert(Tensor::zeros(4, DType::F64, logits.device())?),
    };
    let arguments = Tally {
        logits: pointer::<f32>(OPERATION, &device, &logits)?,
        labels: pointer::<u32>(OPERATION, &device, &labels)?,
        losses: pointer::<f32>(OPERATION, &device, &loss)?,
        tally: pointer::<f64>(OPERATION, &device, sums)?,
        rows: rows as u64,
        classes: u32::try_from(classes).map_err(candle_core::Error::wrap)?,
    };
    let one_block = Grid { blocks: (1, 1), threads: 1024, shared: 0 };
    // SAFETY: the addresses are of live tensors of `rows` rows, or elements, each, and of four sums.
    unsafe { launch(&device, &MODULE, "tally", one_block, &arguments) }
}
