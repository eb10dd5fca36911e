//! The device layer of the CUDA path: a device of one stream, kernels compiled from the `.cu` file of each operation's
//! folder, and their launch.
//!
//! Everything runs on the one stream of candle's `CudaDevice`, in the order in which it is asked for; nothing here waits
//! for the device. Memory is allocated and freed in that order too, so a buffer may be dropped as soon as the last kernel
//! that uses it has been launched, and a raw device pointer stays valid for every kernel launched while its owner lives.

pub(crate) mod cudnn;
mod device;
mod kernel;
mod memory;
mod tensor;

pub use device::Cuda;
pub(crate) use device::{Images, typed};
pub(crate) use kernel::{Grid, Module, launch, module};
pub(crate) use memory::{Block, Memory};
pub(crate) use tensor::{cuda_device, pointer};

use candle_core::Device;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, sys};

use crate::{Error, Result};

/// The NVIDIA GPU of that number, as a candle device with a stream of its own and without event tracking.
///
/// candle's `Device::new_cuda` takes the calling thread's stream, so that work of two threads is not ordered, and records
/// two events with every allocation, to order streams that are never there. Here all threads share one stream. Do not use
/// the device's memory on a further stream without events of your own.
///
/// # Errors
/// [`Error::Device`] where there is no such GPU, or a driver or a library it needs is missing or too old.
pub fn device(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal).map_err(|error| Error::Device {
        operation: format!("GPU {ordinal}"),
        library: "CUDA",
        status: error.to_string(),
    })?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: the context was made just now and has one stream. All memory of it is allocated, used and freed in that
        // stream's order, so there is nothing that events would have to order.
        unsafe { cuda.disable_event_tracking() };
        keep_freed_memory(cuda);
    }
    Ok(device)
}

/// How many NVIDIA GPUs this machine has: 0 too where the driver is only a stub to link against.
///
/// # Errors
/// [`Error::Device`] where the driver is there but does not work.
pub fn device_count() -> Result<usize> {
    let failed =
        |status: String| Error::Device { operation: "counting GPUs".into(), library: "CUDA", status };
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            Ok(0)
        }
        Err(error) => Err(failed(format!("{error}; does nvidia-smi work?"))),
    }
}

/// The most bytes that were in use at once on a GPU, of what candle and the kernels allocate there, where the driver tells.
pub fn peak_memory(device: &Device) -> Option<u64> {
    let Device::Cuda(device) = device else { return None };
    let (pool, mut bytes) = (pool(device)?, 0u64);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool is the device's; this attribute is a 64-bit number, which is written.
    let found = unsafe { sys::cuMemPoolGetAttribute(pool, attribute, std::ptr::from_mut(&mut bytes).cast()) };
    (found == sys::CUresult::CUDA_SUCCESS).then_some(bytes)
}

/// Lets the driver's pool keep what is freed. By default it goes back to the system whenever the host waits for the device,
/// to be mapped anew in the next step. Where the driver declines, allocations only take longer.
fn keep_freed_memory(device: &CudaDevice) {
    let Some(pool) = pool(device) else { return };
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's; this attribute is a 64-bit number, which is copied.
    let _ = unsafe { sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast()) };
}

/// The driver's pool of a device's memory, where it has one.
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device is a live context's; the call writes one handle.
    let found =
        unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device.cuda_stream().context().cu_device()) };
    (found == sys::CUresult::CUDA_SUCCESS).then_some(pool)
}
