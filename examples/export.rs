//! Writes a trained network for other programs: as an ONNX model, or as a PyTorch state dict.
//!
//! ```text
//! cargo run --release --example export -- result/20261123-120000/best.safetensors --onnx model.onnx --pytorch model.pth
//! ```
//!
//! In Python, beside `tools/torch_peer.py` (the lines for this model are printed):
//!
//! ```python
//! import torch
//! from torch_peer import WideResNet
//! model = WideResNet(depth=16, width=2, classes=100).eval()
//! model.load_state_dict(torch.load("model.pth"))
//! print(model(torch.zeros(1, 3, 32, 32)).argmax(1))
//! ```

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wrn_sam::candle::{DType, Device};
use wrn_sam::models::{Parameters, WideResNet, WideResNetConfig, read_metadata, save_pytorch};

use support::{AnyError, say};

/// Write a trained network as an ONNX model (opset 17) or as a PyTorch state dict.
///
/// The network takes images that are normalized as in training. What it was trained on, the statistics of its pixels and the
/// names of its classes included, is in the ONNX model's metadata under the key wrn_sam, where the weights say it.
#[derive(Parser)]
struct Args {
    /// Weights: safetensors or PyTorch (.pth, .pt) of a Wide ResNet
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Where to write the ONNX model
    #[arg(long, value_name = "FILE", required_unless_present = "pytorch")]
    onnx: Option<PathBuf>,

    /// Where to write the state dict, which torch.load reads
    #[arg(long, value_name = "FILE")]
    pytorch: Option<PathBuf>,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let config = WideResNetConfig::from_state_dict(&args.model)?;
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let model = WideResNet::new(&config, parameters.var_builder())?;
    parameters.load(&args.model)?;
    parameters.check_values().map_err(|error| format!("{}: {error}", args.model.display()))?;
    if let Some(path) = &args.onnx {
        model.save_onnx(path, read_metadata(&args.model)?.as_deref())?;
        say(format_args!(
            "{}: images [batch, {}, height, width] to logits",
            path.display(),
            config.in_channels
        ));
    }
    if let Some(path) = &args.pytorch {
        save_pytorch(path, &parameters.state()?)?;
        let WideResNetConfig { depth, width_factor, classes, .. } = config;
        say(format_args!("{}: in Python, beside tools/torch_peer.py,\n", path.display()));
        say("    import torch");
        say("    from torch_peer import WideResNet");
        say(format_args!(
            "    model = WideResNet(depth={depth}, width={width_factor}, classes={classes}).eval()"
        ));
        say(format_args!("    model.load_state_dict(torch.load({:?}))", path.display().to_string()));
        say("    print(model(torch.zeros(1, 3, 32, 32)).argmax(1))");
    }
    Ok(())
}
