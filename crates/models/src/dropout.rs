use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use rand_chacha::rand_core::Rng;
use wrn_sam_kernels::Context;

use crate::error::{Error, Result};
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
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::config("dropout", probability, "must be a probability in [0, 1)"));
        }
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
        // Probabilities below 1 stay below 2^64.
        let threshold = (self.probability * 2f64.powi(64)) as u64;
        Some(Mask { key, threshold, scale: (1.0 / (1.0 - self.probability)) as f32 })
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

/// The factors of one pass through one layer. Elements are numbered channels last: ((n H + y) W + x) C + c.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask {
    key: u64,
    threshold: u64,
    scale: f32,
}

impl Mask {
    /// Multiplies channels-last values, all of the layer's, by their factors.
    pub(crate) fn apply(&self, ctx: &Context, values: &mut [f32]) {
        const CHUNK: usize = 4096;
        ctx.for_each_chunk(values, CHUNK, |index, chunk| {
            let mut factors = [0.0; CHUNK];
            self.fill((index * CHUNK) as u64, &mut factors[..chunk.len()]);
            chunk.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        });
    }

    /// The factors, 0 or 1 / (1 - p), of the elements from `first` on.
    pub(crate) fn fill(&self, first: u64, factors: &mut [f32]) {
        for (element, factor) in (first..).zip(factors) {
            *factor = if splitmix64(self.key, element) < self.threshold { 0.0 } else { self.scale };
        }
    }
}

/// Number `index` of the SplitMix64 generator begun at `key` (Steele, Lea and Flood, 2014): any element's number is at
/// hand without those before it, so that the mask does not depend on who computes which part.
fn splitmix64(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
    fn neighbours_are_independent() {
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
    fn a_mask_can_be_filled_in_pieces() {
        let mask = Dropout::new(0.3, "d".into()).unwrap().next_mask(Mode::Train).unwrap();
        let (mut whole, mut pieces) = ([0.0; 100], [0.0; 100]);
        mask.fill(5, &mut whole);
        mask.fill(45, &mut pieces[40..]);
        mask.fill(5, &mut pieces[..40]);
        assert_eq!(whole, pieces);
    }

    #[test]
    fn splitmix64_is_the_published_generator() {
        // The first two numbers of the reference implementation from state 1234567.
        assert_eq!(splitmix64(1_234_567, 0), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(1_234_567, 1), 3_203_168_211_198_807_973);
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
