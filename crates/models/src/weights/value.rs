use std::rc::Rc;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::Result;

/// A named value before it is loaded: its element type and shape are known, its elements are not copied yet.
pub(crate) enum Value<'a> {
    /// A tensor in memory, on any device.
    Tensor(&'a Tensor),
    /// Part of a safetensors file.
    View(TensorView<'a>),
    /// Part of a PyTorch file.
    Strided(Strided),
}

/// Elements that lie in a storage at an offset and with strides, all counted in elements.
pub(crate) struct Strided {
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    storage: Rc<Vec<u8>>,
}

impl Value<'_> {
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Tensor(tensor) => tensor.dtype().into(),
            Self::View(view) => view.dtype(),
            Self::Strided(strided) => strided.dtype,
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            Self::View(view) => view.shape(),
            Self::Strided(strided) => &strided.shape,
        }
    }

    /// The elements as a new tensor on the CPU.
    pub(crate) fn load(&self) -> Result<Tensor> {
        match self {
            // Copied, because a state dict may hold the very variables that it is loaded into, which candle refuses.
            Self::Tensor(tensor) => Ok(tensor.to_device(&Device::Cpu)?.copy()?.detach()),
            Self::View(view) => Ok(view.load(&Device::Cpu)?),
            Self::Strided(strided) => strided.load(),
        }
    }
}

impl Strided {
    /// # Errors
    /// Where the elements reach outside the storage, or share its elements.
    pub(super) fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        storage: Rc<Vec<u8>>,
    ) -> std::result::Result<Self, String> {
        let size = dtype.bitsize() / 8;
        let outside = || format!("its shape {shape:?} with strides {strides:?} does not fit its storage");
        if strides.len() != shape.len() {
            return Err(outside());
        }
        let count =
            shape.iter().try_fold(1usize, |count, &axis| count.checked_mul(axis)).ok_or_else(outside)?;
        if count > 0 {
            let mut last = offset;
            for (&axis, &stride) in shape.iter().zip(&strides) {
                let step = (axis - 1).checked_mul(stride).ok_or_else(outside)?;
                last = last.checked_add(step).ok_or_else(outside)?;
            }
            // No more elements than the storage has bounds what a small file can ask for.
            if last >= storage.len() / size || count > storage.len() / size {
                return Err(outside());
            }
        }
        Ok(Self { dtype, shape, strides, offset, storage })
    }

    fn load(&self) -> Result<Tensor> {
        let size = self.dtype.bitsize() / 8;
        let count: usize = self.shape.iter().product();
        let mut bytes = Vec::with_capacity(count * size);
        for index in 0..count {
            let at = size * self.element(index);
            bytes.extend_from_slice(&self.storage[at..at + size]);
        }
        let view = TensorView::new(self.dtype, self.shape.clone(), &bytes);
        Ok(view.map_err(candle_core::Error::wrap)?.load(&Device::Cpu)?)
    }

    /// Where the element with this row-major index lies in the storage.
    fn element(&self, mut index: usize) -> usize {
        let mut at = self.offset;
        for (&axis, &stride) in self.shape.iter().zip(&self.strides).rev() {
            at += index % axis * stride;
            index /= axis;
        }
        at
    }
}
