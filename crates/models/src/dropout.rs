use rand_chacha::rand_core::Rng;
use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::dropout::Mask;

use crate::error::Result;
use crate::mode::Mode;
use crate::random::stream;

/// Sets each element to zero with probability p in training, and multiplies the others by 1 / (1 - p)
/// (Srivastava et al., 2014).
///
/// Whether an element is kept depends only on (seed, pass, the layer's name, the element's position).
#[derive(Debug, Clone)]
pub(crate) struct Dropout {
    probability: f64,
    name: String,
}

impl Dropout {
    pub(crate) fn new(probability: f64, name: String) -> Result<Self> {
        let holds = (0.0..1.0).contains(&probability);
        OutOfRange::check("dropout", probability, holds, "a probability in [0, 1)")?;
        Ok(Self { probability, name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn probability(&self) -> f64 {
        self.probability
    }
}

/// What chooses the masks of one pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masks {
    pub(crate) mode: Mode,
    pub(crate) position: Position,
}

impl Masks {
    /// The layer's mask, or none where every element is kept as it is.
    pub(crate) fn mask(&self, dropout: Option<&Dropout>) -> Option<Mask> {
        let dropout = dropout.filter(|dropout| self.mode.is_training() && dropout.probability > 0.0)?;
        let Position { seed, pass } = self.position;
        let key = stream(seed, *b"dropout.", &dropout.name, pass).next_u64();
        Some(Mask::new(key, dropout.probability))
    }
}

/// The seed of the masks, and the number of the next training pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Position {
    pub(crate) seed: u64,
    pub(crate) pass: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(dropout: &Dropout, seed: u64, pass: u64, mode: Mode) -> Vec<f32> {
        let mut values = vec![1.0; 8 * 16 * 12 * 12];
        if let Some(mask) = (Masks { mode, position: Position { seed, pass } }).mask(Some(dropout)) {
            mask.fill(0, &mut values);
        }
        values
    }

    #[test]
    fn drops_its_share_and_keeps_the_mean() {
        for p in [0.1, 0.3, 0.5, 0.9] {
            let values = values(&Dropout::new(p, "d".into()).unwrap(), 0, 0, Mode::Train);
            let scale = (1.0 / (1.0 - p)) as f32;
            assert!(values.iter().all(|&v| v == 0.0 || v == scale));
            let dropped = values.iter().filter(|&&v| v == 0.0).count() as f64 / values.len() as f64;
            let deviation = (p * (1.0 - p) / values.len() as f64).sqrt();
            assert!((dropped - p).abs() < 4.0 * deviation, "{dropped} for {p}");
        }
    }

    #[test]
    fn neighbors_are_independent() {
        let values = values(&Dropout::new(0.5, "d".into()).unwrap(), 0, 0, Mode::Train);
        for lag in [1, 12, 144, 2304] {
            let pairs = values.iter().zip(&values[lag..]).filter(|(a, b)| a == b).count();
            let share = pairs as f64 / (values.len() - lag) as f64;
            assert!((share - 0.5).abs() < 0.02, "{share} at lag {lag}");
        }
    }

    #[test]
    fn a_mask_is_its_seed_pass_and_layer() {
        let [a, b] = ["a", "b"].map(|name| Dropout::new(0.5, name.into()).unwrap());
        let mask = values(&a, 17, 1, Mode::Train);
        assert_eq!(values(&a, 17, 1, Mode::TrainFrozenStatistics), mask);
        for other in
            [values(&a, 17, 0, Mode::Train), values(&a, 18, 1, Mode::Train), values(&b, 17, 1, Mode::Train)]
        {
            assert_ne!(other, mask);
        }
        assert_eq!(values(&a, 17, 1, Mode::Eval), vec![1.0; mask.len()]);
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
