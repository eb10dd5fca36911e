//! Replays PyTorch's SAM steps through the real `verify` program: the fixtures in testdata, and those in `golden` of the
//! folder that the environment variable `WRN_SAM_EXTRA` names, where it is set.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Ended, example, root};

const GROUPS: [&str; 13] = [
    "init_eval",
    "logits",
    "loss",
    "grad1",
    "grad1_rms",
    "perturbed",
    "grad2",
    "grad2_rms",
    "after_step1",
    "later",
    "state",
    "update",
    "statistics",
];

fn golden_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")).collect();
    files.sort();
    files
}

/// Runs `verify` on the files, which must all pass, and returns its lines.
#[track_caller]
fn verified(files: &[PathBuf], arguments: &[&str]) -> Vec<Value> {
    let ended = Ended::of(example("verify").args(files).args(arguments)).succeeds();
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), files.len(), "{}", ended.stdout);
    for (line, file) in lines.iter().zip(files) {
        assert_eq!(line["ok"], true, "{line}");
        assert_eq!(line["file"].as_str(), file.to_str());
        for group in GROUPS {
            let error = line[group].as_f64().unwrap_or_else(|| panic!("no {group} in {line}"));
            assert!((0.0..=1e-2).contains(&error), "{line}");
        }
    }
    lines
}

#[test]
fn our_fixtures() {
    let files = golden_files(&root().join("testdata"));
    assert_eq!(files.len(), 3, "SGD, Nesterov with ASAM, and AdamW: {files:?}");
    verified(&files, &[]);
}

/// In float64, from stock candle operations, nothing is left but the files' own rounding to float32, which is largest beside
/// an update.
#[test]
fn our_fixtures_in_float64() {
    let files = golden_files(&root().join("testdata"));
    verified(&files, &["--precision", "f64", "--tolerance", "3e-6"]);
}

/// The lower precisions are the GPU's; on the CPU they are refused, not computed otherwise.
#[test]
fn a_precision_that_the_device_lacks_is_refused() {
    let file = root().join("testdata/wrn10-1_sam_sgd.safetensors");
    for precision in ["tf32", "bf16"] {
        let ended =
            Ended::of(example("verify").arg(&file).args(["--device", "cpu", "--precision", precision]));
        ended.fails(2, &["needs a GPU", "--precision f32"]);
    }
}

#[test]
fn extra_files() {
    let Some(extra) = std::env::var_os("WRN_SAM_EXTRA") else {
        println!("skipped: WRN_SAM_EXTRA, a folder of extra test data, is not set");
        return;
    };
    let folder = Path::new(&extra).join("golden");
    let files = golden_files(&folder);
    assert!(!files.is_empty(), "WRN_SAM_EXTRA has no golden files in {}", folder.display());
    verified(&files, &["--device", "cpu"]);
    // Measures of sharpness are no steps.
    let (measures, family): (Vec<_>, Vec<_>) = golden_files(&folder.join("family"))
        .into_iter()
        .partition(|file| file.ends_with("measures.safetensors"));
    for line in verified(&family, &["--device", "cpu"]) {
        for group in ["update", "statistics"] {
            assert!(line[group].as_f64().is_some_and(|error| error <= 1e-3), "{line}");
        }
    }
    for file in measures {
        let ended = Ended::of(example("verify").arg(&file));
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("`config` is not understood"), "{}", ended.stderr);
    }
}

#[test]
fn what_is_out_of_bounds_fails() {
    let file = root().join("testdata/wrn10-1_sam_sgd.safetensors");
    let ended = Ended::of(example("verify").arg(&file).args(["--tolerance", "1e-12"]));
    let ended =
        ended.fails(1, &["1 of 1 files", "grad1 is off by", "allowed 1.0e-12; most in step1/grad1/f."]);
    let line: Value = serde_json::from_str(&ended.stdout).expect("a line is JSON");
    assert_eq!(line["ok"], false);
}

/// The same file, a value of it changed.
fn changed(key: &str, change: impl Fn(&mut [u8]), folder: &Path) -> PathBuf {
    let bytes = std::fs::read(root().join("testdata/wrn10-1_sam_sgd.safetensors")).expect("a fixture");
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let (begin, end) = metadata.info(key).unwrap_or_else(|| panic!("no {key}")).data_offsets;
    let mut bytes = bytes.clone();
    change(&mut bytes[8 + header..][begin..end]);
    let path = folder.join("changed.safetensors");
    std::fs::write(&path, bytes).expect("a temporary file");
    path
}

#[test]
fn every_group_is_looked_at() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (key, group) in [
        ("init_eval/logits", "init_eval"),
        ("step1/logits", "logits"),
        ("step1/logits2", "logits"),
        ("step1/loss", "loss"),
        ("step1/loss2", "loss"),
        ("step1/grad1/f.8_classification.bias", "grad1"),
        ("step1/perturbed/f.0_convolution.weight", "perturbed"),
        ("step1/grad2/f.4_normalization.weight", "grad2"),
        ("step1/after/f.4_normalization.running_var", "after_step1"),
        ("step2/logits", "later"),
        ("step2/loss2", "later"),
        ("step2/after/f.8_classification.weight", "later"),
        ("final_eval/logits", "later"),
    ] {
        // Not a number, which no comparison may take for a small error.
        let file = changed(key, |bytes| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()), folder.path());
        let ended = Ended::of(example("verify").arg(&file)).fails(1, &[&format!("{group} is off"), key]);
        // A gradient is also measured over all parameters, and the last state also as a whole.
        let groups =
            if group.starts_with("grad") || key == "step2/after/f.8_classification.weight" { 2 } else { 1 };
        assert_eq!(ended.stderr.matches("is off").count(), groups, "{}", ended.stderr);
        let line: Value = serde_json::from_str(&ended.stdout).expect("a line is JSON");
        assert_eq!((&line[group], &line["ok"]), (&Value::Null, &Value::Bool(false)), "{line}");
    }
    let counter = "step1/after/f.4_normalization.num_batches_tracked";
    let file = changed(counter, |bytes| bytes[0] += 1, folder.path());
    Ended::of(example("verify").arg(&file)).fails(1, &["after_step1 is off", counter]);
}

#[test]
fn files_that_are_not_golden_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = root().join("testdata/wrn10-1_sam_sgd.safetensors");
    let whole = std::fs::read(&golden).expect("a fixture");
    let file = folder.path().join("file.safetensors");
    let fails = |contents: &[u8], parts: &[&str]| {
        std::fs::write(&file, contents).expect("a temporary file");
        let ended = Ended::of(example("verify").arg(&file).arg(&golden));
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        for part in [&["file.safetensors: ", "1 of 2 files"], parts].concat() {
            assert!(ended.stderr.contains(part), "no \"{part}\" in:\n{}", ended.stderr);
        }
        // The other file's line is there all the same.
        assert_eq!(ended.stdout.matches("\"ok\":true").count(), 1, "{}", ended.stdout);
    };
    fails(b"", &["not a safetensors file"]);
    fails(b"not a safetensors file at all", &["not a safetensors file"]);
    fails(&whole[..whole.len() - 1], &["not a safetensors file"]);

    let text = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).expect("the text");
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    fails(&text("\"config\"", "\"konfig\""), &["no `config`"]);
    fails(&text(r#"\"rho\""#, r#"\"roh\""#), &["`config` is not understood", "`rho`"]);
    fails(&text(r#"\"base\": \"sgd\""#, r#"\"base\": \"abc\""#), &["`config` is not understood", "abc"]);
    fails(&text(r#"\"depth\": 10"#, r#"\"depth\": 11"#), &["11"]);
    fails(&text(r#"\"width\": 1"#, r#"\"width\": 2"#), &["f.1_block.block.0.block.0_convolution.weight"]);
    fails(&text("\"step1/grad1/f.0_convolution", "\"step1/grad0/f.0_convolution"), &["step1/grad0/f.0"]);
}
