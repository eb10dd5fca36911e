//! Changes of layout on CUDA: `cuda.cu` has the kernels.

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{Storage, Tensor};

use super::cuda_args::{Add, Images as ImagesArguments, Parameter, Parameters, Pixels};
use crate::cuda::{Block, Cuda, Grid, Images, Module, module, typed};
use crate::cuda_args::pitch;
use crate::{Error, Result};

const MODULE: Module = module!("layout");
const OPERATION: &str = "images";

/// The images of a tensor `[N, C, H, W]` of the device, with any strides.
pub(crate) fn images(cuda: &Cuda, x: &Tensor) -> Result<Images> {
    let (batch, channels, height, width) = x.dims4()?;
    // From where the tensor begins; the strides say the rest.
    let (storage, layout) = x.storage_and_layout();
    let whole = start(cuda, &storage)?;
    let strides = layout.stride();
    let images = cuda.new_images(OPERATION, batch * height * width, channels)?;
    let arguments = ImagesArguments {
        from: whole + (layout.start_offset() * size_of::<f32>()) as u64,
        to: images.block.address(),
        by_image: strides[0] as i64,
        by_channel: strides[1] as i64,
        by_row: strides[2] as i64,
        by_column: strides[3] as i64,
        pixels: images.pixels as i64,
        height: height as i32,
        width: width as i32,
        channels: channels as i32,
        pitch: images.pitch as i32,
    };
    let grid = Grid::over(images.pixels * images.pitch / 8, 256, 8192);
    // SAFETY: candle's layout stays within its storage; the images are of that shape.
    unsafe { cuda.launch_typed(&MODULE, typed!("layout_images"), grid, &arguments) }?;
    Ok(images)
}

/// Writes images without their padding, as `f32`, to `to`.
///
/// # Safety
/// `to` is the address of room for them on the device.
pub(crate) unsafe fn pixels(cuda: &Cuda, x: &Images, to: u64) -> Result<()> {
    let arguments = Pixels {
        from: cuda.settled(x)?,
        to,
        pixels: x.pixels as i64,
        channels: x.channels as i32,
        pitch: x.pitch as i32,
    };
    let grid = Grid::over(x.pixels * x.pitch / 8, 256, 8192);
    // SAFETY: images of so many pixels; the rest is the caller's promise.
    unsafe { cuda.launch_typed(&MODULE, typed!("layout_pixels"), grid, &arguments) }
}

/// `to += from`, for images of one shape.
pub(crate) fn add(cuda: &Cuda, to: &Images, from: &Block) -> Result<()> {
    let vectors = to.pixels * to.pitch / 8;
    let arguments = Add { to: to.block.address(), add: from.address(), vectors: vectors as i64 };
    let grid = Grid::over(vectors, 256, 4096);
    // SAFETY: both are `vectors` vectors of the activations' type.
    unsafe { cuda.launch_typed(&MODULE, typed!("layout_add"), grid, &arguments) }
}

/// Writes the weights of convolutions as the products take them.
///
/// # Safety
/// The parameters are as long as they say on both sides.
pub(crate) unsafe fn filters(cuda: &Cuda, parameters: &[Parameter]) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { launch(cuda, typed!("layout_filters"), parameters) }
}

/// Writes gradients and vectors to where they go.
///
/// # Safety
/// As [`filters`].
pub(crate) unsafe fn gradients(cuda: &Cuda, parameters: &[Parameter]) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { launch(cuda, typed!("layout_gradients"), parameters) }
}

/// Launches a kernel that takes many parameters, for all of them.
///
/// # Safety
/// As [`filters`].
unsafe fn launch(cuda: &Cuda, kernel: [&'static str; 2], parameters: &[Parameter]) -> Result<()> {
    for (arguments, blocks) in Parameters::launches(parameters) {
        let grid = Grid { blocks: (blocks, 1), threads: Parameters::THREADS, shared: 0 };
        // SAFETY: the caller's promise.
        unsafe { cuda.launch_typed(&MODULE, kernel, grid, &arguments) }?;
    }
    Ok(())
}

/// A convolution's weight of these dimensions.
pub(crate) fn filter([outputs, inputs, kernel, width]: [usize; 4]) -> Parameter {
    Parameter {
        outputs: outputs as i32,
        inputs: inputs as i32,
        window: (kernel * width) as i32,
        padded_outputs: pitch(outputs) as i32,
        pitch: pitch(inputs) as i32,
        ..Parameter::default()
    }
}

/// A vector of so many floats.
pub(crate) fn vector(len: usize) -> Parameter {
    let (inputs, pitch) = (len as i32, pitch(len) as i32);
    Parameter { outputs: 1, inputs, window: 1, padded_outputs: 1, pitch, plain: 1, ..Parameter::default() }
}

/// Where a storage of `f32` begins on the device.
fn start(cuda: &Cuda, storage: &Storage) -> Result<u64> {
    match storage {
        Storage::Cuda(storage) if storage.device.id() == cuda.device().id() => {
            let slice = storage.as_cuda_slice::<f32>()?;
            let stream = cuda.device().cuda_stream();
            let (address, _synchronized) = slice.device_ptr(&stream);
            Ok(address)
        }
        other => {
            let found = format!("{:?} on {:?}", other.dtype(), other.device().location());
            let expected = "f32 tensors on the network's CUDA device";
            Err(Error::Unsupported { operation: OPERATION, expected, found })
        }
    }
}
