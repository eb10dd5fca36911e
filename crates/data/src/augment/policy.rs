//! Policies: which operations an image gets, and how strongly.

use rand::{Rng, RngExt};
use wrn_sam_kernels::OutOfRange;

use super::operation::Operation;
use crate::Result;

/// How operations are drawn for each image; they come after crop and flip, before normalization and cutout.
///
/// Ranges, bins and probabilities are torchvision's; strengths are drawn with either sign where an
/// operation has two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// AutoAugment's policy for CIFAR: one of 25 pairs of operations, each operation with its own probability
    /// and strength. (arXiv 1805.09501, table 7)
    AutoAugment,
    /// RandAugment: `operations` operations out of 14, one after the other, all at strength `magnitude`.
    /// (arXiv 1909.13719)
    RandAugment {
        /// How many: 0 to 14. The paper's N; torchvision's default is 2.
        operations: usize,
        /// How strongly: 0 to 30. The paper's M; torchvision's default is 9.
        magnitude: usize,
    },
    /// TrivialAugment (wide): one operation out of 14 at one of 31 strengths. (arXiv 2103.10158)
    TrivialAugment,
}

impl Policy {
    /// [`Policy::RandAugment`] with torchvision's defaults, two operations at magnitude 9.
    pub const RAND_AUGMENT: Self = Self::RandAugment { operations: 2, magnitude: 9 };

    /// Draws the operations of one image of `size` by `size` pixels, in the order of their application.
    pub fn sample(&self, size: usize, rng: &mut impl Rng) -> Vec<Operation> {
        match *self {
            Self::AutoAugment => {
                let pair = PAIRS[rng.random_range(0..PAIRS.len())];
                let chances = [rng.random::<f64>(), rng.random::<f64>()];
                let negative = [rng.random::<bool>(), rng.random::<bool>()];
                let drawn = pair.into_iter().zip(chances).zip(negative);
                let happens = drawn.filter(|(((_, p, _), chance), _)| chance < p);
                happens.map(|(((kind, _, bin), _), negative)| AUTO.at(kind, bin, negative, size)).collect()
            }
            Self::RandAugment { operations, magnitude } => {
                let draw = |_| {
                    let kind = DRAWN[rng.random_range(0..DRAWN.len())];
                    RAND.at(kind, magnitude, rng.random(), size)
                };
                (0..operations).map(draw).collect()
            }
            Self::TrivialAugment => {
                let kind = DRAWN[rng.random_range(0..DRAWN.len())];
                let bin = rng.random_range(0..TRIVIAL.bins);
                vec![TRIVIAL.at(kind, bin, rng.random(), size)]
            }
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if let Self::RandAugment { operations, magnitude } = *self {
            OutOfRange::check(
                "RandAugment's number of operations",
                operations,
                operations <= DRAWN.len(),
                "0 to 14",
            )?;
            OutOfRange::check("RandAugment's magnitude", magnitude, magnitude < RAND.bins, "0 to 30")?;
        }
        Ok(())
    }
}

/// The kinds of operations: those that RandAugment and TrivialAugment draw from, all equally likely, and those that they
/// do not.
macro_rules! kinds {
    (drawn $($drawn:ident)*; others $($other:ident)*) => {
        /// An operation without its strength.
        #[derive(Clone, Copy)]
        enum OperationKind { $($drawn,)* $($other,)* }
        use OperationKind::*;

        const DRAWN: &[OperationKind] = &[$($drawn),*];
    };
}
kinds! {
    drawn Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness Posterize Solarize
        AutoContrast Equalize;
    others Invert
}

/// AutoAugment's pairs: operation, its probability, its bin.
#[rustfmt::skip]
const PAIRS: [[(OperationKind, f64, usize); 2]; 25] = [
    [(Invert, 0.1, 0), (Contrast, 0.2, 6)],
    [(Rotate, 0.7, 2), (TranslateX, 0.3, 9)],
    [(Sharpness, 0.8, 1), (Sharpness, 0.9, 3)],
    [(ShearY, 0.5, 8), (TranslateY, 0.7, 9)],
    [(AutoContrast, 0.5, 0), (Equalize, 0.9, 0)],
    [(ShearY, 0.2, 7), (Posterize, 0.3, 7)],
    [(Color, 0.4, 3), (Brightness, 0.6, 7)],
    [(Sharpness, 0.3, 9), (Brightness, 0.7, 9)],
    [(Equalize, 0.6, 0), (Equalize, 0.5, 0)],
    [(Contrast, 0.6, 7), (Sharpness, 0.6, 5)],
    [(Color, 0.7, 7), (TranslateX, 0.5, 8)],
    [(Equalize, 0.3, 0), (AutoContrast, 0.4, 0)],
    [(TranslateY, 0.4, 3), (Sharpness, 0.2, 6)],
    [(Brightness, 0.9, 6), (Color, 0.2, 8)],
    [(Solarize, 0.5, 2), (Invert, 0.0, 0)],
    [(Equalize, 0.2, 0), (AutoContrast, 0.6, 0)],
    [(Equalize, 0.2, 0), (Equalize, 0.6, 0)],
    [(Color, 0.9, 9), (Equalize, 0.6, 0)],
    [(AutoContrast, 0.8, 0), (Solarize, 0.2, 8)],
    [(Brightness, 0.1, 3), (Color, 0.7, 0)],
    [(Solarize, 0.4, 5), (AutoContrast, 0.9, 0)],
    [(TranslateY, 0.9, 9), (TranslateY, 0.7, 9)],
    [(AutoContrast, 0.9, 0), (Solarize, 0.8, 3)],
    [(Equalize, 0.8, 0), (Invert, 0.1, 0)],
    [(TranslateY, 0.7, 9), (AutoContrast, 0.9, 0)],
];

/// How strong each kind of operation gets, in equal steps from 0.
struct Space {
    bins: usize,
    shear: f32,
    /// In pixels of an image of a given side.
    translate: fn(usize) -> f32,
    rotate: f32,
    enhance: f32,
    posterize: f32,
}

/// AutoAugment's translations go up to 150 pixels of an ImageNet crop of 331.
const AUTO: Space = Space {
    bins: 10,
    shear: 0.3,
    translate: |side| (150.0 / 331.0 * side as f64) as f32,
    rotate: 30.0,
    enhance: 0.9,
    posterize: 4.0,
};
const RAND: Space = Space { bins: 31, ..AUTO };
const TRIVIAL: Space =
    Space { bins: 31, shear: 0.99, translate: |_| 32.0, rotate: 135.0, enhance: 0.99, posterize: 6.0 };

impl Space {
    /// The operation of `kind` in bin `bin` for an image with the side `size`, the other way round where it is `negative` and
    /// has another way.
    fn at(&self, kind: OperationKind, bin: usize, negative: bool, size: usize) -> Operation {
        let signed = |end| {
            let strength = f64::from(self.linear(0.0, end, bin));
            if negative { -strength } else { strength }
        };
        match kind {
            Identity => Operation::Identity,
            ShearX => Operation::ShearX(signed(self.shear)),
            ShearY => Operation::ShearY(signed(self.shear)),
            TranslateX => Operation::TranslateX(signed((self.translate)(size))),
            TranslateY => Operation::TranslateY(signed((self.translate)(size))),
            Rotate => Operation::Rotate(signed(self.rotate)),
            Brightness => Operation::Brightness(signed(self.enhance)),
            Color => Operation::Color(signed(self.enhance)),
            Contrast => Operation::Contrast(signed(self.enhance)),
            Sharpness => Operation::Sharpness(signed(self.enhance)),
            Posterize => {
                let dropped = bin as f32 / ((self.bins - 1) as f32 / self.posterize);
                Operation::Posterize(8 - dropped.round_ties_even() as u32)
            }
            Solarize => Operation::Solarize(self.linear(255.0, 0.0, bin).into()),
            AutoContrast => Operation::AutoContrast,
            Equalize => Operation::Equalize,
            Invert => Operation::Invert,
        }
    }

    /// The value of bin `bin` of `self.bins` from `start` to `end`, as `torch.linspace` rounds it: once.
    fn linear(&self, start: f32, end: f32, bin: usize) -> f32 {
        let step = (end - start) / (self.bins - 1) as f32;
        if bin < self.bins / 2 {
            step.mul_add(bin as f32, start)
        } else {
            (-step).mul_add((self.bins - 1).saturating_sub(bin) as f32, end)
        }
    }
}
