//! What a run shows: a bar with loss, accuracy, rate and time left on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use wrn_sam::train::{
    EpochMetrics, EvalSplit, EvaluateProgress, FinalTest, Observer, Perturb, Recipe, Start, StepProgress,
    Warning,
};

use crate::support::{say, warn};

/// Where there is no bar, the least time between two lines within an epoch.
const QUIET: Duration = Duration::from_secs(30);

/// A bar for a download, on a terminal.
pub fn download_bar() -> ProgressBar {
    bar(None, "[{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left")
}

/// A bar on stderr, not drawn yet; hidden where stderr is no terminal.
fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
    ProgressBar::with_draw_target(length, target).with_style(style)
}

/// Shows a run on the terminal, or as lines.
pub struct Progress {
    bar: ProgressBar,
    /// What the bar counts: the training or the test of an epoch.
    phase: String,
    device: String,
    said: Instant,
    train_images: usize,
    batch_size: usize,
    split: EvalSplit,
    /// What the last epoch took, its evaluation included.
    epoch_seconds: Option<f64>,
}

impl Progress {
    pub fn new(device: String) -> Self {
        let (bar, phase) = (ProgressBar::hidden(), String::new());
        let (said, split) = (Instant::now(), EvalSplit::Test);
        Self { bar, phase, device, said, train_images: 0, batch_size: 0, split, epoch_seconds: None }
    }

    /// Moves the bar. Each phase has its own, so that no frame shows the length of one with the figures of another.
    fn show(&mut self, phase: String, position: usize, length: usize, message: String) {
        if self.phase != phase {
            self.bar.finish_and_clear();
            self.bar = bar(Some(length as u64), "{prefix} [{bar:24}] {pos}/{len}  {msg}")
                .with_prefix(phase.clone())
                .with_message(message.clone());
            self.phase = phase;
        }
        self.bar.set_message(message);
        self.bar.set_position(position as u64);
    }

    /// Of the whole run.
    fn time_left(&self, step: &StepProgress) -> Duration {
        let images = self.train_images.saturating_sub(step.step * self.batch_size);
        let epoch = self.epoch_seconds.unwrap_or(self.train_images as f64 / step.images_per_second);
        let seconds = images as f64 / step.images_per_second + (step.epochs - step.epoch) as f64 * epoch;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// The method in a few words.
fn method(recipe: &Recipe) -> String {
    if recipe.sam().climb.rho == 0.0 {
        return "SGD without SAM".into();
    }
    let adaptive = if recipe.adaptive { "adaptive " } else { "" };
    let over = if recipe.perturb == Perturb::Norms { " over the norms" } else { "" };
    format!("{adaptive}{} rho {}{over}", recipe.method, recipe.rho)
}

impl Observer for Progress {
    fn on_start(&mut self, start: &Start<'_>) {
        let Start { recipe, source, loader, folder, .. } = start;
        (self.train_images, self.batch_size) = (start.train_images, recipe.batch_size);
        let [parameters, train, validation, test] =
            [start.parameters, start.train_images, start.validation_images, start.test_images]
                .map(|n| HumanCount(n as u64));
        match start.validation_images {
            0 => say(format_args!("data    {source}; {train} training and {test} test images")),
            _ => say(format_args!(
                "data    {source}; {train} training, {validation} validation and {test} test images"
            )),
        }
        self.split = recipe.eval_split();
        say(format_args!(
            "network WRN-{}-{}, {parameters} parameters, {} on {}",
            recipe.depth, recipe.width_factor, recipe.precision, self.device
        ));
        say(format_args!(
            "recipe  {} epochs of {} steps, batch {}, learning rate {}, {}, seed {}",
            recipe.epochs,
            start.steps,
            recipe.batch_size,
            recipe.learning_rate,
            method(recipe),
            recipe.seed
        ));
        say(format_args!("batches {loader}"));
        say(format_args!("out     {}", folder.display()));
        if let Some(resumed) = &start.resumed {
            for error in resumed.skipped {
                warn(format_args!("warning: passing over a checkpoint: {error}"));
            }
            let (checkpoint, epochs, steps) = (resumed.checkpoint.display(), resumed.epoch, resumed.step);
            say(format_args!("resume  {checkpoint}, after {epochs} epochs and {steps} steps of the next"));
        }
    }

    fn on_warning(&mut self, warning: &Warning) {
        self.bar.suspend(|| warn(format_args!("warning: {warning}")));
    }

    fn on_step(&mut self, step: &StepProgress) {
        let &StepProgress { epoch, epochs, loss, top1, images_per_second, .. } = step;
        let left = FormattedDuration(self.time_left(step));
        let phase = format!("epoch {epoch}/{epochs}");
        let figures =
            format!("loss {loss:.4}  top-1 {top1:.4}  {images_per_second:.0} images/s, {left} left");
        if self.bar.is_hidden() && self.said.elapsed() >= QUIET {
            self.said = Instant::now();
            say(format_args!("{phase}  step {}/{}  {figures}", step.step, step.steps));
        }
        self.show(phase, step.step, step.steps, figures);
    }

    fn on_evaluate(&mut self, progress: &EvaluateProgress) {
        let phase = format!("epoch {}/{}, {}", progress.epoch, progress.epochs, progress.split);
        self.show(phase, progress.images, progress.total, "images".into());
    }

    fn on_epoch(&mut self, row: &EpochMetrics) {
        (self.said, self.epoch_seconds) = (Instant::now(), Some(row.seconds));
        let EpochMetrics {
            epoch,
            learning_rate,
            train_loss,
            train_top1,
            eval_loss,
            eval_top1,
            eval_top5,
            ..
        } = row;
        let line = format!(
            "epoch {epoch}  lr {learning_rate}  train loss {train_loss:.4} top-1 {train_top1:.4}  {} loss \
             {eval_loss:.4} top-1 {eval_top1:.4} top-5 {eval_top5:.4}  {:.1} s, {:.0} images/s",
            self.split, row.seconds, row.images_per_second
        );
        self.bar.suspend(|| say(line));
    }

    fn on_test(&mut self, test: &FinalTest) {
        let FinalTest { weights, epoch, loss, top1, top5, .. } = test;
        let line = format!(
            "test    {weights}.safetensors of epoch {epoch}: loss {loss:.4} top-1 {top1:.4} top-5 {top5:.4}"
        );
        self.bar.suspend(|| say(line));
    }
}
