//! How long layers take on tensors, with their backward pass: the side of this project in `tools/compare_layers.py`.
//!
//! ```text
//! cargo run --release --example layers -- [--threads N] [--rounds N] [NAME ...]
//! ```
//!
//! Prints a line of JSON for each convolution: the least milliseconds of a forward pass, and of a forward and a backward pass
//! in which input and weight take gradients.

#[path = "support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Instant;

use candle_core::{CpuStorage, Device, Storage, Tensor, Var};
use clap::Parser;
use wrn_sam::kernels::autograd::{Backward, node};
use wrn_sam::kernels::conv2d::{Conv2dConfig, conv2d};
use wrn_sam::kernels::{Cpu, backward};

use support::{AnyError, say};

/// Name; input `[N, C, H, W]`; output channels, kernel, stride, padding, groups.
type Layer = (&'static str, [usize; 4], [usize; 5]);

const LAYERS: [Layer; 18] = [
    ("stem 3->64 7x7 s2", [1, 3, 224, 224], [64, 7, 2, 3, 1]),
    ("64->64 3x3", [8, 64, 56, 56], [64, 3, 1, 1, 1]),
    ("512->512 3x3", [8, 512, 7, 7], [512, 3, 1, 1, 1]),
    ("256->512 1x1 s2", [8, 256, 28, 28], [512, 1, 2, 0, 1]),
    ("64->128 5x5", [8, 64, 32, 32], [128, 5, 1, 2, 1]),
    ("96->192 2x2 s2", [8, 96, 56, 56], [192, 2, 2, 0, 1]),
    ("3->96 4x4 s4", [8, 3, 224, 224], [96, 4, 4, 0, 1]),
    ("128->128 3x3 s2", [8, 128, 28, 28], [128, 3, 2, 1, 1]),
    ("64->256 1x1", [8, 64, 56, 56], [256, 1, 1, 0, 1]),
    ("32->64 3x3 without padding", [8, 32, 30, 30], [64, 3, 1, 0, 1]),
    ("depthwise 3x3, 32", [8, 32, 56, 56], [32, 3, 1, 1, 32]),
    ("depthwise 3x3, 128", [8, 128, 32, 32], [128, 3, 1, 1, 128]),
    ("depthwise 3x3, 512", [8, 512, 14, 14], [512, 3, 1, 1, 512]),
    ("depthwise 3x3 s2, 128", [8, 128, 32, 32], [128, 3, 2, 1, 128]),
    ("depthwise 7x7, 96", [8, 96, 56, 56], [96, 7, 1, 3, 96]),
    ("grouped 32 3x3, 128", [8, 128, 28, 28], [128, 3, 1, 1, 32]),
    ("grouped 32 3x3, 256", [8, 256, 14, 14], [256, 3, 1, 1, 32]),
    ("grouped 32 3x3, 512", [8, 512, 14, 14], [512, 3, 1, 1, 32]),
];

/// A loss whose gradient is given, so that nothing but the layer is timed.
struct Given(Tensor);

impl Backward for Given {
    fn name(&self) -> &'static str {
        "given"
    }

    fn backward(&self, _: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.0.clone())])
    }
}

/// Time layers on tensors, forward and backward.
#[derive(Parser)]
struct Args {
    /// Only layers whose name contains one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Rounds, of which the fastest counts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    wrn_sam::kernels::keep_memory();
    let cpu = Cpu::new(args.threads as usize);
    for (name, input, [outputs, kernel, stride, padding, groups]) in LAYERS {
        if !args.names.is_empty() && !args.names.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        // As a layer before it leaves them: with the channels last.
        let [batch, channels, height, width] = input;
        let x = Tensor::randn(0f32, 1.0, (batch, height, width, channels), &Device::Cpu)?;
        let x = Var::from_tensor(&x.permute((0, 3, 1, 2))?)?;
        let w = Var::randn(0f32, 0.1, (outputs, channels / groups, kernel, kernel), &Device::Cpu)?;
        let config = Conv2dConfig::new(stride, padding).with_groups(groups);
        let forward = || conv2d(&cpu, &x, &w, None, config);
        let gradient = forward()?.detach();
        let (mut least, mut least_both) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..=args.rounds {
            let start = Instant::now();
            let y = forward()?;
            least = least.min(start.elapsed().as_secs_f64());
            let loss = Storage::Cpu(CpuStorage::F32(vec![0.0]));
            backward(&node(loss, (), &[&y], Given(gradient.clone()))?)?;
            least_both = least_both.min(start.elapsed().as_secs_f64());
        }
        say(format_args!(
            "{{\"name\": \"{name}\", \"input\": {input:?}, \"outputs\": {outputs}, \"kernel\": {kernel}, \"stride\": {stride}, \
             \"padding\": {padding}, \"groups\": {groups}, \"forward_ms\": {:.4}, \"both_ms\": {:.4}}}",
            1e3 * least,
            1e3 * least_both
        ));
    }
    Ok(())
}
