//! The choices among named alternatives that a recipe holds.

use serde::{Deserialize, Serialize};
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
