//! The precision of a network's convolutions.

/// In what numbers a network's activations are kept and its convolutions multiplied. Weights, their gradients, batch
/// statistics, the loss and the optimizer's state are `f32` in every case, and so is every sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// `f32` throughout.
    #[default]
    F32,
    /// Activations in `f32`; convolutions round their factors to TF32's 10 bits of mantissa. CUDA only.
    Tf32,
    /// Activations in bfloat16, 7 bits of mantissa; convolutions take factors of that type. CUDA only.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            other => Err(crate::Error::Unsupported {
                operation: "precision",
                expected: "f32, tf32 or bf16",
                found: other.to_string(),
            }),
        }
    }
}
