//! The kernel's launch.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Tensor};

use super::cuda_args::Augment;
use super::{ByteImages, Draws, Order};
use crate::Result;
use crate::cuda::{Grid, Module, cuda_device, launch, module, pointer};

const OPERATION: &str = "augment";
const MODULE: Module = module!("augment");

// SAFETY: plain numbers and device addresses, laid out as cuda.cu's struct of the same name (the tests on the host check
// its size and its use).
unsafe impl DeviceRepr for Augment {}

/// As [`ByteImages::augment`], which has checked everything; the pixels channels last.
pub(super) fn augment(
    images: &ByteImages,
    order: &Order,
    draws: &Draws,
    epoch: u32,
    first: usize,
    count: usize,
    dtype: DType,
) -> Result<(Tensor, Tensor)> {
    let on = images.images.device();
    let device = &cuda_device(OPERATION, &images.images)?;
    let [channels, height, width] = images.dims;
    let shape = (count, height, width, channels);
    // SAFETY: the kernel writes every element.
    let (pixels, labels) =
        unsafe { (Tensor::empty(shape, dtype, on)?, Tensor::empty(count, DType::U32, on)?) };
    let out = match dtype {
        DType::BF16 => pointer::<half::bf16>(OPERATION, device, &pixels)?,
        _ => pointer::<f32>(OPERATION, device, &pixels)?,
    };
    let arguments = Augment {
        images: pointer::<u8>(OPERATION, device, &images.images)?,
        labels: pointer::<u8>(OPERATION, device, &images.labels)?,
        order: pointer::<u32>(OPERATION, device, &order.images)?,
        values: pointer::<f32>(OPERATION, device, &images.values)?,
        out,
        out_labels: pointer::<u32>(OPERATION, device, &labels)?,
        bf16_out: (dtype == DType::BF16).into(),
        ..Augment::new(draws, images.dims, epoch, first as u64)
    };
    let grid = Grid { blocks: (count, 1), threads: 256, shared: 0 };
    // SAFETY: the positions are inside the order, whose numbers are those of images that are there; the outputs have
    // `count` images and labels.
    unsafe { launch(device, &MODULE, "augment", grid, &arguments)? };
    Ok((pixels, labels))
}
