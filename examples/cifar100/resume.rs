//! The command that goes on with an interrupted run.

use std::path::{Path, PathBuf};

use wrn_sam::candle::Device;

use crate::args::Args;
use crate::support::DeviceChoice;

/// What to paste into a shell to go on with the run in `out`, which the program was training on `device`.
pub fn command(out: &Path, args: &Args, device: &Device) -> String {
    let mut command = program(args.data.hub, device.is_cuda());
    command += &format!(" --resume {}", quoted(out));
    if args.data.hub {
        command += " --hub";
    }
    if let Some(folder) = args.data_dir() {
        command += &format!(" --data-dir {}", quoted(folder));
    }
    for (flag, given) in [("--tensorboard", args.run.tensorboard), ("--card", args.run.card)] {
        if given {
            command += &format!(" {flag}");
        }
    }
    if args.run.device != DeviceChoice::Auto {
        command += &format!(" --device {}", args.run.device);
    }
    command
}

/// The program by way of cargo, with the features that the run needs; outside of a cargo workspace, its own path.
fn program(hub: bool, cuda: bool) -> String {
    let in_workspace = |folder: PathBuf| folder.ancestors().any(|folder| folder.join("Cargo.toml").is_file());
    match std::env::current_exe() {
        Ok(path) if !std::env::current_dir().is_ok_and(in_workspace) => quoted(&path),
        _ => {
            let features = [("cuda", cuda), ("hub", hub)].into_iter().filter(|(_, needed)| *needed);
            let features: Vec<_> = features.map(|(name, _)| name).collect();
            let features = match &*features {
                [] => String::new(),
                features => format!(" --features {}", features.join(",")),
            };
            format!("cargo run --release{features} --example cifar100 --")
        }
    }
}

/// A path as one word of a POSIX shell, which no flag can be taken for.
fn quoted(path: &Path) -> String {
    let path =
        if path.as_os_str().as_encoded_bytes().starts_with(b"-") { &Path::new(".").join(path) } else { path };
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        // Bytes that are no text, and control characters, are written as escapes.
        _ => format!("$'{}'", path.as_os_str().as_encoded_bytes().escape_ascii()),
    }
}
