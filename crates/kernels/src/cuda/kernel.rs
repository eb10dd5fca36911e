//! Kernels and their launch.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig};

use crate::{Error, Result};

/// The compiled form of one operation's `cuda.cu`.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    pub(crate) ptx: &'static str,
}

/// The [`Module`] of the operation in the folder of that name.
macro_rules! module {
    ($operation:literal) => {
        $crate::cuda::Module {
            name: concat!("wrn_sam_", $operation),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $operation, "/cuda.ptx")),
        }
    };
}
pub(crate) use module;

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Blocks in x and y. At most 2^31 - 1 and 65,535.
    pub(crate) blocks: (usize, usize),
    /// Threads of a block, at most 1,024.
    pub(crate) threads: usize,
    /// Bytes of dynamic shared memory of a block, at most 48 KiB.
    pub(crate) shared: usize,
}

impl Grid {
    /// Blocks of `threads` threads for `items` items, and no more than `most` of them: kernels stride over the rest.
    pub(crate) fn over(items: usize, threads: usize, most: usize) -> Self {
        Self { blocks: (items.div_ceil(threads).clamp(1, most), 1), threads, shared: 0 }
    }
}

/// Launches `function` of `module` with one argument, a `repr(C)` struct that it takes by value.
///
/// # Safety
/// `arguments` has the layout of the kernel's parameter (at most 4,096 bytes); what it points to lives on `device`, is as
/// long as the kernel's accesses reach under this grid, is not written by another stream, and outlives this call (what is
/// freed afterwards is freed in the stream's order).
pub(crate) unsafe fn launch<T: DeviceRepr>(
    device: &CudaDevice,
    module: &Module,
    function: &'static str,
    grid: Grid,
    arguments: &T,
) -> Result<()> {
    use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
    let failed = |status: String| Error::Device { operation: function.to_string(), library: "CUDA", status };
    let count = |what: &str, blocks: usize, most: u32| {
        u32::try_from(blocks)
            .ok()
            .filter(|blocks| *blocks <= most)
            .ok_or_else(|| failed(format!("a grid of {blocks} blocks in {what}, of at most {most}")))
    };
    let config = LaunchConfig {
        grid_dim: (count("x", grid.blocks.0, i32::MAX as u32)?, count("y", grid.blocks.1, 65_535)?, 1),
        block_dim: (count("threads", grid.threads, 1024)?, 1, 1),
        shared_mem_bytes: count("shared memory", grid.shared, 48 << 10)?,
    };
    let kernel = device
        .get_or_load_custom_func(function, module.name, module.ptx)
        .map_err(|error| failed(error.to_string()))?;
    let mut builder = kernel.builder();
    builder.arg(arguments);
    // SAFETY: the caller's promise.
    unsafe { builder.launch(config) }.map_err(|error| failed(error.to_string()))?;
    Ok(())
}
