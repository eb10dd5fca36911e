//! Logs: lines of JSON, and event files as TensorBoard itself reads them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wrn_sam_train::{Control, Observer, StepProgress, metrics};

use crate::support::{recipe, trainer};

fn lines(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Stops the run after the step of this number, over all epochs.
struct StopAfter(usize, Control);

impl Observer for StopAfter {
    fn on_step(&mut self, step: &StepProgress) {
        if (step.epoch - 1) * step.steps + step.step == self.0 {
            self.1.stop();
        }
    }
}

/// A run of eight steps, interrupted after the sixth, with TensorBoard's files.
fn interrupted_run(out: &Path) {
    let control = Control::default();
    let observer = StopAfter(6, control.clone());
    let _ = trainer(&recipe())
        .with_tensorboard(true)
        .with_control(control)
        .with_observer(observer)
        .run(out)
        .unwrap();
    let _ = trainer(&recipe()).with_tensorboard(true).resume(out).unwrap();
}

#[test]
fn what_happens_has_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    interrupted_run(&out);
    let lines = lines(&out);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let expected = "start checkpoint step epoch checkpoint checkpoint resume step epoch test test end";
    let mut counted: Vec<_> = expected.split(' ').collect();
    let mut found = events.clone();
    // A checkpoint is written before its epoch's line.
    counted.push("checkpoint");
    counted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, counted, "{events:?}");
    assert!(lines.iter().all(|line| line["time"].as_f64().is_some_and(|time| time > 1e9)));
    assert_eq!((lines[0]["event"].as_str(), lines[0]["recipe"]["depth"].as_u64()), (Some("start"), Some(10)));
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    let epochs: Vec<_> = lines.iter().filter(|line| line["event"] == "epoch").collect();
    assert_eq!(epochs.len(), 2);
    for (line, row) in epochs.iter().zip(&rows) {
        assert_eq!(line["test_top1"].as_f64(), Some(row.eval_top1));
        assert_eq!(line["best"].as_bool(), Some(row.best));
    }
    assert_eq!(std::fs::read_dir(out.join("tensorboard")).unwrap().count(), 2);
}

/// Read by TensorBoard's own reader, if python3 has it.
#[test]
fn tensorboard_reads_the_event_files() {
    let has = Command::new("python3").args(["-c", "import tensorboard"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 does not have tensorboard");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    interrupted_run(&out);
    let script = "import sys, json\n\
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n\
        events = EventAccumulator(sys.argv[1]).Reload()\n\
        tags = events.Tags()['scalars']\n\
        print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags}))";
    let output = Command::new("python3").args(["-c", script]).arg(out.join("tensorboard")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = |tag: &str| -> Vec<u64> {
        let points = found[tag].as_array().unwrap_or_else(|| panic!("no {tag} in {found}"));
        points.iter().map(|point| point[0].as_u64().unwrap()).collect()
    };
    for tag in ["step/loss", "step/grad_norm", "step/learning_rate"] {
        assert_eq!(steps(tag), [1, 2, 3, 4, 5, 6, 7, 8], "{tag}");
    }
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    for (tag, value) in [
        ("epoch/train_loss", rows[1].train_loss),
        ("epoch/test_top1", rows[1].eval_top1),
        ("epoch/learning_rate", rows[1].learning_rate),
    ] {
        assert_eq!(steps(tag), [4, 8], "{tag}");
        assert_eq!(found[tag][1][1].as_f64().unwrap() as f32, value as f32, "{tag}");
    }
    assert_eq!(steps("final_test/model_top1"), [8]);
}
