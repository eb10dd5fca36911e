//! Random streams by name: a draw depends on what it is for, not on when or by which thread it is made.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream's numbers decide. The values are part of every recorded result: never renumber them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Order = 1,
    Augmentation = 2,
    SyntheticTrain = 3,
    SyntheticTest = 4,
    Mix = 5,
    HoldOut = 6,
}

/// The stream for `position` within `index` (an epoch, say) of a purpose: the first three make ChaCha8's key,
/// the position its nonce, so no two streams overlap and any of them starts in constant time.
pub(crate) fn stream(seed: u64, purpose: Purpose, index: u64, position: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(position);
    rng
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::Rng;

    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let first = |seed, purpose, index, position| stream(seed, purpose, index, position).next_u64();
        assert_eq!(first(1, Purpose::Order, 2, 3), first(1, Purpose::Order, 2, 3));
        let mut seen = HashSet::new();
        for seed in 0..3 {
            for purpose in [
                Purpose::Order,
                Purpose::Augmentation,
                Purpose::SyntheticTrain,
                Purpose::SyntheticTest,
                Purpose::Mix,
                Purpose::HoldOut,
            ] {
                for index in 0..3 {
                    for position in 0..3 {
                        assert!(seen.insert(first(seed, purpose, index, position)));
                    }
                }
            }
        }
    }
}
