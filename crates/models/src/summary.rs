use std::fmt;

use wrn_sam_kernels::OutOfRange;

use crate::config::WideResNetConfig;
use crate::error::Result;
use crate::wide_resnet::IMAGE_SIZE;

/// One layer of a [`Summary`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerSummary {
    /// The name that its values have in the state dict.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// Its output's shape, the batch first.
    pub output_shape: Vec<usize>,
    /// Trainable numbers.
    pub parameters: u64,
    /// Numbers kept beside them: running means, variances and batch counts.
    pub buffers: u64,
    /// Floating-point operations of one forward pass over the batch, an addition and a multiplication being two. The
    /// convolutions and the classifier are counted; what is done once per element is not.
    pub flops: f64,
}

/// What a network consists of and what a batch costs. Its `Display` is an aligned table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The network.
    pub config: WideResNetConfig,
    /// Images in the batch.
    pub batch: usize,
    /// The layers in the order of the way through.
    pub layers: Vec<LayerSummary>,
}

impl Summary {
    /// Trainable numbers of all layers.
    pub fn parameters(&self) -> u64 {
        self.layers.iter().map(|layer| layer.parameters).sum()
    }

    /// Numbers in the buffers of all layers.
    pub fn buffers(&self) -> u64 {
        self.layers.iter().map(|layer| layer.buffers).sum()
    }

    /// Floating-point operations of one forward pass over the batch. The backward pass takes twice as many, so a
    /// training step three times and a SAM step six times as many.
    pub fn flops(&self) -> f64 {
        self.layers.iter().map(|layer| layer.flops).sum()
    }

    /// Bytes of the parameters and buffers in f32.
    pub fn parameter_bytes(&self) -> u64 {
        4 * (self.parameters() + self.buffers())
    }

    /// Bytes of every layer's output in f32, kept once: about what a training pass keeps for its backward pass.
    pub fn activation_bytes(&self) -> u64 {
        let elements =
            |layer: &LayerSummary| layer.output_shape.iter().map(|&dim| dim as u64).product::<u64>();
        4 * self.layers.iter().map(elements).sum::<u64>()
    }
}

/// Lists the layers of the network that `config` describes, without building it, for a batch of `batch` images.
///
/// # Errors
/// [`Error::OutOfRange`](crate::Error::OutOfRange) where the configuration is not valid, or the batch is 0 or above 2^20.
///
/// ```
/// use wrn_sam_models::{WideResNetConfig, summary};
///
/// let summary = summary(&WideResNetConfig::default(), 128)?;
/// assert_eq!(summary.parameters(), 46_218_164);
/// assert!(summary.to_string().contains("46,218,164"));
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
pub fn summary(config: &WideResNetConfig, batch: usize) -> Result<Summary> {
    config.validate()?;
    OutOfRange::check("batch", batch, (1..=1 << 20).contains(&batch), "between 1 and 1048576")?;
    let widths = config.widths();
    let mut way = Way { batch, channels: config.in_channels, size: IMAGE_SIZE, layers: Vec::new() };
    way.convolution("f.0_convolution", "Conv2d 3x3", widths[0], 3, 1);
    for (group, &width) in widths.iter().enumerate().skip(1) {
        for unit in 0..config.units_per_group() {
            let prefix = format!("f.{group}_block.block.{unit}");
            if unit == 0 {
                let (in_channels, in_size, stride) = (way.channels, way.size, if group == 1 { 1 } else { 2 });
                way.normalization(&format!("{prefix}.norm_act.0_normalization"));
                way.convolution(&format!("{prefix}.block.0_convolution"), "Conv2d 3x3", width, 3, stride);
                way.normalization(&format!("{prefix}.block.1_normalization"));
                way.dropout(&format!("{prefix}.block.3_dropout"), config.dropout);
                way.convolution(&format!("{prefix}.block.4_convolution"), "Conv2d 3x3", width, 3, 1);
                (way.channels, way.size) = (in_channels, in_size);
                way.convolution(&format!("{prefix}.downsample"), "Conv2d 1x1", width, 1, stride);
            } else {
                way.normalization(&format!("{prefix}.block.0_normalization"));
                way.convolution(&format!("{prefix}.block.2_convolution"), "Conv2d 3x3", width, 3, 1);
                way.normalization(&format!("{prefix}.block.3_normalization"));
                way.dropout(&format!("{prefix}.block.5_dropout"), config.dropout);
                way.convolution(&format!("{prefix}.block.6_convolution"), "Conv2d 3x3", width, 3, 1);
            }
        }
    }
    way.normalization("f.4_normalization");
    way.push("f.6_pooling", "AvgPool2d 8x8", vec![batch, widths[3]], 0, 0, 0.0);
    let (inputs, classes) = (widths[3] as u64, config.classes as u64);
    let flops = 2.0 * batch as f64 * (inputs * classes) as f64;
    way.push("f.8_classification", "Linear", vec![batch, config.classes], (inputs + 1) * classes, 0, flops);
    Ok(Summary { config: config.clone(), batch, layers: way.layers })
}

/// Where the data stands while the layers are listed.
struct Way {
    batch: usize,
    channels: usize,
    size: usize,
    layers: Vec<LayerSummary>,
}

impl Way {
    fn convolution(
        &mut self,
        name: &str,
        kind: &'static str,
        out_channels: usize,
        kernel: u64,
        stride: usize,
    ) {
        let weights = out_channels as u64 * self.channels as u64 * kernel * kernel;
        self.channels = out_channels;
        self.size = self.size.div_ceil(stride);
        let flops = 2.0 * weights as f64 * (self.batch * self.size * self.size) as f64;
        self.push(name, kind, vec![self.batch, out_channels, self.size, self.size], weights, 0, flops);
    }

    fn normalization(&mut self, name: &str) {
        let channels = self.channels as u64;
        let shape = vec![self.batch, self.channels, self.size, self.size];
        self.push(name, "BatchNorm + ReLU", shape, 2 * channels, 2 * channels + 1, 0.0);
    }

    /// Without dropout there is no such layer.
    fn dropout(&mut self, name: &str, probability: f64) {
        if probability > 0.0 {
            self.push(name, "Dropout", vec![self.batch, self.channels, self.size, self.size], 0, 0, 0.0);
        }
    }

    fn push(
        &mut self,
        name: &str,
        kind: &'static str,
        output_shape: Vec<usize>,
        parameters: u64,
        buffers: u64,
        flops: f64,
    ) {
        self.layers.push(LayerSummary {
            name: name.to_string(),
            kind,
            output_shape,
            parameters,
            buffers,
            flops,
        });
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |layer: &LayerSummary| {
            let shape = format!("{:?}", layer.output_shape);
            [layer.name.clone(), layer.kind.to_string(), shape, grouped(layer.parameters)]
        };
        let header = ["layer", "kind", "output", "parameters"].map(String::from);
        let rows: Vec<_> = std::iter::once(header).chain(self.layers.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let [name, kind, shape, parameters] = std::array::from_fn(width);
        for row in &rows {
            writeln!(f, "{:name$}  {:kind$}  {:shape$}  {:>parameters$}", row[0], row[1], row[2], row[3])?;
        }
        let WideResNetConfig { depth, width_factor, in_channels, classes, .. } = self.config;
        writeln!(f)?;
        writeln!(f, "WRN-{depth}-{width_factor}, {in_channels} input channels, {classes} classes")?;
        let (count, memory) = (grouped(self.parameters()), mebibytes(self.parameter_bytes()));
        writeln!(f, "parameters: {count} ({memory} in f32, buffers included)")?;
        let (gflop, batch) = (self.flops() / 1e9, self.batch);
        writeln!(f, "batch of {batch}: {gflop:.2} GFLOP forward, {:.2} GFLOP for a SAM step,", 6.0 * gflop)?;
        write!(f, "  about {} of activations in f32 for a training pass", mebibytes(self.activation_bytes()))
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_pytorchs() {
        let counts = [
            (34, 10, 3, 100, 46_218_164, 22_463),
            (28, 10, 3, 100, 36_536_884, 17_977),
            (16, 2, 3, 100, 703_284, 1_837),
            (16, 1, 3, 100, 181_172, 941),
            (10, 2, 1, 20, 304_708, 935),
        ];
        for (depth, width_factor, in_channels, classes, parameters, buffers) in counts {
            let config = WideResNetConfig { depth, width_factor, dropout: 0.0, in_channels, classes };
            let summary = summary(&config, 1).unwrap();
            assert_eq!((summary.parameters(), summary.buffers()), (parameters, buffers), "{config:?}");
        }
    }

    #[test]
    fn a_step_of_wrn_34_10_is_ten_teraflop() {
        let flops = 6.0 * summary(&WideResNetConfig::default(), 128).unwrap().flops();
        assert!((10.2e12..10.4e12).contains(&flops), "{flops:e}");
    }

    #[test]
    fn the_table_is_aligned() {
        let config = WideResNetConfig { depth: 10, width_factor: 1, ..Default::default() };
        let text = summary(&config, 4).unwrap().to_string();
        let table: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(table.len(), 1 + 1 + 3 * 5 + 3);
        assert!(table.iter().all(|line| line.len() == table[0].len()), "{text}");
        assert!(text.contains("f.3_block.block.0.downsample") && text.contains("[4, 64, 8, 8]"), "{text}");
        let dropping = summary(&WideResNetConfig { dropout: 0.3, ..config }, 4).unwrap();
        assert_eq!(dropping.layers.iter().filter(|layer| layer.kind == "Dropout").count(), 3);
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
    }

    #[test]
    fn the_largest_configuration_does_not_overflow() {
        let largest = 1 << 16;
        let config = WideResNetConfig {
            depth: 65_530,
            width_factor: largest,
            dropout: 0.0,
            in_channels: largest,
            classes: largest,
        };
        config.validate().unwrap();
        let error = WideResNetConfig { width_factor: largest + 1, ..config.clone() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "width_factor = 65537: must be between 1 and 65536");
        assert!(summary(&config, 1 << 20).unwrap().flops().is_finite());
        assert!(summary(&config, 0).is_err());
    }
}
