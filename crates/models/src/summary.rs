use std::fmt;

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use wrn_sam_kernels::OutOfRange;

use crate::config::WideResNetConfig;
use crate::conv2d::Conv2d;
use crate::description::{Description, Step};
use crate::error::Result;
use crate::linear::Linear;
use crate::mode::Mode;
use crate::wide_resnet::WideResNet;

/// One layer of a [`Summary`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerSummary {
    /// The name that its values have in the state dict.
    pub name: String,
    /// What it computes.
    pub kind: String,
    /// Its output's shape, the batch first.
    pub output_shape: Vec<usize>,
    /// Trainable numbers.
    pub parameters: u64,
    /// Numbers in its buffers: running means, variances and batch counts.
    pub buffers: u64,
    /// Floating-point operations of one forward pass over the batch, of which a multiplication and an addition are two. Only
    /// the convolutions and the classifier are counted.
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
    /// Height and width of the images.
    pub size: usize,
    /// The layers in the order of a pass.
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

    /// Bytes of every layer's output in f32: about what a training pass keeps for its backward pass.
    pub fn activation_bytes(&self) -> u64 {
        let elements =
            |layer: &LayerSummary| layer.output_shape.iter().map(|&dim| dim as u64).product::<u64>();
        4 * self.layers.iter().map(elements).sum::<u64>()
    }
}

/// Lists the layers of the network that `config` describes, without building it, for a batch of `batch` images of `size` by
/// `size` pixels.
///
/// # Errors
/// [`Error::OutOfRange`](crate::Error::OutOfRange) where the configuration is not valid, the batch is 0 or above 2^20, or the
/// size is no multiple of 4 from 4 to 4096.
///
/// ```
/// use wrn_sam_models::{WideResNetConfig, summary};
///
/// let summary = summary(&WideResNetConfig::default(), 128, 32)?;
/// assert_eq!(summary.parameters(), 46_218_164);
/// assert!(summary.to_string().contains("46,218,164"));
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
pub fn summary(config: &WideResNetConfig, batch: usize, size: usize) -> Result<Summary> {
    config.validate()?;
    let holds = (1..=1 << 20).contains(&batch);
    OutOfRange::check("batch", batch, holds, "between 1 and 1048576")?;
    let holds = size.is_multiple_of(4) && (4..=4096).contains(&size);
    OutOfRange::check("size", size, holds, "a multiple of 4 between 4 and 4096")?;
    let vb = VarBuilder::from_backend(Box::new(Meta), DType::F32, Device::Cpu);
    let network = WideResNet::new(config, vb)?;
    let description = Description::new(&network, [batch, size, size, config.in_channels], Mode::Eval)?;
    let layers = description.steps.into_iter().map(|(step, output)| layer(&step, output)).collect();
    Ok(Summary { config: config.clone(), batch, size, layers })
}

fn layer(step: &Step, output_shape: Vec<usize>) -> LayerSummary {
    // With the number of those parameters that each pixel of the output takes.
    let (name, kind, parameters, buffers, multiplied) = match step {
        Step::Convolution(Conv2d { name, weight, .. }) => {
            let (kernel, weights) = (weight.dims()[3], weight.elem_count());
            (name.as_str(), format!("Conv2d {kernel}x{kernel}"), weights, 0, weights)
        }
        Step::BatchNorm(norm) => {
            let channels = norm.channels();
            (norm.name.as_str(), "BatchNorm + ReLU".to_string(), 2 * channels, 2 * channels + 1, 0)
        }
        Step::Dropout(dropout) => (dropout.name(), "Dropout".to_string(), 0, 0, 0),
        Step::Pool(name, [_, height, width, _]) => (*name, format!("AvgPool2d {height}x{width}"), 0, 0, 0),
        Step::Linear(Linear { name, weight, bias }) => {
            let weights = weight.elem_count();
            (name.as_str(), "Linear".to_string(), weights + bias.elem_count(), 0, weights)
        }
    };
    let pixels: f64 = output_shape[..1].iter().chain(&output_shape[2..]).map(|&size| size as f64).product();
    LayerSummary {
        name: name.to_string(),
        kind,
        output_shape,
        parameters: parameters as u64,
        buffers: buffers as u64,
        flops: 2.0 * multiplied as f64 * pixels,
    }
}

/// Gives parameters that have a shape and no values, as those on PyTorch's meta device: a network of them can be described.
struct Meta;

impl SimpleBackend for Meta {
    fn get(&self, shape: Shape, _: &str, _: Init, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        let storage = match dtype {
            DType::I64 => CpuStorage::I64(Vec::new()),
            _ => CpuStorage::F32(Vec::new()),
        };
        // A variable, so that a buffer is made of it without a copy of its values.
        Ok(Tensor::from_storage(Storage::Cpu(storage), shape, BackpropOp::none(), true))
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} is asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
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
        let (gflop, batch, size) = (self.flops() / 1e9, self.batch, self.size);
        writeln!(
            f,
            "batch of {batch} of {size}x{size}: {gflop:.2} GFLOP forward, {:.2} GFLOP for a SAM step,",
            6.0 * gflop
        )?;
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
            let config = WideResNetConfig::new(depth, width_factor)
                .with_in_channels(in_channels)
                .with_classes(classes);
            let summary = summary(&config, 1, 32).unwrap();
            assert_eq!((summary.parameters(), summary.buffers()), (parameters, buffers), "{config:?}");
        }
    }

    #[test]
    fn a_step_of_wrn_34_10_is_ten_teraflop() {
        let flops = 6.0 * summary(&WideResNetConfig::default(), 128, 32).unwrap().flops();
        assert!((10.2e12..10.4e12).contains(&flops), "{flops:e}");
    }

    #[test]
    fn the_table_is_aligned() {
        let config = WideResNetConfig::new(10, 1);
        let text = summary(&config, 4, 32).unwrap().to_string();
        let table: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(table.len(), 1 + 1 + 3 * 5 + 3);
        assert!(table.iter().all(|line| line.len() == table[0].len()), "{text}");
        assert!(text.contains("f.3_block.block.0.downsample") && text.contains("[4, 64, 8, 8]"), "{text}");
        let dropping = summary(&config.with_dropout(0.3), 4, 32).unwrap();
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
        assert!(summary(&config, 1 << 20, 32).unwrap().flops().is_finite());
        for (batch, size) in [(0, 32), (1, 0), (1, 30), (1, 4100)] {
            assert!(summary(&config, batch, size).is_err());
        }
    }
}
