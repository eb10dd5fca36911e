//! An arena of device memory.
//!
//! A step asks for the same buffers again and again. Blocks that are dropped wait here for their next use, which takes no
//! call of the driver; since all work is on one stream, a block may be used again while the kernels that last used it have
//! yet to run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};

use crate::{Error, Result};

/// Blocks are aligned to, and sized in, this many bytes.
pub(crate) const ALIGNMENT: usize = 512;

/// Memory of one device, and the blocks of it that wait for their next use, by size.
pub(crate) struct Memory {
    device: CudaDevice,
    free: Mutex<BTreeMap<usize, Vec<CudaSlice<u8>>>>,
}

impl Memory {
    pub(crate) fn new(device: &CudaDevice) -> Arc<Self> {
        Arc::new(Self { device: device.clone(), free: Mutex::default() })
    }

    /// A block of at least so many bytes, with arbitrary contents.
    pub(crate) fn take(self: &Arc<Self>, operation: &'static str, bytes: usize) -> Result<Block> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        let slice = match self.reuse(bytes) {
            Some(slice) => slice,
            None => self.allocate(bytes).or_else(|_| {
                // What waits for another use may be what is missing.
                self.trim();
                self.allocate(bytes)
            })
            .map_err(|error| Error::Device {
                operation: operation.to_string(),
                library: "CUDA",
                status: format!(
                    "no {:.1} MiB of device memory ({error}): take a smaller batch or network, or end what else runs there",
                    bytes as f64 / f64::from(1 << 20)
                ),
            })?,
        };
        let address = {
            let stream = self.device.cuda_stream();
            let (address, _synchronized) = slice.device_ptr(&stream);
            address
        };
        #[cfg(debug_assertions)]
        self.spoil(address, bytes).map_err(|status| Error::Device {
            operation: operation.to_string(),
            library: "CUDA",
            status,
        })?;
        Ok(Block { slice: Some(slice), address, memory: self.clone() })
    }

    /// Fills a block with bytes that are NaN in every type, so that in debug builds what is read before it is written shows.
    #[cfg(debug_assertions)]
    fn spoil(&self, address: u64, bytes: usize) -> std::result::Result<(), String> {
        use candle_core::cuda_backend::cudarc::driver::result::memset_d8_async;
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().map_err(|error| error.to_string())?;
        // SAFETY: a block's memory, `bytes` long, which nobody else has; earlier users' kernels come first in the stream.
        unsafe { memset_d8_async(address, 0xff, bytes, stream.cu_stream()) }
            .map_err(|error| error.to_string())
    }

    fn allocate(&self, bytes: usize) -> candle_core::Result<CudaSlice<u8>> {
        // SAFETY: whoever takes a block takes it as uninitialized, and writes it before reading.
        unsafe { self.device.alloc::<u8>(bytes) }
    }

    /// The smallest waiting block that holds `bytes` without wasting more than a quarter of itself.
    fn reuse(&self, bytes: usize) -> Option<CudaSlice<u8>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = *free.range(bytes..=bytes + bytes / 3).find(|(_, slices)| !slices.is_empty())?.0;
        free.get_mut(&capacity)?.pop()
    }

    /// Hands every waiting block back to the driver.
    pub(crate) fn trim(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Device memory that returns to its arena when it is dropped. To be dropped only when the last kernel that uses it has
/// been launched.
pub(crate) struct Block {
    /// `None` only while being dropped.
    slice: Option<CudaSlice<u8>>,
    address: u64,
    memory: Arc<Memory>,
}

impl Block {
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slice.as_ref().map_or(0, |slice| slice.len())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take() {
            let mut free = self.memory.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(slice.len()).or_default().push(slice);
        }
    }
}
