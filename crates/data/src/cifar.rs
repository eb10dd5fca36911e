//! What CIFAR-10 and CIFAR-100 are, and what they differ in.

use std::fmt;

use crate::class_names::{CIFAR10_NAMES, COARSE_NAMES, FINE_NAMES};

/// Channels of an image: red, green, blue.
pub const IMAGE_CHANNELS: usize = 3;
/// Rows, and columns, of an image of CIFAR.
pub const IMAGE_SIZE: usize = 32;
/// Bytes of an image of CIFAR.
pub const IMAGE_BYTES: usize = IMAGE_CHANNELS * IMAGE_SIZE * IMAGE_SIZE;
/// The most rows, and columns, that an image may have.
pub const MAX_IMAGE_SIZE: usize = 1024;
/// Images in the training split of CIFAR-10 and of CIFAR-100.
pub const TRAIN_IMAGES: usize = 50_000;
/// Images in the test split of CIFAR-10 and of CIFAR-100.
pub const TEST_IMAGES: usize = 10_000;

/// Which of the two CIFAR data sets.
///
/// ```
/// use wrn_sam_data::Variant;
///
/// assert_eq!((Variant::Cifar10.classes(), Variant::Cifar100.classes()), (10, 100));
/// assert_eq!(Variant::Cifar10.to_string(), "CIFAR-10");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// 10 classes.
    Cifar10,
    /// 100 classes (fine labels) in 20 superclasses (coarse labels).
    Cifar100,
}

impl Variant {
    /// The number of classes: of fine labels.
    pub fn classes(self) -> usize {
        self.names().len()
    }

    /// The other variant.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Cifar10 => Self::Cifar100,
            Self::Cifar100 => Self::Cifar10,
        }
    }

    /// The number of superclasses, 0 in CIFAR-10.
    pub fn coarse_classes(self) -> usize {
        self.coarse_names().len()
    }

    /// The name of each class, by label.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Cifar10 => &CIFAR10_NAMES,
            Self::Cifar100 => &FINE_NAMES,
        }
    }

    /// The name of each superclass, by coarse label.
    pub fn coarse_names(self) -> &'static [&'static str] {
        match self {
            Self::Cifar10 => &[],
            Self::Cifar100 => &COARSE_NAMES,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cifar10 => "CIFAR-10",
            Self::Cifar100 => "CIFAR-100",
        })
    }
}
