//! Between candle's tensors and device pointers.

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::{Device, Storage, Tensor, WithDType};

use crate::{Error, Result};

/// The CUDA device that a tensor lies on.
pub(crate) fn cuda_device(operation: &'static str, tensor: &Tensor) -> Result<CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device.clone()),
        other => Err(Error::Unsupported {
            operation,
            expected: "tensors on a CUDA device",
            found: format!("{:?} on {:?}", tensor.dtype(), other.location()),
        }),
    }
}

/// Where the first element of a contiguous tensor of `T` lies on `device`.
///
/// The pointer holds as long as the tensor's storage does. Whoever writes through it must be the only one to use the
/// storage between the launches before and after; launches of one stream are in order.
pub(crate) fn pointer<T: WithDType + CudaDType>(
    operation: &'static str,
    device: &CudaDevice,
    tensor: &Tensor,
) -> Result<u64> {
    let found = || format!("{:?} on {:?}", tensor.dtype(), tensor.device().location());
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::Unsupported { operation, expected: "tensors on a CUDA device", found: found() });
    };
    if storage.device.id() != device.id() {
        let expected = "all tensors on one CUDA device";
        return Err(Error::Unsupported { operation, expected, found: found() });
    }
    let Some((start, _)) = layout.contiguous_offsets() else {
        return Err(Error::Unsupported {
            operation,
            expected: "contiguous tensors",
            found: format!("{layout:?}"),
        });
    };
    let slice = storage.as_cuda_slice::<T>()?;
    let stream = device.cuda_stream();
    let (base, _synchronized) = slice.device_ptr(&stream);
    Ok(base + (start * size_of::<T>()) as u64)
}
