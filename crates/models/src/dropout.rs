use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use rand_chacha::rand_core::Rng;
use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::dropout::Mask;

use crate::error::Result;
use crate::mode::Mode;
use crate::random::stream;

/// Sets each element to zero with probability p in training, and multiplies the others by 1 / (1 - p)
/// (Srivastava et al., 2014).
///
/// Whether an element is kept depends on (seed, pass, the layer's name, the element's position) alone. The pass
/// advances by one with every training forward.
#[derive(Debug)]
pub(crate) struct Dropout {
    probability: f64,
    name: String,
    position: Mutex<Position>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Position {
    seed: u64,
    pass: u64,
}

impl Dropout {
    /// At seed 0, pass 0.
    pub(crate) fn new(probability: f64, name: String) -> Result<Self> {
        let holds = (0.0..1.0).contains(&probability);
        OutOfRange::check("dropout", probability, holds, "a probability in [0, 1)")?;
        Ok(Self { probability, name, position: Mutex::default() })
    }

    /// Sets the seed and the number of the next pass.
    pub(crate) fn seek(&self, seed: u64, pass: u64) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Position { seed, pass };
    }

    /// The mask of this pass, or none where every element is kept as it is.
    pub(crate) fn next_mask(&self, mode: Mode) -> Option<Mask> {
        if !mode.is_training() || self.probability == 0.0 {
            return None;
        }
        let Position { seed, pass } = {
            let mut next = self.position.lock().unwrap_or_else(PoisonError::into_inner);
            let position = *next;
            next.pass = position.pass.wrapping_add(1);
            position
        };
        let key = stream(seed, *b"dropout.", &self.name, pass).next_u64();
        Some(Mask::new(key, self.probability))
    }

    pub(crate) fn forward_plain(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let Some(mask) = self.next_mask(mode) else { return Ok(x.clone()) };
        let (n, c, h, w) = x.dims4()?;
        let mut values = vec![0.0; x.elem_count()];
        mask.fill(0, &mut values);
        let mask = Tensor::from_vec(values, (n, h, w, c), x.device())?.permute((0, 3, 1, 2))?;
        Ok((x * mask.to_dtype(x.dtype())?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn values(dropout: &Dropout, mode: Mode) -> Vec<f32> {
        let x = Tensor::ones((8, 16, 12, 12), DType::F32, &Device::Cpu).unwrap();
        dropout.forward_plain(&x, mode).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn drops_its_share_and_keeps_the_mean() {
        for p in [0.1, 0.3, 0.5, 0.9] {
            let values = values(&Dropout::new(p, "d".into()).unwrap(), Mode::Train);
            let scale = (1.0 / (1.0 - p)) as f32;
            assert!(values.iter().all(|&v| v == 0.0 || v == scale));
            let dropped = values.iter().filter(|&&v| v == 0.0).count() as f64 / values.len() as f64;
            let deviation = (p * (1.0 - p) / values.len() as f64).sqrt();
            assert!((dropped - p).abs() < 4.0 * deviation, "{dropped} for {p}");
        }
    }

    #[test]
    fn neighbors_are_independent() {
        let values = values(&Dropout::new(0.5, "d".into()).unwrap(), Mode::Train);
        for lag in [1, 12, 144, 2304] {
            let pairs = values.iter().zip(&values[lag..]).filter(|(a, b)| a == b).count();
            let share = pairs as f64 / (values.len() - lag) as f64;
            assert!((share - 0.5).abs() < 0.02, "{share} at lag {lag}");
        }
    }

    #[test]
    fn a_pass_is_its_seed_number_and_layer() {
        let dropout = Dropout::new(0.5, "a".into()).unwrap();
        dropout.seek(17, 0);
        let passes: Vec<_> = (0..3).map(|_| values(&dropout, Mode::Train)).collect();
        assert_ne!(passes[0], passes[1]);
        assert_ne!(passes[1], passes[2]);

        dropout.seek(17, 1);
        assert_eq!(values(&dropout, Mode::TrainFrozenStatistics), passes[1]);
        assert_eq!(values(&dropout, Mode::Eval), vec![1.0; passes[0].len()]);
        assert_eq!(values(&dropout, Mode::Train), passes[2]);

        dropout.seek(18, 0);
        assert_ne!(values(&dropout, Mode::Train), passes[0]);
        let other = Dropout::new(0.5, "b".into()).unwrap();
        other.seek(17, 0);
        assert_ne!(values(&other, Mode::Train), passes[0]);
    }

    #[test]
    fn a_probability_of_one_is_refused() {
        for p in [1.0, -0.1, f64::NAN] {
            let error = Dropout::new(p, "d".into()).unwrap_err().to_string();
            assert!(
                error.starts_with("dropout = ") && error.ends_with("must be a probability in [0, 1)"),
                "{error}"
            );
        }
    }
}
