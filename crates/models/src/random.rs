//! Streams of random numbers that are the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The stream of (seed, purpose, name, index). No other key gives its numbers, and the order in which streams are opened
/// does not matter.
pub(crate) fn stream(seed: u64, purpose: [u8; 8], name: &str, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&purpose);
    key[16..24].copy_from_slice(&fnv1a(name).to_le_bytes());
    key[24..].copy_from_slice(&index.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// The 64-bit FNV-1a hash: short names need no more, and its value is fixed for all time, unlike std's hashers'.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Uniform in [0, 1), a multiple of 2^-53.
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal deviates by Marsaglia's polar method. It needs a square root, which IEEE 754 rounds the same
/// everywhere, and a logarithm, which platforms round differently: so it takes [`ln`].
pub(crate) struct Normal {
    rng: ChaCha8Rng,
    spare: Option<f64>,
}

impl Normal {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Self { rng, spare: None }
    }

    pub(crate) fn sample(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let u = 2.0 * uniform(&mut self.rng) - 1.0;
            let v = 2.0 * uniform(&mut self.rng) - 1.0;
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                let scale = (-2.0 * ln(s) / s).sqrt();
                self.spare = Some(v * scale);
                return u * scale;
            }
        }
    }
}

/// The natural logarithm of a positive normal number, only from additions, multiplications and divisions:
/// with x = m 2^e and m in [sqrt(1/2), sqrt(2)], ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)), whose series has
/// reached the last bit after twelve terms.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as f64 - 1023.0;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..12).rev().fold(0.0, |sum, k| sum * z * z + 1.0 / f64::from(2 * k + 1));
    exponent * std::f64::consts::LN_2 + 2.0 * z * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_agrees_with_the_platform() {
        for x in [1e-30, 1e-9, 0.1, 0.5, 0.707, 0.708, 0.9999999, 1.0, 1.414, 1.415, 2.0, 1e10] {
            let error = (ln(x) - x.ln()).abs();
            assert!(error <= 4e-16 * x.ln().abs().max(1e-3), "ln({x}) is off by {error:e}");
        }
    }

    #[test]
    fn normal_has_the_moments_of_a_normal() {
        let mut normal = Normal::new(stream(17, *b"a test..", "", 0));
        let samples: Vec<f64> = (0..200_000).map(|_| normal.sample()).collect();
        let moment = |k| samples.iter().map(|x| x.powi(k)).sum::<f64>() / samples.len() as f64;
        for (k, expected, tolerance) in [(1, 0.0, 0.01), (2, 1.0, 0.015), (3, 0.0, 0.05), (4, 3.0, 0.1)] {
            assert!((moment(k) - expected).abs() < tolerance, "moment {k} is {}", moment(k));
        }
        let tail = samples.iter().filter(|x| x.abs() > 3.0).count() as f64 / samples.len() as f64;
        assert!((tail - 0.0027).abs() < 0.0006, "{tail} of the samples are beyond 3 sigma");
    }

    #[test]
    fn every_part_of_the_key_gives_another_stream() {
        let first = |mut rng: ChaCha8Rng| rng.next_u64();
        let streams = [
            first(stream(1, *b"purpose1", "a", 0)),
            first(stream(2, *b"purpose1", "a", 0)),
            first(stream(1, *b"purpose2", "a", 0)),
            first(stream(1, *b"purpose1", "b", 0)),
            first(stream(1, *b"purpose1", "a", 1)),
        ];
        for (i, a) in streams.iter().enumerate() {
            assert!(streams[i + 1..].iter().all(|b| a != b));
        }
    }
}
