//! Logs of a run: lines of JSON, and TensorBoard's event files.
//!
//! Unlike a run's other files, logs are appended to. What a killed process leaves half written is cut off, or passed over by
//! TensorBoard.

mod crc32c;
mod events;
mod lines;

use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::metrics::{EpochMetrics, EvalSplit, FinalTest};
use crate::observer::{Start, StepProgress, Warning};
use events::EventFile;
use lines::Lines;

/// A step in so many has a line.
const STEPS_PER_LINE: usize = 50;

/// The folder of TensorBoard's files, and the file of lines.
const TENSORBOARD: &str = "tensorboard";
const LINES: &str = "log.jsonl";

/// The logs of a run.
#[derive(Debug)]
pub(crate) struct Logs {
    lines: Lines,
    events: Option<EventFile>,
    split: EvalSplit,
    /// Steps of an epoch.
    steps: usize,
}

impl Logs {
    /// Opens the logs in `folder` and writes how the run begins.
    pub(crate) fn start(folder: &Path, start: &Start<'_>, tensorboard: bool) -> Result<Self> {
        let taken = start.resumed.as_ref().map(|resumed| resumed.epoch * start.steps + resumed.step);
        let events = tensorboard.then(|| EventFile::create(&folder.join(TENSORBOARD), taken)).transpose()?;
        let lines = Lines::open(&folder.join(LINES))?;
        let mut logs = Self { lines, events, split: start.recipe.eval_split(), steps: start.steps };
        logs.lines.write(match &start.resumed {
            None => json!({
                "event": "start",
                "source": start.source.to_string(),
                "train_images": start.train_images,
                "validation_images": start.validation_images,
                "test_images": start.test_images,
                "parameters": start.parameters,
                "steps": start.steps,
                "recipe": start.recipe,
            }),
            Some(resumed) => json!({
                "event": "resume",
                "checkpoint": resumed.checkpoint.display().to_string(),
                "epoch": resumed.epoch,
                "step": resumed.step,
            }),
        })?;
        Ok(logs)
    }

    pub(crate) fn step(&mut self, progress: &StepProgress) -> Result<()> {
        let &StepProgress { epoch, step, steps, learning_rate, step_loss, grad_norm, .. } = progress;
        if let Some(events) = &mut self.events {
            let figures = [
                ("step/loss", step_loss),
                ("step/grad_norm", grad_norm),
                ("step/learning_rate", learning_rate),
            ];
            events.scalars(((epoch - 1) * steps + step) as i64, &figures)?;
        }
        if step.is_multiple_of(STEPS_PER_LINE) || step == steps {
            self.lines.write(json!({
                "event": "step",
                "epoch": epoch,
                "step": step,
                "loss": step_loss,
                "grad_norm": grad_norm,
                "learning_rate": learning_rate,
                "images_per_second": progress.images_per_second,
            }))?;
        }
        Ok(())
    }

    pub(crate) fn epoch(&mut self, row: &EpochMetrics) -> Result<()> {
        let split = self.split;
        let [loss, top1, top5] = ["loss", "top1", "top5"].map(|figure| format!("{split}_{figure}"));
        if let Some(events) = &mut self.events {
            let tags =
                ["train_loss", "train_top1", &loss, &top1, &top5, "learning_rate", "images_per_second"];
            let values = [
                row.train_loss,
                row.train_top1,
                row.eval_loss,
                row.eval_top1,
                row.eval_top5,
                row.learning_rate,
                row.images_per_second,
            ];
            let tags = tags.map(|tag| format!("epoch/{tag}"));
            let figures: Vec<_> = tags.iter().map(String::as_str).zip(values).collect();
            events.scalars((row.epoch * self.steps) as i64, &figures)?;
            events.flush()?;
        }
        self.lines.write(json!({
            "event": "epoch",
            "epoch": row.epoch,
            "learning_rate": row.learning_rate,
            "train_loss": row.train_loss,
            "train_top1": row.train_top1,
            loss: row.eval_loss,
            top1: row.eval_top1,
            top5: row.eval_top5,
            "best": row.best,
            "seconds": row.seconds,
            "images_per_second": row.images_per_second,
        }))
    }

    pub(crate) fn test(&mut self, test: &FinalTest) -> Result<()> {
        let FinalTest { weights, epoch, loss, top1, top5 } = test;
        if let Some(events) = &mut self.events {
            let tags = ["loss", "top1", "top5"].map(|figure| format!("final_test/{weights}_{figure}"));
            let figures: Vec<_> = tags.iter().map(String::as_str).zip([*loss, *top1, *top5]).collect();
            events.scalars((epoch * self.steps) as i64, &figures)?;
            events.flush()?;
        }
        self.lines.write(json!({
            "event": "test", "weights": weights, "epoch": epoch, "loss": loss, "top1": top1, "top5": top5,
        }))
    }

    pub(crate) fn checkpoint(&mut self, path: &Path) -> Result<()> {
        self.lines.write(json!({ "event": "checkpoint", "path": path.display().to_string() }))
    }

    pub(crate) fn warning(&mut self, warning: &Warning) -> Result<()> {
        self.lines.write(json!({ "event": "warning", "text": warning.to_string() }))
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        self.lines.write(json!({ "event": "end" }))
    }
}

/// For `map_err`: a log at `path` could not be written.
fn unwritten(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    Error::io("write", path)
}
