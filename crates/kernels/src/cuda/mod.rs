//! The device layer of the CUDA path: a device of one stream, kernels compiled from the `.cu` file of each operation's
//! folder, and their launch.
//!
//! Everything runs on the one stream of candle's `CudaDevice`, in the order in which it is asked for; nothing here waits
//! for the device. Memory is allocated and freed in that order too, so a buffer may be dropped as soon as the last kernel
//! that uses it has been launched, and a raw device pointer stays valid for every kernel launched while its owner lives.

mod kernel;
mod tensor;

pub(crate) use kernel::{Grid, Module, launch, module};
pub(crate) use tensor::{cuda_device, pointer};

use candle_core::Device;

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
    }
    Ok(device)
}
