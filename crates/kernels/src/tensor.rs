//! Between candle's tensors and the slices that kernels take.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor};

use crate::{Buffer, Cpu, Error, Result, parallel};

/// That a tensor is `f32` on the CPU.
pub(crate) fn cpu_f32(operation: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.device().is_cpu() && tensor.dtype() == DType::F32 {
        return Ok(());
    }
    Err(unsupported(operation, tensor))
}

/// Calls `f` with a tensor's storage, which must be `f32` on the CPU.
pub(crate) fn with_f32<T>(
    tensor: &Tensor,
    f: impl FnOnce(&[f32], &Layout) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => f(data, layout),
        _ => Err(unsupported("a kernel", tensor).into()),
    }
}

fn unsupported(operation: &'static str, tensor: &Tensor) -> Error {
    let found = format!("{:?} on {:?}", tensor.dtype(), tensor.device().location());
    Error::Unsupported { operation, expected: "f32 tensors on the CPU", found }
}

/// The elements of a contiguous layout.
pub(crate) fn contiguous<'a>(data: &'a [f32], layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or(candle_core::Error::RequiresContiguous { op: "kernel" })?;
    Ok(&data[start..end])
}

/// A channels-last image batch: where it lay, or a copy.
pub(crate) enum ChannelsLast<'a> {
    Borrowed(&'a [f32]),
    Copied(Buffer),
}

impl Deref for ChannelsLast<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Borrowed(data) => data,
            Self::Copied(data) => data,
        }
    }
}

/// The elements of an `[N, C, H, W]` layout in `[N, H, W, C]` order, copied only where they do not lie so.
///
/// # Panics
/// If the layout has not four dimensions.
pub(crate) fn channels_last<'a>(cpu: &Cpu, data: &'a [f32], layout: &Layout) -> ChannelsLast<'a> {
    let ([_, channels, height, width], [by_image, by_channel, by_row, by_column]) =
        (layout.dims(), layout.stride())
    else {
        unreachable!("callers have asked for four dimensions")
    };
    let data = &data[layout.start_offset()..];
    let len = layout.shape().elem_count();
    // The stride of a dimension of one element says nothing.
    let lies = |size: usize, stride: usize, expected: usize| size == 1 || stride == expected;
    if lies(*channels, *by_channel, 1)
        && lies(*width, *by_column, *channels)
        && lies(*height, *by_row, width * channels)
        && lies(layout.dims()[0], *by_image, height * width * channels)
    {
        return ChannelsLast::Borrowed(&data[..len]);
    }
    let mut copy = cpu.buffer(len);
    let line = (width * channels).max(1);
    parallel::for_each(cpu, copy.chunks_mut(line).enumerate(), |(index, to)| {
        let from = &data[index / height * by_image + index % height * by_row..];
        for (column, to) in to.chunks_exact_mut(*channels).enumerate() {
            for (channel, to) in to.iter_mut().enumerate() {
                *to = from[channel * by_channel + column * by_column];
            }
        }
    });
    ChannelsLast::Copied(copy)
}

/// Calls `f` with the elements of an `f32` tensor `[N, C, H, W]` of the CPU, in `[N, H, W, C]` order.
pub(crate) fn with_channels_last<T>(
    cpu: &Cpu,
    tensor: &Tensor,
    f: impl FnOnce(&[f32]) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    tensor.dims4()?;
    with_f32(tensor, |data, layout| f(&channels_last(cpu, data, layout)))
}

/// Calls `f` with the elements of a contiguous `f32` tensor of the CPU.
pub(crate) fn with_contiguous<T>(
    tensor: &Tensor,
    f: impl FnOnce(&[f32]) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    with_f32(tensor, |data, layout| f(contiguous(data, layout)?))
}

/// An `[N, C, H, W]` tensor of data `[N, H, W, C]`, which are `dims`.
pub(crate) fn from_channels_last(data: Vec<f32>, dims: [usize; 4]) -> candle_core::Result<Tensor> {
    Tensor::from_vec(data, &dims, &Device::Cpu)?.permute((0, 3, 1, 2))
}
