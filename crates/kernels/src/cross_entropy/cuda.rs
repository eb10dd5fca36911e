//! The kernels' launches.

use candle_core::cuda_backend::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr};
use candle_core::{DType, Storage, Tensor};

use super::SmoothedLabels;
use super::cuda_args::{CrossEntropy, ROWS, ScaleRows};
use crate::autograd::{Backward, node};
use crate::cuda::{Grid, Module, cuda_device, launch, module, pointer};
use crate::{Error, Result};

const OPERATION: &str = "cross entropy";
const MODULE: Module = module!("cross_entropy");

// SAFETY: plain numbers and device addresses, laid out as cuda.cu's struct of the same name (the tests on the host check
// its size and its use).
unsafe impl DeviceRepr for CrossEntropy {}
// SAFETY: as above.
unsafe impl DeviceRepr for ScaleRows {}

pub(super) fn serves(logits: &Tensor, labels: &Tensor) -> bool {
    logits.device().is_cuda()
        && logits.dtype() == DType::F32
        && labels.dtype() == DType::U32
        && labels.device().same_device(logits.device())
}

pub(super) fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothed: &SmoothedLabels) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if labels.dims() != [rows] || rows == 0 || classes == 0 {
        let expected = "logits [N, K] and labels [N], none of them empty".to_string();
        let found = format!("{:?} and {:?}", logits.dims(), labels.dims());
        return Err(Error::Shape { what: OPERATION, expected, found });
    }
    let device = cuda_device(OPERATION, logits)?;
    let (contiguous, labels) = (logits.contiguous()?, labels.contiguous()?);
    // SAFETY: the kernel writes every element.
    let gradient = unsafe { Tensor::empty((rows, classes), DType::F32, logits.device())? };
    // SAFETY: as above.
    let loss = unsafe { device.alloc::<f32>(rows)? };
    let stream = device.cuda_stream();
    let loss_at = loss.device_ptr(&stream).0;
    let arguments = CrossEntropy {
        logits: pointer::<f32>(OPERATION, &device, &contiguous)?,
        labels: pointer::<u32>(OPERATION, &device, &labels)?,
        loss: loss_at,
        gradient: pointer::<f32>(OPERATION, &device, &gradient)?,
        rows: rows as u64,
        classes: u32::try_from(classes).map_err(candle_core::Error::wrap)?,
        on: smoothed.on as f32,
        off: smoothed.off as f32,
        constant: smoothed.constant as f32,
    };
    let grid = Grid { blocks: (rows.div_ceil(ROWS), 1), threads: 32 * ROWS, shared: 0 };
    // SAFETY: the addresses are of live tensors of `rows` rows, or elements, each.
    unsafe { launch(&device, &MODULE, "cross_entropy", grid, &arguments)? };
    let loss = Storage::Cuda(CudaStorage::wrap_cuda_slice(loss, device));
    Ok(node(loss, rows, &[logits], CrossEntropyBackward { gradient })?)
}

/// The gradient by the logits, but for that of the losses.
struct CrossEntropyBackward {
    gradient: Tensor,
}

impl Backward for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        OPERATION
    }

    fn backward(&self, grad_output: &Tensor, _needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let (rows, classes) = self.gradient.dims2()?;
        let device = cuda_device(OPERATION, &self.gradient)?;
        let factors = grad_output.contiguous()?;
        // SAFETY: the kernel writes every element.
        let out = unsafe { Tensor::empty((rows, classes), DType::F32, self.gradient.device())? };
        let arguments = ScaleRows {
            rows: pointer::<f32>(OPERATION, &device, &self.gradient)?,
            factors: pointer::<f32>(OPERATION, &device, &factors)?,
            out: pointer::<f32>(OPERATION, &device, &out)?,
            len: (rows * classes) as u64,
            classes: u32::try_from(classes).map_err(candle_core::Error::wrap)?,
        };
        let grid = Grid::over(rows * classes, 256, 1024);
        // SAFETY: the addresses are of live tensors of `rows` rows, or elements, each.
        unsafe { launch(&device, &MODULE, "scale_rows", grid, &arguments)? };
        Ok(vec![Some(out)])
    }
}
