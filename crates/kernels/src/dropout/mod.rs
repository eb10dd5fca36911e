//! Dropout masks from a counter (Srivastava et al., 2014).
//!
//! Whether element `i` of a layer's output is kept depends on a key and `i` alone, so a mask is the same whoever
//! computes which part of it, on every device, and is never stored.

#[cfg(any(feature = "cuda", all(test, unix)))]
pub(crate) mod cuda_args;

use crate::Cpu;

/// The factors of one pass through one layer: 0 with probability p, else 1 / (1 - p). Elements are numbered channels
/// last: ((n H + y) W + x) C + c.
///
/// ```
/// use wrn_sam_kernels::{Cpu, dropout::Mask};
/// let mask = Mask::new(17, 0.5);
/// let mut ones = vec![1f32; 1000];
/// mask.apply(Cpu::shared(), &mut ones);
/// assert!(ones.iter().all(|&value| value == 0.0 || value == 2.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// Picks the mask.
    pub(crate) key: u64,
    /// An element is dropped where its number lies below this.
    pub(crate) threshold: u64,
    /// What the others are multiplied by.
    pub(crate) scale: f32,
}

impl Mask {
    /// A mask of its own for each `key`, that drops with the given probability, in [0, 1).
    pub fn new(key: u64, probability: f64) -> Self {
        // Probabilities below 1 stay below 2^64.
        let threshold = (probability * 2f64.powi(64)) as u64;
        Self { key, threshold, scale: (1.0 / (1.0 - probability)) as f32 }
    }

    /// Multiplies channels-last values, all of the layer's, by their factors.
    pub fn apply(&self, cpu: &Cpu, values: &mut [f32]) {
        const CHUNK: usize = 4096;
        cpu.for_each_chunk(values, CHUNK, |index, chunk| {
            let mut factors = [0.0; CHUNK];
            self.fill((index * CHUNK) as u64, &mut factors[..chunk.len()]);
            chunk.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        });
    }

    /// The factors of the elements from `first` on.
    pub fn fill(&self, first: u64, factors: &mut [f32]) {
        for (element, factor) in (first..).zip(factors) {
            *factor = if splitmix64(self.key, element) < self.threshold { 0.0 } else { self.scale };
        }
    }
}

/// Number `index` of the SplitMix64 generator begun at `key` (Steele, Lea and Flood, 2014): any element's number is at
/// hand without those before it.
fn splitmix64(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_can_be_filled_in_pieces() {
        let mask = Mask::new(3, 0.3);
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
}
