//! What a run shows: a bar with loss, accuracy, rate and time left on a terminal, plain lines elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanCount, ProgressBar, ProgressStyle};
use wrn_sam::train::{EpochMetrics, EvaluateProgress, Observer, Start, StepProgress};

/// Where there is no bar, a line at most so often within an epoch.
const QUIET: Duration = Duration::from_secs(30);

/// Writes a line to stdout. Training goes on even if nobody reads it any more.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A bar for bytes that come, on a terminal.
pub fn download_bar() -> ProgressBar {
    let template = "[{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
    bar().with_style(style(template))
}

fn bar() -> ProgressBar {
    if std::io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ")
}

/// Shows a run on the terminal, or as lines.
pub struct Progress {
    bar: ProgressBar,
    device: String,
    said: Instant,
    train_images: usize,
    batch_size: usize,
    /// What the last epoch took, its evaluation included.
    epoch_seconds: Option<f64>,
}

impl Progress {
    pub fn new(device: String) -> Self {
        let bar = bar().with_style(style("{prefix} [{bar:24}] {pos}/{len}  {msg}"));
        Self { bar, device, said: Instant::now(), train_images: 0, batch_size: 0, epoch_seconds: None }
    }

    /// Of the whole run.
    fn time_left(&self, step: &StepProgress) -> Duration {
        let images = self.train_images.saturating_sub(step.step * self.batch_size);
        let epoch = self.epoch_seconds.unwrap_or(self.train_images as f64 / step.images_per_second);
        let seconds = images as f64 / step.images_per_second + (step.epochs - step.epoch) as f64 * epoch;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Observer for Progress {
    fn on_start(&mut self, start: &Start<'_>) {
        let Start { recipe, source, loader, folder, .. } = start;
        (self.train_images, self.batch_size) = (start.train_images, recipe.batch_size);
        let [parameters, train, test] =
            [start.parameters, start.train_images, start.test_images].map(|n| HumanCount(n as u64));
        say(format_args!("data    {source}; {train} training and {test} test images"));
        say(format_args!(
            "network WRN-{}-{}, {parameters} parameters, {} on {}",
            recipe.depth, recipe.width_factor, recipe.precision, self.device
        ));
        say(format_args!(
            "recipe  {} epochs of {} steps, batch {}, learning rate {}, {} rho {}, seed {}",
            recipe.epochs,
            start.steps,
            recipe.batch_size,
            recipe.learning_rate,
            if recipe.adaptive { "adaptive SAM" } else { "SAM" },
            recipe.rho,
            recipe.seed
        ));
        say(format_args!("batches {loader}"));
        say(format_args!("out     {}", folder.display()));
        if let Some(resumed) = &start.resumed {
            for error in resumed.skipped {
                say(format_args!("warning: passing over a checkpoint: {error}"));
            }
            let (checkpoint, epochs, steps) = (resumed.checkpoint.display(), resumed.epoch, resumed.step);
            say(format_args!("resume  {checkpoint}, after {epochs} epochs and {steps} steps of the next"));
        }
    }

    fn on_step(&mut self, step: &StepProgress) {
        let &StepProgress { epoch, epochs, loss, top1, images_per_second, .. } = step;
        let left = FormattedDuration(self.time_left(step));
        self.bar.set_length(step.steps as u64);
        self.bar.set_prefix(format!("epoch {epoch}/{epochs}"));
        let figures =
            format!("loss {loss:.4}  top-1 {top1:.4}  {images_per_second:.0} images/s, {left} left");
        if self.bar.is_hidden() && self.said.elapsed() >= QUIET {
            self.said = Instant::now();
            say(format_args!("epoch {epoch}/{epochs}  step {}/{}  {figures}", step.step, step.steps));
        }
        self.bar.set_message(figures);
        self.bar.set_position(step.step as u64);
    }

    fn on_evaluate(&mut self, progress: &EvaluateProgress) {
        self.bar.set_length(progress.total as u64);
        self.bar.set_position(progress.images as u64);
        self.bar.set_message("test images");
    }

    fn on_epoch(&mut self, row: &EpochMetrics) {
        (self.said, self.epoch_seconds) = (Instant::now(), Some(row.seconds));
        let EpochMetrics {
            epoch,
            learning_rate,
            train_loss,
            train_top1,
            test_loss,
            test_top1,
            test_top5,
            ..
        } = row;
        let line = format!(
            "epoch {epoch}  lr {learning_rate}  train loss {train_loss:.4} top-1 {train_top1:.4}  test loss \
             {test_loss:.4} top-1 {test_top1:.4} top-5 {test_top5:.4}  {:.1} s, {:.0} images/s",
            row.seconds, row.images_per_second
        );
        self.bar.suspend(|| say(line));
    }
}
