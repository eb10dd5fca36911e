//! The main job: trains a Wide ResNet with Sharpness-Aware Minimization on CIFAR-100 and leaves metrics, curves, weights
//! and checkpoints in a folder.
//!
//! ```text
//! cargo run --release --example cifar100
//! cargo run --release --example cifar100 -- --help
//! ```

mod args;
mod data;
mod out_folder;
mod progress;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, Parser, error::ErrorKind};
use wrn_sam::train::{Control, Outcome, Recipe, Trainer};

use args::{Args, DataFlags};
use progress::{Progress, say};
use support::{AnyError, device_name};

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.run.device.device()?;
    let default = if device.is_cpu() { Recipe::quick() } else { Recipe::reference() };
    let recipe = args.over(args.base_recipe(default)?);
    if let Err(error) = recipe.validate() {
        // What the flags started from was valid, so it is one of them that is wrong.
        Args::command().error(ErrorKind::ValueValidation, error).exit();
    }
    let data = data::find(&recipe, &args.data)?;
    let mark = if data.source.is_synthetic() { " ON SYNTHETIC IMAGES" } else { "" };

    // From here on there is something to lose.
    let control = Control::default();
    let (handle, stopping) = (control.clone(), AtomicBool::new(false));
    ctrlc::set_handler(move || {
        if stopping.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        handle.stop();
        eprintln!("\nstopping after this step (Ctrl-C again: at once)");
    })?;

    let progress = Progress::new(device_name(&device));
    let trainer =
        Trainer::new(recipe, data).with_device(device).with_observer(progress).with_control(control);
    let (out, outcome) = match &args.run.resume {
        Some(folder) => (folder.clone(), trainer.resume(folder)?),
        None => {
            let out = args.run.out.clone().unwrap_or_else(out_folder::default);
            let outcome = trainer.run(&out)?;
            (out, outcome)
        }
    };
    match outcome {
        Outcome::Completed { metrics } => {
            let best = metrics.iter().map(|row| row.test_top1).fold(0.0, f64::max);
            let out = out.display();
            say(format_args!(
                "done    best test top-1{mark} {best:.4}; metrics, curves and weights are in {out}"
            ));
            Ok(())
        }
        Outcome::Interrupted { checkpoint } => Err(format!(
            "interrupted; wrote {}. Go on with:\n{}",
            checkpoint.display(),
            resume_command(&out, &args.data)
        )
        .into()),
    }
}

/// What to type to go on with the run in `out`.
fn resume_command(out: &Path, data: &DataFlags) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display());
    let mut command = format!("cargo run --release --example cifar100 -- --resume {}", quoted(out));
    if data.hub {
        command = command.replacen("--release", "--release --features hub", 1) + " --hub";
    }
    if data.data_dir != Path::new("./data") {
        command += &format!(" --data-dir {}", quoted(&data.data_dir));
    }
    command
}
