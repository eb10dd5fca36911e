//! Images as the network's kernels take them: rows of channels padded with zeros to whole vectors, in either type.

use super::Guarded;
use crate::cuda_args::pitch;

/// The types of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    Bf16,
}

impl Element {
    pub(crate) const BOTH: [Self; 2] = [Self::F32, Self::Bf16];

    /// The name of a kernel's form for this type.
    pub(crate) fn kernel(self, name: &str) -> String {
        format!("{name}_{}", if self == Self::F32 { "f32" } else { "bf16" })
    }

    /// How far a result may lie from the reference, relative to the largest: the rounding of its type.
    pub(crate) fn tolerance(self, in_f32: f32) -> f32 {
        if self == Self::F32 { in_f32 } else { 1.0 / 256.0 }
    }

    /// Values as the type holds them.
    pub(crate) fn round(self, values: &[f32]) -> Vec<f32> {
        match self {
            Self::F32 => values.to_vec(),
            Self::Bf16 => values.iter().map(|&value| widen(narrow(value))).collect(),
        }
    }
}

fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rows of channels on the "device".
pub(crate) enum Rows {
    F32(Guarded<f32>),
    Bf16(Guarded<u16>),
}

impl Rows {
    /// Padded rows of `values`, `[rows, channels]`, rounded to the type.
    pub(crate) fn new(element: Element, values: &[f32], channels: usize) -> Self {
        let mut padded = Vec::new();
        for row in values.chunks(channels) {
            padded.extend_from_slice(row);
            padded.resize(padded.len() + pitch(channels) - channels, 0.0);
        }
        match element {
            Element::F32 => Self::F32(Guarded::new(&padded)),
            Element::Bf16 => Self::Bf16(Guarded::new(&padded.into_iter().map(narrow).collect::<Vec<_>>())),
        }
    }

    /// Rows to be written: full of NaN.
    pub(crate) fn unwritten(element: Element, rows: usize, channels: usize) -> Self {
        let len = rows * pitch(channels);
        match element {
            Element::F32 => Self::F32(Guarded::new(&vec![f32::NAN; len])),
            Element::Bf16 => Self::Bf16(Guarded::new(&vec![0x7fc0u16; len])),
        }
    }

    pub(crate) fn device(&self) -> u64 {
        match self {
            Self::F32(values) => values.device(),
            Self::Bf16(values) => values.device(),
        }
    }

    /// All values, padding included.
    pub(crate) fn padded(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.to_vec(),
            Self::Bf16(values) => values.iter().map(|&bits| widen(bits)).collect(),
        }
    }

    /// The values without their padding, which must be zeros.
    pub(crate) fn read(&self, channels: usize) -> Vec<f32> {
        let mut values = Vec::new();
        for row in self.padded().chunks(pitch(channels)) {
            values.extend_from_slice(&row[..channels]);
            assert!(
                row[channels..].iter().all(|&padding| padding == 0.0),
                "the padding is {:?}",
                &row[channels..]
            );
        }
        values
    }
}

/// Numbers from -1 to 1 by a seed.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// That two slices agree within `tolerance` of the largest element of the second.
pub(crate) fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * largest;
        assert!(close, "{name}: element {i} is {found}, expected {expected} (largest {largest})");
    }
}
