use candle_core::Tensor;

use crate::error::Result;

/// max(0, x), with derivative 0 at x = 0 as PyTorch's; candle's own `relu` has derivative 1 there.
pub(crate) fn relu_plain(x: &Tensor) -> Result<Tensor> {
    let positive = x.detach().gt(0f64)?.to_dtype(x.dtype())?;
    Ok((x * positive)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn the_kink_has_no_slope() {
        let x = Var::new(&[-1.5f32, 0.0, 2.5], &Device::Cpu).unwrap();
        let y = relu_plain(&x).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), [0.0, 0.0, 2.5]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0]);
    }
}
