//! Compares methods over several seeds: trains every method with every seed, one run after the other, and writes a table with
//! means, deviations and paired differences, and a figure.
//!
//! ```text
//! cargo run --release --example study -- recipes/study-sam-family.toml --out result/study --data-dir data
//! ```
//!
//! It can be stopped at any moment; the same command goes on where it was. When all runs are there, it only writes the table.

#[allow(dead_code)] // its download bar
#[path = "../cifar100/progress.rs"]
mod progress;
#[cfg(unix)]
#[path = "../cifar100/signals.rs"]
mod signals;
#[path = "../support/mod.rs"]
mod support;

#[path = "../sharpness/measure.rs"]
mod measure;
mod plan;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use wrn_sam::candle::Device;
use wrn_sam::train::{Control, DataChoice, Outcome, Provenance, Recipe, Trainer};

use measure::{Subject, Table};
use plan::{Plan, Run};
use progress::Progress;
use report::{Finished, Report};
use support::{AnyError, DeviceChoice, WrongFlags, device_name, say};

/// Train several methods with several seeds, one run after the other, and compare them.
///
/// A study is a TOML file: `title`, `seeds`, a table `recipe` of keys that all runs share (what it leaves out has the
/// reference's value), for each method an entry `[[method]]` with its `name` and its own keys in `recipe`, and if wanted a
/// table `sharpness` with what the program sharpness takes as flags. The first method is what the others are compared with.
/// Seeds are the outer loop, so that a study that is stopped has whole comparisons.
#[derive(Parser)]
struct Args {
    /// The study
    #[arg(value_name = "STUDY.toml")]
    study: PathBuf,
    /// Folder of the runs, the table and the figure
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the images are: folder or archive of CIFAR, or a folder of pictures; not needed for synthetic images
    #[arg(long, value_name = "PATH", default_value = "data")]
    data_dir: PathBuf,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    let device = args.device.device()?;
    let plan = Plan::read(&args.study).map_err(|error| WrongFlags(error.to_string()))?;
    let runs = plan.runs(&args.out)?;
    let control = Control::default();
    #[cfg(unix)]
    {
        signals::checkpoint_on_usr1(&control)?;
        signals::stop_on_the_others(&control)?;
    }
    let mut report = Report::new(&plan);
    for (number, run) in runs.iter().enumerate() {
        if !run.is_finished()? {
            say(format_args!(
                "run {} of {}: {}, seed {}",
                number + 1,
                runs.len(),
                run.method,
                run.recipe.seed
            ));
            train(run, args, &device, &control)?;
        }
        let sharpness = plan.sharpness.is_some().then(|| sharpness(run, &plan, args, &device)).transpose()?;
        report.add(Finished::read(run, sharpness)?);
        report.write(&args.out)?;
    }
    say(report.table());
    say(format_args!("table.md, runs.csv and accuracy.svg are in {}", args.out.display()));
    Ok(())
}

/// Trains a run to its end, from its last checkpoint where it has one.
fn train(run: &Run, args: &Args, device: &Device, control: &Control) -> Result<(), AnyError> {
    let data = measure::images(&run.recipe, &args.data_dir)?;
    let trainer = Trainer::new(run.recipe.clone(), data)
        .with_device(device.clone())
        .with_observer(Progress::new(device_name(device)))
        .with_control(control.clone());
    let outcome = if Recipe::from_run(&run.folder).is_ok() {
        trainer.resume(&run.folder)
    } else {
        trainer.run(&run.folder)
    };
    match outcome? {
        Outcome::Completed { .. } => Ok(()),
        Outcome::Interrupted { checkpoint } => {
            Err(format!("interrupted; wrote {}. The same command goes on from there", checkpoint.display())
                .into())
        }
    }
}

/// What is measured of a finished run's last weights: from its file, where that is there.
fn sharpness(run: &Run, plan: &Plan, args: &Args, device: &Device) -> Result<Vec<(String, f64)>, AnyError> {
    let path = run.folder.join("sharpness.csv");
    if !path.exists() {
        let mut settings = plan.sharpness.clone().unwrap_or_default();
        settings.data_dir = args.data_dir.clone();
        let subject = Subject::load(&run.model(), &settings, device)?;
        let (name, images) = (&subject.name, subject.images());
        say(format_args!("sharpness of {}, seed {}: {name}, {images} images", run.method, run.recipe.seed));
        let table = Table::measure(&settings, &mut subject.surface()?)?;
        table.print();
        write(&path, &table.to_csv())?;
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let cells = |line: &str| {
        let mut cells = line.split(',');
        Some((cells.next()?.to_string(), cells.next()?.parse().ok()?))
    };
    let values = text.lines().skip(1).map(cells).collect::<Option<Vec<_>>>();
    values.ok_or_else(|| format!("{} is damaged; remove it to measure again", path.display()).into())
}

fn write(path: &Path, text: &str) -> Result<(), AnyError> {
    Ok(wrn_sam::files::write(path, |file| file.write_all(text.as_bytes()))?)
}

impl Run {
    /// Whether it was trained to its end.
    ///
    /// # Errors
    /// The folder holds a run of another recipe.
    fn is_finished(&self) -> Result<bool, AnyError> {
        let Ok(theirs) = Recipe::from_run(&self.folder) else { return Ok(false) };
        let mut ours = self.recipe.clone();
        if ours.data == DataChoice::Auto {
            ours.data = theirs.data;
        }
        let differences = ours.differences(&theirs)?;
        if !differences.is_empty() {
            let list: Vec<_> = differences.iter().map(ToString::to_string).collect();
            let folder = self.folder.display();
            return Err(format!(
                "{folder} has a run of another recipe: {}; take another --out",
                list.join("; ")
            )
            .into());
        }
        if !self.model().exists() {
            return Ok(false);
        }
        let provenance = Provenance::from_weights(&self.model())?;
        Ok(provenance.is_some_and(|provenance| provenance.epoch == self.recipe.epochs))
    }

    /// The weights after the last epoch.
    fn model(&self) -> PathBuf {
        self.folder.join("model.safetensors")
    }
}
