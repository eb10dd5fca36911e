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
mod overrides;
mod progress;
mod resume;
#[cfg(unix)]
mod signals;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use wrn_sam::candle::Device;
use wrn_sam::collective::{Collective, from_environment};
use wrn_sam::data::Dataset;
use wrn_sam::train::{Control, Error, Lengthening, Outcome, Recipe, Trainer, check_new_folder};

use args::{Args, RunFlags};
use progress::Progress;
use support::{AnyError, WrongFlags, check_precision, device_name, say};

fn main() -> ExitCode {
    let args = Args::parse();
    match from_environment() {
        // The ranks leave each other after the last of them has said how it ended.
        Ok(ranks) => support::end(run(&args, &ranks)),
        Err(error) => support::end(Err(error.into())),
    }
}

fn run(args: &Args, ranks: &Arc<dyn Collective>) -> Result<(), AnyError> {
    let control = Control::default();
    #[cfg(unix)]
    signals::checkpoint_on_usr1(&control)?;
    let is_first = ranks.rank() == 0;
    // The trainer tells the other ranks of its errors; of those before it, this does.
    let prepared = prepare(args, is_first).inspect_err(|error| ranks.fail(&error.to_string()));
    let (device, recipe, data) = prepared?;
    let mark = if data.source.is_synthetic() { " ON SYNTHETIC IMAGES" } else { "" };

    let split = recipe.eval_split();

    // From here on there is something to lose.
    #[cfg(unix)]
    signals::stop_on_the_others(&control)?;
    let progress = Progress::new(device_name(&device));
    let mut trainer =
        Trainer::new(recipe, data).with_device(device.clone()).with_observer(progress).with_control(control);
    trainer = trainer.with_ranks(ranks.clone());
    trainer = trainer.with_tensorboard(args.run.tensorboard).with_card(args.run.card);
    if let Some(weights) = &args.run.init {
        trainer = trainer.with_initial_weights(weights);
    }
    if args.run.keep_past_rates {
        trainer = trainer.with_lengthening(Lengthening::KeepPastRates);
    }
    let (out, outcome) = match &args.run.resume {
        Some(folder) => match trainer.resume(folder) {
            Err(error @ Error::CannotLengthen { .. }) => {
                return Err(format!("{error} (here: --keep-past-rates)").into());
            }
            outcome => (folder.clone(), outcome?),
        },
        None => {
            let out = args.run.out.clone().unwrap_or_else(out_folder::unused);
            let outcome = trainer.run(&out)?;
            (out, outcome)
        }
    };
    match outcome {
        _ if !is_first => Ok(()),
        Outcome::Completed { metrics, .. } => {
            let best = metrics.iter().map(|row| row.eval_top1).fold(0.0, f64::max);
            let out = out.display();
            say(format_args!(
                "done    best {split} top-1{mark} {best:.4}; report.html, metrics, curves and weights are in {out}"
            ));
            Ok(())
        }
        Outcome::Interrupted { checkpoint } => {
            let (checkpoint, command) = (checkpoint.display(), resume::command(&out, args, &device));
            Err(format!("interrupted; wrote {checkpoint}. Go on with:\n{command}").into())
        }
    }
}

/// What is trained, on what and where. Of several ranks only the first makes the run's folder.
fn prepare(args: &Args, is_first: bool) -> Result<(Device, Recipe, Dataset), AnyError> {
    let device = args.run.device.device()?;
    let recipe = args.recipe(if device.is_cpu() { Recipe::quick() } else { Recipe::reference() })?;
    check_precision(recipe.precision, &device)?;
    if is_first {
        check_files(&args.run)?;
    }
    let data = data::find(&recipe, args)?;
    Ok((device, recipe, data))
}

/// Checks the files and folders that flags name, before any data are read.
///
/// # Errors
/// [`WrongFlags`]: the new folder is not empty, or the weights cannot be read. Any other: the folder cannot be listed.
fn check_files(flags: &RunFlags) -> Result<(), AnyError> {
    if let Some(out) = &flags.out {
        check_new_folder(out).map_err(|error| match error {
            Error::FolderNotEmpty { .. } => AnyError::from(WrongFlags::from_error(error)),
            Error::Io { path, source, .. } => {
                format!("cannot create the folder {}: {source}", path.display()).into()
            }
            error => error.into(),
        })?;
    }
    if let Some(weights) = &flags.init {
        let unreadable = |error| WrongFlags(format!("--init {}: {error}", weights.display()));
        std::fs::File::open(weights).map_err(unreadable)?;
    }
    Ok(())
}
