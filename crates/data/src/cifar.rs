//! The data set as one value, and what CIFAR-10 and CIFAR-100 differ in.

use std::fmt;

use crate::class_names::{CIFAR10_NAMES, COARSE_NAMES, FINE_NAMES};
use crate::{Source, Split};

/// Channels of an image: red, green, blue.
pub const IMAGE_CHANNELS: usize = 3;
/// Rows, and columns, of an image.
pub const IMAGE_SIZE: usize = 32;
/// Bytes of an image.
pub const IMAGE_BYTES: usize = IMAGE_CHANNELS * IMAGE_SIZE * IMAGE_SIZE;
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

/// CIFAR-10 or CIFAR-100, or images in their shape: both splits and the names of the classes.
///
/// ```no_run
/// use wrn_sam_data::{Cifar, Variant};
///
/// let cifar = Cifar::open(Variant::Cifar100, "data")?;
/// println!("{}: {} + {} images", cifar.source, cifar.train.len(), cifar.test.len());
/// println!("the first is a {}", cifar.fine_names[usize::from(cifar.train.label(0))]);
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cifar {
    /// The training split; 50,000 images in both variants.
    pub train: Split,
    /// The test split; 10,000 images in both variants.
    pub test: Split,
    /// The name of each class.
    pub fine_names: Vec<String>,
    /// The name of each superclass; none in CIFAR-10.
    pub coarse_names: Vec<String>,
    /// Where all this comes from.
    pub source: Source,
}

impl Cifar {
    /// Which of the two this is, or is shaped like.
    pub fn variant(&self) -> Variant {
        self.source.variant
    }

    /// The number of classes, which is what a network needs to know.
    pub fn classes(&self) -> usize {
        self.fine_names.len()
    }
}
