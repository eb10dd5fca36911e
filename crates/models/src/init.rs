//! Seeded initialization: a tensor's first values depend only on (seed, name, shape).

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;

use crate::random::{Normal, stream, uniform};

/// Convolutions: normal with mean 0 and standard deviation sqrt(2 / fan_in), fan_in being input channels times the
/// kernel's area (He et al., <https://arxiv.org/abs/1502.01852>).
pub(crate) const CONVOLUTION: Init = candle_nn::init::DEFAULT_KAIMING_NORMAL;
/// Batch normalization's weight and running variance.
pub(crate) const ONE: Init = candle_nn::init::ONE;
/// Biases, the running mean, and the whole classifier.
pub(crate) const ZERO: Init = candle_nn::init::ZERO;

/// Draws a tensor as `init` says, from the stream of `name`. The values are computed in f64 on the CPU, so that every
/// dtype and device begins with the same ones.
pub(crate) fn tensor(
    seed: u64,
    name: &str,
    init: Init,
    shape: &Shape,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let mut normal = Normal::new(stream(seed, *b"init....", name, 0));
    let mut rng = stream(seed, *b"init....", name, 0);
    let mut draw: Box<dyn FnMut() -> f64> = match init {
        Init::Const(value) => Box::new(move || value),
        Init::Randn { mean, stdev } => Box::new(move || mean + stdev * normal.sample()),
        Init::Uniform { lo, up } => Box::new(move || lo + (up - lo) * uniform(&mut rng)),
        Init::Kaiming { dist, fan, non_linearity } => {
            let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => Box::new(move || std * normal.sample()),
                NormalOrUniform::Uniform => {
                    let bound = 3f64.sqrt() * std;
                    Box::new(move || bound * (2.0 * uniform(&mut rng) - 1.0))
                }
            }
        }
    };
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| draw()).collect();
    Tensor::from_vec(values, shape.clone(), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, name: &str, init: Init, shape: impl Into<Shape>) -> Vec<f32> {
        let tensor = tensor(seed, name, init, &shape.into(), DType::F32, &Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn kaiming_normal_has_its_deviation() {
        let values = draw(17, "w", CONVOLUTION, (64, 32, 3, 3));
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        let expected = (2.0 / (32.0 * 9.0f64)).sqrt();
        assert!((variance.sqrt() / expected - 1.0).abs() < 0.02, "{} for {expected}", variance.sqrt());
        assert!(mean.abs() < 0.02 * expected);
    }

    #[test]
    fn the_first_values_never_change() {
        // Fixed for all time: a change here would change every seeded run.
        assert_eq!(draw(17, "f.0_convolution.weight", CONVOLUTION, (1, 2, 1, 1)), [0.7165399, -1.1105198]);
        assert_eq!(draw(17, "u", Init::Uniform { lo: 1.0, up: 2.0 }, 2), [1.5781999, 1.5877786]);
    }

    #[test]
    fn every_hint_of_candle_is_drawn_as_it_says() {
        assert_eq!(draw(1, "c", Init::Const(0.25), 3), [0.25; 3]);
        assert!(
            draw(1, "u", Init::Uniform { lo: -2.0, up: -1.0 }, 1000).iter().all(|x| (-2.0..-1.0).contains(x))
        );
        let normal = draw(1, "n", Init::Randn { mean: 5.0, stdev: 0.1 }, 1000);
        assert!(normal.iter().all(|x| (4.0..6.0).contains(x)));
        let bound = (6.0f32 / 9.0).sqrt();
        let uniform = draw(1, "k", candle_nn::init::DEFAULT_KAIMING_UNIFORM, (50, 1, 3, 3));
        assert!(uniform.iter().all(|x| x.abs() <= bound) && uniform.iter().any(|x| x.abs() > 0.95 * bound));
    }

    #[test]
    fn seed_and_name_choose_the_stream() {
        let values = draw(1, "a", CONVOLUTION, (2, 2, 3, 3));
        assert_eq!(values, draw(1, "a", CONVOLUTION, (2, 2, 3, 3)));
        assert_ne!(values, draw(2, "a", CONVOLUTION, (2, 2, 3, 3)));
        assert_ne!(values, draw(1, "b", CONVOLUTION, (2, 2, 3, 3)));
    }
}
