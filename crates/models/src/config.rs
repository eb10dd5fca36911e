use std::path::Path;

use wrn_sam_kernels::OutOfRange;

use crate::error::{Error, Result};
use crate::state_dict::WideResNetShapes;

/// A Wide ResNet's hyper-parameters (Zagoruyko and Komodakis, <https://arxiv.org/abs/1605.07146>).
///
/// ```
/// use wrn_sam_models::WideResNetConfig;
///
/// let config = WideResNetConfig::new(16, 4).with_dropout(0.3);
/// assert_eq!(config.units_per_group(), 2);
/// assert_eq!(config.widths(), [16, 64, 128, 256]);
/// let error = WideResNetConfig::new(33, 4).validate().unwrap_err();
/// assert_eq!(error.to_string(), "depth = 33: must be 6n + 4 and at least 10; the nearest are 28 and 34");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WideResNetConfig {
    /// Layers with weights on the longest path, without the projections: 6n + 4, at least 10, where n is the number
    /// of units in each of the three groups. Default 34.
    pub depth: usize,
    /// The groups have 16, 32 and 64 times this many channels; at least 1. Default 10.
    pub width_factor: usize,
    /// Probability that an element between a unit's two convolutions is set to zero, in [0, 1). Default 0.
    pub dropout: f64,
    /// Channels of the input images, at least 1. Default 3.
    pub in_channels: usize,
    /// Classes, at least 1. Default 100.
    pub classes: usize,
}

impl Default for WideResNetConfig {
    /// WRN-34-10 without dropout, for CIFAR-100: 46.2 million parameters.
    fn default() -> Self {
        Self::new(34, 10)
    }
}

/// Far beyond any network in use, and small enough that no size below overflows.
const LARGEST: usize = 1 << 16;

impl WideResNetConfig {
    /// WRN-`depth`-`width_factor` without dropout, for CIFAR-100: 3 channels, 100 classes. [`WideResNet::new`] checks the
    /// values.
    ///
    /// [`WideResNet::new`]: crate::WideResNet::new
    pub fn new(depth: usize, width_factor: usize) -> Self {
        Self { depth, width_factor, dropout: 0.0, in_channels: 3, classes: 100 }
    }

    /// With another [`dropout`](Self::dropout).
    #[must_use]
    pub fn with_dropout(self, dropout: f64) -> Self {
        Self { dropout, ..self }
    }

    /// With another number of [`in_channels`](Self::in_channels).
    #[must_use]
    pub fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    /// With another number of [`classes`](Self::classes).
    #[must_use]
    pub fn with_classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] names the first field that has no meaning, its value and what it must be.
    pub fn validate(&self) -> Result<()> {
        let depth = self.depth;
        if depth < 10 || depth % 6 != 4 {
            let below = depth.saturating_sub(4) / 6 * 6 + 4;
            let nearest = match below {
                ..10 => "the smallest is 10".to_string(),
                _ => format!("the nearest are {below} and {}", below.saturating_add(6)),
            };
            let expected = format!("6n + 4 and at least 10; {nearest}");
            return Err(OutOfRange::new("depth", depth, expected).into());
        }
        let dropout = self.dropout;
        OutOfRange::check("dropout", dropout, (0.0..1.0).contains(&dropout), "a probability in [0, 1)")?;
        let counts = [
            ("depth", depth),
            ("width_factor", self.width_factor),
            ("in_channels", self.in_channels),
            ("classes", self.classes),
        ];
        for (field, value) in counts {
            OutOfRange::check(field, value, (1..=LARGEST).contains(&value), "between 1 and 65536")?;
        }
        Ok(())
    }

    /// Residual units in each of the three groups, the [`DownsampleUnit`](crate::DownsampleUnit) included: (depth - 4) / 6.
    pub fn units_per_group(&self) -> usize {
        self.depth.saturating_sub(4) / 6
    }

    /// Channels after the first convolution and after each of the three groups.
    pub fn widths(&self) -> [usize; 4] {
        [16, 16 * self.width_factor, 32 * self.width_factor, 64 * self.width_factor]
    }

    /// Reads the hyper-parameters from the names and shapes in a weights file of any kind that
    /// [`Parameters::load`](crate::Parameters::load) reads, so that a saved model can be rebuilt from its file only. The
    /// dropout, which leaves no trace there, is 0.
    ///
    /// # Errors
    /// As [`Parameters::load`](crate::Parameters::load) where the file cannot be read; [`Error::NotWideResNet`] where it
    /// holds something else. That every value is there is checked by `Parameters::load`.
    pub fn from_state_dict(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shapes = WideResNetShapes::read(path)?;
        let reject = |reason| Error::NotWideResNet { path: path.to_path_buf(), reason };
        let dim = |name: &str, axis: usize| {
            let size = shapes.get(name).and_then(|shape| shape.get(axis)).copied();
            size.ok_or_else(|| reject(format!("it has no {name} with an axis {axis}")))
        };
        let basic_units = (1..)
            .take_while(|unit| {
                shapes.get(&format!("f.1_block.block.{unit}.block.2_convolution.weight")).is_some()
            })
            .count();
        let config = Self {
            depth: 6 * (basic_units + 1) + 4,
            width_factor: dim("f.1_block.block.0.block.0_convolution.weight", 0)? / 16,
            dropout: 0.0,
            in_channels: dim("f.0_convolution.weight", 1)?,
            classes: dim("f.8_classification.weight", 0)?,
        };
        config.validate().map_err(|error| reject(error.to_string()))?;
        Ok(config)
    }
}
