//! The choices among named alternatives that a recipe holds.

use std::fmt;

use serde::{Deserialize, Serialize};
use wrn_sam_collective::Precision;
use wrn_sam_data::{Origin, Source, Variant};

/// Which images a run trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataChoice {
    /// Whatever is there; a run writes down what it was.
    #[default]
    Auto,
    /// The real CIFAR-10.
    Cifar10,
    /// The real CIFAR-100.
    Cifar100,
    /// The synthetic set.
    Synthetic,
    /// A folder of pictures by class; the run's source.toml says where it is.
    Folder,
    /// Images that a program had in memory.
    Memory,
}

impl DataChoice {
    /// What images from `source` are.
    pub fn of(source: &Source) -> Self {
        match (&source.origin, source.variant) {
            (Origin::Synthetic { .. }, _) => Self::Synthetic,
            (Origin::Pictures { .. }, _) => Self::Folder,
            (_, Some(Variant::Cifar10)) => Self::Cifar10,
            (_, Some(Variant::Cifar100)) => Self::Cifar100,
            (_, None) => Self::Memory,
        }
    }
}

/// How the learning rate moves over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// [`MultiStepLr`](wrn_sam_optim::MultiStepLr): times 0.2 at 20 %, 50 %, 70 % and 85 % of the epochs.
    #[default]
    Step,
    /// [`CosineWithWarmup`](wrn_sam_optim::CosineWithWarmup): a linear rise over `warmup_epochs`, then half a cosine down to zero.
    Cosine,
}

/// What happens to a training image. Every kind begins with crop and flip; every kind but [`Basic`](Self::Basic) ends with
/// the recipe's cutout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// Only crop and flip.
    Basic,
    /// The reference's.
    #[default]
    Cutout,
    /// AutoAugment's policy for CIFAR.
    AutoAugment,
    /// RandAugment by `randaugment_operations` and `randaugment_magnitude`.
    RandAugment,
    /// TrivialAugment (wide).
    TrivialAugment,
}

/// A member of the SAM family, or SGD by itself. Each has the papers' numbers, which the recipe's other keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Method {
    /// Plain SGD, in one pass.
    Sgd,
    /// [`SamConfig::sam`](wrn_sam_optim::SamConfig::sam).
    #[default]
    Sam,
    /// [`SamConfig::asam`](wrn_sam_optim::SamConfig::asam).
    Asam,
    /// [`SamConfig::msam`](wrn_sam_optim::SamConfig::msam): one pass. It wants `momentum` above 0.
    Msam,
    /// [`SamConfig::looksam`](wrn_sam_optim::SamConfig::looksam).
    Looksam,
    /// [`SamConfig::fsam`](wrn_sam_optim::SamConfig::fsam).
    Fsam,
    /// [`SamConfig::vasso`](wrn_sam_optim::SamConfig::vasso).
    Vasso,
    /// [`SamConfig::gsam`](wrn_sam_optim::SamConfig::gsam).
    Gsam,
    /// [`SamConfig::wsam`](wrn_sam_optim::SamConfig::wsam).
    Wsam,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 9] = [
        Self::Sgd,
        Self::Sam,
        Self::Asam,
        Self::Msam,
        Self::Looksam,
        Self::Fsam,
        Self::Vasso,
        Self::Gsam,
        Self::Wsam,
    ];
}

/// As its paper calls it.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sgd => "SGD",
            Self::Sam => "SAM",
            Self::Asam => "ASAM",
            Self::Msam => "MSAM",
            Self::Looksam => "LookSAM",
            Self::Fsam => "F-SAM",
            Self::Vasso => "VaSSO",
            Self::Gsam => "GSAM",
            Self::Wsam => "WSAM",
        })
    }
}

/// Which parameters SAM moves in its ascent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Perturb {
    /// All.
    #[default]
    All,
    /// Those of normalization layers (SAM-ON, <https://arxiv.org/abs/2306.04226>).
    Norms,
}

/// How SAM's radius moves over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RhoSchedule {
    /// It stays.
    #[default]
    Constant,
    /// From `rho` at the recipe's learning rate down to `rho_min` at a rate of 0, as GSAM's
    /// ([`Proportional`](wrn_sam_optim::Proportional)).
    Proportional,
}

/// Over what an ascent is taken where batches are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Ascent {
    /// Over the batch.
    #[default]
    Batch,
    /// Over each part by itself: m-sharpness.
    Micro,
}

/// How gradients travel between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    /// Every bit: results do not depend on the number of ranks.
    #[default]
    F32,
    /// Rounded to bfloat16, which is half of the bytes. Results depend on the number of ranks.
    Bf16,
}

impl From<Exchange> for Precision {
    fn from(exchange: Exchange) -> Self {
        match exchange {
            Exchange::F32 => Self::Exact,
            Exchange::Bf16 => Self::Bf16,
        }
    }
}
