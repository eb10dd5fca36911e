//! Between tensors and the vector that travels.

use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};

use crate::{Error, Result};

/// The elements of several tensors, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Values {
    /// Copies the tensors, in one pass over memory.
    pub(crate) fn pack(tensors: &[Tensor]) -> Result<Self> {
        let len = tensors.iter().map(Tensor::elem_count).sum();
        let mut values = match tensors.first().map_or(DType::F32, Tensor::dtype) {
            DType::F32 => Self::F32(Vec::with_capacity(len)),
            DType::F64 => Self::F64(Vec::with_capacity(len)),
            found => return Err(Error::Type { found }),
        };
        for tensor in tensors {
            let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
            let (storage, layout) = tensor.storage_and_layout();
            let own = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
            match (&mut values, &*storage) {
                (Self::F32(values), Storage::Cpu(CpuStorage::F32(data))) => {
                    values.extend_from_slice(&data[own])
                }
                (Self::F64(values), Storage::Cpu(CpuStorage::F64(data))) => {
                    values.extend_from_slice(&data[own])
                }
                _ => return Err(Error::Type { found: tensor.dtype() }),
            }
        }
        Ok(values)
    }

    /// Tensors of these shapes, on the CPU all views of one vector.
    pub(crate) fn unpack(self, shapes: &[Shape], device: &Device) -> Result<Vec<Tensor>> {
        let len = shapes.iter().map(Shape::elem_count).sum::<usize>();
        let all = match self {
            Self::F32(values) => Tensor::from_vec(values, len, device)?,
            Self::F64(values) => Tensor::from_vec(values, len, device)?,
        };
        let mut start = 0;
        let mut tensors = Vec::with_capacity(shapes.len());
        for shape in shapes {
            tensors.push(all.narrow(0, start, shape.elem_count())?.reshape(shape)?);
            start += shape.elem_count();
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_from_the_vector() -> Result<()> {
        let device = Device::Cpu;
        let matrix = Tensor::arange(0f32, 6., &device)?.reshape((2, 3))?;
        let (turned, number) = (matrix.t()?, Tensor::new(7f32, &device)?);
        let values = Values::pack(&[turned.clone(), number.clone(), matrix.narrow(1, 1, 0)?])?;
        assert_eq!(values, Values::F32(vec![0., 3., 1., 4., 2., 5., 7.]));
        let shapes = [turned.shape().clone(), number.shape().clone(), Shape::from((2, 0))];
        let back = values.unpack(&shapes, &device)?;
        assert_eq!(back[0].to_vec2::<f32>()?, turned.to_vec2::<f32>()?);
        assert_eq!((back[1].to_scalar::<f32>()?, back[2].dims()), (7.0, &[2, 0][..]));
        Ok(())
    }

    #[test]
    fn types_are_not_mixed() -> Result<()> {
        let one = |dtype| Tensor::zeros(1, dtype, &Device::Cpu);
        for tensors in [vec![one(DType::F32)?, one(DType::F64)?], vec![one(DType::U8)?]] {
            assert!(matches!(Values::pack(&tensors), Err(Error::Type { .. })));
        }
        Ok(())
    }
}
